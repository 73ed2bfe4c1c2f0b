//! The engine's moves. Each is one atomic step, but for those that only decide what comes next.

use std::collections::VecDeque;

use crate::event::{EventKind, LockId, MigrationStatus, PrecopyReason};
use crate::migration::notifier::NotifyAction;

/// One move of the migration thread or of its bottom half in the main loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Op {
    /// Takes a lock.
    Lock(LockId),
    /// Releases it.
    Unlock(LockId),
    /// Makes the bitmaps and switches all logs on.
    LogStart,
    /// Tells the notifier, and asks what it would do.
    Notify(PrecopyReason),
    /// Lets the notifier do it.
    Act(NotifyAction),
    /// Brings the records of dirtiness one level on.
    Sync(SyncMove),
    /// Takes memory that is not plugged out of B.
    Exclude,
    /// Releases the BQL, and writes the list of blocks.
    WriteSetup,
    /// Setup -> Active, unless cancelled.
    SetActive,
    /// Starts a slice; `last`: the one with the VM stopped, without limits and CLEARs.
    IterateBegin { last: bool },
    /// Sends pages until the slice ends: many moves.
    Slice { last: bool },
    /// Ends the slice.
    IterateEnd,
    /// Says until when it waits.
    RateLimit { until_ns: u64 },
    /// Waits.
    Sleep { until_ns: u64 },
    /// No move: makes a choice.
    Choose(Choice),
    /// A round is over.
    Pass,
    /// Stops the vCPUs, if they run.
    StopVm,
    /// Takes `free_page_lock` and tells the device that the VM runs or not.
    LockVmState { running: bool },
    /// Writes out what the channels hold, and a barrier: many moves, or none.
    Drain,
    /// Starts the vCPUs.
    StartVm,
    /// Active -> PreSwitchover, unless cancelled or broken.
    SetPaused,
    /// Waits to be told to go on.
    WaitContinue,
    /// Active or PreSwitchover -> Device, unless cancelled or broken.
    SetDevice,
    /// Sends the devices' state and releases the BQL.
    SaveDevice,
    /// Waits until the device has had its round of hints.
    WaitHints,
    /// Waits for the devices that have been ordered to log and have not answered.
    WaitDevices,
    /// Waits for the destination's answer.
    WaitDestination,
    /// Device -> Completed.
    SetCompleted,
    /// Lets the vCPUs run as they like, if they are slowed down.
    Unthrottle,
    /// Ends the timer's turn: releases the BQL, and sets the next one.
    TimerEnd,
    /// Active or Device -> Failing.
    SetFailing,
    /// Hands the cleanup to the main loop, and releases the BQL.
    Schedule,
    /// Waits until nobody is in an RCU section (a fault).
    Synchronize,
    /// Waits for the end of its own RCU section (a fault).
    SynchronizeInside,
    /// Switches all logs off and frees the bitmaps.
    LogStop,
    /// Cancelling -> Cancelled, Failing -> Failed.
    SetFinal,
    /// Active -> PostcopyDevice, unless cancelled or broken.
    SetPostcopy,
    /// Tells what is to be dropped, sends the devices' state and releases the BQL: the destination runs from there on.
    SavePackage,
    /// Any change of state that nothing can come before.
    SetStatus(MigrationStatus),
    /// Waits until the destination has the devices.
    WaitLoaded,
    /// Waits for a new link.
    WaitRecover,
    /// PostcopyRecover -> PostcopyActive: B is made of what the destination has not.
    Reload,
    /// Sends the end of the stream, and releases `bitmap_mutex`.
    SendEnd,
    /// Saves the devices and write-protects all memory: a snapshot's moment.
    Protect,
    /// Sends the devices' state that was saved then, and releases `bitmap_mutex`.
    SendSaved,
}

