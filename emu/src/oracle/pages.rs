//! What the oracle knows of each page: whether its last write was sent, whether the guest has given it up, what doomed it.
//!
//! What the future depends on is a bit for each page ([`Marks`], 64 pages at a time), and the cause of a doom; a clone shares them in groups
//! until one side changes. What only reports tell ([`Detail`]) stands beside it, and need not be kept.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use host::event::{Actor, PageRange, Pfn};
use host::fold::{Fold, mix};

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

/// Pages of a word of marks.
const WORD_PAGES: u64 = 64;
/// Words of marks that are shared, copied and hashed together.
const GROUP_WORDS: usize = 4;
/// Pages whose details are shared and copied together.
const DETAIL_PAGES: u64 = 64;

/// Marks of 64 pages: a bit for each page in each word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// The guest announced the page as a hint, and has not written it since.
    pub(crate) hint_exposed: u64,
    /// The guest announced the page as a report, and has not written it since.
    pub(crate) report_exposed: u64,
    /// The guest has announced the page as a hint at some time.
    pub(crate) ever_hinted: u64,
    /// Somebody has allocated the page; known where hints stay free.
    pub(crate) in_use: u64,
    /// The guest announced the page as a hint while it was in use, and has not freed it since.
    pub(crate) hinted_in_use: u64,
    /// The balloon holds the page.
    pub(crate) inflated: u64,
    /// The guest told it as inflated though its balloon did not have it.
    pub(crate) mistold: u64,
    /// The host dropped it though the guest had not given it up; reported as such, so not again as a difference.
    pub(crate) dropped: u64,
    /// Memory that is not plugged.
    pub(crate) unplugged: u64,
    /// Of the rest: what belongs to one migration.
    pub(crate) sending: Sending,
}

/// Marks of 64 pages that one migration makes, and the next one forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sending {
    /// Written since this migration read it last to send it, or never read.
    pub(crate) unsent: u64,
    /// Excused: hinted, applied, and not written since the announcement.
    pub(crate) hinted: u64,
    /// Excused: deflated, and not written since.
    pub(crate) deflated: u64,
    /// Excused: reported, taken, and not written since the announcement.
    pub(crate) reported: u64,
    /// Its hint was applied and nobody wrote it since before the sync that opened the round: it need not be sent.
    pub(crate) need_not_send: u64,
    /// Its last record is gone; [`Pages::doom`] says how.
    pub(crate) doomed: u64,
    /// Written since the last sync began.
    pub(crate) since_sync: u64,
    /// Written since the sync began that came before the last request for hints.
    pub(crate) since_request: u64,
}

impl Marks {
    /// Returns the pages that need not be equal.
    pub(crate) fn excused(&self) -> u64 {
        self.inflated | self.unplugged | self.sending.hinted | self.sending.reported | self.sending.deflated
    }

    /// Returns the pages whose last write still has to reach the destination.
    pub(crate) fn owing(&self) -> u64 {
        self.sending.unsent & !self.excused()
    }

    /// Returns why a page need not be equal, if it need not.
    pub(crate) fn excuse(&self, bit: u64) -> Option<&'static str> {
        if self.inflated & bit != 0 {
            Some("held by the balloon")
        } else if self.unplugged & bit != 0 {
            Some("not plugged")
        } else if self.sending.hinted & bit != 0 {
            Some("hinted and not written since")
        } else if self.sending.reported & bit != 0 {
            Some("reported and not written since")
        } else if self.sending.deflated & bit != 0 {
            Some("deflated and not written since")
        } else {
            None
        }
    }

    /// Pages are written.
    fn write(&mut self, bits: u64, by: Actor) {
        self.sending.unsent |= bits;
        self.sending.since_sync |= bits;
        self.sending.since_request |= bits;
        // What the VMM writes into a page that was given up is nobody's: it neither ends the excuse nor makes the page worth sending.
        if is_guest_side(by) {
            self.hint_exposed &= !bits;
            self.report_exposed &= !bits;
            self.dropped &= !bits;
            self.sending.hinted &= !bits;
            self.sending.deflated &= !bits;
            self.sending.reported &= !bits;
            self.sending.need_not_send &= !bits;
        }
    }

    /// Returns the hashes of what always counts, and of what counts in a migration.
    fn fold(&self, at: u64) -> [u128; 2] {
        let Self { hint_exposed, report_exposed, ever_hinted, in_use, hinted_in_use, inflated, mistold, dropped, unplugged, sending } =
            self;
        let Sending { unsent, hinted, deflated, reported, need_not_send, doomed, since_sync, since_request } = sending;
        let sum = |first: u64, words: &[u64]| {
            let set = (first..).zip(words).filter(|(_, word)| **word != 0);
            set.map(|(tag, word)| mix(tag, at, *word)).fold(0, u128::wrapping_add)
        };
        [
            sum(1, &[*hint_exposed, *report_exposed, *ever_hinted, *inflated, *dropped, *in_use, *hinted_in_use, *mistold])
                .wrapping_add(sum(17, &[*unplugged])),
            sum(9, &[*unsent, *hinted, *deflated, *reported, *need_not_send, *doomed, *since_sync, *since_request]),
        ]
    }
}

