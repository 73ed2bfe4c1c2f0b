//! What the emulator must know of an instruction: how many there are in a block, what memory it uses, whether it is a tracepoint.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::irq::Change;
use super::regs::Regs;

/// Longest instruction, bytes.
const INSN_BYTES_MAX: usize = 15;

/// A translated block that the fast engine may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Instructions.
    pub(super) insns: u32,
    /// Size, bytes; 0 in the table where no block is known. Of a block that switches interrupts it is above [`Block::SWITCHES`].
    size: u32,
}

impl Block {
    /// Added to the size of a block that holds an instruction which switches interrupts: so no size that the engine tells is equal to it.
    const SWITCHES: u32 = 1 << 31;

    /// Returns whether the block is this long and leaves interrupts alone.
    #[inline]
    pub(super) fn is_plain(self, bytes: u32) -> bool {
        self.size == bytes
    }

    /// Returns whether the block is this long and switches interrupts.
    pub(super) fn is_switching(self, bytes: u32) -> bool {
        self.size == bytes | Self::SWITCHES
    }

    /// Returns the size, bytes.
    pub(super) fn bytes(self) -> u32 {
        self.size & !Self::SWITCHES
    }
}

/// An instruction in a block that switches interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockSwitch {
    /// Its place in the block, from 1.
    pub(super) insn: u32,
    /// Its address.
    pub(super) address: u64,
    /// What it does.
    pub(super) change: Change,
}

/// The image's text, and what is known of blocks by the offset at which they start.
#[derive(Debug)]
pub(super) struct Text {
    first: u64,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    /// Of each block in the table that switches interrupts, the instruction that does.
    switches: BTreeMap<u64, BlockSwitch>,
    /// Answers of [`Text::tracepoint`].
    tracepoints: BTreeMap<u64, Option<bool>>,
}

impl Text {
    pub(super) fn new(first: u64, bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "no text");
        let blocks = vec![Block { insns: 0, size: 0 }; bytes.len()];
        Self { first, bytes: bytes.to_vec(), blocks, switches: BTreeMap::new(), tracepoints: BTreeMap::new() }
    }

    /// Returns the block that was last run at an address in text, or one of no size.
    #[inline]
    pub(super) fn known(&self, address: u64) -> Block {
        self.blocks[(address - self.first) as usize]
    }

    /// Takes a block of `bytes` bytes apart. It is known from here on, unless it must be run one instruction at a time because it says a
    /// tracepoint in its middle, or switches interrupts more than once: then its instructions are the error.
    #[cold]
    pub(super) fn learn(&mut self, address: u64, bytes: u32) -> Result<Block, u64> {
        let offset = (address - self.first) as usize;
        let mut decoder = self.decoder(offset, bytes as usize);
        let (mut last, mut last_but_one) = (Instruction::default(), Instruction::default());
        let (mut insns, mut tracepoints) = (0, 0);
        let mut switches = Vec::new();
        while decoder.can_decode() {
            last_but_one = last;
            decoder.decode_out(&mut last);
            insns += 1;
            tracepoints += u32::from(last.mnemonic() == Mnemonic::Out);
            switches.extend(self.switches_irq(last.ip()).map(|change| BlockSwitch { insn: insns, address: last.ip(), change }));
        }
        let function_end = last_but_one.mnemonic() == Mnemonic::Out && last.code() == Code::Retnq;
        if tracepoints > u32::from(function_end) || switches.len() > 1 {
            return Err(u64::from(insns));
        }
        let switch = switches.pop();
        let block = Block { insns, size: bytes | if switch.is_some() { Block::SWITCHES } else { 0 } };
        self.blocks[offset] = block;
        if let Some(switch) = switch {
            self.switches.insert(address, switch);
        }
        Ok(block)
    }

    /// Returns the instruction that switches interrupts in the known block at an address.
    pub(super) fn block_switch(&self, address: u64) -> BlockSwitch {
        assert!(self.known(address).size & Block::SWITCHES != 0, "the block at {address:#x} switches nothing");
        self.switches[&address]
    }

    /// Returns whether the instruction at an address in text enables or disables interrupts, if it does either: `cli`, `sti`, `iretq`
    /// (Intel SDM vol. 2), each without prefixes, as compilers write them.
    #[inline]
    pub(super) fn switches_irq(&self, address: u64) -> Option<Change> {
        let at = (address - self.first) as usize;
        match self.bytes[at] {
            0xfa => Some(Change::Off),
            0xfb => Some(Change::On),
            0x48 if self.bytes.get(at + 1) == Some(&0xcf) => Some(Change::Return),
            _ => None,
        }
    }

    /// Returns the number of instructions in `bytes` bytes from an address in text.
    pub(super) fn insns(&self, address: u64, bytes: u64) -> u64 {
        let mut decoder = self.decoder((address - self.first) as usize, bytes as usize);
        let mut insn = Instruction::default();
        let mut insns = 0;
        while decoder.can_decode() {
            decoder.decode_out(&mut insn);
            insns += 1;
        }
        insns
    }

    fn decoder(&self, offset: usize, bytes: usize) -> Decoder<'_> {
        let end = (offset + bytes).min(self.bytes.len());
        Decoder::with_ip(64, &self.bytes[offset..end], self.first + offset as u64, DecoderOptions::NONE)
    }

    /// Returns the instruction at an address, if that lies in text.
    pub(super) fn insn(&self, address: u64) -> Option<Instruction> {
        let offset = usize::try_from(address.checked_sub(self.first)?).ok().filter(|offset| *offset < self.bytes.len())?;
        Some(self.decoder(offset, INSN_BYTES_MAX).decode())
    }

    /// Returns whether `out` at an address is plain (not a string instruction), and whether `ret` follows it.
    pub(super) fn tracepoint(&mut self, address: u64) -> Option<bool> {
        if let Some(known) = self.tracepoints.get(&address) {
            return *known;
        }
        let out = self.insn(address).filter(|insn| insn.mnemonic() == Mnemonic::Out);
        let found = out.map(|out| self.insn(out.next_ip()).is_some_and(|insn| insn.code() == Code::Retnq));
        self.tracepoints.insert(address, found);
        found
    }

    /// Returns whether the instruction right before an address may be `sti`, whose effect starts one instruction later
    /// (Intel SDM vol. 2 STI). Another instruction may end in that byte; an interrupt then waits for one instruction more.
    pub(super) fn follows_sti(&self, address: u64) -> bool {
        let offset = address.wrapping_sub(self.first).wrapping_sub(1);
        usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset)) == Some(&0xfb)
    }
}

