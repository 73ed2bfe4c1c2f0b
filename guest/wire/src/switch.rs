//! What of the guest can be switched: corrections of the posted interfaces' flaws, and bugs that Linux once had.
//!
//! Two sets of bits in [`crate::platform::BootInfo`]. All are 0 by default: an interface is as it was posted, and the rest as Linux ships it.

/// Bits of [`crate::platform::BootInfo::corrected`]: flaw n of the posted interfaces is bit n - 1.
pub mod correct {
    macro_rules! corrections {
        ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $word:literal,)*) => {
            $($(#[doc = $doc])* pub const $name: u64 = 1 << ($number - 1);)*
            /// Every correction: bit, name in scenarios, what it does.
            pub const ALL: &[(u64, &str, &str)] = &[$(($name, $word, concat!($($doc),*)),)*];
        };
    }

    corrections! {
        /// The precheck counts words, not blocks (v8).
        RECORD_PRECHECK = 1, "s1",
        /// A response buffer grows as a whole, header and all (v8).
        RECORD_GROWTH = 2, "s2",
        /// A run that does not fit the length field takes two words (v6, ranges of inflated pages).
        RANGE_LENGTH = 3, "s3",
        /// When the buffer cannot grow, nothing of a list is skipped, and the start zone is forgotten (v6, v8).
        PART_FILL = 4, "s4",
        /// The last response has no data descriptor when there is no data (v6).
        EMPTY_DONE = 5, "s5",
        /// Requests are served by a work, not in the interrupt (v6, v8).
        REQUEST_CONTEXT = 6, "s6",
        /// A request that is not understood is posted again, too (v6, v8).
        REQUEST_REPOST = 7, "s7",
        /// The whole id comes back (v6).
        REQUEST_ID = 8, "s8",
        /// Features that depend on others are cleared before FEATURES_OK and before the queues are counted (v6).
        LATE_CLEARING = 9, "s9",
        /// The zone's lock is released every 64 blocks (v6, v8, v33).
        IRQ_OFF_BOUND = 10, "s10",
        /// The queue's callback leaves completed responses alone (v6, v8, once requests are served by a work).
        RESPONSE_STOLEN = 11, "s11",
        /// A refused parameter ends the request (v6, v8).
        EINVAL_IS_SUCCESS = 12, "s12",
        /// A full array is told from an exact one, and the next call goes on behind it (v33).
        NO_CURSOR = 13, "s13",
        /// The cursor is checked against its list under the lock, and the walk starts anew when it is gone (v10).
        CURSOR = 14, "s14",
        /// A page without a mapping is no balloon page (2012).
        MAPPING_NULL = 15, "s15",
        /// Putting a page back does not depend on a debug option (2012).
        PUTBACK_IN_BUG_ON = 16, "s16",
        /// Isolation takes the page lock (2012).
        ISOLATE_UNLOCKED = 17, "s17",
        /// A balloon page that could not move goes back to its balloon, whatever the error (2012).
        FAILED_TO_LRU = 18, "s18",
        /// The array of frames is told under the lock that guards it (2012).
        PFNS_SHARED = 19, "s19",
        /// Each page knows its own balloon (2012).
        ONE_MAPPING = 20, "s20",
        /// Isolated balloon pages are not counted as file pages, and the result is reported (2012).
        ISOLATED_FILE = 21, "s21",
        /// Unlinked blocks leave the allocator's books, too (v33-thread).
        UNLINK_UNACCOUNTED = 22, "s22",
        /// Stop ends all loops (v16).
        STOP_INNER_LOOP = 23, "s23",
        /// The stop sign has a buffer of its own (v28 and before).
        STOP_IN_START = 24, "s24",
        /// An order that the allocator does not have is refused (v33; asked for by L. Torvalds).
        ORDER_UNCHECKED = 25, "order-check",
        /// Frames are free when the allocator's lists say so, not when nobody refers to them (pfn-walk).
        REFCOUNT_TRUSTED = 26, "pfn-walk",
        /// A guest that checks what it left in its free pages hints none of them (interfaces whose hints stay free).
        POISON_HINTED = 27, "n9",
        /// The first statistics are told behind DRIVER_OK, as the driver of 2026 does.
        STATS_PRIMED_EARLY = 28, "b26",
    }
}

