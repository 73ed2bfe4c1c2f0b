//! README.md and docs/dialects.md against the tool: each command runs as written, and what is quoted is what comes out, byte by byte.
//!
//! A fence of language `console` holds commands behind `$ ` and their output; fences of language `text` go on with the output of the last
//! command above them. A command whose output is quoted is quoted whole. `# exits N` behind a command is its exit status, 0 if there is none.
//! `LOSTPAGE_DOCS=write` writes the outputs into the page instead of comparing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One fence: its language, and its lines with their places in the file.
struct Fence {
    language: String,
    /// Index of the first line inside.
    first: usize,
    lines: Vec<String>,
}

/// A command and the pieces of output that the file quotes of it, each with the index of its first line.
struct Quoted {
    command: String,
    pieces: Vec<(usize, Vec<String>)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("emu/ lies in the root").to_owned()
}

fn page(name: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(name)).expect("a page of the repository");
    text.lines().map(str::to_owned).collect()
}

fn readme() -> Vec<String> {
    page("README.md")
}

fn writes() -> bool {
    std::env::var_os("LOSTPAGE_DOCS").is_some_and(|value| value == "write")
}

fn fences(lines: &[String]) -> Vec<Fence> {
    let mut found: Vec<Fence> = Vec::new();
    let mut open = false;
    for (index, line) in lines.iter().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                found.push(Fence { language: language.to_owned(), first: index + 1, lines: Vec::new() });
            }
            None if open => found.last_mut().expect("an open fence").lines.push(line.clone()),
            None => {}
        }
    }
    assert!(!open, "the page ends inside a fence");
    found
}

fn quoted(lines: &[String]) -> Vec<Quoted> {
    let mut all: Vec<Quoted> = Vec::new();
    for fence in fences(lines) {
        let text = match fence.language.as_str() {
            "console" => false,
            "text" => true,
            _ => continue,
        };
        let mut piece: Option<usize> = text.then_some(fence.first);
        for (offset, line) in fence.lines.into_iter().enumerate() {
            if let Some(command) = line.strip_prefix("$ ").filter(|_| !text) {
                all.push(Quoted { command: command.to_owned(), pieces: Vec::new() });
                piece = Some(fence.first + offset + 1);
                continue;
            }
            let last = all.last_mut().expect("output stands behind a command");
            let first = piece.expect("a console fence starts with a command");
            match last.pieces.last_mut() {
                Some((known, lines)) if *known == first => lines.push(line),
                Some(_) | None => last.pieces.push((first, vec![line])),
            }
        }
    }
    all
}

/// Returns the words of a command that calls the tool itself, and the exit status that the file promises.
fn words(command: &str) -> Option<(Vec<&str>, i32)> {
    let (call, status) = command.split_once(" # exits ").map_or((command, 0), |(call, status)| (call, status.parse().expect("a status")));
    let words = call.strip_prefix("lostpage ")?;
    Some((words.split_whitespace().collect(), status))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder");
    for entry in fs::read_dir(from).expect("a folder of the repository") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).expect("a file of the repository")),
        }
    }
}

/// The words of a line that no change of times, indices and frames touches: by them a piece's first line is found again.
fn key(line: &str) -> Vec<&str> {
    line.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect()
}

/// Returns the new lines of each piece: cut where the old pieces began.
fn cut(command: &str, pieces: &[(usize, Vec<String>)], output: &[String]) -> Vec<Vec<String>> {
    let mut starts = vec![0];
    for (_, lines) in &pieces[1..] {
        let wanted = key(&lines[0]);
        let from = starts.last().expect("one") + 1;
        let place = (from..output.len()).find(|index| key(&output[*index]) == wanted);
        starts.push(place.unwrap_or_else(|| panic!("`{command}` prints no line like `{}` any more: place the quotation anew", lines[0])));
    }
    starts.push(output.len());
    starts.windows(2).map(|ends| output[ends[0]..ends[1]].to_vec()).collect()
}

/// A copy of what commands work on; what they write stays there.
fn work_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["scenarios", "snapshots"] {
        if root().join(name).is_dir() {
            copy(&root().join(name), &folder.path().join(name));
        }
    }
    folder
}

