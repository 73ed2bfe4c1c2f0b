//! Kernel threads: cooperative, pinned to a vCPU, round robin. Linux: kernel/sched/core.c, reduced to what a kernel thread without
//! preemption sees.
//!
//! A thread's structure lies at the bottom of its stack, so that the stack pointer leads to it. A vCPU's boot context is its idle
//! thread. The running thread is `on_rq` but not on the list, as in Linux; a wake-up that comes between "state := sleeping" and the switch only
//! sets the state back, so that it is never lost.

use wire::platform::{LAPIC, MAX_VCPUS, lapic, vector};

use crate::arch::{self, STACK_BYTES, read64, write64};
use crate::kernel::lock::SpinLock;
use crate::kernel::{data, irq, list, timer};
use crate::mm;

/// Bytes of a run queue: lock, list head, list of timers and its lock, count of switches.
pub const RQ_BYTES: u64 = 64;
const RQ_LIST: u64 = 8;
const RQ_TIMERS: u64 = 24;
const RQ_SWITCHES: u64 = 40;
const RQ_TIMER_LOCK: u64 = 48;

const STACK_CANARY: u64 = 0x57ac_6e9d;
const T_CANARY: u64 = 0;
const T_CPU: u64 = 8;
const T_STATE: u64 = 16;
const T_ON_RQ: u64 = 24;
const T_RSP: u64 = 32;
const T_RUN_NODE: u64 = 40;
const T_WAIT_NODE: u64 = 56;
const T_WAITING: u64 = 72;
const T_FUNC: u64 = 80;
const T_ARG: u64 = 88;
const T_TIMER: u64 = 96;

/// Whether a thread may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// Runs or waits for its turn.
    Running = 0,
    /// Waits for a wake-up. Linux: TASK_UNINTERRUPTIBLE.
    Sleeping = 1,
    /// Has ended.
    Dead = 2,
}

/// A thread: the address of its stack and structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread(u64);

impl Thread {
    /// The thread whose wait node is `node`.
    pub(crate) fn of_wait_node(node: u64) -> Thread {
        Thread(node - T_WAIT_NODE)
    }
    fn of_run_node(node: u64) -> Thread {
        Thread(node - T_RUN_NODE)
    }
    /// Address of the structure.
    pub fn addr(self) -> u64 {
        self.0
    }
    /// The vCPU that the thread is pinned to.
    pub fn cpu(self) -> u64 {
        read64(self.0 + T_CPU)
    }
    pub(crate) fn wait_node(self) -> u64 {
        self.0 + T_WAIT_NODE
    }
    /// Whether the wait node is on a queue; changed under that queue's lock.
    pub(crate) fn is_waiting(self) -> bool {
        read64(self.0 + T_WAITING) != 0
    }
    pub(crate) fn set_waiting(self, waiting: bool) {
        write64(self.0 + T_WAITING, u64::from(waiting));
    }
    /// The thread of an address that [`Thread::addr`] gave.
    pub(crate) fn at(addr: u64) -> Thread {
        Thread(addr)
    }
    /// The timer that ends a sleep.
    pub(crate) fn timer(self) -> timer::Timer {
        timer::Timer::at(self.0 + T_TIMER)
    }
    fn is_idle(self) -> bool {
        self.0 == idle_thread(self.cpu()).0
    }
    /// Sets the state of the current thread before it looks at what it waits for. Linux: set_current_state().
    pub(crate) fn set_state(self, state: State) {
        arch::xchg64(self.0 + T_STATE, state as u64);
    }
    fn is_running(self) -> bool {
        read64(self.0 + T_STATE) == State::Running as u64
    }
    fn rq(self) -> RunQueue {
        RunQueue::of(self.cpu())
    }
    /// Sets up the structure at the bottom of a stack.
    fn init(self, cpu: u64) {
        write64(self.0 + T_CANARY, STACK_CANARY);
        write64(self.0 + T_CPU, cpu);
        write64(self.0 + T_STATE, State::Running as u64);
        write64(self.0 + T_ON_RQ, 1);
        write64(self.0 + T_WAITING, 0);
    }
}

