//! The ring against a device in a dozen lines.

use proptest::prelude::*;
use wire::debug::{KICK, VQ_ADD, VQ_GET};
use wire::vring;

use super::*;
use crate::kernel::boot::init_for_test;
use crate::mm::pcp::drain_all_pages;
use crate::mm::stats::si_meminfo;

const DEVICE: u64 = 0x5_0000;
const TOKEN: u64 = 0x1000;

/// A descriptor's address, length and flags.
type Buffer = (u64, u32, u16);

/// The other side of a queue: takes what is available, uses it in any order.
#[derive(Debug, Default)]
struct Device {
    seen: u16,
    used: u16,
    held: Vec<(u16, Vec<Buffer>)>,
}

impl Device {
    /// Takes every chain that is available.
    fn take_available(&mut self, vq: Virtqueue) {
        let num = vq.num().get() as u16;
        while self.seen != arch::read16(vq.avail().get() + vring::IDX) {
            let head = arch::read16(vq.avail().get() + vring::AVAIL_RING + u64::from(self.seen % num) * 2);
            let mut chain = Vec::new();
            let mut at = head;
            loop {
                let desc = vq.desc().get() + u64::from(at) * vring::DESC_BYTES;
                let flags = arch::read16(desc + 12);
                chain.push((arch::read64(desc), arch::read32(desc + 8), flags));
                if flags & vring::DESC_F_NEXT == 0 {
                    break;
                }
                at = arch::read16(desc + 14);
            }
            self.held.push((head, chain));
            self.seen = self.seen.wrapping_add(1);
        }
    }

    /// Uses the chain held at `index`, modulo their number; returns its buffers.
    fn use_one(&mut self, vq: Virtqueue, index: usize) -> Vec<Buffer> {
        let (head, chain) = self.held.remove(index % self.held.len());
        self.push_used(vq, u32::from(head));
        chain
    }

    fn push_used(&mut self, vq: Virtqueue, id: u32) {
        let slot = u64::from(self.used % vq.num().get() as u16);
        let element = vq.used().get() + vring::USED_RING + slot * vring::USED_ELEM_BYTES;
        arch::write32(element, id);
        arch::write32(element + 4, 0);
        self.used = self.used.wrapping_add(1);
        arch::write16(vq.used().get() + vring::IDX, self.used);
    }
}

fn queue(num: u32, callback: u64) -> Virtqueue {
    init_for_test(16 << 20, 1);
    let vq = Virtqueue::create(3, num, DEVICE, callback).expect("memory for a queue");
    arch::take_traces();
    vq
}

fn buffer(addr: u64) -> Scatter {
    Scatter { addr, len_bytes: 16 }
}

/// The tracepoints that queues say, without those of the allocator and its locks.
fn queue_traces() -> Vec<(u32, u64, u64)> {
    arch::take_traces().into_iter().filter(|trace| [KICK, VQ_ADD, VQ_GET].contains(&trace.0)).collect()
}

#[test]
fn sizes_are_those_of_the_layout() {
    assert_eq!(vring_size(128), 4096 + 6 + 128 * 8);
    assert_eq!(vring_size(1024), 20480 + 6 + 1024 * 8);
    assert_eq!((get_order(1), get_order(4096), get_order(4097), get_order(28678)), (0, 0, 1, 3));
}

#[test]
fn a_queue_without_callback_asks_for_no_interrupts() {
    let flags = |vq: Virtqueue| arch::read16(vq.avail().get());
    assert_eq!(flags(queue(128, 0)), vring::AVAIL_F_NO_INTERRUPT);
    assert_eq!(flags(queue(128, 1)), 0);
}

#[test]
fn deleting_a_queue_frees_all_that_it_took() {
    init_for_test(16 << 20, 1);
    drain_all_pages();
    let free = si_meminfo().freeram;
    for _ in 0..3 {
        Virtqueue::create(0, 1024, DEVICE, 0).expect("memory for a queue").delete();
    }
    drain_all_pages();
    assert_eq!(si_meminfo().freeram, free);
}

#[test]
fn a_buffer_is_announced_before_its_index_is_raised() {
    let vq = queue(128, 0);
    vq.add_outbuf(buffer(0x9000), TOKEN, |head| {
        assert_eq!(head, 0);
        assert_eq!(arch::read16(vq.avail().get() + vring::IDX), 0);
        assert_eq!(arch::read64(vq.desc().get()), 0x9000);
    })
    .expect("room");
    assert_eq!(arch::read16(vq.avail().get() + vring::IDX), 1);
    vq.kick();
    assert_eq!(queue_traces(), [(VQ_ADD, 3, 0), (KICK, 3, 0)]);
}

#[test]
fn a_device_that_wants_peace_is_not_kicked() {
    let vq = queue(128, 0);
    arch::write16(vq.used().get(), vring::USED_F_NO_NOTIFY);
    vq.add_outbuf(buffer(0x9000), TOKEN, |_| {}).expect("room");
    assert!(vq.kick());
    assert_eq!(queue_traces(), [(VQ_ADD, 3, 0)]);
}

