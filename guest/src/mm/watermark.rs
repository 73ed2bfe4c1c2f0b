//! How much memory must stay free. Linux: mm/page_alloc.c __zone_watermark_ok(), setup_per_zone_wmarks().

use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SHIFT;

use crate::kernel::list;
use crate::mm::gfp::{AllocFlags, Migratetype, Watermark};
use crate::mm::globals;
use crate::mm::zone::Zone;

/// Part of a DMA zone that allocations which could use DMA32 leave alone: 1/256 of what DMA32 has. Linux: sysctl_lowmem_reserve_ratio.
const LOWMEM_RESERVE_RATIO: u64 = 256;

/// Whether `order` can be taken from the zone without going below `mark` pages. `class` is the highest zone that the caller could
/// use. Linux: __zone_watermark_ok().
pub(crate) fn zone_watermark_ok(zone: Zone, order: u32, mark: u64, class: usize, flags: AllocFlags) -> bool {
    assert!(order <= MAX_PAGE_ORDER, "order {order}");
    let mut unusable = (1 << order) - 1;
    if !flags.any_reserve() {
        unusable += zone.nr_reserved_highatomic();
    }
    let mut min = mark;
    if flags.min_reserve {
        min -= min / 2;
        if flags.non_block {
            min -= min / 4;
        }
    }
    // Signed: with the high-atomic reserve taken off, less than nothing may be left.
    let free = zone.nr_free_pages() as i64 - unusable as i64;
    if free <= (min + zone.lowmem_reserve(class)) as i64 {
        return false;
    }
    order == 0 || has_free_block(zone, order, flags)
}

/// Whether a block of at least `order` is free on a list that the caller can use.
fn has_free_block(zone: Zone, order: u32, flags: AllocFlags) -> bool {
    let is_free = |order, migratetype| !list::list_empty(zone.free_list(order, migratetype));
    (order..=MAX_PAGE_ORDER).filter(|&order| zone.nr_free(order) > 0).any(|order| {
        Migratetype::PCP.iter().any(|&migratetype| is_free(order, migratetype))
            || flags.high_atomic && is_free(order, Migratetype::HighAtomic)
    })
}

/// Computes every zone's watermarks from the memory managed. Linux: init_per_zone_wmark_min().
pub(crate) fn setup_per_zone_wmarks() {
    let lowmem_pages: u64 = Zone::all().map(Zone::managed_pages).sum();
    assert!(lowmem_pages > 0, "no memory");
    let lowmem_kb = lowmem_pages << (PAGE_SHIFT - 10);
    let min_free_kb = (lowmem_kb * 16).isqrt().clamp(128, 262_144);
    let pages_min = min_free_kb >> (PAGE_SHIFT - 10);
    for zone in Zone::all() {
        let managed = zone.managed_pages();
        let min = pages_min * managed / lowmem_pages;
        let distance = (min / 4).max(managed * 10 / 10_000);
        zone.set_watermark(Watermark::Min, min);
        zone.set_watermark(Watermark::Low, min + distance);
        zone.set_watermark(Watermark::High, min + 2 * distance);
    }
    setup_per_zone_lowmem_reserve();
    let reserve = |zone: Zone| zone.lowmem_reserve(globals::nr_zones() - 1) + zone.watermark(Watermark::High);
    globals::set_totalreserve_pages(Zone::all().map(|zone| reserve(zone).min(zone.managed_pages())).sum());
}

/// Linux: setup_per_zone_lowmem_reserve().
fn setup_per_zone_lowmem_reserve() {
    for zone in Zone::all() {
        let mut above = 0;
        for class in zone.index() + 1..globals::nr_zones() {
            above += Zone::at(class).managed_pages();
            zone.set_lowmem_reserve(class, above / LOWMEM_RESERVE_RATIO);
        }
    }
}
