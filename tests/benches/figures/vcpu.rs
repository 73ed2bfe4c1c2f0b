//! What the vCPU costs: the guest's speed beside a bare engine's in the same process, and restore + run + restore as a search does it.
//!
//! *Bare* is the same engine with the same virtual TLB, data not executable and the whole of RAM open, but without block hook, clock, log,
//! traps and tracepoints: what is lost against it is the price of determinism. Figures are the best of several rounds.

use std::sync::Arc;

use emu::image::Image;
use emu::vcpu::{BareEngine, Exit, Machine, RamSnapshot, Regs};
use host::event::{PageRange, Pfn};
use host::memory::GuestRam;

use crate::{Figure, time};

const RAM_BYTES: u64 = 64 << 20;
const DATA: u64 = 0x50_0000;
const STACK: u64 = 0x40_0000;
const ROUNDS: usize = 15;

fn call(image: &Image, function: &str, [rdi, rsi, rdx]: [u64; 3]) -> Regs {
    let rax = image.symbol(function).expect("a function of the test guest");
    Regs { rip: image.entry, rax, rdi, rsi, rdx, rsp: STACK, rflags: 2, ..Regs::default() }
}

fn seconds(work: impl FnOnce()) -> f64 {
    time(work).as_secs_f64()
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

fn speed() -> [Figure; 2] {
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
    let mut ratios: Vec<(f64, &str)> = Vec::new();
    for (function, args) in loops {
        let regs = call(&image, function, args);
        let ram = Arc::new(GuestRam::new(RAM_BYTES));
        let mut machine = Machine::new(Arc::clone(&ram), &image, 1);
        let reset = machine.save();
        let mut snapshot = RamSnapshot::take(&mut machine);
        let all = PageRange::new(Pfn(1), ram.pages() - 1);
        let bare_ram = Arc::new(GuestRam::new(RAM_BYTES));
        let mut engine = BareEngine::new(Arc::clone(&bare_ram), &image);
        let (mut insns, mut exact, mut bare) = (0, f64::MAX, f64::MAX);
        // Turn by turn, so that a neighbour's load or a lower clock meets both.
        for _ in 0..ROUNDS {
            machine.restore(&reset);
            snapshot.restore(&mut machine);
            machine.arm(all);
            machine.set_regs(0, &regs);
            exact = exact.min(seconds(|| insns = run_to_halt(&mut machine)));
            bare_ram.write_unlogged(DATA, &vec![0; 16 << 20]);
            engine.set_regs(&regs);
            engine.flush();
            bare = bare.min(seconds(|| engine.run_to_halt()));
        }
        let rate = |seconds: f64| insns as f64 / seconds / 1e6;
        println!("{function:14} {:12.0} {:12.0} {:7.2}", rate(bare), rate(exact), bare / exact);
        ratios.push((bare / exact, function));
    }
    let mean = (ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let (worst, function) = ratios.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("loops");
    let show = |ratio: f64| format!("{ratio:.2}");
    [
        Figure::at_least("guest speed against bare Unicorn, geometric mean of the loops", mean, 0.6, show),
        Figure::at_least(format!("  the worst loop, {function}"), worst, 0.6, show),
    ]
}

fn tracepoints() {
    let image = Image::test_guest();
    let mut machine = Machine::new(Arc::new(GuestRam::new(RAM_BYTES)), &image, 1);
    let rounds = 100_000;
    let seconds = best(|| {
        machine.set_regs(0, &call(&image, "tracepoints", [rounds, 0, 0]));
        seconds(|| assert!(run_to_halt(&mut machine) > rounds))
    });
    println!("tracepoint exit and resume: {:.0} ns", seconds / rounds as f64 * 1e9);
}

/// Restore and run exactly 2,000 instructions, as often as a search does.
fn restore_and_run() -> Figure {
    let image = Image::test_guest();
    let mut slowest = f64::MAX;
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
                seconds(|| {
                    for _ in 0..runs {
                        assert_eq!(machine.run(0, 2_000).insns, 2_000);
                        machine.restore(&cpu);
                        if rearm { snapshot.restore_and_rearm(&mut machine) } else { snapshot.restore(&mut machine) }
                    }
                })
            });
            let pages = snapshot.dirty(&mut machine).len();
            let list = if rearm { "list emptied each time".to_owned() } else { format!("list kept, {pages} pages") };
            let rate = f64::from(runs) / seconds;
            println!("restore + 2,000 instructions, {function} ({list}): {rate:.0} per second");
            slowest = slowest.min(rate);
        }
    }
    Figure::at_least("restore + exact run of 2,000 instructions, slowest of four ways", slowest, 90_000.0, |rate| format!("{rate:.0} /s"))
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
        let seconds = best(|| seconds(|| (0..slices).for_each(|slice| assert_eq!(machine.run(slice % 2, insns).insns, insns))));
        println!("slice of {insns:4} instructions on the other vCPU: {:.0} ns", seconds / slices as f64 * 1e9);
    }
}

/// What a suite pays for each machine.
fn machines() {
    let image = Image::test_guest();
    let ram = Arc::new(GuestRam::new(16 << 20));
    let recycled = best(|| seconds(|| drop(Machine::new(Arc::clone(&ram), &image, 2))));
    println!("machine on recycled engines, 16 MiB: {:.0} us", recycled * 1e6);
    let fresh = || {
        let (image, ram) = (image.clone(), Arc::clone(&ram));
        let thread = std::thread::spawn(move || seconds(|| drop(Machine::new(Arc::clone(&ram), &image, 2))));
        thread.join().expect("a thread")
    };
    println!("machine on new engines, 16 MiB: {:.0} us", best(fresh) * 1e6);
}

pub(crate) fn figures() -> Vec<Figure> {
    let mut figures = Vec::from(speed());
    tracepoints();
    figures.push(restore_and_run());
    preemptions();
    machines();
    figures
}
