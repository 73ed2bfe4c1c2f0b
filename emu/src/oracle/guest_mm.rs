//! The rules of the guest's memory manager, read from guest memory by what it publishes in [`KernelInfo`].
//!
//! Linux: mm/page_alloc.c, mm/balloon_compaction.c, drivers/virtio/virtio_balloon.c. The walk trusts nothing: a bad pointer becomes a
//! violation, and no list is followed further than its zone is long. A zone whose lock is held is left out, since its lists may be half
//! changed; the driver's lists have no published lock, so they are looked at only when the caller knows that nobody is at them: at rest, or
//! after a step (`steps`) by what the tracepoints say of locks. A run checks after each step that changed something (`[limits] check_mm`),
//! a search may check the zones in a part of its states (`[search] check_mm`), and both when a run ends.
//!
//! Where each invariant of the memory manager and its balloon is looked at:
//!
//! | | rule |
//! |---|---|
//! | I1 `nr_free` is the length of the lists | [`NR_FREE_EQUALS_LISTS`] |
//! | I2 a free block is on one list, of its order, aligned | [`FREE_BLOCK_IS_ALONE`], [`LIST_IS_SOUND`] |
//! | I3 free buddies are merged | [`BUDDIES_ARE_MERGED`] |
//! | I4 free pages are counted | [`FREE_PAGES_ARE_COUNTED`] |
//! | I5 free pages are clean | [`FREE_PAGE_IS_CLEAN`] |
//! | I6 a list's type is its pageblocks' | [`LIST_FITS_PAGEBLOCK`] |
//! | I7 reported blocks are free | [`REPORTED_IS_FREE`]; that nobody wrote them is `destination-equals-source`, their poison I19 |
//! | I8 managed pages add up | [`MANAGED_PAGES_ADD_UP`]; of "free + lists + allocated" the guest does not count the last, which is known from below: a page that is none of them shows as a leak of the block that it came from (`hinted-pages-come-home`), or not at all |
//! | of I8: per-CPU lists | [`PCP_LISTS_ARE_SOUND`] |
//! | I9 the balloon's number of pages | [`BALLOON_IS_COUNTED`] |
//! | I10 isolated pages are counted | [`ISOLATED_IS_COUNTED`] |
//! | I11 Offline pages are the balloon's | [`OFFLINE_IS_IN_BALLOON`] |
//! | I12 a hinted block has an owner | [`HINTED_IS_TAKEN`]; "not written since" is an excuse that ends with a write in `destination-equals-source` |
//! | I13 hinted blocks are counted | [`HINTS_ARE_COUNTED`] |
//! | I14 what a device works on is not freed | [`EXPOSED_IS_NOT_FREE`]; of hinted blocks the driver may free any, by VIRTIO 1.2 §5.5.6.5 |
//! | I15 exposed memory does not change | [`guest_calls::EXPOSED_IS_UNCHANGED`] |
//! | I16 contexts and orders of locks | [`guest_calls::NO_MUTEX_IN_ATOMIC`], [`guest_calls::INTERRUPTS_STAY_OFF`], [`guest_calls::LOCK_ORDER`], [`guest_calls::NO_ALLOCATION_UNDER_BALLOON_LOCK`]; the page lock is a bit without a tracepoint, and guest code asserts it where it matters |
//! | I17 pages are told once | [`guest_calls::TOLD_ONCE`] |
//! | I18 pages that are told are the balloon's | [`guest_calls::TOLD_IS_OWNED`] |
//! | I19 free pages are poisoned | [`FREE_IS_POISONED`] when they come free, and when the run ends; the guest checks them when it takes them |
//! | I20 nothing moves after a reset | [`guest_calls::NO_QUEUE_AFTER_RESET`]; callbacks that outlive their driver jump into freed memory, which is a crash |
//! | I21 all memory is back once the balloon is empty | [`MANAGED_PAGES_ADD_UP`] |
//! | I22 the destination equals the source | [`super::rules::DESTINATION_EQUALS_SOURCE`] |
//!
//! [`guest_calls::EXPOSED_IS_UNCHANGED`]: super::guest_calls::EXPOSED_IS_UNCHANGED
//! [`guest_calls::NO_MUTEX_IN_ATOMIC`]: super::guest_calls::NO_MUTEX_IN_ATOMIC
//! [`guest_calls::INTERRUPTS_STAY_OFF`]: super::guest_calls::INTERRUPTS_STAY_OFF
//! [`guest_calls::LOCK_ORDER`]: super::guest_calls::LOCK_ORDER
//! [`guest_calls::NO_ALLOCATION_UNDER_BALLOON_LOCK`]: super::guest_calls::NO_ALLOCATION_UNDER_BALLOON_LOCK
//! [`guest_calls::TOLD_ONCE`]: super::guest_calls::TOLD_ONCE
//! [`guest_calls::TOLD_IS_OWNED`]: super::guest_calls::TOLD_IS_OWNED
//! [`guest_calls::NO_QUEUE_AFTER_RESET`]: super::guest_calls::NO_QUEUE_AFTER_RESET

