//! Memory statistics: one buffer, which the device holds until it wants fresh ones. Linux 6.12: virtio_balloon.c update_balloon_stats().

use wire::balloon::stat;
use wire::platform::PAGE_SHIFT;

use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::panic::warn;
use crate::kernel::switch::{correct, corrected, fault, faulty};
use crate::kernel::workqueue::{Workqueue, queue_work};
use crate::mm::stats::{Event, event, si_mem_available, si_meminfo};
use crate::virtio::Errno;
use crate::virtio::device::VirtioDevice;
use crate::virtio::ring::{Scatter, Virtqueue};

/// Records that fit. Linux: VIRTIO_BALLOON_S_NR, 16 in 6.12.
pub const STATS_NR_MAX: usize = 16;

/// Writes record `index`: a 16-bit tag and a 64-bit value, little-endian, without a gap. Linux: update_stat().
fn update_stat(stats: u64, index: usize, tag: u16, value: u64) {
    assert!(index < STATS_NR_MAX, "more statistics than there are tags");
    let record = stats + (index * stat::RECORD_BYTES) as u64;
    arch::write16(record, tag);
    // The value is not aligned: four stores of 16 bits, each of which is.
    for part in 0..4 {
        arch::write16(record + 2 + part * 2, (value >> (part * 16)) as u16);
    }
}

/// Fills the records from the kernel's counters; returns how many. The order of the tags is 6.12's: events first, memory last.
/// Linux: update_balloon_stats(), update_balloon_vm_stats().
fn update_balloon_stats(vb: VirtioBalloon) -> usize {
    let info = si_meminfo();
    let bytes = |pages: u64| pages << PAGE_SHIFT;
    let records = [
        (stat::SWAP_IN, bytes(event(Event::PswpIn))),
        (stat::SWAP_OUT, bytes(event(Event::PswpOut))),
        (stat::MAJFLT, event(Event::PgMajFault)),
        (stat::MINFLT, event(Event::PgFault)),
        (stat::OOM_KILL, event(Event::OomKill)),
        (stat::ALLOC_STALL, event(Event::AllocStall)),
        // Scanned and reclaimed pages are those of the LRU, which this kernel lacks.
        (stat::ASYNC_SCAN, 0),
        (stat::DIRECT_SCAN, 0),
        (stat::ASYNC_RECLAIM, 0),
        (stat::DIRECT_RECLAIM, 0),
        (stat::MEMFREE, bytes(info.freeram)),
        (stat::MEMTOT, bytes(info.totalram)),
        (stat::AVAIL, bytes(si_mem_available())),
        (stat::CACHES, bytes(info.caches)),
    ];
    for (index, (tag, value)) in records.into_iter().enumerate() {
        update_stat(vb.stats().addr(), index, tag, value);
    }
    records.len()
}

/// Exposes fresh statistics.
fn send_stats(vb: VirtioBalloon) -> Result<(), Errno> {
    let num_stats = update_balloon_stats(vb);
    expose_stats(vb, num_stats)
}

/// Exposes what the buffer holds.
fn expose_stats(vb: VirtioBalloon, num_stats: usize) -> Result<(), Errno> {
    let vq = Virtqueue::at(vb.stats_vq().get());
    let sg = Scatter { addr: vb.stats().addr(), len_bytes: (num_stats * stat::RECORD_BYTES) as u32 };
    vq.add_outbuf(sg, vb.addr(), |_head| {})?;
    vq.kick();
    Ok(())
}

/// Gives the device its first buffer, while the queues are set up. It is kicked before DRIVER_OK, which the specification forbids and Linux 6.12 does.
/// Linux: init_vqs().
pub fn prime(vb: VirtioBalloon) -> Result<(), Errno> {
    if corrected(correct::STATS_PRIMED_EARLY) {
        return Ok(());
    }
    send_first(vb)
}

/// Gives the device its first buffer once it may be told of it: as the driver does that is mended (2026).
pub fn prime_late(vb: VirtioBalloon) {
    if corrected(correct::STATS_PRIMED_EARLY) && vb.stats_vq().get() != 0 {
        // The device is up, with or without statistics: a failure is warned of, and no more.
        let _ = send_first(vb);
    }
}

fn send_first(vb: VirtioBalloon) -> Result<(), Errno> {
    let sent = if faulty(fault::STATS_UNINIT) {
        // A buffer of full size, for the sign alone, with whatever the allocation held. Differs: here that is zeros, or what was told before sleep.
        expose_stats(vb, STATS_NR_MAX)
    } else {
        send_stats(vb)
    };
    if sent.is_err() {
        warn("init_vqs: failed to add the statistics buffer");
    }
    sent
}

/// The device wants fresh statistics; in the interrupt. Linux: stats_request().
pub fn stats_request(vq: u64) {
    let vdev = VirtioDevice::at(Virtqueue::at(vq).device().get());
    let vb = VirtioBalloon::at(vdev.private().get());
    vb.stop_update_spinlock().lock();
    if vb.stop_update().get() == 0 {
        queue_work(Workqueue::SystemFreezable, vb.stats_work());
    }
    vb.stop_update_spinlock().unlock();
}

/// The work that answers. Linux: update_balloon_stats_func(), stats_handle_request().
pub fn update_balloon_stats_func(vb: u64) {
    let vb = VirtioBalloon::at(vb);
    if Virtqueue::at(vb.stats_vq().get()).get_buf().is_none() {
        return;
    }
    if send_stats(vb).is_err() {
        warn("virtio_balloon: failed to send statistics");
    }
}
