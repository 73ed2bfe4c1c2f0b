//! What a scenario says must come out, and when its run is given up.

use std::collections::BTreeMap;

use super::PageName;
use crate::outcome::{Blame, Verdict};

/// What must come out. What is not named is free, but for the verdict: `pass` when none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// How the run ends.
    pub verdict: Verdict,
    /// Whose fault a violation is.
    pub blame: Option<Blame>,
    /// About named pages.
    pub sent: BTreeMap<PageName, SentExpect>,
    /// Number of syncs.
    pub rounds: Option<u64>,
    /// The command ids that the configuration showed, without repeats.
    pub cmd_ids: Option<Vec<u32>>,
    /// The command id that the destination's device shows.
    pub destination_cmd_id: Option<u32>,
    /// Events that must have happened this often.
    pub events: BTreeMap<String, CountExpect>,
    /// Instructions of the longest stretch with interrupts disabled.
    pub irq_off_insns: Option<CountExpect>,
    /// How long who was held up.
    pub blocked: Vec<BlockedExpect>,
    /// How long who spun.
    pub spun: Vec<SpunExpect>,
}

impl Default for Expect {
    /// The run passes; all else is free.
    fn default() -> Self {
        Self {
            verdict: Verdict::Pass,
            blame: None,
            sent: BTreeMap::new(),
            rounds: None,
            cmd_ids: None,
            destination_cmd_id: None,
            events: BTreeMap::new(),
            irq_off_insns: None,
            blocked: Vec::new(),
            spun: Vec::new(),
        }
    }
}

/// How long somebody must have looked for something to do, without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpunExpect {
    /// Who.
    pub who: &'static str,
    /// Nanoseconds.
    pub ns: CountExpect,
}

/// How long somebody must have been held up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedExpect {
    /// Who.
    pub who: &'static str,
    /// By what; `None`: by all together.
    pub on: Option<&'static str>,
    /// Nanoseconds.
    pub ns: CountExpect,
}

/// What must be true of a page's sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SentExpect {
    /// First byte of the page's last copy at the destination.
    pub last: Option<u8>,
    /// Fewest times sent.
    pub min: Option<u64>,
    /// Most times sent.
    pub max: Option<u64>,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountExpect {
    /// At least.
    pub min: Option<u64>,
    /// At most.
    pub max: Option<u64>,
}

/// When a run is given up, with verdict stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Virtual time, nanoseconds.
    pub time_ns: u64,
    /// Steps of all actors.
    pub steps: u64,
    /// Guest instructions between two of a vCPU's events.
    pub step_insns: u64,
    /// The memory manager's rules are checked after every so many steps that change what they are about; 0: at the end alone.
    pub check_mm: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_ns: 60_000_000_000, steps: 20_000_000, step_insns: 50_000_000, check_mm: 1 }
    }
}
