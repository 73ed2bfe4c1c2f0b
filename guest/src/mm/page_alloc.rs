//! The buddy allocator. Linux: mm/page_alloc.c (6.12).
//!
//! Differs: no `NOFRAGMENT` (only zone NORMAL has it), no capture by compaction, no compaction on behalf of an allocation, no compound
//! pages.

use wire::debug;
use wire::layout::{MAX_PAGE_ORDER, PAGEBLOCK_ORDER, page::flag};
use wire::platform::PAGE_SIZE;

use crate::arch;
use crate::kernel::switch::{fault, faulty};
use crate::kernel::{panic, sched};
use crate::mm::fallback;
use crate::mm::gfp::{AllocFlags, Gfp, Migratetype};
use crate::mm::page::{self, Page, Pfn};
use crate::mm::stats::{self, Event};
use crate::mm::watermark::zone_watermark_ok;
use crate::mm::zone::{PAGEBLOCK_PAGES, Zone, pageblock_type};
use crate::mm::{fail_page_alloc, globals, page_reporting, pcp, reclaim};

/// What freed pages are filled with. Linux: PAGE_POISON.
pub const PAGE_POISON: u8 = 0xaa;

/// Where a freed block goes on its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FreeTo {
    /// First, or last when it is likely to merge soon; page reporting is told.
    Auto,
    /// Last, and nobody is told. Linux: FPI_TO_TAIL | FPI_SKIP_REPORT_NOTIFY.
    Tail,
}

/// Allocates a block of 2^`order` pages. Linux: __alloc_pages().
///
/// The ALLOC tracepoint stands between the free lists and the first store (poison check, zeroing): from it to the FREE tracepoint,
/// every store to the block is its owner's.
pub fn alloc_pages(gfp: Gfp, order: u32) -> Option<Pfn> {
    assert!(order <= MAX_PAGE_ORDER, "order {order}");
    if gfp.contains(Gfp::DIRECT_RECLAIM) {
        sched::might_sleep("reclaiming allocation");
    }
    if fail_page_alloc::should_fail() {
        return None;
    }
    let page = get_page_from_freelist(gfp, order, AllocFlags::FAST).or_else(|| reclaim::alloc_slowpath(gfp, order));
    let Some(page) = page else {
        arch::trace(debug::ALLOC_FAIL, u64::from(order), 0);
        if !gfp.contains(Gfp::NOWARN) {
            panic::warn("page allocation failure");
        }
        return None;
    };
    let pfn = page.pfn();
    arch::trace(debug::ALLOC, pfn.0, u64::from(order));
    prep_new_page(page, order, gfp);
    stats::count(Event::PgAlloc, 1 << order);
    Some(pfn)
}

/// Drops a reference to a block; the last one frees it. Linux: __free_pages().
pub fn free_pages(pfn: Pfn, order: u32) {
    assert!(order <= MAX_PAGE_ORDER, "order {order}");
    if Page::of(pfn).put_testzero() {
        free_unref_page(pfn, order);
        return;
    }
    // Somebody else holds a reference to the first page and will free that one alone: the rest goes now, in falling orders.
    if faulty(fault::SPEC_REF_LEAK) {
        return;
    }
    for part in (0..order).rev() {
        free_unref_page(pfn.plus(1 << part), part);
    }
}

/// Drops a reference to a single page. Linux: put_page().
pub fn put_page(pfn: Pfn) {
    if Page::of(pfn).put_testzero() {
        free_unref_page(pfn, 0);
    }
}

/// One pass over the zones, highest first. Linux: get_page_from_freelist().
pub(crate) fn get_page_from_freelist(gfp: Gfp, order: u32, flags: AllocFlags) -> Option<Page> {
    let class = globals::nr_zones() - 1;
    Zone::all().rev().find_map(|zone| {
        let mark = zone.watermark(flags.watermark);
        if !zone_watermark_ok(zone, order, mark, class, flags) {
            return None;
        }
        let page = rmqueue(zone, order, gfp.migratetype(), flags)?;
        if flags.high_atomic {
            fallback::reserve_highatomic_pageblock(zone, page, order);
        }
        Some(page)
    })
}

