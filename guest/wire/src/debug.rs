//! The debug port: tracepoints that an observer sees, and the guest learns nothing from.
//!
//! `trace(code, a, b)` is one `out` to [`PORT`] with the code in EAX and the arguments in RDI and RSI. A tracepoint stands *before* the
//! action it names, except where its line says "after"; so an observer that stops the vCPU there can put other events before the action.
//! The tracepoint function is `out; ret`: the emulator stops right behind it, in the caller.

/// The port.
pub const PORT: u16 = 0xe9;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*
        /// Every code with its name, for diagnostics.
        pub const CODES: &[(u32, &str)] = &[$(($value, stringify!($name)),)*];
    };
}

codes! {
    /// The driver reached DRIVER_OK and the tasks start; after. `a`: vCPU.
    READY = 1,
    /// `panic!`: `a` address and `b` length of the message.
    PANIC = 2,
    /// A page block leaves the allocator: `a` first frame, `b` order; after, before the caller sees it.
    ALLOC = 3,
    /// A page block goes back to the allocator: `a` first frame, `b` order.
    FREE = 4,
    /// A lock is about to be tried: `a` lock (see [`lock`]), `b` address. A spinning vCPU says this again for each try.
    LOCK = 5,
    /// A lock was released; after. `a` lock, `b` address.
    UNLOCK = 6,
    /// The lock is held by somebody else, about to try again: `a` lock, `b` address.
    SPIN = 7,
    /// A hinted block is about to be exposed (its descriptor is written, `avail.idx` not yet raised): `a` first frame, `b` order | descriptor head << 32.
    /// In an interface whose hints stay free: the block is free at this moment, under the zone's lock where the interface takes it, and its address is
    /// about to be put where the device will find it; no head then.
    HINT = 8,
    /// The shrinker is about to take a hinted block back: `a` first frame, `b` order.
    HINT_RECLAIM = 9,
    /// DONE or removal: a hinted block is about to be freed: `a` first frame, `b` order.
    HINT_RETURN = 10,
    /// The command id was read from the configuration; after. `a`: id.
    CMD_ID_READ = 11,
    /// A round starts: the id in `a` is about to be exposed.
    HINT_START = 12,
    /// A round ends: the stop id is about to be exposed.
    HINT_STOP = 13,
    /// A buffer was exposed (`avail.idx` raised); after. `a` queue, `b` head.
    VQ_ADD = 14,
    /// A queue is about to be kicked: `a` queue.
    KICK = 15,
    /// A used buffer was collected; after. `a` queue, `b` head.
    VQ_GET = 16,
    /// An interrupt handler starts: `a` vector.
    IRQ = 17,
    /// A page is about to be told to the host as inflated: `a` frame.
    INFLATE = 18,
    /// A page is about to be told to the host as deflated: `a` frame.
    DEFLATE = 19,
    /// `actual` was written; after. `a`: pages.
    ACTUAL = 20,
    /// A shrinker runs: `a` pages asked.
    SHRINK = 21,
    /// The OOM notifiers run.
    OOM = 22,
    /// A task operation starts: `a` its id in the scenario, `b` its code.
    TASK_BEGIN = 23,
    /// A task operation ended; after. `a` its id in the scenario, `b` 1 when it did what it was asked.
    TASK_END = 24,
    /// A task's named allocation now is the block at frame `a`, order `b` & 0xff, name `b` >> 8; after.
    TASK_NAME = 25,
    /// A queued work starts: `a` work (see [`work`]).
    WORK_BEGIN = 26,
    /// A queued work ended; after. `a` work.
    WORK_END = 27,
    /// The allocator found nothing: `a` order.
    ALLOC_FAIL = 28,
    /// A reported block is about to be exposed: `a` first frame, `b` order.
    REPORT = 29,
    /// The frame on which an injected store runs has ended. Spoken by the emulator's stub, never by guest code.
    INJECT_END = 30,
    /// A warning of the guest's (`WARN_ON`): `a` address and `b` length of the message.
    WARN = 31,
    /// The kernel is about to write the machine's reset register.
    RESTART = 32,
    /// A task finds less memory than it noted: `a` free pages less, `b` managed pages less; after.
    MISSING = 50,
    /// Compaction is about to take a page from its owner: `a` frame.
    ISOLATE = 40,
    /// Compaction is about to give a page back that did not move: `a` frame.
    PUTBACK = 41,
    /// A page's owner is about to be asked to use another one instead: `a` frame, `b` the other's.
    MIGRATE_PAGE = 42,
    /// A page's owner has answered, and both pages are unlocked; after. `a` frame, `b` 0 when it moved, else an error number.
    MIGRATE_DONE = 43,
    /// Under a fault: the balloon's list is walked without its lock, and stands at frame `a` with the next one chosen.
    DEQUEUE = 44,
    /// A vCPU polls, and would look again: `a` address of a u16 in memory, `b` the value that it found there.
    BUSY_WAIT = 60,
}

