//! Moving pages whose owner can move them. Linux: mm/migrate.c.
//!
//! A page is isolated from its owner, the owner is asked to put another in its place, and the old one is freed; or the page is put back.
//! Rules: compaction holds one reference of its own from the isolation to the end; the page lock is held over each of the owner's three
//! operations. Differs: 6.12 takes pages in batches, and asks asynchronously first; here they are taken one by one, as 6.1 does. Only
//! pages with operations move: there is no LRU to move others from.

use wire::debug;
use wire::switch::fault;

use crate::arch;
use crate::kernel::list;
use crate::kernel::switch::faulty;
use crate::kernel::timer::sleep_ns;
use crate::mm::globals;
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::put_page;
use crate::mm::swap::putback_lru_page;

/// Tries of a page whose owner is busy. Linux: NR_MAX_MIGRATE_PAGES_RETRY.
pub(crate) const RETRIES: u32 = 10;

/// What an owner's `migrate_page` returns.
pub mod rc {
    /// The page has moved. Linux: MIGRATEPAGE_SUCCESS.
    pub const SUCCESS: u64 = 0;
    /// `EAGAIN`: the owner is busy, try again.
    pub const AGAIN: u64 = 11;
    /// `ENOMEM`: no page to move to.
    pub const NOMEM: u64 = 12;
    /// `EBUSY`: not now, and not on the next try.
    pub const BUSY: u64 = 16;
}

/// `struct movable_operations`, by address: three functions of two arguments. Linux: include/linux/migrate.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MovableOperations(u64);

impl MovableOperations {
    /// Those at `addr`.
    pub(crate) const fn at(addr: u64) -> Self {
        Self(addr)
    }
    /// Notes the three functions: `isolate(page, 0)` says whether it did, `migrate(new, page)` returns one of [`rc`], `putback(page, 0)`.
    pub(crate) fn init(self, isolate: fn(u64, u64) -> u64, migrate: fn(u64, u64) -> u64, putback: fn(u64, u64) -> u64) {
        for (at, function) in [(0, isolate), (8, migrate), (16, putback)] {
            arch::write64(self.0 + at, function as usize as u64);
        }
    }
    fn isolate_page(self, page: Page) -> bool {
        arch::call2(arch::read64(self.0), page.pfn().0, 0) != 0
    }
    fn migrate_page(self, new: Page, page: Page) -> u64 {
        arch::call2(arch::read64(self.0 + 8), new.pfn().0, page.pfn().0)
    }
    fn putback_page(self, page: Page) {
        arch::call2(arch::read64(self.0 + 16), page.pfn().0, 0);
    }
}

/// Where pages move to. Linux: new_folio_t and free_folio_t.
pub(crate) trait Target {
    /// A page to move to, with one reference.
    fn alloc(&mut self) -> Option<Pfn>;
    /// Takes back one that was not moved to.
    fn free(&mut self, page: Pfn);
}

/// The lists of one vCPU's migration: the pages to move, and those that will not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lists {
    /// Head of the isolated pages.
    pub(crate) from: u64,
    /// Head of those that failed for good, while the others are tried. Linux: ret_folios.
    pub(crate) ret: u64,
}

/// Takes the lock of a page that only compaction contends for. Linux: lock_page().
/// Differs: looks again every 50 µs; there is no wait queue, hence no PG_waiters.
fn lock_page(page: Page) {
    while !page.try_lock() {
        sleep_ns(50_000);
    }
}

/// Takes a page from its owner; whether it did. The ISOLATE tracepoint stands before the owner is asked, under the page lock.
/// Linux: isolate_movable_page().
pub(crate) fn isolate_movable_page(page: Page) -> bool {
    if faulty(fault::MAPPING_DEREF) && !is_movable_balloon_page(page) {
        return false;
    }
    // A page that is being freed stays freed.
    if !page.get_unless_zero() {
        return false;
    }
    // Its flags may belong to an allocator that sets them without care: the lock bit is touched only where an owner keeps to the rules.
    if page.is_movable() && page.try_lock() {
        let done = isolate_locked(page);
        page.unlock();
        if done {
            return true;
        }
    }
    put_page(page.pfn());
    false
}

/// Whether the page's mapping is a balloon's, by the mapping's own word: read without a lock or a reference that would keep it. Linux 3.8 to 3.17:
/// __is_movable_balloon_page(), mapping_balloon(). The ISOLATE tracepoint stands between the two loads.
///
/// # Panics
/// When the mapping is freed memory, as KASAN would have it.
fn is_movable_balloon_page(page: Page) -> bool {
    let Some(ops) = page.movable_ops() else { return false };
    arch::trace(debug::ISOLATE, page.pfn().0, 0);
    let holder = Page::of(Pfn::of_addr(ops.0));
    assert!(holder.refcount() > 0, "KASAN: use-after-free: the mapping at {:#x} is read, its memory is freed", ops.0);
    arch::read64(ops.0) != 0
}