/// A use of memory by an instruction about to be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryUse {
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) reads: bool,
    pub(super) writes: bool,
}

/// Returns what memory an instruction uses, as far as its operands tell.
pub(super) fn memory_uses(insn: &Instruction, regs: &Regs, fs_base: u64, gs_base: u64) -> Vec<MemoryUse> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(insn);
    let used = info.used_memory().iter().filter_map(|memory| {
        let (reads, writes) = match memory.access() {
            OpAccess::Read | OpAccess::CondRead => (true, false),
            OpAccess::Write | OpAccess::CondWrite => (false, true),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
            OpAccess::None | OpAccess::NoMemAccess => return None,
        };
        let address = memory.virtual_address(0, |register, _, _| Some(register_value(register, regs, fs_base, gs_base)))?;
        Some(MemoryUse { address, len: memory.memory_size().size().max(1) as u64, reads, writes })
    });
    used.collect()
}

/// What is stored by a plain store: `mov` of a register or a constant. Others have no value before they are executed.
pub(super) fn stored_value(insn: &Instruction, regs: &Regs) -> Option<u64> {
    if insn.mnemonic() != Mnemonic::Mov || insn.op0_kind() != OpKind::Memory {
        return None;
    }
    let value = match insn.op1_kind() {
        OpKind::Register if insn.op1_register().is_gpr() => register_value(insn.op1_register(), regs, 0, 0),
        OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate32to64 => insn.immediate(1),
        _ => return None,
    };
    let bits = 8 * insn.memory_size().size() as u32;
    Some(if bits >= 64 { value } else { value & ((1 << bits) - 1) })
}

