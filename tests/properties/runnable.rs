//! Random scenarios that a user could have meant: every value within what its real counterpart does, so that a run has to end well.
//!
//! `emu::scenario::arbitrary` draws everything that a file can say, for the reader and the writer; most of that is no sensible system. Here
//! what would be the scenario's own fault is left out: a link that never catches up with the guest, a store into the kernel's own memory,
//! two tasks that share an allocation, a driver that is taken away under its device.

use std::collections::BTreeSet;

use emu::scenario::model::*;
use host::dirty::limit::LimitOptions;
use host::event::{Actor, EventKind};
use host::fault::Fault;
use host::migration::encoding::{Compression, DestinationRam, EncodingOptions, ZeroPages};
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use host::step::Costs;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use wire::balloon::feature;
use wire::platform::{IMAGE_END_MAX, PAGE_SIZE};

/// Names of pages.
const PAGES: [&str; 3] = ["P", "Q", "R"];
/// Blocks that a task holds by name.
pub(crate) const BLOCKS: [&str; 2] = ["A", "B"];
/// What the kernel has for itself once it is up, stacks and rings among it: pages behind the end of the image, and behind the end of the first
/// zone in a memory that has two. A stray store there kills the guest, and rightly so.
const KERNEL: [std::ops::Range<u64>; 2] = [0..IMAGE_END_MAX / PAGE_SIZE + 0x40, 0x1000..0x1040];

/// Events that come in nearly every run.
const USUAL: &[EventKind] = &[
    EventKind::GuestReady,
    EventKind::GuestStart,
    EventKind::GuestStop,
    EventKind::GuestAdd,
    EventKind::GuestIrq,
    EventKind::GuestWork,
    EventKind::ConfigCmdId,
    EventKind::HintRequest,
    EventKind::HintStart,
    EventKind::HintPush,
    EventKind::HintStop,
    EventKind::LogStart,
    EventKind::BitmapSync,
    EventKind::MigrationState,
    EventKind::Notify,
    EventKind::IterateBegin,
    EventKind::LockTake,
];

/// Events of which a scenario names no page.
const PLAIN: &[EventKind] = &[
    EventKind::GuestReady,
    EventKind::GuestCmdId,
    EventKind::GuestStart,
    EventKind::GuestStop,
    EventKind::GuestAdd,
    EventKind::GuestKick,
    EventKind::GuestGet,
    EventKind::GuestIrq,
    EventKind::GuestLock,
    EventKind::GuestInflate,
    EventKind::GuestDeflate,
    EventKind::GuestActual,
    EventKind::GuestIsolate,
    EventKind::GuestPutback,
    EventKind::GuestMigratePage,
    EventKind::GuestMigrateDone,
    EventKind::GuestShrink,
    EventKind::GuestOom,
    EventKind::GuestTask,
    EventKind::GuestTaskDone,
    EventKind::GuestWork,
    EventKind::GuestWorkDone,
    EventKind::DeviceIrq,
    EventKind::ConfigCmdId,
    EventKind::HintRequest,
    EventKind::HintStart,
    EventKind::HintStop,
    EventKind::HintDone,
    EventKind::HintPush,
    EventKind::BalloonInflate,
    EventKind::BalloonDeflate,
    EventKind::BalloonStats,
    EventKind::LogStart,
    EventKind::LogStop,
    EventKind::DirtyGet,
    EventKind::DirtyMerge,
    EventKind::VhostMerge,
    EventKind::BitmapSync,
    EventKind::AfterSync,
    EventKind::MigrationState,
    EventKind::Notify,
    EventKind::IterateBegin,
    EventKind::IterateEnd,
    EventKind::RateLimit,
    EventKind::Pass,
    EventKind::DstDevice,
    EventKind::DstStart,
    EventKind::VmStop,
    EventKind::VmStart,
    EventKind::LinkDown,
    EventKind::Monitor,
    EventKind::LockTake,
    EventKind::LockRelease,
];

/// Events of which a scenario names a page.
const ABOUT_PAGES: &[EventKind] = &[
    EventKind::GuestAlloc,
    EventKind::GuestFree,
    EventKind::GuestWrite,
    EventKind::GuestHint,
    EventKind::GuestReclaim,
    EventKind::GuestReturn,
    EventKind::HintPop,
    EventKind::HintApply,
    EventKind::HintIgnore,
    EventKind::DirtyMark,
    EventKind::DirtyClear,
    EventKind::BitmapTake,
    EventKind::RamRead,
    EventKind::RamSend,
    EventKind::DstPlace,
];

