//! What an actor of the engine has before it: the list of its moves, and the choices that extend it.
//!
//! Choices are made when their move is due, not before, since a hint, a cancel or the clock may change them until then; they cost no time
//! and show no event. `Course::settle` makes them until a real move (or a wait) stands in front, on a copy when it is only asked for.

use std::collections::VecDeque;

use crate::destination::DestinationStatus;
use crate::event::{HintStatus, LockId, MigrationStatus};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::migration::engine::View;
use crate::migration::op::{self, Choice, Op, SyncMove};
use crate::migration::pace::{Pace, WINDOW_NS};
use crate::migration::run::Run;
use crate::migration::slice::PageMove;
use crate::step::Ctx;
use wire::platform::PAGE_SIZE;

/// The moves to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Course {
    pub(crate) ops: VecDeque<Op>,
    pub(crate) pace: Pace,
}

impl Course {
    /// Returns a course with nothing to do.
    pub(crate) fn new() -> Self {
        Self { ops: VecDeque::new(), pace: Pace::new(0, 0) }
    }

    /// Adds its state to a hash; the pace only where it has a say.
    pub(crate) fn fold(&self, tag: Tag, paced: bool, fold: &mut Fold) {
        let Self { ops, pace } = self;
        fold.add_part(tag, ops);
        if paced {
            fold.add_part(Tag::Pace, pace);
        }
    }

    /// Puts moves before all others.
    pub(crate) fn push_front(&mut self, ops: impl IntoIterator<Item = Op, IntoIter: DoubleEndedIterator>) {
        for op in ops.into_iter().rev() {
            self.ops.push_front(op);
        }
    }

    /// Returns the move or wait in front if it stands as it is, with nothing to choose or drop before it.
    pub(crate) fn standing(&self, run: &Run, view: &View<'_>, ctx: &Ctx<'_>) -> Option<Op> {
        self.ops.front().copied().filter(|front| stands(*front, run, &self.pace, view, ctx))
    }

    /// Drops moves that have become empty and makes the choices that are due, until a move or a wait stands in front.
    pub(crate) fn settle(&mut self, run: &Run, view: &View<'_>, ctx: &Ctx<'_>) {
        while let Some(front) = self.ops.front().copied() {
            if stands(front, run, &self.pace, view, ctx) {
                return;
            }
            self.ops.pop_front();
            match front {
                Op::Choose(choice) => self.choose(choice, run, view, ctx),
                // QEMU: the switchover finds out that it was cancelled or that the stream is broken, and goes out by its failure path.
                Op::SetDevice | Op::SetPostcopy => self.ops = VecDeque::from([Op::Unlock(LockId::Bql), Op::Choose(Choice::Iteration)]),
                Op::SetActive
                | Op::Exclude
                | Op::Sync(_)
                | Op::Slice { .. }
                | Op::Drain
                | Op::Sleep { .. }
                | Op::SetPaused
                | Op::WaitContinue
                | Op::Unthrottle
                | Op::StopVm
                | Op::WaitHints
                | Op::WaitDevices
                | Op::WaitDestination
                | Op::WaitLoaded
                | Op::WaitRecover
                | Op::SetCompleted
                | Op::Lock(_)
                | Op::Unlock(_)
                | Op::Synchronize
                | Op::SynchronizeInside
                | Op::SetFinal => {}
                Op::LogStart
                | Op::Notify(_)
                | Op::Act(_)
                | Op::WriteSetup
                | Op::IterateBegin { .. }
                | Op::IterateEnd
                | Op::RateLimit { .. }
                | Op::Pass
                | Op::LockVmState { .. }
                | Op::StartVm
                | Op::SaveDevice
                | Op::SetFailing
                | Op::SavePackage
                | Op::SetStatus(_)
                | Op::Reload
                | Op::SendEnd
                | Op::SendSaved
                | Op::Protect
                | Op::TimerEnd
                | Op::Schedule
                | Op::LogStop => unreachable!("{front:?} always stands"),
            }
        }
    }

    fn choose(&mut self, choice: Choice, run: &Run, view: &View<'_>, ctx: &Ctx<'_>) {
        match choice {
            Choice::Iteration => self.push_front(self.iteration(run, view, ctx)),
            Choice::Switchover => self.push_front(self.switchover(run, ctx)),
            Choice::Pause => self.pause(run, ctx),
            Choice::Tick if view.vm.running && run.ram().syncs() > 1 && run.ram().syncs() == run.throttle.timer_syncs => {
                self.push_front(op::sync(false).collect::<VecDeque<Op>>());
            }
            Choice::Tick => {}
            Choice::Restart if run.stopped_vm && !view.vm.running && run.status != MigrationStatus::Completed => {
                self.push_front([Op::LockVmState { running: true }, Op::Unlock(LockId::FreePage), Op::StartVm]);
            }
            Choice::Restart => {}
        }
    }

