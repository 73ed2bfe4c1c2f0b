//! The balloon device (VIRTIO 1.2 §5.5): inflate, deflate, statistics, free page hints, free page reports.
//!
//! Behaviour is QEMU's, hw/virtio/virtio-balloon.c, or Firecracker's, src/vmm/src/devices/virtio/balloon/device.rs, or Cloud Hypervisor's,
//! virtio-devices/src/balloon.rs, by [`Profile`].
//! [`device`] is the device and its registers. [`hinting`] is the state of free page hinting and what migration does to it; [`iothread`]
//! consumes the hint queue, whose elements [`protocol`] takes apart, with [`request`] for the interfaces in which the host asks for them; with [`walk`] it looks by itself. [`main_loop`] serves the other queues with [`inflate`], [`stats`] and [`reporting`]; [`partial`] is for hosts
//! whose pages are larger than the balloon's; [`unplug`] is its end. [`vmstate`] is what of it goes to a migration's destination.

pub mod device;
pub mod hinting;
pub mod inflate;
pub mod iothread;
pub mod main_loop;
pub mod partial;
pub mod protocol;
pub mod reporting;
pub mod request;
pub mod stats;
pub mod unplug;
pub mod vmstate;
pub mod walk;

#[cfg(test)]
mod profile_tests;
#[cfg(test)]
mod ring_tests;
#[cfg(test)]
mod testing;

pub use device::{BalloonDevice, BalloonOptions, IothreadOption, Machine, Profile};
pub use protocol::{Numbering, Protocol};
pub use request::{Format, Words};
pub use vmstate::{LoadedDevice, SavedDevice};
pub use walk::Walk;
