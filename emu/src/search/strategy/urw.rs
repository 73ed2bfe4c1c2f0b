//! URW of Zhao, Wolff, Mathur, Roychoudhury, "Selectively uniform concurrency testing" (ASPLOS 2025): who has many moves before it moves more often.
//!
//! A random walk favours schedules in which short threads are early. When each thread is weighed by the number of its moves that are left, every
//! interleaving of independent threads is as likely. The numbers come from a pilot.

use super::super::draw::Draw;
use super::super::system::Choice;
use super::super::walk::Pilot;
use super::of_id;

/// What the strategy remembers within a schedule.
#[derive(Debug, Clone, Default)]
pub(super) struct Urw {
    /// Moves made, by id.
    made: Vec<u32>,
}

impl Urw {
    pub(super) fn begin(&mut self) {
        self.made.fill(0);
    }

    pub(super) fn pick(&mut self, draw: &mut Draw, pilot: &Pilot, choices: &[Choice]) -> usize {
        let total = choices.iter().map(|choice| self.weight(pilot, choice.id)).sum();
        let mut rest = draw.below(total);
        for (index, choice) in choices.iter().enumerate() {
            let weight = self.weight(pilot, choice.id);
            if rest < weight {
                return index;
            }
            rest -= weight;
        }
        unreachable!("a number below the sum of all weights falls into one of them")
    }

    pub(super) fn made(&mut self, id: u16) {
        *of_id(&mut self.made, id) += 1;
    }

    /// Moves that are left, as far as is known: at least the one that waits.
    fn weight(&self, pilot: &Pilot, id: u16) -> u64 {
        let made = self.made.get(usize::from(id)).copied().unwrap_or(0);
        u64::from(pilot.expected(id).saturating_sub(made).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::Objects;

    #[test]
    fn schedules_of_independent_actors_are_equally_likely() {
        // One move of actor 0 among four of actor 1: five places.
        let pilot = Pilot { expected: vec![1, 4], moves: 5 };
        let choice = |id| Choice { id, actor: id, key: None, objects: Objects::default() };
        let mut places = [0u32; 5];
        for seed in 0..10_000 {
            let (mut urw, mut draw) = (Urw::default(), Draw::new(seed, "urw"));
            let place = (0..4)
                .find(|_| {
                    let index = urw.pick(&mut draw, &pilot, &[choice(0), choice(1)]);
                    urw.made(index as u16);
                    index == 0
                })
                .unwrap_or(4);
            places[place] += 1;
        }
        assert!(places.iter().all(|count| count.abs_diff(2_000) < 150), "{places:?}");
    }

    #[test]
    fn who_has_made_more_moves_than_expected_still_moves() {
        let pilot = Pilot { expected: vec![1], moves: 1 };
        let choice = |id| Choice { id, actor: id, key: None, objects: Objects::default() };
        let (mut urw, mut draw) = (Urw::default(), Draw::new(1, "urw"));
        for _ in 0..10 {
            urw.made(0);
        }
        let picked: Vec<_> = (0..20).map(|_| urw.pick(&mut draw, &pilot, &[choice(0), choice(7)])).collect();
        assert!(picked.contains(&0) && picked.contains(&1), "{picked:?}");
    }
}
