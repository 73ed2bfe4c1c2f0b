//! The destination's image against the source, for guests, schedules and encodings at random; and the stream as bytes against a decoder that
//! knows nothing of the engine. Both have to notice the defects of the encodings.

use host::dirty::accel::LogMode;
use host::event::{Actor, Event, MigrationStatus, Pfn};
use host::fault::Fault;
use host::migration::encoding::{Compression, DestinationRam, EncodingOptions, ZeroPages};
use host::migration::multifd::Item;
use host::migration::pace::MigrationOptions;
use host::migration::stream::{StreamBlock, StreamWriter};
use host::migration::wire::Record;
use host::step::Watch;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::decoder::decode;
use crate::world::World;

const PAGES: u64 = 192;
/// Pages that the guest writes: neighbours, pages of the same slot of a small cache, the first and the last.
const HOT: [u64; 8] = [0, 1, 63, 64, 65, 129, 190, 191];
/// Blocks of the stream, which the engine does not know: names and CONTINUE have something to tell.
const SPLIT: u64 = 100;
/// Most channels.
const CHANNELS: u8 = 3;

/// What a store leaves in a page.
#[derive(Debug, Clone)]
enum Stored {
    /// Zeros, everywhere.
    Zeros,
    /// A few bytes somewhere.
    Some(u64, u8),
    /// The same byte everywhere.
    Filled(u8),
}

/// A guest, a host and a schedule.
#[derive(Debug, Clone)]
struct Case {
    options: MigrationOptions,
    log: LogMode,
    /// Each page is looked at, not only those that the guest writes.
    split: bool,
    script: Vec<Part>,
}

/// A part of a schedule.
#[derive(Debug, Clone)]
struct Part {
    /// What the guest stores before, and to which page.
    store: Option<(u64, Stored)>,
    /// Who goes first; see [`rank`].
    order: u64,
    /// For how many moves.
    times: usize,
}

fn encoding() -> impl Strategy<Value = EncodingOptions> {
    let words = (select(ZeroPages::ALL), select(Compression::ALL), select(DestinationRam::ALL));
    let xbzrle = prop_oneof![Just(0), (0..=7u32).prop_map(|shift| 1 << shift)];
    (words, xbzrle, 0..=CHANNELS, any::<[bool; 2]>()).prop_map(|(words, xbzrle_pages, channels, [zero_copy, mapped_ram])| {
        let (zero_pages, compression, destination_ram) = words;
        let mut encoding =
            EncodingOptions { zero_pages, xbzrle_pages, channels, compression, zero_copy, mapped_ram, destination_ram, poisoned: None };
        while let Some((key, _)) = encoding.refused(false) {
            match key {
                "xbzrle" => encoding.xbzrle_pages = 0,
                "multifd_compression" => encoding.compression = Compression::None,
                _ => encoding.zero_copy = false,
            }
        }
        // What QEMU counts on, and rightly loses otherwise.
        if encoding.senders_find_zeros() && !encoding.mapped_ram {
            encoding.destination_ram = DestinationRam::Fresh;
        }
        encoding
    })
}

fn case(encoding: impl Strategy<Value = EncodingOptions>) -> impl Strategy<Value = Case> {
    let log = select(vec![LogMode::ManualClear { initially_set: true }, LogMode::GetClears, LogMode::Tcg]);
    let stored = prop_oneof![
        3 => Just(Stored::Zeros),
        5 => (select(vec![0_u64, 8, 1000, 4088]), 1..4u8).prop_map(|(at, byte)| Stored::Some(at, byte)),
        2 => (1..3u8).prop_map(Stored::Filled),
    ];
    let store = prop::option::weighted(0.7, (select(HOT.to_vec()), stored));
    let part = (any::<u64>(), prop_oneof![1..4usize, 1..60usize], store).prop_map(|(order, times, store)| Part { store, order, times });
    let script = prop::collection::vec(part, 20..120);
    (encoding, log, 2..6u32, any::<bool>(), script).prop_map(|(encoding, log, rounds_min, split, script)| {
        let options =
            MigrationOptions { encoding, rounds_min, chunk_shift: 6, max_bandwidth: 0, paced: false, ..MigrationOptions::default() };
        Case { options, log, split, script }
    })
}

