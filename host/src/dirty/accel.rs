//! K and S: how the accelerator records guest stores, and the copy that the VMM takes of it.
//!
//! Linux: virt/kvm/kvm_main.c kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect(); QEMU: accel/kvm/kvm-all.c
//! kvm_physical_sync_dirty_bitmap(), kvm_log_clear_one_slot(); accel/tcg/cputlb.c notdirty_write(). All RAM is one memory slot.
//!
//! A store to a write-protected page faults, sets its K bit and lifts the protection: later stores leave no new trace until the page is
//! protected again. With manual clear that happens at CLEAR, long after GET, so a store behind the GET may share the K bit of one before it.
//! Under TCG there is no K: a store to a page that is clean in D marks D.
//!
//! The slots lock, which real QEMU holds from GET to the end of the merge, is not modelled. A CLEAR that comes between the two moves here
//! leaves its bits to the merge all the same, so any such order ends in the state of an order that the lock allows.

use super::bitmap::{DirtyBitmap, WORD_PAGES};
use super::physmem::DirtyMemory;
use super::ring::{RING_SIZE, Rings};
use crate::event::{Event, Level, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::step::Ctx;

/// How guest stores are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogMode {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies, CLEAR clears and write-protects.
    ManualClear {
        /// KVM_DIRTY_LOG_INITIALLY_SET: everything counts as dirty when logging starts, and nothing is write-protected.
        initially_set: bool,
    },
    /// KVM without it: GET copies, clears and write-protects.
    GetClears,
    /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: each vCPU lists what it writes; what KVM writes outside of vCPUs is in K.
    Ring,
    /// TCG: stores mark D.
    Tcg,
}

/// What a log is made from, beside its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackingOptions {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Places of a vCPU's ring.
    pub ring_size: u32,
}

impl Default for TrackingOptions {
    fn default() -> Self {
        Self { vcpus: 1, ring_size: RING_SIZE }
    }
}

/// A vCPU's store as the log sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Which vCPU.
    pub cpu: u8,
    /// To which page.
    pub pfn: Pfn,
}

impl Store {
    /// Returns a plain store.
    pub fn plain(cpu: u8, pfn: Pfn) -> Self {
        Self { cpu, pfn }
    }
}

/// K with its write protection, and S.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    mode: LogMode,
    logging: bool,
    k: DirtyBitmap,
    wp: DirtyBitmap,
    s: DirtyBitmap,
    /// Bits of S that a CLEAR took between GET and merge.
    s_unmerged: DirtyBitmap,
    merged: bool,
    rings: Rings,
    /// Pages that became protected since the vCPUs were last told.
    protected: DirtyBitmap,
    protected_any: bool,
}

impl Accelerator {
    /// Returns an accelerator that does not log.
    pub fn new(mode: LogMode, pages: u64) -> Self {
        Self::with(mode, &TrackingOptions::default(), pages)
    }

    /// Returns the same with options.
    pub fn with(mode: LogMode, options: &TrackingOptions, pages: u64) -> Self {
        let none = DirtyBitmap::new(pages);
        Self {
            mode,
            logging: false,
            k: none.clone(),
            wp: none.clone(),
            s: none.clone(),
            s_unmerged: none.clone(),
            merged: true,
            rings: Rings::new(options.vcpus, options.ring_size, pages),
            protected: none,
            protected_any: false,
        }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        // Without protected pages, whether there are any is asked in vain.
        let Self { mode, logging, k, wp, s, s_unmerged, merged, rings, protected, protected_any: _ } = self;
        fold.add(Tag::Logging, u64::from(*logging));
        fold.add(Tag::Merged, u64::from(*merged));
        fold.sum_of(Tag::K as u64, k.fold());
        fold.sum_of(Tag::WriteProtection as u64, wp.fold());
        fold.sum_of(Tag::S as u64, s.fold());
        fold.sum_of(Tag::SUnmerged as u64, s_unmerged.fold());
        fold.sum_of(Tag::Protected as u64, protected.fold());
        if *mode == LogMode::Ring {
            rings.fold(fold);
        }
    }

    /// Returns how stores are tracked.
    pub fn mode(&self) -> LogMode {
        self.mode
    }

    /// Returns whether stores are tracked now.
    pub fn logging(&self) -> bool {
        self.logging
    }

    /// Returns the bits of K.
    pub fn k_bits(&self) -> &DirtyBitmap {
        &self.k
    }

    /// Returns the bits of S.
    pub fn s_bits(&self) -> &DirtyBitmap {
        &self.s
    }

