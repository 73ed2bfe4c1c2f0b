//! The guest of a scenario: its memory, its driver, and what its tasks do.

/// The guest's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Memory, bytes.
    pub ram_bytes: u64,
    /// Number of vCPUs, 1..=4.
    pub vcpus: u8,
    /// Balloon driver.
    pub driver: Driver,
    /// Flaws of the driver's interface that are corrected: bits of `wire::switch::correct`.
    pub corrected: u64,
    /// Addresses that an array of hints holds.
    pub hint_array: u16,
    /// How the driver numbers its queues.
    pub queue_numbering: Numbering,
    /// Feature bits that the driver refuses though offered.
    pub features_refused: u64,
    /// `page_poison=1`.
    pub page_poison: bool,
    /// `init_on_alloc=1`.
    pub init_on_alloc: bool,
    /// `init_on_free=1`.
    pub init_on_free: bool,
    /// The driver is a module, which a task's `bind` loads.
    pub late_probe: bool,
    /// What the driver does otherwise than Linux.
    pub manners: Manners,
    /// What the tasks do from the start, per vCPU.
    pub tasks: Vec<Task>,
}

impl Default for Guest {
    /// A guest of 16 MiB and two vCPUs with nothing to do.
    fn default() -> Self {
        Self {
            ram_bytes: 16 << 20,
            vcpus: 2,
            driver: Driver::Hint,
            corrected: 0,
            hint_array: 512,
            queue_numbering: Numbering::Dense,
            features_refused: 0,
            page_poison: false,
            init_on_alloc: false,
            init_on_free: false,
            late_probe: false,
            manners: Manners::default(),
            tasks: Vec::new(),
        }
    }
}

/// What a driver may do by the specification, and Linux's does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// It reuses what it deflates without telling, as it may where MUST_TELL_HOST is not negotiated.
    pub deflate_silently: bool,
    /// Each hinted block is a chain of two descriptors.
    pub hint_in_two: bool,
    /// A round's first block is in the chain of the round's id.
    pub start_with_hint: bool,
    /// The id that ends a round has 2 bytes, which no driver may do.
    pub short_stop_id: bool,
}

/// Which interface the balloon driver and the device speak.
pub use wire::dialect::Dialect as Driver;

/// How a side numbers the balloon's queues when some are absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// Without gaps.
    Dense,
    /// As VIRTIO 1.2 §5.5.2 says.
    Spec,
}

impl Numbering {
    /// Both ways.
    pub const ALL: &'static [Numbering] = &[Numbering::Dense, Numbering::Spec];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Numbering::Dense => "dense",
            Numbering::Spec => "spec",
        }
    }
}

/// A list of operations on a vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The vCPU.
    pub vcpu: u8,
    /// Its operations, in order.
    pub operations: Vec<Operation>,
}

/// One operation of a task. Allocations are named as in the file; the name's index in [`wire::task::TaskOp`] is its rank among all names of
/// the scenario ([`super::Scenario::allocation_names`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Allocates a block of this order.
    Alloc {
        /// The allocation.
        name: String,
        /// log2 of its pages.
        order: u8,
        /// Without sleeping, and from the reserves if need be.
        atomic: bool,
    },
    /// Frees it.
    Free {
        /// The allocation.
        name: String,
        /// From the interrupt that tells the task of the operation, not by the task.
        in_interrupt: bool,
    },
    /// Stores 8 bytes: the byte, then a number unique in the scenario.
    Write {
        /// The allocation.
        name: String,
        /// Which page of it, from 0.
        page: u64,
        /// The byte.
        byte: u8,
    },
    /// Panics unless the first byte of the page is this.
    Verify {
        /// The allocation.
        name: String,
        /// Which page of it, from 0.
        page: u64,
        /// The byte.
        byte: u8,
    },
    /// Allocates single pages and writes each.
    Fill {
        /// The allocation.
        name: String,
        /// How many.
        pages: u64,
    },
    /// Frees what `fill` allocated.
    Release {
        /// The allocation.
        name: String,
        /// Each page of that many: 1 frees all.
        every: u64,
    },
    /// The driver's next answer begins at this zone (drivers v6, v8).
    StartZone {
        /// Its number.
        zone: u64,
    },
    /// Asks for the addresses of the free blocks of an order.
    ListFree {
        /// log2 of their pages.
        order: u64,
    },
    /// Runs the shrinkers.
    Shrink {
        /// How many.
        pages: u64,
    },
    /// Runs the OOM notifiers.
    Oom,
    /// Compacts memory.
    Compact {
        /// Until a block of this order is free; 0: all of it.
        order: u8,
        /// Which page that is to move is busy, and stays; 0: none.
        busy: u64,
    },
    /// Moves what can be moved out of the lowest zone.
    Evacuate,
    /// Sleeps.
    Sleep {
        /// Nanoseconds.
        ns: u64,
    },
    /// Allocates, writes and frees at random.
    Churn {
        /// How often.
        times: u64,
        /// Of the choices.
        seed: u64,
    },
    /// Removes the driver.
    Unbind,
    /// Probes the driver again.
    Bind,
    /// Puts the system to sleep, as far as the balloon sees of it.
    Freeze,
    /// Wakes it again.
    Restore,
    /// Breaks and resets the device, as when the machine goes down.
    Shutdown,
    /// Restarts the machine in order.
    Reboot,
    /// Restarts the machine at once.
    EmergencyRestart,
    /// Takes a reference to a page unless it is free.
    GetPage {
        /// Its frame.
        pfn: u64,
    },
    /// Drops that reference.
    PutPage {
        /// Its frame.
        pfn: u64,
    },
    /// Lets an allocation fail.
    FailAlloc {
        /// Which, counted from 1, from now on.
        nth: u64,
    },
    /// Notes how much memory is free, and how much there is.
    NoteMemory,
    /// Looks whether there is as much memory as was noted.
    CompareMemory,
    /// `panic()`.
    Panic,
    /// Stores at address 0.
    NullStore,
    /// Stores at an address outside anything writable.
    WildStore {
        /// Where.
        address: u64,
    },
    /// Jumps to a data page.
    JumpToData,
}

impl Operation {
    /// Returns the name that the operation gives to what it allocates.
    pub fn allocated_name(&self) -> Option<&str> {
        match self {
            Operation::Alloc { name, .. } | Operation::Fill { name, .. } => Some(name),
            Operation::Free { .. }
            | Operation::Write { .. }
            | Operation::Verify { .. }
            | Operation::Release { .. }
            | Operation::StartZone { .. }
            | Operation::ListFree { .. }
            | Operation::Shrink { .. }
            | Operation::Oom
            | Operation::Compact { .. }
            | Operation::Evacuate
            | Operation::Sleep { .. }
            | Operation::Churn { .. }
            | Operation::Unbind
            | Operation::Bind
            | Operation::Freeze
            | Operation::Restore
            | Operation::Shutdown
            | Operation::Reboot
            | Operation::EmergencyRestart
            | Operation::GetPage { .. }
            | Operation::PutPage { .. }
            | Operation::FailAlloc { .. }
            | Operation::NoteMemory
            | Operation::CompareMemory
            | Operation::Panic
            | Operation::NullStore
            | Operation::WildStore { .. }
            | Operation::JumpToData => None,
        }
    }
}
