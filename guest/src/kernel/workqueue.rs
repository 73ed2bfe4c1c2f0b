//! Work that runs later, in a thread. Linux: kernel/workqueue.c, reduced to two queues with one worker each, and a third for a bug.
//!
//! `balloon_wq` is the driver's own queue and its worker lives on vCPU 0; `system_freezable_wq`'s lives on vCPU 1 where there is
//! one: so the hinting worker and the inflating worker run at the same time. Differs: Linux's workers are unbound in number, and a queue's works
//! run on the vCPU that queued them.

use wire::debug;

use crate::arch::{self, read64, write64};
use crate::kernel::lock::SpinLock;
#[cfg(image)]
use crate::kernel::switch::{fault, faulty};
use crate::kernel::wait::{WaitQueue, wait_event};
use crate::kernel::{data, list};

/// Bytes of a workqueue: lock, list of pending works, wait queue, the work that runs.
pub const WQ_BYTES: u64 = 64;
const WQ_LIST: u64 = 8;
const WQ_WAIT: u64 = 24;
const WQ_RUNNING: u64 = 48;
/// u64: 1 while no work of the queue may start.
const WQ_FROZEN: u64 = 56;
const _: () = assert!(WQ_FROZEN + 8 <= WQ_BYTES);
const _: () = assert!(WQ_WAIT + WaitQueue::BYTES == WQ_RUNNING);

/// A workqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workqueue {
    /// The driver's own "balloon-wq", for hinting.
    Balloon,
    /// `system_freezable_wq`, for everything else.
    SystemFreezable,
    /// `system_wq`, which goes on while the system freezes. It has a worker only where a bug is switched on that needs one.
    System,
}

/// Queues that stop when the system freezes: WQ_FREEZABLE.
const FREEZABLE: [Workqueue; 2] = [Workqueue::Balloon, Workqueue::SystemFreezable];

impl Workqueue {
    fn addr(self) -> u64 {
        match self {
            Workqueue::Balloon => data::WORKQUEUES,
            Workqueue::SystemFreezable => data::WORKQUEUES + WQ_BYTES,
            Workqueue::System => data::SYSTEM_WORKQUEUE,
        }
    }
    fn lock(self) -> SpinLock {
        SpinLock::at(self.addr(), debug::lock::WORKQUEUE)
    }
    fn list(self) -> u64 {
        self.addr() + WQ_LIST
    }
    fn wait(self) -> WaitQueue {
        WaitQueue::at(self.addr() + WQ_WAIT)
    }
    fn running(self) -> u64 {
        read64(self.addr() + WQ_RUNNING)
    }
    fn is_frozen(self) -> bool {
        read64(self.addr() + WQ_FROZEN) != 0
    }
}

/// A piece of work, by address. Layout: u64 pending, list node, function, argument, id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work(u64);

const W_PENDING: u64 = 0;
const W_NODE: u64 = 8;
const W_FUNC: u64 = 24;
const W_ARG: u64 = 32;
const W_ID: u64 = 40;

impl Work {
    /// Bytes that a work takes in a structure.
    pub const BYTES: u64 = 48;

    /// The work at `addr`.
    pub const fn at(addr: u64) -> Work {
        Work(addr)
    }

    /// Says what the work does: `func(arg)`; `id` is one of `wire::debug::work`. Linux: INIT_WORK().
    pub fn init(self, id: u64, func: fn(u64), arg: u64) {
        write64(self.0 + W_PENDING, 0);
        write64(self.0 + W_FUNC, func as usize as u64);
        write64(self.0 + W_ARG, arg);
        write64(self.0 + W_ID, id);
    }

    /// Whether the work is queued and has not started. Linux: work_pending().
    pub fn is_pending(self) -> bool {
        read64(self.0 + W_PENDING) != 0
    }
}

/// Queues a work; `false` when it was pending already. From threads and interrupts. Linux: queue_work().
pub fn queue_work(queue: Workqueue, work: Work) -> bool {
    if arch::xchg64(work.0 + W_PENDING, 1) != 0 {
        return false;
    }
    let flags = queue.lock().lock_irqsave();
    list::list_add_tail(work.0 + W_NODE, queue.list());
    queue.lock().unlock_irqrestore(flags);
    queue.wait().wake_up();
    true
}

/// Takes a pending work off its queue and waits while it runs, until it does neither, even when it queues itself. Returns whether
/// it was pending. Linux: cancel_work_sync().
pub fn cancel_work_sync(queue: Workqueue, work: Work) -> bool {
    let mut was_pending = false;
    loop {
        let flags = queue.lock().lock_irqsave();
        if work.is_pending() && list::iter(queue.list()).any(|node| node == work.0 + W_NODE) {
            list::list_del(work.0 + W_NODE);
            write64(work.0 + W_PENDING, 0);
            was_pending = true;
        }
        let idle = !work.is_pending() && queue.running() != work.0;
        queue.lock().unlock_irqrestore(flags);
        if idle {
            return was_pending;
        }
        wait_event(queue.wait(), || queue.running() != work.0);
    }
}

