//! The command on the toy.

use std::fs;

use clap::Parser;

use super::*;
use crate::cli::Engine;
use crate::cli::args::{Arguments, Command};
use crate::cli::memory::UNLIMITED;
use crate::cli::stage::toy::ToyStage;

const HEAD: &str = "about = \"the toy\"\npages = { P = \"first page of hint 1\" }\n";
/// The clear waits for the sync behind the write: the page is lost.
const LOST: &str = "[[order]]\nchain = [\"guest.write(P)\", \"bitmap.sync\", \"hint.apply(P)\"]\n";

fn why_of(text: &str, noise: u8, words: &[&str]) -> (Status, String, String) {
    why_on(ToyStage { noise, timed: false }, text, words)
}

fn why_on(stage: ToyStage, text: &str, words: &[&str]) -> (Status, String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("toy.toml");
    fs::write(&file, text).expect("writable");
    let file = file.to_string_lossy().into_owned();
    let words = ["lostpage", "why", &file].into_iter().chain(words.iter().copied());
    let parsed = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let Command::Why(arguments) = parsed.command else { panic!("another command") };
    let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
    let mut environment = Environment { ci: false, processors: 2, memory: UNLIMITED, on_interrupt: &mut |_| {}, engine: Engine::new() };
    let status = why(&arguments, &stage, &mut environment, &mut Screen::new(&mut out, &mut err));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&file, "toy.toml");
    (status, text(out.into_inner()), text(err.into_inner()))
}

#[test]
fn a_small_run_is_counted_to_its_start() {
    let (status, out, err) = why_of(&format!("{HEAD}faults = [\"hint-stop-skipped\"]\n{LOST}"), 0, &[]);
    assert_eq!((status, err.as_str()), (Status::AsExpected, ""));
    insta::assert_snapshot!("why__exact", out);
}

#[test]
fn a_run_with_many_continuations_is_sampled_before_it_is_counted_on_any_number_of_threads() {
    let text = format!("{HEAD}faults = [\"hint-stop-skipped\"]\n{LOST}[migration]\nrounds_min = 3\n");
    let (status, out, err) = why_of(&text, 12, &["--states", "60", "--samples", "1000", "--seed", "7"]);
    assert_eq!((status, err.as_str()), (Status::AsExpected, ""));
    insta::assert_snapshot!("why__sampled", out);
    assert_eq!(why_of(&text, 12, &["--states", "60", "--samples", "1000", "--seed", "7", "--jobs", "1"]).1, out);
}

#[test]
fn under_its_own_orders_a_found_scenario_fails_always() {
    let orders = "[[order]]\nchain = [\"bitmap.sync\", \"hint.apply(P)\", \"ram.send(P)\"]\n[[order]]\nchain = [\"hint.ignore(P)\", \"hint.stop\"]\n";
    let text = format!("{HEAD}faults = [\"hint-stop-unlocked\"]\n{orders}");
    let (status, out, _) = why_of(&text, 0, &["--keep-orders"]);
    assert_eq!(status, Status::AsExpected);
    assert!(out.contains("continuations that keep the file's orders fail"), "{out}");
    assert!(out.ends_with("doom: none of the steps: every run fails, in whatever order\n"), "{out}");
    let (_, out, _) = why_of(&text, 0, &[]);
    assert!(out.contains("continuations in any order (the file's own orders are let go) fail"), "{out}");
    assert!(out.contains("== doom =="), "{out}");
}

#[test]
fn a_run_that_passes_is_refused() {
    for timed in [false, true] {
        let (status, out, err) = why_on(ToyStage { noise: 0, timed }, HEAD, &[]);
        assert_eq!((status, out.as_str()), (Status::BadInput, ""));
        assert!(err.contains("toy.toml: the run does not fail, it ends as pass"), "{err}");
    }
}

#[test]
fn a_run_that_fails_by_its_times_is_replaced_by_the_shortest_that_fails_alike() {
    let (stage, text) = (ToyStage { noise: 0, timed: true }, format!("{HEAD}faults = [\"hint-stop-skipped\"]\n{LOST}"));
    let (status, out, err) = why_on(stage, &text, &[]);
    assert_eq!((status, err.as_str()), (Status::AsExpected, ""), "{out}");
    assert!(out.contains("in its place, the shortest run that keeps the file's orders and fails alike"), "{out}");
    assert!(out.contains("== doom =="), "{out}");
    assert_eq!(why_on(stage, &text, &["--jobs", "1"]).1, out);
}

#[test]
fn a_file_that_is_none_is_refused() {
    let (status, _, err) = why_of("about = 7\n", 0, &[]);
    assert_eq!(status, Status::BadInput);
    assert!(err.contains("about") && err.ends_with("nothing was run\n"), "{err}");
}
