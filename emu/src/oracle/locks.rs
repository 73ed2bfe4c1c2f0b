//! Whether everybody takes the host's locks in one order.

use host::event::{Actor, Event, LockId, Stamped};

use super::{Oracle, rules};
use crate::outcome::{Blame, Verdict, Violation};

/// Who holds what, by events.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    /// In the order of taking.
    locks: Vec<(Actor, LockId)>,
}

impl Held {
    /// A lock is taken: returns one that the actor holds already, and that nests in it.
    fn take(&mut self, actor: Actor, lock: LockId) -> Option<LockId> {
        let inner = self.locks.iter().find(|(holder, held)| *holder == actor && place(*held) > place(lock)).map(|(_, held)| *held);
        self.locks.push((actor, lock));
        inner
    }

    fn release(&mut self, actor: Actor, lock: LockId) {
        self.locks.retain(|held| *held != (actor, lock));
    }
}

fn place(lock: LockId) -> usize {
    LockId::ALL.iter().position(|other| *other == lock).expect("ALL holds all")
}

impl Oracle {
    /// Looks at an event with the rule of this file. What it remembers follows from who holds which lock.
    pub(super) fn look_at_locks(&mut self, index: usize, stamped: &Stamped) {
        match stamped.event {
            Event::LockTake { lock } => {
                let Some(inner) = self.held.take(stamped.actor, lock) else { return };
                let rule = rules::LOCKS_HAVE_AN_ORDER;
                let what = || {
                    let (who, outer, inner) = (stamped.actor, lock.name(), inner.name());
                    format!("{who} holds {inner} and takes {outer}; whoever takes them the other way round may wait for it while it waits")
                };
                self.violations.add(rule, || Violation {
                    rule,
                    verdict: Verdict::Deadlock,
                    page: None,
                    write: None,
                    doom: Some(index),
                    blame: Blame::Host,
                    cause: None,
                    what: what(),
                });
            }
            Event::LockRelease { lock } => self.held.release(stamped.actor, lock),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_inside_of_those_that_it_nests_in_alone() {
        let mut held = Held::default();
        assert_eq!(held.take(Actor::MainLoop, LockId::Bql), None);
        assert_eq!(held.take(Actor::Iothread, LockId::FreePage), None);
        assert_eq!(held.take(Actor::MainLoop, LockId::FreePage), None);
        held.release(Actor::Iothread, LockId::FreePage);
        assert_eq!(held.take(Actor::MainLoop, LockId::Rcu), Some(LockId::Bql));
        held.release(Actor::MainLoop, LockId::Bql);
        held.release(Actor::MainLoop, LockId::Rcu);
        assert_eq!(held.take(Actor::MainLoop, LockId::Bql), Some(LockId::FreePage));
    }
}
