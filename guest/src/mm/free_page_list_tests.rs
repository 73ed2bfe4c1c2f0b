//! What is told is what is free at that moment: every interface, over random states of the allocator. And each flaw, with and without its correction.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::layout::MAX_PAGE_ORDER;
use wire::platform::BootInfo;
use wire::switch::correct;

use super::*;
use crate::kernel::{boot, data};
use crate::mm::model_tests::{Model, op};
use crate::mm::page_alloc::{alloc_pages, free_pages};
use crate::mm::{Gfp, pfn_walk};

/// Room for an array that no block of the allocator overlaps.
const ARRAY: u64 = data::DRIVER_DATA;

fn booted(ram_mib: u64, corrected: u64) {
    boot::init_for_test_with(&BootInfo { corrected, ..boot::test_boot_info(ram_mib << 20, 1) });
}

/// Blocks of the free lists: first frame to order.
fn free_blocks() -> BTreeMap<Pfn, u32> {
    let lists = Zone::all().flat_map(|zone| (0..=MAX_PAGE_ORDER).flat_map(move |order| Migratetype::ALL.map(|kind| (zone, order, kind))));
    lists
        .flat_map(|(zone, order, kind)| list::iter(zone.free_list(order, kind)).map(move |node| (Page::of_lru(node).pfn(), order)))
        .collect()
}

/// Blocks that were announced as hints since the last look.
fn announced() -> Vec<(Pfn, u32)> {
    arch::take_traces().into_iter().filter(|trace| trace.0 == debug::HINT).map(|trace| (Pfn(trace.1), (trace.2 & 0xff) as u32)).collect()
}

fn array(count: u32) -> Vec<Pfn> {
    (0..u64::from(count)).map(|at| Pfn::of_addr(arch::read64(ARRAY + at * ENTRY_BYTES))).collect()
}

/// All blocks of an order, array by array.
fn in_arrays(order: u32, size: u32) -> Vec<Pfn> {
    let mut from = Place::START;
    let mut all = Vec::new();
    while !from.is_end() {
        let count = get_from_free_page_list(order, ARRAY, size, &mut from);
        all.extend(array(count));
    }
    all
}

fn by_cursor() -> Vec<(Pfn, u32)> {
    let mut all = Vec::new();
    for zone in Zone::all() {
        for order in 0..=MAX_PAGE_ORDER {
            for migratetype in Migratetype::ALL {
                let mut page = None;
                while report_unused_page_block(zone, order, migratetype, &mut page).is_ok() {
                    all.extend(page.map(|page| (page.pfn(), order)));
                }
            }
        }
    }
    all
}

fn walked(min_order: u32) -> Vec<(Pfn, u32)> {
    let mut all = Vec::new();
    walk_free_mem_block(min_order, Stop::Walk, &mut |pfn, order| {
        all.push((pfn, order));
        true
    });
    all
}

fn frames_walked(walk: fn(&mut dyn FnMut(Pfn, u32) -> bool)) -> Vec<(Pfn, u32)> {
    let mut all = Vec::new();
    walk(&mut |pfn, order| {
        all.push((pfn, order));
        true
    });
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn hints_are_a_subset_of_what_is_free(
        ram_mib in prop_oneof![Just(8u64), Just(13), Just(24)],
        ops in prop::collection::vec(op(), 1..60),
        order in 0..=MAX_PAGE_ORDER,
        size in 1..40_u32,
        bounded in any::<bool>(),
    ) {
        booted(ram_mib, if bounded { correct::IRQ_OFF_BOUND } else { 0 });
        let mut model = Model::default();
        ops.iter().for_each(|op| model.apply(op));
        let free = free_blocks();
        let of_order: Vec<Pfn> = free.iter().filter(|(_, of)| **of == order).map(|(pfn, _)| *pfn).collect();
        announced();

        let count = get_from_free_page_list(order, ARRAY, size, &mut Place::START.clone());
        let told = array(count);
        prop_assert!(told.iter().all(|pfn| of_order.contains(pfn)), "an array");
        prop_assert_eq!(count as usize, of_order.len().min(size as usize), "an array holds what it can");
        prop_assert_eq!(announced(), told.iter().map(|pfn| (*pfn, order)).collect::<Vec<_>>());

        let mut all = in_arrays(order, size);
        all.sort();
        prop_assert_eq!(&all, &of_order, "arrays one behind the other");

        let sorted = |mut blocks: Vec<(Pfn, u32)>| { blocks.sort(); blocks };
        let everything: Vec<(Pfn, u32)> = free.iter().map(|(pfn, order)| (*pfn, *order)).collect();
        prop_assert_eq!(sorted(walked(0)), everything.clone(), "a callback for each");
        prop_assert_eq!(sorted(by_cursor()), everything.clone(), "a cursor, with nobody between its calls");
        prop_assert_eq!(frames_walked(|mut report| pfn_walk::walk_buddies(&mut report)), everything, "a walk over frames");
        prop_assert_eq!(nr_free_blocks(order), of_order.len() as u64);
        model.check();
    }

    #[test]
    fn a_popped_block_is_the_callers_and_the_rest_is_free(ops in prop::collection::vec(op(), 1..60), order in 9..=MAX_PAGE_ORDER) {
        booted(24, correct::UNLINK_UNACCOUNTED);
        let mut model = Model::default();
        ops.iter().for_each(|op| model.apply(op));
        let before = free_blocks();
        for get in [get_from_popped_free_page_list as fn(u32) -> Option<Threaded>, |order| get_from_threaded_free_page_list(order, 512)] {
            announced();
            let Some(Threaded { block, count }) = get(order) else { continue };
            let told: Vec<Pfn> = (0..u64::from(count)).map(|at| Pfn::of_addr(arch::read64(block.addr() + at * ENTRY_BYTES))).collect();
            let free = free_blocks();
            prop_assert!(told.iter().all(|pfn| free.get(pfn) == Some(&order)), "what is told stays free");
            prop_assert!(!told.contains(&block) && !free.contains_key(&block));
            prop_assert_eq!(announced().len(), told.len());
            free_pages(block, order);
            crate::mm::pcp::drain_all_pages();
            model.check();
        }
        prop_assert_eq!(free_blocks().values().map(|order| 1_u64 << order).sum::<u64>() >= before.values().map(|order| 1_u64 << order).sum(), true);
    }
}

