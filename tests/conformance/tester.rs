//! A balloon device that watches its driver: virtio-mmio registers, split queues, and a note of every chain the moment it is exposed.
//!
//! It is no model of QEMU's or Firecracker's device. It keeps to VIRTIO where a driver could tell, does what a test tells it otherwise, and
//! takes nothing on trust: what the driver has exposed it reads from the rings in memory, after every exit of the guest, and looks
//! again until the buffer is used. What is wrong whatever the test is about becomes a [`Breach`].

use std::collections::{BTreeMap, VecDeque};

use host::memory::GuestRam;
use wire::balloon::{self, config, feature, queue_size};
use wire::platform::boot_flag;
use wire::virtio::{feature as transport, isr, mmio, status};
use wire::vring;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Inflate,
    Deflate,
    Stats,
    Hint,
    Reporting,
}

/// What a test asks for: the machine, the device, and what the device does by itself.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ram_bytes: u64,
    /// Kernel parameters.
    pub(crate) boot_flags: u64,
    /// Old bugs that are switched on.
    pub(crate) faults: u64,
    /// Flaws that are corrected.
    pub(crate) corrected: u64,
    /// Features that the driver is told to refuse.
    pub(crate) refused: u64,
    pub(crate) magic: u32,
    pub(crate) version: u32,
    pub(crate) device_id: u32,
    /// Offered features, VERSION_1 among them or not.
    pub(crate) features: u64,
    /// Sizes of the queues by role.
    pub(crate) sizes: [u32; 5],
    /// num_pages, actual, free_page_hint_cmd_id, poison_val.
    pub(crate) config: [u32; 4],
    /// FEATURES_OK stays set when the driver sets it.
    pub(crate) keeps_features_ok: bool,
    /// QueueReady reads 0 once 0 was written.
    pub(crate) lets_go: bool,
    /// Queues whose buffers the device uses only when it is told to. The statistics queue is always one of them.
    pub(crate) holds: Vec<Role>,
}

/// Every feature of the balloon that is ratified, but for DEFLATE_ON_OOM.
pub(crate) const COMMON: u64 = feature::MUST_TELL_HOST | feature::STATS_VQ | feature::FREE_PAGE_HINT;

impl Default for Options {
    fn default() -> Self {
        Options {
            ram_bytes: 32 << 20,
            boot_flags: 0,
            faults: 0,
            corrected: 0,
            refused: 0,
            magic: mmio::MAGIC,
            version: mmio::VERSION_2,
            device_id: balloon::DEVICE_ID,
            features: COMMON | transport::VERSION_1,
            sizes: [queue_size::DEFAULT, queue_size::DEFAULT, queue_size::DEFAULT, queue_size::FREE_PAGE, queue_size::REPORTING]
                .map(u32::from),
            config: [0; 4],
            keeps_features_ok: true,
            lets_go: true,
            holds: Vec::new(),
        }
    }
}

impl Options {
    /// Offers these features and VERSION_1.
    pub(crate) fn offering(features: u64) -> Self {
        Options { features: features | transport::VERSION_1, ..Options::default() }
    }

    /// A guest that fills freed pages with 0xaa and finds out when they have changed.
    pub(crate) fn poisoned(self) -> Self {
        Options { boot_flags: self.boot_flags | boot_flag::PAGE_POISON, ..self }
    }

    /// The queues by index: dense, by what is offered, as deployed devices number them.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Role> {
        let of = [
            (u64::MAX, Role::Inflate),
            (u64::MAX, Role::Deflate),
            (feature::STATS_VQ, Role::Stats),
            (feature::FREE_PAGE_HINT, Role::Hint),
            (feature::PAGE_REPORTING, Role::Reporting),
        ];
        let features = self.features | 1 << 63;
        of.into_iter().filter(move |(bit, _)| features & bit != 0).map(|(_, role)| role)
    }

    /// A device that uses the buffers of a queue only when it is told to.
    pub(crate) fn holding(mut self, role: Role) -> Self {
        self.holds.push(role);
        self
    }
}

