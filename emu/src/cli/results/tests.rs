//! Result folders on a real file system: kills, resuming, merging, and whatever else may happen to files.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::scenario;
use crate::search::Shard;
use crate::search::results::{Gaps, Request};

/// A block as a driver might keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sample {
    block: u64,
    text: String,
}

impl Block for Sample {
    type Total = usize;

    fn number(&self) -> u64 {
        self.block
    }

    fn total<'a>(blocks: impl Iterator<Item = &'a Self>) -> usize {
        blocks.map(|block| block.text.len()).sum()
    }
}

/// What the search makes for a number, each time.
fn sample(block: u64) -> Sample {
    Sample { block, text: format!("{} \"…\"\n", "x".repeat((block * 37 % 101) as usize)) }
}

fn shard(text: &str) -> Shard {
    text.parse().expect("a shard")
}

fn header_with(seed: u64, part: Shard) -> Header {
    let scenario = scenario::parse("a.toml", "about = \"a\"\n").unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let strategies = vec!["pos".to_string()];
    Header::new("scenarios/a.toml", &scenario, Request { seed, block_schedules: 100, strategies, options: BTreeMap::new(), shard: part })
}

fn header(part: &str) -> Header {
    header_with(4, shard(part))
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(folder: &Path, header: &Header) -> Result<Results<Sample>, String> {
    Results::open(folder, header)
}

fn opened(folder: &Path, header: &Header) -> Results<Sample> {
    open(folder, header).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Makes what is not there of the blocks below `end`, as a driver does.
fn search(folder: &Path, header: &Header, end: u64) -> String {
    let mut results = opened(folder, header);
    for number in (0..end).filter(|number| header.has_block(*number)) {
        if !results.blocks().has(number) {
            results.append(sample(number)).expect("writable");
        }
    }
    results.finish(Some(end)).expect("writable").to_text()
}

/// All files of a folder; without the lock, which a merged folder has no need of.
fn contents(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("readable");
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path()).expect("text"));
    }
    assert_eq!(files.remove(lock::NAME).unwrap_or_default(), "", "released");
    files
}

fn merged(into: &Path, folders: &[PathBuf]) -> BTreeMap<String, String> {
    let joined = join::<Sample>(into, folders).unwrap_or_else(|problems| panic!("{problems:?}"));
    let files = contents(into);
    assert_eq!(files[SUMMARY], joined.summary.to_text());
    files
}

fn error_of(opened: Result<Results<Sample>, String>) -> String {
    opened.map(drop).expect_err("refused")
}

fn merge_error(into: &Path, folders: &[PathBuf]) -> String {
    join::<Sample>(into, folders).map(drop).expect_err("refused").join("\n")
}

#[test]
fn what_was_finished_is_there_when_the_folder_is_opened_again() {
    let temporary = temporary();
    let folder = temporary.path().join("new/results");
    let mut results = opened(&folder, &header("1/1"));
    results.append(sample(3)).expect("writable");
    results.append(sample(0)).expect("writable");
    drop(results);
    let results = opened(&folder, &header("1/1"));
    assert_eq!(results.blocks().iter().cloned().collect::<Vec<_>>(), [sample(0), sample(3)]);
    assert!(results.blocks().has(3) && !results.blocks().has(1));
    assert_eq!(results.notes(), Vec::<String>::new());
}

#[test]
fn a_last_line_cut_at_any_byte_is_made_again_to_the_same_bytes() {
    let temporary = temporary();
    let undisturbed = temporary.path().join("undisturbed");
    let summary = search(&undisturbed, &header("1/1"), 4);
    let text = contents(&undisturbed)[BLOCKS].clone();
    let last = text[..text.len() - 1].rfind('\n').expect("lines") + 1;
    let folder = temporary.path().join("killed");
    for cut in last..text.len() {
        let _ = fs::remove_dir_all(&folder);
        drop(opened(&folder, &header("1/1")));
        fs::write(folder.join(BLOCKS), &text.as_bytes()[..cut]).expect("writable");
        let notes = opened(&folder, &header("1/1")).notes().to_vec();
        assert_eq!(notes.len(), usize::from(cut > last), "{notes:?}");
        assert!(notes.iter().all(|note| note.contains("blocks.jsonl:4: cut off: ")), "{notes:?}");
        assert_eq!(search(&folder, &header("1/1"), 4), summary);
        assert_eq!(contents(&folder), contents(&undisturbed));
    }
}

/// Set for the child of the test below: the folder that it works in.
const CHILD: &str = "LOSTPAGE_TEST_RESULTS";

