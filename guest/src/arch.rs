//! The machine's instructions behind safe functions: memory by address, atomics, ports, interrupts, contexts.
//!
//! The only file of the guest that holds `unsafe`. Addresses are plain `u64`: the guest owns the whole physical memory, there is no
//! paging, and a wild access is what the machine makes of it (page 0 and the text fault; the emulator names the instruction).
//! Natively the same functions work on a thread's test memory, see [`hosted`].
//!
//! `cpu_id()` and the current thread are found from the stack pointer, as in kernels before 4.9: each stack is [`STACK_BYTES`] long
//! and aligned, and its lowest bytes hold the thread's structure.
#![expect(unsafe_code, reason = "the guest's machine access lives here and nowhere else")]

#[cfg(not(image))]
pub mod hosted;

/// Size and alignment of every stack, bytes. Linux: THREAD_SIZE.
pub const STACK_BYTES: u64 = 16 << 10;

/// Calls the function at `addr`, which was stored as `f as usize`.
pub fn call1(addr: u64, arg: u64) {
    assert!(addr != 0, "call of a null function");
    // SAFETY: only `fn(u64)` addresses are stored where this reads them (work, interrupt and thread tables).
    let f = unsafe { core::mem::transmute::<*const (), fn(u64)>(addr as *const ()) };
    f(arg);
}

/// Calls the function at `addr`, which was stored as `f as usize`, with two arguments and a result.
pub fn call2(addr: u64, a: u64, b: u64) -> u64 {
    assert!(addr != 0, "call of a null function");
    // SAFETY: only `fn(u64, u64) -> u64` addresses are stored where this reads them (shrinkers, OOM notifiers).
    let f = unsafe { core::mem::transmute::<*const (), fn(u64, u64) -> u64>(addr as *const ()) };
    f(a, b)
}

#[cfg(not(image))]
pub use hosted::*;
#[cfg(image)]
pub use machine::*;

#[cfg(image)]
mod machine {
    use core::arch::{asm, global_asm, naked_asm};
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    use super::STACK_BYTES;
    use crate::kernel::data;

    macro_rules! access {
        ($($(#[$doc:meta])* $read:ident $write:ident $ty:ty;)*) => {$(
            $(#[$doc])*
            #[inline]
            pub fn $read(addr: u64) -> $ty {
                // SAFETY: a volatile access by machine address; the guest owns all memory, and Rust objects are not reached this way.
                unsafe { core::ptr::with_exposed_provenance::<$ty>(addr as usize).read_volatile() }
            }
            /// Stores at an address.
            #[inline]
            pub fn $write(addr: u64, value: $ty) {
                // SAFETY: as for the load above.
                unsafe { core::ptr::with_exposed_provenance_mut::<$ty>(addr as usize).write_volatile(value) }
            }
        )*};
    }
    access! {
        /// Loads a byte.
        read8 write8 u8;
        /// Loads 16 bits.
        read16 write16 u16;
        /// Loads 32 bits.
        read32 write32 u32;
        /// Loads 64 bits.
        read64 write64 u64;
        /// Loads a byte from a device.
        mmio_read8 mmio_write8 u8;
        /// Loads 16 bits from a device.
        mmio_read16 mmio_write16 u16;
        /// Loads 32 bits from a device.
        mmio_read32 mmio_write32 u32;
    }

    /// Stores `byte` to `bytes` bytes at `addr`.
    pub fn fill(addr: u64, byte: u8, bytes: u64) {
        // SAFETY: the guest owns all memory; the range is a block that the caller holds.
        unsafe { lp_memset(addr, u64::from(byte), bytes) };
    }

    /// Copies `bytes` bytes; the ranges do not overlap.
    pub fn copy(to: u64, from: u64, bytes: u64) {
        // SAFETY: as for `fill`.
        unsafe { lp_memcpy(to, from, bytes) };
    }

    fn atomic32(addr: u64) -> &'static AtomicU32 {
        assert!(addr & 3 == 0, "atomic access to a crooked address");
        // SAFETY: the address is aligned and lies in memory that lives as long as the machine; all shared words are reached by
        // atomics or volatile accesses only.
        unsafe { AtomicU32::from_ptr(core::ptr::with_exposed_provenance_mut(addr as usize)) }
    }

    fn atomic64(addr: u64) -> &'static AtomicU64 {
        assert!(addr & 7 == 0, "atomic access to a crooked address");
        // SAFETY: as for `atomic32`.
        unsafe { AtomicU64::from_ptr(core::ptr::with_exposed_provenance_mut(addr as usize)) }
    }

