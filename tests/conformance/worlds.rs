//! Both sides together: what the runs of all scenarios say of the rows that a trace can show.
//!
//! Here driver and device meet, and a migration goes on; the tests of each side alone stand beside this. A scenario whose driver is made to misbehave
//! is left out, and so is one with a fault.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use emu::scenario::model::{Action, Scenario};
use emu::world::RunOptions;
use host::event::{Event, HintElement, Stamped};
use lostpage_tests::{files, scenario_file};
use wire::dialect::Dialect;

use crate::{Check, ensure};

fn keeps_the_merged_protocol(scenario: &Scenario) -> bool {
    let honest = !scenario.injections.iter().any(|injection| injection.action == Action::RepeatId);
    scenario.guest.driver == Dialect::Hint && scenario.faults.is_empty() && honest
}

/// A rule: which events a trace has if it has to do with the rule, how many scenarios have at least, and the rule itself.
#[derive(Debug, Clone, Copy)]
struct Rule {
    about: fn(&Event) -> bool,
    least: usize,
    keeps: fn(&[Stamped]) -> Check,
}

/// The rules, by row.
const RULES: [(&str, Rule); 6] = [
    ("C11", Rule { about: |event| matches!(event, Event::BalloonInflate { .. }), least: 3, keeps: only_inflated_pages_are_deflated }),
    ("C28", Rule { about: starts, least: 50, keeps: starts_with_the_id_that_was_read_last }),
    ("C29", Rule { about: starts, least: 50, keeps: exposes_each_id_once }),
    ("C32", Rule { about: starts, least: 50, keeps: stops_before_the_next_start }),
    ("C38", Rule { about: starts, least: 50, keeps: asks_with_a_new_id }),
    ("C39", Rule { about: |event| matches!(event, Event::HintApply { .. }), least: 50, keeps: applies_only_behind_the_current_id }),
];

/// What became of a rule: scenarios that have to do with it, and the first that breaks it.
#[derive(Debug, Clone, Default)]
struct Found {
    concerned: usize,
    broken: Option<String>,
}

/// Runs every scenario once, and holds its trace against every rule.
fn found() -> &'static [Found; RULES.len()] {
    static FOUND: OnceLock<[Found; RULES.len()]> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found: [Found; RULES.len()] = Default::default();
        for path in files("scenarios", "toml") {
            let scenario = scenario_file(&path);
            if !keeps_the_merged_protocol(&scenario) {
                continue;
            }
            let trace = emu::world::run(&scenario, &RunOptions::default()).trace;
            for ((_, rule), found) in RULES.iter().zip(&mut found) {
                found.concerned += usize::from(trace.iter().any(|stamped| (rule.about)(&stamped.event)));
                if let Err(broken) = (rule.keeps)(&trace) {
                    found.broken.get_or_insert(format!("{}: {broken}", path.display()));
                }
            }
        }
        found
    })
}

/// Asserts that no scenario breaks a row's rule.
fn in_every_run(row: &str) {
    let index = RULES.iter().position(|(of, _)| *of == row).expect("a row with a rule");
    let found = &found()[index];
    assert_eq!(found.broken, None);
    assert!(found.concerned >= RULES[index].1.least, "only {} scenarios have to do with it", found.concerned);
}

fn starts(event: &Event) -> bool {
    matches!(event, Event::GuestStart { .. })
}

fn starts_with_the_id_that_was_read_last(trace: &[Stamped]) -> Check {
    let mut read = None;
    for stamped in trace {
        match &stamped.event {
            Event::GuestCmdId { id } => read = Some(*id),
            Event::GuestStart { id } => ensure(read == Some(*id), || format!("{read:?} was read, {id} starts"))?,
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn c28_in_every_run_a_round_starts_with_the_id_that_was_read_last() {
    in_every_run("C28");
}

fn exposes_each_id_once(trace: &[Stamped]) -> Check {
    let mut exposed = BTreeSet::new();
    for stamped in trace {
        match &stamped.event {
            // A driver that is bound again knows nothing of what the one before did.
            Event::DeviceStatus { status: 0 } => exposed.clear(),
            Event::GuestStart { id } => ensure(exposed.insert(*id), || format!("{id} starts twice"))?,
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn c29_in_every_run_each_id_is_exposed_once() {
    in_every_run("C29");
}

fn stops_before_the_next_start(trace: &[Stamped]) -> Check {
    let mut open = false;
    for stamped in trace {
        match &stamped.event {
            Event::GuestStart { id } => {
                ensure(!open, || format!("{id} starts while a round is open"))?;
                open = true;
            }
            Event::GuestStop | Event::DeviceStatus { status: 0 } => open = false,
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn c32_in_every_run_a_round_is_stopped_before_the_next_one_starts() {
    in_every_run("C32");
}

fn asks_with_a_new_id(trace: &[Stamped]) -> Check {
    let mut requested = BTreeSet::new();
    for stamped in trace {
        if let Event::HintRequest { id } = &stamped.event {
            ensure(requested.insert(*id), || format!("{id} is asked for twice"))?;
        }
    }
    Ok(())
}

#[test]
fn c38_in_every_run_each_round_has_an_id_of_its_own() {
    in_every_run("C38");
}

fn applies_only_behind_the_current_id(trace: &[Stamped]) -> Check {
    let (mut current, mut read) = (None, None);
    for stamped in trace {
        match &stamped.event {
            Event::HintRequest { id } => current = Some(*id),
            Event::HintPop { element: HintElement::Id(id), .. } => read = Some(*id),
            Event::HintApply { range, .. } => {
                ensure(read == current, || format!("{range} is applied behind {read:?}, the current id is {current:?}"))?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn c39_in_every_run_hints_count_only_behind_the_current_id() {
    in_every_run("C39");
}

fn only_inflated_pages_are_deflated(trace: &[Stamped]) -> Check {
    let mut balloon = BTreeSet::new();
    for stamped in trace {
        match &stamped.event {
            Event::BalloonInflate { pfn } => ensure(balloon.insert(*pfn), || format!("{pfn} is inflated twice"))?,
            // The kernel that boots then has all of its pages, and has told nobody of any.
            Event::MachineReset => balloon.clear(),
            Event::BalloonDeflate { pfn } => ensure(balloon.remove(pfn), || format!("{pfn} is deflated, and is not inflated"))?,
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn c11_in_every_run_only_inflated_pages_are_deflated_and_none_is_inflated_twice() {
    in_every_run("C11");
}
