//! B, C and N: what the migration thread still has to send.
//!
//! QEMU: migration/ram.c RAMState. B and C are the blocks' own (`blocks`), N counts over all, and so does the cursor go (`scan`). Everybody else speaks
//! of guest-physical pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::Block;
use super::scan::Cursor;
use crate::dirty::accel::Accelerator;
use crate::dirty::bitmap::{DirtyBitmap, WORD_PAGES};
use crate::dirty::physmem::DirtyMemory;
use crate::dirty::ram_list::RamList;
use crate::event::{Actor, CmdId, Event, PageRange, Pfn};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::step::Ctx;

/// Smallest chunk shift (QEMU: include/system/ramblock.h CLEAR_BITMAP_SHIFT_MIN).
pub const CHUNK_SHIFT_MIN: u8 = 6;
/// Largest chunk shift (QEMU: CLEAR_BITMAP_SHIFT_MAX).
pub const CHUNK_SHIFT_MAX: u8 = 31;

/// The bitmaps of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamState {
    list: Arc<RamList>,
    /// B and C of each block.
    blocks: Vec<Block>,
    /// Pages at the end of guest memory that were not there when the migration began: it does not know of them.
    unknown: PageRange,
    /// Number of bits of B, kept beside it as QEMU does.
    n: u64,
    chunk_shift: u8,
    cursor: Cursor,
    syncs: u32,
    /// Pages that the syncs since the start found newly dirty.
    dirtied: u64,
    /// Of those the last sync's.
    dirtied_last: u64,
    /// The migration thread takes a page in two moves (a fault).
    takes_in_two: bool,
    /// Words of B that somebody has loaded and will store back (a fault).
    loaded: BTreeMap<Actor, Loaded>,
}

/// Words of B between a load and a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Loaded {
    range: PageRange,
    /// Block, index of the word there, what it was.
    words: Vec<(usize, usize, u64)>,
}

impl RamState {
    /// Returns bitmaps with everything to send (QEMU: ram_list_init_bitmaps()).
    /// [`Fault::RetryFromD`] and [`Fault::DirtyNotRestored`]: a copy of D if a migration was tried before. [`Fault::BitmapOffByOne`]: page 0 of each block is left out.
    ///
    /// # Panics
    /// When the chunk shift is out of range.
    pub fn new(chunk_shift: u8, tried_before: bool, d: &DirtyMemory, ctx: &Ctx<'_>) -> Self {
        assert!((CHUNK_SHIFT_MIN..=CHUNK_SHIFT_MAX).contains(&chunk_shift), "chunk shift {chunk_shift}");
        let list = Arc::clone(d.ram());
        let mut blocks: Vec<Block> = list.places().iter().map(|place| Block::new(place, chunk_shift)).collect();
        for block in &mut blocks {
            let Block { place, b: Some(b), .. } = block else { continue };
            if tried_before && (ctx.faults.on(Fault::RetryFromD) || ctx.faults.on(Fault::DirtyNotRestored)) {
                b.reset();
                (0..place.pages).filter(|page| d.test(place.pfn(Pfn(*page)))).for_each(|page| {
                    b.set(Pfn(page));
                });
            }
            if ctx.faults.on(Fault::BitmapOffByOne) {
                b.clear(Pfn(0));
            }
        }
        let unknown = PageRange::new(Pfn(d.present()), list.pages() - d.present());
        for (index, part) in list.parts(unknown) {
            blocks[index].b.as_mut().map(|b| b.clear_range(part));
        }
        let n = blocks.iter().map(Block::count).sum();
        Self {
            list,
            blocks,
            unknown,
            n,
            chunk_shift,
            cursor: Cursor::start(),
            syncs: 0,
            dirtied: 0,
            dirtied_last: 0,
            takes_in_two: ctx.faults.on(Fault::SliceWithoutMutex),
            loaded: BTreeMap::new(),
        }
    }