/// Makes all blocks but the last, then waits to be killed, or for a parent that is no more.
#[cfg(unix)]
fn work_until_killed(folder: &Path, end: u64) {
    let mut results = opened(folder, &header("1/1"));
    for number in 0..end - 1 {
        if !results.blocks().has(number) {
            results.append(sample(number)).expect("writable");
        }
    }
    io::copy(&mut io::stdin(), &mut io::sink()).expect("a pipe");
}

/// The parent starts this very test as a child. Where a child is killed differs from run to run; what comes of it must not.
#[cfg(unix)]
#[test]
fn a_process_killed_at_any_moment_is_gone_on_from_to_the_same_bytes() {
    use std::os::unix::process::ExitStatusExt;
    const END: u64 = 400;
    if let Some(folder) = env::var_os(CHILD) {
        return work_until_killed(Path::new(&folder), END);
    }
    let temporary = temporary();
    let [folder, undisturbed] = ["killed", "undisturbed"].map(|name| temporary.path().join(name));
    search(&undisturbed, &header("1/1"), END);
    let size = |folder: &Path| fs::metadata(folder.join(BLOCKS)).map_or(0, |metadata| metadata.len());
    for part in 1..8 {
        let name = "cli::results::tests::a_process_killed_at_any_moment_is_gone_on_from_to_the_same_bytes";
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--exact", name]).env(CHILD, &folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        // While it is waited for, its input stays open.
        let input = child.stdin.take();
        while size(&folder) < size(&undisturbed) * part / 8 && child.try_wait().expect("a child").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("a child");
        assert_eq!(child.wait().expect("a child").signal(), Some(9), "killed, not ended");
        drop(input);
    }
    search(&folder, &header("1/1"), END);
    let sorted = |name: &str, from: &Path| merged(&temporary.path().join(name), &[from.to_path_buf()]);
    assert_eq!(sorted("a", &folder), sorted("b", &undisturbed));
    assert_eq!(contents(&folder)[SUMMARY], contents(&undisturbed)[SUMMARY]);
}

#[test]
fn another_search_is_refused_and_the_folder_is_as_it_was() {
    let temporary = temporary();
    let folder = temporary.path().join("r");
    search(&folder, &header("1/2"), 5);
    fs::remove_file(folder.join(lock::NAME)).expect("there");
    let before = contents(&folder);
    let error = error_of(open(&folder, &header_with(5, shard("2/2"))));
    assert!(error.contains("header.json: results of another search than asked for: seed 4, not 5; shard 1/2, not 2/2; name"), "{error}");
    assert!(!folder.join(lock::NAME).exists());
    assert_eq!(contents(&folder), before);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let temporary = temporary();
    let first = opened(temporary.path(), &header("1/1"));
    let error = error_of(open(temporary.path(), &header("1/1")));
    assert!(error.contains(&format!("another run, process {}, works in this folder", std::process::id())), "{error}");
    drop(first);
    // A killed run leaves its number behind; it holds nothing any more.
    fs::write(temporary.path().join(lock::NAME), "1\n").expect("writable");
    drop(opened(temporary.path(), &header("1/1")));
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let temporary = temporary();
    fs::write(temporary.path().join("thesis.tex"), "mine").expect("writable");
    let error = error_of(open(temporary.path(), &header("1/1")));
    assert!(error.contains("holds thesis.tex, and is left as it is: expected a new or an empty folder"), "{error}");
    let error = error_of(open(&temporary.path().join("thesis.tex"), &header("1/1")));
    assert!(error.contains("thesis.tex: is no folder"), "{error}");
    assert_eq!(contents(temporary.path()), BTreeMap::from([("thesis.tex".to_string(), "mine".to_string())]));
}

#[test]
fn a_run_killed_before_its_header_stood_can_begin_again() {
    let temporary = temporary();
    for name in [lock::NAME, ".tmpa1B2"] {
        fs::write(temporary.path().join(name), "").expect("writable");
    }
    drop(opened(temporary.path(), &header("1/1")));
    fs::remove_file(temporary.path().join(BLOCKS)).expect("there");
    drop(opened(temporary.path(), &header("1/1")));
}

#[test]
fn a_damaged_file_is_an_error_with_its_place_and_stays_as_it_is() {
    let temporary = temporary();
    let folder = temporary.path().join("r");
    search(&folder, &header("1/1"), 3);
    let good = contents(&folder);
    let lines: Vec<&str> = good[BLOCKS].lines().collect();
    let middle = format!("{}\n{}\n{}\n", lines[0], lines[1].replace("…", "."), lines[2]);
    let short = format!("{}\n{}\n", lines[0], lines[1]);
    let torn = format!("{}\n{}\n{}", lines[0], lines[1], lines[2]);
    for (name, text, says) in [
        (BLOCKS, middle.as_str(), "r/blocks.jsonl:2: its checksum is "),
        (BLOCKS, short.as_str(), "r/summary.json: tells of 3 blocks with digest "),
        (BLOCKS, torn.as_str(), "r/summary.json: tells of 3 blocks with digest "),
        (HEADER, "", "r/header.json: is cut off in its first line"),
        (SUMMARY, "{}\n", "r/summary.json: does not begin with a checksum; delete this file"),
    ] {
        fs::write(folder.join(name), text).expect("writable");
        let error = error_of(open(&folder, &header("1/1")));
        assert!(error.contains(says), "{says}: {error}");
        assert!(merge_error(&temporary.path().join("out"), std::slice::from_ref(&folder)).contains(says), "{says}");
        assert_eq!(contents(&folder)[name], text, "{says}");
        fs::write(folder.join(name), &good[name]).expect("writable");
    }
    assert_eq!(contents(&folder), good);
    assert!(!temporary.path().join("out").exists());
}

