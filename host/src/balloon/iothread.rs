//! The thread that serves the hint queue.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_ballloon_get_free_page_hints() (the loop) and get_free_page_hints() (one element); the lock is
//! taken and released for each element. Every place where another thread could come in between is a step of its own here. In profile
//! firecracker this stands for the VMM's event loop, and `free_page_lock` for the device's mutex; there is no `bitmap_mutex`.
//!
//! ```text
//! Asleep ─kick─▶ hint.wake ─▶ Woken ─▶ lock, hint.quiet ─▶ Locked ─ queue empty ─▶ unlock ─▶ START? Polling : Leaving
//!    ▲                                                                                               │
//!    └────────────────────────────────── hint.sleep ◀────────────────────────────────────────────────┘
//!    Polling ───▶ lock     │ VM stopped: unlock ─▶ Parked ─ VM runs ─▶ lock
//!                          ▼ pop
//!                     Announcing (hint.pop per part) ─▶ Working ─▶ per part: hint.start | hint.stop | hint.ignore
//!                                                          │   or: lock bitmap ─▶ Clearing ─ hint.apply ─▶ Cleared ─ unlock bitmap
//!                                                          ▼ hint.push
//!                                                      Returned ─ unlock ─▶ Raising ─ device.irq ─▶ as after "queue empty"
//! ```
//! The loop looks for a next element after each one, and as long as the status is START: then without being kicked. Differs: QEMU spins on
//! an empty queue, with the lock taken and released each time; here that is waiting ([`Next::Idle`]), which is accounted as spinning ([`BalloonDevice::iothread_spins`]), and an empty look raises no interrupt.
//! (QEMU calls virtio_notify() for an empty look, too. With EVENT_IDX that raises nothing; without, each look would interrupt a driver that
//! wants interrupts for hints.)
//!
//! The request queue of the older interfaces ([`super::request`]) is served in the same way, but as a plain handler: it never asks the guest not to kick,
//! and leaves when the queue is empty. So a response that comes behind the last look has its kick.
//!
//! A host that looks for free pages by itself ([`super::walk`]) does so in this thread: what it finds takes the place of an element.
//!
//! For a driver that waits for each buffer (HINT_WAIT_ON_ACK, a proposal of January 2026) the device does nothing but offer the bit. It returns
//! every element, in whatever status, behind what the element does, and interrupts a driver that has not asked for peace; one that does not
//! wait has. Firecracker: the fork that offers the bit says the same of its process_free_page_hinting_queue(), which interrupts once for all
//! that it found: one element, from a driver that waits. Firecracker's balloon never asks a driver not to kick, so the lost kick of
//! `scenarios/fail/findings/wait-on-ack-lost-kick.toml` is one of QEMU's loop alone.

use super::device::{BalloonDevice, Profile, QueueRole};
use super::hinting::IdEffect;
use super::protocol::{Part, parts};
use super::walk::Walk;
use crate::event::{CmdId, Event, EventKind, HintElement, HintStatus, LockId, PageRange};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::migration::notifier::HintSink;
use crate::step::{Ctx, Move, Next};
use crate::transport::{Element, QueueError};

/// The thread's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iothread {
    bh_scheduled: bool,
    phase: Phase,
}

/// Where the thread stands; what it holds is in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Waits for the bottom half to be scheduled.
    Asleep,
    /// The bottom half runs, and has not looked at anything.
    Woken,
    /// Between two elements.
    Polling,
    /// [free_page_lock] About to take an element; whether there was one when the lock was taken.
    Locked { found: bool },
    /// Waits until the VM runs.
    Parked,
    /// [free_page_lock] An element is popped; parts from `next` on are not announced yet.
    Announcing(Chain),
    /// [free_page_lock] Parts from `next` on are not worked off yet.
    Working(Chain),
    /// [free_page_lock, bitmap_mutex] The part at `next` is about to be applied.
    Clearing(Chain),
    /// [free_page_lock, bitmap_mutex] It has been.
    Cleared(Chain),
    /// [free_page_lock] The element is returned, or there was none.
    Returned(Outcome),
    /// The driver wants an interrupt for the returned element.
    Raising(Outcome),
    /// Out of the loop, and about to want kicks again: the lock is not held, so the VM may have stopped.
    Leaving,
}

/// What became of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Outcome {
    /// An element was returned.
    used: bool,
    /// The loop goes on whatever the status is.
    go_on: bool,
}

