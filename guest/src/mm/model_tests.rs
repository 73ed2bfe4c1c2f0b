//! The allocator against a naive one: a map of blocks given out. After every operation the whole memory map is walked and the
//! invariants I1-I6 and I8 of the reference are checked, as an observer of the running guest checks them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::layout::{MAX_PAGE_ORDER, PAGEBLOCK_ORDER, page as layout};
use wire::platform::{BootInfo, boot_flag};

use crate::arch;
use crate::kernel::{boot, list};
use crate::mm::gfp::{Gfp, Migratetype, Watermark};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{alloc_pages, free_pages, isolate_free_page, putback_isolated_page};
use crate::mm::pcp::{self, Pcp, drain_all_pages};
use crate::mm::zone::{Zone, pageblock_type};
use crate::mm::{globals, stats};

const GFPS: [Gfp; 6] = [
    Gfp::KERNEL,
    Gfp::HIGHUSER_MOVABLE,
    Gfp::from_bits(Gfp::KERNEL.bits() | Gfp::RECLAIMABLE.bits()),
    Gfp::ATOMIC,
    Gfp::FREE_PAGE_HINT,
    Gfp::from_bits(Gfp::KERNEL.bits() | Gfp::ZERO.bits()),
];

#[derive(Debug, Clone)]
pub(super) enum Op {
    Alloc { gfp: usize, order: u32, cpu: u64 },
    Free { which: usize, cpu: u64 },
    Drain,
    IsolateAndPutBack { order: u32 },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    // Small orders are common, the largest must come too.
    let order = prop_oneof![4 => 0..=3u32, 2 => 4..=9u32, 1 => Just(10u32)];
    prop_oneof![
        6 => (0..GFPS.len(), order, 0..2u64).prop_map(|(gfp, order, cpu)| Op::Alloc { gfp, order, cpu }),
        5 => (any::<usize>(), 0..2u64).prop_map(|(which, cpu)| Op::Free { which, cpu }),
        1 => Just(Op::Drain),
        1 => (0..=10u32).prop_map(|order| Op::IsolateAndPutBack { order }),
    ]
}

/// The naive allocator: blocks given out, first frame to order.
#[derive(Default)]
pub(super) struct Model {
    pub(super) blocks: BTreeMap<Pfn, u32>,
}

impl Model {
    fn pages(&self, zone: Zone) -> u64 {
        self.blocks.iter().filter(|(pfn, _)| zone.spans(**pfn)).map(|(_, order)| 1 << order).sum()
    }

    /// Whether a zone plainly has the block: above the low watermark, and a sufficient block on a list that everybody may use.
    fn must_succeed(order: u32) -> bool {
        let class = globals::nr_zones() - 1;
        Zone::all().any(|zone| {
            let left = zone.nr_free_pages() as i64 - ((1 << order) - 1) - zone.lowmem_reserve(class) as i64;
            left > zone.watermark(Watermark::Low) as i64 && (order..=MAX_PAGE_ORDER).any(|order| zone.nr_free(order) > 0)
        })
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Alloc { gfp, order, cpu } => self.alloc(GFPS[gfp], order, cpu),
            Op::Free { which, cpu } => self.free(which, cpu),
            Op::Drain => drain_all_pages(),
            Op::IsolateAndPutBack { order } => {
                for zone in Zone::all() {
                    let page = Migratetype::ALL.iter().find_map(|&migratetype| zone.first_free(order, migratetype));
                    if let Some(page) = page
                        && isolate_free_page(zone, page, order)
                    {
                        assert!(!page.is_buddy());
                        putback_isolated_page(zone, page, order);
                    }
                }
            }
        }
    }

    fn alloc(&mut self, gfp: Gfp, order: u32, cpu: u64) {
        arch::set_cpu(cpu.min(crate::kernel::sched::nr_cpus() - 1));
        let must = Model::must_succeed(order);
        let Some(pfn) = alloc_pages(gfp, order) else {
            assert!(!must, "order {order} fails although there is memory");
            return;
        };
        assert!(pfn.0.is_multiple_of(1 << order));
        let end = pfn.plus(1 << order);
        assert!(end.0 <= globals::max_pfn());
        let before = self.blocks.range(..end).next_back();
        assert!(before.is_none_or(|(&start, &order)| start.plus(1 << order) <= pfn), "block {pfn:?} overlaps {before:?}");
        if gfp == Gfp::FREE_PAGE_HINT && !pcp::allowed_order(order) {
            let zone = Zone::of(pfn);
            assert!(zone.nr_free_pages() >= zone.watermark(Watermark::Min), "a hint block takes the zone below its min watermark");
        }
        if gfp.contains(Gfp::ZERO) {
            assert!((0..8).all(|word| arch::read64(pfn.addr() + word * 512) == 0));
        }
        for page in 0..1 << order {
            arch::write64(pfn.plus(page).addr(), pfn.0);
        }
        self.blocks.insert(pfn, order);
    }

    fn free(&mut self, which: usize, cpu: u64) {
        arch::set_cpu(cpu.min(crate::kernel::sched::nr_cpus() - 1));
        if self.blocks.is_empty() {
            return;
        }
        let pfn = *self.blocks.keys().nth(which % self.blocks.len()).expect("within length");
        let order = self.blocks.remove(&pfn).expect("it is a key");
        for page in 0..1 << order {
            assert_eq!(arch::read64(pfn.plus(page).addr()), pfn.0, "somebody else wrote to block {pfn:?}");
        }
        free_pages(pfn, order);
    }

    pub(super) fn check(&self) {
        for zone in Zone::all() {
            let mut free = BTreeMap::new();
            check_lists(zone, &mut free);
            check_merged(zone, &free);
            let pcp_pages = check_pcp(zone);
            let listed: u64 = free.values().map(|order| 1 << order).sum();
            assert_eq!(zone.nr_free_pages(), listed, "I4");
            assert_eq!(zone.managed_pages(), listed + pcp_pages + self.pages(zone), "I8");
            let mut at = zone.start_pfn();
            while at < zone.end_pfn() {
                let buddy = Page::of(at).is_buddy();
                assert_eq!(buddy, free.contains_key(&at), "I2: frame {at:?} is Buddy exactly when it heads a listed block");
                at = at.plus(free.get(&at).map_or(1, |order| 1 << order));
            }
            for (&pfn, &order) in self.blocks.iter().filter(|(pfn, _)| zone.spans(**pfn)) {
                assert_eq!(Page::of(pfn).refcount(), 1);
                assert!(free.range(pfn..pfn.plus(1 << order)).next().is_none(), "part of block {pfn:?} is free");
            }
        }
    }
}

