//! What the iothread does with elements, in order: QEMU's rules for one element, locks as steps, polling, parking, both profiles.

use super::super::testing::{Buf, FakeSink, HINT, Rig, options, range};
use super::*;
use crate::event::Actor;
use crate::event::PrecopyReason;
use crate::migration::notifier::PrecopyNotifier;
use crate::step::Ctx;
use wire::balloon::config;
use wire::virtio::{feature, isr, mmio, status};

const ID: CmdId = CmdId(0x8000_0001);

fn pop_id(head: u16, id: u32) -> Event {
    Event::HintPop { head, element: HintElement::Id(CmdId(id)) }
}

fn pop_pages(head: u16, pages: PageRange) -> Event {
    Event::HintPop { head, element: HintElement::Pages(pages) }
}

const USED: Event = Event::DeviceIrq { cause: isr::USED_BUFFER };

#[test]
fn one_round_in_order() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.take_events();
    rig.send(&[Buf::Word(ID.0)]);
    rig.send(&[Buf::pages(0x300, 2)]);
    rig.send(&[Buf::Word(0)]);
    let pages = range(0x300, 2);
    let expected = [
        pop_id(0, ID.0),
        Event::HintStart { id: ID },
        Event::HintPush { head: 0, len: 0 },
        USED,
        pop_pages(1, pages),
        Event::HintApply { range: pages, id: ID, cleared: 2 },
        Event::HintPush { head: 1, len: 0 },
        USED,
        pop_id(2, 0),
        Event::HintStop { from: HintStatus::Start },
        Event::HintPush { head: 2, len: 0 },
        USED,
    ];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(rig.used(HINT), [(0, 0), (1, 0), (2, 0)]);
}

#[test]
fn the_locks_of_one_element_are_steps_of_their_own() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    let mut kinds = Vec::new();
    while rig.iothread_step() {
        kinds.push(std::mem::take(&mut rig.events).into_iter().map(|e| e.event).collect::<Vec<_>>());
    }
    let take = |lock| vec![Event::LockTake { lock }];
    let release = |lock| vec![Event::LockRelease { lock }];
    let pages = range(0x300, 1);
    let expected = [
        take(LockId::FreePage),
        vec![pop_pages(1, pages)],
        take(LockId::Bitmap),
        vec![Event::HintApply { range: pages, id: ID, cleared: 1 }],
        release(LockId::Bitmap),
        vec![Event::HintPush { head: 1, len: 0 }],
        release(LockId::FreePage),
        vec![USED],
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_stale_id_is_ignored() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Requested);
    rig.send(&[Buf::Word(ID.0 - 1)]);
    assert_eq!(rig.take_events(), [pop_id(0, ID.0 - 1), Event::HintPush { head: 0, len: 0 }, USED]);
    assert_eq!(rig.device.hint_status(), HintStatus::Requested);
}

#[test]
fn a_repeated_current_id_stops_the_round() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Word(ID.0)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Stop);
}

#[test]
fn an_element_with_id_and_pages_starts_and_hints_at_once() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Requested);
    rig.send(&[Buf::Word(ID.0), Buf::pages(0x300, 1), Buf::pages(0x310, 2)]);
    assert_eq!(rig.sink.applied, [(range(0x300, 1), ID), (range(0x310, 2), ID)]);
    let kinds: Vec<_> = rig.take_events().iter().map(Event::kind).collect();
    use EventKind::{DeviceIrq, HintApply, HintPop, HintPush, HintStart};
    assert_eq!(kinds, [HintPop, HintPop, HintPop, HintStart, HintApply, HintApply, HintPush, DeviceIrq]);
}

#[test]
fn an_element_that_stops_hints_nothing() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Word(0), Buf::pages(0x300, 1)]);
    assert!(rig.take_events().contains(&Event::HintIgnore { range: range(0x300, 1), status: HintStatus::Stop }));
    assert_eq!(rig.sink.applied, []);
}