fn register_value(register: Register, regs: &Regs, fs_base: u64, gs_base: u64) -> u64 {
    let full = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::FS => fs_base,
        Register::GS => gs_base,
        // CS, DS, ES and SS have base 0 in 64-bit mode.
        _ => 0,
    };
    match (register.size(), register) {
        (4, _) => full & 0xffff_ffff,
        (2, _) if register.is_gpr() => full & 0xffff,
        (1, Register::AH | Register::BH | Register::CH | Register::DH) => full >> 8 & 0xff,
        (1, _) => full & 0xff,
        _ => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Text {
        Text::new(0x10_0000, bytes)
    }

    #[test]
    fn a_block_is_known_by_its_start_and_size() {
        // inc eax; nop; jmp $
        let mut text = text(&[0xff, 0xc0, 0x90, 0xeb, 0xfe]);
        assert_eq!(text.known(0x10_0000).bytes(), 0);
        assert_eq!(text.learn(0x10_0000, 5), Ok(Block { insns: 3, size: 5 }));
        assert_eq!(text.known(0x10_0000), Block { insns: 3, size: 5 });
        assert_eq!(text.learn(0x10_0000, 3), Ok(Block { insns: 2, size: 3 }));
        assert_eq!(text.insns(0x10_0000, 2), 1);
        assert_eq!(text.insns(0x10_0000, 0), 0);
    }

    #[test]
    fn a_tracepoint_in_the_middle_of_a_block_is_stepped() {
        // out dx, eax; ret — and — out dx, eax; nop; ret
        let mut function = text(&[0xef, 0xc3]);
        assert_eq!(function.learn(0x10_0000, 2), Ok(Block { insns: 2, size: 2 }));
        assert_eq!(function.tracepoint(0x10_0000), Some(true));
        let mut inline = text(&[0xef, 0x90, 0xc3]);
        assert_eq!(inline.learn(0x10_0000, 3), Err(3));
        assert_eq!(inline.known(0x10_0000).bytes(), 0);
        assert_eq!(inline.tracepoint(0x10_0000), Some(false));
        assert_eq!(inline.tracepoint(0x10_0001), None);
    }

    #[test]
    fn a_block_that_switches_interrupts_once_tells_where() {
        // inc eax; cli; nop — and — cli; sti — and — add $8, %rsp; iretq
        let mut once = text(&[0xff, 0xc0, 0xfa, 0x90]);
        let block = once.learn(0x10_0000, 4).expect("one switch");
        assert!(block.is_switching(4) && !block.is_plain(4));
        assert_eq!((block.bytes(), block.insns), (4, 3));
        assert_eq!(once.block_switch(0x10_0000), BlockSwitch { insn: 2, address: 0x10_0002, change: Change::Off });
        let plain = once.learn(0x10_0000, 2).expect("none");
        assert!(plain.is_plain(2) && !plain.is_switching(2));
        assert_eq!(text(&[0xfa, 0xfb]).learn(0x10_0000, 2), Err(2));
        let mut ret = text(&[0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf]);
        assert!(ret.learn(0x10_0000, 6).expect("one switch").is_switching(6));
        assert_eq!(ret.block_switch(0x10_0000).change, Change::Return);
        assert_eq!(ret.switches_irq(0x10_0000), None);
    }

    #[test]
    fn a_stored_value_has_the_stores_width() {
        let regs = Regs { rax: 0x1122_3344_5566_7788, rdi: 0x5000, ..Regs::default() };
        // mov [rdi+4], ah
        let insn = text(&[0x88, 0x67, 0x04]).insn(0x10_0000).expect("in text");
        assert_eq!(stored_value(&insn, &regs), Some(0x77));
        assert_eq!(memory_uses(&insn, &regs, 0, 0), [MemoryUse { address: 0x5004, len: 1, reads: false, writes: true }]);
        // mov dword ptr [rdi], -1
        let insn = text(&[0xc7, 0x07, 0xff, 0xff, 0xff, 0xff]).insn(0x10_0000).expect("in text");
        assert_eq!(stored_value(&insn, &regs), Some(0xffff_ffff));
        // add [rdi], eax
        let insn = text(&[0x01, 0x07]).insn(0x10_0000).expect("in text");
        assert_eq!(stored_value(&insn, &regs), None);
        assert_eq!(memory_uses(&insn, &regs, 0, 0), [MemoryUse { address: 0x5000, len: 4, reads: true, writes: true }]);
    }

    #[test]
    fn a_push_is_a_store_below_the_stack_pointer() {
        let regs = Regs { rsp: 0x9000, ..Regs::default() };
        let insn = text(&[0x50]).insn(0x10_0000).expect("in text");
        assert_eq!(memory_uses(&insn, &regs, 0, 0), [MemoryUse { address: 0x8ff8, len: 8, reads: false, writes: true }]);
    }
}