/// A part of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SyncMove {
    /// Kicks the vCPUs and reaps their rings.
    Reap,
    /// Gives the reaped entries back.
    Reset,
    /// GET.
    Get,
    /// S into D.
    Merge,
    /// GET of what KVM wrote outside of vCPUs, where these have rings.
    Backup,
    /// V into D, a move for each log that is not empty.
    Devices,
    /// D into B.
    Bitmap,
    /// Waits for vCPUs that have marked but not yet stored.
    After,
}

/// What is to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Choice {
    /// Another slice, the end of the round, or the thread's end.
    Iteration,
    /// Behind a round's sync: switchover or another slice.
    Switchover,
    /// Whether the rate limit asks to wait.
    Pause,
    /// Whether the VM must run again, since the switchover stopped it.
    Restart,
    /// Whether the round is so long that the timer makes a sync.
    Tick,
}

/// A round's sync (QEMU: migration_bitmap_sync_precopy()), the BQL held. `last`: the one with the VM stopped, which alone collects KVM's bitmap
/// beside the rings.
pub(crate) fn sync(last: bool) -> impl Iterator<Item = Op> {
    let collect =
        [Op::Lock(LockId::Slots), Op::Sync(SyncMove::Reap), Op::Sync(SyncMove::Reset), Op::Sync(SyncMove::Get), Op::Sync(SyncMove::Merge)];
    let backup = if last { [Op::Sync(SyncMove::Backup), Op::Sync(SyncMove::Merge)].as_slice() } else { &[] };
    let rest = [
        Op::Unlock(LockId::Slots),
        Op::Sync(SyncMove::Devices),
        Op::Lock(LockId::Bitmap),
        Op::Sync(SyncMove::Bitmap),
        Op::Unlock(LockId::Bitmap),
        Op::Sync(SyncMove::After),
        Op::Notify(PrecopyReason::AfterBitmapSync),
    ];
    [Op::Notify(PrecopyReason::BeforeBitmapSync)].into_iter().chain(collect).chain(backup.iter().copied()).chain(rest)
}

/// From the thread's start to the first decision (QEMU: migration_thread() and ram_save_setup()). The BQL is free while the setup is
/// written: in a real migration the guest reads its first command id in that time.
/// Without `synced` ([`Fault::NoSyncAtStart`]) nothing is collected, though the notifier is told as ever.
///
/// [`Fault::NoSyncAtStart`]: crate::fault::Fault::NoSyncAtStart
pub(crate) fn setup(synced: bool) -> VecDeque<Op> {
    let slots = [Op::Lock(LockId::Slots), Op::LogStart, Op::Unlock(LockId::Slots)];
    let mut ops: VecDeque<Op> = [Op::Lock(LockId::Bql), Op::Lock(LockId::RamList)].into_iter().chain(slots).collect();
    ops.extend(sync(false).filter(|op| synced || !matches!(op, Op::Sync(_))));
    ops.push_back(Op::Unlock(LockId::RamList));
    ops.extend([Op::Exclude, Op::WriteSetup, Op::Notify(PrecopyReason::Setup), Op::SetActive, Op::Choose(Choice::Iteration)]);
    ops
}

/// The sync that ends a round (QEMU: ram_state_pending_sync()).
pub(crate) fn round_end() -> VecDeque<Op> {
    let mut ops = VecDeque::from([Op::Lock(LockId::Bql)]);
    ops.extend(sync(false));
    ops.extend([Op::Unlock(LockId::Bql), Op::Pass, Op::Choose(Choice::Switchover)]);
    ops
}

/// A slice of sending (QEMU: ram_save_iterate(), then migration_rate_limit()). Without `locked` ([`Fault::SliceWithoutMutex`]) the mutex is
/// left alone.
///
/// [`Fault::SliceWithoutMutex`]: crate::fault::Fault::SliceWithoutMutex
pub(crate) fn iterate(locked: bool) -> VecDeque<Op> {
    let mut ops = VecDeque::from([
        Op::Lock(LockId::Bitmap),
        Op::IterateBegin { last: false },
        Op::Slice { last: false },
        Op::IterateEnd,
        Op::Unlock(LockId::Bitmap),
        Op::Choose(Choice::Pause),
        Op::Choose(Choice::Iteration),
    ]);
    ops.retain(|op| locked || !matches!(op, Op::Lock(_) | Op::Unlock(_)));
    ops
}

