//! The handlers that run in the main loop: inflate, deflate, statistics and reporting queues, and the statistics timer.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_handle_output(), _receive_stats(), _handle_report(), balloon_stats_poll_cb(); each runs
//! to its end under the BQL. A step ends before a page that the scenario looks at, else at the end of an element. Differs: while the VM is
//! stopped nothing is served; QEMU serves what was kicked as part of stopping, and the destination looks at every queue when it starts.

use std::collections::BTreeSet;

use super::device::{BalloonDevice, QueueRole};
use crate::event::{Event, EventKind, LockId, PageRange, Pfn};
use crate::fold::{Fold, Tag};
use crate::step::{Ctx, Move, Next};
use crate::transport::Element;

/// The handlers' state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainLoop {
    kicked: BTreeSet<u16>,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing runs.
    Idle,
    /// A handler runs, with the BQL: this element is next, or the queue is empty.
    Handling(Option<Work>),
}

/// An element and what is to be done for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Work {
    queue: u16,
    role: QueueRole,
    element: Element,
    items: Vec<Item>,
    next: usize,
    /// Pages of the next item that are done.
    pages: u64,
}

impl Work {
    /// Returns what is to be done next: of a range of pages, one.
    fn now(&self) -> Item {
        let page = |range: PageRange| PageRange::page(Pfn(range.first.0 + self.pages));
        match self.items[self.next] {
            Item::Inflate(range) => Item::Inflate(page(range)),
            Item::Deflate(range) => Item::Deflate(page(range)),
            item @ (Item::Report { .. } | Item::Stats { .. }) => item,
        }
    }

    /// Goes on to what is to be done next. Returns whether there is anything.
    fn advance(&mut self) -> bool {
        self.pages += 1;
        let whole = match self.items[self.next] {
            Item::Inflate(range) | Item::Deflate(range) => self.pages == range.count,
            Item::Report { .. } | Item::Stats { .. } => true,
        };
        if whole {
            (self.next, self.pages) = (self.next + 1, 0);
        }
        self.next < self.items.len()
    }
}

/// One thing to do for an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// Take pages, one by one.
    Inflate(PageRange),
    /// Give pages back, one by one.
    Deflate(PageRange),
    /// Take a report; drop the contents, too, unless the range is no number of whole pages.
    Report { range: PageRange, whole: bool },
    /// Read this many statistics, of which so many say nothing.
    Stats { records: u32, odd: u32 },
}

impl Item {
    fn announcement(self) -> Move {
        match self {
            Item::Inflate(page) => Move::on(EventKind::BalloonInflate, page),
            Item::Deflate(page) => Move::on(EventKind::BalloonDeflate, page),
            Item::Report { range, .. } => Move::on(EventKind::BalloonReport, range),
            Item::Stats { .. } => Move::plain(EventKind::BalloonStats),
        }
    }

    fn watched(self, ctx: &Ctx<'_>) -> bool {
        match self {
            Item::Inflate(range) | Item::Deflate(range) | Item::Report { range, .. } => {
                ctx.watch.0.range(range.first..range.end()).next().is_some()
            }
            Item::Stats { .. } => false,
        }
    }
}

impl MainLoop {
    pub(super) fn new() -> Self {
        Self { kicked: BTreeSet::new(), phase: Phase::Idle }
    }

    pub(super) fn fold(&self, fold: &mut Fold) {
        let Self { kicked, phase } = self;
        kicked.iter().for_each(|queue| fold.word(Tag::Kicked as u64, u64::from(*queue), 1));
        fold.add_part(Tag::MainLoop, phase);
    }

    pub(super) fn schedule(&mut self, queue: u16) {
        self.kicked.insert(queue);
    }

    pub(super) fn forget_kicks(&mut self) {
        self.kicked.clear();
    }
}

impl BalloonDevice {
    /// Returns whether a handler is between its first and its last step, with the BQL held: nothing else may run in the main loop then.
    pub fn main_loop_busy(&self) -> bool {
        match self.state.main_loop.phase {
            Phase::Idle => false,
            Phase::Handling(_) => true,
        }
    }

    /// Returns the queue that a handler is about to use.
    pub(super) fn main_loop_queue(&self, now_ns: u64) -> Option<u16> {
        match &self.state.main_loop.phase {
            Phase::Handling(Some(work)) => Some(work.queue),
            Phase::Handling(None) => None,
            Phase::Idle if !self.state.vm_running => None,
            Phase::Idle => {
                let due = self.state.stats.poll_at_ns().is_some_and(|at| at <= now_ns);
                let stats = self.queue_of(QueueRole::Stats).filter(|_| due);
                self.state.main_loop.kicked.first().copied().or(stats)
            }
        }
    }

