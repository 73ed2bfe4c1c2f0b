//! What a hostile guest does, by chance: much of it is nearly right, for what is quite wrong gets nowhere.

use host::vmm::Command;
use wire::platform::PAGE_SIZE;
use wire::virtio::{mmio, status};
use wire::vring;

use crate::draw::Draw;
use crate::machine::{Machine, QUEUES, RAM_BYTES};

/// What a guest remembers of its own doings.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Sizes that it gave its queues.
    sizes: [u16; QUEUES as usize],
    avail: [u16; QUEUES as usize],
    descriptors: [u16; QUEUES as usize],
    probed: bool,
    /// It breaks a rule once in so many times that it could.
    patience: u64,
}

/// Where the rings of a queue are: descriptors, available, used.
pub(crate) fn rings(queue: u16) -> [u64; 3] {
    let base = 0x10_0000 + u64::from(queue) * 0x1_0000;
    [base, base + 0x6000, base + 0xa000]
}

impl Guest {
    pub(crate) fn new(draw: &mut Draw) -> Self {
        Self { patience: draw.pick(&[12, 100, 2_000]), ..Self::default() }
    }

    fn is_evil(&self, draw: &mut Draw) -> bool {
        draw.once_in(self.patience)
    }

    /// Does one thing.
    pub(crate) fn act(&mut self, machine: &mut Machine, draw: &mut Draw) {
        if !machine.vm_running() {
            // Nobody runs its code now.
            match draw.below(12) {
                0 => machine.push(Command::Cont),
                1 => machine.push(command(draw)),
                _ => machine.move_one(draw),
            }
            return;
        }
        // A broken device is nothing to play with.
        if machine.is_broken() && draw.once_in(8) {
            self.probed = false;
        }
        if !self.probed {
            return self.probe(machine, draw);
        }
        match draw.below(100) {
            0..35 => self.chain(machine, draw),
            35..40 if self.is_evil(draw) => self.run_ahead(machine, draw),
            40..45 if self.is_evil(draw) => self.scribble(machine, draw),
            45..52 => {
                machine.access(mmio::QUEUE_NOTIFY, 4, Some(index(draw)));
            }
            52..56 if self.is_evil(draw) => register(machine, draw, true),
            56..60 => register(machine, draw, false),
            60..64 => configuration(machine, draw),
            64..65 => self.probed = !draw.once_in(4),
            65..67 => machine.push(command(draw)),
            67..69 => machine.later(draw.below(1_000_000)),
            69..70 => machine.clone_over(),
            _ => (0..1 + draw.below(12)).for_each(|_| machine.move_one(draw)),
        }
    }

