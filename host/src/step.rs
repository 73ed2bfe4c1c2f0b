//! How an actor moves.
//!
//! A host actor is a state machine with two doors. `next(&self)` says what its next move would be, without changing anything: the first
//! event of the move, a lock it needs, a time it waits for, or nothing. `step(&mut self)` makes that move and returns what it cost. The
//! world asks all actors, holds back those whose event an order constraint forbids for now, picks one of the rest, and lets it step.
//! `step` must emit exactly the announced event as its first (debug-checked by the world), and each step is atomic for everybody else.

use std::collections::BTreeSet;

use crate::event::{Actor, Event, EventKind, LockId, PageRange, Pfn, Stamped};
use crate::fault::Faults;
use crate::lock::Locks;
use crate::memory::GuestRam;

/// What an actor would do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A move whose first event is known in kind and pages.
    Do(Move),
    /// Take this lock (the step emits [`Event::LockTake`]); blocked while another actor holds it.
    Lock(LockId),
    /// Wait until this virtual time, nanoseconds, or until another actor changes its mind.
    Sleep(u64),
    /// Wait in the middle of something, with all locks that are held, for what another actor does.
    Wait(Await),
    /// Nothing to do until another actor changes that.
    Idle,
}

/// What is waited for that is no lock and no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Await {
    /// Room on the link: the peer has to take something off it (QEMU: a blocking sendmsg(), whatever locks the caller holds).
    Peer,
    /// The peer's answer that it has all (QEMU: the return path is joined).
    Answer,
    /// vCPUs that have marked a page and not yet stored to it (QEMU: accel/tcg tcg_log_global_after_sync()).
    Stores,
    /// The operator's word to go on.
    Operator,
    /// A backend that has been asked to log its writes (QEMU: vhost-user's reply).
    Devices,
    /// The end of the round of hints that was asked for before a snapshot.
    Hints,
    /// A page that has not arrived: whoever uses it sits in a page fault.
    Page,
    /// A new link, after the last one broke (QEMU: `postcopy_pause_sem`).
    Recovery,
    /// The end of one's own RCU section (a fault).
    Oneself,
}

impl Await {
    /// All of them.
    pub const ALL: [Await; 9] = [
        Await::Peer,
        Await::Answer,
        Await::Stores,
        Await::Operator,
        Await::Devices,
        Await::Hints,
        Await::Page,
        Await::Recovery,
        Await::Oneself,
    ];

    /// Returns what it is in words.
    pub fn name(self) -> &'static str {
        match self {
            Await::Peer => "room on the link",
            Await::Answer => "the peer's answer",
            Await::Stores => "stores that are marked",
            Await::Operator => "the operator's word",
            Await::Devices => "a backend's acknowledgement",
            Await::Hints => "the end of a round of hints",
            Await::Page => "a page that has not arrived",
            Await::Recovery => "a new link",
            Await::Oneself => "the end of its own RCU section",
        }
    }
}

/// The announced part of a move: enough to match a constraint's pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Kind of the first event.
    pub kind: EventKind,
    /// Its pages, if it is about pages.
    pub range: Option<PageRange>,
}

impl Move {
    /// Returns the move that starts with an event about no page.
    pub fn plain(kind: EventKind) -> Self {
        Self { kind, range: None }
    }

    /// Returns the move that starts with an event about pages.
    pub fn on(kind: EventKind, range: PageRange) -> Self {
        Self { kind, range: Some(range) }
    }

    /// Returns what an event announces.
    pub fn of(event: &Event) -> Self {
        Self { kind: event.kind(), range: event.range() }
    }
}