#[test]
fn a_malformed_id_breaks_the_device_and_comes_back() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Read(0x30_0000, 3)]);
    let expected = [
        Event::HintPop { head: 1, element: HintElement::Malformed(3) },
        Event::DeviceBroken { queue: HINT },
        Event::DeviceIrq { cause: isr::CONFIG_CHANGE },
        Event::HintPush { head: 1, len: 0 },
        USED,
    ];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(rig.used(HINT).len(), 2);
    assert_ne!(rig.read(mmio::STATUS) & status::DEVICE_NEEDS_RESET, 0);
    assert_eq!(rig.device.hint_status(), HintStatus::Start, "only the migration ends the round now");
    rig.send(&[Buf::pages(0x300, 1)]);
    assert_eq!(rig.sink.applied, [], "a broken device takes nothing");
    rig.notify(PrecopyReason::BeforeBitmapSync, true);
    rig.run();
    assert!(!rig.no_notify(HINT), "the thread sleeps again");
}

#[test]
fn a_longer_id_counts_by_its_first_four_bytes() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Requested);
    rig.ram.write(0x30_0000, &ID.0.to_le_bytes());
    rig.send(&[Buf::Read(0x30_0000, 8)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Start);
}

#[test]
fn a_broken_chain_breaks_the_device_and_does_not_come_back() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Write(u64::MAX - 0xfff, 0x1000)]);
    assert_eq!(rig.take_events(), [Event::DeviceBroken { queue: HINT }, Event::DeviceIrq { cause: isr::CONFIG_CHANGE }]);
    assert_eq!(rig.used(HINT).len(), 1, "only the id");
}

#[test]
fn pages_without_a_migration_are_ignored() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.sink.running = false;
    rig.send(&[Buf::pages(0x300, 1)]);
    assert!(rig.take_events().contains(&Event::HintIgnore { range: range(0x300, 1), status: HintStatus::Start }));
}

#[test]
fn a_started_round_is_polled_without_kicks() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    assert!(rig.no_notify(HINT));
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    rig.run();
    assert_eq!(rig.sink.applied.len(), 1);
    rig.send(&[Buf::Word(0)]);
    assert!(!rig.no_notify(HINT));
    rig.add(HINT, &[Buf::Word(0)]);
    rig.run();
    assert_eq!(rig.used(HINT).len(), 3, "not looked at without a kick");
}

#[test]
fn a_buffer_added_after_the_last_look_waits_for_the_next_kick() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.kick(HINT);
    assert!(rig.iothread_step(), "awake");
    assert!(!rig.no_notify(HINT));
    assert!(rig.iothread_step(), "lock, and the queue is empty");
    assert!(rig.no_notify(HINT));
    rig.add(HINT, &[Buf::Word(0)]);
    rig.run();
    assert_eq!(rig.used(HINT), []);
    rig.kick(HINT);
    rig.run();
    assert_eq!(rig.used(HINT), [(0, 0)]);
}

#[test]
fn a_kick_wakes_the_thread_which_wants_no_more_of_them_until_it_sleeps_again() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.take_events();
    rig.kick(HINT);
    rig.run();
    let locks = [EventKind::LockTake, EventKind::LockRelease];
    assert_eq!(rig.take_events_without(&locks), [Event::DeviceKick { queue: HINT }, Event::HintWake, Event::HintQuiet, Event::HintSleep]);
}

#[test]
fn a_thread_that_wakes_when_the_vm_has_stopped_writes_to_the_ring_and_parks() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.kick(HINT);
    rig.vm_state(false);
    assert!(!rig.no_notify(HINT));
    rig.run();
    assert!(rig.no_notify(HINT), "the flag is guest memory");
    assert_eq!(rig.locks.holder(LockId::FreePage), None);
}

#[test]
fn a_thread_that_has_left_its_loop_writes_to_the_ring_when_the_vm_has_stopped() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.kick(HINT);
    while rig.take_events_without(&[]).last() != Some(&Event::LockRelease { lock: LockId::FreePage }) {
        assert!(rig.iothread_step());
    }
    rig.vm_state(false);
    assert!(rig.no_notify(HINT));
    rig.run();
    assert!(!rig.no_notify(HINT), "kicks are wanted again, and nobody is there to kick");
}

