//! What is looked at when a run ends, beside what each step shows: books that balance only while nobody is at work, and all free pages' poison.

use super::*;

/// What the allocator fills free pages with. Linux: PAGE_POISON.
pub(super) const PAGE_POISON: u8 = 0xaa;

/// What the zones' lists were seen to hold.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) free: FreeLists,
    /// Of each zone that nobody was at, the pages on per-CPU lists.
    pub(super) pcp: [Option<FixedBitSet>; MAX_ZONES],
}

/// Checks that all free pages of a guest that fills them hold nothing but poison (I19), those on per-CPU lists included. Left out are blocks
/// that are marked as reported, since their device may have dropped what was in them, and zones that somebody is at.
pub fn check_poison(ram: &GuestRam) -> Vec<Violation> {
    let mut walk = Walk { ram, known: None, violations: Violations::default() };
    let Some(info) = walk.kernel_info() else { return Vec::new() };
    // What is wrong with the lists themselves is told by the other checks.
    let Seen { free, pcp } = Walk { ram, known: None, violations: Violations::default() }.zones(&info);
    for (blocks, on_pcp) in free.blocks.iter().zip(&pcp).filter_map(|(blocks, pcp)| Some((blocks, pcp.as_ref()?))) {
        let reported = |head: usize| walk.entry_u64(&info, head as u64, page::FLAGS) & page::flag::REPORTED != 0;
        let unreported: Vec<_> = blocks.iter().filter(|(head, _)| !reported(*head)).collect();
        for pfn in unreported.into_iter().flat_map(|(head, order)| *head..*head + (1 << order)).chain(on_pcp.ones()) {
            walk.page_poison(pfn as u64);
        }
    }
    walk.violations.finish()
}

impl Walk<'_> {
    /// Checks that a free page holds nothing but poison (I19).
    pub(super) fn page_poison(&mut self, pfn: u64) {
        if self.ram.page(Pfn(pfn)).iter().any(|byte| *byte != PAGE_POISON) {
            self.broken(FREE_IS_POISONED, Some(pfn), || format!("free page {pfn:#x} holds something else than poison"));
        }
    }

    /// Checks that a zone manages no more pages than it spans, and no fewer than are free, on per-CPU lists, or in use and not the balloon's: I8.
    pub(super) fn managed(&mut self, index: usize, zone: &ZoneInfo, free: u64, used: u64) {
        let Some(managed) = self.word(&"managed_pages", zone.managed_pages) else { return };
        if !(free.saturating_add(used)..=zone.spanned_pages).contains(&managed) {
            self.broken(MANAGED_PAGES_ADD_UP, None, || {
                let spanned = zone.spanned_pages;
                format!("zone {index} spans {spanned} pages and manages {managed}; {free} are free, and {used} or more are in use")
            });
        }
    }

    /// Checks the books of zones at which nobody is: I8.
    pub(super) fn books(&mut self, info: &KernelInfo, seen: &Seen) {
        for (index, zone) in info.zones.iter().enumerate().take(info.nr_zones as usize) {
            let Some(pcp) = &seen.pcp[index] else { continue };
            let end = zone.start_pfn.saturating_add(zone.spanned_pages).min(info.max_pfn);
            let parts = zone.start_pfn as usize / ENTRIES..(end as usize).div_ceil(ENTRIES);
            let used = parts.map(|part| {
                let inside = bits_between((part * ENTRIES) as u64, zone.start_pfn, end);
                u64::from((self.map_marks(info, part).used & inside).count_ones())
            });
            let used = used.sum();
            self.managed(index, zone, seen.free.pages_of(index) + pcp.count_ones(..) as u64, used);
        }
    }

    /// Checks how many pages are isolated at rest: I10. A driver that does not count them, as the one of 2012, has none.
    pub(super) fn isolated(&mut self, info: &KernelInfo, isolated: u64) {
        let counted = if info.balloon_isolated_pages == 0 { Some(0) } else { self.word(&"isolated_pages", info.balloon_isolated_pages) };
        if let Some(counted) = counted.filter(|counted| *counted != isolated) {
            self.broken(ISOLATED_IS_COUNTED, None, || format!("isolated_pages is {counted} at rest, and {isolated} pages are isolated"));
        }
    }
}

/// Returns whether an entry is of a page that its zone manages and somebody uses: not the balloon's, whose pages may be taken off.
pub(super) fn is_used(entry: &[u8]) -> bool {
    let reserved = u64::from(word(entry, page::FLAGS)) & page::flag::RESERVED != 0;
    word(entry, page::REFCOUNT) as i32 > 0 && !reserved && !is_type(word(entry, page::PAGE_TYPE), page::TYPE_OFFLINE)
}

/// Returns the bits of 64 pages from `at` on that lie between two frames.
pub(super) fn bits_between(at: u64, first: u64, end: u64) -> u64 {
    let below = |frame: u64| match frame.saturating_sub(at) {
        64.. => u64::MAX,
        bits => (1 << bits) - 1,
    };
    below(end) & !below(first)
}
