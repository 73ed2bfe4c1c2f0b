//! What is judged while a guest runs at the destination and its pages still come.
//!
//! A page is compared when it is placed: until then nobody can have written it. What has not come when the stream ends is zeros from then on.

use host::event::{MigrationStatus, PageRange, Pfn};
use host::fold::Fold;

use super::loss::Loss;
use super::pages::{pages_of, place};
use super::{Observed, Oracle, rules};
use crate::outcome::{Blame, Verdict, Violation};

/// Which pages the running guest has not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals {
    /// A bit each; empty when it has all.
    missing: Vec<u64>,
    /// A snapshot that is being saved.
    snapshot: Option<Saving>,
}

/// A snapshot that is being saved.
#[derive(Debug, Clone)]
struct Saving {
    /// Pages that were written since its moment, a bit each.
    written: Vec<u64>,
    /// The devices' state has come.
    device: bool,
}

impl Arrivals {
    /// Returns whether the guest runs, and pages still come.
    pub(crate) fn is_open(&self) -> bool {
        !self.missing.is_empty()
    }

    pub(crate) fn fold(&self, tag: u64, fold: &mut Fold) {
        for (at, word) in (0..).zip(&self.missing).filter(|(_, word)| **word != 0) {
            fold.word(tag, at, *word);
        }
        if let Some(Saving { written, device }) = &self.snapshot {
            fold.part(tag, u64::MAX, device);
            for (at, word) in (0..).zip(written).filter(|(_, word)| **word != 0) {
                fold.word(!tag, at, *word);
            }
        }
    }

    /// A page was written.
    pub(crate) fn wrote(&mut self, pfn: Pfn) {
        let (at, bit) = place(pfn);
        if let Some(word) = self.snapshot.as_mut().and_then(|saving| saving.written.get_mut(at as usize)) {
            *word |= bit;
        }
    }

    /// Returns the pages of a word that were written since a snapshot's moment.
    pub(crate) fn too_late(&self, at: u64) -> u64 {
        self.snapshot.as_ref().and_then(|saving| saving.written.get(at as usize)).copied().unwrap_or(0)
    }

    /// The devices' state has come.
    pub(crate) fn save_device(&mut self) {
        if let Some(saving) = &mut self.snapshot {
            saving.device = true;
        }
    }

    fn has(&self, pfn: Pfn) -> bool {
        let (at, bit) = place(pfn);
        self.missing.get(at as usize).is_some_and(|word| word & bit != 0)
    }
}

impl Oracle {
    /// The destination runs, and has not all pages: those that it has are compared.
    pub(super) fn start_without_all(&mut self, index: usize, world: &dyn Observed) {
        let words = self.pages.words(self.pages.all());
        self.arrivals.missing = words.map(|(at, bits)| bits & !world.arrived_at(at)).collect();
        self.compare(index, world);
    }

    /// Returns the pages of a word that cannot be compared: nobody has them yet.
    pub(super) fn not_there(&self, at: u64) -> u64 {
        self.arrivals.missing.get(at as usize).copied().unwrap_or(0)
    }

    /// Pages of a word are placed in a running guest.
    pub(super) fn place_word(&mut self, index: usize, at: u64, bits: u64, world: &dyn Observed) {
        if !self.arrivals.is_open() {
            return;
        }
        for pfn in pages_of(at, bits & !self.not_there(at)) {
            self.break_rule(rules::PLACED_ONCE, Some(index), Blame::Host, || format!("page {pfn} was placed where it was already"));
        }
        self.arrivals.missing[at as usize] &= !bits;
        let marks = *self.pages.marks(at);
        let asked = bits & !marks.dropped & !marks.excused();
        for pfn in pages_of(at, asked & !world.destination_equals_at(at, asked)) {
            if !self.is_only_input(pfn, world) {
                self.lose_at_arrival(index, pfn, world);
            }
        }
    }

