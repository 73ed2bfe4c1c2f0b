//! Single behaviours of the memory manager that Linux has and a driver depends on.

use wire::debug;
use wire::layout::page::flag;
use wire::platform::{BootInfo, boot_flag};

use crate::arch;
use crate::kernel::{boot, list};
use crate::mm::balloon_compaction::{
    BalloonDevInfo, balloon_page_alloc, balloon_page_dequeue, balloon_page_enqueue, balloon_page_list_dequeue,
};
use crate::mm::gfp::{Gfp, Migratetype, Watermark};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{alloc_pages, free_pages, put_page};
use crate::mm::pcp::{self, Pcp, drain_all_pages};
use crate::mm::zone::{Zone, pageblock_type};
use crate::mm::{
    adjust_managed_page_count, oom, register_oom_notifier, register_shrinker, shrinker, stats, unregister_oom_notifier, unregister_shrinker,
};

const MIB: u64 = 1 << 20;
const SCRATCH: u64 = crate::kernel::data::DRIVER_DATA;

fn boot_with(ram_bytes: u64, flags: u64) {
    boot::init_for_test_with(&BootInfo { flags, ..boot::test_boot_info(ram_bytes, 1) });
}

fn zone() -> Zone {
    Zone::at(0)
}

/// Takes every block of the given order with hint flags.
fn exhaust(order: u32) -> Vec<Pfn> {
    std::iter::from_fn(|| alloc_pages(Gfp::FREE_PAGE_HINT, order)).collect()
}

#[test]
fn memory_up_to_16_mib_is_one_zone_and_more_is_two() {
    boot_with(16 * MIB, 0);
    assert_eq!(Zone::all().count(), 1);
    boot_with(17 * MIB, 0);
    let zones: Vec<(u64, u64)> = Zone::all().map(|zone| (zone.start_pfn().0, zone.end_pfn().0)).collect();
    assert_eq!(zones, [(0, 4096), (4096, 4352)]);
    assert_eq!(Zone::at(0).lowmem_reserve(1), 1);
}

#[test]
fn watermarks_follow_the_square_root_formula() {
    boot_with(64 * MIB, 0);
    let managed: u64 = Zone::all().map(Zone::managed_pages).sum();
    let pages_min = (managed * 4 * 16).isqrt() / 4;
    let mins: u64 = Zone::all().map(|zone| zone.watermark(Watermark::Min)).sum();
    assert!(mins <= pages_min && pages_min - mins < 2, "{mins} of {pages_min}");
    for zone in Zone::all() {
        let (min, low, high) = (zone.watermark(Watermark::Min), zone.watermark(Watermark::Low), zone.watermark(Watermark::High));
        assert_eq!((low - min, high - low), (min / 4, min / 4));
    }
}

#[test]
fn expand_leaves_the_lower_half_and_puts_upper_halves_first() {
    boot_with(16 * MIB, 0);
    let whole = alloc_pages(Gfp::HIGHUSER_MOVABLE, 10).expect("memory");
    free_pages(whole, 10);
    let small = alloc_pages(Gfp::HIGHUSER_MOVABLE, 4).expect("memory");
    for order in 4..10 {
        if let Some(first) = zone().first_free(order, Migratetype::Movable)
            && (small.0 ^ first.pfn().0) == 1 << order
        {
            assert!(first.pfn() > small, "the upper half is free");
        }
    }
    free_pages(small, 4);
    assert_eq!(alloc_pages(Gfp::HIGHUSER_MOVABLE, 4), Some(small));
}

#[test]
fn hint_blocks_turn_their_pageblocks_unmovable_and_stay_so() {
    boot_with(16 * MIB, 0);
    let blocks = exhaust(10);
    assert_eq!(blocks.len(), 3, "all of them: what is free beside them lies above the watermark");
    for &block in &blocks {
        assert_eq!([pageblock_type(block), pageblock_type(block.plus(512))], [Migratetype::Unmovable; 2]);
        free_pages(block, 10);
        assert_eq!(pageblock_type(block), Migratetype::Unmovable);
    }
}

#[test]
fn freed_small_blocks_rest_on_the_cpus_list_unseen() {
    boot_with(16 * MIB, 0);
    let pfn = alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory");
    drain_all_pages();
    let free = zone().nr_free_pages();
    free_pages(pfn, 0);
    assert_eq!((zone().nr_free_pages(), pcp::total_count(zone())), (free, 1));
    let page = Page::of(pfn);
    assert_eq!((page.refcount(), page.is_buddy(), page.index()), (0, false, Migratetype::Movable as u64));
    assert_eq!(alloc_pages(Gfp::HIGHUSER_MOVABLE, 0), Some(pfn), "last in, first out");
}

