//! The device's registers, configuration and reset, by a driver that probes it.

use super::*;
use crate::balloon::testing::{Buf, HINT, Rig, options};
use wire::virtio::{feature as virtio, status};

#[test]
fn queues_are_numbered_densely_by_what_is_offered() {
    use QueueRole::{Deflate, FreePage, Inflate, Reporting, Stats};
    let queues = |features, profile| BalloonOptions { features, ..options(profile) }.queues();
    let (stats, hint, report) = (feature::STATS_VQ, feature::FREE_PAGE_HINT, feature::PAGE_REPORTING);
    assert_eq!(queues(0, Profile::Qemu), [Inflate, Deflate, Stats]);
    assert_eq!(queues(hint, Profile::Qemu), [Inflate, Deflate, Stats, FreePage]);
    assert_eq!(queues(report, Profile::Qemu), [Inflate, Deflate, Stats, Reporting]);
    assert_eq!(queues(hint | report, Profile::Qemu), [Inflate, Deflate, Stats, FreePage, Reporting]);
    assert_eq!(queues(0, Profile::Firecracker), [Inflate, Deflate]);
    assert_eq!(queues(hint, Profile::Firecracker), [Inflate, Deflate, FreePage]);
    assert_eq!(queues(stats | report, Profile::Firecracker), [Inflate, Deflate, Stats, Reporting]);
}

#[test]
fn the_configuration_is_as_long_as_the_features_ask() {
    for (features, bytes) in [(0, 8), (feature::FREE_PAGE_HINT, 12), (feature::PAGE_POISON, 16)] {
        let mut rig = Rig::bare(BalloonOptions { features, target_pages: 3, ..options(Profile::Qemu) });
        assert_eq!(rig.device.options.config_bytes(), bytes);
        assert_eq!(rig.config(config::NUM_PAGES), 3);
        assert_eq!(rig.config(bytes as u64), u32::MAX, "behind the end");
    }
}

#[test]
fn a_probe_in_the_order_of_the_specification() {
    let mut rig = Rig::bare(options(Profile::Qemu));
    assert_eq!(rig.read(mmio::MAGIC_VALUE), 0x7472_6976);
    assert_eq!(rig.read(mmio::VERSION), 2);
    assert_eq!(rig.read(mmio::DEVICE_ID), 5);
    rig.write(mmio::STATUS, 0);
    rig.write(mmio::STATUS, status::ACKNOWLEDGE);
    rig.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    rig.write(mmio::DEVICE_FEATURES_SEL, 1);
    assert_eq!(rig.read(mmio::DEVICE_FEATURES), (virtio::VERSION_1 >> 32) as u32);
    rig.write(mmio::DEVICE_FEATURES_SEL, 0);
    assert_eq!(u64::from(rig.read(mmio::DEVICE_FEATURES)), options(Profile::Qemu).features);
    rig.write(mmio::DRIVER_FEATURES, feature::FREE_PAGE_HINT as u32);
    let wanted = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    rig.write(mmio::STATUS, wanted);
    assert_eq!(rig.read(mmio::STATUS) & status::FEATURES_OK, 0, "without VERSION_1");
    rig.write(mmio::DRIVER_FEATURES_SEL, 1);
    rig.write(mmio::DRIVER_FEATURES, 1 | 2);
    rig.write(mmio::STATUS, wanted);
    assert_eq!(rig.read(mmio::STATUS) & status::FEATURES_OK, 0, "not offered");
    rig.write(mmio::DRIVER_FEATURES, 1);
    rig.write(mmio::STATUS, wanted);
    assert_eq!(rig.read(mmio::STATUS), wanted);
    for queue in 0..5 {
        rig.write(mmio::QUEUE_SEL, queue);
        assert_eq!(rig.read(mmio::QUEUE_READY), 0);
        assert_eq!(rig.read(mmio::QUEUE_SIZE_MAX), if queue == 4 { 32 } else { 16 });
        rig.set_up_queue(queue as u16);
    }
    rig.write(mmio::QUEUE_SEL, 5);
    assert_eq!(rig.read(mmio::QUEUE_SIZE_MAX), 0);
    rig.write(mmio::STATUS, wanted | status::DRIVER_OK);
    assert_eq!(rig.read(mmio::STATUS), wanted | status::DRIVER_OK);
    assert!(rig.device.transport.negotiated(feature::FREE_PAGE_HINT));
    assert!(!rig.device.transport.negotiated(feature::PAGE_POISON));
}