#[test]
fn a_stopped_vm_parks_the_thread_before_the_next_element() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.vm_state(false);
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    rig.run();
    assert_eq!(rig.sink.applied, []);
    assert_eq!(rig.locks.holder(LockId::FreePage), None, "waiting gives the lock back");
    rig.vm_state(true);
    rig.run();
    assert_eq!(rig.sink.applied, [(range(0x300, 1), ID)]);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.ram.write(0x10_0000 + u64::from(HINT) * 0x4000 + 0x1000, &wire::vring::AVAIL_F_NO_INTERRUPT.to_le_bytes());
    rig.send(&[Buf::Word(0)]);
    assert_eq!(rig.take_events(), [pop_id(0, 0), Event::HintPush { head: 0, len: 0 }]);
}

#[test]
fn with_event_idx_the_driver_names_the_used_entry_that_interrupts() {
    let mut with = options(Profile::Qemu);
    with.features |= feature::RING_EVENT_IDX;
    let mut rig = Rig::bare(with);
    rig.probe(u64::MAX);
    rig.run();
    rig.take_events();
    let used_event = 0x10_0000 + u64::from(HINT) * 0x4000 + 0x1000 + 4 + 2 * 16;
    rig.ram.write(used_event, &2u16.to_le_bytes());
    let interrupts: Vec<bool> = (0..4)
        .map(|_| {
            rig.send(&[Buf::Word(0)]);
            rig.take_events().contains(&USED)
        })
        .collect();
    assert_eq!(interrupts, [true, false, true, false], "the first always, then the third");
}

#[test]
fn an_unaligned_hint_is_rounded_down_and_its_first_page_is_marked() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.ram.drain_writes();
    rig.send(&[Buf::Write(0x30_0800, 0x1000)]);
    assert_eq!(rig.sink.applied, [(range(0x300, 1), ID)]);
    assert!(rig.ram.drain_writes().iter().any(|r| r.contains(crate::event::Pfn(0x300))));
}

#[test]
fn an_aligned_hint_marks_nothing_but_with_the_old_used_length() {
    for (faults, marked) in [(&[][..], false), (&[Fault::HintUsedLength][..], true)] {
        let mut rig = Rig::up(Profile::Qemu, faults).in_status(HintStatus::Start);
        rig.ram.write(0x30_0000, &[7]);
        rig.ram.drain_writes();
        rig.send(&[Buf::pages(0x300, 4)]);
        let writes = rig.ram.drain_writes();
        assert_eq!(writes.iter().any(|r| r.contains(crate::event::Pfn(0x300))), marked);
        assert!(!writes.iter().any(|r| r.contains(crate::event::Pfn(0x301))));
        assert_eq!(rig.ram.page(crate::event::Pfn(0x300))[0], 7);
        assert_eq!(rig.used(HINT).last(), Some(&(1, u32::from(marked))));
    }
}

#[test]
fn a_hint_below_a_page_does_nothing() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Write(0x30_0000, 0xfff)]);
    assert_eq!(rig.sink.applied, []);
    assert_eq!(rig.used(HINT).len(), 2);
}

#[test]
fn a_reset_in_status_stop_may_overtake_a_popped_element() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    rig.kick(HINT);
    rig.run_until(Move::on(EventKind::HintIgnore, range(0x300, 1)));
    rig.write(mmio::STATUS, 0);
    rig.run();
    assert_eq!(rig.used(HINT), [], "a reset device leaves the ring alone");
}

