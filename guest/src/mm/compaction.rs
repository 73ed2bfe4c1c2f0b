//! Memory compaction: a scanner from the zone's start looks for movable pages, one from its end for free pages; the former move to the
//! latter until the two meet. Linux: mm/compaction.c.
//!
//! Asked for by a task, as by /proc/sys/vm/compact_memory ([`compact_nodes`]) or as an allocation of some order would
//! ([`try_to_compact_pages`]). Differs: only pages with operations move, that is a balloon's, since there is no LRU; the linear scanners
//! alone, no search in the free lists for a good place to start; no kcompactd, no deferral, no capture; allocations do not compact.

use wire::dialect::Dialect;
use wire::layout::{MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_ORDER};
use wire::switch::fault;

use crate::kernel::list::{self, LIST_HEAD_BYTES};
use crate::kernel::switch::{dialect, faulty};
use crate::kernel::{data, sched};
use crate::mm::balloon_2012;
use crate::mm::gfp::{AllocFlags, Gfp, Migratetype, Watermark};
use crate::mm::migrate::{Lists, Target, isolate_movable_page, migrate_pages, putback_movable_pages};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{self, free_pages, isolate_free_page};
use crate::mm::watermark::zone_watermark_ok;
use crate::mm::zone::{PAGEBLOCK_PAGES, Zone, pageblock_skip, pageblock_type, set_pageblock_skip};
use crate::mm::{fallback, globals, pcp};

/// Pages isolated at a time. Linux: COMPACT_CLUSTER_MAX.
pub const COMPACT_CLUSTER_MAX: u64 = 32;

/// Bytes of a vCPU's list heads: pages to move, pages that failed, free pages by order.
pub(crate) const LISTS_BYTES: u64 = (2 + NR_PAGE_ORDERS as u64) * LIST_HEAD_BYTES;

/// How a compaction of a zone ended. Linux: enum compact_result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactResult {
    /// `COMPACT_SKIPPED`: too little is free to move anything to.
    Skipped,
    /// `COMPACT_PARTIAL_SKIPPED`: the scanners met, having started in the middle.
    PartialSkipped,
    /// `COMPACT_COMPLETE`: the scanners met, having seen the whole zone.
    Complete,
    /// `COMPACT_CONTENDED`: given up.
    Contended,
    /// `COMPACT_SUCCESS`: an allocation of the order would succeed.
    Success,
}

/// `struct compact_control`; its list heads lie in the data segment, those of one vCPU at a time: each vCPU has one task that compacts.
#[derive(Debug)]
pub(crate) struct CompactControl {
    zone: Zone,
    /// Wanted order; `None`: as much as can be had.
    order: Option<u32>,
    /// Where the migrate scanner goes on.
    migrate_pfn: Pfn,
    /// Where the free scanner goes on.
    free_pfn: Pfn,
    /// Pages isolated and not moved yet.
    nr_migratepages: u64,
    /// Pages isolated to move to.
    nr_freepages: u64,
    /// The scanners start at the zone's ends.
    whole_zone: bool,
    /// Pageblocks are scanned although they were in vain before.
    ignore_skip_hint: bool,
    /// The pageblock was scanned in part before: now to its end.
    finish_pageblock: bool,
    /// Balloon pages are told and moved as posted in 2012.
    balloon_2012: bool,
    lists: u64,
}

/// The first frame of a frame's pageblock. Linux: pageblock_start_pfn().
fn pageblock_start_pfn(pfn: Pfn) -> Pfn {
    Pfn(pfn.0 & !(PAGEBLOCK_PAGES - 1))
}

/// The frame behind a frame's pageblock. Linux: pageblock_end_pfn().
fn pageblock_end_pfn(pfn: Pfn) -> Pfn {
    pageblock_start_pfn(pfn).plus(PAGEBLOCK_PAGES)
}

fn is_pageblock_aligned(pfn: Pfn) -> bool {
    pfn.0.is_multiple_of(PAGEBLOCK_PAGES)
}

/// What the migrate scanner found. Linux: isolate_migrate_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolated {
    None,
    Some,
}

impl CompactControl {
    /// A compaction of the whole zone. Linux: compact_node().
    fn of_zone(zone: Zone) -> Self {
        Self::new(zone, None, true)
    }

    /// One for an allocation of an order. Linux: compact_zone_order(), with COMPACT_PRIO_SYNC_LIGHT.
    fn for_order(zone: Zone, order: u32) -> Self {
        Self::new(zone, Some(order), false)
    }

