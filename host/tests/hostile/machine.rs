//! The whole host, and what must hold after each of its moves.

use std::collections::{BTreeMap, BTreeSet};

use host::balloon::{BalloonOptions, Format, IothreadOption, Machine as Board, Numbering, Profile, Protocol, Walk, Words};
use host::devices::DeviceOptions;
use host::dirty::accel::{LogMode, TrackingOptions};
use host::event::{Actor, Event, LockId, PageRange, Pfn, Stamped};
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::pace::MigrationOptions;
use host::step::{Costs, Ctx, Move, Next, Watch};
use host::vmm::{Command, Vmm, VmmOptions};
use wire::balloon::{feature, seed_feature};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE, RAM_BYTES_MIN};
use wire::virtio::{feature as virtio, mmio};
use wire::vring;

use crate::draw::Draw;
use crate::intruder::rings;

pub(crate) const RAM_BYTES: u64 = RAM_BYTES_MIN;
pub(crate) const QUEUES: u16 = 5;
const ACTORS: [Actor; 4] = [Actor::Iothread, Actor::MainLoop, Actor::Migration, Actor::Destination];

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Moves of the host's threads.
    pub(crate) moves: u64,
    /// Accesses to registers and configuration.
    pub(crate) accesses: u64,
    /// Elements of the hint queue that were returned.
    pub(crate) elements: u64,
    /// Pages that were inflated, deflated or reported, and statistics.
    pub(crate) told: u64,
    /// Devices that broke.
    pub(crate) broken: u64,
    /// Rounds of hints that were started.
    pub(crate) rounds: u64,
    /// Hints that were applied.
    pub(crate) hints: u64,
    /// Discards.
    pub(crate) discards: u64,
    /// Resets.
    pub(crate) resets: u64,
    /// Migrations that were started.
    pub(crate) migrations: u64,
    /// Heads of all queues that were seen to be taken and returned.
    pub(crate) returned: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Counts) {
        let Counts { moves, accesses, elements, told, broken, rounds, hints, discards, resets, migrations, returned } = more;
        for (sum, more) in [
            (&mut self.moves, moves),
            (&mut self.accesses, accesses),
            (&mut self.elements, elements),
            (&mut self.told, told),
            (&mut self.broken, broken),
            (&mut self.rounds, rounds),
            (&mut self.hints, hints),
            (&mut self.discards, discards),
            (&mut self.resets, resets),
            (&mut self.migrations, migrations),
            (&mut self.returned, returned),
        ] {
            *sum += more;
        }
    }
}

/// Heads that the device has taken and not returned, by queue.
#[derive(Debug, Default)]
struct Held {
    heads: BTreeMap<u16, Vec<u16>>,
    /// The guest has let the device write where rings are: what stands there says nothing any more, until the next reset.
    blurred: bool,
    /// The queues were reset in this move.
    skip: bool,
}

/// Where a queue stands before a move.
#[derive(Debug)]
struct Standing {
    queue: u16,
    taken: u16,
    returned: u16,
    /// Exposed and not taken.
    heads: Vec<u16>,
}

/// Pages in which the guest has its rings.
fn rings_pages() -> impl Iterator<Item = u64> {
    let end = rings(QUEUES)[0];
    (rings(0)[0] >> PAGE_SHIFT)..(end >> PAGE_SHIFT)
}

/// A host, and what is known of it.
pub(crate) struct Machine {
    pub(crate) ram: GuestRam,
    vmm: Vmm,
    locks: Locks,
    faults: Faults,
    costs: Costs,
    watch: Watch,
    now_ns: u64,
    events: Vec<Stamped>,
    counts: Counts,
    protocol: Protocol,
    /// The head of the hint queue that the iothread has in hand.
    in_hand: Option<u16>,
    held: Held,
    /// Queues that were taken out of service with elements out: their numbers do not add up until the next reset.
    stale: BTreeSet<u16>,
    /// Pages that the guest has let the device write.
    granted: BTreeSet<u64>,
    /// Rings may lie in each other: what the device reads there changes under its own writes.
    pub(crate) tangled: bool,
    /// Somebody has work for longer than anybody waits.
    pub(crate) stuck: bool,
    /// What is wrong, once something is.
    wrong: Option<String>,
}

