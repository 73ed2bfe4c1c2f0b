//! What the tasks of all vCPUs hold by name: one block each, published to the observer, and one list of single pages each.
//!
//! The lock is held while the table is looked at, never while memory is allocated, freed or written: a scenario may hold a task back at
//! its store for as long as it likes, and the others go on.

use core::mem::offset_of;

use wire::debug::{TASK_NAME, lock};
use wire::layout::KernelInfo;
use wire::platform::PAGE_SIZE;
use wire::task::NAMES;

use super::NAMES_TABLE;
use crate::arch;
use crate::kernel::info::publish;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::mm::page::{Page, Pfn};

const ENTRY_BYTES: u64 = 16;
const LISTS: u64 = NAMES_TABLE + NAMES as u64 * ENTRY_BYTES;
const TASKS_LOCK: SpinLock = SpinLock::at(LISTS + NAMES as u64 * list::LIST_HEAD_BYTES, lock::TASKS);

/// A block that a task holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First frame.
    pub pfn: Pfn,
    /// log2 of its pages.
    pub order: u32,
}

impl Block {
    /// The address of 8 bytes at `offset`, if they lie inside and are aligned, so that one store reaches them.
    pub fn word(self, offset: u64) -> Option<u64> {
        let inside = offset.is_multiple_of(8) && offset < PAGE_SIZE << self.order;
        inside.then(|| self.pfn.addr() + offset)
    }
}

/// One of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(u32);

impl Name {
    /// The name of a number, if there is such a name.
    pub fn new(number: u32) -> Option<Name> {
        ((number as usize) < NAMES).then_some(Name(number))
    }

    fn entry(self) -> u64 {
        NAMES_TABLE + u64::from(self.0) * ENTRY_BYTES
    }

    fn list(self) -> u64 {
        LISTS + u64::from(self.0) * list::LIST_HEAD_BYTES
    }

    fn block_locked(self) -> Option<Block> {
        let pfn = arch::read64(self.entry());
        (pfn != 0).then(|| Block { pfn: Pfn(pfn), order: arch::read64(self.entry() + 8) as u32 })
    }

    /// The block that the name stands for.
    pub fn block(self) -> Option<Block> {
        locked(|| self.block_locked())
    }

    /// Gives the name to a block, unless it is taken.
    pub fn set(self, block: Block) -> bool {
        assert!(block.pfn.0 != 0, "frame 0 is nobody's");
        let set = locked(|| {
            let free = self.block_locked().is_none();
            if free {
                arch::write64(self.entry() + 8, u64::from(block.order));
                arch::write64(self.entry(), block.pfn.0);
            }
            free
        });
        if set {
            arch::trace(TASK_NAME, block.pfn.0, u64::from(block.order) | u64::from(self.0) << 8);
        }
        set
    }

    /// Takes the block from the name.
    pub fn take(self) -> Option<Block> {
        locked(|| {
            let block = self.block_locked();
            arch::write64(self.entry(), 0);
            block
        })
    }

    /// Keeps a single page, behind those that the name keeps already.
    pub fn push(self, page: Pfn) {
        locked(|| list::list_add_tail(Page::of(page).lru(), self.list()));
    }

    /// Puts a page back before all that the name keeps.
    pub fn push_first(self, page: Pfn) {
        locked(|| list::list_add(Page::of(page).lru(), self.list()));
    }

    /// Takes the page that the name has kept longest.
    pub fn pop(self) -> Option<Pfn> {
        locked(|| {
            let node = list::first(self.list())?;
            list::list_del(node);
            Some(Page::of_lru(node).pfn())
        })
    }
}

fn locked<T>(body: impl FnOnce() -> T) -> T {
    let flags = TASKS_LOCK.lock_irqsave();
    let result = body();
    TASKS_LOCK.unlock_irqrestore(flags);
    result
}

/// Makes all names empty and publishes them.
pub fn init() {
    TASKS_LOCK.init();
    for number in 0..NAMES as u32 {
        let name = Name(number);
        arch::write64(name.entry(), 0);
        list::init_list_head(name.list());
    }
    publish(offset_of!(KernelInfo, task_names), NAMES_TABLE);
}
