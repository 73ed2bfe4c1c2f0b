//! The closed vocabulary of observable facts.
//!
//! Whatever happens in a world is an [`Event`]; constraints, triggers, expectations, the oracle and the report all speak of events and of
//! nothing else. An event's name is what a scenario file writes ([`Event::kind`], [`EventKind::name`]).

use std::fmt;

/// A guest page frame number: guest-physical address / 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u64);

impl Pfn {
    /// Returns the guest-physical address of the page's first byte.
    pub fn address(self) -> u64 {
        self.0 << wire::platform::PAGE_SHIFT
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// First page.
    pub first: Pfn,
    /// Number of pages.
    pub count: u64,
}

impl PageRange {
    /// Returns a range of `count` pages from `first`.
    pub fn new(first: Pfn, count: u64) -> Self {
        Self { first, count }
    }

    /// Returns a range of one page.
    pub fn page(pfn: Pfn) -> Self {
        Self::new(pfn, 1)
    }

    /// Returns the first page behind the range.
    pub fn end(self) -> Pfn {
        Pfn(self.first.0 + self.count)
    }

    /// Returns whether the page lies in the range.
    pub fn contains(self, pfn: Pfn) -> bool {
        self.first <= pfn && pfn < self.end()
    }

    /// Returns the pages in order.
    pub fn pages(self) -> impl Iterator<Item = Pfn> {
        (self.first.0..self.end().0).map(Pfn)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first),
            _ => write!(f, "{}+{}", self.first, self.count),
        }
    }
}

/// A free page hint command id (VIRTIO 1.2 §5.5.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CmdId(pub u32);

impl fmt::Display for CmdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// A virtual CPU, running guest code or its own exits.
    Vcpu(u8),
    /// The balloon's iothread.
    Iothread,
    /// The migration thread.
    Migration,
    /// The main loop: monitor commands, bottom halves, inflate and deflate queues.
    MainLoop,
    /// A device model that writes guest memory through the VMM.
    Dma,
    /// A backend outside the VMM that writes guest memory and keeps its own log.
    Vhost,
    /// A second user of the dirty log (a display).
    Display,
    /// The receiving side.
    Destination,
    /// The scenario.
    Injector,
    /// An assigned device, which writes guest memory past the VMM.
    Vfio,
    /// The sender of a channel beside the main one.
    Channel(u8),
    /// Its receiver, at the destination.
    Receiver(u8),
    /// The source's thread at the end of the return path.
    ReturnPath,
    /// The thread that reaps dirty rings once in a while.
    Reaper,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Vcpu(n) => write!(f, "vcpu{n}"),
            Actor::Iothread => f.write_str("iothread"),
            Actor::Migration => f.write_str("migration"),
            Actor::MainLoop => f.write_str("main-loop"),
            Actor::Dma => f.write_str("dma"),
            Actor::Vhost => f.write_str("vhost"),
            Actor::Display => f.write_str("display"),
            Actor::Destination => f.write_str("dest"),
            Actor::Injector => f.write_str("injector"),
            Actor::Vfio => f.write_str("vfio"),
            Actor::Channel(n) => write!(f, "channel{n}"),
            Actor::Receiver(n) => write!(f, "receiver{n}"),
            Actor::ReturnPath => f.write_str("return"),
            Actor::Reaper => f.write_str("reaper"),
        }
    }
}

/// Which record of dirtiness (reference: QEMU's levels).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The accelerator's log and its write protection.
    K,
    /// The per-slot copy of K.
    S,
    /// `ram_list.dirty_memory[MIGRATION]`.
    D,
    /// A vhost backend's own log.
    V,
    /// `RAMBlock.bmap`: what is still to be sent.
    B,
    /// The vCPUs' dirty rings. New levels come last, lest they change the digests of all runs.
    Ring,
}

/// A lock of the host (QEMU's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockId {
    /// The big QEMU lock.
    Bql,
    /// `free_page_lock` of the balloon device.
    FreePage,
    /// `RAMState.bitmap_mutex`.
    Bitmap,
    /// The accelerator's slots lock.
    Slots,
    /// `RAMState.src_page_req_mutex`. New locks come last, lest they change the digests of all runs.
    PageRequests,
    /// `ram_list.mutex`.
    RamList,
    /// `MigrationState.qemu_file_lock`.
    QemuFile,
    /// RCU: not held by one but by all who are in a section of it. To take it is to wait until nobody is.
    Rcu,
}

