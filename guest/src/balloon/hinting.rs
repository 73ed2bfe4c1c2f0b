//! Free page hinting: the driver takes the largest free blocks from the allocator and shows them to the device, which may then leave
//! their contents out of a migration. Linux 6.12: virtio_balloon.c report_free_page_func() and what it calls.
//!
//! Blocks stay on `free_page_list` until the device says DONE, the shrinker wants them, or the driver goes: whether or not the device has
//! used their descriptors. That is what Linux ships, and the specification allows it.
//!
//! With HINT_WAIT_ON_ACK a block goes on the list only when the device has used its descriptor. Linux: a proposal of January 2026, which it
//! does not ship ("virtio_balloon: Support wait on ACK for hinting", J. Thomson, 20260119154236.39412-1-jackabt.amazon@gmail.com).

use wire::balloon::{CMD_ID_DONE, CMD_ID_STOP, HINT_BLOCK_ORDER, config, feature};
use wire::debug::{CMD_ID_READ, HINT, HINT_RETURN, HINT_START, HINT_STOP};
use wire::platform::{PAGE_SIZE, boot_flag};
use wire::switch::{correct, fault};

use crate::arch;
use crate::balloon::dialect;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::panic::warn;
use crate::kernel::switch::{faulty, mannered};
use crate::kernel::wait::wait_event;
use crate::kernel::workqueue::{Workqueue, queue_work};
use crate::kernel::{list, switch};
use crate::mm::page::Page;
use crate::mm::{self, Gfp};
use crate::virtio::Errno;
use crate::virtio::mmio;
use crate::virtio::ring::{Scatter, Virtqueue};

/// Pages of a hinted block. Linux: VIRTIO_BALLOON_HINT_BLOCK_PAGES.
pub const HINT_BLOCK_PAGES: u64 = 1 << HINT_BLOCK_ORDER;
/// Bytes of a hinted block. Linux: VIRTIO_BALLOON_HINT_BLOCK_BYTES.
pub const HINT_BLOCK_BYTES: u32 = (PAGE_SIZE << HINT_BLOCK_ORDER) as u32;
/// A part of a round.
type Step = fn(VirtioBalloon) -> Result<(), Errno>;

/// Bit of `config_read_bitmap`. Linux: VIRTIO_BALLOON_CONFIG_READ_CMD_ID.
const CONFIG_READ_CMD_ID: u64 = 1 << 0;

/// Queues the work that looks at the command id; in the interrupt. Linux: virtio_balloon_queue_free_page_work().
pub fn virtio_balloon_queue_free_page_work(vb: VirtioBalloon) {
    if !vb.has_feature(feature::FREE_PAGE_HINT) {
        return;
    }
    if faulty(fault::DONE_IN_IRQ) && mmio::config_read32(config::FREE_PAGE_HINT_CMD_ID) == CMD_ID_DONE {
        // The lock's release enables interrupts in the middle of this one, whatever they were before.
        return_free_pages_to_mm(vb, u64::MAX, HINT_RETURN);
        return;
    }
    // Whoever set the bit has queued the work, and the id is still to be read.
    if arch::fetch_or64(vb.config_read_bitmap().addr(), CONFIG_READ_CMD_ID) & CONFIG_READ_CMD_ID != 0 {
        return;
    }
    queue_work(Workqueue::Balloon, vb.report_work());
}

/// The command id: read from the device when it may have changed, else as it was. Linux: virtio_balloon_cmd_id_received().
fn virtio_balloon_cmd_id_received(vb: VirtioBalloon) -> u32 {
    if arch::fetch_and64(vb.config_read_bitmap().addr(), !CONFIG_READ_CMD_ID) & CONFIG_READ_CMD_ID != 0 {
        let id = mmio::config_read32(config::FREE_PAGE_HINT_CMD_ID);
        vb.cmd_id_received_cache().set(id);
        arch::trace(CMD_ID_READ, u64::from(id), 0);
    }
    vb.cmd_id_received_cache().get()
}

