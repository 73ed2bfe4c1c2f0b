//! A machine's vCPUs: run to an exact instruction, stop in front of what the world must decide.
//!
//! An exit that is *about to* happen (a device access, a store to a trapped page, a fault) leaves the vCPU in front of the instruction; the
//! caller finishes it, lets it through, or gives up. How a run is cut into slices changes nothing: not the registers, not memory, not the
//! exits, not the counts.

use std::sync::Arc;

use host::event::{PageRange, Pfn};
use host::memory::GuestRam;
use iced_x86::Instruction;
use wire::platform::{self, PAGE_SHIFT, PAGE_SIZE};

use super::decode::{self, MemoryUse};
use super::hooks::{Refused, Returned, Stop, Tracepoint};
use super::irq::{Change, IrqOff, IrqState, Switch};
use super::pages::{self, Access, PagesState, Refusal};
use super::pool::Lease;
use super::regs::{GENERAL, RFLAGS_CLEARED_BY_INTERRUPT, RFLAGS_IF, Reg, RegHash, Regs, SPECIAL, WideReg, wide_registers};
use super::{Blob, FAST, SLOW};
use crate::image::Image;

/// Up to so many instructions the slow engine alone is quicker than both.
const SLOW_INSNS_MAX: u64 = 64;
/// Most frames of a backtrace.
const BACKTRACE_MAX: usize = 64;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A tracepoint was said; the vCPU stands behind it, and behind the `ret` that follows it, if one does.
    Trace {
        /// One of `wire::debug`'s codes, from EAX.
        code: u32,
        /// First argument, from RDI.
        a: u64,
        /// Second argument, from RSI.
        b: u64,
    },
    /// About to load from a device: [`Machine::finish_mmio_read`].
    MmioRead {
        /// First byte.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        len: u8,
    },
    /// About to store to a device: [`Machine::finish_mmio_write`].
    MmioWrite {
        /// First byte.
        address: u64,
        /// 1, 2, 4 or 8 bytes.
        len: u8,
        /// What is stored.
        value: u64,
    },
    /// Behind a `hlt`.
    Halt,
    /// About to store to a trapped page: [`Machine::step_store`]. An instruction that consists of several stores (SSE, x87, `fxsave`,
    /// `enter`) and began on the page before has made those to that page already; they are logged, and it makes them again.
    Store {
        /// First byte of the store; the trapped page's first byte when the instruction does not tell.
        address: u64,
        /// Size, bytes; 255 stands for more.
        len: u8,
    },
    /// The instructions that were asked for are executed.
    Limit,
    /// About to use a page that has not arrived: [`Machine::set_missing`].
    Missing {
        /// Which.
        pfn: Pfn,
    },
    /// About to do what the machine has not: the guest is broken.
    Fault {
        /// What it tried.
        kind: FaultKind,
        /// First byte of the access that cannot be made.
        address: u64,
    },
    /// An exception or software interrupt. For an exception the vCPU stands in front of the instruction, for `int` behind it.
    Exception {
        /// Vector (Intel SDM vol. 3 table 6-1).
        vector: u8,
    },
}

/// What a guest may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// An access to page 0.
    Null,
    /// An access to what is neither RAM nor a device, or to a device in a way that none understands.
    OutsideRam,
    /// A store to the image's text.
    WriteToText,
    /// Execution of what is not the image's text.
    ExecuteData,
    /// A page that has not arrived (only from [`Machine::interrupt`]): nothing is broken.
    Missing,
    /// An interrupt whose vector has no gate (only from [`Machine::interrupt`]); the address is the gate's.
    NoGate,
}

/// A fault outside of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What was tried.
    pub kind: FaultKind,
    /// Where.
    pub address: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Why.
    pub exit: Exit,
    /// Instructions executed; every round of a `rep` counts, and its end.
    pub insns: u64,
}

/// A vCPU's saved state: registers, and a tracepoint that was said but not yet reported.
#[derive(Debug, Clone)]
pub struct Context {
    blob: Blob,
    trace: Option<Tracepoint>,
    insns: u64,
    irq: IrqState,
}

/// All vCPUs' saved state, with the pages' traps and the log. Memory is saved by [`super::RamSnapshot`].
#[derive(Debug, Clone)]
pub struct CpuSnapshot {
    contexts: Vec<Context>,
    pages: PagesState,
}