    /// Leaves out what nobody ever populated.
    pub(crate) fn leave_out_holes(&mut self, ram: &GuestRam) {
        let holes: Vec<Pfn> = self.b().ones().filter(|pfn| ram.is_zero(*pfn)).collect();
        for pfn in holes {
            let (_, block, page) = self.locate_mut(pfn);
            block.b.as_mut().map(|b| b.clear(page));
        }
        self.n = self.popcount();
    }

    /// Adds its state to a hash. Of the syncs it matters only how many are missing: behind `counted` their number is only reported.
    pub(crate) fn fold(&mut self, counted: u32, fold: &mut Fold) {
        let Self { list: _, blocks, unknown: _, n, chunk_shift: _, cursor, syncs, dirtied: _, dirtied_last: _, takes_in_two: _, loaded } =
            self;
        for (index, block) in (0..).zip(blocks) {
            let Block { place: _, b, c, behind } = block;
            let of_block = |tag: Tag| tag as u64 + (index << 32);
            if let Some(b) = b {
                fold.sum_of(of_block(Tag::B), b.fold());
            }
            fold.sum_of(of_block(Tag::C), c.fold());
            if *behind != 0 {
                fold.word(of_block(Tag::B), u64::MAX, *behind);
            }
        }
        if !loaded.is_empty() {
            fold.add_part(Tag::Loaded, loaded);
        }
        fold.add(Tag::N, *n);
        fold.word(Tag::Cursor as u64, cursor.at as u64, cursor.page.0);
        fold.add(Tag::Syncs, u64::from((*syncs).min(counted)));
    }

    /// Returns B as one bitmap of the guest's pages.
    pub fn b(&self) -> DirtyBitmap {
        if let ([Block { b: Some(b), .. }], true) = (self.blocks.as_slice(), self.list.is_flat()) {
            return b.clone();
        }
        let mut all = DirtyBitmap::new(self.list.pages());
        (0..all.words()).for_each(|at| all.set_word(at as usize, self.b_word(at as usize)));
        all
    }

    /// Returns B's bits of 64 of the guest's pages, those from 64 times `at` on.
    pub fn b_word(&self, at: usize) -> u64 {
        match self.blocks.as_slice() {
            [Block { b: Some(b), .. }] => b.word(at),
            _ => self.list.guest_word(at as u64, |index| self.blocks[index].b.as_ref().map(|b| (b, 0))),
        }
    }

    /// Returns whether the page is in B.
    pub fn is_dirty(&self, pfn: Pfn) -> bool {
        let (block, page) = self.locate(pfn);
        block.b.as_ref().is_some_and(|b| b.test(page))
    }

    /// Returns whether the page's chunk is set in C.
    pub fn c(&self, pfn: Pfn) -> bool {
        let (block, page) = self.locate(pfn);
        block.c.test(Block::chunk_of(page, self.chunk_shift))
    }

    /// Returns N, pages.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Returns how many bits B has: what N must equal.
    pub fn popcount(&self) -> u64 {
        self.blocks.iter().map(Block::count).sum()
    }

    /// Returns whether N is the number of bits of B.
    pub fn n_equals_popcount(&self) -> bool {
        self.n == self.popcount()
    }

    /// Returns how many syncs there were.
    pub fn syncs(&self) -> u32 {
        self.syncs
    }

    /// Returns how many pages the syncs found newly dirty.
    pub fn dirtied(&self) -> u64 {
        self.dirtied
    }

    /// Returns how many pages the last sync found newly dirty.
    pub fn dirtied_last(&self) -> u64 {
        self.dirtied_last
    }

    /// Returns the pages of the chunk that holds a page.
    pub fn chunk(&self, pfn: Pfn) -> PageRange {
        let (block, page) = self.locate(pfn);
        block.chunk(page, self.chunk_shift)
    }

