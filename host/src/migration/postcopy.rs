//! Postcopy: the guest runs at the destination while its pages still come.
//!
//! QEMU: migration/migration.c postcopy_start(), migration_completion_postcopy(), postcopy_pause(); migration/postcopy-ram.c
//! postcopy_ram_fault_thread(), postcopy_place_page(); migration/ram.c get_queued_page(), ram_dirty_bitmap_reload(). What the destination has not
//! is *missing*: whoever touches such a page waits in front of the access, a request goes to the source, and the page is placed once. The
//! source's copy of a missing page is in guest RAM all the while, where nobody can see it; what is placed takes its place there.
//!
//! ```text
//! Active ── migrate_start_postcopy ──> PostcopyDevice ── the destination has the devices ──> PostcopyActive ──> Completed
//!                                                                                             │        ▲
//!                                                                                        broken link   │ B made of R
//!                                                                                             v        │
//!                                                                                       PostcopyPaused ── migrate_recover ──> PostcopyRecover
//! ```
//!
//! With `run_on`, a plain precopy ends in the same way: the machine goes over to the destination's memory. From there on the source is what was
//! left behind, and the next migration goes the other way.
//!
//! Requests reach the source by a thread of their own (`return_path.rs`); the migration thread takes them from it between two pages.
//!
//! Differs: a link that breaks before PostcopyActive is waited for once the destination has the devices. QEMU fails such a migration, and starts
//! the source's guest again if it gets its disks back (migration_detect_error(), migration_iteration_finish()): it cannot tell whether the other runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::destination::Destination;
use crate::dirty::bitmap::DirtyBitmap;
use crate::event::{Event, EventKind, MigrationStatus, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::migration::encoding::EncodingOptions;
use crate::migration::engine::Migration;
use crate::migration::return_path::ReturnPath;
use crate::migration::run::Run;
use crate::migration::wire::{Record, Wire};
use crate::step::{Await, Ctx, Move, Next};

/// How a migration goes beyond plain precopy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Modes {
    /// The guest goes on at the destination. QEMU has no such option: there it always does.
    pub run_on: bool,
    /// Capability `postcopy-ram`: the migration may be switched, and nobody hints.
    pub postcopy: bool,
    /// Rate limit once switched, bytes/s; 0: none (QEMU: `max-postcopy-bandwidth`).
    pub max_postcopy_bandwidth: u64,
    /// Capability `postcopy-preempt`: pages that are asked for have a channel of their own.
    pub preempt: bool,
    /// Capability `release-ram`: once switched, the source drops what it has sent.
    pub release_ram: bool,
    /// Capability `background-snapshot`: memory is saved as it is at one moment, and the guest goes on here.
    pub snapshot: bool,
}

impl Modes {
    /// Returns what QEMU would refuse beside a background snapshot: an option, by its name in scenarios, and why. QEMU: migration/options.c
    /// check_caps_background_snapshot.
    pub fn refused(&self, encoding: &EncodingOptions, auto_converge: bool, pause: bool) -> Option<(&'static str, &'static str)> {
        match () {
            () if !self.snapshot => None,
            () if self.postcopy => Some(("postcopy", "a background snapshot goes to nobody who could run")),
            () if self.release_ram => Some(("release_ram", "a background snapshot's guest goes on here")),
            () if encoding.channels > 0 => Some(("multifd_channels", "a background snapshot goes by the main channel")),
            () if encoding.xbzrle_pages > 0 => Some(("xbzrle", "a background snapshot sends no page twice")),
            () if auto_converge => Some(("throttle", "a background snapshot needs no throttle")),
            () if pause => Some(("pause_before_switchover", "a background snapshot has no switchover")),
            () => None,
        }
    }

    /// Returns whether the guest goes on at the destination.
    pub fn moves(&self) -> bool {
        self.run_on || self.postcopy
    }
}

