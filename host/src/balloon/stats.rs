//! Memory statistics: the host keeps the driver's buffer, and returns it when it wants new numbers.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_receive_stats(), balloon_stats_poll_cb(). Differs: QEMU's timer also fires, and does
//! nothing but wind itself up again, while no buffer is held; here it stands still then.

use super::device::{BalloonDevice, Profile, QueueRole};
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::step::Ctx;
use crate::transport::Element;
use wire::balloon::stat;

/// The buffer that the host keeps, and the timer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    held: Option<Element>,
    poll_at_ns: Option<u64>,
}

impl Stats {
    pub(super) fn fold(&self, now_ns: u64, fold: &mut Fold) {
        let Self { held, poll_at_ns } = self;
        fold.add_part(Tag::Stats, &(held, poll_at_ns.map(|at_ns| at_ns.saturating_sub(now_ns))));
    }

    /// Returns when the buffer goes back to the driver, nanoseconds.
    pub(super) fn poll_at_ns(&self) -> Option<u64> {
        self.poll_at_ns
    }

    /// Winds the timer up, if statistics are wanted and a buffer is there to ask with. QEMU: balloon_stats_change_timer().
    pub(super) fn rearm(&mut self, interval_ns: u64, now_ns: u64) {
        self.poll_at_ns = (interval_ns > 0 && self.held.is_some()).then_some(now_ns.saturating_add(interval_ns));
    }

    /// Returns the buffer, which the host keeps no longer.
    fn take(&mut self) -> Option<Element> {
        self.poll_at_ns = None;
        self.held.take()
    }
}

/// Returns the number of whole records in a buffer.
pub(super) fn records(element: &Element, ram: &GuestRam) -> u32 {
    let bytes = element.readable_bytes();
    let records = bytes / stat::RECORD_BYTES as u64;
    assert!(bytes <= ram.bytes() * crate::transport::queue::SEGMENTS_MAX as u64, "segments are in RAM");
    u32::try_from(records).unwrap_or(u32::MAX)
}

/// Returns how many of them tell nothing: with a tag that there is not, or that came before in the buffer. QEMU's numbers are then of the last of them.
pub(super) fn odd_records(element: &Element, ram: &GuestRam) -> u32 {
    let mut seen = 0_u32;
    let odd = |at: &u32| {
        let mut tag = [0; 2];
        let read = element.read(ram, u64::from(*at) * stat::RECORD_BYTES as u64, &mut tag);
        assert_eq!(read, tag.len(), "the record is whole");
        let bit = 1_u32.checked_shl(u32::from(u16::from_le_bytes(tag))).filter(|bit| bit & stat::KNOWN != 0);
        let told = bit.is_some_and(|bit| seen & bit == 0);
        seen |= bit.unwrap_or(0);
        !told
    };
    // There are no more tags than that: what is behind them can only be odd.
    let records = records(element, ram);
    let looked_at = records.min(u32::BITS);
    u32::try_from((0..looked_at).filter(odd).count()).expect("few") + (records - looked_at)
}

impl BalloonDevice {
    /// Keeps a buffer. One that is held already goes back: a driver that keeps to the rules never lets that happen.
    pub(super) fn hold_stats(&mut self, queue: u16, element: Element, ctx: &mut Ctx<'_>) {
        if let Some(old) = self.state.stats.held.replace(element) {
            self.return_element(queue, old, 0, ctx);
        }
        self.state.stats.rearm(self.options.stats_interval_ns, ctx.now_ns);
    }

    /// Asks for new statistics by returning the buffer. QEMU: balloon_stats_poll_cb() says that it "wrote" what it read.
    pub(super) fn poll_stats(&mut self, ctx: &mut Ctx<'_>) {
        let queue = self.queue_of(QueueRole::Stats).expect("a buffer came from the queue");
        let element = self.state.stats.take().expect("the timer runs only while a buffer is held");
        let len = match self.options.profile {
            Profile::Qemu => records(&element, ctx.ram).saturating_mul(stat::RECORD_BYTES as u32),
            Profile::Firecracker | Profile::CloudHypervisor => 0,
        };
        self.return_element(queue, element, len, ctx);
    }
}
