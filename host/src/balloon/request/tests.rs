//! Requests and responses: who asks when, which responses count, what ranges look like, and what a driver gets wrong.

use proptest::prelude::*;

use super::super::testing::{Buf, DEFLATE, HINT, INFLATE, RAM_PAGES, Rig, range, request_options};
use super::*;
use crate::event::{Actor, EventKind, HintStatus, PrecopyReason};
use crate::fault::Fault;
use crate::migration::notifier::{NotifyAction, PrecopyNotifier};
use crate::step::Move;
use wire::balloon::{config, seed_feature};
use wire::virtio::{isr, mmio};

const V6: Format = Format { words: Words::Packed, whole_id: false };
const V8: Format = Format { words: Words::Chunks, whole_id: false };
const WHOLE: Format = Format { words: Words::Packed, whole_id: true };
const ID: CmdId = CmdId(0x8000_0001);
const USED: Event = Event::DeviceIrq { cause: isr::USED_BUFFER };
/// Where the request's buffer, headers and data lie.
const REQUEST: u64 = 0x30_0000;
const RESPONSE: u64 = 0x31_0000;

/// A word as v6 packs it.
fn packed(first: u64, count: u64) -> u64 {
    assert!(count < 1 << 12, "{count} pages take two words");
    first << 12 | count
}

fn chunk(first: u64, count: u64) -> [u64; 2] {
    [first << 12, count << 12]
}

impl Rig {
    /// The driver lends a buffer for a request.
    fn lend(&mut self) {
        self.send(&[Buf::Write(REQUEST, request::REQUEST_BYTES as u32)]);
    }

    fn request_words(&self) -> [u64; 2] {
        let mut bytes = [0; 16];
        self.ram.read(REQUEST, &mut bytes);
        [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
    }

    /// A response in one descriptor, its header as it is given.
    fn respond_with(&mut self, header: &[u8], words: &[u64]) {
        let mut bytes = header.to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.ram.write(RESPONSE, &bytes);
        self.send(&[Buf::Read(RESPONSE, bytes.len() as u32)]);
    }

    fn respond(&mut self, id: u16, flag: u8, words: &[u64]) {
        self.respond_with(&header(id, flag, 8 * words.len() as u32), words);
    }

    fn asked(format: Format) -> Rig {
        let mut rig = Rig::requests(format);
        rig.lend();
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.take_events();
        rig
    }
}

fn header(id: u16, flag: u8, data_len: u32) -> [u8; 8] {
    let [id_low, id_high] = id.to_le_bytes();
    let [a, b, c, d] = data_len.to_le_bytes();
    [0, flag, id_low, id_high, a, b, c, d]
}

fn pop(head: u16, element: HintElement) -> Event {
    Event::HintPop { head, element }
}

#[test]
fn one_round_in_order() {
    let mut rig = Rig::requests(V6);
    rig.lend();
    assert_eq!(rig.take_events(), [pop(0, HintElement::Request)], "the buffer is kept");
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.take_events(), [Event::HintRequest { id: ID }, Event::HintAsk { head: 0, id: ID }, USED]);
    assert_eq!(rig.used(HINT), [(0, 16)]);
    assert_eq!(rig.request_words(), [0, u64::from(ID.0)]);
    rig.respond(1, request::FLAG_CONT, &[packed(0x300, 2)]);
    rig.respond(1, request::FLAG_DONE, &[packed(0x310, 1)]);
    let (first, second) = (range(0x300, 2), range(0x310, 1));
    let expected = [
        pop(1, HintElement::Id(CmdId(1))),
        pop(1, HintElement::Pages(first)),
        Event::HintStart { id: ID },
        Event::HintApply { range: first, id: ID, cleared: 2 },
        Event::HintPush { head: 1, len: 0 },
        USED,
        pop(2, HintElement::Id(CmdId(1))),
        pop(2, HintElement::Pages(second)),
        pop(2, HintElement::Last),
        Event::HintApply { range: second, id: ID, cleared: 1 },
        Event::HintStop { from: HintStatus::Start },
        Event::HintPush { head: 2, len: 0 },
        USED,
    ];
    assert_eq!(rig.take_events(), expected);
    assert_eq!(rig.used(HINT), [(0, 16), (1, 0), (2, 0)]);
}

