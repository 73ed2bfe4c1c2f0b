//! The keys of searches.

use super::super::words::{dirty_logs, drivers, faults, grains, profiles};
use super::ranges::{ANY, CHUNK, HINT_QUEUE, QUEUE, VCPUS};
use super::{Kind, Table, key};

pub(super) static SEARCH: Table = Table {
    title: "[search]",
    keys: &[
        key("from", "From this event on the search chooses; default: guest.ready.", Kind::Pattern),
        key("until", "Behind this event the default schedule goes on; default: none, the search chooses to the end.", Kind::Pattern),
        key("grain", "What a scheduling point is.", Kind::Word("grain", grains)).default("\"event\""),
        key(
            "check_mm",
            "The rules of the guest's free lists are looked at in one of so many states behind a guest's move, drawn by the state; 0: at the end of schedules alone.",
            Kind::Integer(ANY),
        )
        .default("0"),
    ],
};

pub(super) static VARY: Table = Table {
    title: "[vary]",
    keys: &[
        key("profile", "Profiles; host settings that are the old one's defaults follow.", Kind::Words("profile", profiles)).default("[]"),
        key("dirty_log", "Dirty logs.", Kind::Words("dirty log", dirty_logs)).default("[]"),
        key("chunk", "Sizes of a CLEAR (only with manual-clear).", Kind::Several(&Kind::SizePowerOfTwo(CHUNK))).default("[]"),
        key("hint_queue_size", "Sizes of the hint queue.", Kind::Several(&Kind::PowerOfTwo(HINT_QUEUE))).default("[]"),
        key("queue_size", "Sizes of the other queues but reporting's.", Kind::Several(&Kind::PowerOfTwo(QUEUE))).default("[]"),
        key("vcpus", "Numbers of vCPUs.", Kind::Several(&Kind::Integer(VCPUS))).default("[]"),
        key("driver", "Interfaces of the balloon driver.", Kind::Words("driver", drivers)).default("[]"),
        key("faults", "Faults of which at most one is on, beside those of `faults`.", Kind::Words("fault", faults)).default("[]"),
    ],
};

pub(super) static FOUND: Table = Table {
    title: "[found]",
    keys: &[
        key("scenario", "The scenario that was searched.", Kind::Text).required(),
        key("seed", "Seed of the schedule that failed.", Kind::Text).required(),
        key("strategy", "Strategy that drew it.", Kind::Text).required(),
        key("schedules", "Schedules tried until then.", Kind::Integer(ANY)).required(),
    ],
};
