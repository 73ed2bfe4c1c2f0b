//! Random operations on the stack of bitmaps, K, S, D, V, B and C, beside a model that remembers every write.
//!
//! The model knows a version of each page, and which version the destination has. Sender and sync move in steps, and stores, device writes, hints and
//! another user's CLEARs come in between, as locks allow: no hint while a sync runs, for that stops the hint round first. A hint gives up what the page holds; what is
//! written behind it counts again. In the end one more sync and slice must bring every page that was not given up to its last version.

use std::collections::BTreeSet;
use std::sync::Arc;

use host::dirty::accel::{Accelerator, LogMode, Store, TrackingOptions};
use host::dirty::physmem::DirtyMemory;
use host::dirty::ram_list::{BlockOptions, RamList};
use host::dirty::vhost::VhostLog;
use host::event::{Actor, CmdId, PageRange, Pfn, Stamped};
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::ram::RamState;
use host::step::{Costs, Ctx, Watch};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const MODES: [LogMode; 5] = [
    LogMode::ManualClear { initially_set: true },
    LogMode::ManualClear { initially_set: false },
    LogMode::GetClears,
    LogMode::Ring,
    LogMode::Tcg,
];

/// Small enough to be full now and then.
const RING_SIZE: u32 = 8;

/// What happens; pages are taken modulo the memory's.
#[derive(Debug, Clone)]
enum Op {
    /// A vCPU stores to a page.
    Store(u64),
    /// A device writes through the VMM.
    Dma(u64, u64),
    /// A backend with a log of its own writes.
    Vhost(u64),
    /// The sender's next steps: CLEAR, take, read.
    Send(u32),
    /// The sync's next steps: GET, merge, V, B.
    Sync(u32),
    /// A hint is applied.
    Hint(u64, u64),
    /// A second user of the log clears.
    Clear(u64, u64),
}

/// A log, blocks, and what happens to them.
#[derive(Debug, Clone)]
struct Plan {
    mode: LogMode,
    chunk_shift: u8,
    blocks: Vec<BlockOptions>,
    ops: Vec<Op>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let page = || prop_oneof![0..400u64, select(vec![0, 63, 64, 65, 127, 128])];
    let op = prop_oneof![
        6 => page().prop_map(Op::Store),
        2 => (page(), 1..70u64).prop_map(|(first, count)| Op::Dma(first, count)),
        1 => page().prop_map(Op::Vhost),
        6 => prop_oneof![3 => 1..4u32, 1 => 1..400u32].prop_map(Op::Send),
        4 => (1..6u32).prop_map(Op::Sync),
        2 => (page(), 1..90u64).prop_map(|(first, count)| Op::Hint(first, count)),
        1 => (page(), 1..90u64).prop_map(|(first, count)| Op::Clear(first, count)),
    ];
    let sizes = vec((prop_oneof![1..150u64, select(vec![64, 128])], prop_oneof![2 => Just(0), 1 => 1..100u64]), 1..4);
    (select(&MODES[..]), 6..9u8, sizes, vec(op, 0..60)).prop_map(|(mode, chunk_shift, sizes, ops)| {
        let mut end = 0;
        let blocks = sizes.into_iter().enumerate().map(|(index, (pages, gap))| {
            let offset = end + gap;
            end = offset + pages;
            BlockOptions { name: format!("block {index}"), pages, offset, room: 0, ignored: false }
        });
        Plan { mode, chunk_shift, blocks: blocks.collect(), ops }
    })
}

/// What the model knows of a page.
#[derive(Debug, Clone, Copy, Default)]
struct Page {
    /// Number of writes.
    version: u64,
    /// What the destination has.
    there: Option<u64>,
    /// Hinted, and not written since.
    given_up: bool,
}

/// Where the sync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncStep {
    Collect,
    Merge,
    Vhost,
    Bitmap,
}

struct Stack {
    accel: Accelerator,
    d: DirtyMemory,
    v: VhostLog,
    b: RamState,
    sync: SyncStep,
    /// Taken and not read.
    hand: Option<Pfn>,
    pages: Vec<Page>,
    ram: GuestRam,
    locks: Locks,
    faults: Faults,
    costs: Costs,
    watch: Watch,
    events: Vec<Stamped>,
}