/// A popped element.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Chain {
    element: Element,
    parts: Vec<Part>,
    next: usize,
    /// The round under which pages count: decided when the element is popped, and again by each id in it.
    accept: Option<CmdId>,
    /// The element was refused: the loop ends unless the status is START.
    refused: bool,
    /// What its id does, where that is decided before and not when it is done ([`Fault::HintStartUnlocked`]).
    decided: Option<IdEffect>,
}

/// What comes next for an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The round starts.
    Start,
    /// The round is over.
    Stop,
    /// The device breaks.
    Refuse,
    /// `bitmap_mutex` is taken.
    LockBitmap,
    /// It is not: words of B are loaded (a fault).
    LoadBitmap(PageRange),
    /// Pages are discarded (profile firecracker).
    Discard(PageRange, CmdId),
    /// Pages change nothing.
    Ignore(PageRange),
    /// A request is written into the buffer.
    Ask,
    /// All parts are worked off.
    Push,
    /// The element is looked at after it was freed.
    Crash,
}

impl Iothread {
    pub(super) fn new() -> Self {
        Self { bh_scheduled: false, phase: Phase::Asleep }
    }

    pub(super) fn fold(&self, fold: &mut Fold) {
        let Self { bh_scheduled, phase } = self;
        fold.add(Tag::BottomHalfScheduled, u64::from(*bh_scheduled));
        fold.add_part(Tag::Iothread, phase);
    }

    pub(super) fn schedule(&mut self) {
        self.bh_scheduled = true;
    }
}

impl BalloonDevice {
    /// Returns the queue that the thread is about to use, if it is not asleep.
    pub(super) fn iothread_queue(&self) -> Option<u16> {
        let at_rest = self.state.iothread.phase == Phase::Asleep && !self.state.iothread.bh_scheduled;
        self.queue_of(QueueRole::FreePage).filter(|_| !at_rest)
    }

    /// Returns the iothread's next move. `sink_running`: a migration is under way.
    pub fn iothread_next(&self, sink_running: bool, ctx: &Ctx<'_>) -> Next {
        let release = Next::Do(Move::plain(EventKind::LockRelease));
        match &self.state.iothread.phase {
            Phase::Asleep if self.state.iothread.bh_scheduled => Next::Do(Move::plain(EventKind::HintWake)),
            Phase::Asleep => Next::Idle,
            Phase::Woken => Next::Lock(LockId::FreePage),
            Phase::Polling if self.looks_again(ctx.ram) => Next::Lock(LockId::FreePage),
            Phase::Polling => Next::Idle,
            Phase::Parked if self.state.hinting.block_iothread => Next::Idle,
            Phase::Parked => Next::Lock(LockId::FreePage),
            Phase::Locked { .. } if self.state.hinting.block_iothread => release,
            Phase::Locked { found: true } => match self.peek_part(ctx.ram) {
                Ok(Some(part)) => Next::Do(Move::of(&Event::HintPop { head: 0, element: part })),
                Ok(None) => release,
                Err(_) => Next::Do(Move::plain(EventKind::DeviceBroken)),
            },
            Phase::Locked { found: false } if self.acknowledges() => Next::Do(Move::plain(EventKind::HintDone)),
            Phase::Locked { found: false } if self.walk_is_over() => Next::Do(Move::plain(EventKind::HintStop)),
            Phase::Locked { found: false } => release,
            Phase::Announcing(chain) => {
                Next::Do(Move::of(&Event::HintPop { head: chain.element.head, element: chain.parts[chain.next].element }))
            }
            Phase::Working(chain) => match self.action(chain, sink_running, ctx).0 {
                Action::Start => Next::Do(Move::plain(EventKind::HintStart)),
                Action::Stop => Next::Do(Move::plain(EventKind::HintStop)),
                Action::Refuse => Next::Do(Move::plain(EventKind::DeviceBroken)),
                Action::LockBitmap => Next::Lock(LockId::Bitmap),
                Action::LoadBitmap(range) => Next::Do(Move::on(EventKind::BitmapLoad, range)),
                Action::Discard(range, _) => Next::Do(Move::on(EventKind::HintApply, range)),
                Action::Ignore(range) => Next::Do(Move::on(EventKind::HintIgnore, range)),
                Action::Ask => Next::Do(Move::plain(EventKind::HintAsk)),
                Action::Push => Next::Do(Move::plain(EventKind::HintPush)),
                Action::Crash => Next::Do(Move::plain(EventKind::HostCrash)),
            },
            Phase::Clearing(chain) => Next::Do(Move::on(EventKind::HintApply, chain.pages())),
            Phase::Cleared(_) | Phase::Returned(_) => release,
            Phase::Raising(_) => Next::Do(Move::plain(EventKind::DeviceIrq)),
            Phase::Leaving => Next::Do(Move::plain(EventKind::HintSleep)),
        }
    }

