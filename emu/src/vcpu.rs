//! The vCPUs: guest machine code, executed to the instruction.
//!
//! [`Machine`] is what the world uses. Below it this file, the only one that names Unicorn, wraps two engines: the *fast* one counts
//! instructions per translated block and stops before the block that would pass the limit, the *slow* one counts them one by one and runs the
//! rest. All vCPUs of a machine share the pair; each has a saved context of its own. Both engines run with a virtual TLB whose misses ask
//! `pages`: that is the dirty log, the traps and the faults in one place, and no access is missed, whatever instruction makes it.
//!
//! Rules that the engine's behaviour dictates, each found the hard way: an engine has its hooks from the start and is always started with
//! `until` 0 and no count (both are baked into translated code); it is stopped from block and instruction hooks or by a refused translation,
//! never from outside (that repeats a store); data is never executable (that makes every store slow); raw context bytes are never compared.
#![expect(unsafe_code, reason = "Unicorn is a C library, and it shares the guest's RAM with this process")]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};

use unicorn_engine::{
    Arch, ControlType, HookType, MemType, Mode, Prot, RegisterX86, TlbEntry, TlbType, X86CpuModel, X86Insn, uc_close, uc_context,
    uc_context_alloc, uc_context_free, uc_context_reg_read, uc_context_restore, uc_context_save, uc_context_size, uc_ctl, uc_emu_start,
    uc_emu_stop, uc_engine, uc_error, uc_hook, uc_hook_add, uc_mem_map_ptr, uc_mem_unmap, uc_open, uc_reg_read, uc_reg_write,
};

mod decode;
mod hooks;
mod irq;
mod machine;
mod pages;
mod pool;
mod regs;
mod snapshot;

pub use irq::IrqOff;
pub use machine::{Context, CpuSnapshot, Exit, Fault, FaultKind, Machine, Run};
pub use regs::{RFLAGS_IF, Regs};
pub use snapshot::RamSnapshot;

use crate::image::Image;
use decode::Text;
use hooks::{Hooks, Returned, SCRATCH};
use host::event::Pfn;
use host::memory::GuestRam;
use pages::{Access, Pages, Rights};
use regs::{Reg, WideReg};
use wire::platform::PAGE_SIZE;

/// The engine that counts blocks.
const FAST: usize = 0;
/// The engine that counts instructions.
const SLOW: usize = 1;
/// Room for translated code, bytes, for each engine.
const TCG_BUFFER_BYTES: [u32; 2] = [16 << 20, 8 << 20];

/// A page on its own.
#[repr(C, align(4096))]
struct AlignedPage([u8; PAGE_SIZE as usize]);

/// The fast and the slow engine over one text. Idle ones keep their translated code.
struct Engines {
    uc: [NonNull<uc_engine>; 2],
    hooks: NonNull<Hooks>,
    /// The text that the engines execute: a copy that outlives the RAM of one machine, so that translated code stays valid.
    code: Vec<AlignedPage>,
    code_first: u64,
    scratch: Box<AlignedPage>,
    /// A vCPU after reset.
    reset: Blob,
    /// Where the mapped RAM lies in this process, and its size in bytes; 0 when none is mapped. Of idle engines it may be freed.
    ram: (usize, u64),
}

