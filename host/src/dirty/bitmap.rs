//! A bit per page, with the operations that migration needs: counting, clearing and finding by range and by word.
//!
//! Words stand in leaves of 64, and a leaf whose bits are all alike has none: memory that nobody touches costs nothing, and what treats much memory alike
//! treats leaves. Leaves are shared between clones, and between bitmaps, until one side changes. The hash of a bitmap is a sum over its words; once
//! somebody has asked for it, a few changed words are taken along in it, and many let it be computed anew when it is asked for again. A bitmap that
//! nobody folds pays nothing for that.

use std::ops::Range;
use std::sync::Arc;

use crate::event::{PageRange, Pfn};
use crate::fold::mix;

/// Pages per word of a bitmap; also the alignment of a CLEAR (Linux: KVM_CLEAR_DIRTY_LOG's `first_page` is a multiple of 64).
pub const WORD_PAGES: u64 = 64;
/// Words of a leaf.
const LEAF_WORDS: usize = 64;
/// Pages of a leaf.
const LEAF_PAGES: u64 = WORD_PAGES * LEAF_WORDS as u64;

/// One bit per page.
#[derive(Debug, Clone)]
pub struct DirtyBitmap {
    pages: u64,
    leaves: Arc<[Leaf]>,
    sum: Sum,
}

/// Words of a bitmap. Bits behind the last page are clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Leaf {
    /// No bit is set.
    #[default]
    Clear,
    /// All bits are set that there are.
    Full,
    /// Some are, and some are not.
    Mixed {
        /// How many are.
        ones: u32,
        words: Arc<[u64; LEAF_WORDS]>,
    },
}

impl PartialEq for DirtyBitmap {
    fn eq(&self, other: &Self) -> bool {
        self.pages == other.pages && self.leaves == other.leaves
    }
}

impl Eq for DirtyBitmap {}

/// The sum of all words' hashes.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    value: u128,
    /// That many words less one may change before the sum is given up; 0: it is not kept.
    credit: u32,
}

impl Sum {
    fn changed(&mut self, at: usize, old: u64, new: u64) {
        if self.credit > 0 {
            self.credit -= 1;
            self.value = self.value.wrapping_add(word_hash(at, new)).wrapping_sub(word_hash(at, old));
        }
    }
}

/// A word without bits adds nothing.
fn word_hash(at: usize, word: u64) -> u128 {
    if word == 0 { 0 } else { mix(0, at as u64, word) }
}

impl DirtyBitmap {
    /// Returns a bitmap of `pages` clear bits.
    pub fn new(pages: u64) -> Self {
        let leaves = std::iter::repeat_n(Leaf::Clear, index(pages.div_ceil(LEAF_PAGES))).collect();
        Self { pages, leaves, sum: Sum::default() }
    }

    /// Returns a bitmap of `pages` set bits.
    pub fn full(pages: u64) -> Self {
        let mut bitmap = Self::new(pages);
        bitmap.fill();
        bitmap
    }

    /// Returns the hash of the bits: of equal bits the same, whatever way they came to be.
    pub fn fold(&mut self) -> u128 {
        if self.sum.credit == 0 {
            let hashes = self.set_words(0..index(self.words())).map(|(at, word)| word_hash(at, word));
            self.sum.value = hashes.fold(0, u128::wrapping_add);
        }
        self.sum.credit = u32::try_from(self.words()).map_or(u32::MAX, |words| words.saturating_add(1));
        self.sum.value
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the number of words.
    pub fn words(&self) -> u64 {
        self.pages.div_ceil(WORD_PAGES)
    }

    /// Returns the bits of one word.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn word(&self, at: usize) -> u64 {
        match &self.leaves[at / LEAF_WORDS] {
            Leaf::Clear => 0,
            Leaf::Full => full_word(self.pages, at),
            Leaf::Mixed { words, .. } => words[at % LEAF_WORDS],
        }
    }