/// Calls a function with a context made of the stack's parts, and with the records.
macro_rules! with {
    ($stack:ident, |$ctx:ident| $work:expr) => {{
        let $ctx = &mut Ctx {
            actor: Actor::Migration,
            now_ns: 0,
            ram: &$stack.ram,
            locks: &mut $stack.locks,
            faults: &$stack.faults,
            costs: &$stack.costs,
            watch: &$stack.watch,
            events: &mut $stack.events,
        };
        $work
    }};
}

impl Stack {
    /// Everything up to and including the first sync.
    fn new(plan: &Plan, faults: &[Fault]) -> Self {
        let list = Arc::new(RamList::new(&plan.blocks));
        let pages = list.pages();
        let (ram, mut locks, faults) = (GuestRam::new(pages * 4096), Locks::default(), faults.iter().copied().collect::<Faults>());
        let (costs, watch, mut events) = (Costs::default(), Watch::default(), Vec::new());
        let d = DirtyMemory::of(list);
        let b = {
            let (actor, locks, events) = (Actor::Migration, &mut locks, &mut events);
            let ctx = Ctx { actor, now_ns: 0, ram: &ram, locks, faults: &faults, costs: &costs, watch: &watch, events };
            RamState::new(plan.chunk_shift, false, &d, &ctx)
        };
        let mut stack = Self {
            accel: Accelerator::with(plan.mode, &TrackingOptions { vcpus: 1, ring_size: RING_SIZE, ..TrackingOptions::default() }, pages),
            d,
            v: VhostLog::new(pages),
            b,
            sync: SyncStep::Collect,
            hand: None,
            pages: vec![Page::default(); pages as usize],
            ram,
            locks,
            faults,
            costs,
            watch,
            events,
        };
        stack.d.set_tracking(true);
        stack.v.log_start();
        with!(stack, |ctx| stack.accel.log_start(ctx));
        stack.whole_sync();
        stack
    }

    fn wrote(&mut self, pfn: Pfn) {
        let page = &mut self.pages[pfn.0 as usize];
        page.version += 1;
        page.given_up = false;
    }

    fn range(&self, first: u64, count: u64) -> PageRange {
        let pages = self.pages.len() as u64;
        let first = first % pages;
        PageRange::new(Pfn(first), count.min(pages - first))
    }

    /// What the VMM does between two of its own steps: a full ring is reaped, and what was reaped given back.
    fn reap(&mut self) {
        with!(self, |ctx| {
            self.accel.reap(ctx);
            if self.accel.awaits_reset() {
                self.accel.ring_reset(ctx);
            }
        });
    }

    fn sync_step(&mut self) {
        self.sync = match self.sync {
            SyncStep::Collect => {
                if self.accel.has_rings() {
                    self.reap();
                    with!(self, |ctx| self.accel.merge(&mut self.d, ctx));
                }
                if self.accel.mode() != LogMode::Tcg {
                    with!(self, |ctx| self.accel.get(ctx));
                }
                SyncStep::Merge
            }
            SyncStep::Merge => {
                if self.accel.awaits_merge() {
                    with!(self, |ctx| self.accel.merge(&mut self.d, ctx));
                }
                SyncStep::Vhost
            }
            SyncStep::Vhost => {
                if !self.v.is_clear() {
                    with!(self, |ctx| self.v.merge(&mut self.d, ctx));
                }
                SyncStep::Bitmap
            }
            SyncStep::Bitmap => {
                with!(self, |ctx| self.b.sync(&mut self.d, &mut self.accel, ctx));
                SyncStep::Collect
            }
        };
    }

    /// Ends the sync that runs, and makes another.
    fn whole_sync(&mut self) {
        while self.sync != SyncStep::Collect {
            self.sync_step();
        }
        self.sync_step();
        while self.sync != SyncStep::Collect {
            self.sync_step();
        }
    }

