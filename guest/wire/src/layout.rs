//! Where the guest keeps what an observer reads: `struct page`, zones, lists.
//!
//! The guest fills [`KernelInfo`] at [`crate::platform::KERNEL_INFO`] while it boots, as Linux fills `vmcoreinfo` for crash tools. Lists
//! are Linux's: a `list_head { next, prev }` of addresses, circular through its head.

/// Layout of `struct page` (Linux 6.12 x86-64, 64 bytes); offsets in bytes.
pub mod page {
    /// Size of an entry of the memory map.
    pub const BYTES: u64 = 64;
    /// u64: flags, bits of [`flag`].
    pub const FLAGS: u64 = 0x00;
    /// `list_head`: `lru`, `buddy_list`, `pcp_list`.
    pub const LRU: u64 = 0x08;
    /// u64: `mapping`; for a movable page the owner's operations | 2.
    pub const MAPPING: u64 = 0x18;
    /// u64: `index`; on a pcp list the migratetype.
    pub const INDEX: u64 = 0x20;
    /// u64: `private`; in the buddy lists the order.
    pub const PRIVATE: u64 = 0x28;
    /// u32: page type, [`TYPE_NONE`] or [`TYPE_BASE`] with a type's bit cleared.
    pub const PAGE_TYPE: u64 = 0x30;
    /// u32: reference count.
    pub const REFCOUNT: u64 = 0x34;

    /// No type.
    pub const TYPE_NONE: u32 = 0xffff_ffff;
    /// What a typed page has when the type's bit is cleared from it (the bits are inverted).
    pub const TYPE_BASE: u32 = 0xf000_0000;
    /// In the buddy lists.
    pub const TYPE_BUDDY: u32 = 0x80;
    /// Owned by the balloon (`Offline`).
    pub const TYPE_OFFLINE: u32 = 0x100;

    /// Bits of `flags`.
    pub mod flag {
        /// Page lock.
        pub const LOCKED: u64 = 1 << 0;
        /// While in the buddy lists: reported (alias of `uptodate`).
        pub const REPORTED: u64 = 1 << 2;
        /// On the LRU.
        pub const LRU: u64 = 1 << 4;
        /// Not managed by the allocator.
        pub const RESERVED: u64 = 1 << 12;
        /// Movable page: isolated (alias of `reclaim`).
        pub const ISOLATED: u64 = 1 << 18;
    }
}

/// Layout of a vCPU's page lists of a zone ([`ZoneInfo::pcp`]), behind its count.
pub mod pcp {
    /// Offset of the u32 lock word; 0 when free.
    pub const LOCK: u64 = 8;
    /// Offset of the first list's head, bytes. The lists of an order stand side by side, the smallest order first.
    pub const LISTS: u64 = 40;
    /// Lists of an order, one for each type that stays here.
    pub const TYPES: u64 = 3;
    /// Number of lists: orders 0..=3.
    pub const NR_LISTS: u64 = 4 * TYPES;
}

/// Orders of the buddy allocator: 0..=10.
pub const MAX_PAGE_ORDER: u32 = 10;
/// Number of orders.
pub const NR_PAGE_ORDERS: usize = 11;
/// Migratetypes: unmovable, movable, reclaimable, high-atomic, isolate.
pub const MIGRATE_TYPES: usize = 5;
/// log2 of a pageblock in pages.
pub const PAGEBLOCK_ORDER: u32 = 9;
/// Most zones.
pub const MAX_ZONES: usize = 2;

/// Addresses of one zone's structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ZoneInfo {
    /// First page frame.
    pub start_pfn: u64,
    /// Page frames spanned.
    pub spanned_pages: u64,
    /// Address of the u32 lock word; 0 when free.
    pub lock: u64,
    /// Address of `free_area[NR_PAGE_ORDERS]`: for each order `MIGRATE_TYPES` list heads (16 bytes each), then `nr_free` (u64).
    pub free_area: u64,
    /// Address of the u64 count of free pages (NR_FREE_PAGES).
    pub nr_free_pages: u64,
    /// Address of the u64 count of managed pages.
    pub managed_pages: u64,
    /// Address of the pageblocks' migratetypes, one byte each.
    pub pageblock_types: u64,
    /// Address of the per-CPU page lists: for each vCPU a structure of `pcp_stride` bytes that starts with its u64 count.
    pub pcp: u64,
    /// Distance of two CPUs' page lists, bytes.
    pub pcp_stride: u64,
}

/// Bytes of one `free_area` entry.
pub const FREE_AREA_BYTES: u64 = MIGRATE_TYPES as u64 * 16 + 8;

/// What the guest publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct KernelInfo {
    /// [`KernelInfo::MAGIC`] once all fields are valid.
    pub magic: u64,
    /// Address of `mem_map[0]`.
    pub mem_map: u64,
    /// Entries of the memory map.
    pub max_pfn: u64,
    /// Valid entries of `zones`.
    pub nr_zones: u64,
    /// The zones.
    pub zones: [ZoneInfo; MAX_ZONES],
    /// Address of the driver's `free_page_list` head; 0 before probe.
    pub free_page_list: u64,
    /// Address of the u64 `num_free_page_blocks`.
    pub num_free_page_blocks: u64,
    /// Address of the head of the balloon's page list.
    pub balloon_pages: u64,
    /// Address of the u64 `num_pages`, in 4 KiB pages.
    pub balloon_num_pages: u64,
    /// Address of the table of named task allocations: `NAMES` × { u64 pfn, u64 order }; pfn 0 when empty.
    pub task_names: u64,
    /// Entry of the stub that runs an injected store: stores RSI at \[RDI\], then says INJECT_END.
    pub inject_store: u64,
    /// Address of the u64 count of the balloon's pages that compaction holds; 0 before probe, and where the driver does not count them.
    pub balloon_isolated_pages: u64,
    /// Address of the u32 lock word of the balloon's list and of that count; 0 when free.
    pub balloon_pages_lock: u64,
}

impl KernelInfo {
    /// "kerninfo" in ASCII, little-endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"kerninfo");
}

const _: () = assert!(size_of::<ZoneInfo>() == 72);
const _: () = assert!(size_of::<KernelInfo>() == 32 + 144 + 64);
