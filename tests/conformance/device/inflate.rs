//! Inflating, deflating, reports and the configuration, the device's side.

use host::balloon::BalloonOptions;
use host::balloon::device::QueueRole;
use host::event::EventKind;
use wire::balloon::{config, feature};
use wire::virtio::mmio;

use super::rig::{PAGE, PROFILES, Rig, options, pages};

/// A device with one page of the guest's in the balloon, acknowledged.
fn inflated(rig: &mut Rig) {
    rig.fill(PAGE, 1, 0x11);
    let word = rig.words(&[PAGE as u32]);
    let head = rig.send(QueueRole::Inflate, &[word]);
    assert_eq!(rig.used(QueueRole::Inflate), [(u32::from(head), 0)]);
}

#[test]
fn c8_a_driver_that_keeps_its_pages_is_put_up_with() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        inflated(&mut rig);
        rig.write(mmio::CONFIG + config::ACTUAL, 1);
        rig.set_target(0);
        rig.run();
        assert_eq!((rig.device.actual(), rig.device.num_pages()), (1, 0));
        assert!(!rig.device.transport().broken());
    }
}

#[test]
fn c10_a_driver_that_takes_pages_back_under_pressure_is_put_up_with() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(BalloonOptions { target_pages: 1, ..options(profile) }, u64::MAX);
        inflated(&mut rig);
        let word = rig.words(&[PAGE as u32]);
        let head = rig.send(QueueRole::Deflate, &[word]);
        assert_eq!(rig.used(QueueRole::Deflate), [(u32::from(head), 0)]);
        assert_eq!(rig.happened(EventKind::BalloonDeflate), 1);
    }
}

#[test]
fn c13_a_page_that_is_reused_before_its_deflation_is_seen_keeps_its_contents() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(options(profile), !feature::MUST_TELL_HOST);
        inflated(&mut rig);
        let word = rig.words(&[PAGE as u32]);
        rig.add(QueueRole::Deflate, &[word]);
        rig.fill(PAGE, 1, 0x22);
        rig.kick(QueueRole::Deflate);
        rig.run();
        assert!(rig.holds(PAGE, 1, 0x22));
    }
}

#[test]
fn c16_actual_is_what_the_driver_wrote_last() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        for pages in [256, 512, 600, 0] {
            rig.write(mmio::CONFIG + config::ACTUAL, pages);
            assert_eq!((rig.device.actual(), rig.config(config::ACTUAL)), (pages, pages));
        }
    }
}

#[test]
fn c17_an_inflated_page_is_not_changed_behind_its_acknowledgement() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        inflated(&mut rig);
        assert!(rig.holds(PAGE, 1, 0), "its contents are dropped before that");
        // The page is the balloon's; whatever stands in it now stays, for nobody but the device could have put it there.
        rig.fill(PAGE, 1, 0x33);
        rig.set_target(5);
        rig.now_ns += 1_000_000_000;
        rig.run();
        assert!(rig.holds(PAGE, 1, 0x33));
    }
}

#[test]
fn c17_a_deflated_page_is_not_changed_behind_its_acknowledgement() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        inflated(&mut rig);
        let word = rig.words(&[PAGE as u32]);
        rig.send(QueueRole::Deflate, &[word]);
        rig.fill(PAGE, 1, 0x44);
        rig.now_ns += 1_000_000_000;
        rig.run();
        assert!(rig.holds(PAGE, 1, 0x44));
    }
}

#[test]
fn c49_without_page_poison_a_report_is_dropped_before_its_acknowledgement_and_not_behind_it() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(options(profile), !feature::PAGE_POISON);
        rig.fill(PAGE, 4, 0x11);
        rig.send(QueueRole::Reporting, &[pages(PAGE, 2)]);
        assert!(rig.holds(PAGE, 2, 0) && rig.holds(PAGE + 2, 2, 0x11), "the reported pages, and no others");
        rig.fill(PAGE, 2, 0x22);
        rig.now_ns += 1_000_000_000;
        rig.run();
        assert!(rig.holds(PAGE, 2, 0x22));
    }
}

#[test]
fn c49_with_page_poison_a_reported_page_holds_the_poison_afterwards() {
    for profile in PROFILES {
        for poison in [0xaa, 0u8] {
            let mut rig = Rig::up(profile);
            rig.write(mmio::CONFIG + config::POISON_VAL, u32::from_le_bytes([poison; 4]));
            rig.fill(PAGE, 2, poison);
            rig.send(QueueRole::Reporting, &[pages(PAGE, 2)]);
            assert_eq!(rig.happened(EventKind::BalloonReport), 1);
            assert!(rig.holds(PAGE, 2, poison), "{poison:#x}");
        }
    }
}

#[test]
fn c52_a_report_is_taken_whenever_it_comes() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        for round in 0..3 {
            let head = rig.send(QueueRole::Reporting, &[pages(PAGE, 1), pages(PAGE + 4, 2)]);
            assert_eq!(rig.used(QueueRole::Reporting).last(), Some(&(u32::from(head), 0)));
            assert_eq!(rig.happened(EventKind::BalloonReport), 2 * (round + 1));
        }
    }
}
