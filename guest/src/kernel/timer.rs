//! Timers and sleeping for a time: the platform's clock and each vCPU's one-shot timer. Linux: kernel/time/timer.c.
//!
//! A timer runs its function from the interrupt of the vCPU that started it, under that vCPU's timer lock: a timer that was deleted does not
//! run any more.

use wire::platform::{CLOCK, LAPIC, lapic, vector};

use crate::arch::{self, read64, write64};
use crate::kernel::sched::{self, State, Thread};
use crate::kernel::{irq, list};

const TI_NODE: u64 = 0;
const TI_DEADLINE: u64 = 16;
const TI_FUNC: u64 = 24;
const TI_ARG: u64 = 32;
const TI_PENDING: u64 = 40;
/// u64: the vCPU whose list it is or last was on.
const TI_CPU: u64 = 48;

/// A timer, by address. Linux: struct timer_list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer(u64);

impl Timer {
    /// Bytes that a timer takes in a structure.
    pub const BYTES: u64 = 56;

    /// The timer at `addr`.
    pub const fn at(addr: u64) -> Timer {
        Timer(addr)
    }

    /// Says what the timer does: `func(arg)`, in an interrupt. Linux: timer_setup().
    pub fn init(self, func: fn(u64), arg: u64) {
        write64(self.0 + TI_FUNC, func as usize as u64);
        write64(self.0 + TI_ARG, arg);
        write64(self.0 + TI_PENDING, 0);
        write64(self.0 + TI_CPU, 0);
    }

    /// Whether the timer is still to run. Linux: timer_pending().
    pub fn is_pending(self) -> bool {
        read64(self.0 + TI_PENDING) != 0
    }

    fn deadline_ns(self) -> u64 {
        read64(self.0 + TI_DEADLINE)
    }

    /// Starts the timer on this vCPU: it runs once, in `ns` nanoseconds at the earliest. Linux: add_timer().
    pub fn add(self, ns: u64) {
        assert!(!self.is_pending(), "timer is started twice");
        let flags = arch::irq_save();
        let cpu = sched::cpu_id();
        let (timers, lock) = sched::timers(cpu);
        lock.lock();
        let deadline = now_ns() + ns;
        write64(self.0 + TI_DEADLINE, deadline);
        write64(self.0 + TI_CPU, cpu);
        write64(self.0 + TI_PENDING, 1);
        // Sorted by deadline, ties in order of arrival.
        let behind = list::iter(timers).find(|&node| Timer(node - TI_NODE).deadline_ns() > deadline).unwrap_or(timers);
        list::list_add_tail(self.0 + TI_NODE, behind);
        arm(timers);
        lock.unlock();
        arch::irq_restore(flags);
    }

    /// Stops the timer; it does not run any more when this returns. Returns whether it was pending. Linux: timer_delete_sync().
    pub fn delete(self) -> bool {
        // The lock is taken even when the timer is not pending: its function may be running under it.
        loop {
            let cpu = read64(self.0 + TI_CPU);
            let (_, lock) = sched::timers(cpu);
            let flags = lock.lock_irqsave();
            let same_cpu = read64(self.0 + TI_CPU) == cpu;
            let pending = same_cpu && self.is_pending();
            if pending {
                list::list_del(self.0 + TI_NODE);
                write64(self.0 + TI_PENDING, 0);
            }
            lock.unlock_irqrestore(flags);
            if same_cpu {
                return pending;
            }
        }
    }
}

/// Nanoseconds since boot. Linux: ktime_get_ns().
pub fn now_ns() -> u64 {
    // The read of the low word latches the high one; an interrupt between the two could latch another.
    let flags = arch::irq_save();
    let low = arch::mmio_read32(CLOCK);
    let high = arch::mmio_read32(CLOCK + 4);
    arch::irq_restore(flags);
    u64::from(high) << 32 | u64::from(low)
}

/// Sleeps at least `ms` milliseconds. Linux: msleep().
pub fn msleep(ms: u64) {
    sleep_ns(ms * 1_000_000);
}