/// The vCPUs of one guest.
#[derive(Debug)]
pub struct Machine {
    /// Declared before the RAM, so that it is given back first, and stands still when the RAM goes.
    engines: Lease,
    ram: Arc<GuestRam>,
    contexts: Vec<Context>,
    /// Which vCPU's registers an engine holds; that vCPU's context is then out of date.
    resident: [Option<usize>; 2],
}

impl Machine {
    /// Loads an image and returns its vCPUs after reset: at the entry, with their index in RDI and interrupts disabled.
    ///
    /// # Panics
    /// When the image does not fit into RAM.
    pub fn new(ram: Arc<GuestRam>, image: &Image, vcpus: usize) -> Machine {
        assert!((1..=platform::MAX_VCPUS).contains(&vcpus), "{vcpus} vCPUs");
        assert!(image.end() <= ram.bytes(), "the image ends at {:#x}, RAM at {:#x}", image.end(), ram.bytes());
        load(image, &ram);
        let engines = Lease::new(image, &ram);
        let context = Context { blob: engines.reset.clone(), trace: None, insns: 0, irq: IrqState::default() };
        let mut machine = Machine { engines, ram, contexts: vec![context; vcpus], resident: [None; 2] };
        machine.enter(image);
        machine
    }

    /// Loads the image again, and puts all vCPUs back to where they began. The counts of their instructions go on; traps and the log stay.
    pub fn reset(&mut self, image: &Image) {
        load(image, &self.ram);
        self.resident = [None; 2];
        for context in &mut self.contexts {
            let insns = context.insns;
            *context = Context { blob: self.engines.reset.clone(), trace: None, insns, irq: IrqState::default() };
        }
        self.enter(image);
    }

    fn enter(&mut self, image: &Image) {
        for cpu in 0..self.contexts.len() {
            let regs = Regs { rip: image.entry, rdi: cpu as u64, rflags: 2, ..Regs::default() };
            self.set_regs(cpu, &regs);
        }
    }

