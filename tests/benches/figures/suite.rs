//! What a scenario costs from the building of its world to its report: every scenario in turn, on one thread, as `lostpage run` does it.
//!
//! A copy of the guest's RAM is measured beside it: a scenario reads all of RAM at least twice, to send it and to compare it.

use std::path::PathBuf;

use emu::report::{Detail, Subject, text};
use emu::scenario::model::Scenario;
use emu::world::{RunOptions, run};
use host::memory::GuestRam;
use lostpage_tests::{files, scenario_file};

use crate::{Figure, percentile, time};

/// The suite is run this often; of a scenario's times the median counts.
const ROUNDS: usize = 9;

/// Promised for the median scenario, milliseconds.
const MS_MAX: f64 = 5.0;

/// Promised for the interfaces that are compared, seconds.
const DIALECTS_S_MAX: f64 = 10.0;

/// From the scenario to the bytes of its report.
fn world_to_report(path: &std::path::Path, scenario: &Scenario) -> usize {
    let outcome = run(scenario, &RunOptions::default());
    let subject = Subject::of(&path.to_string_lossy(), scenario, scenario.faults.clone());
    text::render(&subject, &outcome, Detail::Summary).len()
}

fn copy_of_ram_ms(bytes: u64) -> f64 {
    let ram = GuestRam::new(bytes);
    ram.write_unlogged(0, &vec![1; bytes as usize]);
    let mut to = vec![0; bytes as usize];
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| time(|| ram.read(0, &mut to)).as_secs_f64() * 1e3).collect();
    assert_eq!(std::hint::black_box(&to).last(), Some(&1));
    percentile(&mut times, 50)
}

/// All scenarios that `lostpage compare` puts side by side, on two threads, seconds.
fn dialects(suite: &[(PathBuf, Scenario)]) -> f64 {
    let compared: Vec<_> = suite.iter().filter(|(path, _)| path.starts_with("scenarios/dialects")).collect();
    let (even, odd): (Vec<_>, Vec<_>) = compared.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let all = |part: &[(usize, &&(PathBuf, Scenario))]| {
        part.iter().for_each(|(_, (path, scenario))| assert!(world_to_report(path, scenario) > 0))
    };
    time(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| all(&even));
            all(&odd);
        });
    })
    .as_secs_f64()
}

pub(crate) fn figures() -> Vec<Figure> {
    let suite: Vec<(PathBuf, Scenario)> = files("scenarios", "toml").into_iter().map(|path| (path.clone(), scenario_file(&path))).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); suite.len()];
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        for ((path, scenario), times) in suite.iter().zip(&mut times) {
            times.push(time(|| assert!(world_to_report(path, scenario) > 0)).as_secs_f64() * 1e3);
        }
        rounds.push(times.iter().filter_map(|times| times.last()).sum::<f64>());
    }
    let first = rounds[0];
    let mut medians: Vec<f64> = times.iter_mut().map(|times| percentile(times, 50)).collect();
    let mut slowest: Vec<(f64, &PathBuf)> = medians.iter().copied().zip(suite.iter().map(|(path, _)| path)).collect();
    slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{} scenarios; all in {first:.0} ms the first time, in {:.0} ms later", suite.len(), percentile(&mut rounds, 50));
    for (ms, path) in slowest.iter().take(5) {
        println!("{ms:8.2} ms  {}", path.display());
    }
    let median = percentile(&mut medians, 50);
    let ram_bytes = suite[0].1.guest.ram_bytes;
    let copy = copy_of_ram_ms(ram_bytes);
    println!("the median scenario takes as long as {:.1} copies of {} MiB of RAM ({copy:.2} ms)", median / copy, ram_bytes >> 20);
    let ms = |value: f64| format!("{value:.2} ms");
    let seconds = |value: f64| format!("{value:.2} s");
    vec![
        Figure::at_most("all interfaces, each case, on two threads", dialects(&suite), DIALECTS_S_MAX, seconds),
        Figure::at_most("a scenario, from its world to its report: median of the suite", median, MS_MAX, ms),
        Figure::plain("  90 of 100 take at most", ms(percentile(&mut medians, 90))),
        Figure::plain("  the slowest", ms(percentile(&mut medians, 100))),
    ]
}
