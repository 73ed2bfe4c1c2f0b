//! Determinism of the vCPU: how a run is cut, which engines run it, where interrupts fall, in which process it happens — nothing may show.

use std::hash::{DefaultHasher, Hasher};
use std::process::Command;

use emu::vcpu::{Exit, RamSnapshot};
use host::event::Pfn;
use vcpu_support::{Bench, DATA, Observed, RAM_BYTES, observe, random_slices};

mod vcpu_support;

/// A hash that depends on the bytes alone.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

const TOTAL: u64 = 20_000;

fn mixed(slice: impl FnMut() -> u64) -> Observed {
    observe(&mut Bench::new(1), "mixed", [1 << 40, DATA, 0], TOTAL, slice)
}

fn assert_same(a: &Observed, b: &Observed, what: &str) {
    let differing = a.exits.iter().zip(&b.exits).find(|(a, b)| a != b);
    assert_eq!(differing, None, "{what}: first differing exit");
    assert_eq!((a.exits.len(), &a.written, a.insns, a.cpu), (b.exits.len(), &b.written, b.insns, b.cpu), "{what}");
    assert_eq!(a.irq_off, b.irq_off, "{what}: interrupts disabled");
    let page = a.memory.chunks(4096).zip(b.memory.chunks(4096)).position(|(a, b)| a != b);
    assert_eq!(page, None, "{what}: first differing page");
}

#[test]
fn ram_knows_every_page_that_guest_code_wrote() {
    for (function, args) in [("mixed", [1 << 40, DATA, 0]), ("touch_pages", [2, DATA, 64])] {
        // The fast engine, the slow one, and both.
        for slice in [TOTAL, 7, 300] {
            let mut bench = Bench::new(1);
            let observed = observe(&mut bench, function, args, TOTAL, || slice);
            let zero: Vec<bool> = observed.memory.chunks(4096).map(|page| page.iter().all(|byte| *byte == 0)).collect();
            let said: Vec<bool> = (0..bench.ram.pages()).map(|page| bench.ram.is_zero(Pfn(page))).collect();
            assert_eq!(said, zero, "{function} in slices of {slice}");
            assert!(zero[(DATA / 4096) as usize..].iter().any(|zero| !zero), "{function} writes data");
        }
    }
}

#[test]
fn slices_change_nothing() {
    let whole = mixed(|| TOTAL);
    let kinds: [fn(&Exit) -> bool; 4] = [
        |exit| matches!(exit, Exit::Trace { .. }),
        |exit| matches!(exit, Exit::MmioRead { .. }),
        |exit| matches!(exit, Exit::MmioWrite { .. }),
        |exit| matches!(exit, Exit::Store { .. }),
    ];
    for kind in kinds {
        assert!(whole.exits.iter().filter(|(_, exit)| kind(exit)).count() > 100, "the loop has exits of every kind");
    }
    assert_eq!(whole.insns, TOTAL);
    assert!(whole.irq_off.insns > 0, "the loop disables interrupts");
    for slice in [1, 2, 3, 5, 7, 11, 13, 64, 65, 100, 1000] {
        assert_same(&whole, &mixed(|| slice), &format!("slices of {slice}"));
    }
    for seed in 1..5 {
        assert_same(&whole, &mixed(random_slices(seed)), &format!("random slices {seed}"));
    }
}

#[test]
fn engines_that_served_before_are_as_good_as_new() {
    let on_new_thread = || std::thread::spawn(|| mixed(random_slices(7))).join().expect("the run ends");
    let fresh = on_new_thread();
    // This thread's engines have translated other functions, had an exception, and lost a machine in the middle of a slice.
    let mut bench = Bench::new(2);
    bench.call(0, "allocator", [1000, 7, DATA]);
    bench.call(1, "ticket_worker", [1000, 0, 0]);
    assert_eq!(bench.machine.run(0, 5000).exit, Exit::Limit);
    assert_eq!(bench.machine.run(1, 77).exit, Exit::Limit);
    drop(bench);
    for _ in 0..3 {
        assert_same(&fresh, &mixed(random_slices(7)), "recycled engines");
    }
    assert_same(&fresh, &on_new_thread(), "fresh engines");
}

