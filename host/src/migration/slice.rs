//! A slice of sending: page by page out of B, through the read, onto the wire.
//!
//! QEMU: migration/ram.c ram_save_iterate(), ram_find_and_save_block(), save_zero_page(), save_normal_page(). The chunk's CLEAR precedes the
//! read of any of its pages; a page that nobody watches is taken, read, sent and placed in one move, unless the wire holds older records,
//! which must not be overtaken.

use crate::destination::Destination;
use crate::dirty::accel::Accelerator;
use crate::event::{Event, EventKind, LockId, MigrationStatus, PageRange, Pfn};
use crate::fault::Fault;
use crate::migration::encoding::Content;
use crate::migration::engine::Parts;
use crate::migration::multifd::Duty;
use crate::migration::pace::Pace;
use crate::migration::ram::RamState;
use crate::migration::run::Run;
use crate::migration::wire::Record;
use crate::migration::xbzrle::{Xbzrle, read_page};
use crate::page::{DATA_RECORD_BYTES, ZERO_RECORD_BYTES};
use crate::step::{Await, Ctx, Move, Next};

/// A slice ends when the clock shows more than this many milliseconds (QEMU: MAX_WAIT).
const SLICE_MS_MAX: u64 = 50;
/// The clock is looked at every that many pages.
const CLOCK_PAGES: u64 = 64;
const NS_PER_MS: u64 = 1_000_000;

/// The slice under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Slice {
    start_ns: u64,
    sent: u64,
    over: bool,
    /// The scan goes around for ever unless it finds a page (a fault).
    endless: bool,
    /// A CLEAR is made, and its lock is still held.
    cleared: bool,
}

/// A page between B and the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hand {
    /// Which page.
    pub pfn: Pfn,
    /// What it held, once read.
    pub content: Option<Content>,
}

/// What a slice does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageMove {
    /// Nothing more.
    End,
    /// The wire is full.
    Wait,
    /// What comes next is done with a lock more.
    Lock(LockId),
    /// What came last was done with a lock more.
    Unlock(LockId),
    /// CLEAR of a chunk.
    Clear { pfn: Pfn, chunk: PageRange },
    /// The page's word of B is loaded (a fault).
    Load(Pfn),
    /// Out of B.
    Take(Pfn),
    /// Read.
    Read(Pfn),
    /// Onto the wire.
    Send(Pfn),
    /// Onto the wire, as what differs from what was sent last.
    Delta(Pfn),
    /// Nothing of it, since nothing differs.
    Skip(Pfn),
    /// All of it, and placed.
    Page(Pfn),
    /// A request is looked at.
    Request(Pfn),
    /// A saved page may be written again.
    Unprotect(Pfn),
    /// The packet, to a channel.
    Give(u8),
    /// A barrier in all channels.
    Flush,
}

impl PageMove {
    pub(crate) fn next(self) -> Next {
        let on = |kind, pfn| Next::Do(Move::on(kind, PageRange::page(pfn)));
        match self {
            PageMove::End => Next::Idle,
            PageMove::Wait => Next::Wait(Await::Peer),
            PageMove::Lock(lock) => Next::Lock(lock),
            PageMove::Unlock(_) => Next::Do(Move::plain(EventKind::LockRelease)),
            PageMove::Clear { chunk, .. } => Next::Do(Move::on(EventKind::DirtyClear, chunk)),
            PageMove::Load(pfn) => on(EventKind::BitmapLoad, pfn),
            PageMove::Take(pfn) => on(EventKind::BitmapTake, pfn),
            PageMove::Read(pfn) => on(EventKind::RamRead, pfn),
            PageMove::Send(pfn) => on(EventKind::RamSend, pfn),
            PageMove::Delta(pfn) => on(EventKind::RamDelta, pfn),
            PageMove::Skip(pfn) => on(EventKind::RamSkip, pfn),
            PageMove::Page(pfn) => on(EventKind::RamPage, pfn),
            PageMove::Request(pfn) => on(EventKind::DstRequest, pfn),
            PageMove::Unprotect(pfn) => on(EventKind::SnapshotUnprotect, pfn),
            PageMove::Give(_) => Next::Do(Move::plain(EventKind::ChannelQueue)),
            PageMove::Flush => Next::Do(Move::plain(EventKind::ChannelFlush)),
        }
    }
}

