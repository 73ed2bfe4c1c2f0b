//! The registry of faults: documented defects that can be switched on.
//!
//! All are off by default: the model is then the system as its projects ship it, flaws included. A fault's id names the entry of the
//! catalogue of real bugs that it re-creates, where there is one.

use std::collections::BTreeSet;

use wire::switch;

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
    Crash,
    /// A rule is broken that costs nobody a page.
    Rule,
    /// Somebody waits for ever.
    Hang,
}

impl Effect {
    /// Returns the effect's name.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Loss => "loss",
            Effect::OverSend => "over-send",
            Effect::Leak => "leak",
            Effect::Crash => "crash",
            Effect::Rule => "rule",
            Effect::Hang => "hang",
        }
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $variant:ident { name: $name:literal, id: $id:literal, source: $source:literal, mechanism: $mechanism:literal, effect: $effect:ident $(, guest: $guest:expr)? },)*) => {
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
    /// A balloon page is told by a mapping that may be freed.
    MappingDeref { name: "mapping-deref", id: "B2", source: "Linux d6d86c0a7f8d, fixed in 3.18",
        mechanism: "compaction follows a page's mapping without a lock or a reference: a driver that is removed meanwhile has freed it",
        effect: Crash, guest: wire::switch::fault::MAPPING_DEREF },
    /// The balloon's list is walked without its lock.
    DequeueNoLock { name: "dequeue-no-lock", id: "B4", source: "Linux 21ea9fb69e7c, fixed in 4.5",
        mechanism: "deflation chooses its next page while compaction takes that page off the list, and goes on along compaction's list",
        effect: Crash, guest: wire::switch::fault::DEQUEUE_NO_LOCK },
    /// A page that changes zones leaves its count behind.
    NoZoneFixup { name: "no-zone-fixup", id: "B13", source: "Linux 63341ab03706, fixed in 5.5",
        mechanism: "a balloon page that moves to another zone takes no managed page along: deflating it adds one to the wrong zone",
        effect: Rule, guest: wire::switch::fault::NO_ZONE_FIXUP },
    /// An inflated page is taken off a list that it is not on.
    DoubleListDel { name: "double-list-del", id: "B19", source: "Linux 418a3ab1e778, fixed by dd4229060957 in 5.3",
        mechanism: "enqueueing a single page deletes it from the caller's list once more than the caller did",
        effect: Crash, guest: wire::switch::fault::DOUBLE_LIST_DEL },
    /// What a moved page is, is asked too late.
    CheckAfterUnlock { name: "check-after-unlock", id: "B20", source: "Linux e0a352fabce6, fixed in 5.0; visible before 4.8",
        mechanism: "whether a page that was moved to is a balloon's is asked behind its unlock: deflated by then, it goes to the LRU",
        effect: Crash, guest: wire::switch::fault::CHECK_AFTER_UNLOCK },
    /// An isolated page is taken off the balloon's list.
    DequeueIsolated { name: "dequeue-isolated", id: "B27", source: "Linux 6.1.160, the split of balloon_page_delete()",
        mechanism: "a page that moves is deleted from a list as if it were on the balloon's: it is on compaction's",
        effect: Crash, guest: wire::switch::fault::DEQUEUE_ISOLATED },
    /// A page that nothing moved to is not readied for freeing.
    CompactFreeNoprep { name: "compact-free-noprep", id: "B37", source: "Linux 6.12.97 and 6.12.117",
        mechanism: "compaction takes a page back that it did not use, without the checks and resets of a free: it keeps its reference",
        effect: Crash, guest: wire::switch::fault::COMPACT_FREE_NOPREP },
}

/// Faults that are switched on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(pub BTreeSet<Fault>);

impl Faults {
    /// Returns whether a fault is on.
    pub fn on(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
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
}
