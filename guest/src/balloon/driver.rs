//! `struct virtio_balloon`, and its way from probe to remove. Linux 6.12: drivers/virtio/virtio_balloon.c.
//!
//! The driver's state is one page that probe allocates and remove frees. What the device reads lies in it too: the page frame numbers
//! told, the statistics, the command ids. So a buffer is exposed where the driver goes on to change it, as in Linux.

use core::mem::offset_of;

use wire::balloon::{ARRAY_PFNS_MAX, CMD_ID_STOP, config, feature, stat};
use wire::debug::{lock, work};
use wire::dialect::Dialect;
use wire::layout::KernelInfo;
use wire::platform::PAGE_SIZE;
use wire::virtio::feature as transport;

use crate::balloon::dialect::request::Request;
use crate::balloon::{balloon_2012, compaction, dialect, hinting, inflate, oom, reporting, shrinker, stats};
use crate::kernel::info::publish;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::kernel::mutex::Mutex;
use crate::kernel::switch::{self, fault, faulty};
use crate::kernel::wait::WaitQueue;
use crate::kernel::workqueue::{Work, Workqueue, cancel_work_sync, queue_work};
use crate::mm::balloon_compaction::BalloonDevInfo;
use crate::mm::{self, Gfp, Pfn, page_poisoning_enabled, want_init_on_free};
use crate::virtio::Errno;
use crate::virtio::device::{PowerOps, VirtioDevice, VirtioDriver, virtio_device_ready};
use crate::virtio::field::record;
use crate::virtio::mmio::{self, VirtqueueInfo};
use crate::virtio::ring::Virtqueue;

/// Words that a kernel object takes in a record.
pub(super) const fn words(bytes: u64) -> usize {
    bytes.div_ceil(8) as usize
}

record! {
    /// `struct virtio_balloon`.
    pub struct VirtioBalloon {
        /// The device's address.
        vdev: u64,
        /// Pages given.
        inflate_vq: u64,
        /// Pages taken back.
        deflate_vq: u64,
        /// Statistics; 0 without the feature.
        stats_vq: u64,
        /// Free page hints; 0 without the feature.
        free_page_vq: u64,
        /// Free page reports; 0 without the feature.
        reporting_vq: u64,
        /// Refills the statistics.
        update_balloon_stats_work: [u64; words(Work::BYTES)],
        /// Inflates and deflates.
        update_balloon_size_work: [u64; words(Work::BYTES)],
        /// Hints.
        report_free_page_work: [u64; words(Work::BYTES)],
        /// Guards `stop_update`, and with it the queueing of works.
        stop_update_lock: u64,
        /// 1 once the driver goes away.
        stop_update: u64,
        /// Bit 0: the command id must be read again.
        config_read_bitmap: u64,
        /// The registered shrinker.
        shrinker: u64,
        /// The registered OOM notifier.
        oom_nb: u64,
        /// Hinted blocks, by their page's `lru`.
        free_page_list: [u64; 2],
        /// Guards `free_page_list` and `num_free_page_blocks`.
        free_page_list_lock: u64,
        /// Blocks on `free_page_list`.
        num_free_page_blocks: u64,
        /// The command id that was read last.
        cmd_id_received_cache: u32,
        /// The id of the round that runs or ran last; the device reads it here.
        cmd_id_active: u32,
        /// That many hints from now the driver repeats its start buffer; 0: never, as Linux. A task asks for it, to try a device with it.
        repeat_start_after: u64,
        /// The id that ends a round; the device reads it here. Where one buffer serves both ends, the id that opens it, too.
        cmd_id_stop: u32,
        /// Valid entries of `pfns`.
        num_pfns: u32,
        /// Who waits for the device to use a buffer, of whichever queue.
        acked: [u64; words(WaitQueue::BYTES)],
        /// Pages in the balloon, 4 KiB each.
        num_pages: u64,
        /// The balloon's pages; guarded by its own lock. Linux: vb_dev_info.
        vb_dev_info: [u64; words(BalloonDevInfo::BYTES)],
        /// Guards `pfns`, `num_pfns`, and the two queues that tell them.
        balloon_lock: [u64; words(Mutex::BYTES)],
        /// Page frame numbers of one inflation or deflation; the device reads them here.
        pfns: [u32; ARRAY_PFNS_MAX],
        /// Statistics; the device reads them here.
        stats: [u8; stats::STATS_NR_MAX * stat::RECORD_BYTES],
        /// A block that the device has not given back, and that nobody waits for any more: address | order; 0 for none.
        unacked_block: u64,
        /// Pages that a deflation has taken out of the balloon and not freed yet; under `balloon_lock`. Linux: a head on the stack.
        deflated_pages: [u64; 2],
        /// The mapping that this device's pages have, of which an older design has but one; else 0. See `balloon_2012`.
        balloon_mapping: u64,
        /// What the request dialects keep.
        request_state: [u64; words(Request::BYTES)],
    }
}

