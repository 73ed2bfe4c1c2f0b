//! Reading a TOML tree with places: every problem is noted with its span, and reading goes on, so that one pass finds them all.
//!
//! Types and ranges come from the [`vocabulary`](super::vocabulary). A getter returns `None` when the key is absent, and also when its value
//! is bad: the problem is noted then, and the caller's default keeps the reading going.

use std::ops::Range as Span;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, de::DeString};

use super::contradiction::Edge;
use super::diagnostic::{Diagnostic, nearest};
use super::names::Names;
use super::units::{self, UnitError};
use super::vocabulary::{self, Kind, Range, Table, Word};

/// A value of the file with its place.
pub(super) type Value<'d> = Spanned<DeValue<'d>>;

/// What is said where a key is missing: pointless after a syntax error, which may have swallowed it.
pub(super) const MISSING: &str = "it is missing";

/// What reading a file needs and gathers.
#[derive(Debug)]
pub(super) struct Reader<'d> {
    /// The file.
    pub(super) text: &'d str,
    /// What is wrong so far.
    pub(super) found: Vec<Diagnostic>,
    /// Names that the file defines.
    pub(super) names: Names<'d>,
    /// The guest's vCPUs, once known.
    pub(super) vcpus: u8,
    /// The guest's memory, once known.
    pub(super) ram_bytes: u64,
    /// The devices, once known.
    pub(super) devices: super::model::Devices,
    /// Pages of virtio-mem, once known and if there are any.
    pub(super) virtio_mem_pages: Option<u64>,
    /// The last of the vCPUs that are spoken of, and where, once that is known.
    pub(super) last_vcpu: Option<(u8, Span<usize>)>,
    /// Orders asked for so far.
    pub(super) edges: Vec<Edge>,
}

/// A table of the file, checked to hold known keys only.
#[derive(Debug)]
pub(super) struct Fields<'d> {
    /// What the language says of it.
    pub(super) table: &'static Table,
    /// Its header, or the inline table.
    pub(super) span: Span<usize>,
    entries: &'d DeTable<'d>,
}

impl<'d> Fields<'d> {
    /// Returns the value of a key of the language.
    pub(super) fn get(&self, key: &str) -> Option<&'d Value<'d>> {
        assert!(self.table.has(key), "{} has no key `{key}`", self.table.title);
        self.entries.get(key)
    }

    /// Returns the place of a key's value, or else the table's.
    pub(super) fn span_of(&self, key: &str) -> Span<usize> {
        self.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Returns the place of a key that stands in the file.
    pub(super) fn key_span(&self, key: &str) -> Option<Span<usize>> {
        self.entries.get_key_value(key).map(|(key, _)| key.span())
    }
}

/// Returns what a value is, with its article, as messages say it.
pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Returns the number that a TOML integer writes; `None` when it is negative or beyond 64 bits.
pub(super) fn integer_of(value: &DeValue<'_>) -> Option<u64> {
    value.as_integer().and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok())
}

/// Returns the keys of a table in the file's order: the TOML tree sorts them by name.
pub(super) fn in_order<'d>(entries: &'d DeTable<'d>) -> Vec<(&'d Spanned<DeString<'d>>, &'d Value<'d>)> {
    let mut list: Vec<_> = entries.iter().collect();
    list.sort_by_key(|(key, _)| key.span().start);
    list
}

impl<'d> Reader<'d> {
    /// Notes a problem.
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Notes that a value has the wrong type.
    pub(super) fn wrong_type(&mut self, value: &Value<'_>, expected: &str) {
        let message = format!("expected {expected}, found {}", type_of(value.get_ref()));
        self.report(Diagnostic::error(value.span(), message).label(format!("expected {expected}")));
    }

