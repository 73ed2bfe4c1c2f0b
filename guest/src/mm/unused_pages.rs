//! Records of free blocks, as two series wanted them for migrations and neither got them: `mark_unused_pages()` (L. Li, "[PATCH v6 kernel 5/5]
//! virtio-balloon: tell host vm's unused page info", December 2016) and `record_unused_pages()` (W. Wang, "[PATCH kernel v8 3/4] mm: add inerface to
//! offer info about unused pages", March 2017).
//!
//! Both walk the free lists of one order under the zone's lock, interrupts off, and write what they find into an array of 64-bit words. The blocks
//! stay free: what is recorded is the past as soon as the lock is released, and whoever listens must have its own record of writes.
//! Each block says HINT when it is recorded. Blocks on per-CPU lists are not seen.
//!
//! Flaws as posted: the precheck of v8 counts blocks where a block takes two words (S1); a list that is cut off when the caller takes parts
//! goes on nowhere (S4, with the caller's share in it); interrupts are off for as long as a list is long (S10).

use wire::balloon::request::PACKED_LEN_BITS;
use wire::debug::HINT;
use wire::layout::{MAX_PAGE_ORDER, NR_PAGE_ORDERS};
use wire::switch::correct;

use crate::arch;
use crate::kernel::list;
use crate::kernel::switch::corrected;
use crate::mm::gfp::Migratetype;
use crate::mm::page::{Page, Pfn};
use crate::mm::zone::{Zone, pageblock_type};
use crate::virtio::Errno;

/// Blocks between two releases of the zone's lock, once its hold time is bounded.
const BLOCKS_PER_HOLD: u64 = 64;
/// Low bits of a chunk's words that say nothing (v8).
const CHUNK_SHIFT: u32 = PACKED_LEN_BITS;

/// Where a record starts, and where the next call goes on. The series pass a `struct zone **`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StartZone {
    /// The zone's number; any, for a pointer to no zone is one of the arguments that are refused. `None`: the first.
    pub zone: Option<u64>,
    /// Blocks of that zone's lists that are recorded already. As posted nobody keeps that count, and it stays 0.
    pub skip: u64,
}

/// An array of 64-bit words, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// Address of the first; 0 is none.
    pub pages: u64,
    /// How many there are.
    pub size: u64,
    /// How many are written.
    pub pos: u64,
}

impl Words {
    /// Appends a block's words, if there is room for all of them.
    fn put<const N: usize>(&mut self, block: Pfn, order: u32, words: [u64; N]) -> Result<(), Errno> {
        if self.pos + N as u64 > self.size {
            return Err(Errno::NoSpc);
        }
        arch::trace(HINT, block.0, u64::from(order));
        for word in words {
            arch::write64(self.pages + self.pos * 8, word);
            self.pos += 1;
        }
        Ok(())
    }
}

/// The zone's lock over a walk of one order's lists.
struct Walk {
    zone: Zone,
    order: u32,
    flags: u64,
}

impl Walk {
    fn begin(zone: Zone, order: u32) -> Self {
        Walk { zone, order, flags: zone.lock().lock_irqsave() }
    }

    fn end(self) {
        self.zone.lock().unlock_irqrestore(self.flags);
    }

