//! Inflated and deflated pages as ranges: drivers/virtio/virtio_balloon.c as posted in "[PATCH v6 kernel 3/5] virtio-balloon: speed up inflate/deflate
//! process" (L. Li, December 2016), and with v8's chunks in place of packed words.
//!
//! Pages are sorted by bitmaps: each stands for 1 GiB of frames from the lowest on, and its runs of bits are the ranges. What is told when the
//! balloon grows is the whole balloon, old pages too: the bitmap is made of the balloon's list. Flaws as posted: a run of exactly 4096 pages takes
//! one word, whose length field it does not fit (S3); and, in no list of flaws so far, a highest page whose frame is a multiple of 64 is never
//! told, since rounding up leaves it outside.
//!
//! Differs: v8 posted its own loops around the same idea, with flaws of their own; here both have v6's.

use wire::balloon::request::PACKED_LEN_BITS;
use wire::balloon::seed_feature;
use wire::debug::{DEFLATE, INFLATE};
use wire::dialect::Dialect;
use wire::platform::PAGE_SIZE;
use wire::switch::correct;

use crate::arch;
use crate::balloon::dialect::request::{Request, is_v8, send_resp_data};
use crate::balloon::driver::VirtioBalloon;
use crate::balloon::inflate::OUT_OF_PUFF_MS;
use crate::kernel::list;
use crate::kernel::switch::{self, corrected};
use crate::kernel::timer::msleep;
use crate::mm::balloon_compaction::{balloon_page_alloc, balloon_page_dequeue, balloon_page_enqueue};
use crate::mm::page_alloc::put_page;
use crate::mm::slab::{kfree, kmalloc};
use crate::mm::{Gfp, Page, Pfn, adjust_managed_page_count};
use crate::virtio::ring::Virtqueue;
use wire::balloon::feature;

/// Bytes of a bitmap, and of the room for words at first. v8: PAGE_BMAP_SIZE.
pub const BALLOON_BMAP_SIZE: u64 = 8 * PAGE_SIZE;
/// Frames of a bitmap. Linux: posted, PFNS_PER_BMAP.
const PFNS_PER_BMAP: u64 = BALLOON_BMAP_SIZE * 8;
/// Most bitmaps. v8: PAGE_BMAP_COUNT_MAX.
pub const BALLOON_BMAP_COUNT: usize = 32;
const BITS_PER_LONG: u64 = 64;

/// Whether pages are told as ranges (v6: PAGE_RANGE, v8: CHUNK_TRANSFER). The bit means something else in the merged interface.
pub fn use_bmap(vb: VirtioBalloon) -> bool {
    matches!(switch::dialect(), Dialect::V6 | Dialect::V8) && vb.has_feature(seed_feature::PAGE_RANGE)
}

/// Linux: posted, init_bmap_pfn_range().
fn init_bmap_pfn_range(rq: Request) {
    rq.min_pfn().set(u64::MAX);
    rq.max_pfn().set(0);
}

/// Linux: posted, update_bmap_pfn_range().
fn update_bmap_pfn_range(rq: Request, page: Pfn) {
    rq.min_pfn().set(rq.min_pfn().get().min(page.0));
    rq.max_pfn().set(rq.max_pfn().get().max(page.0));
}

/// Adds bitmaps for so many frames, as many as memory allows. Linux: posted, extend_page_bitmap().
fn extend_page_bitmap(rq: Request, nr_pfn: u64) {
    let bmap_count = nr_pfn.div_ceil(PFNS_PER_BMAP).min(BALLOON_BMAP_COUNT as u64) as usize;
    for i in 1..bmap_count {
        let Some(bitmap) = kmalloc(BALLOON_BMAP_SIZE, Gfp::KERNEL) else { break };
        rq.page_bitmap().element(i).set(bitmap);
        rq.nr_page_bmap().set(rq.nr_page_bmap().get() + 1);
    }
}

/// Frees all bitmaps but the first. Linux: posted, free_extended_page_bitmap().
pub(super) fn free_extended_page_bitmap(rq: Request) {
    for i in 1..rq.nr_page_bmap().get() as usize {
        kfree(rq.page_bitmap().element(i).get());
        rq.page_bitmap().element(i).set(0);
        rq.nr_page_bmap().set(rq.nr_page_bmap().get() - 1);
    }
}

