//! Memory slots: the pieces in which an address space's memory is registered with the accelerator, each with a log of its own.
//!
//! QEMU: accel/kvm/kvm-all.c KVMSlot, kvm_set_phys_mem(); Linux: virt/kvm/kvm_main.c kvm_set_memory_region(). Slots do not overlap within an address
//! space, so the logs of all of them are one bitmap for each level here; what belongs to a slot is its range of pages. A vCPU in
//! system management mode lives in an address space of its own: the same pages, other slots.

use super::bitmap::{DirtyBitmap, WORD_PAGES};
use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};

/// A memory slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// Its pages.
    pub(crate) range: PageRange,
    /// It has its S; not so when [`crate::fault::Fault::SlotLosesS`] has recreated it.
    pub(crate) has_s: bool,
}

/// The logs of an address space's slots: K with its write protection, and S.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) k: DirtyBitmap,
    pub(crate) wp: DirtyBitmap,
    pub(crate) s: DirtyBitmap,
    /// Bits of S that a CLEAR took between GET and merge.
    pub(crate) s_unmerged: DirtyBitmap,
    slots: Vec<Slot>,
}

impl Log {
    /// Returns empty logs of slots that begin at page 0 and at each of these pages.
    pub(crate) fn new(starts: &[Pfn], pages: u64) -> Self {
        let none = DirtyBitmap::new(pages);
        let mut bounds: Vec<u64> = starts.iter().map(|pfn| pfn.0).filter(|pfn| (1..pages).contains(pfn)).chain([0, pages]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let slot = |pair: &[u64]| Slot { range: PageRange::new(Pfn(pair[0]), pair[1] - pair[0]), has_s: true };
        let slots = bounds.windows(2).map(slot).collect();
        Self { k: none.clone(), wp: none.clone(), s: none.clone(), s_unmerged: none, slots }
    }

    /// Adds its state to a hash, as that of the address space of this index.
    pub(crate) fn fold(&mut self, index: u64, fold: &mut Fold) {
        let Self { k, wp, s, s_unmerged, slots } = self;
        let tag = |tag: Tag| tag as u64 | index << 32;
        fold.sum_of(tag(Tag::K), k.fold());
        fold.sum_of(tag(Tag::WriteProtection), wp.fold());
        fold.sum_of(tag(Tag::S), s.fold());
        fold.sum_of(tag(Tag::SUnmerged), s_unmerged.fold());
        for slot in slots.iter().filter(|slot| !slot.has_s) {
            fold.word(tag(Tag::SlotWithoutS), slot.range.first.0, 1);
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        for bits in [&mut self.k, &mut self.wp, &mut self.s, &mut self.s_unmerged] {
            bits.reset();
        }
        self.slots.iter_mut().for_each(|slot| slot.has_s = true);
    }

    /// Returns the slot of a page.
    pub(crate) fn slot(&self, pfn: Pfn) -> Slot {
        *self.slots.iter().find(|slot| slot.range.contains(pfn)).expect("slots cover all pages")
    }

    /// Returns the parts of a range by slot.
    pub(crate) fn parts(&self, range: PageRange) -> Vec<(Slot, PageRange)> {
        let part = |slot: &Slot| {
            let first = slot.range.first.max(range.first);
            let end = slot.range.end().min(range.end());
            (first < end).then(|| (*slot, PageRange::new(first, end.0 - first.0)))
        };
        self.slots.iter().filter_map(part).collect()
    }

    /// Returns the rest of the last 64-page word of a CLEAR that ends within it; words count from the slot's start.
    pub(crate) fn tail(slot: Slot, part: PageRange) -> Option<PageRange> {
        let over = (part.end().0 - slot.range.first.0) % WORD_PAGES;
        let end = (part.end().0 + WORD_PAGES - over).min(slot.range.end().0);
        (over > 0).then(|| PageRange::new(part.end(), end - part.end().0))
    }

    /// The slot of a page is deleted, with its logs. Returns its pages.
    pub(crate) fn delete(&mut self, pfn: Pfn) -> PageRange {
        let range = self.slot(pfn).range;
        for bits in [&mut self.k, &mut self.wp, &mut self.s, &mut self.s_unmerged] {
            bits.clear_range(range);
        }
        range
    }

    /// The slot is there again. `has_s`: with its S.
    pub(crate) fn create(&mut self, pfn: Pfn, has_s: bool) {
        let slot = self.slots.iter_mut().find(|slot| slot.range.contains(pfn)).expect("slots cover all pages");
        slot.has_s = has_s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cover_memory_and_a_range_falls_into_its_parts() {
        let log = Log::new(&[Pfn(100), Pfn(30), Pfn(0), Pfn(500)], 200);
        assert_eq!(log.slot(Pfn(99)).range, PageRange::new(Pfn(30), 70));
        let parts: Vec<PageRange> = log.parts(PageRange::new(Pfn(20), 90)).into_iter().map(|(_, part)| part).collect();
        assert_eq!(parts, [PageRange::new(Pfn(20), 10), PageRange::new(Pfn(30), 70), PageRange::new(Pfn(100), 10)]);
    }

    #[test]
    fn a_tail_counts_words_from_its_slots_start() {
        let log = Log::new(&[Pfn(30)], 200);
        let tail = |first, count| Log::tail(log.slot(Pfn(first)), PageRange::new(Pfn(first), count));
        assert_eq!(tail(30, 10), Some(PageRange::new(Pfn(40), 54)));
        assert_eq!(tail(30, 64), None);
        assert_eq!(tail(0, 10), Some(PageRange::new(Pfn(10), 20)), "no further than the slot");
    }

    #[test]
    fn a_deleted_slot_takes_its_log_along_and_no_other() {
        let mut log = Log::new(&[Pfn(64)], 128);
        log.k.fill();
        assert_eq!(log.delete(Pfn(70)), PageRange::new(Pfn(64), 64));
        assert!(log.k.test(Pfn(63)) && !log.k.test(Pfn(64)));
        log.create(Pfn(70), false);
        assert!(!log.slot(Pfn(127)).has_s && log.slot(Pfn(3)).has_s);
    }
}
