//! The search of one scenario: opens its results, runs what is not there yet, keeps it, and tells what all of it says.

use std::ops::ControlFlow;
use std::path::Path;

use super::Interrupts;
use super::budget::{Budget, Timer};
use super::findings::{self, Settled};
use super::progress::Progress;
use super::text;
use crate::cli::args::ExploreArguments;
use crate::cli::files::Case;
use crate::cli::results::Results;
use crate::cli::screen::Screen;
use crate::cli::{Problem, Status};
use crate::report::counted;
use crate::scenario::Scenario;
use crate::search::block::{BlockResult, Summary};
use crate::search::explore::{Explorer, Finish, Options};
use crate::search::results::{BLOCKS_MAX, Block, Header, Request};
use crate::search::strategy::Portfolio;
use crate::search::subject::Subject;
use crate::search::{Shard, System};

/// One scenario to explore.
pub(super) struct Hunt<'a, S> {
    pub(super) subject: &'a S,
    pub(super) arguments: &'a ExploreArguments,
    pub(super) case: &'a Case,
    pub(super) scenario: &'a Scenario,
    /// Where results are kept, if they are.
    pub(super) results: Option<&'a Path>,
    pub(super) threads: usize,
    pub(super) interrupts: &'a Interrupts,
}

/// What a search is left to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freedom {
    /// Something.
    Some,
    /// Nothing: there is one schedule.
    OneSchedule,
    /// Nothing: the run is over before the search may begin.
    NoWindow,
}

/// What a search has to show.
struct Found {
    summary: Summary,
    /// Why it could not be kept, if it could not.
    unkept: Option<String>,
}

