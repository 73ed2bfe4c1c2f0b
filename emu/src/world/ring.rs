//! A vCPU whose dirty ring is full: it leaves the guest, and reaps all rings before it goes on; one that is limited reaps its own, and sleeps.

use host::event::{Actor, Event, EventKind, LockId};
use host::step::Move;

use crate::world::guest::Pending;
use crate::world::{Readiness, World};

/// Where a vCPU with a full ring stands (QEMU: accel/kvm/kvm-all.c kvm_cpu_exec(), KVM_EXIT_DIRTY_RING_FULL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RingStage {
    /// It leaves the guest.
    Exit,
    /// It waits for the BQL.
    Lock,
    /// It waits for the slots' lock.
    LockSlots,
    /// It reaps all rings.
    Reap,
    /// It gives their entries back, and its locks.
    Reset,
}

impl RingStage {
    /// Returns what the vCPU would do next.
    pub(super) fn next(self) -> Readiness {
        match self {
            RingStage::Exit => Readiness::Ready(Some(Move::plain(EventKind::RingFull))),
            RingStage::Lock => Readiness::Lock(LockId::Bql),
            RingStage::LockSlots => Readiness::Lock(LockId::Slots),
            RingStage::Reap => Readiness::Ready(Some(Move::plain(EventKind::RingReap))),
            RingStage::Reset => Readiness::Ready(Some(Move::plain(EventKind::RingReset))),
        }
    }

    /// Returns whether it holds the BQL: then it goes on even when the VM has stopped.
    pub(super) fn holds_lock(self) -> bool {
        matches!(self, RingStage::LockSlots | RingStage::Reap | RingStage::Reset)
    }
}

impl Pending {
    /// Returns the way out of a full ring, back to what the vCPU was about to do.
    pub(super) fn full(then: Pending) -> Self {
        Pending::RingFull { stage: RingStage::Exit, then: Box::new(then) }
    }
}

impl World {
    pub(super) fn ring_is_full(&self, cpu: usize) -> bool {
        self.state.vmm.accel.ring_room(cpu as u8) == 0
    }

    /// One move of a vCPU on its way out of a full ring.
    pub(super) fn vcpu_ring_full(&mut self, cpu: usize, stage: RingStage, then: Box<Pending>) -> u64 {
        let actor = Actor::Vcpu(cpu as u8);
        let (next, cost) = match stage {
            RingStage::Exit => {
                self.emit(actor, Event::RingFull { cpu: cpu as u8 });
                (Some(RingStage::Lock), self.costs.exit_ns)
            }
            RingStage::Lock => {
                self.with_ctx(actor, |_, ctx| ctx.lock(LockId::Bql));
                let slots = self.state.locks.knows(LockId::Slots);
                (Some(if slots { RingStage::LockSlots } else { RingStage::Reap }), self.costs.lock_ns)
            }
            RingStage::LockSlots => {
                self.with_ctx(actor, |_, ctx| ctx.lock(LockId::Slots));
                (Some(RingStage::Reap), self.costs.lock_ns)
            }
            RingStage::Reap => {
                let cost = self.with_ctx(actor, |vmm, ctx| {
                    let cost = vmm.reap(cpu as u8, ctx);
                    if !vmm.accel.awaits_reset() {
                        ctx.release_needed(LockId::Slots);
                        ctx.unlock(LockId::Bql);
                        vmm.accel.limit_sleep(cpu as u8, cost, ctx);
                    }
                    cost
                });
                (self.state.vmm.accel.awaits_reset().then_some(RingStage::Reset), cost)
            }
            RingStage::Reset => {
                self.with_ctx(actor, |vmm, ctx| {
                    vmm.accel.ring_reset(ctx);
                    ctx.release_needed(LockId::Slots);
                    ctx.unlock(LockId::Bql);
                    vmm.accel.limit_sleep(cpu as u8, ctx.costs.clear_ns, ctx);
                });
                self.protect();
                (None, self.costs.clear_ns)
            }
        };
        self.state.vcpus[cpu].pending = match next {
            Some(stage) => Pending::RingFull { stage, then },
            None => *then,
        };
        cost
    }
}
