//! Buffers of page lists while they are the device's: what it reads is what the driver exposed. Main type: [`Buffers`].
//!
//! Looked at are the queues for inflation, deflation and reports; of an id in the hint queue the device's own events tell, and statistics are
//! written when the buffer is exposed. Nothing here is part of a state's hash: searches do without, as without [`crate::oracle::guest_calls`].

use host::event::Pfn;
use host::memory::GuestRam;
use host::transport::{Element, VirtQueue};
use wire::platform::PAGE_SHIFT;

use crate::oracle::guest_calls::EXPOSED_IS_UNCHANGED;
use crate::outcome::{Blame, Verdict, Violation};

/// Most bytes of a buffer that are compared; Linux's arrays of frames have 1 KiB.
const BYTES_MAX: u64 = 1 << 16;

/// A buffer, as it was when the driver exposed it.
#[derive(Debug, Clone)]
struct Buffer {
    queue: u16,
    /// Its number among all that went through the queue, modulo 2^16.
    place: u16,
    element: Element,
    bytes: Vec<u8>,
}

/// Buffers that the device has not taken yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers {
    exposed: Vec<Buffer>,
}

impl Buffers {
    /// The driver has exposed a buffer under a head, as the queue's last.
    pub(crate) fn added(&mut self, index: u16, queue: &VirtQueue, head: u16, ram: &GuestRam) {
        let place = queue.exposed(ram).wrapping_sub(1);
        // A device may have been quicker, and a malformed chain is its to refuse.
        if queue.has_taken(place) {
            return;
        }
        let Ok(element) = queue.element_at(place, ram) else { return };
        if element.head == head {
            let bytes = bytes_of(&element, ram);
            self.exposed.push(Buffer { queue: index, place, element, bytes });
        }
    }

    /// Compares the buffers that the device has taken since the last call, and returns what was altered. `queue` finds a live queue.
    pub(crate) fn taken<'a>(&mut self, queue: impl Fn(u16) -> Option<&'a VirtQueue>, ram: &GuestRam) -> Vec<Violation> {
        let mut altered = Vec::new();
        self.exposed.retain(|buffer| {
            let Some(queue) = queue(buffer.queue) else { return false };
            let taken = queue.has_taken(buffer.place);
            if taken {
                altered.extend(buffer.altered(queue, ram));
            }
            !taken
        });
        altered
    }

    /// Nothing is exposed any more: the device was reset.
    pub(crate) fn forget(&mut self) {
        self.exposed.clear();
    }
}

impl Buffer {
    fn altered(&self, queue: &VirtQueue, ram: &GuestRam) -> Option<Violation> {
        let element = queue.element_at(self.place, ram).ok()?;
        let how = if element == self.element {
            let now = bytes_of(&element, ram);
            let at = self.bytes.iter().zip(&now).position(|(then, now)| then != now)?;
            format!("its byte {at} was {:#04x} and is {:#04x}", self.bytes[at], now[at])
        } else {
            "its descriptors are others".to_owned()
        };
        let (head, queue, first) = (self.element.head, self.queue, self.element.readable.first().or(self.element.writable.first())?);
        Some(Violation {
            rule: EXPOSED_IS_UNCHANGED,
            verdict: Verdict::BrokenRule,
            page: Some(Pfn(first.address >> PAGE_SHIFT)),
            write: None,
            doom: None,
            blame: Blame::Guest,
            cause: None,
            what: format!("the buffer under head {head} of queue {queue} was altered between its exposure and the device's look: {how}"),
        })
    }
}