const _: () = assert!(VirtioBalloon::BYTES <= PAGE_SIZE);

impl VirtioBalloon {
    /// The device.
    pub fn device(self) -> VirtioDevice {
        VirtioDevice::at(self.vdev().get())
    }

    /// Whether a feature was negotiated.
    pub fn has_feature(self, bit: u64) -> bool {
        self.device().has_feature(bit)
    }

    /// `balloon_lock`.
    pub fn balloon_mutex(self) -> Mutex {
        Mutex::at(self.balloon_lock().addr(), lock::BALLOON)
    }

    /// `stop_update_lock`.
    pub fn stop_update_spinlock(self) -> SpinLock {
        SpinLock::at(self.stop_update_lock().addr(), lock::STOP_UPDATE)
    }

    /// `free_page_list_lock`.
    pub fn free_page_list_spinlock(self) -> SpinLock {
        SpinLock::at(self.free_page_list_lock().addr(), lock::FREE_PAGE_LIST)
    }

    /// The balloon's page list and its lock.
    pub fn dev_info(self) -> BalloonDevInfo {
        BalloonDevInfo::at(self.vb_dev_info().addr())
    }

    /// Where `tell_host` waits.
    pub fn acked_queue(self) -> WaitQueue {
        WaitQueue::at(self.acked().addr())
    }

    /// Keeps a block aside until the device is reset: it has not given it back.
    pub fn keep_unacked_block(self, block: Pfn, order: u32) {
        assert_eq!(self.unacked_block().get(), 0, "a round ends with its first block that does not come back");
        self.unacked_block().set(block.addr() | u64::from(order));
    }

    /// The block that was kept aside, and its order.
    pub fn take_unacked_block(self) -> Option<(Pfn, u32)> {
        let kept = self.unacked_block().get();
        self.unacked_block().set(0);
        (kept != 0).then(|| (Pfn::of_addr(kept), (kept % PAGE_SIZE) as u32))
    }

    /// `update_balloon_size_work`.
    pub fn size_work(self) -> Work {
        Work::at(self.update_balloon_size_work().addr())
    }

    /// `update_balloon_stats_work`.
    pub fn stats_work(self) -> Work {
        Work::at(self.update_balloon_stats_work().addr())
    }

    /// `report_free_page_work`.
    pub fn report_work(self) -> Work {
        Work::at(self.report_free_page_work().addr())
    }
}

/// `virtio_balloon_driver`.
pub static VIRTIO_BALLOON_DRIVER: VirtioDriver = VirtioDriver {
    feature_table: feature::MUST_TELL_HOST
        | feature::STATS_VQ
        | feature::DEFLATE_ON_OOM
        | feature::FREE_PAGE_HINT
        | feature::PAGE_POISON
        | feature::PAGE_REPORTING
        | feature::HINT_WAIT_ON_ACK,
    validate: virtballoon_validate,
    probe: virtballoon_probe,
    remove: virtballoon_remove,
    power: Some(PowerOps { freeze: virtballoon_freeze, restore: virtballoon_restore, shutdown: virtballoon_shutdown }),
    config_changed: virtballoon_changed,
};

/// `vdev->priv` of the device at an address.
fn balloon_of(vdev: u64) -> VirtioBalloon {
    VirtioBalloon::at(VirtioDevice::at(vdev).private().get())
}

