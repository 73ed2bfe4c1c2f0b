//! Random scenarios for property tests: every value that the model allows and a file can say.

use std::collections::BTreeMap;

use host::dirty::command::TrackingCommand;
use host::dirty::limit::LimitOptions;
use host::event::{Actor, EventKind, Pfn};
use host::fault::Fault;
use host::migration::encoding::{Compression, DestinationRam, EncodingOptions, ZeroPages};
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use host::step::Costs;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use wire::platform::{PAGE_SIZE, RAM_BYTES_MAX, RAM_BYTES_MIN};
use wire::switch::correct;

use super::model::*;
use super::pattern::is_about_pages;
use super::vocabulary::INTEGER_MAX;
use super::words::{BLAMES, FEATURES, WAITERS, held_up_by};
use crate::outcome::Verdict;

/// Allocations of random scenarios with the order that each has.
const BLOCKS: [(&str, u8); 3] = [("A", 0), ("B", 3), ("C", 10)];
const LIST: &str = "W";
const PAGE_NAMES: [&str; 3] = ["P", "Q", "long-name_3"];

/// Returns a strategy for scenarios that [`super::parse`] accepts when they are written by [`super::to_toml`].
pub fn arb_scenario() -> impl Strategy<Value = Scenario> {
    let pages = btree_map(select(&PAGE_NAMES[..]).prop_map(str::to_owned), page_spec(), 0..=PAGE_NAMES.len());
    (guest(), pages, 0..=3usize)
        .prop_flat_map(|(guest, pages, injections)| {
            let names: Vec<PageName> = pages.keys().cloned().collect();
            let injection = injection(guest.vcpus, names.clone());
            let left = (vec(self::injection(guest.vcpus, names.clone()), 0..=2), search(names.clone()), vary(), option::of(found()));
            let parts = (
                about(),
                subsequence(Fault::ALL, 0..=2),
                subsequence(Fault::ALL, 0..=2),
                host(),
                migration(names.clone()),
                vec(injection, injections),
                vec(vec(pattern(names.clone()), 2..4), 0..2),
                expect(names),
                (costs(), limits()),
                left,
            );
            (Just(guest), Just(pages), parts)
        })
        .prop_map(|(guest, pages, (about, witness, faults, host, migration, injections, chains, expect, (costs, limits), left))| {
            let orders = chains.into_iter().map(|chain| Order { chain: in_order(chain) }).filter(|order| order.chain.len() > 1).collect();
            let (may, search, vary, found) = left;
            let mut scenario = Scenario {
                about,
                witness,
                faults,
                guest,
                host,
                migration,
                pages,
                injections,
                may,
                orders,
                search,
                vary,
                expect,
                costs,
                limits,
                found,
            };
            make_consistent(&mut scenario);
            scenario
        })
}

/// Puts patterns in an order that every chain can share: that of the patterns themselves, with the model's own order of events of a kind.
fn in_order(mut patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.sort();
    patterns.dedup();
    patterns
}

