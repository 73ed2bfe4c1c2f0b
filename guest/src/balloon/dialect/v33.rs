//! Arrays of addresses. Posted: [v33 2/4], W. Wang, 15 June 2018.
//!
//! Differs: as posted there is one buffer of 16 pages for all time, with a head that says how many hints it holds and how large each is, exposed again for
//! the next request whether or not the device has used it. Here an array is a page that is allocated for it, and freed when it was used.

use wire::balloon::HINT_BLOCK_ORDER;
use wire::platform::PAGE_SIZE;
use wire::switch::correct;

use crate::balloon::driver::VirtioBalloon;
use crate::balloon::hinting::{still_wanted, wait_for_buffer};
use crate::kernel::boot::boot_info;
use crate::kernel::switch::corrected;
use crate::mm::free_page_list::{ENTRY_BYTES, Place, get_from_free_page_list};
use crate::mm::{self, Gfp, Pfn};
use crate::virtio::Errno;
use crate::virtio::ring::{Scatter, Virtqueue};

/// Addresses that an array holds: as many as a page does, or fewer where the VMM says so, for no guest here has more blocks than a page holds addresses.
fn array_entries() -> u32 {
    boot_info().hint_array.clamp(1, PAGE_SIZE / ENTRY_BYTES) as u32
}

/// Sends an array of free blocks of the largest order; where that is corrected, array after array until there are no more. As posted a full array is the last,
/// and nobody knows whether it was all.
pub(super) fn report_free_page_func(vb: VirtioBalloon) -> Result<(), Errno> {
    let mut from = Place::START;
    loop {
        let page = mm::alloc_pages(Gfp::KERNEL | Gfp::NOWARN, 0).ok_or(Errno::NoMem)?;
        let added_entries = get_from_free_page_list(HINT_BLOCK_ORDER, page.addr(), array_entries(), &mut from);
        send_array(vb, page, 0, added_entries)?;
        if from.is_end() || !corrected(correct::NO_CURSOR) || !still_wanted(vb) {
            return Ok(());
        }
    }
}

/// Exposes the addresses at the start of a block, waits until the device has read them, and frees the block.
pub(super) fn send_array(vb: VirtioBalloon, block: Pfn, order: u32, count: u32) -> Result<(), Errno> {
    if count == 0 {
        // A descriptor of no bytes is not allowed.
        mm::free_pages(block, order);
        return Ok(());
    }
    let vq = Virtqueue::at(vb.free_page_vq().get());
    let sg = Scatter { addr: block.addr(), len_bytes: count * ENTRY_BYTES as u32 };
    if let Err(errno) = vq.add_outbuf(sg, block.addr(), |_head| {}) {
        mm::free_pages(block, order);
        return Err(errno);
    }
    vq.kick();
    if let Err(errno) = wait_for_buffer(vb, block.addr()) {
        vb.keep_unacked_block(block, order);
        return Err(errno);
    }
    mm::free_pages(block, order);
    Ok(())
}