/// A saved context as the engine lays it out: a header, then the CPU's registers. Plain bytes without pointers, but opaque.
#[derive(Clone)]
struct Blob(Vec<u128>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob(rip={:#x})", self.read(Reg::Rip))
    }
}

fn ok(error: uc_error) {
    assert!(error == uc_error::OK, "the engine refused a call: {error:?}");
}

fn control(kind: ControlType) -> ControlType {
    ControlType(kind.0 | ControlType::IO_WRITE.0)
}

impl Engines {
    /// Returns new engines over the image's text.
    fn new(image: &Image) -> Engines {
        let (first, code) = code_pages(image);
        Engines::open(first, code)
    }

    /// Whether these engines execute the image's text.
    fn fits(&self, image: &Image) -> bool {
        let (first, code) = code_pages(image);
        self.code_first == first && self.code.len() == code.len() && self.code.iter().zip(&code).all(|(a, b)| a.0 == b.0)
    }

    /// Whether this RAM is mapped already.
    fn maps(&self, ram: &GuestRam) -> bool {
        self.ram == place(ram)
    }

    fn open(code_first: u64, code: Vec<AlignedPage>) -> Engines {
        let bytes: Vec<u8> = code.iter().flat_map(|page| page.0).collect();
        let text_pages = code_first / PAGE_SIZE..code_first / PAGE_SIZE + code.len() as u64;
        let hooks = Hooks::new(Pages::new(text_pages.end, text_pages), Text::new(code_first, &bytes));
        let hooks = NonNull::from(Box::leak(Box::new(hooks)));
        let scratch = Box::new(AlignedPage([0; PAGE_SIZE as usize]));
        let uc = [open_engine(TCG_BUFFER_BYTES[FAST]), open_engine(TCG_BUFFER_BYTES[SLOW])];
        for (index, uc) in uc.into_iter().enumerate() {
            map(uc, code_first, code.len() as u64 * PAGE_SIZE, Prot::READ | Prot::EXEC, code.as_ptr().cast_mut().cast());
            map(uc, SCRATCH, PAGE_SIZE, Prot::READ | Prot::WRITE, ptr::from_ref(&*scratch).cast_mut().cast());
            add_hooks(uc, index, hooks);
        }
        let mut engines = Engines { uc, hooks, code, code_first, scratch, reset: Blob(Vec::new()), ram: (0, 0) };
        engines.write(FAST, Reg::Mxcsr, 0x1f80);
        engines.write(FAST, Reg::Fpcw, 0x37f);
        engines.reset = engines.blob(FAST);
        engines
    }

    /// What the hooks work on.
    fn hooks(&mut self) -> &mut Hooks {
        // SAFETY: allocated in `open`, freed in `drop`; the hooks themselves use it only while `start`, `attach` or `unmap` runs,
        // which hold `&mut self`.
        unsafe { self.hooks.as_mut() }
    }

    /// As [`Engines::hooks`], to read.
    fn hooks_ref(&self) -> &Hooks {
        // SAFETY: as in `hooks`; nothing writes while `&self` is held.
        unsafe { self.hooks.as_ref() }
    }

    /// Gives the engines a machine's RAM, which must outlive every run. All pages are open.
    fn attach(&mut self, ram: &GuestRam) {
        let code_end = self.code_first + self.code.len() as u64 * PAGE_SIZE;
        assert!(code_end <= ram.bytes(), "text ends at {code_end:#x}, RAM at {:#x}", ram.bytes());
        // New RAM often lies where the last machine's was: then the mapping stands.
        if !self.maps(ram) {
            self.unmap();
            self.ram = place(ram);
            for (first, end) in self.data_ranges() {
                for uc in self.uc {
                    // SAFETY: the range lies in RAM, by the assertion above.
                    let host = unsafe { ram.host_address().add(first as usize) };
                    map(uc, first, end - first, Prot::READ | Prot::WRITE, host);
                }
            }
        }
        let text = self.code_first / PAGE_SIZE..code_end / PAGE_SIZE;
        self.hooks().pages = Pages::new(ram.pages(), text);
        for engine in [FAST, SLOW] {
            self.hooks().pages.make_stale(engine);
        }
    }

    /// Takes the RAM away again. It is not accessed, and may be freed already.
    fn unmap(&mut self) {
        self.hooks().unmapping = true;
        for (first, end) in self.data_ranges() {
            for uc in self.uc {
                // SAFETY: `attach` mapped this range; the engine is not running.
                ok(unsafe { uc_mem_unmap(uc.as_ptr(), first, end - first) });
            }
        }
        self.hooks().unmapping = false;
        self.ram = (0, 0);
    }

    /// RAM around text.
    fn data_ranges(&self) -> Vec<(u64, u64)> {
        let code_end = self.code_first + self.code.len() as u64 * PAGE_SIZE;
        [(0, self.code_first), (code_end, self.ram.1)].into_iter().filter(|(first, end)| first < end && self.ram.1 > 0).collect()
    }

    /// Forgets what an engine's TLB holds.
    fn flush(&mut self, engine: usize) {
        // SAFETY: the engine lives and is not running.
        ok(unsafe { uc_ctl(self.uc[engine].as_ptr(), control(ControlType::TLB_FLUSH)) });
    }

    /// Runs an engine from its own RIP until a hook stops it, or the guest does. Returns the instructions that were executed.
    fn start(&mut self, engine: usize, limit: u64) -> (Returned, u64) {
        let rip = self.read(engine, Reg::Rip);
        self.hooks().begin(limit);
        // SAFETY: the engine lives; its hooks' data is not borrowed while it runs.
        let error = unsafe { uc_emu_start(self.uc[engine].as_ptr(), rip, 0, 0, 0) };
        let returned = self.returned(error);
        let insns = self.hooks_ref().executed(engine, returned, self.read(engine, Reg::Rip));
        (returned, insns)
    }

    fn returned(&self, error: uc_error) -> Returned {
        let hooks = self.hooks_ref();
        match (error, hooks.exception, hooks.refused, hooks.stop) {
            (uc_error::OK, Some(vector), _, _) => Returned::Exception(vector),
            (uc_error::INSN_INVALID, _, _, _) => Returned::Exception(6),
            (uc_error::EXCEPTION, _, Some(refused), _) => Returned::Refused(refused),
            (uc_error::OK, None, _, Some(stop)) => Returned::Stopped(stop),
            (uc_error::OK, None, _, None) => Returned::Halted,
            (error, exception, refused, stop) => {
                panic!("the engine ended with {error:?}, exception {exception:?}, refused {refused:?}, stop {stop:?}")
            }
        }
    }

    /// Saves an engine's context.
    fn save(&self, engine: usize, blob: &mut Blob) {
        // SAFETY: a blob has the size and the header of a context of this engine's model.
        ok(unsafe { uc_context_save(self.uc[engine].as_ptr(), blob.0.as_mut_ptr().cast()) });
    }

    /// Loads a context into an engine.
    fn load(&self, engine: usize, blob: &Blob) {
        // SAFETY: as in `save`; the engine only reads it.
        ok(unsafe { uc_context_restore(self.uc[engine].as_ptr(), blob.0.as_ptr().cast_mut().cast()) });
    }

    /// Returns an engine's context as a new blob.
    fn blob(&self, engine: usize) -> Blob {
        let uc = self.uc[engine].as_ptr();
        let mut context: *mut uc_context = ptr::null_mut();
        // SAFETY: the engine lives; the context is of the size that it says, and is freed here.
        unsafe {
            ok(uc_context_alloc(uc, &raw mut context));
            ok(uc_context_save(uc, context));
            let bytes = uc_context_size(uc);
            let mut blob = Blob(vec![0; bytes.div_ceil(size_of::<u128>())]);
            ptr::copy_nonoverlapping(context.cast::<u8>(), blob.0.as_mut_ptr().cast(), bytes);
            ok(uc_context_free(context));
            blob
        }
    }

    fn read(&self, engine: usize, reg: Reg) -> u64 {
        let mut value = 0u64;
        // SAFETY: no register of `Reg` is wider than 8 bytes.
        ok(unsafe { uc_reg_read(self.uc[engine].as_ptr(), engine_reg(reg), (&raw mut value).cast()) });
        value
    }

    fn write(&mut self, engine: usize, reg: Reg, value: u64) {
        // SAFETY: no register of `Reg` is wider than 8 bytes.
        ok(unsafe { uc_reg_write(self.uc[engine].as_ptr(), engine_reg(reg), (&raw const value).cast()) });
    }

    fn read_wide(&self, engine: usize, reg: WideReg) -> [u64; 3] {
        let mut value = [0u64; 3];
        // SAFETY: no register of `WideReg` is wider than 24 bytes.
        ok(unsafe { uc_reg_read(self.uc[engine].as_ptr(), engine_wide_reg(reg), value.as_mut_ptr().cast()) });
        value
    }

    /// Fills the page that stands in for a device's registers.
    fn set_scratch(&mut self, offset: u64, bytes: &[u8]) {
        let first = self.scratch.0.as_mut_ptr();
        assert!(offset as usize + bytes.len() <= self.scratch.0.len(), "a device access across pages");
        // SAFETY: in bounds by the assertion; the engine that maps the page is not running.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), first.add(offset as usize), bytes.len()) };
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        for uc in self.uc {
            // SAFETY: opened in `open`, closed once; closing accesses no guest memory.
            ok(unsafe { uc_close(uc.as_ptr()) });
        }
        // SAFETY: leaked in `open`; the engines that used it are closed.
        drop(unsafe { Box::from_raw(self.hooks.as_ptr()) });
    }
}

impl Blob {
    fn read(&self, reg: Reg) -> u64 {
        let mut value = 0u64;
        // SAFETY: a blob has the layout of a context, and reading a register does not write to it; `value` is wide enough.
        ok(unsafe { uc_context_reg_read(self.0.as_ptr().cast_mut().cast(), engine_reg(reg), (&raw mut value).cast()) });
        value
    }

    fn read_wide(&self, reg: WideReg) -> [u64; 3] {
        let mut value = [0u64; 3];
        // SAFETY: as in `read`.
        ok(unsafe { uc_context_reg_read(self.0.as_ptr().cast_mut().cast(), engine_wide_reg(reg), value.as_mut_ptr().cast()) });
        value
    }

    /// Makes the vCPU forget that it had an exception: the engine never does, and would report a second one as a double fault.
    fn forget_exception(&mut self) {
        let offset = old_exception_offset();
        // SAFETY: the offset was found inside a context of the same model.
        unsafe { self.0.as_mut_ptr().cast::<u8>().add(offset).cast::<i32>().write_unaligned(-1) };
    }
}

/// An engine with nothing of ours but open rights on all RAM: what the bench measures the vCPU against.
pub struct BareEngine {
    uc: NonNull<uc_engine>,
    /// Outlives the engine.
    _ram: Arc<GuestRam>,
}

impl BareEngine {
    /// Returns an engine on RAM and image. Data is not executable here either, since a store to an executable page is slow.
    pub fn new(ram: Arc<GuestRam>, image: &Image) -> BareEngine {
        let uc = open_engine(TCG_BUFFER_BYTES[FAST]);
        map(uc, 0, ram.bytes(), Prot::ALL, ram.host_address());
        image.segments.iter().for_each(|segment| ram.write_unlogged(segment.address, &segment.bytes));
        let mut handle: uc_hook = Default::default();
        // SAFETY: the callback has the signature that the hook asks for, and no data.
        ok(unsafe {
            uc_hook_add(
                uc.as_ptr(),
                &raw mut handle,
                HookType::TLB_FILL.0 as c_int,
                on_bare_fill as *mut c_void,
                ptr::null_mut(),
                1u64,
                0u64,
            )
        });
        BareEngine { uc, _ram: ram }
    }

    /// Sets the general registers.
    pub fn set_regs(&mut self, regs: &Regs) {
        for (reg, value) in regs::GENERAL.into_iter().zip(regs.values()) {
            // SAFETY: no register of `Reg` is wider than 8 bytes.
            ok(unsafe { uc_reg_write(self.uc.as_ptr(), engine_reg(reg), (&raw const value).cast()) });
        }
    }

    /// Forgets what the TLB holds; the engine sizes it anew by what it held.
    pub fn flush(&mut self) {
        // SAFETY: the engine lives and is not running.
        ok(unsafe { uc_ctl(self.uc.as_ptr(), control(ControlType::TLB_FLUSH)) });
    }

    /// Runs from RIP until `hlt`.
    pub fn run_to_halt(&mut self) {
        let mut rip = 0u64;
        // SAFETY: the engine lives; RIP is 8 bytes wide.
        unsafe {
            ok(uc_reg_read(self.uc.as_ptr(), engine_reg(Reg::Rip), (&raw mut rip).cast()));
            ok(uc_emu_start(self.uc.as_ptr(), rip, 0, 0, 0));
        }
    }
}

impl Drop for BareEngine {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, closed once, while the RAM still stands.
        ok(unsafe { uc_close(self.uc.as_ptr()) });
    }
}

