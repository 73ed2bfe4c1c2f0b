//! The driver of the 2012 balloon compaction: `driver = "balloon-2012"`. By the patches "virtio_balloon: handle concurrent accesses to
//! virtio_balloon struct elements" and "virtio_balloon: introduce migration primitives to balloon pages" (R. Aquini, v3, July 2012).
//!
//! One spin lock guards list and `pfns`, and is dropped before the host is told; there is no mutex. Hints, statistics and the rest are
//! those of the merged driver. Differs: whoever sleeps for want of pages drops the lock first.

use wire::balloon::ARRAY_PFNS_MAX;
use wire::debug::{DEFLATE, INFLATE};
use wire::switch::correct;

use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::list;
use crate::kernel::panic::warn;
use crate::kernel::switch::corrected;
use crate::kernel::timer::msleep;
use crate::kernel::wait::wait_event;
use crate::mm::balloon_2012::{AddressSpace, balloon_mapping, free_balloon_page, init_aops, set_balloon_mapping};
use crate::mm::balloon_compaction::balloon_page_alloc;
use crate::mm::migrate::rc;
use crate::mm::{self, Gfp, Page, Pfn, adjust_managed_page_count};
use crate::virtio::Errno;
use crate::virtio::ring::{Scatter, Virtqueue};

/// Makes the global mapping the device's. By the patch: virtballoon_probe().
pub(super) fn probe(vb: VirtioBalloon) -> Result<(), Errno> {
    let page = mm::alloc_pages(Gfp::KERNEL, 0).ok_or(Errno::NoMem)?;
    let mapping = AddressSpace::at(page.addr());
    mapping.init(vb.addr());
    init_aops(virtballoon_isolatepage, virtballoon_migratepage, virtballoon_putbackpage);
    vb.balloon_mapping().set(mapping.addr());
    set_balloon_mapping(mapping);
    Ok(())
}

/// Frees the global mapping, whosever it is; as posted it stays what it was. By the patch: virtballoon_remove().
pub(super) fn remove(vb: VirtioBalloon) {
    if corrected(correct::ONE_MAPPING) {
        mm::free_pages(Pfn::of_addr(vb.balloon_mapping().get()), 0);
        return;
    }
    mm::free_pages(Pfn::of_addr(balloon_mapping().addr()), 0);
    if corrected(correct::MAPPING_NULL) {
        set_balloon_mapping(AddressSpace::at(0));
    }
}

/// The device that a mapping is of.
fn device_of(mapping: u64) -> VirtioBalloon {
    VirtioBalloon::at(AddressSpace::at(mapping).backing_dev_info())
}

/// The mapping that the device gives to its pages.
fn mapping_of(vb: VirtioBalloon) -> u64 {
    if corrected(correct::ONE_MAPPING) { vb.balloon_mapping().get() } else { balloon_mapping().addr() }
}

/// Runs `body` alone: under the mutex that later versions have. As posted, whoever comes.
fn alone<T>(vb: VirtioBalloon, body: impl FnOnce() -> T) -> T {
    if !corrected(correct::PFNS_SHARED) {
        return body();
    }
    vb.balloon_mutex().lock();
    let result = body();
    vb.balloon_mutex().unlock();
    result
}

/// Exposes the first `num_pfns` of the array, whatever is in it by now, and waits for the device. By the patch: tell_host().
fn tell_host(vb: VirtioBalloon, vq: u64, num_pfns: u32, code: u32) {
    let vq = Virtqueue::at(vq);
    let sg = Scatter { addr: vb.pfns().addr(), len_bytes: 4 * num_pfns };
    let added = vq.add_outbuf(sg, vb.addr(), |_head| {
        for i in 0..num_pfns as usize {
            arch::trace(code, u64::from(vb.pfns().element(i).get()), 0);
        }
    });
    if added.is_err() {
        warn("tell_host: the queue takes no buffer");
        return;
    }
    vq.kick();
    wait_event(vb.acked_queue(), || vq.get_buf().is_some());
}

/// Linux 3.5: set_page_pfns().
fn set_page_pfns(vb: VirtioBalloon, at: u32, page: Page) {
    vb.pfns().element(at as usize).set(u32::try_from(page.pfn().0).expect("a page frame number of 32 bits"));
}

/// Inflates by at most `num` pages; returns by how many. By the patches: fill_balloon().
pub(super) fn fill_balloon(vb: VirtioBalloon, num: usize) -> usize {
    alone(vb, || fill(vb, num.min(ARRAY_PFNS_MAX) as u32))
}

