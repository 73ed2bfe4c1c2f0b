//! The oracle: folds events into violations and facts.
//!
//! It sees events, writes, and read-only observations ([`Observed`]); never the private state of vCPU, device or migration. What it holds true
//! stands in [`rules`], with sources; the guest's own rules in [`guest_mm`]. Main type: [`Oracle`]; at the end it becomes [`Findings`].
//!
//! Every page has a version, raised by every write whoever made it ([`pages`]). From a migration's first sync on, each event that can remove
//! a record of dirtiness makes the oracle look whether the pages concerned still owe a write and have it recorded ([`records`]); the first
//! event after which one does not is the step that doomed the page. When the destination starts, bytes are compared, and what
//! differs without excuse is lost. Hints are judged by the device's own announcements ([`hinting`]).

pub mod guest_mm;
pub mod rules;

mod facts;
mod heads;
mod hinting;
mod pages;
mod records;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use host::event::{Actor, CmdId, Event, Level, MigrationStatus, PageRange, Pfn, PrecopyReason, Stamped};
use host::memory::GuestRam;
use wire::platform::{MAILBOX, MAX_VCPUS, PAGE_SHIFT, PAGE_SIZE};

use crate::outcome::{Blame, Facts, PageFacts, Verdict, Violation};
use facts::Counter;
use heads::Heads;
use hinting::Device;
use pages::{Page, Pages, TraceIndex, flag, widened};
use records::{Cause, Records};
use rules::Violations;

/// What the oracle may ask of a world. All answers are of the moment at which the step that emitted the event is complete.
pub trait Observed {
    /// Returns the source's memory.
    fn ram(&self) -> &GuestRam;
    /// Returns whether the page's bit is set at this level.
    fn recorded(&self, level: Level, pfn: Pfn) -> bool;
    /// Returns whether a copy of the page is sent and not yet placed.
    fn on_wire(&self, pfn: Pfn) -> bool;
    /// Returns whether guest writes are logged.
    fn logging(&self) -> bool;
    /// Returns N, the pages that the engine counts as unsent.
    fn remaining(&self) -> u64;
    /// Returns the number of bits in B.
    fn bitmap_count(&self) -> u64;
    /// Returns the page at the destination; `None` when it never arrived.
    fn destination_page(&self, pfn: Pfn) -> Option<[u8; PAGE_SIZE as usize]>;
    /// Returns whether the page arrived and equals the source's.
    fn destination_equals(&self, pfn: Pfn) -> bool;
    /// Returns the status of the last migration.
    fn migration_status(&self) -> MigrationStatus;
    /// Returns whether the source VM runs.
    fn vm_running(&self) -> bool;
}

/// What the oracle must know of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OracleOptions {
    /// Pages of RAM.
    pub pages: u64,
    /// Number of vCPUs: that many task mailboxes are in use.
    pub vcpus: u8,
    /// Size of RAM, bytes.
    pub ram_bytes: u64,
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
}

/// A page lost in the way of its neighbours is told with them.
#[derive(Debug, Clone)]
struct Loss {
    range: PageRange,
    write: TraceIndex,
    doom: usize,
    cause: Cause,
    writer: Actor,
    write_at_ns: u64,
}