impl fmt::Debug for BareEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareEngine").finish_non_exhaustive()
    }
}

extern "C" fn on_bare_fill(_uc: *mut uc_engine, address: u64, kind: MemType, entry: *mut TlbEntry, _data: *mut c_void) -> bool {
    let perms = if kind == MemType::FETCH { Prot::READ | Prot::EXEC } else { Prot::READ | Prot::WRITE };
    // SAFETY: the engine gives room for one entry.
    unsafe { entry.write(TlbEntry { paddr: address, perms }) };
    true
}

/// Copies a page into RAM. The caller holds the machine, so that no guest code runs meanwhile.
fn copy_to_ram(ram: &GuestRam, address: u64, bytes: &[u8]) {
    assert!(address + bytes.len() as u64 <= ram.bytes(), "{} bytes at {address:#x} leave RAM", bytes.len());
    // SAFETY: in bounds by the assertion; worlds run on one thread, so nobody else accesses the RAM now.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), ram.host_address().add(address as usize), bytes.len()) };
    let end = address + bytes.len() as u64;
    (address / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).for_each(|page| ram.touch(Pfn(page)));
}

/// Copies RAM out.
fn copy_from_ram(ram: &GuestRam, address: u64, bytes: &mut [u8]) {
    assert!(address + bytes.len() as u64 <= ram.bytes(), "{} bytes at {address:#x} leave RAM", bytes.len());
    // SAFETY: as in `copy_to_ram`.
    unsafe { ptr::copy_nonoverlapping(ram.host_address().add(address as usize), bytes.as_mut_ptr(), bytes.len()) };
}

