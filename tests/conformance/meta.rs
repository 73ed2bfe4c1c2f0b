//! The table of rows against the tests: each row once, each test in a row, and docs/conformance.md made from both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use lostpage_tests::{files, root};

use crate::rows::{ROWS, Row, Side};

/// A test, as its source has it.
#[derive(Debug, Clone)]
struct Test {
    name: String,
    side: Side,
    /// What is known to be broken, and from where.
    broken: Option<(String, String)>,
}

/// Every test of a row, in order of sides and files. They are read from the sources: a test has no list of its own kind.
fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for side in [Side::Driver, Side::Device, Side::Runs] {
        let paths = match side {
            Side::Driver => files("tests/conformance/driver", "rs"),
            Side::Device => files("tests/conformance/device", "rs"),
            Side::Runs => vec!["tests/conformance/worlds.rs".into()],
        };
        for path in paths {
            let text = std::fs::read_to_string(root().join(path)).expect("source file");
            for piece in text.split("#[test]\nfn ").skip(1) {
                let name = piece.split('(').next().expect("a name").to_owned();
                let body = piece.split("\n}\n").next().expect("a body");
                tests.push(Test { name, side, broken: broken(body) });
            }
        }
    }
    tests
}

/// Row and source that a test hands to `known_violation`.
fn broken(body: &str) -> Option<(String, String)> {
    let (_, arguments) = body.split_once("known_violation(")?;
    let mut literals = arguments.split('"').skip(1).step_by(2).map(str::to_owned);
    Some((literals.next()?, literals.next()?))
}

/// The row of a test: what its name begins with.
fn row_of(name: &str) -> String {
    name.split('_').next().unwrap_or_default().to_uppercase()
}

fn tests_of(row: &Row, tests: &[Test]) -> Vec<Test> {
    tests.iter().filter(|test| row_of(&test.name) == row.id).cloned().collect()
}

#[test]
fn every_requirement_has_one_row() {
    let numbered = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    let expected: Vec<String> = numbered('C', 52).chain(numbered('G', 15)).chain(["B41".to_owned(), "B42".to_owned()]).collect();
    assert_eq!(ROWS.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
}

#[test]
fn every_test_belongs_to_a_row() {
    let tests = tests();
    assert!(tests.len() > 150, "{} tests found", tests.len());
    let names: BTreeSet<&String> = tests.iter().map(|test| &test.name).collect();
    assert_eq!(names.len(), tests.len(), "a name stands for two tests");
    for test in &tests {
        let row = row_of(&test.name);
        assert!(ROWS.iter().any(|known| known.id == row), "{} names no row", test.name);
        if let Some((broken, source)) = &test.broken {
            assert_eq!(*broken, row, "{} asserts that another row is broken", test.name);
            assert!(!source.is_empty());
        }
    }
}

#[test]
fn every_row_is_tested_or_says_why_not() {
    let tests = tests();
    for row in ROWS {
        let tested: BTreeSet<Side> = tests_of(row, &tests).iter().map(|test| test.side).collect();
        for side in row.who {
            assert!(tested.contains(side) || row.note.contains("not tested"), "{}: no test of the {side:?}, and no reason", row.id);
        }
        assert!(!row.note.starts_with("not tested") || tested.is_empty(), "{} is tested, though it says that it is not", row.id);
    }
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Driver => "driver",
        Side::Device => "device",
        Side::Runs => "both",
    }
}

fn result(row: &Row, tests: &[Test]) -> String {
    if row.note.starts_with("legacy:") {
        return "does not apply".to_owned();
    }
    let mut sources: BTreeMap<&String, BTreeSet<&str>> = BTreeMap::new();
    for test in tests {
        if let Some((_, source)) = &test.broken {
            sources.entry(source).or_default().insert(side_word(test.side));
        }
    }
    let broken: Vec<String> = sources
        .iter()
        .map(|(source, sides)| format!("**broken** ({}): {source}", sides.iter().copied().collect::<Vec<_>>().join(", ")))
        .collect();
    match (tests.is_empty(), broken.is_empty()) {
        (true, _) => "not tested".to_owned(),
        (false, true) => "kept".to_owned(),
        (false, false) => broken.join("; "),
    }
}

fn page() -> String {
    let tests = tests();
    let broken = tests.iter().filter(|test| test.broken.is_some()).count();
    let rows_broken = ROWS.iter().filter(|row| tests_of(row, &tests).iter().any(|test| test.broken.is_some())).count();
    let mut text = format!(
        "# Conformance\nWhat VIRTIO asks of a balloon's driver and device, and what ours do. Made from `tests/conformance/rows.rs` and the tests beside it by\n\
         `LOSTPAGE_DOCS=write cargo test -p lostpage-tests --test conformance`. The driver is the guest's image, run against a device that only watches; the\n\
         device is the host's, as QEMU's and as Firecracker's, programmed by hand; \"both\" are the runs of all scenarios. **broken** is asserted, too: the\n\
         real driver or device breaks the rule, and a test fails when ours does not any more. The rule's other tests hold beside it.\n\n\
         {} rows, {} tests, of which {broken} assert that a rule is broken, in {rows_broken} rows.\n\n\
         | row | who | level | requirement | note | result | tests |\n|---|---|---|---|---|---|---|\n",
        ROWS.len(),
        tests.len(),
    );
    for row in ROWS {
        let own = tests_of(row, &tests);
        let who: Vec<&str> = row.who.iter().map(|side| side_word(*side)).collect();
        let names: Vec<String> = own.iter().map(|test| format!("{}: `{}`", side_word(test.side), test.name)).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.id,
            who.join(", "),
            row.level,
            row.requirement,
            row.note,
            result(row, &own),
            names.join("<br>")
        )
        .expect("memory");
    }
    text
}

#[test]
fn the_page_of_results_is_current() {
    let file = root().join("docs/conformance.md");
    let text = page();
    if std::env::var("LOSTPAGE_DOCS").as_deref() == Ok("write") {
        std::fs::write(&file, &text).expect("writable");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "docs/conformance.md is not current: LOSTPAGE_DOCS=write cargo test -p lostpage-tests --test conformance writes it"
    );
}
