//! Small systems with known footprints, to test the search on: a few programs over a few shared cells.

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::outcome::Verdict;
use crate::search::system::{Choice, Edge, Ending, Footprint, Objects, Step, System};

/// Shared cells.
pub(crate) const CELLS: usize = 3;
const VALUES: u8 = 4;
/// All moves look at this, one that ends the run changes it.
const ENDED: u64 = 1 << 63;

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Nothing that anyone sees.
    Noise,
    /// Cell := value.
    Set(u8, u8),
    /// Cell += 1.
    Add(u8),
    /// Register := 5 × register + cell.
    Read(u8),
    /// Skips the next one if the cell has the value.
    SkipIf(u8, u8),
    /// Waits until the cell has the value.
    Wait(u8, u8),
    /// Ends the run if the cell has the value.
    EndIf(u8, u8),
    /// Starts over.
    Restart,
}

/// What the footprints conceal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Nothing,
    Looks,
    Changes,
}

/// Programs, one for each actor, and an injector with one-shot instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) programs: Vec<Vec<Op>>,
    pub(crate) injections: Vec<Op>,
    pub(crate) lie: Lie,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    at: Vec<u8>,
    registers: Vec<u8>,
    injected: Vec<bool>,
    cells: [u8; CELLS],
    ended: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    model: Model,
    state: State,
    step: Step,
}

impl Model {
    pub(crate) fn machine(&self) -> Machine {
        let actors = self.programs.len();
        let state = State {
            at: vec![0; actors],
            registers: vec![0; actors],
            injected: vec![false; self.injections.len()],
            cells: [0; CELLS],
            ended: false,
        };
        Machine { model: self.clone(), state, step: Step::default() }
    }

    fn can_end_early(&self) -> bool {
        self.programs.iter().flatten().any(|op| matches!(op, Op::EndIf(..)))
    }
}

impl Machine {
    fn op(&self, id: u16) -> Option<Op> {
        let id = usize::from(id);
        match self.model.programs.get(id) {
            Some(program) => program.get(usize::from(self.state.at[id])).copied(),
            None => self.model.injections.get(id - self.model.programs.len()).copied(),
        }
    }

    fn ready(&self, op: Op) -> bool {
        match op {
            Op::Wait(cell, value) => self.state.cells[usize::from(cell)] == value,
            Op::Noise | Op::Set(..) | Op::Add(_) | Op::Read(_) | Op::SkipIf(..) | Op::EndIf(..) | Op::Restart => true,
        }
    }

    /// Even cells are objects, odd ones cells: both ways to conflict are used.
    fn footprint(&self, looked: Option<u8>, changed: Option<u8>) -> Footprint {
        let looked = looked.filter(|_| self.model.lie != Lie::Looks);
        let changed = changed.filter(|_| self.model.lie != Lie::Changes);
        let bit = |cell: Option<u8>| cell.filter(|cell| cell % 2 == 0).map_or(0, |cell| 1 << cell);
        let list = |cell: Option<u8>| cell.filter(|cell| cell % 2 == 1).map(u32::from).into_iter().collect();
        let ended = if self.state.ended { ENDED } else { 0 };
        let objects = Objects { shared: ENDED | bit(looked), changed: ended | bit(changed) };
        Footprint { objects, looked: list(looked), changed: list(changed) }
    }

    /// Does an instruction; returns which cells it looked at and changed, and how far it takes the program.
    fn act(&mut self, actor: Option<usize>, op: Op) -> (Option<u8>, Option<u8>, u8) {
        let cells = &mut self.state.cells;
        match op {
            Op::Noise | Op::Restart => (None, None, 1),
            Op::Set(cell, value) => {
                cells[usize::from(cell)] = value;
                (None, Some(cell), 1)
            }
            Op::Add(cell) => {
                cells[usize::from(cell)] = (cells[usize::from(cell)] + 1) % VALUES;
                (None, Some(cell), 1)
            }
            Op::Read(cell) => {
                if let Some(actor) = actor {
                    let register = &mut self.state.registers[actor];
                    *register = register.wrapping_mul(5).wrapping_add(cells[usize::from(cell)]);
                }
                (Some(cell), None, 1)
            }
            Op::SkipIf(cell, value) => (Some(cell), None, 1 + u8::from(cells[usize::from(cell)] == value)),
            Op::Wait(cell, _) => (Some(cell), None, 1),
            Op::EndIf(cell, value) => {
                self.state.ended = cells[usize::from(cell)] == value;
                (Some(cell), None, 1)
            }
        }
    }
}

