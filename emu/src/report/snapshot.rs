//! Reports kept beside the scenarios, in insta's file format, so that `cargo insta review` and `lostpage run` read and write the same files.
//!
//! A snapshot is a header of `key: value` lines between two `---` lines, then the report. A run that differs leaves `NAME.snap.new` beside
//! `NAME.snap`, as insta does for a pending snapshot; nothing is written where nothing may be ([`Writes::Never`], set in CI).
//! Source: insta 1.49 `Snapshot::from_file`, `save`. Differs: the old format without `---` is refused as corrupt, where insta guesses.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use similar::TextDiff;

/// Where snapshots are kept.
pub trait Store {
    /// Returns a file's bytes, or `None` when there is no such file.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Makes a file hold these bytes: whole, or, on an error, as it was before.
    fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file; none is fine.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// What a comparison may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Nothing: CI.
    Never,
    /// A pending snapshot beside the old one.
    Pending,
    /// The snapshot itself.
    Bless,
}

/// A snapshot file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it was made from, relative to the workspace: the scenario.
    pub source: String,
    /// The command that makes it.
    pub expression: String,
    /// The report.
    pub body: String,
}

/// How a report compares with what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Same,
    /// Nothing was kept; this is now, when that was asked.
    Missing {
        /// Whether the snapshot was written.
        blessed: bool,
    },
    /// Different.
    Differs {
        /// Whether the snapshot was replaced.
        blessed: bool,
        /// The difference, as a unified diff.
        diff: String,
    },
}

/// Why a snapshot could not be read or written.
#[derive(Debug)]
pub struct SnapshotError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, a fragment.
    pub what: String,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl Snapshot {
    /// Returns the snapshot of a scenario's report.
    pub fn of(scenario: &str, report: &str) -> Self {
        Self { source: scenario.to_string(), expression: format!("lostpage run {scenario}"), body: report.trim_end().to_string() }
    }

    /// Returns the file's text.
    pub fn to_text(&self) -> String {
        format!("---\nsource: {}\nexpression: {}\n---\n{}\n", yaml(&self.source), yaml(&self.expression), self.body)
    }

    /// Reads a file's bytes back.
    ///
    /// # Errors
    /// When they are no snapshot; a fragment that says why.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?.replace("\r\n", "\n");
        let rest = text.strip_prefix("---\n").ok_or("does not start with a `---` line")?;
        let (head, body) = rest.split_once("\n---\n").ok_or("its header has no end, a second `---` line")?;
        let mut snapshot = Self { source: String::new(), expression: String::new(), body: body.trim_end().to_string() };
        for line in head.lines() {
            let (key, value) = line.split_once(": ").ok_or_else(|| format!("header line `{line}` is not `key: value`"))?;
            match key {
                "source" => snapshot.source = unquoted(value)?,
                "expression" => snapshot.expression = unquoted(value)?,
                // insta's other keys say nothing about the report.
                "assertion_line" | "description" | "info" | "input_file" | "snapshot_kind" => {}
                other => return Err(format!("unknown key `{other}` in its header")),
            }
        }
        Ok(snapshot)
    }
}

/// Quotes a value where insta's emitter does: JSON's quoting is YAML's, too.
fn yaml(value: &str) -> String {
    let plain_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ' ' | '+' | '=' | '(' | ')' | '~');
    let starts_plain = value.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    if starts_plain && !value.ends_with(' ') && value.chars().all(plain_character) {
        value.to_string()
    } else {
        serde_json::to_string(value).expect("a string always becomes JSON")
    }
}

fn unquoted(value: &str) -> Result<String, String> {
    if value.starts_with('"') {
        serde_json::from_str(value).map_err(|error| format!("header value `{value}`: {error}"))
    } else {
        Ok(value.to_string())
    }
}

/// Returns where a pending snapshot lies.
pub fn pending_path(path: &Path) -> PathBuf {
    path.with_extension("snap.new")
}

/// Reads what is kept.
///
/// # Errors
/// When the file cannot be read, or is no snapshot.
pub fn load(store: &dyn Store, path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let fail = |what: String| SnapshotError { path: path.to_path_buf(), what };
    let Some(bytes) = store.read(path).map_err(|error| fail(format!("cannot be read: {error}")))? else { return Ok(None) };
    Snapshot::parse(&bytes).map(Some).map_err(|what| fail(format!("is no snapshot: {what}")))
}

/// Compares a report with what is kept, and writes what may be written.
///
/// # Errors
/// When a file cannot be read or written; what was kept is then as it was.
pub fn settle(store: &mut dyn Store, path: &Path, new: &Snapshot, writes: Writes) -> Result<Comparison, SnapshotError> {
    let old = load(store, path)?;
    let same = old.as_ref().is_some_and(|old| old.body == new.body);
    let fail = |path: &Path, error: io::Error| SnapshotError { path: path.to_path_buf(), what: format!("cannot be written: {error}") };
    let pending = pending_path(path);
    match (writes, same) {
        (Writes::Never, _) => {}
        (Writes::Pending, false) => store.replace(&pending, new.to_text().as_bytes()).map_err(|error| fail(&pending, error))?,
        (Writes::Pending, true) => store.remove(&pending).map_err(|error| fail(&pending, error))?,
        (Writes::Bless, _) => {
            if old.as_ref() != Some(new) {
                store.replace(path, new.to_text().as_bytes()).map_err(|error| fail(path, error))?;
            }
            store.remove(&pending).map_err(|error| fail(&pending, error))?;
        }
    }
    let blessed = writes == Writes::Bless;
    Ok(match old {
        Some(_) if same => Comparison::Same,
        Some(old) => Comparison::Differs { blessed, diff: unified(&old.body, &new.body) },
        None => Comparison::Missing { blessed },
    })
}