/// Brings names and sizes that were drawn apart into agreement. Whatever is mentioned exists, and all orders follow the order of patterns.
fn make_consistent(scenario: &mut Scenario) {
    let allocations = BLOCKS.map(|(name, order)| Operation::Alloc { name: name.to_owned(), order, atomic: false });
    let fill = Operation::Fill { name: LIST.to_owned(), pages: 16 };
    let mut first = vec![fill];
    first.extend(allocations);
    match scenario.guest.tasks.first_mut() {
        Some(task) => first.into_iter().for_each(|operation| task.operations.insert(0, operation)),
        None => scenario.guest.tasks.push(Task { vcpu: 0, operations: first }),
    }
    make_virtio_mem_consistent(scenario);
    let ram_pages = scenario.guest.ram_bytes / PAGE_SIZE;
    let mem_pages = scenario.host.virtio_mem.as_ref().map(|mem| mem.pages);
    make_blocks_consistent(&mut scenario.host.blocks, ram_pages - mem_pages.unwrap_or(0), mem_pages.is_none());
    make_devices_consistent(scenario);
    let Migration { modes, encoding, throttle, switchover, .. } = &mut scenario.migration;
    modes.snapshot &= modes.refused(encoding, throttle.auto_converge, switchover.pause).is_none();
    scenario.migration.limit.on &= scenario.host.dirty_log == DirtyLog::Ring && !scenario.migration.throttle.auto_converge;
    for spec in scenario.pages.values_mut() {
        if let PageSpec::Pfn(pfn) = spec {
            // Ranges of pages start there, too, and are at most this long.
            *pfn %= ram_pages - RANGE_PAGES_MAX;
        }
    }
    for (index, injection) in scenario.injections.iter_mut().chain(&mut scenario.may).enumerate() {
        injection.name = injection.name.take().map(|name| format!("{name}{index}"));
    }
    // Patterns that speak of injections stand where they cannot close a circle: behind all events that the injection precedes none of.
    if let Some(last) = scenario.injections.iter().position(|injection| injection.before.is_empty()) {
        scenario.orders.iter_mut().for_each(|order| order.chain.push(Pattern::Injection(last)));
        if let Some(start) = &mut scenario.migration.start {
            start.after.push(Pattern::Injection(last));
        }
        if scenario.search.until.is_none() {
            scenario.search.until = Some(Pattern::Injection(last));
        }
        // What may be done binds nobody else, but has to come behind its own events.
        for injection in scenario.may.iter_mut().filter(|injection| injection.before.is_empty()) {
            injection.trigger.after.push(Pattern::Injection(last));
        }
    }
    make_variants_consistent(scenario);
}

/// Lets the guest's memory be large enough for virtio-mem, and nobody speak of what there is not.
fn make_virtio_mem_consistent(scenario: &mut Scenario) {
    let host = &mut scenario.host;
    if let Some(mem) = &mut host.virtio_mem {
        let whole = (RAM_BYTES_MIN / PAGE_SIZE + mem.pages).max(scenario.guest.ram_bytes / PAGE_SIZE).next_multiple_of(mem.block_pages);
        scenario.guest.ram_bytes = whole * PAGE_SIZE;
        host.host_page = host.host_page.min(u16::try_from(mem.block_pages).expect("blocks of 2 MiB at most"));
    }
    let all = host.virtio_mem.as_ref().map(|mem| mem.pages);
    for injection in scenario.injections.iter_mut().chain(&mut scenario.may) {
        if let Action::Monitor(Command::ResizeMem { pages }) = &mut injection.action {
            match all {
                Some(all) => *pages %= all + 1,
                None => injection.action = Action::Monitor(Command::GrowBlock),
            }
        }
    }
}

/// Makes gaps to offsets, and lets the last block take what is left.
fn make_blocks_consistent(blocks: &mut [RamBlock], ram_pages: u64, may_grow: bool) {
    let before: u64 = blocks.iter().rev().skip(1).map(|block| block.pages).sum();
    for index in 0..blocks.len() {
        blocks[index].name = format!("block {index}");
        blocks[index].room = 0;
        blocks[index].offset += RamBlock::offset_behind(&blocks[..index]);
    }
    if let Some(last) = blocks.last_mut() {
        last.pages = ram_pages - before;
        last.room = if may_grow { (ram_pages - RAM_BYTES_MIN / PAGE_SIZE).min(last.offset % 100).min(last.pages - 1) } else { 0 };
    }
}

/// Gives the host the devices that injections speak of.
fn make_devices_consistent(scenario: &mut Scenario) {
    let devices = &mut scenario.host.devices;
    for injection in scenario.injections.iter().chain(&scenario.may) {
        devices.vfio |= injection.by == Actor::Vfio;
        match injection.action {
            Action::VhostQueue { queue, .. } | Action::Write { target: Target::UsedRing(queue), .. } => {
                devices.vhost_queues = devices.vhost_queues.max(queue + 1);
            }
            Action::Iommu { .. } => devices.iommu = true,
            Action::Write { .. } | Action::Task(_) | Action::Monitor(_) | Action::ClearLog { .. } | Action::RepeatId => {}
        }
    }
}