fn idle_thread(cpu: u64) -> Thread {
    Thread(data::BOOT_STACKS + cpu * STACK_BYTES)
}

/// A vCPU's run queue.
#[derive(Debug, Clone, Copy)]
struct RunQueue(u64);

impl RunQueue {
    fn of(cpu: u64) -> RunQueue {
        assert!(cpu < MAX_VCPUS as u64, "no vCPU {cpu}");
        RunQueue(data::RUN_QUEUES + cpu * RQ_BYTES)
    }
    fn lock(self) -> SpinLock {
        SpinLock::at(self.0, wire::debug::lock::RUN_QUEUE)
    }
    fn list(self) -> u64 {
        self.0 + RQ_LIST
    }
}

/// The list of a vCPU's timers, by deadline, and its lock.
pub(crate) fn timers(cpu: u64) -> (u64, SpinLock) {
    let rq = RunQueue::of(cpu);
    (rq.0 + RQ_TIMERS, SpinLock::at(rq.0 + RQ_TIMER_LOCK, wire::debug::lock::TIMER))
}

/// The thread that runs. Linux: current.
pub fn current() -> Thread {
    Thread(arch::stack_base())
}

/// The vCPU that runs this. Linux: smp_processor_id().
pub fn cpu_id() -> u64 {
    current().cpu()
}

/// vCPUs of this machine. Linux: num_online_cpus().
pub fn nr_cpus() -> u64 {
    read64(data::NR_CPUS)
}

/// Makes this vCPU's boot context its idle thread.
pub(crate) fn init_cpu(cpu: u64) {
    idle_thread(cpu).init(cpu);
    assert!(current() == idle_thread(cpu), "not on the boot stack");
}

/// Sets up all run queues. Linux: sched_init().
pub(crate) fn init(cpus: u64) {
    assert!((1..=MAX_VCPUS as u64).contains(&cpus), "{cpus} vCPUs");
    write64(data::NR_CPUS, cpus);
    for cpu in 0..MAX_VCPUS as u64 {
        let rq = RunQueue::of(cpu);
        rq.lock().init();
        list::init_list_head(rq.list());
        let (timers, lock) = timers(cpu);
        list::init_list_head(timers);
        lock.init();
    }
    irq::register_handler(vector::RESCHEDULE, |_| {});
    timer::init();
}

/// Creates a thread on `cpu` that calls `func(arg)`, and makes it runnable. Linux: kthread_create_on_cpu(), wake_up_process().
///
/// # Panics
/// If there is no memory for the stack: threads are made at boot.
pub fn kthread_run(cpu: u64, func: fn(u64), arg: u64) -> Thread {
    assert!(cpu < nr_cpus(), "no vCPU {cpu}");
    let pfn = mm::alloc_pages(mm::Gfp::KERNEL, STACK_ORDER).expect("no memory for a kernel stack");
    let thread = Thread(pfn.addr());
    thread.init(cpu);
    write64(thread.0 + T_FUNC, func as usize as u64);
    write64(thread.0 + T_ARG, arg);
    write64(thread.0 + T_RSP, arch::prepare_stack(thread.0));
    thread.set_state(State::Sleeping);
    write64(thread.0 + T_ON_RQ, 0);
    wake_up_process(thread);
    thread
}
const STACK_ORDER: u32 = 2;
const _: () = assert!(wire::platform::PAGE_SIZE << STACK_ORDER == STACK_BYTES);

/// Where a new thread's stack starts.
#[cfg(image)]
pub(crate) extern "C" fn thread_main() -> ! {
    arch::irq_enable();
    let me = current();
    arch::call1(read64(me.0 + T_FUNC), read64(me.0 + T_ARG));
    // Its stack is never freed: nobody may free the stack that he stands on, and threads live as long as the machine.
    loop {
        me.set_state(State::Dead);
        schedule();
    }
}

