//! Statistics, the driver's side.

use wire::balloon::{feature, stat};
use wire::switch::correct;
use wire::virtio::{mmio, status};

use crate::guest::Guest;
use crate::tester::{COMMON, Options, Role, Seen};
use crate::{ensure, known_violation};

/// Tags and values of a buffer.
fn records(bytes: &[u8]) -> Vec<(u16, u64)> {
    let record = |record: &[u8]| {
        let (tag, value) = record.split_at(2);
        (u16::from_le_bytes(tag.try_into().expect("2 bytes")), u64::from_le_bytes(value.try_into().expect("8 bytes")))
    };
    bytes.chunks_exact(stat::RECORD_BYTES).map(record).collect()
}

/// The device returns the buffer, which asks for a new one, and the guest answers.
fn ask(guest: &mut Guest) {
    assert!(guest.use_one(Role::Stats), "a buffer is there to ask with");
    guest.run();
}

#[test]
fn c20_at_most_one_buffer_is_available_to_the_device() {
    let mut guest = Guest::up(Options::default());
    for asked in 0..200 {
        assert_eq!(guest.device.exposed(Role::Stats).len(), 1, "asked {asked} times");
        // Interrupts that ask for nothing bring no second one.
        guest.device.raise(3);
        guest.run();
        assert_eq!(guest.device.exposed(Role::Stats).len(), 1, "asked {asked} times");
        ask(&mut guest);
    }
}

#[test]
fn c21_a_buffer_is_made_available_when_the_driver_is_up() {
    let guest = Guest::up(Options::default());
    assert_eq!(guest.device.exposed(Role::Stats).len(), 1);
}

#[test]
fn c21_a_buffer_is_made_available_again_after_each_use() {
    let mut guest = Guest::up(Options::default());
    for _ in 0..200 {
        guest.seen.clear();
        ask(&mut guest);
        assert_eq!(guest.chains(Role::Stats).len(), 1);
        let queue = u64::from(guest.device.index(Role::Stats));
        assert_eq!(guest.writes(mmio::QUEUE_NOTIFY).iter().map(|write| write.1).collect::<Vec<_>>(), [queue]);
    }
}

#[test]
fn c22_the_first_buffer_holds_at_least_one_record() {
    let guest = Guest::boot(Options::default());
    let first = &guest.chains(Role::Stats)[0];
    assert!(!records(&first.bytes).is_empty());
    assert!(first.buffers.iter().all(|buffer| !buffer.writable));
}

#[test]
fn c23_the_size_is_a_multiple_of_the_size_of_a_record() {
    let mut guest = Guest::up(Options::default());
    ask(&mut guest);
    for chain in guest.chains(Role::Stats) {
        assert!(chain.bytes.len().is_multiple_of(stat::RECORD_BYTES), "{} bytes", chain.bytes.len());
    }
}

/// The sentence says 6; a record of 16 and 64 bits has 10.
#[test]
fn c23_the_size_is_no_multiple_of_six_as_the_text_has_it() {
    known_violation("C23", "an erratum: records have 10 bytes", "140 bytes", || {
        let guest = Guest::boot(Options::default());
        let bytes = guest.chains(Role::Stats)[0].bytes.len();
        ensure(bytes.is_multiple_of(6), || format!("{bytes} bytes"))
    });
}

#[test]
fn c24_each_buffer_holds_the_same_subset_of_tags() {
    let mut guest = Guest::boot(Options::default());
    ask(&mut guest);
    guest.target(300);
    ask(&mut guest);
    let tags = |bytes: &[u8]| records(bytes).iter().map(|record| record.0).collect::<Vec<_>>();
    let buffers = guest.chains(Role::Stats);
    assert_eq!(buffers.len(), 3);
    assert!(buffers.iter().all(|buffer| tags(&buffer.bytes) == tags(&buffers[0].bytes)));
    assert_ne!(buffers[1].bytes, buffers[2].bytes, "the values are fresh ones");
}

#[test]
fn c26_tags_and_values_are_little_endian() {
    let guest = Guest::boot(Options::default());
    let records = records(&guest.chains(Role::Stats)[0].bytes);
    let value = |tag| records.iter().find(|record| record.0 == tag).unwrap_or_else(|| panic!("no tag {tag}")).1;
    let total = value(stat::MEMTOT);
    assert!((24 << 20..=32 << 20).contains(&total), "{total:#x} of {:#x} bytes", 32 << 20);
    assert!((1 << 20..=total).contains(&value(stat::MEMFREE)));
}

/// Whether no queue is notified before DRIVER_OK.
fn quiet_before_driver_ok(options: Options) -> crate::Check {
    let guest = Guest::boot(options);
    let ready = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 & u64::from(status::DRIVER_OK) != 0).expect("DRIVER_OK").0;
    let early = guest.writes(mmio::QUEUE_NOTIFY).into_iter().find(|write| write.0 < ready);
    let Some((at, queue)) = early else { return Ok(()) };
    let status = guest.writes(mmio::STATUS).into_iter().rfind(|write| write.0 < at).expect("a status").1;
    ensure(false, || format!("queue {queue} is notified at status {status:#04x}"))
}

#[test]
fn c50_no_queue_is_notified_before_driver_ok_by_a_driver_without_statistics() {
    let others = feature::MUST_TELL_HOST | feature::FREE_PAGE_HINT | feature::PAGE_REPORTING | feature::DEFLATE_ON_OOM;
    quiet_before_driver_ok(Options::offering(others)).expect("nothing to tell of yet");
}

#[test]
fn c50_the_first_statistics_are_notified_before_driver_ok() {
    known_violation("C50", "N11, measured on Linux 6.1 and 6.12", "queue 2 is notified at status 0x0b", || {
        quiet_before_driver_ok(Options::offering(COMMON))
    });
}

/// B26 mended, as Linux does it in 2026.
#[test]
fn c50_the_mended_driver_notifies_of_its_statistics_behind_driver_ok() {
    let mended = || Options { corrected: correct::STATS_PRIMED_EARLY, ..Options::offering(COMMON) };
    quiet_before_driver_ok(mended()).expect("nothing to tell of yet");
    assert_eq!(Guest::boot(mended()).device.exposed(Role::Stats).len(), 1, "the buffer is there once the driver is up");
}

#[test]
fn c51_a_device_that_looks_only_after_driver_ok_finds_the_buffer() {
    let guest = Guest::boot(Options::default());
    let ready = guest.writes(mmio::STATUS).into_iter().find(|write| write.1 == 15).expect("DRIVER_OK").0;
    let exposed = guest.first(|seen| matches!(seen, Seen::Exposed(chain) if chain.role == Role::Stats)).expect("exposed");
    assert!(exposed < ready);
    assert_eq!(guest.device.exposed(Role::Stats).len(), 1, "it is there whenever the device looks");
}