/// The hint queue with all its used buffers collected.
pub(super) fn drained_free_page_vq(vb: VirtioBalloon) -> Virtqueue {
    let vq = Virtqueue::at(vb.free_page_vq().get());
    while vq.get_buf().is_some() {}
    vq
}

/// Sleeps until the device has used the buffer that was just exposed, where HINT_WAIT_ON_ACK asks for it; no lock is held, and nothing else
/// is in the queue. The id is not looked at while it sleeps: the device returns every buffer, whatever became of the round, and STOP in the
/// configuration does not say that it applies no hint any more. Linux: a wait_event() behind each kick, by the proposal.
/// Differs: the proposal waits for ever when the buffer does not come back, and the removal of the driver then waits with it. Here the wait
/// ends without the buffer when the driver is being removed (`NoDev`) and when the device has spoilt the queue (`Io`).
fn wait_for_ack(vb: VirtioBalloon) -> Result<(), Errno> {
    if !vb.has_feature(feature::HINT_WAIT_ON_ACK) {
        return Ok(());
    }
    let vq = Virtqueue::at(vb.free_page_vq().get());
    let mut acked = false;
    wait_event(vb.acked_queue(), || {
        acked = vq.get_buf().is_some();
        acked || vq.broken().get() != 0 || vb.stop_update().get() != 0
    });
    if acked {
        Ok(())
    } else if vq.broken().get() != 0 {
        Err(Errno::Io)
    } else {
        Err(Errno::NoDev)
    }
}

/// Whether the device still wants the round that is open.
pub(super) fn still_wanted(vb: VirtioBalloon) -> bool {
    cmd_id_active(vb) == virtio_balloon_cmd_id_received(vb)
}

/// Sleeps until the device has used the buffer that carries `data`, and collects those before it. It ends without the buffer as [`wait_for_ack`] does.
pub(super) fn wait_for_buffer(vb: VirtioBalloon, data: u64) -> Result<(), Errno> {
    let vq = Virtqueue::at(vb.free_page_vq().get());
    let mut used = false;
    wait_event(vb.acked_queue(), || {
        while !used && let Some(buffer) = vq.get_buf() {
            used = buffer.data == data;
        }
        used || vq.broken().get() != 0 || vb.stop_update().get() != 0
    });
    match used {
        true => Ok(()),
        false if vq.broken().get() != 0 => Err(Errno::Io),
        false => Err(Errno::NoDev),
    }
}

/// Exposes one of the two ids, 4 bytes. The ids are waited for like hints: by the proposal.
fn send_cmd_id(vb: VirtioBalloon, id: u64, announce: impl FnOnce()) -> Result<(), Errno> {
    send_id(vb, Scatter { addr: id, len_bytes: 4 }, announce)
}

fn send_id(vb: VirtioBalloon, id: Scatter, announce: impl FnOnce()) -> Result<(), Errno> {
    let vq = Virtqueue::at(vb.free_page_vq().get());
    vq.add_outbuf(id, vb.addr(), |_head| announce())?;
    vq.kick();
    wait_for_ack(vb)
}

/// A command id as the device reads it, or back: little-endian, as this machine has it anyway.
fn wire_cmd_id(id: u32) -> u32 {
    // In the order of a big-endian machine the device never finds its id.
    if faulty(fault::CMDID_BE) { id.swap_bytes() } else { id }
}

/// The id of the round that runs or ran last.
fn cmd_id_active(vb: VirtioBalloon) -> u32 {
    wire_cmd_id(vb.cmd_id_active().get())
}

/// Whether start and stop have one buffer for both, so that a stop overwrites a start that the device has not read. Linux: never since the driver was merged;
/// [v24] to [v28] of its series did ("use a separate buffer for the stop cmd", v29).
fn stop_shares_buffer() -> bool {
    switch::faulty(fault::STOP_OVERWRITES_START) || dialect::posted_before_v29() && !switch::corrected(correct::STOP_IN_START)
}