/// Returns a move that is made with a lock, or that the lock is taken first.
fn locked(lock: LockId, then: PageMove, ctx: &Ctx<'_>) -> PageMove {
    if ctx.locks.needed(lock, ctx.actor).is_some() { PageMove::Lock(lock) } else { then }
}

impl Run {
    /// [`Fault::ScanWithoutPlace`]: the last slice's scan has no place to come back to, until it finds a page.
    pub(crate) fn slice_begin(&mut self, last: bool, ctx: &mut Ctx<'_>) -> u64 {
        assert!(self.hand.is_none(), "a page is left from the last slice");
        self.slice = Slice { start_ns: ctx.now_ns, sent: 0, over: false, endless: false, cleared: false };
        self.slice.endless = last && ctx.faults.on(Fault::ScanWithoutPlace);
        ctx.emit(Event::IterateBegin { remaining: self.ram().n() });
        ctx.costs.state_ns
    }

    pub(crate) fn slice_end(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        // Whose move was dropped with a broken link may have its lock in hand.
        ctx.release_needed(LockId::Slots);
        ctx.release_needed(LockId::PageRequests);
        // A page in hand is dropped only with the whole migration: its link is shut.
        let dropped = self.hand.take();
        if let Some(ram) = &mut self.ram {
            ram.forget_loaded(ctx.actor);
        }
        assert!(dropped.is_none() || !self.healthy(), "page {dropped:?} is dropped by a healthy migration");
        if let (Some(xbzrle), None) = (&mut self.xbzrle, self.ram.as_ref().and_then(RamState::next_dirty)) {
            xbzrle.scan_all();
        }
        ctx.emit(Event::IterateEnd { sent: self.slice.sent });
        ctx.costs.state_ns
    }

    /// Returns what the slice does next.
    pub(crate) fn page_move(&self, pace: &Pace, last: bool, accel: &Accelerator, ctx: &Ctx<'_>) -> PageMove {
        let watch = ctx.watch;
        if self.slice.cleared {
            return PageMove::Unlock(LockId::Slots);
        }
        if !self.healthy() {
            return PageMove::End;
        }
        if let Some(hand) = &self.hand {
            return match &hand.content {
                None => PageMove::Read(hand.pfn),
                Some(Content::Same) => PageMove::Skip(hand.pfn),
                Some(_) if if self.post.to_lane { self.post.lane.is_full() } else { self.wire.is_full() } => PageMove::Wait,
                Some(Content::Delta(_)) => PageMove::Delta(hand.pfn),
                Some(Content::Zero | Content::Data(_) | Content::Cached(_)) => PageMove::Send(hand.pfn),
            };
        }
        if let Some(pfn) = self.snapshot.sent {
            return PageMove::Unprotect(pfn);
        }
        if let Some(pfn) = self.post.request() {
            return locked(LockId::PageRequests, PageMove::Request(pfn), ctx);
        }
        let urgent = self.post.urgent.is_some() || self.snapshot.urgent().is_some();
        if !last && !urgent && (self.slice.over || self.rate_exceeded(pace)) {
            return PageMove::End;
        }
        let ram = self.ram();
        if let Some(pfn) = ram.loaded() {
            return PageMove::Take(pfn);
        }
        let next = self.next_to_send();
        if let Some(duty) = self.channels_duty(next.map(|pfn| ram.scan_place(pfn)), last, ctx) {
            return duty;
        }
        match next {
            // Nobody sees it go around.
            None if self.slice.endless => PageMove::Wait,
            None => PageMove::End,
            // QEMU: nothing is cleared once the source's vCPUs will not run any more.
            Some(pfn) if !last && !self.in_postcopy() && accel.has_clear() && ram.c(pfn) => {
                let clear = PageMove::Clear { pfn, chunk: ram.chunk(pfn) };
                if accel.has_slots() { locked(LockId::Slots, clear, ctx) } else { clear }
            }
            Some(pfn) if watch.has(pfn) && !last && ram.takes_in_two() => PageMove::Load(pfn),
            // In a search, pages that nobody looks at do not wait for another one that is on the wire: what is placed where nobody looks is the same before
            // and behind it, and moves of their own would make as many states as there are pages on either side.
            Some(pfn) if self.options.modes.preempt && self.post.urgent == Some(pfn) => PageMove::Take(pfn),
            Some(pfn) if watch.has(pfn) || self.options.paced && self.splits() || self.stalled || self.wire.touches(pfn) => {
                PageMove::Take(pfn)
            }
            Some(pfn) => PageMove::Page(pfn),
        }
    }

