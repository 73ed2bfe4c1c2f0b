//! Two runs compared in the words of the domain: how each ended, what was sent and skipped, what became of the named pages, and the first
//! event at which they part.

use host::event::CmdId;

use super::record::{EventRecord, FactsRecord, PageRecord, Record};
use super::{ids, micros};

/// A comparison of two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// What differs in verdict, numbers, pages: name, left, right.
    pub rows: Vec<Row>,
    /// Where the traces part.
    pub trace: TraceDiff,
}

/// One value on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// On the left.
    pub left: String,
    /// On the right.
    pub right: String,
}

/// How two traces compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceDiff {
    /// Event by event the same.
    Same,
    /// They part here: place and line of the last common event, then both sides' lines, `None` where a trace has ended.
    Parts {
        /// The last event that both have.
        common: Option<String>,
        /// The left's next.
        left: Option<String>,
        /// The right's next.
        right: Option<String>,
    },
    /// The same events, but from here at other times.
    Shifts {
        /// The left's event.
        left: String,
        /// The right's event.
        right: String,
    },
    /// A side has no trace, and the digests are equal.
    SameDigest,
    /// A side has no trace, and the digests differ.
    OtherDigest,
}

impl Diff {
    /// Compares two runs.
    pub fn of(left: &Record, right: &Record) -> Self {
        let mut rows = headline(left, right);
        rows.extend(pages(left, right));
        rows.retain(|row| row.left != row.right);
        Self { rows, trace: traces(left, right) }
    }

    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && match self.trace {
                TraceDiff::Same | TraceDiff::SameDigest => true,
                TraceDiff::Parts { .. } | TraceDiff::Shifts { .. } | TraceDiff::OtherDigest => false,
            }
    }

    /// Returns the comparison as text, under the names of both sides.
    pub fn to_text(&self, left: &str, right: &str) -> String {
        let mut lines = vec![format!("A  {left}"), format!("B  {right}")];
        let width =
            |of: fn(&Row) -> &str| self.rows.iter().filter(|row| !is_long(row)).map(|row| of(row).chars().count()).max().unwrap_or(0);
        let (what, a) = (width(|row| &row.what), width(|row| &row.left));
        for row in &self.rows {
            if is_long(row) {
                lines.extend([row.what.clone(), format!("  A {}", row.left), format!("  B {}", row.right)]);
            } else {
                lines.push(format!("{:<what$}  A {:<a$}  B {}{}", row.what, row.left, row.right, delta(row)));
            }
        }
        let end = "(the trace ends)";
        match &self.trace {
            TraceDiff::Same | TraceDiff::SameDigest if self.rows.is_empty() => lines.push("equal".to_string()),
            TraceDiff::Same => lines.push("the traces are equal, event by event".to_string()),
            TraceDiff::SameDigest => lines.push("the traces have the same digest".to_string()),
            TraceDiff::OtherDigest => lines.push("the traces differ; save both with --save-outcome to see where".to_string()),
            TraceDiff::Parts { common, left, right } => {
                lines.push("the traces part:".to_string());
                lines.extend(common.iter().map(|line| format!("  both {line}")));
                lines.push(format!("  A    {}", left.as_deref().unwrap_or(end)));
                lines.push(format!("  B    {}", right.as_deref().unwrap_or(end)));
            }
            TraceDiff::Shifts { left, right } => {
                lines.push("the same events, but at other times from here on:".to_string());
                lines.push(format!("  A    {left}"));
                lines.push(format!("  B    {right}"));
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Returns whether the sides of a row do not fit beside each other.
fn is_long(row: &Row) -> bool {
    const SIDE: usize = 36;
    row.left.chars().count().max(row.right.chars().count()) > SIDE
}

/// The change of a number, in words behind it.
fn delta(row: &Row) -> String {
    match (row.left.parse::<i128>(), row.right.parse::<i128>()) {
        (Ok(left), Ok(right)) => format!("  ({:+})", right - left),
        _ => String::new(),
    }
}

fn row(what: &str, left: impl ToString, right: impl ToString) -> Row {
    Row { what: what.to_string(), left: left.to_string(), right: right.to_string() }
}

fn headline(left: &Record, right: &Record) -> Vec<Row> {
    let list = |values: &[String]| if values.is_empty() { "none".to_string() } else { values.join(" ") };
    let rules = |record: &Record| list(&record.violations.iter().map(|violation| violation.rule.clone()).collect::<Vec<_>>());
    let crash = |record: &Record| record.crash.as_ref().map_or("none".to_string(), |crash| crash.message.clone());
    let cmd_ids = |record: &Record| ids(&record.facts.cmd_ids.iter().copied().map(CmdId).collect::<Vec<_>>());
    let destination = |record: &Record| record.facts.destination_cmd_id.map_or("none".to_string(), |id| format!("id {}", CmdId(id)));
    let least = |count: Option<u64>| count.map_or("unknown".to_string(), |count| count.to_string());
    let (a, b) = (&left.facts, &right.facts);
    vec![
        row("verdict", &left.verdict, &right.verdict),
        row("faults", list(&left.faults), list(&right.faults)),
        row("broken rules", rules(left), rules(right)),
        row("guest's end", crash(left), crash(right)),
        row("pages sent", a.pages_normal + a.pages_zero, b.pages_normal + b.pages_zero),
        row("  as data", a.pages_normal, b.pages_normal),
        row("  as zero", a.pages_zero, b.pages_zero),
        row("pages skipped", a.pages_skipped, b.pages_skipped),
        row("pages resent", a.pages_resent, b.pages_resent),
        row("blocks hinted", a.hints, b.hints),
        row("pages cleared by hints", a.pages_hinted, b.pages_hinted),
        row("blocks held at the end", a.held_blocks, b.held_blocks),
        row("  sent, written since", a.pages_resent_hinted, b.pages_resent_hinted),
        row("  sent, not written since", a.pages_wrongly_resent, b.pages_wrongly_resent),
        row("rounds", a.rounds, b.rounds),
        row("bytes on the wire", a.bytes_sent, b.bytes_sent),
        row("downtime, ns", a.downtime_ns, b.downtime_ns),
        row("time at the end, ns", a.time_ns, b.time_ns),
        row("command ids", cmd_ids(left), cmd_ids(right)),
        row("command id at the destination", destination(left), destination(right)),
        row("migrations", list(&a.migrations), list(&b.migrations)),
        row("least free pages", least(a.free_pages_min), least(b.free_pages_min)),
        row("  in blocks of the largest order", least(a.free_pages_max_order_min), least(b.free_pages_max_order_min)),
        row("held up", blocked(a), blocked(b)),
        row("spun", spun(a), spun(b)),
        row("events", left.events, right.events),
    ]
}

fn blocked(facts: &FactsRecord) -> String {
    let times: Vec<String> = facts.blocked.iter().map(|time| format!("{} {} ns for {}", time.who, time.ns, time.on)).collect();
    times.join(", ")
}

fn spun(facts: &FactsRecord) -> String {
    let times: Vec<String> = facts.spun.iter().map(|time| format!("{} {} ns", time.who, time.ns)).collect();
    times.join(", ")
}

fn pages(left: &Record, right: &Record) -> Vec<Row> {
    let names: std::collections::BTreeSet<&String> = left.pages.keys().chain(right.pages.keys()).collect();
    names.into_iter().map(|name| row(&format!("page {name}"), page(left.pages.get(name)), page(right.pages.get(name)))).collect()
}

fn page(page: Option<&PageRecord>) -> String {
    let Some(page) = page else { return "not named".to_string() };
    let frame = page.pfn.map_or("unknown".to_string(), |pfn| format!("{pfn:#x}"));
    let dest = page.destination_byte.map_or("never arrived".to_string(), |byte| format!("{byte:02x} there"));
    let equal = match (page.equal, &page.excused) {
        (true, _) => "equal".to_string(),
        (false, None) => "NOT EQUAL".to_string(),
        (false, Some(why)) => format!("excused: {why}"),
    };
    format!("{frame}, sent {}, {:02x} here, {dest}, {equal}", page.sent, page.source_byte)
}

fn traces(left: &Record, right: &Record) -> TraceDiff {
    let (Some(a), Some(b)) = (&left.trace, &right.trace) else {
        return if left.digest == right.digest { TraceDiff::SameDigest } else { TraceDiff::OtherDigest };
    };
    let line = |trace: &[EventRecord], index: usize| trace.get(index).map(|event| event_line(index, event));
    let parts = a.iter().zip(b).position(|(a, b)| !same_meaning(a, b));
    let parts = parts.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())));
    if let Some(index) = parts {
        let common = index.checked_sub(1).and_then(|before| line(a, before));
        return TraceDiff::Parts { common, left: line(a, index), right: line(b, index) };
    }
    match a.iter().zip(b).position(|(a, b)| a.at_ns != b.at_ns) {
        Some(index) => TraceDiff::Shifts { left: event_line(index, &a[index]), right: event_line(index, &b[index]) },
        None => TraceDiff::Same,
    }
}

