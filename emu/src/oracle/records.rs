//! Where the unsent writes stand, and which event removed the last record of one.
//!
//! QEMU: migration/ram.c migration_bitmap_sync_precopy(), migration_bitmap_clear_dirty(). The records themselves are asked of the world;
//! kept here is only what no bitmap shows: whether S will still be merged, and which page is in the sender's hand.

use std::collections::BTreeMap;

use host::event::{Level, PageRange, Pfn};
use host::fold::Fold;

use super::Observed;
use super::pages::{Marks, Pages, TraceIndex, pages_of, place};
use crate::outcome::Blame;

/// Why the last record of a write is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// The guest wrote the page after it had announced its hint, and the device applied the hint rightly.
    EarlyReuse,
    /// The guest wrote the page after it had told that it was free, as it may where hints stay free, and the device applied the hint.
    HintOfThePast,
    /// The guest hinted a page that was in use.
    HintedInUse,
    /// The guest hinted a page that stays free, and looks at it when it allocates it.
    FreePageRead,
    /// A hint was applied outside its round.
    HintOutsideRound,
    /// A hint cleared a page that its element does not hold.
    HintBeyondElement,
    /// The host found the page free by itself, and it was written before the host left it out.
    WalkOvertaken,
    /// The host found the page free by itself and left it out, and the guest looks at it when it allocates it.
    FoundPageRead,
    /// The host took a page for free that was in use.
    MistakenForFree,
    /// The device applied what it popped in its round, but the guest never announced the page.
    HintUnannounced,
    /// K was cleared for a page that was not merged.
    ClearedUnmerged,
    /// A sync dropped it, or never had it.
    SyncDropped,
    /// The write was not recorded when it was made.
    Unmarked,
    /// The write was made while nothing was logged.
    Unlogged,
    /// Another thread stored a word back that it had loaded before.
    WordOverwritten,
    /// The sender took the page and did not send it.
    SenderDropped,
    /// A device's note of it went with the device's mapping.
    Unmapped,
    /// Logging ended.
    LogStopped,
    /// The destination started while the record still stood.
    LeftBehind,
    /// The page was sent after the write, and had not arrived when the destination started.
    OnWire,
    /// The page was sent after the write, but other bytes stand at the destination.
    OtherBytes,
}

impl Cause {
    /// Returns whose fault it is.
    pub(crate) fn blame(self) -> Blame {
        match self {
            Cause::EarlyReuse | Cause::HintedInUse => Blame::Guest,
            Cause::HintOfThePast | Cause::FreePageRead | Cause::HintUnannounced => Blame::Gap,
            Cause::HintOutsideRound
            | Cause::HintBeyondElement
            | Cause::WalkOvertaken
            | Cause::FoundPageRead
            | Cause::MistakenForFree
            | Cause::ClearedUnmerged
            | Cause::SyncDropped
            | Cause::Unmarked
            | Cause::Unlogged
            | Cause::WordOverwritten
            | Cause::SenderDropped
            | Cause::Unmapped
            | Cause::LogStopped
            | Cause::LeftBehind
            | Cause::OnWire
            | Cause::OtherBytes => Blame::Host,
        }
    }

