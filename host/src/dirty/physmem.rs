//! D: `ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION]`, where everybody's marks meet.
//!
//! QEMU: system/physmem.c. Set by device writes at any time, by GET's copy and by vhost's log at a sync, and by guest stores under TCG;
//! emptied word by word into B.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bitmap::{DirtyBitmap, WORD_PAGES};
use super::ram_list::{RamList, low_bits};
use crate::event::{PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};

/// D.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyMemory {
    ram: Arc<RamList>,
    /// By ram_addr.
    bits: DirtyBitmap,
    tracking: bool,
    /// Guest memory that is there, pages.
    present: u64,
    /// Words that devices have loaded and will store back, in that order.
    torn: VecDeque<Torn>,
}

/// A set of bits between its load and its store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Torn {
    range: PageRange,
    /// Index of each word, its value with the bits set.
    words: Vec<(usize, u64)>,
}

impl DirtyMemory {
    /// Returns D of new RAM that is one block.
    pub fn new(pages: u64) -> Self {
        Self::of(RamList::one(pages))
    }

    /// Returns D of new RAM: all dirty (QEMU: system/physmem.c ram_block_add() marks a new block for all clients), tracking off.
    pub fn of(ram: Arc<RamList>) -> Self {
        let mut bits = DirtyBitmap::new(ram.end());
        ram.places().iter().for_each(|place| bits.set_range(PageRange::new(Pfn(place.offset), place.pages)));
        let present = ram.pages_at_first();
        Self { ram, bits, tracking: false, present, torn: VecDeque::new() }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { ram, bits, tracking, present, torn } = self;
        fold.sum_of(Tag::D as u64, bits.fold());
        fold.add(Tag::DTracking, u64::from(*tracking));
        if *present != ram.pages() {
            fold.word(Tag::DTracking as u64, 1, *present);
        }
        if !torn.is_empty() {
            fold.add_part(Tag::Torn, torn);
        }
    }

    /// Returns the RAM blocks.
    pub fn ram(&self) -> &Arc<RamList> {
        &self.ram
    }

    /// Returns guest memory that is there, pages.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// The last block takes the room that it has, and all of the block counts as dirty (QEMU: system/physmem.c qemu_ram_resize()). Returns the new pages.
    pub fn grow(&mut self) -> PageRange {
        let new = PageRange::new(Pfn(self.present), self.ram.pages() - self.present);
        self.present = self.ram.pages();
        if new.count > 0 {
            let block = self.ram.places().last().expect("there is one").range();
            self.mark(block);
        }
        new
    }

    /// Takes the blocks' lengths over from where the guest was (QEMU: migration/ram.c parse_ramblock()). Differs: those that they have at the end, not
    /// those that the stream began with; they are the same, as a block that grows ends the migration.
    pub fn load_length(&mut self, left: &Self) {
        self.present = left.present;
    }

    /// Returns the bits, by ram_addr.
    pub fn bits(&self) -> &DirtyBitmap {
        &self.bits
    }

    /// Returns the bits of 64 of the guest's pages, those from 64 times `at` on.
    pub fn word(&self, at: usize) -> u64 {
        if self.ram.is_flat() {
            return self.bits.word(at);
        }
        self.ram.guest_word(at as u64, |index| Some((&self.bits, self.ram.places()[index].offset)))
    }

