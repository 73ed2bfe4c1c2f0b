//! A run forked in the middle: all of it, to be finished by another world on any thread.
//!
//! A searched world goes back and forth between states that share most of their memory (`search`). A fork is of a run by the clock: it is taken
//! rarely, and keeps every byte. What a world is made of by its scenario alone, and vCPUs' engines, are not in it: the world that goes on has its own.

use std::sync::Arc;

use host::event::{Pfn, Stamped};
use host::fault::FaultSet;
use host::memory::RamMarks;
use wire::platform::PAGE_SIZE;
use xxhash_rust::xxh3::Xxh3;

use crate::scenario::model::Scenario;
use crate::vcpu::CpuSnapshot;
use crate::world::rules::GuestRules;
use crate::world::{RunOptions, State, World};

type Bytes = [u8; PAGE_SIZE as usize];

const ZEROS: Bytes = [0; PAGE_SIZE as usize];

/// A run by the clock as it stood between two steps.
#[derive(Clone)]
pub(super) struct Fork {
    pub(super) scenario: Arc<Scenario>,
    pub(super) options: RunOptions,
    pub(super) asked: FaultSet,
    pub(super) state: State,
    /// Registers, traps, and the pages whose next store is to be logged.
    pub(super) cpus: CpuSnapshot,
    /// Pages that hold something, in order; found by looking at all of them.
    pub(super) pages: Vec<(Pfn, Box<Bytes>)>,
    pub(super) marks: RamMarks,
    pub(super) rules: Option<Box<GuestRules>>,
    pub(super) trace: Vec<Stamped>,
    pub(super) digest: Xxh3,
}

impl World {
    /// Returns the run as it stands. `options`: those that the world was made with.
    ///
    /// # Panics
    /// When the run is a search's.
    pub(super) fn fork(&self, options: &RunOptions) -> Fork {
        // What a run does not change is made anew of scenario and options; `used`, `happened` and `lean` are a search's alone.
        let World {
            scenario,
            faults,
            hosts: _,
            image: _,
            ram,
            machine,
            costs,
            allocations: _,
            may,
            lean,
            rules,
            trace,
            digest,
            used: _,
            happened,
            state,
        } = self;
        assert!(!may && !lean && state.counts.is_none() && happened.is_empty(), "a search forks by itself");
        assert_eq!(*costs, scenario.costs, "a run by the clock keeps its costs");
        let mut pages = Vec::new();
        let mut bytes = ZEROS;
        for pfn in (0..ram.pages()).map(Pfn) {
            machine.copy_page(pfn, &mut bytes);
            if bytes != ZEROS {
                pages.push((pfn, Box::new(bytes)));
            }
        }
        Fork {
            scenario: Arc::clone(scenario),
            options: options.clone(),
            asked: faults.asked(),
            state: state.clone(),
            cpus: machine.save(),
            pages,
            marks: ram.marks(),
            rules: rules.clone(),
            trace: trace.clone(),
            digest: digest.clone(),
        }
    }
}

impl Fork {
    /// Returns a world of its own that goes on from here.
    pub(super) fn resume(&self) -> World {
        let Fork { scenario, options, asked, state, cpus, pages, marks, rules, trace, digest } = self;
        let mut world = World::new(scenario, options, false);
        world.faults.add_asked(*asked);
        let mut there = pages.iter().peekable();
        let mut bytes = ZEROS;
        for pfn in (0..world.ram.pages()).map(Pfn) {
            world.machine.copy_page(pfn, &mut bytes);
            let wanted = there.next_if(|(at, _)| *at == pfn).map_or(&ZEROS, |(_, wanted)| wanted);
            if bytes != *wanted {
                world.machine.put_page(pfn, wanted);
            }
        }
        assert_eq!(there.next().map(|(pfn, _)| *pfn), None, "every page found its place");
        world.ram.set_marks(marks);
        world.machine.restore(cpus);
        world.state.clone_from(state);
        world.rules.clone_from(rules);
        world.rules.iter_mut().for_each(|rules| rules.resume());
        world.trace.clone_from(trace);
        world.digest.clone_from(digest);
        world
    }
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Fork>();
