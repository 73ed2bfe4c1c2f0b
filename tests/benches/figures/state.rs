//! What a search pays for each state on the host's side and for the oracle: a clone, the first change behind it, a hash; and for each run's
//! end.
//!
//! The host stands in the middle of a migration of 16 MiB; 300 pages hold something, and have been sent.

use std::hint::black_box;
use std::time::Duration;

use emu::oracle::{Observed, Oracle, OracleOptions};
use host::balloon::{BalloonOptions, Profile};
use host::devices::DeviceOptions;
use host::dirty::accel::{LogMode, Store, TrackingOptions};
use host::event::{Actor, Event, Level, MigrationStatus, Pfn, Stamped};
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

pub(crate) fn options() -> VmmOptions {
    let balloon = BalloonOptions {
        features: wire::balloon::feature::FREE_PAGE_HINT,
        profile: Profile::Qemu,
        protocol: host::balloon::Protocol::Merged,
        numbering: host::balloon::Numbering::Dense,
        queue_size: 128,
        hint_queue_size: 1024,
        stats_interval_ns: 0,
        target_pages: 0,
        acknowledge_on_stop: true,
        machine: host::balloon::Machine::default(),
    };
    let migration = MigrationOptions { chunk_shift: 6, rounds_min: 3, paced: false, ..MigrationOptions::default() };
    VmmOptions {
        pages: PAGES,
        blocks: Vec::new(),
        log: LogMode::ManualClear { initially_set: true },
        tracking: TrackingOptions::default(),
        devices: DeviceOptions::default(),
        balloon,
        migration,
    }
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
                Next::Sleep(_) | Next::Wait(_) | Next::Idle => {}
            }
        }
    }
    vmm
}

/// Returns nanoseconds of the median run; `prepare` is not counted.
fn median_ns<T, R>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T) -> R) -> f64 {
    let mut measure = |mut input: T| -> Duration { time(|| drop(black_box(work(&mut input)))) };
    let mut times: Vec<f64> = (0..RUNS).map(|_| measure(prepare()).as_secs_f64() * 1e9).collect();
    percentile(&mut times, 50)
}

/// A host that has nothing to say: all is recorded, nothing is different.
struct Quiet<'a>(&'a GuestRam, &'a Vmm);

impl Observed for Quiet<'_> {
    fn ram(&self) -> &GuestRam {
        self.0
    }
    fn recorded(&self, _level: Level, _word: u64) -> u64 {
        u64::MAX
    }
    fn on_wire(&self, _pfn: Pfn) -> bool {
        false
    }
    fn logging(&self) -> bool {
        true
    }
    fn remaining(&self) -> u64 {
        0
    }
    fn dirtied_last(&self) -> u64 {
        0
    }
    fn bitmap_count(&self) -> u64 {
        0
    }
    fn destination_page(&self, pfn: Pfn) -> Option<[u8; 4096]> {
        Some(self.1.destination.page(pfn))
    }
    fn destination_equals(&self, pfn: Pfn) -> bool {
        self.1.destination.equals(pfn, self.0)
    }
    fn destination_equals_at(&self, word: u64, pages: u64) -> u64 {
        self.1.destination.equals_at(word, pages, self.0)
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
        MigrationStatus::Active
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
        true
    }
}

fn ns(value: f64) -> String {
    format!("{value:.0} ns")
}