mod pcp;
mod rest;
pub(crate) mod steps;
#[cfg(test)]
pub(super) mod tests;

use std::fmt::Display;
use std::mem::offset_of;

use fixedbitset::FixedBitSet;
use host::memory::GuestRam;
use wire::layout::{
    FREE_AREA_BYTES, KernelInfo, MAX_PAGE_ORDER, MAX_ZONES, MIGRATE_TYPES, NR_PAGE_ORDERS, PAGEBLOCK_ORDER, ZoneInfo, page,
};
use wire::platform::{KERNEL_INFO, PAGE_SHIFT, PAGE_SIZE};

pub use pcp::PCP_LISTS_ARE_SOUND;
pub use rest::check_poison;
use rest::{Seen, bits_between, is_used};

use super::rules::Violations;
use crate::outcome::{Blame, Verdict, Violation};
use host::event::Pfn;

/// Published addresses lie in RAM, and lists of pages are circular, linked both ways, and hold entries of the memory map.
pub const LIST_IS_SOUND: &str = "guest-list-is-sound";
/// I1: `nr_free` of each order is the length of its lists.
pub const NR_FREE_EQUALS_LISTS: &str = "guest-nr-free-equals-lists";
/// I2: a free page is in exactly one block, of its list's order, aligned to it, in its zone.
pub const FREE_BLOCK_IS_ALONE: &str = "guest-free-block-is-alone";
/// I3: two buddies that could be merged are not both free.
pub const BUDDIES_ARE_MERGED: &str = "guest-buddies-are-merged";
/// I4: the zone's number of free pages is the sum over its lists; ISOLATE does not count.
pub const FREE_PAGES_ARE_COUNTED: &str = "guest-free-pages-are-counted";
/// I5: the head of a free block has type Buddy, no references, no mapping, and is neither isolated nor reserved.
pub const FREE_PAGE_IS_CLEAN: &str = "guest-free-page-is-clean";
/// I6: a block is on the list of its pageblock's type.
pub const LIST_FITS_PAGEBLOCK: &str = "guest-list-fits-pageblock";
/// I7: a page that is marked as reported heads a free block of at least a pageblock. Its contents are I19's, and the main rule's.
/// Source: Linux: mm/page_reporting.c page_reporting_drain(). After steps only.
pub const REPORTED_IS_FREE: &str = "guest-reported-is-free";
/// I8, I21: what a zone manages is what it managed when the driver came up, less what the balloon has where that is taken off; so all of it
/// is back once the balloon is empty. After steps, and while nobody holds `balloon_lock`; whether the balloon's pages are taken off shows with
/// its first ones. When a run ends at rest, and after such steps: it is no more than the zone spans, and no less than its pages that are free, on per-CPU lists,
/// or have references and are neither reserved nor the balloon's. Source: Linux: adjust_managed_page_count(), drivers/virtio/virtio_balloon.c. Cannot
/// alarm falsely: a page that changes hands has no reference before it is counted as free, and is not counted before it gets one. Misses: pages behind the
/// first of an allocated block, which have no references, since the guest does not count allocated ones.
pub const MANAGED_PAGES_ADD_UP: &str = "guest-managed-pages-add-up";
/// I10: as many pages are isolated as the balloon counts. Source: Linux: mm/balloon_compaction.c. At rest; and after steps while nobody holds
/// `pages_lock` or the lock of one of the pages. The balloon of 2012 neither counts nor marks them: at rest it has none, and one that was forgotten breaks
/// I11; after steps nothing tells of its books, which disagree whenever a page moves.
pub const ISOLATED_IS_COUNTED: &str = "guest-isolated-is-counted";
/// I12: a block on `free_page_list` has an owner: references, and none of its pages is on a free list. That it was not written is the
/// main rule's. After steps, and while nobody holds `free_page_list_lock`.
pub const HINTED_IS_TAKEN: &str = "guest-hinted-block-is-taken";
/// I14: a page is not free while a device may still work on it: from its being told as inflated or reported until the device has taken it.
/// Source: Linux: tell_host() waits. Forgotten at a reset. Misses: pages on per-CPU lists that were freed without the FREE tracepoint.
pub const EXPOSED_IS_NOT_FREE: &str = "guest-exposed-is-not-free";
/// I19: with page poisoning, a page that comes free holds poison, and so do all free pages when the run ends. Source: Linux: mm/page_poison.c. Blocks that are
/// marked as reported are left out then: a device may have dropped them. Misses: what is written to a page while it is free, if it is taken
/// before the end; the guest itself checks that when it allocates.
pub const FREE_IS_POISONED: &str = "guest-free-is-poisoned";
/// I9: the balloon's number of pages is that of its list and of its isolated pages. At rest by the list; after
/// steps by the pages that are Offline.
pub const BALLOON_IS_COUNTED: &str = "guest-balloon-is-counted";
/// I11: a page is Offline if and only if the balloon has it. At rest by the list; after steps a page that became Offline
/// is linked somewhere, unless it is isolated or locked.
pub const OFFLINE_IS_IN_BALLOON: &str = "guest-offline-is-in-balloon";
/// I13: the number of hinted blocks is the length of their list. At rest, and after steps while nobody holds
/// `free_page_list_lock`.
pub const HINTS_ARE_COUNTED: &str = "guest-hints-are-counted";

