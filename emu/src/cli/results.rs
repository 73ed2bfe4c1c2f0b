//! Result folders: what a search has finished, on disk, so that a run that is killed at any moment can go on.
//!
//! A folder holds `header.json` (what the search is), `blocks.jsonl` (a line for each finished block, in the order in which they were finished),
//! `summary.json` (what they say together; there once a run has come to its end) and `lock`. The lines' format is [`crate::search::results`]. Header
//! and summary come into being whole, by a rename; blocks are only ever added, each with one write. A line that a killed run left half written is
//! cut off by the next run, and its block made again; nothing else is ever taken away.
//!
//! A block is safe from the end of the process as soon as [`Results::append`] returns, from that of the machine when [`Results::finish`] does.

mod lock;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::{Disk, create, folder_of, reason};
use crate::report::snapshot::Store;
use crate::search::results::{Block, Blocks, Header, Outline, Summary};
use lock::Lock;

const HEADER: &str = "header.json";
const BLOCKS: &str = "blocks.jsonl";
const SUMMARY: &str = "summary.json";

/// What temporary files' names begin with; a killed run may leave one behind, which means nothing.
const TEMPORARY: &str = ".tmp";

/// A result folder that a search writes to. It belongs to one run at a time, until this is dropped.
#[derive(Debug)]
pub struct Results<T> {
    folder: PathBuf,
    header: Header,
    blocks: Blocks<T>,
    /// Number of blocks that the search was to have, by an earlier run.
    end: u64,
    file: File,
    /// Size of the whole lines, bytes.
    whole_bytes: u64,
    /// Whether there may be something behind them: a write failed.
    torn: bool,
    notes: Vec<String>,
    _lock: Lock,
}

impl<T: Block> Results<T> {
    /// Opens a folder for the search that a header describes: a new one, an empty one, or one with results of the same search, which goes on.
    ///
    /// # Errors
    /// When the folder is something else, holds another search, is damaged, is in use, or cannot be written to; a sentence. It is left as it was then.
    pub fn open(folder: &Path, header: &Header) -> Result<Self, String> {
        // What is to be refused is refused before anything is written, even a lock.
        match header_of(folder)? {
            Some(old) => same(folder, &old, header)?,
            None => vacant(folder)?,
        }
        fs::create_dir_all(folder).map_err(|error| format!("{}: cannot be made: {}", folder.display(), reason(&error)))?;
        let lock = Lock::take(folder)?;
        if header_of(folder)?.is_none() {
            create(&folder.join(HEADER), &header.to_text())?;
        }
        let part: Part<T> = Part::read(folder)?;
        same(folder, &part.header, header)?;
        let path = folder.join(BLOCKS);
        let file = File::options().append(true).create(true).open(&path).map_err(|error| unwritable(&path, &error))?;
        let Part { folder, header, blocks, whole_bytes, end, notes } = part;
        let mut results = Self { folder, header, blocks, end, file, whole_bytes, torn: true, notes, _lock: lock };
        results.mend()?;
        Ok(results)
    }

    /// Returns what the user should know of how the folder was found: sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the blocks that are finished.
    pub fn blocks(&self) -> &Blocks<T> {
        &self.blocks
    }

    /// Keeps a finished block.
    ///
    /// # Errors
    /// When it cannot be written; a sentence. All that was kept before still is, and the block may be given again.
    pub fn append(&mut self, block: T) -> Result<(), String> {
        let number = block.number();
        assert!(self.header.has_block(number), "block {number} is none of shard {}", self.header.shards());
        assert!(!self.blocks.has(number), "block {number} is made twice");
        self.mend()?;
        let line = Blocks::line_of(&block);
        let path = self.folder.join(BLOCKS);
        self.torn = true;
        self.file.write_all(line.as_bytes()).map_err(|error| unwritable(&path, &error))?;
        self.torn = false;
        self.whole_bytes += line.len() as u64;
        self.blocks.add(block, &path.to_string_lossy());
        Ok(())
    }

