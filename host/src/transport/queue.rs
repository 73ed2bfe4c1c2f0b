//! A split virtqueue from the device's side: checked elements out, used entries in.
//!
//! `virtio-queue` walks the rings; this file adds what QEMU's hw/virtio/virtio.c checks and keeps beside them: a malformed chain is an error
//! and not a short chain, elements in use are counted, and notifications are suppressed in both directions.

use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::GuestAddress;

use crate::event::{PageRange, Pfn};
use crate::fold::{Fold, Tag};
use crate::memory::{GuestRam, Mmap};
use wire::platform::PAGE_SIZE;
use wire::vring;

/// Most segments of one element (QEMU: VIRTQUEUE_MAX_SIZE).
pub const SEGMENTS_MAX: usize = 1024;

/// A piece of guest memory that a descriptor names; inside RAM and not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// Length, bytes.
    pub len: u32,
}

/// A descriptor chain that was checked and taken from the available ring. It must go back through [`VirtQueue::push`] exactly once.
#[must_use = "a popped element must be returned to the guest"]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// Index of the first descriptor.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Segment>,
    /// What the device may write, in order.
    pub writable: Vec<Segment>,
}

impl Element {
    /// Returns the number of bytes that the device may read.
    pub fn readable_bytes(&self) -> u64 {
        self.readable.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// Copies device-readable bytes from an offset, and returns how many there were. QEMU: util/iov.c iov_to_buf().
    pub fn read(&self, ram: &GuestRam, offset: u64, buffer: &mut [u8]) -> usize {
        let mut skip = offset;
        let mut done = 0;
        for segment in &self.readable {
            let len = u64::from(segment.len);
            if skip >= len {
                skip -= len;
                continue;
            }
            let take = usize::try_from(len - skip).expect("64-bit host").min(buffer.len() - done);
            ram.read(segment.address + skip, &mut buffer[done..done + take]);
            done += take;
            skip = 0;
            if done == buffer.len() {
                break;
            }
        }
        assert!(done <= buffer.len(), "read {done} bytes into {}", buffer.len());
        done
    }

    /// Fills device-writable bytes from the first, and returns how many there was room for. QEMU: util/iov.c iov_from_buf().
    pub fn write(&self, ram: &GuestRam, bytes: &[u8]) -> u32 {
        let mut done = 0;
        for segment in &self.writable {
            let len = usize::try_from(segment.len).expect("64-bit host").min(bytes.len() - done);
            ram.write(segment.address, &bytes[done..done + len]);
            done += len;
        }
        u32::try_from(done).expect("what is written into a buffer is short")
    }
}

/// A used entry that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Index of the chain's first descriptor.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub len: u32,
}

/// What a guest did wrong on a queue. QEMU: the virtio_error() calls of virtqueue_split_pop() and its helpers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError {
    /// The available index ran further ahead than the queue is long, or cannot be read.
    AvailIndex,
    /// The chain starts or continues outside the descriptor table, loops, or exceeds 2^32 bytes.
    Chain,
    /// A descriptor holds no byte.
    ZeroLength,
    /// A descriptor reaches outside RAM. Differs: QEMU lends a bounce buffer for other memory.
    OutOfRam,
    /// A device-readable descriptor follows a device-writable one.
    Order,
    /// More segments than [`SEGMENTS_MAX`].
    TooLong,
    /// More elements are in use than the queue is long.
    InUse,
}

/// What the driver has written to the queue registers; takes effect when the queue is made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct QueueSetup {
    /// QueueSize.
    pub size: u32,
    /// Descriptor area.
    pub desc: u64,
    /// Driver area (available ring).
    pub driver: u64,
    /// Device area (used ring).
    pub device: u64,
    /// QueueReady, where it takes effect with DRIVER_OK alone (Firecracker).
    pub ready: bool,
}

/// A virtqueue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtQueue {
    /// Kept as plain data, so that a device can be cloned and compared; a [`Queue`] is made of it for each operation.
    state: QueueState,
    setup: QueueSetup,
    /// Elements popped and not pushed.
    inuse: u16,
    /// The device wants to be told of new buffers.
    notification: bool,
    /// Used index at the last interrupt, once there was one (EVENT_IDX only).
    signalled_used: Option<u16>,
}

