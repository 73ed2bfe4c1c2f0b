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
            Profile::Firecracker => 0,
        };
        self.return_element(queue, element, len, ctx);
    }
}
