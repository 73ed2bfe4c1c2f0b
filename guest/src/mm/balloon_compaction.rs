//! Pages that a balloon owns: on its list, `Offline`, movable, one reference. Linux: mm/balloon_compaction.c.
//!
//! Rules: the page lock is held over every change of mapping and list; `pages_lock` nests inside it. A page that compaction holds is off
//! the list and counted in `isolated_pages`; it is still the balloon's until another has taken its place.

use wire::debug;
use wire::switch::fault;

use crate::arch::{self, read64, write64};
use crate::kernel::data;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::kernel::switch::faulty;
use crate::mm::gfp::Gfp;
use crate::mm::migrate::{MovableOperations, rc};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::alloc_pages;
use crate::mm::stats::{self, Event};

const D_ISOLATED: u64 = 0;
const D_LOCK: u64 = 8;
const D_PAGES: u64 = 16;
const D_MIGRATEPAGE: u64 = 32;
const D_MAPPING: u64 = 40;

/// `struct balloon_dev_info`, by address. Layout: u64 isolated_pages, pages_lock, list head, u64 migratepage, u64 mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonDevInfo(u64);

impl BalloonDevInfo {
    /// Bytes that it takes in a structure.
    pub const BYTES: u64 = 48;

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
    /// What `mapping` of the balloon's pages holds beside its mark: the operations' address. Older kernels (3.8 to 3.17) had an object of the
    /// device there.
    fn mapping(self) -> u64 {
        match read64(self.0 + D_MAPPING) {
            0 => data::BALLOON_MOPS,
            own => own,
        }
    }
    /// Gives the balloon's pages a mapping of their own, in the frame of `page`. Linux 3.8: balloon_mapping_alloc().
    pub fn set_own_mapping(self, page: Pfn) {
        balloon_mops(page.addr());
        write64(self.0 + D_MAPPING, page.addr());
    }
    /// The frame of that mapping, which the caller frees. Linux 3.8: balloon_mapping_free().
    pub fn own_mapping(self) -> Option<Pfn> {
        Some(read64(self.0 + D_MAPPING)).filter(|&mapping| mapping != 0).map(Pfn::of_addr)
    }
    /// Address of that count.
    pub fn isolated_pages_addr(self) -> u64 {
        self.0 + D_ISOLATED
    }
    /// Under the lock.
    pub(crate) fn set_isolated_pages(self, pages: u64) {
        write64(self.0 + D_ISOLATED, pages);
    }
    /// Sets the driver's `migratepage(new, page)`, which returns one of [`rc`]. Linux: vb_dev_info.migratepage.
    pub fn set_migratepage(self, migratepage: fn(u64, u64) -> u64) {
        write64(self.0 + D_MIGRATEPAGE, migratepage as usize as u64);
    }
}

/// Allocates a page for a balloon: no reserves, no OOM notifiers. Linux: balloon_page_alloc().
pub fn balloon_page_alloc() -> Option<Pfn> {
    alloc_pages(Gfp::BALLOON, 0)
}

/// Linux: balloon_page_insert(); under both locks.
pub(crate) fn balloon_page_insert(dev: BalloonDevInfo, page: Page) {
    page.set_offline();
    page.set_movable(dev.mapping());
    page.set_private(dev.0);
    list::list_add(page.lru(), dev.pages());
}

/// Takes a page off the balloon's list, which is then not the balloon's any more; under both locks. Linux: balloon_page_delete().
pub(crate) fn balloon_page_delete(page: Page) {
    list::list_del(page.lru());
    balloon_page_finalize(page);
}

/// A page that is on no list is not the balloon's any more; under the page lock. Linux: balloon_page_finalize().
pub(crate) fn balloon_page_finalize(page: Page) {
    page.clear_offline();
    page.clear_movable();
    page.set_private(0);
}

/// The balloon that a page belongs to. Linux: balloon_page_device().
fn balloon_page_device(page: Page) -> Option<BalloonDevInfo> {
    Some(page.private()).filter(|&dev| dev != 0).map(BalloonDevInfo)
}

