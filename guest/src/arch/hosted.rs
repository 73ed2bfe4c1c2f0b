//! The machine for unit tests: one memory per thread of the test runner, one vCPU at a time, devices and waiting by callback.
//!
//! A test calls [`reset`] first. Where the image would wait (a thread sleeps until an interrupt), [`wait_for_event`] runs the
//! test's hook, which plays the device; without a hook waiting is a failed test, because nothing could ever end it.

use core::cell::{Cell, RefCell};
use std::vec::Vec;

use super::STACK_BYTES;
use crate::kernel::data;

/// A tracepoint that was said: code and arguments.
pub type Trace = (u32, u64, u64);
type Hook = std::boxed::Box<dyn FnMut()>;
type Mmio = std::boxed::Box<dyn FnMut(MmioAccess) -> u32>;

/// An access outside memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmioAccess {
    /// A load of so many bytes.
    Read {
        /// Address.
        addr: u64,
        /// Width, bytes.
        bytes: u32,
    },
    /// A store.
    Write {
        /// Address.
        addr: u64,
        /// Width, bytes.
        bytes: u32,
        /// What is stored.
        value: u32,
    },
}

thread_local! {
    static RAM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static CPU: Cell<u64> = const { Cell::new(0) };
    static IRQS_ENABLED: Cell<bool> = const { Cell::new(true) };
    static TRACES: RefCell<Vec<Trace>> = const { RefCell::new(Vec::new()) };
    static WAIT_HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static MMIO_HOOK: RefCell<Option<Mmio>> = const { RefCell::new(None) };
}

/// Gives this thread an empty memory of `ram_bytes` bytes and forgets traces and hooks.
pub fn reset(ram_bytes: u64) {
    RAM.with_borrow_mut(|ram| {
        ram.clear();
        ram.resize(ram_bytes as usize, 0);
    });
    CPU.set(0);
    IRQS_ENABLED.set(true);
    TRACES.with_borrow_mut(Vec::clear);
    WAIT_HOOK.set(None);
    MMIO_HOOK.set(None);
}

/// Gives this thread a memory with these contents, such as a machine's: what the kernel keeps lies where the image keeps it, but for code. Forgets
/// traces and hooks.
pub fn load_memory(contents: &[u8]) {
    reset(contents.len() as u64);
    RAM.with_borrow_mut(|ram| ram.copy_from_slice(contents));
}

/// Returns what this thread's memory holds.
pub fn memory() -> Vec<u8> {
    RAM.with_borrow(Vec::clone)
}

/// Which vCPU the following calls run on.
pub fn set_cpu(cpu: u64) {
    assert!(cpu < wire::platform::MAX_VCPUS as u64, "no vCPU {cpu}");
    CPU.set(cpu);
}

/// What runs where the image would wait for an interrupt.
pub fn set_wait_hook(hook: impl FnMut() + 'static) {
    WAIT_HOOK.set(Some(std::boxed::Box::new(hook)));
}

/// Who answers accesses outside memory; without it loads are 0 and stores are lost.
pub fn set_mmio_hook(hook: impl FnMut(MmioAccess) -> u32 + 'static) {
    MMIO_HOOK.set(Some(std::boxed::Box::new(hook)));
}

/// Takes the tracepoints said since the last call.
pub fn take_traces() -> Vec<Trace> {
    TRACES.take()
}

/// Stands for `hlt`: runs the hook once.
pub fn wait_for_event() {
    let mut hook = WAIT_HOOK.take().expect("the code under test waits, and nothing can end it");
    hook();
    WAIT_HOOK.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(hook);
        }
    });
}

fn load<const N: usize>(addr: u64) -> [u8; N] {
    assert!(addr >= wire::platform::PAGE_SIZE, "load from page 0: {addr:#x}");
    RAM.with_borrow(|ram| {
        let at = addr as usize;
        let Some(bytes) = ram.get(at..at + N) else { panic!("load from {addr:#x}, outside memory") };
        let mut out = [0; N];
        out.copy_from_slice(bytes);
        out
    })
}

fn store(addr: u64, bytes: &[u8]) {
    assert!(addr >= wire::platform::PAGE_SIZE, "store to page 0: {addr:#x}");
    RAM.with_borrow_mut(|ram| {
        let at = addr as usize;
        let Some(to) = ram.get_mut(at..at + bytes.len()) else { panic!("store to {addr:#x}, outside memory") };
        to.copy_from_slice(bytes);
    });
}

macro_rules! access {
    ($($(#[$doc:meta])* $read:ident $write:ident $ty:ty;)*) => {$(
        $(#[$doc])*
        pub fn $read(addr: u64) -> $ty {
            <$ty>::from_le_bytes(load(addr))
        }
        /// Stores at an address.
        pub fn $write(addr: u64, value: $ty) {
            store(addr, &value.to_le_bytes());
        }
    )*};
}
access! {
    /// Loads a byte.
    read8 write8 u8;
    /// Loads 16 bits.
    read16 write16 u16;
    /// Loads 32 bits.
    read32 write32 u32;
    /// Loads 64 bits.
    read64 write64 u64;
}

fn mmio(access: MmioAccess) -> u32 {
    let Some(mut hook) = MMIO_HOOK.take() else { return 0 };
    let value = hook(access);
    MMIO_HOOK.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(hook);
        }
    });
    value
}

