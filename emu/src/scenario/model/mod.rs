//! A scenario as plain data: what [`super::parse`] makes of a file, and all that a world needs to be built.
//!
//! Everything is resolved that can be without running: units are numbers, names are indices, defaults are filled in by profile. Page names
//! stay symbolic ([`PageSpec`]), since "first page of hint 1" is known only once the guest has hinted.

mod expect;
mod guest;
mod host;
mod inject;
mod migration;

use std::collections::{BTreeMap, BTreeSet};

use ::host::event::EventKind;
use ::host::fault::Fault;
use ::host::step::Costs;

pub use self::expect::{BlockedExpect, CountExpect, Expect, Limits, SentExpect, SpunExpect};
pub use self::guest::{Driver, Guest, Manners, Numbering, Operation, Task};
pub use self::host::{Devices, DirtyLog, Host, Profile, RamBlock, Tracking, VirtioMem, Walk};
pub use self::inject::{Action, Command, How, Injection, Order, PageOf, PageSpec, Pattern, Target, Trigger};
pub use self::migration::Migration;
pub use super::search::{Found, Grain, Search, Vary};

/// A page's name in the file, such as `P`.
pub type PageName = String;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// Faults that must change the verdict when switched on.
    pub witness: Vec<Fault>,
    /// Faults that are on in this scenario (those under `scenarios/fail`).
    pub faults: Vec<Fault>,
    /// The guest.
    pub guest: Guest,
    /// The host.
    pub host: Host,
    /// The migration.
    pub migration: Migration,
    /// Named pages, in order of their names.
    pub pages: BTreeMap<PageName, PageSpec>,
    /// Injections, in the file's order.
    pub injections: Vec<Injection>,
    /// What a search may do, at a moment of its choosing or not at all, in the file's order. A run leaves it out; orders cannot name it.
    /// `trigger` and `before` bind it if it happens.
    pub may: Vec<Injection>,
    /// Order chains, in the file's order.
    pub orders: Vec<Order>,
    /// Where a search is free.
    pub search: Search,
    /// Settings that a search may change.
    pub vary: Vary,
    /// What must come out.
    pub expect: Expect,
    /// Costs of moves.
    pub costs: Costs,
    /// Limits after which the run is given up.
    pub limits: Limits,
    /// Where it came from, if a search wrote it.
    pub found: Option<Found>,
}

impl Scenario {
    /// Returns the names of all allocations that tasks and injections make, and that a search may make, in order: a name's index in
    /// [`wire::task::TaskOp`] is its rank.
    pub fn allocation_names(&self) -> Vec<&str> {
        let tasks = self.guest.tasks.iter().flat_map(|task| &task.operations);
        let injected = self.injections.iter().chain(&self.may).filter_map(|injection| match &injection.action {
            Action::Task(operation) => Some(operation),
            Action::Write { .. }
            | Action::Monitor(_)
            | Action::ClearLog { .. }
            | Action::RepeatId
            | Action::VhostQueue { .. }
            | Action::Iommu { .. } => None,
        });
        let names: BTreeSet<&str> = tasks.chain(injected).filter_map(Operation::allocated_name).collect();
        assert!(names.len() <= wire::task::NAMES, "{} names, the guest's table holds {}", names.len(), wire::task::NAMES);
        names.into_iter().collect()
    }
}

impl Scenario {
    /// Returns the kinds of all events that the scenario speaks of.
    pub fn event_kinds(&self) -> BTreeSet<EventKind> {
        let injected =
            self.injections.iter().chain(&self.may).flat_map(|injection| injection.trigger.after.iter().chain(&injection.before));
        let ordered = self.orders.iter().flat_map(|order| &order.chain);
        let started = self.migration.start.iter().flat_map(|start| &start.after);
        let window = self.search.from.iter().chain(&self.search.until);
        let named = injected.chain(ordered).chain(started).chain(window).filter_map(|pattern| match pattern {
            Pattern::Event { kind, .. } => Some(*kind),
            Pattern::Injection(_) => None,
        });
        let counted = EventKind::ALL.iter().copied().filter(|kind| self.expect.events.contains_key(kind.name()));
        let ids = self.expect.cmd_ids.as_ref().map(|_| EventKind::GuestCmdId);
        named.chain(counted).chain(ids).collect()
    }
}