fn fill(vb: VirtioBalloon, num: u32) -> usize {
    let lock = vb.dev_info().pages_lock();
    let mut puffed = true;
    lock.lock();
    vb.num_pfns().set(0);
    while vb.num_pfns().get() < num {
        let Some(pfn) = balloon_page_alloc() else {
            puffed = false;
            break;
        };
        let page = Page::of(pfn);
        set_page_pfns(vb, vb.num_pfns().get(), page);
        vb.num_pages().set(vb.num_pages().get() + 1);
        adjust_managed_page_count(pfn, -1);
        list::list_add(page.lru(), vb.dev_info().pages());
        page.set_mapping(mapping_of(vb));
        page.set_offline();
        vb.num_pfns().set(vb.num_pfns().get() + 1);
    }
    let num_pfns = vb.num_pfns().get();
    lock.unlock();
    if !puffed {
        msleep(super::inflate::OUT_OF_PUFF_MS);
    }
    if num_pfns != 0 {
        tell_host(vb, vb.inflate_vq().get(), num_pfns, INFLATE);
    }
    num_pfns as usize
}

/// Deflates by at most `num` pages; returns by how many. By the patches: leak_balloon().
pub(super) fn leak_balloon(vb: VirtioBalloon, num: usize) -> usize {
    alone(vb, || leak(vb, num.min(ARRAY_PFNS_MAX) as u32))
}

fn leak(vb: VirtioBalloon, num: u32) -> usize {
    let lock = vb.dev_info().pages_lock();
    lock.lock();
    vb.num_pfns().set(0);
    while vb.num_pfns().get() < num && vb.num_pages().get() > 0 {
        let Some(page) = first_page(vb) else { break };
        page.set_mapping(0);
        page.clear_offline();
        list::list_del(page.lru());
        if corrected(correct::ISOLATE_UNLOCKED) {
            page.unlock();
        }
        set_page_pfns(vb, vb.num_pfns().get(), page);
        vb.num_pages().set(vb.num_pages().get() - 1);
        vb.num_pfns().set(vb.num_pfns().get() + 1);
    }
    let num_pfns = vb.num_pfns().get();
    lock.unlock();
    if num_pfns != 0 {
        tell_host(vb, vb.deflate_vq().get(), num_pfns, DEFLATE);
    }
    // The array says which pages they were.
    for i in 0..vb.num_pfns().get() as usize {
        let page = Pfn(u64::from(vb.pfns().element(i).get()));
        adjust_managed_page_count(page, 1);
        free_balloon_page(page);
    }
    num_pfns as usize
}

/// The first page of the list; as posted without a look whether there is one, as when compaction has them all. Corrected: the first one
/// that is not locked, locked. Linux 3.5: list_first_entry().
fn first_page(vb: VirtioBalloon) -> Option<Page> {
    let head = vb.dev_info().pages();
    if corrected(correct::ISOLATE_UNLOCKED) {
        return list::iter(head).map(Page::of_lru).find(|page| page.try_lock());
    }
    Some(Page::of_lru(list::next(head)))
}

/// By the patch: virtballoon_migratepage(). Both pages are locked.
fn virtballoon_migratepage(newpage: u64, page: u64) -> u64 {
    let (newpage, page) = (Page::of(Pfn(newpage)), Page::of(Pfn(page)));
    let vb = device_of(page.mapping());
    let lock = vb.dev_info().pages_lock();
    alone(vb, || {
        lock.lock();
        vb.num_pfns().set(1);
        list::list_add(newpage.lru(), vb.dev_info().pages());
        newpage.set_offline();
        set_page_pfns(vb, 0, newpage);
        lock.unlock();
        tell_host(vb, vb.inflate_vq().get(), 1, INFLATE);
        lock.lock();
        vb.num_pfns().set(1);
        page.clear_offline();
        set_page_pfns(vb, 0, page);
        lock.unlock();
        tell_host(vb, vb.deflate_vq().get(), 1, DEFLATE);
    });
    rc::SUCCESS
}

/// Takes a page off the list, by the mapping that the page has now. By the patch: virtballoon_isolatepage().
fn virtballoon_isolatepage(page: u64, _mode: u64) -> u64 {
    let page = Page::of(Pfn(page));
    let vb = device_of(page.mapping());
    let lock = vb.dev_info().pages_lock();
    lock.lock();
    list::list_del(page.lru());
    lock.unlock();
    0
}

/// By the patch: virtballoon_putbackpage().
fn virtballoon_putbackpage(page: u64, _unused: u64) -> u64 {
    let page = Page::of(Pfn(page));
    let vb = device_of(page.mapping());
    let lock = vb.dev_info().pages_lock();
    lock.lock();
    list::list_add(page.lru(), vb.dev_info().pages());
    lock.unlock();
    0
}