/// Folds events into violations and facts.
#[derive(Debug, Clone)]
pub struct Oracle {
    options: OracleOptions,
    pages: Pages,
    records: Records,
    device: Device,
    heads: Heads,
    counter: Counter,
    violations: Violations,
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
        let known = pfn.and_then(|pfn| self.pages.get(pfn).map(|page| (pfn, page)));
        let Some((pfn, page)) = known else {
            return PageFacts { pfn, sent: 0, source_byte: 0, destination_byte: None, equal: false, excused: None };
        };
        PageFacts {
            pfn: Some(pfn),
            sent: u64::from(page.sent),
            source_byte: world.ram().page(pfn)[0],
            destination_byte: world.destination_page(pfn).map(|bytes| bytes[0]),
            equal: world.destination_equals(pfn),
            excused: page.excuse(),
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
            records: Records::new(),
            device: Device::new(),
            heads: Heads::default(),
            counter: Counter::new(options.pages),
            violations: Violations::default(),
            lost: Vec::new(),
            excused: BTreeMap::new(),
        }
    }

    /// Returns whether a rule is broken so far.
    pub fn is_content(&self) -> bool {
        self.violations.is_empty()
    }

    /// Takes note of a write. `trace_index` is the event that shows it, if one does.
    ///
    /// Of a guest's stores the first counts, until the host looks at the page again (reads, sends, syncs or hints it).
    pub fn on_write(&mut self, pfn: Pfn, by: Actor, at_ns: u64, trace_index: Option<usize>) {
        let epoch = self.records.epoch;
        if let Some(page) = self.pages.get_mut(pfn) {
            page.write(by, at_ns, trace_index.map_or(TraceIndex::NONE, TraceIndex::new), epoch);
            self.records.wrote(pfn);
        }
    }

    /// Takes note of an event, once the step that emitted it is complete.
    pub fn on_event(&mut self, index: usize, stamped: &Stamped, world: &dyn Observed) {
        self.records.settle(&mut self.pages, index, world);
        match &stamped.event {
            Event::RamPage { pfn, zero, round: _ } => {
                self.read(*pfn);
                self.send(index, *pfn, *zero);
            }
            Event::BitmapTake { pfn } => self.records.take(&mut self.pages, *pfn, index),
            Event::RamRead { pfn, zero: _ } => self.read(*pfn),
            Event::RamSend { pfn, zero, round: _ } => self.send(index, *pfn, *zero),
            Event::DirtyMark { pfn, level: _ } => {
                self.records.look(&mut self.pages, *pfn, TraceIndex::new(index), Cause::Unmarked, world);
            }
            Event::DirtyGet { pages: _ } => {
                self.records.get();
                if stamped.actor != Actor::Display {
                    self.records.begin_sync();
                }
                self.look_everywhere(index, Cause::SyncDropped, world);
            }
            Event::DirtyMerge { pages: _ } => {
                self.records.merge();
                if stamped.actor == Actor::Display {
                    self.device.merged();
                }
                self.look_everywhere(index, Cause::SyncDropped, world);
            }
            Event::VhostMerge { pages: _ } => self.look_everywhere(index, Cause::SyncDropped, world),
            Event::DirtyClear { range, cleared: _ } => {
                self.records.look_range(&mut self.pages, widened(*range), index, Cause::ClearedUnmerged, world);
            }
            Event::BitmapSync { round: _, before: _, after: _ } => self.bitmap_sync(index, world),
            Event::IterateEnd { sent: _ } => {
                self.records.drop_hand(&mut self.pages, None);
                self.count_bitmap(index, world);
            }
            Event::LogStop => self.look_everywhere(index, Cause::LogStopped, world),
            Event::MigrationState { from: _, to } => self.migration_state(*to),
            Event::Notify { reason, vm_running: _ } => {
                self.counter.notify(*reason);
                if *reason == PrecopyReason::BeforeBitmapSync {
                    self.records.begin_sync();
                }
            }
            Event::VmStop => self.counter.vm_stop(stamped.at_ns),
            Event::DstDevice { id } => self.counter.destination_device(*id),
            Event::DstStart => self.destination_start(index, stamped.at_ns, world),
            Event::GuestHint { range, number: _ } => {
                self.counter.hint();
                self.expose(*range, flag::HINT_EXPOSED | flag::EVER_HINTED);
            }
            Event::GuestReport { range } => self.expose(*range, flag::REPORT_EXPOSED),
            Event::GuestInflate { pfn } | Event::BalloonInflate { pfn } => self.inflate(*pfn),
            Event::GuestDeflate { pfn } | Event::BalloonDeflate { pfn } => self.deflate(*pfn),
            Event::BalloonReport { range } => self.report_taken(*range),
            Event::HostDiscard { range } => self.host_discard(index, *range),
            Event::HintRequest { id } => {
                self.counter.announce(*id);
                self.device.request(*id, self.records.epoch);
            }
            Event::HintStart { id } => self.hint_start(index, *id),
            Event::HintStop { from: _ } => {
                self.counter.hint_stop(stamped.actor);
                self.device.stop();
            }
            Event::HintDone { from: _ } => {
                self.counter.announce(CmdId(wire::balloon::CMD_ID_DONE));
                self.device.done();
            }
            Event::HintPop { head, element } => self.device.pop(*head, element),
            Event::HintApply { range, id, cleared } => self.hint_apply(index, *range, *id, *cleared, world),
            Event::HintPush { head, len: _ } => self.hint_push(index, *head),
            Event::GuestAdd { queue, head } => self.guest_add(index, *queue, *head),
            Event::GuestGet { queue, head } => self.guest_get(index, *queue, *head),
            Event::DeviceStatus { status } => self.device_status(*status),
            // The rest tells the oracle nothing: the rules speak of records, hints, sends and heads.
            Event::GuestReady
            | Event::GuestAlloc { .. }
            | Event::GuestFree { .. }
            | Event::GuestAllocFail { .. }
            | Event::GuestWrite { .. }
            | Event::GuestReclaim { .. }
            | Event::GuestReturn { .. }
            | Event::GuestCmdId { .. }
            | Event::GuestStart { .. }
            | Event::GuestStop
            | Event::GuestKick { .. }
            | Event::GuestIrq { .. }
            | Event::GuestLock { .. }
            | Event::GuestUnlock { .. }
            | Event::GuestActual { .. }
            | Event::GuestShrink { .. }
            | Event::GuestOom
            | Event::GuestTask { .. }
            | Event::GuestTaskDone { .. }
            | Event::GuestNamed { .. }
            | Event::GuestWork { .. }
            | Event::GuestWorkDone { .. }
            | Event::GuestWarn { .. }
            | Event::GuestCrash { .. }
            | Event::DeviceIrq { .. }
            | Event::DeviceBroken { .. }
            | Event::ConfigCmdId { .. }
            | Event::HintIgnore { .. }
            | Event::BalloonStats { .. }
            | Event::LogStart
            | Event::AfterSync
            | Event::IterateBegin { .. }
            | Event::RateLimit { .. }
            | Event::Pass { .. }
            | Event::DstPlace { .. }
            | Event::VmStart
            | Event::LinkDown
            | Event::Monitor { .. }
            | Event::DmaWrite { .. }
            | Event::VhostWrite { .. }
            | Event::LockTake { .. }
            | Event::LockRelease { .. }
            | Event::Inject { .. } => {}
        }
    }

    /// Ends the run.
    pub fn finish(mut self, world: &dyn Observed, end: End) -> Findings {
        let held = guest_mm::held_blocks(world.ram()).unwrap_or(0);
        if end.at_rest {
            self.leak(held, world);
            if let Some(head) = self.device.held_head() {
                self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, None, Blame::Host, || format!("head {head} was never returned"));
            }
        }
        Findings {
            violations: self.violations.finish(),
            facts: self.counter.finish(end, held),
            lost: self.lost,
            excused: self.excused,
            near_misses: self.records.near_misses,
            pages: self.pages,
        }
    }
}

