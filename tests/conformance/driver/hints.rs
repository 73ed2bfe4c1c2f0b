//! Free page hints, the driver's side.

use std::collections::BTreeSet;

use wire::balloon::{CMD_ID_DONE, CMD_ID_STOP, config, feature};
use wire::debug;
use wire::platform::boot_flag;
use wire::task::op;
use wire::virtio::mmio;

use crate::guest::Guest;
use crate::tester::{COMMON, Chain, Options, Role, Seen};
use crate::{Check, ensure, known_violation};

/// The first id that is no command.
const FIRST_ID: u32 = 2;
/// The first id of a QEMU.
const QEMUS_ID: u32 = 0x8000_0001;
const ID_FIELD: u64 = mmio::CONFIG + config::FREE_PAGE_HINT_CMD_ID;
/// Exits in which a driver that finds its queue full turns its circle many times.
const MANY_EXITS: usize = 20_000;

fn is_hint(seen: &Seen) -> bool {
    matches!(seen, Seen::Exposed(chain) if chain.role == Role::Hint && chain.buffers[0].writable)
}

/// Ids that the driver has exposed, in order.
fn ids(guest: &Guest) -> Vec<u32> {
    guest.chains(Role::Hint).iter().flat_map(Chain::words).collect()
}

/// Blocks that the driver has hinted.
fn hints(guest: &Guest) -> Vec<Chain> {
    guest.chains(Role::Hint).into_iter().filter(|chain| chain.buffers[0].writable).collect()
}

fn frames(guest: &Guest) -> BTreeSet<u64> {
    hints(guest).iter().flat_map(Chain::frames).collect()
}

/// A guest after one round.
fn hinted(options: Options) -> Guest {
    let mut guest = Guest::up(options);
    guest.command(FIRST_ID);
    assert!(hints(&guest).len() >= 3, "{} blocks of 4 MiB in 32 MiB", hints(&guest).len());
    guest
}

/// A device with a hint queue of four entries, which it does not look at.
fn tiny() -> Options {
    Options { sizes: [128, 128, 128, 4, 32], ..Options::default() }.holding(Role::Hint)
}

#[test]
fn c27_hint_id_buffers_are_exactly_4_bytes() {
    let mut guest = hinted(Options::default());
    guest.command(QEMUS_ID);
    guest.command(CMD_ID_DONE);
    let out: Vec<Chain> =
        guest.chains(Role::Hint).into_iter().filter(|chain| chain.buffers.iter().any(|buffer| !buffer.writable)).collect();
    assert_eq!(out.len(), 4, "start and stop, twice");
    assert!(out.iter().all(|chain| chain.buffers.len() == 1 && chain.buffers[0].len == 4), "{out:x?}");
}

#[test]
fn c28_a_round_starts_with_the_current_id() {
    for id in [FIRST_ID, QEMUS_ID, u32::MAX] {
        let mut guest = Guest::up(Options::default());
        guest.command(id);
        assert_eq!(guest.chains(Role::Hint)[0].words(), [id]);
    }
}

/// N5: the start id does not fit, the driver says so in its log, and hints all the same as soon as there is room.
#[test]
fn c28_a_round_whose_start_does_not_fit_hints_without_one() {
    known_violation("C28", "N5, read in Linux", "begins with pages", || {
        let mut guest = Guest::up(tiny());
        guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID);
        guest.run_exits(MANY_EXITS);
        guest.command(CMD_ID_STOP);
        assert_eq!(guest.device.exposed(Role::Hint).len(), 4, "the queue is full");
        guest.seen.clear();
        guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID + 1);
        guest.run_exits(MANY_EXITS);
        assert_eq!(guest.warnings(), ["virtio_balloon: failed to send the start id"]);
        while guest.use_one(Role::Hint) {}
        guest.run_exits(MANY_EXITS);
        let first = guest.chains(Role::Hint)[0].clone();
        ensure(first.words() == [FIRST_ID + 1], || format!("the round begins with pages: {first:x?}"))
    });
}