/// Leaves no value that a variant could not have: fewer vCPUs than are spoken of, chunks without manual clear.
fn make_variants_consistent(scenario: &mut Scenario) {
    let injecting = scenario
        .injections
        .iter()
        .chain(&scenario.may)
        .filter_map(|injection| if let Actor::Vcpu(vcpu) = injection.by { Some(vcpu) } else { None });
    let last = scenario.guest.tasks.iter().map(|task| task.vcpu).chain(injecting).max().unwrap_or(0);
    scenario.vary.vcpus.retain(|vcpus| *vcpus > last);
    if !scenario.vary.dirty_logs(&scenario.host).contains(&DirtyLog::ManualClear) {
        scenario.vary.chunk_shift.clear();
    }
}

/// From an event on, until a later one in the order of patterns.
fn search(pages: Vec<PageName>) -> impl Strategy<Value = Search> {
    (option::of(pattern(pages.clone())), option::of(pattern(pages)), select(Grain::ALL), 0..=INTEGER_MAX).prop_map(
        |(from, until, grain, check_mm)| {
            let search = Search { from, until: None, grain, check_mm };
            let start = search.start();
            Search { until: until.filter(|until| *until > start), ..search }
        },
    )
}

fn vary() -> impl Strategy<Value = Vary> {
    let powers = |from: u32| subsequence((from..=10).map(|shift| 1u16 << shift).collect::<Vec<_>>(), 0..3).prop_shuffle();
    let host = (
        subsequence(Profile::ALL, 0..=Profile::ALL.len()).prop_shuffle(),
        subsequence(DirtyLog::ALL, 0..=DirtyLog::ALL.len()).prop_shuffle(),
        subsequence((6..=31u8).collect::<Vec<_>>(), 0..3).prop_shuffle(),
        powers(1),
        powers(0),
    );
    let vcpus = subsequence(vec![1, 2, 3, 4u8], 0..=4).prop_shuffle();
    let drivers = subsequence(Driver::ALL, 0..=Driver::ALL.len());
    let drawn = (host, vcpus, drivers, subsequence(Fault::ALL, 0..=2)).prop_map(
        |((profile, dirty_log, chunk_shift, hint_queue_size, queue_size), vcpus, driver, faults)| Vary {
            profile,
            dirty_log,
            chunk_shift,
            hint_queue_size,
            queue_size,
            vcpus,
            driver,
            faults,
        },
    );
    prop_oneof![Just(Vary::default()), drawn]
}

fn found() -> impl Strategy<Value = Found> {
    let texts = (about(), about(), about());
    (texts, 0..=INTEGER_MAX).prop_map(|((scenario, seed, strategy), schedules)| Found { scenario, seed, strategy, schedules })
}

/// Longest range of pages that an injection writes or clears.
const RANGE_PAGES_MAX: u64 = 64;

fn about() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z ]{0,30}x", "\\PC{0,12}x\\PC{0,12}"]
}

fn time_ns() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..1_000_000u64, (0..86_400u64).prop_map(|seconds| seconds * 1_000_000_000)]
}

fn features() -> impl Strategy<Value = u64> {
    subsequence(FEATURES, 0..=FEATURES.len()).prop_map(|list| list.iter().fold(0, |all, (_, bit, _)| all | bit))
}