    /// Returns whether there was something to do.
    fn send_step(&mut self) -> bool {
        if let Some(pfn) = self.hand.take() {
            let page = &mut self.pages[pfn.0 as usize];
            page.there = Some(page.version);
            return true;
        }
        let Some(pfn) = self.b.next_dirty() else { return false };
        if self.b.take_chunk(pfn) && self.accel.has_clear() {
            with!(self, |ctx| self.accel.clear(self.b.chunk(pfn), ctx));
        } else {
            self.b.take(pfn);
            self.hand = Some(pfn);
        }
        true
    }

    fn make(&mut self, op: &Op) {
        match *op {
            Op::Store(pfn) => {
                let pfn = self.range(pfn, 1).first;
                if self.accel.ring_room(0) == 0 {
                    self.reap();
                }
                self.accel.guest_store(Store::plain(0, pfn), &mut self.d, &self.faults);
                self.wrote(pfn);
                self.accel.vcpu_goes_on(0);
            }
            Op::Dma(first, count) => {
                let range = self.range(first, count);
                self.d.mark_device_write(&[range], &self.faults);
                range.pages().for_each(|pfn| self.wrote(pfn));
            }
            Op::Vhost(pfn) => {
                let range = self.range(pfn, 1);
                self.v.mark(range);
                self.wrote(range.first);
            }
            // One thread sends and syncs.
            Op::Send(steps) if self.sync == SyncStep::Collect => (0..steps).for_each(|_| {
                self.send_step();
            }),
            Op::Sync(steps) if self.hand.is_none() => (0..steps).for_each(|_| self.sync_step()),
            Op::Hint(first, count) if self.sync == SyncStep::Collect => {
                let range = self.range(first, count);
                with!(self, |ctx| self.b.free_page_hint(range, CmdId(0x8000_0001), &mut self.accel, ctx));
                range.pages().for_each(|pfn| self.pages[pfn.0 as usize].given_up = true);
            }
            Op::Clear(first, count) if self.accel.has_clear() => {
                let range = self.range(first, count);
                with!(self, |ctx| self.accel.clear(range, ctx));
            }
            Op::Send(_) | Op::Sync(_) | Op::Hint(..) | Op::Clear(..) => {}
        }
    }

    /// Returns what is wrong once all is sent.
    fn finish(mut self) -> Result<(), String> {
        while self.hand.is_some() {
            self.send_step();
        }
        self.whole_sync();
        while self.send_step() {}
        let lost = |(_, page): &(usize, &Page)| !page.given_up && page.there != Some(page.version);
        let lost: BTreeSet<usize> = self.pages.iter().enumerate().filter(lost).map(|(pfn, _)| pfn).collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("pages {lost:?} are lost")) }
    }
}

fn play(plan: &Plan, faults: &[Fault]) -> Result<(), String> {
    let mut stack = Stack::new(plan, faults);
    for (index, op) in plan.ops.iter().enumerate() {
        stack.make(op);
        if !stack.b.n_equals_popcount() {
            return Err(format!("N is {}, B has {} bits behind operation {index}", stack.b.n(), stack.b.popcount()));
        }
    }
    stack.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..super::config() })]

    #[test]
    fn every_write_reaches_the_destination(plan in plans()) {
        prop_assert_eq!(play(&plan, &[]), Ok(()));
    }
}

/// The model is no rubber stamp: each of these is found within so many plans.
#[test]
fn the_model_finds_what_a_fault_loses() {
    let faults = [
        Fault::SyncWithoutOffset,
        Fault::AlignmentWithoutOffset,
        Fault::ShortBlockByWords,
        Fault::ClearTailUnmasked,
        Fault::DmaFirstPage,
        Fault::HintOnePageMore,
    ];
    for fault in faults {
        let mut runner = TestRunner::deterministic();
        let found = (0..3_000).any(|_| {
            let plan = plans().new_tree(&mut runner).expect("nothing is refused").current();
            play(&plan, &[fault]).is_err()
        });
        assert!(found, "{} goes unnoticed", fault.name());
    }
}