#[test]
fn a_full_ring_refuses_and_kicks_for_buffers_to_read_only() {
    let vq = queue(2, 0);
    vq.add_inbuf(&[buffer(0x9000), buffer(0xa000)], TOKEN, |_| {}).expect("room");
    arch::take_traces();
    assert_eq!(vq.add_inbuf(&[buffer(0xb000)], TOKEN, |_| panic!("announced")), Err(Errno::NoSpc));
    assert_eq!(queue_traces(), []);
    assert_eq!(vq.add_outbuf(buffer(0xb000), TOKEN, |_| panic!("announced")), Err(Errno::NoSpc));
    assert_eq!(queue_traces(), [(KICK, 3, 0)]);
}

#[test]
fn a_used_id_that_is_no_head_breaks_the_queue() {
    for id in [1, 128, u32::MAX] {
        let vq = queue(128, 0);
        let mut device = Device::default();
        vq.add_outbuf(buffer(0x9000), TOKEN, |_| {}).expect("room");
        device.push_used(vq, id);
        assert_eq!(vq.get_buf(), None);
        assert_eq!(vq.broken().get(), 1);
        assert_eq!(vq.add_outbuf(buffer(0x9000), TOKEN, |_| {}), Err(Errno::Io));
    }
}

#[test]
fn a_used_chain_comes_back_whole() {
    let vq = queue(4, 0);
    let mut device = Device::default();
    vq.add_inbuf(&[buffer(0x9000), buffer(0xa000), buffer(0xb000)], TOKEN, |_| {}).expect("room");
    device.take_available(vq);
    let flags: Vec<u16> = device.use_one(vq, 0).iter().map(|buffer| buffer.2).collect();
    assert_eq!(flags, [3, 3, 2]);
    assert_eq!(vq.get_buf(), Some(Used { data: TOKEN, len_bytes: 0 }));
    assert_eq!((vq.num_free().get(), vq.get_buf()), (4, None));
}

/// One move of either side.
#[derive(Debug, Clone)]
enum Move {
    Add { buffers: usize },
    Kick,
    Take,
    Use { index: usize },
    Get,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (1..4usize).prop_map(|buffers| Move::Add { buffers }),
        1 => Just(Move::Kick),
        2 => Just(Move::Take),
        3 => (0..8usize).prop_map(|index| Move::Use { index }),
        3 => Just(Move::Get),
    ];
    proptest::collection::vec(one, 0..200)
}

/// What both sides must agree on, kept by counting.
#[derive(Debug, Default)]
struct Books {
    next_token: u64,
    out: std::collections::BTreeMap<u64, usize>,
    used: std::collections::VecDeque<u64>,
}

fn apply(step: &Move, vq: Virtqueue, device: &mut Device, books: &mut Books) {
    match *step {
        Move::Add { buffers } => {
            books.next_token += 8;
            let token = books.next_token;
            let sgs: Vec<Scatter> = (0..buffers as u64).map(|i| buffer(token << 16 | i << 4)).collect();
            let fits = vq.num_free().get() as usize >= buffers;
            assert_eq!(vq.add_inbuf(&sgs, token, |_| {}).is_ok(), fits);
            if fits {
                books.out.insert(token, buffers);
            }
        }
        Move::Kick => assert!(vq.kick()),
        Move::Take => device.take_available(vq),
        Move::Use { index } => {
            if !device.held.is_empty() {
                let chain = device.use_one(vq, index);
                let token = chain[0].0 >> 16;
                assert_eq!(Some(&chain.len()), books.out.get(&token));
                assert!(chain.iter().enumerate().all(|(i, buffer)| buffer.0 == token << 16 | (i as u64) << 4));
                books.used.push_back(token);
            }
        }
        Move::Get => {
            let expected = books.used.pop_front();
            assert_eq!(vq.get_buf().map(|used| used.data), expected);
            if let Some(token) = expected {
                books.out.remove(&token);
            }
        }
    }
}

proptest! {
    #[test]
    fn every_buffer_comes_back_once_and_descriptors_are_conserved(steps in moves(), num in prop::sample::select(vec![2u32, 4, 8, 16])) {
        let vq = queue(num, 0);
        let (mut device, mut books) = (Device::default(), Books::default());
        for step in &steps {
            apply(step, vq, &mut device, &mut books);
            let exposed: usize = books.out.values().sum();
            prop_assert_eq!(vq.num_free().get() as usize + exposed, num as usize);
        }
        device.take_available(vq);
        while !device.held.is_empty() {
            apply(&Move::Use { index: 0 }, vq, &mut device, &mut books);
        }
        while !books.used.is_empty() {
            apply(&Move::Get, vq, &mut device, &mut books);
        }
        prop_assert!(books.out.is_empty());
        prop_assert_eq!(vq.num_free().get(), num);
    }
}
