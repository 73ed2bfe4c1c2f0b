//! Split rings, the device's side.

use host::balloon::device::QueueRole;
use host::balloon::{BalloonOptions, Profile};
use host::event::EventKind;
use wire::balloon::stat;
use wire::virtio::{feature, mmio, status};
use wire::vring::{DESC_F_NEXT, DESC_F_WRITE};

use super::rig::{ALMOST, Buf, Descriptor, PAGE, PROFILES, QUEUES, Rig, SIZE, STATS_NS, options, pages};
use crate::{ensure, known_violation};

/// A buffer that fits the queue.
fn fitting(rig: &mut Rig, role: QueueRole) -> Buf {
    match role {
        QueueRole::Inflate | QueueRole::Deflate | QueueRole::FreePage => rig.words(&[PAGE as u32]),
        QueueRole::Stats => Buf::Out(0x28_0000, stat::RECORD_BYTES as u32),
        QueueRole::Reporting | QueueRole::Absent => pages(PAGE, 1),
    }
}

#[test]
fn g4_sizes_offered_are_powers_of_two_up_to_32768() {
    for profile in PROFILES {
        let mut rig = Rig::new(options(profile));
        for queue in 0..5 {
            rig.write(mmio::QUEUE_SEL, queue);
            let max = rig.read(mmio::QUEUE_SIZE_MAX);
            assert!(max.is_power_of_two() && max <= 32768, "queue {queue}: {max}");
        }
        rig.write(mmio::QUEUE_SEL, 5);
        assert_eq!(rig.read(mmio::QUEUE_SIZE_MAX), 0, "there is no sixth");
    }
}

#[test]
fn g4_sizes_and_addresses_that_break_the_layout_are_refused() {
    let sound = Rig::new(options(Profile::Qemu)).areas(QueueRole::Inflate);
    let [desc, driver, device] = sound;
    let cases = [
        ("size 0", 0, sound),
        ("no power of two", 12, sound),
        ("beyond the largest", 32, sound),
        ("descriptors at 8", 16, [desc + 8, driver, device]),
        ("available ring at 1", 16, [desc, driver + 1, device]),
        ("used ring at 2", 16, [desc, driver, device + 2]),
        ("descriptors outside memory", 16, [64 << 20, driver, device]),
        ("used ring across the end of memory", 16, [desc, driver, (16 << 20) - 64]),
    ];
    for (name, size, areas) in cases {
        let mut rig = Rig::new(options(Profile::Qemu));
        assert!(rig.negotiate(u64::MAX));
        rig.set_up(QueueRole::Inflate, size, areas);
        assert_eq!(rig.read(mmio::QUEUE_READY), 0, "{name}");
        // Firecracker looks when the driver says DRIVER_OK.
        let mut rig = Rig::new(options(Profile::Firecracker));
        assert!(rig.negotiate(u64::MAX));
        rig.set_up_queues();
        rig.set_up(QueueRole::Inflate, size, areas);
        assert_eq!(rig.read(mmio::QUEUE_READY), 1, "{name}");
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        assert_ne!(rig.read(mmio::STATUS) & status::DEVICE_NEEDS_RESET, 0, "{name}");
        assert!(rig.config_interrupt());
    }
}

#[test]
fn g5_chains_that_break_the_rules_are_not_taken() {
    let out = (PAGE << 12, 4);
    let cases: [(&str, &[Descriptor], u16); 8] = [
        ("a loop", &[(out.0, out.1, DESC_F_NEXT, 0)], 0),
        ("a descriptor outside the table", &[(out.0, out.1, DESC_F_NEXT, SIZE)], 0),
        ("a head outside the table", &[], SIZE),
        ("a readable buffer behind a writable one", &[(out.0, 4, DESC_F_NEXT | DESC_F_WRITE, 1), (out.0, 4, 0, 0)], 0),
        ("no bytes", &[(out.0, 0, 0, 0)], 0),
        ("a buffer outside memory", &[(64 << 20, 4, 0, 0)], 0),
        ("a buffer across the end of memory", &[((16 << 20) - 2, 4, 0, 0)], 0),
        ("a buffer that wraps around", &[(u64::MAX - 1, 4, 0, 0)], 0),
    ];
    for profile in PROFILES {
        for role in QUEUES {
            for (name, descriptors, head) in cases {
                let mut rig = Rig::up(profile);
                (0..).zip(descriptors).for_each(|(index, descriptor)| rig.describe(role, index, *descriptor));
                rig.expose(role, head);
                rig.kick(role);
                rig.run();
                assert!(rig.device.transport().broken(), "{role:?}: {name}");
                assert!(rig.used(role).is_empty(), "{role:?}: {name}");
            }
        }
    }
}