/// Opens a round under the id that the device wants. The id is stored where the start of the round before lies: a device that has not
/// read that one yet will read this one, twice. So does Linux, unless HINT_WAIT_ON_ACK makes it wait for each. Linux: send_cmd_id_start().
fn send_cmd_id_start(vb: VirtioBalloon) -> Result<(), Errno> {
    drained_free_page_vq(vb);
    let id = virtio_balloon_cmd_id_received(vb);
    vb.cmd_id_active().set(wire_cmd_id(id));
    let buffer = if stop_shares_buffer() { vb.cmd_id_stop() } else { vb.cmd_id_active() };
    buffer.set(wire_cmd_id(id));
    if mannered(boot_flag::START_WITH_HINT) {
        return Ok(());
    }
    send_cmd_id(vb, buffer.addr(), || arch::trace(HINT_START, u64::from(buffer.get()), 0))
}

/// Closes the round. Linux: send_cmd_id_stop().
fn send_cmd_id_stop(vb: VirtioBalloon) -> Result<(), Errno> {
    drained_free_page_vq(vb);
    if stop_shares_buffer() {
        vb.cmd_id_stop().set(CMD_ID_STOP);
    }
    let len_bytes = if mannered(boot_flag::SHORT_STOP_ID) { 2 } else { 4 };
    send_id(vb, Scatter { addr: vb.cmd_id_stop().addr(), len_bytes }, || arch::trace(HINT_STOP, 0, 0))
}

/// Takes one block and hints it; `NoSpc` when the allocator has none. Linux: get_free_page_and_send().
/// Differs: a block that the device did not give back is kept aside until the device is reset; by the proposal there is none.
pub(super) fn get_free_page_and_send(vb: VirtioBalloon, gfp: Gfp) -> Result<(), Errno> {
    hint_block(vb, gfp, false).map(|_hinted| ())
}

/// The same, if asked for with the round's id in the same chain. Returns whether there was room for it.
fn hint_block(vb: VirtioBalloon, gfp: Gfp, start: bool) -> Result<bool, Errno> {
    let vq = drained_free_page_vq(vb);
    let Some(block) = mm::alloc_pages(gfp, HINT_BLOCK_ORDER) else { return Err(Errno::NoSpc) };
    // One entry is kept for the stop id.
    if vq.num_free().get() <= u32::from(start) + u32::from(mannered(boot_flag::HINT_IN_TWO)) + 1 {
        // No room: the block is given back, and the loop goes on until the device has made some.
        mm::free_pages(block, HINT_BLOCK_ORDER);
        return Ok(false);
    }
    let half = Scatter { addr: block.addr(), len_bytes: HINT_BLOCK_BYTES / 2 };
    let halves = [half, Scatter { addr: half.addr + u64::from(half.len_bytes), ..half }];
    let whole = [Scatter { addr: block.addr(), len_bytes: HINT_BLOCK_BYTES }];
    let ins = if mannered(boot_flag::HINT_IN_TWO) { &halves[..] } else { &whole };
    let id = [Scatter { addr: vb.cmd_id_active().addr(), len_bytes: 4 }];
    let order_and_head = |head: u16| u64::from(HINT_BLOCK_ORDER) | u64::from(head) << 32;
    let added = vq.add(if start { &id } else { &[] }, ins, block.addr(), |head| {
        if start {
            arch::trace(HINT_START, u64::from(vb.cmd_id_active().get()), 0);
        }
        arch::trace(HINT, block.0, order_and_head(head));
    });
    if let Err(errno) = added {
        mm::free_pages(block, HINT_BLOCK_ORDER);
        return Err(errno);
    }
    vq.kick();
    if let Err(errno) = wait_for_ack(vb) {
        vb.keep_unacked_block(block, HINT_BLOCK_ORDER);
        return Err(errno);
    }
    // Only now does the shrinker find the block. Without HINT_WAIT_ON_ACK the device may have used the hint already, or not.
    vb.free_page_list_spinlock().lock_irq();
    list::list_add(Page::of(block).lru(), vb.free_page_list().addr());
    vb.num_free_page_blocks().set(vb.num_free_page_blocks().get() + 1);
    vb.free_page_list_spinlock().unlock_irq();
    Ok(true)
}