/// What became of a case.
struct End {
    /// Pages that differ when the destination starts.
    lost: Vec<Pfn>,
    /// What the decoder says to the stream; nothing when there was none.
    stream: Result<Vec<Pfn>, String>,
}

fn run(case: &Case, faults: &[Fault], streams: bool) -> End {
    let streams = streams && case.split && !case.options.encoding.mapped_ram;
    let encoding = &case.options.encoding;
    let mut world = World::new(case.log, PAGES).with_faults(faults);
    world.watch = Watch(if case.split { (0..PAGES).map(Pfn).collect() } else { HOT.map(Pfn).into() });
    let fresh = encoding.destination_ram == DestinationRam::Fresh;
    if fresh {
        world.state.destination = world.state.destination.clone().zeroed();
    }
    world.start(case.options.clone());
    let block = |name: &str, first, pages| StreamBlock { name: name.to_owned(), first: Pfn(first), pages };
    let blocks = vec![block("pc.ram", 0, SPLIT), block("vga.vram", SPLIT, PAGES - SPLIT)];
    let mut writer = StreamWriter::new(blocks, encoding.channels, encoding.compression);
    // Behind the script the actors take turns.
    let script = case.script.iter().flat_map(|part| {
        let store = |at| part.store.clone().filter(|_| at == 0);
        (0..part.times).map(move |at| (part.order, store(at)))
    });
    for (order, store) in script.chain((0..).map(|order| (order, None))) {
        if let Some((pfn, stored)) = store.filter(|_| world.state.vm.running) {
            match stored {
                Stored::Zeros => world.store_bytes(Pfn(pfn), 0, &[0; 4096]),
                Stored::Some(at, byte) => world.store_bytes(Pfn(pfn), at, &[byte; 8]),
                Stored::Filled(byte) => world.store_bytes(Pfn(pfn), 0, &[byte; 4096]),
            }
        }
        let first = world.events.len();
        let noted = |world: &World, actor| {
            if streams {
                note(world, actor, &mut writer)
            }
        };
        world.step_by(|actor| rank(order, actor), noted).expect("the migration goes on");
        let ends = |event: &Event| matches!(event, Event::IterateEnd { .. });
        if world.events[first..].iter().any(|stamped| ends(&stamped.event)) {
            writer.close_section();
        }
        if world.events[first..].iter().any(|stamped| stamped.event == Event::DstStart) {
            break;
        }
        assert!(world.events.len() < 1_000_000, "the migration does not end");
    }
    let stream = if streams { differences(&world, writer, if fresh { 0 } else { 0xa5 }) } else { Ok(Vec::new()) };
    End { lost: world.lost(), stream }
}

