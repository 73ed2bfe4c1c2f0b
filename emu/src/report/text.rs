//! An outcome as text: what a snapshot holds and what `--report` and `--trace` print.
//!
//! From the whole to the detail: a header (verdict, time, facts), the named pages, broken rules, waits, the guest's end, the timeline, the
//! digest. A section without content is left out. Counts of guest instructions and of steps are not in it: they change with every compiler
//! and refactoring while the meaning stays.

use host::event::Event;

use crate::outcome::{Outcome, PageFacts, SpinTime, Violation};

use super::{Detail, Subject, WIDTH, counted, ids, micros, pages_sent, stable, timeline, wrap};

/// Broken rules that a summary shows.
const VIOLATIONS_MAX: usize = 8;

/// Width of the header's left column.
const LABEL: usize = 11;

/// A report tells who waited for at least this long, nanoseconds: twice as long as a slice of sending holds its lock.
const BLOCKED_NS_MIN: u64 = 100_000_000;

/// Returns the report, each line ended.
pub fn render(subject: &Subject, outcome: &Outcome, detail: Detail) -> String {
    let mut lines = header(subject, outcome);
    let timeline = timeline::lines(subject, outcome, detail);
    for section in
        [pages(outcome), blocked(outcome), spun(outcome), violations(outcome, detail), waits(outcome), crash(outcome, detail), timeline]
    {
        if !section.is_empty() {
            lines.push(String::new());
            lines.extend(section);
        }
    }
    lines.push(String::new());
    lines.push(format!("digest     {:032x} over {} events", outcome.digest, outcome.trace.len()));
    lines.push(String::new());
    lines.join("\n")
}

/// Puts a label in front of a text, and the text's further lines under its first.
fn labelled(label: &str, text: &str) -> Vec<String> {
    assert!(label.len() < LABEL, "label {label} is too long");
    let wrapped = wrap(text, WIDTH - LABEL);
    let heads = std::iter::once(label).chain(std::iter::repeat(""));
    wrapped.iter().zip(heads).map(|(line, head)| format!("{head:<LABEL$}{line}").trim_end().to_string()).collect()
}

fn header(subject: &Subject, outcome: &Outcome) -> Vec<String> {
    let mut lines = labelled("scenario", &subject.name);
    lines.extend(labelled("about", &subject.about));
    if !subject.faults.is_empty() {
        let names: Vec<&str> = subject.faults.iter().map(|fault| fault.name()).collect();
        lines.extend(labelled("faults", &names.join(", ")));
    }
    lines.extend(labelled("verdict", outcome.verdict.name()));
    lines.extend(labelled("time", &format!("{} us", micros(outcome.facts.time_ns))));
    lines.extend(facts(outcome));
    lines
}

/// The lines of facts: what crossed the wire and why, then the ids.
fn facts(outcome: &Outcome) -> Vec<String> {
    let facts = &outcome.facts;
    let migrations: Vec<&str> = facts.migrations.iter().map(|status| status.name()).collect();
    if migrations.is_empty() {
        return labelled("migration", "none");
    }
    let of_sends = [("data", facts.pages_normal), ("zero", facts.pages_zero), ("resent", facts.pages_resent)];
    let of_sends: Vec<String> = of_sends.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let migration = format!(
        "{}; {}, {} bytes, downtime {} us",
        migrations.join(", then "),
        counted(facts.rounds, "sync"),
        facts.bytes_sent,
        micros(facts.downtime_ns)
    );
    let sent = format!("{} ({}); skipped {}", counted(pages_sent(outcome), "page"), of_sends.join(", "), facts.pages_skipped);
    let hints = format!(
        "{}, {} cleared; {} held at the end",
        counted(facts.hints, "block"),
        counted(facts.pages_hinted, "page"),
        counted(facts.held_blocks, "block")
    );
    let there = facts.destination_cmd_id.map_or("none".to_string(), |id| id.to_string());
    let lines =
        [("migration", migration), ("sent", sent), ("hints", hints), ("ids", format!("{}; destination {there}", ids(&facts.cmd_ids)))];
    lines.iter().flat_map(|(label, line)| labelled(label, line)).collect()
}

