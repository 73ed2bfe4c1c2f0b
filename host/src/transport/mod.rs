//! The virtio transport: a virtio-mmio v2 register file and split virtqueues as a device sees them.
//!
//! [`mmio`] is what a vCPU reads and writes (VIRTIO 1.2 §4.2.2); [`queue`] is what the device's threads work on, over rings that the guest's
//! machine code fills. Behaviour beyond the specification is QEMU's: hw/virtio/virtio-mmio.c, hw/virtio/virtio.c; `firecracker.rs` is the other register file.

mod firecracker;
pub mod mmio;
pub mod queue;

pub use mmio::{Make, TransportOptions, VirtioMmio, Written};
pub use queue::{Element, QueueError, SavedQueue, Segment, Used, VirtQueue};
