//! K and S: how the accelerator records guest stores, and the copy that the VMM takes of it.
//!
//! Linux: virt/kvm/kvm_main.c kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect(); QEMU: accel/kvm/kvm-all.c
//! kvm_physical_sync_dirty_bitmap(), kvm_log_clear_one_slot(); accel/tcg/cputlb.c notdirty_write(). Memory slots are in `slots`, rings
//! in [`super::ring`], TLB flags in `tcg`.
//!
//! A store to a write-protected page faults, sets its K bit and lifts the protection: later stores leave no new trace until the page is
//! protected again. With manual clear that happens at CLEAR, long after GET, so a store behind the GET may share the K bit of one before it.
//! Under TCG there is no K: a store to a page that is clean in D marks D. Under HVF there is none either: a fault marks D.
//!
//! The slots lock, which real QEMU holds from GET to the end of the merge, is not modelled. A CLEAR that comes between the two moves here
//! leaves its bits to the merge all the same, so any such order ends in the state of an order that the lock allows.

use super::bitmap::DirtyBitmap;
use super::limit::Limits;
pub use super::options::{LogMode, REAP_INTERVAL_NS, Store, StoreKind, TrackingOptions};
use super::physmem::DirtyMemory;
use super::ring::Rings;
use super::slots::Log;
use super::tcg::Tlbs;
use crate::event::{Event, Level, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::step::Ctx;

/// Who wants stores to be tracked (QEMU: GLOBAL_DIRTY_MIGRATION, GLOBAL_DIRTY_DIRTY_RATE, GLOBAL_DIRTY_LIMIT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogUser {
    /// A migration.
    Migration,
    /// A measurement of how fast the guest dirties pages.
    DirtyRate,
    /// A limit of that.
    DirtyLimit,
}

/// K with its write protection, and S.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    pub(super) mode: LogMode,
    pub(super) host_page: u64,
    pub(super) logging: bool,
    users: Users,
    /// The log is to stop when the VM runs again.
    pub(super) stop_postponed: bool,
    pub(super) main: Log,
    pub(super) smm: Option<Log>,
    pub(super) merged: bool,
    /// GETs that are going to fail.
    pub(super) failing_gets: u32,
    pub(super) rings: Rings,
    pub(super) limits: Limits,
    pub(super) tlbs: Tlbs,
    /// A vCPU is on the list of vCPUs and has no ring yet.
    pub(super) half_created: bool,
    /// Pages that became protected since the vCPUs were last told.
    pub(super) protected: DirtyBitmap,
    pub(super) protected_any: bool,
}

/// The users of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Users {
    migration: bool,
    dirty_rate: bool,
    dirty_limit: bool,
}

impl Users {
    fn of(&mut self, user: LogUser) -> &mut bool {
        match user {
            LogUser::Migration => &mut self.migration,
            LogUser::DirtyRate => &mut self.dirty_rate,
            LogUser::DirtyLimit => &mut self.dirty_limit,
        }
    }

    fn any(self) -> bool {
        self.migration || self.dirty_rate || self.dirty_limit
    }
}

impl Accelerator {
    /// Returns an accelerator that does not log.
    pub fn new(mode: LogMode, pages: u64) -> Self {
        Self::with(mode, &TrackingOptions::default(), pages)
    }