/// The state of a migration that may be switched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Postcopy {
    /// `migrate_start_postcopy` was given.
    pub(crate) wanted: bool,
    /// The destination has told that it has the devices (QEMU: the PONG of the package's PING).
    pub(crate) loaded: bool,
    /// `migrate_recover` was given.
    pub(crate) recover: bool,
    /// The guest is at the destination.
    pub(crate) moved: bool,
    /// Pages that somebody at the destination waits for; whether the request went out before the link broke.
    asked: BTreeMap<Pfn, bool>,
    /// Requests on their way to the source.
    pub(crate) returning: ReturnPath,
    /// Requests that have reached it, until the migration thread looks (QEMU: `src_page_requests`).
    requests: VecDeque<Pfn>,
    /// The requested page that goes next.
    pub(crate) urgent: Option<Pfn>,
    /// Pages that the destination has not, once it runs.
    missing: Option<DirtyBitmap>,
    landing: Landing,
    /// The channel of pages that are asked for.
    pub(crate) lane: Wire,
    /// The page in hand goes there.
    pub(crate) to_lane: bool,
    /// Pages that the devices need to be loaded: those of their rings.
    needs: Vec<Pfn>,
    /// The devices' state while it is being loaded, when that has to wait for a page.
    loading: Option<Record>,
    /// Pages whose contents the source has dropped.
    released: BTreeSet<Pfn>,
    /// Target pages of a page of the host's, behind the switch.
    host_page: u64,
}

/// What the machine has to take over from the destination.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Landing {
    /// The guest goes on there from now on, running or not.
    pub moved: Option<bool>,
    /// Pages that were placed in a guest that runs.
    pub placed: Vec<Pfn>,
    /// Pages that will never come: they are zeros from now on (Linux: UFFDIO_UNREGISTER of memory that nobody filled).
    pub given_up: Vec<Pfn>,
    /// Which pages may be used has changed beside that.
    pub changed: bool,
}

impl Postcopy {
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self {
            wanted,
            loaded,
            recover,
            moved,
            asked,
            returning,
            requests,
            urgent,
            missing,
            landing: _,
            lane,
            to_lane,
            needs,
            loading,
            released,
            host_page: _,
        } = self;
        returning.fold(fold);
        fold.add_each(Tag::Postcopy, [*wanted, *loaded, *recover, *moved, *to_lane]);
        if *moved || !asked.is_empty() || loading.is_some() {
            fold.add_part(Tag::Requests, &(&*asked, &*requests, *urgent, &*lane, &*needs, &*loading));
        }
        for pfn in released.iter() {
            fold.word(Tag::Released as u64, pfn.0, 1);
        }
        if let Some(missing) = missing {
            fold.sum_of(Tag::Missing as u64, missing.fold());
        }
    }

    /// Returns the next request, if nothing that was requested is about to be sent.
    pub(crate) fn request(&self) -> Option<Pfn> {
        self.requests.front().copied().filter(|_| self.urgent.is_none())
    }

    /// Returns whether a page is asked for and not yet looked for.
    pub(crate) fn has_work(&self) -> bool {
        self.urgent.is_some() || !self.requests.is_empty()
    }

    /// A request has reached the source.
    pub(crate) fn requested(&mut self, pfn: Pfn) {
        self.requests.push_back(pfn);
    }

    /// Returns whether somebody waits for a page.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(crate) fn landed(&mut self, what: impl FnOnce(&mut Landing)) {
        what(&mut self.landing);
    }

    /// Pages of the running guest are dropped: who touches them asks for them again.
    pub(crate) fn miss_again(&mut self, range: PageRange) {
        if let Some(missing) = &mut self.missing {
            missing.set_range(range);
            self.landing.changed = true;
        }
    }

    /// The link broke: what is on it is gone, in both directions.
    pub(crate) fn cut(&mut self) {
        self.returning.cut();
        self.requests.clear();
        self.urgent = None;
        self.loaded = false;
        self.lane.shut();
    }
}

impl Migration {
    /// `migrate_start_postcopy`. Returns whether it means anything now.
    pub fn start_postcopy(&mut self) -> bool {
        let means = self.run.options.modes.postcopy && self.run.status.is_running();
        self.run.post.wanted |= means;
        means
    }

