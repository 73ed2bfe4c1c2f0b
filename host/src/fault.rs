//! The registry of faults: documented defects that can be switched on.
//!
//! All are off by default: the model is then the system as its projects ship it, flaws included. A fault's id names the entry of the
//! catalogue of real bugs that it re-creates, where there is one.

use std::cell::Cell;

use wire::switch;
use wire::switch::fault;

/// What a fault does to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A write does not arrive.
    Loss,
    /// More is sent than needed.
    OverSend,
    /// The guest does not get memory back.
    Leak,
    /// The guest dies.
    GuestCrash,
    /// The VMM dies.
    HostCrash,
    /// A rule is broken that costs nobody a page.
    Rule,
    /// Somebody waits for ever.
    Stall,
    /// Some wait for each other for ever.
    Deadlock,
    /// A number that a user or a policy goes by is wrong.
    WrongStatistics,
}

impl Effect {
    /// Returns the effect's name.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Loss => "loss",
            Effect::OverSend => "over-send",
            Effect::Leak => "leak",
            Effect::GuestCrash => "guest crash",
            Effect::HostCrash => "host crash",
            Effect::Rule => "rule",
            Effect::Stall => "stall",
            Effect::Deadlock => "deadlock",
            Effect::WrongStatistics => "wrong statistics",
        }
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $variant:ident { name: $name:literal, id: $id:literal, source: $source:literal, mechanism: $mechanism:literal, effect: $effect:ident
        $(, steps: [$($step:literal),+ $(,)?], fix: $fix:literal)? $(, guest: $guest:expr)? },)*) => {
        /// A defect that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Fault {
            /// Every fault, in the order of the registry.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)*];

            /// Returns the name that scenarios and the command line use.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            /// Returns the catalogue's id, or "-".
            pub fn id(self) -> &'static str {
                match self { $(Fault::$variant => $id,)* }
            }

            /// Returns where the defect was real.
            pub fn source(self) -> &'static str {
                match self { $(Fault::$variant => $source,)* }
            }

            /// Returns what goes wrong.
            pub fn mechanism(self) -> &'static str {
                match self { $(Fault::$variant => $mechanism,)* }
            }

            /// Returns the bit of `wire::switch::fault` that switches it on in the guest; `None`: it is the host's.
            pub fn guest_bit(self) -> Option<u64> {
                let bits: &[u64] = match self { $(Fault::$variant => &[$($guest)?],)* };
                bits.first().copied()
            }

            /// Returns the smallest interleaving that shows it, a line for each step.
            pub fn steps(self) -> &'static [&'static str] {
                match self { $(Fault::$variant => &[$($($step),+)?],)* }
            }

            /// Returns how it was mended.
            pub fn fix(self) -> &'static str {
                match self { $(Fault::$variant => concat!($($fix)?),)* }
            }

            /// Returns what a user sees.
            pub fn effect(self) -> Effect {
                match self { $(Fault::$variant => Effect::$effect,)* }
            }
        }
    };
}

