//! Channels: packets of pages that threads of their own read and send, beside the main channel.
//!
//! QEMU: migration/multifd.c multifd_queue_page(), multifd_send(), multifd_send_thread(), multifd_send_sync_main(); multifd-nocomp.c;
//! multifd-zero-page.c. The migration thread takes pages from B and collects them; a full packet goes to the next channel that has nothing to do.
//! Its sender looks for zero pages, if it is asked to, reads the others and writes the packet: the data first, then the zeros. Pages of two packets
//! travel on two channels and overtake each other, so that whenever the scan has passed all of RAM everything is written out, and a barrier
//! stands in each channel and in the main one: the destination goes on behind it when it has come in all of them.
//!
//! With zero copy the sender has done its part once it has queued a packet: its pages are read when they leave, and only a flush waits for that.
//!
//! Differs: a packet's header costs nothing, and what a method compresses has its full length. The destination's threads are in `incoming`.

use std::collections::VecDeque;

use crate::event::{Actor, Event, EventKind, PageRange, Pfn};
use crate::fault::Fault;
use crate::migration::encoding::{Compression, Content, EncodingOptions};
use crate::migration::run::Run;
use crate::migration::wire::WIRE_PAGES_MAX;
use crate::migration::xbzrle::read_page;
use crate::step::{Await, Ctx, Move, Next};

/// Pages of a packet (QEMU: migration/multifd.h MULTIFD_PACKET_SIZE, 512 KiB).
pub const PACKET_PAGES_MAX: usize = 128;

/// What a sender has to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Job {
    /// To read and to write a packet.
    Packet(Packet),
    /// To write a barrier.
    Barrier {
        /// The main channel has one, too.
        main: bool,
    },
}

/// Pages that travel together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Packet {
    /// Read ones first.
    pages: Vec<(Pfn, Option<Content>)>,
    /// How many of them are written.
    written: usize,
    /// The round in which they were taken.
    round: u32,
}

/// What arrives from a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Item {
    /// A page.
    Page {
        /// Which.
        pfn: Pfn,
        /// Its contents.
        content: Content,
    },
    /// Everything before has arrived; what is behind waits until that holds for all channels.
    Barrier {
        /// And for the main one.
        main: bool,
    },
}

/// A channel: its sender's jobs, and what is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Channel {
    jobs: VecDeque<Job>,
    items: VecDeque<Item>,
}

impl Channel {
    /// Barriers are written as soon as they stand in front.
    fn write_barriers(&mut self) {
        while let Some(Job::Barrier { main }) = self.jobs.front() {
            self.items.push_back(Item::Barrier { main: *main });
            self.jobs.pop_front();
        }
    }

    /// Returns the packet that the sender is at.
    fn packet(&self) -> Option<&Packet> {
        match self.jobs.front() {
            Some(Job::Packet(packet)) => Some(packet),
            Some(Job::Barrier { .. }) => unreachable!("a barrier is written at once"),
            None => None,
        }
    }

    fn is_full(&self) -> bool {
        self.items.len() >= WIRE_PAGES_MAX
    }
}

/// All channels. QEMU: migration/multifd.c multifd_send_state, multifd_recv_state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Multifd {
    channels: Vec<Channel>,
    /// Pages that are taken and not given to a channel.
    packet: Vec<Pfn>,
    /// The channel that is asked first whether it has nothing to do.
    turn: usize,
    /// Where the scan took its last page since the last barrier.
    last: Option<(usize, u64)>,
    /// Something was sent since the last barrier, on whichever channel.
    unflushed: bool,
}

/// What the channels need of the migration thread before it takes a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing.
    None,
    /// To wait for a sender.
    Wait,
    /// To give the packet to this channel.
    Give(u8),
    /// To flush.
    Flush,
}

impl Multifd {
    /// Returns channels without anything on them.
    pub(crate) fn new(channels: u8) -> Self {
        let channels = vec![Channel::default(); usize::from(channels)];
        Self { channels, packet: Vec::new(), turn: 0, last: None, unflushed: false }
    }

    /// Returns the pages that were read and have not arrived.
    pub fn pages(&self) -> impl Iterator<Item = Pfn> {
        self.channels.iter().flat_map(|channel| &channel.items).filter_map(|item| match item {
            Item::Page { pfn, .. } => Some(*pfn),
            Item::Barrier { .. } => None,
        })
    }

    /// Returns what arrives next from a channel.
    pub fn front(&self, channel: u8) -> Option<&Item> {
        self.channels.get(usize::from(channel))?.items.front()
    }