/// What happens to a page that is hinted, and to one that is sent.
const STORY: &[EventKind] = &[
    EventKind::GuestAlloc,
    EventKind::GuestHint,
    EventKind::HintPop,
    EventKind::HintApply,
    EventKind::BitmapTake,
    EventKind::RamRead,
    EventKind::RamSend,
    EventKind::DirtyMark,
    EventKind::DirtyClear,
];

/// Returns a strategy for scenarios of a profile that must end well.
pub(crate) fn runnable(profile: Profile) -> impl Strategy<Value = Scenario> {
    (prop_oneof![Just(8u64), Just(16), Just(24), Just(32)], 1..=4u8, any::<bool>(), 0..=PAGES.len())
        .prop_flat_map(move |(mib, vcpus, verifies, pages)| {
            let orders: Vec<_> = (0..usize::from(vcpus) * BLOCKS.len()).map(|_| 0..=10u8).collect();
            (Just((mib << 20, vcpus, verifies, pages)), orders)
        })
        .prop_flat_map(move |((ram_bytes, vcpus, verifies, pages), orders)| {
            let names: Vec<PageName> = PAGES[..pages].iter().map(|name| (*name).to_owned()).collect();
            let specs: Vec<_> = names.iter().map(|name| (Just(name.clone()), page_spec(ram_bytes, orders.clone()))).collect();
            (
                guest(ram_bytes, vcpus, orders.clone(), verifies),
                host(profile, ram_bytes),
                migration(profile, names.clone()),
                specs,
                vec(injection(ram_bytes, vcpus, orders.clone(), names.clone(), verifies), 0..6),
                prop_oneof![5 => Just(Vec::new()), 1 => vec(chain(names), 1..3)],
                (costs(), Just(orders), prop::option::weighted(0.2, plugged())),
            )
        })
        .prop_map(move |(guest, host, migration, pages, injections, chains, (costs, orders, plugged))| {
            let mut scenario = Scenario {
                about: "drawn at random".to_owned(),
                witness: Vec::new(),
                faults: Vec::new(),
                guest,
                host,
                migration,
                pages: pages.into_iter().collect(),
                injections,
                may: Vec::new(),
                search: Search::default(),
                vary: Vary::default(),
                orders: chains.into_iter().flatten().collect(),
                expect: Expect::default(),
                costs,
                limits: Limits { time_ns: 20_000_000_000, ..Limits::default() },
                found: None,
            };
            if scenario.host.dirty_log != DirtyLog::ManualClear {
                scenario.injections.retain(|injection| !matches!(injection.action, Action::ClearLog { .. }));
            }
            if profile == Profile::Firecracker {
                // Each round ends with DONE here: a guest that fills what it hints or gets back dirties it anew in each, for ever.
                let guest = &mut scenario.guest;
                (guest.page_poison, guest.init_on_alloc, guest.init_on_free) = (false, false, false);
                // A device there wants all queues that it offers: who refuses a feature with a queue has none (docs/profiles.md).
                guest.features_refused = 0;
            }
            for injection in &mut scenario.injections {
                if let Action::Write { page, pages, .. } | Action::ClearLog { page, pages, .. } = &mut injection.action {
                    *pages = (*pages).min(room(&scenario.pages[page], &orders, scenario.guest.ram_bytes / PAGE_SIZE));
                }
            }
            // It is QEMU's.
            plugged.into_iter().filter(|_| profile == Profile::Qemu).for_each(|plugged| add_virtio_mem(&mut scenario, plugged));
            make_consistent(&mut scenario, &orders);
            make_modes_consistent(&mut scenario);
            scenario
        })
}

/// Sees to it that what is drawn goes together, and that what goes over to the destination can end there.
fn make_modes_consistent(scenario: &mut Scenario) {
    let given =
        |scenario: &Scenario, wanted: Command| scenario.injections.iter().any(|injection| injection.action == Action::Monitor(wanted));
    let migration = &mut scenario.migration;
    if migration.modes.snapshot {
        let EncodingOptions { zero_pages, mapped_ram, destination_ram, poisoned, .. } = migration.encoding;
        migration.encoding = EncodingOptions { zero_pages, mapped_ram, destination_ram, poisoned, ..EncodingOptions::default() };
        migration.throttle.auto_converge = false;
    }
    // What the timer of auto-converge does once the guest has gone over is nobody's model yet.
    migration.throttle.auto_converge &= !migration.modes.moves();
    migration.modes.postcopy &= migration.encoding.refused(true).is_none();
    migration.limit.on &= scenario.host.dirty_log == DirtyLog::Ring && !migration.throttle.auto_converge;
    // A limit outlives a migration that is cancelled, and what is dropped at the source goes with a link that breaks: docs/findings.
    scenario.migration.limit.on &= !given(scenario, Command::Cancel);
    scenario.migration.modes.release_ram &= !given(scenario, Command::BreakLink);
    let Modes { postcopy, .. } = scenario.migration.modes;
    scenario.injections.retain(|injection| postcopy || injection.action != Action::Monitor(Command::StartPostcopy));
    if postcopy {
        // A link that broke when the guest had gone over is joined again in the end.
        let late = |at_ns| Trigger { at_ns: Some(at_ns), ..Trigger::default() };
        let action = Action::Monitor(Command::Recover);
        scenario.injections.push(Injection { name: None, action, by: Actor::MainLoop, trigger: late(4_000_000_000), before: Vec::new() });
    }
}

