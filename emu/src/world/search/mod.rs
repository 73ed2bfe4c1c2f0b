//! The world as a [`System`]: forked, put back, hashed, and led by whoever searches.
//!
//! A searched world is booted by the default schedule up to the event from which the scenario lets a search choose ([`Search::from`]). From there
//! on every actor that can move is offered, whatever the clock says: moves cost no time, and time passes only where a sleeper is chosen to wake.
//! Behind [`Search::until`] the default schedule goes on. Moves are those of a plain run: a tracepoint, a device access, a lock, a store to a
//! named page, a page sent; pages that nobody named are sent in one move up to the next named one. Under `grain = "instruction"` each guest
//! instruction is a move of its own.
//!
//! [`Search::from`]: crate::scenario::model::Search::from
//! [`Search::until`]: crate::scenario::model::Search::until

pub(super) mod counts;
pub(super) mod doctor;
mod hash;
mod memory;
mod play;
#[cfg(test)]
mod tests;
mod uses;

use std::fmt;
use std::sync::Arc;

use host::dirty::bitmap::DirtyBitmap;
use host::event::Stamped;
use host::fault::FaultSet;
use host::step::{Costs, Move};

use crate::oracle::guest_mm;
use crate::scenario::model::Scenario;
use crate::search::found::pattern;
use crate::search::system::{Choice, Edge, Ending, Key, Objects, Step, System};
use crate::vcpu::Context;
use crate::world::observe::Observation;
use crate::world::search::counts::{Counts, named};
use crate::world::search::memory::{Memory, SavedMemory};
use crate::world::{Due, End, Readiness, RunOptions, State, Who, Window, World};

pub use play::{Replayed, default_path, recorded, replay};

/// A world that a search leads.
pub struct SearchWorld {
    world: World,
    memory: Memory,
    /// Registers of each vCPU, and their hash, as far as they were asked for since the vCPU moved.
    cpus: Vec<Cpu>,
    step: Step,
    /// Where in the trace the last move begins.
    first: usize,
    /// Whether all events are kept, and what only reports tell.
    detailed: bool,
    /// Whether states differ that differ only in how often events have happened.
    counted: bool,
    root: Option<Saved>,
}

/// What is known of a vCPU's registers.
#[derive(Debug, Clone, Default)]
struct Cpu {
    context: Option<Arc<Context>>,
    hash: Option<u64>,
}

/// A state of a searched world.
#[derive(Clone)]
pub struct Saved(Arc<SavedWorld>);

struct SavedWorld {
    state: State,
    cpus: Vec<Cpu>,
    memory: SavedMemory,
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved").field("now_ns", &self.0.state.now_ns).finish_non_exhaustive()
    }
}

impl fmt::Debug for SearchWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchWorld").field("state", &self.world.state).field("step", &self.step).finish_non_exhaustive()
    }
}

/// Costs of a world in which time stands still.
const NO_COSTS: Costs = Costs {
    guest_step_ns: 0,
    exit_ns: 0,
    tracked_store_ns: 0,
    irq_ns: 0,
    lock_ns: 0,
    element_ns: 0,
    sync_word_ns: 0,
    clear_ns: 0,
    page_ns: 0,
    state_ns: 0,
    vm_stop_ns: 0,
    setup_ns: 0,
    return_path_ns: 0,
};

impl SearchWorld {
    /// Boots a scenario up to where its search begins.
    pub fn new(scenario: &Arc<Scenario>, options: &RunOptions) -> SearchWorld {
        SearchWorld::open(scenario, options, false)
    }

    /// States that differ only in how often events have happened are the same from here on. Then the numbers in [`Step::happened`] need not be
    /// those of the run that led to a state; who asks for nobody's number, as a proof does not, has fewer states.
    pub fn uncounted(mut self) -> SearchWorld {
        self.counted = false;
        self
    }

