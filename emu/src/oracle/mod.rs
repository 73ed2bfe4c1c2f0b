//! The oracle: folds events into violations and facts.
//!
//! It sees events, writes, and read-only observations ([`Observed`]); never the private state of vCPU, device or migration. What it holds true
//! stands in [`rules`], with sources; the guest's own rules in [`guest_mm`]. Main type: [`Oracle`]; at the end it becomes [`Findings`].
//!
//! Of every page is known whether it was written since it was sent, whoever wrote it (`pages`). From a migration's first sync on, each event that can remove
//! a record of dirtiness makes the oracle look whether the pages concerned still owe a write and have it recorded (`records`); the first
//! event after which one does not is the step that doomed the page. When the destination starts, bytes are compared, and what
//! differs without excuse is lost. Hints are judged by the device's own announcements (`hinting`).

pub mod guest_calls;
pub mod guest_mm;
pub mod rules;

mod arrivals;
mod facts;
#[cfg(test)]
mod fake;
mod free;
mod heads;
mod hinting;
mod judge;
mod locks;
mod loss;
mod pacing;
mod pages;
mod records;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use host::event::{Actor, CmdId, Event, Level, MigrationStatus, Pfn, Stamped};
use host::fold::Fold;
use host::memory::GuestRam;
use wire::platform::{MAX_VCPUS, PAGE_SHIFT, PAGE_SIZE};

use crate::outcome::{Facts, PageFacts, Violation};
use arrivals::Arrivals;
use facts::Counter;
use heads::Heads;
use hinting::Device;
use locks::Held;
use pacing::Pacing;
use pages::{Pages, TraceIndex, place, widened};
use records::{Cause, Records};
use rules::Violations;

/// What the oracle may ask of a world. All answers are of the moment at which the step that emitted the event is complete.
pub trait Observed {
    /// Returns the source's memory.
    fn ram(&self) -> &GuestRam;
    /// Returns which bits are set at this level, of 64 pages: those from 64 times `word` on.
    fn recorded(&self, level: Level, word: u64) -> u64;
    /// Returns whether a copy of the page is sent and not yet placed.
    fn on_wire(&self, pfn: Pfn) -> bool;
    /// Returns whether guest writes are logged.
    fn logging(&self) -> bool;
    /// Returns N, the pages that the engine counts as unsent.
    fn remaining(&self) -> u64;
    /// Returns the number of bits in B.
    fn bitmap_count(&self) -> u64;
    /// Returns how many pages the last sync found newly dirty, as the dirty rate counts them.
    fn dirtied_last(&self) -> u64;
    /// Returns the page at the destination; `None` when it never arrived.
    fn destination_page(&self, pfn: Pfn) -> Option<[u8; PAGE_SIZE as usize]>;
    /// Returns whether the page arrived and equals the source's.
    fn destination_equals(&self, pfn: Pfn) -> bool;
    /// Returns which of these pages of a word (see [`Observed::recorded`]) arrived and equal the source's.
    fn destination_equals_at(&self, word: u64, pages: u64) -> u64;
    /// Returns which pages of a word (see [`Observed::recorded`]) arrived.
    fn arrived_at(&self, word: u64) -> u64;
    /// Returns a page that somebody at the destination waits for, when no request for it is under way, nor its answer.
    fn unasked(&self) -> Option<Pfn>;
    /// Returns which of these pages of a word owe nothing to a destination whose memory starts with zeros.
    fn zeros_there_and_here(&self, word: u64, pages: u64) -> u64;
    /// Returns the status of the last migration.
    fn migration_status(&self) -> MigrationStatus;
    /// Returns whether the source VM runs.
    fn vm_running(&self) -> bool;
    /// Returns whether an assigned device has another frame in a page's place than the guest.
    fn detached(&self, pfn: Pfn) -> bool;
    /// Returns the queue of the destination's balloon with an element that nobody will ever return.
    fn destination_stuck_queue(&self) -> Option<usize>;
    /// Returns the references to the iothread's object that a balloon holds which is not in the machine any more.
    fn iothread_references_left(&self) -> u32;
}

