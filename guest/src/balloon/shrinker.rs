//! The driver's shrinker: under memory pressure hinted blocks go back to the allocator. Linux 6.12: virtio_balloon_shrinker_scan().
//!
//! It takes blocks whatever has become of their descriptors. A device that has not used one yet will use it later, when the block may
//! have another owner and other contents. With HINT_WAIT_ON_ACK there is no such block on the list.

use wire::debug::HINT_RECLAIM;

use crate::balloon::driver::{VirtioBalloon, deflates_in_shrinker};
use crate::balloon::hinting::{HINT_BLOCK_PAGES, return_free_pages_to_mm};
use crate::balloon::inflate::{leak_balloon, update_balloon_size};
use crate::kernel::switch::{fault, faulty};
use crate::mm::shrinker::{Shrinker, register_shrinker, unregister_shrinker};
use crate::virtio::Errno;

/// Pages that could be freed. Linux: virtio_balloon_shrinker_count().
fn virtio_balloon_shrinker_count(vb: u64, _unused: u64) -> u64 {
    let vb = VirtioBalloon::at(vb);
    let blocks = vb.num_free_page_blocks().get();
    if faulty(fault::SHRINK_COUNT) {
        // Shifted the wrong way: up to 1023 blocks count as no page, so nobody asks for them.
        return blocks / HINT_BLOCK_PAGES;
    }
    let balloon = if deflates_in_shrinker() { vb.num_pages().get() } else { 0 };
    blocks * HINT_BLOCK_PAGES + balloon
}

/// Frees at least `nr_to_scan` pages if there are as many; returns how many. Linux: shrink_free_pages().
fn virtio_balloon_shrinker_scan(vb: u64, nr_to_scan: u64) -> u64 {
    let vb = VirtioBalloon::at(vb);
    let blocks_to_free = nr_to_scan.div_ceil(HINT_BLOCK_PAGES);
    let pages_freed = return_free_pages_to_mm(vb, blocks_to_free, HINT_RECLAIM) * HINT_BLOCK_PAGES;
    if deflates_in_shrinker() && pages_freed < nr_to_scan {
        return pages_freed + shrink_balloon_pages(vb, nr_to_scan - pages_freed);
    }
    pages_freed
}

/// Deflates by so many pages, a batch at a time, whoever wanted them for what. Linux: shrink_balloon_pages(), from 5.0 to 5.5.
fn shrink_balloon_pages(vb: VirtioBalloon, mut pages_to_free: u64) -> u64 {
    let mut pages_freed = 0;
    while vb.num_pages().get() != 0 && pages_to_free != 0 {
        let freed = leak_balloon(vb, pages_to_free as usize) as u64;
        if freed == 0 {
            break;
        }
        pages_freed += freed;
        // All that was freed so far is taken off each time: with the second batch the rest falls below 0, and that is a large number.
        pages_to_free = if faulty(fault::SHRINK_SCAN) { pages_to_free.wrapping_sub(pages_freed) } else { pages_to_free - freed };
    }
    update_balloon_size(vb);
    pages_freed
}

/// Linux: virtio_balloon_register_shrinker().
pub fn virtio_balloon_register_shrinker(vb: VirtioBalloon) -> Result<(), Errno> {
    let shrinker = register_shrinker(virtio_balloon_shrinker_count, virtio_balloon_shrinker_scan, vb.addr()).ok_or(Errno::NoMem)?;
    vb.shrinker().set(shrinker.addr());
    Ok(())
}

/// Linux: virtio_balloon_unregister_shrinker().
pub fn virtio_balloon_unregister_shrinker(vb: VirtioBalloon) {
    unregister_shrinker(Shrinker::at(vb.shrinker().get()));
    vb.shrinker().set(0);
}
