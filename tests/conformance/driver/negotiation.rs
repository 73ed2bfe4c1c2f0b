//! Features and device status, the driver's side.

use wire::balloon::{config, feature};
use wire::debug;
use wire::platform::boot_flag;
use wire::virtio::{feature as transport, mmio, status};

use crate::guest::Guest;
use crate::tester::{COMMON, Options, Role, Seen};

const ALL: u64 = COMMON | feature::DEFLATE_ON_OOM | feature::PAGE_POISON | feature::PAGE_REPORTING;
const UP: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

fn accepted(options: Options) -> u64 {
    let guest = Guest::boot(options);
    assert_eq!(guest.device.status, UP);
    guest.device.accepted
}

#[test]
fn c1_must_tell_host_is_accepted_when_it_is_offered() {
    assert_ne!(accepted(Options::offering(ALL)) & feature::MUST_TELL_HOST, 0);
}

#[test]
fn c2_page_poison_is_given_up_by_a_driver_that_leaves_deflated_pages_as_they_are() {
    assert_eq!(accepted(Options::offering(ALL)) & feature::PAGE_POISON, 0);
    assert_ne!(accepted(Options::offering(ALL).poisoned()) & feature::PAGE_POISON, 0, "this one fills them");
}

#[test]
fn c3_reporting_is_not_accepted_without_poison_where_values_are_expected_to_stay() {
    let without_poison = ALL & !feature::PAGE_POISON;
    for boot_flags in [boot_flag::PAGE_POISON, boot_flag::INIT_ON_FREE] {
        let options = |features| Options { boot_flags, ..Options::offering(features) };
        assert_eq!(accepted(options(without_poison)) & feature::PAGE_REPORTING, 0);
        assert_ne!(accepted(options(ALL)) & feature::PAGE_REPORTING, 0, "with the poison it is");
    }
    assert_ne!(accepted(Options::offering(without_poison)) & feature::PAGE_REPORTING, 0, "a driver that expects nothing");
}

#[test]
fn c4_a_device_that_insists_on_must_tell_host_is_given_up() {
    let refusing = Options { refused: feature::MUST_TELL_HOST, keeps_features_ok: false, ..Options::default() };
    let guest = Guest::boot(refusing);
    assert_eq!(guest.device.status & (status::FAILED | status::DRIVER_OK), status::FAILED);
    assert!(guest.device.live().is_empty());
}

#[test]
fn c4_a_device_that_does_not_insist_is_driven() {
    let options = Options { refused: feature::MUST_TELL_HOST, ..Options::default() };
    assert_eq!(accepted(options) & feature::MUST_TELL_HOST, 0);
}

/// The values of the status, in order: each adds bits to the one before.
#[test]
fn g1_the_status_goes_up_in_the_order_of_initialisation() {
    let guest = Guest::boot(Options::default());
    assert_eq!(guest.statuses(), [0, 1, 3, 11, 15]);
}

#[test]
fn g1_features_are_read_and_written_between_driver_and_features_ok() {
    let guest = Guest::boot(Options::default());
    let at = |value| guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == value).expect("written").0;
    let (driver, features_ok) = (at(3), at(11));
    for (place, _) in guest.reads(mmio::DEVICE_FEATURES).into_iter().chain(guest.writes(mmio::DRIVER_FEATURES)) {
        assert!(driver < place && place < features_ok, "at {place}, not between {driver} and {features_ok}");
    }
    assert!(!guest.writes(mmio::DRIVER_FEATURES).is_empty());
}

#[test]
fn g1_queues_are_set_up_between_features_ok_and_driver_ok() {
    let guest = Guest::boot(Options::default());
    let at = |value| guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == value).expect("written").0;
    let ready = guest.writes(mmio::QUEUE_READY);
    assert_eq!(ready.len(), 4);
    assert!(ready.iter().all(|(place, value)| *value == 1 && at(11) < *place && *place < at(15)));
}

#[test]
fn g1_a_driver_that_gives_up_says_failed() {
    // A hint queue of one entry cannot carry a hint beside its id.
    let guest = Guest::boot(Options { sizes: [128, 128, 128, 1, 32], ..Options::default() });
    assert_eq!(guest.statuses().last(), Some(&u64::from(11 | status::FAILED)));
}

