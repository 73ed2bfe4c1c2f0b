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
    for profile in PROFILES {
        let mut rig = Rig::new(options(profile));
        assert!(!rig.negotiate(!transport::VERSION_1));
    }
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

#[test]
fn g1_suspending_is_neither_offered_nor_shown() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        assert_eq!(rig.offered() & 1 << 43, 0);
        assert_eq!(rig.read(mmio::STATUS) & 16, 0);
    }
}

#[test]
fn g2_a_feature_that_is_not_offered_is_refused() {
    for profile in PROFILES {
        for bit in 0..64 {
            let mut rig = Rig::new(options(profile));
            let offered = rig.offered();
            let extra = 1 << bit;
            assert_eq!(rig.demand(offered | extra), offered & extra != 0, "bit {bit}");
        }
    }
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
