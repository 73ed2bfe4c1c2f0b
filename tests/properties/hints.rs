//! Every interface at random: what it tells the host was free at that moment, and nothing is lost but by what is known of it.
//!
//! The moment is the announcement's: for interfaces whose hints stay free it stands under the zone's lock where they take it, and for a host that looks by
//! itself it is its own look. What is free then is what a naive allocator says, which knows the frames that boot left to the allocator, and
//! follows every block that leaves it or comes back. Interfaces that take what they hint must have allocated just that block just before.

use std::collections::BTreeMap;
use std::sync::Mutex;

use emu::outcome::{GuestCrash, Outcome, Verdict};
use emu::scenario::model::*;
use emu::scenario::to_toml;
use emu::world::{RunOptions, memory_at_end, run};
use host::event::{Actor, Event, EventKind, HintElement, PageRange};
use lostpage_tests::scenario;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use wire::layout::{KernelInfo, PAGEBLOCK_ORDER, page};
use wire::platform::{KERNEL_INFO, PAGE_SIZE};
use wire::switch::correct;

use super::allocator::guest_of;
use super::config;
use super::runnable::{BLOCKS, make_consistent, operation, operations};

/// What happens around hints.
const STORY: &[EventKind] = &[
    EventKind::GuestStart,
    EventKind::GuestLock,
    EventKind::GuestUnlock,
    EventKind::GuestHint,
    EventKind::GuestAdd,
    EventKind::GuestReport,
    EventKind::GuestReclaim,
    EventKind::GuestWork,
    EventKind::HintRequest,
    EventKind::HintStart,
    EventKind::HintPop,
    EventKind::HintApply,
    EventKind::HintStop,
    EventKind::BitmapSync,
    EventKind::IterateBegin,
    EventKind::MigrationState,
];

/// Reports come so long after a large block was freed (Linux: mm/page_reporting.c PAGE_REPORTING_DELAY), and a bit.
const REPORTED_NS: u64 = 2_100_000_000;

/// What is corrected even of an interface as posted: else the guest does not survive it (v33-thread), or tells what is in use (pfn-walk).
fn needed(driver: Driver) -> u64 {
    match driver {
        Driver::V33Thread => correct::UNLINK_UNACCOUNTED,
        Driver::PfnWalk => correct::REFCOUNT_TRUSTED,
        _ => 0,
    }
}

fn host(driver: Driver) -> impl Strategy<Value = Host> {
    let profiles = if driver.hints_stay_free() { &[Profile::Qemu][..] } else { Profile::ALL };
    let sizes = ((4..=10u32).prop_map(|shift| 1u16 << shift), (4..=10u32).prop_map(|shift| 1u16 << shift));
    (select(profiles), select(DirtyLog::ALL), 6..=18u8, any::<bool>(), sizes).prop_map(
        move |(profile, dirty_log, chunk_shift, initially_set, (hint_queue_size, queue_size))| {
            let manual = dirty_log == DirtyLog::ManualClear;
            Host {
                dirty_log,
                chunk_shift: if manual { chunk_shift } else { Host::CHUNK_SHIFT },
                initially_set: manual && initially_set,
                walk: Walk::Corrected,
                hint_queue_size,
                queue_size,
                ..Host::of(profile, driver)
            }
        },
    )
}

fn guest(driver: Driver) -> impl Strategy<Value = (Guest, Vec<u8>)> {
    let corrections = correct::ALL.iter().fold(0, |all, (bit, _, _)| all | bit);
    // Reporting waits for more free memory than a batch of blocks takes, 64 MiB (Linux: mm/page_reporting.c page_reporting_process_zone()).
    let sizes = if driver == Driver::Report { &[96u64, 128][..] } else { &[8, 16, 24] };
    let kernel = [(); 3].map(|()| prop::bool::weighted(0.2));
    (select(sizes), 1..=3u8, vec(0..=10u8, 3 * BLOCKS.len()), select(vec![needed(driver), corrections]), kernel).prop_flat_map(
        move |(mib, vcpus, orders, corrected, [page_poison, init_on_alloc, init_on_free])| {
            let ram_bytes = mib << 20;
            let tasks: Vec<_> = (0..vcpus).map(|vcpu| vec(operations(vcpu, ram_bytes, orders.clone(), true), 0..7)).collect();
            tasks.prop_map(move |tasks| {
                let tasks = tasks.into_iter().enumerate().map(|(vcpu, operations)| {
                    let mut operations: Vec<_> = operations.into_iter().flatten().collect();
                    if driver == Driver::Report {
                        let name = format!("R{vcpu}");
                        let free = Operation::Free { name: name.clone(), in_interrupt: false };
                        let reported = [
                            Operation::Alloc { name, order: PAGEBLOCK_ORDER as u8, atomic: false },
                            free,
                            Operation::Sleep { ns: REPORTED_NS },
                        ];
                        let middle = operations.len() / 2;
                        operations.splice(middle..middle, reported);
                    }
                    Task { vcpu: vcpu as u8, operations }
                });
                let tasks = tasks.filter(|task| !task.operations.is_empty()).collect();
                (
                    Guest { ram_bytes, vcpus, driver, corrected, page_poison, init_on_alloc, init_on_free, tasks, ..Guest::default() },
                    orders.clone(),
                )
            })
        },
    )
}

