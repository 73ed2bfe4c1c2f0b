//! A callback for each free block. Posted: [v13 5/5], W. Wang, 3 August 2017; the walk under the zone's lock by [v14 4/5], the stop by [v15 4/5].

use wire::debug::HINT;
use wire::platform::PAGE_SIZE;

use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::balloon::hinting::{drained_free_page_vq, still_wanted};
use crate::mm::Pfn;
use crate::mm::free_page_list::{Stop, walk_free_mem_block};
use crate::virtio::Errno;
use crate::virtio::ring::Scatter;

/// Smallest order that is told. By [v13 5/5]: not single pages.
const MIN_ORDER: u32 = 1;

/// Walks all free blocks of more than one page.
pub(super) fn report_free_page(vb: VirtioBalloon) -> Result<(), Errno> {
    walk_free_mem_block(MIN_ORDER, Stop::Walk, &mut |pfn, order| virtio_balloon_send_free_pages(vb, pfn, order));
    Ok(())
}

/// Exposes a block, under the zone's lock; `false` when the device wants no more, or the queue has no room.
/// Differs: by send_one_sg() of [v13 5/5] the driver spins until the device has used the buffer, with the zone's lock held and interrupts off ("This unlimited
/// busy waiting needs to go away", M. Tsirkin); here what has no room ends the walk, as the stop of [v15 4/5] is for.
pub(super) fn virtio_balloon_send_free_pages(vb: VirtioBalloon, pfn: Pfn, order: u32) -> bool {
    if !still_wanted(vb) {
        return false;
    }
    let vq = drained_free_page_vq(vb);
    // One entry is kept for the stop id.
    if vq.num_free().get() <= 1 {
        return false;
    }
    let sg = Scatter { addr: pfn.addr(), len_bytes: (PAGE_SIZE << order) as u32 };
    let order_and_head = |head: u16| u64::from(order) | u64::from(head) << 32;
    if vq.add_inbuf(&[sg], pfn.addr(), |head| arch::trace(HINT, pfn.0, order_and_head(head))).is_err() {
        return false;
    }
    vq.kick();
    true
}
