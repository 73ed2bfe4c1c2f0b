//! The request dialects against a device that answers at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use wire::balloon::request::{FLAG_CONT, FLAG_DONE, PACKED_LEN_BITS, PACKED_LEN_MASK, REQUEST_BYTES};
use wire::balloon::{config, feature, seed_feature};
use wire::dialect::Dialect;
use wire::platform::{BootInfo, vector};
use wire::switch::correct;
use wire::virtio::isr;

use super::*;
use crate::arch;
use crate::balloon::dialect::ranges::BALLOON_BMAP_SIZE;
use crate::kernel::irq;
use crate::kernel::workqueue::{Workqueue, process_one_work};
use crate::mm::pcp::drain_all_pages;
use crate::mm::stats::si_meminfo;
use crate::mm::{Gfp, Pfn, alloc_pages, free_pages};
use crate::virtio::bus;
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::{Chain, Device, change_config, machine_with};

const RAM_BYTES: u64 = 64 << 20;
const ALL: u64 = feature::STATS_VQ | seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ;
const INFLATE_VQ: u32 = 0;
const DEFLATE_VQ: u32 = 1;
const REQ_VQ: u32 = 3;

fn guest(dialect: Dialect, corrected: u64, features: u64) -> Rc<RefCell<Device>> {
    let boot = BootInfo { dialect: dialect.number(), corrected, ..crate::kernel::boot::test_boot_info(RAM_BYTES, 1) };
    let device = machine_with(&boot, features);
    device.borrow_mut().kept.push(REQ_VQ);
    device
}

fn probed(dialect: Dialect, corrected: u64) -> (Rc<RefCell<Device>>, VirtioBalloon) {
    let device = guest(dialect, corrected, ALL);
    bus::device_attach(wire::balloon::DEVICE_ID, driver(), 0).expect("probe");
    (device, VirtioBalloon::at(VirtioDevice::the().private().get()))
}

fn run_works() {
    while process_one_work(Workqueue::SystemFreezable) {}
}

/// Writes into the buffer that the driver has lent, and interrupts.
fn ask(device: &Rc<RefCell<Device>>, cmd: u16, id: u64, len: u32) {
    let lent = device.borrow_mut().drain_taken(REQ_VQ).pop().expect("a buffer for a request");
    let (addr, bytes, _) = lent.buffers[0];
    assert_eq!((lent.buffers.len(), u64::from(bytes)), (1, REQUEST_BYTES));
    arch::write16(addr, cmd);
    arch::write64(addr + 8, id);
    device.borrow_mut().push_used_len(REQ_VQ, lent.head, len);
    device.borrow_mut().isr |= isr::USED_BUFFER;
    irq::raise_for_test(vector::VIRTIO);
    run_works();
}

/// A response taken apart: flag, id, and words.
fn response(chain: &Chain, header_bytes: usize) -> (u8, u16, Vec<u64>) {
    let bytes = &chain.bytes;
    assert_eq!(bytes[0], 0, "the command that was given");
    let data_len = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize;
    assert_eq!(bytes.len(), header_bytes + data_len);
    let words = bytes[header_bytes..].chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    (bytes[1], u16::from_le_bytes([bytes[2], bytes[3]]), words.collect())
}

/// What has been answered since the last look, and whether a buffer for the next request is there.
fn answers(device: &Rc<RefCell<Device>>) -> (Vec<Chain>, bool) {
    let (lent, answers): (Vec<Chain>, Vec<Chain>) =
        device.borrow_mut().drain_taken(REQ_VQ).into_iter().partition(|chain| chain.bytes.is_empty());
    let reposted = !lent.is_empty();
    device.borrow_mut().taken.extend(lent);
    (answers, reposted)
}

fn told_pages(words: &[u64], v8: bool) -> u64 {
    match v8 {
        true => words.chunks_exact(2).map(|chunk| chunk[1] >> PACKED_LEN_BITS).sum(),
        false => words.iter().map(|word| word & PACKED_LEN_MASK).sum(),
    }
}

