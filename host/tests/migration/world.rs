//! A small world: the engine's three actors under the default schedule, a hinting device that only keeps its state, and vCPUs that store when
//! the test says so.

use std::collections::BTreeMap;

use host::destination::Destination;
use host::devices::{DeviceOptions, Devices};
use host::dirty::accel::{Accelerator, LogMode, Store};
use host::dirty::physmem::DirtyMemory;
use host::event::{Actor, CmdId, Event, HintStatus, LockId, PageRange, Pfn, PrecopyReason, Stamped};
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::engine::{Migration, Parts, View, VmState};
use host::migration::hint::HintView;
use host::migration::notifier::{HintSink, NotifyAction, NotifyPlan, PrecopyNotifier};
use host::migration::pace::MigrationOptions;
use host::step::{Costs, Ctx, Move, Next, Watch};

const PAGE: u64 = 4096;

/// A hinting device without queues.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) status: HintStatus,
    pub(crate) id: u32,
}

impl PrecopyNotifier for Device {
    fn plan(&self, reason: PrecopyReason, vm_running: bool, _ctx: &mut Ctx<'_>) -> Option<NotifyPlan> {
        let action = match reason {
            PrecopyReason::Setup | PrecopyReason::Complete => None,
            PrecopyReason::BeforeBitmapSync => (self.status != HintStatus::Stop).then_some(NotifyAction::Stop),
            PrecopyReason::AfterBitmapSync if vm_running => Some(NotifyAction::Start),
            PrecopyReason::AfterBitmapSync | PrecopyReason::Cleanup => (self.status != HintStatus::Done).then_some(NotifyAction::Done),
        };
        action.map(|action| NotifyPlan { action, locked: true })
    }

    fn act(&mut self, action: NotifyAction, ctx: &mut Ctx<'_>) {
        assert_eq!(ctx.locks.holder(LockId::FreePage), Some(ctx.actor));
        assert_eq!(ctx.locks.holder(LockId::Bql), Some(ctx.actor));
        let from = self.status;
        match action {
            NotifyAction::Stop => {
                self.status = HintStatus::Stop;
                ctx.emit(Event::HintStop { from });
            }
            NotifyAction::NewId => unreachable!("this device starts under its lock"),
            NotifyAction::Start => {
                self.id += 1;
                self.status = HintStatus::Requested;
                ctx.emit(Event::HintRequest { id: CmdId(self.id) });
            }
            NotifyAction::Done => {
                self.status = HintStatus::Done;
                ctx.emit(Event::HintDone { from });
            }
        }
    }

    fn vm_state_change(&mut self, _running: bool, ctx: &mut Ctx<'_>) {
        assert_eq!(ctx.locks.holder(LockId::FreePage), Some(ctx.actor));
    }

    fn saved_cmd_id(&self) -> CmdId {
        CmdId(u32::from(self.status == HintStatus::Done))
    }
}

/// What may be cloned of a world.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) migration: Migration,
    pub(crate) accel: Accelerator,
    pub(crate) d: DirtyMemory,
    pub(crate) devices: Devices,
    pub(crate) device: Device,
    pub(crate) destination: Destination,
    pub(crate) vm: VmState,
    pub(crate) vcpus_in_store: bool,
    pub(crate) locks: Locks,
    pub(crate) now_ns: u64,
    times: BTreeMap<Actor, u64>,
}

/// A world.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) ram: GuestRam,
    pub(crate) faults: Faults,
    pub(crate) watch: Watch,
    pub(crate) costs: Costs,
    pub(crate) events: Vec<Stamped>,
    pub(crate) bulk: bool,
}

const ACTORS: [Actor; 9] = [
    Actor::Migration,
    Actor::MainLoop,
    Actor::Destination,
    Actor::Channel(0),
    Actor::Channel(1),
    Actor::Channel(2),
    Actor::Receiver(0),
    Actor::Receiver(1),
    Actor::Receiver(2),
];