    /// Moves D into B and sets C (QEMU: migration_bitmap_sync(), its part under `bitmap_mutex`). A block that is no whole number of words
    /// of D gets one CLEAR of all of it at once instead of C. [`Fault::ClearEmptyRange`]: of none of it. [`Fault::PeriodCountsAll`]: the dirty
    /// rate counts all that D had.
    pub fn sync(&mut self, d: &mut DirtyMemory, accel: &mut Accelerator, ctx: &mut Ctx<'_>) {
        let before = self.n;
        let list = Arc::clone(&self.list);
        let found = d.bits().count();
        let new: u64 = match self.blocks.as_mut_slice() {
            [Block { b: Some(b), .. }] if list.is_flat() && accel.is_exact() => {
                accel.d_cleaned_all(d.bits());
                d.exchange_into(b)
            }
            blocks => {
                let mut sum = 0;
                for block in blocks {
                    let mut cleaned = Vec::new();
                    let new = block.sync(d, ctx.faults, |first, bits| {
                        list.guest_words(first, bits, |at, bits| cleaned.push((at, bits)));
                    });
                    let rearmed = accel.rearms(block.place.offset, new, ctx.faults);
                    cleaned.into_iter().for_each(|(at, bits)| accel.d_cleaned(at, bits, rearmed));
                    sum += new;
                }
                sum
            }
        };
        let found = found - d.bits().count();
        let new = new - self.leave_unknown_out();
        self.n = self.n.wrapping_add(new);
        self.dirtied_last = if found != new && ctx.faults.on(Fault::PeriodCountsAll) { found } else { new };
        self.dirtied += self.dirtied_last;
        self.syncs += 1;
        ctx.emit(Event::BitmapSync { round: self.syncs, before, after: self.n });
        for block in self.blocks.iter_mut().filter(|block| block.b.is_some()) {
            if block.place.aligned() {
                block.c.fill();
            } else if accel.has_clear() {
                let range = block.place.range();
                let count = if ctx.faults.on(Fault::ClearEmptyRange) { 0 } else { range.count };
                accel.clear(PageRange::new(range.first, count), ctx);
            }
        }
    }

    /// Takes what the migration does not know of out of B, and returns how much of it was there.
    fn leave_unknown_out(&mut self) -> u64 {
        let list = Arc::clone(&self.list);
        list.parts(self.unknown).map(|(index, part)| self.blocks[index].b.as_mut().map_or(0, |b| b.clear_range(part))).sum()
    }

    /// Returns the next page to send, from the cursor on and around (QEMU: find_dirty_block()).
    pub fn next_dirty(&self) -> Option<Pfn> {
        let found = self.cursor.next_dirty(self.list.order(), &self.blocks)?;
        Some(self.blocks[self.list.order()[found.at]].place.pfn(found.page))
    }

    /// Returns a page's block and its number there.
    pub(crate) fn place_of(&self, pfn: Pfn) -> (usize, u64) {
        let block = self.list.block_of(pfn);
        (block, pfn.0 - self.list.places()[block].first.0)
    }

    /// Returns the guest's page of a block's page, if the block is so long.
    pub(crate) fn page_of(&self, block: usize, page: u64) -> Option<Pfn> {
        let place = &self.list.places()[block];
        (page < place.pages).then(|| place.pfn(Pfn(page)))
    }

    /// Returns where the scan comes by a page: by block in the order of their list, then by page.
    pub(crate) fn scan_place(&self, pfn: Pfn) -> (usize, u64) {
        let block = self.list.block_of(pfn);
        let at = self.list.order().iter().position(|other| *other == block).expect("each block is in the order");
        (at, pfn.0)
    }

    /// Takes the page's chunk out of C, and returns whether it was there: a CLEAR of it must then precede the page's read.
    pub fn take_chunk(&mut self, pfn: Pfn) -> bool {
        let chunk_shift = self.chunk_shift;
        let (_, block, page) = self.locate_mut(pfn);
        block.c.clear(Block::chunk_of(page, chunk_shift))
    }

    /// Loads the words of B that a range lies in: whoever does so stores them back with its next change there.
    pub(crate) fn load(&mut self, by: Actor, range: PageRange) {
        let mut words = Vec::new();
        for (index, part) in self.list.parts(range) {
            let Some(b) = &self.blocks[index].b else { continue };
            let of_part = (part.first.0 / WORD_PAGES) as usize..part.end().0.div_ceil(WORD_PAGES) as usize;
            words.extend(of_part.map(|at| (index, at, b.word(at))));
        }
        self.loaded.insert(by, Loaded { range, words });
    }