#[test]
fn a_request_without_a_buffer_waits_for_one() {
    let mut rig = Rig::requests(V6);
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.take_events(), [Event::HintRequest { id: ID }]);
    rig.lend();
    assert_eq!(rig.take_events(), [pop(0, HintElement::Request), Event::HintAsk { head: 0, id: ID }, USED]);
    assert_eq!(rig.used(HINT), [(0, 16)]);
}

#[test]
fn a_round_that_is_over_asks_nobody() {
    for reason in [PrecopyReason::BeforeBitmapSync, PrecopyReason::Cleanup] {
        let mut rig = Rig::requests(V6);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.notify(reason, true);
        rig.take_events();
        rig.lend();
        assert_eq!(rig.take_events(), [pop(0, HintElement::Request)], "{reason:?}");
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        let id = CmdId(ID.0 + 1);
        assert_eq!(rig.take_events(), [Event::HintRequest { id }, Event::HintAsk { head: 0, id }, USED]);
    }
}

#[test]
fn a_second_buffer_comes_back_unused() {
    let mut rig = Rig::requests(V8);
    rig.lend();
    rig.take_events();
    rig.lend();
    assert_eq!(rig.take_events(), [pop(1, HintElement::Request), Event::HintPush { head: 1, len: 0 }, USED]);
    assert_eq!(rig.used(HINT), [(1, 0)]);
}

#[test]
fn a_short_buffer_gets_what_fits() {
    let mut rig = Rig::requests(V8);
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    rig.send(&[Buf::Write(REQUEST, 3), Buf::Write(REQUEST + 0x1000, 5)]);
    assert_eq!(rig.used(HINT), [(0, 8)]);
}

#[test]
fn fault_request_short_says_that_half_was_written() {
    let mut rig = Rig::requests(V6);
    rig.faults.insert(Fault::RequestShort);
    rig.lend();
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.used(HINT), [(0, 8)]);
    assert_eq!(rig.request_words(), [0, u64::from(ID.0)], "all of it stands there");
}

#[test]
fn nobody_is_told_of_a_change_of_the_configuration() {
    let mut rig = Rig::asked(V6);
    for (reason, event) in [
        (PrecopyReason::BeforeBitmapSync, Event::HintStop { from: HintStatus::Requested }),
        (PrecopyReason::Cleanup, Event::HintDone { from: HintStatus::Stop }),
    ] {
        rig.notify(reason, true);
        assert_eq!(rig.take_events(), [event]);
        assert_eq!(rig.config(config::FREE_PAGE_HINT_CMD_ID), u32::MAX, "behind the end");
        assert_eq!(rig.device.saved_cmd_id(), CmdId(0));
    }
}

#[test]
fn a_response_that_is_late_comes_back_and_changes_nothing() {
    for reason in [PrecopyReason::BeforeBitmapSync, PrecopyReason::Cleanup] {
        let mut rig = Rig::asked(V6);
        rig.notify(reason, true);
        rig.take_events();
        rig.respond(1, request::FLAG_DONE, &[packed(0x300, 2)]);
        let status = rig.device.hint_status();
        assert!(rig.take_events().contains(&Event::HintIgnore { range: range(0x300, 2), status }), "{reason:?}");
        assert_eq!((rig.used(HINT).len(), rig.sink.applied.len()), (2, 0));
    }
}

