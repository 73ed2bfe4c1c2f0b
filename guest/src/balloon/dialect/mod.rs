//! The balloon driver's other interfaces: as they were posted before, or beside, the merged driver.
//!
//! `driver` says which one drives the device.
//!
//! v6, v8 and v10 answer the host's requests for unused pages: `request` has their state, the queue and the responses, `setup` probe and remove,
//! `ranges` how they tell inflated pages, `v10` how v10 finds the unused ones.
//!
//! The others hint in rounds. `send_free_pages` is the part of a round between start and stop; where the blocks come from is in `mm::free_page_list`
//! and `mm::pfn_walk`. Differs: the round itself, an id that opens it and one that closes it, is the merged driver's for all of them. As posted v13's device asked by
//! returning a buffer that the driver had primed the queue with, v16's by a command in a control queue, v33's by a bit in the configuration; none of the three had an
//! id, so that a late answer passed for a new one. What differs between them, and is modelled, is which blocks are told, how, and under which lock.

mod alternatives;
mod pfn_walk;
pub mod ranges;
pub mod request;
mod setup;
mod v10;
mod v13;
mod v16;
mod v33;

use wire::dialect::Dialect;
use wire::switch::correct;

use crate::balloon::driver::{VIRTIO_BALLOON_DRIVER, VirtioBalloon};
use crate::balloon::hinting;
use crate::kernel::switch;
use crate::mm;
use crate::virtio::Errno;
use crate::virtio::device::VirtioDriver;

/// The driver of the interface that this kernel speaks.
pub fn driver() -> &'static VirtioDriver {
    match switch::dialect() {
        Dialect::V6 | Dialect::V8 | Dialect::V10 => &setup::REQUEST_DRIVER,
        Dialect::Hint
        | Dialect::V13
        | Dialect::V16
        | Dialect::V33
        | Dialect::V33Thread
        | Dialect::V33Pop
        | Dialect::V33Alloc
        | Dialect::PfnWalk
        | Dialect::HostWalk
        | Dialect::Report
        | Dialect::Balloon2012 => &VIRTIO_BALLOON_DRIVER,
    }
}

/// Tells the device what is free, as the dialect does, until there is no more or the device wants no more.
///
/// A guest that poisons free pages looks at them when it allocates them: a host that leaves such a page out makes it look corrupt. [v20] to [v27] hinted nothing
/// then; v33 as posted tells the host what the poison is, and leaves the rest to it. What is allocated before it is hinted has been looked at already.
pub(super) fn send_free_pages(vb: VirtioBalloon) -> Result<(), Errno> {
    let dialect = switch::dialect();
    if dialect.hints_stay_free() && mm::page_poisoning_enabled() && switch::corrected(correct::POISON_HINTED) {
        return Ok(());
    }
    match dialect {
        Dialect::V13 => v13::report_free_page(vb),
        Dialect::V16 => v16::report_free_page(vb),
        Dialect::V33 => v33::report_free_page_func(vb),
        Dialect::V33Thread => alternatives::send_threaded(vb),
        Dialect::V33Pop => alternatives::send_popped(vb),
        Dialect::V33Alloc => alternatives::send_allocated(vb),
        Dialect::PfnWalk => pfn_walk::report_unreferenced(vb),
        Dialect::Hint | Dialect::V6 | Dialect::V8 | Dialect::V10 | Dialect::HostWalk | Dialect::Report | Dialect::Balloon2012 => {
            hinting::send_free_pages(vb)
        }
    }
}

/// Whether the driver wants an interrupt for used buffers of the hint queue: it waits for its arrays.
pub(super) fn waits_for_arrays() -> bool {
    matches!(switch::dialect(), Dialect::V33 | Dialect::V33Thread | Dialect::V33Pop)
}

/// Whether the dialect's series had not yet come to [v29], which gave the stop id a buffer of its own: those that walk the lists with a callback.
pub(super) fn posted_before_v29() -> bool {
    matches!(switch::dialect(), Dialect::V13 | Dialect::V16)
}

#[cfg(test)]
mod tests;
