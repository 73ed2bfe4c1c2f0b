//! Devices that write guest memory by themselves, and what the VMM learns of it.
//!
//! A model of a device inside the VMM writes through it, and marks D at once (`crate::dirty::physmem`). A vhost backend ([`vhost`]) writes from another
//! process or from the kernel, an assigned device ([`vfio`]) through the hardware; each has a log of its own, which the VMM merges into D at each sync. The
//! addresses that they use may be the guest's choice ([`iommu`]). What memory there is may change, too: [`virtio_mem`] tells who has to know.

pub mod iommu;
pub mod vfio;
pub mod vhost;
pub mod virtio_mem;

use crate::devices::iommu::Iommu;
use crate::devices::vfio::Vfio;
use crate::devices::vhost::{Vhost, VhostOptions};
use crate::devices::virtio_mem::{Change, VirtioMem, VirtioMemOptions};
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
    /// Memory that is plugged and unplugged, if there is any.
    pub virtio_mem: Option<VirtioMemOptions>,
}

/// The devices with a log of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The vhost backend.
    pub vhost: Vhost,
    vfio: Vfio,
    iommu: Iommu,
    mem: Option<VirtioMem>,
    /// There is an assigned device.
    assigned: bool,
}

impl Devices {
    /// Returns devices that have written nothing.
    pub fn new(pages: u64, options: DeviceOptions) -> Self {
        let mem = options.virtio_mem.map(|options| VirtioMem::new(pages, &options));
        let mut vfio = Vfio::default();
        mem.iter().for_each(|mem| vfio.listen(mem));
        Self { vhost: Vhost::new(pages, options.vhost), vfio, iommu: Iommu::new(options.iommu), mem, assigned: options.vfio }
    }

