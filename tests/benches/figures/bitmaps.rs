//! The stack of bitmaps of a guest with 256 GiB: what a sync takes, and what pages cost that nobody touches.

use std::hint::black_box;

use host::dirty::accel::{LogMode, Store};
use host::event::{Actor, CmdId, PageRange, Pfn};
use host::fault::Faults;
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::ram::RamState;
use host::step::{Costs, Ctx, Watch};
use host::vmm::{Vmm, VmmOptions};
use wire::platform::PAGE_SIZE;

use crate::{Figure, percentile, state, time};

const PAGES: u64 = (256 << 30) / PAGE_SIZE;
/// One page of so many is dirty.
const DIRTY_EVERY: u64 = 100;
/// Dirty pages beside each other where they are not spread.
const RUN: u64 = 512;
const SYNCS: usize = 9;
const SYNC_MS_MAX: f64 = 5.0;
const BYTES_PER_PAGE_MAX: f64 = 1.0;

/// A host in the middle of a migration, and what it moves with.
struct Host {
    vmm: Vmm,
    b: RamState,
    ram: GuestRam,
    faults: Faults,
    costs: Costs,
}

impl Host {
    /// After the first sync, with nothing left to send.
    fn new(log: LogMode) -> Self {
        let ram = GuestRam::new(PAGES * PAGE_SIZE);
        let mut vmm = Vmm::new(&VmmOptions { pages: PAGES, log, ..state::options() });
        let (faults, costs) = (Faults::default(), Costs::default());
        let b = {
            let (mut locks, watch, mut events) = (Locks::default(), Watch::default(), Vec::new());
            let (actor, locks, events) = (Actor::Migration, &mut locks, &mut events);
            let mut ctx = Ctx { actor, now_ns: 0, ram: &ram, locks, faults: &faults, costs: &costs, watch: &watch, events };
            vmm.d.set_tracking(true);
            vmm.accel.log_start(&mut ctx);
            RamState::new(18, false, &vmm.d, &ctx)
        };
        let mut host = Self { vmm, b, ram, faults, costs };
        host.sync();
        host.empty();
        host
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut Vmm, &mut RamState, &mut Ctx<'_>) -> R) -> R {
        let (mut locks, watch, mut events) = (Locks::default(), Watch::default(), Vec::new());
        let (actor, locks, events) = (Actor::Migration, &mut locks, &mut events);
        let (ram, faults, costs) = (&self.ram, &self.faults, &self.costs);
        let mut ctx = Ctx { actor, now_ns: 0, ram, locks, faults, costs, watch: &watch, events };
        work(&mut self.vmm, &mut self.b, &mut ctx)
    }

    /// What the engine does: GET where there is a log to get, the merge into D, the exchange into B.
    fn sync(&mut self) {
        self.with(|vmm, b, ctx| {
            if vmm.accel.has_get(ctx.faults) {
                vmm.accel.get(ctx);
                vmm.accel.merge(&mut vmm.d, ctx);
            }
            b.sync(&mut vmm.d, &mut vmm.accel, ctx);
        });
    }

    /// All that is in B is sent, and its chunks are cleared.
    fn empty(&mut self) {
        self.with(|vmm, b, ctx| b.free_page_hint(PageRange::new(Pfn(0), PAGES), CmdId(1), &mut vmm.accel, ctx));
        assert_eq!(self.b.n(), 0);
    }

    /// Returns the median of some syncs, each of which finds 1 % of the pages, in runs of so many; milliseconds.
    fn sync_ms(&mut self, run: u64) -> f64 {
        let syncs = (0..SYNCS as u64).map(|nth| {
            for first in (nth * run..PAGES - run).step_by((DIRTY_EVERY * run) as usize) {
                for pfn in first..first + run {
                    self.vmm.accel.guest_store(Store::plain(0, Pfn(pfn)), &mut self.vmm.d, &self.faults);
                }
            }
            let taken = time(|| self.sync());
            assert!(self.b.n().abs_diff(PAGES / DIRTY_EVERY) < 2 * run, "{} pages", self.b.n());
            self.empty();
            taken.as_secs_f64() * 1e3
        });
        percentile(&mut syncs.collect::<Vec<f64>>(), 50)
    }
}

/// Returns the memory that this process has, bytes, where the system tells.
fn resident() -> Option<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split_whitespace().nth(1)?.parse::<f64>().ok().map(|pages| pages * 4096.0)
}

pub(crate) fn figures() -> Vec<Figure> {
    let ms = |value: f64| format!("{value:.2} ms");
    let bytes = |value: f64| format!("{value:.2} bytes");
    let before = resident();
    let mut host = Host::new(LogMode::ManualClear { initially_set: false });
    let after = resident();
    let mut figures = Vec::new();
    if let (Some(before), Some(after)) = (before, after) {
        let what = "host memory for a page that nobody touched, log on, once synced";
        figures.push(Figure::at_most(what, (after - before).max(0.0) / PAGES as f64, BYTES_PER_PAGE_MAX, bytes));
    }
    figures.push(Figure::at_most("sync of 256 GiB, 1 % dirty, spread, manual clear", host.sync_ms(1), SYNC_MS_MAX, ms));
    figures.push(Figure::at_most("sync of 256 GiB, 1 % dirty, in runs of 2 MiB, manual clear", host.sync_ms(RUN), SYNC_MS_MAX, ms));
    let mut tcg = Host::new(LogMode::Tcg);
    figures.push(Figure::at_most("sync of 256 GiB, 1 % dirty, spread, TCG", tcg.sync_ms(1), SYNC_MS_MAX, ms));
    black_box(tcg.b.n());
    figures
}
