//! How pages are written: which encodings a migration uses, and what limits their combination.
//!
//! QEMU: migration/options.c migrate_caps_check(), qapi/migration.json MigrationCapability and ZeroPageDetection.

use std::sync::Arc;

use crate::event::Pfn;
use crate::page::{DATA_RECORD_BYTES, DELTA_HEADER_BYTES, PageContents, ZERO_RECORD_BYTES};
use crate::step::Ctx;

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

/// How a channel's sender compresses a packet's pages (QEMU: `multifd-compression`). Nothing is compressed here: what counts is which way a page goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// By a library.
    Zlib,
    /// By an accelerator (QEMU: migration/multifd-qpl.c, multifd-qatzip.c).
    Qpl,
}

impl Compression {
    /// Every way.
    pub const ALL: &'static [Compression] = &[Compression::None, Compression::Zlib, Compression::Qpl];

    /// Returns QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zlib => "zlib",
            Compression::Qpl => "qpl",
        }
    }
}

/// What the destination's memory holds before anything arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationRam {
    /// Something: firmware, or what a guest left there.
    Used,
    /// Zeros.
    Fresh,
}

impl DestinationRam {
    /// Every kind.
    pub const ALL: &'static [DestinationRam] = &[DestinationRam::Used, DestinationRam::Fresh];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            DestinationRam::Used => "used",
            DestinationRam::Fresh => "fresh",
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
    /// Channels beside the main one; 0: pages go through that (QEMU: `multifd`, `multifd-channels`).
    pub channels: u8,
    /// How the channels compress.
    pub compression: Compression,
    /// Pages are read when they leave, not when they are queued (QEMU: `zero-copy-send`).
    pub zero_copy: bool,
    /// The stream is a file in which each page has its place (QEMU: `mapped-ram`).
    pub mapped_ram: bool,
    /// What the destination starts from.
    pub destination_ram: DestinationRam,
    /// A page whose memory is broken: who reads it is killed (Linux: mm/memory-failure.c).
    pub poisoned: Option<Pfn>,
}

impl Default for EncodingOptions {
    /// One channel, pages as they are, zero pages found by the migration thread. QEMU since 9.0 looks for them in the senders, which without
    /// channels is the same.
    fn default() -> Self {
        Self {
            zero_pages: ZeroPages::Legacy,
            xbzrle_pages: 0,
            channels: 0,
            compression: Compression::None,
            zero_copy: false,
            mapped_ram: false,
            destination_ram: DestinationRam::Used,
            poisoned: None,
        }
    }
}

impl EncodingOptions {
    /// Returns what QEMU would refuse: an option, by its name in scenarios, and why (QEMU: migration/options.c migrate_caps_check()).
    pub fn refused(&self, postcopy: bool) -> Option<(&'static str, &'static str)> {
        let compresses = self.compression != Compression::None;
        match () {
            () if postcopy && self.mapped_ram => Some(("mapped_ram", "postcopy asks for pages, and a file does not answer")),
            () if self.xbzrle_pages > 0 && self.channels > 0 => Some(("xbzrle", "channels carry no differences")),
            () if self.xbzrle_pages > 0 && self.mapped_ram => Some(("xbzrle", "a file of pages holds no differences")),
            () if compresses && self.channels == 0 => Some(("multifd_compression", "only channels compress")),
            () if compresses && self.mapped_ram => Some(("multifd_compression", "a page in its place is not compressed")),
            () if self.zero_copy && self.channels == 0 => Some(("zero_copy", "only channels send without a copy")),
            () if self.zero_copy && compresses => Some(("zero_copy", "what is compressed is copied")),
            () if self.zero_copy && self.mapped_ram => Some(("zero_copy", "a file is written with a copy")),
            () => None,
        }
    }

    /// Returns whether the migration thread looks for zero pages.
    pub fn thread_finds_zeros(&self) -> bool {
        match self.zero_pages {
            ZeroPages::None => false,
            ZeroPages::Legacy => true,
            ZeroPages::Multifd => self.channels == 0,
        }
    }

    /// Whoever reads a page whose memory is broken dies of it.
    pub(crate) fn die_of(&self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        if self.poisoned == Some(pfn) {
            ctx.crash(format!("SIGBUS: page {pfn} is poisoned"));
        }
    }

    /// Returns whether a page arrives as it was read, by the main channel.
    pub(crate) fn is_plain(&self) -> bool {
        self.xbzrle_pages == 0 && self.channels == 0 && !self.mapped_ram
    }

    /// Returns whether a channel's sender looks for zero pages.
    pub fn senders_find_zeros(&self) -> bool {
        self.zero_pages == ZeroPages::Multifd && self.channels > 0
    }
}

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
