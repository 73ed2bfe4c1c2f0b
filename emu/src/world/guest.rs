//! The guest's vCPUs as actors: what each is about to do, and its exits.
//!
//! A vCPU runs guest code until it says something (a tracepoint), touches a device, is about to store to a named page, or halts. What it is
//! about to do then is its [`Pending`] move; the move is made when the schedule picks the vCPU again, so that other actors can come first.

use std::collections::BTreeSet;

use host::dirty::accel::{LogMode, Store, StoreKind};
use host::event::{Actor, Event, EventKind, Level, LockId, PageRange, Pfn};
use host::step::Move;
use wire::debug;
use wire::platform::{self, lapic, vector};

use crate::oracle::guest_mm;
use crate::outcome::GuestCrash;
use crate::scenario::model::Grain;
use crate::vcpu::{Context, Exit, FaultKind};
use crate::world::ring::RingStage;
use crate::world::tracepoint::{self, Tracepoint};
use crate::world::{Readiness, Window, World, object};

/// What a vCPU will do when it moves next.
#[derive(Debug, Clone, Hash)]
pub(super) enum Pending {
    /// Go on with guest code; nothing is announced.
    Run,
    /// The event is about to happen, or has just happened and is not told yet.
    Announced(Event),
    /// Try a guest lock again; worth it once the word is 0.
    Spin {
        /// Which lock.
        lock: u32,
        /// Address of its word.
        address: u64,
    },
    /// Look again at a word that the device changes; worth it once it differs.
    Poll {
        /// Address of the 16-bit word.
        address: u64,
        /// What was found there.
        value: u16,
    },
    /// Store to a named page.
    Store {
        /// First byte.
        address: u64,
        /// Bytes.
        len: u8,
        /// The store is recorded, but not made yet.
        marked: bool,
    },
    /// Access the device's registers, once the locks are taken.
    Device {
        /// The access.
        access: Access,
        /// How many of the locks it needs are taken.
        taken: usize,
    },
    /// Use a page that has not arrived.
    Missing {
        /// Which.
        pfn: Pfn,
    },
    /// Have its dirty ring reaped, which is full, and go on.
    RingFull {
        /// How far that is.
        stage: RingStage,
        /// What it does then.
        then: Box<Pending>,
    },
    /// Nothing, until an interrupt comes.
    Halted,
    /// Nothing: it has asked for the machine's reset (QEMU: cpu_stop_current()).
    Stopped,
    /// Nothing, ever.
    Dead,
}

/// An access to a device register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Access {
    /// Offset in the device's window.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u8,
    /// The value written; `None` for a read.
    pub(super) write: Option<u64>,
}

/// An injected store on its way: what the vCPU did before.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    context: Context,
    pub(super) resume: Pending,
    /// When the vCPU would have gone on, nanoseconds.
    resume_ns: u64,
    /// The injection.
    pub(super) injection: usize,
    /// Hash of the registers in `context`.
    pub(super) hash: u64,
    /// What tracking takes the store for.
    pub(super) kind: StoreKind,
}

/// A vCPU, but for its registers.
#[derive(Debug, Clone)]
pub(super) struct Vcpu {
    /// What it does next.
    pub(super) pending: Pending,
    /// Interrupts that wait to be taken.
    pub(super) interrupts: BTreeSet<u8>,
    /// When its timer fires.
    pub(super) timer_ns: Option<u64>,
    pub(super) icr_high: u32,
    pub(super) clock_latch: u32,
    /// An injected store, if one is under way.
    pub(super) frame: Option<Frame>,
    /// Guest instructions executed.
    pub(super) insns: u64,
    /// The vCPU stops exactly there for an injection.
    pub(super) stop_at_insns: Option<u64>,
}

impl Vcpu {
    /// Returns a vCPU at its first instruction.
    pub(super) fn new() -> Self {
        Self {
            pending: Pending::Run,
            interrupts: BTreeSet::new(),
            timer_ns: None,
            icr_high: 0,
            clock_latch: 0,
            frame: None,
            insns: 0,
            stop_at_insns: None,
        }
    }

