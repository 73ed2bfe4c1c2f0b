//! The hash of a searched world: a sum over its parts, so that moves which change different parts change it independently.

use host::fold::Fold;

use crate::scenario::model::PageSpec;
use crate::vcpu::Context;
use crate::world::Window;
use crate::world::guest::Vcpu;
use crate::world::inject::InjectionState;
use crate::world::search::SearchWorld;

/// What tells the parts from each other, and from those of host, oracle and memory.
mod tag {
    pub(super) const REGISTERS: u64 = 0x1_0300;
    pub(super) const VCPU: u64 = 0x1_0301;
    pub(super) const INTERRUPT: u64 = 0x1_0302;
    pub(super) const GATES: u64 = 0x1_0303;
    pub(super) const INJECTION: u64 = 0x1_0304;
    pub(super) const NOW: u64 = 0x1_0305;
    pub(super) const TRUTHS: u64 = 0x1_0306;
    pub(super) const FRAME: u64 = 0x1_0307;
    pub(super) const BACKLOG: u64 = 0x1_0308;
    pub(super) const COUNTS: u64 = 0x1_0309;
    pub(super) const TIMES: u64 = 0x1_030a;
    pub(super) const HINTS: u64 = 0x1_030b;
    pub(super) const WATCH: u64 = 0x1_030c;
    pub(super) const RESETS: u64 = 0x1_030d;
}

impl SearchWorld {
    /// Returns the hash of a vCPU's registers.
    pub(super) fn hash_of_cpu(&mut self, cpu: usize) -> u64 {
        let machine = &self.world.machine;
        *self.cpus[cpu].hash.get_or_insert_with(|| machine.hash_cpu(cpu))
    }

    /// Returns the hash of all that the future depends on. Left out: what the run never changes, and what only reports tell.
    pub(super) fn state_hash(&mut self) -> u128 {
        let mut fold = Fold::default();
        for cpu in 0..self.cpus.len() {
            let hash = self.hash_of_cpu(cpu);
            fold.word(tag::REGISTERS, cpu as u64, hash);
            fold_vcpu(cpu as u64, &self.world.state.vcpus[cpu], &mut fold);
        }
        let state = &mut self.world.state;
        fold.word(tag::NOW, 0, state.now_ns);
        for (index, injection) in (0..).zip(state.injections.iter().chain(&state.start)) {
            match injection {
                InjectionState::Waiting => {}
                InjectionState::Armed { at_ns, at_insns } => {
                    fold.part(tag::INJECTION, index, &(1, at_ns.saturating_sub(state.now_ns), at_insns));
                }
                InjectionState::Fired => fold.part(tag::INJECTION, index, &2),
            }
        }
        state.gates.fold(tag::GATES, &mut fold);
        for (index, (name, frame)) in (0..).zip(&state.pages.frames) {
            fold.part(tag::FRAME, index, &(name, frame));
        }
        for pfn in &state.watch.0 {
            fold.word(tag::WATCH, pfn.0, 1);
        }
        let scenario = &self.world.scenario;
        let unresolved = |(name, spec): (&String, &PageSpec)| match spec {
            PageSpec::Hint { .. } => !state.pages.frames.contains_key(name),
            PageSpec::Pfn(_) | PageSpec::Allocation { .. } => false,
        };
        if scenario.pages.iter().any(unresolved) {
            fold.word(tag::HINTS, 0, state.hints.into());
        }
        for (cpu, ops) in (0..).zip(&state.backlog) {
            if !ops.is_empty() {
                ops.iter().enumerate().for_each(|(index, op)| fold.part(tag::BACKLOG, cpu << 32 | index as u64, op));
            }
        }
        fold.part(tag::TRUTHS, 0, &(state.ready, state.window, state.crash.is_some(), state.host_crashed));
        if state.resets > 0 {
            fold.word(tag::RESETS, 0, state.resets);
        }
        if state.window != Window::Open {
            for (slot, at_ns) in (0..).zip(&state.times_ns) {
                fold.word(tag::TIMES, slot, at_ns.saturating_sub(state.now_ns));
            }
        }
        if let (true, Some(counts)) = (self.counted, &state.counts) {
            counts.fold(tag::COUNTS, &mut fold);
        }
        let sums = [state.vmm.fold(state.now_ns), state.locks.fold(), state.oracle.fold(), self.memory.sum()];
        sums.into_iter().fold(fold.sum(), u128::wrapping_add)
    }
}

/// Adds a vCPU without its registers. Waiting interrupts are parts of their own, for others add to them.
fn fold_vcpu(index: u64, vcpu: &Vcpu, fold: &mut Fold) {
    let Vcpu { pending, interrupts, timer_ns, icr_high, clock_latch, frame, insns, stop_at_insns } = vcpu;
    let frame = frame.as_ref().map(|frame| (&frame.resume, frame.injection, frame.hash, frame.kind));
    let left = stop_at_insns.map(|at| at.wrapping_sub(*insns));
    fold.part(tag::VCPU, index, &(pending, timer_ns, icr_high, clock_latch, frame, left));
    for vector in interrupts {
        fold.word(tag::INTERRUPT, index << 8 | u64::from(*vector), 1);
    }
}

const fn is_send_and_sync<T: Send + Sync>() {}
const _: () = is_send_and_sync::<Context>();