/// Neighbouring words.
#[derive(Debug, Clone, Default)]
struct Group {
    marks: [Marks; GROUP_WORDS],
    /// See [`Marks::fold`]; once somebody has asked for it.
    sums: OnceLock<[u128; 2]>,
}

/// What doomed a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doom {
    /// Why.
    pub(crate) cause: Cause,
    /// The event after which the write stood nowhere.
    pub(crate) event: TraceIndex,
    /// The write that was lost there.
    pub(crate) write: TraceIndex,
}

/// What only reports tell of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    /// Virtual time of the last write, nanoseconds.
    pub(crate) write_at_ns: u64,
    /// Times on the wire in this migration.
    pub(crate) sent: u32,
    /// The last write in the trace.
    pub(crate) write: TraceIndex,
    /// Who wrote last.
    pub(crate) writer: Actor,
}

impl Detail {
    /// Of a page that nobody has written.
    pub(crate) const NONE: Detail = Detail { write_at_ns: 0, sent: 0, write: TraceIndex::NONE, writer: Actor::Injector };
}

/// Returns whether a write by this actor is the guest's: its own stores, and those of devices that it told to write.
pub(crate) fn is_guest_side(actor: Actor) -> bool {
    match actor {
        Actor::Vcpu(_) | Actor::Dma | Actor::Vhost | Actor::Injector | Actor::Vfio => true,
        Actor::Iothread | Actor::Migration | Actor::MainLoop | Actor::Display | Actor::Destination => false,
        Actor::Channel(_) | Actor::Receiver(_) | Actor::ReturnPath | Actor::Reaper => false,
    }
}

/// All pages of RAM, by frame.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    count: u64,
    groups: Vec<Arc<Group>>,
    /// One for each page that is marked as doomed.
    dooms: Arc<BTreeMap<Pfn, Doom>>,
    /// Sum of the hashes of the dooms' causes.
    dooms_sum: u128,
    /// Empty: none are kept.
    details: Vec<Arc<[Detail; DETAIL_PAGES as usize]>>,
}

impl Pages {
    /// Returns that many unwritten pages.
    pub(crate) fn new(count: u64) -> Self {
        let groups = count.div_ceil(WORD_PAGES * GROUP_WORDS as u64);
        let details = Arc::new([Detail::NONE; DETAIL_PAGES as usize]);
        let group = Arc::<Group>::default();
        let mut pages = Self {
            count,
            groups: (0..groups).map(|_| Arc::clone(&group)).collect(),
            dooms: Arc::default(),
            dooms_sum: 0,
            details: (0..count.div_ceil(DETAIL_PAGES)).map(|_| Arc::clone(&details)).collect(),
        };
        pages.edit_range(pages.all(), |marks, bits| marks.sending.unsent |= bits);
        pages
    }

    /// Drops what only reports tell, and keeps no more of it.
    pub(crate) fn drop_details(&mut self) {
        self.details = Vec::new();
    }

    /// Returns whether details are kept.
    pub(crate) fn keeps_details(&self) -> bool {
        !self.details.is_empty()
    }

