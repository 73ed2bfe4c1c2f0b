//! The request queue of the interfaces that were posted as v6, v8 and v10: the host asks for unused pages, the driver answers with ranges.
//!
//! The driver lends a writable buffer, which the device keeps like the statistics buffer; a request is written into it, and it goes back with
//! an interrupt. Answers come through the same queue as readable buffers ([`super::iothread`] takes them), in the layout that the driver uses
//! for ranges of inflated pages, too ([`super::inflate`]). None of these devices was merged. What is known of them: the first posting (L. Li, March 2016,
//! hw/virtio/virtio-balloon.c virtio_balloon_free_pages()) kept one buffer, wrote the request when the migration started, and forgot
//! a request for which there was no buffer, so that the migration waited for ever. Later ones numbered their requests (`req_id`) and
//! asked from time to time whether the answer was there. So where the series do not say it, this device does as the merged one does:
//! it asks after each sync, stops before the next, and clears what it was told range by range, under `bitmap_mutex`. Differs: a request without
//! a buffer is made up for when the driver lends one. A response that is cut short breaks the device, as QEMU's virtio_error() does; pages
//! that are not RAM are passed over, as by QEMU's virtio_balloon_handle_output().
//!
//! The id is not in the configuration, and DONE tells the driver nothing: it has kept no page. The status is DONE all the same.

use super::device::BalloonDevice;
use super::protocol::Protocol;
use crate::event::{CmdId, Event, HintElement, PageRange, Pfn};
use crate::fault::Fault;
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::step::Ctx;
use crate::transport::Element;
use wire::balloon::request;
use wire::platform::PAGE_SHIFT;

/// What responses look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// How ranges are written.
    pub words: Words,
    /// The header of a response ends with the whole id (the correction of S8); else 16 bits of it come back, and are all that is compared.
    pub whole_id: bool,
}

/// How a range of pages is written, in little-endian words of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// The first page's number above 12 bits of length; length 0: the next word is the length (v6).
    Packed,
    /// Two words, address and size, each above 12 reserved bits (v8, v10).
    Chunks,
}

/// The header of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    cmd: u8,
    flag: u8,
    id: u16,
    /// Length of what follows, bytes.
    pub(super) data_len: u32,
}