    /// Calls `record` for each block behind the first `skip`, type by type, first to last, until it fails; counts in `skip` what it has
    /// recorded.
    fn blocks(&mut self, skip: &mut u64, mut record: impl FnMut(Pfn) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut passed = 0;
        for migratetype in Migratetype::ALL {
            self.list(migratetype, |pfn| {
                passed += 1;
                if passed > *skip {
                    record(pfn)?;
                    *skip += 1;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// One type's list. Where the lock's hold time is bounded, it is let go in between, and the list turned so that it goes on where it stood: blocks
    /// that are gone by then are not told, and of those that came some may be told twice or missed. By the correction of S10.
    fn list(&mut self, migratetype: Migratetype, mut each: impl FnMut(Pfn) -> Result<(), Errno>) -> Result<(), Errno> {
        let head = self.zone.free_list(self.order, migratetype);
        let first = list::next(head);
        let (mut at, mut seen, mut turned) = (first, 0, false);
        // The first block ends a list that was turned, unless somebody has taken it; then this does.
        let most = self.zone.nr_free(self.order);
        let mut result = Ok(());
        while at != head && seen < most && !(turned && at == first) && result.is_ok() {
            result = each(Page::of_lru(at).pfn());
            at = list::next(at);
            seen += 1;
            if seen % BLOCKS_PER_HOLD == 0 && at != head && corrected(correct::IRQ_OFF_BOUND) {
                list::list_rotate_to_front(at, head);
                self.zone.lock().unlock_irqrestore(self.flags);
                self.flags = self.zone.lock().lock_irqsave();
                (at, turned) = (list::next(head), true);
            }
        }
        if turned && self.is_on_list(Page::of_lru(first), migratetype) {
            list::list_rotate_to_front(first, head);
        }
        result
    }

    /// Whether a block that was on the list still is.
    fn is_on_list(&self, page: Page, migratetype: Migratetype) -> bool {
        page.is_buddy() && page.buddy_order() == self.order && pageblock_type(page.pfn()) == migratetype
    }
}

/// One zone's part, v6. All or nothing, unless the caller takes parts. Linux: posted, __mark_unused_pages().
fn __mark_unused_pages(zone: Zone, order: u32, words: &mut Words, len_bits: u8, part_fill: bool, skip: &mut u64) -> Result<(), Errno> {
    let mut walk = Walk::begin(zone, order);
    let result = if words.pos + zone.nr_free(order) > words.size && !part_fill {
        Err(Errno::NoSpc)
    } else {
        walk.blocks(skip, |pfn| {
            // The series shifts by 64 where it is asked to, and the processor then by nothing.
            let base = pfn.0.wrapping_shl(u32::from(len_bits));
            if order < u32::from(len_bits) { words.put(pfn, order, [base | 1 << order]) } else { words.put(pfn, order, [base, 1 << order]) }
        })
    };
    walk.end();
    result
}

/// One zone's part, v8: two words a block. Linux: posted, __record_unused_pages().
fn __record_unused_pages(zone: Zone, order: u32, words: &mut Words, part_fill: bool, skip: &mut u64) -> Result<(), Errno> {
    let mut walk = Walk::begin(zone, order);
    let words_per_block = if corrected(correct::RECORD_PRECHECK) { 2 } else { 1 };
    let result = if words.pos + words_per_block * zone.nr_free(order) > words.size && !part_fill {
        Err(Errno::NoSpc)
    } else {
        walk.blocks(skip, |pfn| words.put(pfn, order, [pfn.0 << CHUNK_SHIFT, (1 << order) << CHUNK_SHIFT]))
    };
    walk.end();
    result
}

/// The zones from the start zone on; what both series do around their one zone's part.
fn for_each_zone(start: &mut StartZone, mut part: impl FnMut(Zone, &mut u64) -> Result<(), Errno>) -> Result<(), Errno> {
    let mut skip_check = start.zone.is_none();
    if let Some(wanted) = start.zone
        && !Zone::all().any(|zone| zone.index() as u64 == wanted)
    {
        return Err(Errno::Inval);
    }
    let resumes = corrected(correct::PART_FILL);
    for zone in Zone::all() {
        if !skip_check && start.zone != Some(zone.index() as u64) {
            continue;
        }
        let mut recorded = if resumes && !skip_check { start.skip } else { 0 };
        skip_check = true;
        if let Err(errno) = part(zone, &mut recorded) {
            *start = StartZone { zone: Some(zone.index() as u64), skip: if resumes { recorded } else { 0 } };
            return Err(errno);
        }
    }
    Ok(())
}

/// Records the free blocks of an order as packed words: the frame above `len_bits` bits of length in pages; where the length does not fit, these
/// bits are 0 and the length is the next word. `NoSpc`: there is no room for a zone, which is left in `start`; `Inval`: an argument is
/// wrong. `start` is not taken back on success. The series lets a length field of 64 bits pass. Linux: posted, mark_unused_pages().
pub fn mark_unused_pages(start: &mut StartZone, order: u32, words: &mut Words, len_bits: u8, part_fill: bool) -> Result<(), Errno> {
    if words.pages == 0 || order >= NR_PAGE_ORDERS as u32 || len_bits > 64 {
        return Err(Errno::Inval);
    }
    for_each_zone(start, |zone, skip| __mark_unused_pages(zone, order, words, len_bits, part_fill, skip))
}

/// Records the free blocks of an order as chunks: two words each, address and size in bytes. Results as of [`mark_unused_pages`]. Linux:
/// posted, record_unused_pages().
pub fn record_unused_pages(start: &mut StartZone, order: u32, words: &mut Words, part_fill: bool) -> Result<(), Errno> {
    if words.pages == 0 || order > MAX_PAGE_ORDER {
        return Err(Errno::Inval);
    }
    for_each_zone(start, |zone, skip| __record_unused_pages(zone, order, words, part_fill, skip))
}

#[cfg(test)]
#[path = "unused_pages_tests.rs"]
mod tests;
