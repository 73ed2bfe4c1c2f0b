//! Zones and their free lists. Linux: struct zone, include/linux/mmzone.h.
//!
//! Memory up to 16 MiB is one zone, called DMA32: a DMA zone would leave it nothing. Larger memory has DMA (below 16 MiB) and DMA32.
//! NORMAL and MOVABLE would start above 4 GiB; memory ends at 2 GiB.

use wire::layout::{FREE_AREA_BYTES, MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_ORDER, ZoneInfo};

use crate::arch::{self, read8, read64, write8, write64};
use crate::kernel::lock::SpinLock;
use crate::kernel::{data, list};
use crate::mm::gfp::{Migratetype, Watermark};
use crate::mm::globals;
use crate::mm::page::{Page, Pfn};
use crate::mm::pcp;

/// Bytes of a zone.
pub(crate) const ZONE_BYTES: u64 = 2048;
const Z_LOCK: u64 = 0;
const Z_FREE_AREA: u64 = 64;
const Z_NR_FREE: u64 = 1088;
const Z_MANAGED: u64 = Z_NR_FREE + 8;
const Z_START: u64 = Z_NR_FREE + 16;
const Z_SPANNED: u64 = Z_NR_FREE + 24;
const Z_WATERMARK: u64 = Z_NR_FREE + 32;
const Z_LOWMEM_RESERVE: u64 = Z_NR_FREE + 56;
const Z_HIGHATOMIC: u64 = Z_NR_FREE + 80;
const _: () = assert!(Z_FREE_AREA + NR_PAGE_ORDERS as u64 * FREE_AREA_BYTES <= Z_NR_FREE);
const Z_CACHED_FREE: u64 = Z_NR_FREE + 88;
const Z_CACHED_MIGRATE: u64 = Z_NR_FREE + 96;
const Z_BLOCKSKIP_FLUSH: u64 = Z_NR_FREE + 104;
const _: () = assert!(Z_BLOCKSKIP_FLUSH + 8 <= ZONE_BYTES);

/// Pages of a pageblock.
pub(crate) const PAGEBLOCK_PAGES: u64 = 1 << PAGEBLOCK_ORDER;

/// First frame above the DMA zone.
pub(crate) const DMA_END_PFN: u64 = (16 << 20) >> wire::platform::PAGE_SHIFT;

/// A zone, by index: the highest has the highest addresses and is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(usize);

impl Zone {
    /// The zone of an index.
    pub fn at(index: usize) -> Zone {
        assert!(index < globals::nr_zones(), "no zone {index}");
        Zone(index)
    }
    /// The zone of a frame. Linux: page_zone().
    pub fn of(pfn: Pfn) -> Zone {
        Zone(usize::from(globals::nr_zones() > 1 && pfn.0 >= DMA_END_PFN))
    }
    /// All zones, lowest first.
    pub fn all() -> impl DoubleEndedIterator<Item = Zone> {
        (0..globals::nr_zones()).map(Zone)
    }
    /// The index.
    pub fn index(self) -> usize {
        self.0
    }
    fn addr(self) -> u64 {
        data::ZONES + self.0 as u64 * ZONE_BYTES
    }
    /// `zone->lock`.
    pub(crate) fn lock(self) -> SpinLock {
        SpinLock::at(self.addr() + Z_LOCK, wire::debug::lock::ZONE)
    }
    /// Head of the free list of an order and type.
    pub fn free_list(self, order: u32, migratetype: Migratetype) -> u64 {
        assert!(order <= MAX_PAGE_ORDER, "order {order}");
        self.addr() + Z_FREE_AREA + u64::from(order) * FREE_AREA_BYTES + migratetype as u64 * list::LIST_HEAD_BYTES
    }
    fn nr_free_addr(self, order: u32) -> u64 {
        assert!(order <= MAX_PAGE_ORDER, "order {order}");
        self.addr() + Z_FREE_AREA + u64::from(order) * FREE_AREA_BYTES + FREE_AREA_BYTES - 8
    }
    /// Blocks of an order on the free lists. Linux: free_area.nr_free.
    pub fn nr_free(self, order: u32) -> u64 {
        read64(self.nr_free_addr(order))
    }
    /// Free pages on the buddy lists, those of ISOLATE blocks not counted. Linux: NR_FREE_PAGES.
    pub fn nr_free_pages(self) -> u64 {
        read64(self.addr() + Z_NR_FREE)
    }
    /// Linux: zone_managed_pages().
    pub fn managed_pages(self) -> u64 {
        read64(self.addr() + Z_MANAGED)
    }
    /// Adds to them. As in Linux nobody asks whether the zone has so many: that is for an observer to see.
    pub(crate) fn add_managed_pages(self, delta: i64) {
        arch::fetch_add64(self.addr() + Z_MANAGED, delta as u64);
    }
    /// First frame.
    pub fn start_pfn(self) -> Pfn {
        Pfn(read64(self.addr() + Z_START))
    }
    /// Frame behind the last.
    pub fn end_pfn(self) -> Pfn {
        self.start_pfn().plus(read64(self.addr() + Z_SPANNED))
    }
    /// Linux: zone_spans_pfn().
    pub fn spans(self, pfn: Pfn) -> bool {
        self.start_pfn() <= pfn && pfn < self.end_pfn()
    }
    /// Linux: wmark_pages(). Differs: nothing boosts watermarks, because no kswapd would lower them again.
    pub fn watermark(self, mark: Watermark) -> u64 {
        read64(self.addr() + Z_WATERMARK + watermark_slot(mark) * 8)
    }
    pub(crate) fn set_watermark(self, mark: Watermark, pages: u64) {
        write64(self.addr() + Z_WATERMARK + watermark_slot(mark) * 8, pages);
    }
    /// Pages that an allocation which could have used the zone `class` must leave here. Linux: lowmem_reserve[].
    pub fn lowmem_reserve(self, class: usize) -> u64 {
        read64(self.addr() + Z_LOWMEM_RESERVE + class as u64 * 8)
    }
    pub(crate) fn set_lowmem_reserve(self, class: usize, pages: u64) {
        assert!(class < wire::layout::MAX_ZONES, "no zone {class}");
        write64(self.addr() + Z_LOWMEM_RESERVE + class as u64 * 8, pages);
    }
    /// Linux: nr_reserved_highatomic.
    pub fn nr_reserved_highatomic(self) -> u64 {
        read64(self.addr() + Z_HIGHATOMIC)
    }
    pub(crate) fn set_nr_reserved_highatomic(self, pages: u64) {
        write64(self.addr() + Z_HIGHATOMIC, pages);
    }

