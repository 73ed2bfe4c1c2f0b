//! The command line with an engine that ends as a scenario's `about` asks: `pass`, `wrong`, `panic`, `blind` (no fault changes it).

use std::fs;
use std::path::PathBuf;

use host::event::Stamped;

use super::*;
use crate::report::sample;
use crate::world::doctor::{Divergence, Way, What};

fn fake_run(scenario: &Scenario, options: &RunOptions) -> Outcome {
    let mut outcome = if options.faults.is_empty() { sample::pass() } else { sample::lost_page() };
    match scenario.about.as_str() {
        "pass" => {}
        "wrong" => outcome.unexpected.push("verdict: expected lost-page, got pass".to_string()),
        "blind" => outcome = sample::pass(),
        "panic" => panic!("the sky fell"),
        other => unreachable!("no run is called {other}"),
    }
    outcome
}

/// Two runs that end as a scenario's `about` asks: `pass`, `differs` (an event), `forgets` (no event), `panic`.
fn fake_examine(scenario: &Scenario, _: &RunOptions, seed: u64, _: Guard) -> Result<Examination, String> {
    let trace = sample::pass().trace;
    let other = Stamped { at_ns: trace[5].at_ns + 1, ..trace[5].clone() };
    let divergence = |way, what| Divergence { way, forked_at: 4, at: 5, before: vec![(4, trace[4].clone())], what };
    let event = divergence(Way::Run, What::Event { first: Some(trace[5].clone()), second: Some(other) });
    let hash = What::Value { what: "the state's hash".to_string(), first: "0x1".to_string(), second: format!("{seed:#x}") };
    let divergences = match scenario.about.as_str() {
        "pass" => Vec::new(),
        "differs" => vec![event],
        "forgets" => vec![divergence(Way::Search, hash)],
        "panic" => return Err("the sky fell".to_string()),
        other => unreachable!("no examination is called {other}"),
    };
    Ok(Examination { events: 100, moves: 10, divergences })
}

/// A folder with scenarios.
struct Project {
    folder: tempfile::TempDir,
    ci: bool,
    interrupted: bool,
}

/// How a command ended; paths in its words start at the project.
struct Ended {
    status: Status,
    out: String,
    err: String,
}

impl Project {
    fn new(scenarios: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let project = Self { folder, ci: false, interrupted: false };
        for (name, text) in scenarios {
            project.write(&format!("scenarios/{name}.toml"), text);
        }
        project
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    fn exists(&self, relative: &str) -> bool {
        self.path(relative).exists()
    }

    /// Runs a command; words with a `/` in front are paths in the project.
    fn run(&self, words: &[&str]) -> Ended {
        let here = self.folder.path().to_string_lossy().into_owned();
        let word = |word: &&str| if word.starts_with('/') { OsString::from(format!("{here}{word}")) } else { OsString::from(word) };
        let words = std::iter::once(OsString::from("lostpage")).chain(words.iter().map(word));
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
        let interrupted = self.interrupted;
        let mut on_interrupt = |mut handler: Box<dyn FnMut() + Send>| {
            if interrupted {
                handler();
            }
        };
        let engine = Engine { run: fake_run, examine: fake_examine, ..Engine::new() };
        let mut environment =
            Environment { ci: self.ci, processors: 2, memory: memory::UNLIMITED, on_interrupt: &mut on_interrupt, engine };
        let status = main(words, &mut environment, &mut Screen::new(&mut out, &mut err));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&format!("{here}/"), "");
        Ended { status, out: text(out.into_inner()), err: text(err.into_inner()) }
    }
}

const PASS: &str = "about = \"pass\"\nwitness = [\"hint-stop-skipped\"]\n";