/// Sleeps at least `ns` nanoseconds. Linux: schedule_timeout_uninterruptible().
pub fn sleep_ns(ns: u64) {
    assert!(arch::irqs_enabled(), "sleep with interrupts disabled");
    let me = sched::current();
    let timer = me.timer();
    timer.init(wake, me.addr());
    me.set_state(State::Sleeping);
    // The interrupt may come before `schedule`: then the thread is runnable again, and only yields.
    timer.add(ns);
    while timer.is_pending() {
        sched::schedule();
        me.set_state(State::Sleeping);
    }
    me.set_state(State::Running);
}

fn wake(thread: u64) {
    sched::wake_up_process(Thread::at(thread));
}

/// Sets this vCPU's timer interrupt to its first timer; under the timer lock.
fn arm(timers: u64) {
    let Some(node) = list::first(timers) else { return };
    let left = Timer(node - TI_NODE).deadline_ns().saturating_sub(now_ns()).clamp(1, u64::from(u32::MAX));
    arch::mmio_write32(LAPIC + lapic::TIMER_INITIAL_COUNT, left as u32);
}

fn timer_interrupt(_vector: u64) {
    let (timers, lock) = sched::timers(sched::cpu_id());
    lock.lock();
    let now = now_ns();
    while let Some(timer) = list::first(timers).map(|node| Timer(node - TI_NODE)).filter(|timer| timer.deadline_ns() <= now) {
        list::list_del(timer.0 + TI_NODE);
        let (func, arg) = (read64(timer.0 + TI_FUNC), read64(timer.0 + TI_ARG));
        write64(timer.0 + TI_PENDING, 0);
        arch::call1(func, arg);
    }
    arm(timers);
    lock.unlock();
}

/// Registers the timer's interrupt.
pub(crate) fn init() {
    irq::register_handler(vector::TIMER, timer_interrupt);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{MmioAccess, set_mmio_hook};
    use crate::kernel::{boot, data};

    const SCRATCH: u64 = data::DRIVER_DATA;
    const NOW: u64 = SCRATCH;
    const ORDER: u64 = SCRATCH + 8;

    fn boot_with_clock() {
        boot::init_for_test(8 << 20, 1);
        set_mmio_hook(|access| match access {
            MmioAccess::Read { addr: CLOCK, .. } => read64(NOW) as u32,
            MmioAccess::Read { .. } | MmioAccess::Write { .. } => 0,
        });
    }

    fn note(digit: u64) {
        write64(ORDER, read64(ORDER) * 10 + digit);
    }

    #[test]
    fn timers_run_by_deadline_and_not_before() {
        boot_with_clock();
        let timers = [1, 2, 3].map(|index| Timer::at(SCRATCH + index * 64));
        for (timer, (digit, ns)) in timers.iter().zip([(1, 300), (2, 100), (3, 100)]) {
            timer.init(note, digit);
            timer.add(ns);
        }
        write64(NOW, 299);
        irq::raise_for_test(vector::TIMER);
        assert_eq!((read64(ORDER), timers[0].is_pending()), (23, true));
        write64(NOW, 300);
        irq::raise_for_test(vector::TIMER);
        assert_eq!(read64(ORDER), 231);
    }

    #[test]
    fn a_deleted_timer_does_not_run() {
        boot_with_clock();
        let timer = Timer::at(SCRATCH + 64);
        timer.init(note, 1);
        timer.add(5);
        assert!(timer.delete() && !timer.delete());
        write64(NOW, 10);
        irq::raise_for_test(vector::TIMER);
        assert_eq!(read64(ORDER), 0);
    }

    #[test]
    fn a_sleeper_wakes_when_its_time_has_come() {
        boot_with_clock();
        arch::set_wait_hook(|| {
            write64(NOW, read64(NOW) + 400);
            irq::raise_for_test(vector::TIMER);
        });
        sleep_ns(1000);
        assert_eq!(read64(NOW), 1200);
    }
}
