//! Free page reporting: tells a device, a batch at a time, of blocks that have been free for a while. Linux: mm/page_reporting.c.
//!
//! While a batch is told, its blocks are off the free lists; that the device may drop them meanwhile is safe for that reason. A pass runs
//! 2 s after a block of at least [`reporting order`](order) came free. Differs: one device, its state in the data segment; the pass
//! shares its workqueue's one worker with the balloon's other works.

use wire::balloon::queue_size::REPORTING;
use wire::debug;
use wire::layout::{MAX_PAGE_ORDER, PAGEBLOCK_ORDER, page::flag};

use crate::arch::{self, read64, write64};
use crate::kernel::timer::Timer;
use crate::kernel::workqueue::{Work, Workqueue, cancel_work_sync, queue_work};
use crate::kernel::{data, list};
use crate::mm::gfp::{AllocFlags, Migratetype, Watermark};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{isolate_free_page, putback_isolated_page};
use crate::mm::watermark::zone_watermark_ok;
use crate::mm::zone::Zone;

/// Blocks of a batch. Linux: PAGE_REPORTING_CAPACITY.
pub const CAPACITY: u64 = REPORTING as u64;
/// From a free to the pass. Linux: PAGE_REPORTING_DELAY.
const DELAY_NS: u64 = 2_000_000_000;

const R_REPORT: u64 = data::PAGE_REPORTING;
const R_CTX: u64 = data::PAGE_REPORTING + 8;
const R_STATE: u64 = data::PAGE_REPORTING + 16;
const R_ORDER: u64 = data::PAGE_REPORTING + 24;
const TIMER: Timer = Timer::at(data::PAGE_REPORTING + 64);
const WORK: Work = Work::at(data::PAGE_REPORTING + 128);
/// The batch: [`CAPACITY`] × { u64 pfn, u64 order }, filled from the end.
const BATCH: u64 = data::PAGE_REPORTING + 192;

const IDLE: u64 = 0;
const REQUESTED: u64 = 1;
const ACTIVE: u64 = 2;

/// Blocks of a batch that lie one behind the other, as the device's report function gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    first: u64,
}

impl Batch {
    /// The batch that a report function's second argument stands for.
    pub fn from_argument(first: u64) -> Batch {
        assert!(first < CAPACITY, "empty batch");
        Batch { first }
    }
    /// First frame and order of each block.
    pub fn blocks(self) -> impl Iterator<Item = (Pfn, u32)> {
        (self.first..CAPACITY).map(|index| (Pfn(read64(BATCH + index * 16)), read64(BATCH + index * 16 + 8) as u32))
    }
}

/// Smallest order of a reported block: a pageblock's. Linux: page_reporting_order.
pub fn order() -> u32 {
    read64(R_ORDER) as u32
}

/// Registers `report(ctx, batch)`, which tells the device of [`Batch::from_argument`]`(batch)`, waits until it took note, and returns 0, or
/// something else when it could not; `false` when another is registered. Linux: page_reporting_register().
pub fn page_reporting_register(report: fn(u64, u64) -> u64, ctx: u64) -> bool {
    if read64(R_REPORT) != 0 {
        return false;
    }
    write64(R_ORDER, u64::from(PAGEBLOCK_ORDER));
    write64(R_CTX, ctx);
    write64(R_STATE, IDLE);
    TIMER.init(queue_process, 0);
    WORK.init(debug::work::PAGE_REPORTING, page_reporting_process, 0);
    arch::xchg64(R_REPORT, report as usize as u64);
    request();
    true
}

/// Forgets the function; it does not run any more when this returns. Linux: page_reporting_unregister().
pub fn page_reporting_unregister() {
    assert!(read64(R_REPORT) != 0, "no reporting device");
    arch::xchg64(R_REPORT, 0);
    TIMER.delete();
    cancel_work_sync(Workqueue::SystemFreezable, WORK);
    // A pass that ended in between may have started the timer once more; with nobody registered it would do nothing.
    TIMER.delete();
}

/// A block came free: asks for a pass. From the allocator, under its lock. Linux: page_reporting_notify_free().
pub(crate) fn notify_free(block_order: u32) {
    if read64(R_REPORT) != 0 && block_order >= order() {
        request();
    }
}

/// Linux: __page_reporting_request().
fn request() {
    if read64(R_STATE) == REQUESTED || arch::xchg64(R_STATE, REQUESTED) != IDLE {
        // A pass is on its way, or one that runs will see the new state at its end.
        return;
    }
    TIMER.add(DELAY_NS);
}

fn queue_process(_arg: u64) {
    queue_work(Workqueue::SystemFreezable, WORK);
}

/// A pass over all zones. Linux: page_reporting_process().
fn page_reporting_process(_arg: u64) {
    if read64(R_REPORT) == 0 {
        return;
    }
    arch::xchg64(R_STATE, ACTIVE);
    for zone in Zone::all() {
        if !process_zone(zone) {
            break;
        }
    }
    if arch::cmpxchg64(R_STATE, ACTIVE, IDLE) == REQUESTED && !TIMER.is_pending() {
        TIMER.add(DELAY_NS);
    }
}

/// Tells the device; whether it took note.
fn report(first: u64) -> bool {
    let function = read64(R_REPORT);
    function != 0 && arch::call2(function, read64(R_CTX), first) == 0
}