#[test]
fn firecracker_discards_at_once_and_says_done_by_itself() {
    let mut rig = Rig::up(Profile::Firecracker, &[]);
    rig.sink.running = false;
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 2);
    rig.ram.write(0x30_0000, &[0xbb]);
    rig.send(&[Buf::Word(2)]);
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 2, "the id stands until DONE");
    rig.take_events();
    rig.ram.drain_writes();
    rig.send(&[Buf::pages(0x300, 1)]);
    let pages = range(0x300, 1);
    let kinds = [
        pop_pages(1, pages),
        Event::HintApply { range: pages, id: CmdId(2), cleared: 0 },
        Event::HostDiscard { range: pages },
        Event::HintPush { head: 1, len: 0 },
        USED,
    ];
    assert_eq!(rig.take_events(), kinds);
    assert_eq!(rig.ram.page(crate::event::Pfn(0x300))[0], 0);
    assert!(!rig.ram.drain_writes().iter().any(|r| r.contains(crate::event::Pfn(0x300))), "a discard is no write");
    rig.send(&[Buf::Word(0)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Done);
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 1);
}

#[test]
fn firecracker_ignores_ranges_of_another_id_and_goes_on_with_the_right_one() {
    let mut rig = Rig::up(Profile::Firecracker, &[]);
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.send(&[Buf::Word(2)]);
    rig.send(&[Buf::Word(2)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Start, "a repeated id changes nothing");
    rig.send(&[Buf::Word(7)]);
    rig.take_events();
    rig.send(&[Buf::pages(0x300, 1)]);
    assert!(rig.take_events().contains(&Event::HintIgnore { range: range(0x300, 1), status: HintStatus::Requested }));
    rig.send(&[Buf::Word(2), Buf::pages(0x300, 1)]);
    assert!(rig.take_events().contains(&Event::HostDiscard { range: range(0x300, 1) }));
    assert_eq!(rig.sink.applied, [], "no bitmap is touched");
}

#[test]
fn waiting_for_hints_is_offered_by_both_profiles_when_asked_for() {
    for profile in [Profile::Qemu, Profile::Firecracker] {
        let wait = wire::balloon::feature::HINT_WAIT_ON_ACK;
        let mut with = options(profile);
        assert_eq!(with.offered() & wait, 0, "{profile:?}");
        with.features |= wait;
        let mut rig = Rig::bare(with);
        rig.probe(u64::MAX);
        assert!(rig.device.transport.negotiated(wait), "{profile:?}");
        rig.probe(!wait);
        assert!(!rig.device.transport.negotiated(wait), "{profile:?}");
    }
}

/// What a driver needs that waits for each buffer: it comes back with an interrupt, behind whatever the hint did, in every status.
#[test]
fn each_hint_comes_back_with_an_interrupt_when_it_is_over_and_done_with() {
    for profile in [Profile::Qemu, Profile::Firecracker] {
        for status in [HintStatus::Stop, HintStatus::Requested, HintStatus::Start, HintStatus::Done] {
            let mut with = options(profile);
            with.features |= wire::balloon::feature::HINT_WAIT_ON_ACK;
            let mut rig = Rig::bare(with);
            rig.probe(u64::MAX);
            rig.run();
            let mut rig = rig.in_status(status);
            let before = rig.used(HINT).len();
            rig.send(&[Buf::pages(0x300, 1)]);
            let kinds: Vec<_> = rig.take_events().iter().map(Event::kind).collect();
            use EventKind::{DeviceIrq, HintApply, HintIgnore, HintPop, HintPush, HostDiscard};
            let expected = match (status, profile) {
                (HintStatus::Start, Profile::Qemu | Profile::CloudHypervisor) => vec![HintPop, HintApply, HintPush, DeviceIrq],
                (HintStatus::Start, Profile::Firecracker) => vec![HintPop, HintApply, HostDiscard, HintPush, DeviceIrq],
                (HintStatus::Stop | HintStatus::Requested | HintStatus::Done, _) => vec![HintPop, HintIgnore, HintPush, DeviceIrq],
            };
            assert_eq!(kinds, expected, "{profile:?} in {}", status.name());
            assert_eq!(rig.used(HINT).len(), before + 1, "{profile:?} in {}", status.name());
        }
    }
}

#[test]
fn a_hint_that_a_stop_or_done_overtakes_comes_back_all_the_same() {
    for reason in [PrecopyReason::BeforeBitmapSync, PrecopyReason::Cleanup] {
        let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
        rig.add(HINT, &[Buf::pages(0x300, 1)]);
        rig.notify(reason, true);
        rig.run();
        assert!(rig.take_events().contains(&USED), "without a kick: the round was polled");
        assert_eq!((rig.used(HINT).len(), rig.sink.applied.len()), (2, 0));
    }
}

/// QEMU asks for no kicks while it loops, and for kicks again when it leaves, without another look. Firecracker never asks for peace.
#[test]
fn an_element_behind_the_last_look_waits_for_the_next_kick_under_qemu_alone() {
    for (profile, waits) in [(Profile::Qemu, true), (Profile::Firecracker, false)] {
        let mut rig = Rig::up(profile, &[]).in_status(HintStatus::Stop);
        let before = rig.used(HINT).len();
        rig.add(HINT, &[Buf::pages(0x300, 1)]);
        rig.kick(HINT);
        rig.run_until(Move::plain(EventKind::DeviceIrq));
        assert!(rig.iothread_step() && rig.iothread_step(), "the interrupt, and the last look");
        assert_eq!(rig.no_notify(HINT), waits, "{profile:?}");
        rig.add(HINT, &[Buf::pages(0x301, 1)]);
        if !rig.no_notify(HINT) {
            rig.kick(HINT);
        }
        rig.run();
        assert_eq!(rig.used(HINT).len() - before, if waits { 1 } else { 2 }, "{profile:?}");
        assert!(!rig.no_notify(HINT), "the thread sleeps, and would be kicked");
        rig.kick(HINT);
        rig.run();
        assert_eq!(rig.used(HINT).len() - before, 2, "{profile:?}");
    }
}

/// The same at the end of a round: a migration that ends it between two hints is enough.
#[test]
fn a_hint_behind_the_look_that_finds_the_round_ended_waits_for_the_next_kick() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    assert!(rig.no_notify(HINT), "the round is polled");
    rig.notify(PrecopyReason::BeforeBitmapSync, true);
    assert!(rig.iothread_step(), "the last look");
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    assert!(rig.no_notify(HINT), "a driver does not kick");
    rig.run();
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.notify(PrecopyReason::Cleanup, true);
    rig.run();
    assert_eq!(rig.used(HINT).len(), 1, "the start alone: neither the next round nor DONE makes the thread look");
    rig.kick(HINT);
    rig.run();
    assert_eq!(rig.used(HINT).len(), 2);
}

