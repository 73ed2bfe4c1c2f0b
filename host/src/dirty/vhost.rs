//! V: the log that a vhost backend keeps of its own writes.
//!
//! QEMU: hw/virtio/vhost.c vhost_log_sync(), vhost_dev_stop(). The backend writes guest memory without the VMM; the VMM learns of it when it
//! merges the log into D, at each sync and once more when the backend stops (leaving that out was a real loss: 5c0ba1be37).

use super::bitmap::DirtyBitmap;
use super::physmem::DirtyMemory;
use crate::event::{Event, PageRange};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::step::Ctx;

/// V.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostLog {
    bits: DirtyBitmap,
    logging: bool,
}

impl VhostLog {
    /// Returns an empty log, switched off.
    pub fn new(pages: u64) -> Self {
        Self { bits: DirtyBitmap::new(pages), logging: false }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        let Self { bits, logging } = self;
        fold.sum_of(Tag::V as u64, bits.fold());
        fold.add(Tag::VLogging, u64::from(*logging));
    }

    /// Returns the bits.
    pub fn bits(&self) -> &DirtyBitmap {
        &self.bits
    }

    /// Returns whether the backend logs.
    pub fn logging(&self) -> bool {
        self.logging
    }

    /// Returns whether a merge would find nothing.
    pub fn is_clear(&self) -> bool {
        self.bits.is_clear()
    }

    /// The backend starts to log (QEMU: vhost_migration_log()).
    pub fn log_start(&mut self) {
        self.bits.reset();
        self.logging = true;
    }

    /// The backend stops logging and its log is dropped.
    pub fn log_stop(&mut self) {
        self.bits.reset();
        self.logging = false;
    }

    /// What stands in the log is forgotten.
    pub(crate) fn forget(&mut self) {
        self.bits.reset();
    }

    /// The backend wrote pages.
    pub fn mark(&mut self, range: PageRange) {
        if self.logging {
            self.bits.set_range(range);
        }
    }

    /// Moves the log into D, and says so. [`Fault::VhostGuestAddress`]: a bit of the log stands for the guest's page in D, where RAM blocks have
    /// addresses of their own.
    ///
    /// # Panics
    /// When the log is empty: there is then nothing to announce.
    pub fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        assert!(!self.is_clear(), "merge of an empty vhost log");
        let pages = if ctx.faults.on(Fault::VhostGuestAddress) { d.merge_as_it_is(&self.bits) } else { d.merge(&self.bits) };
        self.bits.reset();
        ctx.emit(Event::VhostMerge { pages });
    }
}
