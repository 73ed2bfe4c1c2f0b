//! A naive host for the oracle's tests: every record is a vector of bits, every move is a function, and an oracle watches.

use std::collections::{BTreeSet, VecDeque};

use host::event::{Actor, CmdId, Event, HintElement, HintStatus, Level, MigrationStatus, PageRange, Pfn, PrecopyReason, Stamped};
use host::memory::GuestRam;
use wire::platform::PAGE_SIZE;

use super::{End, Findings, Observed, Oracle, OracleOptions};
use crate::outcome::{Blame, Verdict, Violation};

/// Pages of RAM.
pub(crate) const PAGES: u64 = 64;
/// Pages of a chunk of C.
const CHUNK: u64 = 16;

/// How guest stores are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    ManualClear,
    GetClears,
    Tcg,
}

type Bits = Vec<bool>;

/// What the oracle observes.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) ram: GuestRam,
    pub(crate) k: Bits,
    pub(crate) s: Bits,
    pub(crate) d: Bits,
    pub(crate) v: Bits,
    pub(crate) b: Bits,
    pub(crate) c: Bits,
    pub(crate) n: u64,
    pub(crate) dirtied_last: u64,
    pub(crate) logging: bool,
    pub(crate) wire: BTreeSet<Pfn>,
    pub(crate) there: Vec<Option<[u8; PAGE_SIZE as usize]>>,
    pub(crate) status: MigrationStatus,
    pub(crate) running: bool,
}

impl Observed for Host {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }
    fn recorded(&self, level: Level, word: u64) -> u64 {
        let bits = match level {
            Level::K => &self.k,
            // The naive host has no rings.
            Level::Ring => return 0,
            Level::S => &self.s,
            Level::D => &self.d,
            Level::V => &self.v,
            Level::B => &self.b,
        };
        assert_eq!((word, PAGES), (0, 64));
        (0..PAGES).filter(|pfn| bits[*pfn as usize]).fold(0, |word, pfn| word | 1 << pfn)
    }
    fn on_wire(&self, pfn: Pfn) -> bool {
        self.wire.contains(&pfn)
    }
    fn logging(&self) -> bool {
        self.logging
    }
    fn remaining(&self) -> u64 {
        self.n
    }
    fn bitmap_count(&self) -> u64 {
        self.b.iter().filter(|bit| **bit).count() as u64
    }
    fn dirtied_last(&self) -> u64 {
        self.dirtied_last
    }
    fn destination_page(&self, pfn: Pfn) -> Option<[u8; PAGE_SIZE as usize]> {
        self.there[pfn.0 as usize]
    }
    fn destination_equals(&self, pfn: Pfn) -> bool {
        self.there[pfn.0 as usize].is_some_and(|page| page == self.ram.page(pfn))
    }
    fn destination_equals_at(&self, word: u64, pages: u64) -> u64 {
        let same = |pfn: &u64| pages >> pfn & 1 == 1 && self.destination_equals(Pfn(word * 64 + pfn));
        (0..64).filter(same).fold(0, |equal, pfn| equal | 1 << pfn)
    }
    fn arrived_at(&self, _word: u64) -> u64 {
        u64::MAX
    }

    fn unasked(&self) -> Option<Pfn> {
        None
    }

    fn zeros_there_and_here(&self, _word: u64, _pages: u64) -> u64 {
        0
    }
    fn migration_status(&self) -> MigrationStatus {
        self.status
    }
    fn detached(&self, _pfn: Pfn) -> bool {
        false
    }

    fn destination_stuck_queue(&self) -> Option<usize> {
        None
    }

    fn iothread_references_left(&self) -> u32 {
        0
    }

    fn vm_running(&self) -> bool {
        self.running
    }
}

