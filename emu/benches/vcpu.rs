//! What the vCPU costs: the guest's speed beside a bare engine's in the same process, and restore + run + restore as a search does it.
//!
//! *Bare* is the same engine with the same virtual TLB, data not executable and the whole of RAM open, but without block hook, clock, log,
//! traps and tracepoints: what is lost against it is the price of determinism. Figures are the best of several rounds.
#![expect(clippy::disallowed_types, reason = "a bench measures wall time")]
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::sync::Arc;
use std::time::Instant;

use emu::image::Image;
use emu::vcpu::{BareEngine, Exit, Machine, RamSnapshot, Regs};
use host::event::{PageRange, Pfn};
use host::memory::GuestRam;

const RAM_BYTES: u64 = 64 << 20;
const DATA: u64 = 0x50_0000;
const STACK: u64 = 0x40_0000;
const ROUNDS: usize = 15;

fn call(image: &Image, function: &str, [rdi, rsi, rdx]: [u64; 3]) -> Regs {
    let rax = image.symbol(function).expect("a function of the test guest");
    Regs { rip: image.entry, rax, rdi, rsi, rdx, rsp: STACK, rflags: 2, ..Regs::default() }
}

/// Returns seconds.
fn time(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn best(mut work: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| work()).fold(f64::MAX, f64::min)
}

/// Runs to the `hlt`, through tracepoints; returns the instructions.
fn run_to_halt(machine: &mut Machine) -> u64 {
    let mut insns = 0;
    loop {
        let run = machine.run(0, u64::MAX);
        insns += run.insns;
        match run.exit {
            Exit::Trace { .. } => {}
            Exit::Halt => return insns,
            other => panic!("{other:?}"),
        }
    }
}

fn speed() {
    let image = Image::test_guest();
    println!("{:14} {:>12} {:>12} {:>7}", "loop", "bare Mi/s", "vCPU Mi/s", "ratio");
    let loops = [
        ("allocator", [300_000, 7, DATA]),
        ("tight_store", [5_000_000, DATA, 0]),
        ("copies", [2_000, DATA, DATA + 0x10_000]),
        ("atomic_add", [2_000_000, 0, 0]),
        ("ticket_worker", [300_000, 0, 0]),
        ("touch_pages", [2_000, DATA, 512]),
    ];
    for (function, args) in loops {
        let regs = call(&image, function, args);
        let ram = Arc::new(GuestRam::new(RAM_BYTES));
        let mut machine = Machine::new(Arc::clone(&ram), &image, 1);
        let reset = machine.save();
        let mut snapshot = RamSnapshot::take(&mut machine);
        let all = PageRange::new(Pfn(1), ram.pages() - 1);
        let mut insns = 0;
        let exact = best(|| {
            machine.restore(&reset);
            snapshot.restore(&mut machine);
            machine.arm(all);
            machine.set_regs(0, &regs);
            time(|| insns = run_to_halt(&mut machine))
        });
        drop(machine);
        let mut bare = BareEngine::new(Arc::clone(&ram), &image);
        let bare = best(|| {
            ram.write_unlogged(DATA, &vec![0; 16 << 20]);
            bare.set_regs(&regs);
            bare.flush();
            time(|| bare.run_to_halt())
        });
        let rate = |seconds: f64| insns as f64 / seconds / 1e6;
        println!("{function:14} {:12.0} {:12.0} {:7.2}", rate(bare), rate(exact), bare / exact);
    }
}

fn tracepoints() {
    let image = Image::test_guest();
    let mut machine = Machine::new(Arc::new(GuestRam::new(RAM_BYTES)), &image, 1);
    let rounds = 100_000;
    let seconds = best(|| {
        machine.set_regs(0, &call(&image, "tracepoints", [rounds, 0, 0]));
        time(|| assert!(run_to_halt(&mut machine) > rounds))
    });
    println!("tracepoint exit and resume: {:.0} ns", seconds / rounds as f64 * 1e9);
}

/// Restore and run exactly 2,000 instructions, as often as a search does.
fn restore_and_run() {
    let image = Image::test_guest();
    for (function, args) in [("allocator", [1 << 40, 7, DATA]), ("ticket_worker", [1 << 40, 0, 0])] {
        let ram = Arc::new(GuestRam::new(RAM_BYTES));
        let mut machine = Machine::new(ram, &image, 1);
        machine.set_regs(0, &call(&image, function, args));
        machine.run(0, 1_000_003);
        let cpu = machine.save();
        let mut snapshot = RamSnapshot::take(&mut machine);
        let runs = 5_000;
        for rearm in [true, false] {
            let seconds = best(|| {
                time(|| {
                    for _ in 0..runs {
                        assert_eq!(machine.run(0, 2_000).insns, 2_000);
                        machine.restore(&cpu);
                        if rearm { snapshot.restore_and_rearm(&mut machine) } else { snapshot.restore(&mut machine) }
                    }
                })
            });
            let pages = snapshot.dirty(&mut machine).len();
            let list = if rearm { "list emptied each time".to_owned() } else { format!("list kept, {pages} pages") };
            println!("restore + 2,000 instructions, {function} ({list}): {:.0} per second", f64::from(runs) / seconds);
        }
    }
}

/// Two vCPUs, preempted at exact instructions.
fn preemptions() {
    let image = Image::test_guest();
    let mut machine = Machine::new(Arc::new(GuestRam::new(RAM_BYTES)), &image, 2);
    for cpu in 0..2 {
        let args = [1 << 40, 7, DATA + 0x80_0000 * cpu as u64];
        machine.set_regs(cpu, &Regs { rsp: STACK - 0x10000 * cpu as u64, ..call(&image, "allocator", args) });
    }
    let slices = 20_000;
    for insns in [1, 10, 60, 250, 1000] {
        let seconds = best(|| time(|| (0..slices).for_each(|slice| assert_eq!(machine.run(slice % 2, insns).insns, insns))));
        println!("slice of {insns:4} instructions on the other vCPU: {:.0} ns", seconds / slices as f64 * 1e9);
    }
}

/// What a suite pays for each machine.
fn machines() {
    let image = Image::test_guest();
    let ram = Arc::new(GuestRam::new(16 << 20));
    let seconds = best(|| time(|| drop(Machine::new(Arc::clone(&ram), &image, 2))));
    println!("machine on recycled engines, 16 MiB: {:.0} us", seconds * 1e6);
    let fresh = || {
        let (image, ram) = (image.clone(), Arc::clone(&ram));
        let thread = std::thread::spawn(move || time(|| drop(Machine::new(Arc::clone(&ram), &image, 2))));
        thread.join().expect("a thread")
    };
    println!("machine on new engines, 16 MiB: {:.0} us", best(fresh) * 1e6);
}

fn main() {
    speed();
    tracepoints();
    restore_and_run();
    preemptions();
    machines();
}
