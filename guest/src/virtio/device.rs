//! The virtio core: a device with its features, its status, and when its driver hears of configuration changes.
//! Linux: drivers/virtio/virtio.c.

use wire::debug::lock;
use wire::virtio::{feature, status};

use crate::arch;
use crate::kernel::data::DRIVER_DATA;
use crate::kernel::lock::SpinLock;
use crate::kernel::panic::warn_on;
use crate::kernel::switch::{fault, faulty};
use crate::virtio::field::record;
use crate::virtio::{Errno, mmio};

/// Most queues of a device.
pub const VQS_MAX: usize = 8;

record! {
    /// `struct virtio_device`, and the transport's `struct virtio_mmio_device` with it.
    pub struct VirtioDevice {
        /// Negotiated features.
        features: u64,
        /// The driver's structure.
        private: u64,
        /// The driver's function for configuration changes.
        config_changed: u64,
        /// Guards the two flags below. Linux: config_lock.
        config_lock: u64,
        /// 1 while configuration changes reach the driver.
        config_core_enabled: u32,
        /// 1 when a change came while they did not.
        config_change_pending: u32,
        /// Guards `vqs`. Linux: virtio_mmio_device.lock.
        vqs_lock: u64,
        /// Addresses of the queues by index, 0 for none.
        vqs: [u64; VQS_MAX],
    }
}

const _: () = assert!(VirtioDevice::BYTES <= 256);

/// What a driver does when the system sleeps, wakes and goes down. Linux: freeze, restore and shutdown of struct virtio_driver.
#[derive(Debug, Clone, Copy)]
pub struct PowerOps {
    /// Takes the device down before the system sleeps; resets it.
    pub freeze: fn(VirtioDevice),
    /// Sets it up again behind that.
    pub restore: fn(VirtioDevice) -> Result<(), Errno>,
    /// Stops using the device, which is about to be broken and reset for good.
    pub shutdown: fn(VirtioDevice),
}

/// `struct virtio_driver`.
#[derive(Debug)]
pub struct VirtioDriver {
    /// Feature bits that the driver knows.
    pub feature_table: u64,
    /// Clears features that do not fit together.
    pub validate: fn(VirtioDevice),
    /// Sets the driver up.
    pub probe: fn(VirtioDevice) -> Result<(), Errno>,
    /// Tears the driver down; resets the device.
    pub remove: fn(VirtioDevice),
    /// What the driver does when the system sleeps or goes down; `None`: it cannot.
    pub power: Option<PowerOps>,
    /// Hears of a configuration change, in the interrupt, with the device's address.
    pub config_changed: fn(u64),
}

/// Features that the core and the transport take by themselves. Linux: vring_transport_features(), VIRTIO_TRANSPORT_F_START..END. Differs:
/// EVENT_IDX is missing, see [`crate::virtio::ring`].
const TRANSPORT_FEATURES: u64 = feature::RING_INDIRECT_DESC | feature::VERSION_1 | feature::ACCESS_PLATFORM;

impl VirtioDevice {
    /// The machine's device.
    pub fn the() -> VirtioDevice {
        VirtioDevice::at(DRIVER_DATA)
    }

    /// Whether a feature was negotiated. Linux: virtio_has_feature().
    pub fn has_feature(self, bit: u64) -> bool {
        self.features().get() & bit != 0
    }

    /// Gives a feature up. Linux: __virtio_clear_bit().
    pub fn clear_feature(self, bit: u64) {
        self.features().set(self.features().get() & !bit);
    }

    fn config_spinlock(self) -> SpinLock {
        SpinLock::at(self.config_lock().addr(), lock::CONFIG)
    }

    /// Tells the driver of a change, or keeps it for later. Linux: __virtio_config_changed().
    fn config_changed_locked(self) {
        if self.config_core_enabled().get() == 0 {
            // Whoever enables changes again replays this one; without that mark nobody would ever look.
            if !faulty(fault::CONFIG_PENDING_LOST) {
                self.config_change_pending().set(1);
            }
        } else {
            arch::call1(self.config_changed().get(), self.addr());
            self.config_change_pending().set(0);
        }
    }
}

/// The configuration has changed. Linux: virtio_config_changed().
pub fn virtio_config_changed(vdev: VirtioDevice) {
    let flags = vdev.config_spinlock().lock_irqsave();
    vdev.config_changed_locked();
    vdev.config_spinlock().unlock_irqrestore(flags);
}

/// Holds configuration changes back. Linux: virtio_config_core_disable().
fn virtio_config_core_disable(vdev: VirtioDevice) {
    vdev.config_spinlock().lock_irq();
    vdev.config_core_enabled().set(0);
    vdev.config_spinlock().unlock_irq();
}

