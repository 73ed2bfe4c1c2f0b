//! The host asks for unused pages through a queue, and the driver answers with ranges: drivers/virtio/virtio_balloon.c as posted in "[PATCH v6
//! kernel 5/5] virtio-balloon: tell host vm's unused page info" (L. Li, December 2016) and "[PATCH kernel v8 4/4] virtio-balloon:
//! VIRTIO_BALLOON_F_HOST_REQ_VQ" (W. Wang, March 2017).
//!
//! A buffer for a request is in the queue; the host writes one into it. The queue's callback then walks all free lists, order by order from the
//! largest, and sends what [`crate::mm::unused_pages`] records, in as many responses as it takes, the last one marked. v6 sends header and data
//! as two descriptors and packs a range into a word; v8 has both in one buffer, and two words a range.
//!
//! As posted all of this happens in the interrupt, though it takes a mutex, allocates with GFP_KERNEL, and spins until the host has used each
//! response (S6). That passes where no check is compiled in, the mutex is free and memory is there; so it does here
//! ([`without_sleep_checks`]), and who has to sleep after all is caught. With S6 corrected a work serves the requests; then the callback, which
//! also runs when responses come back, may take one from under the work's eyes (S11).

use wire::balloon::request::{
    FLAG_CONT, FLAG_DONE, GET_UNUSED_PAGES, PACKED_LEN_BITS, REQUEST_BYTES, RESPONSE_GET_UNUSED_PAGES, RESPONSE_HEADER_BYTES,
};
use wire::dialect::Dialect;
use wire::layout::MAX_PAGE_ORDER;
use wire::switch::correct;

use crate::arch;
use crate::balloon::dialect::ranges::{BALLOON_BMAP_COUNT, free_extended_page_bitmap};
use crate::balloon::dialect::v10;
use crate::balloon::driver::{VirtioBalloon, words};
use crate::kernel::panic::warn;
use crate::kernel::sched::without_sleep_checks;
use crate::kernel::switch::{self, corrected};
use crate::kernel::wait::wait_event;
use crate::kernel::workqueue::{Work, Workqueue, queue_work};
use crate::mm::Gfp;
use crate::mm::slab::{kfree, kmalloc};
use crate::mm::unused_pages::{StartZone, Words, mark_unused_pages, record_unused_pages};
use crate::virtio::Errno;
use crate::virtio::device::VirtioDevice;
use crate::virtio::field::record;
use crate::virtio::ring::{Scatter, Used, Virtqueue};

record! {
    /// What the two series add to `struct virtio_balloon`.
    pub struct Request {
        /// Requests and responses; 0 without the feature. v8: host_req_vq.
        req_vq: u64,
        /// Where a response's header lies.
        resp_hdr: u64,
        /// Where its words lie. v8: behind the header, in the same object.
        resp_data: u64,
        /// Words of the response.
        resp_pos: u64,
        /// Room for words, bytes.
        resp_buf_size: u64,
        /// Bitmaps of pages that are inflated or deflated, a range of frames each; 0 for none. v8: page_bmap.
        page_bitmap: [u64; BALLOON_BMAP_COUNT],
        /// How many there are. v8: page_bmaps.
        nr_page_bmap: u64,
        /// Lowest frame of those pages.
        min_pfn: u64,
        /// Highest.
        max_pfn: u64,
        /// Frame of the bitmaps' first bit.
        start_pfn: u64,
        /// Last frame that has a bit.
        end_pfn: u64,
        /// Pages that are being deflated, by their `lru`. In the patch a list on the stack.
        pages: [u64; 2],
        /// The request; the device writes it.
        req_hdr: [u64; words(REQUEST_BYTES)],
        /// Serves a request, once S6 is corrected.
        request_work: [u64; words(Work::BYTES)],
        /// The buffer that the callback has collected for that work; 0 for none.
        collected: u64,
        /// One more than the number of the zone at which the next answer begins; 0: the first. A task sets it, to pass a zone that is not there.
        start_zone: u64,
    }
}

impl VirtioBalloon {
    /// What the request dialects keep.
    pub fn request(self) -> Request {
        Request::at(self.request_state().addr())
    }
}

impl Request {
    /// `request_work`.
    pub fn work(self) -> Work {
        Work::at(self.request_work().addr())
    }

    /// The queue of requests.
    fn queue(self) -> Virtqueue {
        Virtqueue::at(self.req_vq().get())
    }
}

/// Whether this kernel's responses are v8's, which v10's are as well; else v6's.
pub(super) fn is_v8() -> bool {
    matches!(switch::dialect(), Dialect::V8 | Dialect::V10)
}

/// Whether this kernel speaks v10.
fn is_v10() -> bool {
    switch::dialect() == Dialect::V10
}

