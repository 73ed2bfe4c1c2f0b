//! Judgements as lines: for people, as JSON, as annotations, as JUnit.

use anstyle::{AnsiColor, Style};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use schemars::JsonSchema;
use serde::Serialize;

use super::args::Format;
use super::judge::{Judgement, Witness};
use crate::report::record::Record;
use crate::report::{Detail, github, micros, pages_sent, text, wrap};

/// Lines of a snapshot's difference that are printed; the whole stands in the pending file.
const DIFF_LINES_MAX: usize = 40;

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Show {
    /// In which form.
    pub(super) format: Format,
    /// The report with each line, if asked.
    pub(super) detail: Option<Detail>,
}

/// How many scenarios ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub(super) struct Totals {
    /// Scenarios that were to be run.
    pub(super) scenarios: usize,
    /// That ended as expected.
    pub(super) as_expected: usize,
    /// That did not.
    pub(super) not_as_expected: usize,
    /// Runs in which a witness was caught.
    pub(super) witnesses_caught: usize,
    /// Snapshots whose scenario is gone.
    pub(super) orphans: usize,
    /// Whether the user stopped it before all were run.
    pub(super) interrupted: bool,
}

/// A line of `--format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Line {
    /// One scenario.
    Scenario {
        /// Its path, as given or found.
        path: String,
        /// Whether all is as expected.
        as_expected: bool,
        /// What is not, in sentences.
        wrong: Vec<String>,
        /// What could not be read or written.
        errors: Vec<String>,
        /// What panics of the emulator said.
        defects: Vec<String>,
        /// Witnesses that were caught.
        witnesses_caught: Vec<String>,
        /// The command that replays it.
        replay: String,
        /// How it ended; null when the emulator failed. With its events if `--trace` is given.
        outcome: Option<Box<Record>>,
    },
    /// A snapshot whose scenario is gone.
    Orphan {
        /// The snapshot.
        path: String,
    },
    /// The last line.
    Summary(Totals),
}

impl Line {
    /// Returns the line, ended.
    pub(super) fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers always become JSON");
        line.push('\n');
        line
    }
}

impl Totals {
    /// Counts a scenario.
    pub(super) fn add(&mut self, judgement: &Judgement) {
        if judgement.is_as_expected() {
            self.as_expected += 1;
        } else {
            self.not_as_expected += 1;
        }
        self.witnesses_caught += judgement.ran.witnesses.iter().filter(|witness| is_caught(witness)).count();
    }
}

fn is_caught(witness: &Witness) -> bool {
    matches!(witness.result, Ok((_, true)))
}

/// Returns a text in bold and colour.
pub(super) fn painted(color: AnsiColor, text: &str) -> String {
    let style = Style::new().bold().fg_color(Some(color.into()));
    format!("{style}{text}{style:#}")
}

/// Returns what is printed of a scenario.
pub(super) fn scenario(judgement: &Judgement, show: Show) -> String {
    match show.format {
        Format::Human => human(judgement, show.detail),
        Format::Json => json(judgement, show.detail == Some(Detail::Full)).to_json(),
        Format::Github => {
            let mut text = human(judgement, show.detail);
            if !judgement.is_as_expected() {
                let file = judgement.ran.case.path.to_string_lossy();
                text.push_str(&github::error(Some(&file), "not as expected", &complaints(judgement).join("\n")));
            }
            text
        }
    }
}

/// The sentences about a scenario, then the command that replays it.
fn complaints(judgement: &Judgement) -> Vec<String> {
    let mut lines = judgement.wrong.clone();
    lines.extend(judgement.errors.iter().cloned());
    for (said, replay) in &judgement.defects {
        lines.push(format!("defect of this tool, not of what it tests: {said}"));
        lines.push(format!("replay: {replay}"));
    }
    if let Ok(outcome) = &judgement.ran.outcome {
        if !judgement.wrong.is_empty() {
            lines.extend(text::violation_sentences(outcome));
            lines.extend(outcome.waits.iter().map(|wait| format!("{} wants {}, waits for {}", wait.who, wait.wants, wait.waits_for)));
        }
        lines.push(format!("replay: {}", judgement.replay()));
    }
    lines
}