faults! {
    /// The device is not stopped before a sync.
    HintStopSkipped { name: "hint-stop-skipped", id: "-", source: "mutation M1 of the real-QEMU study",
        mechanism: "the BEFORE_BITMAP_SYNC notifier does nothing: hints of the old round are applied after the sync merged newer writes into B", effect: Loss },
    /// The device is stopped without its lock.
    HintStopUnlocked { name: "hint-stop-unlocked", id: "-", source: "mutation M6 of the real-QEMU study",
        mechanism: "stop() does not take free_page_lock: an element that is already popped is applied after the sync", effect: Loss },
    /// A repeated id re-arms a stopped device.
    HintRepeatedId { name: "hint-repeated-id", id: "H01", source: "QEMU 20a4da0f23, fixed in 5.1",
        mechanism: "an id equal to the current one moves any status to START, not only REQUESTED", effect: Loss },
    /// A hint leaves K alone.
    HintKeepsK { name: "hint-keeps-k", id: "H03", source: "QEMU 3143577d6a, fixed in 6.1",
        mechanism: "a hint clears B but not K: the next sync finds the old K bits and sends the page after all", effect: OverSend },
    /// Hint elements are returned with length 1.
    HintUsedLength { name: "hint-used-length", id: "H05", source: "QEMU d3f1f940eb, fixed in 6.2",
        mechanism: "elements are returned with used length 1: unmapping marks the first page of each hint dirty in D", effect: OverSend },
    /// A cancelled migration does not say DONE.
    HintNoDone { name: "hint-no-done", id: "H06", source: "QEMU dd8eeb9671, fixed in 5.1",
        mechanism: "CLEANUP stops hinting instead of finishing it: the guest never frees what it hinted", effect: Leak },
    /// A hint clears one page too many.
    HintOnePageMore { name: "hint-one-page-more", id: "-", source: "mutation M5 of the real-QEMU study",
        mechanism: "the page behind a hinted range is cleared from B and K, too", effect: Loss },
    /// CLEAR reaches beyond its range.
    ClearTailUnmasked { name: "clear-tail-unmasked", id: "K02", source: "QEMU 4054adbdd2, fixed in 6.0",
        mechanism: "a CLEAR whose size is no multiple of 64 pages clears the rest of its last 64-page word, merged or not", effect: Loss },
    /// The second migration starts from D.
    RetryFromD { name: "retry-from-d", id: "Q04", source: "QEMU 40c4d4a835, fixed in 4.1",
        mechanism: "B starts as a copy of D instead of all ones when a migration was tried before", effect: Loss },
    /// The initial bitmap is off by one.
    BitmapOffByOne { name: "bitmap-off-by-one", id: "Q06", source: "QEMU 7ec81e56ed, fixed in 1.4",
        mechanism: "B is set from bit 1 on: page 0 is not sent in round 1", effect: Loss },
    /// DMA marks its first page only.
    DmaFirstPage { name: "dma-first-page", id: "Q07", source: "QEMU 6886867e98 and f874bf905f, fixed in 2.1 and 2.2",
        mechanism: "a device write that spans pages marks only the first of them", effect: Loss },
    /// The stop id is written where the start lies.
    StopOverwritesStart { name: "stop-overwrites-start", id: "B29", source: "[v24] to [v28] of the series that brought free page hints, fixed in v29",
        mechanism: "start and stop have one buffer: a device that is late reads the stop id twice, and no hint of the round counts", effect: Rule, guest: switch::fault::STOP_OVERWRITES_START },
    /// A request's buffer comes back half full.
    RequestShort { name: "request-short", id: "S7", source: "a careless device for drivers v6 and v8, none of which was merged",
        mechanism: "a request's buffer comes back with used length 8: the driver drops the request, and lends no buffer again", effect: OverSend },
    /// Requests' ids are 65,536 apart.
    RequestIdStride { name: "request-id-stride", id: "S8", source: "a device that counts requests in the upper bits, none of which was merged",
        mechanism: "ids of requests differ by 65,536: the 16 bits that come back fit every request, and the answer to an old one counts", effect: Loss },
    /// A vCPU stores after its mark was consumed.
    StoreAfterMark { name: "store-after-mark", id: "K15", source: "QEMU 9458a9a1df, fixed in 4.2",
        mechanism: "the sync does not wait for vCPUs to leave their block: a mark is consumed and the page read before the store", effect: Loss },
    /// Deflated pages are freed by an array that is no longer guarded.
    ReleaseOutsideLock { name: "release-outside-lock", id: "B3", source: "Linux, fixed in 4.4 by f68b992bbb47",
        mechanism: "leak_balloon() drops balloon_lock and then frees the frames that stand in pfns: whoever fills the array meanwhile has its own frames there, and what this one took out of the balloon is never freed", effect: Leak, guest: fault::RELEASE_OUTSIDE_LOCK },
    /// The array of frames is filled from its second slot on.
    PfnOffByOne { name: "pfn-off-by-one", id: "B6", source: "Linux 4.15-rc, fixed by d9e427f6ab81",
        mechanism: "num_pfns is raised before the slot is written: the device takes what slot 0 held, frame 0 at first, and never hears of the last page", effect: Loss, guest: fault::PFN_OFFBYONE },
    /// The shrinker counts hinted blocks as no pages.
    ShrinkCount { name: "shrink-count", id: "B11", source: "Linux 5.0 to 5.3, fixed in 5.4",
        mechanism: "the count of blocks is shifted right instead of left: the shrinker reports no pages and is never asked for any", effect: Leak, guest: fault::SHRINK_COUNT },
    /// Removal does not free hinted blocks.
    RemoveNoReturn { name: "remove-no-return", id: "B14", source: "Linux, fixed in 5.6 and 5.4.19",
        mechanism: "remove_common() does not return the blocks of free_page_list: a driver that goes away in a round takes them with it", effect: Leak, guest: fault::REMOVE_NO_RETURN },
    /// Freezing forgets the balloon.
    FreezeNoDeflate { name: "freeze-no-deflate", id: "B1", source: "Linux, fixed in 3.3 by 4eb05d562ea1 and e562966dbaf4",
        mechanism: "the driver resets its device for hibernation with pages in the balloon, and restore starts with an empty one: nobody frees the old pages", effect: Leak, guest: fault::FREEZE_NO_DEFLATE },
    /// A configuration change at the wrong time is forgotten.
    ConfigPendingLost { name: "config-pending-lost", id: "B42", source: "a hazard of drivers/virtio/virtio.c, no commit",
        mechanism: "a change that comes while changes are held back is not kept for later: the balloon never hears of its target", effect: Stall, guest: fault::CONFIG_PENDING_LOST },
    /// The device breaks under the works.
    ShutdownNoQuiesce { name: "shutdown-no-quiesce", id: "B25", source: "Linux 6.12 since CVE-2025-38064, fixed in 2026",
        mechanism: "the queues are broken at shutdown while a work of the balloon waits for one of them", effect: Stall, guest: fault::SHUTDOWN_NO_QUIESCE },
    /// tell_host waits for what it could not add.
    TellHostIgnoreErr { name: "tell-host-ignore-err", id: "B24", source: "Linux, fixed in 6.12.117",
        mechanism: "tell_host() ignores that the queue took no buffer and waits for the device to use it", effect: Stall, guest: fault::TELL_HOST_IGNORE_ERR },
    /// DONE is handled in the interrupt.
    DoneInIrq { name: "done-in-irq", id: "B7", source: "Linux 4.20, fixed in 5.0",
        mechanism: "virtballoon_changed() reads the id and frees the hinted blocks itself: the release of free_page_list_lock enables interrupts inside an interrupt, and the next change takes config_lock again", effect: GuestCrash, guest: fault::DONE_IN_IRQ },
    /// The command id is told in the wrong order of bytes.
    CmdIdBigEndian { name: "cmd-id-big-endian", id: "B16", source: "Linux 4.20 on big-endian machines, fixed in 5.8 by 168c358af2f8",
        mechanism: "the id that starts a round is exposed as the CPU holds it, not little-endian: the device never finds its own", effect: Rule, guest: fault::CMDID_BE },
    /// Poisoned pages are reported to a device that does not know of it.
    ReportWithPoison { name: "report-with-poison", id: "B17", source: "Linux 5.7, fixed in 5.8 by fb69c2c896fc",
        mechanism: "PAGE_REPORTING is accepted without PAGE_POISON: a page that the host dropped comes back as zeros, and the check of the poison takes that for corruption", effect: GuestCrash, guest: fault::REPORT_WITH_POISON },
    /// A queue calls what lay on the stack.
    UninitCallback { name: "uninit-callback", id: "B10", source: "Linux 4.20, fixed in 5.6 by 5790b53390e1",
        mechanism: "of the array of callbacks the place of the hint queue is not written: the queue asks for interrupts and calls whatever stood there", effect: GuestCrash, guest: fault::UNINIT_CALLBACK },
    /// A probe that fails keeps its memory.
    ProbeLeak { name: "probe-leak", id: "B15", source: "Linux, fixed in 5.6 and 5.4.19 by 1ad6f58ea936",
        mechanism: "an error path of virtballoon_probe() does not free what was acquired before", effect: Leak, guest: fault::PROBE_LEAK },
    /// The balloon deflates under any memory pressure.
    OomAsShrinker { name: "oom-as-shrinker", id: "B12", source: "Linux 5.0 to 5.5 since 71994620bb25, fixed in 5.6 by da10329cb057",
        mechanism: "deflate-on-oom is a shrinker: whoever reclaims a little takes the balloon apart, though memory is not out", effect: Rule, guest: fault::OOM_AS_SHRINKER },
    /// The shrinker deflates all of the balloon.
    ShrinkScan { name: "shrink-scan", id: "B11", source: "Linux 5.0 to 5.3, fixed in 5.4",
        mechanism: "shrink_balloon_pages() takes all that it has freed off what is left to free, batch after batch: the rest falls below 0, and the balloon is emptied", effect: Rule, guest: fault::SHRINK_SCAN },
    /// Inflation allocates under the lock that deflation needs.
    AllocUnderLock { name: "alloc-under-lock", id: "B5", source: "Linux, fixed in 4.15 by c7cdff0e8647",
        mechanism: "fill_balloon() allocates under balloon_lock: when memory is out, the OOM notifier wants the same lock", effect: GuestCrash, guest: fault::ALLOC_UNDER_LOCK },
    /// A passing reference leaks a block.
    SpecRefLeak { name: "spec-ref-leak", id: "B30", source: "Linux, fixed in 5.10 by e320d3012d25",
        mechanism: "__free_pages() frees nothing when somebody else holds a reference to the head of a block that is not compound: whoever drops it later frees one page", effect: Leak, guest: fault::SPEC_REF_LEAK },
    /// An interrupt frees into a list that is being changed.
    PcpUpNoIrq { name: "pcp-up-no-irq", id: "B34", source: "Linux with SMP=n, CVE-2026-23025, fixed in 6.1.162",
        mechanism: "with one CPU the trylock of the per-CPU lists always succeeds and leaves interrupts on: a free in an interrupt and the allocation below it change the same list", effect: GuestCrash, guest: fault::PCP_UP_NOIRQ },
    /// A queue that could not be made is freed twice.
    VqErrUaf { name: "vq-err-uaf", id: "B40", source: "Linux, fixed in 5.10.4",
        mechanism: "a queue is put on the device list before its ring is allocated: the error path frees it, and the removal of the queues finds it there", effect: GuestCrash, guest: fault::VQ_ERR_UAF },
    /// Reporting goes on while the system freezes.
    ReportNonfreezable { name: "report-nonfreezable", id: "B22", source: "Linux 5.7, CVE-2026-74481, fixed in 6.1.183 and 6.12.103 by 0b45f6927a14",
        mechanism: "page_reporting_process runs on system_wq, which does not freeze: it adds to a queue that the driver has deleted", effect: Rule, guest: fault::REPORT_NONFREEZABLE },
    /// A balloon page is told by a mapping that may be freed.
    MappingDeref { name: "mapping-deref", id: "B2", source: "Linux d6d86c0a7f8d, fixed in 3.18",
        mechanism: "compaction follows a page's mapping without a lock or a reference: a driver that is removed meanwhile has freed it",
        effect: GuestCrash, guest: wire::switch::fault::MAPPING_DEREF },
    /// The balloon's list is walked without its lock.
    DequeueNoLock { name: "dequeue-no-lock", id: "B4", source: "Linux 21ea9fb69e7c, fixed in 4.5",
        mechanism: "deflation chooses its next page while compaction takes that page off the list, and goes on along compaction's list",
        effect: GuestCrash, guest: wire::switch::fault::DEQUEUE_NO_LOCK },
    /// A page that changes zones leaves its count behind.
    NoZoneFixup { name: "no-zone-fixup", id: "B13", source: "Linux 63341ab03706, fixed in 5.5",
        mechanism: "a balloon page that moves to another zone takes no managed page along: deflating it adds one to the wrong zone",
        effect: Rule, guest: wire::switch::fault::NO_ZONE_FIXUP },
    /// An inflated page is taken off a list that it is not on.
    DoubleListDel { name: "double-list-del", id: "B19", source: "Linux 418a3ab1e778, fixed by dd4229060957 in 5.3",
        mechanism: "enqueueing a single page deletes it from the caller's list once more than the caller did",
        effect: GuestCrash, guest: wire::switch::fault::DOUBLE_LIST_DEL },
    /// What a moved page is, is asked too late.
    CheckAfterUnlock { name: "check-after-unlock", id: "B20", source: "Linux e0a352fabce6, fixed in 5.0; visible before 4.8",
        mechanism: "whether a page that was moved to is a balloon's is asked behind its unlock: deflated by then, it goes to the LRU",
        effect: GuestCrash, guest: wire::switch::fault::CHECK_AFTER_UNLOCK },
    /// An isolated page is taken off the balloon's list.
    DequeueIsolated { name: "dequeue-isolated", id: "B27", source: "Linux 6.1.160, the split of balloon_page_delete()",
        mechanism: "a page that moves is deleted from a list as if it were on the balloon's: it is on compaction's",
        effect: GuestCrash, guest: wire::switch::fault::DEQUEUE_ISOLATED },
    /// A page that nothing moved to is not readied for freeing.
    CompactFreeNoprep { name: "compact-free-noprep", id: "B37", source: "Linux 6.12.97 and 6.12.117",
        mechanism: "compaction takes a page back that it did not use, without the checks and resets of a free: it keeps its reference",
        effect: GuestCrash, guest: wire::switch::fault::COMPACT_FREE_NOPREP },
    /// An absent queue is set up.
    NullVqName { name: "null-vq-name", id: "B8", source: "Linux 4.20-rc on virtio-mmio and virtio-ccw, fixed in 5.0",
        mechanism: "find_vqs() sets up a queue without a name like the others: the one that should be the next queue, which then has none; probing fails", effect: Stall, guest: fault::NULL_VQ_NAME },
    /// The first statistics are whatever memory held.
    StatsUninit { name: "stats-uninit", id: "B28", source: "Linux, fixed in 4.11 by fc8653228c85 and 8424af5336f7",
        mechanism: "init_vqs() exposes the whole statistics buffer before anything was written to it", effect: Rule, guest: fault::STATS_UNINIT },
    /// A drain leaves pages behind.
    PcpDrainRace { name: "pcp-drain-race", id: "B32", source: "Linux, fixed in 6.11 by 66eca1021a42",
        mechanism: "drain_pages_zone() reads a list's count before it has the list's lock: what another vCPU frees while it waits stays on the list", effect: GuestCrash, guest: fault::PCP_DRAIN_RACE },
    /// Pages of the reserve come back to another type's list.
    PcpWrongMt { name: "pcp-wrong-mt", id: "B33", source: "Linux since 4b23a68f9536, fixed in 6.5 by 7b086755fb8c",
        mechanism: "free_unref_page() has changed HIGHATOMIC to MOVABLE for the per-CPU list already when that list's lock is taken, and frees the page as MOVABLE", effect: Rule, guest: fault::PCP_WRONG_MT },

    // ---- 3A: free page hinting

    // ---- 3B: balloon discards
    /// A large host page goes with its first balloon page.
    DiscardHostPage { name: "discard-host-page", id: "B04", source: "QEMU ed48c59875, fixed in 4.0",
        mechanism: "a balloon page of 4 KiB is rounded to the page of the host that it lies in: the guest's data in the rest of that page goes with it",
        effect: Loss,
        steps: ["the host has pages of 64 KiB", "the guest writes P, and inflates Q in the same 64 KiB", "the device discards all 64 KiB: P is zero"],
        fix: "The device notes which parts of a host page are in the balloon, and discards it once all are." },
    /// What is deflated stays noted.
    PartialIgnoresDeflate { name: "partial-ignores-deflate", id: "B05", source: "QEMU b27b323914, fixed in 4.0",
        mechanism: "the parts of a host page that are in the balloon are noted when they come, and not when they go: a page that is back in use still counts",
        effect: Loss,
        steps: ["the guest inflates A, deflates A and writes it", "the guest inflates the other 15 parts of A's host page", "the device finds all 16 noted, and discards A, too"],
        fix: "A deflation forgets what is noted for its host page." },
    /// What is inflated stays noted for ever.
    PartialOutlivesElement { name: "partial-outlives-element", id: "B06", source: "QEMU a8cd64d488 and 1b47b37c33, fixed in 4.1",
        mechanism: "the note of a host page in parts is kept from one element to the next, and over a reset; but a driver that does not promise to tell may reuse a page without a word",
        effect: Loss,
        steps: ["the guest inflates 15 of 16 parts", "the driver takes them out without telling, and they are written", "the guest inflates the last part: the device discards all 16"],
        fix: "The note lives as long as the element that it is made from." },
    /// One bit is set with the function for many.
    PartialManyBits { name: "partial-many-bits", id: "B07", source: "QEMU 483f13524b, fixed in 4.1",
        mechanism: "for each part as many bits are set as a host page has parts, from the part's own on: the first part makes the host page full, another writes behind the bitmap's end",
        effect: Loss,
        steps: ["the guest inflates part 0 of a host page", "the device sets the bits of parts 0 to 15", "the page counts as full, and is discarded with what is in use in it"],
        fix: "set_bit() and clear_bit() instead of their siblings for ranges." },

    // ---- 3C: dirty tracking in the accelerator
    /// Rings start with nothing protected.
    RingInitiallySet { name: "ring-initially-set", id: "K03", source: "QEMU, fixed in 6.1 by a81a592698",
        mechanism: "KVM_DIRTY_LOG_INITIALLY_SET is asked for together with the dirty ring: pages start unprotected, so that their first writes make no entries", effect: Loss,
        steps: ["logging starts: no page is write-protected, all rings are empty", "the migration sends P, then vCPU 1 writes P: no fault, no entry", "the next sync reaps empty rings: P's last contents are sent by nobody"],
        fix: "manual protection is not asked for where rings are used: logging starts by protecting all pages" },
    /// A ring's entry is flagged before it is filled.
    RingEntryLag { name: "ring-entry-lag", id: "K04", source: "QEMU and Linux since 6.1, fixed in 8.0 by 4802bf910e and 52281c6d11",
        mechanism: "an entry's flag is set and read without release and acquire: where memory is weakly ordered, the reaper sees the flag and takes the page number that stood in the place before", effect: Loss,
        steps: ["vCPU 1 faults on P: its entry's flag is visible, its page number is not yet", "the sync reaps the entry as page 0, and the reset protects page 0", "vCPU 1 stores to P, which is neither recorded nor protected"],
        fix: "the flag is stored with release and loaded with acquire semantics, and resetting an entry, too, is a release" },

    /// A deleted slot's log is dropped.
    SlotDeleteDropsLog { name: "slot-delete-drops-log", id: "K01", source: "QEMU, fixed in 2.3 by 4cc856faba",
        mechanism: "a memory slot that is deleted and recreated, because the guest changes who sees that memory, takes K along before any sync has read it", effect: Loss,
        steps: ["the migration sends P, then vCPU 1 writes P: K has it", "the guest toggles PAM: the slot is deleted with its K, and created with an empty one", "the next sync finds nothing of P"],
        fix: "the slot's log is read and merged before the slot is deleted, and since 8.0 no vCPU runs between the two" },
    /// What KVM writes by itself is not collected.
    BackupIgnored { name: "backup-ignored", id: "K05", source: "QEMU with dirty rings on arm64, mended in 8.1 by b20cc77692 and 1e493be587",
        mechanism: "KVM has no vCPU's ring for what it writes outside of vCPUs, as an interrupt controller's tables, and sets bits in a bitmap that nobody reads", effect: Loss,
        steps: ["the migration sends P, a page of the ITS tables", "KVM writes P for no vCPU: no ring has room for that, the backup bitmap has it", "the last sync reaps the rings alone"],
        fix: "the last sync, and the deletion of a slot, read the bitmap, too" },
    /// System management mode's address space is left out of syncs.
    SmmNotSynced { name: "smm-not-synced", id: "K06", source: "QEMU, fixed in 2.8 by 9c1f8f4493",
        mechanism: "a sync asks the listeners of the main address space only: what a vCPU writes in system management mode is logged in the slots of another", effect: Loss,
        steps: ["the migration sends P", "vCPU 1 writes P in system management mode: K of the second address space has it", "the next sync reads the slots of the first"],
        fix: "a sync goes through all address spaces that a listener belongs to" },
    /// One flag for all users of the log.
    LogFlagShared { name: "log-flag-shared", id: "K07", source: "QEMU 5.2 to 6.1, fixed in 6.2 by 63b41db4bc",
        mechanism: "whether writes are logged is one flag: a measurement of the dirty rate that ends switches it off under a migration", effect: Loss,
        steps: ["a migration logs writes; a measurement of the dirty rate starts", "the measurement ends, and with it all logging", "vCPU 1 writes P, which is recorded nowhere"],
        fix: "each user has a bit of its own, and logging ends with the last" },
    /// The hook that clears K gets an empty range.
    ClearEmptyRange { name: "clear-empty-range", id: "K08", source: "QEMU 4.1 to 4.2, fixed in 5.0 by 25aa6b3718",
        mechanism: "where D is tested page by page, the range for CLEAR is computed behind the loop, whose variable has reached the end: it is empty, K stays as it is, and each sync finds the same pages again", effect: OverSend,
        steps: ["memory is no whole number of words: a sync tests D page by page and then clears K, of no page", "the guest hints P, and P leaves B", "the next sync finds P in K, and P is sent"],
        fix: "the range is computed before the loop" },
    /// A recreated slot has no S.
    SlotLosesS { name: "slot-loses-s", id: "K09", source: "QEMU 4.1 to 4.2, fixed in 5.0 by 9b3a31c745",
        mechanism: "S is allocated by a slot's first sync only: a slot that was recreated since has none when a CLEAR wants it", effect: HostCrash,
        steps: ["a sync reads the slot's log into S", "the guest reboots or toggles PAM: the slot is deleted and created, without S", "the migration is about to send a page of it, and its CLEAR asserts that there is S"],
        fix: "S is allocated whenever a slot is created with its log on" },
    /// A CLEAR ends with its first slot.
    ClearFirstSlot { name: "clear-first-slot", id: "K10", source: "QEMU 4.1, fixed in 4.2 by 84516e5b8d",
        mechanism: "a CLEAR looks for the one slot that its range begins in: the part in the next slots stays in K", effect: OverSend,
        steps: ["two slots meet within a chunk; P lies in the second", "the guest hints P: P leaves B, and the CLEAR of its chunk ends at the border", "the next sync finds P in K, and P is sent"],
        fix: "a CLEAR goes through all slots that its range touches" },
    /// A failed GET counts.
    GetErrorIgnored { name: "get-error-ignored", id: "K11", source: "QEMU, fixed in 6.0 by 38e0b7904e",
        mechanism: "the ioctl's result is compared with -1 though it is -errno: GET fails, and what S held from the time before is merged once more", effect: OverSend,
        steps: ["a sync reads P into S, and P goes to B", "the guest hints P, and P leaves B", "the next GET fails: P, which S still has, is merged and sent"],
        fix: "a negative result is an error; the slot is left out of this sync" },
    /// A bit of K counts for one target page.
    HostPageAsOne { name: "host-page-as-one", id: "K12", source: "QEMU on hosts with 64 KiB pages, fixed in 1.1 by 3145fcb605 and in 2.0 by f9ee9f9ac2",
        mechanism: "K has a bit for each page of the host's, which the merge takes for one target page: of sixteen the first is marked", effect: Loss,
        steps: ["the host's pages are 64 KiB; the migration sends P, the fourth target page of one", "vCPU 1 writes P: K has the bit of the host's page", "the merge marks the first target page in D"],
        fix: "a bit marks as many target pages as the host's page holds" },
    /// A stop that waits for the VM is forgotten.
    LogStopPostponed { name: "log-stop-postponed", id: "K13", source: "QEMU, fixed in 7.0 by a5c90c61a1",
        mechanism: "logging of a stopped VM ends when the VM runs again; a second migration before that finds it on, and asserts that it is off", effect: HostCrash,
        steps: ["the VM is stopped; a migration ends, and its log is to stop once the VM runs", "another migration starts", "its assertion that nobody logs for a migration fails"],
        fix: "a start carries out the postponed stop first" },
    /// A ring is reaped that is not there yet.
    ReapHalfCreated { name: "reap-half-created", id: "K14", source: "QEMU 6.1 to 7.2, fixed in 8.0 by 56adee407f",
        mechanism: "a plugged vCPU is on the list before its ring is mapped, and its creation waits without the BQL: whoever reaps then reads through a null pointer", effect: HostCrash,
        steps: ["a vCPU is plugged: it is on the list, and the main loop lets go of the BQL to wait for its thread", "the reaper takes the BQL and goes through the list", "it reads the ring of a vCPU that has none"],
        fix: "a vCPU that is not created yet is left out" },
    /// TLB entries are not flagged again.
    TlbNotRearmed { name: "tlb-not-rearmed", id: "K16", source: "QEMU since 2013, fixed in 9.0 by 03bfc2188f",
        mechanism: "the fast path of a sync cleans D by words and leaves the vCPUs' TLBs alone: entries that lost their not-dirty flag never get it back", effect: Loss,
        steps: ["vCPU 1 writes P: D has it, the TLB entry loses its flag", "a sync takes P from D to B, and P is sent", "vCPU 1 writes P through the same entry, past the slow path"],
        fix: "whoever cleans D flags the entries of the cleaned pages in all TLBs" },
    /// A locked access takes the flag away without a mark.
    AtomicUnmarked { name: "atomic-unmarked", id: "K17", source: "QEMU 2.8 to 2.10, fixed in 2.11 by 34d49937e4",
        mechanism: "a locked read-modify-write of a page whose TLB entry says not dirty drops the flag and writes, but marks nothing", effect: Loss,
        steps: ["a sync has cleaned P, and P is sent", "vCPU 1 makes a locked exchange on P: no mark, and the entry's flag is gone", "all its later stores to P go past the slow path"],
        fix: "the access is prepared and completed as any other write to a page that is not dirty" },
    /// A fault opens a whole slot.
    HvfUnprotectsSlot { name: "hvf-unprotects-slot", id: "K18", source: "QEMU with HVF, fixed in 9.1 by 3e2c6727cb",
        mechanism: "the first write to a protected page marks that page and gives back write permission to all of its slot", effect: Loss,
        steps: ["the migration sends P; all pages are protected", "vCPU 1 writes Q: Q is marked, and every page of the slot is opened", "vCPU 1 writes P: no fault, no mark"],
        fix: "permission is given back to the page alone" },
    /// Pages are protected when the log is read.
    HvfProtectsAtSync { name: "hvf-protects-at-sync", id: "K19", source: "QEMU with HVF, fixed in 11.0 by 1b6261bfc0",
        mechanism: "pages are protected again when a sync begins and not when their marks are cleared: a write between the two opens its page, and loses its mark to this sync", effect: Loss,
        steps: ["a sync protects all pages", "vCPU 1 writes P: D is marked, P is opened; the sync takes the mark into B", "P is sent; vCPU 1 writes P again: no fault, no mark"],
        fix: "protection comes with the clearing of marks, before a page is read" },
    /// The guest's address is added twice.
    HvfAddressTwice { name: "hvf-address-twice", id: "K20", source: "QEMU with HVF, fixed in 11.1 by 3d0ad30fbf",
        mechanism: "the mark is made at the sum of the guest's physical address and the offset in the memory region, which already holds it: another page is marked, or none", effect: Loss,
        steps: ["the migration sends P", "vCPU 1 writes P: the fault marks the page at twice P's address", "the next sync sends that page, and not P"],
        fix: "the offset in the region is passed alone" },

    // ---- 3D: bitmaps, scan, setup

    // ---- 3E: page encoding and channels

    // ---- 3F: postcopy

    // ---- 3G: device writers
    /// The last look at a backend's log finds nothing.
    VhostFinalSyncSkipped { name: "vhost-final-sync-skipped", id: "V01", source: "QEMU 5c0ba1be37, fixed in 2.11",
        mechanism: "when a vhost device stops, the size of its log is set to 0 before the log is merged for the last time", effect: Loss,
        steps: ["a page is sent, and the round's sync merges the backend's log", "the backend writes the page: a bit in its log", "the VM stops, the backend with it, and the log is dropped unread"],
        fix: "The log is merged first, and its size set to 0 behind that." },
    /// Nobody waits until a backend logs.
    VhostLogUnacknowledged { name: "vhost-log-unacknowledged", id: "V02", source: "QEMU 699f2e535d, fixed in 6.2",
        mechanism: "the order to log is posted to a vhost-user backend, and the migration goes on before the backend has read it", effect: Loss,
        steps: ["the migration thread posts the order to log, and sends the page", "the backend writes the page, and logs nothing yet", "the backend reads the order: from here on it logs"],
        fix: "The order asks for an answer, and the migration begins behind it." },

    // ---- 3H: convergence, liveness

    // ---- 3I: snapshots

    // ---- 3J: other VMMs
}

