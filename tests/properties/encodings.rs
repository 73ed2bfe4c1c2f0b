//! How the older interfaces write pages down, against how their devices read it: the guest's own source, compiled natively, encodes, and the host's
//! own source decodes. What comes out is what went in, for every order, every width of the length field and every length of a run; where an interface
//! cannot keep that, the words it writes instead are stated.

use std::collections::BTreeSet;
use std::mem::offset_of;

use emu::world::{RunOptions, memory_at_end};
use guest::arch;
use guest::balloon::dialect::ranges::{BALLOON_BMAP_SIZE, do_set_resp_bitmap, set_bulk_pages};
use guest::balloon::driver::VirtioBalloon;
use guest::mm::free_page_list::{ENTRY_BYTES, Place, get_from_free_page_list};
use guest::mm::unused_pages::{self, StartZone, mark_unused_pages, record_unused_pages};
use guest::mm::{self, Gfp, Page, alloc_pages};
use guest::virtio::Errno;
use guest::virtio::ring::Virtqueue;
use host::balloon::Words;
use host::balloon::protocol::addresses;
use host::event::{HintElement, PageRange, Pfn};
use host::memory::GuestRam;
use host::transport::{Element, Segment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use wire::balloon::request::{PACKED_LEN_BITS, PACKED_LEN_MASK};
use wire::dialect::Dialect;
use wire::layout::{MAX_PAGE_ORDER, NR_PAGE_ORDERS};
use wire::platform::{BOOT_INFO, BootInfo, PAGE_SIZE};
use wire::switch::correct;

use super::allocator::{Turn, guest_of, play, turns};
use super::config;

/// Where words lie in the device's memory.
const WORDS: u64 = 0x1000;

/// The device's side: a memory, and nothing but words in it.
struct Device {
    ram: GuestRam,
}

impl Device {
    fn new(ram_bytes: u64) -> Self {
        Device { ram: GuestRam::new(ram_bytes) }
    }

    fn element(&self, words: &[u64]) -> Element {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ram.write_unlogged(WORDS, &bytes);
        Element { head: 0, readable: vec![Segment { address: WORDS, len: bytes.len() as u32 }], writable: Vec::new() }
    }

    /// What the device takes out of words, and the bytes at the end that make no range.
    fn ranges(&self, format: Words, words: &[u64]) -> (Vec<HintElement>, u64) {
        let mut told = Vec::new();
        let left = format.ranges(&self.element(words), 0, 8 * words.len() as u64, &self.ram, &mut |element| told.push(element));
        (told, left)
    }
}

fn pages(first: u64, count: u64) -> HintElement {
    HintElement::Pages(PageRange::new(Pfn(first), count))
}

/// Words of the guest's memory.
fn read(from: u64, words: u64) -> Vec<u64> {
    (0..words).map(|at| arch::read64(from + 8 * at)).collect()
}

// ---- Free blocks

/// What v6's series says that a device makes of packed words, for a length field of any width below 64 bits.
fn unpack(words: &[u64], len_bits: u32) -> Vec<(u64, u64)> {
    let mask = (1u64 << len_bits) - 1;
    let mut at = words.iter();
    let mut blocks = Vec::new();
    while let Some(&word) = at.next() {
        let len = if word & mask == 0 { *at.next().expect("a length of its own") } else { word & mask };
        blocks.push((word >> len_bits, len));
    }
    blocks
}

/// Free blocks by order as the memory map has them, whatever the lists say.
fn free_blocks(ram_pages: u64) -> Vec<BTreeSet<u64>> {
    let mut blocks = vec![BTreeSet::new(); NR_PAGE_ORDERS];
    for frame in 0..ram_pages {
        let page = Page::of(mm::Pfn(frame));
        if page.is_buddy() {
            blocks[page.buddy_order() as usize].insert(frame);
        }
    }
    blocks
}

/// A machine that has booted, and allocated and freed; with a buffer, and the pages of RAM.
fn machine(turns: &[Turn], mib: u64) -> (unused_pages::Words, u64) {
    arch::load_memory(&memory_at_end(&guest_of(mib << 20, [false; 2], Vec::new()), &RunOptions::default()));
    arch::set_cpu(0);
    const ORDER: u32 = 5;
    let buffer = alloc_pages(Gfp::KERNEL, ORDER).expect("a machine that has just booted has memory");
    play(turns);
    (unused_pages::Words { pages: buffer.addr(), size: (PAGE_SIZE << ORDER) / 8, pos: 0 }, (mib << 20) / PAGE_SIZE)
}

/// Every width of the length field that v6's function takes. A frame has what is left of 64 bits, and of one that needs more the upper bits are lost without
/// a word. With 64 the series shifts by 64, which this processor takes for 0: frame and length lie upon each other.
fn packed_words_say_what_is_free(
    room: unused_pages::Words,
    order: u32,
    free: &BTreeSet<u64>,
    device: &Device,
) -> Result<(), TestCaseError> {
    let len = 1u64 << order;
    for len_bits in 0..=64u8 {
        let mut words = room;
        prop_assert_eq!(mark_unused_pages(&mut StartZone::default(), order, &mut words, len_bits, false), Ok(()));
        let written = read(room.pages, words.pos);
        let width = if order < u32::from(len_bits) { 1 } else { 2 };
        prop_assert_eq!(words.pos, width * free.len() as u64, "len_bits {}", len_bits);
        if len_bits == 64 {
            let sums: BTreeSet<u64> = free.iter().map(|frame| frame | len).collect();
            prop_assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), sums);
            continue;
        }
        let blocks = unpack(&written, u32::from(len_bits));
        let kept = u64::MAX >> len_bits;
        let expected: BTreeSet<(u64, u64)> = free.iter().map(|frame| (frame & kept, len)).collect();
        prop_assert_eq!(blocks.iter().copied().collect::<BTreeSet<_>>(), expected, "len_bits {}", len_bits);
        prop_assert_eq!(blocks.len(), free.len(), "each block once");
        if u32::from(len_bits) == PACKED_LEN_BITS {
            let told = blocks.into_iter().map(|(first, count)| pages(first, count)).collect();
            prop_assert_eq!(device.ranges(Words::Packed, &written), (told, 0), "the device reads them as the series says");
        }
    }
    let mut words = room;
    prop_assert_eq!(mark_unused_pages(&mut StartZone::default(), order, &mut words, 65, false), Err(Errno::Inval));
    prop_assert_eq!(words, room);
    Ok(())
}

