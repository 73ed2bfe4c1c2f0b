//! A driver for tests: it probes the device through its registers, fills rings in guest memory, and lets the host's threads run.

use super::device::{BalloonDevice, BalloonOptions, Profile};
use super::protocol::Protocol;
use super::request::Format;
use crate::event::{Actor, CmdId, Event, EventKind, HintStatus, LockId, PageRange, Pfn, PrecopyReason, Stamped};
use crate::fault::{Fault, Faults};
use crate::lock::Locks;
use crate::memory::GuestRam;
use crate::migration::notifier::{HintSink, NotifyAction, PrecopyNotifier};
use crate::step::{Costs, Ctx, Move, Next, Watch};
use wire::balloon::{feature, seed_feature};
use wire::platform::PAGE_SIZE;
use wire::virtio::{mmio, status};
use wire::vring;

pub(super) const RAM_PAGES: u64 = 4096;
pub(super) const QUEUE_SIZE: u16 = 16;
pub(super) const INFLATE: u16 = 0;
pub(super) const DEFLATE: u16 = 1;
pub(super) const STATS: u16 = 2;
pub(super) const HINT: u16 = 3;
pub(super) const REPORTING: u16 = 4;
/// Where buffers for ids and page lists start, one page for each descriptor of a queue.
const BUFFERS: u64 = 0x20_0000;

/// A migration engine that notes what it is told.
#[derive(Debug, Default)]
pub(super) struct FakeSink {
    pub(super) running: bool,
    pub(super) applied: Vec<(PageRange, CmdId)>,
}

impl HintSink for FakeSink {
    fn is_running(&self) -> bool {
        self.running
    }

    fn load(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::BitmapLoad { range });
    }

    fn free_page_hint(&mut self, range: PageRange, id: CmdId, ctx: &mut Ctx<'_>) -> u64 {
        assert_eq!(ctx.locks.holder(LockId::Bitmap), Some(Actor::Iothread), "hint without bitmap_mutex");
        ctx.emit(Event::HintApply { range, id, cleared: range.count });
        self.applied.push((range, id));
        range.count
    }
}

/// What a descriptor of a test's chain names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buf {
    /// A readable id or other word.
    Word(u32),
    /// Readable memory.
    Read(u64, u32),
    /// Writable memory.
    Write(u64, u32),
}

impl Buf {
    pub(super) fn pages(first: u64, count: u32) -> Self {
        Buf::Write(first * PAGE_SIZE, count * PAGE_SIZE as u32)
    }
}

/// A device, and all that a world would give it.
pub(super) struct Rig {
    pub(super) device: BalloonDevice,
    pub(super) ram: GuestRam,
    pub(super) locks: Locks,
    pub(super) faults: Faults,
    pub(super) watch: Watch,
    pub(super) sink: FakeSink,
    pub(super) events: Vec<Stamped>,
    pub(super) now_ns: u64,
    costs: Costs,
    avail: [u16; 5],
    descriptors: [u16; 5],
}

pub(super) fn options(profile: Profile) -> BalloonOptions {
    BalloonOptions {
        features: feature::FREE_PAGE_HINT | feature::PAGE_REPORTING | feature::PAGE_POISON | feature::STATS_VQ,
        profile,
        protocol: Protocol::Merged,
        numbering: super::protocol::Numbering::Dense,
        queue_size: QUEUE_SIZE,
        hint_queue_size: QUEUE_SIZE,
        stats_interval_ns: 1_000_000,
        target_pages: 0,
        acknowledge_on_stop: true,
        machine: super::device::Machine::default(),
    }
}

pub(super) fn request_options(format: Format) -> BalloonOptions {
    BalloonOptions {
        features: feature::STATS_VQ | seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ,
        protocol: Protocol::Requests(format),
        ..options(Profile::Qemu)
    }
}

impl Rig {
    pub(super) fn bare(options: BalloonOptions) -> Self {
        Self {
            device: BalloonDevice::new(options),
            ram: GuestRam::new(RAM_PAGES * PAGE_SIZE),
            locks: Locks::default(),
            faults: Faults::default(),
            watch: Watch::default(),
            sink: FakeSink { running: true, applied: Vec::new() },
            events: Vec::new(),
            now_ns: 0,
            costs: Costs::default(),
            avail: [0; 5],
            descriptors: [0; 5],
        }
    }

