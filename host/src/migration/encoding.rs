//! How pages are written: which encodings a migration uses, and what limits their combination.
//!
//! QEMU: migration/options.c migrate_caps_check(), qapi/migration.json MigrationCapability and ZeroPageDetection.

use std::sync::Arc;

use crate::page::PageContents;

/// Who looks for pages of zeros (QEMU: `zero-page-detection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZeroPages {
    /// Nobody: each page goes with its bytes.
    None,
    /// The migration thread, when it takes a page.
    Legacy,
    /// The channels' senders, when they read it; without channels as `Legacy`.
    Multifd,
}

impl ZeroPages {
    /// Every way.
    pub const ALL: &'static [ZeroPages] = &[ZeroPages::None, ZeroPages::Legacy, ZeroPages::Multifd];

    /// Returns QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            ZeroPages::None => "none",
            ZeroPages::Legacy => "legacy",
            ZeroPages::Multifd => "multifd",
        }
    }
}

/// The encodings of a migration. What QEMU refuses to combine is the caller's to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncodingOptions {
    /// Who looks for zero pages.
    pub zero_pages: ZeroPages,
    /// Pages of the cache for differences, a power of two; 0: none (QEMU: `xbzrle`, `xbzrle-cache-size`).
    pub xbzrle_pages: u32,
}

impl Default for EncodingOptions {
    /// One channel, pages as they are, zero pages found by the migration thread. QEMU since 9.0 looks for them in the senders, which without
    /// channels is the same.
    fn default() -> Self {
        Self { zero_pages: ZeroPages::Legacy, xbzrle_pages: 0 }
    }
}

impl EncodingOptions {
    /// Returns whether the migration thread looks for zero pages.
    pub fn thread_finds_zeros(&self) -> bool {
        match self.zero_pages {
            ZeroPages::None => false,
            ZeroPages::Legacy | ZeroPages::Multifd => true,
        }
    }
}

/// Length of a zero page's record: the header's 8 bytes and the byte (QEMU: migration/ram.c save_zero_page()).
pub const ZERO_RECORD_BYTES: u64 = 9;
/// Length of a data page's record (QEMU: save_normal_page()).
pub const DATA_RECORD_BYTES: u64 = 4096 + 8;
/// Length of what precedes a difference: the header, a byte that says how it is encoded, and its length (QEMU: save_xbzrle_page()).
pub const DELTA_HEADER_BYTES: u64 = 8 + 1 + 2;

/// What a page held when it was read, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Zeros, and that was found out.
    Zero,
    /// These bytes.
    Data(Arc<PageContents>),
    /// What differs from what was sent last.
    Delta(Arc<[u8]>),
    /// The copy that this slot of the cache holds when the record leaves the sender's buffer; only by a fault.
    Cached(usize),
    /// Nothing differs from what was sent last: nothing is written.
    Same,
}

impl Content {
    /// Returns whether it goes as a zero record.
    pub fn is_zero(&self) -> bool {
        match self {
            Content::Zero => true,
            Content::Data(_) | Content::Delta(_) | Content::Cached(_) | Content::Same => false,
        }
    }

    /// Returns the length of its record.
    pub fn record_bytes(&self) -> u64 {
        match self {
            Content::Zero => ZERO_RECORD_BYTES,
            Content::Data(_) | Content::Cached(_) => DATA_RECORD_BYTES,
            Content::Delta(delta) => DELTA_HEADER_BYTES + delta.len() as u64,
            Content::Same => 0,
        }
    }
}