/// Bytes of a response's header on the request queue. With S8 corrected the whole id stands behind what was posted.
pub(super) fn header_bytes() -> u64 {
    if corrected(correct::REQUEST_ID) { RESPONSE_HEADER_BYTES + 8 } else { RESPONSE_HEADER_BYTES }
}

/// Puts the request buffer into the queue. Linux: posted, at the end of send_unused_pages() and in init_vqs().
pub(super) fn post_request(vb: VirtioBalloon) -> Result<(), Errno> {
    let rq = vb.request();
    let sg = Scatter { addr: rq.req_hdr().addr(), len_bytes: REQUEST_BYTES as u32 };
    rq.queue().add_inbuf(&[sg], rq.req_hdr().addr(), |_head| {})
}

/// The device has used a buffer of the request queue: a request, or a response that it has read; in the interrupt. v6: misc_request(); v8:
/// handle_host_request().
pub fn misc_request(vq: u64) {
    let vdev = VirtioDevice::at(Virtqueue::at(vq).device().get());
    let vb = VirtioBalloon::at(vdev.private().get());
    if is_v10() {
        queue_request_work(vb);
    } else if !corrected(correct::REQUEST_CONTEXT) {
        without_sleep_checks(|| misc_handle_rq(vb));
    } else if corrected(correct::RESPONSE_STOLEN) {
        queue_request_work(vb);
    } else if let Some(used) = vb.request().queue().get_buf()
        && is_request(vb, used)
    {
        vb.request().collected().set(used.data);
        queue_request_work(vb);
    }
}

fn queue_request_work(vb: VirtioBalloon) {
    let flags = vb.stop_update_spinlock().lock_irqsave();
    if vb.stop_update().get() == 0 {
        queue_work(Workqueue::SystemFreezable, vb.request().work());
    }
    vb.stop_update_spinlock().unlock_irqrestore(flags);
}

/// The work that serves a request, once S6 is corrected.
pub fn request_func(vb: u64) {
    let vb = VirtioBalloon::at(vb);
    if is_v10() || corrected(correct::RESPONSE_STOLEN) {
        return misc_handle_rq(vb);
    }
    let hdr = vb.request().collected().get();
    if hdr != 0 {
        vb.request().collected().set(0);
        handle(vb, hdr);
    }
}

/// Whether a used buffer is a request, as the series tell: by its length alone. A request that is not answered is not posted again (S7).
fn is_request(vb: VirtioBalloon, used: Used) -> bool {
    let whole = used.len_bytes == REQUEST_BYTES as u32;
    if !whole && used.data == vb.request().req_hdr().addr() {
        refuse(vb);
    }
    whole
}

/// v6: misc_handle_rq().
fn misc_handle_rq(vb: VirtioBalloon) {
    let Some(used) = vb.request().queue().get_buf() else { return };
    if is_request(vb, used) {
        handle(vb, used.data);
    }
}

/// Does what the request at an address asks for.
fn handle(vb: VirtioBalloon, hdr: u64) {
    let (cmd, param) = (arch::read16(hdr), arch::read64(hdr + 8));
    if cmd == GET_UNUSED_PAGES && is_v10() {
        v10::miscq_report_unused_pages(vb, param);
        repost(vb);
    } else if cmd == GET_UNUSED_PAGES {
        send_unused_pages(vb, param);
    } else {
        if is_v8() {
            warn("virtio_balloon: host request not supported");
        }
        refuse(vb);
    }
}

/// A request that nobody answers: as posted its buffer is not seen again (S7).
fn refuse(vb: VirtioBalloon) {
    if is_v10() || corrected(correct::REQUEST_REPOST) {
        repost(vb);
    }
}

fn repost(vb: VirtioBalloon) {
    // The series do not look whether it fits.
    let _ = post_request(vb);
    vb.request().queue().kick();
}

/// Answers a request: all free blocks, from the largest order down. v6 and v8: send_unused_pages().
fn send_unused_pages(vb: VirtioBalloon, req_id: u64) {
    let rq = vb.request();
    let mut start = StartZone { zone: rq.start_zone().get().checked_sub(1), skip: 0 };
    rq.start_zone().set(0);
    let mut pos = 0;
    let mut part_fill = false;
    vb.balloon_mutex().lock();
    let mut orders = (0..=MAX_PAGE_ORDER).rev().peekable();
    while let Some(&order) = orders.peek() {
        let mut words = Words { pages: rq.resp_data().get(), size: rq.resp_buf_size().get() / 8, pos };
        let recorded = if is_v8() {
            record_unused_pages(&mut start, order, &mut words, part_fill)
        } else {
            mark_unused_pages(&mut start, order, &mut words, PACKED_LEN_BITS as u8, part_fill)
        };
        pos = words.pos;
        match recorded {
            Err(Errno::NoSpc) => {
                if pos == 0 {
                    if !grow_resp_data(rq) {
                        part_fill = true;
                        warn("virtio_balloon: send_unused_pages: part fill");
                    }
                } else {
                    __send_unused_pages(vb, req_id, pos, false);
                    pos = 0;
                }
                // Once parts are taken, what is left of a list is left out, and the zones before this one in all lists to come (S4).
                if !part_fill || corrected(correct::PART_FILL) {
                    continue;
                }
            }
            Err(Errno::Inval) if corrected(correct::EINVAL_IS_SUCCESS) => {
                warn("virtio_balloon: send_unused_pages: a parameter was refused");
                __send_unused_pages(vb, req_id, pos, true);
                break;
            }
            // A refused parameter counts as a list that was told (S12).
            Ok(()) | Err(Errno::Inval | Errno::Io | Errno::NoDev | Errno::NoEnt | Errno::NoMem | Errno::NxIo) => {
                start = StartZone::default()
            }
        }
        if order == 0 {
            __send_unused_pages(vb, req_id, pos, true);
        }
        orders.next();
    }
    vb.balloon_mutex().unlock();
    repost(vb);
}

