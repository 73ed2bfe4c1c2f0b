//! Faults and scenarios: every fault is caught, and caught as what it is.
//!
//! A fault is caught by a scenario that ends as expected without it and not with it. Of its catches, at least one has the verdict that the
//! fault's effect names: a loss is seen as a lost page by the host's fault, not merely as a broken rule on the way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use emu::outcome::{Blame, Outcome, Verdict};
use emu::scenario::model::Scenario;
use emu::world::{RunOptions, run};
use host::fault::{Effect, Fault};
use lostpage_tests::{files, scenario_file};

fn scenarios() -> Vec<(PathBuf, Scenario)> {
    files("scenarios", "toml").into_iter().map(|path| (path.clone(), scenario_file(&path))).collect()
}

fn with_fault(scenario: &Scenario, fault: Fault) -> Outcome {
    run(scenario, &RunOptions { faults: vec![fault] })
}

/// Returns whether the outcome shows the fault's effect, and blames the host for it.
fn shows(outcome: &Outcome, effect: Effect) -> bool {
    let verdict = match effect {
        Effect::Loss => Verdict::LostPage,
        Effect::OverSend => Verdict::OverSend,
        Effect::Leak => Verdict::Leak,
    };
    let by_host = outcome.violations.iter().any(|violation| violation.verdict == verdict && violation.blame == Blame::Host);
    outcome.verdict == verdict && by_host
}

#[test]
fn every_fault_is_caught_as_what_it_is() {
    let mut caught: BTreeMap<Fault, BTreeSet<bool>> = BTreeMap::new();
    for (path, scenario) in scenarios() {
        let alone = run(&scenario, &RunOptions::default());
        assert_eq!(alone.unexpected, Vec::<String>::new(), "{}", path.display());
        for fault in &scenario.witness {
            let outcome = with_fault(&scenario, *fault);
            let differs = outcome.verdict != alone.verdict || !outcome.unexpected.is_empty();
            assert!(differs, "{} does not notice {}", path.display(), fault.name());
            caught.entry(*fault).or_default().insert(shows(&outcome, fault.effect()));
        }
    }
    for fault in Fault::ALL {
        let seen = caught.get(fault).is_some_and(|shown| shown.contains(&true));
        assert!(seen, "no witness shows the {} by {} as such", fault.effect().name(), fault.name());
    }
}

/// The matrix beyond the witnesses: a fault makes no run panic, and what it breaks is never blamed on the guest alone where nothing was
/// wrong before.
#[test]
fn no_fault_is_blamed_on_the_guest() {
    for (path, scenario) in scenarios().into_iter().filter(|(_, scenario)| scenario.expect.verdict == Verdict::Pass) {
        for fault in Fault::ALL {
            let violations = with_fault(&scenario, *fault).violations;
            let by_host = violations.iter().any(|violation| violation.blame == Blame::Host);
            assert!(violations.is_empty() || by_host, "{} with {}: {violations:?}", path.display(), fault.name());
        }
    }
}

#[test]
fn what_is_under_fail_fails() {
    for path in files("scenarios/fail", "toml") {
        let outcome = run(&scenario_file(Path::new(&path)), &RunOptions::default());
        assert_ne!(outcome.verdict, Verdict::Pass, "{}", path.display());
    }
}
