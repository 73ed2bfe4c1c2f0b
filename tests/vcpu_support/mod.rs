//! What the vCPU's tests share: the test guest on its own RAM, and a world that answers its exits without looking at the slicing.

use std::sync::Arc;

use emu::image::Image;
use emu::vcpu::{Exit, IrqOff, Machine, Regs};
use host::event::{PageRange, Pfn};
use host::memory::GuestRam;
use wire::platform::PAGE_SIZE;

/// Size of RAM, bytes.
pub(crate) const RAM_BYTES: u64 = 8 << 20;
/// Data of a loop.
pub(crate) const DATA: u64 = 0x50_0000;
/// Top of the first vCPU's stack; each has 64 KiB.
pub(crate) const STACK: u64 = 0x60_0000;

/// The test guest, loaded.
pub(crate) struct Bench {
    /// The image.
    pub(crate) image: Image,
    /// Its RAM.
    pub(crate) ram: Arc<GuestRam>,
    /// Its vCPUs.
    pub(crate) machine: Machine,
}

impl Bench {
    /// Loads the test guest into new RAM.
    pub(crate) fn new(vcpus: usize) -> Bench {
        let image = Image::test_guest();
        let ram = Arc::new(GuestRam::new(RAM_BYTES));
        let machine = Machine::new(Arc::clone(&ram), &image, vcpus);
        Bench { image, ram, machine }
    }

    /// Makes a vCPU call a function of the test guest; a `hlt` follows.
    pub(crate) fn call(&mut self, cpu: usize, function: &str, [rdi, rsi, rdx]: [u64; 3]) {
        let rax = self.image.symbol(function).unwrap_or_else(|| panic!("no function {function}"));
        let rsp = STACK + 0x1_0000 * cpu as u64;
        self.machine.set_regs(cpu, &Regs { rip: self.image.entry, rax, rdi, rsi, rdx, rsp, rflags: 2, ..Regs::default() });
    }

    /// Copies all of RAM out.
    pub(crate) fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM_BYTES as usize];
        self.ram.read(0, &mut bytes);
        bytes
    }
}

/// All that can be seen of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Exits that are not the slicing's, each with the instructions executed until then.
    pub(crate) exits: Vec<(u64, Exit)>,
    /// Pages logged, in order.
    pub(crate) written: Vec<Pfn>,
    /// Registers.
    pub(crate) cpu: u64,
    /// Instructions.
    pub(crate) insns: u64,
    /// The longest stretch with interrupts disabled.
    pub(crate) irq_off: IrqOff,
    /// Memory.
    pub(crate) memory: Vec<u8>,
}

/// Runs a function on vCPU 0 until it halts or `total` instructions are executed, in slices as `slice` gives them.
/// The whole data area is armed, its second page is trapped.
pub(crate) fn observe(bench: &mut Bench, function: &str, args: [u64; 3], total: u64, mut slice: impl FnMut() -> u64) -> Observed {
    bench.call(0, function, args);
    let data = Pfn(DATA / PAGE_SIZE);
    bench.machine.arm(PageRange::new(data, 16));
    bench.machine.trap(Pfn(data.0 + 1), true);
    let first = bench.machine.insns(0);
    let mut exits = Vec::new();
    let mut written = Vec::new();
    loop {
        let done = bench.machine.insns(0) - first;
        if done == total {
            break;
        }
        let run = bench.machine.run(0, slice().min(total - done));
        let now = bench.machine.insns(0) - first;
        assert_eq!(done + run.insns, now, "the run and the vCPU count alike");
        if run.exit != Exit::Limit {
            exits.push((now, run.exit));
        }
        match run.exit {
            Exit::MmioRead { address, len } => {
                bench.machine.finish_mmio_read(0, now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ address ^ u64::from(len))
            }
            Exit::MmioWrite { .. } => bench.machine.finish_mmio_write(0),
            Exit::Store { .. } => assert_eq!(bench.machine.step_store(0).exit, Exit::Limit),
            Exit::Trace { .. } | Exit::Limit => {}
            Exit::Halt | Exit::Missing { .. } | Exit::Fault { .. } | Exit::Exception { .. } => break,
        }
        written.extend(bench.machine.drain_written());
    }
    let cpu = bench.machine.hash_cpu(0);
    let (insns, irq_off) = (bench.machine.insns(0) - first, bench.machine.irq_off(0));
    Observed { exits, written, cpu, insns, irq_off, memory: bench.memory() }
}

/// A small generator of slice lengths.
pub(crate) fn random_slices(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        1 + (x >> 16) % [2, 10, 100, 500][(x >> 60) as usize % 4]
    }
}