    /// Returns the same with options.
    pub fn with(mode: LogMode, options: &TrackingOptions, pages: u64) -> Self {
        let log = || Log::new(&options.slots, pages);
        Self {
            mode,
            host_page: u64::from(options.host_page),
            logging: false,
            users: Users::default(),
            stop_postponed: false,
            main: log(),
            smm: options.smm.then(log),
            merged: true,
            failing_gets: 0,
            rings: Rings::new(options.vcpus, options.ring_size, pages),
            limits: Limits::new(options.vcpus, options.ring_size),
            tlbs: Tlbs::new(options.vcpus, pages),
            half_created: false,
            protected: DirtyBitmap::new(pages),
            protected_any: false,
        }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        // Without protected pages, whether there are any is asked in vain.
        let Self {
            mode,
            host_page: _,
            logging,
            users,
            stop_postponed,
            main,
            smm,
            merged,
            failing_gets,
            rings,
            limits,
            tlbs,
            half_created,
            protected,
            protected_any: _,
        } = self;
        fold.add_each(Tag::Logging, [*logging, users.migration, users.dirty_rate, *stop_postponed, *half_created, users.dirty_limit]);
        fold.add(Tag::Merged, u64::from(*merged));
        fold.add(Tag::FailingGets, u64::from(*failing_gets));
        for (index, log) in (0..).zip([Some(main), smm.as_mut()]) {
            log.into_iter().for_each(|log| log.fold(index, fold));
        }
        fold.sum_of(Tag::Protected as u64, protected.fold());
        match mode {
            LogMode::Ring => {
                rings.fold(fold);
                limits.fold(fold);
            }
            LogMode::Tcg => tlbs.fold(fold),
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Hvf => {}
        }
    }

    /// Returns the target pages of a page of the host's.
    pub fn host_page(&self) -> u64 {
        self.host_page
    }

    /// Returns how stores are tracked.
    pub fn mode(&self) -> LogMode {
        self.mode
    }

    /// Returns whether stores are tracked now.
    pub fn logging(&self) -> bool {
        self.logging
    }

    /// Returns the bits of K of 64 pages, those of all address spaces.
    pub fn k_word(&self, at: usize) -> u64 {
        self.main.k.word(at) | self.smm.as_ref().map_or(0, |log| log.k.word(at))
    }

    /// Returns the bits of S of 64 pages, those of all address spaces.
    pub fn s_word(&self, at: usize) -> u64 {
        self.main.s.word(at) | self.smm.as_ref().map_or(0, |log| log.s.word(at))
    }

    /// Returns whether the page is set in K.
    pub fn k(&self, pfn: Pfn) -> bool {
        self.logs().any(|log| log.k.test(pfn))
    }

    /// Returns whether the page is set in S.
    pub fn s(&self, pfn: Pfn) -> bool {
        self.logs().any(|log| log.s.test(pfn))
    }

    /// Returns whether the page is write-protected.
    pub fn wp(&self, pfn: Pfn) -> bool {
        self.main.wp.test(pfn)
    }

    /// Returns whether GET copied the page and the copy still waits to be merged into D.
    pub fn unmerged(&self, pfn: Pfn) -> bool {
        !self.merged && self.logs().any(|log| log.s.test(pfn) || log.s_unmerged.test(pfn))
    }

    /// Returns the pages that stand in a vCPU's ring.
    pub fn ring_bits(&self) -> &DirtyBitmap {
        self.rings.held()
    }

    /// Returns whether each sync begins with a GET. Who does not log is not asked.
    /// [`Fault::HvfProtectsAtSync`]: under HVF it protects everything.
    pub fn has_get(&self, faults: &Faults) -> bool {
        self.logging
            && match self.mode {
                LogMode::ManualClear { .. } | LogMode::GetClears => true,
                LogMode::Hvf => faults.on(Fault::HvfProtectsAtSync),
                LogMode::Ring | LogMode::Tcg => false,
            }
    }

    /// Returns whether vCPUs list what they write.
    pub fn has_rings(&self) -> bool {
        self.mode == LogMode::Ring
    }

    /// Returns whether S holds what a merge has not taken.
    pub fn awaits_merge(&self) -> bool {
        !self.merged
    }

    /// Returns whether there is a log to CLEAR. Without manual clear the VMM's call returns at once (QEMU: kvm_physical_log_clear()).
    pub fn has_clear(&self) -> bool {
        self.logging
            && match self.mode {
                LogMode::ManualClear { .. } | LogMode::Hvf => true,
                LogMode::GetClears | LogMode::Ring | LogMode::Tcg => false,
            }
    }

