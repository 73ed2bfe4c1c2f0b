//! What v6 and v8 record of the free lists, read back word by word: each return code, resuming, and what does not fit.

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;
use wire::balloon::request::PACKED_LEN_MASK;
use wire::debug::{LOCK, UNLOCK, lock};
use wire::platform::BootInfo;

use super::*;
use crate::kernel::boot;
use crate::mm::pcp::drain_all_pages;
use crate::mm::zone::DMA_END_PFN;
use crate::mm::{Gfp, alloc_pages, free_pages};

const RAM_BYTES: u64 = 32 << 20;
/// An array of words that no allocator knows.
const BUFFER: u64 = crate::kernel::data::WORKLOAD_DATA;
const ROOM: u64 = 8000;

/// A guest whose memory is in pieces: `seed` chooses which.
fn machine(seed: u64, corrected: u64) {
    boot::init_for_test_with(&BootInfo { corrected, ..boot::test_boot_info(RAM_BYTES, 1) });
    let mut random = seed | 1;
    let mut held = Vec::new();
    for _ in 0..1500 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let order = (random >> 40) as u32 % 4;
        held.extend(alloc_pages(Gfp::KERNEL, order).map(|pfn| (pfn, order, random >> 50 & 1 == 1)));
    }
    held.into_iter().filter(|block| block.2).for_each(|(pfn, order, _)| free_pages(pfn, order));
    drain_all_pages();
    arch::take_traces();
}

fn free_blocks(order: u32) -> Vec<(u64, u64)> {
    let lists = Zone::all().flat_map(|zone| Migratetype::ALL.map(|migratetype| zone.free_list(order, migratetype)));
    lists.flat_map(list::iter).map(|node| (Page::of_lru(node).pfn().0, 1 << order)).collect()
}

fn words(from: u64, to: u64) -> Vec<u64> {
    (from..to).map(|at| arch::read64(BUFFER + at * 8)).collect()
}

fn room(size: u64) -> Words {
    Words { pages: BUFFER, size, pos: 0 }
}

/// What a device makes of packed words: the rule that the series gives, for a length field of any width.
fn unpack(words: &[u64], len_bits: u32) -> Vec<(u64, u64)> {
    let mask = 1u64.checked_shl(len_bits).map_or(u64::MAX, |bit| bit - 1);
    let mut at = words.iter();
    let mut ranges = Vec::new();
    while let Some(&word) = at.next() {
        let pfn = word.checked_shr(len_bits).unwrap_or(0);
        let len = word & mask;
        ranges.push((pfn, if len == 0 { *at.next().expect("a length of its own") } else { len }));
    }
    ranges
}

fn unchunk(words: &[u64]) -> Vec<(u64, u64)> {
    words.chunks_exact(2).map(|chunk| (chunk[0] >> CHUNK_SHIFT, chunk[1] >> CHUNK_SHIFT)).collect()
}

fn hinted() -> Vec<(u64, u64)> {
    arch::take_traces().into_iter().filter(|trace| trace.0 == HINT).map(|trace| (trace.1, 1 << trace.2)).collect()
}

#[test]
fn arguments_that_are_wrong_are_refused_and_change_nothing() {
    machine(1, 0);
    let there = StartZone { zone: Some(1), skip: 0 };
    let none = Words { pages: 0, ..room(ROOM) };
    for (start, order, words, len_bits) in [
        (StartZone::default(), 0, none, 12),
        (StartZone::default(), 11, room(ROOM), 12),
        (StartZone::default(), 0, room(ROOM), 65),
        (StartZone { zone: Some(2), skip: 0 }, 0, room(ROOM), 12),
        (there, u32::MAX, room(ROOM), 12),
    ] {
        let (mut after, mut left) = (start, words);
        assert_eq!(mark_unused_pages(&mut after, order, &mut left, len_bits, false), Err(Errno::Inval));
        assert_eq!((after, left), (start, words));
        if len_bits <= 64 {
            assert_eq!(record_unused_pages(&mut after, order, &mut left, false), Err(Errno::Inval));
            assert_eq!((after, left), (start, words));
        }
    }
    assert_eq!(hinted(), []);
}