/// Takes a block of a zone: from the per-CPU lists if they hold such, else from the buddy lists. Linux: rmqueue().
fn rmqueue(zone: Zone, order: u32, migratetype: Migratetype, flags: AllocFlags) -> Option<Page> {
    if pcp::allowed_order(order)
        && let Some(page) = pcp::alloc(zone, order, migratetype)
    {
        return Some(page);
    }
    rmqueue_buddy(zone, order, migratetype, flags)
}

/// Linux: rmqueue_buddy().
fn rmqueue_buddy(zone: Zone, order: u32, migratetype: Migratetype, flags: AllocFlags) -> Option<Page> {
    let lock = zone.lock();
    let irq = lock.lock_irqsave();
    let mut page = None;
    if flags.high_atomic {
        page = rmqueue_smallest(zone, order, Migratetype::HighAtomic);
    }
    page = page.or_else(|| rmqueue_locked(zone, order, migratetype));
    if page.is_none() && flags.non_block {
        // Failing now is worse than failing a larger atomic allocation later.
        page = rmqueue_smallest(zone, order, Migratetype::HighAtomic);
    }
    lock.unlock_irqrestore(irq);
    page
}

/// A block of the wanted type, or one stolen from another; under the lock. Linux: __rmqueue().
pub(crate) fn rmqueue_locked(zone: Zone, order: u32, migratetype: Migratetype) -> Option<Page> {
    rmqueue_smallest(zone, order, migratetype).or_else(|| fallback::rmqueue_fallback(zone, order, migratetype))
}

/// The first block of the smallest sufficient order; under the lock. Linux: __rmqueue_smallest().
pub(crate) fn rmqueue_smallest(zone: Zone, order: u32, migratetype: Migratetype) -> Option<Page> {
    let (current, page) = (order..=MAX_PAGE_ORDER).find_map(|current| Some((current, zone.first_free(current, migratetype)?)))?;
    zone.del_from_free_list(page, current, migratetype);
    expand(zone, page, order, current, migratetype);
    Some(page)
}

/// Splits a block of order `high` down to `low`: each upper half goes first on its list, the lower half stays. Linux: expand().
pub(crate) fn expand(zone: Zone, page: Page, low: u32, high: u32, migratetype: Migratetype) {
    assert!(low <= high, "order {high} is less than {low}");
    let pfn = page.pfn();
    for order in (low..high).rev() {
        let upper = Page::of(pfn.plus(1 << order));
        zone.add_to_free_list(upper, order, migratetype, false);
        upper.set_buddy(order);
    }
}

/// Readies an allocated block for its owner. Linux: prep_new_page().
pub(crate) fn prep_new_page(page: Page, order: u32, gfp: Gfp) {
    let pfn = page.pfn();
    for at in 0..1 << order {
        check_new_page(Page::of(pfn.plus(at)));
    }
    post_alloc_hook(page, order, gfp);
}

/// Readies an isolated free block as if it had been allocated, with the tracepoint. Linux: compaction_alloc(), release_free_list().
pub(crate) fn post_alloc(pfn: Pfn, order: u32, gfp: Gfp) {
    let page = Page::of(pfn);
    arch::trace(debug::ALLOC, pfn.0, u64::from(order));
    assert!(page.refcount() == 0, "free page {:#x} has {} references", pfn.0, page.refcount());
    post_alloc_hook(page, order, gfp);
}

/// Checks the poison, zeroes, and gives the first reference. Linux: post_alloc_hook(), set_page_refcounted().
fn post_alloc_hook(page: Page, order: u32, gfp: Gfp) {
    let pfn = page.pfn();
    if globals::page_poisoning_enabled() {
        check_poison(pfn, order);
    }
    if globals::want_init_on_alloc() || gfp.contains(Gfp::ZERO) {
        page::fill_block(pfn, order, 0);
    }
    page.set_private(0);
    page.set_refcount(1);
}

