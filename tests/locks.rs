//! The page of locks against the code: every lock that is an object has its row, in the order in which they nest, and what nests in what is as runs show it.
//!
//! `LOSTPAGE_DOCS=write` writes the table of nestings instead of comparing it.

use std::collections::BTreeSet;
use std::fmt::Write;

use emu::world::{RunOptions, run};
use host::event::{Actor, Event, LockId};
use host::step::Await;
use lostpage_tests::{files, root, scenario_file};

const PAGE: &str = "docs/locks.md";
const NESTINGS: &str = "| outer | inner | by |\n|---|---|---|\n";

fn page() -> String {
    std::fs::read_to_string(root().join(PAGE)).expect("readable")
}

/// The cells of each row of the page's tables.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let cells = |line: &'_ str| -> bool { line.starts_with("| ") };
    page.lines().filter(|line| cells(line)).map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_object_has_its_row_in_the_order_of_nesting() {
    let page = page();
    let objects: Vec<(&str, &str)> = rows(&page)
        .into_iter()
        .filter(|cells| cells.len() == 4 && cells[3].starts_with("object"))
        .map(|cells| (cells[0].trim_matches('`'), cells[3]))
        .collect();
    let names: Vec<&str> = objects.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, LockId::ALL.map(LockId::name));
    for (lock, (name, how)) in LockId::ALL.into_iter().zip(objects) {
        let asked_for = lock.is_fine() && lock != LockId::Rcu;
        assert_eq!(how.starts_with("object with `all_locks`"), asked_for, "{name}: {how}");
    }
}

#[test]
fn every_wait_that_is_no_lock_has_its_row() {
    let page = page();
    let told: BTreeSet<&str> = rows(&page).into_iter().filter(|cells| cells.len() == 2).map(|cells| cells[1]).collect();
    for wait in Await::ALL {
        assert!(told.iter().any(|cell| cell.starts_with(wait.name())), "{PAGE} does not tell of {}", wait.name());
    }
}

/// Who took which lock while holding which.
fn nestings() -> BTreeSet<(usize, usize, String)> {
    let place = |lock| LockId::ALL.iter().position(|other| *other == lock).expect("ALL holds all");
    let mut found = BTreeSet::new();
    for path in files("scenarios/pass/locks", "toml") {
        let mut held: Vec<(Actor, LockId)> = Vec::new();
        for stamped in run(&scenario_file(&path), &RunOptions::default()).trace {
            let who = match stamped.actor {
                Actor::Vcpu(_) => "vcpu".to_owned(),
                other => other.to_string(),
            };
            match stamped.event {
                Event::LockTake { lock } => {
                    let outer = held.iter().filter(|(holder, _)| *holder == stamped.actor).map(|(_, outer)| *outer);
                    found.extend(outer.map(|outer| (place(outer), place(lock), who.clone())));
                    held.push((stamped.actor, lock));
                }
                Event::LockRelease { lock } => held.retain(|holder| *holder != (stamped.actor, lock)),
                _ => {}
            }
        }
        assert!(held.is_empty(), "{}: {held:?} at the end", path.display());
    }
    found
}

#[test]
fn the_table_of_nestings_is_current_and_has_no_circle() {
    let found = nestings();
    assert!(found.iter().all(|(outer, inner, _)| outer < inner), "a lock inside of one that nests in it: {found:?}");
    let mut table = NESTINGS.to_owned();
    for (outer, inner, by) in &found {
        writeln!(table, "| `{}` | `{}` | {by} |", LockId::ALL[*outer].name(), LockId::ALL[*inner].name()).expect("memory");
    }
    let page = page();
    let (before, rest) = page.split_once(NESTINGS).expect("the page has the table");
    let after = rest.split_once("\n## ").map_or("", |(_, after)| after);
    let current = format!("{before}{table}\n## {after}");
    if std::env::var_os("LOSTPAGE_DOCS").is_some_and(|value| value == "write") {
        std::fs::write(root().join(PAGE), &current).expect("writable");
    }
    assert!(self::page() == current, "{PAGE} is not current: LOSTPAGE_DOCS=write cargo test -p lostpage-tests --test locks writes it");
}
