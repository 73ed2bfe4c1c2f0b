//! The virtio-mmio transport, version 2 (VIRTIO 1.2 §4.2.2) and device status (§2.1).

/// Register offsets from the device's base, in bytes (VIRTIO 1.2 §4.2.2, table 4.1).
pub mod mmio {
    /// Reads `0x74726976`, "virt".
    pub const MAGIC_VALUE: u64 = 0x000;
    /// Reads 2.
    pub const VERSION: u64 = 0x004;
    /// Reads the device type; 5 is the memory balloon (§5.5.1).
    pub const DEVICE_ID: u64 = 0x008;
    /// Reads the vendor.
    pub const VENDOR_ID: u64 = 0x00c;
    /// Reads 32 feature bits, chosen by [`DEVICE_FEATURES_SEL`].
    pub const DEVICE_FEATURES: u64 = 0x010;
    /// Selects the word of [`DEVICE_FEATURES`].
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    /// Takes 32 accepted feature bits.
    pub const DRIVER_FEATURES: u64 = 0x020;
    /// Selects the word of [`DRIVER_FEATURES`].
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    /// Selects the queue that the registers below speak of.
    pub const QUEUE_SEL: u64 = 0x030;
    /// Reads the largest size of the selected queue, 0 if there is none.
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    /// Takes the size of the selected queue.
    pub const QUEUE_SIZE: u64 = 0x038;
    /// 1 while the selected queue is live.
    pub const QUEUE_READY: u64 = 0x044;
    /// A write of a queue's index tells the device of new buffers.
    pub const QUEUE_NOTIFY: u64 = 0x050;
    /// Reads the pending interrupt causes.
    pub const INTERRUPT_STATUS: u64 = 0x060;
    /// A write clears the causes given.
    pub const INTERRUPT_ACK: u64 = 0x064;
    /// Device status; a write of 0 resets.
    pub const STATUS: u64 = 0x070;
    /// Descriptor area, low word.
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    /// Descriptor area, high word.
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    /// Driver area (available ring), low word.
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    /// Driver area, high word.
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    /// Device area (used ring), low word.
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    /// Device area, high word.
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    /// Reads the length of a region of shared memory, low word; all ones if there is no such region.
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    /// The same, high word.
    pub const SHM_LEN_HIGH: u64 = 0x0b4;
    /// Changes whenever the configuration space may have.
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    /// The device's own configuration space starts here.
    pub const CONFIG: u64 = 0x100;

    /// The value of [`MAGIC_VALUE`].
    pub const MAGIC: u32 = 0x7472_6976;
    /// The value of [`VERSION`].
    pub const VERSION_2: u32 = 2;
}

/// Device status bits (VIRTIO 1.2 §2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up; the device may work.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device is broken until it is reset.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The guest has given up.
    pub const FAILED: u32 = 128;
}

/// Interrupt causes (VIRTIO 1.2 §4.2.2, InterruptStatus).
pub mod isr {
    /// The device has used a buffer.
    pub const USED_BUFFER: u32 = 1;
    /// The configuration has changed.
    pub const CONFIG_CHANGE: u32 = 2;
}

/// Feature bits that belong to no device type (VIRTIO 1.2 §6).
pub mod feature {
    /// Descriptors may hold a table of descriptors.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Notification suppression by index.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device sits behind an IOMMU or needs the platform's DMA.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}
