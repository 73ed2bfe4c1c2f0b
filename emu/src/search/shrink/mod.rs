//! From a failing schedule to the few constraints that make it fail.
//!
//! A schedule of hundreds of moves says little; that one event came before another, three times over, says what is wrong. The constraints are
//! looked for among the orders that the schedule kept (`candidates`), by refutation: the smallest set that no known run refutes (`cover`) is
//! tried on completions (`sample`), and each that does not fail rules out all sets which would allow it. A set that no sample refutes is the
//! result. So there is no smaller one among the candidates, and sets that stop sufficing when one constraint is taken out, but suffice again
//! when two are, need no care: nothing is ever taken out.
//!
//! What goes wrong in the fifth round mostly goes wrong in the first, with less to be said: so the same failure is also looked for earlier
//! (`earlier`).

mod candidates;
mod chain;
mod configuration;
mod cover;
mod earlier;
mod recording;
mod sample;

pub use chain::chains;
pub use configuration::{Configured, shrink_configuration};

use std::collections::BTreeSet;

use super::strategy::Scheduler;
use super::system::{Edge, Ending, Happening, Key, System};
use super::walk::Pilot;
use crate::outcome::Verdict;
use candidates::{Candidates, Level};
use cover::{Clause, Cover};
use recording::Recorded;
use sample::{Guide, Run, Style};

/// A set of this many constraints is small enough: no wider search for a smaller one.
const AIM: usize = 4;
/// One sample in so many may end in a stall: such a schedule is unfair, and says nothing.
const STALLS_SHARE: u32 = 4;

/// How a schedule is shrunk.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Completions by which a set is refuted, if it can be; more of them are not run once one has refuted it.
    pub samples_quick: u32,
    /// Completions that must all fail before a set is returned.
    pub samples_final: u32,
    /// Most completions in all.
    pub replays_max: u32,
    /// A completion is given up when it is so many times as long as the failing schedule.
    pub patience: u32,
    /// Most constraints of a set.
    pub edges_max: usize,
    /// Of all random choices.
    pub seed: u64,
    /// How badly a key reads, from 0; among sets of one size the cheapest is returned.
    pub cost: &'a dyn Fn(Key) -> u32,
}

impl<'a> Options<'a> {
    /// Returns the usual options: about a second of work at 20 µs for a completion.
    pub fn new(seed: u64, cost: &'a dyn Fn(Key) -> u32) -> Self {
        Self { samples_quick: 8, samples_final: 300, replays_max: 50_000, patience: 8, edges_max: 12, seed, cost }
    }
}

/// What a schedule was shrunk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The constraints, in the order of the failing schedule; none: it fails in any order.
    pub edges: Vec<Edge>,
    /// Indices of the injections that the failing schedule made.
    pub injected: BTreeSet<u16>,
    /// Orders of the schedule that were candidates.
    pub candidates: usize,
    /// Sets that were tried.
    pub tries: u32,
    /// Completions that were run.
    pub replays: u32,
    /// Completions under the constraints, all of which failed.
    pub sampled: u32,
    /// Completions under the constraints that stalled, beside those.
    pub stalled: u32,
    /// All failed with the same blame and cause, too, not only with the same verdict and rule.
    pub exact: bool,
    /// No smaller set of candidates suffices: each is refuted by a run.
    pub smallest: bool,
}

/// Why a schedule could not be shrunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotShrunk {
    /// The schedule chooses what is not offered.
    NoSuchChoice {
        /// Which choice, from 0.
        at: usize,
    },
    /// The schedule ends before the run.
    NotOver {
        /// Its length.
        moves: usize,
    },
    /// The schedule ends otherwise.
    OtherEnding(Ending),
    /// Some run keeps all orders of the schedule that can be named, or more than a few constraints are needed, and does not fail.
    NotByOrder,
    /// The budget is used up.
    Budget,
}

/// A run that keeps the constraints and does not fail, as somebody else saw it: the happenings of each move.
pub type Counterexample = Vec<Vec<Happening>>;

