//! The driver against a device that answers at once.

mod ack;
mod compaction;

use std::cell::RefCell;
use std::rc::Rc;

use wire::balloon::{CMD_ID_DONE, CMD_ID_MIN, CMD_ID_STOP, config, feature, stat};
use wire::debug;
use wire::layout::KernelInfo;
use wire::platform::{KERNEL_INFO, boot_flag, vector};
use wire::virtio::mmio as reg;
use wire::virtio::{feature as transport, isr, status};

use crate::arch;
use crate::balloon::driver::{VIRTIO_BALLOON_DRIVER, VirtioBalloon};
use crate::balloon::hinting::{self, HINT_BLOCK_BYTES};
use crate::kernel::irq;
use crate::kernel::workqueue::{Workqueue, process_one_work};
use crate::mm::pcp::drain_all_pages;
use crate::mm::stats::si_meminfo;
use crate::mm::{Gfp, alloc_pages, free_pages, oom, shrinker};
use crate::virtio::Errno;
use crate::virtio::bus;
use crate::virtio::device::{VirtioDevice, virtio_config_changed};
use crate::virtio::ring::Virtqueue;
use crate::virtio::testing::{ACKNOWLEDGED, Device, change_config, machine};

const RAM_BYTES: u64 = 32 << 20;
const ALL: u64 = feature::MUST_TELL_HOST | feature::STATS_VQ | feature::FREE_PAGE_HINT;
const STATS_VQ: u32 = 2;
const FREE_PAGE_VQ: u32 = 3;
const REPORTING_VQ: u32 = 4;
const ROUND: u32 = CMD_ID_MIN + 1;

fn probed(features: u64, flags: u64) -> (Rc<RefCell<Device>>, VirtioBalloon) {
    let device = machine(RAM_BYTES, features, flags);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    (device, VirtioBalloon::at(VirtioDevice::the().private().get()))
}

fn run_works() {
    while process_one_work(Workqueue::Balloon) || process_one_work(Workqueue::SystemFreezable) {}
}

fn statuses(device: &Rc<RefCell<Device>>) -> Vec<u32> {
    device.borrow().writes.iter().filter(|write| write.0 == reg::STATUS).map(|write| write.1).collect()
}

fn free_pages_now() -> u64 {
    drain_all_pages();
    si_meminfo().freeram
}

/// Frames of a tracepoint, in order.
fn traced(code: u32) -> Vec<u64> {
    arch::take_traces().into_iter().filter(|trace| trace.0 == code).map(|trace| trace.1).collect()
}

/// A hint round that ended, its hints still to be used when `lazy`.
fn hinted(lazy: bool) -> (Rc<RefCell<Device>>, VirtioBalloon) {
    let (device, vb) = probed(ALL, 0);
    if lazy {
        device.borrow_mut().lazy.push(FREE_PAGE_VQ);
    }
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND);
    run_works();
    (device, vb)
}

#[test]
fn probe_walks_the_status_bits_and_kicks_statistics_before_driver_ok() {
    let (device, _) = probed(ALL, 0);
    assert_eq!(statuses(&device), [0, 1, 3, 11, 15]);
    let writes = &device.borrow().writes;
    let kick = writes.iter().position(|write| *write == (reg::QUEUE_NOTIFY, STATS_VQ)).expect("a kick");
    let ready = writes.iter().position(|write| *write == (reg::STATUS, 15)).expect("DRIVER_OK");
    assert!(kick < ready);
}

