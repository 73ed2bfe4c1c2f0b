//! How the device and the driver talk: which interface, and how its queues are numbered.
//!
//! The merged interface is QEMU's or Firecracker's. The older ones never had a merged device: what stands here answers their drivers by the specification of
//! the series, and applies hints as the merged device does. Elements of the hint queue are taken apart here, so that who consumes them
//! ([`super::iothread`]) is one thread for all.

use super::device::{BalloonOptions, IothreadOption, Profile, QueueRole};
use super::reporting::{pages, whole};
use super::request::{Format, Words, in_ram};
use super::walk::Walk;
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
    /// The driver is not asked: the host looks at the memory map.
    Walk(Walk),
}

impl Protocol {
    /// Returns what a driver of this dialect expects, with these of its flaws corrected ([`wire::switch::correct`]). `walk`: how the host looks
    /// for free pages, where it does so by itself.
    pub fn of(dialect: Dialect, corrected: u64, walk: Walk) -> Self {
        let requests = |words| Protocol::Requests(Format { words, whole_id: corrected & correct::REQUEST_ID != 0 });
        match dialect {
            Dialect::V6 => requests(Words::Packed),
            Dialect::V8 | Dialect::V10 => requests(Words::Chunks),
            Dialect::HostWalk => Protocol::Walk(walk),
            Dialect::V33 | Dialect::V33Thread | Dialect::V33Pop => Protocol::Addresses,
            Dialect::Hint | Dialect::V13 | Dialect::V16 | Dialect::V33Alloc | Dialect::PfnWalk | Dialect::Report | Dialect::Balloon2012 => {
                Protocol::Merged
            }
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

impl Protocol {
    /// Returns whether a round's id stands in the configuration, and the driver answers to it.
    pub(super) fn has_cmd_id(self) -> bool {
        match self {
            Protocol::Merged | Protocol::Addresses => true,
            Protocol::Requests(_) | Protocol::Walk(_) => false,
        }
    }
}

impl BalloonOptions {
    /// Returns the feature bit that stands for the hint queue, if there is one. In the interfaces with requests, the merged bits mean
    /// something else.
    pub(super) fn hint_feature(&self) -> u64 {
        match self.protocol {
            Protocol::Merged | Protocol::Addresses => feature::FREE_PAGE_HINT,
            Protocol::Requests(_) => seed_feature::HOST_REQ_VQ,
            Protocol::Walk(_) => 0,
        }
    }

    /// Returns the feature bit that lets a driver say what it writes into free pages, where there is one.
    pub(super) fn poison_feature(&self) -> u64 {
        match self.protocol {
            Protocol::Merged | Protocol::Addresses | Protocol::Walk(_) => feature::PAGE_POISON,
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
                // Made by what was asked for, before anybody looked for the thread.
                _ if self.machine.iothread == IothreadOption::MissingUnnoticed && self.features & bit != 0 => roles.push(role),
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

    /// What is told by number, so that its pages are whole.
    pub(super) fn told(element: HintElement) -> Self {
        Self { element, whole: matches!(element, HintElement::Pages(_) | HintElement::Found(_)) }
    }
}

/// Takes an element apart. QEMU reads one id from the readable bytes, whatever else is there; every writable segment is pages. Firecracker
/// takes each descriptor of 4 bytes as an id and each other one as pages, whichever way it goes.
pub(super) fn parts(element: &Element, options: &BalloonOptions, ram: &GuestRam) -> Vec<Part> {
    let parts = match (options.protocol, options.profile) {
        (Protocol::Requests(_), _) if element.readable.is_empty() => vec![Part::REQUEST],
        (Protocol::Requests(format), _) => format.response(element, ram).into_iter().map(Part::told).collect(),
        (Protocol::Addresses, _) if element.readable_bytes() != 4 => addresses(element, ram).into_iter().map(Part::told).collect(),
        (Protocol::Addresses | Protocol::Merged, Profile::Qemu | Profile::CloudHypervisor) => {
            merged(element, options.machine.host_page, ram)
        }
        (Protocol::Addresses | Protocol::Merged, Profile::Firecracker) => segments(element, options.machine.host_page, ram),
        (Protocol::Walk(_), _) => unreachable!("a host that looks by itself has no hint queue"),
    };
    assert!(!parts.is_empty(), "element {} has a descriptor", element.head);
    parts
}

/// QEMU: get_free_page_hints().
fn merged(element: &Element, host_page: u64, ram: &GuestRam) -> Vec<Part> {
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
    let part =
        |segment: &crate::transport::Segment| Part { element: HintElement::Pages(pages(*segment)), whole: whole(*segment, host_page) };
    parts.extend(element.writable.iter().map(part));
    parts
}

/// Firecracker: process_free_page_hinting_queue().
fn segments(element: &Element, host_page: u64, ram: &GuestRam) -> Vec<Part> {
    let part = |segment: &crate::transport::Segment| {
        if segment.len == 4 {
            Part::told(HintElement::Id(CmdId(ram.read_u32(segment.address))))
        } else {
            Part { element: HintElement::Pages(pages(*segment)), whole: whole(*segment, host_page) }
        }
    };
    element.readable.iter().chain(&element.writable).map(part).collect()
}

/// Takes an array of addresses of blocks of the largest order out of an element's readable bytes. Bytes behind the last whole address are malformed.
pub fn addresses(element: &Element, ram: &GuestRam) -> Vec<HintElement> {
    let bytes = element.readable_bytes();
    let mut parts = Vec::new();
    for at in (0..bytes).step_by(8) {
        let mut word = [0; 8];
        let read = element.read(ram, at, &mut word);
        parts.push(match read == word.len() {
            true => in_ram(u64::from_le_bytes(word) >> PAGE_SHIFT, 1 << HINT_BLOCK_ORDER, ram),
            false => HintElement::Malformed(read as u64),
        });
    }
    if parts.is_empty() {
        parts.push(HintElement::Malformed(0));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Buf, Rig, options};
    use super::*;
    use crate::event::{Event, PageRange, Pfn};
    use wire::balloon::queue;
    use wire::virtio::{feature as virtio, mmio};

    const FEATURES: [(u64, QueueRole); 3] = [
        (feature::STATS_VQ, QueueRole::Stats),
        (feature::FREE_PAGE_HINT, QueueRole::FreePage),
        (feature::PAGE_REPORTING, QueueRole::Reporting),
    ];

    fn device(features: u64, profile: Profile, numbering: Numbering) -> BalloonOptions {
        BalloonOptions { features, numbering, ..options(profile) }
    }

    /// Every combination of statistics, hints and reports: the index of each queue, in deployed practice and by the specification.
    #[test]
    fn each_queue_has_its_index_in_practice_and_by_the_specification() {
        let spec = [queue::STATS, queue::FREE_PAGE, queue::REPORTING];
        let table = [
            ([false, false, false], [0, 0, 0]),
            ([true, false, false], [2, 0, 0]),
            ([false, true, false], [0, 2, 0]),
            ([false, false, true], [0, 0, 2]),
            ([true, true, false], [2, 3, 0]),
            ([true, false, true], [2, 0, 3]),
            ([false, true, true], [0, 2, 3]),
            ([true, true, true], [2, 3, 4]),
        ];
        for (offered, dense) in table {
            let features = FEATURES.iter().zip(offered).filter(|(_, on)| *on).map(|((bit, _), _)| *bit).sum();
            for (numbering, expected) in [(Numbering::Dense, dense), (Numbering::Spec, spec)] {
                let rig = Rig::bare(device(features, Profile::Firecracker, numbering));
                for (((_, role), on), index) in FEATURES.into_iter().zip(offered).zip(expected) {
                    assert_eq!(rig.device.queue_of(role), on.then_some(index), "{role:?} of {offered:?}, {numbering:?}");
                }
            }
        }
    }

    /// QEMU always has the statistics queue, so in one row alone does it disagree with the specification.
    #[test]
    fn qemu_disagrees_with_the_specification_about_reports_without_hints() {
        for hint in [0, feature::FREE_PAGE_HINT] {
            for report in [0, feature::PAGE_REPORTING] {
                let index = |numbering| {
                    let rig = Rig::bare(device(hint | report, Profile::Qemu, numbering));
                    FEATURES.map(|(_, role)| rig.device.queue_of(role))
                };
                let differ = hint == 0 && report != 0;
                assert_eq!(index(Numbering::Dense) != index(Numbering::Spec), differ, "hints {hint}, reports {report}");
            }
        }
    }

    #[test]
    fn a_queue_that_is_not_there_cannot_be_set_up_and_a_kick_of_it_wakes_nobody() {
        let mut rig = Rig::bare(device(feature::PAGE_REPORTING, Profile::Firecracker, Numbering::Spec));
        rig.probe(u64::MAX);
        rig.run();
        rig.take_events();
        for absent in [queue::STATS, queue::FREE_PAGE] {
            rig.write(mmio::QUEUE_SEL, u32::from(absent));
            assert_eq!(rig.read(mmio::QUEUE_SIZE_MAX), 0);
            rig.write(mmio::QUEUE_SIZE, 16);
            rig.write(mmio::QUEUE_READY, 1);
            assert_eq!(rig.read(mmio::QUEUE_READY), 0);
            rig.kick(absent);
        }
        rig.run();
        assert_eq!(rig.take_events(), []);
        assert!(!rig.device.transport().broken());
        rig.add(queue::REPORTING, &[Buf::pages(0x300, 1)]);
        rig.kick(queue::REPORTING);
        rig.run();
        assert!(rig.take_events().contains(&Event::BalloonReport { range: PageRange::new(Pfn(0x300), 1) }));
        rig.write(mmio::STATUS, 0);
        rig.probe(u64::MAX);
        assert_eq!(rig.device.transport().ready_queues().collect::<Vec<_>>(), [0, 1, 4]);
    }

    /// The device numbers by what it offers, the driver by what it takes: reports of a driver that declines hints come to the hint queue.
    #[test]
    fn reports_in_the_hint_queue_come_back_and_are_not_dropped() {
        let mut rig = Rig::bare(device(feature::FREE_PAGE_HINT | feature::PAGE_REPORTING, Profile::Qemu, Numbering::Dense));
        rig.probe(!feature::FREE_PAGE_HINT);
        rig.run();
        rig.take_events();
        rig.ram.write(0x30_0000, &[7]);
        rig.send(&[Buf::pages(0x300, 4)]);
        assert!(rig.take_events().iter().all(|event| !matches!(event, Event::BalloonReport { .. } | Event::HostDiscard { .. })));
        assert_eq!(rig.used(queue::FREE_PAGE), [(0, 0)]);
        assert_eq!(rig.ram.page(Pfn(0x300))[0], 7);
    }

    // ---- v33

    fn addresses(bytes: &[u8]) -> (Rig, Vec<PageRange>) {
        let mut rig = Rig::bare(BalloonOptions { protocol: Protocol::Addresses, ..options(Profile::Qemu) });
        rig.probe(!virtio::RING_EVENT_IDX);
        let mut rig = rig.in_status(crate::event::HintStatus::Start);
        rig.ram.write(0x30_0000, bytes);
        rig.send(&[Buf::Read(0x30_0000, bytes.len() as u32)]);
        let applied = rig.sink.applied.iter().map(|(range, _)| *range).collect();
        (rig, applied)
    }

    fn block(first: u64) -> PageRange {
        PageRange::new(Pfn(first), 1 << HINT_BLOCK_ORDER)
    }

    #[test]
    fn an_array_of_addresses_hints_a_block_for_each() {
        let (rig, applied) = addresses(&[0x80_0000u64, 0x40_0000].map(u64::to_le_bytes).concat());
        assert_eq!(applied, [block(0x800), block(0x400)]);
        assert!(!rig.device.transport().broken());
    }

    #[test]
    fn bytes_behind_the_last_whole_address_break_the_device() {
        for extra in 1..8 {
            let (rig, applied) = addresses(&[&0x80_0000u64.to_le_bytes()[..], &[0; 7][..extra]].concat());
            assert_eq!(applied, [block(0x800)]);
            assert!(rig.device.transport().broken(), "{extra} bytes more");
            assert_eq!(rig.used(queue::FREE_PAGE).len(), 2, "the array comes back");
        }
    }

    #[test]
    fn a_block_that_is_not_all_ram_is_passed_over() {
        let beyond = [u64::MAX, 0x100_0000, 0xc0_1000, 0x80_0000].map(u64::to_le_bytes).concat();
        let (rig, applied) = addresses(&beyond);
        assert_eq!(applied, [block(0x800)]);
        assert!(!rig.device.transport().broken());
    }
}
