//! The scenarios of `lostpage compare`: rows stand side by side only if all else is equal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use emu::scenario::model::{Action, DirtyLog, Driver, Injection, Migration, Operation, Profile, Scenario, Task};
use host::step::Costs;
use lostpage_tests::{files, scenario_file};

/// What no two rows of a table may differ in.
#[derive(Debug, PartialEq, Eq)]
struct Same {
    ram_bytes: u64,
    vcpus: u8,
    tasks: Vec<Task>,
    profile: Profile,
    dirty_log: DirtyLog,
    chunk_shift: u8,
    migration: Migration,
    costs: Costs,
    /// What devices write before the migration starts.
    dma: Vec<Action>,
    /// What a task is asked for while it runs.
    asked: Vec<Operation>,
}

impl Same {
    fn of(scenario: &Scenario) -> Self {
        let (guest, host) = (&scenario.guest, &scenario.host);
        let task = |injection: &Injection| match &injection.action {
            Action::Task(operation) => Some(operation.clone()),
            Action::Write { .. }
            | Action::Monitor(_)
            | Action::ClearLog { .. }
            | Action::RepeatId
            | Action::VhostQueue { .. }
            | Action::Iommu { .. } => None,
        };
        let dma = |injection: &&Injection| injection.by == host::event::Actor::Dma;
        Self {
            ram_bytes: guest.ram_bytes,
            vcpus: guest.vcpus,
            tasks: guest.tasks.clone(),
            profile: host.profile,
            dirty_log: host.dirty_log,
            chunk_shift: host.chunk_shift,
            migration: scenario.migration.clone(),
            costs: scenario.costs.clone(),
            dma: scenario.injections.iter().filter(dma).map(|injection| injection.action.clone()).collect(),
            asked: scenario.injections.iter().filter_map(task).collect(),
        }
    }
}

fn by_case() -> BTreeMap<String, Vec<(PathBuf, Scenario)>> {
    let mut cases: BTreeMap<String, Vec<(PathBuf, Scenario)>> = BTreeMap::new();
    for path in files("scenarios/dialects", "toml") {
        let case = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let scenario = scenario_file(&path);
        cases.entry(case).or_default().push((path, scenario));
    }
    cases
}

#[test]
fn rows_of_a_table_differ_in_their_interface_alone() {
    for rows in by_case().values() {
        let (first_path, first) = &rows[0];
        for (path, scenario) in rows {
            // No hint names a page that was reported: a task takes a block instead.
            let (mut expected, found) = (Same::of(first), Same::of(scenario));
            if scenario.guest.driver == Driver::Report {
                expected.asked.clone_from(&found.asked);
            }
            assert_eq!(expected, found, "{} and {}", first_path.display(), path.display());
        }
    }
}

#[test]
fn every_folder_has_every_case() {
    let cases = by_case();
    let folders =
        |case: &str| -> Vec<PathBuf> { cases[case].iter().map(|(path, _)| path.parent().expect("a folder").to_owned()).collect() };
    for case in ["resent", "pressure", "cancel", "second"] {
        assert_eq!(folders(case), folders("saving"), "{case}");
    }
}

/// Each interface stands in the tables; the merged driver as it hints by default.
#[test]
fn every_interface_is_compared() {
    let cases = by_case();
    for driver in Driver::ALL {
        assert!(cases["saving"].iter().any(|(_, scenario)| scenario.guest.driver == *driver), "{}", driver.name());
    }
}
