//! Inflating and deflating, the driver's side.

use std::collections::BTreeSet;

use wire::balloon::{config, feature};
use wire::debug;
use wire::platform::boot_flag;
use wire::task::op;
use wire::virtio::mmio;

use crate::guest::Guest;
use crate::tester::{COMMON, Options, Role, Seen};
use crate::{Check, ensure};

const ACTUAL: u64 = mmio::CONFIG + config::ACTUAL;

/// Balloon pages that the driver has told, as a set; none may be told twice.
fn told(guest: &Guest, role: Role) -> BTreeSet<u64> {
    let frames = guest.frames_told(role);
    let set: BTreeSet<u64> = frames.iter().copied().collect();
    assert_eq!(set.len(), frames.len(), "a page is told twice");
    set
}

/// A guest with a balloon of so many pages, and those pages.
fn inflated(options: Options, pages: u32) -> (Guest, BTreeSet<u64>) {
    let mut guest = Guest::up(options);
    guest.target(pages);
    let frames = told(&guest, Role::Inflate);
    assert_eq!(frames.len(), pages as usize);
    guest.seen.clear();
    (guest, frames)
}

/// Whether the guest has stored to watched pages, or its allocator has handed one of them out.
fn untouched(guest: &Guest, frames: &BTreeSet<u64>) -> Check {
    ensure(guest.stores.is_empty(), || format!("the guest stores to {:x?}", guest.stores))?;
    let handed_out: Vec<u64> = guest.blocks(debug::ALLOC).intersection(frames).copied().collect();
    ensure(handed_out.is_empty(), || format!("the allocator hands out {handed_out:x?}"))
}

/// Lets a task take what memory there is.
fn press(guest: &mut Guest) {
    guest.task(op::FILL, 1, 64 << 10, 0x11);
}