/// Runs the first pending work; `false` when there is none. Linux: process_one_work().
pub fn process_one_work(queue: Workqueue) -> bool {
    let flags = queue.lock().lock_irqsave();
    let Some(node) = list::first(queue.list()).filter(|_| !queue.is_frozen()) else {
        queue.lock().unlock_irqrestore(flags);
        return false;
    };
    let work = Work(node - W_NODE);
    list::list_del(node);
    write64(queue.addr() + WQ_RUNNING, work.0);
    // Pending ends before the function starts: an interrupt that comes while it runs queues it once more.
    arch::xchg64(work.0 + W_PENDING, 0);
    queue.lock().unlock_irqrestore(flags);
    let id = read64(work.0 + W_ID);
    arch::trace(debug::WORK_BEGIN, id, 0);
    arch::call1(read64(work.0 + W_FUNC), read64(work.0 + W_ARG));
    arch::trace(debug::WORK_END, id, 0);
    arch::xchg64(queue.addr() + WQ_RUNNING, 0);
    queue.wait().wake_up();
    true
}

/// Starts no more works of freezable queues, and waits until none of them runs. Linux: freeze_workqueues_begin(), freeze_workqueues_busy().
/// Differs: it waits for as long as it takes; Linux gives up after 20 s, and the system is not suspended.
pub fn freeze_workqueues() {
    for queue in FREEZABLE {
        let flags = queue.lock().lock_irqsave();
        write64(queue.addr() + WQ_FROZEN, 1);
        queue.lock().unlock_irqrestore(flags);
    }
    for queue in FREEZABLE {
        wait_event(queue.wait(), || queue.running() == 0);
    }
}

/// Lets works of freezable queues start again, those first that were queued meanwhile. Linux: thaw_workqueues().
pub fn thaw_workqueues() {
    for queue in FREEZABLE {
        write64(queue.addr() + WQ_FROZEN, 0);
        queue.wait().wake_up();
    }
}

/// The queues, in the order of their workers.
#[cfg(image)]
const WORKERS: [Workqueue; 3] = [Workqueue::Balloon, Workqueue::SystemFreezable, Workqueue::System];

#[cfg(image)]
fn worker(index: u64) {
    let queue = WORKERS[index as usize];
    loop {
        wait_event(queue.wait(), || !list::list_empty(queue.list()) && !queue.is_frozen());
        while process_one_work(queue) {
            crate::kernel::sched::cond_resched();
        }
    }
}

/// Makes both queues empty. Linux: workqueue_init_early().
pub(crate) fn init() {
    for queue in [Workqueue::Balloon, Workqueue::SystemFreezable, Workqueue::System] {
        queue.lock().init();
        list::init_list_head(queue.list());
        queue.wait().init();
        write64(queue.addr() + WQ_RUNNING, 0);
        write64(queue.addr() + WQ_FROZEN, 0);
    }
}

/// Starts the workers. Linux: workqueue_init().
#[cfg(image)]
pub(crate) fn start_workers() {
    let second = u64::from(crate::kernel::sched::nr_cpus() > 1);
    crate::kernel::sched::kthread_run(0, worker, 0);
    crate::kernel::sched::kthread_run(second, worker, 1);
    if faulty(fault::REPORT_NONFREEZABLE) {
        crate::kernel::sched::kthread_run(0, worker, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work::at(0x5_0000);

    fn count(addr: u64) {
        arch::fetch_add64(addr, 1);
    }

    #[test]
    fn work_is_queued_once_and_may_be_queued_again_while_it_runs() {
        crate::kernel::boot::init_for_test(8 << 20, 1);
        fn again(addr: u64) {
            count(addr);
            if read64(addr) == 1 {
                assert!(queue_work(Workqueue::Balloon, WORK));
                assert!(!queue_work(Workqueue::Balloon, WORK));
            }
        }
        WORK.init(debug::work::UPDATE_SIZE, again, 0x5_0100);
        assert!(queue_work(Workqueue::Balloon, WORK));
        assert!(!queue_work(Workqueue::Balloon, WORK));
        while process_one_work(Workqueue::Balloon) {}
        assert_eq!(read64(0x5_0100), 2);
    }

    #[test]
    fn cancelled_work_does_not_run() {
        crate::kernel::boot::init_for_test(8 << 20, 1);
        WORK.init(debug::work::UPDATE_SIZE, count, 0x5_0100);
        queue_work(Workqueue::SystemFreezable, WORK);
        assert!(cancel_work_sync(Workqueue::SystemFreezable, WORK));
        assert!(!cancel_work_sync(Workqueue::SystemFreezable, WORK));
        assert!(!process_one_work(Workqueue::SystemFreezable));
        assert_eq!(read64(0x5_0100), 0);
    }
}