/// What events do.
impl Oracle {
    fn break_rule(&mut self, rule: &'static str, doom: Option<usize>, blame: Blame, what: impl FnOnce() -> String) {
        let verdict = Verdict::BrokenRule;
        self.violations.add(rule, || Violation { rule, verdict, page: None, write: None, doom, blame, what: what() });
    }

    fn look_everywhere(&mut self, index: usize, cause: Cause, world: &dyn Observed) {
        let all = self.pages.all();
        self.records.look_range(&mut self.pages, all, index, cause, world);
    }

    fn read(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn) {
            page.sent_version = page.version;
            self.records.near_misses += u64::from(page.cause.take().is_some());
        }
    }

    fn send(&mut self, index: usize, pfn: Pfn, zero: bool) {
        self.records.sent(pfn);
        let Some(page) = self.pages.get_mut(pfn) else { return };
        page.sent += 1;
        self.counter.send(zero, page.sent == 1);
        if page.has(flag::NEED_NOT_SEND) {
            page.flags &= !flag::NEED_NOT_SEND;
            let rule = rules::HINTED_PAGE_IS_NOT_SENT;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::OverSend,
                page: Some(pfn),
                write: None,
                doom: Some(index),
                blame: Blame::Host,
                what: format!("page {pfn} was sent though its hint was applied and nobody wrote it since the sync before the round"),
            });
        }
    }

    fn bitmap_sync(&mut self, index: usize, world: &dyn Observed) {
        self.counter.sync();
        self.records.drop_hand(&mut self.pages, None);
        self.records.end_sync();
        self.device.synced();
        self.look_everywhere(index, Cause::SyncDropped, world);
        self.count_bitmap(index, world);
    }

    fn count_bitmap(&mut self, index: usize, world: &dyn Observed) {
        let (remaining, bits) = (world.remaining(), world.bitmap_count());
        if remaining != bits {
            self.break_rule(rules::N_EQUALS_POPCOUNT, Some(index), Blame::Host, || format!("N is {remaining}, but B has {bits} bits"));
        }
    }

    fn migration_state(&mut self, to: MigrationStatus) {
        self.counter.migration_state(to);
        match to {
            MigrationStatus::Setup => self.records.start_migration(&mut self.pages),
            MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::Failed
            | MigrationStatus::None => self.records.end_migration(),
            // The claim holds until the destination starts, which may come after the word.
            MigrationStatus::Active | MigrationStatus::Device | MigrationStatus::Completed => {}
        }
    }

    fn expose(&mut self, range: PageRange, flags: u8) {
        self.pages.slice_mut(range).iter_mut().for_each(|page| page.flags |= flags);
    }

    fn inflate(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn) {
            page.flags |= flag::INFLATED;
        }
    }

    fn deflate(&mut self, pfn: Pfn) {
        if let Some(page) = self.pages.get_mut(pfn)
            && page.has(flag::INFLATED)
        {
            page.flags = page.flags & !flag::INFLATED | flag::DEFLATED;
        }
    }

    fn report_taken(&mut self, range: PageRange) {
        for page in self.pages.slice_mut(range).iter_mut().filter(|page| page.has(flag::REPORT_EXPOSED)) {
            page.flags |= flag::REPORTED;
        }
    }

    fn hint_start(&mut self, index: usize, id: CmdId) {
        if !self.device.start(id) {
            self.break_rule(rules::HINT_START_WAS_REQUESTED, Some(index), Blame::Host, || {
                format!("the device started round {id} without having requested it")
            });
        }
    }

    fn hint_push(&mut self, index: usize, head: u16) {
        if !self.device.push(head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("head {head} of the hint queue was returned without having been taken")
            });
        }
    }

    fn guest_add(&mut self, index: usize, queue: u16, head: u16) {
        if !self.heads.add(queue, head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Guest, || {
                format!("head {head} of queue {queue} was exposed again before it was collected")
            });
        }
    }

    fn guest_get(&mut self, index: usize, queue: u16, head: u16) {
        if !self.heads.get(queue, head) {
            self.break_rule(rules::POPPED_HEAD_IS_RETURNED_ONCE, Some(index), Blame::Host, || {
                format!("head {head} of queue {queue} was collected without having been exposed")
            });
        }
    }

    fn device_status(&mut self, status: u32) {
        if status == 0 {
            self.heads.reset();
            self.device.reset_queue();
        }
    }

    /// Judges a hint: which pages it excuses, which it dooms, and whether it was right at all.
    fn hint_apply(&mut self, index: usize, range: PageRange, id: CmdId, cleared: u64, world: &dyn Observed) {
        self.counter.hint_apply(cleared);
        let outside = self.device.why_not(id);
        let in_round = outside.is_none();
        if let Some(reason) = outside {
            self.break_rule(rules::HINT_APPLIED_UNDER_ITS_ID, Some(index), Blame::Host, || {
                format!("hint {range} of round {id} was applied, but {reason}")
            });
        }
        let mut beyond = None;
        for pfn in self.pages.frames(range).map(Pfn) {
            let held = self.device.holds_page(pfn);
            let page = self.pages.get_mut(pfn).expect("cut to RAM");
            if !held {
                beyond = beyond.or(Some(pfn));
            } else if in_round && page.has(flag::HINT_EXPOSED) {
                page.flags |= flag::HINTED;
                if self.device.merged_before_round(page.write_epoch) && !self.records.holds(pfn) && self.records.migrating {
                    page.flags |= flag::NEED_NOT_SEND;
                }
            }
        }
        if let Some(pfn) = beyond {
            self.break_rule(rules::HINT_APPLIED_UNDER_ITS_ID, Some(index), Blame::Host, || {
                format!("page {pfn} was cleared as hinted, but no element that the device holds contains it")
            });
        }
        if self.records.migrating {
            self.look_after_hint(index, range, in_round, world);
            self.count_bitmap(index, world);
        }
    }

    fn look_after_hint(&mut self, index: usize, range: PageRange, in_round: bool, world: &dyn Observed) {
        let applied = self.pages.frames(range);
        for frame in self.pages.frames(widened(range)) {
            let pfn = Pfn(frame);
            let page = self.pages.get(pfn).expect("cut to RAM");
            let cause = if !in_round {
                Cause::HintOutsideRound
            } else if !applied.contains(&frame) || !self.device.holds_page(pfn) {
                Cause::HintBeyondElement
            } else if page.has(flag::EVER_HINTED) {
                Cause::EarlyReuse
            } else {
                Cause::HintUnannounced
            };
            self.records.look(&mut self.pages, pfn, TraceIndex::new(index), cause, world);
        }
    }

    /// Judges a discard: the guest must have given the page up, and for a hint the device must be in a round.
    fn host_discard(&mut self, index: usize, range: PageRange) {
        let in_round = self.device.is_open();
        for pfn in self.pages.frames(range).map(Pfn) {
            let page = self.pages.get_mut(pfn).expect("cut to RAM");
            let given_up = page.has(flag::INFLATED | flag::REPORT_EXPOSED) || (in_round && page.has(flag::HINT_EXPOSED));
            if given_up || page.dropped {
                continue;
            }
            page.dropped = true;
            let early = in_round && page.has(flag::EVER_HINTED);
            let (write, writer, at_ns) = (page.write.get(), page.writer, page.write_at_ns);
            self.lost.push(pfn);
            let rule = rules::DISCARDED_PAGE_WAS_GIVEN_UP;
            self.violations.add(rule, || Violation {
                rule,
                verdict: Verdict::LostPage,
                page: Some(pfn),
                write,
                doom: Some(index),
                blame: if early { Blame::Guest } else { Blame::Host },
                what: if early {
                    format!("page {pfn} was dropped after {writer} wrote it at {at_ns} ns: {}", Cause::EarlyReuse.reason())
                } else {
                    format!("page {pfn} was dropped though the guest had not given it up")
                },
            });
        }
    }

    /// Compares all pages, and says which are lost. From here the source's memory may go its own way.
    fn destination_start(&mut self, index: usize, at_ns: u64, world: &dyn Observed) {
        self.counter.destination_start(at_ns);
        self.records.drop_hand(&mut self.pages, None);
        let mut losses: Vec<Loss> = Vec::new();
        for (pfn, page) in self.pages.iter() {
            if page.dropped || world.destination_equals(pfn) || self.is_only_input(pfn, world) {
                self.records.near_misses += u64::from(page.cause.is_some());
            } else if let Some(excuse) = page.excuse() {
                self.excused.insert(pfn, excuse);
            } else {
                self.lost.push(pfn);
                let loss = Self::loss(page, pfn, index, self.records.recorded(pfn, world));
                match losses.last_mut() {
                    Some(last) if last.continues(&loss) => last.range.count += 1,
                    _ => losses.push(loss),
                }
            }
        }
        for loss in losses {
            self.violations.add(rules::DESTINATION_EQUALS_SOURCE, || loss.violation());
        }
        self.records.end_migration();
    }

    fn loss(page: &Page, pfn: Pfn, index: usize, recorded: bool) -> Loss {
        let (doom, write, cause) = match page.cause {
            Some(cause) => (page.doom.get().unwrap_or(index), page.doomed_write, cause),
            None if page.sent_version == page.version => (index, page.write, Cause::OtherBytes),
            None if recorded => (index, page.write, Cause::LeftBehind),
            None => (index, page.write, Cause::SyncDropped),
        };
        Loss { range: PageRange::page(pfn), write, doom, cause, writer: page.writer, write_at_ns: page.write_at_ns }
    }

    /// Returns whether a task mailbox differs in nothing but what the scenario writes into it: the number of operations, and the operations.
    fn is_only_input(&self, pfn: Pfn, world: &dyn Observed) -> bool {
        let first = MAILBOX >> PAGE_SHIFT;
        if !(first..first + u64::from(self.options.vcpus)).contains(&pfn.0) {
            return false;
        }
        let Some(there) = world.destination_page(pfn) else { return false };
        let here = world.ram().page(pfn);
        let tail = 8..wire::task::HEADER_BYTES as usize;
        let behind = (wire::task::HEADER_BYTES + wire::task::SLOTS * wire::task::OP_BYTES) as usize..;
        here[tail.clone()] == there[tail] && here[behind.clone()] == there[behind]
    }

    fn leak(&mut self, held: u64, world: &dyn Observed) {
        let over = self.device.is_done() || self.counter.has_migrated();
        if held == 0 || !over || !world.vm_running() || world.migration_status().is_running() {
            return;
        }
        let done = self.device.is_done();
        let rule = rules::HINTED_PAGES_COME_HOME;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::Leak,
            page: None,
            write: None,
            doom: None,
            blame: if done { Blame::Guest } else { Blame::Host },
            what: format!("the guest still holds {held} hinted blocks, {} DONE", if done { "after" } else { "and the device has not said" }),
        });
    }
}

impl Loss {
    fn continues(&self, next: &Loss) -> bool {
        self.range.end() == next.range.first
            && (self.write, self.doom, self.cause, self.writer) == (next.write, next.doom, next.cause, next.writer)
    }

    fn violation(&self) -> Violation {
        let Loss { range, write, doom, cause, writer, write_at_ns } = self;
        let who = if *write_at_ns == 0 && write.get().is_none() {
            "its first contents".to_owned()
        } else {
            format!("what {writer} wrote at {write_at_ns} ns")
        };
        Violation {
            rule: rules::DESTINATION_EQUALS_SOURCE,
            verdict: Verdict::LostPage,
            page: Some(range.first),
            write: write.get(),
            doom: Some(*doom),
            blame: cause.blame(),
            what: format!("page {range} does not hold {who}: {}", cause.reason()),
        }
    }
}