#[test]
fn a_full_list_is_drained_to_the_buddy_lists() {
    boot_with(16 * MIB, 0);
    let pcp = Pcp::of(zone(), 0);
    let pages: Vec<Pfn> = (0..2 * pcp.high()).map(|_| alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory")).collect();
    for pfn in pages {
        free_pages(pfn, 0);
        assert!(pcp.count() < pcp.high());
    }
}

#[test]
fn a_busy_list_lock_sends_the_allocation_to_the_zone() {
    boot_with(16 * MIB, 0);
    let lock = crate::mm::pcp::addr(zone(), 0) + 8;
    arch::write32(lock, 2);
    let pfn = alloc_pages(Gfp::KERNEL, 0).expect("memory");
    free_pages(pfn, 0);
    assert_eq!(pcp::total_count(zone()), 0);
    arch::take_traces().iter().for_each(|trace| assert!(trace.2 != lock, "a failed try waits for nobody: {trace:?}"));
}

#[test]
fn a_speculative_reference_delays_only_the_first_page() {
    boot_with(16 * MIB, 0);
    let free = stats::si_meminfo().freeram;
    let block = alloc_pages(Gfp::FREE_PAGE_HINT, 10).expect("memory");
    Page::of(block).get();
    free_pages(block, 10);
    drain_all_pages();
    assert_eq!(stats::si_meminfo().freeram, free - 1);
    put_page(block);
    drain_all_pages();
    assert_eq!(stats::si_meminfo().freeram, free);
    let page = Page::of(block);
    assert!(page.is_buddy() && page.buddy_order() == 10, "the block is whole again");
}

#[test]
#[should_panic(expected = "is freed twice")]
fn a_double_free_is_caught() {
    boot_with(16 * MIB, 0);
    let pfn = alloc_pages(Gfp::KERNEL, 0).expect("memory");
    free_pages(pfn, 0);
    free_pages(pfn, 0);
}

#[test]
#[should_panic(expected = "memory corruption")]
fn a_store_to_a_free_page_is_caught_by_poison() {
    boot_with(8 * MIB, boot_flag::PAGE_POISON);
    let pfn = alloc_pages(Gfp::KERNEL, 0).expect("memory");
    free_pages(pfn, 0);
    arch::write64(pfn.addr() + 512, 1);
    alloc_pages(Gfp::KERNEL, 0);
}

#[test]
fn every_store_of_the_allocator_lies_between_alloc_and_free() {
    boot_with(8 * MIB, boot_flag::INIT_ON_ALLOC | boot_flag::INIT_ON_FREE);
    let pfn = alloc_pages(Gfp::KERNEL, 5).expect("memory");
    arch::write64(pfn.addr(), 7);
    free_pages(pfn, 5);
    assert_eq!(arch::read64(pfn.addr()), 0, "zeroed before it went back");
    let traces = arch::take_traces();
    let place = |code| traces.iter().position(|trace| *trace == (code, pfn.0, 5)).expect("the tracepoint was said");
    assert!(place(debug::ALLOC) < place(debug::FREE));
    assert_eq!(traces.last().map(|trace| trace.0), Some(debug::UNLOCK), "FREE comes before the lists are touched");
}

#[test]
fn a_failed_allocation_says_so_and_warns_unless_told_not_to() {
    boot_with(16 * MIB, 0);
    let blocks = exhaust(10);
    arch::take_traces();
    assert_eq!(alloc_pages(Gfp::FREE_PAGE_HINT, 10), None);
    let codes = |traces: Vec<(u32, u64, u64)>| {
        traces.iter().map(|trace| trace.0).filter(|code| [debug::ALLOC_FAIL, debug::WARN, debug::OOM].contains(code)).collect::<Vec<_>>()
    };
    assert_eq!(codes(arch::take_traces()), [debug::ALLOC_FAIL]);
    assert_eq!(alloc_pages(Gfp::KERNEL, 10), None);
    assert_eq!(codes(arch::take_traces()), [debug::ALLOC_FAIL, debug::WARN], "a costly order does not run the OOM notifiers");
    blocks.into_iter().for_each(|block| free_pages(block, 10));
}

fn hoard_count(ctx: u64, _: u64) -> u64 {
    arch::read64(ctx) * 1024
}

fn hoard_scan(ctx: u64, pages: u64) -> u64 {
    let blocks = pages.div_ceil(1024).min(arch::read64(ctx));
    for _ in 0..blocks {
        let held = arch::read64(ctx) - 1;
        arch::write64(ctx, held);
        free_pages(Pfn(arch::read64(ctx + 8 + held * 8)), 10);
    }
    blocks * 1024
}

#[test]
fn direct_reclaim_asks_shrinkers_in_batches_until_enough_is_free() {
    boot_with(16 * MIB, 0);
    let blocks = exhaust(10);
    arch::write64(SCRATCH, blocks.len() as u64);
    for (at, block) in blocks.iter().enumerate() {
        arch::write64(SCRATCH + 8 + at as u64 * 8, block.0);
    }
    let registered = register_shrinker(hoard_count, hoard_scan, SCRATCH).expect("a free slot");
    let rest: Vec<Pfn> = std::iter::from_fn(|| alloc_pages(Gfp::NOWAIT, 0)).collect();
    arch::take_traces();
    let pfn = alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("the shrinker gives a block back");
    let asked: Vec<u64> = arch::take_traces().iter().filter(|trace| trace.0 == debug::SHRINK).map(|trace| trace.1).collect();
    assert_eq!(asked, [128], "one batch frees a block, more than a cluster");
    assert_eq!((arch::read64(SCRATCH), stats::event(stats::Event::AllocStall)), (blocks.len() as u64 - 1, 1));
    unregister_shrinker(registered);
    assert_eq!(shrinker::shrink_pages(1024), 0);
    rest.into_iter().chain([pfn]).for_each(|pfn| free_pages(pfn, 0));
}

fn note_order(ctx: u64, _: u64) -> u64 {
    let place = arch::fetch_add64(SCRATCH, 1);
    arch::write64(SCRATCH + 8 + place * 8, ctx);
    ctx
}

#[test]
fn oom_notifiers_run_by_priority_and_their_pages_add_up() {
    boot_with(16 * MIB, 0);
    let low = register_oom_notifier(10, note_order, 3).expect("a free slot");
    let high = register_oom_notifier(80, note_order, 5).expect("a free slot");
    assert_eq!(oom::out_of_memory(), 8);
    assert_eq!([arch::read64(SCRATCH + 8), arch::read64(SCRATCH + 16)], [5, 3]);
    unregister_oom_notifier(high);
    unregister_oom_notifier(low);
    assert_eq!((oom::out_of_memory(), stats::event(stats::Event::OomKill)), (0, 1));
}

fn give_one_back(ctx: u64, _: u64) -> u64 {
    let held = arch::xchg64(ctx, 0);
    if held == 0 {
        return 0;
    }
    free_pages(Pfn(held), 6);
    64
}

#[test]
fn an_allocation_without_hope_runs_the_oom_notifiers_and_tries_again() {
    boot_with(16 * MIB, 0);
    let held = alloc_pages(Gfp::KERNEL, 6).expect("memory");
    arch::write64(SCRATCH, held.0);
    register_oom_notifier(80, give_one_back, SCRATCH).expect("a free slot");
    let mut taken = 0;
    while alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).is_some() {
        taken += 1;
        assert!(taken < 4096);
    }
    assert_eq!(arch::read64(SCRATCH), 0, "the notifier ran");
    let count = |code| arch::take_traces().iter().filter(|trace| trace.0 == code).count();
    assert_eq!(count(debug::OOM), 2, "once with success, once without");
}

