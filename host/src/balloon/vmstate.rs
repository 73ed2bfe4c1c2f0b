//! The device's state in the migration stream: written at the source, read at the destination.
//!
//! QEMU: hw/virtio/virtio-balloon.c vmstate_virtio_balloon_device and its subsections, hw/virtio/virtio.c virtio_save(), virtio_load(), migration/vmstate.c
//! vmstate_subsection_load(), migration/savevm.c check_section_footer(). A state is a list of fields, then its subsections, each under its name; a
//! reader takes subsections as long as their names begin with the name of what they belong to, and what it leaves lying breaks the stream.
//! Differs: fields that nobody looks at are left out; QEMU also compares the queues' indices with the rings in memory, and refuses what does not fit: here a
//! ring that did not arrive is a lost page.

use super::device::{BalloonDevice, QueueRole};
use crate::event::HintStatus;
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::transport::queue::SavedQueue;
use wire::balloon::feature;
use wire::vring;

/// Marks a subsection. QEMU: QEMU_VM_SUBSECTION.
const SUBSECTION: u8 = 0x05;
/// Marks a section's end. QEMU: QEMU_VM_SECTION_FOOTER.
const FOOTER: u8 = 0x7e;
const DEVICE: &str = "virtio-balloon-device";
/// The name is as old as the feature, which was called a report then.
const HINTS: &str = "virtio-balloon-device/free-page-report";
const POISON: &str = "virtio-balloon-device/page-poison";
/// As it was spelt until 6.2.
const POISON_MISSPELT: &str = "vitio-balloon-device/page-poison";
const VIRTIO: &str = "virtio";
const FEATURES: &str = "virtio/64bit_features";
const RINGS: &str = "virtio/virtqueues";

/// A device's state on its way; empty: there is no device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SavedDevice {
    bytes: Vec<u8>,
    /// Queues whose last element the destination's device takes again. No part of the stream: a device of the same make knows it.
    rewound: Vec<u16>,
}

/// A device's state as the destination has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LoadedDevice {
    /// Pages that the host wants in the balloon.
    pub num_pages: u32,
    /// Pages that the driver says it holds.
    pub actual: u32,
    /// Negotiated features.
    pub features: u64,
    /// Status of hinting, and the id, if hints are negotiated.
    pub hints: Option<(HintStatus, u32)>,
    /// What the guest writes into free pages, if it has said so.
    pub poison_val: Option<u32>,
    /// The queues.
    pub queues: Vec<LoadedQueue>,
}

/// A queue as the destination has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoadedQueue {
    /// As it was saved.
    pub saved: SavedQueue,
    /// The device takes the element again that it had taken last and not returned.
    pub rewinds: bool,
}

/// Why a destination refuses a device's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(pub &'static str);

fn status_code(status: HintStatus) -> u32 {
    match status {
        HintStatus::Stop => 0,
        HintStatus::Requested => 1,
        HintStatus::Start => 2,
        HintStatus::Done => 3,
    }
}

impl SavedDevice {
    fn word(&mut self, word: u32) {
        self.bytes.extend(word.to_be_bytes());
    }

    fn wide(&mut self, word: u64) {
        self.bytes.extend(word.to_be_bytes());
    }

    fn subsection(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.bytes.extend([SUBSECTION, u8::try_from(name.len()).expect("a short name")]);
        self.bytes.extend(name.as_bytes());
        fields(self);
    }

