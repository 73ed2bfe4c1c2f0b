//! The owner of all host state, and the main loop's monitor.
//!
//! [`Vmm::next`] and [`Vmm::step`] give each host actor its doors; what an actor does is in [`crate::migration`] and [`crate::balloon`]. The main
//! loop is one thread with three jobs, taken in this order: monitor commands, the migration's cleanup bottom half, and the balloon's
//! queues other than hints.

use std::collections::VecDeque;
use std::fmt;

use crate::balloon::{BalloonDevice, BalloonOptions};
use crate::destination::Destination;
use crate::dirty::accel::{Accelerator, LogMode};
use crate::dirty::physmem::DirtyMemory;
use crate::dirty::vhost::VhostLog;
use crate::event::{Actor, Event, EventKind, LockId, Pfn};
use crate::migration::engine::{Migration, Parts, View, VmState};
use crate::migration::hint::HintView;
use crate::migration::notifier::PrecopyNotifier;
use crate::migration::pace::MigrationOptions;
use crate::step::{Ctx, Move, Next};

/// Everything that a host is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmOptions {
    /// Guest memory, pages.
    pub pages: u64,
    /// How guest writes are tracked.
    pub log: LogMode,
    /// The balloon device.
    pub balloon: BalloonOptions,
    /// Migration parameters.
    pub migration: MigrationOptions,
}

/// A monitor command (QEMU: qapi/migration.json, qapi/machine.json, qapi/misc.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `migrate`.
    Migrate,
    /// `migrate_cancel`.
    Cancel,
    /// `stop`.
    Stop,
    /// `cont`.
    Cont,
    /// `balloon`: pages wanted in the balloon, 4 KiB each.
    Balloon {
        /// The target.
        pages: u32,
    },
    /// Resets the balloon device.
    ResetDevice,
    /// The connection to the destination breaks; not a command, but it comes the same way.
    BreakLink,
}

impl Command {
    /// Returns the command's name.
    pub fn name(self) -> &'static str {
        match self {
            Command::Migrate => "migrate",
            Command::Cancel => "migrate_cancel",
            Command::Stop => "stop",
            Command::Cont => "cont",
            Command::Balloon { .. } => "balloon",
            Command::ResetDevice => "reset-device",
            Command::BreakLink => "break-link",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Balloon { pages } => write!(f, "balloon {pages}"),
            Command::Migrate | Command::Cancel | Command::Stop | Command::Cont | Command::ResetDevice | Command::BreakLink => {
                f.write_str(self.name())
            }
        }
    }
}

/// Commands on their way through the main loop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Monitor {
    queue: VecDeque<Command>,
    state: MonitorState,
}

/// Where the command at the head of the queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum MonitorState {
    /// Not begun.
    #[default]
    Waiting,
    /// That many of its locks are held.
    Locked {
        /// The number.
        taken: usize,
    },
}

impl Monitor {
    /// Queues a command.
    pub fn push(&mut self, command: Command) {
        self.queue.push_back(command);
    }

    fn taken(&self) -> usize {
        match self.state {
            MonitorState::Waiting => 0,
            MonitorState::Locked { taken } => taken,
        }
    }

    fn next(&self, locks: &[LockId]) -> Next {
        match locks.get(self.taken()) {
            Some(lock) => Next::Lock(*lock),
            None => Next::Do(Move::plain(EventKind::Monitor)),
        }
    }
}

/// A host.
#[derive(Debug, Clone)]
pub struct Vmm {
    /// K, S and write protection.
    pub accel: Accelerator,
    /// D.
    pub d: DirtyMemory,
    /// V.
    pub vhost: VhostLog,
    /// The balloon device and its transport.
    pub balloon: BalloonDevice,
    /// The migration engine.
    pub migration: Migration,
    /// The receiving side.
    pub destination: Destination,
    /// Whether the VM runs.
    pub vm: VmState,
    /// Monitor commands.
    pub monitor: Monitor,
    options: MigrationOptions,
}

/// Seed of the destination's garbage: any value will do, as long as it is always the same.
const GARBAGE_SEED: u64 = 0x6c6f_7374_7061_6765;