    fn new(zone: Zone, order: Option<u32>, whole_zone: bool) -> Self {
        let start = zone.start_pfn();
        Self {
            zone,
            order,
            migrate_pfn: start,
            free_pfn: start,
            nr_migratepages: 0,
            nr_freepages: 0,
            whole_zone,
            ignore_skip_hint: whole_zone,
            finish_pageblock: false,
            balloon_2012: dialect() == Dialect::Balloon2012,
            lists: data::COMPACT_LISTS + sched::cpu_id() * LISTS_BYTES,
        }
    }

    fn migratepages(&self) -> Lists {
        Lists { from: self.lists, ret: self.lists + LIST_HEAD_BYTES }
    }

    fn freepages(&self, order: u32) -> u64 {
        self.lists + (2 + u64::from(order)) * LIST_HEAD_BYTES
    }

    fn init_lists(&self) {
        for index in 0..2 + NR_PAGE_ORDERS as u64 {
            list::init_list_head(self.lists + index * LIST_HEAD_BYTES);
        }
    }

    /// Whether the free scanner is in the migrate scanner's pageblock, or below. Linux: compact_scanners_met().
    fn scanners_met(&self) -> bool {
        self.free_pfn.0 >> PAGEBLOCK_ORDER <= self.migrate_pfn.0 >> PAGEBLOCK_ORDER
    }

    /// Linux: isolation_suitable().
    fn isolation_suitable(&self, block: Pfn) -> bool {
        self.ignore_skip_hint || !pageblock_skip(block)
    }

    /// Linux: update_cached_migrate().
    fn update_cached_migrate(&self, pfn: Pfn) {
        let pfn = if is_pageblock_aligned(pfn) { pfn } else { pageblock_end_pfn(pfn) };
        if pfn > self.zone.compact_cached_migrate_pfn() {
            self.zone.set_compact_cached_migrate_pfn(pfn);
        }
    }

    /// A pageblock has been searched for free pages in vain. Linux: update_pageblock_skip().
    fn update_pageblock_skip(&self, block: Pfn, next: Pfn) {
        set_pageblock_skip(block, true);
        if next < self.zone.compact_cached_free_pfn() {
            self.zone.set_compact_cached_free_pfn(next);
        }
    }

    /// Isolates what can move in `[low_pfn, end_pfn)`, a part of one pageblock. Linux: isolate_migratepages_block().
    fn isolate_migratepages_block(&mut self, mut low_pfn: Pfn, end_pfn: Pfn) {
        let mut nr_isolated = 0;
        let mut whole_block = false;
        self.migrate_pfn = low_pfn;
        if self.balloon_2012 {
            balloon_2012::wait_while_too_many_isolated();
        }
        while low_pfn < end_pfn {
            if low_pfn.0.is_multiple_of(COMPACT_CLUSTER_MAX) {
                sched::cond_resched();
            }
            whole_block |= is_pageblock_aligned(low_pfn) || low_pfn == self.zone.start_pfn();
            let page = Page::of(low_pfn);
            low_pfn = low_pfn.plus(1);
            if page.is_buddy() {
                // Read without the zone's lock, so it may be anything by now: a wrong one costs at most some pages that are not seen.
                let order = page.buddy_order();
                if order > 0 && order <= MAX_PAGE_ORDER {
                    low_pfn = low_pfn.plus((1 << order) - 1);
                }
                continue;
            }
            if !self.isolate_page(page) {
                continue;
            }
            list::list_add(page.lru(), self.migratepages().from);
            self.nr_migratepages += 1;
            nr_isolated += 1;
            if self.nr_migratepages >= COMPACT_CLUSTER_MAX && !self.finish_pageblock {
                break;
            }
        }
        if self.balloon_2012 {
            balloon_2012::acct_isolated(nr_isolated);
        }
        low_pfn = low_pfn.min(end_pfn);
        // Not soon again where there is nothing to find, or where a second look changed nothing.
        if low_pfn == end_pfn && (nr_isolated == 0 || self.finish_pageblock) {
            if whole_block {
                set_pageblock_skip(pageblock_start_pfn(Pfn(end_pfn.0 - 1)), true);
            }
            self.update_cached_migrate(low_pfn);
        }
        self.migrate_pfn = low_pfn;
    }

