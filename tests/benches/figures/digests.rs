//! Whether every scenario's digest is the same: again in this process, two worlds at a time, in another process, and in a debug build.

use std::path::PathBuf;
use std::process::Command;

use emu::scenario::model::Scenario;
use emu::world::{RunOptions, run};
use lostpage_tests::{files, root, scenario_file};

use crate::{CHILD, Figure};

/// Path and digest of each scenario, in the paths' order.
type Digests = Vec<(String, u128)>;

fn suite() -> Vec<(String, Scenario)> {
    let read = |path: PathBuf| (path.to_string_lossy().into_owned(), scenario_file(&path));
    files("scenarios", "toml").into_iter().map(read).collect()
}

fn digests<'a>(suite: impl Iterator<Item = &'a (String, Scenario)>) -> Digests {
    let mut digests: Digests = suite.map(|(path, scenario)| (path.clone(), run(scenario, &RunOptions::default()).digest)).collect();
    digests.sort();
    digests
}

/// What the second process says: a line for each scenario.
pub(crate) fn listing() -> String {
    digests(suite().iter()).iter().map(|(path, digest)| format!("{digest:032x} {path}\n")).collect()
}

fn read_listing(text: &str) -> Digests {
    let line = |line: &str| {
        let (digest, path) = line.split_once(' ').expect("a digest and a path");
        (path.to_owned(), u128::from_str_radix(digest, 16).expect("a digest"))
    };
    text.lines().map(line).collect()
}

/// Two threads run the whole suite at the same time, from its two ends: other neighbours for each world, and other engines' histories.
fn two_at_a_time(suite: &[(String, Scenario)]) -> [Digests; 2] {
    std::thread::scope(|scope| {
        let forwards = scope.spawn(|| digests(suite.iter()));
        let backwards = scope.spawn(|| digests(suite.iter().rev()));
        [forwards.join().expect("worlds"), backwards.join().expect("worlds")]
    })
}

fn another_process() -> Result<Digests, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(this).arg(CHILD).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("the second process ended with {}", output.status));
    }
    Ok(read_listing(&String::from_utf8_lossy(&output.stdout)))
}

/// Builds the program without optimisation and with overflow checks, and runs the suite with it.
fn debug_build() -> Result<Digests, String> {
    let cargo = std::env::var_os("CARGO").ok_or("not started by cargo, which is needed to build it")?;
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = this.ancestors().nth(3).ok_or("this program does not lie in cargo's folder")?;
    let build = ["build", "--quiet", "--package", "lostpage-emu", "--bin", "lostpage", "--target-dir"];
    let status = Command::new(cargo).current_dir(root()).args(build).arg(target).status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("cargo ended with {status}"));
    }
    let run = ["run", "--no-snapshot", "--no-witness", "--format", "json", "scenarios"];
    let output = Command::new(target.join("debug/lostpage")).current_dir(root()).args(run).output().map_err(|error| error.to_string())?;
    let mut digests = Digests::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if value["type"] == "scenario" {
            let path = value["path"].as_str().ok_or("a result without a path")?;
            let digest = value["outcome"]["digest"].as_str().ok_or_else(|| format!("{path} has no digest"))?;
            digests.push((path.to_owned(), u128::from_str_radix(digest, 16).map_err(|error| error.to_string())?));
        }
    }
    digests.sort();
    Ok(digests)
}

fn compare(what: &str, here: &Digests, there: Result<Digests, String>) -> Figure {
    match there {
        Ok(there) if there == *here => Figure::equal(what, true, "equal"),
        Ok(there) => {
            let differing: Vec<&str> = here.iter().filter(|digest| !there.contains(digest)).map(|(path, _)| path.as_str()).collect();
            println!("{what}: {} scenarios here, {} there; different: {}", here.len(), there.len(), differing.join(" "));
            Figure::equal(what, false, format!("{} differ", differing.len()))
        }
        Err(reason) => {
            println!("{what}: {reason}");
            Figure::equal(what, false, "not compared")
        }
    }
}

pub(crate) fn figures() -> Vec<Figure> {
    let suite = suite();
    let here = digests(suite.iter());
    println!("{} scenarios, compared by the digest of all their events", here.len());
    let [forwards, backwards] = two_at_a_time(&suite);
    vec![
        compare("digests of all scenarios, twice in one process", &here, Ok(digests(suite.iter()))),
        compare("  two worlds at a time: one thread forwards", &here, Ok(forwards)),
        compare("  two worlds at a time: the other backwards", &here, Ok(backwards)),
        compare("  in two processes", &here, another_process()),
        compare("  in a debug and in a release build", &here, debug_build()),
    ]
}
