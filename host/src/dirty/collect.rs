//! How the VMM collects what the accelerator has recorded: reaps, GETs, merges and CLEARs, and what becomes of a slot's log when the slot goes.
//!
//! QEMU: accel/kvm/kvm-all.c kvm_dirty_ring_reap_locked(), kvm_slot_get_dirty_log(), kvm_log_clear_one_slot(), kvm_set_phys_mem();
//! accel/hvf/hvf-all.c.

use super::accel::{Accelerator, LogMode};
use super::bitmap::DirtyBitmap;
use super::physmem::DirtyMemory;
use super::slots::Log;
use crate::event::{Event, PageRange, Pfn};
use crate::fault::Fault;
use crate::step::Ctx;

impl Accelerator {
    /// Returns whether a ring has an entry.
    pub fn awaits_reap(&self) -> bool {
        self.has_rings() && self.logging && self.rings.any()
    }

    /// Returns whether reaped entries wait for their reset.
    pub fn awaits_reset(&self) -> bool {
        self.rings.has_collected()
    }

    /// Reaps all rings into S. QEMU: kvm_dirty_ring_reap_locked(), its first half.
    /// [`Fault::ReapHalfCreated`]: the ring of a vCPU that is being created is looked at before it is there.
    ///
    /// # Panics
    /// When there are no rings.
    pub fn reap(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        self.limits.kick(ctx);
        self.reap_rings(None, ctx)
    }

    /// Reaps for a vCPU whose ring is full: all rings, or, where vCPUs are limited, this one alone.
    pub fn reap_full(&mut self, cpu: u8, ctx: &mut Ctx<'_>) -> u64 {
        let only = self.limits.in_service().then_some(cpu);
        self.reap_rings(only, ctx)
    }

    fn reap_rings(&mut self, only: Option<u8>, ctx: &mut Ctx<'_>) -> u64 {
        assert!(self.has_rings(), "a reap without rings");
        let limits = &mut self.limits;
        let pages = self.rings.reap(only, &mut self.main.s, |cpu, pages| limits.count(cpu, pages));
        // A vCPU may have waited for its lock until the log was over.
        self.merged = !self.logging;
        ctx.emit(Event::RingReap { pages });
        if self.half_created && ctx.faults.on(Fault::ReapHalfCreated) {
            ctx.crash("kvm_dirty_ring_reap_one: the ring of a vCPU that is not created yet");
        }
        pages
    }

    /// A vCPU is plugged: on the list, but without a ring until [`Self::vcpu_created`].
    pub fn vcpu_plugged(&mut self) {
        self.half_created = true;
    }

    /// The plugged vCPU has its ring. The guest never brings it up, so it stays empty.
    pub fn vcpu_created(&mut self) {
        self.half_created = false;
    }

