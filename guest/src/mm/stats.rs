//! Memory statistics. Linux: mm/show_mem.c, mm/vmstat.c.

use crate::arch;
use crate::kernel::data;
use crate::mm::globals;
use crate::mm::zone::Zone;

/// Things that are counted. Linux: enum vm_event_item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Event {
    /// `PSWPIN`; always 0, there is no swap.
    PswpIn = 0,
    /// `PSWPOUT`; always 0.
    PswpOut = 1,
    /// `PGMAJFAULT`; always 0, there is no paging.
    PgMajFault = 2,
    /// `PGFAULT`; always 0.
    PgFault = 3,
    /// Pages allocated.
    PgAlloc = 4,
    /// Pages freed.
    PgFree = 5,
    /// `ALLOCSTALL`: allocations that had to reclaim.
    AllocStall = 6,
    /// `OOM_KILL`: allocations that failed where Linux would kill.
    OomKill = 7,
    /// `BALLOON_INFLATE`.
    BalloonInflate = 8,
    /// `BALLOON_DEFLATE`.
    BalloonDeflate = 9,
    /// `BALLOON_MIGRATE`.
    BalloonMigrate = 10,
}

/// Adds to a counter. Linux: count_vm_events().
pub fn count(event: Event, amount: u64) {
    arch::fetch_add64(data::VM_EVENTS + event as u64 * 8, amount);
}

/// A counter. Linux: all_vm_events().
pub fn event(event: Event) -> u64 {
    arch::read64(data::VM_EVENTS + event as u64 * 8)
}

/// Memory in pages. Linux: struct sysinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SysInfo {
    /// What the allocator manages.
    pub totalram: u64,
    /// What is on the buddy lists.
    pub freeram: u64,
    /// The page cache; there is none.
    pub caches: u64,
}

/// Linux: si_meminfo().
pub fn si_meminfo() -> SysInfo {
    SysInfo { totalram: globals::totalram_pages(), freeram: Zone::all().map(Zone::nr_free_pages).sum(), caches: 0 }
}

/// Pages that can be had without swapping. Linux: si_mem_available(); the cache and slab terms are 0.
pub fn si_mem_available() -> u64 {
    si_meminfo().freeram.saturating_sub(globals::totalreserve_pages())
}