/// Faults that are switched on, and which of all were asked for.
///
/// A run in which nobody asked for a fault would have been the same with it: what asks is the only difference that a fault of the host's makes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    on: FaultSet,
    asked: Cell<FaultSet>,
}

impl Faults {
    /// Returns whether a fault is on, and remembers the question. Who asks last of several conditions asks for less.
    pub fn on(&self, fault: Fault) -> bool {
        let mut asked = self.asked.get();
        asked.insert(fault);
        self.asked.set(asked);
        self.on.contains(fault)
    }

    /// Switches a fault on.
    pub fn insert(&mut self, fault: Fault) {
        self.on.insert(fault);
    }

    /// Returns those that are on.
    pub fn all_on(&self) -> FaultSet {
        self.on
    }

    /// Returns those that were asked for so far.
    pub fn asked(&self) -> FaultSet {
        self.asked.get()
    }

    /// Takes those for asked that were asked for elsewhere.
    pub fn add_asked(&mut self, elsewhere: FaultSet) {
        let asked = self.asked.get_mut();
        elsewhere.iter().for_each(|fault| asked.insert(fault));
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self { on: faults.into_iter().collect(), asked: Cell::default() }
    }
}

const SET_WORDS: usize = 4;
const _: () = assert!(Fault::ALL.len() <= SET_WORDS * u64::BITS as usize);