impl World {
    pub(crate) fn new(mode: LogMode, pages: u64) -> Self {
        let ram = GuestRam::new(pages * PAGE);
        for pfn in (0..pages).filter(|pfn| pfn % 3 != 0) {
            ram.write(pfn * PAGE, &(pfn + 1).to_le_bytes());
        }
        ram.drain_writes();
        Self {
            state: State {
                migration: Migration::new(),
                accel: Accelerator::new(mode, pages),
                d: DirtyMemory::new(pages),
                devices: Devices::new(pages, DeviceOptions::default()),
                device: Device { status: HintStatus::Stop, id: 0x8000_0000 },
                destination: Destination::new(pages, 7),
                vm: VmState { running: true, postmigrate: false },
                vcpus_in_store: false,
                locks: Locks::default(),
                now_ns: 0,
                times: BTreeMap::new(),
            },
            ram,
            faults: Faults::default(),
            watch: Watch::default(),
            costs: Costs::default(),
            events: Vec::new(),
            bulk: false,
        }
    }

    pub(crate) fn with_faults(mut self, faults: &[Fault]) -> Self {
        self.faults = faults.iter().copied().collect();
        self
    }

    /// Calls the engine with everything it may use.
    pub(crate) fn call<T>(&mut self, actor: Actor, at_ns: u64, f: impl FnOnce(&mut Migration, &mut Parts<'_>, &mut Ctx<'_>) -> T) -> T {
        let State { migration, accel, d, devices, device, destination, vm, vcpus_in_store, locks, now_ns: _, times: _ } = &mut self.state;
        let mut parts = Parts { accel, d, devices, notifier: device, destination, vm, vcpus_in_store: *vcpus_in_store };
        let mut ctx = Ctx {
            actor,
            now_ns: at_ns,
            ram: &self.ram,
            locks,
            faults: &self.faults,
            costs: &self.costs,
            watch: &self.watch,
            events: &mut self.events,
        };
        f(migration, &mut parts, &mut ctx)
    }

    pub(crate) fn start(&mut self, options: MigrationOptions) {
        let now = self.state.now_ns;
        self.call(Actor::MainLoop, now, |migration, _, ctx| migration.start(options, ctx)).expect("starts");
    }

    pub(crate) fn cancel(&mut self) -> bool {
        let now = self.state.now_ns;
        self.call(Actor::MainLoop, now, |migration, _, ctx| migration.cancel(ctx))
    }

    pub(crate) fn fail(&mut self) -> bool {
        let now = self.state.now_ns;
        self.call(Actor::Injector, now, |migration, _, ctx| migration.fail(ctx))
    }

    /// A vCPU stores bytes to a page.
    pub(crate) fn store_bytes(&mut self, pfn: Pfn, offset: u64, bytes: &[u8]) {
        self.state.accel.guest_store(Store::plain(0, pfn), &mut self.state.d, &self.faults);
        self.ram.write_unlogged(pfn.address() + offset, bytes);
    }

    /// A vCPU stores the value to a page.
    pub(crate) fn store(&mut self, pfn: u64, value: u64) {
        self.state.accel.guest_store(Store::plain(0, Pfn(pfn)), &mut self.state.d, &self.faults);
        self.ram.write_unlogged(pfn * PAGE, &value.to_le_bytes());
    }

    /// A device writes the value to each page.
    pub(crate) fn dma(&mut self, range: PageRange, value: u64) {
        for pfn in range.pages() {
            self.ram.write(pfn.address(), &value.to_le_bytes());
        }
        let ranges = self.ram.drain_writes();
        self.state.d.mark_device_write(&ranges, &self.faults);
    }

    /// A vhost backend writes the value to each page.
    pub(crate) fn vhost(&mut self, range: PageRange, value: u64) {
        for pfn in range.pages() {
            self.ram.write_unlogged(pfn.address(), &value.to_le_bytes());
        }
        self.state.devices.vhost.wrote(range, &self.faults);
    }

    /// The iothread applies a hint, if the migration thread lets it.
    pub(crate) fn hint(&mut self, range: PageRange) -> Option<u64> {
        if self.state.locks.holder(LockId::Bitmap).is_some() {
            return None;
        }
        let now = self.state.now_ns;
        Some(self.call(Actor::Iothread, now, |migration, parts, ctx| {
            ctx.lock(LockId::Bitmap);
            let mut view = HintView { migration, accel: parts.accel };
            let cleared = if view.is_running() { view.free_page_hint(range, CmdId(1), ctx) } else { 0 };
            ctx.unlock(LockId::Bitmap);
            cleared
        }))
    }