    /// Returns the move that the thread would make with the lock that [`BalloonDevice::iothread_next`] asks for.
    pub fn iothread_behind_lock(&self, sink_running: bool, ctx: &Ctx<'_>) -> Option<Move> {
        match &self.state.iothread.phase {
            Phase::Woken | Phase::Polling | Phase::Parked => match self.peek_part(ctx.ram) {
                Ok(Some(part)) => Some(Move::of(&Event::HintPop { head: 0, element: part })),
                Ok(None) | Err(_) => None,
            },
            Phase::Working(chain) => match self.action(chain, sink_running, ctx) {
                (Action::LockBitmap, next, _) => Some(Move::on(EventKind::HintApply, Chain { next, ..chain.clone() }.pages())),
                _ => None,
            },
            Phase::Asleep
            | Phase::Locked { .. }
            | Phase::Announcing(_)
            | Phase::Clearing(_)
            | Phase::Cleared(_)
            | Phase::Returned(_)
            | Phase::Raising(_)
            | Phase::Leaving => None,
        }
    }

    /// Makes the iothread's next move, and returns its cost, nanoseconds.
    ///
    /// # Panics
    /// When [`BalloonDevice::iothread_next`] has no move.
    pub fn iothread_step(&mut self, sink: &mut dyn HintSink, ctx: &mut Ctx<'_>) -> u64 {
        let lock_ns = ctx.costs.lock_ns;
        let (phase, cost_ns) = match std::mem::replace(&mut self.state.iothread.phase, Phase::Asleep) {
            Phase::Asleep => {
                assert!(std::mem::take(&mut self.state.iothread.bh_scheduled), "the bottom half runs when it was scheduled");
                ctx.emit(Event::HintWake);
                (Phase::Woken, 0)
            }
            Phase::Woken | Phase::Polling => (self.lock_for_element(ctx), lock_ns),
            Phase::Parked => {
                ctx.lock(LockId::FreePage);
                (Phase::Locked { found: self.hint_available(ctx.ram) }, lock_ns)
            }
            Phase::Locked { .. } if self.state.hinting.block_iothread => {
                ctx.unlock(LockId::FreePage);
                (Phase::Parked, lock_ns)
            }
            Phase::Locked { found: true } => (self.pop_hint(ctx), ctx.costs.element_ns),
            Phase::Locked { found: false } if self.acknowledges() => {
                self.hint_done(ctx);
                (Phase::Locked { found: false }, ctx.costs.state_ns)
            }
            Phase::Locked { found: false } if self.walk_is_over() => {
                self.hint_stop_by_driver(ctx);
                (Phase::Locked { found: false }, ctx.costs.state_ns)
            }
            Phase::Locked { found: false } => (self.unlock_element(Outcome { used: false, go_on: false }, ctx), lock_ns),
            Phase::Announcing(chain) => (self.announce(chain, ctx), ctx.costs.lock_ns),
            Phase::Working(chain) => self.work(chain, sink, ctx),
            Phase::Clearing(chain) => {
                let id = chain.accept.expect("pages are cleared under a round");
                sink.free_page_hint(chain.pages(), id, ctx);
                match ctx.locks.holder(LockId::Bitmap) == Some(ctx.actor) {
                    true => (Phase::Cleared(chain), ctx.costs.clear_ns),
                    false => (Phase::Working(Chain { next: chain.next + 1, ..chain }), ctx.costs.clear_ns),
                }
            }
            Phase::Cleared(mut chain) => {
                ctx.unlock(LockId::Bitmap);
                chain.next += 1;
                (Phase::Working(chain), lock_ns)
            }
            Phase::Returned(outcome) => (self.unlock_element(outcome, ctx), lock_ns),
            Phase::Raising(outcome) => {
                self.transport.notify_used(ctx);
                (self.continue_or_leave(outcome), ctx.costs.state_ns)
            }
            Phase::Leaving => {
                ctx.emit(Event::HintSleep);
                self.want_kicks(true, ctx.ram);
                (Phase::Asleep, 0)
            }
        };
        self.state.iothread.phase = phase;
        cost_ns
    }

