//! The owner of all host state, and the main loop's monitor.
//!
//! [`Vmm::next`] and [`Vmm::step`] give each host actor its doors; what an actor does is in [`crate::migration`] and [`crate::balloon`]. The main
//! loop is one thread with three jobs, taken in this order: monitor commands, the migration's cleanup bottom half, and the balloon's
//! queues other than hints.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::balloon::{BalloonDevice, BalloonOptions};
use crate::destination::Destination;
use crate::devices::{DeviceOptions, Devices};
use crate::dirty::accel::{Accelerator, LogMode, TrackingOptions};
use crate::dirty::bitmap::DirtyBitmap;
use crate::dirty::command::TrackingCommand;
use crate::dirty::limit::{self, Meter};
use crate::dirty::physmem::DirtyMemory;
use crate::dirty::ram_list::{BlockOptions, RamList};
use crate::dirty::reaper::Reaper;
use crate::event::{Actor, CmdId, Event, EventKind, HintStatus, LockId, PageRange, Pfn, PrecopyReason, Stamped};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::lock::Locks;
use crate::migration::encoding::DestinationRam;
use crate::migration::engine::{Migration, Parts, View, VmState};
use crate::migration::hint::HintView;
use crate::migration::notifier::{NotifyAction, NotifyPlan, PrecopyNotifier};
use crate::migration::pace::{FirstRound, MigrationOptions};
use crate::step::{Await, Ctx, Move, Next};

pub use reset::FIRMWARE;

/// Everything that a host is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmOptions {
    /// Guest memory, pages.
    pub pages: u64,
    /// The RAM blocks that it consists of; none: it is one.
    pub blocks: Vec<BlockOptions>,
    /// How guest writes are tracked.
    pub log: LogMode,
    /// What else that needs.
    pub tracking: TrackingOptions,
    /// The devices that keep a log of their own.
    pub devices: DeviceOptions,
    /// The balloon device.
    pub balloon: BalloonOptions,
    /// Migration parameters.
    pub migration: MigrationOptions,
}

/// A monitor command (QEMU: qapi/migration.json, qapi/machine.json, qapi/misc.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// `system_reset`.
    SystemReset,
    /// The reset that a command or the guest has asked for. Comes by itself.
    MachineReset,
    /// `migrate_start_postcopy`.
    StartPostcopy,
    /// `migrate_recover` at the destination, and `migrate` with `resume` at the source.
    Recover,
    /// Takes the balloon device out of the machine.
    Unplug,
    /// `qom-set` of a virtio-mem device's `requested-size`.
    ResizeMem {
        /// Pages that are to be plugged.
        pages: u64,
    },
    /// The last RAM block grows; not a command, but what the guest's reading of its tables leads to. Nothing where no vCPU runs.
    GrowBlock,
    /// `migrate_continue`.
    Continue,
    /// `migrate-set-capabilities` with postcopy-ram.
    PostcopyRam {
        /// Whether it is to be on.
        on: bool,
    },
    /// The connection to the destination breaks; not a command, but it comes the same way.
    BreakLink,
    /// Something about the tracking of writes.
    Tracking(TrackingCommand),
}

/// What happens to the connection; nobody's lock is needed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkEvent {
    /// The peer stops reading.
    Stall,
    /// The peer reads again.
    Resume,
    /// `yank`: the operator has the socket shut, past the main loop (QEMU: qmp_yank(), an out-of-band command).
    Yank,
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
            Command::SystemReset => "system_reset",
            Command::MachineReset => "machine-reset",
            Command::StartPostcopy => "migrate_start_postcopy",
            Command::Recover => "migrate_recover",
            Command::Unplug => "unplug-balloon",
            Command::ResizeMem { .. } => "requested-size",
            Command::GrowBlock => "grow-block",
            Command::Continue => "migrate_continue",
            Command::PostcopyRam { .. } => "migrate-set-capabilities",
            Command::BreakLink => "break-link",
            Command::Tracking(command) => command.name(),
        }
    }
}

impl Command {
    /// Returns what tells that it is carried out.
    fn kind(self) -> EventKind {
        if self == Command::MachineReset { EventKind::MachineReset } else { EventKind::Monitor }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Balloon { pages } => write!(f, "balloon {pages}"),
            Command::ResizeMem { pages } => write!(f, "{} {pages}", self.name()),
            Command::PostcopyRam { on } => write!(f, "{} postcopy-ram {}", self.name(), if *on { "on" } else { "off" }),
            Command::Migrate
            | Command::Cancel
            | Command::Stop
            | Command::Cont
            | Command::ResetDevice
            | Command::SystemReset
            | Command::MachineReset
            | Command::StartPostcopy
            | Command::Recover
            | Command::Unplug
            | Command::GrowBlock
            | Command::Continue
            | Command::BreakLink
            | Command::Tracking(_) => f.write_str(self.name()),
        }
    }
}