/// Clears features that do not fit this kernel or each other. Linux: virtballoon_validate().
fn virtballoon_validate(vdev: VirtioDevice) {
    if !want_init_on_free() && !page_poisoning_enabled() {
        // Free pages hold anything here, so there is no value to promise.
        vdev.clear_feature(feature::PAGE_POISON);
    } else if !vdev.has_feature(feature::PAGE_POISON) && !faulty(fault::REPORT_WITH_POISON) {
        // Free pages hold a value that the device would not keep.
        vdev.clear_feature(feature::PAGE_REPORTING);
    }
    if !vdev.has_feature(feature::FREE_PAGE_HINT) {
        // Nothing to wait for. By the proposal of HINT_WAIT_ON_ACK.
        vdev.clear_feature(feature::HINT_WAIT_ON_ACK);
    }
    // Indirect tables would be allocated in the middle of page reporting.
    vdev.clear_feature(transport::RING_INDIRECT_DESC);
    vdev.clear_feature(transport::ACCESS_PLATFORM);
}

/// Finds the queues and primes the statistics. Linux: init_vqs(), with the callback that the proposal of HINT_WAIT_ON_ACK adds.
fn init_vqs(vb: VirtioBalloon) -> Result<(), Errno> {
    let queue = |wanted: bool, callback: Option<fn(u64)>| wanted.then_some(VirtqueueInfo { callback });
    // Hints have no callback, unless the driver waits for them: their used buffers are collected when the next one is added.
    let waits = vb.has_feature(feature::HINT_WAIT_ON_ACK) || dialect::waits_for_arrays();
    let hint_callback: Option<fn(u64)> = waits.then_some(inflate::balloon_ack);
    let infos = [
        queue(true, Some(inflate::balloon_ack)),
        queue(true, Some(inflate::balloon_ack)),
        queue(vb.has_feature(feature::STATS_VQ), Some(stats::stats_request)),
        queue(vb.has_feature(feature::FREE_PAGE_HINT), hint_callback),
        queue(vb.has_feature(feature::PAGE_REPORTING), Some(inflate::balloon_ack)),
    ];
    let vqs = mmio::vm_find_vqs(vb.device(), &infos)?;
    let addr = |vq: Option<Virtqueue>| vq.map_or(0, Virtqueue::addr);
    let [inflate_vq, deflate_vq, stats_vq, free_page_vq, reporting_vq] = vqs;
    vb.inflate_vq().set(addr(inflate_vq));
    vb.deflate_vq().set(addr(deflate_vq));
    vb.stats_vq().set(addr(stats_vq));
    if stats_vq.is_some() {
        stats::prime(vb)?;
    }
    vb.free_page_vq().set(addr(free_page_vq));
    if let Some(vq) = free_page_vq.filter(|_| faulty(fault::UNINIT_CALLBACK)) {
        // The array of callbacks lay on the stack, and nobody wrote this one's place: the queue asks for interrupts, and calls what was there.
        vq.set_callback(STACK_GARBAGE);
    }
    vb.reporting_vq().set(addr(reporting_vq));
    Ok(())
}

/// What stands for the stack's old contents.
const STACK_GARBAGE: u64 = 0x5a5a_5a5a_5a5a;

/// Sets up the fields that need more than zeros.
pub(super) fn init_fields(vb: VirtioBalloon, vdev: VirtioDevice) {
    vb.vdev().set(vdev.addr());
    vdev.private().set(vb.addr());
    vb.stats_work().init(work::UPDATE_STATS, stats::update_balloon_stats_func, vb.addr());
    vb.size_work().init(work::UPDATE_SIZE, inflate::update_balloon_size_func, vb.addr());
    vb.report_work().init(work::REPORT_FREE_PAGE, hinting::report_free_page_func, vb.addr());
    vb.stop_update_spinlock().init();
    vb.free_page_list_spinlock().init();
    vb.balloon_mutex().init();
    vb.acked_queue().init();
    vb.dev_info().init();
    vb.dev_info().set_migratepage(compaction::virtballoon_migratepage);
    list::init_list_head(vb.free_page_list().addr());
    list::init_list_head(vb.deflated_pages().addr());
}

