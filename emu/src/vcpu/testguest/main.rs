//! A guest without a kernel, for the tests and benches of the vCPU: loops of known kinds of code, each a function that a test enters
//! by its symbol. The stack, the function (RAX) and its arguments (RDI, RSI, RDX) are set by the test; `hlt` ends each.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "raw memory is what these loops are about")]

use core::arch::global_asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        spin_loop();
    }
}

global_asm!(include_str!("entry.s"), port = const wire::debug::PORT);
global_asm!(include_str!("mixed.s"), lapic = const wire::platform::LAPIC, clock = const wire::platform::CLOCK);

unsafe extern "C" {
    fn trace(a: u64, b: u64, code: u32);
    fn copy_words(to: *mut u64, from: *const u64, words: u64);
}

const CLASSES: usize = 8;
const SLOTS: usize = 512;

/// Free lists of powers of two and a table of live blocks, at the address in RDX.
#[repr(C)]
struct Heap {
    base: u64,
    used: u64,
    free: [u64; CLASSES],
    slots: [u64; SLOTS],
}

/// Allocates and frees `rounds` times from a seeded sequence, as an allocator does: chases lists, writes headers.
///
/// # Safety
/// `heap` points to zeroed memory with 8 MiB behind it.
#[unsafe(no_mangle)]
unsafe extern "C" fn allocator(rounds: u64, seed: u64, heap: *mut Heap) -> u64 {
    // SAFETY: the test gives the memory; nothing else runs.
    let heap = unsafe { &mut *heap };
    heap.base = core::ptr::from_mut(heap) as u64 + 0x2000;
    let (mut x, mut sum) = (seed | 1, 0u64);
    for round in 0..rounds {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let slot = (x >> 20) as usize % SLOTS;
        if heap.slots[slot] == 0 {
            heap.slots[slot] = allocate(heap, 16 + (x >> 40) % 1000, x);
        } else {
            sum = sum.wrapping_mul(31) ^ release(heap, slot) ^ round;
        }
    }
    sum
}

fn allocate(heap: &mut Heap, bytes: u64, value: u64) -> u64 {
    let class = (64 - (bytes.max(16) - 1).leading_zeros()) as usize - 4;
    let mut block = heap.free[class];
    // SAFETY: blocks lie in the heap's memory.
    unsafe {
        if block != 0 {
            heap.free[class] = *((block + 8) as *const u64);
        } else {
            block = heap.base + heap.used % (6 << 20);
            heap.used += 16 << class;
        }
        *(block as *mut u64) = class as u64;
        for word in 1..(bytes / 8).clamp(2, 8) {
            ((block + 8 * word) as *mut u64).write_volatile(value.wrapping_add(word));
        }
    }
    block
}

fn release(heap: &mut Heap, slot: usize) -> u64 {
    let block = core::mem::take(&mut heap.slots[slot]);
    // SAFETY: the block was allocated above.
    unsafe {
        let class = *(block as *const u64) as usize % CLASSES;
        let value = *((block + 8) as *const u64);
        *((block + 8) as *mut u64) = heap.free[class];
        heap.free[class] = block;
        value
    }
}

/// Copies 4 KiB `rounds` times between two addresses.
///
/// # Safety
/// Both are 4 KiB of memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn copies(rounds: u64, to: *mut u64, from: *const u64) {
    for _ in 0..rounds {
        // SAFETY: as promised by the caller.
        unsafe { copy_words(to, from, 512) };
    }
}

static SHARED: AtomicU64 = AtomicU64::new(0);

/// Adds to one shared word `rounds` times, atomically.
#[unsafe(no_mangle)]
extern "C" fn atomic_add(rounds: u64) -> u64 {
    (0..rounds).map(|_| SHARED.fetch_add(1, Ordering::SeqCst)).fold(0, u64::wrapping_add)
}

static NEXT: AtomicU32 = AtomicU32::new(0);
static SERVING: AtomicU32 = AtomicU32::new(0);
/// What the ticket lock guards.
#[unsafe(no_mangle)]
static GUARDED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Raises four guarded words `rounds` times under a ticket lock.
#[unsafe(no_mangle)]
extern "C" fn ticket_worker(rounds: u64) {
    for _ in 0..rounds {
        let ticket = NEXT.fetch_add(1, Ordering::SeqCst);
        while SERVING.load(Ordering::SeqCst) != ticket {
            spin_loop();
        }
        for (index, word) in GUARDED.iter().enumerate() {
            word.store(word.load(Ordering::Relaxed) + 1 + index as u64, Ordering::Relaxed);
        }
        SERVING.store(ticket.wrapping_add(1), Ordering::SeqCst);
    }
}

/// Says a tracepoint `rounds` times.
#[unsafe(no_mangle)]
extern "C" fn tracepoints(rounds: u64) {
    for round in 0..rounds {
        // SAFETY: the tracepoint reads registers only.
        unsafe { trace(round, round * 3, 4) };
    }
}