#[test]
fn a_zone_without_room_is_left_as_a_whole_and_resumed() {
    machine(2, 0);
    let blocks = free_blocks(0);
    let low = blocks.iter().filter(|block| block.0 < DMA_END_PFN).count() as u64;
    assert!(low > 0 && low < blocks.len() as u64, "both zones have single pages");
    let (mut start, mut first) = (StartZone::default(), room(blocks.len() as u64 - 1));
    assert_eq!(mark_unused_pages(&mut start, 0, &mut first, 12, false), Err(Errno::NoSpc));
    assert_eq!((start.zone, first.pos), (Some(1), low), "nothing of the second zone");
    let mut told = unpack(&words(0, low), 12);
    let mut second = room(ROOM);
    assert_eq!(mark_unused_pages(&mut start, 0, &mut second, 12, false), Ok(()));
    assert_eq!(start.zone, Some(1), "a success does not take the start zone back");
    told.extend(unpack(&words(0, second.pos), 12));
    assert_eq!(told, blocks, "no block twice, none left out");
    assert_eq!(hinted(), blocks);
    let mut again = room(ROOM);
    assert_eq!(mark_unused_pages(&mut start, 0, &mut again, 12, false), Ok(()));
    assert_eq!(again.pos, blocks.len() as u64 - low, "so the next order would miss the first zone");
}

#[test]
fn parts_of_a_list_are_kept_and_its_rest_is_lost_as_posted() {
    machine(3, 0);
    let blocks = free_blocks(0);
    let (mut start, mut part) = (StartZone::default(), room(5));
    assert_eq!(mark_unused_pages(&mut start, 0, &mut part, 12, true), Err(Errno::NoSpc));
    assert_eq!(part.pos, 5);
    assert_eq!(hinted(), &blocks[..5]);
    let mut next = room(5);
    assert_eq!(mark_unused_pages(&mut start, 0, &mut next, 12, true), Err(Errno::NoSpc));
    assert_eq!(hinted(), &blocks[..5], "the list has no cursor");
}

#[test]
fn parts_of_a_list_follow_each_other_once_that_is_corrected() {
    for v8 in [false, true] {
        machine(3, correct::PART_FILL);
        let blocks = free_blocks(0);
        let mut start = StartZone::default();
        let mut told = Vec::new();
        for _ in 0..ROOM {
            let mut part = room(6);
            let result = match v8 {
                true => record_unused_pages(&mut start, 0, &mut part, true),
                false => mark_unused_pages(&mut start, 0, &mut part, 12, true),
            };
            let part = words(0, part.pos);
            told.extend(if v8 { unchunk(&part) } else { unpack(&part, 12) });
            if result.is_ok() {
                break;
            }
        }
        assert_eq!(told, blocks);
    }
}

#[test]
fn the_precheck_of_chunks_counts_blocks_as_posted_and_words_once_corrected() {
    for (corrected, recorded) in [(0, true), (correct::RECORD_PRECHECK, false)] {
        machine(4, corrected);
        let low = free_blocks(0).iter().filter(|block| block.0 < DMA_END_PFN).count() as u64;
        assert!(low > 2);
        let (mut start, mut words) = (StartZone::default(), room(low + low / 2));
        assert_eq!(record_unused_pages(&mut start, 0, &mut words, false), Err(Errno::NoSpc));
        assert_eq!(words.pos > 0, recorded, "of {low} blocks in {} words", words.size);
        assert_eq!(start.zone, Some(0));
    }
}

