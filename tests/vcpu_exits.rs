//! Exits of the vCPU are precise: each stands at its instruction, with nothing of it done, and goes on when it is answered.

use std::sync::Arc;

use emu::image::Image;
use emu::vcpu::{Exit, FaultKind, IrqOff, Machine, RFLAGS_IF, Regs};
use host::event::Pfn;
use host::memory::GuestRam;
use vcpu_support::{Bench, DATA, Observed, RAM_BYTES, STACK, observe, random_slices};
use wire::platform::{CLOCK, LAPIC, VIRTIO_MMIO};

mod vcpu_support;

const TEXT: u64 = 0x10_0000;

/// A machine with bare code, its registers set; RDI is the data's address.
fn machine(code: &[u8], rdi: u64) -> Machine {
    let ram = Arc::new(GuestRam::new(RAM_BYTES));
    let mut machine = Machine::new(ram, &Image::from_code(TEXT, code), 1);
    let regs = Regs { rip: TEXT, rdi, rsi: DATA, rax: 0x1122_3344_5566_7788, rsp: STACK, rcx: 4, rflags: 2, ..Regs::default() };
    machine.set_regs(0, &regs);
    machine
}

/// `nop; nop; code; hlt`, run by the slow engine and by the fast one.
fn both_engines(code: &[u8], rdi: u64, mut check: impl FnMut(&mut Machine, u64)) {
    let code: Vec<u8> = [0x90, 0x90].into_iter().chain(code.iter().copied()).chain([0xf4]).collect();
    for budget in [50, 5000] {
        check(&mut machine(&code, rdi), budget);
    }
}

fn faults(code: &[u8], rdi: u64, kind: FaultKind, address: u64) {
    both_engines(code, rdi, |machine, budget| {
        let before = machine.regs(0);
        let run = machine.run(0, budget);
        assert_eq!(run.exit, Exit::Fault { kind, address }, "{code:x?}");
        assert_eq!(run.insns, 2, "{code:x?}");
        assert_eq!(machine.regs(0), Regs { rip: TEXT + 2, ..before }, "{code:x?}");
        let again = machine.run(0, budget);
        assert_eq!((again.exit, again.insns), (run.exit, 0), "a fault stays");
    });
}

#[test]
fn faults_are_precise() {
    let (load, store, add) = ([0x48, 0x8b, 0x1f], [0x48, 0x89, 0x07], [0x48, 0x01, 0x07]);
    faults(&load, 0x10, FaultKind::Null, 0x10);
    faults(&store, 0xff0, FaultKind::Null, 0xff0);
    faults(&add, 8, FaultKind::Null, 8);
    faults(&store, TEXT + 0x80, FaultKind::WriteToText, TEXT + 0x80);
    faults(&load, RAM_BYTES, FaultKind::OutsideRam, RAM_BYTES);
    faults(&store, RAM_BYTES - 4, FaultKind::OutsideRam, RAM_BYTES);
    faults(&load, 0x9_0000_0000, FaultKind::OutsideRam, 0x9_0000_0000);
    // Devices know no read-modify-write, no wide access, and nothing beside their registers.
    faults(&add, LAPIC + 0x80, FaultKind::OutsideRam, LAPIC + 0x80);
    faults(&[0x0f, 0x10, 0x07], LAPIC + 0x80, FaultKind::OutsideRam, LAPIC + 0x80);
    faults(&load, VIRTIO_MMIO + 0x200, FaultKind::OutsideRam, VIRTIO_MMIO + 0x200);
    // push qword ptr [rdi]
    faults(&[0xff, 0x37], 0x20, FaultKind::Null, 0x20);
}

#[test]
fn executing_data_faults_at_the_target() {
    // jmp rdi
    for (target, kind) in [(DATA, FaultKind::ExecuteData), (0x10, FaultKind::Null), (LAPIC, FaultKind::ExecuteData)] {
        both_engines(&[0xff, 0xe7], target, |machine, budget| {
            let run = machine.run(0, budget);
            assert_eq!((run.exit, run.insns), (Exit::Fault { kind, address: target }, 3));
            assert_eq!(machine.regs(0).rip, target);
        });
    }
}

#[test]
fn a_repeated_string_faults_at_its_own_element() {
    // rep stosq, two elements below the end of RAM
    both_engines(&[0xf3, 0x48, 0xab], RAM_BYTES - 16, |machine, budget| {
        let run = machine.run(0, budget);
        assert_eq!((run.exit, run.insns), (Exit::Fault { kind: FaultKind::OutsideRam, address: RAM_BYTES }, 4));
        assert_eq!(machine.regs(0).rcx, 2);
        assert_eq!(machine.ram().read_u64(RAM_BYTES - 8), 0x1122_3344_5566_7788);
    });
}