/// Shrinks a schedule, given by the ids of its choices from `root` on, that ended as `failing`.
///
/// # Errors
/// When the schedule does not fail like that, or no set of constraints was found that makes all samples fail.
pub fn shrink<S: System>(
    system: &mut S,
    root: &S::Saved,
    failing: &Ending,
    choices: &[u16],
    options: Options<'_>,
) -> Result<Shrunk, NotShrunk> {
    shrink_until(system, root, failing, choices, options, &mut |_| None)
}

/// Like [`shrink`], but asks somebody else about each set that all samples confirm: who answers with a counterexample refutes it.
///
/// # Errors
/// As [`shrink`].
pub fn shrink_until<S: System>(
    system: &mut S,
    root: &S::Saved,
    failing: &Ending,
    choices: &[u16],
    options: Options<'_>,
    confirm: &mut dyn FnMut(&[Edge]) -> Option<Counterexample>,
) -> Result<Shrunk, NotShrunk> {
    assert!(failing.is_failure(), "{failing:?} is no failure");
    assert!(options.samples_final > 0, "nothing is verified by no samples");
    system.put_back(root);
    system.constrain(&[]);
    let (schedule, ending) = recording::record(system, choices)?;
    if (ending.verdict, ending.rule) != (failing.verdict, failing.rule) {
        return Err(NotShrunk::OtherEnding(ending));
    }
    let guide = Guide::new(&schedule);
    let scheduler = Scheduler::new(sample::pilot(&schedule));
    let mut shrinker = Shrinker {
        system,
        root,
        options,
        confirm,
        schedule,
        guide,
        scheduler,
        target: ending,
        exact: true,
        edges_max: options.edges_max,
        refuting: Vec::new(),
        tries: 0,
        replays: 0,
    };
    let found = shrinker.search().map(|found| shrinker.earlier(found));
    system.put_back(root);
    system.constrain(&[]);
    found
}

/// Returns whether all of so many random completions from `root` on fail as `failing` did, with the same verdict and rule: what a check of
/// [`shrink_configuration`] asks of a scenario's system.
pub fn always_fails<S: System>(system: &mut S, root: &S::Saved, failing: &Ending, samples: u32, moves_max: u32, seed: u64) -> bool {
    let (guide, mut scheduler) = (Guide::new(&[]), Scheduler::new(Pilot::fly(system, root, moves_max)));
    (0..samples).all(|sample| {
        let seed = sample::seed(seed, 0, sample);
        system.put_back(root);
        let run = sample::complete(system, Style::nth(sample, seed, &[]), seed, &guide, &mut scheduler, moves_max);
        run.ending.is_some_and(|ending| (ending.verdict, ending.rule) == (failing.verdict, failing.rule))
    })
}

/// A run that did not fail.
struct Refuting {
    run: Run,
    /// The constraints that it was made under.
    under: Vec<Edge>,
    /// Those of them that may have held it back, so that it ended as it did.
    pending: Vec<Edge>,
}

/// What came of trying a set.
enum Trial {
    /// All samples failed; how many did, and how many stalled.
    Holds { failed: u32, stalled: u32 },
    /// Some did not: they have been noted.
    Refuted,
}

struct Shrinker<'a, S: System> {
    system: &'a mut S,
    root: &'a S::Saved,
    options: Options<'a>,
    confirm: &'a mut dyn FnMut(&[Edge]) -> Option<Counterexample>,
    schedule: Vec<Recorded>,
    guide: Guide,
    scheduler: Scheduler,
    target: Ending,
    /// Blame and cause must be the target's, too.
    exact: bool,
    /// Most constraints of a set.
    edges_max: usize,
    refuting: Vec<Refuting>,
    tries: u32,
    replays: u32,
}

