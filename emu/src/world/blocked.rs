//! Who waits for whom: circles of waits, and how long everybody has waited for what.
//!
//! A wait is one for a lock of the host's or of the guest's, or in the middle of something for what another actor does ([`Await`]). Having nothing to
//! do and sleeping until a time are none. A run by the clock keeps the account; where a search chooses, time stands still and there is none.
//! A circle is a deadlock whatever others do: nobody but its members could end it.

use std::collections::BTreeMap;

use host::event::{Actor, LockId};
use host::step::Await;

use crate::outcome::{BlockedTime, Wait};
use crate::world::guest::Pending;
use crate::world::{Readiness, World};

/// What an actor is held up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// A lock of the host's that another holds.
    Lock(LockId),
    /// A spin lock of the guest's that another vCPU holds.
    GuestLock(u32),
    /// A used buffer that the guest polls for.
    UsedBuffer,
    /// What another does.
    Await(Await),
}

impl Hold {
    /// Returns what is waited for, as reports and expectations call it.
    fn name(self) -> &'static str {
        match self {
            Hold::Lock(lock) => lock.name(),
            Hold::GuestLock(lock) => guest_lock_name(lock),
            Hold::UsedBuffer => "a used buffer",
            Hold::Await(what) => what.name(),
        }
    }
}

/// The account of waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocked {
    /// What each actor waits for, by slot, and since when.
    open: Vec<Option<(Hold, u64)>>,
    closed: BTreeMap<(Actor, Hold), u64>,
    /// A wait has begun since somebody looked for circles.
    grown: bool,
}

impl Blocked {
    /// Returns the account of so many actors, none of whom waits.
    pub(super) fn new(slots: usize) -> Self {
        Self { open: vec![None; slots], closed: BTreeMap::new(), grown: false }
    }

    /// An actor is held up, or not: from its own time on, at which it got there, or until now.
    pub(super) fn note(&mut self, slot: usize, actor: Actor, hold: Option<Hold>, own_ns: u64, now_ns: u64) {
        let open = &mut self.open[slot];
        if open.map(|(hold, _)| hold) == hold {
            return;
        }
        if let Some((what, since_ns)) = open.take() {
            *self.closed.entry((actor, what)).or_default() += now_ns.saturating_sub(since_ns);
        }
        *open = hold.map(|hold| (hold, own_ns.max(now_ns)));
        self.grown |= hold.is_some();
    }

    /// Returns whether a wait has begun since the last time that this was asked.
    pub(super) fn has_grown(&mut self) -> bool {
        std::mem::take(&mut self.grown)
    }

    /// Returns the account at the end: who, for what, how long.
    pub(super) fn times(&self, actor_of: impl Fn(usize) -> Actor, now_ns: u64) -> Vec<BlockedTime> {
        let mut all = self.closed.clone();
        for (slot, open) in self.open.iter().enumerate() {
            if let Some((hold, since_ns)) = open {
                *all.entry((actor_of(slot), *hold)).or_default() += now_ns.saturating_sub(*since_ns);
            }
        }
        let time = |((who, hold), ns): ((Actor, Hold), u64)| BlockedTime { who: who.to_string(), on: hold.name().to_owned(), ns };
        all.into_iter().filter(|(_, ns)| *ns > 0).map(time).collect()
    }
}

impl World {
    /// Returns the actor of a slot.
    pub(super) fn actor_of(&self, slot: usize) -> Actor {
        match slot.checked_sub(self.state.vcpus.len()) {
            None => Actor::Vcpu(slot as u8),
            Some(index) => self.hosts[index],
        }
    }

    /// Returns what holds an actor up that stands like that, and whose turn it would be to end it, if that is one of us.
    pub(super) fn hold(&self, slot: usize, readiness: Readiness) -> Option<(Hold, Option<Actor>)> {
        match readiness {
            Readiness::Lock(lock) => self.lock_holder(lock).map(|holder| (Hold::Lock(lock), Some(holder))),
            Readiness::GuestLock(lock) => Some((Hold::GuestLock(lock), self.guest_lock_holder(slot))),
            Readiness::UsedBuffer => Some((Hold::UsedBuffer, None)),
            Readiness::Await(what) => {
                let by = match what {
                    Await::Peer | Await::Answer => Some(Actor::Destination),
                    Await::Page => Some(Actor::Migration),
                    Await::Oneself => Some(self.actor_of(slot)),
                    Await::Stores | Await::Devices | Await::Hints | Await::Operator | Await::Recovery => None,
                };
                Some((Hold::Await(what), by))
            }
            Readiness::Ready(_) | Readiness::At(_) | Readiness::Idle => None,
        }
    }

