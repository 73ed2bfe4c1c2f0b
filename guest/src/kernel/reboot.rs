//! The end of this kernel: the machine starts anew. Linux: kernel/reboot.c, arch/x86/kernel/reboot.c.
//!
//! Memory keeps what it holds, and nobody frees anything: what the balloon has, and what was hinted, is the next kernel's. Differs: other vCPUs are not
//! stopped first (native_machine_shutdown()), they go on until the machine stops them.

use wire::debug::RESTART;
use wire::platform::RESET;

use crate::arch;
use crate::balloon::dialect;
use crate::virtio::bus;

/// Shuts the device down, then restarts. Linux: kernel_restart().
pub fn kernel_restart() -> ! {
    // Without a driver that knows how there is nothing to shut down.
    let _ = bus::shutdown(dialect::driver());
    emergency_restart()
}

/// Restarts at once. Linux: emergency_restart(), as by `reboot -f -f` or sysrq-b.
pub fn emergency_restart() -> ! {
    arch::trace(RESTART, 0, 0);
    arch::mmio_write32(RESET, 6);
    arch::halt_forever()
}
