//! The real binary as a process: exit statuses, streams, pipes. What needs no process is tested beside [`emu::cli`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use emu::cli::Results;
use emu::search::Shard;
use emu::search::block::BlockResult;
use emu::search::results::{Header, Request};

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
    for schema in [&["schema"][..], &["schema", "outcome"], &["schema", "run"], &["schema", "doctor"]] {
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

#[test]
fn a_shard_that_does_not_exist_is_refused() {
    for shard in ["0/2", "3/2", "1/0", "2"] {
        assert_refused(&output(folder().path(), &["run", "--shard", shard]), &["--shard <K/N>", "expected K/N with 1 ≤ K ≤ N"]);
    }
}

/// Results of one search in a folder: the blocks of a shard, below 10.
fn write_results(folder: &Path, name: &str, seed: u64, shard: &str) {
    let shard: Shard = shard.parse().expect("a shard");
    let scenario = emu::scenario::parse("a.toml", "about = \"a\"\n").unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let request = Request { seed, block_schedules: 1, strategies: vec!["pos".to_string()], options: BTreeMap::new(), shard };
    let header = Header::new("scenarios/pass/a.toml", &scenario, request);
    let mut results: Results<BlockResult> = Results::open(&folder.join(name), &header).expect("new");
    for number in (0..10).filter(|number| header.has_block(*number)) {
        let block = serde_json::json!({
            "block": number, "variant": 0, "seed": u64::MAX, "schedules": 1, "tallies": [], "endings": [], "states": [], "coverage": [], "findings": [],
        });
        let block = serde_json::from_value(block).expect("a block");
        results.append(block).expect("writable");
    }
    results.finish(Some(10)).expect("writable");
}

#[test]
fn results_are_merged_in_any_order_to_the_same_bytes() {
    let folder = folder();
    for (name, shard) in [("a", "1/3"), ("b", "2/3"), ("c", "3/3"), ("whole", "1/1")] {
        write_results(folder.path(), name, 4, shard);
    }
    let two = output(folder.path(), &["merge", "two", "c", "a"]);
    assert_eq!((two.status.code(), text(&two.stderr)), (Some(0), ""));
    assert_eq!(text(&two.stdout), "two: 7 blocks of shards 1/3, 3/3; no block missing\n");
    for (words, out) in [(&["merge", "x/all", "b", "a", "c"][..], "x/all"), (&["merge", "all", "two", "b"], "all")] {
        let output = output(folder.path(), words);
        assert_eq!(text(&output.stdout), format!("{out}: 10 blocks of all shards; no block missing\n"));
        for file in ["header.json", "blocks.jsonl", "summary.json"] {
            let read = |name: &str| fs::read_to_string(folder.path().join(name).join(file)).expect("there");
            assert_eq!(read(out), read("whole"), "{file}");
        }
    }
}

#[test]
fn results_that_do_not_go_together_are_not_merged() {
    let folder = folder();
    write_results(folder.path(), "a", 4, "1/2");
    write_results(folder.path(), "b", 5, "2/2");
    assert_refused(&output(folder.path(), &["merge", "out", "a", "b"]), &["b/header.json: ", "seed 5, not 4", "nothing was merged"]);
    assert_refused(&output(folder.path(), &["merge", "out", "a", "none"]), &["error: none: no such file or folder"]);
    assert_refused(&output(folder.path(), &["merge", "b", "a"]), &["error: b: holds ", "expected a new or an empty folder"]);
    assert_refused(&output(folder.path(), &["merge", "out"]), &["DIR"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_block_that_was_cut_off_is_told_and_missing() {
    let folder = folder();
    write_results(folder.path(), "a", 4, "1/1");
    fs::remove_file(folder.path().join("a/summary.json")).expect("there");
    let blocks = fs::read(folder.path().join("a/blocks.jsonl")).expect("there");
    fs::write(folder.path().join("a/blocks.jsonl"), &blocks[..blocks.len() - 1]).expect("writable");
    let cut = output(folder.path(), &["merge", "cut", "a"]);
    assert!(text(&cut.stderr).starts_with("note: a/blocks.jsonl:10: cut off: "), "{}", text(&cut.stderr));
    assert_eq!(text(&cut.stdout), "cut: 9 blocks of all shards; no block missing\n");
    let lines: String =
        text(&blocks).lines().enumerate().filter(|(index, _)| ![2, 5, 6].contains(index)).map(|(_, line)| format!("{line}\n")).collect();
    fs::write(folder.path().join("a/blocks.jsonl"), lines).expect("writable");
    let some = output(folder.path(), &["merge", "some", "a"]);
    assert_eq!(text(&some.stdout), "some: 7 blocks of all shards; blocks 2, 5..6 missing\n");
}

/// A limit on the size of files stands for a disk that has no room left.
#[cfg(target_os = "linux")]
#[test]
fn merging_onto_a_full_disk_leaves_nothing_half_done() {
    let folder = folder();
    write_results(folder.path(), "a", 4, "1/1");
    let script = format!("trap '' XFSZ; ulimit -f 0; exec '{}' merge out a", env!("CARGO_BIN_EXE_lostpage"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("a shell");
    assert_refused(&output, &["error: out: cannot be written: ", "nothing was merged"]);
    let names: Vec<_> = fs::read_dir(folder.path()).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
    assert_eq!(names, ["a"]);
}

/// A scenario whose window is so small that all its orders are covered at once.
const SMALL: &str = "about = \"small\"\n[search]\nfrom = \"hint.apply\"\nuntil = \"hint.push\"\n";
/// The order in which a page is lost, as it is known of a real VMM.
const LOST: &str = "about = \"lost\"\nhost = { dirty_log = \"manual-clear\", chunk = \"256 KiB\" }\npages = { P = \"first page of hint 1\" }\n\
                    [[inject]]\nwrite = { page = \"P\", byte = 0xBB }\nby = \"vcpu1\"\nafter = \"hint.pop(P)\"\nbefore = \"hint.apply(P)\"\n\
                    [search]\nfrom = \"hint.pop(P)\"\nuntil = \"hint.push#2\"\n[expect]\nverdict = \"lost-page\"\n";

#[test]
fn a_small_window_of_the_world_is_proved_alike_on_any_number_of_threads() {
    let folder = folder();
    fs::write(folder.path().join("small.toml"), SMALL).expect("writable");
    let one = output(folder.path(), &["prove", "small.toml", "--jobs", "1"]);
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stderr));
    assert!(text(&one.stdout).starts_with("proved         small.toml\n"), "{}", text(&one.stdout));
    assert!(text(&one.stdout).contains("from hint.apply to hint.push\n    covered         every order\n"), "{}", text(&one.stdout));
    assert_eq!(text(&one.stderr), "", "quiet in a pipe");
    assert_eq!(output(folder.path(), &["prove", "small.toml", "--jobs", "3"]).stdout, one.stdout);
    assert!(!folder.path().join("scenarios").exists(), "nothing is written");
}

#[test]
fn a_proof_out_of_its_memory_has_a_status_of_its_own() {
    let folder = folder();
    fs::write(folder.path().join("wide.toml"), "about = \"wide\"\n").expect("writable");
    let ended = output(folder.path(), &["prove", "wide.toml", "--memory", "1MiB", "--jobs", "1"]);
    assert_eq!(ended.status.code(), Some(4), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).starts_with("out of budget  wide.toml\n"), "{}", text(&ended.stdout));
    assert!(text(&ended.stdout).contains("not every order: 1.00 MiB of memory were not enough"), "{}", text(&ended.stdout));
}

#[test]
fn what_a_proof_refutes_is_a_file_that_runs_as_it_says() {
    let folder = folder();
    let free = LOST.replace("before = \"hint.apply(P)\"\n", "").replace("verdict = \"lost-page\"", "verdict = \"pass\"");
    fs::write(folder.path().join("lost.toml"), free).expect("writable");
    let ended = output(folder.path(), &["prove", "lost.toml", "--first", "--jobs", "1"]);
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stderr));
    let out = text(&ended.stdout);
    let written = out.lines().find_map(|line| line.trim_start().strip_prefix("written")).expect(out).trim();
    assert!(written.starts_with("scenarios/found/"), "{out}");
    let run = output(folder.path(), &["run", "--no-snapshot", written]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stdout));
}