impl Vmm {
    /// Returns a host whose guest is about to start.
    pub fn new(options: &VmmOptions) -> Self {
        Self {
            accel: Accelerator::new(options.log, options.pages),
            d: DirtyMemory::new(options.pages),
            vhost: VhostLog::new(options.pages),
            balloon: BalloonDevice::new(options.balloon.clone()),
            migration: Migration::new(),
            destination: Destination::new(options.pages, GARBAGE_SEED),
            vm: VmState { running: true },
            monitor: Monitor::default(),
            options: options.migration.clone(),
        }
    }

    /// Returns what an actor would do next. `vcpus_in_store`: a vCPU has marked a page and not yet stored to it.
    pub fn next(&self, actor: Actor, vcpus_in_store: bool, ctx: &Ctx<'_>) -> Next {
        match actor {
            Actor::Migration | Actor::Destination => self.migration.next(actor, &self.view(vcpus_in_store), ctx),
            Actor::Iothread => self.balloon.iothread_next(self.takes_hints(), ctx),
            Actor::MainLoop => self.main_loop_next(vcpus_in_store, ctx),
            Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Display | Actor::Injector => Next::Idle,
        }
    }

    /// Returns the move that an actor would make with the lock that it asks for: a thread that is late is late before its lock, not behind it.
    pub fn behind_lock(&self, actor: Actor, ctx: &Ctx<'_>) -> Option<Move> {
        match actor {
            Actor::Iothread => self.balloon.iothread_behind_lock(self.takes_hints(), ctx),
            Actor::Migration => self.migration.behind_lock(actor, &self.view(false), ctx),
            Actor::MainLoop => match self.job(ctx) {
                Job::Monitor(_) => Some(Move::plain(EventKind::Monitor)),
                Job::Cleanup => self.migration.behind_lock(actor, &self.view(false), ctx),
                Job::Balloon => None,
            },
            Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Display | Actor::Destination | Actor::Injector => None,
        }
    }

    /// Makes an actor's next move, and returns its cost, nanoseconds.
    pub fn step(&mut self, actor: Actor, vcpus_in_store: bool, ctx: &mut Ctx<'_>) -> u64 {
        match actor {
            Actor::Migration | Actor::Destination => {
                let (migration, mut parts) = self.parts(vcpus_in_store);
                migration.step(actor, &mut parts, ctx)
            }
            Actor::Iothread => {
                let Self { balloon, migration, accel, .. } = self;
                balloon.iothread_step(&mut HintView { migration, accel }, ctx)
            }
            Actor::MainLoop => self.main_loop_step(vcpus_in_store, ctx),
            Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Display | Actor::Injector => {
                unreachable!("{actor} is not one of the host's threads")
            }
        }
    }

    /// Like [`Vmm::step`] for the migration thread, with further moves on pages that nobody watches while the time is before `until_ns`.
    pub fn step_bulk(&mut self, vcpus_in_store: bool, until_ns: u64, pages_max: u64, ctx: &mut Ctx<'_>) -> u64 {
        let (migration, mut parts) = self.parts(vcpus_in_store);
        migration.step_bulk(Actor::Migration, &mut parts, ctx, until_ns, pages_max)
    }

    /// Returns whether a page lies between B and the destination: taken, or on the wire.
    pub fn on_wire(&self, pfn: Pfn) -> bool {
        self.migration.wire().pages().any(|page| page == pfn)
            || self.migration.hand().is_some_and(|hand| hand.pfn == pfn && hand.content.is_some())
    }

    fn takes_hints(&self) -> bool {
        self.migration.status().is_running() && self.migration.ram().is_some()
    }

