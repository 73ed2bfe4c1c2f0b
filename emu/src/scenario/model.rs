//! A scenario as plain data: what [`super::parse`] makes of a file, and all that a world needs to be built.
//!
//! Everything is resolved that can be without running: units are numbers, names are indices, defaults are filled in by profile. Page names
//! stay symbolic ([`PageSpec`]), since "first page of hint 1" is known only once the guest has hinted.

use std::collections::{BTreeMap, BTreeSet};

use host::dirty::command::TrackingCommand;
use host::event::{Actor, EventKind};
use host::fault::Fault;
use host::migration::encoding::EncodingOptions;
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use host::step::Costs;

pub use super::search::{Found, Grain, Search, Vary};
use crate::outcome::Verdict;

/// A page's name in the file, such as `P`.
pub type PageName = String;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// Faults that must change the verdict when switched on.
    pub witness: Vec<Fault>,
    /// Faults that are on in this scenario (those under `scenarios/fail`).
    pub faults: Vec<Fault>,
    /// The guest.
    pub guest: Guest,
    /// The host.
    pub host: Host,
    /// The migration.
    pub migration: Migration,
    /// Named pages, in order of their names.
    pub pages: BTreeMap<PageName, PageSpec>,
    /// Injections, in the file's order.
    pub injections: Vec<Injection>,
    /// What a search may do, at a moment of its choosing or not at all, in the file's order. A run leaves it out; orders cannot name it.
    /// `trigger` and `before` bind it if it happens.
    pub may: Vec<Injection>,
    /// Order chains, in the file's order.
    pub orders: Vec<Order>,
    /// Where a search is free.
    pub search: Search,
    /// Settings that a search may change.
    pub vary: Vary,
    /// What must come out.
    pub expect: Expect,
    /// Costs of moves.
    pub costs: Costs,
    /// Limits after which the run is given up.
    pub limits: Limits,
    /// Where it came from, if a search wrote it.
    pub found: Option<Found>,
}

impl Scenario {
    /// Returns the names of all allocations that tasks and injections make, and that a search may make, in order: a name's index in
    /// [`wire::task::TaskOp`] is its rank.
    pub fn allocation_names(&self) -> Vec<&str> {
        let tasks = self.guest.tasks.iter().flat_map(|task| &task.operations);
        let injected = self.injections.iter().chain(&self.may).filter_map(|injection| match &injection.action {
            Action::Task(operation) => Some(operation),
            Action::Write { .. }
            | Action::Monitor(_)
            | Action::ClearLog { .. }
            | Action::RepeatId
            | Action::VhostQueue { .. }
            | Action::Iommu { .. } => None,
        });
        let names: BTreeSet<&str> = tasks.chain(injected).filter_map(Operation::allocated_name).collect();
        assert!(names.len() <= wire::task::NAMES, "{} names, the guest's table holds {}", names.len(), wire::task::NAMES);
        names.into_iter().collect()
    }
}

impl Scenario {
    /// Returns the kinds of all events that the scenario speaks of.
    pub fn event_kinds(&self) -> BTreeSet<EventKind> {
        let injected =
            self.injections.iter().chain(&self.may).flat_map(|injection| injection.trigger.after.iter().chain(&injection.before));
        let ordered = self.orders.iter().flat_map(|order| &order.chain);
        let started = self.migration.start.iter().flat_map(|start| &start.after);
        let window = self.search.from.iter().chain(&self.search.until);
        let named = injected.chain(ordered).chain(started).chain(window).filter_map(|pattern| match pattern {
            Pattern::Event { kind, .. } => Some(*kind),
            Pattern::Injection(_) => None,
        });
        let counted = EventKind::ALL.iter().copied().filter(|kind| self.expect.events.contains_key(kind.name()));
        let ids = self.expect.cmd_ids.as_ref().map(|_| EventKind::GuestCmdId);
        named.chain(counted).chain(ids).collect()
    }
}

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

/// What a driver may do by the specification, and Linux's does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// It reuses what it deflates without telling, as it may where MUST_TELL_HOST is not negotiated.
    pub deflate_silently: bool,
    /// Each hinted block is a chain of two descriptors.
    pub hint_in_two: bool,
    /// A round's first block is in the chain of the round's id.
    pub start_with_hint: bool,
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

/// How a host looks for free pages in the guest's memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// It trusts reference counts.
    Naive,
    /// It takes blocks in the buddy lists alone.
    Corrected,
}

