//! `lostpage doctor`: each scenario's runs are made twice and compared. What differs is a defect of lostpage itself.

mod text;

use std::sync::Arc;

use super::args::DoctorArguments;
use super::files::{Case, find};
use super::guard::guarded;
use super::pool::{self, End};
use super::run::progress;
use super::screen::Screen;
use super::{Engine, Environment, Problem, Status, load, refuse};
use crate::scenario::Scenario;
use crate::world::RunOptions;
use crate::world::doctor::Examination;

pub(super) use text::Line;
use text::Totals;

/// A scenario to examine.
struct Job {
    case: Case,
    scenario: Arc<Scenario>,
    seed: u64,
    engine: Engine,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Examined {
    case: Case,
    seed: u64,
    /// The examination, or what a panic of ours said.
    result: Result<Examination, String>,
}

impl Job {
    fn examine(&self) -> Examined {
        let result = (self.engine.examine)(&self.scenario, &RunOptions::default(), self.seed, |work| guarded(work));
        Examined { case: self.case.clone(), seed: self.seed, result }
    }
}

impl Examined {
    fn status(&self) -> Status {
        match &self.result {
            Ok(examination) if examination.divergences.is_empty() => Status::AsExpected,
            Ok(_) => Status::NotAsExpected,
            Err(_) => Status::OwnDefect,
        }
    }
}

/// Examines scenarios.
pub(super) fn doctor(arguments: &DoctorArguments, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let jobs = match jobs(arguments, environment.engine) {
        Ok(jobs) => jobs,
        Err(problems) => return refuse(&problems, arguments.format, screen),
    };
    let threads = arguments.jobs.map_or(environment.processors, usize::from);
    let mut totals = Totals { scenarios: jobs.len(), ..Totals::default() };
    let mut status = Status::AsExpected;
    let bar = progress(jobs.len());
    let end = pool::run(jobs, threads, Job::examine, environment.on_interrupt, |examined| {
        bar.suspend(|| screen.out(&text::scenario(&examined, arguments.format)));
        totals.add(&examined);
        status = status.max(examined.status());
        bar.inc(1);
    });
    bar.finish_and_clear();
    totals.interrupted = end != End::Done;
    screen.out(&text::summary(&totals, arguments.format));
    if totals.interrupted { Status::Interrupted } else { status }
}

/// Reads the scenarios; all problems come at once.
fn jobs(arguments: &DoctorArguments, engine: Engine) -> Result<Vec<Job>, Vec<Problem>> {
    let found = find(&arguments.paths);
    let mut problems: Vec<Problem> = found.problems.into_iter().map(Problem::plain).collect();
    let mut jobs = Vec::new();
    for case in found.cases {
        match load(&case, engine) {
            Ok(scenario) => jobs.push(Job { case, scenario: Arc::new(scenario), seed: arguments.seed, engine }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(jobs) } else { Err(problems) }
}
