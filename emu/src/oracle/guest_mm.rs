//! The rules of the guest's memory manager, read from guest memory by what it publishes in [`KernelInfo`].
//!
//! Linux: mm/page_alloc.c, mm/balloon_compaction.c, drivers/virtio/virtio_balloon.c. The walk trusts nothing: a bad pointer becomes a
//! violation, and no list is followed further than its zone is long. A zone whose lock is held is left out, since its lists may be half
//! changed; the driver's lists have no published lock, so they are looked at only when the caller knows that the guest is at rest.

use std::fmt::Display;
use std::mem::offset_of;

use fixedbitset::FixedBitSet;
use host::memory::GuestRam;
use wire::layout::{FREE_AREA_BYTES, KernelInfo, MAX_ZONES, MIGRATE_TYPES, NR_PAGE_ORDERS, PAGEBLOCK_ORDER, ZoneInfo, page};
use wire::platform::{KERNEL_INFO, PAGE_SHIFT};

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
/// I6: a block is on the list of its pageblock's type. HIGHATOMIC is left out: Linux changes it behind its pages' back.
pub const LIST_FITS_PAGEBLOCK: &str = "guest-list-fits-pageblock";
/// I9: the balloon's number of pages is that of its list and of its isolated pages. At rest only.
pub const BALLOON_IS_COUNTED: &str = "guest-balloon-is-counted";
/// I11: a page is Offline if and only if the balloon has it. At rest only.
pub const OFFLINE_IS_IN_BALLOON: &str = "guest-offline-is-in-balloon";
/// I13: the number of hinted blocks is the length of their list. At rest only.
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
        walk.zones(&info);
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

/// Where the guest counts its free pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeCounts {
    /// Of each zone, the addresses of NR_FREE_PAGES and of the largest order's `nr_free`.
    zones: Vec<[u64; 2]>,
}

impl FreeCounts {
    /// Returns where they are; `None` before the guest has published zones that lie in RAM.
    pub fn of(ram: &GuestRam) -> Option<Self> {
        const MAX_NR_FREE: u64 = wire::layout::MAX_PAGE_ORDER as u64 * FREE_AREA_BYTES + MIGRATE_TYPES as u64 * 16;
        let info = read_info(ram)?;
        let zones = info.zones.get(..usize::try_from(info.nr_zones).ok()?)?;
        let zones: Option<Vec<_>> = zones.iter().map(|zone| Some([zone.nr_free_pages, zone.free_area.checked_add(MAX_NR_FREE)?])).collect();
        let zones = zones?;
        zones.iter().flatten().all(|address| read_u64(ram, *address).is_some()).then_some(Self { zones })
    }

