//! What was proposed instead of v33 in its discussion, June 2018.

use wire::balloon::HINT_BLOCK_ORDER;

use super::v33::send_array;
use crate::balloon::driver::VirtioBalloon;
use crate::balloon::hinting::{self, still_wanted};
use crate::mm::Gfp;
use crate::mm::free_page_list::{ENTRY_BYTES, get_from_popped_free_page_list, get_from_threaded_free_page_list, nr_free_blocks};
use crate::virtio::Errno;

/// Addresses that a block of the largest order holds.
const BLOCK_ENTRIES: u32 = hinting::HINT_BLOCK_BYTES / ENTRY_BYTES as u32;
/// Blocks of the largest order that are left to others. L. Torvalds names no number.
const BLOCKS_LEFT: u64 = 2;

/// By M. Wilcox: the first free block holds the addresses of all. "You'll need to return the page to the freelist afterwards, but free_pages() should take
/// care of that": as sketched it does not, for nobody refers to the block, and it still says that it is free.
pub(super) fn send_threaded(vb: VirtioBalloon) -> Result<(), Errno> {
    match get_from_threaded_free_page_list(HINT_BLOCK_ORDER, BLOCK_ENTRIES) {
        Some(threaded) => send_array(vb, threaded.block, HINT_BLOCK_ORDER, threaded.count),
        None => Ok(()),
    }
}

/// By M. Tsirkin: the first free block is popped, and holds the addresses of the others.
pub(super) fn send_popped(vb: VirtioBalloon) -> Result<(), Errno> {
    match get_from_popped_free_page_list(HINT_BLOCK_ORDER) {
        Some(popped) => send_array(vb, popped.block, HINT_BLOCK_ORDER, popped.count),
        None => Ok(()),
    }
}

/// By L. Torvalds: blocks are simply allocated, as in the merged driver, and the number of free ones says when to stop, so as not to take them all.
pub(super) fn send_allocated(vb: VirtioBalloon) -> Result<(), Errno> {
    while still_wanted(vb) && nr_free_blocks(HINT_BLOCK_ORDER) > BLOCKS_LEFT {
        match hinting::get_free_page_and_send(vb, Gfp::MINFLAGS) {
            Ok(()) => {}
            Err(Errno::NoSpc) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
