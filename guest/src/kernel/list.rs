//! Linux's `list_head { next, prev }`, by address: circular, through its head. Linux: include/linux/list.h.

use crate::arch::{read64, write64};

/// Size of a list head or node, bytes.
pub const LIST_HEAD_BYTES: u64 = 16;
/// What a removed node points at, so that a stale use is seen. Linux: LIST_POISON1, LIST_POISON2.
const POISON_NEXT: u64 = 0xdead_0000_0000_0100;
const POISON_PREV: u64 = 0xdead_0000_0000_0122;

/// The node behind `node`.
pub fn next(node: u64) -> u64 {
    read64(node)
}
/// The node before `node`.
pub fn prev(node: u64) -> u64 {
    read64(node + 8)
}

/// Makes `head` an empty list. Linux: INIT_LIST_HEAD().
pub fn init_list_head(head: u64) {
    write64(head, head);
    write64(head + 8, head);
}

fn insert(node: u64, before: u64, after: u64) {
    assert!(next(before) == after, "list_add: next of {before:#x} is not {after:#x}");
    assert!(prev(after) == before, "list_add: prev of {after:#x} is not {before:#x}");
    write64(after + 8, node);
    write64(node, after);
    write64(node + 8, before);
    write64(before, node);
}

/// Puts `node` first. Linux: list_add().
pub fn list_add(node: u64, head: u64) {
    insert(node, head, next(head));
}

/// Puts `node` last. Linux: list_add_tail().
pub fn list_add_tail(node: u64, head: u64) {
    insert(node, prev(head), head);
}

/// Takes `node` off its list and poisons its links. Linux: list_del() with CONFIG_DEBUG_LIST.
pub fn list_del(node: u64) {
    let (after, before) = (next(node), prev(node));
    assert!(after != POISON_NEXT, "list_del: {node:#x} is on no list");
    assert!(next(before) == node, "list_del: next of {before:#x} is not {node:#x}");
    assert!(prev(after) == node, "list_del: prev of {after:#x} is not {node:#x}");
    write64(after + 8, before);
    write64(before, after);
    write64(node, POISON_NEXT);
    write64(node + 8, POISON_PREV);
}

/// Takes `node` off its list and puts it last on another. Linux: list_move_tail().
pub fn list_move_tail(node: u64, head: u64) {
    list_del(node);
    list_add_tail(node, head);
}

/// Makes `node` the first of its list by moving the head. Linux: list_rotate_to_front().
pub fn list_rotate_to_front(node: u64, head: u64) {
    if next(head) != node {
        list_move_tail(head, node);
    }
}

/// Whether the list has no nodes. Linux: list_empty().
pub fn list_empty(head: u64) -> bool {
    next(head) == head
}

/// The first node, if any. Linux: list_first_entry_or_null().
pub fn first(head: u64) -> Option<u64> {
    Some(next(head)).filter(|&node| node != head)
}

/// The last node, if any.
pub fn last(head: u64) -> Option<u64> {
    Some(prev(head)).filter(|&node| node != head)
}

/// The nodes in order; the node last returned may be removed. Linux: list_for_each_safe().
pub fn iter(head: u64) -> Iter {
    Iter { head, at: next(head) }
}

/// See [`iter`].
#[derive(Debug, Clone)]
pub struct Iter {
    head: u64,
    at: u64,
}

impl Iterator for Iter {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        if self.at == self.head {
            return None;
        }
        let node = self.at;
        self.at = next(node);
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: u64 = 0x2000;

    fn nodes() -> Vec<u64> {
        iter(HEAD).collect()
    }

    #[test]
    fn add_puts_first_and_add_tail_puts_last() {
        crate::arch::reset(0x4000);
        init_list_head(HEAD);
        assert!(list_empty(HEAD));
        list_add(0x3000, HEAD);
        list_add(0x3010, HEAD);
        list_add_tail(0x3020, HEAD);
        assert_eq!(nodes(), [0x3010, 0x3000, 0x3020]);
        assert_eq!((first(HEAD), last(HEAD)), (Some(0x3010), Some(0x3020)));
    }

    #[test]
    fn the_node_last_returned_may_be_removed() {
        crate::arch::reset(0x4000);
        init_list_head(HEAD);
        for node in [0x3000, 0x3010, 0x3020] {
            list_add_tail(node, HEAD);
        }
        for node in iter(HEAD) {
            list_del(node);
        }
        assert!(list_empty(HEAD));
    }

    #[test]
    #[should_panic(expected = "is on no list")]
    fn removing_twice_is_caught() {
        crate::arch::reset(0x4000);
        init_list_head(HEAD);
        list_add(0x3000, HEAD);
        list_del(0x3000);
        list_del(0x3000);
    }
}