fn pages(outcome: &Outcome) -> Vec<String> {
    if outcome.pages.is_empty() {
        return Vec::new();
    }
    let width = outcome.pages.keys().map(|name| name.chars().count()).max().unwrap_or(0).max("page".len());
    let mut lines = vec![format!("{:<LABEL$}{:<width$}  {:>10}  {:>5}  source  dest  equal  excused", "pages", "page", "frame", "sent")];
    for (name, page) in &outcome.pages {
        let frame = page.pfn.map_or("unknown".to_string(), |pfn| pfn.to_string());
        let source = format!("{:02x}", page.source_byte);
        let dest = page.destination_byte.map_or("-".to_string(), |byte| format!("{byte:02x}"));
        let equal = if page.equal { "yes" } else { "no" };
        let excused = page.excused.unwrap_or("-");
        lines.push(format!("{:LABEL$}{name:<width$}  {frame:>10}  {:>5}  {source:>6}  {dest:>4}  {equal:<5}  {excused}", "", page.sent));
    }
    lines
}

/// Returns the page's name and frame, as violations speak of it.
fn page_of(outcome: &Outcome, violation: &Violation) -> Option<String> {
    let pfn = violation.page?;
    let named = |(_, facts): &(&String, &PageFacts)| facts.pfn == Some(pfn);
    let names: Vec<&str> = outcome.pages.iter().filter(named).map(|(name, _)| name.as_str()).collect();
    Some(if names.is_empty() { format!("page {pfn}") } else { format!("page {} {pfn}", names.join(",")) })
}

/// Returns a violation in one sentence, without its explanation: rule, page, write, doom, blame.
pub fn violation_summary(outcome: &Outcome, violation: &Violation) -> String {
    let mut parts = vec![format!("{} ({})", violation.rule, violation.verdict.name())];
    parts.extend(page_of(outcome, violation));
    parts.extend(violation.write.map(|index| format!("write #{index}")));
    parts.extend(violation.doom.map(|index| format!("doomed by #{index}")));
    parts.push(format!("blame {}", violation.blame.name()));
    parts.join(", ")
}

/// Returns the broken rules to tell, each with the number of others like it. A summary tells one of those that differ in an unnamed page
/// alone, and no more than `VIOLATIONS_MAX`: one cause often breaks a rule on every page.
pub fn told(outcome: &Outcome, detail: Detail) -> Vec<(&Violation, usize)> {
    let mut told: Vec<(&Violation, usize)> = Vec::new();
    for violation in &outcome.violations {
        let named = violation.page.is_some_and(|pfn| outcome.pages.values().any(|facts| facts.pfn == Some(pfn)));
        let alike = |(first, _): &&mut (&Violation, usize)| {
            (first.rule, first.verdict, first.blame) == (violation.rule, violation.verdict, violation.blame)
        };
        match told.iter_mut().rfind(alike) {
            Some((_, more)) if detail == Detail::Summary && !named => *more += 1,
            Some(_) | None => told.push((violation, 0)),
        }
    }
    if detail == Detail::Summary {
        told.truncate(VIOLATIONS_MAX);
    }
    told
}

/// Returns the broken rules that a summary tells, as sentences.
pub fn violation_sentences(outcome: &Outcome) -> Vec<String> {
    let told = told(outcome, Detail::Summary);
    let left = outcome.violations.len() - told.iter().map(|(_, more)| 1 + more).sum::<usize>();
    let sentence = |(violation, more): &(&Violation, usize)| {
        let alike = if *more > 0 { format!(" ({more} more like it)") } else { String::new() };
        format!("broken: {}: {}{alike}", violation_summary(outcome, violation), violation.what)
    };
    let mut sentences: Vec<String> = told.iter().map(sentence).collect();
    sentences.extend((left > 0).then(|| format!("and {left} more broken rules")));
    sentences
}

fn violations(outcome: &Outcome, detail: Detail) -> Vec<String> {
    let told = told(outcome, detail);
    let left = outcome.violations.len() - told.iter().map(|(_, more)| 1 + more).sum::<usize>();
    let mut lines = Vec::new();
    for (violation, more) in told {
        lines.extend(labelled("broken", &violation_summary(outcome, violation)));
        lines.extend(labelled("", &violation.what));
        if more > 0 {
            lines.extend(labelled("", &format!("and {more} more like it; --trace lists them")));
        }
    }
    if left > 0 {
        lines.extend(labelled("", &format!("and {left} more; --trace lists them")));
    }
    lines
}

/// Returns who was held up for long, and by what.
fn blocked(outcome: &Outcome) -> Vec<String> {
    let long = outcome.facts.blocked.iter().filter(|time| time.ns >= BLOCKED_NS_MIN);
    long.flat_map(|time| labelled("blocked", &format!("{}: {} us for {}", time.who, micros(time.ns), time.on))).collect()
}

