//! What the engines' hooks decide and count, away from the engines.

use wire::platform::PAGE_SHIFT;

use super::decode::Text;
use super::irq::{IrqState, Switch};
use super::pages::{Access, Pages, Refusal, Rights};
use super::{FAST, SLOW};

/// Where, in the engines' physical memory, the page lies that stands in for a device's registers: above all RAM and devices.
pub(super) const SCRATCH: u64 = 1 << 32;

/// A tracepoint that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracepoint {
    pub(super) code: u32,
    pub(super) a: u64,
    pub(super) b: u64,
    /// The `ret` behind the `out` is still to be executed.
    pub(super) ret_follows: bool,
}

/// Why an engine stopped of our own will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The next block or instruction would pass the limit.
    Limit,
    /// The next block, of so many instructions, must be stepped.
    Stepped(u64),
    /// A tracepoint is behind us.
    Trace,
}

/// An access that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) page: u64,
    pub(super) access: Access,
    pub(super) refusal: Refusal,
}

/// Why an engine returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    /// A hook stopped it.
    Stopped(Stop),
    /// `hlt` was executed.
    Halted,
    /// An access was refused; the instruction was not executed.
    Refused(Refused),
    /// An exception or software interrupt.
    Exception(u8),
}

/// What the hooks of a pair of engines work on.
pub(super) struct Hooks {
    pub(super) pages: Pages,
    pub(super) text: Text,
    /// Instructions begun since the engine was started.
    insns: u64,
    /// Instructions that may be begun.
    limit: u64,
    /// The block (fast) or instruction (slow) that was begun last; 0 before the first, since nothing runs there.
    last_pc: u64,
    pub(super) stop: Option<Stop>,
    pub(super) trace: Option<Tracepoint>,
    pub(super) exception: Option<u8>,
    pub(super) refused: Option<Refused>,
    /// Loads from this page are made from the scratch page.
    pub(super) scratch: Option<u64>,
    /// Memory is being unmapped: the engine looks its first page up once more.
    pub(super) unmapping: bool,
    /// Of the vCPU that runs.
    pub(super) irq: IrqState,
    /// Instructions that it had executed before.
    insns_before: u64,
    /// A switch of interrupts in a block that was begun, and may have been left in front of it.
    switch: Option<Switch>,
}

impl Hooks {
    pub(super) fn new(pages: Pages, text: Text) -> Self {
        Self {
            pages,
            text,
            insns: 0,
            limit: 0,
            last_pc: 0,
            stop: None,
            trace: None,
            exception: None,
            refused: None,
            scratch: None,
            unmapping: false,
            irq: IrqState::default(),
            insns_before: 0,
            switch: None,
        }
    }

    /// A vCPU that has executed so many instructions is about to run.
    pub(super) fn enter(&mut self, irq: IrqState, insns: u64) {
        (self.irq, self.insns_before, self.switch) = (irq, insns, None);
    }

    /// The vCPU has stopped; so many instructions were executed. Returns what is known of its interrupts.
    pub(super) fn leave(&mut self, executed: u64) -> IrqState {
        self.settle(executed);
        self.irq
    }

    /// Takes in the switch of a block of which so many instructions, counted from the start, were executed.
    fn settle(&mut self, executed: u64) {
        if let Some(switch) = self.switch.take().filter(|switch| switch.at_insns <= self.insns_before + executed) {
            self.irq.switch(switch);
        }
    }

    /// An engine is about to be started.
    pub(super) fn begin(&mut self, limit: u64) {
        (self.insns, self.limit, self.last_pc) = (0, limit, 0);
        (self.stop, self.exception, self.refused) = (None, None, None);
    }

    /// Counts a block before it runs; returns whether it may.
    #[inline]
    pub(super) fn begin_block(&mut self, address: u64, bytes: u32) -> bool {
        let block = self.text.known(address);
        let insns = self.insns + u64::from(block.insns);
        if block.is_plain(bytes) && insns <= self.limit {
            self.insns = insns;
            self.last_pc = address;
            return true;
        }
        self.stop = self.begin_odd_block(address, bytes);
        self.stop.is_none()
    }