/// What the oracle must know of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OracleOptions {
    /// Pages of RAM.
    pub pages: u64,
    /// Channels send pages: many are taken from B and not yet on the wire.
    pub channels: bool,
    /// Number of vCPUs: that many task mailboxes are in use.
    pub vcpus: u8,
    /// Size of RAM, bytes.
    pub ram_bytes: u64,
    /// Hinted pages stay free for everybody: the guest tells what is free, and promises nothing ([`Dialect::hints_stay_free`]).
    ///
    /// [`Dialect::hints_stay_free`]: wire::dialect::Dialect::hints_stay_free
    pub hints_stay_free: bool,
    /// The guest checks on allocation what it left in a page when it freed it (`page_poison=1`): a page that is free all along is read.
    pub free_pages_are_read: bool,
    /// Page 0 is ROM: no guest can give it away.
    pub rom: bool,
    /// Whoever stops the VM has asked for hints first, and waits for them.
    pub hints_first: bool,
    /// Share of the bytes sent above which those dirtied are too many, percent.
    pub throttle_trigger: u64,
    /// What an operator has told of the switchover, if anything.
    pub told: Option<Told>,
}

/// When a switchover is in order by what an operator has told of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// So much may be left, bytes.
    pub bytes: u64,
    /// And there were that many syncs.
    pub rounds_min: u32,
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// Virtual time, nanoseconds.
    pub time_ns: u64,
    /// Guest instructions, by vCPU.
    pub insns: Vec<u64>,
    /// Steps of all actors.
    pub steps: u64,
    /// Nobody had anything left to do: what should have come home has come.
    pub at_rest: bool,
    /// The longest run of guest instructions with interrupts disabled.
    pub irq_off_insns_max: u64,
    /// The guest's function that disabled them.
    pub irq_off_in: Option<String>,
}

/// What tells the parts of the oracle's hash from each other, and from those of a host.
mod tag {
    pub(super) const RECORDS: u64 = 0x1_0100;
    pub(super) const DEVICE: u64 = 0x1_0101;
    pub(super) const HEADS: u64 = 0x1_0102;
    pub(super) const HAS_MIGRATED: u64 = 0x1_0103;
    pub(super) const VIOLATIONS: u64 = 0x1_0104;
    pub(super) const DRIVER: u64 = 0x1_0105;
    pub(super) const ARRIVALS: u64 = 0x1_0106;
    pub(super) const PACING: u64 = 0x1_0107;
}

/// Folds events into violations and facts.
#[derive(Debug, Clone)]
pub struct Oracle {
    options: OracleOptions,
    pages: Pages,
    records: Records,
    arrivals: Arrivals,
    device: Device,
    heads: Heads,
    counter: Counter,
    violations: Violations,
    /// The id that the driver has read last.
    id_read: CmdId,
    /// A shrinker runs.
    shrinking: bool,
    pacing: Pacing,
    held: Held,
    lost: Vec<Pfn>,
    excused: BTreeMap<Pfn, &'static str>,
}

/// What the oracle found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Broken rules, in the order of discovery.
    pub violations: Vec<Violation>,
    /// Numbers.
    pub facts: Facts,
    /// Pages that were lost, each, in order: violations name the first of a run of pages.
    pub lost: Vec<Pfn>,
    /// Pages that differed when the destination started, rightly, and why.
    pub excused: BTreeMap<Pfn, &'static str>,
    /// Writes whose last record was lost, and which arrived all the same with a later one.
    pub near_misses: u64,
    pages: Pages,
}

impl Findings {
    /// Returns what became of a page (of a name that never got one, when `None`).
    pub fn page(&self, pfn: Option<Pfn>, world: &dyn Observed) -> PageFacts {
        let Some(pfn) = pfn.filter(|pfn| self.pages.contains(*pfn)) else {
            return PageFacts { pfn, sent: 0, source_byte: 0, destination_byte: None, equal: false, excused: None };
        };
        let (at, bit) = place(pfn);
        PageFacts {
            pfn: Some(pfn),
            sent: u64::from(self.pages.detail(pfn).sent),
            source_byte: world.ram().page(pfn)[0],
            destination_byte: world.destination_page(pfn).map(|bytes| bytes[0]),
            equal: world.destination_equals(pfn),
            excused: self.pages.marks(at).excuse(bit),
        }
    }
}

