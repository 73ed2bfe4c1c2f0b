//! Host locks as objects: who holds what, so that a cycle of waits is found and named.

use crate::event::{Actor, LockId};

/// Holders of all host locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    holders: [Option<Actor>; LockId::ALL.len()],
}

impl Locks {
    fn index(lock: LockId) -> usize {
        match lock {
            LockId::Bql => 0,
            LockId::FreePage => 1,
            LockId::Bitmap => 2,
            LockId::Slots => 3,
        }
    }

    /// Returns who holds the lock.
    pub fn holder(&self, lock: LockId) -> Option<Actor> {
        self.holders[Self::index(lock)]
    }

    /// Returns the locks that an actor holds, outermost first.
    pub fn held_by(&self, actor: Actor) -> impl Iterator<Item = LockId> {
        LockId::ALL.into_iter().filter(move |lock| self.holder(*lock) == Some(actor))
    }

    /// Takes a lock.
    ///
    /// # Panics
    /// When it is held, by anyone: none of these locks is recursive.
    pub fn take(&mut self, lock: LockId, actor: Actor) {
        let slot = &mut self.holders[Self::index(lock)];
        assert!(slot.is_none(), "{} wants {} held by {}", actor, lock.name(), slot.expect("checked"));
        *slot = Some(actor);
    }

    /// Releases a lock.
    ///
    /// # Panics
    /// When the actor does not hold it.
    pub fn release(&mut self, lock: LockId, actor: Actor) {
        let slot = &mut self.holders[Self::index(lock)];
        assert_eq!(*slot, Some(actor), "{} releases {}", actor, lock.name());
        *slot = None;
    }
}
