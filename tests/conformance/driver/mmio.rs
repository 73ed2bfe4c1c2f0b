//! The virtio-mmio transport, the driver's side.

use wire::balloon::{config, feature};
use wire::debug::{self, lock};
use wire::task::op;
use wire::virtio::mmio::{self as reg, MAGIC};

use crate::guest::Guest;
use crate::tester::{COMMON, Options, Role, Seen};
use crate::{Check, ensure, known_violation};

/// Control registers of version 2: may be read, may be written.
const REGISTERS: [(u64, bool, bool); 24] = [
    (reg::MAGIC_VALUE, true, false),
    (reg::VERSION, true, false),
    (reg::DEVICE_ID, true, false),
    (reg::VENDOR_ID, true, false),
    (reg::DEVICE_FEATURES, true, false),
    (reg::DEVICE_FEATURES_SEL, false, true),
    (reg::DRIVER_FEATURES, false, true),
    (reg::DRIVER_FEATURES_SEL, false, true),
    (reg::QUEUE_SEL, false, true),
    (reg::QUEUE_SIZE_MAX, true, false),
    (reg::QUEUE_SIZE, false, true),
    (reg::QUEUE_READY, true, true),
    (reg::QUEUE_NOTIFY, false, true),
    (reg::INTERRUPT_STATUS, true, false),
    (reg::INTERRUPT_ACK, false, true),
    (reg::STATUS, true, true),
    (reg::QUEUE_DESC_LOW, false, true),
    (reg::QUEUE_DESC_HIGH, false, true),
    (reg::QUEUE_DRIVER_LOW, false, true),
    (reg::QUEUE_DRIVER_HIGH, false, true),
    (reg::QUEUE_DEVICE_LOW, false, true),
    (reg::QUEUE_DEVICE_HIGH, false, true),
    (0x0c0, true, true), // QueueReset, with a feature of its own
    (reg::CONFIG_GENERATION, true, false),
];

/// A driver that has come, worked and gone, and come again.
fn whole_life() -> Guest {
    let mut guest = Guest::boot(Options::offering(COMMON | feature::DEFLATE_ON_OOM | feature::PAGE_POISON).poisoned());
    guest.target(300);
    guest.command(2);
    guest.use_one(Role::Stats);
    guest.run();
    guest.command(1);
    assert!(guest.task(op::UNBIND, 0, 0, 0) && guest.task(op::BIND, 0, 0, 0));
    guest
}

/// Offset, width and direction of each access.
fn accesses(guest: &Guest) -> Vec<(u64, u8, bool)> {
    let access = |seen: &Seen| match seen {
        Seen::Read { offset, len, .. } => Some((*offset, *len, false)),
        Seen::Write { offset, len, .. } => Some((*offset, *len, true)),
        _ => None,
    };
    guest.seen.iter().filter_map(access).collect()
}

#[test]
fn c6_a_legacy_device_is_not_driven() {
    left_alone(Options { version: 1, ..Options::default() }, &[reg::MAGIC_VALUE, reg::VERSION]);
}

/// A driver that reads a value in one load needs no generation counter. The balloon has no wider fields, so ours never reads the counter.
#[test]
fn g9_no_field_of_the_configuration_is_read_in_parts() {
    let guest = whole_life();
    let config: Vec<_> = accesses(&guest).into_iter().filter(|access| access.0 >= reg::CONFIG).collect();
    assert!(config.len() > 4);
    assert!(config.iter().all(|(offset, len, _)| *len == 4 && offset.is_multiple_of(4)), "{config:x?}");
}

#[test]
fn g11_only_registers_that_exist_are_accessed_and_only_in_their_direction() {
    let mut met = std::collections::BTreeSet::new();
    for (offset, _, write) in accesses(&whole_life()) {
        if offset >= reg::CONFIG {
            continue;
        }
        let (_, readable, writable) =
            *REGISTERS.iter().find(|known| known.0 == offset).unwrap_or_else(|| panic!("no register {offset:#x}"));
        assert!(if write { writable } else { readable }, "register {offset:#x}, write {write}");
        met.insert(offset);
    }
    assert!(met.len() >= 20, "{met:x?}");
}

#[test]
fn g11_fields_that_the_driver_may_only_read_are_not_written() {
    let guest = whole_life();
    for field in [config::NUM_PAGES, config::FREE_PAGE_HINT_CMD_ID] {
        assert!(guest.writes(reg::CONFIG + field).is_empty(), "field {field}");
    }
    assert!(!guest.writes(reg::CONFIG + config::ACTUAL).is_empty());
}

#[test]
fn g12_registers_of_legacy_devices_are_never_accessed() {
    for (offset, _, _) in accesses(&whole_life()) {
        assert!(![0x028, 0x03c, 0x040].contains(&offset), "register {offset:#x}");
    }
}

