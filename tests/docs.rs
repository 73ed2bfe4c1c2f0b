//! Documentation against the tree: tables that come from a registry are current, and what a page names exists.
//!
//! `LOSTPAGE_DOCS=write` writes the tables instead of comparing them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use emu::scenario::model::Driver;
use host::event::EventKind;
use host::fault::Fault;
use lostpage_tests::{files, root, scenario_file};
use wire::switch::correct;

const PAGES: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "STYLE.md"];

/// Every page, with its path relative to the root.
fn pages() -> Vec<(PathBuf, String)> {
    let all = PAGES.iter().map(PathBuf::from).chain(files("docs", "md"));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, text)
    };
    all.map(read).collect()
}

/// What stands between backquotes outside of fences.
fn code_words(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Targets of links that do not leave the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

fn assert_current(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os("LOSTPAGE_DOCS").is_some_and(|value| value == "write") {
        std::fs::write(&file, text).expect("writable");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == text, "{path} is not current: LOSTPAGE_DOCS=write cargo test -p lostpage-tests --test docs writes it");
}

#[test]
fn the_table_of_events_is_current() {
    let mut text = String::from(
        "# Events\nWhat scenarios, reports and the oracle speak of; nothing else is said. Made from `host/src/event.rs`, like `lostpage events`.\n\n\
         | event | meaning |\n|---|---|\n",
    );
    for kind in EventKind::ALL {
        writeln!(text, "| `{}` | {} |", kind.name(), kind.about().trim()).expect("memory");
    }
    assert_current("docs/events.md", &text);
}

#[test]
fn the_table_of_faults_is_current() {
    let mut witnesses: BTreeMap<Fault, Vec<String>> = BTreeMap::new();
    for path in files("scenarios", "toml") {
        for fault in scenario_file(&path).witness {
            witnesses.entry(fault).or_default().push(format!("`{}`", path.display()));
        }
    }
    let mut text = String::from(
        "# Faults\nDefects that can be switched on, by `--fault NAME` or a scenario's `faults`. Made from `host/src/fault.rs`, like `lostpage faults`, and\n\
         from the scenarios that list them as `witness`: those pass without the fault, and do not with it. \"Id\" is the entry of our catalogue of QEMU's\n\
         history. A mutation is an edit of QEMU 10.0.2 that was tried against real guests, which did not show it, but for M5.\n",
    );
    for fault in Fault::ALL {
        let caught = witnesses.get(fault).unwrap_or_else(|| panic!("no scenario has {} as its witness", fault.name()));
        write!(
            text,
            "\n## {}\n{}.\n\n* Effect: {}\n* Source: {}\n* Id: {}\n* Caught by: {}\n",
            fault.name(),
            fault.mechanism(),
            fault.effect().name(),
            fault.source(),
            fault.id(),
            caught.join(", ")
        )
        .expect("memory");
    }
    assert_current("docs/faults.md", &text);
}

/// Scenarios of the posted interfaces, but for those that `lostpage compare` puts side by side.
#[test]
fn the_table_of_dialects_scenarios_is_current() {
    let mut rows: BTreeMap<Driver, String> = BTreeMap::new();
    for path in files("scenarios", "toml").into_iter().filter(|path| !path.starts_with("scenarios/dialects")) {
        let scenario = scenario_file(&path);
        let words = correct::ALL.iter().filter(|(bit, ..)| scenario.guest.corrected & bit != 0).map(|(_, word, _)| *word);
        let corrected = words.collect::<Vec<_>>().join(", ");
        let (verdict, about) = (scenario.expect.verdict.name(), scenario.about.replace('|', "\\|"));
        let row = format!("| [{0}](../{0}) | {verdict} | {corrected} | {about} |\n", path.display());
        // Nobody names the merged driver to show something of it as an interface.
        if scenario.guest.driver != Driver::Hint {
            rows.entry(scenario.guest.driver).or_default().push_str(&row);
        }
    }
    let mut text = String::from(
        "# Scenarios of the interfaces that were posted\nWhat each interface does as posted, and with which of its flaws corrected. Made from the files under `scenarios/`; \
         what they are is in [dialects.md](dialects.md).\n",
    );
    for driver in Driver::ALL {
        let Some(rows) = rows.get(driver) else { continue };
        let about = driver.about().trim();
        write!(text, "\n## {}\n{about}\n\n| scenario | verdict | corrected | what |\n|---|---|---|---|\n{rows}", driver.name())
            .expect("memory");
    }
    assert_current("docs/dialect-scenarios.md", &text);
}

#[test]
fn what_a_page_names_exists() {
    let tops = ["scenarios/", "docs/", "guest/", "host/", "emu/", "tests/", ".ci/", ".cargo/"];
    let mut looked_at = 0;
    for (path, text) in pages() {
        let folder = root().join(path.parent().expect("a folder"));
        for target in links(&text) {
            assert!(folder.join(target).exists(), "{} links to {target}", path.display());
            looked_at += 1;
        }
        for word in code_words(&text) {
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            // STYLE.md shows by examples, some of them of files to come.
            if plain && word != "snapshots/" && path != Path::new("STYLE.md") && tops.iter().any(|top| word.starts_with(top)) {
                assert!(root().join(word).exists(), "{} names {word}", path.display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 40, "only {looked_at} names found");
}

/// Names in the manner of a test's: such a name stands for a test, and the test is there.
#[test]
fn tests_that_a_page_names_exist() {
    let sources: String = ["guest", "host", "emu", "tests"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|path| std::fs::read_to_string(root().join(path)).expect("source file"))
        .collect();
    let mut looked_at = 0;
    for (path, text) in pages() {
        for word in code_words(&text) {
            let like_a_test =
                word.matches('_').count() >= 4 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            // STYLE.md gives names as examples.
            if like_a_test && path != Path::new("STYLE.md") {
                assert!(sources.contains(&format!("fn {word}(")), "{} names the test {word}", path.display());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at >= 7, "only {looked_at} names found");
}

#[test]
fn every_finding_is_in_the_list_of_findings() {
    let list = std::fs::read_to_string(root().join("docs/findings/README.md")).expect("the list");
    for path in files("docs/findings", "md") {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name} is not in docs/findings/README.md");
    }
}

#[test]
fn the_map_has_a_line_for_every_source_file() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for folder in ["guest", "host", "emu/src"] {
        for path in files(folder, "rs") {
            let whole = path.to_string_lossy().into_owned();
            let support = ["/tests/", "/tests.rs", "_tests.rs", "/testing.rs", "/benches/", "/testguest/"];
            if support.iter().any(|part| whole.contains(part)) || path.ends_with("lib.rs") || path.ends_with("mod.rs") {
                continue;
            }
            let folder = path.parent().expect("a folder").to_string_lossy().into_owned();
            let section = map.split(&format!("\n{folder}/\n")).nth(1).unwrap_or_else(|| panic!("ARCHITECTURE.md has no {folder}/"));
            let section = section.split("\n\n").next().unwrap_or_default();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let told = section.lines().any(|line| line.split_whitespace().next() == Some(&name));
            assert!(told, "ARCHITECTURE.md says nothing of {whole}");
        }
    }
}
