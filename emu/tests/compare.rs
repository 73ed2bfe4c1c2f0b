//! `lostpage compare` as a process, on scenarios of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A guest that reads 4 MiB from a device, frees them and is migrated.
const SAVING: &str = r#"
about = "what was read and freed is left out"

[guest]
driver = "DRIVER"

[[guest.task]]
on = "vcpu1"
do = [{ alloc = "A", order = 10 }, { sleep = "1 ms" }, { free = "A" }]

[migration]
start = { after = "guest.task_done#3" }

[pages]
A = "first page of A"

[[inject]]
write = { page = "A", byte = 0x11, pages = 1024 }
by    = "dma"
after = "guest.task_done#1"
"#;

/// A page is written behind its hint; whether it is sent is for the file to say.
const RESENT: &str = r#"
about = "a page is written behind its hint"

[pages]
P = "first page of hint 1"

[[inject]]
write = { page = "P", byte = 0xBB }
by    = "vcpu1"
after = "hint.apply(P)"

[expect]
sent = { P = { EXPECT } }
"#;

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(format!("scenarios/dialects/{name}.toml"));
    fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    fs::write(path, text).expect("writable");
}

fn folder(expect: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "hint/saving", &SAVING.replace("DRIVER", "hint"));
    write(folder.path(), "v33/saving", &SAVING.replace("DRIVER", "v33"));
    write(folder.path(), "hint/resent", &RESENT.replace("EXPECT", expect));
    folder
}

fn compare(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lostpage"));
    command.arg("compare").args(words).current_dir(folder);
    command.env_remove("CI").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command.output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The figures of the first row of an interface behind a line that starts so.
fn figures<'a>(out: &'a str, behind: &str, interface: &str) -> Vec<&'a str> {
    let rows = out.lines().skip_while(|line| !line.starts_with(behind));
    let mut cells = rows.map(|line| line.split_whitespace().collect::<Vec<_>>());
    cells.find(|cells| cells.first() == Some(&interface)).unwrap_or_else(|| panic!("no {interface} behind {behind}: {out}"))
}

#[test]
fn tables_have_a_row_for_each_interface_and_fit_a_terminal() {
    let folder = folder("min = 1");
    let [one, three] = ["1", "3"].map(|jobs| compare(folder.path(), &["--jobs", jobs]));
    let out = text(&one.stdout);
    assert_eq!((one.status.code(), text(&one.stderr)), (Some(0), ""), "{out}");
    assert_eq!(out, text(&three.stdout));
    assert!(out.lines().all(|line| line.chars().count() <= 120), "{out}");
    assert!(out.ends_with("3 scenarios: all as expected\n"), "{out}");
    let course = figures(out, "resent:", "hint");
    assert_eq!((course[3], course[4], course.last()), ("1", "0", Some(&"pass")), "resent, wrongly: {course:?}");
    for interface in ["hint", "v33"] {
        let saved = figures(out, "saved by it", interface);
        let [sent, without, difference] = [1, 2, 3].map(|index| saved[index].parse::<u64>().expect("pages"));
        assert!(difference > 1000 && sent + difference == without, "{saved:?}");
    }
}

#[test]
fn what_its_file_does_not_expect_is_told_below_the_tables() {
    let folder = folder("max = 0");
    let output = compare(folder.path(), &["--case", "resent"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("WRONG  scenarios/dialects/hint/resent.toml\n"), "{out}");
    assert!(out.ends_with("1 scenario: 0 as expected, 1 not\n"), "{out}");
    assert!(!out.contains("saved by it"), "an order on hints cannot be kept without any: {out}");
}

#[test]
fn json_says_the_same_of_both_runs() {
    let folder = folder("min = 1");
    let output = compare(folder.path(), &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let rows: Vec<(&str, &str, bool)> = lines[..3]
        .iter()
        .map(|row| (row["case"].as_str().expect("a word"), row["interface"].as_str().expect("a word"), row["without"].is_null()))
        .collect();
    assert_eq!(rows, [("saving", "hint", false), ("saving", "v33", false), ("resent", "hint", true)]);
    let bytes = |row: &serde_json::Value, run: &str| row[run]["facts"]["bytes_sent"].as_u64().expect("a number");
    assert!(bytes(&lines[0], "run") + 4_000_000 <= bytes(&lines[0], "without"), "{}", lines[0]);
    assert_eq!(lines[3], serde_json::json!({ "type": "summary", "scenarios": 3, "as_expected": 3 }));
}

#[test]
fn a_case_that_no_file_has_is_refused() {
    let folder = folder("min = 1");
    let output = compare(folder.path(), &["--case", "savings"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert!(text(&output.stderr).contains("no scenario here is called savings"), "{}", text(&output.stderr));
}