/// Memory that is plugged and unplugged, when to how much, and where in it named pages lie.
#[derive(Debug, Clone)]
struct Plugged {
    mem: VirtioMem,
    resizes: Vec<(Trigger, u64)>,
    places: Vec<u64>,
}

fn plugged() -> impl Strategy<Value = Plugged> {
    let resize = (trigger(Vec::new()), 0..=1024u64);
    (1..=4u64, 1..=4u64, subsequence(vec![0, 1, 2, 3u64], 0..=4), vec(resize, 0..3), vec(0..1024u64, 0..3)).prop_map(
        |(blocks, memslot, mut plugged, resizes, places)| {
            plugged.retain(|block| *block < blocks);
            let (pages, memslot_pages) = (blocks << 8, memslot.min(blocks) << 8);
            Plugged { mem: VirtioMem { pages, block_pages: 1 << 8, memslot_pages, plugged }, resizes, places }
        },
    )
}

/// Puts it behind the guest's memory.
fn add_virtio_mem(scenario: &mut Scenario, plugged: Plugged) {
    let Plugged { mem, resizes, places } = plugged;
    let first = scenario.guest.ram_bytes / PAGE_SIZE;
    scenario.guest.ram_bytes += mem.pages * PAGE_SIZE;
    let fixed = scenario.pages.values_mut().filter(|spec| matches!(spec, PageSpec::Pfn(_)));
    for (spec, place) in fixed.zip(places) {
        *spec = PageSpec::Pfn(first + (place % mem.pages).min(mem.pages - RANGE_PAGES_MAX));
    }
    for (trigger, pages) in resizes {
        let action = Action::Monitor(Command::ResizeMem { pages: pages.min(mem.pages) });
        let trigger = Trigger { delay_insns: 0, ..trigger };
        scenario.injections.push(Injection { name: None, action, by: Actor::MainLoop, trigger, before: Vec::new() });
    }
    scenario.host.host_page = scenario.host.host_page.min(u16::try_from(mem.block_pages).expect("1 MiB"));
    scenario.host.virtio_mem = Some(mem);
}

/// Longest range of pages that an injection speaks of.
const RANGE_PAGES_MAX: u64 = 100;

/// Returns a strategy for scenarios in which more goes wrong than any system stands: faults, a device reset under its driver, a driver that
/// comes and goes, stray stores, rings that are too small.
pub(crate) fn mischievous() -> impl Strategy<Value = Scenario> {
    let mischief = prop_oneof![
        Just((Action::Monitor(Command::ResetDevice), Actor::MainLoop)),
        Just((Action::Monitor(Command::SystemReset), Actor::MainLoop)),
        Just((Action::Task(Operation::Reboot), Actor::Vcpu(0))),
        Just((Action::Task(Operation::EmergencyRestart), Actor::Vcpu(0))),
        Just((Action::Task(Operation::Unbind), Actor::Vcpu(0))),
        Just((Action::Task(Operation::Bind), Actor::Vcpu(0))),
        Just((Action::RepeatId, Actor::Vcpu(0))),
        (0..wire::platform::RAM_BYTES_MIN).prop_map(|address| (Action::Task(Operation::WildStore { address }), Actor::Vcpu(0))),
    ];
    let injection = (mischief, trigger(Vec::new())).prop_map(|((action, by), trigger)| {
        let delay_insns = if let Actor::Vcpu(_) = by { trigger.delay_insns } else { 0 };
        Injection { name: None, action, by, trigger: Trigger { delay_insns, ..trigger }, before: Vec::new() }
    });
    let parts = (vec(injection, 0..4), subsequence(Fault::ALL, 0..3), (1..=10u32).prop_map(|shift| 1u16 << shift), refused_bits());
    (select(Profile::ALL), parts).prop_flat_map(|(profile, (injections, faults, hint_queue_size, features_refused))| {
        runnable(profile).prop_map(move |mut scenario| {
            scenario.injections.extend(injections.iter().cloned());
            scenario.faults = faults.clone();
            scenario.host.hint_queue_size = hint_queue_size;
            scenario.guest.features_refused = features_refused;
            // What it comes to is seen early; a driver that goes in a circle would take long to watch.
            scenario.limits = Limits { time_ns: 1_000_000_000, steps: 20_000, step_insns: 5_000_000, ..Limits::default() };
            scenario
        })
    })
}

