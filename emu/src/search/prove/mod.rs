//! Exhaustive search: all orders of a system's moves, each state once.
//!
//! [`prove`] deduplicates states by their hash, makes only those moves whose target is not known without it (`exhaust.rs` says how), and still knows the whole
//! graph: which states there are, where each move leads, how many interleavings that stands for. [`enumerate`] does the same by brute force, for
//! small systems; the tests compare the two.
//!
//! What a system owes, beyond what [`System`] says: a move that ends the run disables all others, so its footprint conflicts with all; and a move's
//! footprint includes what its being offered depends on.

mod count;
mod enumerate;
mod exhaust;
mod graph;
#[cfg(test)]
pub(crate) mod random;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use super::system::{Choice, Ending, System};
use table::Mark;

pub use count::Count;
pub use enumerate::{Enumeration, enumerate};
pub(crate) use exhaust::{Found, exhaust};
pub use graph::BYTES_PER_STATE;
pub(crate) use graph::{Graph, Runs, RunsOf};
pub(crate) use table::StateId;

/// How to search, and when to stop.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads, each with a system of its own; at least one.
    pub threads: usize,
    /// Memory for states, moves, saved states, and the questions that are asked of them at the end, in bytes. An estimate, kept within a few MiB.
    pub memory_bytes: u64,
    /// Bytes that one saved state takes.
    pub saved_bytes: u64,
    /// States beyond which the search stops, within a few hundred for each thread. Whether it comes to its end before does not depend on the threads.
    pub states: u64,
    /// Whether moves whose target is known are left out.
    pub reduce: bool,
    /// Whether only a state's local move is looked at, where it has one. Then not all states are found, but all ways to end are; and the number of
    /// interleavings is a lower bound.
    pub local: bool,
    /// Whether the search stops at the first failing end. What it reports then depends on the threads' timing.
    pub stop_at_first: bool,
    /// How many predictions each thread checks before it checks a sample.
    pub check_first: u64,
    /// Of how many predictions one is checked after that. 0: none.
    pub check_one_in: u32,
    /// Asked now and then by any thread, with what was covered so far: whether to stop.
    pub stop: &'a (dyn Fn(&Covered) -> bool + Sync),
}

impl Default for Options<'_> {
    /// One thread, no limits, reduced, all states.
    fn default() -> Self {
        Self {
            threads: 1,
            memory_bytes: u64::MAX,
            saved_bytes: 0,
            states: u64::MAX,
            reduce: true,
            local: false,
            stop_at_first: false,
            check_first: 1024,
            check_one_in: 64,
            stop: &|_| false,
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, memory_bytes, saved_bytes, states, reduce, local, stop_at_first, check_first, check_one_in, stop: _ } = self;
        f.debug_struct("Options")
            .field("threads", threads)
            .field("memory_bytes", memory_bytes)
            .field("saved_bytes", saved_bytes)
            .field("states", states)
            .field("reduce", reduce)
            .field("local", local)
            .field("stop_at_first", stop_at_first)
            .field("check_first", check_first)
            .field("check_one_in", check_one_in)
            .finish_non_exhaustive()
    }
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Covered {
    /// States found.
    pub states: u64,
    /// Moves made, without those that only checked a prediction.
    pub executed: u64,
    /// States in which a run has ended.
    pub terminals: u64,
    /// Of them, those that show a defect.
    pub failing: u64,
    /// Memory in use, estimated, in bytes.
    pub memory_bytes: u64,
}

/// What an exhaustive search has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Every order of moves was covered, and none fails.
    Proved,
    /// Some order fails.
    Refuted,
    /// The budget was spent, and nothing that was covered fails.
    OutOfBudget,
}

/// For how many runs the states stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interleavings {
    /// For exactly so many.
    Exactly(Count),
    /// For more than these, which were counted: the search was not complete, or left out orders around local moves.
    AtLeast(Count),
    /// Some state leads back to itself: there are runs that never end.
    Endless,
}

/// The shortest run with a failing end; of equally short ones the first in the order of choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// How it ends.
    pub ending: Ending,
    /// Ids of the choices.
    pub path: Vec<u16>,
}