    /// Returns what is due to the channels before the scan takes its next page.
    fn channels_duty(&self, next: Option<(usize, u64)>, last: bool, ctx: &Ctx<'_>) -> Option<PageMove> {
        let multifd = self.multifd.as_ref().filter(|_| self.by_channel())?;
        match multifd.duty(next, last, &self.options.encoding, ctx) {
            Duty::None => None,
            Duty::Wait => Some(PageMove::Wait),
            Duty::Give(channel) => Some(PageMove::Give(channel)),
            Duty::Flush if self.wire.is_full() => Some(PageMove::Wait),
            Duty::Flush => Some(PageMove::Flush),
        }
    }

    /// Returns whether pages go by channels: not in postcopy, when they are placed one by one (QEMU: ram_save_target_page()).
    fn by_channel(&self) -> bool {
        self.multifd.is_some() && !self.in_postcopy()
    }

    /// Returns what is left to do until the channels hold nothing.
    pub(crate) fn drain_move(&self, ctx: &Ctx<'_>) -> PageMove {
        if self.healthy() { self.channels_duty(None, true, ctx).unwrap_or(PageMove::End) } else { PageMove::End }
    }

    /// Makes the next move of that.
    pub(crate) fn drain_step(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        match self.drain_move(ctx) {
            PageMove::Give(channel) => self.give_packet(channel, ctx),
            PageMove::Flush => self.flush_channels(true, ctx),
            other => unreachable!("{other:?} is no move of channels"),
        }
    }

    fn give_packet(&mut self, channel: u8, ctx: &mut Ctx<'_>) -> u64 {
        let round = self.ram().syncs();
        let pages = self.multifd.as_mut().expect("who gives a packet has channels").give(channel, round);
        ctx.emit(Event::ChannelQueue { channel, pages });
        ctx.costs.lock_ns
    }

