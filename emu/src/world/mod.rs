//! The world: guest, host, clock, schedule and injector, stepping until the run ends.
//!
//! Each actor has a virtual time of its own, the moment from which it can move. A step asks every actor what it would do next, holds back
//! those whose move an order constraint forbids, and lets the one with the smallest time move; ties go by a fixed order. What the
//! move emits goes to the trace, to the constraints and to the oracle, in that order. There is no other source of order: the same scenario
//! gives the same bytes.

mod arrival;
mod blocked;
pub mod doctor;
mod end;
mod exposed;
pub mod flip;
mod fork;
pub mod gates;
mod guest;
mod inject;
mod object;
mod observe;
mod pages;
mod reboot;
mod ring;
mod rules;
pub mod search;
mod setup;
mod spin;
pub mod tracepoint;

use std::collections::VecDeque;
use std::sync::Arc;

use host::event::{Actor, Event, EventKind, LockId, MigrationStatus, PageRange, Pfn, Stamped};
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::step::{Await, Costs, Ctx, Move, Next, Watch};
use host::vmm::Vmm;
use wire::task::TaskOp;
use xxhash_rust::xxh3::Xxh3;

use crate::image::Image;
use crate::oracle::Oracle;
use crate::outcome::{GuestCrash, Outcome};
use crate::scenario::model::{Action, Command, DirtyLog, Injection, Pattern, Scenario};
use crate::search::system::{Happening, Objects};
use crate::vcpu::Machine;
use crate::world::blocked::Blocked;
use crate::world::gates::Gates;
use crate::world::guest::Vcpu;
use crate::world::inject::InjectionState;
use crate::world::observe::Observation;
use crate::world::pages::NamedPages;
use crate::world::rules::GuestRules;
use crate::world::search::counts::Counts;
use crate::world::spin::Spins;

/// How to run a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Faults switched on beside the scenario's own.
    pub faults: Vec<Fault>,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario, options: &RunOptions) -> Outcome {
    let mut world = World::new(&Arc::new(scenario.clone()), options, false);
    let end = world.run_to_end();
    world.finish(end)
}

/// Runs a scenario to its end, and returns what guest memory holds then.
pub fn memory_at_end(scenario: &Scenario, options: &RunOptions) -> Vec<u8> {
    let mut world = World::new(&Arc::new(scenario.clone()), options, false);
    world.run_to_end();
    let mut bytes = vec![0; usize::try_from(world.ram.bytes()).expect("RAM fits into memory")];
    world.ram.read(0, &mut bytes);
    bytes
}

/// Host actors in the order in which ties are broken; the injector comes before them all, the vCPUs next.
const HOST_ORDER: [Actor; 5] = [Actor::Destination, Actor::Iothread, Actor::MainLoop, Actor::Migration, Actor::Vhost];

/// Returns the host actors of a scenario: a backend is one if it has moves of its own, and each channel has two ends.
pub(crate) fn hosts_of(scenario: &Scenario) -> Arc<[Actor]> {
    let hosts = match scenario.host.devices.vhost_log_ack_ns {
        None => HOST_ORDER.split_last().expect("five").1,
        Some(_) => &HOST_ORDER,
    };
    let channels = 0..scenario.migration.encoding.channels;
    let senders = channels.clone().map(Actor::Channel);
    let return_path = may_switch_to_postcopy(scenario).then_some(Actor::ReturnPath);
    let reaper = (scenario.host.dirty_log == DirtyLog::Ring).then_some(Actor::Reaper);
    hosts.iter().copied().chain(senders).chain(channels.map(Actor::Receiver)).chain(return_path).chain(reaper).collect()
}

/// Returns whether the capability that makes requests possible is on, or may be later.
fn may_switch_to_postcopy(scenario: &Scenario) -> bool {
    let switches = |injection: &Injection| matches!(injection.action, Action::Monitor(Command::PostcopyRam { on: true }));
    scenario.migration.modes.postcopy || scenario.injections.iter().chain(&scenario.may).any(switches)
}

/// Unwatched pages that the migration thread may send between two looks at the schedule.
const BULK_PAGES_MAX: u64 = 4096;

