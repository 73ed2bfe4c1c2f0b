//! Who burns a CPU while there is nothing to do: how long threads that wait in a loop have spun.
//!
//! QEMU's iothread looks at an empty hint queue again and again while a round is open, with `free_page_lock` taken and released each time
//! (`host/src/balloon/iothread.rs`). Such a look changes nothing that anybody could see, so the model makes none of them, and runs have an end; the account of
//! the time says what they cost. It is kept in runs by the clock alone: where a search chooses, time stands still.

use std::collections::BTreeMap;

use host::event::Actor;

use crate::outcome::SpinTime;
use crate::world::{Readiness, World};

/// The account of spinning.
#[derive(Debug, Clone, Default)]
pub(super) struct Spins {
    /// Since when each actor spins, by slot.
    open: Vec<Option<u64>>,
    closed: BTreeMap<Actor, u64>,
}

impl Spins {
    /// Returns the account of so many actors, none of whom spins.
    pub(super) fn new(slots: usize) -> Self {
        Self { open: vec![None; slots], closed: BTreeMap::new() }
    }

    /// An actor spins, or does not: from its own time on, at which it got there, or until now.
    pub(super) fn note(&mut self, slot: usize, actor: Actor, spins: bool, own_ns: u64, now_ns: u64) {
        let open = &mut self.open[slot];
        match (*open, spins) {
            (None, true) => *open = Some(own_ns.max(now_ns)),
            (Some(since_ns), false) => {
                *open = None;
                *self.closed.entry(actor).or_default() += now_ns.saturating_sub(since_ns);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Returns the account at the end. `look_ns`: what a look costs; where that is nothing, their number is not known and is told as 0.
    pub(super) fn times(&self, actor_of: impl Fn(usize) -> Actor, look_ns: u64, now_ns: u64) -> Vec<SpinTime> {
        let mut all = self.closed.clone();
        for (slot, since_ns) in self.open.iter().enumerate() {
            if let Some(since_ns) = since_ns {
                *all.entry(actor_of(slot)).or_default() += now_ns.saturating_sub(*since_ns);
            }
        }
        let time = |(who, ns): (Actor, u64)| SpinTime { who: who.to_string(), ns, looks: ns.checked_div(look_ns).unwrap_or(0) };
        all.into_iter().filter(|(_, ns)| *ns > 0).map(time).collect()
    }
}

impl World {
    /// Returns whether the actor of a slot, who has nothing to do, looks for it all the time. Who finds the lock of its look taken sleeps instead.
    pub(super) fn spins(&self, slot: usize, readiness: Readiness) -> bool {
        readiness == Readiness::Idle && self.state.vmm.spins(self.actor_of(slot), &self.state.locks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_counts_from_the_actors_own_time_to_its_end() {
        let mut spins = Spins::new(2);
        spins.note(1, Actor::Iothread, true, 150, 100);
        spins.note(1, Actor::Iothread, true, 150, 300);
        spins.note(1, Actor::Iothread, false, 150, 500);
        spins.note(1, Actor::Iothread, true, 500, 600);
        let times = spins.times(|_| Actor::Iothread, 100, 1_000);
        assert_eq!(times, [SpinTime { who: "iothread".to_owned(), ns: 350 + 400, looks: 7 }]);
        assert_eq!(spins.times(|_| Actor::Iothread, 0, 1_000)[0].looks, 0);
    }
}
