//! How scenarios become systems, and systems' schedules outcomes: what a search of scenarios works on.

use super::system::{Happening, System};
use crate::outcome::Outcome;
use crate::scenario::Scenario;

/// What scenarios are about. It has no state: the same scenario gives the same, on any thread.
pub trait Subject: Sync {
    /// What is searched of a scenario.
    type System: System;

    /// Returns a scenario's system, in the state that a search starts in.
    fn open(&self, scenario: &Scenario) -> Self::System;

    /// Runs a scenario as `lostpage run` does: by the default schedule, under its orders.
    fn run(&self, scenario: &Scenario) -> Outcome;

    /// Runs a scenario in the same way, and returns beside its outcome what happened in each move, as its system would tell it.
    fn recorded(&self, scenario: &Scenario) -> (Outcome, Vec<Vec<Happening>>);

    /// Runs the schedule that chooses what has these ids, one after the other; behind its end the default schedule goes on.
    fn replay(&self, scenario: &Scenario, choices: &[u16]) -> Outcome;
}
