//! Searches of the toy, from words on the command line to files on the disk.

mod toys;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::cli::args::{Arguments, Command};
use crate::cli::memory::UNLIMITED;
use crate::cli::merge::merge;
use crate::cli::replay::replay;
use clap::Parser;
use toys::Toys;

const HEAD: &str = "about = \"toy\"\npages = { P = \"first page of hint 1\" }\nfaults = [\"hint-stop-skipped\"]\n";

/// A folder to work in.
struct Project(Place);

/// Whose that is.
enum Place {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

/// How a command ended; the folder's name is left out of its words.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: Status,
    out: String,
    err: String,
}

impl Project {
    fn new(scenarios: &[(&str, &str)]) -> Self {
        let project = Self(Place::Own(tempfile::tempdir().expect("a temporary folder")));
        for (name, text) in scenarios {
            project.write(&format!("scenarios/{name}.toml"), text);
        }
        project
    }

    fn path(&self, relative: &str) -> PathBuf {
        match &self.0 {
            Place::Own(folder) => folder.path().join(relative),
            Place::Given(folder) => folder.join(relative),
        }
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    fn explore(&self, words: &str) -> Ended {
        self.command(&format!("explore {words}"), |_| {})
    }

    /// Explores or replays; words with a `/` in front are paths in the project. The handler of interrupts is given away.
    fn command(&self, words: &str, interrupt: impl FnOnce(Box<dyn FnMut() + Send>)) -> Ended {
        let here = self.path("").to_string_lossy().trim_end_matches('/').to_owned();
        let word = |word: &str| if word.starts_with('/') { OsString::from(format!("{here}{word}")) } else { OsString::from(word) };
        let mut words: Vec<OsString> = std::iter::once("lostpage").chain(words.split_whitespace()).map(word).collect();
        if words[1] == "explore" && !words.iter().any(|word| word == "--found") {
            words.extend(["--found".into(), format!("{here}/scenarios/found").into()]);
        }
        let parsed = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), anstream::StripStream::new(Vec::new()));
        let mut interrupt = Some(interrupt);
        let mut on_interrupt = |handler: Box<dyn FnMut() + Send>| interrupt.take().expect("asked once")(handler);
        let mut environment =
            Environment { ci: false, processors: 2, memory: UNLIMITED, on_interrupt: &mut on_interrupt, engine: Engine::new() };
        let mut screen = Screen::new(&mut out, &mut err);
        let status = match parsed.command {
            Command::Explore(arguments) => explore(&Toys, &arguments, &mut environment, &mut screen),
            Command::Replay(arguments) => replay(&Toys, &arguments, environment.engine, &mut screen),
            other => panic!("{other:?}"),
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&format!("{here}/"), "");
        Ended { status, out: text(out.into_inner()), err: text(err.into_inner()) }
    }

    fn files(&self, folder: &str) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder");
        let file =
            |path: PathBuf| (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read_to_string(path).expect("text"));
        let mut files: BTreeMap<String, String> = entries.map(|entry| file(entry.expect("readable").path())).collect();
        assert_eq!(files.remove("lock").unwrap_or_default(), "", "released");
        files
    }
}

#[test]
fn a_flaw_is_found_shrunk_and_written_as_a_scenario_that_reproduces_it() {
    let project = Project::new(&[("toy", HEAD)]);
    let ended = project.explore("/scenarios/toy.toml --schedules 1000");
    assert_eq!(ended.status, Status::NotAsExpected, "{ended:#?}");
    let files = project.files("scenarios/found");
    let [(name, text)] = files.iter().collect::<Vec<_>>()[..] else { panic!("{files:?}") };
    assert!(ended.out.contains(&format!("  scenario        scenarios/found/{name}\n")), "{}", ended.out);
    let found = crate::scenario::parse(name, text).expect("a scenario");
    assert_eq!(Toys.run(&found).unexpected, Vec::<String>::new());
    let provenance = found.found.expect("provenance");
    assert_eq!(provenance.scenario, "scenarios/toy.toml");
    let replay = format!("  replay          lostpage replay scenarios/toy.toml {}\n", provenance.seed);
    assert!(ended.out.contains(&replay), "{}", ended.out);
}

