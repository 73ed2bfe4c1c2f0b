//! The rules on made-up memory: each broken once, and silent on what may be.

use super::*;
use proptest::prelude::*;
use wire::layout::pcp;

pub(in crate::oracle) const ZONE: u64 = 0x1_0000;
pub(in crate::oracle) const LOCK: u64 = ZONE;
pub(in crate::oracle) const NR_FREE_PAGES: u64 = ZONE + 8;
pub(in crate::oracle) const MANAGED: u64 = ZONE + 16;
pub(in crate::oracle) const FREE_AREA: u64 = ZONE + 0x100;
/// Two vCPUs' lists; the others are not there.
pub(in crate::oracle) const PCP: u64 = ZONE + 0x600;
const PCP_STRIDE: u64 = 0x100;
pub(in crate::oracle) const TYPES: u64 = ZONE + 0xf00;
pub(in crate::oracle) const BALLOON: u64 = ZONE + 0x1000;
pub(in crate::oracle) const ISOLATED: u64 = BALLOON + 24;
pub(in crate::oracle) const PAGES_LOCK: u64 = BALLOON + 32;
pub(in crate::oracle) const HINTS: u64 = ZONE + 0x1100;
pub(in crate::oracle) const MEM_MAP: u64 = 0x2_0000;
pub(in crate::oracle) const PAGES: u64 = 2048;

/// A kernel's published structures, just enough of them.
pub(in crate::oracle) struct Kernel(pub(in crate::oracle) GuestRam);

impl Kernel {
    /// A zone of 2048 pages: order 10 free at 0, order 9 at 1024 in a movable pageblock, order 0 at 1536 (its buddy is in the balloon),
    /// and a hinted page. On the first vCPU's lists are 1544, of order 0 and type 1, and 1552, of order 3 and type 0.
    pub(in crate::oracle) fn new() -> Self {
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
            (zone(offset_of!(ZoneInfo, managed_pages)), MANAGED),
            (zone(offset_of!(ZoneInfo, pageblock_types)), TYPES),
            (zone(offset_of!(ZoneInfo, pcp)), PCP),
            (zone(offset_of!(ZoneInfo, pcp_stride)), PCP_STRIDE),
            (info(offset_of!(KernelInfo, balloon_pages)), BALLOON),
            (info(offset_of!(KernelInfo, balloon_num_pages)), BALLOON + 16),
            (info(offset_of!(KernelInfo, free_page_list)), HINTS),
            (info(offset_of!(KernelInfo, num_free_page_blocks)), HINTS + 16),
            (info(offset_of!(KernelInfo, balloon_isolated_pages)), ISOLATED),
            (info(offset_of!(KernelInfo, balloon_pages_lock)), PAGES_LOCK),
            (MANAGED, PAGES),
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
        for (cpu, list) in (0..2).flat_map(|cpu| (0..pcp::NR_LISTS).map(move |list| (cpu, list))) {
            kernel.empty_list(pcp_list(cpu, list));
        }
        kernel.put_on_pcp(1544, 0, 1);
        kernel.put_on_pcp(1552, 0, 3 * pcp::TYPES);
        kernel.empty_list(BALLOON);
        kernel.empty_list(HINTS);
        kernel.0.write_unlogged(TYPES, &[0, 0, 1, 0]);
        kernel.free(0, 10, 0);
        kernel.free(1024, 9, 1);
        kernel.free(1536, 0, 0);
        kernel.inflate(1537);
        kernel.refer(1537, 1);
        kernel.link(1540, HINTS);
        kernel.refer(1540, 1);
        kernel.set(HINTS + 16, 1);
        kernel
    }

    pub(in crate::oracle) fn set(&self, at: u64, value: u64) {
        self.0.write_unlogged(at, &value.to_le_bytes());
    }

    pub(in crate::oracle) fn add(&self, at: u64, value: u64) {
        self.set(at, self.0.read_u64(at) + value);
    }

    pub(in crate::oracle) fn set_type(&self, pfn: u64, bit: u32) {
        self.0.write_unlogged(entry(pfn) + page::PAGE_TYPE, &(page::TYPE_NONE & !bit).to_le_bytes());
    }

    pub(in crate::oracle) fn refer(&self, pfn: u64, references: u32) {
        self.0.write_unlogged(entry(pfn) + page::REFCOUNT, &references.to_le_bytes());
    }

    pub(in crate::oracle) fn empty_list(&self, head: u64) {
        self.set(head, head);
        self.set(head + 8, head);
    }

    pub(in crate::oracle) fn link(&self, pfn: u64, head: u64) {
        let node = entry(pfn) + page::LRU;
        let next = self.0.read_u64(head);
        self.set(node, next);
        self.set(node + 8, head);
        self.set(next + 8, node);
        self.set(head, node);
    }

    pub(in crate::oracle) fn free(&self, pfn: u64, order: u32, kind: u64) {
        self.link(pfn, list_head(order, kind));
        self.set(entry(pfn) + page::PRIVATE, u64::from(order));
        self.set_type(pfn, page::TYPE_BUDDY);
        self.add(list_head(order, MIGRATE_TYPES as u64), 1);
        self.add(NR_FREE_PAGES, 1 << order);
    }