#[test]
fn a_refused_queue_register_breaks_the_device() {
    for (offset, value) in [
        (mmio::QUEUE_SIZE, 3),
        (mmio::QUEUE_SIZE, 0x1_0010),
        (mmio::QUEUE_DESC_LOW, 8),
        (mmio::QUEUE_DRIVER_LOW, 0),
        (mmio::QUEUE_DEVICE_HIGH, 1),
    ] {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.write(mmio::QUEUE_SEL, u32::from(HINT));
        rig.write(mmio::QUEUE_READY, 0);
        rig.write(offset, value);
        rig.write(mmio::QUEUE_READY, 1);
        let expected = [Event::DeviceBroken { queue: HINT }, Event::DeviceIrq { cause: isr::CONFIG_CHANGE }];
        assert_eq!(rig.take_events(), expected, "{offset:#x} {value:#x}");
        assert_eq!(rig.read(mmio::QUEUE_READY), 0);
        assert_ne!(rig.read(mmio::STATUS) & status::DEVICE_NEEDS_RESET, 0);
        rig.probe(u64::MAX);
        assert!(!rig.device.transport.broken(), "a reset heals");
    }
}

#[test]
fn the_interrupt_line_is_a_level_and_the_world_sees_its_edges() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.device.take_irq();
    rig.write(mmio::INTERRUPT_ACK, 3);
    let generation = rig.read(mmio::CONFIG_GENERATION);
    rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.set_target(5, ctx));
    assert!(rig.device.take_irq());
    assert!(!rig.device.take_irq());
    assert_eq!(rig.read(mmio::INTERRUPT_STATUS), 3, "QEMU sets both causes");
    assert_eq!(rig.read(mmio::CONFIG_GENERATION), generation + 1);
    rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.set_target(6, ctx));
    assert!(!rig.device.take_irq(), "the line is high already");
    rig.write(mmio::INTERRUPT_ACK, 1);
    assert!(rig.device.take_irq(), "something is still pending");
    rig.write(mmio::INTERRUPT_ACK, 2);
    assert!(!rig.device.take_irq());
    assert_eq!(rig.config(config::NUM_PAGES), 6);
}

#[test]
fn nobody_is_told_of_a_new_target_before_driver_ok() {
    let mut rig = Rig::bare(options(Profile::Qemu));
    rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.set_target(u32::MAX, ctx));
    assert_eq!(rig.take_events(), []);
    assert_eq!(rig.config(config::NUM_PAGES), 4096, "at most all of RAM");
}

#[test]
fn a_write_of_one_field_keeps_the_others() {
    let mut rig = Rig::up(Profile::Qemu, &[]);
    rig.write(mmio::CONFIG + config::POISON_VAL, 0xaaaa_aaaa);
    rig.write(mmio::CONFIG + config::ACTUAL, 77);
    rig.write(mmio::CONFIG + config::NUM_PAGES, 99);
    assert_eq!((rig.device.actual(), rig.device.num_pages()), (77, 0));
    assert_eq!(rig.config(config::POISON_VAL), 0xaaaa_aaaa);
    rig.write(mmio::STATUS, 0);
    assert_eq!(rig.config(config::POISON_VAL), 0);
    assert_eq!(rig.device.actual(), 77);
}

#[test]
fn a_reset_takes_the_devices_lock_only_to_stop_a_round() {
    let locks = |rig: &Rig| rig.device.mmio_locks(mmio::STATUS, Some(0));
    assert_eq!(locks(&Rig::up(Profile::Qemu, &[])), [LockId::Bql]);
    assert_eq!(locks(&Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Requested)), [LockId::Bql, LockId::FreePage]);
    let rig = Rig::up(Profile::Qemu, &[]);
    assert!(rig.device.mmio_locks(mmio::QUEUE_NOTIFY, Some(3)).is_empty());
    assert_eq!(rig.device.mmio_locks(mmio::CONFIG, None), [LockId::Bql]);
}

#[test]
fn a_reset_forgets_the_driver_and_keeps_the_id() {
    let mut rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
    rig.add(crate::balloon::testing::STATS, &[Buf::Read(0x30_0000, 10)]);
    rig.kick(crate::balloon::testing::STATS);
    rig.run();
    let id = rig.device.state.hinting.cmd_id();
    rig.kick(crate::balloon::testing::STATS);
    rig.write(mmio::STATUS, 0);
    assert_eq!(rig.device.hint_status(), HintStatus::Stop);
    assert_eq!(rig.device.state.hinting.cmd_id(), id);
    assert_eq!(rig.read(mmio::STATUS), 0);
    rig.now_ns += 10_000_000;
    let next = rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.main_loop_next(ctx));
    assert_eq!(next, crate::step::Next::Idle, "neither the kick nor the held buffer survives");
}