    /// Returns whether the frame is RAM: a guest may name any.
    pub(crate) fn contains(&self, pfn: Pfn) -> bool {
        pfn.0 < self.count
    }

    /// Returns the range of all pages.
    pub(crate) fn all(&self) -> PageRange {
        PageRange::new(Pfn(0), self.count)
    }

    /// Returns the words that hold marks of a range's pages, each with their bits; cut to RAM, whatever the guest sent.
    pub(crate) fn words(&self, range: PageRange) -> impl Iterator<Item = (u64, u64)> + use<> {
        let first = range.first.0.min(self.count);
        let end = range.first.0.saturating_add(range.count).min(self.count);
        let cut = PageRange::new(Pfn(first), end - first);
        (first / WORD_PAGES..end.div_ceil(WORD_PAGES)).map(move |at| (at, bits_of(cut, at))).filter(|(_, bits)| *bits != 0)
    }

    /// Returns the marks of 64 pages.
    pub(crate) fn marks(&self, at: u64) -> &Marks {
        let (group, word) = split(at);
        &self.groups[group].marks[word]
    }

    /// Returns whether a page of RAM has a mark.
    pub(crate) fn is(&self, pfn: Pfn, mark: impl Fn(&Marks) -> u64) -> bool {
        let (at, bit) = place(pfn);
        self.contains(pfn) && mark(self.marks(at)) & bit != 0
    }

    /// Changes marks of 64 pages. Nothing is copied when nothing changes.
    pub(crate) fn edit(&mut self, at: u64, change: impl FnOnce(&mut Marks)) {
        let (group, word) = split(at);
        let mut marks = self.groups[group].marks[word];
        change(&mut marks);
        if marks != self.groups[group].marks[word] {
            let group = Arc::make_mut(&mut self.groups[group]);
            group.marks[word] = marks;
            group.sums = OnceLock::new();
        }
    }

    /// Changes marks of a page, if it is RAM.
    pub(crate) fn edit_page(&mut self, pfn: Pfn, change: impl FnOnce(&mut Marks, u64)) {
        if self.contains(pfn) {
            let (at, bit) = place(pfn);
            self.edit(at, |marks| change(marks, bit));
        }
    }

    /// Changes marks of the pages of a range that are RAM.
    pub(crate) fn edit_range(&mut self, range: PageRange, mut change: impl FnMut(&mut Marks, u64)) {
        for (at, bits) in self.words(range) {
            self.edit(at, |marks| change(marks, bits));
        }
    }

    /// A page was written.
    pub(crate) fn write(&mut self, pfn: Pfn, by: Actor, at_ns: u64, index: TraceIndex) {
        self.edit_page(pfn, |marks, bit| marks.write(bit, by));
        if let Some(detail) = self.detail_mut(pfn) {
            (detail.write_at_ns, detail.write, detail.writer) = (at_ns, index, by);
        }
    }

    /// A store to the page was recorded, and may never be made: the vCPU can be stopped in between. The host cannot know.
    pub(crate) fn mark(&mut self, pfn: Pfn) {
        self.edit_page(pfn, |marks, bit| {
            marks.sending.need_not_send &= !bit;
            marks.sending.since_sync |= bit;
            marks.sending.since_request |= bit;
        });
    }

    /// Forgets what belongs to one migration.
    pub(crate) fn start_migration(&mut self) {
        self.edit_range(self.all(), |marks, bits| {
            let Sending { unsent: _, hinted: _, deflated: _, reported: _, need_not_send: _, doomed: _, since_sync, since_request } =
                marks.sending;
            marks.sending = Sending { unsent: bits, since_sync, since_request, need_not_send: marks.unplugged, ..Sending::default() };
        });
        (self.dooms, self.dooms_sum) = (Arc::default(), 0);
        for part in self.details.iter_mut().filter(|part| part.iter().any(|detail| detail.sent > 0)) {
            Arc::make_mut(part).iter_mut().for_each(|detail| detail.sent = 0);
        }
    }

    /// A sync begins.
    pub(crate) fn begin_sync(&mut self) {
        self.edit_range(self.all(), |marks, _| marks.sending.since_sync = 0);
    }