#[test]
fn device_loads_take_the_value_in_the_width_of_the_instruction() {
    let answer = 0xfedc_ba98_7654_3210;
    let cases: [(&[u8], u8, u64); 7] = [
        (&[0x8a, 0x07], 1, 0x1122_3344_5566_7710),        // mov al, [rdi]
        (&[0x66, 0x8b, 0x07], 2, 0x1122_3344_5566_3210),  // mov ax, [rdi]
        (&[0x8b, 0x07], 4, 0x7654_3210),                  // mov eax, [rdi]
        (&[0x48, 0x8b, 0x07], 8, answer),                 // mov rax, [rdi]
        (&[0x0f, 0xb6, 0x07], 1, 0x10),                   // movzx eax, byte ptr [rdi]
        (&[0x48, 0x0f, 0xbf, 0x07], 2, 0x3210),           // movsx rax, word ptr [rdi]
        (&[0x03, 0x07], 4, 0x5566_7788u64 + 0x7654_3210), // add eax, [rdi]
    ];
    for (code, len, rax) in cases {
        both_engines(code, LAPIC + 0x20, |machine, budget| {
            let run = machine.run(0, budget);
            assert_eq!((run.exit, run.insns), (Exit::MmioRead { address: LAPIC + 0x20, len }, 2), "{code:x?}");
            machine.finish_mmio_read(0, answer);
            assert_eq!((machine.regs(0).rax, machine.insns(0)), (rax, 3), "{code:x?}");
            let run = machine.run(0, budget);
            assert_eq!((run.exit, run.insns), (Exit::Halt, 1), "{code:x?}");
        });
    }
}

#[test]
fn device_stores_say_their_value_and_are_skipped() {
    let cases: [(&[u8], u8, u64); 6] = [
        (&[0x88, 0x07], 1, 0x88),                                // mov [rdi], al
        (&[0x66, 0x89, 0x07], 2, 0x7788),                        // mov [rdi], ax
        (&[0x89, 0x07], 4, 0x5566_7788),                         // mov [rdi], eax
        (&[0x48, 0x89, 0x07], 8, 0x1122_3344_5566_7788),         // mov [rdi], rax
        (&[0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], 4, 0xffff_fffe), // mov dword ptr [rdi], -2
        (&[0xc6, 0x07, 0x05], 1, 5),                             // mov byte ptr [rdi], 5
    ];
    for (code, len, value) in cases {
        both_engines(code, VIRTIO_MMIO + 0x50, |machine, budget| {
            let run = machine.run(0, budget);
            assert_eq!((run.exit, run.insns), (Exit::MmioWrite { address: VIRTIO_MMIO + 0x50, len, value }, 2), "{code:x?}");
            let before = machine.regs(0);
            machine.finish_mmio_write(0);
            assert_eq!(machine.regs(0), Regs { rip: before.rip + code.len() as u64, ..before }, "{code:x?}");
            assert_eq!((machine.run(0, budget).exit, machine.insns(0)), (Exit::Halt, 4), "{code:x?}");
        });
    }
}

#[test]
fn the_clocks_window_is_its_eight_bytes() {
    both_engines(&[0x8b, 0x07], CLOCK + 4, |machine, budget| {
        assert_eq!(machine.run(0, budget).exit, Exit::MmioRead { address: CLOCK + 4, len: 4 });
    });
    faults(&[0x8b, 0x07], CLOCK + 8, FaultKind::OutsideRam, CLOCK + 8);
}

#[test]
fn exceptions_are_told_apart_however_often_they_happen() {
    // xor edx, edx; div edx — ud2 — int3 — hlt at ring 0 is none
    let cases: [(&[u8], u8, u64, u64); 4] = [
        (&[0x31, 0xd2, 0xf7, 0xf2], 0, 3, 4),
        (&[0x0f, 0x0b], 6, 2, 2),
        (&[0xcc], 3, 3, 3),
        (&[0x0f, 0xc7, 0xf0], 6, 2, 2), // rdrand eax: not on this processor
    ];
    for (code, vector, insns, offset) in cases {
        both_engines(code, 0, |machine, budget| {
            for _ in 0..4 {
                let regs = Regs { rip: TEXT, ..machine.regs(0) };
                machine.set_regs(0, &regs);
                let run = machine.run(0, budget);
                assert_eq!((run.exit, run.insns), (Exit::Exception { vector }, insns), "{code:x?}");
                assert_eq!(machine.regs(0).rip, TEXT + offset, "{code:x?}");
            }
        });
    }
}