    /// A device whose driver is up and has taken every feature, with all start-up work done and its events forgotten.
    pub(super) fn up(profile: Profile, faults: &[Fault]) -> Self {
        let mut rig = Self::bare(options(profile));
        faults.iter().for_each(|fault| rig.faults.insert(*fault));
        rig.probe(u64::MAX);
        rig.run();
        rig.take_events();
        rig
    }

    /// A device of an interface with requests, its driver up likewise.
    pub(super) fn requests(format: Format) -> Self {
        let mut rig = Self::bare(request_options(format));
        rig.probe(u64::MAX);
        rig.run();
        rig.take_events();
        rig
    }

    pub(super) fn with<R>(&mut self, actor: Actor, f: impl FnOnce(&mut BalloonDevice, &mut FakeSink, &mut Ctx<'_>) -> R) -> R {
        let mut ctx = Ctx {
            actor,
            now_ns: self.now_ns,
            ram: &self.ram,
            locks: &mut self.locks,
            faults: &self.faults,
            costs: &self.costs,
            watch: &self.watch,
            events: &mut self.events,
        };
        f(&mut self.device, &mut self.sink, &mut ctx)
    }

    /// Takes the events since the last call, without those about locks, and those about kicks and what they wake.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        self.take_events_without(&[
            EventKind::LockTake,
            EventKind::LockRelease,
            EventKind::DeviceKick,
            EventKind::HintWake,
            EventKind::HintQuiet,
            EventKind::HintSleep,
        ])
    }

    /// Takes the events since the last call, without those of some kinds.
    pub(super) fn take_events_without(&mut self, kinds: &[EventKind]) -> Vec<Event> {
        let events = std::mem::take(&mut self.events).into_iter().map(|stamped| stamped.event);
        events.filter(|event| !kinds.contains(&event.kind())).collect()
    }

    // ---- registers, as vCPU 0

    pub(super) fn access<R>(&mut self, offset: u64, write: Option<u32>, f: impl FnOnce(&mut BalloonDevice, &mut Ctx<'_>) -> R) -> R {
        self.with(Actor::Vcpu(0), |device, _, ctx| {
            let locks = device.mmio_locks(offset, write);
            locks.iter().for_each(|lock| ctx.locks.take(*lock, ctx.actor));
            let result = f(device, ctx);
            locks.iter().for_each(|lock| ctx.locks.release(*lock, ctx.actor));
            result
        })
    }

    pub(super) fn read(&mut self, offset: u64) -> u32 {
        self.access(offset, None, |device, ctx| device.mmio_read(offset, 4, ctx))
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        self.access(offset, Some(value), |device, ctx| device.mmio_write(offset, 4, value, ctx));
    }

    pub(super) fn config(&mut self, field: u64) -> u32 {
        self.read(mmio::CONFIG + field)
    }

    /// Brings the device up in the order of VIRTIO 1.2 §3.1.1, with the wanted features among those offered.
    pub(super) fn probe(&mut self, wanted: u64) {
        self.write(mmio::STATUS, 0);
        self.write(mmio::STATUS, status::ACKNOWLEDGE);
        self.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for word in 0..2 {
            self.write(mmio::DEVICE_FEATURES_SEL, word);
            let offered = self.read(mmio::DEVICE_FEATURES);
            self.write(mmio::DRIVER_FEATURES_SEL, word);
            self.write(mmio::DRIVER_FEATURES, offered & (wanted >> (32 * word)) as u32);
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write(mmio::STATUS, ready);
        assert_eq!(self.read(mmio::STATUS), ready);
        for queue in 0..5 {
            self.set_up_queue(queue);
        }
        self.write(mmio::STATUS, ready | status::DRIVER_OK);
    }

    pub(super) fn set_up_queue(&mut self, queue: u16) {
        self.write(mmio::QUEUE_SEL, u32::from(queue));
        if self.read(mmio::QUEUE_SIZE_MAX) == 0 {
            return;
        }
        let [desc, driver, device] = rings(queue);
        self.write(mmio::QUEUE_SIZE, u32::from(QUEUE_SIZE));
        for (low, high, address) in [
            (mmio::QUEUE_DESC_LOW, mmio::QUEUE_DESC_HIGH, desc),
            (mmio::QUEUE_DRIVER_LOW, mmio::QUEUE_DRIVER_HIGH, driver),
            (mmio::QUEUE_DEVICE_LOW, mmio::QUEUE_DEVICE_HIGH, device),
        ] {
            self.ram.write(address, &[0; 0x1000]);
            self.write(low, address as u32);
            self.write(high, (address >> 32) as u32);
        }
        (self.avail[usize::from(queue)], self.descriptors[usize::from(queue)]) = (0, 0);
        self.write(mmio::QUEUE_READY, 1);
        assert_eq!(self.read(mmio::QUEUE_READY), 1);
    }

    // ---- rings

    /// Makes one chain available, without a kick, and returns its head.
    pub(super) fn add(&mut self, queue: u16, bufs: &[Buf]) -> u16 {
        let index = usize::from(queue);
        let head = self.descriptors[index] % QUEUE_SIZE;
        for (n, buf) in bufs.iter().enumerate() {
            let id = self.descriptors[index] % QUEUE_SIZE;
            self.descriptors[index] += 1;
            let (address, len, write) = match *buf {
                Buf::Word(word) => {
                    let address = BUFFERS + (u64::from(queue) * u64::from(QUEUE_SIZE) + u64::from(id)) * PAGE_SIZE;
                    self.ram.write(address, &word.to_le_bytes());
                    (address, 4, 0)
                }
                Buf::Read(address, len) => (address, len, 0),
                Buf::Write(address, len) => (address, len, vring::DESC_F_WRITE),
            };
            let next = if n + 1 < bufs.len() { vring::DESC_F_NEXT } else { 0 };
            self.write_descriptor(queue, id, address, len, write | next, (id + 1) % QUEUE_SIZE);
        }
        self.expose(queue, head);
        head
    }

    pub(super) fn write_descriptor(&self, queue: u16, id: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.ram.write(rings(queue)[0] + u64::from(id) * vring::DESC_BYTES, &bytes);
    }

    /// Puts a head in the available ring, whatever it is.
    pub(super) fn expose(&mut self, queue: u16, head: u16) {
        let avail = &mut self.avail[usize::from(queue)];
        let driver = rings(queue)[1];
        self.ram.write(driver + vring::AVAIL_RING + 2 * u64::from(*avail % QUEUE_SIZE), &head.to_le_bytes());
        *avail = avail.wrapping_add(1);
        self.ram.write(driver + vring::IDX, &avail.to_le_bytes());
    }

    pub(super) fn kick(&mut self, queue: u16) {
        self.write(mmio::QUEUE_NOTIFY, u32::from(queue));
    }

    /// Returns the used entries since the queue was set up, at most a ring full.
    pub(super) fn used(&self, queue: u16) -> Vec<(u32, u32)> {
        let device = rings(queue)[2];
        let count = self.ram.read_u32(device) >> 16;
        let entry = |n: u32| device + vring::USED_RING + u64::from(n % u32::from(QUEUE_SIZE)) * vring::USED_ELEM_BYTES;
        (0..count).map(|n| (self.ram.read_u32(entry(n)), self.ram.read_u32(entry(n) + 4))).collect()
    }

    pub(super) fn no_notify(&self, queue: u16) -> bool {
        self.ram.read_u32(rings(queue)[2]) & u32::from(vring::USED_F_NO_NOTIFY) != 0
    }

    // ---- the host's threads

    /// Makes one move of the iothread, if it has one now, and checks that it begins as announced.
    pub(super) fn iothread_step(&mut self) -> bool {
        let at = self.events.len();
        let next = self.with(Actor::Iothread, |device, sink, ctx| device.iothread_next(sink.running, ctx));
        if !self.can_move(&next) {
            return false;
        }
        self.with(Actor::Iothread, |device, sink, ctx| device.iothread_step(sink, ctx));
        self.check_announced(&next, at);
        true
    }

    /// Makes one move of the main loop, if it has one now, and checks that it begins as announced.
    pub(super) fn main_loop_step(&mut self) -> bool {
        let at = self.events.len();
        let next = self.with(Actor::MainLoop, |device, _, ctx| device.main_loop_next(ctx));
        if !self.can_move(&next) {
            return false;
        }
        self.with(Actor::MainLoop, |device, _, ctx| device.main_loop_step(ctx));
        self.check_announced(&next, at);
        true
    }

    fn can_move(&self, next: &Next) -> bool {
        match next {
            Next::Do(_) => true,
            Next::Lock(lock) => self.locks.holder(*lock).is_none(),
            Next::Sleep(at) => {
                assert!(*at > self.now_ns, "sleeps until {at} at {}", self.now_ns);
                false
            }
            Next::Wait(_) | Next::Idle => false,
        }
    }

    fn check_announced(&self, next: &Next, at: usize) {
        let first = &self.events.get(at).expect("a move has an event").event;
        match next {
            Next::Do(announced) => assert_eq!(*announced, Move::of(first)),
            Next::Lock(lock) => assert_eq!(*first, Event::LockTake { lock: *lock }),
            Next::Sleep(_) | Next::Wait(_) | Next::Idle => panic!("no move was announced"),
        }
    }

    /// Lets the host's threads run until none can move.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.iothread_step() && !self.main_loop_step() {
                assert!(!self.device.main_loop_busy(), "the main loop stands still inside a handler");
                return;
            }
        }
        panic!("the host's threads do not come to rest");
    }

    /// Runs the iothread until its next move begins with this event.
    pub(super) fn run_until(&mut self, announced: Move) {
        for _ in 0..1000 {
            if self.with(Actor::Iothread, |device, sink, ctx| device.iothread_next(sink.running, ctx)) == Next::Do(announced) {
                return;
            }
            assert!(self.iothread_step(), "the iothread waits before {announced:?}");
        }
        panic!("no {announced:?}");
    }

    // ---- the migration engine

    /// Tells the device of a migration's phase, with the locks that the engine takes. Returns what was done.
    pub(super) fn notify(&mut self, reason: PrecopyReason, vm_running: bool) -> Option<NotifyAction> {
        self.with(Actor::Migration, |device, _, ctx| {
            let plan = device.plan(reason, vm_running, ctx)?;
            ctx.lock(LockId::Bql);
            if plan.locked {
                ctx.lock(LockId::FreePage);
            }
            device.act(plan.action, ctx);
            if plan.locked {
                ctx.unlock(LockId::FreePage);
            }
            ctx.unlock(LockId::Bql);
            Some(plan.action)
        })
    }

    pub(super) fn vm_state(&mut self, running: bool) {
        self.with(Actor::Migration, |device, _, ctx| {
            ctx.lock(LockId::Bql);
            ctx.lock(LockId::FreePage);
            device.vm_state_change(running, ctx);
            ctx.unlock(LockId::FreePage);
            ctx.unlock(LockId::Bql);
        });
    }

    /// Brings the hinting state where a test starts from.
    pub(super) fn in_status(mut self, status: HintStatus) -> Self {
        match status {
            HintStatus::Stop => {}
            HintStatus::Requested => {
                self.notify(PrecopyReason::AfterBitmapSync, true);
            }
            HintStatus::Start => {
                self.notify(PrecopyReason::AfterBitmapSync, true);
                let id = self.device.config_cmd_id();
                self.send(&[Buf::Word(id.0)]);
            }
            HintStatus::Done => {
                self.notify(PrecopyReason::Cleanup, true);
            }
        }
        assert_eq!(self.device.hint_status(), status);
        self.take_events();
        self
    }

    /// Sends one hint element and lets the iothread take it.
    pub(super) fn send(&mut self, bufs: &[Buf]) {
        self.add(HINT, bufs);
        self.kick(HINT);
        self.run();
    }
}

fn rings(queue: u16) -> [u64; 3] {
    let base = 0x10_0000 + u64::from(queue) * 0x4000;
    [base, base + 0x1000, base + 0x2000]
}

pub(super) fn range(first: u64, count: u64) -> PageRange {
    PageRange::new(Pfn(first), count)
}