    fn logs(&self) -> impl Iterator<Item = &Log> {
        [Some(&self.main), self.smm.as_ref()].into_iter().flatten()
    }

    /// Switches tracking on for a migration (QEMU: memory_global_dirty_log_start()).
    /// [`Fault::LogStopPostponed`]: a stop that waits for the VM is not thought of, and the assertion that the log is off fails.
    ///
    /// # Panics
    /// When a migration has it on.
    pub fn log_start(&mut self, ctx: &mut Ctx<'_>) {
        if self.stop_postponed {
            if ctx.faults.on(Fault::LogStopPostponed) {
                ctx.emit(Event::LogStart);
                ctx.crash("memory_global_dirty_log_start: assertion failed, the log is on");
                return;
            }
            self.stop_postponed = false;
            self.stop_user(LogUser::Migration);
        }
        assert!(!self.users.migration, "dirty logging started twice");
        self.start_user(LogUser::Migration, ctx);
        ctx.emit(Event::LogStart);
    }

    /// Switches a migration's tracking off. The log stops once the VM runs, so that it costs nobody time now (QEMU:
    /// memory_global_dirty_log_stop()).
    ///
    /// # Panics
    /// When it is off.
    pub fn log_stop(&mut self, vm_running: bool, ctx: &mut Ctx<'_>) {
        assert!(self.users.migration || ctx.faults.on(Fault::LogFlagShared), "dirty logging stopped twice");
        if vm_running {
            self.stop_user(LogUser::Migration);
        } else {
            self.stop_postponed = true;
        }
        ctx.emit(Event::LogStop);
    }

    /// The VM runs again: a log that was to stop does so.
    pub fn vm_starts(&mut self, d: &mut DirtyMemory) {
        if std::mem::take(&mut self.stop_postponed) {
            self.stop_user(LogUser::Migration);
            d.set_tracking(self.logging);
        }
    }

    /// A measurement of the dirty rate starts (QEMU: migration/dirtyrate.c global_dirty_log_change()).
    pub fn dirty_rate_start(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if !self.users.dirty_rate {
            self.start_user(LogUser::DirtyRate, ctx);
            d.set_tracking(true);
        }
    }

    /// It stops. [`Fault::LogFlagShared`]: with it everybody's tracking.
    pub fn dirty_rate_stop(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if self.users.dirty_rate {
            if ctx.faults.on(Fault::LogFlagShared) {
                self.stop_user(LogUser::Migration);
            }
            self.stop_user(LogUser::DirtyRate);
            d.set_tracking(self.logging);
        }
    }

