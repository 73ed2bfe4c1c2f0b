//! The balloon driver's other interfaces: as they were posted, and never merged.
//!
//! [`driver`] says which one drives the device. v6 and v8 answer the host's requests for unused pages: [`request`] has their state, the queue and
//! the responses, [`setup`] probe and remove, [`ranges`] how they tell inflated pages.

pub mod ranges;
pub mod request;
pub mod setup;

use wire::dialect::Dialect;

use crate::balloon::driver::VIRTIO_BALLOON_DRIVER;
use crate::kernel::switch;
use crate::virtio::device::VirtioDriver;

/// The driver of the interface that this kernel speaks.
pub fn driver() -> &'static VirtioDriver {
    match switch::dialect() {
        Dialect::Hint => &VIRTIO_BALLOON_DRIVER,
        Dialect::V6 | Dialect::V8 => &setup::REQUEST_DRIVER,
        dialect @ (Dialect::V10
        | Dialect::V13
        | Dialect::V16
        | Dialect::V33
        | Dialect::V33Thread
        | Dialect::V33Pop
        | Dialect::V33Alloc
        | Dialect::PfnWalk
        | Dialect::HostWalk
        | Dialect::Report
        | Dialect::Balloon2012) => panic!("no balloon driver speaks {}", dialect.name()),
    }
}

#[cfg(test)]
mod tests;
