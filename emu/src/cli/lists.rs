//! The commands that only read or print: `lint`, `new`, `schema`, `faults`, `events`.

use std::path::{Component, Path, PathBuf};

use host::event::EventKind;
use host::fault::Fault;

use super::args::SchemaOf;
use super::doctor;
use super::files::{create, find};
use super::screen::Screen;
use super::show::Line;
use super::{Engine, Problem, Status};
use crate::report::{WIDTH, counted, record, wrap};

/// Reads scenarios without running them. What is hardly meant is not as expected; what is no scenario is bad input.
pub(super) fn lint(paths: &[PathBuf], engine: Engine, screen: &mut Screen<'_>) -> Status {
    let found = find(paths);
    let mut status = Status::AsExpected;
    let mut count = 0;
    let mut tell = |problem: &Problem, bad: bool| {
        screen.err(&problem.text);
        count += 1;
        status = status.max(if bad { Status::BadInput } else { Status::NotAsExpected });
    };
    for problem in found.problems {
        tell(&Problem::plain(problem), true);
    }
    for case in &found.cases {
        match case.read() {
            Ok(text) => {
                if let Some((problem, bad)) = (engine.lint)(&case.path.to_string_lossy(), &text) {
                    tell(&problem, bad);
                }
            }
            Err(problem) => tell(&Problem::plain(problem), true),
        }
    }
    let bad = if count == 0 { "no problem".to_string() } else { format!("something to say of {}", counted(count, "file")) };
    screen.out(&format!("{} read, {bad}\n", counted(found.cases.len() as u64, "scenario")));
    status
}

/// Writes a new scenario file.
pub(super) fn new(name: &str, dir: &Path, engine: Engine, screen: &mut Screen<'_>) -> Status {
    let bare = name.strip_suffix(".toml").unwrap_or(name);
    let plain = Path::new(bare).components().all(|part| matches!(part, Component::Normal(_)));
    let result = if bare.is_empty() || bare.ends_with('/') || !plain {
        Err(format!("`{name}` is no name for a scenario: expected something like hinting/write-after-pop"))
    } else {
        let path = dir.join(format!("{bare}.toml"));
        create(&path, &(engine.template)(bare)).map(|()| path)
    };
    match result {
        Ok(path) => {
            screen.out(&format!("{}\n", path.display()));
            Status::AsExpected
        }
        Err(problem) => {
            screen.err(&Problem::plain(problem).text);
            Status::BadInput
        }
    }
}

/// Prints a JSON Schema.
pub(super) fn schema(of: SchemaOf, engine: Engine, screen: &mut Screen<'_>) -> Status {
    let text = match of {
        SchemaOf::Scenario => (engine.schema)(),
        SchemaOf::Outcome => record::schema(),
        SchemaOf::Doctor => serde_json::to_string_pretty(&schemars::schema_for!(doctor::Line)).expect("a schema always becomes JSON"),
        SchemaOf::Museum => {
            serde_json::to_string_pretty(&schemars::schema_for!(super::museum::Line)).expect("a schema always becomes JSON")
        }
        SchemaOf::Compare => {
            serde_json::to_string_pretty(&schemars::schema_for!(super::compare::Line)).expect("a schema always becomes JSON")
        }
        SchemaOf::Run => serde_json::to_string_pretty(&schemars::schema_for!(Line)).expect("a schema always becomes JSON"),
    };
    screen.out(&format!("{}\n", text.trim_end()));
    Status::AsExpected
}

/// Prints the registry of faults.
pub(super) fn faults(screen: &mut Screen<'_>) -> Status {
    for fault in Fault::ALL {
        let label = fault.label();
        let id = if label.is_empty() { String::new() } else { format!("{label}; ") };
        let head = format!("{} ({}; {id}{})", fault.name(), fault.effect().name(), fault.source());
        screen.out(&entry(&head, fault.mechanism()));
    }
    Status::AsExpected
}

/// Prints the vocabulary of events.
pub(super) fn events(screen: &mut Screen<'_>) -> Status {
    for kind in EventKind::ALL {
        let name = kind.name();
        screen.out(&format!("{name:<24}{}\n", kind.about().trim()));
    }
    Status::AsExpected
}

fn entry(head: &str, text: &str) -> String {
    let mut lines = vec![head.to_string()];
    lines.extend(wrap(text, WIDTH - 4).into_iter().map(|line| format!("    {line}")));
    lines.push(String::new());
    lines.join("\n")
}