/// Doubles the room for words; what was in it is not needed any more. Whether there was memory. As posted v8 frees an address inside the object
/// that holds header and words, and goes on using the header there (S2).
fn grow_resp_data(rq: Request) -> bool {
    let bytes = 2 * rq.resp_buf_size().get();
    if is_v8() && corrected(correct::RECORD_GROWTH) {
        let Some(resp_hdr) = kmalloc(header_bytes() + bytes, Gfp::KERNEL) else { return false };
        kfree(rq.resp_hdr().get());
        rq.resp_hdr().set(resp_hdr);
        rq.resp_data().set(resp_hdr + header_bytes());
    } else {
        let Some(resp_data) = kmalloc(bytes, Gfp::KERNEL) else { return false };
        kfree(rq.resp_data().get());
        rq.resp_data().set(resp_data);
    }
    rq.resp_buf_size().set(bytes);
    true
}

/// Sends what v10 has noted, as v8 does.
pub(super) fn send_chunks(vb: VirtioBalloon, req_id: u64, pos: u64, done: bool) {
    __send_unused_pages(vb, req_id, pos, done);
}

/// Sends what is recorded. v6 and v8: __send_unused_pages().
fn __send_unused_pages(vb: VirtioBalloon, req_id: u64, pos: u64, done: bool) {
    let rq = vb.request();
    rq.resp_pos().set(pos);
    let hdr = rq.resp_hdr().get();
    arch::write8(hdr, RESPONSE_GET_UNUSED_PAGES);
    arch::write8(hdr + 1, if done { FLAG_DONE } else { FLAG_CONT });
    // 16 of the id's 64 bits (S8).
    arch::write16(hdr + 2, req_id as u16);
    if corrected(correct::REQUEST_ID) {
        arch::write64(hdr + RESPONSE_HEADER_BYTES, req_id);
    }
    if pos > 0 || done {
        send_resp_data(vb, rq.queue(), true);
    }
}

/// Exposes header and words, and waits until the device has used them: spinning on the request queue, asleep on others. Where the queue takes no
/// buffer, the words stay for the next call. v6 and v8: send_resp_data().
pub(super) fn send_resp_data(vb: VirtioBalloon, vq: Virtqueue, busy_wait: bool) {
    let rq = vb.request();
    let len = 8 * rq.resp_pos().get() as u32;
    // The whole id is for the request queue: elsewhere the header is what was posted.
    let (hdr, hdr_len) = if busy_wait || !is_v8() {
        (rq.resp_hdr().get(), if busy_wait { header_bytes() } else { RESPONSE_HEADER_BYTES })
    } else {
        (rq.resp_hdr().get() + header_bytes() - RESPONSE_HEADER_BYTES, RESPONSE_HEADER_BYTES)
    };
    let length_at = if busy_wait { rq.resp_hdr().get() } else { hdr } + 4;
    arch::write32(length_at, len);
    let hdr_len = hdr_len as u32;
    let sgs = [Scatter { addr: hdr, len_bytes: hdr_len }, Scatter { addr: rq.resp_data().get(), len_bytes: len }];
    let added = if is_v8() {
        vq.add_outbuf(Scatter { addr: hdr, len_bytes: hdr_len + len }, vb.addr(), |_head| {})
    } else if len == 0 && corrected(correct::EMPTY_DONE) {
        vq.add_outbufs(&sgs[..1], vb.addr(), |_head| {})
    } else {
        // A last response without words has a descriptor of no bytes (S5).
        vq.add_outbufs(&sgs, vb.addr(), |_head| {})
    };
    if added.is_err() {
        return;
    }
    vq.kick();
    if busy_wait {
        vq.get_buf_busy();
    } else {
        wait_event(vb.acked_queue(), || vq.get_buf().is_some());
    }
    rq.resp_pos().set(0);
    free_extended_page_bitmap(rq);
}