/// What a search found. Of a complete search nothing but `executed` and `checked` depends on the number of threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The answer.
    pub answer: Answer,
    /// Whether all orders were covered.
    pub complete: bool,
    /// States found.
    pub states: u64,
    /// Moves made, without those that only checked a prediction.
    pub executed: u64,
    /// Moves made only to check a prediction.
    pub checked: u64,
    /// Moves whose target is known: with those that were not made.
    pub edges: u64,
    /// States in which a run has ended, by how.
    pub outcomes: BTreeMap<Ending, u64>,
    /// For how many runs the states stand.
    pub interleavings: Interleavings,
    /// Moves in the longest run found. None: runs need not end.
    pub longest: Option<u32>,
    /// For each failing ending, in their order, a run.
    pub counterexamples: Vec<Counterexample>,
    /// Memory at the end of the search, estimated, in bytes.
    pub memory_bytes: u64,
    /// Whether moves whose target is known were left out.
    pub reduced: bool,
}

impl Proof {
    /// Returns the number of states in which a run has ended.
    pub fn terminals(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

/// What is wrong with a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The choice is not offered any more.
    Gone,
    /// The move leads to another state.
    Elsewhere,
}

/// A move did not do what its footprint, and those of the moves before it, promised: a defect of the system's, which makes any answer worthless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Ids of the choices that lead to the state, shortest way. The last one should have left the move as it was, but may only have passed it on.
    pub path: Vec<u16>,
    /// The move.
    pub choice: Choice,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Gone => "is not offered any more",
            Fault::Elsewhere => "does something else",
        };
        write!(f, "after choices {:?}, choice {} of actor {} {what}", self.path, self.choice.id, self.choice.actor)?;
        f.write_str(", though no footprint since it was offered conflicts with its own")
    }
}

impl std::error::Error for Unsound {}

/// Searches all orders of moves, from the state in which `factory` makes the system.
pub fn prove<S, F>(factory: F, options: &Options<'_>) -> Result<Proof, Box<Unsound>>
where
    S: System,
    F: Fn() -> S + Sync,
{
    let mut system = factory();
    let root = system.save();
    let found = exhaust(&mut system, &factory, vec![root], options).map_err(|(_, unsound)| unsound)?;
    Ok(conclude(&found, options))
}

fn conclude(found: &Found, options: &Options<'_>) -> Proof {
    let Found { graph, endings, roots, roots_done, covered, checked } = found;
    let complete = *roots_done == 1;
    let fails: Vec<bool> = endings.iter().map(Ending::is_failure).collect();
    let counterexamples = counterexamples(graph, roots[0], endings, &fails);
    let answer = match (counterexamples.is_empty(), complete) {
        (false, _) => Answer::Refuted,
        (true, true) => Answer::Proved,
        (true, false) => Answer::OutOfBudget,
    };
    let counted = graph.runs(roots, &fails);
    let runs = (counted.counted_roots == 1).then(|| counted.from(roots[0]));
    let interleavings = match runs.map(|runs| runs.passing.plus(runs.failing)) {
        None => Interleavings::Endless,
        Some(count) if complete && !options.local => Interleavings::Exactly(count),
        Some(count) => Interleavings::AtLeast(count),
    };
    Proof {
        answer,
        complete,
        states: graph.states() as u64,
        executed: covered.executed,
        checked: *checked,
        edges: graph.edges(),
        outcomes: endings.iter().cloned().zip(graph.endings(endings.len())).collect(),
        interleavings,
        longest: runs.map(|runs| runs.longest),
        counterexamples,
        memory_bytes: covered.memory_bytes,
        reduced: options.reduce,
    }
}

fn counterexamples(graph: &Graph, root: StateId, endings: &[Ending], fails: &[bool]) -> Vec<Counterexample> {
    let mut wanted = fails.to_vec();
    let mut found: Vec<u16> = Vec::new();
    let failing = fails.iter().filter(|fails| **fails).count();
    let paths = graph.shortest(root, failing, |_, mark| match mark {
        Mark::Terminal(ending) if std::mem::take(&mut wanted[usize::from(ending)]) => {
            found.push(ending);
            true
        }
        Mark::Terminal(_) | Mark::Open | Mark::Inner => false,
    });
    let named = found.into_iter().map(|ending| endings[usize::from(ending)].clone());
    let mut all: Vec<Counterexample> = named.zip(paths).map(|(ending, path)| Counterexample { ending, path }).collect();
    all.sort_by(|a, b| a.ending.cmp(&b.ending));
    all
}