    pub(super) fn hint_queue(&self) -> u16 {
        self.queue_of(QueueRole::FreePage).expect("the iothread runs for the hint queue")
    }

    /// Returns whether there is an element, or more of the memory map to look at with something free in it.
    fn hint_available(&self, ram: &GuestRam) -> bool {
        match self.walk() {
            Some(walk) => self.hint_status() == HintStatus::Start && self.walk_finds(walk, ram).is_some(),
            None => self.transport.has_available(self.hint_queue(), ram),
        }
    }

    /// Returns whether the host looks by itself, and has looked at everything: asked when nothing more was found.
    fn walk_is_over(&self) -> bool {
        self.walk().is_some() && self.hint_status() == HintStatus::Start
    }

    /// Returns whether the thread spins on an empty queue: while a round is open whose hints come without kicks.
    fn polls(&self) -> bool {
        self.hint_status() == HintStatus::Start && self.options.protocol.has_cmd_id()
    }

    /// Returns the pages that the thread is about to clear under `bitmap_mutex`.
    pub fn hint_in_hand(&self) -> Option<PageRange> {
        match &self.state.iothread.phase {
            Phase::Clearing(chain) => Some(chain.pages()),
            _ => None,
        }
    }

    /// Returns whether the thread, which has nothing to do, burns a CPU. In profile firecracker the event loop sleeps, and a host that looks by itself
    /// is done with its last look.
    pub fn iothread_spins(&self) -> bool {
        let looks = self.options.profile == Profile::Qemu && self.walk().is_none();
        looks && self.state.iothread.phase == Phase::Polling && self.polls()
    }

    /// Returns whether a look at the queue would do anything: take an element, leave the loop, or park.
    fn looks_again(&self, ram: &GuestRam) -> bool {
        self.state.hinting.block_iothread || !self.polls() || self.hint_available(ram)
    }

    /// Returns the first part of the element that the next pop takes.
    fn peek_part(&self, ram: &GuestRam) -> Result<Option<HintElement>, QueueError> {
        if !self.hint_available(ram) {
            return Ok(None);
        }
        if let Some(walk) = self.walk() {
            return Ok(self.walk_finds(walk, ram).map(HintElement::Found));
        }
        let element = self.transport.queue(self.hint_queue()).peek(ram)?;
        Ok(element.map(|element| parts(&element, &self.options, ram)[0].element))
    }

    /// Takes the lock and asks the guest not to kick. Whether the queue is empty is seen here: what the guest adds between now and the
    /// release is found by the next look, or, when this was the last one, by the next kick alone. (In profile firecracker that kick comes
    /// with what was added.)
    fn lock_for_element(&mut self, ctx: &mut Ctx<'_>) -> Phase {
        ctx.lock(LockId::FreePage);
        if self.want_kicks(false, ctx.ram) {
            ctx.emit(Event::HintQuiet);
        }
        Phase::Locked { found: self.hint_available(ctx.ram) }
    }

    /// QEMU: virtqueue_pop(), and what the element holds.
    fn pop_hint(&mut self, ctx: &mut Ctx<'_>) -> Phase {
        // A driver may have reset the device since the lock was taken: with the status STOP a reset does not need it.
        if !self.hint_available(ctx.ram) {
            return self.unlock_element(Outcome { used: false, go_on: false }, ctx);
        }
        if let Some(walk) = self.walk() {
            return self.take_found(walk, ctx);
        }
        let queue = self.hint_queue();
        match self.transport.queue_mut(queue).pop(ctx.ram) {
            Ok(Some(element)) => {
                let parts = parts(&element, &self.options, ctx.ram);
                self.announce(Chain { element, parts, next: 0, accept: None, refused: false, decided: None }, ctx)
            }
            Ok(None) => unreachable!("the queue is not empty"),
            Err(_) => {
                self.transport.virtio_error(queue, ctx);
                Phase::Returned(Outcome { used: false, go_on: false })
            }
        }
    }

    /// What the host finds by itself goes the way of an element that holds it.
    fn take_found(&mut self, walk: Walk, ctx: &mut Ctx<'_>) -> Phase {
        let found = self.walk_finds(walk, ctx.ram).expect("there is more");
        self.state.walker.pass(found);
        let element = Element { head: 0, readable: Vec::new(), writable: Vec::new() };
        let parts = vec![Part::told(HintElement::Found(found))];
        self.announce(Chain { element, parts, next: 0, accept: None, refused: false, decided: None }, ctx)
    }

