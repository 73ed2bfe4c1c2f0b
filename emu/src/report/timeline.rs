//! The trace as a timeline: fixed columns, one event per line.
//!
//! What a summary shows is decided by one table, `show`, and by what the scenario itself speaks of: that is always shown. It starts when the
//! guest's driver is up, and leaves out the middle of a long run. Numbers in the first column are places in the whole trace, so a line of
//! a summary is found again in the full timeline, and in a violation's `#n`.

use std::collections::{BTreeMap, BTreeSet};

use host::event::{Actor, Event, EventKind, PageRange, Pfn, Stamped};

use super::{Detail, Subject, WIDTH, micros, stable, text, words};
use crate::outcome::{Outcome, PageFacts, name_of};

/// Explains the columns and marks; stands over every timeline.
pub const LEGEND: [&str; 2] = [
    "legend     #: place in the trace; us: virtual microseconds; marks: ! doomed the page, w the lost write, * an injection",
    "           or the first write to a named page; names stand before frames; xN: N events in a row on unnamed pages",
];

/// The columns' heads.
const HEAD: &str = "      #            us  actor        event                   particulars";

/// Lines of a summary's timeline that are kept whatever they say: so many of the first ones and of the last ones. A migration of many
/// rounds repeats itself in between.
const FIRST_LINES: usize = 24;
const LAST_LINES: usize = 10;
/// So many lines stay before the step that doomed a page: they tell how it came to that.
const BEFORE_DOOM_LINES: usize = 12;
/// Events of which the scenario speaks stay when there are no more of the kind.
const ASKED_EVENTS: usize = 6;
/// So few lines in a row are not worth a note that they are left out.
const GAP_LINES: usize = 4;

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
fn show(event: &Event) -> Show {
    use EventKind as K;
    match event.kind() {
        K::GuestReady | K::GuestAllocFail | K::GuestWrite | K::GuestHint | K::GuestReclaim | K::GuestReturn => Show::Always,
        K::GuestCmdId | K::GuestStart | K::GuestStop | K::GuestActual | K::GuestShrink | K::GuestOom | K::GuestMissing | K::GuestTask => {
            Show::Always
        }
        K::GuestWarn | K::GuestCrash | K::DeviceStatus | K::DeviceBroken => Show::Always,
        K::HintRequest | K::HintAsk | K::HintStart | K::HintStop | K::HintDone | K::HintPop | K::HintApply | K::HintIgnore => Show::Always,
        K::BalloonStats | K::BalloonOddStats | K::VhostMerge | K::BitmapSync => Show::Always,
        K::MigrationState | K::DstDevice | K::DstStart | K::VmStop | K::VmStart | K::LinkDown => Show::Always,
        K::Monitor | K::DmaWrite | K::VhostWrite | K::Inject => Show::Always,
        K::GuestInflate | K::GuestDeflate | K::GuestReport | K::BalloonInflate | K::BalloonDeflate => Show::NamedOrRun,
        K::GuestIsolate | K::GuestPutback | K::GuestDequeue | K::GuestMigratePage | K::GuestMigrateDone => Show::NamedOrRun,
        K::BalloonReport | K::HostDiscard | K::DirtyMark | K::RamSend | K::RamSkip | K::RamDelta | K::RamPage => Show::NamedOrRun,
        K::RingReap => Show::Never,
        K::RingReset => Show::Never,
        K::BitmapLoad => Show::NamedOrRun,
        K::BitmapStore => Show::NamedOrRun,
        K::DstDiscard => Show::NamedOrRun,
        K::SnapshotFault => Show::NamedOrRun,
        K::SnapshotUnprotect => Show::NamedOrRun,
        K::ChannelQueue => Show::NamedOrRun,
        K::HintNewId => Show::Named,
        K::LinkStall => Show::Always,
        K::LinkResume => Show::Always,
        K::LimitRate => Show::Named,
        K::LimitSleep => Show::NamedOrRun,
        K::ReturnRequest => Show::Named,
        K::GuestAlloc | K::GuestFree | K::DirtyClear => Show::Named,
        K::HostCrash => Show::Always,
        K::RingFull => Show::Always,
        K::SlotDelete => Show::Always,
        K::SlotCreate => Show::Always,
        K::ChannelSync => Show::Always,
        K::PostcopyStart => Show::Always,
        K::DstFault => Show::Always,
        K::DstRequest => Show::Always,
        K::Throttle => Show::Always,
        K::VhostLogStart => Show::Always,
        K::IommuUnmap => Show::Always,
        K::Pin => Show::Always,
        K::DstRefuse => Show::Always,
        K::DstEnd => Show::Always,
        K::VfioWrite => Show::Always,
        K::VfioMerge => Show::Always,
        K::VhostQueue => Show::Always,
        K::SnapshotStart => Show::Always,
        K::ChannelFlush => Show::Always,
        K::GuestRestart => Show::Always,
        K::MachineReset => Show::Always,
        K::MemPlug => Show::Always,
        K::MemUnplug => Show::Always,
        K::MemBusy => Show::Always,
        K::BitmapExclude => Show::Always,
        K::LimitSet => Show::Always,
        K::LimitPenalty => Show::Always,
        K::GuestTaskDone if matches!(event, Event::GuestTaskDone { ok: false, .. }) => Show::Always,
        // A sync shows as its last part, a page's way as its being sent; a round shows as the sync that starts it.
        K::DirtyGet | K::DirtyMerge | K::AfterSync | K::Notify | K::Pass | K::LogStart | K::LogStop => Show::Never,
        K::BitmapTake | K::RamRead | K::DstPlace => Show::Never,
        K::GuestAdd | K::GuestGet | K::GuestKick | K::GuestIrq | K::GuestLock | K::GuestUnlock | K::ConfigCmdId => Show::Never,
        K::GuestNamed | K::GuestTaskDone | K::GuestWork | K::GuestWorkDone | K::HintPush | K::DeviceIrq => Show::Never,
        K::DeviceKick | K::HintWake | K::HintQuiet | K::HintSleep => Show::Never,
        K::IterateBegin | K::IterateEnd | K::RateLimit | K::LockTake | K::LockRelease => Show::Never,
    }
}

