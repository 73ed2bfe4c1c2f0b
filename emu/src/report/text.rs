//! An outcome as text: what a snapshot holds and what `--report` and `--trace` print.
//!
//! From the whole to the detail: a header (verdict, time, facts), the named pages, broken rules, waits, the guest's end, the timeline, the
//! digest. A section without content is left out. Counts of guest instructions and of steps are not in it: they change with every compiler
//! and refactoring while the meaning stays.

use crate::outcome::{Outcome, PageFacts, Violation};

use super::{Detail, Subject, WIDTH, ids, micros, pages_sent, timeline, wrap};

/// Broken rules that a summary shows.
pub const VIOLATIONS_MAX: usize = 8;

/// Width of the header's left column.
const LABEL: usize = 11;

/// Returns the report, each line ended.
pub fn render(subject: &Subject, outcome: &Outcome, detail: Detail) -> String {
    let mut lines = header(subject, outcome);
    for section in [pages(outcome), violations(outcome, detail), waits(outcome), crash(outcome, detail), timeline::lines(outcome, detail)] {
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
    lines.extend(labelled("facts", &facts(outcome)));
    lines
}

/// The line of facts: what crossed the wire and why, then the ids.
fn facts(outcome: &Outcome) -> String {
    let facts = &outcome.facts;
    let migrations: Vec<&str> = facts.migrations.iter().map(|status| status.name()).collect();
    let migrations = if migrations.is_empty() { "none".to_string() } else { migrations.join(" ") };
    format!(
        "sent {} ({} data, {} zero), resent {}, skipped {}; hints {} ({} pages cleared, {} blocks held); rounds {}; wire {} bytes; \
         downtime {} us; ids {}, at the destination {}; migrations {}",
        pages_sent(outcome),
        facts.pages_normal,
        facts.pages_zero,
        facts.pages_resent,
        facts.pages_skipped,
        facts.hints,
        facts.pages_hinted,
        facts.held_blocks,
        facts.rounds,
        facts.bytes_sent,
        micros(facts.downtime_ns),
        ids(&facts.cmd_ids),
        facts.destination_cmd_id.map_or("none".to_string(), |id| id.to_string()),
        migrations,
    )
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

/// Returns the broken rules, of which a summary shows the first: one cause often breaks a rule on every page.
fn violations(outcome: &Outcome, detail: Detail) -> Vec<String> {
    let shown = match detail {
        Detail::Summary => VIOLATIONS_MAX.min(outcome.violations.len()),
        Detail::Full => outcome.violations.len(),
    };
    let mut lines = Vec::new();
    for violation in &outcome.violations[..shown] {
        lines.extend(labelled("broken", &violation_summary(outcome, violation)));
        lines.extend(labelled("", &violation.what));
    }
    lines.extend(more_violations(outcome).filter(|_| shown < outcome.violations.len()).map(|more| format!("{:LABEL$}{more}", "")));
    lines
}

/// Returns how many broken rules a summary leaves out, in words; `None` when it shows all.
pub fn more_violations(outcome: &Outcome) -> Option<String> {
    let more = outcome.violations.len().checked_sub(VIOLATIONS_MAX).filter(|more| *more > 0)?;
    Some(format!("and {more} more"))
}

fn waits(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    for wait in &outcome.waits {
        lines.extend(labelled("waits", &format!("{}: wants {}, waits for {}", wait.who, wait.wants, wait.waits_for)));
    }
    lines
}

/// Returns the guest's end. Offsets in functions change with every compiler, so a summary leaves them out.
fn crash(outcome: &Outcome, detail: Detail) -> Vec<String> {
    let Some(crash) = &outcome.crash else { return Vec::new() };
    let mut lines = labelled("crash", &format!("vcpu{}: {}", crash.vcpu, crash.message));
    for (depth, function) in crash.backtrace.iter().enumerate() {
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
    fn a_summary_shows_the_first_broken_rules_and_counts_the_rest() {
        let mut outcome = sample::lost_page();
        let one = outcome.violations[0].clone();
        outcome.violations = vec![one; VIOLATIONS_MAX + 2];
        let count = |detail| render(&sample::subject(), &outcome, detail).matches("\nbroken ").count();
        assert_eq!((count(Detail::Summary), count(Detail::Full)), (VIOLATIONS_MAX, VIOLATIONS_MAX + 2));
        assert!(render(&sample::subject(), &outcome, Detail::Summary).contains("\n           and 2 more\n"));
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
