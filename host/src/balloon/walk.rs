//! The host looks for free pages by itself, in the guest's memory map: no queue, no driver, nobody asked.
//!
//! The idea of M. Hocko's counter-proposal in the discussion of v12 (a walk over page frames that trusts reference counts), taken to the host:
//! what the guest publishes for crash tools ([`KernelInfo`], as Linux publishes `vmcoreinfo`) is enough to read each `struct page`. The walk starts behind each
//! sync, as a hint round does; what it finds goes the way of hints, one range at a time, under the same locks, and it stops before the next
//! sync. The host holds no lock of the guest. What it sees may be over before it acts on it: a page that is taken and written in between is
//! in the dirty log, which was on before, and is lost exactly where the log is cleared with the bitmap, as with a hint
//! (`scenarios/fail/matrix/kvm6-write-then-hint.toml`). Differs: an entry of the map is read in one piece; a host on another CPU could see half a change.

use wire::layout::{KernelInfo, MAX_PAGE_ORDER, page};
use wire::platform::KERNEL_INFO;

use std::mem::offset_of;

use super::device::BalloonDevice;
use super::protocol::Protocol;
use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;

/// What the host takes for free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Whatever has no references. That is also each page but the first of a block that is in use and not compound.
    Naive,
    /// Blocks in the buddy lists, by their heads; the order is believed as far as alignment and the memory's end allow.
    Corrected,
}

/// Most pages that are found at once: a block of the largest order.
const RANGE_PAGES: u64 = 1 << MAX_PAGE_ORDER;

/// How far the host has looked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walker {
    next: u64,
}

impl Walker {
    pub(super) fn fold(&self, fold: &mut Fold) {
        let Self { next } = self;
        fold.add(Tag::Walk, *next);
    }

    /// Starts anew.
    pub(super) fn restart(&mut self) {
        self.next = 0;
    }

    /// Goes on behind what was found.
    pub(super) fn pass(&mut self, found: PageRange) {
        assert!(found.first.0 >= self.next, "{found} was passed before");
        self.next = found.end().0;
    }
}

/// The guest's memory map, once it is published and lies in RAM.
struct MemoryMap<'a> {
    ram: &'a GuestRam,
    address: u64,
    pages: u64,
}

impl MemoryMap<'_> {
    fn published(ram: &GuestRam) -> Option<MemoryMap<'_>> {
        let field = |offset: usize| ram.read_u64(KERNEL_INFO + offset as u64);
        let (magic, address) = (field(offset_of!(KernelInfo, magic)), field(offset_of!(KernelInfo, mem_map)));
        let pages = field(offset_of!(KernelInfo, max_pfn)).min(ram.pages());
        let end = address.checked_add(pages * page::BYTES)?;
        (magic == KernelInfo::MAGIC && end <= ram.bytes()).then_some(MemoryMap { ram, address, pages })
    }

    fn refcount(&self, pfn: u64) -> u32 {
        self.ram.read_u32(self.address + pfn * page::BYTES + page::REFCOUNT)
    }

    /// Returns the order of the free block that starts here, if one may.
    fn buddy_order(&self, pfn: u64) -> Option<u32> {
        let entry = self.address + pfn * page::BYTES;
        let kind = self.ram.read_u32(entry + page::PAGE_TYPE);
        let order = u32::try_from(self.ram.read_u64(entry + page::PRIVATE)).ok().filter(|order| *order <= MAX_PAGE_ORDER)?;
        let fits = pfn.is_multiple_of(1 << order) && pfn + (1 << order) <= self.pages;
        (kind & (page::TYPE_BASE | page::TYPE_BUDDY) == page::TYPE_BASE && fits).then_some(order)
    }
}

impl Walk {
    /// Returns the next pages from a frame on that the map says are free.
    pub fn find(self, ram: &GuestRam, from: u64) -> Option<PageRange> {
        let map = MemoryMap::published(ram)?;
        match self {
            Walk::Naive => {
                let first = (from..map.pages).find(|pfn| map.refcount(*pfn) == 0)?;
                let limit = (first + 1).next_multiple_of(RANGE_PAGES).min(map.pages);
                let end = (first + 1..limit).find(|pfn| map.refcount(*pfn) != 0).unwrap_or(limit);
                Some(PageRange::new(Pfn(first), end - first))
            }
            Walk::Corrected => (from..map.pages).find_map(|pfn| map.buddy_order(pfn).map(|order| PageRange::new(Pfn(pfn), 1 << order))),
        }
    }
}