    /// Puts a block on a vCPU's list, by the list's number.
    pub(in crate::oracle) fn put_on_pcp(&self, pfn: u64, cpu: u64, list: u64) {
        self.link(pfn, pcp_list(cpu, list));
        self.set(entry(pfn) + page::INDEX, list % pcp::TYPES);
        self.add(PCP + cpu * PCP_STRIDE, 1 << (list / pcp::TYPES));
    }

    pub(in crate::oracle) fn inflate(&self, pfn: u64) {
        self.link(pfn, BALLOON);
        self.set_type(pfn, page::TYPE_OFFLINE);
        self.add(BALLOON + 16, 1);
    }

    fn broken(&self) -> Vec<&'static str> {
        check(&self.0).iter().map(|violation| violation.rule).collect()
    }
}

pub(in crate::oracle) fn entry(pfn: u64) -> u64 {
    MEM_MAP + pfn * page::BYTES
}

pub(in crate::oracle) fn pcp_list(cpu: u64, list: u64) -> u64 {
    PCP + cpu * PCP_STRIDE + pcp::LISTS + list * 16
}

pub(in crate::oracle) fn list_head(order: u32, kind: u64) -> u64 {
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
        (PCP_LISTS_ARE_SOUND, |k| k.add(PCP, 1)),
        (PCP_LISTS_ARE_SOUND, |k| k.add(PCP + PCP_STRIDE, 1)),
        (PCP_LISTS_ARE_SOUND, |k| k.refer(1544, 1)),
        (PCP_LISTS_ARE_SOUND, |k| k.set_type(1544, page::TYPE_BUDDY)),
        (PCP_LISTS_ARE_SOUND, |k| k.set(entry(1552) + page::INDEX, 2)),
        (PCP_LISTS_ARE_SOUND, |k| k.put_on_pcp(1547, 1, pcp::TYPES)),
        (PCP_LISTS_ARE_SOUND, |k| k.put_on_pcp(1556, 1, 2 * pcp::TYPES)),
        (PCP_LISTS_ARE_SOUND, |k| k.put_on_pcp(1553, 1, 0)),
        (PCP_LISTS_ARE_SOUND, |k| k.put_on_pcp(1024, 1, 0)),
        (LIST_IS_SOUND, |k| k.set(pcp_list(1, 5), 0)),
        (MANAGED_PAGES_ADD_UP, |k| k.set(MANAGED, PAGES + 1)),
        (MANAGED_PAGES_ADD_UP, |k| k.set(MANAGED, 1024 + 512 + 1 + 9)),
        (ISOLATED_IS_COUNTED, |k| k.add(ISOLATED, 1)),
        (ISOLATED_IS_COUNTED, |k| {
            k.set(KERNEL_INFO + offset_of!(KernelInfo, balloon_isolated_pages) as u64, 0);
            k.set_type(1900, page::TYPE_OFFLINE);
            k.set(entry(1900) + page::FLAGS, page::flag::ISOLATED);
        }),
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
    // Pageblocks of types that stay apart; ISOLATE uncounted; an isolated balloon page off its list.
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
    kernel.add(ISOLATED, 1);
    assert_eq!(kernel.broken(), [""; 0]);

    // As many are managed as are known of.
    let kernel = Kernel::new();
    kernel.set(MANAGED, 1024 + 512 + 1 + 9 + 1);
    assert_eq!(kernel.broken(), [""; 0]);
}

#[test]
fn per_cpu_lists_wait_while_somebody_is_at_one_of_them() {
    let kernel = Kernel::new();
    kernel.add(PCP, 1);
    for lock in [PCP + pcp::LOCK, PCP + PCP_STRIDE + pcp::LOCK, LOCK] {
        kernel.set(lock, 2);
        assert_eq!(kernel.broken(), [""; 0]);
        kernel.set(lock, 0);
    }
    assert_eq!(kernel.broken(), [PCP_LISTS_ARE_SOUND]);
    let rules: Vec<_> = check_zones(&kernel.0).iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, [PCP_LISTS_ARE_SOUND]);
}

#[test]
fn all_free_pages_hold_poison_when_a_run_ends_but_for_what_is_reported() {
    let kernel = Kernel::new();
    let fill = |pages: std::ops::Range<u64>| {
        pages.for_each(|pfn| kernel.0.write_unlogged(Pfn(pfn).address(), &[rest::PAGE_POISON; PAGE_SIZE as usize]));
    };
    let unpoisoned = || check_poison(&kernel.0).iter().map(|violation| (violation.rule, violation.page)).collect::<Vec<_>>();
    kernel.set(entry(0) + page::FLAGS, page::flag::REPORTED);
    fill(1024..1537);
    fill(1552..1560);
    assert_eq!(unpoisoned(), [(FREE_IS_POISONED, Some(Pfn(1544)))]);
    fill(1544..1545);
    assert_eq!(unpoisoned(), []);
    kernel.0.write_unlogged(Pfn(1100).address() + 7, &[0]);
    assert_eq!(unpoisoned(), [(FREE_IS_POISONED, Some(Pfn(1100)))]);
    kernel.set(LOCK, 1);
    assert_eq!(unpoisoned(), [], "somebody is at the lists");
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
        prop_assert!(check(&kernel.0).len() < 250);
    }
}