    /// QEMU: migration_iteration_run() up to its sync, and the loop around it.
    /// [`Fault::SwitchoverOnEquality`]: what is left is counted anew where it is below the threshold, and sent with the VM stopped where it is not above.
    fn iteration(&self, run: &Run, view: &View<'_>, ctx: &Ctx<'_>) -> VecDeque<Op> {
        match run.status {
            MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device if run.link_down => {
                VecDeque::from([Op::SetFailing, Op::Choose(Choice::Iteration)])
            }
            MigrationStatus::Active if run.post.wanted => op::postcopy(!ctx.faults.on(Fault::HintWithPostcopy)),
            MigrationStatus::Active if run.options.modes.snapshot => match run.ram().next_dirty() {
                Some(_) => iterate(ctx),
                None => op::snapshot_end(),
            },
            MigrationStatus::Active => {
                let (pending, threshold) = (pending_bytes(run), self.threshold(run));
                if pending == threshold && synced_enough(run) && ctx.faults.on(Fault::SwitchoverOnEquality) {
                    return self.switchover(run, ctx);
                }
                let round_is_over = pending <= threshold || ctx.faults.on(Fault::SyncEachSlice);
                match round_is_over {
                    true => op::round_end(),
                    // N says that there is a page, and B has none. Differs: QEMU goes around until its estimate of the bandwidth changes.
                    false if run.options.paced && run.ram().next_dirty().is_none() => {
                        let until_ns = self.pace.window_end_ns().max(ctx.now_ns);
                        VecDeque::from([Op::Sleep { until_ns }, Op::Choose(Choice::Pause), Op::Choose(Choice::Iteration)])
                    }
                    false => iterate(ctx),
                }
            }
            MigrationStatus::PostcopyDevice | MigrationStatus::PostcopyActive => postcopy_iteration(run, view, ctx),
            MigrationStatus::Completed if run.post.moved => op::leave(),
            // Failed already only with a fault.
            MigrationStatus::Cancelling | MigrationStatus::Failing | MigrationStatus::Failed | MigrationStatus::Completed => op::finish(),
            MigrationStatus::None
            | MigrationStatus::Setup
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device
            | MigrationStatus::Cancelled
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => unreachable!("the migration thread decides in state {}", run.status.name()),
        }
    }

    /// QEMU: migration_iteration_run() behind its sync.
    fn switchover(&self, run: &Run, ctx: &Ctx<'_>) -> VecDeque<Op> {
        if run.in_postcopy() && !run.link_down && run.ram().next_dirty().is_none() {
            return op::postcopy_end();
        }
        if run.status != MigrationStatus::Active || run.link_down {
            return VecDeque::from([Op::Choose(Choice::Iteration)]);
        }
        if synced_enough(run) && pending_bytes(run) <= self.threshold(run) {
            op::switchover(run.options.complete_before_sync, run.options.switchover.pause)
        } else {
            iterate(ctx)
        }
    }

    /// QEMU: migration_rate_limit(). [`Fault::RateLimitOfDeadLink`]: a link that is shut counts as one whose share is used up, for ever.
    fn pause(&mut self, run: &Run, ctx: &Ctx<'_>) {
        if !run.healthy() && ctx.faults.on(Fault::RateLimitOfDeadLink) {
            let until_ns = ctx.now_ns + WINDOW_NS;
            self.push_front([Op::RateLimit { until_ns }, Op::Sleep { until_ns }, Op::Choose(Choice::Pause)]);
            return;
        }
        self.pace.update(ctx.now_ns, run.bytes_sent, &run.options, ctx.faults);
        if run.healthy() && run.rate_exceeded(&self.pace) && !run.post.has_work() {
            let until_ns = self.pace.window_end_ns();
            self.push_front([Op::RateLimit { until_ns }, Op::Sleep { until_ns }, Op::Choose(Choice::Pause)]);
        }
    }

    fn threshold(&self, run: &Run) -> u64 {
        if run.ram().syncs() < run.options.syncs_counted() {
            0
        } else if run.options.paced {
            self.pace.threshold()
        } else {
            u64::MAX
        }
    }
}

/// QEMU: migration_iteration_run() behind the switch, and migration_detect_error(): a link that breaks once the destination may run is waited for.
fn postcopy_iteration(run: &Run, view: &View<'_>, ctx: &Ctx<'_>) -> VecDeque<Op> {
    let there = run.post.moved || view.destination.status() == DestinationStatus::Loaded;
    let all_sent = run.ram().next_dirty().is_none() && !run.post.has_work();
    match run.status {
        MigrationStatus::PostcopyDevice if all_sent && !run.post.loaded && ctx.faults.on(Fault::LostPong) => {
            VecDeque::from([Op::WaitLoaded, Op::Choose(Choice::Iteration)])
        }
        _ if run.link_down && there => op::pause(),
        _ if run.link_down => VecDeque::from([Op::SetFailing, Op::Choose(Choice::Iteration)]),
        MigrationStatus::PostcopyDevice if run.post.loaded => {
            VecDeque::from([Op::SetStatus(MigrationStatus::PostcopyActive), Op::Choose(Choice::Iteration)])
        }
        _ if !all_sent => iterate(ctx),
        // What a sync finds here was sent before.
        MigrationStatus::PostcopyActive if ctx.faults.on(Fault::SyncInPostcopy) => op::stray_sync(),
        MigrationStatus::PostcopyDevice => VecDeque::from([Op::WaitLoaded, Op::Choose(Choice::Iteration)]),
        _ => op::postcopy_end(),
    }
}

