//! What Firecracker's and Cloud Hypervisor's devices do otherwise than QEMU's, one habit to a test.

use super::device::{BalloonOptions, Profile, QueueRole};
use super::testing::{Buf, INFLATE, Rig, options, range};
use crate::event::{Actor, Event, EventKind, HintStatus, PageRange, PrecopyReason};
use crate::fault::Fault;
use wire::balloon::{config, feature};
use wire::virtio::mmio;

fn discards(events: &[Event]) -> Vec<PageRange> {
    let discarded = |event: &Event| match event {
        Event::HostDiscard { range } => Some(*range),
        _ => None,
    };
    events.iter().filter_map(discarded).collect()
}

/// Cloud Hypervisor's fault of 2026 (52db3f865) was to look at the first descriptor alone.
#[test]
fn frame_numbers_in_several_descriptors_are_all_taken() {
    for profile in [Profile::Qemu, Profile::Firecracker, Profile::CloudHypervisor] {
        let mut rig = Rig::up(profile, &[]);
        rig.take_events();
        rig.ram.write(0x30_0000, &0x301u32.to_le_bytes());
        rig.ram.write(0x30_0800, &0x302u32.to_le_bytes());
        rig.add(INFLATE, &[Buf::Read(0x30_0000, 4), Buf::Read(0x30_0800, 4)]);
        rig.kick(INFLATE);
        rig.run();
        assert_eq!(discards(&rig.take_events()), [range(0x301, 1), range(0x302, 1)], "{profile:?}");
    }
}

#[test]
fn cloud_hypervisor_takes_actual_as_a_whole_and_nothing_else() {
    let mut rig = Rig::bare(BalloonOptions { target_pages: 3, ..options(Profile::CloudHypervisor) });
    rig.probe(u64::MAX);
    rig.write(mmio::CONFIG + config::NUM_PAGES, 9);
    rig.write(mmio::CONFIG + config::ACTUAL, 7);
    assert_eq!((rig.device.num_pages(), rig.device.actual()), (3, 7));
    rig.access(mmio::CONFIG + config::ACTUAL, Some(1), |device, ctx| device.mmio_write(mmio::CONFIG + config::ACTUAL, 1, 1, ctx));
    assert_eq!(rig.device.actual(), 7, "one byte of it is not taken");
    rig.write(mmio::STATUS, 0);
    assert_eq!((rig.device.num_pages(), rig.device.actual()), (3, 7), "and a reset keeps both");
}

#[test]
fn cloud_hypervisor_offers_neither_hints_nor_statistics_nor_poison() {
    let all = BalloonOptions { features: u64::MAX >> 32, ..options(Profile::CloudHypervisor) };
    let unknown = feature::MUST_TELL_HOST | feature::STATS_VQ | feature::FREE_PAGE_HINT | feature::PAGE_POISON;
    assert_eq!(all.offered() & unknown, 0);
    assert_eq!(all.offered() & feature::DEFLATE_ON_OOM, feature::DEFLATE_ON_OOM);
    assert_eq!(all.config_bytes(), 8);
}

#[test]
fn cloud_hypervisor_says_that_it_wrote_what_was_reported() {
    let mut rig = Rig::bare(BalloonOptions { features: feature::PAGE_REPORTING, ..options(Profile::CloudHypervisor) });
    rig.probe(u64::MAX);
    let queue = rig.device.queue_of(QueueRole::Reporting).expect("offered");
    rig.add(queue, &[Buf::pages(0x300, 2), Buf::pages(0x310, 1)]);
    rig.kick(queue);
    rig.run();
    assert_eq!(rig.used(queue), [(0, 3 << 12)]);
}

#[test]
fn firecracker_forgets_ids_and_size_with_a_reset() {
    let mut rig = Rig::up(Profile::Firecracker, &[]);
    for id in [2, 3] {
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), id);
    }
    rig.write(mmio::CONFIG + config::ACTUAL, 7);
    rig.write(mmio::STATUS, 0);
    assert_eq!(rig.device.actual(), 0);
    rig.probe(u64::MAX);
    rig.run();
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 2, "ids begin anew");
}

#[test]
fn firecracker_takes_an_unasked_stop_for_an_end_once_a_round_was_asked_for() {
    let mut rig = Rig::up(Profile::Firecracker, &[]);
    rig.send(&[Buf::Word(0)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Stop, "nobody has asked for any round");
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.send(&[Buf::Word(0)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Done);
}

/// A device whose driver has hinted, and has said that it has no more.
fn hinted(acknowledge_on_stop: bool, faults: &[Fault]) -> Rig {
    let mut rig = Rig::up(Profile::Firecracker, faults);
    rig.device.options.acknowledge_on_stop = acknowledge_on_stop;
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.send(&[Buf::Word(rig.device.state.hinting.cmd_id().0)]);
    rig.send(&[Buf::pages(0x300, 1)]);
    rig.send(&[Buf::Word(0)]);
    rig
}

#[test]
fn firecracker_says_done_by_itself_only_where_it_was_told_to() {
    assert_eq!(hinted(true, &[]).device.hint_status(), HintStatus::Done);
    let mut rig = hinted(false, &[]);
    assert_eq!(rig.device.hint_status(), HintStatus::Requested);
    assert_eq!(rig.device.hints_as_polled(), HintStatus::Stop, "guest_cmd says that the driver has no more");
    assert_eq!(rig.notify(PrecopyReason::AfterBitmapSync, false), None, "a pause says nothing");
    rig.notify(PrecopyReason::Cleanup, true);
    assert_eq!(rig.device.hint_status(), HintStatus::Done, "the API can");
}

fn restored(faults: &[Fault]) -> (Rig, usize) {
    let mut rig = hinted(false, faults);
    rig.take_events();
    rig.with(Actor::Destination, |device, _, ctx| device.arrive(true, ctx));
    let interrupts = rig.take_events().iter().filter(|event| event.kind() == EventKind::DeviceIrq).count();
    (rig, interrupts)
}

#[test]
fn firecrackers_restored_device_gives_pages_back() {
    let (mut rig, interrupts) = restored(&[]);
    assert_eq!((rig.device.hint_status(), interrupts), (HintStatus::Done, 1));
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 1);
}

#[test]
fn done_on_activation_interrupts_at_boot_and_not_behind_a_restore() {
    let (mut rig, interrupts) = restored(&[Fault::DoneOnActivation]);
    assert_eq!(interrupts, 0);
    assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), 1, "the configuration says it, to whoever looks");
}