impl Header {
    /// Returns the header that an element begins with.
    pub(super) fn read(element: &Element, ram: &GuestRam) -> Option<Header> {
        let mut bytes = [0; request::RESPONSE_HEADER_BYTES as usize];
        (element.read(ram, 0, &mut bytes) == bytes.len()).then(|| Header {
            cmd: bytes[0],
            flag: bytes[1],
            id: u16::from_le_bytes([bytes[2], bytes[3]]),
            data_len: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
    }
}

impl Format {
    /// Takes a response apart: id, pages, and whether it is the last. What is cut short, and a command that nobody gave, is malformed.
    pub(super) fn response(self, element: &Element, ram: &GuestRam) -> Vec<HintElement> {
        let bytes = element.readable_bytes();
        let header_bytes = request::RESPONSE_HEADER_BYTES + if self.whole_id { size_of::<u64>() as u64 } else { 0 };
        let malformed = |bytes| vec![HintElement::Malformed(bytes)];
        let Some(header) = Header::read(element, ram).filter(|_| bytes >= header_bytes) else { return malformed(bytes) };
        let Some(id) = self.id(header, element, ram) else { return malformed(header_bytes) };
        let data = u64::from(header.data_len);
        if header.cmd != request::RESPONSE_GET_UNUSED_PAGES || data > bytes - header_bytes {
            return malformed(bytes);
        }
        let mut parts = vec![HintElement::Id(id)];
        let rest = self.words.ranges(element, header_bytes, data, ram, &mut |range| parts.push(range));
        if rest > 0 {
            parts.push(HintElement::Malformed(rest));
        }
        if header.flag == request::FLAG_DONE {
            parts.push(HintElement::Last);
        }
        parts
    }

    /// Returns the id that a response bears; `None` when it is none that a device ever gave.
    fn id(self, header: Header, element: &Element, ram: &GuestRam) -> Option<CmdId> {
        if !self.whole_id {
            return Some(CmdId(u32::from(header.id)));
        }
        let mut word = [0; 8];
        let read = element.read(ram, request::RESPONSE_HEADER_BYTES, &mut word);
        assert_eq!(read, word.len(), "the header was measured");
        u32::try_from(u64::from_le_bytes(word)).ok().map(CmdId)
    }

    /// Returns whether a response's id is the one that was asked for.
    pub(super) fn is_current(self, id: CmdId, current: CmdId) -> bool {
        if self.whole_id { id == current } else { id.0 & 0xffff == current.0 & 0xffff }
    }
}

impl Words {
    /// Takes ranges out of an element's readable bytes, and returns how many bytes at the end make none.
    pub fn ranges(self, element: &Element, from: u64, len: u64, ram: &GuestRam, put: &mut dyn FnMut(HintElement)) -> u64 {
        let word = |at: u64| {
            let mut bytes = [0; 8];
            let whole = at + 8 <= len && element.read(ram, from + at, &mut bytes) == bytes.len();
            whole.then(|| u64::from_le_bytes(bytes))
        };
        let mut at = 0;
        while let Some(first) = word(at) {
            let (pfn, count, words) = match self {
                Words::Packed if first & request::PACKED_LEN_MASK != 0 => {
                    (first >> request::PACKED_LEN_BITS, first & request::PACKED_LEN_MASK, 1)
                }
                Words::Packed | Words::Chunks => match word(at + 8) {
                    None => break,
                    Some(second) if self == Words::Packed => (first >> request::PACKED_LEN_BITS, second, 2),
                    Some(second) => (first >> PAGE_SHIFT, second >> PAGE_SHIFT, 2),
                },
            };
            put(in_ram(pfn, count, ram));
            at += 8 * words;
        }
        assert!(at <= len, "{at} of {len} bytes taken");
        len - at
    }
}

/// Returns a range as pages, if all of it is RAM.
pub(super) fn in_ram(pfn: u64, count: u64, ram: &GuestRam) -> HintElement {
    match pfn.checked_add(count) {
        Some(end) if end <= ram.pages() => HintElement::Pages(PageRange::new(Pfn(pfn), count)),
        Some(_) | None => HintElement::OutOfRam(Pfn(pfn)),
    }
}

/// The buffer that the driver has lent, and a request that waits for one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    held: Option<Element>,
    due: bool,
}

impl Request {
    pub(super) fn fold(&self, fold: &mut Fold) {
        let Self { held, due } = self;
        fold.add_part(Tag::Request, &(held, *due));
    }

    /// Returns whether a buffer would be kept for the next request.
    pub(super) fn wants_buffer(&self) -> bool {
        self.held.is_none() && !self.due
    }

    /// Returns whether a buffer would be used at once.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Keeps a buffer.
    pub(super) fn hold(&mut self, element: Element) {
        assert!(self.wants_buffer(), "a buffer is held, or wanted at once");
        self.held = Some(element);
    }

    /// The round is over: nobody is to be asked.
    pub(super) fn cancel(&mut self) {
        self.due = false;
    }
}

impl BalloonDevice {
    /// Returns what responses look like, if the host asks for hints through a queue.
    pub(super) fn request_format(&self) -> Option<Format> {
        match self.options.protocol {
            Protocol::Requests(format) => Some(format),
            Protocol::Merged | Protocol::Addresses | Protocol::Walk(_) => None,
        }
    }

    /// Asks the driver for the newest id, now or when it lends a buffer. Called with `free_page_lock` held.
    pub(super) fn ask_or_wait(&mut self, ctx: &mut Ctx<'_>) {
        match self.state.request.held.take() {
            Some(element) => {
                if self.ask(element, ctx) {
                    let queue = self.hint_queue();
                    self.notify_queue(queue, ctx);
                }
            }
            None => self.state.request.due = true,
        }
    }

    /// Writes a request into a buffer and returns it; whether the driver is still there to see it.
    pub(super) fn ask(&mut self, element: Element, ctx: &mut Ctx<'_>) -> bool {
        self.state.request.due = false;
        let id = self.state.hinting.cmd_id();
        ctx.emit(Event::HintAsk { head: element.head, id });
        let mut bytes = [0; request::REQUEST_BYTES as usize];
        bytes[..2].copy_from_slice(&request::GET_UNUSED_PAGES.to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from(id.0).to_le_bytes());
        let written = element.write(ctx.ram, &bytes);
        let written = if ctx.faults.on(Fault::RequestShort) { written / 2 } else { written };
        let queue = self.hint_queue();
        self.transport.queue_mut(queue).push(element, written, ctx.ram).is_some()
    }
}

#[cfg(test)]
mod tests;
