//! Free page reporting: the guest names free ranges for as long as it waits, the host drops their contents.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_handle_report(). Firecracker: process_free_page_reporting_queue(). Cloud Hypervisor: process_reporting_queue().

use super::device::{BalloonDevice, Profile, QueueRole};
use super::main_loop::Item;
use crate::event::{Event, PageRange, Pfn};
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

    /// Takes a report. The contents stay where the guest expects its poison there, and where pages may not be discarded.
    pub(super) fn take_report(&mut self, range: PageRange, whole: bool, ctx: &mut Ctx<'_>) {
        assert!(range.count > 0, "an empty report");
        ctx.emit(Event::BalloonReport { range });
        if whole && self.may_discard() && self.state.poison_val == 0 {
            self.discard(range, ctx);
        }
    }
}