fn chunks_say_what_is_free(room: unused_pages::Words, order: u32, free: &BTreeSet<u64>, device: &Device) -> Result<(), TestCaseError> {
    let mut words = room;
    prop_assert_eq!(record_unused_pages(&mut StartZone::default(), order, &mut words, false), Ok(()));
    let (mut told, left) = device.ranges(Words::Chunks, &read(room.pages, words.pos));
    told.sort_by_key(first);
    prop_assert_eq!((told, left), (free.iter().map(|&frame| pages(frame, 1 << order)).collect(), 0));
    Ok(())
}

fn first(told: &HintElement) -> Option<Pfn> {
    match told {
        HintElement::Pages(range) => Some(range.first),
        _ => None,
    }
}

/// Addresses have no length: the device knows one order.
fn addresses_say_what_is_free(room: unused_pages::Words, free: &BTreeSet<u64>, device: &Device) -> Result<(), TestCaseError> {
    let count = get_from_free_page_list(MAX_PAGE_ORDER, room.pages, room.size as u32, &mut Place::START.clone());
    let mut told = addresses(&device.element(&read(room.pages, u64::from(count) * ENTRY_BYTES / 8)), &device.ram);
    told.sort_by_key(first);
    let expected: Vec<_> = match free.is_empty() {
        true => vec![HintElement::Malformed(0)],
        false => free.iter().map(|&frame| pages(frame, 1 << MAX_PAGE_ORDER)).collect(),
    };
    prop_assert_eq!(told, expected);
    Ok(())
}

// ---- Runs of inflated pages

/// Where the driver, its words and its bitmap lie: nobody else is in this memory.
const DRIVER: u64 = 0x10_0000;
const RESPONSE: u64 = 0x20_0000;
const BITMAP: u64 = 0x80_0000;
const ROOM_BYTES: u64 = BITMAP - RESPONSE;
const RAM_BYTES: u64 = 16 << 20;
/// The device of these has more memory: frames of a whole bitmap, wherever it starts.
const DEVICE_BYTES: u64 = 4 << 30;

/// Interfaces that tell inflated pages as ranges, and how.
const INTERFACES: [(Dialect, u64, Words); 3] =
    [(Dialect::V6, 0, Words::Packed), (Dialect::V6, correct::RANGE_LENGTH, Words::Packed), (Dialect::V8, 0, Words::Chunks)];

/// A driver with an empty response.
fn driver(dialect: Dialect, corrected: u64) -> VirtioBalloon {
    arch::reset(RAM_BYTES);
    arch::write32(BOOT_INFO + offset_of!(BootInfo, dialect) as u64, dialect.number());
    arch::write64(BOOT_INFO + offset_of!(BootInfo, corrected) as u64, corrected);
    let vb = VirtioBalloon::at(DRIVER);
    vb.request().resp_data().set(RESPONSE);
    vb.request().resp_buf_size().set(ROOM_BYTES);
    vb
}

