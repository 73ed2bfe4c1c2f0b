//! The toy as a stage, in real events' clothes: what it does reads like a migration, and can be written into a scenario file.
//!
//! The fault `hint-stop-skipped` is its [`Flaw::StopSkipped`], `hint-stop-unlocked` its [`Flaw::StopUnlocked`]; it has a round less than the
//! scenario's `rounds_min`.

use std::collections::BTreeMap;

use host::event::{Actor, CmdId, Event, EventKind, HintElement, HintStatus, PageRange, Stamped};
use host::fault::Fault;

use super::Stage;
use crate::outcome::{Outcome, Verdict};
use crate::report::sample;
use crate::scenario::Scenario;
use crate::scenario::model::Pattern;
use crate::search::system::{Choice, Edge, Ending, Happening, Key, Step};
use crate::search::toy::{Flaw, Size, Toy, kind};
use crate::search::{Subject, System};
use crate::world::search::Replayed;

/// What the toy's kinds of events are called.
const CLOTHES: [EventKind; kind::ALL] = {
    let mut clothes = [EventKind::GuestKick; kind::ALL];
    clothes[kind::HINT as usize] = EventKind::GuestHint;
    clothes[kind::WRITE as usize] = EventKind::GuestWrite;
    clothes[kind::POP as usize] = EventKind::HintPop;
    clothes[kind::CHECK as usize] = EventKind::HintIgnore;
    clothes[kind::CLEAR as usize] = EventKind::HintApply;
    clothes[kind::STOP as usize] = EventKind::HintStop;
    clothes[kind::SYNC as usize] = EventKind::BitmapSync;
    clothes[kind::START as usize] = EventKind::HintStart;
    clothes[kind::SEND as usize] = EventKind::RamSend;
    clothes[kind::END as usize] = EventKind::DstStart;
    clothes
};

const ACTORS: [Actor; 3] = [Actor::Vcpu(0), Actor::Iothread, Actor::Migration];

fn place(kind: EventKind) -> u16 {
    EventKind::ALL.iter().position(|other| *other == kind).expect("every kind is listed") as u16
}

fn dress(key: Key) -> Key {
    Key { kind: place(CLOTHES[usize::from(key.kind)]), ..key }
}

fn undress(happening: Happening) -> Happening {
    let kind = EventKind::ALL[usize::from(happening.key.kind)];
    let kind = CLOTHES.iter().position(|clothes| *clothes == kind).expect("an event of the toy's") as u16;
    Happening { key: Key { kind, ..happening.key }, ..happening }
}

/// The toy, with a scenario's orders.
pub(in crate::cli) struct Dressed {
    toy: Toy,
    orders: Vec<Edge>,
    step: Step,
}

impl Dressed {
    fn new(scenario: &Scenario, noise: u8) -> Self {
        let on = |fault| scenario.faults.contains(&fault);
        let flaw = match () {
            () if on(Fault::HintStopSkipped) => Flaw::StopSkipped,
            () if on(Fault::HintStopUnlocked) => Flaw::StopUnlocked,
            () => Flaw::None,
        };
        let rounds = scenario.migration.rounds_min.saturating_sub(1).try_into().expect("few rounds");
        let mut dressed = Self { toy: Toy::new(flaw, Size { rounds, noise }), orders: orders(scenario), step: Step::default() };
        dressed.constrain(&[]);
        dressed
    }
}

/// Returns a scenario's orders on the toy's events.
fn orders(scenario: &Scenario) -> Vec<Edge> {
    let happening = |pattern: &Pattern| match pattern {
        Pattern::Event { kind, page, nth } => {
            let page = if page.is_some() { 0 } else { Key::NO_PAGE };
            undress(Happening { key: Key { kind: place(*kind), page }, nth: *nth })
        }
        Pattern::Injection(_) => panic!("the toy has no injections"),
    };
    let pairs = scenario.orders.iter().flat_map(|order| order.chain.windows(2));
    pairs.map(|pair| Edge { first: happening(&pair[0]), then: happening(&pair[1]) }).collect()
}

impl System for Dressed {
    type Saved = <Toy as System>::Saved;

    fn actors(&self) -> u16 {
        self.toy.actors()
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        self.toy.choices(into);
        into.iter_mut().for_each(|choice| choice.key = choice.key.map(dress));
    }

    fn take(&mut self, choice: Choice) {
        let key = choice.key.map(|key| undress(Happening { key, nth: 1 }).key);
        self.toy.take(Choice { key, ..choice });
        self.step.clone_from(self.toy.step());
        self.step.happened.iter_mut().for_each(|happening| happening.key = dress(happening.key));
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        self.toy.ending()
    }

    fn save(&mut self) -> Self::Saved {
        self.toy.save()
    }

    fn put_back(&mut self, saved: &Self::Saved) {
        self.toy.put_back(saved);
    }

    fn hash(&mut self) -> u128 {
        self.toy.hash()
    }