/// Returns a unified diff of two reports.
fn unified(old: &str, new: &str) -> String {
    let (old, new) = (format!("{old}\n"), format!("{new}\n"));
    TextDiff::from_lines(old.as_str(), new.as_str()).unified_diff().context_radius(2).header("kept", "now").to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files in memory, on a disk that may be full.
    #[derive(Debug, Default)]
    struct Memory {
        files: BTreeMap<PathBuf, Vec<u8>>,
        full: bool,
    }

    impl Store for Memory {
        fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
            Ok(self.files.get(path).cloned())
        }

        fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.files.insert(path.to_path_buf(), bytes.to_vec());
            Ok(())
        }

        fn remove(&mut self, path: &Path) -> io::Result<()> {
            self.files.remove(path);
            Ok(())
        }
    }

    const SCENARIO: &str = "scenarios/pass/a.toml";

    fn path() -> PathBuf {
        PathBuf::from("snapshots/pass/a.snap")
    }

    fn settle_in(memory: &mut Memory, report: &str, writes: Writes) -> Comparison {
        settle(memory, &path(), &Snapshot::of(SCENARIO, report), writes).expect("memory works")
    }

    #[test]
    fn blessed_is_the_same_from_then_on() {
        let mut memory = Memory::default();
        assert_eq!(settle_in(&mut memory, "one\ntwo\n", Writes::Bless), Comparison::Missing { blessed: true });
        assert_eq!(settle_in(&mut memory, "one\ntwo\n", Writes::Never), Comparison::Same);
    }

    #[test]
    fn a_difference_leaves_a_pending_file_and_the_old_one() {
        let mut memory = Memory::default();
        settle_in(&mut memory, "one\n", Writes::Bless);
        let Comparison::Differs { blessed: false, diff } = settle_in(&mut memory, "two\n", Writes::Pending) else { panic!("differs") };
        assert!(diff.contains("-one\n+two\n"), "{diff}");
        assert_eq!(load(&memory, &path()).expect("whole").expect("kept").body, "one");
        assert_eq!(load(&memory, &pending_path(&path())).expect("whole").expect("pending").body, "two");
        settle_in(&mut memory, "one\n", Writes::Pending);
        assert_eq!(memory.files.len(), 1, "the pending file has served");
    }

    #[test]
    fn ci_never_writes() {
        let mut memory = Memory::default();
        assert_eq!(settle_in(&mut memory, "one\n", Writes::Never), Comparison::Missing { blessed: false });
        assert!(memory.files.is_empty());
    }

    #[test]
    fn blessing_on_a_full_disk_keeps_the_old_one_and_says_so() {
        let mut memory = Memory::default();
        settle_in(&mut memory, "one\n", Writes::Bless);
        memory.full = true;
        let error = settle(&mut memory, &path(), &Snapshot::of(SCENARIO, "two\n"), Writes::Bless).expect_err("full");
        assert!(error.to_string().starts_with("snapshots/pass/a.snap: cannot be written: "), "{error}");
        assert_eq!(load(&memory, &path()).expect("whole").expect("kept").body, "one");
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for (bytes, why) in [
            (&b""[..], "does not start"),
            (b"report\n", "does not start"),
            (b"---\nsource: a\n", "no end"),
            (b"---\nsource: a\n<<<<<<< HEAD\n---\nbody\n", "is not `key: value`"),
            (b"---\nsauce: a\n---\nbody\n", "unknown key `sauce`"),
            (b"---\nsource: \xff\n---\n", "not UTF-8"),
        ] {
            let error = Snapshot::parse(bytes).expect_err("corrupt");
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn insta_reads_what_we_write_and_writes_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for scenario in [SCENARIO, "scenarios/a, b: c.toml", "scenarios/umläut #1.toml", "-x.toml"] {
            let report = "scenario   a\n\n      1  0.100 *  'x' \"y\": z\n---\nend\n";
            let ours = Snapshot::of(scenario, report);
            let path = folder.path().join("a.snap.new");
            std::fs::write(&path, ours.to_text()).expect("writable");
            let theirs = insta::Snapshot::from_file(&path).expect("insta understands our format");
            assert_eq!(theirs.as_text().expect("a text").to_string(), ours.body);
            assert_eq!(theirs.metadata().source(), Some(scenario));
            assert_eq!(theirs.metadata().expression(), Some(ours.expression.as_str()));
            let accepted = folder.path().join("a.snap");
            theirs.save(&accepted).expect("writable");
            assert_eq!(std::fs::read_to_string(&accepted).expect("readable"), ours.to_text());
            assert_eq!(Snapshot::parse(ours.to_text().as_bytes()), Ok(ours));
        }
    }
}