fn guest() -> impl Strategy<Value = Guest> {
    let ram = (RAM_BYTES_MIN / PAGE_SIZE..=RAM_BYTES_MAX / PAGE_SIZE).prop_map(|pages| pages * PAGE_SIZE);
    let flags = (any::<(bool, bool, bool, bool)>(), any::<(bool, bool, bool, bool)>());
    let corrected = subsequence(correct::ALL, 0..=3).prop_map(|list| list.iter().fold(0, |all, (bit, _, _)| all | bit));
    let driver = (select(Driver::ALL), corrected, 1..=512u16, select(Numbering::ALL));
    (ram, 1..=4u8, features(), flags, driver).prop_flat_map(|(ram_bytes, vcpus, features_refused, flags, driver)| {
        let ((page_poison, init_on_alloc, init_on_free, late_probe), (deflate_silently, hint_in_two, start_with_hint, short_stop_id)) =
            flags;
        let (driver, corrected, hint_array, queue_numbering) = driver;
        let tasks = btree_map(0..vcpus, vec(operation(), 1..6), 0..=usize::from(vcpus));
        tasks.prop_map(move |tasks| Guest {
            ram_bytes,
            vcpus,
            driver,
            corrected,
            hint_array,
            queue_numbering,
            features_refused,
            page_poison,
            init_on_alloc,
            init_on_free,
            late_probe,
            manners: Manners { deflate_silently, hint_in_two, start_with_hint, short_stop_id },
            tasks: tasks.into_iter().map(|(vcpu, operations)| Task { vcpu, operations }).collect(),
        })
    })
}

/// A block's name, one of its pages, and a byte.
fn place() -> impl Strategy<Value = (String, u64, u8)> {
    (select(&BLOCKS[..]), any::<u64>(), any::<u8>()).prop_map(|((name, order), page, byte)| (name.to_owned(), page % (1 << order), byte))
}

fn operation() -> impl Strategy<Value = Operation> {
    let pages = 1..=RAM_BYTES_MIN / PAGE_SIZE;
    prop_oneof![
        (select(&BLOCKS[..]), any::<bool>()).prop_map(|((name, order), atomic)| Operation::Alloc { name: name.to_owned(), order, atomic }),
        (0..=63u64).prop_map(|order| Operation::ListFree { order }),
        (place(), any::<bool>()).prop_map(|((name, _, _), in_interrupt)| Operation::Free { name, in_interrupt }),
        place().prop_map(|(name, page, byte)| Operation::Write { name, page, byte }),
        place().prop_map(|(name, page, byte)| Operation::Verify { name, page, byte }),
        pages.clone().prop_map(|pages| Operation::Fill { name: LIST.to_owned(), pages }),
        (1..=64u64).prop_map(|every| Operation::Release { name: LIST.to_owned(), every }),
        (0..=63u64).prop_map(|zone| Operation::StartZone { zone }),
        pages.prop_map(|pages| Operation::Shrink { pages }),
        Just(Operation::Oom),
        (0..=10u8, 0..=INTEGER_MAX).prop_map(|(order, busy)| Operation::Compact { order, busy }),
        Just(Operation::Evacuate),
        time_ns().prop_map(|ns| Operation::Sleep { ns }),
        (1..=1_000_000u64, 0..=INTEGER_MAX).prop_map(|(times, seed)| Operation::Churn { times, seed }),
        Just(Operation::Unbind),
        Just(Operation::Bind),
        Just(Operation::Freeze),
        Just(Operation::Restore),
        Just(Operation::Shutdown),
        Just(Operation::Reboot),
        Just(Operation::EmergencyRestart),
        (0..=INTEGER_MAX).prop_map(|pfn| Operation::GetPage { pfn }),
        (0..=INTEGER_MAX).prop_map(|pfn| Operation::PutPage { pfn }),
        (1..=1_000_000u64).prop_map(|nth| Operation::FailAlloc { nth }),
        Just(Operation::NoteMemory),
        Just(Operation::CompareMemory),
        Just(Operation::Panic),
        Just(Operation::NullStore),
        (RAM_BYTES_MAX..=INTEGER_MAX).prop_map(|address| Operation::WildStore { address }),
        Just(Operation::JumpToData),
    ]
}

/// Blocks whose offsets are gaps, and whose last has any length.
fn blocks() -> impl Strategy<Value = Vec<RamBlock>> {
    let block = |(pages, offset, ignored)| RamBlock { name: String::new(), pages, offset, room: offset, ignored };
    vec((1..=RAM_BYTES_MIN / PAGE_SIZE / 4, prop_oneof![Just(0), 1..=200u64], any::<bool>()).prop_map(block), 0..4)
}

