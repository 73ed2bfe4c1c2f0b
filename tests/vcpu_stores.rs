//! The store matrix: no store instruction, at any alignment, changes a byte on a page that was not logged, and a trapped store happens
//! exactly once.
//!
//! Each line of the table is machine code and its text. It is run three times on the same memory: freely, with every page armed, and with
//! every page trapped; the three must end alike.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use emu::image::Image;
use emu::vcpu::{Exit, Machine, Regs};
use host::event::{PageRange, Pfn};
use host::memory::GuestRam;
use wire::platform::PAGE_SIZE;

const TABLE: &str = include_str!("vcpu_stores.tsv");
const TEXT: u64 = 0x10_0000;
const SLOT_BYTES: u64 = 64;
/// movups xmm0, [rsi+0x80]; movups xmm1, [rsi+0x90]; movq mm0, [rsi+0x80]; movq mm1, [rsi+0x90]: something to store, and a mask.
const PRELUDE: [u8; 28] =
    [0x0f, 0x10, 0x86, 0x80, 0, 0, 0, 0x0f, 0x10, 0x8e, 0x90, 0, 0, 0, 0x0f, 0x6f, 0x86, 0x80, 0, 0, 0, 0x0f, 0x6f, 0x8e, 0x90, 0, 0, 0];
/// Data, source, stack and frame: 64 KiB each.
const DATA: u64 = 0x50_0000;
const SOURCE: u64 = 0x51_0000;
const STACK: u64 = 0x52_0000;
const FRAME: u64 = 0x53_0000;
const END: u64 = 0x54_0000;
/// Aligned and not, across cache lines, and across pages by one to eight bytes.
const OFFSETS: [u64; 8] = [0x2800, 0x2801, 0x2ff0, 0x2ff8, 0x2ff9, 0x2ffc, 0x2ffd, 0x2fff];

/// At how many offsets an instruction changes nothing: this processor has it not, it wants an aligned address, or the bit is so already.
const WITHOUT_EFFECT: [(&str, usize); 15] = [
    ("btr [rdi], rbx", 4),
    ("bts [rdi], rbx", 4),
    ("bts dword ptr [rdi], 5", 2),
    ("cmpxchg16b [rdi]", 6),
    ("fxsave [rdi]", 6),
    ("fxsave64 [rdi]", 6),
    ("lock btr dword ptr [rdi], 3", 4),
    ("lock bts [rdi], rbx", 4),
    ("lock cmpxchg16b [rdi]", 6),
    ("movbe [rdi], rax", 8),
    ("vmovdqu [rdi], ymm0", 8),
    ("xsave [rdi]", 7),
    ("xsave64 [rdi]", 7),
    ("xsavec [rdi]", 8),
    ("xsaveopt [rdi]", 7),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Free,
    Armed,
    Trapped,
}

#[derive(Debug, PartialEq, Eq)]
struct End {
    exit: Exit,
    cpu: u64,
    insns: u64,
    memory: Vec<u8>,
}

fn table() -> Vec<(Vec<u8>, &'static str)> {
    let line = |line: &'static str| {
        let (hex, name) = line.split_once('\t').expect("code and text");
        let byte = |index: usize| u8::from_str_radix(&hex[index..index + 2], 16).expect("hexadecimal");
        (PRELUDE.into_iter().chain((0..hex.len()).step_by(2).map(byte)).collect(), name)
    };
    TABLE.lines().map(line).collect()
}

fn image(table: &[(Vec<u8>, &str)]) -> Image {
    let mut text = vec![0xf4; table.len() * SLOT_BYTES as usize];
    for (slot, (code, _)) in table.iter().enumerate() {
        text[slot * SLOT_BYTES as usize..][..code.len()].copy_from_slice(code);
    }
    Image::from_code(TEXT, &text)
}

/// What the data area holds first: no byte is zero, neighbours differ, the four parts differ.
fn pattern() -> Vec<u8> {
    (0..END - DATA).map(|index| ((index as u8).wrapping_mul(7).wrapping_add(13) ^ ((index >> 16) as u8) << 1) | 1).collect()
}

