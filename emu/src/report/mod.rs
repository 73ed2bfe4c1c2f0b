//! From an outcome to bytes, and back to a comparison.
//!
//! The data's way: an [`Outcome`] and what it came from (a [`Subject`]) become text ([`text`], whose last part is the [`timeline`], whose
//! words are in [`words`]), a JSON record ([`record`]) or annotations ([`github`]). Texts are kept as [`snapshot`]s; records are compared by
//! [`diff`]. Nothing here reads a file, a clock or the environment: the bytes depend on the outcome alone.

pub mod diff;
pub mod github;
pub mod plot;
pub mod record;
pub mod snapshot;
pub mod text;
pub mod timeline;
pub mod words;

use std::collections::BTreeSet;

use host::event::{CmdId, EventKind};
use host::fault::Fault;

use crate::outcome::Outcome;
use crate::scenario::injection_text;
use crate::scenario::model::Scenario;

/// Columns of a terminal line that no line of a report exceeds.
pub const WIDTH: usize = 120;

/// What an outcome came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The scenario's path, from `scenarios/` on where it lies in such a folder.
    pub name: String,
    /// The scenario's `about`.
    pub about: String,
    /// Faults that were switched on, the scenario's own and others, in the order of the registry.
    pub faults: Vec<Fault>,
    /// Kinds of events that the scenario speaks of: its reports show them all.
    pub asked: BTreeSet<EventKind>,
    /// What each injection does, as the scenario's file says it.
    pub injections: Vec<String>,
}

impl Subject {
    /// Returns the subject of a scenario's run with these faults on.
    pub fn of(name: &str, scenario: &Scenario, faults: Vec<Fault>) -> Self {
        Self {
            name: name.to_string(),
            about: scenario.about.clone(),
            faults,
            asked: scenario.event_kinds(),
            injections: scenario.injections.iter().map(injection_text).collect(),
        }
    }
}

/// How much of the trace a text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What a snapshot holds: named pages and the protocol; runs of other pages in one line; no locks, kicks, interrupts.
    Summary,
    /// Every event.
    Full,
}

/// Returns virtual nanoseconds as microseconds with three decimals, the unit of all reports.
pub fn micros(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000, ns % 1_000)
}

/// Returns a text without the line numbers of source files: they change with every edit while the meaning stays.
pub fn stable(text: &str) -> String {
    const FILE: &str = ".rs:";
    let mut parts = text.split(FILE);
    let mut stable = parts.next().unwrap_or_default().to_string();
    for part in parts {
        stable.push_str(FILE.trim_end_matches(':'));
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        stable.push_str(if rest.len() == part.len() { ":" } else { "" });
        stable.push_str(rest);
    }
    stable
}

/// Breaks a text at spaces into lines of at most `width` columns; a longer word stands alone. Line ends in the text are kept.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    assert!(width > 0, "no column to write in");
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// Returns a number with the noun that it counts, in the plural where that is due.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns command ids in one word each, consecutive ones as `first..last`: a migration of many rounds counts them up.
pub fn ids(ids: &[CmdId]) -> String {
    let mut words: Vec<String> = Vec::new();
    for run in ids.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0)) {
        match run {
            [first, _, .., last] => words.push(format!("{first}..{last}")),
            few => words.extend(few.iter().map(ToString::to_string)),
        }
    }
    if words.is_empty() { "none".to_string() } else { words.join(" ") }
}

/// Returns the sum of pages that the last migration sent, data and zero.
pub fn pages_sent(outcome: &Outcome) -> u64 {
    outcome.facts.pages_normal + outcome.facts.pages_zero
}

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_keep_every_nanosecond() {
        assert_eq!(micros(0), "0.000");
        assert_eq!(micros(1_002_003), "1002.003");
    }

    #[test]
    fn only_ids_in_a_row_are_drawn_together() {
        let of = |values: &[u32]| ids(&values.iter().map(|id| CmdId(*id)).collect::<Vec<_>>());
        assert_eq!(of(&[0, 0x8000_0000, 0x8000_0001, 1]), "0 80000000 80000001 1");
        assert_eq!(of(&[0, 0x8000_0000, 0x8000_0001, 0x8000_0002, u32::MAX, 0]), "0 80000000..80000002 ffffffff 0");
        assert_eq!(of(&[]), "none");
    }

    #[test]
    fn a_source_file_is_named_without_its_line() {
        assert_eq!(stable("at guest/src/a.rs:45, then b.rs:7"), "at guest/src/a.rs, then b.rs");
        assert_eq!(stable("a.rs: no line"), "a.rs: no line");
    }

    #[test]
    fn a_text_is_wrapped_at_its_width_and_a_long_word_stays_whole() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("toolong a", 3), ["toolong", "a"]);
        assert_eq!(wrap("one\ntwo", 10), ["one", "two"]);
    }
}
