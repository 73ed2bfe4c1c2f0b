//! virtio-mem: memory that is plugged and unplugged in blocks, and who is told which of it is there.
//!
//! QEMU: hw/virtio/virtio-mem.c, and the RamDiscardManager that it is for its memory region (include/system/memory.h). The region is a RAM block of
//! its own, the last of guest memory. What is not plugged has no contents: nobody shall use it, and nobody shall read it, since that alone would
//! populate it. Who has to know asks: all populated, or all discarded parts of a section are replayed to him.
//!
//! Differs: there is no queue and no driver. An operator's new size is carried out at once as Linux's driver would ask for it, the lowest
//! blocks first and the highest away first (drivers/virtio/virtio_mem.c), and what is refused is not tried again. The guest's allocator never gets
//! the memory: whoever uses it is the scenario.

use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};

/// What a device is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioMemOptions {
    /// Pages of its region, at the end of guest memory.
    pub pages: u64,
    /// Pages of a block (QEMU: `block-size`).
    pub block_pages: u64,
    /// Pages of the parts as which listeners see the region (QEMU: `dynamic-memslots`).
    pub memslot_pages: u64,
    /// Blocks that are plugged when the machine starts.
    pub plugged: Vec<u64>,
    /// A section's first block is looked for with the number of blocks in the place of their size ([`Fault::DiscardIndex`]).
    ///
    /// [`Fault::DiscardIndex`]: crate::fault::Fault::DiscardIndex
    pub index_by_count: bool,
}

/// A block's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is plugged.
    Plug(PageRange),
    /// It is unplugged.
    Unplug(PageRange),
}

/// The device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioMem {
    region: PageRange,
    block_pages: u64,
    memslot_pages: u64,
    index_by_count: bool,
    /// For each block whether it is plugged (QEMU: `bitmap`).
    plugged: Vec<bool>,
}