    /// Returns whether the migration thread loads a page's word first, and takes the page with another move.
    pub(crate) fn takes_in_two(&self) -> bool {
        self.takes_in_two
    }

    /// Returns the page that the migration thread is about to take from the word that it has loaded.
    pub(crate) fn loaded(&self) -> Option<Pfn> {
        self.loaded.get(&Actor::Migration).map(|loaded| loaded.range.first)
    }

    /// Whoever loaded words does not store them.
    pub(crate) fn forget_loaded(&mut self, by: Actor) {
        self.loaded.remove(&by);
    }

    /// Stores words back as they were loaded.
    fn restore(&mut self, loaded: Loaded) {
        for (index, at, word) in loaded.words {
            if let Some(b) = &mut self.blocks[index].b {
                b.store_word(at, word);
            }
        }
    }

    /// Takes a page out of B to be sent (QEMU: migration_bitmap_clear_dirty()).
    ///
    /// # Panics
    /// When it is not in B.
    pub fn take(&mut self, pfn: Pfn) {
        if let Some(loaded) = self.loaded.remove(&Actor::Migration) {
            assert_eq!(loaded.range, PageRange::page(pfn), "another page's word was loaded");
            self.restore(loaded);
        }
        let (index, block, page) = self.locate_mut(pfn);
        let was = block.b.as_mut().is_some_and(|b| b.clear(page));
        assert!(was, "page {pfn} is sent though not in B");
        // Without the mutex it may have been counted out before.
        self.n = self.n.wrapping_sub(1);
        let at = self.list.order().iter().position(|listed| *listed == index).expect("every block is listed");
        self.cursor = Cursor { at, page };
    }

    /// Puts in B what a destination that has these pages has not (QEMU: ram_dirty_bitmap_reload()).
    pub(crate) fn reload(&mut self, received: &[PageRange]) {
        for b in self.blocks.iter_mut().filter_map(|block| block.b.as_mut()) {
            b.fill();
        }
        let list = Arc::clone(&self.list);
        for (index, part) in received.iter().flat_map(|range| list.parts(*range)) {
            self.blocks[index].b.as_mut().map(|b| b.clear_range(part));
        }
        self.n = self.popcount();
    }

    /// Puts all of a page of the host's in B where some of it is: the destination can place nothing smaller (QEMU: postcopy_chunk_hostpages()).
    pub(crate) fn round_to_host_pages(&mut self, count: u64) {
        let before = self.popcount();
        let list = Arc::clone(&self.list);
        let whole = |range: &PageRange| {
            let first = range.first.0 - range.first.0 % count;
            list.clip(PageRange::new(Pfn(first), range.end().0.next_multiple_of(count) - first))
        };
        let ranges = self.b().ranges();
        for (index, part) in ranges.iter().map(whole).flat_map(|range| list.parts(range)) {
            if let Some(b) = &mut self.blocks[index].b {
                b.set_range(part);
            }
        }
        self.leave_unknown_out();
        self.n = self.n.wrapping_add(self.popcount() - before);
    }

    /// Clears a hinted range from B, and its chunks from K where C asks for it (QEMU: qemu_guest_free_page_hint()). Returns how many bits
    /// of B were set.
    /// [`Fault::HintKeepsK`]: K and C stay as they are. [`Fault::HintOnePageMore`]: the page behind the range is treated as hinted, too.
    /// [`Fault::HintWithoutMutex`]: what was loaded before is taken for what B is.
    pub fn free_page_hint(&mut self, range: PageRange, id: CmdId, accel: &mut Accelerator, ctx: &mut Ctx<'_>) -> u64 {
        let extra = u64::from(ctx.faults.on(Fault::HintOnePageMore));
        let hit = self.list.clip(PageRange::new(range.first, range.count + extra));
        let loaded = self.loaded.remove(&ctx.actor);
        let stores = loaded.is_some();
        if let Some(loaded) = loaded {
            self.restore(loaded);
        }
        let list = Arc::clone(&self.list);
        if let Some((index, _)) = list.parts(hit).find(|(index, _)| self.blocks[*index].b.is_none()) {
            // QEMU, to this day: nobody asks whether the block takes part, and its bitmap is not there.
            let name = &self.blocks[index].place.name;
            ctx.crash(format!("qemu_guest_free_page_hint(): block {name} is ignored by the migration and has no bitmap"));
            return 0;
        }
        let cleared = list.parts(hit).map(|(index, part)| self.blocks[index].b.as_mut().map_or(0, |b| b.clear_range(part))).sum();
        self.n = self.n.wrapping_sub(cleared);
        ctx.emit(Event::HintApply { range, id, cleared });
        if stores {
            ctx.emit(Event::BitmapStore { range });
        }
        if !ctx.faults.on(Fault::HintKeepsK) {
            self.clear_chunks(hit, accel, ctx);
        }
        cleared
    }