fn bytes_of(element: &Element, ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; element.readable_bytes().min(BYTES_MAX) as usize];
    let read = element.read(ram, 0, &mut bytes);
    assert_eq!(read, bytes.len(), "a checked element lies in RAM");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::transport::queue::QueueSetup;
    use wire::vring;

    const DESC: u64 = 0x1_0000;
    const AVAIL: u64 = 0x1_1000;
    const ARRAY: u64 = 0x2_0000;
    const QUEUE: u16 = 1;

    /// A driver with one array of frames, which it exposes as it is.
    struct Driver {
        ram: GuestRam,
        queue: VirtQueue,
        buffers: Buffers,
        added: u16,
    }

    impl Driver {
        fn new() -> Self {
            let ram = GuestRam::new(64 << PAGE_SHIFT);
            let mut queue = VirtQueue::new(8);
            *queue.setup_mut() = QueueSetup { size: 8, desc: DESC, driver: AVAIL, device: 0x1_2000, ready: false };
            assert!(queue.enable(false, &ram));
            Self { ram, queue, buffers: Buffers::default(), added: 0 }
        }

        fn set(&self, at: u64, bytes: &[u8]) {
            self.ram.write_unlogged(at, bytes);
        }

        fn expose(&mut self, head: u16) {
            let at = DESC + u64::from(head) * vring::DESC_BYTES;
            self.set(at, &ARRAY.to_le_bytes());
            self.set(at + 8, &64_u32.to_le_bytes());
            self.set(AVAIL + vring::AVAIL_RING + u64::from(self.added % 8) * 2, &head.to_le_bytes());
            self.added = self.added.wrapping_add(1);
            self.set(AVAIL + vring::IDX, &self.added.to_le_bytes());
            self.buffers.added(QUEUE, &self.queue, head, &self.ram);
        }

        /// The device takes a buffer and gives it back; returns what of it was altered.
        fn take(&mut self) -> Vec<&'static str> {
            let element = self.queue.pop(&self.ram).expect("well formed").expect("one");
            let altered = self.altered();
            assert!(self.queue.push(element, 0, &self.ram).is_some());
            altered
        }

        fn altered(&mut self) -> Vec<&'static str> {
            let Self { ram, queue, buffers, .. } = self;
            buffers.taken(|index| (index == QUEUE).then_some(&*queue), ram).iter().map(|violation| violation.rule).collect()
        }
    }

    #[test]
    fn a_buffer_is_read_as_it_was_exposed() {
        let mut driver = Driver::new();
        driver.expose(3);
        assert_eq!(driver.take(), [""; 0]);
        driver.set(ARRAY, &[1]);
        assert_eq!(driver.altered(), [""; 0], "the device has read it");
        driver.expose(3);
        driver.set(ARRAY + 63, &[7]);
        assert_eq!(driver.altered(), [""; 0], "the device has not looked yet");
        assert_eq!(driver.take(), [EXPOSED_IS_UNCHANGED]);
        assert_eq!(driver.altered(), [""; 0], "told once");
        driver.expose(3);
        driver.set(DESC + 3 * vring::DESC_BYTES + 8, &60_u32.to_le_bytes());
        assert_eq!(driver.take(), [EXPOSED_IS_UNCHANGED], "its length is another");
        driver.set(ARRAY + 64, &[7]);
        driver.expose(0);
        driver.set(ARRAY + 64, &[8]);
        assert_eq!(driver.take(), [""; 0], "behind the buffer");
    }

    #[test]
    fn several_buffers_are_told_apart_beyond_the_last_index() {
        let mut driver = Driver::new();
        for _ in 0..=u16::MAX {
            driver.expose(2);
            assert_eq!(driver.take(), [""; 0]);
        }
        driver.expose(1);
        driver.set(ARRAY, &[1]);
        driver.expose(2);
        assert_eq!(driver.take(), [EXPOSED_IS_UNCHANGED]);
        assert_eq!(driver.take(), [""; 0], "exposed with the new byte");
    }

    #[test]
    fn a_reset_and_a_queue_out_of_service_forget() {
        for forget in [(|driver| driver.buffers.forget()) as fn(&mut Driver), |driver| {
            assert_eq!(driver.buffers.taken(|_| None, &driver.ram).len(), 0)
        }] {
            let mut driver = Driver::new();
            driver.expose(1);
            driver.set(ARRAY, &[1]);
            forget(&mut driver);
            assert_eq!(driver.take(), [""; 0]);
        }
    }
}
