//! From a failing schedule to a scenario file that fails in the same way, shown by running it.
//!
//! The schedule is replayed, shrunk to a few constraints ([`super::shrink`]), and written down ([`super::found`]). A run by the default schedule is one
//! completion among many, and the one that counts: a set of constraints under which it does not fail is refuted by it. Then all that the failure
//! does not need is taken out of the scenario, as long as that run and completions by chance still fail.

use std::collections::BTreeSet;
use std::fmt;

use super::found;
use super::shrink::{Counterexample, NotShrunk, Options, Shrunk, always_fails, shrink_configuration, shrink_until};
use super::subject::Subject;
use super::system::{Choice, Edge, Ending, Key, Step, System};
use super::walk::{self, Observer};
use crate::outcome::{Outcome, Violation};
use crate::scenario::model::Found;
use crate::scenario::{self, Scenario};

/// Moves of all completions that a schedule is shrunk by, as long as they have the schedule's length: some seconds of work.
const MOVES_MAX: usize = 2_000_000;
/// Completions, at least and at most.
const REPLAYS_MIN: usize = 1_000;
const REPLAYS_MAX: usize = 50_000;
/// A completion is given up when it is so many times as long as the schedule.
const PATIENCE: u32 = 3;

/// Simpler scenarios that are tried, at most.
const CHECKS_MAX: u32 = 300;
/// Completions by chance that must fail in each of them.
const CHECK_SAMPLES: u32 = 16;
/// How many that must be in the end.
const FINAL_SAMPLES: u32 = 300;

/// A finding as a scenario that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reproduced {
    /// What a file says of it; a run of that ends as it expects.
    pub scenario: Scenario,
    /// How the schedule ended.
    pub ending: Ending,
    /// What happened there, in a sentence.
    pub what: Option<String>,
    /// The schedule's constraints.
    pub shrunk: Shrunk,
    /// Simplifications of the scenario that stayed.
    pub simplified: u32,
}

/// A finding that no scenario shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReproduced {
    /// Why not.
    pub why: Why,
    /// What happened in its schedule, in a sentence.
    pub what: Option<String>,
}

/// Why there is no scenario that shows a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A schedule that was recorded as failing does not fail: a defect of ours.
    Replay(String),
    /// No few constraints make it fail.
    Shrink(NotShrunk),
    /// The scenario's run ends otherwise.
    Run(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Replay(what) => write!(f, "the schedule does not replay: {what}"),
            Why::Shrink(NotShrunk::NoSuchChoice { at }) => {
                write!(f, "the schedule does not replay: move {} is not offered", at + 1)
            }
            Why::Shrink(NotShrunk::NotOver { moves }) => write!(f, "the schedule does not replay: no end after {moves} moves"),
            Why::Shrink(NotShrunk::OtherEnding(ending)) => {
                write!(f, "the schedule does not replay: it ends as {}", ending.verdict.name())
            }
            Why::Shrink(NotShrunk::NotByOrder) => f.write_str("no few orders of events make it fail"),
            Why::Shrink(NotShrunk::Budget) => f.write_str("no few orders of events that make it fail were found in time"),
            Why::Run(what) => write!(f, "its orders are not enough for a run to fail: {what}"),
        }
    }
}

/// Makes a scenario of a schedule of `base`, given by its choices, that fails. `seed` is that of all random choices.
///
/// # Errors
/// When there is none that a run reproduces.
pub fn reproduce<S: Subject>(
    subject: &S,
    base: &Scenario,
    choices: &[u16],
    provenance: Found,
    seed: u64,
) -> Result<Reproduced, NotReproduced> {
    let mut system = subject.open(base);
    let root = system.save();
    let mut injected = Injected::default();
    let not = |why| NotReproduced { why, what: None };
    let ending = match walk::replay(&mut system, &root, choices, &mut injected) {
        Ok(Some(ending)) if ending.is_failure() => ending,
        Ok(Some(ending)) => return Err(not(Why::Replay(format!("it ends as {}", ending.verdict.name())))),
        Ok(None) => return Err(not(Why::Replay(format!("no end after {} moves", choices.len())))),
        Err(not_offered) => return Err(not(Why::Replay(not_offered.to_string()))),
    };
    let outcome = subject.replay(base, choices);
    let violation = violation(&outcome, &ending);
    if outcome.verdict != ending.verdict || violation.map(|violation| violation.rule) != ending.rule {
        return Err(not(Why::Replay(format!("its run ends as {}", outcome.verdict.name()))));
    }
    let cost = found::cost(base, failing_page(&outcome, violation));
    let mut attempt = Attempt { subject, base, ending: &ending, provenance: &provenance, injected: &injected.0, last: None };
    let replays_max = (MOVES_MAX / choices.len().max(1)).clamp(REPLAYS_MIN, REPLAYS_MAX) as u32;
    let options = Options { replays_max, patience: PATIENCE, ..Options::new(seed, &cost) };
    let shrunk = shrink_until(&mut system, &root, &ending, choices, options, &mut |edges| attempt.refute(edges));
    let shrunk = shrunk.map_err(|problem| {
        let why = match &attempt.last {
            Some(sentence) if problem == NotShrunk::NotByOrder => Why::Run(sentence.clone()),
            Some(_) | None => Why::Shrink(problem),
        };
        NotReproduced { why, what: what(&outcome, violation) }
    })?;
    let full = found::scenario(base, &shrunk, &ending, provenance.clone());
    let (scenario, simplified) = simplify(subject, base, &full, &ending, choices.len(), seed);
    Ok(Reproduced { scenario, what: what(&outcome, violation), shrunk, simplified, ending })
}