#[test]
fn a_new_scenario_fails_until_it_is_blessed() {
    let project = Project::new(&[("pass/a", PASS)]);
    let first = project.run(&["run", "/scenarios"]);
    assert_eq!(first.status, Status::NotAsExpected, "{}", first.out);
    assert!(first.out.contains("    no snapshot snapshots/pass/a.snap: see snapshots/pass/a.snap.new"), "{}", first.out);
    assert!(first.out.contains("    replay: lostpage run scenarios/pass/a.toml --trace\n"), "{}", first.out);
    assert_eq!(project.run(&["run", "--bless", "/scenarios"]).status, Status::AsExpected);
    assert!(!project.exists("snapshots/pass/a.snap.new"));
    let last = project.run(&["run", "/scenarios"]);
    assert_eq!(last.status, Status::AsExpected);
    let line = "pass         ok        1234.567 us  sent  4080  skipped    16  resent    3  scenarios/pass/a.toml\n";
    assert_eq!(last.out, format!("{line}1 scenario: 1 as expected, 1 witness caught\n"));
    assert_eq!(last.err, "");
}

#[test]
fn a_changed_report_is_shown_and_kept_beside_the_old_one_but_not_in_ci() {
    let mut project = Project::new(&[("pass/a", PASS)]);
    project.run(&["run", "--bless", "/scenarios"]);
    let kept = fs::read_to_string(project.path("snapshots/pass/a.snap")).expect("kept");
    project.write("snapshots/pass/a.snap", &kept.replace("guest.ready", "guest.steady"));
    project.ci = true;
    let in_ci = project.run(&["run", "/scenarios"]);
    assert_eq!(in_ci.status, Status::NotAsExpected);
    assert!(!project.exists("snapshots/pass/a.snap.new"));
    project.ci = false;
    let changed = project.run(&["run", "/scenarios"]);
    assert!(changed.out.contains("report differs from snapshots/pass/a.snap"), "{}", changed.out);
    assert!(changed.out.contains("+      0         1.000  vcpu0        guest.ready\n"), "{}", changed.out);
    assert!(project.exists("snapshots/pass/a.snap.new"));
}

#[test]
fn in_ci_even_blessing_writes_nothing() {
    let mut project = Project::new(&[("pass/a", PASS)]);
    project.ci = true;
    assert_eq!(project.run(&["run", "--bless", "/scenarios"]).status, Status::NotAsExpected);
    assert!(!project.exists("snapshots"));
}

#[test]
fn what_is_not_as_expected_is_not_blessed() {
    let project = Project::new(&[("pass/a", "about = \"wrong\"\n")]);
    let ended = project.run(&["run", "--bless", "/scenarios"]);
    assert_eq!(ended.status, Status::NotAsExpected);
    assert!(ended.out.contains("    verdict: expected lost-page, got pass\n"), "{}", ended.out);
    assert!(!project.exists("snapshots"));
}

#[test]
fn a_snapshot_without_scenario_fails() {
    let project = Project::new(&[("pass/a", PASS)]);
    project.run(&["run", "--bless", "/scenarios"]);
    project.write("snapshots/pass/gone.snap", "");
    let ended = project.run(&["run", "/scenarios"]);
    assert_eq!(ended.status, Status::NotAsExpected);
    assert!(ended.out.contains("snapshots/pass/gone.snap: snapshot without scenario"), "{}", ended.out);
    assert_eq!(project.run(&["run", "/scenarios/pass/a.toml"]).status, Status::AsExpected);
}

#[test]
fn a_witness_that_changes_nothing_is_named() {
    let project = Project::new(&[("pass/a", "about = \"blind\"\nwitness = [\"hint-stop-skipped\"]\n")]);
    let ended = project.run(&["run", "--no-snapshot", "/scenarios"]);
    assert_eq!(ended.status, Status::NotAsExpected);
    assert!(ended.out.contains("witness hint-stop-skipped not caught: with it on the run still ends in pass"), "{}", ended.out);
    assert_eq!(project.run(&["run", "--no-snapshot", "--no-witness", "/scenarios"]).status, Status::AsExpected);
}

#[test]
fn a_panic_of_ours_is_our_defect_and_the_others_still_run() {
    let project = Project::new(&[("pass/a", "about = \"panic\"\n"), ("pass/b", PASS)]);
    let ended = project.run(&["run", "--no-snapshot", "/scenarios"]);
    assert_eq!(ended.status, Status::OwnDefect);
    assert!(ended.out.contains("the sky fell"), "{}", ended.out);
    assert!(ended.out.contains("replay: lostpage run scenarios/pass/a.toml --trace"), "{}", ended.out);
    assert!(ended.out.ends_with("2 scenarios: 1 as expected, 1 not as expected, 1 witness caught\n"), "{}", ended.out);
}

