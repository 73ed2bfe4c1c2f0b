//! The command on the toy.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::*;
use crate::cli::args::{Arguments, Command};
use crate::cli::memory::UNLIMITED;
use crate::cli::stage::toy::ToyStage;
use crate::scenario;
use crate::search::Subject;

/// A scenario for the toy.
const SCENARIO: &str = "about = \"the toy\"\npages = { P = \"first page of hint 1\" }\n";

/// How the command ended; paths in its words start at the folder.
struct Ended {
    status: Status,
    out: String,
    err: String,
}

struct Project {
    folder: tempfile::TempDir,
    stage: ToyStage,
    interrupted: bool,
}

impl Project {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("scenarios")).expect("writable");
        fs::write(folder.path().join("scenarios/toy.toml"), text).expect("writable");
        Self { folder, stage: ToyStage { noise: 0, timed: false }, interrupted: false }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Runs `prove` on the scenario with more words.
    fn prove(&self, words: &[&str]) -> Ended {
        self.prove_file("scenarios/toy.toml", words)
    }

    fn prove_file(&self, file: &str, words: &[&str]) -> Ended {
        let found = self.path("scenarios/found");
        let paths = [self.path(file).into_os_string(), OsString::from("--found"), found.into_os_string()];
        let words = ["lostpage", "prove"].iter().chain(words).map(OsString::from).chain(paths);
        let parsed = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let Command::Prove(arguments) = parsed.command else { panic!("another command") };
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
        let interrupted = self.interrupted;
        let mut on_interrupt = |mut handler: Box<dyn FnMut() + Send>| {
            if interrupted {
                handler();
            }
        };
        let mut environment =
            Environment { ci: false, processors: 2, memory: UNLIMITED, on_interrupt: &mut on_interrupt, engine: Engine::new() };
        let status = prove(&arguments, &self.stage, &mut environment, &mut Screen::new(&mut out, &mut err));
        let here = format!("{}/", self.folder.path().to_string_lossy());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&here, "");
        Ended { status, out: text(out.into_inner()), err: text(err.into_inner()) }
    }

    fn found(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("scenarios/found")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        paths.sort();
        paths
    }
}

