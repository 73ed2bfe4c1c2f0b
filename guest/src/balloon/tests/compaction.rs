//! Pages of the balloon move: what the device is told, and the driver of 2012.

use core::mem::offset_of;

use wire::dialect::Dialect;
use wire::platform::{BOOT_INFO, BootInfo};
use wire::switch::correct;

use super::*;
use crate::balloon::balloon_2012;
use crate::kernel::list;
use crate::mm::balloon_2012::isolate_page;
use crate::mm::compaction::compact_nodes;
use crate::mm::{Page, Pfn};

/// A driver of the given dialect, with corrections, whose balloon has `pages` pages and user pages above them.
fn inflated(dialect: Dialect, corrected: u64, pages: u32) -> (Rc<RefCell<Device>>, VirtioBalloon) {
    let device = machine(16 << 20, ALL, 0);
    arch::write32(BOOT_INFO + offset_of!(BootInfo, dialect) as u64, dialect.number());
    arch::write64(BOOT_INFO + offset_of!(BootInfo, corrected) as u64, corrected);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    change_config(&device, config::NUM_PAGES, pages);
    run_works();
    for _ in 0..900 {
        alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory");
    }
    drain_all_pages();
    device.borrow_mut().taken.clear();
    arch::take_traces();
    (device, VirtioBalloon::at(VirtioDevice::the().private().get()))
}

fn balloon(vb: VirtioBalloon) -> Vec<Pfn> {
    list::iter(vb.dev_info().pages()).map(|node| Page::of_lru(node).pfn()).collect()
}

/// Queue and frames of every buffer told, in order.
fn told(device: &Rc<RefCell<Device>>) -> Vec<(u32, Vec<u64>)> {
    let pfns = |bytes: &[u8]| bytes.chunks_exact(4).map(|pfn| u32::from_le_bytes(pfn.try_into().expect("4 bytes")).into()).collect();
    device.borrow().taken.iter().map(|chain| (chain.queue, pfns(&chain.bytes))).collect()
}

#[test]
fn the_device_has_the_new_page_before_it_gives_the_old_one_back() {
    for dialect in [Dialect::Hint, Dialect::Balloon2012] {
        let (device, vb) = inflated(dialect, 0, 40);
        let before = balloon(vb);
        compact_nodes();
        let after = balloon(vb);
        let told = told(&device);
        assert_eq!((after.len(), vb.num_pages().get(), told.len()), (40, 40, 80));
        for pair in told.chunks(2) {
            let [(0, new), (1, old)] = pair else { panic!("{pair:x?}") };
            assert!(after.contains(&Pfn(new[0])) && before.contains(&Pfn(old[0])));
            assert_eq!((new.len(), old.len(), Page::of(Pfn(old[0])).refcount()), (1, 1, 0));
        }
    }
}

#[test]
fn a_driver_at_work_lets_compaction_wait_for_another_time() {
    let (device, vb) = inflated(Dialect::Hint, 0, 8);
    let sorted = || {
        let mut pages = balloon(vb);
        pages.sort_unstable();
        pages
    };
    let before = sorted();
    assert!(vb.balloon_mutex().try_lock());
    compact_nodes();
    vb.balloon_mutex().unlock();
    assert!(told(&device).is_empty());
    assert_eq!(sorted(), before);
    assert_eq!(vb.dev_info().isolated_pages(), 0);
    compact_nodes();
    assert_eq!(told(&device).len(), 16);
}

#[test]
fn a_page_that_changes_zones_changes_the_books() {
    let device = machine(32 << 20, ALL, 0);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    let managed = || crate::mm::zone::Zone::all().map(|zone| zone.managed_pages()).collect::<Vec<u64>>();
    let at_boot = managed();
    let mut users = Vec::new();
    while users.last().is_none_or(|page: &Pfn| page.0 >= 4096) {
        users.push(alloc_pages(Gfp::HIGHUSER_MOVABLE, 0).expect("memory"));
    }
    change_config(&device, config::NUM_PAGES, 10);
    run_works();
    assert_eq!(managed(), [at_boot[0] - 10, at_boot[1]]);
    users.into_iter().for_each(|page| free_pages(page, 0));
    assert!(crate::mm::compaction::evacuate_lowest_zone());
    assert_eq!(managed(), [at_boot[0], at_boot[1] - 10]);
    change_config(&device, config::NUM_PAGES, 0);
    run_works();
    assert_eq!(managed(), at_boot);
}

/// A second device of the same driver, as far as its balloon goes. The machine has one device; two are two of these structures.
fn second_balloon() -> VirtioBalloon {
    let page = alloc_pages(Gfp::KERNEL | Gfp::ZERO, 0).expect("memory");
    let vb = VirtioBalloon::at(page.addr());
    vb.dev_info().init();
    balloon_2012::probe(vb).expect("memory");
    vb
}

#[test]
fn with_one_mapping_a_second_balloon_disowns_the_first() {
    let (_device, first) = inflated(Dialect::Balloon2012, 0, 8);
    second_balloon();
    assert!(balloon(first).iter().all(|&page| !isolate_page(Page::of(page))), "its pages are no balloon's any more");
}

#[test]
#[should_panic(expected = "is freed twice")]
fn with_one_mapping_two_balloons_free_it_twice() {
    let (_device, first) = inflated(Dialect::Balloon2012, 0, 8);
    balloon_2012::remove(second_balloon());
    balloon_2012::remove(first);
}

#[test]
fn with_a_mapping_each_two_balloons_do_not_meet() {
    let (_device, first) = inflated(Dialect::Balloon2012, correct::ONE_MAPPING, 8);
    let second = second_balloon();
    assert!(balloon(first).into_iter().all(|page| isolate_page(Page::of(page))));
    assert!(balloon(second).is_empty());
    balloon_2012::remove(second);
    balloon_2012::remove(first);
}
