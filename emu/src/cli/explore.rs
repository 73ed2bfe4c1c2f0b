//! `lostpage explore`: many orders of a scenario's events, drawn by chance, within a budget; what fails becomes a scenario file.
//!
//! Standard output depends on the scenario, the seed and the blocks of schedules that were run, never on threads, time or kills: with `--schedules`
//! it is the same bytes each time. What depends on the clock goes to standard error.

mod budget;
mod findings;
mod hunt;
mod progress;
mod text;

#[cfg(test)]
mod tests;

pub(super) use budget::parse_time;
pub(super) use text::settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::args::ExploreArguments;
use super::files::{Case, find};
use super::guard::guarded;
use super::screen::Screen;
use super::{Engine, Environment, Problem, Status, load};
use crate::scenario::Scenario;
use crate::search::subject::Subject;
use hunt::Hunt;

/// How often the user has asked to stop.
#[derive(Debug, Clone, Default)]
struct Interrupts {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Interrupts {
    fn listen(environment: &mut Environment<'_>) -> Self {
        let interrupts = Self::default();
        let Self { stop, asked } = interrupts.clone();
        (environment.on_interrupt)(Box::new(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
        }));
        interrupts
    }

    fn any(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Explores scenarios, one after the other.
pub(super) fn explore<S: Subject>(
    subject: &S,
    arguments: &ExploreArguments,
    environment: &mut Environment<'_>,
    screen: &mut Screen<'_>,
) -> Status {
    let scenarios = match read(arguments, environment.engine) {
        Ok(scenarios) => scenarios,
        Err(problems) => {
            problems.iter().for_each(|problem| screen.err(&problem.text));
            screen.err("nothing was explored\n");
            return Status::BadInput;
        }
    };
    let interrupts = Interrupts::listen(environment);
    let threads = arguments.jobs.map_or(environment.processors, usize::from);
    let mut status = Status::AsExpected;
    for (case, scenario) in &scenarios {
        let results = results_of(arguments, case);
        let hunt = Hunt { subject, arguments, case, scenario, results: results.as_deref(), threads, interrupts: &interrupts };
        let hunted = guarded(|| hunt.run(screen));
        status = status.max(match hunted {
            Ok(status) => status,
            Err(said) => {
                screen.err(&format!("error: {}: a defect of lostpage itself: {said}\n", case.path.display()));
                Status::OwnDefect
            }
        });
        if interrupts.any() {
            return Status::Interrupted;
        }
    }
    status
}

/// Reads all scenarios; all problems come at once.
fn read(arguments: &ExploreArguments, engine: Engine) -> Result<Vec<(Case, Scenario)>, Vec<Problem>> {
    let found = find(&arguments.paths);
    let mut problems: Vec<Problem> = found.problems.into_iter().map(Problem::plain).collect();
    let mut scenarios = Vec::new();
    for case in found.cases {
        match load(&case, engine) {
            Ok(mut scenario) => {
                scenario.add_faults(&arguments.faults);
                scenarios.push((case, scenario));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(scenarios) } else { Err(problems) }
}

/// Returns the folder that a scenario's results go into: the one that was named if one file is explored, one below it for each scenario otherwise.
fn results_of(arguments: &ExploreArguments, case: &Case) -> Option<PathBuf> {
    let folder = arguments.results.as_ref()?;
    match arguments.paths.as_slice() {
        [only] if !only.is_dir() => Some(folder.clone()),
        _ => {
            let inner = case.name.strip_prefix("scenarios/").unwrap_or(&case.name);
            let parts = Path::new(inner).components().filter(|part| matches!(part, std::path::Component::Normal(_)));
            Some(folder.join(parts.collect::<PathBuf>()).with_extension(""))
        }
    }
}