/// A piece of memory that a descriptor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

/// A chain as it stood in memory when the available index covered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) role: Role,
    pub(crate) head: u16,
    pub(crate) buffers: Vec<Buffer>,
    /// The bytes that the device may read.
    pub(crate) bytes: Vec<u8>,
}

impl Chain {
    /// The bytes as 32-bit words: page frame numbers, or an id.
    pub(crate) fn words(&self) -> Vec<u32> {
        self.bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
    }

    /// The frames that the buffers cover.
    pub(crate) fn frames(&self) -> impl Iterator<Item = u64> {
        self.buffers.iter().flat_map(|buffer| buffer.addr >> 12..(buffer.addr + u64::from(buffer.len)) >> 12)
    }
}

/// What the device has seen and done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The driver loaded from a register.
    Read { offset: u64, len: u8, value: u64 },
    /// The driver stored to a register.
    Write { offset: u64, len: u8, value: u64 },
    /// The guest said something at its debug port.
    Said { code: u32, a: u64, b: u64 },
    /// The available index covers a new chain.
    Exposed(Chain),
    /// The driver is about to raise the available index of a trapped ring: the head and the first buffer that the new index will cover.
    Raising { role: Role, head: u16, buffer: Buffer },
    /// The device used a buffer.
    Used { role: Role, head: u16 },
    /// The guest takes an interrupt.
    Interrupt { vector: u8 },
}

/// A rule that the driver broke, whatever the test is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    /// The row.
    pub(crate) row: &'static str,
    pub(crate) role: Role,
    pub(crate) what: String,
}

#[derive(Debug, Clone)]
struct Exposed {
    chain: Chain,
    /// Where the head stands in the available ring.
    entry: u64,
    /// Descriptors, each with its index.
    table: Vec<(u16, [u8; 16])>,
}

#[derive(Debug, Clone, Default)]
struct Queue {
    registers: BTreeMap<u64, u32>,
    ready: bool,
    /// The available index up to which chains are noted.
    noted: u16,
    used: u16,
    exposed: VecDeque<Exposed>,
}

impl Queue {
    fn size(&self) -> u16 {
        self.registers.get(&mmio::QUEUE_SIZE).copied().unwrap_or(0) as u16
    }

    fn address(&self, low: u64) -> u64 {
        let word = |offset| u64::from(self.registers.get(&offset).copied().unwrap_or(0));
        word(low) | word(low + 4) << 32
    }
}

/// The device.
#[derive(Debug, Clone)]
pub(crate) struct Tester {
    pub(crate) options: Options,
    pub(crate) status: u32,
    /// Features of the last complete negotiation.
    pub(crate) accepted: u64,
    driver_features: u64,
    pub(crate) config: [u32; 4],
    pub(crate) isr: u32,
    /// The interrupt line rose.
    pub(crate) edge: bool,
    selected: u32,
    feature_select: [u32; 2],
    queues: BTreeMap<u32, Queue>,
    pub(crate) breaches: Vec<Breach>,
}

fn half(ram: &GuestRam, address: u64) -> u16 {
    let mut bytes = [0; 2];
    ram.read(address, &mut bytes);
    u16::from_le_bytes(bytes)
}

impl Tester {
    pub(crate) fn new(options: Options) -> Self {
        let config = options.config;
        Tester {
            options,
            status: 0,
            accepted: 0,
            driver_features: 0,
            config,
            isr: 0,
            edge: false,
            selected: 0,
            feature_select: [0; 2],
            queues: BTreeMap::new(),
            breaches: Vec::new(),
        }
    }

    /// The index of a queue.
    pub(crate) fn index(&self, role: Role) -> u32 {
        self.options.roles().position(|other| other == role).unwrap_or_else(|| panic!("no {role:?} queue is offered")) as u32
    }

    fn role(&self, index: u32) -> Option<Role> {
        self.options.roles().nth(index as usize)
    }

