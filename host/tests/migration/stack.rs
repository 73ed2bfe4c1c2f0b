//! The stack of records K, S, V, D, B and C under random operations, against two naive models.
//!
//! One model is the stack itself once more, made of plain sets: every level must agree with it bit by bit. The other knows nothing of
//! levels: it remembers of each page which writes have not been sent, and how far they have come. A hint may forget what has come as far as
//! a sync. A write behind the last GET has not, and survives the hint; but with manual clear it may share the K bit of an older write, and
//! the chunk's CLEAR then takes it along as if it had come as far as that one: whether the hint itself, its neighbour's hint or a
//! neighbour's sending causes the CLEAR, as long as that comes behind the write.

use std::collections::BTreeSet;

use host::dirty::accel::{Accelerator, LogMode, Store, TrackingOptions};
use host::dirty::physmem::DirtyMemory;
use host::dirty::vhost::VhostLog;
use host::event::{Actor, CmdId, PageRange, Pfn};
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::ram::RamState;
use host::step::{Costs, Ctx, Watch};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// One operation; pages are taken modulo the size of RAM.
#[derive(Debug, Clone)]
enum Op {
    Store(u64),
    Dma(u64, u64),
    Vhost(u64, u64),
    /// The next part of a sync: GET, merge, V, D into B.
    SyncPart,
    /// Takes and reads the next page, with its CLEAR.
    Send,
    /// Takes and reads that many.
    SendMany(u64),
    Hint(u64, u64),
    /// A second user of the log clears its pages.
    Display(u64, u64),
    Restart,
    Reap,
    /// The slot of a page is deleted and created.
    Replace(u64),
    /// The next GET fails.
    FailGet,
}

fn op() -> impl Strategy<Value = Op> {
    let page = 0u64..400;
    let count = 1u64..80;
    prop_oneof![
        6 => page.clone().prop_map(Op::Store),
        2 => (page.clone(), 1u64..4).prop_map(|(pfn, count)| Op::Dma(pfn, count)),
        2 => (page.clone(), 1u64..4).prop_map(|(pfn, count)| Op::Vhost(pfn, count)),
        6 => Just(Op::SyncPart),
        4 => Just(Op::Send),
        2 => (1u64..300).prop_map(Op::SendMany),
        3 => (page.clone(), count.clone()).prop_map(|(pfn, count)| Op::Hint(pfn, count)),
        1 => (page.clone(), count).prop_map(|(pfn, count)| Op::Display(pfn, count)),
        1 => page.prop_map(Op::Replace),
        1 => Just(Op::FailGet),
        1 => Just(Op::Reap),
        1 => Just(Op::Restart),
    ]
}

const MODES: [LogMode; 6] = [
    LogMode::ManualClear { initially_set: true },
    LogMode::ManualClear { initially_set: false },
    LogMode::GetClears,
    LogMode::Ring,
    LogMode::Hvf,
    LogMode::Tcg,
];

/// A log, and the memory that it is kept of.
#[derive(Debug, Clone)]
struct Shape {
    mode: LogMode,
    pages: u64,
    shift: u8,
    tracking: TrackingOptions,
}

fn shape() -> impl Strategy<Value = Shape> {
    let memory = (prop::sample::select(vec![64, 100, 128, 192, 321]), 6u8..=8);
    let slots = prop::sample::select(vec![vec![], vec![48], vec![16, 80], vec![64]]);
    (prop::sample::select(MODES.to_vec()), memory, prop::sample::select(vec![1, 1, 4, 16]), slots).prop_map(
        |(mode, (pages, shift), host_page, slots)| {
            let slots = slots.into_iter().map(Pfn).collect();
            Shape { mode, pages, shift, tracking: TrackingOptions { vcpus: 2, host_page, slots, ..TrackingOptions::default() } }
        },
    )
}

