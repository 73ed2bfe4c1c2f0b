//! Scenario files: what a user writes, checked into plain values.
//!
//! [`parse`] reads a file into a [`model::Scenario`], or says everything that is wrong with it at once ([`Diagnostics`]); [`lint`] adds what
//! is no error but hardly meant. [`to_toml`] writes a scenario back, [`schema`] describes the language to editors, [`template`] starts a file.
//! What keys there are, with their types and ranges, stands in one place: `vocabulary/`.

mod contradiction;
mod diagnostic;
mod lint;
pub mod model;
mod names;
mod pattern;
mod read;
mod read_blocks;
mod read_guest;
mod read_host;
mod read_inject;
mod read_mem;
mod read_search;
mod schema;
mod search;
mod template;
mod units;
mod vocabulary;
mod words;
mod write;

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;

pub use diagnostic::{Diagnostic, Diagnostics, Record, Severity};
pub use model::Scenario;
pub use schema::schema;
pub use template::template;
pub use units::size;
pub use write::{injection_text, to_toml, to_toml_with_comment};

use std::ops::Range as Span;

use host::fault::Fault;
use toml::de::DeTable;

use read::Reader;

/// Reads a scenario file's text; `path` is what messages call the file.
///
/// # Errors
/// All problems of the file, when there are any that keep it from being a scenario.
pub fn parse(path: &str, text: &str) -> Result<Scenario, Diagnostics> {
    let (scenario, problems) = read(text);
    let diagnostics = Diagnostics::new(path, text, problems);
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok(scenario) }
}

/// Returns everything that can be said against a scenario file without running it: its errors, or else what is hardly meant.
pub fn lint(path: &str, text: &str) -> Diagnostics {
    let (scenario, mut problems) = read(text);
    if problems.is_empty() {
        let (document, _) = DeTable::parse_recoverable(text);
        problems = lint::warnings(&scenario, document.get_ref());
    }
    Diagnostics::new(path, text, problems)
}

/// Reads as much of a file as can be read. The scenario means nothing when there are problems.
fn read(text: &str) -> (Scenario, Vec<Diagnostic>) {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let document = document.get_ref();
    let default = model::Guest::default();
    let names = names::Names::of(document);
    let mut reader = Reader {
        text,
        found: Vec::new(),
        names,
        vcpus: default.vcpus,
        ram_bytes: default.ram_bytes,
        devices: model::Devices::default(),
        virtio_mem_pages: None,
        last_vcpu: None,
        edges: Vec::new(),
    };
    let root = reader.root(document);
    reader.check_names(document);
    let about = reader.text(&root, "about").unwrap_or_default();
    let witness = reader.words(&root, "witness", Fault::ALL).unwrap_or_default();
    let faults = reader.words(&root, "faults", Fault::ALL).unwrap_or_default();
    let guest = reader.guest(&root);
    let host = reader.host(&root, guest.driver);
    let pages = reader.pages(&root);
    let migration = reader.migration(&root);
    if migration.limit.on {
        reader.check_limit(&root, host.dirty_log, &migration.throttle);
    }
    let injections = reader.injections(&root, &pages);
    let may = reader.may(&root, &pages);
    let orders = reader.orders(&root);
    let search = reader.search(&root);
    let vary = reader.vary(&root, &host);
    let expect = reader.expect(&root);
    let costs = reader.costs(&root);
    let limits = reader.limits(&root);
    let found = reader.provenance(&root);
    let contradictions = contradiction::contradictions(&reader.edges);
    reader.found.extend(contradictions);
    let scenario = Scenario {
        about,
        witness,
        faults,
        guest,
        host,
        migration,
        pages,
        injections,
        may,
        orders,
        search,
        vary,
        expect,
        costs,
        limits,
        found,
    };
    (scenario, with_syntax(text, syntax_errors, reader.found))
}

/// Joins the TOML parser's errors with the reader's. Where the syntax is broken the tree holds guesses: what the reader says of the same line,
/// or of keys that it misses, is left out then.
fn with_syntax(text: &str, errors: Vec<toml::de::Error>, found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if errors.is_empty() {
        return found;
    }
    let line_of = |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
    let spans: Vec<Span<usize>> = errors.iter().map(|error| error.span().unwrap_or(text.len()..text.len())).collect();
    let broken: Vec<usize> = spans.iter().map(|span| line_of(span.start)).collect();
    let told = errors.iter().zip(spans).map(|(error, span)| {
        let message = error.message().lines().next().unwrap_or("bad TOML");
        Diagnostic::error(span, format!("bad TOML: {message}")).label("here")
    });
    let kept =
        found.into_iter().filter(|diagnostic| !broken.contains(&line_of(diagnostic.span.start)) && diagnostic.label != read::MISSING);
    told.chain(kept).collect()
}
