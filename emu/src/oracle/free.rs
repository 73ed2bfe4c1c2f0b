//! Which pages the guest's allocator really has free at a moment: what a host that trusts the memory map is measured by.
//!
//! Linux: mm/page_alloc.c. Free are the pages of blocks in the buddy lists, and of blocks on the per-CPU lists. Blocks that page reporting
//! has isolated are told by their events. Differs from [`super::guest_mm`]: nothing is checked here, and what cannot be read is in use.

use fixedbitset::FixedBitSet;
use host::event::PageRange;
use host::memory::GuestRam;
use wire::layout::{KernelInfo, MAX_ZONES, NR_PAGE_ORDERS, page, pcp};
use wire::platform::MAX_VCPUS;

use super::guest_mm::{is_type, read_info, read_u32, read_u64};

/// Returns which pages of a range are free, counted from its first.
pub(crate) fn free_in(ram: &GuestRam, range: PageRange) -> FixedBitSet {
    let mut free = FixedBitSet::with_capacity(usize::try_from(range.count).expect("a range of RAM"));
    let Some(info) = read_info(ram) else { return free };
    for order in 0..NR_PAGE_ORDERS as u32 {
        let count = 1_u64 << order;
        let first = range.first.0 & !(count - 1);
        for head in (first..range.end().0).step_by(1 << order).filter(|head| is_buddy(ram, &info, *head, order)) {
            insert(&mut free, range, head, count);
        }
    }
    let zones = info.zones.iter().take(usize::try_from(info.nr_zones).unwrap_or(0).min(MAX_ZONES));
    for lists in zones.flat_map(|zone| (0..MAX_VCPUS as u64).map(|cpu| zone.pcp.saturating_add(cpu * zone.pcp_stride))) {
        for index in 0..pcp::NR_LISTS {
            let count = 1_u64 << (index / pcp::TYPES);
            for pfn in listed(ram, &info, lists.saturating_add(pcp::LISTS + index * 16)) {
                insert(&mut free, range, pfn, count);
            }
        }
    }
    free
}

fn insert(free: &mut FixedBitSet, range: PageRange, first: u64, count: u64) {
    for pfn in first.max(range.first.0)..(first + count).min(range.end().0) {
        free.insert((pfn - range.first.0) as usize);
    }
}

/// Returns whether a free block of this order starts here.
fn is_buddy(ram: &GuestRam, info: &KernelInfo, pfn: u64, order: u32) -> bool {
    let entry = info.mem_map.saturating_add(pfn * page::BYTES);
    let kind = read_u32(ram, entry.saturating_add(page::PAGE_TYPE));
    let private = read_u64(ram, entry.saturating_add(page::PRIVATE));
    pfn < info.max_pfn && kind.is_some_and(|kind| is_type(kind, page::TYPE_BUDDY)) && private == Some(u64::from(order))
}

/// Returns the frames on a list, as far as it can be followed.
fn listed(ram: &GuestRam, info: &KernelInfo, head: u64) -> Vec<u64> {
    let mut frames = Vec::new();
    let mut node = read_u64(ram, head).unwrap_or(head);
    while node != head && (frames.len() as u64) < info.max_pfn {
        let offset = node.checked_sub(page::LRU).and_then(|entry| entry.checked_sub(info.mem_map));
        let Some(pfn) = offset.map(|offset| offset / page::BYTES).filter(|pfn| *pfn < info.max_pfn) else { break };
        frames.push(pfn);
        node = read_u64(ram, node).unwrap_or(head);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::event::Pfn;
    use std::mem::offset_of;
    use wire::layout::ZoneInfo;
    use wire::platform::KERNEL_INFO;

    const MAP: u64 = 0x2_0000;
    const PCP: u64 = 0x1_0000;
    const STRIDE: u64 = 256;
    const PAGES: u64 = 2048;

    fn guest() -> GuestRam {
        let ram = GuestRam::new(PAGES << 12);
        let zone = offset_of!(KernelInfo, zones);
        for (offset, value) in [
            (offset_of!(KernelInfo, magic), KernelInfo::MAGIC),
            (offset_of!(KernelInfo, mem_map), MAP),
            (offset_of!(KernelInfo, max_pfn), PAGES),
            (offset_of!(KernelInfo, nr_zones), 1),
            (zone + offset_of!(ZoneInfo, pcp), PCP),
            (zone + offset_of!(ZoneInfo, pcp_stride), STRIDE),
        ] {
            ram.write(KERNEL_INFO + offset as u64, &value.to_le_bytes());
        }
        for pfn in 0..PAGES {
            ram.write(MAP + pfn * page::BYTES + page::PAGE_TYPE, &page::TYPE_NONE.to_le_bytes());
        }
        for list in (0..MAX_VCPUS as u64).flat_map(|cpu| (0..pcp::NR_LISTS).map(move |list| PCP + cpu * STRIDE + pcp::LISTS + list * 16)) {
            ram.write(list, &list.to_le_bytes());
        }
        ram
    }

    fn buddy(ram: &GuestRam, pfn: u64, order: u64) {
        let entry = MAP + pfn * page::BYTES;
        ram.write(entry + page::PAGE_TYPE, &(page::TYPE_BASE & !page::TYPE_BUDDY).to_le_bytes());
        ram.write(entry + page::PRIVATE, &order.to_le_bytes());
    }

    fn free(ram: &GuestRam, first: u64, count: u64) -> Vec<u64> {
        free_in(ram, PageRange::new(Pfn(first), count)).ones().map(|at| first + at as u64).collect()
    }

    #[test]
    fn blocks_count_whole_even_where_the_range_cuts_them() {
        let ram = guest();
        buddy(&ram, 0x400, 3);
        buddy(&ram, 0x40c, 0);
        assert_eq!(free(&ram, 0x406, 8), [0x406, 0x407, 0x40c]);
        assert_eq!(free(&ram, 0x3f0, 0x12), [0x400, 0x401]);
    }

    #[test]
    fn the_pages_of_a_block_in_use_are_not_free_though_nothing_refers_to_them() {
        assert_eq!(free(&guest(), 0x400, 64), Vec::<u64>::new());
    }

    #[test]
    fn blocks_on_a_vcpus_list_are_free() {
        let ram = guest();
        let node = |pfn: u64| MAP + pfn * page::BYTES + page::LRU;
        for (cpu, list, pfns) in [(0, 1, &[0x400u64, 0x410][..]), (1, 2 * pcp::TYPES, &[0x420])] {
            let head = PCP + cpu * STRIDE + pcp::LISTS + list * 16;
            let mut at = head;
            for pfn in pfns {
                ram.write(at, &node(*pfn).to_le_bytes());
                at = node(*pfn);
            }
            ram.write(at, &head.to_le_bytes());
        }
        assert_eq!(free(&ram, 0x400, 64), [0x400, 0x410, 0x420, 0x421, 0x422, 0x423]);
    }

    #[test]
    fn a_list_that_leads_nowhere_ends() {
        let ram = guest();
        ram.write(PCP + pcp::LISTS, &7u64.to_le_bytes());
        ram.write(PCP + pcp::LISTS + 16, &u64::MAX.to_le_bytes());
        let loops = MAP + 0x400 * page::BYTES + page::LRU;
        ram.write(PCP + pcp::LISTS + 32, &loops.to_le_bytes());
        ram.write(loops, &loops.to_le_bytes());
        assert_eq!(free(&ram, 0x400, 4), [0x400]);
        assert_eq!(free(&GuestRam::new(PAGES << 12), 0x400, 4), Vec::<u64>::new(), "nothing is published");
    }
}