    /// Makes the slice's next move.
    pub(crate) fn page_step(&mut self, pace: &Pace, last: bool, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        match self.page_move(pace, last, parts.accel, ctx) {
            PageMove::End | PageMove::Wait => unreachable!("a slice steps without a move"),
            PageMove::Clear { pfn, chunk } => {
                let was = self.ram_mut().take_chunk(pfn);
                assert!(was, "CLEAR of a chunk that is not in C");
                parts.accel.clear(chunk, ctx);
                self.slice.cleared = ctx.locks.holder(LockId::Slots) == Some(ctx.actor);
                ctx.costs.clear_ns
            }
            PageMove::Load(pfn) => {
                self.ram_mut().load(ctx.actor, PageRange::page(pfn));
                ctx.emit(Event::BitmapLoad { range: PageRange::page(pfn) });
                ctx.costs.page_ns / 4
            }
            PageMove::Take(pfn) => {
                let loaded = self.ram().loaded().is_some();
                self.take(pfn, last);
                ctx.emit(Event::BitmapTake { pfn });
                if loaded {
                    ctx.emit(Event::BitmapStore { range: PageRange::page(pfn) });
                }
                if self.by_channel() {
                    self.take_for_channel(pfn, last, ctx);
                } else {
                    self.hand = Some(Hand { pfn, content: None });
                }
                ctx.costs.page_ns / 2
            }
            PageMove::Give(channel) => self.give_packet(channel, ctx),
            PageMove::Flush => self.flush_channels(last, ctx),
            PageMove::Read(pfn) => {
                let content = self.read(pfn, last, ctx);
                ctx.emit(Event::RamRead { pfn, zero: content.is_zero() });
                self.options.encoding.die_of(pfn, ctx);
                self.hand = Some(Hand { pfn, content: Some(content) });
                ctx.costs.page_ns - ctx.costs.page_ns / 2
            }
            PageMove::Send(_) | PageMove::Delta(_) | PageMove::Skip(_) => self.send(last, ctx),
            PageMove::Page(pfn) => self.whole_page(pfn, last, parts, ctx),
            PageMove::Request(_) => self.take_request(ctx),
            PageMove::Unprotect(pfn) => self.unprotect(pfn, ctx),
            PageMove::Lock(lock) => {
                ctx.lock(lock);
                ctx.costs.lock_ns
            }
            PageMove::Unlock(lock) => {
                ctx.unlock(lock);
                self.slice.cleared = false;
                ctx.costs.lock_ns
            }
        }
    }

