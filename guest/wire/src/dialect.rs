//! Which interface driver and device speak: the merged one, or one that was posted before it and never merged.
//!
//! Names are those of the series in which the interface was posted; the sources stand at each. The older ones use feature bits that mean
//! something else today ([`crate::balloon::seed_feature`]), so both sides must be told.

macro_rules! dialects {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:literal, $name:literal,)*) => {
        /// An interface of the balloon driver.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Dialect {
            $($(#[doc = $doc])* $variant = $number,)*
        }

        impl Dialect {
            /// Every dialect, in the order of the numbers.
            pub const ALL: &'static [Dialect] = &[$(Dialect::$variant,)*];

            /// Returns the number that stands in [`crate::platform::BootInfo::dialect`].
            pub const fn number(self) -> u32 {
                match self { $(Dialect::$variant => $number,)* }
            }

            /// Returns the dialect of a number.
            pub const fn from_number(number: u32) -> Option<Dialect> {
                match number { $($number => Some(Dialect::$variant),)* _ => None }
            }

            /// Returns the name in scenarios.
            pub const fn name(self) -> &'static str {
                match self { $(Dialect::$variant => $name,)* }
            }

            /// Returns the first line of the dialect's documentation.
            pub const fn about(self) -> &'static str {
                match self { $(Dialect::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

dialects! {
    /// The merged driver of Linux 6.12: blocks are allocated, and hinted under a command id.
    Hint = 0, "hint",
    /// `mark_unused_pages` and a request queue; packed ranges (L. Li, v6, December 2016).
    V6 = 1, "v6",
    /// `record_unused_pages`; chunks of two words (W. Wang, v8, March 2017).
    V8 = 2, "v8",
    /// `report_unused_page_block`: a cursor in a free list (W. Wang, v10, May 2017).
    V10 = 3, "v10",
    /// `walk_free_mem_block`: a callback for each block, under the zone's lock (W. Wang, v13, August 2017).
    V13 = 4, "v13",
    /// The same with a stop that leaves the innermost loop alone (W. Wang, v16, September 2017).
    V16 = 5, "v16",
    /// `get_from_free_page_list`: an array of addresses (W. Wang, v33, June 2018).
    V33 = 6, "v33",
    /// Free blocks are unlinked, and the first holds the addresses of all (M. Wilcox in the discussion of v33).
    V33Thread = 7, "v33-thread",
    /// Free blocks are popped and used as the buffer for their addresses (M. Tsirkin in the discussion of v33).
    V33Pop = 8, "v33-pop",
    /// Plain allocation of the largest order; a count of such blocks says when to stop (L. Torvalds in the discussion of v33).
    V33Alloc = 9, "v33-alloc",
    /// The guest walks page frames and trusts reference counts (M. Hocko in the discussion of v12).
    PfnWalk = 10, "pfn-walk",
    /// The host walks the guest's memory map and trusts reference counts.
    HostWalk = 11, "host-walk",
    /// Free page reporting alone (merged in Linux 5.7).
    Report = 12, "report",
    /// Balloon page compaction as posted in June 2012 (R. Aquini); hints as the merged driver.
    Balloon2012 = 13, "balloon-2012",
}

impl Dialect {
    /// Returns whether a hinted block stays where it is, free for everybody: the guest promises nothing, and only tells what was free at
    /// one moment. Otherwise the driver owns the block until it gives it back.
    pub const fn hints_stay_free(self) -> bool {
        match self {
            Dialect::V6
            | Dialect::V8
            | Dialect::V10
            | Dialect::V13
            | Dialect::V16
            | Dialect::V33
            | Dialect::V33Thread
            | Dialect::V33Pop
            | Dialect::PfnWalk
            | Dialect::HostWalk => true,
            Dialect::Hint | Dialect::V33Alloc | Dialect::Report | Dialect::Balloon2012 => false,
        }
    }
}