    /// Returns all words, from the first page on.
    pub fn all_words(&self) -> impl Iterator<Item = u64> {
        (0..index(self.words())).map(|at| self.word(at))
    }

    /// Returns 64 bits from any bit on; those behind the last are clear.
    pub fn window(&self, first: u64) -> u64 {
        let (at, shift) = (index(first / WORD_PAGES), first % WORD_PAGES);
        let word = |at: usize| if (at as u64) < self.words() { self.word(at) } else { 0 };
        let high = if shift == 0 { 0 } else { word(at + 1) << (WORD_PAGES - shift) };
        word(at) >> shift | high
    }

    /// Sets bits from any bit on, and returns how many of them were clear.
    ///
    /// # Panics
    /// When one lies behind the last.
    pub fn set_window(&mut self, first: u64, bits: u64) -> u64 {
        assert!(bits == 0 || first + u64::from(bits.ilog2()) < self.pages(), "bits {bits:#x} from {first} on of {} pages", self.pages());
        let new = bits & !self.window(first);
        let (at, shift) = (index(first / WORD_PAGES), first % WORD_PAGES);
        let high = if shift == 0 { 0 } else { new >> (WORD_PAGES - shift) };
        [(at, new << shift), (at + 1, high)].into_iter().filter(|(_, bits)| *bits != 0).for_each(|(at, bits)| self.set_word(at, bits));
        u64::from(new.count_ones())
    }

    /// Clears bits from any bit on, and returns how many of them were set.
    pub fn clear_window(&mut self, first: u64, bits: u64) -> u64 {
        let set = bits & self.window(first);
        let (at, shift) = (index(first / WORD_PAGES), first % WORD_PAGES);
        let high = if shift == 0 { 0 } else { set >> (WORD_PAGES - shift) };
        let parts = [(at, set << shift), (at + 1, high)];
        parts.into_iter().filter(|(_, bits)| *bits != 0).for_each(|(at, bits)| self.put(at, self.word(at) & !bits));
        u64::from(set.count_ones())
    }

