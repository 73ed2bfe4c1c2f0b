//! Free page reports, the driver's side.

use std::collections::BTreeSet;

use wire::balloon::feature;
use wire::debug;
use wire::layout::PAGEBLOCK_ORDER;
use wire::platform::boot_flag;
use wire::task::op;
use wire::virtio::mmio;

use crate::guest::Guest;
use crate::tester::{COMMON, Chain, Options, Role, Seen};

const SECOND: u64 = 1_000_000_000;

/// A zone with less than a batch of pageblocks to spare is not reported at all.
fn options(features: u64, flags: u64) -> Options {
    Options { ram_bytes: 256 << 20, boot_flags: flags, ..Options::offering(COMMON | feature::PAGE_REPORTING | features) }
}

fn reported(guest: &Guest) -> BTreeSet<u64> {
    guest.chains(Role::Reporting).iter().flat_map(Chain::frames).collect()
}

/// Kernel parameters with the features that a driver needs to report at all.
const KERNELS: [(u64, u64, Option<u8>); 4] = [
    (0, 0, None),
    (boot_flag::INIT_ON_ALLOC, 0, None),
    (boot_flag::PAGE_POISON, feature::PAGE_POISON, Some(0xaa)),
    (boot_flag::INIT_ON_FREE, feature::PAGE_POISON, Some(0)),
];

#[test]
fn c47_without_page_poison_reported_pages_are_taken_for_anything() {
    for flags in [0, boot_flag::INIT_ON_ALLOC] {
        let mut guest = Guest::up(options(0, flags).holding(Role::Reporting));
        guest.run_for(3 * SECOND);
        let first = reported(&guest);
        assert!(!first.is_empty());
        guest.scribble(first.iter().copied());
        guest.release(Role::Reporting);
        guest.seen.clear();
        guest.task(op::FILL, 1, 128 << 10, 0x11);
        assert!(!guest.blocks(debug::ALLOC).is_disjoint(&first));
    }
}

#[test]
fn c47_with_page_poison_pages_are_filled_before_they_are_reported() {
    for (flags, features, fill) in KERNELS {
        let Some(fill) = fill else { continue };
        let mut guest = Guest::up(options(features, flags).holding(Role::Reporting));
        guest.task(op::CHURN, 0, 500, 3);
        guest.run_for(3 * SECOND);
        let first = reported(&guest);
        assert!(!first.is_empty());
        for frame in first {
            let page = guest.ram.page(host::event::Pfn(frame));
            assert!(page.iter().all(|byte| *byte == fill), "page {frame:#x} with flags {flags:#x}");
        }
    }
}

#[test]
fn c48_no_reported_page_is_used_before_the_report_is_acknowledged() {
    for (flags, features, _) in KERNELS {
        let mut guest = Guest::up(options(features, flags).holding(Role::Reporting));
        guest.run_for(3 * SECOND);
        let frames = reported(&guest);
        assert!(!frames.is_empty());
        guest.seen.clear();
        guest.watch(frames.iter().copied());
        guest.task(op::FILL, 1, 128 << 10, 0x11);
        assert!(!guest.said_all(debug::ALLOC_FAIL).is_empty(), "memory has run out");
        assert!(guest.stores.is_empty() && guest.blocks(debug::ALLOC).is_disjoint(&frames));
        // Behind the acknowledgement they are memory like any other.
        guest.release(Role::Reporting);
        guest.task(op::FILL, 2, 1024, 0x11);
        assert!(!guest.blocks(debug::ALLOC).is_disjoint(&frames));
    }
}

#[test]
fn c52_what_is_reported_is_large() {
    let mut guest = Guest::up(options(0, 0));
    guest.task(op::CHURN, 0, 500, 3);
    guest.run_for(5 * SECOND);
    let chains = guest.chains(Role::Reporting);
    let buffers: Vec<_> = chains.iter().flat_map(|chain| &chain.buffers).collect();
    assert!(buffers.len() > 3);
    let block = 1 << (PAGEBLOCK_ORDER + 12);
    assert!(buffers.iter().all(|buffer| buffer.writable && buffer.len >= block && buffer.addr.is_multiple_of(u64::from(block))));
}

#[test]
fn c52_nothing_is_reported_before_driver_ok() {
    let mut guest = Guest::boot(options(0, 0));
    guest.run_for(3 * SECOND);
    let ready = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 15).expect("DRIVER_OK").0;
    let first = guest.first(|seen| matches!(seen, Seen::Exposed(chain) if chain.role == Role::Reporting)).expect("reports");
    assert!(ready < first);
}

#[test]
fn c52_reported_pages_are_not_touched_without_need() {
    for (flags, features, _) in KERNELS {
        let mut guest = Guest::up(options(features, flags));
        guest.run_for(3 * SECOND);
        let frames = reported(&guest);
        let reports = guest.chains(Role::Reporting).len();
        guest.watch(frames.iter().copied());
        guest.run_for(30 * SECOND);
        assert!(guest.stores.is_empty(), "{} stores to reported pages", guest.stores.len());
        assert_eq!(guest.chains(Role::Reporting).len(), reports, "and none is reported twice");
    }
}
