//! The trace as a timeline: fixed columns, one event per line.
//!
//! What a summary shows is decided by one table, `show`. Numbers in the first column are places in the whole trace, so a line of a
//! summary is found again in the full timeline, and in a violation's `#n`.

use std::collections::{BTreeMap, BTreeSet};

use host::event::{Actor, Event, EventKind, PageRange, Pfn, Stamped};

use super::{Detail, WIDTH, micros, words};
use crate::outcome::{Outcome, PageFacts, name_of};

/// Explains the columns and marks; stands over every timeline.
pub const LEGEND: [&str; 2] = [
    "legend     #: place in the trace; us: virtual microseconds; marks: ! doomed the page, w the lost write, * an injection",
    "           or the first write to a named page; names stand before frames; xN: N events in a row on unnamed pages",
];

/// The columns' heads.
const HEAD: &str = "      #            us  actor        event                   particulars";

/// What a summary does with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    /// A line of its own.
    Always,
    /// A line of its own when it is about a named page; else one line for a run of them.
    NamedOrRun,
    /// A line of its own when it is about a named page; else none.
    Named,
    /// No line.
    Never,
}

/// The table: what a reader of the protocol wants to see.
fn show(kind: EventKind) -> Show {
    use EventKind as K;
    match kind {
        K::GuestReady | K::GuestAllocFail | K::GuestWrite | K::GuestHint | K::GuestReclaim | K::GuestReturn => Show::Always,
        K::GuestCmdId | K::GuestStart | K::GuestStop | K::GuestActual | K::GuestShrink | K::GuestOom => Show::Always,
        K::GuestTask | K::GuestTaskDone | K::GuestNamed | K::GuestWork | K::GuestWorkDone => Show::Always,
        K::GuestWarn | K::GuestCrash | K::DeviceStatus | K::DeviceBroken | K::ConfigCmdId => Show::Always,
        K::HintRequest | K::HintStart | K::HintStop | K::HintDone | K::HintPop | K::HintApply | K::HintIgnore => Show::Always,
        K::HintPush | K::HostDiscard | K::BalloonStats | K::LogStart | K::LogStop => Show::Always,
        K::DirtyGet | K::DirtyMerge | K::VhostMerge | K::BitmapSync | K::AfterSync => Show::Always,
        K::MigrationState | K::Notify | K::Pass | K::DstDevice | K::DstStart | K::VmStop | K::VmStart | K::LinkDown => Show::Always,
        K::Monitor | K::DmaWrite | K::VhostWrite | K::Inject => Show::Always,
        K::GuestInflate | K::GuestDeflate | K::GuestReport | K::BalloonInflate | K::BalloonDeflate => Show::NamedOrRun,
        K::BalloonReport | K::DirtyMark | K::BitmapTake | K::RamRead | K::RamSend | K::DstPlace | K::RamPage => Show::NamedOrRun,
        K::GuestAlloc | K::GuestFree | K::DirtyClear => Show::Named,
        K::GuestAdd | K::GuestGet | K::GuestKick | K::GuestIrq | K::GuestLock | K::GuestUnlock => Show::Never,
        K::DeviceIrq | K::IterateBegin | K::IterateEnd | K::RateLimit | K::LockTake | K::LockRelease => Show::Never,
    }
}

/// Consecutive events of one kind and actor on unnamed pages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    first: usize,
    at_ns: u64,
    actor: Actor,
    kind: EventKind,
    count: u64,
    /// How many of them were zero pages, for kinds that know.
    zero: Option<u64>,
    last_ns: u64,
}