#[test]
fn a_lost_run_of_the_world_is_told_step_by_step_alike_on_any_number_of_threads() {
    let folder = folder();
    fs::write(folder.path().join("lost.toml"), LOST).expect("writable");
    let words = ["why", "lost.toml", "--states", "500", "--samples", "10", "--jobs"];
    let one = output(folder.path(), &[&words[..], &["1"]].concat());
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stderr));
    let out = text(&one.stdout);
    assert!(out.starts_with("lost.toml: lost-page, destination-equals-source, blame guest, early-reuse\n"), "{out}");
    assert!(out.contains("guest.write P 0x800, 8 bytes") && out.contains("== doom =="), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 140), "{out}");
    assert_eq!(text(&output(folder.path(), &[&words[..], &["3"]].concat()).stdout), out);
}

#[test]
fn nothing_to_prove_or_to_ask_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("small.toml"), SMALL).expect("writable");
    assert_refused(&output(folder.path(), &["prove", "none.toml"]), &["none.toml: no such file", "nothing was run"]);
    assert_refused(&output(folder.path(), &["prove", "small.toml", "--memory", "4"]), &["no unit", "4GiB"]);
    assert_refused(&output(folder.path(), &["prove", "small.toml", "--memory", "0B"]), &["no memory at all"]);
    assert_refused(&output(folder.path(), &["why", "small.toml"]), &["the run does not fail, it ends as pass"]);
    fs::write(folder.path().join("never.toml"), SMALL.replace("hint.apply", "vm.stop#9")).expect("writable");
    assert_refused(&output(folder.path(), &["why", "never.toml"]), &["the run is over before vm.stop#9"]);
    let never = output(folder.path(), &["prove", "never.toml"]);
    assert_eq!(never.status.code(), Some(0), "{}", text(&never.stderr));
    assert!(text(&never.stdout).contains("the run is over before vm.stop#9, where a search would begin"), "{}", text(&never.stdout));
}
