//! Free page reporting: the guest names free ranges for as long as it waits, the host drops their contents.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_handle_report(). Firecracker: process_free_page_reporting_queue(). Cloud Hypervisor: process_reporting_queue().

use super::device::{BalloonDevice, Profile, QueueRole};
use super::main_loop::Item;
use crate::event::{Event, PageRange, Pfn};
use crate::fault::Fault;
use crate::step::Ctx;
use crate::transport::{Element, Segment};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE};

/// Returns the ranges that an element reports, in order; a range shorter than a page is none.
pub(super) fn ranges(element: &Element, profile: Profile, host_page: u64) -> Vec<Item> {
    let readable = match profile {
        Profile::Qemu => &[][..],
        // The others do not ask which way a descriptor goes.
        Profile::Firecracker | Profile::CloudHypervisor => &element.readable[..],
    };
    let reports =
        readable.iter().chain(&element.writable).map(|segment| Item::Report { range: pages(*segment), whole: whole(*segment, host_page) });
    reports.filter(|item| !matches!(item, Item::Report { range, .. } if range.count == 0)).collect()
}

/// Returns the pages of a segment as the host counts them: the start is rounded down, the length is, too.
/// QEMU: migration/ram.c qemu_guest_free_page_hint().
pub(super) fn pages(segment: Segment) -> PageRange {
    PageRange::new(Pfn(segment.address >> PAGE_SHIFT), u64::from(segment.len) >> PAGE_SHIFT)
}

/// Returns whether a segment is a number of whole pages of the host, of so many balloon pages each: nothing else can be discarded.
pub(super) fn whole(segment: Segment, host_page: u64) -> bool {
    (segment.address | u64::from(segment.len)).is_multiple_of(host_page * PAGE_SIZE)
}

impl BalloonDevice {
    /// Returns the used length of an element that was worked off. Cloud Hypervisor says of reports that it "wrote" all that was reported.
    pub(super) fn used_len(&self, role: QueueRole, element: &Element) -> u32 {
        let segments = element.readable.iter().chain(&element.writable);
        match (role, self.options.profile) {
            (QueueRole::Reporting, Profile::CloudHypervisor) => segments.fold(0, |len, segment| len.wrapping_add(segment.len)),
            (_, Profile::Qemu | Profile::Firecracker | Profile::CloudHypervisor) => 0,
        }
    }

    /// Returns what of a range lies in the memory region that it begins in. Cloud Hypervisor: release_memory_range(), since 326cd8807; the others discard
    /// region by region.
    fn in_region(&self, range: PageRange) -> PageRange {
        let ends = self.options.machine.regions.iter().copied().find(|first| *first > range.first.0);
        match (self.options.profile, ends) {
            (Profile::CloudHypervisor, Some(end)) => PageRange::new(range.first, range.count.min(end - range.first.0)),
            (Profile::Qemu | Profile::Firecracker | Profile::CloudHypervisor, _) => range,
        }
    }

    /// Takes a report. The contents stay where the guest expects its poison there, and where pages may not be discarded.
    /// [`Fault::RegionOverrun`]: a range is taken at its word; what is behind its region cannot be advised, and the error ends the device's thread,
    /// and with it the VMM.
    pub(super) fn take_report(&mut self, range: PageRange, whole: bool, ctx: &mut Ctx<'_>) {
        assert!(range.count > 0, "an empty report");
        ctx.emit(Event::BalloonReport { range });
        let told = range;
        let range = self.in_region(told);
        if range != told && ctx.faults.on(Fault::RegionOverrun) {
            ctx.crash(format!("the balloon's thread ends: no region of memory has all of {told}"));
            return;
        }
        if whole && self.may_discard() && self.state.poison_val == 0 {
            self.discard(range, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::{BalloonOptions, Machine};
    use super::super::testing::{Buf, REPORTING, Rig, options, range};
    use super::*;
    use crate::event::EventKind;
    use wire::balloon::feature;

    /// Discards of a report of pages 0x3fc to 0x404 by a device whose memory is two regions, which meet at page 0x400.
    fn discards(profile: Profile) -> Vec<PageRange> {
        let machine = Machine { regions: vec![0x400], ..Machine::default() };
        let mut rig = Rig::bare(BalloonOptions { features: feature::PAGE_REPORTING, machine, ..options(profile) });
        rig.probe(u64::MAX);
        let queue = rig.device.queue_of(QueueRole::Reporting).unwrap_or(REPORTING);
        rig.add(queue, &[Buf::pages(0x3fc, 8)]);
        rig.kick(queue);
        rig.run();
        let events = rig.take_events();
        assert_eq!(events.iter().filter(|event| event.kind() == EventKind::BalloonReport).count(), 1);
        let discarded = |event: &Event| match event {
            Event::HostDiscard { range } => Some(*range),
            _ => None,
        };
        events.iter().filter_map(discarded).collect()
    }

    #[test]
    fn cloud_hypervisor_takes_a_report_up_to_its_regions_end() {
        assert_eq!(discards(Profile::CloudHypervisor), [range(0x3fc, 4)]);
    }

    #[test]
    fn the_others_take_all_of_it() {
        assert_eq!(discards(Profile::Qemu), [range(0x3fc, 8)]);
        assert_eq!(discards(Profile::Firecracker), [range(0x3fc, 8)]);
    }
}