/// Runs a page's commands in a folder, and compares or writes its quotations. Returns how many there were.
fn run_commands(name: &str, folder: &Path) -> usize {
    let mut lines = page(name);
    let all = quoted(&lines);
    let mut changes: Vec<(usize, usize, Vec<String>)> = Vec::new();
    let mut ran = 0;
    for Quoted { command, pieces } in &all {
        let Some((words, status)) = words(command) else { continue };
        let output = Command::new(env!("CARGO_BIN_EXE_lostpage"))
            .args(words)
            .current_dir(folder)
            .env_remove("CI")
            .env_remove("CLICOLOR_FORCE")
            .env_remove("RUST_BACKTRACE")
            .output()
            .expect("the binary starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "`{command}`\n{out}{err}");
        ran += 1;
        if pieces.is_empty() {
            continue;
        }
        let printed: Vec<String> = out.lines().map(str::to_owned).collect();
        let told: Vec<String> = pieces.iter().flat_map(|(_, lines)| lines.clone()).collect();
        if writes() {
            let new = cut(command, pieces, &printed);
            changes.extend(pieces.iter().zip(new).map(|((first, old), new)| (*first, old.len(), new)));
        } else {
            let differs = (0..printed.len().max(told.len())).find(|index| printed.get(*index) != told.get(*index));
            assert_eq!(
                differs.map(|index| (index, told.get(index), printed.get(index))),
                None,
                "`{command}`: (line, {name}, output); LOSTPAGE_DOCS=write cargo test -p lostpage-emu --test readme takes the output in"
            );
        }
    }
    for (first, count, new) in changes.into_iter().rev() {
        lines.splice(first..first + count, new);
    }
    if writes() {
        fs::write(root().join(name), lines.join("\n") + "\n").expect("a page of the repository");
    }
    ran
}

#[test]
fn commands_run_and_quotations_are_what_they_print() {
    let ran = run_commands("README.md", work_folder().path());
    assert!(ran >= 8, "README.md shows {ran} commands only");
}

#[test]
fn the_page_of_dialects_quotes_what_is_printed_and_shows_what_is_drawn() {
    const DRAWN: &str = "docs/irq-off.svg";
    let folder = work_folder();
    let ran = run_commands("docs/dialects.md", folder.path());
    assert!(ran >= 2, "docs/dialects.md shows {ran} commands only");
    let drawn = fs::read(folder.path().join(DRAWN)).expect("the page's commands draw it");
    if writes() {
        fs::write(root().join(DRAWN), &drawn).expect("writable");
    }
    assert!(fs::read(root().join(DRAWN)).is_ok_and(|kept| kept == drawn), "{DRAWN} is not what is drawn");
}

#[test]
fn the_first_screen_has_the_two_commands() {
    let lines = readme();
    let first = &lines[..lines.len().min(40)];
    for command in ["./x run", "./x test"] {
        assert!(first.iter().any(|line| line.starts_with(command)), "{command} is not in the first screen");
    }
}

/// The scenario whose report is explained stands in README with comments of its own; its values are the file's.
#[test]
fn the_scenario_shown_is_the_one_that_runs() {
    let lines = readme();
    let shown = fences(&lines).into_iter().find(|fence| fence.language == "toml").expect("a scenario");
    let all = quoted(&lines);
    let path = all[0].command.split_whitespace().last().expect("a path");
    let parse = |text: &str| emu::scenario::parse(path, text).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let file = fs::read_to_string(root().join(path)).expect("the scenario's file");
    assert_eq!(parse(&shown.lines.join("\n")), parse(&file));
}

#[test]
fn words_behind_x_are_words_that_it_knows() {
    let script = fs::read_to_string(root().join("x")).expect("x");
    for line in readme() {
        let Some(rest) = line.strip_prefix("$ ./x ").or_else(|| line.strip_prefix("./x ")) else { continue };
        let word = rest.split_whitespace().next().expect("a word");
        let known = script.contains(&format!("./x {word}"));
        assert!(known, "./x help does not know `{word}`");
    }
}
