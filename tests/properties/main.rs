//! Whole worlds at random: a scenario without a fault loses nothing that the guest has not taken back itself, ends, and replays.
//!
//! `PROPTEST_CASES` sets the number of cases. What fails is shrunk, kept as a seed in `regressions.txt` and replayed first; what
//! it came to stands as a scenario under `scenarios/found/`.

mod allocator;
mod bitmaps;
mod encodings;
mod hints;
mod operator;
mod runnable;

use emu::outcome::{Blame, Outcome, Verdict};
use emu::scenario::model::{Action, Command, Profile, Scenario};
use emu::scenario::{parse, to_toml};
use emu::world::{RunOptions, run};
use host::event::{Event, MigrationStatus};
use lostpage_tests::{files, scenario_file};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};
use runnable::{mischievous, runnable};

/// Cases of each property where nothing else is asked for: with a debug build, half a minute on two processors.
const CASES: u32 = 150;

/// The seed of those: the same cases each time, so that CI finds what a change has broken and nothing else. Whoever asks for a number has new ones.
const SEED: u64 = 5;

fn config() -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = Config::default();
    Config {
        cases: if asked { default.cases } else { CASES },
        rng_seed: if asked { default.rng_seed } else { RngSeed::Fixed(SEED) },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/properties/regressions.txt"
        )))),
        max_shrink_iters: 2_000,
        ..default
    }
}

/// The guest stored to a page between announcing it as a hint and the device's use of the hint: what is lost then, the guest has lost.
fn reused_early(outcome: &Outcome) -> bool {
    outcome.violations.iter().any(|violation| violation.verdict == Verdict::LostPage && violation.blame == Blame::Guest)
}

/// The balloon's target is beyond what the guest can give: its driver tries again every 200 ms, for ever (Linux: fill_balloon()).
fn out_of_puff(outcome: &Outcome) -> bool {
    outcome.trace.iter().rev().take(1_000).any(|stamped| matches!(stamped.event, Event::GuestAllocFail { order: 0 }))
}

/// Something may wait for ever: an order that the scenario asks for cannot come about.
fn may_hold(scenario: &Scenario) -> bool {
    !scenario.orders.is_empty() || scenario.injections.iter().any(|injection| !injection.before.is_empty())
}

/// The VM was stopped, and perhaps never let go on: what the driver has to do is not done.
fn may_stay_stopped(scenario: &Scenario) -> bool {
    scenario.injections.iter().any(|injection| injection.action == Action::Monitor(Command::Stop))
}

/// Returns what a run must not end with, if it did.
fn complaint(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    for violation in &outcome.violations {
        let of_guest = violation.verdict == Verdict::LostPage && violation.blame == Blame::Guest;
        if !of_guest {
            return Some(format!("{} by {}: {}", violation.rule, violation.blame.name(), violation.what));
        }
    }
    let running = outcome.facts.migrations.last().is_some_and(|status: &MigrationStatus| status.is_running());
    match outcome.verdict {
        // A guest whose page was dropped under it may notice.
        Verdict::GuestCrash if reused_early(outcome) => None,
        Verdict::Stall if out_of_puff(outcome) => None,
        Verdict::HostCrash | Verdict::GuestCrash | Verdict::Deadlock | Verdict::Stall => {
            Some(format!("{}: {:?} {:?}", outcome.verdict.name(), outcome.crash, outcome.waits))
        }
        Verdict::Unreachable if running && !may_hold(scenario) && !may_stay_stopped(scenario) && !out_of_puff(outcome) => {
            Some(format!("a migration never ended: {:?}", outcome.waits))
        }
        Verdict::LostPage | Verdict::BrokenRule | Verdict::Leak | Verdict::OverSend | Verdict::Unreachable | Verdict::Pass => None,
    }
}

/// Runs a scenario and a copy of it that went through a file.
fn ends_well_and_replays(scenario: &Scenario) -> Result<(), TestCaseError> {
    let outcome = run(scenario, &RunOptions::default());
    let text = to_toml(scenario);
    prop_assert_eq!(complaint(scenario, &outcome), None, "{}", text);
    let read = parse("drawn.toml", &text).map_err(|problems| TestCaseError::fail(problems.render(false)))?;
    let again = run(&read, &RunOptions::default());
    prop_assert_eq!(outcome.digest, again.digest, "not the same run:\n{}", text);
    prop_assert_eq!(outcome, again);
    Ok(())
}

/// What random worlds have found comes before anything new is drawn.
#[test]
fn what_was_found_before_ends_as_its_file_says() {
    for path in files("scenarios/found", "toml") {
        let outcome = run(&scenario_file(&path), &RunOptions::default());
        assert_eq!(outcome.unexpected, Vec::<String>::new(), "{}", path.display());
    }
}

proptest! {
    #![proptest_config(config())]

    /// Nothing that a scenario asks for makes us panic, however wrong it is; it may well end badly, but it ends, and the same way again.
    #[test]
    fn any_mischief_ends_and_replays(scenario in mischievous()) {
        let outcome = run(&scenario, &RunOptions::default());
        prop_assert_eq!(outcome.digest, run(&scenario, &RunOptions::default()).digest, "{}", to_toml(&scenario));
    }

    #[test]
    fn a_qemu_without_faults_loses_nothing(scenario in runnable(Profile::Qemu)) {
        ends_well_and_replays(&scenario)?;
    }

    #[test]
    fn a_cloud_hypervisor_without_faults_loses_nothing(scenario in runnable(Profile::CloudHypervisor)) {
        ends_well_and_replays(&scenario)?;
    }

    #[test]
    fn a_firecracker_without_faults_loses_nothing(scenario in runnable(Profile::Firecracker)) {
        ends_well_and_replays(&scenario)?;
    }
}
