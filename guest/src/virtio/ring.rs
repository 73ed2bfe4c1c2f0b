//! The split virtqueue, the driver's side (VIRTIO 1.2 §2.7), as Linux drives it: drivers/virtio/virtio_ring.c, `vring_virtqueue_split`.
//!
//! [`Virtqueue`] is one queue: descriptors are taken from a free list threaded through `desc_next`, a head is exposed by raising
//! `avail.idx`, and comes back through the used ring. Nothing here takes a lock: whoever adds to a queue or collects from it is
//! serialised by the driver (`balloon_lock`, or a work that never runs twice at once), as in Linux.
//!
//! Differs: no EVENT_IDX. Linux accepts it where offered; with it, kicks and interrupts depend on an index that both sides race to
//! update, and every order that matters to hints exists without it. No indirect tables either: the balloon driver refuses them.

use wire::debug::{BUSY_WAIT, KICK, VQ_ADD, VQ_GET};
use wire::platform::PAGE_SIZE;
use wire::vring;

use crate::arch;
use crate::kernel::panic::warn;
use crate::kernel::switch::{fault, faulty};
use crate::mm::page::Pfn;
use crate::mm::slab::get_order;
use crate::mm::{self, Gfp};
use crate::virtio::device::VirtioDevice;
use crate::virtio::field::record;
use crate::virtio::{Errno, mmio};

/// A piece of memory that a descriptor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scatter {
    /// First byte; physical and virtual addresses are the same.
    pub addr: u64,
    /// Length, bytes.
    pub len_bytes: u32,
}

/// What came back from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// What the driver gave with the buffer.
    pub data: u64,
    /// Bytes that the device says it wrote.
    pub len_bytes: u32,
}

record! {
    /// `struct vring_virtqueue`; behind it lie `desc_state[num]`, the driver's word for each head (u64, 0 when the head is not exposed), and
    /// `desc_next[num]` (u16), the driver's own copy of the chain, which the device cannot spoil.
    pub struct Virtqueue {
        /// Where the descriptors lie.
        desc: u64,
        /// Where the available area lies.
        avail: u64,
        /// Where the used area lies.
        used: u64,
        /// Called from the interrupt when buffers were used, with the queue's address; 0 for none.
        callback: u64,
        /// The device's address, for the callback.
        device: u64,
        /// Index of the queue at the device.
        index: u32,
        /// Number of descriptors, a power of two.
        num: u32,
        /// Head of the list of free descriptors; means nothing when `num_free` is 0.
        free_head: u32,
        /// Descriptors that are free.
        num_free: u32,
        /// Buffers exposed since the device was last told.
        num_added: u32,
        /// 1 once either side broke the protocol; then every operation fails.
        broken: u32,
        /// What `avail.idx` holds.
        avail_idx_shadow: u16,
        /// Used elements that were collected.
        last_used_idx: u16,
        /// What `avail.flags` holds.
        avail_flags_shadow: u16,
        /// log2 of the pages that hold this structure.
        state_order: u16,
        /// log2 of the pages that hold the ring.
        ring_order: u16,
    }
}

/// Bytes of a ring, the used area on a page of its own. Linux: vring_size().
pub fn vring_size(num: u32) -> u64 {
    used_offset(num) + vring::USED_RING + vring::USED_ELEM_BYTES * u64::from(num) + 2
}

/// Where the used area starts: behind descriptors, available ring and its event field, on the next page.
fn used_offset(num: u32) -> u64 {
    let avail_end = (vring::DESC_BYTES + 2) * u64::from(num) + vring::AVAIL_RING + 2;
    avail_end.next_multiple_of(PAGE_SIZE)
}

impl Virtqueue {
    const STATE_BYTES_PER_DESC: u64 = 8 + 2;

    /// Builds a queue of at most `num` descriptors; fewer, when memory is short. Linux: vring_create_virtqueue().
    pub fn create(index: u32, num: u32, device: u64, callback: u64) -> Result<Self, Errno> {
        if !num.is_power_of_two() {
            return Err(Errno::Inval);
        }
        let (ring, num) = Self::alloc_ring(num)?;
        let state_order = get_order(Self::BYTES + Self::STATE_BYTES_PER_DESC * u64::from(num));
        let Some(state) = mm::alloc_pages(Gfp::KERNEL | Gfp::ZERO, state_order) else {
            mm::free_pages(ring, get_order(vring_size(num)));
            return Err(Errno::NoMem);
        };
        if faulty(fault::VQ_ERR_UAF) {
            // On the device's list before the driver's words have their memory, which were allocated apart: on the way out it stays there.
            VirtioDevice::at(device).vqs().element(index as usize).set(state.addr());
            let Some(words) = mm::alloc_pages(Gfp::KERNEL, 0) else {
                mm::free_pages(state, state_order);
                mm::free_pages(ring, get_order(vring_size(num)));
                return Err(Errno::NoMem);
            };
            mm::free_pages(words, 0);
        }
        let vq = Self::at(state.addr());
        let ring = ring.addr();
        vq.desc().set(ring);
        vq.avail().set(ring + vring::DESC_BYTES * u64::from(num));
        vq.used().set(ring + used_offset(num));
        vq.callback().set(callback);
        vq.device().set(device);
        vq.index().set(index);
        vq.num().set(num);
        vq.num_free().set(num);
        vq.state_order().set(state_order as u16);
        vq.ring_order().set(get_order(vring_size(num)) as u16);
        for i in 0..num {
            vq.set_desc_next(i, (i + 1) as u16);
        }
        if callback == 0 {
            // Nobody would listen: ask for no interrupts.
            vq.avail_flags_shadow().set(vring::AVAIL_F_NO_INTERRUPT);
            arch::write16(vq.avail().get(), vring::AVAIL_F_NO_INTERRUPT);
        }
        Ok(vq)
    }