    /// Ends the run: waits until all is on the disk, and writes the summary. `end` is the number of blocks that the search was to have, other shards'
    /// included; without it the search ends where its last block does.
    ///
    /// # Errors
    /// When it cannot be written; a sentence. An earlier summary is still there then.
    pub fn finish(&mut self, end: Option<u64>) -> Result<Summary<T::Total>, String> {
        self.mend()?;
        let path = self.folder.join(BLOCKS);
        self.file.sync_all().map_err(|error| unwritable(&path, &error))?;
        let summary = self.blocks.summary(&self.header, self.end.max(end.unwrap_or(0)));
        let path = self.folder.join(SUMMARY);
        Disk::new().replace(&path, summary.to_text().as_bytes()).map_err(|error| unwritable(&path, &error))?;
        self.end = summary.outline.end;
        Ok(summary)
    }

    /// Cuts off what stands behind the last whole line.
    fn mend(&mut self) -> Result<(), String> {
        if self.torn {
            let path = self.folder.join(BLOCKS);
            self.file.set_len(self.whole_bytes).map_err(|error| unwritable(&path, &error))?;
            self.torn = false;
        }
        Ok(())
    }
}

/// What a result folder holds, read without touching it.
#[derive(Debug)]
struct Part<T> {
    folder: PathBuf,
    header: Header,
    blocks: Blocks<T>,
    whole_bytes: u64,
    end: u64,
    notes: Vec<String>,
}

impl<T: Block> Part<T> {
    /// Reads a folder. The summary comes before the blocks: a run that goes on meanwhile only adds to what it tells of.
    fn read(folder: &Path) -> Result<Self, String> {
        fs::metadata(folder).map_err(|error| format!("{}: {}", folder.display(), reason(&error)))?;
        let Some(header) = header_of(folder)? else {
            return Err(format!("{}: holds no results of a search: expected {HEADER} in it", folder.display()));
        };
        let summary = bytes(folder, SUMMARY)?;
        let (name, text) = bytes(folder, BLOCKS)?.unwrap_or_default();
        let read = Blocks::read(&name, &text, &header)?;
        let outline = summary.map(|(name, bytes)| Outline::read(&name, &bytes, &read.blocks)).transpose()?;
        let note = |line| format!("{name}:{line}: cut off: a run was killed while it wrote this line; its block counts as not made");
        Ok(Self {
            folder: folder.to_path_buf(),
            header,
            blocks: read.blocks,
            whole_bytes: read.whole_bytes,
            end: outline.map_or(0, |outline| outline.end),
            notes: read.cut_off.map(note).into_iter().collect(),
        })
    }
}

/// Result folders put together.
#[derive(Debug)]
pub(super) struct Joined<T: Block> {
    /// What they hold.
    pub(super) summary: Summary<T::Total>,
    /// What the user should know of how they were found: sentences.
    pub(super) notes: Vec<String>,
}