    /// Returns whether the vCPU is in guest code, at an instruction boundary: there a store can be put in.
    pub(super) fn at_boundary(&self) -> bool {
        match self.pending {
            Pending::Run | Pending::Announced(_) | Pending::Spin { .. } | Pending::Poll { .. } | Pending::Halted => self.frame.is_none(),
            Pending::Store { marked, .. } => !marked && self.frame.is_none(),
            // The thread sits in its page fault.
            Pending::Missing { .. } => false,
            Pending::Device { .. } | Pending::RingFull { .. } | Pending::Stopped | Pending::Dead => false,
        }
    }
}

impl World {
    /// Returns whether the vCPU has left the guest for a device's register, and goes on with that.
    pub(super) fn is_at_device(&self, cpu: usize) -> bool {
        matches!(self.state.vcpus[cpu].pending, Pending::Device { .. }) && self.vcpu_next(cpu) != Readiness::Idle
    }

    /// Returns what the vCPU would do next.
    pub(super) fn vcpu_next(&self, cpu: usize) -> Readiness {
        let vcpu = &self.state.vcpus[cpu];
        let reaping = matches!(vcpu.pending, Pending::RingFull { stage, .. } if stage.holds_lock());
        let stopped = !self.state.vmm.vm.running || self.state.vmm.vcpus_paused();
        if stopped && !reaping && !matches!(vcpu.pending, Pending::Device { taken: 1.., .. }) {
            return Readiness::Idle;
        }
        if vcpu.stop_at_insns == Some(vcpu.insns) && !matches!(vcpu.pending, Pending::RingFull { .. }) {
            return Readiness::Idle;
        }
        match &vcpu.pending {
            Pending::Run => Readiness::Ready(None),
            Pending::Announced(event) => Readiness::Ready(Some(Move::of(event))),
            Pending::Spin { lock, address } => {
                let free = self.ram.read_u32(*address) == 0;
                if free || self.can_interrupt(cpu) { Readiness::Ready(None) } else { Readiness::GuestLock(*lock) }
            }
            Pending::Poll { address, value } => {
                let changed = self.ram.read_u16(*address) != *value;
                if changed || self.can_interrupt(cpu) { Readiness::Ready(None) } else { Readiness::UsedBuffer }
            }
            Pending::Store { address, marked, .. } => Readiness::Ready(Some(self.store_move(cpu, *address, *marked))),
            Pending::Device { access, taken } => match self.device_locks(*access).get(*taken) {
                Some(lock) => Readiness::Lock(*lock),
                None => Readiness::Ready(self.device_move(*access)),
            },
            Pending::Missing { pfn } => self.missing_next(*pfn),
            Pending::RingFull { stage, .. } => stage.next(),
            Pending::Halted if self.can_interrupt(cpu) => Readiness::Ready(None),
            Pending::Halted => vcpu.timer_ns.map_or(Readiness::Idle, Readiness::At),
            Pending::Stopped | Pending::Dead => Readiness::Idle,
        }
    }

    /// Returns whether some vCPU has recorded a store and not made it yet (QEMU waits for it after a sync).
    pub(super) fn vcpus_in_store(&self) -> bool {
        self.state.vcpus.iter().any(|vcpu| matches!(vcpu.pending, Pending::Store { marked: true, .. }))
    }

    /// Returns what the vCPU would do with the locks that it asks for.
    pub(super) fn vcpu_behind_lock(&self, cpu: usize) -> Option<Move> {
        match &self.state.vcpus[cpu].pending {
            Pending::Device { access, .. } => self.device_move(*access),
            Pending::RingFull { .. } => Some(Move::plain(EventKind::RingReap)),
            Pending::Run
            | Pending::Announced(_)
            | Pending::Spin { .. }
            | Pending::Poll { .. }
            | Pending::Store { .. }
            | Pending::Missing { .. }
            | Pending::Halted
            | Pending::Stopped
            | Pending::Dead => None,
        }
    }

