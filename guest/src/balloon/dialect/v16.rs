//! A callback for each free block, which may say stop. Posted: [v16 4/5] and [v16 5/5], W. Wang, 30 September 2017.

use wire::balloon::HINT_BLOCK_ORDER;
use wire::debug::HINT;
use wire::platform::PAGE_SIZE;
use wire::switch::correct;

use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::balloon::hinting::{drained_free_page_vq, still_wanted};
use crate::kernel::switch::corrected;
use crate::mm::Pfn;
use crate::mm::free_page_list::{Stop, walk_free_mem_block};
use crate::virtio::Errno;
use crate::virtio::ring::Scatter;

const _: () = assert!(HINT_BLOCK_ORDER <= 10, "a block's length fits a descriptor");

/// Walks all free blocks down to single pages.
pub(super) fn report_free_page(vb: VirtioBalloon) -> Result<(), Errno> {
    let stop = if corrected(correct::STOP_INNER_LOOP) { Stop::Walk } else { Stop::List };
    walk_free_mem_block(0, stop, &mut |pfn, order| virtio_balloon_send_free_pages(vb, pfn, order));
    Ok(())
}

/// Exposes a block, under the zone's lock; `false` when the device wants no more, or when the entry behind this one is the last, which is for the stop id.
///
/// By [v21 4/5], batch_free_page_sg() and add_one_sg(), whose BUG_ON() takes it for granted that an entry is free. Nothing else could be done without one
/// (T. Handa, 11 January 2018): the callback can neither wait for the device nor remember the block. [v16 5/5] left out what had no room.
fn virtio_balloon_send_free_pages(vb: VirtioBalloon, pfn: Pfn, order: u32) -> bool {
    if !still_wanted(vb) {
        return false;
    }
    let vq = drained_free_page_vq(vb);
    let sg = Scatter { addr: pfn.addr(), len_bytes: (PAGE_SIZE << order) as u32 };
    let order_and_head = |head: u16| u64::from(order) | u64::from(head) << 32;
    let added = vq.add_inbuf(&[sg], pfn.addr(), |head| arch::trace(HINT, pfn.0, order_and_head(head)));
    assert!(added.is_ok(), "virtio_balloon: no entry for a free block");
    vq.kick();
    vq.num_free().get() > 1
}