fn refused_bits() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..1u64 << 7]
}

/// Returns the name of a vCPU's block or list: each task keeps to its own.
fn own(name: &str, vcpu: u8) -> String {
    format!("{name}{vcpu}")
}

/// Returns how many pages from the named one on are the same owner's.
fn room(spec: &PageSpec, orders: &[u8], ram_pages: u64) -> u64 {
    let left = |page: &PageOf, pages: u64| match page {
        PageOf::Index(index) => pages - index,
        PageOf::Last => 1,
    };
    match spec {
        PageSpec::Pfn(pfn) => KERNEL.iter().map(|kernel| kernel.start).chain([ram_pages]).find(|end| end > pfn).expect("in RAM") - pfn,
        PageSpec::Hint { page, .. } => left(page, 1 << wire::balloon::HINT_BLOCK_ORDER),
        PageSpec::Allocation { name, page } => left(page, 1 << orders[order_of(name)]),
    }
}

/// Returns the place of a block's order among all.
fn order_of(name: &str) -> usize {
    let vcpu: usize = name[1..].parse().expect("a name ends in its vCPU");
    vcpu * BLOCKS.len() + BLOCKS.iter().position(|block| name.starts_with(block)).expect("a block")
}

/// Sees to it that every allocation that is spoken of is made by somebody. `orders`: of each vCPU's blocks.
pub(crate) fn make_consistent(scenario: &mut Scenario, orders: &[u8]) {
    let made: BTreeSet<String> = scenario.allocation_names().into_iter().map(str::to_owned).collect();
    let injected = scenario.injections.iter().filter_map(|injection| match &injection.action {
        Action::Task(operation) => Some(operation),
        Action::Write { .. }
        | Action::Monitor(_)
        | Action::ClearLog { .. }
        | Action::RepeatId
        | Action::VhostQueue { .. }
        | Action::Iommu { .. } => None,
    });
    let used = scenario.guest.tasks.iter().flat_map(|task| &task.operations).chain(injected).filter_map(|operation| match operation {
        Operation::Free { name, .. } | Operation::Write { name, .. } | Operation::Release { name, .. } => Some(name),
        _ => None,
    });
    let named = scenario.pages.values().filter_map(|spec| match spec {
        PageSpec::Allocation { name, .. } => Some(name),
        PageSpec::Pfn(_) | PageSpec::Hint { .. } => None,
    });
    let missing: BTreeSet<String> = used.chain(named).filter(|name| !made.contains(*name)).cloned().collect();
    for name in missing {
        let vcpu: u8 = name[1..].parse().expect("a name ends in its vCPU");
        let operation = match name.starts_with('L') {
            true => Operation::Fill { name, pages: 16 },
            false => Operation::Alloc { order: orders[order_of(&name)], name, atomic: false },
        };
        match scenario.guest.tasks.iter_mut().find(|task| task.vcpu == vcpu) {
            Some(task) => task.operations.insert(0, operation),
            None => scenario.guest.tasks.push(Task { vcpu, operations: vec![operation] }),
        }
    }
}

fn flags<const N: usize>(all: [(u32, u64); N]) -> impl Strategy<Value = u64> {
    all.map(|(percent, bit)| prop::bool::weighted(f64::from(percent) / 100.0).prop_map(move |on| if on { bit } else { 0 }))
        .prop_map(|bits| bits.iter().fold(0, |sum, bit| sum | bit))
}

fn guest(ram_bytes: u64, vcpus: u8, orders: Vec<u8>, verifies: bool) -> impl Strategy<Value = Guest> {
    let kernel = (prop::bool::weighted(0.25), prop::bool::weighted(0.25), prop::bool::weighted(0.25));
    let refused = flags([(10, feature::DEFLATE_ON_OOM), (5, feature::FREE_PAGE_HINT), (10, feature::PAGE_POISON)]);
    let tasks: Vec<_> = (0..vcpus).map(|vcpu| vec(operations(vcpu, ram_bytes, orders.clone(), verifies), 0..7)).collect();
    (kernel, refused, tasks).prop_map(move |((page_poison, init_on_alloc, init_on_free), features_refused, tasks)| {
        let tasks = tasks.into_iter().map(|operations| operations.into_iter().flatten().collect::<Vec<_>>());
        let task = |(vcpu, operations): (usize, Vec<_>)| Task { vcpu: vcpu as u8, operations };
        Guest {
            ram_bytes,
            vcpus,
            driver: Driver::Hint,
            corrected: 0,
            hint_array: 512,
            queue_numbering: Numbering::Dense,
            features_refused,
            // A wild store into a poisoned free page is found by the guest, which then panics.
            page_poison: page_poison && verifies,
            init_on_alloc,
            init_on_free,
            late_probe: false,
            manners: Manners::default(),
            tasks: tasks.enumerate().map(task).filter(|task| !task.operations.is_empty()).collect(),
        }
    })
}

