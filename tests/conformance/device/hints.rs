//! Free page hints, the device's side.

use std::collections::BTreeSet;
use std::path::Path;

use emu::outcome::Verdict;
use emu::world::RunOptions;
use host::balloon::Profile;
use host::balloon::device::QueueRole;
use host::event::{EventKind, HintStatus, PageRange, Pfn, PrecopyReason};
use lostpage_tests::scenario_file;
use wire::balloon::{CMD_ID_DONE, CMD_ID_STOP};
use wire::virtio::mmio;

use super::rig::{PAGE, PROFILES, Rig, pages};
use crate::{ensure, known_violation};

/// How many hints had an effect: on the migration's bitmaps, or on the pages themselves.
fn applied(rig: &Rig) -> usize {
    rig.happened(EventKind::HintApply)
}

#[test]
fn c33_a_page_that_was_released_before_its_hint_is_seen_does_no_harm_to_the_device() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        let head = rig.add(QueueRole::FreePage, &[pages(PAGE, 1)]);
        rig.fill(PAGE, 1, 0x11);
        rig.kick(QueueRole::FreePage);
        rig.run();
        assert_eq!(rig.used(QueueRole::FreePage).last(), Some(&(u32::from(head), 0)));
        assert!(!rig.device.transport().broken());
    }
}

#[test]
fn c37_the_id_is_stop_before_the_logs_are_merged() {
    for profile in PROFILES {
        for started in [false, true] {
            let mut rig = Rig::up(profile);
            if started {
                rig.start();
            } else {
                rig.request();
            }
            rig.write(mmio::INTERRUPT_ACK, 3);
            rig.notify(PrecopyReason::BeforeBitmapSync, true);
            assert_eq!(rig.id(), CMD_ID_STOP);
            assert!(rig.config_interrupt(), "the driver is told");
        }
    }
}

#[test]
fn c37_the_id_is_stop_while_no_migration_wants_hints() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        assert_eq!(rig.id(), CMD_ID_STOP);
        rig.start();
        rig.write(mmio::STATUS, 0);
        assert_eq!(rig.id(), CMD_ID_STOP, "nor behind a reset");
    }
}

#[test]
fn c38_no_id_is_used_twice() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        let mut ids = BTreeSet::from([CMD_ID_STOP, CMD_ID_DONE]);
        for round in 0..1000u32 {
            // Now and then the driver answers, or the migration ends and another begins; the stop buffer never comes.
            let id = if round % 3 == 0 { rig.start() } else { rig.request() };
            assert!(ids.insert(id), "{id:x} was used before");
            rig.notify(if round % 7 == 0 { PrecopyReason::Cleanup } else { PrecopyReason::BeforeBitmapSync }, true);
        }
    }
}

#[test]
fn c39_pages_behind_another_id_are_ignored() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        let old = rig.request();
        let current = rig.request();
        assert_ne!(old, current);
        for stale in [old, CMD_ID_STOP, CMD_ID_DONE, current + 1] {
            rig.send_id(stale);
            rig.fill(PAGE, 1, 0x11);
            rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
            assert_eq!(applied(&rig), 0, "{stale:x}");
            assert!(rig.holds(PAGE, 1, 0x11));
        }
    }
}

#[test]
fn c39_pages_of_the_round_before_are_ignored() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        // The hint stands in the queue when the next round is asked for.
        let head = rig.add(QueueRole::FreePage, &[pages(PAGE, 1)]);
        rig.notify(PrecopyReason::BeforeBitmapSync, true);
        rig.request();
        rig.kick(QueueRole::FreePage);
        rig.run();
        assert_eq!(applied(&rig), 0);
        assert_eq!(rig.used(QueueRole::FreePage).last(), Some(&(u32::from(head), 0)), "and the buffer comes back");
    }
}

#[test]
fn c39_pages_without_any_id_are_ignored() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.request();
        rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
        assert_eq!(applied(&rig), 0);
    }
}

#[test]
fn c39_pages_behind_the_stop_buffer_are_ignored() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
        assert_eq!(applied(&rig), 1, "before it they count");
        rig.send_id(CMD_ID_STOP);
        rig.send(QueueRole::FreePage, &[pages(PAGE + 1, 1)]);
        assert_eq!(applied(&rig), 1);
    }
}

