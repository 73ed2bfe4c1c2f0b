//! The memory manager's scalars, in the kernel's data segment.

use wire::platform::boot_flag;

use crate::arch::{self, read64, write64};
use crate::kernel::data::MM;

const MAX_PFN: u64 = MM;
const MEM_MAP: u64 = MM + 8;
const NR_ZONES: u64 = MM + 16;
const BOOT_FLAGS: u64 = MM + 24;
const TOTALRAM: u64 = MM + 32;
const TOTALRESERVE: u64 = MM + 40;
const FAIL_MIGRATION: u64 = MM + 48;

/// Frames of memory.
pub fn max_pfn() -> u64 {
    read64(MAX_PFN)
}
/// Address of the memory map.
pub fn mem_map() -> u64 {
    read64(MEM_MAP)
}
/// Number of zones.
pub fn nr_zones() -> usize {
    read64(NR_ZONES) as usize
}
/// Pages that the allocator manages. Linux: totalram_pages().
pub fn totalram_pages() -> u64 {
    read64(TOTALRAM)
}
/// Pages that user memory never gets: watermarks and lowmem reserves. Linux: totalreserve_pages.
pub(crate) fn totalreserve_pages() -> u64 {
    read64(TOTALRESERVE)
}
pub(crate) fn set_totalreserve_pages(pages: u64) {
    write64(TOTALRESERVE, pages);
}
/// Adds to the number of managed pages.
pub(crate) fn add_totalram_pages(delta: i64) {
    arch::fetch_add64(TOTALRAM, delta as u64);
}
/// Notes the machine's shape at boot.
pub(crate) fn init(max_pfn: u64, mem_map: u64, nr_zones: usize, boot_flags: u64) {
    assert!(mem_map.is_multiple_of(wire::layout::page::BYTES), "crooked memory map");
    assert!(max_pfn > 0 && nr_zones > 0, "no memory");
    write64(MAX_PFN, max_pfn);
    write64(MEM_MAP, mem_map);
    write64(NR_ZONES, nr_zones as u64);
    write64(BOOT_FLAGS, boot_flags);
    write64(TOTALRAM, 0);
}

/// Whether freed pages are filled with 0xaa and checked. Linux: page_poisoning_enabled_static().
pub fn page_poisoning_enabled() -> bool {
    read64(BOOT_FLAGS) & boot_flag::PAGE_POISON != 0
}
/// Whether freed pages are zeroed; poisoning takes precedence. Linux: want_init_on_free().
pub fn want_init_on_free() -> bool {
    read64(BOOT_FLAGS) & (boot_flag::INIT_ON_FREE | boot_flag::PAGE_POISON) == boot_flag::INIT_ON_FREE
}
/// Whether allocated pages are zeroed; poisoning takes precedence. Linux: want_init_on_alloc().
pub(crate) fn want_init_on_alloc() -> bool {
    read64(BOOT_FLAGS) & (boot_flag::INIT_ON_ALLOC | boot_flag::PAGE_POISON) == boot_flag::INIT_ON_ALLOC
}
/// Asks that the `nth` page from now that is to move stays where it is, its owner unasked; 0: none. Linux: CONFIG_FAULT_INJECTION; in life,
/// a page that is busy, or a group out of memory.
pub fn fail_migration(nth: u64) {
    write64(FAIL_MIGRATION, nth);
}
/// Whether this is the page that was meant.
pub(crate) fn should_fail_migration() -> bool {
    let left = read64(FAIL_MIGRATION);
    write64(FAIL_MIGRATION, left.saturating_sub(1));
    left == 1
}