/// Commands on their way through the main loop.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Monitor {
    queue: VecDeque<Command>,
    state: MonitorState,
}

/// Where the command at the head of the queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
            None => Next::Do(Move::plain(self.queue.front().map_or(EventKind::Monitor, |command| command.kind()))),
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
    /// V, and who keeps it.
    pub devices: Devices,
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
    reaper: Reaper,
    meter: Meter,
    left: Option<Box<Left>>,
    /// The machine is to be reset, once it is clear where it goes on.
    reset_put_off: bool,
    fresh: Arc<Fresh>,
    options: MigrationOptions,
}

/// First page that PAM registers are about, at 0xC0000.
const PAM: Pfn = Pfn(0xc0);

/// What logs and devices are in a new process.
#[derive(Debug)]
struct Fresh {
    accel: Accelerator,
    d: DirtyMemory,
    devices: Devices,
}

/// What is left of the source once the guest has gone over to the destination: the end of its migration works on that, until the next one starts.
#[derive(Debug, Clone)]
struct Left {
    accel: Accelerator,
    d: DirtyMemory,
    devices: Devices,
    vm: VmState,
    device: LeftDevice,
}

/// The source's balloon: whatever it is told, its guest will not hear of it.
#[derive(Debug, Clone)]
struct LeftDevice;

impl PrecopyNotifier for LeftDevice {
    fn plan(&self, _reason: PrecopyReason, _vm_running: bool, _ctx: &mut Ctx<'_>) -> Option<NotifyPlan> {
        None
    }

    fn act(&mut self, action: NotifyAction, _ctx: &mut Ctx<'_>) {
        unreachable!("nothing was planned, but {action:?}")
    }

    fn vm_state_change(&mut self, running: bool, _ctx: &mut Ctx<'_>) {
        assert!(!running, "the guest runs elsewhere");
    }

    fn saved_cmd_id(&self) -> CmdId {
        unreachable!("the devices are saved before the guest goes over")
    }
}

/// Seed of the destination's garbage: any value will do, as long as it is always the same.
const GARBAGE_SEED: u64 = 0x6c6f_7374_7061_6765;

impl Vmm {
    /// Returns a host whose guest is about to start.
    ///
    /// # Panics
    /// When the blocks are not all of guest memory.
    pub fn new(options: &VmmOptions) -> Self {
        let ram = match options.blocks.as_slice() {
            [] => RamList::one(options.pages),
            blocks => Arc::new(RamList::new(blocks)),
        };
        assert_eq!(ram.pages(), options.pages, "the RAM blocks are guest memory");
        let accel = Accelerator::with(options.log, &options.tracking, options.pages);
        let d = DirtyMemory::of(ram);
        let devices = Devices::new(options.pages, options.devices.clone());
        let mut balloon = BalloonDevice::new(options.balloon.clone());
        // QEMU: hw/vfio/container.c vfio_container_connect() forbids to discard what a device may hold pinned.
        balloon.set_inhibited(options.devices.vfio && !options.balloon.machine.ignores_pins);
        Self {
            fresh: Arc::new(Fresh { accel: accel.clone(), d: d.clone(), devices: devices.clone() }),
            accel,
            d,
            devices,
            balloon,
            migration: Migration::new(),
            destination: match (options.migration.first_round, options.migration.encoding.destination_ram) {
                (FirstRound::All, DestinationRam::Used) => Destination::new(options.pages, GARBAGE_SEED),
                (FirstRound::Populated, _) | (_, DestinationRam::Fresh) => Destination::new(options.pages, GARBAGE_SEED).zeroed(),
            },
            vm: VmState { running: true, postmigrate: false },
            monitor: Monitor::default(),
            reaper: Reaper::new(options.tracking.reap_interval_ns),
            meter: Meter::default(),
            left: None,
            reset_put_off: false,
            options: options.migration.clone(),
        }
    }

