//! The oracle's rules, each made to fire in a whole world: what its unit tests show on made-up events has to be reached from a scenario, too.
//!
//! The rules of hinting and migration fire in scenarios with faults. Those of the guest's memory manager fire when something writes over what
//! it has published or over its memory map: a device's stray write does that here.

use std::collections::BTreeSet;
use std::mem::offset_of;

use emu::image::Image;
use emu::oracle::{guest_mm, rules};
use emu::outcome::Verdict;
use emu::world::{RunOptions, run};
use host::event::Event;
use host::fault::Fault;
use lostpage_tests::{files, scenario, scenario_file};
use wire::layout::{KernelInfo, ZoneInfo, page};
use wire::platform::{KERNEL_INFO, PAGE_SIZE};

/// What no scenario reaches: the engine keeps N and B in one step, and neither side of the queue hands a head out twice.
const UNIT_TESTS_ALONE: [&str; 1] = [rules::POPPED_HEAD_IS_RETURNED_ONCE];

#[test]
fn every_rule_of_hinting_and_migration_fires_in_some_scenario() {
    let mut fired: BTreeSet<&str> = BTreeSet::new();
    for path in files("scenarios", "toml") {
        let scenario = scenario_file(&path);
        let witnesses = scenario.witness.iter().map(|fault| vec![*fault]);
        for faults in witnesses.chain([Vec::<Fault>::new()]) {
            fired.extend(run(&scenario, &RunOptions { faults }).violations.iter().map(|violation| violation.rule));
        }
    }
    let expected = [
        rules::DESTINATION_EQUALS_SOURCE,
        rules::DISCARDED_PAGE_WAS_GIVEN_UP,
        rules::HINT_START_WAS_REQUESTED,
        rules::HINT_APPLIED_UNDER_ITS_ID,
        rules::HINTED_PAGE_IS_NOT_SENT,
        rules::HINTED_PAGES_COME_HOME,
        rules::N_EQUALS_POPCOUNT,
        rules::REQUEST_IS_ANSWERED,
        rules::WAITED_PAGE_IS_ASKED_FOR,
        rules::SNAPSHOT_IS_OF_ITS_START,
        rules::SNAPSHOT_IS_WHOLE,
        rules::PLACED_ONCE,
        rules::STATISTICS_ARE_TOLD,
        rules::FLUSHED_PAGES_ARE_SENT,
        rules::EVERY_HINT_COUNTS,
        rules::SNAPSHOT_BEHIND_ITS_HINTS,
        rules::UNPLUGGED_DEVICE_LETS_GO,
        rules::PINNED_PAGE_STAYS,
        rules::DEVICE_STATE_IS_LOADED,
        rules::MOVED_BUFFERS_ARE_SERVED,
        rules::LOCKS_HAVE_AN_ORDER,
        rules::LIMIT_IS_SLEPT_OUT,
        rules::LIMITS_END_WITH_MIGRATION,
        rules::SWITCHOVER_BY_WHAT_WAS_TOLD,
    ];
    for rule in expected {
        assert!(fired.contains(rule), "{rule} never fires: {fired:?}");
    }
    // A scenario that makes one of these fire has taken it off the list.
    for rule in UNIT_TESTS_ALONE {
        assert!(!fired.contains(rule), "{rule} fires: it is not for unit tests alone");
    }
}

/// Runs an idle guest with a balloon of 1 MiB in which a device writes 8 bytes at an address: `byte`, then `count`, the number of the write.
fn fired_by_stray_write(address: u64, byte: u8, count: u64) -> Vec<&'static str> {
    let before = count - 1;
    let first = if before == 0 {
        String::new()
    } else {
        format!("[[inject]]\nwrite = {{ page = \"F\", byte = 0, pages = {before} }}\nby = \"dma\"\nat = \"400 ms\"\n")
    };
    let text = format!(
        "about = \"a stray write\"\n[host]\nballoon = \"1 MiB\"\n[migration]\nstart = \"never\"\n[pages]\nF = \"pfn 0xe00\"\nT = \"pfn {:#x}\"\n\
         {first}[[inject]]\nwrite = {{ page = \"T\", byte = {byte}, offset = {} }}\nby = \"dma\"\nat = \"500 ms\"\n",
        address / PAGE_SIZE,
        address % PAGE_SIZE,
    );
    let outcome = run(&scenario(&text), &RunOptions::default());
    assert_eq!(outcome.verdict, Verdict::BrokenRule, "{text}\n{:?} {:?}", outcome.violations, outcome.crash);
    outcome.violations.iter().map(|violation| violation.rule).collect()
}

