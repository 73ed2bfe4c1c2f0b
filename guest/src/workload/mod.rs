//! What the guest does besides running: nothing but its kernel threads yet.

/// Called by vCPU 0's first thread once memory, interrupts and the other vCPUs are up.
pub fn start() {
    assert!(crate::arch::irqs_enabled(), "the first thread runs with interrupts enabled");
}
