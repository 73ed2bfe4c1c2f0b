//! A small model of the race that is searched: a guest that hints a page and writes it again, a balloon that pops, checks and clears, a migration that
//! stops, syncs, starts and sends in rounds. It costs next to nothing, so a search of it shows what searching costs. It is a [`System`] for our searches,
//! and [`super::threads`] makes the same moves on three threads.
//!
//! Nobody ever waits: what cannot be done yet is done without effect. So each schedule has the same number of moves, [`Size::moves`], and each of them
//! is a scheduling point. Moves have the names of a scenario's events, so a finding becomes a scenario file.

use emu::outcome::{Blame, Verdict};
use emu::search::System;
use emu::search::system::{Choice, Edge, Ending, Footprint, Happening, Key, Objects, Step};
use host::event::EventKind;

/// Who moves.
pub(crate) const GUEST: u16 = 0;
pub(crate) const BALLOON: u16 = 1;
pub(crate) const MIGRATION: u16 = 2;

/// A scenario of one page: what the keys of the model name.
pub(crate) const SCENARIO: &str = "about = \"a model of the race\"\n[pages]\nP = \"first page of hint 1\"\n";
/// The rank of that page.
const P: u16 = 0;

/// How many moves there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Hints: each is four moves of the guest, three of the balloon.
    pub(crate) hints: u16,
    /// Rounds of four moves of the migration, before its last three.
    pub(crate) rounds: u16,
}

impl Size {
    /// Returns the model of so many moves, a bit more than half of them for the hints; 22 at least, since not all lower numbers can be made.
    pub(crate) fn of_moves(moves: u16) -> Self {
        assert!(moves >= 22, "{moves} moves are too few");
        let fits = |hints: &u16| (moves - 3 - 7 * hints).is_multiple_of(4);
        let hints = (1..=(moves - 3) * 11 / 20 / 7 + 1).rev().find(fits).expect("one of four numbers of hints fits");
        let size = Self { hints, rounds: (moves - 3 - 7 * hints) / 4 };
        assert_eq!(size.moves(), moves);
        size
    }

    /// Returns the length of every schedule.
    pub(crate) fn moves(self) -> u16 {
        [GUEST, BALLOON, MIGRATION].map(|actor| self.moves_of(actor)).iter().sum()
    }

    /// Returns the moves of an actor.
    pub(crate) fn moves_of(self, actor: u16) -> u16 {
        match actor {
            GUEST => 4 * self.hints,
            BALLOON => 3 * self.hints,
            MIGRATION => 4 * self.rounds + 3,
            other => unreachable!("actor {other}"),
        }
    }
}

/// Objects that moves use.
mod object {
    pub(super) const PAUSED: u64 = 1 << 0;
    pub(super) const QUEUE: u64 = 1 << 1;
    pub(super) const STATUS: u64 = 1 << 2;
    pub(super) const CHECKED: u64 = 1 << 3;
    pub(super) const K: u64 = 1 << 4;
    pub(super) const B: u64 = 1 << 5;
    pub(super) const PAGE: u64 = 1 << 6;
}

/// What the state has: moves made by each actor, then flags and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The guest has stopped for good.
    Paused = 3,
    /// A hint is in the queue.
    Queued,
    /// The balloon has it in hand.
    Popped,
    /// The round in which it was given.
    HintRound,
    Round,
    Started,
    /// The balloon has found the hint to be of this round.
    Checked,
    /// The page's bits in the accelerator's and the migration's bitmap.
    K,
    B,
    /// The destination lacks the page's last write.
    Stale,
}

const FIELDS: usize = Field::Stale as usize + 1;

/// A random number for each field: the hash is their sum, each times the field's value.
const WEIGHTS: [u128; FIELDS] = {
    let mut weights = [0; FIELDS];
    let mut state = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
    let mut field = 0;
    while field < FIELDS {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f);
        weights[field] = state ^ state >> 67;
        field += 1;
    }
    weights
};

/// The state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State([u16; FIELDS]);

impl State {
    pub(crate) fn new() -> Self {
        let mut state = Self([0; FIELDS]);
        state.set(Field::B, 1);
        state.set(Field::Started, 1);
        state
    }