impl<S: System> Shrinker<'_, S> {
    /// Looks among few candidates first, for the very same failure first.
    fn search(&mut self) -> Result<Shrunk, NotShrunk> {
        let mut best: Result<Shrunk, NotShrunk> = Err(NotShrunk::NotByOrder);
        for (exact, level) in [(true, Level::Conflicts), (false, Level::Conflicts), (true, Level::All), (false, Level::All)] {
            self.exact = exact;
            if !exact && !self.refuting.iter().any(|refuting| self.fails(&refuting.run)) {
                // No run failed in another way: there is nothing to be generous about.
                continue;
            }
            match (self.solve(level, self.options.replays_max / 16), &best) {
                (Ok(found), _) if found.edges.len() <= AIM => return Ok(found),
                (Ok(found), Ok(known)) if found.edges.len() >= known.edges.len() => {}
                (Ok(found), _) => best = Ok(found),
                (Err(NotShrunk::Budget), Ok(_)) => break,
                (Err(NotShrunk::Budget), Err(_)) => return Err(NotShrunk::Budget),
                (Err(_), _) => {}
            }
        }
        best
    }

    fn solve(&mut self, level: Level, provocations: u32) -> Result<Shrunk, NotShrunk> {
        let candidates = Candidates::new(&self.schedule, level, self.options.cost);
        let swaps = candidates.swaps();
        let mut cover = Cover::new(candidates.len());
        let mut noted = 0;
        let mut provoked = false;
        loop {
            for refuting in &self.refuting[noted..] {
                if !self.fails(&refuting.run) {
                    clause(refuting, &candidates).into_iter().for_each(|clause| cover.add(clause));
                }
            }
            noted = self.refuting.len();
            let Some(set) = cover.best(&candidates, self.edges_max) else { return Err(NotShrunk::NotByOrder) };
            let edges: Vec<Edge> = set.edges.iter().map(|index| candidates.edge(*index)).collect();
            self.tries += 1;
            match self.sample(&edges, &swaps)? {
                Trial::Holds { failed, stalled } if !self.refuted_elsewhere(&edges) => {
                    let (tries, replays) = (self.tries, self.replays);
                    let edges = self.in_order(edges);
                    let (sampled, exact, smallest) = (failed, self.exact, set.smallest);
                    return Ok(Shrunk {
                        edges,
                        injected: self.injected(),
                        candidates: candidates.len(),
                        tries,
                        replays,
                        sampled,
                        stalled,
                        exact,
                        smallest,
                    });
                }
                Trial::Holds { .. } | Trial::Refuted => {}
            }
            if !provoked {
                provoked = true;
                self.provoke(&swaps, provocations)?;
            }
            assert!(self.refuting.len() > noted, "a set was refuted by nothing");
        }
    }

    /// Leaves the failing schedule in one place at a time: what does not fail then says most about what matters.
    fn provoke(&mut self, swaps: &[sample::Swap], most: u32) -> Result<(), NotShrunk> {
        self.constrain(&[]);
        for swap in swaps.iter().take(most as usize / 2) {
            for style in [Style::Delay(*swap), Style::Hurry(*swap)] {
                let run = self.complete(style, 0)?;
                if run.ending.is_some() && !self.fails(&run) {
                    self.refuting.push(Refuting { run, under: Vec::new(), pending: Vec::new() });
                }
            }
        }
        Ok(())
    }

    /// Tries a set on samples: up to the quick number when some do not fail, up to the final one when all do.
    fn sample(&mut self, edges: &[Edge], swaps: &[sample::Swap]) -> Result<Trial, NotShrunk> {
        let start = self.constrain(edges);
        let known = self.refuting.len();
        let (mut failed, mut stalled) = (0, 0);
        for sample in 0..self.options.samples_final {
            if sample >= self.options.samples_quick && self.refuting.len() > known {
                return Ok(Trial::Refuted);
            }
            let seed = sample::seed(self.options.seed, self.tries, sample);
            self.system.put_back(&start);
            let run = self.complete_here(Style::nth(sample, seed, swaps), seed)?;
            if self.fails(&run) {
                failed += 1;
            } else if run.ending.is_none() {
                stalled += 1;
                if sample + 1 >= self.options.samples_quick && stalled * STALLS_SHARE > sample + 1 {
                    self.refuting.push(Refuting { run, under: edges.to_vec(), pending: edges.to_vec() });
                    return Ok(Trial::Refuted);
                }
            } else {
                let pending = held_back(&run, edges);
                self.refuting.push(Refuting { run, under: edges.to_vec(), pending });
            }
        }
        Ok(if self.refuting.len() > known { Trial::Refuted } else { Trial::Holds { failed, stalled } })
    }

    /// Asks about a set that the samples confirmed.
    fn refuted_elsewhere(&mut self, edges: &[Edge]) -> bool {
        let Some(counterexample) = (self.confirm)(edges) else { return false };
        let moves = counterexample.into_iter().zip(0..);
        let happened = moves.flat_map(|(happened, at)| happened.into_iter().map(move |happening| (happening, at))).collect();
        let ending = Some(Ending { verdict: Verdict::Pass, rule: None, blame: None, cause: None });
        self.refuting.push(Refuting { run: Run { ending, happened, ids: Vec::new() }, under: edges.to_vec(), pending: Vec::new() });
        true
    }

    /// Lays constraints down at the root; returns that state.
    fn constrain(&mut self, edges: &[Edge]) -> S::Saved {
        self.system.put_back(self.root);
        self.system.constrain(edges);
        self.system.save()
    }

    fn complete(&mut self, style: Style, seed: u64) -> Result<Run, NotShrunk> {
        self.system.put_back(self.root);
        self.complete_here(style, seed)
    }

    fn complete_here(&mut self, style: Style, seed: u64) -> Result<Run, NotShrunk> {
        if self.replays >= self.options.replays_max {
            return Err(NotShrunk::Budget);
        }
        self.replays += 1;
        let moves_max = self.options.patience.saturating_mul(u32::try_from(self.schedule.len()).unwrap_or(u32::MAX));
        Ok(sample::complete(self.system, style, seed, &self.guide, &mut self.scheduler, moves_max))
    }

    /// Returns whether a run ended as the failing one did.
    fn fails(&self, run: &Run) -> bool {
        run.ending.as_ref().is_some_and(|ending| {
            let same = (ending.verdict, ending.rule) == (self.target.verdict, self.target.rule);
            same && (!self.exact || (ending.blame, ending.cause) == (self.target.blame, self.target.cause))
        })
    }

    /// Returns the injections that the failing schedule made.
    fn injected(&self) -> BTreeSet<u16> {
        let happened = self.schedule.iter().flat_map(|made| &made.happened);
        happened.filter(|happening| happening.key.kind == Key::INJECTION).map(|happening| happening.key.page).collect()
    }

    /// Puts constraints in the order in which the failing schedule kept them.
    fn in_order(&self, mut edges: Vec<Edge>) -> Vec<Edge> {
        let when = |happening: Happening| self.schedule.iter().position(|made| made.happened.contains(&happening));
        edges.sort_by_key(|edge| (when(edge.first), when(edge.then), *edge));
        edges
    }
}