#[test]
fn the_seed_of_a_finding_replays_it_in_the_settings_that_it_was_found_in() {
    let varied = format!("{HEAD}[vary]\nprofile = [\"qemu\", \"firecracker\"]\nfaults = [\"hint-keeps-k\"]\n")
        .replace("faults = [\"hint-stop-skipped\"]\n", "");
    let project = Project::new(&[("toy", &varied)]);
    let ended = project.explore("/scenarios/toy.toml --schedules 2000");
    let seed = ended.out.split_whitespace().find(|word| word.starts_with("lp1:")).expect("a finding").to_owned();
    let replayed = project.command(&format!("replay /scenarios/toy.toml {seed}"), |_| {});
    assert_eq!(replayed.status, Status::NotAsExpected, "{replayed:#?}");
    assert!(replayed.out.contains("verdict    lost-page") && replayed.out.contains("hint-keeps-k"), "{}", replayed.out);
    for (words, says) in [
        (format!("replay /scenarios/toy.toml {seed} --fault hint-stop-skipped"), "is a schedule of another scenario"),
        (format!("replay /scenarios {seed}"), "scenarios: is a folder: expected a scenario file"),
        (format!("replay /none.toml {seed}"), "none.toml: no such file"),
    ] {
        let refused = project.command(&words, |_| {});
        assert_eq!((refused.status, refused.out.as_str()), (Status::BadInput, ""));
        assert!(refused.err.contains(says), "{}", refused.err);
    }
}

#[test]
fn the_result_is_the_same_whatever_the_number_of_jobs() {
    let varied = format!("{HEAD}[vary]\nprofile = [\"qemu\", \"firecracker\"]\nfaults = [\"hint-keeps-k\"]\n")
        .replace("[\"hint-stop-skipped\"]", "[]");
    let ended = |jobs: u32, more: &str| {
        let project = Project::new(&[("toy", &varied)]);
        let Ended { status, out, .. } = project.explore(&format!("/scenarios/toy.toml --schedules 2000 --block 32 --jobs {jobs} {more}"));
        (status, out, project.files("scenarios/found"))
    };
    let one = ended(1, "");
    assert!(one.1.contains("4 of 4 variants") && one.1.contains("fault hint-keeps-k; in 2 variants\n"), "{}", one.1);
    assert_eq!(one.2.len(), 1, "{}", one.1);
    for jobs in [2, 5] {
        assert_eq!(ended(jobs, ""), one);
    }
    assert_ne!(ended(1, "--seed 5").1, one.1);
}

#[test]
fn a_scenario_without_freedom_is_run_once() {
    for (about, says) in
        [("still", "nobody has a choice in it; run once\n"), ("over", "its run is over before guest.ready, where a search")]
    {
        let project = Project::new(&[("toy", &HEAD.replace("\"toy\"", &format!("{about:?}")))]);
        let ended = project.explore("/scenarios/toy.toml --results /r");
        assert!(ended.out.contains("scenarios/toy.toml: nothing is left to a search: ") && ended.out.contains(says), "{}", ended.out);
        assert!(ended.out.contains("  verdict         "), "{}", ended.out);
        assert!(!project.path("r").exists());
    }
}

#[test]
fn nothing_is_explored_when_a_file_is_bad() {
    let project = Project::new(&[("a", HEAD), ("b", "about = 3\n")]);
    let ended = project.explore("/scenarios");
    assert_eq!((ended.status, ended.out.as_str()), (Status::BadInput, ""));
    assert!(ended.err.contains("scenarios/b.toml:1:") && ended.err.ends_with("nothing was explored\n"), "{}", ended.err);
}

#[test]
fn results_are_kept_and_a_search_goes_on_with_them() {
    let project = Project::new(&[("toy", HEAD)]);
    let words = |schedules: u32, folder: &str| format!("/scenarios/toy.toml --block 16 --schedules {schedules} --results /{folder}");
    let whole = project.explore(&words(800, "whole"));
    project.explore(&words(100, "parts"));
    assert_eq!(project.explore(&words(800, "parts")).out, whole.out);
    assert_eq!(project.files("parts"), project.files("whole"));
    // Nothing is left to do; what a larger budget has made stays.
    assert_eq!(project.explore(&words(100, "parts")).out, whole.out);
    let refused = project.explore(&format!("{} --seed 9", words(100, "parts")));
    assert_eq!((refused.status, refused.out.as_str()), (Status::BadInput, ""));
    assert!(refused.err.contains("results of another search than asked for: seed 0, not 9"), "{}", refused.err);
    for other in ["--strategies pos", "--shard 1/2", "--fault hint-keeps-k", "--block 17"] {
        let words = words(100, "parts").replace("--block 16", if other.starts_with("--block") { other } else { "--block 16" });
        let words = if other.starts_with("--block") { words } else { format!("{words} {other}") };
        assert_eq!(project.explore(&words).status, Status::BadInput, "{other}");
    }
    assert_eq!(project.files("parts"), project.files("whole"));
}

