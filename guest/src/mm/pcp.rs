//! Per-CPU lists of small blocks. Linux: mm/page_alloc.c struct per_cpu_pages.
//!
//! A block here is free, has no reference and is not Buddy: no free list shows it. Layout: u64 count, lock, high, batch, free factor,
//! then a list per (order 0..=3, type). Differs: no list for huge pages, no automatic tuning of `high`.

use wire::layout::PAGEBLOCK_ORDER;

use crate::arch::{read64, write64};
use crate::kernel::list::{self, LIST_HEAD_BYTES};
use crate::kernel::lock::SpinLock;
use crate::kernel::switch::{fault, faulty};
use crate::kernel::{data, sched};
use crate::mm::gfp::{Migratetype, Watermark};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{FreeTo, free_one_locked, free_one_page_as, rmqueue_locked};
use crate::mm::zone::{Zone, pageblock_type};

/// Bytes of one vCPU's lists of one zone.
pub(crate) const PCP_BYTES: u64 = 256;
const P_COUNT: u64 = 0;
const P_LOCK: u64 = wire::layout::pcp::LOCK;
const P_HIGH: u64 = 16;
const P_BATCH: u64 = 24;
const P_FREE_FACTOR: u64 = 32;
const P_LISTS: u64 = wire::layout::pcp::LISTS;
/// Linux: PAGE_ALLOC_COSTLY_ORDER.
pub(crate) const COSTLY_ORDER: u32 = 3;
const TYPES: u64 = Migratetype::PCP.len() as u64;
const NR_LISTS: u64 = (COSTLY_ORDER as u64 + 1) * TYPES;
const _: () = assert!(P_LISTS + NR_LISTS * LIST_HEAD_BYTES <= PCP_BYTES);
const _: () = assert!(TYPES == wire::layout::pcp::TYPES && NR_LISTS == wire::layout::pcp::NR_LISTS);
const _: () = assert!(COSTLY_ORDER < PAGEBLOCK_ORDER);

/// Address of a vCPU's lists.
pub(crate) fn addr(zone: Zone, cpu: u64) -> u64 {
    data::PCP + (zone.index() as u64 * wire::platform::MAX_VCPUS as u64 + cpu) * PCP_BYTES
}

/// Whether blocks of this order are kept here. Linux: pcp_allowed_order().
pub(crate) fn allowed_order(order: u32) -> bool {
    order <= COSTLY_ORDER
}

/// One vCPU's lists of one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcp(u64);

impl Pcp {
    /// The lists of a zone and vCPU.
    pub fn of(zone: Zone, cpu: u64) -> Pcp {
        assert!(cpu < wire::platform::MAX_VCPUS as u64, "no vCPU {cpu}");
        Pcp(addr(zone, cpu))
    }
    fn lock(self) -> SpinLock {
        SpinLock::at(self.0 + P_LOCK, wire::debug::lock::PCP)
    }
    /// Takes the lock if it is free. Linux: pcp_spin_trylock().
    fn try_lock(self) -> bool {
        // A kernel for one vCPU has no lock words: the try always succeeds, in the interrupt that comes while the lists are changed, too.
        self.lock().try_lock() || faulty(fault::PCP_UP_NOIRQ)
    }
    /// Releases it. Linux: pcp_spin_unlock().
    fn unlock(self) {
        if faulty(fault::PCP_UP_NOIRQ) {
            self.lock().init();
        } else {
            self.lock().unlock();
        }
    }
    /// Pages on the lists.
    pub fn count(self) -> u64 {
        read64(self.0 + P_COUNT)
    }
    fn set_count(self, pages: u64) {
        write64(self.0 + P_COUNT, pages);
    }
    /// Pages at which the lists are drained.
    pub fn high(self) -> u64 {
        read64(self.0 + P_HIGH)
    }
    /// Pages moved at a time.
    pub fn batch(self) -> u64 {
        read64(self.0 + P_BATCH)
    }
    fn list_at(self, index: u64) -> u64 {
        assert!(index < NR_LISTS, "no list {index}");
        self.0 + P_LISTS + index * LIST_HEAD_BYTES
    }
    /// Head of the list of an order and type. Linux: order_to_pindex().
    pub fn list(self, order: u32, migratetype: Migratetype) -> u64 {
        self.list_at(list_index(order, migratetype))
    }

    /// How many pages a drain takes: more and more while only frees come. Linux: nr_pcp_free() of 6.1.
    fn nr_to_free(self) -> u64 {
        let (batch, high) = (self.batch(), self.high());
        let factor = read64(self.0 + P_FREE_FACTOR);
        let max = high - batch;
        let wanted = batch << factor;
        if wanted < max {
            write64(self.0 + P_FREE_FACTOR, factor + 1);
        }
        wanted.clamp(batch, max)
    }

    /// Gives `pages` pages back to the buddy lists, oldest first, list by list from `first`; under the pcp lock. Linux: free_pcppages_bulk().
    fn free_bulk(self, zone: Zone, pages: u64, first: u64) {
        let mut left = pages.min(self.count()) as i64;
        let lock = zone.lock();
        let irq = lock.lock_irqsave();
        let mut index = first;
        while left > 0 {
            let order = (index / TYPES) as u32;
            while left > 0
                && let Some(node) = list::last(self.list_at(index))
            {
                let pfn = Page::of_lru(node).pfn();
                list::list_del(node);
                left -= 1 << order;
                self.set_count(self.count() - (1 << order));
                // Its pageblock may have changed hands since it came here: the type is read anew under the zone's lock.
                free_one_locked(zone, pfn, order, pageblock_type(pfn), FreeTo::Auto);
            }
            index = (index + 1) % NR_LISTS;
        }
        lock.unlock_irqrestore(irq);
    }

