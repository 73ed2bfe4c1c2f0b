//! The toy as what scenarios are about: faults are its flaws, rounds its rounds, and orders hold its moves back.

use std::collections::BTreeMap;

use host::event::{Actor, CmdId, Event, EventKind, HintElement, HintStatus, PageRange, Pfn, Stamped};
use host::fault::Fault;

use crate::outcome::{Outcome, Verdict, Violation};
use crate::report::sample;
use crate::scenario::Scenario;
use crate::scenario::model::Pattern;
use crate::search::subject::Subject;
use crate::search::system::{Choice, Edge, Ending, Happening, Key, Step, System};
use crate::search::toy::{Flaw, Size, State, Toy, kind};
use crate::search::walk;

/// The only page.
const P: Pfn = Pfn(0x207);

/// What the toy's events are called in scenarios.
fn name(of: u16) -> EventKind {
    match of {
        kind::NOISE => EventKind::GuestKick,
        kind::HINT => EventKind::GuestHint,
        kind::WRITE => EventKind::GuestWrite,
        kind::POP => EventKind::HintPop,
        kind::CHECK => EventKind::RamRead,
        kind::CLEAR => EventKind::HintApply,
        kind::STOP => EventKind::HintStop,
        kind::SYNC => EventKind::BitmapSync,
        kind::START => EventKind::HintStart,
        kind::SEND => EventKind::RamSend,
        kind::END => EventKind::DstStart,
        other => unreachable!("kind {other}"),
    }
}

fn index(of: EventKind) -> u16 {
    EventKind::ALL.iter().position(|kind| *kind == of).expect("a kind") as u16
}

fn named(key: Key) -> Key {
    Key { kind: index(name(key.kind)), ..key }
}

fn unnamed(key: Key) -> Key {
    Key { kind: (0..kind::ALL as u16).find(|of| index(name(*of)) == key.kind).expect("an event of the toy"), ..key }
}

/// The toy in the words of scenarios. `about` says what is special: `still` has no choice, `over` has nothing to choose from.
pub(super) struct ToyWorld {
    toy: Toy,
    own: Vec<Edge>,
    about: String,
    step: Step,
}

impl System for ToyWorld {
    type Saved = State;

    fn actors(&self) -> u16 {
        self.toy.actors()
    }

    fn choices(&mut self, into: &mut Vec<Choice>) {
        self.toy.choices(into);
        match self.about.as_str() {
            "still" => into.truncate(1),
            "over" => into.clear(),
            "panic" => panic!("the sky fell"),
            _ => {}
        }
        into.iter_mut().for_each(|choice| choice.key = choice.key.map(named));
    }

    fn take(&mut self, choice: Choice) {
        self.toy.take(Choice { key: choice.key.map(unnamed), ..choice });
        self.step = self.toy.step().clone();
        // As in the world, what is about a page counts without it, too.
        let plain = |happening: &Happening| Happening { key: Key { page: Key::NO_PAGE, ..named(happening.key) }, ..*happening };
        let full = |happening: &Happening| Happening { key: named(happening.key), ..*happening };
        let happened: Vec<Happening> = self.toy.step().happened.iter().flat_map(|happening| [full(happening), plain(happening)]).collect();
        self.step.happened = happened;
        self.step.happened.dedup();
    }

    fn step(&self) -> &Step {
        &self.step
    }

    fn ending(&mut self) -> Ending {
        self.toy.ending()
    }

    fn save(&mut self) -> State {
        self.toy.save()
    }

    fn put_back(&mut self, saved: &State) {
        self.toy.put_back(saved);
    }

    fn hash(&mut self) -> u128 {
        self.toy.hash()
    }

    fn constrain(&mut self, edges: &[Edge]) {
        // The toy knows each event by one key.
        let page = |happening: Happening| {
            let key = unnamed(happening.key);
            let page = if matches!(key.kind, kind::NOISE | kind::STOP | kind::SYNC | kind::START | kind::END) { Key::NO_PAGE } else { 0 };
            Happening { key: Key { page, ..key }, ..happening }
        };
        let edges = edges.iter().map(|edge| Edge { first: page(edge.first), then: page(edge.then) });
        self.toy.constrain(&self.own.iter().copied().chain(edges).collect::<Vec<_>>());
    }
}

/// Toys as scenarios say.
pub(super) struct Toys;

impl Toys {
    /// The scenario's orders, in the toy's words.
    fn orders(scenario: &Scenario) -> Vec<Edge> {
        let happening = |pattern: &Pattern| match pattern {
            Pattern::Event { kind, page, nth } => {
                let page = page.as_ref().map_or(Key::NO_PAGE, |_| 0);
                Happening { key: unnamed(Key { kind: index(*kind), page }), nth: *nth }
            }
            Pattern::Injection(index) => unreachable!("inject[{index}] in a toy"),
        };
        let pairs = scenario.orders.iter().flat_map(|order| order.chain.windows(2));
        pairs.map(|pair| Edge { first: happening(&pair[0]), then: happening(&pair[1]) }).collect()
    }

