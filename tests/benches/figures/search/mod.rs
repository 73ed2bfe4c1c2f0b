//! What a search makes in a second: schedules, states; what a scheduling point costs; how soon a failure is a file; what more cores give.
//!
//! What is promised is promised of the world, a guest's machine code and all. Beside it stands a small [`model`] of the same race with the same number
//! of scheduling points, which shows what the search itself costs, and shuttle on the same model in the same process ([`threads`] says in what sense it
//! is the same). All but the last figure are of one thread. Rates hold the time that a search needs to get to know its system.

mod model;
mod step;
mod threads;
mod world;

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use emu::scenario::model::{Found, Scenario};
use emu::search::block::Summary;
use emu::search::explore::{Explorer, Options};
use emu::search::prove::{self, prove};
use emu::search::shrink::{self, shrink};
use emu::search::strategy::{Portfolio, Strategy};
use emu::search::system::{Ending, System};
use emu::search::{found, walk};
use emu::world::RunOptions;
use emu::world::search::SearchWorld;

use crate::{Figure, percentile, time};
use model::{Model, Size};
use world::Look;

/// How long each rate is measured.
const PERIOD: Duration = Duration::from_secs(3);
/// States after which a search of all orders is stopped.
const STATES_MAX: u64 = 1_000_000;
/// The scenarios.
const SHORT: &str = "race.toml";
const LONG: &str = "race-long.toml";

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

    fn ns_a_move(&self) -> f64 {
        self.seconds * 1e9 / self.moves as f64
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

/// A race in the world; the model of the same length, by us and by shuttle.
fn race(what: &str, file: &str, promised: f64) -> Vec<Figure> {
    let scenario = world::read(file);
    let Look { moves, points } = world::look(&scenario);
    let of_world = explore(|| world::open(&scenario), Options::default());
    let of_live = explore(|| world::open(&scenario), Options { graph: None, ..Options::default() });
    println!(
        "{file}: {points:.0} scheduling points, {moves:.0} moves; {:.0} schedules/s ({:.0} ns a move), with nothing known of states {:.0} ({:.0} ns a move)",
        of_world.rate(),
        of_world.ns_a_move(),
        of_live.rate(),
        of_live.ns_a_move(),
    );
    let size = Size::of_moves(points.round() as u16);
    let of_model = explore(|| Model::new(size, false), Options::default());
    let random = Options { portfolio: Portfolio::of(&[Strategy::Random]).expect("one"), ..Options::default() };
    let at_random = explore(|| Model::new(size, false), random);
    let live = explore(|| Model::new(size, false), Options { graph: None, ..Options::default() });
    println!(
        "  the model, {} moves: {:.0} schedules/s ({:.0} ns a move); at random alone {:.0}; with nothing known of states {:.0} ({:.0} ns a move)",
        size.moves(),
        of_model.rate(),
        of_model.ns_a_move(),
        at_random.rate(),
        live.rate(),
        live.ns_a_move(),
    );
    let met = threads::points(size);
    let schedules = 2_000_000 / usize::from(size.moves());
    let theirs = schedules as f64 / time(|| threads::run(size, schedules)).as_secs_f64();
    println!("  shuttle on the model: {theirs:.0} schedules/s, {met} scheduling points ({:.0} ns a point)", 1e9 / theirs / met as f64);
    vec![
        Figure::at_least(format!("{what}, {points:.0} scheduling points: schedules"), of_world.rate(), promised, per_second),
        Figure::at_least("  against shuttle 0.9 on three threads, as many points", of_world.rate() / theirs, 1.0, ratio),
        Figure::plain("  shuttle itself", per_second(theirs)),
        Figure::at_least("  our search on the model that shuttle runs, against it", of_model.rate() / theirs, 1.0, ratio),
    ]
}

fn ratio(ratio: f64) -> String {
    format!("{ratio:.3}")
}

/// States of a system, on one thread, up to a number of them.
fn states<S: System>(what: &str, factory: impl Fn() -> S + Sync) -> f64 {
    let limits = prove::Options { memory_bytes: 2 << 30, states: STATES_MAX, ..prove::Options::default() };
    let mut proof = None;
    let seconds = time(|| proof = Some(prove(factory, &limits).unwrap_or_else(|unsound| panic!("{what}: {unsound}")))).as_secs_f64();
    let proof = proof.expect("just set");
    println!(
        "{what}: {} states, {} moves made, {} known, {seconds:.2} s, {} MiB: {:?}",
        proof.states,
        proof.executed,
        proof.edges,
        proof.memory_bytes >> 20,
        proof.answer,
    );
    proof.states as f64 / seconds
}

fn proving() -> [Figure; 2] {
    let scenario = world::read(SHORT);
    let of_world = states(SHORT, || world::open(&scenario));
    let of_model = states("the model, 100 moves", || Model::new(Size::of_moves(100), false));
    [
        Figure::at_least("all orders of the short race: states", of_world, 200_000.0, per_second),
        Figure::plain("  of the model", per_second(of_model)),
    ]
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

fn shrink_in<S: System>(what: &str, base: &Scenario, factory: impl Fn() -> S + Sync) -> f64 {
    let failing = first_failure(&factory);
    let folder = tempfile::tempdir().expect("a new folder");
    let (system, mut edges) = (factory(), 0);
    let seconds = time(|| edges = shrink_to_file(system, base, &failing, &folder.path().join("found.toml"))).as_secs_f64();
    println!("{what}: a failure of {} moves shrunk to {edges} orders in {seconds:.3} s", failing.choices.len());
    seconds
}

fn shrinking() -> [Figure; 2] {
    let scenario = world::read(SHORT);
    // A constraint means an occurrence: here, how often something has happened counts.
    let of_world = shrink_in(SHORT, &scenario, || SearchWorld::new(&scenario, &RunOptions::default()));
    let of_model = shrink_in("the model, 40 moves", &lostpage_tests::scenario(model::SCENARIO), || Model::new(Size::of_moves(40), true));
    let show = |seconds: f64| format!("{seconds:.3} s");
    [
        Figure::at_most("from the first failure of the short race to its file", of_world, 1.0, show),
        Figure::plain("  of the model", show(of_model)),
    ]
}

fn steps() -> [Figure; 2] {
    let scenario = world::read(SHORT);
    println!("{SHORT}, its parts:");
    let in_world = world::parts(&scenario);
    let ns = |ns: f64| format!("{ns:.0} ns");
    [
        Figure::at_most("one host step at a scheduling point, told to all", in_world, 100.0, ns),
        Figure::at_most("  the step itself, and all host threads asked", step::ns(), 100.0, ns),
    ]
}

/// Four threads against one.
fn cores() -> Figure {
    const THREADS: usize = 4;
    let scenario = world::read(SHORT);
    let cores = available_parallelism().map_or(1, usize::from);
    let rate = |threads| explore(|| world::open(&scenario), Options { threads, ..Options::default() }).rate();
    // Turn by turn, so that a neighbour's load meets both.
    let mut ratios: Vec<f64> = (0..3).map(|_| rate(1).recip() * rate(THREADS)).collect();
    let middle = percentile(&mut ratios, 50);
    let what = format!("explore on {THREADS} threads against one; this machine has {cores} cores");
    if cores < THREADS { Figure::plain(what, ratio(middle)) } else { Figure::at_least(what, middle, 3.5, ratio) }
}

pub(crate) fn figures() -> Vec<Figure> {
    let mut figures = race("hinted, then written", SHORT, 50_000.0);
    figures.extend(race("  the same over many rounds", LONG, 10_000.0));
    figures.extend(proving());
    figures.extend(steps());
    figures.extend(shrinking());
    figures.push(cores());
    figures
}