fn human(judgement: &Judgement, detail: Option<Detail>) -> String {
    let expected = judgement.is_as_expected();
    let (color, word) = if expected { (AnsiColor::Green, "ok") } else { (AnsiColor::Red, "WRONG") };
    let word = painted(color, &format!("{word:<5}"));
    let path = judgement.ran.case.path.display();
    let mut lines = Vec::new();
    match &judgement.ran.outcome {
        Ok(outcome) => {
            let (facts, verdict) = (&outcome.facts, outcome.verdict.name());
            let time = micros(facts.time_ns);
            let counts = format!("sent {:>5}  skipped {:>5}  resent {:>4}", pages_sent(outcome), facts.pages_skipped, facts.pages_resent);
            lines.push(format!("{verdict:<11}  {word}  {time:>11} us  {counts}  {path}"));
        }
        Err(_) => lines.push(format!("{:<11}  {word}  {path}", "-")),
    }
    if !expected {
        for complaint in complaints(judgement) {
            lines.extend(wrap(&complaint, crate::report::WIDTH - 4).into_iter().map(|line| format!("    {line}")));
        }
        lines.extend(diff_lines(judgement));
    }
    if let (Some(detail), Ok(outcome)) = (detail, &judgement.ran.outcome) {
        lines.push(String::new());
        lines.push(text::render(&judgement.ran.subject, outcome, detail));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn diff_lines(judgement: &Judgement) -> Vec<String> {
    let Some(diff) = &judgement.diff else { return Vec::new() };
    let count = diff.lines().count();
    let mut lines: Vec<String> = diff.lines().take(DIFF_LINES_MAX).map(diff_line).collect();
    if count > DIFF_LINES_MAX {
        lines.push(format!("    ... {} more lines", count - DIFF_LINES_MAX));
    }
    lines
}

fn diff_line(line: &str) -> String {
    match line.chars().next() {
        Some('+') => format!("    {}", painted(AnsiColor::Green, line)),
        Some('-') => format!("    {}", painted(AnsiColor::Red, line)),
        Some(_) | None => format!("    {line}").trim_end().to_string(),
    }
}

fn json(judgement: &Judgement, with_trace: bool) -> Line {
    let ran = &judgement.ran;
    Line::Scenario {
        path: ran.case.path.to_string_lossy().into_owned(),
        as_expected: judgement.is_as_expected(),
        wrong: judgement.wrong.clone(),
        errors: judgement.errors.clone(),
        defects: judgement.defects.iter().map(|(said, _)| said.clone()).collect(),
        witnesses_caught: ran.witnesses.iter().filter(|witness| is_caught(witness)).map(|w| w.fault.name().to_string()).collect(),
        replay: judgement.replay(),
        outcome: ran.outcome.as_ref().ok().map(|outcome| Box::new(Record::new(&ran.subject, outcome, with_trace))),
    }
}

/// Returns what is printed of a snapshot whose scenario is gone.
pub(super) fn orphan(path: &str, format: Format) -> String {
    let text = "snapshot without scenario: delete it, or bring the scenario back";
    let line = format!("{:<11}  {}  {path}: {text}\n", "-", painted(AnsiColor::Red, "WRONG"));
    match format {
        Format::Human => line,
        Format::Json => Line::Orphan { path: path.to_string() }.to_json(),
        Format::Github => format!("{line}{}", github::error(Some(path), "not as expected", text)),
    }
}

/// Returns the last line.
pub(super) fn summary(totals: &Totals, format: Format) -> String {
    match format {
        Format::Json => Line::Summary(*totals).to_json(),
        Format::Human | Format::Github => {
            let Totals { scenarios, as_expected, not_as_expected, witnesses_caught, orphans, interrupted } = totals;
            let mut parts = vec![format!("{as_expected} as expected")];
            parts.extend((*not_as_expected > 0).then(|| format!("{not_as_expected} not as expected")));
            let left = scenarios - as_expected - not_as_expected;
            parts.extend((left > 0).then(|| format!("{left} not run")));
            let plural = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
            parts.extend((*witnesses_caught > 0).then(|| plural(*witnesses_caught, "witness caught", "witnesses caught")));
            parts.extend((*orphans > 0).then(|| plural(*orphans, "snapshot without scenario", "snapshots without scenario")));
            let end = if *interrupted { "; stopped by the user" } else { "" };
            format!("{}: {}{end}\n", plural(*scenarios, "scenario", "scenarios"), parts.join(", "))
        }
    }
}

/// A JUnit report in the making. It holds no wall time, no host name: its bytes depend on the results alone.
#[derive(Debug)]
pub(super) struct Junit(TestSuite);

impl Junit {
    /// Returns an empty report.
    pub(super) fn new() -> Self {
        Self(TestSuite::new("scenarios"))
    }

    /// Adds a scenario.
    pub(super) fn add(&mut self, judgement: &Judgement) {
        let mut status = if judgement.is_as_expected() {
            TestCaseStatus::success()
        } else if judgement.defects.is_empty() && judgement.errors.is_empty() {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        } else {
            TestCaseStatus::non_success(NonSuccessKind::Error)
        };
        if !judgement.is_as_expected() {
            let complaints = complaints(judgement);
            status.set_message(complaints.first().cloned().unwrap_or_default());
            status.set_description(complaints.join("\n"));
        }
        self.0.add_test_case(TestCase::new(&judgement.ran.case.name, status));
    }

    /// Adds a snapshot whose scenario is gone, under the name that this would have.
    pub(super) fn add_orphan(&mut self, name: &str) {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message("snapshot without scenario");
        self.0.add_test_case(TestCase::new(name, status));
    }

    /// Returns the XML.
    pub(super) fn into_xml(self) -> String {
        let mut report = Report::new("lostpage");
        report.add_test_suite(self.0);
        report.to_string().expect("strings and numbers always become XML")
    }
}

impl Default for Junit {
    fn default() -> Self {
        Self::new()
    }
}
