//! Spin locks, by address. Linux: include/linux/spinlock.h.
//!
//! The word is 0 when free, else the holder's vCPU + 1. Every try is a LOCK tracepoint; a failed one a SPIN and a `pause`, so that
//! the schedule sees who waits for whom. Linux: queued_spin_lock(). Differs: a test-and-set lock, not a fair queue; who gets the lock next is the
//! schedule's choice.

use wire::debug;

use crate::arch;
use crate::kernel::sched;

/// A spin lock: a u32 word somewhere in memory, and what the observer calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpinLock {
    addr: u64,
    id: u64,
}

impl SpinLock {
    /// Bytes that a lock takes in a structure.
    pub const BYTES: u64 = 8;

    /// The lock whose word is at `addr`; `id` is one of `wire::debug::lock`.
    pub const fn at(addr: u64, id: u64) -> SpinLock {
        SpinLock { addr, id }
    }

    /// Address of the word.
    pub const fn addr(self) -> u64 {
        self.addr
    }

    /// Makes the lock free. Linux: spin_lock_init().
    pub fn init(self) {
        arch::write32(self.addr, 0);
    }

    /// Takes the lock. Linux: spin_lock().
    pub fn lock(self) {
        let me = sched::cpu_id() as u32 + 1;
        assert!(arch::read32(self.addr) != me, "vCPU takes a spin lock that it holds");
        loop {
            arch::trace(debug::LOCK, self.id, self.addr);
            if arch::cmpxchg32(self.addr, 0, me) == 0 {
                return;
            }
            arch::trace(debug::SPIN, self.id, self.addr);
            arch::pause();
        }
    }

    /// Takes the lock if it is free. The LOCK tracepoint stands behind the try, and only when it succeeded: a failed one waits for nobody.
    /// Linux: spin_trylock().
    pub fn try_lock(self) -> bool {
        let taken = arch::cmpxchg32(self.addr, 0, sched::cpu_id() as u32 + 1) == 0;
        if taken {
            arch::trace(debug::LOCK, self.id, self.addr);
        }
        taken
    }

    /// Releases the lock. Linux: spin_unlock().
    pub fn unlock(self) {
        let holder = arch::xchg32(self.addr, 0);
        assert!(holder == sched::cpu_id() as u32 + 1, "spin lock released by another than its holder");
        arch::trace(debug::UNLOCK, self.id, self.addr);
    }

    /// Disables interrupts and takes the lock. Linux: spin_lock_irq().
    pub fn lock_irq(self) {
        arch::irq_disable();
        self.lock();
    }

    /// Releases the lock and enables interrupts, whatever they were before: never from an interrupt. Linux: spin_unlock_irq().
    pub fn unlock_irq(self) {
        self.unlock();
        arch::irq_enable();
    }

    /// Disables interrupts and takes the lock; returns what [`SpinLock::unlock_irqrestore`] wants. Linux: spin_lock_irqsave().
    pub fn lock_irqsave(self) -> u64 {
        let flags = arch::irq_save();
        self.lock();
        flags
    }

    /// Releases the lock and puts the interrupt flag back. Linux: spin_unlock_irqrestore().
    pub fn unlock_irqrestore(self, flags: u64) {
        self.unlock();
        arch::irq_restore(flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: SpinLock = SpinLock::at(0x2000, debug::lock::ZONE);

    #[test]
    fn lock_says_lock_and_unlock_and_restores_interrupts() {
        arch::reset(0x10_0000);
        let flags = LOCK.lock_irqsave();
        assert!(!arch::irqs_enabled());
        assert!(!LOCK.try_lock());
        LOCK.unlock_irqrestore(flags);
        assert!(arch::irqs_enabled());
        assert_eq!(arch::take_traces(), [(debug::LOCK, 1, 0x2000), (debug::UNLOCK, 1, 0x2000)]);
    }

    #[test]
    fn a_held_lock_is_spun_on_until_it_is_free() {
        arch::reset(0x10_0000);
        arch::write32(0x2000, 2);
        arch::set_wait_hook(|| arch::write32(0x2000, 0));
        LOCK.lock();
        let codes: Vec<u32> = arch::take_traces().iter().map(|trace| trace.0).collect();
        assert_eq!(codes, [debug::LOCK, debug::SPIN, debug::LOCK]);
    }

    #[test]
    #[should_panic(expected = "takes a spin lock that it holds")]
    fn taking_a_lock_twice_is_caught() {
        arch::reset(0x10_0000);
        LOCK.lock();
        LOCK.lock();
    }
}
