//! What a task can do: one function for each operation of `wire::task::op`. Each returns whether it did what it was asked.

use wire::debug::{MISSING, TASK_BEGIN, TASK_END};
use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SIZE;
use wire::task::{TaskOp, op};

use crate::arch;
use crate::balloon::dialect;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::boot::boot_info;
use crate::kernel::data::WORKLOAD_DATA;
use crate::kernel::reboot::{emergency_restart, kernel_restart};
use crate::kernel::timer::sleep_ns;
use crate::mm::free_page_list::{ENTRY_BYTES, Place, get_from_free_page_list};
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::put_page;
use crate::mm::stats::{SysInfo, si_meminfo};
use crate::mm::zone::Zone;
use crate::mm::{self, Gfp, pcp};
use crate::virtio::bus;
use crate::virtio::device::VirtioDevice;
use crate::workload::MEMORY_NOTE;
use crate::workload::names::{Block, Name};

/// Whether the interrupt that tells of an operation performs it, if nothing else is to be done before.
pub fn is_for_interrupt(task: &TaskOp) -> bool {
    task.code == op::FREE && task.a == 1
}

/// Performs one operation, between its two tracepoints.
pub fn perform(task: &TaskOp) {
    arch::trace(TASK_BEGIN, task.id, u64::from(task.code));
    let done = dispatch(task);
    arch::trace(TASK_END, task.id, u64::from(done));
}

fn dispatch(task: &TaskOp) -> bool {
    let TaskOp { code, name, a, b, id: _ } = *task;
    let Some(name) = Name::new(name) else { return false };
    match code {
        op::NOP => true,
        op::ALLOC => alloc(name, a, if b == 1 { Gfp::ATOMIC } else { Gfp::HIGHUSER_MOVABLE }),
        op::FREE => free(name),
        op::WRITE => write(name, a, b),
        op::FILL => fill(name, a, b),
        op::RELEASE => release(name, a),
        op::SHRINK => mm::shrinker::shrink_pages(a) > 0,
        op::OOM => mm::oom::out_of_memory() > 0,
        op::SLEEP => {
            sleep_ns(a);
            true
        }
        op::VERIFY => verify(name, a, b),
        op::CHURN => churn(a, b),
        op::UNBIND => bus::unbind(dialect::driver()).is_ok(),
        op::BIND => bus::bind(dialect::driver(), boot_info().features_refused).is_ok(),
        op::REPEAT_START => repeat_start(a),
        op::FREEZE => bus::freeze(dialect::driver()).is_ok(),
        op::RESTORE => bus::restore(dialect::driver()).is_ok(),
        op::SHUTDOWN => bus::shutdown(dialect::driver()).is_ok(),
        op::REBOOT => kernel_restart(),
        op::EMERGENCY_RESTART => emergency_restart(),
        op::MEMINFO => meminfo(a),
        op::PAGE_REF => page_ref(a, b),
        op::FAIL_ALLOC => {
            mm::fail_page_alloc::arm(a);
            true
        }
        op::COMPACT => compact(a, b),
        op::EVACUATE => mm::compaction::evacuate_lowest_zone(),
        op::START_ZONE => start_zone(a),
        op::LIST_FREE => list_free(a),
        op::PANIC => panic!("a task asked for a panic"),
        op::NULL_STORE => {
            arch::wild_store64(0, b);
            true
        }
        op::WILD_STORE => {
            arch::wild_store64(a, b);
            true
        }
        op::JUMP_TO_DATA => arch::wild_jump(WORKLOAD_DATA),
        // An operation of a later VMM.
        _ => false,
    }
}

/// Makes the driver misbehave once: it repeats its start buffer behind that many hints.
fn repeat_start(hints: u64) -> bool {
    let driver = VirtioDevice::the().private().get();
    if driver == 0 {
        return false;
    }
    VirtioBalloon::at(driver).repeat_start_after().set(hints);
    true
}

/// Takes a reference to a page that is in use, or drops one: whoever walks frames (compaction, page idle tracking) does so without knowing
/// whose page it is.
fn page_ref(frame: u64, take: u64) -> bool {
    if frame >= mm::globals::max_pfn() {
        return false;
    }
    if take == 0 {
        put_page(Pfn(frame));
        return true;
    }
    Page::of(Pfn(frame)).get_unless_zero()
}

/// Reads how much memory is free, per-CPU lists included, and how much there is; notes it, or says what is missing since it was noted: as a
/// user would who reads /proc/meminfo and /proc/zoneinfo twice.
fn meminfo(compare: u64) -> bool {
    let on_pcp: u64 = Zone::all().map(pcp::total_count).sum();
    let SysInfo { totalram, freeram, caches: _ } = si_meminfo();
    let now = [freeram + on_pcp, totalram];
    let slots = [MEMORY_NOTE, MEMORY_NOTE + 8];
    if compare == 0 {
        slots.into_iter().zip(now).for_each(|(slot, pages)| arch::write64(slot, pages));
        return true;
    }
    let [free, total] = [0, 1].map(|index| arch::read64(slots[index]).saturating_sub(now[index]));
    let missing = free != 0 || total != 0;
    if missing {
        arch::trace(MISSING, free, total);
    }
    !missing
}