/// The levels as sets.
#[derive(Debug, Default)]
struct Sets {
    /// With rings, what stands in them; under HVF, what is not protected.
    k: BTreeSet<u64>,
    /// Reaped and not reset.
    collected: BTreeSet<u64>,
    s: BTreeSet<u64>,
    v: BTreeSet<u64>,
    d: BTreeSet<u64>,
    b: BTreeSet<u64>,
    /// Chunks.
    c: BTreeSet<u64>,
    /// What GET copied and merge has not seen.
    copied: BTreeSet<u64>,
}

/// Where a page's unsent writes are, by the naive account.
#[derive(Debug, Clone, Default)]
struct Unsent {
    /// Behind the last GET.
    fresh: bool,
    /// In V.
    vhost: bool,
    /// Seen by GET, or made by a device; not yet in a sync.
    noted: bool,
    /// In a sync, or from before the migration.
    synced: bool,
}

impl Unsent {
    fn any(&self) -> bool {
        self.fresh || self.vhost || self.noted || self.synced
    }
}

struct Stack {
    mode: LogMode,
    pages: u64,
    shift: u8,
    tracking: TrackingOptions,
    failing_gets: u32,
    accel: Accelerator,
    d: DirtyMemory,
    vhost: VhostLog,
    ram: Option<RamState>,
    tried: bool,
    sync_part: u8,
    /// The sync that is going on has a copy of its own: its GET did not fail.
    copies: bool,
    sets: Sets,
    unsent: Vec<Unsent>,
    guest_ram: GuestRam,
    faults: Faults,
    locks: Locks,
}

impl Stack {
    fn new(shape: Shape, faults: &[Fault]) -> Self {
        let Shape { mode, pages, shift, tracking } = shape;
        let mut stack = Self {
            mode,
            pages,
            shift,
            accel: Accelerator::with(mode, &tracking, pages),
            tracking,
            failing_gets: 0,
            d: DirtyMemory::new(pages),
            vhost: VhostLog::new(pages),
            ram: None,
            tried: false,
            sync_part: 0,
            copies: false,
            sets: Sets { d: (0..pages).collect(), ..Sets::default() },
            unsent: Vec::new(),
            guest_ram: GuestRam::new(4096),
            faults: faults.iter().copied().collect(),
            locks: Locks::default(),
        };
        stack.begin();
        stack
    }

    fn manual(&self) -> bool {
        matches!(self.mode, LogMode::ManualClear { .. } | LogMode::Hvf)
    }