    /// Returns the vCPU that holds the spin lock that a vCPU spins on: the lock's word is its number plus one.
    fn guest_lock_holder(&self, cpu: usize) -> Option<Actor> {
        let Pending::Spin { address, .. } = self.state.vcpus[cpu].pending else { return None };
        let holder = self.ram.read_u32(address).checked_sub(1)?;
        u8::try_from(holder).ok().filter(|holder| usize::from(*holder) < self.state.vcpus.len()).map(Actor::Vcpu)
    }

    /// Returns a circle of actors that wait for each other; empty: there is none.
    pub(super) fn circle(&self) -> Vec<Wait> {
        let slots = self.state.vcpus.len() + self.hosts.len();
        let slot_of = |actor: Actor| (0..slots).find(|slot| self.actor_of(*slot) == actor);
        let holds: Vec<_> = (0..slots).map(|slot| self.hold(slot, self.readiness(slot).0)).collect();
        let next = |slot: usize| holds[slot].and_then(|(_, by)| by).and_then(slot_of);
        for start in 0..slots {
            let mut members = vec![start];
            while let Some(at) = next(*members.last().expect("never empty")) {
                if at == start {
                    return members.into_iter().map(|slot| self.wait_of(slot, holds[slot].expect("it waits"))).collect();
                }
                if members.contains(&at) {
                    break;
                }
                members.push(at);
            }
        }
        Vec::new()
    }

    /// Returns a wait in words.
    pub(super) fn wait_of(&self, slot: usize, (hold, by): (Hold, Option<Actor>)) -> Wait {
        let name = hold.name();
        let (wants, waits_for) = match (hold, by) {
            (Hold::Lock(_), Some(holder)) => (name.to_owned(), format!("{holder}, who holds {name}")),
            (Hold::GuestLock(_), Some(holder)) => (format!("guest lock {name}"), format!("{holder}, which holds {name}")),
            (Hold::GuestLock(_), None) => (format!("guest lock {name}"), format!("the vCPU that holds {name}")),
            (Hold::UsedBuffer, _) => (name.to_owned(), "the device, which has none for it".to_owned()),
            (Hold::Await(_) | Hold::Lock(_), None) => (name.to_owned(), "somebody else".to_owned()),
            (Hold::Await(_), Some(by)) if self.state.vmm.migration.stalled() => (name.to_owned(), format!("{by}, which does not read")),
            (Hold::Await(_), Some(by)) => (name.to_owned(), by.to_string()),
        };
        Wait { who: self.actor_of(slot).to_string(), wants, waits_for }
    }
}

/// Returns the name of a guest's lock.
pub(super) fn guest_lock_name(lock: u32) -> &'static str {
    wire::debug::lock::NAMES.get((lock as usize).wrapping_sub(1)).copied().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_from_the_actors_own_time_to_its_end() {
        let mut blocked = Blocked::new(1);
        let hold = Some(Hold::Lock(LockId::Bitmap));
        blocked.note(0, Actor::Iothread, hold, 150, 100);
        assert!(blocked.has_grown() && !blocked.has_grown());
        blocked.note(0, Actor::Iothread, hold, 150, 400);
        assert!(!blocked.has_grown());
        blocked.note(0, Actor::Iothread, None, 150, 500);
        blocked.note(0, Actor::Iothread, hold, 100, 600);
        let times = blocked.times(|_| Actor::Iothread, 1_000);
        assert_eq!(times, [BlockedTime { who: "iothread".to_owned(), on: "bitmap_mutex".to_owned(), ns: 350 + 400 }]);
    }

    #[test]
    fn who_turns_from_one_wait_to_another_has_two() {
        let mut blocked = Blocked::new(1);
        blocked.note(0, Actor::MainLoop, Some(Hold::Lock(LockId::Bql)), 0, 0);
        blocked.note(0, Actor::MainLoop, Some(Hold::Await(Await::Peer)), 0, 7);
        let times = blocked.times(|_| Actor::MainLoop, 10);
        assert_eq!(times.iter().map(|time| (time.on.as_str(), time.ns)).collect::<Vec<_>>(), [("bql", 7), ("room on the link", 3)]);
    }
}