    /// Returns the main loop's next move for this device.
    pub fn main_loop_next(&self, ctx: &Ctx<'_>) -> Next {
        match &self.state.main_loop.phase {
            Phase::Idle if !self.state.vm_running => Next::Idle,
            Phase::Idle if !self.state.main_loop.kicked.is_empty() => Next::Lock(LockId::Bql),
            Phase::Idle => match self.state.stats.poll_at_ns() {
                Some(at) if at <= ctx.now_ns => Next::Lock(LockId::Bql),
                Some(at) => Next::Sleep(at),
                None => Next::Idle,
            },
            Phase::Handling(Some(work)) => Next::Do(work.now().announcement()),
            Phase::Handling(None) => Next::Do(Move::plain(EventKind::LockRelease)),
        }
    }

    /// Makes the main loop's next move for this device, and returns its cost, nanoseconds.
    ///
    /// # Panics
    /// When [`BalloonDevice::main_loop_next`] has no move.
    pub fn main_loop_step(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        match std::mem::replace(&mut self.state.main_loop.phase, Phase::Idle) {
            Phase::Idle => {
                ctx.lock(LockId::Bql);
                self.start_handler(ctx);
                ctx.costs.lock_ns
            }
            Phase::Handling(Some(work)) => {
                self.run_items(work, ctx);
                ctx.costs.element_ns
            }
            Phase::Handling(None) => {
                ctx.unlock(LockId::Bql);
                ctx.costs.lock_ns
            }
        }
    }

    fn start_handler(&mut self, ctx: &mut Ctx<'_>) {
        let work = match self.state.main_loop.kicked.pop_first() {
            Some(queue) => {
                let work = self.take_work(queue, ctx);
                if self.role(queue) == Some(QueueRole::Stats) {
                    self.state.stats.rearm(self.options.stats_interval_ns, ctx.now_ns);
                }
                work
            }
            None => {
                assert!(self.state.stats.poll_at_ns().is_some_and(|at| at <= ctx.now_ns), "no handler is due");
                self.poll_stats(ctx);
                None
            }
        };
        self.state.main_loop.phase = Phase::Handling(work);
    }

    /// Takes the next element that asks for something; what asks for nothing is returned on the way.
    fn take_work(&mut self, queue: u16, ctx: &mut Ctx<'_>) -> Option<Work> {
        let role = self.role(queue)?;
        while self.transport.has_available(queue, ctx.ram) {
            match self.transport.queue_mut(queue).pop(ctx.ram) {
                Ok(Some(element)) => {
                    let items = self.items(role, &element, ctx);
                    if !items.is_empty() {
                        return Some(Work { queue, role, element, items, next: 0, pages: 0 });
                    }
                    self.return_element(queue, element, 0, ctx);
                }
                Ok(None) => break,
                Err(_) => self.transport.virtio_error(queue, ctx),
            }
        }
        None
    }

    fn items(&self, role: QueueRole, element: &Element, ctx: &Ctx<'_>) -> Vec<Item> {
        let ram = ctx.ram;
        match role {
            QueueRole::Inflate => {
                let told = self.told_pages(element, ram).into_iter();
                told.filter(|range| !self.is_rom(*range, ctx)).map(Item::Inflate).collect()
            }
            QueueRole::Deflate => self.told_pages(element, ram).into_iter().map(Item::Deflate).collect(),
            QueueRole::Stats => {
                vec![Item::Stats { records: super::stats::records(element, ram), odd: super::stats::odd_records(element, ram) }]
            }
            QueueRole::Reporting => super::reporting::ranges(element, self.options.profile, self.options.machine.host_page),
            QueueRole::FreePage => unreachable!("the iothread serves the hint queue"),
            QueueRole::Absent => unreachable!("a queue that is not there takes no element"),
        }
    }

    fn run_items(&mut self, mut work: Work, ctx: &mut Ctx<'_>) {
        loop {
            self.run_item(work.now(), ctx);
            if !work.advance() {
                let work = self.finish(work, ctx);
                self.state.main_loop.phase = Phase::Handling(work);
                return;
            }
            if work.now().watched(ctx) {
                break;
            }
        }
        self.state.main_loop.phase = Phase::Handling(Some(work));
    }