/// Returns what a summary does with an event that the scenario speaks of.
fn show_asked(kind: EventKind) -> Show {
    use EventKind as K;
    let many = [
        K::GuestAlloc,
        K::GuestFree,
        K::GuestInflate,
        K::GuestDeflate,
        K::GuestIsolate,
        K::GuestPutback,
        K::GuestDequeue,
        K::GuestMigratePage,
        K::GuestMigrateDone,
        K::GuestReport,
        K::BalloonInflate,
        K::BalloonDeflate,
        K::BalloonReport,
        K::HostDiscard,
        K::DirtyMark,
        K::DirtyClear,
        K::BitmapTake,
        K::RamRead,
        K::RamSend,
        K::RamSkip,
        K::RamDelta,
        K::DstPlace,
        K::RamPage,
    ];
    if many.contains(&kind) { Show::NamedOrRun } else { Show::Always }
}

/// Events of one kind and actor on unnamed pages, with nothing else shown of that actor in between but other runs.
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

/// A line, and whether it stays when a summary is shortened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// Place of its first event in the trace.
    first: usize,
    line: String,
    stays: bool,
    doom: bool,
}

impl Row {
    fn of_run(run: &Run) -> Self {
        Self { first: run.first, line: run_line(run), stays: false, doom: false }
    }
}

/// A timeline in the making.
struct Timeline<'a> {
    subject: &'a Subject,
    outcome: &'a Outcome,
    detail: Detail,
    marks: Marks,
    /// Where the guest's driver came up: a summary starts there.
    ready: usize,
}

