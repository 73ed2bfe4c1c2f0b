//! A vhost backend: it writes guest memory without the VMM, and logs that once it has been told to.
//!
//! QEMU: hw/virtio/vhost.c vhost_migration_log(), vhost_dev_stop(), hw/virtio/vhost-user.c vhost_user_set_features(). The order to log is a message
//! to another process; who does not wait for its answer sends pages that the backend still writes without a word of it.
//!
//! The used ring of each queue has a log address of its own (VHOST_SET_VRING_ADDR with VHOST_VRING_F_LOG), given by its index; the other writes are
//! logged by where their buffers lie. The log is as large as the memory regions and the used rings ask for.
//!
//! ```text
//! Off ── log_start ──> Posted ── the backend answers ──> On ── log_stop ──> Off
//!                 (at once, unless it takes its time)
//! ```

use crate::devices::iommu::{Iommu, IovaPage};
use crate::dirty::physmem::DirtyMemory;
use crate::dirty::vhost::VhostLog;
use crate::event::{Event, EventKind, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::step::{Ctx, Move, Next};

/// Queues of a device as the backend knows it: one to receive, one to send.
const QUEUES_PER_PAIR: u8 = 2;
/// Bytes of guest memory for a bit of the log (QEMU: VHOST_LOG_PAGE).
const LOG_CHUNK: u64 = 4096;

/// How the backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VhostOptions {
    /// How long it takes to answer the order to log, nanoseconds; `None`: it logs at once, as vhost in the kernel, and has no move of its own.
    pub log_ack_ns: Option<u64>,
    /// Queues that the device has, two to a pair; each pair is a device of its own to the backend (QEMU: hw/net/vhost_net.c).
    pub queues: u8,
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
    /// Where the used ring of each queue lies, if the guest has set it up, by the device's addresses.
    used: Vec<Option<IovaPage>>,
    /// Queues whose used rings are logged, a bit each.
    logged: u8,
    options: VhostOptions,
}

