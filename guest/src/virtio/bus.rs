//! The bus: one device, one driver, bound or not. Linux: drivers/base/bus.c bind_store(), unbind_store(), drivers/base/dd.c.

use crate::arch;
use crate::kernel::data::DRIVER_DATA;
use crate::virtio::device::{self, VirtioDevice, VirtioDriver};
use crate::virtio::{Errno, mmio};

/// Where the state word lies: behind `struct virtio_device`.
const STATE: u64 = DRIVER_DATA + 0x200;
const _: () = assert!(VirtioDevice::BYTES <= 0x200);

/// No device was found.
const ABSENT: u64 = 0;
/// A device without a driver.
const UNBOUND: u64 = 1;
/// Probe or remove runs. Linux holds the device's lock then; nobody here would wait for it.
const BUSY: u64 = 2;
/// A driver drives the device.
const BOUND: u64 = 3;

/// Looks for the device and probes its driver. Linux: platform_driver_probe() of virtio_mmio, then the virtio bus's match.
pub fn device_attach(device_id: u32, driver: &VirtioDriver, refused: u64) -> Result<(), Errno> {
    device_found(device_id)?;
    bind(driver, refused)
}

/// Registers the device alone; a driver may be bound to it later.
pub fn device_found(device_id: u32) -> Result<(), Errno> {
    assert!(arch::read64(STATE) == ABSENT, "the device was found before");
    mmio::virtio_mmio_probe(device_id)?;
    arch::xchg64(STATE, UNBOUND);
    Ok(())
}

/// Probes the driver of an unbound device. Linux: bind_store().
pub fn bind(driver: &VirtioDriver, refused: u64) -> Result<(), Errno> {
    if arch::cmpxchg64(STATE, UNBOUND, BUSY) != UNBOUND {
        return Err(Errno::NoDev);
    }
    let probed = device::virtio_dev_probe(VirtioDevice::the(), driver, refused);
    arch::xchg64(STATE, if probed.is_ok() { BOUND } else { UNBOUND });
    probed
}

/// Removes the driver of a bound device. Linux: unbind_store().
pub fn unbind(driver: &VirtioDriver) -> Result<(), Errno> {
    if arch::cmpxchg64(STATE, BOUND, BUSY) != BOUND {
        return Err(Errno::NoDev);
    }
    device::virtio_dev_remove(VirtioDevice::the(), driver);
    arch::xchg64(STATE, UNBOUND);
    Ok(())
}
