//! Split rings, the driver's side.

use wire::balloon::{config, feature};
use wire::debug;
use wire::task::op;
use wire::virtio::{mmio, status};
use wire::vring;

use crate::guest::Guest;
use crate::tester::{Breach, Buffer, COMMON, Options, Role, Seen};
use crate::{ensure, known_violation};

const QUEUES: [Role; 5] = [Role::Inflate, Role::Deflate, Role::Stats, Role::Hint, Role::Reporting];

fn all() -> Options {
    Options { ram_bytes: 256 << 20, ..Options::offering(COMMON | feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING) }
}

/// A driver that has done everything it can, more than once, with a device that is now quick and now slow.
fn busy() -> Guest {
    let mut guest = Guest::boot(all());
    for round in 0..3 {
        guest.target(300 + round);
        guest.command(2 + round);
        guest.use_one(Role::Stats);
        guest.device.options.holds = QUEUES.to_vec();
        guest.target(100);
        guest.use_one(Role::Deflate);
        guest.run();
        guest.order(op::OOM, 0, 0, 0);
        guest.order(op::SHRINK, 0, 2048, 0);
        guest.run();
        QUEUES.iter().filter(|role| **role != Role::Stats).for_each(|role| guest.release(*role));
        guest.command(1);
        guest.device.options.holds.push(Role::Reporting);
        guest.run_for(3_000_000_000);
        guest.target(150);
        guest.release(Role::Reporting);
    }
    for (role, least) in QUEUES.into_iter().zip([3, 3, 3, 30, 2]) {
        assert!(guest.chains(role).len() >= least, "{role:?}");
    }
    guest
}

fn breaches(guest: &Guest, row: &str) -> Vec<Breach> {
    guest.device.breaches.iter().filter(|breach| breach.row == row).cloned().collect()
}

#[test]
fn g4_sizes_are_powers_of_two_and_no_larger_than_the_device_allows() {
    for size in [2, 4, 64, 1024, 4096, 32768] {
        let options = Options { ram_bytes: 64 << 20, sizes: [size; 5], ..Options::default() };
        let guest = Guest::up(options);
        for role in [Role::Inflate, Role::Deflate, Role::Stats, Role::Hint] {
            let found = u32::from(guest.device.rings(role).0);
            assert!(found.is_power_of_two() && found <= size, "{role:?}: {found} of {size}");
        }
    }
}

#[test]
fn g4_a_size_that_is_no_power_of_two_is_never_set() {
    let guest = Guest::boot(Options { sizes: [100; 5], ..Options::default() });
    assert!(guest.writes(mmio::QUEUE_SIZE).is_empty() && guest.writes(mmio::QUEUE_READY).is_empty());
    assert_ne!(guest.device.status & status::FAILED, 0);
}