/// The injections that a schedule makes.
#[derive(Debug, Default)]
struct Injected(BTreeSet<u16>);

impl Observer for Injected {
    fn moved(&mut self, _: &Choice, step: &Step) {
        self.0.extend(step.happened.iter().filter(|happening| happening.key.kind == Key::INJECTION).map(|happening| happening.key.page));
    }
}

/// Returns the broken rule by which a run ended so.
fn violation<'a>(outcome: &'a Outcome, ending: &Ending) -> Option<&'a Violation> {
    let same = |violation: &&Violation| Some(violation.rule) == ending.rule && violation.verdict == ending.verdict;
    // Of several pages, the one that the ending is about.
    let exactly = |violation: &&Violation| same(violation) && Some(violation.blame) == ending.blame && violation.cause == ending.cause;
    outcome.violations.iter().find(exactly).or_else(|| outcome.violations.iter().find(same))
}

fn failing_page<'a>(outcome: &'a Outcome, violation: Option<&Violation>) -> Option<&'a str> {
    let pfn = violation?.page?;
    outcome.pages.iter().find(|(_, facts)| facts.pfn == Some(pfn)).map(|(name, _)| name.as_str())
}

fn what(outcome: &Outcome, violation: Option<&Violation>) -> Option<String> {
    violation.map(|violation| violation.what.clone()).or_else(|| outcome.crash.as_ref().map(|crash| crash.message.clone()))
}

/// Returns what a file would say of a scenario.
fn as_read(scenario: &Scenario) -> Result<Scenario, String> {
    scenario::parse("found", &scenario::to_toml(scenario)).map_err(|problems| problems.to_string())
}

/// Returns why a run of a scenario does not end in this way, if it does not.
fn misses(outcome: &Outcome, ending: &Ending) -> Option<String> {
    let other = || violation(outcome, ending).map(|violation| violation.rule) != ending.rule;
    outcome.unexpected.first().cloned().or_else(|| other().then(|| "another rule is broken".to_owned()))
}

/// Tries constraints on a run.
struct Attempt<'a, S> {
    subject: &'a S,
    base: &'a Scenario,
    ending: &'a Ending,
    provenance: &'a Found,
    /// Injections of the failing schedule.
    injected: &'a BTreeSet<u16>,
    /// Why the last run did not do.
    last: Option<String>,
}

impl<S: Subject> Attempt<'_, S> {
    /// Returns the run under some constraints, if it does not fail as it should.
    fn refute(&mut self, edges: &[Edge]) -> Option<Counterexample> {
        let shrunk = Shrunk {
            edges: edges.to_vec(),
            injected: self.injected.clone(),
            candidates: 0,
            tries: 0,
            replays: 0,
            sampled: 0,
            stalled: 0,
            exact: false,
            smallest: false,
        };
        let found = found::scenario(self.base, &shrunk, self.ending, self.provenance.clone());
        let found = match as_read(&found) {
            Ok(found) => found,
            Err(problems) => {
                self.last = Some(problems);
                // Whatever holds such constraints is refuted, too.
                return Some(Vec::new());
            }
        };
        let (outcome, mut moves) = self.subject.recorded(&found);
        self.last = Some(misses(&outcome, self.ending)?);
        let own = self.base.injections.len();
        let fired: Vec<u16> = self.injected.iter().copied().filter(|index| usize::from(*index) >= own).collect();
        for happening in moves.iter_mut().flatten().filter(|happening| happening.key.kind == Key::INJECTION) {
            // In the search's words: there, what may be done stands behind the scenario's injections, done or not.
            if let Some(place) = usize::from(happening.key.page).checked_sub(own) {
                happening.key.page = fired[place];
            }
        }
        Some(moves)
    }
}

/// Takes out of a scenario what its failure does not need.
fn simplify<S: Subject>(subject: &S, base: &Scenario, full: &Scenario, ending: &Ending, moves: usize, seed: u64) -> (Scenario, u32) {
    let moves_max = u32::try_from(moves).unwrap_or(u32::MAX).saturating_mul(PATIENCE).max(1_000);
    let fails = |candidate: &Scenario, samples: u32| {
        // By chance in the window of the search, where the constraints were found.
        let searched = Scenario { search: base.search.clone(), ..candidate.clone() };
        let mut system = subject.open(&searched);
        let root = system.save();
        always_fails(&mut system, &root, ending, samples, moves_max, seed)
    };
    let configured = shrink_configuration(full, CHECKS_MAX, &mut |candidate| {
        as_read(candidate).is_ok_and(|read| misses(&subject.run(&read), ending).is_none()) && fails(candidate, CHECK_SAMPLES)
    });
    if configured.kept > 0 && fails(&configured.scenario, FINAL_SAMPLES) {
        return (found::retold(configured.scenario, ending), configured.kept);
    }
    (full.clone(), 0)
}