#[test]
fn atomic_allocations_of_several_pages_reserve_a_pageblock() {
    boot_with(256 * MIB, 0);
    let zone = Zone::at(1);
    let low = zone.watermark(Watermark::Low) + zone.managed_pages() / 256;
    // Down to the low watermark, so that the slow path with its reserves is taken.
    while Zone::all().any(|zone| zone.nr_free_pages() > low + 1024) && alloc_pages(Gfp::FREE_PAGE_HINT, 10).is_some() {}
    while Zone::all().map(Zone::nr_free_pages).max() > Some(0) && zone.nr_reserved_highatomic() == 0 {
        let before = zone.nr_free_pages();
        assert!(alloc_pages(Gfp::ATOMIC, 4).is_some(), "{before} pages are free");
    }
    assert_eq!(zone.nr_reserved_highatomic(), 512);
    let reserved = (zone.start_pfn().0..zone.end_pfn().0).step_by(512).filter(|&pfn| pageblock_type(Pfn(pfn)) == Migratetype::HighAtomic);
    assert_eq!(reserved.count(), 1);
}

#[test]
fn balloon_pages_are_offline_movable_and_last_in_first_out() {
    boot_with(16 * MIB, 0);
    let dev = BalloonDevInfo::at(SCRATCH);
    dev.init();
    let pages: Vec<Pfn> = (0..3).map(|_| balloon_page_alloc().expect("memory")).collect();
    let managed = stats::si_meminfo().totalram;
    for &pfn in &pages {
        balloon_page_enqueue(dev, pfn);
        adjust_managed_page_count(pfn, -1);
        let page = Page::of(pfn);
        assert!(page.is_offline() && page.is_movable() && !page.is_locked());
        assert_eq!((page.refcount(), page.private()), (1, SCRATCH));
    }
    assert_eq!(stats::si_meminfo().totalram, managed - 3);
    Page::of(pages[2]).set_flags(flag::LOCKED);
    assert_eq!(balloon_page_dequeue(dev), Some(pages[1]), "a locked page is passed over");
    Page::of(pages[2]).unlock();
    let taken = SCRATCH + 64;
    list::init_list_head(taken);
    assert_eq!(balloon_page_list_dequeue(dev, taken, 9), 2);
    assert!(list::list_empty(dev.pages()));
    for pfn in pages {
        assert!(!Page::of(pfn).is_offline());
        put_page(pfn);
        assert_eq!(Page::of(pfn).mapping(), 0);
    }
}

#[test]
#[should_panic(expected = "balloon pages are lost")]
fn dequeue_from_an_empty_balloon_is_caught() {
    boot_with(16 * MIB, 0);
    let dev = BalloonDevInfo::at(SCRATCH);
    dev.init();
    balloon_page_dequeue(dev);
}
