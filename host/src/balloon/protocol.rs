//! How the device and the driver talk: which interface, and how its queues are numbered.
//!
//! The merged interface is QEMU's or Firecracker's. The older ones never had a merged device: what stands here answers their drivers by the specification of
//! the series, and applies hints as the merged device does. Elements of the hint queue are taken apart here, so that who consumes them
//! ([`super::iothread`]) is one thread for all.

use super::device::{BalloonOptions, Profile, QueueRole};
use super::reporting::{pages, whole};
use super::request::{Format, Words, in_ram};
use crate::event::{CmdId, HintElement};
use crate::memory::GuestRam;
use crate::transport::Element;
use wire::balloon::{HINT_BLOCK_ORDER, feature, seed_feature};
use wire::dialect::Dialect;
use wire::platform::PAGE_SHIFT;
use wire::switch::correct;

/// How the host asks for hints, and what the elements of the hint queue look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Command ids in readable buffers of 4 bytes; pages as writable buffers.
    Merged,
    /// Command ids likewise; pages as arrays of addresses in readable buffers, each of a block of the largest order (v33).
    Addresses,
    /// Requests in writable buffers, responses with ranges in readable ones (v6, v8, v10).
    Requests(Format),
}

impl Protocol {
    /// Returns what a driver of this dialect expects, with these of its flaws corrected ([`wire::switch::correct`]).
    pub fn of(dialect: Dialect, corrected: u64) -> Self {
        let requests = |words| Protocol::Requests(Format { words, whole_id: corrected & correct::REQUEST_ID != 0 });
        match dialect {
            Dialect::V6 => requests(Words::Packed),
            Dialect::V8 | Dialect::V10 => requests(Words::Chunks),
            Dialect::V33 | Dialect::V33Thread | Dialect::V33Pop => Protocol::Addresses,
            Dialect::Hint
            | Dialect::V13
            | Dialect::V16
            | Dialect::V33Alloc
            | Dialect::PfnWalk
            | Dialect::HostWalk
            | Dialect::Report
            | Dialect::Balloon2012 => Protocol::Merged,
        }
    }
}

/// How queues are numbered when some are absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// Without gaps, as QEMU and most VMMs do.
    Dense,
    /// Each at its own index, as VIRTIO 1.2 §5.5.2 says.
    Spec,
}

impl BalloonOptions {
    /// Returns the feature bit that stands for the hint queue. In the interfaces with requests, the merged bits mean something else.
    pub(super) fn hint_feature(&self) -> u64 {
        match self.protocol {
            Protocol::Merged | Protocol::Addresses => feature::FREE_PAGE_HINT,
            Protocol::Requests(_) => seed_feature::HOST_REQ_VQ,
        }
    }

    /// Returns the feature bit that lets a driver say what it writes into free pages, where there is one.
    pub(super) fn poison_feature(&self) -> u64 {
        match self.protocol {
            Protocol::Merged | Protocol::Addresses => feature::PAGE_POISON,
            Protocol::Requests(_) => 0,
        }
    }

    /// Returns the queues in the order of their indices, by offered features, whatever the driver accepts.
    pub fn queues(&self) -> Vec<QueueRole> {
        let offered = self.offered();
        let optional = [
            (feature::STATS_VQ, QueueRole::Stats),
            (self.hint_feature(), QueueRole::FreePage),
            (feature::PAGE_REPORTING, QueueRole::Reporting),
        ];
        let mut roles = vec![QueueRole::Inflate, QueueRole::Deflate];
        for (bit, role) in optional {
            match self.numbering {
                _ if offered & bit != 0 => roles.push(role),
                Numbering::Dense => {}
                Numbering::Spec => roles.push(QueueRole::Absent),
            }
        }
        roles
    }
}

/// A piece of an element of the hint queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) element: HintElement,
    /// The pages can be discarded.
    pub(super) whole: bool,
}

impl Part {
    /// A buffer for a request.
    pub(super) const REQUEST: Part = Part { element: HintElement::Request, whole: false };

    /// What stands in a readable buffer; pages are told by number, so they are whole.
    fn told(element: HintElement) -> Self {
        Self { element, whole: matches!(element, HintElement::Pages(_)) }
    }
}

/// Takes an element apart. QEMU reads one id from the readable bytes, whatever else is there; every writable segment is pages. Firecracker
/// takes each descriptor of 4 bytes as an id and each other one as pages, whichever way it goes.
pub(super) fn parts(element: &Element, options: &BalloonOptions, ram: &GuestRam) -> Vec<Part> {
    let parts = match (options.protocol, options.profile) {
        (Protocol::Requests(_), _) if element.readable.is_empty() => vec![Part::REQUEST],
        (Protocol::Requests(format), _) => format.response(element, ram).into_iter().map(Part::told).collect(),
        (Protocol::Addresses, _) if element.readable_bytes() != 4 => addresses(element, ram),
        (Protocol::Addresses | Protocol::Merged, Profile::Qemu) => merged(element, ram),
        (Protocol::Addresses | Protocol::Merged, Profile::Firecracker) => segments(element, ram),
    };
    assert!(!parts.is_empty(), "element {} has a descriptor", element.head);
    parts
}

/// QEMU: get_free_page_hints().
fn merged(element: &Element, ram: &GuestRam) -> Vec<Part> {
    let mut parts = Vec::new();
    if !element.readable.is_empty() {
        let mut word = [0; 4];
        let read = element.read(ram, 0, &mut word);
        parts.push(Part::told(if read == 4 {
            HintElement::Id(CmdId(u32::from_le_bytes(word)))
        } else {
            HintElement::Malformed(read as u64)
        }));
    }
    parts.extend(element.writable.iter().map(|segment| Part { element: HintElement::Pages(pages(*segment)), whole: whole(*segment) }));
    parts
}

/// Firecracker: process_free_page_hinting_queue().
fn segments(element: &Element, ram: &GuestRam) -> Vec<Part> {
    let part = |segment: &crate::transport::Segment| {
        if segment.len == 4 {
            Part::told(HintElement::Id(CmdId(ram.read_u32(segment.address))))
        } else {
            Part { element: HintElement::Pages(pages(*segment)), whole: whole(*segment) }
        }
    };
    element.readable.iter().chain(&element.writable).map(part).collect()
}

/// An array of addresses of blocks of the largest order. Bytes behind the last whole address are malformed.
fn addresses(element: &Element, ram: &GuestRam) -> Vec<Part> {
    let bytes = element.readable_bytes();
    let mut parts = Vec::new();
    for at in (0..bytes).step_by(8) {
        let mut word = [0; 8];
        let read = element.read(ram, at, &mut word);
        parts.push(Part::told(match read == word.len() {
            true => in_ram(u64::from_le_bytes(word) >> PAGE_SHIFT, 1 << HINT_BLOCK_ORDER, ram),
            false => HintElement::Malformed(read as u64),
        }));
    }
    if parts.is_empty() {
        parts.push(Part::told(HintElement::Malformed(0)));
    }
    parts
}