/// Whether an actor can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Now; the move's first event, if it announces one.
    Ready(Option<Move>),
    /// At this virtual time, nanoseconds.
    At(u64),
    /// Once this lock is free; the move takes it.
    Lock(LockId),
    /// Once a guest lock is free, and somebody else has to free it.
    GuestLock(u32),
    /// Once the device has used a buffer that the guest polls for.
    UsedBuffer,
    /// In the middle of something, once another actor has done this.
    Await(Await),
    /// When another actor gives it something to do.
    Idle,
}

/// Why the stepping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody can move.
    Quiet,
    /// The guest or the VMM is dead.
    Crash,
    /// Some wait for each other, whatever the others could still do.
    Deadlock,
    /// A limit of the scenario was reached.
    Limit,
    /// An event came before its time with another event's move, and could not be held back.
    BrokenOrder,
}

/// What is due at the injector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The migration's start.
    Start,
    /// An injection.
    Injection(usize),
    /// Of what may happen, nothing more does.
    Rest,
}

/// A whole run: what does not change while it lasts, memory and vCPUs, and the [`State`] of all else.
pub(crate) struct World {
    scenario: Arc<Scenario>,
    faults: Faults,
    image: &'static Image,
    /// Host actors, in the order of ties.
    hosts: Arc<[Actor]>,
    ram: Arc<GuestRam>,
    machine: Machine,
    /// What moves cost: the scenario's, or nothing while a search chooses.
    costs: Costs,
    /// Names of the tasks' allocations; the index is what the guest sees.
    allocations: Vec<String>,
    /// What the scenario's `[[may]]` allows may happen.
    may: bool,
    /// For a search that asks for no reports: no digest is kept, every store of guest code is logged whether somebody looked or not, and of
    /// pages that are sent with many others only the first is told.
    lean: bool,
    /// The guest's rules while the run lasts; not in a search.
    rules: Option<Box<GuestRules>>,
    /// All events so far; in a search, those of the last move.
    trace: Vec<Stamped>,
    digest: Xxh3,
    /// What the move has used beside what its events tell: classes, as a search wants to know.
    used: Objects,
    /// Every key that an event of the move fits, while a search counts them.
    happened: Vec<Happening>,
    state: State,
}

/// What a run changes, but for the vCPUs' registers and memory: what is saved when a run is forked.
#[derive(Debug, Clone)]
pub(crate) struct State {
    vcpus: Vec<Vcpu>,
    vmm: Vmm,
    locks: Locks,
    watch: Watch,
    gates: Gates,
    pages: NamedPages,
    injections: Vec<InjectionState>,
    start: Option<InjectionState>,
    oracle: Oracle,
    /// Virtual time of each actor: vCPUs first, then those of [`hosts_of`].
    times_ns: Vec<u64>,
    now_ns: u64,
    steps: u64,
    /// The guest's driver is up.
    ready: bool,
    /// Works of the guest's that have begun and not ended.
    works: u32,
    /// Kernels before this one.
    resets: u64,
    /// Entry of the guest's stub for injected stores; known once the driver is up.
    inject_stub: u64,
    /// Hints so far.
    hints: u32,
    /// Task operations that did not fit into the mailboxes yet, by vCPU.
    backlog: Vec<VecDeque<TaskOp>>,
    crash: Option<GuestCrash>,
    /// Who waits for what, and since when.
    blocked: Blocked,
    /// Who spins, and since when.
    spins: Spins,
    /// The VMM is dead.
    host_crashed: bool,
    /// Who picks the next move.
    window: Window,
    /// How often each key has happened, for a search.
    counts: Option<Counts>,
}

/// Who picks the next move: the clock, but for a part of the run in which a search does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Window {
    /// The clock, until the search's first event.
    Ahead,
    /// The search.
    Open,
    /// The clock, since the search's last event.
    Closed,
}

impl World {
    /// Steps until nobody can move, the guest is dead, or a limit is reached.
    fn run_to_end(&mut self) -> End {
        loop {
            if let Some(end) = self.turn() {
                return end;
            }
        }
    }

    /// One step, unless the run is over before or behind it.
    fn turn(&mut self) -> Option<End> {
        if let Some(end) = self.end() {
            return Some(end);
        }
        if !self.step() {
            return Some(End::Quiet);
        }
        (self.state.blocked.has_grown() && !self.circle().is_empty()).then_some(End::Deadlock)
    }

    /// Returns why the run is over, though somebody could move.
    fn end(&self) -> Option<End> {
        if self.state.crash.is_some() || self.state.host_crashed {
            Some(End::Crash)
        } else if self.state.gates.broken().is_some() {
            Some(End::BrokenOrder)
        } else if self.state.steps >= self.scenario.limits.steps || self.state.now_ns >= self.scenario.limits.time_ns {
            Some(End::Limit)
        } else {
            None
        }
    }

