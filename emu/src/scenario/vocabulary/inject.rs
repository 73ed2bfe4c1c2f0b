//! The keys of what a scenario does by itself, and in which order.

use wire::platform::{MAX_VCPUS, PAGE_SIZE, RAM_BYTES_MAX};

use super::super::words::{hows, targets};
use super::ranges::{ANY, BYTE, LIMIT_OR_NONE, PAGES, TIME, VHOST_QUEUES, range};
use super::{Key, Kind, Table, key};

pub(super) static INJECT: Table = Table { title: "[[inject]]", keys: INJECTION };

/// An injection that may be left out.
pub(super) static MAY: Table = Table { title: "[[may]]", keys: INJECTION };

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
pub(in crate::scenario) const ACTIONS: &[&str] =
    &["write", "task", "monitor", "clear_log", "repeat_id", "vhost_queue", "iommu_map", "iommu_unmap"];

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
    keys: &[
        key("page", "The first page.", Kind::Page).required(),
        key("pages", "How many pages.", Kind::Integer(PAGES)).default("1"),
        key(
            "sync",
            "It gets the log of their slots first, and merges it for everybody, as a display that refreshes; needs the big lock.",
            Kind::Flag,
        )
        .default("false"),
    ],
};

/// A monitor command that is a table.
pub(in crate::scenario) static COMMAND: Table = Table {
    title: "a monitor command",
    keys: &[
        key(
            "balloon",
            "Sets the balloon's target: how much the guest is to give.",
            Kind::Size(range(0, RAM_BYTES_MAX, "no memory is larger"), PAGE_SIZE),
        ),
        key("vcpu_dirty_limit", "set-vcpu-dirty-limit: how much vCPUs may dirty, MB/s; 0: any amount.", Kind::Integer(LIMIT_OR_NONE)),
        key(
            "cpu",
            "Whose limit it is, by number; default: everybody's.",
            Kind::Integer(range(0, MAX_VCPUS as u64 - 1, "no guest has more")),
        ),
    ],
};

/// Another one.
pub(in crate::scenario) static RESIZE_MEM: Table = Table {
    title: "a monitor command",
    keys: &[key(
        "requested_size",
        "Sets how much of the memory of virtio-mem is to be plugged (QEMU's requested-size); refused while a migration is under way.",
        Kind::Size(range(0, RAM_BYTES_MAX, "no memory is larger"), PAGE_SIZE),
    )
    .required()],
};

pub(super) static ORDER: Table =
    Table { title: "[[order]]", keys: &[key("chain", "Events, each before the next.", Kind::Chain).required()] };