fn host() -> impl Strategy<Value = Host> {
    let log = (select(DirtyLog::ALL), 6..=31u8, any::<bool>(), tracking());
    let queues = ((1..=10u32).prop_map(|shift| 1u16 << shift), (0..=10u32).prop_map(|shift| 1u16 << shift));
    let balloon = 0..=u32::try_from(RAM_BYTES_MIN / PAGE_SIZE).expect("a small number");
    let host_page = (0..=9u32).prop_map(|shift| 1u16 << shift);
    (
        select(Profile::ALL),
        log,
        (features(), select(Numbering::ALL), select(Walk::ALL)),
        queues,
        (balloon, blocks(), option::of(virtio_mem())),
        (time_ns(), host_page, devices(), any::<(bool, bool, bool, bool)>()),
    )
        .prop_map(
            |(
                profile,
                (dirty_log, chunk_shift, initially_set, tracking),
                (features, queue_numbering, walk),
                (hint_queue_size, queue_size),
                (balloon_pages, blocks, virtio_mem),
                (stats_interval_ns, host_page, devices, (iothread, rom, acknowledge_on_stop, all_locks)),
            )| {
                let manual = dirty_log == DirtyLog::ManualClear;
                Host {
                    profile,
                    dirty_log,
                    chunk_shift: if manual { chunk_shift } else { Host::CHUNK_SHIFT },
                    initially_set: manual && initially_set,
                    tracking,
                    features,
                    queue_numbering,
                    walk,
                    hint_queue_size,
                    queue_size,
                    balloon_pages,
                    stats_interval_ns,
                    host_page,
                    iothread,
                    rom,
                    acknowledge_on_stop,
                    all_locks,
                    devices,
                    blocks,
                    virtio_mem,
                }
            },
        )
}

fn virtio_mem() -> impl Strategy<Value = VirtioMem> {
    (1..=4u64, 1..=2u64, 1..=4u64, subsequence(vec![0, 1, 2, 3u64], 0..=4)).prop_map(|(blocks, block_mib, memslot, mut plugged)| {
        plugged.retain(|block| *block < blocks);
        let block_pages = block_mib << 8;
        VirtioMem { pages: blocks * block_pages, block_pages, memslot_pages: memslot.min(blocks) * block_pages, plugged }
    })
}

fn devices() -> impl Strategy<Value = Devices> {
    (option::of(time_ns()), 0..=8u8, any::<(bool, bool)>()).prop_map(|(vhost_log_ack_ns, vhost_queues, (vfio, iommu))| Devices {
        vhost_log_ack_ns,
        vhost_queues,
        vfio,
        iommu,
    })
}

fn tracking() -> impl Strategy<Value = Tracking> {
    let slots = prop::collection::btree_set(1..RAM_BYTES_MIN / PAGE_SIZE, 0..3);
    (2..=16u32, 1..=1_000_000_000_000u64, slots, any::<bool>()).prop_map(|(shift, reap_interval_ns, slots, smm)| Tracking {
        ring_size: 1 << shift,
        reap_interval_ns,
        slots: slots.into_iter().collect(),
        smm,
    })
}

fn migration(pages: Vec<PageName>) -> impl Strategy<Value = Migration> {
    let start = option::of(trigger(pages).prop_map(|trigger| Trigger { delay_insns: 0, ..trigger }));
    let rates = (1..=1u64 << 40, prop_oneof![Just(0), 1..=1u64 << 40]);
    let modes = (any::<(bool, bool, bool, bool, bool)>(), prop_oneof![Just(0), 1..=1u64 << 40]).prop_map(
        |((run_on, postcopy, snapshot, preempt, release_ram), max_postcopy_bandwidth)| Modes {
            run_on,
            postcopy,
            max_postcopy_bandwidth,
            preempt,
            release_ram,
            snapshot,
        },
    );
    (
        start,
        rates,
        1..=2_000_000_000_000u64,
        (encoding(), any::<(bool, bool)>(), (throttle(), limit())),
        prop_oneof![1..4u32, 1..=1_000_000u32],
        modes,
    )
        .prop_map(
            |(
                start,
                (bandwidth, max_bandwidth),
                downtime_limit_ns,
                (encoding, (complete_before_sync, hints_first), ((throttle, switchover), limit)),
                rounds_min,
                modes,
            )| {
                Migration {
                    start,
                    bandwidth,
                    max_bandwidth,
                    downtime_limit_ns,
                    encoding,
                    rounds_min,
                    throttle,
                    limit,
                    switchover,
                    complete_before_sync,
                    hints_first,
                    modes: Modes { postcopy: modes.postcopy && encoding.refused(true).is_none(), ..modes },
                }
            },
        )
}