/// Linux: page_reporting_process_zone().
fn process_zone(zone: Zone) -> bool {
    let mark = zone.watermark(Watermark::Low) + (CAPACITY << order());
    if !zone_watermark_ok(zone, 0, mark, 0, AllocFlags::FAST) {
        return true;
    }
    // Entries from `offset` on are filled.
    let mut offset = CAPACITY;
    for order in order()..=MAX_PAGE_ORDER {
        for migratetype in [Migratetype::Unmovable, Migratetype::Movable, Migratetype::Reclaimable, Migratetype::HighAtomic] {
            if !cycle(zone, order, migratetype, &mut offset) {
                return false;
            }
        }
    }
    if offset == CAPACITY {
        return true;
    }
    let done = report(offset);
    zone.lock().lock_irq();
    drain(zone, offset, done);
    zone.lock().unlock_irq();
    done
}

/// One list: takes its unreported blocks into the batch, and tells the device whenever that is full. Linux: page_reporting_cycle().
fn cycle(zone: Zone, order: u32, migratetype: Migratetype, offset: &mut u64) -> bool {
    let head = zone.free_list(order, migratetype);
    if list::list_empty(head) {
        return true;
    }
    let lock = zone.lock();
    lock.lock_irq();
    // No more than a part of the list at a time: what is left comes with the next pass.
    let mut budget = zone.nr_free(order).div_ceil(CAPACITY * 16) as i64;
    let mut done = true;
    let mut at = list::next(head);
    while at != head {
        let page = Page::of_lru(at);
        let next = list::next(at);
        if page.has_flags(flag::REPORTED) {
            at = next;
            continue;
        }
        if budget < 0 {
            arch::xchg64(R_STATE, REQUESTED);
            break;
        }
        if *offset > 0 {
            if !isolate_free_page(zone, page, order) {
                break;
            }
            *offset -= 1;
            write64(BATCH + *offset * 16, page.pfn().0);
            write64(BATCH + *offset * 16 + 8, u64::from(order));
            at = next;
            continue;
        }
        list::list_rotate_to_front(at, head);
        lock.unlock_irq();
        done = report(0);
        budget -= 1;
        lock.lock_irq();
        drain(zone, 0, done);
        *offset = CAPACITY;
        // The list changed meanwhile; unreported blocks are in front.
        at = list::next(head);
        if !done {
            break;
        }
    }
    if at != head {
        list::list_rotate_to_front(at, head);
    }
    lock.unlock_irq();
    done
}

/// Gives the batch's blocks back to the lists, marked when the device took note of them; under the lock. Linux: page_reporting_drain().
fn drain(zone: Zone, first: u64, reported: bool) {
    for (pfn, order) in (Batch { first }).blocks() {
        let page = Page::of(pfn);
        putback_isolated_page(zone, page, order);
        // A block that merged with another is not all reported.
        if reported && page.is_buddy() && page.buddy_order() == order {
            page.set_flags(flag::REPORTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::workqueue::process_one_work;
    use crate::kernel::{boot, irq};
    use crate::mm::gfp::Gfp;
    use crate::mm::page_alloc::{alloc_pages, free_pages};

    const TOLD: u64 = data::DRIVER_DATA;

    fn tell(ctx: u64, batch: u64) -> u64 {
        for (pfn, _) in Batch::from_argument(batch).blocks() {
            assert!(!Page::of(pfn).is_buddy(), "a block is off the lists while it is told");
            arch::fetch_add64(ctx, 1);
        }
        read64(ctx + 8)
    }

    /// Lets 2 s pass and runs what is due.
    fn pass() {
        arch::set_mmio_hook(|_| u32::MAX);
        irq::raise_for_test(wire::platform::vector::TIMER);
        arch::set_mmio_hook(|_| 0);
        while process_one_work(Workqueue::SystemFreezable) {}
    }

    fn reported_blocks() -> usize {
        let lists = (0..=MAX_PAGE_ORDER).flat_map(|order| Migratetype::ALL.map(|migratetype| (order, migratetype)));
        let nodes = lists.flat_map(|(order, migratetype)| Zone::all().flat_map(move |zone| list::iter(zone.free_list(order, migratetype))));
        nodes.filter(|&node| Page::of_lru(node).has_flags(flag::REPORTED)).count()
    }

    #[test]
    fn every_large_free_block_is_reported_once_until_it_is_used() {
        boot::init_for_test(256 << 20, 1);
        assert!(page_reporting_register(tell, TOLD));
        assert!(!page_reporting_register(tell, TOLD));
        pass();
        let told = read64(TOLD);
        assert!(told > 32, "more than a batch: {told}");
        assert_eq!(reported_blocks() as u64, told);
        let block = alloc_pages(Gfp::HIGHUSER_MOVABLE, 10).expect("memory");
        assert_eq!(Page::of(block).flags(), 0, "no longer reported");
        free_pages(block, 10);
        pass();
        assert_eq!((read64(TOLD), reported_blocks() as u64), (told + 1, told));
        pass();
        assert_eq!(read64(TOLD), told + 1, "nothing new, no pass");
        page_reporting_unregister();
        free_pages(alloc_pages(Gfp::HIGHUSER_MOVABLE, 10).expect("memory"), 10);
        pass();
        assert_eq!(read64(TOLD), told + 1);
    }

    #[test]
    fn blocks_that_the_device_did_not_take_note_of_are_not_marked() {
        boot::init_for_test(256 << 20, 1);
        write64(TOLD + 8, 1);
        page_reporting_register(tell, TOLD);
        pass();
        assert!(read64(TOLD) > 0);
        assert_eq!(reported_blocks(), 0);
    }
}