    fn can_interrupt(&self, cpu: usize) -> bool {
        let vcpu = &self.state.vcpus[cpu];
        vcpu.frame.is_none() && !vcpu.interrupts.is_empty() && self.machine.can_interrupt(cpu)
    }

    /// Makes the vCPU's move, and returns its cost in nanoseconds.
    pub(super) fn vcpu_step(&mut self, cpu: usize) -> u64 {
        let pending = std::mem::replace(&mut self.state.vcpus[cpu].pending, Pending::Run);
        match pending {
            Pending::Run | Pending::Spin { .. } | Pending::Poll { .. } => self.vcpu_run(cpu),
            Pending::Announced(event) => {
                self.emit(Actor::Vcpu(cpu as u8), event);
                self.vcpu_run(cpu)
            }
            Pending::Store { address, len, marked } => self.vcpu_store(cpu, address, len, marked),
            Pending::Device { access, taken } => self.vcpu_device(cpu, access, taken),
            Pending::Missing { pfn } => self.vcpu_missing(cpu, pfn),
            Pending::RingFull { stage, then } => self.vcpu_ring_full(cpu, stage, then),
            Pending::Halted => {
                if self.state.vcpus[cpu].timer_ns.is_some_and(|at| at <= self.state.now_ns) {
                    self.state.vcpus[cpu].timer_ns = None;
                    self.state.vcpus[cpu].interrupts.insert(vector::TIMER);
                }
                self.vcpu_run(cpu)
            }
            Pending::Stopped | Pending::Dead => unreachable!("a vCPU that is stopped or dead has no moves"),
        }
    }

    /// Takes an interrupt if one waits, then runs guest code until the vCPU has something to do that others may come before.
    pub(super) fn vcpu_run(&mut self, cpu: usize) -> u64 {
        let mut cost = self.costs.guest_step_ns;
        self.vcpu_timer(cpu);
        let budget = self.scenario.limits.step_insns;
        // Where a search chooses before each instruction, one is a move.
        let single = self.state.window == Window::Open && self.scenario.search.grain == Grain::Instruction;
        let mut left = budget;
        self.state.vmm.accel.vcpu_goes_on(cpu as u8);
        loop {
            if self.ring_is_full(cpu) {
                self.state.vcpus[cpu].pending = Pending::full(Pending::Run);
                return cost;
            }
            if self.can_interrupt(cpu) {
                match self.take_interrupt(cpu) {
                    Some(cost_ns) => cost += cost_ns,
                    None => return cost,
                }
            }
            let stop = self.state.vcpus[cpu].stop_at_insns.map_or(left, |stop| left.min(stop - self.state.vcpus[cpu].insns));
            // An interrupt that waits for the guest to allow it is taken at the first instruction that does.
            let waits = self.state.vcpus[cpu].frame.is_none() && !self.state.vcpus[cpu].interrupts.is_empty();
            // An instruction stores to one page, mostly: none is missed when the ring has no room for more.
            let stop = stop.min(self.state.vmm.accel.ring_room(cpu as u8));
            let run = self.machine.run(cpu, if waits || single { stop.min(1) } else { stop });
            self.state.vcpus[cpu].insns += run.insns;
            left = left.saturating_sub(run.insns);
            self.guest_wrote(cpu);
            if self.vcpu_exit(cpu, run.exit, &mut cost) || single {
                return cost;
            }
            if left == 0 {
                self.crash(cpu, format!("no event in {budget} instructions: an endless loop"));
                return cost;
            }
        }
    }