    pub(super) fn start_user(&mut self, user: LogUser, ctx: &Ctx<'_>) {
        *self.users.of(user) = true;
        if self.logging {
            return;
        }
        self.logging = true;
        self.forget();
        let inexact = [Fault::TlbNotRearmed, Fault::TlbRearmedIfNew, Fault::TlbRearmedAtZero];
        self.tlbs.flush(self.mode != LogMode::Tcg || !inexact.into_iter().any(|fault| ctx.faults.on(fault)));
        let initially_set = self.mode == (LogMode::ManualClear { initially_set: true });
        let unprotected = self.mode == LogMode::Ring && ctx.faults.on(Fault::RingInitiallySet);
        let tcg = self.mode == LogMode::Tcg;
        for log in [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten() {
            if initially_set {
                log.k.fill();
            } else if !tcg && !unprotected {
                log.wp.fill();
            }
        }
        // TCG traps what is clean in D; telling the vCPUs of all pages is the harmless side.
        if !initially_set && !unprotected {
            self.protect_all();
        }
    }

    pub(super) fn stop_user(&mut self, user: LogUser) {
        *self.users.of(user) = false;
        if !self.users.any() && self.logging {
            self.logging = false;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.merged = true;
        self.protected_any = false;
        self.protected.reset();
        self.rings.clear();
        [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten().for_each(Log::reset);
    }

    /// Returns where a vCPU's store to this page would be recorded now, or `None` when it would leave no new trace.
    /// [`Fault::AtomicUnmarked`]: under TCG a locked access leaves none.
    pub fn would_mark(&self, store: Store, d: &DirtyMemory, faults: &Faults) -> Option<Level> {
        let Store { cpu, pfn, kind } = store;
        if !self.logging {
            return None;
        }
        let log = self.smm.as_ref().filter(|_| kind == StoreKind::Smm).unwrap_or(&self.main);
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => log.wp.test(pfn).then_some(Level::K),
            LogMode::Ring => log.wp.test(pfn).then_some(Level::Ring),
            LogMode::Hvf => log.wp.test(pfn).then_some(Level::D),
            LogMode::Tcg if kind == StoreKind::Atomic && faults.on(Fault::AtomicUnmarked) => None,
            LogMode::Tcg => (!d.test(pfn) && !self.tlbs.is_fast(cpu, pfn)).then_some(Level::D),
        }
    }

    /// Records a vCPU's store to this page, and returns where (see [`Self::would_mark`]).
    /// [`Fault::RingEntryLag`]: others see the flag of a ring's entry before what it holds. [`Fault::AtomicUnmarked`], [`Fault::TlbNotRearmed`]:
    /// a TLB entry loses its flag without a mark, or for ever. [`Fault::HvfUnprotectsSlot`]: a fault opens its whole slot.
    /// [`Fault::HvfAddressTwice`]: the mark is made at the guest's address added to the offset in the memory region, which here are the same number.
    pub fn guest_store(&mut self, store: Store, d: &mut DirtyMemory, faults: &Faults) -> Option<Level> {
        let Store { cpu, pfn, kind } = store;
        if self.logging && self.mode == LogMode::Tcg && kind == StoreKind::Atomic && faults.on(Fault::AtomicUnmarked) {
            self.tlbs.unflag(cpu, pfn);
        }
        if self.logging && self.mode == LogMode::Tcg && !self.tlbs.exact() && d.test(pfn) {
            // An entry for a page that D has is made without the flag.
            self.tlbs.unflag(cpu, pfn);
        }
        let level = self.would_mark(store, d, faults)?;
        let unit = self.unit(pfn);
        let log = self.smm.as_mut().filter(|_| kind == StoreKind::Smm).unwrap_or(&mut self.main);
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => {
                log.k.set_range(unit);
                log.wp.clear_range(unit);
            }
            LogMode::Ring => {
                self.rings.push(cpu, unit, faults.on(Fault::RingEntryLag));
                log.wp.clear_range(unit);
            }
            LogMode::Hvf => {
                let opened = if faults.on(Fault::HvfUnprotectsSlot) { log.slot(pfn).range } else { unit };
                log.wp.clear_range(opened);
                let at = if faults.on(Fault::HvfAddressTwice) { Pfn(pfn.0 * 2) } else { unit.first };
                d.mark(self.main.k.clip(PageRange::new(at, unit.count)));
            }
            LogMode::Tcg => {
                assert!(d.tracking(), "stores are logged while D drops marks");
                d.mark(PageRange::page(pfn));
                if !self.tlbs.exact() {
                    self.tlbs.unflag(cpu, pfn);
                }
            }
        }
        Some(level)
    }

    /// Returns the pages that share a page's bit of K: a page of the host's. Larger pages than 64 KiB are split while writes are logged, as Linux
    /// does; those of [`TrackingOptions::host_page`] that are so large are somebody else's concern.
    pub(super) fn unit(&self, pfn: Pfn) -> PageRange {
        let count = match self.mode {
            LogMode::Tcg => 1,
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf if self.host_page > UNIT_MAX => 1,
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf => self.host_page,
        };
        self.main.k.clip(PageRange::new(Pfn(pfn.0 - pfn.0 % count), count))
    }

    /// KVM itself writes a page, for no vCPU: a device that it emulates, such as an interrupt controller's tables (Linux: arch/arm64/kvm/vgic/
    /// vgic-its.c). Returns where that is recorded. Other accelerators have no such devices; there it counts as a device's write.
    pub fn kernel_write(&mut self, pfn: Pfn, d: &mut DirtyMemory) -> Option<Level> {
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => {
                let unit = self.unit(pfn);
                if self.logging {
                    self.main.k.set_range(unit);
                }
                self.logging.then_some(Level::K)
            }
            LogMode::Hvf | LogMode::Tcg => {
                d.mark(PageRange::page(pfn));
                d.tracking().then_some(Level::D)
            }
        }
    }