#[test]
fn g4_areas_are_aligned_lie_in_memory_and_do_not_overlap() {
    let guest = Guest::up(all());
    let mut areas = Vec::new();
    for role in QUEUES {
        let (size, [desc, driver, device]) = guest.device.rings(role);
        let size = u64::from(size);
        assert!(desc.is_multiple_of(16) && driver.is_multiple_of(2) && device.is_multiple_of(4), "{role:?}");
        areas.extend([(desc, 16 * size), (driver, 6 + 2 * size), (device, 6 + 8 * size)]);
    }
    areas.sort_unstable();
    assert!(areas.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{areas:x?}");
    assert!(areas[0].0 > 0 && areas.iter().all(|area| area.0 + area.1 <= guest.ram.bytes()));
}

/// What the tester looks for at each exit: the index takes no step of more than the queue's size and none back, no more descriptors are out than
/// there are, chains stay in the table and do not meet themselves, readable descriptors come first, lengths stay below 2^32.
#[test]
fn g5_the_available_ring_keeps_its_rules_whatever_the_driver_does() {
    assert_eq!(breaches(&busy(), "G5"), []);
}

#[test]
fn g5_avail_idx_only_grows_and_wraps_at_2_to_the_16() {
    let mut guest = Guest::up(Options { sizes: [2; 5], ..Options::offering(feature::STATS_VQ) });
    for _ in 0..(1 << 16) + 3 {
        guest.use_one(Role::Stats);
        guest.run();
        guest.seen.clear();
    }
    let (_, [_, driver, _]) = guest.device.rings(Role::Stats);
    assert_eq!(guest.ram.read_u32(driver) >> 16, 4);
    assert_eq!(breaches(&guest, "G5"), []);
}

#[test]
fn g5_no_more_than_the_queue_holds_is_outstanding() {
    let mut guest = Guest::up(Options { sizes: [128, 128, 128, 8, 32], ..Options::default() }.holding(Role::Hint));
    guest.change(config::FREE_PAGE_HINT_CMD_ID, 2);
    guest.run_exits(50_000);
    assert!(guest.device.exposed(Role::Hint).len() >= 4);
    guest.command(3);
    assert!(guest.device.exposed(Role::Hint).len() <= 8);
    assert_eq!(breaches(&guest, "G5"), []);
}

#[test]
fn g6_a_descriptor_and_its_ring_entry_stand_before_the_index_is_raised() {
    // A device that keeps its buffers sees another head each time.
    let mut guest = Guest::up(Options::default().holding(Role::Hint));
    guest.trap_ring(Role::Hint);
    guest.trap_ring(Role::Inflate);
    guest.target(300);
    guest.command(2);
    for role in [Role::Hint, Role::Inflate] {
        let raised: Vec<(u16, Buffer)> = guest
            .seen
            .iter()
            .filter_map(|seen| match seen {
                Seen::Raising { role: of, head, buffer } if *of == role => Some((*head, *buffer)),
                _ => None,
            })
            .collect();
        let exposed: Vec<(u16, Buffer)> = guest.chains(role).iter().map(|chain| (chain.head, chain.buffers[0])).collect();
        assert!(exposed.len() >= 2);
        assert_eq!(raised, exposed, "{role:?}");
    }
    // Nor is anything put right behind the index.
    assert_eq!(guest.device.breaches, []);
}

#[test]
fn g6_a_used_element_counts_only_once_the_used_index_covers_it() {
    let mut guest = Guest::up(Options::default().holding(Role::Inflate));
    guest.target(10);
    let (_, [_, _, device]) = guest.device.rings(Role::Inflate);
    let head = guest.device.exposed(Role::Inflate)[0].head;
    guest.ram.write(device + vring::USED_RING, &u32::from(head).to_le_bytes());
    guest.device.raise(1);
    guest.run();
    assert_eq!(guest.device.config[1], 0, "the driver still waits");
    guest.release(Role::Inflate);
    assert_eq!(guest.device.config[1], 10);
}

#[test]
fn g6_a_used_element_that_names_no_buffer_is_not_believed() {
    for head in [77, 128, u32::MAX] {
        let mut guest = Guest::up(Options::default().holding(Role::Hint));
        guest.command(2);
        guest.device.put_used(Role::Hint, head, &guest.ram);
        guest.seen.clear();
        guest.command(3);
        assert!(guest.warnings().iter().any(|warning| warning.starts_with("virtio: id")), "{:?}", guest.warnings());
        assert!(guest.chains(Role::Hint).is_empty(), "the queue is given up");
    }
}

#[test]
fn g7_no_buffer_but_the_start_id_is_altered_while_it_is_exposed() {
    let found = breaches(&busy(), "G7");
    assert!(found.iter().all(|breach| breach.role == Role::Hint && breach.what.starts_with("bytes of head")), "{found:?}");
}

#[test]
fn g7_no_descriptor_is_altered_while_it_is_exposed() {
    let found = breaches(&busy(), "G7");
    assert!(!found.iter().any(|breach| breach.what.starts_with("descriptor") || breach.what.starts_with("the available")), "{found:?}");
}

#[test]
fn g7_the_start_id_is_altered_while_it_is_exposed() {
    known_violation("G7", "docs/findings/start-buffer-rewritten.md", "[2, 0, 0, 0] to [3, 0, 0, 0]", || {
        let mut guest = Guest::up(Options::default().holding(Role::Hint));
        guest.command(2);
        guest.command(3);
        let found = breaches(&guest, "G7");
        ensure(found.is_empty(), || format!("{found:?}"))
    });
}

#[test]
fn g8_a_device_that_wants_no_notification_gets_none() {
    let mut guest = Guest::up(Options::default().holding(Role::Inflate));
    guest.device.want_no_notifications(Role::Inflate, true, &guest.ram);
    guest.target(10);
    assert_eq!(guest.chains(Role::Inflate).len(), 1);
    assert!(guest.writes(mmio::QUEUE_NOTIFY).is_empty());
    guest.release(Role::Inflate);
    guest.device.want_no_notifications(Role::Inflate, false, &guest.ram);
    guest.target(20);
    assert_eq!(guest.writes(mmio::QUEUE_NOTIFY).iter().map(|write| write.1).collect::<Vec<_>>(), [0]);
}

#[test]
fn g8_a_queue_whose_used_buffers_are_only_polled_asks_for_no_interrupts() {
    let guest = Guest::up(all());
    for role in QUEUES {
        let flags = guest.ram.read_u32(guest.device.rings(role).1[1]) & 0xffff;
        let expected = if role == Role::Hint { u32::from(vring::AVAIL_F_NO_INTERRUPT) } else { 0 };
        assert_eq!(flags, expected, "{role:?}");
    }
}

#[test]
fn g8_interrupts_that_were_not_wanted_do_no_harm() {
    let mut guest = Guest::up(Options::default().holding(Role::Inflate));
    guest.target(10);
    for cause in [0, 1, 2, 3, 1] {
        guest.device.raise(cause);
        guest.command(2 + cause);
    }
    assert_eq!(guest.device.config[1], 0, "the driver still waits for its buffer");
    guest.release(Role::Inflate);
    assert_eq!(guest.device.config[1], 10);
}

#[test]
fn g10_a_driver_starts_anew_behind_a_reset() {
    let mut guest = busy();
    let before: Vec<_> = QUEUES.iter().map(|role| guest.device.rings(*role)).collect();
    guest.seen.clear();
    assert!(guest.task(op::UNBIND, 0, 0, 0));
    let reset = guest.writes(mmio::STATUS)[0];
    assert_eq!(reset.1, 0);
    assert!(guest.writes(mmio::QUEUE_NOTIFY).iter().all(|notify| notify.0 < reset.0), "a notification behind the reset");
    // What the device leaves in the old rings means nothing to the next driver.
    for (_, [_, _, device]) in &before {
        guest.ram.write(*device, &[0xff; 4]);
    }
    guest.device.config[0] = 0;
    assert!(guest.task(op::BIND, 0, 0, 0));
    guest.seen.clear();
    guest.device.options.holds = QUEUES.to_vec();
    guest.target(10);
    for role in [Role::Inflate, Role::Stats] {
        let (_, [_, driver, device]) = guest.device.rings(role);
        assert_eq!(guest.ram.read_u32(driver) >> 16, 1, "{role:?}: the available index counts from 0");
        assert_eq!(guest.ram.read_u32(device) >> 16, 0, "{role:?}: the used ring is empty");
    }
    assert!(guest.said_all(debug::WARN).is_empty());
}
