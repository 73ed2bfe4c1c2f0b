//! Inflate and deflate: the guest names pages, the host drops their contents.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_handle_output(), balloon_inflate_page(), balloon_deflate_page(). Host pages are 4 KiB here,
//! so a balloon page is a host page, and deflating is only advice.

use super::device::BalloonDevice;
use crate::event::{Event, PageRange, Pfn};
use crate::memory::GuestRam;
use crate::step::Ctx;
use crate::transport::Element;

/// Returns the pages that an element names, in order; those outside RAM are left out, and so is a last number that is cut off.
pub(super) fn pfns(element: &Element, ram: &GuestRam) -> Vec<Pfn> {
    let count = element.readable_bytes() / 4;
    let mut pfns = Vec::new();
    for index in 0..count {
        let mut word = [0; 4];
        let read = element.read(ram, index * 4, &mut word);
        assert_eq!(read, 4, "element {} has {count} numbers", element.head);
        let pfn = Pfn(u64::from(u32::from_le_bytes(word)));
        if pfn.0 < ram.pages() {
            pfns.push(pfn);
        }
    }
    pfns
}

impl BalloonDevice {
    /// Takes a page and drops its contents, unless pages may not be discarded. QEMU: balloon_inflate_page().
    pub(super) fn inflate_page(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::BalloonInflate { pfn });
        if !self.state.inhibited {
            self.discard(PageRange::page(pfn), ctx);
        }
    }
}