/// A host, a guest's hint queue, and the oracle that watches both.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) host: Host,
    pub(crate) oracle: Oracle,
    /// Sees the same without keeping details, is cloned and hashed at each event, and must come to the same hash and the same defects.
    shadow: Oracle,
    pub(crate) trace: Vec<Event>,
    pub(crate) log: Log,
    pub(crate) queue: VecDeque<(u16, HintElement)>,
    pub(crate) round: HintStatus,
    pub(crate) id: CmdId,
    /// All of K is set when logging starts (KVM_DIRTY_LOG_INITIALLY_SET; manual clear only).
    pub(crate) initially_set: bool,
    heads: u16,
    writes: u64,
}

/// Returns what findings are told apart by, each once.
fn defects(violations: &[Violation]) -> BTreeSet<(&'static str, Verdict, Blame, Option<&'static str>)> {
    violations.iter().map(|violation| (violation.rule, violation.verdict, violation.blame, violation.cause)).collect()
}

fn none() -> Bits {
    vec![false; PAGES as usize]
}

/// Shorthand for a page.
pub(crate) fn p(pfn: u64) -> Pfn {
    Pfn(pfn)
}

impl Bench {
    pub(crate) fn new(log: Log) -> Self {
        Self::with_hints(log, false)
    }

    /// A bench whose guest hints what stays free.
    pub(crate) fn of_free_pages(log: Log) -> Self {
        Self::with_hints(log, true)
    }

    fn with_hints(log: Log, hints_stay_free: bool) -> Self {
        let ram_bytes = PAGES * PAGE_SIZE;
        let host = Host {
            ram: GuestRam::new(ram_bytes),
            k: none(),
            s: none(),
            d: none(),
            v: none(),
            b: none(),
            c: none(),
            n: 0,
            dirtied_last: 0,
            logging: false,
            wire: BTreeSet::new(),
            there: vec![None; PAGES as usize],
            status: MigrationStatus::None,
            running: true,
        };
        let oracle = Oracle::new(OracleOptions {
            pages: PAGES,
            channels: false,
            vcpus: 1,
            ram_bytes,
            hints_stay_free,
            free_pages_are_read: false,
            rom: false,
            hints_first: false,
            throttle_trigger: 50,
            told: None,
        });
        let mut shadow = oracle.clone();
        shadow.drop_details();
        let (queue, round) = (VecDeque::new(), HintStatus::Stop);
        let mut bench = Self {
            host,
            oracle,
            shadow,
            trace: Vec::new(),
            log,
            queue,
            round,
            id: CmdId(wire::balloon::CMD_ID_MIN),
            initially_set: false,
            heads: 0,
            writes: 0,
        };
        for pfn in (0..PAGES).map(Pfn) {
            bench.store(pfn, Actor::Vcpu(0));
        }
        bench
    }

    /// Records an event; returns its index.
    pub(crate) fn emit(&mut self, actor: Actor, event: Event) -> usize {
        let index = self.trace.len();
        self.trace.push(event.clone());
        let at_ns = index as u64 + 1;
        let stamped = Stamped { at_ns, actor, event };
        self.oracle.on_event(index, &stamped, &self.host);
        let before = (self.shadow.clone(), self.shadow.fold());
        self.shadow.on_event(0, &stamped, &self.host);
        assert_eq!(before.0.fold(), before.1, "a clone does not see what happens later");
        index
    }

    /// Changes a page's bytes and marks nothing. Returns the index of the event that will show it.
    pub(crate) fn store(&mut self, pfn: Pfn, by: Actor) -> usize {
        self.writes += 1;
        self.host.ram.write_unlogged(pfn.address(), &self.writes.to_le_bytes());
        let index = self.trace.len();
        self.oracle.on_write(pfn, by, index as u64 + 1, Some(index));
        self.shadow.on_write(pfn, by, 0, None);
        index
    }

    /// Writes a page as a vCPU, DMA or vhost does: with its mark. Returns the index of the write.
    pub(crate) fn write(&mut self, pfn: Pfn, by: Actor) -> usize {
        let index = self.store(pfn, by);
        self.mark(pfn, by);
        let event = self.emit(by, Event::GuestWrite { pfn, len: 8 });
        assert_eq!(event, index);
        index
    }

