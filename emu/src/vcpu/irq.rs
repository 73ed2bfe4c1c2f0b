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

/// A change of the interrupt flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch {
    /// Instructions executed once it is made.
    pub(super) at_insns: u64,
    /// Address of the instruction.
    pub(super) from: u64,
    /// Whether interrupts are enabled by it.
    pub(super) on: bool,
}

/// What is known of a vCPU. The default is one with interrupts enabled, as no vCPU is after reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IrqState {
    /// Where the stretch that the vCPU is in began, if it is in one: instructions executed then, and the address.
    since: Option<(u64, u64)>,
    longest: IrqOff,
}

impl IrqState {
    /// The flag is set or cleared, or stays as it is.
    pub(super) fn switch(&mut self, switch: Switch) {
        let Switch { at_insns, from, on } = switch;
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

    fn at(at_insns: u64, from: u64, on: bool) -> Switch {
        Switch { at_insns, from, on }
    }

    #[test]
    fn the_longest_stretch_counts_from_the_first_cli_to_the_sti() {
        let mut irq = IrqState::default();
        for switch in [at(10, 1, false), at(15, 2, false), at(30, 3, true), at(40, 4, true), at(50, 5, false), at(69, 6, true)] {
            irq.switch(switch);
        }
        assert_eq!(irq.longest(100), IrqOff { insns: 20, from: 1 });
        irq.switch(at(110, 7, false));
        assert_eq!(irq.longest(131), IrqOff { insns: 21, from: 7 }, "one that lasts counts");
        assert_eq!(irq.longest(130), IrqOff { insns: 20, from: 1 });
    }

    #[test]
    fn what_is_forgotten_or_was_elsewhere_does_not_count() {
        let mut irq = IrqState::default();
        irq.switch(at(0, 9, false));
        irq.forget(1000);
        assert_eq!(irq.longest(1003), IrqOff { insns: 3, from: 9 });
        irq.go_on(1004, 1009);
        irq.switch(at(1010, 10, true));
        assert_eq!(irq.longest(2000), IrqOff { insns: 5, from: 9 });
        assert!(irq.is_on());
    }
}
