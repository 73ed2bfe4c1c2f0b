//! The command with searches of the toy, and an engine that ends as a scenario's `about` asks: `sees` notices the fault hint-stop-skipped, `blind` none,
//! `panic` falls over with hint-keeps-k, `wrong` does not end as its file says.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap::Parser;

use super::*;
use crate::cli::args::{Arguments, Command};
use crate::cli::memory::UNLIMITED;
use crate::cli::stage::toy::ToyStage;
use crate::outcome::{Blame, Outcome};
use crate::report::sample;
use crate::world::RunOptions;

const STAGE: ToyStage = ToyStage { noise: 2, timed: false };
const TOY: &str = "about = \"toy\"\npages = { P = \"first page of hint 1\" }\n";

fn fake_run(scenario: &Scenario, options: &RunOptions) -> Outcome {
    let with = |fault| options.faults.contains(&fault);
    let mut outcome = sample::pass();
    match scenario.about.as_str() {
        "sees" if with(Fault::HintStopSkipped) => {
            outcome = sample::lost_page();
            outcome.violations.iter_mut().for_each(|violation| violation.blame = Blame::Host);
        }
        "sees" | "blind" => {}
        "panic" => assert!(!with(Fault::HintKeepsK), "the sky fell"),
        "wrong" => outcome.unexpected.push("verdict: expected lost-page, got pass".to_owned()),
        other => unreachable!("no run is called {other}"),
    }
    outcome
}

fn fake_row(scenario: &Scenario, faults: &[Fault]) -> Row {
    Row::plainly(scenario, faults, |scenario, options| guarded(|| fake_run(scenario, options)))
}

struct Project {
    folder: tempfile::TempDir,
    interrupted: bool,
}

/// How the command ended; the folder is left out of its words.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: Status,
    out: String,
    err: String,
}

impl Project {
    /// A folder with these scenarios, and the toy as a neutral one, switched on in it what `faults` says.
    fn new(abouts: &[&str], faults: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().expect("a temporary folder"), interrupted: false };
        for (index, about) in abouts.iter().enumerate() {
            project.write(&format!("scenarios/pass/{index}-{about}.toml"), &format!("about = \"{about}\"\n"));
        }
        project.write("neutral/scenarios/toy.toml", &format!("{TOY}{faults}"));
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

    fn museum(&self, words: &str) -> Ended {
        let here = format!("{}/", self.folder.path().to_string_lossy());
        let words = format!("lostpage museum {here}scenarios {words}").replace(" @", &format!(" {here}"));
        let parsed = Arguments::try_parse_from(words.split_whitespace().map(OsString::from)).unwrap_or_else(|error| panic!("{error}"));
        let Command::Museum(arguments) = parsed.command else { panic!("another command") };
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
        let interrupted = self.interrupted;
        let mut on_interrupt = |mut handler: Box<dyn FnMut() + Send>| {
            if interrupted {
                handler();
            }
        };
        let engine = Engine { run: fake_run, row: fake_row, ..Engine::new() };
        let mut environment = Environment { ci: false, processors: 2, memory: UNLIMITED, on_interrupt: &mut on_interrupt, engine };
        let status = museum(&STAGE, &arguments, &mut environment, &mut Screen::new(&mut out, &mut err));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&here, "");
        Ended { status, out: text(out.into_inner()), err: text(err.into_inner()) }
    }
}

#[test]
fn faults_scenarios_searches_and_holes_are_shown() {
    let faults = "--fault hint-stop-skipped --fault hint-stop-unlocked --fault hint-keeps-k --fault retry-from-d";
    let ended = Project::new(&["sees", "blind"], "").museum(&format!("--neutral @neutral --schedules 256 {faults}"));
    assert_eq!((ended.status, ended.err.as_str()), (Status::NotAsExpected, ""));
    assert!(ended.out.lines().all(|line| line.chars().count() <= crate::report::WIDTH), "{}", ended.out);
    insta::assert_snapshot!("museum", ended.out);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let project = Project::new(&["sees", "blind", "sees"], "");
    for format in ["human", "json"] {
        let of = |jobs| project.museum(&format!("--neutral @neutral --schedules 100 --format {format} --jobs {jobs}"));
        let expected = of(1);
        assert!(expected.out.lines().count() > 15, "{}", expected.out);
        for jobs in [2, 5] {
            assert_eq!(of(jobs), expected, "{jobs} threads");
        }
    }
}

#[test]
fn what_is_found_without_a_fault_counts_for_none() {
    let project = Project::new(&["sees"], "faults = [\"hint-stop-skipped\"]\n");
    let ended = project.museum("--neutral @neutral --schedules 200 --fault hint-stop-unlocked --fault hint-stop-skipped");
    assert!(ended.out.contains("\nwithout a fault\n    lost-page, toy-page-arrives, blame host "), "{}", ended.out);
    assert!(ended.out.contains("  faults of which no search found anything: 2\n"), "{}", ended.out);
}