/// Bits of [`crate::platform::BootInfo::faults`]: bug n of the catalogue is bit n - 1; a second bug under a number has a bit from 48 on.
pub mod fault {
    macro_rules! faults {
        ($($(#[doc = $doc:literal])* $name:ident = $bit:literal,)*) => {
            $($(#[doc = $doc])* pub const $name: u64 = 1 << $bit;)*
        };
    }

    faults! {
        /// Freezing resets the device with pages in the balloon, and forgets them.
        FREEZE_NO_DEFLATE = 0,
        /// Whether a page is the balloon's is read through its mapping, which may be freed meanwhile.
        MAPPING_DEREF = 1,
        /// Deflated pages are freed from the shared array, outside its lock.
        RELEASE_OUTSIDE_LOCK = 2,
        /// The balloon's list is walked without its lock.
        DEQUEUE_NO_LOCK = 3,
        /// Inflation allocates under the lock that the OOM notifier wants.
        ALLOC_UNDER_LOCK = 4,
        /// The number of frames rises before its slot is written.
        PFN_OFFBYONE = 5,
        /// DONE is handled in the configuration interrupt.
        DONE_IN_IRQ = 6,
        /// An absent queue is set up like the others.
        NULL_VQ_NAME = 7,
        /// A queue's callback is whatever lay on the stack.
        UNINIT_CALLBACK = 9,
        /// The shrinker counts blocks as if they were shifted the wrong way.
        SHRINK_COUNT = 10,
        /// The balloon deflates in a shrinker, not when memory is out.
        OOM_AS_SHRINKER = 11,
        /// A balloon page that moves to another zone leaves its managed page behind.
        NO_ZONE_FIXUP = 12,
        /// Removal does not free hinted blocks.
        REMOVE_NO_RETURN = 13,
        /// A probe that fails keeps what it had acquired.
        PROBE_LEAK = 14,
        /// The command id is exposed in big-endian bytes.
        CMDID_BE = 15,
        /// Pages are reported though they are poisoned and the device does not know it.
        REPORT_WITH_POISON = 16,
        /// A dequeued page is taken off its list twice.
        DOUBLE_LIST_DEL = 18,
        /// Whether a moved page is movable is asked behind its unlock.
        CHECK_AFTER_UNLOCK = 19,
        /// The isolated flag is cleared without an atomic operation.
        NONATOMIC_ISOLATED = 20,
        /// Reporting goes on while the system freezes.
        REPORT_NONFREEZABLE = 21,
        /// Indirect descriptors are accepted, and allocated while pages are reported.
        ALLOW_INDIRECT = 22,
        /// tell_host waits for a buffer that it could not add.
        TELL_HOST_IGNORE_ERR = 23,
        /// Works go on when the device is shut down.
        SHUTDOWN_NO_QUIESCE = 24,
        /// Isolated pages count as pages on the list.
        DEQUEUE_ISOLATED = 26,
        /// The first statistics buffer holds whatever was there.
        STATS_UNINIT = 27,
        /// The stop sign is written where the start lies.
        STOP_OVERWRITES_START = 28,
        /// A passing reference on a block's head leaks its other pages.
        SPEC_REF_LEAK = 29,
        /// Compaction captures a page that an interrupt frees.
        CAPTURE_IRQ = 30,
        /// Draining reads a list's count outside its lock.
        PCP_DRAIN_RACE = 31,
        /// Pages of HIGHATOMIC pageblocks come back to another type's list.
        PCP_WRONG_MT = 32,
        /// With one vCPU an interrupt frees pages into a list that is being changed.
        PCP_UP_NOIRQ = 33,
        /// Of several pageblocks that are taken only the first changes its type.
        COALESCE_ONE_BLOCK = 34,
        /// A freed page keeps its private word.
        PRIVATE_STALE = 35,
        /// Pages that compaction did not use are freed unprepared.
        COMPACT_FREE_NOPREP = 36,
        /// The transport's list of queues is walked without its lock.
        MMIO_VQ_LIST_RACE = 37,
        /// Collecting a buffer asks for interrupts that nobody wants.
        EVENT_IDX_ON_GETBUF = 38,
        /// A queue that could not be made stays on the device's list.
        VQ_ERR_UAF = 39,
        /// VERSION_1 is written back after the driver has validated.
        VALIDATE_BEFORE_V1 = 40,
        /// A configuration change during probe or freeze is forgotten.
        CONFIG_PENDING_LOST = 41,
        /// The shrinker subtracts what it has freed so far again and again.
        SHRINK_SCAN = 48,
        /// The other pages of such a block are freed twice.
        SPEC_REF_DOUBLE = 49,
    }
}