#[test]
fn a_search_goes_on_with_a_larger_budget() {
    let temporary = temporary();
    let [small, large] = ["small", "large"].map(|name| temporary.path().join(name));
    search(&small, &header("1/1"), 3);
    search(&large, &header("1/1"), 9);
    search(&small, &header("1/1"), 9);
    assert_eq!(contents(&small), contents(&large));
    // A smaller one takes nothing back.
    search(&small, &header("1/1"), 2);
    assert_eq!(contents(&small), contents(&large));
}

/// Half a line gets to the disk, then it is full; later there is room again.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing_that_was_finished() {
    let temporary = temporary();
    let mut results = opened(temporary.path(), &header("1/1"));
    results.append(sample(0)).expect("writable");
    let good = results.file.try_clone().expect("a file");
    results.file = File::options().append(true).open("/dev/full").expect("Linux has it");
    let error = results.append(sample(1)).expect_err("full");
    assert!(error.contains("blocks.jsonl: cannot be written: No space left on device"), "{error}");
    assert!(!results.blocks().has(1));
    results.file = good;
    results.file.write_all(&Blocks::line_of(&sample(1)).as_bytes()[..9]).expect("writable");
    results.append(sample(1)).expect("room again");
    let summary = results.finish(None).expect("writable");
    assert_eq!(summary.outline.blocks, 2);
    drop(results);
    assert_eq!(opened(temporary.path(), &header("1/1")).notes(), Vec::<String>::new());
}

/// Not even the superuser can write there.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_cannot_be_written_to_is_named() {
    let temporary = temporary();
    search(&temporary.path().join("r"), &header("1/1"), 2);
    let error = error_of(open(Path::new("/sys/lostpage"), &header("1/1")));
    assert!(error.starts_with("/sys/lostpage: cannot be made: "), "{error}");
    let error = error_of(open(Path::new("/sys/kernel/lostpage/r"), &header("1/1")));
    assert!(error.starts_with("/sys/kernel/lostpage/r: cannot be made: "), "{error}");
    let error = merge_error(Path::new("/sys/lostpage"), &[temporary.path().join("r")]);
    assert!(error.starts_with("/sys/lostpage: cannot be written: "), "{error}");
}

#[test]
fn only_parts_of_one_search_are_merged() {
    let temporary = temporary();
    let [a, b, out, none] = ["a", "b", "out", "none"].map(|name| temporary.path().join(name));
    search(&a, &header_with(4, shard("1/2")), 5);
    search(&b, &header_with(5, shard("2/2")), 5);
    let error = merge_error(&out, &[a.clone(), none.clone(), b]);
    assert!(error.contains("none: no such file or folder\n"), "{error}");
    assert!(
        error.contains("b/header.json: results of another search than ") && error.contains("a/header.json: seed 5, not 4; only"),
        "{error}"
    );
    let error = merge_error(&out, &[temporary.path().to_path_buf()]);
    assert!(error.contains(": holds no results of a search: expected header.json in it"), "{error}");
    assert!(!out.exists());
    let before = contents(&a);
    assert!(merge_error(&a, std::slice::from_ref(&a)).contains("expected a new or an empty folder"));
    assert_eq!(contents(&a), before);
}

