//! PCT of Burckhardt, Kothari, Musuvathi, Nagarakatte, "A randomized scheduler with probabilistic guarantees of finding bugs" (MSR-TR-2010-3): a random
//! priority for each actor; at `d - 1` random moves, whoever is about to move falls behind all others.
//!
//! A defect that `d` ordering constraints bring about is found with probability 1 / (n k^(d-1)) at least, with n actors and at most k moves. Here, what
//! has an id of its own counts as an actor, as each injection does. Differs: behind its horizon of k moves, a schedule goes on as a random walk. The
//! guarantee is not for such schedules anyway, and one that starves everybody but a sleeper would never end.

use super::super::draw::Draw;
use super::super::system::Choice;
use super::{of_id, random};

/// Priorities drawn at the start are above this; those of change points are below.
const INITIAL: u64 = 1 << 63;

/// What the strategy remembers within a schedule.
#[derive(Debug, Clone, Default)]
pub(super) struct Pct {
    /// Priorities by id; 0: not seen yet.
    priorities: Vec<u64>,
    /// Change points: the move, from 0, right before which one lies, and the priority that it gives; sorted. Since the moves are drawn, later change
    /// points may give higher priorities than earlier ones, and several may lie before one move.
    changes: Vec<(u32, u8)>,
    /// Change points passed.
    passed: usize,
    /// Moves made.
    moves: u32,
    horizon: u32,
}

impl Pct {
    pub(super) fn begin(&mut self, draw: &mut Draw, depth: u8, horizon: u32) {
        assert!(depth > 0 && horizon > 0, "depth {depth}, {horizon} moves");
        self.priorities.fill(0);
        self.changes.clear();
        self.changes.extend((1..depth).map(|priority| (draw.below(u64::from(horizon)) as u32, priority)));
        self.changes.sort_unstable();
        (self.passed, self.moves, self.horizon) = (0, 0, horizon);
    }

    pub(super) fn pick(&mut self, draw: &mut Draw, choices: &[Choice]) -> usize {
        for choice in choices {
            let priority = of_id(&mut self.priorities, choice.id);
            if *priority == 0 {
                *priority = draw.bits() | INITIAL;
            }
        }
        if self.moves >= self.horizon {
            return random::pick(draw, choices);
        }
        while let Some((_, priority)) = self.changes.get(self.passed).filter(|(at, _)| *at == self.moves) {
            let highest = self.highest(choices);
            self.priorities[usize::from(choices[highest].id)] = u64::from(*priority);
            self.passed += 1;
        }
        self.moves += 1;
        self.highest(choices)
    }

    /// Returns the ids that were offered in this schedule.
    pub(super) fn ids(&self) -> impl Iterator<Item = u16> {
        self.priorities.iter().enumerate().filter(|(_, priority)| **priority > 0).map(|(id, _)| id as u16)
    }

    fn highest(&self, choices: &[Choice]) -> usize {
        let priority = |index: &usize| (self.priorities[usize::from(choices[*index].id)], std::cmp::Reverse(*index));
        (0..choices.len()).max_by_key(priority).expect("a choice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::Objects;

    fn choices() -> [Choice; 3] {
        [0, 1, 2].map(|id| Choice { id, actor: id, key: None, objects: Objects::default() })
    }

    fn picked(seed: u64, depth: u8, moves: u32) -> Vec<usize> {
        let (mut pct, mut draw) = (Pct::default(), Draw::new(seed, "pct"));
        pct.begin(&mut draw, depth, moves);
        (0..moves).map(|_| pct.pick(&mut draw, &choices())).collect()
    }

    #[test]
    fn who_moves_changes_at_change_points_only() {
        for seed in 0..200 {
            for depth in 1..5 {
                let picked = picked(seed, depth, 30);
                let changes = picked.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(changes < usize::from(depth), "seed {seed}, depth {depth}: {picked:?}");
            }
        }
    }

    #[test]
    fn each_actor_comes_first_and_each_change_point_falls_everywhere() {
        let first = |actor| (0..300).filter(|seed| picked(*seed, 1, 10)[9] == actor).count();
        assert!((0..3).all(|actor| first(actor) > 70));
        for place in 1..10 {
            let changes = (0..300).filter(|seed| picked(*seed, 2, 10)[place - 1..=place].windows(2).all(|pair| pair[0] != pair[1])).count();
            assert!((15..50).contains(&changes), "{changes} before move {place}");
        }
    }

    #[test]
    fn behind_the_horizon_nobody_starves() {
        let (mut pct, mut draw) = (Pct::default(), Draw::new(1, "pct"));
        pct.begin(&mut draw, 1, 5);
        let picked: Vec<_> = (0..50).map(|_| pct.pick(&mut draw, &choices())).collect();
        assert!(picked[..5].iter().all(|index| *index == picked[0]));
        assert!((0..3).all(|index| picked[5..].contains(&index)));
    }
}
