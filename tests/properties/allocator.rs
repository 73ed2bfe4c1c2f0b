//! The guest's allocator as machine code against the same source compiled natively: the same operations give the same blocks, and leave the
//! same memory map, free lists and page lists behind.
//!
//! A machine boots in the emulator, without a balloon that could call back, and what its memory holds at rest is given to the native
//! library, which keeps all its state in guest memory, too. Then both do the same. That the native one is right is tested against a
//! naive allocator in guest/src/mm/model_tests.rs.

use emu::outcome::{Outcome, Verdict};
use emu::scenario::model::{Guest, Operation, Scenario, Task};
use emu::scenario::parse;
use emu::world::{RunOptions, memory_at_end, run};
use guest::mm::{Gfp, alloc_pages, free_pages};
use guest::{arch, mm};
use host::event::{Event, PageRange, Pfn};
use proptest::prelude::*;
use proptest::test_runner::Config;
use wire::layout::{MAX_PAGE_ORDER, page};

use super::config;

/// Names that a task's blocks have.
const NAMES: usize = 12;

/// An operation on a name: allocate if it has no block, else free.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    name: usize,
    order: u32,
}

pub(crate) fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let order = prop_oneof![5 => 0..=3u32, 2 => 4..=9u32, 1 => Just(MAX_PAGE_ORDER)];
    prop::collection::vec((0..NAMES, order).prop_map(|(name, order)| Turn { name, order }), 1..90)
}

pub(crate) fn guest_of(ram_bytes: u64, flags: [bool; 2], operations: Vec<Operation>) -> Scenario {
    let mut scenario = parse("allocator.toml", "about = \"the allocator alone\"").unwrap_or_else(|problems| panic!("{problems}"));
    let tasks = if operations.is_empty() { Vec::new() } else { vec![Task { vcpu: 0, operations }] };
    let [page_poison, init_on_alloc] = flags;
    let features_refused = !wire::virtio::feature::VERSION_1;
    scenario.guest = Guest { ram_bytes, vcpus: 1, page_poison, init_on_alloc, features_refused, tasks, ..Guest::default() };
    scenario.migration.start = None;
    scenario
}

/// What the emulator's task did for each operation: the block that an allocation got.
fn done(outcome: &Outcome) -> Vec<(bool, Option<PageRange>)> {
    let mut done = Vec::new();
    let mut named = None;
    for stamped in &outcome.trace {
        match stamped.event {
            Event::GuestNamed { range, .. } => named = Some(range),
            Event::GuestTaskDone { ok, .. } => done.push((ok, named.take())),
            _ => {}
        }
    }
    done
}

/// The same natively. An allocation may fail; then there is nothing to free.
pub(crate) fn play(turns: &[Turn]) -> Vec<(bool, Option<PageRange>)> {
    let mut blocks: [Option<(mm::Pfn, u32)>; NAMES] = [None; NAMES];
    let mut held = [false; NAMES];
    let turn = |turn: &Turn| {
        held[turn.name] ^= true;
        let block = &mut blocks[turn.name];
        if held[turn.name] {
            *block = alloc_pages(Gfp::HIGHUSER_MOVABLE, turn.order).map(|pfn| (pfn, turn.order));
            (block.is_some(), block.map(|(pfn, order)| PageRange::new(Pfn(pfn.0), 1 << order)))
        } else {
            let taken = block.take();
            if let Some((pfn, order)) = taken {
                free_pages(pfn, order);
            }
            (taken.is_some(), None)
        }
    };
    turns.iter().map(turn).collect()
}

/// What is left of the allocator in a memory: the map, and each zone's free areas, counters and page lists.
fn allocator(memory: &[u8]) -> Vec<(String, Vec<u8>)> {
    let word = |at: u64| u64::from_le_bytes(memory[at as usize..at as usize + 8].try_into().expect("eight bytes"));
    let bytes = |from: u64, len: u64| memory[from as usize..(from + len) as usize].to_vec();
    let info = |field: usize| word(wire::platform::KERNEL_INFO + field as u64);
    use std::mem::offset_of;
    use wire::layout::{FREE_AREA_BYTES, KernelInfo, NR_PAGE_ORDERS, ZoneInfo};
    let (map, frames) = (info(offset_of!(KernelInfo, mem_map)), info(offset_of!(KernelInfo, max_pfn)));
    let entries = (0..frames).map(|frame| (format!("struct page {frame:#x}"), bytes(map + frame * page::BYTES, page::BYTES)));
    let zones = (0..info(offset_of!(KernelInfo, nr_zones))).flat_map(|zone| {
        let field = |field: usize| info(offset_of!(KernelInfo, zones) + zone as usize * size_of::<ZoneInfo>() + field);
        let blocks = field(offset_of!(ZoneInfo, spanned_pages)).div_ceil(1 << wire::layout::PAGEBLOCK_ORDER);
        [
            (format!("zone {zone} free areas"), bytes(field(offset_of!(ZoneInfo, free_area)), FREE_AREA_BYTES * NR_PAGE_ORDERS as u64)),
            (format!("zone {zone} free pages"), bytes(field(offset_of!(ZoneInfo, nr_free_pages)), 8)),
            (format!("zone {zone} pageblocks"), bytes(field(offset_of!(ZoneInfo, pageblock_types)), blocks)),
            (format!("zone {zone} page lists"), bytes(field(offset_of!(ZoneInfo, pcp)), field(offset_of!(ZoneInfo, pcp_stride)))),
        ]
    });
    entries.chain(zones).collect()
}

fn operations(turns: &[Turn]) -> Vec<Operation> {
    let mut held = [false; NAMES];
    let operation = |turn: &Turn| {
        let name = format!("B{}", turn.name);
        held[turn.name] ^= true;
        if held[turn.name] {
            Operation::Alloc { name, order: turn.order as u8, atomic: false }
        } else {
            Operation::Free { name, in_interrupt: false }
        }
    };
    turns.iter().map(operation).collect()
}

/// A third of the usual cases: each copies whole memories.
fn sample() -> Config {
    let config = config();
    Config { cases: config.cases.div_ceil(3), ..config }
}

proptest! {
    #![proptest_config(sample())]

    #[test]
    fn machine_code_and_native_code_allocate_alike(turns in turns(), mib in 12..40u64, flags: [bool; 2]) {
        let still = memory_at_end(&guest_of(mib << 20, flags, Vec::new()), &RunOptions::default());
        let busy = guest_of(mib << 20, flags, operations(&turns));
        let outcome = run(&busy, &RunOptions::default());
        prop_assert_eq!(outcome.verdict, Verdict::Pass, "{:?}", outcome.violations);
        arch::load_memory(&still);
        arch::set_cpu(0);
        prop_assert_eq!(play(&turns), done(&outcome));
        let left = arch::memory();
        let ended = memory_at_end(&busy, &RunOptions::default());
        for (native, machine) in allocator(&left).into_iter().zip(allocator(&ended)) {
            prop_assert_eq!(native, machine);
        }
    }
}
