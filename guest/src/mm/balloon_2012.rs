//! Balloon page compaction as posted in June 2012: mm's side. By the patch "mm: introduce compaction and migration for virtio ballooned
//! pages" (R. Aquini, 1/4), over mm/migrate.c and mm/compaction.c of Linux 3.5.
//!
//! A page whose mapping is the one global `balloon_mapping` is a balloon's. It has one reference; compaction takes it by a second one, and
//! nothing else says that it did. As posted; each flaw is corrected where `corrected` asks for it.
//! Differs: the pages are marked Offline, as today's are, so that an observer finds them; the kernels of 2012 did not.

use wire::debug;
use wire::switch::correct;

use crate::arch::{self, read64, write64};
use crate::kernel::data::{BALLOON_2012, BALLOON_AOPS};
use crate::kernel::list;
use crate::kernel::switch::corrected;
use crate::kernel::timer::msleep;
use crate::mm::globals;
use crate::mm::migrate::{Lists, RETRIES, Target, rc};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{free_pages, put_page};
use crate::mm::swap::putback_lru_page;

/// `balloon_mapping`, the address of the balloon's [`AddressSpace`].
const MAPPING: u64 = BALLOON_2012;
/// `NR_ISOLATED_FILE`.
const NR_ISOLATED_FILE: u64 = BALLOON_2012 + 8;

/// How long a compaction waits when too much is isolated. Linux: congestion_wait(BLK_RW_ASYNC, HZ / 10).
const CONGESTION_WAIT_MS: u64 = 100;

/// `struct address_space`, by address: u64 a_ops, u64 backing_dev_info.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpace(u64);

impl AddressSpace {
    /// The one at `addr`.
    pub const fn at(addr: u64) -> Self {
        Self(addr)
    }
    /// Its address.
    pub const fn addr(self) -> u64 {
        self.0
    }
    /// Sets it up for a device's structure.
    pub fn init(self, backing_dev_info: u64) {
        write64(self.0, BALLOON_AOPS);
        write64(self.0 + 8, backing_dev_info);
    }
    /// The device's structure.
    pub fn backing_dev_info(self) -> u64 {
        read64(self.0 + 8)
    }
    /// Calls `a_ops->invalidatepage`: takes a page off the balloon's list.
    fn invalidatepage(self, page: Page) {
        arch::call2(read64(read64(self.0)), page.pfn().0, 0);
    }
    /// Calls `a_ops->migratepage`.
    fn migratepage(self, newpage: Page, page: Page) -> u64 {
        arch::call2(read64(read64(self.0) + 8), newpage.pfn().0, page.pfn().0)
    }
    /// Calls `a_ops->freepage`: puts a page back on the balloon's list.
    fn freepage(self, page: Page) {
        arch::call2(read64(read64(self.0) + 16), page.pfn().0, 0);
    }
}

/// Notes the driver's three functions. By the driver's patch: virtio_balloon_aops.
pub fn init_aops(invalidatepage: fn(u64, u64) -> u64, migratepage: fn(u64, u64) -> u64, freepage: fn(u64, u64) -> u64) {
    for (at, function) in [(0, invalidatepage), (8, migratepage), (16, freepage)] {
        write64(BALLOON_AOPS + at, function as usize as u64);
    }
}

/// The global; of no mapping before a driver is there.
pub fn balloon_mapping() -> AddressSpace {
    AddressSpace(read64(MAPPING))
}

/// Sets the global.
pub fn set_balloon_mapping(mapping: AddressSpace) {
    write64(MAPPING, mapping.0);
}

/// Whether a page is a balloon's. As posted, without a balloon every page without a mapping is. By the patch: is_balloon_page().
fn is_balloon_page(page: Page) -> bool {
    let mapping = page.mapping();
    if corrected(correct::MAPPING_NULL) && mapping == 0 {
        return false;
    }
    if corrected(correct::ONE_MAPPING) {
        // Each device has a mapping of its own; all have the same operations.
        return mapping != 0 && mapping & 3 == 0 && read64(mapping) == BALLOON_AOPS;
    }
    mapping == balloon_mapping().0
}

/// Takes a page from its balloon; whether it did. The ISOLATE tracepoint stands behind the checks. By the patch: isolate_balloon_page().
fn isolate_balloon_page(page: Page) -> bool {
    let mapping = AddressSpace(page.mapping());
    // Whether there is such an operation: as posted, of whatever the mapping is.
    if read64(read64(mapping.0)) == 0 || page.is_locked() || !page.get_unless_zero() {
        return false;
    }
    if corrected(correct::ISOLATE_UNLOCKED) {
        return isolate_locked(page);
    }
    if page.refcount() == 2 {
        arch::trace(debug::ISOLATE, page.pfn().0, 0);
        mapping.invalidatepage(page);
        return true;
    }
    put_page(page.pfn());
    false
}