/// Sets the driver up. Linux: virtballoon_probe().
fn virtballoon_probe(vdev: VirtioDevice) -> Result<(), Errno> {
    let page = mm::alloc_pages(Gfp::KERNEL | Gfp::ZERO, 0).ok_or(Errno::NoMem)?;
    let vb = VirtioBalloon::at(page.addr());
    init_fields(vb, vdev);
    let mapped = if is_2012() { balloon_2012::probe(vb) } else { compaction::probe(vb) };
    let result = mapped.and_then(|()| init_vqs(vb)).and_then(|()| {
        let result = probe_features(vb);
        if result.is_err() {
            unregister_features(vb);
            mmio::vm_del_vqs(vdev);
        }
        result
    });
    if let Err(errno) = result {
        vdev.private().set(0);
        compaction::remove(vb);
        // The way out frees what the way in had taken.
        if !faulty(fault::PROBE_LEAK) {
            mm::free_pages(page, 0);
        }
        return Err(errno);
    }
    publish_balloon(Some(vb));
    virtio_device_ready();
    stats::prime_late(vb);
    if inflate::towards_target(vb) != 0 {
        virtballoon_changed(vdev.addr());
    }
    Ok(())
}

/// Registers what each negotiated feature needs, in Linux's order.
fn probe_features(vb: VirtioBalloon) -> Result<(), Errno> {
    if vb.has_feature(feature::FREE_PAGE_HINT) {
        // One entry is kept for the command id, so one alone could carry no hint.
        if Virtqueue::at(vb.free_page_vq().get()).num().get() < 2 {
            return Err(Errno::NoSpc);
        }
        vb.cmd_id_received_cache().set(CMD_ID_STOP);
        vb.cmd_id_active().set(CMD_ID_STOP);
        vb.cmd_id_stop().set(CMD_ID_STOP);
        shrinker::virtio_balloon_register_shrinker(vb)?;
    }
    if vb.has_feature(feature::DEFLATE_ON_OOM) {
        if deflates_in_shrinker() {
            if vb.shrinker().get() == 0 {
                shrinker::virtio_balloon_register_shrinker(vb)?;
            }
        } else {
            oom::register(vb)?;
        }
    }
    if vb.has_feature(feature::PAGE_POISON) {
        mmio::config_write32(config::POISON_VAL, if want_init_on_free() { 0 } else { PAGE_POISON_WORD });
    }
    if vb.has_feature(feature::PAGE_REPORTING) {
        reporting::register(vb)?;
    }
    Ok(())
}

/// Whether the balloon deflates under any memory pressure, not only when memory is out. Linux: from 5.0 to 5.5.
pub(super) fn deflates_in_shrinker() -> bool {
    faulty(fault::OOM_AS_SHRINKER)
}

/// Four bytes of a poisoned page. Linux: PAGE_POISON.
const PAGE_POISON_WORD: u32 = 0xaaaa_aaaa;

/// Unregisters what was registered, the last first.
fn unregister_features(vb: VirtioBalloon) {
    if vb.oom_nb().get() != 0 {
        oom::unregister(vb);
    }
    if vb.shrinker().get() != 0 {
        shrinker::virtio_balloon_unregister_shrinker(vb);
    }
}

/// Whether balloon pages are kept and moved as posted in 2012.
pub(super) fn is_2012() -> bool {
    switch::dialect() == Dialect::Balloon2012
}

/// Tells the observer where the driver keeps its pages, or that there is no driver.
pub(super) fn publish_balloon(vb: Option<VirtioBalloon>) {
    publish(offset_of!(KernelInfo, free_page_list), vb.map_or(0, |vb| vb.free_page_list().addr()));
    publish(offset_of!(KernelInfo, num_free_page_blocks), vb.map_or(0, |vb| vb.num_free_page_blocks().addr()));
    publish(offset_of!(KernelInfo, balloon_pages), vb.map_or(0, |vb| vb.dev_info().pages()));
    publish(offset_of!(KernelInfo, balloon_num_pages), vb.map_or(0, |vb| vb.num_pages().addr()));
    publish(offset_of!(KernelInfo, balloon_isolated_pages), vb.filter(|_| !is_2012()).map_or(0, |vb| vb.dev_info().isolated_pages_addr()));
    publish(offset_of!(KernelInfo, balloon_pages_lock), vb.map_or(0, |vb| vb.dev_info().pages_lock().addr()));
}