/// Returns an actor's place in an order; each number is another one.
fn rank(order: u64, actor: Actor) -> u64 {
    let number = match actor {
        Actor::Channel(channel) => 10 + u64::from(channel),
        Actor::Receiver(channel) => 20 + u64::from(channel),
        Actor::Destination => 1,
        Actor::MainLoop => 2,
        _ => 3,
    };
    (order ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// Writes what is about to arrive; a barrier opens in all channels at once.
fn note(world: &World, actor: Actor, writer: &mut StreamWriter) {
    let multifd = world.state.migration.multifd();
    let front = |channel| multifd.and_then(|multifd| multifd.front(channel));
    let mut opens = false;
    match actor {
        Actor::Destination => {
            let record = world.state.migration.wire().front();
            record.into_iter().for_each(|record| writer.record(record));
            opens = record == Some(&Record::Flush);
        }
        Actor::Receiver(channel) => match front(channel) {
            Some(item @ Item::Page { .. }) => writer.item(channel, item),
            Some(Item::Barrier { .. }) => opens = true,
            None => {}
        },
        _ => {}
    }
    for channel in (0..CHANNELS).filter(|_| opens) {
        front(channel).into_iter().for_each(|item| writer.item(channel, item));
    }
}

/// Returns the pages that the decoder finds other than they are at the source.
fn differences(world: &World, writer: StreamWriter, before: u8) -> Result<Vec<Pfn>, String> {
    let (main, channels) = writer.finish();
    let image = decode(&main, &channels, before)?;
    let decoded = |pfn: u64| if pfn < SPLIT { image.page("pc.ram", pfn) } else { image.page("vga.vram", pfn - SPLIT) };
    Ok((0..PAGES).filter(|pfn| decoded(*pfn) != world.ram.page(Pfn(*pfn))).map(Pfn).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_destination_holds_what_the_source_held(case in case(encoding())) {
        let End { lost, stream } = run(&case, &[], true);
        prop_assert_eq!(lost, Vec::new());
        prop_assert_eq!(stream, Ok(Vec::new()));
    }
}

/// Returns whether one of some hundred cases of such a migration shows it: at the destination, or in the stream.
fn shows(encoding: EncodingOptions, fault: Fault, in_stream: bool) -> bool {
    let mut runner = TestRunner::deterministic();
    let cases = case(Just(encoding));
    (0..300).any(|_| {
        let mut case = cases.new_tree(&mut runner).expect("a case").current();
        case.split |= in_stream;
        let End { lost, stream } = run(&case, &[fault], in_stream);
        if in_stream { stream != Ok(Vec::new()) } else { !lost.is_empty() }
    })
}

#[test]
fn each_defect_of_an_encoding_is_seen_in_the_image() {
    let plain = EncodingOptions::default();
    let xbzrle = EncodingOptions { xbzrle_pages: 64, ..plain };
    let channels = EncodingOptions { channels: 2, ..plain };
    let zeros = EncodingOptions { channels: 2, zero_pages: ZeroPages::Multifd, destination_ram: DestinationRam::Fresh, ..plain };
    let qpl = EncodingOptions { compression: Compression::Qpl, ..zeros };
    let file = EncodingOptions { mapped_ram: true, destination_ram: DestinationRam::Used, ..zeros };
    for (encoding, fault) in [
        (plain, Fault::FirstZerosUnsent),
        (xbzrle, Fault::ZeroLeavesCache),
        (xbzrle, Fault::CachedPageAsync),
        (xbzrle, Fault::RefusedInsertSends),
        (qpl, Fault::UnrecordedPages),
        (qpl, Fault::DropZeroPacket),
        (file, Fault::ZeroStaysInFile),
        (file, Fault::AbsentPagesStay),
        (channels, Fault::NoRoundBarrier),
        (channels, Fault::MainPassesBarrier),
        (channels, Fault::StartBeforeChannels),
    ] {
        assert!(shows(encoding, fault, false), "{} is not seen", fault.name());
    }
}

#[test]
fn a_wrong_difference_is_seen_in_the_stream() {
    let xbzrle = EncodingOptions { xbzrle_pages: 64, ..EncodingOptions::default() };
    for fault in [Fault::ZeroLeavesCache, Fault::RefusedInsertSends, Fault::FirstZerosUnsent] {
        assert!(shows(xbzrle, fault, true), "{} is not seen", fault.name());
    }
    let channels = EncodingOptions { channels: 2, ..EncodingOptions::default() };
    assert!(shows(channels, Fault::NoRoundBarrier, true), "overtaking channels are not seen");
}

#[test]
fn a_migration_by_the_clock_ends_completed_with_each_encoding() {
    for channels in [0, 1, 3] {
        for mapped_ram in [false, true] {
            let encoding = EncodingOptions { channels, mapped_ram, ..EncodingOptions::default() };
            let mut world = World::new(LogMode::Tcg, PAGES);
            world.start(MigrationOptions { encoding, ..MigrationOptions::default() });
            world.run();
            assert_eq!((world.state.migration.status(), world.lost()), (MigrationStatus::Completed, Vec::new()), "{encoding:?}");
        }
    }
}
