//! What a scheduling point costs on the host's side: each of its threads is asked what it would do, and one does it.
//!
//! A migration of 64 named pages, to its end: every move on a named page is a step of its own, as it is in a search.

use std::hint::black_box;

use host::event::{Actor, Pfn, Stamped};
use host::fault::Faults;
use host::lock::Locks;
use host::memory::GuestRam;
use host::step::{Costs, Ctx, Next, Watch};
use host::vmm::{Command, Vmm};

use crate::{percentile, state, time};

const PAGES: u64 = 64;
const RUNS: usize = 501;
const ACTORS: [Actor; 4] = [Actor::Iothread, Actor::MainLoop, Actor::Migration, Actor::Destination];

/// Runs a migration; returns its steps.
fn migrate(vmm: &mut Vmm, ram: &GuestRam, watch: &Watch, events: &mut Vec<Stamped>) -> u32 {
    let (mut locks, faults, costs) = (Locks::default(), Faults::default(), Costs::default());
    let (mut steps, mut now_ns) = (0, 0);
    loop {
        let mut ctx = Ctx { actor: ACTORS[0], now_ns, ram, locks: &mut locks, faults: &faults, costs: &costs, watch, events };
        let nexts = ACTORS.map(|actor| {
            ctx.actor = actor;
            (actor, vmm.next(actor, false, &ctx))
        });
        let ready = nexts.iter().find(|(_, next)| matches!(next, Next::Do(_) | Next::Lock(_)));
        if let Some((actor, _)) = ready {
            ctx.actor = *actor;
            vmm.step(*actor, false, &mut ctx);
            events.clear();
            steps += 1;
            continue;
        }
        let wakes = nexts.iter().filter_map(|(_, next)| if let Next::Sleep(until_ns) = next { Some(*until_ns) } else { None });
        match wakes.min() {
            Some(until_ns) => now_ns = until_ns.max(now_ns),
            None => return steps,
        }
    }
}

/// Returns nanoseconds of a step, in the median run.
pub(super) fn ns() -> f64 {
    let ram = GuestRam::new(PAGES << 12);
    let mut options = state::options();
    options.pages = PAGES;
    let watch = Watch((0..PAGES).map(Pfn).collect());
    let (mut events, mut steps) = (Vec::new(), 0);
    let mut host = Vmm::new(&options);
    host.monitor.push(Command::Migrate);
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let mut vmm = host.clone();
            let seconds = time(|| steps = black_box(migrate(&mut vmm, &ram, &watch, &mut events))).as_secs_f64();
            seconds * 1e9 / f64::from(steps)
        })
        .collect();
    println!("a migration of {PAGES} named pages, by the host alone: {steps} steps");
    percentile(&mut times, 50)
}