    fn with<T>(
        &mut self,
        f: impl FnOnce(&mut Accelerator, &mut DirtyMemory, &mut VhostLog, &mut Option<RamState>, &mut Ctx<'_>) -> T,
    ) -> T {
        let (costs, watch, mut events) = (Costs::default(), Watch::default(), Vec::new());
        let mut ctx = Ctx {
            actor: Actor::Migration,
            now_ns: 0,
            ram: &self.guest_ram,
            locks: &mut self.locks,
            faults: &self.faults,
            costs: &costs,
            watch: &watch,
            events: &mut events,
        };
        f(&mut self.accel, &mut self.d, &mut self.vhost, &mut self.ram, &mut ctx)
    }

    fn begin(&mut self) {
        let (shift, tried) = (self.shift, self.tried);
        self.with(|accel, d, vhost, ram, ctx| {
            *ram = Some(RamState::new(shift, tried, d, ctx));
            d.set_tracking(true);
            vhost.log_start();
            accel.log_start(ctx);
        });
        self.tried = true;
        self.sync_part = 0;
        let all: BTreeSet<u64> = (0..self.pages).collect();
        self.sets.b = all.clone();
        self.sets.c.clear();
        self.sets.s.clear();
        self.sets.collected.clear();
        self.sets.copied.clear();
        self.sets.v.clear();
        self.sets.k = if self.mode == (LogMode::ManualClear { initially_set: true }) { all } else { BTreeSet::new() };
        self.unsent = vec![Unsent { synced: true, ..Unsent::default() }; self.pages as usize];
        for _ in 0..4 {
            self.sync_part();
        }
    }

    fn restart(&mut self) {
        self.with(|accel, d, vhost, ram, ctx| {
            *ram = None;
            d.set_tracking(false);
            vhost.log_stop();
            accel.log_stop(true, ctx);
        });
        self.begin();
    }

    fn ram(&mut self) -> &mut RamState {
        self.ram.as_mut().expect("made by begin")
    }

    fn range(&self, pfn: u64, count: u64) -> PageRange {
        let first = pfn % self.pages;
        PageRange::new(Pfn(first), count.min(self.pages - first))
    }

    fn clear_sets(&mut self, range: PageRange) {
        for pfn in range.pages().map(|pfn| pfn.0) {
            if self.mode == LogMode::Hvf {
                self.sets.k.remove(&pfn);
            } else if self.sets.s.remove(&pfn) {
                self.sets.k.remove(&pfn);
                // The write behind the GET shared the bit: the older write's record now stands for both.
                let page = &mut self.unsent[pfn as usize];
                let fresh = std::mem::take(&mut page.fresh);
                // S is of this sync, and on its way to B, or of the last one.
                match self.copies {
                    true => page.noted |= fresh,
                    false => page.synced |= fresh,
                }
            }
        }
    }

    fn sync_part(&mut self) {
        let part = self.sync_part;
        self.sync_part = (part + 1) % 4;
        let fails = self.accel.has_get(&self.faults) && self.failing_gets > 0;
        self.copies = if part == 0 { !fails } else { self.copies && part != 3 };
        match part {
            0 if self.mode == LogMode::Ring => self.reap(),
            1 if self.mode == LogMode::Ring => {
                self.reset();
                self.with(|accel, d, _, _, ctx| accel.merge(d, ctx));
                self.sets.s.clear();
                let copied = std::mem::take(&mut self.sets.copied);
                self.sets.d.extend(copied);
            }
            0 if self.mode == LogMode::Hvf && self.accel.has_get(&self.faults) => self.with(|accel, _, _, _, ctx| accel.get(ctx)),
            0 if self.accel.has_get(&self.faults) && self.failing_gets > 0 => {
                self.failing_gets -= 1;
                self.with(|accel, _, _, _, ctx| accel.get(ctx));
            }
            0 if self.accel.has_get(&self.faults) => {
                self.with(|accel, _, _, _, ctx| accel.get(ctx));
                self.sets.s = self.sets.k.clone();
                self.sets.copied = self.sets.k.clone();
                if self.mode == LogMode::GetClears {
                    self.sets.k.clear();
                }
                for page in &mut self.unsent {
                    page.noted |= std::mem::take(&mut page.fresh);
                }
            }
            1 if self.accel.awaits_merge() => {
                self.with(|accel, d, _, _, ctx| accel.merge(d, ctx));
                let copied = std::mem::take(&mut self.sets.copied);
                self.sets.d.extend(copied);
            }
            2 if !self.vhost.is_clear() => {
                self.with(|_, d, vhost, _, ctx| vhost.merge(d, ctx));
                let v = std::mem::take(&mut self.sets.v);
                self.sets.d.extend(v);
                for page in &mut self.unsent {
                    page.noted |= std::mem::take(&mut page.vhost);
                }
            }
            3 => {
                self.with(|accel, d, _, ram, ctx| ram.as_mut().expect("made by begin").sync(d, accel, ctx));
                let d = std::mem::take(&mut self.sets.d);
                self.sets.b.extend(d);
                if self.pages.is_multiple_of(64) {
                    self.sets.c = (0..self.pages).map(|pfn| pfn >> self.shift).collect();
                } else if self.manual() {
                    self.clear_sets(PageRange::new(Pfn(0), self.pages));
                }
                for page in &mut self.unsent {
                    page.synced |= std::mem::take(&mut page.noted);
                }
            }
            _ => {}
        }
    }

    fn reap(&mut self) {
        self.with(|accel, _, _, _, ctx| accel.reap(ctx));
        let k = std::mem::take(&mut self.sets.k);
        for set in [&mut self.sets.s, &mut self.sets.copied, &mut self.sets.collected] {
            set.extend(&k);
        }
        for page in &mut self.unsent {
            page.noted |= std::mem::take(&mut page.fresh);
        }
    }

    fn reset(&mut self) {
        if self.accel.awaits_reset() {
            self.with(|accel, _, _, _, ctx| accel.ring_reset(ctx));
            self.sets.collected.clear();
        }
    }

    /// Returns the pages that share a page's record.
    fn unit(&self, pfn: u64) -> PageRange {
        let count = if self.mode == LogMode::Tcg { 1 } else { u64::from(self.tracking.host_page) };
        self.range(pfn - pfn % count, count)
    }

    /// The main loop does that, and not within a sync. What the slot's log had is merged; all of a new slot is dirty if a log starts so.
    fn replace(&mut self, pfn: u64) {
        if self.sync_part != 0 || matches!(self.mode, LogMode::Hvf | LogMode::Tcg) {
            return;
        }
        let pfn = Pfn(pfn % self.pages);
        self.with(|accel, d, _, _, ctx| {
            accel.collect_slot(pfn, d, ctx);
            accel.replace_slot(pfn, ctx);
        });
        let starts = self.tracking.slots.iter().filter(|start| start.0 < self.pages);
        let first = starts.clone().filter(|start| **start <= pfn).max().map_or(0, |start| start.0);
        let end = starts.filter(|start| **start > pfn).min().map_or(self.pages, |start| start.0);
        let Sets { k, s, d, copied, collected, .. } = &mut self.sets;
        if self.mode == LogMode::Ring {
            d.append(k);
            d.append(copied);
            s.clear();
            collected.clear();
            self.unsent.iter_mut().for_each(|page| page.noted |= std::mem::take(&mut page.fresh));
            return;
        }
        for page in first..end {
            s.remove(&page);
            if k.remove(&page) {
                d.insert(page);
                let unsent = &mut self.unsent[page as usize];
                unsent.noted |= std::mem::take(&mut unsent.fresh);
            }
        }
        if self.mode == (LogMode::ManualClear { initially_set: true }) {
            k.extend(first..end);
        }
    }

    /// The reaper works behind the back of the migration, but not of a sync.
    fn reaper(&mut self) {
        if self.mode == LogMode::Ring && self.sync_part == 0 {
            self.reap();
            self.reset();
        }
    }

    fn store(&mut self, pfn: u64) {
        let pfn = pfn % self.pages;
        let faults = self.faults.clone();
        self.with(|accel, d, _, _, _| accel.guest_store(Store::plain((pfn % 2) as u8, Pfn(pfn)), d, &faults));
        match self.mode {
            LogMode::Tcg => {
                self.sets.d.insert(pfn);
                self.unsent[pfn as usize].noted = true;
            }
            // What is open and not in D any more is still to be sent.
            LogMode::Hvf if self.sets.k.contains(&pfn) && !self.sets.d.contains(&pfn) => self.unsent[pfn as usize].synced = true,
            LogMode::Hvf if self.sets.k.contains(&pfn) => self.unsent[pfn as usize].noted = true,
            LogMode::Hvf => {
                let unit = self.unit(pfn);
                self.sets.k.extend(unit.pages().map(|page| page.0));
                self.sets.d.extend(unit.pages().map(|page| page.0));
                self.unsent[pfn as usize].noted = true;
            }
            LogMode::Ring if self.sets.collected.contains(&pfn) => self.unsent[pfn as usize].noted = true,
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => {
                let unit = self.unit(pfn);
                self.sets.k.extend(unit.pages().map(|page| page.0));
                self.unsent[pfn as usize].fresh = true;
            }
        }
    }

    fn dma(&mut self, range: PageRange) {
        self.d.mark_device_write(&[range], &self.faults);
        for pfn in range.pages().map(|pfn| pfn.0) {
            self.sets.d.insert(pfn);
            self.unsent[pfn as usize].noted = true;
        }
    }

    fn write_vhost(&mut self, range: PageRange) {
        self.vhost.mark(range);
        for pfn in range.pages().map(|pfn| pfn.0) {
            self.sets.v.insert(pfn);
            self.unsent[pfn as usize].vhost = true;
        }
    }

    fn send(&mut self) {
        let Some(pfn) = self.ram().next_dirty() else { return };
        self.with(|accel, _, _, ram, ctx| {
            let ram = ram.as_mut().expect("made by begin");
            if ram.take_chunk(pfn) && accel.has_clear() {
                accel.clear(ram.chunk(pfn), ctx);
            }
            ram.take(pfn);
        });
        if self.sets.c.remove(&(pfn.0 >> self.shift)) && self.manual() {
            self.clear_sets(self.chunk(pfn.0));
        }
        self.sets.b.remove(&pfn.0);
        self.unsent[pfn.0 as usize] = Unsent::default();
    }

    fn chunk(&self, pfn: u64) -> PageRange {
        self.range((pfn >> self.shift) << self.shift, 1 << self.shift)
    }

    fn hint(&mut self, range: PageRange) {
        self.with(|accel, _, _, ram, ctx| ram.as_mut().expect("made by begin").free_page_hint(range, CmdId(1), accel, ctx));
        let chunks: BTreeSet<u64> = range.pages().map(|pfn| pfn.0 >> self.shift).collect();
        for chunk in chunks {
            if self.sets.c.remove(&chunk) && self.manual() {
                self.clear_sets(self.chunk(chunk << self.shift));
            }
        }
        for pfn in range.pages().map(|pfn| pfn.0) {
            self.sets.b.remove(&pfn);
            self.unsent[pfn as usize].synced = false;
        }
    }

    /// A second user of the log clears what it has read from S; like the real one it works on pages that are merged.
    fn display(&mut self, range: PageRange) {
        if !self.manual() || self.sync_part != 0 {
            return;
        }
        self.with(|accel, _, _, _, ctx| accel.clear(range, ctx));
        let count = self.unit(0).count;
        let first = range.first.0.next_multiple_of(count);
        let end = if range.end().0 == self.pages { self.pages } else { range.end().0 - range.end().0 % count };
        self.clear_sets(PageRange::new(Pfn(first), end.saturating_sub(first)));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Store(pfn) => self.store(pfn),
            Op::Dma(pfn, count) => self.dma(self.range(pfn, count)),
            Op::Vhost(pfn, count) => self.write_vhost(self.range(pfn, count)),
            Op::SyncPart => self.sync_part(),
            Op::Send => self.send(),
            Op::SendMany(count) => (0..count).for_each(|_| self.send()),
            Op::Hint(pfn, count) => self.hint(self.range(pfn, count)),
            Op::Display(pfn, count) => self.display(self.range(pfn, count)),
            Op::Reap => self.reaper(),
            Op::Replace(pfn) => self.replace(pfn),
            Op::FailGet if self.accel.has_get(&self.faults) && self.mode != LogMode::Hvf => {
                self.failing_gets += 1;
                self.accel.fail_get();
            }
            Op::FailGet => {}
            Op::Restart => self.restart(),
        }
    }

