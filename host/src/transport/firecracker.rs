//! Firecracker's register file: what it takes, and when.
//!
//! Firecracker: src/vmm/src/devices/virtio/transport/mmio.rs MmioTransport, main of August 2026. It keeps the driver to the order of VIRTIO 1.2 §3.1 and
//! leaves out what comes at another time, without a word to the driver: features between DRIVER and FEATURES_OK, queues between FEATURES_OK and
//! DRIVER_OK, acknowledgements of interrupts behind that. Features are masked as they come, so that FEATURES_OK is never refused, VERSION_1 or not. Queues
//! are looked at once, when the driver says DRIVER_OK: all that the device offers must be ready then, even those of features that the driver declined.

use super::mmio::{Make, VirtioMmio, Written};
use super::queue::VirtQueue;
use crate::event::Event;
use crate::step::Ctx;
use wire::virtio::{feature, mmio, status};

/// Steps that the status takes: from, to. Firecracker: set_device_status(), VALID_TRANSITIONS.
const STEPS: [(u32, u32); 4] = [(0, ACKNOWLEDGED), (ACKNOWLEDGED, DRIVEN), (DRIVEN, NEGOTIATED), (NEGOTIATED, LIVE)];
const ACKNOWLEDGED: u32 = status::ACKNOWLEDGE;
const DRIVEN: u32 = ACKNOWLEDGED | status::DRIVER;
const NEGOTIATED: u32 = DRIVEN | status::FEATURES_OK;
const LIVE: u32 = NEGOTIATED | status::DRIVER_OK;

impl VirtioMmio {
    /// Returns what QueueReady reads: as it was written, here, whether or not the queue is any good.
    pub(super) fn says_ready(&self, queue: &VirtQueue) -> bool {
        match self.options.make {
            Make::Qemu => queue.ready(),
            Make::Firecracker => queue.setup().ready,
        }
    }

    /// Returns whether the status has all of these bits, and none of those. Firecracker: check_device_status().
    fn status_has(&self, all: u32, none: u32) -> bool {
        self.registers.status & (all | none) == all
    }

    /// Writes a control register. Firecracker: MmioTransport, its write().
    pub(super) fn write_firecracker(&mut self, offset: u64, value: u32, ctx: &mut Ctx<'_>) -> Written {
        match offset {
            mmio::DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            mmio::DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            mmio::DRIVER_FEATURES => self.take_features(value),
            mmio::QUEUE_SEL => self.registers.queue_sel = value,
            // An eventfd of KVM's, which no status forbids.
            mmio::QUEUE_NOTIFY => return self.write_queue_notify(value),
            mmio::INTERRUPT_ACK if self.status_has(status::DRIVER_OK, 0) => self.registers.isr &= !value,
            mmio::STATUS => return self.take_status(value & 0xff, ctx),
            mmio::QUEUE_READY
            | mmio::QUEUE_SIZE
            | mmio::QUEUE_DESC_LOW
            | mmio::QUEUE_DESC_HIGH
            | mmio::QUEUE_DRIVER_LOW
            | mmio::QUEUE_DRIVER_HIGH
            | mmio::QUEUE_DEVICE_LOW
            | mmio::QUEUE_DEVICE_HIGH
                if self.status_has(status::FEATURES_OK, status::DRIVER_OK | status::FAILED) =>
            {
                self.set_up_queue(offset, value);
            }
            _ => {}
        }
        Written::Handled
    }

    /// Firecracker: ack_features_by_page(): what is not offered does not count, and what was taken once stays until a reset.
    fn take_features(&mut self, value: u32) {
        let shift = match self.registers.driver_features_sel {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if self.status_has(status::DRIVER, status::FEATURES_OK | status::FAILED | status::DEVICE_NEEDS_RESET) {
            self.registers.features |= u64::from(value) << shift & self.options.features;
        }
    }

    /// Firecracker: update_queue_field().
    fn set_up_queue(&mut self, offset: u64, value: u32) {
        match offset {
            mmio::QUEUE_READY => {
                if let Some(queue) = self.selected_mut() {
                    queue.setup_mut().ready = value == 1;
                }
            }
            mmio::QUEUE_SIZE => self.write_queue_setup(offset, value & 0xffff),
            _ => self.write_queue_setup(offset, value),
        }
    }

    /// Firecracker: set_device_status().
    fn take_status(&mut self, value: u32, ctx: &mut Ctx<'_>) -> Written {
        ctx.emit(Event::DeviceStatus { status: value });
        let before = self.registers.status;
        match value {
            _ if value & status::FAILED != 0 => self.registers.status |= status::FAILED,
            0 => {
                self.registers.status = 0;
                return Written::Reset;
            }
            _ if STEPS.contains(&(before, value)) => {
                self.registers.status = value;
                if value == LIVE && self.activate(ctx) {
                    return Written::DriverOk;
                }
            }
            _ => {}
        }
        Written::Handled
    }

    /// Returns whether all queues are as they must be; the device serves none if one is not. Firecracker: Balloon::activate(), Queue::initialize().
    fn activate(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let there = |queue: &VirtQueue| queue.size_max() > 0;
        let event_idx = self.negotiated(feature::RING_EVENT_IDX);
        let bad = self.queues.iter_mut().position(|queue| there(queue) && !(queue.setup().ready && queue.enable(event_idx, ctx.ram)));
        let Some(bad) = bad else { return true };
        self.queues.iter_mut().for_each(VirtQueue::disable);
        self.virtio_error(u16::try_from(bad).expect("at most five queues"), ctx);
        false
    }

    /// Returns whether the driver may write the configuration. Firecracker: MmioTransport, its write().
    pub fn takes_config(&self) -> bool {
        match self.options.make {
            Make::Qemu => true,
            Make::Firecracker => self.status_has(status::DRIVER, status::FAILED | status::DEVICE_NEEDS_RESET),
        }
    }
}
