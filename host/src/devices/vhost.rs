//! A vhost backend: it writes guest memory without the VMM, and logs that once it has been told to.
//!
//! QEMU: hw/virtio/vhost.c vhost_migration_log(), vhost_dev_stop(), hw/virtio/vhost-user.c vhost_user_set_features(). The order to log is a message
//! to another process; who does not wait for its answer sends pages that the backend still writes without a word of it.
//!
//! ```text
//! Off ── log_start ──> Posted ── the backend answers ──> On ── log_stop ──> Off
//!                 (at once, unless it takes its time)
//! ```

use crate::dirty::physmem::DirtyMemory;
use crate::dirty::vhost::VhostLog;
use crate::event::{Event, EventKind, PageRange};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::step::{Ctx, Move, Next};

/// How the backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VhostOptions {
    /// How long it takes to answer the order to log, nanoseconds; `None`: it logs at once, as vhost in the kernel, and has no move of its own.
    pub log_ack_ns: Option<u64>,
}

/// How far the order to log has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Order {
    /// None is under way.
    None,
    /// The backend has not answered yet; it does not before this time, nanoseconds.
    Posted {
        /// The time.
        due_ns: u64,
    },
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vhost {
    log: VhostLog,
    order: Order,
    options: VhostOptions,
}

impl Vhost {
    /// Returns a backend that does not log.
    pub fn new(pages: u64, options: VhostOptions) -> Self {
        Self { log: VhostLog::new(pages), order: Order::None, options }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, now_ns: u64, fold: &mut Fold) {
        let Self { log, order, options: _ } = self;
        log.fold(fold);
        match order {
            Order::None => {}
            Order::Posted { due_ns } => fold.add(Tag::VhostOrder, 1 + due_ns.saturating_sub(now_ns)),
        }
    }

    /// Returns V.
    pub fn log(&self) -> &VhostLog {
        &self.log
    }

    /// Returns whether the backend has been ordered to log and has not answered.
    pub(crate) fn is_ordered(&self) -> bool {
        self.order != Order::None
    }

    /// Returns whether the VMM waits for the answer.
    ///
    /// QEMU: hw/virtio/vhost-user.c, since 699f2e535d. [`Fault::VhostLogUnacknowledged`]: it does not wait.
    pub(crate) fn is_awaited(&self, ctx: &Ctx<'_>) -> bool {
        self.is_ordered() && !ctx.faults.on(Fault::VhostLogUnacknowledged)
    }

    /// Returns the backend's next move.
    pub(crate) fn next(&self, ctx: &Ctx<'_>) -> Next {
        match self.order {
            Order::None => Next::Idle,
            Order::Posted { due_ns } if ctx.now_ns < due_ns => Next::Sleep(due_ns),
            Order::Posted { .. } => Next::Do(Move::plain(EventKind::VhostLogStart)),
        }
    }

    /// Posted -> On: the backend has read the order, and answers.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn step(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        assert_ne!(self.order, Order::None, "a backend starts to log unasked");
        self.order = Order::None;
        self.log.log_start();
        ctx.emit(Event::VhostLogStart);
        ctx.costs.state_ns
    }

    /// The VMM orders the backend to log.
    pub(crate) fn log_start(&mut self, ctx: &Ctx<'_>) {
        match self.options.log_ack_ns {
            None => self.log.log_start(),
            Some(ack_ns) => self.order = Order::Posted { due_ns: ctx.now_ns + ack_ns },
        }
    }

    /// The backend stops logging and its log is dropped.
    pub(crate) fn log_stop(&mut self) {
        self.order = Order::None;
        self.log.log_stop();
    }

    /// The backend wrote pages.
    pub fn mark(&mut self, range: PageRange) {
        self.log.mark(range);
    }

    /// Moves the log into D, and says so.
    pub(crate) fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        self.log.merge(d, ctx);
    }

    /// The backend is stopped with the VM: what stands in the log is left to the merge that follows.
    ///
    /// QEMU: hw/virtio/vhost.c vhost_dev_stop(). [`Fault::VhostFinalSyncSkipped`]: the log's size is set to 0 before that merge, which then finds nothing.
    pub(crate) fn vm_stopped(&mut self, ctx: &Ctx<'_>) {
        if !self.log.is_clear() && ctx.faults.on(Fault::VhostFinalSyncSkipped) {
            self.log.forget();
        }
    }
}
