//! `lostpage explore` and `replay` as processes, on the world: kills, Ctrl-C, full disks, files that are damaged or of another search.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The guest whose driver uses hinted pages too early.
const NEUTRAL: &str = include_str!("../../scenarios/search/neutral.toml");

/// A migration with nothing else.
const SMALL: &str = "about = \"neutral\"\nfaults = [\"hint-repeated-id\"]\n[guest]\nram = \"8 MiB\"\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.toml"), SMALL).expect("writable");
    folder
}

fn lostpage(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lostpage"));
    command.args(words.split_whitespace()).current_dir(folder).env_remove("CI").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(folder: &Path, words: &str) -> Output {
    lostpage(folder, words).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// All files of a result folder; blocks in the order of their numbers.
fn results(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("results") {
        let entry = entry.expect("readable");
        let mut lines: Vec<String> = fs::read_to_string(entry.path()).expect("text").lines().map(|line| format!("{line}\n")).collect();
        lines.sort_by_key(|line| line.split("\"block\":").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()));
        files.insert(entry.file_name().to_string_lossy().into_owned(), lines.concat());
    }
    files
}

fn blocks(folder: &Path) -> usize {
    fs::read(folder.join("blocks.jsonl")).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

/// Waits until a search has made so many blocks.
fn wait_for(child: &mut Child, folder: &Path, wanted: usize) {
    while blocks(folder) < wanted && child.try_wait().expect("a child").is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_finding_is_written_runs_as_its_file_says_and_does_not_depend_on_jobs() {
    let explored = |jobs: u32| {
        let folder = folder();
        fs::write(folder.path().join("a.toml"), NEUTRAL).expect("writable");
        let output = output(folder.path(), &format!("explore a.toml --schedules 256 --block 64 --jobs {jobs}"));
        (output.status.code(), text(&output.stdout).to_owned(), folder)
    };
    let (status, out, folder) = explored(1);
    assert_eq!(status, Some(1), "{out}");
    let path = out.lines().find_map(|line| line.strip_prefix("  scenario        ")).unwrap_or_else(|| panic!("{out}"));
    let run = output(folder.path(), &format!("run --no-snapshot {path}"));
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stdout));
    for replay in out.lines().filter_map(|line| line.strip_prefix("  replay          lostpage ")) {
        let replayed = output(folder.path(), replay);
        assert_eq!(replayed.status.code(), Some(1), "{replay}");
        assert!(text(&replayed.stdout).contains("\nbroken "), "{replay}: {}", text(&replayed.stdout));
    }
    let file = fs::read_to_string(folder.path().join(path)).expect("the finding");
    let (other_status, other, other_folder) = explored(3);
    assert_eq!((other_status, &other), (status, &out));
    assert_eq!(fs::read_to_string(other_folder.path().join(path)).expect("the same name"), file);
}

#[test]
fn killed_at_any_moment_a_search_goes_on_to_the_same_bytes() {
    let folder = folder();
    let words = |results: &str| format!("explore a.toml --schedules 1024 --block 32 --jobs 2 --results {results}");
    let whole = output(folder.path(), &words("whole"));
    let killed = folder.path().join("killed");
    let mut kills = 0;
    for wanted in [0, 1, 9, 17, 30] {
        let mut child = lostpage(folder.path(), &words("killed")).spawn().expect("the binary starts");
        wait_for(&mut child, &killed, wanted);
        child.kill().expect("a child");
        kills += u32::from(child.wait().expect("a child").code().is_none());
    }
    assert!(kills >= 3, "only {kills} ended by the kill");
    let last = output(folder.path(), &words("killed"));
    assert_eq!((last.status.code(), text(&last.stdout)), (whole.status.code(), text(&whole.stdout)));
    assert_eq!(results(&killed), results(&folder.path().join("whole")));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_search_with_what_it_has() {
    let folder = folder();
    let mut child = lostpage(folder.path(), "explore a.toml --time 1h --block 32 --results r").spawn().expect("the binary starts");
    wait_for(&mut child, &folder.path().join("r"), 4);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("it runs").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let made = blocks(&folder.path().join("r"));
    assert!(text(&output.stdout).starts_with(&format!("a.toml: {} schedules from seed 0\n", made * 32)), "{}", text(&output.stdout));
    assert!(folder.path().join("r/summary.json").exists());
    assert!(!text(&output.stderr).contains('\u{1b}'), "nothing is drawn in a pipe");
}

#[test]
fn shards_merge_to_the_whole() {
    let folder = folder();
    let words = "explore a.toml --schedules 512 --block 32 --found f";
    output(folder.path(), &format!("{words} --results whole"));
    for part in 1..=3 {
        output(folder.path(), &format!("{words} --shard {part}/3 --results {part}"));
    }
    let merged = output(folder.path(), "merge all 3 1 2");
    assert_eq!(text(&merged.stdout), "all: 16 blocks of all shards; no block missing\n", "{}", text(&merged.stderr));
    let mut whole = results(&folder.path().join("whole"));
    whole.remove("lock");
    assert_eq!(results(&folder.path().join("all")), whole);
}

#[test]
fn what_cannot_be_used_is_refused_and_stays_as_it_is() {
    let folder = folder();
    let words = "explore a.toml --schedules 64 --block 32 --results r";
    output(folder.path(), words);
    let good = results(&folder.path().join("r"));
    let refused = |words: &str, says: &str| {
        let before = results(&folder.path().join("r"));
        let output = output(folder.path(), words);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{words}");
        assert!(text(&output.stderr).contains(says), "{says}: {}", text(&output.stderr));
        assert_eq!(results(&folder.path().join("r")), before, "{words}");
    };
    refused("explore a.toml --schedules 0", "0 is not in 1..");
    refused("explore a.toml --time 0s", "such as 10s");
    refused("explore a.toml --shard 3/2", "expected K/N with 1 ≤ K ≤ N");
    refused("explore none.toml", "none.toml: no such file or folder");
    refused(&format!("{words} --seed 1"), "results of another search than asked for: seed 0, not 1");
    fs::write(folder.path().join("b.toml"), SMALL.replace("8 MiB", "16 MiB")).expect("writable");
    refused(&words.replace("a.toml", "b.toml"), "scenario a.toml, not b.toml; scenario's fingerprint ");
    for (file, from, to, says) in [
        ("header.json", "\"build\":\"", "\"build\":\"0", "header.json: its checksum is "),
        ("blocks.jsonl", "\"block\":1,", "\"block\":2,", "blocks.jsonl:2: its checksum is "),
        ("blocks.jsonl", "\n{", "{", "r/"),
        ("summary.json", "\"end\":2", "\"end\":3", "summary.json: its checksum is "),
    ] {
        fs::write(folder.path().join("r").join(file), good[file].replacen(from, to, 1)).expect("writable");
        refused(words, says);
        fs::write(folder.path().join("r").join(file), &good[file]).expect("writable");
    }
    assert_eq!(output(folder.path(), words).status.code(), Some(0), "all is as before");
}

/// A limit on the size of files stands for a disk that has no room left.
#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_what_was_found_is_told_and_what_was_kept_stays() {
    let folder = folder();
    let words = "explore a.toml --schedules 512 --block 32 --jobs 2 --results r";
    let script = format!("trap '' XFSZ; ulimit -f 64; exec '{}' {words}", env!("CARGO_BIN_EXE_lostpage"));
    let full = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("a shell");
    assert_eq!(full.status.code(), Some(2), "{}", text(&full.stdout));
    assert!(text(&full.stderr).contains("error: r/blocks.jsonl: cannot be written: "), "{}", text(&full.stderr));
    assert!(text(&full.stdout).starts_with("a.toml: ") && blocks(&folder.path().join("r")) > 0);
    let again = output(folder.path(), words);
    assert_eq!(text(&again.stdout), text(&output(folder.path(), &words.replace(" r", " whole")).stdout));
    assert_eq!(results(&folder.path().join("r")), results(&folder.path().join("whole")));
}
