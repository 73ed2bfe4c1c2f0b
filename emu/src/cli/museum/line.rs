//! The museum as JSON, an object a line.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Found, Museum, Searches};
use crate::museum::{First, Hunted};

/// A line of `museum --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(in crate::cli) enum Line {
    /// A scenario, run with each fault.
    Scenario {
        /// Its name.
        name: String,
        /// Its verdict as the file says it; null when the emulator failed.
        verdict: Option<String>,
        /// What is not as the file expects, in sentences.
        unexpected: Vec<String>,
        /// The faults that it notices, with its verdict then.
        notices: BTreeMap<String, String>,
    },
    /// A fault.
    Fault {
        /// Its name.
        name: String,
        /// The entry of the catalogue that it is; empty: of none.
        id: String,
        /// What a user sees of it.
        effect: String,
        /// Where it was real.
        source: String,
        /// Scenarios that notice it.
        caught_by: Vec<String>,
        /// Those that notice it as what it is: its effect, by the host's fault.
        as_such_by: Vec<String>,
    },
    /// The search with a fault, or without any.
    Search {
        /// The fault; null: none.
        fault: Option<String>,
        /// By strategy.
        strategies: BTreeMap<String, Search>,
    },
    /// The last line: what is missing.
    Holes {
        /// Faults that no scenario notices.
        uncaught: Vec<String>,
        /// Faults that are noticed, but never as what they are.
        never_as_such: Vec<String>,
        /// Scenarios of folders called `pass` that notice no fault.
        unmoved: Vec<String>,
        /// Scenarios that do not end as their files say.
        unexpected: Vec<String>,
        /// Faults of which no search found anything; null when nothing was searched.
        unfound: Option<Vec<String>>,
        /// Faults that searches found, but never as what they are.
        unfound_as_such: Option<Vec<String>>,
        /// Faults of the host that no neutral scenario asks for.
        unreached: Option<Vec<String>>,
    },
}

/// What one strategy has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(in crate::cli) struct Search {
    /// Schedules that were run.
    schedules: u64,
    /// Ways to fail that count, in the order in which they came.
    found: Vec<Finding>,
    /// Ways to fail that do not count, since the same schedule ends so without the fault.
    without_the_fault: Vec<Finding>,
}

/// A way to fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
struct Finding {
    /// Number of the first schedule that fails so, from 1.
    schedule: u64,
    /// The neutral scenario.
    neutral: String,
    /// The verdict.
    verdict: String,
    /// The rule that was broken, if one was.
    rule: Option<String>,
    /// Whose fault that is.
    blame: Option<String>,
    /// How it came about.
    cause: Option<String>,
}

impl Line {
    /// Returns the line, ended.
    pub(super) fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always become JSON");
        line.push('\n');
        line
    }
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn names(faults: Vec<host::fault::Fault>) -> Vec<String> {
    faults.into_iter().map(|fault| fault.name().to_owned()).collect()
}

/// Returns all that is known.
pub(super) fn lines(museum: &Museum) -> Vec<Line> {
    let matrix = &museum.matrix;
    let mut lines = Vec::new();
    for (name, row) in &matrix.rows {
        let alone = row.alone.as_ref().ok();
        let with = |cell: &crate::museum::Cell| Some((cell.fault.name().to_owned(), cell.result.as_ref().ok()?.verdict.name().to_owned()));
        lines.push(Line::Scenario {
            name: name.clone(),
            verdict: alone.map(|shown| shown.verdict.name().to_owned()),
            unexpected: alone.map(|shown| shown.unexpected.clone()).unwrap_or_default(),
            notices: row.noticed().filter_map(with).collect(),
        });
    }
    for fault in &museum.faults {
        lines.push(Line::Fault {
            name: fault.name().to_owned(),
            id: fault.label(),
            effect: fault.effect().name().to_owned(),
            source: fault.source().to_owned(),
            caught_by: owned(matrix.caught_by(*fault)),
            as_such_by: owned(matrix.caught_as_such_by(*fault)),
        });
    }
    if let Some(searches) = &museum.searches {
        lines.push(search(searches, None, &searches.baseline));
        lines.extend(searches.faults.iter().map(|(fault, found)| search(searches, Some(fault.name().to_owned()), found)));
    }
    lines.push(Line::Holes {
        uncaught: names(museum.uncaught()),
        never_as_such: names(museum.never_as_such()),
        unmoved: owned(matrix.unmoved()),
        unexpected: owned(matrix.unexpected()),
        unfound: museum.searches.as_ref().map(|searches| names(searches.unfound())),
        unfound_as_such: museum.searches.as_ref().map(|searches| names(searches.never_as_such())),
        unreached: museum.searches.as_ref().map(|searches| names(searches.unreached.clone())),
    });
    lines
}

fn search(searches: &Searches, fault: Option<String>, found: &Found) -> Line {
    let finding = |First { schedule, neutral, signature }: &First| Finding {
        schedule: *schedule,
        neutral: searches.neutrals[*neutral].clone(),
        verdict: signature.verdict.clone(),
        rule: signature.rule.clone(),
        blame: signature.blame.clone(),
        cause: signature.cause.clone(),
    };
    let of_strategy = |hunted: &Hunted| Search {
        schedules: hunted.schedules,
        found: hunted.found.iter().map(finding).collect(),
        without_the_fault: hunted.without.iter().map(finding).collect(),
    };
    let strategies = found.iter().filter_map(|(strategy, hunted)| Some((strategy.to_string(), of_strategy(hunted.as_ref().ok()?))));
    Line::Search { fault, strategies: strategies.collect() }
}
