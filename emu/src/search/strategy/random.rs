//! Random walk: each move that can be made is as likely.

use super::super::draw::Draw;
use super::super::system::Choice;

/// Returns the index of the move to make.
pub(super) fn pick(draw: &mut Draw, choices: &[Choice]) -> usize {
    draw.below(choices.len() as u64) as usize
}
