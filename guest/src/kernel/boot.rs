//! From the first instruction to the idle loop. Linux: init/main.c start_kernel(), arch/x86/kernel/smpboot.c.

use core::mem::offset_of;

use wire::platform::{BOOT_INFO, BootInfo, MAX_VCPUS};

use crate::kernel::{info, sched, workqueue};
use crate::{arch, mm};

/// Reads what the VMM left for the guest.
pub fn boot_info() -> BootInfo {
    BootInfo {
        magic: arch::read64(BOOT_INFO + offset_of!(BootInfo, magic) as u64),
        ram_bytes: arch::read64(BOOT_INFO + offset_of!(BootInfo, ram_bytes) as u64),
        vcpus: arch::read32(BOOT_INFO + offset_of!(BootInfo, vcpus) as u64),
        dialect: arch::read32(BOOT_INFO + offset_of!(BootInfo, dialect) as u64),
        features_refused: arch::read64(BOOT_INFO + offset_of!(BootInfo, features_refused) as u64),
        flags: arch::read64(BOOT_INFO + offset_of!(BootInfo, flags) as u64),
        corrected: arch::read64(BOOT_INFO + offset_of!(BootInfo, corrected) as u64),
        faults: arch::read64(BOOT_INFO + offset_of!(BootInfo, faults) as u64),
        hint_array: arch::read64(BOOT_INFO + offset_of!(BootInfo, hint_array) as u64),
    }
}

/// Sets up what all vCPUs share. Linux: start_kernel().
fn init_shared(boot: &BootInfo) {
    assert!(boot.magic == BootInfo::MAGIC, "no boot information");
    assert!((1..=MAX_VCPUS as u32).contains(&boot.vcpus), "{} vCPUs", boot.vcpus);
    sched::init(u64::from(boot.vcpus));
    mm::init(boot);
    workqueue::init();
    info::publish_magic();
}

/// Where each vCPU enters, on its boot stack with interrupts disabled.
#[cfg(image)]
pub(crate) extern "C" fn kernel_main(cpu: u64) -> ! {
    sched::init_cpu(cpu);
    arch::init_cpu_tables(cpu);
    if cpu == 0 {
        let boot = boot_info();
        init_shared(&boot);
        // From here on this is an ordinary context, which may allocate memory for threads.
        arch::irq_enable();
        workqueue::start_workers();
        sched::kthread_run(0, |_| crate::workload::start(), 0);
        arch::xchg64(crate::kernel::data::BOOTED, 1);
        for other in 1..u64::from(boot.vcpus) {
            sched::send_ipi(other, wire::platform::vector::RESCHEDULE);
        }
    } else {
        // The others halt until vCPU 0 has everything ready; the interrupt that says so may come before they halt.
        while arch::read64(crate::kernel::data::BOOTED) == 0 {
            arch::enable_and_halt();
            arch::irq_disable();
        }
    }
    arch::irq_enable();
    sched::idle_loop()
}

/// Boots a unit test's memory: everything but threads and the workload. `BootInfo` as given by size and vCPUs, no flags.
#[cfg(not(image))]
pub fn init_for_test(ram_bytes: u64, vcpus: u32) {
    init_for_test_with(&test_boot_info(ram_bytes, vcpus));
}

/// Boot information without flags, switches and refusals, for the merged driver.
#[cfg(not(image))]
pub fn test_boot_info(ram_bytes: u64, vcpus: u32) -> BootInfo {
    BootInfo {
        magic: BootInfo::MAGIC,
        ram_bytes,
        vcpus,
        dialect: 0,
        features_refused: 0,
        flags: 0,
        corrected: 0,
        faults: 0,
        hint_array: 512,
    }
}

/// Boots a unit test's memory with the given boot information.
#[cfg(not(image))]
pub fn init_for_test_with(boot: &BootInfo) {
    arch::reset(boot.ram_bytes);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, magic) as u64, boot.magic);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, ram_bytes) as u64, boot.ram_bytes);
    arch::write32(BOOT_INFO + offset_of!(BootInfo, vcpus) as u64, boot.vcpus);
    arch::write32(BOOT_INFO + offset_of!(BootInfo, dialect) as u64, boot.dialect);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, features_refused) as u64, boot.features_refused);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, flags) as u64, boot.flags);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, corrected) as u64, boot.corrected);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, faults) as u64, boot.faults);
    arch::write64(BOOT_INFO + offset_of!(BootInfo, hint_array) as u64, boot.hint_array);
    for cpu in (0..u64::from(boot.vcpus)).rev() {
        arch::set_cpu(cpu);
        sched::init_cpu(cpu);
    }
    init_shared(&boot_info());
    arch::take_traces();
}