    fn get(&self, field: Field) -> u16 {
        self.0[field as usize]
    }

    fn is(&self, field: Field) -> bool {
        self.get(field) != 0
    }

    fn set(&mut self, field: Field, value: u16) {
        self.0[field as usize] = value;
    }

    /// Returns what an actor does next.
    pub(crate) fn next(&self, size: Size, actor: u16) -> Option<EventKind> {
        let made = self.0[usize::from(actor)];
        let left = size.moves_of(actor) - made;
        match actor {
            _ if left == 0 => None,
            GUEST => Some([EventKind::GuestTask, EventKind::GuestHint, EventKind::GuestTask, EventKind::GuestWrite][usize::from(made % 4)]),
            BALLOON => Some([EventKind::HintPop, EventKind::LockTake, EventKind::HintApply][usize::from(made % 3)]),
            MIGRATION if left <= 3 => Some([EventKind::RamSend, EventKind::BitmapSync, EventKind::VmStop][usize::from(left - 1)]),
            MIGRATION => {
                Some([EventKind::HintStop, EventKind::BitmapSync, EventKind::HintStart, EventKind::RamSend][usize::from(made % 4)])
            }
            other => unreachable!("actor {other}"),
        }
    }

    /// Makes an actor's next move. `flawed`: the end of a round does not wait for what the balloon has in hand.
    pub(crate) fn act(&mut self, actor: u16, kind: EventKind, flawed: bool) {
        use Field::{B, Checked, HintRound, K, Paused, Popped, Queued, Round, Stale, Started};
        self.0[usize::from(actor)] += 1;
        match kind {
            EventKind::GuestHint if !self.is(Paused) => {
                self.set(Queued, 1);
                self.set(HintRound, self.get(Round));
                self.set(Stale, 0);
            }
            EventKind::GuestWrite if !self.is(Paused) => {
                self.set(K, 1);
                self.set(Stale, 1);
            }
            EventKind::HintPop => {
                self.set(Popped, self.get(Queued));
                self.set(Queued, 0);
            }
            EventKind::LockTake => {
                let counts = self.is(Popped) && self.is(Started) && self.get(HintRound) == self.get(Round);
                self.set(Checked, u16::from(counts));
            }
            EventKind::HintApply if self.is(Checked) => {
                self.set(B, 0);
                self.set(Checked, 0);
            }
            EventKind::HintStop | EventKind::VmStop => {
                self.set(Started, 0);
                if !flawed {
                    self.set(Checked, 0);
                }
                if kind == EventKind::VmStop {
                    self.set(Paused, 1);
                }
            }
            EventKind::BitmapSync => {
                self.set(B, self.get(B) | self.get(K));
                self.set(K, 0);
            }
            EventKind::HintStart => {
                self.set(Started, 1);
                self.set(Round, self.get(Round) + 1);
            }
            EventKind::RamSend if self.is(B) => {
                self.set(Stale, 0);
                self.set(B, 0);
            }
            _ => {}
        }
    }

    /// Returns whether the page was lost; asked when all moves are made.
    pub(crate) fn is_lost(&self) -> bool {
        self.is(Field::Stale)
    }
}

fn objects(kind: EventKind) -> Objects {
    use object::{B, CHECKED, K, PAGE, PAUSED, QUEUE, STATUS};
    let (shared, changed) = match kind {
        EventKind::GuestTask => (0, 0),
        EventKind::GuestHint => (PAUSED | STATUS, QUEUE | PAGE),
        EventKind::GuestWrite => (PAUSED, K | PAGE),
        EventKind::HintPop => (0, QUEUE),
        EventKind::LockTake => (STATUS | QUEUE, CHECKED),
        EventKind::HintApply => (0, CHECKED | B),
        EventKind::HintStop => (0, STATUS | CHECKED),
        EventKind::VmStop => (0, STATUS | CHECKED | PAUSED),
        EventKind::BitmapSync => (0, K | B),
        EventKind::HintStart => (0, STATUS),
        EventKind::RamSend => (0, B | PAGE),
        other => unreachable!("{other:?} is no move"),
    };
    Objects { shared, changed }
}

