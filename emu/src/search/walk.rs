//! One schedule: from a root to the end, each move as a strategy draws it.
//!
//! The list of the choices' ids is the schedule: [`replay`] makes the same moves again.

use std::fmt;

use super::strategy::{Scheduler, Strategy};
use super::system::{Choice, Ending, Objects, Step, System};
use crate::outcome::Verdict;

/// What strategies know of a system beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pilot {
    /// Moves that are made under each id, on average, rounded up.
    pub(super) expected: Vec<u32>,
    /// Moves of the longest run.
    pub(super) moves: u32,
}

impl Pilot {
    /// Runs of which a pilot is made.
    const RUNS: u64 = 8;

    /// Makes some random runs. They are the same whatever is searched for.
    pub fn fly<S: System>(system: &mut S, root: &S::Saved, moves_max: u32) -> Self {
        let mut scheduler = Scheduler::new(Self::default());
        let mut pilot = Self::default();
        for seed in 0..Self::RUNS {
            let run = walk(system, root, &mut scheduler, Strategy::Random, seed, moves_max, &mut ());
            pilot.moves = pilot.moves.max(run.choices.len() as u32);
            for id in run.choices {
                let index = usize::from(id);
                pilot.expected.resize(pilot.expected.len().max(index + 1), 0);
                pilot.expected[index] += 1;
            }
        }
        pilot.expected.iter_mut().for_each(|count| *count = count.div_ceil(Self::RUNS as u32));
        pilot
    }

    /// Returns the moves that are expected under an id.
    pub fn expected(&self, id: u16) -> u32 {
        self.expected.get(usize::from(id)).copied().unwrap_or(0)
    }

    /// Returns how many moves [`Strategy::Pct`] takes a schedule to have at most: a quarter more than any that was seen.
    pub fn horizon(&self) -> u32 {
        self.moves.saturating_add(self.moves / 4).max(1)
    }
}

/// Watches a run.
pub trait Observer {
    /// A move was made.
    fn moved(&mut self, choice: &Choice, step: &Step);
}

impl Observer for () {
    fn moved(&mut self, _: &Choice, _: &Step) {}
}

/// A schedule that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How it was drawn.
    pub strategy: Strategy,
    /// Of which seed.
    pub seed: u64,
    /// How it ended; [`Verdict::Stall`] when it had as many moves as it was allowed, and was not over.
    pub ending: Ending,
    /// The moves, by [`Choice::id`].
    pub choices: Vec<u16>,
}

/// Returns the ending of a schedule that was given up.
pub(super) fn stalled() -> Ending {
    Ending { verdict: Verdict::Stall, rule: None, blame: None, cause: None }
}

/// What a schedule is run on: a system, or what is known of one.
pub(super) trait Ground {
    /// Returns the moves that can be made.
    fn offered(&mut self) -> &[Choice];

    /// Makes one of them.
    fn take(&mut self, index: usize);

    /// Returns the moves of which the last was taken.
    fn before(&self) -> &[Choice];

    /// Returns what the last move used.
    fn used(&self) -> Objects;

    /// Returns how the run ended; asked when nothing is offered.
    fn ending(&mut self) -> Ending;
}

/// Draws a schedule on some ground; `taken` gets its choices. `None`: it was given up.
pub(super) fn draw(ground: &mut impl Ground, scheduler: &mut Scheduler, moves_max: u32, taken: &mut Vec<u16>) -> Option<Ending> {
    taken.clear();
    loop {
        let offered = ground.offered();
        if offered.is_empty() {
            return Some(ground.ending());
        }
        if taken.len() >= moves_max as usize {
            return None;
        }
        let index = scheduler.pick(offered);
        taken.push(offered[index].id);
        ground.take(index);
        let used = ground.used();
        scheduler.made(ground.before(), index, &used);
    }
}

/// The system itself.
pub(super) struct Live<'a, S, O> {
    system: &'a mut S,
    observer: &'a mut O,
    offered: Vec<Choice>,
    before: Vec<Choice>,
}

impl<'a, S: System, O: Observer> Live<'a, S, O> {
    /// Puts the system back to the root.
    pub(super) fn new(system: &'a mut S, root: &S::Saved, observer: &'a mut O) -> Self {
        system.put_back(root);
        Self { system, observer, offered: Vec::new(), before: Vec::new() }
    }
}

impl<S: System, O: Observer> Ground for Live<'_, S, O> {
    fn offered(&mut self) -> &[Choice] {
        self.system.choices(&mut self.offered);
        &self.offered
    }

    fn take(&mut self, index: usize) {
        let choice = self.offered[index];
        self.system.take(choice);
        self.observer.moved(&choice, self.system.step());
        std::mem::swap(&mut self.offered, &mut self.before);
    }

    fn before(&self) -> &[Choice] {
        &self.before
    }

    fn used(&self) -> Objects {
        self.system.step().footprint.objects
    }

    fn ending(&mut self) -> Ending {
        self.system.ending()
    }
}

/// Runs one schedule of up to `moves_max` moves. It depends on the seed, the strategy, the scheduler's pilot and the root alone.
pub fn walk<S: System>(
    system: &mut S,
    root: &S::Saved,
    scheduler: &mut Scheduler,
    strategy: Strategy,
    seed: u64,
    moves_max: u32,
    observer: &mut impl Observer,
) -> Run {
    scheduler.begin(strategy, seed);
    let mut choices = Vec::new();
    let ending = draw(&mut Live::new(system, root, observer), scheduler, moves_max, &mut choices);
    Run { strategy, seed, ending: ending.unwrap_or_else(stalled), choices }
}