impl Oracle {
    /// Returns an oracle that has seen nothing.
    ///
    /// # Panics
    /// When the options contradict each other.
    pub fn new(options: OracleOptions) -> Self {
        assert_eq!(options.pages << PAGE_SHIFT, options.ram_bytes);
        assert!(usize::from(options.vcpus) <= MAX_VCPUS);
        Self {
            options,
            pages: Pages::new(options.pages),
            records: Records::new(options.channels),
            arrivals: Arrivals::default(),
            device: Device::new(),
            heads: Heads::default(),
            counter: Counter::new(options.pages),
            violations: Violations::default(),
            id_read: CmdId(0),
            shrinking: false,
            pacing: Pacing::default(),
            held: Held::default(),
            lost: Vec::new(),
            excused: BTreeMap::new(),
        }
    }

    /// From here on nothing is kept that only reports tell: times, indices in the trace, counts, lists of pages. For searches, which find
    /// out what they want to report by another run; violations name rule, page, blame and cause all the same.
    pub fn drop_details(&mut self) {
        self.pages.drop_details();
        self.counter.drop_details();
    }

    /// Returns the hash of all that the oracle's future judgement depends on, and of nothing else (see [`host::fold`]).
    pub fn fold(&self) -> u128 {
        let Self {
            options: _,
            pages,
            records,
            arrivals,
            device,
            heads,
            counter,
            violations,
            id_read,
            shrinking,
            pacing,
            held: _,
            lost: _,
            excused: _,
        } = self;
        let mut fold = Fold::default();
        pages.fold(records.migrating, &mut fold);
        records.fold(tag::RECORDS, &mut fold);
        arrivals.fold(tag::ARRIVALS, &mut fold);
        device.fold(tag::DEVICE, &mut fold);
        heads.fold(tag::HEADS, &mut fold);
        fold.part(tag::DRIVER, 0, &(id_read, shrinking));
        fold.word(tag::HAS_MIGRATED, 0, u64::from(counter.has_migrated()));
        pacing.fold(tag::PACING, &mut fold);
        violations.fold(tag::VIOLATIONS, &mut fold);
        fold.sum()
    }

    /// A rule of the guest's is broken as of the last event.
    pub(crate) fn guest_broke(&mut self, violation: Violation, index: usize) {
        self.violations.add(violation.rule, || Violation { doom: index.checked_sub(1), ..violation });
    }

    /// Returns whether a rule is broken so far.
    pub fn is_content(&self) -> bool {
        self.violations.is_empty()
    }

    /// Takes note of a write. `trace_index` is the event that shows it, if one does.
    ///
    /// Of a guest's stores to a page the first counts, until somebody looks at the page again: the host reads, sends or hints it, GET or a
    /// sync takes its mark, or the guest announces it as a hint, a report or for the balloon.
    pub fn on_write(&mut self, pfn: Pfn, by: Actor, at_ns: u64, trace_index: Option<usize>) {
        if self.pages.contains(pfn) {
            self.pages.write(pfn, by, at_ns, trace_index.map_or(TraceIndex::NONE, TraceIndex::new));
            self.records.wrote(pfn);
            self.arrivals.wrote(pfn);
        }
    }

    /// A step is complete: whether what it wrote is recorded is looked at now, not first with the next event, whosever that is. `index` is that
    /// event's place. So states after the same steps are the same.
    pub fn end_of_step(&mut self, index: usize, world: &dyn Observed) {
        self.records.settle(&mut self.pages, index, world);
    }

