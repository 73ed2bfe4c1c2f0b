//! The command line's grammar.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use host::fault::Fault;

use super::explore::parse_time;
use crate::scenario;
use crate::scenario::model::Grain;
use crate::search::Shard;
use crate::search::strategy::Strategy;
use crate::search::token::Token;

/// Tests whether live migration with free page hinting loses a page.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "lostpage", version, after_help = super::STATUS_HELP, max_term_width = 100)]
pub(super) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Run scenarios and compare what comes out with what their files and snapshots say.
    Run(RunArguments),
    /// Draw many orders of a scenario's events by chance; what fails becomes a scenario file.
    Explore(ExploreArguments),
    /// Run one schedule of a search again, and print its report.
    Replay(ReplayArguments),
    /// Run each scenario twice, the second time from a fork in the middle and on another thread, and compare: lostpage examines itself.
    Doctor(DoctorArguments),
    /// Read scenarios without running them.
    Lint {
        /// Scenario files, or folders of them.
        #[arg(default_value = super::SCENARIOS)]
        paths: Vec<PathBuf>,
    },
    /// Write a new scenario file that passes, to be changed.
    New {
        /// Its name, such as `hinting/write-after-pop`.
        name: String,
        /// The folder it goes into.
        #[arg(long, default_value = "scenarios/pass")]
        dir: PathBuf,
    },
    /// Print a JSON Schema.
    Schema {
        /// Of what.
        #[arg(value_enum, default_value = "scenario")]
        of: SchemaOf,
    },
    /// Compare two runs. Exit status 0: equal; 1: different.
    Diff {
        /// A scenario file (.toml, is run) or a saved outcome (.json).
        a: PathBuf,
        /// The other.
        b: PathBuf,
    },
    /// Search all orders that a scenario leaves open. Exit status 0: none fails; 1: some do; 4: the memory was not enough.
    Prove(ProveArguments),
    /// Tell after which step of a failing scenario nothing could save it any more.
    Why(WhyArguments),
    /// Run each scenario with each fault, and search for each loss from a neutral scenario: which fault does nothing catch?
    Museum(MuseumArguments),
    /// Run the same guest under each interface, and tell side by side what hints cost it, what they save, and how it ended.
    Compare(CompareArguments),
    /// Put result folders of one search together. In any order they give the same bytes.
    Merge {
        /// The folder to make: a new or an empty one.
        out: PathBuf,
        /// Result folders, of any shards, finished or not. They are left as they are.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// List the faults that can be switched on.
    Faults,
    /// List the events that scenarios and timelines speak of.
    Events,
}

/// `lostpage run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct RunArguments {
    /// Scenario files, or folders of them.
    #[arg(default_value = super::SCENARIOS)]
    pub(super) paths: Vec<PathBuf>,
    /// Keep the reports of runs that ended as expected as their snapshots.
    #[arg(long, conflicts_with_all = ["no_snapshot", "faults"])]
    pub(super) bless: bool,
    /// Leave snapshots alone.
    #[arg(long)]
    pub(super) no_snapshot: bool,
    /// Do not check that each scenario's witnesses change its verdict.
    #[arg(long)]
    pub(super) no_witness: bool,
    /// Switch a fault on, beside the scenario's own; snapshots and witnesses are left alone then. May be repeated.
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_parser())]
    pub(super) faults: Vec<Fault>,
    /// How to print results.
    #[arg(long, value_enum, default_value = "human")]
    pub(super) format: Format,
    /// Print each run's report, as its snapshot holds it.
    #[arg(long, conflicts_with = "trace")]
    pub(super) report: bool,
    /// Print each run's report with every event.
    #[arg(long)]
    pub(super) trace: bool,
    /// Write a JUnit report.
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// Write each run's outcome with every event as a JSON file, for `diff`.
    #[arg(long, value_name = "DIR")]
    pub(super) save_outcome: Option<PathBuf>,
    /// Run this many scenarios at a time [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
    /// Run the K-th of N parts of the scenarios, 1 ≤ K ≤ N. A scenario's part depends on its path alone.
    #[arg(long, value_name = "K/N")]
    pub(super) shard: Option<Shard>,
}