    /// The vCPU has left what recorded its last store behind: others see all of it.
    pub fn vcpu_goes_on(&mut self, cpu: u8) {
        self.rings.settle(cpu);
    }

    /// Returns how many pages a vCPU may write before its ring is full; without rings, any number.
    pub fn ring_room(&self, cpu: u8) -> u64 {
        if self.has_rings() && self.logging { self.rings.room(cpu) } else { u64::MAX }
    }

    /// Returns whether a word that is cleaned in D is all that need be told: then [`Self::d_cleaned_all`] will do.
    pub fn is_exact(&self) -> bool {
        self.tlbs.exact()
    }

    /// D was exchanged into B: under TCG the cleaned pages must trap again (QEMU: system/physmem.c tlb_reset_dirty_range_all()). `rearmed`:
    /// the flags of the TLB entries come back, see [`Self::rearms`].
    pub fn d_cleaned(&mut self, at: usize, bits: u64, rearmed: bool) {
        match self.mode {
            LogMode::Tcg if self.logging => {
                if rearmed {
                    self.tlbs.rearm(at, bits);
                }
                self.protected.set_word(at, bits);
                self.protected_any = true;
            }
            LogMode::Tcg | LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf => {}
        }
    }

    /// Returns whether a sync gives the flags back of what it has cleaned in a block that begins at ram_addr `offset`, where it has found so many
    /// pages that were new in B. [`Fault::TlbNotRearmed`]: never. [`Fault::TlbRearmedIfNew`]: if any was new. [`Fault::TlbRearmedAtZero`]: in
    /// the block at ram_addr 0, whichever block it was (QEMU: migration/ram.c physical_memory_sync_dirty_bitmap(), the way by whole words).
    pub fn rearms(&self, offset: u64, new: u64, faults: &Faults) -> bool {
        self.tlbs.exact()
            || !(faults.on(Fault::TlbNotRearmed)
                || new == 0 && faults.on(Fault::TlbRearmedIfNew)
                || offset != 0 && faults.on(Fault::TlbRearmedAtZero))
    }

    /// All of D was exchanged into B, and each ram_addr is a guest-physical address: as [`Self::d_cleaned`] for each word.
    pub fn d_cleaned_all(&mut self, bits: &DirtyBitmap) {
        if self.mode == LogMode::Tcg && self.logging && !bits.is_clear() {
            self.protected.merge(bits);
            self.protected_any = true;
        }
    }

    /// Returns the pages that became protected since the last call (under TCG: clean in D): the next store to them must be trapped.
    pub fn take_protected(&mut self) -> Vec<PageRange> {
        if !std::mem::take(&mut self.protected_any) {
            return Vec::new();
        }
        let ranges = self.protected.ranges();
        self.protected.reset();
        ranges
    }

    pub(super) fn protect_all(&mut self) {
        self.protected.fill();
        self.protected_any = true;
    }
}

