//! Helpers shared by the tests that span crates.

use std::path::{Path, PathBuf};

use emu::scenario::model::Scenario;

/// Returns the repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files below a folder of the repository, sorted, with their paths relative to the root.
///
/// # Panics
/// When a folder cannot be read.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder of the repository") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(&root).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Returns a scenario from its text.
///
/// # Panics
/// When the text is no scenario: the message is the diagnostics.
pub fn scenario(text: &str) -> Scenario {
    emu::scenario::parse("test.toml", text).unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)))
}

/// Returns a scenario from a file below the root.
///
/// # Panics
/// When there is none.
pub fn scenario_file(path: &Path) -> Scenario {
    let text = std::fs::read_to_string(root().join(path)).expect("scenario file");
    scenario(&text)
}