/// I1, I2, I5, I6: walks every list and collects the blocks.
fn check_lists(zone: Zone, free: &mut BTreeMap<Pfn, u32>) {
    for order in 0..=MAX_PAGE_ORDER {
        let mut listed = 0;
        for migratetype in Migratetype::ALL {
            for node in list::iter(zone.free_list(order, migratetype)) {
                listed += 1;
                let page = Page::of_lru(node);
                let pfn = page.pfn();
                assert!(page.is_buddy() && page.buddy_order() == order, "I2: block {pfn:?} on the list of order {order}");
                assert!(pfn.0.is_multiple_of(1 << order) && zone.spans(pfn), "I2: crooked block {pfn:?}");
                assert_eq!((page.refcount(), page.mapping(), page.flags()), (0, 0, 0), "I5");
                for at in (0..1 << order).step_by(1 << PAGEBLOCK_ORDER) {
                    assert_eq!(pageblock_type(pfn.plus(at)), migratetype, "I6: block {pfn:?} of order {order}");
                }
                for at in 1..1 << order {
                    let tail = Page::of(pfn.plus(at));
                    assert_eq!((tail.refcount(), tail.page_type()), (0, layout::TYPE_NONE), "I5: inside block {pfn:?}");
                }
                assert!(free.insert(pfn, order).is_none(), "I2: block {pfn:?} is on two lists");
            }
        }
        assert_eq!(zone.nr_free(order), listed, "I1: order {order}");
    }
}

/// I3: no two buddies are both free.
fn check_merged(zone: Zone, free: &BTreeMap<Pfn, u32>) {
    for (&pfn, &order) in free.iter().filter(|(_, order)| **order < MAX_PAGE_ORDER) {
        let buddy = Pfn(pfn.0 ^ 1 << order);
        assert!(!zone.spans(buddy) || free.get(&buddy) != Some(&order), "I3: {pfn:?} and its buddy of order {order}");
    }
}

/// The per-CPU lists: counts, and pages that are neither Buddy nor referred to. Returns the pages on them.
fn check_pcp(zone: Zone) -> u64 {
    for cpu in 0..crate::kernel::sched::nr_cpus() {
        let pcp = Pcp::of(zone, cpu);
        let mut pages = 0;
        for order in 0..=pcp::COSTLY_ORDER {
            for migratetype in Migratetype::PCP {
                for node in list::iter(pcp.list(order, migratetype)) {
                    let page = Page::of_lru(node);
                    pages += 1 << order;
                    assert!(!page.is_buddy() && page.refcount() == 0 && page.index() == migratetype as u64);
                }
            }
        }
        assert_eq!(pcp.count(), pages, "count of vCPU {cpu}");
        assert!(pages < pcp.high() + 16, "vCPU {cpu} hoards {pages} pages");
    }
    pcp::total_count(zone)
}

fn free_blocks() -> Vec<Vec<u64>> {
    Zone::all().map(|zone| (0..=MAX_PAGE_ORDER).map(|order| zone.nr_free(order)).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_use_keeps_the_invariants_and_coalesces_back(
        ram_mib in prop_oneof![Just(8u64), Just(13), Just(24)],
        vcpus in 1..=2u32,
        poison in any::<bool>(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let flags = if poison { boot_flag::PAGE_POISON } else { 0 };
        let ram_bytes = ram_mib << 20;
        boot::init_for_test_with(&BootInfo { flags, ..boot::test_boot_info(ram_bytes, vcpus) });
        let at_boot = (free_blocks(), stats::si_meminfo());
        let mut model = Model::default();
        model.check();
        for op in &ops {
            model.apply(op);
            model.check();
        }
        while !model.blocks.is_empty() {
            model.free(0, 0);
        }
        drain_all_pages();
        model.check();
        prop_assert_eq!((free_blocks(), stats::si_meminfo()), at_boot);
    }
}
