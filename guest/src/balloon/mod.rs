//! The balloon driver of Linux 6.12: drivers/virtio/virtio_balloon.c, flaws included; and in [`dialect`] how it was posted before.
//!
//! [`driver`] has `struct virtio_balloon`, probe and remove; the other modules have one feature each. Two works may run at the same time
//! on two vCPUs, the one that resizes ([`inflate`]) and the one that hints ([`hinting`]), and share no lock.

pub mod balloon_2012;
pub mod compaction;
pub mod dialect;
pub mod driver;
pub mod hinting;
pub mod inflate;
pub mod oom;
pub mod reporting;
pub mod shrinker;
pub mod stats;

#[cfg(test)]
mod tests;
