//! The commands that only read or print: `lint`, `new`, `schema`, `faults`, `events`.

use std::path::{Component, Path, PathBuf};

use host::event::EventKind;
use host::fault::Fault;

use super::args::SchemaOf;
use super::files::{create, find};
use super::screen::Screen;
use super::show::Line;
use super::{Engine, Problem, Status, load};
use crate::report::{WIDTH, record, wrap};

/// Reads scenarios without running them.
pub(super) fn lint(paths: &[PathBuf], engine: Engine, screen: &mut Screen<'_>) -> Status {
    let found = find(paths);
    let mut problems: Vec<Problem> = found.problems.into_iter().map(Problem::plain).collect();
    problems.extend(found.cases.iter().filter_map(|case| load(case, engine).err()));
    problems.iter().for_each(|problem| screen.err(&problem.text));
    screen.out(&format!("{} scenarios read, {} problems\n", found.cases.len(), problems.len()));
    if problems.is_empty() { Status::AsExpected } else { Status::BadInput }
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
        SchemaOf::Run => serde_json::to_string_pretty(&schemars::schema_for!(Line)).expect("a schema always becomes JSON"),
    };
    screen.out(&format!("{}\n", text.trim_end()));
    Status::AsExpected
}

/// Prints the registry of faults.
pub(super) fn faults(screen: &mut Screen<'_>) -> Status {
    for fault in Fault::ALL {
        let head = format!("{} ({}; catalogue {}; {})", fault.name(), fault.effect().name(), fault.id(), fault.source());
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