/// What moves cost, nanoseconds of virtual time. The scenario may override each; the defaults have their reasons beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    /// A tracepoint: stands for the instructions since the last one (about 200 at 2 GHz).
    pub guest_step_ns: u64,
    /// An exit to the VMM and back: measured around 1 to 2 µs for a userspace exit under KVM.
    pub exit_ns: u64,
    /// First store to a write-protected page: fault, mark, unprotect.
    pub tracked_store_ns: u64,
    /// From a device's interrupt to its handler's work: waking the vCPU and the thread behind the interrupt. Measured with a real Linux
    /// under QEMU (TCG): 0.74 ms from a new command id to the driver's read of it.
    pub irq_ns: u64,
    /// Taking or releasing a host lock.
    pub lock_ns: u64,
    /// Host work on one queue element.
    pub element_ns: u64,
    /// Copying or merging one 64-page word of a dirty bitmap.
    pub sync_word_ns: u64,
    /// A CLEAR call.
    pub clear_ns: u64,
    /// Finding and reading a page to send.
    pub page_ns: u64,
    /// Telling a notifier, changing a state.
    pub state_ns: u64,
    /// Stopping or starting the VM.
    pub vm_stop_ns: u64,
    /// From a migration's first sync to its first page: the list of blocks is written and the connection answers. Measured in a real
    /// migration: 2.3 ms.
    pub setup_ns: u64,
    /// What the destination sends, until the source's thread has it: half a round trip in a data centre's network, and a thread's waking.
    pub return_path_ns: u64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            guest_step_ns: 100,
            exit_ns: 1_500,
            tracked_store_ns: 1_000,
            irq_ns: 740_000,
            lock_ns: 50,
            element_ns: 1_000,
            sync_word_ns: 2,
            clear_ns: 2_000,
            page_ns: 250,
            state_ns: 1_000,
            vm_stop_ns: 50_000,
            setup_ns: 2_300_000,
            return_path_ns: 50_000,
        }
    }
}

/// Pages that the scenario looks at: moves on them are split as finely as the model can, all other pages move in one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch(pub BTreeSet<Pfn>);

impl Watch {
    /// Returns whether the page is looked at.
    pub fn has(&self, pfn: Pfn) -> bool {
        self.0.contains(&pfn)
    }
}

/// What a step may use beside its own state.
pub struct Ctx<'a> {
    /// The actor that moves.
    pub actor: Actor,
    /// Virtual time at the step's start, nanoseconds.
    pub now_ns: u64,
    /// The guest's memory.
    pub ram: &'a GuestRam,
    /// The host's locks.
    pub locks: &'a mut Locks,
    /// Faults that are switched on.
    pub faults: &'a Faults,
    /// What moves cost.
    pub costs: &'a Costs,
    /// Pages the scenario looks at.
    pub watch: &'a Watch,
    /// Where events go.
    pub events: &'a mut Vec<Stamped>,
}

impl Ctx<'_> {
    /// Records an event of the moving actor at the step's time.
    pub fn emit(&mut self, event: Event) {
        self.events.push(Stamped { at_ns: self.now_ns, actor: self.actor, event });
    }

    /// The VMM dies here: nothing happens any more behind the moving actor's step.
    pub fn crash(&mut self, message: impl Into<String>) {
        self.emit(Event::HostCrash { message: message.into() });
    }

    /// Takes a free lock, and says so.
    ///
    /// # Panics
    /// When the lock is held: the world never lets such a step run.
    pub fn lock(&mut self, lock: LockId) {
        self.locks.take(lock, self.actor);
        self.emit(Event::LockTake { lock });
    }

    /// Takes a lock that the move behind it needs, if it is taken at all and not held yet; returns whether that was the move.
    pub fn take_needed(&mut self, lock: LockId) -> bool {
        let needed = self.locks.needed(lock, self.actor).is_some();
        if needed {
            self.lock(lock);
        }
        needed
    }

    /// Releases a lock if the moving actor holds it: the other end of [`Ctx::take_needed`].
    pub fn release_needed(&mut self, lock: LockId) {
        if self.locks.holder(lock) == Some(self.actor) {
            self.unlock(lock);
        }
    }

    /// Waits until nobody is in an RCU section, and says so: the world lets the step run when that has come about. QEMU: synchronize_rcu().
    pub fn synchronize_rcu(&mut self) {
        self.lock(LockId::Rcu);
        self.unlock(LockId::Rcu);
    }

    /// Releases a lock that the moving actor holds, and says so.
    pub fn unlock(&mut self, lock: LockId) {
        self.locks.release(lock, self.actor);
        self.emit(Event::LockRelease { lock });
    }
}