/// What of a queue goes to a migration's destination. QEMU: hw/virtio/virtio.c vmstate_virtqueue, virtio_save().
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SavedQueue {
    /// Size in force, entries.
    pub size: u16,
    /// Elements taken, modulo 2^16 (QEMU: last_avail_idx).
    pub next_avail: u16,
    /// Address of the descriptor area.
    pub desc_table: u64,
    /// Address of the available ring.
    pub avail_ring: u64,
    /// Address of the used ring.
    pub used_ring: u64,
    /// It is live.
    pub ready: bool,
}

impl VirtQueue {
    /// Returns a queue that is not set up; with `size_max` 0, one that is not there and can never be.
    ///
    /// # Panics
    /// When `size_max` is neither 0 nor a power of two up to 32768.
    pub fn new(size_max: u16) -> Self {
        let queue = Queue::new(size_max.max(1)).expect("queue size is a power of two up to 32768");
        let state = QueueState { max_size: size_max, ..queue.state() };
        let setup = QueueSetup { size: u32::from(size_max), ..QueueSetup::default() };
        Self { state, setup, inuse: 0, notification: true, signalled_used: None }
    }

    /// Back to the state after [`VirtQueue::new`]. QEMU: hw/virtio/virtio.c virtio_reset(), its loop over the queues.
    pub fn reset(&mut self) {
        *self = Self::new(self.state.max_size);
    }

    /// Adds its state to a hash: what the device keeps beside the rings.
    pub(crate) fn fold(&self, index: u64, fold: &mut Fold) {
        let Self { state, setup, inuse, notification, signalled_used } = self;
        let QueueState { max_size: _, next_avail, next_used, event_idx_enabled, size, ready, desc_table, avail_ring, used_ring } = state;
        let rings = (*next_avail, *next_used, *event_idx_enabled, *size, *ready, *desc_table, *avail_ring, *used_ring);
        fold.part(Tag::Queue as u64, index, &(rings, *setup, *inuse, *notification, *signalled_used));
    }

    /// Returns the largest size, entries.
    pub fn size_max(&self) -> u16 {
        self.state.max_size
    }

    /// Returns the size in force, entries.
    pub fn size(&self) -> u16 {
        self.state.size
    }

    /// Returns whether the queue is live.
    pub fn ready(&self) -> bool {
        self.state.ready
    }

    /// Returns the number of elements that were popped and not pushed.
    pub fn inuse(&self) -> u16 {
        self.inuse
    }

    /// Returns what of the queue is saved.
    pub fn save(&self) -> SavedQueue {
        let QueueState { next_avail, size, ready, desc_table, avail_ring, used_ring, .. } = self.state;
        if ready {
            SavedQueue { size, next_avail, desc_table, avail_ring, used_ring, ready }
        } else {
            SavedQueue { size, ..SavedQueue::default() }
        }
    }

    /// Returns how many elements were taken, and how many returned, each modulo 2^16.
    pub fn indices(&self) -> (u16, u16) {
        (self.state.next_avail, self.state.next_used)
    }

    /// Returns where the device may write by itself, as long as the queue is live: address and bytes of the used ring.
    pub fn used_area(&self) -> Option<(u64, u64)> {
        let bytes = vring::USED_RING + vring::USED_ELEM_BYTES * u64::from(self.state.size) + 2;
        self.state.ready.then_some((self.state.used_ring, bytes))
    }

    /// Returns the pages that its rings lie on, and of those which the device writes: for a queue that is ready.
    pub fn ring_pages(&self) -> Option<([PageRange; 3], PageRange)> {
        let size = u64::from(self.state.size);
        let pages = |address: u64, bytes: u64| {
            let first = address / PAGE_SIZE;
            PageRange::new(Pfn(first), (address + bytes - 1) / PAGE_SIZE - first + 1)
        };
        self.ready().then(|| {
            let QueueState { desc_table: desc, avail_ring: driver, used_ring: device, .. } = self.state;
            let used = pages(device, vring::USED_RING + size * vring::USED_ELEM_BYTES + 2);
            ([pages(desc, size * vring::DESC_BYTES), pages(driver, vring::AVAIL_RING + 2 * size + 2), used], used)
        })
    }