#[test]
fn two_vcpus_under_one_schedule_end_alike_and_count_right() {
    let run = |slices: u64| {
        let mut bench = Bench::new(2);
        for cpu in 0..2 {
            bench.call(cpu, "ticket_worker", [100, 0, 0]);
        }
        let mut slice = random_slices(slices);
        let mut halted = [false; 2];
        while halted.contains(&false) {
            for (cpu, halted) in halted.iter_mut().enumerate() {
                *halted = *halted || bench.machine.run(cpu, slice()).exit == Exit::Halt;
            }
        }
        let guarded = bench.image.symbol("GUARDED").expect("symbol");
        assert_eq!([0, 1, 2, 3].map(|index| bench.ram.read_u64(guarded + 8 * index)), [200, 400, 600, 800]);
        (bench.machine.hash_cpu(0), bench.machine.hash_cpu(1), bench.machine.insns(0), hash(&bench.memory()))
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).2, run(4).2, "another schedule spins otherwise");
}

#[test]
fn interrupts_at_every_boundary_leave_the_result_unchanged() {
    let run = |interrupts_every: u64| {
        let mut bench = Bench::new(1);
        bench.call(0, "irq_counter", [200, 0, 0]);
        let mut delivered = 0u64;
        let mut returned = false;
        loop {
            let run = bench.machine.run(0, interrupts_every);
            if run.exit == Exit::Halt {
                break;
            }
            assert_eq!(run.exit, Exit::Limit);
            // The handler runs with interrupts off. Behind its end one instruction of the loop must run, or nothing else ever would.
            if bench.machine.can_interrupt(0) {
                if !returned {
                    bench.machine.interrupt(0, 0x20).expect("the guest has a gate");
                    delivered += 1;
                }
                returned = !returned;
            }
        }
        let count = bench.ram.read_u64(bench.image.symbol("irq_count").expect("symbol"));
        assert_eq!(count, delivered, "every interrupt is handled");
        (delivered, bench.machine.regs(0))
    };
    let (none, quiet) = run(1 << 30);
    assert_eq!((none, quiet.rdx), (0, 200 * 201));
    let (most, regs) = run(1);
    assert!(most > 1000, "{most} interrupts at every boundary");
    assert_eq!(regs, quiet);
    for every in [2, 3, 7, 13, 100] {
        let (some, regs) = run(every);
        assert!(some > 5);
        assert_eq!(regs, quiet, "an interrupt every {every} instructions");
    }
}

#[test]
fn a_restored_machine_repeats_its_run_on_all_of_ram() {
    let mut bench = Bench::new(1);
    bench.call(0, "allocator", [1 << 40, 7, DATA]);
    bench.machine.run(0, 50_001);
    let cpu = bench.machine.save();
    let mut ram = RamSnapshot::take(&mut bench.machine);
    let before = hash(&bench.memory());
    let mut ends = Vec::new();
    for round in 0..6 {
        // Rounds of other lengths dirty other pages in between.
        bench.machine.run(0, if round % 2 == 0 { 2000 } else { 30_000 });
        if round % 2 == 0 {
            ends.push((hash(&bench.memory()), bench.machine.hash_cpu(0), bench.machine.insns(0)));
        }
        assert!(ram.dirty(&mut bench.machine).len() > 3);
        bench.machine.restore(&cpu);
        if round < 3 {
            ram.restore(&mut bench.machine)
        } else {
            ram.restore_and_rearm(&mut bench.machine)
        }
        assert_eq!(hash(&bench.memory()), before, "round {round}");
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    assert_ne!(ends[0].0, before);
}

#[test]
fn writes_of_others_are_put_back_when_they_are_noted() {
    let mut bench = Bench::new(1);
    let mut ram = RamSnapshot::take(&mut bench.machine);
    let before = bench.memory();
    bench.ram.write(RAM_BYTES - 4096, &[1, 2, 3]);
    bench.ram.drain_writes().into_iter().for_each(|range| ram.note(range));
    ram.restore(&mut bench.machine);
    assert!(bench.memory() == before);
}

/// Set in the child process.
const CHILD: &str = "LOSTPAGE_VCPU_CHILD";

#[test]
fn two_processes_agree() {
    let observed = mixed(random_slices(11));
    let line = format!("{:?} {:x} {:x}", observed.exits, observed.cpu, hash(&observed.memory));
    let digest = format!("digest {:016x}", hash(line.as_bytes()));
    if std::env::var_os(CHILD).is_some() {
        println!("{digest}");
        return;
    }
    for unrelated in ["1", "a longer environment moves the child's stack"] {
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "two_processes_agree", "--nocapture"])
            .env(CHILD, unrelated)
            .output()
            .expect("a child process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&digest), "the child says {text}, this process {digest}");
    }
}