impl Walk {
    /// Both ways.
    pub const ALL: &'static [Walk] = &[Walk::Naive, Walk::Corrected];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Walk::Naive => "naive",
            Walk::Corrected => "corrected",
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
/// the scenario ([`Scenario::allocation_names`]).
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

/// The host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whose device it is.
    pub profile: Profile,
    /// How guest writes are tracked.
    pub dirty_log: DirtyLog,
    /// Pages per bit of C, as a power of two: 6..=31.
    pub chunk_shift: u8,
    /// All pages count as dirty, and none is write-protected, when logging starts (KVM_DIRTY_LOG_INITIALLY_SET; manual clear only).
    pub initially_set: bool,
    /// What else tracking needs.
    pub tracking: Tracking,
    /// Offered feature bits of the balloon.
    pub features: u64,
    /// How the device numbers its queues.
    pub queue_numbering: Numbering,
    /// How the host looks for free pages by itself (driver host-walk alone).
    pub walk: Walk,
    /// Size of the hint queue.
    pub hint_queue_size: u16,
    /// Size of the other queues but reporting's.
    pub queue_size: u16,
    /// Balloon target at boot, 4 KiB pages.
    pub balloon_pages: u32,
    /// The host asks for statistics this often, nanoseconds; 0: never.
    pub stats_interval_ns: u64,
    /// 4 KiB pages in a page of the host: nothing smaller can be discarded.
    pub host_page: u16,
    /// There is an iothread for hints; without it the balloon offers none.
    pub iothread: bool,
    /// Page 0 is ROM.
    pub rom: bool,
    /// Devices that write guest memory by themselves.
    pub devices: Devices,
    /// The RAM blocks that guest memory consists of, one behind the other; none: it is one.
    pub blocks: Vec<RamBlock>,
}

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// Its name.
    pub name: String,
    /// Its length, pages.
    pub pages: u64,
    /// Its first ram_addr, pages.
    pub offset: u64,
    /// Pages at its end that are not there until it grows: of the last block alone.
    pub room: u64,
    /// The migration leaves it out: its memory is shared with the destination.
    pub ignored: bool,
}

impl RamBlock {
    /// Returns where a block lies behind others unless somebody asks for more: at the next multiple of 64 pages (QEMU: system/physmem.c
    /// find_ram_offset(), aligned since 2.12).
    pub fn offset_behind(blocks: &[RamBlock]) -> u64 {
        let end = blocks.iter().map(|block| block.offset + block.pages).max().unwrap_or(0);
        end.next_multiple_of(host::dirty::bitmap::WORD_PAGES)
    }

    /// Returns whether two blocks have ram_addrs in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.pages && other.offset < self.offset + self.pages
    }
}

/// Devices that write guest memory by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// How long a vhost backend takes to answer the order to log, nanoseconds; `None`: it logs at once.
    pub vhost_log_ack_ns: Option<u64>,
    /// Queues of the vhost device, two to a pair; 0: those that a scenario does not speak of.
    pub vhost_queues: u8,
    /// There is an assigned device.
    pub vfio: bool,
    /// The guest chooses the addresses that devices use.
    pub iommu: bool,
}

impl Host {
    /// Returns what a profile's users get without asking, when their guest's driver is this.
    ///
    /// QEMU: hw/virtio/virtio-balloon.c virtio_balloon_device_realize() for the queues; statistics are always offered, page poison by default,
    /// hinting because it is what is tested here; the log is what KVM gives since Linux 5.7, with QEMU's `x-clear-bitmap-shift` of 18.
    /// Firecracker: 256 entries in each queue, a log without manual clear, hinting alone. Cloud Hypervisor: 128 entries, the same log, reporting alone. For a driver that was never merged the device offers what its series
    /// asks for.
    pub fn of(profile: Profile, driver: Driver) -> Self {
        use wire::balloon::queue_size;
        let (dirty_log, hint_queue_size, queue_size) = match profile {
            Profile::Qemu => (DirtyLog::ManualClear, queue_size::FREE_PAGE, queue_size::DEFAULT),
            Profile::Firecracker => (DirtyLog::GetClears, 256, 256),
            Profile::CloudHypervisor => (DirtyLog::GetClears, queue_size::FREE_PAGE, queue_size::DEFAULT),
        };
        let initially_set = dirty_log == DirtyLog::ManualClear;
        Self {
            profile,
            dirty_log,
            chunk_shift: Self::CHUNK_SHIFT,
            initially_set,
            tracking: Tracking::default(),
            features: default_features(profile, driver),
            queue_numbering: Numbering::Dense,
            walk: Walk::Naive,
            hint_queue_size,
            queue_size,
            balloon_pages: 0,
            stats_interval_ns: 0,
            blocks: Vec::new(),
            host_page: 1,
            iothread: true,
            rom: false,
            devices: Devices::default(),
        }
    }