fn of_the_host(vmm: &Vmm, ram: &GuestRam) -> Vec<Figure> {
    let mut saved: Vec<Vmm> = Vec::with_capacity(RUNS);
    let clone = median_ns(|| (), |()| saved.push(vmm.clone()));
    let dropped = median_ns(|| saved.pop(), Option::take);
    let store = |vmm: &mut Vmm| vmm.accel.guest_store(Store::plain(0, Pfn(9)), &mut vmm.d, &Faults::default());
    let place = |vmm: &mut Vmm| vmm.destination.place_from(Pfn(9), ram, true);
    let behind = |change: &dyn Fn(&mut Vmm)| {
        let mut clone = vmm.clone();
        change(&mut clone);
        clone
    };
    vec![
        Figure::at_most("a clone of a host that migrates 16 MiB", clone, 1000.0, ns),
        Figure::plain("  its end", ns(dropped)),
        Figure::plain("  a guest's store behind it", ns(median_ns(|| vmm.clone(), store))),
        Figure::plain("  a page placed behind it", ns(median_ns(|| vmm.clone(), place))),
        Figure::plain("  a hash, nothing changed", ns(median_ns(|| vmm.clone(), |vmm| vmm.fold(0)))),
        Figure::plain("  a hash, a store before it", ns(median_ns(|| behind(&|vmm| assert!(store(vmm).is_some())), |vmm| vmm.fold(0)))),
        Figure::plain("  a hash, a page placed before it", ns(median_ns(|| behind(&|vmm| assert!(!place(vmm))), |vmm| vmm.fold(0)))),
    ]
}

fn of_the_oracle(vmm: &Vmm, ram: &GuestRam) -> Vec<Figure> {
    let view = Quiet(ram, vmm);
    let mut oracle = Oracle::new(OracleOptions {
        pages: PAGES,
        channels: false,
        vcpus: 2,
        ram_bytes: ram.bytes(),
        hints_stay_free: false,
        free_pages_are_read: false,
        throttle_trigger: 50,
        told: None,
        rom: false,
        hints_first: false,
    });
    let tell = |oracle: &mut Oracle, event: Event| oracle.on_event(0, &Stamped { at_ns: 0, actor: Actor::Migration, event }, &view);
    oracle.drop_details();
    (0..PAGES).for_each(|pfn| oracle.on_write(Pfn(pfn), Actor::Vcpu(0), 0, None));
    tell(&mut oracle, Event::MigrationState { from: MigrationStatus::None, to: MigrationStatus::Setup });
    tell(&mut oracle, Event::BitmapSync { round: 1, before: 0, after: 0 });
    (0..PAGES / 2).for_each(|pfn| tell(&mut oracle, Event::RamPage { pfn: Pfn(pfn), zero: false, round: 1 }));
    black_box(oracle.fold());
    let written = |mut oracle: Oracle| {
        oracle.on_write(Pfn(9), Actor::Vcpu(0), 0, None);
        oracle
    };
    let sync = Event::DirtyGet { pages: 0 };
    vec![
        Figure::plain("a clone of the oracle", ns(median_ns(|| (), |()| oracle.clone()))),
        Figure::plain(
            "  a guest's store behind it",
            ns(median_ns(|| oracle.clone(), |oracle| oracle.on_write(Pfn(9), Actor::Vcpu(0), 0, None))),
        ),
        Figure::plain(
            "  a look at all pages behind it, half of them unsent",
            ns(median_ns(|| oracle.clone(), |oracle| tell(oracle, sync.clone()))),
        ),
        Figure::plain("  a hash, nothing changed", ns(median_ns(|| oracle.clone(), |oracle| oracle.fold()))),
        Figure::plain("  a hash, a store before it", ns(median_ns(|| written(oracle.clone()), |oracle| oracle.fold()))),
        Figure::plain("  the comparison with the destination", ns(median_ns(|| oracle.clone(), |oracle| tell(oracle, Event::DstStart)))),
    ]
}

pub(crate) fn figures() -> Vec<Figure> {
    let ram = GuestRam::new(PAGES << 12);
    for pfn in 0..DATA_PAGES {
        ram.write(pfn << 12, &[pfn as u8 | 1; 4096]);
    }
    let mut vmm = migrating(&ram);
    black_box(vmm.fold(0));
    of_the_host(&vmm, &ram).into_iter().chain(of_the_oracle(&vmm, &ram)).collect()
}
