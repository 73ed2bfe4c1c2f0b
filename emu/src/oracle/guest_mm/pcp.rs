//! The rule of the per-CPU lists of small free blocks, which no free list shows. Linux: mm/page_alloc.c struct per_cpu_pages.

use wire::layout::pcp;
use wire::platform::MAX_VCPUS;

use super::*;

/// The per-CPU lists: `count` is the number of pages on a vCPU's lists; each block on them is of its list's order, aligned, in its zone, without a
/// reference, neither Buddy nor Offline, says in `index` its list's type, and is on no other list, of free blocks or of a vCPU's.
///
/// Source: Linux: mm/page_alloc.c free_unref_page_commit(), free_pcppages_bulk(), rmqueue_pcplist(). A zone's are looked at while nobody has the
/// lock of one of them, or the zone's; whoever changes them has it, so that this cannot alarm falsely. Misses: what is put right again before all of these
/// locks are free at once; a page that the lists lost, which is in use to all that can be seen.
pub const PCP_LISTS_ARE_SOUND: &str = "guest-per-cpu-lists-are-sound";

/// Bytes of a vCPU's lists.
const BYTES: u64 = pcp::LISTS + pcp::NR_LISTS * 16;

/// Returns where each vCPU's lists of a zone lie, and how long they are.
pub(super) fn places(zone: &ZoneInfo) -> impl Iterator<Item = (u64, u64)> {
    let zone = *zone;
    (0..MAX_VCPUS as u64)
        .filter(move |_| zone.pcp != 0)
        .map(move |cpu| (zone.pcp.saturating_add(cpu.saturating_mul(zone.pcp_stride)), BYTES))
}

impl Walk<'_> {
    /// Checks all vCPUs' lists of a zone whose own lists hold `free`, and returns the pages on them; `None` while somebody is at one of them.
    pub(super) fn pcps(&mut self, info: &KernelInfo, index: usize, free: &FixedBitSet) -> Option<FixedBitSet> {
        let zone = &info.zones[index];
        let mut listed = FixedBitSet::with_capacity(free.len());
        let lock = |(at, _): (u64, u64)| at.checked_add(pcp::LOCK).and_then(|lock| read_u32(self.ram, lock));
        if places(zone).any(|place| lock(place).is_none_or(|lock| lock != 0)) {
            return None;
        }
        for (cpu, (at, _)) in places(zone).enumerate() {
            let name = format_args!("vCPU {cpu}'s lists of zone {index}");
            let Some(count) = self.word(&name, at) else { continue };
            // A vCPU that is not there has none.
            if count == 0 && read_u64(self.ram, at.saturating_add(pcp::LISTS)) == Some(0) {
                continue;
            }
            let mut pages = 0;
            for list in 0..pcp::NR_LISTS {
                let order = (list / pcp::TYPES) as u32;
                for pfn in self.list(info, &name, at.saturating_add(pcp::LISTS + list * 16), zone.spanned_pages) {
                    pages += 1 << order;
                    self.pcp_block(info, index, List { order, kind: (list % pcp::TYPES) as usize }, pfn, [free, &listed]);
                    listed.insert_range(pfn as usize..((pfn + (1 << order)).min(info.max_pfn)) as usize);
                }
            }
            if count != pages {
                self.broken(PCP_LISTS_ARE_SOUND, None, || format!("{name} count {count} pages and hold {pages}"));
            }
        }
        Some(listed)
    }

    fn pcp_block(&mut self, info: &KernelInfo, index: usize, list: List, pfn: u64, others: [&FixedBitSet; 2]) {
        let List { order, kind } = list;
        let (zone, count) = (&info.zones[index], 1_u64 << order);
        let end = zone.start_pfn.saturating_add(zone.spanned_pages).min(info.max_pfn);
        if pfn < zone.start_pfn || pfn + count > end || !pfn.is_multiple_of(count) {
            self.broken(PCP_LISTS_ARE_SOUND, Some(pfn), || {
                format!("block {pfn:#x} of order {order} on a per-CPU list is crooked or leaves zone {index}")
            });
            return;
        }
        let mut entry = [0; page::BYTES as usize];
        self.ram.read(info.mem_map + pfn * page::BYTES, &mut entry);
        let (says, references, type_word) = (word(&entry, page::INDEX), word(&entry, page::REFCOUNT), word(&entry, page::PAGE_TYPE));
        let typed = is_type(type_word, page::TYPE_BUDDY) || is_type(type_word, page::TYPE_OFFLINE);
        let twice = others.iter().any(|set| set.contains_any_in_range(pfn as usize..(pfn + count) as usize));
        if says as usize != kind || references != 0 || typed || twice {
            self.broken(PCP_LISTS_ARE_SOUND, Some(pfn), || {
                format!(
                    "block {pfn:#x} is on a per-CPU list of type {kind}: index {says}, {references} references, type {type_word:#x}, \
                     on another list: {twice}"
                )
            });
        }
    }
}
