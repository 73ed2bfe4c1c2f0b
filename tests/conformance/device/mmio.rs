//! The virtio-mmio transport, the device's side.

use wire::balloon::config;
use wire::virtio::mmio::{self as reg};
use wire::virtio::{isr, status};

use super::rig::{ALMOST, PROFILES, Rig, options};
use crate::{ensure, known_violation};
use host::balloon::device::QueueRole;
use host::balloon::{BalloonOptions, Profile};
use host::event::HintStatus;
use host::transport::mmio::VENDOR_QEMU;

/// What a register reads from a driver that has just made queue 1 ready; `None`: it can only be written.
const READS: [(u64, Option<u32>); 23] = [
    (reg::MAGIC_VALUE, Some(0x7472_6976)),
    (reg::VERSION, Some(2)),
    (reg::DEVICE_ID, Some(5)),
    (reg::DEVICE_FEATURES, Some(0x3f)),
    (reg::DEVICE_FEATURES_SEL, None),
    (reg::DRIVER_FEATURES, None),
    (reg::DRIVER_FEATURES_SEL, None),
    (reg::QUEUE_SEL, None),
    (reg::QUEUE_SIZE_MAX, Some(16)),
    (reg::QUEUE_SIZE, None),
    (reg::QUEUE_READY, Some(1)),
    (reg::QUEUE_NOTIFY, None),
    (reg::INTERRUPT_STATUS, Some(0)),
    (reg::INTERRUPT_ACK, None),
    (reg::STATUS, Some(ALMOST)),
    (reg::QUEUE_DESC_LOW, None),
    (reg::QUEUE_DESC_HIGH, None),
    (reg::QUEUE_DRIVER_LOW, None),
    (reg::QUEUE_DRIVER_HIGH, None),
    (reg::QUEUE_DEVICE_LOW, None),
    (reg::QUEUE_DEVICE_HIGH, None),
    (0x0c0, Some(0)), // QueueReset: the feature is not offered
    (reg::CONFIG_GENERATION, Some(0)),
];

/// Registers that can only be read.
const READ_ONLY: [u64; 8] = [
    reg::MAGIC_VALUE,
    reg::VERSION,
    reg::DEVICE_ID,
    reg::VENDOR_ID,
    reg::DEVICE_FEATURES,
    reg::QUEUE_SIZE_MAX,
    reg::INTERRUPT_STATUS,
    reg::CONFIG_GENERATION,
];

/// A device with its features fixed and queue 1 ready and selected.
fn prepared(profile: Profile) -> Rig {
    let mut rig = Rig::new(options(profile));
    assert!(rig.negotiate(u64::MAX));
    rig.write(reg::DEVICE_FEATURES_SEL, 0);
    let areas = rig.areas(QueueRole::Deflate);
    rig.set_up(QueueRole::Deflate, 16, areas);
    rig
}

/// Whether the generation changes with each of three changes of the configuration, and with nothing else.
fn counts_changes(profile: Profile) -> crate::Check {
    let mut rig = Rig::up(profile);
    let mut generations = vec![rig.read(reg::CONFIG_GENERATION)];
    rig.set_target(1);
    generations.push(rig.read(reg::CONFIG_GENERATION));
    rig.request();
    generations.push(rig.read(reg::CONFIG_GENERATION));
    rig.notify(host::event::PrecopyReason::Cleanup, true);
    generations.push(rig.read(reg::CONFIG_GENERATION));
    generations.push(rig.read(reg::CONFIG_GENERATION));
    let steps: Vec<u32> = generations.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    ensure(steps == [1, 1, 1, 0], || format!("the generation makes steps of {steps:?}"))
}

#[test]
fn g9_the_generation_changes_with_each_change_that_the_driver_is_told_of() {
    counts_changes(Profile::Qemu).expect("QEMU counts");
}

#[test]
fn g9_firecrackers_generation_stays_as_it_is() {
    known_violation("G9", "Firecracker: nobody counts config_generation up", "[0, 0, 0, 0]", || counts_changes(Profile::Firecracker));
}

#[test]
fn g11_a_transport_names_its_vendor() {
    for (profile, vendor) in [(Profile::Qemu, VENDOR_QEMU), (Profile::Firecracker, 0)] {
        assert_eq!(Rig::new(options(profile)).read(reg::VENDOR_ID), vendor);
    }
}

