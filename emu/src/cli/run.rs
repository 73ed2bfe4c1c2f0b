//! `lostpage run`: read all, refuse what is bad before anything runs, run, judge, print in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::RunArguments;
use super::files::{Case, Disk, Found, find};
use super::judge::{Job, Judgement};
use super::pool::{self, End};
use super::screen::Screen;
use super::show::{self, Junit, Show, Totals};
use super::{Engine, Environment, Problem, Status, load, refuse};
use crate::report::Detail;
use crate::report::record::Record;
use crate::report::snapshot::{Store, Writes, load as load_snapshot};
use crate::scenario::model::Scenario;

/// Results of the runs so far.
struct Results<'a> {
    arguments: &'a RunArguments,
    writes: Option<Writes>,
    show: Show,
    disk: Disk,
    totals: Totals,
    junit: Junit,
    status: Status,
}

/// Runs scenarios.
pub(super) fn run(arguments: &RunArguments, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let (found, scenarios) = match read(arguments, environment.engine) {
        Ok(read) => read,
        Err(problems) => return refuse(&problems, arguments.format, screen),
    };
    let jobs = jobs(arguments, environment.engine, &found, scenarios);
    let detail = if arguments.trace { Some(Detail::Full) } else { arguments.report.then_some(Detail::Summary) };
    let mut results = Results {
        arguments,
        writes: writes(arguments, environment.ci),
        show: Show { format: arguments.format, detail },
        disk: Disk::new(),
        totals: Totals { scenarios: jobs.len(), ..Totals::default() },
        junit: Junit::new(),
        status: Status::AsExpected,
    };
    let threads = arguments.jobs.map_or(environment.processors, usize::from);
    let bar = progress(jobs.len());
    let end = pool::run(jobs, threads, Job::run, environment.on_interrupt, |ran| {
        let judgement = Judgement::of(ran, &mut results.disk, results.writes);
        bar.suspend(|| results.take(&judgement, screen));
        bar.inc(1);
    });
    bar.finish_and_clear();
    results.finish(end, &found, screen)
}

type Read = (Found, Vec<Scenario>);

/// Reads the scenarios and looks at their snapshots; all problems come at once.
fn read(arguments: &RunArguments, engine: Engine) -> Result<Read, Vec<Problem>> {
    let mut found = find(&arguments.paths);
    if let Some(shard) = arguments.shard {
        found.cases.retain(|case| shard.has_name(&case.name));
        found.orphans.retain(|(_, name)| shard.has_name(name));
    }
    let mut problems: Vec<Problem> = std::mem::take(&mut found.problems).into_iter().map(Problem::plain).collect();
    let mut scenarios = Vec::new();
    for case in &found.cases {
        match load(case, engine) {
            Ok(scenario) => scenarios.push(scenario),
            Err(problem) => problems.push(problem),
        }
        if looks_at_snapshots(arguments) {
            problems.extend(unreadable(case).map(Problem::plain));
        }
    }
    if problems.is_empty() { Ok((found, scenarios)) } else { Err(problems) }
}

/// Returns why the scenario's snapshot cannot be read, if it stands there and cannot.
fn unreadable(case: &Case) -> Option<String> {
    load_snapshot(&Disk::new(), case.snapshot.as_ref()?).err().map(|error| error.to_string())
}

/// A fault from the command line makes another run of it: neither its snapshot nor its witnesses speak of that.
fn looks_at_snapshots(arguments: &RunArguments) -> bool {
    !arguments.no_snapshot && arguments.faults.is_empty()
}

fn writes(arguments: &RunArguments, ci: bool) -> Option<Writes> {
    looks_at_snapshots(arguments).then_some(match (ci, arguments.bless) {
        (true, _) => Writes::Never,
        (false, true) => Writes::Bless,
        (false, false) => Writes::Pending,
    })
}

fn jobs(arguments: &RunArguments, engine: Engine, found: &Found, scenarios: Vec<Scenario>) -> Vec<Job> {
    let with_witnesses = !arguments.no_witness && arguments.faults.is_empty();
    let job = |(case, scenario): (&Case, Scenario)| Job {
        case: case.clone(),
        witnesses: if with_witnesses { scenario.witness.clone() } else { Vec::new() },
        scenario: Arc::new(scenario),
        faults: arguments.faults.clone(),
        engine,
    };
    found.cases.iter().zip(scenarios).map(job).collect()
}

/// A bar on standard error, if that is a terminal.
pub(super) fn progress(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    bar.with_style(ProgressStyle::with_template("{pos}/{len} {wide_bar} {elapsed}").expect("a template of ours"))
}

impl Results<'_> {
    /// Prints and counts one scenario.
    fn take(&mut self, judgement: &Judgement, screen: &mut Screen<'_>) {
        screen.out(&show::scenario(judgement, self.show));
        self.totals.add(judgement);
        self.junit.add(judgement);
        if !judgement.wrong.is_empty() {
            self.worsen(Status::NotAsExpected);
        }
        if !judgement.errors.is_empty() {
            self.worsen(Status::BadInput);
        }
        if !judgement.defects.is_empty() {
            self.worsen(Status::OwnDefect);
        }
        if let (Some(folder), Ok(outcome)) = (&self.arguments.save_outcome, &judgement.ran.outcome) {
            let record = Record::new(&judgement.ran.subject, outcome, true);
            self.write(&saved_path(folder, &judgement.ran.case), &record.to_line(), screen);
        }
    }

    fn worsen(&mut self, status: Status) {
        self.status = self.status.max(status);
    }

    fn write(&mut self, path: &Path, text: &str, screen: &mut Screen<'_>) {
        if let Err(error) = self.disk.replace(path, text.as_bytes()) {
            screen.err(&format!("error: {}: cannot be written: {error}\n", path.display()));
            self.worsen(Status::BadInput);
        }
    }

    /// Prints what is left to say when the runs are over, and returns how it ended.
    fn finish(mut self, end: End, found: &Found, screen: &mut Screen<'_>) -> Status {
        let interrupted = match end {
            End::Done => false,
            End::Interrupted(_) => true,
        };
        if looks_at_snapshots(self.arguments) && !interrupted {
            for (path, name) in &found.orphans {
                screen.out(&show::orphan(&path.to_string_lossy(), self.arguments.format));
                self.junit.add_orphan(name);
                self.totals.orphans += 1;
                self.worsen(Status::NotAsExpected);
            }
        }
        self.totals.interrupted = interrupted;
        if let Some(path) = self.arguments.junit.as_ref().filter(|_| !interrupted) {
            let xml = std::mem::take(&mut self.junit).into_xml();
            self.write(path, &xml, screen);
        }
        screen.out(&show::summary(&self.totals, self.arguments.format));
        if interrupted { Status::Interrupted } else { self.status }
    }
}

/// Where a scenario's outcome is saved: in the same folders as the scenario.
fn saved_path(folder: &Path, case: &Case) -> PathBuf {
    let inner = case.name.strip_prefix("scenarios/").unwrap_or(&case.name);
    let relative: PathBuf = Path::new(inner).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    folder.join(relative).with_extension("json")
}
