//! The memory balloon device (VIRTIO 1.2 §5.5).

/// Device type (§5.5.1).
pub const DEVICE_ID: u32 = 5;

/// Feature bits (§5.5.3).
pub mod feature {
    /// The host wants to be told before a page is taken back.
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    /// A queue for memory statistics exists.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The guest may take pages back when it is out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// A queue for free page hints exists.
    pub const FREE_PAGE_HINT: u64 = 1 << 3;
    /// The guest tells what it writes into free pages.
    pub const PAGE_POISON: u64 = 1 << 4;
    /// A queue for free page reports exists.
    pub const PAGE_REPORTING: u64 = 1 << 5;
    /// The driver waits for a hint's used buffer before the page goes on its list (proposal of January 2026).
    pub const HINT_WAIT_ON_ACK: u64 = 1 << 6;
}

/// Feature bits of interfaces that were posted and not merged. They collide with [`feature`]: a dialect must be agreed on.
pub mod seed_feature {
    /// Inflated and deflated pages are told as ranges (v6).
    pub const PAGE_RANGE: u64 = 1 << 3;
    /// Pages are told as chunks (v8: CHUNK_TRANSFER, v10: BALLOON_CHUNKS).
    pub const CHUNK_TRANSFER: u64 = 1 << 3;
    /// The host asks for the unused pages through a queue (v6, v8: HOST_REQ_VQ, v10: MISC_VQ).
    pub const HOST_REQ_VQ: u64 = 1 << 4;
}

/// The host's requests and the driver's responses in the interfaces with a request queue (v6, v8, v10). Little-endian.
pub mod request {
    /// Size of a request: le16 command, three reserved le16, le64 id.
    pub const REQUEST_BYTES: u64 = 16;
    /// The command that asks for unused pages (BALLOON_GET_UNUSED_PAGES).
    pub const GET_UNUSED_PAGES: u16 = 0;
    /// The same in a response, whose command is a byte.
    pub const RESPONSE_GET_UNUSED_PAGES: u8 = 0;
    /// Size of a response's header: command, flag, le16 id, le32 length of the data in bytes. Inflated and deflated ranges have it, too. With the
    /// correction of S8 the whole id follows on the request queue, as le64.
    pub const RESPONSE_HEADER_BYTES: u64 = 8;
    /// More responses follow (BALLOON_FLAG_CONT).
    pub const FLAG_CONT: u8 = 0;
    /// The last response to a request (BALLOON_FLAG_DONE).
    pub const FLAG_DONE: u8 = 1;
    /// Bits of a packed word that hold a length in pages; 0: the next word is the length (v6: VIRTIO_BALLOON_NR_PFN_BITS).
    pub const PACKED_LEN_BITS: u32 = 12;
    /// The same as a mask.
    pub const PACKED_LEN_MASK: u64 = (1 << PACKED_LEN_BITS) - 1;
}

/// Offsets in the configuration space, bytes (§5.5.4). Little-endian, also for legacy devices.
pub mod config {
    /// Pages that the host wants in the balloon, 4 KiB each.
    pub const NUM_PAGES: u64 = 0;
    /// Pages that the driver holds, 4 KiB each.
    pub const ACTUAL: u64 = 4;
    /// The id that a hint round opens with.
    pub const FREE_PAGE_HINT_CMD_ID: u64 = 8;
    /// What the guest writes into free pages.
    pub const POISON_VAL: u64 = 12;
    /// Size of the whole space, bytes.
    pub const BYTES: u64 = 16;
}

/// `free_page_hint_cmd_id`: the host wants no hints (§5.5.6.5).
pub const CMD_ID_STOP: u32 = 0;
/// `free_page_hint_cmd_id`: the hinted pages may be used again.
pub const CMD_ID_DONE: u32 = 1;
/// The smallest id of QEMU's rounds; the first round uses the next (QEMU: include/hw/virtio/virtio-balloon.h).
pub const CMD_ID_MIN: u32 = 0x8000_0000;

/// log2 of the balloon's page size: always 4 KiB, whatever the guest's pages are.
pub const PFN_SHIFT: u32 = 12;
/// Pages told in one inflate or deflate buffer (Linux: VIRTIO_BALLOON_ARRAY_PFNS_MAX).
pub const ARRAY_PFNS_MAX: usize = 256;
/// Order of a hinted block, 1024 pages (Linux: VIRTIO_BALLOON_HINT_BLOCK_ORDER).
pub const HINT_BLOCK_ORDER: u32 = 10;

/// Queue indices when every queue exists (§5.5.2). Linux and QEMU number densely: an absent queue leaves no gap.
pub mod queue {
    /// The guest gives pages.
    pub const INFLATE: u16 = 0;
    /// The guest takes pages back.
    pub const DEFLATE: u16 = 1;
    /// Memory statistics.
    pub const STATS: u16 = 2;
    /// Free page hints.
    pub const FREE_PAGE: u16 = 3;
    /// Free page reports.
    pub const REPORTING: u16 = 4;
}

/// Queue sizes that QEMU offers (hw/virtio/virtio-balloon.c virtio_balloon_device_realize()).
pub mod queue_size {
    /// Inflate, deflate and statistics.
    pub const DEFAULT: u16 = 128;
    /// Free page hints.
    pub const FREE_PAGE: u16 = 1024;
    /// Free page reports; also the capacity of one report.
    pub const REPORTING: u16 = 32;
}

/// Statistics tags (§5.5.6.3); a record is `{ le16 tag, le64 value }`, packed, 10 bytes.
pub mod stat {
    /// Bytes swapped in.
    pub const SWAP_IN: u16 = 0;
    /// Bytes swapped out.
    pub const SWAP_OUT: u16 = 1;
    /// Major faults.
    pub const MAJFLT: u16 = 2;
    /// Minor faults.
    pub const MINFLT: u16 = 3;
    /// Bytes unused.
    pub const MEMFREE: u16 = 4;
    /// Bytes in total.
    pub const MEMTOT: u16 = 5;
    /// Bytes available without swapping.
    pub const AVAIL: u16 = 6;
    /// Bytes in caches.
    pub const CACHES: u16 = 7;
    /// Out-of-memory kills.
    pub const OOM_KILL: u16 = 10;
    /// Allocations that had to wait for reclaim.
    pub const ALLOC_STALL: u16 = 11;
    /// Pages scanned in the background.
    pub const ASYNC_SCAN: u16 = 12;
    /// Pages scanned by those who allocate.
    pub const DIRECT_SCAN: u16 = 13;
    /// Pages reclaimed in the background.
    pub const ASYNC_RECLAIM: u16 = 14;
    /// Pages reclaimed by those who allocate.
    pub const DIRECT_RECLAIM: u16 = 15;
    /// A bit for each tag that there is (8 and 9 count huge pages, which the guest here has none of).
    pub const KNOWN: u32 = 0xffff;
    /// Size of a record, bytes.
    pub const RECORD_BYTES: usize = 10;
}