    fn constrain(&mut self, edges: &[Edge]) {
        let more = edges.iter().map(|edge| Edge { first: undress(edge.first), then: undress(edge.then) });
        let all: Vec<Edge> = self.orders.iter().copied().chain(more).collect();
        self.toy.constrain(&all);
    }
}

/// Makes toys of scenarios.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct ToyStage {
    /// Moves of the guest that concern nobody, before the hint and behind the write.
    pub(in crate::cli) noise: u8,
    /// Whether a plain run's order cannot be had where time stands still: there, the last who can moves.
    pub(in crate::cli) timed: bool,
}

impl ToyStage {
    /// Always lets the first or the last move who can: the guest comes first, then the balloon, then the migration.
    fn path(&self, scenario: &Scenario, last: bool) -> Vec<u16> {
        let (mut system, mut choices, mut path) = (self.open(scenario), Vec::new(), Vec::new());
        loop {
            system.choices(&mut choices);
            let Some(next) = (if last { choices.last() } else { choices.first() }) else { return path };
            path.push(next.id);
            system.take(*next);
        }
    }
}

impl Subject for ToyStage {
    type System = Dressed;

    fn open(&self, scenario: &Scenario) -> Dressed {
        Dressed::new(scenario, self.noise)
    }

    fn run(&self, scenario: &Scenario) -> Outcome {
        self.replay(scenario, &self.path(scenario, false))
    }

    fn recorded(&self, scenario: &Scenario) -> (Outcome, Vec<Vec<Happening>>) {
        let (mut system, mut choices) = (self.open(scenario), Vec::new());
        let path = self.path(scenario, false);
        let happened = path.iter().map(|id| {
            system.choices(&mut choices);
            system.take(*choices.iter().find(|choice| choice.id == *id).expect("the schedule fits"));
            system.step().happened.clone()
        });
        (self.replay(scenario, &path), happened.collect())
    }

    fn replay(&self, scenario: &Scenario, choices: &[u16]) -> Outcome {
        self.trace(scenario, choices).outcome
    }
}

impl Stage for ToyStage {
    fn open_uncounted(&self, scenario: &Scenario) -> Dressed {
        self.open(scenario)
    }

    fn saved_bytes(&self) -> u64 {
        64
    }

    fn actor_name(&self, _: &Scenario, actor: u16) -> String {
        ACTORS[usize::from(actor)].to_string()
    }

    fn default_path(&self, scenario: &Scenario) -> Vec<u16> {
        self.path(scenario, self.timed)
    }

    fn trace(&self, scenario: &Scenario, path: &[u16]) -> Replayed {
        let (mut system, mut choices, mut trace) = (self.open(scenario), Vec::new(), Vec::new());
        for id in path {
            system.choices(&mut choices);
            let choice = *choices.iter().find(|choice| choice.id == *id).expect("the schedule fits");
            system.take(choice);
            let event = event(system.toy.step().happened[0].key.kind);
            trace.push(Stamped { at_ns: trace.len() as u64, actor: ACTORS[usize::from(choice.actor)], event });
        }
        let steps = (0..trace.len()).map(|place| place..place + 1).collect();
        Replayed { outcome: outcome(scenario, &system.ending(), trace), steps }
    }
}

fn outcome(scenario: &Scenario, ending: &Ending, trace: Vec<Stamped>) -> Outcome {
    let like = if ending.verdict == Verdict::Pass { sample::pass() } else { sample::lost_page() };
    let mut outcome = Outcome { verdict: ending.verdict, trace, ..like };
    outcome.violations.iter_mut().for_each(|violation| {
        (violation.rule, violation.write, violation.doom) = (ending.rule.unwrap_or(violation.rule), None, None);
    });
    outcome.pages = BTreeMap::from_iter(outcome.pages.into_iter().filter(|(name, _)| name == "P"));
    if scenario.expect.verdict != ending.verdict {
        outcome.unexpected.push(format!("verdict: expected {}, got {}", scenario.expect.verdict.name(), ending.verdict.name()));
    }
    outcome
}

/// Returns an event of one of the toy's kinds.
fn event(of: u16) -> Event {
    let (pfn, range, id) = (sample::P, PageRange::new(sample::P, 1), CmdId(2));
    match of {
        kind::NOISE => Event::GuestKick { queue: 3 },
        kind::HINT => Event::GuestHint { range, number: 1 },
        kind::WRITE => Event::GuestWrite { pfn, len: 8 },
        kind::POP => Event::HintPop { head: 0, element: HintElement::Pages(range) },
        kind::CHECK => Event::HintIgnore { range, status: HintStatus::Start },
        kind::CLEAR => Event::HintApply { range, id, cleared: 1 },
        kind::STOP => Event::HintStop { from: HintStatus::Start },
        kind::SYNC => Event::BitmapSync { round: 1, before: 0, after: 1 },
        kind::START => Event::HintStart { id },
        kind::SEND => Event::RamSend { pfn, zero: false, round: 1 },
        kind::END => Event::DstStart,
        other => unreachable!("kind {other}"),
    }
}