fn zone_field(field: usize) -> u64 {
    KERNEL_INFO + (offset_of!(KernelInfo, zones) + field) as u64
}

/// Page 0 holds zeros: a published address that points there instead shows a counter of 0, a type of 0, a list without an end.
#[test]
fn rules_of_the_guests_memory_fire_when_what_it_published_is_overwritten() {
    let balloon_pages = KERNEL_INFO + offset_of!(KernelInfo, balloon_pages) as u64;
    let balloon_num_pages = KERNEL_INFO + offset_of!(KernelInfo, balloon_num_pages) as u64;
    let hints = KERNEL_INFO + offset_of!(KernelInfo, num_free_page_blocks) as u64;
    let table = [
        (guest_mm::FREE_PAGES_ARE_COUNTED, zone_field(offset_of!(ZoneInfo, nr_free_pages)), 1),
        (guest_mm::LIST_FITS_PAGEBLOCK, zone_field(offset_of!(ZoneInfo, pageblock_types)), 1),
        (guest_mm::LIST_IS_SOUND, zone_field(offset_of!(ZoneInfo, free_area)), 1),
        (guest_mm::BALLOON_IS_COUNTED, balloon_num_pages, 1),
        (guest_mm::OFFLINE_IS_IN_BALLOON, balloon_pages, 1),
        // The 16th write makes it the address 0x1000, where the boot information stands.
        (guest_mm::HINTS_ARE_COUNTED, hints, 16),
    ];
    for (rule, address, count) in table {
        let fired = fired_by_stray_write(address, 0, count);
        assert!(fired.contains(&rule), "{rule} is not among {fired:?}");
    }
}

/// A rule that breaks while the run lasts is told with the moment, and with `check_mm = 0` it is found when the run ends.
#[test]
fn a_broken_rule_of_the_guests_memory_is_found_with_the_step_that_broke_it() {
    let doom = |check_mm: u64| {
        let text = format!(
            "about = \"a stray write\"\n[migration]\nstart = \"never\"\n[pages]\nT = \"pfn {:#x}\"\n[limits]\ncheck_mm = {check_mm}\n\
             [[guest.task]]\non = \"vcpu1\"\ndo = [{{ sleep = \"600 ms\" }}, {{ alloc = \"A\", order = 4 }}]\n\
             [[inject]]\nwrite = {{ page = \"T\", byte = 0, offset = {} }}\nby = \"dma\"\nat = \"500 ms\"\n",
            zone_field(offset_of!(ZoneInfo, nr_free_pages)) / PAGE_SIZE,
            zone_field(offset_of!(ZoneInfo, nr_free_pages)) % PAGE_SIZE,
        );
        let outcome = run(&scenario(&text), &RunOptions::default());
        let write = outcome.trace.iter().position(|stamped| matches!(stamped.event, Event::DmaWrite { .. })).expect("it is written");
        let broken = outcome.violations.iter().find(|violation| violation.rule == guest_mm::FREE_PAGES_ARE_COUNTED);
        let at_ns = |index: usize| outcome.trace[index].at_ns;
        (broken.expect("the count is somewhere else").doom.map(at_ns), at_ns(write))
    };
    let (found, write) = doom(1);
    assert_eq!(found, Some(write));
    // The task's allocation is the first to change anything behind it.
    let (later, write) = doom(2);
    assert!(later.is_none_or(|later| later >= write), "{later:?}");
    assert_eq!(doom(0).0, None);
}

/// The largest free block's entry in the memory map, which lies behind the image.
#[test]
fn rules_of_free_blocks_fire_when_the_memory_map_is_overwritten() {
    let mem_map = Image::guest().end().next_multiple_of(PAGE_SIZE);
    let head = mem_map + 0x800 * page::BYTES;
    let table = [
        (guest_mm::FREE_PAGE_IS_CLEAN, head + page::MAPPING),
        (guest_mm::FREE_BLOCK_IS_ALONE, head + page::PRIVATE),
        (guest_mm::LIST_IS_SOUND, head + page::LRU),
    ];
    for (rule, address) in table {
        let fired = fired_by_stray_write(address, 0, 1);
        assert!(fired.contains(&rule), "{rule} is not among {fired:?}");
    }
}