    /// Enters the handler of the first interrupt that waits, and returns what that costs; `None` when the guest has died of it, or has to wait for a page.
    fn take_interrupt(&mut self, cpu: usize) -> Option<u64> {
        let first = self.state.vcpus[cpu].interrupts.pop_first().expect("an interrupt waits");
        if let Err(fault) = self.machine.interrupt(cpu, first) {
            if fault.kind == FaultKind::Missing {
                self.state.vcpus[cpu].interrupts.insert(first);
                self.state.vcpus[cpu].pending = Pending::Missing { pfn: self.store_page(fault.address) };
                return None;
            }
            self.crash(cpu, format!("interrupt {first:#x} cannot be taken: {}", fault_text(fault.kind, fault.address)));
            return None;
        }
        self.guest_wrote(cpu);
        Some(if first == vector::VIRTIO { self.costs.irq_ns } else { self.costs.exit_ns })
    }

    /// Deals with an exit; returns whether the vCPU's step ends with it.
    fn vcpu_exit(&mut self, cpu: usize, exit: Exit, cost: &mut u64) -> bool {
        let pending = match exit {
            Exit::Trace { code, a, b } => {
                self.guest_said(cpu, code, a, b);
                let said = tracepoint::decode(code, a, b, self.state.hints, &self.ram);
                match self.vcpu_said(cpu, said, cost) {
                    Some(pending) => pending,
                    None => return true,
                }
            }
            Exit::MmioRead { address, len } => match self.platform_read(cpu, address) {
                Some(value) => {
                    self.machine.finish_mmio_read(cpu, value);
                    self.state.vcpus[cpu].insns += 1;
                    return false;
                }
                None => Pending::Device { access: self.device_access(address, len, None), taken: 0 },
            },
            Exit::MmioWrite { address, len, value } => {
                if self.platform_write(cpu, address, value) {
                    self.machine.finish_mmio_write(cpu);
                    self.state.vcpus[cpu].insns += 1;
                    if address == platform::RESET {
                        self.state.vcpus[cpu].pending = Pending::Stopped;
                    }
                    return address == platform::RESET;
                }
                Pending::Device { access: self.device_access(address, len, Some(value)), taken: 0 }
            }
            Exit::Missing { pfn } => Pending::Missing { pfn },
            Exit::Halt => Pending::Halted,
            Exit::Store { address, len } => Pending::Store { address, len, marked: false },
            Exit::Limit => {
                if self.state.vcpus[cpu].stop_at_insns == Some(self.state.vcpus[cpu].insns) {
                    Pending::Run
                } else {
                    return false;
                }
            }
            Exit::Fault { kind, address } => {
                self.crash(cpu, fault_text(kind, address));
                return true;
            }
            Exit::Exception { vector } => {
                self.crash(cpu, exception_text(vector));
                return true;
            }
        };
        *cost += if matches!(pending, Pending::Device { .. }) { self.costs.exit_ns } else { 0 };
        self.state.vcpus[cpu].pending = pending;
        true
    }

    /// Takes in what the guest said; returns what the vCPU does next, or `None` when that is settled.
    fn vcpu_said(&mut self, cpu: usize, said: Tracepoint, cost: &mut u64) -> Option<Pending> {
        match said {
            Tracepoint::Event(event) => {
                if matches!(event, Event::GuestHint { .. }) {
                    self.state.hints += 1;
                    self.used.changed |= object::HINTS;
                }
                if event == Event::GuestReady {
                    if !self.state.ready {
                        self.machine.forget_irq_off();
                    }
                    let Some(stub) = guest_mm::inject_stub(&self.ram) else {
                        self.crash(cpu, "the driver is up, but the kernel has published nothing of itself".to_owned());
                        return None;
                    };
                    self.state.inject_stub = stub;
                }
                self.learn_pages(&event);
                Some(Pending::Announced(event))
            }
            // A thread that finds a mutex held goes to sleep: its vCPU has other things to do.
            Tracepoint::Spin { lock, .. } if debug::lock::SLEEPING.contains(&u64::from(lock)) => Some(Pending::Run),
            Tracepoint::Spin { lock, address } => Some(Pending::Spin { lock, address }),
            Tracepoint::Poll { address, value } => Some(Pending::Poll { address, value }),
            Tracepoint::Panic(message) | Tracepoint::Nonsense(message) => {
                self.crash(cpu, message);
                None
            }
            Tracepoint::InjectEnd => {
                *cost = self.injected_store_ends(cpu);
                None
            }
        }
    }

