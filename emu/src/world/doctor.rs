//! Self-distrust: a run is made twice, the second time from a fork in the middle and on another thread, and both must be the same.
//!
//! Runs by the clock are compared event by event, then by digest, by all that is left at their end, and by their outcome. Of a searched world a random
//! schedule is compared move by move: who could move, what happened, and the state's hash (`search/doctor.rs`). The first difference is told with both
//! sides. Any difference is a defect of ours: something gets into a run that is not its scenario, or a fork leaves something out.

#[cfg(test)]
pub(super) mod tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::thread;

use host::event::{Pfn, Stamped};
use wire::platform::PAGE_SIZE;
use xxhash_rust::xxh3::xxh3_64;

use crate::outcome::Outcome;
use crate::scenario::model::Scenario;
use crate::world::fork::Fork;
use crate::world::search::doctor::searched;
use crate::world::{End, RunOptions, World};

/// So many events that both sides have are told before the first that differs.
const BEFORE_EVENTS: usize = 4;
/// Stack of the other thread, bytes: unoptimised builds have large frames.
const STACK_BYTES: usize = 8 << 20;

/// Does something that must not panic, and returns what it said if it did. How that is kept quiet is the caller's knowledge.
pub type Guard = fn(&mut dyn FnMut()) -> Result<(), String>;

/// What was compared, and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examination {
    /// Events of the run by the clock.
    pub events: usize,
    /// Moves of the searched schedule.
    pub moves: usize,
    /// The first difference of each kind of run; empty: all is well.
    pub divergences: Vec<Divergence>,
}

/// The first difference between two runs that had to be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Which runs.
    pub way: Way,
    /// Where the second run was forked: the number of events in its trace by then, or of moves.
    pub forked_at: usize,
    /// Where they differ: place in the trace, or number of the move; of a panic, where the second was forked.
    pub at: usize,
    /// The last events that both have, with their places: in the trace, or numbers of their moves.
    pub before: Vec<(usize, Stamped)>,
    /// What differs.
    pub what: What,
}

/// How runs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the clock, as `lostpage run` does it.
    Run,
    /// As a search does it, one random schedule.
    Search,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An event; `None` where a side has none left.
    Event {
        /// The first run's.
        first: Option<Stamped>,
        /// The second run's.
        second: Option<Stamped>,
    },
    /// All events are the same so far, but this is not.
    Value {
        /// What it is.
        what: String,
        /// In the first run.
        first: String,
        /// In the second run.
        second: String,
    },
    /// The second run alone ended in a panic of ours.
    Panic {
        /// What it said.
        said: String,
    },
}

impl Divergence {
    /// Returns whether the runs differ before the second was forked: then forking is not to blame.
    pub fn is_before_fork(&self) -> bool {
        self.at < self.forked_at
    }
}

/// Makes both kinds of runs of a scenario twice, and compares. `seed`: of the searched schedule.
///
/// # Errors
/// When a first run ends in a panic of ours: what that said.
pub fn examine(scenario: &Scenario, options: &RunOptions, seed: u64, guard: Guard) -> Result<Examination, String> {
    let scenario = Arc::new(scenario.clone());
    let (events, run) = by_the_clock(&scenario, options, guard, |steps| steps / 2, |_| {})?;
    let (moves, search) = searched(&scenario, options, seed, guard, |_| {})?;
    Ok(Examination { events, moves, divergences: run.into_iter().chain(search).collect() })
}

/// Compares a whole run with one that is forked at a step, and finished from there on another thread. `at`: from the number of all steps to that of
/// the fork. `forget`: what a broken fork would lack.
fn by_the_clock(
    scenario: &Arc<Scenario>,
    options: &RunOptions,
    guard: Guard,
    at: impl FnOnce(u64) -> u64,
    forget: impl FnOnce(&mut Fork),
) -> Result<(usize, Option<Divergence>), String> {
    let (first, mut fork) = guarded(guard, || {
        let first = Finished::of(World::new(scenario, options, false));
        let mut world = World::new(scenario, options, false);
        let step = at(first.outcome.facts.steps);
        while world.state.steps < step && world.end().is_none() && world.step() {}
        let fork = world.fork(options);
        (first, fork)
    })?;
    let forked_at = fork.trace.len();
    forget(&mut fork);
    let difference = match elsewhere(guard, move || Finished::of(fork.resume())) {
        Ok(second) => compare(&first, &second),
        Err(said) => Some((forked_at, What::Panic { said })),
    };
    let trace = &first.outcome.trace;
    let before = |at: usize| last_events(trace[..at].iter().enumerate());
    let told = difference.map(|(at, what)| Divergence { way: Way::Run, forked_at, at, before: before(at.min(trace.len())), what });
    Ok((trace.len(), told))
}

/// A run by the clock at its end.
struct Finished {
    outcome: Outcome,
    rest: Rest,
}

/// What is left of a world at its end: hashes of its parts.
struct Rest {
    /// By vCPU.
    registers: Vec<u64>,
    /// By page.
    memory: Vec<u64>,
    host: u128,
    oracle: u128,
}

