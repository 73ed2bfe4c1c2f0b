//! The world as a system: forks, hashes, footprints and constraints.

use std::collections::BTreeMap;
use std::thread;

use host::event::{Actor, Stamped};

use super::*;
use crate::scenario;
use crate::search::draw::Draw;
use crate::search::prove::{self, prove};
use crate::search::system::Happening;

/// The race that all is about: a page is hinted, and written at any time behind that, or not at all.
const RACE: &str = r#"
about = "a race"
pages = { P = "first page of hint 1" }
[[may]]
write = { page = "P", byte = 0xBB }
by    = "vcpu1"
after = "guest.hint(P)"
[search]
from  = "guest.hint"
until = "hint.stop"
"#;

/// A migration under firecracker's habits, cancelled in between, with a device that writes.
const CANCEL: &str = r#"
about = "a cancel"
pages = { P = "first page of hint 1" }
[host]
profile = "firecracker"
[[may]]
write = { page = "P", byte = 0xCC }
by    = "dma"
after = "guest.hint(P)"
[[inject]]
monitor = "cancel"
by      = "main-loop"
after   = "hint.pop"
[search]
from  = "guest.start"
"#;

/// A guest that zeroes whole blocks in one move while they are sent.
const ZEROING: &str = r#"
about = "a block that the allocator zeroes"
pages = { P = "first page of hint 1" }
[guest]
init_on_alloc = true
[host]
chunk = "256 KiB"
[search]
from = "migration.state"
"#;

/// Dirty rings that are full at every turn, and a reaper.
const RINGS: &str = r#"
about = "rings"
pages = { P = "first page of hint 1" }
[host]
dirty_log     = "ring"
ring_size     = 4
reap_interval = "1 ms"
[[may]]
write = { page = "P", byte = 0xBB }
by    = "vcpu1"
after = "guest.hint(P)"
[search]
from  = "guest.hint"
until = "hint.stop"
"#;

fn parsed(text: &str) -> Arc<Scenario> {
    Arc::new(scenario::parse("search.toml", text).unwrap_or_else(|errors| panic!("{errors:?}")))
}

fn system(scenario: &Arc<Scenario>) -> SearchWorld {
    SearchWorld::new(scenario, &RunOptions::default())
}

/// A move as it was made.
#[derive(Debug, Clone, PartialEq)]
struct Made {
    offered: Vec<Choice>,
    taken: u16,
    events: Vec<(Actor, Move)>,
    step: Step,
    hash: u128,
}

/// Makes moves until the run is over or there are enough, and returns them.
fn walk(system: &mut SearchWorld, moves: usize, mut pick: impl FnMut(&[Choice]) -> Choice) -> Vec<Made> {
    let mut made = Vec::new();
    let mut offered = Vec::new();
    while made.len() < moves {
        system.choices(&mut offered);
        if offered.is_empty() {
            break;
        }
        let choice = pick(&offered);
        system.take(choice);
        let events = system.world.trace.iter().map(|Stamped { actor, event, .. }| (*actor, Move::of(event))).collect();
        made.push(Made { offered: offered.clone(), taken: choice.id, events, step: system.step().clone(), hash: system.hash() });
    }
    made
}

fn drawn(seed: u64) -> impl FnMut(&[Choice]) -> Choice {
    let mut draw = Draw::new(seed, "walk");
    move |offered| offered[draw.below(offered.len() as u64) as usize]
}

fn again<'a>(made: impl Iterator<Item = &'a Made>) -> impl FnMut(&[Choice]) -> Choice {
    let mut taken: Vec<u16> = made.map(|made| made.taken).collect();
    taken.reverse();
    move |offered| {
        let id = taken.pop().expect("as long as the first run");
        *offered.iter().find(|choice| choice.id == id).expect("offered as in the first run")
    }
}

/// A device's stray write: the guest's free pages are counted elsewhere from then on. The guest itself sees nothing of it.
fn stray(check_mm: u64) -> Arc<Scenario> {
    use wire::layout::{KernelInfo, ZoneInfo};
    let published = std::mem::offset_of!(KernelInfo, zones) + std::mem::offset_of!(ZoneInfo, nr_free_pages);
    let address = wire::platform::KERNEL_INFO + published as u64;
    let (pfn, offset) = (address / wire::platform::PAGE_SIZE, address % wire::platform::PAGE_SIZE);
    parsed(&format!(
        "about = \"a stray write\"\npages = {{ T = \"pfn {pfn:#x}\" }}\n[[may]]\nwrite = {{ page = \"T\", byte = 0, offset = {offset} }}\n\
         by = \"dma\"\nafter = \"guest.hint\"\n[search]\nfrom = \"guest.hint\"\nuntil = \"hint.stop\"\ncheck_mm = {check_mm}\n"
    ))
}