    /// Returns what the driver has set up.
    pub fn setup(&self) -> &QueueSetup {
        &self.setup
    }

    /// Returns the registers for the driver's set-up.
    pub fn setup_mut(&mut self) -> &mut QueueSetup {
        &mut self.setup
    }

    /// Makes the queue live with what the driver has set up. Returns false, and leaves the queue as it was, when a value is refused.
    /// QEMU: hw/virtio/virtio-mmio.c virtio_mmio_write() QUEUE_READY. Differs: QEMU drops a bad size without a word.
    pub fn enable(&mut self, event_idx: bool, ram: &GuestRam) -> bool {
        let mut queue = self.queue();
        let set = u16::try_from(self.setup.size).is_ok_and(|size| queue.try_set_size(size).is_ok())
            && queue.try_set_desc_table_address(GuestAddress(self.setup.desc)).is_ok()
            && queue.try_set_avail_ring_address(GuestAddress(self.setup.driver)).is_ok()
            && queue.try_set_used_ring_address(GuestAddress(self.setup.device)).is_ok();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        // Address 0 stands for "not set up", here as in QEMU.
        if !set || self.setup.driver == 0 || !rings_in_ram(&queue, ram) {
            return false;
        }
        self.state = queue.state();
        true
    }

    /// Takes the queue out of service.
    pub fn disable(&mut self) {
        self.state.ready = false;
    }

    fn queue(&self) -> Queue {
        Queue::try_from(self.state).expect("state was taken from a queue")
    }

    /// Returns whether the guest has made buffers available that are not popped yet. QEMU: virtio_queue_empty(), negated.
    pub fn has_available(&self, ram: &GuestRam) -> bool {
        self.state.ready && self.avail_idx(ram) != self.state.next_avail
    }

    fn avail_idx(&self, ram: &GuestRam) -> u16 {
        read_u16(ram, self.state.avail_ring + vring::IDX)
    }

    /// Returns how many buffers the driver has exposed so far, modulo 2^16.
    pub fn exposed(&self, ram: &GuestRam) -> u16 {
        self.avail_idx(ram)
    }

    /// Returns whether the buffer at a place in the order of exposure was taken.
    pub fn has_taken(&self, place: u16) -> bool {
        let ahead = place.wrapping_sub(self.state.next_avail);
        ahead >= 1 << 15
    }

    /// Returns the element at a place in the order of exposure, taken or not, as it stands in memory now.
    pub fn element_at(&self, place: u16, ram: &GuestRam) -> Result<Element, QueueError> {
        let mut queue = self.queue();
        queue.set_next_avail(place);
        self.take(&mut queue, ram)
    }

    /// Returns the element that the next [`VirtQueue::pop`] would take, without taking it.
    pub fn peek(&self, ram: &GuestRam) -> Result<Option<Element>, QueueError> {
        if !self.has_available(ram) {
            return Ok(None);
        }
        self.take(&mut self.queue(), ram).map(Some)
    }

    /// Takes the next element. An error means that the device is broken: the chain is not returned. QEMU: virtqueue_split_pop().
    pub fn pop(&mut self, ram: &GuestRam) -> Result<Option<Element>, QueueError> {
        if !self.has_available(ram) {
            return Ok(None);
        }
        let mut queue = self.queue();
        let element = self.take(&mut queue, ram)?;
        self.state = queue.state();
        self.inuse += 1;
        if self.state.event_idx_enabled && self.notification {
            self.set_avail_event(self.state.next_avail, ram);
        }
        Ok(Some(element))
    }

