//! How a guest that dirties faster than the link carries is slowed down, and what else an operator may ask of a migration's pace.
//!
//! QEMU: migration/ram.c migration_trigger_throttle(), mig_throttle_guest_down(); migration/cpu-throttle.c. Once per period of more than a
//! second, at the end of a sync, dirtied bytes are compared with sent ones; the second time that they are too many the vCPUs sleep a share of
//! their time, and a larger share the next time but one. A timer in the main loop makes a sync of its own in rounds that take long. Differs:
//! integers; a new share begins with its sleep at once, where QEMU lets the running period end.

use crate::event::Event;
use crate::fault::Fault;
use crate::step::Ctx;
use wire::platform::PAGE_SIZE;

/// Time that a throttled vCPU runs between two sleeps, nanoseconds (QEMU: CPU_THROTTLE_TIMESLICE_NS).
const TIMESLICE_NS: u64 = 10_000_000;
/// A period is over when more than this has passed, nanoseconds.
const PERIOD_NS: u64 = 1_000_000_000;
/// From one look of the timer to the next, nanoseconds (QEMU: CPU_THROTTLE_DIRTY_SYNC_TIMESLICE_MS).
pub const TIMER_NS: u64 = 5_000_000_000;
/// Largest share that a vCPU may sleep, percent (QEMU: CPU_THROTTLE_PCT_MAX).
pub const PERCENT_MAX: u32 = 99;

/// What is asked of auto-converge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThrottleOptions {
    /// It is on (QEMU: capability `auto-converge`).
    pub auto_converge: bool,
    /// Dirtied bytes are too many above this share of those sent, percent (QEMU: `throttle-trigger-threshold`).
    pub trigger: u32,
    /// First share, percent (QEMU: `cpu-throttle-initial`).
    pub initial: u32,
    /// What is added to it, percent (QEMU: `cpu-throttle-increment`).
    pub increment: u32,
    /// Largest share, percent (QEMU: `max-cpu-throttle`).
    pub max: u32,
    /// Near the end less is added (QEMU: `cpu-throttle-tailslow`).
    pub tailslow: bool,
}

impl Default for ThrottleOptions {
    /// QEMU's parameters (migration/options.c).
    fn default() -> Self {
        Self { auto_converge: false, trigger: 50, initial: 20, increment: 10, max: PERCENT_MAX, tailslow: false }
    }
}

/// What is asked of the switchover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SwitchoverOptions {
    /// With the VM stopped, it waits for `migrate_continue` (QEMU: capability `pause-before-switchover`).
    pub pause: bool,
    /// What the link will carry then, bytes/s; 0: as estimated (QEMU: `avail-switchover-bandwidth`).
    pub bandwidth: u64,
}

/// The share, and the account that it is decided by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Throttle {
    /// What vCPUs sleep, percent of their time.
    percent: u32,
    /// Since when, nanoseconds.
    since_ns: u64,
    period_start_ns: u64,
    /// Pages that syncs had found newly dirty when the period began.
    period_pages: u64,
    /// Bytes sent when it began.
    period_bytes: u64,
    /// Periods with too many dirtied bytes, since the share was changed last.
    high: u32,
    /// Syncs that the timer saw last.
    pub(crate) timer_syncs: u32,
}

