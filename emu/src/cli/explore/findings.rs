//! From what blocks have found to scenario files: the same failure of several variants is one finding, and is shrunk where it takes fewest moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use host::fault::Fault;

use super::hunt::Hunt;
use crate::cli::finding;
use crate::cli::guard::guarded;
use crate::scenario::Scenario;
use crate::scenario::model::Found;
use crate::search::block::{Finding, Signature, Summary};
use crate::search::explore::Options;
use crate::search::reproduce::{NotReproduced, Reproduced, Why, reproduce};
use crate::search::strategy::Strategy;
use crate::search::subject::Subject;
use crate::search::token::Token;

/// Stack of a thread that shrinks, bytes: that of a main thread, since unoptimised builds have large frames.
const STACK_BYTES: usize = 8 << 20;

/// How often the user must ask until findings are left as they are.
const ASKED_MAX: u32 = 2;

/// One way to fail, in whatever variants of a scenario with the same faults.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// How it fails.
    pub(super) signature: Signature,
    /// The variant in which its shortest schedule is.
    pub(super) variant: u32,
    /// That variant.
    pub(super) scenario: Scenario,
    /// Number of the first schedule that fails so, from 1.
    pub(super) first: u64,
    /// What drew the shortest one.
    pub(super) strategy: Strategy,
    /// Its seed.
    pub(super) seed: u64,
    /// Its choices.
    pub(super) choices: Vec<u16>,
    /// Variants in which it was seen.
    pub(super) variants: u64,
    /// Schedules that fail so.
    pub(super) schedules: u64,
    /// By strategy: schedules that fail so, and the number of the first one, from 1.
    pub(super) hits: BTreeMap<Strategy, (u64, u64)>,
}

impl Group {
    /// Returns what replays the schedule.
    pub(super) fn token(&self) -> Token {
        Token::new(self.strategy, self.seed, &self.scenario)
    }

    /// Returns whether the scenario's file says that it fails so.
    pub(super) fn is_expected(&self, scenario: &Scenario) -> bool {
        let blame = scenario.expect.blame.is_none_or(|blame| self.signature.blame.as_deref() == Some(blame.name()));
        self.signature.verdict == scenario.expect.verdict.name() && blame
    }

    fn add(&mut self, finding: &Finding, options: &Options) {
        if (finding.choices.len(), finding.seed) < (self.choices.len(), self.seed) {
            (self.variant, self.strategy, self.seed) = (finding.variant, finding.strategy, finding.seed);
            self.choices.clone_from(&finding.choices);
        }
        self.variants += 1;
        self.schedules += finding.schedules;
        for hits in &finding.hits {
            let (schedules, first) = self.hits.entry(hits.strategy).or_insert((0, u64::MAX));
            *schedules += hits.schedules;
            *first = (*first).min(number(hits.seed, options));
            self.first = self.first.min(*first);
        }
    }
}

/// Returns the number of a seed's schedule, from 1.
fn number(seed: u64, options: &Options) -> u64 {
    seed.wrapping_sub(options.seed) + 1
}

/// Returns the ways to fail, in the order in which they came.
pub(super) fn groups(scenario: &Scenario, options: &Options, summary: &Summary) -> Vec<Group> {
    let mut groups: BTreeMap<(Vec<Fault>, &Signature), Group> = BTreeMap::new();
    for finding in &summary.findings {
        let variant = scenario.variant(finding.variant.into());
        let group = groups.entry((variant.faults.clone(), &finding.signature)).or_insert_with(|| Group {
            signature: finding.signature.clone(),
            variant: finding.variant,
            scenario: variant,
            first: u64::MAX,
            strategy: finding.strategy,
            seed: finding.seed,
            choices: finding.choices.clone(),
            variants: 0,
            schedules: 0,
            hits: BTreeMap::new(),
        });
        group.add(finding, options);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| group.scenario = scenario.variant(group.variant.into()));
    groups.sort_by_key(|group| group.first);
    groups
}

/// What came of shrinking a finding: a panic of ours is what it said, and `None` was left out because the user asked to stop.
pub(super) type Shrinking = Option<Result<Result<Reproduced, NotReproduced>, String>>;

/// Shrinks findings on several threads, and hands over what came of each in their order.
pub(super) fn reproduce_all<S: Subject>(hunt: &Hunt<'_, S>, groups: &[Group], mut each: impl FnMut(&Group, Shrinking)) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..hunt.threads.min(groups.len()) {
            let (next, sender) = (&next, sender.clone());
            let work = move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(group) = groups.get(place) else { return };
                    if sender.send((place, shrink(hunt, group))).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
        }
        drop(sender);
        let (mut waiting, mut done) = (BTreeMap::new(), 0);
        for (place, shrinking) in receiver {
            waiting.insert(place, shrinking);
            while let Some(shrinking) = waiting.remove(&done) {
                each(&groups[done], shrinking);
                done += 1;
            }
        }
    });
}

fn shrink<S: Subject>(hunt: &Hunt<'_, S>, group: &Group) -> Shrinking {
    if hunt.interrupts.asked.load(Ordering::Relaxed) >= ASKED_MAX {
        return None;
    }
    let provenance = Found {
        scenario: hunt.case.name.clone(),
        seed: group.token().to_string(),
        strategy: group.strategy.to_string(),
        schedules: group.first,
    };
    Some(guarded(|| reproduce(hunt.subject, &group.scenario, &group.choices, provenance, group.seed)))
}

/// A finding with its file.
#[derive(Debug)]
pub(super) enum Settled {
    /// It has one, which a run reproduces.
    File(Box<Reproduced>, PathBuf),
    /// Its file could not be written.
    Unwritten(Box<Reproduced>, String),
    /// There is no scenario for it.
    Not(NotReproduced),
    /// We failed.
    Defect(String),
    /// The user asked to stop.
    Stopped,
}

impl Settled {
    /// Writes the file, if there is something to write.
    pub(super) fn new(folder: &Path, shrinking: Shrinking) -> Self {
        match shrinking {
            None => Settled::Stopped,
            Some(Err(said)) => Settled::Defect(said),
            Some(Ok(Err(not))) => Settled::Not(not),
            Some(Ok(Ok(reproduced))) => match finding::put(&reproduced, folder) {
                Ok((path, _)) => Settled::File(Box::new(reproduced), path),
                Err(problem) => Settled::Unwritten(Box::new(reproduced), problem),
            },
        }
    }

    /// Returns what happened, in a sentence.
    pub(super) fn what(&self) -> Option<&String> {
        match self {
            Settled::File(reproduced, _) | Settled::Unwritten(reproduced, _) => reproduced.what.as_ref(),
            Settled::Not(not) => not.what.as_ref(),
            Settled::Defect(_) | Settled::Stopped => None,
        }
    }

    /// Returns why its file could not be written, if it could not.
    pub(super) fn problem(&self) -> Option<&String> {
        match self {
            Settled::Unwritten(_, problem) => Some(problem),
            Settled::File(..) | Settled::Not(_) | Settled::Defect(_) | Settled::Stopped => None,
        }
    }

    /// Returns whether it shows a defect of this tool.
    pub(super) fn is_own_defect(&self) -> bool {
        match self {
            Settled::Defect(_) | Settled::Not(NotReproduced { why: Why::Replay(_), .. }) => true,
            Settled::File(..) | Settled::Unwritten(..) | Settled::Not(_) | Settled::Stopped => false,
        }
    }
}