/// Returns where RAM lies in this process, and its size.
fn place(ram: &GuestRam) -> (usize, u64) {
    (ram.host_address().addr(), ram.bytes())
}

fn code_pages(image: &Image) -> (u64, Vec<AlignedPage>) {
    let text = image.text();
    let page = |bytes: &[u8]| {
        let mut page = AlignedPage([0; PAGE_SIZE as usize]);
        page.0[..bytes.len()].copy_from_slice(bytes);
        page
    };
    (text.address, text.bytes.chunks(PAGE_SIZE as usize).map(page).collect())
}

/// Opens an engine whose model has neither random numbers nor AVX.
fn open_engine(tcg_buffer_bytes: u32) -> NonNull<uc_engine> {
    let mut uc = ptr::null_mut();
    // SAFETY: plain calls in the order that the engine asks for: model and buffer before first use.
    unsafe {
        ok(uc_open(Arch::X86, Mode::MODE_64, &raw mut uc));
        ok(uc_ctl(uc, control(ControlType::CPU_MODEL), X86CpuModel::SANDYBRIDGE as c_int));
        ok(uc_ctl(uc, control(ControlType::TCG_BUFFER_SIZE), tcg_buffer_bytes));
        ok(uc_ctl(uc, control(ControlType::TLB_TYPE), TlbType::VIRTUAL as c_int));
    }
    NonNull::new(uc).expect("an opened engine")
}