/// Makes a sleeping thread runnable; from any context. Returns whether it was asleep. Linux: wake_up_process().
pub fn wake_up_process(thread: Thread) -> bool {
    let rq = thread.rq();
    let flags = rq.lock().lock_irqsave();
    let was_asleep = read64(thread.0 + T_STATE) == State::Sleeping as u64;
    let mut kick = false;
    if was_asleep {
        write64(thread.0 + T_STATE, State::Running as u64);
        if read64(thread.0 + T_ON_RQ) == 0 {
            write64(thread.0 + T_ON_RQ, 1);
            list::list_add_tail(thread.0 + T_RUN_NODE, rq.list());
            kick = thread.cpu() != cpu_id();
        }
    }
    rq.lock().unlock_irqrestore(flags);
    if kick {
        send_ipi(thread.cpu(), vector::RESCHEDULE);
    }
    was_asleep
}

/// Sends an interrupt to a vCPU. Linux: arch_smp_send_reschedule().
pub(crate) fn send_ipi(cpu: u64, vector: u8) {
    // The two writes belong together: an interrupt between them could send one of its own.
    let flags = arch::irq_save();
    arch::mmio_write32(LAPIC + lapic::ICR_HIGH, (cpu as u32) << 24);
    arch::mmio_write32(LAPIC + lapic::ICR_LOW, u32::from(vector));
    arch::irq_restore(flags);
}

/// Gives the vCPU to the next thread; returns when this one runs again. A thread that is not `Running` leaves the queue. Linux: schedule().
pub fn schedule() {
    let prev = current();
    assert!(read64(prev.0 + T_CANARY) == STACK_CANARY, "kernel stack overflow");
    let rq = prev.rq();
    let flags = rq.lock().lock_irqsave();
    if prev.is_running() {
        if !prev.is_idle() {
            list::list_add_tail(prev.0 + T_RUN_NODE, rq.list());
        }
    } else {
        write64(prev.0 + T_ON_RQ, 0);
    }
    let next = match list::first(rq.list()) {
        Some(node) => {
            list::list_del(node);
            Thread::of_run_node(node)
        }
        None => idle_thread(prev.cpu()),
    };
    arch::fetch_add64(rq.0 + RQ_SWITCHES, 1);
    // Threads are pinned and interrupts are off: nobody else can pick `prev` up before its registers are saved.
    rq.lock().unlock();
    // On the machine a thread that is not `Running` is never `next`; a unit test's only context is, and waits for its hook there.
    if next != prev || !prev.is_running() {
        arch::switch_context(prev.0 + T_RSP, next.0 + T_RSP);
    }
    arch::irq_restore(flags);
}

/// Asserts that this context may sleep; `what` says who would. Linux: might_sleep(), with CONFIG_DEBUG_ATOMIC_SLEEP.
pub fn might_sleep(what: &str) {
    assert!(arch::irqs_enabled() || read64(sleep_checks_off()) != 0, "{what} with interrupts disabled");
}

/// Runs `body` as a kernel without CONFIG_DEBUG_ATOMIC_SLEEP runs all its code: what might sleep may be called anywhere, and only who does
/// sleep in an interrupt is caught ([`crate::kernel::wait::wait_event`]). For handlers that were posted so.
pub fn without_sleep_checks(body: impl FnOnce()) {
    let before = read64(sleep_checks_off());
    write64(sleep_checks_off(), 1);
    body();
    write64(sleep_checks_off(), before);
}

fn sleep_checks_off() -> u64 {
    data::NO_SLEEP_CHECKS + cpu_id() * 8
}

/// Lets others run if there are any. Linux: cond_resched().
pub fn cond_resched() {
    if !list::list_empty(current().rq().list()) {
        schedule();
    }
}

/// What a vCPU does when it has nothing to do. Linux: cpu_startup_entry().
#[cfg(image)]
pub(crate) fn idle_loop() -> ! {
    let rq = current().rq();
    loop {
        arch::irq_disable();
        if list::list_empty(rq.list()) {
            arch::enable_and_halt();
        } else {
            arch::irq_enable();
            schedule();
        }
    }
}