/// Returns the timeline's lines, heads and legend included.
pub fn lines(subject: &Subject, outcome: &Outcome, detail: Detail) -> Vec<String> {
    let is_ready = |stamped: &Stamped| stamped.event == Event::GuestReady;
    let ready = outcome.trace.iter().position(is_ready).unwrap_or(0);
    let timeline = Timeline { subject, outcome, detail, marks: Marks::new(outcome, detail), ready };
    let mut lines: Vec<String> = LEGEND.iter().map(ToString::to_string).collect();
    lines.push(HEAD.to_string());
    let rows = timeline.rows();
    match detail {
        Detail::Full => lines.extend(rows.into_iter().map(|row| row.line)),
        Detail::Summary => lines.extend(shortened(rows)),
    }
    lines
}

impl Timeline<'_> {
    /// Returns the lines in order of their first events. A run goes on while its actor does nothing else that is shown, whatever the
    /// others do meanwhile.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        for (index, stamped) in self.outcome.trace.iter().enumerate() {
            let named = self.is_named(&stamped.event);
            match self.show(index, &stamped.event, named) {
                Show::Always => {
                    rows.extend(runs.extract_if(.., |run| run.actor == stamped.actor).map(|run| Row::of_run(&run)));
                    rows.push(self.row(index, stamped, named));
                }
                Show::NamedOrRun => match runs.iter_mut().find(|run| run.continues_with(stamped)) {
                    Some(run) => run.add(stamped),
                    None => runs.push(Run::new(index, stamped)),
                },
                Show::Named | Show::Never => {}
            }
        }
        rows.extend(runs.iter().map(Row::of_run));
        rows.sort_by_key(|row| row.first);
        rows
    }

    fn is_named(&self, event: &Event) -> bool {
        event.range().is_some_and(|range| !name_of(&self.outcome.pages, range).is_empty())
    }

    fn show(&self, index: usize, event: &Event, named: bool) -> Show {
        let kind = event.kind();
        if self.detail == Detail::Full || self.marks.at(index) != ' ' {
            return Show::Always;
        }
        let asked = self.subject.asked.contains(&kind);
        let shown = if asked { show_asked(kind) } else { show(event) };
        let boot = index < self.ready && !asked && !matches!(kind, EventKind::GuestWarn | EventKind::DeviceBroken);
        match shown {
            _ if boot => Show::Never,
            Show::NamedOrRun | Show::Named if named => Show::Always,
            shown => shown,
        }
    }

    fn row(&self, index: usize, stamped: &Stamped, named: bool) -> Row {
        let mark = self.marks.at(index);
        let mut words = words::particulars(&stamped.event);
        if let Event::Inject { index } = stamped.event
            && let Some(what) = self.subject.injections.get(index as usize)
        {
            words = format!("{words}: {what}");
        }
        let names = stamped.event.range().map(|range| names(&self.outcome.pages, range)).unwrap_or_default();
        let particulars = match (names.is_empty(), words.is_empty()) {
            (true, _) => words,
            (false, true) => names,
            (false, false) => format!("{names} {words}"),
        };
        let line = columns(index, stamped.at_ns, stamped.actor, mark, stamped.event.kind(), &particulars);
        let line = match self.detail {
            Detail::Summary => cut(stable(&line)),
            Detail::Full => line,
        };
        // A CLEAR reaches a whole chunk, whose pages are mostly others.
        let kind = stamped.event.kind();
        let about = named && kind != EventKind::DirtyClear;
        let few = || self.outcome.trace.iter().filter(|stamped| stamped.event.kind() == kind).count() <= ASKED_EVENTS;
        let asked = self.detail == Detail::Summary && self.subject.asked.contains(&kind) && few();
        Row { first: index, line, stays: about || asked || mark != ' ', doom: mark == '!' }
    }
}