fn read_scenario(path: &Path) -> Scenario {
    scenario::parse("found.toml", &fs::read_to_string(path).expect("readable")).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn what_holds_in_every_order_is_proved() {
    let ended = Project::new(SCENARIO).prove(&[]);
    assert_eq!((ended.status, ended.err.as_str()), (Status::AsExpected, ""));
    insta::assert_snapshot!("prove__proved", ended.out);
}

#[test]
fn what_fails_in_some_order_is_refuted_by_a_file_that_fails() {
    let project = Project::new(SCENARIO);
    let ended = project.prove(&["--fault", "hint-stop-unlocked"]);
    assert_eq!((ended.status, ended.err.as_str()), (Status::NotAsExpected, ""), "{}", ended.out);
    insta::assert_snapshot!("prove__refuted", ended.out);
    let [path] = &project.found()[..] else { panic!("{:?}", project.found()) };
    let found = read_scenario(path);
    assert_eq!(project.stage.run(&found).unexpected, Vec::<String>::new());
    assert_eq!(found.found.as_ref().expect("provenance").scenario, "scenarios/toy.toml");
    let text = fs::read_to_string(path).expect("readable");
    insta::assert_snapshot!("prove__found", text);
    let again = project.prove(&["--fault", "hint-stop-unlocked", "--jobs", "1"]);
    assert_eq!(again.out, ended.out.replace("written ", "known   "), "whatever the number of threads");
    assert_eq!(project.found().len(), 1);
    assert_eq!(fs::read_to_string(path).expect("readable"), text, "left as it was");
}

#[test]
fn the_first_failure_is_enough_if_asked() {
    let ended = Project::new(SCENARIO).prove(&["--fault", "hint-stop-skipped", "--first", "--jobs", "1"]);
    assert_eq!(ended.status, Status::NotAsExpected, "{}", ended.out);
    assert!(ended.out.contains("not every order: stopped at the first that fails"), "{}", ended.out);
}

#[test]
fn each_setting_is_proved() {
    let project = Project::new(&format!("{SCENARIO}[vary]\nvcpus = [1, 2]\nfaults = [\"hint-stop-skipped\"]\n"));
    let ended = project.prove(&[]);
    assert_eq!(ended.status, Status::NotAsExpected, "{}", ended.out);
    assert!(ended.out.ends_with("4 settings: 2 proved, 2 refuted\n"), "{}", ended.out);
    assert!(ended.out.contains("settings        vcpus 2, fault hint-stop-skipped\n"), "{}", ended.out);
    assert_eq!(project.found().len(), 1, "the number of vCPUs does not matter");
}

#[test]
fn settings_that_are_alike_are_searched_once() {
    let scenario = scenario::parse("x", &format!("{SCENARIO}[vary]\nvcpus = [1, 1]\n")).map(|scenario| variants(&scenario).len());
    assert!(matches!(scenario, Ok(1) | Err(_)), "{scenario:?}");
}

#[test]
fn too_little_memory_says_what_was_covered() {
    let mut project = Project::new(&format!("{SCENARIO}[migration]\nrounds_min = 30\n"));
    project.stage.noise = 100;
    let ended = project.prove(&["--memory", "1MiB"]);
    assert_eq!(ended.status, Status::OutOfBudget, "{}", ended.out);
    assert!(ended.out.starts_with("out of budget  scenarios/toy.toml\n"), "{}", ended.out);
    assert!(ended.out.contains("not every order: 1.00 MiB of memory were not enough"), "{}", ended.out);
    assert!(ended.out.contains("at least "), "{}", ended.out);
}

#[test]
fn an_interrupt_ends_with_what_was_covered() {
    let mut project = Project::new(&format!("{SCENARIO}[migration]\nrounds_min = 30\n"));
    (project.stage.noise, project.interrupted) = (100, true);
    let ended = project.prove(&[]);
    assert_eq!(ended.status, Status::Interrupted, "{}", ended.out);
    assert!(ended.out.contains("not every order: stopped by Ctrl-C"), "{}", ended.out);
}

#[test]
fn a_scenario_without_freedom_says_so_and_is_run_once() {
    let chain = "chain = [\"guest.hint(P)\", \"hint.pop(P)\", \"hint.ignore(P)\", \"hint.apply(P)\", \"guest.write(P)\"]";
    let project = Project::new(&format!("{SCENARIO}[[order]]\n{chain}\n"));
    let ended = project.prove(&[]);
    assert_eq!((ended.status, ended.err.as_str()), (Status::AsExpected, ""), "{}", ended.out);
    assert!(ended.out.contains("no freedom      nobody ever has a choice: run once, it ends as pass\n"), "{}", ended.out);
}

#[test]
fn a_folder_full_of_other_things_or_not_writable_does_not_hide_the_refutation() {
    let project = Project::new(SCENARIO);
    fs::write(project.path("scenarios/found"), "a file").expect("writable");
    let ended = project.prove(&["--fault", "hint-stop-skipped"]);
    assert_eq!(ended.status, Status::BadInput, "{}", ended.out);
    assert!(ended.out.contains("not written: ") && ended.out.contains("    schedule "), "{}", ended.out);
}

#[test]
fn what_is_no_scenario_is_refused() {
    let project = Project::new("about = 7\n");
    for (file, says) in [("scenarios/toy.toml", "about"), ("scenarios", "a folder"), ("none.toml", "no such file")] {
        let ended = project.prove_file(file, &[]);
        assert_eq!((ended.status, ended.out.as_str()), (Status::BadInput, ""), "{file}");
        assert!(ended.err.contains(says) && ended.err.ends_with("nothing was run\n"), "{}", ended.err);
    }
}

#[test]
fn a_schedule_is_told_in_runs() {
    assert_eq!(text::schedule(&[0, 0, 0, 2, 1, 1]), "0*3 2 1*2");
}