/// The configuration has changed; in the interrupt. Linux: virtballoon_changed().
fn virtballoon_changed(vdev: u64) {
    let vb = balloon_of(vdev);
    let flags = vb.stop_update_spinlock().lock_irqsave();
    if vb.stop_update().get() == 0 {
        queue_work(Workqueue::SystemFreezable, vb.size_work());
        // Queued for every change: only the work itself finds out whether the id is a new one.
        hinting::virtio_balloon_queue_free_page_work(vb);
    }
    vb.stop_update_spinlock().unlock_irqrestore(flags);
}

/// Tears the driver down. Linux: virtballoon_remove().
/// Differs: a hint that waits for the device is called off. The proposal of HINT_WAIT_ON_ACK waits for the work to end by itself.
fn virtballoon_remove(vdev: VirtioDevice) {
    let vb = balloon_of(vdev.addr());
    if vb.has_feature(feature::PAGE_REPORTING) {
        reporting::unregister();
    }
    unregister_features(vb);
    stop_works(vb);
    remove_common(vb);
    compaction::remove(vb);
    publish_balloon(None);
    vdev.private().set(0);
    mm::free_pages(Pfn::of_addr(vb.addr()), 0);
}

/// Queues no more works, and waits until none runs.
fn stop_works(vb: VirtioBalloon) {
    vb.stop_update_spinlock().lock_irq();
    vb.stop_update().set(1);
    vb.stop_update_spinlock().unlock_irq();
    cancel_work_sync(Workqueue::SystemFreezable, vb.size_work());
    cancel_work_sync(Workqueue::SystemFreezable, vb.stats_work());
    if vb.has_feature(feature::HINT_WAIT_ON_ACK) || dialect::waits_for_arrays() {
        vb.acked_queue().wake_up();
    }
    if vb.has_feature(feature::FREE_PAGE_HINT) {
        cancel_work_sync(Workqueue::Balloon, vb.report_work());
    }
}

/// Takes the device down before the system sleeps; the works are parked already. Linux: virtballoon_freeze().
fn virtballoon_freeze(vdev: VirtioDevice) {
    let vb = balloon_of(vdev.addr());
    if faulty(fault::FREEZE_NO_DEFLATE) {
        // The device forgets the balloon with its reset, and the driver does likewise: nobody has these pages any more.
        vb.num_pages().set(0);
        vb.dev_info().init();
        mmio::reset();
        mmio::vm_del_vqs(vdev);
        return;
    }
    remove_common(vb);
}

/// Sets the device up again when the system wakes. The device was reset, and lost what `poison_val` said; nobody says it again.
/// Linux: virtballoon_restore().
fn virtballoon_restore(vdev: VirtioDevice) -> Result<(), Errno> {
    let vb = balloon_of(vdev.addr());
    init_vqs(vb)?;
    virtio_device_ready();
    stats::prime_late(vb);
    if inflate::towards_target(vb) != 0 {
        virtballoon_changed(vdev.addr());
    }
    inflate::update_balloon_size(vb);
    Ok(())
}

/// Stops the works before the queues break under them. Linux: the shutdown hook of 2026.
fn virtballoon_shutdown(vdev: VirtioDevice) {
    let vb = balloon_of(vdev.addr());
    if faulty(fault::SHUTDOWN_NO_QUIESCE) {
        // A work that waits for the device now waits for a queue from which nothing can be collected any more.
        return;
    }
    if vb.has_feature(feature::PAGE_REPORTING) {
        reporting::unregister();
    }
    unregister_features(vb);
    stop_works(vb);
}

/// Gives every page back, then takes the device down. Linux: remove_common().
fn remove_common(vb: VirtioBalloon) {
    // There may be pages on their way to another place; the loop ends when they are back.
    while vb.num_pages().get() != 0 {
        inflate::leak_balloon(vb, vb.num_pages().get() as usize);
    }
    inflate::update_balloon_size(vb);
    // A driver that goes away in the middle of a migration holds blocks that DONE would have freed.
    if vb.has_feature(feature::FREE_PAGE_HINT) && !faulty(fault::REMOVE_NO_RETURN) {
        hinting::return_free_pages_to_mm(vb, u64::MAX, wire::debug::HINT_RETURN);
    }
    mmio::reset();
    hinting::return_unacked_block(vb);
    mmio::vm_del_vqs(vb.device());
}