    /// Returns the number of free pages now: in all blocks, and in those of the largest order.
    pub fn read(&self, ram: &GuestRam) -> [u64; 2] {
        let sum = |index: usize| self.zones.iter().fold(0_u64, |sum, zone| sum.wrapping_add(ram.read_u64(zone[index])));
        [sum(0), sum(1) << wire::layout::MAX_PAGE_ORDER]
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

/// What a zone's lists hold.
struct FreeLists {
    /// Pages in free blocks.
    pages: FixedBitSet,
    /// First pages of free blocks, by order.
    heads: Vec<FixedBitSet>,
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
        let mut marks = Self { offline: 0, isolated: 0 };
        for (bit, entry) in part.chunks_exact(page::BYTES as usize).enumerate() {
            let isolated = u64::from(word(entry, page::FLAGS)) & page::flag::ISOLATED != 0;
            marks.offline |= u64::from(is_type(word(entry, page::PAGE_TYPE), page::TYPE_OFFLINE)) << bit;
            marks.isolated |= u64::from(isolated) << bit;
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

    fn zones(&mut self, info: &KernelInfo) {
        for (index, zone) in info.zones.iter().take(info.nr_zones as usize).enumerate() {
            let Some(lock) = read_u32(self.ram, zone.lock) else {
                self.broken(LIST_IS_SOUND, None, || format!("lock of zone {index} is published at {:#x}, outside RAM", zone.lock));
                continue;
            };
            if lock == 0 {
                self.zone(info, index, zone);
            }
        }
    }

    fn zone(&mut self, info: &KernelInfo, index: usize, zone: &ZoneInfo) {
        let pages = usize::try_from(info.max_pfn).expect("checked against RAM");
        let mut free = FreeLists {
            pages: FixedBitSet::with_capacity(pages),
            heads: (0..NR_PAGE_ORDERS).map(|_| FixedBitSet::with_capacity(pages)).collect(),
        };
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
                    self.free_block(info, zone, list, pfn, &mut free);
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
        self.buddies(zone, &free);
    }

    /// Checks a block on a free list: I2, I5, I6.
    fn free_block(&mut self, info: &KernelInfo, zone: &ZoneInfo, list: List, pfn: u64, free: &mut FreeLists) {
        let List { order, kind } = list;
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
        free.pages.insert_range(span);
        free.heads[order as usize].insert(pfn as usize);

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
            && usize::from(block) != HIGHATOMIC
            && kind != HIGHATOMIC
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
    fn buddies(&mut self, zone: &ZoneInfo, free: &FreeLists) {
        for (order, heads) in free.heads.iter().enumerate().take(NR_PAGE_ORDERS - 1) {
            for left in heads.ones().filter(|pfn| pfn >> order & 1 == 0) {
                let right = left | 1 << order;
                if !heads.contains(right) {
                    continue;
                }
                let (a, b) = (self.pageblock_type(zone, left as u64), self.pageblock_type(zone, right as u64));
                let stays_apart = |kind: Option<u8>| kind.is_some_and(|kind| usize::from(kind) >= HIGHATOMIC);
                if order as u32 >= PAGEBLOCK_ORDER && a != b && (stays_apart(a) || stays_apart(b)) {
                    continue;
                }
                self.broken(BUDDIES_ARE_MERGED, Some(left as u64), || format!("free buddies {left:#x} and {right:#x} of order {order}"));
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
            let MapMarks { offline, isolated: aside } = self.map_marks(info, index);
            isolated += u64::from((offline & aside & !listed).count_ones());
            for bit in (0..ENTRIES as u64).filter(|bit| (offline ^ (listed | offline & aside)) >> bit & 1 == 1) {
                let [offline, listed, aside] = [offline, listed, aside].map(|marks| marks >> bit & 1 == 1);
                let pfn = first + bit;
                self.broken(OFFLINE_IS_IN_BALLOON, Some(pfn), || {
                    format!("page {pfn:#x}: Offline {offline}, on the balloon's list {listed}, isolated {aside}")
                });
            }
        }
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

    /// Checks the hinted blocks: I13.
    fn hints(&mut self, info: &KernelInfo) {
        if info.free_page_list == 0 || info.num_free_page_blocks == 0 {
            return;
        }
        let blocks = self.list(info, &"free_page_list", info.free_page_list, info.max_pfn).len() as u64;
        if let Some(counted) = self.word(&"num_free_page_blocks", info.num_free_page_blocks)
            && counted != blocks
        {
            self.broken(HINTS_ARE_COUNTED, None, || format!("num_free_page_blocks is {counted}, the list holds {blocks}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::platform::PAGE_SIZE;

    const ZONE: u64 = 0x1_0000;
    const LOCK: u64 = ZONE;
    const NR_FREE_PAGES: u64 = ZONE + 8;
    const FREE_AREA: u64 = ZONE + 0x100;
    const TYPES: u64 = ZONE + 0xf00;
    const BALLOON: u64 = ZONE + 0x1000;
    const HINTS: u64 = ZONE + 0x1100;
    const MEM_MAP: u64 = 0x2_0000;
    const PAGES: u64 = 2048;

    struct Kernel(GuestRam);

    impl Kernel {
        /// A zone of 2048 pages: order 10 free at 0, order 9 at 1024 in a movable pageblock, order 0 at 1536 (its buddy is in the balloon),
        /// and a hinted page.
        fn new() -> Self {
            let kernel = Kernel(GuestRam::new(PAGES * PAGE_SIZE));
            let zone = |field: usize| KERNEL_INFO + (offset_of!(KernelInfo, zones) + field) as u64;
            let info = |field: usize| KERNEL_INFO + field as u64;
            for (at, value) in [
                (info(offset_of!(KernelInfo, magic)), KernelInfo::MAGIC),
                (info(offset_of!(KernelInfo, mem_map)), MEM_MAP),
                (info(offset_of!(KernelInfo, max_pfn)), PAGES),
                (info(offset_of!(KernelInfo, nr_zones)), 1),
                (zone(offset_of!(ZoneInfo, spanned_pages)), PAGES),
                (zone(offset_of!(ZoneInfo, lock)), LOCK),
                (zone(offset_of!(ZoneInfo, free_area)), FREE_AREA),
                (zone(offset_of!(ZoneInfo, nr_free_pages)), NR_FREE_PAGES),
                (zone(offset_of!(ZoneInfo, pageblock_types)), TYPES),
                (info(offset_of!(KernelInfo, balloon_pages)), BALLOON),
                (info(offset_of!(KernelInfo, balloon_num_pages)), BALLOON + 16),
                (info(offset_of!(KernelInfo, free_page_list)), HINTS),
                (info(offset_of!(KernelInfo, num_free_page_blocks)), HINTS + 16),
            ] {
                kernel.set(at, value);
            }
            for pfn in 0..PAGES {
                kernel.set(entry(pfn) + page::PAGE_TYPE, u64::from(page::TYPE_NONE));
            }
            for order in 0..NR_PAGE_ORDERS as u32 {
                for kind in 0..MIGRATE_TYPES as u64 {
                    kernel.empty_list(list_head(order, kind));
                }
            }
            kernel.empty_list(BALLOON);
            kernel.empty_list(HINTS);
            kernel.0.write_unlogged(TYPES, &[0, 0, 1, 0]);
            kernel.free(0, 10, 0);
            kernel.free(1024, 9, 1);
            kernel.free(1536, 0, 0);
            kernel.inflate(1537);
            kernel.link(1540, HINTS);
            kernel.set(HINTS + 16, 1);
            kernel
        }

        fn set(&self, at: u64, value: u64) {
            self.0.write_unlogged(at, &value.to_le_bytes());
        }

        fn add(&self, at: u64, value: u64) {
            self.set(at, self.0.read_u64(at) + value);
        }

        fn set_type(&self, pfn: u64, bit: u32) {
            self.0.write_unlogged(entry(pfn) + page::PAGE_TYPE, &(page::TYPE_NONE & !bit).to_le_bytes());
        }

        fn empty_list(&self, head: u64) {
            self.set(head, head);
            self.set(head + 8, head);
        }

        fn link(&self, pfn: u64, head: u64) {
            let node = entry(pfn) + page::LRU;
            let next = self.0.read_u64(head);
            self.set(node, next);
            self.set(node + 8, head);
            self.set(next + 8, node);
            self.set(head, node);
        }

        fn free(&self, pfn: u64, order: u32, kind: u64) {
            self.link(pfn, list_head(order, kind));
            self.set(entry(pfn) + page::PRIVATE, u64::from(order));
            self.set_type(pfn, page::TYPE_BUDDY);
            self.add(list_head(order, MIGRATE_TYPES as u64), 1);
            self.add(NR_FREE_PAGES, 1 << order);
        }

        fn inflate(&self, pfn: u64) {
            self.link(pfn, BALLOON);
            self.set_type(pfn, page::TYPE_OFFLINE);
            self.add(BALLOON + 16, 1);
        }

        fn broken(&self) -> Vec<&'static str> {
            check(&self.0).iter().map(|violation| violation.rule).collect()
        }
    }

    fn entry(pfn: u64) -> u64 {
        MEM_MAP + pfn * page::BYTES
    }

    fn list_head(order: u32, kind: u64) -> u64 {
        FREE_AREA + u64::from(order) * FREE_AREA_BYTES + kind * 16
    }

    #[test]
    fn a_sound_kernel_and_one_that_has_not_booted_are_silent() {
        assert_eq!(Kernel::new().broken(), [""; 0]);
        let unborn = GuestRam::new(PAGES * PAGE_SIZE);
        assert_eq!(check(&unborn), []);
        assert_eq!(held_blocks(&unborn), None);
        assert_eq!(held_blocks(&Kernel::new().0), Some(1));
    }

    #[test]
    fn free_pages_are_read_where_the_guest_counts_them() {
        let kernel = Kernel::new();
        let counts = FreeCounts::of(&kernel.0).expect("it has zones");
        assert_eq!(counts.read(&kernel.0), [1024 + 512 + 1, 1024]);
        let published = KERNEL_INFO + (offset_of!(KernelInfo, zones) + offset_of!(ZoneInfo, nr_free_pages)) as u64;
        kernel.set(published, u64::MAX - 3);
        assert_eq!(FreeCounts::of(&kernel.0), None);
        assert_eq!(FreeCounts::of(&GuestRam::new(PAGES * PAGE_SIZE)), None);
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Breaking = (&'static str, fn(&Kernel));
        let cases: &[Breaking] = &[
            (NR_FREE_EQUALS_LISTS, |k| k.add(list_head(10, MIGRATE_TYPES as u64), 1)),
            (FREE_PAGES_ARE_COUNTED, |k| k.add(NR_FREE_PAGES, 1)),
            (FREE_BLOCK_IS_ALONE, |k| k.set(entry(1024) + page::PRIVATE, 8)),
            (FREE_BLOCK_IS_ALONE, |k| k.free(512, 9, 0)),
            (FREE_BLOCK_IS_ALONE, |k| k.free(1601, 1, 0)),
            (BUDDIES_ARE_MERGED, |k| {
                k.free(1600, 3, 0);
                k.free(1608, 3, 0);
            }),
            (FREE_PAGE_IS_CLEAN, |k| k.set_type(1536, page::TYPE_OFFLINE)),
            (FREE_PAGE_IS_CLEAN, |k| k.add(entry(0) + page::PAGE_TYPE, 1 << 32)),
            (FREE_PAGE_IS_CLEAN, |k| k.set(entry(0) + page::MAPPING, 2)),
            (FREE_PAGE_IS_CLEAN, |k| k.set(entry(0) + page::FLAGS, page::flag::ISOLATED)),
            (LIST_FITS_PAGEBLOCK, |k| k.free(1700, 0, 1)),
            (BALLOON_IS_COUNTED, |k| k.add(BALLOON + 16, 1)),
            (OFFLINE_IS_IN_BALLOON, |k| k.set_type(1800, page::TYPE_OFFLINE)),
            (OFFLINE_IS_IN_BALLOON, |k| k.set_type(1537, 0)),
            (HINTS_ARE_COUNTED, |k| k.add(HINTS + 16, 1)),
            (LIST_IS_SOUND, |k| k.set(HINTS, u64::MAX - 3)),
            (LIST_IS_SOUND, |k| k.set(HINTS + 8, 0)),
            (LIST_IS_SOUND, |k| k.set(KERNEL_INFO + offset_of!(KernelInfo, mem_map) as u64, u64::MAX)),
            (LIST_IS_SOUND, |k| k.set(KERNEL_INFO + offset_of!(KernelInfo, nr_zones) as u64, 3)),
        ];
        for (index, (rule, breaking)) in cases.iter().enumerate() {
            let kernel = Kernel::new();
            breaking(&kernel);
            let broken = kernel.broken();
            assert!(broken.contains(rule), "case {index}: {rule} is not in {broken:?}");
        }
    }

    #[test]
    fn what_may_be_is_silent() {
        // HIGHATOMIC on either side; pageblocks of types that stay apart; ISOLATE uncounted; an isolated balloon page off its list.
        let kernel = Kernel::new();
        kernel.0.write_unlogged(TYPES, &[0, 0, 1, 3]);
        assert_eq!(kernel.broken(), [""; 0]);

        let kernel = Kernel::new();
        kernel.0.write_unlogged(TYPES + 3, &[4]);
        kernel.link(1700, list_head(2, 4));
        kernel.set(entry(1700) + page::PRIVATE, 2);
        kernel.set_type(1700, page::TYPE_BUDDY);
        kernel.add(list_head(2, MIGRATE_TYPES as u64), 1);
        let only_old = kernel.broken();
        assert!(only_old.iter().all(|rule| *rule == LIST_FITS_PAGEBLOCK), "{only_old:?}");

        let kernel = Kernel::new();
        kernel.set_type(1900, page::TYPE_OFFLINE);
        kernel.set(entry(1900) + page::FLAGS, page::flag::ISOLATED);
        kernel.add(BALLOON + 16, 1);
        assert_eq!(kernel.broken(), [""; 0]);
    }

    #[test]
    fn a_zone_whose_lock_is_held_and_lists_without_a_lock_wait() {
        let kernel = Kernel::new();
        kernel.add(NR_FREE_PAGES, 1);
        kernel.set(LOCK, 1);
        assert_eq!(kernel.broken(), [""; 0]);
        kernel.set(LOCK, 0);
        kernel.add(HINTS + 16, 1);
        let rules: Vec<_> = check_zones(&kernel.0).iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, [FREE_PAGES_ARE_COUNTED]);
    }

    #[test]
    fn entries_that_nobody_wrote_are_as_they_were_known() {
        let kernel = Kernel::new();
        let known = KnownMap::of(&kernel.0).expect("it is sound");
        assert_eq!(check_since(&kernel.0, &known, &|_| false), []);
        kernel.set_type(1800, page::TYPE_OFFLINE);
        kernel.inflate(1801);
        let written = Pfn(entry(1800) >> PAGE_SHIFT);
        assert_eq!(check_since(&kernel.0, &known, &|pfn| pfn == written), check(&kernel.0));
        assert_eq!(kernel.broken(), [OFFLINE_IS_IN_BALLOON]);
        let silent = check_since(&kernel.0, &known, &|_| false);
        assert!(silent.iter().all(|violation| violation.page != Some(Pfn(1800))), "it was told that nobody wrote there: {silent:?}");
    }

    #[test]
    fn a_list_with_a_loop_ends() {
        let kernel = Kernel::new();
        let (first, second) = (entry(1600) + page::LRU, entry(1601) + page::LRU);
        kernel.set(HINTS, first);
        kernel.set(first, second);
        kernel.set(first + 8, HINTS);
        kernel.set(second, second);
        kernel.set(second + 8, second);
        assert_eq!(kernel.broken(), [LIST_IS_SOUND], "the second node does not point back to the first");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever stands in guest memory, the walk comes to an end and reports instead of failing.
        #[test]
        fn garbage_is_reported_not_followed(
            words in prop::collection::vec((prop_oneof![KERNEL_INFO / 8..KERNEL_INFO / 8 + 28, ZONE / 8..(ZONE + 0x1200) / 8, MEM_MAP / 8..(MEM_MAP + PAGES * 64) / 8], prop_oneof![any::<u64>(), 0..PAGES * PAGE_SIZE, Just(MEM_MAP + 8)]), 1..40)
        ) {
            let kernel = Kernel::new();
            for (word, value) in &words {
                kernel.set(word * 8, *value);
            }
            kernel.set(KERNEL_INFO, KernelInfo::MAGIC);
            prop_assert!(check(&kernel.0).len() < 200);
        }
    }
}