    /// Returns what an actor would do at its time.
    pub(crate) fn next(&mut self, actor: Actor) -> (u64, Next) {
        let mut at = *self.state.times.entry(actor).or_default();
        loop {
            let next = self.call(actor, at, |migration, parts, ctx| {
                let view: View<'_> = parts.view();
                migration.next(actor, &view, ctx)
            });
            match next {
                Next::Sleep(until) if until > at => at = until,
                Next::Wait(_) | Next::Idle => {
                    at = at.max(self.state.now_ns);
                    self.state.times.insert(actor, at);
                    return (at, Next::Idle);
                }
                Next::Sleep(_) => panic!("{actor} sleeps into the past"),
                Next::Do(_) | Next::Lock(_) => return (at, next),
            }
        }
    }

    /// Returns who could move, and when.
    fn ready(&mut self) -> Vec<(u64, Actor, Next)> {
        let mut ready = Vec::new();
        for actor in ACTORS {
            let (at, next) = self.next(actor);
            match next {
                Next::Lock(lock) if self.state.locks.holder(lock).is_some() => {}
                Next::Do(_) | Next::Lock(_) => ready.push((at, actor, next)),
                Next::Wait(_) | Next::Idle | Next::Sleep(_) => {}
            }
        }
        ready
    }

    /// Makes the next move of the actor whose time is smallest; returns who moved.
    pub(crate) fn step(&mut self) -> Option<Actor> {
        let ready = self.ready();
        let (at, actor, next) = ready.iter().min_by_key(|(at, actor, _)| (*at, *actor)).cloned()?;
        let until_ns = ready.iter().filter(|(_, other, _)| *other != actor).map(|(at, ..)| *at).min().unwrap_or(u64::MAX);
        Some(self.make(at, actor, &next, until_ns))
    }

    /// Lets that one move of those who could, whatever their times, who has the smallest rank; `before` sees the world and who it is.
    pub(crate) fn step_by(&mut self, rank: impl Fn(Actor) -> u64, before: impl FnOnce(&World, Actor)) -> Option<Actor> {
        let ready = self.ready();
        let (at, actor, next) = ready.iter().min_by_key(|(_, actor, _)| rank(*actor)).cloned()?;
        before(self, actor);
        Some(self.make(at.max(self.state.now_ns), actor, &next, u64::MAX))
    }

    fn make(&mut self, at: u64, actor: Actor, next: &Next, until_ns: u64) -> Actor {
        let first = self.events.len();
        let bulk = self.bulk;
        let cost = self.call(actor, at, |migration, parts, ctx| match bulk {
            true => migration.step_bulk(actor, parts, ctx, until_ns, 100),
            false => migration.step(actor, parts, ctx),
        });
        let event = &self.events.get(first).expect("a step has an event").event;
        match next {
            Next::Do(announced) => assert_eq!(Move::of(event), *announced, "{event:?}"),
            Next::Lock(lock) => assert_eq!(*event, Event::LockTake { lock: *lock }),
            Next::Wait(_) | Next::Idle | Next::Sleep(_) => panic!("{actor} steps from {next:?}"),
        }
        assert!(self.state.migration.n_equals_popcount());
        self.state.now_ns = self.state.now_ns.max(at);
        self.state.times.insert(actor, at + cost);
        actor
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..5_000_000 {
            if self.step().is_none() {
                return;
            }
        }
        panic!("the run does not end");
    }

    /// Steps until the last event fulfils the predicate.
    pub(crate) fn run_until(&mut self, found: impl Fn(&Event) -> bool) {
        loop {
            let first = self.events.len();
            self.step().expect("the event comes");
            if self.events[first..].iter().any(|stamped| found(&stamped.event)) {
                return;
            }
        }
    }

    /// Returns the pages whose contents differ at the destination.
    pub(crate) fn lost(&self) -> Vec<Pfn> {
        (0..self.ram.pages()).map(Pfn).filter(|pfn| !self.state.destination.equals(*pfn, &self.ram)).collect()
    }
}