/// Largest host page of which K has one bit, target pages: 64 KiB.
const UNIT_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    const MANUAL: LogMode = LogMode::ManualClear { initially_set: false };

    fn started(mode: LogMode, pages: u64, desk: &mut Desk) -> (Accelerator, DirtyMemory) {
        let mut accel = Accelerator::new(mode, pages);
        let mut d = DirtyMemory::new(pages);
        d.exchange_into(&mut DirtyBitmap::new(pages));
        d.set_tracking(true);
        accel.log_start(&mut desk.ctx());
        (accel, d)
    }

    fn store(accel: &mut Accelerator, pfn: Pfn, d: &mut DirtyMemory) -> Option<Level> {
        accel.guest_store(Store::plain(0, pfn), d, &Faults::default())
    }

    #[test]
    fn initially_set_protects_nothing_until_the_clear() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::ManualClear { initially_set: true }, 128, &mut desk);
        assert_eq!(accel.take_protected(), []);
        assert!(accel.k(Pfn(5)) && !accel.wp(Pfn(5)));
        assert_eq!(store(&mut accel, Pfn(5), &mut d), None);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert_eq!(accel.take_protected(), [PageRange::new(Pfn(0), 64)]);
        assert_eq!(store(&mut accel, Pfn(5), &mut d), Some(Level::K));
        assert_eq!(store(&mut accel, Pfn(5), &mut d), None);
        assert_eq!(store(&mut accel, Pfn(70), &mut d), None);
    }

    #[test]
    fn without_initially_set_all_pages_are_protected_at_the_start() {
        for mode in [MANUAL, LogMode::GetClears] {
            let mut desk = Desk::new(&[]);
            let (mut accel, d) = started(mode, 128, &mut desk);
            assert_eq!(accel.take_protected(), [PageRange::new(Pfn(0), 128)]);
            assert_eq!(accel.take_protected(), []);
            assert!(!accel.k(Pfn(0)));
            assert_eq!(accel.would_mark(Store::plain(0, Pfn(0)), &d, &Faults::default()), Some(Level::K));
        }
    }

    /// What a display gets is its slot's, and goes to D, where the next sync finds it; without manual clear K forgets it, and later stores are seen again.
    #[test]
    fn a_refresh_merges_its_slot_and_leaves_the_others_alone() {
        for (mode, keeps_k) in [(MANUAL, true), (LogMode::GetClears, false)] {
            let mut desk = Desk::new(&[]);
            let tracking = TrackingOptions { slots: vec![Pfn(64)], ..TrackingOptions::default() };
            let (mut accel, mut d) = (Accelerator::with(mode, &tracking, 192), DirtyMemory::new(192));
            d.exchange_into(&mut DirtyBitmap::new(192));
            d.set_tracking(true);
            accel.log_start(&mut desk.ctx());
            for pfn in [5, 70, 80] {
                assert_eq!(store(&mut accel, Pfn(pfn), &mut d), Some(Level::K));
            }
            accel.refresh(PageRange::new(Pfn(70), 1), &mut d, &mut desk.ctx());
            let in_d: Vec<bool> = [5, 70, 80].into_iter().map(|pfn| d.test(Pfn(pfn))).collect();
            assert_eq!(in_d, [false, true, true]);
            assert_eq!((accel.k(Pfn(5)), accel.k(Pfn(70))), (true, keeps_k));
            let again = store(&mut accel, Pfn(70), &mut d);
            assert_eq!(again.is_some(), !keeps_k, "until the CLEAR, K's bit stands for both stores");
            accel.get(&mut desk.ctx());
            accel.merge(&mut d, &mut desk.ctx());
            assert!(d.test(Pfn(5)));
        }
    }

    #[test]
    fn tcg_marks_d_and_traps_again_what_the_sync_cleaned() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::Tcg, 128, &mut desk);
        accel.take_protected();
        assert_eq!(store(&mut accel, Pfn(70), &mut d), Some(Level::D));
        assert_eq!(store(&mut accel, Pfn(70), &mut d), None);
        accel.d_cleaned_all(d.bits());
        d.exchange_into(&mut DirtyBitmap::new(128));
        assert_eq!(accel.take_protected(), [PageRange::page(Pfn(70))]);
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d, &Faults::default()), Some(Level::D));
        accel.log_stop(true, &mut desk.ctx());
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d, &Faults::default()), None);
    }
}