    /// Takes a page from its owner, if it has one that can move it.
    fn isolate_page(&self, page: Page) -> bool {
        if self.balloon_2012 {
            return balloon_2012::isolate_page(page);
        }
        page.is_movable() && !page.is_isolated() && isolate_movable_page(page)
    }

    /// Moves what was isolated, or puts it back; how many pages failed, or `None` when there was nothing to move to.
    fn migrate_isolated(&mut self) -> Option<u64> {
        let lists = self.migratepages();
        let failed = if self.balloon_2012 { balloon_2012::migrate_pages(lists, self) } else { migrate_pages(lists, self) };
        self.nr_migratepages = 0;
        if failed == Some(0) {
            return failed;
        }
        if self.balloon_2012 {
            balloon_2012::putback_lru_pages(lists.from);
        } else {
            putback_movable_pages(lists.from);
        }
        failed
    }

    /// The next pageblock that may have something to move. Linux: isolate_migratepages().
    fn isolate_migratepages(&mut self) -> Isolated {
        let mut low_pfn = self.migrate_pfn;
        let mut block_end_pfn = pageblock_end_pfn(low_pfn);
        // Not beyond the free scanner.
        while block_end_pfn <= self.free_pfn {
            let at_start = is_pageblock_aligned(low_pfn) || low_pfn == self.zone.start_pfn();
            if !at_start || self.isolation_suitable(low_pfn) {
                self.isolate_migratepages_block(low_pfn, block_end_pfn);
                break;
            }
            low_pfn = block_end_pfn;
            self.migrate_pfn = low_pfn;
            block_end_pfn = block_end_pfn.plus(PAGEBLOCK_PAGES);
        }
        if self.nr_migratepages > 0 { Isolated::Some } else { Isolated::None }
    }

    /// Whether pages may move to a pageblock. Linux: suitable_migration_target().
    fn suitable_migration_target(&self, block: Pfn) -> bool {
        let page = Page::of(block);
        let order = self.order.unwrap_or(PAGEBLOCK_ORDER);
        if page.is_buddy() && page.buddy_order() >= order {
            // A large free block is what all this is for.
            return false;
        }
        pageblock_type(block) == Migratetype::Movable
    }

    /// Isolates free blocks in `[start, end_pfn)` until there are enough; returns where it ended. Linux: isolate_freepages_block().
    fn isolate_freepages_block(&mut self, start: Pfn, end_pfn: Pfn) -> Pfn {
        let lock = self.zone.lock();
        let mut locked = None;
        let mut at = start;
        while at < end_pfn {
            if at.0.is_multiple_of(COMPACT_CLUSTER_MAX)
                && let Some(flags) = locked.take()
            {
                lock.unlock_irqrestore(flags);
                sched::cond_resched();
            }
            let page = Page::of(at);
            if page.is_buddy() && locked.is_none() {
                locked = Some(lock.lock_irqsave());
            }
            // Looked at again: without the lock it may have been taken meanwhile.
            if !page.is_buddy() {
                at = at.plus(1);
                continue;
            }
            let order = page.buddy_order();
            if !isolate_free_page(self.zone, page, order) {
                break;
            }
            self.nr_freepages += 1 << order;
            list::list_add_tail(page.lru(), self.freepages(order));
            at = at.plus(1 << order);
            if self.nr_migratepages <= self.nr_freepages {
                break;
            }
        }
        if let Some(flags) = locked {
            lock.unlock_irqrestore(flags);
        }
        at.min(end_pfn)
    }

    /// Finds free pages for the pages isolated, from the zone's end down. Linux: isolate_freepages().
    fn isolate_freepages(&mut self) {
        let mut start = self.free_pfn;
        let mut block = pageblock_start_pfn(start);
        let mut block_end = block.plus(PAGEBLOCK_PAGES).min(self.zone.end_pfn());
        // The pageblock that the migrate scanner is in is not for moving to.
        let low_pfn = pageblock_end_pfn(self.migrate_pfn);
        while block >= low_pfn {
            if self.suitable_migration_target(block) && self.isolation_suitable(block) {
                start = self.isolate_freepages_block(start, block_end);
                let below = Pfn(block.0 - PAGEBLOCK_PAGES);
                if start == block_end {
                    self.update_pageblock_skip(block, below);
                }
                if self.nr_freepages >= self.nr_migratepages {
                    if start >= block_end {
                        start = below;
                    }
                    break;
                }
                if start < block_end {
                    // The zone is short of memory: no use in going on.
                    break;
                }
            }
            block_end = block;
            block = Pfn(block.0 - PAGEBLOCK_PAGES);
            start = block;
        }
        self.free_pfn = start;
    }