fn options(draw: &mut Draw, faults: &[Fault]) -> VmmOptions {
    let words = draw.pick(&[Words::Packed, Words::Chunks]);
    let requests = Protocol::Requests(Format { words, whole_id: draw.once_in(2) });
    let protocol = match draw.below(10) {
        0 => requests,
        1 => Protocol::Addresses,
        2 => Protocol::Walk(draw.pick(&[Walk::Naive, Walk::Corrected])),
        _ => Protocol::Merged,
    };
    let hints = match protocol {
        Protocol::Requests(_) => seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ,
        Protocol::Merged | Protocol::Addresses => feature::FREE_PAGE_HINT | feature::PAGE_POISON,
        Protocol::Walk(_) => 0,
    };
    let some = feature::MUST_TELL_HOST
        | feature::STATS_VQ
        | feature::DEFLATE_ON_OOM
        | feature::PAGE_REPORTING
        | feature::HINT_WAIT_ON_ACK
        | virtio::RING_EVENT_IDX
        | virtio::RING_INDIRECT_DESC;
    let iothread = match draw.below(8) {
        0 if faults.contains(&Fault::HintQueueWithoutIothread) => IothreadOption::MissingUnnoticed,
        0 => IothreadOption::Missing,
        _ => IothreadOption::Present,
    };
    let machine =
        Board { host_page: draw.pick(&[1, 1, 1, 16, 512]), iothread, rom: draw.once_in(2), ignores_pins: false, regions: Vec::new() };
    let balloon = BalloonOptions {
        features: hints | some & draw.word(),
        profile: draw.pick(&[Profile::Qemu, Profile::Qemu, Profile::Firecracker, Profile::CloudHypervisor]),
        protocol,
        numbering: draw.pick(&[Numbering::Dense, Numbering::Spec]),
        queue_size: draw.pick(&[1, 2, 16, 128]),
        hint_queue_size: draw.pick(&[1, 4, 16, 1024]),
        stats_interval_ns: draw.pick(&[0, 100_000]),
        target_pages: 0,
        acknowledge_on_stop: true,
        machine,
    };
    let log = draw.pick(&[
        LogMode::ManualClear { initially_set: true },
        LogMode::ManualClear { initially_set: false },
        LogMode::GetClears,
        LogMode::Tcg,
    ]);
    VmmOptions {
        pages: RAM_BYTES / PAGE_SIZE,
        blocks: Vec::new(),
        log,
        tracking: TrackingOptions::default(),
        devices: DeviceOptions::default(),
        balloon,
        migration: MigrationOptions { bandwidth: 1 << 34, max_bandwidth: 0, rounds_min: 3, chunk_shift: 6, ..MigrationOptions::default() },
    }
}

