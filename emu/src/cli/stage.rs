//! What the searches of the command line work on: scenarios as systems. The world is one; tests put the toy in its stead.

#[cfg(test)]
pub(super) mod toy;

use std::sync::Arc;

use host::event::Actor;

use super::worlds::Worlds;
use crate::scenario::Scenario;
use crate::search::Subject;
use crate::world::search::{Replayed, SearchWorld, default_path, replay};
use crate::world::{RunOptions, hosts_of};

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
    fn trace(&self, scenario: &Scenario, path: &[u16]) -> Replayed;
}

impl Stage for Worlds {
    fn open_uncounted(&self, scenario: &Scenario) -> SearchWorld {
        self.open(scenario).uncounted()
    }

    fn saved_bytes(&self) -> u64 {
        // Measured: 17.6 KiB, most of it pages that differ from the state before.
        20 << 10
    }

    fn actor_name(&self, scenario: &Scenario, actor: u16) -> String {
        let host = usize::from(actor).checked_sub(scenario.guest.vcpus.into());
        let actor = match host {
            None => Actor::Vcpu(actor as u8),
            Some(place) => hosts_of(scenario).get(place).copied().unwrap_or(Actor::Injector),
        };
        actor.to_string()
    }

    fn default_path(&self, scenario: &Scenario) -> Vec<u16> {
        default_path(&Arc::new(scenario.clone()), &RunOptions::default())
    }

    fn trace(&self, scenario: &Scenario, path: &[u16]) -> Replayed {
        replay(&Arc::new(scenario.clone()), &RunOptions::default(), path)
    }
}
