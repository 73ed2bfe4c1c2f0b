//! Faults and scenarios: every fault is caught, and caught as what it is.
//!
//! A fault is caught by a scenario that ends as expected without it and not with it. Of its catches, at least one has the verdict that the
//! fault's effect names: a loss is seen as a lost page by the host's fault, not merely as a broken rule on the way to it. `lostpage museum` shows the
//! whole matrix.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use emu::museum::{Matrix, Row, is_shown, run_flipped};
use emu::outcome::{Blame, Verdict};
use emu::scenario::model::Scenario;
use emu::world::{RunOptions, run};
use host::fault::Fault;
use lostpage_tests::{files, scenario_file};

/// A scenario's path, what it says, and its runs.
type Exhibit = (String, Scenario, Row);

/// A panic ends the test.
fn unguarded(work: &mut dyn FnMut()) -> Result<(), String> {
    work();
    Ok(())
}

fn exhibit(path: &Path) -> Exhibit {
    let (name, scenario) = (path.display().to_string(), scenario_file(path));
    let faults: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| is_shown(&name, &scenario, *fault)).collect();
    let row = Row::new(&scenario, &faults, unguarded);
    (name, scenario, row)
}

/// Every scenario but those that are only compared, with its runs.
fn matrix() -> &'static [Exhibit] {
    static MATRIX: OnceLock<Vec<Exhibit>> = OnceLock::new();
    MATRIX.get_or_init(|| {
        // What is compared is large, and no fault's witness.
        let is_exhibited = |path: &PathBuf| !path.starts_with("scenarios/dialects");
        let paths: Vec<PathBuf> = files("scenarios", "toml").into_iter().filter(is_exhibited).collect();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let some = |paths: &'_ [PathBuf]| paths.iter().map(|path| exhibit(path)).collect::<Vec<_>>();
            let parts: Vec<_> = paths.chunks(paths.len().div_ceil(threads)).map(|paths| scope.spawn(move || some(paths))).collect();
            parts.into_iter().flat_map(|part| part.join().expect("no run panics")).collect()
        })
    })
}

#[test]
fn every_scenario_ends_as_expected_and_notices_its_witnesses() {
    for (path, scenario, row) in matrix() {
        let alone = row.alone.as_ref().expect("a panic would have ended the test");
        assert_eq!(alone.unexpected, Vec::<String>::new(), "{path}");
        for fault in &scenario.witness {
            assert!(row.noticed().any(|cell| cell.fault == *fault), "{path} does not notice {}", fault.name());
        }
    }
}

/// What lets the matrix leave out most of its runs, and begin the others in their middle, see `emu::world::flip`. Here on a sample of both;
/// `LOSTPAGE_MUSEUM=all` makes every run from its beginning.
#[test]
fn a_run_from_the_beginning_would_have_ended_alike() {
    const SAMPLE: usize = 97;
    let all = std::env::var_os("LOSTPAGE_MUSEUM").is_some_and(|value| value == "all");
    let cells = matrix().iter().flat_map(|exhibit| exhibit.2.cells.iter().map(move |cell| (exhibit, cell)));
    let (alike, differing): (Vec<_>, Vec<_>) = cells.partition(|((_, _, row), cell)| cell.result == row.alone);
    for kind in [alike, differing] {
        let sample: Vec<_> = kind.into_iter().step_by(if all { 1 } else { SAMPLE }).collect();
        for ((path, scenario, _), cell) in &sample {
            let plain = run_flipped(scenario, cell.fault, |scenario, options| Ok(run(scenario, options)));
            assert_eq!(cell.result, plain, "{path} with {}", cell.fault.name());
        }
        assert!(sample.len() > 10, "only {} runs are compared", sample.len());
    }
}

/// Scenarios that are to pass and that no fault flips, and why they stay.
const UNFLIPPED: &[(&str, &str)] = &[
    (
        "scenarios/pass/balloon-2012/s16-put-back-nowhere.toml",
        "no migration, so no fault of the host's; scenarios/fail has it without its correction",
    ),
    (
        "scenarios/pass/balloon-2012/s18-busy-page.toml",
        "no migration, so no fault of the host's; scenarios/fail has it without its correction",
    ),
];

/// A scenario that nothing changes may be looking at nothing.
#[test]
fn every_scenario_that_is_to_pass_is_flipped_by_a_fault() {
    let rows = matrix().iter().map(|(path, _, row)| (path.clone(), row.clone()));
    let unmoved = Matrix { rows: rows.collect() };
    let known: Vec<&str> = UNFLIPPED.iter().map(|(path, _)| *path).collect();
    assert_eq!(unmoved.unmoved(), known, "on the left what no fault flips, on the right what is known and has a reason");
}

/// By a scenario that says so, for the others may lose their eye for it unnoticed.
#[test]
fn every_fault_is_caught_as_what_it_is() {
    let witnesses = |fault: Fault| {
        let says = |(path, scenario, row): &Exhibit| scenario.witness.contains(&fault).then(|| (path.clone(), row.clone()));
        Matrix { rows: matrix().iter().filter_map(says).collect() }
    };
    for fault in Fault::ALL {
        let seen = witnesses(*fault).caught_as_such_by(*fault).len();
        assert!(seen > 0, "no witness shows the {} by {} as such", fault.effect().name(), fault.name());
    }
}

/// The matrix beyond the witnesses: a fault makes no run panic, and what a host's fault breaks is never blamed on the guest alone where
/// nothing was wrong before.
#[test]
fn no_fault_of_the_host_is_blamed_on_the_guest() {
    for (path, _, row) in matrix().iter().filter(|(_, scenario, _)| scenario.expect.verdict == Verdict::Pass) {
        for cell in row.cells.iter().filter(|cell| cell.fault.guest_bit().is_none()) {
            let violations = &cell.result.as_ref().expect("a panic would have ended the test").violations;
            // A defect that only the protocol lets through is nobody's but the protocol's.
            let by_host = violations.iter().any(|violation| matches!(violation.blame, Blame::Host | Blame::Gap));
            assert!(violations.is_empty() || by_host, "{path} with {}: {violations:?}", cell.fault.name());
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
