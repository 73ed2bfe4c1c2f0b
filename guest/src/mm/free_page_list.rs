//! What is free, told without being taken: the interfaces that were posted before the merged driver simply allocated.
//!
//! | function | posted as | stays on the lists |
//! |---|---|---|
//! | [`get_from_free_page_list`] | v33 1/4, W. Wang, 15 June 2018 | all |
//! | [`get_from_threaded_free_page_list`] | sketch by M. Wilcox, 16 June 2018, in the discussion of v33 | all but the first |
//! | [`get_from_popped_free_page_list`] | idea of M. Tsirkin, 26 June 2018, in the same discussion | all but the first |
//! | [`nr_free_blocks`] | idea of L. Torvalds, 27 June 2018, in the same discussion | all |
//! | [`walk_free_mem_block`] | v13 to v32, W. Wang, 2017 and 2018 | all |
//! | [`report_unused_page_block`] | v10 4/6, W. Wang, 4 May 2017 | all |
//!
//! What they tell is true at the moment of the HINT tracepoint, under the zone's lock, and means nothing any more when the lock is released: anybody
//! may allocate the block. So a host may leave out what the page held before, and nothing else; what is written from the tracepoint on must arrive.

use wire::debug;
use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SIZE;

use crate::arch::{self, write64};
use crate::kernel::list;
use crate::kernel::switch::corrected;
use crate::mm::gfp::Migratetype;
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{prep_new_page, rmqueue_smallest};
use crate::mm::zone::{Zone, pageblock_type};
use wire::switch::correct;

/// Bytes of an address in an array. Linux: sizeof(__le64).
pub const ENTRY_BYTES: u64 = 8;
/// Blocks for which a zone's lock is held at a time, once that is bounded ([`correct::IRQ_OFF_BOUND`]).
const LOCKED_BLOCKS: u32 = 64;

/// The block is free at this moment: the announcement of a hint that takes nothing.
fn announce(page: Page, order: u32) {
    arch::trace(debug::HINT, page.pfn().0, u64::from(order));
}

/// How far a walk over the lists of one order has come. As posted there is none: each call starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    zone: usize,
    migratetype: usize,
    /// The block that was told last, of this list.
    page: Option<Page>,
}

impl Place {
    /// Before the first block.
    pub const START: Place = Place { zone: 0, migratetype: 0, page: None };

    /// Whether all lists were walked to their ends.
    pub fn is_end(self) -> bool {
        self.zone == crate::mm::globals::nr_zones()
    }
}

/// The node behind a block that was told before; the first of the list when the block is no longer on it. Under the zone's lock. A free block is on the
/// list that its order and its pageblock say.
fn node_behind(zone: Zone, order: u32, migratetype: Migratetype, page: Option<Page>) -> u64 {
    let head = zone.free_list(order, migratetype);
    match page {
        Some(page) if is_on_list(zone, order, migratetype, page) => list::next(page.lru()),
        Some(_) | None => list::next(head),
    }
}

/// Whether a block is on this list; under the zone's lock.
fn is_on_list(zone: Zone, order: u32, migratetype: Migratetype, page: Page) -> bool {
    page.is_buddy() && page.buddy_order() == order && Zone::of(page.pfn()) == zone && pageblock_type(page.pfn()) == migratetype
}

