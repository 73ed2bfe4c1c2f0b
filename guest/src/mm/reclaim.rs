//! What an allocation does when the fast path fails. Linux: mm/page_alloc.c __alloc_pages_slowpath(), mm/vmscan.c try_to_free_pages().
//!
//! Differs: nothing but shrinkers to reclaim from, no compaction, no kswapd to wake.

use crate::mm::fallback::unreserve_highatomic_pageblock;
use crate::mm::gfp::{AllocFlags, Gfp, Watermark};
use crate::mm::page::Page;
use crate::mm::page_alloc::get_page_from_freelist;
use crate::mm::pcp::{self, COSTLY_ORDER};
use crate::mm::stats::{self, Event};
use crate::mm::watermark::zone_watermark_ok;
use crate::mm::zone::Zone;
use crate::mm::{globals, oom, shrinker};

/// First priority of a reclaim: 1/4096 of what there is. Linux: DEF_PRIORITY.
const DEF_PRIORITY: u32 = 12;
/// Pages that end a reclaim. Linux: SWAP_CLUSTER_MAX.
const SWAP_CLUSTER_MAX: u64 = 32;
/// Linux: MAX_RECLAIM_RETRIES.
const MAX_RECLAIM_RETRIES: u32 = 16;

/// The slow path: min watermark, then reclaim and retry, then the OOM notifiers. Linux: __alloc_pages_slowpath().
pub(crate) fn alloc_slowpath(gfp: Gfp, order: u32) -> Option<Page> {
    let flags = AllocFlags::slow(gfp, order);
    if let Some(page) = get_page_from_freelist(gfp, order, flags) {
        return Some(page);
    }
    if !gfp.contains(Gfp::DIRECT_RECLAIM) {
        return None;
    }
    stats::count(Event::AllocStall, 1);
    let mut without_progress = 0;
    loop {
        let freed = try_to_free_pages();
        if let Some(page) = retry_after_reclaim(gfp, order, flags) {
            return Some(page);
        }
        if gfp.contains(Gfp::NORETRY) || order > COSTLY_ORDER && !gfp.contains(Gfp::RETRY_MAYFAIL) {
            return None;
        }
        without_progress = if freed > 0 { 0 } else { without_progress + 1 };
        if without_progress <= MAX_RECLAIM_RETRIES && should_reclaim_retry(order, flags) {
            continue;
        }
        // Before anything drastic: perhaps somebody else freed a lot meanwhile.
        if let Some(page) = get_page_from_freelist(gfp, order, AllocFlags { watermark: Watermark::High, ..AllocFlags::FAST }) {
            return Some(page);
        }
        if order > COSTLY_ORDER || gfp.contains(Gfp::RETRY_MAYFAIL) || oom::out_of_memory() == 0 {
            return None;
        }
        without_progress = 0;
    }
}

/// Whether some zone has enough now, so that the allocation failed only by a race. Linux: should_reclaim_retry(), without pages that
/// reclaim could still free.
fn should_reclaim_retry(order: u32, flags: AllocFlags) -> bool {
    let class = globals::nr_zones() - 1;
    Zone::all().any(|zone| zone_watermark_ok(zone, order, zone.watermark(Watermark::Min), class, flags))
}

/// Tries again, then once more with what was hidden on the per-CPU lists and in the high-atomic reserve. Linux: __alloc_pages_direct_reclaim().
/// Differs: also when nothing was reclaimed; what then hides on other vCPUs' lists comes back through kswapd and the periodic drain in Linux.
fn retry_after_reclaim(gfp: Gfp, order: u32, flags: AllocFlags) -> Option<Page> {
    get_page_from_freelist(gfp, order, flags).or_else(|| {
        unreserve_highatomic_pageblock(gfp.migratetype());
        pcp::drain_all_pages();
        get_page_from_freelist(gfp, order, flags)
    })
}

/// Runs the shrinkers harder and harder until enough is free; pages freed. Linux: try_to_free_pages(), do_try_to_free_pages().
fn try_to_free_pages() -> u64 {
    let mut freed = 0;
    for priority in (0..=DEF_PRIORITY).rev() {
        freed += shrinker::shrink_slab(priority);
        if freed >= SWAP_CLUSTER_MAX {
            break;
        }
    }
    freed
}