/// The same under the page lock, with another look at what was seen without it. The reference is the caller's.
fn isolate_locked(page: Page) -> bool {
    if page.try_lock() {
        let isolate = is_balloon_page(page) && page.refcount() == 2;
        if isolate {
            arch::trace(debug::ISOLATE, page.pfn().0, 0);
            AddressSpace(page.mapping()).invalidatepage(page);
        }
        page.unlock();
        if isolate {
            return true;
        }
    }
    put_page(page.pfn());
    false
}

/// By the patch: putback_balloon_page().
fn putback_balloon_page(page: Page) -> bool {
    let mapping = AddressSpace(page.mapping());
    if read64(read64(mapping.0) + 16) == 0 {
        return false;
    }
    arch::trace(debug::PUTBACK, page.pfn().0, 0);
    mapping.freepage(page);
    put_page(page.pfn());
    true
}

/// Tests a page and isolates it: what the patch adds to isolate_migratepages_range().
pub(crate) fn isolate_page(page: Page) -> bool {
    is_balloon_page(page) && isolate_balloon_page(page)
}

/// Linux 3.5: mod_zone_page_state(NR_ISOLATED_ANON + page_is_file_cache()); a balloon's page is not swap-backed, hence a file page.
fn account_isolated(delta: i64) {
    if !corrected(correct::ISOLATED_FILE) {
        arch::fetch_add64(NR_ISOLATED_FILE, delta as u64);
    }
}

/// Counts what a scan has isolated. Linux 3.5: acct_isolated().
pub(crate) fn acct_isolated(pages: u64) {
    account_isolated(pages as i64);
}

/// Waits while more is isolated than half of what the LRU holds, which is nothing. Linux 3.5: isolate_migratepages_range().
pub(crate) fn wait_while_too_many_isolated() {
    while (read64(NR_ISOLATED_FILE) as i64) > 0 {
        msleep(CONGESTION_WAIT_MS);
    }
}

/// Gives all pages of a list back. The call stood in a macro that leaves its argument out without CONFIG_DEBUG_VM. Linux 3.5:
/// putback_lru_pages(), with the patch.
pub(crate) fn putback_lru_pages(head: u64) {
    for node in list::iter(head) {
        let page = Page::of_lru(node);
        list::list_del(node);
        account_isolated(-1);
        if is_balloon_page(page) {
            if corrected(correct::PUTBACK_IN_BUG_ON) {
                assert!(putback_balloon_page(page), "a balloon page without a balloon");
            }
        } else {
            putback_lru_page(page);
        }
    }
}

/// Moves the pages of a list; those that would not stay on it. Returns how many failed, or `None` when the target has no more pages.
/// Linux 3.5: migrate_pages().
pub(crate) fn migrate_pages(lists: Lists, target: &mut impl Target) -> Option<u64> {
    let mut failed = 0;
    let mut retry = 0;
    for _ in 0..RETRIES {
        retry = 0;
        for node in list::iter(lists.from) {
            match unmap_and_move(Page::of_lru(node), target) {
                rc::SUCCESS => {}
                rc::AGAIN => retry += 1,
                rc::NOMEM => return None,
                _ => failed += 1,
            }
        }
        if retry == 0 {
            break;
        }
    }
    Some(failed + retry)
}

/// Linux 3.5: unmap_and_move(), with the patch.
fn unmap_and_move(page: Page, target: &mut impl Target) -> u64 {
    let Some(new) = target.alloc() else { return rc::NOMEM };
    let newpage = Page::of(new);
    let result = if page.refcount() == 1 { rc::SUCCESS } else { move_to_new_page(newpage, page) };
    arch::trace(debug::MIGRATE_DONE, page.pfn().0, result);
    if is_balloon_page(newpage) {
        list::list_del(page.lru());
        account_isolated(-1);
        // Compaction's reference, then the balloon's.
        put_page(page.pfn());
        free_pages(page.pfn(), 0);
        return result;
    }
    if result != rc::AGAIN {
        list::list_del(page.lru());
        account_isolated(-1);
        if corrected(correct::FAILED_TO_LRU) && is_balloon_page(page) {
            putback_balloon_page(page);
        } else {
            putback_lru_page(page);
        }
    }
    putback_lru_page(newpage);
    result
}

/// Linux 3.5: __unmap_and_move() with the patch, move_to_new_page(). Differs: a page that somebody has locked is tried again, never slept for.
fn move_to_new_page(newpage: Page, page: Page) -> u64 {
    if !page.try_lock() {
        return rc::AGAIN;
    }
    let mapping = page.mapping();
    let result = if globals::should_fail_migration() {
        rc::BUSY
    } else {
        assert!(newpage.try_lock(), "a page that nobody knows is locked");
        newpage.set_mapping(mapping);
        arch::trace(debug::MIGRATE_PAGE, page.pfn().0, newpage.pfn().0);
        let result = AddressSpace(mapping).migratepage(newpage, page);
        if result == rc::SUCCESS {
            page.set_mapping(0);
        } else {
            newpage.set_mapping(0);
        }
        newpage.unlock();
        result
    };
    page.unlock();
    result
}

/// Frees a page that a deflation has taken out of the balloon.
pub fn free_balloon_page(page: Pfn) {
    free_pages(page, 0);
}