    /// Marks a page as its writer's kind does.
    pub(crate) fn mark(&mut self, pfn: Pfn, by: Actor) {
        if self.host.logging {
            let level = match by {
                Actor::Vhost => &mut self.host.v,
                Actor::Vcpu(_) if self.log != Log::Tcg => &mut self.host.k,
                _ => &mut self.host.d,
            };
            level[pfn.0 as usize] = true;
        }
    }

    fn set_status(&mut self, to: MigrationStatus) {
        let from = std::mem::replace(&mut self.host.status, to);
        self.emit(Actor::Migration, Event::MigrationState { from, to });
    }

    /// Starts a migration with B as given, and does its first sync.
    pub(crate) fn migrate_from(&mut self, b: Bits) {
        self.set_status(MigrationStatus::Setup);
        self.host.n = b.iter().filter(|bit| **bit).count() as u64;
        self.host.b = b;
        self.host.there = vec![None; PAGES as usize];
        for level in [&mut self.host.k, &mut self.host.s, &mut self.host.d, &mut self.host.v] {
            *level = none();
        }
        if self.initially_set && self.log == Log::ManualClear {
            self.host.k = vec![true; PAGES as usize];
        }
        self.host.logging = true;
        self.emit(Actor::Migration, Event::LogStart);
        self.sync();
        self.set_status(MigrationStatus::Active);
    }

    pub(crate) fn migrate(&mut self) {
        self.migrate_from(vec![true; PAGES as usize]);
    }

    /// GET: K to S; without manual clear K is cleared, too.
    pub(crate) fn get(&mut self, by: Actor) {
        if self.log == Log::Tcg {
            return;
        }
        self.host.s = self.host.k.clone();
        if self.log == Log::GetClears {
            self.host.k = none();
        }
        self.emit(by, Event::DirtyGet { pages: 0 });
    }

    pub(crate) fn merge(&mut self, by: Actor) {
        if self.log == Log::Tcg {
            return;
        }
        for (d, s) in self.host.d.iter_mut().zip(&self.host.s) {
            *d |= *s;
        }
        self.emit(by, Event::DirtyMerge { pages: 0 });
    }

    /// CLEAR: K is cleared where S is set, and S with it.
    pub(crate) fn clear(&mut self, range: PageRange, by: Actor) {
        if self.log != Log::ManualClear {
            return;
        }
        for i in range.pages().map(|pfn| pfn.0 as usize) {
            self.host.k[i] &= !self.host.s[i];
            self.host.s[i] = false;
        }
        self.emit(by, Event::DirtyClear { range, cleared: 0 });
    }

    fn clear_chunk(&mut self, pfn: Pfn, by: Actor) {
        let first = pfn.0 / CHUNK * CHUNK;
        if std::mem::take(&mut self.host.c[first as usize]) {
            self.clear(PageRange::new(Pfn(first), CHUNK), by);
        }
    }

    /// V into D, D into B, C set.
    pub(crate) fn bitmap_sync(&mut self) {
        for (d, v) in self.host.d.iter_mut().zip(&mut self.host.v) {
            *d |= std::mem::take(v);
        }
        self.emit(Actor::Migration, Event::VhostMerge { pages: 0 });
        for i in 0..PAGES as usize {
            self.host.b[i] |= std::mem::take(&mut self.host.d[i]);
        }
        self.host.n = self.host.bitmap_count();
        self.host.c = vec![true; PAGES as usize];
        self.emit(Actor::Migration, Event::BitmapSync { round: 0, before: 0, after: 0 });
    }

    pub(crate) fn hint_stop(&mut self, by: Actor) {
        if self.round != HintStatus::Stop {
            let from = std::mem::replace(&mut self.round, HintStatus::Stop);
            self.emit(by, Event::HintStop { from });
        }
    }

    pub(crate) fn hint_done(&mut self) {
        if self.round != HintStatus::Done {
            let from = std::mem::replace(&mut self.round, HintStatus::Done);
            self.emit(Actor::MainLoop, Event::HintDone { from });
        }
    }

