//! Virtio, the driver's side: Linux's drivers/virtio.
//!
//! [`device`] is the core (virtio.c: features, status, config interrupts), [`mmio`] the transport (virtio_mmio.c), [`ring`] the queues
//! (virtio_ring.c). [`bus`] binds the driver. The machine has one virtio device, so the core's `struct virtio_device` has a fixed place.

pub mod bus;
pub mod device;
pub mod field;
pub mod mmio;
pub mod ring;
#[cfg(test)]
pub(crate) mod testing;

/// Why a step failed; Linux's numbers have names here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// EINVAL: the device offers something that the driver cannot work with.
    Inval,
    /// EIO: the queue is broken.
    Io,
    /// ENODEV: no device, or it refuses the features.
    NoDev,
    /// ENOENT: the queue does not exist.
    NoEnt,
    /// ENOMEM: no memory for the driver's own structures.
    NoMem,
    /// ENOSPC: the ring is full, too small, or no block was left to give.
    NoSpc,
    /// ENXIO: a version of the transport that the driver does not know.
    NxIo,
}