    /// Returns the first page with an unsent write that no level records.
    fn forgotten(&self) -> Option<u64> {
        let b = self.ram.as_ref().expect("made by begin").b();
        let ring = self.accel.ring_bits();
        (0..self.pages).find(|pfn| {
            let page = Pfn(*pfn);
            let recorded = self.accel.k(page)
                || ring.test(page)
                || self.accel.unmerged(page)
                || self.vhost.bits().test(page)
                || self.d.test(page)
                || b.test(page);
            self.unsent[*pfn as usize].any() && !recorded
        })
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let ram = self.ram.as_ref().expect("made by begin");
        let set = |test: &dyn Fn(Pfn) -> bool| (0..self.pages).filter(|pfn| test(Pfn(*pfn))).collect::<BTreeSet<_>>();
        let open = |pfn| self.mode == LogMode::Hvf && !self.accel.wp(pfn);
        prop_assert_eq!(&set(&|pfn| self.accel.k(pfn) || self.accel.ring_bits().test(pfn) || open(pfn)), &self.sets.k, "K");
        prop_assert_eq!(&set(&|pfn| self.accel.s(pfn)), &self.sets.s, "S");
        prop_assert_eq!(&set(&|pfn| self.accel.unmerged(pfn)), &self.sets.copied, "copied");
        prop_assert_eq!(&set(&|pfn| self.vhost.bits().test(pfn)), &self.sets.v, "V");
        prop_assert_eq!(&set(&|pfn| self.d.test(pfn)), &self.sets.d, "D");
        prop_assert_eq!(&set(&|pfn| ram.b().test(pfn)), &self.sets.b, "B");
        prop_assert_eq!(&set(&|pfn| ram.c(pfn)).iter().map(|pfn| pfn >> self.shift).collect::<BTreeSet<_>>(), &self.sets.c, "C");
        if self.mode != LogMode::Tcg {
            let recreated = self.mode == (LogMode::ManualClear { initially_set: true });
            prop_assert!(recreated || set(&|pfn| self.accel.wp(pfn)).is_disjoint(&self.sets.k), "protected though in K");
            let traced = |pfn: Pfn| self.sets.k.contains(&pfn.0) || self.sets.collected.contains(&pfn.0);
            prop_assert_eq!(set(&|pfn| self.accel.wp(pfn) || traced(pfn)).len() as u64, self.pages, "neither protected nor in K");
        }
        prop_assert_eq!(ram.n(), self.sets.b.len() as u64, "N");
        prop_assert!(ram.n_equals_popcount());
        Ok(())
    }

