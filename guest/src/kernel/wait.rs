//! Wait queues, by address. Linux: kernel/sched/wait.c.
//!
//! Layout: a spin lock's word, then the list of waiting threads. The lock nests outside run queues.

use crate::arch;
use crate::kernel::list;
use crate::kernel::lock::SpinLock;
use crate::kernel::sched::{self, State, Thread};

/// A wait queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitQueue(u64);

impl WaitQueue {
    /// Bytes that a wait queue takes in a structure.
    pub const BYTES: u64 = SpinLock::BYTES + list::LIST_HEAD_BYTES;

    /// The wait queue at `addr`.
    pub const fn at(addr: u64) -> WaitQueue {
        WaitQueue(addr)
    }

    fn lock(self) -> SpinLock {
        SpinLock::at(self.0, wire::debug::lock::WAIT_QUEUE)
    }
    fn list(self) -> u64 {
        self.0 + SpinLock::BYTES
    }

    /// Makes the queue empty. Linux: init_waitqueue_head().
    pub fn init(self) {
        self.lock().init();
        list::init_list_head(self.list());
    }

    /// Wakes every waiter; they look at their conditions again. From threads and interrupts. Linux: wake_up_all().
    pub fn wake_up(self) {
        let flags = self.lock().lock_irqsave();
        for node in list::iter(self.list()) {
            let thread = Thread::of_wait_node(node);
            list::list_del(node);
            thread.set_waiting(false);
            sched::wake_up_process(thread);
        }
        self.lock().unlock_irqrestore(flags);
    }

    /// Puts the current thread on the queue and marks it asleep. Linux: prepare_to_wait().
    fn prepare_to_wait(self) {
        let me = sched::current();
        let flags = self.lock().lock_irqsave();
        if !me.is_waiting() {
            list::list_add_tail(me.wait_node(), self.list());
            me.set_waiting(true);
        }
        me.set_state(State::Sleeping);
        self.lock().unlock_irqrestore(flags);
    }

    /// Marks the current thread awake and takes it off the queue. Linux: finish_wait().
    fn finish_wait(self) {
        let me = sched::current();
        me.set_state(State::Running);
        let flags = self.lock().lock_irqsave();
        if me.is_waiting() {
            list::list_del(me.wait_node());
            me.set_waiting(false);
        }
        self.lock().unlock_irqrestore(flags);
    }
}

/// Sleeps until `condition` holds; whoever makes it hold calls [`WaitQueue::wake_up`] afterwards. Linux: wait_event().
pub fn wait_event(queue: WaitQueue, mut condition: impl FnMut() -> bool) {
    assert!(arch::irqs_enabled(), "sleep with interrupts disabled");
    if condition() {
        return;
    }
    loop {
        queue.prepare_to_wait();
        if condition() {
            break;
        }
        sched::schedule();
    }
    queue.finish_wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sleeps_until_its_condition_holds() {
        crate::kernel::boot::init_for_test(8 << 20, 1);
        const QUEUE: WaitQueue = WaitQueue::at(0x5_0000);
        QUEUE.init();
        let mut turns = 0;
        arch::set_wait_hook(move || {
            turns += 1;
            arch::write64(0x5_0100, u64::from(turns == 3));
            QUEUE.wake_up();
        });
        wait_event(QUEUE, || arch::read64(0x5_0100) == 1);
        assert!(!sched::current().is_waiting());
        assert!(list::list_empty(QUEUE.list()));
    }
}
