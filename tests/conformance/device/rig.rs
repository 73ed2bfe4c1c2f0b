//! A driver made by hand: it programs the host's balloon device through its registers, fills rings in guest memory, and lets the host's threads
//! run until they have nothing to do.

use std::collections::BTreeMap;

use host::balloon::device::QueueRole;
use host::balloon::{BalloonDevice, BalloonOptions, Numbering, Profile, Protocol};
use host::event::{Actor, CmdId, Event, EventKind, HintStatus, LockId, PageRange, Pfn, PrecopyReason, Stamped};
use host::fault::Faults;
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::notifier::{HintSink, PrecopyNotifier};
use host::step::{Costs, Ctx, Next, Watch};
use wire::balloon::{config, feature};
use wire::virtio::{mmio, status};
use wire::vring;

pub(crate) const PROFILES: [Profile; 2] = [Profile::Qemu, Profile::Firecracker];
/// Every queue of the device.
pub(crate) const QUEUES: [QueueRole; 5] =
    [QueueRole::Inflate, QueueRole::Deflate, QueueRole::Stats, QueueRole::FreePage, QueueRole::Reporting];
/// Entries of each queue.
pub(crate) const SIZE: u16 = 16;
/// The host asks for statistics this often.
pub(crate) const STATS_NS: u64 = 1_000_000;
/// Status bits of a driver that is about to be ready.
pub(crate) const ALMOST: u32 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
/// A page of the guest's, and a few behind it, for tests to play with.
pub(crate) const PAGE: u64 = 0x300;

/// Where words for the device to read stand.
const WORDS: u64 = 0x20_0000;

/// A migration engine that takes hints and remembers them.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(crate) applied: Vec<PageRange>,
}

impl HintSink for Sink {
    fn is_running(&self) -> bool {
        true
    }

    fn load(&mut self, range: PageRange, _: &mut Ctx<'_>) {
        unreachable!("{range} is loaded under a fault alone");
    }

    fn free_page_hint(&mut self, range: PageRange, id: CmdId, ctx: &mut Ctx<'_>) -> u64 {
        ctx.emit(Event::HintApply { range, id, cleared: range.count });
        self.applied.push(range);
        range.count
    }
}

/// A descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// What a descriptor names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buf {
    /// Bytes for the device to read: address, length.
    Out(u64, u32),
    /// Memory that the device may write: address, length.
    In(u64, u32),
}

/// Pages from a frame on, for the device to write.
pub(crate) fn pages(first: u64, count: u32) -> Buf {
    Buf::In(first << 12, count << 12)
}

pub(crate) struct Rig {
    pub(crate) device: BalloonDevice,
    pub(crate) ram: GuestRam,
    pub(crate) sink: Sink,
    pub(crate) events: Vec<Stamped>,
    pub(crate) now_ns: u64,
    options: BalloonOptions,
    locks: Locks,
    faults: Faults,
    costs: Costs,
    watch: Watch,
    /// Available index and next descriptor of each queue.
    rings: BTreeMap<u16, (u16, u16)>,
    /// Places for words that were given away.
    places: u64,
}

/// A device that offers all that is ratified, but for EVENT_IDX and indirect tables.
pub(crate) fn options(profile: Profile) -> BalloonOptions {
    BalloonOptions {
        features: feature::MUST_TELL_HOST
            | feature::STATS_VQ
            | feature::DEFLATE_ON_OOM
            | feature::FREE_PAGE_HINT
            | feature::PAGE_POISON
            | feature::PAGE_REPORTING,
        profile,
        protocol: Protocol::Merged,
        numbering: Numbering::Dense,
        queue_size: SIZE,
        hint_queue_size: SIZE,
        stats_interval_ns: STATS_NS,
        target_pages: 0,
        acknowledge_on_stop: true,
        machine: host::balloon::Machine::default(),
    }
}

