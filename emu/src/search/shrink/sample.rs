//! Completions: how a system goes on when nothing but the constraints, and chance or malice, says who moves.
//!
//! Chance alone rarely finds the one order in which a set of constraints does not suffice. So two of five completions follow the failing
//! schedule and leave it in one place only: one move comes later than it did, or one comes earlier.

use super::recording::Recorded;
use crate::outcome::Verdict;
use crate::search::draw::Draw;
use crate::search::strategy::{Scheduler, Strategy};
use crate::search::system::{Choice, Ending, Happening, System};
use crate::search::walk::Pilot;

/// Two moves of the failing schedule, by index, the earlier first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Swap {
    pub(super) early: usize,
    pub(super) late: usize,
}

/// How a completion picks who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As a strategy draws it.
    Drawn(Strategy),
    /// As the failing schedule, but that the early move waits until the late one was made.
    Delay(Swap),
    /// As the failing schedule, but that the late move's actor hurries to make it before the early one.
    Hurry(Swap),
}

impl Style {
    /// Returns the style of the n-th sample of a series.
    pub(super) fn nth(n: u32, seed: u64, swaps: &[Swap]) -> Self {
        let swap = || swaps[Draw::new(seed, "swap").below(swaps.len() as u64) as usize];
        match n % 5 {
            0 => Style::Drawn(Strategy::Random),
            1 if !swaps.is_empty() => Style::Delay(swap()),
            2 if !swaps.is_empty() => Style::Hurry(swap()),
            3 => Style::Drawn(Strategy::Pct(3)),
            _ => Style::Drawn(Strategy::Pos),
        }
    }
}

/// Returns a seed for the n-th sample of the n-th try.
pub(super) fn seed(seed: u64, trial: u32, sample: u32) -> u64 {
    Draw::new(seed ^ (u64::from(trial) << 32 | u64::from(sample)), "sample").bits()
}

/// Returns what strategies are to know: the failing schedule.
pub(super) fn pilot(schedule: &[Recorded]) -> Pilot {
    let mut pilot = Pilot { expected: Vec::new(), moves: u32::try_from(schedule.len()).expect("a schedule in memory") };
    for made in schedule {
        let id = usize::from(made.id);
        pilot.expected.resize(pilot.expected.len().max(id + 1), 0);
        pilot.expected[id] += 1;
    }
    pilot
}

/// When each id moved in the failing schedule: what a completion that follows it is guided by.
#[derive(Debug, Clone)]
pub(super) struct Guide {
    /// By id: indices of its moves.
    moves: Vec<Vec<usize>>,
    /// Number of all moves.
    length: usize,
}

impl Guide {
    pub(super) fn new(schedule: &[Recorded]) -> Self {
        let ids = schedule.iter().map(|made| usize::from(made.id) + 1).max().unwrap_or(0);
        let mut moves = vec![Vec::new(); ids];
        schedule.iter().enumerate().for_each(|(at, made)| moves[usize::from(made.id)].push(at));
        Self { moves, length: schedule.len() }
    }

    /// Returns when the schedule makes the n-th move of an id (from 0), doubled, so that there is room between two; past all when it does not.
    fn position(&self, id: u16, nth: usize) -> usize {
        let at = self.moves.get(usize::from(id)).and_then(|moves| moves.get(nth)).copied().unwrap_or(self.length);
        2 * at
    }

    /// Returns whether an id makes a move of the schedule.
    fn makes(&self, id: u16, at: usize) -> bool {
        self.moves.get(usize::from(id)).is_some_and(|moves| moves.binary_search(&at).is_ok())
    }
}

/// How a completion ended, and what happened in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// `None`: given up, or ended as a stall.
    pub(super) ending: Option<Ending>,
    /// What happened, each with the number of its move.
    pub(super) happened: Vec<(Happening, u32)>,
    /// The ids of its choices.
    pub(super) ids: Vec<u16>,
}

/// Goes on from the system's present state until it ends.
pub(super) fn complete<S: System>(
    system: &mut S,
    style: Style,
    seed: u64,
    guide: &Guide,
    scheduler: &mut Scheduler,
    moves_max: u32,
) -> Run {
    if let Style::Drawn(strategy) = style {
        scheduler.begin(strategy, seed);
    }
    let mut made: Vec<usize> = Vec::new();
    let (mut offered, mut happened, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..moves_max {
        system.choices(&mut offered);
        if offered.is_empty() {
            let ending = system.ending();
            let ending = (ending.verdict != Verdict::Stall).then_some(ending);
            return Run { ending, happened, ids };
        }
        let index = match style {
            Style::Drawn(_) => scheduler.pick(&offered),
            Style::Delay(_) | Style::Hurry(_) => guided(&offered, style, guide, &mut made),
        };
        let choice = offered[index];
        ids.push(choice.id);
        system.take(choice);
        if let Style::Drawn(_) = style {
            scheduler.made(&offered, index, &system.step().footprint.objects);
        }
        happened.extend(system.step().happened.iter().map(|happening| (*happening, at)));
    }
    Run { ending: None, happened, ids }
}

/// Returns the index of the move that the failing schedule, changed in one place, makes first; ids break ties. `made` counts the moves by id.
fn guided(offered: &[Choice], style: Style, guide: &Guide, made: &mut Vec<usize>) -> usize {
    let ids = offered.iter().map(|choice| usize::from(choice.id) + 1).max().expect("a choice is offered");
    made.resize(made.len().max(ids), 0);
    let when = |id: u16| {
        let position = guide.position(id, made[usize::from(id)]);
        let changed = match style {
            Style::Delay(Swap { early, late }) if position == 2 * early => 2 * late + 1,
            Style::Hurry(Swap { early, late }) if position > 2 * early && position <= 2 * late && guide.makes(id, late) => {
                (2 * early).saturating_sub(1)
            }
            Style::Delay(_) | Style::Hurry(_) | Style::Drawn(_) => position,
        };
        (changed, id)
    };
    let index = (0..offered.len()).min_by_key(|index| when(offered[*index].id)).expect("a choice is offered");
    made[usize::from(offered[index].id)] += 1;
    index
}