#[test]
fn transport_features_are_taken_and_given_up_again() {
    let offered = ALL | transport::RING_INDIRECT_DESC | transport::RING_EVENT_IDX | transport::ACCESS_PLATFORM;
    let (device, vb) = probed(offered, 0);
    let low: Vec<u32> =
        device.borrow().writes.iter().filter(|write| write.0 == reg::DRIVER_FEATURES).map(|write| write.1).step_by(2).collect();
    let high: Vec<u32> =
        device.borrow().writes.iter().filter(|write| write.0 == reg::DRIVER_FEATURES).map(|write| write.1).skip(1).step_by(2).collect();
    assert_eq!(low, [3, 1], "the high words: VERSION_1, first with ACCESS_PLATFORM");
    assert_eq!(high, [(ALL | transport::RING_INDIRECT_DESC) as u32, ALL as u32]);
    assert_eq!(vb.device().features().get(), ALL | transport::VERSION_1);
}

#[test]
fn poison_and_reporting_fit_together() {
    let both = ALL | feature::PAGE_POISON | feature::PAGE_REPORTING;
    let negotiated = |offered, flags| probed(offered, flags).1.device().features().get() & both & !ALL;
    assert_eq!(negotiated(both, 0), feature::PAGE_REPORTING, "nothing is promised of free pages");
    assert_eq!(negotiated(both, boot_flag::PAGE_POISON), feature::PAGE_POISON | feature::PAGE_REPORTING);
    assert_eq!(negotiated(both & !feature::PAGE_POISON, boot_flag::PAGE_POISON), 0, "the device would not keep the poison");
}

#[test]
fn poison_value_is_what_freed_pages_hold() {
    let poison_val = |flags| probed(ALL | feature::PAGE_POISON, flags).0.borrow().config[3];
    assert_eq!(poison_val(boot_flag::PAGE_POISON), 0xaaaa_aaaa);
    let (device, _) = probed(ALL | feature::PAGE_POISON, boot_flag::INIT_ON_FREE);
    assert!(device.borrow().writes.contains(&(reg::CONFIG + config::POISON_VAL, 0)));
}

#[test]
fn queues_are_numbered_without_gaps() {
    let (device, _) = probed(feature::FREE_PAGE_HINT, 0);
    assert_eq!(device.borrow().live_queues(), [0, 1, 2]);
}

#[test]
fn a_missing_queue_fails_the_probe_and_returns_its_memory() {
    let device = machine(RAM_BYTES, feature::STATS_VQ, 0);
    device.borrow_mut().features |= feature::FREE_PAGE_HINT;
    let free = free_pages_now();
    assert!(bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).is_err());
    assert_eq!(free_pages_now(), free);
    assert_eq!(device.borrow().status & status::FAILED, status::FAILED);
    assert!(device.borrow().live_queues().is_empty());
}

#[test]
fn statistics_are_ten_byte_records_in_the_order_of_6_12() {
    let (device, vb) = probed(ALL, 0);
    let sent = device.borrow_mut().drain_taken(STATS_VQ);
    assert_eq!(sent.len(), 1);
    let bytes = &sent[0].bytes;
    let records: Vec<(u16, u64)> = bytes
        .chunks_exact(stat::RECORD_BYTES)
        .map(|record| (u16::from_le_bytes([record[0], record[1]]), u64::from_le_bytes(record[2..].try_into().expect("8 bytes"))))
        .collect();
    let tags: Vec<u16> = records.iter().map(|record| record.0).collect();
    assert_eq!(tags, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7]);
    let info = si_meminfo();
    assert_eq!(records[11].1, info.totalram << 12);
    assert!(records[10].1 > 0 && records[10].1 <= info.totalram << 12);
    // The device has used the buffer at once: that is its question for fresh ones.
    assert_eq!(vb.device().config_core_enabled().get(), 1);
    irq::raise_for_test(vector::VIRTIO);
    device.borrow_mut().lazy.push(STATS_VQ);
    run_works();
    assert_eq!(device.borrow_mut().drain_taken(STATS_VQ).len(), 1);
    run_works();
    assert_eq!(device.borrow_mut().drain_taken(STATS_VQ).len(), 0, "at most one buffer is out");
}