#[test]
fn g9_a_change_before_driver_ok_leaves_the_generation() {
    for profile in PROFILES {
        known_violation("G9", "QEMU: virtio_notify_config() returns before it counts", "0 to 7", || {
            let mut rig = prepared(profile);
            let (generation, pages) = (rig.read(reg::CONFIG_GENERATION), rig.config(config::NUM_PAGES));
            rig.set_target(7);
            let same = rig.read(reg::CONFIG_GENERATION) == generation;
            ensure(!same, || format!("num_pages goes from {pages} to {} in one generation", rig.config(config::NUM_PAGES)))
        });
    }
}

#[test]
fn g9_the_id_falls_to_stop_in_one_generation_when_qemu_has_read_the_start() {
    known_violation("G9", "QEMU: get_free_page_hints() tells nobody", "in one generation", || {
        let mut rig = Rig::up(Profile::Qemu);
        let id = rig.request();
        let generation = rig.read(reg::CONFIG_GENERATION);
        rig.send_id(id);
        assert_eq!(rig.device.hint_status(), HintStatus::Start);
        let (now, same) = (rig.id(), rig.read(reg::CONFIG_GENERATION) == generation);
        ensure(now == id || !same, || format!("the id goes from {id:x} to {now:x} in one generation"))
    });
}

#[test]
fn g11_each_register_reads_as_its_row_says() {
    for profile in PROFILES {
        for (offset, expected) in READS {
            let mut rig = prepared(profile);
            let found = rig.read(offset);
            assert_eq!(found, expected.unwrap_or(0), "register {offset:#x}");
        }
    }
}

#[test]
fn g11_registers_that_can_only_be_read_keep_their_values() {
    for profile in PROFILES {
        for offset in READ_ONLY {
            let mut rig = prepared(profile);
            let before = rig.read(offset);
            rig.write(offset, !before);
            assert_eq!(rig.read(offset), before, "register {offset:#x}");
        }
    }
}

#[test]
fn g11_features_are_read_and_taken_word_by_word() {
    for profile in PROFILES {
        let mut rig = prepared(profile);
        for (select, word) in [(0, 0x3f), (1, 1), (2, 0), (u32::MAX, 0)] {
            rig.write(reg::DEVICE_FEATURES_SEL, select);
            assert_eq!(rig.read(reg::DEVICE_FEATURES), word, "word {select}");
        }
    }
}

/// Whether a field that only the device may write keeps its value when the driver writes it.
fn keeps(profile: Profile, field: u64) -> crate::Check {
    let mut rig = Rig::up_with(BalloonOptions { target_pages: 3, ..options(profile) }, u64::MAX);
    let before = rig.config(field);
    rig.write(reg::CONFIG + field, 0x1234);
    let after = rig.config(field);
    ensure(after == before, || format!("the driver has written {after:#x} over {before:#x}"))
}

#[test]
fn g11_firecracker_lets_the_driver_write_any_field() {
    for field in [config::NUM_PAGES, config::FREE_PAGE_HINT_CMD_ID] {
        known_violation("G11", "Firecracker: write_config() copies what comes", "0x1234 over", || keeps(Profile::Firecracker, field));
    }
}

/// What the driver wrote over the id is what it reads; the device goes by its own, until the host tells it a new one.
#[test]
fn g11_an_id_that_firecrackers_driver_wrote_itself_starts_nothing() {
    let mut rig = Rig::up(Profile::Firecracker);
    let id = rig.request();
    rig.write(reg::CONFIG + config::FREE_PAGE_HINT_CMD_ID, 77);
    assert_eq!(rig.id(), 77);
    rig.send_id(77);
    assert_eq!(rig.device.hint_status(), HintStatus::Requested);
    rig.send_id(id);
    assert_eq!(rig.device.hint_status(), HintStatus::Start);
    assert_eq!(rig.id(), 77, "the start tells nobody");
    let next = rig.request();
    assert_eq!(rig.id(), next);
}

#[test]
fn g11_fields_that_a_driver_may_only_read_keep_their_values() {
    for field in [config::NUM_PAGES, config::FREE_PAGE_HINT_CMD_ID] {
        keeps(Profile::Qemu, field).expect("QEMU takes two fields, and no other");
    }
    for profile in PROFILES {
        let mut rig = Rig::up_with(BalloonOptions { target_pages: 3, ..options(profile) }, u64::MAX);
        for field in [config::ACTUAL, config::POISON_VAL] {
            rig.write(reg::CONFIG + field, 0x1234);
            assert_eq!(rig.config(field), 0x1234, "field {field}");
        }
    }
}