#[test]
fn c40_a_hinted_page_that_was_not_written_since_may_be_changed() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.fill(PAGE, 2, 0x11);
        rig.start();
        rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
        assert_eq!(applied(&rig), 1);
        match profile {
            Profile::Qemu | Profile::CloudHypervisor => {
                assert_eq!(rig.sink.applied, [PageRange::page(Pfn(PAGE))]);
                assert!(rig.holds(PAGE, 1, 0x11), "it is left out of the migration, and stays as it is");
            }
            Profile::Firecracker => assert!(rig.holds(PAGE, 1, 0), "it is dropped"),
        }
        assert!(rig.holds(PAGE + 1, 1, 0x11), "no other page is");
    }
}

#[test]
fn c40_qemu_never_changes_a_hinted_page_in_place() {
    let mut rig = Rig::up(Profile::Qemu);
    rig.start();
    rig.add(QueueRole::FreePage, &[pages(PAGE, 1)]);
    rig.fill(PAGE, 1, 0x22);
    rig.kick(QueueRole::FreePage);
    rig.run();
    assert!(rig.holds(PAGE, 1, 0x22));
}

#[test]
fn c40_firecracker_drops_a_hinted_page_that_the_guest_has_written_since() {
    known_violation("C40", "docs/findings/early-reuse.md", "the write is gone", || {
        let mut rig = Rig::up(Profile::Firecracker);
        rig.start();
        rig.add(QueueRole::FreePage, &[pages(PAGE, 1)]);
        // The driver's shrinker has released the page, as it may (C33), and its new owner writes.
        rig.fill(PAGE, 1, 0x22);
        rig.kick(QueueRole::FreePage);
        rig.run();
        ensure(rig.holds(PAGE, 1, 0x22), || "the write is gone".to_owned())
    });
}

/// What is left out of a migration is what the destination finds changed. Measured on a real QEMU 10.0.2.
#[test]
fn c40_qemu_leaves_out_a_hinted_page_that_the_guest_has_written_since() {
    known_violation("C40", "docs/findings/early-reuse.md", "lost-page", || {
        let scenario = scenario_file(Path::new("scenarios/fail/matrix/kvm6-write-then-hint.toml"));
        let outcome = emu::world::run(&scenario, &RunOptions::default());
        ensure(outcome.verdict == Verdict::Pass, || outcome.verdict.name().to_owned())
    });
}

#[test]
fn c41_hinted_pages_are_not_changed_behind_done() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
        let late = rig.add(QueueRole::FreePage, &[pages(PAGE + 1, 1)]);
        rig.notify(PrecopyReason::Cleanup, true);
        assert_eq!(rig.id(), CMD_ID_DONE);
        rig.fill(PAGE, 2, 0x22);
        rig.kick(QueueRole::FreePage);
        rig.run();
        assert!(rig.holds(PAGE, 2, 0x22));
        assert_eq!(rig.used(QueueRole::FreePage).last(), Some(&(u32::from(late), 0)), "the late hint was seen");
        assert_eq!(applied(&rig), 1, "and changed nothing");
    }
}

#[test]
fn c42_done_is_reported_when_the_migration_ends() {
    for profile in PROFILES {
        for vm_running in [false, true] {
            let mut rig = Rig::up(profile);
            rig.start();
            rig.write(mmio::INTERRUPT_ACK, 3);
            rig.notify(PrecopyReason::Cleanup, vm_running);
            assert_eq!(rig.id(), CMD_ID_DONE);
            assert!(rig.config_interrupt());
        }
    }
}

#[test]
fn c42_done_is_reported_behind_the_last_sync() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        rig.notify(PrecopyReason::BeforeBitmapSync, false);
        rig.notify(PrecopyReason::AfterBitmapSync, false);
        assert_eq!(rig.id(), CMD_ID_DONE);
    }
}

#[test]
fn c42_firecracker_reports_done_as_soon_as_the_driver_has_stopped() {
    let mut rig = Rig::up(Profile::Firecracker);
    rig.start();
    rig.send_id(CMD_ID_STOP);
    assert_eq!((rig.device.hint_status(), rig.id()), (HintStatus::Done, CMD_ID_DONE));
}