    /// Lets the next actor move; `false` when nobody can.
    fn step(&mut self) -> bool {
        self.arm_injections();
        let Some(choice) = self.choose() else { return false };
        self.make(choice);
        true
    }

    /// Lets somebody move, at his time.
    fn make(&mut self, choice: Choice) {
        self.state.now_ns = choice.at_ns;
        self.state.steps += 1;
        match choice.who {
            Who::Injector(Due::Start) => {
                self.state.start = Some(InjectionState::Fired);
                self.state.vmm.monitor.push(host::vmm::Command::Migrate);
            }
            Who::Injector(Due::Injection(index)) => {
                self.fire(index);
            }
            Who::Injector(Due::Rest) => self.decline(),
            Who::Vcpu(cpu) => {
                let cost = self.vcpu_step(cpu);
                self.state.times_ns[cpu] = self.state.now_ns + cost;
            }
            Who::Host(index) => {
                let slot = self.state.vcpus.len() + index;
                self.state.times_ns[slot] = self.state.now_ns;
                // Who slept wakes up now, and what it finds may have to wait: for a lock that is held by now, or for the scenario's order.
                if self.host_is_awake(index) {
                    let cost = self.host_step(index, choice.others_ns);
                    self.state.times_ns[slot] = self.state.now_ns + cost;
                }
            }
        }
        self.check_guest();
    }