    /// The queues that are live.
    pub(crate) fn live(&self) -> Vec<u32> {
        self.queues.iter().filter(|(_, queue)| queue.ready).map(|(index, _)| *index).collect()
    }

    /// What the driver has programmed for a queue: size, then descriptor, driver and device area.
    pub(crate) fn rings(&self, role: Role) -> (u16, [u64; 3]) {
        let queue = &self.queues[&self.index(role)];
        (queue.size(), [mmio::QUEUE_DESC_LOW, mmio::QUEUE_DRIVER_LOW, mmio::QUEUE_DEVICE_LOW].map(|low| queue.address(low)))
    }

    /// The chains that are exposed and not used.
    pub(crate) fn exposed(&self, role: Role) -> Vec<Chain> {
        let queue = self.queues.get(&self.index(role));
        queue.map(|queue| queue.exposed.iter().map(|exposed| exposed.chain.clone()).collect()).unwrap_or_default()
    }

    // ---- registers

    pub(crate) fn read(&self, offset: u64, len: u8) -> u64 {
        let queue = self.queues.get(&self.selected);
        let word = match offset {
            mmio::MAGIC_VALUE => self.options.magic,
            mmio::VERSION => self.options.version,
            mmio::DEVICE_ID => self.options.device_id,
            mmio::DEVICE_FEATURES => (self.options.features >> (32 * self.feature_select[0].min(1))) as u32,
            mmio::QUEUE_SIZE_MAX => self.role(self.selected).map_or(0, |role| self.options.sizes[role as usize]),
            mmio::QUEUE_READY => u32::from(queue.is_some_and(|queue| queue.ready)),
            mmio::INTERRUPT_STATUS => self.isr,
            mmio::STATUS => self.status,
            mmio::CONFIG.. => {
                let bytes: Vec<u8> = self.config.iter().flat_map(|word| word.to_le_bytes()).collect();
                let at = (offset - mmio::CONFIG) as usize;
                let found = (0..usize::from(len)).map(|i| u64::from(bytes.get(at + i).copied().unwrap_or(0xff)) << (8 * i));
                return found.sum();
            }
            _ => 0,
        };
        u64::from(word)
    }

    /// Takes a store; returns the queue that the driver told of.
    pub(crate) fn write(&mut self, offset: u64, value: u64) -> Option<Role> {
        let value = value as u32;
        match offset {
            mmio::DEVICE_FEATURES_SEL => self.feature_select[0] = value,
            mmio::DRIVER_FEATURES_SEL => self.feature_select[1] = value,
            mmio::DRIVER_FEATURES => {
                let shift = 32 * self.feature_select[1].min(1);
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
            mmio::QUEUE_SEL => self.selected = value,
            mmio::QUEUE_NOTIFY => return self.role(value),
            mmio::INTERRUPT_ACK => {
                self.isr &= !value;
                self.edge = self.isr != 0;
            }
            mmio::STATUS => self.write_status(value),
            mmio::QUEUE_READY => {
                let lets_go = self.options.lets_go;
                let queue = self.queues.entry(self.selected).or_default();
                if value == 1 {
                    (queue.noted, queue.used) = (0, 0);
                    queue.exposed.clear();
                }
                queue.ready = value == 1 || !lets_go;
            }
            mmio::QUEUE_SIZE | mmio::QUEUE_DESC_LOW..=mmio::QUEUE_DEVICE_HIGH => {
                self.queues.entry(self.selected).or_default().registers.insert(offset, value);
            }
            mmio::CONFIG.. => {
                let field = (offset - mmio::CONFIG) / 4;
                if field == config::ACTUAL / 4 || field == config::POISON_VAL / 4 {
                    self.config[field as usize] = value;
                }
            }
            _ => {}
        }
        None
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            let options = self.options.clone();
            let ready: Vec<u32> = if options.lets_go { Vec::new() } else { self.live() };
            let config = self.config;
            let breaches = std::mem::take(&mut self.breaches);
            *self = Tester { config, breaches, ..Tester::new(options) };
            self.config[3] = 0;
            for index in ready {
                self.queues.entry(index).or_default().ready = true;
            }
            return;
        }
        self.status = value;
        if value & status::FEATURES_OK != 0 {
            if self.options.keeps_features_ok {
                self.accepted = self.driver_features;
            } else {
                self.status &= !status::FEATURES_OK;
            }
        }
    }