#[test]
fn inflating_and_deflating_follow_the_target_and_conserve_pages() {
    let (device, vb) = probed(ALL, 0);
    let (free, total) = (free_pages_now(), si_meminfo().totalram);
    arch::take_traces();
    change_config(&device, config::NUM_PAGES, 600);
    run_works();
    assert_eq!((vb.num_pages().get(), device.borrow().config[1]), (600, 600));
    assert_eq!((free_pages_now(), si_meminfo().totalram), (free - 600, total - 600));
    let told = traced(debug::INFLATE);
    let sizes: Vec<usize> = device.borrow_mut().drain_taken(0).iter().map(|chain| chain.bytes.len()).collect();
    assert_eq!(sizes, [1024, 1024, 352]);
    change_config(&device, config::NUM_PAGES, 0);
    run_works();
    assert_eq!((vb.num_pages().get(), device.borrow().config[1]), (0, 0));
    assert_eq!((free_pages_now(), si_meminfo().totalram), (free, total));
    let mut back = traced(debug::DEFLATE);
    back.sort_unstable();
    let mut told_sorted = told.clone();
    told_sorted.sort_unstable();
    assert_eq!(back, told_sorted, "every page told comes back once");
    told_sorted.dedup();
    assert_eq!(told_sorted.len(), 600);
}

#[test]
fn told_pages_are_those_of_the_buffer() {
    let (device, _) = probed(ALL, 0);
    arch::take_traces();
    change_config(&device, config::NUM_PAGES, 5);
    run_works();
    let told = traced(debug::INFLATE);
    let chains = device.borrow_mut().drain_taken(0);
    let pfns: Vec<u64> = chains[0].bytes.chunks_exact(4).map(|pfn| u32::from_le_bytes(pfn.try_into().expect("4 bytes")).into()).collect();
    assert_eq!(pfns, told);
}

#[test]
fn a_hint_round_is_start_hints_stop() {
    let (device, vb) = hinted(false);
    let round = device.borrow_mut().drain_taken(FREE_PAGE_VQ);
    assert_eq!(round.first().map(|chain| chain.bytes.clone()), Some(ROUND.to_le_bytes().to_vec()));
    assert_eq!(round.last().map(|chain| chain.bytes.clone()), Some(CMD_ID_STOP.to_le_bytes().to_vec()));
    let hints = &round[1..round.len() - 1];
    assert!(hints.len() >= 3, "{} blocks of 4 MiB in 32 MiB", hints.len());
    assert!(hints.iter().all(|chain| chain.buffers[0].1 == HINT_BLOCK_BYTES && chain.buffers[0].2 == 2));
    assert_eq!(vb.num_free_page_blocks().get(), hints.len() as u64);
    let hinted: Vec<u64> = hints.iter().map(|chain| chain.buffers[0].0 >> 12).collect();
    assert_eq!(traced(debug::HINT), hinted);
}

/// The tracepoints of these codes, in order, each with its first argument.
fn traced_in_order(codes: &[u32]) -> Vec<(u32, u64)> {
    arch::take_traces().into_iter().map(|trace| (trace.0, trace.1)).filter(|trace| codes.contains(&trace.0)).collect()
}

#[test]
fn a_block_is_exposed_and_kicked_before_the_shrinker_can_find_it() {
    let (_device, _) = probed(ALL, 0);
    arch::take_traces();
    let vb = VirtioBalloon::at(VirtioDevice::the().private().get());
    hinting::get_free_page_and_send(vb, Gfp::FREE_PAGE_HINT).expect("a block");
    let order = traced_in_order(&[debug::HINT, debug::VQ_ADD, debug::KICK, debug::LOCK]);
    let codes: Vec<u32> = order.iter().map(|trace| trace.0).collect();
    assert_eq!(codes[codes.len() - 4..], [debug::HINT, debug::VQ_ADD, debug::KICK, debug::LOCK]);
    assert_eq!(order.last(), Some(&(debug::LOCK, debug::lock::FREE_PAGE_LIST)));
}