/// A set of faults: a bit each, in the order of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultSet([u64; SET_WORDS]);

impl FaultSet {
    /// Returns whether a fault is in it.
    pub fn contains(self, fault: Fault) -> bool {
        let (word, bit) = Self::place(fault);
        self.0[word] & bit != 0
    }

    /// Adds a fault.
    pub fn insert(&mut self, fault: Fault) {
        let (word, bit) = Self::place(fault);
        self.0[word] |= bit;
    }

    /// Returns the faults in it, in the order of the registry.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.contains(*fault))
    }

    fn place(fault: Fault) -> (usize, u64) {
        let index = fault as usize;
        (index / 64, 1 << (index % 64))
    }
}

impl FromIterator<Fault> for FaultSet {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        let mut set = Self::default();
        faults.into_iter().for_each(|fault| set.insert(fault));
        set
    }
}

impl Fault {
    /// Returns the fault of that name.
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_name(fault.name()), Some(*fault));
        }
    }
    #[test]
    fn a_question_is_remembered_whatever_the_answer() {
        let mut faults: Faults = [Fault::HintKeepsK].into_iter().collect();
        let last = *Fault::ALL.last().expect("there are faults");
        assert!(!faults.on(last) && faults.on(Fault::HintKeepsK));
        faults.insert(Fault::HintNoDone);
        assert_eq!(faults.asked().iter().collect::<Vec<_>>(), [Fault::HintKeepsK, last]);
        assert_eq!(faults.all_on().iter().collect::<Vec<_>>(), [Fault::HintKeepsK, Fault::HintNoDone]);
    }
}
