//! Features and device status, the device's side.

use host::balloon::device::QueueRole;
use host::balloon::{BalloonOptions, Profile};
use host::event::EventKind;
use wire::balloon::feature;
use wire::virtio::{feature as transport, mmio, status};

use super::rig::{ALMOST, PAGE, PROFILES, Rig, SIZE, options};

#[test]
fn c4_a_driver_that_declines_must_tell_host_is_taken() {
    for profile in PROFILES {
        let mut rig = Rig::new(options(profile));
        assert!(rig.negotiate(!feature::MUST_TELL_HOST), "it might be refused, and is not");
    }
}

/// A legacy driver is one that does not know VERSION_1. Differs: QEMU goes on with one; our devices are modern ones only.
#[test]
fn c5_a_legacy_driver_is_refused() {
    assert!(!Rig::new(options(Profile::Qemu)).negotiate(!transport::VERSION_1));
}

#[test]
fn c5_firecracker_does_not_ask_for_version_1() {
    assert!(Rig::new(options(Profile::Firecracker)).negotiate(!transport::VERSION_1));
}

#[test]
fn c6_the_configuration_is_little_endian() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(BalloonOptions { target_pages: 0x0102, ..options(profile) }, u64::MAX);
        let bytes: Vec<u32> = (0..4).map(|byte| rig.read_len(mmio::CONFIG + byte, 1)).collect();
        assert_eq!(bytes, [0x02, 0x01, 0, 0]);
    }
}

#[test]
fn g1_the_status_reads_as_it_was_written() {
    for profile in PROFILES {
        let mut rig = Rig::new(options(profile));
        assert_eq!(rig.read(mmio::STATUS), 0);
        assert!(rig.negotiate(u64::MAX));
        assert_eq!(rig.read(mmio::STATUS), ALMOST);
        rig.set_up_queues();
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        assert_eq!(rig.read(mmio::STATUS), ALMOST | status::DRIVER_OK);
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK | status::FAILED);
        assert_eq!(rig.read(mmio::STATUS), ALMOST | status::DRIVER_OK | status::FAILED);
        rig.write(mmio::STATUS, 0);
        assert_eq!(rig.read(mmio::STATUS), 0);
    }
}

#[test]
fn g1_a_device_that_cannot_go_on_says_that_it_needs_a_reset() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.expose(QueueRole::Inflate, SIZE);
        rig.kick(QueueRole::Inflate);
        rig.run();
        assert_ne!(rig.read(mmio::STATUS) & status::DEVICE_NEEDS_RESET, 0);
        assert!(rig.config_interrupt(), "and interrupts, for DRIVER_OK was set");
        assert!(rig.negotiate(u64::MAX), "a reset heals");
        assert_eq!(rig.read(mmio::STATUS), ALMOST);
    }
}

/// A status that leaves a step out, or takes one back, is as if it had not been written.
#[test]
fn g1_firecracker_takes_the_steps_in_order_and_no_others() {
    let mut rig = Rig::new(options(Profile::Firecracker));
    for step in [status::DRIVER, ALMOST, status::DRIVER_OK] {
        rig.write(mmio::STATUS, step);
        assert_eq!(rig.read(mmio::STATUS), 0, "{step}");
    }
    assert!(rig.negotiate(u64::MAX));
    rig.write(mmio::STATUS, status::ACKNOWLEDGE);
    assert_eq!(rig.read(mmio::STATUS), ALMOST);
}

/// The driver may decline a feature and leave its queue alone. Firecracker looks at every queue that it has when DRIVER_OK comes.
#[test]
fn g1_firecracker_gives_up_on_a_driver_that_declines_a_feature_with_a_queue() {
    let live = |profile| {
        let mut rig = Rig::new(options(profile));
        assert!(rig.negotiate(!feature::FREE_PAGE_HINT));
        for role in [QueueRole::Inflate, QueueRole::Deflate, QueueRole::Stats, QueueRole::Reporting] {
            rig.set_up(role, u32::from(SIZE), rig.areas(role));
        }
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        let status = rig.read(mmio::STATUS);
        crate::ensure(status & status::DEVICE_NEEDS_RESET == 0, || format!("the status is {status:#x}"))
    };
    live(Profile::Qemu).expect("QEMU serves the queues that are there");
    crate::known_violation("G1", "Firecracker: activate() wants every queue ready", "the status is 0x4f", || live(Profile::Firecracker));
}

/// Registers of queues take nothing before FEATURES_OK, or behind DRIVER_OK.
#[test]
fn g1_firecracker_takes_queues_between_features_ok_and_driver_ok_alone() {
    let mut rig = Rig::new(options(Profile::Firecracker));
    rig.write(mmio::STATUS, 0);
    rig.write(mmio::STATUS, status::ACKNOWLEDGE);
    rig.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    rig.write(mmio::QUEUE_READY, 1);
    assert_eq!(rig.read(mmio::QUEUE_READY), 0, "too early");
    let mut rig = Rig::up(Profile::Firecracker);
    rig.write(mmio::QUEUE_SEL, 0);
    rig.write(mmio::QUEUE_READY, 0);
    assert_eq!(rig.read(mmio::QUEUE_READY), 1, "too late");
}