fn isolate_locked(page: Page) -> bool {
    let Some(ops) = page.movable_ops().filter(|_| !page.is_isolated()) else { return false };
    arch::trace(debug::ISOLATE, page.pfn().0, 0);
    if !ops.isolate_page(page) {
        return false;
    }
    page.set_isolated();
    true
}

/// Gives an isolated page back to its owner, or to nobody when it has none any more. Linux: putback_movable_pages(), for one page.
fn putback_movable_page(page: Page) {
    lock_page(page);
    if let Some(ops) = page.movable_ops() {
        arch::trace(debug::PUTBACK, page.pfn().0, 0);
        ops.putback_page(page);
    }
    page.clear_isolated();
    page.unlock();
    put_page(page.pfn());
}

/// Gives all pages of a list back. Linux: putback_movable_pages().
pub(crate) fn putback_movable_pages(head: u64) {
    for node in list::iter(head) {
        list::list_del(node);
        putback_movable_page(Page::of_lru(node));
    }
}

/// Moves the pages of a list; those that would not stay on it. Returns how many failed, or `None` when the target has no more pages.
/// Linux: migrate_pages().
pub(crate) fn migrate_pages(lists: Lists, target: &mut impl Target) -> Option<u64> {
    let mut failed = 0;
    let mut retry = 0;
    let mut out_of_pages = false;
    for _ in 0..RETRIES {
        retry = 0;
        for node in list::iter(lists.from) {
            match unmap_and_move(Page::of_lru(node), lists.ret, target) {
                rc::SUCCESS => {}
                rc::AGAIN => retry += 1,
                rc::NOMEM => {
                    out_of_pages = true;
                    break;
                }
                _ => failed += 1,
            }
        }
        if retry == 0 || out_of_pages {
            break;
        }
    }
    // What failed for good goes back with the rest.
    for node in list::iter(lists.ret) {
        list::list_move_tail(node, lists.from);
    }
    (!out_of_pages).then_some(failed + retry)
}

/// Moves one page: on success it is freed, and its list forgets it; when it failed for good it goes to the list at `ret`.
/// Linux: unmap_and_move().
fn unmap_and_move(page: Page, ret: u64, target: &mut impl Target) -> u64 {
    if page.refcount() == 1 {
        // Its owner has let go of it meanwhile: the last reference is ours.
        list::list_del(page.lru());
        page.clear_isolated();
        put_page(page.pfn());
        return rc::SUCCESS;
    }
    let Some(new) = target.alloc() else { return rc::NOMEM };
    let result = move_to_new_page(Page::of(new), page);
    if result != rc::AGAIN {
        list::list_del(page.lru());
    }
    if result == rc::SUCCESS {
        put_page(page.pfn());
    } else {
        if result != rc::AGAIN {
            list::list_add_tail(page.lru(), ret);
        }
        target.free(new);
    }
    result
}

/// Asks the owner, with both pages locked. The MIGRATE_DONE tracepoint stands behind the locks. Linux: __unmap_and_move(), move_to_new_folio().
/// Differs: a page that somebody has locked is tried again, never slept for.
fn move_to_new_page(new: Page, page: Page) -> u64 {
    if !page.try_lock() {
        return rc::AGAIN;
    }
    assert!(new.try_lock(), "a page that nobody knows is locked");
    let result = ask_owner(new, page);
    new.unlock();
    page.unlock();
    arch::trace(debug::MIGRATE_DONE, page.pfn().0, result);
    if result == rc::SUCCESS {
        if faulty(fault::CHECK_AFTER_UNLOCK) && !new.is_offline() {
            // By now it may have been deflated: then it passes for one of the LRU's. Linux before 4.8: __is_movable_balloon_page().
            putback_lru_page(new);
        } else {
            // The new owner has a reference of his own.
            put_page(new.pfn());
        }
    }
    result
}

fn ask_owner(new: Page, page: Page) -> u64 {
    assert!(page.is_isolated(), "page {:#x} moves without having been isolated", page.pfn().0);
    let Some(ops) = page.movable_ops() else {
        // Deflated after the isolation: there is nothing to move.
        page.clear_isolated();
        return rc::SUCCESS;
    };
    if globals::should_fail_migration() {
        return rc::BUSY;
    }
    arch::trace(debug::MIGRATE_PAGE, page.pfn().0, new.pfn().0);
    let result = ops.migrate_page(new, page);
    if result == rc::SUCCESS {
        page.clear_isolated();
    }
    result
}