    fn open(scenario: &Arc<Scenario>, options: &RunOptions, detailed: bool) -> SearchWorld {
        let mut world = World::new(scenario, options, true);
        world.state.counts = Some(Counts::new(scenario));
        let start = scenario.search.start();
        while !world.state.gates.has_happened(&start) && world.end().is_none() && world.step() {}
        if world.state.gates.has_happened(&start) {
            world.open_window();
        }
        // What the last step by the clock wrote is looked at before the first state is told: no move of the search has written it.
        let view = Observation { ram: &world.ram, vmm: &world.state.vmm };
        world.state.oracle.end_of_step(world.trace.len(), &view);
        if !detailed {
            world.state.oracle.drop_details();
            world.lean = true;
        }
        world.machine.note_uses();
        world.ram.note_uses(true);
        let memory = Memory::new(&world.machine);
        let cpus = vec![Cpu::default(); world.state.vcpus.len()];
        let mut system = SearchWorld { world, memory, cpus, step: Step::default(), first: 0, detailed, counted: true, root: None };
        system.root = Some(system.save());
        system
    }

    /// Returns whether the search's first event has happened at all.
    pub fn is_open(&self) -> bool {
        self.world.state.window != Window::Ahead
    }

    /// Returns the last move's events.
    fn events(&self) -> &[Stamped] {
        &self.world.trace[self.first..]
    }

    /// Returns who makes a choice.
    fn who(&self, id: u16) -> Who {
        let (id, vcpus) = (usize::from(id), self.world.state.vcpus.len());
        match id.checked_sub(vcpus + self.world.hosts.len()) {
            Some(index) if index == self.world.state.injections.len() => Who::Injector(Due::Start),
            Some(index) if index == self.world.state.injections.len() + 1 => Who::Injector(Due::Rest),
            Some(index) => Who::Injector(Due::Injection(index)),
            None if id < vcpus => Who::Vcpu(id),
            None => Who::Host(id - vcpus),
        }
    }

    fn id(&self, who: Who) -> u16 {
        let actors = self.world.state.vcpus.len() + self.world.hosts.len();
        let id = match who {
            Who::Vcpu(cpu) => cpu,
            Who::Host(index) => self.world.state.vcpus.len() + index,
            Who::Injector(Due::Injection(index)) => actors + index,
            Who::Injector(Due::Start) => actors + self.world.state.injections.len(),
            Who::Injector(Due::Rest) => actors + self.world.state.injections.len() + 1,
        };
        id as u16
    }

    fn choice(&self, who: Who, key: Option<Key>) -> Choice {
        let id = self.id(who);
        let actor = id.min((self.world.state.vcpus.len() + self.world.hosts.len()) as u16);
        Choice { id, actor, key, objects: Objects { shared: 0, changed: self.world.own(who) } }
    }

    /// Returns the key of an announced move: that of the first named page that it is about.
    fn key(&self, what: Move) -> Key {
        let page = named(what, &self.world.scenario, &self.world.state.pages.frames).next();
        Key { kind: what.kind as u16, page: page.unwrap_or(Key::NO_PAGE) }
    }