#[test]
fn a_request_is_answered_with_every_free_page_and_the_buffer_comes_back() {
    for (dialect, descriptors) in [(Dialect::V6, 2), (Dialect::V8, 1)] {
        for corrected in [0, correct::REQUEST_CONTEXT | correct::RESPONSE_STOLEN] {
            let (device, _) = probed(dialect, corrected);
            drain_all_pages();
            ask(&device, 0, 0x1_0001, REQUEST_BYTES as u32);
            let (answers, reposted) = answers(&device);
            assert!(reposted);
            assert_eq!(answers.len(), 1, "a guest that has just booted has few blocks");
            assert_eq!(answers[0].buffers.len(), descriptors);
            let (flag, id, words) = response(&answers[0], 8);
            assert_eq!((flag, id), (FLAG_DONE, 1), "16 bits of the id");
            assert_eq!(told_pages(&words, dialect == Dialect::V8), si_meminfo().freeram);
        }
    }
}

#[test]
fn the_whole_id_comes_back_once_that_is_corrected() {
    for dialect in [Dialect::V6, Dialect::V8] {
        let (device, _) = probed(dialect, correct::REQUEST_ID);
        ask(&device, 0, 0x1_0001, REQUEST_BYTES as u32);
        let answer = answers(&device).0.pop().expect("an answer");
        assert_eq!(answer.bytes[8..16], 0x1_0001u64.to_le_bytes());
        assert_eq!(response(&answer, 16).0, FLAG_DONE);
    }
}

#[test]
fn a_request_that_is_not_understood_ends_the_channel_until_that_is_corrected() {
    for dialect in [Dialect::V6, Dialect::V8] {
        for (cmd, len) in [(0, 8), (7, REQUEST_BYTES as u32)] {
            for corrected in [0, correct::REQUEST_REPOST] {
                let (device, _) = probed(dialect, corrected);
                ask(&device, cmd, 1, len);
                let (answers, reposted) = answers(&device);
                assert!(answers.is_empty());
                assert_eq!(reposted, corrected != 0, "{dialect:?} command {cmd}, length {len}");
            }
        }
    }
}

