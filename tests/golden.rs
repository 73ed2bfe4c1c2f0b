//! Golden data: what was measured on a real QEMU, or read off its source, must come out here.

use std::path::Path;

use emu::outcome::{Blame, Outcome, Verdict};
use emu::world::{RunOptions, run};
use host::event::{Event, HintElement, PrecopyReason};
use lostpage_tests::{scenario, scenario_file};

fn outcome(path: &str) -> Outcome {
    run(&scenario_file(Path::new(path)), &RunOptions::default())
}

fn ids(outcome: &Outcome) -> Vec<u32> {
    outcome.facts.cmd_ids.iter().map(|id| id.0).collect()
}

#[test]
fn command_ids_are_those_of_qemu() {
    let precopy = outcome("scenarios/pass/hinting/cmd-ids-precopy.toml");
    assert_eq!(ids(&precopy), [0, 0x8000_0001, 0x8000_0002, 1]);
    assert_eq!(precopy.facts.destination_cmd_id.map(|id| id.0), Some(1));
    let paused = outcome("scenarios/pass/hinting/cmd-ids-paused.toml");
    assert_eq!(ids(&paused), [0, 1]);
    assert_eq!(paused.facts.destination_cmd_id.map(|id| id.0), Some(1));
    let retry = outcome("scenarios/pass/hinting/cmd-ids-retry.toml");
    assert_eq!(ids(&retry), [0, 0x8000_0001, 1, 0x8000_0002, 1]);
}

/// The matrix measured on QEMU 10.0.2: rows are ways of tracking, columns orders of W (a vCPU's write to P) and H (the hint's application).
#[test]
fn the_matrix_of_hints_and_writes_is_that_of_qemu() {
    let columns = ["no-hint", "hint-then-write", "write-then-hint", "cleared-write-then-hint"];
    for row in ["tcg", "kvm6", "kvm18", "getclears"] {
        for column in columns {
            let lost = (row, column) == ("kvm6", "write-then-hint");
            let folder = if lost { "fail" } else { "pass" };
            let outcome = outcome(&format!("scenarios/{folder}/matrix/{row}-{column}.toml"));
            if lost {
                assert_eq!(outcome.verdict, Verdict::LostPage);
                assert!(outcome.violations.iter().all(|violation| violation.blame == Blame::Guest), "{:?}", outcome.violations);
            } else {
                assert_eq!(outcome.verdict, Verdict::Pass, "{row} {column}: {:?}", outcome.violations);
            }
            assert_eq!(outcome.unexpected, Vec::<String>::new(), "{row} {column}");
        }
    }
}

/// One line for each notification, id, state and sync of a run; hints of one round make one line.
fn protocol(outcome: &Outcome) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for stamped in &outcome.trace {
        let line = match &stamped.event {
            Event::Notify { reason: PrecopyReason::AfterBitmapSync, vm_running } => format!("notify after-sync running={vm_running}"),
            Event::Notify { reason, .. } => format!("notify {}", reason.name()),
            Event::BitmapSync { round, .. } => format!("sync #{round}"),
            Event::HintRequest { id } => format!("REQUESTED {id}"),
            Event::HintPop { element: HintElement::Id(id), .. } => format!("out {id}"),
            Event::HintStart { .. } => "-> START".to_owned(),
            Event::HintStop { from } => format!("{} -> STOP", from.name()),
            Event::HintDone { .. } => "-> DONE".to_owned(),
            Event::HintApply { .. } => "hints".to_owned(),
            Event::MigrationState { to, .. } => format!("migration {}", to.name()),
            Event::VmStop => "vm stop".to_owned(),
            _ => continue,
        };
        if lines.last() != Some(&line) || line != "hints" {
            lines.push(line);
        }
    }
    lines
}

/// The order of one real migration with a real Linux 6.12 guest under QEMU 10.0.2, whose COMPLETE notification comes before the last sync.
#[test]
fn notifications_ids_states_and_syncs_come_in_the_order_of_a_real_migration() {
    // The link is slow enough for a bandwidth estimate; and the guest has answered the second round before the VM stops, as it had there.
    let text = r#"
        about = "the real migration"
        [migration]
        bandwidth = "64 MiB/s"
        zero_pages = false
        complete_before_sync = true
        [[order]]
        chain = ["hint.stop#2", "vm.stop"]
    "#;
    let outcome = run(&scenario(text), &RunOptions::default());
    assert_eq!(outcome.verdict, Verdict::Pass, "{:?}", outcome.violations);
    let expected = [
        "migration setup",
        "notify before-sync",
        "sync #1",
        "notify after-sync running=true",
        "REQUESTED 80000001",
        "out 80000001",
        "-> START",
        "hints",
        "out 0",
        "START -> STOP",
        "notify setup",
        "migration active",
        "notify before-sync",
        "sync #2",
        "notify after-sync running=true",
        "REQUESTED 80000002",
        "out 80000002",
        "-> START",
        "out 0",
        "START -> STOP",
        "vm stop",
        "migration device",
        "notify complete",
        "notify before-sync",
        "sync #3",
        "notify after-sync running=false",
        "-> DONE",
        "migration completed",
        "notify cleanup",
    ];
    assert_eq!(protocol(&outcome), expected);
}