fn response(vb: VirtioBalloon) -> Vec<u64> {
    read(RESPONSE, vb.request().resp_pos().get())
}

/// Whether a run's length spills into its frame (S3).
fn spills(dialect: Dialect, corrected: u64, count: u64) -> bool {
    dialect == Dialect::V6 && corrected & correct::RANGE_LENGTH == 0 && count == PACKED_LEN_MASK + 1
}

#[test]
fn a_run_of_any_length_is_read_as_it_was_told_unless_its_length_spills() {
    let device = Device::new(DEVICE_BYTES);
    for (dialect, corrected, format) in INTERFACES {
        let vb = driver(dialect, corrected);
        for count in 1..=8192 {
            for first in [0, 1, 63, 64, 0x1000, 0xf_0fff] {
                // Another run follows: it shows whether the device has kept step.
                let behind = first + count + 1;
                vb.request().resp_pos().set(0);
                do_set_resp_bitmap(vb.request(), first, count);
                do_set_resp_bitmap(vb.request(), behind, 3);
                let told = device.ranges(format, &response(vb));
                if spills(dialect, corrected, count) {
                    // The length's thirteenth bit is the frame's first, no length is left, and the next run is taken for it.
                    assert_eq!(told, (vec![HintElement::OutOfRam(Pfn(first | 1))], 0), "{count} pages at {first:#x}");
                } else {
                    assert_eq!(told, (vec![pages(first, count), pages(behind, 3)], 0), "{dialect:?}: {count} pages at {first:#x}");
                }
            }
        }
    }
}

/// A gap of at least a page, and a run behind it.
fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let gap = prop_oneof![4 => 1..200u64, 1 => Just(64u64), 2 => 1..60_000u64];
    let count = prop_oneof![4 => 1..70u64, 2 => 1..=8192u64, 1 => Just(PACKED_LEN_MASK), 1 => Just(PACKED_LEN_MASK + 1), 1 => Just(64u64), 1 => 60_000..130_000u64];
    vec((gap, count), 1..40)
}

/// A tenth of the usual cases: each goes through every order and every width.
fn sample() -> Config {
    let config = config();
    Config { cases: config.cases.div_ceil(10), ..config }
}

proptest! {
    #![proptest_config(sample())]

    #[test]
    fn what_is_told_of_free_blocks_is_what_is_free(turns in turns(), mib in 12..40u64) {
        let (room, ram_pages) = machine(&turns, mib);
        let device = Device::new(mib << 20);
        for (order, free) in free_blocks(ram_pages).iter().enumerate() {
            packed_words_say_what_is_free(room, order as u32, free, &device)?;
            chunks_say_what_is_free(room, order as u32, free, &device)?;
        }
        addresses_say_what_is_free(room, &free_blocks(ram_pages)[MAX_PAGE_ORDER as usize], &device)?;
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_bitmap_is_told_as_its_runs(runs in runs(), interface in 0..INTERFACES.len(), start in 0..0x1000u64) {
        let (dialect, corrected, format) = INTERFACES[interface];
        let vb = driver(dialect, corrected);
        let (start_pfn, bits) = (64 * start, 8 * BALLOON_BMAP_SIZE);
        let mut expected = Vec::new();
        let mut pos = 0;
        for (gap, count) in runs {
            let count = count.min(bits.saturating_sub(pos + gap));
            if count == 0 {
                break;
            }
            for bit in pos + gap..pos + gap + count {
                arch::fetch_or64(BITMAP + bit / 64 * 8, 1 << (bit % 64));
            }
            expected.push((start_pfn + pos + gap, count));
            pos += gap + count;
        }
        set_bulk_pages(vb, Virtqueue::at(DRIVER), start_pfn, BITMAP, BALLOON_BMAP_SIZE, wire::debug::INFLATE);
        let announced: Vec<_> = arch::take_traces().into_iter().map(|trace| trace.1).collect();
        prop_assert_eq!(announced, expected.iter().flat_map(|(first, count)| *first..first + count).collect::<Vec<_>>());
        let spilt = expected.iter().any(|(_, count)| spills(dialect, corrected, *count));
        let told = Device::new(DEVICE_BYTES).ranges(format, &response(vb));
        let whole = told == (expected.iter().map(|(first, count)| pages(*first, *count)).collect(), 0);
        prop_assert_eq!(whole, !spilt, "{:?}: {:?} of {:?}", dialect, told, expected);
    }
}
