//! A bit per page, with the operations that migration needs: counting, clearing and finding by range and by word.
//!
//! The bits live in a `fixedbitset`; this type adds what a dirty bitmap is asked for and hides the rest.

use fixedbitset::FixedBitSet;

use crate::event::{PageRange, Pfn};

/// Pages per word of a bitmap; also the alignment of a CLEAR (Linux: KVM_CLEAR_DIRTY_LOG's `first_page` is a multiple of 64).
pub const WORD_PAGES: u64 = 64;

const _: () = assert!(usize::BITS == 64, "a word of a dirty bitmap has 64 pages");

/// One bit per page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirtyBitmap {
    bits: FixedBitSet,
}

impl DirtyBitmap {
    /// Returns a bitmap of `pages` clear bits.
    pub fn new(pages: u64) -> Self {
        Self { bits: FixedBitSet::with_capacity(index(pages)) }
    }

    /// Returns a bitmap of `pages` set bits.
    pub fn full(pages: u64) -> Self {
        let mut bitmap = Self::new(pages);
        bitmap.fill();
        bitmap
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> u64 {
        self.bits.len() as u64
    }

    /// Returns the number of words.
    pub fn words(&self) -> u64 {
        self.bits.as_slice().len() as u64
    }

    /// Returns the part of a range that has bits here.
    pub fn clip(&self, range: PageRange) -> PageRange {
        let first = range.first.0.min(self.pages());
        let count = range.count.min(self.pages() - first);
        PageRange::new(Pfn(first), count)
    }

    /// Returns whether the page's bit is set.
    ///
    /// # Panics
    /// When the page has no bit.
    pub fn test(&self, pfn: Pfn) -> bool {
        assert!(pfn.0 < self.pages(), "page {pfn} outside {} pages", self.pages());
        self.bits.contains(index(pfn.0))
    }

    /// Sets the page's bit, and returns whether it was clear.
    ///
    /// # Panics
    /// When the page has no bit.
    pub fn set(&mut self, pfn: Pfn) -> bool {
        !self.bits.put(index(pfn.0))
    }

    /// Clears the page's bit, and returns whether it was set.
    ///
    /// # Panics
    /// When the page has no bit.
    pub fn clear(&mut self, pfn: Pfn) -> bool {
        let was = self.test(pfn);
        self.bits.remove(index(pfn.0));
        was
    }

    /// Sets all bits.
    pub fn fill(&mut self) {
        self.bits.insert_range(..);
    }

    /// Clears all bits.
    pub fn reset(&mut self) {
        self.bits.clear();
    }

    /// Sets the bits of a range.
    pub fn set_range(&mut self, range: PageRange) {
        self.bits.insert_range(indices(self.clip(range)));
    }

    /// Clears the bits of a range, and returns how many were set.
    pub fn clear_range(&mut self, range: PageRange) -> u64 {
        let were = self.count_range(range);
        self.bits.remove_range(indices(self.clip(range)));
        were
    }

    /// Returns how many bits of a range are set.
    pub fn count_range(&self, range: PageRange) -> u64 {
        self.bits.count_ones(indices(self.clip(range))) as u64
    }

    /// Returns how many bits are set.
    pub fn count(&self) -> u64 {
        self.bits.count_ones(..) as u64
    }

    /// Returns whether no bit is set.
    pub fn is_clear(&self) -> bool {
        self.bits.is_clear()
    }

    /// Returns the first set bit at or behind a page.
    pub fn next_set(&self, from: Pfn) -> Option<Pfn> {
        let words = self.bits.as_slice();
        let start = index(from.0 / WORD_PAGES);
        let first = *words.get(start)? & (usize::MAX << (from.0 % WORD_PAGES));
        if first != 0 {
            return Some(bit_of(start, first));
        }
        let behind = words[start + 1..].iter().position(|word| *word != 0)?;
        let at = start + 1 + behind;
        Some(bit_of(at, words[at]))
    }

    /// Returns the set bits, in order.
    pub fn ones(&self) -> impl Iterator<Item = Pfn> {
        self.bits.ones().map(|bit| Pfn(bit as u64))
    }

    /// Returns the set bits as maximal ranges, in order.
    pub fn ranges(&self) -> Vec<PageRange> {
        let mut ranges: Vec<PageRange> = Vec::new();
        for pfn in self.ones() {
            match ranges.last_mut() {
                Some(last) if last.end() == pfn => last.count += 1,
                Some(_) | None => ranges.push(PageRange::page(pfn)),
            }
        }
        ranges
    }

    /// Sets every bit that is set in `other`, and returns how many of them were clear.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn merge(&mut self, other: &Self) -> u64 {
        self.assert_same_size(other);
        let mut new = 0;
        for (mine, theirs) in self.bits.as_mut_slice().iter_mut().zip(other.bits.as_slice()) {
            new += u64::from((theirs & !*mine).count_ones());
            *mine |= theirs;
        }
        new
    }

