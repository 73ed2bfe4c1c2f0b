//! HINT_WAIT_ON_ACK: the driver against a device that takes its time with hints, and against one that never answers.

use super::*;

const WITH_ACK: u64 = ALL | feature::HINT_WAIT_ON_ACK;

/// A driver whose hints the device keeps; `answer` runs each time the driver waits, with the number of the wait from 1.
fn waiting(queue_size: Option<u16>, answer: impl Fn(&Rc<RefCell<Device>>, u32) + 'static) -> (Rc<RefCell<Device>>, VirtioBalloon) {
    let device = machine(RAM_BYTES, WITH_ACK, 0);
    if let Some(size) = queue_size {
        device.borrow_mut().sizes[FREE_PAGE_VQ as usize] = size;
    }
    device.borrow_mut().lazy.push(FREE_PAGE_VQ);
    bus::device_attach(wire::balloon::DEVICE_ID, &VIRTIO_BALLOON_DRIVER, 0).expect("probe");
    let device_there = device.clone();
    let mut waits = 0;
    arch::set_wait_hook(move || {
        waits += 1;
        assert!(waits < 100, "the driver waits for ever");
        answer(&device_there, waits);
    });
    let vb = the_balloon();
    (device, vb)
}

fn the_balloon() -> VirtioBalloon {
    VirtioBalloon::at(VirtioDevice::the().private().get())
}

/// The device uses the newest buffer that it took, and interrupts.
fn use_newest(device: &Rc<RefCell<Device>>) {
    let head = device.borrow().taken.last().expect("a buffer").head;
    device.borrow_mut().push_used(FREE_PAGE_VQ, head);
    irq::raise_for_test(vector::VIRTIO);
}

fn newest_buffer(device: &Rc<RefCell<Device>>) -> (u64, u32, u16) {
    device.borrow().taken.last().expect("a buffer").buffers[0]
}

/// Opens a round as a work that runs now, without the works of both queues.
fn start_round(device: &Rc<RefCell<Device>>) {
    change_config(device, config::FREE_PAGE_HINT_CMD_ID, ROUND);
    assert!(process_one_work(Workqueue::Balloon));
}

#[test]
fn waiting_is_negotiated_with_hints_alone() {
    let negotiated = |offered| probed(offered, 0).1.device().features().get() & feature::HINT_WAIT_ON_ACK;
    assert_eq!(negotiated(WITH_ACK), feature::HINT_WAIT_ON_ACK);
    assert_eq!(negotiated(ALL), 0, "not offered");
    assert_eq!(negotiated(WITH_ACK & !feature::FREE_PAGE_HINT), 0, "nothing to wait for");
}

#[test]
fn only_a_driver_that_waits_wants_interrupts_for_hints() {
    let wants = |offered| {
        let vq = Virtqueue::at(probed(offered, 0).1.free_page_vq().get());
        arch::read16(vq.avail().get()) & wire::vring::AVAIL_F_NO_INTERRUPT == 0
    };
    assert!(wants(WITH_ACK));
    assert!(!wants(ALL));
}

#[test]
fn a_block_is_listed_only_behind_its_used_buffer() {
    let (_device, vb) = waiting(None, |device, _| use_newest(device));
    arch::take_traces();
    hinting::get_free_page_and_send(vb, Gfp::FREE_PAGE_HINT).expect("a block");
    let order = traced_in_order(&[debug::HINT, debug::VQ_ADD, debug::KICK, debug::VQ_GET, debug::LOCK]);
    let order: Vec<(u32, u64)> =
        order.into_iter().filter(|(code, lock)| *code != debug::LOCK || *lock == debug::lock::FREE_PAGE_LIST).collect();
    let codes: Vec<u32> = order.iter().map(|trace| trace.0).collect();
    assert_eq!(codes, [debug::HINT, debug::VQ_ADD, debug::KICK, debug::VQ_GET, debug::LOCK]);
    assert_eq!(vb.num_free_page_blocks().get(), 1);
}

