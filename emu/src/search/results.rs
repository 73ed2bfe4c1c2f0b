//! What a search leaves behind, as text: a header, a line for each finished block of schedules, and a summary.
//!
//! Every line is a JSON object whose first field, `sum`, is a checksum of all behind it, so that a line that was cut off or changed is known from
//! one that is whole. A block's line depends on the search and the block's number alone: results of the same search can be cut anywhere, go on
//! anywhere, and be joined in any order, and are the same bytes in the end. The files themselves are `crate::cli`'s business.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::shard::{Shard, Shards};
use crate::scenario::{self, Scenario};

/// Version of the format; of [`super::shard_of`], too.
pub const FORMAT: u64 = 1;

/// Blocks of a search, at most: more than can be made, and few enough to be counted through.
pub const BLOCKS_MAX: u64 = 1 << 32;

/// What is kept of a finished block. It becomes a JSON object with the block's number in its field `block`.
pub trait Block: Serialize + DeserializeOwned {
    /// What all blocks say together.
    type Total: Serialize;

    /// Returns its number: its place among the search's blocks, from 0, and below [`BLOCKS_MAX`].
    fn number(&self) -> u64;

    /// Returns what blocks say together. They come in the order of their numbers.
    fn total<'a>(blocks: impl Iterator<Item = &'a Self>) -> Self::Total
    where
        Self: 'a;
}

/// What is asked for, beside the scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What all blocks' seeds are made from.
    pub seed: u64,
    /// Schedules in a block.
    pub block_schedules: u64,
    /// Names of the strategies, in their order.
    pub strategies: Vec<String>,
    /// All else that the contents of a block depend on, by its name on the command line.
    pub options: BTreeMap<String, String>,
    /// Which blocks are to be made.
    pub shard: Shard,
}

/// What a search is, as far as its blocks depend on it. A budget is not part of it: a search may go on with a larger one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: u64,
    /// Version of this tool.
    lostpage: String,
    /// Fingerprint of its sources and its guest.
    build: String,
    /// Name of the scenario.
    scenario: String,
    /// Hash of the scenario's values: of the text that [`scenario::to_toml`] makes of them.
    fingerprint: String,
    seed: u64,
    block_schedules: u64,
    strategies: Vec<String>,
    options: BTreeMap<String, String>,
    shards: Shards,
}

impl Header {
    /// Returns the header of a search by this build.
    pub fn new(name: &str, scenario: &Scenario, request: Request) -> Self {
        let Request { seed, block_schedules, strategies, options, shard } = request;
        Self {
            format: FORMAT,
            lostpage: env!("CARGO_PKG_VERSION").to_string(),
            build: build().to_string(),
            scenario: name.to_string(),
            fingerprint: format!("{:032x}", xxh3_128(scenario::to_toml(scenario).as_bytes())),
            seed,
            block_schedules,
            strategies,
            options,
            shards: shard.into(),
        }
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When it is none, or of another version of the format; a sentence that begins with the file.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let bad = |error: String| {
            format!(
                "{file}: {error}; expected the header of a search's results: get the file back from a copy, or begin anew in another folder"
            )
        };
        let line = one_line(bytes).map_err(bad)?;
        let value: Value = serde_json::from_str(line).map_err(|error| bad(format!("is no JSON: {error}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => unseal(line).map_err(bad),
            Some(format) => Err(format!(
                "{file}: results in format {format}; this is lostpage {} and reads format {FORMAT}: use the version that wrote them",
                env!("CARGO_PKG_VERSION")
            )),
            None => Err(bad("names no format".to_string())),
        }
    }

    /// Returns the header as its file holds it.
    pub fn to_text(&self) -> String {
        seal(self) + "\n"
    }

    /// Returns the parts whose blocks belong here.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Returns whether a block belongs here.
    pub fn has_block(&self, number: u64) -> bool {
        number < BLOCKS_MAX && self.shards.has_block(self.seed, number)
    }

    /// Returns in what it differs from another header, as `seed 4, not 5`; nothing: of the same search. Which parts they hold is not looked at.
    pub fn unlike(&self, other: &Header) -> Vec<String> {
        let listed = |header: &Header| {
            let Header { format, lostpage, build, scenario, fingerprint, seed, block_schedules, strategies, options, shards: _ } = header;
            let options: Vec<String> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
            [
                ("format", format.to_string()),
                ("lostpage", lostpage.clone()),
                ("build", build.clone()),
                ("scenario", scenario.clone()),
                ("scenario's fingerprint", fingerprint.clone()),
                ("seed", seed.to_string()),
                ("schedules per block", block_schedules.to_string()),
                ("strategies", strategies.join(",")),
                ("options", if options.is_empty() { "none".to_string() } else { options.join(" ") }),
            ]
        };
        let pairs = listed(self).into_iter().zip(listed(other));
        pairs.filter(|(mine, theirs)| mine != theirs).map(|((what, mine), (_, theirs))| format!("{what} {mine}, not {theirs}")).collect()
    }

    /// Adds another header's parts.
    pub fn join(&mut self, other: &Header) {
        assert_eq!(self.unlike(other), Vec::<String>::new(), "headers of different searches");
        self.shards = self.shards.into_iter().chain(&other.shards).collect();
    }
}

/// Returns the fingerprint of this build: of all sources that a run depends on, and of the guest's machine code. Where they are compiled, with
/// what checks and at what speed does not change what a run does, and is no part of it.
pub fn build() -> &'static str {
    env!("LOSTPAGE_BUILD")
}

const SEAL: &str = "{\"sum\":\"";
const SUM_DIGITS: usize = 16;

/// Returns a value as a line, without its end: a JSON object with a checksum in front.
fn seal<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("plain data becomes JSON");
    let rest = text.strip_prefix('{').expect("an object");
    assert_ne!(rest, "}", "an object without fields");
    format!("{SEAL}{:0SUM_DIGITS$x}\",{rest}", xxh3_64(rest.as_bytes()))
}

