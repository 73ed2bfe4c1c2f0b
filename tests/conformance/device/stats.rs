//! Statistics, the device's side.

use host::balloon::Profile;
use host::balloon::device::QueueRole;
use host::event::Event;
use wire::balloon::stat;

use super::rig::{Buf, PROFILES, Rig, STATS_NS};
use crate::{ensure, known_violation};

/// A buffer of records with these tags.
fn buffer(rig: &Rig, tags: &[u16]) -> Buf {
    let bytes: Vec<u8> = tags.iter().flat_map(|tag| tag.to_le_bytes().into_iter().chain(7u64.to_le_bytes())).collect();
    rig.ram.write(0x28_0000, &bytes);
    Buf::Out(0x28_0000, bytes.len() as u32)
}

fn records(rig: &Rig) -> Vec<u32> {
    let records = |event: &Event| match event {
        Event::BalloonStats { records } => Some(*records),
        _ => None,
    };
    rig.events.iter().filter_map(|stamped| records(&stamped.event)).collect()
}

#[test]
fn c25_unknown_tags_are_ignored() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        let buf = buffer(&rig, &[stat::MEMFREE, 999, 0xffff, stat::MEMTOT]);
        rig.send(QueueRole::Stats, &[buf]);
        assert_eq!(records(&rig), [4]);
        assert!(!rig.device.transport().broken());
        rig.now_ns += STATS_NS;
        rig.run();
        assert_eq!(rig.used(QueueRole::Stats).len(), 1, "the device goes on to ask");
    }
}

#[test]
fn c24_tags_are_taken_in_any_order() {
    for profile in PROFILES {
        for tags in [[stat::MEMTOT, stat::MEMFREE, stat::SWAP_IN], [stat::SWAP_IN, stat::MEMFREE, stat::MEMTOT]] {
            let mut rig = Rig::up(profile);
            let buf = buffer(&rig, &tags);
            rig.send(QueueRole::Stats, &[buf]);
            assert_eq!(records(&rig), [3]);
            assert!(!rig.device.transport().broken());
        }
    }
}

#[test]
fn c24_any_subset_of_tags_is_taken() {
    for profile in PROFILES {
        for tags in [&[][..], &[stat::AVAIL], &[stat::DIRECT_RECLAIM, stat::CACHES]] {
            let mut rig = Rig::up(profile);
            let buf = match tags {
                [] => Buf::Out(0x28_0000, 1),
                _ => buffer(&rig, tags),
            };
            rig.send(QueueRole::Stats, &[buf]);
            assert_eq!(records(&rig), [tags.len() as u32]);
        }
    }
}

#[test]
fn c20_a_second_buffer_sends_the_first_one_back() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        let buf = buffer(&rig, &[stat::MEMFREE]);
        let first = rig.send(QueueRole::Stats, &[buf]);
        let second = rig.send(QueueRole::Stats, &[buf]);
        assert_eq!(rig.used(QueueRole::Stats), [(u32::from(first), 0)]);
        rig.now_ns += STATS_NS;
        rig.run();
        assert_eq!(rig.used(QueueRole::Stats).last().map(|used| used.0), Some(u32::from(second)));
    }
}

/// The used length of a statistics buffer, of which the device writes nothing.
fn says_that_it_wrote(profile: Profile) -> crate::Check {
    let mut rig = Rig::up(profile);
    let buf = buffer(&rig, &[stat::MEMFREE, stat::MEMTOT]);
    rig.send(QueueRole::Stats, &[buf]);
    rig.now_ns += STATS_NS;
    rig.run();
    let (_, len) = rig.used(QueueRole::Stats)[0];
    ensure(len == 0, || format!("used length {len} for a buffer that cannot be written"))
}

#[test]
fn g6_firecracker_says_that_it_wrote_nothing_into_statistics() {
    says_that_it_wrote(Profile::Firecracker).expect("a readable buffer");
}

#[test]
fn g6_qemu_says_that_it_wrote_the_statistics_that_it_read() {
    known_violation("G6", "QEMU: balloon_stats_poll_cb() returns stats_vq_offset", "used length 20", || says_that_it_wrote(Profile::Qemu));
}