#[test]
fn the_shrinker_cannot_take_a_block_that_the_device_has_not_used() {
    let (device, vb) = waiting(None, |device, wait| {
        let vb = the_balloon();
        let (hinted, len, _) = newest_buffer(device);
        let listed = vb.num_free_page_blocks().get();
        arch::take_traces();
        assert_eq!(shrinker::shrink_pages(u64::MAX / 2), listed * 1024, "all that is listed, and no more");
        let reclaimed = traced(debug::HINT_RECLAIM);
        assert!(len == 4 || !reclaimed.contains(&(hinted >> 12)), "the device still holds it");
        if wait == 6 {
            // What comes back is hinted again, so the round has no other end.
            change_config(device, config::FREE_PAGE_HINT_CMD_ID, CMD_ID_STOP);
        }
        use_newest(device);
    });
    device.borrow_mut().taken.clear();
    start_round(&device);
    assert_eq!(device.borrow_mut().drain_taken(FREE_PAGE_VQ).len(), 7, "start, five hints, stop");
    assert_eq!(vb.num_free_page_blocks().get(), 0, "the last one went while the driver waited for its stop id");
}

#[test]
fn each_buffer_of_a_round_is_waited_for() {
    let (device, vb) = waiting(None, |device, wait| {
        assert_eq!(device.borrow().taken.iter().filter(|chain| chain.queue == FREE_PAGE_VQ).count(), wait as usize, "one at a time");
        use_newest(device);
    });
    device.borrow_mut().taken.clear();
    start_round(&device);
    let round = device.borrow_mut().drain_taken(FREE_PAGE_VQ);
    assert_eq!(round.first().map(|chain| chain.bytes.clone()), Some(ROUND.to_le_bytes().to_vec()));
    assert_eq!(round.last().map(|chain| chain.bytes.clone()), Some(CMD_ID_STOP.to_le_bytes().to_vec()));
    assert_eq!(vb.num_free_page_blocks().get(), round.len() as u64 - 2);
    assert!(round.len() >= 5);
    let vq = Virtqueue::at(vb.free_page_vq().get());
    assert_eq!(vq.num_free().get(), vq.num().get(), "the driver leaves nothing in the queue");
}

#[test]
fn a_queue_of_two_entries_gives_no_block_back() {
    let (device, vb) = waiting(Some(2), |device, _| use_newest(device));
    arch::take_traces();
    start_round(&device);
    assert!(vb.num_free_page_blocks().get() >= 3);
    assert_eq!(traced(debug::FREE).len(), 0, "there is always room");
}

#[test]
fn an_interrupt_for_something_else_does_not_end_the_wait() {
    let (device, vb) = waiting(None, |device, wait| {
        if wait % 2 == 1 {
            assert_eq!(the_balloon().num_free_page_blocks().get(), 0);
            change_config(device, config::NUM_PAGES, 0);
            the_balloon().acked_queue().wake_up();
        } else {
            use_newest(device);
        }
    });
    hinting::get_free_page_and_send(vb, Gfp::FREE_PAGE_HINT).expect("a block");
    assert_eq!(vb.num_free_page_blocks().get(), 1);
    assert!(device.borrow().taken.len() > 1);
}

#[test]
fn an_id_that_changes_does_not_end_the_wait_and_ends_the_round_behind_it() {
    for id in [CMD_ID_STOP, CMD_ID_DONE, ROUND + 1] {
        let (device, vb) = waiting(None, move |device, wait| match wait {
            1 => use_newest(device),
            2 => {
                // The first hint. STOP in the configuration does not say that the device applies none: QEMU shows it all through a round.
                change_config(device, config::FREE_PAGE_HINT_CMD_ID, id);
                assert_eq!(the_balloon().num_free_page_blocks().get(), 0);
            }
            3 => {
                assert_eq!(device.borrow().taken.last().map(|chain| chain.buffers[0].1), Some(HINT_BLOCK_BYTES), "nothing else was sent");
                use_newest(device);
            }
            _ => use_newest(device),
        });
        device.borrow_mut().taken.clear();
        start_round(&device);
        let round = device.borrow_mut().drain_taken(FREE_PAGE_VQ);
        assert_eq!(round.len(), 3, "start, one hint, stop, with id {id:#x}");
        assert_eq!(vb.num_free_page_blocks().get(), 1);
        // DONE comes to its right as soon as the work runs again.
        process_one_work(Workqueue::Balloon);
        assert_eq!(vb.num_free_page_blocks().get() == 0, id == CMD_ID_DONE);
    }
}