    /// Returns the whole file's fields.
    pub(super) fn root(&mut self, document: &'d DeTable<'d>) -> Fields<'d> {
        self.checked(&vocabulary::ROOT, document, 0..0)
    }

    /// Returns a table's fields after noting keys that it should not have, and keys that it lacks.
    pub(super) fn fields(&mut self, table: &'static Table, value: &'d Value<'d>) -> Option<Fields<'d>> {
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(value, "a table");
            return None;
        };
        Some(self.checked(table, entries, value.span()))
    }

    fn checked(&mut self, table: &'static Table, entries: &'d DeTable<'d>, span: Span<usize>) -> Fields<'d> {
        for (key, _) in in_order(entries) {
            let name: &str = key.get_ref();
            if !table.has(name) {
                self.unknown_key(table, name, key.span());
            }
        }
        for key in table.keys.iter().filter(|key| key.required && !entries.contains_key(key.name)) {
            let message = format!("{} needs `{}`", table.title, key.name);
            self.report(Diagnostic::error(span.clone(), message).label(MISSING).note(format!("`{}`: {}", key.name, key.about)));
        }
        Fields { table, span, entries }
    }

    fn unknown_key(&mut self, table: &'static Table, name: &str, span: Span<usize>) {
        let suggestion = nearest(name, table.keys.iter().map(|key| key.name));
        let mut diagnostic =
            Diagnostic::error(span, format!("unknown key `{name}` in {}", table.title)).label("no such key").suggest(suggestion);
        if suggestion.is_none() {
            let homes: Vec<_> = vocabulary::tables().into_iter().filter(|other| other.has(name)).map(|other| other.title).collect();
            diagnostic = match homes.as_slice() {
                [] => {
                    let keys: Vec<_> = table.keys.iter().map(|key| format!("`{}`", key.name)).collect();
                    diagnostic.note(format!("{} has {}", table.title, keys.join(", ")))
                }
                homes => diagnostic.note(format!("`{name}` belongs to {}", homes.join(" or "))),
            };
        }
        self.report(diagnostic);
    }

    /// Returns the text of a value that must be a string.
    pub(super) fn string(&mut self, value: &'d Value<'d>) -> Option<&'d str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, "a string");
        }
        text
    }

    /// Returns the elements of a value that must be an array.
    pub(super) fn list(&mut self, value: &'d Value<'d>) -> Vec<&'d Value<'d>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(value, "an array");
            return Vec::new();
        };
        array.iter().collect()
    }

    /// Returns the place of a string value's content, without its quotes.
    pub(super) fn inner(&self, value: &Value<'_>) -> Span<usize> {
        self.part(value, 0..value.get_ref().as_str().map_or(0, str::len))
    }

    /// Returns the place of a part of a string value: `part` counts bytes of the string's content. Escapes make it the whole value.
    pub(super) fn part(&self, value: &Value<'_>, part: Span<usize>) -> Span<usize> {
        let span = value.span();
        let Some(content) = value.get_ref().as_str() else { return span };
        let plain = self.text.get(span.start + 1..span.end.saturating_sub(1)).is_some_and(|inner| inner == content);
        if plain { span.start + 1 + part.start..span.start + 1 + part.end } else { span }
    }

    /// Returns a text that is not empty.
    pub(super) fn text(&mut self, fields: &Fields<'d>, key: &str) -> Option<String> {
        let value = fields.get(key)?;
        let text = self.string(value)?;
        if text.trim().is_empty() {
            self.report(Diagnostic::error(value.span(), format!("`{key}` is empty")).label(fields.table.key(key).about));
            return None;
        }
        Some(text.to_owned())
    }

    /// Returns a boolean.
    pub(super) fn flag(&mut self, fields: &Fields<'d>, key: &str) -> Option<bool> {
        let value = fields.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(value, "a boolean");
        }
        flag
    }

    /// Checks a key that is there or not, but never `false`.
    pub(super) fn only_true(&mut self, fields: &Fields<'d>, key: &str) {
        if self.flag(fields, key) == Some(false) {
            let message = format!("`{key}` is `true` or left out");
            self.report(Diagnostic::error(fields.span_of(key), message).label("`false` means nothing here").suggest(Some("true")));
        }
    }

    /// Returns an integer of a key's range.
    pub(super) fn integer(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        self.integer_of_kind(fields.get(key)?, key, &fields.table.key(key).kind)
    }

    /// Returns an integer of a kind.
    fn integer_of_kind(&mut self, value: &'d Value<'d>, key: &str, kind: &Kind) -> Option<u64> {
        let (Kind::Integer(range) | Kind::PowerOfTwo(range)) = kind else { unreachable!("`{key}` is no integer") };
        let number = self.integer_in(value, key, *range)?;
        if matches!(kind, Kind::PowerOfTwo(_)) && !number.is_power_of_two() {
            let message = format!("`{key}` is a power of two, {number} is none");
            let near = number.next_power_of_two().min(range.max);
            self.report(Diagnostic::error(value.span(), message).label("not a power of two").suggest(Some(near.to_string())));
            return None;
        }
        Some(number)
    }

    /// Returns an integer of a range.
    pub(super) fn integer_in(&mut self, value: &'d Value<'d>, key: &str, range: Range) -> Option<u64> {
        if !value.get_ref().is_integer() {
            self.wrong_type(value, "an integer");
            return None;
        }
        match integer_of(value.get_ref()) {
            Some(number) if (range.min..=range.max).contains(&number) => Some(number),
            _ => {
                let message = format!("`{key}` is out of range");
                self.report(Diagnostic::error(value.span(), message).label(range.describe(|number| number.to_string())).note(range.why));
                None
            }
        }
    }

    /// Returns a size in bytes.
    pub(super) fn size(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        self.size_of_kind(fields.get(key)?, key, &fields.table.key(key).kind)
    }

    /// Returns a size of a kind in bytes.
    fn size_of_kind(&mut self, value: &'d Value<'d>, key: &str, kind: &Kind) -> Option<u64> {
        let (Kind::Size(range, _) | Kind::SizePowerOfTwo(range)) = kind else { unreachable!("`{key}` is no size") };
        let bytes = self.quantity(value, key, units::SIZES, *range)?;
        let near = if let Kind::Size(_, multiple) = kind { bytes.next_multiple_of(*multiple) } else { bytes.next_power_of_two() };
        if near == bytes {
            return Some(bytes);
        }
        let (message, label) = if let Kind::Size(_, multiple) = kind {
            (format!("`{key}` is no multiple of {}", units::format(*multiple, units::SIZES)), "memory comes in pages")
        } else {
            (format!("`{key}` is no power of two"), "not a power of two")
        };
        let near = units::format(near.min(range.max), units::SIZES);
        self.report(Diagnostic::error(self.inner(value), message).label(label).suggest(Some(near)));
        None
    }

    /// Returns the different integers, or sizes in bytes, of a key's list.
    pub(super) fn several(&mut self, fields: &Fields<'d>, key: &str) -> Vec<u64> {
        let Some(value) = fields.get(key) else { return Vec::new() };
        let Kind::Several(kind) = fields.table.key(key).kind else { unreachable!("`{key}` is no list of values") };
        let mut seen: Vec<(u64, Span<usize>)> = Vec::new();
        for element in self.list(value) {
            let sizes = matches!(kind, Kind::Size(..) | Kind::SizePowerOfTwo(_));
            let number = if sizes { self.size_of_kind(element, key, kind) } else { self.integer_of_kind(element, key, kind) };
            let Some(number) = number else { continue };
            match seen.iter().find(|(other, _)| *other == number).cloned() {
                Some((_, first)) => {
                    let text = self.text[element.span()].trim_matches(['"', '\'']);
                    self.stands_twice(text, key, element.span(), first);
                }
                None => seen.push((number, element.span())),
            }
        }
        seen.into_iter().map(|(number, _)| number).collect()
    }

    /// Notes that a list of different values holds one twice.
    fn stands_twice(&mut self, text: &str, key: &str, span: Span<usize>, first: Span<usize>) {
        let message = format!("`{text}` stands twice in `{key}`");
        self.report(Diagnostic::error(span, message).label("again").related(first, "first here"));
    }

    /// Returns a time in nanoseconds.
    pub(super) fn time(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        let value = fields.get(key)?;
        let Kind::Time(range) = fields.table.key(key).kind else { unreachable!("`{key}` is no time") };
        self.quantity(value, key, units::TIMES, range)
    }

    /// Returns a rate in bytes per second; 0 for "unlimited".
    pub(super) fn rate(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        let value = fields.get(key)?;
        let kind = &fields.table.key(key).kind;
        let (Kind::Rate(range) | Kind::RateOrUnlimited(range)) = kind else { unreachable!("`{key}` is no rate") };
        if matches!(kind, Kind::RateOrUnlimited(_)) && value.get_ref().as_str() == Some("unlimited") {
            return Some(0);
        }
        self.quantity(value, key, units::RATES, *range)
    }

    /// Returns a number with a unit, in the smallest unit.
    pub(super) fn quantity(&mut self, value: &'d Value<'d>, key: &str, units: &[(&str, u64)], range: Range) -> Option<u64> {
        let listed = units::names(units);
        if let DeValue::Integer(number) = value.get_ref() {
            let diagnostic = Diagnostic::error(value.span(), format!("`{key}` needs a unit")).label("a number alone");
            self.report(diagnostic.note(format!("units: {listed}")).suggest(Some(format!("\"{number} {}\"", middle(units)))));
            return None;
        }
        let text = self.string(value)?;
        let whole = self.inner(value);
        let diagnostic = match units::parse(text, units) {
            Ok(number) if (range.min..=range.max).contains(&number) => return Some(number),
            Ok(_) | Err(UnitError::TooLarge) => {
                let label = range.describe(|number| units::format(number, units));
                Diagnostic::error(whole, format!("`{key}` is out of range")).label(label).note(range.why)
            }
            Err(UnitError::NoNumber) => Diagnostic::error(whole, format!("`{key}` is no number with a unit"))
                .label("digits, then a unit")
                .note(format!("units: {listed}")),
            Err(UnitError::NotInteger) => Diagnostic::error(whole, format!("`{key}` is no integer"))
                .label("no fractions and no separators")
                .note("take a smaller unit: 1536 MiB, not 1.5 GiB"),
            Err(UnitError::NoUnit) => Diagnostic::error(whole, format!("`{key}` needs a unit"))
                .label("a number alone")
                .note(format!("units: {listed}"))
                .suggest(Some(format!("{} {}", text.trim(), middle(units)))),
            Err(UnitError::UnknownUnit { offset, word }) => {
                Diagnostic::error(self.part(value, offset..text.len()), format!("unknown unit `{word}`"))
                    .label("no such unit")
                    .note(format!("units: {listed}"))
                    .suggest(nearest(&word, units.iter().map(|(name, _)| *name)))
            }
        };
        self.report(diagnostic);
        None
    }

    /// Returns the place in a key's set of words of the word that stands there.
    pub(super) fn word<T: Copy>(&mut self, fields: &Fields<'d>, key: &str, all: &[T]) -> Option<T> {
        let value = fields.get(key)?;
        let (Kind::Word(noun, words) | Kind::FlagOrWord(noun, words)) = fields.table.key(key).kind else {
            unreachable!("`{key}` is no word")
        };
        self.word_of(value, noun, &words()).map(|index| all[index])
    }

    /// Returns the different words of a key's list, as in [`Reader::word`].
    pub(super) fn words<T: Copy>(&mut self, fields: &Fields<'d>, key: &str, all: &[T]) -> Option<Vec<T>> {
        let value = fields.get(key)?;
        let Kind::Words(noun, words) = fields.table.key(key).kind else { unreachable!("`{key}` is no list of words") };
        let words = words();
        let mut seen: Vec<(usize, Span<usize>)> = Vec::new();
        for element in self.list(value) {
            let Some(index) = self.word_of(element, noun, &words) else { continue };
            match seen.iter().find(|(other, _)| *other == index).cloned() {
                Some((_, first)) => self.stands_twice(words[index].0, key, element.span(), first),
                None => seen.push((index, element.span())),
            }
        }
        Some(seen.into_iter().map(|(index, _)| all[index]).collect())
    }

    fn word_of(&mut self, value: &'d Value<'d>, noun: &str, words: &[Word]) -> Option<usize> {
        let given = self.string(value)?;
        let index = words.iter().position(|(word, _)| *word == given);
        if index.is_none() {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.unknown(self.inner(value), noun, given, &names);
        }
        index
    }

    /// Notes that a word is none of a closed set.
    pub(super) fn unknown(&mut self, span: Span<usize>, what: &str, given: &str, names: &[&str]) {
        let suggestion = nearest(given, names.iter().copied());
        let mut diagnostic = Diagnostic::error(span, format!("unknown {what} `{given}`")).label("not known").suggest(suggestion);
        // A long list helps nobody; the schema and the manual have it.
        if names.is_empty() {
            diagnostic = diagnostic.note("the file defines none");
        } else if names.len() <= 12 {
            diagnostic = diagnostic.note(format!("known: {}", names.join(", ")));
        }
        self.report(diagnostic);
    }
}

/// Returns the unit to suggest for a bare number.
fn middle<'u>(units: &[(&'u str, u64)]) -> &'u str {
    units[units.len() / 2].0
}
