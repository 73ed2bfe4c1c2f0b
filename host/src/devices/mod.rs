//! Devices that write guest memory by themselves, and what the VMM learns of it.
//!
//! A model of a device inside the VMM writes through it, and marks D at once (`crate::dirty::physmem`). A vhost backend writes from another
//! process or from the kernel, and keeps a log of its own ([`vhost`]): the VMM merges it into D at each sync, and once more when the device stops.

pub mod vhost;

use crate::devices::vhost::{Vhost, VhostOptions};
use crate::dirty::physmem::DirtyMemory;
use crate::event::EventKind;
use crate::fold::Fold;
use crate::step::Ctx;

/// What the devices are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceOptions {
    /// The vhost backend.
    pub vhost: VhostOptions,
}

/// The devices with a log of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The vhost backend.
    pub vhost: Vhost,
}

impl Devices {
    /// Returns devices that have written nothing.
    pub fn new(pages: u64, options: DeviceOptions) -> Self {
        Self { vhost: Vhost::new(pages, options.vhost) }
    }

    /// Adds their state to a hash.
    pub(crate) fn fold(&mut self, now_ns: u64, fold: &mut Fold) {
        let Self { vhost } = self;
        vhost.fold(now_ns, fold);
    }

    /// Returns a word of V: what stands in any device's log.
    pub fn recorded(&self, at: usize) -> u64 {
        self.vhost.log().bits().word(at)
    }

    /// Returns whether a merge would find nothing.
    pub fn is_clear(&self) -> bool {
        self.vhost.log().is_clear()
    }

    /// Returns the event of the next merge.
    pub(crate) fn merge_event(&self) -> EventKind {
        EventKind::VhostMerge
    }

    /// Merges a log into D.
    ///
    /// # Panics
    /// When all are empty: there is then nothing to announce.
    pub(crate) fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        self.vhost.merge(d, ctx);
    }

    /// All logs are asked for.
    pub(crate) fn log_start(&mut self, ctx: &Ctx<'_>) {
        self.vhost.log_start(ctx);
    }

    /// Returns whether a device has been ordered to log and has not answered.
    pub(crate) fn is_ordered(&self) -> bool {
        self.vhost.is_ordered()
    }

    /// Returns whether the VMM waits for such an answer.
    pub(crate) fn is_awaited(&self, ctx: &Ctx<'_>) -> bool {
        self.vhost.is_awaited(ctx)
    }

    /// All logs are dropped.
    pub(crate) fn log_stop(&mut self) {
        self.vhost.log_stop();
    }

    /// The VM has stopped, and the devices with it.
    pub(crate) fn vm_stopped(&mut self, ctx: &Ctx<'_>) {
        self.vhost.vm_stopped(ctx);
    }
}