    fn run_item(&mut self, item: Item, ctx: &mut Ctx<'_>) {
        match item {
            Item::Inflate(page) => self.inflate_page(page.first, ctx),
            Item::Deflate(page) => self.deflate_page(page.first, ctx),
            Item::Report { range, whole } => self.take_report(range, whole, ctx),
            Item::Stats { records, odd } => {
                ctx.emit(Event::BalloonStats { records });
                if odd > 0 {
                    ctx.emit(Event::BalloonOddStats { odd });
                }
            }
        }
    }

    /// Ends an element, and takes the next one. The statistics buffer is kept until the next poll, and only one is taken per kick.
    fn finish(&mut self, work: Work, ctx: &mut Ctx<'_>) -> Option<Work> {
        let Work { queue, role, element, items: _, next: _, pages: _ } = work;
        self.forget_partial(ctx);
        match role {
            QueueRole::Stats => {
                self.hold_stats(queue, element, ctx);
                None
            }
            QueueRole::Inflate | QueueRole::Deflate | QueueRole::Reporting | QueueRole::FreePage | QueueRole::Absent => {
                let len = self.used_len(role, &element);
                self.return_element(queue, element, len, ctx);
                self.take_work(queue, ctx)
            }
        }
    }

    /// Returns an element and tells the driver, as it wishes. Every element of these queues ends here; a queue that the driver has taken out
    /// of service meanwhile (the statistics buffer may be old) gets nothing.
    pub(super) fn return_element(&mut self, queue: u16, element: Element, len: u32, ctx: &mut Ctx<'_>) {
        if self.transport.queue_mut(queue).push(element, len, ctx.ram).is_some() {
            self.notify_queue(queue, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Profile;
    use super::super::testing::{Buf, DEFLATE, INFLATE, REPORTING, Rig, STATS, range};
    use super::*;
    use wire::balloon::config;
    use wire::virtio::{isr, mmio};

    const USED: Event = Event::DeviceIrq { cause: isr::USED_BUFFER };

    fn pfns(rig: &Rig, address: u64, pfns: &[u32]) -> Buf {
        let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        rig.ram.write(address, &bytes);
        Buf::Read(address, bytes.len() as u32)
    }

    fn send(rig: &mut Rig, queue: u16, bufs: &[Buf]) -> Vec<Event> {
        rig.add(queue, bufs);
        rig.kick(queue);
        rig.run();
        rig.take_events()
    }

    #[test]
    fn an_inflated_page_reads_as_zeros_and_is_not_dirty() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.ram.write(0x30_1000, &[7]);
        let buf = pfns(&rig, 0x30_0000, &[0x301, 4096, 0xffff_ffff]);
        rig.ram.drain_writes();
        let expected = [Event::BalloonInflate { pfn: Pfn(0x301) }, Event::HostDiscard { range: range(0x301, 1) }, USED];
        assert_eq!(send(&mut rig, INFLATE, &[buf]), expected, "pages outside RAM are passed over");
        assert_eq!(rig.ram.page(Pfn(0x301))[0], 0);
        assert!(!rig.ram.drain_writes().iter().any(|r| r.contains(Pfn(0x301))));
        assert_eq!(rig.used(INFLATE), [(0, 0)]);
    }

    #[test]
    fn an_inhibited_host_keeps_the_contents() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.device.set_inhibited(true);
        rig.ram.write(0x30_1000, &[7]);
        let buf = pfns(&rig, 0x30_0000, &[0x301]);
        assert_eq!(send(&mut rig, INFLATE, &[buf]), [Event::BalloonInflate { pfn: Pfn(0x301) }, USED]);
        assert_eq!(send(&mut rig, REPORTING, &[Buf::pages(0x301, 1)]), [Event::BalloonReport { range: range(0x301, 1) }, USED]);
        assert_eq!(rig.ram.page(Pfn(0x301))[0], 7);
    }

    #[test]
    fn deflate_touches_nothing() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        let buf = pfns(&rig, 0x30_0000, &[0x301, 0x302]);
        let expected = [Event::BalloonDeflate { pfn: Pfn(0x301) }, Event::BalloonDeflate { pfn: Pfn(0x302) }, USED];
        assert_eq!(send(&mut rig, DEFLATE, &[buf]), expected);
    }