fn map(uc: NonNull<uc_engine>, address: u64, bytes: u64, prot: Prot, host: *mut u8) {
    // SAFETY: the callers give memory of that size which outlives the mapping.
    ok(unsafe { uc_mem_map_ptr(uc.as_ptr(), address, bytes, prot.0, host.cast()) });
}

fn add_hooks(uc: NonNull<uc_engine>, engine: usize, hooks: NonNull<Hooks>) {
    let add = |kind: HookType, callback: *mut c_void, insn: c_int| {
        let mut handle: uc_hook = Default::default();
        // SAFETY: each callback has the signature that its kind asks for, and `hooks` outlives the engine.
        // Bounds 1 to 0 mean every address.
        ok(unsafe { uc_hook_add(uc.as_ptr(), &raw mut handle, kind.0 as c_int, callback, hooks.as_ptr().cast(), 1u64, 0u64, insn) });
    };
    if engine == FAST {
        add(HookType::BLOCK, on_block as *mut c_void, 0);
        add(HookType::TLB_FILL, on_fill::<FAST> as *mut c_void, 0);
        add(HookType::INSN, on_out::<FAST> as *mut c_void, X86Insn::OUT as c_int);
    } else {
        add(HookType::CODE, on_insn as *mut c_void, 0);
        add(HookType::TLB_FILL, on_fill::<SLOW> as *mut c_void, 0);
        add(HookType::INSN, on_out::<SLOW> as *mut c_void, X86Insn::OUT as c_int);
    }
    add(HookType::INTR, on_exception as *mut c_void, 0);
    add(HookType::INSN, on_in as *mut c_void, X86Insn::IN as c_int);
    add(HookType::INSN, on_rdtsc as *mut c_void, X86Insn::RDTSC as c_int);
    add(HookType::INSN, on_rdtsc as *mut c_void, X86Insn::RDTSCP as c_int);
}