    fn take(&self, queue: &mut Queue, ram: &GuestRam) -> Result<Element, QueueError> {
        if self.inuse >= self.state.size {
            return Err(QueueError::InUse);
        }
        ram.look(self.state.desc_table, vring::DESC_BYTES * u64::from(self.state.size));
        ram.look(self.state.avail_ring, vring::AVAIL_RING + 2 * u64::from(self.state.size));
        let chain = queue.iter(ram.mmap()).ok().and_then(|mut chains| chains.next()).ok_or(QueueError::AvailIndex)?;
        let mut element = Element { head: chain.head_index(), readable: Vec::new(), writable: Vec::new() };
        // The walk ends early, and says nothing, at a bad index, a loop or a bad indirect table; the last descriptor's flag tells.
        let mut complete = false;
        for descriptor in chain {
            let segment = Segment { address: descriptor.addr().0, len: descriptor.len() };
            check_segment(segment, ram)?;
            match descriptor.is_write_only() {
                true => element.writable.push(segment),
                false if element.writable.is_empty() => element.readable.push(segment),
                false => return Err(QueueError::Order),
            }
            if element.readable.len() + element.writable.len() > SEGMENTS_MAX {
                return Err(QueueError::TooLong);
            }
            complete = !descriptor.has_next();
        }
        if complete { Ok(element) } else { Err(QueueError::Chain) }
    }

    /// Returns an element to the guest; `None` when the queue has been taken out of service since the pop.
    /// QEMU: virtqueue_push(): unmapping marks what was "written" as dirty, then the used entry and the index are written.
    pub fn push(&mut self, element: Element, len: u32, ram: &GuestRam) -> Option<Used> {
        self.inuse = self.inuse.saturating_sub(1);
        // A driver may have reset the device, even with a smaller queue, while a thread that does not take the BQL held the element.
        if !self.state.ready || element.head >= self.state.size {
            return None;
        }
        unmap(&element.writable, len, ram);
        let mut queue = self.queue();
        queue.add_used(ram.mmap(), element.head, len).expect("ring in RAM");
        self.state = queue.state();
        Some(Used { head: element.head, len })
    }

    /// Asks the guest to kick, or not to. QEMU: virtio_queue_set_notification(): the available ring is not looked at again.
    /// Returns whether that changes anything.
    /// Differs: QEMU writes the flag each time; a write that changes nothing is left out, lest it count as a write.
    pub fn set_notification(&mut self, enable: bool, ram: &GuestRam) -> bool {
        let changed = std::mem::replace(&mut self.notification, enable) != enable;
        if !self.state.ready || !changed {
            return false;
        }
        if !self.state.event_idx_enabled {
            let flags = if enable { 0 } else { vring::USED_F_NO_NOTIFY };
            ram.write(self.state.used_ring, &flags.to_le_bytes());
        } else if enable {
            self.set_avail_event(self.avail_idx(ram), ram);
        }
        true
    }

    fn set_avail_event(&self, index: u16, ram: &GuestRam) {
        let offset = vring::USED_RING + vring::USED_ELEM_BYTES * u64::from(self.state.size);
        ram.write(self.state.used_ring + offset, &index.to_le_bytes());
    }

    /// Returns whether the guest wants an interrupt for what was used since the last one. QEMU: virtio_split_should_notify().
    pub fn should_notify(&mut self, ram: &GuestRam) -> bool {
        if !self.state.ready {
            return false;
        }
        if !self.state.event_idx_enabled {
            return read_u16(ram, self.state.avail_ring) & vring::AVAIL_F_NO_INTERRUPT == 0;
        }
        let event = read_u16(ram, self.state.avail_ring + vring::AVAIL_RING + 2 * u64::from(self.state.size));
        let new = self.state.next_used;
        match self.signalled_used.replace(new) {
            Some(old) => new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old),
            None => true,
        }
    }
}

fn read_u16(ram: &GuestRam, address: u64) -> u16 {
    let mut bytes = [0; 2];
    ram.read(address, &mut bytes);
    u16::from_le_bytes(bytes)
}

fn check_segment(segment: Segment, ram: &GuestRam) -> Result<(), QueueError> {
    if segment.len == 0 {
        return Err(QueueError::ZeroLength);
    }
    match segment.address.checked_add(u64::from(segment.len)) {
        Some(end) if end <= ram.bytes() => Ok(()),
        Some(_) | None => Err(QueueError::OutOfRam),
    }
}

fn rings_in_ram(queue: &Queue, ram: &GuestRam) -> bool {
    let mmap: &Mmap = ram.mmap();
    queue.is_valid(mmap)
}