    /// Opens a round; the driver reads its id at once.
    pub(crate) fn hint_request(&mut self) {
        self.id = CmdId(self.id.0 + 1);
        self.round = HintStatus::Requested;
        self.emit(Actor::Migration, Event::HintRequest { id: self.id });
        self.emit(Actor::Vcpu(0), Event::ConfigCmdId { id: self.id });
    }

    pub(crate) fn notify(&mut self, reason: PrecopyReason) {
        self.emit(Actor::Migration, Event::Notify { reason, vm_running: self.host.running });
    }

    /// A whole sync, as the engine does it.
    pub(crate) fn sync(&mut self) {
        self.notify(PrecopyReason::BeforeBitmapSync);
        self.hint_stop(Actor::Migration);
        self.get(Actor::Migration);
        self.merge(Actor::Migration);
        self.bitmap_sync();
        self.notify(PrecopyReason::AfterBitmapSync);
        if self.host.running { self.hint_request() } else { self.hint_done() }
    }

    /// Sends a page, if it is in B; watched or in one move.
    pub(crate) fn send(&mut self, pfn: Pfn, watched: bool) {
        if !self.host.b[pfn.0 as usize] {
            return;
        }
        self.take(pfn);
        if watched {
            self.emit(Actor::Migration, Event::BitmapTake { pfn });
            let page = self.host.ram.page(pfn);
            self.emit(Actor::Migration, Event::RamRead { pfn, zero: false });
            self.emit(Actor::Migration, Event::RamSend { pfn, zero: false, round: 1 });
            self.host.there[pfn.0 as usize] = Some(page);
            self.emit(Actor::Destination, Event::DstPlace { pfn, zero: false });
        } else {
            self.host.there[pfn.0 as usize] = Some(self.host.ram.page(pfn));
            self.emit(Actor::Migration, Event::RamPage { pfn, zero: false, round: 1 });
        }
    }

    /// Takes a page out of B, its chunk cleared first.
    pub(crate) fn take(&mut self, pfn: Pfn) {
        if self.host.running {
            self.clear_chunk(pfn, Actor::Migration);
        }
        self.host.n -= u64::from(std::mem::take(&mut self.host.b[pfn.0 as usize]));
    }

    pub(crate) fn send_all(&mut self) {
        for pfn in (0..PAGES).map(Pfn) {
            self.send(pfn, pfn.0 % 2 == 0);
        }
        self.emit(Actor::Migration, Event::IterateEnd { sent: 0 });
    }

    /// Stops the VM, sends the rest and starts the destination. Returns the index of its start.
    pub(crate) fn complete(&mut self) -> usize {
        self.host.running = false;
        self.emit(Actor::Migration, Event::VmStop);
        self.set_status(MigrationStatus::Device);
        self.sync();
        self.send_all();
        self.emit(Actor::Destination, Event::DstDevice { id: CmdId(1) });
        let start = self.emit(Actor::Destination, Event::DstStart);
        self.set_status(MigrationStatus::Completed);
        start
    }

    pub(crate) fn cancel(&mut self) {
        self.set_status(MigrationStatus::Cancelling);
        self.hint_done();
        self.host.logging = false;
        self.emit(Actor::Migration, Event::LogStop);
        self.set_status(MigrationStatus::Cancelled);
    }

    fn expose(&mut self, element: HintElement) {
        self.heads = (self.heads + 1) % 512;
        self.queue.push_back((self.heads, element));
        self.emit(Actor::Vcpu(0), Event::GuestAdd { queue: 3, head: self.heads });
    }

    /// The guest answers the device's id.
    pub(crate) fn guest_start(&mut self) {
        self.emit(Actor::Vcpu(0), Event::GuestCmdId { id: self.id });
        self.emit(Actor::Vcpu(0), Event::GuestStart { id: self.id });
        self.expose(HintElement::Id(self.id));
    }