/// A block is about to run.
extern "C" fn on_block(uc: *mut uc_engine, address: u64, bytes: u32, data: *mut c_void) {
    // SAFETY: `data` is the hooks' data, which nobody else uses while the engine runs.
    let hooks = unsafe { &mut *data.cast::<Hooks>() };
    if !hooks.begin_block(address, bytes) {
        // SAFETY: stopping from a block hook is exact: the block does not run.
        ok(unsafe { uc_emu_stop(uc) });
    }
}

/// An instruction is about to run.
extern "C" fn on_insn(uc: *mut uc_engine, address: u64, _bytes: u32, data: *mut c_void) {
    // SAFETY: as in `on_block`.
    let hooks = unsafe { &mut *data.cast::<Hooks>() };
    if !hooks.begin_insn(address) {
        // SAFETY: stopping from an instruction hook is exact: the instruction does not run.
        ok(unsafe { uc_emu_stop(uc) });
    }
}

/// An engine has no translation for an access.
extern "C" fn on_fill<const ENGINE: usize>(
    _uc: *mut uc_engine,
    address: u64,
    kind: MemType,
    entry: *mut TlbEntry,
    data: *mut c_void,
) -> bool {
    // SAFETY: as in `on_block`.
    let hooks = unsafe { &mut *data.cast::<Hooks>() };
    let access = match kind {
        MemType::WRITE => Access::Write,
        MemType::FETCH => Access::Fetch,
        _ => Access::Read,
    };
    let Some((physical, rights)) = hooks.fill(ENGINE, address, access) else { return false };
    let perms = match rights {
        Rights::Read => Prot::READ,
        Rights::ReadWrite => Prot::READ | Prot::WRITE,
        Rights::ReadExecute => Prot::READ | Prot::EXEC,
    };
    // SAFETY: the engine gives room for one entry.
    unsafe { entry.write(TlbEntry { paddr: physical, perms }) };
    true
}

/// An exception, or `int`.
extern "C" fn on_exception(uc: *mut uc_engine, vector: u32, data: *mut c_void) {
    // SAFETY: as in `on_block`.
    let hooks = unsafe { &mut *data.cast::<Hooks>() };
    hooks.exception = Some(u8::try_from(vector).unwrap_or(u8::MAX));
    // SAFETY: the engine is between two instructions here.
    ok(unsafe { uc_emu_stop(uc) });
}

/// `out`: a tracepoint, or nothing.
extern "C" fn on_out<const ENGINE: usize>(uc: *mut uc_engine, port: u32, bytes: c_int, value: u32, data: *mut c_void) {
    if port != u32::from(wire::debug::PORT) || bytes != 4 {
        return;
    }
    let read = |reg: Reg| {
        let mut value = 0u64;
        // SAFETY: the registers are in memory while a port is accessed; none here is wider than 8 bytes.
        ok(unsafe { uc_reg_read(uc, engine_reg(reg), (&raw mut value).cast()) });
        value
    };
    // SAFETY: as in `on_block`.
    let hooks = unsafe { &mut *data.cast::<Hooks>() };
    hooks.say(ENGINE, read(Reg::Rip), value, read(Reg::Rdi), read(Reg::Rsi));
}

