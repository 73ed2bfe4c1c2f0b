//! Self-distrust of the searched world: one random schedule twice, the second time from a state in the middle that another system, on another thread, was
//! put back to.

use std::sync::Arc;

use host::event::{Actor, EventKind, Stamped};

use crate::scenario::model::Scenario;
use crate::search::draw::Draw;
use crate::search::system::{Choice, Ending, Key, Step, System};
use crate::world::doctor::{Divergence, Guard, Way, What, compare_events, elsewhere, guarded, hash, last_events, value};
use crate::world::search::{Saved, SearchWorld};
use crate::world::{RunOptions, hosts_of};

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
    let told = difference.map(|Found { at, own, what }| Divergence {
        way: Way::Search,
        forked_at,
        at,
        before: first.events_before(at, own),
        what,
    });
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
    let (id, hosts) = (usize::from(choice.id), hosts_of(scenario));
    let who = match id.checked_sub(usize::from(scenario.guest.vcpus)) {
        None => Actor::Vcpu(id as u8).to_string(),
        Some(host) => hosts.get(host).map_or_else(|| format!("injector {}", host - hosts.len()), ToString::to_string),
    };
    match choice.key {
        Some(Key { kind, .. }) if kind != Key::INJECTION => format!("{who}: {}", EventKind::ALL[usize::from(kind)].name()),
        Some(_) | None => who,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use host::event::Event;

    use super::*;
    use crate::scenario;
    use crate::world::search::SavedWorld;

    const RACE: &str = r#"
about = "a race"
pages = { P = "first page of hint 1" }
[[may]]
write = { page = "P", byte = 0xBB }
by    = "vcpu1"
after = "guest.hint(P)"
"#;

    fn parsed() -> Arc<Scenario> {
        Arc::new(scenario::parse("doctor.toml", RACE).unwrap_or_else(|errors| panic!("{errors:?}")))
    }

    fn caught(work: &mut dyn FnMut()) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|said| said.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    /// Returns the difference of a schedule with a fork that forgets something.
    fn forked(seed: u64, forget: impl FnOnce(&mut SavedWorld)) -> Option<Divergence> {
        let forget = |fork: &mut Saved| forget(Arc::get_mut(&mut fork.0).expect("nobody else has it"));
        let (moves, divergence) = searched(&parsed(), &RunOptions::default(), seed, caught, forget).expect("the first schedule ends");
        assert!(moves > 50, "{moves} moves");
        divergence
    }

    #[test]
    fn a_schedule_is_the_same_from_its_middle() {
        for seed in 0..20 {
            assert_eq!(forked(seed, |_| {}), None, "seed {seed}");
        }
    }

    #[test]
    fn whatever_a_saved_state_forgets_is_found_behind_it() {
        type Forget = fn(&mut SavedWorld, SavedWorld);
        let forgets: [(&str, Forget); 5] = [
            ("memory", |fork, root| fork.memory = root.memory),
            ("registers", |fork, root| fork.cpus = root.cpus),
            ("the host", |fork, root| fork.state.vmm = root.state.vmm),
            ("the oracle", |fork, root| fork.state.oracle = root.state.oracle),
            ("counts", |fork, root| fork.state.counts = root.state.counts),
        ];
        for (part, forget) in forgets {
            let root = SearchWorld::new(&parsed(), &RunOptions::default()).save();
            let divergence = forked(1, |fork| forget(fork, Arc::into_inner(root.0).expect("the system is gone")));
            let divergence = divergence.unwrap_or_else(|| panic!("nobody misses {part}"));
            assert_eq!((divergence.way, divergence.is_before_fork()), (Way::Search, false), "{part}: {divergence:?}");
        }
    }

    #[test]
    fn the_first_altered_event_is_named_with_both_sides() {
        let scenario = parsed();
        let mut system = SearchWorld::new(&scenario, &RunOptions::default());
        let first = walk(&mut system, 120, |_, offered| offered.first().copied());
        assert!(compare(&first, &first, &scenario).is_none());
        let mut second = first.clone();
        let at =
            first.points.iter().rposition(|point| point.made.as_ref().is_some_and(|made| made.events.len() > 1)).expect("a move of two");
        let made = second.points[at].made.as_mut().expect("made");
        made.events[1].event = Event::GuestWarn { message: "altered".to_owned() };
        let there = made.events[1].clone();
        made.hash ^= 1;
        let here = first.points[at].made.as_ref().expect("made").events.clone();
        let Found { at: place, own, what } = compare(&first, &second, &scenario).expect("altered");
        assert_eq!((place, own), (at, 1));
        assert_eq!(what, What::Event { first: Some(here[1].clone()), second: Some(there) });
        assert_eq!(first.events_before(place, own).last(), Some(&(at, here[0].clone())));
    }

    #[test]
    fn other_hashes_offers_and_ends_are_told() {
        let scenario = parsed();
        let mut system = SearchWorld::new(&scenario, &RunOptions::default());
        let first = walk(&mut system, 1_000, |_, offered| offered.first().copied());
        let told = |alter: fn(&mut Walked)| {
            let mut second = first.clone();
            alter(&mut second);
            let Found { at, what, .. } = compare(&first, &second, &scenario).expect("altered");
            let What::Value { what, first, second } = what else { panic!("{what:?}") };
            assert_ne!(first, second, "{what}");
            (at, what)
        };
        let hash = told(|walked| walked.points[5].made.as_mut().expect("made").hash ^= 1);
        assert_eq!(hash, (5, "the hash of the state behind the move".to_owned()));
        let footprint = told(|walked| walked.points[6].made.as_mut().expect("made").step.footprint.looked.push(u32::MAX));
        assert_eq!(footprint, (6, "what the move used".to_owned()));
        let key = told(|walked| walked.points[7].offered[0].key = Some(Key { kind: 0, page: 0 }));
        assert_eq!(key, (7, "who can move".to_owned()));
        let offered = told(|walked| walked.points[8].offered.clear());
        assert_eq!(offered, (8, "who can move".to_owned()));
        let moves = first.moves();
        assert_eq!(told(|walked| walked.ending = None), (moves, "the end".to_owned()));
    }
}