    /// The link is shut: what is not delivered is gone; `arrived`: but what the destination's machine has received its threads still find.
    pub(crate) fn shut(&mut self, arrived: bool) {
        self.packet.clear();
        for channel in &mut self.channels {
            channel.jobs.clear();
            channel.items.retain(|item| arrived && matches!(item, Item::Page { .. }));
        }
    }

    /// A page was sent on the main channel.
    pub(crate) fn sent_beside(&mut self, place: (usize, u64)) {
        (self.last, self.unflushed) = (Some(place), true);
    }

    /// A page was taken for a packet.
    pub(crate) fn queue(&mut self, pfn: Pfn, place: (usize, u64)) {
        assert!(self.packet.len() < PACKET_PAGES_MAX, "page {pfn} does not fit into the packet");
        self.packet.push(pfn);
        self.sent_beside(place);
    }

    /// Returns what is due before the scan takes its next page, which is at that place; `None`: there is none.
    /// [`Fault::NoRoundBarrier`]: nothing but at the end, when the scan has passed all of RAM; what is left of a packet goes out all the same.
    pub(crate) fn duty(&self, next: Option<(usize, u64)>, last: bool, encoding: &EncodingOptions, ctx: &Ctx<'_>) -> Duty {
        let passed = match next {
            None => self.unflushed,
            Some(next) => self.last.is_some_and(|last| next <= last),
        };
        let barrier = passed && (last && next.is_none() || !ctx.faults.on(Fault::NoRoundBarrier));
        if self.packet.len() == PACKET_PAGES_MAX || !self.packet.is_empty() && passed {
            return match self.idle(encoding) {
                Some(channel) => Duty::Give(channel),
                None => Duty::Wait,
            };
        }
        // [`Fault::FlushForgetsQueued`]: what is queued counts as sent.
        let forgets = encoding.zero_copy && ctx.faults.on(Fault::FlushForgetsQueued);
        let drained = forgets || self.channels.iter().all(|channel| channel.jobs.is_empty());
        match () {
            () if !barrier => Duty::None,
            () if drained => Duty::Flush,
            () => Duty::Wait,
        }
    }

    /// Returns the next channel that takes a packet. With zero copy a sender is at its next packet while the last one leaves.
    fn idle(&self, encoding: &EncodingOptions) -> Option<u8> {
        let count = self.channels.len();
        let order = (0..count).map(|step| (self.turn + step) % count);
        order.into_iter().find(|at| encoding.zero_copy || self.channels[*at].jobs.is_empty()).map(|at| at as u8)
    }

    /// Gives the packet to a channel, and returns its number of pages.
    pub(crate) fn give(&mut self, channel: u8, round: u32) -> u32 {
        let pages: Vec<_> = self.packet.drain(..).map(|pfn| (pfn, None)).collect();
        let count = pages.len() as u32;
        self.turn = (usize::from(channel) + 1) % self.channels.len();
        self.channels[usize::from(channel)].jobs.push_back(Job::Packet(Packet { pages, written: 0, round }));
        count
    }

    /// Puts a barrier behind everything in each channel, and returns the number of channels. Into a file goes none: each page has its place there
    /// (QEMU: migration/multifd.c multifd_send_sync_main() has nothing to write then).
    pub(crate) fn flush(&mut self, main: bool, into_file: bool) -> u32 {
        let channels = if into_file { &mut [] } else { self.channels.as_mut_slice() };
        for channel in channels {
            channel.jobs.push_back(Job::Barrier { main });
            channel.write_barriers();
        }
        (self.last, self.unflushed) = (None, false);
        self.channels.len() as u32
    }

    /// Returns whether a barrier stands in front of all channels; `main`: one that the main channel waits for, or one that it does not.
    pub(crate) fn all_at_barrier(&self, wanted: bool) -> bool {
        self.channels.iter().all(|channel| matches!(channel.items.front(), Some(Item::Barrier { main }) if *main == wanted))
    }

    /// The barrier opens; returns the number of channels.
    pub(crate) fn open_barrier(&mut self) -> u32 {
        for channel in &mut self.channels {
            let barrier = channel.items.pop_front();
            assert!(matches!(barrier, Some(Item::Barrier { .. })), "{barrier:?} is no barrier");
        }
        self.channels.len() as u32
    }

    /// Takes what arrives next from a channel.
    pub(crate) fn receive(&mut self, channel: u8) -> Option<Item> {
        self.channels[usize::from(channel)].items.pop_front()
    }
}

