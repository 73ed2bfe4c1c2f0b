//! Inflate and deflate: the guest names pages, the host drops their contents.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_handle_output(), balloon_inflate_page(), balloon_deflate_page(). Deflating is only
//! advice. Where pages of the host are larger than the balloon's, see [`super::partial`]. In the interfaces posted as v6, v8 and v10 pages come as ranges
//! ([`super::request`]), if the driver has taken that feature.

use super::device::BalloonDevice;
use super::request::{Header, Words};
use crate::event::{Event, HintElement, PageRange, Pfn};
use crate::fault::Fault;
use crate::memory::GuestRam;
use crate::step::Ctx;
use crate::transport::Element;
use wire::balloon::request::RESPONSE_HEADER_BYTES;
use wire::balloon::seed_feature;

/// Returns the pages that an element names by number, in order; those outside RAM are left out, and so is a last number that is cut off.
fn pfns(element: &Element, ram: &GuestRam) -> Vec<PageRange> {
    let count = element.readable_bytes() / 4;
    let mut pfns = Vec::new();
    for index in 0..count {
        let mut word = [0; 4];
        let read = element.read(ram, index * 4, &mut word);
        assert_eq!(read, 4, "element {} has {count} numbers", element.head);
        let pfn = Pfn(u64::from(u32::from_le_bytes(word)));
        if pfn.0 < ram.pages() {
            pfns.push(PageRange::page(pfn));
        }
    }
    pfns
}

/// Returns the ranges that an element names behind a header, in order; those outside RAM are left out, and so is what is cut off. The
/// header's command, flag and id mean nothing here.
fn ranges(element: &Element, words: Words, ram: &GuestRam) -> Vec<PageRange> {
    let mut ranges = Vec::new();
    let Some(header) = Header::read(element, ram) else { return ranges };
    let len = u64::from(header.data_len).min(element.readable_bytes() - RESPONSE_HEADER_BYTES);
    words.ranges(element, RESPONSE_HEADER_BYTES, len, ram, &mut |told| {
        if let HintElement::Pages(range) = told
            && range.count > 0
        {
            ranges.push(range);
        }
    });
    ranges
}

impl BalloonDevice {
    /// Returns the pages that an element of the inflate or deflate queue names, in order. The device goes by the features that were accepted: a
    /// driver that has second thoughts later (S9) is misread.
    pub(super) fn told_pages(&self, element: &Element, ram: &GuestRam) -> Vec<PageRange> {
        match self.request_format() {
            Some(format) if self.transport.negotiated(seed_feature::PAGE_RANGE) => ranges(element, format.words, ram),
            Some(_) | None => pfns(element, ram),
        }
    }

    /// Returns whether pages are no RAM, so that there is nothing to give. QEMU: virtio_balloon_handle_output(), since f2fd57db36.
    pub(super) fn is_rom(&self, range: PageRange, ctx: &Ctx<'_>) -> bool {
        self.options.machine.rom && range.contains(Pfn(0)) && !ctx.faults.on(Fault::RomBallooned)
    }

    /// Takes a page and drops its contents, unless pages may not be discarded. QEMU: balloon_inflate_page().
    pub(super) fn inflate_page(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::BalloonInflate { pfn });
        if self.may_discard()
            && let Some(range) = self.whole_host_page(pfn, ctx)
        {
            self.discard(range, ctx);
        }
    }

    /// Gives a page back; whoever touches it gets a new one. QEMU: balloon_deflate_page().
    pub(super) fn deflate_page(&mut self, pfn: Pfn, ctx: &mut Ctx<'_>) {
        ctx.emit(Event::BalloonDeflate { pfn });
        self.deflate_partial(pfn, ctx);
    }
}