    /// Returns the number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.contexts.len()
    }

    /// Returns the RAM that the vCPUs run on.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Returns the instructions that a vCPU has executed since reset.
    pub fn insns(&self, cpu: usize) -> u64 {
        self.contexts[cpu].insns
    }

    /// Returns the longest stretch of instructions that a vCPU has executed with interrupts disabled, since reset or
    /// [`Machine::forget_irq_off`].
    pub fn irq_off(&self, cpu: usize) -> IrqOff {
        self.contexts[cpu].irq.longest(self.contexts[cpu].insns)
    }

    /// Forgets how long interrupts were disabled so far, on every vCPU.
    pub fn forget_irq_off(&mut self) {
        self.contexts.iter_mut().for_each(|context| context.irq.forget(context.insns));
    }

    /// Returns whether a vCPU is in an interrupt's handler.
    pub fn in_handler(&self, cpu: usize) -> bool {
        self.contexts[cpu].irq.in_handler()
    }

    /// Returns whether a vCPU's interrupts are enabled.
    pub fn irqs_enabled(&self, cpu: usize) -> bool {
        self.contexts[cpu].irq.is_on()
    }

    /// Returns the address of an `sti` that a vCPU executed in an interrupt's handler since the last call.
    pub fn take_enabled_in_handler(&mut self, cpu: usize) -> Option<u64> {
        self.contexts[cpu].irq.take_enabled_in_handler()
    }

    /// Returns a vCPU's stack pointer.
    pub fn stack_pointer(&self, cpu: usize) -> u64 {
        self.read(cpu, Reg::Rsp)
    }

    /// From here on the first store of guest code to each of these pages is listed once: [`Machine::take_followed`]. Beside the log, and not
    /// together with a [`super::RamSnapshot`], which follows stores in the same way.
    pub fn follow(&mut self, pages: &[Pfn]) {
        self.pages().retrack(pages);
    }

    /// Puts the followed pages behind `into` that were stored to since they were followed; they are not followed any more.
    pub fn take_followed(&mut self, into: &mut Vec<Pfn>) {
        into.extend(self.pages().touched());
    }

    /// Executes up to `insns_max` instructions.
    pub fn run(&mut self, cpu: usize, insns_max: u64) -> Run {
        let mut insns = 0;
        let exit = loop {
            let left = insns_max - insns;
            if left == 0 {
                break Exit::Limit;
            }
            let slow = left <= SLOW_INSNS_MAX || self.contexts[cpu].trace.is_some();
            let (returned, executed) = self.start(cpu, if slow { SLOW } else { FAST }, left);
            insns += executed;
            match returned {
                // The fast engine stopped before a block that is too long for it. A tail, or a block that must be stepped, is the other's.
                Returned::Stopped(stop @ (Stop::Limit | Stop::Stepped(_))) if !slow => {
                    let tail = match stop {
                        Stop::Stepped(block_insns) => block_insns.min(insns_max - insns),
                        Stop::Limit | Stop::Trace => insns_max - insns,
                    };
                    if tail == 0 {
                        break Exit::Limit;
                    }
                    let (returned, executed) = self.start(cpu, SLOW, tail);
                    insns += executed;
                    if !matches!(returned, Returned::Stopped(Stop::Limit)) {
                        break self.exit(cpu, SLOW, returned);
                    }
                }
                Returned::Stopped(_) | Returned::Halted | Returned::Refused(_) | Returned::Exception(_) => {
                    break self.exit(cpu, if slow { SLOW } else { FAST }, returned);
                }
            }
        };
        assert!(insns <= insns_max, "executed {insns} of {insns_max} instructions");
        Run { exit, insns }
    }

    /// Runs one engine. A tracepoint that is complete turns what happened behind it into [`Stop::Trace`].
    fn start(&mut self, cpu: usize, engine: usize, limit: u64) -> (Returned, u64) {
        self.bring(cpu, engine);
        if self.engines.hooks().pages.take_stale(engine) {
            self.engines.flush(engine);
        }
        let trace = self.contexts[cpu].trace.take();
        assert!(engine == SLOW || trace.is_none(), "the fast engine cannot finish a tracepoint");
        let Context { irq, insns, .. } = self.contexts[cpu];
        self.engines.hooks().trace = trace;
        self.engines.hooks().enter(irq, insns);
        let (returned, insns) = self.engines.start(engine, limit);
        self.contexts[cpu].insns += insns;
        let hooks = self.engines.hooks();
        let irq = hooks.leave(insns);
        hooks.pages.opened().for_each(|pfn| self.ram.touch(pfn));
        let trace = hooks.trace.take();
        self.contexts[cpu].irq = irq;
        debug_assert_eq!(irq.is_on(), self.read(cpu, Reg::Rflags) & RFLAGS_IF != 0, "the interrupt flag was switched unseen");
        let Some(mut trace) = trace else {
            return (returned, insns);
        };
        // What a fetch behind the `ret` comes to is found out again by the next run.
        let complete = match returned {
            Returned::Stopped(_) | Returned::Refused(Refused { access: Access::Fetch, .. }) => engine == FAST || !trace.ret_follows,
            Returned::Halted | Returned::Refused(_) | Returned::Exception(_) => false,
        };
        trace.ret_follows = !complete;
        self.contexts[cpu].trace = Some(trace);
        (if complete { Returned::Stopped(Stop::Trace) } else { returned }, insns)
    }

    /// Says what an engine's return means to the caller.
    fn exit(&mut self, cpu: usize, engine: usize, returned: Returned) -> Exit {
        match returned {
            Returned::Stopped(Stop::Trace) => {
                let Tracepoint { code, a, b, .. } = self.contexts[cpu].trace.take().expect("a tracepoint is behind us");
                Exit::Trace { code, a, b }
            }
            Returned::Stopped(Stop::Limit | Stop::Stepped(_)) => Exit::Limit,
            Returned::Halted => Exit::Halt,
            Returned::Exception(vector) => {
                self.engines.save(engine, &mut self.contexts[cpu].blob);
                self.contexts[cpu].blob.forget_exception();
                self.resident[engine] = None;
                Exit::Exception { vector }
            }
            Returned::Refused(refused) => self.refusal(cpu, refused),
        }
    }

    fn refusal(&self, cpu: usize, refused: Refused) -> Exit {
        let Refused { page, access, refusal } = refused;
        let used = self.memory_use(cpu, page, access);
        let kind = match refusal {
            Refusal::Trapped => {
                let (address, len) = used.map_or((page << PAGE_SHIFT, 1), |used| (used.address, used.len));
                return Exit::Store { address, len: len.min(255) as u8 };
            }
            Refusal::Missing => return Exit::Missing { pfn: Pfn(page) },
            Refusal::Mmio => match self.mmio(cpu, page) {
                Some(exit) => return exit,
                None => FaultKind::OutsideRam,
            },
            Refusal::Null => FaultKind::Null,
            Refusal::OutsideRam => FaultKind::OutsideRam,
            Refusal::WriteToText => FaultKind::WriteToText,
            Refusal::ExecuteData => FaultKind::ExecuteData,
        };
        let address = match access {
            Access::Fetch => self.read(cpu, Reg::Rip),
            Access::Read | Access::Write => used.map_or(0, |used| used.address),
        };
        // Of an access across pages, the part on the page that was refused is at fault.
        Exit::Fault { kind, address: address.max(page << PAGE_SHIFT) }
    }

    /// Returns the exit of an access that a device understands.
    fn mmio(&self, cpu: usize, page: u64) -> Option<Exit> {
        let (insn, used) = self.mmio_use(cpu, page)?;
        let (address, len) = (used.address, used.len as u8);
        if used.reads {
            return Some(Exit::MmioRead { address, len });
        }
        decode::stored_value(&insn, &self.regs(cpu)).map(|value| Exit::MmioWrite { address, len, value })
    }

    /// Returns the instruction at RIP if it does nothing with memory but load from a device, or store to one, once.
    fn mmio_use(&self, cpu: usize, page: u64) -> Option<(Instruction, MemoryUse)> {
        let (insn, uses) = self.memory_uses(cpu)?;
        let [used] = uses.as_slice() else { return None };
        let plain = used.reads != used.writes && matches!(used.len, 1 | 2 | 4 | 8) && used.address >> PAGE_SHIFT == page;
        (plain && pages::is_mmio(used.address, used.len)).then_some((insn, *used))
    }

    /// Returns the use of memory that needs a page, by the instruction at RIP.
    fn memory_use(&self, cpu: usize, page: u64, access: Access) -> Option<MemoryUse> {
        let (_, uses) = self.memory_uses(cpu)?;
        let touches = |used: &MemoryUse| {
            let last = used.address.wrapping_add(used.len - 1);
            (used.address >> PAGE_SHIFT..=last >> PAGE_SHIFT).contains(&page)
        };
        let wanted = |used: &MemoryUse| match access {
            Access::Write => used.writes,
            Access::Read => used.reads,
            Access::Fetch => false,
        };
        uses.into_iter().find(|used| wanted(used) && touches(used))
    }

    fn memory_uses(&self, cpu: usize) -> Option<(Instruction, Vec<MemoryUse>)> {
        let regs = self.regs(cpu);
        let insn = self.engines.hooks_ref().text.insn(regs.rip)?;
        let uses = decode::memory_uses(&insn, &regs, self.read(cpu, Reg::FsBase), self.read(cpu, Reg::GsBase));
        Some((insn, uses))
    }

    /// Ends an [`Exit::MmioRead`]: the load gets `value`, and one instruction is executed.
    ///
    /// # Panics
    /// When the vCPU does not stand in front of a load from a device.
    pub fn finish_mmio_read(&mut self, cpu: usize, value: u64) {
        let (_, uses) = self.memory_uses(cpu).expect("in front of a device access");
        let used = uses[0];
        assert!(used.reads && pages::is_mmio(used.address, used.len), "{used:?} is no load from a device");
        self.engines.set_scratch(used.address % PAGE_SIZE, &value.to_le_bytes()[..used.len as usize]);
        self.engines.hooks().scratch = Some(used.address >> PAGE_SHIFT);
        let (returned, insns) = self.start(cpu, SLOW, 1);
        let hooks = self.engines.hooks();
        hooks.scratch = None;
        hooks.pages.make_stale(SLOW);
        assert_eq!((returned, insns), (Returned::Stopped(Stop::Limit), 1), "a load from a device");
    }

    /// Ends an [`Exit::MmioWrite`]: the instruction is executed, the caller has stored the value.
    ///
    /// # Panics
    /// When the vCPU does not stand in front of a store to a device.
    pub fn finish_mmio_write(&mut self, cpu: usize) {
        let (insn, uses) = self.memory_uses(cpu).expect("in front of a device access");
        let used = uses[0];
        assert!(used.writes && pages::is_mmio(used.address, used.len), "{used:?} is no store to a device");
        let engine = self.any_engine(cpu);
        self.engines.write(engine, Reg::Rip, insn.next_ip());
        self.contexts[cpu].insns += 1;
    }

    /// Executes the one instruction that [`Exit::Store`] stands in front of (of a `rep`, one round). The pages that it stores to are logged,
    /// trapped or armed. The run's exit is [`Exit::Limit`] unless the instruction faults for another reason.
    pub fn step_store(&mut self, cpu: usize) -> Run {
        self.engines.hooks().pages.begin_pass();
        let (returned, insns) = self.start(cpu, SLOW, 1);
        self.engines.hooks().pages.end_pass(SLOW);
        Run { exit: self.exit(cpu, SLOW, returned), insns }
    }

    /// From here on, the first store to each of these pages is logged: [`Machine::drain_written`].
    pub fn arm(&mut self, range: PageRange) {
        self.engines.hooks().pages.arm(range);
    }

    /// Takes [`Machine::arm`] back.
    pub fn disarm(&mut self, range: PageRange) {
        self.engines.hooks().pages.disarm(range);
    }

    /// Switches on or off that every store to a page exits with [`Exit::Store`] first.
    pub fn trap(&mut self, pfn: Pfn, on: bool) {
        self.engines.hooks().pages.trap(pfn, on);
    }

    /// From here on a use of one of these pages exits in front of it, a bit each, and of no others.
    pub fn set_missing(&mut self, words: impl Iterator<Item = u64>) {
        self.engines.hooks().pages.set_missing(words);
    }

    /// The same for uses that write.
    pub fn set_protected(&mut self, words: impl Iterator<Item = u64>) {
        self.engines.hooks().pages.set_protected(words);
    }

    /// Returns the pages that were logged since the last call, in order of the first store.
    pub fn drain_written(&mut self) -> Vec<Pfn> {
        self.engines.hooks().pages.drain_written()
    }

    /// From here on it is noted which pages each move of guest code uses: [`Machine::begin_move`], [`Machine::take_uses`]. Every page that a
    /// move stores to is logged once in it, armed or not.
    pub fn note_uses(&mut self) {
        self.pages().note_uses();
    }

    /// The next move begins: what it uses is found out from here on.
    pub fn begin_move(&mut self) {
        self.pages().begin_move();
    }

    /// Puts the pages that were read behind `looked`, some more than once, and those that were stored to behind `changed`.
    pub fn take_uses(&mut self, looked: &mut Vec<u32>, changed: &mut Vec<u32>) {
        self.pages().take_uses(looked, changed);
    }

    /// Copies a whole page into RAM, as if it had been there before: nobody wrote it.
    pub fn put_page(&mut self, pfn: Pfn, bytes: &[u8; PAGE_SIZE as usize]) {
        super::copy_to_ram(&self.ram, pfn.address(), bytes);
    }

    /// Copies a whole page out of RAM: nobody read it.
    pub fn copy_page(&self, pfn: Pfn, bytes: &mut [u8; PAGE_SIZE as usize]) {
        super::copy_from_ram(&self.ram, pfn.address(), bytes);
    }

    /// The pages' state, for snapshots of memory.
    pub(super) fn pages(&mut self) -> &mut pages::Pages {
        &mut self.engines.hooks().pages
    }

    /// Returns whether an interrupt may be delivered now: interrupts are enabled, since more than one instruction, and no tracepoint is
    /// half said.
    pub fn can_interrupt(&self, cpu: usize) -> bool {
        let enabled = self.read(cpu, Reg::Rflags) & RFLAGS_IF != 0;
        enabled && self.contexts[cpu].trace.is_none() && !self.engines.hooks_ref().text.follows_sti(self.read(cpu, Reg::Rip))
    }

    /// Delivers an interrupt through the guest's IDT (Intel SDM vol. 3 §6.14). The frame's pages are logged as stores are; traps do not
    /// stop it. On a fault nothing has happened.
    ///
    /// Differs: no stack switch and no privilege change, for the guest has neither.
    ///
    /// # Panics
    /// When the vCPU cannot be interrupted.
    pub fn interrupt(&mut self, cpu: usize, vector: u8) -> Result<(), Fault> {
        assert!(self.can_interrupt(cpu), "interrupt {vector:#x} while vCPU {cpu} does not take any");
        let handler = self.gate(cpu, vector)?;
        let regs = self.regs(cpu);
        let frame = (regs.rsp & !15).wrapping_sub(40);
        for page in [frame >> PAGE_SHIFT, frame.wrapping_add(39) >> PAGE_SHIFT] {
            let check = self.engines.hooks().pages.check_store(page);
            check.map_err(|refusal| Fault { kind: fault_kind(refusal), address: frame.max(page << PAGE_SHIFT) })?;
        }
        for page in frame >> PAGE_SHIFT..=(frame + 39) >> PAGE_SHIFT {
            self.engines.hooks().pages.record(page);
        }
        let words = [regs.rip, self.read(cpu, Reg::Cs) & 0xffff, regs.rflags, regs.rsp, self.read(cpu, Reg::Ss) & 0xffff];
        for (index, word) in words.into_iter().enumerate() {
            super::copy_to_ram(&self.ram, frame + 8 * index as u64, &word.to_le_bytes());
        }
        (frame >> PAGE_SHIFT..=(frame + 39) >> PAGE_SHIFT).for_each(|page| self.ram.touch(Pfn(page)));
        let engine = self.any_engine(cpu);
        self.engines.write(engine, Reg::Rsp, frame);
        self.engines.write(engine, Reg::Rip, handler);
        self.engines.write(engine, Reg::Rflags, regs.rflags & !RFLAGS_CLEARED_BY_INTERRUPT);
        self.note_irq_flag(cpu, handler, Change::Enter);
        Ok(())
    }

    /// Returns the handler of a vector.
    fn gate(&self, cpu: usize, vector: u8) -> Result<u64, Fault> {
        let [_, base, limit_and_flags] = self.read_wide(cpu, WideReg::Idtr);
        let gate = base + 16 * u64::from(vector);
        let no_gate = Fault { kind: FaultKind::NoGate, address: gate };
        if 16 * u64::from(vector) + 15 > limit_and_flags & 0xffff_ffff || gate + 16 > self.ram.bytes() {
            return Err(no_gate);
        }
        if self.engines.hooks_ref().pages.is_missing(gate >> PAGE_SHIFT) {
            return Err(Fault { kind: FaultKind::Missing, address: gate });
        }
        let (low, high) = (self.ram.read_u64(gate), self.ram.read_u64(gate + 8));
        let (present, kind, stack) = (low >> 47 & 1, low >> 40 & 0x1f, low >> 32 & 7);
        let handler = (low & 0xffff) | (low >> 48 << 16) | (high & 0xffff_ffff) << 32;
        if present != 1 || kind != 0xe || stack != 0 || self.engines.hooks_ref().text.insn(handler).is_none() {
            return Err(no_gate);
        }
        Ok(handler)
    }

    /// Returns a vCPU's general registers.
    pub fn regs(&self, cpu: usize) -> Regs {
        Regs::from_values(GENERAL.map(|reg| self.read(cpu, reg)))
    }

    /// Sets a vCPU's general registers.
    pub fn set_regs(&mut self, cpu: usize, regs: &Regs) {
        let engine = self.any_engine(cpu);
        for (reg, value) in GENERAL.into_iter().zip(regs.values()) {
            self.engines.write(engine, reg, value);
        }
        self.note_irq_flag(cpu, regs.rip, if regs.rflags & RFLAGS_IF != 0 { Change::On } else { Change::Off });
    }

    /// The interrupt flag was set or cleared from outside, in front of the instruction at an address.
    fn note_irq_flag(&mut self, cpu: usize, from: u64, change: Change) {
        let context = &mut self.contexts[cpu];
        context.irq.switch(Switch { at_insns: context.insns, from, change });
    }

    /// Returns a vCPU's state.
    pub fn save_context(&self, cpu: usize) -> Context {
        let mut context = self.contexts[cpu].clone();
        if let Some(engine) = self.place(cpu) {
            self.engines.save(engine, &mut context.blob);
        }
        context
    }

    /// Puts a vCPU's state back. The count of its instructions goes on; those since count for no stretch with interrupts disabled.
    pub fn restore_context(&mut self, cpu: usize, context: &Context) {
        let insns = self.contexts[cpu].insns;
        if let Some(engine) = self.place(cpu) {
            self.resident[engine] = None;
        }
        self.contexts[cpu].clone_from(context);
        self.contexts[cpu].insns = insns;
        self.contexts[cpu].irq.go_on(context.insns, insns);
    }

    /// Returns the state of all vCPUs, the traps, and the log.
    pub fn save(&self) -> CpuSnapshot {
        let contexts = (0..self.vcpus()).map(|cpu| self.save_context(cpu)).collect();
        CpuSnapshot { contexts, pages: self.engines.hooks_ref().pages.save() }
    }

    /// Puts back what [`Machine::save`] returned. Memory is the caller's.
    pub fn restore(&mut self, snapshot: &CpuSnapshot) {
        assert_eq!(snapshot.contexts.len(), self.contexts.len(), "a snapshot of another number of vCPUs");
        self.resident = [None; 2];
        self.contexts.clone_from(&snapshot.contexts);
        self.engines.hooks().pages.restore(&snapshot.pages);
    }

    /// From here on [`GuestRam::take_touched`] tells of guest code's stores, too: every page that guest code uses is opened anew.
    pub fn open_anew(&mut self) {
        let pages = self.pages();
        [FAST, SLOW].into_iter().for_each(|engine| pages.make_stale(engine));
    }

    /// Returns a hash of all that a vCPU's future depends on, memory aside.
    pub fn hash_cpu(&self, cpu: usize) -> u64 {
        let mut hash = RegHash::default();
        for reg in GENERAL.into_iter().chain(SPECIAL) {
            hash.add(self.read(cpu, reg));
        }
        for reg in wide_registers() {
            self.read_wide(cpu, reg).into_iter().for_each(|word| hash.add(word));
        }
        if let Some(Tracepoint { code, a, b, ret_follows }) = self.contexts[cpu].trace {
            [1, u64::from(code), a, b, u64::from(ret_follows)].into_iter().for_each(|word| hash.add(word));
        }
        hash.finish()
    }

    /// Returns RIP and the return addresses that the chain of frame pointers leads to, innermost first. Stops at what looks wrong.
    pub fn backtrace(&self, cpu: usize) -> Vec<u64> {
        let regs = self.regs(cpu);
        let mut addresses = vec![regs.rip];
        let mut frame = regs.rbp;
        while addresses.len() < BACKTRACE_MAX && frame >= PAGE_SIZE && frame.is_multiple_of(8) && frame <= self.ram.bytes() - 16 {
            let (next, address) = (self.ram.read_u64(frame), self.ram.read_u64(frame + 8));
            if self.engines.hooks_ref().text.insn(address).is_none() {
                break;
            }
            addresses.push(address);
            if next <= frame {
                break;
            }
            frame = next;
        }
        addresses
    }

    /// Loads a vCPU's context into an engine, unless it is there.
    fn bring(&mut self, cpu: usize, engine: usize) {
        if self.resident[engine] == Some(cpu) {
            return;
        }
        for source in [FAST, SLOW] {
            if let Some(resident) = self.resident[source].filter(|resident| *resident == cpu || source == engine) {
                self.engines.save(source, &mut self.contexts[resident].blob);
                self.resident[source] = None;
            }
        }
        self.engines.load(engine, &self.contexts[cpu].blob);
        self.resident[engine] = Some(cpu);
    }

    /// Returns an engine that holds a vCPU's registers.
    fn any_engine(&mut self, cpu: usize) -> usize {
        match self.place(cpu) {
            Some(engine) => engine,
            None => {
                self.bring(cpu, FAST);
                FAST
            }
        }
    }

    fn place(&self, cpu: usize) -> Option<usize> {
        [FAST, SLOW].into_iter().find(|engine| self.resident[*engine] == Some(cpu))
    }

    fn read(&self, cpu: usize, reg: Reg) -> u64 {
        match self.place(cpu) {
            Some(engine) => self.engines.read(engine, reg),
            None => self.contexts[cpu].blob.read(reg),
        }
    }

    fn read_wide(&self, cpu: usize, reg: WideReg) -> [u64; 3] {
        match self.place(cpu) {
            Some(engine) => self.engines.read_wide(engine, reg),
            None => self.contexts[cpu].blob.read_wide(reg),
        }
    }
}

/// Puts an image where it runs.
fn load(image: &Image, ram: &GuestRam) {
    for segment in &image.segments {
        let mut bytes = segment.bytes.clone();
        bytes.resize(segment.mem_bytes as usize, 0);
        ram.write_unlogged(segment.address, &bytes);
    }
}

fn fault_kind(refusal: Refusal) -> FaultKind {
    match refusal {
        Refusal::Null => FaultKind::Null,
        Refusal::WriteToText => FaultKind::WriteToText,
        Refusal::ExecuteData => FaultKind::ExecuteData,
        Refusal::Missing => FaultKind::Missing,
        Refusal::OutsideRam | Refusal::Mmio | Refusal::Trapped => FaultKind::OutsideRam,
    }
}