impl<S: Subject> Hunt<'_, S> {
    /// Explores; returns how that ended.
    pub(super) fn run(&self, screen: &mut Screen<'_>) -> Status {
        match self.freedom() {
            Freedom::Some => self.search(screen),
            Freedom::OneSchedule | Freedom::NoWindow if self.interrupts.any() => Status::Interrupted,
            freedom @ (Freedom::OneSchedule | Freedom::NoWindow) => self.once(freedom, screen),
        }
    }

    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            seed: self.arguments.seed,
            block_len: self.arguments.block,
            variants: u32::try_from(self.scenario.variants_count()).unwrap_or(u32::MAX),
            portfolio: Portfolio::of(&self.arguments.strategies).unwrap_or(default.portfolio),
            moves_max: self.arguments.moves,
            threads: self.threads,
            ..default
        }
    }

    /// Follows the schedule until there is something to choose.
    fn freedom(&self) -> Freedom {
        if self.scenario.variants_count() > 1 {
            return Freedom::Some;
        }
        let mut system = self.subject.open(&self.scenario.variant(0));
        let mut choices = Vec::new();
        for made in 0..self.options().moves_max {
            system.choices(&mut choices);
            match choices.as_slice() {
                [] if made == 0 => return Freedom::NoWindow,
                [] => return Freedom::OneSchedule,
                [only] => system.take(*only),
                [_, _, ..] => return Freedom::Some,
            }
        }
        Freedom::OneSchedule
    }

    /// Runs the only schedule there is.
    fn once(&self, freedom: Freedom, screen: &mut Screen<'_>) -> Status {
        let outcome = self.subject.run(&self.scenario.variant(0));
        screen.out(&text::once(self.case, self.scenario, freedom, &outcome));
        if outcome.unexpected.is_empty() { Status::AsExpected } else { Status::NotAsExpected }
    }

    fn search(&self, screen: &mut Screen<'_>) -> Status {
        let options = self.options();
        let mut results = match self.results.map(|folder| Results::open(folder, &self.header(&options))).transpose() {
            Ok(results) => results,
            Err(problem) => {
                screen.err(&Problem::plain(problem).text);
                return Status::BadInput;
            }
        };
        results.iter().flat_map(Results::notes).for_each(|note| screen.err(&format!("note: {note}\n")));
        let Found { summary, unkept } = self.explore(&options, results.as_mut(), screen);
        drop(results);
        screen.out(&text::summary(self.case, self.scenario, &options, self.shard(), &summary));
        let status = self.settle(&options, &summary, screen);
        match unkept {
            Some(problem) => {
                screen.err(&Problem::plain(problem).text);
                status.max(Status::BadInput)
            }
            None => status,
        }
    }

    fn shard(&self) -> Shard {
        self.arguments.shard.unwrap_or(Shard::WHOLE)
    }

    fn header(&self, options: &Options) -> Header {
        let request = Request {
            seed: options.seed,
            block_schedules: options.block_len.into(),
            strategies: options.portfolio.turns().iter().map(ToString::to_string).collect(),
            options: [("moves".to_owned(), options.moves_max.to_string())].into(),
            shard: self.shard(),
        };
        Header::new(&self.case.name, self.scenario, request)
    }

    /// Runs the blocks of the budget that are not there yet.
    fn explore(&self, options: &Options, mut results: Option<&mut Results<BlockResult>>, screen: &mut Screen<'_>) -> Found {
        let budget = Budget::new(self.arguments.time, self.arguments.schedules);
        let end = budget.blocks(options.block_len);
        let mut summary = results.as_deref().map_or_else(Summary::default, |results| BlockResult::total(results.blocks().iter()));
        let (there, shard) = (summary.blocks.clone(), self.shard());
        let mine = |block: &u64| shard.has_block(options.seed, *block) && !there.has(*block);
        // Of a budget that is large there is no need to know exactly.
        const COUNTED_MAX: u64 = 1 << 20;
        let all = end.filter(|end| *end <= COUNTED_MAX).map(|end| (0..end).filter(mine).count() as u64);
        let all = all.map(|blocks| summary.schedules() + blocks * u64::from(options.block_len));
        let progress = Progress::begin(budget, summary.schedules());
        let timer = Timer::start(budget.time);
        let begun = (0..end.unwrap_or(BLOCKS_MAX)).filter(mine).enumerate();
        // Whatever the time is, there is one.
        let blocks = begun.take_while(|(place, _)| *place == 0 || !timer.is_over()).map(|(_, block)| block);
        let explorer = Explorer::new(options.clone(), |variant| self.subject.open(&self.scenario.variant(variant.into())));
        let mut unkept = None;
        let finish = explorer.run(blocks, &self.interrupts.stop, |result| {
            summary.add(&result).expect("a block is made once");
            progress.show(&summary, all);
            unkept = results.as_mut().and_then(|results| results.append(result).err());
            if unkept.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let end = end.filter(|_| finish == Finish::Done && !timer.is_over());
        if let (Some(results), None) = (results, &unkept) {
            unkept = results.finish(end).err();
        }
        let remark = progress.remark(&summary);
        drop(progress);
        remark.into_iter().for_each(|remark| screen.err(&format!("{remark}\n")));
        Found { summary, unkept }
    }

    /// Makes scenario files of the findings, and tells of both.
    fn settle(&self, options: &Options, summary: &Summary, screen: &mut Screen<'_>) -> Status {
        let groups = findings::groups(self.scenario, options, summary);
        let mut status = Status::AsExpected;
        let progress = Progress::begin(Budget { time: None, schedules: None }, 0);
        progress.say(format!("shrinking {}", counted(groups.len() as u64, "finding")));
        findings::reproduce_all(self, &groups, |group, reproduced| {
            let settled = Settled::new(&self.arguments.found, reproduced);
            let expected = group.is_expected(self.scenario);
            let told = text::finding(self, summary, group, &settled);
            progress.suspend(|| screen.out(&told));
            if !expected {
                status = status.max(Status::NotAsExpected);
            }
            if let Some(problem) = settled.problem() {
                progress.suspend(|| screen.err(&Problem::plain(problem.clone()).text));
                status = status.max(Status::BadInput);
            }
            if settled.is_own_defect() {
                status = status.max(Status::OwnDefect);
            }
        });
        drop(progress);
        screen.out(&text::verdict(self.scenario, &groups));
        status
    }
}
