//! The kernel's data segment: where global objects live.
//!
//! Globals have fixed addresses in the first MiB instead of places in the image's `.bss`: the same code then runs over a unit test's
//! memory, and no compiler moves what an observer looks at. The VMM hands over a zeroed first MiB, at a reset, too, so every object starts as zeros.
//! The whole first MiB is reserved; the page allocator never sees it.
//!
//! ```text
//! 0x10000  kernel   0x40000  driver   0x60000  workload   0x80000  boot stacks (one per vCPU)   0x90000  end
//! ```

use wire::platform::MAX_VCPUS;

use crate::arch::STACK_BYTES;

/// Start of the kernel's own globals.
pub const KERNEL_DATA: u64 = 0x1_0000;
/// Start of the drivers' globals (`crate::virtio`, `crate::balloon`).
pub const DRIVER_DATA: u64 = 0x4_0000;
/// Start of the workload's globals (`crate::workload`).
pub const WORKLOAD_DATA: u64 = 0x6_0000;
/// The vCPUs' first stacks; their threads become the idle threads.
pub const BOOT_STACKS: u64 = 0x8_0000;

const CPUS: u64 = MAX_VCPUS as u64;

/// Lays objects out one behind the other: `name: bytes`, each 64-byte aligned.
macro_rules! layout {
    (@at $at:expr;) => { const KERNEL_DATA_END: u64 = $at; };
    (@at $at:expr; $(#[$doc:meta])* $name:ident: $bytes:expr, $($rest:tt)*) => {
        $(#[$doc])*
        pub const $name: u64 = $at;
        layout!{@at ($name + $bytes).next_multiple_of(64); $($rest)*}
    };
}

/// Bytes of a vCPU's segment descriptors.
pub const GDT_BYTES: u64 = 24;
/// Bytes of a vCPU's interrupt descriptors: vectors 0..64.
pub const IDT_BYTES: u64 = 64 * 16;
/// Bytes of a vCPU's two pseudo-descriptors.
pub const TABLE_POINTER_BYTES: u64 = 32;

layout! {@at KERNEL_DATA;
    /// Segment descriptors, [`GDT_BYTES`] per vCPU.
    GDT: CPUS * GDT_BYTES,
    /// Interrupt descriptors, [`IDT_BYTES`] per vCPU.
    IDT: CPUS * IDT_BYTES,
    /// Pseudo-descriptors, [`TABLE_POINTER_BYTES`] per vCPU.
    TABLE_POINTER: CPUS * TABLE_POINTER_BYTES,
    /// u64: 1 once vCPU 0 has set up what all share.
    BOOTED: 8,
    /// u64: vCPUs of this machine.
    NR_CPUS: 8,
    /// Interrupt handlers: 64 addresses of `fn(u64)`.
    IRQ_HANDLERS: 64 * 8,
    /// Run queues, `sched::RQ_BYTES` per vCPU.
    RUN_QUEUES: CPUS * 64,
    /// Text of the panic.
    PANIC_TEXT: 512,
    /// The workqueues, `workqueue::WQ_BYTES` each.
    WORKQUEUES: 2 * 64,
    /// Zones, `zone::ZONE_BYTES` each.
    ZONES: 2 * 2048,
    /// Per-CPU page lists, `pcp::PCP_BYTES` per zone and vCPU.
    PCP: 2 * CPUS * 256,
    /// Migratetype of each pageblock of the largest memory, a byte each.
    PAGEBLOCK_TYPES: wire::platform::RAM_BYTES_MAX >> (wire::platform::PAGE_SHIFT + wire::layout::PAGEBLOCK_ORDER),
    /// The memory manager's scalars, see `mm::globals`.
    MM: 256,
    /// Event counters, a u64 each, see `mm::stats`.
    VM_EVENTS: 16 * 8,
    /// Shrinkers, `shrinker::SHRINKER_BYTES` each, and their lock.
    SHRINKERS: 64 + 4 * 64,
    /// OOM notifiers, `oom::NOTIFIER_BYTES` each, and their lock.
    OOM_NOTIFIERS: 64 + 4 * 32,
    /// The reporting device and its batch, see `mm::page_reporting`.
    PAGE_REPORTING: 192 + 16 * wire::balloon::queue_size::REPORTING as u64,
    /// The balloon's `movable_operations`: `mapping` of a balloon page holds this address.
    BALLOON_MOPS: 64,
    /// u64: see `mm::fail_page_alloc`.
    FAIL_PAGE_ALLOC: 8,
    /// The workqueue that does not freeze.
    SYSTEM_WORKQUEUE: 64,
    /// The LRU's lock and list, see `mm::swap`.
    LRU: 64,
    /// The globals of the 2012 balloon compaction, see `mm::balloon_2012`.
    BALLOON_2012: 64,
    /// The operations of its mapping.
    BALLOON_AOPS: 64,
    /// Whether compaction found nothing in a pageblock, a byte each.
    PAGEBLOCK_SKIP: wire::platform::RAM_BYTES_MAX >> (wire::platform::PAGE_SHIFT + wire::layout::PAGEBLOCK_ORDER),
    /// List heads of a compaction, `compaction::LISTS_BYTES` per vCPU.
    COMPACT_LISTS: CPUS * crate::mm::compaction::LISTS_BYTES,
    /// u64 per vCPU: 1 while it does not check whether its context may sleep, see `sched::without_sleep_checks`.
    NO_SLEEP_CHECKS: CPUS * 8,
}

const _: () = assert!(KERNEL_DATA_END <= DRIVER_DATA);
const _: () = assert!(BOOT_STACKS.is_multiple_of(STACK_BYTES));
const _: () = assert!(BOOT_STACKS + CPUS * STACK_BYTES <= wire::platform::IMAGE);
const _: () = assert!(KERNEL_DATA >= wire::platform::KERNEL_INFO + 4096);