impl Throttle {
    /// Returns the account at a migration's start.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self { period_start_ns: now_ns, ..Self::default() }
    }

    /// Returns whether vCPUs sleep.
    pub(crate) fn is_active(&self) -> bool {
        self.percent > 0
    }

    /// Returns whether a period is over.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns > self.period_start_ns + PERIOD_NS
    }

    /// A period is over: decides whether vCPUs dirty too much, and lets them sleep more if auto-converge is on; returns whether they do. `pages`: newly dirty in all syncs so far; `bytes`: sent so far.
    /// [`Fault::FirstPeriodUnmeasured`]: what was sent before the first period's end counts for none.
    pub(crate) fn period(&mut self, pages: u64, bytes: u64, options: &ThrottleOptions, ctx: &mut Ctx<'_>) -> bool {
        assert!(self.is_due(ctx.now_ns), "the period is not over");
        if ctx.faults.on(Fault::FirstPeriodUnmeasured) && self.period_bytes == 0 {
            self.period_bytes = bytes;
        }
        let dirtied = (pages - self.period_pages) * PAGE_SIZE;
        let allowed = (bytes - self.period_bytes) * u64::from(options.trigger) / 100;
        self.high += u32::from(dirtied > allowed);
        let too_much = self.high >= 2;
        if too_much {
            self.high = 0;
            if options.auto_converge {
                let percent = self.next_percent(dirtied, allowed, options);
                self.set(percent, ctx);
            }
        }
        (self.period_start_ns, self.period_pages, self.period_bytes) = (ctx.now_ns, pages, bytes);
        too_much
    }

    fn next_percent(&self, dirtied: u64, allowed: u64, options: &ThrottleOptions) -> u32 {
        if !self.is_active() {
            return options.initial;
        }
        let runs = u64::from(100 - self.percent);
        let ideal = u32::try_from(runs - (runs * allowed / dirtied).min(runs)).expect("a share of 100");
        let more = if options.tailslow { ideal.min(options.increment) } else { options.increment };
        (self.percent + more).min(options.max)
    }

    fn set(&mut self, percent: u32, ctx: &mut Ctx<'_>) {
        self.percent = percent.clamp(1, PERCENT_MAX);
        self.since_ns = ctx.now_ns;
        ctx.emit(Event::Throttle { percent: self.percent });
    }

    /// The vCPUs sleep no more (QEMU: cpu_throttle_stop()).
    pub(crate) fn stop(&mut self, ctx: &mut Ctx<'_>) {
        self.percent = 0;
        ctx.emit(Event::Throttle { percent: 0 });
    }

    /// Returns when a vCPU that could run at a time is awake: then, or at the end of the sleep that it is in.
    pub(crate) fn awake_ns(&self, at_ns: u64) -> u64 {
        if !self.is_active() || at_ns < self.since_ns {
            return at_ns;
        }
        let turn_ns = TIMESLICE_NS * 100 / u64::from(100 - self.percent);
        let sleep_ns = turn_ns - TIMESLICE_NS;
        let into_ns = (at_ns - self.since_ns) % turn_ns;
        at_ns + sleep_ns.saturating_sub(into_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    const OPTIONS: ThrottleOptions =
        ThrottleOptions { auto_converge: true, trigger: 50, initial: 20, increment: 10, max: 99, tailslow: false };

    /// Ends a period in which so much was dirtied and sent, and returns the share.
    fn period(throttle: &mut Throttle, desk: &mut Desk, sums: &mut (u64, u64), add: (u64, u64), options: &ThrottleOptions) -> u32 {
        *sums = (sums.0 + add.0, sums.1 + add.1);
        let mut ctx = desk.ctx();
        ctx.now_ns = throttle.period_start_ns + PERIOD_NS + 1;
        throttle.period(sums.0, sums.1, options, &mut ctx);
        throttle.percent
    }

    #[test]
    fn the_second_high_period_throttles_and_each_second_one_after_it_adds() {
        let (mut throttle, mut desk, mut sums) = (Throttle::new(0), Desk::new(&[]), (0, 0));
        let high = (100, 100 * PAGE_SIZE);
        let shares: Vec<u32> = (0..6).map(|_| period(&mut throttle, &mut desk, &mut sums, high, &OPTIONS)).collect();
        assert_eq!(shares, [0, 20, 20, 30, 30, 40]);
        assert_eq!(period(&mut throttle, &mut desk, &mut sums, (50, 100 * PAGE_SIZE), &OPTIONS), 40, "half is not too much");
        assert_eq!(period(&mut throttle, &mut desk, &mut sums, high, &OPTIONS), 40);
    }

    #[test]
    fn the_share_ends_at_the_largest_and_tailslow_adds_what_is_missing() {
        let (mut throttle, mut desk, mut sums) = (Throttle::new(0), Desk::new(&[]), (0, 0));
        let options = ThrottleOptions { max: 25, ..OPTIONS };
        let last = (0..6).map(|_| period(&mut throttle, &mut desk, &mut sums, (9, 0), &options)).last();
        assert_eq!(last, Some(25));
        let (mut throttle, mut sums) = (Throttle { percent: 20, high: 1, ..Throttle::new(0) }, (0, 0));
        let slow = ThrottleOptions { tailslow: true, ..OPTIONS };
        // 100 pages dirtied where 96 are allowed: of the 80 percent that the vCPUs run, 4 percent are too much.
        assert_eq!(period(&mut throttle, &mut desk, &mut sums, (100, 192 * PAGE_SIZE), &slow), 20 + 4);
    }

    #[test]
    fn an_unmeasured_first_period_counts_as_high_whatever_was_sent() {
        for (faults, share) in [(&[][..], 0), (&[Fault::FirstPeriodUnmeasured][..], 20)] {
            let (mut throttle, mut desk, mut sums) = (Throttle::new(0), Desk::new(faults), (0, 0));
            period(&mut throttle, &mut desk, &mut sums, (1, 100 * PAGE_SIZE), &OPTIONS);
            assert_eq!(period(&mut throttle, &mut desk, &mut sums, (100, 100 * PAGE_SIZE), &OPTIONS), share);
        }
    }

    #[test]
    fn a_throttled_vcpu_sleeps_first_and_then_runs_for_10_ms() {
        let throttle = Throttle { percent: 50, since_ns: 1_000, ..Throttle::default() };
        let awake: Vec<u64> = [0, 1_000, 5_001_000, 10_001_000, 20_000_999, 20_001_000].map(|at| throttle.awake_ns(at)).to_vec();
        assert_eq!(awake, [0, 10_001_000, 10_001_000, 10_001_000, 20_000_999, 30_001_000]);
        assert_eq!(Throttle { percent: 99, ..Throttle::default() }.awake_ns(0), 990_000_000);
    }
}