/// An operation of a task's beside the migration: at some point of a hint's story.
fn injection(vcpus: u8, ram_bytes: u64, orders: Vec<u8>) -> impl Strategy<Value = Injection> {
    let story = (select(STORY), prop_oneof![2 => 1..4u32, 1 => 1..60u32], 0..30_000u64);
    (0..vcpus)
        .prop_flat_map(move |vcpu| (Just(vcpu), operation(vcpu, ram_bytes, &orders)))
        .prop_flat_map(move |drawn| (Just(drawn), story.clone()))
        .prop_map(|((vcpu, operation), (kind, nth, delay_ns))| Injection {
            name: None,
            action: Action::Task(operation),
            by: Actor::Vcpu(vcpu),
            trigger: Trigger { after: vec![Pattern::Event { kind, page: None, nth }], delay_ns, ..Trigger::default() },
            before: Vec::new(),
        })
}

fn migration(driver: Driver) -> impl Strategy<Value = Migration> {
    let from = if driver == Driver::Report { REPORTED_NS - 110_000_000..REPORTED_NS + 20_000_000 } else { 0..20_000_000 };
    (from, 26..33u32, 1..4u32).prop_map(|(at_ns, bandwidth, rounds_min)| Migration {
        start: Some(Trigger { at_ns: Some(at_ns), ..Trigger::default() }),
        bandwidth: 1 << bandwidth,
        max_bandwidth: 0,
        rounds_min,
        ..Migration::default()
    })
}

/// Returns a strategy for small scenarios of an interface: tasks that allocate and free beside a migration.
fn beside_a_migration(driver: Driver) -> impl Strategy<Value = Scenario> {
    (guest(driver), host(driver), migration(driver))
        .prop_flat_map(|((guest, orders), host, migration)| {
            let injections = vec(injection(guest.vcpus, guest.ram_bytes, orders.clone()), 0..6);
            (Just((guest, host, migration, orders)), injections)
        })
        .prop_map(|((guest, host, migration, orders), injections)| {
            let mut drawn = Scenario { guest, host, migration, injections, ..scenario("about = \"drawn at random\"") };
            drawn.limits = Limits { time_ns: 20_000_000_000, ..Limits::default() };
            if drawn.host.profile == Profile::Firecracker {
                // Each round ends with DONE here: a guest that fills what it hints or gets back dirties it anew in each, for ever.
                let guest = &mut drawn.guest;
                (guest.page_poison, guest.init_on_alloc, guest.init_on_free) = (false, false, false);
            }
            make_consistent(&mut drawn, &orders);
            drawn
        })
}

/// Frames that boot leaves to the allocator, in a guest of this size.
fn left_by_boot(guest: &Guest) -> Vec<bool> {
    static KNOWN: Mutex<BTreeMap<(u64, u8), Vec<bool>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("nobody panics here");
    let boot = || {
        let mut idle = guest_of(guest.ram_bytes, [false; 2], Vec::new());
        idle.guest.vcpus = guest.vcpus;
        let memory = memory_at_end(&idle, &RunOptions::default());
        let word = |at: u64| u64::from_le_bytes(memory[at as usize..at as usize + 8].try_into().expect("eight bytes"));
        let map = word(KERNEL_INFO + std::mem::offset_of!(KernelInfo, mem_map) as u64);
        let reserved = |frame: u64| word(map + frame * page::BYTES + page::FLAGS) & page::flag::RESERVED != 0;
        (0..guest.ram_bytes / PAGE_SIZE).map(|frame| !reserved(frame)).collect()
    };
    known.entry((guest.ram_bytes, guest.vcpus)).or_insert_with(boot).clone()
}

/// The naive allocator.
struct Naive {
    free: Vec<bool>,
    /// What each vCPU has allocated last.
    newest: BTreeMap<Actor, PageRange>,
}

impl Naive {
    /// Returns the first page of a range that is not as it should be.
    fn first_that_is(&self, free: bool, range: PageRange) -> Option<u64> {
        (range.first.0..range.end().0).find(|frame| self.free[*frame as usize] == free)
    }

    fn set(&mut self, range: PageRange, free: bool) {
        self.free[range.first.0 as usize..range.end().0 as usize].fill(free);
    }

