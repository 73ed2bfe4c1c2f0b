//! The state of a migration, and how its moves are made.
//!
//! What moves come, and in which order, is in `course` and `op`; [`Run`] is what they work on. QEMU: migration/migration.c, migration/ram.c.

use crate::dirty::accel::LogMode;
use crate::dirty::bitmap::WORD_PAGES;
use crate::event::{Event, EventKind, LockId, MigrationStatus};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::migration::encoding::EncodingOptions;
use crate::migration::engine::{Parts, View};
use crate::migration::mapped_ram::MappedRam;
use crate::migration::multifd::Multifd;
use crate::migration::op::{self, Op, SyncMove};
use crate::migration::pace::{FirstRound, MigrationOptions, Pace};
use crate::migration::postcopy::Postcopy;
use crate::migration::ram::RamState;
use crate::migration::slice::{Hand, Slice};
use crate::migration::snapshot::Snapshot;
use crate::migration::throttle::Throttle;
use crate::migration::wire::{Record, Wire};
use crate::migration::xbzrle::Xbzrle;
use crate::page::{DATA_RECORD_BYTES, ZERO_RECORD_BYTES};
use crate::step::{Await, Ctx, Move, Next};

/// All state of a migration but the lists of moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) status: MigrationStatus,
    pub(crate) options: MigrationOptions,
    pub(crate) ram: Option<RamState>,
    /// A migration was started before this one.
    pub(crate) tried: bool,
    /// The switchover stopped a running VM.
    pub(crate) stopped_vm: bool,
    pub(crate) link_down: bool,
    /// The peer does not read.
    pub(crate) stalled: bool,
    /// `migrate_continue` was given.
    pub(crate) go_on: bool,
    pub(crate) throttle: Throttle,
    /// The destination has answered that it has all.
    pub(crate) destination_done: bool,
    pub(crate) slice: Slice,
    pub(crate) hand: Option<Hand>,
    pub(crate) wire: Wire,
    pub(crate) post: Postcopy,
    pub(crate) snapshot: Snapshot,
    /// The channels beside the main one, if there are any.
    pub(crate) multifd: Option<Multifd>,
    /// The file, if the stream is one; from the first sync on.
    pub(crate) file: Option<MappedRam>,
    /// The block of the last page, and the one that its header named (a fault).
    pub(crate) named: Option<(usize, usize)>,
    /// The cache for differences, if they are sent.
    pub(crate) xbzrle: Option<Xbzrle>,
    pub(crate) bytes_sent: u64,
    pub(crate) pages_normal: u64,
    pub(crate) pages_zero: u64,
    /// Time of a data record on the link, nanoseconds.
    pub(crate) data_ns: u64,
    /// Time of a zero record on the link, nanoseconds.
    pub(crate) zero_ns: u64,
}