    /// What a store to a named page would do first: be recorded, or be made.
    fn store_move(&self, cpu: usize, address: u64, marked: bool) -> Move {
        let page = self.store_page(address);
        match self.mark_due(cpu, page, marked) {
            true => Move::on(EventKind::DirtyMark, PageRange::page(page)),
            false => Move::on(EventKind::GuestWrite, PageRange::page(page)),
        }
    }

    fn store_page(&self, address: u64) -> Pfn {
        Pfn(address >> platform::PAGE_SHIFT)
    }

    /// Returns whether the store has to be recorded before it is made. A vCPU under KVM faults again when the page was protected again
    /// meanwhile; TCG's slow path has left the check behind once it has marked.
    fn mark_due(&self, cpu: usize, page: Pfn, marked: bool) -> bool {
        let due = self.state.vmm.accel.would_mark(self.store_of(cpu, page), &self.state.vmm.d, &self.faults).is_some();
        due && !(marked && self.state.vmm.accel.mode() == LogMode::Tcg)
    }

    fn vcpu_store(&mut self, cpu: usize, address: u64, len: u8, marked: bool) -> u64 {
        let page = self.store_page(address);
        let actor = Actor::Vcpu(cpu as u8);
        self.state.vmm.accel.vcpu_goes_on(cpu as u8);
        if self.mark_due(cpu, page, marked) {
            let level = self.record_store(cpu, page).expect("a mark is due");
            self.emit(actor, Event::DirtyMark { pfn: page, level });
            let store = Pending::Store { address, len, marked: true };
            self.state.vcpus[cpu].pending = if self.ring_is_full(cpu) { Pending::full(store) } else { store };
            return self.costs.tracked_store_ns;
        }
        if !marked {
            // It leaves no mark, which is not to say that it leaves everything as it was.
            self.record_store(cpu, page);
        }
        let run = self.machine.step_store(cpu);
        self.state.vcpus[cpu].insns += run.insns;
        if let Exit::Missing { pfn } = run.exit {
            // The store goes on to a page that is not there: none of it is made.
            self.state.vcpus[cpu].pending = Pending::Missing { pfn };
            return self.costs.exit_ns;
        }
        self.emit(actor, Event::GuestWrite { pfn: page, len: u32::from(len) });
        for pfn in self.machine.drain_written() {
            if pfn == page {
                // A mark of K that was consumed between mark and store protects the page again, and the vCPU would have faulted; a mark
                // of TCG's that was consumed is the defect K15 itself. Neither is repeated here.
                self.wrote(pfn, actor, Some(self.trace.len() - 1));
            } else {
                self.record_store(cpu, pfn);
                self.wrote(pfn, actor, Some(self.trace.len() - 1));
            }
        }
        let mut cost = self.costs.guest_step_ns;
        // The instruction may have stopped for more than its store.
        match run.exit {
            Exit::Limit => self.state.vcpus[cpu].pending = Pending::Run,
            other => {
                self.vcpu_exit(cpu, other, &mut cost);
            }
        }
        cost
    }

    /// Records the stores of guest code to pages that nobody named, since the last time.
    pub(super) fn guest_wrote(&mut self, cpu: usize) {
        for pfn in self.machine.drain_written() {
            self.record_store(cpu, pfn);
            self.wrote(pfn, Actor::Vcpu(cpu as u8), None);
        }
    }

    /// Returns a vCPU's store as tracking sees it.
    fn store_of(&self, cpu: usize, pfn: Pfn) -> Store {
        let kind = self.state.vcpus[cpu].frame.as_ref().map_or(StoreKind::Plain, |frame| frame.kind);
        Store { cpu: cpu as u8, pfn, kind }
    }

