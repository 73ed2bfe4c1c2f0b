//! A virtio-mmio balloon device for unit tests: registers, queues that it serves when it is kicked or when the driver waits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use wire::balloon::{config, feature, queue_size};
use wire::platform::{BootInfo, CLOCK, VIRTIO_MMIO, vector};
use wire::virtio::mmio as reg;
use wire::virtio::{feature as transport, isr};
use wire::vring;

use crate::arch::{self, MmioAccess};
use crate::kernel::{boot, irq};

/// A tracepoint of the device's own: it was told that these causes are acknowledged.
pub(crate) const ACKNOWLEDGED: u32 = 1000;

/// A chain that the device took: queue, head, and buffers as address, length, flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) queue: u32,
    pub(crate) head: u16,
    pub(crate) buffers: Vec<(u64, u32, u16)>,
    /// The bytes of the buffers that the device reads, as they were when it took them.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Queue {
    registers: BTreeMap<u64, u32>,
    seen: u16,
    used: u16,
}

/// The device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) features: u64,
    pub(crate) status: u32,
    pub(crate) config: [u32; 4],
    pub(crate) isr: u32,
    /// Stores to registers other than those of a queue's set-up, in order.
    pub(crate) writes: Vec<(u64, u32)>,
    /// Queues whose buffers the device keeps instead of using them.
    pub(crate) lazy: Vec<u32>,
    /// Queues whose buffers that the device writes it keeps.
    pub(crate) kept: Vec<u32>,
    /// Every chain taken.
    pub(crate) taken: Vec<Chain>,
    /// The machine's clock.
    pub(crate) now_ns: u64,
    selected: u64,
    sel: [u32; 2],
    queues: BTreeMap<u32, Queue>,
    /// Size of each queue.
    pub(crate) sizes: Vec<u16>,
}

/// A machine with a balloon device that offers what QEMU could, and `extra`.
pub(crate) fn machine(ram_bytes: u64, features: u64, flags: u64) -> Rc<RefCell<Device>> {
    machine_with(&BootInfo { flags, ..boot::test_boot_info(ram_bytes, 1) }, features)
}

/// The same with the given boot information. Bits 3 to 5 are each a queue's, or none, whatever the dialect calls them.
pub(crate) fn machine_with(boot: &BootInfo, features: u64) -> Rc<RefCell<Device>> {
    boot::init_for_test_with(boot);
    let mut sizes = vec![queue_size::DEFAULT; 2];
    let optional = [
        (feature::STATS_VQ, queue_size::DEFAULT),
        (feature::FREE_PAGE_HINT, queue_size::FREE_PAGE),
        (feature::PAGE_REPORTING, queue_size::REPORTING),
    ];
    sizes.extend(optional.into_iter().filter(|(bit, _)| features & bit != 0).map(|(_, size)| size));
    let device = Device {
        features: features | transport::VERSION_1,
        status: 0,
        config: [0; 4],
        isr: 0,
        writes: Vec::new(),
        lazy: Vec::new(),
        kept: Vec::new(),
        taken: Vec::new(),
        now_ns: 0,
        selected: 0,
        sel: [0; 2],
        queues: BTreeMap::new(),
        sizes,
    };
    let device = Rc::new(RefCell::new(device));
    let registers = device.clone();
    arch::set_mmio_hook(move |access| registers.borrow_mut().access(access));
    let waited_for = device.clone();
    arch::set_wait_hook(move || {
        let pending = waited_for.borrow().isr != 0;
        assert!(pending, "the driver waits, and the device has nothing to say");
        irq::raise_for_test(vector::VIRTIO);
    });
    device
}

/// Changes a configuration field and interrupts the driver.
pub(crate) fn change_config(device: &Rc<RefCell<Device>>, offset: u64, value: u32) {
    device.borrow_mut().config[offset as usize / 4] = value;
    device.borrow_mut().isr |= isr::CONFIG_CHANGE;
    irq::raise_for_test(vector::VIRTIO);
}

impl Device {
    pub(crate) fn access(&mut self, access: MmioAccess) -> u32 {
        let (addr, write) = match access {
            MmioAccess::Read { addr, .. } => (addr, None),
            MmioAccess::Write { addr, value, .. } => (addr, Some(value)),
        };
        if addr & !4 == CLOCK & !4 {
            return if addr == CLOCK { self.now_ns as u32 } else { (self.now_ns >> 32) as u32 };
        }
        let Some(offset) = addr.checked_sub(VIRTIO_MMIO).filter(|offset| *offset < reg::CONFIG + config::BYTES) else { return 0 };
        match write {
            None => self.read(offset),
            Some(value) => {
                self.write(offset, value);
                0
            }
        }
    }

