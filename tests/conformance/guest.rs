//! The guest's image, run against the [`Tester`]: one vCPU, the machine's clock, timer and task mailbox, and a list of all that was seen.
//!
//! There is no world around it: no schedule, no migration, no model of a VMM. Between two exits of the vCPU the device looks at its rings.

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::sync::{Arc, OnceLock};

use emu::image::Image;
use emu::vcpu::{Exit, Machine};
use host::event::{PageRange, Pfn};
use host::memory::GuestRam;
use wire::balloon::config;
use wire::debug;
use wire::platform::{self, BOOT_INFO, BootInfo, MAILBOX, VIRTIO_MMIO, VIRTIO_MMIO_BYTES, lapic, vector};
use wire::task::{HEADER_BYTES, OP_BYTES, SLOTS};
use wire::virtio::{isr, mmio, status};
use wire::vring;

use crate::tester::{Buffer, Chain, Options, Role, Seen, Tester};

/// Exits after which a guest that was expected to come to rest is given up.
const EXITS_MAX: usize = 2_000_000;
/// Instructions between two looks at a guest that says nothing.
const SLICE_INSNS: u64 = 1_000_000;

/// A guest and the device it drives.
pub(crate) struct Guest {
    machine: Machine,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) device: Tester,
    /// Everything so far.
    pub(crate) seen: Vec<Seen>,
    /// Why the guest is dead.
    pub(crate) crash: Option<String>,
    vectors: BTreeSet<u8>,
    now_ns: u64,
    clock_latch: u64,
    timer_ns: Option<u64>,
    halted: bool,
    watched: BTreeSet<u64>,
    /// Stores to watched pages: how much was seen before, and the frame.
    pub(crate) stores: Vec<(usize, u64)>,
    operations: u64,
    /// Queues whose available index is looked at before it is raised.
    trapped: Vec<Role>,
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(Image::guest)
}

impl Guest {
    /// A guest before its first instruction.
    pub(crate) fn new(options: Options) -> Self {
        let ram = Arc::new(GuestRam::new(options.ram_bytes));
        let machine = Machine::new(Arc::clone(&ram), image(), 1);
        let word = |offset: usize, value: u64| ram.write(BOOT_INFO + offset as u64, &value.to_le_bytes());
        word(offset_of!(BootInfo, magic), BootInfo::MAGIC);
        word(offset_of!(BootInfo, ram_bytes), options.ram_bytes);
        ram.write(BOOT_INFO + offset_of!(BootInfo, vcpus) as u64, &1u32.to_le_bytes());
        word(offset_of!(BootInfo, features_refused), options.refused);
        word(offset_of!(BootInfo, flags), options.boot_flags);
        word(offset_of!(BootInfo, faults), options.faults);
        word(offset_of!(BootInfo, corrected), options.corrected);
        Guest {
            machine,
            ram,
            device: Tester::new(options),
            seen: Vec::new(),
            crash: None,
            vectors: BTreeSet::new(),
            now_ns: 0,
            clock_latch: 0,
            timer_ns: None,
            halted: false,
            watched: BTreeSet::new(),
            stores: Vec::new(),
            operations: 0,
            trapped: Vec::new(),
        }
    }

    /// A guest that has booted and come to rest.
    pub(crate) fn boot(options: Options) -> Self {
        let mut guest = Guest::new(options);
        guest.run();
        guest
    }

    /// A guest whose driver is up; what happened until then is forgotten.
    pub(crate) fn up(options: Options) -> Self {
        let mut guest = Guest::boot(options);
        assert!(guest.device.status & status::DRIVER_OK != 0, "the driver is not up: status {:#x}", guest.device.status);
        guest.seen.clear();
        guest
    }

    // ---- running

    /// Runs until the guest has nothing to do but wait, for the device or for its timer.
    pub(crate) fn run(&mut self) {
        self.run_until(|_| false);
        assert!(self.crash.is_none(), "the guest is dead: {:?}", self.crash);
    }

