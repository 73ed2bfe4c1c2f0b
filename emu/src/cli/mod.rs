//! The command line: `lostpage run`, `explore`, `replay`, `prove`, `why`, `doctor`, `lint`, `new`, `schema`, `diff`, `museum`, `compare`, `merge`,
//! `faults`, `events`.
//!
//! [`main`] takes words and an [`Environment`] and returns a [`Status`]; the binary adds the process around it. What the command line needs
//! from the rest of the crate stands in one place, [`Engine`], so that tests may put another in its stead.

mod args;
mod compare;
mod diff;
mod doctor;
mod explore;
mod files;
mod finding;
mod gauge;
mod guard;
mod judge;
mod lists;
pub mod memory;
mod merge;
mod museum;
mod pool;
mod prove;
mod replay;
mod results;
mod run;
mod screen;
mod show;
mod stage;
#[cfg(test)]
mod tests;
mod why;
mod worlds;

pub use guard::{guarded, install as install_guard};
pub use results::Results;
pub use screen::Screen;

use std::ffi::OsString;

use clap::Parser;
use host::fault::Fault;

use crate::museum::Row;
use crate::outcome::Outcome;
use crate::report::github;
use crate::scenario::{self, Diagnostics, Scenario};
use crate::world::doctor::{Examination, Guard, examine};
use crate::world::{self, RunOptions};
use args::{Arguments, Command, Format};
use files::Case;
use worlds::Worlds;

/// The folder that scenarios are looked for in.
const SCENARIOS: &str = "scenarios";

/// The exit statuses, for `--help`.
const STATUS_HELP: &str = "Exit status: 0 all as expected; 1 some not; 2 bad scenario, usage or file; 3 a defect of lostpage itself; \
                           4 out of budget, nothing found by then; 130 stopped by Ctrl-C";

/// How the tool ends. The order is that of precedence: of several, the last one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// All as expected.
    AsExpected,
    /// A search did not come to its end, and found nothing on its way.
    OutOfBudget,
    /// Something is not; of `diff`: the runs differ.
    NotAsExpected,
    /// A bad scenario, bad usage, or a file that could not be read or written.
    BadInput,
    /// A panic of ours.
    OwnDefect,
    /// Stopped by the user.
    Interrupted,
}

impl Status {
    /// Returns the process's exit status.
    pub fn code(self) -> u8 {
        match self {
            Status::AsExpected => 0,
            Status::OutOfBudget => 4,
            Status::NotAsExpected => 1,
            Status::BadInput => 2,
            Status::OwnDefect => 3,
            Status::Interrupted => 130,
        }
    }
}

/// What the command line needs from the rest of the crate.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    /// Makes a scenario of a file's path and text.
    pub parse: fn(&str, &str) -> Result<Scenario, Problem>,
    /// Returns what can be said against a file without running it, warnings included, and whether that keeps it from being a scenario.
    pub lint: fn(&str, &str) -> Option<(Problem, bool)>,
    /// Runs a scenario.
    pub run: fn(&Scenario, &RunOptions) -> Outcome,
    /// Runs a scenario as it is, and with each of these faults.
    pub row: fn(&Scenario, &[Fault]) -> Row,
    /// Makes a scenario's runs twice, with this seed, and compares them.
    pub examine: fn(&Scenario, &RunOptions, u64, Guard) -> Result<Examination, String>,
    /// Returns the JSON Schema of a scenario file.
    pub schema: fn() -> String,
    /// Returns the text of a new scenario of this name.
    pub template: fn(&str) -> String,
}

