//! Scanners and the life of a balloon page, over a balloon whose driver is the test.

use proptest::prelude::*;
use wire::debug;

use super::*;
use crate::arch;
use crate::kernel::boot::init_for_test;
use crate::kernel::data::DRIVER_DATA;
use crate::mm::balloon_compaction::{
    BalloonDevInfo, balloon_page_alloc, balloon_page_dequeue, balloon_page_enqueue, balloon_page_finalize, balloon_page_insert,
};
use crate::mm::migrate::{isolate_movable_page, rc};
use crate::mm::page_alloc::{alloc_pages, put_page};
use crate::mm::pcp::drain_all_pages;
use crate::mm::stats::si_meminfo;

const DEV: BalloonDevInfo = BalloonDevInfo::at(DRIVER_DATA);
/// What the test's driver answers: one of [`rc`].
const ANSWER: u64 = DRIVER_DATA + 0x100;

/// As a driver's: the new page takes the old one's place.
fn migratepage(new: u64, page: u64) -> u64 {
    let answer = arch::read64(ANSWER);
    if answer == rc::SUCCESS {
        let (new, page) = (Page::of(Pfn(new)), Page::of(Pfn(page)));
        new.get();
        balloon_page_insert(DEV, new);
        DEV.set_isolated_pages(DEV.isolated_pages() - 1);
        balloon_page_finalize(page);
        put_page(page.pfn());
    }
    answer
}

fn machine(pages: u64) -> Vec<Pfn> {
    init_for_test(16 << 20, 1);
    DEV.init();
    DEV.set_migratepage(migratepage);
    inflate(pages)
}

fn inflate(pages: u64) -> Vec<Pfn> {
    let inflated: Vec<Pfn> = (0..pages).map(|_| balloon_page_alloc().expect("memory")).collect();
    inflated.iter().for_each(|&page| balloon_page_enqueue(DEV, page));
    inflated
}

