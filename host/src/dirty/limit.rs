//! The dirty page rate limit: a vCPU that dirties more than it may sleeps whenever its ring is full.
//!
//! QEMU: system/dirtylimit.c; accel/kvm/kvm-all.c kvm_cpu_exec(), the exit for a full ring. Once per period all rings are reaped, and what came out of
//! each says how fast its vCPU dirties pages, in whole MiB. Far from its limit a vCPU's sleep changes in proportion, near to it by a tenth of the time
//! in which a ring gets full; within 25 MB/s of it nothing changes. While there are limits, a vCPU whose ring is full reaps that one alone, and the
//! reaper rests: else the other rings would never be full, and their vCPUs never sleep.
//!
//! Differs: the meter's moves are the main loop's; it has the slots lock from the reap to the merge; limits that are lifted are gone at once, where QEMU waits for the meter; a VM that stops does not
//! wait for vCPUs that sleep. Where time stands still there are no limits.

use crate::dirty::accel::{Accelerator, LogUser};
use crate::dirty::physmem::DirtyMemory;
use crate::event::{Event, EventKind, LockId};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::step::{Ctx, Move, Next};

/// From one measurement to the next where no migration says otherwise, nanoseconds (QEMU: DIRTYLIMIT_CALC_TIME_MS).
pub const PERIOD_NS: u64 = 1_000_000_000;
/// A vCPU that is so near to its limit is left alone, MB/s (QEMU: DIRTYLIMIT_TOLERANCE_RANGE).
const TOLERANCE: u64 = 25;
/// Above this difference, percent of the larger, a sleep changes in proportion (QEMU: DIRTYLIMIT_LINEAR_ADJUSTMENT_PCT).
const LINEAR_PERCENT: u64 = 50;
/// Longest sleep, as a multiple of the time in which a ring gets full (QEMU: DIRTYLIMIT_THROTTLE_PCT_MAX).
const SLEEP_MAX: u64 = 99;
/// Pages of a MiB, as a power of two.
const MIB_SHIFT: u32 = 8;
const NS_PER_MS: u64 = 1_000_000;

/// What a migration asks of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitOptions {
    /// A guest that dirties too much is limited (QEMU: capability `dirty-limit`).
    pub on: bool,
    /// How much each vCPU may dirty, MB/s (QEMU: `vcpu-dirty-limit`).
    pub rate: u32,
    /// From one measurement to the next, nanoseconds (QEMU: `x-vcpu-dirty-limit-period`).
    pub period_ns: u64,
}

impl Default for LimitOptions {
    /// QEMU's parameters (migration/options.c).
    fn default() -> Self {
        Self { on: false, rate: 1, period_ns: PERIOD_NS }
    }
}

/// The limits, and what is known of each vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    vcpus: Vec<Limited>,
    ring_mib: u64,
    in_service: bool,
    /// When the measurement began, nanoseconds.
    since_ns: u64,
    /// The fastest that any vCPU ever was, MB/s.
    rate_max: u64,
    /// What a migration asked for last, MB/s; 0: none ever did.
    asked: u32,
}

/// What is known of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Limited {
    /// MB/s, if it is limited.
    limit: Option<u32>,
    /// Pages that its ring gave since the measurement began.
    dirtied: u64,
    /// Its sleep at a full ring, microseconds. It outlives the limit (QEMU: CPUState.throttle_us_per_full).
    penalty_us: u64,
    /// It sleeps until then, nanoseconds.
    until_ns: u64,
}

impl Limits {
    /// Returns no limits, for rings of that many entries.
    pub(super) fn new(vcpus: u8, ring_size: u32) -> Self {
        let vcpus = vec![Limited::default(); usize::from(vcpus)];
        Self { vcpus, ring_mib: u64::from(ring_size) >> MIB_SHIFT, in_service: false, since_ns: 0, rate_max: 0, asked: 0 }
    }

    /// Adds its state to a hash, if there ever were limits.
    pub(super) fn fold(&self, fold: &mut Fold) {
        if self.in_service || self.asked > 0 || self.vcpus.iter().any(|vcpu| *vcpu != Limited::default()) {
            fold.add_part(Tag::Limits, self);
        }
    }

    pub(super) fn in_service(&self) -> bool {
        self.in_service
    }