    /// Moves the bits of `source` here word by word, leaving it clear, and returns how many of them were clear here. `moved` sees each
    /// word that had bits, with its index (QEMU: system/physmem.c's `qatomic_xchg` of `dirty_memory` words).
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn exchange_from(&mut self, source: &mut Self, mut moved: impl FnMut(usize, usize)) -> u64 {
        self.assert_same_size(source);
        let mut new = 0;
        for (at, (mine, theirs)) in self.bits.as_mut_slice().iter_mut().zip(source.bits.as_mut_slice()).enumerate() {
            let word = std::mem::take(theirs);
            if word != 0 {
                new += u64::from((word & !*mine).count_ones());
                *mine |= word;
                moved(at, word);
            }
        }
        new
    }

    /// Sets the bits of one word.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn set_word(&mut self, at: usize, word: usize) {
        self.bits.as_mut_slice()[at] |= word;
    }

    /// Becomes equal to `other`.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn copy_from(&mut self, other: &Self) {
        self.assert_same_size(other);
        self.bits.as_mut_slice().copy_from_slice(other.bits.as_slice());
    }

    /// Clears the bits of `range` (of those, only what is set in `mask` if one is given), and returns how many were set. `cleared` sees each
    /// word's cleared bits, with its index.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn clear_masked(&mut self, range: PageRange, mask: Option<&Self>, mut cleared: impl FnMut(usize, usize)) -> u64 {
        if let Some(mask) = mask {
            self.assert_same_size(mask);
        }
        let range = self.clip(range);
        if range.count == 0 {
            return 0;
        }
        let (first, last) = (range.first.0, range.end().0 - 1);
        let (first_word, last_word) = (index(first / WORD_PAGES), index(last / WORD_PAGES));
        let mut count = 0;
        for at in first_word..=last_word {
            let mut within = mask.map_or(usize::MAX, |mask| mask.bits.as_slice()[at]);
            if at == first_word {
                within &= usize::MAX << (first % WORD_PAGES);
            }
            if at == last_word {
                within &= usize::MAX >> (WORD_PAGES - 1 - last % WORD_PAGES);
            }
            let word = &mut self.bits.as_mut_slice()[at];
            let bits = *word & within;
            if bits != 0 {
                *word &= !bits;
                count += u64::from(bits.count_ones());
                cleared(at, bits);
            }
        }
        count
    }

    fn assert_same_size(&self, other: &Self) {
        assert_eq!(self.bits.len(), other.bits.len(), "bitmaps of different sizes");
    }
}

fn index(pages: u64) -> usize {
    usize::try_from(pages).expect("64-bit host")
}

fn indices(range: PageRange) -> std::ops::Range<usize> {
    index(range.first.0)..index(range.end().0)
}

fn bit_of(word: usize, bits: usize) -> Pfn {
    Pfn(word as u64 * WORD_PAGES + u64::from(bits.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_set_finds_across_words_and_ends_at_the_end() {
        let mut bitmap = DirtyBitmap::new(200);
        bitmap.set(Pfn(3));
        bitmap.set(Pfn(130));
        assert_eq!(bitmap.next_set(Pfn(0)), Some(Pfn(3)));
        assert_eq!(bitmap.next_set(Pfn(3)), Some(Pfn(3)));
        assert_eq!(bitmap.next_set(Pfn(4)), Some(Pfn(130)));
        assert_eq!(bitmap.next_set(Pfn(131)), None);
        assert_eq!(bitmap.next_set(Pfn(200)), None);
        assert_eq!(bitmap.next_set(Pfn(5000)), None);
    }

    #[test]
    fn a_full_bitmap_has_no_bit_behind_its_end() {
        let bitmap = DirtyBitmap::full(70);
        assert_eq!(bitmap.count(), 70);
        assert_eq!(bitmap.ranges(), [PageRange::new(Pfn(0), 70)]);
    }

    #[test]
    fn clearing_a_range_stops_at_both_of_its_ends() {
        let mut bitmap = DirtyBitmap::full(256);
        assert_eq!(bitmap.clear_range(PageRange::new(Pfn(60), 10)), 10);
        assert_eq!(bitmap.ranges(), [PageRange::new(Pfn(0), 60), PageRange::new(Pfn(70), 186)]);
    }

    #[test]
    fn clear_masked_takes_only_bits_of_range_and_mask() {
        let mut bitmap = DirtyBitmap::full(256);
        let mut mask = DirtyBitmap::new(256);
        for pfn in [3, 62, 64, 130, 200] {
            mask.set(Pfn(pfn));
        }
        assert_eq!(bitmap.clear_masked(PageRange::new(Pfn(62), 70), Some(&mask), |_, _| ()), 3);
        assert_eq!(bitmap.count(), 253);
        assert!(bitmap.test(Pfn(3)) && bitmap.test(Pfn(200)));
        assert!(!bitmap.test(Pfn(62)) && !bitmap.test(Pfn(64)) && !bitmap.test(Pfn(130)));
    }

    #[test]
    fn exchange_counts_only_bits_that_are_new() {
        let mut to = DirtyBitmap::new(128);
        to.set(Pfn(1));
        let mut from = DirtyBitmap::new(128);
        from.set(Pfn(1));
        from.set(Pfn(100));
        assert_eq!(to.exchange_from(&mut from, |_, _| ()), 1);
        assert!(from.is_clear());
        assert_eq!(to.count(), 2);
    }
}
