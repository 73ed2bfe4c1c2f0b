//! Brute force: every run by itself, nothing left out. For systems that are small, and to test the clever search against.

use std::collections::{BTreeMap, BTreeSet};

use crate::search::system::{Choice, Ending, System};

/// What running everything has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enumeration {
    /// Whether that was everything.
    pub complete: bool,
    /// Runs, by how they ended.
    pub runs: BTreeMap<Ending, u64>,
    /// States in which a run has ended, by how, as hashes.
    pub terminals: BTreeMap<Ending, BTreeSet<u128>>,
    /// All states, as hashes.
    pub states: BTreeSet<u128>,
    /// Moves in the longest run.
    pub longest: u32,
}

impl Enumeration {
    /// Returns the number of runs.
    pub fn interleavings(&self) -> u64 {
        self.runs.values().sum()
    }
}

/// Makes every run from the system's state; stops after `runs_max` runs, or when a run is longer than `moves_max`.
pub fn enumerate<S: System>(system: &mut S, runs_max: u64, moves_max: u32) -> Enumeration {
    let mut all = Enumeration { complete: true, ..Enumeration::default() };
    // States on the way, with the choices that are left to make there.
    let mut way: Vec<(S::Saved, Vec<Choice>)> = Vec::new();
    loop {
        all.states.insert(system.hash());
        let mut choices = Vec::new();
        system.choices(&mut choices);
        if choices.is_empty() {
            let ending = system.ending();
            *all.runs.entry(ending.clone()).or_default() += 1;
            all.terminals.entry(ending).or_default().insert(system.hash());
            all.longest = all.longest.max(way.len() as u32);
        }
        choices.reverse();
        way.push((system.save(), choices));
        while way.last().is_some_and(|(_, choices)| choices.is_empty()) {
            way.pop();
        }
        let Some((saved, choices)) = way.last_mut() else {
            return all;
        };
        let choice = choices.pop().expect("those without were taken away");
        system.put_back(saved);
        system.take(choice);
        if all.interleavings() >= runs_max || way.len() > moves_max as usize {
            all.complete = false;
            return all;
        }
    }
}