macro_rules! mmio_access {
    ($($(#[$doc:meta])* $read:ident $write:ident $ty:ty;)*) => {$(
        $(#[$doc])*
        pub fn $read(addr: u64) -> $ty {
            mmio(MmioAccess::Read { addr, bytes: size_of::<$ty>() as u32 }) as $ty
        }
        /// Stores to a device.
        pub fn $write(addr: u64, value: $ty) {
            mmio(MmioAccess::Write { addr, bytes: size_of::<$ty>() as u32, value: u32::from(value) });
        }
    )*};
}
mmio_access! {
    /// Loads a byte from a device.
    mmio_read8 mmio_write8 u8;
    /// Loads 16 bits from a device.
    mmio_read16 mmio_write16 u16;
    /// Loads 32 bits from a device.
    mmio_read32 mmio_write32 u32;
}

/// Stores `byte` to `bytes` bytes at `addr`.
pub fn fill(addr: u64, byte: u8, bytes: u64) {
    store(addr, &std::vec![byte; bytes as usize]);
}

/// Copies `bytes` bytes; the ranges do not overlap.
pub fn copy(to: u64, from: u64, bytes: u64) {
    let data = RAM.with_borrow(|ram| ram[from as usize..(from + bytes) as usize].to_vec());
    store(to, &data);
}

/// Exchanges atomically; returns the old value.
pub fn xchg32(addr: u64, value: u32) -> u32 {
    let old = read32(addr);
    write32(addr, value);
    old
}
/// Compares and exchanges atomically; returns the value found, `old` when it took place.
pub fn cmpxchg32(addr: u64, old: u32, new: u32) -> u32 {
    let found = read32(addr);
    if found == old {
        write32(addr, new);
    }
    found
}
/// Adds atomically, wrapping; returns the old value.
pub fn fetch_add32(addr: u64, value: u32) -> u32 {
    xchg32(addr, read32(addr).wrapping_add(value))
}
/// Exchanges atomically; returns the old value.
pub fn xchg64(addr: u64, value: u64) -> u64 {
    let old = read64(addr);
    write64(addr, value);
    old
}
/// Compares and exchanges atomically; returns the value found, `old` when it took place.
pub fn cmpxchg64(addr: u64, old: u64, new: u64) -> u64 {
    let found = read64(addr);
    if found == old {
        write64(addr, new);
    }
    found
}
/// Adds atomically, wrapping; returns the old value.
pub fn fetch_add64(addr: u64, value: u64) -> u64 {
    xchg64(addr, read64(addr).wrapping_add(value))
}
/// Sets bits atomically; returns the old value. Linux: test_and_set_bit().
pub fn fetch_or64(addr: u64, bits: u64) -> u64 {
    xchg64(addr, read64(addr) | bits)
}
/// Keeps only the given bits, atomically; returns the old value. Linux: test_and_clear_bit().
pub fn fetch_and64(addr: u64, bits: u64) -> u64 {
    xchg64(addr, read64(addr) & bits)
}
/// Orders every access before it before every access behind it. Linux: mb().
pub fn barrier() {}
/// Orders stores. Linux: virtio_wmb().
pub fn write_barrier() {}
/// Orders loads. Linux: virtio_rmb().
pub fn read_barrier() {}

/// Records a tracepoint: `wire::debug`.
pub fn trace(code: u32, a: u64, b: u64) {
    TRACES.with_borrow_mut(|traces| traces.push((code, a, b)));
}

/// Entry of the stub that runs an injected store; natively there is none.
pub fn inject_store_entry() -> u64 {
    0
}

/// Stores 8 bytes wherever that is; natively a wild store is a panic.
pub fn wild_store64(addr: u64, value: u64) {
    write64(addr, value);
}

/// Jumps to an address; natively a panic.
pub fn wild_jump(addr: u64) -> ! {
    panic!("jump to {addr:#x}")
}

/// Saves the interrupt flag and disables interrupts.
pub fn irq_save() -> u64 {
    u64::from(IRQS_ENABLED.replace(false))
}
/// Puts the interrupt flag back to what [`irq_save`] returned.
pub fn irq_restore(flags: u64) {
    IRQS_ENABLED.set(IRQS_ENABLED.get() || flags != 0);
}
/// Enables interrupts.
pub fn irq_enable() {
    IRQS_ENABLED.set(true);
}
/// Disables interrupts.
pub fn irq_disable() {
    IRQS_ENABLED.set(false);
}
/// Whether interrupts are enabled.
pub fn irqs_enabled() -> bool {
    IRQS_ENABLED.get()
}
/// Enables interrupts and halts until one comes.
pub fn enable_and_halt() {
    irq_enable();
    wait_for_event();
}
/// Halts for ever; natively a panic.
pub fn halt_forever() -> ! {
    panic!("the vCPU halted for ever")
}
/// Tells the processor that this is a spin loop; natively nobody else could end it.
pub fn pause() {
    wait_for_event();
}

/// Address of the current stack's lowest byte: the boot stack of the vCPU that [`set_cpu`] chose.
pub fn stack_base() -> u64 {
    data::BOOT_STACKS + CPU.get() * STACK_BYTES
}

/// Natively there is one context: waiting for another is waiting for the test's hook.
pub fn switch_context(_save: u64, _load: u64) {
    let enabled = IRQS_ENABLED.replace(true);
    wait_for_event();
    IRQS_ENABLED.set(enabled);
}

/// Prepares an empty stack; natively it is never run.
pub fn prepare_stack(base: u64) -> u64 {
    base + STACK_BYTES
}

/// First address behind the image; natively as if it took 64 KiB.
pub fn image_end() -> u64 {
    wire::platform::IMAGE + (64 << 10)
}

/// A string's length; natively it has no address in the test memory.
pub fn str_location(text: &str) -> (u64, u64) {
    (0, text.len() as u64)
}