    /// Clears a word, and returns what it was.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn take_word(&mut self, at: usize) -> u64 {
        let word = self.word(at);
        if word != 0 {
            self.put(at, 0);
        }
        word
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
        let (at, bit) = place(pfn);
        self.word(at) & bit != 0
    }

    /// Sets the page's bit, and returns whether it was clear.
    ///
    /// # Panics
    /// When the page has no bit.
    pub fn set(&mut self, pfn: Pfn) -> bool {
        let was = self.test(pfn);
        if !was {
            let (at, bit) = place(pfn);
            self.put(at, self.word(at) | bit);
        }
        !was
    }

    /// Clears the page's bit, and returns whether it was set.
    ///
    /// # Panics
    /// When the page has no bit.
    pub fn clear(&mut self, pfn: Pfn) -> bool {
        let was = self.test(pfn);
        if was {
            let (at, bit) = place(pfn);
            self.put(at, self.word(at) & !bit);
        }
        was
    }

    /// Sets all bits.
    pub fn fill(&mut self) {
        self.set_range(PageRange::new(Pfn(0), self.pages));
    }

    /// Clears all bits.
    pub fn reset(&mut self) {
        self.clear_range(PageRange::new(Pfn(0), self.pages));
    }

    /// Sets the bits of a range.
    pub fn set_range(&mut self, range: PageRange) {
        let range = self.clip(range);
        for leaf in leaves_of(range) {
            if self.covers(range, leaf) {
                self.replace(leaf, Leaf::Full);
            } else {
                self.change(leaf, words_of(range), |at, word| word | within(range, at), |_, _, _| ());
            }
        }
    }

    /// Clears the bits of a range, and returns how many were set.
    pub fn clear_range(&mut self, range: PageRange) -> u64 {
        let range = self.clip(range);
        let mut count = 0;
        for leaf in leaves_of(range) {
            if self.covers(range, leaf) {
                count += self.ones_of(leaf);
                self.replace(leaf, Leaf::Clear);
            } else {
                let cleared = |_, old: u64, new: u64| count += u64::from((old & !new).count_ones());
                self.change(leaf, words_of(range), |at, word| word & !within(range, at), cleared);
            }
        }
        count
    }

    /// Returns how many bits of a range are set.
    pub fn count_range(&self, range: PageRange) -> u64 {
        let range = self.clip(range);
        self.set_words(words_of(range)).map(|(at, word)| u64::from((word & within(range, at)).count_ones())).sum()
    }

    /// Returns how many bits are set.
    pub fn count(&self) -> u64 {
        (0..self.leaves.len()).map(|leaf| self.ones_of(leaf)).sum()
    }

    /// Returns whether no bit is set.
    pub fn is_clear(&self) -> bool {
        self.leaves.iter().all(|leaf| *leaf == Leaf::Clear)
    }

    /// Returns the first set bit at or behind a page.
    pub fn next_set(&self, from: Pfn) -> Option<Pfn> {
        let start = index(from.0 / WORD_PAGES);
        if start as u64 >= self.words() {
            return None;
        }
        let first = self.word(start) & (u64::MAX << (from.0 % WORD_PAGES));
        if first != 0 {
            return Some(bit_of(start, first));
        }
        self.set_words(start + 1..index(self.words())).next().map(|(at, word)| bit_of(at, word))
    }

    /// Returns the set bits, in order.
    pub fn ones(&self) -> impl Iterator<Item = Pfn> {
        std::iter::successors(self.next_set(Pfn(0)), |pfn| self.next_set(Pfn(pfn.0 + 1)))
    }

    /// Returns the set bits as maximal ranges, in order.
    pub fn ranges(&self) -> Vec<PageRange> {
        let mut ranges: Vec<PageRange> = Vec::new();
        for (at, mut word) in self.set_words(0..index(self.words())) {
            while word != 0 {
                let first = bit_of(at, word);
                let count = u64::from((word >> word.trailing_zeros()).trailing_ones());
                word &= !within(PageRange::new(first, count), at);
                match ranges.last_mut() {
                    Some(last) if last.end() == first => last.count += count,
                    Some(_) | None => ranges.push(PageRange::new(first, count)),
                }
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
        for leaf in 0..self.leaves.len() {
            let before = self.ones_of(leaf);
            match (&self.leaves[leaf], &other.leaves[leaf]) {
                (_, Leaf::Clear) | (Leaf::Full, _) => continue,
                (Leaf::Clear, theirs) | (Leaf::Mixed { .. }, theirs @ Leaf::Full) => self.replace(leaf, theirs.clone()),
                (Leaf::Mixed { words: ours, .. }, Leaf::Mixed { words: theirs, .. }) if Arc::ptr_eq(ours, theirs) => continue,
                (Leaf::Mixed { .. }, Leaf::Mixed { words, .. }) => {
                    let words = Arc::clone(words);
                    self.change(leaf, 0..usize::MAX, |at, word| word | words[at % LEAF_WORDS], |_, _, _| ());
                }
            }
            new += self.ones_of(leaf) - before;
        }
        new
    }

    /// Moves the bits of `source` here, leaving it clear, and returns how many of them were clear here (QEMU: system/physmem.c's `qatomic_xchg` of
    /// `dirty_memory` words).
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn exchange_from(&mut self, source: &mut Self) -> u64 {
        let new = self.merge(source);
        source.reset();
        new
    }

    /// Sets the bits of one word.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn set_word(&mut self, at: usize, bits: u64) {
        self.store_word(at, self.word(at) | bits);
    }

    /// Gives a word another value, as a plain store does. Bits behind the last page must be clear.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn store_word(&mut self, at: usize, word: u64) {
        if word != self.word(at) {
            self.put(at, word);
        }
    }

    /// Becomes equal to `other`, and shares its words for as long as neither changes.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn copy_from(&mut self, other: &Self) {
        self.assert_same_size(other);
        *self = other.clone();
    }

    /// Clears the bits of `range` (of those, only what is set in `mask` if one is given), and returns how many were set. `cleared` sees each
    /// word's cleared bits, with its index.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn clear_masked(&mut self, range: PageRange, mask: Option<&Self>, mut cleared: impl FnMut(usize, u64)) -> u64 {
        if let Some(mask) = mask {
            self.assert_same_size(mask);
        }
        let range = self.clip(range);
        let mut count = 0;
        for leaf in leaves_of(range) {
            if self.leaves[leaf] == Leaf::Clear || mask.is_some_and(|mask| mask.leaves[leaf] == Leaf::Clear) {
                continue;
            }
            let taken = |at: usize| mask.map_or(u64::MAX, |mask| mask.word(at)) & within(range, at);
            let took = |at, old: u64, new: u64| {
                count += u64::from((old & !new).count_ones());
                cleared(at, old & !new);
            };
            self.change(leaf, words_of(range), |at, word| word & !taken(at), took);
        }
        count
    }

    /// Returns the words of a range that have bits, with their index.
    fn set_words(&self, range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let leaves = range.start / LEAF_WORDS..range.end.div_ceil(LEAF_WORDS).min(self.leaves.len());
        let some = leaves.filter(|leaf| self.leaves[*leaf] != Leaf::Clear);
        let words = some.flat_map(move |leaf| range.start.max(leaf * LEAF_WORDS)..range.end.min((leaf + 1) * LEAF_WORDS));
        words.map(|at| (at, self.word(at))).filter(|(_, word)| *word != 0)
    }

    /// Returns how many bits there are in a leaf.
    fn size_of(&self, leaf: usize) -> u64 {
        (self.pages - leaf as u64 * LEAF_PAGES).min(LEAF_PAGES)
    }

    /// Returns how many bits of a leaf are set.
    fn ones_of(&self, leaf: usize) -> u64 {
        match &self.leaves[leaf] {
            Leaf::Clear => 0,
            Leaf::Full => self.size_of(leaf),
            Leaf::Mixed { ones, .. } => u64::from(*ones),
        }
    }

    /// Returns whether all pages of a leaf lie in a range.
    fn covers(&self, range: PageRange, leaf: usize) -> bool {
        let first = leaf as u64 * LEAF_PAGES;
        range.first.0 <= first && first + self.size_of(leaf) <= range.end().0
    }

    /// Puts a leaf in the place of another.
    fn replace(&mut self, leaf: usize, new: Leaf) {
        if self.leaves[leaf] == new {
            return;
        }
        let before = self.sum.credit > 0;
        let old = before.then(|| self.leaves[leaf].clone());
        Arc::make_mut(&mut self.leaves)[leaf] = new;
        let Some(old) = old else { return };
        let first = leaf * LEAF_WORDS;
        for at in first..index(self.words()).min(first + LEAF_WORDS) {
            let old = match &old {
                Leaf::Clear => 0,
                Leaf::Full => full_word(self.pages, at),
                Leaf::Mixed { words, .. } => words[at % LEAF_WORDS],
            };
            let new = self.word(at);
            if old != new {
                self.sum.changed(at, old, new);
            }
        }
    }

    /// Gives a word another value.
    fn put(&mut self, at: usize, word: u64) {
        let old = self.word(at);
        self.sum.changed(at, old, word);
        let (leaf, size) = (at / LEAF_WORDS, self.size_of(at / LEAF_WORDS));
        let ones = self.ones_of(leaf) + u64::from(word.count_ones()) - u64::from(old.count_ones());
        let pages = self.pages;
        let slot = &mut Arc::make_mut(&mut self.leaves)[leaf];
        if ones == 0 {
            *slot = Leaf::Clear;
        } else if ones == size {
            *slot = Leaf::Full;
        } else {
            let (words, count) = mixed(slot, pages, leaf);
            words[at % LEAF_WORDS] = word;
            *count = ones as u32;
        }
    }

    /// Gives words of a leaf, those of a range, the values that `new` makes of their old ones; `changed` sees index, old and new value of those that are not
    /// the same. Nothing is copied when nothing changes.
    fn change(&mut self, leaf: usize, range: Range<usize>, new: impl Fn(usize, u64) -> u64, mut changed: impl FnMut(usize, u64, u64)) {
        let start = leaf * LEAF_WORDS;
        let range = range.start.max(start)..range.end.min(start + LEAF_WORDS).min(index(self.words()));
        let Some(first) = range.clone().find(|at| new(*at, self.word(*at)) != self.word(*at)) else { return };
        let (pages, size) = (self.pages, self.size_of(leaf));
        let Self { leaves, sum, .. } = self;
        let slot = &mut Arc::make_mut(leaves)[leaf];
        let (words, ones) = mixed(slot, pages, leaf);
        for at in first..range.end {
            let old = words[at % LEAF_WORDS];
            let word = new(at, old);
            if word != old {
                words[at % LEAF_WORDS] = word;
                *ones = *ones + word.count_ones() - old.count_ones();
                sum.changed(at, old, word);
                changed(at, old, word);
            }
        }
        match u64::from(*ones) {
            0 => *slot = Leaf::Clear,
            ones if ones == size => *slot = Leaf::Full,
            _ => {}
        }
    }

    fn assert_same_size(&self, other: &Self) {
        assert_eq!(self.pages, other.pages, "bitmaps of different sizes");
    }
}

