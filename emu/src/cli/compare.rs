//! `lostpage compare`: one guest under each interface, side by side. What hints cost the guest, what they save, and how the migration ended.
//!
//! Each scenario is run twice: as its file says, and with a device that does not offer the interface. Rows are the files; files of one name are
//! one table. Standard output depends on the files alone, never on threads or time.

mod curve;
mod label;
mod line;
mod table;
mod text;

pub(super) use line::Line;

use std::collections::BTreeSet;

use host::event::{Event, MigrationStatus};
use wire::platform::PAGE_SHIFT;

use super::args::CompareArguments;
use super::files::{Case, find};
use super::guard::guarded;
use super::pool::{self, End};
use super::run::progress;
use super::screen::Screen;
use super::{Engine, Environment, Problem, Status, load, refuse};
use crate::outcome::{Facts, Outcome, Verdict};
use crate::scenario::Scenario;
use crate::scenario::model::Driver;
use crate::world::RunOptions;

/// What is compared if nobody says.
pub(super) const DIALECTS: &str = "scenarios/dialects";

/// Situations in the order in which a reader wants them, and what happens in each; others follow by name.
const SITUATIONS: [(&str, &str); 5] = [
    ("saving", "nothing happens but a migration"),
    ("resent", "a page is written behind its hint"),
    ("pressure", "the guest needs memory while it hints"),
    ("cancel", "the migration is cancelled"),
    ("second", "a second migration follows a cancelled one"),
];

/// A scenario to run with its interface and without.
struct Job {
    case: Case,
    scenario: Scenario,
    engine: Engine,
}

/// What is told of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    verdict: Verdict,
    facts: Facts,
    /// Pages in free page reports that the host took, each as often as it was reported.
    pages_reported: u64,
    /// From the first migration's start to the run's end, nanoseconds; `None` when none started.
    migration_ns: Option<u64>,
}

/// A file's line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// Where its scenario lies.
    case: Case,
    /// What the scenario shows.
    situation: String,
    /// The interface, and what is particular about it.
    interface: String,
    /// For the order of rows.
    driver: Driver,
    /// Its run, or what our panic said.
    with: Result<Told, String>,
    /// What is not as the file expects, in sentences.
    unexpected: Vec<String>,
    /// The run without the interface; `None` when the file's orders speak of what only the interface does, so that it cannot come to its end.
    without: Result<Option<Told>, String>,
}

impl Told {
    fn of(outcome: &Outcome) -> Self {
        let reported = |event: &Event| match event {
            Event::BalloonReport { range } => range.count,
            _ => 0,
        };
        let starts = |event: &Event| matches!(event, Event::MigrationState { to: MigrationStatus::Setup, .. });
        Self {
            verdict: outcome.verdict,
            facts: outcome.facts.clone(),
            migration_ns: outcome.trace.iter().find(|stamped| starts(&stamped.event)).map(|stamped| outcome.facts.time_ns - stamped.at_ns),
            pages_reported: outcome.trace.iter().map(|stamped| reported(&stamped.event)).sum(),
        }
    }

    /// Returns whether the last migration came to its end.
    fn is_migrated(&self) -> bool {
        self.facts.migrations.last() == Some(&MigrationStatus::Completed)
    }

    /// Returns how often a page went over the wire, as data or as a zero record.
    fn pages_sent(&self) -> u64 {
        self.facts.pages_normal + self.facts.pages_zero
    }

    /// Returns how many instructions the guest executes for each GiB that it hints or reports, beside what it executes without; `None` when it
    /// tells nothing, or executes less.
    fn insns_per_gib(&self, without: &Told) -> Option<u64> {
        let told = self.facts.pages_hinted + self.pages_reported;
        let more = self.insns().checked_sub(without.insns())?;
        (told > 0).then(|| more * ((1 << 30) >> PAGE_SHIFT) / told)
    }

    /// Returns the guest's instructions on all vCPUs.
    fn insns(&self) -> u64 {
        self.facts.insns.iter().sum()
    }
}

