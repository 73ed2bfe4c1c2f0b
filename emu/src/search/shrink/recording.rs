//! The failing schedule, replayed once and written down.

use super::NotShrunk;
use crate::search::system::{Ending, Footprint, Happening, System};

/// A move of the failing schedule.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    /// The choice's id: who or what moved.
    pub(super) id: u16,
    /// All its events, under all their keys.
    pub(super) happened: Vec<Happening>,
    /// How many of those belong to the announced event: these can be held back.
    pub(super) announced: usize,
    /// What it used.
    pub(super) footprint: Footprint,
}

impl Recorded {
    /// Returns the keys under which the move can be held back.
    pub(super) fn door(&self) -> &[Happening] {
        &self.happened[..self.announced]
    }
}

/// Replays a schedule from the system's present state; returns its moves and how it ended.
pub(super) fn record<S: System>(system: &mut S, choices: &[u16]) -> Result<(Vec<Recorded>, Ending), NotShrunk> {
    let mut moves: Vec<Recorded> = Vec::with_capacity(choices.len());
    let mut offered = Vec::new();
    for (at, id) in choices.iter().enumerate() {
        system.choices(&mut offered);
        let Some(choice) = offered.iter().copied().find(|choice| choice.id == *id) else { return Err(NotShrunk::NoSuchChoice { at }) };
        system.take(choice);
        let step = system.step();
        let announced = choice.key.map_or(0, |key| first_event(&step.happened, key.kind));
        moves.push(Recorded { id: *id, happened: step.happened.clone(), announced, footprint: step.footprint.clone() });
    }
    system.choices(&mut offered);
    if !offered.is_empty() {
        return Err(NotShrunk::NotOver { moves: choices.len() });
    }
    Ok((moves, system.ending()))
}

/// Returns how many of a move's happenings belong to its first event: those at the start that are of its kind, each key once. A second event of
/// the same kind repeats a key.
fn first_event(happened: &[Happening], kind: u16) -> usize {
    let repeated = |at: usize| happened[..at].iter().any(|earlier| earlier.key == happened[at].key);
    (0..happened.len()).find(|at| happened[*at].key.kind != kind || repeated(*at)).unwrap_or(happened.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::system::Key;

    #[test]
    fn a_second_event_of_the_same_kind_is_not_announced() {
        let happening = |kind, page, nth| Happening { key: Key { kind, page }, nth };
        let twice = [happening(3, Key::NO_PAGE, 1), happening(3, 0, 1), happening(3, Key::NO_PAGE, 2), happening(3, 1, 1)];
        assert_eq!(first_event(&twice, 3), 2);
        assert_eq!(first_event(&[happening(3, 0, 1), happening(4, 0, 1)], 3), 1);
        assert_eq!(first_event(&[happening(4, 0, 1)], 3), 0);
        assert_eq!(first_event(&[], 3), 0);
    }
}
