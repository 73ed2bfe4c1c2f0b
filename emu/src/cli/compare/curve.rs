//! `lostpage compare --curve`: how long interrupts are off, and what a hint costs the guest, as its free memory lies in more blocks.
//!
//! A guest is migrated, and the migration is cancelled when the guest has hinted, so that what was hinted comes back as well. Each is run as it is and with a
//! device that does not offer the interface. Two guests: one whose free pages lie alone between pages in use, and one whose memory is free in
//! blocks of the largest order.

use std::path::Path;

use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SIZE;
use wire::switch::correct;

use super::{Told, label};
use crate::cli::files::{Disk, reason};
use crate::cli::guard::guarded;
use crate::cli::pool::{self, End};
use crate::cli::run::progress;
use crate::cli::screen::Screen;
use crate::cli::{Engine, Environment, Status};
use crate::outcome::Verdict;
use crate::report::plot::{Chart, Panel};
use crate::report::snapshot::Store;
use crate::scenario::Scenario;
use crate::scenario::model::Driver;
use crate::world::RunOptions;

/// Interfaces through which a guest hints, with their corrections that a curve shows. Reporting does not wait for a migration, and compaction as of 2012
/// hints as the merged driver does; where the host looks by itself the guest does nothing.
const SERIES: &[(Driver, u64)] = &[
    (Driver::V6, 0),
    (Driver::V6, correct::REQUEST_CONTEXT | correct::IRQ_OFF_BOUND),
    (Driver::V8, 0),
    (Driver::V8, correct::RECORD_PRECHECK | correct::RECORD_GROWTH),
    (Driver::V8, correct::RECORD_PRECHECK | correct::RECORD_GROWTH | correct::REQUEST_CONTEXT | correct::IRQ_OFF_BOUND),
    (Driver::V10, 0),
    (Driver::V13, 0),
    (Driver::V16, 0),
    (Driver::V33, 0),
    (Driver::V33, correct::IRQ_OFF_BOUND),
    (Driver::V33Thread, 0),
    (Driver::V33Thread, correct::UNLINK_UNACCOUNTED),
    (Driver::V33Pop, 0),
    (Driver::V33Alloc, 0),
    (Driver::PfnWalk, 0),
    (Driver::PfnWalk, correct::REFCOUNT_TRUSTED),
    (Driver::Hint, 0),
];

/// Numbers of single free pages, as powers of two, and the pages that they lie among.
const SINGLES: [u32; 5] = [4, 6, 8, 10, 12];
const SINGLES_AMONG: u64 = 8192;
/// Numbers of free blocks of the largest order, as powers of two.
const LARGEST: [u32; 6] = [2, 3, 4, 5, 6, 7];
/// A run of more steps goes in a circle.
const STEPS_MAX: u64 = 1_000_000;
/// Bytes of such a block.
const BLOCK_BYTES: u64 = PAGE_SIZE << MAX_PAGE_ORDER;

/// A guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// So many free pages that lie alone; what lies between them is in use, and the rest is free in large blocks.
    Singles(u64),
    /// So many free blocks of the largest order, and little else.
    Largest(u64),
}

/// A run to make.
struct Job {
    scenario: Scenario,
    engine: Engine,
}

/// What a run and its twin gave: `None` where one of them did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    irq_off_insns: u64,
    /// For each GiB hinted, beside the twin; `None` when nothing was hinted.
    insns_per_gib: Option<u64>,
}

/// All points of the guests of one kind: for each interface, each guest.
struct Points {
    xs: Vec<u64>,
    of: Vec<Vec<Option<Point>>>,
}

impl Shape {
    fn all() -> [Vec<Shape>; 2] {
        [SINGLES.map(|k| Shape::Singles(1 << k)).to_vec(), LARGEST.map(|k| Shape::Largest(1 << k)).to_vec()]
    }

    fn blocks(self) -> u64 {
        match self {
            Shape::Singles(blocks) | Shape::Largest(blocks) => blocks,
        }
    }

    /// Returns the guest's memory, bytes. Image and memory map take two blocks, the map of a large guest more.
    fn ram_bytes(self) -> u64 {
        match self {
            Shape::Singles(_) => 64 << 20,
            Shape::Largest(blocks) => BLOCK_BYTES * (blocks + 1 + blocks.div_ceil(64)),
        }
    }

    /// Returns the guest's tasks as a scenario's text, and how many operations there are.
    fn tasks(self) -> (String, u64) {
        match self {
            Shape::Singles(pages) => {
                let held = SINGLES_AMONG / pages - 1;
                let pair = format!("  {{ fill = \"free\", size = \"4 KiB\" }}, {{ fill = \"held\", size = \"{} KiB\" }},\n", held * 4);
                (pair.repeat(pages as usize) + "  { release = \"free\" },\n", 2 * pages + 1)
            }
            Shape::Largest(_) => ("  { sleep = \"1 us\" },\n".to_string(), 1),
        }
    }

    /// Returns the scenario's text. A slow link, so that the migration is under way when the guest has hinted.
    fn text(self, driver: Driver, corrected: u64) -> String {
        let (tasks, operations) = self.tasks();
        let words: Vec<String> =
            correct::ALL.iter().filter(|(bit, ..)| corrected & bit != 0).map(|(_, word, _)| format!("\"{word}\"")).collect();
        format!(
            "about = \"{} free blocks\"\n\n[guest]\nram = \"{} MiB\"\ndriver = \"{}\"\ncorrected = [{}]\n\n[[guest.task]]\non = \"vcpu1\"\ndo = [\n{tasks}]\n\n\
             [migration]\nstart = {{ after = \"guest.task_done#{operations}\" }}\nbandwidth = \"1 MiB/s\"\n\n\
             [[inject]]\nmonitor = \"cancel\"\nafter = \"migration.state\"\ndelay = \"50 ms\"\n\n[limits]\nsteps = {STEPS_MAX}\n",
            self.blocks(),
            self.ram_bytes() >> 20,
            driver.name(),
            words.join(", "),
        )
    }
}

