//! What of this kernel is switched: corrections of posted interfaces, bugs that Linux once had, and which interface the balloon speaks.
//!
//! Read where the decision falls, from what the VMM left at boot: so a switch is one `if` at the line that it is about.

use core::mem::offset_of;

use wire::dialect::Dialect;
use wire::platform::{BOOT_INFO, BootInfo};
pub use wire::switch::{correct, fault};

use crate::arch;

/// Whether a flaw of a posted interface is corrected, a bit of `wire::switch::correct`.
pub fn corrected(bit: u64) -> bool {
    arch::read64(BOOT_INFO + offset_of!(BootInfo, corrected) as u64) & bit != 0
}

/// Whether a bug is switched on, a bit of `wire::switch::fault`.
pub fn faulty(bit: u64) -> bool {
    arch::read64(BOOT_INFO + offset_of!(BootInfo, faults) as u64) & bit != 0
}

/// Which interface the balloon driver speaks.
pub fn dialect() -> Dialect {
    let number = arch::read32(BOOT_INFO + offset_of!(BootInfo, dialect) as u64);
    Dialect::from_number(number).expect("a dialect that this kernel knows")
}

/// Whether the driver does something that Linux's does not, a bit of `wire::platform::boot_flag`.
pub fn mannered(bit: u64) -> bool {
    arch::read64(BOOT_INFO + offset_of!(BootInfo, flags) as u64) & bit != 0
}

/// Whether the driver numbers its queues as the specification does.
pub fn spec_queues() -> bool {
    mannered(wire::platform::boot_flag::SPEC_QUEUES)
}