#[test]
fn g12_registers_of_legacy_devices_are_not_there() {
    for profile in PROFILES {
        let mut rig = prepared(profile);
        for offset in [0x028, 0x03c, 0x040] {
            rig.write(offset, 4096);
            assert_eq!(rig.read(offset), 0, "register {offset:#x}");
        }
        assert_eq!(rig.read(reg::QUEUE_READY), 1, "the queue stays as it was");
    }
}

#[test]
fn g13_control_registers_answer_to_aligned_words_only() {
    for profile in PROFILES {
        let mut rig = prepared(profile);
        for (offset, len) in [(reg::STATUS, 1), (reg::STATUS, 2), (reg::MAGIC_VALUE, 1), (reg::STATUS + 1, 1), (reg::STATUS + 2, 4)] {
            assert_eq!(rig.read_len(offset, len), 0, "{len} bytes at {offset:#x}");
        }
        rig.write_len(reg::STATUS, 1, 0);
        rig.write_len(reg::STATUS + 1, 4, 0);
        assert_eq!(rig.read(reg::STATUS), ALMOST, "not reset");
    }
}

#[test]
fn g13_the_configuration_answers_to_each_natural_width() {
    for profile in PROFILES {
        let mut rig = Rig::up_with(BalloonOptions { target_pages: 0x0123, ..options(profile) }, u64::MAX);
        assert_eq!(rig.read_len(reg::CONFIG, 1), 0x23);
        assert_eq!(rig.read_len(reg::CONFIG + 1, 1), 0x01);
        assert_eq!(rig.read_len(reg::CONFIG, 2), 0x0123);
        assert_eq!(rig.read_len(reg::CONFIG, 4), 0x0123);
    }
}

#[test]
fn g14_a_queue_is_let_go_at_once() {
    for profile in PROFILES {
        let mut rig = prepared(profile);
        assert_eq!(rig.read(reg::QUEUE_READY), 1);
        rig.write(reg::QUEUE_READY, 0);
        assert_eq!(rig.read(reg::QUEUE_READY), 0);
    }
}

#[test]
fn g15_a_cause_is_pending_until_it_is_acknowledged() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.write(reg::INTERRUPT_ACK, 3);
        let word = rig.words(&[1]);
        rig.send(QueueRole::Deflate, &[word]);
        rig.set_target(1);
        assert_eq!(rig.read(reg::INTERRUPT_STATUS), 3);
        assert_eq!(rig.read(reg::INTERRUPT_STATUS), 3, "reading does not clear it");
        rig.write(reg::INTERRUPT_ACK, isr::USED_BUFFER);
        assert_eq!(rig.read(reg::INTERRUPT_STATUS), isr::CONFIG_CHANGE, "only what was acknowledged goes");
        rig.write(reg::INTERRUPT_ACK, isr::CONFIG_CHANGE);
        assert_eq!(rig.read(reg::INTERRUPT_STATUS), 0);
        assert_eq!(rig.read(reg::STATUS) & status::DEVICE_NEEDS_RESET, 0);
    }
}

/// Whether shared memory that is not there has length -1.
fn has_no_shared_memory(profile: Profile) -> crate::Check {
    let mut rig = prepared(profile);
    rig.write(0x0ac, 0);
    let len = (rig.read(reg::SHM_LEN_LOW), rig.read(reg::SHM_LEN_HIGH));
    ensure(len == (u32::MAX, u32::MAX), || format!("its length is {len:?}"))
}

#[test]
fn g11_shared_memory_that_is_not_there_has_length_minus_1() {
    has_no_shared_memory(Profile::Qemu).expect("QEMU says so");
}

#[test]
fn g11_firecracker_does_not_know_the_registers_of_shared_memory() {
    known_violation("G11", "Firecracker: read() leaves what it does not know as it is", "(0, 0)", || {
        has_no_shared_memory(Profile::Firecracker)
    });
}

/// Behind the configuration's end.
#[test]
fn g11_firecrackers_configuration_reads_as_zeros_behind_its_end() {
    for (profile, behind) in [(Profile::Qemu, u32::MAX), (Profile::Firecracker, 0)] {
        let mut rig = Rig::up(profile);
        assert_eq!(rig.read(reg::CONFIG + 0x40), behind);
    }
}