#[test]
fn a_start_id_is_not_rewritten_while_the_device_may_read_it() {
    let (device, _) = waiting(None, |device, wait| {
        let (addr, len, _) = newest_buffer(device);
        if wait == 1 {
            change_config(device, config::FREE_PAGE_HINT_CMD_ID, ROUND + 1);
            assert_eq!((arch::read32(addr), len), (ROUND, 4));
        } else {
            use_newest(device);
        }
    });
    device.borrow_mut().taken.clear();
    start_round(&device);
    process_one_work(Workqueue::Balloon);
    let ids: Vec<Vec<u8>> =
        device.borrow_mut().drain_taken(FREE_PAGE_VQ).into_iter().map(|chain| chain.bytes).filter(|id| !id.is_empty()).collect();
    let expected = [ROUND, CMD_ID_STOP, ROUND + 1, CMD_ID_STOP].map(|id| id.to_le_bytes().to_vec());
    assert_eq!(ids, expected);
}

/// A removal that comes when the driver waits for the `nth` time: what it does before it waits for the work to end.
fn called_off_at(nth: u32) -> impl Fn(&Rc<RefCell<Device>>, u32) {
    move |device, wait| {
        if wait < nth {
            use_newest(device);
        } else {
            assert_eq!(wait, nth, "called off once, it waits for nothing more");
            the_balloon().stop_update().set(1);
            the_balloon().acked_queue().wake_up();
        }
    }
}

#[test]
fn a_removal_calls_the_wait_off_and_frees_the_block_behind_the_reset() {
    for nth in [1, 2, 3] {
        let device = machine(RAM_BYTES, WITH_ACK, 0);
        let free = free_pages_now();
        drop(device);
        let (device, vb) = waiting(None, called_off_at(nth));
        arch::take_traces();
        start_round(&device);
        assert_eq!(vb.unacked_block().get() != 0, nth > 1, "the start id is no block");
        assert_eq!(vb.num_free_page_blocks().get(), u64::from(nth.saturating_sub(2)));
        assert_eq!(traced(debug::WARN).len(), 0, "nothing went wrong");
        let unacked = vb.unacked_block().get() >> 12;
        bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
        let returned = traced(debug::HINT_RETURN);
        assert_eq!(returned.last().copied().filter(|_| nth > 1), (nth > 1).then_some(unacked));
        assert_eq!(returned.len() as u32, nth - 1);
        assert_eq!(free_pages_now(), free);
        device.borrow_mut().config = [0; 4];
        bus::bind(&VIRTIO_BALLOON_DRIVER, 0).expect("unbound");
        assert_eq!(the_balloon().unacked_block().get(), 0);
    }
}

#[test]
fn a_block_that_did_not_come_back_is_freed_only_after_the_reset() {
    let (device, _) = waiting(None, called_off_at(2));
    start_round(&device);
    device.borrow_mut().writes.clear();
    arch::take_traces();
    let reset_before_return = Rc::new(RefCell::new(None));
    let (seen, there) = (reset_before_return.clone(), device.clone());
    // Every access to the device is behind or before the return; the reset must be before.
    arch::set_mmio_hook(move |access| {
        let returned = arch::take_traces().iter().any(|trace| trace.0 == debug::HINT_RETURN);
        if returned && seen.borrow().is_none() {
            *seen.borrow_mut() = Some(there.borrow().status == 0);
        }
        there.borrow_mut().access(access)
    });
    bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
    assert_eq!(*reset_before_return.borrow(), Some(true));
}

#[test]
fn a_queue_that_the_device_spoils_ends_the_wait_and_the_block_stays_aside() {
    let (device, vb) = waiting(None, |device, wait| {
        if wait == 2 {
            device.borrow_mut().push_used(FREE_PAGE_VQ, u16::MAX);
            irq::raise_for_test(vector::VIRTIO);
        } else {
            use_newest(device);
        }
    });
    start_round(&device);
    assert_eq!((vb.num_free_page_blocks().get(), vb.unacked_block().get() != 0), (0, true));
    assert_eq!(shrinker::shrink_pages(1024), 0);
    // Another round finds the queue broken and waits for nothing.
    change_config(&device, config::FREE_PAGE_HINT_CMD_ID, ROUND + 1);
    process_one_work(Workqueue::Balloon);
    bus::unbind(&VIRTIO_BALLOON_DRIVER).expect("bound");
}
