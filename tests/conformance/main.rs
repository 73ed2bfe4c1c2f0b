//! The requirements of VIRTIO on a balloon's driver and device, a test for each sentence.
//!
//! The rows (`rows`) are those of our own list: C1 to C52 are the balloon's, G1 to G15 the transport's. A test's name begins with its row's.
//! **Driver**: the guest's image, as machine code, against a device that only watches (`tester`, `guest`). **Device**: the host's balloon
//! device through its registers and rings (`device::rig`), in both profiles. Both meet in the runs of all scenarios (`worlds`). What a
//! requirement is about is looked at from the other side: what was exposed, stored to a register, written to memory.
//!
//! Linux's driver and the real devices break some of these rules, and ours break them with them: [`known_violation`] asserts that they do.

mod device;
mod driver;
mod guest;
mod meta;
mod rows;
mod tester;
mod worlds;

/// What a check found: that the rule is kept, or how it is broken.
type Check = Result<(), String>;

/// Turns a fact into a check's result.
fn ensure(kept: bool, broken: impl FnOnce() -> String) -> Check {
    if kept { Ok(()) } else { Err(broken()) }
}

/// Asserts that a requirement is broken, as the real driver or device breaks it, and in that way. `source` says where that is known from.
///
/// # Panics
/// When the requirement is kept: then the model has changed, and the row's result with it.
#[track_caller]
fn known_violation(row: &str, source: &str, how: &str, check: impl FnOnce() -> Check) {
    match check() {
        Ok(()) => panic!("{row} is kept, though by {source} it is not"),
        Err(found) => assert!(found.contains(how), "{row} is broken otherwise than {source} says: {found}"),
    }
}