    /// Counts a block that is not known yet or switches interrupts, or says why it must not run.
    #[cold]
    fn begin_odd_block(&mut self, address: u64, bytes: u32) -> Option<Stop> {
        if self.trace.is_some() {
            return Some(Stop::Trace);
        }
        let known = self.text.known(address);
        if known.is_plain(bytes) {
            return Some(Stop::Limit);
        }
        let block = match if known.is_switching(bytes) { Ok(known) } else { self.text.learn(address, bytes) } {
            Ok(block) => block,
            Err(insns) => return Some(Stop::Stepped(insns)),
        };
        let insns = self.insns + u64::from(block.insns);
        if insns > self.limit {
            return Some(Stop::Limit);
        }
        if block.is_switching(bytes) {
            // The block before was executed whole, since this one begins.
            self.settle(self.insns);
            let switch = self.text.block_switch(address);
            let at_insns = self.insns_before + self.insns + u64::from(switch.insn);
            self.switch = Some(Switch { at_insns, from: switch.address, change: switch.change });
        }
        (self.insns, self.last_pc) = (insns, address);
        None
    }

    /// Counts an instruction before it runs; returns whether it may.
    #[inline]
    pub(super) fn begin_insn(&mut self, address: u64) -> bool {
        match &mut self.trace {
            Some(Tracepoint { ret_follows: false, .. }) => self.stop = Some(Stop::Trace),
            _ if self.insns >= self.limit => self.stop = Some(Stop::Limit),
            trace => {
                if let Some(tracepoint) = trace {
                    tracepoint.ret_follows = false;
                }
                self.insns += 1;
                self.last_pc = address;
                if let Some(change) = self.text.switches_irq(address) {
                    self.irq.switch(Switch { at_insns: self.insns_before + self.insns, from: address, change });
                }
                return true;
            }
        }
        false
    }

    /// Answers an access for which an engine has no translation: its physical page and the rights on it.
    pub(super) fn fill(&mut self, engine: usize, address: u64, access: Access) -> Option<(u64, Rights)> {
        let page = address >> PAGE_SHIFT;
        if self.unmapping {
            return Some((address, Rights::ReadExecute));
        }
        if self.scratch == Some(page) && access == Access::Read {
            return Some((SCRATCH, Rights::Read));
        }
        match self.pages.fill(engine, page, access) {
            Ok(rights) => Some((address, rights)),
            Err(refusal) => {
                self.refused = Some(Refused { page, access, refusal });
                None
            }
        }
    }

    /// A word was put out on the debug port.
    pub(super) fn say(&mut self, engine: usize, rip: u64, code: u32, a: u64, b: u64) {
        let Some(ret_follows) = self.text.tracepoint(rip) else { return };
        self.trace = Some(Tracepoint { code, a, b, ret_follows });
        if engine == FAST {
            // Its next block, which is the one behind the `ret`, stops.
            self.limit = 0;
        }
    }

    /// Returns how many instructions were executed: what was begun, less what the block or instruction begun last left undone.
    pub(super) fn executed(&self, engine: usize, returned: Returned, rip: u64) -> u64 {
        match returned {
            Returned::Stopped(_) | Returned::Halted => return self.insns,
            Returned::Refused(Refused { access: Access::Fetch, .. }) => return self.insns,
            Returned::Refused(_) | Returned::Exception(_) => {}
        }
        let pc = self.last_pc;
        if pc == 0 {
            return self.insns;
        }
        let done_bytes = rip.wrapping_sub(pc);
        if engine == SLOW {
            // `int` leaves RIP behind itself, all else in front of the instruction.
            return self.insns - u64::from(done_bytes == 0);
        }
        let block = self.text.known(pc);
        if done_bytes >= u64::from(block.bytes()) {
            return self.insns;
        }
        self.insns - u64::from(block.insns) + self.text.insns(pc, done_bytes)
    }
}