#[test]
fn a_page_is_freed_only_after_the_device_has_answered() {
    let (device, _) = probed(ALL, 0);
    change_config(&device, config::NUM_PAGES, 1);
    run_works();
    arch::take_traces();
    change_config(&device, config::NUM_PAGES, 0);
    run_works();
    let order = traced_in_order(&[debug::DEFLATE, debug::VQ_ADD, debug::VQ_GET, debug::FREE, debug::ACTUAL]);
    let codes: Vec<u32> = order.iter().map(|trace| trace.0).collect();
    assert_eq!(codes[..5], [debug::DEFLATE, debug::VQ_ADD, debug::VQ_GET, debug::FREE, debug::ACTUAL]);
}

#[test]
fn a_new_round_rewrites_the_start_id_that_an_old_round_still_exposes() {
    let (device, _) = hinted(true);
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND + 1);
    run_works();
    let first = &device.borrow_mut().drain_taken(FREE_PAGE_VQ)[0];
    let (addr, len, _) = first.buffers[0];
    assert_eq!((first.bytes.as_slice(), len), (ROUND.to_le_bytes().as_slice(), 4), "what the device saw at the kick");
    assert_eq!(arch::read32(addr), ROUND + 1, "what a slower device will see in the same buffer");
}

#[test]
fn an_interrupt_without_a_new_id_starts_no_round() {
    let (device, _) = hinted(false);
    device.borrow_mut().taken.clear();
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND);
    arch::take_traces();
    run_works();
    assert!(traced(debug::WORK_BEGIN).contains(&debug::work::REPORT_FREE_PAGE), "the work runs all the same");
    assert!(device.borrow_mut().drain_taken(FREE_PAGE_VQ).is_empty());
}

#[test]
fn an_id_that_changes_during_a_round_ends_it_before_the_next_block() {
    let (device, vb) = probed(ALL, 0);
    vb.cmd_id_active().set(ROUND);
    vb.cmd_id_received_cache().set(ROUND);
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, CMD_ID_STOP);
    hinting::send_free_pages(vb).expect("nothing to fail");
    assert_eq!(vb.num_free_page_blocks().get(), 0);
}

#[test]
fn the_id_is_latched_until_an_interrupt_says_that_it_changed() {
    let (device, vb) = probed(ALL, 0);
    vb.cmd_id_active().set(ROUND);
    vb.cmd_id_received_cache().set(ROUND);
    // As QEMU does once it has the start id: the field reads STOP, and no interrupt says so.
    device.borrow_mut().config[2] = CMD_ID_STOP;
    hinting::send_free_pages(vb).expect("nothing to fail");
    assert!(vb.num_free_page_blocks().get() > 0);
}

#[test]
fn done_returns_every_block() {
    let (device, vb) = probed(ALL, 0);
    let free = free_pages_now();
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND);
    run_works();
    let blocks = vb.num_free_page_blocks().get();
    assert_eq!(free_pages_now(), free - blocks * 1024);
    arch::take_traces();
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, CMD_ID_DONE);
    run_works();
    assert_eq!(traced(debug::HINT_RETURN).len() as u64, blocks);
    assert_eq!((vb.num_free_page_blocks().get(), free_pages_now()), (0, free));
}

#[test]
fn the_last_entry_is_kept_for_the_stop_id() {
    let device = machine(RAM_BYTES, ALL, 0);
    device.borrow_mut().sizes[FREE_PAGE_VQ as usize] = 4;
    device.borrow_mut().lazy.push(FREE_PAGE_VQ);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    let vb = VirtioBalloon::at(VirtioDevice::the().private().get());
    let free = free_pages_now();
    for _ in 0..5 {
        hinting::get_free_page_and_send(vb, Gfp::FREE_PAGE_HINT).expect("a block");
    }
    assert_eq!((vb.num_free_page_blocks().get(), free_pages_now()), (3, free - 3 * 1024));
    assert_eq!(device.borrow_mut().drain_taken(FREE_PAGE_VQ).len(), 3);
    assert_eq!(Virtqueue::at(vb.free_page_vq().get()).num_free().get(), 1);
}