    fn announce(&mut self, mut chain: Chain, ctx: &mut Ctx<'_>) -> Phase {
        ctx.emit(Event::HintPop { head: chain.element.head, element: chain.parts[chain.next].element });
        chain.next += 1;
        if chain.next < chain.parts.len() {
            return Phase::Announcing(chain);
        }
        if chain.parts == [Part::REQUEST] && self.state.request.wants_buffer() {
            self.state.request.hold(chain.element);
            return Phase::Returned(Outcome { used: false, go_on: true });
        }
        chain.next = 0;
        chain.accept = self.open_round();
        if let HintElement::Id(id) = chain.parts[0].element
            && self.options.protocol.has_cmd_id()
            && ctx.faults.on(Fault::HintStartUnlocked)
        {
            chain.decided = Some(self.id_effect(id, ctx));
        }
        Phase::Working(chain)
    }

    fn open_round(&self) -> Option<CmdId> {
        (self.hint_status() == HintStatus::Start).then_some(self.state.hinting.cmd_id())
    }

    /// Returns what comes next for an element, and the element as it is then: parts that do nothing are passed over.
    fn action(&self, chain: &Chain, sink_running: bool, ctx: &Ctx<'_>) -> (Action, usize, Option<CmdId>) {
        let mut accept = chain.accept;
        for (index, part) in chain.parts.iter().enumerate().skip(chain.next) {
            let action = match part.element {
                HintElement::Id(id) => match self.decided_effect(chain, id, ctx) {
                    IdEffect::Start => Action::Start,
                    IdEffect::Stop => Action::Stop,
                    IdEffect::Ignored => {
                        // Firecracker compares with the last id that came, whatever it did.
                        accept = self.open_round();
                        continue;
                    }
                    IdEffect::Stale => {
                        accept = None;
                        continue;
                    }
                },
                // The round may have been ended by the host meanwhile, where that does not ask for the lock.
                HintElement::Last if accept.is_some() && self.hint_status() == HintStatus::Start => Action::Stop,
                HintElement::Request if self.state.request.is_due() => Action::Ask,
                HintElement::Last | HintElement::Request | HintElement::OutOfRam(_) => continue,
                HintElement::Malformed(_) => Action::Refuse,
                HintElement::Pages(range) | HintElement::Found(range) => match accept {
                    _ if range.count == 0 => continue,
                    Some(_) if chain.has_pages_before(index) && ctx.faults.on(Fault::HintFirstSegment) => continue,
                    _ if chain.has_id_before(index) && ctx.faults.on(Fault::HintElementFreed) => Action::Crash,
                    Some(id) if self.options.profile == Profile::Firecracker && part.whole => Action::Discard(range, id),
                    Some(_) if self.options.profile == Profile::Firecracker => Action::Ignore(range),
                    Some(_) if sink_running && ctx.faults.on(Fault::HintWithoutMutex) => Action::LoadBitmap(range),
                    Some(_) if sink_running => Action::LockBitmap,
                    Some(_) | None => Action::Ignore(range),
                },
            };
            return (action, index, accept);
        }
        (Action::Push, chain.parts.len(), accept)
    }

    /// Returns what an id does: what was decided when it was popped, or what the status says now. Under the lock that is the same.
    fn decided_effect(&self, chain: &Chain, id: CmdId, ctx: &Ctx<'_>) -> IdEffect {
        chain.decided.unwrap_or_else(|| self.id_effect(id, ctx))
    }