    /// Returns how much of the guest's memory is not there until the last RAM block grows, bytes.
    pub fn room_bytes(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.room * wire::platform::PAGE_SIZE)
    }

    /// Chunk of C when nothing else is asked for: 1 GiB (QEMU: property `x-clear-bitmap-shift`).
    pub const CHUNK_SHIFT: u8 = 18;
}

/// What tracking guest writes needs beside the log's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// Entries of a vCPU's dirty ring (log `ring` only).
    pub ring_size: u32,
    /// How often the reaper looks at the rings, nanoseconds (log `ring` only).
    pub reap_interval_ns: u64,
    /// First pages of the memory slots behind the first (KVM's logs only).
    pub slots: Vec<u64>,
    /// System management mode has an address space of its own (KVM's logs only).
    pub smm: bool,
}

impl Default for Tracking {
    fn default() -> Self {
        let (ring_size, reap_interval_ns) = (host::dirty::ring::RING_SIZE, host::dirty::accel::REAP_INTERVAL_NS);
        Self { ring_size, reap_interval_ns, slots: Vec::new(), smm: false }
    }
}

/// Returns the feature bits that a device offers to a driver without being asked for more.
fn default_features(profile: Profile, driver: Driver) -> u64 {
    use wire::balloon::{feature, seed_feature};
    let stats = match profile {
        Profile::Qemu => feature::STATS_VQ | feature::PAGE_POISON,
        Profile::Firecracker => 0,
        // It knows no other.
        Profile::CloudHypervisor => return feature::PAGE_REPORTING,
    };
    match driver {
        // The request's queue is the fourth, so statistics come with it.
        Driver::V6 | Driver::V8 | Driver::V10 => feature::STATS_VQ | seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ,
        Driver::HostWalk => stats,
        Driver::Report => stats | feature::PAGE_REPORTING,
        Driver::Hint
        | Driver::V13
        | Driver::V16
        | Driver::V33
        | Driver::V33Thread
        | Driver::V33Pop
        | Driver::V33Alloc
        | Driver::PfnWalk
        | Driver::Balloon2012 => stats | feature::FREE_PAGE_HINT,
    }
}

/// Whose device and policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A hint clears bits.
    Qemu,
    /// A hint discards at once.
    Firecracker,
    /// Reports, no hints; the VMM's own writes stand in a bitmap of their own, and the first round is sparse.
    CloudHypervisor,
}

impl Profile {
    /// Every profile.
    pub const ALL: &'static [Profile] = &[Profile::Qemu, Profile::Firecracker, Profile::CloudHypervisor];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Qemu => "qemu",
            Profile::Firecracker => "firecracker",
            Profile::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

/// How guest writes are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyLog {
    /// KVM with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies, CLEAR clears and write-protects.
    ManualClear,
    /// KVM without it: GET copies, clears and write-protects.
    GetClears,
    /// KVM with dirty rings: each vCPU lists what it writes.
    Ring,
    /// HVF: a fault on a protected page marks D, CLEAR protects.
    Hvf,
    /// TCG: stores mark D, nothing else.
    Tcg,
}

impl DirtyLog {
    /// Every way.
    pub const ALL: &'static [DirtyLog] = &[DirtyLog::ManualClear, DirtyLog::GetClears, DirtyLog::Ring, DirtyLog::Hvf, DirtyLog::Tcg];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            DirtyLog::ManualClear => "manual-clear",
            DirtyLog::GetClears => "get-clears",
            DirtyLog::Ring => "ring",
            DirtyLog::Hvf => "hvf",
            DirtyLog::Tcg => "tcg",
        }
    }
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

impl Default for Migration {
    /// QEMU's parameters (migration/options.c) on a link of 1 GiB/s, from the moment that the driver is up.
    fn default() -> Self {
        let ready = Pattern::Event { kind: EventKind::GuestReady, page: None, nth: 1 };
        Self {
            start: Some(Trigger { after: vec![ready], ..Trigger::default() }),
            bandwidth: 1 << 30,
            max_bandwidth: 128 << 20,
            downtime_limit_ns: 300_000_000,
            encoding: EncodingOptions::default(),
            rounds_min: 1,
            throttle: ThrottleOptions::default(),
            switchover: SwitchoverOptions::default(),
            complete_before_sync: false,
            hints_first: false,
            modes: Modes::default(),
        }
    }
}