/// Puts the results of one search, in any number of parts and any order, into a new folder. The parts are left as they are.
///
/// # Errors
/// When parts cannot be read or are not of one search, or the new folder is not new or cannot be written; sentences. There is no new folder then.
pub(super) fn join<T: Block>(into: &Path, folders: &[PathBuf]) -> Result<Joined<T>, Vec<String>> {
    let mut problems: Vec<String> = empty(into).err().into_iter().collect();
    let mut parts: Vec<Part<T>> = Vec::new();
    for folder in folders {
        match Part::read(folder) {
            Ok(part) => parts.push(part),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some((first, others)) = parts.split_first() {
        problems.extend(others.iter().filter_map(|other| unlike(first, other)));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut header = parts.first().expect("the grammar asks for one").header.clone();
    let (mut blocks, mut end, mut notes) = (Blocks::new(), 0, Vec::new());
    for part in parts {
        header.join(&part.header);
        blocks.join(part.blocks).map_err(|problem| vec![problem])?;
        end = end.max(part.end);
        notes.extend(part.notes);
    }
    let summary = blocks.summary(&header, end);
    let files = [(HEADER, header.to_text()), (BLOCKS, blocks.to_text()), (SUMMARY, summary.to_text())];
    make(into, &files).map_err(|error| vec![unwritable(into, &error)])?;
    Ok(Joined { summary, notes })
}

/// Returns why two folders do not go together, if they do not.
fn unlike<T>(first: &Part<T>, other: &Part<T>) -> Option<String> {
    let unlike = other.header.unlike(&first.header);
    let [first, other] = [first, other].map(|part| part.folder.join(HEADER).display().to_string());
    (!unlike.is_empty())
        .then(|| format!("{other}: results of another search than {first}: {}; only parts of one search can be merged", unlike.join("; ")))
}

/// Makes a folder with these files: whole, or not at all.
fn make(folder: &Path, files: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir_all(folder_of(folder))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    let permissions = open_to_all();
    if let Some(permissions) = &permissions {
        builder.permissions(permissions.clone());
    }
    let made = builder.tempdir_in(folder_of(folder))?;
    for (name, text) in files {
        let mut file = File::create_new(made.path().join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    // It is empty, or somebody was here meanwhile: then this fails, and nothing is lost.
    if folder.exists() {
        fs::remove_dir(folder)?;
    }
    fs::rename(made.path(), folder)?;
    let _: PathBuf = made.keep();
    // The rename lasts only once the folder around it is on the disk.
    File::open(folder_of(folder))?.sync_all()
}

/// What a folder gets that is made in the ordinary way; the process's mask is still taken off.
#[cfg(unix)]
fn open_to_all() -> Option<fs::Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(fs::Permissions::from_mode(0o777))
}

#[cfg(not(unix))]
fn open_to_all() -> Option<fs::Permissions> {
    None
}

/// Makes sure that nothing of somebody else's is in a folder. That it does not exist is fine, and so is what a run left that was killed before it
/// wrote a header.
fn vacant(folder: &Path) -> Result<(), String> {
    let ours = |name: &OsStr| name == lock::NAME || name.to_string_lossy().starts_with(TEMPORARY);
    holds(folder, |name| !ours(name))
}

/// Makes sure that nothing at all is in a folder.
fn empty(folder: &Path) -> Result<(), String> {
    holds(folder, |_| true)
}

/// Makes sure that a folder, if it exists, holds nothing of a kind.
fn holds(folder: &Path, unwanted: impl Fn(&OsStr) -> bool) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}: expected a new or an empty folder", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if unwanted(&name) {
            let (folder, name) = (folder.display(), name.to_string_lossy());
            return Err(format!("{folder}: holds {name}, and is left as it is: expected a new or an empty folder"));
        }
    }
    Ok(())
}

/// Returns the header of the results in a folder, if there are any.
fn header_of(folder: &Path) -> Result<Option<Header>, String> {
    if folder.exists() && !folder.is_dir() {
        return Err(format!("{}: is no folder: expected one with results of a search, or none yet", folder.display()));
    }
    bytes(folder, HEADER)?.map(|(name, text)| Header::read(&name, &text)).transpose()
}

/// Makes sure that a folder's results are of the search that is asked for, and of the same part of it.
fn same(folder: &Path, found: &Header, asked: &Header) -> Result<(), String> {
    let mut unlike = found.unlike(asked);
    if found.shards() != asked.shards() {
        unlike.push(format!("shard {}, not {}", found.shards(), asked.shards()));
    }
    if unlike.is_empty() {
        return Ok(());
    }
    let (place, unlike) = (folder.join(HEADER), unlike.join("; "));
    Err(format!("{}: results of another search than asked for: {unlike}; name another folder, or ask for this search", place.display()))
}

/// Returns a file's name in messages and its bytes, if it exists.
fn bytes(folder: &Path, name: &str) -> Result<Option<(String, Vec<u8>)>, String> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some((path.display().to_string(), bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: cannot be read: {error}", path.display())),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("{}: cannot be written: {error}; what was finished before is kept: see to it, and start the same again", path.display())
}
