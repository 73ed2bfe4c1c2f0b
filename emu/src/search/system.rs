//! What a search works on: a system in which somebody chooses who moves.
//!
//! A [`System`] is deterministic: its state and a [`Choice`] make the next state. It can be put back to a saved state, and told apart from others by
//! a hash. The world is one (`crate::world::search`); the searches are tested on a small model of the protocol beside it.

use host::fault::{Fault, FaultSet};

use crate::outcome::{Blame, Verdict};

/// What happened, or is about to: as fine as an order constraint in a scenario file can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index of the event's kind; [`Key::INJECTION`] for an injection of the scenario.
    pub kind: u16,
    /// Index of the named page that it is about, of the injection, or [`Key::NO_PAGE`].
    pub page: u16,
}

impl Key {
    /// Stands for "about no named page".
    pub const NO_PAGE: u16 = u16::MAX;
    /// Stands for "an injection"; `page` is its index.
    pub const INJECTION: u16 = u16::MAX;
}

/// One occurrence of a key: what a constraint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Happening {
    /// What.
    pub key: Key,
    /// Which of them since the run's start, from 1. A run counts a key once for each event that it fits.
    pub nth: u32,
}

/// "`first` before `then`": `then`'s move cannot be chosen until `first` has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// What comes first.
    pub first: Happening,
    /// What has to wait.
    pub then: Happening,
}

/// Objects that a move uses, by class: a bit each. Two moves of different actors conflict when one changes what the other uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Objects {
    /// Looked at, or changed in a way that commutes with the same by others.
    pub shared: u64,
    /// Changed.
    pub changed: u64,
}

impl Objects {
    /// Returns whether two moves may not be swapped.
    pub fn conflict(&self, other: &Objects) -> bool {
        self.changed & (other.shared | other.changed) != 0 || other.changed & self.shared != 0
    }
}

/// Exactly what a move that was made used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Objects, by class.
    pub objects: Objects,
    /// Cells of finer-grained objects (pages of guest memory) that were looked at; sorted.
    pub looked: Vec<u32>,
    /// Cells that were changed; sorted.
    pub changed: Vec<u32>,
}

impl Footprint {
    /// Returns whether two moves that were made from the same state may not be swapped.
    pub fn conflict(&self, other: &Footprint) -> bool {
        self.objects.conflict(&other.objects)
            || meet(&self.changed, &other.changed)
            || meet(&self.changed, &other.looked)
            || meet(&self.looked, &other.changed)
    }
}

/// Returns whether two sorted lists have an element in common.
fn meet(a: &[u32], b: &[u32]) -> bool {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => a.next(),
            std::cmp::Ordering::Greater => b.next(),
            std::cmp::Ordering::Equal => return true,
        };
    }
    false
}

/// A move that can be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Who or what: unique among the moves that can be made, and the same move has the same id as long as it waits. Actors by their index;
    /// the scenario's injections behind them.
    pub id: u16,
    /// Who moves, by index: an actor has one move at a time, the injector several.
    pub actor: u16,
    /// What the move announces, if it does: its first event.
    pub key: Option<Key>,
    /// What the move will use at least, by class.
    pub objects: Objects,
}

/// What the last move did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// Its events in order, each under every key that fits it.
    pub happened: Vec<Happening>,
    /// What it used.
    pub footprint: Footprint,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ending {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that was broken, if one was.
    pub rule: Option<&'static str>,
    /// Whose fault that is.
    pub blame: Option<Blame>,
    /// How it came about, in words that are the same for the same defect: what findings are told apart by, beside verdict, rule and blame.
    pub cause: Option<&'static str>,
}

impl Ending {
    /// Returns whether the run shows a defect. An order that cannot be kept, or a schedule so unfair that nothing ends, does not.
    pub fn is_failure(&self) -> bool {
        match self.verdict {
            Verdict::HostCrash
            | Verdict::GuestCrash
            | Verdict::LostPage
            | Verdict::BrokenRule
            | Verdict::Leak
            | Verdict::OverSend
            | Verdict::Deadlock => true,
            Verdict::Unreachable | Verdict::Stall | Verdict::Pass => false,
        }
    }
}

/// A system that is searched.
pub trait System {
    /// A state to come back to: cheap to clone, and good for any system that was made from the same scenario, on any thread.
    type Saved: Clone + Send + Sync;

    /// Returns the number of actors: all [`Choice::actor`] are below.
    fn actors(&self) -> u16;

    /// Puts the moves that can be made into `into`, in a fixed order. None: the run has ended.
    fn choices(&mut self, into: &mut Vec<Choice>);

    /// Returns whether a choice that is offered now commutes with every move that the others can make before it is made, however many. An exhaustive
    /// search may then let it be made first, and look at no other order. Never, unless the system knows better.
    fn is_local(&self, _choice: &Choice) -> bool {
        false
    }

    /// Makes a move that [`System::choices`] has just offered.
    fn take(&mut self, choice: Choice);

    /// Returns what the last move did.
    fn step(&self) -> &Step;

    /// Returns how the run ended; asked when no choice is left.
    fn ending(&mut self) -> Ending;

    /// Returns the state.
    fn save(&mut self) -> Self::Saved;

    /// Goes back, or anywhere else.
    fn put_back(&mut self, saved: &Self::Saved);

    /// Returns a hash of all that the future depends on. It is a sum over the state's parts, modulo 2^128: when two moves that can be swapped
    /// lead from `s` to `a` and `b`, both orders lead to `hash(a) + hash(b) - hash(s)`.
    fn hash(&mut self) -> u128;

    /// Returns the faults that were asked for so far, in whichever state; all, unless the system knows better. With another fault on, every schedule up
    /// to now would have been the same.
    fn asked(&self) -> FaultSet {
        Fault::ALL.iter().copied().collect()
    }

    /// Lays down constraints in addition to the scenario's own, in place of those laid down before. Asked in the state that the system was made in.
    fn constrain(&mut self, edges: &[Edge]);
}