    /// `migrate_recover`, and `migrate` with `resume`: a new link joins both sides. Returns whether that is done. With `release-ram` QEMU refuses it,
    /// for what was on the old link is nowhere now (migration/migration.c migrate_prepare()). [`Fault::RecoverReleased`]: it does not.
    pub fn recover(&mut self, faults: &Faults) -> bool {
        let paused = self.run.status == MigrationStatus::PostcopyPaused;
        let resumes = paused && (!self.run.options.modes.release_ram || faults.on(Fault::RecoverReleased));
        if resumes {
            self.run.link_down = false;
            self.run.post.recover = true;
        }
        resumes
    }

    /// Returns whether the guest has gone over to the destination, and the source is what is left.
    pub fn has_moved(&self) -> bool {
        self.run.post.moved
    }

    /// Returns the pages that the running destination has not; none where it has all.
    pub fn missing(&self) -> Option<&DirtyBitmap> {
        self.run.post.missing.as_ref()
    }

    /// Returns whether the page is missing.
    pub fn is_missing(&self, pfn: Pfn) -> bool {
        self.missing().is_some_and(|missing| missing.test(pfn))
    }

    /// Returns whether somebody waits for the page already.
    pub fn is_asked_for(&self, pfn: Pfn) -> bool {
        self.run.post.asked.contains_key(&pfn)
    }

    /// Returns whether a request for the page is on its way, or its answer.
    pub fn request_is_under_way(&self, pfn: Pfn) -> bool {
        let Postcopy { returning, requests, urgent, .. } = &self.run.post;
        let sent =
            self.hand().is_some_and(|hand| hand.pfn == pfn) || self.wire().pages().chain(self.lane().pages()).any(|page| page == pfn);
        sent || returning.carries(pfn) || requests.contains(&pfn) || *urgent == Some(pfn)
    }

    /// Returns what is on its way on the channel of pages that are asked for.
    pub fn lane(&self) -> &Wire {
        &self.run.post.lane
    }

    /// Returns a page that somebody waits for, when no request for it is under way, nor its answer.
    pub fn unasked(&self) -> Option<Pfn> {
        self.run.post.asked.keys().copied().find(|pfn| !self.request_is_under_way(*pfn))
    }

    /// Somebody at the destination touches a missing page. QEMU: postcopy_ram_fault_thread(), migrate_send_rp_req_pages(): what R has is not asked
    /// for, since it must be on its way into memory.
    ///
    /// # Panics
    /// When the page is not missing, or is asked for.
    pub fn page_fault(&mut self, pfn: Pfn, destination: &Destination, ctx: &mut Ctx<'_>) {
        assert!(self.is_missing(pfn) && !self.is_asked_for(pfn), "page {pfn} is no news");
        ctx.emit(Event::DstFault { pfn });
        let linked = self.run.healthy();
        self.run.post.asked.insert(pfn, linked);
        if linked && !destination.received().test(pfn) {
            self.run.post.returning.ask(pfn, ctx);
        }
    }

    /// Somebody at the destination touches a missing page that is not plugged: the source will not send it, so an empty one is placed.
    /// QEMU: postcopy_request_page(), postcopy_place_page_zero().
    ///
    /// # Panics
    /// When the page is not missing.
    pub fn place_locally(&mut self, pfn: Pfn, destination: &mut Destination, ctx: &mut Ctx<'_>) {
        assert!(self.is_missing(pfn), "page {pfn} is no news");
        ctx.emit(Event::DstFault { pfn });
        ctx.emit(Event::DstPlace { pfn, zero: true });
        destination.place_zero(pfn);
        self.run.land(pfn, ctx);
    }

    /// Returns what the machine has to take over since the last call.
    pub fn take_landing(&mut self) -> Option<Landing> {
        let landing = &mut self.run.post.landing;
        (*landing != Landing::default()).then(|| std::mem::take(landing))
    }
}

impl Run {
    /// Returns whether the guest has been, or is being, sent off before its pages.
    pub(crate) fn in_postcopy(&self) -> bool {
        match self.status {
            MigrationStatus::PostcopyDevice
            | MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => true,
            MigrationStatus::None
            | MigrationStatus::Setup
            | MigrationStatus::Active
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device
            | MigrationStatus::Completed
            | MigrationStatus::Cancelling
            | MigrationStatus::Cancelled
            | MigrationStatus::Failing
            | MigrationStatus::Failed => false,
        }
    }

