//! A run without faults, and with each of many: a run with a fault is the run without it up to where it is first asked for.
//!
//! So a scenario is run once without, which tells behind how many turns each fault is first asked for; then once more, and at each of these places the
//! world is kept, a fault is flipped, the run goes on to its end, and the world is put back. Memory is kept in one copy that goes along: only pages that
//! somebody may have written since it was brought up to date are copied, to it or from it. A fault that is asked for before the first turn has a run
//! of its own, and so has each of the guest's, which asks nobody.
//!
//! Differs from `fork.rs`, which takes a run elsewhere, in that a world goes back to what it was itself.

use std::sync::Arc;

use host::event::Pfn;
use host::fault::{Fault, FaultSet, Faults};
use host::memory::RamMarks;
use wire::platform::PAGE_SIZE;
use xxhash_rust::xxh3::Xxh3;

use crate::outcome::Outcome;
use crate::scenario::model::Scenario;
use crate::vcpu::CpuSnapshot;
use crate::world::doctor::{Guard, guarded};
use crate::world::rules::GuestRules;
use crate::world::{RunOptions, State, World, run};

/// A scenario's runs, as far as they were told; or what our panics said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flipped<T> {
    /// As it is.
    pub alone: Result<T, String>,
    /// With each fault beside, or without it if it is the scenario's own; of a fault that nobody asks for there is none, for it is the same run.
    pub with: Vec<(Fault, Result<T, String>)>,
}

/// A place in a run, and the faults that nobody asked for before.
type Turn = (u64, FaultSet);

/// Runs a scenario as it is, and with each of these faults flipped that it asks for. `told`: what is kept of a run.
pub fn run_flipped<T>(scenario: &Scenario, faults: &[Fault], guard: Guard, told: fn(&Outcome) -> T) -> Flipped<T> {
    let scenario = Arc::new(scenario.clone());
    let first = guarded(guard, || {
        let mut world = World::new(&scenario, &RunOptions::default(), false);
        let before = world.faults.asked();
        let (outcome, turns) = world.run_noting();
        (told(&outcome), before, turns)
    });
    let (alone, before, turns) = match first {
        Ok((alone, before, turns)) => (Ok(alone), before, turns),
        // Nobody knows what it would have asked for.
        Err(said) => (Err(said), Fault::ALL.iter().copied().collect(), Vec::new()),
    };
    let mut with: Vec<_> =
        faults.iter().filter(|fault| before.contains(**fault)).map(|fault| (*fault, whole(&scenario, *fault, guard, told))).collect();
    let wanted: FaultSet = faults.iter().copied().collect();
    let turns: Vec<Turn> =
        turns.into_iter().map(|(turn, asked)| (turn, asked.and(wanted))).filter(|(_, asked)| !asked.is_empty()).collect();
    from_turns(&scenario, &turns, guard, told, &mut with);
    with.sort_by_key(|(fault, _)| *fault);
    Flipped { alone, with }
}

/// Runs a scenario with a fault flipped from its beginning.
fn whole<T>(scenario: &Scenario, fault: Fault, guard: Guard, told: fn(&Outcome) -> T) -> Result<T, String> {
    guarded(guard, || {
        let mut scenario = scenario.clone();
        let own = scenario.faults.len();
        scenario.faults.retain(|other| *other != fault);
        let faults = if scenario.faults.len() == own { vec![fault] } else { Vec::new() };
        told(&run(&scenario, &RunOptions { faults }))
    })
}

/// Runs each fault from its turn, in one world as long as that is whole: a panic of ours may leave it in the middle of anything.
fn from_turns<T>(
    scenario: &Arc<Scenario>,
    turns: &[Turn],
    guard: Guard,
    told: fn(&Outcome) -> T,
    with: &mut Vec<(Fault, Result<T, String>)>,
) {
    if turns.is_empty() {
        return;
    }
    let mut world = World::new(scenario, &RunOptions::default(), false);
    let mut kept = Kept::new(&world);
    let (mut at, mut is_whole) = (0, true);
    for (turn, asked) in turns {
        while is_whole && at < *turn {
            let end = world.turn();
            assert_eq!(end, None, "turn {at} of a run that has come to {turn} before");
            at += 1;
        }
        let saved = is_whole.then(|| kept.keep(&mut world));
        for fault in asked.iter() {
            let Some(saved) = saved.as_ref().filter(|_| is_whole) else {
                with.push((fault, whole(scenario, fault, guard, told)));
                continue;
            };
            world.faults.flip(fault);
            let result = guarded(guard, || {
                let end = world.run_to_end();
                let mut outcome = world.judge(end);
                let result = told(&outcome);
                std::mem::swap(&mut world.trace, &mut outcome.trace);
                result
            });
            is_whole = result.is_ok();
            with.push((fault, result));
            world.faults.flip(fault);
            if is_whole {
                kept.put_back(saved, &mut world);
            }
        }
    }
}

/// A copy of a world's memory, brought up to date where the world is kept.
struct Kept {
    memory: Vec<u8>,
}

/// What else a world is that changes in a run.
struct Saved {
    asked: FaultSet,
    state: State,
    cpus: CpuSnapshot,
    marks: RamMarks,
    rules: Option<Box<GuestRules>>,
    trace_len: usize,
    digest: Xxh3,
}

