//! The museum of faults: which scenarios notice which fault, and how soon a search comes upon one from a scenario that orders nothing.
//!
//! A fault that nothing notices is a hole in the scenarios or in the oracle; a scenario that no fault changes may be looking at nothing. [`Row`] is what
//! one scenario makes of the faults, [`Matrix`] what many do; [`Hunt`] is a search of the neutral scenarios with one fault by one strategy.

mod hunt;
mod matrix;

pub use hunt::{BLOCK_LEN, First, Hunt, Hunted, MOVES_MAX, Neutral, STRATEGIES};
pub use matrix::{Cell, Matrix, Row, Shown};

use host::fault::Effect;

use crate::outcome::Verdict;

/// Returns the verdict by which a run shows a fault's effect as such, and not merely something on the way to it.
pub fn verdict_of(effect: Effect) -> Verdict {
    match effect {
        Effect::Loss => Verdict::LostPage,
        Effect::OverSend => Verdict::OverSend,
        Effect::Leak => Verdict::Leak,
        Effect::Crash => Verdict::GuestCrash,
        Effect::Rule => Verdict::BrokenRule,
        Effect::Hang => Verdict::Stall,
    }
}
