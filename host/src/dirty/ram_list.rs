//! RAM blocks: where the pages of guest memory lie in the ram_addr space, by which D is indexed.
//!
//! QEMU: include/exec/ramlist.h RAMList, include/system/ramblock.h RAMBlock, system/physmem.c ram_block_add(), find_ram_offset(). Guest-physical
//! memory is the blocks one behind the other; each has a place of its own among the ram_addrs, and the migration looks through them from the
//! largest to the smallest. Differs: guest memory has no holes, and no block is mapped twice.

use std::sync::Arc;

use super::bitmap::{DirtyBitmap, WORD_PAGES};
use crate::event::{PageRange, Pfn};

/// A block as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOptions {
    /// Its name (QEMU: `idstr`).
    pub name: String,
    /// Its length, pages.
    pub pages: u64,
    /// Its first ram_addr, pages.
    pub offset: u64,
    /// Pages at its end that are not there until it grows: of the last block alone.
    pub room: u64,
    /// The migration leaves it alone: source and destination share its memory (QEMU: `x-ignore-shared`).
    pub ignored: bool,
}

/// A block and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Its first page in guest-physical memory.
    pub first: Pfn,
    /// Its length, pages.
    pub pages: u64,
    /// Its first ram_addr, pages.
    pub offset: u64,
    /// The migration leaves it alone.
    pub ignored: bool,
}

impl Place {
    /// Returns the guest's pages in the block.
    pub fn range(&self) -> PageRange {
        PageRange::new(self.first, self.pages)
    }

    /// Returns whether the block begins and ends with a word of D.
    pub fn aligned(&self) -> bool {
        self.offset.is_multiple_of(WORD_PAGES) && self.pages.is_multiple_of(WORD_PAGES)
    }

    /// Returns the guest's page of a page of the block.
    pub fn pfn(&self, page: Pfn) -> Pfn {
        Pfn(self.first.0 + page.0)
    }
}

/// The list of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamList {
    /// In the order of guest-physical memory.
    places: Vec<Place>,
    /// Indices of `places`, in the order in which the list is walked.
    order: Vec<usize>,
    /// End of the ram_addrs, pages.
    end: u64,
    /// Pages at the end of guest memory that are not there at first.
    spare: u64,
}

impl RamList {
    /// Returns a list of one block: ram_addrs are guest-physical addresses.
    pub fn one(pages: u64) -> Arc<Self> {
        Arc::new(Self::new(&[BlockOptions { name: "pc.ram".to_owned(), pages, offset: 0, room: 0, ignored: false }]))
    }

    /// Returns the list of these blocks, which follow each other in guest-physical memory.
    ///
    /// # Panics
    /// When there are none, one is empty, or two overlap.
    pub fn new(blocks: &[BlockOptions]) -> Self {
        assert!(!blocks.is_empty(), "no RAM");
        let (mut first, mut spare) = (0, 0);
        let mut places: Vec<Place> = Vec::new();
        for (index, BlockOptions { name, pages, offset, room, ignored }) in blocks.iter().enumerate() {
            assert!(*pages > *room, "block {name} is empty");
            assert!(*room == 0 || index + 1 == blocks.len(), "block {name} has no room to grow: another follows");
            spare = *room;
            let free = |other: &Place| offset + pages <= other.offset || other.offset + other.pages <= *offset;
            assert!(places.iter().all(free), "block {name} lies where another does");
            places.push(Place { name: name.clone(), first: Pfn(first), pages: *pages, offset: *offset, ignored: *ignored });
            first += pages;
        }
        // A new block stands before the first that is smaller than it.
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(places[*index].pages));
        let end = places.iter().map(|place| place.offset + place.pages).max().expect("there is one");
        Self { places, order, end, spare }
    }

    /// Returns the blocks in the order of guest-physical memory.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Returns their indices in the order in which the list is walked: from the largest block to the smallest.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Returns the guest's memory, pages.
    pub fn pages(&self) -> u64 {
        self.places.last().expect("there is one").range().end().0
    }

    /// Returns the guest's memory before its last block grows, pages.
    pub fn pages_at_first(&self) -> u64 {
        self.pages() - self.spare
    }

    /// Returns the end of the ram_addrs, pages.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns whether a ram_addr is a guest-physical address: there is one block, at 0.
    pub fn is_flat(&self) -> bool {
        self.places.len() == 1 && self.places[0].offset == 0
    }

    /// Returns the index of the block that holds a page.
    ///
    /// # Panics
    /// When none does.
    pub fn block_of(&self, pfn: Pfn) -> usize {
        assert!(pfn.0 < self.pages(), "page {pfn} outside {} pages", self.pages());
        self.places.partition_point(|place| place.range().end() <= pfn)
    }

    /// Returns the part of a range that is RAM.
    pub fn clip(&self, range: PageRange) -> PageRange {
        let first = range.first.0.min(self.pages());
        PageRange::new(Pfn(first), range.count.min(self.pages() - first))
    }

    /// Returns the parts of a range, each with its block's index, as pages of the block. What is no RAM is left out.
    pub fn parts(&self, range: PageRange) -> impl Iterator<Item = (usize, PageRange)> {
        let range = self.clip(range);
        let in_block = move |(index, place): (usize, &Place)| {
            let first = range.first.0.max(place.first.0);
            let end = range.end().0.min(place.range().end().0);
            (first < end).then(|| (index, PageRange::new(Pfn(first - place.first.0), end - first)))
        };
        self.places.iter().enumerate().filter_map(in_block)
    }

    /// Returns a page's ram_addr.
    pub fn addr(&self, pfn: Pfn) -> Pfn {
        let place = &self.places[self.block_of(pfn)];
        Pfn(place.offset + pfn.0 - place.first.0)
    }

    /// Returns the bits of 64 of the guest's pages, those from 64 times `at` on: `bits_of` gives a block's bitmap, and the block's first bit there.
    pub fn guest_word<'b>(&self, at: u64, bits_of: impl Fn(usize) -> Option<(&'b DirtyBitmap, u64)>) -> u64 {
        let mut word = 0;
        for (index, part) in self.parts(PageRange::new(Pfn(at * WORD_PAGES), WORD_PAGES)) {
            let Some((bits, first)) = bits_of(index) else { continue };
            let shift = self.places[index].first.0 + part.first.0 - at * WORD_PAGES;
            word |= (bits.window(first + part.first.0) & low_bits(part.count)) << shift;
        }
        word
    }

    /// Calls `each` with the guest's words that bits of up to 64 ram_addrs from `first` on stand for: its index, and its bits.
    pub fn guest_words(&self, first: u64, bits: u64, mut each: impl FnMut(usize, u64)) {
        for place in &self.places {
            let (from, to) = (place.offset.max(first), (place.offset + place.pages).min(first + WORD_PAGES));
            if from >= to {
                continue;
            }
            let part = bits >> (from - first) & low_bits(to - from);
            let pfn = place.first.0 + from - place.offset;
            let (at, shift) = (usize::try_from(pfn / WORD_PAGES).expect("64-bit host"), pfn % WORD_PAGES);
            let (low, high) = (part << shift, if shift == 0 { 0 } else { part >> (WORD_PAGES - shift) });
            [(at, low), (at + 1, high)].into_iter().filter(|(_, bits)| *bits != 0).for_each(|(at, bits)| each(at, bits));
        }
    }
}