impl Rig {
    /// A device after power-on.
    pub(crate) fn new(options: BalloonOptions) -> Self {
        Rig {
            device: BalloonDevice::new(options.clone()),
            ram: GuestRam::new(16 << 20),
            sink: Sink::default(),
            events: Vec::new(),
            now_ns: 0,
            options,
            locks: Locks::default(),
            faults: Faults::default(),
            costs: Costs::default(),
            watch: Watch::default(),
            rings: BTreeMap::new(),
            places: 0,
        }
    }

    /// A device whose driver has taken everything and is up.
    pub(crate) fn up(profile: Profile) -> Self {
        Rig::up_with(options(profile), u64::MAX)
    }

    /// A device whose driver has taken some of what is offered and is up.
    pub(crate) fn up_with(options: BalloonOptions, wanted: u64) -> Self {
        let mut rig = Rig::new(options);
        assert!(rig.negotiate(wanted), "the features are not accepted");
        rig.set_up_queues();
        rig.write(mmio::STATUS, ALMOST | status::DRIVER_OK);
        rig.run();
        rig.events.clear();
        rig
    }

    fn with<R>(&mut self, actor: Actor, f: impl FnOnce(&mut BalloonDevice, &mut Sink, &mut Ctx<'_>) -> R) -> R {
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

    // ---- registers

    fn access<R>(&mut self, offset: u64, write: Option<u32>, f: impl FnOnce(&mut BalloonDevice, &mut Ctx<'_>) -> R) -> R {
        self.with(Actor::Vcpu(0), |device, _, ctx| {
            let needed = device.mmio_locks(offset, write);
            needed.iter().for_each(|lock| ctx.locks.take(*lock, ctx.actor));
            let result = f(device, ctx);
            needed.iter().for_each(|lock| ctx.locks.release(*lock, ctx.actor));
            result
        })
    }

    pub(crate) fn read_len(&mut self, offset: u64, len: u32) -> u32 {
        self.access(offset, None, |device, ctx| device.mmio_read(offset, len, ctx))
    }

    pub(crate) fn write_len(&mut self, offset: u64, len: u32, value: u32) {
        self.access(offset, Some(value), |device, ctx| device.mmio_write(offset, len, value, ctx));
    }

    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        self.read_len(offset, 4)
    }

    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        self.write_len(offset, 4, value);
    }

    pub(crate) fn config(&mut self, field: u64) -> u32 {
        self.read(mmio::CONFIG + field)
    }

    /// The command id that stands in the configuration.
    pub(crate) fn id(&mut self) -> u32 {
        self.config(config::FREE_PAGE_HINT_CMD_ID)
    }

    pub(crate) fn offered(&mut self) -> u64 {
        let mut word = |select| {
            self.write(mmio::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(mmio::DEVICE_FEATURES))
        };
        word(0) | word(1) << 32
    }

    /// Takes those of the wanted features that are offered; returns whether FEATURES_OK stays.
    pub(crate) fn negotiate(&mut self, wanted: u64) -> bool {
        let taken = self.offered() & wanted;
        self.demand(taken)
    }

    /// Takes features, offered or not; returns whether FEATURES_OK stays.
    pub(crate) fn demand(&mut self, features: u64) -> bool {
        self.write(mmio::STATUS, 0);
        self.write(mmio::STATUS, status::ACKNOWLEDGE);
        self.write(mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for (select, word) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(mmio::DRIVER_FEATURES_SEL, select);
            self.write(mmio::DRIVER_FEATURES, word);
        }
        self.write(mmio::STATUS, ALMOST);
        self.read(mmio::STATUS) & status::FEATURES_OK != 0
    }

    pub(crate) fn index(&self, role: QueueRole) -> u16 {
        self.options.queues().iter().position(|other| *other == role).expect("the queue is offered") as u16
    }

    pub(crate) fn areas(&self, role: QueueRole) -> [u64; 3] {
        let base = 0x10_0000 + 0x3000 * u64::from(self.index(role));
        [base, base + 0x1000, base + 0x2000]
    }

    pub(crate) fn set_up_queues(&mut self) {
        for role in self.options.queues() {
            self.set_up(role, u32::from(SIZE), self.areas(role));
            assert_eq!(self.read(mmio::QUEUE_READY), 1, "{role:?}");
        }
    }

    /// Programs a queue and makes it ready, as far as the device lets it.
    pub(crate) fn set_up(&mut self, role: QueueRole, size: u32, [desc, driver, device]: [u64; 3]) {
        let index = self.index(role);
        self.rings.insert(index, (0, 0));
        self.areas(role).iter().for_each(|area| self.ram.write(*area, &[0; 0x1000]));
        self.write(mmio::QUEUE_SEL, u32::from(index));
        self.write(mmio::QUEUE_SIZE, size);
        for (low, address) in [(mmio::QUEUE_DESC_LOW, desc), (mmio::QUEUE_DRIVER_LOW, driver), (mmio::QUEUE_DEVICE_LOW, device)] {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(mmio::QUEUE_READY, 1);
    }

    // ---- rings

    /// Exposes a chain; returns its head.
    pub(crate) fn add(&mut self, role: QueueRole, bufs: &[Buf]) -> u16 {
        let index = self.index(role);
        let first = self.rings[&index].1;
        for (n, buf) in bufs.iter().enumerate() {
            let at = (first + n as u16) % SIZE;
            let (addr, len, flags) = match *buf {
                Buf::Out(addr, len) => (addr, len, 0),
                Buf::In(addr, len) => (addr, len, vring::DESC_F_WRITE),
            };
            let next = if n + 1 < bufs.len() { vring::DESC_F_NEXT } else { 0 };
            self.describe(role, at, (addr, len, flags | next, (at + 1) % SIZE));
        }
        self.rings.get_mut(&index).expect("set up").1 = (first + bufs.len() as u16) % SIZE;
        self.expose(role, first);
        first
    }

    /// Writes a descriptor.
    pub(crate) fn describe(&self, role: QueueRole, index: u16, (addr, len, flags, next): Descriptor) {
        let bytes: Vec<u8> =
            addr.to_le_bytes().into_iter().chain(len.to_le_bytes()).chain(flags.to_le_bytes()).chain(next.to_le_bytes()).collect();
        self.ram.write(self.areas(role)[0] + 16 * u64::from(index), &bytes);
    }

    /// Puts a head into the available ring, whatever it is.
    pub(crate) fn expose(&mut self, role: QueueRole, head: u16) {
        let driver = self.areas(role)[1];
        let index = self.index(role);
        let avail = &mut self.rings.get_mut(&index).expect("set up").0;
        self.ram.write(driver + 4 + 2 * u64::from(*avail % SIZE), &head.to_le_bytes());
        *avail = avail.wrapping_add(1);
        self.ram.write(driver + 2, &avail.to_le_bytes());
    }

    pub(crate) fn kick(&mut self, role: QueueRole) {
        let index = self.index(role);
        self.write(mmio::QUEUE_NOTIFY, u32::from(index));
    }

    /// Exposes a chain, notifies, and lets the host work.
    pub(crate) fn send(&mut self, role: QueueRole, bufs: &[Buf]) -> u16 {
        let head = self.add(role, bufs);
        self.kick(role);
        self.run();
        head
    }

    /// Words for the device to read; each call has its own place.
    pub(crate) fn words(&mut self, words: &[u32]) -> Buf {
        let place = WORDS + 0x100 * (self.places % 256);
        self.places += 1;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ram.write(place, &bytes);
        Buf::Out(place, bytes.len() as u32)
    }

    /// Sends an id on the hint queue.
    pub(crate) fn send_id(&mut self, id: u32) {
        let word = self.words(&[id]);
        self.send(QueueRole::FreePage, &[word]);
    }

    /// Used elements since the queue was set up, at most as many as fit: head and length.
    pub(crate) fn used(&self, role: QueueRole) -> Vec<(u32, u32)> {
        let device = self.areas(role)[2];
        let count = self.ram.read_u32(device) >> 16;
        let at = |n: u32| device + 4 + 8 * u64::from(n % u32::from(SIZE));
        (count.saturating_sub(u32::from(SIZE))..count).map(|n| (self.ram.read_u32(at(n)), self.ram.read_u32(at(n) + 4))).collect()
    }

    // ---- the host

    /// Lets the host's threads move until none can.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.iothread() && !self.main_loop() {
                return;
            }
        }
        panic!("the host's threads do not come to rest");
    }

    fn can_move(&self, next: &Next) -> bool {
        match next {
            Next::Do(_) => true,
            Next::Lock(lock) => self.locks.holder(*lock).is_none(),
            Next::Sleep(_) | Next::Wait(_) | Next::Idle => false,
        }
    }

    /// One move of the iothread.
    pub(crate) fn iothread(&mut self) -> bool {
        let next = self.with(Actor::Iothread, |device, sink, ctx| device.iothread_next(sink.is_running(), ctx));
        let moves = self.can_move(&next);
        if moves {
            self.with(Actor::Iothread, |device, sink, ctx| device.iothread_step(sink, ctx));
        }
        moves
    }

    /// One move of the main loop.
    pub(crate) fn main_loop(&mut self) -> bool {
        let next = self.with(Actor::MainLoop, |device, _, ctx| device.main_loop_next(ctx));
        let moves = self.can_move(&next);
        if moves {
            self.with(Actor::MainLoop, |device, _, ctx| device.main_loop_step(ctx));
        }
        moves
    }

    /// Tells the device of a migration's phase, under the locks that the engine takes.
    pub(crate) fn notify(&mut self, reason: PrecopyReason, vm_running: bool) {
        self.with(Actor::Migration, |device, _, ctx| {
            let Some(plan) = device.plan(reason, vm_running, ctx) else { return };
            ctx.lock(LockId::Bql);
            ctx.lock(LockId::FreePage);
            device.act(plan.action, ctx);
            ctx.unlock(LockId::FreePage);
            ctx.unlock(LockId::Bql);
        });
    }

    /// Opens a round; returns its id.
    pub(crate) fn request(&mut self) -> u32 {
        self.notify(PrecopyReason::AfterBitmapSync, true);
        assert_eq!(self.device.hint_status(), HintStatus::Requested);
        self.id()
    }

    /// Opens a round and answers with its id.
    pub(crate) fn start(&mut self) -> u32 {
        let id = self.request();
        self.send_id(id);
        assert_eq!(self.device.hint_status(), HintStatus::Start);
        id
    }

    pub(crate) fn set_target(&mut self, pages: u32) {
        self.with(Actor::MainLoop, |device, _, ctx| device.set_target(pages, ctx));
    }

    // ---- what was seen

    pub(crate) fn happened(&self, kind: EventKind) -> usize {
        self.events.iter().filter(|stamped| stamped.event.kind() == kind).count()
    }

    pub(crate) fn fill(&self, first: u64, count: u64, byte: u8) {
        (first..first + count).for_each(|pfn| self.ram.write(pfn << 12, &[byte; 4096]));
    }

    /// Whether each byte of these pages is this one.
    pub(crate) fn holds(&self, first: u64, count: u64, byte: u8) -> bool {
        (first..first + count).all(|pfn| self.ram.page(Pfn(pfn)) == [byte; 4096])
    }

    /// Whether a configuration interrupt is pending.
    pub(crate) fn config_interrupt(&mut self) -> bool {
        self.read(mmio::INTERRUPT_STATUS) & wire::virtio::isr::CONFIG_CHANGE != 0
    }
}