/// From the stop of the VM to the answer of the destination (QEMU: migration_completion_precopy()). The last sync stands before COMPLETE as
/// in 11.1.50, or, as up to 11.0, behind it. With `pause` the big lock is free in between (QEMU: migration_maybe_pause()).
pub(crate) fn switchover(complete_before_sync: bool, pause: bool) -> VecDeque<Op> {
    let mut ops = VecDeque::from([Op::Lock(LockId::Bql), Op::StopVm, Op::Sync(SyncMove::Devices)]);
    if pause {
        ops.extend([Op::SetPaused, Op::Unlock(LockId::Bql), Op::WaitContinue, Op::Lock(LockId::Bql)]);
    }
    ops.push_back(Op::SetDevice);
    if complete_before_sync {
        ops.push_back(Op::Notify(PrecopyReason::Complete));
        ops.extend(sync(true));
    } else {
        ops.extend(sync(true));
        ops.push_back(Op::Notify(PrecopyReason::Complete));
    }
    ops.extend([
        Op::Lock(LockId::Bitmap),
        Op::IterateBegin { last: true },
        Op::Slice { last: true },
        Op::IterateEnd,
        Op::SynchronizeInside,
        Op::Unlock(LockId::Bitmap),
        Op::SaveDevice,
        Op::WaitDestination,
        Op::SetCompleted,
        Op::Choose(Choice::Iteration),
    ]);
    ops
}

/// A background snapshot from its start to the first decision (QEMU: bg_migration_thread()). Differs: the VM starts again in the same thread.
pub(crate) fn background_snapshot() -> VecDeque<Op> {
    VecDeque::from([
        Op::Notify(PrecopyReason::Setup),
        Op::SetActive,
        Op::Lock(LockId::Bql),
        Op::StopVm,
        Op::Protect,
        Op::Choose(Choice::Restart),
        Op::Unlock(LockId::Bql),
        Op::Choose(Choice::Iteration),
    ])
}

/// The end of a background snapshot (QEMU: bg_migration_completion()).
pub(crate) fn snapshot_end() -> VecDeque<Op> {
    VecDeque::from([Op::Lock(LockId::Bitmap), Op::SendSaved, Op::WaitDestination, Op::SetCompleted, Op::Choose(Choice::Iteration)])
}

/// A snapshot behind a round of hints, as an orchestrator takes it: nothing is sent while the VM runs.
///
/// Firecracker: src/vmm/src/persist.rs create_snapshot(), for a VM that was paused through the API; docs/ballooning.md says how to hint before.
pub(crate) fn snapshot() -> VecDeque<Op> {
    VecDeque::from([
        Op::Lock(LockId::Bql),
        Op::Notify(PrecopyReason::AfterBitmapSync),
        Op::Unlock(LockId::Bql),
        Op::WaitHints,
        Op::Lock(LockId::Bql),
        Op::StopVm,
        Op::LogStart,
        Op::Exclude,
        Op::Notify(PrecopyReason::AfterBitmapSync),
        Op::SetActive,
        Op::SetDevice,
        Op::Lock(LockId::Bitmap),
        Op::IterateBegin { last: true },
        Op::Slice { last: true },
        Op::IterateEnd,
        Op::Unlock(LockId::Bitmap),
        Op::SaveDevice,
        Op::WaitDestination,
        Op::SetCompleted,
        Op::Choose(Choice::Iteration),
    ])
}