/// Migratetypes from here on merge with their own only (Linux: migratetype_is_mergeable()).
const HIGHATOMIC: usize = 3;
/// A pageblock that is being taken away.
const ISOLATE: usize = 4;
const _: () = assert!(ISOLATE + 1 == MIGRATE_TYPES);

/// Checks everything; for a guest at rest.
pub fn check(ram: &GuestRam) -> Vec<Violation> {
    check_all(ram, None)
}

/// Checks everything, as [`check`] does, with fewer looks at the memory map: where it is as it was, what was known then is taken. `changed`
/// says whether a page of RAM may have been written since.
pub fn check_since(ram: &GuestRam, then: &KnownMap, changed: &dyn Fn(Pfn) -> bool) -> Vec<Violation> {
    check_all(ram, Some((then, changed)))
}

fn check_all(ram: &GuestRam, known: Option<Known<'_>>) -> Vec<Violation> {
    let mut walk = Walk { ram, known, violations: Violations::default() };
    if let Some(info) = walk.kernel_info() {
        let seen = walk.zones(&info);
        walk.books(&info, &seen);
        walk.balloon(&info);
        walk.hints(&info);
    }
    walk.violations.finish()
}

/// Checks the page allocator alone, zones whose lock is held left out; for any moment.
pub fn check_zones(ram: &GuestRam) -> Vec<Violation> {
    let mut walk = Walk { ram, known: None, violations: Violations::default() };
    if let Some(info) = walk.kernel_info() {
        walk.zones(&info);
    }
    walk.violations.finish()
}

/// Returns how many hinted blocks the driver says it holds; `None` before the guest has published where.
pub fn held_blocks(ram: &GuestRam) -> Option<u64> {
    let info = read_info(ram)?;
    if info.num_free_page_blocks == 0 { None } else { read_u64(ram, info.num_free_page_blocks) }
}

/// Returns whether the memory map says that the balloon has a page; `None` before the guest has published the map.
pub fn is_offline(ram: &GuestRam, pfn: Pfn) -> Option<bool> {
    let info = read_info(ram)?;
    let entry = info.mem_map.checked_add(pfn.0.checked_mul(page::BYTES)?)?;
    read_u32(ram, entry.checked_add(page::PAGE_TYPE)?).map(|kind| is_type(kind, page::TYPE_OFFLINE))
}