impl Job {
    fn run(&self) -> Row {
        let run = |scenario: &Scenario| guarded(|| (self.engine.run)(scenario, &RunOptions::default()));
        let outcome = run(&self.scenario);
        let unexpected = outcome.as_ref().map(|outcome| outcome.unexpected.clone()).unwrap_or_default();
        let told = |outcome: &Outcome| Some(Told::of(outcome)).filter(|told| told.verdict == Verdict::Pass);
        let without = label::without(&self.scenario).map_or(Ok(None), |twin| run(&twin).map(|outcome| told(&outcome)));
        Row {
            situation: self.situation(),
            interface: label::interface(&self.scenario),
            driver: self.scenario.guest.driver,
            with: outcome.as_ref().map(Told::of).map_err(Clone::clone),
            unexpected,
            without,
            case: self.case.clone(),
        }
    }

    fn situation(&self) -> String {
        situation(&self.case)
    }
}

fn situation(case: &Case) -> String {
    case.path.file_stem().map_or_else(|| case.name.clone(), |stem| stem.to_string_lossy().into_owned())
}

impl Row {
    fn status(&self) -> Status {
        match (&self.with, &self.without) {
            (Err(_), _) | (_, Err(_)) => Status::OwnDefect,
            _ if !self.unexpected.is_empty() => Status::NotAsExpected,
            _ => Status::AsExpected,
        }
    }

    /// Returns what our panics said.
    fn defects(&self) -> impl Iterator<Item = &str> {
        self.with.as_ref().err().into_iter().chain(self.without.as_ref().err()).map(String::as_str)
    }

    /// Returns both runs, if there are two that came to their end.
    fn pair(&self) -> Option<(&Told, &Told)> {
        let with = self.with.as_ref().ok().filter(|told| told.is_migrated())?;
        let without = self.without.as_ref().ok()?.as_ref().filter(|told| told.is_migrated())?;
        Some((with, without))
    }

    /// Returns how many instructions each GiB hinted costs the guest, if both runs came to their end.
    fn insns_per_gib(&self) -> Option<u64> {
        let (with, without) = self.pair()?;
        with.insns_per_gib(without)
    }

    fn rank(&self) -> (usize, &str, u32, &str, &str) {
        let known = SITUATIONS.iter().position(|(name, _)| *name == self.situation).unwrap_or(SITUATIONS.len());
        (known, &self.situation, self.driver.number(), &self.interface, &self.case.name)
    }
}

/// Compares.
pub(super) fn compare(arguments: &CompareArguments, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let threads = arguments.jobs.map_or(environment.processors, usize::from);
    if let Some(file) = &arguments.curve {
        return curve::curve(file, threads, environment, screen);
    }
    let jobs = match jobs(arguments, environment.engine) {
        Ok(jobs) => jobs,
        Err(problems) => return refuse(&problems, arguments.format, screen),
    };
    let bar = progress(jobs.len());
    let mut rows = Vec::new();
    let end = pool::run(jobs, threads, Job::run, environment.on_interrupt, |row| {
        rows.push(row);
        bar.inc(1);
    });
    bar.finish_and_clear();
    if end != End::Done {
        screen.err("stopped; nothing is told of what is not complete\n");
        return Status::Interrupted;
    }
    rows.sort_by(|a, b| a.rank().cmp(&b.rank()));
    label::tell_apart(&mut rows);
    screen.out(&text::comparison(&rows, arguments.format));
    for row in &rows {
        for said in row.defects() {
            screen.err(&format!("error: {}: a defect of lostpage itself: {said}\n", row.case.path.display()));
        }
    }
    rows.iter().map(Row::status).max().unwrap_or(Status::AsExpected)
}

/// Reads the scenarios; all problems come at once.
fn jobs(arguments: &CompareArguments, engine: Engine) -> Result<Vec<Job>, Vec<Problem>> {
    let found = find(&arguments.paths);
    let mut problems: Vec<Problem> = found.problems.into_iter().map(Problem::plain).collect();
    let known: BTreeSet<String> = found.cases.iter().map(situation).collect();
    let unknown = arguments.cases.iter().filter(|name| !known.contains(*name));
    problems.extend(unknown.map(|name| Problem::plain(format!("no scenario here is called {name}"))));
    let mut jobs = Vec::new();
    for case in found.cases {
        if !arguments.cases.is_empty() && !arguments.cases.contains(&situation(&case)) {
            continue;
        }
        match load(&case, engine) {
            Ok(scenario) => jobs.push(Job { case, scenario, engine }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(jobs) } else { Err(problems) }
}