/// User pages above the balloon, the last of them in the middle of a pageblock.
fn fill_above() -> Vec<Pfn> {
    let mut pages: Vec<Pfn> = (0..700).map(|_| alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory")).collect();
    while pages.last().is_some_and(|last| last.0 % PAGEBLOCK_PAGES < 64) {
        pages.push(alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory"));
    }
    drain_all_pages();
    pages
}

fn balloon() -> Vec<Pfn> {
    list::iter(DEV.pages()).map(|node| Page::of_lru(node).pfn()).collect()
}

fn traced(code: u32) -> Vec<u64> {
    arch::take_traces().into_iter().filter(|trace| trace.0 == code).map(|trace| trace.1).collect()
}

fn free_pages_now() -> u64 {
    drain_all_pages();
    si_meminfo().freeram
}

/// A page on the balloon's list: one reference, Offline, movable, neither locked nor isolated. Linux: the rules of balloon_compaction.h.
fn assert_on_list(pfn: Pfn) {
    let page = Page::of(pfn);
    assert_eq!((page.refcount(), page.is_offline(), page.is_movable()), (1, true, true), "page {:#x}", pfn.0);
    assert!(!page.is_locked() && !page.is_isolated() && page.private() == DRIVER_DATA, "page {:#x}", pfn.0);
}

#[test]
fn balloon_pages_move_up_to_where_user_pages_end() {
    let before = machine(100);
    let above = fill_above();
    let free = free_pages_now();
    compact_nodes();
    let mut after = balloon();
    assert_eq!(after.len(), 100);
    after.iter().for_each(|&page| assert_on_list(page));
    after.sort_unstable();
    assert!(after.first() > above.last(), "{:#x?} is not above {:#x?}", after.first(), above.last());
    assert!(before.iter().all(|&page| Page::of(page).refcount() == 0), "the old pages are free");
    assert_eq!((free_pages_now(), DEV.isolated_pages()), (free, 0));
}

#[test]
fn pages_that_find_no_place_come_back() {
    let mut before = machine(100);
    compact_nodes();
    let mut after = balloon();
    after.iter().for_each(|&page| assert_on_list(page));
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!((after, DEV.isolated_pages()), (before, 0));
}

#[test]
fn a_cluster_is_isolated_first_and_then_the_rest_of_its_pageblock() {
    machine(100);
    fill_above();
    arch::take_traces();
    compact_nodes();
    let traces = arch::take_traces();
    let codes: Vec<u32> = traces.iter().map(|trace| trace.0).filter(|code| [debug::ISOLATE, debug::MIGRATE_PAGE].contains(code)).collect();
    let clusters: Vec<usize> = codes.chunk_by(|a, b| a == b).map(<[u32]>::len).collect();
    assert_eq!(clusters, [32, 32, 68, 68]);
}

#[test]
fn a_page_whose_owner_is_busy_is_tried_ten_times() {
    let before = machine(1);
    fill_above();
    arch::write64(ANSWER, rc::AGAIN);
    arch::take_traces();
    compact_nodes();
    assert_eq!(traced(debug::MIGRATE_PAGE).len(), 10);
    assert_eq!(balloon(), before);
    assert_on_list(before[0]);
}

#[test]
fn a_page_that_fails_for_good_is_tried_once() {
    let before = machine(1);
    fill_above();
    arch::write64(ANSWER, rc::BUSY);
    arch::take_traces();
    compact_nodes();
    assert_eq!(traced(debug::MIGRATE_PAGE).len(), 1);
    assert_on_list(before[0]);
}

#[test]
fn an_isolated_page_has_two_references_and_is_off_the_list() {
    let before = machine(3);
    let page = Page::of(before[1]);
    assert!(isolate_movable_page(page));
    assert_eq!((page.refcount(), page.is_isolated(), page.is_offline(), page.is_locked()), (2, true, true, false));
    assert_eq!((balloon(), DEV.isolated_pages()), (vec![before[2], before[0]], 1));
    assert!(!isolate_movable_page(page), "once is enough");
    assert_eq!(page.refcount(), 2);
}

#[test]
fn a_locked_page_is_neither_isolated_nor_dequeued() {
    let before = machine(1);
    let page = Page::of(before[0]);
    assert!(page.try_lock());
    assert!(!isolate_movable_page(page));
    assert_eq!(balloon_page_dequeue(DEV), None);
    page.unlock();
    assert_on_list(before[0]);
}

#[test]
fn an_empty_list_with_isolated_pages_is_no_mistake() {
    let before = machine(1);
    assert!(isolate_movable_page(Page::of(before[0])));
    assert_eq!(balloon_page_dequeue(DEV), None);
}

#[test]
fn a_page_that_its_owner_let_go_of_is_freed_with_the_last_reference() {
    let before = machine(1);
    let free = free_pages_now();
    let page = Page::of(before[0]);
    assert!(page.get_unless_zero());
    assert_eq!(balloon_page_dequeue(DEV), Some(before[0]));
    put_page(before[0]);
    assert!(!isolate_movable_page(page), "it is nobody's any more");
    put_page(before[0]);
    assert_eq!((page.refcount(), free_pages_now()), (0, free + 1));
    assert!(!isolate_movable_page(page), "a free page has no owner");
}

/// All of memory that these flags get, in single pages, by frame.
fn take_all(gfp: Gfp) -> Vec<Pfn> {
    let mut held: Vec<Pfn> = core::iter::from_fn(|| alloc_pages(gfp, 0)).collect();
    held.sort_unstable();
    held
}

#[test]
fn pageblocks_in_vain_are_skipped_until_the_scanners_have_met() {
    machine(0);
    let held = take_all(Gfp::ATOMIC);
    held.iter().filter(|page| page.0 % 2 == 0).for_each(|&page| free_pages(page, 0));
    drain_all_pages();
    let zone = Zone::at(0);
    assert!(!try_to_compact_pages(6), "nothing can move");
    let skipped = || (0..zone.end_pfn().0).step_by(PAGEBLOCK_PAGES as usize).filter(|&pfn| pageblock_skip(Pfn(pfn))).count();
    assert!(skipped() > 0 && zone.compact_blockskip_flush());
    assert!(!try_to_compact_pages(6), "the second one looks again");
    held.iter().filter(|page| page.0 % 2 == 1).for_each(|&page| free_pages(page, 0));
    drain_all_pages();
    assert!(try_to_compact_pages(6), "there is such a block");
}

#[test]
fn a_block_of_an_order_comes_of_compaction() {
    machine(0);
    for page in take_all(Gfp::BALLOON) {
        if page.0 % 2 == 0 { balloon_page_enqueue(DEV, page) } else { free_pages(page, 0) }
    }
    drain_all_pages();
    let (pages, large) = (balloon().len(), Zone::at(0).nr_free(8));
    assert!(try_to_compact_pages(8));
    drain_all_pages();
    assert!(Zone::at(0).nr_free(8) > large || Zone::at(0).nr_free(9) > 0, "no block of order 8 came free");
    assert_eq!((balloon().len(), DEV.isolated_pages()), (pages, 0));
    balloon().iter().for_each(|&page| assert_on_list(page));
}

proptest! {
    /// Whatever is free and whatever the owner answers: each page is on the list once, and no page of memory is lost.
    #[test]
    fn compaction_conserves_pages(ops in proptest::collection::vec((0..4u8, 1..80u64), 1..12), answers in proptest::collection::vec(0..3u8, 1..4)) {
        machine(0);
        let free = free_pages_now();
        let mut users: Vec<Pfn> = Vec::new();
        for (op, amount) in ops {
            match op {
                0 => {
                    inflate(amount);
                }
                1 => users.extend((0..amount).filter_map(|_| alloc_pages(Gfp::HIGHUSER_MOVABLE, 0))),
                2 => users.drain(..users.len().min(amount as usize)).for_each(|page| free_pages(page, 0)),
                _ => {
                    for page in (0..amount.min(balloon().len() as u64)).filter_map(|_| balloon_page_dequeue(DEV)) {
                        put_page(page);
                    }
                }
            }
            let answer = answers[amount as usize % answers.len()];
            arch::write64(ANSWER, [rc::SUCCESS, rc::AGAIN, rc::BUSY][answer as usize]);
            let (pages, held) = (balloon().len(), users.len());
            compact_nodes();
            prop_assert_eq!((balloon().len(), DEV.isolated_pages()), (pages, 0));
            balloon().iter().for_each(|&page| assert_on_list(page));
            prop_assert_eq!(free_pages_now() + (pages + held) as u64, free);
            prop_assert!(users.iter().all(|&page| Page::of(page).refcount() == 1), "user pages stay");
        }
    }
}
