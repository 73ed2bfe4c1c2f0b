//! Probe and remove of the drivers that answer requests: virtballoon_probe(), init_vqs() and virtballoon_remove() of Linux 4.10 with the series v6
//! (L. Li, December 2016) or v8 (W. Wang, March 2017).
//!
//! The request queue and the ranges need statistics, for the fourth queue comes behind the third, and three objects. As posted the driver finds that
//! out when the device has fixed the features: it clears the bits in its own copy, and has counted the queues before (S9).
//! Differs: the features that this ring lacks are given up as the merged driver does.

use wire::balloon::{feature, seed_feature};
use wire::debug::work;
use wire::switch::correct;
use wire::virtio::feature as transport;

use crate::balloon::dialect::ranges::{BALLOON_BMAP_SIZE, kfree_page_bitmap};
use crate::balloon::dialect::request::{self, header_bytes, is_v8, misc_request, post_request};
use crate::balloon::driver::{VirtioBalloon, init_fields, publish_balloon};
use crate::balloon::{inflate, oom, stats};
use crate::kernel::switch::corrected;
use crate::kernel::workqueue::{Workqueue, cancel_work_sync, queue_work};
use crate::mm::slab::{kfree, kmalloc};
use crate::mm::{self, Gfp, Pfn};
use crate::virtio::Errno;
use crate::virtio::device::{VirtioDevice, VirtioDriver, virtio_device_ready};
use crate::virtio::mmio::{self, VirtqueueInfo};
use crate::virtio::ring::Virtqueue;

/// PAGE_RANGE or CHUNK_TRANSFER, and HOST_REQ_VQ: what depends on STATS_VQ and on memory.
const DEPENDENT: u64 = seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ;

/// The driver of v6 and v8: both have the same bits, under different names.
pub(super) static REQUEST_DRIVER: VirtioDriver = VirtioDriver {
    feature_table: feature::MUST_TELL_HOST | feature::STATS_VQ | feature::DEFLATE_ON_OOM | DEPENDENT,
    validate,
    probe,
    remove,
    power: None,
    config_changed: changed,
};

/// Clears features that do not fit. Neither series had this step; with S9 corrected, what depends on statistics goes here.
fn validate(vdev: VirtioDevice) {
    vdev.clear_feature(transport::RING_INDIRECT_DESC);
    vdev.clear_feature(transport::ACCESS_PLATFORM);
    if corrected(correct::LATE_CLEARING) && !vdev.has_feature(feature::STATS_VQ) {
        vdev.clear_feature(DEPENDENT);
    }
}

/// The three objects; without one of them no ranges and no requests. The device believes in both all the same, for its features are fixed by
/// now (S9). Of those that were there, the addresses stay behind.
fn alloc_buffers(vb: VirtioBalloon) -> Result<(), Errno> {
    if alloc_each(vb) {
        return Ok(());
    }
    if corrected(correct::LATE_CLEARING) {
        return Err(Errno::NoMem);
    }
    vb.device().clear_feature(DEPENDENT);
    Ok(())
}

/// v6: header, bitmap, words; v8: bitmap, then header and words as one.
fn alloc_each(vb: VirtioBalloon) -> bool {
    let rq = vb.request();
    let header = if is_v8() { header_bytes() + BALLOON_BMAP_SIZE } else { header_bytes() };
    let resp_hdr = |rq: request::Request| kmalloc(header, Gfp::KERNEL | Gfp::ZERO).inspect(|&object| rq.resp_hdr().set(object));
    if !is_v8() && resp_hdr(rq).is_none() {
        return false;
    }
    let Some(page_bitmap) = kmalloc(BALLOON_BMAP_SIZE, Gfp::KERNEL) else {
        kfree(rq.resp_hdr().get());
        return false;
    };
    rq.page_bitmap().element(0).set(page_bitmap);
    rq.nr_page_bmap().set(1);
    let resp_data = if is_v8() { resp_hdr(rq).map(|object| object + header_bytes()) } else { kmalloc(BALLOON_BMAP_SIZE, Gfp::KERNEL) };
    let Some(resp_data) = resp_data else {
        kfree(page_bitmap);
        kfree(rq.resp_hdr().get());
        return false;
    };
    rq.resp_data().set(resp_data);
    rq.resp_pos().set(0);
    rq.resp_buf_size().set(BALLOON_BMAP_SIZE);
    true
}