    /// Gives the free pages back that nothing moved to; returns the highest. Linux: release_free_list().
    fn release_free_list(&mut self) -> Option<Pfn> {
        let mut highest = None;
        for order in 0..=MAX_PAGE_ORDER {
            for node in list::iter(self.freepages(order)) {
                list::list_del(node);
                let pfn = Page::of_lru(node).pfn();
                // Readied as if they were allocated, so that they can be freed like any other.
                page_alloc::post_alloc(pfn, order, Gfp::MOVABLE);
                free_pages(pfn, order);
                highest = highest.max(Some(pfn));
            }
        }
        self.nr_freepages = 0;
        highest
    }

    /// `None` while there is work. Linux: compact_finished().
    fn finished(&self) -> Option<CompactResult> {
        if self.scanners_met() {
            // The next one starts anew.
            self.zone.reset_cached_positions();
            if self.order.is_some() {
                self.zone.set_compact_blockskip_flush(true);
            }
            return Some(if self.whole_zone { CompactResult::Complete } else { CompactResult::PartialSkipped });
        }
        let order = self.order?;
        if !is_pageblock_aligned(self.migrate_pfn) {
            return None;
        }
        let served = (order..=MAX_PAGE_ORDER).any(|order| fallback::has_block_for(self.zone, order, Migratetype::Movable));
        served.then_some(CompactResult::Success)
    }

    /// Where the scanners start. Linux: compact_zone().
    fn place_scanners(&mut self) {
        let (start, end) = (self.zone.start_pfn(), self.zone.end_pfn());
        let last_block = pageblock_start_pfn(Pfn(end.0 - 1));
        if self.whole_zone {
            (self.migrate_pfn, self.free_pfn) = (start, last_block);
            return;
        }
        let inside = |pfn: Pfn| start <= pfn && pfn < end;
        if !inside(self.zone.compact_cached_free_pfn()) {
            self.zone.set_compact_cached_free_pfn(last_block);
        }
        if !inside(self.zone.compact_cached_migrate_pfn()) {
            self.zone.set_compact_cached_migrate_pfn(start);
        }
        self.free_pfn = self.zone.compact_cached_free_pfn();
        self.migrate_pfn = self.zone.compact_cached_migrate_pfn();
        self.whole_zone = self.migrate_pfn <= start;
    }

    /// Why there is nothing to do for the order; `None` when there is. Linux: compaction_suit_allocation_order().
    fn unsuitable(&self) -> Option<CompactResult> {
        let order = self.order?;
        let class = globals::nr_zones() - 1;
        let flags = AllocFlags::slow(Gfp::HIGHUSER_MOVABLE, order);
        if zone_watermark_ok(self.zone, order, self.zone.watermark(flags.watermark), class, flags) {
            return Some(CompactResult::Success);
        }
        let costly = order > pcp::COSTLY_ORDER;
        let mark = self.zone.watermark(if costly { Watermark::Low } else { Watermark::Min });
        // Room for the pages that move and for those that they move to. Linux: compact_gap().
        let enough = zone_watermark_ok(self.zone, 0, mark + (2 << order), class, AllocFlags::FAST);
        (!enough).then_some(CompactResult::Skipped)
    }

    /// Compacts a zone. Linux: compact_zone().
    fn compact_zone(&mut self) -> CompactResult {
        self.init_lists();
        if let Some(result) = self.unsuitable() {
            return result;
        }
        if self.order.is_some() && self.zone.compact_blockskip_flush() {
            self.zone.reset_isolation_suitable();
        }
        self.place_scanners();
        let result = self.compact_until_finished();
        if let Some(highest) = self.release_free_list() {
            // The next one starts where these are.
            let block = pageblock_start_pfn(highest);
            if block > self.zone.compact_cached_free_pfn() {
                self.zone.set_compact_cached_free_pfn(block);
            }
        }
        assert!(list::list_empty(self.migratepages().from), "isolated pages are left behind");
        result
    }