    /// Reads the state. QEMU: virtio_load(), then the section's footer.
    ///
    /// # Errors
    /// When the stream does not go on as it should.
    pub fn load(&self) -> Result<Option<LoadedDevice>, LoadError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let Self { bytes, rewound } = self;
        let mut reader = Reader { bytes };
        let mut device = LoadedDevice::default();
        let queues = reader.word()?;
        for index in 0..queues {
            let (size, next_avail, desc_table) = (reader.word()? as u16, reader.word()? as u16, reader.wide()?);
            let saved = SavedQueue { size, next_avail, desc_table, ..SavedQueue::default() };
            device.queues.push(LoadedQueue { saved, rewinds: rewound.iter().any(|queue| u32::from(*queue) == index) });
        }
        (device.num_pages, device.actual) = (reader.word()?, reader.word()?);
        while let Some(name) = reader.subsection_of(DEVICE) {
            match name {
                HINTS => {
                    let (id, code) = (reader.word()?, reader.word()?);
                    let statuses = [HintStatus::Stop, HintStatus::Requested, HintStatus::Start, HintStatus::Done];
                    let status = statuses.into_iter().find(|status| status_code(*status) == code).ok_or(LoadError("hint status"))?;
                    device.hints = Some((status, id));
                }
                POISON => device.poison_val = Some(reader.word()?),
                _ => return Err(LoadError("unknown subsection of the device")),
            }
        }
        while let Some(name) = reader.subsection_of(VIRTIO) {
            match name {
                FEATURES => device.features = reader.wide()?,
                RINGS => {
                    for queue in &mut device.queues {
                        (queue.saved.avail_ring, queue.saved.used_ring) = (reader.wide()?, reader.wide()?);
                        queue.saved.ready = queue.saved.used_ring != 0;
                    }
                }
                _ => return Err(LoadError("unknown subsection of virtio")),
            }
        }
        if reader.byte()? != FOOTER { Err(LoadError("missing section footer for virtio-balloon")) } else { Ok(Some(device)) }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(LoadError("end of the stream"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, LoadError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn word(&mut self) -> Result<u32, LoadError> {
        self.take().map(u32::from_be_bytes)
    }

    fn wide(&mut self) -> Result<u64, LoadError> {
        self.take().map(u64::from_be_bytes)
    }

    /// Takes the head of a subsection whose name belongs to `owner`, and returns the name; anything else is left where it is.
    fn subsection_of(&mut self, owner: &str) -> Option<&'a str> {
        let [SUBSECTION, len, rest @ ..] = self.bytes else { return None };
        let name = rest.get(..usize::from(*len)).and_then(|name| std::str::from_utf8(name).ok())?;
        name.strip_prefix(owner).filter(|rest| rest.starts_with('/'))?;
        self.bytes = &rest[usize::from(*len)..];
        Some(name)
    }
}

impl LoadedQueue {
    /// Returns how many elements are out: taken, by what was saved, and not returned, by what the ring in memory says.
    fn out(&self, used_index: &impl Fn(u64) -> Option<u16>) -> u16 {
        let SavedQueue { size, next_avail, used_ring, ready, .. } = self.saved;
        let used = if ready { used_index(used_ring + vring::IDX) } else { None };
        // A ring that makes no sense is another rule's affair.
        used.map_or(0, |used| next_avail.wrapping_sub(used)).min(size)
    }
}

impl LoadedDevice {
    pub(crate) fn fold(&self, fold: &mut Fold) {
        fold.add_part(Tag::LoadedDevice, self);
    }

    /// The vCPUs start, and with them the device: it takes again what it had taken and could not bring along. `used_index`: what a used ring's index is
    /// in the destination's memory. QEMU: virtio_balloon_set_status(), virtqueue_rewind().
    pub fn start(&mut self, used_index: impl Fn(u64) -> Option<u16>) {
        for queue in self.queues.iter_mut().filter(|queue| queue.rewinds) {
            if queue.out(&used_index) > 0 {
                queue.saved.next_avail = queue.saved.next_avail.wrapping_sub(1);
            }
        }
    }

    /// Returns a queue with an element that was taken and that nobody will ever return, if there is one.
    pub fn stuck_queue(&self, used_index: impl Fn(u64) -> Option<u16>) -> Option<usize> {
        self.queues.iter().position(|queue| queue.out(&used_index) > 0)
    }
}

impl BalloonDevice {
    /// Writes the device's state. QEMU: virtio_save(), with the VM stopped.
    pub(super) fn save(&self, faults: &Faults) -> SavedDevice {
        let mut saved = SavedDevice::default();
        if !self.is_plugged() {
            return saved;
        }
        let queues: Vec<SavedQueue> = self.transport.saved_queues();
        saved.word(u32::try_from(queues.len()).expect("at most five queues"));
        for queue in &queues {
            saved.word(u32::from(queue.size));
            saved.word(u32::from(queue.next_avail));
            saved.wide(queue.desc_table);
        }
        saved.word(self.state.num_pages);
        saved.word(self.state.actual);
        if self.transport.negotiated(feature::FREE_PAGE_HINT) {
            let (status, id) = (self.hint_status(), self.state.hinting.cmd_id());
            saved.subsection(HINTS, |saved| {
                saved.word(id.0);
                saved.word(status_code(status));
            });
        }
        if self.transport.negotiated(self.options.poison_feature()) && self.options.poison_feature() != 0 {
            let name = if faults.on(Fault::SubsectionMisspelt) { POISON_MISSPELT } else { POISON };
            saved.subsection(name, |saved| saved.word(self.state.poison_val));
        }
        saved.subsection(FEATURES, |saved| saved.wide(self.transport.features()));
        saved.subsection(RINGS, |saved| {
            for queue in &queues {
                saved.wide(queue.avail_ring);
                saved.wide(if queue.ready { queue.used_ring } else { 0 });
            }
        });
        saved.bytes.push(FOOTER);
        let inflight_lost = || faults.on(Fault::StatsElementLost);
        let rewound = (0..).zip(&queues).filter(|(index, _)| self.rewinds(*index)).map(|(index, _)| index);
        saved.rewound = rewound.filter(|index| self.role(*index) != Some(QueueRole::Stats) || !inflight_lost()).collect();
        saved
    }

