//! `lostpage replay FILE SEED`: one schedule of a search, run again in full.

use std::sync::Arc;

use super::args::ReplayArguments;
use super::files::{Case, find};
use super::guard::guarded;
use super::screen::Screen;
use super::{Engine, Problem, Status, load};
use crate::report::{Detail, Subject as Told, text};
use crate::scenario::Scenario;
use crate::search::explore::{Explorer, Options};
use crate::search::strategy::Portfolio;
use crate::search::subject::Subject;

/// Runs a schedule again.
pub(super) fn replay<S: Subject>(subject: &S, arguments: &ReplayArguments, engine: Engine, screen: &mut Screen<'_>) -> Status {
    let (case, variant) = match read(arguments, engine) {
        Ok(read) => read,
        Err(problem) => {
            screen.err(&problem.text);
            return Status::BadInput;
        }
    };
    let (token, variant) = (&arguments.seed, Arc::new(variant));
    let outcome = guarded(|| {
        let portfolio = Portfolio::of(&[token.strategy()]).expect("one");
        let options = Options { portfolio, moves_max: arguments.moves, graph: None, ..Options::default() };
        let run = Explorer::new(options, |_| subject.open(&variant)).schedule(0, token.seed());
        subject.replay(&variant, &run.choices)
    });
    match outcome {
        Ok(outcome) => {
            let detail = if arguments.trace { Detail::Full } else { Detail::Summary };
            screen.out(&text::render(&Told::of(&case.name, &variant, variant.faults.clone()), &outcome, detail));
            if outcome.unexpected.is_empty() { Status::AsExpected } else { Status::NotAsExpected }
        }
        Err(said) => {
            screen.err(&format!("error: {}: a defect of lostpage itself: {said}\n", case.path.display()));
            Status::OwnDefect
        }
    }
}

/// Reads the scenario, in the settings that the schedule was drawn for.
fn read(arguments: &ReplayArguments, engine: Engine) -> Result<(Case, Scenario), Problem> {
    let found = find(std::slice::from_ref(&arguments.file));
    if let Some(problem) = found.problems.into_iter().next() {
        return Err(Problem::plain(problem));
    }
    let case = found.cases.into_iter().next().filter(|case| case.path == arguments.file);
    let case = case.ok_or_else(|| Problem::plain(format!("{}: is a folder: expected a scenario file", arguments.file.display())))?;
    let mut scenario = load(&case, engine)?;
    scenario.add_faults(&arguments.faults);
    let variants = (0..scenario.variants_count()).map(|index| scenario.variant(index));
    let variant = variants.into_iter().find(|variant| arguments.seed.is_of(variant));
    let other = || {
        format!(
            "{}: {} is a schedule of another scenario: expected that as it was when it was searched, with the same --fault",
            case.path.display(),
            arguments.seed
        )
    };
    let variant = variant.ok_or_else(|| Problem::plain(other()))?;
    Ok((case, variant))
}
