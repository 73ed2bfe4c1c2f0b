//! The real binary as a process: exit statuses, streams, pipes. What needs no process is tested beside [`emu::cli`].

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A run of the binary in a folder, with an environment that the machine's own does not reach into.
fn lostpage(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lostpage"));
    command.args(words).current_dir(folder).env_remove("CI").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command
}

fn output(folder: &Path, words: &[&str]) -> Output {
    lostpage(folder, words).output().expect("the binary starts")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A scenario that is well-formed, whatever the world makes of it.
fn write_scenario(folder: &Path, name: &str) {
    let output = output(folder, &["new", name]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// Asserts that nothing ran and that standard error names each of these.
fn assert_refused(output: &Output, names: &[&str]) {
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert_eq!(text(&output.stdout), "");
    for name in names {
        assert!(err.contains(name), "{name}: {err}");
    }
    assert!(!err.contains('\u{1b}'), "colours in a pipe: {err}");
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let folder = folder();
    assert_refused(&output(folder.path(), &["run", "none.toml", "other"]), &["none.toml: no such file", "other: no such file"]);
    assert_refused(&output(folder.path(), &["run"]), &["scenarios: no such file or folder"]);
}

#[test]
fn an_empty_folder_is_no_success() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("scenarios/pass")).expect("writable");
    assert_refused(&output(folder.path(), &["run"]), &["scenarios: no scenario in this folder"]);
}

#[test]
fn a_file_that_is_no_scenario_keeps_the_good_ones_from_running() {
    let folder = folder();
    write_scenario(folder.path(), "good");
    fs::write(folder.path().join("scenarios/pass/bad.toml"), "about = \n").expect("writable");
    fs::write(folder.path().join("scenarios/pass/binary.toml"), b"\xff\xfe").expect("writable");
    assert_refused(&output(folder.path(), &["run", "--bless"]), &["bad.toml:1:", "binary.toml: ", "nothing was run"]);
    assert!(!folder.path().join("snapshots").exists());
}

#[test]
fn an_unknown_fault_is_refused_with_a_suggestion() {
    assert_refused(&output(folder().path(), &["run", "--fault", "hint-keep-k"]), &["hint-keeps-k"]);
}

#[test]
fn an_unreadable_snapshot_is_named() {
    let folder = folder();
    write_scenario(folder.path(), "a");
    write_scenario(folder.path(), "b");
    fs::create_dir_all(folder.path().join("snapshots/pass/b.snap")).expect("writable");
    fs::write(folder.path().join("snapshots/pass/a.snap"), "---\nsource: x\n").expect("writable");
    let output = output(folder.path(), &["run", "--bless"]);
    assert_refused(&output, &["snapshots/pass/a.snap: is no snapshot: its header", "snapshots/pass/b.snap: cannot be read"]);
    assert_eq!(fs::read_to_string(folder.path().join("snapshots/pass/a.snap")).expect("there"), "---\nsource: x\n");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let folder = folder();
    for words in [&["events"][..], &["faults"], &["--help"], &["run", "--help"]] {
        let mut child = lostpage(folder.path(), words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_on_a_full_disk_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = lostpage(folder().path(), &["events"]).stdout(full).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: standard output cannot be written: "), "{}", text(&output.stderr));
}

#[test]
fn the_lists_name_what_scenarios_may_say() {
    let folder = folder();
    let events = output(folder.path(), &["events"]);
    assert_eq!(text(&events.stdout).lines().count(), host::event::EventKind::ALL.len());
    let faults = output(folder.path(), &["faults"]);
    for fault in host::fault::Fault::ALL {
        assert!(text(&faults.stdout).contains(fault.name()), "{}", fault.name());
    }
    for schema in [&["schema"][..], &["schema", "outcome"], &["schema", "run"]] {
        let output = output(folder.path(), schema);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(value.get("$schema").is_some(), "{schema:?}");
    }
}

#[test]
fn a_file_is_not_written_over() {
    let folder = folder();
    write_scenario(folder.path(), "hinting/a");
    let path = folder.path().join("scenarios/pass/hinting/a.toml");
    fs::write(&path, "mine").expect("writable");
    assert_refused(&output(folder.path(), &["new", "hinting/a"]), &["exists already"]);
    assert_eq!(fs::read_to_string(&path).expect("there"), "mine");
}