#[test]
fn shards_are_merged_to_what_one_machine_makes() {
    let project = Project::new(&[("toy", HEAD)]);
    let words = "/scenarios/toy.toml --block 16 --schedules 900";
    project.explore(&format!("{words} --results /whole"));
    let folders: Vec<PathBuf> = (1..=3).map(|part| project.path(&format!("{part}"))).collect();
    for part in 1..=3 {
        let ended = project.explore(&format!("{words} --shard {part}/3 --results /{part}"));
        assert!(ended.out.contains(&format!(" from seed 0, shard {part}/3\n")), "{}", ended.out);
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = merge(&project.path("merged"), &folders, &mut Screen::new(&mut out, &mut err));
    assert_eq!(status, Status::AsExpected, "{}", String::from_utf8_lossy(&err));
    assert_eq!(project.files("merged"), project.files("whole"));
    // What was merged is told without making anything.
    let again = project.explore(&format!("{words} --results /merged"));
    assert!(!again.err.contains("schedules in"), "{}", again.err);
}

#[test]
fn a_folder_of_scenarios_is_explored_one_by_one_and_a_defect_of_ours_ends_only_one() {
    let panics = HEAD.replace("\"toy\"", "\"panic\"");
    let project = Project::new(&[("pass/a", HEAD), ("pass/b", &panics), ("pass/c", HEAD)]);
    let ended = project.explore("/scenarios --schedules 300 --block 256 --results /r");
    assert_eq!(ended.status, Status::OwnDefect);
    assert!(ended.out.contains("scenarios/pass/a.toml: 512 schedules") && ended.out.contains("scenarios/pass/c.toml: 512 schedules"));
    assert!(ended.err.contains("scenarios/pass/b.toml: a defect of lostpage itself: "), "{}", ended.err);
    assert_eq!(project.files("r/pass/a").len(), 3);
}

#[test]
fn a_stopped_search_tells_and_keeps_what_it_has() {
    let project = Project::new(&[("toy", HEAD)]);
    let blocks_of = |folder: PathBuf| fs::read_to_string(folder.join("blocks.jsonl")).map_or(0, |text| text.lines().count());
    let folder = project.path("r");
    let ended = project.command("explore /scenarios/toy.toml --time 1h --block 16 --results /r", |mut handler| {
        std::thread::spawn(move || {
            while blocks_of(folder.clone()) < 3 {
                std::thread::yield_now();
            }
            handler();
        });
    });
    assert_eq!(ended.status, Status::Interrupted);
    let files = project.files("r");
    assert!(files.contains_key("summary.json"), "{files:?}");
    let blocks = files["blocks.jsonl"].lines().count();
    assert!(ended.out.starts_with(&format!("scenarios/toy.toml: {} schedule", blocks * 16)), "{}", ended.out);
}

#[test]
fn no_file_of_another_is_overwritten() {
    let project = Project::new(&[("toy", HEAD)]);
    let words = "/scenarios/toy.toml --schedules 500";
    let first = project.explore(words);
    let files = project.files("scenarios/found");
    assert_eq!(project.explore(words).out, first.out);
    assert_eq!(project.files("scenarios/found"), files, "what says the same is left alone");
    let name = files.keys().next().expect("one").clone();
    project.write(&format!("scenarios/found/{name}"), "mine\n");
    let other = project.explore(words);
    assert!(other.out.contains(&name.replace(".toml", "-2.toml")), "{}", other.out);
    assert_eq!(project.files("scenarios/found")[&name], "mine\n");
    project.write("a-file", "");
    let nowhere = project.explore(&format!("{words} --found /a-file"));
    assert_eq!(nowhere.status, Status::BadInput, "{nowhere:#?}");
    assert!(
        nowhere.out.contains("its file could not be written") && nowhere.err.contains("error: a-file: cannot be made: "),
        "{nowhere:#?}"
    );
}

#[test]
fn what_a_file_expects_is_no_failure_of_the_search() {
    let project = Project::new(&[("toy", &format!("{HEAD}[expect]\nverdict = \"lost-page\"\n"))]);
    let ended = project.explore("/scenarios/toy.toml --schedules 500");
    assert_eq!(ended.status, Status::AsExpected);
    assert!(ended.out.ends_with("1 finding, as the file expects\n"), "{}", ended.out);
}

#[test]
fn bad_words_are_refused() {
    for words in [
        "a.toml --schedules 0",
        "a.toml --time 0s",
        "a.toml --time 10",
        "a.toml --shard 3/2",
        "a.toml --strategies pos,none",
        "a.toml --strategies pct:0",
        "a.toml --block 0",
        "a.toml --jobs 0",
        "a.toml --fault none",
        "",
    ] {
        let words = ["lostpage", "explore"].into_iter().chain(words.split_whitespace());
        assert_eq!(Arguments::try_parse_from(words.clone()).expect_err("bad").exit_code(), 2, "{:?}", words.collect::<Vec<_>>());
    }
}

#[test]
fn bounds_are_told_of_pct_only() {
    let project = Project::new(&[("toy", &HEAD.replace("hint-stop-skipped", "").replace("[\"\"]", "[]"))]);
    let with = project.explore("/scenarios/toy.toml --schedules 512 --block 256 --strategies pct:2,pos");
    assert!(with.out.contains("  bound           pct:2: a defect of depth 2 or less was missed with p <= "), "{}", with.out);
    assert_eq!(with.status, Status::AsExpected);
    assert!(with.out.ends_with("nothing found\n"), "{}", with.out);
    let without = project.explore("/scenarios/toy.toml --schedules 512 --block 256 --strategies pos");
    assert!(!without.out.contains("bound"), "{}", without.out);
}

/// Set for the child of the tests below: the project's folder, and the words.
const CHILD: &str = "LOSTPAGE_TEST_EXPLORE";

/// Explores in a process of its own, which somebody may kill; without one that started it, it has nothing to do.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (folder, words) = task.split_once('\n').expect("a folder and words");
    let folder = PathBuf::from(folder);
    let project = Project(Place::Given(folder));
    let Ended { status, out, err } = project.command(words, |_| {});
    println!("{out}\n{err}\nended as {status:?}");
}