    /// Exchanges atomically; returns the old value.
    pub fn xchg32(addr: u64, value: u32) -> u32 {
        atomic32(addr).swap(value, Ordering::SeqCst)
    }
    /// Compares and exchanges atomically; returns the value found, `old` when it took place.
    pub fn cmpxchg32(addr: u64, old: u32, new: u32) -> u32 {
        atomic32(addr).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found)
    }
    /// Adds atomically, wrapping; returns the old value.
    pub fn fetch_add32(addr: u64, value: u32) -> u32 {
        atomic32(addr).fetch_add(value, Ordering::SeqCst)
    }
    /// Exchanges atomically; returns the old value.
    pub fn xchg64(addr: u64, value: u64) -> u64 {
        atomic64(addr).swap(value, Ordering::SeqCst)
    }
    /// Compares and exchanges atomically; returns the value found, `old` when it took place.
    pub fn cmpxchg64(addr: u64, old: u64, new: u64) -> u64 {
        atomic64(addr).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found)
    }
    /// Adds atomically, wrapping; returns the old value.
    pub fn fetch_add64(addr: u64, value: u64) -> u64 {
        atomic64(addr).fetch_add(value, Ordering::SeqCst)
    }
    /// Sets bits atomically; returns the old value. Linux: test_and_set_bit().
    pub fn fetch_or64(addr: u64, bits: u64) -> u64 {
        atomic64(addr).fetch_or(bits, Ordering::SeqCst)
    }
    /// Keeps only the given bits, atomically; returns the old value. Linux: test_and_clear_bit().
    pub fn fetch_and64(addr: u64, bits: u64) -> u64 {
        atomic64(addr).fetch_and(bits, Ordering::SeqCst)
    }
    /// Orders every access before it before every access behind it. Linux: mb().
    pub fn barrier() {
        fence(Ordering::SeqCst);
    }
    /// Orders stores. Linux: virtio_wmb().
    pub fn write_barrier() {
        fence(Ordering::Release);
    }
    /// Orders loads. Linux: virtio_rmb().
    pub fn read_barrier() {
        fence(Ordering::Acquire);
    }

    /// Says a tracepoint: `wire::debug`. Not inlined, so that the emulator finds one `out` and a return into the caller.
    pub fn trace(code: u32, a: u64, b: u64) {
        lp_trace(a, b, code);
    }

    #[unsafe(naked)]
    extern "C" fn lp_trace(_a: u64, _b: u64, _code: u32) {
        naked_asm!("mov eax, edx", "mov edx, {port}", "out dx, eax", "ret", port = const wire::debug::PORT)
    }

    /// The stub behind `KernelInfo::inject_store`: the emulator puts a vCPU here with an address in RDI and a value in RSI.
    #[unsafe(naked)]
    extern "C" fn lp_inject_store() {
        naked_asm!(
            "mov [rdi], rsi",
            "mov eax, {end}",
            "mov edx, {port}",
            "out dx, eax",
            "2: jmp 2b",
            end = const wire::debug::INJECT_END,
            port = const wire::debug::PORT,
        )
    }

    /// Entry of the stub that runs an injected store.
    pub fn inject_store_entry() -> u64 {
        lp_inject_store as *const () as u64
    }

    /// Stores 8 bytes wherever that is, page 0 included; for faults made on purpose.
    pub fn wild_store64(addr: u64, value: u64) {
        // SAFETY: not safe, and that is its purpose: the store may fault, and the machine ends there with a report.
        unsafe { asm!("mov qword ptr [{a}], {v}", a = in(reg) addr, v = in(reg) value, options(nostack, preserves_flags)) };
    }

    /// Jumps to an address; for faults made on purpose.
    pub fn wild_jump(addr: u64) -> ! {
        // SAFETY: not safe, and that is its purpose, as in `wild_store64`.
        unsafe { asm!("jmp {a}", a = in(reg) addr, options(noreturn)) }
    }

    /// Saves the interrupt flag and disables interrupts.
    pub fn irq_save() -> u64 {
        let flags: u64;
        // SAFETY: reads RFLAGS through the stack, clears IF; the compiler keeps no state in either.
        unsafe { asm!("pushfq", "pop {f}", "cli", f = out(reg) flags) };
        flags & RFLAGS_IF
    }
    const RFLAGS_IF: u64 = 1 << 9;

    /// Puts the interrupt flag back to what [`irq_save`] returned.
    pub fn irq_restore(flags: u64) {
        if flags & RFLAGS_IF != 0 {
            irq_enable();
        }
    }
    /// Enables interrupts.
    pub fn irq_enable() {
        // SAFETY: an interrupt's entry saves every register that Rust code may hold.
        unsafe { asm!("sti") };
    }
    /// Disables interrupts.
    pub fn irq_disable() {
        // SAFETY: clears IF only.
        unsafe { asm!("cli") };
    }
    /// Whether interrupts are enabled.
    pub fn irqs_enabled() -> bool {
        let flags: u64;
        // SAFETY: reads RFLAGS through the stack.
        unsafe { asm!("pushfq", "pop {f}", f = out(reg) flags) };
        flags & RFLAGS_IF != 0
    }
    /// Enables interrupts and halts until one comes; nothing can slip in between.
    pub fn enable_and_halt() {
        // SAFETY: `sti` takes effect behind `hlt`, so that a pending interrupt ends the halt.
        unsafe { asm!("sti", "hlt") };
    }
    /// Halts for ever with interrupts disabled.
    pub fn halt_forever() -> ! {
        loop {
            // SAFETY: nothing is expected to happen on this vCPU any more.
            unsafe { asm!("cli", "hlt") };
        }
    }
    /// Tells the processor that this is a spin loop.
    pub fn pause() {
        core::hint::spin_loop();
    }

    /// Address of the current stack's lowest byte, where the thread's structure is.
    pub fn stack_base() -> u64 {
        let rsp: u64;
        // SAFETY: reads RSP.
        unsafe { asm!("mov {r}, rsp", r = out(reg) rsp, options(nomem, nostack, preserves_flags)) };
        rsp & !(STACK_BYTES - 1)
    }

    /// Saves the current context's stack pointer at `save` and continues the one at `load`. Interrupts are disabled.
    pub fn switch_context(save: u64, load: u64) {
        lp_switch(save, load);
    }

    #[unsafe(naked)]
    extern "C" fn lp_switch(_save: u64, _load: u64) {
        naked_asm!(
            "push rbx",
            "push rbp",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "mov [rdi], rsp",
            "mov rsp, [rsi]",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbp",
            "pop rbx",
            "ret",
        )
    }

    #[unsafe(naked)]
    extern "C" fn lp_thread_start() {
        naked_asm!("call {main}", "ud2", main = sym crate::kernel::sched::thread_main)
    }

    /// Prepares an empty stack for [`switch_context`]; returns its stack pointer. The context starts in `kernel::sched::thread_main`.
    pub fn prepare_stack(base: u64) -> u64 {
        assert!(base & (STACK_BYTES - 1) == 0, "crooked stack");
        let rsp = base + STACK_BYTES - 64 - 56;
        for slot in 0..6 {
            write64(rsp + slot * 8, 0);
        }
        write64(rsp + 48, lp_thread_start as *const () as u64);
        rsp
    }

    /// Builds this vCPU's descriptor tables and loads them.
    pub fn init_cpu_tables(cpu: u64) {
        let gdt = data::GDT + cpu * data::GDT_BYTES;
        write64(gdt, 0);
        write64(gdt + 8, 0x00af_9b00_0000_ffff);
        write64(gdt + 16, 0x00cf_9300_0000_ffff);
        let idt = data::IDT + cpu * data::IDT_BYTES;
        let stubs = lp_irq_stubs as *const () as u64;
        for vector in FIRST_VECTOR..FIRST_VECTOR + STUBS {
            let entry = stubs + (vector - FIRST_VECTOR) * STUB_BYTES;
            // Selector 8, type 0x8e (64-bit interrupt gate, present).
            let low = (entry & 0xffff) | 8 << 16 | 0x8e00 << 32 | (entry >> 16 & 0xffff) << 48;
            write64(idt + vector * 16, low);
            write64(idt + vector * 16 + 8, entry >> 32);
        }
        let pointer = data::TABLE_POINTER + cpu * data::TABLE_POINTER_BYTES;
        // A pseudo-descriptor is a 16-bit limit with the 64-bit base behind it.
        write16(pointer, 23);
        write32(pointer + 2, gdt as u32);
        write32(pointer + 6, 0);
        write16(pointer + 16, (data::IDT_BYTES - 1) as u16);
        write32(pointer + 18, idt as u32);
        write32(pointer + 22, 0);
        // SAFETY: the tables above are complete and stay where they are; the far return goes to the next instruction.
        unsafe {
            asm!(
                "lgdt [{p}]",
                "mov {t:e}, 16",
                "mov ss, {t:x}",
                "mov ds, {t:x}",
                "mov es, {t:x}",
                "push 8",
                "lea {t}, [rip + 2f]",
                "push {t}",
                "retfq",
                "2: lidt [{p} + 16]",
                p = in(reg) pointer,
                t = out(reg) _,
            );
        }
    }

    const FIRST_VECTOR: u64 = 0x20;
    const STUBS: u64 = 32;
    const STUB_BYTES: u64 = 16;

    unsafe extern "C" {
        fn lp_irq_stubs();
        fn lp_memset(to: u64, byte: u64, bytes: u64);
        fn lp_memcpy(to: u64, from: u64, bytes: u64);
        static _end: u8;
    }

    /// First address behind the image, from the linker script.
    pub fn image_end() -> u64 {
        (&raw const _end) as u64
    }

    /// The text of a static string's address and length, for an observer.
    pub fn str_location(text: &str) -> (u64, u64) {
        (text.as_ptr() as u64, text.len() as u64)
    }

    // One stub per vector, 16 bytes each: vector on the stack, then the common part. It saves what Rust code may clobber; the
    // interrupted code may hold live SSE registers, because the compiler copies structures with them.
    global_asm!(
        ".balign 16",
        ".globl lp_irq_stubs",
        "lp_irq_stubs:",
        ".set vector, 0x20",
        ".rept 32",
        ".balign 16",
        "pushq $vector",
        "jmp 8f",
        ".set vector, vector + 1",
        ".endr",
        ".balign 16",
        "8: push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11",
        "sub $264, %rsp",
        "movups %xmm0, 0(%rsp); movups %xmm1, 16(%rsp); movups %xmm2, 32(%rsp); movups %xmm3, 48(%rsp)",
        "movups %xmm4, 64(%rsp); movups %xmm5, 80(%rsp); movups %xmm6, 96(%rsp); movups %xmm7, 112(%rsp)",
        "movups %xmm8, 128(%rsp); movups %xmm9, 144(%rsp); movups %xmm10, 160(%rsp); movups %xmm11, 176(%rsp)",
        "movups %xmm12, 192(%rsp); movups %xmm13, 208(%rsp); movups %xmm14, 224(%rsp); movups %xmm15, 240(%rsp)",
        "mov 336(%rsp), %rdi",
        "cld",
        "call {entry}",
        "movups 0(%rsp), %xmm0; movups 16(%rsp), %xmm1; movups 32(%rsp), %xmm2; movups 48(%rsp), %xmm3",
        "movups 64(%rsp), %xmm4; movups 80(%rsp), %xmm5; movups 96(%rsp), %xmm6; movups 112(%rsp), %xmm7",
        "movups 128(%rsp), %xmm8; movups 144(%rsp), %xmm9; movups 160(%rsp), %xmm10; movups 176(%rsp), %xmm11",
        "movups 192(%rsp), %xmm12; movups 208(%rsp), %xmm13; movups 224(%rsp), %xmm14; movups 240(%rsp), %xmm15",
        "add $264, %rsp",
        "pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax",
        "add $8, %rsp",
        "iretq",
        entry = sym crate::kernel::irq::irq_entry,
        options(att_syntax),
    );

    // Every vCPU starts here with its index in RDI. The stack is the vCPU's own; SSE's control words are not what reset promises.
    global_asm!(
        ".section .text.start, \"ax\"",
        ".globl _start",
        "_start:",
        "lea rax, [rdi + 1]",
        "shl rax, 14",
        "lea rsp, [rax + {stacks}]",
        "xor ebp, ebp",
        "push 0x1f80",
        "ldmxcsr [rsp]",
        "fninit",
        "cld",
        "add rsp, 8",
        "sub rsp, 64",
        "call {main}",
        "ud2",
        ".text",
        stacks = const data::BOOT_STACKS,
        main = sym crate::kernel::boot::kernel_main,
    );
    const _: () = assert!(STACK_BYTES == 1 << 14);

    // The compiler calls the first five; no `rep`, each of whose iterations the emulator would dispatch as a block.
    global_asm!(
        ".globl memcpy",
        ".globl memmove",
        ".globl memset",
        ".globl memcmp",
        ".globl bcmp",
        ".globl lp_memcpy",
        ".globl lp_memset",
        "lp_memcpy:",
        "memcpy:",
        "mov rax, rdi",
        "2: cmp rdx, 8",
        "jb 3f",
        "mov rcx, [rsi]",
        "mov [rdi], rcx",
        "add rsi, 8",
        "add rdi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3: test rdx, rdx",
        "jz 4f",
        "mov cl, [rsi]",
        "mov [rdi], cl",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jmp 3b",
        "4: ret",
        "memmove:",
        "mov rax, rdi",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jae 2b",
        "5: test rdx, rdx",
        "jz 4b",
        "dec rdx",
        "mov cl, [rsi + rdx]",
        "mov [rdi + rdx], cl",
        "jmp 5b",
        "lp_memset:",
        "memset:",
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "5: cmp rdx, 64",
        "jb 2f",
        "mov [rdi], rax",
        "mov [rdi + 8], rax",
        "mov [rdi + 16], rax",
        "mov [rdi + 24], rax",
        "mov [rdi + 32], rax",
        "mov [rdi + 40], rax",
        "mov [rdi + 48], rax",
        "mov [rdi + 56], rax",
        "add rdi, 64",
        "sub rdx, 64",
        "jmp 5b",
        "2: cmp rdx, 8",
        "jb 3f",
        "mov [rdi], rax",
        "add rdi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3: test rdx, rdx",
        "jz 4f",
        "mov [rdi], al",
        "inc rdi",
        "dec rdx",
        "jmp 3b",
        "4: mov rax, r8",
        "ret",
        "memcmp:",
        "bcmp:",
        "2: test rdx, rdx",
        "jz 3f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jnz 4f",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "jmp 2b",
        "3: xor eax, eax",
        "4: ret",
    );
}
