//! The return path: what the destination asks the source for, on its way, and the thread that takes it.
//!
//! QEMU: migration/migration.c source_return_path_thread(), migrate_handle_rp_req_pages(); migration/ram.c ram_save_queue_pages(). A request takes
//! its time, and the thread a move of its own: it queues the page under `src_page_req_mutex`, and the migration thread finds it between two
//! pages. Differs: answers (PONG, SHUT, the bitmap of a recovery) are known to the source as soon as they are sent; and with
//! `postcopy-preempt` it is still the migration thread that sends what was asked for, not this one.

use std::collections::VecDeque;

use crate::event::{Event, EventKind, LockId, PageRange, Pfn};
use crate::fold::{Fold, Tag};
use crate::migration::run::Run;
use crate::step::{Ctx, Move, Next};

/// The connection's other direction, and the thread at its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ReturnPath {
    /// Pages that are asked for, and when the request arrives, nanoseconds.
    requests: VecDeque<(u64, Pfn)>,
}

impl ReturnPath {
    /// Adds its state to a hash. Where a search chooses, a request arrives as soon as it is sent.
    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { requests } = self;
        if !requests.is_empty() {
            fold.add_part(Tag::ReturnPath, &requests.iter().map(|(_, pfn)| *pfn).collect::<Vec<_>>());
        }
    }

    /// The destination asks for a page.
    pub(crate) fn ask(&mut self, pfn: Pfn, ctx: &Ctx<'_>) {
        self.requests.push_back((ctx.now_ns + ctx.costs.return_path_ns, pfn));
    }

    /// Returns whether a request for the page is on its way.
    pub(crate) fn carries(&self, pfn: Pfn) -> bool {
        self.requests.iter().any(|(_, asked)| *asked == pfn)
    }

    /// The link broke.
    pub(crate) fn cut(&mut self) {
        self.requests.clear();
    }
}

impl Run {
    /// Returns what the thread does next. It ends with its migration.
    pub(crate) fn return_path_next(&self, ctx: &Ctx<'_>) -> Next {
        match self.post.returning.requests.front() {
            Some(_) if !self.status.is_running() => Next::Idle,
            Some((at_ns, _)) if ctx.now_ns < *at_ns => Next::Sleep(*at_ns),
            Some((_, pfn)) => ctx.locks.needed(LockId::PageRequests, ctx.actor).unwrap_or_else(|| self.taking(*pfn)),
            None => Next::Idle,
        }
    }

    fn taking(&self, pfn: Pfn) -> Next {
        Next::Do(Move::on(EventKind::ReturnRequest, PageRange::page(pfn)))
    }

    /// Makes the thread's next move, and returns its cost, nanoseconds.
    pub(crate) fn return_path_step(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        if ctx.take_needed(LockId::PageRequests) {
            return ctx.costs.lock_ns;
        }
        let (_, pfn) = self.post.returning.requests.pop_front().expect("a request has arrived");
        ctx.emit(Event::ReturnRequest { pfn });
        self.post.requested(pfn);
        ctx.release_needed(LockId::PageRequests);
        ctx.costs.element_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;
    use crate::event::MigrationStatus;
    use crate::lock::Locks;
    use crate::migration::pace::MigrationOptions;

    const DELAY_NS: u64 = 50_000;
    const P: Pfn = Pfn(3);

    #[test]
    fn a_request_takes_its_time_and_then_a_move() {
        let (mut run, mut desk) = (Run::new(MigrationStatus::PostcopyActive, MigrationOptions::default(), false), Desk::new(&[]));
        run.post.returning.ask(P, &desk.ctx());
        assert!(run.post.returning.carries(P) && !run.post.has_work());
        let mut ctx = desk.ctx();
        assert_eq!(run.return_path_next(&ctx), Next::Sleep(DELAY_NS));
        ctx.now_ns = DELAY_NS;
        assert_eq!(run.return_path_next(&ctx), Next::Do(Move::on(EventKind::ReturnRequest, PageRange::page(P))));
        run.return_path_step(&mut ctx);
        assert_eq!((run.post.request(), run.return_path_next(&ctx)), (Some(P), Next::Idle));
        assert_eq!(desk.take_events(), [Event::ReturnRequest { pfn: P }]);
    }

    #[test]
    fn a_request_is_queued_under_its_mutex() {
        let (mut run, mut desk) = (Run::new(MigrationStatus::PostcopyActive, MigrationOptions::default(), false), Desk::new(&[]));
        desk.locks = Locks::new(true);
        run.post.returning.ask(P, &desk.ctx());
        let mut ctx = desk.ctx();
        ctx.now_ns = DELAY_NS;
        let lock = LockId::PageRequests;
        assert_eq!(run.return_path_next(&ctx), Next::Lock(lock));
        run.return_path_step(&mut ctx);
        run.return_path_step(&mut ctx);
        assert_eq!(desk.take_events(), [Event::LockTake { lock }, Event::ReturnRequest { pfn: P }, Event::LockRelease { lock }]);
    }

    #[test]
    fn what_is_on_its_way_is_gone_with_the_link() {
        let (mut run, mut desk) = (Run::new(MigrationStatus::PostcopyActive, MigrationOptions::default(), false), Desk::new(&[]));
        run.post.returning.ask(P, &desk.ctx());
        run.post.cut();
        assert_eq!(run.return_path_next(&desk.ctx()), Next::Idle);
    }
}