/// Returns the lowest bits of a word, at most 64.
pub(crate) fn low_bits(count: u64) -> u64 {
    assert!(count <= WORD_PAGES);
    if count == 0 { 0 } else { u64::MAX >> (WORD_PAGES - count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, pages: u64, offset: u64) -> BlockOptions {
        BlockOptions { name: name.to_owned(), pages, offset, room: 0, ignored: false }
    }

    fn list() -> RamList {
        RamList::new(&[block("low", 30, 128), block("high", 100, 0), block("rom", 70, 190)])
    }

    #[test]
    fn a_range_falls_into_the_blocks_that_it_crosses() {
        let parts: Vec<_> = list().parts(PageRange::new(Pfn(20), 1000)).collect();
        assert_eq!(parts, [(0, PageRange::new(Pfn(20), 10)), (1, PageRange::new(Pfn(0), 100)), (2, PageRange::new(Pfn(0), 70))]);
        assert_eq!(list().parts(PageRange::new(Pfn(200), 3)).count(), 0);
    }

    #[test]
    fn the_list_is_walked_from_the_largest_block_to_the_smallest() {
        assert_eq!(list().order(), [1, 2, 0]);
        assert_eq!(RamList::new(&[block("a", 5, 0), block("b", 5, 5)]).order(), [0, 1]);
    }

    #[test]
    fn each_page_comes_back_from_its_ram_addr() {
        let list = list();
        for pfn in 0..200 {
            let addr = list.addr(Pfn(pfn)).0;
            let mut back = Vec::new();
            for first in addr.saturating_sub(63)..=addr {
                list.guest_words(first, 1 << (addr - first), |at, bits| back.push(at as u64 * 64 + u64::from(bits.trailing_zeros())));
                assert_eq!(back.pop(), Some(pfn), "ram_addr {addr} in a word from {first} on");
            }
        }
    }

    #[test]
    fn the_guests_words_are_pieced_together() {
        let list = list();
        let mut d = DirtyBitmap::new(list.end());
        for pfn in [0, 29, 30, 63, 64, 129, 130, 199] {
            d.set(list.addr(Pfn(pfn)));
        }
        let word = |at| list.guest_word(at, |index| Some((&d, list.places()[index].offset)));
        let set: Vec<u64> =
            (0..4).flat_map(|at| (0..64).filter(move |bit| word(at) >> bit & 1 == 1).map(move |bit| at * 64 + bit)).collect();
        assert_eq!(set, [0, 29, 30, 63, 64, 129, 130, 199]);
    }

    #[test]
    #[should_panic(expected = "lies where another does")]
    fn blocks_do_not_overlap() {
        RamList::new(&[block("a", 10, 0), block("b", 10, 9)]);
    }
}