#[test]
fn bad_files_are_all_named_and_nothing_runs() {
    let project = Project::new(&[("pass/a", "abuot = \"pass\"\n"), ("pass/b", "about = \n"), ("pass/c", PASS)]);
    project.write("snapshots/pass/c.snap", "half a snapsh");
    let ended = project.run(&["run", "--bless", "/scenarios", "/none"]);
    assert_eq!((ended.status, ended.out.as_str()), (Status::BadInput, ""));
    let c = "snapshots/pass/c.snap: is no snapshot: does not start with a `---` line";
    for what in ["none: no such file or folder", "abuot", "scenarios/pass/b.toml:1:", c, "nothing was run"] {
        assert!(ended.err.contains(what), "{what}: {}", ended.err);
    }
    assert_eq!(fs::read_to_string(project.path("snapshots/pass/c.snap")).expect("there"), "half a snapsh");
}

#[test]
fn a_fault_from_the_command_line_leaves_snapshots_alone() {
    let project = Project::new(&[("pass/a", PASS)]);
    project.run(&["run", "--bless", "/scenarios"]);
    let ended = project.run(&["run", "--fault", "retry-from-d", "/scenarios"]);
    assert_eq!(ended.status, Status::AsExpected, "{}", ended.out);
    assert!(ended.out.starts_with("lost-page    ok "), "{}", ended.out);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let names: Vec<String> = (0..20).map(|n| format!("pass/s{n}")).collect();
    let scenarios: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), PASS)).collect();
    let project = Project::new(&scenarios);
    let out = |jobs| project.run(&["run", "--no-snapshot", "--jobs", jobs, "--trace", "/scenarios"]).out;
    assert_eq!(out("1"), out("4"));
}

#[test]
fn shards_together_are_the_whole() {
    let names: Vec<String> = (0..20).map(|n| format!("pass/s{n:02}")).collect();
    let scenarios: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), PASS)).collect();
    let project = Project::new(&scenarios);
    let lines = |words: &[&str]| -> Vec<String> {
        let ended = project.run(&[&["run", "--no-snapshot", "/scenarios"], words].concat());
        ended.out.lines().filter(|line| line.starts_with("pass ")).map(str::to_string).collect()
    };
    let mut parts = [lines(&["--shard", "1/3"]), lines(&["--shard", "2/3"]), lines(&["--shard", "3/3"])].concat();
    parts.sort();
    assert_eq!(parts, lines(&[]));
}

#[test]
fn an_interrupt_says_what_was_done_and_writes_nothing() {
    let mut project = Project::new(&[("pass/a", PASS), ("pass/b", PASS)]);
    project.interrupted = true;
    let ended = project.run(&["run", "--bless", "--junit", "/junit.xml", "/scenarios"]);
    assert_eq!((ended.status, ended.status.code()), (Status::Interrupted, 130));
    assert_eq!(ended.out, "2 scenarios: 0 as expected, 2 not run; stopped by the user\n");
    assert!(!project.exists("junit.xml") && !project.exists("snapshots"));
}

#[test]
fn saved_outcomes_compare_as_the_runs_do() {
    let project = Project::new(&[("pass/a", PASS)]);
    project.run(&["run", "--no-snapshot", "--save-outcome", "/plain", "/scenarios"]);
    project.run(&["run", "--fault", "retry-from-d", "--save-outcome", "/faulty", "/scenarios"]);
    let same = project.run(&["diff", "/plain/pass/a.json", "/scenarios/pass/a.toml"]);
    assert_eq!((same.status, same.out.lines().last()), (Status::AsExpected, Some("equal")), "{}", same.err);
    let other = project.run(&["diff", "/plain/pass/a.json", "/faulty/pass/a.json"]);
    assert_eq!(other.status, Status::NotAsExpected);
    assert!(other.out.contains("A pass") && other.out.contains("B lost-page"), "{}", other.out);
    let bad = project.run(&["diff", "/plain/pass/none.json", "/scenarios"]);
    assert_eq!(bad.status, Status::BadInput);
    assert_eq!(bad.err.lines().count(), 2, "{}", bad.err);
}