#[test]
fn a_tracepoint_stops_behind_the_ret_that_follows_it_and_else_behind_itself() {
    let mut bench = Bench::new(1);
    bench.call(0, "tracepoints", [3, 0, 0]);
    for round in 0..3 {
        let run = bench.machine.run(0, 1000);
        assert_eq!(run.exit, Exit::Trace { code: 4, a: round, b: 3 * round });
        assert!(bench.image.symbolise(bench.machine.regs(0).rip).starts_with("trace+"), "in the caller");
    }
    assert_eq!(bench.machine.run(0, 1000).exit, Exit::Halt);
    // out 0xe9, eax; nop
    both_engines(&[0xe7, 0xe9, 0x90], 7, |machine, budget| {
        let run = machine.run(0, budget);
        assert_eq!((run.exit, run.insns), (Exit::Trace { code: 0x5566_7788, a: 7, b: DATA }, 3));
        assert_eq!(machine.regs(0).rip, TEXT + 4);
        let run = machine.run(0, budget);
        assert_eq!((run.exit, run.insns), (Exit::Halt, 2));
    });
}

#[test]
fn no_interrupt_falls_between_a_tracepoint_and_its_ret_or_behind_sti() {
    // call 1f; hlt; 1: out 0xe9, eax; ret
    let mut between = machine(&[0xe8, 1, 0, 0, 0, 0xf4, 0xe7, 0xe9, 0xc3], 0);
    let regs = Regs { rflags: 2 | RFLAGS_IF, ..between.regs(0) };
    between.set_regs(0, &regs);
    let open = |machine: &mut Machine| (machine.run(0, 1).exit, machine.can_interrupt(0));
    assert_eq!(open(&mut between), (Exit::Limit, true));
    assert_eq!(open(&mut between), (Exit::Limit, false));
    assert_eq!(open(&mut between), (Exit::Trace { code: 0x5566_7788, a: 0, b: DATA }, true));
    // sti; nop; nop; hlt
    let mut shadow = machine(&[0xfb, 0x90, 0x90, 0xf4], 0);
    assert_eq!([open(&mut shadow).1, open(&mut shadow).1], [false, true]);
}

/// The guest says nothing of it, and a block that is left in front of its `cli` has not disabled anything.
#[test]
fn instructions_with_interrupts_disabled_count_from_cli_to_sti_wherever_the_run_is_cut() {
    let codes: [(&[u8], u64); 2] = [
        // sti; nop; cli; nop; mov [rdi], rsi; nop; sti; nop
        (&[0xfb, 0x90, 0xfa, 0x90, 0x48, 0x89, 0x37, 0x90, 0xfb, 0x90], 4),
        // sti; nop; mov [rdi], rsi; cli; nop; jmp 1f; 1: nop; sti; nop
        (&[0xfb, 0x90, 0x48, 0x89, 0x37, 0xfa, 0x90, 0xeb, 0x00, 0x90, 0xfb, 0x90], 7),
    ];
    for (code, cli) in codes {
        both_engines(code, DATA, |machine, budget| {
            machine.trap(Pfn(DATA >> 12), true);
            assert!(matches!(machine.run(0, budget).exit, Exit::Store { .. }));
            assert_eq!(machine.irq_off(0), IrqOff { insns: 3, from: TEXT }, "from reset to the first sti");
            machine.step_store(0);
            assert_eq!(machine.run(0, budget).exit, Exit::Halt);
            assert_eq!(machine.irq_off(0), IrqOff { insns: 4, from: TEXT + cli });
            machine.forget_irq_off();
            assert_eq!(machine.irq_off(0), IrqOff::default());
        });
    }
}

#[test]
fn an_interrupts_handler_runs_with_interrupts_disabled_until_its_iret() {
    let mut bench = Bench::new(1);
    bench.call(0, "irq_counter", [1000, 0, 0]);
    bench.machine.run(0, 200);
    bench.machine.forget_irq_off();
    bench.machine.interrupt(0, 0x20).expect("a gate");
    let handler = bench.machine.regs(0).rip;
    let outside = bench.machine.save_context(0);
    bench.machine.run(0, 100);
    assert_eq!(bench.machine.irq_off(0), IrqOff { insns: 4, from: handler }, "push, inc, pop, iretq");
    // What runs between saving a context and putting it back belongs to no stretch.
    bench.machine.restore_context(0, &outside);
    assert_eq!(bench.machine.irq_off(0), IrqOff::default());
    bench.machine.run(0, 2);
    assert_eq!(bench.machine.irq_off(0), IrqOff { insns: 2, from: handler });
}