/// For an order, done when a block of it is to be had.
fn compact(order: u64, busy: u64) -> bool {
    mm::globals::fail_migration(busy);
    if order > u64::from(MAX_PAGE_ORDER) {
        return false;
    }
    if order > 0 {
        return mm::compaction::try_to_compact_pages(order as u32);
    }
    mm::compaction::compact_nodes();
    true
}

/// Makes the driver pass a zone that may not be there, once.
fn start_zone(zone: u64) -> bool {
    let driver = VirtioDevice::the().private().get();
    if driver == 0 {
        return false;
    }
    VirtioBalloon::at(driver).request().start_zone().set(zone + 1);
    true
}

/// Asks for a page of addresses of free blocks, as a module that is no balloon might of the function that v33 exports.
fn list_free(order: u64) -> bool {
    let Some(page) = mm::alloc_pages(Gfp::KERNEL, 0) else { return false };
    let found = get_from_free_page_list(order as u32, page.addr(), (PAGE_SIZE / ENTRY_BYTES) as u32, &mut Place::START.clone());
    put_page(page);
    found > 0
}

/// The name gets a block as user memory would, of which direct reclaim runs the shrinkers, then the OOM notifiers; or as an interrupt would.
fn alloc(name: Name, order: u64, gfp: Gfp) -> bool {
    if order > u64::from(MAX_PAGE_ORDER) || name.block().is_some() {
        return false;
    }
    let order = order as u32;
    let Some(pfn) = mm::alloc_pages(gfp, order) else { return false };
    let set = name.set(Block { pfn, order });
    if !set {
        // Another vCPU's task was faster.
        mm::free_pages(pfn, order);
    }
    set
}

fn free(name: Name) -> bool {
    let Some(block) = name.take() else { return false };
    mm::free_pages(block.pfn, block.order);
    true
}

fn write(name: Name, offset: u64, value: u64) -> bool {
    let Some(addr) = name.block().and_then(|block| block.word(offset)) else { return false };
    arch::write64(addr, value);
    true
}

/// # Panics
/// When the bytes differ: the guest has lost memory, and says so itself.
fn verify(name: Name, offset: u64, expected: u64) -> bool {
    let Some(addr) = name.block().and_then(|block| block.word(offset)) else { return false };
    let found = u64::from(arch::read8(addr));
    assert!(found == expected & 0xff, "memory at {addr:#x} holds {found:#x}, {:#x} was written", expected & 0xff);
    true
}

/// Keeps what it got when memory runs out on the way.
fn fill(name: Name, pages: u64, value: u64) -> bool {
    for _ in 0..pages {
        let Some(pfn) = mm::alloc_pages(Gfp::HIGHUSER_MOVABLE, 0) else { return false };
        arch::write64(pfn.addr(), value.wrapping_add(pfn.0 << 8));
        name.push(pfn);
    }
    true
}

/// Frees one page of `every`, all when that is 0 or 1; the others stay on the list, in their order.
fn release(name: Name, every: u64) -> bool {
    let (mut any, mut first_kept) = (false, None);
    let mut at = 0;
    while let Some(page) = name.pop() {
        if Some(page) == first_kept {
            name.push_first(page);
            break;
        }
        if at % every.max(1) == 0 {
            mm::free_pages(page, 0);
            any = true;
        } else {
            first_kept = first_kept.or(Some(page));
            name.push(page);
        }
        at += 1;
    }
    any
}

/// Blocks that a churning task holds at a time.
const CHURN_SLOTS: usize = 16;

/// Marsaglia's xorshift, 13/7/17.
fn xorshift(state: u64) -> u64 {
    let state = state ^ state << 13;
    let state = state ^ state >> 7;
    state ^ state << 17
}

fn churn(rounds: u64, seed: u64) -> bool {
    let mut held: [Option<Block>; CHURN_SLOTS] = [None; CHURN_SLOTS];
    // A state of 0 would stay 0.
    let mut random = seed | 1;
    let mut got_all = true;
    for _ in 0..rounds {
        random = xorshift(random);
        let order = (random >> 32) as u32 % 4;
        let slot = (random >> 40) as usize % CHURN_SLOTS;
        let new = mm::alloc_pages(Gfp::HIGHUSER_MOVABLE, order).map(|pfn| Block { pfn, order });
        match new {
            Some(block) => arch::write64(block.pfn.addr(), random),
            None => got_all = false,
        }
        if let Some(old) = core::mem::replace(&mut held[slot], new) {
            mm::free_pages(old.pfn, old.order);
        }
    }
    for block in held.into_iter().flatten() {
        mm::free_pages(block.pfn, block.order);
    }
    got_all
}
