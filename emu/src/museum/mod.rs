//! The museum of faults: which scenarios notice which fault, and how soon a search comes upon one from a scenario that orders nothing.
//!
//! A fault that nothing notices is a hole in the scenarios or in the oracle; a scenario that no fault changes may be looking at nothing. [`Row`] is what
//! one scenario makes of the faults, [`Matrix`] what many do; [`Hunt`] is a search of the neutral scenarios with one fault by one strategy.

mod asking;
mod hunt;
mod matrix;
mod page;
mod room;

pub use hunt::{BLOCK_LEN, First, Hunt, Hunted, MOVES_MAX, Neutral, STRATEGIES};
pub use matrix::{Cell, Matrix, Row, Shown, run_flipped};
pub use page::page;
pub use room::Room;

use host::fault::{Catalogue, Effect, Fault};

use crate::outcome::Verdict;
use crate::scenario::Scenario;
use crate::scenario::model::Driver;

/// Returns whether a fault is one of a host that speaks the merged interface, and not of a guest or of an interface that was never merged.
pub fn is_of_merged_host(fault: Fault) -> bool {
    matches!(fault.catalogue(), Catalogue::Vmm | Catalogue::Mutation)
}

/// Returns whether a scenario of this name is run with a fault that nobody asked for by name: a host's with all that have the merged driver; of
/// those, what lies on a hint's way into the bitmaps also with the other interfaces' scenarios that are to pass; and any other where a scenario speaks
/// of it.
pub fn is_shown(name: &str, scenario: &Scenario, fault: Fault) -> bool {
    let on_hints_way = || matches!(Room::of(fault), Room::Hinting | Room::Bitmaps | Room::OtherVmms | Room::Mutations);
    let of_host = || scenario.guest.driver == Driver::Hint || matrix::is_to_pass(name) && on_hints_way();
    is_of_merged_host(fault) && of_host() || scenario.witness.contains(&fault) || scenario.faults.contains(&fault)
}

/// Faults that lose pages and that no search has found from a neutral scenario, by any of [`STRATEGIES`], and why.
pub const UNFOUND: &[(Fault, &str)] = &[
    (Fault::BitmapOffByOne, "page 0 has to be a page that somebody writes or leaves alone on purpose; no neutral guest has a reason to"),
    (Fault::DiscardHostPage, "the searches of the guest with large host pages did not come to where it is asked for"),
    (Fault::PartialIgnoresDeflate, "the searches of the guest with large host pages did not come to where it is asked for"),
    (Fault::PartialOutlivesElement, "the searches of the guest with large host pages did not come to where it is asked for"),
    (Fault::PartialManyBits, "the searches of the guest with large host pages did not come to where it is asked for"),
    (Fault::InhibitLastWins, "needs a snapshot beside an assigned device, and there is no neutral guest with both"),
    (
        Fault::HintStartUnlocked,
        "asked for, but the schedules that were drawn showed nothing but early reuse, which the same guest meets without it",
    ),
    (Fault::HostPageAsOne, "asked for, but the schedules that were drawn did not show it"),
    (Fault::TlbRearmedAtZero, "asked for, but the schedules that were drawn did not show it"),
    (Fault::ShortBlockByWords, "asked for, but the schedules that were drawn did not show it"),
    (Fault::ResizeUnnoticed, "what it does ends like a loss that the same guest can have without it, and so does not count"),
    (
        Fault::SliceWithoutMutex,
        "a hint and the sending of its page have to meet in one word of B, and the schedules that were drawn did not show it",
    ),
    (Fault::ZeroLeavesCache, "asked for, but the schedules that were drawn did not show it"),
];

/// Returns whether a verdict is a side's death or endless wait. That breaks no rule of the oracle's: it says all by itself.
pub fn ends_all(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::HostCrash | Verdict::GuestCrash | Verdict::Stall | Verdict::Deadlock)
}

/// Returns the verdict by which a run shows a fault's effect as such, and not merely something on the way to it.
pub fn verdict_of(effect: Effect) -> Verdict {
    match effect {
        Effect::Loss => Verdict::LostPage,
        Effect::OverSend => Verdict::OverSend,
        Effect::Leak => Verdict::Leak,
        Effect::GuestCrash => Verdict::GuestCrash,
        Effect::HostCrash => Verdict::HostCrash,
        Effect::Rule | Effect::WrongStatistics => Verdict::BrokenRule,
        Effect::Stall => Verdict::Stall,
        Effect::Deadlock => Verdict::Deadlock,
    }
}