/// `lostpage doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct DoctorArguments {
    /// Scenario files, or folders of them.
    #[arg(default_value = super::SCENARIOS)]
    pub(super) paths: Vec<PathBuf>,
    /// Seed of the random schedule that is searched twice.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// How to print results.
    #[arg(long, value_enum, default_value = "human")]
    pub(super) format: Format,
    /// Examine this many scenarios at a time [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
}

/// `lostpage prove`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct ProveArguments {
    /// A scenario file. All settings that its `[vary]` leaves open are searched, one after the other.
    pub(super) file: PathBuf,
    /// What a scheduling point is [default: what the file says, or else each event].
    #[arg(long, value_name = "event|instruction", value_parser = grain_parser())]
    pub(super) grain: Option<Grain>,
    /// Where the shrunk scenarios of failing orders go.
    #[arg(long, value_name = "DIR", default_value = "scenarios/found")]
    pub(super) found: PathBuf,
    /// Stop at the first order that fails. Which one that is may differ from run to run.
    #[arg(long)]
    pub(super) first: bool,
    /// What all searches take.
    #[command(flatten)]
    pub(super) search: SearchArguments,
}

/// `lostpage why`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct WhyArguments {
    /// A scenario file that fails.
    pub(super) file: PathBuf,
    /// Keep the file's own orders in what could have come instead. Else they are let go.
    #[arg(long)]
    pub(super) keep_orders: bool,
    /// Count the runs from a step only as long as no more states than these are behind it.
    #[arg(long, value_name = "N", default_value = "200000", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) states: u64,
    /// Random completions of each step whose runs are too many to be counted.
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) samples: u32,
    /// Seed of the random completions.
    #[arg(long, value_name = "S", default_value = "0")]
    pub(super) seed: u64,
    /// What all searches take.
    #[command(flatten)]
    pub(super) search: SearchArguments,
}

/// What `prove` and `why` have in common.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct SearchArguments {
    /// Switch a fault on, beside the scenario's own. May be repeated.
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_parser())]
    pub(super) faults: Vec<Fault>,
    /// Search on this many threads [default: one per processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
    /// Take no more memory than this, such as 4GiB [default: half of what there is].
    #[arg(long, value_name = "SIZE", value_parser = memory_parser)]
    pub(super) memory: Option<u64>,
}

/// `lostpage explore`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct ExploreArguments {
    /// Scenario files, or folders of them. Each is explored by itself, as far as the budget goes.
    #[arg(required = true)]
    pub(super) paths: Vec<PathBuf>,
    /// Begin no more schedules after this time, such as `500ms`, `10s`, `5m` [default: 10s if no number of schedules is given].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) time: Option<Duration>,
    /// Run so many schedules, up to the next whole block.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) schedules: Option<u64>,
    /// The first schedule's seed. The same seed gives the same schedules.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// How schedules are drawn: strategies that take turns, of `pos`, `urw`, `random`, `pct:1` to `pct:64` [default: all, `pos` most often].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) strategies: Vec<Strategy>,
    /// Switch a fault on, beside the scenario's own. May be repeated.
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_parser())]
    pub(super) faults: Vec<Fault>,
    /// Schedules in a block: what is run, kept and counted as a whole. Results of long searches are smaller with larger ones.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) block: u32,
    /// Give a schedule up after so many moves; it counts as a stall then.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) moves: u32,
    /// Keep results in this folder, and go on from what is there of the same search.
    #[arg(long, value_name = "DIR")]
    pub(super) results: Option<PathBuf>,
    /// The folder that findings are written to, as scenarios.
    #[arg(long, value_name = "DIR", default_value = "scenarios/found")]
    pub(super) found: PathBuf,
    /// Run this many schedules at a time [default: one per processor]. Changes no result.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
    /// Run the K-th of N parts of the blocks, 1 ≤ K ≤ N; `merge` puts the parts' results together.
    #[arg(long, value_name = "K/N")]
    pub(super) shard: Option<Shard>,
}