impl LockId {
    /// Every lock in the order in which they nest.
    pub const ALL: [LockId; 8] = [
        LockId::Rcu,
        LockId::Bql,
        LockId::RamList,
        LockId::FreePage,
        LockId::Bitmap,
        LockId::PageRequests,
        LockId::Slots,
        LockId::QemuFile,
    ];

    /// Returns whether the lock is taken only where all are asked for. Those that came later are, since a lock that is taken shows in the trace.
    pub fn is_fine(self) -> bool {
        match self {
            LockId::Bql | LockId::FreePage | LockId::Bitmap => false,
            LockId::Slots | LockId::PageRequests | LockId::RamList | LockId::QemuFile | LockId::Rcu => true,
        }
    }

    /// Returns the lock's name.
    pub fn name(self) -> &'static str {
        match self {
            LockId::Bql => "bql",
            LockId::FreePage => "free_page_lock",
            LockId::Bitmap => "bitmap_mutex",
            LockId::Slots => "slots_lock",
            LockId::PageRequests => "src_page_req_mutex",
            LockId::RamList => "ram_list.mutex",
            LockId::QemuFile => "qemu_file_lock",
            LockId::Rcu => "rcu",
        }
    }
}

/// Why the migration engine tells its precopy notifiers (QEMU: include/migration/misc.h PrecopyNotifyReason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrecopyReason {
    /// Sending is about to start; comes after the first sync.
    Setup,
    /// The dirty logs are about to be merged.
    BeforeBitmapSync,
    /// They have been merged.
    AfterBitmapSync,
    /// All but the last pages are sent.
    Complete,
    /// The migration ends, whichever way.
    Cleanup,
}

impl PrecopyReason {
    /// Returns the reason's name.
    pub fn name(self) -> &'static str {
        match self {
            PrecopyReason::Setup => "setup",
            PrecopyReason::BeforeBitmapSync => "before-sync",
            PrecopyReason::AfterBitmapSync => "after-sync",
            PrecopyReason::Complete => "complete",
            PrecopyReason::Cleanup => "cleanup",
        }
    }
}

/// State of a migration (QEMU: qapi/migration.json MigrationStatus; only these).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationStatus {
    /// Never started.
    None,
    /// Bitmaps are being made, the first sync runs.
    Setup,
    /// Rounds.
    Active,
    /// The VM is stopped, the rest is sent.
    Device,
    /// Done; the destination runs.
    Completed,
    /// Asked to stop.
    Cancelling,
    /// Stopped as asked; the source runs.
    Cancelled,
    /// Broken, cleaning up.
    Failing,
    /// Broken; the source runs.
    Failed,
    /// Switched to postcopy; the destination has not told that it has the devices.
    PostcopyDevice,
    /// The destination runs, and pages still come.
    PostcopyActive,
    /// The same with a broken link.
    PostcopyPaused,
    /// A new link is there, and both sides find out what is missing.
    PostcopyRecover,
    /// The VM is stopped, and the switchover waits to be told to go on (last, lest the others' numbers change all digests).
    PreSwitchover,
}

impl MigrationStatus {
    /// Returns QEMU's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            MigrationStatus::None => "none",
            MigrationStatus::Setup => "setup",
            MigrationStatus::Active => "active",
            MigrationStatus::PreSwitchover => "pre-switchover",
            MigrationStatus::Device => "device",
            MigrationStatus::Completed => "completed",
            MigrationStatus::Cancelling => "cancelling",
            MigrationStatus::Cancelled => "cancelled",
            MigrationStatus::Failing => "failing",
            MigrationStatus::Failed => "failed",
            MigrationStatus::PostcopyDevice => "postcopy-device",
            MigrationStatus::PostcopyActive => "postcopy-active",
            MigrationStatus::PostcopyPaused => "postcopy-paused",
            MigrationStatus::PostcopyRecover => "postcopy-recover",
        }
    }

    /// Returns whether a migration is under way (QEMU: migration_is_running()).
    pub fn is_running(self) -> bool {
        match self {
            MigrationStatus::Setup
            | MigrationStatus::Active
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device
            | MigrationStatus::Cancelling
            | MigrationStatus::Failing
            | MigrationStatus::PostcopyDevice
            | MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => true,
            MigrationStatus::None | MigrationStatus::Completed | MigrationStatus::Cancelled | MigrationStatus::Failed => false,
        }
    }
}