#[test]
fn g2_nothing_is_accepted_that_is_not_offered() {
    for features in [0, COMMON, ALL, feature::PAGE_REPORTING] {
        for boot_flags in [0, boot_flag::PAGE_POISON, boot_flag::INIT_ON_FREE] {
            let options = Options { boot_flags, ..Options::offering(features) };
            let offered = options.features;
            assert_eq!(accepted(options) & !offered, 0);
        }
    }
}

#[test]
fn g2_waiting_for_hints_is_not_accepted_without_hints() {
    let wait = feature::HINT_WAIT_ON_ACK;
    assert_eq!(accepted(Options::offering(COMMON & !feature::FREE_PAGE_HINT | wait)) & wait, 0);
    assert_ne!(accepted(Options::offering(COMMON | wait)) & wait, 0);
}

#[test]
fn g2_features_ok_is_never_cleared_but_by_a_reset() {
    let mut guest = Guest::boot(Options::default());
    assert!(guest.task(wire::task::op::UNBIND, 0, 0, 0));
    assert!(guest.task(wire::task::op::BIND, 0, 0, 0));
    let mut set = false;
    for value in guest.statuses() {
        let has = value & u64::from(status::FEATURES_OK) != 0;
        assert!(has || !set || value == 0, "{value:#x} clears FEATURES_OK");
        set = has;
    }
}

#[test]
fn g2_features_ok_is_read_again_before_anything_else() {
    let guest = Guest::boot(Options::default());
    let set = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 11).expect("written").0;
    assert_eq!(guest.seen[set + 1], Seen::Read { offset: mmio::STATUS, len: 4, value: 11 });
}

#[test]
fn g2_a_device_that_drops_features_ok_is_not_driven() {
    let guest = Guest::boot(Options { keeps_features_ok: false, ..Options::default() });
    assert_eq!(guest.statuses(), [0, 1, 3, 11, u64::from(3 | status::FAILED)]);
    assert!(guest.chains(Role::Inflate).is_empty() && guest.device.live().is_empty());
}

/// Bits that belong to no device type: number, and whether the balloon's driver takes them.
#[test]
fn g3_transport_features_are_taken_one_by_one() {
    let bits = [
        ("INDIRECT_DESC", 28, false),
        ("EVENT_IDX", 29, false),
        ("VERSION_1", 32, true),
        ("ACCESS_PLATFORM", 33, false),
        ("PACKED", 34, false),
        ("IN_ORDER", 35, false),
        ("ORDER_PLATFORM", 36, false),
        ("NOTIFICATION_DATA", 38, false),
        ("RING_RESET", 40, false),
        ("SUSPEND", 43, false),
    ];
    for (name, bit, taken) in bits {
        let found = accepted(Options::offering(COMMON | 1 << bit)) & 1 << bit != 0;
        assert_eq!(found, taken, "{name}");
    }
}

#[test]
fn g3_a_device_without_version_1_is_not_driven() {
    let guest = Guest::boot(Options { features: COMMON, ..Options::default() });
    assert_eq!(guest.statuses(), [0, 1, 3, u64::from(3 | status::FAILED)]);
    assert!(guest.writes(mmio::DRIVER_FEATURES).is_empty());
}

/// The features stand in the registers, VERSION_1 among them, before the driver's validate() gives some of them up.
#[test]
fn b41_version_1_is_written_before_the_driver_looks_at_the_features() {
    let guest = Guest::boot(Options::offering(COMMON | transport::RING_INDIRECT_DESC));
    let words: Vec<u64> = guest.writes(mmio::DRIVER_FEATURES).into_iter().map(|write| write.1).collect();
    assert_eq!(words, [1, COMMON | transport::RING_INDIRECT_DESC, 1, COMMON], "high word, low word, twice");
}

#[test]
fn b42_a_change_that_comes_before_the_driver_listens_is_told_when_it_does() {
    let mut guest = Guest::new(Options::default());
    let driver_ok = |seen: &Seen| *seen == Seen::Write { offset: mmio::STATUS, len: 4, value: 15 };
    assert!(guest.run_until(driver_ok));
    // The driver has looked at its target by the time that it listens; only the change itself can tell it of this one.
    guest.change(config::FREE_PAGE_HINT_CMD_ID, 2);
    guest.run();
    assert_eq!(guest.chains(Role::Hint).first().map(|chain| chain.words()), Some(vec![2]));
    let handled = guest.first(|seen| matches!(seen, Seen::Interrupt { .. })).expect("taken");
    let ready = guest.said_all(debug::READY)[0].0;
    assert!(handled < ready, "the interrupt came while the driver was being probed");
}