    /// Returns the hash of all that the host's future depends on, and of nothing else (see [`crate::fold`]); locks and guest memory are the
    /// world's. Deadlines count from `now_ns`. It changes nothing but what is remembered for the next call.
    pub fn fold(&mut self, now_ns: u64) -> u128 {
        let Self { accel, d, devices, balloon, migration, destination, vm, monitor, reaper, meter, left, reset_put_off, fresh: _, options } =
            self;
        let mut fold = Fold::default();
        if let Some(Left { accel, d, devices, vm, device: LeftDevice }) = left.as_deref_mut() {
            assert!(!vm.running, "the guest runs elsewhere");
            let mut there = Fold::default();
            accel.fold(&mut there);
            d.fold(&mut there);
            devices.fold(now_ns, &mut there);
            fold.sum_of(Tag::Left as u64, there.sum());
        }
        accel.fold(&mut fold);
        reaper.fold(now_ns, accel, &mut fold);
        meter.fold(&mut fold);
        d.fold(&mut fold);
        devices.fold(now_ns, &mut fold);
        balloon.fold(now_ns, &mut fold);
        migration.fold(&mut fold);
        destination.fold(&mut fold);
        fold.add(Tag::VmRunning, u64::from(vm.running));
        if vm.postmigrate {
            fold.word(Tag::VmRunning as u64, 1, 1);
        }
        fold.add_part(Tag::Monitor, monitor);
        // Of the options this alone ever changes.
        fold.word(Tag::Monitor as u64, u64::MAX, u64::from(options.modes.postcopy));
        fold.word(Tag::Monitor as u64, u64::MAX - 1, u64::from(*reset_put_off));
        fold.sum()
    }

    /// Returns what an actor would do next. `vcpus_in_store`: a vCPU has marked a page and not yet stored to it.
    pub fn next(&self, actor: Actor, vcpus_in_store: bool, ctx: &Ctx<'_>) -> Next {
        match actor {
            Actor::Migration | Actor::Destination | Actor::Channel(_) | Actor::Receiver(_) | Actor::ReturnPath => {
                self.migration.next(actor, &self.view(vcpus_in_store), ctx)
            }
            Actor::Iothread => {
                let next = || self.balloon.iothread_next(self.takes_hints(), ctx);
                self.stuck(actor, ctx)
                    .map_or_else(|| self.hint_lock(ctx).or_else(|| self.hint_unlock(ctx)).unwrap_or_else(next), Stuck::next)
            }
            Actor::MainLoop => self.main_loop_next(vcpus_in_store, ctx),
            Actor::Vhost => self.devices.vhost.next(ctx),
            Actor::Reaper => self.reaper.next(&self.accel, ctx),
            Actor::Vcpu(_) | Actor::Dma | Actor::Display | Actor::Injector | Actor::Vfio => Next::Idle,
        }
    }

    /// Returns the move that an actor would make with the lock that it asks for: a thread that is late is late before its lock, not behind it.
    pub fn behind_lock(&self, actor: Actor, ctx: &Ctx<'_>) -> Option<Move> {
        match actor {
            Actor::Iothread => self.balloon.iothread_behind_lock(self.takes_hints(), ctx),
            Actor::Migration => self.migration.behind_lock(actor, &self.view(false), ctx),
            Actor::MainLoop => match self.job(ctx) {
                Job::Monitor(Command::MachineReset) => Some(self.reset_move()),
                Job::Monitor(_) => Some(Move::plain(EventKind::Monitor)),
                Job::Migration => self.migration.behind_lock(actor, &self.view(false), ctx),
                Job::Measure => Some(Move::plain(EventKind::RingReap)),
                Job::Store(_) | Job::Balloon => None,
            },
            Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Display | Actor::Destination | Actor::Injector | Actor::Vfio => None,
            Actor::Reaper => Some(Move::plain(EventKind::RingReap)),
            Actor::ReturnPath => self.migration.behind_lock(actor, &self.view(false), ctx),
            Actor::Channel(_) | Actor::Receiver(_) => None,
        }
    }

    /// Makes an actor's next move, and returns its cost, nanoseconds.
    pub fn step(&mut self, actor: Actor, vcpus_in_store: bool, ctx: &mut Ctx<'_>) -> u64 {
        let cost = self.move_of(actor, vcpus_in_store, ctx);
        self.look_at_reset();
        cost
    }

    fn move_of(&mut self, actor: Actor, vcpus_in_store: bool, ctx: &mut Ctx<'_>) -> u64 {
        match actor {
            Actor::Migration | Actor::Destination | Actor::Channel(_) | Actor::Receiver(_) | Actor::ReturnPath => {
                let (migration, mut parts) = self.parts(vcpus_in_store);
                migration.step(actor, &mut parts, ctx)
            }
            Actor::Iothread if self.stuck(actor, ctx).is_some() => self.fault(actor, ctx),
            Actor::Iothread if self.hint_lock(ctx).is_some() => {
                ctx.lock(LockId::Slots);
                ctx.costs.lock_ns
            }
            Actor::Iothread if self.hint_unlock(ctx).is_some() => {
                ctx.unlock(LockId::Slots);
                ctx.costs.lock_ns
            }
            Actor::Iothread => {
                let Self { balloon, migration, accel, .. } = self;
                balloon.iothread_step(&mut HintView { migration, accel }, ctx)
            }
            Actor::MainLoop => {
                let first = ctx.events.len();
                let cost = self.main_loop_step(vcpus_in_store, ctx);
                self.devices.look_for_discards(&ctx.events[first..]);
                cost
            }
            Actor::Vhost => self.devices.vhost.step(ctx),
            Actor::Reaper => self.reaper.step(&mut self.accel, ctx),
            Actor::Vcpu(_) | Actor::Dma | Actor::Display | Actor::Injector | Actor::Vfio => {
                unreachable!("{actor} is not one of the host's threads")
            }
        }
    }