    fn outcome(scenario: &Scenario, mut world: ToyWorld, choices: &[u16]) -> (Outcome, Vec<Vec<Happening>>) {
        let mut watch = Watch::default();
        let root = world.save();
        walk::replay(&mut world, &root, choices, &mut watch).expect("a schedule of this toy");
        let mut offered = Vec::new();
        loop {
            world.choices(&mut offered);
            let Some(choice) = offered.first().copied() else { break };
            world.take(choice);
            walk::Observer::moved(&mut watch, &choice, world.step());
        }
        let Ending { verdict, rule, blame, cause } = world.ending();
        let mut outcome = sample::pass();
        outcome.verdict = verdict;
        outcome.pages = BTreeMap::from([("P".to_owned(), outcome.pages["P"].clone())]);
        outcome.trace = watch.events;
        let violation = |rule| Violation {
            rule,
            verdict,
            page: Some(P),
            write: None,
            doom: None,
            blame: blame.expect("with a rule"),
            cause,
            what: "the toy's page did not arrive".to_owned(),
        };
        outcome.violations = rule.map(violation).into_iter().collect();
        let expected = &scenario.expect;
        if verdict != expected.verdict {
            outcome.unexpected.push(format!("verdict: expected {}, got {}", expected.verdict.name(), verdict.name()));
        }
        (outcome, watch.moves)
    }
}

/// Writes the toy's events down.
#[derive(Default)]
struct Watch {
    events: Vec<Stamped>,
    moves: Vec<Vec<Happening>>,
}

impl walk::Observer for Watch {
    fn moved(&mut self, choice: &Choice, step: &Step) {
        let range = PageRange::new(P, 1);
        let event = match EventKind::ALL[usize::from(step.happened[0].key.kind)] {
            EventKind::GuestHint => Event::GuestHint { range, number: 1 },
            EventKind::GuestWrite => Event::GuestWrite { pfn: P, len: 1 },
            EventKind::HintPop => Event::HintPop { head: 0, element: HintElement::Pages(range) },
            EventKind::RamRead => Event::RamRead { pfn: P, zero: false },
            EventKind::HintApply => Event::HintApply { range, id: CmdId(2), cleared: 1 },
            EventKind::HintStop => Event::HintStop { from: HintStatus::Start },
            EventKind::BitmapSync => Event::BitmapSync { round: 1, before: 0, after: 0 },
            EventKind::HintStart => Event::HintStart { id: CmdId(2) },
            EventKind::RamSend => Event::RamSend { pfn: P, zero: false, round: 1 },
            EventKind::DstStart => Event::DstStart,
            _ => Event::GuestKick { queue: 0 },
        };
        self.moves.push(step.happened.clone());
        self.events.push(Stamped { at_ns: 0, actor: Actor::Vcpu(choice.actor as u8), event });
    }
}

impl Subject for Toys {
    type System = ToyWorld;

    fn open(&self, scenario: &Scenario) -> ToyWorld {
        let on = |fault: Fault| scenario.faults.contains(&fault);
        let flaw = match (on(Fault::HintStopSkipped), on(Fault::HintKeepsK)) {
            (true, _) => Flaw::StopSkipped,
            (false, true) => Flaw::StopUnlocked,
            (false, false) => Flaw::None,
        };
        let rounds = scenario.migration.rounds_min.clamp(1, 3) as u8;
        let own = Self::orders(scenario);
        let about = scenario.about.clone();
        let mut world = ToyWorld { toy: Toy::new(flaw, Size { rounds, noise: 2 }), own, about, step: Step::default() };
        world.constrain(&[]);
        world
    }

    fn run(&self, scenario: &Scenario) -> Outcome {
        Self::outcome(scenario, self.open(scenario), &[]).0
    }

    fn recorded(&self, scenario: &Scenario) -> (Outcome, Vec<Vec<Happening>>) {
        Self::outcome(scenario, self.open(scenario), &[])
    }

    fn replay(&self, scenario: &Scenario, choices: &[u16]) -> Outcome {
        Self::outcome(scenario, self.open(scenario), choices).0
    }
}

#[test]
fn a_toy_without_flaw_passes_and_one_with_a_flaw_fails_in_some_orders_only() {
    let scenario = |faults: &str| {
        let text = format!("about = \"toy\"\npages = {{ P = \"first page of hint 1\" }}\nfaults = [{faults}]\n");
        crate::scenario::parse("toy.toml", &text).unwrap_or_else(|problems| panic!("{problems}"))
    };
    for faults in ["", "\"hint-stop-skipped\""] {
        let outcome = Toys.run(&scenario(faults));
        assert_eq!((outcome.verdict, outcome.unexpected.len()), (Verdict::Pass, 0));
        assert!(outcome.trace.len() > 10);
    }
}
