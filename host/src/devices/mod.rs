//! Devices that write guest memory by themselves, and what the VMM learns of it.
//!
//! A model of a device inside the VMM writes through it, and marks D at once (`crate::dirty::physmem`). A vhost backend ([`vhost`]) writes from another
//! process or from the kernel, an assigned device ([`vfio`]) through the hardware; each has a log of its own, which the VMM merges into D at each sync. The
//! addresses that they use may be the guest's choice ([`iommu`]).

pub mod iommu;
pub mod vfio;
pub mod vhost;

use crate::devices::iommu::Iommu;
use crate::devices::vfio::Vfio;
use crate::devices::vhost::{Vhost, VhostOptions};
use crate::dirty::physmem::DirtyMemory;
use crate::event::{Event, EventKind, Level, PageRange, Pfn, Stamped};
use crate::fold::Fold;
use crate::step::Ctx;

/// What the devices are made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceOptions {
    /// The vhost backend.
    pub vhost: VhostOptions,
    /// There is an assigned device: all that it reaches is pinned, so nothing may be discarded.
    pub vfio: bool,
    /// The guest chooses the addresses that devices use.
    pub iommu: bool,
}

/// The devices with a log of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The vhost backend.
    pub vhost: Vhost,
    vfio: Vfio,
    iommu: Iommu,
    /// There is an assigned device.
    assigned: bool,
}

impl Devices {
    /// Returns devices that have written nothing.
    pub fn new(pages: u64, options: DeviceOptions) -> Self {
        Self { vhost: Vhost::new(pages, options.vhost), vfio: Vfio::default(), iommu: Iommu::new(options.iommu), assigned: options.vfio }
    }

    /// Adds their state to a hash.
    pub(crate) fn fold(&mut self, now_ns: u64, fold: &mut Fold) {
        let Self { vhost, vfio, iommu, assigned: _ } = self;
        vhost.fold(now_ns, fold);
        vfio.fold(fold);
        iommu.fold(fold);
    }

    /// Returns which pages devices reach.
    pub fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// Returns a word of V: what stands in any device's log.
    pub fn recorded(&self, at: usize) -> u64 {
        let vfio = self.vfio.recorded(&self.iommu).filter(|pfn| pfn.0 / 64 == at as u64);
        vfio.fold(self.vhost.log().bits().word(at), |word, pfn| word | 1 << (pfn.0 % 64))
    }

    /// Returns whether a merge would find nothing.
    pub fn is_clear(&self) -> bool {
        self.vhost.log().is_clear() && self.vfio.is_clear()
    }

    /// Returns the event of the next merge.
    pub(crate) fn merge_event(&self) -> EventKind {
        if self.vhost.log().is_clear() { EventKind::VfioMerge } else { EventKind::VhostMerge }
    }

    /// Merges a log into D.
    ///
    /// # Panics
    /// When all are empty: there is then nothing to announce.
    pub(crate) fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        let Self { vhost, vfio, iommu, assigned: _ } = self;
        if vhost.log().is_clear() {
            vfio.merge(iommu, d, ctx);
        } else {
            vhost.merge(iommu, d, ctx);
        }
    }

    /// All logs are asked for.
    pub(crate) fn log_start(&mut self, ctx: &mut Ctx<'_>) {
        self.vhost.log_start(ctx);
        self.vfio.set_logging(true);
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
        self.vfio.set_logging(false);
    }

    /// The VM has stopped, and the devices with it.
    pub(crate) fn vm_stopped(&mut self, ctx: &Ctx<'_>) {
        self.vhost.vm_stopped(ctx);
    }

    /// The machine is reset: the devices stop and forget what the guest told them; what their logs hold is left to the next merge.
    pub(crate) fn reset(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        self.vhost.reset(ctx);
        for range in self.iommu.mapped() {
            self.unmap(range, d, ctx);
        }
    }

    /// What the device has pinned and the VMM discards is the device's alone from then on: whoever touches the page next gets another one.
    pub(crate) fn look_for_discards(&mut self, events: &[Stamped]) {
        if !self.assigned {
            return;
        }
        for stamped in events {
            if let Event::HostDiscard { range } = stamped.event {
                self.vfio.detach(range.pages().filter(|pfn| self.iommu.iova_of(*pfn).is_some()));
            }
        }
    }

    /// Returns whether the assigned device writes a page that the guest does not see any more.
    pub fn is_detached(&self, pfn: Pfn) -> bool {
        self.vfio.is_detached(pfn)
    }

    /// The assigned device wrote pages that it reaches.
    pub fn vfio_wrote(&mut self, range: PageRange) {
        let Self { vfio, iommu, .. } = self;
        vfio.wrote(range, iommu);
    }

    /// The guest sets a queue of the vhost device up, its used ring in a page that the device reaches.
    pub fn set_up_queue(&mut self, queue: u8, used: Pfn, ctx: &mut Ctx<'_>) {
        let iova = self.iommu.iova_of(used).expect("a ring that the device reaches");
        self.vhost.set_up_queue(queue, iova);
        ctx.emit(Event::VhostQueue { range: PageRange::page(used), queue });
    }

    /// The guest lets devices reach pages. What an assigned device reaches is pinned.
    pub fn map(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        let new: Vec<Pfn> = range.pages().filter(|pfn| self.iommu.iova_of(*pfn).is_none()).collect();
        self.iommu.map(range);
        if self.assigned {
            self.vfio.pin(&new);
            ctx.emit(Event::Pin { range });
        }
    }

    /// The guest takes pages away from devices.
    pub fn unmap(&mut self, range: PageRange, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::IommuUnmap { range });
        let gone = self.iommu.unmap(range);
        self.vfio.unmapped(&gone, d, ctx);
        for pfn in range.pages().filter(|pfn| ctx.watch.has(*pfn) && d.test(*pfn)) {
            ctx.emit(Event::DirtyMark { pfn, level: Level::D });
        }
    }
}
