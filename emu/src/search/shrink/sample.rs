//! Completions: how a system goes on when nothing but the constraints, and chance or malice, says who moves.
//!
//! Chance alone rarely finds the one order in which a set of constraints does not suffice. So two of five completions follow the failing
//! schedule and leave it in one place only: one move comes later than it did, or one comes earlier.

use super::recording::Recorded;
use crate::outcome::Verdict;
use crate::search::system::{Choice, Ending, Happening, System};

/// Random numbers of one completion (SplitMix64): the same on every machine.
#[derive(Debug, Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a number below nothing");
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

/// Two moves of the failing schedule, by index, the earlier first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Swap {
    pub(super) early: usize,
    pub(super) late: usize,
}

/// How a completion picks who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Each move that can be made is as likely.
    Walk,
    /// Each waiting move has a random priority, drawn again when it conflicts with the one that was made.
    Priorities,
    /// Each actor has a random priority; a few times the first one becomes the last.
    Turns,
    /// As the failing schedule, but that the early move waits until the late one was made.
    Delay(Swap),
    /// As the failing schedule, but that the late move's actor hurries to make it before the early one.
    Hurry(Swap),
}

impl Style {
    /// Returns the style of the n-th sample of a series.
    pub(super) fn nth(n: u32, seed: u64, swaps: &[Swap]) -> Self {
        let swap = || swaps[Chance(seed).below(swaps.len())];
        match n % 5 {
            0 => Style::Walk,
            1 if !swaps.is_empty() => Style::Delay(swap()),
            2 if !swaps.is_empty() => Style::Hurry(swap()),
            3 => Style::Turns,
            _ => Style::Priorities,
        }
    }
}

/// Returns a seed for the n-th sample of the n-th try.
pub(super) fn seed(seed: u64, trial: u32, sample: u32) -> u64 {
    Chance(seed ^ (u64::from(trial) << 32 | u64::from(sample))).next()
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

/// State of a completion under way.
struct Picker<'g> {
    style: Style,
    chance: Chance,
    guide: &'g Guide,
    /// By id: how often it moved.
    made: Vec<usize>,
    /// By id: its priority; 0: not drawn yet.
    priority: Vec<u64>,
    /// For turns: at which moves the first becomes the last.
    changes: [usize; 3],
}

impl<'g> Picker<'g> {
    fn new(style: Style, seed: u64, guide: &'g Guide) -> Self {
        let mut chance = Chance(seed);
        let changes = [(); 3].map(|()| chance.below(guide.length + 1));
        Self { style, chance, guide, made: Vec::new(), priority: Vec::new(), changes }
    }

    fn pick(&mut self, offered: &[Choice], at: usize) -> Choice {
        let ids = offered.iter().map(|choice| usize::from(choice.id) + 1).max().expect("a choice is offered");
        if self.made.len() < ids {
            self.made.resize(ids, 0);
            self.priority.resize(ids, 0);
        }
        let choice = match self.style {
            Style::Walk => offered[self.chance.below(offered.len())],
            Style::Priorities => self.by_priority(offered),
            Style::Turns => {
                let choice = self.by_priority(offered);
                if self.changes.contains(&at) {
                    // Below all that are drawn, and below those that became last before.
                    self.priority[usize::from(choice.id)] = (self.guide.length + 1).saturating_sub(at).max(1) as u64;
                }
                choice
            }
            Style::Delay(_) | Style::Hurry(_) => *offered.iter().min_by_key(|choice| self.guided(choice.id)).expect("a choice is offered"),
        };
        self.made[usize::from(choice.id)] += 1;
        if self.style == Style::Priorities {
            self.priority[usize::from(choice.id)] = 0;
            offered
                .iter()
                .filter(|other| other.objects.conflict(&choice.objects))
                .for_each(|other| self.priority[usize::from(other.id)] = 0);
        }
        choice
    }

    fn by_priority(&mut self, offered: &[Choice]) -> Choice {
        for choice in offered {
            let priority = &mut self.priority[usize::from(choice.id)];
            if *priority == 0 {
                *priority = self.chance.next() | 1 << 63;
            }
        }
        *offered.iter().max_by_key(|choice| self.priority[usize::from(choice.id)]).expect("a choice is offered")
    }

    /// Returns when the failing schedule, changed in one place, makes an id's next move; ids break ties.
    fn guided(&self, id: u16) -> (usize, u16) {
        let position = self.guide.position(id, self.made[usize::from(id)]);
        let changed = match self.style {
            Style::Delay(Swap { early, late }) if position == 2 * early => 2 * late + 1,
            Style::Hurry(Swap { early, late }) if position > 2 * early && position <= 2 * late && self.guide.makes(id, late) => {
                (2 * early).saturating_sub(1)
            }
            Style::Delay(_) | Style::Hurry(_) | Style::Walk | Style::Priorities | Style::Turns => position,
        };
        (changed, id)
    }
}

/// Goes on from the system's present state until it ends.
pub(super) fn complete<S: System>(system: &mut S, style: Style, seed: u64, guide: &Guide, moves_max: u32) -> Run {
    let mut picker = Picker::new(style, seed, guide);
    let (mut offered, mut happened, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..moves_max {
        system.choices(&mut offered);
        if offered.is_empty() {
            let ending = system.ending();
            let ending = (ending.verdict != Verdict::Stall).then_some(ending);
            return Run { ending, happened, ids };
        }
        let choice = picker.pick(&offered, at as usize);
        ids.push(choice.id);
        system.take(choice);
        happened.extend(system.step().happened.iter().map(|happening| (*happening, at)));
    }
    Run { ending: None, happened, ids }
}
