//! A lost page, and how it is told.

use host::event::{Actor, PageRange, Pfn};

use super::pages::{Marks, Pages, TraceIndex};
use super::records::Cause;
use super::{Observed, rules};
use crate::outcome::{Verdict, Violation};
use crate::report::micros;

/// A page lost in the way of its neighbours is told with them.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    /// The pages.
    pub(crate) range: PageRange,
    write: TraceIndex,
    doom: usize,
    cause: Cause,
    writer: Actor,
    write_at_ns: u64,
}

impl Loss {
    /// Returns what is known of a page that differs; `recorded` is whether its record stands to the end.
    pub(crate) fn new(pages: &Pages, pfn: Pfn, index: usize, recorded: bool, world: &dyn Observed) -> Self {
        let sent = !pages.is(pfn, |marks: &Marks| marks.sending.unsent);
        let detail = pages.detail(pfn);
        let (doom, write, cause) = match pages.doom(pfn) {
            Some(doom) => (doom.event.get().unwrap_or(index), doom.write, doom.cause),
            None if sent && world.on_wire(pfn) => (index, detail.write, Cause::OnWire),
            None if sent => (index, detail.write, Cause::OtherBytes),
            None if recorded => (index, detail.write, Cause::LeftBehind),
            None => (index, detail.write, Cause::SyncDropped),
        };
        Self { range: PageRange::page(pfn), write, doom, cause, writer: detail.writer, write_at_ns: detail.write_at_ns }
    }

    /// Returns whether the next page was lost by the same event.
    pub(crate) fn continues(&self, next: &Loss) -> bool {
        self.range.end() == next.range.first
            && (self.write, self.doom, self.cause, self.writer) == (next.write, next.doom, next.cause, next.writer)
    }

    /// Returns the violation to report.
    pub(crate) fn violation(&self) -> Violation {
        let Loss { range, write, doom, cause, writer, write_at_ns } = self;
        let who = if *write_at_ns == 0 && write.get().is_none() {
            "its first contents".to_owned()
        } else {
            format!("what {writer} wrote at {} us", micros(*write_at_ns))
        };
        Violation {
            rule: rules::DESTINATION_EQUALS_SOURCE,
            verdict: Verdict::LostPage,
            page: Some(range.first),
            write: write.get(),
            doom: Some(*doom),
            blame: cause.blame(),
            cause: Some(cause.name()),
            what: format!("page {range} does not hold {who}: {}", cause.reason()),
        }
    }
}