impl System for Machine {
    type Saved = State;

    fn actors(&self) -> u16 {
        self.model.programs.len() as u16 + 1
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        into.clear();
        if self.state.ended {
            return;
        }
        let programs = self.model.programs.len();
        for id in 0..programs + self.model.injections.len() {
            let waits = id < programs || !self.state.injected[id - programs];
            let actor = id.min(programs) as u16;
            let id = id as u16;
            if waits && self.op(id).is_some_and(|op| self.ready(op)) {
                into.push(Choice { id, actor, key: None, objects: Objects::default() });
            }
        }
    }

    fn is_local(&self, choice: &Choice) -> bool {
        !self.model.can_end_early() && choice.actor + 1 < self.actors() && self.op(choice.id) == Some(Op::Noise)
    }

    fn take(&mut self, choice: Choice) {
        let op = self.op(choice.id).expect("it was offered");
        let id = usize::from(choice.id);
        let program = (id < self.model.programs.len()).then_some(id);
        let (looked, changed, further) = self.act(program, op);
        match program {
            Some(program) if op == Op::Restart => self.state.at[program] = 0,
            Some(program) => self.state.at[program] += further,
            None => self.state.injected[id - self.model.programs.len()] = true,
        }
        self.step.footprint = self.footprint(looked, changed);
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        let State { at, cells, ended, .. } = &self.state;
        let done = at.iter().zip(&self.model.programs).all(|(at, program)| usize::from(*at) >= program.len());
        let (verdict, rule) = match (ended, done) {
            (true, _) => (Verdict::GuestCrash, None),
            (false, true) if cells[0] == 2 => (Verdict::LostPage, Some(["a", "b", "c", "d"][usize::from(cells[1])])),
            (false, true) => (Verdict::Pass, None),
            (false, false) if cells[1] == 1 => (Verdict::Deadlock, None),
            (false, false) => (Verdict::Unreachable, None),
        };
        Ending { verdict, rule, blame: None, cause: None }
    }

    fn save(&mut self) -> State {
        self.state.clone()
    }

    fn put_back(&mut self, saved: &State) {
        self.state = saved.clone();
    }

    fn hash(&mut self) -> u128 {
        let State { at, registers, injected, cells, ended } = &self.state;
        let parts =
            [at, registers, cells.as_slice(), &injected.iter().map(|&done| done.into()).collect::<Vec<u8>>(), &[u8::from(*ended)]].concat();
        parts.iter().enumerate().fold(0, |sum: u128, (index, &part)| sum.wrapping_add(xxh3_128(&[index as u8, part])))
    }

    fn constrain(&mut self, edges: &[Edge]) {
        assert!(edges.is_empty(), "nothing happens here that has a name");
    }
}

fn op() -> impl Strategy<Value = Op> {
    let cell = 0..CELLS as u8;
    prop_oneof![
        2 => Just(Op::Noise),
        3 => (cell.clone(), 0..VALUES).prop_map(|(cell, value)| Op::Set(cell, value)),
        3 => cell.clone().prop_map(Op::Add),
        3 => cell.clone().prop_map(Op::Read),
        1 => (cell.clone(), 0..2u8).prop_map(|(cell, value)| Op::SkipIf(cell, value)),
        1 => (cell.clone(), 0..2u8).prop_map(|(cell, value)| Op::Wait(cell, value)),
        1 => (cell, 0..VALUES).prop_map(|(cell, value)| Op::EndIf(cell, value)),
    ]
}

/// Random models whose footprints are right.
pub(crate) fn model() -> impl Strategy<Value = Model> {
    let programs = prop::collection::vec(prop::collection::vec(op(), 0..=3), 2..=3);
    let injection = prop_oneof![Just(Op::Set(0, 2)), Just(Op::Add(1)), Just(Op::Noise)];
    (programs, prop::collection::vec(injection, 0..=2)).prop_map(|(programs, injections)| Model { programs, injections, lie: Lie::Nothing })
}
