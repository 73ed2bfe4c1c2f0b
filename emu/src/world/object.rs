//! What moves use, in classes: which bit of [`crate::search::system::Objects`] stands for what.
//!
//! "Shared" is what many may do in any order, "changed" is what nobody else may do beside it. So a class can also be the relation of two
//! kinds of moves: of [`STORES`], each store has a share, and who looks at all pages at once has it for itself.

use host::event::LockId;
use wire::platform::MAX_VCPUS;

/// Whether the VM runs.
pub(super) const VM: u64 = 1 << 4;
/// The migration thread's own state, and the engine's.
pub(super) const MIGRATION: u64 = 1 << 5;
/// B, and N.
pub(super) const BITMAP: u64 = 1 << 6;
/// The records of dirtiness below B as a whole: a store has a share; to collect, to merge, to start or to stop the log has all.
pub(super) const RECORDS: u64 = 1 << 7;
/// The wire.
pub(super) const WIRE: u64 = 1 << 8;
/// The destination.
pub(super) const DESTINATION: u64 = 1 << 9;
/// The balloon device: registers, queues, its part in hinting, its bottom halves.
pub(super) const DEVICE: u64 = 1 << 10;
/// Commands for the main loop, and where it is.
pub(super) const MONITOR: u64 = 1 << 11;
/// Time: all that could look at it has a share, who lets it pass has all.
pub(super) const CLOCK: u64 = 1 << 12;
/// Injections, and what constraints wait for.
pub(super) const ORDER: u64 = 1 << 13;
/// Guest memory as a whole: a store has a share, who reads all of it has all.
pub(super) const STORES: u64 = 1 << 14;
/// Heads of the queues that are on their way.
pub(super) const HEADS: u64 = 1 << 15;
/// The number of hints.
pub(super) const HINTS: u64 = 1 << 16;
/// Stores that are recorded and not made: each has a share, who waits for them has all.
pub(super) const IN_STORE: u64 = 1 << 17;
/// Whether a migration runs.
pub(super) const STATUS: u64 = 1 << 18;
/// Pages, and what is known of each: who lists those that he used has a share, who changed more than are listed has all.
pub(super) const LISTED: u64 = 1 << 19;

/// The channels beside the main one: what their senders have to do, and what is on its way.
pub(super) const CHANNELS: u64 = 1 << 20;

/// A host lock: the first four have the lowest bits, the others those below the vCPUs'. Who waits for all of RCU's sections looks at every vCPU.
pub(super) const fn lock(lock: LockId) -> u64 {
    if matches!(lock, LockId::Rcu) {
        return u64::MAX;
    }
    let number = lock as u64;
    if number < 4 { 1 << number } else { 1 << (24 + number - 4) }
}

/// A vCPU's registers, and what it is about to do.
pub(super) const fn vcpu(cpu: usize) -> u64 {
    assert!(cpu < MAX_VCPUS);
    1 << (32 + cpu)
}

/// The interrupts that wait for a vCPU.
pub(super) const fn interrupts(cpu: usize) -> u64 {
    assert!(cpu < MAX_VCPUS);
    1 << (48 + cpu)
}

const _: () = assert!(LockId::ALL.len() <= 12 && MAX_VCPUS <= 16);