    pub(crate) fn hint(&mut self, range: PageRange) {
        self.emit(Actor::Vcpu(0), Event::GuestHint { range, number: 1 });
        self.expose(HintElement::Pages(range));
    }

    pub(crate) fn guest_stop(&mut self) {
        self.emit(Actor::Vcpu(0), Event::GuestStop);
        self.expose(HintElement::Id(CmdId(0)));
    }

    /// The device takes and handles an element. Returns the index of the hint's application, if there was one.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        let (head, element) = self.queue.pop_front()?;
        self.emit(Actor::Iothread, Event::HintPop { head, element });
        let applied = match element {
            HintElement::Id(id) if self.round == HintStatus::Requested && id == self.id => {
                self.round = HintStatus::Start;
                self.emit(Actor::Iothread, Event::HintStart { id });
                None
            }
            HintElement::Id(_)
            | HintElement::Malformed(_)
            | HintElement::OutOfRam(_)
            | HintElement::Last
            | HintElement::Request
            | HintElement::Found(_) => {
                if self.round == HintStatus::Start {
                    self.hint_stop(Actor::Iothread);
                }
                None
            }
            HintElement::Pages(range) if self.round == HintStatus::Start => Some(self.apply(range, range)),
            HintElement::Pages(range) => {
                self.emit(Actor::Iothread, Event::HintIgnore { range, status: self.round });
                None
            }
        };
        self.emit(Actor::Iothread, Event::HintPush { head, len: 0 });
        self.emit(Actor::Vcpu(0), Event::GuestGet { queue: 3, head });
        applied
    }

    pub(crate) fn pop_all(&mut self) {
        while !self.queue.is_empty() {
            self.pop();
        }
    }

    /// Clears `really` from B and its chunks from K, and says that it was `range`. Returns the event's index.
    pub(crate) fn apply(&mut self, range: PageRange, really: PageRange) -> usize {
        let chunks: BTreeSet<u64> = really.pages().map(|pfn| pfn.0 / CHUNK * CHUNK).collect();
        let mut cleared = 0;
        for pfn in really.pages() {
            cleared += u64::from(std::mem::take(&mut self.host.b[pfn.0 as usize]));
        }
        self.host.n -= cleared;
        let mut clears = Vec::new();
        for first in chunks {
            if std::mem::take(&mut self.host.c[first as usize]) && self.log == Log::ManualClear {
                let chunk = PageRange::new(Pfn(first), CHUNK);
                for i in chunk.pages().map(|pfn| pfn.0 as usize) {
                    self.host.k[i] &= !self.host.s[i];
                    self.host.s[i] = false;
                }
                clears.push(chunk);
            }
        }
        let index = self.emit(Actor::Iothread, Event::HintApply { range, id: self.id, cleared });
        for range in clears {
            self.emit(Actor::Iothread, Event::DirtyClear { range, cleared: 0 });
        }
        index
    }

    /// A round in which the guest hints a block and the device takes all.
    pub(crate) fn hint_round(&mut self, range: PageRange) {
        self.guest_start();
        self.hint(range);
        self.guest_stop();
        self.pop_all();
    }

    /// Drops a page's contents as the host does: zeros, no record.
    pub(crate) fn discard(&mut self, range: PageRange) -> usize {
        for pfn in range.pages() {
            self.host.ram.write_unlogged(pfn.address(), &[0; PAGE_SIZE as usize]);
        }
        self.emit(Actor::MainLoop, Event::HostDiscard { range })
    }

    pub(crate) fn finish(self) -> Findings {
        let end = End { time_ns: self.trace.len() as u64, insns: vec![0], at_rest: true, ..End::default() };
        assert_eq!(self.shadow.fold(), self.oracle.fold(), "the hash knows neither details nor the way");
        let shadow = self.shadow.violations_at_end(&self.host, &end);
        let findings = self.oracle.finish(&self.host, end);
        assert_eq!(defects(&shadow), defects(&findings.violations));
        findings
    }
}