/// A schedule that does not fit: made for another system, or another version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOffered {
    /// Index of the move that could not be made.
    pub at: usize,
    /// Its id.
    pub id: u16,
}

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move {} of the schedule, by {}, cannot be made there", self.at + 1, self.id)
    }
}

impl std::error::Error for NotOffered {}

/// Makes the moves of a schedule from a root. Returns how the run ended; `None` when it could go on, as it can behind the beginning of a schedule
/// or one that was given up. The system is left where the schedule ends.
pub fn replay<S: System>(
    system: &mut S,
    root: &S::Saved,
    schedule: &[u16],
    observer: &mut impl Observer,
) -> Result<Option<Ending>, NotOffered> {
    let mut ground = Live::new(system, root, observer);
    for (at, id) in schedule.iter().enumerate() {
        let index = ground.offered().iter().position(|choice| choice.id == *id).ok_or(NotOffered { at, id: *id })?;
        ground.take(index);
    }
    let over = ground.offered().is_empty();
    Ok(over.then(|| ground.ending()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::{Edge, Footprint, Happening, Key};

    /// Actor 0 wakes up again and again until actor 1 has moved; two injections can be made at any time before that.
    #[derive(Debug, Clone, Default)]
    struct Sleeper {
        state: State,
        step: Step,
    }

    #[derive(Debug, Clone, Default)]
    struct State {
        injected: [bool; 2],
        over: bool,
        wakes: u32,
    }

    impl System for Sleeper {
        type Saved = State;

        fn actors(&self) -> u16 {
            3
        }

        fn choices(&mut self, into: &mut Vec<Choice>) {
            into.clear();
            let choice = |id, actor| Choice { id, actor, key: None, objects: Objects { shared: 1, changed: 0 } };
            if !self.state.over {
                into.extend([choice(0, 0), choice(1, 1)]);
                into.extend((0..2).filter(|index| !self.state.injected[usize::from(*index)]).map(|index| choice(3 + index, 2)));
            }
        }

        fn take(&mut self, choice: Choice) {
            match choice.id {
                0 => self.state.wakes += 1,
                1 => self.state.over = true,
                id => self.state.injected[usize::from(id - 3)] = true,
            }
            let key = Key { kind: choice.id, page: Key::NO_PAGE };
            self.step = Step {
                happened: vec![Happening { key, nth: 1 }],
                footprint: Footprint { objects: choice.objects, ..Footprint::default() },
            };
        }

        fn step(&self) -> &Step {
            &self.step
        }

        fn ending(&mut self) -> Ending {
            Ending { verdict: Verdict::Pass, rule: None, blame: None, cause: None }
        }

        fn save(&mut self) -> State {
            self.state.clone()
        }

        fn put_back(&mut self, saved: &State) {
            self.state = saved.clone();
        }

        fn hash(&mut self) -> u128 {
            let State { injected, over, wakes } = self.state;
            u128::from(wakes) << 3 | u128::from(over) << 2 | u128::from(injected[0]) << 1 | u128::from(injected[1])
        }

        fn constrain(&mut self, edges: &[Edge]) {
            assert!(edges.is_empty(), "nothing here can be ordered");
        }
    }

    /// Counts moves.
    impl Observer for Vec<(u16, Key)> {
        fn moved(&mut self, choice: &Choice, step: &Step) {
            self.push((choice.id, step.happened[0].key));
        }
    }

    #[test]
    fn no_strategy_starves_anybody() {
        let mut system = Sleeper::default();
        let root = system.save();
        let pilot = Pilot::fly(&mut system, &root, 1000);
        assert_eq!((0..6).map(|id| pilot.expected(id)).collect::<Vec<_>>(), [1, 1, 0, 1, 1, 0]);
        let mut scheduler = Scheduler::new(pilot);
        for strategy in [Strategy::Pos, Strategy::Urw, Strategy::Random, Strategy::Pct(1), Strategy::Pct(5)] {
            let mut longest = 0;
            for seed in 0..300 {
                let run = walk(&mut system, &root, &mut scheduler, strategy, seed, 2_000, &mut ());
                assert_eq!(run.ending.verdict, Verdict::Pass, "{strategy}, seed {seed}");
                longest = longest.max(run.choices.len());
            }
            assert!(longest > 4, "{strategy} never lets the sleeper wake up");
        }
    }

    #[test]
    fn a_schedule_that_does_not_end_is_given_up_and_is_no_failure() {
        let mut system = Sleeper::default();
        let root = system.save();
        let mut scheduler = Scheduler::new(Pilot { expected: vec![1_000_000], moves: 1_000_000 });
        let run = walk(&mut system, &root, &mut scheduler, Strategy::Urw, 1, 50, &mut ());
        assert_eq!((run.ending.verdict, run.ending.is_failure(), run.choices.len()), (Verdict::Stall, false, 50));
        assert_eq!(replay(&mut system, &root, &run.choices, &mut ()), Ok(None));
    }

    #[test]
    fn a_run_replays_from_its_choices_move_by_move() {
        let mut system = Sleeper::default();
        let root = system.save();
        let mut scheduler = Scheduler::new(Pilot::default());
        for seed in 0..50 {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let run = walk(&mut system, &root, &mut scheduler, Strategy::Pos, seed, 100, &mut first);
            let end = system.hash();
            assert_eq!(replay(&mut system, &root, &run.choices, &mut second), Ok(Some(run.ending)));
            assert_eq!((first, system.hash()), (second, end));
        }
        assert_eq!(replay(&mut system, &root, &[0, 3, 3], &mut ()), Err(NotOffered { at: 2, id: 3 }));
        assert_eq!(replay(&mut system, &root, &[1, 0], &mut ()), Err(NotOffered { at: 1, id: 0 }));
    }
}