#[test]
fn c6_the_target_is_read_as_little_endian_bytes() {
    let mut guest = Guest::up(Options::default());
    guest.device.config[0] = u32::from_le_bytes([0x02, 0x01, 0, 0]);
    guest.device.raise(wire::virtio::isr::CONFIG_CHANGE);
    guest.run();
    assert_eq!(told(&guest, Role::Inflate).len(), 0x102);
    assert_eq!(guest.writes(ACTUAL).last().map(|write| write.1.to_le_bytes()), Some([0x02, 0x01, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn c7_pages_are_supplied_while_the_target_is_above_what_the_driver_holds() {
    let mut guest = Guest::up(Options::default());
    guest.target(600);
    assert_eq!(told(&guest, Role::Inflate).len(), 600);
    let sizes: Vec<usize> = guest.chains(Role::Inflate).iter().map(|chain| chain.words().len()).collect();
    assert_eq!(sizes, [256, 256, 88]);
    guest.target(601);
    assert_eq!(told(&guest, Role::Inflate).len(), 601);
}

#[test]
fn c7_a_target_that_stood_before_the_driver_came_is_followed() {
    let guest = Guest::boot(Options { config: [40, 0, 0, 0], ..Options::default() });
    assert_eq!(told(&guest, Role::Inflate).len(), 40);
}

#[test]
fn c8_pages_are_taken_back_when_the_target_falls_below_what_the_driver_holds() {
    let (mut guest, frames) = inflated(Options::default(), 300);
    guest.target(100);
    let back = told(&guest, Role::Deflate);
    assert_eq!(back.len(), 200);
    assert!(back.is_subset(&frames));
}

#[test]
fn c8_nothing_is_taken_or_given_at_the_target() {
    let (mut guest, _) = inflated(Options::default(), 300);
    guest.target(300);
    assert!(guest.chains(Role::Inflate).is_empty() && guest.chains(Role::Deflate).is_empty());
}

/// Read as it must be meant: pages stay in the balloon unless the target is lower. The sentence itself says `<=`, which C8 contradicts.
#[test]
fn c9_without_deflate_on_oom_no_pressure_takes_a_page_out_of_the_balloon() {
    let (mut guest, frames) = inflated(Options::default(), 300);
    guest.watch(frames.iter().copied());
    press(&mut guest);
    guest.task(op::OOM, 0, 0, 0);
    assert!(!guest.said_all(debug::ALLOC_FAIL).is_empty(), "memory has run out");
    assert!(guest.chains(Role::Deflate).is_empty());
    untouched(&guest, &frames).expect("pages of the balloon are the device's");
}

#[test]
fn c10_with_deflate_on_oom_pages_are_taken_back_when_memory_runs_out() {
    let (mut guest, frames) = inflated(Options::offering(COMMON | feature::DEFLATE_ON_OOM), 300);
    assert!(guest.task(op::OOM, 0, 0, 0));
    let back = told(&guest, Role::Deflate);
    assert_eq!(back.len(), 256);
    assert!(back.is_subset(&frames));
    assert_eq!(guest.writes(ACTUAL).last().map(|write| write.1), Some(44), "below the target, as it may be");
}

#[test]
fn c11_no_page_of_the_balloon_is_used_that_was_not_announced() {
    for features in [COMMON, COMMON | feature::DEFLATE_ON_OOM, COMMON & !feature::MUST_TELL_HOST] {
        let (mut guest, frames) = inflated(Options::offering(features), 600);
        guest.target(300);
        press(&mut guest);
        let announced = told(&guest, Role::Deflate);
        assert!(announced.len() >= 300);
        let kept: BTreeSet<u64> = frames.difference(&announced).copied().collect();
        untouched(&guest, &kept).expect("the others stay in the balloon");
        let used: BTreeSet<u64> = guest.blocks(debug::ALLOC).intersection(&frames).copied().collect();
        assert!(!used.is_empty() && used.is_subset(&announced), "{} pages came back into use", used.len());
    }
}

/// Deflates with the device silent, under pressure; returns whether the driver left the pages alone until the device answered.
fn waits_for_the_deflate_ack(features: u64) -> Check {
    let (mut guest, _) = inflated(Options::offering(features).poisoned().holding(Role::Deflate), 300);
    guest.change(config::NUM_PAGES, 100);
    assert!(guest.run_until(|seen| matches!(seen, Seen::Exposed(_))));
    let announced: BTreeSet<u64> = told(&guest, Role::Deflate);
    assert_eq!(announced.len(), 200, "announced in one buffer");
    guest.watch(announced.iter().copied());
    guest.run();
    press(&mut guest);
    untouched(&guest, &announced)?;
    assert!(guest.blocks(debug::FREE).is_disjoint(&announced), "not even free");
    guest.release(Role::Deflate);
    assert!(announced.is_subset(&guest.blocks(debug::FREE)), "used from here on");
    Ok(())
}

#[test]
fn c12_with_must_tell_host_no_page_is_used_before_the_deflate_is_acknowledged() {
    waits_for_the_deflate_ack(COMMON).expect("the device has not answered");
}

#[test]
fn c13_without_must_tell_host_the_driver_waits_all_the_same() {
    waits_for_the_deflate_ack(COMMON & !feature::MUST_TELL_HOST).expect("it may use them, and does not");
}

#[test]
fn c14_no_page_is_used_between_its_inflation_and_the_acknowledgement() {
    let mut guest = Guest::up(Options::default().holding(Role::Inflate));
    guest.change(config::NUM_PAGES, 200);
    assert!(guest.run_until(|seen| matches!(seen, Seen::Exposed(_))));
    let frames = told(&guest, Role::Inflate);
    guest.watch(frames.iter().copied());
    guest.seen.clear();
    guest.run();
    press(&mut guest);
    assert!(!guest.said_all(debug::ALLOC_FAIL).is_empty(), "memory has run out");
    untouched(&guest, &frames).expect("the device has not answered");
}

#[test]
fn c15_nothing_is_deflated_before_its_inflation_is_acknowledged() {
    let mut guest = Guest::up(Options::offering(COMMON | feature::DEFLATE_ON_OOM).holding(Role::Inflate));
    guest.target(200);
    guest.target(0);
    guest.order(op::OOM, 0, 0, 0);
    guest.run();
    assert!(guest.chains(Role::Deflate).is_empty());
    guest.release(Role::Inflate);
    assert_eq!(told(&guest, Role::Deflate).len(), 200);
}

#[test]
fn c16_actual_follows_each_change_of_the_balloon() {
    let (mut guest, _) = inflated(Options::offering(COMMON | feature::DEFLATE_ON_OOM), 600);
    let last = |guest: &Guest| guest.writes(ACTUAL).last().map(|write| write.1);
    assert_eq!(guest.device.config[1], 600);
    guest.target(500);
    assert_eq!(last(&guest), Some(500));
    guest.task(op::OOM, 0, 0, 0);
    // The target still stands at 500: what the OOM notifier took, the driver gives again when it is asked to look.
    assert_eq!(last(&guest), Some(244));
    assert!(guest.task(op::UNBIND, 0, 0, 0));
    assert_eq!(last(&guest), Some(0));
}

#[test]
fn c16_actual_is_written_behind_the_acknowledgement_that_it_counts() {
    let mut guest = Guest::up(Options::default());
    guest.target(600);
    let used: Vec<usize> = (0..guest.seen.len()).filter(|at| matches!(guest.seen[*at], Seen::Used { role: Role::Inflate, .. })).collect();
    let writes = guest.writes(ACTUAL);
    assert_eq!(writes.iter().map(|write| write.1).collect::<Vec<_>>(), [256, 512, 600]);
    assert!(writes.iter().zip(&used).all(|(write, used)| write.0 > *used));
}

#[test]
fn c17_a_driver_copes_with_pages_that_the_device_has_written_over() {
    for flags in [0, boot_flag::PAGE_POISON, boot_flag::INIT_ON_ALLOC, boot_flag::INIT_ON_FREE] {
        let options = Options { boot_flags: flags, ..Options::offering(COMMON | feature::PAGE_POISON) };
        let mut guest = Guest::up(options.holding(Role::Inflate).holding(Role::Deflate));
        guest.target(200);
        let frames = told(&guest, Role::Inflate);
        guest.scribble(frames.iter().copied());
        guest.release(Role::Inflate);
        guest.target(0);
        guest.scribble(frames.iter().copied());
        guest.release(Role::Deflate);
        // Whoever gets them finds what it expects, or the guest would be dead.
        press(&mut guest);
        assert!(!guest.blocks(debug::ALLOC).is_disjoint(&frames));
    }
}

/// For legacy devices alone: others return 0. A driver that looked would be misled.
#[test]
fn c18_the_used_length_is_ignored() {
    let mut guest = Guest::up(Options::default().holding(Role::Inflate));
    guest.target(200);
    guest.use_one_with_length(Role::Inflate, 0xffff_fff0);
    guest.run();
    assert_eq!(guest.device.config[1], 200);
}

#[test]
fn c18_actual_is_written_in_one_access_of_four_bytes() {
    let (mut guest, _) = inflated(Options::default(), 300);
    guest.target(0);
    let to_actual = |seen: &&Seen| matches!(seen, Seen::Write { offset, .. } if (ACTUAL..ACTUAL + 4).contains(offset));
    let found: Vec<&Seen> = guest.seen.iter().filter(to_actual).collect();
    assert!(!found.is_empty());
    assert!(found.iter().all(|seen| matches!(seen, Seen::Write { offset: ACTUAL, len: 4, .. })), "{found:?}");
}

/// Contents of pages that the balloon gives back, at the moment when the allocator gets them.
fn given_back(flags: u64) -> BTreeSet<u8> {
    let options = Options { boot_flags: flags, ..Options::offering(COMMON | feature::PAGE_POISON) };
    let (mut guest, frames) = inflated(options.holding(Role::Deflate), 50);
    guest.scribble(frames.iter().copied());
    guest.target(0);
    guest.release(Role::Deflate);
    assert!(frames.is_subset(&guest.blocks(debug::FREE)));
    frames.iter().flat_map(|frame| guest.ram.page(host::event::Pfn(*frame))).collect()
}

#[test]
fn c44_with_page_poison_deflated_pages_hold_the_poison_before_they_are_used() {
    assert_eq!(given_back(boot_flag::PAGE_POISON), BTreeSet::from([0xaa]));
    assert_eq!(given_back(boot_flag::INIT_ON_FREE), BTreeSet::from([0]));
    assert_eq!(given_back(0), BTreeSet::from([0x5c]), "without the feature nothing is promised");
}

#[test]
fn c45_the_poison_is_told_before_driver_ok() {
    for (flags, poison) in [(boot_flag::PAGE_POISON, 0xaaaa_aaaa), (boot_flag::INIT_ON_FREE, 0)] {
        let options = Options { boot_flags: flags, config: [0, 0, 0, 0x77], ..Options::offering(COMMON | feature::PAGE_POISON) };
        let mut guest = Guest::boot(options);
        let written = guest.writes(mmio::CONFIG + config::POISON_VAL);
        let ready = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 15).expect("DRIVER_OK").0;
        assert_eq!(written.iter().map(|write| write.1).collect::<Vec<_>>(), [poison]);
        assert!(written[0].0 < ready);
        // And again by a driver that is bound again: the device has forgotten it.
        guest.seen.clear();
        assert!(guest.task(op::UNBIND, 0, 0, 0) && guest.task(op::BIND, 0, 0, 0));
        assert_eq!(guest.writes(mmio::CONFIG + config::POISON_VAL).len(), 1);
    }
}

#[test]
fn c46_the_poison_is_never_changed_while_the_driver_is_up() {
    let mut guest = Guest::up(Options::offering(COMMON | feature::PAGE_POISON | feature::PAGE_REPORTING).poisoned());
    guest.target(300);
    guest.command(2);
    guest.command(1);
    guest.target(0);
    guest.run_for(5_000_000_000);
    assert!(guest.writes(mmio::CONFIG + config::POISON_VAL).is_empty());
}