#[test]
fn g5_an_available_index_that_runs_ahead_is_not_followed() {
    for profile in PROFILES {
        for role in QUEUES {
            let mut rig = Rig::up(profile);
            let driver = rig.areas(role)[1];
            rig.ram.write(driver + 2, &(SIZE + 1).to_le_bytes());
            rig.kick(role);
            rig.run();
            assert!(rig.device.transport().broken(), "{role:?}");
            assert!(rig.used(role).is_empty(), "{role:?}");
        }
    }
}

#[test]
fn g6_each_buffer_comes_back_once_with_its_head_in_front_of_the_index() {
    for profile in PROFILES {
        for role in [QueueRole::Inflate, QueueRole::Deflate, QueueRole::FreePage, QueueRole::Reporting] {
            let mut rig = Rig::up(profile);
            for round in 1..=3 * u32::from(SIZE) {
                let buf = fitting(&mut rig, role);
                let head = rig.send(role, &[buf]);
                let device = rig.areas(role)[2];
                assert_eq!(rig.ram.read_u32(device) >> 16, round, "{role:?}");
                assert_eq!(rig.used(role).last().map(|used| used.0), Some(u32::from(head)), "{role:?}");
            }
        }
    }
}

#[test]
fn g6_the_used_length_is_what_was_written() {
    for profile in PROFILES {
        for role in [QueueRole::Inflate, QueueRole::Deflate, QueueRole::FreePage, QueueRole::Reporting] {
            let mut rig = Rig::up(profile);
            rig.start();
            let buf = fitting(&mut rig, role);
            rig.send(role, &[buf]);
            rig.send(role, &[pages(PAGE, 2)]);
            // Dropping a page writes no byte of it: a driver may rely on none.
            assert!(rig.used(role).iter().all(|used| used.1 == 0), "{role:?}: {:?}", rig.used(role));
        }
    }
}

#[test]
fn g7_nothing_of_the_drivers_is_written() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        for role in QUEUES {
            rig.ram.write(0x28_0000, &[0x55; 64]);
            let buf = match role {
                QueueRole::Reporting => pages(PAGE, 1),
                QueueRole::FreePage => rig.words(&[7]),
                _ => Buf::Out(0x28_0000, 40),
            };
            rig.add(role, &[buf]);
            let [desc, driver, _] = rig.areas(role);
            let mine = |rig: &Rig| {
                let mut bytes = vec![0; 0x2000 + 64];
                rig.ram.read(desc, &mut bytes[..0x1000]);
                rig.ram.read(driver, &mut bytes[0x1000..0x2000]);
                rig.ram.read(0x28_0000, &mut bytes[0x2000..]);
                bytes
            };
            let before = mine(&rig);
            rig.kick(role);
            rig.run();
            rig.now_ns += STATS_NS;
            rig.run();
            assert!(!rig.used(role).is_empty(), "{role:?}");
            assert!(before == mine(&rig), "{role:?}: descriptors, available ring and readable bytes stay");
        }
    }
}

/// Sends a page that the device may only read.
fn spares_a_readable_page(profile: Profile, role: QueueRole) -> crate::Check {
    let mut rig = Rig::up(profile);
    rig.start();
    rig.fill(PAGE, 1, 0x11);
    rig.send(role, &[Buf::Out(PAGE << 12, 4096)]);
    ensure(rig.holds(PAGE, 1, 0x11), || format!("{role:?}: the page is dropped"))
}

#[test]
fn g7_qemu_leaves_a_readable_page_alone() {
    for role in [QueueRole::FreePage, QueueRole::Reporting] {
        spares_a_readable_page(Profile::Qemu, role).expect("it may only read");
    }
}

#[test]
fn g7_firecracker_drops_a_readable_page() {
    for role in [QueueRole::FreePage, QueueRole::Reporting] {
        known_violation("G7", "Firecracker: descriptors are not asked for their direction", "the page is dropped", || {
            spares_a_readable_page(Profile::Firecracker, role)
        });
    }
}

/// Whether a driver gets interrupts, or none, as its flag says.
fn heeds_the_flag(profile: Profile) -> crate::Check {
    for (flag, interrupts) in [(0u16, 1), (1, 0)] {
        let mut rig = Rig::up(profile);
        let driver = rig.areas(QueueRole::Inflate)[1];
        rig.ram.write(driver, &flag.to_le_bytes());
        let buf = fitting(&mut rig, QueueRole::Inflate);
        rig.send(QueueRole::Inflate, &[buf]);
        let happened = rig.happened(EventKind::DeviceIrq);
        ensure(happened == interrupts, || format!("{happened} interrupts with flag {flag}"))?;
    }
    Ok(())
}

#[test]
fn g8_a_driver_that_wants_no_interrupt_gets_none() {
    heeds_the_flag(Profile::Qemu).expect("QEMU looks at it");
}

