//! Taking memory from pageblocks of another type, and the high-atomic reserve. Linux: mm/page_alloc.c.

use wire::layout::{MAX_PAGE_ORDER, PAGEBLOCK_ORDER};

use crate::kernel::list;
use crate::mm::gfp::Migratetype;
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{expand, rmqueue_smallest};
use crate::mm::zone::{PAGEBLOCK_PAGES, Zone, pageblock_type, set_pageblock_type};

/// Whether a block of another type, this large, may bring its whole pageblock along. Linux: can_steal_fallback().
fn can_steal(order: u32, migratetype: Migratetype) -> bool {
    order >= PAGEBLOCK_ORDER / 2 || migratetype != Migratetype::Movable
}

/// The type to fall back to for an order, if any of its lists has a block. Linux: find_suitable_fallback().
fn find_suitable_fallback(zone: Zone, order: u32, migratetype: Migratetype) -> Option<Migratetype> {
    if zone.nr_free(order) == 0 {
        return None;
    }
    migratetype.fallbacks().iter().copied().find(|&other| !list::list_empty(zone.free_list(order, other)))
}

/// Whether an allocation would find a block of exactly this order, its own type's or one that it may steal. Linux: compact_finished().
pub(crate) fn has_block_for(zone: Zone, order: u32, migratetype: Migratetype) -> bool {
    let own = !list::list_empty(zone.free_list(order, migratetype));
    own || can_steal(order, migratetype) && find_suitable_fallback(zone, order, migratetype).is_some()
}

/// Takes a block of another type: the largest there is, so that types mix seldom; under the lock. Linux: __rmqueue_fallback().
pub(crate) fn rmqueue_fallback(zone: Zone, order: u32, migratetype: Migratetype) -> Option<Page> {
    let find = |current| Some((current, find_suitable_fallback(zone, current, migratetype)?));
    let (largest, other) = (order..=MAX_PAGE_ORDER).rev().find_map(find)?;
    if !can_steal(largest, migratetype) && largest > order {
        // A movable request that cannot have the pageblock does the least harm with the smallest block.
        let (smallest, other) = (order..=MAX_PAGE_ORDER).find_map(find)?;
        return Some(steal(zone, order, smallest, migratetype, other, false));
    }
    let whole_block = can_steal(largest, migratetype);
    Some(steal(zone, order, largest, migratetype, other, whole_block))
}

/// Takes a block of order `current` and type `other`, if possible with its pageblock. Linux: steal_suitable_fallback().
fn steal(zone: Zone, order: u32, current: u32, migratetype: Migratetype, other: Migratetype, whole_block: bool) -> Page {
    let page = zone.first_free(current, other).expect("a list that was not empty under the lock is empty");
    if current >= PAGEBLOCK_ORDER {
        zone.del_from_free_list(page, current, other);
        change_pageblock_range(page.pfn(), current, migratetype);
        expand(zone, page, order, current, migratetype);
        return page;
    }
    if whole_block && let Some((start, counts)) = prep_move_freepages_block(zone, page.pfn()) {
        // Pages in use that would fit the new type: movable ones are known, others only by elimination.
        let alike = match (migratetype, other) {
            (Migratetype::Movable, _) => counts.movable,
            (_, Migratetype::Movable) => PAGEBLOCK_PAGES - counts.free - counts.movable,
            _ => 0,
        };
        if counts.free + alike >= PAGEBLOCK_PAGES / 2 {
            move_freepages(zone, start, other, migratetype);
            return rmqueue_smallest(zone, order, migratetype).expect("a block that was moved to the list is not there");
        }
    }
    zone.del_from_free_list(page, current, other);
    expand(zone, page, order, current, other);
    page
}

/// What a pageblock holds.
struct BlockCounts {
    free: u64,
    movable: u64,
}

/// The pageblock's first frame and what is in it; `None` when it reaches out of the zone. Linux: prep_move_freepages_block().
/// Differs: a page in use counts as movable only by its owner's operations; there is no LRU.
fn prep_move_freepages_block(zone: Zone, pfn: Pfn) -> Option<(Pfn, BlockCounts)> {
    let start = Pfn(pfn.0 & !(PAGEBLOCK_PAGES - 1));
    let end = start.plus(PAGEBLOCK_PAGES);
    if !zone.spans(start) || !zone.spans(Pfn(end.0 - 1)) {
        return None;
    }
    let mut counts = BlockCounts { free: 0, movable: 0 };
    let mut at = start;
    while at < end {
        let page = Page::of(at);
        if page.is_buddy() {
            counts.free += 1 << page.buddy_order();
            at = at.plus(1 << page.buddy_order());
        } else {
            counts.movable += u64::from(page.is_movable());
            at = at.plus(1);
        }
    }
    Some((start, counts))
}