    /// Adds their state to a hash.
    pub(crate) fn fold(&mut self, now_ns: u64, fold: &mut Fold) {
        let Self { vhost, vfio, iommu, mem, assigned: _ } = self;
        vhost.fold(now_ns, fold);
        vfio.fold(fold);
        iommu.fold(fold);
        mem.iter().for_each(|mem| mem.fold(fold));
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
        self.vhost.log().is_clear() && self.vfio.is_clear(&self.iommu, self.mem.as_ref())
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
        let Self { vhost, vfio, iommu, mem, assigned: _ } = self;
        if vhost.log().is_clear() {
            vfio.merge(iommu, mem.as_ref(), d, ctx);
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

    /// Returns whether the assigned device reaches all of a range: the guest lets it, and of memory that is plugged the VMM has mapped it.
    pub fn vfio_reaches(&self, range: PageRange) -> bool {
        let is_mapped = |mem: &VirtioMem| range.pages().all(|pfn| !mem.region().contains(pfn) || self.vfio.is_mapped(pfn));
        self.iommu.reaches(range) && self.mem.as_ref().is_none_or(is_mapped)
    }

    /// Returns whether a page is memory that is not plugged.
    pub fn is_discarded(&self, pfn: Pfn) -> bool {
        self.mem.as_ref().is_some_and(|mem| mem.is_discarded(pfn))
    }

    /// Returns all memory that is not plugged.
    pub fn discarded(&self) -> Vec<PageRange> {
        self.mem.as_ref().map_or_else(Vec::new, |mem| mem.discarded(mem.region()))
    }

    /// Returns the memory that comes in blocks, if there is any.
    pub(crate) fn mem(&self) -> Option<&VirtioMem> {
        self.mem.as_ref()
    }

    /// The operator wants that many pages of virtio-mem to be plugged. While a migration is under way (`busy`) nothing changes.
    /// QEMU: virtio_mem_set_block_state(). What is unplugged loses its contents; the assigned device is told, whoever else may forbid to discard.
    pub(crate) fn resize_mem(&mut self, pages: u64, busy: bool, ctx: &mut Ctx<'_>) {
        let Self { vfio, mem: Some(mem), assigned, .. } = self else { return };
        for change in mem.plan(pages) {
            match change {
                Change::Plug(range) | Change::Unplug(range) if busy => {
                    ctx.emit(Event::MemBusy { range });
                    return;
                }
                Change::Plug(range) => {
                    ctx.emit(Event::MemPlug { range });
                    vfio.populate(range);
                    if *assigned {
                        ctx.emit(Event::Pin { range });
                    }
                }
                Change::Unplug(range) => {
                    ctx.emit(Event::MemUnplug { range });
                    vfio.unpopulate(range);
                    let used = range.pages().filter(|pfn| !ctx.ram.is_zero(*pfn));
                    used.for_each(|pfn| ctx.ram.write_unlogged(pfn.address(), &crate::page::ZERO_PAGE));
                }
            }
            mem.make(change);
        }
    }

    /// The guest goes on in a new process: what is plugged there is what was plugged here (QEMU: virtio_mem_post_load_bitmap()).
    pub(crate) fn load_mem(&mut self, left: &Self) {
        self.mem.clone_from(&left.mem);
        self.mem.iter().for_each(|mem| self.vfio.listen(mem));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    const PAGES: u64 = 2048;
    const P: Pfn = Pfn(1024 + 600);

    /// Four blocks behind 1024 pages, in two sections; of the first section one is plugged.
    fn devices(index_by_count: bool) -> Devices {
        let mem = VirtioMemOptions { pages: 1024, block_pages: 256, memslot_pages: 512, plugged: vec![0], index_by_count };
        Devices::new(PAGES, DeviceOptions { vfio: true, virtio_mem: Some(mem), ..DeviceOptions::default() })
    }

    #[test]
    fn what_is_unplugged_is_empty_and_out_of_the_assigned_devices_reach() {
        let (mut devices, mut desk) = (devices(false), Desk::new(&[]).with_pages(PAGES));
        assert!(devices.vfio_reaches(PageRange::new(Pfn(1000), 280)) && !devices.vfio_reaches(PageRange::new(Pfn(1000), 281)));
        devices.resize_mem(768, false, &mut desk.ctx());
        assert!(devices.vfio_reaches(PageRange::new(Pfn(1024), 768)) && !devices.vfio_reaches(PageRange::page(Pfn(1024 + 768))));
        desk.ctx().ram.write(P.address(), &[1]);
        devices.resize_mem(512, false, &mut desk.ctx());
        assert!(desk.ctx().ram.is_zero(P) && devices.is_discarded(P) && !devices.vfio_reaches(PageRange::page(P)));
        assert_eq!(devices.discarded(), [PageRange::new(Pfn(1024 + 512), 512)]);
    }

    #[test]
    fn nothing_is_plugged_or_unplugged_while_a_migration_is_under_way() {
        let (mut devices, mut desk) = (devices(false), Desk::new(&[]).with_pages(PAGES));
        let before = devices.clone();
        devices.resize_mem(1024, true, &mut desk.ctx());
        devices.resize_mem(0, true, &mut desk.ctx());
        devices.resize_mem(256, true, &mut desk.ctx());
        assert_eq!(devices, before);
        let busy = |first| Event::MemBusy { range: PageRange::new(Pfn(first), 256) };
        assert_eq!(desk.take_events(), [busy(1024 + 256), busy(1024)]);
    }

    #[test]
    fn with_the_wrong_divisor_nobody_asks_for_what_was_written_to_a_later_section() {
        for (index_by_count, found) in [(false, true), (true, false)] {
            let (mut devices, mut desk, mut d) = (devices(index_by_count), Desk::new(&[]).with_pages(PAGES), DirtyMemory::new(PAGES));
            devices.resize_mem(768, false, &mut desk.ctx());
            d.reset();
            d.set_tracking(true);
            devices.log_start(&mut desk.ctx());
            assert!(devices.vfio_reaches(PageRange::page(P)), "it was told when the block was plugged");
            devices.vfio_wrote(PageRange::page(P));
            devices.vfio_wrote(PageRange::page(Pfn(1024)));
            devices.merge(&mut d, &mut desk.ctx());
            assert!(devices.is_clear() && d.test(Pfn(1024)));
            assert_eq!(d.test(P), found);
        }
    }

    #[test]
    fn the_listener_of_a_new_process_hears_of_what_is_plugged() {
        let (mut there, mut here, mut desk) = (devices(false), devices(false), Desk::new(&[]).with_pages(PAGES));
        here.resize_mem(1024, false, &mut desk.ctx());
        there.load_mem(&here);
        assert!(there.vfio_reaches(PageRange::new(Pfn(0), PAGES)) && there.discarded().is_empty());
    }
}