/// One operation, or two that belong together.
pub(crate) fn operations(vcpu: u8, ram_bytes: u64, orders: Vec<u8>, verifies: bool) -> impl Strategy<Value = Vec<Operation>> {
    let place = block(vcpu, &orders).prop_flat_map(|(name, order)| (Just(name), 0..1u64 << order, any::<u8>()));
    let write = place.prop_map(move |(name, page, byte)| {
        let write = Operation::Write { name: name.clone(), page, byte };
        if verifies { vec![write, Operation::Verify { name, page, byte }] } else { vec![write] }
    });
    prop_oneof![4 => operation(vcpu, ram_bytes, &orders).prop_map(|operation| vec![operation]), 1 => write]
}

/// A block of a vCPU's task, and its order.
fn block(vcpu: u8, orders: &[u8]) -> impl Strategy<Value = (String, u8)> + use<> {
    let first = usize::from(vcpu) * BLOCKS.len();
    let blocks: Vec<_> = BLOCKS.iter().enumerate().map(|(index, name)| (own(name, vcpu), orders[first + index])).collect();
    select(blocks)
}

pub(crate) fn operation(vcpu: u8, ram_bytes: u64, orders: &[u8]) -> impl Strategy<Value = Operation> + use<> {
    let pages = prop_oneof![15 => 1..=ram_bytes / PAGE_SIZE / 16, 1 => 1..=ram_bytes / PAGE_SIZE];
    let list = own("L", vcpu);
    let (fill, release) = (list.clone(), list);
    prop_oneof![
        block(vcpu, orders).prop_map(|(name, order)| Operation::Alloc { name, order, atomic: false }),
        block(vcpu, orders).prop_map(|(name, _)| Operation::Free { name, in_interrupt: false }),
        pages.clone().prop_map(move |pages| Operation::Fill { name: fill.clone(), pages }),
        Just(Operation::Release { name: release, every: 1 }),
        pages.prop_map(|pages| Operation::Shrink { pages }),
        Just(Operation::Oom),
        (0..=10u8, 0..4u64).prop_map(|(order, busy)| Operation::Compact { order, busy }),
        Just(Operation::Evacuate),
        prop_oneof![0..1_000_000u64, 0..50_000_000u64].prop_map(|ns| Operation::Sleep { ns }),
        (1..400u64, 0..1u64 << 40).prop_map(|(times, seed)| Operation::Churn { times, seed }),
    ]
}

fn host(profile: Profile, ram_bytes: u64) -> impl Strategy<Value = Host> {
    let log = (select(DirtyLog::ALL), 6..=31u8, any::<bool>(), 4..=12u8);
    let features = flags([
        (10, feature::MUST_TELL_HOST),
        // QEMU always offers statistics. A driver without them would put its hint queue where QEMU's statistics queue is.
        (if profile == Profile::Qemu { 100 } else { 50 }, feature::STATS_VQ),
        (50, feature::DEFLATE_ON_OOM),
        (95, feature::FREE_PAGE_HINT),
        (50, feature::PAGE_POISON),
        (30, feature::PAGE_REPORTING),
        (40, feature::HINT_WAIT_ON_ACK),
    ]);
    // A driver whose queue is full allocates and frees 4 MiB in a circle while the device waits for a slice to end: right, and for ever to
    // watch. 16 entries hold all blocks of the largest memory here.
    let queues = ((4..=10u32).prop_map(|shift| 1u16 << shift), (0..=10u32).prop_map(|shift| 1u16 << shift));
    let balloon = prop_oneof![3 => Just(0), 1 => balloon_pages(ram_bytes)];
    let stats = prop_oneof![2 => Just(0), 1 => 5_000_000..200_000_000u64];
    let devices =
        prop::option::weighted(0.2, 0..5_000_000u64).prop_map(|vhost_log_ack_ns| Devices { vhost_log_ack_ns, ..Devices::default() });
    // PAM registers are about the memory from 768 KiB on.
    let slots = prop_oneof![2 => Just(Vec::new()), 1 => Just(vec![0xc0]), 1 => (1..0x700u64).prop_map(|page| vec![page, page + 0x51])];
    let host_page = prop_oneof![3 => Just(1u16), 1 => (1..=9u32).prop_map(|shift| 1 << shift)];
    let machine = (slots, host_page, prop::bool::weighted(0.15));
    let locks = prop::bool::weighted(0.3);
    (log, features, queues, balloon, stats, (devices, blocks(ram_bytes / PAGE_SIZE), locks, machine)).prop_map(
        move |(
            (dirty_log, chunk_shift, initially_set, ring_shift),
            features,
            (hint_queue_size, queue_size),
            balloon_pages,
            stats_interval_ns,
            (devices, blocks, all_locks, (slots, host_page, vfio)),
        )| {
            let manual = dirty_log == DirtyLog::ManualClear;
            Host {
                profile,
                dirty_log,
                chunk_shift: if manual { chunk_shift } else { Host::CHUNK_SHIFT },
                initially_set: manual && initially_set,
                tracking: Tracking {
                    ring_size: 1 << ring_shift,
                    slots: if profile == Profile::Qemu && has_slots(dirty_log) { slots } else { Vec::new() },
                    ..Tracking::default()
                },
                features,
                queue_numbering: Numbering::Dense,
                walk: Walk::Naive,
                hint_queue_size,
                queue_size,
                balloon_pages,
                stats_interval_ns,
                host_page: if profile == Profile::Qemu { host_page } else { 1 },
                iothread: true,
                rom: false,
                acknowledge_on_stop: true,
                all_locks,
                devices: Devices { vfio: vfio && profile == Profile::Qemu, ..devices },
                blocks,
                virtio_mem: None,
            }
        },
    )
}

