//! `struct page`, by frame number. Layout: `wire::layout::page`. Linux: include/linux/mm_types.h, include/linux/page-flags.h.

use wire::layout::page::{self as layout, flag};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE};

use crate::arch::{self, read32, read64, write32, write64};
use crate::mm::globals;
use crate::mm::migrate::MovableOperations;

/// A page frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u64);

impl Pfn {
    /// Address of the frame's first byte.
    pub const fn addr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
    /// The frame that holds an address.
    pub const fn of_addr(addr: u64) -> Pfn {
        Pfn(addr >> PAGE_SHIFT)
    }
    /// The frame `pages` further.
    pub const fn plus(self, pages: u64) -> Pfn {
        Pfn(self.0 + pages)
    }
}

/// A frame's entry in the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page(u64);

impl Page {
    /// The entry of a frame. Linux: pfn_to_page().
    pub fn of(pfn: Pfn) -> Page {
        assert!(pfn.0 < globals::max_pfn(), "no frame {:#x}", pfn.0);
        Page(globals::mem_map() + pfn.0 * layout::BYTES)
    }
    /// The entry whose `lru` is `node`. Linux: list_entry().
    pub fn of_lru(node: u64) -> Page {
        Page(node - layout::LRU)
    }
    /// The frame. Linux: page_to_pfn().
    pub fn pfn(self) -> Pfn {
        Pfn((self.0 - globals::mem_map()) / layout::BYTES)
    }
    /// Address of the entry.
    pub fn addr(self) -> u64 {
        self.0
    }
    /// Address of the list node.
    pub fn lru(self) -> u64 {
        self.0 + layout::LRU
    }
    /// `flags`.
    pub fn flags(self) -> u64 {
        read64(self.0 + layout::FLAGS)
    }
    /// Whether all of `flags` are set.
    pub fn has_flags(self, flags: u64) -> bool {
        self.flags() & flags == flags
    }
    /// Sets flags, atomically.
    pub fn set_flags(self, flags: u64) {
        arch::fetch_or64(self.0 + layout::FLAGS, flags);
    }
    /// Clears flags, atomically.
    pub fn clear_flags(self, flags: u64) {
        arch::fetch_and64(self.0 + layout::FLAGS, !flags);
    }
    /// `mapping`.
    pub fn mapping(self) -> u64 {
        read64(self.0 + layout::MAPPING)
    }
    /// Sets `mapping`.
    pub fn set_mapping(self, mapping: u64) {
        write64(self.0 + layout::MAPPING, mapping);
    }
    /// `index`.
    pub fn index(self) -> u64 {
        read64(self.0 + layout::INDEX)
    }
    /// Sets `index`.
    pub fn set_index(self, index: u64) {
        write64(self.0 + layout::INDEX, index);
    }
    /// `private`.
    pub fn private(self) -> u64 {
        read64(self.0 + layout::PRIVATE)
    }
    /// Sets `private`.
    pub fn set_private(self, private: u64) {
        write64(self.0 + layout::PRIVATE, private);
    }
    /// `page_type`.
    pub fn page_type(self) -> u32 {
        read32(self.0 + layout::PAGE_TYPE)
    }
    fn has_type(self, bit: u32) -> bool {
        self.page_type() & (layout::TYPE_BASE | bit) == layout::TYPE_BASE
    }
    fn set_type(self, bit: u32) {
        assert!(self.page_type() == layout::TYPE_NONE, "page {:#x} has a type already: {:#x}", self.pfn().0, self.page_type());
        write32(self.0 + layout::PAGE_TYPE, layout::TYPE_NONE & !bit);
    }
    fn clear_type(self, bit: u32) {
        assert!(self.has_type(bit), "page {:#x} is not of type {bit:#x}: {:#x}", self.pfn().0, self.page_type());
        write32(self.0 + layout::PAGE_TYPE, layout::TYPE_NONE);
    }
    /// Whether the page heads a block in the buddy lists. Linux: PageBuddy().
    pub fn is_buddy(self) -> bool {
        self.has_type(layout::TYPE_BUDDY)
    }
    /// Marks a block of the buddy lists and notes its order. Linux: set_buddy_order().
    pub(crate) fn set_buddy(self, order: u32) {
        self.set_private(u64::from(order));
        self.set_type(layout::TYPE_BUDDY);
    }
    /// Linux: __ClearPageBuddy().
    pub(crate) fn clear_buddy(self) {
        self.clear_type(layout::TYPE_BUDDY);
        self.set_private(0);
    }
    /// The order of a block of the buddy lists. Linux: buddy_order().
    pub fn buddy_order(self) -> u32 {
        self.private() as u32
    }
    /// Whether the balloon owns the page. Linux: PageOffline().
    pub fn is_offline(self) -> bool {
        self.has_type(layout::TYPE_OFFLINE)
    }
    /// Linux: __SetPageOffline().
    pub fn set_offline(self) {
        self.set_type(layout::TYPE_OFFLINE);
    }
    /// Linux: __ClearPageOffline().
    pub fn clear_offline(self) {
        self.clear_type(layout::TYPE_OFFLINE);
    }
    /// Makes the page movable by `ops`, an address. Linux: __SetPageMovable().
    pub fn set_movable(self, ops: u64) {
        assert!(self.is_locked(), "page made movable without its lock");
        assert!(ops & 3 == 0, "crooked movable_operations");
        self.set_mapping(ops | MAPPING_MOVABLE);
    }
    /// Only the mark that it was movable remains, until it is freed. Linux: __ClearPageMovable().
    pub fn clear_movable(self) {
        assert!(self.is_movable(), "page is not movable");
        self.set_mapping(MAPPING_MOVABLE);
    }
    /// Linux: __PageMovable().
    pub fn is_movable(self) -> bool {
        self.mapping() & 3 == MAPPING_MOVABLE
    }
    /// The owner's operations, if it has one that can move the page. Linux: page_movable_ops(), PageMovable().
    pub(crate) fn movable_ops(self) -> Option<MovableOperations> {
        let ops = self.mapping() & !3;
        (self.is_movable() && ops != 0).then_some(MovableOperations::at(ops))
    }
    /// Linux: SetPageIsolated().
    pub(crate) fn set_isolated(self) {
        assert!(!self.is_isolated(), "page {:#x} is isolated twice", self.pfn().0);
        self.set_flags(flag::ISOLATED);
    }
    /// Linux: ClearPageIsolated().
    pub(crate) fn clear_isolated(self) {
        self.clear_flags(flag::ISOLATED);
    }
    /// Whether compaction holds the page. Linux: PageIsolated().
    pub fn is_isolated(self) -> bool {
        self.has_flags(flag::ISOLATED)
    }
    /// Takes the page lock if it is free. Linux: trylock_page().
    pub fn try_lock(self) -> bool {
        arch::fetch_or64(self.0 + layout::FLAGS, flag::LOCKED) & flag::LOCKED == 0
    }
    /// Releases the page lock. Linux: unlock_page().
    pub fn unlock(self) {
        let old = arch::fetch_and64(self.0 + layout::FLAGS, !flag::LOCKED);
        assert!(old & flag::LOCKED != 0, "page was not locked");
    }
    /// Linux: PageLocked().
    pub fn is_locked(self) -> bool {
        self.has_flags(flag::LOCKED)
    }
    /// `_refcount`. Linux: page_ref_count().
    pub fn refcount(self) -> u32 {
        read32(self.0 + layout::REFCOUNT)
    }
    /// Linux: set_page_count().
    pub(crate) fn set_refcount(self, count: u32) {
        write32(self.0 + layout::REFCOUNT, count);
    }
    /// Takes a reference. Linux: get_page().
    pub fn get(self) {
        let old = arch::fetch_add32(self.0 + layout::REFCOUNT, 1);
        assert!(old != 0, "reference to free page {:#x}", self.pfn().0);
    }
    /// Takes a reference unless the page is free. Linux: get_page_unless_zero().
    pub(crate) fn get_unless_zero(self) -> bool {
        let mut count = self.refcount();
        while count != 0 {
            let found = arch::cmpxchg32(self.0 + layout::REFCOUNT, count, count + 1);
            if found == count {
                return true;
            }
            count = found;
        }
        false
    }
    /// Drops a reference; whether it was the last. Linux: put_page_testzero().
    pub(crate) fn put_testzero(self) -> bool {
        let old = arch::fetch_add32(self.0 + layout::REFCOUNT, u32::MAX);
        assert!(old != 0, "page {:#x} is freed twice", self.pfn().0);
        old == 1
    }
    /// Writes a new entry over zeroes: no type, and the given count and flags. Linux: __init_single_page().
    pub(crate) fn init(self, flags: u64, refcount: u32) {
        if flags != 0 {
            write64(self.0 + layout::FLAGS, flags);
        }
        write64(self.0 + layout::PAGE_TYPE, u64::from(layout::TYPE_NONE) | u64::from(refcount) << 32);
    }
}

/// What `mapping` of a movable page holds beside its operations. Linux: PAGE_MAPPING_MOVABLE.
const MAPPING_MOVABLE: u64 = 2;
const _: () = assert!(layout::REFCOUNT == layout::PAGE_TYPE + 4);

/// Stores `byte` over a block. Linux: clear_highpage(), memset().
pub(crate) fn fill_block(pfn: Pfn, order: u32, byte: u8) {
    arch::fill(pfn.addr(), byte, PAGE_SIZE << order);
}
