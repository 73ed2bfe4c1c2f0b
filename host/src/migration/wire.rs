//! What travels: records in the order in which they were sent.
//!
//! QEMU: migration/qemu-file.c and the socket behind it. The destination takes records one by one; the sender blocks when the socket's
//! buffer is full, whatever it holds.

use std::collections::VecDeque;

use crate::balloon::SavedDevice;
use crate::event::{CmdId, PageRange, Pfn};
use crate::migration::encoding::Content;

/// Page records that fit into the socket's buffer (Linux: net.core.wmem_default, 208 KiB, holds 52).
pub const WIRE_PAGES_MAX: usize = 52;
/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// A page.
    Page {
        /// Which.
        pfn: Pfn,
        /// Its contents.
        content: Content,
    },
    /// What is behind waits until everything before has arrived on all channels (QEMU: RAM_SAVE_FLAG_MULTIFD_FLUSH).
    Flush,
    /// The devices' state, and the end of the stream unless postcopy goes on behind it.
    Device {
        /// The command id that the balloon's configuration shows.
        id: CmdId,
        /// The balloon's state.
        state: SavedDevice,
        /// Whether the destination shall start its vCPUs.
        start: bool,
    },
    /// Pages that will be sent again: what came so far is to be dropped (QEMU: MIG_CMD_POSTCOPY_RAM_DISCARD).
    Discard {
        /// Which.
        range: PageRange,
    },
    /// The end of a stream that went on behind the devices' state.
    End,
}

/// The link's queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Wire {
    records: VecDeque<Record>,
}

impl Wire {
    /// Returns whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns whether a page must wait for the destination to take one.
    pub fn is_full(&self) -> bool {
        self.records.len() >= WIRE_PAGES_MAX
    }

    /// Returns the pages that are on their way, in order.
    pub fn pages(&self) -> impl Iterator<Item = Pfn> {
        self.records.iter().filter_map(|record| match record {
            Record::Page { pfn, .. } => Some(*pfn),
            Record::Flush | Record::Device { .. } | Record::Discard { .. } | Record::End => None,
        })
    }

    /// Returns whether a page that came now would be another one once all of this has arrived: it is on its way, or will be dropped.
    pub fn touches(&self, pfn: Pfn) -> bool {
        self.records.iter().any(|record| match record {
            Record::Page { pfn: page, .. } => *page == pfn,
            Record::Discard { range } => range.contains(pfn),
            Record::Flush | Record::Device { .. } | Record::End => false,
        })
    }

    /// Returns what arrives next.
    pub fn front(&self) -> Option<&Record> {
        self.records.front()
    }

    /// Takes what arrives next.
    pub fn pop(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// Sends a record.
    pub fn push(&mut self, record: Record) {
        self.records.push_back(record);
    }

    /// The link is shut: what is on its way is gone.
    pub fn shut(&mut self) {
        self.records.clear();
    }
}