    /// Returns whether the page is set in K.
    pub fn k(&self, pfn: Pfn) -> bool {
        self.k.test(pfn)
    }

    /// Returns whether the page is set in S.
    pub fn s(&self, pfn: Pfn) -> bool {
        self.s.test(pfn)
    }

    /// Returns whether the page is write-protected.
    pub fn wp(&self, pfn: Pfn) -> bool {
        self.wp.test(pfn)
    }

    /// Returns whether GET copied the page and the copy still waits to be merged into D.
    pub fn unmerged(&self, pfn: Pfn) -> bool {
        !self.merged && (self.s.test(pfn) || self.s_unmerged.test(pfn))
    }

    /// Returns the pages that stand in a vCPU's ring.
    pub fn ring_bits(&self) -> &DirtyBitmap {
        self.rings.held()
    }

    /// Returns whether each sync begins with a GET.
    pub fn has_get(&self) -> bool {
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => true,
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

    /// Returns whether the mode has a CLEAR. Without manual clear the VMM's call returns at once (QEMU: kvm_physical_log_clear()).
    pub fn has_clear(&self) -> bool {
        match self.mode {
            LogMode::ManualClear { .. } => true,
            LogMode::GetClears | LogMode::Ring | LogMode::Tcg => false,
        }
    }

    /// Switches tracking on.
    /// [`Fault::RingInitiallySet`]: rings start with nothing protected.
    ///
    /// # Panics
    /// When it is on.
    pub fn log_start(&mut self, ctx: &mut Ctx<'_>) {
        assert!(!self.logging, "dirty logging started twice");
        self.logging = true;
        self.merged = true;
        for bits in [&mut self.k, &mut self.wp, &mut self.s, &mut self.s_unmerged] {
            bits.reset();
        }
        self.rings.clear();
        match self.mode {
            LogMode::ManualClear { initially_set: true } => self.k.fill(),
            LogMode::Ring if ctx.faults.on(Fault::RingInitiallySet) => {}
            LogMode::ManualClear { initially_set: false } | LogMode::GetClears | LogMode::Ring => {
                self.wp.fill();
                self.protect_all();
            }
            // TCG traps what is clean in D; telling the vCPUs of all pages is the harmless side.
            LogMode::Tcg => self.protect_all(),
        }
        ctx.emit(Event::LogStart);
    }

    /// Switches tracking off and drops K, S and all protection. Differs: at once; KVM's teardown may be put off until the VM runs.
    ///
    /// # Panics
    /// When it is off.
    pub fn log_stop(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.logging, "dirty logging stopped twice");
        self.logging = false;
        self.merged = true;
        self.protected_any = false;
        self.rings.clear();
        for bits in [&mut self.k, &mut self.wp, &mut self.s, &mut self.s_unmerged, &mut self.protected] {
            bits.reset();
        }
        ctx.emit(Event::LogStop);
    }