#[test]
fn an_interrupt_without_a_gate_or_a_stack_changes_nothing() {
    let mut bench = Bench::new(1);
    bench.call(0, "irq_counter", [1000, 0, 0]);
    bench.machine.run(0, 200);
    assert!(bench.machine.can_interrupt(0));
    let before = bench.machine.regs(0);
    let memory = bench.memory();
    assert_eq!(bench.machine.interrupt(0, 0x21).expect_err("no gate").kind, FaultKind::NoGate);
    bench.machine.set_regs(0, &Regs { rsp: 0x800, ..before });
    assert_eq!(bench.machine.interrupt(0, 0x20).expect_err("no stack").kind, FaultKind::Null);
    assert_eq!(bench.machine.regs(0), Regs { rsp: 0x800, ..before });
    assert!(bench.memory() == memory);
}

#[test]
fn an_interrupts_frame_is_logged_as_stores_are() {
    let mut bench = Bench::new(1);
    bench.call(0, "irq_counter", [1000, 0, 0]);
    bench.machine.run(0, 200);
    let stack = Pfn((STACK - 1) / 4096);
    bench.machine.arm(host::event::PageRange::page(stack));
    bench.machine.interrupt(0, 0x20).expect("a gate");
    assert_eq!(bench.machine.drain_written(), [stack]);
}

#[test]
fn halt_is_reported_in_the_instruction_that_the_budget_ends_with() {
    for budget in [3, 500] {
        let mut machine = machine(&[0x90, 0x90, 0xf4, 0x90, 0xf4], 0);
        let run = machine.run(0, budget);
        assert_eq!((run.exit, run.insns, machine.regs(0).rip), (Exit::Halt, 3, TEXT + 3));
    }
    let mut machine = machine(&[0x90, 0x90, 0xf4], 0);
    assert_eq!((machine.run(0, 2).exit, machine.run(0, 0).exit), (Exit::Limit, Exit::Limit));
}

#[test]
fn the_hosts_clock_and_ports_do_not_show() {
    // rdtsc; in eax, dx
    both_engines(&[0x0f, 0x31, 0xed], 0, |machine, budget| {
        assert_eq!(machine.run(0, budget).exit, Exit::Halt);
        assert_eq!((machine.regs(0).rax, machine.regs(0).rdx), (0xffff_ffff, 0));
    });
}

#[test]
fn a_context_is_put_back_whole() {
    let mut bench = Bench::new(2);
    bench.call(0, "allocator", [1000, 3, DATA]);
    bench.call(1, "atomic_add", [1000, 0, 0]);
    bench.machine.run(0, 1001);
    bench.machine.run(1, 77);
    let (context, hash) = (bench.machine.save_context(0), bench.machine.hash_cpu(0));
    let other = bench.machine.hash_cpu(1);
    bench.call(0, "tight_store", [20, DATA + 0x8000, 0]);
    assert_eq!(bench.machine.run(0, 1000).exit, Exit::Halt);
    assert_ne!(bench.machine.hash_cpu(0), hash);
    bench.machine.restore_context(0, &context);
    assert_eq!((bench.machine.hash_cpu(0), bench.machine.hash_cpu(1)), (hash, other));
}

#[test]
fn a_backtrace_follows_frame_pointers_and_stops_at_garbage() {
    let mut bench = Bench::new(1);
    let start = bench.image.symbol("_start").expect("symbol");
    bench.call(0, "allocator", [1 << 40, 3, DATA]);
    bench.machine.run(0, 5000);
    let names: Vec<String> = bench.machine.backtrace(0).into_iter().map(|address| bench.image.symbolise(address)).collect();
    assert!(names.iter().any(|name| name.starts_with("allocator+")), "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some(bench.image.symbolise(start + 2).as_str()), "{names:?}");
    for rbp in [0, 1, RAM_BYTES - 8, u64::MAX - 7, DATA + 0x8000] {
        let regs = Regs { rbp, ..bench.machine.regs(0) };
        bench.machine.set_regs(0, &regs);
        assert_eq!(bench.machine.backtrace(0), [regs.rip]);
    }
}

#[test]
fn traps_and_log_are_part_of_a_saved_machine() {
    let run = |bench: &mut Bench| -> Observed { observe(bench, "mixed", [50, DATA, 0], 1 << 20, random_slices(5)) };
    let mut bench = Bench::new(1);
    let saved = bench.machine.save();
    let mut ram = emu::vcpu::RamSnapshot::take(&mut bench.machine);
    let first = run(&mut bench);
    assert!(first.written.len() > 3);
    bench.machine.restore(&saved);
    ram.restore(&mut bench.machine);
    // Nothing is trapped or armed now.
    bench.call(0, "tight_store", [5, DATA + 0x1000, 0]);
    assert_eq!(bench.machine.run(0, 1000).exit, Exit::Halt);
    assert_eq!(bench.machine.drain_written(), []);
    bench.machine.restore(&saved);
    ram.restore(&mut bench.machine);
    assert!(run(&mut bench) == first);
}