/// Stores the addresses of the free blocks of an order into the array at `buf`, and returns how many; a full array ends the walk. `from` is where it starts,
/// and then where it has come to.
///
/// By the patch [v33 1/4], which has no `from`: whoever gets a full array cannot know whether there is more, nor ask for it
/// ([`correct::NO_CURSOR`] is for the driver to use). As posted the order is not looked at, and interrupts stay off for a whole zone.
/// Differs: an order beyond the last panics, where Linux would read behind the array of lists.
pub fn get_from_free_page_list(order: u32, buf: u64, size: u32, from: &mut Place) -> u32 {
    // The check that L. Torvalds asked for, and that v34 has.
    if corrected(correct::ORDER_UNCHECKED) && order > MAX_PAGE_ORDER {
        return 0;
    }
    let bounded = corrected(correct::IRQ_OFF_BOUND);
    let mut index = 0;
    while !from.is_end() {
        let zone = Zone::at(from.zone);
        let lock = zone.lock();
        let mut flags = lock.lock_irqsave();
        while let Some(&migratetype) = Migratetype::ALL.get(from.migratetype) {
            let head = zone.free_list(order, migratetype);
            let mut node = node_behind(zone, order, migratetype, from.page);
            while node != head {
                if index == size {
                    lock.unlock_irqrestore(flags);
                    return index;
                }
                let page = Page::of_lru(node);
                announce(page, order);
                write64(buf + u64::from(index) * ENTRY_BYTES, page.pfn().addr());
                index += 1;
                from.page = Some(page);
                node = list::next(node);
                if bounded && index.is_multiple_of(LOCKED_BLOCKS) {
                    lock.unlock_irqrestore(flags);
                    flags = lock.lock_irqsave();
                    node = node_behind(zone, order, migratetype, from.page);
                }
            }
            from.page = None;
            from.migratetype += 1;
        }
        lock.unlock_irqrestore(flags);
        *from = Place { zone: from.zone + 1, ..Place::START };
    }
    index
}

/// A block that holds the addresses of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threaded {
    /// The block.
    pub block: Pfn,
    /// Addresses in it.
    pub count: u32,
}

/// Unlinks the first free block of an order and stores the addresses of all others into it, at most `size`. The caller frees it.
///
/// By the sketch of M. Wilcox, flaws included: the block leaves its list but not the allocator's books (`nr_free`, free pages, Buddy, no reference); its own
/// address is the first in it; a full array leaves the innermost loop only, and the number of addresses that the block could hold is computed
/// and never used. [`correct::UNLINK_UNACCOUNTED`] takes it out of the books as well, and then out of the hints, for it is not free any more.
///
/// Differs: physical addresses are this kernel's pointers, so that using one as a pointer is no flaw here; and the sketch does not say how its caller learns the
/// number of addresses.
pub fn get_from_threaded_free_page_list(order: u32, size: u32) -> Option<Threaded> {
    let accounted = corrected(correct::UNLINK_UNACCOUNTED);
    let mut threaded: Option<Threaded> = None;
    for zone in Zone::all() {
        zone.lock().lock_irq();
        for migratetype in Migratetype::ALL {
            for node in list::iter(zone.free_list(order, migratetype)) {
                let page = Page::of_lru(node);
                let first = threaded.is_none();
                let Threaded { block, count } = threaded.get_or_insert(Threaded { block: page.pfn(), count: 0 });
                if *count == size {
                    break;
                }
                if first && accounted {
                    zone.del_from_free_list(page, order, migratetype);
                    page.set_refcount(1);
                    arch::trace(debug::ALLOC, page.pfn().0, u64::from(order));
                    continue;
                }
                announce(page, order);
                if first {
                    list::list_del(node);
                }
                write64(block.addr() + u64::from(*count) * ENTRY_BYTES, page.pfn().addr());
                *count += 1;
            }
        }
        zone.lock().unlock_irq();
    }
    threaded
}

/// Allocates the first free block of an order, whatever the watermarks say, and stores the addresses of all others into it, as many as it holds. The
/// caller frees it.
///
/// By M. Tsirkin's question whether the function may pop entries off the list and use them as the buffer. He does not say how many: one block holds more
/// addresses than the largest guest here has blocks, so one is popped.
pub fn get_from_popped_free_page_list(order: u32) -> Option<Threaded> {
    let (page, block) = Zone::all().find_map(|zone| {
        zone.lock().lock_irq();
        // Of the types that anybody may allocate from.
        let page = Migratetype::PCP.into_iter().find_map(|migratetype| rmqueue_smallest(zone, order, migratetype));
        zone.lock().unlock_irq();
        page.map(|page| (page, page.pfn()))
    })?;
    arch::trace(debug::ALLOC, block.0, u64::from(order));
    prep_new_page(page, order, crate::mm::Gfp::KERNEL);
    let entries = (PAGE_SIZE << order) / ENTRY_BYTES;
    let count = get_from_free_page_list(order, block.addr(), entries as u32, &mut Place::START.clone());
    Some(Threaded { block, count })
}