    /// Returns whether a thread that has nothing to do looks for it all the time. Who finds the lock that its look takes held sleeps instead.
    pub fn spins(&self, actor: Actor, locks: &Locks) -> bool {
        actor == Actor::Iothread && locks.holder(LockId::FreePage).is_none() && self.balloon.iothread_spins()
    }

    /// Like [`Vmm::step`] for the migration thread, with further moves on pages that nobody watches while the time is before `until_ns`.
    pub fn step_bulk(&mut self, vcpus_in_store: bool, until_ns: u64, pages_max: u64, ctx: &mut Ctx<'_>) -> u64 {
        let (migration, mut parts) = self.parts(vcpus_in_store);
        let cost = migration.step_bulk(Actor::Migration, &mut parts, ctx, until_ns, pages_max);
        self.look_at_reset();
        cost
    }

    /// Something happens to the connection, whoever holds which lock.
    pub fn link(&mut self, event: LinkEvent, ctx: &mut Ctx<'_>) {
        match event {
            LinkEvent::Stall => drop(self.migration.set_stalled(true, ctx)),
            LinkEvent::Resume => drop(self.migration.set_stalled(false, ctx)),
            LinkEvent::Yank => {
                ctx.emit(Event::Monitor { command: "yank".to_owned() });
                self.migration.fail(ctx);
            }
        }
    }

    /// Returns whether a page lies between B and the destination: taken, or on the wire.
    pub fn on_wire(&self, pfn: Pfn) -> bool {
        self.migration.wire().pages().chain(self.migration.lane().pages()).any(|page| page == pfn)
            || self.migration.multifd().is_some_and(|multifd| multifd.pages().any(|page| page == pfn))
            || self.migration.hand().is_some_and(|hand| hand.pfn == pfn && hand.content.is_some())
    }

    /// Reaps for a vCPU whose ring is full, with the BQL; returns what that costs, nanoseconds (QEMU: kvm_dirty_ring_reap()).
    ///
    /// # Panics
    /// Without the BQL.
    pub fn reap(&mut self, cpu: u8, ctx: &mut Ctx<'_>) -> u64 {
        assert_eq!(ctx.locks.holder(LockId::Bql), Some(ctx.actor), "a reap without the BQL");
        let pages = self.accel.reap_full(cpu, ctx);
        ctx.costs.exit_ns + pages * ctx.costs.sync_word_ns
    }

    /// A display that is about to refresh gets the log of its pages' slots, and merges it for everybody, with the BQL (QEMU: memory_region_sync_dirty_bitmap()).
    ///
    /// # Panics
    /// When somebody else has the BQL.
    pub fn refresh_log(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        assert!(ctx.locks.holder(LockId::Bql).is_none(), "the log is merged while somebody holds the BQL");
        self.accel.refresh(range, &mut self.d, ctx);
    }

    /// Carries out a command about tracking. [`Fault::SlotUpdateTorn`]: vCPUs run between the two halves of a slot's update.
    fn track(&mut self, command: TrackingCommand, ctx: &mut Ctx<'_>) {
        match command {
            TrackingCommand::TogglePam if ctx.faults.on(Fault::SlotUpdateTorn) => {
                self.accel.collect_slot(PAM, &mut self.d, ctx);
                self.monitor.queue.insert(1, Command::Tracking(TrackingCommand::ReplaceSlot));
            }
            TrackingCommand::TogglePam => {
                self.accel.collect_slot(PAM, &mut self.d, ctx);
                self.accel.replace_slot(PAM, ctx);
            }
            TrackingCommand::ReplaceSlot => self.accel.replace_slot(PAM, ctx),
            TrackingCommand::DirtyRateStart => self.accel.dirty_rate_start(&mut self.d, ctx),
            TrackingCommand::DirtyRateStop => self.accel.dirty_rate_stop(&mut self.d, ctx),
            TrackingCommand::PlugVcpu => {
                self.accel.vcpu_plugged();
                // It is carried out next, behind the command that is being carried out.
                self.monitor.queue.insert(1, Command::Tracking(TrackingCommand::VcpuCreated));
            }
            TrackingCommand::VcpuCreated => self.accel.vcpu_created(),
            TrackingCommand::FailGet => self.accel.fail_get(),
            TrackingCommand::SetLimit { cpu, rate } => self.set_limit(cpu, rate, ctx),
            TrackingCommand::CancelLimit => self.set_limit(None, 0, ctx),
        }
    }

