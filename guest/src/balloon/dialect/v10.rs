//! A cursor in the free lists, moved on by a call for each block. Posted: [v10 4/6] and [v10 6/6], W. Wang, 4 May 2017.
//!
//! The request is served by a work, and its buffer is posted again whatever it held: what was wrong with both in v8 is mended here.
//! Differs: request and response are those of v8 ([`super::request`]), where v10 has one message for both, with a flag and a count of chunks; so requests,
//! too, take `balloon_lock`, for the buffer is the one that inflation uses. As posted the work also runs when a response comes back, takes that for a
//! message of a wrong length, and posts the request buffer once more; here it sees that there is none.

use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SHIFT;

use super::request::send_chunks;
use crate::arch;
use crate::balloon::driver::VirtioBalloon;
use crate::mm::free_page_list::report_unused_page_block;
use crate::mm::gfp::Migratetype;
use crate::mm::page::Page;
use crate::mm::zone::Zone;

/// Words of a chunk: address and size.
const CHUNK_WORDS: u64 = 2;

/// Answers a request: block after block, down to those of two pages. The zone's lock is free between any two.
pub(super) fn miscq_report_unused_pages(vb: VirtioBalloon, req_id: u64) {
    vb.balloon_mutex().lock();
    let mut pos = 0;
    let mut page = None;
    for zone in Zone::all() {
        for order in (1..=MAX_PAGE_ORDER).rev() {
            for migratetype in Migratetype::ALL {
                while report_unused_page_block(zone, order, migratetype, &mut page).is_ok() {
                    let block = page.expect("a block was offered");
                    add_one_chunk(vb, req_id, &mut pos, block, order);
                }
            }
        }
    }
    send_chunks(vb, req_id, pos, true);
    vb.balloon_mutex().unlock();
}

/// Notes a block, and sends what is noted when there is no room for another.
fn add_one_chunk(vb: VirtioBalloon, req_id: u64, pos: &mut u64, block: Page, order: u32) {
    let entry = vb.request().resp_data().get() + *pos * 8;
    arch::write64(entry, block.pfn().addr());
    arch::write64(entry + 8, 1 << order << PAGE_SHIFT);
    *pos += CHUNK_WORDS;
    if (*pos + CHUNK_WORDS) * 8 > vb.request().resp_buf_size().get() {
        send_chunks(vb, req_id, *pos, false);
        *pos = 0;
    }
}