    /// Returns whether the page is dirty.
    pub fn test(&self, pfn: Pfn) -> bool {
        self.bits.test(self.ram.addr(pfn))
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
            let Self { ram, bits, .. } = self;
            ram.parts(range).for_each(|(index, part)| {
                bits.set_range(PageRange::new(Pfn(ram.places()[index].offset + part.first.0), part.count));
            });
        }
    }

    /// Marks what a device wrote through the VMM, one range per write (QEMU: system/physmem.c invalidate_and_set_dirty()).
    /// [`Fault::DmaFirstPage`]: only the first page of each write. [`Fault::VmmWritesUntracked`]: nothing.
    pub fn mark_device_write(&mut self, ranges: &[PageRange], faults: &Faults) {
        if faults.on(Fault::VmmWritesUntracked) {
            return;
        }
        for range in ranges {
            let marked = if range.count > 1 && faults.on(Fault::DmaFirstPage) { 1 } else { range.count };
            self.mark(PageRange::new(range.first, marked));
        }
    }

    /// Merges another record in as if the guest's addresses were those of the RAM blocks, and returns how many of its bits are set.
    pub(crate) fn merge_as_it_is(&mut self, other: &DirtyBitmap) -> u64 {
        other.ranges().into_iter().for_each(|range| self.bits.set_range(self.bits.clip(range)));
        other.count()
    }

    /// Loads the words of pages that a device is about to mark: their bits are set in the copy, which [`Self::store_torn`] stores back.
    /// [`Fault::DirtySetNotAtomic`] alone does so.
    pub fn load_torn(&mut self, range: PageRange) {
        let mut words: Vec<(usize, u64)> = Vec::new();
        for (index, part) in self.ram.parts(range) {
            let mut marks = DirtyBitmap::new(self.ram.end());
            marks.set_range(PageRange::new(Pfn(self.ram.places()[index].offset + part.first.0), part.count));
            let touched = (0..marks.words() as usize).filter(|at| marks.word(*at) != 0);
            words.extend(touched.map(|at| (at, self.bits.word(at) | marks.word(at))));
        }
        self.torn.push_back(Torn { range, words });
    }

    /// Returns the pages that the next store of loaded words marks.
    pub fn torn(&self) -> Option<PageRange> {
        self.torn.front().map(|torn| torn.range)
    }

    /// Stores the words back that were loaded first.
    ///
    /// # Panics
    /// When none were.
    pub fn store_torn(&mut self) {
        let Torn { words, .. } = self.torn.pop_front().expect("words were loaded");
        words.into_iter().for_each(|(at, word)| self.bits.store_word(at, word));
    }

    /// Merges another record in, which has a bit for each of the guest's pages, and returns how many of its bits are set.
    pub fn merge(&mut self, other: &DirtyBitmap) -> u64 {
        let Self { ram, bits, .. } = self;
        if ram.is_flat() {
            bits.merge(other);
            return other.count();
        }
        for place in ram.places() {
            for page in (0..place.pages).step_by(WORD_PAGES as usize) {
                let word = other.window(place.first.0 + page) & low_bits(WORD_PAGES.min(place.pages - page));
                bits.set_window(place.offset + page, word);
            }
        }
        other.count()
    }

    /// Moves all bits into a bitmap of all ram_addrs, and returns how many were new there.
    pub fn exchange_into(&mut self, to: &mut DirtyBitmap) -> u64 {
        to.exchange_from(&mut self.bits)
    }

    /// Moves whole words into a block's B, from the word of ram_addr `first` on, as many as B has, and returns how many bits were new there,
    /// B's and those of the last word that stand behind its end. `cleaned` sees the words that D had, with the index.
    pub fn exchange_words(&mut self, first: u64, b: &mut DirtyBitmap, behind: &mut u64, mut cleaned: impl FnMut(usize, u64)) -> u64 {
        let start = first / WORD_PAGES;
        let mut new = 0;
        for at in 0..b.words() {
            let word = usize::try_from(start + at).expect("64-bit host");
            if start + at >= self.bits.words() || self.bits.word(word) == 0 {
                continue;
            }
            let bits = self.bits.take_word(word);
            cleaned(word, bits);
            let own = bits & low_bits(WORD_PAGES.min(b.pages() - at * WORD_PAGES));
            new += b.set_window(at * WORD_PAGES, own) + u64::from((bits & !own & !*behind).count_ones());
            *behind |= bits & !own;
        }
        new
    }

    /// Moves bits into a block's B page by page, from ram_addr `first` on, and returns how many were new there. `cleaned` sees 64 ram_addrs each
    /// time, with the first.
    pub fn exchange_pages(&mut self, first: u64, b: &mut DirtyBitmap, mut cleaned: impl FnMut(u64, u64)) -> u64 {
        let mut new = 0;
        for page in (0..b.pages()).step_by(WORD_PAGES as usize) {
            let bits = self.bits.window(first + page) & low_bits(WORD_PAGES.min(b.pages() - page));
            if bits != 0 {
                self.bits.clear_window(first + page, bits);
                cleaned(first + page, bits);
                new += b.set_window(page, bits);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::ram_list::BlockOptions;

    fn clean(pages: u64) -> DirtyMemory {
        let mut d = DirtyMemory::new(pages);
        d.exchange_into(&mut DirtyBitmap::new(pages));
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
    fn a_block_that_grows_is_dirty_from_its_start_and_as_long_elsewhere() {
        let block = |name: &str, pages, offset, room| BlockOptions { name: name.to_owned(), pages, offset, room, ignored: false };
        let ram = Arc::new(RamList::new(&[block("pc.ram", 128, 0, 0), block("acpi", 128, 128, 64)]));
        let mut d = DirtyMemory::of(Arc::clone(&ram));
        d.reset();
        d.set_tracking(true);
        assert_eq!((d.present(), d.grow(), d.present()), (192, PageRange::new(Pfn(192), 64), 256));
        assert_eq!(d.bits().ones().collect::<Vec<_>>(), (128..256).map(Pfn).collect::<Vec<_>>());
        d.reset();
        assert_eq!((d.grow().count, d.bits().count()), (0, 0), "it has grown");
        let mut there = DirtyMemory::of(ram);
        there.load_length(&d);
        assert_eq!(there.present(), 256);
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