/// Where the guest counts its free pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeCounts {
    /// Of each zone, the addresses of NR_FREE_PAGES and of the largest order's `nr_free`.
    zones: Vec<[u64; 2]>,
}

impl FreeCounts {
    /// Returns where they are; `None` before the guest has published zones that lie in RAM.
    pub fn of(ram: &GuestRam) -> Option<Self> {
        const MAX_NR_FREE: u64 = MAX_PAGE_ORDER as u64 * FREE_AREA_BYTES + MIGRATE_TYPES as u64 * 16;
        let info = read_info(ram)?;
        let zones = info.zones.get(..usize::try_from(info.nr_zones).ok()?)?;
        let zones: Option<Vec<_>> = zones.iter().map(|zone| Some([zone.nr_free_pages, zone.free_area.checked_add(MAX_NR_FREE)?])).collect();
        let zones = zones?;
        zones.iter().flatten().all(|address| read_u64(ram, *address).is_some()).then_some(Self { zones })
    }

    /// Returns the number of free pages now: in all blocks, and in those of the largest order.
    pub fn read(&self, ram: &GuestRam) -> [u64; 2] {
        let sum = |index: usize| self.zones.iter().fold(0_u64, |sum, zone| sum.wrapping_add(ram.read_u64(zone[index])));
        [sum(0), sum(1) << MAX_PAGE_ORDER]
    }
}

/// Returns the address of the guest's stub for injected stores; `None` before the guest has published it.
pub fn inject_stub(ram: &GuestRam) -> Option<u64> {
    read_info(ram).map(|info| info.inject_store)
}

pub(super) fn read_u64(ram: &GuestRam, address: u64) -> Option<u64> {
    (address.checked_add(8)? <= ram.bytes()).then(|| ram.read_u64(address))
}

pub(super) fn read_u32(ram: &GuestRam, address: u64) -> Option<u32> {
    (address.checked_add(4)? <= ram.bytes()).then(|| ram.read_u32(address))
}

fn read_u8(ram: &GuestRam, address: u64) -> Option<u8> {
    let mut byte = [0];
    (address < ram.bytes()).then(|| ram.read(address, &mut byte))?;
    Some(byte[0])
}

/// Returns what the guest has published; `None` while it has not booted that far.
pub(super) fn read_info(ram: &GuestRam) -> Option<KernelInfo> {
    let field = |offset: usize| read_u64(ram, KERNEL_INFO + offset as u64);
    if field(offset_of!(KernelInfo, magic))? != KernelInfo::MAGIC {
        return None;
    }
    let mut zones = [ZoneInfo::default(); MAX_ZONES];
    for (index, zone) in zones.iter_mut().enumerate() {
        let at = offset_of!(KernelInfo, zones) + index * size_of::<ZoneInfo>();
        *zone = ZoneInfo {
            start_pfn: field(at + offset_of!(ZoneInfo, start_pfn))?,
            spanned_pages: field(at + offset_of!(ZoneInfo, spanned_pages))?,
            lock: field(at + offset_of!(ZoneInfo, lock))?,
            free_area: field(at + offset_of!(ZoneInfo, free_area))?,
            nr_free_pages: field(at + offset_of!(ZoneInfo, nr_free_pages))?,
            managed_pages: field(at + offset_of!(ZoneInfo, managed_pages))?,
            pageblock_types: field(at + offset_of!(ZoneInfo, pageblock_types))?,
            pcp: field(at + offset_of!(ZoneInfo, pcp))?,
            pcp_stride: field(at + offset_of!(ZoneInfo, pcp_stride))?,
        };
    }
    Some(KernelInfo {
        magic: KernelInfo::MAGIC,
        mem_map: field(offset_of!(KernelInfo, mem_map))?,
        max_pfn: field(offset_of!(KernelInfo, max_pfn))?,
        nr_zones: field(offset_of!(KernelInfo, nr_zones))?,
        zones,
        free_page_list: field(offset_of!(KernelInfo, free_page_list))?,
        num_free_page_blocks: field(offset_of!(KernelInfo, num_free_page_blocks))?,
        balloon_pages: field(offset_of!(KernelInfo, balloon_pages))?,
        balloon_num_pages: field(offset_of!(KernelInfo, balloon_num_pages))?,
        task_names: field(offset_of!(KernelInfo, task_names))?,
        inject_store: field(offset_of!(KernelInfo, inject_store))?,
        balloon_isolated_pages: field(offset_of!(KernelInfo, balloon_isolated_pages))?,
        balloon_pages_lock: field(offset_of!(KernelInfo, balloon_pages_lock))?,
    })
}

