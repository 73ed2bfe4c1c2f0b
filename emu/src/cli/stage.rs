//! What the searches of the command line work on: scenarios as systems. The world is one; tests put the toy in its stead.

#[cfg(test)]
pub(super) mod toy;

use std::ops::Range;

use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::search::Subject;

/// A schedule that was run in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traced {
    /// The outcome, as a plain run would have it.
    pub(super) outcome: Outcome,
    /// Where in its trace the events of each choice stand.
    pub(super) steps: Vec<Range<usize>>,
}

/// What is told of a scenario's runs step by step.
pub(super) trait Stage: Subject {
    /// Returns a scenario's system for those who ask for the number of no happening: states that differ only in such numbers may be the same.
    fn open_uncounted(&self, scenario: &Scenario) -> Self::System;

    /// Returns the bytes that a saved state takes, about.
    fn saved_bytes(&self) -> u64;

    /// Returns what an actor of a scenario is called.
    fn actor_name(&self, scenario: &Scenario, actor: u16) -> String;

    /// Returns the ids of the choices that a plain run of the scenario makes.
    fn default_path(&self, scenario: &Scenario) -> Vec<u16>;

    /// Runs a schedule in full, given by the ids of its choices.
    fn trace(&self, scenario: &Scenario, path: &[u16]) -> Traced;
}
