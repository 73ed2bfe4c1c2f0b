//! D: `ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION]`, where everybody's marks meet.
//!
//! QEMU: system/physmem.c. Set by device writes at any time, by GET's copy and by vhost's log at a sync, and by guest stores under TCG;
//! emptied word by word into B.

use super::bitmap::DirtyBitmap;
use crate::event::{PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};

/// D.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyMemory {
    bits: DirtyBitmap,
    tracking: bool,
}

impl DirtyMemory {
    /// Returns D of new RAM: all dirty (QEMU: system/physmem.c ram_block_add() marks a new block for all clients), tracking off.
    pub fn new(pages: u64) -> Self {
        Self { bits: DirtyBitmap::full(pages), tracking: false }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { bits, tracking } = self;
        fold.sum_of(Tag::D as u64, bits.fold());
        fold.add(Tag::DTracking, u64::from(*tracking));
    }

    /// Returns the bits.
    pub fn bits(&self) -> &DirtyBitmap {
        &self.bits
    }

    /// Returns whether the page is dirty.
    pub fn test(&self, pfn: Pfn) -> bool {
        self.bits.test(pfn)
    }

    /// Returns whether marks count.
    pub fn tracking(&self) -> bool {
        self.tracking
    }

    /// Switches tracking on or off (QEMU: `global_dirty_tracking`). Bits stay as they are: whoever starts a migration must not trust them.
    pub fn set_tracking(&mut self, tracking: bool) {
        self.tracking = tracking;
    }

    /// Forgets all marks.
    pub fn reset(&mut self) {
        self.bits.reset();
    }

    /// Marks pages while tracking is on.
    pub fn mark(&mut self, range: PageRange) {
        if self.tracking {
            self.bits.set_range(range);
        }
    }

    /// Marks what a device wrote through the VMM, one range per write (QEMU: system/physmem.c invalidate_and_set_dirty()).
    /// [`Fault::DmaFirstPage`]: only the first page of each write. [`Fault::VmmWritesUntracked`]: nothing.
    pub fn mark_device_write(&mut self, ranges: &[PageRange], faults: &Faults) {
        if faults.on(Fault::VmmWritesUntracked) {
            return;
        }
        for range in ranges {
            let marked = if faults.on(Fault::DmaFirstPage) { range.count.min(1) } else { range.count };
            self.mark(PageRange::new(range.first, marked));
        }
    }

    /// Merges another record in, and returns how many of its bits are set.
    pub fn merge(&mut self, other: &DirtyBitmap) -> u64 {
        self.bits.merge(other);
        other.count()
    }

    /// Moves all bits into B word by word, and returns how many were new there. `cleaned` sees the words that D had.
    pub fn exchange_into(&mut self, b: &mut DirtyBitmap, cleaned: impl FnMut(usize, u64)) -> u64 {
        b.exchange_from(&mut self.bits, cleaned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(pages: u64) -> DirtyMemory {
        let mut d = DirtyMemory::new(pages);
        d.exchange_into(&mut DirtyBitmap::new(pages), |_, _| ());
        d
    }

    #[test]
    fn a_mark_counts_only_while_tracking() {
        let mut d = clean(64);
        d.mark(PageRange::new(Pfn(1), 1));
        assert!(!d.test(Pfn(1)));
        d.set_tracking(true);
        d.mark(PageRange::new(Pfn(1), 1));
        assert!(d.test(Pfn(1)));
    }

    #[test]
    fn dma_first_page_forgets_the_rest_of_each_write() {
        let writes = [PageRange::new(Pfn(2), 3), PageRange::new(Pfn(10), 2)];
        let mut d = clean(64);
        d.set_tracking(true);
        d.mark_device_write(&writes, &Faults::default());
        assert_eq!(d.bits().count(), 5);
        let mut d = clean(64);
        d.set_tracking(true);
        d.mark_device_write(&writes, &[Fault::DmaFirstPage].into_iter().collect::<Faults>());
        assert_eq!(d.bits().ones().collect::<Vec<_>>(), [Pfn(2), Pfn(10)]);
    }
}