/// Returns the timeline's lines, heads and legend included.
pub fn lines(outcome: &Outcome, detail: Detail) -> Vec<String> {
    let marks = Marks::new(outcome);
    let mut lines: Vec<String> = LEGEND.iter().map(ToString::to_string).collect();
    lines.push(HEAD.to_string());
    let mut run: Option<Run> = None;
    for (index, stamped) in outcome.trace.iter().enumerate() {
        let named = stamped.event.range().is_some_and(|range| !name_of(&outcome.pages, range).is_empty());
        let shown = match detail {
            Detail::Full => Show::Always,
            Detail::Summary if named || marks.at(index) != ' ' => Show::Always,
            Detail::Summary => show(stamped.event.kind()),
        };
        match shown {
            Show::Always => {
                lines.extend(run.take().map(|run| run_line(&run)));
                lines.push(event_line(index, stamped, marks.at(index), &outcome.pages, detail));
            }
            Show::NamedOrRun => match &mut run {
                Some(run) if run.continues_with(stamped) => run.add(stamped),
                other => lines.extend(other.replace(Run::new(index, stamped)).map(|run| run_line(&run))),
            },
            Show::Named | Show::Never => {}
        }
    }
    lines.extend(run.map(|run| run_line(&run)));
    lines
}

impl Run {
    fn new(first: usize, stamped: &Stamped) -> Self {
        let Stamped { at_ns, actor, event } = stamped;
        Self { first, at_ns: *at_ns, actor: *actor, kind: event.kind(), count: 1, zero: zero(event).map(u64::from), last_ns: *at_ns }
    }

    fn continues_with(&self, stamped: &Stamped) -> bool {
        self.actor == stamped.actor && self.kind == stamped.event.kind()
    }

    fn add(&mut self, stamped: &Stamped) {
        assert!(self.last_ns <= stamped.at_ns, "the trace goes back from {} to {} ns", self.last_ns, stamped.at_ns);
        self.count += 1;
        self.zero = self.zero.zip(zero(&stamped.event)).map(|(sum, zero)| sum + u64::from(zero));
        self.last_ns = stamped.at_ns;
    }
}

/// Whether an event found its page to be zero; `None` when it does not look.
fn zero(event: &Event) -> Option<bool> {
    if let Event::RamPage { zero, .. } | Event::RamRead { zero, .. } | Event::RamSend { zero, .. } | Event::DstPlace { zero, .. } = event {
        Some(*zero)
    } else {
        None
    }
}

fn run_line(run: &Run) -> String {
    let split = run.zero.map(|zero| format!(": {} data, {zero} zero", run.count - zero)).unwrap_or_default();
    let until = if run.count > 1 { format!(", until {} us", micros(run.last_ns)) } else { String::new() };
    columns(run.first, run.at_ns, run.actor, ' ', run.kind, &format!("x{}{split}{until}", run.count))
}

/// Returns the line of one event; in a summary a guest's long message is cut, to stand whole in the report's other parts.
pub fn event_line(index: usize, stamped: &Stamped, mark: char, pages: &BTreeMap<String, PageFacts>, detail: Detail) -> String {
    let names = stamped.event.range().map(|range| names(pages, range)).unwrap_or_default();
    let words = words::particulars(&stamped.event);
    let particulars = match (names.is_empty(), words.is_empty()) {
        (true, _) => words,
        (false, true) => names,
        (false, false) => format!("{names} {words}"),
    };
    let line = columns(index, stamped.at_ns, stamped.actor, mark, stamped.event.kind(), &particulars);
    match detail {
        Detail::Summary => cut(line),
        Detail::Full => line,
    }
}

/// Returns the names of the pages in a range, in one word.
pub fn names(pages: &BTreeMap<String, PageFacts>, range: PageRange) -> String {
    name_of(pages, range).join(",")
}

fn columns(index: usize, at_ns: u64, actor: Actor, mark: char, kind: EventKind, particulars: &str) -> String {
    let line = format!("{index:>7}  {:>12}  {:<10} {mark} {:<22}  {particulars}", micros(at_ns), actor.to_string(), kind.name());
    line.trim_end().to_string()
}

fn cut(line: String) -> String {
    if line.chars().count() <= WIDTH {
        return line;
    }
    let kept: String = line.chars().take(WIDTH - 3).collect();
    format!("{kept}...")
}

/// Whether an event is somebody's store to guest memory.
fn is_write(event: &Event) -> bool {
    matches!(event, Event::GuestWrite { .. } | Event::DmaWrite { .. } | Event::VhostWrite { .. })
}

/// Marks by place in the trace.
struct Marks {
    dooms: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    firsts: BTreeSet<usize>,
}