    /// Offers everybody who can move.
    fn everybody(&self, into: &mut Vec<Choice>) {
        let mut only_timers = true;
        let mut sleepers = Vec::new();
        for slot in 0..self.world.state.vcpus.len() + self.world.hosts.len() {
            let (readiness, who) = self.world.readiness(slot);
            if self.world.held_back(slot, readiness).is_some() {
                continue;
            }
            match readiness {
                Readiness::Ready(what) => {
                    into.push(self.choice(who, what.map(|what| self.key(what))));
                    only_timers = false;
                }
                Readiness::Lock(lock) if self.world.lock_holder(lock).is_none() => {
                    into.push(self.choice(who, Some(self.key(Move::plain(host::event::EventKind::LockTake)))));
                    only_timers = false;
                }
                Readiness::At(_) => {
                    only_timers &= self.world.is_timer(who);
                    sleepers.push(self.choice(who, None));
                }
                Readiness::Lock(_) | Readiness::GuestLock(_) | Readiness::UsedBuffer | Readiness::Await(_) | Readiness::Idle => {}
            }
        }
        let injections = self.world.state.injections.len();
        for index in (0..injections).filter(|index| self.world.injection_due(*index).is_some()) {
            let key = Key { kind: Key::INJECTION, page: index as u16 };
            into.push(self.choice(Who::Injector(Due::Injection(index)), Some(key)));
            only_timers &= self.world.is_may(index);
        }
        if self.world.start_due().is_some() {
            into.push(self.choice(Who::Injector(Due::Start), None));
            only_timers = false;
        }
        // A host that polls statistics for ever is no reason to go on.
        if !only_timers || self.world.state.vmm.migration.status().is_running() {
            into.append(&mut sleepers);
            into.sort_by_key(|choice| choice.id);
        }
        // Where all others are at rest, what may happen need not.
        let may = (self.world.state.vcpus.len() + self.world.hosts.len() + self.world.scenario.injections.len()) as u16;
        let start = self.id(Who::Injector(Due::Start));
        if !into.is_empty() && into.iter().all(|choice| (may..start).contains(&choice.id)) {
            into.push(self.choice(Who::Injector(Due::Rest), None));
        }
    }

    /// When a choice of the open window is made: now, or when its sleeper would wake.
    fn time(&self, who: Who) -> u64 {
        let at_ns = match who {
            Who::Injector(Due::Injection(index)) => self.world.injection_due(index),
            Who::Injector(Due::Start) => self.world.start_due(),
            Who::Injector(Due::Rest) => None,
            Who::Vcpu(_) | Who::Host(_) => match self.world.readiness(usize::from(self.id(who))).0 {
                Readiness::At(at_ns) => Some(at_ns),
                Readiness::Ready(_)
                | Readiness::Lock(_)
                | Readiness::GuestLock(_)
                | Readiness::UsedBuffer
                | Readiness::Await(_)
                | Readiness::Idle => None,
            },
        };
        at_ns.unwrap_or(0).max(self.world.state.now_ns)
    }
}

impl World {
    fn start_due(&self) -> Option<u64> {
        match self.state.start {
            Some(super::inject::InjectionState::Armed { at_ns, .. }) => Some(at_ns),
            Some(super::inject::InjectionState::Waiting | super::inject::InjectionState::Fired) | None => None,
        }
    }

    /// From here on the search chooses.
    fn open_window(&mut self) {
        self.state.window = Window::Open;
        // Nobody is in the middle of a move any more.
        self.state.times_ns.fill(0);
        self.costs = NO_COSTS;
        self.arm_injections();
    }

    /// From here on the clock chooses again.
    fn close_window(&mut self) {
        self.state.window = Window::Closed;
        self.state.times_ns.fill(self.state.now_ns);
        self.costs = self.scenario.costs.clone();
    }
}

impl System for SearchWorld {
    type Saved = Saved;

    fn actors(&self) -> u16 {
        (self.world.state.vcpus.len() + self.world.hosts.len() + 1) as u16
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        into.clear();
        if self.over().is_some() {
            return;
        }
        match self.world.state.window {
            Window::Open => self.everybody(into),
            Window::Ahead | Window::Closed => {
                if let Some(pick) = self.world.choose() {
                    into.push(self.choice(pick.who, None));
                }
            }
        }
    }

    fn asked(&self) -> FaultSet {
        self.world.faults.asked()
    }

    fn take(&mut self, choice: Choice) {
        let who = self.who(choice.id);
        self.begin(who);
        let pick = match self.world.state.window {
            Window::Open => super::Choice { at_ns: self.time(who), who, others_ns: u64::MAX },
            // Pages that nobody named are sent in one move here, too, whoever else would have his turn in between.
            Window::Ahead | Window::Closed => super::Choice { others_ns: u64::MAX, ..self.world.choose().expect("the offered choice") },
        };
        debug_assert_eq!(pick.who, who, "only what was offered is taken");
        let wakes = pick.at_ns > self.world.state.now_ns;
        self.world.make(pick);
        self.world.arm_injections();
        if self.world.state.window == Window::Open {
            self.world.state.times_ns.fill(0);
            let until = self.world.scenario.search.until.as_ref();
            if until.is_some_and(|pattern| self.world.state.gates.has_happened(pattern)) {
                self.world.close_window();
                self.world.used.changed = u64::MAX;
            }
        }
        self.check_mm(who);
        self.end_of_move(wakes);
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        let end = self.over().unwrap_or(End::Quiet);
        self.world.ending(end)
    }