    #[test]
    fn a_watched_page_begins_a_step_of_its_own() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.watch.0.insert(Pfn(0x303));
        let buf = pfns(&rig, 0x30_0000, &[0x301, 0x302, 0x303, 0x304]);
        rig.add(DEFLATE, &[buf]);
        rig.kick(DEFLATE);
        let mut sizes = Vec::new();
        while rig.main_loop_step() {
            sizes.push(rig.take_events().len());
        }
        assert_eq!(sizes, [0, 2, 3, 0], "lock, two pages, two pages and the interrupt, unlock");
    }

    #[test]
    fn an_element_that_names_no_page_comes_back() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        rig.add(INFLATE, &[Buf::Write(0x30_0000, 8)]);
        assert_eq!(send(&mut rig, INFLATE, &[Buf::Read(0x30_0000, 3)]), [USED, USED]);
        assert_eq!(rig.used(INFLATE), [(0, 0), (1, 0)]);
    }

    #[test]
    fn a_report_is_discarded_when_it_is_whole_pages_without_poison() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        let whole = send(&mut rig, REPORTING, &[Buf::pages(0x310, 2), Buf::Write(0x30_0800, 0x1000), Buf::Write(0x30_0000, 0xfff)]);
        let expected = [
            Event::BalloonReport { range: range(0x310, 2) },
            Event::HostDiscard { range: range(0x310, 2) },
            Event::BalloonReport { range: range(0x300, 1) },
            USED,
        ];
        assert_eq!(whole, expected);
        rig.write(mmio::CONFIG + config::POISON_VAL, 0xaa);
        assert_eq!(send(&mut rig, REPORTING, &[Buf::pages(0x310, 1)]), [Event::BalloonReport { range: range(0x310, 1) }, USED]);
    }

    #[test]
    fn the_statistics_buffer_is_held_until_the_next_poll() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        assert_eq!(
            send(&mut rig, STATS, &[Buf::Read(0x30_0000, 25)]),
            [Event::BalloonStats { records: 2 }, Event::BalloonOddStats { odd: 1 }]
        );
        assert_eq!(rig.used(STATS), []);
        assert_eq!(rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.main_loop_next(ctx)), Next::Sleep(1_000_000));
        rig.now_ns = 1_000_000;
        rig.run();
        assert_eq!(rig.take_events(), [USED]);
        assert_eq!(rig.used(STATS), [(0, 20)], "QEMU says that it wrote what it read");
        assert_eq!(rig.with(crate::event::Actor::MainLoop, |device, _, ctx| device.main_loop_next(ctx)), Next::Idle);
    }

    #[test]
    fn a_second_statistics_buffer_sends_the_first_back() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        send(&mut rig, STATS, &[Buf::Read(0x30_0000, 10)]);
        assert_eq!(send(&mut rig, STATS, &[Buf::Read(0x30_0000, 10)]), [Event::BalloonStats { records: 1 }, USED]);
        assert_eq!(rig.used(STATS), [(0, 0)]);
    }

    #[test]
    fn a_statistics_buffer_of_a_dead_queue_goes_nowhere() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        send(&mut rig, STATS, &[Buf::Read(0x30_0000, 10)]);
        rig.write(mmio::QUEUE_SEL, u32::from(STATS));
        rig.write(mmio::QUEUE_READY, 0);
        rig.now_ns = 1_000_000;
        rig.run();
        assert_eq!(rig.used(STATS), []);
    }

    #[test]
    fn a_stopped_vm_is_not_served_until_it_runs() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        let buf = pfns(&rig, 0x30_0000, &[0x301]);
        rig.vm_state(false);
        rig.take_events();
        assert_eq!(send(&mut rig, DEFLATE, &[buf]), []);
        rig.vm_state(true);
        rig.run();
        assert_eq!(rig.used(DEFLATE), [(0, 0)]);
    }

    #[test]
    fn a_handler_holds_the_bql_from_its_first_step_to_its_last() {
        let mut rig = Rig::up(Profile::Qemu, &[]);
        let buf = pfns(&rig, 0x30_0000, &[0x301]);
        rig.add(DEFLATE, &[buf]);
        rig.kick(DEFLATE);
        assert!(!rig.device.main_loop_busy());
        rig.main_loop_step();
        assert!(rig.device.main_loop_busy());
        assert_eq!(rig.locks.holder(LockId::Bql), Some(crate::event::Actor::MainLoop));
        rig.run();
        assert_eq!(rig.locks.holder(LockId::Bql), None);
    }
}