    /// Returns the cause in a word or two, by which findings are told apart.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cause::EarlyReuse => "early-reuse",
            Cause::HintOfThePast => "hint-of-the-past",
            Cause::HintedInUse => "hinted-in-use",
            Cause::FreePageRead => "free-page-read",
            Cause::HintOutsideRound => "hint-outside-round",
            Cause::HintBeyondElement => "hint-beyond-element",
            Cause::WalkOvertaken => "walk-overtaken",
            Cause::FoundPageRead => "found-page-read",
            Cause::MistakenForFree => "mistaken-for-free",
            Cause::HintUnannounced => "hint-unannounced",
            Cause::ClearedUnmerged => "cleared-unmerged",
            Cause::SyncDropped => "sync-dropped",
            Cause::Unmarked => "unmarked",
            Cause::Unlogged => "unlogged",
            Cause::WordOverwritten => "word-overwritten",
            Cause::SenderDropped => "sender-dropped",
            Cause::Unmapped => "unmapped",
            Cause::LogStopped => "log-stopped",
            Cause::LeftBehind => "left-behind",
            Cause::OnWire => "on-wire",
            Cause::OtherBytes => "other-bytes",
        }
    }

    /// Returns the reason as the end of a sentence.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Cause::EarlyReuse => "the guest wrote it after announcing it as a hint, before the device applied the hint",
            Cause::HintOfThePast => {
                "the guest wrote it after telling that it was free, which promised nothing, before the device applied the hint"
            }
            Cause::HintedInUse => "the guest hinted it while it was in use",
            Cause::FreePageRead => "the guest hinted it and left it free, and will look whether its poison is still there",
            Cause::HintOutsideRound => "a hint was applied outside its round",
            Cause::HintBeyondElement => "a hint cleared more than its element holds",
            Cause::WalkOvertaken => "it was written after the host had found it free, before the host left it out",
            Cause::FoundPageRead => "the host found it free and left it out, and the guest will look whether its poison is still there",
            Cause::MistakenForFree => "the host took it for free while it was in use",
            Cause::HintUnannounced => "the device applied a hint that the guest had not announced",
            Cause::ClearedUnmerged => "its mark was cleared before it was merged",
            Cause::SyncDropped => "no record of it was left after the sync",
            Cause::Unmarked => "the write was not recorded",
            Cause::Unlogged => "the write was made while nothing was logged",
            Cause::WordOverwritten => "another thread stored the word of its bit back as it had been before",
            Cause::SenderDropped => "the sender took it and did not send it",
            Cause::Unmapped => "the note of it went with the device's mapping",
            Cause::LogStopped => "logging ended before it was merged",
            Cause::LeftBehind => "it was still recorded as unsent when the destination started",
            Cause::OnWire => "it was still on the wire when the destination started",
            Cause::OtherBytes => "it was sent, but other bytes stand there",
        }
    }
}

/// Tells the pages in hand from the rest of a hash.
const HELD: u64 = 1 << 20;

/// What no bitmap shows.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    /// A migration is under way (from SETUP to its end or the destination's start).
    pub(crate) migrating: bool,
    /// Its first sync is over: each unsent write must be recorded from here.
    tracking: bool,
    /// A GET or a reap has filled S and the merge has not come: S counts.
    unmerged: bool,
    /// Between a sync's announcement and its end.
    syncing: bool,
    /// Pages that a sender took from B and has not put on the wire, how often, and when it took them last; where channels send, many.
    hand: BTreeMap<Pfn, (u32, TraceIndex)>,
    /// Channels send: who takes a page may hold others.
    many: bool,
    /// Written since the last event; looked at once the writing step is complete.
    pending: Vec<Pfn>,
    /// Writes whose last record was lost, and which went out all the same with a later one.
    pub(crate) near_misses: u64,
}

impl Records {
    /// Returns the state before any migration.
    pub(crate) fn new(many: bool) -> Self {
        Self {
            many,
            migrating: false,
            tracking: false,
            unmerged: false,
            syncing: false,
            hand: BTreeMap::new(),
            pending: Vec::new(),
            near_misses: 0,
        }
    }

    /// Adds to a hash what the future depends on.
    pub(crate) fn fold(&self, tag: u64, fold: &mut Fold) {
        let Self { migrating, tracking, unmerged, syncing, hand, many: _, pending, near_misses: _ } = self;
        for (index, truth) in (0..).zip([*migrating, *tracking, *unmerged, *syncing]) {
            fold.word(tag, index, u64::from(truth));
        }
        hand.iter().for_each(|(pfn, (count, _))| fold.word(tag + HELD, pfn.0, u64::from(*count)));
        // In whatever order they were written: they are looked at together.
        pending.iter().for_each(|pfn| fold.word(!tag, pfn.0, 1));
    }

    /// A migration starts: nothing is sent.
    pub(crate) fn start_migration(&mut self, pages: &mut Pages) {
        pages.start_migration();
        self.migrating = true;
    }

    /// The migration ends: nothing is claimed any more.
    pub(crate) fn end_migration(&mut self) {
        *self = Self { near_misses: self.near_misses, ..Self::new(self.many) };
    }

    /// A page was written; its record is looked for after the step.
    pub(crate) fn wrote(&mut self, pfn: Pfn) {
        if self.tracking {
            self.pending.push(pfn);
        }
    }

    /// A sync begins: what is written from here may be found by the next one only.
    pub(crate) fn begin_sync(&mut self, pages: &mut Pages) {
        if !self.syncing {
            pages.begin_sync();
            self.syncing = true;
        }
    }

    /// K was copied to S, or rings were reaped into it.
    pub(crate) fn get(&mut self) {
        self.unmerged = true;
    }

    /// S was merged into D: it counts no more.
    pub(crate) fn merge(&mut self) {
        self.unmerged = false;
    }