#[test]
fn c29_one_buffer_with_the_current_id_is_exposed_in_a_round() {
    let mut guest = Guest::up(Options::default().holding(Role::Hint));
    guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID);
    assert!(guest.run_until(is_hint));
    // Interrupts in the middle of the round, with the same id.
    for _ in 0..3 {
        guest.device.raise(3);
        guest.run_exits(200);
    }
    guest.run();
    guest.command(FIRST_ID);
    assert_eq!(ids(&guest), [FIRST_ID, CMD_ID_STOP]);
}

#[test]
fn c29_the_start_buffer_of_an_unused_round_becomes_a_second_one() {
    known_violation("C29", "docs/findings/start-buffer-rewritten.md", "2 buffers hold id 3", || {
        let mut guest = Guest::up(Options::default().holding(Role::Hint));
        guest.command(FIRST_ID);
        guest.command(FIRST_ID + 1);
        let current = guest.device.exposed(Role::Hint).iter().filter(|chain| chain.words() == [FIRST_ID + 1]).count();
        ensure(current == 1, || format!("{current} buffers hold id 3"))
    });
}

#[test]
fn c30_pages_are_supplied_under_an_id_that_is_no_command() {
    for id in [FIRST_ID, QEMUS_ID, u32::MAX] {
        let mut guest = Guest::up(Options::default());
        guest.command(id);
        assert!(hints(&guest).len() >= 3, "id {id:x}");
    }
}

#[test]
fn c30_nothing_is_supplied_under_a_command() {
    for id in [CMD_ID_STOP, CMD_ID_DONE] {
        let mut guest = Guest::up(Options::default());
        guest.command(id);
        assert!(guest.chains(Role::Hint).is_empty(), "id {id}");
    }
}

#[test]
fn c31_no_page_is_supplied_once_the_driver_has_read_stop_or_done() {
    for command in [CMD_ID_STOP, CMD_ID_DONE] {
        let mut guest = Guest::up(Options::default());
        guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID);
        assert!(guest.run_until(is_hint));
        guest.command(command);
        let read = guest.reads(ID_FIELD).into_iter().find(|read| read.1 == u64::from(command)).expect("read").0;
        let last = guest.seen.iter().rposition(is_hint).expect("hints");
        assert!(last < read, "command {command}: a hint at {last}, read at {read}");
        assert!(hints(&guest).len() < 3, "the round was cut short");
        assert_eq!(ids(&guest), [FIRST_ID, CMD_ID_STOP]);
    }
}

#[test]
fn c32_a_round_ends_with_a_stop_buffer_when_there_are_no_more_pages() {
    let guest = hinted(Options::default());
    assert_eq!(guest.chains(Role::Hint).last().map(Chain::words), Some(vec![CMD_ID_STOP]));
    assert_eq!(ids(&guest), [FIRST_ID, CMD_ID_STOP]);
    assert!(guest.warnings().is_empty());
}

#[test]
fn c32_a_round_whose_stop_does_not_fit_has_none() {
    known_violation("C32", "Linux, which logs that the stop id could not be added", "no stop", || {
        let mut guest = Guest::up(tiny());
        // Start, one page, stop: one entry is left, which the next start takes.
        guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID);
        assert!(guest.run_until(is_hint));
        guest.command(CMD_ID_STOP);
        assert_eq!(guest.device.exposed(Role::Hint).len(), 3);
        guest.seen.clear();
        guest.change(config::FREE_PAGE_HINT_CMD_ID, FIRST_ID + 1);
        guest.run_exits(MANY_EXITS);
        guest.command(CMD_ID_STOP);
        assert_eq!(guest.warnings(), ["virtio_balloon: failed to send the stop id"]);
        let found = ids(&guest);
        ensure(found == [FIRST_ID + 1, CMD_ID_STOP], || format!("no stop behind the start: {found:x?}"))
    });
}

