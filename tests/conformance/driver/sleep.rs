//! A system that sleeps and wakes, the driver's side: Linux's freeze and restore.

use wire::balloon::{config, feature};
use wire::task::op;
use wire::virtio::{mmio, status};

use crate::guest::Guest;
use crate::tester::{COMMON, Options, Role, Seen};
use crate::{ensure, known_violation};

/// A guest that has slept, is awake again, and what was seen since it woke.
fn woken(options: Options, pages: u32) -> Guest {
    let mut guest = Guest::up(options);
    guest.target(pages);
    assert!(guest.task(op::FREEZE, 0, 0, 0));
    assert_eq!(guest.device.status, 0, "the device is reset");
    guest.seen.clear();
    assert!(guest.task(op::RESTORE, 0, 0, 0));
    guest.run();
    guest
}

#[test]
fn c16_a_driver_that_wakes_says_what_it_holds() {
    let mut guest = Guest::up(Options::default());
    guest.target(300);
    assert!(guest.task(op::FREEZE, 0, 0, 0));
    assert_eq!((guest.device.config[1], guest.frames_told(Role::Deflate).len()), (0, 300), "it sleeps with an empty balloon");
    assert!(guest.task(op::RESTORE, 0, 0, 0));
    guest.run();
    assert_eq!((guest.device.config[1], guest.frames_told(Role::Inflate).len()), (300, 600), "and fills it again");
}

#[test]
fn c45_the_poison_is_not_told_again_when_the_system_wakes() {
    known_violation("C45", "N2: Linux's restore leaves it out", "poison_val is 0", || {
        let guest = woken(Options::offering(COMMON | feature::PAGE_POISON).poisoned(), 0);
        assert_eq!(guest.device.status & status::DRIVER_OK, status::DRIVER_OK);
        let written = guest.writes(mmio::CONFIG + config::POISON_VAL).len();
        ensure(written > 0, || format!("poison_val is {}, as the reset left it", guest.device.config[3]))
    });
}

#[test]
fn c50_a_driver_that_wakes_notifies_before_driver_ok_again() {
    known_violation("C50", "N11, measured on Linux 6.1 and 6.12", "notified early", || {
        let guest = woken(Options::default(), 0);
        let ready = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 15).expect("DRIVER_OK").0;
        let early = guest.writes(mmio::QUEUE_NOTIFY).into_iter().filter(|write| write.0 < ready).count();
        ensure(early == 0, || format!("notified early, {early} times"))
    });
}

#[test]
fn g1_the_status_goes_up_in_the_same_order_when_the_system_wakes() {
    let guest = woken(Options::default(), 10);
    assert_eq!(guest.statuses(), [0, 1, 3, 11, 15]);
    let at = |value| guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == value).expect("written").0;
    assert!(guest.writes(mmio::DRIVER_FEATURES).iter().all(|write| at(3) < write.0 && write.0 < at(11)));
    assert!(guest.writes(mmio::QUEUE_READY).iter().all(|write| at(11) < write.0 && write.0 < at(15)));
    assert_eq!(guest.device.accepted & COMMON, COMMON, "the features of before");
}

#[test]
fn g10_nothing_of_a_sleeping_driver_goes_through_the_device() {
    let mut guest = Guest::up(Options::default());
    guest.target(300);
    guest.command(2);
    assert!(guest.task(op::FREEZE, 0, 0, 0));
    let reset = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 0).expect("a reset").0;
    assert!(guest.writes(mmio::QUEUE_NOTIFY).iter().all(|write| write.0 < reset));
    assert!(guest.device.live().is_empty());
    // What changes now the driver sees when it wakes.
    guest.seen.clear();
    guest.device.config[0] = 100;
    guest.run_for(5_000_000_000);
    assert!(!guest.seen.iter().any(|seen| matches!(seen, Seen::Write { .. } | Seen::Read { .. })));
    assert!(guest.task(op::RESTORE, 0, 0, 0));
    guest.run();
    assert_eq!(guest.device.config[1], 100);
}
