//! Schedules that a search found, or that a plain run keeps, as paths of choices; and their reports.

use std::ops::Range;
use std::sync::Arc;

use crate::outcome::Outcome;
use crate::scenario::model::Scenario;
use crate::search::system::{Choice, Happening, Key, System};
use crate::world::search::SearchWorld;
use crate::world::search::counts::Counts;
use crate::world::{Due, End, RunOptions, Who, World};

/// Most moves of a schedule behind the end of its path.
const MOVES_MAX: usize = 1_000_000;

/// A schedule that was run once more, with all its events.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// As a plain run's.
    pub outcome: Outcome,
    /// The events of each move of the path, as places in the outcome's trace.
    pub steps: Vec<Range<usize>>,
}

/// Runs a schedule that a search found, with all its events. `path`: ids of choices. Behind the path's end, and in place of a choice that is not
/// offered, the first who can move does.
pub fn replay(scenario: &Arc<Scenario>, options: &RunOptions, path: &[u16]) -> Replayed {
    let mut system = SearchWorld::open(scenario, options, true);
    let mut choices = Vec::new();
    let mut steps = Vec::new();
    for at in 0..path.len() + MOVES_MAX {
        system.choices(&mut choices);
        let wanted = path.get(at).and_then(|id| choices.iter().find(|choice| choice.id == *id));
        let Some(choice) = wanted.or(choices.first()).copied() else { break };
        let first = system.world.trace.len();
        system.take(choice);
        if at < path.len() {
            steps.push(first..system.world.trace.len());
        }
    }
    let end = system.over().unwrap_or(End::Quiet);
    Replayed { outcome: system.world.finish(end), steps }
}

/// Returns a path that keeps the order of the scenario's plain run as far as a search's moves are the same: they cost no time, and may do
/// more at once.
pub fn default_path(scenario: &Arc<Scenario>, options: &RunOptions) -> Vec<u16> {
    let mut system = SearchWorld::new(scenario, options);
    let mut wanted = order_of_run(scenario, options, &system).into_iter();
    let mut path = Vec::new();
    let mut choices: Vec<Choice> = Vec::new();
    while path.len() < MOVES_MAX {
        system.choices(&mut choices);
        let next = wanted.find_map(|who| choices.iter().find(|choice| choice.id == who));
        let Some(choice) = next.or(choices.first()).copied() else { break };
        system.take(choice);
        path.push(choice.id);
    }
    path
}

/// Returns who moved in a plain run behind the start of the search.
fn order_of_run(scenario: &Arc<Scenario>, options: &RunOptions, system: &SearchWorld) -> Vec<u16> {
    let mut world = World::new(scenario, options, false);
    let start = scenario.search.start();
    let mut order = Vec::new();
    while world.end().is_none() {
        world.arm_injections();
        let Some(choice) = world.choose() else { break };
        if world.state.gates.has_happened(&start) {
            order.push(system.id(choice.who));
        }
        world.make(choice);
    }
    order
}

/// Makes a plain run, and returns beside its outcome what happened in each move, as a search of the same scenario would tell it.
pub fn recorded(scenario: &Arc<Scenario>, options: &RunOptions) -> (Outcome, Vec<Vec<Happening>>) {
    let mut world = World::new(scenario, options, false);
    world.state.counts = Some(Counts::new(scenario));
    let mut moves = Vec::new();
    let end = loop {
        if let Some(end) = world.end() {
            break end;
        }
        world.arm_injections();
        let Some(choice) = world.choose() else { break End::Quiet };
        world.happened.clear();
        world.make(choice);
        let mut happened = std::mem::take(&mut world.happened);
        if let Who::Injector(Due::Injection(index)) = choice.who {
            happened.insert(0, Happening { key: Key { kind: Key::INJECTION, page: index as u16 }, nth: 1 });
        }
        moves.push(happened);
    };
    (world.finish(end), moves)
}