/// `lostpage replay`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct ReplayArguments {
    /// The scenario file that was searched.
    pub(super) file: PathBuf,
    /// The schedule's seed, as `explore` prints it. It holds for the same build.
    pub(super) seed: Token,
    /// Switch a fault on, as it was in the search. May be repeated.
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_parser())]
    pub(super) faults: Vec<Fault>,
    /// Print every event.
    #[arg(long)]
    pub(super) trace: bool,
    /// After how many moves schedules were given up, as in the search.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) moves: u32,
}

/// `lostpage museum`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct MuseumArguments {
    /// Scenario files, or folders of them: each is run with each fault.
    #[arg(default_value = super::SCENARIOS)]
    pub(super) paths: Vec<PathBuf>,
    /// A scenario file to search from for each fault that loses pages, or a folder of them. May be repeated; several take turns.
    #[arg(long = "neutral", value_name = "FILE", default_values = super::museum::NEUTRAL, conflicts_with = "no_search")]
    pub(super) neutrals: Vec<PathBuf>,
    /// Schedules that each strategy may need to find a fault, up to the next whole turn.
    #[arg(long, value_name = "N", default_value_t = super::museum::SCHEDULES, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(super) schedules: u64,
    /// The first schedule's seed.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Leave the searches out.
    #[arg(long)]
    pub(super) no_search: bool,
    /// Look at this fault only. May be repeated.
    #[arg(long = "fault", value_name = "NAME", value_parser = fault_parser())]
    pub(super) faults: Vec<Fault>,
    /// How to print results.
    #[arg(long, value_enum, default_value = "human")]
    pub(super) format: Format,
    /// Do this much at a time [default: one per processor]. Changes no result.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
}

/// `lostpage compare`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(super) struct CompareArguments {
    /// Scenario files, or folders of them. Files of the same name are put side by side.
    #[arg(default_value = super::compare::DIALECTS)]
    pub(super) paths: Vec<PathBuf>,
    /// Look at files of this name only, such as `saving`. May be repeated.
    #[arg(long = "case", value_name = "NAME")]
    pub(super) cases: Vec<String>,
    /// Measure guests of more and more free blocks instead, and draw how long interrupts are off: an SVG.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["paths", "cases", "format"])]
    pub(super) curve: Option<PathBuf>,
    /// How to print results.
    #[arg(long, value_enum, default_value = "human")]
    pub(super) format: Format,
    /// Do this much at a time [default: one per processor]. Changes no result.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
    /// Lines for people, and annotations that GitHub Actions shows on files.
    Github,
}

/// What a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaOf {
    /// A scenario file.
    Scenario,
    /// A saved outcome.
    Outcome,
    /// A line of `run --format json`.
    Run,
    /// A line of `doctor --format json`.
    Doctor,
    /// A line of `museum --format json`.
    Museum,
    /// A line of `compare --format json`.
    Compare,
}

fn grain_parser() -> impl TypedValueParser<Value = Grain> {
    PossibleValuesParser::new(Grain::ALL.iter().map(|grain| grain.name()))
        .map(|name| *Grain::ALL.iter().find(|grain| grain.name() == name).expect("one of the possible values"))
}

fn memory_parser(text: &str) -> Result<u64, String> {
    match scenario::size(text)? {
        0 => Err("no memory at all".to_string()),
        bytes => Ok(bytes),
    }
}

fn fault_parser() -> impl TypedValueParser<Value = Fault> {
    PossibleValuesParser::new(Fault::ALL.iter().map(|fault| fault.name()))
        .map(|name| Fault::from_name(&name).expect("one of the possible values"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_misspelt_fault_is_refused_with_a_suggestion() {
        let error = Arguments::try_parse_from(["lostpage", "run", "--fault", "hint-stop-skiped"]).expect_err("no such fault");
        assert!(error.to_string().contains("hint-stop-skipped"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
