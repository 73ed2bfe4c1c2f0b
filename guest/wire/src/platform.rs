//! The machine: physical memory map, boot information, interrupt controller, clock.
//!
//! Guest-physical and guest-virtual addresses are the same: the emulator's TLB is filled by a hook, there are no page tables.
//! Page 0 is never mapped, so that a null access faults. The image's text is executable and read-only, all other memory is not executable.

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Page size, bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Most vCPUs of a machine: a mailbox page each.
pub const MAX_VCPUS: usize = 4;

/// Where the VMM leaves [`BootInfo`].
pub const BOOT_INFO: u64 = 0x1000;
/// Where the task mailbox of vCPU 0 lies ([`crate::task`]); one page per vCPU.
pub const MAILBOX: u64 = 0x2000;
/// Where the guest leaves [`crate::layout::KernelInfo`].
pub const KERNEL_INFO: u64 = 0xa000;
/// Where the image is loaded.
pub const IMAGE: u64 = 0x10_0000;
/// Where the image's place ends, whatever the image takes of it: what follows is where it was when the kernel grows. The VMM fills the rest with [`IMAGE_FILL`].
pub const IMAGE_END: u64 = 0x14_0000;
/// What stands behind the image up to [`IMAGE_END`]: `int3`.
pub const IMAGE_FILL: u8 = 0xcc;
/// Behind the image and the memory map of any but a huge machine.
pub const IMAGE_END_MAX: u64 = 0x40_0000;
/// Smallest memory that the guest boots in: the image, its memory map, and one free block of the largest order.
pub const RAM_BYTES_MIN: u64 = 8 << 20;
/// Largest memory: MMIO lies above.
pub const RAM_BYTES_MAX: u64 = 2 << 30;

/// The virtio-mmio device's registers; [`crate::virtio::mmio`].
pub const VIRTIO_MMIO: u64 = 0xfeb0_0000;
/// Size of the device's window, bytes.
pub const VIRTIO_MMIO_BYTES: u64 = 0x200;
/// Monotonic clock, nanoseconds, 64 bit, as two 32-bit reads (low word first; the read of it latches the high word).
pub const CLOCK: u64 = 0xfed0_00f0;
/// A write of any 32-bit value asks for a reset of the whole machine (ACPI 6.5 §4.8.3.6, reset register). Memory keeps what it holds.
pub const RESET: u64 = 0xfed0_0cf8;
/// The local interrupt controller of the vCPU that accesses it.
pub const LAPIC: u64 = 0xfee0_0000;
/// Size of the controller's window, bytes.
pub const LAPIC_BYTES: u64 = 0x1000;

/// Local interrupt controller registers (Intel SDM vol. 3 §11.4.1 offsets; only these).
pub mod lapic {
    /// End of interrupt. Accepted and without effect: interrupts are edges here.
    pub const EOI: u64 = 0x0b0;
    /// A write of a vector sends it to the vCPU in [`ICR_HIGH`].
    pub const ICR_LOW: u64 = 0x300;
    /// Destination vCPU in bits 24..31.
    pub const ICR_HIGH: u64 = 0x310;
    /// One-shot timer: nanoseconds until [`super::vector::TIMER`]; 0 stops it.
    pub const TIMER_INITIAL_COUNT: u64 = 0x380;
}

/// Interrupt vectors.
pub mod vector {
    /// The local timer.
    pub const TIMER: u8 = 0x20;
    /// Another vCPU wants this one to look at its run queue.
    pub const RESCHEDULE: u8 = 0x21;
    /// The task mailbox has a new operation.
    pub const MAILBOX: u8 = 0x22;
    /// The balloon device; delivered to vCPU 0.
    pub const VIRTIO: u8 = 0x30;
}

/// What the VMM tells the guest before its first instruction, at [`BOOT_INFO`]. Every vCPU starts at the image's entry with its
/// index in RDI, a usable stack is the guest's own affair, interrupts are disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`BootInfo::MAGIC`].
    pub magic: u64,
    /// Size of memory, which starts at 0.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Which interface of the balloon driver to use: [`crate::dialect::Dialect::number`].
    pub dialect: u32,
    /// Feature bits that the driver does not accept although it knows them.
    pub features_refused: u64,
    /// Kernel parameters, bits of [`boot_flag`].
    pub flags: u64,
    /// Flaws of the posted interfaces that are corrected, bits of [`crate::switch::correct`].
    pub corrected: u64,
    /// Bugs that are switched on, bits of [`crate::switch::fault`].
    pub faults: u64,
    /// Addresses that an array of hints holds (drivers that send arrays).
    pub hint_array: u64,
}

impl BootInfo {
    /// "lostpage" in ASCII, little-endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"lostpage");
}

const _: () = assert!(size_of::<BootInfo>() == 64);

/// Bits of [`BootInfo::flags`].
pub mod boot_flag {
    /// `page_poison=1`: freed pages are filled with 0xaa and checked on allocation.
    pub const PAGE_POISON: u64 = 1 << 0;
    /// `init_on_alloc=1`: allocated pages are zeroed.
    pub const INIT_ON_ALLOC: u64 = 1 << 1;
    /// `init_on_free=1`: freed pages are zeroed.
    pub const INIT_ON_FREE: u64 = 1 << 2;
    /// The driver numbers its queues as the specification does, gaps and all.
    pub const SPEC_QUEUES: u64 = 1 << 3;
    /// The driver is a module that a task loads later, by `wire::task::op::BIND`.
    pub const LATE_PROBE: u64 = 1 << 4;
    /// The driver reuses what it deflates without telling, unless MUST_TELL_HOST is negotiated.
    pub const DEFLATE_SILENTLY: u64 = 1 << 5;
    /// The driver hints each block as a chain of two descriptors.
    pub const HINT_IN_TWO: u64 = 1 << 6;
    /// The driver puts a round's first block into the chain of the round's id.
    pub const START_WITH_HINT: u64 = 1 << 7;
    /// The id that ends a round is 2 bytes long: a driver that misbehaves.
    pub const SHORT_STOP_ID: u64 = 1 << 8;
}