#[test]
fn the_guests_free_lists_are_checked_in_as_many_states_as_the_scenario_asks_for() {
    let broken_at = |check_mm: u64| {
        let mut system = system(&stray(check_mm));
        let mut pick = drawn(3);
        (0..400).find(|_| walk(&mut system, 1, &mut pick).is_empty() || !system.world.state.oracle.is_content())
    };
    let (every, some) = (broken_at(1).expect("it is seen"), broken_at(5).expect("it is seen"));
    assert!(every <= some, "{every} {some}");
    let mut unseen = system(&stray(0));
    walk(&mut unseen, some + 1, drawn(3));
    assert!(unseen.world.state.oracle.is_content(), "until the end of the schedule");
}

/// A world that is forked at any point, on another thread, goes on as the one it was forked from, event by event.
#[test]
fn a_fork_at_every_point_goes_on_alike() {
    for (text, seed) in [(RACE, 1), (RACE, 2), (CANCEL, 3)] {
        let scenario = parsed(text);
        let mut first = system(&scenario);
        let mut forks = vec![first.save()];
        let mut pick = drawn(seed);
        let mut made = Vec::new();
        loop {
            let one = walk(&mut first, 1, &mut pick);
            if one.is_empty() || made.len() == 300 {
                break;
            }
            made.extend(one);
            forks.push(first.save());
        }
        let ending = first.ending();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut second = system(&scenario);
                // From the last to the first, so that each goes back and forth between states of different lengths of life.
                for (at, fork) in forks.iter().enumerate().rev() {
                    second.put_back(fork);
                    let rest = &made[at..];
                    assert_eq!(walk(&mut second, rest.len(), again(rest.iter())), rest, "{text} from move {at}");
                    assert_eq!(second.ending(), ending);
                }
            });
        });
    }
}

/// Two ways to the same hash have the same future.
#[test]
fn an_equal_hash_is_an_equal_future() {
    for text in [RACE, CANCEL] {
        let scenario = parsed(text);
        let mut system = system(&scenario);
        let root = system.save();
        let mut known: BTreeMap<u128, (Saved, usize)> = BTreeMap::new();
        let mut met_again = 0;
        for seed in 0..30 {
            system.put_back(&root);
            let mut pick = drawn(seed);
            for moves in 0..80 {
                let one = walk(&mut system, 1, &mut pick);
                let Some(hash) = one.first().map(|made| made.hash) else { break };
                let here = system.save();
                let Some((there, _)) = known.get(&hash) else {
                    known.insert(hash, (here, moves));
                    continue;
                };
                met_again += 1;
                if met_again % 7 == 0 {
                    let future = walk(&mut system, 60, drawn(seed));
                    system.put_back(there);
                    assert_eq!(walk(&mut system, 60, drawn(seed)), future, "{text}");
                    system.put_back(&here);
                }
            }
        }
        assert!(met_again > 100, "{met_again} states were met again");
    }
}

/// Moves whose footprints do not conflict can be swapped: both orders are offered, and lead to the state that the sum of hashes foretells.
#[test]
fn moves_that_do_not_conflict_can_be_swapped() {
    for text in [RACE, CANCEL, ZEROING, RINGS] {
        let scenario = parsed(text);
        let mut system = system(&scenario).uncounted();
        let root = system.save();
        let mut swapped = 0;
        for seed in 0..40 {
            system.put_back(&root);
            let mut pick = drawn(seed);
            for _ in 0..200 {
                let mut offered = Vec::new();
                system.choices(&mut offered);
                if offered.is_empty() {
                    break;
                }
                swapped += swap_all(&mut system, &offered);
                system.take(pick(&offered));
            }
        }
        assert!(swapped > 1_000, "{swapped} pairs");
    }
}

/// Swaps all pairs of moves that do not conflict, and returns how many those are.
fn swap_all(system: &mut SearchWorld, offered: &[Choice]) -> usize {
    let (here, hash) = (system.save(), system.hash());
    let after: Vec<_> = offered
        .iter()
        .map(|choice| {
            system.put_back(&here);
            system.take(*choice);
            (system.save(), system.hash(), system.step().footprint.clone())
        })
        .collect();
    let mut swapped = 0;
    for (one, other) in (0..offered.len()).flat_map(|one| (0..offered.len()).map(move |other| (one, other))) {
        if offered[one].actor == offered[other].actor || after[one].2.conflict(&after[other].2) {
            continue;
        }
        system.put_back(&after[one].0);
        let mut then = Vec::new();
        system.choices(&mut then);
        assert!(then.contains(&offered[other]), "{:?} takes {:?} away", offered[one], offered[other]);
        system.take(offered[other]);
        let foretold = after[one].1.wrapping_add(after[other].1).wrapping_sub(hash);
        assert_eq!(system.hash(), foretold, "{:?} and then {:?}", offered[one], offered[other]);
        swapped += 1;
    }
    system.put_back(&here);
    let mut same = Vec::new();
    system.choices(&mut same);
    assert_eq!(same, offered);
    swapped
}