#[test]
fn a_hint_queue_of_one_entry_fails_the_probe() {
    let device = machine(RAM_BYTES, ALL, 0);
    device.borrow_mut().sizes[FREE_PAGE_VQ as usize] = 1;
    assert_eq!(bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0), Err(Errno::NoSpc));
    assert!(device.borrow().live_queues().is_empty());
}

#[test]
fn a_report_queue_that_is_too_small_fails_the_probe_and_leaves_nothing_registered() {
    let device = machine(RAM_BYTES, ALL | feature::DEFLATE_ON_OOM | feature::PAGE_REPORTING, 0);
    device.borrow_mut().sizes[FREE_PAGE_VQ as usize + 1] = 16;
    let free = free_pages_now();
    assert_eq!(bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0), Err(Errno::NoSpc));
    assert_eq!((free_pages_now(), shrinker::shrink_pages(1), oom::out_of_memory()), (free, 0, 0));
    assert!(traced(debug::SHRINK).is_empty());
}

#[test]
fn free_blocks_are_reported_after_two_seconds_and_stay_free() {
    // A zone with less than a batch of pageblocks to spare is not reported at all.
    let device = machine(256 << 20, ALL | feature::PAGE_REPORTING, 0);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    let free = free_pages_now();
    device.borrow_mut().now_ns = 3_000_000_000;
    arch::take_traces();
    irq::raise_for_test(vector::TIMER);
    run_works();
    let reports = device.borrow_mut().drain_taken(REPORTING_VQ);
    let blocks: Vec<u64> = reports.iter().flat_map(|chain| &chain.buffers).map(|buffer| buffer.0 >> 12).collect();
    assert!(blocks.len() > 3, "{} blocks", blocks.len());
    assert!(reports.iter().flat_map(|chain| &chain.buffers).all(|buffer| buffer.1 >= 2 << 20 && buffer.2 & 2 == 2));
    assert_eq!(traced(debug::REPORT), blocks);
    assert_eq!(free_pages_now(), free);
    bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
    // The blocks that came free with the driver's memory are nobody's news any more.
    device.borrow_mut().now_ns = 9_000_000_000;
    irq::raise_for_test(vector::TIMER);
    run_works();
    assert!(device.borrow_mut().drain_taken(REPORTING_VQ).is_empty());
}

#[test]
fn the_shrinker_takes_blocks_whatever_the_device_has_used() {
    let (device, vb) = hinted(true);
    let blocks = vb.num_free_page_blocks().get();
    arch::take_traces();
    assert_eq!(shrinker::shrink_pages(1025), 2048);
    assert_eq!(vb.num_free_page_blocks().get(), blocks - 2);
    let reclaimed = traced(debug::HINT_RECLAIM);
    let exposed: Vec<u64> = device.borrow_mut().drain_taken(FREE_PAGE_VQ).iter().map(|chain| chain.buffers[0].0 >> 12).collect();
    assert!(reclaimed.iter().all(|block| exposed.contains(block)), "their descriptors are still out");
    // The last hinted goes first.
    assert_eq!(reclaimed[0], exposed[exposed.len() - 2]);
}

#[test]
fn user_memory_comes_from_hinted_blocks_under_pressure() {
    let (_device, vb) = hinted(true);
    let before = vb.num_free_page_blocks().get();
    let mut held = Vec::new();
    while vb.num_free_page_blocks().get() == before {
        held.push(alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("the shrinker has blocks"));
    }
    assert!(vb.num_free_page_blocks().get() < before);
    held.into_iter().for_each(|pfn| free_pages(pfn, 0));
}