    /// Takes ranges that are not plugged out of B, and clears their chunks in K where C asks for it and somebody keeps K (QEMU:
    /// ramblock_dirty_bitmap_clear_discarded_pages()).
    pub(crate) fn exclude(&mut self, ranges: &[PageRange], mut accel: Option<&mut Accelerator>, ctx: &mut Ctx<'_>) {
        let list = Arc::clone(&self.list);
        let parts = ranges.iter().flat_map(|range| list.parts(*range));
        let pages = parts.map(|(index, part)| self.blocks[index].b.as_mut().map_or(0, |b| b.clear_range(part))).sum();
        self.n = self.n.wrapping_sub(pages);
        ctx.emit(Event::BitmapExclude { pages });
        for range in ranges {
            if let Some(accel) = &mut accel {
                self.clear_chunks(*range, accel, ctx);
            }
        }
    }

    /// Clears the chunks of a range in K where C asks for it.
    fn clear_chunks(&mut self, range: PageRange, accel: &mut Accelerator, ctx: &mut Ctx<'_>) {
        let mut at = range.first;
        while at < range.end() {
            let chunk = self.chunk(at);
            if self.take_chunk(at) && accel.has_clear() {
                accel.clear(chunk, ctx);
            }
            at = chunk.end();
        }
    }

    fn locate(&self, pfn: Pfn) -> (&Block, Pfn) {
        let block = &self.blocks[self.list.block_of(pfn)];
        (block, Pfn(pfn.0 - block.place.first.0))
    }