    /// A vCPU's ring gave so many pages.
    pub(super) fn count(&mut self, cpu: u8, pages: u64) {
        if self.in_service {
            self.vcpus[usize::from(cpu)].dirtied += pages;
        }
    }

    /// Everybody is called out of the guest at a time. [`Fault::LimitSleepCutShort`]: and out of sleep.
    pub(super) fn kick(&mut self, ctx: &Ctx<'_>) {
        let sleeps = self.vcpus.iter().any(|vcpu| vcpu.until_ns > ctx.now_ns);
        if sleeps && ctx.faults.on(Fault::LimitSleepCutShort) {
            self.vcpus.iter_mut().for_each(|vcpu| vcpu.until_ns = vcpu.until_ns.min(ctx.now_ns));
        }
    }

    /// Ends a measurement: says how fast each vCPU was, and changes the sleep of those that are limited (QEMU: dirtylimit_process()).
    fn measure(&mut self, ctx: &mut Ctx<'_>) {
        let ms = ((ctx.now_ns - self.since_ns) / NS_PER_MS).max(1);
        for cpu in 0..self.vcpus.len() {
            let Limited { limit, dirtied, penalty_us, .. } = self.vcpus[cpu];
            let rate = (dirtied >> MIB_SHIFT) * 1000 / ms;
            ctx.emit(Event::LimitRate { cpu: cpu as u8, rate });
            self.vcpus[cpu].dirtied = 0;
            if let Some(limit) = limit {
                let us = self.penalty_us(penalty_us, u64::from(limit), rate);
                self.vcpus[cpu].penalty_us = us;
                if us != penalty_us {
                    ctx.emit(Event::LimitPenalty { cpu: cpu as u8, us });
                }
            }
        }
        self.since_ns = ctx.now_ns;
    }

    /// Returns a vCPU's new sleep, microseconds (QEMU: dirtylimit_adjust_throttle(), dirtylimit_set_throttle()).
    fn penalty_us(&mut self, old_us: u64, limit: u64, rate: u64) -> u64 {
        if limit.abs_diff(rate) <= TOLERANCE {
            return old_us;
        }
        if rate == 0 {
            return 0;
        }
        self.rate_max = self.rate_max.max(rate);
        let full_us = self.ring_mib * 1_000_000 / self.rate_max;
        let share = limit.abs_diff(rate) * 100 / limit.max(rate);
        let change_us = if share > LINEAR_PERCENT { full_us * share / (100 - share) } else { full_us / 10 };
        let us = if limit < rate { old_us + change_us } else { old_us.saturating_sub(change_us) };
        us.min(full_us * SLEEP_MAX)
    }
}

impl Accelerator {
    /// Returns whether any vCPU is limited.
    pub fn limits(&self) -> bool {
        self.limits.in_service()
    }

    /// Returns when a vCPU that could move at a time does not sleep.
    pub fn limit_awake_ns(&self, cpu: u8, at_ns: u64) -> u64 {
        self.limits.vcpus[usize::from(cpu)].until_ns.max(at_ns)
    }

    /// Limits a vCPU, or all; 0 lifts the limit. QEMU: qmp_set_vcpu_dirty_limit(), which needs rings. Returns whether it was done.
    pub fn set_limit(&mut self, cpu: Option<u8>, rate: u32, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) -> bool {
        let served = self.limits.in_service;
        let count = self.limits.vcpus.len() as u8;
        if !self.has_rings() || cpu.is_some_and(|cpu| cpu >= count) || rate == 0 && !served {
            return false;
        }
        let (first, count) = cpu.map_or((0, count), |cpu| (cpu, 1));
        let limit = (rate > 0).then_some(rate);
        (first..first + count).for_each(|cpu| self.limits.vcpus[usize::from(cpu)].limit = limit);
        ctx.emit(Event::LimitSet { first, count, rate });
        self.limits.in_service = self.limits.vcpus.iter().any(|vcpu| vcpu.limit.is_some());
        if self.limits.in_service && !served {
            self.limits.since_ns = ctx.now_ns;
            self.limits.vcpus.iter_mut().for_each(|vcpu| vcpu.dirtied = 0);
            self.start_user(LogUser::DirtyLimit, ctx);
        } else if served && !self.limits.in_service {
            self.stop_user(LogUser::DirtyLimit);
        }
        d.set_tracking(self.logging);
        true
    }