/// Entries of the memory map that are read at once.
const ENTRIES: usize = 64;
const _: () = assert!(page::flag::ISOLATED < 1 << 32, "the lower half of the flags is looked at");

/// Returns whether an entry's type has this bit; types are told by clear bits.
pub(super) fn is_type(kind: u32, bit: u32) -> bool {
    kind & (page::TYPE_BASE | bit) == page::TYPE_BASE
}

/// Returns the half word at an offset of an entry.
fn word(entry: &[u8], offset: u64) -> u32 {
    let at = offset as usize;
    u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"))
}

/// A free block's place: which zone, order and type of list.
#[derive(Debug, Clone, Copy)]
struct List {
    order: u32,
    kind: usize,
}

/// What the zones' lists hold.
#[derive(Debug, Clone)]
struct FreeLists {
    /// Pages in free blocks.
    pages: FixedBitSet,
    /// First pages of free blocks, by order.
    heads: Vec<FixedBitSet>,
    /// Blocks of each zone, as listed: first page, order.
    blocks: [Vec<(usize, u32)>; MAX_ZONES],
}

impl FreeLists {
    fn new(pages: u64) -> Self {
        let set = FixedBitSet::with_capacity(usize::try_from(pages).expect("checked against RAM"));
        Self { heads: vec![set.clone(); NR_PAGE_ORDERS], pages: set, blocks: Default::default() }
    }

    fn insert(&mut self, zone: usize, pfn: usize, order: u32) {
        self.pages.insert_range(pfn..pfn + (1 << order));
        self.heads[order as usize].insert(pfn);
        self.blocks[zone].push((pfn, order));
    }

    /// Returns how many pages a zone's blocks hold.
    fn pages_of(&self, zone: usize) -> u64 {
        self.blocks[zone].iter().map(|(_, order)| 1_u64 << order).sum()
    }

    /// Forgets a zone's blocks.
    fn clear(&mut self, zone: usize) {
        for (pfn, order) in self.blocks[zone].drain(..) {
            self.pages.remove_range(pfn..pfn + (1 << order));
            self.heads[order as usize].remove(pfn);
        }
    }
}

/// A known map, and whether a page of RAM may have been written since.
type Known<'a> = (&'a KnownMap, &'a dyn Fn(Pfn) -> bool);

/// What the memory map says of its pages at some moment: what [`check`] would have to look at each entry for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMap {
    mem_map: u64,
    max_pfn: u64,
    marks: Vec<MapMarks>,
}

/// A bit for each of 64 pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MapMarks {
    offline: u64,
    isolated: u64,
    /// In use, and not the balloon's.
    used: u64,
}

impl KnownMap {
    /// Returns what the map says now; `None` before the guest has published a sound one.
    pub fn of(ram: &GuestRam) -> Option<Self> {
        let info = Walk { ram, known: None, violations: Violations::default() }.kernel_info()?;
        let KernelInfo { mem_map, max_pfn, .. } = info;
        let parts = usize::try_from(max_pfn).ok()?.div_ceil(ENTRIES);
        Some(Self { mem_map, max_pfn, marks: (0..parts).map(|index| MapMarks::read(ram, &info, index)).collect() })
    }

    fn is_of(&self, info: &KernelInfo) -> bool {
        (self.mem_map, self.max_pfn) == (info.mem_map, info.max_pfn)
    }
}

impl MapMarks {
    /// Reads 64 entries, or those that there are, of a map that lies in RAM.
    fn read(ram: &GuestRam, info: &KernelInfo, index: usize) -> Self {
        let mut bytes = [0; ENTRIES * page::BYTES as usize];
        let first = (index * ENTRIES) as u64;
        let part = &mut bytes[..((info.max_pfn - first).min(ENTRIES as u64) * page::BYTES) as usize];
        ram.read(info.mem_map + first * page::BYTES, part);
        let mut marks = Self { offline: 0, isolated: 0, used: 0 };
        for (bit, entry) in part.chunks_exact(page::BYTES as usize).enumerate() {
            let isolated = u64::from(word(entry, page::FLAGS)) & page::flag::ISOLATED != 0;
            marks.offline |= u64::from(is_type(word(entry, page::PAGE_TYPE), page::TYPE_OFFLINE)) << bit;
            marks.isolated |= u64::from(isolated) << bit;
            marks.used |= u64::from(is_used(entry)) << bit;
        }
        marks
    }
}

