//! The same scenario gives the same digest: twice in one process, two worlds at a time, in two processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use emu::world::{RunOptions, run};
use lostpage_tests::{files, scenario_file};

/// The scenarios that are run again and again: every seventh, so that all folders have their turn, and all of the first folder.
fn sample() -> Vec<PathBuf> {
    let all = files("scenarios", "toml");
    assert!(all.len() >= 40, "only {} scenarios", all.len());
    all.into_iter().step_by(7).collect()
}

fn digest(path: &Path) -> u128 {
    run(&scenario_file(path), &RunOptions::default()).digest
}

#[test]
fn every_scenario_ends_the_same_twice_in_one_process() {
    for path in files("scenarios", "toml") {
        assert_eq!(digest(&path), digest(&path), "{}", path.display());
    }
}

#[test]
fn two_worlds_at_a_time_do_not_know_of_each_other() {
    for path in sample() {
        let alone = digest(&path);
        let pair = std::thread::scope(|scope| {
            let one = scope.spawn(|| digest(&path));
            let two = scope.spawn(|| digest(&path));
            (one.join().expect("world"), two.join().expect("world"))
        });
        assert_eq!(pair, (alone, alone), "{}", path.display());
    }
}

const CHILD: &str = "LOSTPAGE_DETERMINISM_CHILD";

#[test]
fn two_processes_agree() {
    if let Some(path) = std::env::var_os(CHILD) {
        println!("digest {:032x}", digest(&PathBuf::from(path)));
        return;
    }
    for path in sample() {
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "two_processes_agree", "--nocapture"])
            .env(CHILD, &path)
            .output()
            .expect("this test again");
        let text = String::from_utf8(child.stdout).expect("text");
        let expected = format!("digest {:032x}", digest(&path));
        assert!(text.contains(&expected), "{}: {expected} not in\n{text}", path.display());
    }
}