    /// Tells the destination what to drop: all that will be sent again, in whole pages of the host's (QEMU: ram_postcopy_send_discard_bitmap()).
    /// Differs: what is sent then is placed page by page all the same. [`Fault::HostPageInParts`]: only the part of a host page that is in B.
    pub(crate) fn send_discards(&mut self, host_page: u64, faults: &Faults) {
        self.post.host_page = host_page;
        if host_page > 1 && !faults.on(Fault::HostPageInParts) {
            self.ram_mut().round_to_host_pages(host_page);
        }
        for range in self.ram().b().ranges() {
            self.wire.push(Record::Discard { range });
        }
    }

    /// Returns what of a range can be dropped: whole pages of the host's. Those at the end of memory count as whole.
    pub(crate) fn droppable(&self, range: PageRange) -> PageRange {
        let count = self.post.host_page.max(1);
        let first = range.first.0.next_multiple_of(count);
        let at_end = range.end().0 == self.ram().b().pages();
        let end = if at_end { range.end().0 } else { range.end().0 - range.end().0 % count };
        PageRange::new(Pfn(first), end.saturating_sub(first))
    }

    /// Takes a request, and says which page is to be sent for it. QEMU: get_queued_page(): a page that is not in B is taken for sent.
    pub(crate) fn take_request(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        let pfn = self.post.requests.pop_front().expect("a request is there");
        ctx.emit(Event::DstRequest { pfn });
        self.post.urgent = self.ram().is_dirty(pfn).then_some(pfn);
        ctx.release_needed(crate::event::LockId::PageRequests);
        ctx.costs.element_ns
    }

    /// The guest goes on at the destination; in postcopy all that has not arrived is missing.
    pub(crate) fn move_guest(&mut self, running: bool, destination: &Destination) {
        self.post.moved = true;
        self.stopped_vm = false;
        self.post.landing.moved = Some(running);
        if self.in_postcopy() {
            let mut missing = DirtyBitmap::full(destination.received().pages());
            for range in destination.received().ranges() {
                missing.clear_range(range);
            }
            // What R has was written as well, but for zeros that a channel took to be there (a fault).
            destination.received().ones().filter(|pfn| !destination.is_there(*pfn)).for_each(|pfn| {
                missing.set(pfn);
            });
            self.post.missing = Some(missing);
        }
    }

    /// A page was placed: who waits for it goes on. QEMU: postcopy_place_page(). A page that is there cannot be placed: the destination gives up.
    /// [`Fault::HostPageInParts`]: what comes of a page of the host's that is there waits for the rest of it, which does not come.
    pub(crate) fn land(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        if self.post.loading.is_some() {
            self.post.asked.remove(&pfn);
        }
        let Some(missing) = &mut self.post.missing else { return };
        if missing.clear(pfn) {
            self.post.asked.remove(&pfn);
            self.post.landing.placed.push(pfn);
        } else if self.post.host_page <= 1 || !ctx.faults.on(Fault::HostPageInParts) {
            ctx.crash(format!("UFFDIO_COPY of page {pfn}: it is there already"));
        }
    }

