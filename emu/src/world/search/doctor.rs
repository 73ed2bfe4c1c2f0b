//! Self-distrust of the searched world: one random schedule twice, the second time from a state in the middle that another system, on another thread, was
//! put back to.

use std::sync::Arc;

use host::event::{Actor, EventKind, Stamped};

use crate::scenario::model::Scenario;
use crate::search::draw::Draw;
use crate::search::system::{Choice, Ending, Key, Step, System};
use crate::world::doctor::{Divergence, Guard, Way, What, compare_events, elsewhere, guarded, hash, last_events, value};
use crate::world::search::{Saved, SearchWorld};
use crate::world::{HOST_ORDER, RunOptions};

/// Most moves of the schedule.
const MOVES_MAX: usize = 1_000;

/// One point of a schedule: who could move, and what the one who did brought about; `None` at the schedule's end.
#[derive(Debug, Clone)]
struct Point {
    offered: Vec<Choice>,
    made: Option<Made>,
}

/// A move as it was made.
#[derive(Debug, Clone)]
struct Made {
    taken: u16,
    events: Vec<Stamped>,
    step: Step,
    hash: u128,
}

/// A schedule as it went, and how it ended, if it did.
#[derive(Debug, Clone)]
struct Walked {
    points: Vec<Point>,
    ending: Option<Ending>,
}

/// Makes a random schedule, and compares it with the same from a fork in its middle; returns its number of moves beside the difference. `forget`: what a
/// broken fork would lack.
pub(in crate::world) fn searched(
    scenario: &Arc<Scenario>,
    options: &RunOptions,
    seed: u64,
    guard: Guard,
    forget: impl FnOnce(&mut Saved),
) -> Result<(usize, Option<Divergence>), String> {
    let (first, half, mut fork) = guarded(guard, || {
        let mut system = SearchWorld::new(scenario, options);
        let root = system.save();
        let mut draw = Draw::new(seed, "doctor");
        let first = walk(&mut system, MOVES_MAX, |_, offered| Some(offered[draw.below(offered.len() as u64) as usize]));
        system.put_back(&root);
        let half = walk(&mut system, first.moves() / 2, |at, offered| first.taken(at, offered));
        (first, half, system.save())
    })?;
    forget(&mut fork);
    let forked_at = half.moves();
    let rest = first.moves() - forked_at;
    let second = elsewhere(guard, || {
        let mut system = SearchWorld::new(scenario, options);
        system.put_back(&fork);
        walk(&mut system, rest, |at, offered| first.taken(forked_at + at, offered))
    });
    let difference = match second {
        Ok(second) => compare(&first, &half.followed_by(second), scenario),
        Err(said) => Some(Found { at: forked_at, own: 0, what: What::Panic { said } }),
    };
    let told =
        difference.map(|Found { at, own, what }| Divergence { way: Way::Search, forked_at, at, before: first.events_before(at, own), what });
    Ok((first.moves(), told))
}

/// Makes moves until the run is over, there are enough, or the one that is wanted is not offered.
fn walk(system: &mut SearchWorld, moves: usize, mut pick: impl FnMut(usize, &[Choice]) -> Option<Choice>) -> Walked {
    let mut points = Vec::new();
    for at in 0..=moves {
        let mut offered = Vec::new();
        system.choices(&mut offered);
        let choice = if offered.is_empty() || at == moves { None } else { pick(at, &offered) };
        let made = choice.map(|choice| {
            system.take(choice);
            Made { taken: choice.id, events: system.events().to_vec(), step: system.step().clone(), hash: system.hash() }
        });
        points.push(Point { offered, made });
        if choice.is_none() {
            break;
        }
    }
    let over = points.last().is_some_and(|point| point.offered.is_empty());
    Walked { points, ending: over.then(|| system.ending()) }
}

impl Walked {
    fn moves(&self) -> usize {
        self.points.iter().filter(|point| point.made.is_some()).count()
    }

    /// Returns the choice that this schedule took at a move, if it is offered.
    fn taken(&self, at: usize, offered: &[Choice]) -> Option<Choice> {
        let taken = self.points[at].made.as_ref()?.taken;
        offered.iter().find(|choice| choice.id == taken).copied()
    }

    /// Returns this schedule with one in place of its end.
    fn followed_by(mut self, rest: Walked) -> Walked {
        self.points.pop();
        self.points.extend(rest.points);
        Walked { points: self.points, ending: rest.ending }
    }

    /// Returns the last events of the moves before one, and the first `own` of its own, with the numbers of their moves.
    fn events_before(&self, at: usize, own: usize) -> Vec<(usize, Stamped)> {
        let mut told = Vec::new();
        for (place, point) in self.points.iter().enumerate().take(at + 1) {
            let count = if place == at { own } else { usize::MAX };
            told.extend(point.made.iter().flat_map(|made| &made.events).take(count).map(|stamped| (place, stamped)));
        }
        last_events(told.into_iter())
    }
}

/// A difference: the number of the move in which it shows, and how many of its events are the same.
#[derive(Debug)]
struct Found {
    at: usize,
    own: usize,
    what: What,
}

/// Returns the first difference of two schedules.
fn compare(first: &Walked, second: &Walked, scenario: &Scenario) -> Option<Found> {
    for (at, (a, b)) in first.points.iter().zip(&second.points).enumerate() {
        if a.offered != b.offered {
            let names = |point: &Point| point.offered.iter().map(|choice| choice_text(choice, scenario)).collect::<Vec<_>>().join(", ");
            let (first, second) = (names(a), names(b));
            return Some(Found { at, own: 0, what: What::Value { what: "who can move".to_owned(), first, second } });
        }
        let (Some(a), Some(b)) = (&a.made, &b.made) else { continue };
        if let Some((own, what)) = compare_events(&a.events, &b.events) {
            return Some(Found { at, own, what });
        }
        let what = hash("the hash of the state behind the move", a.hash, b.hash)
            .or_else(|| value("what the move counts as", &a.step.happened, &b.step.happened))
            .or_else(|| value("what the move used", &a.step.footprint, &b.step.footprint));
        if let Some(what) = what {
            return Some(Found { at, own: a.events.len(), what });
        }
    }
    let what = value("the number of moves", &first.moves(), &second.moves()).or_else(|| value("the end", &first.ending, &second.ending))?;
    Some(Found { at: first.moves().min(second.moves()), own: 0, what })
}

/// Returns a choice in words: who, and what his move announces.
fn choice_text(choice: &Choice, scenario: &Scenario) -> String {
    let id = usize::from(choice.id);
    let who = match id.checked_sub(usize::from(scenario.guest.vcpus)) {
        None => Actor::Vcpu(id as u8).to_string(),
        Some(host) => HOST_ORDER.get(host).map_or_else(|| format!("injector {}", host - HOST_ORDER.len()), ToString::to_string),
    };
    match choice.key {
        Some(Key { kind, .. }) if kind != Key::INJECTION => format!("{who}: {}", EventKind::ALL[usize::from(kind)].name()),
        Some(_) | None => who,
    }
}