struct Walk<'a> {
    ram: &'a GuestRam,
    known: Option<Known<'a>>,
    violations: Violations,
}

impl Walk<'_> {
    fn broken(&mut self, rule: &'static str, pfn: Option<u64>, what: impl FnOnce() -> String) {
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::BrokenRule,
            page: pfn.map(Pfn),
            write: None,
            doom: None,
            blame: Blame::Guest,
            cause: None,
            what: what(),
        });
    }

    /// Returns the published addresses, once the memory map and the zones are known to lie in RAM.
    fn kernel_info(&mut self) -> Option<KernelInfo> {
        let info = read_info(self.ram)?;
        let map_end = info.max_pfn.checked_mul(page::BYTES).and_then(|bytes| info.mem_map.checked_add(bytes));
        if map_end.is_none_or(|end| end > self.ram.bytes()) || info.max_pfn > self.ram.pages() || info.nr_zones > MAX_ZONES as u64 {
            let KernelInfo { mem_map, max_pfn, nr_zones, .. } = info;
            self.broken(LIST_IS_SOUND, None, || {
                format!("the memory map at {mem_map:#x} of {max_pfn} pages in {nr_zones} zones does not fit the machine")
            });
            return None;
        }
        Some(info)
    }

    fn word(&mut self, name: &dyn Display, address: u64) -> Option<u64> {
        let value = read_u64(self.ram, address);
        if value.is_none() {
            self.broken(LIST_IS_SOUND, None, || format!("{name} is published at {address:#x}, outside RAM"));
        }
        value
    }

    /// Returns the frames on a list of pages, in order; cut at the first fault, which is reported.
    fn list(&mut self, info: &KernelInfo, name: &dyn Display, head: u64, len_max: u64) -> Vec<u64> {
        let mut frames = Vec::new();
        let mut before = head;
        loop {
            let Some(node) = self.word(name, before) else { return frames };
            let back = node.checked_add(8).and_then(|at| read_u64(self.ram, at));
            if back != Some(before) {
                self.broken(LIST_IS_SOUND, None, || format!("{name}: {before:#x} is followed by {node:#x}, which does not point back"));
                return frames;
            }
            if node == head {
                return frames;
            }
            let offset = node.checked_sub(page::LRU).and_then(|entry| entry.checked_sub(info.mem_map));
            let frame = offset.filter(|offset| offset % page::BYTES == 0).map(|offset| offset / page::BYTES);
            let Some(frame) = frame.filter(|frame| *frame < info.max_pfn) else {
                self.broken(LIST_IS_SOUND, None, || format!("{name}: {node:#x} is no entry of the memory map"));
                return frames;
            };
            if frames.len() as u64 >= len_max {
                self.broken(LIST_IS_SOUND, None, || format!("{name}: longer than {len_max} pages"));
                return frames;
            }
            frames.push(frame);
            before = node;
        }
    }

    fn entry_u64(&self, info: &KernelInfo, pfn: u64, offset: u64) -> u64 {
        self.ram.read_u64(info.mem_map + pfn * page::BYTES + offset)
    }

    fn has_type(&self, info: &KernelInfo, pfn: u64, bit: u32) -> bool {
        is_type(self.ram.read_u32(info.mem_map + pfn * page::BYTES + page::PAGE_TYPE), bit)
    }

    /// Checks the zones that nobody is at, and returns what they hold.
    fn zones(&mut self, info: &KernelInfo) -> Seen {
        let mut free = FreeLists::new(info.max_pfn);
        let mut pcp = [const { None }; MAX_ZONES];
        for (index, zone) in info.zones.iter().take(info.nr_zones as usize).enumerate() {
            let Some(lock) = read_u32(self.ram, zone.lock) else {
                self.broken(LIST_IS_SOUND, None, || format!("lock of zone {index} is published at {:#x}, outside RAM", zone.lock));
                continue;
            };
            if lock == 0 {
                self.zone(info, index, zone, &mut free);
                pcp[index] = self.pcps(info, index, &free.pages);
            }
        }
        Seen { free, pcp }
    }

    /// Checks a zone's lists, and puts what they hold into `free`, which holds nothing of that zone.
    fn zone(&mut self, info: &KernelInfo, index: usize, zone: &ZoneInfo, free: &mut FreeLists) {
        let mut counted = 0;
        for order in 0..NR_PAGE_ORDERS as u32 {
            let Some(area) = zone.free_area.checked_add(u64::from(order) * FREE_AREA_BYTES) else {
                self.broken(LIST_IS_SOUND, None, || format!("free_area of zone {index} is published outside RAM"));
                return;
            };
            let mut blocks = 0;
            for kind in 0..MIGRATE_TYPES {
                let list = List { order, kind };
                let name = format_args!("free list of zone {index}, order {order}, type {kind}");
                let frames = self.list(info, &name, area.saturating_add(kind as u64 * 16), zone.spanned_pages);
                blocks += frames.len() as u64;
                if kind != ISOLATE {
                    counted += (frames.len() as u64) << order;
                }
                for pfn in frames {
                    self.free_block(info, index, list, pfn, free);
                }
            }
            let Some(nr_free) = self.word(&"nr_free", area.saturating_add(MIGRATE_TYPES as u64 * 16)) else { return };
            if nr_free != blocks {
                self.broken(NR_FREE_EQUALS_LISTS, None, || {
                    format!("zone {index}, order {order}: nr_free is {nr_free}, the lists hold {blocks} blocks")
                });
            }
        }
        if let Some(total) = self.word(&"nr_free_pages", zone.nr_free_pages)
            && total != counted
        {
            self.broken(FREE_PAGES_ARE_COUNTED, None, || format!("zone {index}: {total} free pages are counted, the lists hold {counted}"));
        }
        self.buddies(index, zone, free);
    }

    /// Checks a block on a free list: I2, I5, I6.
    fn free_block(&mut self, info: &KernelInfo, index: usize, list: List, pfn: u64, free: &mut FreeLists) {
        let List { order, kind } = list;
        let zone = &info.zones[index];
        let count = 1_u64 << order;
        let end = zone.start_pfn.saturating_add(zone.spanned_pages).min(info.max_pfn);
        if pfn < zone.start_pfn || pfn + count > end || !pfn.is_multiple_of(count) {
            self.broken(FREE_BLOCK_IS_ALONE, Some(pfn), || format!("free block {pfn:#x} of order {order} is crooked or leaves its zone"));
            return;
        }
        let span = pfn as usize..(pfn + count) as usize;
        if free.pages.contains_any_in_range(span.clone()) {
            self.broken(FREE_BLOCK_IS_ALONE, Some(pfn), || format!("free block {pfn:#x} of order {order} overlaps another"));
        }
        free.insert(index, span.start, order);

        let private = self.entry_u64(info, pfn, page::PRIVATE);
        if private != u64::from(order) {
            self.broken(FREE_BLOCK_IS_ALONE, Some(pfn), || {
                format!("free block {pfn:#x} is on a list of order {order}, its entry says {private}")
            });
        }
        let mapping = self.entry_u64(info, pfn, page::MAPPING);
        let flags = self.entry_u64(info, pfn, page::FLAGS) & (page::flag::ISOLATED | page::flag::RESERVED);
        let references = self.ram.read_u32(info.mem_map + pfn * page::BYTES + page::REFCOUNT);
        let buddy = self.has_type(info, pfn, page::TYPE_BUDDY);
        if !buddy || references != 0 || mapping != 0 || flags != 0 {
            self.broken(FREE_PAGE_IS_CLEAN, Some(pfn), || {
                format!("free page {pfn:#x}: Buddy {buddy}, {references} references, mapping {mapping:#x}, flags {flags:#x}")
            });
        }
        let block = self.pageblock_type(zone, pfn);
        if let Some(block) = block
            && usize::from(block) != kind
        {
            self.broken(LIST_FITS_PAGEBLOCK, Some(pfn), || {
                format!("free block {pfn:#x} is on a list of type {kind} in a pageblock of type {block}")
            });
        }
    }

    fn pageblock_type(&self, zone: &ZoneInfo, pfn: u64) -> Option<u8> {
        let index = (pfn >> PAGEBLOCK_ORDER).checked_sub(zone.start_pfn >> PAGEBLOCK_ORDER)?;
        read_u8(self.ram, zone.pageblock_types.checked_add(index)?)
    }

    /// Checks that no two free buddies should be one block: I3.
    fn buddies(&mut self, index: usize, zone: &ZoneInfo, free: &FreeLists) {
        for (left, order) in &free.blocks[index] {
            let right = left | 1 << order;
            if *order < MAX_PAGE_ORDER && *left != right && free.heads[*order as usize].contains(right) {
                let (a, b) = (self.pageblock_type(zone, *left as u64), self.pageblock_type(zone, right as u64));
                let stays_apart = |kind: Option<u8>| kind.is_some_and(|kind| usize::from(kind) >= HIGHATOMIC);
                if *order >= PAGEBLOCK_ORDER && a != b && (stays_apart(a) || stays_apart(b)) {
                    continue;
                }
                self.broken(BUDDIES_ARE_MERGED, Some(*left as u64), || format!("free buddies {left:#x} and {right:#x} of order {order}"));
            }
        }
    }

    /// Checks the balloon's pages: I9, I11.
    fn balloon(&mut self, info: &KernelInfo) {
        if info.balloon_pages == 0 || info.balloon_num_pages == 0 {
            return;
        }
        let frames = self.list(info, &"the balloon's list", info.balloon_pages, info.max_pfn);
        let Some(counted) = self.word(&"the balloon's num_pages", info.balloon_num_pages) else { return };
        let mut listed = FixedBitSet::with_capacity(info.max_pfn as usize);
        listed.extend(frames.iter().map(|pfn| *pfn as usize));
        let mut isolated = 0;
        for (index, first) in (0..).zip((0..info.max_pfn).step_by(ENTRIES)) {
            let listed = listed.as_slice().get(index).map_or(0, |bits| *bits as u64);
            let MapMarks { offline, isolated: aside, used: _ } = self.map_marks(info, index);
            isolated += u64::from((offline & aside & !listed).count_ones());
            for bit in (0..ENTRIES as u64).filter(|bit| (offline ^ (listed | offline & aside)) >> bit & 1 == 1) {
                let [offline, listed, aside] = [offline, listed, aside].map(|marks| marks >> bit & 1 == 1);
                let pfn = first + bit;
                self.broken(OFFLINE_IS_IN_BALLOON, Some(pfn), || {
                    format!("page {pfn:#x}: Offline {offline}, on the balloon's list {listed}, isolated {aside}")
                });
            }
        }
        self.isolated(info, isolated);
        let held = frames.len() as u64 + isolated;
        if counted != held {
            self.broken(BALLOON_IS_COUNTED, None, || format!("the balloon counts {counted} pages and holds {held}"));
        }
    }

    /// Returns the marks of 64 entries: as they were in the known map, where nobody has written since.
    fn map_marks(&self, info: &KernelInfo, index: usize) -> MapMarks {
        let first = info.mem_map + (index * ENTRIES) as u64 * page::BYTES;
        let pages = Pfn(first >> PAGE_SHIFT)..=Pfn((first + ENTRIES as u64 * page::BYTES - 1) >> PAGE_SHIFT);
        match self.known {
            Some((map, changed)) if map.is_of(info) && !changed(*pages.start()) && !changed(*pages.end()) => map.marks[index],
            Some(_) | None => MapMarks::read(self.ram, info, index),
        }
    }

    /// Checks the hinted blocks (I13), and returns them.
    fn hints(&mut self, info: &KernelInfo) -> Vec<u64> {
        if info.free_page_list == 0 || info.num_free_page_blocks == 0 {
            return Vec::new();
        }
        let blocks = self.list(info, &"free_page_list", info.free_page_list, info.max_pfn);
        let held = blocks.len() as u64;
        if let Some(counted) = self.word(&"num_free_page_blocks", info.num_free_page_blocks)
            && counted != held
        {
            self.broken(HINTS_ARE_COUNTED, None, || format!("num_free_page_blocks is {counted}, the list holds {held}"));
        }
        blocks
    }
}