fn encoding() -> impl Strategy<Value = EncodingOptions> {
    let xbzrle = prop_oneof![Just(0), (0..=20u32).prop_map(|shift| 1 << shift)];
    let words = (select(ZeroPages::ALL), select(Compression::ALL), select(DestinationRam::ALL));
    (words, xbzrle, prop_oneof![Just(0), 1..=8u8], any::<[bool; 2]>()).prop_map(
        |(words, xbzrle_pages, channels, [zero_copy, mapped_ram])| {
            let (zero_pages, compression, destination_ram) = words;
            let poisoned = (xbzrle_pages == 1).then_some(Pfn(u64::from(channels)));
            let mut encoding =
                EncodingOptions { zero_pages, xbzrle_pages, channels, compression, zero_copy, mapped_ram, destination_ram, poisoned };
            while let Some((key, _)) = encoding.refused(false) {
                match key {
                    "xbzrle" => encoding.xbzrle_pages = 0,
                    "multifd_compression" => encoding.compression = Compression::None,
                    _ => encoding.zero_copy = false,
                }
            }
            encoding
        },
    )
}

fn throttle() -> impl Strategy<Value = (ThrottleOptions, SwitchoverOptions)> {
    let shares = (1..=100u32, 1..=99u32, 1..=99u32, 1..=99u32);
    let drawn = (any::<(bool, bool, bool)>(), shares, prop_oneof![Just(0), 1..=1u64 << 40]).prop_map(
        |((auto_converge, tailslow, pause), (trigger, initial, increment, max), bandwidth)| {
            let throttle = ThrottleOptions { auto_converge, trigger, initial, increment, max, tailslow };
            (throttle, SwitchoverOptions { pause, bandwidth })
        },
    );
    prop_oneof![Just((ThrottleOptions::default(), SwitchoverOptions::default())), drawn]
}

fn limit() -> impl Strategy<Value = LimitOptions> {
    let drawn = (any::<bool>(), 1..=1u32 << 20, 1..=1000u64);
    let drawn = drawn.prop_map(|(on, rate, period_ms)| LimitOptions { on, rate, period_ns: period_ms * 1_000_000 });
    prop_oneof![Just(LimitOptions::default()), drawn]
}

fn page_of(pages: u64) -> impl Strategy<Value = PageOf> {
    prop_oneof![Just(PageOf::Last), (0..pages).prop_map(PageOf::Index)]
}

fn page_spec() -> impl Strategy<Value = PageSpec> {
    let allocation = select(&BLOCKS[..])
        .prop_flat_map(|(name, order)| page_of(1 << order).prop_map(move |page| PageSpec::Allocation { name: name.to_owned(), page }));
    prop_oneof![
        any::<u64>().prop_map(PageSpec::Pfn),
        (1..=u32::MAX, page_of(1 << wire::balloon::HINT_BLOCK_ORDER)).prop_map(|(hint, page)| PageSpec::Hint { hint, page }),
        allocation,
    ]
}

/// An event. Kinds are drawn without pages or with, never both, so that sorted patterns keep the order that events of a kind have.
fn pattern(pages: Vec<PageName>) -> impl Strategy<Value = Pattern> {
    (select(EventKind::ALL), any::<prop::sample::Index>(), 1..5u32).prop_map(move |(kind, index, nth)| {
        let page = (is_about_pages(kind) && !pages.is_empty()).then(|| index.get(&pages).clone());
        Pattern::Event { kind, page, nth }
    })
}