    /// Runs until what was seen last fits; returns whether it did, before the guest came to rest.
    pub(crate) fn run_until(&mut self, stop: impl Fn(&Seen) -> bool) -> bool {
        for _ in 0..EXITS_MAX {
            if self.crash.is_some() || (self.halted && !self.interruptible()) {
                return false;
            }
            let from = self.seen.len();
            self.exit();
            if self.seen[from..].iter().any(&stop) {
                return true;
            }
        }
        panic!("the guest does not come to rest");
    }

    /// Makes a number of exits, whatever they are.
    pub(crate) fn run_exits(&mut self, exits: usize) {
        for _ in 0..exits {
            if self.crash.is_none() && (!self.halted || self.interruptible()) {
                self.exit();
            }
        }
    }

    /// Lets virtual time pass, and the guest do what it is time for.
    pub(crate) fn run_for(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        self.run();
        while let Some(at) = self.timer_ns.filter(|at| *at <= end) {
            self.now_ns = self.now_ns.max(at);
            self.timer_ns = None;
            self.vectors.insert(vector::TIMER);
            self.run();
        }
        self.now_ns = end;
    }

    fn interruptible(&mut self) -> bool {
        if std::mem::take(&mut self.device.edge) {
            self.vectors.insert(vector::VIRTIO);
        }
        !self.vectors.is_empty() && self.machine.can_interrupt(0)
    }

    /// One exit of the vCPU, and what the device makes of it.
    fn exit(&mut self) {
        if self.interruptible() {
            let first = self.vectors.pop_first().expect("an interrupt waits");
            self.seen.push(Seen::Interrupt { vector: first });
            self.machine.interrupt(0, first).expect("the guest has a gate for it");
        }
        self.halted = false;
        let budget = if self.vectors.is_empty() { SLICE_INSNS } else { 1 };
        let exit = self.machine.run(0, budget).exit;
        // What the guest has exposed by now it has exposed before what it does next.
        self.look();
        match exit {
            Exit::Trace { code, a, b } => self.said(code, a, b),
            Exit::MmioRead { address, len } => {
                let value = self.load(address, len);
                self.machine.finish_mmio_read(0, value);
            }
            Exit::MmioWrite { address, len, value } => {
                self.machine.finish_mmio_write(0);
                self.store(address, len, value);
            }
            Exit::Halt => self.halted = true,
            Exit::Store { address, .. } => self.ring_store(address),
            Exit::Limit => {}
            Exit::Missing { .. } | Exit::Fault { .. } | Exit::Exception { .. } => self.crash = Some(format!("{exit:x?}")),
        }
    }

    /// A store to a page of a ring: if it raises an available index, what that index will cover is noted as it is before.
    fn ring_store(&mut self, address: u64) {
        for role in self.trapped.clone() {
            let (size, [desc, driver, _]) = self.device.rings(role);
            if address == driver + vring::IDX {
                let slot = (self.ram.read_u32(driver) >> 16) as u16 % size;
                let head = self.ram.read_u32(driver + vring::AVAIL_RING + 2 * u64::from(slot)) as u16;
                let at = desc + u64::from(head % size) * vring::DESC_BYTES;
                let buffer = Buffer {
                    addr: self.ram.read_u64(at),
                    len: self.ram.read_u32(at + 8),
                    writable: self.ram.read_u32(at + 12) & u32::from(vring::DESC_F_WRITE) != 0,
                };
                self.seen.push(Seen::Raising { role, head, buffer });
            }
        }
        let exit = self.machine.step_store(0).exit;
        assert_eq!(exit, Exit::Limit, "a store to a ring does nothing else");
    }

    /// Looks at every store to a queue's available ring from now on.
    pub(crate) fn trap_ring(&mut self, role: Role) {
        let driver = self.device.rings(role).1[1];
        self.machine.trap(Pfn(driver >> 12), true);
        self.trapped.push(role);
    }

    fn look(&mut self) {
        let chains = self.device.look(&self.ram);
        self.seen.extend(chains.into_iter().map(Seen::Exposed));
        for pfn in self.machine.drain_written() {
            if self.watched.contains(&pfn.0) {
                self.stores.push((self.seen.len(), pfn.0));
                self.machine.arm(PageRange::page(pfn));
            }
        }
    }

