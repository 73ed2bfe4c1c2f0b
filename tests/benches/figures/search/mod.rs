//! What a search makes in a second: schedules, states; what a scheduling point costs; how soon a failure is a file; what more cores give.
//!
//! Beside our own figures stand those of shuttle, on the same race at the same length, in the same process ([`threads`] says in what sense it is the
//! same). All but the last figure are of one thread. Rates hold the time that a search needs to get to know its system.

mod model;
mod step;
mod threads;

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use emu::scenario::model::{Found, Scenario};
use emu::search::block::Summary;
use emu::search::explore::{Explorer, Options};
use emu::search::prove::{self, Answer, prove};
use emu::search::shrink::{self, shrink};
use emu::search::strategy::{Portfolio, Strategy};
use emu::search::system::{Ending, System};
use emu::search::{found, walk};
use lostpage_tests::scenario;

use crate::{Figure, percentile, time};
use model::{Model, SCENARIO, Size};

/// How long each rate is measured.
const PERIOD: Duration = Duration::from_secs(1);
/// Scheduling points of the short and the long race.
const SHORT: u16 = 40;
const LONG: u16 = 400;
/// Moves of the race of which all states are searched.
const PROVED: u16 = 100;

/// What an exploration came to.
struct Explored {
    schedules: u64,
    moves: u64,
    seconds: f64,
}

impl Explored {
    fn rate(&self) -> f64 {
        self.schedules as f64 / self.seconds
    }
}

