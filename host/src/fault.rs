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
    /// The guest hints though postcopy may follow.
    HintWithPostcopy { name: "hint-with-postcopy", id: "H07", source: "QEMU fd51e54fa1, fixed in 6.2",
        mechanism: "hints leave pages out that the destination may ask for: they are taken for sent, and DONE comes when the device's state has gone", effect: Leak,
        steps: ["the guest hints P, and B forgets it", "the migration is switched: the devices leave with a hint round that is still open", "the guest goes on with hinted pages that nobody will tell it to take back"],
        fix: "with the capability postcopy-ram the notifier does nothing" },

    // ---- 3B: balloon discards

    // ---- 3C: dirty tracking in the accelerator

    // ---- 3D: bitmaps, scan, setup

    // ---- 3E: page encoding and channels

    // ---- 3F: postcopy
    /// Requests that were on a broken link are forgotten.
    RequestsNotResent { name: "requests-not-resent", id: "P05", source: "QEMU 0c26781c09, fixed in 5.2",
        mechanism: "after a recovery nobody asks again for the pages that were asked for before the link broke", effect: Stall,
        steps: ["a vCPU at the destination touches P: request(P) goes out", "the link breaks, and is mended", "the source sends what it comes across: P is one of many"],
        fix: "the destination keeps what it waits for, and asks for all of it again when the link is back" },

    // ---- 3G: device writers

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