    /// Follows an event; returns what is wrong with it.
    fn follow(&mut self, actor: Actor, event: &Event, stays_free: bool) -> Option<String> {
        let wrong = |page: Option<u64>, how: &str| page.map(|page| format!("page {page:#x} of {event:?} {how}"));
        match *event {
            Event::GuestAlloc { range } => {
                let wrong = wrong(self.first_that_is(false, range), "is in use");
                self.set(range, false);
                self.newest.insert(actor, range);
                wrong
            }
            Event::GuestFree { range } => {
                let wrong = wrong(self.first_that_is(true, range), "is free");
                self.set(range, true);
                wrong
            }
            Event::GuestHint { range, .. } if !stays_free => match self.newest.get(&actor) {
                Some(newest) if *newest == range => wrong(self.first_that_is(true, range), "is free: somebody has freed it"),
                newest => Some(format!("{event:?}, but {actor:?} has allocated {newest:?} last")),
            },
            Event::GuestHint { range, .. } | Event::GuestReport { range } | Event::HintPop { element: HintElement::Found(range), .. } => {
                wrong(self.first_that_is(false, range), "is in use")
            }
            _ => None,
        }
    }
}

/// Returns what a run told as free though it was not.
fn overclaim(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    let mut naive = Naive { free: left_by_boot(&scenario.guest), newest: BTreeMap::new() };
    let stays_free = scenario.guest.driver.hints_stay_free();
    outcome.trace.iter().find_map(|stamped| naive.follow(stamped.actor, &stamped.event, stays_free))
}

/// Whether a page may be lost in this way (docs/dialects.md, docs/findings/, scenarios/fail/): early reuse by a driver that has taken the page back, a write behind
/// what promised nothing where a hint takes the only record of it, and poison that is not sent.
fn is_known(cause: &str, scenario: &Scenario) -> bool {
    let (stays_free, manual) = (scenario.guest.driver.hints_stay_free(), scenario.host.dirty_log == DirtyLog::ManualClear);
    match cause {
        "early-reuse" => !stays_free,
        "hint-of-the-past" => stays_free && manual,
        "walk-overtaken" => scenario.guest.driver == Driver::HostWalk && manual,
        "free-page-read" | "found-page-read" => stays_free && scenario.guest.page_poison,
        _ => false,
    }
}

/// Whether the guest may end in this way: v16's stop leaves one list alone, and the walk of the next ones finds the queue full (S23).
fn is_known_end(crash: &GuestCrash, scenario: &Scenario) -> bool {
    let stops = scenario.guest.corrected & correct::STOP_INNER_LOOP != 0;
    scenario.guest.driver == Driver::V16 && !stops && crash.message.contains("no entry for a free block")
}

/// Returns what a run must not end with, if it did.
fn complaint(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    for violation in &outcome.violations {
        if violation.verdict != Verdict::LostPage || !violation.cause.is_some_and(|cause| is_known(cause, scenario)) {
            return Some(format!("{} by {}: {}", violation.rule, violation.blame.name(), violation.what));
        }
    }
    match outcome.verdict {
        Verdict::GuestCrash if outcome.crash.as_ref().is_some_and(|crash| is_known_end(crash, scenario)) => None,
        Verdict::HostCrash | Verdict::GuestCrash | Verdict::Deadlock | Verdict::Stall => {
            Some(format!("{}: {:?} {:?}", outcome.verdict.name(), outcome.crash, outcome.waits))
        }
        Verdict::LostPage | Verdict::BrokenRule | Verdict::Leak | Verdict::OverSend | Verdict::Unreachable | Verdict::Pass => None,
    }
}

/// A walk that trusts reference counts tells a block that a task holds: what is tested below can be told.
#[test]
fn what_is_in_use_is_seen_to_be_told() {
    for driver in ["pfn-walk", "host-walk"] {
        let told = scenario(&format!(
            "about = \"a block in use\"\n[guest]\ndriver = \"{driver}\"\n[[guest.task]]\non = \"vcpu1\"\ndo = [{{ alloc = \"A\", order = 4 }}]\n[migration]\nstart = {{ after = \"guest.task_done\" }}"
        ));
        let wrong = overclaim(&told, &run(&told, &RunOptions::default()));
        assert!(wrong.as_ref().is_some_and(|wrong| wrong.ends_with("is in use")), "{driver}: {wrong:?}");
    }
}

/// Nothing would be tested of an interface that never told anything.
#[test]
fn each_interface_tells_something() {
    let tells = |event: &Event| {
        let found = matches!(event, Event::HintPop { element: HintElement::Found(_), .. });
        found || matches!(event, Event::GuestHint { .. } | Event::GuestReport { .. })
    };
    for driver in Driver::ALL {
        let (mut runner, drawn) = (TestRunner::deterministic(), beside_a_migration(*driver));
        let mut draw = || drawn.new_tree(&mut runner).expect("a scenario").current();
        let told = (0..20).any(|_| run(&draw(), &RunOptions::default()).trace.iter().any(|stamped| tells(&stamped.event)));
        assert!(told, "{}", driver.name());
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_hinted_was_free_and_nothing_is_lost_without_blame(scenario in select(Driver::ALL).prop_flat_map(beside_a_migration)) {
        let outcome = run(&scenario, &RunOptions::default());
        prop_assert_eq!(overclaim(&scenario, &outcome), None, "{}", to_toml(&scenario));
        prop_assert_eq!(complaint(&scenario, &outcome), None, "{}", to_toml(&scenario));
    }
}