/// Returns the bits of a word that has all that there are.
fn full_word(pages: u64, at: usize) -> u64 {
    within(PageRange::new(Pfn(0), pages), at)
}

/// Gives a leaf words of its own, and returns them, with the count of their bits.
fn mixed(slot: &mut Leaf, pages: u64, leaf: usize) -> (&mut [u64; LEAF_WORDS], &mut u32) {
    let start = leaf * LEAF_WORDS;
    match slot {
        Leaf::Clear => *slot = Leaf::Mixed { ones: 0, words: Arc::new([0; LEAF_WORDS]) },
        Leaf::Full => {
            let words: [u64; LEAF_WORDS] = std::array::from_fn(|at| full_word(pages, start + at));
            *slot = Leaf::Mixed { ones: words.iter().map(|word| word.count_ones()).sum(), words: Arc::new(words) };
        }
        Leaf::Mixed { .. } => {}
    }
    let Leaf::Mixed { ones, words } = slot else { unreachable!("it has words now") };
    (Arc::make_mut(words), ones)
}

/// Returns the leaves that hold bits of a range.
fn leaves_of(range: PageRange) -> Range<usize> {
    index(range.first.0 / LEAF_PAGES)..index(range.end().0.div_ceil(LEAF_PAGES))
}

fn index(pages: u64) -> usize {
    usize::try_from(pages).expect("64-bit host")
}

/// Returns a page's word and its bit there.
fn place(pfn: Pfn) -> (usize, u64) {
    (index(pfn.0 / WORD_PAGES), 1 << (pfn.0 % WORD_PAGES))
}

/// Returns the words that hold bits of a range.
fn words_of(range: PageRange) -> Range<usize> {
    index(range.first.0 / WORD_PAGES)..index(range.end().0.div_ceil(WORD_PAGES))
}

/// Returns the bits of a word that belong to a range.
fn within(range: PageRange, at: usize) -> u64 {
    let start = at as u64 * WORD_PAGES;
    let (first, end) = (range.first.0.max(start), range.end().0.min(start + WORD_PAGES));
    if first >= end { 0 } else { u64::MAX << (first - start) & u64::MAX >> (start + WORD_PAGES - end) }
}

fn bit_of(word: usize, bits: u64) -> Pfn {
    Pfn(word as u64 * WORD_PAGES + u64::from(bits.trailing_zeros()))
}

#[cfg(test)]
mod tests;