    /// The device asks for hints: pages written before the last sync began were merged before the round.
    pub(crate) fn request(&mut self) {
        self.edit_range(self.all(), |marks, _| marks.sending.since_request = marks.sending.since_sync);
    }

    /// Returns what doomed a page.
    pub(crate) fn doom(&self, pfn: Pfn) -> Option<Doom> {
        self.dooms.get(&pfn).copied()
    }

    /// The last record of a page is gone.
    pub(crate) fn set_doom(&mut self, pfn: Pfn, cause: Cause, event: TraceIndex) {
        self.take_doom(pfn);
        let doom = Doom { cause, event, write: self.detail(pfn).write };
        self.dooms_sum = self.dooms_sum.wrapping_add(doom_hash(pfn, cause));
        Arc::make_mut(&mut self.dooms).insert(pfn, doom);
        self.edit_page(pfn, |marks, bit| marks.sending.doomed |= bit);
    }

    /// A page is doomed no more. Returns whether it was.
    pub(crate) fn take_doom(&mut self, pfn: Pfn) -> bool {
        if !self.is(pfn, |marks| marks.sending.doomed) {
            return false;
        }
        let doom = Arc::make_mut(&mut self.dooms).remove(&pfn).expect("a doomed page has a doom");
        self.dooms_sum = self.dooms_sum.wrapping_sub(doom_hash(pfn, doom.cause));
        self.edit_page(pfn, |marks, bit| marks.sending.doomed &= !bit);
        true
    }

    /// Returns what reports tell of a page; where that is not kept, what they tell of a page that nobody has written.
    pub(crate) fn detail(&self, pfn: Pfn) -> Detail {
        let at = |pfn: Pfn| self.details.get(usize::try_from(pfn.0 / DETAIL_PAGES).ok()?).map(|part| part[(pfn.0 % DETAIL_PAGES) as usize]);
        at(pfn).unwrap_or(Detail::NONE)
    }

    /// Returns what reports tell of a page, to change it, if that is kept.
    pub(crate) fn detail_mut(&mut self, pfn: Pfn) -> Option<&mut Detail> {
        let part = self.details.get_mut(usize::try_from(pfn.0 / DETAIL_PAGES).ok()?)?;
        Some(&mut Arc::make_mut(part)[(pfn.0 % DETAIL_PAGES) as usize])
    }

    /// Adds to a hash what the future depends on: when no migration runs, nothing that the next one forgets.
    pub(crate) fn fold(&self, migrating: bool, fold: &mut Fold) {
        let Self { count: _, groups, dooms: _, dooms_sum, details: _ } = self;
        let mut sums = [0_u128; 2];
        for (index, group) in (0..).zip(groups) {
            let words = || (index * GROUP_WORDS as u64..).zip(&group.marks).map(|(at, marks)| marks.fold(at));
            let added = group.sums.get_or_init(|| words().fold([0; 2], add));
            sums = add(sums, *added);
        }
        fold.sum_of(TAG_MARKS, sums[0]);
        if migrating {
            fold.sum_of(TAG_SENDING, sums[1]);
            fold.sum_of(TAG_DOOMS, *dooms_sum);
        }
    }
}

const TAG_MARKS: u64 = 1 << 16;
const TAG_SENDING: u64 = TAG_MARKS + 1;
const TAG_DOOMS: u64 = TAG_MARKS + 2;

fn add(a: [u128; 2], b: [u128; 2]) -> [u128; 2] {
    [a[0].wrapping_add(b[0]), a[1].wrapping_add(b[1])]
}

fn doom_hash(pfn: Pfn, cause: Cause) -> u128 {
    mix(TAG_DOOMS, pfn.0, cause as u64)
}

fn split(at: u64) -> (usize, usize) {
    let at = usize::try_from(at).expect("64-bit host");
    (at / GROUP_WORDS, at % GROUP_WORDS)
}

/// Returns the word and the bit of a page.
pub(crate) fn place(pfn: Pfn) -> (u64, u64) {
    (pfn.0 / WORD_PAGES, 1 << (pfn.0 % WORD_PAGES))
}