    /// Returns where a vCPU's store to this page would be recorded now, or `None` when it would leave no new trace.
    pub fn would_mark(&self, store: Store, d: &DirtyMemory) -> Option<Level> {
        let Store { cpu: _, pfn } = store;
        if !self.logging {
            return None;
        }
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => self.wp.test(pfn).then_some(Level::K),
            LogMode::Ring => self.wp.test(pfn).then_some(Level::Ring),
            LogMode::Tcg => (!d.test(pfn)).then_some(Level::D),
        }
    }

    /// Records a vCPU's store to this page, and returns where (see [`Self::would_mark`]).
    /// [`Fault::RingEntryLag`]: others see the flag of a ring's entry before what it holds.
    pub fn guest_store(&mut self, store: Store, d: &mut DirtyMemory, faults: &Faults) -> Option<Level> {
        let Store { cpu, pfn } = store;
        let level = self.would_mark(store, d)?;
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => {
                let new = self.k.set(pfn);
                assert!(new, "page {pfn} was write-protected although set in K");
                self.wp.clear(pfn);
            }
            LogMode::Ring => {
                self.rings.push(cpu, pfn, faults.on(Fault::RingEntryLag));
                self.wp.clear(pfn);
            }
            LogMode::Tcg => {
                assert!(d.tracking(), "stores are logged while D drops marks");
                d.mark(PageRange::page(pfn));
            }
        }
        Some(level)
    }

    /// The vCPU has left what recorded its last store behind: others see all of it.
    pub fn vcpu_goes_on(&mut self, cpu: u8) {
        self.rings.settle(cpu);
    }

    /// Returns how many pages a vCPU may write before its ring is full; without rings, any number.
    pub fn ring_room(&self, cpu: u8) -> u64 {
        if self.has_rings() && self.logging { self.rings.room(cpu) } else { u64::MAX }
    }

    /// Returns whether reaped entries wait for their reset.
    pub fn awaits_reset(&self) -> bool {
        self.rings.has_collected()
    }

    /// Reaps all rings into S. QEMU: kvm_dirty_ring_reap_locked(), its first half.
    ///
    /// # Panics
    /// When there are no rings.
    pub fn reap(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        assert!(self.has_rings(), "a reap without rings");
        let pages = self.rings.reap(&mut self.s);
        // A vCPU may have waited for its lock until the log was over.
        self.merged = !self.logging;
        ctx.emit(Event::RingReap { pages });
        pages
    }

    /// Gives the reaped entries back, and protects their pages. Linux: kvm_vm_ioctl_reset_dirty_pages().
    ///
    /// # Panics
    /// When nothing was reaped.
    pub fn ring_reset(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.awaits_reset(), "a reset of rings from which nothing was reaped");
        let pages = self.rings.reset();
        self.wp.merge(&pages);
        self.protected.merge(&pages);
        self.protected_any = true;
        ctx.emit(Event::RingReset { pages: pages.count() });
    }

    /// GET: copies K to S; without manual clear K is cleared and its pages are protected again.
    ///
    /// # Panics
    /// When the mode has no K, logging is off, or the last copy was not merged.
    pub fn get(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.mode != LogMode::Tcg && self.logging, "GET without a log");
        assert!(self.merged, "GET over a copy that was not merged");
        self.s.copy_from(&self.k);
        self.merged = false;
        if matches!(self.mode, LogMode::GetClears | LogMode::Ring) {
            self.wp.merge(&self.k);
            self.protected.merge(&self.k);
            self.protected_any = true;
            self.k.reset();
        }
        ctx.emit(Event::DirtyGet { pages: self.s.count() });
    }

    /// Merges S into D.
    ///
    /// # Panics
    /// When no GET precedes.
    pub fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        assert!(!self.merged, "merge without a GET");
        self.merged = true;
        let pages = d.merge(&self.s) + d.merge(&self.s_unmerged);
        self.s_unmerged.reset();
        if self.has_rings() {
            // The reaper adds to S: what D has must not come again (QEMU: kvm_slot_reset_dirty_pages()).
            self.s.reset();
        }
        ctx.emit(Event::DirtyMerge { pages });
    }

    /// CLEAR: clears K and protects, for those pages of the range that S has; then takes them out of S, so that a second user of the log
    /// cannot clear them again. The call reaches the kernel in whole words; the bits outside the range are masked out.
    ///
    /// [`Fault::ClearTailUnmasked`]: the rest of the range's last word is cleared in K whether in S or not. The real defect passed S itself
    /// for the tail, thus only bits that S had; but S is merged into D as a whole right behind GET, so in a VM of one slot and one consumer
    /// of D those bits are safe and nothing is lost. What it broke is the promise that a CLEAR touches nobody else's pages; the fault
    /// breaks that promise in the way that this model can see.
    ///
    /// # Panics
    /// When the mode has no CLEAR or logging is off.
    pub fn clear(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        assert!(self.has_clear() && self.logging, "CLEAR without a log");
        let range = self.k.clip(range);
        let (wp, protected) = (&mut self.wp, &mut self.protected);
        let mut protect = |at: usize, bits: u64| {
            wp.set_word(at, bits);
            protected.set_word(at, bits);
        };
        let mut cleared = self.k.clear_masked(range, Some(&self.s), &mut protect);
        if !range.end().0.is_multiple_of(WORD_PAGES) && ctx.faults.on(Fault::ClearTailUnmasked) {
            let tail = PageRange::new(range.end(), WORD_PAGES - range.end().0 % WORD_PAGES);
            cleared += self.k.clear_masked(tail, None, &mut protect);
        }
        self.protected_any |= cleared > 0;
        let (merged, unmerged) = (self.merged, &mut self.s_unmerged);
        self.s.clear_masked(range, None, |at, bits| {
            if !merged {
                unmerged.set_word(at, bits);
            }
        });
        ctx.emit(Event::DirtyClear { range, cleared });
    }

    /// D was exchanged into B: under TCG the cleaned pages must trap again (QEMU: system/physmem.c tlb_reset_dirty_range_all()).
    pub fn d_cleaned(&mut self, at: usize, bits: u64) {
        match self.mode {
            LogMode::Tcg if self.logging => {
                self.protected.set_word(at, bits);
                self.protected_any = true;
            }
            LogMode::Tcg | LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => {}
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

    fn protect_all(&mut self) {
        self.protected.fill();
        self.protected_any = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    const MANUAL: LogMode = LogMode::ManualClear { initially_set: false };

    fn started(mode: LogMode, pages: u64, desk: &mut Desk) -> (Accelerator, DirtyMemory) {
        let mut accel = Accelerator::new(mode, pages);
        let mut d = DirtyMemory::new(pages);
        d.exchange_into(&mut DirtyBitmap::new(pages), |_, _| ());
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
            assert_eq!(accel.would_mark(Store::plain(0, Pfn(0)), &d), Some(Level::K));
        }
    }

    #[test]
    fn manual_get_leaves_k_so_that_a_later_store_shares_its_bit() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(3), &mut d);
        accel.get(&mut desk.ctx());
        assert!(accel.k(Pfn(3)) && accel.s(Pfn(3)) && accel.unmerged(Pfn(3)));
        assert_eq!(store(&mut accel, Pfn(3), &mut d), None);
        accel.merge(&mut d, &mut desk.ctx());
        assert!(d.test(Pfn(3)) && !accel.unmerged(Pfn(3)));
    }

    #[test]
    fn get_clears_records_a_store_behind_the_get_by_itself() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::GetClears, 64, &mut desk);
        store(&mut accel, Pfn(3), &mut d);
        accel.take_protected();
        accel.get(&mut desk.ctx());
        assert!(!accel.k(Pfn(3)) && accel.s(Pfn(3)) && accel.wp(Pfn(3)));
        assert_eq!(accel.take_protected(), [PageRange::page(Pfn(3))]);
        assert_eq!(store(&mut accel, Pfn(3), &mut d), Some(Level::K));
    }

    #[test]
    fn clear_touches_only_pages_of_its_range_that_s_has() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 128, &mut desk);
        for pfn in [5, 40, 100] {
            store(&mut accel, Pfn(pfn), &mut d);
        }
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        store(&mut accel, Pfn(6), &mut d);
        desk.take_events();
        accel.clear(PageRange::new(Pfn(0), 10), &mut desk.ctx());
        assert_eq!(desk.take_events(), [Event::DirtyClear { range: PageRange::new(Pfn(0), 10), cleared: 1 }]);
        assert!(!accel.k(Pfn(5)) && accel.wp(Pfn(5)) && !accel.s(Pfn(5)));
        assert!(accel.k(Pfn(6)) && accel.k(Pfn(40)) && accel.s(Pfn(40)) && accel.k(Pfn(100)));
    }

    #[test]
    fn a_page_cleared_once_is_not_cleared_again_for_the_same_get() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(5), &mut d);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        store(&mut accel, Pfn(5), &mut d);
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(accel.k(Pfn(5)));
    }

    #[test]
    fn an_unmasked_tail_takes_bits_that_nobody_merged() {
        let mut desk = Desk::new(&[Fault::ClearTailUnmasked]);
        let (mut accel, mut d) = started(MANUAL, 128, &mut desk);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        for pfn in [5, 40, 64] {
            store(&mut accel, Pfn(pfn), &mut d);
        }
        accel.clear(PageRange::new(Pfn(0), 10), &mut desk.ctx());
        assert!(accel.k(Pfn(5)) && !accel.k(Pfn(40)) && accel.wp(Pfn(40)) && accel.k(Pfn(64)));
        store(&mut accel, Pfn(40), &mut d);
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(accel.k(Pfn(40)), "a whole word has no tail");
    }

    #[test]
    fn a_clear_between_get_and_merge_leaves_the_merge_whole() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(5), &mut d);
        accel.get(&mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(!accel.k(Pfn(5)) && accel.unmerged(Pfn(5)));
        desk.take_events();
        accel.merge(&mut d, &mut desk.ctx());
        assert_eq!(desk.take_events(), [Event::DirtyMerge { pages: 1 }]);
        assert!(d.test(Pfn(5)));
    }

    #[test]
    fn tcg_marks_d_and_traps_again_what_the_sync_cleaned() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::Tcg, 128, &mut desk);
        accel.take_protected();
        assert_eq!(store(&mut accel, Pfn(70), &mut d), Some(Level::D));
        assert_eq!(store(&mut accel, Pfn(70), &mut d), None);
        d.exchange_into(&mut DirtyBitmap::new(128), |at, bits| accel.d_cleaned(at, bits));
        assert_eq!(accel.take_protected(), [PageRange::page(Pfn(70))]);
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d), Some(Level::D));
        accel.log_stop(&mut desk.ctx());
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d), None);
    }
}