    /// The destination has read the end of the stream, and serves no fault any more. QEMU: postcopy_ram_incoming_cleanup().
    pub(crate) fn end_postcopy(&mut self, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::DstEnd);
        self.destination_done = true;
        if let Some(missing) = self.post.missing.take() {
            self.post.landing.given_up.extend(missing.ones());
        }
        self.post.asked.clear();
        self.post.lane.shut();
    }

    /// The devices' state is saved: their rings are what its loading looks at.
    pub(crate) fn note_needs(&mut self, needs: Vec<Pfn>) {
        self.post.needs = needs;
    }

    /// Returns what the destination does about devices that are being loaded or about to be, if that is its next move: it looks at their rings,
    /// and asks for what has not arrived. QEMU: hw/virtio/virtio.c virtio_load(), in the main thread, while the listen thread places pages.
    pub(crate) fn loading_next(&self, destination: &Destination) -> Option<Next> {
        let begins = matches!(self.wire.front(), Some(Record::Device { .. }));
        if !self.in_postcopy() || !(begins || self.post.loading.is_some()) {
            return None;
        }
        match self.absent_need(destination) {
            None => Some(Next::Do(Move::plain(EventKind::DstDevice))),
            Some(pfn) if !self.post.asked.contains_key(&pfn) => Some(Next::Do(Move::on(EventKind::DstFault, PageRange::page(pfn)))),
            Some(_) => None,
        }
    }

    fn absent_need(&self, destination: &Destination) -> Option<Pfn> {
        self.post.needs.iter().copied().find(|pfn| !destination.is_there(*pfn))
    }

    /// Asks for a page that the loading needs, or ends the loading: then it returns the record.
    pub(crate) fn load(&mut self, destination: &Destination, ctx: &mut Ctx<'_>) -> Option<Record> {
        let record = self.post.loading.take().or_else(|| self.wire.pop());
        if let Some(pfn) = self.absent_need(destination) {
            self.post.loading = record;
            ctx.emit(Event::DstFault { pfn });
            self.post.asked.insert(pfn, true);
            if !destination.received().test(pfn) {
                self.post.returning.ask(pfn, ctx);
            }
            return None;
        }
        record
    }

    /// Returns whether pages that were asked for can be taken off their channel. [`Fault::LaneAfterDevices`]: not before the devices are loaded,
    /// since the same thread accepts the connection.
    pub(crate) fn lane_is_open(&self, faults: &Faults) -> bool {
        !self.post.lane.is_empty() && (self.post.loading.is_none() || !faults.on(Fault::LaneAfterDevices))
    }

    /// Returns whether the end of the stream has to wait: for pages that were asked for and have a channel of their own.
    /// [`Fault::LaneQuitsEarly`]: it does not.
    pub(crate) fn end_waits(&self, faults: &Faults) -> bool {
        self.options.modes.preempt && self.post.is_waited_for() && !faults.on(Fault::LaneQuitsEarly)
    }

    /// Returns what a destination does that has nothing to take: it waits, if it is in the middle of loading.
    pub(crate) fn idle(&self) -> Next {
        if self.post.loading.is_some() && self.in_postcopy() { Next::Wait(Await::Page) } else { Next::Idle }
    }

    /// A page was sent behind the switch. QEMU: ram_release_page().
    pub(crate) fn release_sent(&mut self, pfn: Pfn) {
        if self.options.modes.release_ram && self.in_postcopy() {
            self.post.released.insert(pfn);
        }
    }

    /// Returns whether the source has dropped a page's contents.
    pub(crate) fn is_released(&self, pfn: Pfn) -> bool {
        self.post.released.contains(&pfn)
    }

    /// A new link: the destination tells what it has, and asks again for what is waited for. QEMU: ram_dirty_bitmap_reload(),
    /// migrate_send_rp_req_pages_pending(). [`Fault::RequestsNotResent`]: only for what was never sent.
    pub(crate) fn recover(&mut self, destination: &Destination, ctx: &Ctx<'_>) {
        let received = destination.received().ranges();
        self.ram_mut().reload(&received);
        let Postcopy { asked, returning, recover, .. } = &mut self.post;
        *recover = false;
        let all = !ctx.faults.on(Fault::RequestsNotResent);
        let absent = |pfn: &&Pfn| !destination.received().test(**pfn);
        asked.iter().filter(|(_, sent)| all || !**sent).map(|(pfn, _)| pfn).filter(absent).for_each(|pfn| returning.ask(*pfn, ctx));
        asked.values_mut().for_each(|sent| *sent = true);
    }

    /// Returns pages in front of others: those that were asked for.
    pub(crate) fn next_to_send(&self) -> Option<Pfn> {
        self.post.urgent.or_else(|| self.snapshot.urgent()).or_else(|| self.ram().next_dirty())
    }
}