    fn lose_at_arrival(&mut self, index: usize, pfn: Pfn, world: &dyn Observed) {
        self.lose(pfn);
        let loss = Loss::new(&self.pages, pfn, index, false, world);
        self.violations.add(rules::DESTINATION_EQUALS_SOURCE, || loss.violation());
    }

    /// The running guest's pages are dropped: they may come again.
    pub(super) fn drop_where_it_runs(&mut self, range: PageRange) {
        if self.arrivals.is_open() {
            for (at, bits) in self.pages.words(range) {
                self.arrivals.missing[at as usize] |= bits;
            }
        }
    }

    /// The source looks at a request.
    pub(super) fn request(&mut self, index: usize, pfn: Pfn, world: &dyn Observed) {
        let (at, bit) = place(pfn);
        let answered = world.recorded(host::event::Level::B, at) & bit != 0 || world.on_wire(pfn) || !self.arrivals.has(pfn);
        if !answered {
            self.stall(rules::REQUEST_IS_ANSWERED, index, pfn, || {
                format!("page {pfn} was asked for, and the source takes it for sent: who waits for it waits until the migration ends")
            });
        }
    }

    /// The source takes pages to send: what somebody waits for is asked for.
    pub(super) fn look_at_waiting(&mut self, index: usize, world: &dyn Observed) {
        if self.arrivals.is_open()
            && let Some(pfn) = world.unasked()
        {
            self.stall(rules::WAITED_PAGE_IS_ASKED_FOR, index, pfn, || {
                format!("somebody waits for page {pfn}, no request for it is under way, and others are sent")
            });
        }
    }

    fn stall(&mut self, rule: &'static str, index: usize, pfn: Pfn, what: impl FnOnce() -> String) {
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::Stall,
            page: Some(pfn),
            write: None,
            doom: Some(index),
            blame: Blame::Host,
            cause: None,
            what: what(),
        });
    }

    /// A snapshot's moment.
    pub(super) fn start_snapshot(&mut self) {
        self.records.end_migration();
        let words = self.pages.words(self.pages.all()).count();
        self.arrivals.snapshot = Some(Saving { written: vec![0; words], device: false });
    }

    /// A page is read to be saved.
    pub(super) fn save(&mut self, index: usize, pfn: Pfn) {
        let (at, bit) = place(pfn);
        if self.arrivals.too_late(at) & bit == 0 {
            return;
        }
        self.lose(pfn);
        let detail = self.pages.detail(pfn);
        let rule = rules::SNAPSHOT_IS_OF_ITS_START;
        self.violations.add(rule, || Violation {
            rule,
            verdict: Verdict::LostPage,
            page: Some(pfn),
            write: detail.write.get(),
            doom: Some(index),
            blame: Blame::Host,
            cause: None,
            what: format!("page {pfn} is saved with what {} wrote after the snapshot's moment", detail.writer),
        });
    }

    /// A migration ends; if it was a snapshot, and it is complete, it has to be whole.
    pub(super) fn end_snapshot(&mut self, index: usize, to: MigrationStatus) {
        if to == MigrationStatus::Active {
            return;
        }
        if let Some(saving) = self.arrivals.snapshot.take()
            && to == MigrationStatus::Completed
            && !saving.device
        {
            self.break_rule(rules::SNAPSHOT_IS_WHOLE, Some(index), Blame::Host, || {
                "the snapshot is complete, and has no devices' state".to_owned()
            });
        }
    }

    /// The stream ends: what has not come is zeros.
    pub(super) fn end_of_stream(&mut self, index: usize, world: &dyn Observed) {
        for (at, missing) in (0..).zip(std::mem::take(&mut self.arrivals.missing)) {
            let marks = *self.pages.marks(at);
            for pfn in pages_of(at, missing & !marks.dropped & !marks.excused()).filter(|pfn| !world.ram().is_zero(*pfn)) {
                self.lose_at_arrival(index, pfn, world);
            }
        }
    }
}