impl Run {
    /// Returns what a channel's sender would do next: read a page of its packet, or write one.
    pub(crate) fn channel_next(&self, channel: u8) -> Next {
        let Some(multifd) = self.multifd.as_ref().filter(|multifd| usize::from(channel) < multifd.channels.len()) else {
            return Next::Idle;
        };
        let on = |kind, pfn| Next::Do(Move::on(kind, PageRange::page(pfn)));
        let channel = &multifd.channels[usize::from(channel)];
        match channel.packet() {
            None => Next::Idle,
            Some(packet) => match packet.pages.iter().find(|(_, content)| content.is_none()) {
                Some((pfn, _)) => on(EventKind::RamRead, *pfn),
                None if channel.is_full() => Next::Wait(Await::Peer),
                None => on(EventKind::RamSend, packet.pages[packet.written].0),
            },
        }
    }

    /// Makes the sender's next move, and returns its cost, nanoseconds. Pages that nobody watches go many at a time.
    pub(crate) fn channel_step(&mut self, channel: u8, ctx: &mut Ctx<'_>) -> u64 {
        let at = usize::from(channel);
        assert!(self.healthy(), "a sender moves on a link that is shut");
        let Some(multifd) = &mut self.multifd else { unreachable!("{} moves without channels", Actor::Channel(channel)) };
        let Some(Job::Packet(mut packet)) = multifd.channels[at].jobs.pop_front() else { unreachable!("a sender without a packet moves") };
        let cost = if packet.pages.iter().any(|(_, content)| content.is_none()) {
            packet.read(&self.options.encoding, ctx)
        } else {
            self.write(at, &mut packet, ctx)
        };
        let left = packet.written < packet.pages.len() && !self.drops(&packet, ctx);
        let channel = &mut self.multifd.as_mut().expect("it has channels").channels[at];
        if left {
            channel.jobs.push_front(Job::Packet(packet));
        }
        channel.write_barriers();
        cost
    }

    /// [`Fault::DropZeroPacket`]: a packet of zero pages alone is not written when a method compresses.
    fn drops(&self, packet: &Packet, ctx: &Ctx<'_>) -> bool {
        let zeros = packet.pages.iter().all(|(_, content)| content.as_ref().is_some_and(Content::is_zero));
        zeros && self.options.encoding.compression != Compression::None && ctx.faults.on(Fault::DropZeroPacket)
    }

    /// Writes a watched page of a packet, or those up to the next watched one, as far as there is room.
    fn write(&mut self, channel: usize, packet: &mut Packet, ctx: &mut Ctx<'_>) -> u64 {
        let mut cost = 0;
        loop {
            let (pfn, content) = packet.pages[packet.written].clone();
            let content = content.expect("a packet is read before it is written");
            let zero = content.is_zero();
            ctx.emit(Event::RamSend { pfn, zero, round: packet.round });
            cost += self.count_content(&content) * self.channels();
            packet.written += 1;
            if self.file.is_some() {
                self.write_file(pfn, content, true, ctx);
            } else {
                let multifd = self.multifd.as_mut().expect("it has channels");
                multifd.channels[channel].items.push_back(Item::Page { pfn, content });
            }
            let multifd = self.multifd.as_ref().expect("it has channels");
            let next = packet.pages.get(packet.written).filter(|_| !multifd.channels[channel].is_full());
            if ctx.watch.has(pfn) || next.is_none_or(|(next, _)| ctx.watch.has(*next)) {
                return cost;
            }
        }
    }

    /// Returns how many share the link.
    fn channels(&self) -> u64 {
        self.multifd.as_ref().map_or(1, |multifd| multifd.channels.len() as u64)
    }
}

impl Packet {
    /// Reads a watched page, or those up to the next watched one. When all are read those that are zero go to the end (QEMU:
    /// multifd_send_zero_page_detect()).
    fn read(&mut self, encoding: &EncodingOptions, ctx: &mut Ctx<'_>) -> u64 {
        let first = self.pages.iter().position(|(_, content)| content.is_none()).expect("a page that is not read");
        let mut cost = 0;
        for (pfn, content) in &mut self.pages[first..] {
            if cost > 0 && ctx.watch.has(*pfn) {
                break;
            }
            let zero = encoding.senders_find_zeros() && ctx.ram.is_zero(*pfn);
            *content = Some(if zero { Content::Zero } else { Content::Data(read_page(*pfn, ctx.ram)) });
            ctx.emit(Event::RamRead { pfn: *pfn, zero });
            encoding.die_of(*pfn, ctx);
            cost += ctx.costs.page_ns.max(1);
            if ctx.watch.has(*pfn) {
                break;
            }
        }
        if self.pages.iter().all(|(_, content)| content.is_some()) {
            self.pages.sort_by_key(|(_, content)| content.as_ref().is_some_and(Content::is_zero));
        }
        if ctx.costs.page_ns == 0 { 0 } else { cost }
    }
}
