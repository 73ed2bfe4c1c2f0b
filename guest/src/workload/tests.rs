//! Tasks over a machine without a balloon.

use proptest::prelude::*;
use wire::debug::{self, TASK_BEGIN, TASK_END, TASK_NAME};
use wire::platform::{MAILBOX, PAGE_SIZE};
use wire::task::{HEADER_BYTES, NAMES, OP_BYTES, SLOTS, TaskOp, op};

use super::names::{self, Name};
use super::{Mailbox, NAMES_TABLE, ops, perform_next};
use crate::arch;
use crate::kernel::boot::init_for_test;
use crate::mm::pcp::drain_all_pages;
use crate::mm::stats::si_meminfo;

fn machine() {
    init_for_test(16 << 20, 1);
    names::init();
    arch::take_traces();
}

/// Performs an operation; whether it was done, by its tracepoint.
fn perform(code: u32, name: u32, a: u64, b: u64) -> bool {
    arch::take_traces();
    ops::perform(&TaskOp { code, name, a, b, id: 9 });
    let traces = arch::take_traces();
    assert_eq!(traces.first(), Some(&(TASK_BEGIN, 9, code.into())));
    let &(TASK_END, 9, done) = traces.last().expect("a trace") else { panic!("the operation has no end") };
    done == 1
}

fn free_pages_now() -> u64 {
    drain_all_pages();
    arch::take_traces();
    si_meminfo().freeram
}

#[test]
fn a_named_block_is_written_verified_and_freed() {
    machine();
    let free = free_pages_now();
    assert!(perform(op::ALLOC, 3, 2, 0));
    let block = Name::new(3).expect("a name").block().expect("a block");
    assert_eq!((arch::read64(NAMES_TABLE + 3 * 16), arch::read64(NAMES_TABLE + 3 * 16 + 8)), (block.pfn.0, 2));
    assert!(perform(op::WRITE, 3, 0x3ff8, 0xbb));
    assert_eq!(arch::read64(block.pfn.addr() + 0x3ff8), 0xbb);
    assert!(perform(op::VERIFY, 3, 0x3ff8, 0xbb));
    assert!(perform(op::FREE, 3, 0, 0));
    assert!(!perform(op::FREE, 3, 0, 0), "nothing is left under the name");
    assert_eq!(free_pages_now(), free);
}

#[test]
fn the_name_is_told_when_it_stands_for_the_block() {
    machine();
    ops::perform(&TaskOp { code: op::ALLOC, name: 5, a: 1, b: 0, id: 0 });
    let block = Name::new(5).expect("a name").block().expect("a block");
    assert!(arch::take_traces().contains(&(TASK_NAME, block.pfn.0, 1 | 5 << 8)));
}

#[test]
#[should_panic(expected = "0xbb was written")]
fn lost_memory_is_a_panic() {
    machine();
    perform(op::ALLOC, 0, 0, 0);
    perform(op::WRITE, 0, 0, 0xaa);
    perform(op::VERIFY, 0, 0, 0xbb);
}

#[test]
fn what_cannot_be_done_is_said() {
    machine();
    assert!(perform(op::ALLOC, 0, 0, 0));
    assert!(!perform(op::ALLOC, 0, 0, 0), "the name is taken");
    assert!(!perform(op::ALLOC, 1, 11, 0), "no such order");
    assert!(!perform(op::WRITE, 0, 4, 0), "two stores");
    assert!(!perform(op::WRITE, 0, PAGE_SIZE, 0), "outside the block");
    assert!(!perform(op::WRITE, 1, 0, 0), "no block");
    assert!(!perform(op::ALLOC, NAMES as u32, 0, 0), "no name");
    assert!(!perform(99, 0, 0, 0), "no operation");
}

#[test]
fn fill_marks_its_pages_and_release_frees_them_in_order() {
    machine();
    let free = free_pages_now();
    ops::perform(&TaskOp { code: op::FILL, name: 1, a: 40, b: 0x77, id: 0 });
    let of = |code| move |trace: &arch::Trace| (trace.0 == code).then_some(trace.1);
    let allocated: Vec<u64> = arch::take_traces().iter().filter_map(of(debug::ALLOC)).collect();
    assert_eq!(allocated.len(), 40);
    assert!(allocated.iter().all(|pfn| arch::read64(pfn << 12) == 0x77 + (pfn << 8)));
    ops::perform(&TaskOp { code: op::RELEASE, name: 1, a: 0, b: 0, id: 0 });
    let freed: Vec<u64> = arch::take_traces().iter().filter_map(of(debug::FREE)).collect();
    assert_eq!(freed, allocated);
    assert_eq!(free_pages_now(), free);
}

#[test]
fn releasing_a_part_leaves_the_rest_in_order() {
    machine();
    let free = free_pages_now();
    ops::perform(&TaskOp { code: op::FILL, name: 1, a: 10, b: 0, id: 0 });
    let of = |code| move |trace: &arch::Trace| (trace.0 == code).then_some(trace.1);
    let allocated: Vec<u64> = arch::take_traces().iter().filter_map(of(debug::ALLOC)).collect();
    for every in [3, 1] {
        ops::perform(&TaskOp { code: op::RELEASE, name: 1, a: every, b: 0, id: 0 });
    }
    let freed: Vec<u64> = arch::take_traces().iter().filter_map(of(debug::FREE)).collect();
    let expected = [0, 3, 6, 9, 1, 2, 4, 5, 7, 8].map(|at: usize| allocated[at]);
    assert_eq!(freed, expected);
    assert!(!perform(op::RELEASE, 1, 2, 0), "nothing is left");
    assert_eq!(free_pages_now(), free);
}

#[test]
fn fill_keeps_what_it_got_when_memory_runs_out() {
    machine();
    let free = free_pages_now();
    assert!(!perform(op::FILL, 1, 1 << 20, 0));
    assert!(free_pages_now() < free / 2);
    assert!(perform(op::RELEASE, 1, 0, 0));
    assert_eq!(free_pages_now(), free);
}

#[test]
fn the_mailbox_is_a_ring() {
    machine();
    let mailbox = Mailbox(MAILBOX);
    for index in 0..SLOTS + 3 {
        let slot = MAILBOX + HEADER_BYTES + index % SLOTS * OP_BYTES;
        arch::write32(slot, op::NOP);
        arch::write64(slot + 24, index);
        arch::write64(MAILBOX, index + 1);
        perform_next(mailbox);
        assert_eq!(arch::take_traces(), [(TASK_BEGIN, index, 0), (TASK_END, index, 1)]);
        assert_eq!((mailbox.head(), mailbox.tail()), (index + 1, index + 1));
    }
}

proptest! {
    #[test]
    fn churn_is_repeatable_and_leaves_nothing(rounds in 0..300u64, seed in any::<u64>()) {
        let run = || {
            machine();
            let free = free_pages_now();
            ops::perform(&TaskOp { code: op::CHURN, name: 0, a: rounds, b: seed, id: 0 });
            let traces = arch::take_traces();
            prop_assert_eq!(free_pages_now(), free);
            prop_assert_eq!(traces.iter().filter(|trace| trace.0 == debug::ALLOC).count() as u64, rounds);
            Ok(traces)
        };
        prop_assert_eq!(run()?, run()?);
    }
}
