//! Allocations that fail because a task asked for that. Linux: mm/fail_page_alloc.c, lib/fault-inject.c.
//!
//! Differs: one failure at a time, told by its number, not by a probability.

use crate::arch::{read64, write64};
use crate::kernel::data;

/// u64: allocations until the one that fails, itself included; 0: none fails.
const LEFT: u64 = data::FAIL_PAGE_ALLOC;

/// Lets the `nth` allocation from now fail.
pub fn arm(nth: u64) {
    write64(LEFT, nth);
}

/// Whether this allocation fails. Linux: should_fail_alloc_page().
pub(crate) fn should_fail() -> bool {
    let left = read64(LEFT);
    if left == 0 {
        return false;
    }
    write64(LEFT, left - 1);
    left == 1
}