    fn view(&self, vcpus_in_store: bool) -> View<'_> {
        View { accel: &self.accel, vhost: &self.vhost, destination: &self.destination, vm: self.vm, vcpus_in_store }
    }

    fn parts(&mut self, vcpus_in_store: bool) -> (&mut Migration, Parts<'_>) {
        let Self { accel, d, vhost, balloon, migration, destination, vm, monitor: _, options: _ } = self;
        (migration, Parts { accel, d, vhost, notifier: balloon, destination, vm, vcpus_in_store })
    }

    // ---- the main loop

    /// Returns what the main loop is at: a job that holds locks is finished first.
    fn job(&self, ctx: &Ctx<'_>) -> Job {
        let head = self.monitor.queue.front().copied();
        match head {
            Some(command) if self.monitor.state != MonitorState::Waiting => return Job::Monitor(command),
            Some(_) | None => {}
        }
        let cleanup = self.migration.next(Actor::MainLoop, &self.view(false), ctx) != Next::Idle;
        let holds = ctx.locks.held_by(Actor::MainLoop).next().is_some();
        match (head, holds) {
            (_, true) if self.balloon.main_loop_busy() => Job::Balloon,
            (_, true) => Job::Cleanup,
            (Some(command), false) => Job::Monitor(command),
            (None, false) if cleanup => Job::Cleanup,
            (None, false) => Job::Balloon,
        }
    }

    fn main_loop_next(&self, vcpus_in_store: bool, ctx: &Ctx<'_>) -> Next {
        match self.job(ctx) {
            Job::Monitor(command) => self.monitor.next(self.locks_of(command)),
            Job::Cleanup => self.migration.next(Actor::MainLoop, &self.view(vcpus_in_store), ctx),
            Job::Balloon => self.balloon.main_loop_next(ctx),
        }
    }

    fn main_loop_step(&mut self, vcpus_in_store: bool, ctx: &mut Ctx<'_>) -> u64 {
        match self.job(ctx) {
            Job::Monitor(command) => self.monitor_step(command, ctx),
            Job::Cleanup => {
                let (migration, mut parts) = self.parts(vcpus_in_store);
                migration.step(Actor::MainLoop, &mut parts, ctx)
            }
            Job::Balloon => self.balloon.main_loop_step(ctx),
        }
    }

    /// Returns the locks that a command needs, outermost first.
    fn locks_of(&self, command: Command) -> &'static [LockId] {
        match command {
            Command::Stop | Command::Cont => &[LockId::Bql, LockId::FreePage],
            Command::ResetDevice => self.balloon.reset_locks(),
            Command::Migrate | Command::Cancel | Command::Balloon { .. } | Command::BreakLink => &[LockId::Bql],
        }
    }

    /// One move of a command: a lock, then the command with all locks released behind it.
    fn monitor_step(&mut self, command: Command, ctx: &mut Ctx<'_>) -> u64 {
        let locks = self.locks_of(command);
        let taken = self.monitor.taken();
        if let Some(lock) = locks.get(taken) {
            ctx.lock(*lock);
            self.monitor.state = MonitorState::Locked { taken: taken + 1 };
            return ctx.costs.lock_ns;
        }
        ctx.emit(Event::Monitor { command: command.to_string() });
        let cost = self.carry_out(command, ctx);
        for lock in locks.iter().rev() {
            ctx.unlock(*lock);
        }
        self.monitor.queue.pop_front();
        self.monitor.state = MonitorState::Waiting;
        cost
    }

    fn carry_out(&mut self, command: Command, ctx: &mut Ctx<'_>) -> u64 {
        match command {
            // A monitor refuses what cannot be done now, and the VM goes on; the trace shows the command without its effect.
            Command::Migrate => {
                let refused = self.migration.start(self.options.clone(), ctx).is_err();
                if !refused {
                    self.destination.restart();
                }
                ctx.costs.state_ns
            }
            Command::Cancel => {
                self.migration.cancel(ctx);
                ctx.costs.state_ns
            }
            Command::BreakLink => {
                self.migration.fail(ctx);
                ctx.costs.state_ns
            }
            Command::Stop if self.vm.running => {
                self.vm.running = false;
                ctx.emit(Event::VmStop);
                self.balloon.vm_state_change(false, ctx);
                ctx.costs.vm_stop_ns
            }
            Command::Cont if !self.vm.running && !self.migration.owns_vm() => {
                self.balloon.vm_state_change(true, ctx);
                self.vm.running = true;
                ctx.emit(Event::VmStart);
                ctx.costs.vm_stop_ns
            }
            Command::Stop | Command::Cont => ctx.costs.state_ns,
            Command::Balloon { pages } => {
                self.balloon.set_target(pages, ctx);
                ctx.costs.state_ns
            }
            Command::ResetDevice => {
                self.balloon.reset(ctx);
                ctx.costs.state_ns
            }
        }
    }
}

/// What the main loop is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Monitor(Command),
    Cleanup,
    Balloon,
}