fn key(kind: EventKind) -> Key {
    let page = match kind {
        EventKind::GuestHint | EventKind::GuestWrite | EventKind::HintPop | EventKind::HintApply | EventKind::RamSend => P,
        _ => Key::NO_PAGE,
    };
    Key { kind: kind as u16, page }
}

/// The model.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    size: Size,
    flawed: bool,
    edges: Vec<Edge>,
    state: State,
    step: Step,
}

impl Model {
    pub(crate) fn new(size: Size, flawed: bool) -> Self {
        Self { size, flawed, edges: Vec::new(), state: State::new(), step: Step::default() }
    }

    /// Returns how often a move of this name was made.
    fn count(&self, wanted: EventKind) -> u32 {
        let made = |actor: u16, each: u16, place: u16| u32::from((self.state.0[usize::from(actor)] + each - 1 - place) / each);
        let migration = self.state.0[usize::from(MIGRATION)];
        let last = 4 * self.size.rounds;
        let in_rounds = |place: u16| u32::from((migration.min(last) + 3 - place) / 4);
        match wanted {
            EventKind::GuestTask => made(GUEST, 2, 0),
            EventKind::GuestHint => made(GUEST, 4, 1),
            EventKind::GuestWrite => made(GUEST, 4, 3),
            EventKind::HintPop => made(BALLOON, 3, 0),
            EventKind::LockTake => made(BALLOON, 3, 1),
            EventKind::HintApply => made(BALLOON, 3, 2),
            EventKind::HintStop => in_rounds(0),
            EventKind::BitmapSync => in_rounds(1) + u32::from(migration > last + 1),
            EventKind::HintStart => in_rounds(2),
            EventKind::RamSend => in_rounds(3) + u32::from(migration > last + 2),
            EventKind::VmStop => u32::from(migration > last),
            other => unreachable!("{other:?} is no move"),
        }
    }

    fn happened(&self, happening: Happening) -> bool {
        self.count(EventKind::ALL[usize::from(happening.key.kind)]) >= happening.nth
    }

    fn held_back(&self, kind: EventKind) -> bool {
        if self.edges.is_empty() {
            return false;
        }
        let next = Happening { key: key(kind), nth: self.count(kind) + 1 };
        self.edges.iter().any(|edge| edge.then == next && !self.happened(edge.first))
    }

    fn is_over(&self) -> bool {
        [GUEST, BALLOON, MIGRATION].iter().all(|actor| self.state.next(self.size, *actor).is_none())
    }
}

impl System for Model {
    type Saved = State;

    fn actors(&self) -> u16 {
        3
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        into.clear();
        for actor in [GUEST, BALLOON, MIGRATION] {
            if let Some(kind) = self.state.next(self.size, actor).filter(|kind| !self.held_back(*kind)) {
                into.push(Choice { id: actor, actor, key: Some(key(kind)), objects: objects(kind) });
            }
        }
    }

    fn is_local(&self, choice: &Choice) -> bool {
        choice.key == Some(key(EventKind::GuestTask))
    }

    fn take(&mut self, choice: Choice) {
        let kind = self.state.next(self.size, choice.actor).expect("the move was offered");
        self.state.act(choice.actor, kind, self.flawed);
        let nth = self.count(kind);
        self.step.happened.clear();
        self.step.happened.push(Happening { key: key(kind), nth });
        self.step.footprint = Footprint { objects: objects(kind), ..Footprint::default() };
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        let verdict = match (self.is_over(), self.state.is_lost()) {
            (false, _) => Verdict::Unreachable,
            (true, false) => Verdict::Pass,
            (true, true) => Verdict::LostPage,
        };
        let lost = verdict == Verdict::LostPage;
        Ending { verdict, rule: None, blame: lost.then_some(Blame::Host), cause: None }
    }

    fn save(&mut self) -> State {
        self.state
    }

    fn put_back(&mut self, saved: &State) {
        self.state = *saved;
    }

    fn hash(&mut self) -> u128 {
        self.state.0.iter().zip(WEIGHTS).fold(0, |sum, (value, weight)| sum.wrapping_add(weight.wrapping_mul(u128::from(*value))))
    }

    fn constrain(&mut self, edges: &[Edge]) {
        self.edges = edges.to_vec();
    }
}
