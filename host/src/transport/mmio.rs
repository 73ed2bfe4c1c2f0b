//! The register file of a virtio-mmio v2 device, and the device status that belongs to every virtio device.
//!
//! VIRTIO 1.2 §4.2.2 and §2.1; QEMU: hw/virtio/virtio-mmio.c, hw/virtio/virtio.c. The device's own configuration space and what its queues
//! mean are the device's affair: a write that concerns it comes back as [`Written`]. What Firecracker's registers take, and when, is in
//! `firecracker.rs`.

use super::queue::{SavedQueue, VirtQueue};
use crate::event::Event;
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::step::Ctx;
use wire::virtio::{feature, isr, mmio, status};

/// Vendor that QEMU's transport names ("QEMU").
pub const VENDOR_QEMU: u32 = 0x554d_4551;

/// Vendor that Firecracker's transport names.
pub const VENDOR_FIRECRACKER: u32 = 0;

/// Whose register file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// QEMU's, and what the specification asks for where QEMU is more patient.
    Qemu,
    /// Firecracker's.
    Firecracker,
}

/// What a transport is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportOptions {
    /// Whose it is.
    pub make: Make,
    /// DeviceID.
    pub device_id: u32,
    /// Offered feature bits; VERSION_1 is always added.
    pub features: u64,
    /// Largest size of each queue, entries.
    pub queue_sizes: Vec<u16>,
    /// Interrupt causes that a configuration change sets.
    pub config_isr: u32,
}

/// What a register write asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing more.
    Handled,
    /// The driver told of new buffers on a live queue.
    Notified(u16),
    /// The driver wrote status 0: the device must be reset, then the transport.
    Reset,
    /// The status has DRIVER_OK now, and had it not before.
    DriverOk,
}

/// What a reset forgets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Registers {
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    driver_features: u64,
    /// Negotiated: what the driver wrote when FEATURES_OK was accepted.
    pub(super) features: u64,
    pub(super) queue_sel: u32,
    pub(super) isr: u32,
    pub(super) status: u32,
    /// No queue is served until a reset. QEMU: `vdev->broken`.
    pub(super) broken: bool,
}

/// A virtio-mmio device without the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioMmio {
    pub(super) options: TransportOptions,
    pub(super) registers: Registers,
    pub(super) queues: Vec<VirtQueue>,
    /// ConfigGeneration. Survives a reset, as in QEMU. Firecracker's never changes: its transport has the register, and nobody counts.
    generation: u32,
    /// The interrupt line rose, and the world has not been told.
    edge: bool,
}

impl VirtioMmio {
    /// Returns a device after reset.
    pub fn new(options: TransportOptions) -> Self {
        let options = TransportOptions { features: options.features | feature::VERSION_1, ..options };
        let queues = options.queue_sizes.iter().map(|size| VirtQueue::new(*size)).collect();
        Self { options, registers: Registers::default(), queues, generation: 0, edge: false }
    }

    /// Forgets all that the driver has set. QEMU: virtio_reset(), virtio_mmio_soft_reset().
    pub fn reset(&mut self) {
        self.registers = Registers::default();
        self.edge = false;
        for queue in &mut self.queues {
            queue.reset();
        }
    }

