//! The comparison as JSON, an object a line.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Row, Told};
use crate::report::record::{FactsRecord, facts};

/// A line of `compare --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(in crate::cli) enum Line {
    /// A scenario.
    Row {
        /// Its path, as given or found.
        path: String,
        /// What it shows: the file's name.
        case: String,
        /// The interface, and what is particular about it.
        interface: String,
        /// Whether it ended as its file says.
        as_expected: bool,
        /// What is not so, in sentences.
        unexpected: Vec<String>,
        /// What panics of the emulator said.
        defects: Vec<String>,
        /// Its run; null when the emulator failed.
        run: Option<Box<RunLine>>,
        /// The run with a device that does not offer the interface; null when it could not come to its end.
        without: Option<Box<RunLine>>,
    },
    /// The last line.
    Summary {
        /// Scenarios.
        scenarios: usize,
        /// That ended as their files say.
        as_expected: usize,
    },
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(in crate::cli) struct RunLine {
    /// How it ended.
    verdict: String,
    /// Pages in free page reports that the host took, each as often as it was reported.
    pages_reported: u64,
    /// From the first migration's start to the run's end, nanoseconds of virtual time; null when none started.
    migration_ns: Option<u64>,
    /// Its numbers.
    facts: FactsRecord,
}

impl RunLine {
    fn of(told: &Told) -> Box<Self> {
        Box::new(Self {
            verdict: told.verdict.name().to_string(),
            pages_reported: told.pages_reported,
            migration_ns: told.migration_ns,
            facts: facts(&told.facts),
        })
    }
}

impl Line {
    /// Returns the line, ended.
    pub(super) fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always become JSON");
        line.push('\n');
        line
    }

    /// Returns a row's line.
    pub(super) fn of(row: &Row) -> Self {
        Line::Row {
            path: row.case.path.to_string_lossy().into_owned(),
            case: row.situation.clone(),
            interface: row.interface.clone(),
            as_expected: row.status() == super::Status::AsExpected,
            unexpected: row.unexpected.clone(),
            defects: row.defects().map(str::to_owned).collect(),
            run: row.with.as_ref().ok().map(RunLine::of),
            without: row.without.as_ref().ok().and_then(Option::as_ref).map(RunLine::of),
        }
    }
}