#[test]
fn g13_control_registers_are_accessed_with_aligned_words() {
    for (offset, len, _) in accesses(&whole_life()) {
        assert!(len == 4 && offset.is_multiple_of(4), "{len} bytes at {offset:#x}");
    }
}

#[test]
fn g14_queues_are_taken_out_of_service_and_looked_at_again() {
    let mut guest = Guest::up(Options::default());
    assert!(guest.task(op::UNBIND, 0, 0, 0));
    let stops: Vec<usize> = guest.writes(reg::QUEUE_READY).into_iter().filter(|write| write.1 == 0).map(|write| write.0).collect();
    assert_eq!(stops.len(), 4);
    for stop in stops {
        assert_eq!(guest.seen[stop + 1], Seen::Read { offset: reg::QUEUE_READY, len: 4, value: 0 });
    }
}

#[test]
fn g14_a_queue_that_is_not_let_go_is_freed_after_one_look() {
    known_violation("G14", "Linux, which warns and goes on", "1 look", || {
        let mut guest = Guest::up(Options { lets_go: false, ..Options::offering(0) });
        guest.order(op::UNBIND, 0, 0, 0);
        guest.run_exits(100_000);
        let queue_0 = guest.writes(reg::QUEUE_READY)[0].0;
        let next = guest.writes(reg::QUEUE_READY)[1].0;
        let looks = guest.reads(reg::QUEUE_READY).into_iter().filter(|read| queue_0 < read.0 && read.0 < next).count();
        assert!(guest.warnings().iter().any(|warning| warning.contains("still ready")), "{:?}", guest.warnings());
        ensure(looks > 1, || format!("{looks} look, and the driver frees the ring"))
    });
}

/// Asserts that the driver reads these registers and does nothing else.
fn left_alone(options: Options, reads: &[u64]) {
    let guest = Guest::boot(options);
    let found = accesses(&guest);
    assert!(found.iter().all(|access| !access.2), "{found:x?}");
    assert_eq!(found.iter().map(|access| access.0).collect::<Vec<_>>(), reads);
}

#[test]
fn g14_a_device_with_another_magic_is_left_alone() {
    left_alone(Options { magic: MAGIC + 1, ..Options::default() }, &[reg::MAGIC_VALUE]);
}

#[test]
fn g14_a_device_of_another_version_is_left_alone() {
    for version in [0, 1, 3] {
        left_alone(Options { version, ..Options::default() }, &[reg::MAGIC_VALUE, reg::VERSION]);
    }
}

#[test]
fn g14_device_id_0_is_no_device_and_nothing_to_complain_about() {
    let options = Options { device_id: 0, ..Options::default() };
    left_alone(options.clone(), &[reg::MAGIC_VALUE, reg::VERSION, reg::DEVICE_ID]);
    assert!(Guest::boot(options).warnings().is_empty());
}

#[test]
fn g14_a_device_of_another_type_is_left_alone() {
    left_alone(Options { device_id: 4, ..Options::default() }, &[reg::MAGIC_VALUE, reg::VERSION, reg::DEVICE_ID]);
}

#[test]
fn g15_the_causes_that_were_seen_are_acknowledged_and_no_others() {
    for cause in [1, 2, 3] {
        let mut guest = Guest::up(Options::default());
        guest.device.raise(cause);
        guest.run();
        let seen: Vec<u64> = guest.reads(reg::INTERRUPT_STATUS).into_iter().map(|read| read.1).collect();
        let acknowledged: Vec<u64> = guest.writes(reg::INTERRUPT_ACK).into_iter().map(|write| write.1).collect();
        assert_eq!((seen, acknowledged), (vec![u64::from(cause)], vec![u64::from(cause)]));
        assert_eq!(guest.device.isr, 0);
    }
}

/// Whether a cause is acknowledged only behind the lock under which it is processed.
fn acknowledged_behind(cause: u32, processing: u64) -> Check {
    let mut guest = Guest::up(Options::default());
    guest.device.raise(cause);
    guest.run();
    let acknowledged = guest.writes(reg::INTERRUPT_ACK)[0].0;
    let processed = guest.said_all(debug::LOCK).into_iter().find(|said| said.1 == processing).expect("processed").0;
    ensure(processed < acknowledged, || "acknowledged first".to_owned())
}

#[test]
fn g15_a_configuration_change_is_acknowledged_before_it_is_processed() {
    known_violation("G15", "N7, measured on Linux 6.1 and 6.12", "acknowledged first", || acknowledged_behind(2, lock::CONFIG));
}

#[test]
fn g15_used_buffers_are_acknowledged_before_they_are_processed() {
    known_violation("G15", "N7, measured on Linux 6.1 and 6.12", "acknowledged first", || acknowledged_behind(1, lock::VQ));
}
