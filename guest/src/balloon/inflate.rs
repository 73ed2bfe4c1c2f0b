//! Inflating and deflating: pages go to the host, and come back. Linux 6.12: virtio_balloon.c fill_balloon(), leak_balloon().

use wire::balloon::{ARRAY_PFNS_MAX, config, feature};
use wire::debug::{ACTUAL, DEFLATE, INFLATE};
use wire::platform::boot_flag;

use crate::arch;
use crate::balloon::balloon_2012;
use crate::balloon::dialect::ranges;
use crate::balloon::driver::{VirtioBalloon, is_2012};
use crate::kernel::list;
use crate::kernel::panic::warn;
use crate::kernel::switch::{fault, faulty, mannered};
use crate::kernel::timer::msleep;
use crate::kernel::wait::wait_event;
use crate::kernel::workqueue::{Workqueue, queue_work};
use crate::mm::balloon_compaction::{balloon_page_alloc, balloon_page_dequeue, balloon_page_enqueue};
use crate::mm::page_alloc::put_page;
use crate::mm::{Page, Pfn, adjust_managed_page_count};
use crate::virtio::mmio;
use crate::virtio::ring::{Scatter, Virtqueue};

/// How long an inflation that found no page sleeps, ms.
pub(super) const OUT_OF_PUFF_MS: u64 = 200;

/// The device has used a buffer; in the interrupt. Linux: balloon_ack().
pub fn balloon_ack(vq: u64) {
    let vdev = crate::virtio::device::VirtioDevice::at(Virtqueue::at(vq).device().get());
    VirtioBalloon::at(vdev.private().get()).acked_queue().wake_up();
}

/// Exposes `pfns` and waits until the device has used it, whether or not MUST_TELL_HOST was negotiated. Linux: tell_host(); since
/// 6.12.117 a full ring is a warning instead of a wait without end.
pub(super) fn tell_host(vb: VirtioBalloon, vq: u64, code: u32) {
    let vq = Virtqueue::at(vq);
    let num_pfns = vb.num_pfns().get();
    let sg = Scatter { addr: vb.pfns().addr(), len_bytes: 4 * num_pfns };
    let added = vq.add_outbuf(sg, vb.addr(), |_head| {
        for i in 0..num_pfns as usize {
            arch::trace(code, u64::from(vb.pfns().element(i).get()), 0);
        }
    });
    // Waiting all the same is waiting for a buffer that is not there.
    if added.is_err() && !faulty(fault::TELL_HOST_IGNORE_ERR) {
        warn("tell_host: the queue takes no buffer");
        return;
    }
    vq.kick();
    wait_event(vb.acked_queue(), || vq.get_buf().is_some());
}

/// Appends a page to `pfns`. Linux: set_page_pfns().
pub(super) fn set_page_pfns(vb: VirtioBalloon, page: Pfn) {
    let num_pfns = vb.num_pfns().get();
    let pfn = u32::try_from(page.0).expect("a page frame number of 32 bits");
    vb.pfns().element(num_pfns as usize).set(pfn);
    vb.num_pfns().set(num_pfns + 1);
}

/// Pages between two places. Linux threads them through `lru` with a head on the stack; the order is the same: last in, first out.
struct Pages {
    pfns: [Pfn; ARRAY_PFNS_MAX],
    len: usize,
}

impl Pages {
    fn new() -> Self {
        Pages { pfns: [Pfn(0); ARRAY_PFNS_MAX], len: 0 }
    }

