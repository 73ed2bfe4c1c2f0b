//! Free page reporting: the driver's half of its start. Linux 6.12: virtio_balloon.c virtballoon_probe().
//!
//! Differs: the queue is set up and its size is checked, but no page is reported: the memory manager has no reporting pass.

use wire::balloon::queue_size::REPORTING;

use crate::balloon::driver::VirtioBalloon;
use crate::virtio::Errno;
use crate::virtio::ring::Virtqueue;

/// A report has 32 entries, and must fit the ring at once. Linux: PAGE_REPORTING_CAPACITY.
pub fn register(vb: VirtioBalloon) -> Result<(), Errno> {
    if Virtqueue::at(vb.reporting_vq().get()).num().get() < u32::from(REPORTING) {
        return Err(Errno::NoSpc);
    }
    Ok(())
}