#[test]
fn c33_hinted_pages_are_released_while_their_descriptors_are_unused() {
    let mut guest = hinted(Options::default().holding(Role::Hint));
    let exposed = frames(&guest);
    assert!(guest.task(op::SHRINK, 0, 1024, 0));
    let freed = guest.blocks(debug::FREE);
    assert!(freed.intersection(&exposed).count() >= 1024);
    assert_eq!(guest.device.exposed(Role::Hint).len(), hints(&guest).len() + 2, "the device has used none");
    // The device is late, and the driver does not mind.
    guest.release(Role::Hint);
    guest.command(CMD_ID_DONE);
}

#[test]
fn c34_the_contents_of_hinted_pages_are_taken_for_anything() {
    for flags in [0, boot_flag::PAGE_POISON, boot_flag::INIT_ON_ALLOC, boot_flag::INIT_ON_FREE] {
        let options = Options { boot_flags: flags, ..Options::offering(COMMON | feature::PAGE_POISON) };
        let mut guest = hinted(options.holding(Role::Hint));
        let hinted = frames(&guest);
        guest.scribble(hinted.iter().copied());
        guest.release(Role::Hint);
        guest.command(CMD_ID_DONE);
        // Whoever gets the pages finds what it expects, or the guest would be dead.
        guest.seen.clear();
        guest.task(op::FILL, 1, 64 << 10, 0x11);
        assert!(!guest.blocks(debug::ALLOC).is_disjoint(&hinted));
    }
}

/// Releases a hinted block that the device has written over, before DONE; returns whether the driver initialised it.
fn initialises_what_it_releases(flags: u64) -> Check {
    let options = Options { boot_flags: flags, ..Options::offering(COMMON | feature::PAGE_POISON) };
    let mut guest = hinted(options);
    let hinted = frames(&guest);
    guest.scribble(hinted.iter().copied());
    guest.seen.clear();
    assert!(guest.task(op::SHRINK, 0, 1024, 0));
    let released: Vec<u64> = guest.blocks(debug::FREE).intersection(&hinted).copied().collect();
    assert_eq!(released.len(), 1024);
    let stale = released.iter().filter(|frame| guest.ram.page(host::event::Pfn(**frame)).contains(&0x5c)).count();
    ensure(stale == 0, || format!("{stale} pages are free as the device left them"))
}

#[test]
fn c35_pages_released_before_done_are_initialised_where_freed_pages_are() {
    for flags in [boot_flag::PAGE_POISON, boot_flag::INIT_ON_FREE] {
        initialises_what_it_releases(flags).expect("the allocator fills them");
    }
}

#[test]
fn c35_pages_released_before_done_are_left_to_their_next_owner() {
    known_violation("C35", "Linux, whose shrinker just frees them", "1024 pages are free as the device left them", || {
        initialises_what_it_releases(0)
    });
}

#[test]
fn c36_every_hinted_page_is_released_on_done() {
    let mut guest = hinted(Options::default());
    let hinted = frames(&guest);
    guest.seen.clear();
    guest.command(CMD_ID_DONE);
    assert_eq!(guest.blocks(debug::FREE).intersection(&hinted).count(), hinted.len());
}

/// A driver that waits for each buffer (a proposal) keeps the rules of the round all the same, and C29 even with a slow device.
#[test]
fn c29_a_driver_that_waits_for_its_buffers_exposes_the_id_once() {
    let options = Options::offering(COMMON | feature::HINT_WAIT_ON_ACK).holding(Role::Hint);
    let mut guest = Guest::up(options);
    guest.command(FIRST_ID);
    guest.command(FIRST_ID + 1);
    assert_eq!(guest.device.exposed(Role::Hint).len(), 1);
    guest.release(Role::Hint);
    assert_eq!(ids(&guest), [FIRST_ID, CMD_ID_STOP, FIRST_ID + 1, CMD_ID_STOP]);
    assert!(guest.device.breaches.is_empty(), "{:?}", guest.device.breaches);
}
