//! Sleeping for a time: the platform's clock and each vCPU's one-shot timer. Linux: kernel/time/timer.c, reduced to sleepers.

use wire::platform::{CLOCK, LAPIC, lapic, vector};

use crate::arch;
use crate::kernel::sched::{self, State, Thread};
use crate::kernel::{irq, list};

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
    let deadline = now_ns() + ns;
    me.set_wake_at_ns(deadline);
    let flags = arch::irq_save();
    me.set_state(State::Sleeping);
    let sleepers = sched::sleepers(me.cpu());
    // Sorted by deadline, ties in order of arrival.
    let behind = list::iter(sleepers).find(|&node| Thread::of_sleep_node(node).wake_at_ns() > deadline).unwrap_or(sleepers);
    list::list_add_tail(me.sleep_node(), behind);
    arm();
    arch::irq_restore(flags);
    // The timer's interrupt may come before this: then the thread is runnable again, and `schedule` only yields.
    sched::schedule();
}

/// Sets the vCPU's timer to its first sleeper; with interrupts disabled.
fn arm() {
    let Some(node) = list::first(sched::sleepers(sched::cpu_id())) else { return };
    let left = Thread::of_sleep_node(node).wake_at_ns().saturating_sub(now_ns()).clamp(1, u64::from(u32::MAX));
    arch::mmio_write32(LAPIC + lapic::TIMER_INITIAL_COUNT, left as u32);
}

fn timer_interrupt(_vector: u64) {
    let now = now_ns();
    for node in list::iter(sched::sleepers(sched::cpu_id())) {
        let thread = Thread::of_sleep_node(node);
        if thread.wake_at_ns() > now {
            break;
        }
        list::list_del(node);
        sched::wake_up_process(thread);
    }
    arm();
}

/// Registers the timer's interrupt.
pub(crate) fn init() {
    irq::register_handler(vector::TIMER, timer_interrupt);
}