/// Explores for a while.
fn explore<S: System>(factory: impl Fn() -> S + Sync, options: Options) -> Explored {
    let start = Instant::now();
    let mut summary = Summary::default();
    let explorer = Explorer::new(options, |_| factory());
    explorer.run(0.., &AtomicBool::new(false), |block| {
        summary.add(&block).expect("each block once");
        if start.elapsed() < PERIOD { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let seconds = start.elapsed().as_secs_f64();
    Explored { schedules: summary.schedules(), moves: summary.moves(), seconds }
}

fn per_second(rate: f64) -> String {
    format!("{rate:.0} /s")
}

/// The same race, by us and by shuttle.
fn race(moves: u16, promised: f64) -> [Figure; 2] {
    let size = Size::of_moves(moves);
    let ours = explore(|| Model::new(size, false), Options::default());
    let random = Options { portfolio: Portfolio::of(&[Strategy::Random]).expect("one"), ..Options::default() };
    let at_random = explore(|| Model::new(size, false), random);
    let live = explore(|| Model::new(size, false), Options { graph: None, ..Options::default() });
    let points = threads::points(size);
    let schedules = 2_000_000 / usize::from(moves);
    let theirs = schedules as f64 / time(|| threads::run(size, schedules)).as_secs_f64();
    println!(
        "{moves} moves: {:.0} schedules/s ({:.0} ns a move); at random alone {:.0}; with nothing known of states {:.0} ({:.0} ns a move)",
        ours.rate(),
        ours.seconds * 1e9 / ours.moves as f64,
        at_random.rate(),
        live.rate(),
        live.seconds * 1e9 / live.moves as f64,
    );
    println!("{moves} moves: shuttle {theirs:.0} schedules/s, {points} scheduling points ({:.0} ns a point)", 1e9 / theirs / points as f64);
    let model = format!("model of the race, 3 actors, {moves} scheduling points: schedules");
    [
        Figure::at_least(model, ours.rate(), promised, per_second),
        Figure::at_least("  shuttle 0.9 on the same, 3 threads: ours against it", ours.rate() / theirs, 1.0, |ratio| format!("{ratio:.2}")),
    ]
}

/// All states of the long race, on one thread.
fn states() -> Figure {
    let size = Size::of_moves(PROVED);
    let limits = prove::Options { memory_bytes: 2 << 30, ..prove::Options::default() };
    let mut proof = None;
    let seconds = time(|| proof = prove(|| Model::new(size, false), &limits).ok()).as_secs_f64();
    let proof = proof.expect("the model is deterministic");
    assert_eq!(proof.answer, Answer::Proved);
    println!(
        "{PROVED} moves: {} states, {} moves made, {} known, {:.2} s, {} MiB",
        proof.states,
        proof.executed,
        proof.edges,
        seconds,
        proof.memory_bytes >> 20
    );
    Figure::at_least("  all states of the model: states", proof.states as f64 / seconds, 200_000.0, per_second)
}

/// A failing schedule, as a search came upon it.
struct Failing {
    ending: Ending,
    choices: Vec<u16>,
    found: Found,
}

/// Explores up to the first failure.
fn first_failure<S: System>(factory: impl Fn() -> S + Sync) -> Failing {
    let explorer = Explorer::new(Options::default(), |_| factory());
    let (mut first, mut schedules) = (None, 0);
    explorer.run(0.., &AtomicBool::new(false), |block| {
        schedules += u64::from(block.schedules);
        first = block.findings.first().cloned();
        if first.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let finding = first.expect("schedules do not end");
    let mut system = factory();
    let root = system.save();
    let ending = walk::replay(&mut system, &root, &finding.choices, &mut ()).expect("the schedule fits").expect("it ends");
    let found =
        Found { scenario: "model.toml".to_owned(), seed: finding.seed.to_string(), strategy: finding.strategy.to_string(), schedules };
    Failing { ending, choices: finding.choices, found }
}

/// From a schedule that fails to the scenario file.
fn shrink_to_file<S: System>(mut system: S, base: &Scenario, failing: &Failing, file: &std::path::Path) -> usize {
    let root = system.save();
    let cost = found::cost(base, None);
    let shrunk = shrink(&mut system, &root, &failing.ending, &failing.choices, shrink::Options::new(1, &cost)).expect("few orders suffice");
    let scenario = found::scenario(base, &shrunk, &failing.ending, failing.found.clone());
    std::fs::write(file, found::text(&scenario)).expect("a file in a new folder");
    shrunk.edges.len()
}

fn shrinking(moves: u16) -> Figure {
    let size = Size::of_moves(moves);
    let failing = first_failure(|| Model::new(size, true));
    let base = scenario(SCENARIO);
    let folder = tempfile::tempdir().expect("a new folder");
    let mut edges = 0;
    let seconds = time(|| edges = shrink_to_file(Model::new(size, true), &base, &failing, &folder.path().join("found.toml"))).as_secs_f64();
    println!("{moves} moves: the failure of schedule {} shrunk to {edges} orders", failing.found.schedules);
    Figure::at_most(format!("  from a failure of {moves} moves to its file"), seconds, 1.0, |seconds| format!("{seconds:.3} s"))
}

/// Four threads against one.
fn cores() -> Figure {
    const THREADS: usize = 4;
    let size = Size::of_moves(SHORT);
    let cores = available_parallelism().map_or(1, usize::from);
    let rate = |threads| explore(|| Model::new(size, false), Options { threads, ..Options::default() }).rate();
    // Turn by turn, so that a neighbour's load meets both.
    let mut ratios: Vec<f64> = (0..3).map(|_| rate(1).recip() * rate(THREADS)).collect();
    let ratio = percentile(&mut ratios, 50);
    let what = format!("  explore on {THREADS} threads against one; this machine has {cores} cores");
    let show = |ratio: f64| format!("{ratio:.2}");
    if cores < THREADS { Figure::plain(what, show(ratio)) } else { Figure::at_least(what, ratio, 3.5, show) }
}

pub(crate) fn figures() -> Vec<Figure> {
    let mut figures = Vec::from(race(SHORT, 50_000.0));
    figures.extend(race(LONG, 10_000.0));
    figures.push(states());
    figures.push(step::figure());
    figures.push(shrinking(SHORT));
    figures.push(cores());
    figures
}