    /// D was merged into B: the sync is over, and from a migration's first one on every unsent write must be recorded.
    pub(crate) fn end_sync(&mut self, pages: &mut Pages) {
        self.begin_sync(pages);
        self.syncing = false;
        self.tracking = self.migrating;
    }

    /// The sender took a page from B.
    pub(crate) fn take(&mut self, pages: &mut Pages, pfn: Pfn, index: usize) {
        if !self.many {
            self.drop_hand(pages);
        }
        let (count, taken) = self.hand.entry(pfn).or_insert((0, TraceIndex::NONE));
        (*count, *taken) = (*count + 1, TraceIndex::new(index));
    }

    /// The sender put a page on the wire.
    pub(crate) fn sent(&mut self, pfn: Pfn) {
        let Some((count, _)) = self.hand.get_mut(&pfn) else { return };
        *count -= 1;
        if *count == 0 {
            self.hand.remove(&pfn);
        }
    }

    /// Returns a page that a sender took and has not put on the wire.
    pub(crate) fn any_held(&self) -> Option<Pfn> {
        self.hand.keys().next().copied()
    }

    /// The sender's hand must be empty: a page still in it was dropped, and counts as not sent.
    pub(crate) fn drop_hand(&mut self, pages: &mut Pages) {
        for (pfn, (_, taken)) in std::mem::take(&mut self.hand) {
            if pages.contains(pfn) {
                pages.edit_page(pfn, |marks, bit| marks.sending.unsent |= bit);
                pages.set_doom(pfn, Cause::SenderDropped, taken);
            }
        }
    }

    /// Returns the pages in a sender's hand, as bits of a word.
    pub(crate) fn held(&self, at: u64) -> u64 {
        let held = self.hand.range(Pfn(at * 64)..Pfn((at + 1) * 64));
        held.map(|(pfn, _)| place(*pfn).1).fold(0, |bits, bit| bits | bit)
    }

    /// Returns which of these pages stand where the engine will look.
    pub(crate) fn recorded(&self, at: u64, bits: u64, world: &dyn Observed) -> u64 {
        let mut found = self.held(at);
        for level in [Level::B, Level::K, Level::Ring, Level::D, Level::V, Level::S] {
            if bits & !found == 0 {
                break;
            }
            if level != Level::S || self.unmerged {
                found |= world.recorded(level, at);
            }
        }
        found & bits
    }

    /// Looks at pages of a word after an event that may have removed their last records.
    fn look_word(
        &mut self,
        pages: &mut Pages,
        (at, bits): (u64, u64),
        index: TraceIndex,
        cause: impl Fn(Pfn, &Marks) -> Cause,
        world: &dyn Observed,
    ) {
        let marks = *pages.marks(at);
        let (owing, doomed) = (marks.owing() & bits, marks.sending.doomed & bits);
        if owing | doomed == 0 {
            return;
        }
        let lost = owing & !self.recorded(at, owing, world);
        for pfn in pages_of(at, doomed & !lost) {
            self.near_misses += u64::from(pages.take_doom(pfn));
        }
        for pfn in pages_of(at, lost & !doomed) {
            pages.set_doom(pfn, cause(pfn, &marks), index);
        }
    }

    /// Looks at one page.
    pub(crate) fn look(&mut self, pages: &mut Pages, pfn: Pfn, index: TraceIndex, cause: Cause, world: &dyn Observed) {
        if self.tracking && pages.contains(pfn) {
            self.look_word(pages, place(pfn), index, |_, _| cause, world);
        }
    }

    /// Looks at the pages of a range; each may have a cause of its own.
    pub(crate) fn look_range(
        &mut self,
        pages: &mut Pages,
        range: PageRange,
        index: usize,
        cause: impl Fn(Pfn, &Marks) -> Cause,
        world: &dyn Observed,
    ) {
        if self.tracking {
            for word in pages.words(range) {
                self.look_word(pages, word, TraceIndex::new(index), &cause, world);
            }
        }
    }

    /// Looks at the pages written since the last event. A write that stands nowhere once its step is complete was doomed by itself.
    pub(crate) fn settle(&mut self, pages: &mut Pages, index: usize, world: &dyn Observed) {
        if self.pending.is_empty() {
            return;
        }
        let cause = if world.logging() { Cause::Unmarked } else { Cause::Unlogged };
        let mut written = std::mem::take(&mut self.pending);
        for pfn in written.drain(..) {
            let write = pages.detail(pfn).write.get().unwrap_or(index);
            self.look(pages, pfn, TraceIndex::new(write), cause, world);
        }
        self.pending = written;
    }
}
