//! Files and folders: finding scenarios, keeping snapshots, writing whole files or none. Beside this, only `super::results` touches them.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use walkdir::WalkDir;

use super::SCENARIOS;
use crate::report::snapshot::Store;

/// A scenario's places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    /// The file, as it was given or found.
    pub(super) path: PathBuf,
    /// Its name in reports: from `scenarios/` on, the same from wherever it is run; as given when it lies in no such folder.
    pub(super) name: String,
    /// Where its snapshot is kept: in `snapshots/` beside `scenarios/`. A file elsewhere has none.
    pub(super) snapshot: Option<PathBuf>,
}

/// What was found under some paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Scenarios, each once, sorted by path.
    pub(super) cases: Vec<Case>,
    /// Snapshots under the given folders whose scenario does not exist, each with the name that this would have.
    pub(super) orphans: Vec<(PathBuf, String)>,
    /// Paths at which nothing was found, in sentences.
    pub(super) problems: Vec<String>,
}

/// Finds the scenarios under files and folders.
pub(super) fn find(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for path in paths {
        match under(path) {
            Ok(files) => {
                for file in files {
                    let case = Case::of(&file);
                    if seen.insert(fs::canonicalize(&file).unwrap_or(file)) {
                        found.cases.push(case);
                    }
                }
            }
            Err(problem) => found.problems.push(problem),
        }
        found.orphans.extend(orphans(path));
    }
    found.cases.sort();
    found.orphans.sort();
    found.orphans.dedup();
    found
}

/// Returns the scenario files at or under a path.
fn under(path: &Path) -> Result<Vec<PathBuf>, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("{}: {}", path.display(), reason(&error)))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let files = walk(path, "toml").map_err(|error| format!("{}: {error}", path.display()))?;
    if files.is_empty() { Err(format!("{}: no scenario in this folder", path.display())) } else { Ok(files) }
}

/// An error of the system in the words of this tool, so that it reads the same on every platform.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or folder".to_string(),
        _ => error.to_string(),
    }
}

fn walk(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, walkdir::Error> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_dir() && entry.path().extension().is_some_and(|found| found == extension) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// Splits a path behind its last `scenarios` component: the folder that holds this, and the rest.
fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let absolute = fs::canonicalize(path).ok()?;
    let components: Vec<Component<'_>> = absolute.components().collect();
    let at = components.iter().rposition(|component| component.as_os_str() == SCENARIOS)?;
    Some((components[..at].iter().collect(), components[at + 1..].iter().collect()))
}

fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|component| component.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

impl Case {
    fn of(path: &Path) -> Self {
        let (name, snapshot) = match split(path) {
            Some((root, rest)) => {
                (format!("{SCENARIOS}/{}", slashed(&rest)), Some(root.join("snapshots").join(rest).with_extension("snap")))
            }
            None => (path.to_string_lossy().into_owned(), None),
        };
        Self { path: path.to_path_buf(), name, snapshot }
    }

    /// Reads the scenario's text.
    ///
    /// # Errors
    /// When it cannot be read, or is no text; a sentence.
    pub(super) fn read(&self) -> Result<String, String> {
        fs::read_to_string(&self.path).map_err(|error| format!("{}: {}", self.path.display(), reason(&error)))
    }
}

/// Returns the snapshots that belong under a folder of scenarios, but to none of them.
fn orphans(folder: &Path) -> Vec<(PathBuf, String)> {
    let Some((root, rest)) = split(folder).filter(|_| folder.is_dir()) else { return Vec::new() };
    let snapshots = root.join("snapshots");
    let kept = walk(&snapshots.join(&rest), "snap").unwrap_or_default();
    let mut orphans = Vec::new();
    for path in kept {
        let inner = path.strip_prefix(&snapshots).expect("walked from there").with_extension("toml");
        if !root.join(SCENARIOS).join(&inner).exists() {
            orphans.push((path, format!("{SCENARIOS}/{}", slashed(&inner))));
        }
    }
    orphans
}