fn has_slots(log: DirtyLog) -> bool {
    match log {
        DirtyLog::ManualClear | DirtyLog::GetClears | DirtyLog::Ring => true,
        DirtyLog::Hvf | DirtyLog::Tcg => false,
    }
}

/// RAM blocks, some of which neither begin nor end with a word of the bitmaps; mostly none.
fn blocks(ram_pages: u64) -> impl Strategy<Value = Vec<RamBlock>> {
    let block = (1..ram_pages / 4, prop_oneof![Just(0), 1..200u64]);
    prop_oneof![2 => Just(Vec::new()), 1 => vec(block, 1..4)].prop_map(move |sizes| {
        let mut blocks: Vec<RamBlock> = Vec::new();
        for (index, (pages, gap)) in sizes.iter().enumerate() {
            let taken: u64 = blocks.iter().map(|block| block.pages).sum();
            let pages = if index + 1 == sizes.len() { ram_pages - taken } else { *pages };
            let offset = blocks.last().map_or(0, |last| last.offset + last.pages) + gap;
            blocks.push(RamBlock { name: format!("block {index}"), pages, offset, room: 0, ignored: false });
        }
        blocks
    })
}

fn balloon_pages(ram_bytes: u64) -> impl Strategy<Value = u32> {
    0..=u32::try_from(ram_bytes / PAGE_SIZE / 4).expect("a small memory")
}

/// A link that catches up: what an idle guest dirties in a round fits into the downtime.
fn migration(profile: Profile, pages: Vec<PageName>) -> impl Strategy<Value = Migration> {
    let ready = Trigger { after: vec![Pattern::Event { kind: EventKind::GuestReady, page: None, nth: 1 }], ..Trigger::default() };
    let start = prop_oneof![
        4 => Just(Some(ready)),
        3 => (0..20_000_000u64).prop_map(|at| Some(Trigger { at_ns: Some(at), ..Trigger::default() })),
        2 => trigger(pages).prop_map(|trigger| Some(Trigger { delay_insns: 0, ..trigger })),
        1 => Just(None),
    ];
    let rates = (25..34u32, any::<bool>(), 25..34u32);
    (start, rates, 100_000_000..1_000_000_000u64, (encoding(), any::<bool>(), modes(profile)), 1..5u32).prop_map(
        |(
            start,
            (bandwidth, limited, limit),
            downtime_limit_ns,
            (encoding, complete_before_sync, (modes, throttle, switchover, dirty_limit)),
            rounds_min,
        )| Migration {
            start,
            bandwidth: 1 << bandwidth,
            max_bandwidth: if limited { 1 << limit } else { 0 },
            downtime_limit_ns,
            encoding,
            rounds_min,
            complete_before_sync,
            throttle,
            limit: dirty_limit,
            switchover,
            hints_first: false,
            modes,
        },
    )
}