    // ---- rings

    /// Looks at the rings: notes what is newly exposed, and whether what was exposed before is still as it was.
    pub(crate) fn look(&mut self, ram: &GuestRam) -> Vec<Chain> {
        let mut found = Vec::new();
        for (index, role) in (0..).zip(self.options.roles()) {
            let Some(queue) = self.queues.get_mut(&index).filter(|queue| queue.ready && queue.size() > 0) else { continue };
            let mut breach = |row, what| self.breaches.push(Breach { row, role, what });
            for exposed in &mut queue.exposed {
                watch_exposed(exposed, queue.registers[&mmio::QUEUE_DESC_LOW], ram, &mut breach);
            }
            note_exposed(role, queue, ram, &mut breach, &mut found);
        }
        found
    }

    /// Uses the oldest buffer of a queue, and asks for an interrupt unless the driver wants none.
    pub(crate) fn use_one(&mut self, role: Role, len: u32, ram: &GuestRam) -> Option<u16> {
        let index = self.index(role);
        let queue = self.queues.get_mut(&index)?;
        let exposed = queue.exposed.pop_front()?;
        let head = exposed.chain.head;
        put_used(queue, u32::from(head), len, ram);
        self.interrupt_unless_suppressed(role, ram);
        Some(head)
    }

    /// Writes a used element of whatever head.
    pub(crate) fn put_used(&mut self, role: Role, head: u32, ram: &GuestRam) {
        let index = self.index(role);
        put_used(self.queues.get_mut(&index).expect("set up"), head, 0, ram);
    }

    fn interrupt_unless_suppressed(&mut self, role: Role, ram: &GuestRam) {
        let queue = &self.queues[&self.index(role)];
        if half(ram, queue.address(mmio::QUEUE_DRIVER_LOW)) & vring::AVAIL_F_NO_INTERRUPT == 0 {
            self.raise(isr::USED_BUFFER);
        }
    }

    /// Raises an interrupt.
    pub(crate) fn raise(&mut self, cause: u32) {
        self.isr |= cause;
        self.edge = true;
    }

    /// Asks the driver not to notify, or to notify again.
    pub(crate) fn want_no_notifications(&mut self, role: Role, peace: bool, ram: &GuestRam) {
        let device = self.rings(role).1[2];
        ram.write(device, &u16::from(peace).to_le_bytes());
    }
}

fn put_used(queue: &mut Queue, head: u32, len: u32, ram: &GuestRam) {
    let device = queue.address(mmio::QUEUE_DEVICE_LOW);
    let element = device + vring::USED_RING + u64::from(queue.used % queue.size()) * vring::USED_ELEM_BYTES;
    ram.write(element, &head.to_le_bytes());
    ram.write(element + 4, &len.to_le_bytes());
    queue.used = queue.used.wrapping_add(1);
    ram.write(device + vring::IDX, &queue.used.to_le_bytes());
}

fn descriptor(ram: &GuestRam, table: u64, index: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    ram.read(table + u64::from(index) * vring::DESC_BYTES, &mut bytes);
    bytes
}

