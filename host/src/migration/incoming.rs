//! The destination's moves: it takes records off the wire, one by one, and starts when it has all.
//!
//! QEMU: migration/savevm.c qemu_loadvm_state_main(), migration/ram.c ram_load_precopy(), migration/migration.c
//! process_incoming_migration_bh().

use std::sync::Arc;

use crate::destination::{Destination, DestinationStatus};
use crate::event::{Event, EventKind, PageRange, Pfn};
use crate::fault::Fault;
use crate::migration::encoding::{Compression, Content};
use crate::migration::multifd::Item;
use crate::migration::run::Run;
use crate::migration::wire::Record;
use crate::step::{Await, Ctx, Move, Next};

impl Run {
    /// The destination gives up, and the link with it. Differs: a source that does not wait for an answer (QEMU: capability return-path) takes the VM for moved.
    fn refuse(&mut self, ctx: &mut Ctx<'_>) {
        self.wire.shut();
        self.link_down = true;
        ctx.emit(Event::LinkDown);
    }

    /// Returns the destination's next move: a record, or its start.
    pub(crate) fn destination_next(&self, destination: &Destination, ctx: &Ctx<'_>) -> Next {
        // The package is complete: what comes behind it does not hold the start back, nor does a link that breaks.
        if self.in_postcopy() && destination.status() == DestinationStatus::Loaded {
            return Next::Do(Move::plain(EventKind::PostcopyStart));
        }
        if self.stalled {
            return Next::Idle;
        }
        if let Some(next) = self.loading_next(destination) {
            return next;
        }
        match self.wire.front() {
            Some(Record::End) if !self.end_waits(ctx.faults) => Next::Do(Move::plain(EventKind::DstEnd)),
            _ if self.lane_is_open(ctx.faults) => {
                let pfn = self.post.lane.pages().next().expect("pages alone go there");
                Next::Do(Move::on(EventKind::DstPlace, PageRange::page(pfn)))
            }
            Some(Record::Page { pfn, .. }) => Next::Do(Move::on(EventKind::DstPlace, PageRange::page(*pfn))),
            Some(Record::Flush) if self.multifd.as_ref().is_some_and(|multifd| multifd.all_at_barrier(true)) => {
                Next::Do(Move::plain(EventKind::ChannelSync))
            }
            Some(Record::Flush) => Next::Idle,
            Some(Record::Device { .. }) => Next::Do(Move::plain(EventKind::DstDevice)),
            Some(Record::Discard { range }) => Next::Do(Move::on(EventKind::DstDiscard, *range)),
            Some(Record::End) => Next::Wait(Await::Page),
            None if self.healthy() && destination.status() == DestinationStatus::Loaded => Next::Do(Move::plain(EventKind::DstStart)),
            None => self.idle(),
        }
    }

    /// Makes the destination's next move, and returns its cost, nanoseconds.
    pub(crate) fn destination_step(&mut self, destination: &mut Destination, ctx: &mut Ctx<'_>) -> u64 {
        if self.in_postcopy() && destination.status() == DestinationStatus::Loaded {
            destination.finish(self.stopped_vm);
            ctx.emit(Event::PostcopyStart);
            self.move_guest(self.stopped_vm, destination);
            return ctx.costs.vm_stop_ns;
        }
        let record = if self.loading_next(destination).is_some() {
            match self.load(destination, ctx) {
                None => return ctx.costs.exit_ns,
                loaded => loaded,
            }
        } else {
            let ends = self.wire.front() == Some(&Record::End) && !self.end_waits(ctx.faults);
            let lane = !ends && self.lane_is_open(ctx.faults);
            if lane { self.post.lane.pop() } else { self.wire.pop() }
        };
        match record {
            Some(Record::Page { pfn, content }) => {
                ctx.emit(Event::DstPlace { pfn, zero: content.is_zero() });
                self.place(pfn, &content, destination, ctx);
                self.land(pfn, ctx);
                ctx.costs.page_ns / 2
            }
            Some(Record::Flush) => self.open_barrier(ctx),
            Some(Record::Device { id, state, start }) => {
                ctx.emit(Event::DstDevice { id });
                let Ok(device) = state.load().inspect_err(|error| ctx.emit(Event::DstRefuse { message: error.0.to_owned() })) else {
                    self.refuse(ctx);
                    return ctx.costs.state_ns;
                };
                if let Some(file) = &self.file {
                    file.load(destination, ctx);
                }
                destination.load_device(id, device);
                if self.in_postcopy() {
                    self.post.loaded = true;
                } else if !start {
                    destination.finish(false);
                    self.destination_done = true;
                }
                ctx.costs.state_ns
            }
            Some(Record::Discard { range }) => {
                ctx.emit(Event::DstDiscard { range });
                destination.discard(self.droppable(range));
                ctx.costs.clear_ns
            }
            Some(Record::End) => {
                self.end_postcopy(ctx);
                ctx.costs.state_ns
            }
            None => {
                destination.finish(true);
                self.destination_done = true;
                ctx.emit(Event::DstStart);
                if self.options.modes.run_on {
                    self.move_guest(true, destination);
                }
                ctx.costs.vm_stop_ns
            }
        }
    }
    /// Returns what a channel's receiver would do next: place a page, or, where the main channel does not wait, open the barrier.
    pub(crate) fn receiver_next(&self, channel: u8) -> Next {
        let Some(multifd) = &self.multifd else { return Next::Idle };
        match multifd.front(channel) {
            _ if self.stalled => Next::Idle,
            Some(Item::Page { pfn, .. }) => Next::Do(Move::on(EventKind::DstPlace, PageRange::page(*pfn))),
            Some(Item::Barrier { main: false }) if channel == 0 && multifd.all_at_barrier(false) => {
                Next::Do(Move::plain(EventKind::ChannelSync))
            }
            Some(Item::Barrier { .. }) | None => Next::Idle,
        }
    }