/// Marks what unmapping marks: `len` bytes from the first segment on, and the first page of every segment that starts inside a page, for
/// QEMU rounds the range up even when it is empty. Bytes do not change. QEMU: virtqueue_unmap_sg(), system/physmem.c
/// address_space_unmap().
fn unmap(segments: &[Segment], len: u32, ram: &GuestRam) {
    let mut left = u64::from(len);
    for segment in segments {
        let written = left.min(u64::from(segment.len));
        left -= written;
        let end = (segment.address + written).next_multiple_of(PAGE_SIZE);
        let mut page = segment.address & !(PAGE_SIZE - 1);
        while page < end {
            let mut byte = [0];
            ram.read(page, &mut byte);
            ram.write(page, &byte);
            page += PAGE_SIZE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use wire::vring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

    const SIZE: u16 = 8;
    const RINGS: u64 = 0x1_0000;

    /// Address, length, flags, next.
    type Desc = (u64, u32, u16, u16);

    fn ram() -> GuestRam {
        GuestRam::new(64 * PAGE_SIZE)
    }

    fn queue(ram: &GuestRam) -> VirtQueue {
        let driver = driver(ram);
        let mut queue = VirtQueue::new(SIZE);
        *queue.setup_mut() = QueueSetup {
            size: u32::from(SIZE),
            desc: driver.desc_table_addr().0,
            driver: driver.avail_addr().0,
            device: driver.used_addr().0,
            ready: false,
        };
        assert!(queue.enable(false, ram));
        queue
    }

    /// Returns a view of the rings. Making one clears both indices.
    fn driver(ram: &GuestRam) -> MockSplitQueue<'_, Mmap> {
        MockSplitQueue::create(ram.mmap(), GuestAddress(RINGS), SIZE)
    }

    /// Writes descriptors from index 0 on and exposes the heads.
    fn expose(ram: &GuestRam, descriptors: &[Desc], heads: &[u16]) {
        let driver = driver(ram);
        for (index, (address, len, flags, next)) in (0u16..).zip(descriptors) {
            driver.desc_table().store(index, RawDescriptor::from(Descriptor::new(*address, *len, *flags, *next))).expect("in the table");
        }
        for (index, head) in heads.iter().enumerate() {
            driver.avail().ring().ref_at(index).expect("in the ring").store(*head);
        }
        driver.avail().idx().store(heads.len() as u16);
    }

    #[test]
    fn a_chain_is_read_in_order_and_returned() {
        let ram = ram();
        let mut queue = queue(&ram);
        ram.write(0x2000, b"abc");
        ram.write(0x3000, b"def");
        expose(&ram, &[(0x2000, 3, DESC_F_NEXT, 1), (0x3000, 3, DESC_F_NEXT, 2), (0x4000, 16, DESC_F_WRITE, 0)], &[0]);
        assert_eq!(queue.peek(&ram), queue.clone().pop(&ram));
        let element = queue.pop(&ram).expect("well formed").expect("one");
        let mut bytes = [0; 4];
        assert_eq!(element.read(&ram, 1, &mut bytes), 4);
        assert_eq!(&bytes, b"bcde");
        assert_eq!(element.read(&ram, 5, &mut bytes), 1);
        assert_eq!(element.writable, [Segment { address: 0x4000, len: 16 }]);
        assert_eq!((queue.inuse(), queue.pop(&ram)), (1, Ok(None)));
        assert_eq!((queue.exposed(&ram), queue.has_taken(0), queue.has_taken(1)), (1, true, false));
        assert_eq!(queue.element_at(0, &ram).as_ref(), Ok(&element), "taken, and still where it was");
        assert_eq!(queue.push(element, 16, &ram), Some(Used { head: 0, len: 16 }));
        assert_eq!(queue.inuse(), 0);
        assert_eq!(ram.read_u32(queue.state.used_ring) >> 16, 1, "used index");
    }

    #[test]
    fn an_indirect_table_is_followed_once() {
        let ram = ram();
        let mut queue = queue(&ram);
        let table: Vec<u8> =
            [(0x2000u64, 4u32, 0u16)].iter().flat_map(|d| [&d.0.to_le_bytes()[..], &d.1.to_le_bytes(), &[0; 4]].concat()).collect();
        ram.write(0x5000, &table);
        expose(&ram, &[(0x5000, 16, DESC_F_INDIRECT, 0)], &[0]);
        let element = queue.pop(&ram).expect("well formed").expect("one");
        assert_eq!(element.readable, [Segment { address: 0x2000, len: 4 }]);
        ram.write(0x500c, &DESC_F_INDIRECT.to_le_bytes());
        expose(&ram, &[(0x5000, 16, DESC_F_INDIRECT, 0)], &[0, 0]);
        assert_eq!(queue.pop(&ram), Err(QueueError::Chain), "a table in a table");
    }

    #[test]
    fn what_breaks_the_rules_is_named() {
        let cases: [(&str, &[Desc], u16, QueueError); 9] = [
            ("loop", &[(0x2000, 4, DESC_F_NEXT, 0)], 0, QueueError::Chain),
            ("next outside the table", &[(0x2000, 4, DESC_F_NEXT, SIZE)], 0, QueueError::Chain),
            ("head outside the table", &[], SIZE, QueueError::Chain),
            ("empty indirect table", &[(0x2000, 0, DESC_F_INDIRECT, 0)], 0, QueueError::Chain),
            ("no bytes", &[(0x2000, 0, 0, 0)], 0, QueueError::ZeroLength),
            ("last byte outside RAM", &[(0x3_ffff, 2, 0, 0)], 0, QueueError::OutOfRam),
            ("end beyond 2^64", &[(u64::MAX, 2, 0, 0)], 0, QueueError::OutOfRam),
            ("readable after writable", &[(0x2000, 4, DESC_F_NEXT | DESC_F_WRITE, 1), (0x2000, 4, 0, 0)], 0, QueueError::Order),
            ("indirect table outside RAM", &[(0x100_0000, 16, DESC_F_INDIRECT, 0)], 0, QueueError::Chain),
        ];
        for (name, descriptors, head, error) in cases {
            let ram = ram();
            let mut queue = queue(&ram);
            expose(&ram, descriptors, &[head]);
            assert_eq!(queue.peek(&ram), Err(error), "{name}");
            assert_eq!(queue.pop(&ram), Err(error), "{name}");
            assert_eq!(queue.inuse(), 0, "{name}");
        }
    }

    #[test]
    fn an_available_index_too_far_ahead_is_refused() {
        let ram = ram();
        let mut queue = queue(&ram);
        driver(&ram).avail().idx().store(SIZE + 1);
        assert_eq!(queue.pop(&ram), Err(QueueError::AvailIndex));
    }

    #[test]
    fn more_elements_in_use_than_the_queue_is_long_are_refused() {
        let ram = ram();
        let mut queue = queue(&ram);
        expose(&ram, &[(0x2000, 4, 0, 0)], &[0; SIZE as usize]);
        let held: Vec<_> = (0..SIZE).map(|_| queue.pop(&ram)).collect();
        assert!(held.iter().all(Result::is_ok));
        driver(&ram).avail().idx().store(SIZE + 1);
        assert_eq!(queue.pop(&ram), Err(QueueError::InUse));
    }

    #[test]
    fn a_push_marks_what_was_written_and_the_first_page_of_an_unaligned_segment() {
        let marked = |segments: &[(u64, u32)], len| {
            let ram = ram();
            let segments: Vec<_> = segments.iter().map(|(address, len)| Segment { address: *address, len: *len }).collect();
            unmap(&segments, len, &ram);
            ram.drain_writes().iter().flat_map(|range| range.pages()).map(|pfn| pfn.0).collect::<Vec<_>>()
        };
        assert!(marked(&[(0x2000, 0x2000)], 0).is_empty());
        assert_eq!(marked(&[(0x2800, 0x2000)], 0), [2]);
        assert_eq!(marked(&[(0x2000, 0x2000), (0x8000, 0x1000)], 1), [2]);
        assert_eq!(marked(&[(0x2000, 0x2000), (0x8000, 0x1000)], 0x2001), [2, 3, 8]);
    }
}
