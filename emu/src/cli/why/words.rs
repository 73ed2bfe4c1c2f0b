//! A step in words.

use host::event::{Event, EventKind, Stamped};

use crate::report::{stable, timeline, words};
use crate::scenario::{Scenario, injection_text};
use crate::search::system::Key;
use crate::world::search::Replayed;

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepText {
    /// In one line.
    pub(super) line: String,
    /// Whether it was about a page that has a name, or the scenario's own doing.
    pub(super) named: bool,
}

/// Returns what each step did.
pub(super) fn of_steps(traced: &Replayed, scenario: &Scenario) -> Vec<StepText> {
    let Replayed { outcome, steps } = traced;
    let pages = &outcome.pages;
    let name_of = |event: &Event| event.range().map(|range| timeline::names(pages, range)).unwrap_or_default();
    let told = |Stamped { event, .. }: &Stamped| {
        let particulars = match event {
            Event::Inject { index } => scenario.injections.get(*index as usize).map(injection_text),
            _ => None,
        };
        let parts = [event.kind().name().to_string(), name_of(event), particulars.unwrap_or_else(|| words::particulars(event))];
        stable(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
    };
    let of_step = |range: &std::ops::Range<usize>| {
        let events = &outcome.trace[range.clone()];
        // A CLEAR reaches a whole chunk, whose pages are mostly others.
        let is_named = |event: &Event| match event.kind() {
            EventKind::DirtyClear => false,
            EventKind::Inject => true,
            _ => !name_of(event).is_empty(),
        };
        let named = events.iter().any(|stamped| is_named(&stamped.event));
        // What is about a page with a name says most; then what came first.
        let main = events.iter().position(|stamped| is_named(&stamped.event)).unwrap_or(0);
        let others =
            events.iter().enumerate().filter(|(place, _)| *place != main).map(|(_, stamped)| stamped.event.kind().name().to_string());
        let mut parts: Vec<String> = events.get(main).map(told).into_iter().chain(others).collect();
        parts.dedup();
        let line = if parts.is_empty() { "(nothing that is seen)".to_string() } else { parts.join("; ") };
        StepText { line, named }
    };
    steps.iter().map(of_step).collect()
}

/// Returns what a move announces.
pub(super) fn key(key: Key) -> String {
    match EventKind::ALL.get(usize::from(key.kind)) {
        Some(kind) => kind.name().to_string(),
        None => format!("inject[{}]", key.page),
    }
}