    /// Brings the device up, more or less as it should be done.
    fn probe(&mut self, machine: &mut Machine, draw: &mut Draw) {
        self.probed = true;
        let write = |machine: &mut Machine, offset, value| {
            machine.access(offset, 4, Some(value));
        };
        write(machine, mmio::STATUS, 0);
        write(machine, mmio::STATUS, status::ACKNOWLEDGE);
        write(machine, mmio::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        let wanted = if draw.once_in(4) { draw.word() } else { u64::MAX };
        for word in 0..2 {
            write(machine, mmio::DEVICE_FEATURES_SEL, word);
            let offered = machine.access(mmio::DEVICE_FEATURES, 4, None);
            let stray = if draw.once_in(32) { draw.word() as u32 } else { 0 };
            write(machine, mmio::DRIVER_FEATURES_SEL, word);
            write(machine, mmio::DRIVER_FEATURES, offered & (wanted >> (32 * word)) as u32 | stray);
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        write(machine, mmio::STATUS, ready);
        for queue in 0..QUEUES {
            if !draw.once_in(16) {
                self.set_up(queue, machine, draw);
            }
        }
        if !draw.once_in(16) {
            machine.access(mmio::STATUS, 4, Some(ready | status::DRIVER_OK));
        }
    }

    fn set_up(&mut self, queue: u16, machine: &mut Machine, draw: &mut Draw) {
        machine.access(mmio::QUEUE_SEL, 4, Some(u32::from(queue)));
        let most = machine.access(mmio::QUEUE_SIZE_MAX, 4, None) as u16;
        let size = if draw.once_in(4) { 1u16.checked_shl(draw.below(11) as u32).expect("ten bits") } else { most };
        let index = usize::from(queue);
        (self.sizes[index], self.avail[index], self.descriptors[index]) = (size.max(1), 0, 0);
        machine.access(mmio::QUEUE_SIZE, 4, Some(if draw.once_in(64) { draw.word() as u32 } else { u32::from(size) }));
        let lows = [mmio::QUEUE_DESC_LOW, mmio::QUEUE_DRIVER_LOW, mmio::QUEUE_DEVICE_LOW];
        for ((low, address), high) in
            lows.into_iter().zip(rings(queue)).zip([mmio::QUEUE_DESC_HIGH, mmio::QUEUE_DRIVER_HIGH, mmio::QUEUE_DEVICE_HIGH])
        {
            machine.store(address, &[0; 0x800]);
            let address = if draw.once_in(64) {
                machine.tangled = true;
                place(draw)
            } else {
                address
            };
            machine.access(low, 4, Some(address as u32));
            machine.access(high, 4, Some((address >> 32) as u32));
        }
        machine.access(mmio::QUEUE_READY, 4, Some(1));
    }

    /// Exposes a chain, often a right one.
    fn chain(&mut self, machine: &mut Machine, draw: &mut Draw) {
        let queue = if draw.once_in(2) { 3 } else { draw.below(u64::from(QUEUES)) as u16 };
        let (at, size) = (usize::from(queue), self.sizes[usize::from(queue)].max(1));
        // What is out is not overwritten, as a rule.
        if machine.out(queue).saturating_add(4) > size && machine.out(queue) > 0 && !self.is_evil(draw) {
            machine.access(mmio::QUEUE_NOTIFY, 4, Some(u32::from(queue)));
            return;
        }
        let most = if self.is_evil(draw) { u64::from(size) + 3 } else { 4 };
        let mut buffers: Vec<_> = match draw.once_in(12) || self.is_evil(draw) {
            true => (0..1 + draw.below(most)).map(|_| buffer(machine, draw)).collect(),
            false => fitting(queue, machine, draw),
        };
        if !self.is_evil(draw) {
            buffers.truncate(usize::from(size));
        }
        let count = buffers.len() as u16;
        let writes_from = draw.below(u64::from(count) + 1) as u16;
        let head = self.descriptors[at] % size;
        for (n, (address, len, write)) in (0..).zip(buffers) {
            let id = self.descriptors[at] % size;
            self.descriptors[at] = self.descriptors[at].wrapping_add(1);
            let mut flags = if write.unwrap_or(n >= writes_from) { vring::DESC_F_WRITE } else { 0 };
            flags |= if n + 1 < count { vring::DESC_F_NEXT } else { 0 };
            let mut next = (id + 1) % size;
            if self.is_evil(draw) {
                flags ^= draw.pick(&[vring::DESC_F_NEXT, vring::DESC_F_WRITE, vring::DESC_F_INDIRECT, vring::DESC_F_INDIRECT, 0xff00]);
            }
            if self.is_evil(draw) {
                next = draw.pick(&[id, head, size, u16::MAX, draw_u16(id)]);
            }
            machine.store(rings(queue)[0] + u64::from(id) * vring::DESC_BYTES, &descriptor(address, len, flags, next));
        }
        let head = if self.is_evil(draw) { draw.word() as u16 } else { head };
        self.expose(queue, head, machine);
        if !draw.once_in(3) {
            machine.access(mmio::QUEUE_NOTIFY, 4, Some(u32::from(queue)));
        }
    }

    fn expose(&mut self, queue: u16, head: u16, machine: &mut Machine) {
        let (at, driver) = (usize::from(queue), rings(queue)[1]);
        let slot = u64::from(self.avail[at] % self.sizes[at].max(1));
        machine.store(driver + vring::AVAIL_RING + 2 * slot, &head.to_le_bytes());
        self.avail[at] = self.avail[at].wrapping_add(1);
        machine.store(driver + vring::IDX, &self.avail[at].to_le_bytes());
    }

    /// Exposes what was exposed before, or what never was.
    fn run_ahead(&mut self, machine: &mut Machine, draw: &mut Draw) {
        let queue = draw.below(u64::from(QUEUES)) as u16;
        let at = usize::from(queue);
        let by = if draw.once_in(4) { draw.word() as u16 } else { 1 + draw.below(3) as u16 };
        self.avail[at] = self.avail[at].wrapping_add(by);
        machine.store(rings(queue)[1] + vring::IDX, &self.avail[at].to_le_bytes());
        machine.access(mmio::QUEUE_NOTIFY, 4, Some(u32::from(queue)));
    }

    /// Stores bytes wherever: most often into rings, while the device works on them.
    fn scribble(&mut self, machine: &mut Machine, draw: &mut Draw) {
        let bytes: Vec<u8> = (0..1 + draw.below(24)).map(|_| if draw.once_in(2) { 0 } else { draw.word() as u8 }).collect();
        let address = match draw.below(4) {
            0 => draw.below(RAM_BYTES),
            // Where the guest publishes its memory map.
            1 => wire::platform::KERNEL_INFO + draw.below(256),
            _ => ring(draw) + draw.below(0x100),
        };
        machine.store(address, &bytes);
    }
}

/// The start of some ring.
fn ring(draw: &mut Draw) -> u64 {
    let queue = draw.below(u64::from(QUEUES)) as u16;
    rings(queue)[draw.below(3) as usize]
}

fn draw_u16(id: u16) -> u16 {
    id.wrapping_mul(7).wrapping_add(3)
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..16].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// An address that may be anywhere.
fn place(draw: &mut Draw) -> u64 {
    match draw.below(6) {
        0 => draw.word(),
        1 => u64::MAX - draw.below(0x2000),
        2 => RAM_BYTES - draw.below(0x2000),
        3 => RAM_BYTES + draw.below(0x2000),
        4 => ring(draw) + draw.below(0x40),
        _ => draw.below(RAM_BYTES),
    }
}

/// A chain that a queue is made for: address, length, and whether the device may write it.
fn fitting(queue: u16, machine: &mut Machine, draw: &mut Draw) -> Vec<(u64, u32, Option<bool>)> {
    let pages = |draw: &mut Draw| ((0x300 + draw.below(0x400)) * PAGE_SIZE, (1 + draw.below(16)) as u32 * PAGE_SIZE as u32, Some(true));
    let scratch = 0x28_0000 + draw.below(64) * PAGE_SIZE;
    match queue {
        3 if draw.once_in(3) => {
            machine.store(scratch, &machine.cmd_id().to_le_bytes());
            vec![(scratch, 4, Some(false))]
        }
        3 | 4 => (0..1 + draw.below(3)).map(|_| pages(draw)).collect(),
        _ => {
            let (address, len) = page_numbers(scratch, machine, draw);
            vec![(address, len, Some(false))]
        }
    }
}

/// Neighbouring page numbers, with some that are not.
fn page_numbers(scratch: u64, machine: &mut Machine, draw: &mut Draw) -> (u64, u32) {
    let (first, count) = (draw.below(RAM_BYTES / PAGE_SIZE) as u32 & !15, 1 + draw.below(32));
    for n in 0..count {
        let pfn = if draw.once_in(32) { draw.word() as u32 } else { first + n as u32 };
        machine.store(scratch + 4 * n, &pfn.to_le_bytes());
    }
    (scratch, 4 * count as u32)
}

/// A buffer, most often one of those that the device knows what to do with.
fn buffer(machine: &mut Machine, draw: &mut Draw) -> (u64, u32, Option<bool>) {
    let (address, len) = stretch(machine, draw);
    (address, len, None)
}

fn stretch(machine: &mut Machine, draw: &mut Draw) -> (u64, u32) {
    let scratch = 0x20_0000 + draw.below(64) * PAGE_SIZE;
    match draw.below(40) {
        0..10 => {
            let id = match draw.below(6) {
                0 => draw.word() as u32,
                1 => draw.below(2) as u32,
                _ => machine.cmd_id(),
            };
            machine.store(scratch, &id.to_le_bytes());
            (scratch, 4)
        }
        10..20 => page_numbers(scratch, machine, draw),
        20..32 => ((0x300 + draw.below(0x400)) * PAGE_SIZE, (1 + draw.below(16)) as u32 * PAGE_SIZE as u32),
        32..34 if draw.once_in(16) => (0x40_0000, 0x40_0000),
        32..34 => (0x30_0000 + draw.below(64), 0x8000 + draw.below(64) as u32),
        34 => {
            // An indirect table, if the flag says so.
            for n in 0..4 {
                let bytes = descriptor(0x30_0000 + n * PAGE_SIZE, PAGE_SIZE as u32, draw.below(8) as u16, draw.below(5) as u16);
                machine.store(scratch + 16 * n, &bytes);
            }
            (scratch, 16 * (1 + draw.below(5)) as u32)
        }
        35 => (scratch, 0),
        36 => (place(draw), u32::MAX - draw.below(3) as u32),
        37 => (place(draw), draw.word() as u32),
        38 => (place(draw), 1 + draw.below(0x3000) as u32),
        _ => (scratch + draw.below(64), 1 + draw.below(64) as u32),
    }
}

fn index(draw: &mut Draw) -> u32 {
    if draw.once_in(8) { draw.word() as u32 } else { draw.below(u64::from(QUEUES) + 1) as u32 }
}

/// A register, or something beside it.
fn register(machine: &mut Machine, draw: &mut Draw, write: bool) {
    let offset = match draw.below(8) {
        0 => draw.below(0x200),
        1 => draw.word(),
        2 => mmio::STATUS,
        3 => mmio::QUEUE_READY,
        _ => 4 * draw.below(0x110 / 4),
    };
    let len = if draw.once_in(4) { draw.pick(&[0, 1, 2, 3, 4, 8, 16]) } else { 4 };
    let value = match draw.below(4) {
        0 => draw.word() as u32,
        1 => 1 << draw.below(32),
        2 => ring(draw) as u32,
        _ => draw.below(8) as u32,
    };
    // A reset is dear: much is to be set up again.
    machine.tangled |= write;
    if write && (offset != mmio::STATUS || value & 0xff != 0 || draw.once_in(4)) {
        machine.access(offset, len, Some(value));
    } else {
        machine.access(offset, len, None);
    }
}

/// The configuration space, with any width and anywhere in it or behind it.
fn configuration(machine: &mut Machine, draw: &mut Draw) {
    let offset = mmio::CONFIG + draw.below(24);
    let len = draw.pick(&[1, 2, 4, 4, 8, 3]);
    let write = draw.once_in(2).then_some(if draw.once_in(2) { 0 } else { draw.word() as u32 });
    machine.access(offset, len, write);
}

fn command(draw: &mut Draw) -> Command {
    match draw.below(40) {
        0..20 => Command::Migrate,
        20..24 => Command::Cancel,
        24..27 => Command::Stop,
        27..34 => Command::Cont,
        34..36 => Command::Balloon { pages: draw.word() as u32 },
        36..38 => Command::BreakLink,
        38 => Command::ResetDevice,
        _ if draw.once_in(8) => Command::Unplug,
        _ => Command::Cont,
    }
}