    /// Adds its state to a hash: the registers, the interrupt line, each queue. The generation counts every change of the configuration, by
    /// which no two ways to the same state would meet; the guest does not read it (a test sees to that), so it is left out.
    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { options: _, registers, queues, generation: _, edge } = self;
        let Registers { device_features_sel, driver_features_sel, driver_features, features, queue_sel, isr, status, broken } = registers;
        let set_up = (*device_features_sel, *driver_features_sel, *driver_features, *features, *queue_sel);
        fold.add_part(Tag::Registers, &set_up);
        fold.add_part(Tag::DeviceStatus, &(*status, *broken));
        fold.add_part(Tag::Interrupt, &(*isr, *edge));
        for (index, queue) in (0..).zip(queues) {
            queue.fold(index, fold);
        }
    }

    /// Returns the offered feature bits.
    pub fn offered(&self) -> u64 {
        self.options.features
    }

    /// Returns what of the queues is saved.
    pub fn saved_queues(&self) -> Vec<SavedQueue> {
        self.queues.iter().map(VirtQueue::save).collect()
    }

    /// Returns the negotiated feature bits.
    pub fn features(&self) -> u64 {
        self.registers.features
    }

    /// Returns whether a feature bit is negotiated.
    pub fn negotiated(&self, bit: u64) -> bool {
        self.registers.features & bit != 0
    }

    /// Returns the device status.
    pub fn status(&self) -> u32 {
        self.registers.status
    }

    /// Returns whether the driver has given the device up (VIRTIO 1.2 §2.1).
    pub fn given_up(&self) -> bool {
        self.registers.status & status::FAILED != 0
    }

    /// Returns whether the driver has said DRIVER_OK.
    pub fn driver_ok(&self) -> bool {
        self.registers.status & status::DRIVER_OK != 0
    }

    /// Returns whether the device serves no queue until it is reset.
    pub fn broken(&self) -> bool {
        self.registers.broken
    }

    /// Returns a queue.
    ///
    /// # Panics
    /// When the device has no such queue: indices from the guest are checked at the register.
    pub fn queue(&self, index: u16) -> &VirtQueue {
        &self.queues[usize::from(index)]
    }

    /// Returns a queue to work on.
    ///
    /// # Panics
    /// As [`VirtioMmio::queue`].
    pub fn queue_mut(&mut self, index: u16) -> &mut VirtQueue {
        &mut self.queues[usize::from(index)]
    }

    /// Returns whether a queue can be served and holds buffers. QEMU: virtqueue_pop() of a broken device finds nothing.
    pub fn has_available(&self, index: u16, ram: &GuestRam) -> bool {
        !self.registers.broken && self.queue(index).has_available(ram)
    }

    /// Returns the live queues.
    pub fn ready_queues(&self) -> impl Iterator<Item = u16> {
        (0u16..).zip(&self.queues).filter(|(_, queue)| queue.ready()).map(|(index, _)| index)
    }

    /// Returns whether the interrupt line rose since the last call.
    pub fn take_irq(&mut self) -> bool {
        std::mem::take(&mut self.edge)
    }

    /// Returns whether a notification interrupts even a driver that asked for peace. Firecracker: signal_used_queue() looks at no flag.
    pub fn ignores_no_interrupt(&self) -> bool {
        self.options.make == Make::Firecracker
    }

    fn selected(&self) -> Option<&VirtQueue> {
        self.queues.get(usize::try_from(self.registers.queue_sel).ok()?).filter(|queue| queue.size_max() > 0)
    }

    pub(super) fn selected_mut(&mut self) -> Option<&mut VirtQueue> {
        self.queues.get_mut(usize::try_from(self.registers.queue_sel).ok()?).filter(|queue| queue.size_max() > 0)
    }

    /// Returns a control register. Registers that cannot be read, and addresses without a register, read 0; there is no shared memory.
    /// QEMU: virtio_mmio_read(). Differs: QueueSizeMax is the queue's own size, as through PCI; QEMU's mmio says 1024 for every queue. Firecracker
    /// leaves the reader's buffer alone where it knows no register, those of shared memory among them; it reads as 0 here.
    pub fn read(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            mmio::MAGIC_VALUE => mmio::MAGIC,
            mmio::VERSION => mmio::VERSION_2,
            mmio::DEVICE_ID => self.options.device_id,
            mmio::VENDOR_ID => match self.options.make {
                Make::Qemu => VENDOR_QEMU,
                Make::Firecracker => VENDOR_FIRECRACKER,
            },
            mmio::DEVICE_FEATURES => feature_word(self.options.features, registers.device_features_sel),
            mmio::QUEUE_SIZE_MAX => self.selected().map_or(0, |queue| u32::from(queue.size_max())),
            mmio::QUEUE_READY => self.selected().map_or(0, |queue| u32::from(self.says_ready(queue))),
            mmio::INTERRUPT_STATUS => registers.isr,
            mmio::STATUS => registers.status,
            mmio::SHM_LEN_LOW | mmio::SHM_LEN_HIGH if self.options.make == Make::Qemu => u32::MAX,
            mmio::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// Writes a control register. Writes to anything else change nothing. QEMU: virtio_mmio_write().
    pub fn write(&mut self, offset: u64, value: u32, ctx: &mut Ctx<'_>) -> Written {
        match self.options.make {
            Make::Qemu => self.write_register(offset, value, ctx),
            Make::Firecracker => self.write_firecracker(offset, value, ctx),
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, ctx: &mut Ctx<'_>) -> Written {
        match offset {
            mmio::DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            mmio::DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            mmio::DRIVER_FEATURES => match self.registers.driver_features_sel {
                0 => set_low(&mut self.registers.driver_features, value),
                1 => set_high(&mut self.registers.driver_features, value),
                _ => {}
            },
            mmio::QUEUE_SEL => self.registers.queue_sel = value,
            mmio::QUEUE_READY => self.write_queue_ready(value, ctx),
            mmio::QUEUE_NOTIFY => return self.write_queue_notify(value),
            mmio::INTERRUPT_ACK => {
                self.registers.isr &= !value;
                // The line is a level: what is still pending interrupts again.
                self.edge = self.registers.isr != 0;
            }
            mmio::STATUS => return self.write_status(value, ctx),
            _ => self.write_queue_setup(offset, value),
        }
        Written::Handled
    }

    pub(super) fn write_queue_setup(&mut self, offset: u64, value: u32) {
        let Some(setup) = self.selected_mut().map(VirtQueue::setup_mut) else { return };
        match offset {
            mmio::QUEUE_SIZE => setup.size = value,
            mmio::QUEUE_DESC_LOW => set_low(&mut setup.desc, value),
            mmio::QUEUE_DESC_HIGH => set_high(&mut setup.desc, value),
            mmio::QUEUE_DRIVER_LOW => set_low(&mut setup.driver, value),
            mmio::QUEUE_DRIVER_HIGH => set_high(&mut setup.driver, value),
            mmio::QUEUE_DEVICE_LOW => set_low(&mut setup.device, value),
            mmio::QUEUE_DEVICE_HIGH => set_high(&mut setup.device, value),
            _ => {}
        }
    }

    fn write_queue_ready(&mut self, value: u32, ctx: &mut Ctx<'_>) {
        let event_idx = self.negotiated(feature::RING_EVENT_IDX);
        let queue_sel = self.registers.queue_sel;
        let Some(queue) = self.selected_mut() else { return };
        if value & 1 == 0 {
            queue.disable();
        } else if !queue.enable(event_idx, ctx.ram) {
            self.virtio_error(u16::try_from(queue_sel).expect("a queue was selected"), ctx);
        }
    }

    /// QEMU: virtio_queue_notify(): a broken device, or a queue that is not set up, is deaf.
    pub(super) fn write_queue_notify(&self, value: u32) -> Written {
        let Ok(index) = u16::try_from(value) else { return Written::Handled };
        match self.queues.get(usize::from(index)) {
            Some(queue) if queue.ready() && !self.registers.broken => Written::Notified(index),
            Some(_) | None => Written::Handled,
        }
    }

    /// QEMU: virtio_set_status(). Differs: FEATURES_OK is refused, as VIRTIO 1.2 §2.2.2 asks, when the driver wants a feature that is not
    /// offered or does not take VERSION_1; QEMU masks the features and goes on.
    fn write_status(&mut self, value: u32, ctx: &mut Ctx<'_>) -> Written {
        let value = value & 0xff;
        ctx.emit(Event::DeviceStatus { status: value });
        if value == 0 {
            self.registers.status = 0;
            return Written::Reset;
        }
        let before = self.registers.status;
        let mut after = value;
        if value & !before & status::FEATURES_OK != 0 {
            let wanted = self.registers.driver_features;
            if wanted & !self.options.features == 0 && wanted & feature::VERSION_1 != 0 {
                self.registers.features = wanted;
            } else {
                after &= !status::FEATURES_OK;
            }
        }
        self.registers.status = after;
        match after & !before & status::DRIVER_OK != 0 {
            true => Written::DriverOk,
            false => Written::Handled,
        }
    }

    /// Tells the driver that the configuration has changed; before DRIVER_OK nobody is told. QEMU: virtio_notify_config(). Firecracker: its device
    /// has no interrupt to raise before it is activated.
    pub fn notify_config(&mut self, ctx: &mut Ctx<'_>) {
        if self.driver_ok() {
            if self.options.make == Make::Qemu {
                self.generation = self.generation.wrapping_add(1);
            }
            self.raise(self.options.config_isr, isr::CONFIG_CHANGE, ctx);
        }
    }

    /// Tells the driver of a used buffer. Whether it wants to know, the queue has said. QEMU: virtio_irq().
    pub fn notify_used(&mut self, ctx: &mut Ctx<'_>) {
        self.raise(isr::USED_BUFFER, isr::USED_BUFFER, ctx);
    }

    fn raise(&mut self, bits: u32, cause: u32, ctx: &mut Ctx<'_>) {
        assert!(bits & cause == cause, "cause {cause} is not among the bits {bits}");
        // Firecracker: trigger_irq() writes its event, whatever is pending.
        self.edge |= self.registers.isr == 0 || self.options.make == Make::Firecracker;
        self.registers.isr |= bits;
        ctx.emit(Event::DeviceIrq { cause });
    }

    /// The guest broke the rules on a queue: the device serves nobody until it is reset. QEMU: virtio_error().
    pub fn virtio_error(&mut self, queue: u16, ctx: &mut Ctx<'_>) {
        assert!(usize::from(queue) < self.queues.len(), "no queue {queue}");
        self.registers.broken = true;
        self.registers.status |= status::DEVICE_NEEDS_RESET;
        ctx.emit(Event::DeviceBroken { queue });
        self.notify_config(ctx);
    }
}

fn feature_word(features: u64, select: u32) -> u32 {
    match select {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

pub(super) fn set_low(word: &mut u64, value: u32) {
    *word = *word & !0xffff_ffff | u64::from(value);
}

pub(super) fn set_high(word: &mut u64, value: u32) {
    *word = *word & 0xffff_ffff | u64::from(value) << 32;
}