impl VirtioMem {
    /// Returns a device whose region ends where the memory of `pages` does.
    ///
    /// # Panics
    /// When the region is not of whole blocks, or has not one that is said to be plugged.
    pub(crate) fn new(pages: u64, options: &VirtioMemOptions) -> Self {
        let VirtioMemOptions { pages: of_region, block_pages, memslot_pages, plugged, index_by_count } = options;
        assert!(*of_region > 0 && of_region < &pages, "a region of {of_region} pages in memory of {pages}");
        assert!(of_region.is_multiple_of(*block_pages) && memslot_pages.is_multiple_of(*block_pages), "blocks of {block_pages} pages");
        let mut blocks = vec![false; usize::try_from(of_region / block_pages).expect("64-bit host")];
        for block in plugged {
            let there = blocks.get_mut(usize::try_from(*block).expect("64-bit host")).expect("a block of the region");
            *there = true;
        }
        Self {
            region: PageRange::new(Pfn(pages - of_region), *of_region),
            block_pages: *block_pages,
            memslot_pages: *memslot_pages,
            index_by_count: *index_by_count,
            plugged: blocks,
        }
    }

    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { region: _, block_pages: _, memslot_pages: _, index_by_count: _, plugged } = self;
        fold.add_part(Tag::VirtioMem, plugged);
    }

    /// Returns all memory that it may ever have.
    pub fn region(&self) -> PageRange {
        self.region
    }

    /// Returns whether a page is its memory, and not plugged (QEMU: virtio_mem_rdm_is_populated()).
    pub fn is_discarded(&self, pfn: Pfn) -> bool {
        self.region.contains(pfn) && !self.plugged[self.block_of(pfn)]
    }

    /// Returns the parts as which the region stands in the memory map.
    pub(crate) fn sections(&self) -> impl Iterator<Item = PageRange> {
        let (first, count) = (self.region.first.0, self.region.count);
        let parts = (0..count).step_by(usize::try_from(self.memslot_pages).expect("64-bit host"));
        parts.map(move |offset| PageRange::new(Pfn(first + offset), self.memslot_pages.min(count - offset)))
    }

    /// Returns what of a section is plugged (QEMU: virtio_mem_for_each_plugged_section()).
    pub(crate) fn populated(&self, section: PageRange) -> Vec<PageRange> {
        self.replay(section, true)
    }

    /// Returns what of a section is not plugged (QEMU: virtio_mem_for_each_unplugged_section()).
    pub(crate) fn discarded(&self, section: PageRange) -> Vec<PageRange> {
        self.replay(section, false)
    }

    /// Returns the runs of blocks in that state, from the section's first block on, each cut to the section.
    fn replay(&self, section: PageRange, plugged: bool) -> Vec<PageRange> {
        let (blocks, mut found) = (self.plugged.len(), Vec::new());
        let next = |state: bool, from: usize| (from..blocks).find(|block| self.plugged[*block] == state).unwrap_or(blocks);
        let mut at = next(plugged, self.first_block(section));
        while at < blocks {
            let end = next(!plugged, at);
            let first = self.pages_of(at).first.0.max(section.first.0);
            let last = self.pages_of(end - 1).end().0.min(section.end().0);
            if first >= last {
                break;
            }
            found.push(PageRange::new(Pfn(first), last - first));
            at = next(plugged, end);
        }
        found
    }

    fn first_block(&self, section: PageRange) -> usize {
        let offset = section.first.0 - self.region.first.0;
        let index = match self.index_by_count {
            true => (offset << wire::platform::PAGE_SHIFT) / self.plugged.len() as u64,
            false => offset / self.block_pages,
        };
        usize::try_from(index).expect("64-bit host")
    }

    fn block_of(&self, pfn: Pfn) -> usize {
        usize::try_from((pfn.0 - self.region.first.0) / self.block_pages).expect("64-bit host")
    }

    fn pages_of(&self, block: usize) -> PageRange {
        PageRange::new(Pfn(self.region.first.0 + block as u64 * self.block_pages), self.block_pages)
    }

    /// Returns what a driver asks for when the operator wants that many pages to be plugged, block by block.
    pub(crate) fn plan(&self, pages: u64) -> Vec<Change> {
        let wanted = usize::try_from(pages.div_ceil(self.block_pages)).expect("64-bit host").min(self.plugged.len());
        let there = self.plugged.iter().filter(|plugged| **plugged).count();
        let in_state = |state: bool| (0..self.plugged.len()).filter(move |block| self.plugged[*block] == state);
        if wanted >= there {
            in_state(false).take(wanted - there).map(|block| Change::Plug(self.pages_of(block))).collect()
        } else {
            let blocks: Vec<usize> = in_state(true).collect();
            blocks.into_iter().rev().take(there - wanted).map(|block| Change::Unplug(self.pages_of(block))).collect()
        }
    }

    /// Makes a change (QEMU: virtio_mem_set_block_state()).
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn make(&mut self, change: Change) {
        let (range, plug) = match change {
            Change::Plug(range) => (range, true),
            Change::Unplug(range) => (range, false),
        };
        let block = self.block_of(range.first);
        assert_ne!(self.plugged[block], plug, "block {block} is as it shall be");
        self.plugged[block] = plug;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index_by_count: bool) -> VirtioMem {
        let options = VirtioMemOptions { pages: 6 * 256, block_pages: 256, memslot_pages: 512, plugged: vec![0, 3, 4], index_by_count };
        VirtioMem::new(2560, &options)
    }

    fn blocks(first: u64, count: u64) -> PageRange {
        PageRange::new(Pfn(1024 + first * 256), count * 256)
    }

    #[test]
    fn runs_of_blocks_are_replayed() {
        let device = device(false);
        assert_eq!(device.populated(device.region()), [blocks(0, 1), blocks(3, 2)]);
        assert_eq!(device.discarded(device.region()), [blocks(1, 2), blocks(5, 1)]);
        assert!(device.is_discarded(Pfn(1024 + 256)) && !device.is_discarded(Pfn(1024)) && !device.is_discarded(Pfn(1023)));
    }

    #[test]
    fn a_run_is_cut_to_the_section() {
        let device = device(false);
        let sections: Vec<PageRange> = device.sections().collect();
        assert_eq!(sections, [blocks(0, 2), blocks(2, 2), blocks(4, 2)]);
        assert_eq!(device.populated(sections[1]), [blocks(3, 1)]);
        assert_eq!(device.discarded(sections[1]), [blocks(2, 1)]);
        assert_eq!(device.populated(sections[2]), [blocks(4, 1)]);
    }

    #[test]
    fn the_wrong_divisor_finds_nothing_but_in_the_first_section() {
        let device = device(true);
        let found: Vec<Vec<PageRange>> = device.sections().map(|section| device.populated(section)).collect();
        assert_eq!(found, [vec![blocks(0, 1)], vec![], vec![]]);
        assert_eq!(device.populated(device.region()), [blocks(0, 1), blocks(3, 2)], "from the region's start on nothing is divided");
    }

    #[test]
    fn blocks_come_from_below_and_go_from_above() {
        let mut device = device(false);
        let plan = device.plan(4 * 256 + 1);
        assert_eq!(plan, [Change::Plug(blocks(1, 1)), Change::Plug(blocks(2, 1))]);
        plan.into_iter().for_each(|change| device.make(change));
        let plan = device.plan(3 * 256);
        assert_eq!(plan, [Change::Unplug(blocks(4, 1)), Change::Unplug(blocks(3, 1))]);
        plan.into_iter().for_each(|change| device.make(change));
        assert_eq!(device.populated(device.region()), [blocks(0, 3)]);
        assert_eq!(device.plan(3 * 256), []);
        assert_eq!(device.plan(u64::MAX).len(), 3);
    }
}
