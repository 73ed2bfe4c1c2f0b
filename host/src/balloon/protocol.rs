//! How the device and the driver talk: which interface, and how its queues are numbered.
//!
//! The merged interface is QEMU's or Firecracker's. The older ones never had a merged device: what stands here answers their drivers by the specification of
//! the series, and applies hints as the merged device does. Elements of the hint queue are taken apart here, so that who consumes them
//! ([`super::iothread`]) is one thread for all.

use super::device::{BalloonOptions, Profile, QueueRole};
use super::reporting::{pages, whole};
use crate::event::{CmdId, HintElement, PageRange, Pfn};
use crate::memory::GuestRam;
use crate::transport::Element;
use wire::balloon::{HINT_BLOCK_ORDER, feature};
use wire::dialect::Dialect;
use wire::platform::PAGE_SHIFT;

/// What the elements of the hint queue look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Command ids in readable buffers of 4 bytes; pages as writable buffers.
    Merged,
    /// Command ids likewise; pages as arrays of addresses in readable buffers, each of a block of the largest order (v33).
    Addresses,
}

impl Protocol {
    /// Returns what a driver of this dialect expects.
    pub fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::V33 | Dialect::V33Thread | Dialect::V33Pop => Protocol::Addresses,
            Dialect::Hint
            | Dialect::V6
            | Dialect::V8
            | Dialect::V10
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
    /// Returns the queues in the order of their indices, by offered features, whatever the driver accepts.
    pub fn queues(&self) -> Vec<QueueRole> {
        let offered = self.offered();
        let optional = [
            (feature::STATS_VQ, QueueRole::Stats),
            (feature::FREE_PAGE_HINT, QueueRole::FreePage),
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
    fn id(element: HintElement) -> Self {
        Self { element, whole: false }
    }
}

/// Takes an element apart. QEMU reads one id from the readable bytes, whatever else is there; every writable segment is pages. Firecracker
/// takes each descriptor of 4 bytes as an id and each other one as pages, whichever way it goes.
pub(super) fn parts(element: &Element, options: &BalloonOptions, ram: &GuestRam) -> Vec<Part> {
    let parts = match (options.protocol, options.profile) {
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
        parts.push(Part::id(if read == 4 {
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
            Part::id(HintElement::Id(CmdId(ram.read_u32(segment.address))))
        } else {
            Part { element: HintElement::Pages(pages(*segment)), whole: whole(*segment) }
        }
    };
    element.readable.iter().chain(&element.writable).map(part).collect()
}

/// An array of addresses of blocks of the largest order. A block outside RAM, and bytes behind the last whole address, are malformed.
fn addresses(element: &Element, ram: &GuestRam) -> Vec<Part> {
    let bytes = element.readable_bytes();
    let mut parts = Vec::new();
    for at in (0..bytes).step_by(8) {
        let mut word = [0; 8];
        let read = element.read(ram, at, &mut word);
        let range = PageRange::new(Pfn(u64::from_le_bytes(word) >> PAGE_SHIFT), 1 << HINT_BLOCK_ORDER);
        let sound = read == word.len() && range.end().0 <= ram.pages();
        parts.push(match sound {
            true => Part { element: HintElement::Pages(range), whole: true },
            false => Part::id(HintElement::Malformed(read as u64)),
        });
    }
    if parts.is_empty() {
        parts.push(Part::id(HintElement::Malformed(0)));
    }
    parts
}