/// Linux: check_new_page().
fn check_new_page(page: Page) {
    let expected = page.refcount() == 0 && page.mapping() == 0 && page.page_type() == wire::layout::page::TYPE_NONE;
    assert!(expected && page.flags() == 0, "bad page state of free page {:#x}", page.pfn().0);
}

/// Linux: __kernel_unpoison_pages().
fn check_poison(pfn: Pfn, order: u32) {
    let word = u64::from_ne_bytes([PAGE_POISON; 8]);
    // A line at a time: a block of the largest order has half a million words.
    for line in (pfn.addr()..pfn.addr() + (PAGE_SIZE << order)).step_by(64) {
        let words = [0, 8, 16, 24, 32, 40, 48, 56].map(|at| arch::read64(line + at) ^ word);
        let differs = words.into_iter().fold(0, |all, word| all | word);
        assert!(differs == 0, "pagealloc: memory corruption in the 64 bytes at {line:#x}: {words:#x?} from the pattern");
    }
}

/// Readies a block for the free lists: checks, poison, zeroes. The FREE tracepoint follows the stores. Linux: free_pages_prepare().
pub(crate) fn free_pages_prepare(pfn: Pfn, order: u32) {
    for at in 0..1 << order {
        let page = Page::of(pfn.plus(at));
        if page.mapping() & 3 != 0 {
            // A movable page keeps its mark until here.
            page.set_mapping(0);
        }
        let bad = page.refcount() != 0 || page.mapping() != 0 || page.page_type() != wire::layout::page::TYPE_NONE;
        assert!(!bad, "bad page state of page {:#x} at free", page.pfn().0);
        assert!(
            page.flags() & (flag::LOCKED | flag::RESERVED | flag::LRU) == 0,
            "page {:#x} freed while locked, reserved or on the LRU",
            page.pfn().0
        );
        if page.flags() != 0 {
            page.clear_flags(page.flags());
        }
    }
    // A stale value would be the next owner's order or device.
    Page::of(pfn).set_private(0);
    if globals::page_poisoning_enabled() {
        page::fill_block(pfn, order, PAGE_POISON);
    } else if globals::want_init_on_free() {
        page::fill_block(pfn, order, 0);
    }
    stats::count(Event::PgFree, 1 << order);
    arch::trace(debug::FREE, pfn.0, u64::from(order));
}

/// Frees a block that nobody refers to. Linux: free_unref_page().
fn free_unref_page(pfn: Pfn, order: u32) {
    free_pages_prepare(pfn, order);
    if !pcp::allowed_order(order) || !pcp::free(pfn, order) {
        free_one_page(pfn, order, FreeTo::Auto);
    }
}

/// Frees a block of the memory that boot found, which is zero. Linux: __free_pages_core().
pub(crate) fn free_boot_block(pfn: Pfn, order: u32) {
    if globals::page_poisoning_enabled() {
        page::fill_block(pfn, order, PAGE_POISON);
    }
    free_one_page(pfn, order, FreeTo::Tail);
}

/// Puts a block on the buddy lists. Linux: free_one_page(), split_large_buddy().
pub(crate) fn free_one_page(pfn: Pfn, order: u32, to: FreeTo) {
    let zone = Zone::of(pfn);
    let lock = zone.lock();
    let irq = lock.lock_irqsave();
    // Pageblocks of one block may have different types: each goes to its own list, and merges if types allow.
    let part = order.min(PAGEBLOCK_ORDER);
    for at in (0..1 << order).step_by(1 << part) {
        let pfn = pfn.plus(at);
        free_one_locked(zone, pfn, part, pageblock_type(pfn), to);
    }
    lock.unlock_irqrestore(irq);
}

/// Puts a block of one pageblock on the lists of a type that its caller knows, or believes to. Linux: free_one_page() of 6.1.
pub(crate) fn free_one_page_as(zone: Zone, pfn: Pfn, order: u32, migratetype: Migratetype) {
    let lock = zone.lock();
    let irq = lock.lock_irqsave();
    free_one_locked(zone, pfn, order, migratetype, FreeTo::Auto);
    lock.unlock_irqrestore(irq);
}