#[test]
fn the_lock_is_let_go_every_64_blocks_once_that_is_corrected() {
    let holds = |corrected| {
        machine(5, corrected);
        let filled: Vec<_> = (0..600).map(|_| alloc_pages(Gfp::KERNEL, 0).expect("memory")).collect();
        filled.iter().step_by(2).for_each(|&page| free_pages(page, 0));
        drain_all_pages();
        arch::take_traces();
        let blocks = free_blocks(0);
        assert_eq!(mark_unused_pages(&mut StartZone::default(), 0, &mut room(ROOM), 12, false), Ok(()));
        assert_eq!(unpack(&words(0, blocks.len() as u64), 12), blocks);
        assert_eq!(free_blocks(0), blocks, "the lists are as they were");
        let (mut longest, mut in_hold) = (0, 0);
        for (code, id, _) in arch::take_traces() {
            match code {
                HINT => in_hold += 1,
                LOCK | UNLOCK if id == lock::ZONE => in_hold = 0,
                _ => {}
            }
            longest = longest.max(in_hold);
        }
        longest
    };
    assert!(holds(0) > 200);
    assert_eq!(holds(correct::IRQ_OFF_BOUND), BLOCKS_PER_HOLD);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_order_and_length_field_comes_back(seed: u64, order in 0..=MAX_PAGE_ORDER, len_bits in 0..=64u8) {
        machine(seed, 0);
        let blocks = free_blocks(order);
        let mut told = room(ROOM);
        prop_assert_eq!(mark_unused_pages(&mut StartZone::default(), order, &mut told, len_bits, false), Ok(()));
        prop_assert_eq!(hinted(), blocks.clone());
        let written = words(0, told.pos);
        if len_bits == 64 {
            // Accepted, and a shift by nothing: frame and length lie over each other.
            prop_assert_eq!(written, blocks.iter().map(|(pfn, len)| pfn | len).collect::<Vec<_>>());
            return Ok(());
        }
        let words_per_block = if order < u32::from(len_bits) { 1 } else { 2 };
        prop_assert_eq!(told.pos, words_per_block * blocks.len() as u64);
        // A frame loses what does not fit above the length.
        let seen = blocks.iter().map(|(pfn, len)| (pfn << len_bits >> len_bits, *len)).collect::<Vec<_>>();
        prop_assert_eq!(unpack(&written, len_bits.into()), seen);
    }

    #[test]
    fn the_driver_never_needs_a_second_word(seed: u64, order in 0..=MAX_PAGE_ORDER) {
        machine(seed, 0);
        let mut told = room(ROOM);
        prop_assert_eq!(mark_unused_pages(&mut StartZone::default(), order, &mut told, PACKED_LEN_BITS as u8, false), Ok(()));
        prop_assert!(words(0, told.pos).iter().all(|word| word & PACKED_LEN_MASK != 0));
    }

    #[test]
    fn chunks_come_back(seed: u64, order in 0..=MAX_PAGE_ORDER) {
        machine(seed, 0);
        let blocks = free_blocks(order);
        let mut told = room(ROOM);
        prop_assert_eq!(record_unused_pages(&mut StartZone::default(), order, &mut told, false), Ok(()));
        prop_assert_eq!(unchunk(&words(0, told.pos)), blocks.clone());
        prop_assert!(words(0, told.pos).iter().all(|word| word & PACKED_LEN_MASK == 0), "reserved bits");
        prop_assert_eq!(hinted(), blocks);
    }

    #[test]
    fn nothing_is_written_outside_the_room(seed: u64, size in 0..600u64, pos in 0..700u64, part_fill: bool, v8: bool, order in 0..3u32) {
        machine(seed, 0);
        const MARK: u64 = 0x5a5a_0000_0000_5a5a;
        (0..ROOM).for_each(|at| arch::write64(BUFFER + at * 8, MARK));
        let free: BTreeSet<_> = free_blocks(order).into_iter().collect();
        let mut told = Words { pos, ..room(size) };
        let mut start = StartZone::default();
        let result = match v8 {
            true => record_unused_pages(&mut start, order, &mut told, part_fill),
            false => mark_unused_pages(&mut start, order, &mut told, 12, part_fill),
        };
        prop_assert!(told.pos >= pos && told.pos <= size.max(pos));
        prop_assert!(words(0, pos).iter().chain(&words(told.pos, ROOM)).all(|word| *word == MARK));
        let written = words(pos, told.pos);
        let ranges = if v8 { unchunk(&written) } else { unpack(&written, 12) };
        prop_assert_eq!(hinted(), ranges.clone());
        prop_assert!(ranges.iter().all(|range| free.contains(range)));
        prop_assert_eq!(result.is_ok(), ranges.len() == free.len());
        prop_assert_eq!(result.is_err(), start.zone.is_some());
    }
}