#[test]
fn g1_suspending_is_neither_offered_nor_shown() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        assert_eq!(rig.offered() & 1 << 43, 0);
        assert_eq!(rig.read(mmio::STATUS) & 16, 0);
    }
}

/// Whether a device takes the features that it offers with another one, and says so.
fn refuses(profile: Profile, bit: u32) -> crate::Check {
    let mut rig = Rig::new(options(profile));
    let offered = rig.offered();
    let extra = 1 << bit;
    let taken = rig.demand(offered | extra);
    assert_eq!(rig.device.transport().features() & !offered, 0, "it is never used");
    crate::ensure(taken == (offered & extra != 0), || format!("FEATURES_OK stays: {taken}, with bit {bit}"))
}

#[test]
fn g2_a_feature_that_is_not_offered_is_refused() {
    for bit in 0..64 {
        refuses(Profile::Qemu, bit).expect("FEATURES_OK says it");
    }
}

#[test]
fn g2_firecracker_leaves_a_feature_out_without_a_word() {
    let broken = || refuses(Profile::Firecracker, 6);
    crate::known_violation("G2", "Firecracker: ack_features_by_page() masks, and nobody refuses", "stays: true, with bit 6", broken);
}

/// Features that come with FEATURES_OK already set, or before DRIVER, do not count.
#[test]
fn g2_firecracker_takes_features_between_driver_and_features_ok_alone() {
    let mut rig = Rig::new(options(Profile::Firecracker));
    rig.write(mmio::STATUS, 0);
    rig.write(mmio::DRIVER_FEATURES_SEL, 0);
    rig.write(mmio::DRIVER_FEATURES, feature::FREE_PAGE_HINT as u32);
    assert!(!rig.device.transport().negotiated(feature::FREE_PAGE_HINT), "too early");
    assert!(rig.negotiate(transport::VERSION_1));
    rig.write(mmio::DRIVER_FEATURES_SEL, 0);
    rig.write(mmio::DRIVER_FEATURES, feature::FREE_PAGE_HINT as u32);
    assert!(!rig.device.transport().negotiated(feature::FREE_PAGE_HINT), "too late");
}

#[test]
fn g2_features_are_fixed_by_features_ok() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(options(profile), !feature::PAGE_POISON);
        rig.write(mmio::DRIVER_FEATURES_SEL, 0);
        rig.write(mmio::DRIVER_FEATURES, feature::PAGE_POISON as u32);
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        assert!(!rig.device.transport().negotiated(feature::PAGE_POISON));
        rig.write(mmio::CONFIG + wire::balloon::config::POISON_VAL, 7);
        assert_eq!(rig.config(wire::balloon::config::POISON_VAL), 0);
    }
}

/// Nothing of the transport is offered that was not asked for, but VERSION_1.
#[test]
fn g3_version_1_is_offered_and_nothing_that_the_device_does_not_know() {
    for profile in PROFILES {
        let mut rig = Rig::new(BalloonOptions { features: 0, ..options(profile) });
        let stats = if profile == Profile::Qemu { feature::STATS_VQ } else { 0 };
        assert_eq!(rig.offered(), transport::VERSION_1 | stats);
    }
}

#[test]
fn g3_event_idx_and_indirect_tables_are_offered_where_asked_for() {
    for profile in PROFILES {
        let ring = transport::RING_EVENT_IDX | transport::RING_INDIRECT_DESC;
        let mut rig = Rig::new(BalloonOptions { features: ring, ..options(profile) });
        assert_eq!(rig.offered() & ring, ring);
    }
}

#[test]
fn c51_firecracker_consumes_nothing_before_driver_ok() {
    assert_eq!(consumed_early(Profile::Firecracker), 0);
}

#[test]
fn c51_qemu_serves_a_driver_that_notifies_before_driver_ok() {
    crate::known_violation("C51", "QEMU: a queue that is ready is served", "1 buffer", || {
        let consumed = consumed_early(Profile::Qemu);
        crate::ensure(consumed == 0, || format!("{consumed} buffer consumed at status {ALMOST:#x}"))
    });
}

/// Buffers that come back to a driver that has not said DRIVER_OK.
fn consumed_early(profile: Profile) -> usize {
    let mut rig = Rig::new(options(profile));
    assert!(rig.negotiate(u64::MAX));
    rig.set_up_queues();
    let word = rig.words(&[PAGE as u32]);
    rig.send(QueueRole::Inflate, &[word]);
    let consumed = rig.used(QueueRole::Inflate).len();
    assert_eq!(rig.happened(EventKind::BalloonInflate), consumed);
    rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
    rig.run();
    assert_eq!(rig.used(QueueRole::Inflate).len(), 1, "served at the latest now, without another notification");
    consumed
}
