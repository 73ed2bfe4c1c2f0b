//! A background snapshot: memory as it is at one moment, saved while the guest goes on.
//!
//! QEMU: migration/migration.c bg_migration_thread(), migration/ram.c ram_write_tracking_start(), poll_fault_page(),
//! ram_save_release_protection(). No dirty log and no rounds: all memory is write-protected while the VM is stopped for the devices' state, each
//! page is saved once and then unprotected, and whoever writes to one that is not saved waits, while it is saved before its turn. Pages that
//! nobody ever touched cannot be protected (Linux: UFFDIO_WRITEPROTECT skips them), so all memory is populated first.

use std::collections::{BTreeSet, VecDeque};

use crate::devices::Devices;
use crate::dirty::bitmap::DirtyBitmap;
use crate::event::{Event, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::migration::engine::{Migration, Parts};
use crate::migration::ram::RamState;
use crate::migration::run::Run;
use crate::migration::wire::Record;
use crate::step::Ctx;

/// The state of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    /// Pages that may not be written, once the snapshot's moment has come.
    protected: Option<DirtyBitmap>,
    /// Pages that somebody wants to write.
    wanted: BTreeSet<Pfn>,
    /// The same in the order in which they were asked for, as far as they are not saved (QEMU: poll_fault_page()).
    queue: VecDeque<Pfn>,
    /// The page that was sent last, if it is not unprotected yet.
    pub(crate) sent: Option<Pfn>,
    /// The devices' state, kept until the end of the stream (QEMU: `bioc`).
    device: Option<Record>,
}

impl Snapshot {
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { protected, wanted, queue, sent, device } = self;
        if let Some(protected) = protected {
            fold.sum_of(Tag::SnapshotProtected as u64, protected.fold());
            fold.add_part(Tag::Snapshot, &(&*wanted, &*queue, *sent, &*device));
        }
    }

    /// Returns the page that goes before its turn.
    pub(crate) fn urgent(&self) -> Option<Pfn> {
        self.queue.front().copied()
    }

    /// Returns whether somebody waits to write.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.wanted.is_empty()
    }
}

impl Migration {
    /// Returns the pages that may not be written now; none where no snapshot is being saved.
    pub fn protected(&self) -> Option<&DirtyBitmap> {
        self.run.snapshot.protected.as_ref()
    }

    /// Returns whether the page may not be written now.
    pub fn is_protected(&self, pfn: Pfn) -> bool {
        self.protected().is_some_and(|protected| protected.test(pfn))
    }

    /// Returns whether somebody waits already to write to the page.
    pub fn is_wanted(&self, pfn: Pfn) -> bool {
        self.run.snapshot.wanted.contains(&pfn)
    }

    /// Somebody is about to write to a page that is not saved yet.
    ///
    /// # Panics
    /// When it may be written, or somebody waits for it already.
    pub fn write_fault(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        assert!(self.is_protected(pfn) && !self.is_wanted(pfn), "page {pfn} is no news");
        ctx.emit(Event::SnapshotFault { pfn });
        self.run.snapshot.wanted.insert(pfn);
        self.run.snapshot.queue.push_back(pfn);
    }

    /// Returns whether the balloon must leave the contents of pages alone (QEMU: virtio_balloon_inhibited()).
    /// [`Fault::InflateInPostcopy`], [`Fault::InflateInSnapshot`]: it need not.
    pub fn inhibits_discards(&self, faults: &Faults) -> bool {
        let postcopy = self.missing().is_some() && !faults.on(Fault::InflateInPostcopy);
        postcopy || self.protected().is_some() && !faults.on(Fault::InflateInSnapshot)
    }

    /// Pages were dropped: their protection is gone with them, and where pages are missing when they are not there, these are.
    pub fn dropped(&mut self, range: PageRange) {
        if let Some(protected) = &mut self.run.snapshot.protected {
            protected.clear_range(range);
            self.run.post.landed(|landing| landing.changed = true);
        }
        self.run.post.miss_again(range);
    }
}

