//! The LRU, as far as page migration of old kernels puts pages on it. Linux 3.5: mm/swap.c, mm/vmscan.c.
//!
//! One list. Nobody reclaims from it: a page that comes here and has an owner elsewhere is what the 2012 balloon compaction and a race of
//! the merged one leave behind. Layout: lock, list head.

use wire::debug;
use wire::layout::page::flag;

use crate::kernel::data::LRU;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::mm::page::Page;
use crate::mm::page_alloc::put_page;

const LOCK: SpinLock = SpinLock::at(LRU, debug::lock::LRU);
const HEAD: u64 = LRU + SpinLock::BYTES;

/// Puts a page on the LRU and drops the caller's reference; the last one frees the page. Linux: putback_lru_page(), release_pages().
pub(crate) fn putback_lru_page(page: Page) {
    let flags = LOCK.lock_irqsave();
    if page.refcount() > 1 {
        page.set_flags(flag::LRU);
        list::list_add(page.lru(), HEAD);
    }
    LOCK.unlock_irqrestore(flags);
    put_page(page.pfn());
}

/// Makes the list empty.
pub(crate) fn init() {
    LOCK.init();
    list::init_list_head(HEAD);
}
