//! `lostpage diff A B`: two runs in the words of the domain.

use std::path::Path;

use super::files::{find, read};
use super::guard::guarded;
use super::screen::Screen;
use super::{Engine, Problem, Status, load};
use crate::report::Subject;
use crate::report::diff::Diff;
use crate::report::record::Record;
use crate::world::RunOptions;

/// Compares two runs, saved or made on the spot.
pub(super) fn diff(a: &Path, b: &Path, engine: Engine, screen: &mut Screen<'_>) -> Status {
    let sides = [a, b].map(|path| side(path, engine));
    let mut status = Status::AsExpected;
    for (problem, worse) in sides.iter().filter_map(|side| side.as_ref().err()) {
        screen.err(&problem.text);
        status = status.max(*worse);
    }
    let [Ok(left), Ok(right)] = &sides else { return status };
    let diff = Diff::of(left, right);
    screen.out(&diff.to_text(&a.to_string_lossy(), &b.to_string_lossy()));
    if diff.is_empty() { Status::AsExpected } else { Status::NotAsExpected }
}

/// Returns one side's outcome: read from a file, or of a run.
fn side(path: &Path, engine: Engine) -> Result<Record, (Problem, Status)> {
    let bad = |sentence: String| (Problem::plain(sentence), Status::BadInput);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let text = read(path).map_err(bad)?;
            Record::from_json(&text).map_err(|error| bad(format!("{}: no saved outcome: {error}", path.display())))
        }
        Some("toml") => run(path, engine),
        Some(_) | None => Err(bad(format!("{}: expected a scenario (.toml) or a saved outcome (.json)", path.display()))),
    }
}

fn run(path: &Path, engine: Engine) -> Result<Record, (Problem, Status)> {
    let mut found = find(&[path.to_path_buf()]);
    if let Some(problem) = found.problems.pop() {
        return Err((Problem::plain(problem), Status::BadInput));
    }
    let case = found.cases.pop().expect("a path is a case or a problem");
    let scenario = load(&case, engine).map_err(|problem| (problem, Status::BadInput))?;
    let outcome = guarded(|| (engine.run)(&scenario, &RunOptions::default()))
        .map_err(|said| (Problem::plain(format!("{}: defect of this tool: {said}", path.display())), Status::OwnDefect))?;
    let subject = Subject::of(&case.name, &scenario, scenario.faults.clone());
    Ok(Record::new(&subject, &outcome, true))
}
