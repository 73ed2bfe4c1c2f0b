//! The migration as a state machine: what it is, what it would do next, and how it does it.
//!
//! QEMU: migration/migration.c migration_thread(), migration_iteration_run(), migration_completion(), migration_iteration_finish(),
//! migration_cleanup(). Three actors move here: the migration thread, the main loop (only the cleanup's bottom half), and the destination.
//!
//! ```text
//! None ── start ──> Setup ──> Active ──> Device ──> Completed
//!                     │          │          │
//!                     ├──────────┴──────────┤
//!                  cancel                 broken link
//!                     v                     v
//!                 Cancelling             Failing       the VM runs again, then the main loop cleans up
//!                     v                     v
//!                 Cancelled              Failed        a new start works from here
//! ```
//! What becomes of Active with postcopy is in [`crate::migration::postcopy`].

use crate::destination::Destination;
use crate::devices::Devices;
use crate::dirty::accel::Accelerator;
use crate::dirty::physmem::DirtyMemory;
use crate::event::{Actor, Event, EventKind, HintStatus, LockId, MigrationStatus, PrecopyReason};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::migration::course::Course;
use crate::migration::mapped_ram::MappedRam;
use crate::migration::multifd::Multifd;
use crate::migration::notifier::{NotifyAction, PrecopyNotifier};
use crate::migration::op::{self, Op, SyncMove};
use crate::migration::pace::{MigrationOptions, Pace};
use crate::migration::ram::RamState;
use crate::migration::run::Run;
use crate::migration::slice::Hand;
use crate::migration::throttle::TIMER_NS;
use crate::migration::wire::Wire;
use crate::step::{Ctx, Move, Next};

/// Whether the source's vCPUs run (QEMU: runstate_is_running()).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmState {
    /// They do.
    pub running: bool,
    /// A migration has completed and left the VM stopped; nobody has let it go on or reset it since (QEMU: RUN_STATE_POSTMIGRATE).
    pub postmigrate: bool,
}

/// What the engine works on beside its own state.
pub struct Parts<'a> {
    /// K and S.
    pub accel: &'a mut Accelerator,
    /// D.
    pub d: &'a mut DirtyMemory,
    /// V, and who keeps it.
    pub devices: &'a mut Devices,
    /// Who is told of the phases.
    pub notifier: &'a mut dyn PrecopyNotifier,
    /// The receiving side.
    pub destination: &'a mut Destination,
    /// The source's vCPUs.
    pub vm: &'a mut VmState,
    /// A vCPU has marked a page and not yet stored to it (TCG).
    pub vcpus_in_store: bool,
}

impl Parts<'_> {
    /// Returns what [`Migration::next`] needs of them.
    pub fn view(&self) -> View<'_> {
        View {
            accel: self.accel,
            devices: self.devices,
            hints: self.notifier.hints(),
            destination: self.destination,
            vm: *self.vm,
            vcpus_in_store: self.vcpus_in_store,
        }
    }
}

/// What the engine looks at to say what it would do next; see [`Parts`].
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// K and S.
    pub accel: &'a Accelerator,
    /// V, and who keeps it.
    pub devices: &'a Devices,
    /// Where the device's hinting stands.
    pub hints: HintStatus,
    /// The receiving side.
    pub destination: &'a Destination,
    /// The source's vCPUs.
    pub vm: VmState,
    /// A vCPU has marked a page and not yet stored to it (TCG).
    pub vcpus_in_store: bool,
}

/// Why a migration cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StartError {
    /// One is under way.
    Running,
    /// The last one has not been cleaned up.
    CleanupPending,
}

/// The migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    thread: Course,
    bottom_half: Course,
    /// The main loop's timer that makes syncs in long rounds.
    timer: Course,
    pub(crate) run: Run,
}

impl Migration {
    /// Returns a migration that was never started.
    pub fn new() -> Self {
        let run = Run::new(MigrationStatus::None, MigrationOptions::default(), false);
        Self { thread: Course::new(), bottom_half: Course::new(), timer: Course::new(), run }
    }