#[test]
fn a_hint_in_the_queue_of_a_device_that_is_reset_never_comes_back() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    rig.write(mmio::STATUS, 0);
    rig.take_events();
    rig.kick(HINT);
    rig.run();
    assert_eq!((rig.take_events(), rig.used(HINT).len(), rig.sink.applied.len()), (vec![], 1, 0));
}

#[test]
fn a_forked_device_moves_on_its_own() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.add(HINT, &[Buf::pages(0x300, 1)]);
    rig.run_until(Move::on(EventKind::HintApply, range(0x300, 1)));
    let fork = rig.device.clone();
    assert_eq!(fork, rig.device);
    let mut sink = FakeSink { running: true, applied: Vec::new() };
    rig.with(Actor::Iothread, |device, _, ctx: &mut Ctx<'_>| device.iothread_step(&mut sink, ctx));
    assert_ne!(fork, rig.device);
    assert_eq!(fork.saved_cmd_id(), CmdId(0));
}

#[test]
fn an_open_round_spins_on_an_empty_queue_until_it_ends() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    assert!(!rig.device.iothread_spins());
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.send(&[Buf::Word(ID.0)]);
    assert!(rig.device.iothread_spins(), "nothing is hinted, and it looks");
    rig.send(&[Buf::Word(0)]);
    assert!(!rig.device.iothread_spins());
}

#[test]
fn an_id_of_two_bytes_breaks_the_device_and_its_thread_spins_on() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.send(&[Buf::Read(0x300 << 12, 2)]);
    assert!(rig.device.iothread_spins());
    rig.notify(PrecopyReason::BeforeBitmapSync, true);
    while rig.iothread_step() {}
    assert!(!rig.device.iothread_spins());
}
