//! `lostpage museum` as a process, on scenarios of the suite and a neutral one of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A guest that writes to a page while it is migrated; a device does as well, if it likes.
const NEUTRAL: &str = r#"
about = "a guest writes while it is migrated"

[[guest.task]]
on = "vcpu1"
do = [{ alloc = "A", order = 1 }, { write = "A", byte = 0xAA }, { write = "A", page = 1, byte = 0xAB }]

[pages]
A = "first page of A"

[[may]]
write = { page = "A", byte = 0xDD, pages = 2 }
by    = "dma"
after = "migration.iterate"

[search]
from = "hint.request"
"#;

const SCENARIOS: [&str; 5] = [
    "scenarios/fail/guest/panic.toml",
    "scenarios/pass/dirty/dma-two-pages.toml",
    "scenarios/pass/dirty/page-zero.toml",
    "scenarios/pass/hinting/cancel-in-element.toml",
    "scenarios/pass/hinting/slow-device.toml",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("emu/ lies in the root").to_owned()
}

/// Runs the command on the suite's scenarios in the repository's folder.
fn museum(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lostpage"));
    command.arg("museum").args(SCENARIOS).args(words).current_dir(root());
    command.env_remove("CI").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command.output().expect("the binary starts")
}

#[test]
fn the_museum_of_a_few_scenarios_is_the_same_on_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let neutral = folder.path().join("scenarios/neutral.toml");
    std::fs::create_dir_all(neutral.parent().expect("a folder")).expect("writable");
    std::fs::write(&neutral, NEUTRAL).expect("writable");
    let faults = ["hint-stop-skipped", "hint-no-done", "clear-tail-unmasked", "bitmap-off-by-one", "dma-first-page"];
    let faults = faults.iter().flat_map(|fault| ["--fault", *fault]);
    let words: Vec<&str> = ["--neutral", neutral.to_str().expect("UTF-8"), "--schedules", "32"].into_iter().chain(faults).collect();
    let with = |jobs: &str| museum(&[words.as_slice(), &["--jobs", jobs]].concat());
    let [one, three] = ["1", "3"].map(with);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    assert_eq!((one.status.code(), text(&one.stderr)), (Some(1), String::new()), "nothing here notices clear-tail-unmasked");
    assert_eq!((three.status.code(), text(&three.stdout)), (Some(1), text(&one.stdout)));
    insta::assert_snapshot!("museum", text(&one.stdout));
}

#[test]
fn faults_that_are_all_noticed_are_no_failure() {
    let output = museum(&["--no-search", "--fault", "dma-first-page", "--fault", "hint-no-done"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_schedules_and_no_neutral_scenario_are_bad_usage() {
    for (words, told) in [
        (["--schedules", "0"], "--schedules <N>"),
        (["--neutral", "scenarios/none.toml"], "scenarios/none.toml: no such file or folder"),
        (["--no-search", "--neutral=a.toml"], "cannot be used with"),
    ] {
        let output = museum(&words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{err}");
        assert!(err.contains(told), "{told}: {err}");
    }
}