    fn said(&mut self, code: u32, a: u64, b: u64) {
        self.seen.push(Seen::Said { code, a, b });
        if code == debug::PANIC {
            self.crash = Some(self.text(a, b));
        }
    }

    /// A message of the guest's.
    pub(crate) fn text(&self, address: u64, len: u64) -> String {
        let mut bytes = vec![0; len as usize];
        self.ram.read(address, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn load(&mut self, address: u64, len: u8) -> u64 {
        match address {
            platform::CLOCK => {
                self.clock_latch = self.now_ns >> 32;
                self.now_ns & 0xffff_ffff
            }
            _ if address == platform::CLOCK + 4 => self.clock_latch,
            _ => match register(address) {
                Some(offset) => {
                    let value = self.device.read(offset, len);
                    self.seen.push(Seen::Read { offset, len, value });
                    value
                }
                None => 0,
            },
        }
    }

    fn store(&mut self, address: u64, len: u8, value: u64) {
        if address == platform::LAPIC + lapic::TIMER_INITIAL_COUNT {
            self.timer_ns = (value != 0).then(|| self.now_ns + value);
        }
        let Some(offset) = register(address) else { return };
        self.seen.push(Seen::Write { offset, len, value });
        let before = self.device.status;
        let told = self.device.write(offset, value);
        let ready = self.device.status & status::DRIVER_OK != 0;
        if ready && before & status::DRIVER_OK == 0 {
            // What was exposed before DRIVER_OK is looked at now.
            self.serve_all();
        } else if let Some(role) = told.filter(|_| ready) {
            self.serve(role);
        }
    }

    fn serve_all(&mut self) {
        for role in [Role::Inflate, Role::Deflate, Role::Hint, Role::Reporting] {
            self.serve(role);
        }
    }

    /// What the device does by itself: it uses what is exposed, unless it holds the queue.
    fn serve(&mut self, role: Role) {
        if role != Role::Stats && !self.device.options.holds.contains(&role) {
            while self.use_one(role) {}
        }
    }

    /// The device uses the oldest buffer of a queue.
    pub(crate) fn use_one(&mut self, role: Role) -> bool {
        self.use_one_with_length(role, 0)
    }

    /// The device uses the oldest buffer of a queue, and says that it wrote so many bytes.
    pub(crate) fn use_one_with_length(&mut self, role: Role, len: u32) -> bool {
        let offered = self.device.options.roles().any(|other| other == role);
        let Some(head) = offered.then(|| self.device.use_one(role, len, &self.ram)).flatten() else { return false };
        self.seen.push(Seen::Used { role, head });
        true
    }

    /// The device uses all that is exposed on a queue, and does not hold it any longer; the guest goes on.
    pub(crate) fn release(&mut self, role: Role) {
        self.device.options.holds.retain(|held| *held != role);
        while self.use_one(role) {}
        self.run();
    }

    // ---- what a test does to the guest

    /// Changes a field of the configuration and interrupts, without letting the guest go on.
    pub(crate) fn change(&mut self, field: u64, value: u32) {
        self.device.config[field as usize / 4] = value;
        self.device.raise(isr::CONFIG_CHANGE);
    }

    /// Sets the balloon's target, and lets the guest follow.
    pub(crate) fn target(&mut self, pages: u32) {
        self.change(config::NUM_PAGES, pages);
        self.run();
    }

    /// Sets the command id, and lets the guest follow.
    pub(crate) fn command(&mut self, id: u32) {
        self.change(config::FREE_PAGE_HINT_CMD_ID, id);
        self.run();
    }

    /// Puts an operation into the task's mailbox and rings.
    pub(crate) fn order(&mut self, code: u32, name: u32, a: u64, b: u64) {
        let at = MAILBOX + HEADER_BYTES + self.operations % SLOTS * OP_BYTES;
        let words = [u64::from(code) | u64::from(name) << 32, a, b, self.operations];
        words.iter().enumerate().for_each(|(i, word)| self.ram.write(at + 8 * i as u64, &word.to_le_bytes()));
        self.operations += 1;
        self.ram.write(MAILBOX, &self.operations.to_le_bytes());
        self.vectors.insert(vector::MAILBOX);
    }

    /// Has a task perform an operation; returns whether it did what it was asked.
    pub(crate) fn task(&mut self, code: u32, name: u32, a: u64, b: u64) -> bool {
        self.order(code, name, a, b);
        let id = self.operations - 1;
        self.run();
        self.seen.iter().any(|seen| matches!(seen, Seen::Said { code: debug::TASK_END, a, b: 1 } if *a == id))
    }

    /// The device writes over pages that are its own for now.
    pub(crate) fn scribble(&self, frames: impl IntoIterator<Item = u64>) {
        frames.into_iter().for_each(|frame| self.ram.write(frame << 12, &[0x5c; 4096]));
    }

    /// Notes every store of the guest to these frames from now on.
    pub(crate) fn watch(&mut self, frames: impl IntoIterator<Item = u64>) {
        for frame in frames {
            self.watched.insert(frame);
            self.machine.arm(PageRange::page(Pfn(frame)));
        }
        self.stores.clear();
    }

    // ---- what was seen

    /// Where something was seen first.
    pub(crate) fn first(&self, what: impl Fn(&Seen) -> bool) -> Option<usize> {
        self.seen.iter().position(what)
    }

    /// The chains of a queue, in order of exposure.
    pub(crate) fn chains(&self, role: Role) -> Vec<Chain> {
        let of_role = |seen: &Seen| match seen {
            Seen::Exposed(chain) if chain.role == role => Some(chain.clone()),
            _ => None,
        };
        self.seen.iter().filter_map(of_role).collect()
    }

    /// Stores to a register: where in what was seen, and the value.
    pub(crate) fn writes(&self, register: u64) -> Vec<(usize, u64)> {
        let of_register = |(at, seen): (usize, &Seen)| match seen {
            Seen::Write { offset, value, .. } if *offset == register => Some((at, *value)),
            _ => None,
        };
        self.seen.iter().enumerate().filter_map(of_register).collect()
    }

    /// Loads from a register: where in what was seen, and the value.
    pub(crate) fn reads(&self, register: u64) -> Vec<(usize, u64)> {
        let of_register = |(at, seen): (usize, &Seen)| match seen {
            Seen::Read { offset, value, .. } if *offset == register => Some((at, *value)),
            _ => None,
        };
        self.seen.iter().enumerate().filter_map(of_register).collect()
    }

    /// Values that the device status was set to.
    pub(crate) fn statuses(&self) -> Vec<u64> {
        self.writes(mmio::STATUS).into_iter().map(|write| write.1).collect()
    }

    /// Tracepoints of a code: where, and both arguments.
    pub(crate) fn said_all(&self, wanted: u32) -> Vec<(usize, u64, u64)> {
        let of_code = |(at, seen): (usize, &Seen)| match seen {
            Seen::Said { code, a, b } if *code == wanted => Some((at, *a, *b)),
            _ => None,
        };
        self.seen.iter().enumerate().filter_map(of_code).collect()
    }

    /// Frames that the allocator has handed out, or that were given back to it.
    pub(crate) fn blocks(&self, code: u32) -> BTreeSet<u64> {
        self.said_all(code).into_iter().flat_map(|(_, first, order)| first..first + (1 << (order & 0xff))).collect()
    }

    /// Warnings of the guest's.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.said_all(debug::WARN).into_iter().map(|(_, address, len)| self.text(address, len)).collect()
    }

    /// The address of a field of a buffer that names page frames.
    pub(crate) fn frames_told(&self, role: Role) -> Vec<u64> {
        self.chains(role).iter().flat_map(Chain::words).map(u64::from).collect()
    }
}

fn register(address: u64) -> Option<u64> {
    address.checked_sub(VIRTIO_MMIO).filter(|offset| *offset < VIRTIO_MMIO_BYTES)
}