    /// Where the free scanner goes on. Linux: compact_cached_free_pfn.
    pub(crate) fn compact_cached_free_pfn(self) -> Pfn {
        Pfn(read64(self.addr() + Z_CACHED_FREE))
    }
    pub(crate) fn set_compact_cached_free_pfn(self, pfn: Pfn) {
        write64(self.addr() + Z_CACHED_FREE, pfn.0);
    }
    /// Where the migrate scanner goes on. Linux: compact_cached_migrate_pfn. Differs: one, since nothing compacts asynchronously.
    pub(crate) fn compact_cached_migrate_pfn(self) -> Pfn {
        Pfn(read64(self.addr() + Z_CACHED_MIGRATE))
    }
    pub(crate) fn set_compact_cached_migrate_pfn(self, pfn: Pfn) {
        write64(self.addr() + Z_CACHED_MIGRATE, pfn.0);
    }
    /// Whether the scanners met: which pageblocks were in vain is to be forgotten. Linux: compact_blockskip_flush.
    pub(crate) fn compact_blockskip_flush(self) -> bool {
        read64(self.addr() + Z_BLOCKSKIP_FLUSH) != 0
    }
    pub(crate) fn set_compact_blockskip_flush(self, flush: bool) {
        write64(self.addr() + Z_BLOCKSKIP_FLUSH, u64::from(flush));
    }
    /// The scanners start at the zone's ends again. Linux: reset_cached_positions().
    pub(crate) fn reset_cached_positions(self) {
        self.set_compact_cached_migrate_pfn(self.start_pfn());
        self.set_compact_cached_free_pfn(Pfn((self.end_pfn().0 - 1) & !(PAGEBLOCK_PAGES - 1)));
    }
    /// Forgets which pageblocks were scanned in vain. Linux: __reset_isolation_suitable(), by kswapd; here by the next compaction.
    pub(crate) fn reset_isolation_suitable(self) {
        self.set_compact_blockskip_flush(false);
        for pfn in (self.start_pfn().0..self.end_pfn().0).step_by(PAGEBLOCK_PAGES as usize) {
            set_pageblock_skip(Pfn(pfn), false);
        }
        self.reset_cached_positions();
    }

    /// Sets up an empty zone. Linux: free_area_init_core(), zone_init_free_lists().
    pub(crate) fn init(index: usize, start: Pfn, end: Pfn) -> Zone {
        assert!(start < end, "empty zone");
        assert!(start.0.is_multiple_of(1 << MAX_PAGE_ORDER), "zone starts inside a block");
        let zone = Zone(index);
        zone.lock().init();
        for order in 0..=MAX_PAGE_ORDER {
            for migratetype in Migratetype::ALL {
                list::init_list_head(zone.free_list(order, migratetype));
            }
            write64(zone.nr_free_addr(order), 0);
        }
        write64(zone.addr() + Z_NR_FREE, 0);
        write64(zone.addr() + Z_MANAGED, 0);
        write64(zone.addr() + Z_START, start.0);
        write64(zone.addr() + Z_SPANNED, end.0 - start.0);
        zone
    }

