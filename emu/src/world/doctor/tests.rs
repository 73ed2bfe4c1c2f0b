//! A doctor that cannot find anything is a defect: what is altered or forgotten shows, and nothing else does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use host::event::{Actor, Event, LockId, PageRange};
use host::lock::Locks;
use host::memory::GuestRam;
use xxhash_rust::xxh3::Xxh3;

use super::*;
use crate::scenario;
use crate::world::State;

/// Hints, orders, stores of all kinds and tasks, on into the second half of the run.
pub(in crate::world) const BUSY: &str = r#"
about = "a bit of everything"
[host]
dirty_log = "manual-clear"
chunk     = "256 KiB"
[pages]
P = "first page of hint 2"
Q = "pfn 0x900"
[[inject]]
write  = { page = "P", byte = 0xBB }
by     = "vcpu1"
after  = "hint.pop(P)"
before = "hint.apply(P)"
[[inject]]
task  = { shrink = "4 MiB" }
by    = "vcpu1"
after = "hint.apply"
[[inject]]
task  = { sleep = "100 us" }
by    = "vcpu0"
after = "guest.ready"
[[inject]]
write = { page = "Q", byte = 0xCC }
by    = "dma"
after = "bitmap.sync#2"
[[inject]]
write = { page = "Q", byte = 0xDD }
by    = "vcpu0"
after = "ram.send(Q)"
[[order]]
chain = ["guest.write(P)", "hint.apply(P)", "bitmap.sync#2"]
"#;

fn parsed(text: &str) -> Arc<Scenario> {
    Arc::new(scenario::parse("doctor.toml", text).unwrap_or_else(|errors| panic!("{errors:?}")))
}

fn caught(work: &mut dyn FnMut()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|said| said.downcast_ref::<String>().cloned().unwrap_or_default())
}

/// Forks at a part of a run, in hundredths, with a fork that forgets something.
fn forked(scenario: &Arc<Scenario>, hundredths: u64, forget: impl FnOnce(&mut Fork)) -> Option<Divergence> {
    let (events, found) =
        by_the_clock(scenario, &RunOptions::default(), caught, |steps| steps * hundredths / 100, forget).expect("the first run ends");
    assert!(events > 100, "{events} events");
    found
}

#[test]
fn a_run_forked_at_any_part_goes_on_alike() {
    let scenario = parsed(BUSY);
    for hundredths in (0..=100).step_by(4) {
        assert_eq!(forked(&scenario, hundredths, |_| {}), None, "at {hundredths} %");
    }
}

#[test]
fn a_scenario_is_the_same_twice_in_both_ways() {
    let examination = examine(&parsed(BUSY), &RunOptions::default(), 3, caught).expect("the first runs end");
    assert_eq!(examination.divergences, []);
    assert!(examination.events > 100 && examination.moves > 100, "{examination:?}");
}

