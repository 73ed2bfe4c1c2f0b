//! Host locks as objects: who holds what, so that a cycle of waits is found and named.

use crate::event::{Actor, LockId};
use crate::step::Next;

/// Holders of all host locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    holders: [Option<Actor>; LockId::ALL.len()],
    /// Those that [`LockId::is_fine`] are taken, too.
    fine: bool,
}

impl Locks {
    fn index(lock: LockId) -> usize {
        match lock {
            LockId::Bql => 0,
            LockId::FreePage => 1,
            LockId::Bitmap => 2,
            LockId::Slots => 3,
            LockId::PageRequests => 4,
            LockId::RamList => 5,
            LockId::QemuFile => 6,
            LockId::Rcu => 7,
        }
    }

    /// Returns locks that nobody holds. `fine`: those that [`LockId::is_fine`] are taken, too.
    pub fn new(fine: bool) -> Self {
        Self { fine, ..Self::default() }
    }

    /// Returns whether the lock is taken at all where the real code takes it.
    pub fn knows(&self, lock: LockId) -> bool {
        self.fine || !lock.is_fine()
    }

    /// Returns that an actor has to take a lock first; `None` if it holds it, or nobody takes it.
    pub fn needed(&self, lock: LockId, actor: Actor) -> Option<Next> {
        (self.knows(lock) && self.holder(lock) != Some(actor)).then_some(Next::Lock(lock))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_needed_by_who_has_it_not_where_it_is_taken_at_all() {
        assert_eq!(Locks::default().needed(LockId::Slots, Actor::Migration), None);
        assert_eq!(Locks::default().needed(LockId::Bql, Actor::Migration), Some(Next::Lock(LockId::Bql)));
        let mut locks = Locks::new(true);
        assert_eq!(locks.needed(LockId::Slots, Actor::Migration), Some(Next::Lock(LockId::Slots)));
        locks.take(LockId::Slots, Actor::Migration);
        assert_eq!(locks.needed(LockId::Slots, Actor::Migration), None);
        assert_eq!(locks.needed(LockId::Slots, Actor::Iothread), Some(Next::Lock(LockId::Slots)));
    }
}
