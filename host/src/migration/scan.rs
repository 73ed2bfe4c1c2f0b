//! The scan: where the next page to send is looked for.
//!
//! QEMU: migration/ram.c RAMState.last_seen_block and .last_page, find_dirty_block(), ram_find_and_save_block(). The scan goes on behind the last
//! page that was taken, through the blocks in the order of their list, and around; it is over when it has come back to where it began.

use super::blocks::Block;
use crate::dirty::bitmap::DirtyBitmap;
use crate::event::Pfn;

/// Where the scan goes on, across slices and syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cursor {
    /// How many blocks of the list's order stand before its block.
    pub(super) at: usize,
    /// The page of the block.
    pub(super) page: Pfn,
}

impl Cursor {
    /// Returns the place where the first scan begins.
    pub(super) fn start() -> Self {
        Self { at: 0, page: Pfn(0) }
    }

    /// Returns the first page in B from here on and around, with its block's place in the order.
    pub(super) fn next_dirty(self, order: &[usize], blocks: &[Block]) -> Option<Cursor> {
        let in_block = |at: usize, from: Pfn| {
            let b: &DirtyBitmap = blocks[order[at]].b.as_ref()?;
            b.next_set(from).map(|page| Cursor { at, page })
        };
        let behind = (self.at + 1..order.len()).chain(0..=self.at);
        in_block(self.at, self.page).or_else(|| behind.into_iter().find_map(|at| in_block(at, Pfn(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::ram_list::{BlockOptions, RamList};
    use crate::event::PageRange;

    fn blocks(ram: &RamList) -> Vec<Block> {
        let mut blocks: Vec<Block> = ram.places().iter().map(|place| Block::new(place, 6)).collect();
        for block in &mut blocks {
            block.b.as_mut().map(|b| b.clear_range(PageRange::new(Pfn(0), u64::MAX >> 12)));
        }
        blocks
    }

    #[test]
    fn the_scan_goes_through_all_blocks_and_comes_back_to_its_own() {
        let options = |name: &str, pages, offset, ignored| BlockOptions { name: name.to_owned(), pages, offset, room: 0, ignored };
        let ram = RamList::new(&[options("a", 64, 0, false), options("b", 128, 64, false), options("c", 96, 192, true)]);
        let mut blocks = blocks(&ram);
        assert_eq!(ram.order(), [1, 2, 0]);
        let from = Cursor { at: 0, page: Pfn(100) };
        assert_eq!(from.next_dirty(ram.order(), &blocks), None);
        blocks[1].b.as_mut().expect("not ignored").set(Pfn(3));
        assert_eq!(from.next_dirty(ram.order(), &blocks), Some(Cursor { at: 0, page: Pfn(3) }));
        blocks[0].b.as_mut().expect("not ignored").set(Pfn(9));
        assert_eq!(from.next_dirty(ram.order(), &blocks), Some(Cursor { at: 2, page: Pfn(9) }));
        blocks[1].b.as_mut().expect("not ignored").set(Pfn(100));
        assert_eq!(from.next_dirty(ram.order(), &blocks), Some(from));
    }
}