/// Compaction takes a page: it leaves the list and is counted; under the page lock. Linux: balloon_page_isolate().
fn balloon_page_isolate(page: u64, _mode: u64) -> u64 {
    let page = Page::of(Pfn(page));
    let dev = balloon_page_device(page).expect("a movable page without a balloon");
    let flags = dev.pages_lock().lock_irqsave();
    list::list_del(page.lru());
    dev.set_isolated_pages(dev.isolated_pages() + 1);
    dev.pages_lock().unlock_irqrestore(flags);
    1
}

/// Compaction gives a page back that did not move; under the page lock. Linux: balloon_page_putback().
fn balloon_page_putback(page: u64, _unused: u64) -> u64 {
    let page = Page::of(Pfn(page));
    let dev = balloon_page_device(page).expect("an isolated page without a balloon");
    let flags = dev.pages_lock().lock_irqsave();
    list::list_add(page.lru(), dev.pages());
    dev.set_isolated_pages(dev.isolated_pages() - 1);
    dev.pages_lock().unlock_irqrestore(flags);
    0
}

/// The driver puts `new` in a page's place; under both pages' locks. Linux: balloon_page_migrate().
fn balloon_page_migrate(new: u64, page: u64) -> u64 {
    let balloon = balloon_page_device(Page::of(Pfn(page)));
    assert!(Page::of(Pfn(page)).is_locked() && Page::of(Pfn(new)).is_locked(), "pages move without their locks");
    match balloon {
        Some(dev) => arch::call2(read64(dev.0 + D_MIGRATEPAGE), new, page),
        None => rc::AGAIN,
    }
}

/// Fills `balloon_mops`.
pub(crate) fn init() {
    balloon_mops(data::BALLOON_MOPS);
}

fn balloon_mops(addr: u64) {
    MovableOperations::at(addr).init(balloon_page_isolate, balloon_page_migrate, balloon_page_putback);
}

/// Puts a new page, which only the caller knows, first on the balloon's list. Linux: balloon_page_enqueue().
pub fn balloon_page_enqueue(dev: BalloonDevInfo, pfn: Pfn) {
    let page = Page::of(pfn);
    let flags = dev.pages_lock().lock_irqsave();
    assert!(page.try_lock(), "a new balloon page is locked");
    assert!(page.refcount() == 1, "a balloon page has {} references", page.refcount());
    if faulty(fault::DOUBLE_LIST_DEL) {
        // Right for a page that comes on a list; the driver's comes alone, off its list already.
        list::list_del(page.lru());
    }
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

/// The same as it was before 4.5 (21ea9fb69e7c): the list is walked without its lock, and a page's lock keeps only that page on it. The
/// DEQUEUE tracepoint stands where the next page is chosen and this one is not locked yet.
fn dequeue_unlocked(dev: BalloonDevInfo) -> Option<Pfn> {
    for node in list::iter(dev.pages()) {
        let page = Page::of_lru(node);
        arch::trace(debug::DEQUEUE, page.pfn().0, 0);
        if !page.try_lock() {
            continue;
        }
        let taken = !page.is_isolated();
        if taken {
            let flags = dev.pages_lock().lock_irqsave();
            balloon_page_delete(page);
            stats::count(Event::BalloonDeflate, 1);
            dev.pages_lock().unlock_irqrestore(flags);
        }
        page.unlock();
        if taken {
            return Some(page.pfn());
        }
    }
    None
}

/// Takes one page off the balloon's list. Linux: balloon_page_dequeue().
///
/// # Panics
/// When the list is empty and no page is isolated: the caller's count of pages is wrong then.
pub fn balloon_page_dequeue(dev: BalloonDevInfo) -> Option<Pfn> {
    if faulty(fault::DEQUEUE_NO_LOCK) {
        return dequeue_unlocked(dev);
    }
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