/// State of the hinting device (QEMU: include/hw/virtio/virtio-balloon.h FREE_PAGE_HINT_S_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintStatus {
    /// No round; pages are ignored.
    Stop,
    /// A new id stands in the configuration.
    Requested,
    /// The driver has echoed it; pages are applied.
    Start,
    /// The hinted pages may be used again.
    Done,
}

impl HintStatus {
    /// Returns QEMU's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            HintStatus::Stop => "STOP",
            HintStatus::Requested => "REQUESTED",
            HintStatus::Start => "START",
            HintStatus::Done => "DONE",
        }
    }
}

/// What a hint queue element turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintElement {
    /// A device-readable command id.
    Id(CmdId),
    /// Device-writable pages.
    Pages(PageRange),
    /// An id of the wrong length, or a response that is cut short; bytes.
    Malformed(u64),
    /// Pages that are not RAM, by the first.
    OutOfRam(Pfn),
    /// The end of the last response to a request.
    Last,
    /// A buffer for a request.
    Request,
    /// No element: pages that the host has found free in the guest's memory map.
    Found(PageRange),
}

macro_rules! events {
    ($($(#[doc = $doc:literal])* $variant:ident $({ $($field:ident: $ty:ty),* $(,)? })? = $name:literal,)*) => {
        /// One observable fact.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Event {
            $($(#[doc = $doc])* $variant $({ $(#[doc = "See the event."] $field: $ty),* })?,)*
        }

        /// An event without its particulars: what a scenario file names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind {
            $($(#[doc = $doc])* $variant,)*
        }

        impl EventKind {
            /// Every kind, in the order of declaration.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)*];

            /// Returns the name that a scenario file writes.
            pub fn name(self) -> &'static str {
                match self { $(EventKind::$variant => $name,)* }
            }

            /// Returns the first line of the kind's documentation.
            pub fn about(self) -> &'static str {
                match self { $(EventKind::$variant => concat!($($doc),*),)* }
            }
        }

        impl Event {
            /// Returns the event without its particulars.
            pub fn kind(&self) -> EventKind {
                match self { $(Event::$variant { .. } => EventKind::$variant,)* }
            }
        }
    };
}

events! {
    // ---- the guest
    #[doc = "The guest's driver is up and its tasks start."]
    GuestReady = "guest.ready",
    #[doc = "A block leaves the guest's allocator."]
    GuestAlloc { range: PageRange } = "guest.alloc",
    #[doc = "A block goes back to the guest's allocator."]
    GuestFree { range: PageRange } = "guest.free",
    #[doc = "The guest's allocator found nothing."]
    GuestAllocFail { order: u32 } = "guest.alloc_fail",
    #[doc = "A vCPU stores to a named page."]
    GuestWrite { pfn: Pfn, len: u32 } = "guest.write",
    #[doc = "The driver exposes a free block as a hint."]
    GuestHint { range: PageRange, number: u32 } = "guest.hint",
    #[doc = "The driver's shrinker takes a hinted block back."]
    GuestReclaim { range: PageRange } = "guest.reclaim",
    #[doc = "The driver frees a hinted block after DONE, or when it is removed."]
    GuestReturn { range: PageRange } = "guest.return",
    #[doc = "The driver has read the command id."]
    GuestCmdId { id: CmdId } = "guest.cmd_id",
    #[doc = "The driver exposes the id that starts a round."]
    GuestStart { id: CmdId } = "guest.start",
    #[doc = "The driver exposes the id that ends a round."]
    GuestStop = "guest.stop",
    #[doc = "The driver exposes a page for reporting."]
    GuestReport { range: PageRange } = "guest.report",
    #[doc = "The guest has exposed a buffer on a queue."]
    GuestAdd { queue: u16, head: u16 } = "guest.add",
    #[doc = "The guest collected a used buffer."]
    GuestGet { queue: u16, head: u16 } = "guest.get",
    #[doc = "The guest kicks a queue."]
    GuestKick { queue: u16 } = "guest.kick",
    #[doc = "The guest's interrupt handler starts."]
    GuestIrq { vector: u8 } = "guest.irq",
    #[doc = "The guest tries a lock."]
    GuestLock { lock: u32 } = "guest.lock",
    #[doc = "The guest has released a lock."]
    GuestUnlock { lock: u32 } = "guest.unlock",
    #[doc = "The guest tells a page as inflated."]
    GuestInflate { pfn: Pfn } = "guest.inflate",
    #[doc = "The guest tells a page as deflated."]
    GuestDeflate { pfn: Pfn } = "guest.deflate",
    #[doc = "The guest has written the number of pages it holds."]
    GuestActual { pages: u32 } = "guest.actual",
    #[doc = "Compaction takes a page from its owner."]
    GuestIsolate { pfn: Pfn } = "guest.isolate",
    #[doc = "Compaction gives a page back that did not move."]
    GuestPutback { pfn: Pfn } = "guest.putback",
    #[doc = "A page's owner is asked to use another one instead."]
    GuestMigratePage { pfn: Pfn, to: Pfn } = "guest.migrate_page",
    #[doc = "A page's owner has answered: the page has moved, or not."]
    GuestMigrateDone { pfn: Pfn, error: u32 } = "guest.migrate_done",
    #[doc = "Under a fault: deflation looks at a page of a list that it walks without the list's lock."]
    GuestDequeue { pfn: Pfn } = "guest.dequeue",
    #[doc = "A shrinker runs."]
    GuestShrink { pages: u64 } = "guest.shrink",
    #[doc = "The OOM notifiers run."]
    GuestOom = "guest.oom",
    #[doc = "A task's operation starts."]
    GuestTask { id: u32 } = "guest.task",
    #[doc = "A task's operation has ended."]
    GuestTaskDone { id: u32, ok: bool } = "guest.task_done",
    #[doc = "A task's named allocation is now this block."]
    GuestNamed { name: u32, range: PageRange } = "guest.named",
    #[doc = "A queued work starts."]
    GuestWork { work: u32 } = "guest.work",
    #[doc = "A queued work has ended."]
    GuestWorkDone { work: u32 } = "guest.work_done",
    #[doc = "The guest warned."]
    GuestWarn { message: String } = "guest.warn",
    #[doc = "The guest is dead: panic, wild access or an exception."]
    GuestCrash { message: String } = "guest.crash",

    // ---- the device
    #[doc = "The driver wrote the device status."]
    DeviceStatus { status: u32 } = "device.status",
    #[doc = "A kick reached the device; `guest.kick` is before that, and the VM can stop in between."]
    DeviceKick { queue: u16 } = "device.kick",
    #[doc = "The device raised an interrupt: 1 used buffer, 2 configuration change."]
    DeviceIrq { cause: u32 } = "device.irq",
    #[doc = "The device is broken until it is reset."]
    DeviceBroken { queue: u16 } = "device.broken",
    #[doc = "The driver read the command id from the configuration."]
    ConfigCmdId { id: CmdId } = "config.cmd_id",
    #[doc = "The device opens a hint round: a new id stands in the configuration."]
    HintRequest { id: CmdId } = "hint.request",
    #[doc = "The driver's id matched: hints count from here."]
    HintStart { id: CmdId } = "hint.start",
    #[doc = "The hint round is over."]
    HintStop { from: HintStatus } = "hint.stop",
    #[doc = "The hinted pages may be used again."]
    HintDone { from: HintStatus } = "hint.done",
    #[doc = "The iothread's bottom half starts: its lock comes next, and hint.quiet with it."]
    HintWake = "hint.wake",
    #[doc = "The iothread asks the guest not to kick the hint queue: a write to the used ring, whether or not the VM runs."]
    HintQuiet = "hint.quiet",
    #[doc = "The iothread took an element from the hint queue (driver host-walk: found pages free in the memory map)."]
    HintPop { head: u16, element: HintElement } = "hint.pop",
    #[doc = "The iothread clears the hinted pages from the bitmaps (profile firecracker: discards them)."]
    HintApply { range: PageRange, id: CmdId, cleared: u64 } = "hint.apply",
    #[doc = "Hinted pages came outside a round, or without a migration, and change nothing."]
    HintIgnore { range: PageRange, status: HintStatus } = "hint.ignore",
    #[doc = "The iothread returned an element."]
    HintPush { head: u16, len: u32 } = "hint.push",
    #[doc = "The iothread leaves its loop and asks for kicks again: a write to the used ring, without the lock."]
    HintSleep = "hint.sleep",
    #[doc = "The host dropped the contents of pages."]
    HostDiscard { range: PageRange } = "host.discard",
    #[doc = "The host took an inflated page."]
    BalloonInflate { pfn: Pfn } = "balloon.inflate",
    #[doc = "The host gave an inflated page back."]
    BalloonDeflate { pfn: Pfn } = "balloon.deflate",
    #[doc = "The host read statistics."]
    BalloonStats { records: u32 } = "balloon.stats",
    #[doc = "The host took a report."]
    BalloonReport { range: PageRange } = "balloon.report",

    // ---- dirty tracking
    #[doc = "Dirty logging was switched on."]
    LogStart = "dirty.log_start",
    #[doc = "Dirty logging was switched off."]
    LogStop = "dirty.log_stop",
    #[doc = "A write to a tracked page was recorded."]
    DirtyMark { pfn: Pfn, level: Level } = "dirty.mark",
    #[doc = "K was copied to S (GET)."]
    DirtyGet { pages: u64 } = "dirty.get",
    #[doc = "S was merged into D."]
    DirtyMerge { pages: u64 } = "dirty.merge",
    #[doc = "A vhost log was merged into D."]
    VhostMerge { pages: u64 } = "dirty.vhost_merge",
    #[doc = "K was cleared and write protection set for the pages of S in a range (CLEAR)."]
    DirtyClear { range: PageRange, cleared: u64 } = "dirty.clear",
    #[doc = "D was merged into B and C was set."]
    BitmapSync { round: u32, before: u64, after: u64 } = "bitmap.sync",
    #[doc = "The accelerator's own work after a sync: every vCPU has left its block."]
    AfterSync = "dirty.after_sync",

    // ---- migration
    #[doc = "The migration's status changed."]
    MigrationState { from: MigrationStatus, to: MigrationStatus } = "migration.state",
    #[doc = "The precopy notifiers are told."]
    Notify { reason: PrecopyReason, vm_running: bool } = "migration.notify",
    #[doc = "A slice of sending starts."]
    IterateBegin { remaining: u64 } = "migration.iterate",
    #[doc = "A slice of sending ends."]
    IterateEnd { sent: u64 } = "migration.iterate_end",
    #[doc = "The engine waits for the rate limit's window to end."]
    RateLimit { until_ns: u64 } = "migration.rate_limit",
    #[doc = "A round ended: the next one starts."]
    Pass { round: u32 } = "migration.pass",
    #[doc = "A page leaves B to be sent."]
    BitmapTake { pfn: Pfn } = "bitmap.take",
    #[doc = "A page is read for sending."]
    RamRead { pfn: Pfn, zero: bool } = "ram.read",
    #[doc = "A page goes on the wire."]
    RamSend { pfn: Pfn, zero: bool, round: u32 } = "ram.send",
    #[doc = "The destination places a page."]
    DstPlace { pfn: Pfn, zero: bool } = "dst.place",
    #[doc = "Taken, read, sent and placed in one move: a page that nothing in the scenario looks at."]
    RamPage { pfn: Pfn, zero: bool, round: u32 } = "ram.page",
    #[doc = "The destination received the device's state."]
    DstDevice { id: CmdId } = "dst.device",
    #[doc = "The destination starts."]
    DstStart = "dst.start",
    #[doc = "The VM stops."]
    VmStop = "vm.stop",
    #[doc = "The VM runs again."]
    VmStart = "vm.start",
    #[doc = "The link to the destination broke."]
    LinkDown = "link.down",

    // ---- the world
    #[doc = "The monitor carries out a command."]
    Monitor { command: String } = "monitor.command",
    #[doc = "A device wrote guest memory through the VMM."]
    DmaWrite { range: PageRange } = "dma.write",
    #[doc = "A vhost backend wrote guest memory."]
    VhostWrite { range: PageRange } = "vhost.write",
    #[doc = "A host lock was taken."]
    LockTake { lock: LockId } = "lock.take",
    #[doc = "A host lock was released."]
    LockRelease { lock: LockId } = "lock.release",
    #[doc = "A scenario's injection fires."]
    Inject { index: u32 } = "inject",

    // ---- the request queue; new events come last, lest they change the digests of all runs
    #[doc = "A request for hints is written into the driver's buffer, which goes back (drivers v6, v8, v10)."]
    HintAsk { head: u16, id: CmdId } = "hint.ask",
    #[doc = "A task finds less memory than it noted before."]
    GuestMissing { free: u64, total: u64 } = "guest.missing",
    #[doc = "Of the statistics that the host just read, some have a tag that there is not, or that came before."]
    BalloonOddStats { odd: u32 } = "balloon.odd_stats",
    #[doc = "The VMM is dead: an assertion failed, or it touched what it must not."]
    HostCrash { message: String } = "host.crash",
    #[doc = "A vCPU's dirty ring is full: the vCPU waits until it is reaped."]
    RingFull { cpu: u8 } = "ring.full",
    #[doc = "The entries of the dirty rings were taken into S."]
    RingReap { pages: u64 } = "ring.reap",
    #[doc = "The reaped entries were given back, and their pages protected again."]
    RingReset { pages: u64 } = "ring.reset",
    #[doc = "A memory slot is deleted, and its log with it."]
    SlotDelete { range: PageRange } = "slot.delete",
    #[doc = "A memory slot is created."]
    SlotCreate { range: PageRange } = "slot.create",
    #[doc = "A thread has loaded a word of a bitmap, to change it and store it back without a lock."]
    BitmapLoad { range: PageRange } = "bitmap.load",
    #[doc = "A thread stores the word back that it loaded."]
    BitmapStore { range: PageRange } = "bitmap.store",
    #[doc = "All channels have delivered what was sent before."]
    ChannelSync { channels: u32 } = "channel.sync",
    #[doc = "The destination runs while pages are still to come."]
    PostcopyStart = "postcopy.start",
    #[doc = "The destination drops pages that will be sent again."]
    DstDiscard { range: PageRange } = "dst.discard",
    #[doc = "A vCPU at the destination touches a page that has not arrived, and asks for it."]
    DstFault { pfn: Pfn } = "dst.fault",
    #[doc = "The source takes a request for a page."]
    DstRequest { pfn: Pfn } = "dst.request",
    #[doc = "A write to a page that is not saved yet: it waits."]
    SnapshotFault { pfn: Pfn } = "snapshot.fault",
    #[doc = "Saved pages may be written again."]
    SnapshotUnprotect { range: PageRange } = "snapshot.unprotect",
    #[doc = "The vCPUs are slowed down."]
    Throttle { percent: u32 } = "migration.throttle",
    #[doc = "A vhost backend starts to log its writes."]
    VhostLogStart = "vhost.log_start",
    #[doc = "The guest takes a mapping away from a device."]
    IommuUnmap { range: PageRange } = "iommu.unmap",
    #[doc = "A device has pages pinned: it writes to where they are now."]
    Pin { range: PageRange } = "vfio.pin",
    #[doc = "The id of the next round is written, and nothing else of the round yet."]
    HintNewId { id: CmdId } = "hint.new_id",
    #[doc = "A page equals what was sent of it last: nothing goes on the wire."]
    RamSkip { pfn: Pfn } = "ram.skip",
    #[doc = "A page goes on the wire as what differs from what was sent of it last."]
    RamDelta { pfn: Pfn, len: u64, round: u32 } = "ram.delta",
    #[doc = "The peer stops reading: what is sent fills the link, and then whoever sends waits."]
    LinkStall = "link.stall",
    #[doc = "The peer reads again."]
    LinkResume = "link.resume",
    #[doc = "The destination cannot load a device's state, and gives up."]
    DstRefuse { message: String } = "dst.refuse",
    #[doc = "An assigned device wrote guest memory."]
    VfioWrite { range: PageRange } = "vfio.write",
    #[doc = "An assigned device's dirty log was merged into D."]
    VfioMerge { pages: u64 } = "dirty.vfio_merge",
    #[doc = "The guest sets a queue of the vhost device up: its used ring lies here."]
    VhostQueue { range: PageRange, queue: u8 } = "vhost.queue",
    #[doc = "The destination has read the end of the stream: what has not come never will."]
    DstEnd = "dst.end",
    #[doc = "A channel is given a packet of pages."]
    ChannelQueue { channel: u8, pages: u32 } = "channel.queue",
    #[doc = "All channels have sent what was taken before, and a barrier behind it."]
    ChannelFlush { channels: u32 } = "channel.flush",
    #[doc = "All memory is write-protected: the snapshot is of this moment."]
    SnapshotStart = "snapshot.start",
    #[doc = "The source's return path thread takes a request for a page off the connection, and queues it for the migration thread."]
    ReturnRequest { pfn: Pfn } = "return.request",
    #[doc = "Memory of a virtio-mem device is plugged (QEMU: virtio_mem_set_block_state())."]
    MemPlug { range: PageRange } = "mem.plug",
    #[doc = "Memory of a virtio-mem device is unplugged: its contents are gone."]
    MemUnplug { range: PageRange } = "mem.unplug",
    #[doc = "A virtio-mem device refuses to plug or unplug, since a migration is under way (QEMU: virtio_mem_is_busy())."]
    MemBusy { range: PageRange } = "mem.busy",
    #[doc = "Memory that is not plugged is taken out of B (QEMU: ramblock_dirty_bitmap_clear_discarded_pages())."]
    BitmapExclude { pages: u64 } = "bitmap.exclude",
    #[doc = "Limits of so many vCPUs, from the first on, in MB/s; 0: none."]
    LimitSet { first: u8, count: u8, rate: u32 } = "limit.set",
    #[doc = "A vCPU has dirtied so much in the last period, MB/s."]
    LimitRate { cpu: u8, rate: u64 } = "limit.rate",
    #[doc = "A vCPU sleeps so long whenever its ring is full, microseconds."]
    LimitPenalty { cpu: u8, us: u64 } = "limit.penalty",
    #[doc = "A vCPU whose ring was full begins to sleep."]
    LimitSleep { cpu: u8, us: u64 } = "limit.sleep",
    #[doc = "Guest: the kernel is about to ask the machine for a reset."]
    GuestRestart = "guest.restart",
    #[doc = "Main loop: every device is reset; vCPUs and memory follow with the same move. QEMU: qemu_system_reset()."]
    MachineReset = "machine.reset",
}

impl Event {
    /// Returns the pages that the event is about, if it is about pages: `name(P)` in a scenario matches when P lies in the range.
    pub fn range(&self) -> Option<PageRange> {
        match self {
            Event::GuestAlloc { range }
            | Event::GuestFree { range }
            | Event::GuestHint { range, .. }
            | Event::GuestReclaim { range }
            | Event::GuestReturn { range }
            | Event::GuestReport { range }
            | Event::GuestNamed { range, .. }
            | Event::HintApply { range, .. }
            | Event::MemBusy { range }
            | Event::MemUnplug { range }
            | Event::MemPlug { range }
            | Event::VhostQueue { range, .. }
            | Event::VfioWrite { range }
            | Event::Pin { range }
            | Event::IommuUnmap { range }
            | Event::SnapshotUnprotect { range }
            | Event::DstDiscard { range }
            | Event::BitmapStore { range }
            | Event::BitmapLoad { range }
            | Event::SlotCreate { range }
            | Event::SlotDelete { range }
            | Event::HintIgnore { range, .. }
            | Event::HostDiscard { range }
            | Event::BalloonReport { range }
            | Event::DirtyClear { range, .. }
            | Event::DmaWrite { range }
            | Event::VhostWrite { range }
            | Event::HintPop { element: HintElement::Pages(range) | HintElement::Found(range), .. } => Some(*range),
            Event::GuestWrite { pfn, .. }
            | Event::GuestInflate { pfn }
            | Event::GuestDeflate { pfn }
            | Event::GuestIsolate { pfn }
            | Event::GuestDequeue { pfn }
            | Event::GuestPutback { pfn }
            | Event::GuestMigratePage { pfn, .. }
            | Event::GuestMigrateDone { pfn, .. }
            | Event::BalloonInflate { pfn }
            | Event::BalloonDeflate { pfn }
            | Event::DirtyMark { pfn, .. }
            | Event::BitmapTake { pfn }
            | Event::ReturnRequest { pfn }
            | Event::RamDelta { pfn, .. }
            | Event::RamSkip { pfn }
            | Event::SnapshotFault { pfn }
            | Event::DstRequest { pfn }
            | Event::DstFault { pfn }
            | Event::RamRead { pfn, .. }
            | Event::RamSend { pfn, .. }
            | Event::DstPlace { pfn, .. }
            | Event::RamPage { pfn, .. } => Some(PageRange::page(*pfn)),
            Event::HintPop {
                element:
                    HintElement::Id(_) | HintElement::Malformed(_) | HintElement::OutOfRam(_) | HintElement::Last | HintElement::Request,
                ..
            }
            | Event::GuestReady
            | Event::GuestAllocFail { .. }
            | Event::GuestCmdId { .. }
            | Event::GuestStart { .. }
            | Event::GuestStop
            | Event::GuestAdd { .. }
            | Event::GuestGet { .. }
            | Event::GuestKick { .. }
            | Event::GuestIrq { .. }
            | Event::GuestLock { .. }
            | Event::GuestUnlock { .. }
            | Event::GuestActual { .. }
            | Event::GuestShrink { .. }
            | Event::GuestOom
            | Event::GuestMissing { .. }
            | Event::GuestTask { .. }
            | Event::GuestTaskDone { .. }
            | Event::GuestWork { .. }
            | Event::GuestWorkDone { .. }
            | Event::GuestWarn { .. }
            | Event::GuestCrash { .. }
            | Event::DeviceStatus { .. }
            | Event::DeviceIrq { .. }
            | Event::DeviceBroken { .. }
            | Event::ConfigCmdId { .. }
            | Event::HintRequest { .. }
            | Event::HintAsk { .. }
            | Event::HintStart { .. }
            | Event::HintStop { .. }
            | Event::HintDone { .. }
            | Event::HintPush { .. }
            | Event::DeviceKick { .. }
            | Event::HintWake
            | Event::HintQuiet
            | Event::HintSleep
            | Event::BalloonStats { .. }
            | Event::BalloonOddStats { .. }
            | Event::LogStart
            | Event::LogStop
            | Event::DirtyGet { .. }
            | Event::DirtyMerge { .. }
            | Event::VhostMerge { .. }
            | Event::BitmapSync { .. }
            | Event::AfterSync
            | Event::MigrationState { .. }
            | Event::Notify { .. }
            | Event::IterateBegin { .. }
            | Event::IterateEnd { .. }
            | Event::RateLimit { .. }
            | Event::Pass { .. }
            | Event::DstDevice { .. }
            | Event::DstStart
            | Event::VmStop
            | Event::VmStart
            | Event::LinkDown
            | Event::Monitor { .. }
            | Event::LockTake { .. }
            | Event::LockRelease { .. }
            | Event::HostCrash { .. }
            | Event::RingFull { .. }
            | Event::RingReap { .. }
            | Event::RingReset { .. }
            | Event::ChannelSync { .. }
            | Event::PostcopyStart
            | Event::Throttle { .. }
            | Event::VhostLogStart
            | Event::DstEnd
            | Event::ChannelQueue { .. }
            | Event::ChannelFlush { .. }
            | Event::HintNewId { .. }
            | Event::LinkStall
            | Event::LinkResume
            | Event::DstRefuse { .. }
            | Event::VfioMerge { .. }
            | Event::SnapshotStart
            | Event::GuestRestart
            | Event::MachineReset
            | Event::BitmapExclude { .. }
            | Event::LimitSet { .. }
            | Event::LimitRate { .. }
            | Event::LimitPenalty { .. }
            | Event::LimitSleep { .. }
            | Event::Inject { .. } => None,
        }
    }
}

/// An event with its time and its actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Virtual time, nanoseconds since the guest's first instruction.
    pub at_ns: u64,
    /// Who moved.
    pub actor: Actor,
    /// What happened.
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = EventKind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
    }

    #[test]
    fn a_range_ends_before_its_end() {
        let range = PageRange::new(Pfn(4), 2);
        assert!(range.contains(Pfn(5)));
        assert!(!range.contains(Pfn(6)));
    }
}