    /// Halves the ring until it fits. Linux: vring_alloc_queue_split().
    fn alloc_ring(mut num: u32) -> Result<(Pfn, u32), Errno> {
        while num > 0 {
            if let Some(ring) = mm::alloc_pages(Gfp::KERNEL | Gfp::NOWARN | Gfp::ZERO, get_order(vring_size(num))) {
                return Ok((ring, num));
            }
            num /= 2;
        }
        Err(Errno::NoMem)
    }

    /// Sets the callback of a queue that had none, and asks for interrupts.
    pub fn set_callback(self, callback: u64) {
        self.callback().set(callback);
        self.avail_flags_shadow().set(0);
        arch::write16(self.avail().get(), 0);
    }

    /// Frees the queue's memory; the device no longer looks at it. Linux: vring_del_virtqueue().
    pub fn delete(self) {
        let state_order = u32::from(self.state_order().get());
        mm::free_pages(Pfn::of_addr(self.desc().get()), u32::from(self.ring_order().get()));
        mm::free_pages(Pfn::of_addr(self.addr()), state_order);
    }

    /// Exposes a buffer that the device reads. Linux: virtqueue_add_outbuf().
    pub fn add_outbuf(self, sg: Scatter, data: u64, announce: impl FnOnce(u16)) -> Result<(), Errno> {
        self.add(&[sg], &[], data, announce)
    }

    /// Exposes buffers that the device reads, as one chain. Linux: virtqueue_add_outbuf() with more than one entry.
    pub fn add_outbufs(self, sgs: &[Scatter], data: u64, announce: impl FnOnce(u16)) -> Result<(), Errno> {
        self.add(sgs, &[], data, announce)
    }

    /// Exposes buffers that the device may write, as one chain. Linux: virtqueue_add_inbuf().
    pub fn add_inbuf(self, sgs: &[Scatter], data: u64, announce: impl FnOnce(u16)) -> Result<(), Errno> {
        self.add(&[], sgs, data, announce)
    }

    /// Exposes one chain: what the device reads, then what it may write. `announce` runs with the head when all but `avail.idx` is written. Linux: virtqueue_add_split().
    pub fn add(self, outs: &[Scatter], ins: &[Scatter], data: u64, announce: impl FnOnce(u16)) -> Result<(), Errno> {
        let count = outs.len() + ins.len();
        assert!(data != 0 && count > 0, "a buffer without data or length");
        if self.broken().get() != 0 {
            return Err(Errno::Io);
        }
        let needed = count as u32;
        if self.num_free().get() < needed {
            if !outs.is_empty() {
                // An old driver habit that Linux keeps: a full ring is kicked when the buffer was for the device to read.
                self.notify();
            }
            return Err(Errno::NoSpc);
        }
        let head = self.free_head().get();
        let mut at = head;
        let directed = outs.iter().map(|sg| (sg, 0)).chain(ins.iter().map(|sg| (sg, vring::DESC_F_WRITE)));
        for (i, (sg, direction)) in directed.enumerate() {
            let last = i + 1 == count;
            let next = self.desc_next(at);
            self.write_desc(at, sg, if last { direction } else { direction | vring::DESC_F_NEXT }, next);
            at = u32::from(next);
        }
        self.num_free().set(self.num_free().get() - needed);
        self.free_head().set(at);
        arch::write64(self.desc_state(head), data);
        self.expose(head as u16, announce);
        if self.num_added().get() == (1 << 16) - 1 {
            // The index would lap what the device has seen.
            self.kick();
        }
        Ok(())
    }

    fn write_desc(self, index: u32, sg: &Scatter, flags: u16, next: u16) {
        let desc = self.desc().get() + u64::from(index) * vring::DESC_BYTES;
        arch::write64(desc, sg.addr);
        arch::write32(desc + 8, sg.len_bytes);
        arch::write16(desc + 12, flags);
        arch::write16(desc + 14, next);
    }