    /// A migration limits all vCPUs, unless it has done so (QEMU: migration/ram.c migration_dirty_limit_guest()).
    pub(crate) fn limit_for_migration(&mut self, rate: u32, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if self.limits.in_service && self.limits.asked == rate {
            return;
        }
        self.limits.asked = rate;
        self.set_limit(None, rate, d, ctx);
    }

    /// A vCPU that is limited has made room in its ring: it sleeps, from the end of a move of that length on (QEMU: dirtylimit_vcpu_execute()).
    pub fn limit_sleep(&mut self, cpu: u8, move_ns: u64, ctx: &mut Ctx<'_>) {
        let vcpu = &mut self.limits.vcpus[usize::from(cpu)];
        if vcpu.limit.is_some() && vcpu.penalty_us > 0 {
            vcpu.until_ns = ctx.now_ns + move_ns + vcpu.penalty_us * 1000;
            ctx.emit(Event::LimitSleep { cpu, us: vcpu.penalty_us });
        }
    }
}

/// Who measures (QEMU: the thread dirtyrate-stat).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Meter {
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Stage {
    /// It waits for the period's end.
    #[default]
    Asleep,
    /// It has the BQL.
    Locked,
    /// All rings are reaped.
    Reaped,
    /// They have their places back.
    Reset,
}

impl Meter {
    pub(crate) fn fold(&self, fold: &mut Fold) {
        if self.is_busy() {
            fold.add_part(Tag::Meter, &self.stage);
        }
    }

    /// Returns whether it holds the BQL.
    pub(crate) fn is_busy(&self) -> bool {
        self.stage != Stage::Asleep
    }

    /// Returns what it does next, in periods of that length.
    pub(crate) fn next(&self, accel: &Accelerator, period_ns: u64, ctx: &Ctx<'_>) -> Next {
        let due_ns = accel.limits.since_ns + period_ns;
        match self.stage {
            Stage::Asleep if !accel.limits() => Next::Idle,
            Stage::Asleep if ctx.now_ns < due_ns => Next::Sleep(due_ns),
            Stage::Asleep => Next::Lock(LockId::Bql),
            // What was limited may be elsewhere by now.
            Stage::Locked | Stage::Reaped | Stage::Reset if !accel.limits() => Next::Do(Move::plain(EventKind::LockRelease)),
            Stage::Locked => {
                let reap = || Next::Do(Move::plain(EventKind::RingReap));
                ctx.locks.needed(LockId::Slots, ctx.actor).unwrap_or_else(reap)
            }
            Stage::Reaped => Next::Do(Move::plain(EventKind::RingReset)),
            Stage::Reset => Next::Do(Move::plain(EventKind::DirtyMerge)),
        }
    }