impl Finished {
    /// Runs a world to its end.
    fn of(mut world: World) -> Finished {
        let end: End = world.run_to_end();
        let rest = Rest::of(&mut world);
        Finished { outcome: world.finish(end), rest }
    }
}

impl Rest {
    fn of(world: &mut World) -> Rest {
        let World { ram, machine, state, .. } = world;
        let mut bytes = [0; PAGE_SIZE as usize];
        let mut page = |pfn| {
            machine.copy_page(Pfn(pfn), &mut bytes);
            xxh3_64(&bytes)
        };
        let memory = (0..ram.pages()).map(&mut page).collect();
        Rest {
            registers: (0..machine.vcpus()).map(|cpu| machine.hash_cpu(cpu)).collect(),
            memory,
            host: state.vmm.fold(state.now_ns).wrapping_add(state.locks.fold()),
            oracle: state.oracle.fold(),
        }
    }
}

/// Returns the first difference of two runs by the clock, and its place in the trace.
fn compare(first: &Finished, second: &Finished) -> Option<(usize, What)> {
    let (a, b) = (&first.outcome, &second.outcome);
    if let Some(difference) = compare_events(&a.trace, &b.trace) {
        return Some(difference);
    }
    let pages = || first.rest.memory.iter().zip(&second.rest.memory).position(|(a, b)| a != b);
    let cpus = || first.rest.registers.iter().zip(&second.rest.registers).position(|(a, b)| a != b);
    let (x, y) = (&first.rest, &second.rest);
    let what = hash("the digest of all events", a.digest, b.digest)
        .or_else(|| cpus().and_then(|cpu| hash(&format!("vcpu{cpu}'s registers at the end"), x.registers[cpu], y.registers[cpu])))
        .or_else(|| pages().and_then(|pfn| hash(&format!("page {} at the end", Pfn(pfn as u64)), x.memory[pfn], y.memory[pfn])))
        .or_else(|| hash("the host's state at the end", x.host, y.host))
        .or_else(|| hash("the oracle's state at the end", x.oracle, y.oracle))
        .or_else(|| compare_outcomes(a, b));
    what.map(|what| (a.trace.len(), what))
}

/// Returns the first event that differs, and its place.
pub(super) fn compare_events(first: &[Stamped], second: &[Stamped]) -> Option<(usize, What)> {
    let parts = first.iter().zip(second).position(|(a, b)| a != b);
    let at = parts.or_else(|| (first.len() != second.len()).then(|| first.len().min(second.len())))?;
    Some((at, What::Event { first: first.get(at).cloned(), second: second.get(at).cloned() }))
}

fn compare_outcomes(first: &Outcome, second: &Outcome) -> Option<What> {
    let Outcome { verdict, violations, waits, crash, pages, facts, trace: _, digest: _, unexpected, asked } = first;
    value("the verdict", verdict, &second.verdict)
        .or_else(|| value("the list of broken rules", violations, &second.violations))
        .or_else(|| value("the list of open waits", waits, &second.waits))
        .or_else(|| value("the guest's end", crash, &second.crash))
        .or_else(|| value("what is known of named pages", pages, &second.pages))
        .or_else(|| value("the numbers of the run", facts, &second.facts))
        .or_else(|| value("what is not as expected", unexpected, &second.unexpected))
        .or_else(|| value("the set of faults that were asked for", asked, &second.asked))
}

/// Returns two values as a difference, if they are one.
pub(super) fn value<T: PartialEq + Debug>(what: &str, first: &T, second: &T) -> Option<What> {
    (first != second).then(|| What::Value { what: what.to_owned(), first: format!("{first:?}"), second: format!("{second:?}") })
}

/// Returns two hashes as a difference, if they are one.
pub(super) fn hash(what: &str, first: impl Into<u128>, second: impl Into<u128>) -> Option<What> {
    let (first, second) = (first.into(), second.into());
    (first != second).then(|| What::Value { what: what.to_owned(), first: format!("{first:#x}"), second: format!("{second:#x}") })
}

/// Returns the last of these events.
pub(super) fn last_events<'e>(events: impl DoubleEndedIterator<Item = (usize, &'e Stamped)>) -> Vec<(usize, Stamped)> {
    let mut last: Vec<_> = events.rev().take(BEFORE_EVENTS).map(|(place, stamped)| (place, stamped.clone())).collect();
    last.reverse();
    last
}

/// Does something on a thread of its own.
pub(super) fn elsewhere<T: Send>(guard: Guard, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK_BYTES);
        let handle = builder.spawn_scoped(scope, move || guarded(guard, work)).expect("a thread");
        handle.join().expect("panics were caught")
    })
}

/// Does something under guard.
pub(super) fn guarded<T>(guard: Guard, work: impl FnOnce() -> T) -> Result<T, String> {
    let (mut work, mut result) = (Some(work), None);
    guard(&mut || result = work.take().map(|work| work()))?;
    Ok(result.expect("a guard does what it is given"))
}