    /// Addresses for an observer.
    pub(crate) fn info(self) -> ZoneInfo {
        let start = self.start_pfn();
        ZoneInfo {
            start_pfn: start.0,
            spanned_pages: self.end_pfn().0 - start.0,
            lock: self.addr() + Z_LOCK,
            free_area: self.addr() + Z_FREE_AREA,
            nr_free_pages: self.addr() + Z_NR_FREE,
            managed_pages: self.addr() + Z_MANAGED,
            pageblock_types: pageblock_type_addr(start),
            pcp: pcp::addr(self, 0),
            pcp_stride: pcp::PCP_BYTES,
        }
    }

    fn account_free_pages(self, migratetype: Migratetype, delta: i64) {
        if migratetype != Migratetype::Isolate {
            write64(self.addr() + Z_NR_FREE, self.nr_free_pages().wrapping_add(delta as u64));
        }
    }

    /// Puts a block on a free list, last or first; under the lock. Linux: __add_to_free_list().
    pub(crate) fn add_to_free_list(self, page: Page, order: u32, migratetype: Migratetype, tail: bool) {
        debug_assert!(pageblock_type(page.pfn()) == migratetype, "block on a list of another type");
        let head = self.free_list(order, migratetype);
        if tail {
            list::list_add_tail(page.lru(), head)
        } else {
            list::list_add(page.lru(), head)
        }
        write64(self.nr_free_addr(order), self.nr_free(order) + 1);
        self.account_free_pages(migratetype, 1 << order);
    }

    /// Takes a block off its free list; under the lock. It is then neither Buddy nor reported. Linux: __del_page_from_free_list().
    pub(crate) fn del_from_free_list(self, page: Page, order: u32, migratetype: Migratetype) {
        assert!(page.buddy_order() == order, "free block {:#x} has order {}, not {order}", page.pfn().0, page.buddy_order());
        if page.has_flags(wire::layout::page::flag::REPORTED) {
            page.clear_flags(wire::layout::page::flag::REPORTED);
        }
        list::list_del(page.lru());
        page.clear_buddy();
        write64(self.nr_free_addr(order), self.nr_free(order) - 1);
        self.account_free_pages(migratetype, -(1 << order));
    }

    /// Moves a free block to another type's list, last; under the lock. Linux: move_to_free_list().
    pub(crate) fn move_to_free_list(self, page: Page, order: u32, from: Migratetype, to: Migratetype) {
        list::list_move_tail(page.lru(), self.free_list(order, to));
        self.account_free_pages(from, -(1 << order));
        self.account_free_pages(to, 1 << order);
    }

    /// The first free block of an order and type. Linux: get_page_from_free_area().
    pub(crate) fn first_free(self, order: u32, migratetype: Migratetype) -> Option<Page> {
        list::first(self.free_list(order, migratetype)).map(Page::of_lru)
    }
}

fn watermark_slot(mark: Watermark) -> u64 {
    match mark {
        Watermark::Min => 0,
        Watermark::Low => 1,
        Watermark::High => 2,
    }
}

fn pageblock_type_addr(pfn: Pfn) -> u64 {
    data::PAGEBLOCK_TYPES + (pfn.0 >> PAGEBLOCK_ORDER)
}

/// The type of a frame's pageblock. Linux: get_pfnblock_migratetype().
pub fn pageblock_type(pfn: Pfn) -> Migratetype {
    Migratetype::from_number(read8(pageblock_type_addr(pfn)))
}

/// Linux: set_pageblock_migratetype().
pub(crate) fn set_pageblock_type(pfn: Pfn, migratetype: Migratetype) {
    write8(pageblock_type_addr(pfn), migratetype as u8);
}

fn pageblock_skip_addr(pfn: Pfn) -> u64 {
    data::PAGEBLOCK_SKIP + (pfn.0 >> PAGEBLOCK_ORDER)
}

/// Whether compaction found nothing in a frame's pageblock. Linux: get_pageblock_skip().
pub(crate) fn pageblock_skip(pfn: Pfn) -> bool {
    read8(pageblock_skip_addr(pfn)) != 0
}

/// Linux: set_pageblock_skip(), clear_pageblock_skip().
pub(crate) fn set_pageblock_skip(pfn: Pfn, skip: bool) {
    write8(pageblock_skip_addr(pfn), u8::from(skip));
}
