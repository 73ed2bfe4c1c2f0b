//! Free page reporting, the driver's half: tells the device of free blocks and waits until it has taken note. Linux 6.12:
//! virtio_balloon.c virtballoon_free_page_report(). The memory manager's half is [`crate::mm::page_reporting`].

use wire::debug::REPORT;
use wire::platform::PAGE_SIZE;

use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::panic::warn;
use crate::kernel::wait::wait_event;
use crate::mm::page_reporting::{Batch, CAPACITY, page_reporting_register, page_reporting_unregister};
use crate::virtio::Errno;
use crate::virtio::ring::{Scatter, Virtqueue};

/// What a report that failed returns; the memory manager only looks whether it is 0.
const FAILED: u64 = 1;

/// Exposes a batch as one chain and sleeps until the device has used it: only then may the blocks be allocated again. Linux:
/// virtballoon_free_page_report().
fn virtballoon_free_page_report(vb: u64, batch: u64) -> u64 {
    let vb = VirtioBalloon::at(vb);
    let vq = Virtqueue::at(vb.reporting_vq().get());
    let batch = Batch::from_argument(batch);
    let mut sgs = [Scatter { addr: 0, len_bytes: 0 }; CAPACITY as usize];
    let mut nents = 0;
    for (pfn, order) in batch.blocks() {
        sgs[nents] = Scatter { addr: pfn.addr(), len_bytes: (PAGE_SIZE << order) as u32 };
        nents += 1;
    }
    let announce = |_head| batch.blocks().for_each(|(pfn, order)| arch::trace(REPORT, pfn.0, order.into()));
    if vq.add_inbuf(&sgs[..nents], vb.addr(), announce).is_err() {
        // Nothing is lost but the optimisation: the blocks go back unreported.
        warn("virtballoon_free_page_report: the queue takes no buffer");
        return FAILED;
    }
    vq.kick();
    wait_event(vb.acked_queue(), || vq.get_buf().is_some());
    0
}

/// Registers the driver with the memory manager; a full batch must fit the ring. Linux: virtballoon_probe().
pub fn register(vb: VirtioBalloon) -> Result<(), Errno> {
    if u64::from(Virtqueue::at(vb.reporting_vq().get()).num().get()) < CAPACITY {
        return Err(Errno::NoSpc);
    }
    // Another device that reports. Linux: -EBUSY.
    if page_reporting_register(virtballoon_free_page_report, vb.addr()) { Ok(()) } else { Err(Errno::Inval) }
}

/// Unregisters it; a report that runs has ended when this returns.
pub fn unregister() {
    page_reporting_unregister();
}
