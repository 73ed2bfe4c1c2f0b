//! The virtio-mmio transport, version 2 (VIRTIO 1.2 §4.2), as Linux drives it: drivers/virtio/virtio_mmio.c.
//!
//! The interrupt is acknowledged before it is processed; the specification has it the other way round.

use wire::debug::lock;
use wire::platform::{VIRTIO_MMIO, vector};
use wire::virtio::mmio as reg;
use wire::virtio::{feature, isr};

use crate::arch;
use crate::kernel::irq;
use crate::kernel::lock::SpinLock;
use crate::kernel::panic::warn_on;
use crate::kernel::switch::{self, fault, faulty};
use crate::virtio::Errno;
use crate::virtio::device::{self, VQS_MAX, VirtioDevice};
use crate::virtio::ring::Virtqueue;

/// A queue that a driver wants. Linux: struct virtqueue_info.
#[derive(Debug, Clone, Copy)]
pub struct VirtqueueInfo {
    /// Called from the interrupt with the queue's address; without it the queue asks for no interrupts.
    pub callback: Option<fn(u64)>,
}

/// Loads a control register: always 32 bits (VIRTIO 1.2 §4.2.2.2).
fn read(register: u64) -> u32 {
    arch::mmio_read32(VIRTIO_MMIO + register)
}

/// Stores a control register.
fn write(register: u64, value: u32) {
    arch::mmio_write32(VIRTIO_MMIO + register, value);
}

/// Stores a 64-bit address in two registers.
fn write_address(low: u64, high: u64, addr: u64) {
    write(low, addr as u32);
    write(high, (addr >> 32) as u32);
}

/// Tells the device of new buffers. Linux: vm_notify().
pub(crate) fn notify(queue: u32) {
    write(reg::QUEUE_NOTIFY, queue);
}

/// Loads the device status. Linux: vm_get_status().
pub fn get_status() -> u32 {
    read(reg::STATUS) & 0xff
}

/// Stores the device status. Linux: vm_set_status().
pub fn set_status(status: u32) {
    assert!(status != 0, "a status of 0 is a reset");
    write(reg::STATUS, status);
}

/// Resets the device. Linux: vm_reset().
pub fn reset() {
    write(reg::STATUS, 0);
}

/// Loads the features that the device offers, high word first. Linux: vm_get_features().
pub fn get_features() -> u64 {
    write(reg::DEVICE_FEATURES_SEL, 1);
    let high = u64::from(read(reg::DEVICE_FEATURES));
    write(reg::DEVICE_FEATURES_SEL, 0);
    high << 32 | u64::from(read(reg::DEVICE_FEATURES))
}

/// Stores the features that the driver accepts. Linux: vm_finalize_features().
pub fn finalize_features(features: u64) -> Result<(), Errno> {
    if features & feature::VERSION_1 == 0 {
        return Err(Errno::Inval);
    }
    write(reg::DRIVER_FEATURES_SEL, 1);
    write(reg::DRIVER_FEATURES, (features >> 32) as u32);
    write(reg::DRIVER_FEATURES_SEL, 0);
    write(reg::DRIVER_FEATURES, features as u32);
    Ok(())
}

/// Loads a 32-bit field of the configuration space. Linux: vm_get() for 4 bytes. The balloon has no wider field, so the generation
/// counter, which guards a value that takes two loads, is never asked for.
pub fn config_read32(offset: u64) -> u32 {
    read(reg::CONFIG + offset)
}

/// Stores a 32-bit field of the configuration space, in one access. Linux: vm_set() for 4 bytes.
pub fn config_write32(offset: u64, value: u32) {
    write(reg::CONFIG + offset, value);
}

/// Looks for a device of type `device_id` behind the registers. Linux: virtio_mmio_probe().
pub fn virtio_mmio_probe(device_id: u32) -> Result<VirtioDevice, Errno> {
    if read(reg::MAGIC_VALUE) != reg::MAGIC {
        return Err(Errno::NoDev);
    }
    if read(reg::VERSION) != reg::VERSION_2 {
        return Err(Errno::NxIo);
    }
    // 0 is a placeholder: no device, and nothing to complain about.
    if read(reg::DEVICE_ID) != device_id {
        return Err(Errno::NoDev);
    }
    let vdev = device::register_virtio_device();
    vqs_spinlock(vdev).init();
    Ok(vdev)
}

fn vqs_spinlock(vdev: VirtioDevice) -> SpinLock {
    SpinLock::at(vdev.vqs_lock().addr(), lock::VQ)
}

/// The device's interrupt. Linux: vm_interrupt().
fn vm_interrupt(_vector: u64) {
    let vdev = VirtioDevice::the();
    let status = read(reg::INTERRUPT_STATUS);
    write(reg::INTERRUPT_ACK, status);
    if status & isr::CONFIG_CHANGE != 0 {
        device::virtio_config_changed(vdev);
    }
    if status & isr::USED_BUFFER != 0 {
        let flags = vqs_spinlock(vdev).lock_irqsave();
        for index in 0..VQS_MAX {
            let vq = vdev.vqs().element(index).get();
            if vq != 0 {
                Virtqueue::at(vq).interrupt();
            }
        }
        vqs_spinlock(vdev).unlock_irqrestore(flags);
    }
}