/// Leaves every second page free, so that a list is longer than the buffer; how many.
fn in_pieces(pages: u64) {
    let held: Vec<Pfn> = (0..2 * pages).map(|_| alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory")).collect();
    held.iter().step_by(2).for_each(|&page| free_pages(page, 0));
    drain_all_pages();
}

#[test]
fn a_list_that_is_longer_than_the_buffer_makes_it_grow() {
    for (dialect, corrected) in [(Dialect::V6, 0), (Dialect::V8, correct::RECORD_PRECHECK | correct::RECORD_GROWTH)] {
        let (device, vb) = probed(dialect, corrected);
        in_pieces(5000);
        let free = si_meminfo().freeram;
        ask(&device, 0, 1, REQUEST_BYTES as u32);
        let answers = answers(&device).0;
        let parts: Vec<_> = answers.iter().map(|answer| response(answer, 8)).collect();
        assert_eq!(parts.iter().map(|part| part.0).collect::<Vec<_>>(), [FLAG_CONT, FLAG_DONE]);
        let grown = if dialect == Dialect::V8 { 4 } else { 2 };
        assert_eq!(vb.request().resp_buf_size().get(), grown * BALLOON_BMAP_SIZE);
        let told: u64 = parts.iter().map(|part| told_pages(&part.2, dialect == Dialect::V8)).sum();
        // The first part is told before the buffer takes its pages.
        assert!(told <= free && told >= free - 64, "{told} of {free}");
    }
}

#[test]
fn growth_leaves_the_header_behind_as_posted() {
    let (device, vb) = probed(Dialect::V8, correct::RECORD_PRECHECK);
    let before = vb.request().resp_hdr().get();
    in_pieces(5000);
    ask(&device, 0, 1, REQUEST_BYTES as u32);
    let rq = vb.request();
    assert_eq!(rq.resp_hdr().get(), before);
    assert_ne!(rq.resp_data().get(), before + 8);
    assert_eq!(crate::mm::Page::of(Pfn::of_addr(before)).refcount(), 0, "the header lies in freed memory");
}

#[test]
fn inflated_pages_are_told_as_ranges_and_come_back() {
    for dialect in [Dialect::V6, Dialect::V8] {
        let (device, vb) = probed(dialect, correct::RANGE_LENGTH);
        drain_all_pages();
        let free = si_meminfo().freeram;
        change_config(&device, config::NUM_PAGES, 5000);
        run_works();
        assert_eq!(vb.num_pages().get(), 5000);
        let told = |queue| -> u64 {
            let chains = device.borrow_mut().drain_taken(queue);
            chains.iter().map(|chain| range_pages(&response(chain, 8).2, dialect == Dialect::V8)).sum()
        };
        assert_eq!(told(INFLATE_VQ), 5000);
        change_config(&device, config::NUM_PAGES, 0);
        run_works();
        assert_eq!((vb.num_pages().get(), told(DEFLATE_VQ)), (0, 5000));
        drain_all_pages();
        assert_eq!(si_meminfo().freeram, free);
    }
}

fn range_pages(words: &[u64], v8: bool) -> u64 {
    if v8 {
        return told_pages(words, true);
    }
    let (mut at, mut pages) = (words.iter(), 0);
    while let Some(word) = at.next() {
        pages += if word & PACKED_LEN_MASK == 0 { *at.next().expect("a length of its own") } else { word & PACKED_LEN_MASK };
    }
    pages
}

#[test]
fn a_run_of_4096_pages_overflows_its_length_as_posted() {
    let words = |corrected| {
        let (device, _) = probed(Dialect::V6, corrected);
        change_config(&device, config::NUM_PAGES, 4096);
        run_works();
        let chains = device.borrow_mut().drain_taken(INFLATE_VQ);
        response(&chains[0], 8).2
    };
    let (posted, mended) = (words(0), words(correct::RANGE_LENGTH));
    assert_eq!((posted.len(), posted[0] & PACKED_LEN_MASK), (1, 0), "the length spills into the frame");
    assert_eq!(mended[1], 4096);
    assert_eq!(posted[0] >> PACKED_LEN_BITS, mended[0] >> PACKED_LEN_BITS | 1);
}

#[test]
fn a_last_page_at_a_multiple_of_64_is_never_told() {
    let (device, vb) = probed(Dialect::V6, 0);
    let mut held = Vec::new();
    // Until the next page that the allocator gives has such a frame.
    let page = loop {
        let page = alloc_pages(Gfp::BALLOON, 0).expect("memory");
        if page.0.is_multiple_of(64) {
            break page;
        }
        held.push(page);
    };
    free_pages(page, 0);
    change_config(&device, config::NUM_PAGES, 1);
    run_works();
    assert_eq!(vb.num_pages().get(), 1);
    assert_eq!(device.borrow_mut().drain_taken(INFLATE_VQ).len(), 0);
}

#[test]
fn features_that_need_statistics_are_cleared_late_as_posted() {
    let depend = seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ;
    for (corrected, told) in [(0, depend), (correct::LATE_CLEARING, 0)] {
        let device = guest(Dialect::V6, corrected, ALL);
        bus::device_attach(wire::balloon::DEVICE_ID, driver(), feature::STATS_VQ).expect("probe");
        let accepted =
            device.borrow().writes.iter().filter(|write| write.0 == wire::virtio::mmio::DRIVER_FEATURES).map(|write| write.1).next_back();
        assert_eq!(u64::from(accepted.expect("features")) & depend, told);
        assert!(!VirtioDevice::the().has_feature(depend));
        assert_eq!(device.borrow().live_queues().len(), if corrected == 0 { 4 } else { 2 });
    }
}

#[test]
fn removal_gives_all_back_but_what_v6_forgets() {
    for (dialect, forgotten) in [(Dialect::V6, BALLOON_BMAP_SIZE >> wire::platform::PAGE_SHIFT), (Dialect::V8, 0)] {
        let device = guest(dialect, 0, ALL);
        drain_all_pages();
        let free = si_meminfo().freeram;
        bus::device_attach(wire::balloon::DEVICE_ID, driver(), 0).expect("probe");
        ask(&device, 0, 1, REQUEST_BYTES as u32);
        bus::unbind(driver()).expect("removal");
        drain_all_pages();
        assert_eq!(si_meminfo().freeram, free - forgotten);
    }
}
