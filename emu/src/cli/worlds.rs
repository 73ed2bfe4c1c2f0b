//! The world as what scenarios are about.

use std::sync::Arc;

use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::search::Subject;
use crate::search::system::Happening;
use crate::world::search::{SearchWorld, recorded, replay};
use crate::world::{self, RunOptions};

/// Worlds, as scenarios say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worlds;

impl Subject for Worlds {
    type System = SearchWorld;

    fn open(&self, scenario: &Scenario) -> SearchWorld {
        SearchWorld::new(&Arc::new(scenario.clone()), &RunOptions::default())
    }

    fn run(&self, scenario: &Scenario) -> Outcome {
        world::run(scenario, &RunOptions::default())
    }

    fn recorded(&self, scenario: &Scenario) -> (Outcome, Vec<Vec<Happening>>) {
        recorded(&Arc::new(scenario.clone()), &RunOptions::default())
    }

    fn replay(&self, scenario: &Scenario, choices: &[u16]) -> Outcome {
        replay(&Arc::new(scenario.clone()), &RunOptions::default(), choices).outcome
    }
}