/// Returns whether there were as many syncs as the scenario asks for.
fn synced_enough(run: &Run) -> bool {
    run.ram().syncs() >= run.options.rounds_min
}

/// Returns how much is to be sent. A count that went below 0 is very large, as in QEMU.
fn pending_bytes(run: &Run) -> u64 {
    run.ram().n().saturating_mul(PAGE_SIZE)
}

fn iterate(ctx: &Ctx<'_>) -> VecDeque<Op> {
    op::iterate(!ctx.faults.on(Fault::SliceWithoutMutex))
}

/// Returns whether an orchestrator still waits for the round of hints that it has asked for: until the device says DONE, behind the driver's last page.
///
/// [`Fault::SnapshotWhenAnswered`]: until the driver has sent the id that it was told, which is the round's beginning.
fn awaits_hints(hints: HintStatus, ctx: &Ctx<'_>) -> bool {
    match hints {
        HintStatus::Requested => true,
        HintStatus::Start => !ctx.faults.on(Fault::SnapshotWhenAnswered),
        HintStatus::Stop | HintStatus::Done => false,
    }
}

/// Returns whether the move is one that the actor makes or waits in, as things are.
fn stands(op: Op, run: &Run, pace: &Pace, view: &View<'_>, ctx: &Ctx<'_>) -> bool {
    match op {
        Op::Choose(_) => false,
        Op::Sync(SyncMove::Reap) => view.accel.has_rings() && view.accel.logging(),
        Op::Sync(SyncMove::Backup) => view.accel.has_rings() && view.accel.logging() && !ctx.faults.on(Fault::BackupIgnored),
        Op::Sync(SyncMove::Reset) => view.accel.awaits_reset(),
        Op::Sync(SyncMove::Get) => view.accel.has_get(ctx.faults),
        Op::Sync(SyncMove::Merge) => view.accel.awaits_merge(),
        Op::Sync(SyncMove::Devices) => !view.devices.is_clear(),
        Op::SetActive => run.status == MigrationStatus::Setup,
        Op::Exclude => view.devices.mem().is_some() && !ctx.faults.on(Fault::UnpluggedByHints),
        Op::Slice { last } => run.page_move(pace, last, view.accel, ctx) != PageMove::End,
        Op::Drain => run.drain_move(ctx) != PageMove::End,
        // QEMU: a request breaks the wait (migration_make_urgent_request()).
        Op::Sleep { until_ns } => ctx.now_ns < until_ns && !run.post.has_work(),
        Op::StopVm => view.vm.running,
        Op::SetPaused => run.status == MigrationStatus::Active && !run.link_down,
        Op::WaitContinue => run.status == MigrationStatus::PreSwitchover && !run.go_on,
        Op::SetDevice => matches!(run.status, MigrationStatus::Active | MigrationStatus::PreSwitchover) && !run.link_down,
        Op::Unthrottle => run.throttle.is_active(),
        Op::SetPostcopy => run.status == MigrationStatus::Active && !run.link_down,
        Op::WaitLoaded => (run.healthy() || ctx.faults.on(Fault::LostPong)) && !run.post.loaded,
        Op::WaitRecover => !run.post.recover,
        // The main loop that is left has nobody to share its lock with.
        Op::Lock(LockId::Bql) | Op::Unlock(LockId::Bql) => !run.post.moved,
        Op::Lock(LockId::Slots) => ctx.locks.knows(LockId::Slots) && view.accel.has_slots(),
        Op::Lock(lock) => ctx.locks.knows(lock),
        Op::Unlock(lock) if lock.is_fine() => ctx.locks.holder(lock) == Some(ctx.actor),
        Op::Synchronize => ctx.faults.on(Fault::SynchronizeUnderBql),
        Op::SynchronizeInside => ctx.faults.on(Fault::SynchronizeInside),
        Op::WaitHints => run.healthy() && awaits_hints(view.hints, ctx),
        Op::WaitDevices => view.devices.is_awaited(ctx),
        Op::WaitDestination => run.healthy() && !run.destination_done,
        Op::SetCompleted => run.destination_done,
        Op::SetFinal => run.status.is_running(),
        Op::Sync(SyncMove::Bitmap | SyncMove::After)
        | Op::Unlock(_)
        | Op::LogStart
        | Op::Notify(_)
        | Op::Act(_)
        | Op::WriteSetup
        | Op::IterateBegin { .. }
        | Op::IterateEnd
        | Op::RateLimit { .. }
        | Op::Pass
        | Op::LockVmState { .. }
        | Op::StartVm
        | Op::SaveDevice
        | Op::SetFailing
        | Op::SavePackage
        | Op::SetStatus(_)
        | Op::Reload
        | Op::SendEnd
        | Op::SendSaved
        | Op::Protect
        | Op::TimerEnd
        | Op::Schedule
        | Op::LogStop => true,
    }
}