    /// Returns whether a queue may have an element out while the VM is stopped, which the device that goes on takes again: the buffer that is kept until
    /// the next statistics or the next request are wanted.
    fn rewinds(&self, queue: u16) -> bool {
        match self.role(queue) {
            Some(QueueRole::Stats) => true,
            Some(QueueRole::FreePage) => self.request_format().is_some(),
            Some(QueueRole::Inflate | QueueRole::Deflate | QueueRole::Reporting | QueueRole::Absent) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Profile;
    use super::super::testing::{Buf, HINT, Rig, STATS};
    use super::*;
    use crate::event::CmdId;
    use proptest::prelude::*;

    fn saved(rig: &Rig) -> SavedDevice {
        rig.device.save(&rig.faults)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        for status in [HintStatus::Stop, HintStatus::Requested, HintStatus::Start, HintStatus::Done] {
            let mut rig = Rig::up(Profile::Qemu, &[]).in_status(status);
            rig.write(wire::virtio::mmio::CONFIG + wire::balloon::config::POISON_VAL, 0xaaaa_aaaa);
            rig.write(wire::virtio::mmio::CONFIG + wire::balloon::config::ACTUAL, 7);
            let device = saved(&rig).load().expect("well formed").expect("a device");
            let LoadedDevice { num_pages, actual, features, hints, poison_val, queues } = device;
            assert_eq!((num_pages, actual, poison_val), (0, 7, Some(0xaaaa_aaaa)));
            assert_eq!(features, rig.device.transport.features());
            assert_eq!(hints, Some((status, rig.device.state.hinting.cmd_id().0)));
            assert_eq!(queues.iter().map(|queue| queue.saved).collect::<Vec<_>>(), rig.device.transport.saved_queues());
            assert_eq!(queues.iter().map(|queue| queue.rewinds).collect::<Vec<_>>(), [false, false, true, false, false]);
        }
    }

    #[test]
    fn subsections_are_as_the_driver_has_negotiated() {
        let mut rig = Rig::bare(super::super::testing::options(Profile::Qemu));
        rig.probe(!(feature::FREE_PAGE_HINT | feature::PAGE_POISON));
        let device = saved(&rig).load().expect("well formed").expect("a device");
        assert_eq!((device.hints, device.poison_val), (None, None));
        assert_eq!(SavedDevice::default().load(), Ok(None));
    }

    #[test]
    fn fault_misspelt_leaves_the_rest_of_the_section_unread() {
        let rig = Rig::up(Profile::Qemu, &[Fault::SubsectionMisspelt]);
        assert_eq!(saved(&rig).load(), Err(LoadError("missing section footer for virtio-balloon")));
        let mut rig = Rig::bare(super::super::testing::options(Profile::Qemu));
        rig.faults.insert(Fault::SubsectionMisspelt);
        rig.probe(!feature::PAGE_POISON);
        assert!(saved(&rig).load().is_ok(), "no driver with poison, no subsection");
    }

    #[test]
    fn the_statistics_buffer_is_taken_again() {
        for (faults, stuck) in [(&[][..], None), (&[Fault::StatsElementLost][..], Some(usize::from(STATS)))] {
            let mut rig = Rig::up(Profile::Qemu, faults);
            rig.add(STATS, &[Buf::Read(0x30_0000, 10)]);
            rig.kick(STATS);
            rig.send(&[Buf::Word(CmdId(7).0)]);
            rig.run();
            assert_eq!((rig.device.transport.queue(STATS).inuse(), rig.device.transport.queue(HINT).inuse()), (1, 0));
            let mut device = saved(&rig).load().expect("well formed").expect("a device");
            let used = |address| Some(rig.ram.read_u16(address));
            assert_eq!(device.stuck_queue(used), Some(usize::from(STATS)));
            device.start(used);
            assert_eq!(device.stuck_queue(used), stuck);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever arrives, the destination reads it or refuses it.
        #[test]
        fn a_spoilt_stream_is_refused_or_read(at in 0usize..400, byte: u8, end in 0usize..400) {
            let rig = Rig::up(Profile::Qemu, &[]).in_status(HintStatus::Start);
            let mut state = saved(&rig);
            if let Some(place) = state.bytes.get_mut(at) {
                *place = byte;
            }
            state.bytes.truncate(end);
            drop(state.load());
        }
    }
}
