//! Dirty tracking: who wrote a page since it was last looked at.
//!
//! Four records stand here, each an object of its own, since real losses hide between them: [`accel::Accelerator`] keeps K (the accelerator's
//! log with its write protection) and S (the copy that GET makes), [`physmem::DirtyMemory`] is D, [`vhost::VhostLog`] is V. What is still to
//! be sent (B) belongs to [`crate::migration::ram`]. All are [`bitmap::DirtyBitmap`]s, one bit per 4 KiB
//! page, by guest-physical address but for D, whose index is the ram_addr ([`ram_list`]).

pub mod accel;
pub mod bitmap;
mod collect;
pub mod command;
pub mod limit;
mod options;
pub mod physmem;
pub mod ram_list;
pub(crate) mod reaper;
pub mod ring;
mod slots;
mod tcg;
#[cfg(test)]
pub(crate) mod testing;
pub mod vhost;