    /// Gives the reaped entries back, and protects their pages. Linux: kvm_vm_ioctl_reset_dirty_pages().
    ///
    /// # Panics
    /// When nothing was reaped.
    pub fn ring_reset(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.awaits_reset(), "a reset of rings from which nothing was reaped");
        let pages = self.rings.reset();
        self.logs_protect(&pages);
        ctx.emit(Event::RingReset { pages: pages.count() });
    }

    fn logs_protect(&mut self, pages: &DirtyBitmap) {
        [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten().for_each(|log| {
            log.wp.merge(pages);
        });
        self.protected.merge(pages);
        self.protected_any = true;
    }

    /// The next GET fails.
    pub fn fail_get(&mut self) {
        self.failing_gets += 1;
    }

    /// GET: copies K to S; without manual clear K is cleared and its pages are protected again. One that fails leaves K alone, and there is
    /// nothing to merge (QEMU: kvm_slot_get_dirty_log()).
    /// [`Fault::GetErrorIgnored`]: what S held is taken for what GET has brought. [`Fault::SmmNotSynced`]: only the main address space is asked.
    /// [`Fault::HvfProtectsAtSync`]: under HVF, all pages are protected.
    ///
    /// # Panics
    /// When the mode has no K, logging is off, or the last copy was not merged.
    pub fn get(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.mode != LogMode::Tcg && self.logging, "GET without a log");
        assert!(self.merged, "GET over a copy that was not merged");
        if self.mode == LogMode::Hvf {
            self.main.wp.fill();
            self.protect_all();
            ctx.emit(Event::DirtyGet { pages: 0 });
            return;
        }
        if self.failing_gets > 0 {
            self.failing_gets -= 1;
            self.merged = !ctx.faults.on(Fault::GetErrorIgnored);
            ctx.emit(Event::DirtyGet { pages: 0 });
            return;
        }
        let mut got = DirtyBitmap::new(self.protected.pages());
        let clears = matches!(self.mode, LogMode::GetClears | LogMode::Ring);
        let smm = self.smm.as_mut().filter(|_| !ctx.faults.on(Fault::SmmNotSynced));
        let mut pages = 0;
        for log in [Some(&mut self.main), smm].into_iter().flatten() {
            log.s.copy_from(&log.k);
            pages += log.s.count();
            if clears {
                log.wp.merge(&log.k);
                got.merge(&log.k);
                log.k.reset();
            }
        }
        self.merged = false;
        if clears {
            self.protected.merge(&got);
            self.protected_any = true;
        }
        ctx.emit(Event::DirtyGet { pages });
    }

    /// Merges S into D.
    /// [`Fault::HostPageAsOne`]: a bit of K is taken for one target page.
    ///
    /// # Panics
    /// When no GET precedes.
    pub fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        assert!(!self.merged, "merge without a GET");
        self.merged = true;
        let firsts = self.host_page > 1 && ctx.faults.on(Fault::HostPageAsOne);
        let smm = self.smm.as_mut().filter(|_| !ctx.faults.on(Fault::SmmNotSynced));
        let mut pages = 0;
        for log in [Some(&mut self.main), smm].into_iter().flatten() {
            pages += match firsts {
                true => {
                    log.s.ones().filter(|pfn| pfn.0.is_multiple_of(self.host_page)).map(|pfn| d.mark(PageRange::page(pfn))).count() as u64
                }
                false => d.merge(&log.s) + d.merge(&log.s_unmerged),
            };
            log.s_unmerged.reset();
            if self.mode == LogMode::Ring {
                // The reaper adds to S: what D has must not come again (QEMU: kvm_slot_reset_dirty_pages()).
                log.s.reset();
            }
        }
        ctx.emit(Event::DirtyMerge { pages });
    }

    /// CLEAR: clears K and protects, for those pages of the range that S has; then takes them out of S, so that a second user of the log
    /// cannot clear them again. The call reaches the kernel in whole words; the bits outside the range are masked out. Under HVF the range is protected.
    ///
    /// [`Fault::ClearTailUnmasked`]: the rest of the range's last word is cleared in K whether in S or not. The real defect passed S itself
    /// for the tail, thus only bits that S had; but S is merged into D as a whole right behind GET, so in a VM of one slot and one consumer
    /// of D those bits are safe and nothing is lost. What it broke is the promise that a CLEAR touches nobody else's pages; the fault
    /// breaks that promise in the way that this model can see. [`Fault::ClearFirstSlot`]: the range ends with the slot of its first page.
    /// [`Fault::SlotLosesS`]: a slot that was recreated has no S to clear from.
    ///
    /// # Panics
    /// When the mode has no CLEAR or logging is off.
    pub fn clear(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        assert!(self.has_clear(), "CLEAR without a log");
        let range = self.whole_units(self.main.k.clip(range));
        let mut cleared = 0;
        let mut crashed = false;
        let mut protected = std::mem::replace(&mut self.protected, DirtyBitmap::new(0));
        let (merged, hvf) = (self.merged, self.mode == LogMode::Hvf);
        for log in [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten() {
            if hvf && ctx.faults.on(Fault::HvfProtectsAtSync) {
                continue;
            }
            if hvf {
                cleared += range.count - log.wp.count_range(range);
                log.wp.set_range(range);
                protected.set_range(range);
                continue;
            }
            let parts = log.parts(range);
            let parts = if parts.len() > 1 && ctx.faults.on(Fault::ClearFirstSlot) { &parts[..1] } else { &parts };
            for (slot, part) in parts {
                crashed |= !slot.has_s;
                let (k, wp, s, s_unmerged) = (&mut log.k, &mut log.wp, &mut log.s, &mut log.s_unmerged);
                let mut protect = |at: usize, bits: u64| {
                    wp.set_word(at, bits);
                    protected.set_word(at, bits);
                };
                cleared += k.clear_masked(*part, Some(s), &mut protect);
                if let Some(tail) = Log::tail(*slot, *part).filter(|_| ctx.faults.on(Fault::ClearTailUnmasked)) {
                    cleared += k.clear_masked(tail, None, &mut protect);
                }
                s.clear_masked(*part, None, |at, bits| {
                    if !merged {
                        s_unmerged.set_word(at, bits);
                    }
                });
            }
        }
        self.protected = protected;
        self.protected_any |= cleared > 0;
        ctx.emit(Event::DirtyClear { range, cleared });
        if crashed {
            ctx.crash("kvm_log_clear_one_slot: assertion failed, the slot has no dirty bitmap");
        }
    }

    /// Returns the whole pages of the host's in a range (QEMU: kvm_align_section()); those at the end of memory count as whole.
    fn whole_units(&self, range: PageRange) -> PageRange {
        let count = self.unit(Pfn(0)).count;
        let first = range.first.0.next_multiple_of(count);
        let end = if range.end().0 == self.main.k.pages() { range.end().0 } else { range.end().0 - range.end().0 % count };
        PageRange::new(Pfn(first), end.saturating_sub(first))
    }

    /// Reads the log of a page's slot, which is going to be deleted, and merges it. Differs: with rings the S of all slots is merged.
    /// [`Fault::SlotDeleteDropsLog`]: nothing.
    pub fn collect_slot(&mut self, pfn: Pfn, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if !self.has_slots() || !self.logging || ctx.faults.on(Fault::SlotDeleteDropsLog) {
            return;
        }
        let range = self.main.slot(pfn).range;
        let dirty: Vec<Pfn> = self.main.k.ones().filter(|pfn| range.contains(*pfn)).collect();
        if self.has_rings() {
            self.reap(ctx);
            if self.awaits_reset() {
                self.ring_reset(ctx);
            }
            for pfn in dirty {
                self.main.s.set(pfn);
            }
            self.merge(d, ctx);
        } else {
            ctx.emit(Event::DirtyGet { pages: dirty.len() as u64 });
            dirty.iter().for_each(|pfn| d.mark(PageRange::page(*pfn)));
            ctx.emit(Event::DirtyMerge { pages: dirty.len() as u64 });
        }
    }

    /// GET of the slots that a range lies in, and the merge behind it, by somebody else than a sync: nobody comes in between, for both are made with the
    /// BQL (QEMU: kvm_physical_sync_dirty_bitmap()). Differs: where vCPUs have rings, or pages are looked at otherwise, nothing is got.
    pub fn refresh(&mut self, range: PageRange, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        let clears = match self.mode {
            LogMode::ManualClear { .. } => false,
            LogMode::GetClears => true,
            LogMode::Ring | LogMode::Hvf | LogMode::Tcg => return,
        };
        if !self.logging || !self.merged {
            return;
        }
        let mut dirty = Vec::new();
        for (slot, _) in self.main.parts(range) {
            let slot = slot.range;
            let got: Vec<Pfn> = self.main.k.ones().filter(|pfn| slot.contains(*pfn)).collect();
            self.main.s.clear_range(slot);
            for pfn in &got {
                self.main.s.set(*pfn);
            }
            if clears {
                self.main.k.clear_range(slot);
                got.iter().for_each(|pfn| {
                    self.main.wp.set(*pfn);
                    self.protected.set(*pfn);
                });
                self.protected_any |= !got.is_empty();
            }
            dirty.extend(got);
        }
        let pages = dirty.len() as u64;
        ctx.emit(Event::DirtyGet { pages });
        dirty.iter().for_each(|pfn| d.mark(PageRange::page(*pfn)));
        ctx.emit(Event::DirtyMerge { pages });
    }

    /// The slot of a page is deleted and created again, as when the guest changes who sees a part of its memory; no vCPU runs meanwhile (QEMU:
    /// kvm_region_commit(), kvm_set_phys_mem()). [`Fault::SlotLosesS`]: the new slot has no S.
    pub fn replace_slot(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        if !self.has_slots() {
            return;
        }
        let range = self.main.delete(pfn);
        ctx.emit(Event::SlotDelete { range });
        self.main.create(pfn, !(self.logging && ctx.faults.on(Fault::SlotLosesS)));
        if self.logging {
            // The pages of a new slot are not mapped: the first store to each is seen, whatever the log starts with.
            self.main.wp.set_range(range);
            self.protected.set_range(range);
            self.protected_any = true;
            if self.mode == (LogMode::ManualClear { initially_set: true }) {
                self.main.k.set_range(range);
            }
        }
        ctx.emit(Event::SlotCreate { range });
    }

    /// Returns whether a slot of its own begins with a page, and can be deleted.
    pub fn has_slot_at(&self, pfn: Pfn) -> bool {
        self.has_slots() && pfn.0 < self.main.k.pages() && self.main.slot(pfn).range.first == pfn
    }

    /// Returns whether memory is in the kernel's slots, whose table has a lock of its own.
    pub fn has_slots(&self) -> bool {
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => true,
            LogMode::Hvf | LogMode::Tcg => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::accel::Store;
    use crate::dirty::testing::Desk;
    use crate::event::Level;
    use crate::fault::Faults;

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
}