/// Returns who burned a CPU for long.
fn spun(outcome: &Outcome) -> Vec<String> {
    let long = outcome.facts.spun.iter().filter(|time| time.ns >= BLOCKED_NS_MIN);
    let line = |time: &SpinTime| format!("{}: {} us in {} at nothing", time.who, micros(time.ns), counted(time.looks, "look"));
    long.flat_map(|time| labelled("spins", &line(time))).collect()
}

fn waits(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    for wait in &outcome.waits {
        lines.extend(labelled("waits", &format!("{}: wants {}, waits for {}", wait.who, wait.wants, wait.waits_for)));
    }
    lines
}

/// Returns the guest's end. Offsets in functions, line numbers and the compiler's own functions change without the guest's doing, so a
/// summary leaves them out.
fn crash(outcome: &Outcome, detail: Detail) -> Vec<String> {
    let Some(crash) = &outcome.crash else {
        let of_host = outcome.trace.iter().find_map(|stamped| match &stamped.event {
            Event::HostCrash { message } => Some(format!("the VMM: {message}")),
            _ => None,
        });
        return of_host.map_or_else(Vec::new, |message| labelled("crash", &message));
    };
    let message = format!("vcpu{}: {}", crash.vcpu, crash.message);
    let compilers = |function: &&String| ["core::", "__rustc::"].iter().any(|path| function.starts_with(path));
    let (message, skipped) = match detail {
        Detail::Summary => (stable(&message), crash.backtrace.iter().take_while(compilers).count()),
        Detail::Full => (message, 0),
    };
    let mut lines = labelled("crash", &message);
    for (depth, function) in crash.backtrace[skipped..].iter().enumerate() {
        let name = match detail {
            Detail::Summary => function.rsplit_once("+0x").map_or(function.as_str(), |(name, _)| name),
            Detail::Full => function,
        };
        lines.extend(labelled("", &format!("{depth:>2} {name}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_lost_page_is_reported_whole() {
        insta::assert_snapshot!("lost_page", render(&sample::subject(), &sample::lost_page(), Detail::Summary));
    }

    #[test]
    fn a_crash_comes_with_its_backtrace_and_its_waits() {
        insta::assert_snapshot!("crash", render(&sample::subject(), &sample::crash(), Detail::Summary));
    }

    #[test]
    fn the_same_outcome_gives_the_same_bytes() {
        let text = || render(&sample::subject(), &sample::lost_page(), Detail::Full);
        assert_eq!(text(), text());
        assert!(text().ends_with(" events\n"));
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        for outcome in [sample::lost_page(), sample::pass(), sample::crash()] {
            for line in render(&sample::subject(), &outcome, Detail::Summary).lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line, line.trim_end(), "a line ends in spaces");
            }
        }
    }

    #[test]
    fn a_summary_tells_one_of_the_broken_rules_that_differ_in_an_unnamed_page() {
        let mut outcome = sample::lost_page();
        let named = outcome.violations[0].clone();
        let unnamed = |frame| Violation { page: Some(host::event::Pfn(frame)), ..named.clone() };
        outcome.violations.extend((0x300..0x310).map(unnamed));
        let text = |detail| render(&sample::subject(), &outcome, detail);
        let count = |detail| text(detail).matches("\nbroken ").count();
        assert_eq!((count(Detail::Summary), count(Detail::Full)), (1, 17));
        assert!(text(Detail::Summary).contains("\n           and 16 more like it; --trace lists them\n"));
        assert!(violation_sentences(&outcome)[0].ends_with("(16 more like it)"));
    }

    #[test]
    fn a_summary_of_many_different_broken_rules_counts_the_last_ones() {
        let mut outcome = sample::lost_page();
        let one = outcome.violations[0].clone();
        outcome.violations = vec![one; VIOLATIONS_MAX + 2];
        let count = |detail| render(&sample::subject(), &outcome, detail).matches("\nbroken ").count();
        assert_eq!((count(Detail::Summary), count(Detail::Full)), (VIOLATIONS_MAX, VIOLATIONS_MAX + 2));
        assert!(render(&sample::subject(), &outcome, Detail::Summary).contains("\n           and 2 more; --trace lists them\n"));
    }

    #[test]
    fn instructions_and_steps_do_not_show() {
        let mut other = sample::pass();
        other.facts.insns = vec![1];
        other.facts.steps += 1;
        let text = |outcome| render(&sample::subject(), outcome, Detail::Full);
        assert_eq!(text(&other), text(&sample::pass()));
    }
}
