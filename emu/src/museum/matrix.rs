//! Faults × scenarios: each scenario run with each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use host::fault::{Catalogue, Effect, Fault};

use super::{ends_all, verdict_of};
use crate::outcome::{Blame, Outcome, Verdict, Violation};
use crate::scenario::Scenario;
use crate::world::RunOptions;
use crate::world::doctor::Guard;
use crate::world::flip::{self, Flipped};

/// How a run ended, without its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The verdict.
    pub verdict: Verdict,
    /// What is not as the scenario expects, in sentences.
    pub unexpected: Vec<String>,
    /// Rules that were broken.
    pub violations: Vec<Violation>,
    /// Pages that were never sent.
    pub pages_skipped: u64,
}

impl Shown {
    /// Returns whether the run shows a fault as such: by what its effect is called, with the blame on the side that has the fault. A
    /// side that dies or waits for ever breaks no rule of the oracle's: its end says all.
    pub fn shows(&self, fault: Fault) -> bool {
        let verdict = verdict_of(fault.effect());
        let of_guest = fault.guest_bit().is_some();
        // What the posted interfaces let through is a gap of theirs.
        let posted = fault.catalogue() == Catalogue::Posted;
        let blamed = |blame: Blame| (blame == Blame::Host) != of_guest || posted && blame == Blame::Gap;
        let by_its_side = |violation: &Violation| violation.verdict == verdict && blamed(violation.blame);
        ends_all(verdict) && self.verdict == verdict || self.violations.iter().any(by_its_side)
    }
}

impl From<&Outcome> for Shown {
    fn from(Outcome { verdict, unexpected, violations, facts, .. }: &Outcome) -> Self {
        Self { verdict: *verdict, unexpected: unexpected.clone(), violations: violations.clone(), pages_skipped: facts.pages_skipped }
    }
}

/// A scenario's run with a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The fault.
    pub fault: Fault,
    /// How it ended; or what our panic said.
    pub result: Result<Shown, String>,
}

/// A scenario's runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// As the file says it; or what our panic said.
    pub alone: Result<Shown, String>,
    /// With each fault beside; of a fault that the file itself switches on, without it.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Runs a scenario as it is, and with each of the faults from where it is first asked for. With a fault that the run as it is never asks for, it is the
    /// same run, and is not made again.
    pub fn new(scenario: &Scenario, faults: &[Fault], guard: Guard) -> Self {
        let Flipped { alone, with } = flip::run_flipped(scenario, faults, guard, |outcome| Shown::from(outcome));
        let mut with: BTreeMap<Fault, _> = with.into_iter().collect();
        let cell = |fault: &Fault| Cell { fault: *fault, result: with.remove(fault).unwrap_or_else(|| alone.clone()) };
        let cells = faults.iter().map(cell).collect();
        Self { alone, cells }
    }

    /// The same, with each fault in a run of its own from the beginning. `run` tells our panics.
    pub fn plainly(scenario: &Scenario, faults: &[Fault], run: impl Fn(&Scenario, &RunOptions) -> Result<Outcome, String>) -> Self {
        let alone = run(scenario, &RunOptions::default());
        let cell = |fault: &Fault| Cell { fault: *fault, result: run_flipped(scenario, *fault, &run) };
        Self { alone: alone.map(|outcome| Shown::from(&outcome)), cells: faults.iter().map(cell).collect() }
    }

    /// Returns whether the scenario notices the fault of a cell: by another verdict, or by something else that its file expects, as a witness does.
    pub fn notices(&self, cell: &Cell) -> bool {
        match (&self.alone, &cell.result) {
            (Ok(alone), Ok(with)) => alone.verdict != with.verdict || alone.unexpected != with.unexpected,
            (Ok(_), Err(_)) | (Err(_), _) => false,
        }
    }

    /// Returns the cells whose fault the scenario notices.
    pub fn noticed(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| self.notices(cell))
    }

    /// Returns the cells that show their fault's effect as such. More is sent than needed, too, when hints do not come about any more.
    pub fn as_such(&self) -> impl Iterator<Item = &Cell> {
        let skipped = self.alone.as_ref().map_or(0, |alone| alone.pages_skipped);
        self.noticed().filter(move |cell| {
            let more_is_sent = |shown: &Shown| cell.fault.effect() == Effect::OverSend && shown.pages_skipped < skipped;
            cell.result.as_ref().is_ok_and(|shown| shown.shows(cell.fault) || more_is_sent(shown))
        })
    }

    /// Returns what our panics said, and with which fault.
    pub fn defects(&self) -> impl Iterator<Item = (Option<Fault>, &str)> {
        let alone = self.alone.as_ref().err().map(|said| (None, said.as_str()));
        let with = |cell: &'_ Cell| Some(cell.fault);
        alone.into_iter().chain(self.cells.iter().filter_map(move |cell| Some((with(cell), cell.result.as_ref().err()?.as_str()))))
    }
}

/// Runs a scenario with a fault, or without it if it is the scenario's own.
pub fn run_flipped(
    scenario: &Scenario,
    fault: Fault,
    run: impl Fn(&Scenario, &RunOptions) -> Result<Outcome, String>,
) -> Result<Shown, String> {
    let outcome = if scenario.faults.contains(&fault) {
        let mut without = scenario.clone();
        without.faults.retain(|own| *own != fault);
        run(&without, &RunOptions::default())
    } else {
        run(scenario, &RunOptions { faults: vec![fault] })
    };
    outcome.map(|outcome| Shown::from(&outcome))
}

