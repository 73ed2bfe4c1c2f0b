//! A RAM block's part of the migration: its B and its C, and the sync of D into them.
//!
//! QEMU: include/system/ramblock.h RAMBlock.bmap and .clear_bmap, include/system/physmem.h physical_memory_sync_dirty_bitmap().

use crate::dirty::bitmap::{DirtyBitmap, WORD_PAGES};
use crate::dirty::physmem::DirtyMemory;
use crate::dirty::ram_list::Place;
use crate::event::{PageRange, Pfn};
use crate::fault::{Fault, Faults};

/// A block's bitmaps, by page of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) place: Place,
    /// What is still to be sent; `None`: the block is left out of the migration.
    pub(super) b: Option<DirtyBitmap>,
    /// One bit per chunk: K of this chunk has not been cleared since the last sync.
    pub(super) c: DirtyBitmap,
    /// Bits behind the end of the block in the last word of B: there are none, unless whole words are merged into a block that ends within one.
    pub(super) behind: u64,
}

impl Block {
    /// Returns a block with everything to send.
    pub(super) fn new(place: &Place, chunk_shift: u8) -> Self {
        let b = (!place.ignored).then(|| DirtyBitmap::full(place.pages));
        Self { place: place.clone(), b, c: DirtyBitmap::new(place.pages.div_ceil(1 << chunk_shift)), behind: 0 }
    }

    /// Returns how many bits B has, those behind its end included: who counts them does not look where it ends.
    pub(super) fn count(&self) -> u64 {
        self.b.as_ref().map_or(0, DirtyBitmap::count) + u64::from(self.behind.count_ones())
    }

    /// Moves D into B, word by word where the block begins and ends with a word of D, else page by page, and returns how many bits were new.
    /// `cleaned` sees 64 ram_addrs of D each time, with the first.
    ///
    /// [`Fault::SyncWithoutOffset`]: the block's pages are looked for from ram_addr 0 on. [`Fault::AlignmentWithoutOffset`]: any block is taken
    /// for one that begins and ends with a word: it gets the bits from the word's first ram_addr on, not from its own. [`Fault::ShortBlockByWords`]:
    /// only the beginning is looked at, and a block that ends within a word takes its neighbours' bits along.
    pub(super) fn sync(&mut self, d: &mut DirtyMemory, faults: &Faults, mut cleaned: impl FnMut(u64, u64)) -> u64 {
        let Some(b) = &mut self.b else { return 0 };
        let Place { pages, offset, .. } = self.place;
        let offset = if offset != 0 && faults.on(Fault::SyncWithoutOffset) { 0 } else { offset };
        let begins = offset.is_multiple_of(WORD_PAGES);
        let by_words = match pages.is_multiple_of(WORD_PAGES) {
            true => begins,
            false => begins && faults.on(Fault::ShortBlockByWords),
        };
        if by_words || !self.place.aligned() && faults.on(Fault::AlignmentWithoutOffset) {
            d.exchange_words(offset, b, &mut self.behind, |at, bits| cleaned(at as u64 * WORD_PAGES, bits))
        } else {
            d.exchange_pages(offset, b, cleaned)
        }
    }

    /// Returns the chunk of a page of the block.
    pub(super) fn chunk_of(page: Pfn, chunk_shift: u8) -> Pfn {
        Pfn(page.0 >> chunk_shift)
    }

    /// Returns the guest's pages of the chunk of a page of the block.
    pub(super) fn chunk(&self, page: Pfn, chunk_shift: u8) -> PageRange {
        let first = Self::chunk_of(page, chunk_shift).0 << chunk_shift;
        let count = (self.place.pages - first).min(1 << chunk_shift);
        PageRange::new(self.place.pfn(Pfn(first)), count)
    }
}