fn trigger(pages: Vec<PageName>) -> impl Strategy<Value = Trigger> {
    (option::of(time_ns()), vec(pattern(pages), 0..3), time_ns(), 0..1000u64).prop_map(|(at_ns, after, delay_ns, delay_insns)| {
        // Delays count from events.
        let (delay_ns, delay_insns) = if after.is_empty() { (0, 0) } else { (delay_ns, delay_insns) };
        Trigger { at_ns, after, delay_ns, delay_insns }
    })
}

fn action(vcpus: u8, pages: Vec<PageName>) -> BoxedStrategy<(Action, Actor)> {
    let vcpu = (0..vcpus).prop_map(Actor::Vcpu).boxed();
    let balloon = 0..=u32::try_from(RAM_BYTES_MIN / PAGE_SIZE).expect("a small number");
    let command = prop_oneof![
        select(vec![
            Command::Migrate,
            Command::Cancel,
            Command::Stop,
            Command::Cont,
            Command::ResetDevice,
            Command::SystemReset,
            Command::BreakLink,
            Command::GrowBlock,
            Command::StartPostcopy,
            Command::Recover,
            Command::Unplug,
            Command::Continue,
            Command::PostcopyRam { on: true },
            Command::PostcopyRam { on: false },
            Command::StallLink,
            Command::ResumeLink,
            Command::Yank,
        ]),
        balloon.prop_map(|pages| Command::Balloon { pages }),
        (0..=1024u64).prop_map(|pages| Command::ResizeMem { pages }),
        select(TrackingCommand::ALL).prop_map(Command::Tracking),
        (option::of(0..4u8), 0..=1u32 << 20).prop_map(|(cpu, rate)| Command::Tracking(TrackingCommand::SetLimit { cpu, rate })),
    ];
    let without_page = prop_oneof![
        (operation().prop_map(Action::Task), vcpu.clone()),
        (command.prop_map(Action::Monitor), Just(Actor::MainLoop)),
        (Just(Action::RepeatId), vcpu.clone()),
    ];
    if pages.is_empty() {
        return without_page.boxed();
    }
    let device = select(vec![Actor::Dma, Actor::Vhost, Actor::Vfio]);
    let ring = (select(pages.clone()), 0..=PAGE_SIZE - 8, any::<u8>(), option::of(0..8u8)).prop_map(|(page, offset, byte, queue)| {
        let (target, by) = queue.map_or((Target::AvailEvent, Actor::Dma), |queue| (Target::UsedRing(queue), Actor::Vhost));
        (Action::Write { page, offset, byte, zero: false, pages: 1, target, how: How::Plain }, by)
    });
    let queue = (select(pages.clone()), 0..8u8, vcpu.clone()).prop_map(|(page, queue, by)| (Action::VhostQueue { page, queue }, by));
    let mapping = (any::<bool>(), select(pages.clone()), 1..RANGE_PAGES_MAX, vcpu.clone())
        .prop_map(|(map, page, pages, by)| (Action::Iommu { map, page, pages }, by));
    let place = (select(pages.clone()), 0..=PAGE_SIZE - 8, any::<(u8, bool)>());
    let write = (place, 1..RANGE_PAGES_MAX, prop_oneof![vcpu, device.boxed()], select(How::ALL)).prop_map(
        |((page, offset, (byte, zero)), pages, by, how)| {
            let pages = if let Actor::Vcpu(_) = by { 1 } else { pages };
            let how = if how.fits(by) { how } else { How::Plain };
            (Action::Write { page, offset, byte: if zero { 0 } else { byte }, zero, pages, target: Target::Buffer, how }, by)
        },
    );
    let clear = (select(pages), 1..RANGE_PAGES_MAX, any::<bool>())
        .prop_map(|(page, pages, sync)| (Action::ClearLog { page, pages, sync }, Actor::Display));
    prop_oneof![3 => without_page, 3 => write, 3 => clear, 1 => ring, 1 => queue, 1 => mapping].boxed()
}

