//! Random courses: a lawful world raises nothing; a hasty guest is the only one to blame.

use std::collections::BTreeSet;

use host::event::{Event, HintElement};
use proptest::prelude::*;

use super::*;
use crate::oracle::fake::PAGES;
use crate::outcome::Blame;

/// A move of a lawful world.
#[derive(Debug, Clone)]
enum Move {
    Write(u64, u8),
    Send(u64, bool),
    Sync,
    Answer,
    Hint(u64),
    Stop,
    Pop,
    Cancel,
    Migrate,
    Inflate(u64),
    Deflate(u64),
    Display,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..PAGES, 0..3_u8).prop_map(|(pfn, by)| Move::Write(pfn, by)),
        8 => (0..PAGES, any::<bool>()).prop_map(|(pfn, watched)| Move::Send(pfn, watched)),
        2 => Just(Move::Sync),
        3 => Just(Move::Answer),
        5 => (0..6_u64).prop_map(Move::Hint),
        1 => Just(Move::Stop),
        6 => Just(Move::Pop),
        1 => Just(Move::Cancel),
        2 => Just(Move::Migrate),
        1 => (0..PAGES).prop_map(Move::Inflate),
        1 => (0..PAGES).prop_map(Move::Deflate),
        1 => Just(Move::Display),
    ];
    prop::collection::vec(one, 0..160)
}

/// Rounds in which hints wait while their pages are written, and little is sent: about one run in four loses something.
fn hasty_moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (16..PAGES).prop_map(|pfn| Move::Write(pfn, 0)),
        1 => (0..PAGES, any::<bool>()).prop_map(|(pfn, watched)| Move::Send(pfn, watched)),
        4 => (0..6_u64).prop_map(Move::Hint),
        4 => Just(Move::Pop),
    ];
    let round = prop::collection::vec(one, 0..40).prop_map(|moves| [vec![Move::Sync, Move::Answer, Move::Pop], moves].concat());
    prop::collection::vec(round, 1..4).prop_map(|rounds| [vec![Move::Migrate], rounds.concat()].concat())
}

/// Plays moves; a guest that waits writes no hinted page before the device has taken its element.
fn play(moves: &[Move], log: Log, initially_set: bool, guest_waits: bool) -> Bench {
    let mut bench = Bench::new(log);
    bench.initially_set = initially_set;
    let mut inflated = BTreeSet::new();
    for step in moves {
        let migrating = bench.host.status.is_running();
        match step {
            Move::Write(pfn, by) => {
                let waiting = bench.queue.iter().any(|(_, e)| matches!(e, HintElement::Pages(r) if r.contains(p(*pfn))));
                if !(inflated.contains(pfn) || guest_waits && waiting) {
                    bench.write(p(*pfn), [CPU, Actor::Dma, Actor::Vhost][usize::from(*by)]);
                }
            }
            Move::Send(pfn, watched) if migrating => bench.send(p(*pfn), *watched),
            Move::Sync if migrating => bench.sync(),
            Move::Answer => bench.guest_start(),
            Move::Hint(n) if !inflated.iter().any(|pfn| block(8 * n + 16).contains(p(*pfn))) => bench.hint(block(8 * n + 16)),
            Move::Stop => bench.guest_stop(),
            Move::Pop => {
                bench.pop();
            }
            Move::Cancel if migrating => bench.cancel(),
            Move::Migrate if !migrating => bench.migrate(),
            Move::Inflate(pfn) if bench.queue.is_empty() && inflated.insert(*pfn) => {
                bench.emit(CPU, Event::GuestInflate { pfn: p(*pfn) });
                bench.emit(Actor::MainLoop, Event::BalloonInflate { pfn: p(*pfn) });
                bench.discard(PageRange::page(p(*pfn)));
            }
            Move::Deflate(pfn) if inflated.remove(pfn) => {
                bench.emit(CPU, Event::GuestDeflate { pfn: p(*pfn) });
                bench.emit(Actor::MainLoop, Event::BalloonDeflate { pfn: p(*pfn) });
            }
            Move::Display => {
                bench.get(Actor::Display);
                bench.merge(Actor::Display);
                bench.clear(PageRange::new(p(32), 20), Actor::Display);
            }
            Move::Send(..) | Move::Sync | Move::Hint(_) | Move::Cancel | Move::Migrate | Move::Inflate(_) | Move::Deflate(_) => {}
        }
    }
    if !bench.host.status.is_running() {
        bench.migrate();
    }
    bench.complete();
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_lawful_world_is_silent(moves in moves(), log in prop::sample::select(LOGS.to_vec()), initially_set: bool) {
        let findings = play(&moves, log, initially_set, true).finish();
        prop_assert_eq!(findings.violations, vec![]);
        prop_assert_eq!(findings.lost, vec![]);
        prop_assert_eq!(findings.near_misses, 0);
    }

    /// A guest that takes hinted pages back early loses some, by the application of their hints, and through nobody else's fault.
    #[test]
    fn a_hasty_guest_is_blamed_for_what_it_loses(moves in hasty_moves()) {
        let bench = play(&moves, Log::ManualClear, true, false);
        let trace = bench.trace.clone();
        for violation in bench.finish().violations {
            prop_assert_eq!(violation.verdict, Verdict::LostPage);
            prop_assert_eq!(violation.blame, Blame::Guest);
            let doom = violation.doom.expect("a doom");
            let page = violation.page.expect("a page");
            let by_its_hint = matches!(&trace[doom], Event::HintApply { range, .. } if range.contains(page));
            prop_assert!(by_its_hint, "page {} was doomed by {:?}", page, trace[doom]);
            prop_assert!(violation.write.expect("a write") < doom);
        }
    }
}

/// States that differ in one thing that may matter later have different hashes.
#[test]
fn what_the_oracle_remembers_shows_in_its_hash() {
    type Change = (&'static str, fn(&mut Bench));
    let changes: &[Change] = &[
        ("nothing", |_| ()),
        ("a write", |bench| {
            bench.store(p(3), CPU);
        }),
        ("a doomed write", |bench| {
            bench.store(p(3), CPU);
            bench.notify(host::event::PrecopyReason::Setup);
        }),
        ("a page sent", |bench| bench.send(p(4), false)),
        ("a page in hand", |bench| {
            bench.take(p(4));
            bench.emit(Actor::Migration, Event::BitmapTake { pfn: p(4) });
        }),
        ("a hint", |bench| bench.hint(block(16))),
        ("a hint taken", |bench| {
            bench.guest_start();
            bench.hint(block(16));
            bench.pop_all();
        }),
        ("a report", |bench| {
            bench.emit(CPU, Event::GuestReport { range: block(16) });
        }),
        ("a page in the balloon", |bench| {
            bench.emit(CPU, Event::GuestInflate { pfn: p(16) });
        }),
        ("a discard", |bench| {
            bench.discard(PageRange::page(p(16)));
        }),
        ("a GET", |bench| bench.get(Actor::Display)),
        ("a round closed", |bench| bench.hint_stop(Actor::Migration)),
        ("no migration", Bench::cancel),
    ];
    let mut seen = std::collections::BTreeMap::new();
    for (name, change) in changes {
        let mut bench = Bench::new(Log::ManualClear);
        bench.migrate();
        bench.send_all();
        bench.write(p(4), CPU);
        bench.sync();
        change(&mut bench);
        assert_eq!(seen.insert(bench.oracle.fold(), name), None, "{name}");
    }
}