impl Run {
    pub(crate) fn new(status: MigrationStatus, options: MigrationOptions, tried: bool) -> Self {
        assert!(options.bandwidth > 0, "a link without bandwidth");
        let link_ns = |bytes: u64| bytes * 1_000_000_000 / options.bandwidth;
        let EncodingOptions { xbzrle_pages, channels, .. } = options.encoding;
        let (data_ns, zero_ns) = (link_ns(DATA_RECORD_BYTES), link_ns(ZERO_RECORD_BYTES));
        Self {
            status,
            options,
            ram: None,
            tried,
            stopped_vm: false,
            link_down: false,
            stalled: false,
            go_on: false,
            throttle: Throttle::default(),
            destination_done: false,
            slice: Slice::default(),
            hand: None,
            wire: Wire::default(),
            post: Postcopy::default(),
            snapshot: Snapshot::default(),
            multifd: (channels > 0).then(|| Multifd::new(channels)),
            file: None,
            named: None,
            xbzrle: (xbzrle_pages > 0).then(|| Xbzrle::new(xbzrle_pages)),
            bytes_sent: 0,
            pages_normal: 0,
            pages_zero: 0,
            data_ns,
            zero_ns,
        }
    }

    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self {
            status,
            options,
            ram,
            tried,
            stopped_vm,
            link_down,
            stalled,
            go_on,
            throttle,
            destination_done,
            slice,
            hand,
            wire,
            post,
            snapshot,
            multifd,
            file,
            named,
            xbzrle,
            bytes_sent,
            pages_normal: _,
            pages_zero: _,
            data_ns: _,
            zero_ns: _,
        } = self;
        fold.add_part(Tag::Status, status);
        fold.add_each(Tag::Run, [*tried, *stopped_vm, *link_down, *destination_done, ram.is_some(), *stalled, *go_on]);
        if *throttle != Throttle::default() {
            fold.add_part(Tag::Throttle, throttle);
        }
        if let Some(ram) = ram {
            ram.fold(options.syncs_counted(), fold);
        }
        if options.modes.moves() {
            post.fold(fold);
        }
        snapshot.fold(fold);
        if options.paced {
            fold.add(Tag::BytesSent, *bytes_sent);
            fold.add_part(Tag::Slice, slice);
        }
        if let Some(hand) = hand {
            fold.add_part(Tag::Hand, hand);
        }
        if let Some(multifd) = multifd {
            fold.add_part(Tag::Multifd, multifd);
        }
        if let Some(file) = file {
            file.fold(fold);
        }
        if let Some(named) = named {
            fold.add_part(Tag::Named, named);
        }
        if let Some(xbzrle) = xbzrle {
            fold.add_part(Tag::Xbzrle, xbzrle);
        }
        if !wire.is_empty() {
            fold.add_part(Tag::Wire, wire);
        }
    }

    /// The link is shut: what is on its way is gone, or, of the channels, what has not reached the destination's machine.
    pub(crate) fn shut(&mut self, arrived: bool) {
        self.wire.shut();
        self.multifd.iter_mut().for_each(|multifd| multifd.shut(arrived));
    }

    /// Returns the bitmaps.
    ///
    /// # Panics
    /// When there are none: the migration thread only asks between setup and cleanup.
    pub(crate) fn ram(&self) -> &RamState {
        self.ram.as_ref().expect("a migration thread has bitmaps")
    }

    pub(crate) fn ram_mut(&mut self) -> &mut RamState {
        self.ram.as_mut().expect("a migration thread has bitmaps")
    }

    /// Returns whether an account is kept of what the guest dirties, to slow it down where that is too much: never where time stands still.
    pub(crate) fn accounts(&self) -> bool {
        self.options.paced && (self.options.throttle.auto_converge || self.options.limit.on)
    }

    /// Returns whether vCPUs sleep a share of their time where they dirty too much.
    pub(crate) fn throttles(&self) -> bool {
        self.options.paced && self.options.throttle.auto_converge
    }

    /// Changes the status, and says so.
    pub(crate) fn set_status(&mut self, to: MigrationStatus, ctx: &mut Ctx<'_>) {
        let from = self.status;
        assert!(from != to, "status {} set twice", to.name());
        assert_eq!(to == MigrationStatus::Setup, !from.is_running(), "{} -> {}", from.name(), to.name());
        self.status = to;
        ctx.emit(Event::MigrationState { from, to });
    }

    pub(crate) fn announce(&self, op: Op, pace: &Pace, view: &View<'_>, ctx: &Ctx<'_>) -> Next {
        let plain = |kind| Next::Do(Move::plain(kind));
        match op {
            Op::Lock(lock) => Next::Lock(lock),
            Op::LockVmState { .. } => Next::Lock(LockId::FreePage),
            Op::Unlock(_)
            | Op::WriteSetup
            | Op::SaveDevice
            | Op::SavePackage
            | Op::SendEnd
            | Op::SendSaved
            | Op::TimerEnd
            | Op::Schedule => plain(EventKind::LockRelease),
            Op::LogStart => plain(EventKind::LogStart),
            Op::Exclude => plain(EventKind::BitmapExclude),
            Op::Protect => plain(EventKind::SnapshotStart),
            Op::Notify(_) => plain(EventKind::Notify),
            Op::Act(action) => plain(op::action_event(action)),
            Op::Sync(SyncMove::Reap) => plain(EventKind::RingReap),
            Op::Sync(SyncMove::Reset) => plain(EventKind::RingReset),
            Op::Sync(SyncMove::Get | SyncMove::Backup) => plain(EventKind::DirtyGet),
            Op::Sync(SyncMove::Merge) => plain(EventKind::DirtyMerge),
            Op::Sync(SyncMove::Devices) => plain(view.devices.merge_event()),
            Op::Sync(SyncMove::Bitmap) => plain(EventKind::BitmapSync),
            Op::Sync(SyncMove::After) if waits_for_vcpus(view, ctx) => Next::Wait(Await::Stores),
            Op::Sync(SyncMove::After) => plain(EventKind::AfterSync),
            Op::SetPaused
            | Op::SetActive
            | Op::SetDevice
            | Op::SetCompleted
            | Op::SetFailing
            | Op::SetFinal
            | Op::SetPostcopy
            | Op::SetStatus(_)
            | Op::Reload => plain(EventKind::MigrationState),
            Op::IterateBegin { .. } => plain(EventKind::IterateBegin),
            Op::Slice { last } => self.page_move(pace, last, view.accel, ctx).next(),
            Op::Drain => self.drain_move(ctx).next(),
            Op::IterateEnd => plain(EventKind::IterateEnd),
            Op::RateLimit { .. } => plain(EventKind::RateLimit),
            Op::Sleep { until_ns } => Next::Sleep(until_ns),
            Op::Pass => plain(EventKind::Pass),
            Op::StopVm => plain(EventKind::VmStop),
            Op::StartVm => plain(EventKind::VmStart),
            Op::WaitDestination | Op::WaitLoaded => Next::Wait(Await::Answer),
            Op::WaitRecover => Next::Wait(Await::Recovery),
            Op::Synchronize => Next::Lock(LockId::Rcu),
            Op::SynchronizeInside => Next::Wait(Await::Oneself),
            Op::WaitHints => Next::Wait(Await::Hints),
            Op::WaitContinue => Next::Wait(Await::Operator),
            Op::Unthrottle => plain(EventKind::Throttle),
            Op::WaitDevices => Next::Wait(Await::Devices),
            Op::LogStop => plain(EventKind::LogStop),
            Op::Choose(_) => unreachable!("{op:?} was settled"),
        }
    }

    /// Makes a move that needs nothing of the actors' courses.
    pub(crate) fn perform(&mut self, op: Op, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        let (state_ns, lock_ns, vm_stop_ns) = (ctx.costs.state_ns, ctx.costs.lock_ns, ctx.costs.vm_stop_ns);
        match op {
            Op::Lock(lock) => {
                ctx.lock(lock);
                lock_ns
            }
            Op::Unlock(lock) => {
                ctx.unlock(lock);
                lock_ns
            }
            Op::Synchronize => {
                ctx.synchronize_rcu();
                lock_ns
            }
            Op::WriteSetup => {
                ctx.unlock(LockId::Bql);
                ctx.costs.setup_ns
            }
            Op::LockVmState { running } => {
                ctx.lock(LockId::FreePage);
                parts.notifier.vm_state_change(running, ctx);
                lock_ns
            }
            Op::Act(action) => {
                parts.notifier.act(action, ctx);
                state_ns
            }
            Op::Sync(part) => self.perform_sync(part, parts, ctx),
            Op::LogStart => self.log_start(parts, ctx),
            Op::LogStop => self.log_stop(parts, ctx),
            Op::Exclude => self.exclude(true, parts, ctx),
            Op::IterateBegin { last } => self.slice_begin(last, ctx),
            Op::IterateEnd => self.slice_end(ctx),
            Op::RateLimit { until_ns } => {
                ctx.emit(Event::RateLimit { until_ns });
                0
            }
            Op::Pass => {
                ctx.emit(Event::Pass { round: self.ram().syncs() });
                state_ns
            }
            Op::StartVm => {
                parts.vm.running = true;
                parts.accel.vm_starts(parts.d);
                self.stopped_vm = false;
                ctx.emit(Event::VmStart);
                vm_stop_ns
            }
            Op::SaveDevice => {
                if self.healthy() {
                    let (id, state) = (parts.notifier.saved_cmd_id(), parts.notifier.saved_state(ctx));
                    self.wire.push(Record::Device { id, state, start: self.stopped_vm });
                }
                ctx.unlock(LockId::Bql);
                lock_ns
            }
            Op::Unthrottle => {
                self.throttle.stop(ctx);
                state_ns
            }
            Op::SetPaused => self.change(MigrationStatus::PreSwitchover, ctx),
            Op::SavePackage => {
                if self.healthy() {
                    self.send_discards(parts.accel.host_page(), ctx.faults);
                    self.note_needs(parts.notifier.ring_pages());
                    let (id, state) = (parts.notifier.saved_cmd_id(), parts.notifier.saved_state(ctx));
                    self.wire.push(Record::Device { id, state, start: self.stopped_vm });
                }
                ctx.unlock(LockId::Bql);
                lock_ns
            }
            Op::SendEnd => {
                if self.healthy() {
                    self.wire.push(Record::End);
                }
                ctx.unlock(LockId::Bitmap);
                lock_ns
            }
            Op::Protect => self.protect(parts, ctx),
            Op::SendSaved => self.send_saved_device(ctx),
            Op::Reload => {
                self.recover(parts.destination, ctx);
                let cost = self.change(MigrationStatus::PostcopyActive, ctx);
                if parts.devices.mem().is_some() && !ctx.faults.on(Fault::UnpluggedByHints) {
                    self.exclude(false, parts, ctx);
                }
                cost
            }
            Op::SetPostcopy => self.change(MigrationStatus::PostcopyDevice, ctx),
            Op::SetStatus(status) => self.change(status, ctx),
            Op::SetDevice => self.change(MigrationStatus::Device, ctx),
            Op::SetCompleted => {
                if self.options.modes.moves() && !self.post.moved {
                    self.move_guest(false, parts.destination);
                }
                // QEMU: migration_iteration_finish(); bg_migration_iteration_finish() leaves the VM as it is.
                parts.vm.postmigrate = !self.options.modes.snapshot && !self.options.hints_first;
                self.change(MigrationStatus::Completed, ctx)
            }
            Op::SetFailing if ctx.faults.on(Fault::FailedBeforeCleanup) => self.change(MigrationStatus::Failed, ctx),
            Op::SetFailing => self.change(MigrationStatus::Failing, ctx),
            Op::SetFinal => {
                let cancelled = self.status == MigrationStatus::Cancelling;
                self.change(if cancelled { MigrationStatus::Cancelled } else { MigrationStatus::Failed }, ctx)
            }
            Op::Notify(_)
            | Op::SetActive
            | Op::Slice { .. }
            | Op::Drain
            | Op::Choose(_)
            | Op::Sleep { .. }
            | Op::StopVm
            | Op::WaitHints
            | Op::WaitDevices
            | Op::WaitContinue
            | Op::TimerEnd
            | Op::WaitDestination
            | Op::WaitLoaded
            | Op::WaitRecover
            | Op::SynchronizeInside
            | Op::Schedule => unreachable!("{op:?} is made elsewhere"),
        }
    }

    pub(crate) fn change(&mut self, to: MigrationStatus, ctx: &mut Ctx<'_>) -> u64 {
        self.set_status(to, ctx);
        ctx.costs.state_ns
    }

    pub(crate) fn perform_sync(&mut self, part: SyncMove, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        let words_ns = parts.d.bits().pages().div_ceil(WORD_PAGES) * ctx.costs.sync_word_ns;
        match part {
            SyncMove::Reap => {
                let pages = parts.accel.reap(ctx);
                ctx.costs.exit_ns + pages * ctx.costs.sync_word_ns
            }
            SyncMove::Reset => {
                parts.accel.ring_reset(ctx);
                ctx.costs.clear_ns
            }
            SyncMove::Get | SyncMove::Backup => {
                parts.accel.get(ctx);
                words_ns
            }
            SyncMove::Merge => {
                parts.accel.merge(parts.d, ctx);
                words_ns
            }
            SyncMove::Devices => {
                parts.devices.merge(parts.d, ctx);
                words_ns
            }
            SyncMove::Bitmap => {
                assert_eq!(ctx.locks.holder(LockId::Bitmap), Some(ctx.actor), "sync without bitmap_mutex");
                self.ram_mut().sync(parts.d, parts.accel, ctx);
                words_ns
            }
            SyncMove::After => {
                assert!(!waits_for_vcpus(&parts.view(), ctx), "the sync ends while a vCPU stores");
                ctx.emit(Event::AfterSync);
                if parts.devices.mem().is_some() && ctx.faults.on(Fault::UnpluggedByHints) {
                    self.exclude(true, parts, ctx);
                }
                if self.accounts() && self.throttle.is_due(ctx.now_ns) {
                    let (dirtied, options) = (self.ram().dirtied(), self.options.throttle);
                    let too_much = self.throttle.period(dirtied, self.bytes_sent, &options, ctx);
                    if too_much && self.options.limit.on {
                        parts.accel.limit_for_migration(self.options.limit.rate, parts.d, ctx);
                    }
                }
                ctx.costs.state_ns
            }
        }
    }

    /// QEMU: migration/ram.c ram_init_bitmaps(). A new destination listens.
    pub(crate) fn log_start(&mut self, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        parts.destination.restart();
        parts.destination.unplug(&parts.devices.discarded());
        self.file = self.options.encoding.mapped_ram.then(|| MappedRam::new(ctx.ram.pages()));
        self.ram = Some(RamState::new(self.options.chunk_shift, self.tried, parts.d, ctx));
        if self.options.first_round == FirstRound::Populated {
            // Cloud Hypervisor: vmm/src/memory_manager.rs start_dirty_log() starts the VMM's own bitmap anew.
            parts.d.reset();
            self.ram_mut().leave_out_holes(ctx.ram);
        }
        if self.accounts() {
            self.throttle = Throttle::new(ctx.now_ns);
        }
        parts.d.set_tracking(true);
        parts.accel.log_start(ctx);
        parts.devices.log_start(ctx);
        ctx.costs.state_ns
    }

    /// Memory that is not plugged is not sent: it has no contents, and to read it would populate it. What changes there later is found by the syncs like
    /// anything else. QEMU: migration/ram.c migration_bitmap_clear_discarded_pages(), once behind the first sync, and in ram_dirty_bitmap_reload(); K is
    /// left alone where nobody keeps it. [`Fault::UnpluggedByHints`]: behind each sync, as a precopy notifier, and nowhere else.
    pub(crate) fn exclude(&mut self, clears: bool, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        let ranges = parts.devices.discarded();
        self.ram_mut().exclude(&ranges, clears.then_some(&mut *parts.accel), ctx);
        ctx.costs.state_ns
    }

    /// QEMU: migration/ram.c ram_save_cleanup().
    pub(crate) fn log_stop(&mut self, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        if let (Some(ram), true) = (&self.ram, self.status != MigrationStatus::Completed && ctx.faults.on(Fault::DirtyNotRestored)) {
            parts.d.merge(&ram.b());
        }
        self.ram = None;
        if self.options.modes.snapshot {
            self.end_snapshot();
            ctx.emit(Event::LogStop);
            return ctx.costs.state_ns;
        }
        parts.devices.log_stop();
        parts.accel.log_stop(parts.vm.running, ctx);
        parts.d.set_tracking(parts.accel.logging());
        ctx.costs.state_ns
    }
}

/// Returns whether a vCPU stands between its mark and its store and the sync waits for it (QEMU: accel/tcg tcg_log_global_after_sync()).
/// Differs: the BQL is kept meanwhile; such a vCPU does not need it. [`Fault::StoreAfterMark`]: it does not wait.
fn waits_for_vcpus(view: &View<'_>, ctx: &Ctx<'_>) -> bool {
    view.accel.mode() == LogMode::Tcg && view.vcpus_in_store && !ctx.faults.on(Fault::StoreAfterMark)
}
