//! An assigned device: it reaches memory through the hardware's IOMMU, which notes what it wrote by the device's addresses.
//!
//! QEMU: hw/vfio/listener.c vfio_listener_log_sync(), hw/vfio/container.c vfio_container_query_dirty_bitmap(), and the unmap paths. What the device can
//! reach is pinned. The notes belong to a mapping: whoever unmaps asks for them first, or they are gone. Memory that is plugged in blocks is mapped when the
//! listener hears of it, and a sync asks for what is replayed to it as populated.

use std::collections::BTreeSet;

use super::iommu::{Iommu, IovaPage};
use super::virtio_mem::VirtioMem;
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
    /// What it has mapped of memory that is plugged in blocks (QEMU: VFIORamDiscardListener).
    mapped: Vec<PageRange>,
}

impl Vfio {
    pub(crate) fn fold(&self, fold: &mut Fold) {
        let Self { dirty, logging, detached, mapped } = self;
        if !mapped.is_empty() {
            fold.add_part(Tag::VfioMapped, mapped);
        }
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
    pub(crate) fn is_clear(&self, iommu: &Iommu, mem: Option<&VirtioMem>) -> bool {
        self.dirty.is_empty() || self.asked(iommu, mem).is_empty()
    }

    /// Returns the addresses whose notes a sync asks for. Behind a virtual IOMMU these are its mappings; else, of memory that is plugged in blocks, what is
    /// replayed of each section as populated (QEMU: vfio_sync_ram_discard_listener_dirty_bitmap()).
    fn asked(&self, iommu: &Iommu, mem: Option<&VirtioMem>) -> Vec<IovaPage> {
        let Some(mem) = mem.filter(|_| !iommu.is_on()) else { return self.dirty.iter().copied().collect() };
        let populated: Vec<PageRange> = mem.sections().flat_map(|section| mem.populated(section)).collect();
        let is_asked = |pfn: Pfn| !mem.region().contains(pfn) || populated.iter().any(|range| range.contains(pfn));
        self.dirty.iter().copied().filter(|iova| iommu.translate(*iova).is_some_and(is_asked)).collect()
    }

    /// It begins to listen: what is populated of each section is mapped (QEMU: virtio_mem_rdm_register_listener()).
    pub(crate) fn listen(&mut self, mem: &VirtioMem) {
        self.mapped = mem.sections().flat_map(|section| mem.populated(section)).collect();
    }

    /// Memory is plugged, and mapped (QEMU: vfio_ram_discard_notify_populate()).
    pub(crate) fn populate(&mut self, range: PageRange) {
        self.mapped.push(range);
        self.mapped.sort_by_key(|mapped| mapped.first);
    }

    /// Memory is unplugged, and its mapping goes, with what was noted for it (QEMU: vfio_ram_discard_notify_discard()). Nobody migrates meanwhile.
    pub(crate) fn unpopulate(&mut self, gone: PageRange) {
        let mapped = std::mem::take(&mut self.mapped);
        for range in mapped {
            let below = PageRange::new(range.first, range.count.min(gone.first.0.saturating_sub(range.first.0)));
            let first = range.first.max(gone.end()).min(range.end());
            let above = PageRange::new(first, range.end().0 - first.0);
            self.mapped.extend([below, above].into_iter().filter(|part| part.count > 0));
        }
        self.dirty.retain(|iova| !gone.contains(Pfn(iova.0)));
    }

    /// Returns whether a page of memory that is plugged in blocks is mapped.
    pub(crate) fn is_mapped(&self, pfn: Pfn) -> bool {
        self.mapped.iter().any(|range| range.contains(pfn))
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
    pub(crate) fn merge(&mut self, iommu: &Iommu, mem: Option<&VirtioMem>, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        let asked = self.asked(iommu, mem);
        assert!(!asked.is_empty(), "merge of an empty log");
        let pages: Vec<Pfn> = asked.iter().filter_map(|iova| iommu.translate(*iova)).collect();
        pages.iter().for_each(|pfn| d.mark(PageRange::page(*pfn)));
        for iova in &asked {
            self.dirty.remove(iova);
        }
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