impl Vhost {
    /// Returns a backend that does not log.
    pub fn new(pages: u64, options: VhostOptions) -> Self {
        assert!(u32::from(options.queues) <= u8::BITS, "{} queues", options.queues);
        Self { log: VhostLog::new(pages), order: Order::None, used: vec![None; options.queues.into()], logged: 0, options }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, now_ns: u64, fold: &mut Fold) {
        let Self { log, order, used, logged, options: _ } = self;
        log.fold(fold);
        match order {
            Order::None => {}
            Order::Posted { due_ns } => fold.add(Tag::VhostOrder, 1 + due_ns.saturating_sub(now_ns)),
        }
        if used.iter().any(Option::is_some) {
            fold.add_part(Tag::VhostQueues, &(used, logged));
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
        self.log_on(ctx);
        ctx.emit(Event::VhostLogStart);
        ctx.costs.state_ns
    }

    /// The VMM orders the backend to log.
    pub(crate) fn log_start(&mut self, ctx: &mut Ctx<'_>) {
        self.size_log(ctx);
        match self.options.log_ack_ns {
            None => self.log_on(ctx),
            Some(ack_ns) => self.order = Order::Posted { due_ns: ctx.now_ns + ack_ns },
        }
    }

    /// The backend stops logging and its log is dropped.
    pub(crate) fn log_stop(&mut self) {
        self.order = Order::None;
        self.logged = 0;
        self.log.log_stop();
    }

    /// The backend logs from here on: its log has an address, and the used ring of each queue has one there.
    ///
    /// QEMU: hw/virtio/vhost.c vhost_dev_set_log(). [`Fault::VhostQueueIndex`]: each pair's queues are given as those of the first pair.
    fn log_on(&mut self, ctx: &Ctx<'_>) {
        let wrong = self.options.queues > QUEUES_PER_PAIR && ctx.faults.on(Fault::VhostQueueIndex);
        let index = |queue: u8| if wrong { queue % QUEUES_PER_PAIR } else { queue };
        self.logged = (0..self.options.queues).map(index).fold(0, |logged, queue| logged | 1 << queue);
        self.log.log_start();
    }

    /// The VMM makes a log that is large enough for all used rings: those that the guest has not set up ask for nothing.
    ///
    /// QEMU: hw/virtio/vhost.c vhost_get_log_size(). [`Fault::VhostLogSize`]: they ask for a ring of no bytes at address 0, whose last byte is -1.
    fn size_log(&self, ctx: &mut Ctx<'_>) {
        let in_use = self.used.iter().any(Option::is_some);
        let asks = |ring: &Option<IovaPage>| ring.is_none() && in_use && ctx.faults.on(Fault::VhostLogSize);
        if let Some(queue) = self.used.iter().position(asks) {
            let last = 0_u64.wrapping_sub(1);
            ctx.crash(format!(
                "no memory for a log of {} bytes, up to the end of the used ring of queue {queue}",
                last / LOG_CHUNK / 8 + 1
            ));
        }
    }

    /// The guest sets a queue up.
    pub(crate) fn set_up_queue(&mut self, queue: u8, used: IovaPage) {
        self.used[usize::from(queue)] = Some(used);
    }

    /// Returns where a queue's used ring lies, by the device's addresses.
    pub fn used_ring(&self, queue: u8) -> Option<IovaPage> {
        self.used.get(usize::from(queue)).copied().flatten()
    }

    /// The backend wrote pages, buffers of the guest's.
    ///
    /// Linux: drivers/vhost/vhost.c log_write(). [`Fault::VhostLogBase`]: the log is not where the backend was told that it is.
    pub fn wrote(&mut self, range: PageRange, faults: &Faults) {
        if !faults.on(Fault::VhostLogBase) {
            self.log.mark(range);
        }
    }

    /// The backend wrote a queue's used ring, which lies in this page. It stands in the log if the queue's ring is logged.
    pub fn wrote_used_ring(&mut self, queue: u8, page: Pfn, faults: &Faults) {
        if self.logged >> queue & 1 == 1 {
            self.wrote(PageRange::page(page), faults);
        }
    }

    /// Moves the log into D, and says so: first by memory regions, then once more by the used rings.
    ///
    /// QEMU: hw/virtio/vhost.c vhost_sync_dirty_bitmap(). [`Fault::VhostUsedRingIova`]: the address of a used ring is taken for the guest's.
    pub(crate) fn merge(&mut self, iommu: &Iommu, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        self.log.merge(d, ctx);
        for iova in self.used.iter().flatten() {
            let page = if ctx.faults.on(Fault::VhostUsedRingIova) { Some(Pfn(iova.0)) } else { iommu.translate(*iova) };
            if let Some(page) = page.filter(|page| page.0 >= self.log.bits().pages()) {
                return ctx.crash(format!("the used ring at page {page} lies behind the end of the log"));
            }
        }
    }

    /// The backend is stopped with the machine: its queues are gone, and what stands in the log is left to the merge that follows.
    pub(crate) fn reset(&mut self, ctx: &Ctx<'_>) {
        self.vm_stopped(ctx);
        self.used.fill(None);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    fn backend(options: VhostOptions) -> Vhost {
        Vhost::new(64, options)
    }

    #[test]
    fn a_backend_that_takes_its_time_logs_nothing_before_it_answers() {
        let mut desk = Desk::new(&[]);
        let mut vhost = backend(VhostOptions { log_ack_ns: Some(5), ..VhostOptions::default() });
        vhost.log_start(&mut desk.ctx());
        assert!(vhost.is_ordered() && vhost.is_awaited(&desk.ctx()));
        assert_eq!(vhost.next(&desk.ctx()), Next::Sleep(5));
        vhost.wrote(PageRange::page(Pfn(3)), &Faults::default());
        assert!(vhost.log().is_clear());
        vhost.step(&mut desk.ctx());
        vhost.wrote(PageRange::page(Pfn(3)), &Faults::default());
        assert!(vhost.log().bits().test(Pfn(3)) && !vhost.is_ordered());
        assert_eq!(desk.take_events(), [Event::VhostLogStart]);
    }

    #[test]
    fn an_order_ends_with_the_log_that_it_asked_for() {
        let mut desk = Desk::new(&[]);
        let mut vhost = backend(VhostOptions { log_ack_ns: Some(0), ..VhostOptions::default() });
        vhost.log_start(&mut desk.ctx());
        vhost.log_stop();
        assert_eq!(vhost.next(&desk.ctx()), Next::Idle);
    }

    #[test]
    fn each_used_ring_is_logged_by_its_own_index() {
        for (faults, logged) in [(&[][..], [true; 4]), (&[Fault::VhostQueueIndex][..], [true, true, false, false])] {
            let mut desk = Desk::new(faults);
            let mut vhost = backend(VhostOptions { queues: 4, ..VhostOptions::default() });
            vhost.log_start(&mut desk.ctx());
            for queue in 0..4 {
                vhost.wrote_used_ring(queue, Pfn(queue.into()), &Faults::default());
            }
            assert_eq!([0, 1, 2, 3].map(|queue| vhost.log().bits().test(Pfn(queue))), logged);
        }
    }
}
