//! Registers as plain values, and their hash.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// General registers, instruction pointer and flags of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Regs {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI: second argument.
    pub rsi: u64,
    /// RDI: first argument.
    pub rdi: u64,
    /// RBP: frame pointer.
    pub rbp: u64,
    /// RSP: stack pointer.
    pub rsp: u64,
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
    /// Address of the next instruction.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
}

/// RFLAGS.IF: interrupts may be delivered.
pub const RFLAGS_IF: u64 = 1 << 9;
/// Flags that the delivery of an interrupt clears: TF, IF, NT, RF (Intel SDM vol. 3 §6.12.1.3).
pub(super) const RFLAGS_CLEARED_BY_INTERRUPT: u64 = 1 << 8 | RFLAGS_IF | 1 << 14 | 1 << 16;

/// A register of the engine that a `u64` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rsi,
    Rdi,
    Rbp,
    Rsp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Rflags,
    Cs,
    Ss,
    Ds,
    Es,
    Fs,
    Gs,
    FsBase,
    GsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Mxcsr,
    Fpcw,
    Fpsw,
    Fptag,
}

/// The fields of [`Regs`], in their order.
pub(super) const GENERAL: [Reg; 18] = [
    Reg::Rax,
    Reg::Rbx,
    Reg::Rcx,
    Reg::Rdx,
    Reg::Rsi,
    Reg::Rdi,
    Reg::Rbp,
    Reg::Rsp,
    Reg::R8,
    Reg::R9,
    Reg::R10,
    Reg::R11,
    Reg::R12,
    Reg::R13,
    Reg::R14,
    Reg::R15,
    Reg::Rip,
    Reg::Rflags,
];

/// What the hash holds beside the general registers.
pub(super) const SPECIAL: [Reg; 16] = [
    Reg::Cs,
    Reg::Ss,
    Reg::Ds,
    Reg::Es,
    Reg::Fs,
    Reg::Gs,
    Reg::FsBase,
    Reg::GsBase,
    Reg::Cr0,
    Reg::Cr2,
    Reg::Cr3,
    Reg::Cr4,
    Reg::Mxcsr,
    Reg::Fpcw,
    Reg::Fpsw,
    Reg::Fptag,
];

/// A register that is wider than a `u64`, as the engine's API fills it: up to 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WideReg {
    /// SSE register.
    Xmm(u8),
    /// x87 register, by its place on the stack.
    St(u8),
    /// Interrupt descriptor table.
    Idtr,
    /// Global descriptor table.
    Gdtr,
}

/// Every wide register.
pub(super) fn wide_registers() -> impl Iterator<Item = WideReg> {
    (0..16).map(WideReg::Xmm).chain((0..8).map(WideReg::St)).chain([WideReg::Idtr, WideReg::Gdtr])
}

impl Regs {
    /// Returns the values in the order of [`GENERAL`].
    pub(super) fn values(&self) -> [u64; GENERAL.len()] {
        let Regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } = *self;
        [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags]
    }

    /// Returns registers from values in the order of [`GENERAL`].
    pub(super) fn from_values(values: [u64; GENERAL.len()]) -> Regs {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] = values;
        Regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
    }
}

impl fmt::Display for Regs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (reg, value)) in GENERAL.iter().zip(self.values()).enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{}={value:#x}", format!("{reg:?}").to_lowercase())?;
        }
        Ok(())
    }
}

/// A running hash over registers.
#[derive(Default)]
pub(super) struct RegHash(Xxh3);

impl RegHash {
    pub(super) fn add(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_names_stand_in_the_same_order() {
        let values = std::array::from_fn(|index| index as u64);
        let regs = Regs::from_values(values);
        assert_eq!(regs.values(), values);
        assert_eq!((regs.rip, regs.rdi), (16, 5));
        assert!(regs.to_string().starts_with("rax=0x0 rbx=0x1 ") && regs.to_string().ends_with(" rip=0x10 rflags=0x11"));
    }
}