fn registers(name: &str, entry: u64, halt: u64, offset: u64, ram: &GuestRam) -> Regs {
    let mut regs = Regs {
        rip: entry,
        rdi: DATA + offset,
        rsi: SOURCE,
        rsp: STACK + offset,
        rbp: FRAME + offset,
        rax: 0x1122_3344_5566_7788,
        rbx: 0x123,
        rcx: 3,
        rdx: halt,
        rflags: 3,
        ..Regs::default()
    };
    // A compare that succeeds stores something new.
    let (low, high) = (ram.read_u64(DATA + offset), ram.read_u64(DATA + offset + 8));
    if name.contains("cmpxchg16b") {
        (regs.rax, regs.rdx) = (low, high);
    } else if name.contains("cmpxchg8b") {
        (regs.rax, regs.rdx) = (low & 0xffff_ffff, low >> 32);
    } else if name.contains("cmpxchg") {
        regs.rax = low;
    } else if name.starts_with("xsave") {
        (regs.rax, regs.rdx) = (7, 0);
    }
    regs
}

fn run(machine: &mut Machine, ram: &GuestRam, regs: &Regs, guard: Guard) -> (End, BTreeSet<Pfn>) {
    let range = PageRange::new(Pfn(DATA / PAGE_SIZE), (END - DATA) / PAGE_SIZE);
    machine.disarm(range);
    range.pages().for_each(|pfn| machine.trap(pfn, guard == Guard::Trapped));
    if guard == Guard::Armed {
        machine.arm(range);
    }
    machine.drain_written();
    machine.set_regs(0, regs);
    let mut written = BTreeSet::new();
    let mut insns = 0;
    let exit = loop {
        let run = machine.run(0, 100);
        insns += run.insns;
        let Exit::Store { address, len } = run.exit else { break run.exit };
        assert_eq!(guard, Guard::Trapped);
        assert!(range.contains(Pfn(address / PAGE_SIZE)) && len > 0, "store of {len} at {address:#x}");
        let step = machine.step_store(0);
        assert_eq!((step.exit, step.insns), (Exit::Limit, 1));
        insns += step.insns;
    };
    written.extend(machine.drain_written());
    let mut memory = vec![0; (END - DATA) as usize];
    ram.read(DATA, &mut memory);
    (End { exit, cpu: machine.hash_cpu(0), insns, memory }, written)
}

#[test]
fn every_store_is_logged_and_a_trapped_one_happens_once() {
    let table = table();
    assert_eq!(table.len(), 138);
    let ram = Arc::new(GuestRam::new(8 << 20));
    let mut machine = Machine::new(Arc::clone(&ram), &image(&table), 1);
    let reset = machine.save();
    let mut without_effect: BTreeMap<&str, usize> = BTreeMap::new();
    for (slot, (code, name)) in table.iter().enumerate() {
        let entry = TEXT + slot as u64 * SLOT_BYTES;
        let halt = entry + code.len() as u64;
        for offset in OFFSETS {
            let mut before = pattern();
            before[(SOURCE - DATA + 64) as usize..][..8].copy_from_slice(&halt.to_le_bytes());
            let mut ends = Vec::new();
            for guard in [Guard::Free, Guard::Armed, Guard::Trapped] {
                machine.restore(&reset);
                ram.write_unlogged(DATA, &before);
                let regs = registers(name, entry, halt, offset, &ram);
                let (end, written) = run(&mut machine, &ram, &regs, guard);
                let changed: BTreeSet<Pfn> = (0..before.len())
                    .filter(|index| end.memory[*index] != before[*index])
                    .map(|index| Pfn((DATA + index as u64) / PAGE_SIZE))
                    .collect();
                if guard == Guard::Free {
                    if changed.is_empty() {
                        *without_effect.entry(name).or_default() += 1;
                    }
                } else {
                    assert!(written.is_superset(&changed), "{name} at +{offset:#x}, {guard:?}: {changed:?} changed, {written:?} logged");
                    assert_eq!(machine.drain_written(), []);
                }
                ends.push(end);
            }
            assert!(ends[0] == ends[1], "{name} at +{offset:#x}: armed pages change what it does: {:?}, {:?}", ends[0].exit, ends[1].exit);
            assert!(
                ends[0] == ends[2],
                "{name} at +{offset:#x}: trapped pages change what it does: {:?}, {:?}",
                ends[0].exit,
                ends[2].exit
            );
        }
    }
    assert_eq!(without_effect, BTreeMap::from(WITHOUT_EFFECT));
}