fn injection(vcpus: u8, pages: Vec<PageName>) -> impl Strategy<Value = Injection> {
    (option::of("[a-z_][a-zA-Z0-9_-]{0,6}"), action(vcpus, pages.clone()), trigger(pages.clone()), vec(pattern(pages), 0..2)).prop_map(
        |(name, (action, by), trigger, before)| {
            let delay_insns = if let Actor::Vcpu(_) = by { trigger.delay_insns } else { 0 };
            let last = trigger.after.iter().max().cloned();
            // An injection stands between its events: keep those of `before` that come later in the order of patterns.
            let before = before.into_iter().filter(|pattern| last.as_ref().is_none_or(|last| last < pattern)).collect();
            Injection { name, action, by, trigger: Trigger { delay_insns, ..trigger }, before }
        },
    )
}

fn counts() -> impl Strategy<Value = (Option<u64>, Option<u64>)> {
    (option::of(0..100u64), option::of(1..100u64)).prop_map(|(min, max)| match (min, max) {
        (Some(min), Some(max)) => (Some(min.min(max)), Some(min.max(max))),
        other => other,
    })
}

fn expect(pages: Vec<PageName>) -> impl Strategy<Value = Expect> {
    let sent: BoxedStrategy<BTreeMap<PageName, SentExpect>> = if pages.is_empty() {
        Just(BTreeMap::new()).boxed()
    } else {
        let facts = (option::of(any::<u8>()), counts()).prop_map(|(last, (min, max))| SentExpect { last, min, max });
        btree_map(select(pages), facts, 0..3).boxed()
    };
    let events = btree_map(
        select(EventKind::ALL).prop_map(|kind| kind.name().to_owned()),
        counts().prop_map(|(min, max)| CountExpect { min, max }),
        0..3,
    );
    let ids = (option::of(vec(any::<u32>(), 0..4)), option::of(any::<u32>()));
    let insns = option::of(counts().prop_map(|(min, max)| CountExpect { min, max }));
    let wait = (select(WAITERS), option::of(select(held_up_by())), counts());
    let blocked = vec(wait.prop_map(|(who, on, (min, max))| BlockedExpect { who, on, ns: CountExpect { min, max } }), 0..3);
    let spin = (select(WAITERS), counts()).prop_map(|(who, (min, max))| SpunExpect { who, ns: CountExpect { min, max } });
    let waits = (insns, blocked, vec(spin, 0..3));
    (select(Verdict::ALL), option::of(select(BLAMES)), sent, option::of(0..=INTEGER_MAX), ids, events, waits).prop_map(
        |(verdict, blame, sent, rounds, (cmd_ids, destination_cmd_id), events, (irq_off_insns, blocked, spun))| Expect {
            verdict,
            blame: blame.filter(|_| verdict != Verdict::Pass),
            sent,
            rounds,
            cmd_ids,
            destination_cmd_id,
            events,
            irq_off_insns,
            blocked,
            spun,
        },
    )
}

fn costs() -> impl Strategy<Value = Costs> {
    let cost = || 0..=1_000_000_000u64;
    let guest = (cost(), cost(), cost(), cost());
    let host = (cost(), cost(), cost(), cost(), cost(), cost(), cost(), cost(), cost());
    let drawn = (guest, host).prop_map(
        |(
            (guest_step_ns, exit_ns, tracked_store_ns, irq_ns),
            (lock_ns, element_ns, sync_word_ns, clear_ns, page_ns, state_ns, vm_stop_ns, setup_ns, return_path_ns),
        )| {
            Costs {
                guest_step_ns,
                exit_ns,
                tracked_store_ns,
                irq_ns,
                lock_ns,
                element_ns,
                sync_word_ns,
                clear_ns,
                page_ns,
                state_ns,
                vm_stop_ns,
                setup_ns,
                return_path_ns,
            }
        },
    );
    prop_oneof![Just(Costs::default()), drawn]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..=86_400_000_000_000u64, 1..=INTEGER_MAX, 1..=INTEGER_MAX, 0..=INTEGER_MAX)
        .prop_map(|(time_ns, steps, step_insns, check_mm)| Limits { time_ns, steps, step_insns, check_mm })
}