impl BalloonDevice {
    /// Returns how the host walks, if it does.
    pub(super) fn walk(&self) -> Option<Walk> {
        match self.options.protocol {
            Protocol::Walk(walk) => Some(walk),
            Protocol::Merged | Protocol::Addresses | Protocol::Requests(_) => None,
        }
    }

    /// Returns what the walk finds next.
    pub(super) fn walk_finds(&self, walk: Walk, ram: &GuestRam) -> Option<PageRange> {
        walk.find(ram, self.state.walker.next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Profile;
    use super::super::testing::{RAM_PAGES, Rig, options, range};
    use super::*;
    use crate::event::{CmdId, Event, HintElement, HintStatus, PrecopyReason};
    use crate::migration::notifier::PrecopyNotifier;
    use proptest::prelude::*;
    use wire::virtio::mmio;

    const MAP: u64 = 0x40_0000;
    const ID: CmdId = CmdId(0x8000_0001);

    fn rig(walk: Walk) -> Rig {
        let mut rig = Rig::bare(super::super::BalloonOptions { protocol: Protocol::Walk(walk), ..options(Profile::Qemu) });
        rig.probe(u64::MAX);
        rig.run();
        rig.take_events();
        // Everything is in use.
        for pfn in 0..RAM_PAGES {
            entry(&rig, pfn, page::TYPE_NONE, 1, 0);
        }
        publish(&rig, offset_of!(KernelInfo, mem_map), MAP);
        publish(&rig, offset_of!(KernelInfo, max_pfn), RAM_PAGES);
        publish(&rig, offset_of!(KernelInfo, magic), KernelInfo::MAGIC);
        rig
    }

    fn publish(rig: &Rig, offset: usize, value: u64) {
        rig.ram.write(KERNEL_INFO + offset as u64, &value.to_le_bytes());
    }

    fn entry(rig: &Rig, pfn: u64, kind: u32, refcount: u32, private: u64) {
        let at = MAP + pfn * page::BYTES;
        rig.ram.write(at + page::PAGE_TYPE, &kind.to_le_bytes());
        rig.ram.write(at + page::REFCOUNT, &refcount.to_le_bytes());
        rig.ram.write(at + page::PRIVATE, &private.to_le_bytes());
    }

    /// A free block as the buddy lists hold it.
    fn free(rig: &Rig, first: u64, order: u32) {
        for pfn in first..first + (1 << order) {
            entry(rig, pfn, page::TYPE_NONE, 0, 0);
        }
        entry(rig, first, page::TYPE_BASE & !page::TYPE_BUDDY | 0x7f, 0, u64::from(order));
    }

    /// A block in use that is not compound: its first page alone has a reference.
    fn used(rig: &Rig, first: u64, order: u32) {
        for pfn in first + 1..first + (1 << order) {
            entry(rig, pfn, page::TYPE_NONE, 0, 0);
        }
    }

    fn found(rig: &mut Rig) -> Vec<PageRange> {
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.run();
        rig.sink.applied.iter().map(|(range, _)| *range).collect()
    }

    #[test]
    fn one_walk_in_order() {
        let mut rig = rig(Walk::Corrected);
        free(&rig, 0x400, 3);
        free(&rig, 0x410, 0);
        found(&mut rig);
        let (first, second) = (range(0x400, 8), range(0x410, 1));
        let pop = |range| Event::HintPop { head: 0, element: HintElement::Found(range) };
        let expected = [
            Event::HintRequest { id: ID },
            Event::HintStart { id: ID },
            pop(first),
            Event::HintApply { range: first, id: ID, cleared: 8 },
            Event::HintPush { head: 0, len: 0 },
            pop(second),
            Event::HintApply { range: second, id: ID, cleared: 1 },
            Event::HintPush { head: 0, len: 0 },
            Event::HintStop { from: HintStatus::Start },
        ];
        assert_eq!(rig.take_events(), expected);
        assert_eq!(rig.device.saved_cmd_id(), CmdId(0));
    }

    #[test]
    fn a_block_in_use_is_free_to_the_naive_walk_but_for_its_first_page() {
        for (walk, expected) in [(Walk::Naive, vec![range(0x401, 7)]), (Walk::Corrected, vec![])] {
            let mut rig = rig(walk);
            used(&rig, 0x400, 3);
            assert_eq!(found(&mut rig), expected, "{walk:?}");
        }
    }

    #[test]
    fn pages_on_a_per_cpu_list_are_found_by_the_naive_walk_alone() {
        for (walk, expected) in [(Walk::Naive, vec![range(0x400, 1)]), (Walk::Corrected, vec![])] {
            let mut rig = rig(walk);
            entry(&rig, 0x400, page::TYPE_NONE, 0, 0);
            assert_eq!(found(&mut rig), expected, "{walk:?}");
        }
    }

    #[test]
    fn a_run_ends_where_a_block_of_the_largest_order_would() {
        let mut rig = rig(Walk::Naive);
        (0x800..0xc40).for_each(|pfn| entry(&rig, pfn, page::TYPE_NONE, 0, 0));
        assert_eq!(found(&mut rig), [range(0x800, 0x400), range(0xc00, 0x40)]);
    }

    #[test]
    fn an_order_that_cannot_be_is_not_believed() {
        for (first, order) in [(0x401u64, 1u64), (0x400, 11), (0x400, u64::MAX), (RAM_PAGES - 4, 3)] {
            let mut rig = rig(Walk::Corrected);
            entry(&rig, first, page::TYPE_BASE & !page::TYPE_BUDDY | 0x7f, 0, order);
            assert_eq!(found(&mut rig), [], "{first:#x} of order {order}");
        }
    }

    #[test]
    fn a_map_that_is_not_published_or_not_in_ram_shows_nothing() {
        for (offset, value) in [
            (offset_of!(KernelInfo, magic), 7),
            (offset_of!(KernelInfo, mem_map), u64::MAX - 8),
            (offset_of!(KernelInfo, mem_map), RAM_PAGES << 12),
        ] {
            let mut rig = rig(Walk::Corrected);
            free(&rig, 0x400, 3);
            publish(&rig, offset, value);
            assert_eq!(found(&mut rig), []);
            assert_eq!(rig.device.hint_status(), HintStatus::Stop, "the walk is over at once");
        }
    }

    #[test]
    fn each_sync_starts_a_walk_anew_and_a_sync_ends_it() {
        let mut rig = rig(Walk::Corrected);
        free(&rig, 0x400, 0);
        free(&rig, 0x800, 0);
        assert_eq!(found(&mut rig).len(), 2);
        rig.notify(PrecopyReason::BeforeBitmapSync, true);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        for _ in 0..3 {
            assert!(rig.iothread_step(), "awake, lock, one range");
        }
        rig.run_until(crate::step::Move::plain(crate::event::EventKind::HintPush));
        while rig.locks.holder(crate::event::LockId::FreePage).is_some() {
            rig.iothread_step();
        }
        rig.notify(PrecopyReason::BeforeBitmapSync, true);
        rig.run();
        assert_eq!(rig.sink.applied.len(), 3, "one of the second walk");
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.run();
        assert_eq!(rig.sink.applied.len(), 5);
    }

    #[test]
    fn a_driver_that_resets_its_device_changes_nothing() {
        let mut rig = rig(Walk::Corrected);
        free(&rig, 0x400, 0);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.write(mmio::STATUS, 0);
        rig.run();
        assert_eq!(rig.sink.applied.len(), 1);
    }

    #[test]
    fn a_stopped_vm_is_not_looked_at() {
        let mut rig = rig(Walk::Corrected);
        free(&rig, 0x400, 0);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.vm_state(false);
        rig.run();
        assert_eq!(rig.sink.applied, []);
        rig.vm_state(true);
        rig.run();
        assert_eq!(rig.sink.applied.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever stands in the map, what is found is RAM, comes in order, and is found once.
        #[test]
        fn no_map_makes_the_host_panic(
            naive: bool,
            entries in prop::collection::vec((0..RAM_PAGES, any::<u32>(), 0u32..2, 0u64..16), 0..40),
            mem_map in prop_oneof![4 => Just(MAP), 1 => any::<u64>()],
            max_pfn in prop_oneof![4 => 0..RAM_PAGES + 8, 1 => any::<u64>()],
        ) {
            let mut rig = rig(if naive { Walk::Naive } else { Walk::Corrected });
            for (pfn, kind, refcount, private) in entries {
                entry(&rig, pfn, kind, refcount, private);
            }
            publish(&rig, offset_of!(KernelInfo, mem_map), mem_map);
            publish(&rig, offset_of!(KernelInfo, max_pfn), max_pfn);
            let ranges = found(&mut rig);
            let mut last = 0;
            for range in ranges {
                prop_assert!(range.count > 0 && range.first.0 >= last && range.end().0 <= RAM_PAGES);
                last = range.end().0;
            }
            prop_assert_eq!(rig.device.hint_status(), HintStatus::Stop);
        }
    }
}