#[test]
fn an_array_that_is_full_says_no_more_than_one_that_is_exactly_full() {
    booted(64, 0);
    let blocks = nr_free_blocks(MAX_PAGE_ORDER) as u32;
    assert!(blocks > 3);
    assert_eq!(get_from_free_page_list(MAX_PAGE_ORDER, ARRAY, blocks, &mut Place::START.clone()), blocks);
    let mut from = Place::START;
    assert_eq!(get_from_free_page_list(MAX_PAGE_ORDER, ARRAY, blocks - 1, &mut from), blocks - 1);
    assert!(!from.is_end(), "only the place tells");
    assert_eq!(get_from_free_page_list(MAX_PAGE_ORDER, ARRAY, blocks, &mut from), 1);
    assert!(from.is_end());
}

#[test]
fn an_order_that_does_not_exist_is_refused_once_it_is_looked_at() {
    booted(8, correct::ORDER_UNCHECKED);
    assert_eq!(get_from_free_page_list(MAX_PAGE_ORDER + 1, ARRAY, 9, &mut Place::START.clone()), 0);
}

#[test]
#[should_panic(expected = "order 11")]
fn an_order_that_does_not_exist_is_followed_as_posted() {
    booted(8, 0);
    get_from_free_page_list(MAX_PAGE_ORDER + 1, ARRAY, 9, &mut Place::START.clone());
}

#[test]
#[should_panic(expected = "is freed twice")]
fn a_threaded_block_cannot_be_freed_as_sketched() {
    booted(24, 0);
    let Threaded { block, count } = get_from_threaded_free_page_list(MAX_PAGE_ORDER, 512).expect("a block");
    assert!(count > 0);
    assert_eq!(Pfn::of_addr(arch::read64(block.addr())), block, "it tells of itself first");
    assert!(Page::of(block).is_buddy(), "and still says that it is free");
    free_pages(block, MAX_PAGE_ORDER);
}

#[test]
fn a_stop_ends_the_walk_or_the_list() {
    booted(24, 0);
    let called = |stop| {
        let mut calls = 0;
        walk_free_mem_block(0, stop, &mut |_, _| {
            calls += 1;
            false
        });
        calls
    };
    let lists = Zone::all().flat_map(|zone| (0..=MAX_PAGE_ORDER).map(move |order| (zone, order)));
    let filled =
        lists.flat_map(|(zone, order)| Migratetype::ALL.map(|kind| zone.free_list(order, kind))).filter(|head| !list::list_empty(*head));
    assert_eq!(called(Stop::Walk), 1);
    assert_eq!(called(Stop::List), filled.count());
}

/// The first block of a list that has several, as a cursor, and the list.
fn cursor_at_first() -> (Zone, Migratetype, Page) {
    let zone = Zone::at(Zone::all().count() - 1);
    let mut page = None;
    let kind = Migratetype::Movable;
    assert_eq!(report_unused_page_block(zone, MAX_PAGE_ORDER, kind, &mut page), Ok(()));
    (zone, kind, page.expect("a block"))
}

#[test]
fn a_cursor_that_was_allocated_leads_nowhere_as_posted_and_starts_anew_once_it_is_checked() {
    for (corrected, sound) in [(0, false), (correct::CURSOR, true)] {
        booted(64, corrected);
        let (zone, kind, first) = cursor_at_first();
        assert_eq!(alloc_pages(Gfp::HIGHUSER_MOVABLE, MAX_PAGE_ORDER), Some(first.pfn()));
        let free = free_blocks();
        let mut page = Some(first);
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            report_unused_page_block(zone, MAX_PAGE_ORDER, kind, &mut page).map(|()| page.expect("a block").pfn())
        }));
        let told_free = matches!(answer, Ok(Ok(pfn)) if free.contains_key(&pfn));
        assert_eq!(told_free, sound);
    }
}

#[test]
fn a_count_of_zero_is_not_free() {
    booted(24, 0);
    let block = alloc_pages(Gfp::KERNEL, 3).expect("memory");
    let hinted = frames_walked(|mut report| pfn_walk::walk_unreferenced(&mut report));
    let holds = |pfn: Pfn| hinted.iter().any(|(first, order)| *first <= pfn && pfn < first.plus(1 << order));
    assert!(!holds(block), "the first page has a reference");
    assert!((1..8).all(|at| holds(block.plus(at))), "the others have none, and are in use");
}