/// Finds the queues, primes the statistics, and posts the first request buffer. Linux: init_vqs() with the series.
fn init_vqs(vb: VirtioBalloon) -> Result<(), Errno> {
    let has_stats = vb.has_feature(feature::STATS_VQ);
    let nvqs = if vb.has_feature(seed_feature::HOST_REQ_VQ) { 4 } else { 2 + usize::from(has_stats) };
    if !has_stats {
        vb.device().clear_feature(DEPENDENT);
    }
    let callbacks = [inflate::balloon_ack, inflate::balloon_ack, stats::stats_request, misc_request];
    let mut infos = callbacks.map(|callback: fn(u64)| Some(VirtqueueInfo { callback: Some(callback) }));
    infos[nvqs..].fill(None);
    let vqs = mmio::vm_find_vqs(vb.device(), &infos)?;
    let addr = |vq: Option<Virtqueue>| vq.map_or(0, Virtqueue::addr);
    vb.inflate_vq().set(addr(vqs[0]));
    vb.deflate_vq().set(addr(vqs[1]));
    if has_stats {
        vb.stats_vq().set(addr(vqs[2]));
        stats::prime(vb)?;
    }
    if vb.has_feature(seed_feature::HOST_REQ_VQ) {
        vb.request().req_vq().set(addr(vqs[3]));
        if post_request(vb).is_err() {
            vb.device().clear_feature(seed_feature::HOST_REQ_VQ);
        } else {
            Virtqueue::at(addr(vqs[3])).kick();
        }
    }
    Ok(())
}

/// Sets the driver up. Linux: virtballoon_probe() with the series. Differs: the notifier is registered where it has something to do.
fn probe(vdev: VirtioDevice) -> Result<(), Errno> {
    let page = mm::alloc_pages(Gfp::KERNEL | Gfp::ZERO, 0).ok_or(Errno::NoMem)?;
    let vb = VirtioBalloon::at(page.addr());
    init_fields(vb, vdev);
    vb.request().work().init(work::REQUEST, request::request_func, vb.addr());
    let result = alloc_buffers(vb).and_then(|()| init_vqs(vb)).and_then(|()| {
        let registered = if vb.has_feature(feature::DEFLATE_ON_OOM) { oom::register(vb) } else { Ok(()) };
        if registered.is_err() {
            mmio::vm_del_vqs(vdev);
        }
        registered
    });
    if let Err(errno) = result {
        vdev.private().set(0);
        if is_v8() {
            kfree(vb.request().resp_hdr().get());
            kfree_page_bitmap(vb.request());
        }
        // v6 frees the structure alone, and leaves the three objects behind.
        mm::free_pages(page, 0);
        return Err(errno);
    }
    publish_balloon(Some(vb));
    virtio_device_ready();
    stats::prime_late(vb);
    if inflate::towards_target(vb) != 0 {
        changed(vdev.addr());
    }
    Ok(())
}

/// The configuration has changed; in the interrupt. Linux: virtballoon_changed() of 4.10.
fn changed(vdev: u64) {
    let vb = VirtioBalloon::at(VirtioDevice::at(vdev).private().get());
    let flags = vb.stop_update_spinlock().lock_irqsave();
    if vb.stop_update().get() == 0 {
        queue_work(Workqueue::SystemFreezable, vb.size_work());
    }
    vb.stop_update_spinlock().unlock_irqrestore(flags);
}

/// Tears the driver down. Linux: virtballoon_remove() with the series: v6 does not free the words.
fn remove(vdev: VirtioDevice) {
    let vb = VirtioBalloon::at(vdev.private().get());
    if vb.oom_nb().get() != 0 {
        oom::unregister(vb);
    }
    vb.stop_update_spinlock().lock_irq();
    vb.stop_update().set(1);
    vb.stop_update_spinlock().unlock_irq();
    cancel_work_sync(Workqueue::SystemFreezable, vb.size_work());
    cancel_work_sync(Workqueue::SystemFreezable, vb.stats_work());
    cancel_work_sync(Workqueue::SystemFreezable, vb.request().work());
    remove_common(vb);
    kfree_page_bitmap(vb.request());
    kfree(vb.request().resp_hdr().get());
    publish_balloon(None);
    vdev.private().set(0);
    mm::free_pages(Pfn::of_addr(vb.addr()), 0);
}

/// Gives every page back, then takes the device down. Linux: remove_common() of 4.10.
fn remove_common(vb: VirtioBalloon) {
    while vb.num_pages().get() != 0 {
        inflate::leak_balloon(vb, vb.num_pages().get() as usize);
    }
    inflate::update_balloon_size(vb);
    mmio::reset();
    mmio::vm_del_vqs(vb.device());
}