    /// Adds its state to a hash: the moves to come and what they work on.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { thread, bottom_half, timer, run } = self;
        thread.fold(Tag::Thread, run.options.paced, fold);
        bottom_half.fold(Tag::BottomHalf, false, fold);
        timer.fold(Tag::Timer, false, fold);
        run.fold(fold);
    }

    /// Returns the status.
    pub fn status(&self) -> MigrationStatus {
        self.run.status
    }

    /// Returns the bitmaps; none before the first start and after each cleanup.
    pub fn ram(&self) -> Option<&RamState> {
        self.run.ram.as_ref()
    }

    pub(crate) fn ram_mut(&mut self) -> Option<&mut RamState> {
        self.run.ram.as_mut()
    }

    /// Returns the page between B and the wire.
    pub fn hand(&self) -> Option<&Hand> {
        self.run.hand.as_ref()
    }

    /// Returns what is on its way to the destination.
    pub fn wire(&self) -> &Wire {
        &self.run.wire
    }

    /// Returns the channels beside the main one, if there are any.
    pub fn multifd(&self) -> Option<&Multifd> {
        self.run.multifd.as_ref()
    }

    /// Returns the file, if the stream is one.
    pub fn file(&self) -> Option<&MappedRam> {
        self.run.file.as_ref()
    }

    /// Returns the bytes sent by the last migration.
    pub fn bytes_sent(&self) -> u64 {
        self.run.bytes_sent
    }

    /// Returns the pages that the last migration sent as data and as zero records.
    pub fn pages_sent(&self) -> (u64, u64) {
        (self.run.pages_normal, self.run.pages_zero)
    }

    /// Returns whether the engine has stopped the VM and not yet let go of it, or has found it stopped: `cont` is refused then (QEMU:
    /// RUN_STATE_FINISH_MIGRATE).
    pub fn owns_vm(&self) -> bool {
        let switches =
            matches!(self.run.status, MigrationStatus::PreSwitchover | MigrationStatus::Device | MigrationStatus::PostcopyDevice);
        switches || self.run.stopped_vm && self.run.status.is_running()
    }

    /// Returns whether hints have somebody to take them: not where the guest is once it has gone over.
    pub fn takes_hints(&self) -> bool {
        self.run.status.is_running() && self.run.ram.is_some() && !self.run.post.moved
    }

    /// Returns how much may be left for the switchover, bytes.
    pub fn threshold(&self) -> u64 {
        self.thread.pace.threshold()
    }

    /// Returns whether N is the number of bits of B, which it must be at any time.
    pub fn n_equals_popcount(&self) -> bool {
        self.ram().is_none_or(RamState::n_equals_popcount)
    }

    /// Returns whether nothing of a migration is left to do: no thread, no bottom half.
    pub fn is_finished(&self) -> bool {
        self.thread.ops.is_empty() && self.bottom_half.ops.is_empty()
    }

    /// `migrate`: the status becomes Setup and the thread starts (QEMU: qmp_migrate()). Emits the change of state.
    ///
    /// # Errors
    /// When one is under way or not yet cleaned up; then nothing changes.
    ///
    /// # Panics
    /// When the link has no bandwidth.
    pub fn start(&mut self, options: MigrationOptions, ctx: &mut Ctx<'_>) -> Result<(), StartError> {
        if self.run.status.is_running() {
            return Err(StartError::Running);
        }
        if !self.is_finished() {
            return Err(StartError::CleanupPending);
        }
        let tried = self.run.status != MigrationStatus::None;
        let stalled = self.run.stalled;
        self.run = Run { stalled, ..Run::new(self.run.status, options, tried) };
        self.run.set_status(MigrationStatus::Setup, ctx);
        let ops = if self.run.options.hints_first {
            op::snapshot()
        } else if self.run.options.modes.snapshot {
            op::background_snapshot()
        } else {
            op::setup(!ctx.faults.on(Fault::NoSyncAtStart))
        };
        self.thread = Course { ops, pace: Pace::new(ctx.now_ns, 0) };
        Ok(())
    }

    /// `migrate_cancel` (QEMU: migration_cancel()): the link is shut at once, the thread notices in its own time. Returns whether there was
    /// something to cancel: once the guest may run elsewhere there is not (QEMU: qmp_migrate_cancel()).
    pub fn cancel(&mut self, ctx: &mut Ctx<'_>) -> bool {
        match self.run.status {
            MigrationStatus::Setup | MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device
                if !self.run.destination_done =>
            {
                self.run.shut(false);
                self.run.set_status(MigrationStatus::Cancelling, ctx);
                true
            }
            MigrationStatus::None
            | MigrationStatus::Setup
            | MigrationStatus::Active
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device
            | MigrationStatus::Completed
            | MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::Failed
            | MigrationStatus::PostcopyDevice
            | MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => false,
        }
    }

    /// `migrate_continue`: a switchover that waits for it goes on. Returns whether one did (QEMU: qmp_migrate_continue()).
    pub fn go_on(&mut self) -> bool {
        let waits = self.run.status == MigrationStatus::PreSwitchover;
        self.run.go_on |= waits;
        waits
    }

    /// `migrate-set-capabilities` with postcopy-ram: refused while a migration runs (QEMU: migrate_caps_check()). Returns whether it was taken.
    pub fn set_postcopy(&mut self, on: bool) -> bool {
        let taken = !self.run.status.is_running();
        if taken {
            self.run.options.modes.postcopy = on;
        }
        taken
    }

    /// Returns when a vCPU that could run at a time does run.
    pub fn vcpu_awake_ns(&self, at_ns: u64) -> u64 {
        self.run.throttle.awake_ns(at_ns)
    }

    /// The link breaks: what is on its way is gone, and the thread notices at its next look. Returns whether a migration was hit.
    pub fn fail(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let hit = self.run.healthy() && !self.run.destination_done;
        if hit {
            // [`Fault::ReceiversOutliveR`]: the receivers go on with what they have, though the main thread has cleaned up.
            self.run.shut(ctx.faults.on(Fault::ReceiversOutliveR));
            self.run.link_down = true;
            self.run.post.cut();
            ctx.emit(Event::LinkDown);
        }
        hit
    }

    /// The peer stops to read, or reads again, whether or not a migration is under way. Returns whether that is new.
    pub fn set_stalled(&mut self, stalled: bool, ctx: &mut Ctx<'_>) -> bool {
        let new = self.run.stalled != stalled;
        if new {
            self.run.stalled = stalled;
            ctx.emit(if stalled { Event::LinkStall } else { Event::LinkResume });
        }
        new
    }

    /// Returns whether the peer does not read.
    pub fn stalled(&self) -> bool {
        self.run.stalled
    }

    /// Returns what an actor would do next, at its own time `ctx.now_ns`. A [`Next::Sleep`] is over once that time has come.
    pub fn next(&self, actor: Actor, view: &View<'_>, ctx: &Ctx<'_>) -> Next {
        match actor {
            Actor::Migration => self.announce(&self.thread, view, ctx),
            Actor::MainLoop => self.announce(self.main_loop(), view, ctx),
            Actor::Destination => self.run.destination_next(view.destination, ctx),
            Actor::Channel(channel) => self.run.channel_next(channel),
            Actor::Receiver(channel) => self.run.receiver_next(channel),
            Actor::ReturnPath => self.run.return_path_next(ctx),
            Actor::Vcpu(_)
            | Actor::Iothread
            | Actor::Dma
            | Actor::Vhost
            | Actor::Display
            | Actor::Injector
            | Actor::Vfio
            | Actor::Reaper => Next::Idle,
        }
    }

    /// Returns the move that an actor would make with the lock that it asks for, if that move shows an event that an order could name.
    pub fn behind_lock(&self, actor: Actor, view: &View<'_>, ctx: &Ctx<'_>) -> Option<Move> {
        let mut course = match actor {
            Actor::Migration => self.thread.clone(),
            Actor::MainLoop => self.main_loop().clone(),
            Actor::Vcpu(_)
            | Actor::Iothread
            | Actor::Dma
            | Actor::Vhost
            | Actor::Display
            | Actor::Destination
            | Actor::Injector
            | Actor::Channel(_)
            | Actor::Receiver(_)
            | Actor::ReturnPath
            | Actor::Reaper
            | Actor::Vfio => {
                return None;
            }
        };
        course.settle(&self.run, view, ctx);
        let behind = course.ops.iter().find(|op| !matches!(op, Op::Lock(_)))?;
        let kind = match behind {
            Op::Notify(_) => EventKind::Notify,
            Op::Act(action) => op::action_event(*action),
            Op::Sync(SyncMove::Bitmap) => EventKind::BitmapSync,
            Op::IterateBegin { .. } => EventKind::IterateBegin,
            Op::StopVm => EventKind::VmStop,
            Op::StartVm => EventKind::VmStart,
            Op::LogStart => EventKind::LogStart,
            Op::Exclude => EventKind::BitmapExclude,
            Op::Lock(_)
            | Op::Unlock(_)
            | Op::Sync(_)
            | Op::WriteSetup
            | Op::SetActive
            | Op::Slice { .. }
            | Op::Drain
            | Op::IterateEnd
            | Op::RateLimit { .. }
            | Op::Sleep { .. }
            | Op::Choose(_)
            | Op::Pass
            | Op::LockVmState { .. }
            | Op::SetPaused
            | Op::WaitContinue
            | Op::Unthrottle
            | Op::TimerEnd
            | Op::SetDevice
            | Op::SaveDevice
            | Op::WaitHints
            | Op::WaitDevices
            | Op::WaitDestination
            | Op::SetCompleted
            | Op::SetFailing
            | Op::Schedule
            | Op::LogStop
            | Op::SetPostcopy
            | Op::SavePackage
            | Op::SetStatus(_)
            | Op::WaitLoaded
            | Op::WaitRecover
            | Op::Synchronize
            | Op::SynchronizeInside
            | Op::Reload
            | Op::SendEnd
            | Op::SendSaved
            | Op::SetFinal => return None,
            Op::Protect => EventKind::SnapshotStart,
        };
        Some(Move::plain(kind))
    }

    /// Makes an actor's next move, and returns its cost, nanoseconds.
    ///
    /// # Panics
    /// When the actor has no move, or is not one of the engine's.
    pub fn step(&mut self, actor: Actor, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        match actor {
            Actor::Migration => {
                self.thread.settle(&self.run, &parts.view(), ctx);
                let op = *self.thread.ops.front().expect("the migration thread steps");
                self.perform(op, parts, ctx)
            }
            Actor::MainLoop => {
                let (course, run) =
                    if self.bottom_half.ops.is_empty() { (&mut self.timer, &self.run) } else { (&mut self.bottom_half, &self.run) };
                course.settle(run, &parts.view(), ctx);
                let op = *course.ops.front().expect("the main loop's part steps");
                self.perform(op, parts, ctx)
            }
            Actor::Destination => self.run.destination_step(parts.destination, ctx),
            Actor::Channel(channel) => self.run.channel_step(channel, ctx),
            Actor::Receiver(channel) => self.run.receiver_step(channel, parts.destination, ctx),
            Actor::ReturnPath => self.run.return_path_step(ctx),
            Actor::Vcpu(_)
            | Actor::Iothread
            | Actor::Dma
            | Actor::Vhost
            | Actor::Display
            | Actor::Injector
            | Actor::Vfio
            | Actor::Reaper => {
                unreachable!("{actor} has no part in the migration")
            }
        }
    }

    /// Makes an actor's next move; when that sends a page that nobody watches, goes on with further such moves while the virtual time is
    /// before `until_ns`, up to `max_pages` in all. Returns the cost of all. Equal to single steps, event by event and time by time, as
    /// long as nobody else would have moved in between.
    pub fn step_bulk(&mut self, actor: Actor, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>, until_ns: u64, max_pages: u64) -> u64 {
        let start_ns = ctx.now_ns;
        let first = ctx.events.len();
        // Who waits for a page may move as soon as it is placed.
        let waited_for = self.run.post.is_waited_for() || self.run.snapshot.is_waited_for();
        let mut spent_ns = self.step(actor, parts, ctx);
        let plain = ctx.events.get(first).is_some_and(|stamped| stamped.event.kind() == EventKind::RamPage);
        if let (true, Some(Op::Slice { last })) = (plain, self.thread.ops.front().copied()) {
            for _ in (1..max_pages).take_while(|_| !waited_for) {
                ctx.now_ns = start_ns + spent_ns;
                if ctx.now_ns >= until_ns {
                    break;
                }
                match self.run.page_step_plain(&self.thread.pace, last, parts, ctx) {
                    Some(cost) => spent_ns += cost,
                    None => break,
                }
            }
            ctx.now_ns = start_ns;
        }
        spent_ns
    }

    fn announce(&self, course: &Course, view: &View<'_>, ctx: &Ctx<'_>) -> Next {
        if course.ops.is_empty() {
            return Next::Idle;
        }
        if let Some(op) = course.standing(&self.run, view, ctx) {
            return self.run.announce(op, &course.pace, view, ctx);
        }
        let mut course = course.clone();
        course.settle(&self.run, view, ctx);
        match course.ops.front() {
            Some(op) => self.run.announce(*op, &course.pace, view, ctx),
            None => Next::Idle,
        }
    }

    /// Returns what the main loop has to do: the timer, which does not run once there is a cleanup.
    fn main_loop(&self) -> &Course {
        if self.bottom_half.ops.is_empty() { &self.timer } else { &self.bottom_half }
    }

    fn course_of(&mut self, actor: Actor) -> &mut Course {
        match actor {
            Actor::MainLoop if self.bottom_half.ops.is_empty() => &mut self.timer,
            Actor::MainLoop => &mut self.bottom_half,
            Actor::Migration
            | Actor::Vcpu(_)
            | Actor::Iothread
            | Actor::Dma
            | Actor::Vhost
            | Actor::Display
            | Actor::Destination
            | Actor::Injector
            | Actor::Channel(_)
            | Actor::Receiver(_)
            | Actor::ReturnPath
            | Actor::Reaper
            | Actor::Vfio => &mut self.thread,
        }
    }

    /// Makes the move that stands in front of the moving actor's course.
    fn perform(&mut self, op: Op, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        if let Op::Slice { last } = op {
            return self.run.page_step(&self.thread.pace, last, parts, ctx);
        }
        if op == Op::Drain {
            return self.run.drain_step(ctx);
        }
        self.course_of(ctx.actor).ops.pop_front();
        match op {
            Op::Notify(reason) => self.notify(reason, parts, ctx),
            Op::StopVm => {
                self.run.stopped_vm = true;
                parts.vm.running = false;
                parts.devices.vm_stopped(ctx);
                ctx.emit(Event::VmStop);
                self.thread.push_front([Op::LockVmState { running: false }, Op::Unlock(LockId::FreePage)]);
                ctx.costs.vm_stop_ns
            }
            Op::SetActive => {
                self.run.set_status(MigrationStatus::Active, ctx);
                self.thread.pace = Pace::new(ctx.now_ns, self.run.bytes_sent);
                if self.run.throttles() {
                    self.timer.ops = op::timer(ctx.now_ns + TIMER_NS);
                }
                ctx.costs.state_ns
            }
            Op::TimerEnd => {
                self.run.throttle.timer_syncs = self.run.ram().syncs();
                self.timer.ops = op::timer(ctx.now_ns + TIMER_NS);
                ctx.unlock(LockId::Bql);
                ctx.costs.lock_ns
            }
            Op::Schedule => {
                self.timer.ops.clear();
                self.bottom_half.ops = op::cleanup();
                ctx.unlock(LockId::Bql);
                ctx.costs.lock_ns
            }
            Op::LogStart => {
                let cost = self.run.perform(op, parts, ctx);
                if parts.devices.is_ordered() {
                    self.thread.push_front([Op::WaitDevices]);
                }
                cost
            }
            // Nobody syncs once the guest is elsewhere, and nobody takes the BQL for it.
            Op::SetPostcopy | Op::SetDevice if self.run.options.modes.moves() => {
                self.stop_timer();
                self.run.perform(op, parts, ctx)
            }
            Op::LogStop => {
                self.stop_timer();
                self.run.perform(op, parts, ctx)
            }
            Op::Sync(SyncMove::Devices) => {
                let cost = self.run.perform(op, parts, ctx);
                if !parts.devices.is_clear() {
                    self.course_of(ctx.actor).push_front([op]);
                }
                cost
            }
            Op::Lock(_)
            | Op::Unlock(_)
            | Op::Act(_)
            | Op::Synchronize
            | Op::Exclude
            | Op::WriteSetup
            | Op::Sync(_)
            | Op::IterateBegin { .. }
            | Op::IterateEnd
            | Op::RateLimit { .. }
            | Op::Pass
            | Op::LockVmState { .. }
            | Op::StartVm
            | Op::SetPaused
            | Op::Unthrottle
            | Op::SetDevice
            | Op::SaveDevice
            | Op::SetCompleted
            | Op::SetFailing
            | Op::SetPostcopy
            | Op::SavePackage
            | Op::SetStatus(_)
            | Op::Reload
            | Op::SendEnd
            | Op::SendSaved
            | Op::Protect
            | Op::SetFinal => self.run.perform(op, parts, ctx),
            Op::Slice { .. }
            | Op::Drain
            | Op::Choose(_)
            | Op::Sleep { .. }
            | Op::WaitHints
            | Op::WaitDevices
            | Op::WaitContinue
            | Op::WaitDestination
            | Op::WaitLoaded
            | Op::SynchronizeInside
            | Op::WaitRecover => {
                unreachable!("{op:?} is no move")
            }
        }
    }

    /// The timer ends with the bitmaps (QEMU: cpu_throttle_stop()); if it has the BQL, it gives that back.
    fn stop_timer(&mut self) {
        let rests = matches!(self.timer.ops.front(), None | Some(Op::Sleep { .. } | Op::Lock(LockId::Bql)));
        self.timer.ops.clear();
        if !rests {
            self.timer.push_front([Op::Unlock(LockId::Bql)]);
        }
    }

    /// Tells the notifier, and puts what it would do in front. QEMU: precopy_notify(); the notifier looks at its status without its lock.
    fn notify(&mut self, reason: PrecopyReason, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        let vm_running = parts.vm.running;
        ctx.emit(Event::Notify { reason, vm_running });
        // QEMU: virtio_balloon_free_page_hint_notify() looks at the capability for each event, whatever it was when the migration began: a page that is left out would be asked for in vain.
        let hints = !self.run.options.modes.postcopy || ctx.faults.on(Fault::HintWithPostcopy);
        let plan = if hints { parts.notifier.plan(reason, vm_running, ctx) } else { None };
        let course = self.course_of(ctx.actor);
        match plan {
            None => {}
            Some(plan) if plan.locked => {
                course.push_front([Op::Lock(LockId::FreePage), Op::Act(plan.action), Op::Unlock(LockId::FreePage)]);
            }
            Some(plan) if plan.action == NotifyAction::NewId => {
                course.push_front([Op::Act(NotifyAction::NewId), Op::Act(NotifyAction::Start)]);
            }
            Some(plan) => course.push_front([Op::Act(plan.action)]),
        }
        ctx.costs.state_ns
    }
}

impl Default for Migration {
    fn default() -> Self {
        Self::new()
    }
}