fn watch_exposed(exposed: &mut Exposed, table: u32, ram: &GuestRam, breach: &mut impl FnMut(&'static str, String)) {
    for (index, before) in &mut exposed.table {
        let now = descriptor(ram, u64::from(table), *index);
        if now != *before {
            breach("G7", format!("descriptor {index} changes while head {} is exposed", exposed.chain.head));
            *before = now;
        }
    }
    let entry = half(ram, exposed.entry);
    if entry != exposed.chain.head {
        breach("G7", format!("the available ring's entry for head {} becomes {entry} while it is exposed", exposed.chain.head));
        exposed.chain.head = entry;
    }
    let now = readable_bytes(&exposed.chain.buffers, ram);
    if now != exposed.chain.bytes {
        breach("G7", format!("bytes of head {} change while it is exposed: {:x?} to {now:x?}", exposed.chain.head, exposed.chain.bytes));
        exposed.chain.bytes = now;
    }
}

fn readable_bytes(buffers: &[Buffer], ram: &GuestRam) -> Vec<u8> {
    let mut bytes = Vec::new();
    for buffer in buffers.iter().filter(|buffer| !buffer.writable) {
        let at = bytes.len();
        bytes.resize(at + buffer.len as usize, 0);
        ram.read(buffer.addr, &mut bytes[at..]);
    }
    bytes
}

fn note_exposed(role: Role, queue: &mut Queue, ram: &GuestRam, breach: &mut impl FnMut(&'static str, String), found: &mut Vec<Chain>) {
    let driver = queue.address(mmio::QUEUE_DRIVER_LOW);
    let index = half(ram, driver + vring::IDX);
    let new = index.wrapping_sub(queue.noted);
    if new > queue.size() {
        breach("G5", format!("the available index goes from {} to {index} in a queue of {}", queue.noted, queue.size()));
        queue.noted = index;
        return;
    }
    for _ in 0..new {
        let entry = driver + vring::AVAIL_RING + 2 * u64::from(queue.noted % queue.size());
        queue.noted = queue.noted.wrapping_add(1);
        let exposed = walk(role, queue, entry, ram, breach);
        if queue.exposed.iter().any(|other| other.table.iter().any(|(index, _)| exposed.table.iter().any(|(new, _)| new == index))) {
            breach("G5", format!("head {} shares a descriptor with a chain that is exposed", exposed.chain.head));
        }
        found.push(exposed.chain.clone());
        queue.exposed.push_back(exposed);
    }
    let descriptors: usize = queue.exposed.iter().map(|exposed| exposed.table.len()).sum();
    if descriptors > usize::from(queue.size()) {
        breach("G5", format!("{descriptors} descriptors are exposed in a queue of {}", queue.size()));
    }
}

fn walk(role: Role, queue: &Queue, entry: u64, ram: &GuestRam, breach: &mut impl FnMut(&'static str, String)) -> Exposed {
    let head = half(ram, entry);
    let mut chain = Chain { role, head, buffers: Vec::new(), bytes: Vec::new() };
    let mut table: Vec<(u16, [u8; 16])> = Vec::new();
    let mut at = Some(head);
    while let Some(index) = at {
        if index >= queue.size() || table.iter().any(|(seen, _)| *seen == index) {
            breach("G5", format!("head {head} leads to descriptor {index}, which is out of the table or was there before"));
            break;
        }
        let bytes = descriptor(ram, queue.address(mmio::QUEUE_DESC_LOW), index);
        let addr = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        let flags = u16::from_le_bytes([bytes[12], bytes[13]]);
        let writable = flags & vring::DESC_F_WRITE != 0;
        if !writable && chain.buffers.iter().any(|buffer| buffer.writable) {
            breach("G5", format!("head {head} has a readable descriptor behind a writable one"));
        }
        if flags & !(vring::DESC_F_NEXT | vring::DESC_F_WRITE) != 0 || len == 0 || addr + u64::from(len) > ram.bytes() {
            breach("G5", format!("descriptor {index}: {addr:#x}+{len:#x} flags {flags:#x}"));
        }
        chain.buffers.push(Buffer { addr, len, writable });
        table.push((index, bytes));
        at = (flags & vring::DESC_F_NEXT != 0).then(|| u16::from_le_bytes([bytes[14], bytes[15]]));
    }
    if chain.buffers.iter().map(|buffer| u64::from(buffer.len)).sum::<u64>() > u64::from(u32::MAX) {
        breach("G5", format!("head {head} is longer than 2^32 bytes"));
    }
    chain.bytes = readable_bytes(&chain.buffers, ram);
    Exposed { chain, entry, table }
}
