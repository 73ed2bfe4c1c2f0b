//! Pages of the balloon that compaction moves, the driver's side: a new page is given, then the old one is taken back.

use std::collections::BTreeSet;

use wire::balloon::config;
use wire::debug;
use wire::task::op;
use wire::virtio::mmio;

use crate::guest::Guest;
use crate::tester::{Options, Role, Seen};

/// A guest whose compaction has begun to move a page of the balloon, with a device that has answered nothing since; the pages of the balloon
/// before, and the new one.
fn moving() -> (Guest, BTreeSet<u64>, u64) {
    let mut guest = Guest::boot(Options { ram_bytes: 16 << 20, config: [256, 0, 0, 0], ..Options::default() });
    let balloon: BTreeSet<u64> = guest.frames_told(Role::Inflate).into_iter().collect();
    assert_eq!(balloon.len(), 256);
    // Memory in use up to the middle of a pageblock: the balloon's pages, which are the lowest, can move to the block's rest.
    assert!(guest.task(op::FILL, 1, 1024, 0x11));
    guest.seen.clear();
    guest.device.options.holds = vec![Role::Inflate, Role::Deflate];
    guest.order(op::COMPACT, 0, 0, 0);
    guest.run();
    let told = guest.frames_told(Role::Inflate);
    assert_eq!(told.len(), 1, "one page at a time");
    assert!(!balloon.contains(&told[0]), "a new page");
    (guest, balloon, told[0])
}

#[test]
fn c15_a_page_that_moves_is_deflated_only_once_its_replacement_is_acknowledged() {
    let (mut guest, balloon, _) = moving();
    assert!(guest.chains(Role::Deflate).is_empty());
    assert!(guest.use_one(Role::Inflate));
    guest.run();
    let back = guest.frames_told(Role::Deflate);
    assert_eq!(back.len(), 1);
    assert!(balloon.contains(&back[0]), "the old page");
    let place = |role| guest.first(|seen| matches!(seen, Seen::Exposed(chain) if chain.role == role)).expect("exposed");
    let used = guest.first(|seen| matches!(seen, Seen::Used { role: Role::Inflate, .. })).expect("used");
    assert!(place(Role::Inflate) < used && used < place(Role::Deflate));
}

#[test]
fn c12_a_page_that_moved_is_not_used_before_its_deflation_is_acknowledged() {
    let (mut guest, _, new) = moving();
    guest.use_one(Role::Inflate);
    assert!(guest.run_until(|seen| matches!(seen, Seen::Exposed(chain) if chain.role == Role::Deflate)));
    let old = guest.frames_told(Role::Deflate)[0];
    guest.watch([old, new]);
    guest.run();
    assert_eq!(guest.stores, [], "neither the old page nor the new one");
    assert!(!guest.blocks(debug::FREE).contains(&old));
    guest.release(Role::Deflate);
    assert!(guest.blocks(debug::FREE).contains(&old));
}

#[test]
fn c16_a_page_that_moves_leaves_actual_as_it_is() {
    let (mut guest, _, _) = moving();
    guest.device.options.holds.clear();
    guest.release(Role::Inflate);
    assert!(guest.frames_told(Role::Deflate).len() > 1, "the others follow");
    assert_eq!(guest.frames_told(Role::Inflate).len(), guest.frames_told(Role::Deflate).len());
    assert_eq!(guest.device.config[1], 256);
    assert!(guest.writes(mmio::CONFIG + config::ACTUAL).iter().all(|write| write.1 == 256));
}