    /// Fills an empty list, last in first out of the buddy lists' order. Linux: rmqueue_bulk().
    fn refill(self, zone: Zone, order: u32, migratetype: Migratetype) {
        let batch = self.batch();
        let blocks = if batch > 1 { (batch >> order).max(2) } else { 1 };
        let lock = zone.lock();
        let irq = lock.lock_irqsave();
        for _ in 0..blocks {
            let Some(page) = rmqueue_locked(zone, order, migratetype) else { break };
            page.set_index(migratetype as u64);
            list::list_add_tail(page.lru(), self.list(order, migratetype));
            self.set_count(self.count() + (1 << order));
        }
        lock.unlock_irqrestore(irq);
    }
}

fn list_index(order: u32, migratetype: Migratetype) -> u64 {
    assert!(allowed_order(order) && (migratetype as u64) < TYPES, "no such list");
    u64::from(order) * TYPES + migratetype as u64
}

/// Takes a block of this vCPU's lists, refilling them first if need be; `None` when there is none, or when somebody else drains
/// them right now. Linux: rmqueue_pcplist().
pub(crate) fn alloc(zone: Zone, order: u32, migratetype: Migratetype) -> Option<Page> {
    let pcp = Pcp::of(zone, sched::cpu_id());
    if !pcp.try_lock() {
        return None;
    }
    write64(pcp.0 + P_FREE_FACTOR, read64(pcp.0 + P_FREE_FACTOR) >> 1);
    let head = pcp.list(order, migratetype);
    if list::list_empty(head) {
        pcp.refill(zone, order, migratetype);
    }
    let page = list::first(head).map(|node| {
        list::list_del(node);
        pcp.set_count(pcp.count() - (1 << order));
        Page::of_lru(node)
    });
    pcp.unlock();
    page
}

/// Puts a block on this vCPU's lists; `false` when it must go to the buddy lists. Linux: free_unref_page().
pub(crate) fn free(pfn: Pfn, order: u32) -> bool {
    let zone = Zone::of(pfn);
    let own = pageblock_type(pfn);
    let migratetype = match own {
        Migratetype::Isolate => return false,
        Migratetype::HighAtomic => Migratetype::Movable,
        Migratetype::Unmovable | Migratetype::Movable | Migratetype::Reclaimable => own,
    };
    let pcp = Pcp::of(zone, sched::cpu_id());
    if !pcp.try_lock() {
        if faulty(fault::PCP_WRONG_MT) && migratetype != own {
            // The type under which it would have lain here, not the one that it has.
            free_one_page_as(zone, pfn, order, migratetype);
            return true;
        }
        return false;
    }
    let page = Page::of(pfn);
    page.set_index(migratetype as u64);
    list::list_add(page.lru(), pcp.list(order, migratetype));
    pcp.set_count(pcp.count() + (1 << order));
    if pcp.count() >= pcp.high() {
        pcp.free_bulk(zone, pcp.nr_to_free(), list_index(order, migratetype));
    }
    pcp.unlock();
    true
}

/// Gives all blocks of this vCPU's lists of a zone back. Linux: drain_local_pages(), for one zone.
pub(crate) fn drain_local_pages(zone: Zone) {
    drain(zone, sched::cpu_id());
}

/// Linux: drain_pages_zone().
fn drain(zone: Zone, cpu: u64) {
    let pcp = Pcp::of(zone, cpu);
    // Read before the lock is held, it is the count of a moment before: what is freed while this one waits stays.
    let early = faulty(fault::PCP_DRAIN_RACE).then(|| pcp.count());
    if early == Some(0) {
        return;
    }
    pcp.lock().lock();
    let count = early.unwrap_or_else(|| pcp.count());
    if count > 0 {
        pcp.free_bulk(zone, count, 0);
    }
    assert!(pcp.count() == 0, "a drain leaves {} pages on the lists of vCPU {cpu}", pcp.count());
    pcp.lock().unlock();
}

/// Gives all blocks of every vCPU's lists back. Linux: drain_all_pages().
pub fn drain_all_pages() {
    for zone in Zone::all() {
        for cpu in 0..sched::nr_cpus() {
            drain(zone, cpu);
        }
    }
}

/// Pages on all vCPUs' lists of a zone.
pub fn total_count(zone: Zone) -> u64 {
    (0..sched::nr_cpus()).map(|cpu| Pcp::of(zone, cpu).count()).sum()
}

/// Linux: zone_batchsize().
fn batch_size(zone: Zone) -> u64 {
    let base = ((zone.managed_pages() >> 10).min(256) / 4).max(1);
    ((1 << (base + base / 2).ilog2()) - 1).max(1)
}

/// Sets up every vCPU's lists, after the watermarks. Linux: setup_per_cpu_pageset(), zone_highsize().
pub(crate) fn init() {
    for zone in Zone::all() {
        let batch = batch_size(zone);
        let high = (zone.watermark(Watermark::Low) / sched::nr_cpus()).max(4 * batch);
        for cpu in 0..sched::nr_cpus() {
            let pcp = Pcp::of(zone, cpu);
            pcp.lock().init();
            write64(pcp.0 + P_BATCH, batch);
            write64(pcp.0 + P_HIGH, high);
            for index in 0..NR_LISTS {
                list::init_list_head(pcp.list_at(index));
            }
        }
    }
}
