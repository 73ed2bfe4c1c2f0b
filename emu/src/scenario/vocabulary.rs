//! The language of scenario files in one table: every key with its meaning, its type, its range and the reason for it.
//!
//! The reader takes types and ranges from here and refuses what does not stand here; the JSON Schema is written from here. So neither can
//! know a key that the other does not.

use wire::platform::{MAX_VCPUS, PAGE_SIZE, RAM_BYTES_MAX, RAM_BYTES_MIN};

use super::words::{
    blames, compressions, corrections, destination_rams, dirty_logs, drivers, faults, features, grains, holds, hows, numberings, profiles,
    targets, verdicts, waiters, walks, zero_pages,
};

/// A table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// How messages call it.
    pub(super) title: &'static str,
    /// Its keys, in the order of writing.
    pub(super) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Its meaning, in a sentence; shown by editors.
    pub(super) about: &'static str,
    pub(super) required: bool,
    /// What holds without it, as TOML; empty when that is nothing, or depends on other keys.
    pub(super) default: &'static str,
    pub(super) kind: Kind,
}

/// A word of a closed set, and its meaning.
pub(super) type Word = (&'static str, &'static str);

/// Smallest and largest value, and the reason for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) why: &'static str,
}

impl Range {
    /// Returns the range in words, each end written by `format`.
    pub(super) fn describe(&self, format: impl Fn(u64) -> String) -> String {
        if self.max == INTEGER_MAX {
            format!("at least {}", format(self.min))
        } else {
            format!("{} to {}", format(self.min), format(self.max))
        }
    }
}