    fn push(&mut self, page: Pfn) {
        self.pfns[self.len] = page;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Pfn> {
        self.len = self.len.checked_sub(1)?;
        Some(self.pfns[self.len])
    }
}

/// Inflates by at most `num` pages; returns by how many. Linux: fill_balloon().
pub fn fill_balloon(vb: VirtioBalloon, num: usize) -> usize {
    if is_2012() {
        return balloon_2012::fill_balloon(vb, num);
    }
    if ranges::use_bmap(vb) {
        return ranges::fill_balloon(vb, num);
    }
    let num = num.min(ARRAY_PFNS_MAX);
    let mut pages = Pages::new();
    let under_lock = faulty(fault::ALLOC_UNDER_LOCK);
    if under_lock {
        vb.balloon_mutex().lock();
    }
    // Allocated before the lock is taken: an allocation may need the balloon to deflate.
    while pages.len < num {
        let Some(page) = balloon_page_alloc() else {
            msleep(OUT_OF_PUFF_MS);
            break;
        };
        pages.push(page);
    }
    if !under_lock {
        vb.balloon_mutex().lock();
    }
    vb.num_pfns().set(0);
    while let Some(page) = pages.pop() {
        balloon_page_enqueue(vb.dev_info(), page);
        if faulty(fault::PFN_OFFBYONE) {
            // Counted first, written behind: slot 0 keeps what it held, and the 256th frame lands behind the array, in the statistics.
            vb.num_pfns().set(vb.num_pfns().get() + 1);
            arch::write32(vb.pfns().addr() + 4 * u64::from(vb.num_pfns().get()), page.0 as u32);
        } else {
            set_page_pfns(vb, page);
        }
        vb.num_pages().set(vb.num_pages().get() + 1);
        if !vb.has_feature(feature::DEFLATE_ON_OOM) {
            adjust_managed_page_count(page, -1);
        }
    }
    let num_allocated_pages = vb.num_pfns().get();
    if num_allocated_pages != 0 {
        tell_host(vb, vb.inflate_vq().get(), INFLATE);
    }
    vb.balloon_mutex().unlock();
    num_allocated_pages as usize
}

/// Deflates by at most `num` pages; returns by how many. Linux: leak_balloon().
pub fn leak_balloon(vb: VirtioBalloon, num: usize) -> usize {
    if is_2012() {
        return balloon_2012::leak_balloon(vb, num);
    }
    if ranges::use_bmap(vb) {
        return ranges::leak_balloon(vb, num);
    }
    let num = num.min(ARRAY_PFNS_MAX);
    vb.balloon_mutex().lock();
    let num = num.min(vb.num_pages().get() as usize);
    vb.num_pfns().set(0);
    for _ in 0..num {
        // None when compaction has them.
        let Some(page) = balloon_page_dequeue(vb.dev_info()) else { break };
        set_page_pfns(vb, page);
        list::list_add(Page::of(page).lru(), vb.deflated_pages().addr());
        vb.num_pages().set(vb.num_pages().get() - 1);
    }
    let num_freed_pages = vb.num_pfns().get() as usize;
    // The host is told before the pages are freed, and they are freed only when it has answered.
    if num_freed_pages != 0 && mannered(boot_flag::DEFLATE_SILENTLY) && !vb.has_feature(feature::MUST_TELL_HOST) {
        deflate_untold(vb);
    } else if num_freed_pages != 0 {
        tell_host(vb, vb.deflate_vq().get(), DEFLATE);
    }
    if faulty(fault::RELEASE_OUTSIDE_LOCK) {
        // Without the lock, whoever inflates or deflates next writes its own frames over those that are freed here.
        list::init_list_head(vb.deflated_pages().addr());
        vb.balloon_mutex().unlock();
        release_pages_by_pfn(vb);
        return num_freed_pages;
    }
    release_pages_balloon(vb);
    vb.balloon_mutex().unlock();
    num_freed_pages
}

/// Takes the pages in `pfns` out of the balloon without a word to the device, as VIRTIO 1.2 §5.5.6.1 lets a driver do that has not negotiated
/// MUST_TELL_HOST. Differs: Linux tells in any case.
fn deflate_untold(vb: VirtioBalloon) {
    for i in 0..vb.num_pfns().get() as usize {
        arch::trace(DEFLATE, u64::from(vb.pfns().element(i).get()), 0);
    }
}

/// Frees the pages whose frames stand in `pfns`. Linux: release_pages_by_pfn(), until 4.4.
fn release_pages_by_pfn(vb: VirtioBalloon) {
    let mut index = 0;
    while index < vb.num_pfns().get() {
        let page = Pfn(vb.pfns().element(index as usize).get().into());
        if !vb.has_feature(feature::DEFLATE_ON_OOM) {
            adjust_managed_page_count(page, 1);
        }
        put_page(page);
        index += 1;
    }
}

/// Frees pages that the balloon no longer owns. Linux: release_pages_balloon().
fn release_pages_balloon(vb: VirtioBalloon) {
    for node in list::iter(vb.deflated_pages().addr()) {
        let page = Page::of_lru(node).pfn();
        if !vb.has_feature(feature::DEFLATE_ON_OOM) {
            adjust_managed_page_count(page, 1);
        }
        list::list_del(node);
        put_page(page);
    }
}

/// Pages that the balloon should grow by; negative: shrink. Linux: towards_target().
pub fn towards_target(vb: VirtioBalloon) -> i64 {
    let target = mmio::config_read32(config::NUM_PAGES);
    i64::from(target) - vb.num_pages().get() as i64
}

/// Tells the host how large the balloon is. Linux: update_balloon_size().
pub fn update_balloon_size(vb: VirtioBalloon) {
    let actual = vb.num_pages().get();
    mmio::config_write32(config::ACTUAL, actual as u32);
    arch::trace(ACTUAL, actual, 0);
}

/// The work that follows the target, at most 256 pages at a time. Linux: update_balloon_size_func().
pub fn update_balloon_size_func(vb: u64) {
    let vb = VirtioBalloon::at(vb);
    let diff = towards_target(vb);
    if diff == 0 {
        return;
    }
    let done = if diff > 0 { fill_balloon(vb, diff as usize) } else { leak_balloon(vb, diff.unsigned_abs() as usize) };
    update_balloon_size(vb);
    if done as u64 != diff.unsigned_abs() {
        queue_work(Workqueue::SystemFreezable, vb.size_work());
    }
}
