//! One variant's system on one thread, and what is known of it.

use super::block::{BlockResult, Finding, Hits, Signature, Tally};
use super::coverage::{Coverage, Tracker};
use super::explore::Options;
use super::graph::{Buffers, Graph, GraphLimits, Known};
use super::strategy::{Scheduler, Strategy};
use super::system::{Choice, Ending, Step, System};
use super::walk::{Live, Observer, Pilot, Run, draw, stalled, walk};

/// A system to run schedules on.
pub(super) struct Context<S: System> {
    variant: u32,
    system: S,
    root: S::Saved,
    scheduler: Scheduler,
    tracker: Tracker,
    graph: Option<Graph<S::Saved>>,
    pace: Pace,
    buffers: Buffers,
    touches: Vec<u32>,
    taken: Vec<u16>,
}

impl<S: System> Context<S> {
    /// Takes a system in the state that schedules start in.
    pub(super) fn new(mut system: S, variant: u32, moves_max: u32, limits: Option<GraphLimits>) -> Self {
        let root = system.save();
        let pilot = Pilot::fly(&mut system, &root, moves_max);
        let graph = limits.map(|limits| Graph::new(&mut system, &root, limits));
        Self {
            variant,
            root,
            scheduler: Scheduler::new(pilot),
            tracker: Tracker::new(system.actors()),
            graph,
            pace: Pace::default(),
            buffers: Buffers::default(),
            touches: Vec::new(),
            taken: Vec::new(),
            system,
        }
    }

    pub(super) fn variant(&self) -> u32 {
        self.variant
    }

    pub(super) fn pilot(&self) -> &Pilot {
        self.scheduler.pilot()
    }

    /// Runs the schedule of one seed, on the system.
    pub(super) fn schedule(&mut self, options: &Options, seed: u64) -> Run {
        let strategy = options.portfolio.strategy(seed);
        walk(&mut self.system, &self.root, &mut self.scheduler, strategy, seed, options.moves_max, &mut ())
    }

    /// Runs a block. `None` when it was halted.
    pub(super) fn block(&mut self, options: &Options, block: u64, halted: &impl Fn() -> bool) -> Option<BlockResult> {
        let mut count = Count::new(BlockResult::new(block, self.variant, options.first_seed(block), options.block_len));
        for number in 0..options.block_len {
            if halted() {
                // What was seen of this block must not be in the next.
                self.tracker.end_block(0);
                return None;
            }
            let seed = count.result.seed.wrapping_add(number.into());
            let strategy = options.portfolio.strategy(seed);
            let ending = self.one(strategy, seed, options.moves_max, &mut count.states);
            count.add(&self.scheduler, &self.taken, strategy, seed, ending);
        }
        Some(count.finish(self.tracker.end_block(options.first_schedule(block))))
    }

    /// Runs a schedule on known ground, if that is worth its while, else on the system.
    fn one(&mut self, strategy: Strategy, seed: u64, moves_max: u32, states: &mut Vec<u128>) -> Option<Ending> {
        self.scheduler.begin(strategy, seed);
        self.tracker.begin();
        match self.graph.as_mut().filter(|_| self.pace.is_worth_it()) {
            Some(graph) => {
                let mut known = Known::new(&mut self.system, graph, &mut self.tracker, &mut self.buffers);
                let ending = draw(&mut known, &mut self.scheduler, moves_max, &mut self.taken);
                states.extend(ending.is_some().then(|| known.hash()));
                self.pace.ran(graph.moves());
                ending
            }
            None => {
                let mut watch = Watch { tracker: &mut self.tracker, touches: &mut self.touches };
                let mut live = Live::new(&mut self.system, &self.root, &mut watch);
                let ending = draw(&mut live, &mut self.scheduler, moves_max, &mut self.taken);
                states.extend(ending.is_some().then(|| self.system.hash()));
                ending
            }
        }
    }
}

/// Shows a tracker what the system does.
struct Watch<'a> {
    tracker: &'a mut Tracker,
    touches: &'a mut Vec<u32>,
}

impl Observer for Watch<'_> {
    fn moved(&mut self, choice: &Choice, step: &Step) {
        self.touches.clear();
        self.tracker.touches(step, self.touches);
        let label = self.tracker.label(choice, step);
        self.tracker.moved(choice.actor, label, self.touches);
    }
}