    /// Takes note of pages of a word that were each sent whole, where details are dropped: what [`Event::RamPage`] for each would tell.
    ///
    /// # Panics
    /// When details are kept.
    pub fn on_pages(&mut self, index: usize, word: u64, bits: u64, world: &dyn Observed) {
        assert!(!self.pages.keeps_details(), "each page's story is wanted");
        self.records.settle(&mut self.pages, index, world);
        self.send_word(index, word, bits);
        pages::pages_of(word, bits & self.arrivals.too_late(word)).for_each(|pfn| self.save(index, pfn));
        self.place_word(index, word, bits, world);
        self.look_at_waiting(index, world);
    }

    /// Takes note of an event, once the step that emitted it is complete.
    pub fn on_event(&mut self, index: usize, stamped: &Stamped, world: &dyn Observed) {
        self.records.settle(&mut self.pages, index, world);
        self.pace(index, stamped);
        self.look_at_locks(index, stamped);
        match &stamped.event {
            Event::RamPage { pfn, zero, round: _ } => {
                self.save(index, *pfn);
                self.read(*pfn);
                self.send(index, *pfn, *zero);
                let (at, bit) = place(*pfn);
                self.place_word(index, at, bit, world);
                self.look_at_waiting(index, world);
            }
            Event::BitmapTake { pfn } => {
                self.records.take(&mut self.pages, *pfn, index);
                self.look_at_waiting(index, world);
            }
            Event::DstPlace { pfn, zero: _ } => {
                let (at, bit) = place(*pfn);
                self.place_word(index, at, bit, world);
            }
            Event::DstRequest { pfn } => self.request(index, *pfn, world),
            Event::DstEnd => self.end_of_stream(index, world),
            Event::SnapshotStart => self.start_snapshot(),
            Event::PostcopyStart => {
                self.counter.destination_start(stamped.at_ns);
                self.start_without_all(index, world);
            }
            Event::RamRead { pfn, zero: _ } => {
                self.save(index, *pfn);
                self.read(*pfn);
            }
            Event::RamSend { pfn, zero, round: _ } => self.send(index, *pfn, *zero),
            Event::RamDelta { pfn, len, round: _ } => self.send_delta(index, *pfn, *len),
            Event::RamSkip { pfn } => self.records.sent(*pfn),
            Event::DirtyMark { pfn, level: _ } => {
                if self.pages.contains(*pfn) {
                    self.pages.mark(*pfn);
                }
                self.records.look(&mut self.pages, *pfn, TraceIndex::new(index), Cause::Unmarked, world);
            }
            Event::DirtyGet { pages: _ } => {
                self.records.get();
                if stamped.actor != Actor::Display {
                    self.records.begin_sync(&mut self.pages);
                }
                self.look_everywhere(index, Cause::SyncDropped, world);
            }
            Event::RingReap { pages: _ } => {
                self.records.get();
                // The reaper, or a vCPU whose ring is full, begins no sync.
                if stamped.actor == Actor::Migration {
                    self.records.begin_sync(&mut self.pages);
                }
                self.look_everywhere(index, Cause::SyncDropped, world);
            }
            Event::DirtyMerge { pages: _ } => {
                self.records.merge();
                // A display's refresh, or the end of a slot: no sync, and what was dirty before the round is found again.
                if stamped.actor != Actor::Migration {
                    self.device.merged();
                }
                self.look_everywhere(index, Cause::SyncDropped, world);
            }
            Event::IommuUnmap { range } => {
                self.records.look_range(&mut self.pages, *range, index, |_, _| Cause::Unmapped, world);
            }
            Event::VhostMerge { pages: _ } | Event::VfioMerge { pages: _ } => self.look_everywhere(index, Cause::SyncDropped, world),
            Event::DirtyClear { range, cleared: _ } => {
                self.records.look_range(&mut self.pages, widened(*range), index, |_, _| Cause::ClearedUnmerged, world);
            }
            Event::LogStart => self.log_start(world),
            Event::SlotCreate { range } => self.slot_created(*range, world),
            Event::ChannelFlush { channels: _ } => self.flush(index),
            Event::SlotDelete { range } => {
                self.records.look_range(&mut self.pages, widened(*range), index, |_, _| Cause::ClearedUnmerged, world);
            }
            Event::BitmapSync { round: _, before, after } => self.bitmap_sync(index, after.wrapping_sub(*before), world),
            Event::BitmapStore { range } => {
                self.records.look_range(&mut self.pages, widened(*range), index, |_, _| Cause::WordOverwritten, world);
            }
            Event::IterateEnd { sent: _ } => self.count_bitmap(index, world),
            Event::LogStop => self.look_everywhere(index, Cause::LogStopped, world),
            Event::VfioWrite { range } => self.vfio_write(index, *range, world),
            Event::MigrationState { from: _, to } => {
                self.end_snapshot(index, *to);
                self.migration_state(index, *to, world);
            }
            Event::VmStop => {
                self.counter.vm_stop(stamped.at_ns);
                if stamped.actor == Actor::Migration {
                    self.stopped_for_good(index);
                }
            }
            Event::DstRefuse { message } => self.device_refused(index, message),
            Event::DstDevice { id } => {
                self.counter.destination_device(*id);
                self.arrivals.save_device();
            }
            Event::DstStart => {
                self.counter.destination_start(stamped.at_ns);
                self.compare(index, world);
                self.look_at_moved_queues(index, world);
            }
            Event::GuestHint { range, number: _ } => {
                self.counter.hint();
                self.expose_hint(*range);
            }
            Event::GuestReport { range } => self.expose_report(*range),
            Event::GuestMissing { free, total } => self.guest_missing(index, *free, *total),
            Event::GuestInflate { pfn } => self.tell_inflated(*pfn, world),
            Event::BalloonInflate { pfn } => self.inflate(*pfn),
            Event::GuestDeflate { pfn } => {
                self.deflate(*pfn);
                self.deflated_by_shrinker(index);
            }
            Event::BalloonDeflate { pfn } => self.deflate(*pfn),
            Event::GuestCmdId { id } => self.id_read = *id,
            Event::GuestShrink { .. } => self.shrinking = true,
            Event::GuestActual { .. } | Event::GuestOom | Event::GuestTaskDone { .. } | Event::GuestWorkDone { .. } => {
                self.shrinking = false
            }
            Event::BalloonReport { range } => self.report_taken(*range),
            Event::MemPlug { range } => self.plug(*range, true),
            Event::MemUnplug { range } => self.plug(*range, false),
            Event::HostDiscard { range } => {
                self.host_discard(index, *range);
                self.drop_where_it_runs(*range);
            }
            Event::ConfigCmdId { id } => self.counter.cmd_id(*id),
            Event::HintRequest { id } => {
                self.pages.request();
                self.device.request(*id);
            }
            Event::HintStart { id } => self.hint_start(index, *id),
            Event::HintStop { from: _ } => {
                if stamped.actor == Actor::Iothread {
                    self.device.stop_by_driver()
                } else {
                    self.device.stop()
                }
            }
            Event::HintDone { from: _ } => {
                self.counter.cmd_id(CmdId(wire::balloon::CMD_ID_DONE));
                self.device.done();
            }
            Event::HintPop { head, element } => self.hint_pop(index, *head, element, world),
            Event::GuestStart { id } => {
                self.round_starts(index, *id);
                self.device.tell(*id);
            }
            Event::GuestStop => self.device.tell(CmdId(wire::balloon::CMD_ID_STOP)),
            Event::HintApply { range, id, cleared } => self.hint_apply(index, *range, *id, *cleared, world),
            Event::HintIgnore { range, status: _ } => self.device.judged(*range),
            Event::DeviceBroken { queue: _ } => self.device.broken(),
            Event::HintAsk { head, id: _ } => self.hint_ask(index, *head),
            Event::HintPush { head, len: _ } => self.hint_push(index, *head),
            Event::BalloonOddStats { odd } => self.odd_stats(index, *odd),
            Event::GuestReady => self.counter.ready(world.ram()),
            // The counts of free pages change under a zone's lock, and only down or only up under each.
            Event::GuestUnlock { lock } if u64::from(*lock) == wire::debug::lock::ZONE => self.counter.free_pages(world.ram()),
            Event::GuestAdd { queue, head } => self.guest_add(index, *queue, *head),
            Event::GuestGet { queue, head } => self.guest_get(index, *queue, *head),
            Event::DeviceStatus { status } => self.device_status(*status),
            Event::MachineReset => self.machine_reset(),
            Event::GuestAlloc { range } => self.guest_alloc(*range),
            Event::GuestFree { range } => self.guest_free(*range),
            // The rest tells the oracle nothing: the rules speak of records, hints, sends and heads.
            Event::GuestAllocFail { .. }
            | Event::GuestWrite { .. }
            | Event::GuestReclaim { .. }
            | Event::GuestReturn { .. }
            | Event::GuestKick { .. }
            | Event::GuestIrq { .. }
            | Event::GuestLock { .. }
            | Event::GuestUnlock { .. }
            | Event::GuestIsolate { .. }
            | Event::GuestPutback { .. }
            | Event::GuestDequeue { .. }
            | Event::GuestMigratePage { .. }
            | Event::GuestMigrateDone { .. }
            | Event::GuestTask { .. }
            | Event::GuestNamed { .. }
            | Event::GuestWork { .. }
            | Event::GuestWarn { .. }
            | Event::GuestCrash { .. }
            | Event::DeviceIrq { .. }
            | Event::Notify { .. }
            | Event::BalloonStats { .. }
            | Event::AfterSync
            | Event::IterateBegin { .. }
            | Event::RateLimit { .. }
            | Event::Pass { .. }
            | Event::VmStart
            | Event::LinkDown
            | Event::Monitor { .. }
            | Event::DmaWrite { .. }
            | Event::VhostWrite { .. }
            | Event::DeviceKick { .. }
            | Event::HintWake
            | Event::HintQuiet
            | Event::HintSleep
            | Event::LockTake { .. }
            | Event::LockRelease { .. }
            | Event::HostCrash { .. }
            | Event::RingFull { .. }
            | Event::RingReset { .. }
            | Event::BitmapLoad { .. }
            | Event::ChannelSync { .. }
            | Event::DstDiscard { .. }
            | Event::DstFault { .. }
            | Event::SnapshotFault { .. }
            | Event::SnapshotUnprotect { .. }
            | Event::Throttle { .. }
            | Event::VhostLogStart
            | Event::Pin { .. }
            | Event::ChannelQueue { .. }
            | Event::HintNewId { .. }
            | Event::LinkStall
            | Event::LinkResume
            | Event::VhostQueue { .. }
            | Event::GuestRestart
            | Event::MemBusy { .. }
            | Event::BitmapExclude { .. }
            | Event::LimitSet { .. }
            | Event::LimitRate { .. }
            | Event::LimitPenalty { .. }
            | Event::LimitSleep { .. }
            | Event::ReturnRequest { .. }
            | Event::Inject { .. } => {}
        }
    }

    /// Returns the broken rules if the run ends here: what [`Oracle::finish`] would find.
    pub fn violations_at_end(&self, world: &dyn Observed, end: &End) -> Vec<Violation> {
        let held = if end.at_rest { guest_mm::held_blocks(world.ram()).unwrap_or(0) } else { 0 };
        self.all_violations(held, world, end).finish()
    }

    fn all_violations(&self, held: u64, world: &dyn Observed, end: &End) -> Violations {
        let mut violations = self.violations.clone();
        if end.at_rest {
            self.broken_at_rest(held, world).into_iter().for_each(|violation| violations.add(violation.rule, || violation));
        }
        violations
    }

    /// Ends the run.
    pub fn finish(self, world: &dyn Observed, end: End) -> Findings {
        let held = guest_mm::held_blocks(world.ram()).unwrap_or(0);
        Findings {
            violations: self.all_violations(held, world, &end).finish(),
            facts: self.counter.finish(end, held),
            lost: self.lost,
            excused: self.excused,
            near_misses: self.records.near_misses,
            pages: self.pages,
        }
    }
}