impl Default for Expect {
    /// The run passes; all else is free.
    fn default() -> Self {
        Self {
            verdict: Verdict::Pass,
            blame: None,
            sent: BTreeMap::new(),
            rounds: None,
            cmd_ids: None,
            destination_cmd_id: None,
            events: BTreeMap::new(),
            irq_off_insns: None,
            blocked: Vec::new(),
        }
    }
}

/// The migration's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// When the first one starts; `None`: only when an injection says so.
    pub start: Option<Trigger>,
    /// Speed of the link, bytes/s.
    pub bandwidth: u64,
    /// QEMU's `max-bandwidth`, bytes/s; 0: no limit.
    pub max_bandwidth: u64,
    /// QEMU's `downtime-limit`, nanoseconds.
    pub downtime_limit_ns: u64,
    /// How pages are written.
    pub encoding: EncodingOptions,
    /// Smallest number of syncs before the last; the threshold is not looked at before. Shows later rounds in small guests.
    pub rounds_min: u32,
    /// What is asked of auto-converge.
    pub throttle: ThrottleOptions,
    /// What is asked of the switchover.
    pub switchover: SwitchoverOptions,
    /// COMPLETE is told before the last sync, as up to QEMU 11.0.
    pub complete_before_sync: bool,
    /// A snapshot in place of a migration: a round of hints first, then the VM stops, and all of memory goes.
    pub hints_first: bool,
    /// What goes beyond plain precopy.
    pub modes: Modes,
}

/// What a name in `[pages]` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageSpec {
    /// This page frame.
    Pfn(u64),
    /// A page of the n-th hinted block of the run (from 1).
    Hint {
        /// Which block, from 1.
        hint: u32,
        /// Which page of it.
        page: PageOf,
    },
    /// A page of a task's named allocation, from the moment that it is first allocated.
    Allocation {
        /// The allocation.
        name: String,
        /// Which page of it.
        page: PageOf,
    },
}

/// Which page of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOf {
    /// The n-th, from 0.
    Index(u64),
    /// The last.
    Last,
}

/// Something that the scenario does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// Name for order chains; `inject[i]` always works.
    pub name: Option<String>,
    /// What is done.
    pub action: Action,
    /// By whom.
    pub by: Actor,
    /// When.
    pub trigger: Trigger,
    /// Events that may not happen before it.
    pub before: Vec<Pattern>,
}

/// What the tracking of writes takes an injected store for. The store itself is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum How {
    /// A plain one.
    #[default]
    Plain,
    /// A locked read-modify-write (by a vCPU).
    Atomic,
    /// One in system management mode (by a vCPU).
    Smm,
    /// KVM's own, of a device that it emulates (by dma).
    Kvm,
}

impl How {
    /// Every one.
    pub const ALL: &'static [How] = &[How::Plain, How::Atomic, How::Smm, How::Kvm];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            How::Plain => "plain",
            How::Atomic => "atomic",
            How::Smm => "smm",
            How::Kvm => "kvm",
        }
    }

    /// Returns whether this actor's stores can be such.
    pub fn fits(self, by: Actor) -> bool {
        match self {
            How::Plain => true,
            How::Atomic | How::Smm => matches!(by, Actor::Vcpu(_)),
            How::Kvm => by == Actor::Dma,
        }
    }
}

/// What an injection does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stores to a page: a machine store on a vCPU, a device write, or a vhost write.
    Write {
        /// The page.
        page: PageName,
        /// Byte offset of the store's 8 bytes.
        offset: u64,
        /// First byte stored; a number unique in the scenario follows.
        byte: u8,
        /// The store is all zero.
        zero: bool,
        /// Pages written (by devices): one store in each.
        pages: u64,
        /// What the tracking of writes takes it for.
        how: How,
        /// What of the guest's it is.
        target: Target,
    },
    /// A task operation on a vCPU.
    Task(Operation),
    /// A monitor command.
    Monitor(Command),
    /// A second log user clears its pages (by display).
    ClearLog {
        /// The first page.
        page: PageName,
        /// How many.
        pages: u64,
    },
    /// A stray element on the hint queue that repeats the current id, as a duplicated or delayed buffer would be (by a vCPU).
    RepeatId,
    /// The guest sets a queue of the vhost device up (by a vCPU).
    VhostQueue {
        /// Where its used ring lies.
        page: PageName,
        /// Which queue.
        queue: u8,
    },
    /// The guest lets devices reach pages, or not any more (by a vCPU).
    Iommu {
        /// It lets them.
        map: bool,
        /// The first page.
        page: PageName,
        /// How many.
        pages: u64,
    },
}