#[test]
fn out_of_memory_deflates_256_pages() {
    let (device, vb) = probed(ALL | feature::DEFLATE_ON_OOM, 0);
    let total = si_meminfo().totalram;
    change_config(&device, config::NUM_PAGES, 300);
    run_works();
    assert_eq!(si_meminfo().totalram, total, "the balloon's pages still count as managed");
    assert_eq!(oom::out_of_memory(), 256);
    assert_eq!((vb.num_pages().get(), device.borrow().config[1]), (44, 44));
}

#[test]
fn removing_gives_everything_back_and_binding_works_again() {
    let device = machine(RAM_BYTES, ALL | feature::DEFLATE_ON_OOM, 0);
    let free = free_pages_now();
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    change_config(&device, config::NUM_PAGES, 300);
    run_works();
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND);
    run_works();
    bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
    assert_eq!((free_pages_now(), device.borrow().config[1]), (free, 0));
    assert_eq!(device.borrow().status, status::ACKNOWLEDGE);
    assert!(device.borrow().live_queues().is_empty());
    assert_eq!(arch::read64(KERNEL_INFO + core::mem::offset_of!(KernelInfo, free_page_list) as u64), 0);
    assert!(bus::unbind(&VIRTIO_BALLOON_DRIVER).is_err());
    device.borrow_mut().config = [0; 4];
    bus::bind(&VIRTIO_BALLOON_DRIVER, 0).expect("unbound");
    assert_eq!(device.borrow().live_queues(), [0, 1, 2, 3]);
    let list = VirtioBalloon::at(VirtioDevice::the().private().get()).free_page_list().addr();
    assert_eq!(arch::read64(KERNEL_INFO + core::mem::offset_of!(KernelInfo, free_page_list) as u64), list);
}

#[test]
fn a_target_that_stood_before_the_probe_is_followed() {
    let device = machine(RAM_BYTES, ALL, 0);
    device.borrow_mut().config[0] = 10;
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    run_works();
    assert_eq!(device.borrow().config[1], 10);
}

#[test]
fn a_change_while_no_driver_listens_is_kept_for_the_next() {
    let (device, vb) = probed(ALL, 0);
    bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
    device.borrow_mut().config[2] = ROUND;
    virtio_config_changed(vb.device());
    bus::bind(&VIRTIO_BALLOON_DRIVER, 0).expect("unbound");
    run_works();
    assert!(VirtioBalloon::at(VirtioDevice::the().private().get()).num_free_page_blocks().get() > 0);
}

#[test]
fn the_interrupt_is_acknowledged_before_it_is_processed() {
    let (device, _) = probed(ALL, 0);
    arch::take_traces();
    change_config(&device, config::NUM_PAGES, 1);
    let traces = arch::take_traces();
    let acknowledged = traces.iter().position(|trace| trace.0 == ACKNOWLEDGED).expect("an acknowledgement");
    let config_lock = (debug::LOCK, debug::lock::CONFIG);
    let processed = traces.iter().position(|trace| (trace.0, trace.1) == config_lock).expect("the driver hears of it");
    assert!(acknowledged < processed);
    assert_eq!(traces[acknowledged].1 & u64::from(isr::CONFIG_CHANGE), u64::from(isr::CONFIG_CHANGE));
}

#[test]
fn a_refused_feature_is_not_accepted() {
    let device = machine(RAM_BYTES, ALL, 0);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, feature::FREE_PAGE_HINT).expect("probe");
    let vb = VirtioBalloon::at(VirtioDevice::the().private().get());
    assert_eq!(vb.device().features().get() & ALL, ALL & !feature::FREE_PAGE_HINT);
    assert_eq!(device.borrow().live_queues(), [0, 1, 2]);
}

#[test]
fn another_device_is_left_alone() {
    let device = machine(RAM_BYTES, ALL, 0);
    assert_eq!(bus::device_attach(1, &VIRTIO_BALLOON_DRIVER, 0), Err(Errno::NoDev));
    assert!(device.borrow().writes.is_empty());
}