/// Merges a block with its free buddies and puts it on a list; under the lock. Linux: __free_one_page().
pub(crate) fn free_one_locked(zone: Zone, pfn: Pfn, order: u32, migratetype: Migratetype, to: FreeTo) {
    assert!(pfn.0.is_multiple_of(1 << order), "crooked block {:#x} of order {order}", pfn.0);
    assert!(!Page::of(pfn).is_buddy(), "block {:#x} is free already", pfn.0);
    let (mut pfn, mut order) = (pfn, order);
    while order < MAX_PAGE_ORDER {
        let Some(buddy) = find_buddy(zone, pfn, order) else { break };
        let buddy_type = pageblock_type(buddy.pfn());
        if order >= PAGEBLOCK_ORDER && buddy_type != migratetype && !(migratetype.is_mergeable() && buddy_type.is_mergeable()) {
            break;
        }
        zone.del_from_free_list(buddy, order, buddy_type);
        if buddy_type != migratetype {
            // The merged block is on one list: its pageblocks must agree, or a later split puts parts on a wrong one.
            fallback::change_pageblock_range(buddy.pfn(), order, migratetype);
        }
        pfn = Pfn(pfn.0 & !(1 << order));
        order += 1;
    }
    let page = Page::of(pfn);
    let tail = match to {
        FreeTo::Tail => true,
        FreeTo::Auto => buddy_merge_likely(zone, pfn, order),
    };
    page.set_buddy(order);
    zone.add_to_free_list(page, order, migratetype, tail);
    match to {
        FreeTo::Auto => page_reporting::notify_free(order),
        FreeTo::Tail => {}
    }
}

/// The buddy of a block, if it is free as a whole. Linux: find_buddy_page_pfn().
pub(crate) fn find_buddy(zone: Zone, pfn: Pfn, order: u32) -> Option<Page> {
    let buddy = Pfn(pfn.0 ^ 1 << order);
    if !zone.spans(buddy) {
        return None;
    }
    let page = Page::of(buddy);
    (page.is_buddy() && page.buddy_order() == order).then_some(page)
}

/// Whether the block's parent would merge if the block's own buddy came free. Linux: buddy_merge_likely().
fn buddy_merge_likely(zone: Zone, pfn: Pfn, order: u32) -> bool {
    if order >= MAX_PAGE_ORDER - 1 {
        return false;
    }
    let parent = Pfn(pfn.0 & (pfn.0 ^ 1 << order));
    find_buddy(zone, parent, order + 1).is_some()
}

/// Takes a given free block off the lists as a whole, if the zone stays above its min watermark; under the lock. Its pageblocks
/// become MOVABLE when it is at least half of one. Linux: __isolate_free_page().
pub fn isolate_free_page(zone: Zone, page: Page, order: u32) -> bool {
    use crate::mm::gfp::Watermark;
    let migratetype = pageblock_type(page.pfn());
    if migratetype != Migratetype::Isolate {
        let mark = zone.watermark(Watermark::Min) + (1 << order);
        if !zone_watermark_ok(zone, 0, mark, 0, AllocFlags { watermark: Watermark::Min, ..AllocFlags::FAST }) {
            return false;
        }
    }
    zone.del_from_free_list(page, order, migratetype);
    if order >= PAGEBLOCK_ORDER - 1 {
        for at in (0..1 << order).step_by(PAGEBLOCK_PAGES as usize) {
            let pfn = page.pfn().plus(at);
            if pageblock_type(pfn).is_mergeable() {
                fallback::move_freepages_block(zone, pfn, Migratetype::Movable);
            }
        }
    }
    true
}

/// Gives an isolated block back, last on its list; under the lock. Linux: __putback_isolated_page().
pub fn putback_isolated_page(zone: Zone, page: Page, order: u32) {
    free_one_locked(zone, page.pfn(), order, pageblock_type(page.pfn()), FreeTo::Tail);
}