/// Moves the pageblock's free blocks to another type's lists and changes its type; returns pages moved. Linux: __move_freepages_block().
fn move_freepages(zone: Zone, start: Pfn, from: Migratetype, to: Migratetype) -> u64 {
    let end = start.plus(PAGEBLOCK_PAGES);
    let mut moved = 0;
    let mut at = start;
    while at < end {
        let page = Page::of(at);
        if !page.is_buddy() {
            at = at.plus(1);
            continue;
        }
        let order = page.buddy_order();
        zone.move_to_free_list(page, order, from, to);
        moved += 1 << order;
        at = at.plus(1 << order);
    }
    set_pageblock_type(start, to);
    moved
}

/// Makes the pageblock of `pfn` one of type `to`, with its free blocks; `None` when it reaches out of the zone; under the lock.
/// Linux: move_freepages_block().
pub(crate) fn move_freepages_block(zone: Zone, pfn: Pfn, to: Migratetype) -> Option<u64> {
    let (start, _) = prep_move_freepages_block(zone, pfn)?;
    Some(move_freepages(zone, start, pageblock_type(start), to))
}

/// Sets the type of every pageblock that a block covers, or of the one it lies in. Linux: change_pageblock_range().
pub(crate) fn change_pageblock_range(pfn: Pfn, order: u32, migratetype: Migratetype) {
    for at in (0..1 << order).step_by(PAGEBLOCK_PAGES as usize) {
        set_pageblock_type(pfn.plus(at), migratetype);
    }
}

/// Keeps the pageblock of a block just allocated for further atomic allocations, up to 1% of the zone. Linux: reserve_highatomic_pageblock().
pub(crate) fn reserve_highatomic_pageblock(zone: Zone, page: Page, order: u32) {
    let percent = zone.managed_pages() / 100;
    let max_managed = percent.next_multiple_of(PAGEBLOCK_PAGES);
    if percent < PAGEBLOCK_PAGES || zone.nr_reserved_highatomic() >= max_managed {
        return;
    }
    let lock = zone.lock();
    let irq = lock.lock_irqsave();
    let reserved = zone.nr_reserved_highatomic();
    if reserved < max_managed && pageblock_type(page.pfn()).is_mergeable() {
        if order >= PAGEBLOCK_ORDER {
            change_pageblock_range(page.pfn(), order, Migratetype::HighAtomic);
            zone.set_nr_reserved_highatomic(reserved + (1 << order));
        } else if move_freepages_block(zone, page.pfn(), Migratetype::HighAtomic).is_some() {
            zone.set_nr_reserved_highatomic(reserved + PAGEBLOCK_PAGES);
        }
    }
    lock.unlock_irqrestore(irq);
}

/// Gives one pageblock of the reserve to `migratetype`; whether any free page came of it. A zone's last one is kept. Linux: unreserve_highatomic_pageblock().
pub(crate) fn unreserve_highatomic_pageblock(migratetype: Migratetype) -> bool {
    Zone::all().rev().any(|zone| {
        if zone.nr_reserved_highatomic() <= PAGEBLOCK_PAGES {
            return false;
        }
        let lock = zone.lock();
        let irq = lock.lock_irqsave();
        let page = (0..=MAX_PAGE_ORDER).find_map(|order| zone.first_free(order, Migratetype::HighAtomic));
        let moved = page.map_or(0, |page| {
            let order = page.buddy_order();
            let taken = PAGEBLOCK_PAGES.max(1 << order).min(zone.nr_reserved_highatomic());
            zone.set_nr_reserved_highatomic(zone.nr_reserved_highatomic() - taken);
            if order <= PAGEBLOCK_ORDER {
                return move_freepages_block(zone, page.pfn(), migratetype).unwrap_or(0);
            }
            zone.move_to_free_list(page, order, Migratetype::HighAtomic, migratetype);
            change_pageblock_range(page.pfn(), order, migratetype);
            1 << order
        });
        lock.unlock_irqrestore(irq);
        moved > 0
    })
}
