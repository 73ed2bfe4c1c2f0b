//! The keys of the host and of its migration.

use wire::platform::{PAGE_SIZE, RAM_BYTES_MAX};

use super::super::words::{compressions, destination_rams, dirty_logs, features, numberings, profiles, walks, zero_pages};
use super::ranges::{
    CHANNELS, CHUNK, HINT_QUEUE, HOST_PAGE, LIMIT, MEM_BLOCK, MEM_BLOCKS, MEM_SIZE, PAGES, PERCENT, POISONED, QUEUE, RAM_ADDRS, RATE, REAP,
    RING, ROOM, SHARE, SLOT, TIME, XBZRLE, range,
};
use super::{Kind, Table, key};

pub(super) static HOST: Table = Table {
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
        key(
            "acknowledge_on_stop",
            "The device says DONE by itself when the driver has no more to hint (profile firecracker alone).",
            Kind::Flag,
        )
        .default("true"),
        key("rom", "Page 0 is ROM, and not the balloon's to take.", Kind::Flag).default("false"),
        key(
            "all_locks",
            "Every lock of docs/locks.md is taken where the real code takes it, not only those that hold somebody up.",
            Kind::Flag,
        )
        .default("false"),
        key("iothread", "There is an iothread for hints; without it the balloon offers none.", Kind::Flag).default("true"),
        key("host_page", "Size of the host's pages: nothing smaller can be discarded.", Kind::SizePowerOfTwo(HOST_PAGE))
            .default("\"4 KiB\""),
        key("vhost_log_ack", "How long a vhost backend takes to answer the order to log; without it, it logs at once.", Kind::Time(TIME)),
        key("vhost_queues", "Queues of the vhost device, two to a pair.", Kind::Integer(range(0, 8, "the model has no more"))).default("0"),
        key("vfio", "There is an assigned device: all that it reaches is pinned, and nothing is discarded.", Kind::Flag).default("false"),
        key("iommu", "The guest chooses the addresses that devices use, and which pages they reach.", Kind::Flag).default("false"),
        key("blocks", "RAM blocks that guest memory consists of, one behind the other; none: it is one.", Kind::Tables(&BLOCK)),
        key("virtio_mem", "Memory behind all others that is plugged and unplugged.", Kind::Table(&VIRTIO_MEM)),
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

static VIRTIO_MEM: Table = Table {
    title: "[host.virtio_mem]",
    keys: &[
        key(
            "size",
            "All memory that it may ever have: the end of the guest's, which its allocator never gets.",
            Kind::Size(MEM_SIZE, 1 << 20),
        )
        .required(),
        key("block", "Memory that is plugged or unplugged as a whole (QEMU's block-size).", Kind::SizePowerOfTwo(MEM_BLOCK))
            .default("\"1 MiB\""),
        key(
            "memslot",
            "The parts as which others, as an assigned device, see it (QEMU's dynamic-memslots); default: one.",
            Kind::Size(MEM_SIZE, 1 << 20),
        ),
        key("plugged", "Blocks that are plugged when the machine starts.", Kind::Several(&Kind::Integer(MEM_BLOCKS))).default("[]"),
    ],
};

pub(super) static MIGRATION: Table = Table {
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
        key("dirty_limit", "QEMU's dirty-limit: vCPUs that dirty too much sleep when their rings are full.", Kind::Table(&DIRTY_LIMIT)),
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

static DIRTY_LIMIT: Table = Table {
    title: "`dirty_limit`",
    keys: &[
        key("on", "QEMU's dirty-limit, which needs the log `ring` and goes without auto-converge.", Kind::Flag).default("false"),
        key("rate", "QEMU's vcpu-dirty-limit: how much each vCPU may dirty, MB/s.", Kind::Integer(LIMIT)).default("1"),
        key(
            "period",
            "QEMU's x-vcpu-dirty-limit-period: from one measurement to the next.",
            Kind::Time(range(1_000_000, 1_000_000_000, "QEMU takes 1 to 1000 ms")),
        )
        .default("\"1 s\""),
    ],
};

/// `migration.start` written as a table.
pub(in crate::scenario) static START: Table = Table {
    title: "`start`",
    keys: &[
        key("after", "Not before these events.", Kind::Patterns).default("[]"),
        key("at", "Not before this virtual time.", Kind::Time(TIME)),
        key("delay", "That long behind the last of the events.", Kind::Time(TIME)).default("\"0 ns\""),
    ],
};