#[test]
fn g8_firecracker_interrupts_whoever_has_asked_for_peace() {
    let source = "Firecracker: signal_used_queue() looks at no flag";
    known_violation("G8", source, "1 interrupts with flag 1", || heeds_the_flag(Profile::Firecracker));
}

/// Several buffers that are there at once are one batch.
#[test]
fn g8_firecracker_interrupts_once_for_all_that_it_found() {
    let mut rig = Rig::up(Profile::Firecracker);
    for _ in 0..3 {
        let buf = fitting(&mut rig, QueueRole::Deflate);
        rig.add(QueueRole::Deflate, &[buf]);
    }
    rig.events.clear();
    rig.kick(QueueRole::Deflate);
    rig.run();
    assert_eq!(rig.used(QueueRole::Deflate).len(), 3);
    assert_eq!(rig.happened(EventKind::DeviceIrq), 1);
}

#[test]
fn g8_notifications_that_were_not_wanted_do_no_harm() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        for role in QUEUES {
            for _ in 0..3 {
                rig.kick(role);
                rig.run();
            }
        }
        rig.write(mmio::QUEUE_NOTIFY, 77);
        assert!(!rig.device.transport().broken());
        let head = rig.send(QueueRole::FreePage, &[pages(PAGE, 1)]);
        assert_eq!(rig.used(QueueRole::FreePage).last(), Some(&(u32::from(head), 0)));
    }
}

/// A device whose driver has taken EVENT_IDX.
fn with_event_idx(profile: Profile) -> Rig {
    let all = options(profile).features;
    Rig::up_with(BalloonOptions { features: all | feature::RING_EVENT_IDX, ..options(profile) }, u64::MAX)
}

#[test]
fn g8_with_event_idx_the_driver_names_the_used_buffer_that_interrupts() {
    let mut rig = with_event_idx(Profile::Qemu);
    let driver = rig.areas(QueueRole::Deflate)[1];
    // The third buffer, index 2, is the one; the first interrupts for nothing was told before it.
    rig.ram.write(driver + 4 + 2 * u64::from(SIZE), &2u16.to_le_bytes());
    let mut interrupts = Vec::new();
    for _ in 0..4 {
        let buf = fitting(&mut rig, QueueRole::Deflate);
        rig.events.clear();
        rig.send(QueueRole::Deflate, &[buf]);
        interrupts.push(rig.happened(EventKind::DeviceIrq));
    }
    assert_eq!(interrupts, [1, 0, 1, 0]);
}

#[test]
fn g8_with_event_idx_the_used_flags_stay_0() {
    for profile in PROFILES {
        let mut rig = with_event_idx(profile);
        rig.start();
        for role in QUEUES {
            let buf = fitting(&mut rig, role);
            rig.add(role, &[buf]);
            rig.kick(role);
            for _ in 0..100 {
                rig.iothread();
                rig.main_loop();
                assert_eq!(rig.ram.read_u32(rig.areas(role)[2]) & 0xffff, 0, "{role:?}");
            }
        }
    }
}

#[test]
fn g10_rings_are_not_touched_behind_a_reset() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        rig.start();
        rig.send(QueueRole::Stats, &[Buf::Out(0x28_0000, 20)]);
        for role in QUEUES {
            let buf = fitting(&mut rig, role);
            rig.add(role, &[buf]);
            rig.kick(role);
        }
        rig.write(mmio::STATUS, 0);
        let rings = |rig: &Rig| {
            let mut bytes = vec![0; 5 * 0x3000];
            rig.ram.read(0x10_0000, &mut bytes);
            bytes
        };
        let before = rings(&rig);
        rig.fill(PAGE, 1, 0x11);
        rig.now_ns += 10 * STATS_NS;
        rig.run();
        assert!(before == rings(&rig), "a ring has changed");
        assert!(rig.holds(PAGE, 1, 0x11), "nor is anything done of what was asked");
    }
}

#[test]
fn g10_a_device_starts_anew_behind_a_reset() {
    for profile in PROFILES {
        let mut rig = Rig::up(profile);
        for role in QUEUES {
            let buf = fitting(&mut rig, role);
            rig.send(role, &[buf]);
        }
        assert!(rig.negotiate(u64::MAX));
        for queue in 0..5 {
            rig.write(mmio::QUEUE_SEL, queue);
            assert_eq!(rig.read(mmio::QUEUE_READY), 0);
        }
        rig.set_up_queues();
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        rig.run();
        for role in [QueueRole::Inflate, QueueRole::FreePage, QueueRole::Reporting] {
            assert!(rig.used(role).is_empty());
            let buf = fitting(&mut rig, role);
            let head = rig.send(role, &[buf]);
            assert_eq!(rig.used(role), [(u32::from(head), 0)], "{role:?}: the indices count from 0");
        }
    }
}
