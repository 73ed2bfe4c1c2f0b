//! What is wrong with a scenario file, and where: rendered for people as rustc does, or handed over as plain records.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is no scenario.
    Error,
    /// The file is a scenario, but hardly the one that was meant.
    Warning,
}

impl Severity {
    /// Returns the word that stands before the message.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One problem of a file. Spans are byte offsets into its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
    /// What stands under the span.
    pub label: String,
    /// Other places that have to do with it.
    pub related: Vec<(Range<usize>, String)>,
    /// More to know: ranges, reasons, lists of what is accepted.
    pub notes: Vec<String>,
    /// What could stand at the span instead, letter for letter.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// Returns an error at a place.
    pub(super) fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        let (label, suggestion) = (String::new(), None);
        Self { severity: Severity::Error, message: message.into(), span, label, related: Vec::new(), notes: Vec::new(), suggestion }
    }

    /// Returns a warning at a place.
    pub(super) fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// Adds what stands under the span.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds another place.
    pub(super) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Adds a line below.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds what could stand there instead, if anything comes near.
    pub(super) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

/// All problems of a file, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    path: String,
    text: String,
    list: Vec<Diagnostic>,
}

/// A problem as plain values, for tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The file, as it was named to [`super::parse`].
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Line of the span's end.
    pub end_line: usize,
    /// Column behind the span's last character.
    pub end_column: usize,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What could stand there instead.
    pub suggestion: Option<String>,
}

impl Record {
    /// Returns the record as a workflow command of GitHub Actions, which shows it beside the line.
    pub fn github(&self) -> String {
        let property =
            |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace(':', "%3A").replace(',', "%2C");
        let hint = self.suggestion.as_ref().map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
        let data = format!("{}{hint}", self.message).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let Record { line, column, end_line, end_column, .. } = self;
        let place = format!("file={},line={line},endLine={end_line},col={column},endColumn={end_column}", property(&self.file));
        format!("::{} {place}::{data}", self.severity.name())
    }
}

impl Diagnostics {
    /// Returns the problems of a text, sorted by place, with every span brought inside the text.
    pub(super) fn new(path: &str, text: &str, mut list: Vec<Diagnostic>) -> Self {
        for diagnostic in &mut list {
            diagnostic.span = inside(text, &diagnostic.span);
            for (span, _) in &mut diagnostic.related {
                *span = inside(text, span);
            }
        }
        list.sort_by(|a, b| (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message)));
        list.dedup();
        Self { path: path.to_owned(), text: text.to_owned(), list }
    }

    /// Returns the problems.
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Returns whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns whether one of the problems keeps the file from being a scenario.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Returns all problems as text, a blank line between two; with terminal colours if asked.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.list {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push('\n');
        }
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> annotate_snippets::Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        assert!(!diagnostic.label.is_empty(), "a span says what it shows: {}", diagnostic.message);
        let primary = AnnotationKind::Primary.span(diagnostic.span.clone()).label(diagnostic.label.as_str());
        let mut snippet = Snippet::source(self.text.as_str()).path(self.path.as_str()).annotation(primary);
        for (span, label) in &diagnostic.related {
            snippet = snippet.annotation(AnnotationKind::Context.span(span.clone()).label(label.as_str()));
        }
        let mut group = level.primary_title(diagnostic.message.as_str()).element(snippet);
        for note in &diagnostic.notes {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        if let Some(suggestion) = &diagnostic.suggestion {
            group = group.element(Level::HELP.message(format!("did you mean `{suggestion}`?")));
        }
        group
    }

    /// Returns all problems as plain values.
    pub fn records(&self) -> Vec<Record> {
        let record = |diagnostic: &Diagnostic| {
            let (line, column) = self.place(diagnostic.span.start);
            let (end_line, end_column) = self.place(diagnostic.span.end);
            let Diagnostic { severity, message, suggestion, .. } = diagnostic.clone();
            Record { file: self.path.clone(), line, column, end_line, end_column, severity, message, suggestion }
        };
        self.list.iter().map(record).collect()
    }

    /// Returns line and column (in characters), both from 1, of a byte offset.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Returns the span with its ends inside the text and between characters: the TOML parser's own spans may point at the end of the input.
fn inside(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |offset: usize| text.floor_char_boundary(offset.min(text.len()));
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// Returns the candidate that comes nearest to a word, if one is near enough to be meant: few letters apart, or begun by the word. Candidates
/// that differ in their numbers only are other things, not other spellings.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let without_digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    let given = plain(word);
    let allowed = match given.chars().count() {
        0 | 1 => 0,
        length => (length / 3).max(1),
    };
    let distance = |candidate: &str| {
        let begun = given.len() >= 3 && plain(candidate).starts_with(&given);
        if begun { 1 } else { strsim::damerau_levenshtein(&given, &plain(candidate)) }
    };
    candidates
        .into_iter()
        .filter(|candidate| without_digits(word) != without_digits(candidate))
        .map(|candidate| (distance(candidate), !plain(candidate).starts_with(given.chars().next().unwrap_or_default()), candidate))
        .filter(|(distance, _, _)| *distance <= allowed)
        .min()
        .map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_candidate_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("hint.aply", ["hint.apply", "hint.pop"]), Some("hint.apply"));
        assert_eq!(nearest("Lost_Page", ["lost-page", "pass"]), Some("lost-page"));
        assert_eq!(nearest("zebra", ["hint.apply", "hint.pop"]), None);
        assert_eq!(nearest("MB", ["B", "KiB", "MiB"]), Some("MiB"), "among equals, what begins alike");
        assert_eq!(nearest("stats", ["stats-vq", "page-poison"]), Some("stats-vq"), "a beginning");
        assert_eq!(nearest("vcpu2", ["vcpu0", "vcpu1"]), None, "another vCPU, not another spelling");
        assert_eq!(nearest("Q", ["P"]), None, "another name, not another spelling");
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let text = "a = \"é\" x";
        let diagnostics = Diagnostics::new("f", text, vec![Diagnostic::error(9..10, "bad").label("here")]);
        let record = &diagnostics.records()[0];
        assert_eq!((record.line, record.column, record.end_column), (1, 9, 10));
    }

    #[test]
    fn a_span_behind_the_end_is_brought_inside() {
        assert_eq!(inside("é", &(1..9)), 0..2);
        assert_eq!(inside("", &(3..4)), 0..0);
    }

    #[test]
    fn github_commands_escape_what_would_end_them() {
        let diagnostics = Diagnostics::new("a,b:c", "x", vec![Diagnostic::error(0..1, "100%\nmore").suggest(Some("y"))]);
        let line = diagnostics.records()[0].github();
        assert_eq!(line, "::error file=a%2Cb%3Ac,line=1,endLine=1,col=1,endColumn=2::100%25%0Amore; did you mean `y`?");
    }
}