/// What QEMU can beyond plain precopy; others cannot.
fn modes(profile: Profile) -> impl Strategy<Value = (Modes, ThrottleOptions, SwitchoverOptions, LimitOptions)> {
    let rate = || prop_oneof![Just(0), (25..34u32).prop_map(|shift| 1u64 << shift)];
    let postcopy = (rate(), any::<[bool; 2]>()).prop_map(|(max_postcopy_bandwidth, [preempt, release_ram])| Modes {
        postcopy: true,
        max_postcopy_bandwidth,
        preempt,
        release_ram,
        ..Modes::default()
    });
    let modes = prop_oneof![
        4 => Just(Modes::default()),
        2 => Just(Modes { run_on: true, ..Modes::default() }),
        2 => postcopy,
        1 => Just(Modes { snapshot: true, ..Modes::default() }),
    ];
    let throttle = (prop::bool::weighted(0.3), 1..=100u32, 1..=99u32).prop_map(|(auto_converge, trigger, initial)| ThrottleOptions {
        auto_converge,
        trigger,
        initial,
        ..ThrottleOptions::default()
    });
    let switchover = rate().prop_map(|bandwidth| SwitchoverOptions { pause: false, bandwidth });
    let limit = prop::bool::weighted(0.3).prop_map(|on| LimitOptions { on, ..LimitOptions::default() });
    (modes, throttle, switchover, limit).prop_map(move |drawn| match profile {
        Profile::Qemu => drawn,
        Profile::Firecracker | Profile::CloudHypervisor => Default::default(),
    })
}

fn encoding() -> impl Strategy<Value = EncodingOptions> {
    let xbzrle = prop_oneof![Just(0), (0..=12u32).prop_map(|shift| 1 << shift)];
    let words = (select(ZeroPages::ALL), select(Compression::ALL), select(DestinationRam::ALL));
    (words, xbzrle, prop_oneof![Just(0), 1..=3u8], any::<[bool; 2]>()).prop_map(
        |(words, xbzrle_pages, channels, [zero_copy, mapped_ram])| {
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
            // Channels take the first zeros of a page to be there already: on used memory that loses them, and is no defect of ours.
            if encoding.senders_find_zeros() {
                encoding.destination_ram = DestinationRam::Fresh;
            }
            encoding
        },
    )
}

fn page_spec(ram_bytes: u64, orders: Vec<u8>) -> impl Strategy<Value = PageSpec> {
    let vcpus = (orders.len() / BLOCKS.len()) as u8;
    let allocation = (0..vcpus)
        .prop_flat_map(move |vcpu| block(vcpu, &orders))
        .prop_flat_map(|(name, order)| page_of(1 << order).prop_map(move |page| PageSpec::Allocation { name: name.clone(), page }));
    let pfn = (0..ram_bytes / PAGE_SIZE).prop_filter("the kernel's own", |pfn| !KERNEL.iter().any(|kernel| kernel.contains(pfn)));
    prop_oneof![
        3 => pfn.prop_map(PageSpec::Pfn),
        5 => (prop_oneof![3 => Just(1u32), 1 => 2..4u32], page_of(1 << wire::balloon::HINT_BLOCK_ORDER)).prop_map(|(hint, page)| PageSpec::Hint { hint, page }),
        3 => allocation,
    ]
}

fn page_of(pages: u64) -> impl Strategy<Value = PageOf> {
    prop_oneof![Just(PageOf::Last), Just(PageOf::Index(0)), (0..pages).prop_map(PageOf::Index)]
}

fn pattern(pages: Vec<PageName>) -> BoxedStrategy<Pattern> {
    let kind = prop_oneof![3 => select(USUAL), 1 => select(PLAIN)];
    let plain = (kind, 1..4u32).prop_map(|(kind, nth)| Pattern::Event { kind, page: None, nth });
    if pages.is_empty() {
        return plain.boxed();
    }
    let paged = (select(ABOUT_PAGES), select(pages), 1..3u32).prop_map(|(kind, page, nth)| Pattern::Event { kind, page: Some(page), nth });
    prop_oneof![2 => plain, 1 => paged].boxed()
}

fn trigger(pages: Vec<PageName>) -> impl Strategy<Value = Trigger> {
    let at = prop_oneof![0..8_000_000u64, 0..150_000_000u64].prop_map(|at| Trigger { at_ns: Some(at), ..Trigger::default() });
    let delay_ns = prop_oneof![Just(0), 0..2_000_000u64];
    let delay_insns = prop_oneof![2 => Just(0), 1 => 0..3_000u64];
    let after = (pattern(pages), delay_ns, delay_insns).prop_map(|(pattern, delay_ns, delay_insns)| Trigger {
        at_ns: None,
        after: vec![pattern],
        delay_ns,
        delay_insns,
    });
    prop_oneof![1 => at, 2 => after]
}