    /// Makes the receiver's next move, and returns its cost, nanoseconds. Pages that nobody watches go many at a time.
    pub(crate) fn receiver_step(&mut self, channel: u8, destination: &mut Destination, ctx: &mut Ctx<'_>) -> u64 {
        let mut cost = 0;
        loop {
            let multifd = self.multifd.as_mut().expect("a receiver has a channel");
            let pfn = match multifd.front(channel) {
                Some(Item::Page { pfn, .. }) if cost == 0 || !ctx.watch.has(*pfn) => *pfn,
                Some(Item::Barrier { .. }) if cost == 0 => return self.open_barrier(ctx),
                Some(_) | None => break,
            };
            let Some(Item::Page { content, .. }) = multifd.receive(channel) else { unreachable!("a page stands in front") };
            ctx.emit(Event::DstPlace { pfn, zero: content.is_zero() });
            if self.post.moved {
                ctx.crash(format!("a receiver places page {pfn} in postcopy"));
                break;
            }
            if self.link_down {
                ctx.crash(format!("a receiver records page {pfn} in R, which is freed"));
                break;
            }
            self.place_from_channel(pfn, content, destination, ctx);
            cost += (ctx.costs.page_ns / 2).max(1);
            if ctx.watch.has(pfn) {
                break;
            }
        }
        if ctx.costs.page_ns == 0 { 0 } else { cost }
    }

    fn open_barrier(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        let channels = self.multifd.as_mut().expect("a barrier stands in channels").open_barrier();
        ctx.emit(Event::ChannelSync { channels });
        ctx.costs.lock_ns
    }

    /// Places a page of a channel (QEMU: migration/multifd-zero-page.c multifd_recv_zero_page_process(), multifd-nocomp.c multifd_nocomp_recv()).
    /// Where postcopy may follow, zeros are written whenever they come (249543d0c0). [`Fault::UnrecordedPages`]: where an accelerator decompresses
    /// pages, R does not learn of them. [`Fault::ZerosSkippedForPostcopy`]: the first zeros of a page are taken to be there, as ever.
    pub(crate) fn place_from_channel(&self, pfn: Pfn, content: Content, destination: &mut Destination, ctx: &Ctx<'_>) {
        let unrecorded = self.options.encoding.compression == Compression::Qpl && ctx.faults.on(Fault::UnrecordedPages);
        match content {
            Content::Zero if self.options.modes.postcopy && !ctx.faults.on(Fault::ZerosSkippedForPostcopy) => destination.place_zero(pfn),
            Content::Zero => destination.receive_zero(pfn),
            Content::Data(contents) if unrecorded => destination.place_unrecorded(pfn, contents),
            Content::Data(contents) => destination.place_data(pfn, contents),
            Content::Delta(_) | Content::Cached(_) | Content::Same => unreachable!("channels carry no differences"),
        }
    }

    /// Places a record of the main channel (QEMU: migration/ram.c ram_load_precopy(), load_xbzrle()).
    pub(crate) fn place(&self, pfn: Pfn, content: &Content, destination: &mut Destination, ctx: &mut Ctx<'_>) {
        match content {
            Content::Zero => destination.place_zero(pfn),
            Content::Data(contents) => destination.place_data(pfn, Arc::clone(contents)),
            Content::Delta(_) if self.in_postcopy() => {
                ctx.crash(format!("the destination cannot place a difference of page {pfn} in postcopy"))
            }
            Content::Delta(delta) => {
                if let Err(error) = destination.place_delta(pfn, delta) {
                    ctx.crash(format!("the destination cannot decode the difference of page {pfn}: {error:?}"));
                }
            }
            Content::Cached(slot) => {
                let cache = self.xbzrle.as_ref().expect("who sends from a cache has one");
                destination.place_data(pfn, cache.copy(*slot));
            }
            Content::Same => {}
        }
    }
}