    fn read(&mut self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION => reg::VERSION_2,
            reg::DEVICE_ID => wire::balloon::DEVICE_ID,
            reg::DEVICE_FEATURES => (self.features >> (32 * self.sel[0])) as u32,
            reg::QUEUE_SIZE_MAX => self.sizes.get(self.selected as usize).copied().unwrap_or(0).into(),
            reg::QUEUE_READY => self.queues.get(&(self.selected as u32)).map_or(0, |queue| queue.registers[&offset]),
            reg::INTERRUPT_STATUS => self.isr,
            reg::STATUS => self.status,
            _ => self.config[(offset - reg::CONFIG) as usize / 4],
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.sel[0] = value,
            reg::DRIVER_FEATURES_SEL => self.sel[1] = value,
            reg::QUEUE_SEL => self.selected = value.into(),
            reg::INTERRUPT_ACK => {
                self.isr &= !value;
                arch::trace(ACKNOWLEDGED, value.into(), 0);
            }
            reg::STATUS => {
                self.status = value;
                if value == 0 {
                    self.queues.clear();
                }
                self.writes.push((offset, value));
            }
            reg::QUEUE_NOTIFY => {
                self.writes.push((offset, value));
                self.serve(value);
            }
            reg::QUEUE_SIZE | reg::QUEUE_READY | reg::QUEUE_DESC_LOW..=reg::QUEUE_DEVICE_HIGH => {
                self.queues.entry(self.selected as u32).or_default().registers.insert(offset, value);
            }
            _ => {
                self.writes.push((offset, value));
                if let Some(field) = offset.checked_sub(reg::CONFIG) {
                    self.config[field as usize / 4] = value;
                }
            }
        }
    }

    /// Takes what is available and, unless the queue is lazy, uses it.
    pub(crate) fn serve(&mut self, index: u32) {
        while let Some(chain) = self.take(index) {
            let head = chain.head;
            let kept = self.kept.contains(&index) && chain.bytes.is_empty();
            self.taken.push(chain);
            if !self.lazy.contains(&index) && !kept {
                self.push_used(index, head);
            }
        }
    }

    fn take(&mut self, index: u32) -> Option<Chain> {
        let queue = self.queues.get_mut(&index).expect("the queue was set up");
        let num = queue.registers[&reg::QUEUE_SIZE] as u16;
        let address = |low: u64| u64::from(queue.registers[&low]) | u64::from(queue.registers[&(low + 4)]) << 32;
        let (desc, avail) = (address(reg::QUEUE_DESC_LOW), address(reg::QUEUE_DRIVER_LOW));
        if queue.seen == arch::read16(avail + vring::IDX) {
            return None;
        }
        let head = arch::read16(avail + vring::AVAIL_RING + u64::from(queue.seen % num) * 2);
        queue.seen = queue.seen.wrapping_add(1);
        let mut chain = Chain { queue: index, head, buffers: Vec::new(), bytes: Vec::new() };
        let mut at = Some(head);
        while let Some(slot) = at {
            let entry = desc + u64::from(slot) * vring::DESC_BYTES;
            let (addr, len, flags) = (arch::read64(entry), arch::read32(entry + 8), arch::read16(entry + 12));
            if flags & vring::DESC_F_WRITE == 0 {
                chain.bytes.extend((addr..addr + u64::from(len)).map(arch::read8));
            }
            chain.buffers.push((addr, len, flags));
            at = (flags & vring::DESC_F_NEXT != 0).then(|| arch::read16(entry + 14));
        }
        Some(chain)
    }

    /// Uses a chain and asks for an interrupt, unless the driver does not want one.
    pub(crate) fn push_used(&mut self, index: u32, head: u16) {
        self.push_used_len(index, head, 0);
    }

    /// The same, with so many bytes written.
    pub(crate) fn push_used_len(&mut self, index: u32, head: u16, len: u32) {
        let queue = self.queues.get_mut(&index).expect("the queue was set up");
        let num = queue.registers[&reg::QUEUE_SIZE] as u16;
        let used = u64::from(queue.registers[&reg::QUEUE_DEVICE_LOW]);
        let avail = u64::from(queue.registers[&reg::QUEUE_DRIVER_LOW]);
        let element = used + vring::USED_RING + u64::from(queue.used % num) * vring::USED_ELEM_BYTES;
        arch::write32(element, head.into());
        arch::write32(element + 4, len);
        queue.used = queue.used.wrapping_add(1);
        arch::write16(used + vring::IDX, queue.used);
        if arch::read16(avail) & vring::AVAIL_F_NO_INTERRUPT == 0 {
            self.isr |= isr::USED_BUFFER;
        }
    }

    /// Queues that are live.
    pub(crate) fn live_queues(&self) -> Vec<u32> {
        self.queues.iter().filter(|(_, queue)| queue.registers.get(&reg::QUEUE_READY) == Some(&1)).map(|(index, _)| *index).collect()
    }

    /// Takes the chains that were taken from a queue.
    pub(crate) fn drain_taken(&mut self, queue: u32) -> Vec<Chain> {
        let (of_queue, others) = self.taken.drain(..).partition(|chain| chain.queue == queue);
        self.taken = others;
        of_queue
    }
}