    /// QEMU: qmp_set_vcpu_dirty_limit(), qmp_cancel_vcpu_dirty_limit(): while a migration runs that limits vCPUs, it alone may (dirtylimit_is_allowed()).
    fn set_limit(&mut self, cpu: Option<u8>, rate: u32, ctx: &mut Ctx<'_>) {
        let Self { accel, d, migration, options, .. } = self;
        let allowed = !(migration.status().is_running() && options.limit.on && accel.limits());
        if allowed && options.paced {
            accel.set_limit(cpu, rate, d, ctx);
        }
    }

    /// Returns from one measurement to the next, nanoseconds.
    fn limit_period_ns(&self) -> u64 {
        let limits = self.options.limit.on && self.migration.status().is_running();
        if limits { self.options.limit.period_ns } else { limit::PERIOD_NS }
    }

    /// Returns the lock that a hint has to wait for beyond `bitmap_mutex`: that of the slots, where its pages' chunks are to be cleared in K.
    fn hint_lock(&self, ctx: &Ctx<'_>) -> Option<Next> {
        let lock = ctx.locks.needed(LockId::Slots, ctx.actor)?;
        let range = self.balloon.hint_in_hand().filter(|_| self.accel.has_slots())?;
        self.migration.hint_clears(range, &self.accel).then_some(lock)
    }

    /// Returns the release of that lock, once the hint is made.
    fn hint_unlock(&self, ctx: &Ctx<'_>) -> Option<Next> {
        let done = ctx.locks.holder(LockId::Slots) == Some(ctx.actor) && self.balloon.hint_in_hand().is_none();
        done.then_some(Next::Do(Move::plain(EventKind::LockRelease)))
    }

    fn takes_hints(&self) -> bool {
        self.migration.takes_hints()
    }

    /// The guest goes over to the destination, with its devices: what they were at the source is left behind.
    ///
    /// # Panics
    /// When it has gone already.
    pub fn go_over(&mut self, running: bool, ctx: &mut Ctx<'_>) {
        assert!(self.left.is_none() && !self.vm.running, "a guest goes over once");
        let fresh = Arc::clone(&self.fresh);
        let Fresh { accel, d, devices } = &*fresh;
        let accel = std::mem::replace(&mut self.accel, accel.clone());
        let d = std::mem::replace(&mut self.d, d.clone());
        let devices = std::mem::replace(&mut self.devices, devices.clone());
        self.devices.load_mem(&devices);
        self.d.load_length(&d);
        self.left = Some(Box::new(Left { accel, d, devices, vm: self.vm, device: LeftDevice }));
        self.vm = VmState { running, postmigrate: false };
        self.balloon.arrive(running, ctx);
    }

