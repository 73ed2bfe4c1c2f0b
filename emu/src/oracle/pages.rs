//! What the oracle knows of each page: how often it was written, what of that was sent, and whether the guest has given it up.

use std::ops::Range;

use host::event::{Actor, PageRange, Pfn};

use super::records::Cause;

/// An index in the trace in 32 bits: a run has fewer events than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceIndex(u32);

impl TraceIndex {
    /// No index.
    pub(crate) const NONE: TraceIndex = TraceIndex(u32::MAX);

    /// Returns the index of an event.
    pub(crate) fn new(index: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        assert!(index != u32::MAX, "a trace of 2^32 events");
        Self(index)
    }

    /// Returns the index, if there is one.
    pub(crate) fn get(self) -> Option<usize> {
        (self != Self::NONE).then_some(self.0 as usize)
    }
}

/// Bits of [`Page::flags`].
pub(crate) mod flag {
    /// The guest announced the page as a hint, and has not written it since.
    pub(crate) const HINT_EXPOSED: u8 = 1 << 0;
    /// The guest announced the page as a report, and has not written it since.
    pub(crate) const REPORT_EXPOSED: u8 = 1 << 1;
    /// The guest has announced the page as a hint at some time.
    pub(crate) const EVER_HINTED: u8 = 1 << 2;
    /// The balloon holds the page.
    pub(crate) const INFLATED: u8 = 1 << 3;
    /// Excused: hinted, applied, and not written since the announcement.
    pub(crate) const HINTED: u8 = 1 << 4;
    /// Excused: deflated, and not written since.
    pub(crate) const DEFLATED: u8 = 1 << 5;
    /// Excused: reported, taken, and not written since the announcement.
    pub(crate) const REPORTED: u8 = 1 << 6;
    /// Its hint was applied and nobody wrote it since before the sync that opened the round: it need not be sent.
    pub(crate) const NEED_NOT_SEND: u8 = 1 << 7;
    /// All that ends with a write by the guest's side.
    pub(crate) const UNTIL_WRITTEN: u8 = HINT_EXPOSED | REPORT_EXPOSED | HINTED | DEFLATED | REPORTED;
    /// All that ends with a migration.
    pub(crate) const UNTIL_NEXT_MIGRATION: u8 = HINTED | DEFLATED | REPORTED | NEED_NOT_SEND;
}

/// One page.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Virtual time of the last write, nanoseconds.
    pub(crate) write_at_ns: u64,
    /// Number of writes.
    pub(crate) version: u32,
    /// The version that this migration read last to send it; [`Page::NOT_SENT`] for none.
    pub(crate) sent_version: u32,
    /// The epoch (see [`super::records::Records::epoch`]) of the last write.
    pub(crate) write_epoch: u32,
    /// Times on the wire in this migration.
    pub(crate) sent: u32,
    /// The last write in the trace.
    pub(crate) write: TraceIndex,
    /// The event after which the write at `doomed_write` stood nowhere; meaningful while `cause` is some.
    pub(crate) doom: TraceIndex,
    /// The write that was lost there.
    pub(crate) doomed_write: TraceIndex,
    /// Why.
    pub(crate) cause: Option<Cause>,
    /// Who wrote last.
    pub(crate) writer: Actor,
    /// Bits of [`flag`].
    pub(crate) flags: u8,
    /// The host dropped it though the guest had not given it up; reported as such, so not again as a difference.
    pub(crate) dropped: bool,
}

impl Page {
    /// Stands for "this migration has not sent it": no page is written that often.
    pub(crate) const NOT_SENT: u32 = u32::MAX;

    fn new() -> Self {
        Self {
            write_at_ns: 0,
            version: 0,
            sent_version: Self::NOT_SENT,
            write_epoch: 0,
            sent: 0,
            write: TraceIndex::NONE,
            doom: TraceIndex::NONE,
            doomed_write: TraceIndex::NONE,
            cause: None,
            writer: Actor::Injector,
            flags: 0,
            dropped: false,
        }
    }