    /// Picks who moves: the smallest time, then the fixed order.
    fn choose(&mut self) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        let mut others_ns = u64::MAX;
        let mut only_timers = true;
        let mut consider = |at_ns: u64, who: Who| match &mut best {
            Some(choice) if choice.at_ns <= at_ns => others_ns = others_ns.min(at_ns),
            _ => {
                if let Some(beaten) = best.replace(Choice { at_ns, who, others_ns: u64::MAX }) {
                    others_ns = others_ns.min(beaten.at_ns);
                }
            }
        };
        if let Some((at_ns, due)) = self.injector_due() {
            only_timers = false;
            consider(at_ns.max(self.state.now_ns), Who::Injector(due));
        }
        for slot in 0..self.state.vcpus.len() + self.hosts.len() {
            let (readiness, who) = self.readiness(slot);
            let free = self.held_back(slot, readiness).is_none();
            let hold = self.hold(slot, readiness).map(|(hold, _)| hold);
            self.state.blocked.note(slot, self.actor_of(slot), hold, self.state.times_ns[slot], self.state.now_ns);
            let spins = self.spins(slot, readiness);
            self.state.spins.note(slot, self.actor_of(slot), spins, self.state.times_ns[slot], self.state.now_ns);
            match readiness {
                Readiness::Ready(_) if free => {
                    only_timers = false;
                    let at_ns = self.state.times_ns[slot].max(self.state.now_ns);
                    consider(self.awake_ns(who, at_ns), who);
                }
                Readiness::Lock(lock) if free && self.lock_holder(lock).is_none() => {
                    only_timers = false;
                    consider(self.state.times_ns[slot].max(self.state.now_ns), who);
                }
                Readiness::At(at_ns) => {
                    only_timers &= self.is_timer(who);
                    let at_ns = self.state.times_ns[slot].max(at_ns).max(self.state.now_ns);
                    consider(self.awake_ns(who, at_ns), who);
                }
                Readiness::Ready(_)
                | Readiness::Lock(_)
                | Readiness::GuestLock(_)
                | Readiness::UsedBuffer
                | Readiness::Await(_)
                | Readiness::Idle => {
                    // Who waits is not in the past when it goes on.
                    self.state.times_ns[slot] = self.state.times_ns[slot].max(self.state.now_ns);
                }
            }
        }
        // A host that polls statistics for ever is no reason to go on.
        if only_timers && !self.state.vmm.migration.status().is_running() {
            return None;
        }
        best.map(|choice| Choice { others_ns, ..choice })
    }

    /// Returns whether somebody sleeps again and again, whatever the rest of the world does.
    fn is_timer(&self, who: Who) -> bool {
        match who {
            Who::Host(index) => matches!(self.hosts[index], Actor::MainLoop | Actor::Reaper),
            Who::Vcpu(_) | Who::Injector(_) => false,
        }
    }

    /// Returns when somebody moves who could at a time: a vCPU that is slowed down, or that has dirtied too much, sleeps in between.
    fn awake_ns(&self, who: Who, at_ns: u64) -> u64 {
        match who {
            Who::Vcpu(cpu) => {
                let vmm = &self.state.vmm;
                vmm.migration.vcpu_awake_ns(vmm.accel.limit_awake_ns(cpu as u8, at_ns))
            }
            Who::Host(_) | Who::Injector(_) => at_ns,
        }
    }

    /// Returns whether the actor of a slot can move, and how it is called.
    fn readiness(&self, slot: usize) -> (Readiness, Who) {
        match slot.checked_sub(self.state.vcpus.len()) {
            None => (self.vcpu_next(slot), Who::Vcpu(slot)),
            Some(index) => (self.host_next(index), Who::Host(index)),
        }
    }

    /// Returns what a move has to wait for, if a constraint forbids it for now. A move behind a lock is held back before the lock: a thread
    /// that is late is late with its hands empty.
    fn held_back(&self, slot: usize, readiness: Readiness) -> Option<&Pattern> {
        if self.state.gates.is_empty() {
            return None;
        }
        let holds = |what: Move| self.state.gates.holds(what, &self.state.pages.frames);
        match readiness {
            Readiness::Ready(what) => holds(what?),
            Readiness::Lock(_) => holds(Move::plain(EventKind::LockTake)).or_else(|| holds(self.behind_lock(slot)?)),
            Readiness::At(_) | Readiness::GuestLock(_) | Readiness::UsedBuffer | Readiness::Await(_) | Readiness::Idle => None,
        }
    }

    fn behind_lock(&self, slot: usize) -> Option<Move> {
        match slot.checked_sub(self.state.vcpus.len()) {
            None => self.vcpu_behind_lock(slot),
            Some(index) => self.asking(index, |vmm, ctx| vmm.behind_lock(self.hosts[index], ctx)),
        }
    }

    fn injector_due(&self) -> Option<(u64, Due)> {
        let start = match self.state.start {
            Some(InjectionState::Armed { at_ns, .. }) => Some((at_ns, Due::Start)),
            Some(InjectionState::Waiting | InjectionState::Fired) | None => None,
        };
        let injection = self.injector_next().map(|(at_ns, index)| (at_ns, Due::Injection(index)));
        match (start, injection) {
            (Some(start), Some(injection)) => Some(if injection.0 < start.0 { injection } else { start }),
            (start, injection) => start.or(injection),
        }
    }

    fn host_next(&self, index: usize) -> Readiness {
        let in_store = self.vcpus_in_store();
        match self.asking(index, |vmm, ctx| vmm.next(self.hosts[index], in_store, ctx)) {
            Next::Do(what) => Readiness::Ready(Some(what)),
            Next::Lock(lock) => Readiness::Lock(lock),
            Next::Sleep(at_ns) => Readiness::At(at_ns),
            Next::Wait(what) => Readiness::Await(what),
            Next::Idle => Readiness::Idle,
        }
    }

    /// Returns whether a host actor can move at this very time.
    fn host_is_awake(&self, index: usize) -> bool {
        let readiness = self.host_next(index);
        if self.held_back(self.state.vcpus.len() + index, readiness).is_some() {
            return false;
        }
        match readiness {
            Readiness::Ready(_) => true,
            Readiness::Lock(lock) => self.lock_holder(lock).is_none(),
            Readiness::At(_) | Readiness::GuestLock(_) | Readiness::UsedBuffer | Readiness::Await(_) | Readiness::Idle => false,
        }
    }

    /// Returns who holds a lock. RCU's sections that matter are those of vCPUs on their way to a device's register, since these may wait in theirs (QEMU:
    /// system/physmem.c address_space_rw(), prepare_mmio_access()).
    fn lock_holder(&self, lock: LockId) -> Option<Actor> {
        match lock {
            LockId::Rcu => (0..self.state.vcpus.len()).find(|cpu| self.is_at_device(*cpu)).map(|cpu| Actor::Vcpu(cpu as u8)),
            LockId::Bql | LockId::FreePage | LockId::Bitmap | LockId::Slots | LockId::PageRequests | LockId::RamList | LockId::QemuFile => {
                self.state.locks.holder(lock)
            }
        }
    }

    /// Asks the host a question on behalf of one of its actors, without changing anything.
    fn asking<R>(&self, index: usize, ask: impl FnOnce(&Vmm, &Ctx<'_>) -> R) -> R {
        let mut events = Vec::new();
        let mut locks = self.state.locks.clone();
        let own_ns = self.state.times_ns[self.state.vcpus.len() + index];
        let ctx = Ctx {
            actor: self.hosts[index],
            now_ns: own_ns.max(self.state.now_ns),
            ram: &self.ram,
            locks: &mut locks,
            faults: &self.faults,
            costs: &self.costs,
            watch: &self.state.watch,
            events: &mut events,
        };
        ask(&self.state.vmm, &ctx)
    }

    fn host_step(&mut self, index: usize, until_ns: u64) -> u64 {
        let actor = self.hosts[index];
        let in_store = self.vcpus_in_store();
        let bulk = actor == Actor::Migration && !self.state.gates.looks_at(EventKind::RamPage);
        let announced = if cfg!(debug_assertions) { self.host_next(index) } else { Readiness::Idle };
        let first = self.trace.len();
        let cost = self.with_ctx(actor, |vmm, ctx| match bulk {
            true => vmm.step_bulk(in_store, until_ns, BULK_PAGES_MAX, ctx),
            false => vmm.step(actor, in_store, ctx),
        });
        if let Readiness::Ready(Some(what)) = announced {
            let made = self.trace.get(first).map(|stamped| Move::of(&stamped.event));
            // Who dies of a move makes it no more.
            let died = made.is_some_and(|made| made.kind == EventKind::HostCrash);
            assert!(died || made == Some(what), "{actor} announced {what:?} and makes {made:?}");
        }
        let reset = actor == Actor::MainLoop && self.trace[first..].iter().any(|stamped| stamped.event == Event::MachineReset);
        if reset && !self.state.host_crashed {
            self.boot_anew();
        }
        self.protect();
        self.land();
        cost
    }

    /// Runs a host function as an actor, and takes in what it emitted and wrote.
    fn with_ctx<R>(&mut self, actor: Actor, run: impl FnOnce(&mut Vmm, &mut Ctx<'_>) -> R) -> R {
        let mut events = Vec::new();
        let mut ctx = Ctx {
            actor,
            now_ns: self.state.now_ns,
            ram: &self.ram,
            locks: &mut self.state.locks,
            faults: &self.faults,
            costs: &self.costs,
            watch: &self.state.watch,
            events: &mut events,
        };
        let result = run(&mut self.state.vmm, &mut ctx);
        let written = self.ram.drain_writes();
        if !written.is_empty() {
            self.state.vmm.d.mark_device_write(&written, &self.faults);
            for range in written {
                self.wrote_range(range, actor);
            }
        }
        if self.lean && !self.state.gates.looks_at(EventKind::RamPage) {
            self.absorb_words(events);
        } else {
            events.into_iter().for_each(|stamped| self.absorb(stamped));
        }
        self.raise_interrupts();
        result
    }

    /// Records an event of an actor, now.
    fn emit(&mut self, actor: Actor, event: Event) {
        self.absorb(Stamped { at_ns: self.state.now_ns, actor, event });
    }

    /// Takes in events where nobody asks for each page that is sent with many others: those of a word are taken in at once, and the first
    /// stands for all in the trace.
    fn absorb_words(&mut self, events: Vec<Stamped>) {
        const WORD_PAGES: u64 = 64;
        let mut events = events.into_iter().peekable();
        let word_of = |event: &Event| match event {
            Event::RamPage { pfn, .. } => Some((pfn.0 / WORD_PAGES, 1 << (pfn.0 % WORD_PAGES))),
            _ => None,
        };
        let mut told = false;
        while let Some(stamped) = events.next() {
            let Some((at, bit)) = word_of(&stamped.event) else {
                self.absorb(stamped);
                continue;
            };
            let (mut bits, mut count) = (bit, 1);
            while let Some((_, bit)) = events.peek().and_then(|next| word_of(&next.event)).filter(|(word, _)| *word == at) {
                (bits, count) = (bits | bit, count + 1);
                events.next();
            }
            if let Some(counts) = &mut self.state.counts {
                counts.pages(count);
            }
            let view = Observation { ram: &self.ram, vmm: &self.state.vmm };
            self.state.oracle.on_pages(self.trace.len(), at, bits, &view);
            if !std::mem::replace(&mut told, true) {
                self.trace.push(stamped);
            }
        }
    }

    /// Takes in an event: the digest, the constraints, the oracle and the trace, in this order.
    fn absorb(&mut self, stamped: Stamped) {
        if !self.lean {
            self.observe_for_writes(&stamped.event);
            digest_event(&mut self.digest, &stamped);
        }
        self.state.gates.happened(&stamped.event, &self.state.pages.frames);
        self.count(&stamped.event);
        self.state.ready |= stamped.event == Event::GuestReady;
        if matches!(stamped.event, Event::MigrationState { from: MigrationStatus::None, .. }) {
            self.machine.forget_irq_off();
        }
        self.rules.iter_mut().for_each(|rules| rules.happened(&stamped.event));
        match stamped.event {
            Event::HostCrash { .. } => self.state.host_crashed = true,
            Event::GuestWork { .. } => self.state.works += 1,
            Event::GuestWorkDone { .. } => self.state.works -= 1,
            _ => {}
        }
        if let (Event::GuestTaskDone { .. }, Actor::Vcpu(cpu)) = (&stamped.event, stamped.actor) {
            self.feed_mailbox(usize::from(cpu));
        }
        let index = self.trace.len();
        let view = Observation { ram: &self.ram, vmm: &self.state.vmm };
        self.state.oracle.on_event(index, &stamped, &view);
        self.trace.push(stamped);
    }

    /// Watches pages for writes from here on that the host has just looked at: only so is a page's version exact.
    fn observe_for_writes(&mut self, event: &Event) {
        match event {
            Event::RamPage { pfn, .. } | Event::RamRead { pfn, .. } => self.machine.arm(PageRange::page(*pfn)),
            Event::GuestHint { range, .. } | Event::GuestReport { range } | Event::HintApply { range, .. } => self.machine.arm(*range),
            Event::GuestInflate { pfn } | Event::GuestDeflate { pfn } => self.machine.arm(PageRange::page(*pfn)),
            Event::DirtyGet { .. } | Event::BitmapSync { .. } => self.machine.arm(PageRange::new(Pfn(0), self.ram.pages())),
            _ => {}
        }
    }

    /// Makes vCPUs fault again on pages that were write-protected.
    fn protect(&mut self) {
        for range in self.state.vmm.accel.take_protected() {
            self.machine.arm(range);
        }
    }

    /// Delivers the device's interrupts to vCPU 0.
    fn raise_interrupts(&mut self) {
        if self.state.vmm.balloon.take_irq() {
            self.state.vcpus[0].interrupts.insert(wire::platform::vector::VIRTIO);
            self.used.changed |= object::interrupts(0);
        }
    }

    /// Tells the oracle of a write.
    fn wrote(&mut self, pfn: Pfn, by: Actor, index: Option<usize>) {
        self.state.oracle.on_write(pfn, by, self.state.now_ns, index);
    }

    fn wrote_range(&mut self, range: PageRange, by: Actor) {
        let index = self.trace.len().checked_sub(1);
        self.rules.iter_mut().for_each(|rules| rules.wrote(range));
        for pfn in range.pages() {
            self.wrote(pfn, by, index);
        }
    }

    /// Learns the frames of names from what is about to happen, and watches them.
    fn learn_pages(&mut self, event: &Event) {
        for (_, pfn) in self.state.pages.learn(event, &self.scenario, &self.allocations) {
            self.watch_page(pfn);
            // From here on everybody's moves on the page are cut finer.
            self.used.changed = u64::MAX;
        }
    }

    fn watch_page(&mut self, pfn: Pfn) {
        self.state.watch.0.insert(pfn);
        self.machine.trap(pfn, true);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Injector(Due),
    Vcpu(usize),
    Host(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    at_ns: u64,
    who: Who,
    /// Smallest time of the others that could move.
    others_ns: u64,
}

/// Folds an event into the digest by its values, never by its text or its place in memory.
fn digest_event(digest: &mut Xxh3, stamped: &Stamped) {
    use std::hash::{Hash, Hasher};
    struct Fold<'a>(&'a mut Xxh3);
    impl Hasher for Fold<'_> {
        fn finish(&self) -> u64 {
            self.0.digest()
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut fold = Fold(digest);
    stamped.at_ns.hash(&mut fold);
    stamped.actor.hash(&mut fold);
    stamped.event.hash(&mut fold);
}
