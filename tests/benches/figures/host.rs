//! What a search pays for the host's side of each state: a clone, the first write behind it, a hash.
//!
//! The host stands in the middle of a migration of 16 MiB; 300 pages hold something, and have been sent.

use std::hint::black_box;
use std::time::Duration;

use host::balloon::{BalloonOptions, Profile};
use host::dirty::accel::LogMode;
use host::event::{Actor, Pfn};
use host::fault::Faults;
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::pace::MigrationOptions;
use host::step::{Costs, Ctx, Next, Watch};
use host::vmm::{Command, Vmm, VmmOptions};

use crate::{Figure, percentile, time};

const PAGES: u64 = 4096;
const DATA_PAGES: u64 = 300;
const RUNS: usize = 2001;
const ACTORS: [Actor; 3] = [Actor::MainLoop, Actor::Migration, Actor::Destination];

fn options() -> VmmOptions {
    let balloon = BalloonOptions {
        features: wire::balloon::feature::FREE_PAGE_HINT,
        profile: Profile::Qemu,
        queue_size: 128,
        hint_queue_size: 1024,
        stats_interval_ns: 0,
        target_pages: 0,
    };
    let migration = MigrationOptions { chunk_shift: 6, rounds_min: 3, paced: false, ..MigrationOptions::default() };
    VmmOptions { pages: PAGES, log: LogMode::ManualClear { initially_set: true }, balloon, migration }
}

/// Returns a host that has sent half of its pages.
fn migrating(ram: &GuestRam) -> Vmm {
    let mut vmm = Vmm::new(&options());
    let (mut locks, faults, costs, watch, mut events) =
        (Locks::default(), Faults::default(), Costs::default(), Watch::default(), Vec::new());
    vmm.monitor.push(Command::Migrate);
    while vmm.destination.received().count() < PAGES / 2 {
        for actor in ACTORS {
            let mut ctx =
                Ctx { actor, now_ns: 0, ram, locks: &mut locks, faults: &faults, costs: &costs, watch: &watch, events: &mut events };
            match vmm.next(actor, false, &ctx) {
                Next::Do(_) | Next::Lock(_) => {
                    vmm.step(actor, false, &mut ctx);
                }
                Next::Sleep(_) | Next::Idle => {}
            }
        }
    }
    vmm
}

/// Returns nanoseconds of the median run; `prepare` is not counted.
fn median_ns<T>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> f64 {
    let mut measure = |mut input: T| -> Duration { time(|| work(&mut input)) };
    let mut times: Vec<f64> = (0..RUNS).map(|_| measure(prepare()).as_secs_f64() * 1e9).collect();
    percentile(&mut times, 50)
}

pub(crate) fn figures() -> Vec<Figure> {
    let ram = GuestRam::new(PAGES << 12);
    for pfn in 0..DATA_PAGES {
        ram.write(pfn << 12, &[pfn as u8 | 1; 4096]);
    }
    let mut vmm = migrating(&ram);
    black_box(vmm.fold(0));
    let mut saved: Vec<Vmm> = Vec::with_capacity(RUNS);
    let ns = |value: f64| format!("{value:.0} ns");
    let clone = median_ns(|| (), |()| saved.push(vmm.clone()));
    let dropped = median_ns(|| saved.pop(), |clone| drop(clone.take()));
    let bit = median_ns(|| vmm.clone(), |clone| drop(black_box(clone.accel.guest_store(Pfn(9), &mut clone.d))));
    let page = median_ns(|| vmm.clone(), |clone| drop(black_box(clone.destination.place_from(Pfn(9), &ram, true))));
    let kept = median_ns(|| vmm.clone(), |clone| drop(black_box(clone.fold(0))));
    let stored = |mut clone: Vmm| {
        clone.accel.guest_store(Pfn(9), &mut clone.d);
        clone
    };
    let after_bit = median_ns(|| stored(vmm.clone()), |clone| drop(black_box(clone.fold(0))));
    let placed = |mut clone: Vmm| {
        clone.destination.place_from(Pfn(9), &ram, true);
        clone
    };
    let after_page = median_ns(|| placed(vmm.clone()), |clone| drop(black_box(clone.fold(0))));
    vec![
        Figure::at_most("a clone of a host that migrates 16 MiB", clone, 1000.0, ns),
        Figure::plain("  its end", ns(dropped)),
        Figure::plain("  a guest's store behind it", ns(bit)),
        Figure::plain("  a page placed behind it", ns(page)),
        Figure::plain("  a hash, nothing changed", ns(kept)),
        Figure::plain("  a hash, a store before it", ns(after_bit)),
        Figure::plain("  a hash, a page placed before it", ns(after_page)),
    ]
}
