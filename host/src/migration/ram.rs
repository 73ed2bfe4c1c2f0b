//! B, C and N: what the migration thread still has to send.
//!
//! QEMU: migration/ram.c RAMState, RAMBlock.bmap and .clear_bmap. All RAM is one block.

use crate::dirty::accel::Accelerator;
use crate::dirty::bitmap::{DirtyBitmap, WORD_PAGES};
use crate::dirty::physmem::DirtyMemory;
use crate::event::{CmdId, Event, PageRange, Pfn};
use crate::fault::Fault;
use crate::step::Ctx;

/// Smallest chunk shift (QEMU: include/system/ramblock.h CLEAR_BITMAP_SHIFT_MIN).
pub const CHUNK_SHIFT_MIN: u8 = 6;
/// Largest chunk shift (QEMU: CLEAR_BITMAP_SHIFT_MAX).
pub const CHUNK_SHIFT_MAX: u8 = 31;

/// The bitmaps of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RamState {
    b: DirtyBitmap,
    /// Number of bits of B, kept beside it as QEMU does.
    n: u64,
    /// One bit per chunk: K of this chunk has not been cleared since the last sync.
    c: DirtyBitmap,
    chunk_shift: u8,
    /// Where the scan goes on, across slices and syncs.
    cursor: Pfn,
    syncs: u32,
    /// Pages that the syncs since the start found newly dirty.
    dirtied: u64,
}

impl RamState {
    /// Returns bitmaps with everything to send (QEMU: ram_list_init_bitmaps()).
    /// [`Fault::RetryFromD`]: a copy of D if a migration was tried before. [`Fault::BitmapOffByOne`]: page 0 is left out.
    ///
    /// # Panics
    /// When the chunk shift is out of range.
    pub fn new(chunk_shift: u8, tried_before: bool, d: &DirtyMemory, ctx: &Ctx<'_>) -> Self {
        assert!((CHUNK_SHIFT_MIN..=CHUNK_SHIFT_MAX).contains(&chunk_shift), "chunk shift {chunk_shift}");
        let pages = d.bits().pages();
        let mut b = DirtyBitmap::full(pages);
        if ctx.faults.on(Fault::RetryFromD) && tried_before {
            b.copy_from(d.bits());
        }
        if ctx.faults.on(Fault::BitmapOffByOne) {
            b.clear(Pfn(0));
        }
        let n = b.count();
        Self { b, n, c: DirtyBitmap::new(pages.div_ceil(1 << chunk_shift)), chunk_shift, cursor: Pfn(0), syncs: 0, dirtied: 0 }
    }

    /// Returns B.
    pub fn b(&self) -> &DirtyBitmap {
        &self.b
    }

    /// Returns whether the page's chunk is set in C.
    pub fn c(&self, pfn: Pfn) -> bool {
        self.c.test(self.chunk_of(pfn))
    }

    /// Returns N, pages.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Returns how many bits B has: what N must equal.
    pub fn popcount(&self) -> u64 {
        self.b.count()
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

    /// Returns the pages of the chunk that holds a page.
    pub fn chunk(&self, pfn: Pfn) -> PageRange {
        let first = self.chunk_of(pfn).0 << self.chunk_shift;
        self.b.clip(PageRange::new(Pfn(first), 1 << self.chunk_shift))
    }

    /// Returns whether RAM is a whole number of words: only then D is merged by words and C is used (QEMU: the fast path of
    /// physical_memory_sync_dirty_bitmap()).
    pub fn aligned(&self) -> bool {
        self.b.pages().is_multiple_of(WORD_PAGES)
    }

    /// Moves D into B and sets C (QEMU: migration_bitmap_sync(), its part under `bitmap_mutex`). RAM that is no whole number of words
    /// gets one CLEAR of all of it at once instead of C.
    pub fn sync(&mut self, d: &mut DirtyMemory, accel: &mut Accelerator, ctx: &mut Ctx<'_>) {
        let before = self.n;
        let new = d.exchange_into(&mut self.b, |at, bits| accel.d_cleaned(at, bits));
        self.n += new;
        self.dirtied += new;
        self.syncs += 1;
        ctx.emit(Event::BitmapSync { round: self.syncs, before, after: self.n });
        if self.aligned() {
            self.c.fill();
        } else if accel.has_clear() {
            accel.clear(PageRange::new(Pfn(0), self.b.pages()), ctx);
        }
    }

    /// Returns the next page to send, from the cursor on and around (QEMU: find_dirty_block()).
    pub fn next_dirty(&self) -> Option<Pfn> {
        self.b.next_set(self.cursor).or_else(|| self.b.next_set(Pfn(0)))
    }

    /// Takes the page's chunk out of C, and returns whether it was there: a CLEAR of it must then precede the page's read.
    pub fn take_chunk(&mut self, pfn: Pfn) -> bool {
        let chunk = self.chunk_of(pfn);
        self.c.clear(chunk)
    }

    /// Takes a page out of B to be sent (QEMU: migration_bitmap_clear_dirty()).
    ///
    /// # Panics
    /// When it is not in B.
    pub fn take(&mut self, pfn: Pfn) {
        let was = self.b.clear(pfn);
        assert!(was, "page {pfn} is sent though not in B");
        self.n -= 1;
        self.cursor = pfn;
    }

    /// Clears a hinted range from B, and its chunks from K where C asks for it (QEMU: qemu_guest_free_page_hint()). Returns how many bits
    /// of B were set.
    /// [`Fault::HintKeepsK`]: K and C stay as they are. [`Fault::HintOnePageMore`]: the page behind the range is treated as hinted, too.
    pub fn free_page_hint(&mut self, range: PageRange, id: CmdId, accel: &mut Accelerator, ctx: &mut Ctx<'_>) -> u64 {
        let extra = u64::from(ctx.faults.on(Fault::HintOnePageMore));
        let hit = self.b.clip(PageRange::new(range.first, range.count + extra));
        let cleared = self.b.clear_range(hit);
        self.n -= cleared;
        ctx.emit(Event::HintApply { range, id, cleared });
        if !ctx.faults.on(Fault::HintKeepsK) {
            let mut at = hit.first;
            while at < hit.end() {
                let chunk = self.chunk(at);
                if self.take_chunk(at) && accel.has_clear() {
                    accel.clear(chunk, ctx);
                }
                at = chunk.end();
            }
        }
        cleared
    }

    fn chunk_of(&self, pfn: Pfn) -> Pfn {
        Pfn(pfn.0 >> self.chunk_shift)
    }
}