/// Returns the bits of a word whose pages lie in a range.
pub(crate) fn bits_of(range: PageRange, at: u64) -> u64 {
    let start = at * WORD_PAGES;
    let (first, end): (u64, u64) = (range.first.0.max(start), range.first.0.saturating_add(range.count).min(start + WORD_PAGES));
    if first >= end { 0 } else { u64::MAX << (first - start) & u64::MAX >> (start + WORD_PAGES - end) }
}

/// Returns the pages of a word's bits, in order.
pub(crate) fn pages_of(at: u64, bits: u64) -> impl Iterator<Item = Pfn> {
    let left = std::iter::successors(Some(bits), |left| Some(left & left.wrapping_sub(1)));
    left.take_while(|left| *left != 0).map(move |left| Pfn(at * WORD_PAGES + u64::from(left.trailing_zeros())))
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
        let mut pages = Pages::new(64);
        pages.edit_page(Pfn(3), |marks, bit| (marks.sending.hinted, marks.sending.need_not_send) = (bit, bit));
        pages.write(Pfn(3), Actor::Iothread, 1, TraceIndex::NONE);
        assert!(pages.is(Pfn(3), Marks::excused) && pages.is(Pfn(3), |marks| marks.sending.need_not_send));
        pages.write(Pfn(3), Actor::Dma, 2, TraceIndex::NONE);
        assert!(!pages.is(Pfn(3), Marks::excused) && !pages.is(Pfn(3), |marks| marks.sending.need_not_send));
        assert!(pages.is(Pfn(3), Marks::owing));
    }

    #[test]
    fn ranges_that_leave_ram_are_cut() {
        let pages = Pages::new(100);
        let words = |range| pages.words(range).collect::<Vec<_>>();
        assert_eq!(words(PageRange::new(Pfn(60), 1000)), [(0, 0xf << 60), (1, (1 << 36) - 1)]);
        assert_eq!(words(PageRange::new(Pfn(u64::MAX), u64::MAX)), []);
        assert_eq!(widened(PageRange::new(Pfn(70), 3)), PageRange::new(Pfn(63), 66));
        assert_eq!(words(widened(PageRange::new(Pfn(u64::MAX - 1), u64::MAX))), []);
        assert_eq!(pages_of(1, 1 << 63 | 1).collect::<Vec<_>>(), [Pfn(64), Pfn(127)]);
    }

    #[test]
    fn equal_marks_hash_equally_whatever_the_way_and_the_details() {
        let sum = |pages: &Pages, migrating| {
            let mut fold = Fold::default();
            pages.fold(migrating, &mut fold);
            fold.sum()
        };
        let (mut one, mut other) = (Pages::new(1000), Pages::new(1000));
        one.drop_details();
        one.write(Pfn(700), Actor::Vcpu(0), 5, TraceIndex::new(9));
        let before = sum(&one, true);
        assert_ne!(before, sum(&other, true));
        one.set_doom(Pfn(700), Cause::Unmarked, TraceIndex::new(1));
        let doomed = sum(&one, true);
        one.set_doom(Pfn(700), Cause::LogStopped, TraceIndex::new(2));
        assert!(![before, doomed].contains(&sum(&one, true)), "the cause counts");
        assert_eq!(sum(&one, false), sum(&other, false), "and none of it without a migration");
        assert!(one.take_doom(Pfn(700)) && !one.take_doom(Pfn(700)));
        other.write(Pfn(700), Actor::Dma, 8, TraceIndex::NONE);
        assert_eq!([sum(&one, true), sum(&other, true)], [before; 2]);
    }

    #[test]
    fn what_was_written_before_the_sync_is_not_new_in_the_round() {
        let mut pages = Pages::new(64);
        pages.write(Pfn(1), Actor::Dma, 0, TraceIndex::NONE);
        pages.begin_sync();
        pages.write(Pfn(2), Actor::Dma, 0, TraceIndex::NONE);
        pages.request();
        assert_eq!(pages.marks(0).sending.since_request, 1 << 2);
        pages.write(Pfn(3), Actor::Dma, 0, TraceIndex::NONE);
        pages.begin_sync();
        assert_eq!(pages.marks(0).sending.since_request, 1 << 2 | 1 << 3, "until the next request");
    }
}