/// `in`: no device answers.
extern "C" fn on_in(_uc: *mut uc_engine, _port: u32, _bytes: c_int, _data: *mut c_void) -> u32 {
    u32::MAX
}

/// `rdtsc`: the machine's clock is elsewhere, and the host's must not show. Reads as zero.
extern "C" fn on_rdtsc(uc: *mut uc_engine, _data: *mut c_void) -> c_int {
    let zero = 0u64;
    for reg in [Reg::Rax, Reg::Rdx] {
        // SAFETY: neither register is wider than 8 bytes.
        ok(unsafe { uc_reg_write(uc, engine_reg(reg), (&raw const zero).cast()) });
    }
    1
}

/// Where in a context the engine remembers the last exception. Found once, as the only word that a deliberate division by zero turns from
/// -1 into its vector; contexts are opaque.
fn old_exception_offset() -> usize {
    static OFFSET: OnceLock<usize> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // div ecx
        let mut engines = Engines::open(PAGE_SIZE, code_pages(&Image::from_code(PAGE_SIZE, &[0xf7, 0xf1])).1);
        engines.write(FAST, Reg::Rip, PAGE_SIZE);
        let before = engines.blob(FAST);
        let (returned, _) = engines.start(FAST, PAGE_SIZE);
        assert_eq!(returned, Returned::Exception(0));
        let after = engines.blob(FAST);
        let word = |blob: &Blob, index: usize| (blob.0[index / 4] >> (index % 4 * 32)) as u32 as i32;
        let mut changed = (0..before.0.len() * 4).filter(|index| word(&before, *index) == -1 && word(&after, *index) == 0);
        let index = changed.next().expect("the engine remembers an exception");
        assert_eq!(changed.next(), None, "two words look like the remembered exception");
        index * 4
    })
}

fn engine_reg(reg: Reg) -> c_int {
    let register = match reg {
        Reg::Rax => RegisterX86::RAX,
        Reg::Rbx => RegisterX86::RBX,
        Reg::Rcx => RegisterX86::RCX,
        Reg::Rdx => RegisterX86::RDX,
        Reg::Rsi => RegisterX86::RSI,
        Reg::Rdi => RegisterX86::RDI,
        Reg::Rbp => RegisterX86::RBP,
        Reg::Rsp => RegisterX86::RSP,
        Reg::R8 => RegisterX86::R8,
        Reg::R9 => RegisterX86::R9,
        Reg::R10 => RegisterX86::R10,
        Reg::R11 => RegisterX86::R11,
        Reg::R12 => RegisterX86::R12,
        Reg::R13 => RegisterX86::R13,
        Reg::R14 => RegisterX86::R14,
        Reg::R15 => RegisterX86::R15,
        Reg::Rip => RegisterX86::RIP,
        Reg::Rflags => RegisterX86::EFLAGS,
        Reg::Cs => RegisterX86::CS,
        Reg::Ss => RegisterX86::SS,
        Reg::Ds => RegisterX86::DS,
        Reg::Es => RegisterX86::ES,
        Reg::Fs => RegisterX86::FS,
        Reg::Gs => RegisterX86::GS,
        Reg::FsBase => RegisterX86::FS_BASE,
        Reg::GsBase => RegisterX86::GS_BASE,
        Reg::Cr0 => RegisterX86::CR0,
        Reg::Cr2 => RegisterX86::CR2,
        Reg::Cr3 => RegisterX86::CR3,
        Reg::Cr4 => RegisterX86::CR4,
        Reg::Mxcsr => RegisterX86::MXCSR,
        Reg::Fpcw => RegisterX86::FPCW,
        Reg::Fpsw => RegisterX86::FPSW,
        Reg::Fptag => RegisterX86::FPTAG,
    };
    register as c_int
}

fn engine_wide_reg(reg: WideReg) -> c_int {
    match reg {
        WideReg::Xmm(index) => RegisterX86::XMM0 as c_int + c_int::from(index),
        WideReg::St(index) => RegisterX86::ST0 as c_int + c_int::from(index),
        WideReg::Idtr => RegisterX86::IDTR as c_int,
        WideReg::Gdtr => RegisterX86::GDTR as c_int,
    }
}