    fn compact_until_finished(&mut self) -> CompactResult {
        let mut last_migrated = None;
        loop {
            if let Some(result) = self.finished() {
                return result;
            }
            self.finish_pageblock = last_migrated == Some(pageblock_start_pfn(self.migrate_pfn));
            if self.isolate_migratepages() == Isolated::Some {
                last_migrated = Some(pageblock_start_pfn(Pfn(self.migrate_pfn.0 - 1)));
                let failed = self.migrate_isolated();
                // Out of free pages because the scanners met is what the next look finds.
                if failed.is_none() && !self.scanners_met() {
                    return CompactResult::Contended;
                }
            }
            if let (Some(order), Some(last)) = (self.order, last_migrated)
                && last < Pfn(self.migrate_pfn.0 & !((1 << order) - 1))
            {
                // So that what came free can merge before anybody looks.
                pcp::drain_local_pages(self.zone);
                last_migrated = None;
            }
        }
    }
}

impl Target for CompactControl {
    /// A page of the smallest block isolated, which is split. Linux: compaction_alloc().
    fn alloc(&mut self) -> Option<Pfn> {
        let find = |cc: &Self| (0..=MAX_PAGE_ORDER).find(|&order| !list::list_empty(cc.freepages(order)));
        let found = find(self).or_else(|| {
            self.isolate_freepages();
            find(self)
        });
        let start_order = found?;
        let page = Page::of_lru(list::first(self.freepages(start_order)).expect("a list that is not empty"));
        list::list_del(page.lru());
        for order in (0..start_order).rev() {
            let upper = Page::of(page.pfn().plus(1 << order));
            list::list_add(upper.lru(), self.freepages(order));
        }
        page_alloc::post_alloc(page.pfn(), 0, Gfp::MOVABLE);
        self.nr_freepages -= 1;
        self.nr_migratepages -= 1;
        Some(page.pfn())
    }

    /// Linux: compaction_free().
    fn free(&mut self, pfn: Pfn) {
        let page = Page::of(pfn);
        if faulty(fault::COMPACT_FREE_NOPREP) {
            // Back as it was when it was taken, but for the reference that it was given.
            list::list_add(page.lru(), self.freepages(0));
            self.nr_freepages += 1;
        } else if page.put_testzero() {
            page_alloc::free_pages_prepare(pfn, 0);
            list::list_add(page.lru(), self.freepages(0));
            self.nr_freepages += 1;
        }
        self.nr_migratepages += 1;
    }
}

/// Pages anywhere, from the allocator. Linux: alloc_migration_target().
struct AnyZone;

impl Target for AnyZone {
    fn alloc(&mut self) -> Option<Pfn> {
        page_alloc::alloc_pages(Gfp::BALLOON, 0)
    }
    fn free(&mut self, page: Pfn) {
        page_alloc::put_page(page);
    }
}

/// Compacts every zone as far as possible. Linux: compact_nodes(), for /proc/sys/vm/compact_memory.
pub fn compact_nodes() {
    for zone in Zone::all() {
        CompactControl::of_zone(zone).compact_zone();
    }
}

/// Compacts until an allocation of the order would succeed in some zone; whether it would. Linux: try_to_compact_pages().
pub fn try_to_compact_pages(order: u32) -> bool {
    assert!(order <= MAX_PAGE_ORDER, "order {order}");
    Zone::all().rev().any(|zone| CompactControl::for_order(zone, order).compact_zone() == CompactResult::Success)
}

/// Moves what can be moved out of the lowest zone, to wherever there is memory; whether all of it went. The first step of taking memory
/// offline, and the way in which pages change zones, which compaction never makes them do. Linux: mm/memory_hotplug.c do_migrate_range().
/// Differs: the pageblocks are not isolated first, so with one zone, or a full other one, pages may come to lie in the zone again.
pub fn evacuate_lowest_zone() -> bool {
    let zone = Zone::at(0);
    let cc = CompactControl::of_zone(zone);
    cc.init_lists();
    let lists = cc.migratepages();
    for pfn in (zone.start_pfn().0..zone.end_pfn().0).map(Pfn) {
        let page = Page::of(pfn);
        if cc.isolate_page(page) {
            list::list_add_tail(page.lru(), lists.from);
        }
    }
    let failed = if cc.balloon_2012 { balloon_2012::migrate_pages(lists, &mut AnyZone) } else { migrate_pages(lists, &mut AnyZone) };
    if cc.balloon_2012 {
        balloon_2012::putback_lru_pages(lists.from);
    } else {
        putback_movable_pages(lists.from);
    }
    failed == Some(0)
}

/// Sets the scanners to the zones' ends. Linux: mm_init.c, mm/compaction.c.
pub(crate) fn init() {
    for zone in Zone::all() {
        zone.reset_isolation_suitable();
    }
}

#[cfg(test)]
mod tests;