#[test]
fn different_blocks_of_one_number_are_not_merged() {
    let temporary = temporary();
    let [a, b, out] = ["a", "b", "out"].map(|name| temporary.path().join(name));
    search(&a, &header("1/1"), 3);
    opened(&b, &header("1/1")).append(Sample { block: 1, text: "else".to_string() }).expect("writable");
    let error = merge_error(&out, &[a, b]);
    assert!(error.contains("b/blocks.jsonl:1: block 1 is not the one at ") && error.contains("a/blocks.jsonl:2;"), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_merged_folder_is_a_result_folder() {
    let temporary = temporary();
    let [a, b, both, whole] = ["a", "b", "both", "whole"].map(|name| temporary.path().join(name));
    search(&a, &header("1/2"), 20);
    search(&b, &header("2/2"), 12);
    fs::create_dir(&both).expect("writable");
    let files = merged(&both, &[b, a]);
    assert!(files[HEADER].contains("\"shards\":[\"1/1\"]"), "{files:?}");
    search(&whole, &header("1/1"), 20);
    assert_eq!(search(&both, &header("1/1"), 20), contents(&whole)[SUMMARY]);
}

/// What the finished part says of the search's end holds for the other, too, whether that comes first or last, and has more blocks or less.
#[test]
fn a_part_that_was_killed_takes_nothing_from_the_end_that_another_tells() {
    for made in [0, 7, 30] {
        let temporary = temporary();
        let [finished, killed, one, other] = ["finished", "killed", "one", "other"].map(|name| temporary.path().join(name));
        search(&finished, &header("1/2"), 20);
        let mut results = opened(&killed, &header("2/2"));
        let own: Vec<u64> = (0..made).filter(|number| header("2/2").has_block(*number)).collect();
        own.iter().for_each(|number| results.append(sample(*number)).expect("writable"));
        drop(results);
        assert!(!killed.join(SUMMARY).exists(), "it never came to its end");
        let files = merged(&one, &[finished.clone(), killed.clone()]);
        assert_eq!(merged(&other, &[killed, finished]), files);
        let behind = own.last().map_or(0, |last| last + 1);
        assert!(files[SUMMARY].contains(&format!("\"end\":{},", behind.max(20))), "{}", files[SUMMARY]);
        let there = |number: &u64| if header("1/2").has_block(*number) { *number < 20 } else { own.contains(number) };
        let missing: Vec<u64> = (0..behind.max(20)).filter(|number| !there(number)).collect();
        let joined = join::<Sample>(&temporary.path().join("again"), &[one]).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(joined.summary.missing, Gaps::of(missing.into_iter()), "{made}");
    }
}

/// A part of a search: its shards' blocks in the order in which they were finished, how many of them before the run was killed, and at which byte
/// of the next line.
type Killed = (Vec<u64>, prop::sample::Index, prop::sample::Index);

fn killed_parts() -> impl Strategy<Value = (u64, Vec<Killed>, Vec<usize>)> {
    (0_u64..40, 1_u64..5).prop_flat_map(|(end, count)| {
        let part = move |number: u64| {
            let header = header_with(4, Shard::new(number, count).expect("in range"));
            let own: Vec<u64> = (0..end).filter(|number| header.has_block(*number)).collect();
            (Just(own).prop_shuffle(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
        };
        let parts: Vec<_> = (1..=count).map(part).collect();
        (Just(end), parts, Just((0..count as usize).collect::<Vec<_>>()).prop_shuffle())
    })
}

/// Lets a part be killed as told, and go on to its end.
fn disturb(folder: &Path, header: &Header, (order, before, cut): &Killed, end: u64) {
    let stop = before.index(order.len() + 1);
    let mut results = opened(folder, header);
    order[..stop].iter().for_each(|number| results.append(sample(*number)).expect("writable"));
    if let Some(next) = order.get(stop) {
        let line = Blocks::line_of(&sample(*next));
        results.file.write_all(&line.as_bytes()[..cut.index(line.len())]).expect("writable");
    }
    drop(results);
    let mut results = opened(folder, header);
    assert_eq!(results.blocks().len(), stop);
    order[stop..].iter().for_each(|number| results.append(sample(*number)).expect("writable"));
    results.finish(Some(end)).expect("writable");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_parts_killed_anywhere_and_merged_in_any_order_are_an_undisturbed_run((end, parts, order) in killed_parts()) {
        let temporary = temporary();
        let path = |name: &str| temporary.path().join(name);
        search(&path("undisturbed"), &header("1/1"), end);
        let expected = merged(&path("expected"), &[path("undisturbed")]);
        prop_assert_eq!(&expected, &contents(&path("undisturbed")));
        let names: Vec<PathBuf> = (0..parts.len()).map(|index| path(&index.to_string())).collect();
        for (index, killed) in parts.iter().enumerate() {
            let part = Shard::new(index as u64 + 1, parts.len() as u64).expect("in range");
            disturb(&names[index], &header_with(4, part), killed, end);
        }
        let shuffled: Vec<PathBuf> = order.iter().map(|index| names[*index].clone()).collect();
        prop_assert_eq!(&merged(&path("once"), &shuffled), &expected);
        // Merging what was merged, in steps and with the same part twice, is merging all at once.
        let (some, others) = shuffled.split_at(shuffled.len().div_ceil(2));
        merged(&path("some"), some);
        let rest: Vec<PathBuf> = others.iter().chain(&shuffled[..1]).cloned().chain([path("some")]).collect();
        prop_assert_eq!(&merged(&path("twice"), &rest), &expected);
    }
}