/// Linux: posted, kfree_page_bitmap().
pub(super) fn kfree_page_bitmap(rq: Request) {
    for i in 0..rq.nr_page_bmap().get() as usize {
        kfree(rq.page_bitmap().element(i).get());
    }
}

/// Linux: posted, clear_page_bitmap().
fn clear_page_bitmap(rq: Request) {
    for i in 0..rq.nr_page_bmap().get() as usize {
        arch::fill(rq.page_bitmap().element(i).get(), 0, BALLOON_BMAP_SIZE);
    }
}

/// Appends a run of pages to the response: v6: do_set_resp_bitmap(), one word where the length fits its 12 bits, or is said to; v8:
/// add_one_chunk(), two words.
pub fn do_set_resp_bitmap(rq: Request, base_pfn: u64, pages: u64) {
    let range = rq.resp_data().get() + 8 * rq.resp_pos().get();
    let fits = if corrected(correct::RANGE_LENGTH) { pages < 1 << PACKED_LEN_BITS } else { pages <= 1 << PACKED_LEN_BITS };
    let words = if is_v8() {
        arch::write64(range, base_pfn << PACKED_LEN_BITS);
        arch::write64(range + 8, pages << PACKED_LEN_BITS);
        2
    } else if fits {
        arch::write64(range, base_pfn << PACKED_LEN_BITS | pages);
        1
    } else {
        arch::write64(range, base_pfn << PACKED_LEN_BITS);
        arch::write64(range + 8, pages);
        2
    };
    rq.resp_pos().set(rq.resp_pos().get() + words);
}

/// The first bit from `from` on, below `end`, that is `set`; `end` if there is none. Linux: find_next_bit(), find_next_zero_bit().
fn find_next(bitmap: u64, end: u64, from: u64, set: bool) -> u64 {
    let mut at = from;
    while at < end {
        let word = arch::read64(bitmap + at / BITS_PER_LONG * 8);
        let wanted = if set { word } else { !word } & u64::MAX << (at % BITS_PER_LONG);
        if wanted != 0 {
            return (at / BITS_PER_LONG * BITS_PER_LONG + u64::from(wanted.trailing_zeros())).min(end);
        }
        at = (at / BITS_PER_LONG + 1) * BITS_PER_LONG;
    }
    end
}

/// Turns a bitmap's runs into ranges, and sends the response whenever it is full. Linux: posted, set_bulk_pages().
pub fn set_bulk_pages(vb: VirtioBalloon, vq: Virtqueue, start_pfn: u64, bitmap: u64, len: u64, code: u32) {
    let rq = vb.request();
    let (mut pos, end) = (0, len * 8);
    while pos < end {
        let one = find_next(bitmap, end, pos, true);
        if one == end {
            break;
        }
        let pages = find_next(bitmap, end, one + 1, false) - one;
        if (rq.resp_pos().get() + 2) * 8 > rq.resp_buf_size().get() {
            send_resp_data(vb, vq, false);
        }
        for pfn in start_pfn + one..start_pfn + one + pages {
            arch::trace(code, pfn, 0);
        }
        do_set_resp_bitmap(rq, start_pfn + one, pages);
        pos = one + pages;
    }
}

/// Tells what the bitmaps hold. Linux: posted, tell_host().
fn tell_host(vb: VirtioBalloon, vq: Virtqueue, code: u32) {
    let rq = vb.request();
    let start_pfn = rq.start_pfn().get();
    let nr_pfn = (rq.end_pfn().get() - start_pfn + 1).next_multiple_of(BITS_PER_LONG);
    let nr_used_bmap = nr_pfn.div_ceil(PFNS_PER_BMAP);
    let bmap_len = nr_pfn / 8;
    for i in 0..nr_used_bmap {
        let bmap_size = if i + 1 == nr_used_bmap { bmap_len - BALLOON_BMAP_SIZE * i } else { BALLOON_BMAP_SIZE };
        let bitmap = rq.page_bitmap().element(i as usize).get();
        set_bulk_pages(vb, vq, start_pfn + i * PFNS_PER_BMAP, bitmap, bmap_size, code);
    }
    if rq.resp_pos().get() > 0 {
        send_resp_data(vb, vq, false);
    }
}

