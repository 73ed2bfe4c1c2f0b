//! Documentation against the tree: tables that come from a registry are current, and what a page names exists.
//!
//! `LOSTPAGE_DOCS=write` writes the tables instead of comparing them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use emu::scenario::model::{Driver, Host, Profile};
use host::event::EventKind;
use host::fault::{Catalogue, Fault};
use lostpage_tests::{files, root, scenario_file};
use wire::balloon::feature;
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

/// What a profile's users get stands on its page, and each profile has a part of its own there.
#[test]
fn the_page_of_profiles_says_what_each_offers() {
    let page = std::fs::read_to_string(root().join("docs/profiles.md")).expect("readable");
    for profile in Profile::ALL {
        let Host { dirty_log, features, hint_queue_size, queue_size, .. } = Host::of(*profile, Driver::Hint);
        let names = FEATURE_NAMES.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| format!("`{name}`"));
        let features = names.collect::<Vec<_>>().join(", ");
        let row = format!("| `{}` | `{}` | {features} | {hint_queue_size} | {queue_size} |\n", profile.name(), dirty_log.name());
        assert!(page.contains(&row), "docs/profiles.md has no row {row}");
        assert!(page.contains(&format!("\n## `{}`\n", profile.name())), "{} has no part of its own", profile.name());
    }
}

/// Rows of the tables of a part of the page of profiles: what, modelled, source, shown by.
fn rows_of(part: &str) -> Vec<[String; 4]> {
    let rows = part.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what |"));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(|row| cells(row).try_into().unwrap_or_else(|cells| panic!("four cells: {cells:?}"))).collect()
}

/// Whether a name stands for a test of this profile: the test says so itself, or goes through all of them.
fn is_test_of(profile: Profile, name: &str, sources: &str) -> bool {
    let variant = match profile {
        Profile::Qemu => "Qemu",
        Profile::Firecracker => "Firecracker",
        Profile::CloudHypervisor => "CloudHypervisor",
    };
    let Some((_, behind)) =
        sources.split_once(&format!("#[test]\nfn {name}(")).or_else(|| sources.split_once(&format!("#[test]\n    fn {name}(")))
    else {
        return false;
    };
    let body = behind.split("#[test]").next().unwrap_or_default();
    name.contains(&profile.name().replace('-', "_")) || body.contains(&format!("Profile::{variant}")) || body.contains("PROFILES")
}

/// What is modelled is shown by a scenario or a test of the profile, and every row says from where it is known.
#[test]
fn what_a_profile_models_is_shown() {
    let page = std::fs::read_to_string(root().join("docs/profiles.md")).expect("readable");
    let paths = ["host", "tests"].into_iter().flat_map(|folder| files(folder, "rs"));
    let sources: String = paths.map(|path| std::fs::read_to_string(root().join(path)).expect("source file")).collect();
    for profile in Profile::ALL {
        let part = page.split(&format!("\n## `{}`\n", profile.name())).nth(1).expect("its part");
        let rows = rows_of(part.split("\n## ").next().expect("its part"));
        assert!(rows.len() >= 8, "{} has {} rows", profile.name(), rows.len());
        for [what, modelled, source, shown] in rows {
            assert!(source.chars().count() > 3, "{what}: no source");
            let names = code_words(&shown);
            assert_eq!(modelled.starts_with("yes"), !names.is_empty(), "{what}: shown by {shown}");
            for name in names {
                let fits = match name.starts_with("scenarios/") {
                    true => scenario_file(Path::new(name)).host.profile == *profile,
                    false => is_test_of(*profile, name, &sources),
                };
                assert!(fits, "{what}: {name} shows nothing of {}", profile.name());
            }
        }
    }
}

/// Every key of `[host]` stands in the list of options, and nothing else does.
#[test]
fn every_option_of_the_host_is_somebodys() {
    let vocabulary = std::fs::read_to_string(root().join("emu/src/scenario/vocabulary/host.rs")).expect("source file");
    let host = vocabulary.split("static HOST").nth(1).and_then(|rest| rest.split("\n};\n").next()).expect("the keys of the host");
    let keys: Vec<&str> = host.split("key(").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
    assert!(keys.len() > 20, "{keys:?}");
    let page = std::fs::read_to_string(root().join("docs/profiles.md")).expect("readable");
    let list = page.split("| option | who has it |\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the list");
    let listed: Vec<&str> = list.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(listed, keys, "docs/profiles.md lists the options of the host in the order of the vocabulary");
}

