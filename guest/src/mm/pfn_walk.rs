//! A walk over page frames instead of free lists: what M. Hocko proposed in July 2017, in the discussion of v12, in place of a new interface to the
//! allocator. "Free" is then whatever a frame's entry in the memory map lets one think.

use wire::layout::MAX_PAGE_ORDER;

use crate::mm::page::{Page, Pfn};
use crate::mm::zone::Zone;

/// Calls `report` for each block of frames that nobody refers to, as large as alignment allows; `false` from it ends the walk. No lock is held.
///
/// A count of 0 says less than it seems to: of a block of several pages that is in use only the first has a reference, unless it is a compound page; and pages that
/// reporting or compaction have isolated, or that wait on a vCPU's list, have none either.
pub fn walk_unreferenced(report: &mut impl FnMut(Pfn, u32) -> bool) {
    for zone in Zone::all() {
        let mut pfn = zone.start_pfn();
        while pfn < zone.end_pfn() {
            if Page::of(pfn).refcount() != 0 {
                pfn = pfn.plus(1);
                continue;
            }
            let order = unreferenced_order(zone, pfn);
            if !report(pfn, order) {
                return;
            }
            pfn = pfn.plus(1 << order);
        }
    }
}

/// The largest order of an aligned block at `pfn` without references.
fn unreferenced_order(zone: Zone, pfn: Pfn) -> u32 {
    let mut order = 0;
    while order < MAX_PAGE_ORDER && pfn.0.is_multiple_of(2 << order) && pfn.plus(2 << order) <= zone.end_pfn() {
        let upper = (1 << order..2 << order).map(|at| Page::of(pfn.plus(at)));
        if upper.into_iter().any(|page| page.refcount() != 0) {
            break;
        }
        order += 1;
    }
    order
}

/// Calls `report` for each block of the free lists that a walk over the frames comes upon; `false` from it ends the walk. The zone's lock is held over
/// the whole walk, for nothing else keeps a block free, nor its order true.
pub fn walk_buddies(report: &mut impl FnMut(Pfn, u32) -> bool) {
    for zone in Zone::all() {
        let lock = zone.lock();
        let flags = lock.lock_irqsave();
        let mut pfn = zone.start_pfn();
        let mut goes_on = true;
        while goes_on && pfn < zone.end_pfn() {
            let page = Page::of(pfn);
            let order = if page.is_buddy() { page.buddy_order().min(pfn.0.trailing_zeros()).min(MAX_PAGE_ORDER) } else { 0 };
            if page.is_buddy() {
                goes_on = report(pfn, order);
            }
            pfn = pfn.plus(1 << order);
        }
        lock.unlock_irqrestore(flags);
        if !goes_on {
            return;
        }
    }
}