fn action(ram_bytes: u64, vcpus: u8, orders: Vec<u8>, pages: Vec<PageName>, verifies: bool) -> BoxedStrategy<(Action, Actor)> {
    let command = prop_oneof![
        4 => select(vec![
            Command::Migrate,
            Command::Cancel,
            Command::Stop,
            Command::Cont,
            Command::BreakLink,
            Command::StartPostcopy,
            Command::StartPostcopy,
        ]),
        1 => balloon_pages(ram_bytes).prop_map(|pages| Command::Balloon { pages }),
    ];
    let monitor = command.prop_map(|command| (Action::Monitor(command), Actor::MainLoop));
    let task = (0..vcpus).prop_flat_map(move |vcpu| {
        operation(vcpu, ram_bytes, &orders).prop_map(move |operation| (Action::Task(operation), Actor::Vcpu(vcpu)))
    });
    let repeat = (0..vcpus).prop_map(|vcpu| (Action::RepeatId, Actor::Vcpu(vcpu)));
    let rest = prop_oneof![6 => monitor, 4 => task, 1 => repeat];
    // What a task verifies is what it wrote itself: nobody else may store there.
    if pages.is_empty() || verifies {
        return rest.boxed();
    }
    let by = prop_oneof![2 => (0..vcpus).prop_map(Actor::Vcpu), 1 => select(vec![Actor::Dma, Actor::Vhost])];
    let write = (select(pages.clone()), (0..=PAGE_SIZE - 8), any::<(u8, bool)>(), 1..4u64, by).prop_map(
        |(page, offset, (byte, zero), pages, by)| {
            let pages = if let Actor::Vcpu(_) = by { 1 } else { pages };
            (Action::Write { page, offset, byte: if zero { 0 } else { byte }, zero, pages, target: Target::Buffer, how: How::Plain }, by)
        },
    );
    let clear =
        (select(pages), 1..100u64, any::<bool>()).prop_map(|(page, pages, sync)| (Action::ClearLog { page, pages, sync }, Actor::Display));
    prop_oneof![11 => rest, 12 => write, 1 => clear].boxed()
}

fn injection(ram_bytes: u64, vcpus: u8, orders: Vec<u8>, pages: Vec<PageName>, verifies: bool) -> impl Strategy<Value = Injection> {
    let before = prop_oneof![6 => Just(None), 1 => pattern(pages.clone()).prop_map(Some)];
    let near = option::of((select(STORY), 0..30_000u64));
    let drawn = (action(ram_bytes, vcpus, orders, pages.clone(), verifies), trigger(pages), near, before);
    drawn.prop_map(|((action, by), mut trigger, near, before)| {
        // Half of the writes fall into their own page's story.
        if let (Action::Write { page, .. }, Some((kind, delay_ns))) = (&action, near) {
            let after = vec![Pattern::Event { kind, page: Some(page.clone()), nth: 1 }];
            trigger = Trigger { at_ns: None, after, delay_ns, delay_insns: 0 };
        }
        let delay_insns = if let Actor::Vcpu(_) = by { trigger.delay_insns } else { 0 };
        // Every order that is asked for follows the order of patterns: so there is no circle of them.
        let before = before.filter(|before| trigger.after.iter().all(|after| after < before));
        Injection { name: None, action, by, trigger: Trigger { delay_insns, ..trigger }, before: before.into_iter().collect() }
    })
}

fn chain(pages: Vec<PageName>) -> impl Strategy<Value = Option<Order>> {
    vec(pattern(pages), 2..4).prop_map(|mut chain| {
        chain.sort();
        chain.dedup();
        (chain.len() > 1).then_some(Order { chain })
    })
}

/// Each cost between a tenth of its default and ten times as much.
fn costs() -> impl Strategy<Value = Costs> {
    let scale = || prop_oneof![Just(10u64), 1..=100u64];
    let scaled = [(); 13].map(|()| scale()).prop_map(|by| {
        let d = Costs::default();
        Costs {
            guest_step_ns: d.guest_step_ns * by[0] / 10,
            exit_ns: d.exit_ns * by[1] / 10,
            tracked_store_ns: d.tracked_store_ns * by[2] / 10,
            irq_ns: d.irq_ns * by[3] / 10,
            lock_ns: d.lock_ns * by[4] / 10,
            element_ns: d.element_ns * by[5] / 10,
            sync_word_ns: d.sync_word_ns * by[6] / 10,
            clear_ns: d.clear_ns * by[7] / 10,
            page_ns: d.page_ns * by[8] / 10,
            state_ns: d.state_ns * by[9] / 10,
            vm_stop_ns: d.vm_stop_ns * by[10] / 10,
            setup_ns: d.setup_ns * by[11] / 10,
            return_path_ns: d.return_path_ns * by[12] / 10,
        }
    });
    prop_oneof![Just(Costs::default()), scaled]
}