/// Returns the value of a line; a fragment that says why there is none otherwise.
fn unseal<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    let parts = line.strip_prefix(SEAL).and_then(|behind| behind.split_at_checked(SUM_DIGITS));
    let Some((told, rest)) = parts.and_then(|(told, behind)| Some((told, behind.strip_prefix("\",")?))) else {
        return Err("does not begin with a checksum".to_string());
    };
    let sum = format!("{:0SUM_DIGITS$x}", xxh3_64(rest.as_bytes()));
    if sum != told {
        return Err(format!("its checksum is {sum}, and it says {told}"));
    }
    serde_json::from_str(&format!("{{{rest}")).map_err(|error| format!("is not what was expected: {error}"))
}

/// Returns the line of a file that has one; a fragment that says why there is none otherwise.
fn one_line(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is no text: {error}"))?;
    match text.strip_suffix('\n') {
        Some(line) if !line.contains('\n') => Ok(line),
        Some(_) => Err("has more than one line".to_string()),
        None => Err("is cut off in its first line".to_string()),
    }
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    file: Arc<str>,
    /// From 1.
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Debug, Clone)]
struct Kept<T> {
    block: T,
    /// The line that it was read from or goes into, without its end: what is not understood of it is not lost.
    line: String,
    place: Place,
}

/// Finished blocks of one search.
#[derive(Debug, Clone)]
pub struct Blocks<T> {
    kept: BTreeMap<u64, Kept<T>>,
}

/// What a file of blocks holds.
#[derive(Debug)]
pub struct Read<T> {
    /// Its blocks.
    pub blocks: Blocks<T>,
    /// Size of its whole lines, bytes.
    pub whole_bytes: u64,
    /// Number of the last line, if that was cut off: the run was killed while it wrote it.
    pub cut_off: Option<usize>,
}

impl<T: Block> Blocks<T> {
    /// Returns no blocks.
    pub fn new() -> Self {
        Self { kept: BTreeMap::new() }
    }

    /// Reads the lines of a file. A last one without its end is no block; any other that is not whole is an error.
    ///
    /// # Errors
    /// When a line is none that belongs there; a sentence that begins with its place.
    pub fn read(file: &str, bytes: &[u8], header: &Header) -> Result<Read<T>, String> {
        let whole_bytes = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let name: Arc<str> = file.into();
        let mut blocks = Self::new();
        let lines = || bytes[..whole_bytes].split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
        for (index, line) in lines().enumerate() {
            let place = Place { file: Arc::clone(&name), line: index + 1 };
            let kept = parse(line, place.clone(), header)
                .map_err(|error| format!("{place}: {error}; get the line back from a copy, or delete it: its block is then made again"))?;
            blocks.keep(kept)?;
        }
        let cut_off = (whole_bytes < bytes.len()).then(|| lines().count() + 1);
        Ok(Read { blocks, whole_bytes: whole_bytes as u64, cut_off })
    }

    /// Returns a block's line, with its end.
    pub fn line_of(block: &T) -> String {
        seal(block) + "\n"
    }

    /// Adds a block that was written to a file.
    pub fn add(&mut self, block: T, file: &str) {
        let place = Place { file: file.into(), line: self.kept.len() + 1 };
        let before = self.kept.insert(block.number(), Kept { line: seal(&block), block, place });
        assert!(before.is_none(), "a block is made once");
    }

    /// Adds other blocks of the same search. What both have must be equal.
    ///
    /// # Errors
    /// When it is not; a sentence that names both places.
    pub fn join(&mut self, other: Blocks<T>) -> Result<(), String> {
        other.kept.into_values().try_for_each(|kept| self.keep(kept))
    }

