//! The keys of the guest and of its tasks.

use wire::platform::{PAGE_SIZE, RAM_BYTES_MAX, RAM_BYTES_MIN};

use super::super::words::{corrections, drivers, features, numberings};
use super::ranges::{AMOUNT, ANY, ARRAY, BYTE, EVERY, TIME, VCPUS, ZONE, range};
use super::{Kind, Table, key};

pub(super) static GUEST: Table = Table {
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
        key("short_stop_id", "The id that ends a round has 2 bytes, which breaks the device (driver hint alone).", Kind::Flag)
            .default("false"),
        key("refuse", "Features that the driver refuses though they are offered.", Kind::Words("feature", features)).default("[]"),
        key("task", "What a vCPU does from the start.", Kind::Tables(&TASK)),
    ],
};

static TASK: Table = Table {
    title: "[[guest.task]]",
    keys: &[key("on", "The vCPU.", Kind::Vcpu).required(), key("do", "Its operations, in order.", Kind::Operations).required()],
};

/// The operations of tasks; each table's first key is the operation's name.
pub(in crate::scenario) static OPERATIONS: &[Table] = &[
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
        title: "a `reboot` operation",
        keys: &[key("reboot", "Restarts the machine in order: the driver is asked to end first.", Kind::True).required()],
    },
    Table {
        title: "an `emergency_restart` operation",
        keys: &[key("emergency_restart", "Restarts the machine at once; no driver hears of it.", Kind::True).required()],
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