    /// One part of an element, or its return. QEMU: get_free_page_hints().
    fn work(&mut self, mut chain: Chain, sink: &mut dyn HintSink, ctx: &mut Ctx<'_>) -> (Phase, u64) {
        let (action, next, accept) = self.action(&chain, sink.is_running(), ctx);
        for part in &chain.parts[chain.next..(next + 1).min(chain.parts.len())] {
            if let HintElement::Id(id) = part.element {
                self.note_id(id);
            }
        }
        (chain.next, chain.accept) = (next, accept);
        let state_ns = ctx.costs.state_ns;
        match action {
            Action::Start => self.hint_start(ctx),
            Action::Stop => self.hint_stop_by_driver(ctx),
            Action::Refuse => {
                self.transport.virtio_error(self.hint_queue(), ctx);
                (chain.refused, chain.next) = (true, chain.parts.len());
                return (Phase::Working(chain), state_ns);
            }
            Action::LockBitmap => {
                ctx.lock(LockId::Bitmap);
                return (Phase::Clearing(chain), ctx.costs.lock_ns);
            }
            Action::LoadBitmap(range) => {
                sink.load(range, ctx);
                return (Phase::Clearing(chain), ctx.costs.lock_ns);
            }
            Action::Discard(range, id) => {
                ctx.emit(Event::HintApply { range, id, cleared: 0 });
                self.discard(range, ctx);
                chain.next += 1;
                return (Phase::Working(chain), ctx.costs.clear_ns);
            }
            Action::Ignore(range) => {
                ctx.emit(Event::HintIgnore { range, status: self.hint_status() });
                chain.next += 1;
                return (Phase::Working(chain), state_ns);
            }
            Action::Ask => {
                let used = self.ask(chain.element, ctx);
                return (Phase::Returned(Outcome { used, go_on: true }), ctx.costs.element_ns);
            }
            Action::Push => return (self.push_hint(chain, ctx), ctx.costs.element_ns),
            Action::Crash => ctx.crash(format!("element {} is looked at after it was freed", chain.element.head)),
        }
        chain.next += 1;
        chain.accept = self.open_round();
        (Phase::Working(chain), state_ns)
    }

    /// Returns an element; every popped one ends here. Nothing was written, so the used length is 0.
    fn push_hint(&mut self, chain: Chain, ctx: &mut Ctx<'_>) -> Phase {
        let Chain { element, parts: _, next: _, accept: _, refused, decided: _ } = chain;
        let head = element.head;
        if self.walk().is_some() {
            ctx.emit(Event::HintPush { head, len: 0 });
            return Phase::Returned(Outcome { used: false, go_on: true });
        }
        let len = u32::from(ctx.faults.on(Fault::HintUsedLength));
        let queue = self.hint_queue();
        let used = self.transport.queue_mut(queue).push(element, len, ctx.ram);
        ctx.emit(Event::HintPush { head, len });
        Phase::Returned(Outcome { used: used.is_some(), go_on: !refused })
    }

    /// Releases the lock; the interrupt comes behind it.
    fn unlock_element(&mut self, outcome: Outcome, ctx: &mut Ctx<'_>) -> Phase {
        ctx.unlock(LockId::FreePage);
        if outcome.used {
            let queue = self.hint_queue();
            if self.should_notify(queue, ctx.ram) {
                return Phase::Raising(outcome);
            }
        }
        self.continue_or_leave(outcome)
    }

    /// Goes on while there may be elements, or the round is open. The status is read without the lock, and the queue is not looked at again
    /// once kicks are wanted, as in QEMU.
    fn continue_or_leave(&self, outcome: Outcome) -> Phase {
        if outcome.go_on || self.polls() { Phase::Polling } else { Phase::Leaving }
    }

    /// Asks the guest to kick, or not to, and returns whether that is news. Firecracker: its balloon never turns on the suppression of notifications
    /// (`uses_notif_suppression` in devices/virtio/queue.rs), so it always wants kicks.
    fn want_kicks(&mut self, wanted: bool, ram: &GuestRam) -> bool {
        match self.options.profile {
            Profile::Qemu if self.options.protocol.has_cmd_id() => {
                let queue = self.hint_queue();
                self.transport.queue_mut(queue).set_notification(wanted, ram)
            }
            Profile::Qemu | Profile::Firecracker | Profile::CloudHypervisor => false,
        }
    }
}

impl Chain {
    fn has_pages_before(&self, index: usize) -> bool {
        self.parts[..index].iter().any(|part| matches!(part.element, HintElement::Pages(_)))
    }

    fn has_id_before(&self, index: usize) -> bool {
        self.parts[..index].iter().any(|part| matches!(part.element, HintElement::Id(_)))
    }

    /// Returns the pages of the part at `next`.
    fn pages(&self) -> PageRange {
        match self.parts[self.next].element {
            HintElement::Pages(range) | HintElement::Found(range) => range,
            HintElement::Id(_) | HintElement::Malformed(_) | HintElement::OutOfRam(_) | HintElement::Last | HintElement::Request => {
                unreachable!("only pages are cleared")
            }
        }
    }
}

#[cfg(test)]
mod tests;
