//! POS of Yuan, Yang, Gu, "Partial order aware concurrency sampling" (CAV 2018): a random priority for each move that waits; the highest moves; what
//! conflicts with it gets a new one.
//!
//! A move keeps its priority while it waits, so two moves that have nothing to do with each other do not disturb a third; those that conflict with the
//! one just made start anew, so each order of conflicting moves has its chance.

use super::super::draw::Draw;
use super::super::system::{Choice, Objects};
use super::of_id;

/// What the strategy remembers within a schedule.
#[derive(Debug, Clone, Default)]
pub(super) struct Pos {
    /// Priorities by id; 0: not drawn yet.
    priorities: Vec<u64>,
}

impl Pos {
    pub(super) fn begin(&mut self) {
        self.priorities.fill(0);
    }

    pub(super) fn pick(&mut self, draw: &mut Draw, choices: &[Choice]) -> usize {
        let (mut best, mut highest) = (0, 0);
        for (index, choice) in choices.iter().enumerate() {
            let priority = of_id(&mut self.priorities, choice.id);
            if *priority == 0 {
                *priority = draw.bits() | 1;
            }
            if *priority > highest {
                (best, highest) = (index, *priority);
            }
        }
        best
    }

    pub(super) fn made(&mut self, choices: &[Choice], index: usize, used: &Objects) {
        for (other, choice) in choices.iter().enumerate() {
            if other == index || choice.objects.conflict(used) {
                *of_id(&mut self.priorities, choice.id) = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_conflicts_with_the_move_just_made_gets_a_new_priority_and_nothing_else() {
        let choice = |id, changed| Choice { id, actor: id, key: None, objects: Objects { shared: 0, changed } };
        let choices = [choice(0, 1), choice(1, 1), choice(2, 2)];
        let (mut pos, mut draw) = (Pos::default(), Draw::new(3, "pos"));
        pos.pick(&mut draw, &choices);
        let before = pos.priorities.clone();
        assert!(before.iter().all(|priority| *priority > 0));
        pos.made(&choices, 0, &choices[0].objects);
        assert_eq!(pos.priorities, [0, 0, before[2]]);
        pos.pick(&mut draw, &choices);
        assert!(pos.priorities[0] != before[0] && pos.priorities[1] != before[1] && pos.priorities[2] == before[2]);
    }
}