/// Whether two events say the same, whenever they came. The names of pages are the scenarios' choice, and do not count.
fn same_meaning(a: &EventRecord, b: &EventRecord) -> bool {
    (&a.actor, &a.event, a.pfn, a.count, &a.particulars) == (&b.actor, &b.event, b.pfn, b.count, &b.particulars)
}

fn event_line(index: usize, event: &EventRecord) -> String {
    let EventRecord { at_ns, actor, event: name, pages, pfn: _, count: _, particulars } = event;
    let line = format!("#{index}  {} us  {actor}  {name}  {} {particulars}", micros(*at_ns), pages.join(","));
    line.trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::outcome::Outcome;

    fn record(outcome: &Outcome) -> Record {
        Record::new(&sample::subject(), outcome, true)
    }

    #[test]
    fn a_run_equals_itself() {
        let diff = Diff::of(&record(&sample::pass()), &record(&sample::pass()));
        assert!(diff.is_empty());
        assert_eq!(diff.to_text("a", "b"), "A  a\nB  b\nequal\n");
    }

    #[test]
    fn verdict_and_page_are_told_and_the_rest_is_not() {
        let diff = Diff::of(&record(&sample::pass()), &record(&sample::lost_page()));
        let what: Vec<&str> = diff.rows.iter().map(|row| row.what.as_str()).collect();
        assert_eq!(what, ["verdict", "broken rules", "page P"]);
        assert!(diff.to_text("a", "b").contains("sent 0, bb here, 00 there, NOT EQUAL"), "{}", diff.to_text("a", "b"));
    }

    #[test]
    fn numbers_come_with_their_change() {
        let mut more = sample::pass();
        more.facts.pages_resent += 5;
        let text = Diff::of(&record(&sample::pass()), &record(&more)).to_text("a", "b");
        assert!(text.contains("pages resent  A 3  B 8  (+5)"), "{text}");
    }

    #[test]
    fn the_first_event_that_differs_is_shown_with_its_place_and_the_one_before() {
        let mut other = sample::pass();
        other.trace.remove(5);
        let diff = Diff::of(&record(&sample::pass()), &record(&other));
        let TraceDiff::Parts { common, left, right } = diff.trace else { panic!("parts") };
        assert!(common.expect("five before").starts_with("#4  3.000 us  vcpu0  guest.hint"));
        assert!(left.expect("more").starts_with("#5  3.100 us  vcpu0  guest.kick"));
        assert!(right.expect("more").starts_with("#5  4.000 us  iothread  hint.pop"));
    }

    #[test]
    fn a_trace_that_ends_early_parts_at_its_end() {
        let mut short = sample::pass();
        short.trace.pop();
        let diff = Diff::of(&record(&sample::pass()), &record(&short));
        assert!(!diff.is_empty());
        assert!(diff.to_text("a", "b").contains("  B    (the trace ends)\n"));
    }

    #[test]
    fn later_times_alone_are_a_shift_not_a_parting() {
        let mut later = sample::pass();
        for stamped in &mut later.trace[3..] {
            stamped.at_ns += 1;
        }
        let diff = Diff::of(&record(&sample::pass()), &record(&later));
        let TraceDiff::Shifts { left, .. } = diff.trace else { panic!("shifts") };
        assert!(left.starts_with("#3 "), "{left}");
    }

    #[test]
    fn without_traces_the_digests_decide() {
        let without = |outcome: &Outcome| Record::new(&sample::subject(), outcome, false);
        let mut other = sample::pass();
        other.digest += 1;
        assert_eq!(Diff::of(&without(&sample::pass()), &without(&other)).trace, TraceDiff::OtherDigest);
        assert_eq!(Diff::of(&without(&sample::pass()), &record(&sample::pass())).trace, TraceDiff::SameDigest);
    }
}
