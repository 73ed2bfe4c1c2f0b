//! One scenario: run, with its witnesses, and judged by its file and its snapshot.

use std::sync::Arc;

use host::fault::Fault;

use super::Engine;
use super::files::Case;
use super::guard::guarded;
use crate::outcome::{Outcome, Verdict};
use crate::report::snapshot::{Comparison, Snapshot, Store, Writes, pending_path, settle};
use crate::report::{Detail, Subject, text};
use crate::scenario::model::Scenario;
use crate::world::RunOptions;

/// A scenario to run.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Where it lies.
    pub(super) case: Case,
    /// What it says.
    pub(super) scenario: Arc<Scenario>,
    /// Faults that are switched on beside its own.
    pub(super) faults: Vec<Fault>,
    /// Faults to be run beside, each by itself, to see that it changes the verdict.
    pub(super) witnesses: Vec<Fault>,
    /// Who runs it.
    pub(super) engine: Engine,
}

/// What the runs of a scenario gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ran {
    /// Where the scenario lies.
    pub(super) case: Case,
    /// What the outcome came from.
    pub(super) subject: Subject,
    /// The outcome, or what our panic said.
    pub(super) outcome: Result<Outcome, String>,
    /// Each witness and how its run ended.
    pub(super) witnesses: Vec<Witness>,
    /// Faults that were switched on beside the scenario's own.
    pub(super) faults: Vec<Fault>,
}

/// A witness's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    /// The fault that was switched on.
    pub(super) fault: Fault,
    /// Verdict, and whether it or an expectation gave the fault away; or what our panic said.
    pub(super) result: Result<(Verdict, bool), String>,
}

impl Job {
    /// Runs the scenario and its witnesses. Panics of the engine are caught, one by one.
    pub(super) fn run(&self) -> Ran {
        let on: Vec<Fault> = Fault::ALL.iter().copied().filter(|f| self.scenario.faults.contains(f) || self.faults.contains(f)).collect();
        let subject = Subject::of(&self.case.name, &self.scenario, on);
        let outcome = guarded(|| (self.engine.run)(&self.scenario, &RunOptions { faults: self.faults.clone() }));
        // Where the run itself failed there is no verdict that a witness could change.
        let verdict = outcome.as_ref().ok().map(|outcome| outcome.verdict);
        let witness = |verdict| self.witnesses.iter().map(|fault| self.witness(*fault, verdict)).collect();
        let witnesses = verdict.map(witness).unwrap_or_default();
        Ran { case: self.case.clone(), subject, outcome, witnesses, faults: self.faults.clone() }
    }

    fn witness(&self, fault: Fault, otherwise: Verdict) -> Witness {
        let result = guarded(|| (self.engine.run)(&self.scenario, &RunOptions { faults: vec![fault] }));
        let caught = |outcome: Outcome| (outcome.verdict, outcome.verdict != otherwise || !outcome.unexpected.is_empty());
        Witness { fault, result: result.map(caught) }
    }
}

/// What is to be said of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    /// What the runs gave.
    pub(super) ran: Ran,
    /// What is not as expected, in sentences.
    pub(super) wrong: Vec<String>,
    /// The snapshot's difference, as a unified diff.
    pub(super) diff: Option<String>,
    /// What could not be read or written, in sentences.
    pub(super) errors: Vec<String>,
    /// What our panics said, each with the command that brings it about.
    pub(super) defects: Vec<(String, String)>,
}

impl Judgement {
    /// Judges the runs. `writes`: what may happen to the snapshot; `None`: there is none to look at.
    pub(super) fn of(ran: Ran, store: &mut dyn Store, writes: Option<Writes>) -> Self {
        let mut judgement = Self { ran, wrong: Vec::new(), diff: None, errors: Vec::new(), defects: Vec::new() };
        judgement.look_at_runs();
        if let (Some(writes), Some(_)) = (writes, &judgement.ran.case.snapshot) {
            judgement.look_at_snapshot(store, writes);
        }
        judgement
    }

    /// Returns whether all is as expected.
    pub(super) fn is_as_expected(&self) -> bool {
        self.wrong.is_empty() && self.errors.is_empty() && self.defects.is_empty()
    }

    /// Returns the command that replays the run.
    pub(super) fn replay(&self) -> String {
        self.ran.replay(&self.ran.faults)
    }

    fn look_at_runs(&mut self) {
        match &self.ran.outcome {
            Ok(outcome) => self.wrong.extend(outcome.unexpected.iter().cloned()),
            Err(said) => self.defects.push((said.clone(), self.ran.replay(&self.ran.faults))),
        }
        for Witness { fault, result } in &self.ran.witnesses {
            match result {
                Ok((_, true)) => {}
                Ok((verdict, false)) => {
                    self.wrong.push(format!("witness {} not caught: with it on the run still ends in {}", fault.name(), verdict.name()));
                }
                Err(said) => self.defects.push((said.clone(), self.ran.replay(&[*fault]))),
            }
        }
    }

    /// Compares with the snapshot. A run that is not as expected is never blessed: its file has to change first.
    fn look_at_snapshot(&mut self, store: &mut dyn Store, writes: Writes) {
        let (Ok(outcome), Some(path)) = (&self.ran.outcome, &self.ran.case.snapshot) else { return };
        let blessable = self.is_as_expected();
        let writes = if writes == Writes::Bless && !blessable { Writes::Never } else { writes };
        let report = text::render(&self.ran.subject, outcome, Detail::Summary);
        let shown = shown_path(path);
        let review = match writes {
            Writes::Pending => format!("see {}, and `lostpage run --bless` to keep it", shown_path(&pending_path(path))),
            Writes::Never | Writes::Bless => "`lostpage run --bless` keeps a report that is as expected".to_string(),
        };
        match settle(store, path, &Snapshot::of(&self.ran.case.name, &report), writes) {
            Ok(Comparison::Same | Comparison::Missing { blessed: true } | Comparison::Differs { blessed: true, .. }) => {}
            Ok(Comparison::Missing { blessed: false }) => self.wrong.push(format!("no snapshot {shown}: {review}")),
            Ok(Comparison::Differs { blessed: false, diff }) => {
                self.wrong.push(format!("report differs from {shown}: {review}"));
                self.diff = Some(diff);
            }
            Err(error) => self.errors.push(error.to_string()),
        }
    }
}

impl Ran {
    fn replay(&self, faults: &[Fault]) -> String {
        let mut command = format!("lostpage run {}", shell_word(&self.case.path.to_string_lossy()));
        for fault in faults {
            command.push_str(&format!(" --fault {}", fault.name()));
        }
        command.push_str(" --trace");
        command
    }
}

/// A snapshot's path from `snapshots/` on: the same from wherever it is run.
fn shown_path(path: &std::path::Path) -> String {
    let parts: Vec<_> = path.components().map(|component| component.as_os_str().to_string_lossy()).collect();
    let from = parts.iter().rposition(|part| part == "snapshots").unwrap_or(0);
    parts[from..].join("/")
}

/// Quotes a word for a POSIX shell if it needs that.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | ':' | ',' | '@' | '%');
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_is_quoted_for_the_shell() {
        assert_eq!(shell_word("scenarios/pass/a.toml"), "scenarios/pass/a.toml");
        assert_eq!(shell_word("it's here.toml"), r"'it'\''s here.toml'");
    }

    #[test]
    fn a_snapshot_is_shown_from_its_folder_on() {
        assert_eq!(shown_path(std::path::Path::new("/home/snapshots/x/snapshots/pass/a.snap")), "snapshots/pass/a.snap");
    }
}