    fn save(&mut self) -> Saved {
        for cpu in 0..self.cpus.len() {
            self.hash_of_cpu(cpu);
            if self.cpus[cpu].context.is_none() {
                self.cpus[cpu].context = Some(Arc::new(self.world.machine.save_context(cpu)));
            }
        }
        Saved(Arc::new(SavedWorld { state: self.world.state.clone(), cpus: self.cpus.clone(), memory: self.memory.save() }))
    }

    fn put_back(&mut self, saved: &Saved) {
        let SavedWorld { state, cpus, memory } = &*saved.0;
        for (index, cpu) in cpus.iter().enumerate() {
            let context = cpu.context.as_ref().expect("saved with its registers");
            let here = self.cpus[index].context.as_ref();
            if !here.is_some_and(|here| Arc::ptr_eq(here, context)) {
                self.world.machine.restore_context(index, context);
            }
        }
        self.cpus.clone_from(cpus);
        self.memory.put_back(memory, &mut self.world.machine);
        for pfn in self.world.state.watch.0.difference(&state.watch.0) {
            self.world.machine.trap(*pfn, false);
        }
        for pfn in state.watch.0.difference(&self.world.state.watch.0) {
            self.world.machine.trap(*pfn, true);
        }
        let (here, there) = (&self.world.state.vmm.migration, &state.vmm.migration);
        if here.missing() != there.missing() || here.protected() != there.protected() {
            self.world.machine.set_missing(there.missing().into_iter().flat_map(DirtyBitmap::all_words));
            self.world.machine.set_protected(there.protected().into_iter().flat_map(DirtyBitmap::all_words));
        }
        if self.world.state.window != state.window {
            self.world.costs = if state.window == Window::Open { NO_COSTS } else { self.world.scenario.costs.clone() };
        }
        self.world.state.clone_from(state);
    }

    fn hash(&mut self) -> u128 {
        self.state_hash()
    }

    fn constrain(&mut self, edges: &[Edge]) {
        let root = self.root.clone().expect("set when made");
        self.world.state.gates = root.0.state.gates.clone();
        let scenario = Arc::clone(&self.world.scenario);
        let counts = self.world.state.counts.clone().expect("a searched world counts");
        for Edge { first, then } in edges {
            let (first, then) = (pattern(*first, &scenario), pattern(*then, &scenario));
            self.world.state.gates.add(&first, &then, |pattern| counts.seen(pattern, &scenario));
        }
    }
}

impl SearchWorld {
    /// Checks the guest's free lists behind a vCPU's move, in as many states as the scenario asks for. The state itself says whether it is one
    /// of them: so whoever comes to it, by whatever way, finds the same.
    fn check_mm(&mut self, who: Who) {
        let (Who::Vcpu(cpu), every) = (who, self.world.scenario.search.check_mm) else { return };
        if every == 0 || !self.world.state.ready || self.world.state.crash.is_some() || !self.hash_of_cpu(cpu).is_multiple_of(every) {
            return;
        }
        let broken = guest_mm::check_zones(&self.world.ram);
        if !broken.is_empty() {
            // What others do next to a broken guest is not worth being swapped.
            self.world.used.changed = u64::MAX;
        }
        for violation in broken {
            self.world.state.oracle.guest_broke(violation, self.world.trace.len());
        }
    }

    /// Returns why the run is over, though somebody could move. The number of moves is the search's to limit.
    fn over(&self) -> Option<End> {
        match self.world.end() {
            Some(End::Limit) if self.world.state.now_ns < self.world.scenario.limits.time_ns => None,
            end => end,
        }
    }
}