impl Job {
    fn run(&self) -> Result<Option<Point>, String> {
        let told = |scenario: &Scenario| guarded(|| Told::of(&(self.engine.run)(scenario, &RunOptions::default())));
        let twin = label::without(&self.scenario).expect("its orders name nothing of the interface");
        let (with, without) = (told(&self.scenario)?, told(&twin)?);
        // A request that is served in an interrupt breaks a rule (S6), and is answered all the same.
        let ended = matches!(with.verdict, Verdict::Pass | Verdict::BrokenRule) && with.facts.steps < STEPS_MAX;
        if !ended || without.verdict != Verdict::Pass {
            return Ok(None);
        }
        let insns_per_gib = with.insns_per_gib(&without);
        Ok(Some(Point { irq_off_insns: with.facts.irq_off_insns_max, insns_per_gib }))
    }
}

/// Makes the runs, prints their figures and writes the curve.
pub(super) fn curve(file: &Path, threads: usize, environment: &mut Environment<'_>, screen: &mut Screen<'_>) -> Status {
    let shapes = Shape::all();
    let job = |shape: Shape, (driver, corrected): (Driver, u64)| {
        let scenario =
            (environment.engine.parse)("curve", &shape.text(driver, corrected)).unwrap_or_else(|problem| panic!("{}", problem.text));
        Job { scenario, engine: environment.engine }
    };
    let jobs: Vec<Job> =
        shapes.iter().flat_map(|kind| SERIES.iter().flat_map(|series| kind.iter().map(|shape| job(*shape, *series)))).collect();
    let bar = progress(jobs.len());
    let mut results = Vec::new();
    let end = pool::run(jobs, threads, Job::run, environment.on_interrupt, |result| {
        results.push(result);
        bar.inc(1);
    });
    bar.finish_and_clear();
    if end != End::Done {
        screen.err("stopped; nothing is told of what is not complete\n");
        return Status::Interrupted;
    }
    let results = match results.into_iter().collect::<Result<Vec<_>, String>>() {
        Ok(results) => results,
        Err(said) => {
            screen.err(&format!("error: a defect of lostpage itself: {said}\n"));
            return Status::OwnDefect;
        }
    };
    let (singles, largest) = results.split_at(SERIES.len() * shapes[0].len());
    let [singles, largest] = [(singles, &shapes[0]), (largest, &shapes[1])].map(|(points, kind)| Points {
        xs: kind.iter().map(|shape| shape.blocks()).collect(),
        of: points.chunks(kind.len()).map(<[Option<Point>]>::to_vec).collect(),
    });
    let names: Vec<String> = SERIES.iter().map(|(driver, corrected)| label::corrected(*driver, *corrected)).collect();
    screen.out(&tables(&names, &singles, &largest));
    match Disk::new().replace(file, chart(names, singles, largest).svg().as_bytes()) {
        Ok(()) => Status::AsExpected,
        Err(error) => {
            screen.err(&format!("error: {}: cannot be written: {}\n", file.display(), reason(&error)));
            Status::BadInput
        }
    }
}

fn chart(names: Vec<String>, singles: Points, largest: Points) -> Chart {
    let panel = |title: &str, x: &str, points: Points| Panel {
        title: title.to_string(),
        x: x.to_string(),
        xs: points.xs,
        curves: points.of.iter().map(|of| of.iter().map(|point| point.map(|point| point.irq_off_insns)).collect()).collect(),
    };
    Chart {
        title: "Guest instructions with interrupts off, longest stretch of a round of hints and its end".to_string(),
        panels: vec![
            panel("free pages that lie alone, in 64 MiB", "free pages", singles),
            panel("free blocks of 4 MiB, in more and more memory", "free blocks", largest),
        ],
        names,
    }
}

/// Returns the figures in columns, one for each guest.
fn tables(names: &[String], singles: &Points, largest: &Points) -> String {
    let irqs_off = |point: Point| Some(point.irq_off_insns.to_string());
    let per_gib = |point: Point| point.insns_per_gib.map(|insns| (insns / 1_000).to_string());
    let parts = [
        ("longest stretch with interrupts off, guest instructions; free pages that lie alone, in 64 MiB", table(names, singles, irqs_off)),
        ("the same; free blocks of 4 MiB, in more and more memory", table(names, largest, irqs_off)),
        ("guest instructions for each GiB hinted, thousands; free pages that lie alone, in 64 MiB", table(names, singles, per_gib)),
        ("the same; free blocks of 4 MiB, in more and more memory", table(names, largest, per_gib)),
    ];
    parts.map(|(title, table)| format!("{title}\n{table}")).join("\n")
}

fn table(names: &[String], points: &Points, figure: impl Fn(Point) -> Option<String>) -> String {
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>10}")).collect();
        format!("{name:<width$}{cells}\n")
    };
    let mut said = line("", points.xs.iter().map(u64::to_string).collect());
    for (name, of) in names.iter().zip(&points.of) {
        said += &line(name, of.iter().map(|point| point.and_then(&figure).unwrap_or_else(|| super::table::NONE.to_string())).collect());
    }
    said
}