impl Marks {
    fn new(outcome: &Outcome) -> Self {
        let dooms = outcome.violations.iter().filter_map(|violation| violation.doom).collect();
        let lost = outcome.violations.iter().filter_map(|violation| violation.write).collect();
        let mut unwritten: BTreeSet<Pfn> = outcome.pages.values().filter_map(|facts| facts.pfn).collect();
        let mut firsts = BTreeSet::new();
        for (index, stamped) in outcome.trace.iter().enumerate() {
            let injected = matches!(stamped.event, Event::Inject { .. });
            let written = stamped.event.range().filter(|_| is_write(&stamped.event)).is_some_and(|range| {
                let before = unwritten.len();
                unwritten.retain(|pfn| !range.contains(*pfn));
                unwritten.len() < before
            });
            if injected || written {
                firsts.insert(index);
            }
        }
        Self { dooms, lost, firsts }
    }

    /// The step that doomed a page matters more than the write, and that more than its being the first.
    fn at(&self, index: usize) -> char {
        if self.dooms.contains(&index) {
            '!'
        } else if self.lost.contains(&index) {
            'w'
        } else if self.firsts.contains(&index) {
            '*'
        } else {
            ' '
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn of(events: Vec<Stamped>) -> Vec<String> {
        let mut outcome = sample::lost_page();
        outcome.violations.clear();
        outcome.trace = events;
        lines(&outcome, Detail::Summary).split_off(LEGEND.len() + 1)
    }

    #[test]
    fn a_run_of_unnamed_pages_is_one_line_and_noise_does_not_break_it() {
        let page = |at_ns, pfn, zero| sample::at(at_ns, Actor::Migration, Event::RamPage { pfn: Pfn(pfn), zero, round: 1 });
        let kick = sample::at(15, Actor::Vcpu(0), Event::GuestKick { queue: 3 });
        let lines = of(vec![page(10, 1, false), kick, page(20, 2, true), page(30, sample::P.0, false), page(40, 3, false)]);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[0].ends_with("ram.page                x2: 1 data, 1 zero, until 0.020 us"), "{}", lines[0]);
        assert!(lines[1].ends_with("ram.page                P 0x207, data, round 1"), "{}", lines[1]);
        assert!(lines[2].ends_with("ram.page                x1: 1 data, 0 zero"), "{}", lines[2]);
    }

    #[test]
    fn a_clear_is_shown_only_where_a_named_page_lies_in_it() {
        let clear = |first| sample::at(1, Actor::Migration, Event::DirtyClear { range: PageRange::new(Pfn(first), 64), cleared: 1 });
        let lines = of(vec![clear(0x100), clear(0x200)]);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].starts_with("      1 "), "{}", lines[0]);
    }

    #[test]
    fn a_doom_step_is_shown_even_where_its_kind_is_noise() {
        let mut outcome = sample::lost_page();
        outcome.trace = vec![sample::at(1, Actor::Iothread, Event::LockTake { lock: host::event::LockId::Bql })];
        outcome.violations[0].doom = Some(0);
        let lines = lines(&outcome, Detail::Summary);
        assert!(lines.last().expect("one line").contains("! lock.take"), "{lines:#?}");
    }

    #[test]
    fn only_the_first_write_of_a_named_page_is_marked() {
        let write = |at_ns| sample::at(at_ns, Actor::Vcpu(1), Event::GuestWrite { pfn: sample::P, len: 8 });
        let lines = of(vec![write(1), write(2)]);
        assert!(lines[0].contains(" * guest.write"), "{}", lines[0]);
        assert!(!lines[1].contains('*'), "{}", lines[1]);
    }

    #[test]
    fn the_full_timeline_has_a_line_for_every_event() {
        let outcome = sample::lost_page();
        assert_eq!(lines(&outcome, Detail::Full).len(), LEGEND.len() + 1 + outcome.trace.len());
    }

    #[test]
    fn no_line_of_a_summary_is_wider_than_a_terminal() {
        let warn = sample::at(1, Actor::Vcpu(0), Event::GuestWarn { message: "x".repeat(300) });
        for line in LEGEND.iter().map(ToString::to_string).chain(of(vec![warn])) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