/// Where the search without the fault was not lucky, the schedule itself says that it needs no fault.
#[test]
fn a_schedule_that_fails_without_the_fault_as_well_does_not_count() {
    let scenario = |faults: &str| {
        let text = format!("{TOY}{faults}");
        Neutral::new(crate::scenario::parse("toy.toml", &text).unwrap_or_else(|problems| panic!("{}", problems.render(false))))
    };
    let hunt = |neutral| Hunt {
        subject: STAGE,
        neutrals: Arc::new(vec![neutral]),
        fault: Some(Fault::HintStopUnlocked),
        strategy: Strategy::Pos,
        schedules: 256,
        seed: 0,
        memory_bytes: 1 << 20,
    };
    let own = hunt(scenario("faults = [\"hint-stop-skipped\"]\n")).run();
    assert_eq!((own.schedules, own.found.len(), own.without.len()), (256, 0, 1), "{own:?}");
    let other = hunt(scenario("")).run();
    assert_eq!((other.found.len(), other.without.len()), (1, 0), "{other:?}");
    assert_eq!(other.first_as_such(Fault::HintStopUnlocked), Some(other.found[0].schedule));
    assert!(other.schedules < 256 && other.schedules >= other.found[0].schedule, "it ends with the turn: {other:?}");
}

#[test]
fn all_is_well_when_each_fault_is_noticed_by_something() {
    let ended = Project::new(&["sees", "blind"], "").museum("--no-search --fault hint-stop-skipped");
    assert_eq!((ended.status, ended.err.as_str()), (Status::AsExpected, ""));
    assert!(ended.out.contains("  faults that no scenario notices: none\n"), "{}", ended.out);
    assert!(ended.out.contains("  scenarios under pass/ that no fault changes, of 2: 1\n    pass/1-blind\n"), "{}", ended.out);
    assert!(!ended.out.contains("Searches"), "{}", ended.out);
}

#[test]
fn a_scenario_that_does_not_end_as_its_file_says_is_told() {
    let ended = Project::new(&["sees", "wrong"], "").museum("--no-search --fault hint-stop-skipped");
    assert_eq!(ended.status, Status::NotAsExpected);
    assert!(ended.out.contains("  scenarios that do not end as their files say: 1\n    pass/1-wrong\n"), "{}", ended.out);
}

#[test]
fn a_panic_of_ours_is_our_defect_and_the_others_still_run() {
    let ended = Project::new(&["panic", "sees"], "").museum("--no-search --fault hint-stop-skipped --fault hint-keeps-k");
    assert_eq!(ended.status, Status::OwnDefect);
    assert!(ended.out.contains("pass/0-panic  pass         .x\npass/1-sees   pass         L.\n"), "{}", ended.out);
    let told = "error: scenarios/pass/0-panic.toml with hint-keeps-k: a defect of lostpage itself: ";
    assert!(ended.err.starts_with(told) && ended.err.ends_with("the sky fell\n"), "{}", ended.err);
}

#[test]
fn a_file_that_is_none_keeps_all_from_running() {
    let project = Project::new(&["sees"], "");
    project.write("scenarios/pass/bad.toml", "about = \n");
    let ended = project.museum("--neutral @none.toml");
    assert_eq!((ended.status, ended.out.as_str()), (Status::BadInput, ""));
    for part in ["bad.toml:1:", "none.toml: no such file or folder", "nothing was run\n"] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
}

#[test]
fn an_interrupted_museum_tells_nothing() {
    let project = Project { interrupted: true, ..Project::new(&["sees"], "") };
    let ended = project.museum("--neutral @neutral");
    assert_eq!((ended.status, ended.out.as_str()), (Status::Interrupted, ""));
    assert_eq!(ended.err, "stopped; nothing is told of what is not complete\n");
}

#[test]
fn a_hole_is_an_annotation_where_github_shows_them() {
    let ended = Project::new(&["blind"], "").museum("--no-search --format github --fault hint-stop-skipped");
    assert!(ended.out.ends_with("\n::error title=hole::no scenario notices the fault hint-stop-skipped\n"), "{}", ended.out);
}

#[test]
fn each_line_of_json_is_as_its_schema_says() {
    let ended = Project::new(&["sees", "blind"], "").museum("--neutral @neutral --schedules 64 --format json --fault hint-stop-skipped");
    let types: Vec<String> = ended
        .out
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            value["type"].as_str().expect("a type").to_owned()
        })
        .collect();
    assert_eq!(types, ["scenario", "scenario", "fault", "search", "search", "holes"]);
    assert!(ended.out.contains("\"notices\":{\"hint-stop-skipped\":\"lost-page\"}"), "{}", ended.out);
}
