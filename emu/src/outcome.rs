//! How a run ended: verdict, facts, trace. What a report is written from, and what two runs are compared by.

use std::collections::BTreeMap;

use host::event::{CmdId, MigrationStatus, PageRange, Pfn, Stamped};
use host::fault::FaultSet;

/// How a run ended. The order is that of precedence: what stands first wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The VMM died: an assertion of its own, or an access to what is not there.
    HostCrash,
    /// The guest panicked, or touched what it must not.
    GuestCrash,
    /// A page's last write did not arrive.
    LostPage,
    /// A rule of the model's own bookkeeping or of the protocol was broken, though no page is lost.
    BrokenRule,
    /// Guest memory did not come back.
    Leak,
    /// A page was sent that the host knew it need not send.
    OverSend,
    /// Actors wait for each other in a circle.
    Deadlock,
    /// The order that the scenario asks for cannot come about.
    Unreachable,
    /// Nothing ended the run before its limits.
    Stall,
    /// All is well.
    Pass,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: &'static [Verdict] = &[
        Verdict::HostCrash,
        Verdict::GuestCrash,
        Verdict::LostPage,
        Verdict::BrokenRule,
        Verdict::Leak,
        Verdict::OverSend,
        Verdict::Deadlock,
        Verdict::Unreachable,
        Verdict::Stall,
        Verdict::Pass,
    ];

    /// Returns the verdict's name in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::HostCrash => "host-crash",
            Verdict::GuestCrash => "guest-crash",
            Verdict::LostPage => "lost-page",
            Verdict::BrokenRule => "broken-rule",
            Verdict::Leak => "leak",
            Verdict::OverSend => "over-send",
            Verdict::Deadlock => "deadlock",
            Verdict::Unreachable => "unreachable",
            Verdict::Stall => "stall",
            Verdict::Pass => "pass",
        }
    }
}

/// Whose fault a violation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blame {
    /// The host dropped what it was told.
    Host,
    /// The guest used a page before the device had consumed its hint.
    Guest,
    /// Both sides kept the rules.
    Gap,
}

impl Blame {
    /// Returns the name in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Blame::Host => "host",
            Blame::Guest => "guest",
            Blame::Gap => "gap",
        }
    }
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name, such as `hinted-then-written-is-sent`.
    pub rule: &'static str,
    /// The verdict it leads to.
    pub verdict: Verdict,
    /// The page, if it is about one.
    pub page: Option<Pfn>,
    /// Index in the trace of the write that was lost.
    pub write: Option<usize>,
    /// Index in the trace of the step that doomed it.
    pub doom: Option<usize>,
    /// Whose fault.
    pub blame: Blame,
    /// How it came about, in words that are the same for the same defect; of what is lost.
    pub cause: Option<&'static str>,
    /// What happened, in one sentence with the values.
    pub what: String,
}

/// Who waits for what, at the end of a run that could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Who.
    pub who: String,
    /// Would do or take.
    pub wants: String,
    /// But waits for.
    pub waits_for: String,
}

/// The guest's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCrash {
    /// On which vCPU.
    pub vcpu: u8,
    /// What happened.
    pub message: String,
    /// Function names, innermost first, `name+0xoffset`.
    pub backtrace: Vec<String>,
}

/// What became of a named page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFacts {
    /// The frame, once known.
    pub pfn: Option<Pfn>,
    /// Times on the wire, in the last migration.
    pub sent: u64,
    /// First byte at the source at the end.
    pub source_byte: u8,
    /// First byte at the destination at the end; `None` when it never arrived.
    pub destination_byte: Option<u8>,
    /// Whether source and destination are equal, byte by byte.
    pub equal: bool,
    /// Why a difference would be fine.
    pub excused: Option<&'static str>,
}