/// What a key's value is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A text that is not empty.
    Text,
    /// A new name.
    Name,
    Flag,
    /// `true`, and nothing else.
    True,
    Integer(Range),
    /// An integer that is a power of two.
    PowerOfTwo(Range),
    /// A list of integers.
    Integers(Range),
    /// A list of different values of a kind: integers or sizes.
    Several(&'static Kind),
    /// A size with a unit; a multiple of the number.
    Size(Range, u64),
    /// A size with a unit; a power of two.
    SizePowerOfTwo(Range),
    Time(Range),
    Rate(Range),
    /// A rate, or "unlimited".
    RateOrUnlimited(Range),
    /// One word of a set, and what such a word is.
    Word(&'static str, fn() -> Vec<Word>),
    /// A flag, or one word of a set, and what such a word is.
    FlagOrWord(&'static str, fn() -> Vec<Word>),
    /// A list of different words of a set, and what such a word is.
    Words(&'static str, fn() -> Vec<Word>),
    /// The name of a vCPU.
    Vcpu,
    /// Who makes an injection.
    Actor,
    /// A name of `[pages]`.
    Page,
    /// The name of an allocation, new or known.
    Allocation,
    /// An event pattern.
    Pattern,
    /// An event pattern or a list of them.
    Patterns,
    /// Two or more event patterns.
    Chain,
    Table(&'static Table),
    Tables(&'static Table),
    /// One of [`OPERATIONS`].
    Operation,
    /// A list of [`OPERATIONS`].
    Operations,
    /// A monitor command.
    Command,
    /// When the migration starts.
    Start,
    /// Names with their page specifications.
    Pages,
    /// A table for each of some named pages.
    PerPage(&'static Table),
    /// A table for each of some events.
    PerEvent(&'static Table),
}

const fn key(name: &'static str, about: &'static str, kind: Kind) -> Key {
    Key { name, about, required: false, default: "", kind }
}

impl Key {
    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }
}

const fn range(min: u64, max: u64, why: &'static str) -> Range {
    Range { min, max, why }
}

impl Table {
    /// Returns the key of that name.
    ///
    /// # Panics
    /// When there is none: a reader asks for what the language does not have.
    pub(super) fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{} has no key `{name}`", self.title))
    }

    /// Returns whether a key of that name exists.
    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

/// TOML promises integers up to here.
pub(super) const INTEGER_MAX: u64 = i64::MAX as u64;
const TIME: Range = range(0, 86_400_000_000_000, "a run is a matter of seconds; a day is the limit");
const ANY: Range = range(0, INTEGER_MAX, "TOML's integers end at 2^63 - 1");
const COUNT: Range = range(1, INTEGER_MAX, "0 would end the run before it starts");
const COST: Range = range(0, 1_000_000_000, "no single move takes longer than a second");
const RATE: Range = range(1, 1 << 40, "a link must move, and 1024 GiB/s is beyond any");
const POISONED: Range = range(0, RAM_BYTES_MAX / PAGE_SIZE - 1, "no memory has more pages");
const CHANNELS: Range = range(0, 8, "more would show nothing that eight do not");
const XBZRLE: Range = range(1, 1 << 20, "more exceed any guest's pages");
const EVERY: Range = range(1, 1_000_000, "more exceed any guest's pages");
const ZONE: Range = range(0, 63, "no machine has more");
const BYTE: Range = range(0, 255, "it is a byte");
const PERCENT: Range = range(1, 100, "QEMU takes 1 to 100 percent");
const SHARE: Range = range(1, 99, "a vCPU sleeps at most 99 percent of its time");
const ID: Range = range(0, u32::MAX as u64, "command ids have 32 bits");
const ROOM: Range = range(0, 1024, "tables do not grow by more");
const RAM_ADDRS: Range = range(0, 2 * RAM_BYTES_MAX / PAGE_SIZE, "that much lies between no two blocks");
const PAGES: Range = range(1, RAM_BYTES_MAX / PAGE_SIZE, "no memory has more pages");
const VCPUS: Range = range(1, MAX_VCPUS as u64, "each has a mailbox page");
const RING: Range = range(4, 1 << 16, "a vCPU has to get on between two exits, and KVM takes no more than 65536 entries");
const REAP: Range = range(1, 1_000_000_000_000, "a reaper that never sleeps would never let go");
const SLOT: Range = range(PAGE_SIZE, RAM_BYTES_MAX, "the first slot begins at 0, and no memory is larger");
const CHUNK: Range = range(PAGE_SIZE << 6, PAGE_SIZE << 31, "QEMU's x-clear-bitmap-shift is 6..=31 pages, as a power of two");
/// 4 KiB, 64 KiB, 2 MiB and what lies between.
const HOST_PAGE: Range = range(PAGE_SIZE, 2 << 20, "such are the pages of anonymous memory, and the smaller huge ones");
const HINT_QUEUE: Range = range(2, 1024, "Linux does not probe with fewer than 2 entries, QEMU's queues end at 1024");
const ARRAY: Range = range(1, 512, "an array is a page");
const VHOST_QUEUES: Range = range(0, 7, "the model has eight queues");
const QUEUE: Range = range(1, 1024, "QEMU's queues end at 1024");
const AMOUNT: Range = range(PAGE_SIZE, RAM_BYTES_MAX, "at least a page, and no memory is larger");

/// The whole file.
pub(super) static ROOT: Table = Table {
    title: "the file",
    keys: &[
        key("about", "What the scenario shows, in a sentence.", Kind::Text).required(),
        key("witness", "Faults that must change the verdict when switched on.", Kind::Words("fault", faults)).default("[]"),
        key("faults", "Faults that are on in this scenario.", Kind::Words("fault", faults)).default("[]"),
        key("guest", "The guest: memory, vCPUs, driver, tasks.", Kind::Table(&GUEST)),
        key("host", "The host: device, dirty log.", Kind::Table(&HOST)),
        key("migration", "The migration's parameters.", Kind::Table(&MIGRATION)),
        key(
            "pages",
            "Names for pages: \"first page of hint 1\", \"page 7 of hint 1\" (from 0), \"pfn 0x800\", \"address 0x800000\", \"last page of A\".",
            Kind::Pages,
        ),
        key("inject", "Something that the scenario does at a chosen moment.", Kind::Tables(&INJECT)),
        key(
            "may",
            "Something that a search may do, at a moment of its choosing or not at all; `run` leaves it out, and orders cannot name it.",
            Kind::Tables(&MAY),
        ),
        key("order", "Events that must come in this order.", Kind::Tables(&ORDER)),
        key("search", "Where a search chooses who moves.", Kind::Table(&SEARCH)),
        key("vary", "Settings that a search may change; without a list, the scenario's own value holds.", Kind::Table(&VARY)),
        key("expect", "What must come out.", Kind::Table(&EXPECT)),
        key("costs", "What moves cost in virtual time.", Kind::Table(&COSTS)),
        key("limits", "When the run is given up.", Kind::Table(&LIMITS)),
        key("found", "Where the scenario came from, if a search wrote it; nothing depends on it.", Kind::Table(&FOUND)),
    ],
};

static GUEST: Table = Table {
    title: "[guest]",
    keys: &[
        key(
            "ram",
            "Memory.",
            Kind::Size(
                range(
                    RAM_BYTES_MIN,
                    RAM_BYTES_MAX,
                    "the image, its memory map and one free block of the largest order must fit, and MMIO lies above",
                ),
                PAGE_SIZE,
            ),
        )
        .default("\"16 MiB\""),
        key("vcpus", "Number of vCPUs.", Kind::Integer(VCPUS)).default("2"),
        key("driver", "Which interface the balloon driver speaks.", Kind::Word("driver", drivers)).default("\"hint\""),
        key(
            "corrected",
            "Flaws of the driver's interface that are corrected; by default it is as it was posted.",
            Kind::Words("correction", corrections),
        )
        .default("[]"),
        key("hint_array", "Addresses that an array of hints holds, in drivers that send arrays.", Kind::Integer(ARRAY)).default("512"),
        key("queue_numbering", "How the driver numbers its queues.", Kind::Word("numbering", numberings)).default("\"dense\""),
        key("page_poison", "Freed pages are filled with 0xaa and checked on allocation.", Kind::Flag).default("false"),
        key("init_on_alloc", "Allocated pages are zeroed.", Kind::Flag).default("false"),
        key("init_on_free", "Freed pages are zeroed.", Kind::Flag).default("false"),
        key("late_probe", "The driver is a module: a task's `bind` loads it.", Kind::Flag).default("false"),
        key("deflate_silently", "The driver reuses what it deflates without telling, unless MUST_TELL_HOST is negotiated.", Kind::Flag)
            .default("false"),
        key("hint_in_two", "Each hinted block is a chain of two descriptors (driver hint alone).", Kind::Flag).default("false"),
        key("start_with_hint", "A round's first block is in the chain of the round's id (driver hint alone).", Kind::Flag).default("false"),
        key("refuse", "Features that the driver refuses though they are offered.", Kind::Words("feature", features)).default("[]"),
        key("task", "What a vCPU does from the start.", Kind::Tables(&TASK)),
    ],
};

static TASK: Table = Table {
    title: "[[guest.task]]",
    keys: &[key("on", "The vCPU.", Kind::Vcpu).required(), key("do", "Its operations, in order.", Kind::Operations).required()],
};

/// The operations of tasks; each table's first key is the operation's name.
pub(super) static OPERATIONS: &[Table] = &[
    Table {
        title: "an `alloc` operation",
        keys: &[
            key("alloc", "Allocates a block and gives it this name.", Kind::Allocation).required(),
            key(
                "order",
                "log2 of the block's pages.",
                Kind::Integer(range(0, wire::layout::MAX_PAGE_ORDER as u64, "the buddy allocator has no larger blocks")),
            )
            .default("0"),
            key("atomic", "As an interrupt would: without reclaim, and from the reserves if need be (GFP_ATOMIC).", Kind::Flag)
                .default("false"),
        ],
    },
    Table {
        title: "a `free` operation",
        keys: &[
            key("free", "Frees an allocated block.", Kind::Allocation).required(),
            key("in_interrupt", "From the interrupt that tells the task of it.", Kind::Flag).default("false"),
        ],
    },
    Table {
        title: "a `write` operation",
        keys: &[
            key(
                "write",
                "Stores 8 bytes at the start of a page of an allocated block: the byte, then a number unique in the scenario.",
                Kind::Allocation,
            )
            .required(),
            key("byte", "First byte stored.", Kind::Integer(BYTE)).required(),
            key("page", "Which page of the block, from 0.", Kind::Integer(ANY)).default("0"),
        ],
    },
    Table {
        title: "a `verify` operation",
        keys: &[
            key("verify", "Panics unless a page of an allocated block starts with the byte.", Kind::Allocation).required(),
            key("byte", "First byte expected.", Kind::Integer(BYTE)).required(),
            key("page", "Which page of the block, from 0.", Kind::Integer(ANY)).default("0"),
        ],
    },
    Table {
        title: "a `fill` operation",
        keys: &[
            key("fill", "Allocates single pages, writes each, and keeps them under this name.", Kind::Allocation).required(),
            key("size", "How much.", Kind::Size(AMOUNT, PAGE_SIZE)).required(),
        ],
    },
    Table {
        title: "a `release` operation",
        keys: &[
            key("release", "Frees what `fill` allocated.", Kind::Allocation).required(),
            key("every", "Frees one page of this many, so that what is free lies in pieces.", Kind::Integer(EVERY)).default("1"),
        ],
    },
    Table {
        title: "a `start_zone` operation",
        keys: &[key(
            "start_zone",
            "The driver's next answer begins at the zone of this number, there or not (drivers v6, v8).",
            Kind::Integer(ZONE),
        )
        .required()],
    },
    Table {
        title: "a `list_free` operation",
        keys: &[key(
            "list_free",
            "Asks for the addresses of the free blocks of this order, as any module may of v33.",
            Kind::Integer(range(0, 63, "an order is a number of bits")),
        )
        .required()],
    },
    Table {
        title: "a `shrink` operation",
        keys: &[key("shrink", "Runs the shrinkers for this much.", Kind::Size(AMOUNT, PAGE_SIZE)).required()],
    },
    Table { title: "an `oom` operation", keys: &[key("oom", "Runs the OOM notifiers.", Kind::True).required()] },
    Table {
        title: "a `compact` operation",
        keys: &[
            key("compact", "Compacts memory: only the balloon's pages move.", Kind::True).required(),
            key(
                "order",
                "Until a block of this order is to be had; 0: all of memory, as far as it goes.",
                Kind::Integer(range(0, wire::layout::MAX_PAGE_ORDER as u64, "the buddy allocator has no larger blocks")),
            )
            .default("0"),
            key("busy", "Which page that is to move does not, as if it were in use; 0: none.", Kind::Integer(ANY)).default("0"),
        ],
    },
    Table {
        title: "an `evacuate` operation",
        keys: &[key("evacuate", "Moves what can be moved out of the lowest zone, as memory that goes offline.", Kind::True).required()],
    },
    Table { title: "a `sleep` operation", keys: &[key("sleep", "Sleeps this long.", Kind::Time(TIME)).required()] },
    Table {
        title: "a `churn` operation",
        keys: &[
            key(
                "churn",
                "Allocates, writes and frees at random, this many times.",
                Kind::Integer(range(1, 1_000_000, "more exceed any run's limits")),
            )
            .required(),
            key("seed", "Seed of the choices.", Kind::Integer(ANY)).default("0"),
        ],
    },
    Table { title: "an `unbind` operation", keys: &[key("unbind", "Removes the driver.", Kind::True).required()] },
    Table { title: "a `bind` operation", keys: &[key("bind", "Probes the driver again.", Kind::True).required()] },
    Table {
        title: "a `freeze` operation",
        keys: &[key("freeze", "Puts the system to sleep: works are parked, the driver takes its device down.", Kind::True).required()],
    },
    Table {
        title: "a `restore` operation",
        keys: &[key("restore", "Wakes the system again: the driver sets its device up, works go on.", Kind::True).required()],
    },
    Table {
        title: "a `shutdown` operation",
        keys: &[key("shutdown", "Breaks and resets the device, as when the machine goes down.", Kind::True).required()],
    },
    Table {
        title: "a `get_page` operation",
        keys: &[key("get_page", "Takes a reference to the page of this frame unless it is free.", Kind::Integer(ANY)).required()],
    },
    Table {
        title: "a `put_page` operation",
        keys: &[key("put_page", "Drops a reference to the page of this frame.", Kind::Integer(ANY)).required()],
    },
    Table {
        title: "a `fail_alloc` operation",
        keys: &[key(
            "fail_alloc",
            "Lets an allocation fail: this one, counted from now.",
            Kind::Integer(range(1, 1_000_000, "no run has more")),
        )
        .required()],
    },
    Table {
        title: "a `note_memory` operation",
        keys: &[key("note_memory", "Notes how much memory is free, and how much there is.", Kind::True).required()],
    },
    Table {
        title: "a `compare_memory` operation",
        keys: &[key("compare_memory", "Looks whether there is as much memory as was noted; less is a leak.", Kind::True).required()],
    },
    Table { title: "a `panic` operation", keys: &[key("panic", "Panics.", Kind::True).required()] },
    Table { title: "a `null_store` operation", keys: &[key("null_store", "Stores at address 0.", Kind::True).required()] },
    Table {
        title: "a `wild_store` operation",
        keys: &[key("wild_store", "Stores at this address, outside anything writable.", Kind::Integer(ANY)).required()],
    },
    Table { title: "a `jump_to_data` operation", keys: &[key("jump_to_data", "Jumps to a data page.", Kind::True).required()] },
];

static HOST: Table = Table {
    title: "[host]",
    keys: &[
        key("profile", "Whose device and policy.", Kind::Word("profile", profiles)).default("\"qemu\""),
        key(
            "dirty_log",
            "How guest writes are tracked; default: manual-clear for qemu, get-clears for firecracker and cloud-hypervisor.",
            Kind::Word("dirty log", dirty_logs),
        ),
        key("chunk", "Memory per CLEAR (only with manual-clear).", Kind::SizePowerOfTwo(CHUNK)).default("\"1 GiB\""),
        key("ring_size", "Entries of a vCPU's dirty ring (the log `ring` has them).", Kind::PowerOfTwo(RING)).default("4096"),
        key("reap_interval", "The reaper looks at the dirty rings this often.", Kind::Time(REAP)).default("\"1 s\""),
        key("slots", "Where memory slots begin, behind the first (KVM's logs have slots).", Kind::Several(&Kind::Size(SLOT, PAGE_SIZE)))
            .default("[]"),
        key("smm", "System management mode has an address space, and slots, of its own (KVM's logs).", Kind::Flag).default("false"),
        key("initially_set", "All pages count as dirty when logging starts (only with manual-clear).", Kind::Flag).default("true"),
        key(
            "features",
            "Feature bits that the balloon offers; default: stats-vq, free-page-hint, page-poison for qemu, free-page-hint for firecracker; and what the driver asks for. For cloud-hypervisor, which has no others but deflate-on-oom: page-reporting.",
            Kind::Words("feature", features),
        ),
        key("queue_numbering", "How the device numbers its queues.", Kind::Word("numbering", numberings)).default("\"dense\""),
        key("walk", "How the host looks for free pages in the guest's memory map (driver host-walk alone).", Kind::Word("walk", walks))
            .default("\"naive\""),
        key("hint_queue_size", "Size of the hint queue; default: 1024 for qemu, 256 for firecracker.", Kind::PowerOfTwo(HINT_QUEUE)),
        key(
            "queue_size",
            "Size of the other queues but reporting's; default: 128 for qemu and cloud-hypervisor, 256 for firecracker.",
            Kind::PowerOfTwo(QUEUE),
        ),
        key("balloon", "Balloon target at boot.", Kind::Size(range(0, RAM_BYTES_MAX, "no memory is larger"), PAGE_SIZE))
            .default("\"0 MiB\""),
        key("stats_interval", "The host asks for statistics this often; 0: never.", Kind::Time(TIME)).default("\"0 s\""),
        key("rom", "Page 0 is ROM, and not the balloon's to take.", Kind::Flag).default("false"),
        key("iothread", "There is an iothread for hints; without it the balloon offers none.", Kind::Flag).default("true"),
        key("host_page", "Size of the host's pages: nothing smaller can be discarded.", Kind::SizePowerOfTwo(HOST_PAGE))
            .default("\"4 KiB\""),
        key("vhost_log_ack", "How long a vhost backend takes to answer the order to log; without it, it logs at once.", Kind::Time(TIME)),
        key("vhost_queues", "Queues of the vhost device, two to a pair.", Kind::Integer(range(0, 8, "the model has no more"))).default("0"),
        key("vfio", "There is an assigned device: all that it reaches is pinned, and nothing is discarded.", Kind::Flag).default("false"),
        key("iommu", "The guest chooses the addresses that devices use, and which pages they reach.", Kind::Flag).default("false"),
        key("blocks", "RAM blocks that guest memory consists of, one behind the other; none: it is one.", Kind::Tables(&BLOCK)),
    ],
};

static BLOCK: Table = Table {
    title: "[[host.blocks]]",
    keys: &[
        key("name", "Its name.", Kind::Text).required(),
        key("pages", "Its length; without it the last block takes what is left.", Kind::Integer(PAGES)),
        key("offset", "Its first ram_addr, pages; default: behind the blocks before it, at a multiple of 64.", Kind::Integer(RAM_ADDRS)),
        key("room", "Pages at its end that are not there until it grows (the last block alone).", Kind::Integer(ROOM)).default("0"),
        key("ignored", "QEMU's x-ignore-shared leaves it out: source and destination share it.", Kind::Flag).default("false"),
    ],
};

static MIGRATION: Table = Table {
    title: "[migration]",
    keys: &[
        key("start", "When the first migration starts: an event, a time, \"never\" (only by an injection), or a table.", Kind::Start)
            .default("\"guest.ready\""),
        key("bandwidth", "Speed of the link.", Kind::Rate(RATE)).default("\"1 GiB/s\""),
        key("max_bandwidth", "QEMU's max-bandwidth.", Kind::RateOrUnlimited(RATE)).default("\"128 MiB/s\""),
        key(
            "downtime_limit",
            "QEMU's downtime-limit.",
            Kind::Time(range(1, 2_000_000_000_000, "with none the last round never comes, and QEMU takes at most 2000 s")),
        )
        .default("\"300 ms\""),
        key(
            "zero_pages",
            "Who finds pages of zeros, which go as 9 bytes; `true`: legacy, `false`: none.",
            Kind::FlagOrWord("way to find zero pages", zero_pages),
        )
        .default("\"legacy\""),
        key("multifd_channels", "Channels for pages beside the main one; 0: none.", Kind::Integer(CHANNELS)).default("0"),
        key("multifd_compression", "How channels compress; needs channels.", Kind::Word("compression", compressions)).default("\"none\""),
        key("zero_copy", "Channels read pages when they leave, not when they are queued; needs channels, and no compression.", Kind::Flag)
            .default("false"),
        key("mapped_ram", "The stream is a file in which each page has its place.", Kind::Flag).default("false"),
        key("destination_ram", "What the destination's memory holds before anything arrives.", Kind::Word("memory", destination_rams))
            .default("\"used\""),
        key("poisoned_page", "A page frame whose memory is broken: who reads it is killed.", Kind::Integer(POISONED)),
        key("xbzrle", "Pages go as differences, by a cache of that many pages.", Kind::PowerOfTwo(XBZRLE)),
        key(
            "hints_first",
            "A snapshot in place of a migration, as an orchestrator takes it: a round of hints first, then the VM stops, and all of memory goes.",
            Kind::Flag,
        )
        .default("false"),
        key("throttle", "QEMU's auto-converge: slows down a guest that dirties too much.", Kind::Table(&THROTTLE)),
        key("pause_before_switchover", "With the VM stopped, the switchover waits for the command continue.", Kind::Flag).default("false"),
        key("switchover_bandwidth", "QEMU's avail-switchover-bandwidth; default: estimated.", Kind::Rate(RATE)),
        key("complete_before_sync", "COMPLETE is told before the last sync, as up to QEMU 11.0.", Kind::Flag).default("false"),
        key("run_on", "The guest goes on at the destination, where a run without it ends.", Kind::Flag).default("false"),
        key("postcopy", "QEMU's capability postcopy-ram: the command start-postcopy switches the migration, and nobody hints.", Kind::Flag)
            .default("false"),
        key(
            "snapshot",
            "QEMU's capability background-snapshot: memory is saved as it is at one moment, and the guest goes on.",
            Kind::Flag,
        )
        .default("false"),
        key("postcopy_preempt", "QEMU's capability postcopy-preempt: pages that are asked for have a channel of their own.", Kind::Flag)
            .default("false"),
        key("release_ram", "QEMU's capability release-ram: in postcopy the source drops what it has sent.", Kind::Flag).default("false"),
        key("max_postcopy_bandwidth", "QEMU's max-postcopy-bandwidth.", Kind::RateOrUnlimited(RATE)).default("\"unlimited\""),
        key("rounds_min", "Smallest number of syncs before the last.", Kind::Integer(range(1, 1_000_000, "the first sync always happens")))
            .default("1"),
    ],
};

static THROTTLE: Table = Table {
    title: "`throttle`",
    keys: &[
        key("auto_converge", "QEMU's auto-converge.", Kind::Flag).default("false"),
        key(
            "trigger",
            "QEMU's throttle-trigger-threshold: dirtied bytes are too many above this share of those sent.",
            Kind::Integer(PERCENT),
        )
        .default("50"),
        key("initial", "QEMU's cpu-throttle-initial: the first share of their time that vCPUs sleep.", Kind::Integer(SHARE)).default("20"),
        key("increment", "QEMU's cpu-throttle-increment.", Kind::Integer(SHARE)).default("10"),
        key("max", "QEMU's max-cpu-throttle.", Kind::Integer(SHARE)).default("99"),
        key("tailslow", "QEMU's cpu-throttle-tailslow: near the end less is added.", Kind::Flag).default("false"),
    ],
};

/// `migration.start` written as a table.
pub(super) static START: Table = Table {
    title: "`start`",
    keys: &[
        key("after", "Not before these events.", Kind::Patterns).default("[]"),
        key("at", "Not before this virtual time.", Kind::Time(TIME)),
        key("delay", "That long behind the last of the events.", Kind::Time(TIME)).default("\"0 ns\""),
    ],
};

static INJECT: Table = Table { title: "[[inject]]", keys: INJECTION };

/// An injection that may be left out.
static MAY: Table = Table { title: "[[may]]", keys: INJECTION };

static INJECTION: &[Key] = &[
    key("name", "A name; that of [[inject]] works in orders, as `inject[i]` always does.", Kind::Name),
    key("write", "Stores to a named page.", Kind::Table(&WRITE)),
    key("task", "Makes a vCPU's task thread do an operation.", Kind::Operation),
    key("monitor", "Gives a monitor command.", Kind::Command),
    key("clear_log", "Another user of the dirty log clears its pages.", Kind::Table(&CLEAR_LOG)),
    key("repeat_id", "A stray element on the hint queue repeats the current command id.", Kind::True),
    key("vhost_queue", "The guest sets a queue of the vhost device up.", Kind::Table(&VHOST_QUEUE)),
    key("iommu_map", "The guest lets devices reach pages (with iommu).", Kind::Table(&IOMMU)),
    key("iommu_unmap", "The guest takes pages away from devices (with iommu).", Kind::Table(&IOMMU)),
    key("by", "Who: a vCPU, dma, vhost or vfio for `write`, a vCPU for what the guest does.", Kind::Actor),
    key("at", "Not before this virtual time.", Kind::Time(TIME)),
    key("after", "Not before these events.", Kind::Patterns).default("[]"),
    key("before", "These events may not happen before it.", Kind::Patterns).default("[]"),
    key("delay", "That long behind the last event of `after`.", Kind::Time(TIME)).default("\"0 ns\""),
    key("delay_insns", "That many instructions of the vCPU behind the last event of `after`.", Kind::Integer(ANY)).default("0"),
];

/// The keys of `[[inject]]` and `[[may]]` of which there is exactly one.
pub(super) const ACTIONS: &[&str] = &["write", "task", "monitor", "clear_log", "repeat_id", "vhost_queue", "iommu_map", "iommu_unmap"];

static WRITE: Table = Table {
    title: "`write`",
    keys: &[
        key("page", "The page.", Kind::Page).required(),
        key("byte", "First byte stored; a number unique in the scenario follows.", Kind::Integer(BYTE)).required(),
        key("zero", "The store is all zero; then `byte` is 0.", Kind::True),
        key("offset", "Byte offset in the page.", Kind::Integer(range(0, PAGE_SIZE - 8, "the store's 8 bytes must stay in the page")))
            .default("0"),
        key("pages", "Pages written, one store in each (dma, vhost and vfio).", Kind::Integer(PAGES)).default("1"),
        key("into", "What the device writes.", Kind::Word("target", targets)).default("\"buffer\""),
        key("queue", "Whose used ring it is.", Kind::Integer(VHOST_QUEUES)).default("0"),
        key("how", "What the tracking of writes takes the store for.", Kind::Word("kind of store", hows)).default("\"plain\""),
    ],
};

static VHOST_QUEUE: Table = Table {
    title: "`vhost_queue`",
    keys: &[
        key("page", "Where its used ring lies.", Kind::Page).required(),
        key("queue", "Which queue.", Kind::Integer(VHOST_QUEUES)).default("0"),
    ],
};

static IOMMU: Table = Table {
    title: "a mapping",
    keys: &[key("page", "The first page.", Kind::Page).required(), key("pages", "How many pages.", Kind::Integer(PAGES)).default("1")],
};

static CLEAR_LOG: Table = Table {
    title: "`clear_log`",
    keys: &[key("page", "The first page.", Kind::Page).required(), key("pages", "How many pages.", Kind::Integer(PAGES)).default("1")],
};

/// A monitor command that is a table.
pub(super) static BALLOON: Table = Table {
    title: "a monitor command",
    keys: &[key(
        "balloon",
        "Sets the balloon's target: how much the guest is to give.",
        Kind::Size(range(0, RAM_BYTES_MAX, "no memory is larger"), PAGE_SIZE),
    )
    .required()],
};

static ORDER: Table = Table { title: "[[order]]", keys: &[key("chain", "Events, each before the next.", Kind::Chain).required()] };

static SEARCH: Table = Table {
    title: "[search]",
    keys: &[
        key("from", "From this event on the search chooses; default: guest.ready.", Kind::Pattern),
        key("until", "Behind this event the default schedule goes on; default: none, the search chooses to the end.", Kind::Pattern),
        key("grain", "What a scheduling point is.", Kind::Word("grain", grains)).default("\"event\""),
        key(
            "check_mm",
            "The rules of the guest's free lists are looked at in one of so many states behind a guest's move, drawn by the state; 0: at the end of schedules alone.",
            Kind::Integer(ANY),
        )
        .default("0"),
    ],
};

static VARY: Table = Table {
    title: "[vary]",
    keys: &[
        key("profile", "Profiles; host settings that are the old one's defaults follow.", Kind::Words("profile", profiles)).default("[]"),
        key("dirty_log", "Dirty logs.", Kind::Words("dirty log", dirty_logs)).default("[]"),
        key("chunk", "Sizes of a CLEAR (only with manual-clear).", Kind::Several(&Kind::SizePowerOfTwo(CHUNK))).default("[]"),
        key("hint_queue_size", "Sizes of the hint queue.", Kind::Several(&Kind::PowerOfTwo(HINT_QUEUE))).default("[]"),
        key("queue_size", "Sizes of the other queues but reporting's.", Kind::Several(&Kind::PowerOfTwo(QUEUE))).default("[]"),
        key("vcpus", "Numbers of vCPUs.", Kind::Several(&Kind::Integer(VCPUS))).default("[]"),
        key("driver", "Interfaces of the balloon driver.", Kind::Words("driver", drivers)).default("[]"),
        key("faults", "Faults of which at most one is on, beside those of `faults`.", Kind::Words("fault", faults)).default("[]"),
    ],
};

static FOUND: Table = Table {
    title: "[found]",
    keys: &[
        key("scenario", "The scenario that was searched.", Kind::Text).required(),
        key("seed", "Seed of the schedule that failed.", Kind::Text).required(),
        key("strategy", "Strategy that drew it.", Kind::Text).required(),
        key("schedules", "Schedules tried until then.", Kind::Integer(ANY)).required(),
    ],
};

static EXPECT: Table = Table {
    title: "[expect]",
    keys: &[
        key("verdict", "How the run ends.", Kind::Word("verdict", verdicts)).default("\"pass\""),
        key("blame", "Whose fault a violation is.", Kind::Word("blame", blames)),
        key("sent", "About the sending of named pages.", Kind::PerPage(&SENT)),
        key("rounds", "Number of syncs.", Kind::Integer(ANY)),
        key("cmd_ids", "The command ids that the configuration showed, without repeats.", Kind::Integers(ID)),
        key("destination_cmd_id", "The command id that the destination's device shows.", Kind::Integer(ID)),
        key("events", "How often events must have happened.", Kind::PerEvent(&TIMES)),
        key("blocked", "How long somebody was held up.", Kind::Tables(&BLOCKED)),
        key("irq_off_insns", "Instructions of the longest stretch in which a vCPU had interrupts disabled.", Kind::Table(&INSNS)),
    ],
};

static SENT: Table = Table {
    title: "`sent`",
    keys: &[
        key("last", "First byte of the page's last copy at the destination.", Kind::Integer(BYTE)),
        key("min", "Fewest times sent.", Kind::Integer(ANY)),
        key("max", "Most times sent.", Kind::Integer(ANY)),
    ],
};

static TIMES: Table =
    Table { title: "`events`", keys: &[key("min", "At least.", Kind::Integer(ANY)), key("max", "At most.", Kind::Integer(ANY))] };

static INSNS: Table =
    Table { title: "`irq_off_insns`", keys: &[key("min", "At least.", Kind::Integer(ANY)), key("max", "At most.", Kind::Integer(ANY))] };

static BLOCKED: Table = Table {
    title: "[[expect.blocked]]",
    keys: &[
        key("who", "Who was held up.", Kind::Word("actor", waiters)).required(),
        key("on", "By what; default: all together.", Kind::Word("wait", holds)),
        key("min", "At least.", Kind::Time(TIME)),
        key("max", "At most.", Kind::Time(TIME)),
    ],
};

static COSTS: Table = Table {
    title: "[costs]",
    keys: &[
        key("guest_step", "A tracepoint: the instructions since the last one.", Kind::Time(COST)).default("\"100 ns\""),
        key("exit", "An exit to the VMM and back.", Kind::Time(COST)).default("\"1500 ns\""),
        key("tracked_store", "First store to a write-protected page.", Kind::Time(COST)).default("\"1 us\""),
        key("irq", "From a device's interrupt to its handler's work.", Kind::Time(COST)).default("\"740 us\""),
        key("lock", "Taking or releasing a host lock.", Kind::Time(COST)).default("\"50 ns\""),
        key("element", "Host work on one queue element.", Kind::Time(COST)).default("\"1 us\""),
        key("sync_word", "Copying or merging one 64-page word of a dirty bitmap.", Kind::Time(COST)).default("\"2 ns\""),
        key("clear", "A CLEAR call.", Kind::Time(COST)).default("\"2 us\""),
        key("page", "Finding and reading a page to send.", Kind::Time(COST)).default("\"250 ns\""),
        key("state", "Telling a notifier, changing a state.", Kind::Time(COST)).default("\"1 us\""),
        key("vm_stop", "Stopping or starting the VM.", Kind::Time(COST)).default("\"50 us\""),
        key("setup", "From a migration's first sync to its first page.", Kind::Time(COST)).default("\"2300 us\""),
    ],
};

static LIMITS: Table = Table {
    title: "[limits]",
    keys: &[
        key("time", "Virtual time.", Kind::Time(range(1, TIME.max, TIME.why))).default("\"60 s\""),
        key("steps", "Steps of all actors.", Kind::Integer(COUNT)).default("20000000"),
        key("step_insns", "Guest instructions between two of a vCPU's events.", Kind::Integer(COUNT)).default("50000000"),
        key(
            "check_mm",
            "The rules of the guest's memory manager are looked at after every so many steps that change it; 0: at the end alone.",
            Kind::Integer(ANY),
        )
        .default("1"),
    ],
};

/// Returns every table of the language, each once, from the file inwards.
pub(super) fn tables() -> Vec<&'static Table> {
    let mut all: Vec<&'static Table> = vec![&ROOT];
    let mut done = 0;
    while done < all.len() {
        for key in all[done].keys {
            let found: &[&'static Table] = match key.kind {
                Kind::Table(table) | Kind::Tables(table) | Kind::PerPage(table) | Kind::PerEvent(table) => &[table],
                Kind::Start => &[&START],
                Kind::Command => &[&BALLOON],
                // An injected task's operations are the tasks'.
                Kind::Operations => &OPERATIONS.iter().collect::<Vec<_>>(),
                Kind::Operation
                | Kind::Text
                | Kind::Name
                | Kind::Flag
                | Kind::True
                | Kind::Integer(_)
                | Kind::PowerOfTwo(_)
                | Kind::Integers(_)
                | Kind::Several(_)
                | Kind::Size(..)
                | Kind::SizePowerOfTwo(_)
                | Kind::Time(_)
                | Kind::Rate(_)
                | Kind::RateOrUnlimited(_)
                | Kind::Word(..)
                | Kind::FlagOrWord(..)
                | Kind::Words(..)
                | Kind::Vcpu
                | Kind::Actor
                | Kind::Page
                | Kind::Allocation
                | Kind::Pattern
                | Kind::Patterns
                | Kind::Chain
                | Kind::Pages => &[],
            };
            // Two tables may hold the same one.
            for table in found {
                if !all.iter().any(|other| std::ptr::eq(*other, *table)) {
                    all.push(table);
                }
            }
        }
        done += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::{Diagnostics, parse};
    use super::*;

    /// No key takes a date.
    const BAD: &str = "2026-01-01";

    /// Returns a file that holds these lines in a table; `lines` are joined as the table's way of writing wants it.
    fn file_with(title: &str, lines: &[String]) -> String {
        let (open, close) = match title {
            "the file" => ("", ""),
            "`start`" => ("[migration]\nstart = {", "}"),
            "`write`" => ("[[inject]]\nwrite = {", "}"),
            "`clear_log`" => ("[[inject]]\nclear_log = {", "}"),
            "`vhost_queue`" => ("[[inject]]\nvhost_queue = {", "}"),
            "a mapping" => ("[[inject]]\niommu_map = {", "}"),
            "a monitor command" => ("[[inject]]\nmonitor = {", "}"),
            "`throttle`" => ("[migration]\nthrottle = {", "}"),
            "`sent`" => ("[pages]\nP = \"pfn 1\"\n[expect]\nsent = { P = {", "} }"),
            "`irq_off_insns`" => ("[expect]\nirq_off_insns = {", "}"),
            "`events`" => ("[expect]\nevents = { \"hint.apply\" = {", "} }"),
            operation if operation.ends_with("operation") => ("[[guest.task]]\non = \"vcpu0\"\ndo = [{", "}]"),
            header => return format!("{header}\n{}", lines.join("\n")),
        };
        let separator = if open.is_empty() { "\n" } else { ", " };
        format!("{open}{}{close}", lines.join(separator))
    }

    fn places_of_bad_values(text: &str) -> Vec<usize> {
        text.match_indices(BAD).map(|(at, _)| at).collect()
    }

    fn assert_each_is_noted(text: &str) {
        let diagnostics: Diagnostics = parse("file.toml", text).expect_err("dates are bad");
        let places = places_of_bad_values(text);
        assert!(!places.is_empty());
        for place in places {
            let noted = diagnostics.list().iter().any(|diagnostic| diagnostic.span == (place..place + BAD.len()));
            assert!(noted, "a key is not read:\n{text}\n{diagnostics}");
        }
    }

    /// A key that the reader never asked for would be accepted and mean nothing: so each gets a value that nothing accepts.
    #[test]
    fn the_reader_reads_every_key() {
        for table in tables() {
            for key in table.keys {
                let mut lines = vec![format!("{} = {BAD}", key.name)];
                if table.has("repeat_id") && !ACTIONS.contains(&key.name) {
                    lines.push("repeat_id = true".to_owned());
                }
                let verb = table.keys[0].name;
                if table.title.ends_with("operation") && key.name != verb {
                    lines.push(format!("{verb} = \"A\""));
                }
                assert_each_is_noted(&file_with(table.title, &lines));
            }
        }
    }

    #[test]
    fn several_bad_keys_of_a_table_are_noted_together() {
        for table in tables().into_iter().filter(|table| !table.has("repeat_id")) {
            let lines: Vec<String> = table.keys.iter().map(|key| format!("{} = {BAD}", key.name)).collect();
            assert_each_is_noted(&file_with(table.title, &lines));
        }
    }

    #[test]
    fn documented_defaults_are_what_holds_without_the_key() {
        let about = "about = \"x\"\n";
        let bare = parse("file.toml", about).expect("a scenario");
        let mut checked = 0;
        for table in [&ROOT, &GUEST, &HOST, &MIGRATION, &SEARCH, &VARY, &EXPECT, &COSTS, &LIMITS] {
            for key in table.keys.iter().filter(|key| !key.default.is_empty()) {
                let text = format!("{about}{}", file_with(table.title, &[format!("{} = {}", key.name, key.default)]));
                assert_eq!(parse("file.toml", &text).unwrap_or_else(|problems| panic!("{problems}")), bare, "{text}");
                checked += 1;
            }
        }
        assert!(checked > 30, "{checked}");
    }

    #[test]
    fn a_table_has_no_key_twice() {
        for table in tables() {
            let mut names: Vec<&str> = table.keys.iter().map(|key| key.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.keys.len(), "{}", table.title);
        }
    }
}