/// Returns what a run that did not fail asks of sets of candidates, if anything.
fn clause(refuting: &Refuting, candidates: &Candidates) -> Option<Clause> {
    // Held back by what is no candidate here: no set can do the same.
    let unless: Option<Vec<usize>> = refuting.pending.iter().map(|edge| candidates.index(edge)).collect();
    let mut one_of = candidates.broken_by(&refuting.run);
    // What was laid down and broken all the same cannot be kept: the event came behind another one in a move that nothing held back.
    refuting.under.iter().filter_map(|edge| candidates.index(edge)).for_each(|edge| one_of.remove(edge));
    Some(Clause { one_of, unless: unless? })
}

/// Returns the constraints that a run which got stuck may have waited for: those whose first happening did not come.
fn held_back(run: &Run, edges: &[Edge]) -> Vec<Edge> {
    match run.ending.as_ref().map(|ending| ending.verdict) {
        Some(Verdict::Unreachable | Verdict::Deadlock | Verdict::Stall) | None => {
            let happened = |wanted: Happening| run.happened.iter().any(|(happening, _)| *happening == wanted);
            edges.iter().copied().filter(|edge| !happened(edge.first)).collect()
        }
        Some(
            Verdict::HostCrash
            | Verdict::GuestCrash
            | Verdict::LostPage
            | Verdict::BrokenRule
            | Verdict::Leak
            | Verdict::OverSend
            | Verdict::Pass,
        ) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