/// Leaves out the middle of a long summary, but for the lines on named pages, those with a mark, and what comes before a doom.
fn shortened(rows: Vec<Row>) -> Vec<String> {
    let count = rows.len();
    let mut lines = Vec::new();
    let mut gap = Vec::new();
    let close = |gap: &mut Vec<String>, lines: &mut Vec<String>| match gap.len() {
        0..=GAP_LINES => lines.append(gap),
        left_out => {
            gap.clear();
            lines.push(format!("         ... {left_out} lines left out; --trace shows every event"));
        }
    };
    let dooms: Vec<usize> = rows.iter().enumerate().filter(|(_, row)| row.doom).map(|(index, _)| index).collect();
    for (index, row) in rows.into_iter().enumerate() {
        let before_doom = dooms.iter().any(|doom| (index..index + BEFORE_DOOM_LINES).contains(doom));
        if row.stays || before_doom || index < FIRST_LINES || index + LAST_LINES >= count {
            close(&mut gap, &mut lines);
            lines.push(row.line);
        } else {
            gap.push(row.line);
        }
    }
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
    matches!(event, Event::GuestWrite { .. } | Event::DmaWrite { .. } | Event::VhostWrite { .. } | Event::VfioWrite { .. })
}

/// Marks by place in the trace.
struct Marks {
    dooms: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    firsts: BTreeSet<usize>,
}

impl Marks {
    fn new(outcome: &Outcome, detail: Detail) -> Self {
        let told = || text::told(outcome, detail).into_iter().map(|(violation, _)| violation);
        let dooms = told().filter_map(|violation| violation.doom).collect();
        let lost = told().filter_map(|violation| violation.write).collect();
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
        lines(&sample::subject(), &outcome, Detail::Summary).split_off(LEGEND.len() + 1)
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
    fn a_long_summary_keeps_its_ends_and_what_is_about_named_pages() {
        let sync = |round| sample::at(u64::from(round), Actor::Migration, Event::BitmapSync { round, before: 0, after: 1 });
        let mut events: Vec<Stamped> = (1..=100).map(sync).collect();
        events.insert(60, sample::at(60, Actor::Migration, Event::RamSend { pfn: sample::P, zero: false, round: 60 }));
        let lines = of(events);
        assert_eq!(lines.len(), FIRST_LINES + LAST_LINES + 3, "{lines:#?}");
        assert_eq!(lines[FIRST_LINES], "         ... 36 lines left out; --trace shows every event");
        assert!(lines[FIRST_LINES + 1].contains("ram.send"), "{lines:#?}");
        assert!(lines[FIRST_LINES + 2].contains("... 30 lines"), "{lines:#?}");
    }

    #[test]
    fn what_the_scenario_speaks_of_is_shown_and_what_precedes_the_driver_is_not() {
        let event = |at_ns, event| sample::at(at_ns, Actor::Vcpu(0), event);
        let status = Event::DeviceStatus { status: 0 };
        let mut outcome = sample::pass();
        outcome.trace =
            vec![event(1, status.clone()), event(2, Event::GuestReady), event(3, status), event(4, Event::GuestKick { queue: 3 })];
        let mut subject = sample::subject();
        let shown = |subject: &Subject| lines(subject, &outcome, Detail::Summary).len() - LEGEND.len() - 1;
        assert_eq!(shown(&subject), 2);
        subject.asked.insert(EventKind::GuestKick);
        assert_eq!(shown(&subject), 3);
    }

    #[test]
    fn a_doom_step_is_shown_even_where_its_kind_is_noise() {
        let mut outcome = sample::lost_page();
        outcome.trace = vec![sample::at(1, Actor::Iothread, Event::LockTake { lock: host::event::LockId::Bql })];
        outcome.violations[0].doom = Some(0);
        let lines = lines(&sample::subject(), &outcome, Detail::Summary);
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
        assert_eq!(lines(&sample::subject(), &outcome, Detail::Full).len(), LEGEND.len() + 1 + outcome.trace.len());
    }

    #[test]
    fn no_line_of_a_summary_is_wider_than_a_terminal() {
        let warn = sample::at(1, Actor::Vcpu(0), Event::GuestWarn { message: "x".repeat(300) });
        for line in LEGEND.iter().map(ToString::to_string).chain(of(vec![warn])) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