    /// Puts a head into the available ring and raises its index; the barrier keeps the index behind everything that it exposes.
    fn expose(self, head: u16, announce: impl FnOnce(u16)) {
        let avail = self.avail().get();
        let shadow = self.avail_idx_shadow().get();
        let slot = u64::from(shadow) & (u64::from(self.num().get()) - 1);
        arch::write16(avail + vring::AVAIL_RING + slot * 2, head);
        announce(head);
        arch::write_barrier();
        self.avail_idx_shadow().set(shadow.wrapping_add(1));
        arch::write16(avail + vring::IDX, shadow.wrapping_add(1));
        self.num_added().set(self.num_added().get() + 1);
        arch::trace(VQ_ADD, u64::from(self.index().get()), u64::from(head));
    }

    /// Tells the device of new buffers, unless it asked for peace. Linux: virtqueue_kick().
    pub fn kick(self) -> bool {
        if self.kick_prepare() { self.notify() } else { true }
    }

    /// Whether the device wants to be told. Linux: virtqueue_kick_prepare_split().
    fn kick_prepare(self) -> bool {
        // The index must be visible before the flag is read: the device clears the flag and then looks at the index once more.
        arch::barrier();
        self.num_added().set(0);
        arch::read16(self.used().get()) & vring::USED_F_NO_NOTIFY == 0
    }

    /// Linux: virtqueue_notify(), vm_notify().
    fn notify(self) -> bool {
        if self.broken().get() != 0 {
            return false;
        }
        let index = self.index().get();
        arch::trace(KICK, u64::from(index), 0);
        mmio::notify(index);
        true
    }

    /// Whether a used element waits. Linux: more_used_split().
    pub fn more_used(self) -> bool {
        self.last_used_idx().get() != arch::read16(self.used().get() + vring::IDX)
    }

    /// Collects the next used buffer. Linux: virtqueue_get_buf_ctx_split().
    pub fn get_buf(self) -> Option<Used> {
        if self.broken().get() != 0 || !self.more_used() {
            return None;
        }
        // The element is read only after the index that covers it.
        arch::read_barrier();
        let last = self.last_used_idx().get();
        let num = self.num().get();
        let slot = u64::from(last) & (u64::from(num) - 1);
        let element = self.used().get() + vring::USED_RING + slot * vring::USED_ELEM_BYTES;
        let (head, len_bytes) = (arch::read32(element), arch::read32(element + 4));
        if head >= num {
            return self.bad_ring("virtio: id out of range");
        }
        let data = arch::read64(self.desc_state(head));
        if data == 0 {
            return self.bad_ring("virtio: id is not a head");
        }
        self.detach(head);
        self.last_used_idx().set(last.wrapping_add(1));
        arch::trace(VQ_GET, u64::from(self.index().get()), u64::from(head));
        Some(Used { data, len_bytes })
    }

    /// The device broke the protocol: nothing more goes through this queue. Linux: BAD_RING().
    fn bad_ring(self, why: &'static str) -> Option<Used> {
        warn(why);
        self.broken().set(1);
        None
    }

    /// Puts a chain at the front of the free list. Linux: detach_buf_split(), which also follows the flags that the device can see.
    fn detach(self, head: u32) {
        arch::write64(self.desc_state(head), 0);
        let mut tail = head;
        let mut length = 1;
        while arch::read16(self.desc().get() + u64::from(tail) * vring::DESC_BYTES + 12) & vring::DESC_F_NEXT != 0 {
            tail = u32::from(self.desc_next(tail));
            length += 1;
        }
        self.set_desc_next(tail, self.free_head().get() as u16);
        self.free_head().set(head);
        self.num_free().set(self.num_free().get() + length);
        assert!(self.num_free().get() <= self.num().get(), "more free descriptors than there are");
    }

    /// Where the driver's word for `head` lies.
    fn desc_state(self, head: u32) -> u64 {
        assert!(head < self.num().get(), "a head outside the ring");
        self.addr() + Self::BYTES + u64::from(head) * 8
    }

    fn desc_next_addr(self, index: u32) -> u64 {
        assert!(index < self.num().get(), "a descriptor outside the ring");
        self.addr() + Self::BYTES + u64::from(self.num().get()) * 8 + u64::from(index) * 2
    }

    fn desc_next(self, index: u32) -> u16 {
        arch::read16(self.desc_next_addr(index))
    }

    fn set_desc_next(self, index: u32, next: u16) {
        arch::write16(self.desc_next_addr(index), next);
    }

    /// Collects the next used buffer, and spins until there is one, or the queue is broken; `None` then. Linux: a loop around
    /// virtqueue_get_buf(), virtqueue_is_broken() and cpu_relax(), as in virtio_net's control queue.
    pub fn get_buf_busy(self) -> Option<Used> {
        loop {
            if let Some(used) = self.get_buf() {
                return Some(used);
            }
            if self.broken().get() != 0 {
                return None;
            }
            arch::trace(BUSY_WAIT, self.used().get() + vring::IDX, u64::from(self.last_used_idx().get()));
            arch::pause();
        }
    }

    /// Runs the callback when there is something to collect. Linux: vring_interrupt().
    pub fn interrupt(self) {
        if self.more_used() && self.broken().get() == 0 && self.callback().get() != 0 {
            arch::call1(self.callback().get(), self.addr());
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
