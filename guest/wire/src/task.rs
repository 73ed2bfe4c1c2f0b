//! The task mailbox: how a scenario makes the guest's own code do something.
//!
//! One page per vCPU at [`crate::platform::MAILBOX`]: a ring of operations that the vCPU's task thread performs in order. The VMM
//! writes an operation at `head % SLOTS`, then raises `head`, then [`crate::platform::vector::MAILBOX`]; the guest raises `tail`
//! after each. The VMM's writes are device writes like any other: they are marked dirty.

/// Header of a mailbox page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct MailboxHeader {
    /// Operations written since boot; the VMM writes it.
    pub head: u64,
    /// Operations performed since boot; the guest writes it.
    pub tail: u64,
}

/// Size of the header, bytes.
pub const HEADER_BYTES: u64 = 16;
/// Operations that fit.
pub const SLOTS: u64 = 120;
/// Size of an operation, bytes.
pub const OP_BYTES: u64 = 32;

const _: () = assert!(HEADER_BYTES + SLOTS * OP_BYTES <= crate::platform::PAGE_SIZE);

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TaskOp {
    /// One of [`op`].
    pub code: u32,
    /// Which allocation of this guest is meant, 0..[`NAMES`]; shared by all vCPUs.
    pub name: u32,
    /// First argument.
    pub a: u64,
    /// Second argument.
    pub b: u64,
    /// Index of the operation in the scenario, for the trace.
    pub id: u64,
}

const _: () = assert!(size_of::<TaskOp>() as u64 == OP_BYTES);

/// Allocations that tasks may hold by name at a time.
pub const NAMES: usize = 64;

/// Operation codes.
pub mod op {
    /// Nothing.
    pub const NOP: u32 = 0;
    /// `name` := a block of order `a`, from `alloc_pages(GFP_HIGHUSER_MOVABLE)`, with direct reclaim: shrinkers, then the OOM notifiers;
    /// with `b` = 1 from `alloc_pages(GFP_ATOMIC)`.
    pub const ALLOC: u32 = 1;
    /// Frees `name`; with `a` = 1 from the interrupt that tells of the operation, not from the task.
    pub const FREE: u32 = 2;
    /// Stores the 8 bytes of `b` at byte offset `a` of `name`.
    pub const WRITE: u32 = 3;
    /// Allocates `a` single pages and stores 8 bytes (`b` plus the page's frame number shifted left by 8) at the start of each; keeps them on `name`'s list.
    pub const FILL: u32 = 4;
    /// Frees the pages that [`FILL`] keeps on `name`'s list, in the order of allocation; with `a` above 1 each `a`th, from the first on.
    pub const RELEASE: u32 = 5;
    /// `drop_caches`: runs the registered shrinkers for `a` pages.
    pub const SHRINK: u32 = 6;
    /// Runs the OOM notifiers once.
    pub const OOM: u32 = 7;
    /// Sleeps `a` nanoseconds.
    pub const SLEEP: u32 = 8;
    /// Loads the byte at byte offset `a` of `name`; panics when it is not the low byte of `b`.
    pub const VERIFY: u32 = 9;
    /// `a` times: allocates a page of order 0..3, writes it, frees an older one; `b` seeds the choice. Leaves nothing allocated.
    pub const CHURN: u32 = 10;
    /// Frees every balloon resource: the driver's remove.
    pub const UNBIND: u32 = 11;
    /// Probes the driver again.
    pub const BIND: u32 = 12;
    /// Makes the driver expose its start buffer once more, behind `a` hints from now: a driver that misbehaves.
    pub const REPEAT_START: u32 = 13;
    /// Puts the system to sleep as far as the balloon sees of it: works are parked, the driver takes its device down.
    pub const FREEZE: u32 = 18;
    /// Wakes it again.
    pub const RESTORE: u32 = 19;
    /// The machine goes down: the device's queues are broken, the device is reset.
    pub const SHUTDOWN: u32 = 20;
    /// Compares the memory that is free, and the memory that there is, with what `a` = 0 noted: less is said with
    /// [`crate::debug::MISSING`].
    pub const MEMINFO: u32 = 21;
    /// Takes a reference to the page of frame `a` unless it is free (`b` = 1), or drops it (`b` = 0): as who walks all frames does.
    pub const PAGE_REF: u32 = 22;
    /// Lets the `a`-th allocation from now fail.
    pub const FAIL_ALLOC: u32 = 23;
    /// Compacts memory: for a block of order `a`, or all of it when `a` is 0 (/proc/sys/vm/compact_memory). The `b`th page that is to move
    /// from now does not, as if it were busy; 0: none.
    pub const COMPACT: u32 = 14;
    /// Moves what can be moved out of the lowest zone, as on the way to taking memory offline.
    pub const EVACUATE: u32 = 15;
    /// Restarts the machine in order: devices are shut down first.
    pub const REBOOT: u32 = 24;
    /// Restarts the machine at once: no driver hears of it.
    pub const EMERGENCY_RESTART: u32 = 25;
    /// Makes the driver's next answer to a request begin at zone number `a`, there or not (v6, v8).
    pub const START_ZONE: u32 = 28;
    /// Asks for the addresses of the free blocks of order `a`, as any module may (v33).
    pub const LIST_FREE: u32 = 29;
    /// `panic()`.
    pub const PANIC: u32 = 32;
    /// Stores 8 bytes at address 0.
    pub const NULL_STORE: u32 = 33;
    /// Stores 8 bytes at address `a`.
    pub const WILD_STORE: u32 = 34;
    /// Jumps to a data page.
    pub const JUMP_TO_DATA: u32 = 35;
}