/// Numbers of a run. Of several migrations, the page counts are the last one's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Virtual time at the end, nanoseconds.
    pub time_ns: u64,
    /// Guest instructions executed, by vCPU.
    pub insns: Vec<u64>,
    /// Steps of all actors.
    pub steps: u64,
    /// Pages sent as data, every time counted.
    pub pages_normal: u64,
    /// Pages sent as zero records.
    pub pages_zero: u64,
    /// Pages that were never sent.
    pub pages_skipped: u64,
    /// Times that a page was sent again.
    pub pages_resent: u64,
    /// Blocks hinted by the guest.
    pub hints: u64,
    /// Pages cleared by hints.
    pub pages_hinted: u64,
    /// Bitmap syncs.
    pub rounds: u64,
    /// Bytes on the wire.
    pub bytes_sent: u64,
    /// From VM stop to the destination's start, nanoseconds.
    pub downtime_ns: u64,
    /// Command ids that the configuration showed, without repeats.
    pub cmd_ids: Vec<CmdId>,
    /// The id at the destination.
    pub destination_cmd_id: Option<CmdId>,
    /// How each migration ended.
    pub migrations: Vec<MigrationStatus>,
    /// Blocks that the guest still holds for hinting at the end.
    pub held_blocks: u64,
    /// Pages that were sent after a hint of them was applied, though the guest had not written them since it announced the hint.
    pub pages_wrongly_resent: u64,
    /// Pages that were sent after a hint of them was applied, written since.
    pub pages_resent_hinted: u64,
    /// The longest run of guest instructions on a vCPU with interrupts disabled, from the first migration's start on, or from the driver's being up
    /// when there is none. Injected stores do not count.
    pub irq_off_insns_max: u64,
    /// The guest's function in which interrupts were disabled for that; for an interrupt's handler its entry.
    pub irq_off_in: Option<String>,
    /// The smallest number of pages in the buddy allocator's lists (NR_FREE_PAGES, all zones) since then, seen wherever a zone's lock is
    /// released; `None` when the driver never was up.
    pub free_pages_min: Option<u64>,
    /// The smallest number of pages in free blocks of the largest order, likewise.
    pub free_pages_max_order_min: Option<u64>,
    /// How long who waited for what: locks, and what others do.
    pub blocked: Vec<BlockedTime>,
    /// How long who spun with nothing to do.
    pub spun: Vec<SpinTime>,
}

/// A time that somebody spent looking for something to do, without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpinTime {
    /// Who.
    pub who: String,
    /// All such times together, nanoseconds.
    pub ns: u64,
    /// How many looks that are.
    pub looks: u64,
}

/// A time that somebody spent waiting in the middle of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedTime {
    /// Who.
    pub who: String,
    /// For what: a lock's name, or what another actor does.
    pub on: String,
    /// All such waits together, nanoseconds.
    pub ns: u64,
}

/// All that is known of a finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Broken rules, in the order of discovery.
    pub violations: Vec<Violation>,
    /// Open waits, for unreachable, deadlock and stall.
    pub waits: Vec<Wait>,
    /// The guest's end.
    pub crash: Option<GuestCrash>,
    /// Named pages.
    pub pages: BTreeMap<String, PageFacts>,
    /// Numbers.
    pub facts: Facts,
    /// Every event, in order.
    pub trace: Vec<Stamped>,
    /// XXH3-128 over all events.
    pub digest: u128,
    /// What differs from the scenario's expectations; empty when it ended as its file says.
    pub unexpected: Vec<String>,
    /// Faults that the host's code asked for, and all of the guest's, whose asking is not seen. With any other fault beside, the run is the same.
    pub asked: FaultSet,
}

/// Pages by name, for reports: the name of a page if it has one.
pub fn name_of(pages: &BTreeMap<String, PageFacts>, range: PageRange) -> Vec<&str> {
    pages.iter().filter(|(_, facts)| facts.pfn.is_some_and(|pfn| range.contains(pfn))).map(|(name, _)| name.as_str()).collect()
}