impl Run {
    /// The snapshot's moment: the VM is stopped, the devices are saved, and all memory is write-protected.
    /// [`Fault::SnapshotHoles`]: memory is not populated before, so what nobody ever wrote stays as it is. [`Fault::SnapshotNoFlush`]: the end of
    /// the devices' state is still in a buffer when it is taken.
    pub(crate) fn protect(&mut self, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        parts.destination.restart();
        parts.destination.unplug(&parts.devices.discarded());
        self.ram = Some(RamState::new(self.options.chunk_shift, self.tried, parts.d, ctx));
        self.snapshot.protected = Some(to_protect(parts.devices, ctx));
        let (id, state) = (parts.notifier.saved_cmd_id(), parts.notifier.saved_state(ctx));
        let device = Record::Device { id, state, start: false };
        self.snapshot.device = (!ctx.faults.on(Fault::SnapshotNoFlush)).then_some(device);
        self.post.landed(|landing| landing.changed = true);
        ctx.emit(Event::SnapshotStart);
        if parts.devices.mem().is_some() && !ctx.faults.on(Fault::UnpluggedByHints) {
            self.exclude(false, parts, ctx);
        }
        ctx.costs.state_ns + ctx.ram.pages().div_ceil(64) * ctx.costs.sync_word_ns
    }

    /// A page was saved: it may be written again, at once or with a move of its own.
    pub(crate) fn saved(&mut self, pfn: Pfn, at_once: bool) {
        if self.snapshot.protected.is_none() {
            return;
        }
        self.snapshot.queue.retain(|queued| *queued != pfn);
        if at_once {
            self.release(pfn);
        } else {
            self.snapshot.sent = Some(pfn);
        }
    }

    /// QEMU: ram_save_release_protection().
    pub(crate) fn unprotect(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) -> u64 {
        ctx.emit(Event::SnapshotUnprotect { range: PageRange::page(pfn) });
        self.snapshot.sent = None;
        self.release(pfn);
        ctx.costs.exit_ns
    }

    fn release(&mut self, pfn: Pfn) {
        let changed = self.snapshot.protected.as_mut().is_some_and(|protected| protected.clear(pfn));
        self.snapshot.wanted.remove(&pfn);
        // Who came between the page's sending and its release is let through by the release. QEMU finds its message later, and nothing to save.
        self.snapshot.queue.retain(|queued| *queued != pfn);
        if changed {
            self.post.landed(|landing| landing.changed = true);
        }
    }

    /// All memory is saved: the devices' state goes last, since whoever loads it needs memory first.
    pub(crate) fn send_saved_device(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        match self.snapshot.device.take() {
            Some(device) if self.healthy() => self.wire.push(device),
            // A stream without its end: whoever saved it does not find out.
            Some(_) | None => self.destination_done = true,
        }
        ctx.unlock(crate::event::LockId::Bitmap);
        ctx.costs.lock_ns
    }

    /// The snapshot is over, whichever way. QEMU: ram_write_tracking_stop().
    pub(crate) fn end_snapshot(&mut self) {
        if self.snapshot.protected.is_some() {
            self.snapshot = Snapshot::default();
            self.post.landed(|landing| landing.changed = true);
        }
    }
}

/// Returns the pages that are protected: all memory that is plugged. QEMU: ram_write_tracking_prepare(), ram_write_tracking_start().
/// [`Fault::SnapshotHoles`]: nobody populates it first. [`Fault::PopulatedInPart`]: a part of a block is populated up to its length, counted from
/// the block's beginning. [`Fault::UnpluggedByHints`]: all memory, plugged or not.
fn to_protect(devices: &Devices, ctx: &Ctx<'_>) -> DirtyBitmap {
    let mut protected = DirtyBitmap::full(ctx.ram.pages());
    if ctx.faults.on(Fault::SnapshotHoles) {
        for pfn in holes(ctx.ram) {
            protected.clear(pfn);
        }
    }
    let Some(mem) = devices.mem().filter(|_| !ctx.faults.on(Fault::UnpluggedByHints)) else { return protected };
    let region = mem.region();
    for range in mem.discarded(region) {
        protected.clear_range(range);
    }
    if ctx.faults.on(Fault::PopulatedInPart) {
        for range in mem.populated(region) {
            for pfn in range.pages().filter(|pfn| pfn.0 - region.first.0 >= range.count && ctx.ram.is_zero(*pfn)) {
                protected.clear(pfn);
            }
        }
    }
    protected
}

/// Returns the pages that nobody has ever written, as far as their contents tell.
fn holes(ram: &GuestRam) -> impl Iterator<Item = Pfn> {
    (0..ram.pages()).map(Pfn).filter(|pfn| ram.is_zero(*pfn))
}
