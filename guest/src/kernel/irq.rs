//! Interrupts: a handler per vector. Linux: arch/x86/kernel/irq.c, reduced to edges of fixed vectors.

use wire::debug;
use wire::platform::{LAPIC, lapic};

use crate::arch;
use crate::kernel::data;

/// Vectors that the interrupt table holds.
pub const NR_VECTORS: u64 = 64;

/// Sets the function that runs, with interrupts disabled and the vector as its argument, when `vector` comes. Linux: request_irq().
pub fn register_handler(vector: u8, handler: fn(u64)) {
    assert!((0x20..NR_VECTORS).contains(&u64::from(vector)), "no vector {vector:#x}");
    arch::write64(data::IRQ_HANDLERS + u64::from(vector) * 8, handler as usize as u64);
}

/// Forgets the function. Linux: free_irq().
pub fn unregister_handler(vector: u8) {
    assert!((0x20..NR_VECTORS).contains(&u64::from(vector)), "no vector {vector:#x}");
    arch::write64(data::IRQ_HANDLERS + u64::from(vector) * 8, 0);
}

/// Where every interrupt's stub leads. Linux: common_interrupt().
pub(crate) extern "C" fn irq_entry(vector: u64) {
    assert!(vector < NR_VECTORS, "stray vector {vector:#x}");
    arch::trace(debug::IRQ, vector, 0);
    let handler = arch::read64(data::IRQ_HANDLERS + vector * 8);
    if handler != 0 {
        arch::call1(handler, vector);
    }
    arch::mmio_write32(LAPIC + lapic::EOI, 0);
}

/// Runs `vector`'s handler as an interrupt would, for tests that play a device.
#[cfg(not(image))]
pub fn raise_for_test(vector: u8) {
    let flags = arch::irq_save();
    irq_entry(u64::from(vector));
    arch::irq_restore(flags);
}