    /// Finishes the sync under way, makes another, and sends everything: what is still unsent is lost.
    fn finish(&mut self) -> Option<u64> {
        // GETs that fail leave the log as it is: what they missed comes with the next.
        let parts = u32::from((4 - self.sync_part) % 4) + 4 * (1 + self.failing_gets);
        (0..parts).for_each(|_| self.sync_part());
        while self.ram().next_dirty().is_some() {
            self.send();
        }
        self.unsent.iter().position(Unsent::any).map(|pfn| pfn as u64)
    }
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]
    #[test]
    fn levels_equal_plain_sets_and_no_write_is_forgotten(shape in shape(), ops in prop::collection::vec(op(), 1..120)) {
        let mut stack = Stack::new(shape, &[]);
        stack.compare()?;
        for op in &ops {
            stack.apply(op);
            stack.compare()?;
            prop_assert_eq!(stack.forgotten(), None);
        }
        prop_assert_eq!(stack.finish(), None);
    }
}

/// Runs the account of writes alone on random operations with a fault, and returns whether it ever misses a write.
fn caught(fault: Option<Fault>) -> bool {
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let faults: Vec<Fault> = fault.into_iter().collect();
    let result = runner.run(&(shape(), prop::collection::vec(op(), 1..120)), |(shape, ops)| {
        let mut stack = Stack::new(shape, &faults);
        for op in &ops {
            stack.apply(op);
            prop_assert_eq!(stack.forgotten(), None);
        }
        prop_assert_eq!(stack.finish(), None);
        Ok(())
    });
    result.is_err()
}

#[test]
fn each_fault_of_the_bitmaps_that_loses_writes_is_caught() {
    assert!(!caught(None));
    let losing = [
        Fault::HintOnePageMore,
        Fault::ClearTailUnmasked,
        Fault::RetryFromD,
        Fault::BitmapOffByOne,
        Fault::DmaFirstPage,
        Fault::RingInitiallySet,
        Fault::TlbNotRearmed,
        Fault::HvfUnprotectsSlot,
        Fault::HvfAddressTwice,
        Fault::SlotDeleteDropsLog,
        Fault::HostPageAsOne,
    ];
    for fault in losing {
        assert!(caught(Some(fault)), "{} goes unseen", fault.name());
    }
}
