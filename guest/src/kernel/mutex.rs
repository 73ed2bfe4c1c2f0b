//! Sleeping locks, by address. Linux: kernel/locking/mutex.c.
//!
//! Layout: u64 owner (a thread's address, 0 when free), then a wait queue. Differs: no optimistic spinning, no handoff.

use wire::debug;

use crate::arch;
use crate::kernel::sched;
use crate::kernel::wait::{WaitQueue, wait_event};

/// A mutex: an owner's word somewhere in memory, and what the observer calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutex {
    addr: u64,
    id: u64,
}

impl Mutex {
    /// Bytes that a mutex takes in a structure.
    pub const BYTES: u64 = 8 + WaitQueue::BYTES;

    /// The mutex at `addr`; `id` is one of `wire::debug::lock`.
    pub const fn at(addr: u64, id: u64) -> Mutex {
        Mutex { addr, id }
    }

    const fn waiters(self) -> WaitQueue {
        WaitQueue::at(self.addr + 8)
    }

    /// Makes the mutex free. Linux: mutex_init().
    pub fn init(self) {
        arch::write64(self.addr, 0);
        self.waiters().init();
    }

    /// Takes the mutex, sleeping while another thread holds it. Linux: mutex_lock().
    pub fn lock(self) {
        let me = sched::current().addr();
        sched::might_sleep("mutex taken");
        assert!(arch::read64(self.addr) != me, "thread takes a mutex that it holds");
        loop {
            arch::trace(debug::LOCK, self.id, self.addr);
            if arch::cmpxchg64(self.addr, 0, me) == 0 {
                return;
            }
            arch::trace(debug::SPIN, self.id, self.addr);
            wait_event(self.waiters(), || arch::read64(self.addr) == 0);
        }
    }

    /// Takes the mutex if it is free. The LOCK tracepoint stands behind the try, and only when it succeeded. Linux: mutex_trylock().
    pub fn try_lock(self) -> bool {
        let taken = arch::cmpxchg64(self.addr, 0, sched::current().addr()) == 0;
        if taken {
            arch::trace(debug::LOCK, self.id, self.addr);
        }
        taken
    }

    /// Releases the mutex. Linux: mutex_unlock().
    pub fn unlock(self) {
        let owner = arch::xchg64(self.addr, 0);
        assert!(owner == sched::current().addr(), "mutex released by another than its owner");
        arch::trace(debug::UNLOCK, self.id, self.addr);
        self.waiters().wake_up();
    }

    /// Whether somebody holds the mutex. Linux: mutex_is_locked().
    pub fn is_locked(self) -> bool {
        arch::read64(self.addr) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUTEX: Mutex = Mutex::at(crate::kernel::data::DRIVER_DATA, debug::lock::BALLOON);

    #[test]
    fn a_mutex_that_another_thread_holds_is_slept_on() {
        crate::kernel::boot::init_for_test(8 << 20, 2);
        MUTEX.init();
        arch::set_cpu(1);
        assert!(MUTEX.try_lock());
        arch::set_cpu(0);
        assert!(!MUTEX.try_lock(), "the other thread has it");
        arch::set_wait_hook(|| {
            arch::set_cpu(1);
            MUTEX.unlock();
            arch::set_cpu(0);
        });
        arch::take_traces();
        MUTEX.lock();
        let codes: Vec<u32> = arch::take_traces().iter().filter(|trace| trace.1 == debug::lock::BALLOON).map(|trace| trace.0).collect();
        assert_eq!(codes, [debug::LOCK, debug::SPIN, debug::UNLOCK, debug::LOCK]);
        assert!(MUTEX.is_locked());
    }

    #[test]
    #[should_panic(expected = "released by another than its owner")]
    fn releasing_a_mutex_of_another_is_caught() {
        crate::kernel::boot::init_for_test(8 << 20, 2);
        MUTEX.init();
        MUTEX.lock();
        arch::set_cpu(1);
        MUTEX.unlock();
    }
}
