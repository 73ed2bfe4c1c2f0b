//! Names that a scenario file defines: pages, allocations, injections. Gathered before anything is read, since a name may be used above its
//! definition; what is malformed is skipped here and noted by the readers.

use std::collections::BTreeMap;
use std::ops::Range as Span;

use toml::de::DeTable;

use super::diagnostic::Diagnostic;
use super::read::{Reader, Value, in_order, integer_of};

/// An allocation that the file's operations make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Allocated {
    /// Largest order that it is allocated with, if `alloc` makes it.
    pub(super) order: Option<u64>,
    /// Whether `fill` makes it.
    pub(super) filled: bool,
    /// Where it is first made.
    pub(super) span: Span<usize>,
}

/// All names of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names<'d> {
    /// Named pages with their places.
    pub(super) pages: BTreeMap<&'d str, Span<usize>>,
    /// Allocations.
    pub(super) allocations: BTreeMap<&'d str, Allocated>,
    /// Name of each injection that has one, in order.
    pub(super) injections: Vec<Option<(&'d str, Span<usize>)>>,
    /// Names of what a search may do, with their places.
    pub(super) may: Vec<(&'d str, Span<usize>)>,
}

impl<'d> Names<'d> {
    /// Gathers the names of a file.
    pub(super) fn of(document: &'d DeTable<'d>) -> Self {
        let mut names = Names::default();
        if let Some(pages) = document.get("pages").and_then(|value| value.get_ref().as_table()) {
            names.pages = pages.iter().map(|(key, _)| (key.get_ref().as_ref(), key.span())).collect();
        }
        let guest = document.get("guest").and_then(|value| value.get_ref().as_table());
        for task in guest.map(|guest| tables(guest.get("task"))).unwrap_or_default() {
            tables(task.get("do")).into_iter().for_each(|operation| names.add_operation(operation));
        }
        for injection in tables_or_blanks(document.get("inject")) {
            let name = injection.and_then(|table| names.add_injection(table));
            names.injections.push(name);
        }
        for injection in tables(document.get("may")) {
            let name = names.add_injection(injection);
            names.may.extend(name);
        }
        names
    }

    /// Gathers what an injection allocates; returns its name.
    fn add_injection(&mut self, table: &'d DeTable<'d>) -> Option<(&'d str, Span<usize>)> {
        if let Some(operation) = table.get("task").and_then(|value| value.get_ref().as_table()) {
            self.add_operation(operation);
        }
        table.get("name").and_then(|value| value.get_ref().as_str().map(|name| (name, value.span())))
    }

    fn add_operation(&mut self, operation: &'d DeTable<'d>) {
        for (verb, filled) in [("alloc", false), ("fill", true)] {
            let Some(value) = operation.get(verb) else { continue };
            let Some(name) = value.get_ref().as_str() else { continue };
            let new = Allocated { order: None, filled: false, span: value.span() };
            let entry = self.allocations.entry(name).or_insert(new);
            entry.filled |= filled;
            if !filled {
                let order = operation.get("order").and_then(|order| integer_of(order.get_ref())).unwrap_or(0);
                entry.order = entry.order.max(Some(order));
            }
        }
    }

    /// Returns the index of the injection of that name.
    pub(super) fn injection(&self, name: &str) -> Option<usize> {
        self.injections.iter().position(|injection| injection.as_ref().is_some_and(|(given, _)| *given == name))
    }
}

/// Returns the tables of an array, skipping what is none.
fn tables<'d>(value: Option<&'d Value<'d>>) -> Vec<&'d DeTable<'d>> {
    tables_or_blanks(value).into_iter().flatten().collect()
}

/// Returns the elements of an array, `None` for each that is no table, so that indices stay.
fn tables_or_blanks<'d>(value: Option<&'d Value<'d>>) -> Vec<Option<&'d DeTable<'d>>> {
    let array = value.and_then(|value| value.get_ref().as_array());
    array.map(|array| array.iter().map(|element| element.get_ref().as_table()).collect()).unwrap_or_default()
}

/// Returns whether a text may be a name: a letter or underscore, then letters, digits, underscores and hyphens.
pub(super) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

impl<'d> Reader<'d> {
    /// Returns a new name, checked for its form.
    pub(super) fn new_name(&mut self, text: &'d str, span: Span<usize>, what: &str) -> Option<String> {
        if is_name(text) {
            return Some(text.to_owned());
        }
        let diagnostic = Diagnostic::error(span, format!("`{text}` is no name for {what}")).label("not a name");
        self.report(diagnostic.note("a name is a letter, then letters, digits, `_` and `-`"));
        None
    }

    /// Returns a page's name that must be defined.
    pub(super) fn known_page(&mut self, name: &str, span: Span<usize>) -> Option<String> {
        if self.names.pages.contains_key(name) {
            return Some(name.to_owned());
        }
        let names: Vec<&str> = self.names.pages.keys().copied().collect();
        self.unknown(span, "page", name, &names);
        None
    }

    /// Notes names that the file may not give: injections called alike, or like an event; and more allocations than the guest can hold.
    pub(super) fn check_names(&mut self, document: &'d DeTable<'d>) {
        let mut first: BTreeMap<&str, Span<usize>> = BTreeMap::new();
        for (name, span) in self.names.injections.clone().into_iter().flatten().chain(self.names.may.clone()) {
            match first.get(name) {
                Some(earlier) => {
                    let message = format!("two injections are called `{name}`");
                    self.report(Diagnostic::error(span, message).label("again").related(earlier.clone(), "first here"));
                }
                None => {
                    first.insert(name, span);
                }
            }
        }
        let mut allocations: Vec<_> = self.names.allocations.values().map(|allocated| allocated.span.clone()).collect();
        allocations.sort_by_key(|span| span.start);
        if let Some(span) = allocations.get(wire::task::NAMES) {
            let message = format!("{} allocations have names", allocations.len());
            let label = format!("the guest's table holds {}", wire::task::NAMES);
            self.report(Diagnostic::error(span.clone(), message).label(label));
        }
        let pages = document.get("pages").and_then(|value| value.get_ref().as_table());
        for (key, _) in pages.map(|pages| in_order(pages)).unwrap_or_default() {
            self.new_name(key.get_ref(), key.span(), "a page");
        }
    }
}
