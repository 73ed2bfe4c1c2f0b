//! What a unit test needs to call anything that takes a [`Ctx`].

use crate::event::{Actor, Event, Stamped};
use crate::fault::{Fault, Faults};
use crate::lock::Locks;
use crate::memory::GuestRam;
use crate::step::{Costs, Ctx, Watch};
use wire::platform::PAGE_SIZE;

/// The owner of what a [`Ctx`] borrows.
pub(crate) struct Desk {
    ram: GuestRam,
    pub(crate) locks: Locks,
    faults: Faults,
    costs: Costs,
    watch: Watch,
    pub(crate) events: Vec<Stamped>,
}

impl Desk {
    pub(crate) fn new(faults: &[Fault]) -> Self {
        Self {
            ram: GuestRam::new(PAGE_SIZE),
            locks: Locks::default(),
            faults: faults.iter().copied().collect(),
            costs: Costs::default(),
            watch: Watch::default(),
            events: Vec::new(),
        }
    }

    /// Returns it with that much memory.
    pub(crate) fn with_pages(self, pages: u64) -> Self {
        Self { ram: GuestRam::new(pages * PAGE_SIZE), ..self }
    }

    pub(crate) fn ctx(&mut self) -> Ctx<'_> {
        Ctx {
            actor: Actor::Migration,
            now_ns: 0,
            ram: &self.ram,
            locks: &mut self.locks,
            faults: &self.faults,
            costs: &self.costs,
            watch: &self.watch,
            events: &mut self.events,
        }
    }

    /// Returns the events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).map(|stamped| stamped.event).collect()
    }
}