#[test]
fn json_is_one_object_a_line() {
    let project = Project::new(&[("pass/a", "about = \"wrong\"\n"), ("pass/b", PASS)]);
    let ended = project.run(&["run", "--no-snapshot", "--format", "json", "/scenarios"]);
    let lines: Vec<serde_json::Value> = ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["as_expected"], false);
    assert_eq!(lines[1]["outcome"]["scenario"], "scenarios/pass/b.toml");
    assert_eq!(lines[1]["outcome"]["trace"], serde_json::Value::Null);
    assert_eq!(
        lines[2],
        serde_json::json!({"type": "summary", "scenarios": 2, "as_expected": 1, "not_as_expected": 1,
        "witnesses_caught": 1, "orphans": 0, "interrupted": false})
    );
}

#[test]
fn github_and_junit_name_the_file_that_failed() {
    let project = Project::new(&[("pass/a", "about = \"wrong\"\n"), ("pass/b", PASS)]);
    let ended = project.run(&["run", "--no-snapshot", "--format", "github", "--junit", "/junit.xml", "/scenarios"]);
    assert!(ended.out.contains("::error file=scenarios/pass/a.toml,title=not as expected::verdict: expected"), "{}", ended.out);
    let xml = fs::read_to_string(project.path("junit.xml")).expect("written");
    assert!(xml.contains("tests=\"2\" skipped=\"0\" failures=\"1\" errors=\"0\""), "{xml}");
    assert!(xml.contains("<testcase name=\"scenarios/pass/b.toml\"/>"), "{xml}");
    let bad = Project::new(&[("pass/a", "abuot = \"pass\"\n")]).run(&["run", "--format", "github", "/scenarios"]);
    assert!(bad.out.contains("::error file=") && bad.out.contains(",line=1,"), "{}", bad.out);
}

#[test]
fn the_report_is_what_the_snapshot_holds() {
    let project = Project::new(&[("pass/a", PASS)]);
    project.run(&["run", "--bless", "/scenarios"]);
    let kept = fs::read_to_string(project.path("snapshots/pass/a.snap")).expect("kept");
    let body = kept.splitn(3, "---\n").nth(2).expect("a body").trim_end();
    assert!(project.run(&["run", "--report", "/scenarios"]).out.contains(body));
}

#[test]
fn a_new_file_is_written_once_and_lints_clean() {
    let project = Project::new(&[]);
    let new = || project.run(&["new", "hinting/mine", "--dir", "/scenarios/pass"]);
    let (first, second) = (new(), new());
    assert_eq!((first.status, first.out.as_str()), (Status::AsExpected, "scenarios/pass/hinting/mine.toml\n"), "{}", first.err);
    assert_eq!(second.status, Status::BadInput);
    assert!(second.err.contains("exists already"), "{}", second.err);
    let lint = project.run(&["lint", "/scenarios"]);
    assert_eq!((lint.status, lint.out.as_str()), (Status::AsExpected, "1 scenario read, no problem\n"), "{}", lint.err);
    for name in ["../mine", "", "hinting/"] {
        assert_eq!(project.run(&["new", name, "--dir", "/scenarios/pass"]).status, Status::BadInput, "{name}");
    }
}

#[test]
fn a_doctor_who_finds_nothing_says_only_what_was_compared() {
    let project = Project::new(&[("pass/a", PASS), ("pass/b", PASS)]);
    let ended = project.run(&["doctor", "/scenarios"]);
    assert_eq!((ended.status, ended.err.as_str()), (Status::AsExpected, ""));
    assert_eq!(ended.out, "2 scenarios: 2 the same twice; 200 events and 20 moves compared\n");
}

