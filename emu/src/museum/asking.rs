//! A system that tells at its end which faults it was asked for.

use std::sync::{Arc, Mutex, PoisonError};

use host::fault::FaultSet;

use crate::search::System;
use crate::search::system::{Choice, Edge, Ending, Step};

/// A system, and where to tell. A search keeps its systems to itself, and drops them when it is over or has too many.
pub(super) struct Asking<S: System> {
    system: S,
    told: Arc<Mutex<FaultSet>>,
}

impl<S: System> Asking<S> {
    /// Takes a system. What `told` holds stays in it.
    pub(super) fn new(system: S, told: Arc<Mutex<FaultSet>>) -> Self {
        Self { system, told }
    }
}

impl<S: System> Drop for Asking<S> {
    fn drop(&mut self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).add(self.system.asked());
    }
}

impl<S: System> System for Asking<S> {
    type Saved = S::Saved;

    fn actors(&self) -> u16 {
        self.system.actors()
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        self.system.choices(into);
    }

    fn is_local(&self, choice: &Choice) -> bool {
        self.system.is_local(choice)
    }

    fn take(&mut self, choice: Choice) {
        self.system.take(choice);
    }

    fn step(&self) -> &Step {
        self.system.step()
    }

    fn ending(&mut self) -> Ending {
        self.system.ending()
    }

    fn save(&mut self) -> Self::Saved {
        self.system.save()
    }

    fn put_back(&mut self, saved: &Self::Saved) {
        self.system.put_back(saved);
    }

    fn hash(&mut self) -> u128 {
        self.system.hash()
    }

    fn asked(&self) -> FaultSet {
        self.system.asked()
    }

    fn constrain(&mut self, edges: &[Edge]) {
        self.system.constrain(edges);
    }
}