#[test]
fn a_response_of_another_id_neither_starts_nor_stops_a_round() {
    let mut rig = Rig::asked(V6);
    rig.respond(7, request::FLAG_DONE, &[packed(0x300, 2)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Requested);
    rig.respond(1, request::FLAG_CONT, &[]);
    rig.respond(7, request::FLAG_DONE, &[packed(0x300, 2)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Start);
    rig.respond(1, request::FLAG_CONT, &[packed(0x310, 2)]);
    assert_eq!(rig.sink.applied, [(range(0x310, 2), ID)]);
}

/// S8: two ids that differ above their low 16 bits are one to the device.
#[test]
fn a_stale_response_counts_when_sixteen_bits_of_its_id_are_current() {
    let stale = |format: Format, send: &dyn Fn(&mut Rig)| {
        let mut rig = Rig::asked(format);
        rig.faults.insert(Fault::RequestIdStride);
        rig.notify(PrecopyReason::AfterBitmapSync, true);
        rig.take_events();
        send(&mut rig);
        rig.sink.applied
    };
    let id = CmdId(ID.0 + 0x1_0000);
    assert_eq!(stale(V6, &|rig| rig.respond(1, request::FLAG_DONE, &[packed(0x300, 1)])), [(range(0x300, 1), id)]);
    let whole = |id: u32| {
        let mut bytes = header(1, request::FLAG_DONE, 8).to_vec();
        bytes.extend(u64::from(id).to_le_bytes());
        bytes
    };
    assert_eq!(stale(WHOLE, &|rig| rig.respond_with(&whole(ID.0), &[packed(0x300, 1)])), []);
    assert_eq!(stale(WHOLE, &|rig| rig.respond_with(&whole(id.0), &[packed(0x300, 1)])), [(range(0x300, 1), id)]);
}

#[test]
fn header_and_data_may_be_in_one_descriptor_or_in_several() {
    for split in [8, 11, 16, 24] {
        let mut rig = Rig::asked(V8);
        let mut bytes = header(1, request::FLAG_DONE, 32).to_vec();
        bytes.extend([chunk(0x300, 2), chunk(0x310, 3)].concat().iter().flat_map(|word| word.to_le_bytes()));
        rig.ram.write(RESPONSE, &bytes[..split]);
        rig.ram.write(RESPONSE + 0x1000, &bytes[split..]);
        rig.send(&[Buf::Read(RESPONSE, split as u32), Buf::Read(RESPONSE + 0x1000, (bytes.len() - split) as u32)]);
        assert_eq!(rig.sink.applied, [(range(0x300, 2), ID), (range(0x310, 3), ID)], "split at {split}");
        assert_eq!(rig.device.hint_status(), HintStatus::Stop);
    }
}

#[test]
fn reserved_bits_of_a_chunk_mean_nothing() {
    let mut rig = Rig::asked(V8);
    rig.respond(1, request::FLAG_CONT, &[0x30_0fff, 0x2fff]);
    assert_eq!(rig.sink.applied, [(range(0x300, 2), ID)]);
}

/// S3: a length of 4096 in the field of 12 bits makes the device take the next word as the length.
#[test]
fn a_length_that_does_not_fit_its_field_derails_the_decoder() {
    let mut rig = Rig::asked(V6);
    rig.respond(1, request::FLAG_CONT, &[0x300 << 12 | 0x1000, packed(0x400, 1), packed(0x500, 2)]);
    // The first word means page 0x301 with a length of 0x40_0001 pages: not RAM.
    assert!(rig.take_events().contains(&pop(1, HintElement::OutOfRam(Pfn(0x301)))));
    assert_eq!(rig.sink.applied, [(range(0x500, 2), ID)]);
    rig.respond(1, request::FLAG_CONT, &[0x300 << 12, 0x1000 - 0x300]);
    assert_eq!(rig.sink.applied.last(), Some(&(range(0x300, 0x1000 - 0x300), ID)), "two words");
}

#[test]
fn pages_that_are_not_ram_are_passed_over() {
    let outside = [chunk(RAM_PAGES - 1, 2), chunk(RAM_PAGES, 1), chunk(1 << 51, 1), [!0xfff, !0xfff]].concat();
    let mut rig = Rig::asked(V8);
    rig.respond(1, request::FLAG_DONE, &[outside, chunk(RAM_PAGES - 1, 1).to_vec()].concat());
    assert_eq!(rig.sink.applied, [(range(RAM_PAGES - 1, 1), ID)]);
    assert!(!rig.device.transport().broken());
    let mut rig = Rig::asked(V6);
    rig.respond(1, request::FLAG_DONE, &[u64::MAX, u64::MAX << 12, u64::MAX, packed(RAM_PAGES - 1, 1)]);
    assert_eq!(rig.sink.applied, [(range(RAM_PAGES - 1, 1), ID)]);
}

#[test]
fn a_response_that_is_cut_short_breaks_the_device_and_comes_back() {
    let long = header(1, 0, 9);
    for (format, header, words) in [
        (V6, &long[..4], &[][..]),
        (V6, &long[..], &[0x30_0001]),
        (V6, &[1, 0, 1, 0, 8, 0, 0, 0][..], &[0x30_0001]),
        (WHOLE, &long[..], &[]),
        (WHOLE, &super::tests::header(1, 0, 0)[..], &[u64::MAX]),
    ] {
        let mut rig = Rig::asked(format);
        rig.respond_with(header, words);
        let kinds: Vec<_> = rig.take_events().iter().map(Event::kind).collect();
        assert_eq!(kinds, [EventKind::HintPop, EventKind::DeviceBroken, EventKind::DeviceIrq, EventKind::HintPush, EventKind::DeviceIrq]);
        assert_eq!((rig.used(HINT).len(), rig.sink.applied.len()), (2, 0), "{format:?} {header:?} {words:?}");
    }
}

#[test]
fn an_odd_word_is_refused_behind_the_whole_ranges() {
    for (format, words) in [(V8, vec![0x30_0000, 0x1000, 0x31_0000]), (V6, vec![packed(0x300, 1), 0x310 << 12])] {
        let mut rig = Rig::asked(format);
        rig.respond(1, request::FLAG_CONT, &words);
        assert_eq!(rig.sink.applied, [(range(0x300, 1), ID)], "{format:?}");
        assert!(rig.device.transport().broken(), "{format:?}");
    }
}

/// S5: v6 ends with a data descriptor of no byte when nothing is left to tell.
#[test]
fn a_descriptor_of_no_byte_breaks_the_device_and_does_not_come_back() {
    let mut rig = Rig::asked(V6);
    rig.ram.write(RESPONSE, &header(1, request::FLAG_DONE, 0));
    rig.send(&[Buf::Read(RESPONSE, 8), Buf::Read(RESPONSE + 0x1000, 0)]);
    assert_eq!(rig.take_events(), [Event::DeviceBroken { queue: HINT }, Event::DeviceIrq { cause: isr::CONFIG_CHANGE }]);
    assert_eq!(rig.used(HINT).len(), 1, "the request alone");
    let mut rig = Rig::asked(V6);
    rig.respond(1, request::FLAG_DONE, &[]);
    assert_eq!(rig.device.hint_status(), HintStatus::Stop, "a header alone ends the round");
}

#[test]
fn a_driver_is_never_asked_not_to_kick() {
    let mut rig = Rig::asked(V6);
    rig.respond(1, request::FLAG_CONT, &[packed(0x300, 1)]);
    assert_eq!(rig.device.hint_status(), HintStatus::Start);
    assert!(!rig.no_notify(HINT));
    rig.take_events();
    rig.add(HINT, &[Buf::Read(RESPONSE, 16)]);
    rig.run();
    assert_eq!(rig.take_events(), [], "an open round is not polled");
    rig.kick(HINT);
    rig.run();
    assert_eq!(rig.sink.applied.len(), 2);
}

#[test]
fn a_reset_forgets_the_buffer_and_the_request() {
    let mut rig = Rig::requests(V6);
    rig.lend();
    rig.write(mmio::STATUS, 0);
    rig.probe(u64::MAX);
    rig.run();
    rig.take_events();
    rig.notify(PrecopyReason::AfterBitmapSync, true);
    assert_eq!(rig.take_events(), [Event::HintRequest { id: ID }]);
    rig.write(mmio::STATUS, 0);
    assert_eq!(rig.take_events(), [Event::DeviceStatus { status: 0 }, Event::HintStop { from: HintStatus::Requested }]);
    rig.probe(u64::MAX);
    rig.run();
    rig.take_events();
    rig.lend();
    assert_eq!(rig.take_events(), [pop(0, HintElement::Request)]);
}

#[test]
fn a_driver_that_declines_the_queue_is_asked_nothing() {
    let mut rig = Rig::bare(request_options(V6));
    rig.probe(!seed_feature::HOST_REQ_VQ);
    for reason in [PrecopyReason::BeforeBitmapSync, PrecopyReason::AfterBitmapSync, PrecopyReason::Cleanup] {
        assert_eq!(rig.notify(reason, true), None);
    }
    rig.write(mmio::CONFIG + config::POISON_VAL, 7);
    assert_eq!(rig.config(config::POISON_VAL), u32::MAX, "the bit of page-poison means nothing of the kind");
}

#[test]
fn a_stop_waits_for_the_range_at_hand_and_ends_those_behind_it() {
    let mut rig = Rig::asked(V6);
    let words = [packed(0x300, 1), packed(0x310, 1)];
    let mut bytes = header(1, request::FLAG_DONE, 16).to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    rig.ram.write(RESPONSE, &bytes);
    rig.add(HINT, &[Buf::Read(RESPONSE, 24)]);
    rig.kick(HINT);
    rig.run_until(Move::on(EventKind::HintApply, range(0x300, 1)));
    assert_eq!(rig.locks.holder(crate::event::LockId::FreePage), Some(Actor::Iothread), "a whole response is under the lock");
    rig.run();
    assert_eq!(rig.sink.applied.len(), 2);
    assert_eq!(rig.notify(PrecopyReason::AfterBitmapSync, true), Some(NotifyAction::Start));
}

#[test]
fn the_fault_of_repeated_ids_is_another_interfaces() {
    let mut rig = Rig::asked(V6);
    rig.faults.insert(Fault::HintRepeatedId);
    rig.notify(PrecopyReason::BeforeBitmapSync, true);
    rig.respond(1, request::FLAG_DONE, &[packed(0x300, 1)]);
    assert_eq!(rig.sink.applied, []);
}

// ---- inflate and deflate

fn told(rig: &mut Rig, queue: u16, bytes: &[u8]) -> Vec<u64> {
    rig.ram.write(RESPONSE, bytes);
    rig.add(queue, &[Buf::Read(RESPONSE, bytes.len() as u32)]);
    rig.kick(queue);
    rig.run();
    let pages = rig.take_events().into_iter().filter_map(|event| match event {
        Event::BalloonInflate { pfn } | Event::BalloonDeflate { pfn } => Some(pfn.0),
        _ => None,
    });
    pages.collect()
}

#[test]
fn inflated_and_deflated_pages_come_as_ranges() {
    for queue in [INFLATE, DEFLATE] {
        let mut rig = Rig::requests(V6);
        let mut bytes = header(0, 0, 16).to_vec();
        bytes.extend(packed(0x400, 3).to_le_bytes());
        bytes.extend(packed(0x500, 1).to_le_bytes());
        assert_eq!(told(&mut rig, queue, &bytes), [0x400, 0x401, 0x402, 0x500]);
        assert_eq!(told(&mut rig, queue, &bytes[..16]), [0x400, 0x401, 0x402], "what is there counts");
        assert_eq!(told(&mut rig, queue, &bytes[..7]), [0u64; 0]);
        assert_eq!(rig.used(queue).len(), 3);
        let mut rig = Rig::requests(V8);
        let mut bytes = header(0, 0, 16).to_vec();
        bytes.extend(chunk(0x400, 2).iter().flat_map(|word| word.to_le_bytes()));
        assert_eq!(told(&mut rig, queue, &bytes), [0x400, 0x401]);
    }
}

#[test]
fn ranges_outside_ram_are_left_out() {
    let mut rig = Rig::requests(V6);
    let mut bytes = header(0, 0, 24).to_vec();
    bytes.extend([packed(RAM_PAGES - 1, 2), 0x400 << 12, 0].iter().flat_map(|word| word.to_le_bytes()));
    assert_eq!(told(&mut rig, INFLATE, &bytes), [0u64; 0]);
    assert_eq!(rig.used(INFLATE), [(0, 0)]);
}

#[test]
fn without_the_feature_pages_come_one_by_one() {
    let mut rig = Rig::bare(request_options(V6));
    rig.probe(!seed_feature::PAGE_RANGE);
    rig.run();
    rig.take_events();
    assert_eq!(told(&mut rig, INFLATE, &[1, 3, 0, 0, 2, 3, 0, 0]), [0x301, 0x302]);
}

#[test]
fn a_watched_page_of_a_range_begins_a_step_of_its_own() {
    let mut rig = Rig::requests(V6);
    rig.watch.0.insert(Pfn(0x402));
    let mut bytes = header(0, 0, 8).to_vec();
    bytes.extend(packed(0x400, 4).to_le_bytes());
    rig.ram.write(RESPONSE, &bytes);
    rig.add(DEFLATE, &[Buf::Read(RESPONSE, 16)]);
    rig.kick(DEFLATE);
    let mut sizes = Vec::new();
    while rig.main_loop_step() {
        sizes.push(rig.take_events().len());
    }
    assert_eq!(sizes, [0, 2, 3, 0], "lock, two pages, two pages and the interrupt, unlock");
}

// ---- hostile drivers

/// What a driver may do with the request queue.
#[derive(Debug, Clone)]
enum Op {
    Lend(u32),
    Respond { id: u16, flag: u8, cmd: u8, data_len: u32, cut: usize, words: Vec<u64> },
    Inflate(u32, Vec<u64>),
    Notify(PrecopyReason),
    Reset,
    Steps(usize),
}

fn word() -> impl Strategy<Value = u64> {
    let near = 0x300u64..RAM_PAGES + 4;
    prop_oneof![
        4 => (near.clone(), 0u64..8).prop_map(|(first, count)| first << 12 | count),
        2 => near.prop_map(|first| first << 12),
        1 => (0u64..0x2000).prop_map(|count| count),
        1 => any::<u64>(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let words = || prop::collection::vec(word(), 0..6);
    let id = prop_oneof![4 => 0u16..6, 1 => any::<u16>()];
    let cmd = prop_oneof![9 => Just(0u8), 1 => any::<u8>()];
    let flag = prop_oneof![4 => 0u8..2, 1 => any::<u8>()];
    let reason = prop_oneof![
        2 => Just(PrecopyReason::AfterBitmapSync),
        1 => Just(PrecopyReason::BeforeBitmapSync),
        1 => Just(PrecopyReason::Cleanup),
    ];
    prop_oneof![
        3 => prop_oneof![4 => Just(16u32), 1 => 1u32..64].prop_map(Op::Lend),
        6 => (id, flag, cmd, prop_oneof![4 => Just(u32::MAX), 1 => 0u32..64], 0usize..3, words())
            .prop_map(|(id, flag, cmd, data_len, cut, words)| Op::Respond { id, flag, cmd, data_len, cut, words }),
        1 => (0u32..64, words()).prop_map(|(data_len, words)| Op::Inflate(data_len, words)),
        3 => reason.prop_map(Op::Notify),
        1 => Just(Op::Reset),
        6 => (0usize..12).prop_map(Op::Steps),
    ]
}

impl Op {
    fn apply(&self, rig: &mut Rig, at: u64) {
        let place = RESPONSE + at * 0x1000;
        let put = |rig: &mut Rig, header: [u8; 8], words: &[u64], cut: usize| {
            let mut bytes = header.to_vec();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            bytes.truncate(bytes.len() - cut);
            rig.ram.write(place, &bytes);
            bytes.len() as u32
        };
        match self {
            Op::Lend(len) => {
                rig.add(HINT, &[Buf::Write(REQUEST, *len)]);
                rig.kick(HINT);
            }
            Op::Respond { id, flag, cmd, data_len, cut, words } => {
                // Most responses say how long they are.
                let len = if *data_len == u32::MAX { 8 * words.len() as u32 } else { *data_len };
                let mut header = header(*id, *flag, len);
                header[0] = *cmd;
                let len = put(rig, header, words, *cut);
                rig.add(HINT, &[Buf::Read(place, len)]);
                rig.kick(HINT);
            }
            Op::Inflate(data_len, words) => {
                let len = put(rig, header(0, 0, *data_len), words, 0);
                rig.add(INFLATE, &[Buf::Read(place, len)]);
                rig.kick(INFLATE);
            }
            Op::Notify(reason) if rig.locks.holder(crate::event::LockId::FreePage).is_none() => drop(rig.notify(*reason, true)),
            Op::Notify(_) => {}
            Op::Reset => {
                rig.run();
                rig.probe(u64::MAX);
            }
            Op::Steps(count) => {
                for _ in 0..*count {
                    rig.iothread_step();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a driver answers, pages are cleared in an open round alone, all of them RAM, under its id; and what was popped comes back, but for
    /// one buffer that is lent.
    #[test]
    fn no_response_makes_the_host_panic(
        packed: bool, whole_id: bool, ops in prop::collection::vec(op(), 1..40)
    ) {
        let mut rig = Rig::requests(Format { words: if packed { Words::Packed } else { Words::Chunks }, whole_id });
        for (at, op) in (0..).zip(&ops) {
            op.apply(&mut rig, at);
            if matches!(op, Op::Lend(_) | Op::Respond { .. } | Op::Inflate(..)) && rig.device.transport.queue(HINT).inuse() > 4 {
                rig.run();
            }
        }
        rig.run();
        let (mut open, mut current, mut held) = (false, None, std::collections::BTreeSet::new());
        for event in rig.take_events_without(&[]) {
            match event {
                Event::HintRequest { id } => (open, current) = (false, Some(id)),
                Event::HintAsk { head, id } => {
                    prop_assert_eq!(current, Some(id));
                    prop_assert!(held.remove(&head), "asked in {} unlent", head);
                }
                Event::HintStart { id } => {
                    prop_assert_eq!(current, Some(id));
                    open = true;
                }
                Event::HintStop { .. } | Event::HintDone { .. } => open = false,
                Event::HintApply { range, id, .. } => {
                    prop_assert!(open && current == Some(id));
                    prop_assert!(range.end().0 <= RAM_PAGES);
                }
                Event::HintPop { head, .. } => {
                    held.insert(head);
                }
                Event::HintPush { head, .. } => prop_assert!(held.remove(&head), "{} pushed unpopped", head),
                Event::DeviceStatus { status: 0 } => held.clear(),
                _ => {}
            }
        }
        prop_assert!(held.len() <= 1, "{held:?} kept");
        prop_assert_eq!(usize::from(rig.device.transport.queue(HINT).inuse()), held.len());
    }

    /// What a driver packs is what the device reads, for every length, in one word or two.
    #[test]
    fn ranges_are_read_as_they_were_written(
        ranges in prop::collection::vec((0u64..RAM_PAGES, 1u64..RAM_PAGES + 1), 1..8), escape: bool
    ) {
        for words in [Words::Packed, Words::Chunks] {
            let encode = |(first, count): &(u64, u64)| match words {
                Words::Packed if *count < 1 << 12 && !escape => vec![first << 12 | count],
                Words::Packed => vec![first << 12, *count],
                Words::Chunks => chunk(*first, *count).to_vec(),
            };
            let all: Vec<u64> = ranges.iter().flat_map(encode).collect();
            let mut rig = Rig::asked(Format { words, whole_id: false });
            rig.respond(1, request::FLAG_DONE, &all);
            let inside = ranges.iter().filter(|(first, count)| first + count <= RAM_PAGES);
            let expected: Vec<_> = inside.map(|(first, count)| (range(*first, *count), ID)).collect();
            prop_assert_eq!(&rig.sink.applied, &expected);
            prop_assert_eq!(rig.device.hint_status(), HintStatus::Stop);
        }
    }
}