/// Lets configuration changes through, the one that was held back first. Linux: virtio_config_core_enable().
fn virtio_config_core_enable(vdev: VirtioDevice) {
    vdev.config_spinlock().lock_irq();
    vdev.config_core_enabled().set(1);
    if vdev.config_change_pending().get() != 0 {
        vdev.config_changed_locked();
    }
    vdev.config_spinlock().unlock_irq();
}

/// Adds a status bit. Linux: virtio_add_status().
fn virtio_add_status(bit: u32) {
    mmio::set_status(mmio::get_status() | bit);
}

/// Tells the device that the driver is ready. Linux: virtio_device_ready().
pub fn virtio_device_ready() {
    let status = mmio::get_status();
    warn_on(status & status::DRIVER_OK != 0, "virtio_device_ready: DRIVER_OK twice");
    mmio::set_status(status | status::DRIVER_OK);
}

/// Resets a new device and acknowledges it. Linux: register_virtio_device().
pub fn register_virtio_device() -> VirtioDevice {
    let vdev = VirtioDevice::the();
    arch::fill(vdev.addr(), 0, VirtioDevice::BYTES);
    vdev.config_spinlock().init();
    mmio::reset();
    virtio_add_status(status::ACKNOWLEDGE);
    vdev
}

/// Fixes the features. Linux: virtio_features_ok().
fn virtio_features_ok() -> Result<(), Errno> {
    virtio_add_status(status::FEATURES_OK);
    // The device answers by keeping the bit or not.
    if mmio::get_status() & status::FEATURES_OK == 0 { Err(Errno::NoDev) } else { Ok(()) }
}

/// Negotiates and probes; on failure the device is left FAILED. Linux: virtio_dev_probe().
pub fn virtio_dev_probe(vdev: VirtioDevice, driver: &VirtioDriver, refused: u64) -> Result<(), Errno> {
    let result = negotiate_and_probe(vdev, driver, refused);
    if result.is_err() {
        virtio_add_status(status::FAILED);
    }
    result
}

fn negotiate_and_probe(vdev: VirtioDevice, driver: &VirtioDriver, refused: u64) -> Result<(), Errno> {
    virtio_add_status(status::DRIVER);
    let device_features = mmio::get_features();
    let accepted = device_features & (driver.feature_table & !refused | TRANSPORT_FEATURES);
    vdev.features().set(accepted);
    // The driver's validate() already sees a device that knows VERSION_1; what it clears is written once more.
    mmio::finalize_features(accepted)?;
    (driver.validate)(vdev);
    if vdev.features().get() != accepted {
        mmio::finalize_features(vdev.features().get())?;
    }
    virtio_features_ok()?;
    vdev.config_changed().set(driver.config_changed as usize as u64);
    (driver.probe)(vdev)?;
    if mmio::get_status() & status::DRIVER_OK == 0 {
        virtio_device_ready();
    }
    virtio_config_core_enable(vdev);
    Ok(())
}

/// Unbinds the driver; the device stays acknowledged. Linux: virtio_dev_remove().
pub fn virtio_dev_remove(vdev: VirtioDevice, driver: &VirtioDriver) {
    virtio_config_core_disable(vdev);
    (driver.remove)(vdev);
    warn_on(mmio::get_status() != 0, "virtio_dev_remove: the driver did not reset the device");
    virtio_add_status(status::ACKNOWLEDGE);
}

/// Takes the device down before the system sleeps. Linux: virtio_device_freeze().
pub fn virtio_device_freeze(vdev: VirtioDevice, driver: &PowerOps) {
    virtio_config_core_disable(vdev);
    (driver.freeze)(vdev);
}

/// Sets it up again. Linux: virtio_device_restore(). Differs: a device that had failed is not told so again.
pub fn virtio_device_restore(vdev: VirtioDevice, driver: &PowerOps) -> Result<(), Errno> {
    mmio::reset();
    virtio_add_status(status::ACKNOWLEDGE);
    virtio_add_status(status::DRIVER);
    let result = restore_driver(vdev, driver);
    if result.is_err() {
        virtio_add_status(status::FAILED);
    }
    result
}

fn restore_driver(vdev: VirtioDevice, driver: &PowerOps) -> Result<(), Errno> {
    mmio::finalize_features(vdev.features().get())?;
    virtio_features_ok()?;
    (driver.restore)(vdev)?;
    if mmio::get_status() & status::DRIVER_OK == 0 {
        virtio_device_ready();
    }
    virtio_config_core_enable(vdev);
    Ok(())
}

/// The machine goes down: nothing more goes through the device's queues, then it is reset. Linux: virtio_dev_shutdown(), since 6.12.
pub fn virtio_dev_shutdown(vdev: VirtioDevice, driver: &PowerOps) {
    (driver.shutdown)(vdev);
    mmio::vm_break_device(vdev);
    mmio::reset();
}