/// How many blocks of an order are free. By L. Torvalds: the one new interface that a driver which simply allocates would need, so as not to take all.
/// Without a lock: the answer is old at once anyway.
pub fn nr_free_blocks(order: u32) -> u64 {
    Zone::all().map(|zone| zone.nr_free(order)).sum()
}

/// What a callback's stop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The walk.
    Walk,
    /// The list that is being walked; the next one follows.
    List,
}

/// Calls `report_pfn_range` for each free block of order `min_order` and more, the largest first, with the zone's lock held and interrupts off; `false` from it
/// is a stop. It must neither sleep nor allocate, and makes the announcement if it tells the device of the block.
///
/// By the patch [v16 4/5], and its walk_free_page_list(). v14 had no stop; v15's and v16's end the walk. Differs: v16 as posted returns an uninitialised word for
/// an empty list; here an empty list is no stop.
pub fn walk_free_mem_block(min_order: u32, stop: Stop, report_pfn_range: &mut impl FnMut(Pfn, u32) -> bool) {
    for zone in Zone::all() {
        for order in (min_order..=MAX_PAGE_ORDER).rev() {
            for migratetype in Migratetype::ALL {
                let goes_on = walk_free_page_list(zone, order, migratetype, report_pfn_range);
                if !goes_on && stop == Stop::Walk {
                    return;
                }
            }
        }
    }
}

/// One list; `false` when the callback asked to stop.
fn walk_free_page_list(zone: Zone, order: u32, migratetype: Migratetype, report_pfn_range: &mut impl FnMut(Pfn, u32) -> bool) -> bool {
    let lock = zone.lock();
    let flags = lock.lock_irqsave();
    let goes_on = list::iter(zone.free_list(order, migratetype)).all(|node| report_pfn_range(Page::of_lru(node).pfn(), order));
    lock.unlock_irqrestore(flags);
    goes_on
}

/// Why [`report_unused_page_block`] offers no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBlock {
    /// The list is empty, or was walked to its end. Linux: 1.
    End,
    /// No such list. Linux: -EINVAL.
    Inval,
}

/// Offers the block behind `page` on a list, or the first one; `page` is then that block.
///
/// By the patch [v10 4/6]. As posted a block that is free with another order makes the walk start anew, and nothing else is looked at: of a block that is in use
/// by now the link is followed all the same, though it leads nowhere, and of one that is on another list the walk goes on there.
pub fn report_unused_page_block(zone: Zone, order: u32, migratetype: Migratetype, page: &mut Option<Page>) -> Result<(), NoBlock> {
    if order > MAX_PAGE_ORDER {
        return Err(NoBlock::Inval);
    }
    let lock = zone.lock();
    let flags = lock.lock_irqsave();
    let head = zone.free_list(order, migratetype);
    let node = match *page {
        _ if list::list_empty(head) => head,
        None => list::next(head),
        Some(page) if corrected(correct::CURSOR) => node_behind(zone, order, migratetype, Some(page)),
        Some(page) if page.is_buddy() && page.buddy_order() != order => list::next(head),
        Some(page) => list::next(page.lru()),
    };
    let next = (node != head).then(|| Page::of_lru(node));
    if let Some(next) = next {
        announce(next, order);
    }
    lock.unlock_irqrestore(flags);
    *page = next;
    next.map(|_| ()).ok_or(NoBlock::End)
}

#[cfg(test)]
#[path = "free_page_list_tests.rs"]
mod tests;