impl Engine {
    /// Returns the crate's own.
    pub fn new() -> Self {
        Self {
            parse: |path, text| scenario::parse(path, text).map_err(|diagnostics| Problem::of(&diagnostics)),
            lint: |path, text| {
                let diagnostics = scenario::lint(path, text);
                (!diagnostics.is_empty()).then(|| (Problem::of(&diagnostics), diagnostics.has_errors()))
            },
            run: world::run,
            row: |scenario, faults| Row::new(scenario, faults, |work| guarded(work)),
            examine,
            schema: scenario::schema,
            template: scenario::template,
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

/// Whoever can ask to stop gets a function that does it.
pub type OnInterrupt<'a> = &'a mut dyn FnMut(Box<dyn FnMut() + Send>);

/// What a process has beside its arguments.
pub struct Environment<'a> {
    /// Whether `CI` is set: no snapshot is written then.
    pub ci: bool,
    /// Number of processors.
    pub processors: usize,
    /// What there is of memory.
    pub memory: memory::Memory,
    /// Takes a function to be called when the user asks to stop.
    pub on_interrupt: OnInterrupt<'a>,
    /// The rest of the crate.
    pub engine: Engine,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For people; may hold terminal colours, which the stream takes out where they are not wanted.
    pub text: String,
    /// For GitHub Actions, one workflow command each; empty: the text in general.
    pub annotations: Vec<String>,
}

impl Problem {
    /// Returns what is wrong with a scenario's text.
    fn of(diagnostics: &Diagnostics) -> Self {
        let annotations = diagnostics.records().iter().map(|record| record.github() + "\n").collect();
        Self { text: diagnostics.render(true), annotations }
    }

    /// Returns a problem that is one sentence.
    pub fn plain(sentence: String) -> Self {
        Self { text: format!("error: {sentence}\n"), annotations: Vec::new() }
    }
}

/// Does what the words ask for.
pub fn main(words: impl IntoIterator<Item = OsString>, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let text = error.render().ansi().to_string();
            if error.use_stderr() {
                screen.err(&text);
                return Status::BadInput;
            }
            screen.out(&text);
            return Status::AsExpected;
        }
    };
    let status = match &arguments.command {
        Command::Run(arguments) => run::run(arguments, environment, screen),
        Command::Explore(arguments) => explore::explore(&Worlds, arguments, environment, screen),
        Command::Replay(arguments) => replay::replay(&Worlds, arguments, environment.engine, screen),
        Command::Doctor(arguments) => doctor::doctor(arguments, environment, screen),
        Command::Prove(arguments) => prove::prove(arguments, &Worlds, environment, screen),
        Command::Why(arguments) => why::why(arguments, &Worlds, environment, screen),
        Command::Lint { paths } => lists::lint(paths, environment.engine, screen),
        Command::New { name, dir } => lists::new(name, dir, environment.engine, screen),
        Command::Schema { of } => lists::schema(*of, environment.engine, screen),
        Command::Diff { a, b } => diff::diff(a, b, environment.engine, screen),
        Command::Museum(arguments) => museum::museum(&Worlds, arguments, environment, screen),
        Command::Compare(arguments) => compare::compare(arguments, environment, screen),
        Command::Merge { out, folders } => merge::merge(out, folders, screen),
        Command::Faults => lists::faults(screen),
        Command::Events => lists::events(screen),
    };
    match screen.take_failure() {
        Some(error) => {
            screen.err(&format!("error: standard output cannot be written: {error}\n"));
            status.max(Status::BadInput)
        }
        None => status,
    }
}

/// Reads and parses a scenario.
fn load(case: &Case, engine: Engine) -> Result<Scenario, Problem> {
    let text = case.read().map_err(Problem::plain)?;
    (engine.parse)(&case.path.to_string_lossy(), &text)
}

/// Tells all problems, and that nothing was run.
fn refuse(problems: &[Problem], format: Format, screen: &mut Screen<'_>) -> Status {
    for problem in problems {
        screen.err(&problem.text);
        if format == Format::Github {
            let general = || vec![github::error(None, "bad input", problem.text.trim_end())];
            let annotations = if problem.annotations.is_empty() { general() } else { problem.annotations.clone() };
            annotations.iter().for_each(|annotation| screen.out(annotation));
        }
    }
    screen.err("nothing was run\n");
    Status::BadInput
}