/// Tells the pages of a list, as many frames at a time as the bitmaps cover. The limit is that of the bitmaps before they are extended, so the
/// others stay empty. Linux: posted, set_page_bitmap().
fn set_page_bitmap(vb: VirtioBalloon, pages: u64, vq: u64, code: u32) {
    let (rq, vq) = (vb.request(), Virtqueue::at(vq));
    rq.min_pfn().set(rq.min_pfn().get() & !(BITS_PER_LONG - 1));
    rq.max_pfn().set(rq.max_pfn().get().next_multiple_of(BITS_PER_LONG));
    let pfn_limit = PFNS_PER_BMAP * rq.nr_page_bmap().get();
    if rq.nr_page_bmap().get() == 1 {
        extend_page_bitmap(rq, (rq.max_pfn().get() - rq.min_pfn().get()) + 1);
    }
    let mut pfn = rq.min_pfn().get();
    while pfn < rq.max_pfn().get() {
        clear_page_bitmap(rq);
        rq.start_pfn().set(pfn);
        let (mut end_pfn, mut found) = (pfn, false);
        for node in list::iter(pages) {
            let balloon_pfn = Page::of_lru(node).pfn().0;
            if balloon_pfn < pfn || balloon_pfn >= pfn + pfn_limit {
                continue;
            }
            let bitmap = rq.page_bitmap().element(((balloon_pfn - pfn) / PFNS_PER_BMAP) as usize).get();
            let pos = (balloon_pfn - pfn) % PFNS_PER_BMAP;
            arch::fetch_or64(bitmap + pos / BITS_PER_LONG * 8, 1 << (pos % BITS_PER_LONG));
            end_pfn = end_pfn.max(balloon_pfn);
            found = true;
        }
        if found {
            rq.end_pfn().set(end_pfn);
            tell_host(vb, vq, code);
        }
        pfn += pfn_limit;
    }
}

/// Inflates by `num` pages, allocated under the lock and as many as there are; returns by how many. Linux: fill_balloon() of 4.10 with the patch.
pub fn fill_balloon(vb: VirtioBalloon, num: usize) -> usize {
    let rq = vb.request();
    init_bmap_pfn_range(rq);
    vb.balloon_mutex().lock();
    let mut num_pfns = 0;
    while num_pfns < num {
        let Some(page) = balloon_page_alloc() else {
            msleep(OUT_OF_PUFF_MS);
            break;
        };
        balloon_page_enqueue(vb.dev_info(), page);
        update_bmap_pfn_range(rq, page);
        vb.num_pages().set(vb.num_pages().get() + 1);
        if !vb.has_feature(feature::DEFLATE_ON_OOM) {
            adjust_managed_page_count(page, -1);
        }
        num_pfns += 1;
    }
    if num_pfns != 0 {
        set_page_bitmap(vb, vb.dev_info().pages(), vb.inflate_vq().get(), INFLATE);
    }
    vb.balloon_mutex().unlock();
    num_pfns
}

/// Deflates by at most `num` pages; returns by how many. Linux: leak_balloon() of 4.10 with the patch.
pub fn leak_balloon(vb: VirtioBalloon, num: usize) -> usize {
    let rq = vb.request();
    let pages = rq.pages().addr();
    init_bmap_pfn_range(rq);
    vb.balloon_mutex().lock();
    list::init_list_head(pages);
    let num = num.min(vb.num_pages().get() as usize);
    let mut num_pfns = 0;
    while num_pfns < num {
        let Some(page) = balloon_page_dequeue(vb.dev_info()) else { break };
        update_bmap_pfn_range(rq, page);
        list::list_add(Page::of(page).lru(), pages);
        vb.num_pages().set(vb.num_pages().get() - 1);
        num_pfns += 1;
    }
    if num_pfns != 0 {
        set_page_bitmap(vb, pages, vb.deflate_vq().get(), DEFLATE);
    }
    release_pages_balloon(vb, pages);
    vb.balloon_mutex().unlock();
    num_pfns
}

/// Frees pages that the balloon no longer owns. Linux: release_pages_balloon().
fn release_pages_balloon(vb: VirtioBalloon, pages: u64) {
    while let Some(node) = list::first(pages) {
        let page = Page::of_lru(node).pfn();
        if !vb.has_feature(feature::DEFLATE_ON_OOM) {
            adjust_managed_page_count(page, 1);
        }
        list::list_del(node);
        put_page(page);
    }
}