/// Hints block after block, until none is left or the device wants no more. Linux: send_free_pages().
pub(super) fn send_free_pages(vb: VirtioBalloon) -> Result<(), Errno> {
    let mut start = mannered(boot_flag::START_WITH_HINT);
    while still_wanted(vb) {
        match hint_block(vb, Gfp::FREE_PAGE_HINT, start) {
            Ok(hinted) => {
                start &= !hinted;
                repeat_start_if_asked(vb)?;
            }
            Err(Errno::NoSpc) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Exposes the start buffer once more when a task has asked for that. Differs: Linux never does.
fn repeat_start_if_asked(vb: VirtioBalloon) -> Result<(), Errno> {
    let Some(left) = vb.repeat_start_after().get().checked_sub(1) else { return Ok(()) };
    vb.repeat_start_after().set(left);
    if left > 0 {
        return Ok(());
    }
    send_cmd_id(vb, vb.cmd_id_active().addr(), || arch::trace(HINT_START, u64::from(vb.cmd_id_active().get()), 0))
}

/// One round: start, hints, stop. What fails is said and otherwise ignored: a round whose start did not fit hints all the same.
/// Linux: virtio_balloon_report_free_page(). Differs: a driver that is being removed sends no more.
fn virtio_balloon_report_free_page(vb: VirtioBalloon) {
    let steps: [(Step, &str); 3] = [
        (send_cmd_id_start, "virtio_balloon: failed to send the start id"),
        (dialect::send_free_pages, "virtio_balloon: failed to send a free page"),
        (send_cmd_id_stop, "virtio_balloon: failed to send the stop id"),
    ];
    for (step, complaint) in steps {
        match step(vb) {
            Ok(()) => {}
            Err(Errno::NoDev) => return,
            Err(Errno::Inval | Errno::Io | Errno::NoEnt | Errno::NoMem | Errno::NoSpc | Errno::NxIo) => warn(complaint),
        }
    }
}

/// The work on the balloon's own queue. Linux: report_free_page_func().
pub fn report_free_page_func(vb: u64) {
    let vb = VirtioBalloon::at(vb);
    let id = virtio_balloon_cmd_id_received(vb);
    if id == CMD_ID_DONE {
        return_free_pages_to_mm(vb, u64::MAX, HINT_RETURN);
    } else if id != CMD_ID_STOP && id != cmd_id_active(vb) {
        virtio_balloon_report_free_page(vb);
    }
}

/// Frees the block that the device did not give back, once it is reset and cannot use it any more. Differs: by the proposal there is none.
pub fn return_unacked_block(vb: VirtioBalloon) {
    let Some((block, order)) = vb.take_unacked_block() else { return };
    arch::trace(HINT_RETURN, block.0, u64::from(order));
    mm::free_pages(block, order);
}

/// Frees at most `num_to_return` hinted blocks, the last hinted first; returns how many. `code` is the tracepoint that says why. The lock is
/// held, interrupts off, over the whole loop. Linux: return_free_pages_to_mm().
pub fn return_free_pages_to_mm(vb: VirtioBalloon, num_to_return: u64, code: u32) -> u64 {
    let list = vb.free_page_list().addr();
    let mut num_returned = 0;
    vb.free_page_list_spinlock().lock_irq();
    while num_returned < num_to_return {
        let Some(node) = list::first(list) else { break };
        let block = Page::of_lru(node).pfn();
        arch::trace(code, block.0, u64::from(HINT_BLOCK_ORDER));
        list::list_del(node);
        mm::free_pages(block, HINT_BLOCK_ORDER);
        num_returned += 1;
    }
    let blocks = vb.num_free_page_blocks().get();
    assert!(blocks >= num_returned, "more hinted blocks on the list than counted");
    vb.num_free_page_blocks().set(blocks - num_returned);
    vb.free_page_list_spinlock().unlock_irq();
    num_returned
}