    /// Returns whether any of the bits is set.
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Returns why the page need not be equal, if it need not.
    pub(crate) fn excuse(&self) -> Option<&'static str> {
        if self.has(flag::INFLATED) {
            Some("held by the balloon")
        } else if self.has(flag::HINTED) {
            Some("hinted and not written since")
        } else if self.has(flag::REPORTED) {
            Some("reported and not written since")
        } else if self.has(flag::DEFLATED) {
            Some("deflated and not written since")
        } else {
            None
        }
    }

    /// Returns whether the last write still has to reach the destination.
    pub(crate) fn owes(&self) -> bool {
        self.sent_version != self.version && self.excuse().is_none()
    }

    /// Forgets what belongs to one migration.
    pub(crate) fn start_migration(&mut self) {
        self.sent_version = Self::NOT_SENT;
        self.sent = 0;
        self.cause = None;
        self.flags &= !flag::UNTIL_NEXT_MIGRATION;
    }

    /// Records a write.
    pub(crate) fn write(&mut self, by: Actor, at_ns: u64, index: TraceIndex, epoch: u32) {
        assert!(self.version < Self::NOT_SENT - 1);
        self.version += 1;
        self.write_at_ns = at_ns;
        self.write_epoch = epoch;
        self.write = index;
        self.writer = by;
        // What the VMM writes into a page that was given up is nobody's: it neither ends the excuse nor makes the page worth sending.
        if is_guest_side(by) {
            self.flags &= !(flag::UNTIL_WRITTEN | flag::NEED_NOT_SEND);
            self.dropped = false;
        }
    }
}

/// Returns whether a write by this actor is the guest's: its own stores, and those of devices that it told to write.
pub(crate) fn is_guest_side(actor: Actor) -> bool {
    match actor {
        Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Injector => true,
        Actor::Iothread | Actor::Migration | Actor::MainLoop | Actor::Display | Actor::Destination => false,
    }
}

/// All pages of RAM, by frame.
#[derive(Debug, Clone)]
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    /// Returns that many unwritten pages.
    pub(crate) fn new(count: u64) -> Self {
        Self(vec![Page::new(); usize::try_from(count).expect("pages fit")])
    }

    /// Returns the page, or nothing when the frame is not RAM: a guest may name any.
    pub(crate) fn get_mut(&mut self, pfn: Pfn) -> Option<&mut Page> {
        self.0.get_mut(usize::try_from(pfn.0).ok()?)
    }

    /// Returns the page, or nothing when the frame is not RAM.
    pub(crate) fn get(&self, pfn: Pfn) -> Option<&Page> {
        self.0.get(usize::try_from(pfn.0).ok()?)
    }

    /// Returns the frames of a range that are RAM; none of the arithmetic overflows, whatever the guest sent.
    pub(crate) fn frames(&self, range: PageRange) -> Range<u64> {
        let count = self.0.len() as u64;
        range.first.0.min(count)..range.first.0.saturating_add(range.count).min(count)
    }

    /// Returns the pages of a range that are RAM.
    pub(crate) fn slice_mut(&mut self, range: PageRange) -> &mut [Page] {
        let frames = self.frames(range);
        &mut self.0[frames.start as usize..frames.end as usize]
    }

    /// Returns all pages in order of their frames.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pfn, &Page)> {
        self.0.iter().enumerate().map(|(index, page)| (Pfn(index as u64), page))
    }

    /// Returns the range of all pages.
    pub(crate) fn all(&self) -> PageRange {
        PageRange::new(Pfn(0), self.0.len() as u64)
    }
}

/// Widens a range to whole 64-page words and one page more on either side: where a CLEAR or a hint that reaches too far would hit.
pub(crate) fn widened(range: PageRange) -> PageRange {
    let first = (range.first.0 & !63).saturating_sub(1);
    let end = range.first.0.saturating_add(range.count).saturating_add(63) & !63;
    PageRange::new(Pfn(first), end.saturating_add(1) - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_by_the_guests_side_ends_an_excuse_and_a_write_by_the_vmm_does_not() {
        let mut page = Page::new();
        page.flags = flag::HINTED | flag::NEED_NOT_SEND;
        page.write(Actor::Iothread, 1, TraceIndex::NONE, 0);
        assert!(page.excuse().is_some() && page.has(flag::NEED_NOT_SEND));
        page.write(Actor::Dma, 2, TraceIndex::NONE, 0);
        assert!(page.excuse().is_none() && !page.has(flag::NEED_NOT_SEND));
        assert!(page.owes());
    }

    #[test]
    fn ranges_that_leave_ram_are_cut() {
        let pages = Pages::new(64);
        assert_eq!(pages.frames(PageRange::new(Pfn(60), 100)), 60..64);
        assert_eq!(pages.frames(PageRange::new(Pfn(u64::MAX), u64::MAX)), 64..64);
        assert_eq!(widened(PageRange::new(Pfn(70), 3)), PageRange::new(Pfn(63), 66));
        assert_eq!(pages.frames(widened(PageRange::new(Pfn(u64::MAX - 1), u64::MAX))), 64..64);
    }
}