#[test]
fn the_first_event_that_differs_is_told_with_both_sides() {
    let project = Project::new(&[("pass/a", PASS), ("pass/b", "about = \"differs\"\n")]);
    let ended = project.run(&["doctor", "--jobs", "1", "--seed", "7", "/scenarios"]);
    assert_eq!(ended.status, Status::NotAsExpected);
    let head = "DIFFERS  scenarios/pass/b.toml: a run by the clock differs at event 5; the second was forked behind 4 events\n";
    assert!(ended.out.starts_with(head), "{}", ended.out);
    for what in [
        "      both          4         3.000 us  vcpu0       guest.hint ",
        "      first         5         3.100 us  vcpu0       guest.kick ",
        "      second        5         3.101 us  vcpu0       guest.kick ",
        "    This is a defect of lostpage, not of what the scenario tests. A fork leaves something out",
        "    replay: lostpage doctor scenarios/pass/b.toml --seed 7\n",
    ] {
        assert!(ended.out.contains(what), "{what}: {}", ended.out);
    }
    assert!(ended.out.ends_with("2 scenarios: 1 the same twice, 1 not; 200 events and 20 moves compared\n"), "{}", ended.out);
}

#[test]
fn what_no_event_shows_is_told_and_a_panic_is_our_defect() {
    let project = Project::new(&[("pass/a", "about = \"forgets\"\n")]);
    let ended = project.run(&["doctor", "--seed", "2", "/scenarios"]);
    assert_eq!(ended.status, Status::NotAsExpected);
    assert!(ended.out.contains("a searched schedule differs at move 5"), "{}", ended.out);
    assert!(ended.out.contains("      the state's hash:\n      first   0x1\n      second  0x2\n"), "{}", ended.out);
    let panicked = Project::new(&[("pass/a", "about = \"panic\"\n"), ("pass/b", PASS)]).run(&["doctor", "/scenarios"]);
    assert_eq!(panicked.status, Status::OwnDefect);
    assert!(panicked.out.contains("FAILED   scenarios/pass/a.toml\n") && panicked.out.contains("the sky fell"), "{}", panicked.out);
    assert!(panicked.out.ends_with("1 the same twice, 1 failed; 100 events and 10 moves compared\n"), "{}", panicked.out);
}

#[test]
fn a_doctor_s_bad_input_keeps_all_from_being_examined() {
    let project = Project::new(&[("pass/a", "abuot = \"pass\"\n"), ("pass/b", PASS)]);
    let ended = project.run(&["doctor", "/scenarios", "/none"]);
    assert_eq!((ended.status, ended.out.as_str()), (Status::BadInput, ""));
    for what in ["none: no such file or folder", "abuot", "nothing was run"] {
        assert!(ended.err.contains(what), "{what}: {}", ended.err);
    }
}

#[test]
fn a_doctor_speaks_json_and_annotates() {
    let project = Project::new(&[("pass/a", PASS), ("pass/b", "about = \"differs\"\n")]);
    let ended = project.run(&["doctor", "--format", "json", "/scenarios"]);
    let lines: Vec<serde_json::Value> = ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["agrees"], &lines[1]["agrees"]), (3, &true.into(), &false.into()));
    let found = &lines[1]["divergences"][0];
    assert_eq!((&found["way"], &found["at"], &found["what"]), (&"run".into(), &5.into(), &"event".into()));
    assert!(found["second"].as_str().expect("a side").contains("3.101 us"), "{found}");
    assert_eq!((&lines[2]["type"], &lines[2]["differ"]), (&"summary".into(), &1.into()));
    let github = project.run(&["doctor", "--format", "github", "/scenarios"]);
    assert!(github.out.contains("::error file=scenarios/pass/b.toml,title=does not run the same twice::DIFFERS"), "{}", github.out);
}

#[test]
fn a_stopped_doctor_says_what_was_not_examined() {
    let mut project = Project::new(&[("pass/a", PASS), ("pass/b", PASS)]);
    project.interrupted = true;
    let ended = project.run(&["doctor", "/scenarios"]);
    assert_eq!(ended.status, Status::Interrupted);
    assert!(ended.out.ends_with("2 not examined; 0 events and 0 moves compared; stopped by the user\n"), "{}", ended.out);
}

#[test]
fn usage_is_bad_input_and_help_is_not() {
    let project = Project::new(&[]);
    assert_eq!(project.run(&["rum"]).status, Status::BadInput);
    assert_eq!(project.run(&["run", "--bless", "--no-snapshot"]).status, Status::BadInput);
    let help = project.run(&["--help"]);
    assert_eq!(help.status, Status::AsExpected);
    assert!(help.out.contains("130 stopped by Ctrl-C"), "{}", help.out);
}