impl Kept {
    /// Returns a copy of a memory that nobody has written: it takes part of it as soon as the world is kept.
    fn new(world: &World) -> Self {
        Self { memory: vec![0; usize::try_from(world.ram.bytes()).expect("RAM fits into memory")] }
    }

    fn page(&mut self, pfn: Pfn) -> &mut [u8; PAGE_SIZE as usize] {
        self.memory[pfn.address() as usize..].first_chunk_mut().expect("a page of RAM")
    }

    /// Keeps a world as it stands.
    fn keep(&mut self, world: &mut World) -> Saved {
        assert!(!world.may && !world.lean && world.state.counts.is_none(), "a search goes back by itself");
        world.ram.take_touched(|pfn| world.machine.copy_page(pfn, self.page(pfn)));
        world.machine.open_anew();
        Saved {
            asked: world.faults.asked(),
            state: world.state.clone(),
            cpus: world.machine.save(),
            marks: world.ram.marks(),
            rules: world.rules.clone(),
            trace_len: world.trace.len(),
            digest: world.digest.clone(),
        }
    }

    /// Puts a world back that was kept last.
    fn put_back(&mut self, saved: &Saved, world: &mut World) {
        let Saved { asked, state, cpus, marks, rules, trace_len, digest } = saved;
        world.ram.take_touched(|pfn| world.machine.put_page(pfn, self.page(pfn)));
        world.ram.set_marks(marks);
        world.machine.restore(cpus);
        world.machine.open_anew();
        world.faults.set_asked(*asked);
        world.state.clone_from(state);
        world.rules.clone_from(rules);
        world.rules.iter_mut().for_each(|rules| rules.resume());
        world.trace.truncate(*trace_len);
        world.digest.clone_from(digest);
    }
}

impl World {
    /// Runs to the end, and tells behind how many turns faults were asked for that nobody had asked for, not even while the world was made.
    fn run_noting(&mut self) -> (Outcome, Vec<Turn>) {
        let mut asked = self.faults.asked();
        let mut turns = Vec::new();
        let mut note = |turn: u64, faults: &Faults| {
            if faults.asked() != asked {
                turns.push((turn, faults.asked().without(asked)));
                asked = faults.asked();
            }
        };
        let mut turn = 0;
        let end = loop {
            let end = self.turn();
            note(turn, &self.faults);
            match end {
                Some(end) => break end,
                None => turn += 1,
            }
        };
        let outcome = self.judge(end);
        note(turn, &self.faults);
        (outcome, turns)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::outcome::Verdict;
    use crate::world::doctor::tests::BUSY;

    /// Returns a bit of everything, with a fault of its own.
    fn parsed() -> Scenario {
        let text = format!("faults = [\"hint-stop-skipped\"]{BUSY}");
        crate::scenario::parse("flip.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn caught(work: &mut dyn FnMut()) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|said| said.downcast_ref::<&str>().unwrap_or(&"?").to_string())
    }

    #[test]
    fn a_run_from_where_its_fault_is_asked_for_is_the_run_with_it() {
        let scenario = parsed();
        let Flipped { alone, with } = run_flipped(&scenario, Fault::ALL, caught, Outcome::clone);
        let alone = alone.expect("no panic");
        assert_eq!(alone, run(&scenario, &RunOptions::default()));
        let host: Vec<_> = with.iter().filter(|(fault, _)| fault.guest_bit().is_none()).collect();
        assert!(host.len() > 20 && host.len() < Fault::ALL.len() / 2, "{} of the host's faults are asked for", host.len());
        let mut other = 0;
        for (fault, flipped) in host {
            assert_eq!(*flipped, whole(&scenario, *fault, caught, Outcome::clone), "{}", fault.name());
            other += usize::from(flipped.as_ref().expect("no panic").digest != alone.digest);
        }
        assert!(other > 5, "{other} of them change anything");
    }

    #[test]
    fn a_fault_that_nobody_asks_for_would_have_changed_nothing() {
        let scenario = parsed();
        let Flipped { alone, with } = run_flipped(&scenario, Fault::ALL, caught, |outcome| outcome.digest);
        let unasked = Fault::ALL.iter().filter(|fault| with.iter().all(|(other, _)| other != *fault));
        for fault in unasked.step_by(5) {
            assert_eq!(whole(&scenario, *fault, caught, |outcome| outcome.digest), alone, "{}", fault.name());
        }
    }

    #[test]
    fn behind_a_panic_of_ours_the_other_faults_have_runs_of_their_own() {
        fn told(outcome: &Outcome) -> u128 {
            assert!(outcome.verdict == Verdict::LostPage, "the sky fell");
            outcome.digest
        }
        let scenario = parsed();
        let with = run_flipped(&scenario, Fault::ALL, caught, told).with;
        let fell = with.iter().filter(|(_, result)| result.is_err()).count();
        assert!(fell > 0 && fell < with.len(), "{fell} of {}", with.len());
        for (fault, result) in with.iter().filter(|(fault, _)| fault.guest_bit().is_none()) {
            assert_eq!(*result, whole(&scenario, *fault, caught, told), "{}", fault.name());
        }
    }
}
