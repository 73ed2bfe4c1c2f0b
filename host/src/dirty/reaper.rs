//! The thread that reaps dirty rings once in a while, lest vCPUs find them full.
//!
//! QEMU: accel/kvm/kvm-all.c kvm_dirty_ring_reaper_thread(). It sleeps, takes the BQL, and with the slots lock reaps and resets. Differs: it wakes only where a
//! ring has an entry. Where vCPUs are limited it rests.

use crate::dirty::accel::Accelerator;
use crate::event::{EventKind, LockId};
use crate::fold::{Fold, Tag};
use crate::step::{Ctx, Move, Next};

/// The reaper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reaper {
    interval_ns: u64,
    /// When it slept last, nanoseconds.
    slept_ns: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Asleep,
    Locked,
    Reaped,
}

impl Reaper {
    /// Returns a reaper that sleeps.
    pub(crate) fn new(interval_ns: u64) -> Self {
        Self { interval_ns, slept_ns: 0, stage: Stage::Asleep }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&self, now_ns: u64, accel: &Accelerator, fold: &mut Fold) {
        let Self { interval_ns: _, slept_ns, stage } = self;
        if accel.has_rings() {
            fold.add_part(Tag::Reaper, &(stage, (slept_ns + self.interval_ns).saturating_sub(now_ns)));
        }
    }

    /// Returns what it does next.
    pub(crate) fn next(&self, accel: &Accelerator, ctx: &Ctx<'_>) -> Next {
        let due_ns = self.slept_ns + self.interval_ns;
        match self.stage {
            Stage::Asleep if !accel.awaits_reap() || accel.limits() => Next::Idle,
            Stage::Asleep if ctx.now_ns < due_ns => Next::Sleep(due_ns),
            Stage::Asleep => Next::Lock(LockId::Bql),
            Stage::Locked => {
                let reap = || Next::Do(Move::plain(EventKind::RingReap));
                ctx.locks.needed(LockId::Slots, ctx.actor).unwrap_or_else(reap)
            }
            Stage::Reaped => Next::Do(Move::plain(EventKind::RingReset)),
        }
    }

    /// Makes its next move, and returns what it costs, nanoseconds.
    pub(crate) fn step(&mut self, accel: &mut Accelerator, ctx: &mut Ctx<'_>) -> u64 {
        match self.stage {
            Stage::Asleep => {
                ctx.lock(LockId::Bql);
                self.stage = Stage::Locked;
                ctx.costs.lock_ns
            }
            Stage::Locked if ctx.take_needed(LockId::Slots) => ctx.costs.lock_ns,
            Stage::Locked => {
                let pages = accel.reap(ctx);
                self.stage = Stage::Reaped;
                if !accel.awaits_reset() {
                    self.sleep(ctx);
                }
                ctx.costs.exit_ns + pages * ctx.costs.sync_word_ns
            }
            Stage::Reaped => {
                accel.ring_reset(ctx);
                self.sleep(ctx);
                ctx.costs.clear_ns
            }
        }
    }

    fn sleep(&mut self, ctx: &mut Ctx<'_>) {
        ctx.release_needed(LockId::Slots);
        ctx.unlock(LockId::Bql);
        self.slept_ns = ctx.now_ns;
        self.stage = Stage::Asleep;
    }
}