impl Project {
    /// Returns a process that explores; `limit`: commands of a shell before that.
    fn child(&self, limit: &str, words: &str) -> std::process::Command {
        let test = "cli::explore::tests::child";
        let mut command = std::process::Command::new("sh");
        let own = std::env::current_exe().expect("a test has a file");
        command.args(["-c", &format!("{limit} exec \"$0\" --exact {test} --nocapture"), &own.to_string_lossy()]);
        command.env(CHILD, format!("{}\n{words}", self.path("").display())).stdout(std::process::Stdio::piped());
        command
    }
}

#[cfg(unix)]
#[test]
fn a_search_that_is_killed_again_and_again_ends_as_one_that_is_left_alone() {
    let project = Project::new(&[("toy", HEAD)]);
    let words = |folder: &str| format!("explore /scenarios/toy.toml --block 64 --schedules 400000 --results /{folder}");
    let whole = project.command(&words("whole"), |_| {});
    let lines = || fs::read(project.path("killed/blocks.jsonl")).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
    let mut killed = 0;
    for wanted in [0, 1, 40, 500, 1000, 2500] {
        let mut child = project.child("", &words("killed")).spawn().expect("it starts");
        while lines() < wanted && child.try_wait().expect("a child").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("a child");
        killed += u32::from(child.wait().expect("a child").code().is_none());
    }
    assert!(killed >= 3, "only {killed} were killed before they ended");
    let last = project.command(&words("killed"), |_| {});
    assert_eq!((last.status, last.out), (whole.status, whole.out));
    let blocks = |folder: &str| {
        let mut files = project.files(folder);
        let mut lines: Vec<String> = files.remove("blocks.jsonl").expect("blocks").lines().map(str::to_owned).collect();
        lines.sort();
        (files, lines)
    };
    assert_eq!(blocks("killed"), blocks("whole"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_a_search_with_what_it_has_and_nothing_is_lost() {
    let project = Project::new(&[("toy", HEAD)]);
    let words = "explore /scenarios/toy.toml --block 64 --schedules 40000 --results /r";
    // A limit on the size of files stands for a disk that has no room left.
    let output = project.child("trap '' XFSZ; ulimit -f 64;", words).output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.contains("ended as BadInput"), "{said}");
    assert!(said.contains("error: r/blocks.jsonl: cannot be written: ") && said.contains("found: lost-page"), "{said}");
    let kept = fs::read_to_string(project.path("r/blocks.jsonl")).expect("there");
    assert!(kept.lines().count() > 3, "{kept}");
    let ended = project.command(words, |_| {});
    assert_eq!(project.command(&words.replace("/r", "/whole"), |_| {}).out, ended.out);
    assert_eq!(project.files("r"), project.files("whole"));
}
