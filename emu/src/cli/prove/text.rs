//! What `lostpage prove` prints.

use std::collections::BTreeMap;
use std::fmt::Write;

use indicatif::BinaryBytes;

use crate::cli::finding::{Finding, NotKept};
use crate::outcome::{Outcome, Verdict};
use crate::report::{WIDTH, counted, wrap};
use crate::scenario::Scenario;
use crate::scenario::model::Grain;
use crate::search::prove::{Answer, Counterexample, Interleavings, Proof};
use crate::search::reproduce::Reproduced;
use crate::search::system::Ending;

/// Columns of the keys on the left.
const KEY: usize = 16;

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All was covered.
    Complete,
    /// The user stopped it.
    Interrupted,
    /// Something failed, and that was enough.
    First,
    /// This much memory was not enough, bytes.
    Memory(u64),
}

/// A way to fail, and what became of it.
#[derive(Debug)]
pub(super) struct Refutation<'a> {
    /// The way.
    pub(super) example: &'a Counterexample,
    /// The scenario that shows it.
    pub(super) kept: Result<Finding, NotKept>,
}

/// All that is told of one search.
#[derive(Debug)]
pub(super) struct Told<'a> {
    /// The scenario's.
    pub(super) name: &'a str,
    /// What was drawn of the scenario's lists; empty where there are none.
    pub(super) settings: &'a str,
    /// As it was searched.
    pub(super) scenario: &'a Scenario,
    /// What was shown.
    pub(super) proof: &'a Proof,
    /// How it ended.
    pub(super) ended: Ended,
    /// The ways to fail.
    pub(super) refutations: &'a [Refutation<'a>],
}

impl Told<'_> {
    /// Returns the lines.
    pub(super) fn lines(&self) -> String {
        let mut out = format!("{:<14} {}\n", answer_name(self.proof.answer), self.name);
        let mut line = |key: &str, text: &str| put(&mut out, key, text);
        if !self.settings.is_empty() {
            line("settings", self.settings);
        }
        line("states", &self.states());
        line("interleavings", &self.interleavings());
        line("grain", &grain(self.scenario));
        line("covered", &self.covered());
        for refutation in self.refutations {
            refutation.put(&mut out);
        }
        out
    }

    fn states(&self) -> String {
        let mut ends: BTreeMap<Verdict, u64> = BTreeMap::new();
        self.proof.outcomes.iter().for_each(|(ending, states)| *ends.entry(ending.verdict).or_default() += states);
        let ends: Vec<String> = ends.into_iter().map(|(verdict, states)| format!("{states} {}", verdict.name())).collect();
        let ends = if ends.is_empty() { "none of them an end".to_string() } else { format!("ends among them: {}", ends.join(", ")) };
        format!("{}, {}; {ends}", self.proof.states, counted(self.proof.edges, "move"))
    }

    fn interleavings(&self) -> String {
        let longest = self.proof.longest.map(|moves| format!(", the longest of {}", counted(moves.into(), "move"))).unwrap_or_default();
        match self.proof.interleavings {
            Interleavings::Exactly(count) => format!("{count}{longest}"),
            Interleavings::AtLeast(count) => format!("at least {count}{longest}"),
            Interleavings::Endless => "without end: some state leads back to itself".to_string(),
        }
    }

    fn covered(&self) -> String {
        match self.ended {
            Ended::Complete => "every order".to_string(),
            Ended::Interrupted => "not every order: stopped by Ctrl-C".to_string(),
            Ended::First => "not every order: stopped at the first that fails".to_string(),
            Ended::Memory(bytes) => format!("not every order: {} of memory were not enough", BinaryBytes(bytes)),
        }
    }
}

fn put(out: &mut String, key: &str, text: &str) {
    for (number, line) in wrap(text, WIDTH - KEY - 4).iter().enumerate() {
        let key = if number == 0 { key } else { "" };
        writeln!(out, "    {key:<KEY$}{line}").expect("memory");
    }
}

impl Refutation<'_> {
    fn put(&self, out: &mut String) {
        let Counterexample { ending, path } = self.example;
        put(out, ending.verdict.name(), &format!("{}after {} moves", described(ending), path.len()));
        match &self.kept {
            Ok(Finding { reproduced: Reproduced { scenario, what, shrunk, simplified, .. }, confirmed, path, new }) => {
                what.iter().for_each(|what| put(out, "", what));
                put(out, "", &scenario.about);
                let orders = counted(shrunk.edges.len() as u64, "order");
                let simpler =
                    if *simplified == 0 { String::new() } else { format!("; {}", counted((*simplified).into(), "simplification")) };
                put(out, "", &format!("{orders} of {}: {confirmed}{simpler}", counted(shrunk.candidates as u64, "candidate")));
                put(out, if *new { "written" } else { "known" }, &path.to_string_lossy());
            }
            Err(problem) => {
                put(out, "", &problem.sentence());
                put(out, "schedule", &schedule(path));
            }
        }
    }
}

/// Returns rule, blame and cause of an ending, with a comma behind.
fn described(ending: &Ending) -> String {
    let blame = ending.blame.map(|blame| format!("blame {}", blame.name()));
    let parts = [ending.rule.map(str::to_string), blame, ending.cause.map(str::to_string)];
    parts.into_iter().flatten().map(|part| format!("{part}, ")).collect()
}

fn answer_name(answer: Answer) -> &'static str {
    match answer {
        Answer::Proved => "proved",
        Answer::Refuted => "refuted",
        Answer::OutOfBudget => "out of budget",
    }
}

/// Returns at which points, and between which events, a search chooses.
pub(in crate::cli) fn grain(scenario: &Scenario) -> String {
    let search = &scenario.search;
    let points = match search.grain {
        Grain::Event => "each event and each lock",
        Grain::Instruction => "each event, each lock and each guest instruction",
    };
    let until = search.until.as_ref().map_or("the end".to_string(), ToString::to_string);
    format!("{}: a choice at {points}, from {} to {until}", search.grain.name(), search.start())
}

/// Returns what a scenario without any choice comes to.
pub(super) fn no_freedom(scenario: &Scenario, proof: &Proof, outcome: &Outcome) -> String {
    let why = match proof.longest {
        Some(0) => format!("the run is over before {}, where a search would begin", scenario.search.start()),
        Some(_) | None => "nobody ever has a choice".to_string(),
    };
    let mut out = String::new();
    put(&mut out, "no freedom", &format!("{why}: run once, it ends as {}", outcome.verdict.name()));
    out
}

/// Returns what all settings show together.
pub(super) fn summary(answers: &[Answer], variants: usize) -> String {
    let count = |wanted: Answer| answers.iter().filter(|answer| **answer == wanted).count();
    let named = [Answer::Proved, Answer::Refuted, Answer::OutOfBudget].map(|answer| (count(answer), answer_name(answer)));
    let mut parts: Vec<String> = named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    if answers.len() < variants {
        parts.push(format!("{} without an answer", variants - answers.len()));
    }
    format!("{}: {}\n", counted(variants as u64, "setting"), parts.join(", "))
}

/// Returns a schedule in few characters: `0*3 2` is three times choice 0, then choice 2.
pub(super) fn schedule(path: &[u16]) -> String {
    let word = |run: &[u16]| if run.len() == 1 { run[0].to_string() } else { format!("{}*{}", run[0], run.len()) };
    path.chunk_by(|a, b| a == b).map(word).collect::<Vec<_>>().join(" ")
}