/// Sets up one queue at index `index`. Linux: vm_setup_vq().
fn vm_setup_vq(vdev: VirtioDevice, index: u32, info: &VirtqueueInfo) -> Result<Virtqueue, Errno> {
    write(reg::QUEUE_SEL, index);
    if read(reg::QUEUE_READY) != 0 {
        return Err(Errno::NoEnt);
    }
    let num = read(reg::QUEUE_SIZE_MAX);
    if num == 0 {
        return Err(Errno::NoEnt);
    }
    let callback = info.callback.map_or(0, |callback| callback as usize as u64);
    let vq = Virtqueue::create(index, num, vdev.addr(), callback)?;
    write(reg::QUEUE_SIZE, vq.num().get());
    write_address(reg::QUEUE_DESC_LOW, reg::QUEUE_DESC_HIGH, vq.desc().get());
    write_address(reg::QUEUE_DRIVER_LOW, reg::QUEUE_DRIVER_HIGH, vq.avail().get());
    write_address(reg::QUEUE_DEVICE_LOW, reg::QUEUE_DEVICE_HIGH, vq.used().get());
    write(reg::QUEUE_READY, 1);
    let flags = vqs_spinlock(vdev).lock_irqsave();
    vdev.vqs().element(index as usize).set(vq.addr());
    vqs_spinlock(vdev).unlock_irqrestore(flags);
    Ok(vq)
}

/// Sets up the queues that are wanted, numbered without gaps: an absent one takes no index. Linux: vm_find_vqs(). With `spec_queues` each
/// stands at its place in `infos`, as VIRTIO 1.2 §5.5.2 numbers them.
pub fn vm_find_vqs<const N: usize>(vdev: VirtioDevice, infos: &[Option<VirtqueueInfo>; N]) -> Result<[Option<Virtqueue>; N], Errno> {
    const { assert!(N <= VQS_MAX) };
    irq::register_handler(vector::VIRTIO, vm_interrupt);
    let mut vqs = [None; N];
    let mut queue_idx = 0;
    let nameless = VirtqueueInfo { callback: None };
    // Differs: an absent queue behind the last one is none, for the driver of that time had none that another did not follow.
    let nvqs = if faulty(fault::NULL_VQ_NAME) { infos.iter().rposition(Option::is_some).map_or(0, |last| last + 1) } else { 0 };
    for (i, (vq, info)) in vqs.iter_mut().zip(infos).enumerate() {
        let is_absent = info.is_none();
        let Some(info) = info.as_ref().or((i < nvqs).then_some(&nameless)) else {
            queue_idx += u32::from(switch::spec_queues());
            continue;
        };
        match vm_setup_vq(vdev, queue_idx, info) {
            // One without a name was nobody's, and took an index all the same.
            Ok(found) => *vq = (!is_absent).then_some(found),
            Err(errno) => {
                vm_del_vqs(vdev);
                return Err(errno);
            }
        }
        queue_idx += 1;
    }
    Ok(vqs)
}

/// Marks all queues as broken: nothing more is added to them or collected from them. Linux: virtio_break_device().
pub fn vm_break_device(vdev: VirtioDevice) {
    let flags = vqs_spinlock(vdev).lock_irqsave();
    for index in 0..VQS_MAX {
        let vq = vdev.vqs().element(index).get();
        if vq != 0 {
            Virtqueue::at(vq).broken().set(1);
        }
    }
    vqs_spinlock(vdev).unlock_irqrestore(flags);
}

/// Takes all queues away from the device and frees them. Linux: vm_del_vqs().
pub fn vm_del_vqs(vdev: VirtioDevice) {
    for index in 0..VQS_MAX {
        let vq = vdev.vqs().element(index).get();
        if vq != 0 {
            vm_del_vq(vdev, index as u32, Virtqueue::at(vq));
        }
    }
    // A handler that still runs on another vCPU finds no queue under the lock, and the device's structure has a fixed place.
    irq::unregister_handler(vector::VIRTIO);
}

/// Linux: vm_del_vq(), which looks once whether the device let go, and warns.
fn vm_del_vq(vdev: VirtioDevice, index: u32, vq: Virtqueue) {
    let flags = vqs_spinlock(vdev).lock_irqsave();
    vdev.vqs().element(index as usize).set(0);
    vqs_spinlock(vdev).unlock_irqrestore(flags);
    write(reg::QUEUE_SEL, index);
    write(reg::QUEUE_READY, 0);
    warn_on(read(reg::QUEUE_READY) != 0, "vm_del_vq: the queue is still ready");
    vq.delete();
}