/// What a device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// A buffer.
    #[default]
    Buffer,
    /// A queue's used ring.
    UsedRing(u8),
    /// The avail event behind a queue's used ring.
    AvailEvent,
}

impl Target {
    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Target::Buffer => "buffer",
            Target::UsedRing(_) => "used-ring",
            Target::AvailEvent => "avail-event",
        }
    }
}

/// A monitor command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `migrate`.
    Migrate,
    /// `migrate_cancel`.
    Cancel,
    /// `stop`.
    Stop,
    /// `cont`.
    Cont,
    /// `balloon`: the new target, in 4 KiB pages taken from the guest.
    Balloon {
        /// The target.
        pages: u32,
    },
    /// `migrate_continue`.
    Continue,
    /// `migrate-set-capabilities` with postcopy-ram.
    PostcopyRam {
        /// Whether it is to be on.
        on: bool,
    },
    /// `system_reset` of the balloon device alone.
    ResetDevice,
    /// `device_del` of the balloon; its driver should be unbound by then.
    Unplug,
    /// The link breaks.
    BreakLink,
    /// The last RAM block grows.
    GrowBlock,
    /// `migrate_start_postcopy`.
    StartPostcopy,
    /// `migrate_recover`.
    Recover,
    /// The destination stops reading.
    StallLink,
    /// The destination reads again.
    ResumeLink,
    /// `yank`.
    Yank,
    /// Something about the tracking of writes.
    Tracking(TrackingCommand),
}

/// When an injection fires: once all its parts hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trigger {
    /// Not before this virtual time, nanoseconds.
    pub at_ns: Option<u64>,
    /// Not before these events.
    pub after: Vec<Pattern>,
    /// That long behind the last of the events, nanoseconds.
    pub delay_ns: u64,
    /// That many guest instructions of the injecting vCPU behind the last of the events.
    pub delay_insns: u64,
}

/// An event that a constraint speaks of: `kind`, `kind(P)`, `kind#2`, `inject[0]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// The n-th event of a kind (from 1), on a page if one is named.
    Event {
        /// The kind.
        kind: EventKind,
        /// The page, if one is named.
        page: Option<PageName>,
        /// Which of them, from 1.
        nth: u32,
    },
    /// An injection of this scenario.
    Injection(usize),
}

/// Events that must come in this order, each before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The chain, at least two.
    pub chain: Vec<Pattern>,
}

/// What must come out. What is not named is free, but for the verdict: `pass` when none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// How the run ends.
    pub verdict: Verdict,
    /// Whose fault a violation is.
    pub blame: Option<crate::outcome::Blame>,
    /// About named pages.
    pub sent: BTreeMap<PageName, SentExpect>,
    /// Number of syncs.
    pub rounds: Option<u64>,
    /// The command ids that the configuration showed, without repeats.
    pub cmd_ids: Option<Vec<u32>>,
    /// The command id that the destination's device shows.
    pub destination_cmd_id: Option<u32>,
    /// Events that must have happened this often.
    pub events: BTreeMap<String, CountExpect>,
    /// Instructions of the longest stretch with interrupts disabled.
    pub irq_off_insns: Option<CountExpect>,
    /// How long who was held up.
    pub blocked: Vec<BlockedExpect>,
}

/// How long somebody must have been held up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedExpect {
    /// Who.
    pub who: &'static str,
    /// By what; `None`: by all together.
    pub on: Option<&'static str>,
    /// Nanoseconds.
    pub ns: CountExpect,
}

/// What must be true of a page's sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SentExpect {
    /// First byte of the page's last copy at the destination.
    pub last: Option<u8>,
    /// Fewest times sent.
    pub min: Option<u64>,
    /// Most times sent.
    pub max: Option<u64>,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountExpect {
    /// At least.
    pub min: Option<u64>,
    /// At most.
    pub max: Option<u64>,
}

/// When a run is given up, with verdict stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Virtual time, nanoseconds.
    pub time_ns: u64,
    /// Steps of all actors.
    pub steps: u64,
    /// Guest instructions between two of a vCPU's events.
    pub step_insns: u64,
    /// The memory manager's rules are checked after every so many steps that change what they are about; 0: at the end alone.
    pub check_mm: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_ns: 60_000_000_000, steps: 20_000_000, step_insns: 50_000_000, check_mm: 1 }
    }
}
