//! The world: guest, host, clock, schedule and injector, stepping until the run ends.

use crate::outcome::Outcome;
use crate::scenario::model::Scenario;

/// How to run a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Faults switched on beside the scenario's own.
    pub faults: Vec<host::fault::Fault>,
}

/// Runs a scenario to its end.
pub fn run(_scenario: &Scenario, _options: &RunOptions) -> Outcome {
    unimplemented!("the world is being built")
}
