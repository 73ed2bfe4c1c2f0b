//! The memory map's and the free lists' first state. Linux: mm/mm_init.c, mm/memblock.c memblock_free_all().

use core::mem::offset_of;

use wire::layout::{KernelInfo, MAX_PAGE_ORDER, page::flag};
use wire::platform::{BootInfo, IMAGE, IMAGE_END, PAGE_SHIFT, PAGE_SIZE, RAM_BYTES_MAX, RAM_BYTES_MIN};

use crate::arch;
use crate::kernel::info;
use crate::mm::gfp::Migratetype;
use crate::mm::page::{Page, Pfn};
use crate::mm::zone::{self, DMA_END_PFN, PAGEBLOCK_PAGES, Zone};
use crate::mm::{balloon_compaction, compaction, globals, oom, page_alloc, pcp, shrinker, swap, watermark};

/// Sets up all of the memory manager, over a zeroed data segment: the memory map behind the image, everything up to its end reserved, the
/// rest on the free lists. Linux: mm_core_init().
pub(crate) fn init(boot: &BootInfo) {
    assert!((RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&boot.ram_bytes), "{} bytes of memory", boot.ram_bytes);
    assert!(boot.ram_bytes.is_multiple_of(PAGE_SIZE), "{} bytes of memory", boot.ram_bytes);
    let max_pfn = boot.ram_bytes >> PAGE_SHIFT;
    assert!((IMAGE..=IMAGE_END).contains(&arch::image_end()), "image ends at {:#x}", arch::image_end());
    let mem_map = IMAGE_END;
    let mem_map_end = mem_map + max_pfn * wire::layout::page::BYTES;
    let first_free = Pfn(mem_map_end.div_ceil(PAGE_SIZE));
    assert!(first_free.0 < max_pfn, "no memory behind the memory map");

    init_zones(max_pfn, mem_map, boot.flags);
    shrinker::init();
    oom::init();
    // Memory may hold what a kernel before this one left there. Linux: __init_single_page() zeroes each entry.
    arch::fill(mem_map, 0, max_pfn * wire::layout::page::BYTES);
    for pfn in 0..max_pfn {
        let reserved = pfn < first_free.0;
        Page::of(Pfn(pfn)).init(if reserved { flag::RESERVED } else { 0 }, u32::from(reserved));
    }
    for pfn in (0..max_pfn).step_by(PAGEBLOCK_PAGES as usize) {
        zone::set_pageblock_type(Pfn(pfn), Migratetype::Movable);
    }
    free_all(first_free, Pfn(max_pfn));
    watermark::setup_per_zone_wmarks();
    pcp::init();
    compaction::init();
    balloon_compaction::init();
    swap::init();
    info::publish(offset_of!(KernelInfo, mem_map), mem_map);
    info::publish(offset_of!(KernelInfo, max_pfn), max_pfn);
    info::publish(offset_of!(KernelInfo, nr_zones), globals::nr_zones() as u64);
    for zone in Zone::all() {
        info::publish_zone(zone.index(), &zone.info());
    }
}

/// One zone up to 16 MiB of memory, else two. Linux: free_area_init().
fn init_zones(max_pfn: u64, mem_map: u64, boot_flags: u64) {
    let split = max_pfn > DMA_END_PFN;
    globals::init(max_pfn, mem_map, if split { 2 } else { 1 }, boot_flags);
    if split {
        Zone::init(0, Pfn(0), Pfn(DMA_END_PFN));
        Zone::init(1, Pfn(DMA_END_PFN), Pfn(max_pfn));
    } else {
        Zone::init(0, Pfn(0), Pfn(max_pfn));
    }
}

/// Gives the range to the allocator in the largest aligned blocks. Linux: __free_memory_core(), __free_pages_core().
fn free_all(start: Pfn, end: Pfn) {
    let mut at = start;
    while at < end {
        let mut order = at.0.trailing_zeros().min(MAX_PAGE_ORDER);
        while at.0 + (1 << order) > end.0 {
            order -= 1;
        }
        adjust_managed_page_count(at, 1 << order);
        page_alloc::free_boot_block(at, order);
        at = at.plus(1 << order);
    }
    assert!(at == end, "memory behind the end was freed");
}

/// Adds to what the allocator manages, in the zone of `pfn` and in total. Linux: adjust_managed_page_count().
pub fn adjust_managed_page_count(pfn: Pfn, delta: i64) {
    Zone::of(pfn).add_managed_pages(delta);
    globals::add_totalram_pages(delta);
}
