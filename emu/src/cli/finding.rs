//! A failing schedule becomes a scenario file: put where findings are kept, and looked at once more.

use std::path::{Path, PathBuf};

use super::files::{create, read};
use super::stage::Stage;
use crate::scenario::Scenario;
use crate::scenario::model::Found;
use crate::search::found::{self, Place};
use crate::search::prove::{self, Interleavings, Proof};
use crate::search::reproduce::{NotReproduced, Reproduced, Why, reproduce};

/// States that are looked at to see whether a file's orders leave nothing open.
const CONFIRM_STATES_MAX: u64 = 50_000;

/// What became of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// As a scenario.
    pub(super) reproduced: Reproduced,
    /// What is known of the orders that the file leaves open, in words.
    pub(super) confirmed: String,
    /// Its file.
    pub(super) path: PathBuf,
    /// Whether that was not there before.
    pub(super) new: bool,
}

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotKept {
    /// No scenario shows it.
    NotReproduced(NotReproduced),
    /// The file could not be read or written; a sentence.
    Disk(String),
}

/// Shrinks a schedule of `base` that fails, and keeps the scenario in a folder.
pub(super) fn keep<S: Stage>(stage: &S, base: &Scenario, path: &[u16], provenance: Found, folder: &Path) -> Result<Finding, NotKept> {
    /// Of what is drawn while a schedule is shrunk: no seed found it.
    const SEED: u64 = 0;
    let mut reproduced = reproduce(stage, base, path, provenance, SEED).map_err(NotKept::NotReproduced)?;
    // What was taken out of it since may have been named there.
    reproduced.scenario = found::retold(reproduced.scenario, &reproduced.ending);
    let confirmed = confirmed(stage, &reproduced);
    let (path, new) = put(&reproduced, folder).map_err(NotKept::Disk)?;
    Ok(Finding { reproduced, confirmed, path, new })
}

/// Returns what is known of the orders that a scenario leaves open: all of them, if they are few.
fn confirmed<S: Stage>(stage: &S, Reproduced { scenario, ending, shrunk, .. }: &Reproduced) -> String {
    let options = prove::Options { states: CONFIRM_STATES_MAX, saved_bytes: stage.saved_bytes(), ..prove::Options::default() };
    let sampled = format!("{} of {} random completions fail", shrunk.sampled, shrunk.sampled + shrunk.stalled);
    let proof = prove::prove(|| stage.open_uncounted(scenario), &options);
    let Ok(Proof { complete: true, outcomes, interleavings: Interleavings::Exactly(runs), .. }) = proof else { return sampled };
    let all = outcomes.keys().all(|other| (other.verdict, other.rule) == (ending.verdict, ending.rule));
    if all { format!("all interleavings that the file leaves open fail, {runs} in number") } else { sampled }
}

/// Writes a finding's file, unless there is one that says the same; any other is left as it is. Returns the file, and whether it is new.
///
/// # Errors
/// When it cannot be written, or one of that name not be read; a sentence.
pub(super) fn put(Reproduced { scenario, ending, .. }: &Reproduced, folder: &Path) -> Result<(PathBuf, bool), String> {
    let path = |name: &str| folder.join(format!("{name}.toml"));
    loop {
        let mut unreadable = None;
        let place = found::place(scenario, ending, &mut |name| {
            let path = path(name);
            path.symlink_metadata().is_ok().then(|| {
                read(&path).unwrap_or_else(|problem| {
                    unreadable = Some(problem);
                    String::new()
                })
            })
        });
        if let Some(problem) = unreadable {
            return Err(problem);
        }
        match place {
            Place::Known(name) => return Ok((path(&name), false)),
            Place::New(name) => match create(&path(&name), &found::text(scenario)) {
                Ok(()) => return Ok((path(&name), true)),
                // Somebody was faster: what does that file say?
                Err(_) if path(&name).exists() => {}
                Err(problem) => return Err(problem),
            },
        }
    }
}

impl NotKept {
    /// Returns why, in a sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            NotKept::NotReproduced(problem) => format!("not written: {}", problem.why),
            NotKept::Disk(problem) => format!("not written: {problem}"),
        }
    }

    /// Returns whether that is a defect of ours.
    pub(super) fn is_own_defect(&self) -> bool {
        match self {
            NotKept::NotReproduced(NotReproduced { why: Why::Replay(_), .. }) => true,
            NotKept::NotReproduced(NotReproduced { why: Why::Shrink(_) | Why::Run(_), .. }) | NotKept::Disk(_) => false,
        }
    }
}