/// A proof checks its predictions, and finds none of them wrong.
#[test]
fn a_proof_finds_the_world_sound() {
    for text in [RACE, CANCEL] {
        let scenario = parsed(text);
        let options = prove::Options { states: 4_000, check_first: u64::MAX, ..prove::Options::default() };
        let proof = prove(|| system(&scenario).uncounted(), &options).unwrap_or_else(|unsound| panic!("{text}: {unsound:?}"));
        assert!(proof.states > 1_000, "{} states", proof.states);
    }
}

/// A constraint that a search lays down holds its move back until what it waits for has happened.
#[test]
fn a_constraint_holds_back() {
    let scenario = parsed(RACE);
    let mut system = system(&scenario);
    let root = system.save();
    let made = walk(&mut system, 400, drawn(5));
    let happened: Vec<Happening> = made.iter().flat_map(|made| made.step.happened.iter().copied()).collect();
    let store = Happening { key: Key { kind: Key::INJECTION, page: 0 }, nth: 1 };
    let last = *happened.iter().rfind(|happening| happening.key.kind == host::event::EventKind::HintPush as u16).expect("hints come back");
    system.put_back(&root);
    system.constrain(&[Edge { first: last, then: store }]);
    for seed in 0..20 {
        let bound = system.save();
        let made = walk(&mut system, 400, drawn(seed));
        let place = |wanted| made.iter().position(|made| made.step.happened.contains(&wanted));
        assert!(place(store).is_none_or(|at| place(last).is_some_and(|first| first < at)), "seed {seed}");
        system.put_back(&bound);
    }
}

/// What may happen need not: neither behind the window, nor where all others are at rest.
#[test]
fn what_may_happen_need_not() {
    for (text, may_at_rest) in [(RACE, 0), (CANCEL, 1)] {
        let scenario = parsed(text);
        let mut system = system(&scenario);
        let may = system.actors() - 1 + scenario.injections.len() as u16;
        let mut rests = 0;
        let mut cancel_soon = |offered: &[Choice]| {
            let others: Vec<Choice> = offered.iter().filter(|choice| choice.id < may).copied().collect();
            rests += u32::from(others.is_empty());
            // Where nobody else moves, the last choice is that nothing more happens.
            let commands = others.iter().rev().find(|choice| choice.id + 1 == may || choice.id + 3 == may);
            commands.or(others.first()).or(offered.last()).copied().expect("somebody moves")
        };
        let made = walk(&mut system, 5_000, &mut cancel_soon);
        assert!(made.len() < 5_000, "the run ends");
        assert!(!made.iter().any(|made| made.taken == may), "{text}");
        assert_eq!(rests, may_at_rest, "{text}");
    }
}

/// Under the finer grain each instruction is a move of its own, and no way to end is lost.
#[test]
fn instructions_are_moves_where_the_grain_is_an_instruction() {
    let narrow = RACE.replace("until = \"hint.stop\"", "until = \"guest.kick\"");
    let [coarse, fine] = ["event", "instruction"].map(|grain| {
        let scenario = parsed(&format!("{narrow}grain = \"{grain}\"\n"));
        let mut system = system(&scenario);
        let cpu = |system: &SearchWorld| system.world.state.vcpus.iter().map(|vcpu| vcpu.insns).collect::<Vec<u64>>();
        let mut most = 0;
        let mut offered = Vec::new();
        while system.world.state.window == Window::Open {
            system.choices(&mut offered);
            let before = cpu(&system);
            system.take(offered[0]);
            most = most.max(cpu(&system).iter().zip(&before).map(|(after, before)| after - before).sum::<u64>());
        }
        let proof = prove(|| SearchWorld::new(&scenario, &RunOptions::default()).uncounted(), &prove::Options::default());
        let proof = proof.unwrap_or_else(|unsound| panic!("{unsound:?}"));
        assert!(proof.complete, "{} states", proof.states);
        (most, proof.states, proof.outcomes.keys().cloned().collect::<Vec<_>>())
    });
    assert!(coarse.0 > 1 && fine.0 == 1, "most instructions in a move: {} and {}", coarse.0, fine.0);
    assert!(fine.1 > coarse.1, "{} and {} states", coarse.1, fine.1);
    assert!(coarse.2.iter().all(|ending| fine.2.contains(ending)), "{:?} and {:?}", coarse.2, fine.2);
}