/// Locks that guest code names in [`LOCK`].
pub mod lock {
    /// A zone's lock.
    pub const ZONE: u64 = 1;
    /// A CPU's page lists.
    pub const PCP: u64 = 2;
    /// `balloon_lock`, a mutex.
    pub const BALLOON: u64 = 3;
    /// `stop_update_lock`.
    pub const STOP_UPDATE: u64 = 4;
    /// `free_page_list_lock`.
    pub const FREE_PAGE_LIST: u64 = 5;
    /// The balloon device's page list, `pages_lock`.
    pub const PAGES: u64 = 6;
    /// virtio core's `config_lock`.
    pub const CONFIG: u64 = 7;
    /// A run queue.
    pub const RUN_QUEUE: u64 = 8;
    /// The task table.
    pub const TASKS: u64 = 9;
    /// virtio-mmio's lock over its list of queues, taken by the interrupt. A virtqueue itself has none: the driver's own locks serialise it.
    pub const VQ: u64 = 10;
    /// A wait queue; nests outside run queues.
    pub const WAIT_QUEUE: u64 = 11;
    /// A workqueue; nests outside nothing.
    pub const WORKQUEUE: u64 = 12;
    /// The table of shrinkers, a mutex.
    pub const SHRINKER: u64 = 13;
    /// The chain of OOM notifiers, a mutex.
    pub const OOM: u64 = 14;
    /// A vCPU's timers.
    pub const TIMER: u64 = 15;
    /// The LRU.
    pub const LRU: u64 = 16;
    /// Mutexes: who finds one of these held sleeps, and its vCPU goes on.
    pub const SLEEPING: &[u64] = &[BALLOON, SHRINKER, OOM];
    /// Names in order of the numbers above, from 1.
    pub const NAMES: &[&str] = &[
        "zone_lock",
        "pcp_lock",
        "balloon_lock",
        "stop_update_lock",
        "free_page_list_lock",
        "pages_lock",
        "config_lock",
        "rq_lock",
        "tasks_lock",
        "vq_lock",
        "wait_queue_lock",
        "workqueue_lock",
        "shrinker_mutex",
        "oom_lock",
        "timer_lock",
        "lru_lock",
    ];
}

/// Works that guest code names in [`WORK_BEGIN`].
pub mod work {
    /// `report_free_page_func`, on the balloon's own workqueue.
    pub const REPORT_FREE_PAGE: u64 = 1;
    /// `update_balloon_size_func`.
    pub const UPDATE_SIZE: u64 = 2;
    /// `update_balloon_stats_func`.
    pub const UPDATE_STATS: u64 = 3;
    /// `page_reporting_process`.
    pub const PAGE_REPORTING: u64 = 4;
    /// The work that answers a request for unused pages.
    pub const REQUEST: u64 = 5;
    /// Names in order of the numbers above, from 1.
    pub const NAMES: &[&str] = &["report_free_page", "update_balloon_size", "update_balloon_stats", "page_reporting", "request"];
}