/// What a fork may forget: its name, where it is there to be forgotten, and how; with the state of a world at its first instruction to take from.
type Part = (&'static str, fn(&State) -> bool, fn(&mut Fork, State));

const PARTS: [Part; 17] = [
    ("vCPUs", |_| true, |fork, first| fork.state.vcpus = first.vcpus),
    (
        "interrupts",
        |state| state.vcpus.iter().any(|vcpu| !vcpu.interrupts.is_empty()),
        |fork, _| fork.state.vcpus.iter_mut().for_each(|vcpu| vcpu.interrupts.clear()),
    ),
    (
        "timers",
        |state| state.vcpus.iter().any(|vcpu| vcpu.timer_ns.is_some()),
        |fork, _| fork.state.vcpus.iter_mut().for_each(|vcpu| vcpu.timer_ns = None),
    ),
    ("host", |_| true, |fork, first| fork.state.vmm = first.vmm),
    ("locks", |state| LockId::ALL.iter().any(|lock| state.locks.holder(*lock).is_some()), |fork, _| fork.state.locks = Locks::default()),
    ("watched pages", |_| true, |fork, _| fork.state.watch.0.clear()),
    ("constraints", |_| true, |fork, first| fork.state.gates = first.gates),
    ("names", |_| true, |fork, first| fork.state.pages = first.pages),
    ("injections", |_| true, |fork, first| fork.state.injections = first.injections),
    ("the migration's start", |_| true, |fork, first| fork.state.start = first.start),
    ("oracle", |_| true, |fork, first| fork.state.oracle = first.oracle),
    ("times", |_| true, |fork, first| fork.state.times_ns = first.times_ns),
    ("clock", |_| true, |fork, first| fork.state.now_ns = first.now_ns),
    ("number of steps", |_| true, |fork, first| fork.state.steps = first.steps),
    ("that the driver is up", |_| true, |fork, first| fork.state.ready = first.ready),
    ("the injected store's entry", |_| true, |fork, first| fork.state.inject_stub = first.inject_stub),
    ("number of hints", |state| state.hints == 1, |fork, first| fork.state.hints = first.hints),
];

/// So many forks along the run are tried, until one shows what it has forgotten.
const FORKS: usize = 48;

/// Returns the first difference that shows when forks along the run, where there is something to forget, forget it.
fn found(scenario: &Arc<Scenario>, wanted: fn(&State) -> bool, mut forget: impl FnMut(&mut Fork)) -> Option<Divergence> {
    let options = RunOptions::default();
    let mut world = World::new(scenario, &options, false);
    let mut steps = Vec::new();
    while world.end().is_none() && world.step() {
        steps.extend(wanted(&world.state).then_some(world.state.steps));
    }
    let few = steps.iter().step_by(steps.len().div_ceil(FORKS).max(1));
    few.copied().find_map(|step| by_the_clock(scenario, &options, caught, |_| step, &mut forget).expect("the first run ends").1)
}

/// A doctor that cannot find anything is a defect.
#[test]
fn whatever_a_fork_forgets_of_the_state_is_found_behind_it() {
    let scenario = parsed(BUSY);
    let first = World::new(&scenario, &RunOptions::default(), false).state;
    for (part, wanted, forget) in PARTS {
        let divergence = found(&scenario, wanted, |fork| forget(fork, first.clone())).unwrap_or_else(|| panic!("nobody misses {part}"));
        assert_eq!((divergence.way, divergence.is_before_fork()), (Way::Run, false), "{part}: {divergence:?}");
    }
}

#[test]
fn what_a_fork_forgets_of_memory_and_registers_is_found_behind_it() {
    let scenario = parsed(BUSY);
    let other = |fork: &Fork, change: fn(&mut World)| {
        let mut world = fork.resume();
        change(&mut world);
        world.machine.save()
    };
    assert_eq!(World::new(&scenario, &RunOptions::default(), false).ram.pages(), 4096);
    type Forget<'a> = (&'static str, fn(&State) -> bool, &'a dyn Fn(&mut Fork));
    let always: fn(&State) -> bool = |_| true;
    let forgets: [Forget<'_>; 6] = [
        ("a page of memory", always, &|fork| drop(fork.pages.pop())),
        ("all memory", always, &|fork| fork.pages.clear()),
        ("which pages hold something", always, &|fork| fork.marks = GuestRam::new(4096 * PAGE_SIZE).marks()),
        ("registers", always, &|fork| fork.cpus = World::new(&fork.scenario, &fork.options, false).machine.save()),
        ("armed pages", |state| state.vmm.accel.logging(), &|fork| {
            fork.cpus = other(fork, |world| world.machine.disarm(PageRange::new(Pfn(0), 4096)))
        }),
        ("a trap", always, &|fork| fork.cpus = other(fork, |world| world.machine.trap(Pfn(0x900), false))),
    ];
    for (part, wanted, forget) in forgets {
        let divergence = found(&scenario, wanted, forget).unwrap_or_else(|| panic!("nobody misses {part}"));
        assert!(!divergence.is_before_fork(), "{part}: {divergence:?}");
    }
}

#[test]
fn what_a_fork_forgets_of_the_past_is_found_where_it_was() {
    let scenario = parsed(BUSY);
    let lost = forked(&scenario, 50, |fork| drop(fork.trace.remove(7))).expect("an event is lost");
    assert_eq!((lost.at, lost.is_before_fork(), lost.before.len()), (7, true, BEFORE_EVENTS));
    let digest = forked(&scenario, 50, |fork| fork.digest = Xxh3::new()).expect("the digest is another");
    assert!(matches!(&digest.what, What::Value { what, .. } if what == "the digest of all events"), "{digest:?}");
}

fn finished() -> Finished {
    Finished::of(World::new(&parsed(BUSY), &RunOptions::default(), false))
}

#[test]
fn the_first_altered_event_is_named_with_both_sides() {
    let (first, mut second) = (finished(), finished());
    assert_eq!(compare(&first, &second), None);
    for at in [300, 150] {
        second.outcome.trace[at].event = Event::GuestWarn { message: format!("altered {at}") };
        let here = &first.outcome.trace[at];
        let there = Stamped { event: Event::GuestWarn { message: format!("altered {at}") }, ..here.clone() };
        assert_eq!(compare(&first, &second), Some((at, What::Event { first: Some(here.clone()), second: Some(there) })));
    }
    second.outcome.trace[100].at_ns += 1;
    assert_eq!(compare(&first, &second).expect("later by one").0, 100);
    second.outcome.trace[50].actor = Actor::Display;
    assert_eq!(compare(&first, &second).expect("by another").0, 50);
}

#[test]
fn a_trace_that_ends_early_differs_at_its_end() {
    let (first, mut second) = (finished(), finished());
    let last = second.outcome.trace.pop();
    let at = second.outcome.trace.len();
    assert_eq!(compare(&first, &second), Some((at, What::Event { first: last.clone(), second: None })));
    assert_eq!(compare(&second, &first), Some((at, What::Event { first: None, second: last })));
}

#[test]
fn what_no_event_shows_is_told_by_its_name() {
    type Alter = (&'static str, fn(&mut Finished));
    let alter: [Alter; 7] = [
        ("the digest of all events", |run| run.outcome.digest ^= 1),
        ("vcpu1's registers at the end", |run| run.rest.registers[1] ^= 1),
        ("page 0x900 at the end", |run| run.rest.memory[0x900] ^= 1),
        ("the host's state at the end", |run| run.rest.host ^= 1),
        ("the oracle's state at the end", |run| run.rest.oracle ^= 1),
        ("what is known of named pages", |run| run.outcome.pages.get_mut("P").expect("named").sent += 1),
        ("the numbers of the run", |run| run.outcome.facts.pages_resent += 1),
    ];
    for (wanted, alter) in alter {
        let (first, mut second) = (finished(), finished());
        alter(&mut second);
        let (_, what) = compare(&first, &second).unwrap_or_else(|| panic!("{wanted} is not compared"));
        assert!(matches!(&what, What::Value { what, .. } if what == wanted), "{what:?}");
    }
}

#[test]
fn a_second_run_that_panics_differs_and_a_first_one_is_a_defect() {
    let scenario = parsed(BUSY);
    let panicked = forked(&scenario, 50, |fork| fork.pages.push((Pfn(1 << 40), Box::new([1; PAGE_SIZE as usize])))).expect("no such page");
    assert!(matches!(&panicked.what, What::Panic { said } if said.contains("every page found its place")), "{panicked:?}");
    let error = by_the_clock(&scenario, &RunOptions::default(), caught, |_| panic!("{}", "at once"), |_| {})
        .expect_err("the first ends in a panic");
    assert_eq!(error, "at once");
}