/// What was found in a QEMU of today runs as scenarios.
#[test]
fn every_live_finding_is_a_scenario() {
    let texts: Vec<String> =
        files("scenarios", "toml").iter().map(|path| std::fs::read_to_string(root().join(path)).expect("readable")).collect();
    for finding in ["F1", "F2", "F3", "F4", "F5"] {
        let told = |text: &&String| text.starts_with("# Aim: ") && text.contains(&format!("finding {finding}"));
        assert!(texts.iter().any(|text| told(&text)), "no scenario shows finding {finding}");
    }
}

/// Features that a profile offers without being asked.
const FEATURE_NAMES: [(u64, &str); 4] = [
    (feature::STATS_VQ, "stats-vq"),
    (feature::FREE_PAGE_HINT, "free-page-hint"),
    (feature::PAGE_POISON, "page-poison"),
    (feature::PAGE_REPORTING, "page-reporting"),
];

/// Scenarios that list a fault as their witness.
fn witnesses() -> BTreeMap<Fault, Vec<String>> {
    let mut witnesses: BTreeMap<Fault, Vec<String>> = BTreeMap::new();
    for path in files("scenarios", "toml") {
        for fault in scenario_file(&path).witness {
            witnesses.entry(fault).or_default().push(format!("`{}`", path.display()));
        }
    }
    witnesses
}

#[test]
fn the_table_of_faults_is_current() {
    let witnesses = witnesses();
    let mut text = String::from(
        "# Faults\nDefects that can be switched on, by `--fault NAME` or a scenario's `faults`. Made from `host/src/fault.rs`, like `lostpage faults`, and\n\
         from the scenarios that list them as `witness`: those pass without the fault, and do not with it. \"Id\" is the entry of our catalogues of\n\
         real bugs. A mutation is an edit of QEMU 10.0.2 that was tried against real guests, which did not show it, but for M5.\n",
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
            if fault.label().is_empty() { "-".to_owned() } else { fault.label() },
            caught.join(", ")
        )
        .expect("memory");
    }
    assert_current("docs/faults.md", &text);
}

#[test]
fn the_museum_is_current() {
    let plain = |paths: Vec<String>| paths.into_iter().map(|path| path.trim_matches('`').to_owned()).collect();
    let witnesses = witnesses().into_iter().map(|(fault, paths)| (fault, plain(paths))).collect();
    assert_current("docs/museum.md", &emu::museum::page(&witnesses));
}

