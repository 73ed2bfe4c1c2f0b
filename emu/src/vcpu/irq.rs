//! How long a vCPU runs with interrupts disabled, counted in its own instructions, exactly.
//!
//! The guest tells nothing for it and runs no instruction for it: `cli`, `sti` and `iretq` are seen in the text when a block that holds one is begun (fast
//! engine) or when the instruction is (slow engine), an interrupt's entry when it is delivered. `iretq` counts as enabling, since
//! interrupts are taken only where they are enabled, and nothing else pushes a frame. What `popfq` would do is not followed: no image has one, and debug
//! builds compare with the vCPU's flag after each run.

/// A stretch of instructions with interrupts disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IrqOff {
    /// Instructions behind the one that disabled interrupts, up to the one that enabled them.
    pub insns: u64,
    /// Address of the instruction that disabled them: `cli`, or the first of an interrupt's handler.
    pub from: u64,
}

/// How interrupts are enabled or disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// By `cli`, or from outside.
    Off,
    /// By `sti`, or from outside.
    On,
    /// An interrupt is taken.
    Enter,
    /// By `iretq`.
    Return,
}

/// A change of the interrupt flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch {
    /// Instructions executed once it is made.
    pub(super) at_insns: u64,
    /// Address of the instruction.
    pub(super) from: u64,
    /// How.
    pub(super) change: Change,
}

/// What is known of a vCPU. The default is one with interrupts enabled, as no vCPU is after reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IrqState {
    /// Where the stretch that the vCPU is in began, if it is in one: instructions executed then, and the address.
    since: Option<(u64, u64)>,
    longest: IrqOff,
    /// Interrupt handlers that the vCPU is in.
    handlers: u32,
    /// Address of the last `sti` in a handler.
    enabled_in_handler: Option<u64>,
}

impl IrqState {
    /// The flag is set or cleared, or stays as it is.
    pub(super) fn switch(&mut self, switch: Switch) {
        let Switch { at_insns, from, change } = switch;
        let on = match change {
            Change::Off => false,
            Change::On => {
                if self.handlers > 0 {
                    self.enabled_in_handler = Some(from);
                }
                true
            }
            Change::Enter => {
                self.handlers += 1;
                false
            }
            Change::Return => {
                self.handlers = self.handlers.saturating_sub(1);
                true
            }
        };
        match (self.since, on) {
            (None, false) => self.since = Some((at_insns, from)),
            (Some(_), true) => {
                self.longest = self.longest(at_insns);
                self.since = None;
            }
            (None, true) | (Some(_), false) => {}
        }
    }

    /// Returns whether interrupts are enabled.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_none()
    }

    /// Returns whether the vCPU is in an interrupt's handler.
    pub(super) fn in_handler(&self) -> bool {
        self.handlers > 0
    }

    /// Returns the address of an `sti` that was executed in a handler since the last call.
    pub(super) fn take_enabled_in_handler(&mut self) -> Option<u64> {
        self.enabled_in_handler.take()
    }

    /// Returns the longest stretch until now; of equal ones the first.
    pub(super) fn longest(&self, now_insns: u64) -> IrqOff {
        let open = self.since.map_or(IrqOff::default(), |(since, from)| IrqOff { insns: now_insns - since, from });
        if open.insns > self.longest.insns { open } else { self.longest }
    }

    /// Forgets what was: an open stretch begins now.
    pub(super) fn forget(&mut self, now_insns: u64) {
        self.longest = IrqOff::default();
        self.since = self.since.map(|(_, from)| (now_insns, from));
    }

    /// The vCPU goes on as it was when it had executed `then_insns` instructions, though it has executed others by now.
    pub(super) fn go_on(&mut self, then_insns: u64, now_insns: u64) {
        self.since = self.since.map(|(since, from)| (now_insns.saturating_sub(then_insns - since), from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_insns: u64, from: u64, change: Change) -> Switch {
        Switch { at_insns, from, change }
    }

    #[test]
    fn the_longest_stretch_counts_from_the_first_cli_to_the_sti() {
        use Change::{Off, On};
        let mut irq = IrqState::default();
        for switch in [at(10, 1, Off), at(15, 2, Off), at(30, 3, On), at(40, 4, On), at(50, 5, Off), at(69, 6, On)] {
            irq.switch(switch);
        }
        assert_eq!(irq.longest(100), IrqOff { insns: 20, from: 1 });
        irq.switch(at(110, 7, Off));
        assert_eq!(irq.longest(131), IrqOff { insns: 21, from: 7 }, "one that lasts counts");
        assert_eq!(irq.longest(130), IrqOff { insns: 20, from: 1 });
    }

    #[test]
    fn what_is_forgotten_or_was_elsewhere_does_not_count() {
        let mut irq = IrqState::default();
        irq.switch(at(0, 9, Change::Off));
        irq.forget(1000);
        assert_eq!(irq.longest(1003), IrqOff { insns: 3, from: 9 });
        irq.go_on(1004, 1009);
        irq.switch(at(1010, 10, Change::On));
        assert_eq!(irq.longest(2000), IrqOff { insns: 5, from: 9 });
        assert!(irq.is_on());
    }

    #[test]
    fn an_sti_in_a_handler_is_remembered_until_it_is_asked_for() {
        let mut irq = IrqState::default();
        irq.switch(at(1, 1, Change::On));
        irq.switch(at(2, 2, Change::Enter));
        assert!(irq.in_handler() && !irq.is_on());
        irq.switch(at(3, 3, Change::On));
        irq.switch(at(4, 4, Change::Return));
        assert!(!irq.in_handler());
        assert_eq!([irq.take_enabled_in_handler(), irq.take_enabled_in_handler()], [Some(3), None]);
    }
}