/// Reads a whole text file.
///
/// # Errors
/// When it cannot be read, or is no text; a sentence.
pub(super) fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {}", path.display(), reason(&error)))
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// When it exists, or cannot be written; a sentence. Nothing is left behind then.
pub(super) fn create(path: &Path, text: &str) -> Result<(), String> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|error| format!("{}: cannot be made: {}", folder.display(), reason(&error)))?;
    let write =
        || -> io::Result<()> { prepared(path, text.as_bytes(), put)?.persist_noclobber(path).map(drop).map_err(|error| error.error) };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{}: exists already, and is left as it is", path.display()),
        _ => format!("{}: cannot be written: {error}", path.display()),
    })
}

/// How bytes get into a file.
type Put = fn(&mut File, &[u8]) -> io::Result<()>;

fn put(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// The file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    put: Put,
}

impl Disk {
    /// Returns the file system as it is.
    pub(super) fn new() -> Self {
        Self { put }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Disk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        prepared(path, bytes, self.put)?.persist(path).map_err(|error| error.error)?;
        // The rename lasts only once the folder is on the disk.
        File::open(folder_of(path))?.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes bytes to a new file beside the one they are for, and waits until they are on the disk. Dropped, it removes itself.
fn prepared(path: &Path, bytes: &[u8], put: Put) -> io::Result<tempfile::NamedTempFile> {
    fs::create_dir_all(folder_of(path))?;
    let mut builder = tempfile::Builder::new();
    let permissions = readable_by_all();
    if let Some(permissions) = &permissions {
        builder.permissions(permissions.clone());
    }
    let mut file = builder.tempfile_in(folder_of(path))?;
    put(file.as_file_mut(), bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// What a file gets that is written in the ordinary way; the process's mask is still taken off.
#[cfg(unix)]
fn readable_by_all() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn readable_by_all() -> Option<Permissions> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn files_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it() {
        let folder = folder();
        let path = folder.path().join("a.snap");
        Disk::new().replace(&path, b"old").expect("writable");
        let half: Put = |file, bytes| {
            file.write_all(&bytes[..bytes.len() / 2])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        let error = Disk { put: half }.replace(&path, b"new and longer").expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).expect("readable"), b"old");
        assert_eq!(files_in(folder.path()), ["a.snap"]);
    }

    #[test]
    fn a_new_file_does_not_replace_one() {
        let folder = folder();
        let path = folder.path().join("deep/a.toml");
        create(&path, "one").expect("new");
        let error = create(&path, "two").expect_err("exists");
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "one");
        assert_eq!(files_in(path.parent().expect("a folder")), ["a.toml"]);
    }

    #[test]
    fn a_scenario_has_the_same_name_by_every_path_to_it() {
        let folder = folder();
        let file = folder.path().join("scenarios/pass/hinting/a.toml");
        create(&file, "").expect("new");
        let roundabout = folder.path().join("scenarios/pass/../pass/hinting/a.toml");
        let found = find(&[file.clone(), roundabout, folder.path().to_path_buf()]);
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.cases.len(), 1, "{:#?}", found.cases);
        assert_eq!(found.cases[0].name, "scenarios/pass/hinting/a.toml");
        let root = fs::canonicalize(folder.path()).expect("exists");
        assert_eq!(found.cases[0].snapshot, Some(root.join("snapshots/pass/hinting/a.snap")));
    }

    #[test]
    fn every_bad_path_is_named() {
        let folder = folder();
        let paths = [folder.path().to_path_buf(), folder.path().join("none.toml")];
        let found = find(&paths);
        assert_eq!(found.problems.len(), 2);
        assert!(found.problems[0].ends_with(": no scenario in this folder"), "{}", found.problems[0]);
        assert!(found.problems[1].ends_with("none.toml: no such file or folder"), "{}", found.problems[1]);
    }

    #[test]
    fn a_snapshot_without_scenario_is_found_only_under_its_folder() {
        let folder = folder();
        for path in ["scenarios/pass/x/a.toml", "scenarios/pass/y/b.toml", "snapshots/pass/x/a.snap", "snapshots/pass/x/gone.snap"] {
            create(&folder.path().join(path), "").expect("new");
        }
        let orphans = |path: &str| find(&[folder.path().join(path)]).orphans.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(orphans("scenarios"), ["scenarios/pass/x/gone.toml"]);
        assert_eq!(orphans("scenarios/pass/x"), ["scenarios/pass/x/gone.toml"]);
        assert_eq!(orphans("scenarios/pass/y"), Vec::<String>::new());
        assert_eq!(orphans("scenarios/pass/x/a.toml"), Vec::<String>::new());
    }
}
