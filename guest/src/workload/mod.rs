//! What runs on the kernel: one task thread per vCPU, which performs the operations of its mailbox (`wire::task`) in order.
//!
//! A task stands for user processes: it allocates as they do, with direct reclaim, and writes what it owns. [`names`] holds what the tasks
//! have allocated, [`ops`] is what they can do.

pub mod names;
pub mod ops;

use wire::debug::READY;
use wire::platform::{MAILBOX, MAX_VCPUS, PAGE_SIZE, boot_flag, vector};
use wire::task::{HEADER_BYTES, MailboxHeader, OP_BYTES, SLOTS, TaskOp};

use core::mem::offset_of;

use crate::arch;
use crate::balloon::dialect;
use crate::kernel::boot::boot_info;
use crate::kernel::data::WORKLOAD_DATA;
use crate::kernel::wait::{WaitQueue, wait_event};
use crate::kernel::{irq, panic::warn, sched};
use crate::virtio::{Errno, bus};

/// Where each vCPU's task waits for its mailbox.
const WAIT_QUEUES: u64 = WORKLOAD_DATA;
/// Where [`names`] keeps its table.
const NAMES_TABLE: u64 = WORKLOAD_DATA + 0x100;
const _: () = assert!(WaitQueue::BYTES * MAX_VCPUS as u64 <= 0x100);

/// Probes the driver and starts the tasks; the first thread of vCPU 0, once memory and all vCPUs are up.
pub fn start() {
    let boot = boot_info();
    let late = boot.flags & boot_flag::LATE_PROBE != 0;
    let device = wire::balloon::DEVICE_ID;
    let probed = if late { bus::device_found(device) } else { bus::device_attach(device, dialect::driver(), boot.features_refused) };
    match probed {
        // A machine without a balloon is a machine all the same.
        Ok(()) | Err(Errno::NoDev) => {}
        Err(Errno::Inval | Errno::Io | Errno::NoEnt | Errno::NoMem | Errno::NoSpc | Errno::NxIo) => warn("virtio_balloon: probe failed"),
    }
    names::init();
    irq::register_handler(vector::MAILBOX, mailbox_interrupt);
    for cpu in 0..sched::nr_cpus() {
        wait_queue(cpu).init();
        sched::kthread_run(cpu, task, cpu);
    }
    arch::trace(READY, sched::cpu_id(), 0);
}

fn wait_queue(cpu: u64) -> WaitQueue {
    WaitQueue::at(WAIT_QUEUES + cpu * WaitQueue::BYTES)
}

/// The VMM has put operations into this vCPU's mailbox.
fn mailbox_interrupt(_vector: u64) {
    wait_queue(sched::cpu_id()).wake_up();
}

/// A vCPU's mailbox.
#[derive(Debug, Clone, Copy)]
struct Mailbox(u64);

impl Mailbox {
    fn head(self) -> u64 {
        arch::read64(self.0 + offset_of!(MailboxHeader, head) as u64)
    }

    fn tail(self) -> u64 {
        arch::read64(self.0 + offset_of!(MailboxHeader, tail) as u64)
    }

    fn set_tail(self, tail: u64) {
        arch::write64(self.0 + offset_of!(MailboxHeader, tail) as u64, tail);
    }

    fn read(self, index: u64) -> TaskOp {
        let at = self.0 + HEADER_BYTES + index % SLOTS * OP_BYTES;
        TaskOp {
            code: arch::read32(at + offset_of!(TaskOp, code) as u64),
            name: arch::read32(at + offset_of!(TaskOp, name) as u64),
            a: arch::read64(at + offset_of!(TaskOp, a) as u64),
            b: arch::read64(at + offset_of!(TaskOp, b) as u64),
            id: arch::read64(at + offset_of!(TaskOp, id) as u64),
        }
    }
}

/// A vCPU's task: performs what its mailbox holds, then sleeps.
fn task(cpu: u64) {
    let mailbox = Mailbox(MAILBOX + cpu * PAGE_SIZE);
    loop {
        wait_event(wait_queue(cpu), || mailbox.head() != mailbox.tail());
        // The operation is read behind the index that covers it.
        arch::read_barrier();
        perform_next(mailbox);
    }
}

/// Performs the operation at the tail.
fn perform_next(mailbox: Mailbox) {
    let tail = mailbox.tail();
    ops::perform(&mailbox.read(tail));
    mailbox.set_tail(tail.wrapping_add(1));
}

#[cfg(test)]
mod tests;