    /// Makes the slice's next move if it is one of the plain ones, `PageMove::Page`.
    pub(crate) fn page_step_plain(&mut self, pace: &Pace, last: bool, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> Option<u64> {
        match self.page_move(pace, last, parts.accel, ctx) {
            PageMove::Page(pfn) => Some(self.whole_page(pfn, last, parts, ctx)),
            PageMove::End
            | PageMove::Wait
            | PageMove::Lock(_)
            | PageMove::Unlock(_)
            | PageMove::Clear { .. }
            | PageMove::Load(_)
            | PageMove::Take(_)
            | PageMove::Read(_)
            | PageMove::Send(_)
            | PageMove::Request(_)
            | PageMove::Unprotect(_)
            | PageMove::Delta(_)
            | PageMove::Skip(_)
            | PageMove::Give(_)
            | PageMove::Flush => None,
        }
    }

    fn whole_page(&mut self, pfn: Pfn, last: bool, parts: &mut Parts<'_>, ctx: &mut Ctx<'_>) -> u64 {
        assert!(self.wire.is_empty() || !self.options.paced, "page {pfn} overtakes the wire");
        self.take(pfn, last);
        let zero = if self.options.encoding.is_plain() && !ctx.faults.on(Fault::FirstZerosUnsent) {
            parts.destination.place_from(pfn, ctx.ram, self.options.encoding.thread_finds_zeros())
        } else {
            self.whole_encoded(pfn, last, parts.destination, ctx)
        };
        let round = self.ram().syncs();
        ctx.emit(Event::RamPage { pfn, zero, round });
        self.options.encoding.die_of(pfn, ctx);
        self.addressed(pfn, &Content::Zero, ctx);
        self.land(pfn, ctx);
        self.release_sent(pfn);
        self.saved(pfn, true);
        let cost = ctx.costs.page_ns + self.count(zero);
        self.clock(last, ctx.now_ns + cost);
        cost
    }

    /// Takes, reads, sends and places a page, and returns whether it went as zeros.
    fn whole_encoded(&mut self, pfn: Pfn, last: bool, destination: &mut Destination, ctx: &mut Ctx<'_>) -> bool {
        let by_channel = self.by_channel();
        let content = match self.read(pfn, last, ctx) {
            // Behind the switch to postcopy there is no sender that would look.
            Content::Data(_) if by_channel && self.options.encoding.senders_find_zeros() && ctx.ram.is_zero(pfn) => Content::Zero,
            content => content,
        };
        let zero = content.is_zero();
        if self.file.is_some() {
            self.write_file(pfn, content, by_channel, ctx);
        } else if by_channel && !(zero && self.options.encoding.thread_finds_zeros()) {
            self.place_from_channel(pfn, content, destination, ctx);
        } else {
            self.place(pfn, &content, destination, ctx);
        }
        zero
    }

    /// Returns whether a page cannot be sent and placed at once: others are on their way, or it waits for others.
    fn splits(&self) -> bool {
        !self.wire.is_empty() || self.by_channel() || self.xbzrle.as_ref().is_some_and(Xbzrle::is_started)
    }

    /// A page that is taken goes into the packet, or, when the thread finds that it is zero, on the main channel.
    fn take_for_channel(&mut self, pfn: Pfn, last: bool, ctx: &mut Ctx<'_>) {
        let place = self.ram().scan_place(pfn);
        if self.options.encoding.thread_finds_zeros() && ctx.ram.is_zero(pfn) {
            ctx.emit(Event::RamRead { pfn, zero: true });
            self.hand = Some(Hand { pfn, content: Some(Content::Zero) });
            self.multifd.as_mut().expect("it has channels").sent_beside(place);
        } else {
            self.multifd.as_mut().expect("it has channels").queue(pfn, place);
            self.clock(last, ctx.now_ns);
        }
    }

    /// Everything that was taken is written; a barrier follows in each channel and in the main one. [`Fault::MainPassesBarrier`]: not in the main
    /// one, but at the end. [`Fault::StartBeforeChannels`]: not in the main one at the end.
    fn flush_channels(&mut self, last: bool, ctx: &mut Ctx<'_>) -> u64 {
        let passes = if last { Fault::StartBeforeChannels } else { Fault::MainPassesBarrier };
        let main = !ctx.faults.on(passes);
        let channels = self.multifd.as_mut().expect("who flushes has channels").flush(main, self.file.is_some());
        if main && self.file.is_none() {
            self.wire.push(Record::Flush);
        }
        ctx.emit(Event::ChannelFlush { channels });
        ctx.costs.state_ns
    }

    fn take(&mut self, pfn: Pfn, last: bool) {
        self.slice.endless = false;
        let ram = self.ram_mut();
        if !last {
            // Where the accelerator has no CLEAR, the chunk's turn passes without a trace.
            ram.take_chunk(pfn);
        }
        ram.take(pfn);
        let place = ram.scan_place(pfn);
        if let Some(xbzrle) = &mut self.xbzrle {
            xbzrle.scan(place);
        }
        self.post.to_lane = self.options.modes.preempt && self.post.urgent == Some(pfn);
        self.post.urgent = self.post.urgent.filter(|urgent| *urgent != pfn);
    }

    /// Returns whether the window's share of the rate limit is used up.
    pub(crate) fn rate_exceeded(&self, pace: &Pace) -> bool {
        if self.options.modes.snapshot {
            return false;
        }
        let limit = if self.in_postcopy() { self.options.modes.max_postcopy_bandwidth } else { self.options.max_bandwidth };
        pace.rate_exceeded(self.bytes_sent, limit, &self.options)
    }

    /// Reads a page. [`Fault::FirstZerosUnsent`]: pages of zeros are not sent in the first round. [`Fault::DeltaInPostcopy`]: differences
    /// are sent to a guest that runs.
    fn read(&mut self, pfn: Pfn, last: bool, ctx: &Ctx<'_>) -> Content {
        let (syncs, postcopy) = (self.ram().syncs(), self.in_postcopy());
        if self.is_released(pfn) {
            return Content::Zero;
        }
        if self.options.encoding.thread_finds_zeros() && ctx.ram.is_zero(pfn) {
            if let Some(xbzrle) = &mut self.xbzrle {
                xbzrle.zero(pfn, syncs, ctx);
            }
            return if syncs == 1 && ctx.faults.on(Fault::FirstZerosUnsent) { Content::Same } else { Content::Zero };
        }
        let contents = read_page(pfn, ctx.ram);
        match &mut self.xbzrle {
            Some(xbzrle) if xbzrle.is_started() && (!postcopy || ctx.faults.on(Fault::DeltaInPostcopy)) => {
                xbzrle.encode(pfn, contents, last, syncs, ctx)
            }
            Some(_) | None => Content::Data(contents),
        }
    }

    /// Writes the page in hand, or drops it when there is nothing to write.
    fn send(&mut self, last: bool, ctx: &mut Ctx<'_>) -> u64 {
        let Some(Hand { pfn, content: Some(content) }) = self.hand.take() else { unreachable!("a page that was read is sent") };
        let round = self.ram().syncs();
        ctx.emit(match &content {
            Content::Same => Event::RamSkip { pfn },
            Content::Delta(delta) => Event::RamDelta { pfn, len: delta.len() as u64, round },
            Content::Zero | Content::Data(_) | Content::Cached(_) => Event::RamSend { pfn, zero: content.is_zero(), round },
        });
        let cost = self.count_content(&content);
        let there = self.addressed(pfn, &content, ctx);
        if self.file.is_some() {
            self.write_file(pfn, content, false, ctx);
        } else if std::mem::take(&mut self.post.to_lane) {
            self.post.lane.push(Record::Page { pfn, content });
        } else if content != Content::Same {
            self.wire.push(Record::Page { pfn: there, content });
        }
        self.release_sent(pfn);
        self.saved(pfn, false);
        self.clock(last, ctx.now_ns + cost);
        cost
    }

    /// Returns where the destination finds the page of a record: a header says the block, or that it is the block of the record before.
    /// [`Fault::SkippedPageNamesBlock`]: a page of which nothing was written counts as the record before.
    fn addressed(&mut self, pfn: Pfn, content: &Content, ctx: &mut Ctx<'_>) -> Pfn {
        // Only where differences are taken can a page have nothing to write.
        if self.xbzrle.is_none() || !ctx.faults.on(Fault::SkippedPageNamesBlock) {
            return pfn;
        }
        let (block, page) = self.ram().place_of(pfn);
        let (last, named) = self.named.unwrap_or((block, block));
        let named = if last == block || *content == Content::Same { named } else { block };
        self.named = Some((block, named));
        let there = self.ram().page_of(named, page);
        if there.is_none() {
            ctx.crash(format!("the destination has no page {page} in the block of the record before"));
        }
        there.unwrap_or(pfn)
    }

    /// Accounts for a page on the wire, and returns the time it takes there.
    pub(crate) fn count_content(&mut self, content: &Content) -> u64 {
        match content {
            Content::Zero => self.count(true),
            Content::Data(_) | Content::Cached(_) => self.count(false),
            Content::Delta(_) => {
                let bytes = content.record_bytes();
                self.pages_normal += 1;
                self.bytes_sent += bytes;
                bytes * 1_000_000_000 / self.options.bandwidth
            }
            Content::Same => 0,
        }
    }

    /// Accounts for a page of zeros or of data on the wire, and returns the time it takes there.
    fn count(&mut self, zero: bool) -> u64 {
        if zero {
            self.pages_zero += 1;
            self.bytes_sent += ZERO_RECORD_BYTES;
            self.zero_ns
        } else {
            self.pages_normal += 1;
            self.bytes_sent += DATA_RECORD_BYTES;
            self.data_ns
        }
    }

    /// Counts a page of the slice, and ends the slice when its time is over.
    fn clock(&mut self, last: bool, now_ns: u64) {
        let looks = self.slice.sent.is_multiple_of(CLOCK_PAGES);
        if !last && self.options.paced && looks && (now_ns - self.slice.start_ns) / NS_PER_MS > SLICE_MS_MAX {
            self.slice.over = true;
        }
        self.slice.sent += 1;
    }

    /// Returns whether the stream still works and is wanted.
    pub(crate) fn healthy(&self) -> bool {
        match self.status {
            MigrationStatus::Setup
            | MigrationStatus::Active
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device
            | MigrationStatus::PostcopyDevice
            | MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyRecover => !self.link_down,
            MigrationStatus::None
            | MigrationStatus::Completed
            | MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::Failed => false,
        }
    }
}
