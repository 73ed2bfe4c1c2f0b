//! Pages that a balloon owns: on its list, `Offline`, movable, one reference. Linux: mm/balloon_compaction.c.
//!
//! Rules: the page lock is held over every change of mapping and list; `pages_lock` nests inside it. Differs: no compaction runs, so
//! `isolated_pages` stays 0; the list code respects isolated pages all the same.

use wire::debug;

use crate::arch::{read64, write64};
use crate::kernel::data;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::kernel::switch::{fault, faulty};
use crate::mm::gfp::Gfp;
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::alloc_pages;
use crate::mm::stats::{self, Event};

const D_ISOLATED: u64 = 0;
const D_LOCK: u64 = 8;
const D_PAGES: u64 = 16;

/// `struct balloon_dev_info`, by address. Layout: u64 isolated_pages, pages_lock, list head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonDevInfo(u64);

impl BalloonDevInfo {
    /// Bytes that it takes in a structure.
    pub const BYTES: u64 = 32;

    /// The one at `addr`.
    pub const fn at(addr: u64) -> BalloonDevInfo {
        BalloonDevInfo(addr)
    }
    /// Makes the balloon empty. Linux: balloon_devinfo_init().
    pub fn init(self) {
        write64(self.0 + D_ISOLATED, 0);
        self.pages_lock().init();
        list::init_list_head(self.pages());
    }
    /// `pages_lock`.
    pub fn pages_lock(self) -> SpinLock {
        SpinLock::at(self.0 + D_LOCK, debug::lock::PAGES)
    }
    /// Head of the list of pages.
    pub fn pages(self) -> u64 {
        self.0 + D_PAGES
    }
    /// Pages that compaction holds.
    pub fn isolated_pages(self) -> u64 {
        read64(self.0 + D_ISOLATED)
    }
}

/// Allocates a page for a balloon: no reserves, no OOM notifiers. Linux: balloon_page_alloc().
pub fn balloon_page_alloc() -> Option<Pfn> {
    if faulty(fault::ALLOC_UNDER_LOCK) {
        // Without NORETRY the allocation waits for memory that only the OOM notifiers may have. In Linux it waited by a detour: for the reclaim of
        // another thread, which was in the OOM notifiers.
        return alloc_pages(Gfp::HIGHUSER_MOVABLE | Gfp::NOMEMALLOC | Gfp::NOWARN, 0);
    }
    alloc_pages(Gfp::BALLOON, 0)
}

/// Linux: balloon_page_insert(); under both locks.
fn balloon_page_insert(dev: BalloonDevInfo, page: Page) {
    page.set_offline();
    page.set_movable(data::BALLOON_MOPS);
    page.set_private(dev.0);
    list::list_add(page.lru(), dev.pages());
}

/// Linux: balloon_page_delete(); under both locks.
fn balloon_page_delete(page: Page) {
    page.clear_offline();
    page.clear_movable();
    page.set_private(0);
    list::list_del(page.lru());
}

/// Puts a new page, which only the caller knows, first on the balloon's list. Linux: balloon_page_enqueue().
pub fn balloon_page_enqueue(dev: BalloonDevInfo, pfn: Pfn) {
    let page = Page::of(pfn);
    let flags = dev.pages_lock().lock_irqsave();
    assert!(page.try_lock(), "a new balloon page is locked");
    assert!(page.refcount() == 1, "a balloon page has {} references", page.refcount());
    balloon_page_insert(dev, page);
    page.unlock();
    stats::count(Event::BalloonInflate, 1);
    dev.pages_lock().unlock_irqrestore(flags);
}

/// Takes up to `wanted` pages off the balloon's list and puts them first on the list at `pages`; returns how many. Locked and isolated
/// pages are passed over. Linux: balloon_page_list_dequeue().
pub fn balloon_page_list_dequeue(dev: BalloonDevInfo, pages: u64, wanted: u64) -> u64 {
    let mut got = 0;
    let flags = dev.pages_lock().lock_irqsave();
    for node in list::iter(dev.pages()) {
        if got == wanted {
            break;
        }
        let page = Page::of_lru(node);
        // Compaction takes the page lock first: waiting for it here would be a deadlock.
        if !page.try_lock() {
            continue;
        }
        if !page.is_isolated() {
            balloon_page_delete(page);
            stats::count(Event::BalloonDeflate, 1);
            list::list_add(page.lru(), pages);
            got += 1;
        }
        page.unlock();
    }
    dev.pages_lock().unlock_irqrestore(flags);
    got
}

/// Takes one page off the balloon's list. Linux: balloon_page_dequeue().
///
/// # Panics
/// When the list is empty and no page is isolated: the caller's count of pages is wrong then.
pub fn balloon_page_dequeue(dev: BalloonDevInfo) -> Option<Pfn> {
    let flags = dev.pages_lock().lock_irqsave();
    let mut taken = None;
    for node in list::iter(dev.pages()) {
        let page = Page::of_lru(node);
        if !page.try_lock() {
            continue;
        }
        if !page.is_isolated() {
            balloon_page_delete(page);
            stats::count(Event::BalloonDeflate, 1);
            taken = Some(page.pfn());
        }
        page.unlock();
        if taken.is_some() {
            break;
        }
    }
    let lost = taken.is_none() && list::list_empty(dev.pages()) && dev.isolated_pages() == 0;
    dev.pages_lock().unlock_irqrestore(flags);
    assert!(!lost, "balloon pages are lost");
    taken
}