/// The switch to postcopy (QEMU: postcopy_start()). What channels hold has to be placed before the guest runs there, since they do not place
/// whole pages at once (QEMU: ram_save_postcopy_prepare()). Its sync is `told` to the notifiers, or is not, as up to 11.0.
pub(crate) fn postcopy(told: bool) -> VecDeque<Op> {
    let mut ops = VecDeque::from([Op::Drain, Op::Lock(LockId::Bql), Op::StopVm, Op::Sync(SyncMove::Devices), Op::SetPostcopy]);
    ops.extend(sync(true).filter(|op| told || !matches!(op, Op::Notify(_))));
    ops.extend([Op::Notify(PrecopyReason::Complete), Op::SavePackage, Op::Choose(Choice::Iteration)]);
    ops
}

/// A sync where none should be.
pub(crate) fn stray_sync() -> VecDeque<Op> {
    let mut ops: VecDeque<Op> = sync(false).filter(|op| !matches!(op, Op::Notify(_))).collect();
    ops.push_back(Op::Choose(Choice::Switchover));
    ops
}

/// The end of postcopy (QEMU: migration_completion_postcopy()).
pub(crate) fn postcopy_end() -> VecDeque<Op> {
    VecDeque::from([
        Op::Lock(LockId::Bitmap),
        Op::IterateBegin { last: true },
        Op::Slice { last: true },
        Op::IterateEnd,
        Op::SendEnd,
        Op::WaitDestination,
        Op::SetCompleted,
        Op::Choose(Choice::Iteration),
    ])
}

/// The link is broken, and the guest elsewhere (QEMU: postcopy_pause()).
pub(crate) fn pause() -> VecDeque<Op> {
    VecDeque::from([
        Op::Lock(LockId::QemuFile),
        Op::Unlock(LockId::QemuFile),
        Op::SetStatus(MigrationStatus::PostcopyPaused),
        Op::WaitRecover,
        Op::SetStatus(MigrationStatus::PostcopyRecover),
        Op::Reload,
        Op::Choose(Choice::Iteration),
    ])
}

/// The end of a thread whose guest is elsewhere. Differs: the main loop that is left does nothing else, and its part is made here.
pub(crate) fn leave() -> VecDeque<Op> {
    VecDeque::from([Op::Notify(PrecopyReason::Cleanup), Op::LogStop])
}

/// The thread's end (QEMU: migration_iteration_finish()).
pub(crate) fn finish() -> VecDeque<Op> {
    VecDeque::from([Op::Lock(LockId::Bql), Op::Unthrottle, Op::Choose(Choice::Restart), Op::Schedule])
}

/// The main loop's part (QEMU: migration_cleanup_bh(), qemu_savevm_state_cleanup()).
pub(crate) fn cleanup() -> VecDeque<Op> {
    VecDeque::from([
        Op::Lock(LockId::Bql),
        Op::Notify(PrecopyReason::Cleanup),
        Op::Synchronize,
        Op::Lock(LockId::Slots),
        Op::LogStop,
        Op::Unlock(LockId::Slots),
        Op::Lock(LockId::QemuFile),
        Op::Unlock(LockId::QemuFile),
        Op::SetFinal,
        Op::Unlock(LockId::Bql),
    ])
}

/// The main loop's timer (QEMU: migration/cpu-throttle.c cpu_throttle_dirty_sync_timer_tick()).
pub(crate) fn timer(until_ns: u64) -> VecDeque<Op> {
    VecDeque::from([Op::Sleep { until_ns }, Op::Lock(LockId::Bql), Op::Choose(Choice::Tick), Op::TimerEnd])
}

/// Returns the first event of the notifier's action.
pub(crate) fn action_event(action: NotifyAction) -> EventKind {
    match action {
        NotifyAction::NewId => EventKind::HintNewId,
        NotifyAction::Stop => EventKind::HintStop,
        NotifyAction::Start => EventKind::HintRequest,
        NotifyAction::Done => EventKind::HintDone,
    }
}
