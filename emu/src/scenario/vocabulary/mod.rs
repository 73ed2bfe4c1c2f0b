//! The language of scenario files in one table: every key with its meaning, its type, its range and the reason for it.
//!
//! The reader takes types and ranges from here and refuses what does not stand here; the JSON Schema is written from here. So neither can
//! know a key that the other does not.

mod expect;
mod guest;
mod host;
mod inject;
mod ranges;
mod search;

use self::expect::{COSTS, EXPECT, LIMITS};
use self::guest::GUEST;
pub(super) use self::guest::OPERATIONS;
pub(super) use self::host::START;
use self::host::{HOST, MIGRATION};
pub(super) use self::inject::{ACTIONS, COMMAND, RESIZE_MEM};
use self::inject::{INJECT, MAY, ORDER};
pub(super) use self::ranges::INTEGER_MAX;
use self::search::{FOUND, SEARCH, VARY};
use super::words::faults;

/// A table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// How messages call it.
    pub(super) title: &'static str,
    /// Its keys, in the order of writing.
    pub(super) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Its meaning, in a sentence; shown by editors.
    pub(super) about: &'static str,
    pub(super) required: bool,
    /// What holds without it, as TOML; empty when that is nothing, or depends on other keys.
    pub(super) default: &'static str,
    pub(super) kind: Kind,
}

/// A word of a closed set, and its meaning.
pub(super) type Word = (&'static str, &'static str);

/// Smallest and largest value, and the reason for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) why: &'static str,
}

impl Range {
    /// Returns the range in words, each end written by `format`.
    pub(super) fn describe(&self, format: impl Fn(u64) -> String) -> String {
        if self.max == INTEGER_MAX {
            format!("at least {}", format(self.min))
        } else {
            format!("{} to {}", format(self.min), format(self.max))
        }
    }
}

/// What a key's value is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A text that is not empty.
    Text,
    /// A new name.
    Name,
    Flag,
    /// `true`, and nothing else.
    True,
    Integer(Range),
    /// An integer that is a power of two.
    PowerOfTwo(Range),
    /// A list of integers.
    Integers(Range),
    /// A list of different values of a kind: integers or sizes.
    Several(&'static Kind),
    /// A size with a unit; a multiple of the number.
    Size(Range, u64),
    /// A size with a unit; a power of two.
    SizePowerOfTwo(Range),
    Time(Range),
    Rate(Range),
    /// A rate, or "unlimited".
    RateOrUnlimited(Range),
    /// One word of a set, and what such a word is.
    Word(&'static str, fn() -> Vec<Word>),
    /// A flag, or one word of a set, and what such a word is.
    FlagOrWord(&'static str, fn() -> Vec<Word>),
    /// A list of different words of a set, and what such a word is.
    Words(&'static str, fn() -> Vec<Word>),
    /// The name of a vCPU.
    Vcpu,
    /// Who makes an injection.
    Actor,
    /// A name of `[pages]`.
    Page,
    /// The name of an allocation, new or known.
    Allocation,
    /// An event pattern.
    Pattern,
    /// An event pattern or a list of them.
    Patterns,
    /// Two or more event patterns.
    Chain,
    Table(&'static Table),
    Tables(&'static Table),
    /// One of [`OPERATIONS`].
    Operation,
    /// A list of [`OPERATIONS`].
    Operations,
    /// A monitor command.
    Command,
    /// When the migration starts.
    Start,
    /// Names with their page specifications.
    Pages,
    /// A table for each of some named pages.
    PerPage(&'static Table),
    /// A table for each of some events.
    PerEvent(&'static Table),
}

const fn key(name: &'static str, about: &'static str, kind: Kind) -> Key {
    Key { name, about, required: false, default: "", kind }
}

impl Key {
    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }
}

impl Table {
    /// Returns the key of that name.
    ///
    /// # Panics
    /// When there is none: a reader asks for what the language does not have.
    pub(super) fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{} has no key `{name}`", self.title))
    }

    /// Returns whether a key of that name exists.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

/// The whole file.
pub(super) static ROOT: Table = Table {
    title: "the file",
    keys: &[
        key("about", "What the scenario shows, in a sentence.", Kind::Text).required(),
        key("witness", "Faults that must change the verdict when switched on.", Kind::Words("fault", faults)).default("[]"),
        key("faults", "Faults that are on in this scenario.", Kind::Words("fault", faults)).default("[]"),
        key("guest", "The guest: memory, vCPUs, driver, tasks.", Kind::Table(&GUEST)),
        key("host", "The host: device, dirty log.", Kind::Table(&HOST)),
        key("migration", "The migration's parameters.", Kind::Table(&MIGRATION)),
        key(
            "pages",
            "Names for pages: \"first page of hint 1\", \"page 7 of hint 1\" (from 0), \"pfn 0x800\", \"address 0x800000\", \"last page of A\".",
            Kind::Pages,
        ),
        key("inject", "Something that the scenario does at a chosen moment.", Kind::Tables(&INJECT)),
        key(
            "may",
            "Something that a search may do, at a moment of its choosing or not at all; `run` leaves it out, and orders cannot name it.",
            Kind::Tables(&MAY),
        ),
        key("order", "Events that must come in this order.", Kind::Tables(&ORDER)),
        key("search", "Where a search chooses who moves.", Kind::Table(&SEARCH)),
        key("vary", "Settings that a search may change; without a list, the scenario's own value holds.", Kind::Table(&VARY)),
        key("expect", "What must come out.", Kind::Table(&EXPECT)),
        key("costs", "What moves cost in virtual time.", Kind::Table(&COSTS)),
        key("limits", "When the run is given up.", Kind::Table(&LIMITS)),
        key("found", "Where the scenario came from, if a search wrote it; nothing depends on it.", Kind::Table(&FOUND)),
    ],
};

/// Returns every table of the language, each once, from the file inwards.
pub(super) fn tables() -> Vec<&'static Table> {
    let mut all: Vec<&'static Table> = vec![&ROOT];
    let mut done = 0;
    while done < all.len() {
        for key in all[done].keys {
            let found: &[&'static Table] = match key.kind {
                Kind::Table(table) | Kind::Tables(table) | Kind::PerPage(table) | Kind::PerEvent(table) => &[table],
                Kind::Start => &[&START],
                Kind::Command => &[&COMMAND, &RESIZE_MEM],
                // An injected task's operations are the tasks'.
                Kind::Operations => &OPERATIONS.iter().collect::<Vec<_>>(),
                Kind::Operation
                | Kind::Text
                | Kind::Name
                | Kind::Flag
                | Kind::True
                | Kind::Integer(_)
                | Kind::PowerOfTwo(_)
                | Kind::Integers(_)
                | Kind::Several(_)
                | Kind::Size(..)
                | Kind::SizePowerOfTwo(_)
                | Kind::Time(_)
                | Kind::Rate(_)
                | Kind::RateOrUnlimited(_)
                | Kind::Word(..)
                | Kind::FlagOrWord(..)
                | Kind::Words(..)
                | Kind::Vcpu
                | Kind::Actor
                | Kind::Page
                | Kind::Allocation
                | Kind::Pattern
                | Kind::Patterns
                | Kind::Chain
                | Kind::Pages => &[],
            };
            // Two tables may hold the same one.
            for table in found {
                if !all.iter().any(|other| std::ptr::eq(*other, *table)) {
                    all.push(table);
                }
            }
        }
        done += 1;
    }
    all
}

#[cfg(test)]
mod tests;
