//! Reads what is left to a search: `[[may]]`, `[search]`, `[vary]`, and where a found scenario came from: `[found]`.

use std::collections::BTreeMap;
use std::ops::Range as Span;

use host::fault::Fault;
use wire::platform::PAGE_SIZE;

use super::contradiction::{self, Edge};
use super::diagnostic::Diagnostic;
use super::model::{DirtyLog, Driver, Found, Grain, Host, Injection, PageName, PageSpec, Pattern, Profile, Search, Vary};
use super::read::{Fields, Reader};
use super::read_guest::table_of;

impl<'d> Reader<'d> {
    /// Reads `[[may]]`; needs the pages, to know where a write ends.
    pub(super) fn may(&mut self, root: &Fields<'d>, pages: &BTreeMap<PageName, PageSpec>) -> Vec<Injection> {
        let Some(value) = root.get("may") else { return Vec::new() };
        let table = table_of(root, "may");
        let mut may = Vec::new();
        for element in self.list(value) {
            let Some(fields) = self.fields(table, element) else { continue };
            let (injection, after, before) = self.injection(&fields, pages);
            self.check_that_it_may(&after, &before);
            may.extend(injection);
        }
        may
    }

    /// Notes an injection behind what it has to precede. It binds nobody else, for it need not happen: so each is looked at for itself.
    fn check_that_it_may(&mut self, after: &[(Pattern, Span<usize>)], before: &[(Pattern, Span<usize>)]) {
        let pairs = after.iter().flat_map(|(from, _)| before.iter().map(move |(to, span)| (from, to, span)));
        let edges: Vec<Edge> = pairs.map(|(from, to, span)| Edge { from: from.clone(), to: to.clone(), span: span.clone() }).collect();
        let found = contradiction::contradictions(&edges);
        self.found.extend(found.into_iter().map(|diagnostic| diagnostic.note("so this can never be done")));
    }

    /// Reads `[search]`.
    pub(super) fn search(&mut self, root: &Fields<'d>) -> Search {
        let Some(fields) = root.get("search").and_then(|value| self.fields(table_of(root, "search"), value)) else {
            return Search::default();
        };
        let from = fields.get("from").and_then(|value| self.pattern(value));
        let until = fields.get("until").and_then(|value| self.pattern(value));
        let grain = self.word(&fields, "grain", Grain::ALL).unwrap_or_default();
        let check_mm = self.integer(&fields, "check_mm").unwrap_or_default();
        let search = Search { from, until, grain, check_mm };
        let Some(until) = &search.until else { return search };
        let start = search.start();
        let span = fields.span_of("until");
        if *until == start {
            let diagnostic = Diagnostic::error(span, format!("the search ends where it begins, at `{start}`")).label("no choice is left");
            self.report(match fields.get("from") {
                Some(from) => diagnostic.related(from.span(), "it begins here"),
                None => diagnostic.note("without `from`, it begins at `guest.ready`"),
            });
        } else {
            self.edges.push(Edge { from: start, to: until.clone(), span });
        }
        search
    }

    /// Reads `[vary]`; needs all else that names vCPUs, and the host.
    pub(super) fn vary(&mut self, root: &Fields<'d>, host: &Host) -> Vary {
        let Some(fields) = root.get("vary").and_then(|value| self.fields(table_of(root, "vary"), value)) else { return Vary::default() };
        let small = |numbers: Vec<u64>| numbers.into_iter().map(|number| u16::try_from(number).expect("the range ends at 1024")).collect();
        let shift = |bytes: u64| u8::try_from((bytes / PAGE_SIZE).ilog2()).expect("a logarithm of 64 bits");
        let vary = Vary {
            profile: self.words(&fields, "profile", Profile::ALL).unwrap_or_default(),
            dirty_log: self.words(&fields, "dirty_log", DirtyLog::ALL).unwrap_or_default(),
            chunk_shift: self.several(&fields, "chunk").into_iter().map(shift).collect(),
            hint_queue_size: small(self.several(&fields, "hint_queue_size")),
            queue_size: small(self.several(&fields, "queue_size")),
            vcpus: self.several(&fields, "vcpus").into_iter().map(|vcpus| u8::try_from(vcpus).expect("the range ends below")).collect(),
            driver: self.words(&fields, "driver", Driver::ALL).unwrap_or_default(),
            faults: self.words(&fields, "faults", Fault::ALL).unwrap_or_default(),
        };
        self.check_vcpus(&fields, &vary.vcpus);
        if !vary.chunk_shift.is_empty() && !vary.dirty_logs(host).contains(&DirtyLog::ManualClear) {
            let span = fields.key_span("chunk").expect("it holds values");
            let diagnostic =
                Diagnostic::error(span, "`chunk` needs dirty_log = \"manual-clear\"").label("has no meaning with any log here");
            self.report(match fields.get("dirty_log") {
                Some(logs) => diagnostic.related(logs.span(), "the logs are these"),
                None => diagnostic.note("the log comes from [host], or from the profile"),
            });
        }
        vary
    }

    /// Notes numbers of vCPUs with which somebody who is spoken of would not be there.
    fn check_vcpus(&mut self, fields: &Fields<'d>, given: &[u8]) {
        let Some((last, used)) = self.last_vcpu.clone() else { return };
        if given.iter().any(|vcpus| *vcpus <= last) {
            let diagnostic = Diagnostic::error(fields.span_of("vcpus"), format!("`vcpus` leaves vcpu{last} out"));
            self.report(diagnostic.label(format!("at least {}", last + 1)).related(used, "spoken of here"));
        }
    }

    /// Reads `[found]`.
    pub(super) fn provenance(&mut self, root: &Fields<'d>) -> Option<Found> {
        let fields = root.get("found").and_then(|value| self.fields(table_of(root, "found"), value))?;
        let scenario = self.text(&fields, "scenario");
        let seed = self.text(&fields, "seed");
        let strategy = self.text(&fields, "strategy");
        let schedules = self.integer(&fields, "schedules");
        Some(Found { scenario: scenario?, seed: seed?, strategy: strategy?, schedules: schedules? })
    }
}