impl Machine {
    pub(crate) fn new(draw: &mut Draw, faults: &[Fault]) -> Self {
        let options = options(draw, faults);
        let watch = Watch((0..4).map(|_| Pfn(draw.below(options.pages))).collect());
        Self {
            ram: GuestRam::new(RAM_BYTES),
            vmm: Vmm::new(&options),
            locks: Locks::default(),
            faults: faults.iter().copied().collect(),
            costs: Costs::default(),
            watch,
            now_ns: 0,
            events: Vec::new(),
            counts: Counts::default(),
            protocol: options.balloon.protocol,
            in_hand: None,
            held: Held::default(),
            stale: BTreeSet::new(),
            granted: BTreeSet::new(),
            tangled: false,
            stuck: false,
            wrong: None,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the id that a driver would read.
    pub(crate) fn cmd_id(&self) -> u32 {
        self.vmm.balloon.config_cmd_id().0
    }

    /// Returns how many buffers of a queue are exposed and not returned, by the device's count.
    pub(crate) fn out(&self, queue: u16) -> u16 {
        let transport = self.vmm.balloon.transport();
        let live = transport.ready_queues().any(|ready| ready == queue);
        if live { transport.queue(queue).exposed(&self.ram).wrapping_sub(transport.queue(queue).indices().1) } else { 0 }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.vmm.balloon.transport().broken()
    }

    pub(crate) fn vm_running(&self) -> bool {
        self.vmm.vm.running
    }

    fn with<R>(&mut self, actor: Actor, run: impl FnOnce(&mut Vmm, &mut Ctx<'_>) -> R) -> R {
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
        run(&mut self.vmm, &mut ctx)
    }

    // ---- the guest's doors

    /// A guest's store: no device's.
    pub(crate) fn store(&mut self, address: u64, bytes: &[u8]) {
        let len = bytes.len().min((RAM_BYTES - address.min(RAM_BYTES)) as usize);
        if len > 0 {
            self.ram.write_unlogged(address, &bytes[..len]);
        }
    }

    /// A vCPU's access to the device, with the locks that it needs; other threads move until they are free.
    pub(crate) fn access(&mut self, offset: u64, len: u32, write: Option<u32>) -> u32 {
        let Some(locks) = self.take_locks(offset, write) else { return 0 };
        self.counts.accesses += 1;
        if write.is_some() {
            self.note_stale(offset, write);
        }
        let heads = self.exposed_heads();
        let read = self.with(Actor::Vcpu(0), |vmm, ctx| {
            locks.iter().for_each(|lock| ctx.lock(*lock));
            let read = match write {
                Some(value) => {
                    vmm.balloon.mmio_write(offset, len, value, ctx);
                    0
                }
                None => vmm.balloon.mmio_read(offset, len, ctx),
            };
            locks.iter().rev().for_each(|lock| ctx.unlock(*lock));
            read
        });
        self.vmm.balloon.take_irq();
        self.look();
        self.account(&heads);
        read
    }

    /// Lets others move until the locks for an access are free. `None`: they work on what takes too long to wait for.
    fn take_locks(&mut self, offset: u64, write: Option<u32>) -> Option<&'static [LockId]> {
        for _ in 0..100_000 {
            let locks = self.vmm.balloon.mmio_locks(offset, write);
            let Some(lock) = locks.iter().find(|lock| self.locks.holder(**lock).is_some()) else { return Some(locks) };
            let holder = self.locks.holder(*lock).expect("held");
            if !self.step(holder) && !ACTORS.into_iter().any(|actor| self.step(actor)) {
                panic!("{holder} holds {} and nobody can move", lock.name());
            }
        }
        assert!(self.may_take_long(), "the locks for an access never come free");
        self.stuck = true;
        None
    }

    /// Returns whether there may be more to do than anybody waits for. Where a used ring lies in an available ring, what the device returns is exposed to
    /// it anew, for ever; and an element that is a list of addresses may have a million of them, one move each.
    fn may_take_long(&self) -> bool {
        self.tangled || self.protocol == Protocol::Addresses
    }

    /// A queue that is taken out of service under elements that the device holds: they are nobody's then.
    fn note_stale(&mut self, offset: u64, write: Option<u32>) {
        if offset != mmio::QUEUE_READY || write.is_none() {
            return;
        }
        // One that is made live for the first time has none out.
        let ready = self.with(Actor::Vcpu(0), |vmm, ctx| vmm.balloon.mmio_read(mmio::QUEUE_READY, 4, ctx));
        if ready != 0 {
            self.stale.extend(self.vmm.balloon.transport().ready_queues());
        }
    }

    fn reset_queues(&mut self) {
        self.stale.clear();
        self.held = Held { skip: true, ..Held::default() };
        // What the iothread has in hand was taken from another queue than the one that is set up next.
        self.stale.extend(self.in_hand.is_some().then_some((0..QUEUES).collect::<Vec<_>>()).into_iter().flatten());
        // That is still returned, and its pages unmapped.
        if self.in_hand.is_none() {
            self.granted.clear();
        }
        self.tangled = false;
    }

    // ---- the host's threads

    pub(crate) fn push(&mut self, command: Command) {
        self.vmm.monitor.push(command);
    }

    pub(crate) fn later(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// Lets some actor move, if any can; the devices' threads more often, lest a migration be over before a guest can spoil it.
    pub(crate) fn move_one(&mut self, draw: &mut Draw) {
        let (often, seldom) = (Actor::Iothread, Actor::Migration);
        let first = draw.pick(&[often, often, often, often, Actor::MainLoop, Actor::MainLoop, Actor::Destination, seldom]);
        if !self.step(first) {
            let start = draw.below(4) as usize;
            (0..ACTORS.len()).any(|n| self.step(ACTORS[(start + n) % ACTORS.len()]));
        }
    }

    /// A clone goes on in its place, and has the same hash.
    pub(crate) fn clone_over(&mut self) {
        let mut clone = self.vmm.clone();
        assert_eq!(clone.fold(self.now_ns), self.vmm.fold(self.now_ns), "a clone is another");
        self.vmm = clone;
    }

    /// Makes an actor's next move, if it can, and returns whether it could.
    fn step(&mut self, actor: Actor) -> bool {
        let next = self.with(actor, |vmm, ctx| vmm.next(actor, false, ctx));
        match next {
            Next::Do(_) => {}
            Next::Lock(lock) if self.locks.holder(lock).is_none() => {}
            Next::Sleep(until_ns) => {
                self.now_ns = self.now_ns.max(until_ns);
                return true;
            }
            Next::Lock(_) | Next::Wait(_) | Next::Idle => return false,
        }
        self.grant();
        let allowed = self.writable();
        let heads = self.exposed_heads();
        let first = self.events.len();
        let cost = self.with(actor, |vmm, ctx| match actor {
            // Many pages at once, as the world does.
            Actor::Migration => vmm.step_bulk(false, u64::MAX, 64, ctx),
            _ => vmm.step(actor, false, ctx),
        });
        self.now_ns += cost;
        self.counts.moves += 1;
        let made = self.events.get(first).map(|stamped| stamped.event.clone()).expect("a move shows an event");
        match next {
            Next::Do(announced) => {
                // An element's place is not known before it is taken.
                assert_eq!(Move::of(&made), announced, "{actor} makes another move than it announced");
            }
            Next::Lock(lock) => assert_eq!(made, Event::LockTake { lock }),
            Next::Sleep(_) | Next::Wait(_) | Next::Idle => unreachable!("no move"),
        }
        let written = self.ram.drain_writes();
        for page in written.iter().flat_map(|range| range.pages()) {
            if !self.tangled && !allowed.contains(&page.0) && !self.granted.contains(&page.0) {
                self.wrong.get_or_insert(format!("{actor} wrote page {page}, which nobody gave it, with {made:?}"));
            }
        }
        self.vmm.d.mark_device_write(&written, &self.faults);
        self.vmm.balloon.take_irq();
        self.look();
        self.account(&heads);
        true
    }

    /// Notes what the elements to come let the device write.
    fn grant(&mut self) {
        let transport = self.vmm.balloon.transport();
        for index in transport.ready_queues() {
            let queue = transport.queue(index);
            let (taken, exposed) = (queue.indices().0, queue.exposed(&self.ram));
            let ahead = exposed.wrapping_sub(taken).min(queue.size());
            let elements = (0..ahead).filter_map(|n| queue.element_at(taken.wrapping_add(n), &self.ram).ok());
            for segment in elements.flat_map(|element| element.writable) {
                let last = (segment.address + u64::from(segment.len) - 1) >> PAGE_SHIFT;
                self.granted.extend(segment.address >> PAGE_SHIFT..=last);
            }
        }
    }

    /// Returns the pages of the used rings.
    fn writable(&self) -> BTreeSet<u64> {
        let transport = self.vmm.balloon.transport();
        let areas = transport.ready_queues().filter_map(|index| transport.queue(index).used_area());
        areas.flat_map(|(address, bytes)| address >> PAGE_SHIFT..=(address + bytes - 1) >> PAGE_SHIFT).collect()
    }

    // ---- heads

    /// Returns whether the rings of a queue are where the guest puts them, and hold what the guest and the device wrote there on purpose.
    fn is_plain(&self, queue: u16) -> bool {
        !self.tangled && !self.held.blurred && !self.stale.contains(&queue)
    }

    /// Returns where each queue stands, and the heads that it has before it.
    fn exposed_heads(&mut self) -> Vec<Standing> {
        self.held.blurred |= rings_pages().any(|page| self.granted.contains(&page));
        let transport = self.vmm.balloon.transport();
        let plain = transport.ready_queues().filter(|index| self.is_plain(*index));
        let standing = plain.map(|index| {
            let queue = transport.queue(index);
            let (taken, returned) = queue.indices();
            let ahead = queue.exposed(&self.ram).wrapping_sub(taken).min(queue.size());
            let slot = |n: u16| rings(index)[1] + vring::AVAIL_RING + 2 * u64::from(taken.wrapping_add(n) % queue.size());
            let heads = (0..ahead).map(|n| self.ram.read_u16(slot(n))).collect();
            Standing { queue: index, taken, returned, heads }
        });
        standing.collect()
    }

    /// Notes which heads a move has taken, and looks at those that it has returned: each was taken, and not returned before.
    fn account(&mut self, before: &[Standing]) {
        if std::mem::take(&mut self.held.skip) {
            return;
        }
        for Standing { queue: index, taken, returned, heads } in before {
            let ready = self.vmm.balloon.transport().ready_queues().any(|ready| ready == *index);
            if !ready || !self.is_plain(*index) {
                self.held.heads.remove(index);
                continue;
            }
            let queue = self.vmm.balloon.transport().queue(*index);
            let ((now_taken, now_returned), size) = (queue.indices(), queue.size());
            let held = self.held.heads.entry(*index).or_default();
            match now_taken.wrapping_sub(*taken) {
                on if on <= size => held.extend(heads.iter().take(usize::from(on))),
                // The statistics buffer is put back when the VM stops, and is taken again.
                back => held.truncate(held.len().saturating_sub(usize::from(back.wrapping_neg()))),
            }
            for n in 0..now_returned.wrapping_sub(*returned) {
                let slot = rings(*index)[2] + vring::USED_RING + vring::USED_ELEM_BYTES * u64::from(returned.wrapping_add(n) % size);
                let head = self.ram.read_u32(slot);
                let held = self.held.heads.entry(*index).or_default();
                match held.iter().position(|other| u32::from(*other) == head) {
                    Some(at) => {
                        held.remove(at);
                        self.counts.returned += 1;
                    }
                    None => drop(self.wrong.get_or_insert(format!("queue {index}: head {head} is returned, and was not taken"))),
                }
            }
        }
    }

    // ---- what must hold

    /// Takes note of what was shown.
    fn look(&mut self) {
        for stamped in std::mem::take(&mut self.events) {
            match stamped.event {
                Event::HostCrash { message } => drop(self.wrong.get_or_insert(format!("the host is dead: {message}"))),
                Event::DeviceBroken { .. } => self.counts.broken += 1,
                Event::DeviceStatus { status: 0 } => {
                    self.counts.resets += 1;
                    self.reset_queues();
                }
                Event::HintPop { head, .. } => {
                    // Buffers for requests are kept for later.
                    let keeps = matches!(self.protocol, Protocol::Requests(_));
                    if !keeps && self.in_hand.is_some_and(|other| other != head) {
                        self.wrong.get_or_insert(format!("head {head} is popped while another is held"));
                    }
                    self.in_hand = Some(head);
                }
                Event::HintPush { head, .. } | Event::HintAsk { head, .. } => {
                    let matches = self.in_hand.take() == Some(head) || matches!(self.protocol, Protocol::Requests(_));
                    if !matches {
                        self.wrong.get_or_insert(format!("head {head} is returned, and was not held"));
                    }
                    self.counts.elements += 1;
                }
                Event::HintStart { .. } => self.counts.rounds += 1,
                Event::HintApply { range, .. } => {
                    self.counts.hints += 1;
                    self.in_ram(range, "hinted");
                }
                Event::HostDiscard { range } => {
                    self.counts.discards += 1;
                    self.in_ram(range, "discarded");
                }
                Event::BalloonInflate { .. } | Event::BalloonDeflate { .. } | Event::BalloonReport { .. } | Event::BalloonStats { .. } => {
                    self.counts.told += 1;
                }
                Event::MigrationState { to: host::event::MigrationStatus::Setup, .. } => self.counts.migrations += 1,
                _ => {}
            }
        }
    }

    fn in_ram(&mut self, range: PageRange, what: &str) {
        if range.end().0 > RAM_BYTES / PAGE_SIZE {
            self.wrong.get_or_insert(format!("{range} was {what}, and is no RAM"));
        }
    }

    /// Returns what is wrong.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let transport = self.vmm.balloon.transport();
        for index in transport.ready_queues().filter(|index| !self.stale.contains(index)) {
            let queue = transport.queue(index);
            let (taken, returned) = queue.indices();
            if taken.wrapping_sub(returned) != queue.inuse() {
                return Err(format!("queue {index}: {taken} taken, {returned} returned, {} out", queue.inuse()));
            }
        }
        if !self.vmm.migration.n_equals_popcount() {
            return Err("N is not the number of bits in B".to_owned());
        }
        Ok(())
    }

    /// Lets all come to rest, the VM running, and looks at what is left.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.push(Command::Cancel);
        self.push(Command::Cont);
        let mut rests = false;
        for _ in 0..200_000 {
            rests = !ACTORS.into_iter().any(|actor| self.moves(actor));
            if rests {
                break;
            }
            for actor in ACTORS {
                if self.moves(actor) {
                    self.step(actor);
                }
            }
            self.check()?;
        }
        if !rests {
            let waits = ACTORS.map(|actor| format!("{actor} {:?}", self.with(actor, |vmm, ctx| vmm.next(actor, false, ctx))));
            return if self.may_take_long() { Ok(()) } else { Err(format!("nothing comes to rest: {}", waits.join(", "))) };
        }
        if let Some(lock) = LockId::ALL.into_iter().find(|lock| self.locks.holder(*lock).is_some()) {
            let holder = self.locks.holder(lock).expect("it is held");
            return Err(format!("{} is held at rest by {holder}", lock.name()));
        }
        if let Some(head) = self.in_hand.filter(|_| !matches!(self.protocol, Protocol::Requests(_))) {
            return Err(format!("head {head} was never returned"));
        }
        let transport = self.vmm.balloon.transport();
        for index in transport.ready_queues().filter(|index| !self.stale.contains(index) && !transport.broken()) {
            // The statistics buffer is kept, and so is a buffer for requests.
            let kept = transport.queue(index).inuse();
            if kept > 1 || kept == 1 && self.vmm.balloon.page_queue(index).is_some() {
                return Err(format!("{kept} elements of queue {index} were never returned"));
            }
        }
        Ok(())
    }

    /// Returns whether an actor has a move that is not only waiting for time to pass.
    fn moves(&mut self, actor: Actor) -> bool {
        match self.with(actor, |vmm, ctx| vmm.next(actor, false, ctx)) {
            Next::Do(_) | Next::Lock(_) => true,
            // The statistics' timer goes on for ever.
            Next::Sleep(_) => actor != Actor::MainLoop,
            Next::Wait(_) | Next::Idle => false,
        }
    }
}
