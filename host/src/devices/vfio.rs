//! An assigned device: it reaches memory through the hardware's IOMMU, which notes what it wrote by the device's addresses.
//!
//! QEMU: hw/vfio/listener.c vfio_listener_log_sync(), hw/vfio/container.c vfio_container_query_dirty_bitmap(), and the unmap paths. What the device can
//! reach is pinned. The notes belong to a mapping: whoever unmaps asks for them first, or they are gone.

use std::collections::BTreeSet;

use super::iommu::{Iommu, IovaPage};
use crate::dirty::physmem::DirtyMemory;
use crate::event::{Event, PageRange, Pfn};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::step::Ctx;

/// The device's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vfio {
    dirty: BTreeSet<IovaPage>,
    logging: bool,
    /// Pages whose frames the device still has pinned, and the guest has no more.
    detached: BTreeSet<Pfn>,
}

impl Vfio {
    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { dirty, logging, detached } = self;
        if !detached.is_empty() {
            fold.add_part(Tag::Detached, detached);
        }
        if *logging {
            fold.add_part(Tag::Vfio, dirty);
        }
    }

    pub(crate) fn detach(&mut self, pages: impl Iterator<Item = Pfn>) {
        self.detached.extend(pages);
    }

    pub(crate) fn pin(&mut self, pages: &[Pfn]) {
        self.detached.retain(|pfn| !pages.contains(pfn));
    }

    pub(crate) fn is_detached(&self, pfn: Pfn) -> bool {
        self.detached.contains(&pfn)
    }

    /// Returns whether a merge would find nothing.
    pub(crate) fn is_clear(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Returns the pages that stand in the log.
    pub(crate) fn recorded<'a>(&'a self, iommu: &'a Iommu) -> impl Iterator<Item = Pfn> {
        self.dirty.iter().filter_map(|iova| iommu.translate(*iova))
    }

    pub(crate) fn set_logging(&mut self, logging: bool) {
        self.dirty.clear();
        self.logging = logging;
    }

    /// The device wrote pages that it reaches.
    pub(crate) fn wrote(&mut self, range: PageRange, iommu: &Iommu) {
        if self.logging {
            self.dirty.extend(range.pages().map(|pfn| iommu.iova_of(pfn).expect("a device writes what it reaches")));
        }
    }

    /// Moves the log into D, and says so.
    pub(crate) fn merge(&mut self, iommu: &Iommu, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        assert!(!self.is_clear(), "merge of an empty log");
        let pages: Vec<Pfn> = self.recorded(iommu).collect();
        pages.iter().for_each(|pfn| d.mark(PageRange::page(*pfn)));
        self.dirty.clear();
        ctx.emit(Event::VfioMerge { pages: pages.len() as u64 });
    }

    /// Mappings are about to go, `pages` beside their addresses: what was noted for them goes into D.
    ///
    /// QEMU: hw/vfio/iommufd.c, since 6e360c0617. [`Fault::VfioUnmapDropsDirty`]: it goes with them.
    pub(crate) fn unmapped(&mut self, gone: &[(IovaPage, Pfn)], d: &mut DirtyMemory, ctx: &Ctx<'_>) {
        for (iova, pfn) in gone {
            if self.dirty.remove(iova) && !ctx.faults.on(Fault::VfioUnmapDropsDirty) {
                d.mark(PageRange::page(*pfn));
            }
        }
    }
}