/// The rows of many scenarios.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matrix {
    /// Each with its scenario's name.
    pub rows: Vec<(String, Row)>,
}

impl Matrix {
    /// Returns the scenarios that notice a fault.
    pub fn caught_by(&self, fault: Fault) -> Vec<&str> {
        self.names(|row| row.noticed().any(|cell| cell.fault == fault))
    }

    /// Returns those that notice it as what it is: by the verdict that its effect names, with the blame on its side.
    pub fn caught_as_such_by(&self, fault: Fault) -> Vec<&str> {
        self.names(|row| row.as_such().any(|cell| cell.fault == fault))
    }

    /// Returns the faults that some scenario notices.
    pub fn caught(&self) -> BTreeSet<Fault> {
        self.rows.iter().flat_map(|(_, row)| row.noticed().map(|cell| cell.fault)).collect()
    }

    /// Returns the scenarios that notice no fault at all, of those that are to pass: of folders with that name.
    pub fn unmoved(&self) -> Vec<&str> {
        let names = self.names(|row| row.alone.is_ok() && row.noticed().next().is_none());
        names.into_iter().filter(|name| is_to_pass(name)).collect()
    }

    /// Returns how many are to pass.
    pub fn to_pass(&self) -> usize {
        self.rows.iter().filter(|(name, _)| is_to_pass(name)).count()
    }

    /// Returns the scenarios that do not end as their files say, without any further fault.
    pub fn unexpected(&self) -> Vec<&str> {
        self.names(|row| row.alone.as_ref().is_ok_and(|shown| !shown.unexpected.is_empty()))
    }

    fn names(&self, which: impl Fn(&Row) -> bool) -> Vec<&str> {
        self.rows.iter().filter(|(_, row)| which(row)).map(|(name, _)| name.as_str()).collect()
    }
}

/// Returns whether a scenario of this name is to pass: it lies in a folder called so.
pub(super) fn is_to_pass(name: &str) -> bool {
    Path::new(name).components().any(|part| part.as_os_str() == "pass")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    const LOST: Fault = Fault::HintStopSkipped;
    const BLIND: Fault = Fault::RetryFromD;

    fn scenario(text: &str) -> Scenario {
        crate::scenario::parse("a.toml", text).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
    }

    /// A run that loses a page with one fault, falls over with another, and does not notice any else.
    fn run(scenario: &Scenario, options: &RunOptions) -> Result<Outcome, String> {
        let on = |fault| scenario.faults.contains(&fault) || options.faults.contains(&fault);
        match () {
            () if on(Fault::HintNoDone) => Err("the sky fell".to_owned()),
            () if on(LOST) => Ok(sample::lost_page()),
            () => Ok(sample::pass()),
        }
    }

    #[test]
    fn a_fault_is_noticed_by_another_verdict_and_a_blind_scenario_is_told() {
        let row = Row::plainly(&scenario("about = \"a\"\n"), &[LOST, BLIND], run);
        assert_eq!(row.noticed().map(|cell| cell.fault).collect::<Vec<_>>(), [LOST]);
        let blind = Row::plainly(&scenario("about = \"a\"\n"), &[BLIND], run);
        let blind_too = blind.clone();
        let matrix = Matrix { rows: vec![("pass/a".to_owned(), row), ("pass/b".to_owned(), blind), ("fail/c".to_owned(), blind_too)] };
        assert_eq!((matrix.caught_by(LOST), matrix.caught_by(BLIND)), (vec!["pass/a"], vec![]));
        assert_eq!((matrix.unmoved(), matrix.unexpected()), (vec!["pass/b"], vec![]));
    }

    #[test]
    fn a_fault_that_the_file_switches_on_is_switched_off() {
        let row = Row::plainly(&scenario("about = \"a\"\nfaults = [\"hint-stop-skipped\"]\n"), &[LOST], run);
        let verdicts = [&row.alone, &row.cells[0].result].map(|shown| shown.as_ref().expect("no panic").verdict);
        assert_eq!(verdicts, [Verdict::LostPage, Verdict::Pass]);
        assert!(row.notices(&row.cells[0]));
    }

    #[test]
    fn a_panic_of_ours_catches_nothing_and_is_told() {
        let row = Row::plainly(&scenario("about = \"a\"\n"), &[Fault::HintNoDone], run);
        assert_eq!(row.noticed().count(), 0);
        assert_eq!(row.defects().collect::<Vec<_>>(), [(Some(Fault::HintNoDone), "the sky fell")]);
    }

    #[test]
    fn an_effect_is_shown_by_its_verdict_and_the_hosts_blame() {
        let mut shown = Shown::from(&sample::lost_page());
        shown.violations.iter_mut().for_each(|violation| violation.blame = Blame::Host);
        assert!(shown.shows(LOST) && !shown.shows(Fault::HintNoDone));
        shown.violations.iter_mut().for_each(|violation| violation.blame = Blame::Guest);
        assert!(!shown.shows(LOST));
    }
}