    fn locate_mut(&mut self, pfn: Pfn) -> (usize, &mut Block, Pfn) {
        let index = self.list.block_of(pfn);
        let block = &mut self.blocks[index];
        let page = Pfn(pfn.0 - block.place.first.0);
        (index, block, page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::accel::{LogMode, Store};
    use crate::dirty::testing::Desk;
    use crate::event::EventKind;
    use crate::fault::Faults;

    const ID: CmdId = CmdId(0x8000_0001);

    struct Stack {
        desk: Desk,
        accel: Accelerator,
        d: DirtyMemory,
        ram: RamState,
    }

    impl Stack {
        /// Everything up to and including the first sync.
        fn new(mode: LogMode, pages: u64, shift: u8, faults: &[Fault]) -> Self {
            let mut desk = Desk::new(faults);
            let mut accel = Accelerator::new(mode, pages);
            let mut d = DirtyMemory::new(pages);
            let ram = RamState::new(shift, false, &d, &desk.ctx());
            d.set_tracking(true);
            accel.log_start(&mut desk.ctx());
            let mut stack = Self { desk, accel, d, ram };
            stack.sync();
            stack
        }

        fn sync(&mut self) {
            if self.accel.has_get(&Faults::default()) {
                self.accel.get(&mut self.desk.ctx());
                self.accel.merge(&mut self.d, &mut self.desk.ctx());
            }
            self.ram.sync(&mut self.d, &mut self.accel, &mut self.desk.ctx());
            assert!(self.ram.n_equals_popcount());
        }

        fn send_all(&mut self) {
            while let Some(pfn) = self.ram.next_dirty() {
                if self.ram.take_chunk(pfn) && self.accel.has_clear() {
                    self.accel.clear(self.ram.chunk(pfn), &mut self.desk.ctx());
                }
                self.ram.take(pfn);
            }
            assert_eq!(self.ram.n(), 0);
        }

        fn hint(&mut self, first: u64, count: u64) -> u64 {
            let cleared = self.ram.free_page_hint(PageRange::new(Pfn(first), count), ID, &mut self.accel, &mut self.desk.ctx());
            assert!(self.ram.n_equals_popcount());
            cleared
        }

        fn write(&mut self, pfn: u64) {
            self.accel.guest_store(Store::plain(0, Pfn(pfn)), &mut self.d, &Faults::default());
        }
    }

    const MODES: [LogMode; 4] =
        [LogMode::ManualClear { initially_set: true }, LogMode::ManualClear { initially_set: false }, LogMode::GetClears, LogMode::Tcg];

    /// The measured matrix of late hints: whether a write behind the last sync is in B after the next one.
    fn survives(mode: LogMode, write_first: bool, chunk_cleared: bool) -> bool {
        let mut stack = Stack::new(mode, 256, 6, &[]);
        if chunk_cleared {
            stack.send_all();
        }
        if write_first {
            stack.write(70);
            stack.hint(70, 1);
        } else {
            stack.hint(70, 1);
            stack.write(70);
        }
        stack.sync();
        stack.ram.is_dirty(Pfn(70))
    }

    #[test]
    fn a_late_hint_loses_a_write_only_in_an_uncleared_chunk_that_the_log_has_as_dirty() {
        for mode in MODES {
            for chunk_cleared in [false, true] {
                assert!(survives(mode, false, chunk_cleared), "{mode:?}: hint, then write");
            }
            assert!(survives(mode, true, true), "{mode:?}: write, then hint, cleared chunk");
            let kept = mode != LogMode::ManualClear { initially_set: true };
            assert_eq!(survives(mode, true, false), kept, "{mode:?}: write, then hint, chunk not cleared");
        }
    }

    #[test]
    fn without_initially_set_a_write_on_both_sides_of_the_sync_is_lost_to_a_late_hint() {
        let mut stack = Stack::new(LogMode::ManualClear { initially_set: false }, 256, 6, &[]);
        stack.write(70);
        stack.sync();
        stack.write(70);
        stack.hint(70, 1);
        stack.sync();
        assert!(!stack.ram.is_dirty(Pfn(70)));
    }

    /// A row that the measured matrix has not: the chunk is cleared behind the write and before the hint, by a neighbour's sending.
    #[test]
    fn a_neighbours_clear_between_write_and_hint_takes_the_write_along() {
        for mode in MODES {
            let mut stack = Stack::new(mode, 256, 6, &[]);
            stack.write(70);
            if stack.ram.take_chunk(Pfn(64)) && stack.accel.has_clear() {
                stack.accel.clear(stack.ram.chunk(Pfn(64)), &mut stack.desk.ctx());
            }
            stack.ram.take(Pfn(64));
            stack.hint(70, 1);
            stack.sync();
            assert_eq!(stack.ram.is_dirty(Pfn(70)), mode != MODES[0], "{mode:?}");
        }
    }

    #[test]
    fn a_hint_clears_whole_chunks_once() {
        let mut stack = Stack::new(MODES[0], 512, 7, &[]);
        stack.desk.take_events();
        assert_eq!(stack.hint(100, 100), 100);
        assert_eq!(
            stack.desk.take_events(),
            [
                Event::HintApply { range: PageRange::new(Pfn(100), 100), id: ID, cleared: 100 },
                Event::DirtyClear { range: PageRange::new(Pfn(0), 128), cleared: 128 },
                Event::DirtyClear { range: PageRange::new(Pfn(128), 128), cleared: 128 },
            ]
        );
        assert_eq!(stack.hint(150, 100), 50);
        assert_eq!(stack.desk.take_events().len(), 1, "C was clear");
        assert_eq!(stack.ram.n(), 512 - 150);
    }

    #[test]
    fn what_is_not_plugged_leaves_b_and_its_chunks_leave_k_where_that_is_kept() {
        for keeps_k in [true, false] {
            let mut stack = Stack::new(MODES[0], 512, 6, &[]);
            stack.desk.take_events();
            let accel = keeps_k.then_some(&mut stack.accel);
            stack.ram.exclude(&[PageRange::new(Pfn(64), 64), PageRange::new(Pfn(256), 256)], accel, &mut stack.desk.ctx());
            assert!(stack.ram.n_equals_popcount() && stack.ram.n() == 512 - 320);
            let events = stack.desk.take_events();
            assert_eq!(events[0], Event::BitmapExclude { pages: 320 });
            assert_eq!(events.len(), if keeps_k { 1 + 5 } else { 1 });
            stack.send_all();
            stack.sync();
            assert_eq!(stack.ram.is_dirty(Pfn(70)), !keeps_k, "what K still has comes back");
            assert!(!stack.ram.is_dirty(Pfn(10)));
        }
    }

    #[test]
    fn a_hint_behind_the_end_of_ram_is_cut() {
        let mut stack = Stack::new(MODES[0], 128, 6, &[]);
        assert_eq!(stack.hint(120, 100), 8);
        assert_eq!(stack.hint(500, 100), 0);
        assert_eq!(stack.hint(u64::MAX >> 12, 3), 0);
    }

    #[test]
    fn hint_keeps_k_brings_the_page_back_at_the_next_sync() {
        for (faults, back) in [(&[][..], false), (&[Fault::HintKeepsK][..], true)] {
            let mut stack = Stack::new(MODES[0], 256, 6, faults);
            stack.hint(64, 64);
            stack.send_all();
            stack.sync();
            assert_eq!(stack.ram.is_dirty(Pfn(70)), back);
        }
    }

    #[test]
    fn one_page_more_takes_the_neighbour() {
        let mut stack = Stack::new(MODES[0], 256, 6, &[Fault::HintOnePageMore]);
        assert_eq!(stack.hint(10, 10), 11);
        assert!(!stack.ram.is_dirty(Pfn(20)) && stack.ram.is_dirty(Pfn(21)));
    }

    #[test]
    fn unaligned_ram_is_cleared_whole_at_the_sync_and_never_has_c() {
        let mut stack = Stack::new(MODES[0], 100, 6, &[]);
        let kinds: Vec<_> = stack.desk.take_events().iter().map(Event::kind).collect();
        assert_eq!(kinds[kinds.len() - 2..], [EventKind::BitmapSync, EventKind::DirtyClear]);
        assert!(!stack.ram.c(Pfn(0)) && !stack.ram.c(Pfn(99)));
        assert!(stack.accel.wp(Pfn(99)));
        stack.write(70);
        stack.hint(70, 1);
        stack.sync();
        assert!(stack.ram.is_dirty(Pfn(70)));
    }

    #[test]
    fn initial_bitmap_faults_leave_out_what_they_say() {
        let mut desk = Desk::new(&[Fault::BitmapOffByOne]);
        let d = DirtyMemory::new(128);
        let ram = RamState::new(6, false, &d, &desk.ctx());
        assert!(!ram.is_dirty(Pfn(0)) && ram.n() == 127 && ram.n_equals_popcount());
        let mut clean = d;
        clean.exchange_into(&mut DirtyBitmap::new(128));
        desk = Desk::new(&[Fault::RetryFromD]);
        assert_eq!(RamState::new(6, false, &clean, &desk.ctx()).n(), 128);
        assert_eq!(RamState::new(6, true, &clean, &desk.ctx()).n(), 0);
        desk = Desk::new(&[]);
        assert_eq!(RamState::new(6, true, &clean, &desk.ctx()).n(), 128);
    }

    #[test]
    fn the_scan_goes_on_behind_its_last_page_and_around() {
        let mut stack = Stack::new(MODES[3], 128, 6, &[]);
        stack.send_all();
        stack.write(100);
        stack.write(3);
        stack.sync();
        stack.ram.cursor.page = Pfn(50);
        assert_eq!(stack.ram.next_dirty(), Some(Pfn(100)));
        stack.ram.take(Pfn(100));
        assert_eq!(stack.ram.next_dirty(), Some(Pfn(3)));
    }
}