    fn keep(&mut self, new: Kept<T>) -> Result<(), String> {
        let number = new.block.number();
        match self.kept.get(&number) {
            Some(old) if old.line != new.line => Err(format!(
                "{}: block {number} is not the one at {}; the same search makes the same blocks: one of them was changed, or made by a \
                 broken machine; make it again, and delete the wrong one",
                new.place, old.place
            )),
            Some(_) => Ok(()),
            None => {
                self.kept.insert(number, new);
                Ok(())
            }
        }
    }

    /// Returns whether a block is there.
    pub fn has(&self, number: u64) -> bool {
        self.kept.contains_key(&number)
    }

    /// Returns the number of blocks.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns the blocks in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.kept.values().map(|kept| &kept.block)
    }

    /// Returns all lines, in the order of the blocks' numbers.
    pub fn to_text(&self) -> String {
        self.kept.values().flat_map(|kept| [kept.line.as_str(), "\n"]).collect()
    }

    /// Returns the number behind the last block.
    fn behind(&self) -> u64 {
        self.kept.last_key_value().map_or(0, |(number, _)| number + 1)
    }

    fn digest(&self) -> String {
        let mut hash = Xxh3::new();
        for kept in self.kept.values() {
            hash.update(kept.line.as_bytes());
            hash.update(b"\n");
        }
        format!("{:032x}", hash.digest128())
    }

    /// Returns the summary of all blocks of a search of at least `end` blocks, other shards' included.
    pub fn summary(&self, header: &Header, end: u64) -> Summary<T::Total> {
        let end = end.max(self.behind());
        assert!(end <= BLOCKS_MAX, "{end} blocks");
        let missing = Gaps::of((0..end).filter(|number| !self.has(*number) && header.has_block(*number)));
        let outline = Outline { format: FORMAT, blocks: self.len() as u64, end, digest: self.digest() };
        Summary { outline, shards: header.shards.clone(), missing, total: T::total(self.iter()) }
    }
}

impl<T: Block> Default for Blocks<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the block of a line; a fragment that says why there is none otherwise.
fn parse<T: Block>(line: &[u8], place: Place, header: &Header) -> Result<Kept<T>, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("is no text: {error}"))?;
    let block: T = unseal(line)?;
    let number = block.number();
    if number >= BLOCKS_MAX {
        return Err(format!("block {number}: expected a number below {BLOCKS_MAX}"));
    }
    if !header.has_block(number) {
        return Err(format!("block {number} is none of shard {}, whose results these are", header.shards));
    }
    Ok(Kept { block, line: line.to_string(), place })
}

/// Blocks that are not there: the first and the last number of each row of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gaps(Vec<(u64, u64)>);

impl Gaps {
    /// Returns the rows that numbers make, which come in their order.
    pub(crate) fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let mut rows: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match rows.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                Some(_) | None => rows.push((number, number)),
            }
        }
        Self(rows)
    }

    /// Returns whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}..{last}") };
        let rows: Vec<String> = self.0.iter().map(row).collect();
        match self.0.as_slice() {
            [] => f.write_str("no block missing"),
            [(first, last)] if first == last => write!(f, "block {first} missing"),
            _ => write!(f, "blocks {} missing", rows.join(", ")),
        }
    }
}

/// A summary without what depends on the kind of block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    format: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Number of blocks that the search was to have at least, other shards' included.
    pub end: u64,
    /// Hash of all blocks in their order: equal results have equal digests.
    pub digest: String,
}

/// What the blocks of a folder say together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary<S> {
    /// What every summary says.
    #[serde(flatten)]
    pub outline: Outline,
    /// Whose blocks were asked for.
    pub shards: Shards,
    /// Which of these are not there.
    pub missing: Gaps,
    /// The search's own.
    pub total: S,
}

impl<S: Serialize> Summary<S> {
    /// Returns the summary as its file holds it.
    pub fn to_text(&self) -> String {
        seal(self) + "\n"
    }
}

impl Outline {
    /// Reads what every summary says, and holds the blocks of its folder to it. More blocks than it tells of are fine: the search went on.
    ///
    /// # Errors
    /// When it is no summary, or blocks are lost or changed; a sentence that begins with the file.
    pub fn read<T: Block>(file: &str, bytes: &[u8], blocks: &Blocks<T>) -> Result<Self, String> {
        let bad = |error: String| format!("{file}: {error}; delete this file: it is written anew when the search ends");
        let outline: Outline = one_line(bytes).and_then(unseal).map_err(bad)?;
        let known = blocks.len() as u64;
        if outline.end > BLOCKS_MAX {
            return Err(bad(format!("tells of {} blocks: expected {BLOCKS_MAX} at most", outline.end)));
        }
        if outline.blocks > known || (outline.blocks == known && outline.digest != blocks.digest()) {
            return Err(format!(
                "{file}: tells of {} blocks with digest {}, and there are {known} with digest {}: blocks were lost or changed; get them back from a \
                 copy, or delete this file to have what is lost made again",
                outline.blocks,
                outline.digest,
                blocks.digest()
            ));
        }
        Ok(outline)
    }
}