    /// Records a store of guest code, and returns where.
    fn record_store(&mut self, cpu: usize, pfn: Pfn) -> Option<Level> {
        let store = self.store_of(cpu, pfn);
        self.state.vmm.accel.guest_store(store, &mut self.state.vmm.d, &self.faults)
    }

    fn device_access(&self, address: u64, len: u8, write: Option<u64>) -> Access {
        Access { offset: address - platform::VIRTIO_MMIO, len, write }
    }

    fn device_locks(&self, access: Access) -> &'static [LockId] {
        self.state.vmm.balloon.mmio_locks(access.offset, access.write.map(|value| value as u32))
    }

    fn device_move(&self, access: Access) -> Option<Move> {
        use wire::virtio::mmio;
        let cmd_id = mmio::CONFIG + wire::balloon::config::FREE_PAGE_HINT_CMD_ID;
        match access {
            Access { offset: mmio::STATUS, write: Some(_), .. } => Some(Move::plain(EventKind::DeviceStatus)),
            Access { offset, write: None, .. } if offset == cmd_id => Some(Move::plain(EventKind::ConfigCmdId)),
            _ => None,
        }
    }

    fn vcpu_device(&mut self, cpu: usize, access: Access, taken: usize) -> u64 {
        let actor = Actor::Vcpu(cpu as u8);
        let locks = self.device_locks(access);
        if let Some(lock) = locks.get(taken) {
            self.with_ctx(actor, |_, ctx| ctx.lock(*lock));
            self.state.vcpus[cpu].pending = Pending::Device { access, taken: taken + 1 };
            return self.costs.lock_ns;
        }
        let value = self.with_ctx(actor, |vmm, ctx| {
            let value = match access.write {
                Some(value) => {
                    vmm.balloon.mmio_write(access.offset, u32::from(access.len), value as u32, ctx);
                    None
                }
                None => Some(vmm.balloon.mmio_read(access.offset, u32::from(access.len), ctx)),
            };
            let held: Vec<LockId> = ctx.locks.held_by(actor).collect();
            for lock in held.into_iter().rev() {
                ctx.unlock(lock);
            }
            value
        });
        match value {
            Some(value) => self.machine.finish_mmio_read(cpu, u64::from(value)),
            None => self.machine.finish_mmio_write(cpu),
        }
        self.state.vcpus[cpu].insns += 1;
        self.state.vcpus[cpu].pending = Pending::Run;
        self.costs.exit_ns
    }

    /// Reads the platform's own registers; `None` when the address is the device's.
    fn platform_read(&mut self, cpu: usize, address: u64) -> Option<u64> {
        const CLOCK_HIGH: u64 = platform::CLOCK + 4;
        match address {
            platform::CLOCK => {
                self.state.vcpus[cpu].clock_latch = (self.state.now_ns >> 32) as u32;
                Some(self.state.now_ns & 0xffff_ffff)
            }
            CLOCK_HIGH => Some(u64::from(self.state.vcpus[cpu].clock_latch)),
            _ if is_device(address) => None,
            _ => Some(0),
        }
    }

    /// Writes the platform's own registers; `false` when the address is the device's.
    fn platform_write(&mut self, cpu: usize, address: u64, value: u64) -> bool {
        const ICR_HIGH: u64 = platform::LAPIC + lapic::ICR_HIGH;
        const ICR_LOW: u64 = platform::LAPIC + lapic::ICR_LOW;
        const TIMER: u64 = platform::LAPIC + lapic::TIMER_INITIAL_COUNT;
        match address {
            ICR_HIGH => self.state.vcpus[cpu].icr_high = value as u32,
            ICR_LOW => {
                let destination = (self.state.vcpus[cpu].icr_high >> 24) as usize;
                if let Some(target) = self.state.vcpus.get_mut(destination) {
                    target.interrupts.insert(value as u8);
                    self.used.changed |= object::interrupts(destination);
                }
            }
            platform::RESET => {
                self.state.vmm.request_reset();
                self.used.changed |= object::MONITOR;
            }
            TIMER => self.state.vcpus[cpu].timer_ns = (value != 0).then(|| self.state.now_ns + u64::from(value as u32)),
            _ if is_device(address) => return false,
            _ => {}
        }
        true
    }

    /// Turns an expired timer into its interrupt.
    fn vcpu_timer(&mut self, cpu: usize) {
        let now_ns = self.state.now_ns;
        let vcpu = &mut self.state.vcpus[cpu];
        if vcpu.timer_ns.is_some_and(|at| at <= now_ns) {
            vcpu.timer_ns = None;
            vcpu.interrupts.insert(vector::TIMER);
        }
    }

    /// Puts a store on the vCPU: its next instruction is the stub's, as if a thread of the guest had been there all along.
    pub(super) fn inject_store(&mut self, injection: usize, cpu: usize, address: u64, value: u64, kind: StoreKind) {
        assert!(self.state.vcpus[cpu].at_boundary(), "vcpu{cpu} is not in guest code");
        let (context, hash) = (self.machine.save_context(cpu), self.machine.hash_cpu(cpu));
        let mut regs = self.machine.regs(cpu);
        regs.rip = self.state.inject_stub;
        regs.rdi = address;
        regs.rsi = value;
        regs.rflags &= !crate::vcpu::RFLAGS_IF;
        self.machine.set_regs(cpu, &regs);
        let resume = std::mem::replace(&mut self.state.vcpus[cpu].pending, Pending::Run);
        self.state.vcpus[cpu].frame = Some(Frame { context, resume, resume_ns: self.state.times_ns[cpu], injection, hash, kind });
        self.state.times_ns[cpu] = self.state.now_ns;
    }

    /// The vCPU goes on where and when it would have without the store; returns how long that is from now.
    fn injected_store_ends(&mut self, cpu: usize) -> u64 {
        let frame = self.state.vcpus[cpu].frame.take().expect("only the stub says that an injected store ends");
        self.machine.restore_context(cpu, &frame.context);
        self.state.vcpus[cpu].pending = frame.resume;
        self.state.gates.injected(frame.injection);
        frame.resume_ns.saturating_sub(self.state.now_ns)
    }

    /// Ends the guest: every vCPU stops where it is.
    pub(super) fn crash(&mut self, cpu: usize, message: String) {
        let backtrace = self.machine.backtrace(cpu).into_iter().map(|address| self.image.symbolise(address)).collect();
        self.emit(Actor::Vcpu(cpu as u8), Event::GuestCrash { message: message.clone() });
        self.state.crash = Some(GuestCrash { vcpu: cpu as u8, message, backtrace });
        for vcpu in &mut self.state.vcpus {
            vcpu.pending = Pending::Dead;
        }
    }
}

fn is_device(address: u64) -> bool {
    (platform::VIRTIO_MMIO..platform::VIRTIO_MMIO + platform::VIRTIO_MMIO_BYTES).contains(&address)
}

fn fault_text(kind: FaultKind, address: u64) -> String {
    match kind {
        FaultKind::Null => format!("null access: {address:#x}"),
        FaultKind::OutsideRam => format!("access outside memory: {address:#x}"),
        FaultKind::WriteToText => format!("write to read-only memory: {address:#x}"),
        FaultKind::Missing => format!("page that has not arrived: {address:#x}"),
        FaultKind::NoGate => format!("no interrupt gate: {address:#x}"),
        FaultKind::ExecuteData => format!("jump into data: {address:#x}"),
    }
}

fn exception_text(vector: u8) -> String {
    let name = match vector {
        0 => "divide error",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        14 => "page fault",
        _ => "exception",
    };
    format!("{name} (vector {vector})")
}