    fn view(&self, vcpus_in_store: bool) -> View<'_> {
        let destination = &self.destination;
        match &self.left {
            Some(left) => View {
                accel: &left.accel,
                devices: &left.devices,
                hints: HintStatus::Stop,
                destination,
                vm: left.vm,
                vcpus_in_store: false,
            },
            None => {
                View { accel: &self.accel, devices: &self.devices, hints: self.balloon.hints(), destination, vm: self.vm, vcpus_in_store }
            }
        }
    }

    fn parts(&mut self, vcpus_in_store: bool) -> (&mut Migration, Parts<'_>) {
        let Self {
            accel,
            d,
            devices,
            balloon,
            migration,
            destination,
            vm,
            monitor: _,
            reaper: _,
            meter: _,
            left,
            reset_put_off: _,
            fresh: _,
            options: _,
        } = self;
        let parts = match left.as_deref_mut() {
            Some(Left { accel, d, devices, vm, device }) => {
                Parts { accel, d, devices, notifier: device, destination, vm, vcpus_in_store: false }
            }
            None => Parts { accel, d, devices, notifier: balloon, destination, vm, vcpus_in_store },
        };
        (migration, parts)
    }

    // ---- pages that cannot be used

    /// Returns what keeps a device's thread from its next move: a page of its rings that has not arrived, or that may not be written.
    fn stuck(&self, actor: Actor, ctx: &Ctx<'_>) -> Option<Stuck> {
        let (missing, protected) = (self.migration.missing(), self.migration.protected());
        if missing.is_none() && protected.is_none() {
            return None;
        }
        let (used, written) = self.balloon.pages_in_use(actor, ctx.now_ns)?;
        let first = |bits: &DirtyBitmap, range: PageRange| bits.next_set(range.first).filter(|pfn| range.contains(*pfn));
        let absent = missing.and_then(|missing| used.into_iter().find_map(|range| first(missing, range)));
        let absent = absent.map(|pfn| Stuck { pfn, kind: EventKind::DstFault, asked: self.migration.is_asked_for(pfn) });
        absent.or_else(|| {
            let pfn = first(protected?, written)?;
            Some(Stuck { pfn, kind: EventKind::SnapshotFault, asked: self.migration.is_wanted(pfn) })
        })
    }

    fn fault(&mut self, actor: Actor, ctx: &mut Ctx<'_>) -> u64 {
        let stuck = self.stuck(actor, ctx).expect("a page is in the way");
        self.ask_for(stuck, ctx)
    }

    fn ask_for(&mut self, stuck: Stuck, ctx: &mut Ctx<'_>) -> u64 {
        let Stuck { pfn, kind, asked } = stuck;
        assert!(!asked, "page {pfn} is waited for");
        match kind {
            EventKind::DstFault => self.page_fault(pfn, ctx),
            _ => self.migration.write_fault(pfn, ctx),
        }
        ctx.costs.exit_ns
    }

    /// Somebody touches a page that is missing at the destination. [`Fault::UnpluggedRequested`]: it is asked for, plugged or not.
    ///
    /// # Panics
    /// When the page is not missing, or is asked for.
    pub fn page_fault(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        if self.devices.is_discarded(pfn) && !ctx.faults.on(Fault::UnpluggedRequested) {
            self.migration.place_locally(pfn, &mut self.destination, ctx);
        } else {
            self.migration.page_fault(pfn, &self.destination, ctx);
        }
    }

    // ---- the main loop

    /// Returns what the main loop is at: a job that holds locks is finished first.
    fn job(&self, ctx: &Ctx<'_>) -> Job {
        if let Some(range) = self.d.torn() {
            return Job::Store(range);
        }
        let head = self.monitor.queue.front().copied();
        match head {
            // QEMU: migrate-recover is made by the monitor's own thread, whatever the main loop waits for.
            Some(Command::Recover) => return Job::Monitor(Command::Recover),
            Some(command) if self.monitor.state != MonitorState::Waiting => return Job::Monitor(command),
            Some(_) | None => {}
        }
        let holds = ctx.locks.held_by(Actor::MainLoop).next().is_some();
        match (head, holds) {
            (_, true) if self.meter.is_busy() => Job::Measure,
            (_, true) if self.balloon.main_loop_busy() => Job::Balloon,
            (_, true) => Job::Migration,
            (Some(command), false) => Job::Monitor(command),
            (None, false) => self.idle_job(ctx),
        }
    }

    /// Returns whose turn it is when nothing is begun: the migration's, unless that has nothing to do or sleeps; then the balloon's.
    fn idle_job(&self, ctx: &Ctx<'_>) -> Job {
        match self.migration.next(Actor::MainLoop, &self.view(false), ctx) {
            Next::Do(_) | Next::Lock(_) | Next::Wait(_) => Job::Migration,
            Next::Idle | Next::Sleep(_) if self.measures_now(ctx) => Job::Measure,
            Next::Idle | Next::Sleep(_) => Job::Balloon,
        }
    }

    /// Returns whether the meter can move, and the balloon's part of the main loop is at rest.
    fn measures_now(&self, ctx: &Ctx<'_>) -> bool {
        let awake = !matches!(self.meter.next(&self.accel, self.limit_period_ns(), ctx), Next::Idle | Next::Sleep(_));
        awake && matches!(self.balloon.main_loop_next(ctx), Next::Idle | Next::Sleep(_))
    }

    fn main_loop_next(&self, vcpus_in_store: bool, ctx: &Ctx<'_>) -> Next {
        match self.job(ctx) {
            Job::Monitor(_) if self.reset_stuck(ctx).is_some() => self.reset_stuck(ctx).map_or(Next::Idle, Stuck::next),
            Job::Monitor(command) => self.monitor.next(&self.locks_of(command, ctx)),
            Job::Migration => self.migration.next(Actor::MainLoop, &self.view(vcpus_in_store), ctx),
            Job::Measure => self.meter.next(&self.accel, self.limit_period_ns(), ctx),
            Job::Store(range) => Next::Do(Move::on(EventKind::BitmapStore, range)),
            Job::Balloon if self.stuck(Actor::MainLoop, ctx).is_some() => self.stuck(Actor::MainLoop, ctx).map_or(Next::Idle, Stuck::next),
            Job::Balloon => {
                let timers = [
                    self.meter.next(&self.accel, self.limit_period_ns(), ctx),
                    self.migration.next(Actor::MainLoop, &self.view(false), ctx),
                ];
                timers.into_iter().fold(self.balloon.main_loop_next(ctx), sooner)
            }
        }
    }

    fn main_loop_step(&mut self, vcpus_in_store: bool, ctx: &mut Ctx<'_>) -> u64 {
        match self.job(ctx) {
            Job::Monitor(_) if self.reset_stuck(ctx).is_some() => self.reset_fault(ctx),
            Job::Monitor(command) => self.monitor_step(command, ctx),
            Job::Migration => {
                let (migration, mut parts) = self.parts(vcpus_in_store);
                migration.step(Actor::MainLoop, &mut parts, ctx)
            }
            Job::Measure => self.meter.step(&mut self.accel, &mut self.d, ctx),
            Job::Store(range) => {
                ctx.emit(Event::BitmapStore { range });
                self.d.store_torn();
                ctx.costs.sync_word_ns
            }
            Job::Balloon if self.stuck(Actor::MainLoop, ctx).is_some() => self.fault(Actor::MainLoop, ctx),
            Job::Balloon => {
                let first = ctx.events.len();
                self.balloon.set_held_back(self.migration.inhibits_discards(ctx.faults), ctx.faults);
                let cost = self.balloon.main_loop_step(ctx);
                for range in ctx.events[first..].iter().filter_map(discarded) {
                    self.migration.dropped(range);
                }
                cost
            }
        }
    }

    /// Returns the locks that a command needs and somebody takes, outermost first.
    fn locks_of(&self, command: Command, ctx: &Ctx<'_>) -> Vec<LockId> {
        let taken = |lock: &LockId| ctx.locks.knows(*lock) && (*lock != LockId::Slots || self.accel.has_slots());
        self.all_locks_of(command).iter().copied().filter(taken).collect()
    }

    fn all_locks_of(&self, command: Command) -> &'static [LockId] {
        match command {
            Command::Stop | Command::Cont => &[LockId::Bql, LockId::FreePage],
            Command::ResetDevice => self.balloon.reset_locks(),
            Command::MachineReset => self.reset_locks(),
            Command::Unplug => self.balloon.unplug_locks(),
            Command::Recover => &[],
            Command::Cancel => &[LockId::Bql, LockId::QemuFile],
            Command::Tracking(_) => &[LockId::Bql, LockId::Slots],
            Command::Migrate
            | Command::StartPostcopy
            | Command::Balloon { .. }
            | Command::SystemReset
            | Command::ResizeMem { .. }
            | Command::GrowBlock
            | Command::BreakLink
            | Command::Continue
            | Command::PostcopyRam { .. } => &[LockId::Bql],
        }
    }

    /// One move of a command: a lock, then the command with all locks released behind it.
    fn monitor_step(&mut self, command: Command, ctx: &mut Ctx<'_>) -> u64 {
        let locks = self.locks_of(command, ctx);
        let taken = self.monitor.taken();
        if let Some(lock) = locks.get(taken) {
            ctx.lock(*lock);
            self.monitor.state = MonitorState::Locked { taken: taken + 1 };
            return ctx.costs.lock_ns;
        }
        ctx.emit(match command {
            Command::MachineReset => Event::MachineReset,
            _ => Event::Monitor { command: command.to_string() },
        });
        let cost = self.carry_out(command, ctx);
        for lock in locks.iter().rev() {
            ctx.unlock(*lock);
        }
        self.monitor.queue.pop_front();
        self.monitor.state = MonitorState::Waiting;
        cost
    }

    /// A vCPU has read the tables (QEMU: hw/i386/acpi-build.c acpi_build_update(), from hw/nvram/fw_cfg.c fw_cfg_select()): where none runs, nothing
    /// grows. QEMU: migration/ram.c ram_mig_ram_block_resized(): a migration from here knows the blocks as they were when it began, and is cancelled.
    /// [`Fault::ResizeUnnoticed`]: it goes on.
    fn grow_block(&mut self, ctx: &mut Ctx<'_>) {
        if !self.vm.running {
            return;
        }
        let new = self.d.grow();
        let leaves = self.left.is_none() && self.migration.status().is_running();
        if new.count > 0 && leaves && !ctx.faults.on(Fault::ResizeUnnoticed) {
            self.migration.cancel(ctx);
        }
    }

    fn carry_out(&mut self, command: Command, ctx: &mut Ctx<'_>) -> u64 {
        match command {
            // A monitor refuses what cannot be done now, and the VM goes on; the trace shows the command without its effect.
            Command::Migrate => {
                // QEMU: migrate_prepare() asks for hardware poison first. [`Fault::PoisonedPageRead`]: nobody asks.
                let poisoned = self.options.encoding.poisoned.is_some() && !ctx.faults.on(Fault::PoisonedPageRead);
                // It asks for RUN_STATE_POSTMIGRATE, too: what has gone over does not go again.
                let refused = poisoned || self.vm.postmigrate || self.migration.start(self.options.clone(), ctx).is_err();
                if !refused {
                    self.left = None;
                    self.destination.restart();
                }
                ctx.costs.state_ns
            }
            Command::Cancel => {
                // QEMU: migration_cancel() has the limits lifted first, while the migration still runs: that is refused.
                if self.options.limit.on {
                    self.set_limit(None, 0, ctx);
                }
                self.migration.cancel(ctx);
                ctx.costs.state_ns
            }
            Command::Continue => {
                self.migration.go_on();
                ctx.costs.state_ns
            }
            Command::PostcopyRam { on } => {
                // The capability is the process's: it holds for the last migration's cleanup and for the next migration.
                let excluded = self.options.modes.snapshot || self.options.encoding.refused(true).is_some();
                if !(on && excluded) && self.migration.set_postcopy(on) {
                    self.options.modes.postcopy = on;
                }
                ctx.costs.state_ns
            }
            Command::StartPostcopy => {
                self.migration.start_postcopy();
                ctx.costs.state_ns
            }
            Command::Recover => {
                self.migration.recover(ctx.faults);
                ctx.costs.state_ns
            }
            Command::GrowBlock => {
                self.grow_block(ctx);
                ctx.costs.state_ns
            }
            Command::BreakLink => {
                self.migration.fail(ctx);
                ctx.costs.state_ns
            }
            Command::Tracking(command) => {
                self.track(command, ctx);
                ctx.costs.state_ns
            }
            Command::Stop if self.vm.running => {
                self.vm.running = false;
                self.devices.vm_stopped(ctx);
                ctx.emit(Event::VmStop);
                self.balloon.vm_state_change(false, ctx);
                ctx.costs.vm_stop_ns
            }
            Command::Cont if !self.vm.running && !self.migration.owns_vm() => {
                self.balloon.vm_state_change(true, ctx);
                self.accel.vm_starts(&mut self.d);
                self.vm = VmState { running: true, postmigrate: false };
                ctx.emit(Event::VmStart);
                ctx.costs.vm_stop_ns
            }
            Command::Stop | Command::Cont => ctx.costs.state_ns,
            Command::Balloon { pages } => {
                self.balloon.set_target(pages, ctx);
                ctx.costs.state_ns
            }
            Command::ResizeMem { pages } => {
                self.devices.resize_mem(pages, self.migration.status().is_running(), ctx);
                ctx.costs.state_ns
            }
            Command::Unplug => {
                if self.balloon.is_plugged() {
                    self.balloon.unrealize(ctx);
                }
                ctx.costs.state_ns
            }
            Command::ResetDevice => {
                self.balloon.reset(ctx);
                ctx.costs.state_ns
            }
            Command::SystemReset => {
                self.request_reset();
                ctx.costs.state_ns
            }
            Command::MachineReset => self.reset_machine(ctx),
        }
    }
}

/// Returns which of a move and of another's timer comes first: a move does.
fn sooner(next: Next, timer: Next) -> Next {
    match (next, timer) {
        (Next::Idle, Next::Sleep(ns)) => Next::Sleep(ns),
        (Next::Sleep(one_ns), Next::Sleep(other_ns)) => Next::Sleep(one_ns.min(other_ns)),
        (next, _) => next,
    }
}

/// Returns the pages that an event says were dropped.
fn discarded(stamped: &Stamped) -> Option<PageRange> {
    stamped.event.range().filter(|_| stamped.event.kind() == EventKind::HostDiscard)
}

/// A page that keeps a thread from its next move.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    pfn: Pfn,
    /// What it tells when it asks for it.
    kind: EventKind,
    asked: bool,
}

impl Stuck {
    fn next(self) -> Next {
        match self.asked {
            true => Next::Wait(Await::Page),
            false => Next::Do(Move::on(self.kind, PageRange::page(self.pfn))),
        }
    }
}

/// What the main loop is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Monitor(Command),
    Migration,
    Measure,
    /// A device's word of D goes back (a fault).
    Store(PageRange),
    Balloon,
}

mod reset;
#[cfg(test)]
mod tests;
