//! The world itself, on scenarios of its own: a hinted page is written while a hinted migration runs.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use emu::scenario::model::Scenario;
use emu::search::draw::Draw;
use emu::search::system::System;
use emu::world::RunOptions;
use emu::world::search::SearchWorld;
use lostpage_tests::scenario_file;

use super::PERIOD;
use crate::percentile;

/// Random schedules that are run to count their moves.
const SCHEDULES: u64 = 200;

pub(super) fn read(file: &str) -> Arc<Scenario> {
    Arc::new(scenario_file(&Path::new("tests/benches/scenarios").join(file)))
}

/// A world in which states are the same that differ only in how often something has happened: all that exploring and proving ask for.
pub(super) fn open(scenario: &Arc<Scenario>) -> SearchWorld {
    SearchWorld::new(scenario, &RunOptions::default()).uncounted()
}

/// What random schedules of a world are like.
pub(super) struct Look {
    /// Moves that are the only choice, too.
    pub(super) moves: f64,
    /// Moves that are chosen among several: scheduling points.
    pub(super) points: f64,
}

/// Counts.
pub(super) fn look(scenario: &Arc<Scenario>) -> Look {
    let mut system = open(scenario);
    let root = system.save();
    let (mut draw, mut offered) = (Draw::new(1, "look"), Vec::new());
    let (mut moves, mut points) = (0u64, 0u64);
    for _ in 0..SCHEDULES {
        system.put_back(&root);
        system.choices(&mut offered);
        while !offered.is_empty() {
            moves += 1;
            points += u64::from(offered.len() > 1);
            system.take(offered[draw.below(offered.len() as u64) as usize]);
            system.choices(&mut offered);
        }
    }
    Look { moves: moves as f64 / SCHEDULES as f64, points: points as f64 / SCHEDULES as f64 }
}

/// Times of one kind of work, nanoseconds.
struct Times(&'static str, Vec<f64>);

impl Times {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.1.push(start.elapsed().as_secs_f64() * 1e9);
        result
    }

    /// Prints them; returns the median.
    fn tell(mut self) -> f64 {
        let all: f64 = self.1.iter().sum();
        let median = percentile(&mut self.1, 50);
        println!("  {:28} {:8} times, median {median:7.0} ns, mean {:7.0} ns", self.0, self.1.len(), all / self.1.len() as f64);
        median
    }
}

/// What the parts of a schedule cost, where several can move. Returns the median of a host thread's move, nanoseconds; the clock's own cost is in it.
pub(super) fn parts(scenario: &Arc<Scenario>) -> f64 {
    let mut system = open(scenario);
    let vcpus = u16::from(scenario.guest.vcpus);
    let root = system.save();
    let (mut draw, mut offered) = (Draw::new(1, "parts"), Vec::new());
    let kinds =
        ["choices", "a host thread's move", "a vCPU's move", "the only choice", "hash", "save", "back by three moves", "back to the start"];
    let [mut choices, mut host, mut guest, mut only, mut hash, mut save, mut near, mut back] = kinds.map(|kind| Times(kind, Vec::new()));
    let start = Instant::now();
    while start.elapsed() < PERIOD {
        back.time(|| system.put_back(&root));
        let mut behind = root.clone();
        for depth in 1.. {
            choices.time(|| system.choices(&mut offered));
            if offered.is_empty() {
                break;
            }
            let choice = offered[draw.below(offered.len() as u64) as usize];
            let by = match offered.len() {
                1 => &mut only,
                _ if choice.actor < vcpus => &mut guest,
                _ => &mut host,
            };
            by.time(|| system.take(choice));
            hash.time(|| black_box(system.hash()));
            match depth % 16 {
                8 => behind = save.time(|| system.save()),
                11 => {
                    let here = system.save();
                    near.time(|| system.put_back(&behind));
                    system.put_back(&here);
                }
                _ => {}
            }
        }
    }
    let median = host.tell();
    [guest, only, choices, hash, save, near, back].into_iter().for_each(|times| {
        times.tell();
    });
    median
}