    /// Makes its next move, and returns what it costs, nanoseconds (QEMU: migration/dirtyrate.c vcpu_calculate_dirtyrate()).
    pub(crate) fn step(&mut self, accel: &mut Accelerator, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) -> u64 {
        let mut cost = ctx.costs.lock_ns;
        self.stage = match self.stage {
            Stage::Asleep => {
                ctx.lock(LockId::Bql);
                Stage::Locked
            }
            Stage::Locked | Stage::Reaped | Stage::Reset if !accel.limits() => {
                ctx.release_needed(LockId::Slots);
                ctx.unlock(LockId::Bql);
                Stage::Asleep
            }
            Stage::Locked if ctx.take_needed(LockId::Slots) => Stage::Locked,
            Stage::Locked => {
                let pages = accel.reap(ctx);
                cost = ctx.costs.exit_ns + pages * ctx.costs.sync_word_ns;
                if accel.awaits_reset() { Stage::Reaped } else { Stage::Reset }
            }
            Stage::Reaped => {
                accel.ring_reset(ctx);
                cost = ctx.costs.clear_ns;
                Stage::Reset
            }
            Stage::Reset => {
                accel.merge(d, ctx);
                accel.limits.measure(ctx);
                ctx.release_needed(LockId::Slots);
                ctx.unlock(LockId::Bql);
                Stage::Asleep
            }
        };
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::accel::{LogMode, Store, TrackingOptions};
    use crate::dirty::testing::Desk;
    use crate::event::Pfn;

    #[test]
    fn far_from_the_limit_a_sleep_changes_in_proportion_and_near_to_it_by_a_tenth() {
        let mut limits = Limits::new(1, 4096);
        // A ring of 16 MiB is full after 16 ms at 1000 MB/s; to dirty 100 MB/s a vCPU sleeps nine times as long.
        assert_eq!(limits.penalty_us(0, 100, 1000), 16_000 * 9);
        assert_eq!(limits.penalty_us(144_000, 100, 140), 144_000 + 1_600);
        assert_eq!(limits.penalty_us(144_000, 100, 125), 144_000, "within the tolerance");
        assert_eq!(limits.penalty_us(144_000, 100, 60), 144_000 - 1_600);
        assert_eq!(limits.penalty_us(144_000, 100, 40), 144_000 - 16_000 * 60 / 40);
        assert_eq!(limits.penalty_us(1_000, 100, 40), 0);
        assert_eq!(limits.penalty_us(144_000, 100, 0), 0, "who dirties nothing does not sleep");
        assert_eq!(limits.penalty_us(0, 1, 1000), 16_000 * 99, "99 of 100 parts of its time, and no more");
        assert_eq!(limits.penalty_us(16_000 * 99, 1, 1000), 16_000 * 99);
    }

    #[test]
    fn a_rate_is_in_whole_mib_and_the_limit_s_sleep_outlives_it() {
        let mut desk = Desk::new(&[]);
        let options = TrackingOptions { vcpus: 2, ring_size: 1024, ..TrackingOptions::default() };
        let (mut accel, mut d) = (Accelerator::with(LogMode::Ring, &options, 1024), DirtyMemory::new(1024));
        assert!(accel.set_limit(Some(1), 1, &mut d, &mut desk.ctx()) && accel.logging());
        for pfn in 0..1023 {
            accel.guest_store(Store::plain(1, Pfn(pfn)), &mut d, desk.ctx().faults);
        }
        let mut meter = Meter::default();
        while accel.limits.since_ns == 0 {
            let mut ctx = desk.ctx();
            ctx.now_ns = 10 * NS_PER_MS;
            meter.step(&mut accel, &mut d, &mut ctx);
        }
        // 3.99 MiB in 10 ms are 300 MB/s. A ring of 4 MiB is full in 13,333 us then; 99 percent are to go.
        let sleep = Event::LimitPenalty { cpu: 1, us: 13_333 * 99 };
        let events = desk.take_events();
        assert!(events.contains(&Event::LimitRate { cpu: 1, rate: 300 }) && events.contains(&sleep), "{events:?}");
        assert!(accel.set_limit(Some(1), 0, &mut d, &mut desk.ctx()) && !accel.logging());
        accel.limit_sleep(1, 0, &mut desk.ctx());
        assert_eq!(accel.limit_awake_ns(1, 5), 5, "nobody limits it");
        assert!(accel.set_limit(None, 1, &mut d, &mut desk.ctx()));
        accel.limit_sleep(1, 0, &mut desk.ctx());
        assert_eq!(accel.limit_awake_ns(1, 5), 13_333 * 99 * 1000, "as it slept before");
        assert!(!accel.set_limit(Some(2), 1, &mut d, &mut desk.ctx()), "there is no such vCPU");
    }

    #[test]
    fn a_full_ring_is_reaped_alone_and_a_kick_ends_no_sleep() {
        for faults in [&[][..], &[Fault::LimitSleepCutShort]] {
            let mut desk = Desk::new(faults);
            let options = TrackingOptions { vcpus: 2, ring_size: 4, ..TrackingOptions::default() };
            let (mut accel, mut d) = (Accelerator::with(LogMode::Ring, &options, 64), DirtyMemory::new(64));
            accel.set_limit(None, 1, &mut d, &mut desk.ctx());
            for (cpu, pfn) in [(0, 3), (1, 4), (1, 5)] {
                accel.guest_store(Store::plain(cpu, Pfn(pfn)), &mut d, desk.ctx().faults);
            }
            assert_eq!(accel.reap_full(1, &mut desk.ctx()), 2);
            assert_eq!((accel.ring_room(0), accel.ring_room(1)), (3, 4));
            assert!(accel.ring_bits().test(Pfn(3)) && !accel.ring_bits().test(Pfn(5)) && accel.s(Pfn(5)));
            accel.limits.vcpus[0].until_ns = 9;
            accel.reap(&mut desk.ctx());
            assert_eq!(accel.limit_awake_ns(0, 1), if faults.is_empty() { 9 } else { 1 });
        }
    }
}