/// The catalogue of bugs that Linux's balloon driver, page allocator and virtio core had: what each was, and of those that are no fault here, why not.
const GUEST_BUGS: [(&str, &str, Option<&str>); 42] = [
    ("4eb05d562ea1, e562966dbaf4", "freezing forgets the balloon", None),
    ("d6d86c0a7f8d", "whose page it is, is read through its mapping", None),
    ("f68b992bbb47", "deflated pages are freed outside the lock", None),
    ("21ea9fb69e7c", "the balloon's list is walked without its lock", None),
    ("c7cdff0e8647", "inflation allocates under the lock that the OOM notifier wants", None),
    ("d9e427f6ab81", "the array of frames is off by one", None),
    ("4.20, fixed in 5.0", "DONE is handled in the interrupt", None),
    ("late 2018", "an absent queue is set up like the others", None),
    ("b0c504f15471 and the series of 07/2024", "queues are numbered by the specification on one side only", None),
    ("5790b53390e1", "a queue's callback is whatever lay on the stack", None),
    ("fixed in 5.4", "the shrinker's count, and its loop", None),
    ("71994620bb25, da10329cb057", "the balloon deflates in a shrinker", None),
    ("63341ab03706", "a page that moves to another zone leaves its count behind", None),
    ("fixed in 5.4.19", "removal keeps the hinted blocks", None),
    ("1ad6f58ea936", "a probe that fails keeps what it had", None),
    ("168c358af2f8", "the command id in the CPU's order of bytes", None),
    ("fb69c2c896fc", "poisoned pages are reported", None),
    (
        "07622bd41563",
        "64 KiB pages: a target between two of them is never met",
        Some("pages are 4 KiB here, as the balloon's: nothing is rounded"),
    ),
    ("dd4229060957", "a page is taken off its list twice", None),
    ("e0a352fabce6", "a moved page is looked at behind its unlock", None),
    ("356ea3865687", "a flag is cleared without an atomic operation", None),
    ("0b45f6927a14", "reporting goes on while the system freezes", None),
    (
        "6.1.188, 6.12.110",
        "a report allocates an indirect table",
        Some("the ring here builds no indirect tables; the driver gives the feature up before any queue is made"),
    ),
    ("6.12.117", "tell_host waits for what it could not add", None),
    ("2026", "the queues break under the works at shutdown", None),
    (
        "2026, not yet merged",
        "the statistics queue is kicked before DRIVER_OK",
        Some(
            "no fault to switch on: today's driver does it, and so does ours; what is switched on is the mended one, by `corrected = [\"b26\"]`, as in `scenarios/pass/guest/statistics-behind-driver-ok.toml`",
        ),
    ),
    ("6.1.160", "isolated pages count as on the list", None),
    ("fc8653228c85, 8424af5336f7, f0bb2d50dfcc", "the first statistics are uninitialised memory", None),
    ("v28, never merged", "the stop sign is written where the start lies", None),
    (
        "e320d3012d25, CVE-2023-52739",
        "a passing reference leaks a block, and its first fix freed twice",
        Some("the double free needs a compound page whose head loses its mark on the way, and this allocator makes none"),
    ),
    (
        "b9e20f0da1f5",
        "compaction captures what an interrupt frees",
        Some("compaction here has no capture control: it takes what it frees by the ordinary way"),
    ),
    ("66eca1021a42", "a drain reads a per-CPU count outside its lock", None),
    ("7b086755fb8c", "pages of another type come back to the wrong list", None),
    ("CVE-2026-23025", "with one CPU an interrupt frees into a list that is being changed", None),
    (
        "7838a4eb8a1d",
        "of several pageblocks that merge only the first changes its type",
        Some(
            "needs a buddy of more than one pageblock; with orders up to 10 and pageblocks of order 9 the largest buddy that merges is one",
        ),
    ),
    (
        "CVE-2026-43303",
        "a freed page keeps its private word",
        Some("nobody here frees a page with a private word: the balloon and the buddy lists clear theirs before"),
    ),
    ("6.12.97, 6.12.117", "unused pages of compaction are freed unprepared", None),
    (
        "2026",
        "the transport's list of queues is walked without its lock",
        Some(
            "not built: with two vCPUs a removal could fall into the interrupt's walk, but the queues here are an array of fixed slots, in which nothing goes stale",
        ),
    ),
    (
        "6.1.28",
        "collecting a buffer asks for interrupts that nobody wants",
        Some("the driver here does not take EVENT_IDX, see `guest/src/virtio/ring.rs`"),
    ),
    ("5.10.4", "a queue that could not be made stays on the device's list", None),
    (
        "6.x",
        "VERSION_1 is written back behind the driver's look at the features",
        Some("without effect here: the transport is modern or refuses, and the balloon's validate reads no configuration"),
    ),
    ("none", "a configuration change at the wrong time is forgotten", None),
];

#[test]
fn the_table_of_guest_bugs_is_current() {
    let mut text = String::from(
        "# Bugs of the guest\nWhat Linux's balloon driver, page allocator and virtio core once had, and what of it can be switched on here: guest code asks \
         `kernel::switch::faulty`,\na scenario says `faults = [\"name\"]`. Made from the registry of faults and from the scenarios; of what is no fault the reason is told.\n\n\
         | id | source | what it was | here |\n|---|---|---|---|\n",
    );
    let witnesses = witnesses();
    for (number, (source, what, reason)) in (1..).zip(GUEST_BUGS) {
        let id = format!("B{number}");
        let mut here: Vec<String> = Vec::new();
        for fault in Fault::ALL.iter().filter(|fault| fault.catalogue() == Catalogue::Linux && fault.id() == id) {
            let by: Vec<&str> = witnesses.get(fault).into_iter().flatten().map(String::as_str).collect();
            here.push(format!("`{}`, noticed by {}", fault.name(), by.join(", ")));
        }
        here.extend(reason.map(str::to_owned));
        if here.is_empty() {
            here.push("no fault yet".to_owned());
        }
        writeln!(text, "| {id} | {source} | {what} | {} |", here.join("; ")).expect("memory");
    }
    assert_current("docs/guest-bugs.md", &text);
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
