//! The registry of faults: documented defects that can be switched on.
//!
//! All are off by default: the model is then the system as its projects ship it, flaws included. A fault's id names the entry of the
//! catalogue of real bugs that it re-creates, where there is one. Its steps are the smallest interleaving that shows it, its fix is how it was mended.

#[macro_use]
mod registry;
mod catalogue;
mod effect;
mod set;

use wire::switch;
use wire::switch::fault;

pub use catalogue::{Catalogue, NOT_HERE};
pub use effect::Effect;
pub use set::{FaultSet, Faults};

faults! {
    /// The device is not stopped before a sync.
    HintStopSkipped { name: "hint-stop-skipped", id: "-", source: "mutation M1 of the real-QEMU study",
        mechanism: "the BEFORE_BITMAP_SYNC notifier does nothing: hints of the old round are applied after the sync merged newer writes into B", effect: Loss,
        steps: ["the device pops hint(P) and is slow",
            "the guest takes P back and writes it; the sync merges the write into B, where it now stands alone",
            "the device applies the hint: B[P] = 0, and the write is never sent"],
        fix: "QEMU stops hinting before each sync, and the mutation shows what for" },
    /// The device is stopped without its lock.
    HintStopUnlocked { name: "hint-stop-unlocked", id: "-", source: "mutation M6 of the real-QEMU study",
        mechanism: "stop() does not take free_page_lock: an element that is already popped is applied after the sync", effect: Loss,
        steps: ["the iothread has popped hint(P) and not yet applied it",
            "stop() sets the status without waiting for free_page_lock; the sync merges the guest's write of P into B",
            "the iothread goes on with the element in its hand: B[P] = 0"],
        fix: "QEMU's stop() takes free_page_lock, so no hint is in hand once it has returned" },
    /// A repeated id re-arms a stopped device.
    HintRepeatedId { name: "hint-repeated-id", id: "H01", source: "QEMU 20a4da0f23, fixed in 5.1",
        mechanism: "an id equal to the current one moves any status to START, not only REQUESTED", effect: Loss,
        steps: ["the driver answers id k: START; the round ends: STOP",
            "a second copy of id k arrives: START again, though nobody asked",
            "the sync merges a write of P into B; a late hint of P clears it"],
        fix: "an id leads to START from REQUESTED alone; in START, any id ends the round" },
    /// A hint leaves K alone.
    HintKeepsK { name: "hint-keeps-k", id: "H03", source: "QEMU 3143577d6a, fixed in 6.1",
        mechanism: "a hint clears B but not K: the next sync finds the old K bits and sends the page after all", effect: OverSend,
        steps: ["setup: all of K is set",
            "hint(P) clears B[P] and leaves K[P]",
            "the next sync finds K[P]: P, which nobody wrote, is sent after all"],
        fix: "a hint clears the accelerator's log as well, for the chunk that holds the page" },
    /// Hint elements are returned with length 1.
    HintUsedLength { name: "hint-used-length", id: "H05", source: "QEMU d3f1f940eb, fixed in 6.2",
        mechanism: "elements are returned with used length 1: unmapping marks the first page of each hint dirty in D", effect: OverSend,
        steps: ["hint(4 MiB from P): 1024 bits of B are cleared",
            "the element is returned with \"1 byte written\"; unmapping marks P dirty in D",
            "the next sync puts P back: one page of each block is sent for nothing"],
        fix: "hint elements are returned with length 0, for the device wrote nothing" },
    /// A cancelled migration does not say DONE.
    HintNoDone { name: "hint-no-done", id: "H06", source: "QEMU dd8eeb9671, fixed in 5.1",
        mechanism: "CLEANUP stops hinting instead of finishing it: the guest never frees what it hinted", effect: Leak,
        steps: ["migrate; the guest hands over nearly all of its free memory",
            "the operator cancels: CLEANUP says STOP, and nobody says DONE",
            "the guest waits, with its free memory on a list, for a word that never comes"],
        fix: "CLEANUP says DONE, whatever the migration's end" },
    /// A hint clears one page too many.
    HintOnePageMore { name: "hint-one-page-more", id: "-", source: "mutation M5 of the real-QEMU study",
        mechanism: "the page behind a hinted range is cleared from B and K, too", effect: Loss,
        steps: ["hint of one block ends right before P, which is in use",
            "the host clears the block's bits, and P's",
            "P, written before and not since, is never sent"],
        fix: "QEMU clears what was hinted, and no page more" },
    /// CLEAR reaches beyond its range.
    ClearTailUnmasked { name: "clear-tail-unmasked", id: "K02", source: "QEMU 4054adbdd2, fixed in 6.0; found by reading, for nobody asks for such a range",
        mechanism: "a CLEAR whose size is no multiple of 64 pages clears the rest of its last 64-page word, merged or not", effect: Loss,
        steps: ["the guest writes pages 5 and 40 of a slot; a sync copies both bits to S",
            "a client that owns ten pages clears [0, 10): the kernel is handed the whole word of 64",
            "a write of page 40 since that sync is wiped from K before its owner has seen it"],
        fix: "the bits of the first and last word outside the range are masked. QEMU's slip took along only what S had, which D had as well: it is shown here larger than it was" },
    /// The second migration starts from D.
    RetryFromD { name: "retry-from-d", id: "Q04", source: "QEMU 40c4d4a835, fixed in 4.1",
        mechanism: "B starts as a copy of D instead of all ones when a migration was tried before", effect: Loss,
        steps: ["migrate: round 1 takes every bit out of D",
            "cancel, migrate again",
            "B starts as a copy of D, nearly empty: the destination gets what was written lately, and nothing else"],
        fix: "B is all ones at the start of every migration, whatever was tried before" },
    /// The initial bitmap is off by one.
    BitmapOffByOne { name: "bitmap-off-by-one", id: "Q06", source: "QEMU 7ec81e56ed, fixed in 1.4",
        mechanism: "B is set from bit 1 on: page 0 is not sent in round 1", effect: Loss,
        steps: ["B is filled from bit 1 to bit n",
            "page 0 is not sent in round 1, and a bit beyond the end is",
            "nobody writes page 0: it never leaves"],
        fix: "B is filled from bit 0" },
    /// DMA marks its first page only.
    DmaFirstPage { name: "dma-first-page", id: "Q07", source: "QEMU 6886867e98 and f874bf905f, fixed in 2.1 and 2.2",
        mechanism: "a device write that spans pages marks only the first of them", effect: Loss,
        steps: ["P and P+1 are sent",
            "a device writes 8 KiB across both: D[P] is set, D[P+1] is not",
            "P+1 stays as it was: a read from CD-ROM of which the second half is old"],
        fix: "a device's write marks every page that it touches" },
    /// The stop id is written where the start lies.
    StopOverwritesStart { name: "stop-overwrites-start", id: "B29", source: "[v24] to [v28] of the series that brought free page hints, fixed in v29",
        mechanism: "start and stop have one buffer: a device that is late reads the stop id twice, and no hint of the round counts", effect: Rule,
        steps: ["the driver writes its start id into the one buffer for commands, and queues it",
            "before the device looks, the stop id is written into the same four bytes",
            "the device reads stop, then stop: hints of a round that, for all it knows, never began"],
        fix: "since v29 of the series start and stop have a buffer each", guest: switch::fault::STOP_OVERWRITES_START },
    /// A request's buffer comes back half full.
    RequestShort { name: "request-short", id: "S7", source: "a careless device for drivers v6 and v8, none of which was merged",
        mechanism: "a request's buffer comes back with used length 8: the driver drops the request, and lends no buffer again", effect: OverSend,
        steps: ["the host asks for free pages through a buffer that the driver lent",
            "it returns the buffer with half of the length that the driver expects",
            "the driver drops the request and lends no buffer again: no page is ever spared"],
        fix: "never merged; corrected here, the driver lends its buffer again whatever came (`corrected = [\"s7\"]`)" },
    /// Requests' ids are 65,536 apart.
    RequestIdStride { name: "request-id-stride", id: "S8", source: "a device that counts requests in the upper bits, none of which was merged",
        mechanism: "ids of requests differ by 65,536: the 16 bits that come back fit every request, and the answer to an old one counts", effect: Loss,
        steps: ["request 0x10001 follows request 1; the answer carries 16 bits of the id",
            "P is written, the sync merges it; then the late answer to the first request, naming P, arrives",
            "its 16 bits fit the second request as well: B[P] = 0"],
        fix: "never merged; corrected here, the whole id comes back (`corrected = [\"s8\"]`)" },
    /// A vCPU stores after its mark was consumed.
    StoreAfterMark { name: "store-after-mark", id: "K15", source: "QEMU 9458a9a1df, fixed in 4.2",
        mechanism: "the sync does not wait for vCPUs to leave their block: a mark is consumed and the page read before the store", effect: Loss,
        steps: ["a TCG vCPU marks D[P], and has not stored yet",
            "the migration thread takes D[P], reads P and sends it",
            "the vCPU stores: the mark is spent, the new byte stays behind"],
        fix: "behind each sync, QEMU waits until every vCPU has left its translation block" },
    /// Deflated pages are freed by an array that is no longer guarded.
    ReleaseOutsideLock { name: "release-outside-lock", id: "B3", source: "Linux, fixed in 4.4 by f68b992bbb47",
        mechanism: "leak_balloon() drops balloon_lock and then frees the frames that stand in pfns: whoever fills the array meanwhile has its own frames there, and what this one took out of the balloon is never freed", effect: Leak,
        steps: ["leak_balloon() tells the host which pages it takes back, and drops balloon_lock",
            "a second worker fills the same array with frames of its own",
            "the first frees what now stands in the array: its own pages are nobody's for ever"],
        fix: "the pages are collected on a list of the caller's, and freed before the lock is dropped", guest: fault::RELEASE_OUTSIDE_LOCK },
    /// The array of frames is filled from its second slot on.
    PfnOffByOne { name: "pfn-off-by-one", id: "B6", source: "Linux 4.15-rc, fixed by d9e427f6ab81",
        mechanism: "num_pfns is raised before the slot is written: the device takes what slot 0 held, frame 0 at first, and never hears of the last page", effect: Loss,
        steps: ["fill_balloon() counts a page, then writes its frame into the slot behind",
            "256 pages later slot 0 still holds what it held: 0, at first",
            "the host takes frame 0 away, in use, and never hears of the 256th page"],
        fix: "the slot is written before it is counted", guest: fault::PFN_OFFBYONE },
    /// The shrinker counts hinted blocks as no pages.
    ShrinkCount { name: "shrink-count", id: "B11", source: "Linux 5.0 to 5.3, fixed in 5.4",
        mechanism: "the count of blocks is shifted right instead of left: the shrinker reports no pages and is never asked for any", effect: Leak,
        steps: ["the guest has hinted 3 GiB and runs short of memory",
            "the shrinker counts its blocks of 1024 pages, shifted the wrong way: 768 blocks make 0 pages",
            "nobody asks a shrinker with nothing to give; memory stays short"],
        fix: "the count is shifted left, blocks to pages", guest: fault::SHRINK_COUNT },
    /// Removal does not free hinted blocks.
    RemoveNoReturn { name: "remove-no-return", id: "B14", source: "Linux, fixed in 5.6 and 5.4.19",
        mechanism: "remove_common() does not return the blocks of free_page_list: a driver that goes away in a round takes them with it", effect: Leak,
        steps: ["a round of hinting is under way, with blocks on free_page_list",
            "the driver is removed: rmmod virtio_balloon",
            "the list was the module's; its pages are gone until the next boot"],
        fix: "removal returns the blocks of the list before the queues go", guest: fault::REMOVE_NO_RETURN },
    /// Freezing forgets the balloon.
    FreezeNoDeflate { name: "freeze-no-deflate", id: "B1", source: "Linux, fixed in 3.3 by 4eb05d562ea1 and e562966dbaf4",
        mechanism: "the driver resets its device for hibernation with pages in the balloon, and restore starts with an empty one: nobody frees the old pages", effect: Leak,
        steps: ["inflate by ten pages, then hibernate: the device is reset",
            "restore: the driver starts with an empty balloon",
            "deflate to zero: it holds no page, and the ten are lost"],
        fix: "freezing deflates all of the balloon first, and waking inflates it again", guest: fault::FREEZE_NO_DEFLATE },
    /// A configuration change at the wrong time is forgotten.
    ConfigPendingLost { name: "config-pending-lost", id: "B42", source: "a hazard of drivers/virtio/virtio.c, no commit",
        mechanism: "a change that comes while changes are held back is not kept for later: the balloon never hears of its target", effect: Stall,
        steps: ["the system wakes; configuration changes are still held back",
            "the host moves the target: the interrupt comes, and nothing is written down",
            "changes are let through again, and none is waiting: the balloon keeps its size"],
        fix: "a change that comes too early is marked as pending, and told when changes are enabled", guest: fault::CONFIG_PENDING_LOST },
    /// The device breaks under the works.
    ShutdownNoQuiesce { name: "shutdown-no-quiesce", id: "B25", source: "Linux 6.12 since CVE-2025-38064, fixed in 2026",
        mechanism: "the queues are broken at shutdown while a work of the balloon waits for one of them", effect: Stall,
        steps: ["the balloon's work has kicked a queue and waits for the answer",
            "shutdown breaks all queues, so that no device writes into the next kernel",
            "no answer can come from a broken queue: shutdown waits for a work that waits for ever"],
        fix: "a shutdown hook stops the works of the balloon before its queues break", guest: fault::SHUTDOWN_NO_QUIESCE },
    /// tell_host waits for what it could not add.
    TellHostIgnoreErr { name: "tell-host-ignore-err", id: "B24", source: "Linux, fixed in 6.12.117",
        mechanism: "tell_host() ignores that the queue took no buffer and waits for the device to use it", effect: Stall,
        steps: ["the queue is broken, or full: virtqueue_add() fails",
            "tell_host() does not look, and kicks",
            "it waits for the used entry of a buffer that was never queued"],
        fix: "tell_host() looks at the result, warns, and goes home", guest: fault::TELL_HOST_IGNORE_ERR },
    /// DONE is handled in the interrupt.
    DoneInIrq { name: "done-in-irq", id: "B7", source: "Linux 4.20, fixed in 5.0",
        mechanism: "virtballoon_changed() reads the id and frees the hinted blocks itself: the release of free_page_list_lock enables interrupts inside an interrupt, and the next change takes config_lock again", effect: GuestCrash,
        steps: ["the device says DONE: configuration interrupt",
            "the handler frees the hinted blocks itself, and its spin_unlock_irq() lets interrupts in",
            "the next change interrupts the interrupt, and takes config_lock, which is held below it"],
        fix: "the handler sets a bit and queues a work; the work reads the id", guest: fault::DONE_IN_IRQ },
    /// The command id is told in the wrong order of bytes.
    CmdIdBigEndian { name: "cmd-id-big-endian", id: "B16", source: "Linux 4.20 on big-endian machines, fixed in 5.8 by 168c358af2f8",
        mechanism: "the id that starts a round is exposed as the CPU holds it, not little-endian: the device never finds its own", effect: Rule,
        steps: ["the driver on a big-endian machine takes id 0x80000001 from the configuration",
            "it puts the bytes into the queue as they lie in its memory",
            "the device reads 0x01000080, which is not its id: no round ever opens"],
        fix: "the id in the buffer is little-endian, whatever the CPU", guest: fault::CMDID_BE },
    /// Poisoned pages are reported to a device that does not know of it.
    ReportWithPoison { name: "report-with-poison", id: "B17", source: "Linux 5.7, fixed in 5.8 by fb69c2c896fc",
        mechanism: "PAGE_REPORTING is accepted without PAGE_POISON: a page that the host dropped comes back as zeros, and the check of the poison takes that for corruption", effect: GuestCrash,
        steps: ["the guest fills free pages with 0xaa, and reports one",
            "the host, which was told nothing of that, drops the page: it comes back as zeros",
            "the next allocation checks for 0xaa, finds 0, and reports corrupted memory"],
        fix: "reporting is given up unless the device knows the poison value", guest: fault::REPORT_WITH_POISON },
    /// A queue calls what lay on the stack.
    UninitCallback { name: "uninit-callback", id: "B10", source: "Linux 4.20, fixed in 5.6 by 5790b53390e1",
        mechanism: "of the array of callbacks the place of the hint queue is not written: the queue asks for interrupts and calls whatever stood there", effect: GuestCrash,
        steps: ["probe fills an array of callbacks on its stack, but for the hint queue's place",
            "the queue takes what it finds there for its callback, and asks for interrupts",
            "the device uses a hint; the interrupt calls an address from somebody's old stack frame"],
        fix: "the place is written: the hint queue has no callback", guest: fault::UNINIT_CALLBACK },
    /// A probe that fails keeps its memory.
    ProbeLeak { name: "probe-leak", id: "B15", source: "Linux, fixed in 5.6 and 5.4.19 by 1ad6f58ea936",
        mechanism: "an error path of virtballoon_probe() does not free what was acquired before", effect: Leak,
        steps: ["the driver's probe has got its page",
            "there is no memory for the queues: the probe fails",
            "the error path returns by a way that frees nothing"],
        fix: "each error path frees what was acquired above it", guest: fault::PROBE_LEAK },
    /// The balloon deflates under any memory pressure.
    OomAsShrinker { name: "oom-as-shrinker", id: "B12", source: "Linux 5.0 to 5.5 since 71994620bb25, fixed in 5.6 by da10329cb057",
        mechanism: "deflate-on-oom is a shrinker: whoever reclaims a little takes the balloon apart, though memory is not out", effect: Rule,
        steps: ["deflate-on-oom is set, for the day on which memory is out",
            "a file is read; the page cache wants a few pages of room",
            "the shrinker takes them out of the balloon, the balloon wants them back, and so on"],
        fix: "deflation is the OOM notifier's again, which is asked when all else has failed", guest: fault::OOM_AS_SHRINKER },
    /// The shrinker deflates all of the balloon.
    ShrinkScan { name: "shrink-scan", id: "B11", source: "Linux 5.0 to 5.3, fixed in 5.4",
        mechanism: "shrink_balloon_pages() takes all that it has freed off what is left to free, batch after batch: the rest falls below 0, and the balloon is emptied", effect: Rule,
        steps: ["the shrinker is to free 300 pages: the first batch of 256 leaves 44",
            "the second has freed 300 in all, and 300 are taken off 44",
            "an unsigned number below zero is a very large one: the balloon is emptied"],
        fix: "only what a batch has freed is taken off", guest: fault::SHRINK_SCAN },
    /// Inflation allocates under the lock that deflation needs.
    AllocUnderLock { name: "alloc-under-lock", id: "B5", source: "Linux, fixed in 4.15 by c7cdff0e8647",
        mechanism: "fill_balloon() allocates under balloon_lock: when memory is out, the OOM notifier wants the same lock", effect: GuestCrash,
        steps: ["fill_balloon() takes balloon_lock, then asks for a page",
            "memory is out: the allocation ends in the OOM notifier",
            "the notifier wants to deflate the balloon, and waits for balloon_lock"],
        fix: "pages are allocated before the lock is taken, and without retrying", guest: fault::ALLOC_UNDER_LOCK },
    /// A passing reference leaks a block.
    SpecRefLeak { name: "spec-ref-leak", id: "B30", source: "Linux, fixed in 5.10 by e320d3012d25",
        mechanism: "__free_pages() frees nothing when somebody else holds a reference to the head of a block that is not compound: whoever drops it later frees one page", effect: Leak,
        steps: ["a walker of page frames takes a passing reference to the head of a hinted block",
            "DONE frees the block: the head still has a reference, so nothing is freed",
            "the walker lets go and frees one page of 1024"],
        fix: "whoever frees such a block frees all of it but the head, and leaves the head to the walker", guest: fault::SPEC_REF_LEAK },
    /// An interrupt frees into a list that is being changed.
    PcpUpNoIrq { name: "pcp-up-no-irq", id: "B34", source: "Linux with SMP=n, CVE-2026-23025, fixed in 6.1.162",
        mechanism: "with one CPU the trylock of the per-CPU lists always succeeds and leaves interrupts on: a free in an interrupt and the allocation below it change the same list", effect: GuestCrash,
        steps: ["with one CPU a trylock compiles to \"true\": an allocation changes a per-CPU list, interrupts on",
            "an interrupt frees a page in the middle, and its trylock is just as true",
            "two owners of one list: the next page taken is taken twice"],
        fix: "without SMP the per-CPU lists are changed with interrupts disabled", guest: fault::PCP_UP_NOIRQ },
    /// A queue that could not be made is freed twice.
    VqErrUaf { name: "vq-err-uaf", id: "B40", source: "Linux, fixed in 5.10.4",
        mechanism: "a queue is put on the device list before its ring is allocated: the error path frees it, and the removal of the queues finds it there", effect: GuestCrash,
        steps: ["a new queue is put on the device's list",
            "there is no memory for its ring: the error path frees the queue",
            "removal walks the device's list and comes upon freed memory"],
        fix: "a queue joins the list when all of it is there", guest: fault::VQ_ERR_UAF },
    /// Reporting goes on while the system freezes.
    ReportNonfreezable { name: "report-nonfreezable", id: "B22", source: "Linux 5.7, CVE-2026-74481, fixed in 6.1.183 and 6.12.103 by 0b45f6927a14",
        mechanism: "page_reporting_process runs on system_wq, which does not freeze: it adds to a queue that the driver has deleted", effect: Rule,
        steps: ["the system freezes; the driver deletes its queues",
            "page_reporting_process() runs on a queue of works that does not freeze",
            "it adds its report to a virtqueue that no longer exists"],
        fix: "the pass runs on a queue of works that freezes with the rest", guest: fault::REPORT_NONFREEZABLE },
    /// A balloon page is told by a mapping that may be freed.
    MappingDeref { name: "mapping-deref", id: "B2", source: "Linux d6d86c0a7f8d, fixed in 3.18",
        mechanism: "compaction follows a page's mapping without a lock or a reference: a driver that is removed meanwhile has freed it",
        effect: GuestCrash,
        steps: ["compaction looks at a page and loads page->mapping",
            "meanwhile the owner of that mapping is gone, and its memory with it",
            "compaction reads the flags of the mapping to learn whether the page is a balloon's"],
        fix: "a balloon page says so itself, by its type; every change of that is made under the page's lock", guest: wire::switch::fault::MAPPING_DEREF },
    /// The balloon's list is walked without its lock.
    DequeueNoLock { name: "dequeue-no-lock", id: "B4", source: "Linux 21ea9fb69e7c, fixed in 4.5",
        mechanism: "deflation chooses its next page while compaction takes that page off the list, and goes on along compaction's list",
        effect: GuestCrash,
        steps: ["deflation walks the balloon's list, and stands at a page",
            "compaction isolates that page: it is on another list now",
            "deflation goes on to the next page, along the wrong list"],
        fix: "the list is walked under pages_lock", guest: wire::switch::fault::DEQUEUE_NO_LOCK },
    /// A page that changes zones leaves its count behind.
    NoZoneFixup { name: "no-zone-fixup", id: "B13", source: "Linux 63341ab03706, fixed in 5.5",
        mechanism: "a balloon page that moves to another zone takes no managed page along: deflating it adds one to the wrong zone",
        effect: Rule,
        steps: ["a page of zone A is inflated: A manages one page less",
            "compaction moves its contents to a page of zone B",
            "deflation adds one to B, which had none taken: both zones' books are wrong for ever"],
        fix: "a move between zones takes the count along", guest: wire::switch::fault::NO_ZONE_FIXUP },
    /// An inflated page is taken off a list that it is not on.
    DoubleListDel { name: "double-list-del", id: "B19", source: "Linux 418a3ab1e778, fixed by dd4229060957 in 5.3",
        mechanism: "enqueueing a single page deletes it from the caller's list once more than the caller did",
        effect: GuestCrash,
        steps: ["the driver takes a page off its list, to enqueue it",
            "a helper made for batches takes it off its list",
            "list_del() of a deleted entry follows poisoned pointers"],
        fix: "who enqueues a single page leaves lists to the caller", guest: wire::switch::fault::DOUBLE_LIST_DEL },
    /// What a moved page is, is asked too late.
    CheckAfterUnlock { name: "check-after-unlock", id: "B20", source: "Linux e0a352fabce6, fixed in 5.0; visible before 4.8",
        mechanism: "whether a page that was moved to is a balloon's is asked behind its unlock: deflated by then, it goes to the LRU",
        effect: GuestCrash,
        steps: ["compaction has moved a balloon page to a new frame, and unlocks it",
            "deflation takes the new frame out of the balloon at once",
            "compaction asks whether the frame is a movable page; no longer: it is put on the LRU, free as it is"],
        fix: "what the page is, is asked of the old frame and under its lock", guest: wire::switch::fault::CHECK_AFTER_UNLOCK },
    /// An isolated page is taken off the balloon's list.
    DequeueIsolated { name: "dequeue-isolated", id: "B27", source: "Linux 6.1.160, the split of balloon_page_delete()",
        mechanism: "a page that moves is deleted from a list as if it were on the balloon's: it is on compaction's",
        effect: GuestCrash,
        steps: ["compaction isolates a balloon page: it sits on compaction's list",
            "the page has moved; the old one is deleted \"from the balloon's list\"",
            "so it is deleted from whichever list it is on, while that list is being walked"],
        fix: "deleting is split in two: off the list, if it is on it, and the rest", guest: wire::switch::fault::DEQUEUE_ISOLATED },
    /// A page that nothing moved to is not readied for freeing.
    CompactFreeNoprep { name: "compact-free-noprep", id: "B37", source: "Linux 6.12.97 and 6.12.117",
        mechanism: "compaction takes a page back that it did not use, without the checks and resets of a free: it keeps its reference",
        effect: GuestCrash,
        steps: ["compaction takes a free page as a target, and gives it a reference",
            "nothing moves there; the page goes back to the free pages",
            "unprepared, it is free with a reference: the next owner's first check fails"],
        fix: "compaction_free() runs the checks and resets of any other free", guest: wire::switch::fault::COMPACT_FREE_NOPREP },
    /// An absent queue is set up.
    NullVqName { name: "null-vq-name", id: "B8", source: "Linux 4.20-rc on virtio-mmio and virtio-ccw, fixed in 5.0",
        mechanism: "find_vqs() sets up a queue without a name like the others: the one that should be the next queue, which then has none; probing fails", effect: Stall,
        steps: ["hints without statistics: of the array of queues one place has no name",
            "the transport of that day sets it up all the same, under the number of the next queue",
            "the hint queue comes next and finds no queue of its number; probe fails, or hints go elsewhere"],
        fix: "all transports skip a queue without a name, and number the rest without gaps", guest: fault::NULL_VQ_NAME },
    /// The first statistics are whatever memory held.
    StatsUninit { name: "stats-uninit", id: "B28", source: "Linux, fixed in 4.11 by fc8653228c85 and 8424af5336f7",
        mechanism: "init_vqs() exposes the whole statistics buffer before anything was written to it", effect: Rule,
        steps: ["probe queues the statistics buffer, to give the device something to return",
            "nobody has written a word into it",
            "tags and values made of old kernel memory are the guest's first statistics"],
        fix: "the statistics are collected before the buffer is queued, and only what was collected is told", guest: fault::STATS_UNINIT },
    /// A drain leaves pages behind.
    PcpDrainRace { name: "pcp-drain-race", id: "B32", source: "Linux, fixed in 6.11 by 66eca1021a42",
        mechanism: "drain_pages_zone() reads a list's count before it has the list's lock: what another vCPU frees while it waits stays on the list", effect: GuestCrash,
        steps: ["a drain of vCPU 1's list reads its count: 3",
            "vCPU 1 holds the list's lock and frees a fourth; the drain waits",
            "it frees three; a page stays on a list that was to be empty"],
        fix: "the count is read under the list's lock", guest: fault::PCP_DRAIN_RACE },
    /// Pages of the reserve come back to another type's list.
    PcpWrongMt { name: "pcp-wrong-mt", id: "B33", source: "Linux since 4b23a68f9536, fixed in 6.5 by 7b086755fb8c",
        mechanism: "free_unref_page() has changed HIGHATOMIC to MOVABLE for the per-CPU list already when that list's lock is taken, and frees the page as MOVABLE", effect: Rule,
        steps: ["a block of the atomic reserve is freed; for the per-CPU lists it counts as movable",
            "the lists are locked: it goes to the buddy lists directly",
            "but under the name that it was to have: a page of the reserve on the movable list"],
        fix: "the page's own type is kept for the way past the per-CPU lists", guest: fault::PCP_WRONG_MT },

    // ---- 3A: free page hinting
    /// A failed migration says so before it is cleaned up.
    FailedBeforeCleanup { name: "failed-before-cleanup", id: "H14", source: "QEMU 93c8a97f99, fixed in 11.0; what was seen of it there is a failed assertion, the leak is derived",
        mechanism: "the status is failed before the cleanup has run: the operator may change capabilities in between, and with postcopy-ram the balloon's notifier ignores the cleanup",
        effect: Leak, steps: ["the link breaks in a hint round: the status becomes failed, while the cleanup is still to come", "the monitor sees failed, and takes postcopy-ram for the next attempt", "the main loop cleans up: the balloon's notifier sees the capability and does not say DONE; the guest keeps all that it hinted"],
        fix: "a state of its own, failing, stands until the cleanup is over; capabilities are refused in it" },
    /// COMPLETE stops the device that has said DONE.
    CompleteStopsHinting { name: "complete-stops-hinting", id: "H15", source: "QEMU: the device of 4.0 under the notifiers' order of 11.1 (46b0155ecf, ce0b9fa9e7, 3c11e33016); no release had both",
        mechanism: "COMPLETE stops hinting; told behind the last sync instead of before it, it overwrites DONE, and the state that goes to the destination says STOP",
        effect: Leak, steps: ["the last sync finds the VM stopped: the device says DONE", "COMPLETE is told behind it, and the device of 4.0 answers with STOP", "the device's state goes to the destination with id 0: the driver there never learns that it may have its pages back"],
        fix: "the device ignores COMPLETE; the order of the notifiers could then change" },
    /// The guest hints though postcopy may follow.
    HintWithPostcopy { name: "hint-with-postcopy", id: "H07", source: "QEMU fd51e54fa1, fixed in 6.2",
        mechanism: "the destination may ask for pages that a hint has left out: the source takes them for sent; and DONE is said when the device's state has gone over already", effect: Leak,
        steps: ["the guest hints P, and B forgets it", "the migration is switched: the devices leave with a hint round that is still open", "the guest goes on with hinted pages that nobody will tell it to take back"],
        fix: "with the capability postcopy-ram the notifier does nothing" },
    /// A round is requested without the device's lock.
    HintStartUnlocked { name: "hint-start-unlocked", id: "H02", source: "QEMU 1a83e0b9c4 (Coverity 1430269), fixed in 5.1",
        mechanism: "start() writes the new id and the new status without free_page_lock, just when the iothread has looked at them and is about to act on what it saw",
        effect: Loss,
        steps: ["the iothread pops an old start id, and finds that it is the current one", "the main loop counts the id up and requests the next round", "the iothread starts that round: hints of the old one count in it"],
        fix: "start() takes the lock, as the iothread does for each element" },
    /// Of an element the first segment counts.
    HintFirstSegment { name: "hint-first-segment", id: "H04", source: "QEMU 0fe7245d8b, fixed in 6.2",
        mechanism: "only the first writable segment of an element is hinted; a buffer has several when it is chained, or crosses the border of two memory regions",
        effect: OverSend,
        steps: ["the guest hints a block in two descriptors", "the device clears the pages of the first", "the pages of the second are sent"],
        fix: "all segments of the element are taken" },
    /// An element is looked at after it was freed.
    HintElementFreed { name: "hint-element-freed", id: "H10", source: "QEMU ae440bd14c, fixed in 4.0 before its release",
        mechanism: "an element is freed once its readable part is read; then its writable segments are looked at",
        effect: HostCrash,
        steps: ["the guest exposes one chain with the round's id and a block", "the iothread reads the id and frees the element", "it goes on to the element's writable segments"],
        fix: "the element is freed once, at the end" },
    /// A hint queue has nobody to serve it.
    HintQueueWithoutIothread { name: "hint-queue-without-iothread", id: "H11", source: "QEMU 12fc8903a8, found by a fuzzer, fixed in 5.1",
        mechanism: "without an iothread the feature is taken back, but the queue stays where it was made: a kick of it schedules a bottom half that does not exist",
        effect: HostCrash,
        steps: ["the device is made with hints and reports, and without an iothread", "the driver is offered no hints, and takes the fourth queue for reports", "it kicks that queue: the device schedules nothing at all"],
        fix: "without an iothread such a device cannot be made" },
    /// What is undone goes by what the driver took.
    UnrealizeByGuestFeatures { name: "unrealize-by-guest-features", id: "H12", source: "QEMU 49b01711b8, fixed in 5.1",
        mechanism: "the notifier is removed only if the driver has negotiated hints: one that is unbound has negotiated nothing",
        effect: HostCrash,
        steps: ["the driver is unbound, the balloon is unplugged", "the migration's list of notifiers still names it", "a migration starts, and calls into freed memory"],
        fix: "what the device offers decides, as it did when the notifier was added" },
    /// The iothread is never let go of.
    IothreadReference { name: "iothread-reference", id: "H13", source: "QEMU 105aef9c94, fixed in 5.1",
        mechanism: "the reference to the iothread's object that the device takes when it is made is not dropped when it goes",
        effect: Leak,
        steps: ["the balloon takes a reference to its iothread", "the balloon is unplugged", "the iothread cannot be deleted any more"],
        fix: "unrealize() drops the reference" },

    /// A subsection has another name than what it belongs to.
    SubsectionMisspelt { name: "subsection-misspelt", id: "H18", source: "QEMU 243a9284a9, fixed in 6.2",
        mechanism: "the subsection for the poison is called \"vitio-balloon-device/page-poison\": the destination takes it for none of the device's, and leaves it in the stream with all that follows",
        effect: Rule,
        steps: ["the driver negotiates PAGE_POISON",
            "the source writes the device's state, with the misspelt subsection in it",
            "the destination stops reading there: the features and all that follows is missing, and the load fails somewhere behind"],
        fix: "the name is spelt right; a stream that has the old one cannot be loaded any more" },
    /// The statistics buffer stays behind.
    StatsElementLost { name: "stats-element-lost", id: "H19", source: "QEMU 4a1e48beca and 104e70cae7, fixed in 2.8",
        mechanism: "the statistics buffer that the device keeps between two polls is in no stream, while the queue's index says that it was taken: at the destination nobody ever returns it",
        effect: Stall,
        steps: ["the device takes the statistics buffer and keeps it", "the VM is migrated", "the destination's device has nothing to ask with, and the driver waits for its buffer for ever"],
        fix: "when the VM starts, the device goes back by one buffer, and takes it again" },

    /// Unplugged memory is left out as if it were hinted.
    UnpluggedByHints { name: "unplugged-by-hints", id: "H16", source: "QEMU be39b4cd20 and f4578df399, fixed in 6.2",
        mechanism: "virtio-mem has its unplugged memory left out behind each sync, through the interface for hints: a background snapshot has no sync, and after a recovery there is none, so unplugged memory is read there, which populates it, and sent", effect: OverSend,
        steps: ["block U of a virtio-mem device is not plugged", "a background snapshot begins: no sync, so nobody leaves U out", "the migration thread reads U: the host allocates its pages, and they are saved"],
        fix: "the migration asks each memory region what of it is discarded, when it makes B and when it makes B anew" },

    // ---- 3B: balloon discards
    /// A large host page goes with its first balloon page.
    DiscardHostPage { name: "discard-host-page", id: "B04", source: "QEMU ed48c59875, fixed in 4.0",
        mechanism: "a balloon page of 4 KiB is rounded to the page of the host that it lies in: the guest's data in the rest of that page goes with it",
        effect: Loss,
        steps: ["the host has pages of 64 KiB", "the guest writes P, and inflates Q in the same 64 KiB", "the device discards all 64 KiB: P is zero"],
        fix: "the device notes which parts of a host page are in the balloon, and discards it once all are" },
    /// What is deflated stays noted.
    PartialIgnoresDeflate { name: "partial-ignores-deflate", id: "B05", source: "QEMU b27b323914, fixed in 4.0 before its release",
        mechanism: "the parts of a host page that are in the balloon are noted when they come, and not when they go: a page that is back in use still counts",
        effect: Loss,
        steps: ["the guest inflates A, deflates A and writes it", "the guest inflates the other 15 parts of A's host page", "the device finds all 16 noted, and discards A, too"],
        fix: "a deflation takes the note of its part back" },
    /// What is inflated stays noted for ever.
    PartialOutlivesElement { name: "partial-outlives-element", id: "B06", source: "QEMU a8cd64d488 and 1b47b37c33, fixed in 4.1",
        mechanism: "the note of a host page in parts is kept from one element to the next, and over a reset; but a driver that does not promise to tell may reuse a page without a word",
        effect: Loss,
        steps: ["the guest inflates 15 of 16 parts", "the driver takes them out without telling, and they are written", "the guest inflates the last part: the device discards all 16"],
        fix: "the note lives as long as the element that it is made from" },
    /// One bit is set with the function for many.
    PartialManyBits { name: "partial-many-bits", id: "B07", source: "QEMU 483f13524b, fixed in 4.1",
        mechanism: "for each part as many bits are set as a host page has parts, from the part's own on: the first part makes the host page full, another writes behind the bitmap's end",
        effect: Loss,
        steps: ["the guest inflates part 0 of a host page", "the device sets the bits of parts 0 to 15", "the page counts as full, and is discarded with what is in use in it"],
        fix: "set_bit() and clear_bit() take the place of their siblings for ranges" },

    /// Whoever speaks last of discards decides for all.
    InhibitLastWins { name: "inhibit-last-wins", id: "B02", source: "QEMU's one flag of 2.5 to 3.0; a count since 01ccbec7bd, balanced by 154304cd6e, both in 3.1",
        mechanism: "those who forbid discards share one flag: when one of them allows discards again, what another still has pinned may go, too",
        effect: Loss,
        steps: ["an assigned device has memory pinned, and forbids discards; so does a snapshot, for as long as it is saved", "the snapshot ends: discards are allowed", "the guest inflates P: it is discarded, and the device still writes where it was"],
        fix: "the bans are counted, and each user takes back its own; the flag had had postcopy for its only user, and was a count before there was a second" },
    /// Pages are discarded though a device has them pinned.
    PinnedDiscarded { name: "pinned-discarded", id: "B09", source: "QEMU c65ee43315, fixed in 3.1",
        mechanism: "the balloon is not told that an assigned device has guest memory pinned: what it discards stays the device's, and the guest gets another page in its place",
        effect: Loss,
        steps: ["an assigned device has P pinned; the guest inflates P, and the balloon discards it", "the guest deflates P: whoever touches it gets a new page", "the device writes P: into the old one, which nobody else sees"],
        fix: "whoever pins memory forbids the balloon to discard for as long" },
    /// ROM is balloonable.
    RomBallooned { name: "rom-ballooned", id: "B10", source: "QEMU f2fd57db36, fixed in 2.9",
        mechanism: "the device takes any page that the guest names, and discards ROM as if it were RAM",
        effect: Loss,
        steps: ["page 0 is ROM", "the driver names page 0 as inflated, by mistake or not", "the device discards it: the firmware is gone"],
        fix: "what is no RAM, or is ROM, is passed over" },
    /// Inflation drops pages under a postcopy.
    InflateInPostcopy { name: "inflate-in-postcopy", id: "B01", source: "QEMU 371ff5a3f0, in 2.5, which brought postcopy",
        mechanism: "the balloon of the destination drops a page that has arrived: whoever touches it next asks for it, and the source takes it for sent", effect: Stall,
        steps: ["P arrives at the destination", "the guest inflates P: the host drops it", "the guest deflates P and touches it: request(P) is dropped"],
        fix: "nothing is discarded while pages still come" },
    /// Inflation drops a page's write protection.
    InflateInSnapshot { name: "inflate-in-snapshot", id: "B03", source: "QEMU 1a8e44a89f, fixed in 6.0 before its release",
        mechanism: "a page that the balloon drops loses its write protection: what the guest writes there later is saved", effect: Loss,
        steps: ["all memory is write-protected for a snapshot", "the guest inflates P, deflates it and writes", "P is saved: with what was written after the snapshot's moment"],
        fix: "nothing is discarded while a snapshot is being saved" },

    /// Unplugged memory is asked for.
    UnpluggedRequested { name: "unplugged-requested", id: "B11", source: "QEMU 9470c5e082, fixed in 6.2",
        mechanism: "a fault in unplugged memory at the destination of a postcopy is answered by asking the source for the page, which never sends it", effect: Stall,
        steps: ["page U is not plugged: it is not in B, and will not be sent", "a vCPU at the destination touches U: request(U) goes out", "the source takes U for sent, and drops the request: the vCPU waits until the migration ends"],
        fix: "the destination asks its own memory region whether the page is discarded, and places an empty one" },

    // ---- 3C: dirty tracking in the accelerator
    /// Rings start with nothing protected.
    RingInitiallySet { name: "ring-initially-set", id: "K03", source: "QEMU a81a592698, in 6.1, which brought rings",
        mechanism: "KVM_DIRTY_LOG_INITIALLY_SET is asked for together with the dirty ring: pages start unprotected, so that their first writes make no entries", effect: Loss,
        steps: ["logging starts: no page is write-protected, all rings are empty", "the migration sends P, then vCPU 1 writes P: no fault, no entry", "the next sync reaps empty rings: P's last contents are sent by nobody"],
        fix: "manual protection is not asked for where rings are used: logging starts by protecting all pages" },
    /// A ring's entry is flagged before it is filled.
    RingEntryLag { name: "ring-entry-lag", id: "K04", source: "QEMU since 6.1, fixed in 8.0 by 4802bf910e and 52281c6d11",
        mechanism: "an entry's flag is set and read without release and acquire: where memory is weakly ordered, the reaper sees the flag and takes the page number that stood in the place before", effect: Loss,
        steps: ["vCPU 1 faults on P: its entry's flag is visible, its page number is not yet", "the sync reaps the entry as page 0, and the reset protects page 0", "vCPU 1 stores to P, which is neither recorded nor protected"],
        fix: "the flag is stored with release and loaded with acquire semantics, and resetting an entry, too, is a release" },

    /// A deleted slot's log is dropped.
    SlotDeleteDropsLog { name: "slot-delete-drops-log", id: "K01", source: "QEMU, fixed in 2.3 by 4cc856faba",
        mechanism: "a memory slot that is deleted and recreated, because the guest changes who sees that memory, takes K along before any sync has read it", effect: Loss,
        steps: ["the migration sends P, then vCPU 1 writes P: K has it", "the guest toggles PAM: the slot is deleted with its K, and created with an empty one", "the next sync finds nothing of P"],
        fix: "the slot's log is read and merged before the slot is deleted; where a new one takes its place, no vCPU has run between the two since 8.0, and QEMU still calls it its best effort" },
    /// vCPUs run while a slot is updated.
    SlotUpdateTorn { name: "slot-update-torn", id: "K01", source: "QEMU 2.3 to 7.2, fixed in 8.0 by f39b7d2b96, which was made against spurious faults",
        mechanism: "the log of a slot that is deleted is read first, but vCPUs run on: what they write until the slot is gone goes with it", effect: Loss,
        steps: ["the guest toggles PAM: the slot's log is read and merged", "vCPU 1 writes P: K has it", "the slot is deleted with its K, and created with an empty one"],
        fix: "where a slot takes the place of another, all vCPUs are kept out of the kernel from before the read until the new slot is there" },
    /// What KVM writes by itself is not collected.
    BackupIgnored { name: "backup-ignored", id: "K05", source: "QEMU b20cc77692 and 1e493be587, in 8.1, which brought rings to arm64",
        mechanism: "what KVM writes for no vCPU, such as an interrupt controller's tables, goes into no ring, but into a bitmap beside them, which nobody reads", effect: Loss,
        steps: ["the migration sends P, a page of the ITS tables", "KVM writes P for no vCPU: no ring has room for that, the backup bitmap has it", "the last sync reaps the rings alone"],
        fix: "the last sync, and the deletion of a slot, read the bitmap, too" },
    /// System management mode's address space is left out of syncs.
    SmmNotSynced { name: "smm-not-synced", id: "K06", source: "QEMU, fixed in 2.8 by 9c1f8f4493",
        mechanism: "a sync asks the listeners of the main address space only: what a vCPU writes in system management mode is logged in the slots of another", effect: Loss,
        steps: ["the migration sends P", "vCPU 1 writes P in system management mode: K of the second address space has it", "the next sync reads the slots of the first"],
        fix: "a sync goes through all address spaces that a listener belongs to" },
    /// One flag for all users of the log.
    LogFlagShared { name: "log-flag-shared", id: "K07", source: "QEMU 63b41db4bc, in 6.2, before the measurement that would have met it (0e21bf2460)",
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
        mechanism: "S is allocated by a slot's first sync only: a slot that was created again since has none when a CLEAR wants it", effect: HostCrash,
        steps: ["a sync reads the slot's log into S", "the guest reboots or toggles PAM: the slot is deleted and created, without S", "the migration is about to send a page of it, and its CLEAR asserts that there is S"],
        fix: "S is allocated whenever a slot is created with its log on" },
    /// A CLEAR ends with its first slot.
    ClearFirstSlot { name: "clear-first-slot", id: "K10", source: "QEMU 84516e5b8d, in 4.2, before a region could have several slots",
        mechanism: "a CLEAR looks for the one slot that its range begins in: the part in the next slots stays in K", effect: OverSend,
        steps: ["two slots meet within a chunk; P lies in the second", "the guest hints P: P leaves B, and the CLEAR of its chunk ends at the border", "the next sync finds P in K, and P is sent"],
        fix: "a CLEAR goes through all slots that its range touches" },
    /// A failed GET counts.
    GetErrorIgnored { name: "get-error-ignored", id: "K11", source: "QEMU, fixed in 6.0 by 38e0b7904e; b533f658a9 had done so in 2014, and was taken back",
        mechanism: "the ioctl's result is compared with -1 though it is -errno: GET fails, and what S held from the time before is merged once more", effect: OverSend,
        steps: ["a sync reads P into S, and P goes to B", "the guest hints P, and P leaves B", "the next GET fails: P, which S still has, is merged and sent"],
        fix: "a negative result is an error, and the slot is left out of this sync; the migration goes on all the same, see findings/get-fails-in-the-last-sync.md" },
    /// A bit of K counts for one target page.
    HostPageAsOne { name: "host-page-as-one", id: "K12", source: "QEMU on hosts with 64 KiB pages, fixed in 1.1 by 3145fcb605 and in 2.0 by f9ee9f9ac2",
        mechanism: "K has a bit for each page of the host's, which the merge takes for one target page: of sixteen the first is marked", effect: Loss,
        steps: ["the host's pages are 64 KiB; the migration sends P, the fourth target page of one", "vCPU 1 writes P: K has the bit of the host's page", "the merge marks the first target page in D"],
        fix: "a bit marks as many target pages as the host's page holds" },
    /// A stop that waits for the VM is forgotten.
    LogStopPostponed { name: "log-stop-postponed", id: "K13", source: "QEMU 6.2, fixed in 7.0 by a5c90c61a1",
        mechanism: "logging of a stopped VM ends when the VM runs again; a second migration before that finds it on, and asserts that it is off", effect: HostCrash,
        steps: ["the VM is stopped; a migration ends, and its log is to stop once the VM runs", "another migration starts", "its assertion that nobody logs for a migration fails"],
        fix: "a start carries out the postponed stop first" },
    /// A ring is reaped that is not there yet.
    ReapHalfCreated { name: "reap-half-created", id: "K14", source: "QEMU 6.1 to 7.2, fixed in 8.0 by 56adee407f",
        mechanism: "a plugged vCPU is on the list before its ring is mapped, and its creation waits without the BQL: whoever reaps then reads through a null pointer", effect: HostCrash,
        steps: ["a vCPU is plugged: it is on the list, and the main loop lets go of the BQL to wait for its thread", "the reaper takes the BQL and goes through the list", "it reads the ring of a vCPU that has none"],
        fix: "a vCPU that is not created yet is left out" },
    /// TLB entries are not flagged again.
    TlbNotRearmed { name: "tlb-not-rearmed", id: "K16", source: "QEMU 2.0 to 8.2, fixed in 9.0 by 03bfc2188f",
        mechanism: "the fast path of a sync cleans D by words and leaves the vCPUs' TLBs alone: entries that lost their not-dirty flag never get it back", effect: Loss,
        steps: ["vCPU 1 writes P: D has it, the TLB entry loses its flag", "a sync takes P from D to B, and P is sent", "vCPU 1 writes P through the same entry, past the slow path"],
        fix: "whoever cleans D flags the entries of the cleaned pages in all TLBs; not quite, as the next two show" },
    /// Nothing is new, so nothing is flagged.
    TlbRearmedIfNew { name: "tlb-rearmed-if-new", id: "K16b", source: "QEMU under TCG, since 9.0 and still in June 2026: what 03bfc2188f left open",
        mechanism: "a sync flags TLB entries again only if it has found pages that B did not have; what it took from D was cleaned all the same. Of the first sync this is always so, for B starts with all pages", effect: Loss,
        steps: ["logging starts; vCPU 1 writes P, and its TLB entry loses the flag",
            "the first sync takes P from D; B has it already, nothing is new, and no entry is flagged",
            "P is sent; vCPU 1 writes it through the same entry, past the slow path"],
        fix: "not yet, in QEMU: whatever was taken from D has to be flagged, new in B or not" },
    /// The flags go to the block at ram_addr 0.
    TlbRearmedAtZero { name: "tlb-rearmed-at-zero", id: "K16c", source: "QEMU under TCG, since 9.0 and still in June 2026: what 03bfc2188f left open",
        mechanism: "behind the sync of a block, entries are flagged again from ram_addr 0 on for the block's length, and not from where the block lies: only the first block's entries ever are", effect: Loss,
        steps: ["vCPU 1 writes P, a page of the second block, and its TLB entry loses the flag",
            "a sync takes P from D, flags entries of the first block, and P is sent",
            "vCPU 1 writes P through the same entry, past the slow path"],
        fix: "not yet, in QEMU: the block's own ram_addr has to be added, as it is where a block is no whole number of words" },
    /// A locked access takes the flag away without a mark.
    AtomicUnmarked { name: "atomic-unmarked", id: "K17", source: "QEMU 2.8 to 2.10, fixed in 2.11 by 34d49937e4",
        mechanism: "a locked read-modify-write of a page whose TLB entry says not dirty drops the flag and writes, but marks nothing", effect: Loss,
        steps: ["a sync has cleaned P, and P is sent", "vCPU 1 makes a locked exchange on P: no mark, and the entry's flag is gone", "all its later stores to P go past the slow path"],
        fix: "the access is prepared and completed as any other write to a page that is not dirty" },
    /// A fault opens a whole slot.
    HvfUnprotectsSlot { name: "hvf-unprotects-slot", id: "K18", source: "QEMU with HVF on x86, fixed in 9.1 by 3e2c6727cb",
        mechanism: "the first write to a protected page marks that page and gives back write permission to all of its slot", effect: Loss,
        steps: ["the migration sends P; all pages are protected", "vCPU 1 writes Q: Q is marked, and every page of the slot is opened", "vCPU 1 writes P: no fault, no mark"],
        fix: "permission is given back to the page alone; until then macOS had hidden it, whose old call to run a vCPU faults more often than it has to" },
    /// Pages are protected when the log is read.
    HvfProtectsAtSync { name: "hvf-protects-at-sync", id: "K19", source: "QEMU with HVF, fixed in 11.0 by 1b6261bfc0: the right idea, and the wrong hook",
        mechanism: "pages are protected again when a sync begins and not when their marks are cleared: a write between the two opens its page, and loses its mark to this sync", effect: Loss,
        steps: ["a sync protects all pages", "vCPU 1 writes P: D is marked, P is opened; the sync takes the mark into B", "P is sent; vCPU 1 writes P again: no fault, no mark"],
        fix: "protection comes with the clearing of marks, before a page is read" },
    /// The guest's address is added twice.
    HvfAddressTwice { name: "hvf-address-twice", id: "K20", source: "QEMU 11.0 with HVF, fixed in 11.1 by 3d0ad30fbf",
        mechanism: "the mark is made at the sum of the guest's physical address and the offset in the memory region: another page is marked, or, with some gigabytes of memory, something behind the bitmap, and QEMU dies", effect: Loss,
        steps: ["the migration sends P", "vCPU 1 writes P: the fault marks the page at twice P's address", "the next sync sends that page, and not P"],
        fix: "the offset in the region is passed alone" },

    // ---- 3D: bitmaps, scan, setup
    /// The sync looks for a block's bits at ram_addr 0.
    SyncWithoutOffset { name: "sync-without-offset", id: "Q01", source: "QEMU 084140bd49, fixed in 2.10 before its release",
        mechanism: "the sync indexes D by the page of the block, without the block's offset: it merges the first block's bits into every block", effect: Loss,
        steps: ["D has the bits of two RAM blocks, the second behind the first",
            "a vCPU writes page k of the second block, which sets bit offset + k",
            "the sync of the second block moves bit k of D into its bitmap: the write is never found"],
        fix: "the block's offset is added wherever D is indexed" },
    /// A block that begins within a word is merged by words.
    AlignmentWithoutOffset { name: "alignment-without-offset", id: "Q02", source: "QEMU f70d3451fe, fixed in 2.10 before its release",
        mechanism: "whether whole words may be moved is asked of the place in the block, not of the ram_addr: bits of neighbours come along, some behind the block's end, where no scan finds them", effect: Stall,
        steps: ["a block's first ram_addr lies within a word of D, which its neighbour shares", "the sync moves whole words, and counts bits that stand behind the end of the block's bitmap", "the scan finds nothing more to send, but the count of what is left never reaches 0"],
        fix: "the test of alignment looks at the ram_addr" },
    /// A block shorter than a word is merged by words.
    ShortBlockByWords { name: "short-block-by-words", id: "Q03", source: "QEMU aa777e297c, fixed in 2.12",
        mechanism: "whether whole words may be moved is asked of the block's beginning alone: a block that ends within a word of D takes the bits of its neighbour", effect: Loss,
        steps: ["a block of 30 pages lies before another in one word of D", "a vCPU writes page 2 of the second, which sets bit 32", "the sync of the first block takes the whole word: the second block's bit is gone before its turn"],
        fix: "the length is tested, too" },
    /// Bits of D are set by a load and a store.
    DirtySetNotAtomic { name: "dirty-set-not-atomic", id: "Q05", source: "QEMU d114875b9a and 5f2cb94688, fixed in 2.4",
        mechanism: "whoever sets a bit of D loads its word, changes it and stores it back: what another thread has set in between is gone", effect: Loss,
        steps: ["a device's thread loads a word of D to mark P", "another loads it to mark Q, the first stores it with P's bit", "the second stores it with Q's bit and without P's: the write to P is forgotten"],
        fix: "bits of D are set and taken by atomic operations" },
    /// The last scan begins nowhere.
    ScanWithoutPlace { name: "scan-without-place", id: "Q08", source: "QEMU 4934a5dd7c, fixed in 7.2",
        mechanism: "a scan is over when it comes back to the block where the last page was found; with no such block it never is, if nothing is left to send", effect: Stall,
        steps: ["the VM is stopped, the scan's place has been reset, and the last sync finds nothing",
            "the scan goes through all blocks, and at each asks whether it is back where it began",
            "it began nowhere, so it goes around for ever, with the VM stopped"],
        fix: "the scan's place is set before the scan" },
    /// The dirty rate counts what was known to be dirty.
    PeriodCountsAll { name: "period-counts-all", id: "Q10", source: "QEMU fb6135807f, fixed in 5.1",
        mechanism: "the pages of a period are all bits that a sync takes from D, not those that are new in B: the first sync counts all of RAM, and auto-converge throttles at once", effect: WrongStatistics,
        steps: ["B starts with all pages", "the first sync finds all of D set and not one page that is new", "the period's counter goes up by all of RAM all the same"],
        fix: "only bits that are new in B are counted" },
    /// Logging starts on old bits.
    NoSyncAtStart { name: "no-sync-at-start", id: "Q11", source: "QEMU 79536f4f16, fixed in 1.3",
        mechanism: "no sync follows the start of the log: bits that were set in D long before are found by the second round and sent again", effect: OverSend,
        steps: ["D is full of bits from before the migration when logging starts", "round 1 leaves out what the guest hints, and sends the rest", "the first sync finds all the old bits: everything is sent again, hinted pages too"],
        fix: "a sync follows the start of the log" },
    /// Each slice ends with a sync.
    SyncEachSlice { name: "sync-each-slice", id: "Q12", source: "QEMU, twice and each time before a release: 28ef5339c3 (8.0) and 910c164736 (9.0)",
        mechanism: "what must be sent before the switchover is taken for 0 (with postcopy-ram on, all RAM may come later), so each iteration asks for an exact answer, and has a sync: no hint round outlasts a slice", effect: OverSend,
        steps: ["the engine asks before each slice how much is left, and is told that nothing must be sent", "so it wants to know exactly, and syncs: the hint round stops and another begins", "the guest's hints come when their round is over, and their pages are sent"],
        fix: "the exact answer is asked for once all that is left is below the threshold" },
    /// A migration goes on when a block grows.
    ResizeUnnoticed { name: "resize-unnoticed", id: "Q13", source: "QEMU, fixed in 6.1 by c7c0e72408, 898ba906cc and cc61c703b6; for memory that is plugged in, in 2.4 by dd63169766",
        mechanism: "a RAM block grows while it is migrated: bitmaps and stream have the old length, and what lies behind it is not sent", effect: Loss,
        steps: ["the migration makes B of the block's length, and tells the destination that length", "the guest is reset, its tables become longer, and the block grows", "what is written behind the old end has no bit: it stays behind"],
        fix: "a resize cancels the migration" },
    /// Hints change B without its mutex.
    HintWithoutMutex { name: "hint-without-mutex", id: "H09", source: "QEMU, from 386a907b37 (4.0) to c13221b56f (8.0): what bitmap_mutex covers",
        mechanism: "the iothread loads words of B, counts the hinted bits and stores the words without bitmap_mutex: pages that the migration thread takes meanwhile are counted twice, and N goes below what B has", effect: WrongStatistics,
        steps: ["the iothread loads a word of B to clear hinted pages", "the migration thread takes one of them to send it: N goes down", "the iothread stores the word, and takes it off N once more"],
        fix: "whoever changes B holds bitmap_mutex" },
    /// Slices run without the mutex of B.
    SliceWithoutMutex { name: "slice-without-mutex", id: "H09", source: "QEMU, from 386a907b37 (4.0) to c13221b56f (8.0): what bitmap_mutex covers",
        mechanism: "the migration thread loads a word of B and stores it back without a page, without bitmap_mutex: what the timer's sync sets in between is gone, and what the iothread clears in between is back", effect: Loss,
        steps: ["the migration thread loads a word of B to take P",
            "the timer of auto-converge syncs, and brings the bit of page Q, in the same word, back into B",
            "the migration thread stores the word as it was, less P: Q's last write is forgotten (had a hint cleared the word meanwhile, all of it would be sent)"],
        fix: "the mutex is held for the whole slice" },
    /// A migration that failed keeps what it took.
    DirtyNotRestored { name: "dirty-not-restored", id: "X07", source: "Propolis #232, #616 and #682",
        mechanism: "a migration that failed has consumed the dirty bits of what it sent; the next one starts from those that are left", effect: Loss,
        steps: ["a migration sends P and takes its bit", "the link breaks; the destination and all that it has is gone", "the next migration starts from the bits that are left: P is not among them"],
        fix: "after a failure everything counts as dirty again" },

    // ---- 3E: page encoding and channels
    /// A zero page leaves its old copy in the cache.
    ZeroLeavesCache { name: "zero-leaves-cache", id: "E01", source: "QEMU, fixed in 2.0 by 6d3cb1f970",
        mechanism: "a page that goes as a zero record leaves its old bytes in the XBZRLE cache: the next difference is taken against what the destination no longer has", effect: Loss,
        steps: ["page P goes as v1, and the cache keeps v1", "P is zero: a zero record goes out, and the destination's P is zero", "P holds v3: the difference from v1 to v3 is applied to zeros"],
        fix: "a zero record puts zeros into the cache" },
    /// A page of the cache is queued by reference.
    CachedPageAsync { name: "cached-page-async", id: "E01b", source: "QEMU, fixed in 2.0 by 6d3cb1f970",
        mechanism: "the copy in the XBZRLE cache is queued by reference, and another page may take its slot before the bytes are written out", effect: Loss,
        steps: ["P is put into slot s of the cache, and slot s is queued for the wire", "Q has the same slot, and takes it", "the queue is written out: the record of P carries the bytes of Q"],
        fix: "what is sent from the cache is copied when it is queued" },
    /// A refused insertion sends the slot.
    RefusedInsertSends { name: "refused-insert-sends", id: "E02", source: "QEMU, fixed in 2.1 by 1534ee93cc",
        mechanism: "the XBZRLE cache may refuse a page, but what goes out is the copy in its slot all the same: another page's", effect: Loss,
        steps: ["P stands in slot s of the cache, and is young", "Q has the same slot; the cache refuses it", "the record of Q carries the copy in slot s: the bytes of P"],
        fix: "a page that was refused is sent from RAM" },
    /// A skipped page counts as one that named its block.
    SkippedPageNamesBlock { name: "skipped-page-names-block", id: "E03", source: "QEMU 3fd3c4b37c, fixed in 2.5 before its release",
        mechanism: "a page that has not changed is not written, but its block counts as the last one that a header named: the next page of that block goes without a name, and is placed in the block before", effect: Loss,
        steps: ["a page of block 1 is written, with its name", "P of block 2 has not changed: nothing is written", "Q of block 2 is written without a name, and placed in block 1"],
        fix: "the last block is noted where its name is written" },
    /// Differences are sent in postcopy.
    DeltaInPostcopy { name: "delta-in-postcopy", id: "E04", source: "QEMU, fixed in 2.8 by 2ebeaec012",
        mechanism: "a page in the XBZRLE cache goes as a difference in postcopy, too: the destination, which places whole pages under a running guest, cannot read it", effect: HostCrash,
        steps: ["P goes whole, and stands in the cache", "P is written, and the migration is switched to postcopy", "P goes as a difference: the destination ends, and the guest with it"],
        fix: "XBZRLE is off once postcopy begins" },
    /// R is freed while receivers run.
    ReceiversOutliveR { name: "receivers-outlive-r", id: "E14", source: "QEMU since 5ef7e26bdb (9.1), fixed in 9.2 by 4ce5622908",
        mechanism: "when the incoming migration fails, the main thread frees R before the channels' receivers have ended: one that still has a packet writes to it", effect: HostCrash,
        steps: ["a packet has arrived, and waits for its receiver", "the main channel breaks: the main thread cleans up, and R with it", "the receiver records its page in R"],
        fix: "the receivers are ended before R is freed" },
    /// Poisoned memory is read.
    PoisonedPageRead { name: "poisoned-page-read", id: "E19", source: "QEMU, fixed in 9.0 by 06152b89db",
        mechanism: "a migration starts though memory of the guest is broken: the thread that reads such a page is killed, and the VM with it", effect: HostCrash,
        steps: ["page P has an uncorrectable error, which the guest has been told of", "migrate is given", "the migration thread reads P: SIGBUS"],
        fix: "migrate is refused as long as there is poisoned memory" },
    /// Zero pages of the first round are not sent.
    FirstZerosUnsent { name: "first-zeros-unsent", id: "E07", source: "QEMU f1c72795af (1.5), reverted in 1.6 by 9ef051e553",
        mechanism: "in the first round pages of zeros are not sent, since the destination's memory is zero anyway: where it is not, what stood there stays", effect: Loss,
        steps: ["firmware has written page P at the destination", "the source's P is zero: in the first round nothing is sent", "the guest goes on with the firmware's bytes in P"],
        fix: "a zero page is sent as a record of nine bytes, and the destination makes it zero" },
    /// R is not told of pages that an accelerator decompresses.
    UnrecordedPages { name: "unrecorded-pages", id: "E09", source: "QEMU 9.1 and 9.2, fixed in 10.0 by 2588a5f99b and a523bc5216",
        mechanism: "pages that arrive compressed by QPL or QATzip are not recorded as received: a zero page that follows counts as the first arrival, and is skipped", effect: Loss,
        steps: ["P arrives as v1, and R stays clear", "P is zero: a zero page arrives on a channel", "R is clear, so P is taken to be zero already: v1 stays"],
        fix: "each way to receive a page records it" },
    /// A packet of zero pages is not written.
    DropZeroPacket { name: "drop-zero-packet", id: "E10", source: "QEMU 9.0 to 9.2, fixed in 10.0 by cdc3970f85",
        mechanism: "with a compression method a packet that has nothing to compress is not written, and the zero pages that it lists with it", effect: Loss,
        steps: ["P arrives as v1", "P is zero, and so are all pages of its packet", "the packet is not written: v1 stays"],
        fix: "a packet without data is written for its header's sake" },
    /// A page that became zero keeps its bit in the file.
    ZeroStaysInFile { name: "zero-stays-in-file", id: "E11", source: "QEMU 8fa1a21c6e, fixed in 9.0 before its release",
        mechanism: "the loop that clears the file's bits of a packet's zero pages has wrong bounds: a page that had data before keeps its bit, and its old bytes are loaded", effect: Loss,
        steps: ["P goes into the file as v1: its bit is set", "P is zero: the sender leaves its bit as it is", "the file is loaded: P is v1"],
        fix: "the loop runs over the packet's zero pages" },
    /// Pages that are not in the file keep what they held.
    AbsentPagesStay { name: "absent-pages-stay", id: "E12", source: "QEMU 0ecd285824, in 10.2; until then loadvm of such a file was refused",
        mechanism: "a file is loaded into memory that was used before: pages that are not in the file are not made zero", effect: Loss,
        steps: ["a VM has run, and P holds its bytes", "a file without P is loaded: P was zero", "the guest goes on with the old bytes in P"],
        fix: "pages that are absent are made zero, unless the memory is fresh" },
    /// No barrier between rounds.
    NoRoundBarrier { name: "no-round-barrier", id: "E15", source: "QEMU: what the barrier is for that 294e5a4034 (8.1) left once in a round",
        mechanism: "nothing keeps the channels' packets of two rounds apart: a page's newer copy on a fast channel arrives before its older one on a slow channel", effect: Loss,
        steps: ["round 1: P goes as v1 on a slow channel", "round 2: P goes as v2 on another, and is placed", "v1 arrives, and is placed over v2"],
        fix: "when the scan has passed all of RAM, every channel is drained and synchronised before the next page is queued" },
    /// The main channel does not wait at the barrier.
    MainPassesBarrier { name: "main-passes-barrier", id: "E15b", source: "QEMU: what the barrier is for that 294e5a4034 (8.1) left once in a round",
        mechanism: "the channels wait for each other between rounds, and the main channel waits for none: a zero record on it arrives before the page's older bytes on a channel", effect: Loss,
        steps: ["round 1: P goes as v1 on a channel that is late", "round 2: P is zero, and the migration thread sends a zero record on the main channel", "the record is placed, and then v1"],
        fix: "a flush record in the main stream waits for all channels" },
    /// A flush does not wait for what is queued.
    FlushForgetsQueued { name: "flush-forgets-queued", id: "E16", source: "QEMU 7.1 and 7.2, fixed in 8.0 by ebfc578715",
        mechanism: "with zero copy a flush may be asked for before the last packet is queued, and does not wait for it: its pages count as sent, and have not been read yet", effect: Rule,
        steps: ["a sender has a packet, and has not queued it", "the flush finds nothing queued, and is over", "the packet's pages are read afterwards"],
        fix: "a channel is flushed once its sender has come to the barrier" },
    /// The destination starts before its receivers are done.
    StartBeforeChannels { name: "start-before-channels", id: "E17", source: "QEMU, fixed in 2.7 by 5533b2e9bc",
        mechanism: "the destination starts its vCPUs while threads still hold pages that have arrived: they are placed late, over what the guest writes", effect: Loss,
        steps: ["the last copy of P has arrived, and waits for its thread", "the device state arrives, and the vCPUs start", "P is placed under the running guest"],
        fix: "the main thread waits until all threads are done" },

    /// A channel takes the first zeros of a page to be there, and the guest waits for them.
    ZerosSkippedForPostcopy { name: "zeros-skipped-for-postcopy", id: "E13", source: "QEMU 249543d0c0, fixed in 10.1",
        mechanism: "the first zeros that a channel brings for a page are noted in R and not written: in postcopy who touches the page faults, and as R has the page nobody asks for it", effect: Stall,
        steps: ["precopy: a channel brings zeros for P, the first copy of it: R[P] = 1, and nothing is written", "the migration is switched, and the guest runs at the destination", "a vCPU touches P, which is not in memory; R says that it has come: no request goes out"],
        fix: "where postcopy may follow, zeros are written whenever they come" },

    // ---- 3F: postcopy
    /// A huge page of which a part has arrived is not dropped.
    HostPageInParts { name: "host-page-in-parts", id: "P04", source: "QEMU 29c5917201 and a3b6ff6d0a, fixed in 2.9",
        mechanism: "at the switch to postcopy the bitmap is not rounded to pages of the host's: of a huge page only the dirty part is to be dropped, which memory cannot do, and who touches that part finds the old contents", effect: Loss,
        steps: ["a huge page has arrived; the guest writes one target page of it, P", "the migration is switched: P is to be dropped, and is less than the memory there can drop", "the guest runs at the destination, and reads the old P, for nothing is missing"],
        fix: "whatever page of the host's is partly dirty, or partly sent, is dropped and sent as a whole" },
    /// Requests that were on a broken link are forgotten.
    RequestsNotResent { name: "requests-not-resent", id: "P05", source: "QEMU 0c26781c09, fixed in 5.2",
        mechanism: "after a recovery nobody asks again for the pages that were asked for before the link broke", effect: Stall,
        steps: ["a vCPU at the destination touches P: request(P) goes out", "the link breaks, and is mended", "the source sends what it comes across: P is one of many"],
        fix: "the destination keeps what it waits for, and asks for all of it again when the link is back" },

    /// A page is sent twice.
    SyncInPostcopy { name: "sync-in-postcopy", id: "P01", source: "QEMU 663e6c1df8, in 2.5, which brought postcopy",
        mechanism: "a sync behind the switch finds marks of pages that were sent since, and they are sent again, though the guest runs on them", effect: HostCrash,
        steps: ["P is dirty at the switch: it is sent, and placed where the guest runs", "a sync merges the log, which still has P's mark", "P is sent again: the destination cannot place it"],
        fix: "once the guest is elsewhere nothing is synced any more" },
    /// The thread of the pages that were asked for ends with the stream.
    LaneQuitsEarly { name: "lane-quits-early", id: "P02", source: "QEMU 7.1 to 8.1, fixed in 8.2 by cf02f29e1e",
        mechanism: "the destination reads the end of the main channel and stops the thread of the other one, though pages that were asked for are still on it", effect: Loss,
        steps: ["P is asked for, and sent on the channel of its own", "the main channel's end is read: the other channel's thread is told to quit", "P never arrives: it is zeros"],
        fix: "the end waits until every page that was asked for is there" },
    /// The devices are loaded before the channel is there that their pages come on.
    LaneAfterDevices { name: "lane-after-devices", id: "P06", source: "QEMU 8.0 to 8.2, fixed in 9.0 by 7afbdada7e",
        mechanism: "loading the devices touches a page that has not arrived, and the thread that waits for it is the one that would accept the channel it comes on", effect: Deadlock,
        steps: ["the destination loads the balloon and looks at a ring that has not arrived",
            "the source sends the page on the channel of pages that are asked for",
            "nobody accepts that channel: the destination waits for the page, and the page for the destination"],
        fix: "the destination has the channel before it loads the devices" },
    /// The answer that the devices are loaded is waited for on a dead link.
    LostPong { name: "lost-pong", id: "P07", source: "QEMU 10.2 and 11.0, fixed in 11.1 by 1ae7d9c30d",
        mechanism: "the source waits for the PONG behind the package, and a link that breaks meanwhile does not wake it", effect: Stall,
        steps: ["all pages are sent, the source waits for the PONG",
            "the destination has loaded the devices, and the link breaks",
            "the source waits on: its guest is stopped, and nobody can recover or end the migration"],
        fix: "the end of the return path wakes whoever waits for the PONG" },
    /// A postcopy is recovered whose pages are gone.
    RecoverReleased { name: "recover-released", id: "P08", source: "QEMU 97ca211c62, in 3.0, which brought recovery",
        mechanism: "with release-ram the source drops a page as soon as it has sent it; a link that breaks takes pages along that nobody has any more, and a recovery sends them as zeros", effect: Loss,
        steps: ["the source sends P and drops it", "the link breaks before P arrives", "the link is mended, the destination asks for P again, and gets a page of zeros"],
        fix: "with release-ram a paused migration cannot be resumed" },

    // ---- 3G: device writers
    /// The last look at a backend's log finds nothing.
    VhostFinalSyncSkipped { name: "vhost-final-sync-skipped", id: "V01", source: "QEMU 5c0ba1be37, fixed in 2.11",
        mechanism: "when a vhost device stops, the size of its log is set to 0 before the log is merged for the last time", effect: Loss,
        steps: ["a page is sent, and the round's sync merges the backend's log", "the backend writes the page: a bit in its log", "the VM stops, the backend with it, and the log is dropped unread"],
        fix: "the log is merged first, and its size set to 0 behind that" },
    /// Nobody waits until a backend logs.
    VhostLogUnacknowledged { name: "vhost-log-unacknowledged", id: "V02", source: "QEMU 699f2e535d, fixed in 6.2",
        mechanism: "the order to log is posted to a vhost-user backend, and the migration goes on before the backend has read it", effect: Loss,
        steps: ["the migration thread posts the order to log, and sends the page", "the backend writes the page, and logs nothing yet", "the backend reads the order: from here on it logs"],
        fix: "the order asks for an answer, and the migration begins behind it" },

    /// The queues of every pair are taken for those of the first.
    VhostQueueIndex { name: "vhost-queue-index", id: "V03", source: "QEMU with vhost-user, 25a2a920dd, fixed in 2.5",
        mechanism: "when the log is switched on, the rings of every queue pair are told to the backend under the indices of the first pair: the first pair's are overwritten, and those of the others are never logged", effect: Loss,
        steps: ["the log is switched on: pair 0 and pair 1 are both told as queues 0 and 1", "the page with the used ring of queue 2 is sent", "the backend uses a buffer of queue 2, and logs nothing"],
        fix: "the index of each queue is asked of the backend's own numbering" },
    /// The log is not where the backend was told.
    VhostLogBase { name: "vhost-log-base", id: "V04", source: "QEMU e05ca82002, fixed in 2.3",
        mechanism: "a device that starts while a migration is under way hands its log itself over, where the call wants a pointer to its address: the backend takes what stands in the log's first word for the log's place", effect: Loss,
        steps: ["a migration is under way, and the backend is started: it is told a wrong base for its log",
            "it writes a page that was sent, and marks it there, where nobody looks",
            "the VMM merges its log, in which nothing stands"],
        fix: "the log's address is passed by reference, as the call wants it" },
    /// A mark of the log is taken for an address of RAM.
    VhostGuestAddress { name: "vhost-guest-address", id: "V05", source: "QEMU 7b67b18adf, fixed in 0.15",
        mechanism: "a bit of the backend's log stands for a guest-physical page, and is set in D as it is, where RAM blocks have addresses of their own", effect: Loss,
        steps: ["a RAM block lies elsewhere in D than in the guest's address space", "the backend writes a page of it that was sent", "the sync marks another page in D"],
        fix: "the address is translated before D is marked" },
    /// The used ring's address is taken for the guest's.
    VhostUsedRingIova { name: "vhost-used-ring-iova", id: "V05", source: "QEMU 345cc1cbcb, fixed in 8.0",
        mechanism: "with an IOMMU the address of a used ring is the device's: taken for a guest-physical one, it lies behind the end of the log", effect: HostCrash,
        steps: ["the guest maps a ring: devices reach it below 4 GiB", "the backend writes, and its log has a bit", "the sync looks at the log once more for the used ring, far behind its end"],
        fix: "the address is translated before the log is looked at" },
    /// A queue that nobody has set up makes the log endless.
    VhostLogSize { name: "vhost-log-size", id: "V06", source: "QEMU 240e647a14, fixed in 4.1",
        mechanism: "the log's size comes from the last byte of each used ring: of a ring at 0 without a length, as a queue has it that the guest has not set up, that is byte -1", effect: HostCrash,
        steps: ["the device has two queues, the guest uses one", "a migration starts: the log has to reach to the end of the second used ring", "that is at 2^64 - 1, and the allocation fails"],
        fix: "queues that are not set up do not count" },
    /// The avail event is written and not marked.
    AvailEventUnmarked { name: "avail-event-unmarked", id: "V07", source: "QEMU 3cdf847329, fixed in 2.9 before its release",
        mechanism: "a device in the VMM writes the avail event of a queue through a cached mapping, and the dirty log is not told", effect: Loss,
        steps: ["the page with the ring is sent", "the device writes its avail event, and nothing else of the page", "the destination's ring has the old one: the driver there sees no reason to kick"],
        fix: "the write through the cache is followed by the mark" },
    /// A device's DMA is not marked.
    DmaUnmarked { name: "dma-unmarked", id: "V08", source: "QEMU bc9ca5958d (macio, 2.7), 45e576c745 (TPM, 6.2) and e37a0ef460 (TPM, 7.1)",
        mechanism: "a device model writes guest memory through a host pointer, and marks nothing, or the wrong range", effect: Loss,
        steps: ["the page is sent", "the device writes it through a pointer", "D has no mark of it"],
        fix: "the device marks the range that it wrote, by the offset in its region" },
    /// What the hardware noted goes with the mapping.
    VfioUnmapDropsDirty { name: "vfio-unmap-drops-dirty", id: "V09", source: "QEMU f051dbeb91 and 6e360c0617, fixed in 11.0; with the older interface, in 5.2 by 9e7b0442f2",
        mechanism: "an assigned device's writes are noted by its addresses; when the guest unmaps one, the notes go with the mapping, unasked", effect: Loss,
        steps: ["the device writes a page that was sent",
            "the guest is done with the buffer, and unmaps it",
            "the next sync asks about the mappings that are left, and the page is in none of them"],
        fix: "the dirty bits of a range are asked for before it is unmapped" },

    /// A reset's firmware leaves no mark.
    RomResetUnmarked { name: "rom-reset-unmarked", id: "-", source: "QEMU, cpu_physical_memory_write_rom() before 1.3",
        mechanism: "images that a reset of the machine puts into memory again are copied there without a mark in D", effect: Loss,
        steps: ["the guest writes a page of its firmware's data, and the page is sent", "the machine is reset: the firmware's image is copied over the page, unmarked", "the destination starts with the guest's bytes in its firmware"],
        fix: "The copy marks what it writes, as any device's write does. It was made to do so for the sake of translated code; the loss is derived from the sources." },
    /// A section's first block is looked for with the wrong divisor.
    DiscardIndex { name: "discard-index", id: "V10", source: "QEMU b11cf32e07, fixed in 8.0",
        mechanism: "virtio-mem divides a section's offset by the number of its blocks, not by their size: in a section that does not begin where the region does, all is taken for discarded, and a sync does not ask what the device wrote there",
        effect: Loss,
        steps: ["a block of the region's second half is plugged: the assigned device's listener hears of it, and maps it", "the device writes P of that block behind P's sending", "the sync has the populated parts of the section replayed: there are none, and the note about P is never asked for"],
        fix: "the offset is divided by the size of a block" },

    // ---- 3H: convergence, liveness
    /// What is exactly at the threshold is sent without another look.
    SwitchoverOnEquality { name: "switchover-on-equality", id: "C01", source: "QEMU 10.1 to 11.0, fixed in 11.1 by 455a6167f2",
        mechanism: "the dirty log is asked anew when less than the threshold is left, and the VM is stopped when no more than the threshold is left: at equality the switchover goes by a count that is a whole round old",
        effect: Rule, steps: ["the migration thread sends until exactly the threshold is left: by a count that the last sync made", "vCPU 0 has meanwhile written a thousand pages that no sync has seen", "the migration thread finds: not below the threshold, so no sync; not above it, so the VM stops, with a thousand pages more to send than the downtime allows"],
        fix: "both comparisons include equality, so a switchover always follows a sync of its own" },
    /// The first period of auto-converge measures nothing.
    FirstPeriodUnmeasured { name: "first-period-unmeasured", id: "C02", source: "QEMU 9884db2814, d693c6f10f and b4a3c64b16, fixed in 2.10",
        mechanism: "what was sent by the end of the first period is taken for what had been sent at its beginning: nothing seems to have gone out in it, and whatever was dirtied is too much",
        effect: WrongStatistics, steps: ["the migration thread sends a whole first round, while vCPU 0 writes one page", "its sync ends the first period: no start of the account is noted, so all that was sent counts as sent before", "one page dirtied, nothing sent: a period too high, and the guest is slowed down one period early"],
        fix: "the account starts at zero with the migration, as the bytes do" },
    /// The rate limit is kept on a dead link.
    RateLimitOfDeadLink { name: "rate-limit-of-dead-link", id: "C05", source: "QEMU 773861274a, fixed in 5.1",
        mechanism: "a socket that is shut counts as one whose share of the rate is used up, and who waits for the next share does not look for an error: that share never comes",
        effect: Stall, steps: ["the migration thread sends; the link is shut, by a cancel or by the network", "it looks at the rate limit: of a shut link everything is used up, so it sleeps to the window's end", "it looks again, and sleeps again; cancel has been given, and never ends"],
        fix: "whoever is held back by the rate limit looks for an error of the stream first" },

    /// What an operator tells of the link is divided before it is used.
    ToldBandwidthInThousands { name: "told-bandwidth-in-thousands", id: "C04", source: "QEMU b6a6d91b9e, fixed in 11.0",
        mechanism: "the bandwidth that the operator tells for the switchover is divided by 1000 as an integer, to have it per millisecond: below 1000 bytes a second nothing is left, and no threshold",
        effect: WrongStatistics, steps: ["the operator tells that the link will carry 999 bytes a second, and allows a long downtime", "the migration thread makes 0 bytes a millisecond of it: the threshold is 0", "a sync leaves a page, which would take four seconds; another round begins, and so for ever"],
        fix: "the quotient is taken in floating point" },
    /// A vCPU that dirties too much sleeps until somebody kicks it.
    LimitSleepCutShort { name: "limit-sleep-cut-short", id: "C07", source: "QEMU 7.1 to 8.1, softmmu/dirtylimit.c; reported in September 2023",
        mechanism: "the sleep at a full ring is a usleep, which any signal ends: whoever measures how fast vCPUs dirty pages kicks them all first, and so does each sync",
        effect: Rule, steps: ["vCPU 1 has filled its ring, and is to sleep for a second", "the meter kicks all vCPUs to reap their rings: the sleep is over", "the vCPU dirties on, and the meter finds it too fast: a longer sleep, which the next kick ends"],
        fix: "the sleep goes on behind a signal for what is left of it" },

    // ---- 3I: snapshots

    /// Pages that nobody touched are not protected.
    SnapshotHoles { name: "snapshot-holes", id: "S01", source: "QEMU eeccb99c9d, fixed in 6.0 before its release",
        mechanism: "write protection skips pages that are not populated: the first write to one is not noticed, and is saved", effect: Loss,
        steps: ["nobody has touched P when memory is write-protected", "the guest writes to P, and does not fault", "P is saved: with what was written after the snapshot's moment"],
        fix: "all memory is populated before it is protected" },
    /// The end of the devices' state stays in a buffer.
    SnapshotNoFlush { name: "snapshot-no-flush", id: "S03", source: "QEMU ecb23efea0, fixed in 6.0 before its release",
        mechanism: "the buffer with the devices' state is taken before the stream in front of it is flushed: its end is missing", effect: Rule,
        steps: ["the devices are saved into a buffer, the last of it still in the stream's own",
            "the buffer is appended to the snapshot",
            "the snapshot is reported as complete, and cannot be loaded"],
        fix: "the stream is flushed before its buffer is taken" },
    /// A part of a block is populated only as far as it is long.
    PopulatedInPart { name: "populated-in-part", id: "S02", source: "QEMU f7b9dcfbcf (6.2), fixed in 8.0 by 5f19a44919",
        mechanism: "the loop that populates memory before it is protected ends at the part's length, not at the part's end: of a plugged part that lies within its RAM block the end, or all, stays unpopulated, and the protection skips it", effect: Loss,
        steps: ["P is in the second of two virtio-mem blocks, of which the first is not plugged; nobody has touched it", "the loop begins at the part's offset, which is not below its length: nothing is populated, and P is not protected", "the guest writes P, and P is saved with what was written after the snapshot's moment"],
        fix: "the loop ends at offset plus length" },

    // ---- locks: not in the catalogue's sections, from the history of QEMU's migration
    /// RCU's grace period is waited for with the big lock.
    SynchronizeUnderBql { name: "synchronize-under-bql", id: "L01", source: "QEMU 60be634079, fixed in 2.5",
        mechanism: "the migration's cleanup waits, with the big lock, until nobody is in an RCU section any more; a vCPU in such a section, on its way to a device's register, waits for the big lock", effect: Deadlock,
        steps: ["the main loop takes the big lock to clean up", "vCPU 0 leaves the guest at a device's register: it enters an RCU section and waits for the big lock", "the main loop waits for the end of vCPU 0's section before it frees the bitmaps"],
        fix: "the bitmaps are freed behind the next grace period, by call_rcu(), and nobody waits for it" },
    /// RCU's grace period is waited for inside of an RCU section.
    SynchronizeInside { name: "synchronize-inside", id: "L02", source: "QEMU d09a6fde15, fixed in 2.4",
        mechanism: "the end of the last slice waits for a grace period of RCU inside of an RCU section of its own", effect: Deadlock,
        steps: ["the migration thread enters an RCU section to send what is left", "all is sent: the bitmaps are to be freed once every section that began before has ended", "its own never ends: it waits for itself, with the big lock"],
        fix: "the section ends first" },

    // ---- 3J: other VMMs
    /// A snapshot is taken when the round of hints begins.
    SnapshotWhenAnswered { name: "snapshot-when-answered", id: "X02", source: "e2b-dev/infra, pull request 2552, of 2026",
        mechanism: "an orchestrator takes the guest for done when its command id has reached the host's: that is the moment when the driver has begun to hint", effect: Rule,
        steps: ["the host starts round 2", "the driver sends id 2, and begins to hint", "the guest's id is not below the host's: the VM is paused, its hints in the queue"],
        fix: "the round is over when the driver has sent its stop id, and the device has answered DONE" },
    /// DONE is said when a device is activated.
    DoneOnActivation { name: "done-on-activation", id: "X03", source: "Firecracker a8f5d78dc, fixed in 1.15",
        mechanism: "the device goes to DONE when the driver activates it, at boot, and not when it is restored: the configuration of a restored device says DONE, and no interrupt tells the driver to look", effect: Leak,
        steps: ["the driver hints, and keeps its pages: nobody has said DONE when the snapshot is taken", "the snapshot is restored; the device was activated long ago", "the restored guest waits for DONE with its free memory on a list, and each copy of it does"],
        fix: "the restored device is kicked: it goes to DONE then, and interrupts" },
    /// A report is not cut where its memory region ends.
    RegionOverrun { name: "region-overrun", id: "X05", source: "Cloud Hypervisor 326cd8807, fixed in 52.0",
        mechanism: "of a reported range only the start is looked up: a hole is punched into the region's file for all of its length, and the advice that follows fails, which ends the device's thread and with it the VMM", effect: HostCrash,
        steps: ["a memory zone of 130 MiB lies before another one", "the guest, which knows of no zones, reports a free block of 4 MiB that begins 2 MiB before the end of the first", "the hole reaches 2 MiB beyond the zone's memory, into whatever its file holds there; then the thread ends"],
        fix: "the length is cut at the region's end: reports are advice, and a part of them may be taken" },
    /// What the VMM writes itself stands in no log.
    VmmWritesUntracked { name: "vmm-writes-untracked", id: "X06", source: "Cloud Hypervisor, issue 2458, fixed in 2021",
        mechanism: "dirty pages are those that KVM reports, and KVM reports what vCPUs write: the VMM's own writes, rings and DMA, stand in no log", effect: Loss,
        steps: ["the first round sends the page", "a device model in the VMM writes the page", "KVM's log does not have it, and nobody asks anybody else"],
        fix: "the VMM's memory mappings keep an atomic bitmap of their own, which each round takes together with KVM's" },
}