/// Decides whether schedules run on known ground. When few of their moves are known, looking them up costs more than it saves; then the graph rests,
/// and is tried again later. No result depends on it.
#[derive(Debug, Clone, Default)]
struct Pace {
    /// Schedules since the last decision.
    schedules: u32,
    /// Decisions made.
    decisions: u32,
    /// Moves known and not known, at the last decision.
    before: (u64, u64),
    /// Schedules for which the graph still rests.
    rest: u32,
}

impl Pace {
    /// Schedules from one decision to the next.
    const PERIOD: u32 = 256;
    /// Decisions that are not made: in the beginning, nothing is known yet.
    const FIRST: u32 = 8;
    /// Periods of a rest.
    const REST: u32 = 15;

    fn is_worth_it(&mut self) -> bool {
        let resting = self.rest > 0;
        self.rest -= u32::from(resting);
        !resting
    }

    /// Takes in how many moves were known, and how many were not, in all.
    fn ran(&mut self, (followed, lived): (u64, u64)) {
        self.schedules += 1;
        if self.schedules < Self::PERIOD {
            return;
        }
        let known = followed - self.before.0;
        let unknown = lived - self.before.1;
        self.decisions += 1;
        if self.decisions > Self::FIRST && 2 * known < unknown {
            self.rest = Self::REST * Self::PERIOD;
        }
        (self.schedules, self.before) = (0, (followed, lived));
    }
}

/// A block's result in the making: what comes with every schedule is counted without looking up names.
struct Count {
    result: BlockResult,
    tallies: Vec<Tally>,
    endings: Vec<(Ending, u64)>,
    states: Vec<u128>,
}

impl Count {
    fn new(result: BlockResult) -> Self {
        Self { result, tallies: Vec::new(), endings: Vec::new(), states: Vec::new() }
    }

    /// Takes in a schedule.
    fn add(&mut self, scheduler: &Scheduler, taken: &[u16], strategy: Strategy, seed: u64, ending: Option<Ending>) {
        let (horizon, given_up) = (scheduler.pilot().horizon(), ending.is_none());
        let ending = ending.unwrap_or_else(stalled);
        let at = self.tallies.iter().position(|tally| tally.strategy == strategy).unwrap_or_else(|| {
            self.tallies.push(Tally::new(self.result.variant, strategy, horizon));
            self.tallies.len() - 1
        });
        let tally = &mut self.tallies[at];
        tally.schedules += 1;
        tally.moves += taken.len() as u64;
        tally.longest = tally.longest.max(taken.len() as u32);
        tally.beyond += u64::from(given_up || taken.len() > horizon as usize);
        if let Strategy::Pct(_) = strategy {
            tally.saw(scheduler.pct_ids());
        }
        if ending.is_failure() {
            tally.failures += 1;
            self.fail(taken, strategy, seed, &ending);
        }
        match self.endings.iter_mut().find(|(known, _)| *known == ending) {
            Some((_, schedules)) => *schedules += 1,
            None => self.endings.push((ending, 1)),
        }
    }

    fn fail(&mut self, taken: &[u16], strategy: Strategy, seed: u64, ending: &Ending) {
        let hits = vec![Hits { strategy, schedules: 1, seed }];
        let (variant, choices) = (self.result.variant, taken.to_vec());
        self.result.failed(&Finding { variant, signature: Signature::from(ending), seed, strategy, choices, schedules: 1, hits });
    }

    fn finish(self, coverage: Coverage) -> BlockResult {
        let Self { mut result, tallies, endings, states } = self;
        tallies.iter().for_each(|tally| result.count(tally));
        endings.iter().for_each(|(ending, schedules)| result.ended(Signature::from(ending), *schedules));
        result.states.add(&states);
        result.coverage = coverage;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_knows_little_rests_and_is_tried_again() {
        let mut pace = Pace::default();
        let (mut moves, mut tried) = ((0, 0), Vec::new());
        for schedule in 0..3 * (Pace::FIRST + Pace::REST) * Pace::PERIOD {
            if pace.is_worth_it() {
                tried.push(schedule / Pace::PERIOD);
                // A tenth of the moves is known.
                moves = (moves.0 + 4, moves.1 + 36);
                pace.ran(moves);
            }
        }
        tried.dedup();
        assert_eq!(tried, [0, 1, 2, 3, 4, 5, 6, 7, 8, 24, 40, 56]);
        for _ in 0..20 * Pace::PERIOD {
            // From here on, nearly all are; a rest that has begun is still had.
            if pace.is_worth_it() {
                moves = (moves.0 + 39, moves.1 + 1);
                pace.ran(moves);
            }
        }
        assert_eq!(pace.rest, 0);
    }
}
