//! Many schedules on many threads, with one result.
//!
//! Work is cut into blocks of consecutive seeds. What a block gives depends on its number and the options alone: not on the threads, nor on what else was
//! run, nor on how much memory there was. Blocks are handed out in order, and their results are delivered in that order; when the search is stopped,
//! results of all blocks up to the last that was delivered are there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::block::BlockResult;
use super::context::Context;
use super::graph::GraphLimits;
use super::strategy::Portfolio;
use super::system::System;
use super::walk::{Pilot, Run};

/// Stack of a thread that searches, bytes: that of a main thread, since unoptimised builds have large frames.
const STACK_BYTES: usize = 8 << 20;

/// How many blocks a thread may be ahead of the last result that was delivered.
const AHEAD_MAX: u64 = 64;

/// What is searched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The first seed; schedule number `i` has seed `seed + i`.
    pub seed: u64,
    /// Schedules in a block.
    pub block_len: u32,
    /// After how many moves a schedule is given up.
    pub moves_max: u32,
    /// Which seed is drawn how.
    pub portfolio: Portfolio,
    /// How many variants of the system there are; blocks take turns.
    pub variants: u32,
    /// Threads. Changes no result.
    pub threads: usize,
    /// How much may be kept of what is known of states, by all threads together; `None`: nothing. Changes no result.
    pub graph: Option<GraphLimits>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            block_len: 64,
            moves_max: 10_000,
            portfolio: Portfolio::default(),
            variants: 1,
            threads: 1,
            graph: Some(GraphLimits { memory_bytes: 256 << 20, saved_bytes: 20 << 10 }),
        }
    }
}

impl Options {
    /// Returns the seed of a block's first schedule. Seeds go on at 0 behind the largest.
    pub fn first_seed(&self, block: u64) -> u64 {
        self.seed.wrapping_add(self.first_schedule(block))
    }

    /// Returns the number of a block's first schedule.
    pub fn first_schedule(&self, block: u64) -> u64 {
        block.checked_mul(self.block_len.into()).expect("no more schedules than seeds")
    }

    /// Returns the variant that a block searches.
    pub fn variant(&self, block: u64) -> u32 {
        (block % u64::from(self.variants)) as u32
    }
}

/// How a search came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// All blocks were delivered.
    Done,
    /// It was stopped before.
    Stopped,
}

/// A search of all variants of a system. A variant's system is made in the state that its schedules start in.
#[derive(Debug, Clone)]
pub struct Explorer<F> {
    options: Options,
    factory: F,
}

impl<S: System, F: Fn(u32) -> S + Sync> Explorer<F> {
    /// Returns a search. The factory makes a variant's system, the same each time, for the thread that calls it.
    pub fn new(options: Options, factory: F) -> Self {
        let Options { block_len, moves_max, variants, threads, .. } = options;
        assert!(block_len > 0 && moves_max > 0, "blocks of {block_len} schedules of {moves_max} moves");
        assert!(variants > 0 && threads > 0, "{variants} variants, {threads} threads");
        Self { options, factory }
    }

    /// Returns the options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs the schedule of one seed again, on a new system.
    pub fn schedule(&self, variant: u32, seed: u64) -> Run {
        self.context(variant).schedule(&self.options, seed)
    }

    /// Returns what the strategies know of a variant beforehand.
    pub fn pilot(&self, variant: u32) -> Pilot {
        self.context(variant).pilot().clone()
    }

    /// Runs blocks, and gives their results to the sink, which runs on the calling thread, in the order of the list. The sink ends the search by breaking
    /// it off, and anybody else by setting `stop`: then, blocks that are being run are given up.
    pub fn run<B>(&self, blocks: B, stop: &AtomicBool, mut sink: impl FnMut(BlockResult) -> ControlFlow<()>) -> Finish
    where
        B: IntoIterator<Item = u64>,
        B::IntoIter: Send,
    {
        let desk = Desk::new(blocks.into_iter(), AHEAD_MAX * self.options.threads as u64);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.options.threads {
                let (desk, sender) = (&desk, sender.clone());
                let work = move || self.work(desk, stop, &sender);
                thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
            }
            drop(sender);
            let (mut waiting, mut delivered) = (BTreeMap::new(), 0);
            for (place, result) in receiver {
                waiting.insert(place, result);
                while let Some(result) = waiting.remove(&delivered) {
                    delivered += 1;
                    desk.delivered(delivered);
                    if sink(result).is_break() {
                        desk.close();
                        return;
                    }
                }
            }
        });
        desk.finish()
    }

    fn work<B: Iterator<Item = u64>>(&self, desk: &Desk<B>, stop: &AtomicBool, sender: &Sender<(u64, BlockResult)>) {
        let _guard = CloseOnPanic(desk);
        let halted = || stop.load(Ordering::Relaxed) || desk.closed.load(Ordering::Relaxed);
        let mut contexts: Vec<Context<S>> = Vec::new();
        while let Some((place, block)) = desk.next() {
            let variant = self.options.variant(block);
            // The one used last stands last; the one not used for longest makes room.
            let mut context = match contexts.iter().position(|context| context.variant() == variant) {
                Some(at) => contexts.remove(at),
                None => {
                    if contexts.len() == self.kept_max() {
                        contexts.remove(0);
                    }
                    self.context(variant)
                }
            };
            let Some(result) = context.block(&self.options, block, &halted) else {
                return desk.close();
            };
            contexts.push(context);
            if sender.send((place, result)).is_err() {
                return;
            }
        }
    }

    /// How many variants' systems a thread keeps.
    fn kept_max(&self) -> usize {
        const KEPT_MAX: usize = 16;
        KEPT_MAX.min(self.options.variants as usize)
    }

    fn context(&self, variant: u32) -> Context<S> {
        let share = (self.options.threads * self.kept_max()) as u64;
        let limits = self.options.graph.map(|limits| GraphLimits { memory_bytes: limits.memory_bytes / share, ..limits });
        Context::new((self.factory)(variant), variant, self.options.moves_max, limits)
    }
}

/// Where threads get their blocks.
struct Desk<B> {
    state: Mutex<Issue<B>>,
    moved_on: Condvar,
    ahead_max: u64,
    /// Whether nothing more is handed out, because the search ends before its time.
    closed: AtomicBool,
}

struct Issue<B> {
    blocks: B,
    issued: u64,
    delivered: u64,
    exhausted: bool,
}

impl<B: Iterator<Item = u64>> Desk<B> {
    fn new(blocks: B, ahead_max: u64) -> Self {
        let state = Mutex::new(Issue { blocks, issued: 0, delivered: 0, exhausted: false });
        Self { state, moved_on: Condvar::new(), ahead_max, closed: AtomicBool::new(false) }
    }

    /// Returns the next block, and its place in the order; waits while results are too far behind.
    fn next(&self) -> Option<(u64, u64)> {
        let full = |issue: &mut Issue<B>| issue.issued - issue.delivered >= self.ahead_max && !self.closed.load(Ordering::Relaxed);
        let mut issue = self.moved_on.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let next = issue.blocks.next();
        issue.exhausted |= next.is_none();
        let place = issue.issued;
        issue.issued += u64::from(next.is_some());
        next.map(|block| (place, block))
    }

    fn finish(&self) -> Finish {
        let issue = self.lock();
        if issue.exhausted && issue.delivered == issue.issued { Finish::Done } else { Finish::Stopped }
    }
}

impl<B> Desk<B> {
    fn lock(&self) -> MutexGuard<'_, Issue<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self, delivered: u64) {
        self.lock().delivered = delivered;
        self.moved_on.notify_all();
    }

    fn close(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _issue = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        self.moved_on.notify_all();
    }
}

/// Closes the desk when its thread panics: the others would wait for a result that never comes, and the panic would never be seen.
struct CloseOnPanic<'a, B>(&'a Desk<B>);

impl<B> Drop for CloseOnPanic<'_, B> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::search::block::{Repeated, Signature, Summary};
    use crate::search::strategy::Strategy as Drawn;
    use crate::search::system::{Choice, Edge, Ending, Step};
    use crate::search::toy::{Flaw, Size, Toy};
    use crate::search::walk::replay;

    const SIZE: Size = Size { rounds: 2, noise: 3 };
    const FLAWS: [Flaw; 2] = [Flaw::StopSkipped, Flaw::StopUnlocked];

    fn all<S: System>(
        explorer: &Explorer<impl Fn(u32) -> S + Sync>,
        blocks: impl IntoIterator<Item = u64, IntoIter: Send>,
    ) -> Vec<BlockResult> {
        let mut results = Vec::new();
        let finish = explorer.run(blocks, &AtomicBool::new(false), |result| {
            results.push(result);
            ControlFlow::Continue(())
        });
        assert_eq!(finish, Finish::Done);
        results
    }

    fn summary(results: &[BlockResult]) -> Summary {
        let mut summary = Summary::default();
        results.iter().for_each(|result| summary.add(result).expect("each block once"));
        summary
    }

    /// A toy that also touches cells: some of one actor alone, some that are only looked at, some that the actors have in common.
    struct Celled {
        toy: Toy,
        step: Step,
    }

    impl Celled {
        fn new(flaw: Flaw, size: Size) -> Self {
            Self { toy: Toy::new(flaw, size), step: Step::default() }
        }
    }

    impl System for Celled {
        type Saved = <Toy as System>::Saved;

        fn actors(&self) -> u16 {
            self.toy.actors()
        }

        fn choices(&mut self, into: &mut Vec<Choice>) {
            self.toy.choices(into);
        }

        fn take(&mut self, choice: Choice) {
            self.toy.take(choice);
            self.step = self.toy.step().clone();
            let happened = self.step.happened[0];
            let (kind, actor) = (u32::from(happened.key.kind), u32::from(choice.actor));
            self.step.footprint.looked = vec![1, 2, 10 + kind, 100 + actor];
            self.step.footprint.changed = vec![100 + actor, 200 + (kind * happened.nth) % 7, 300 + kind % 2];
        }

        fn step(&self) -> &Step {
            &self.step
        }

        fn ending(&mut self) -> Ending {
            self.toy.ending()
        }

        fn save(&mut self) -> Self::Saved {
            self.toy.save()
        }

        fn put_back(&mut self, saved: &Self::Saved) {
            self.toy.put_back(saved);
        }

        fn hash(&mut self) -> u128 {
            self.toy.hash()
        }

        fn constrain(&mut self, edges: &[Edge]) {
            self.toy.constrain(edges);
        }
    }

    /// Flaws as variants.
    fn flawed(variant: u32) -> Toy {
        Toy::new([Flaw::None, Flaw::StopSkipped, Flaw::StopUnlocked][variant as usize], SIZE)
    }

    /// Schedules until a flaw shows, on average over the first seeds of twenty searches.
    fn schedules_to_find(strategy: Drawn, flaw: Flaw, schedules_max: u64) -> Option<u64> {
        let portfolio = Portfolio::of(&[strategy]).expect("one");
        let explorer = Explorer::new(Options { portfolio, ..Options::default() }, |_| Toy::new(flaw, Size { rounds: 2, noise: 8 }));
        let mut context = explorer.context(0);
        let needed = |search: u64| {
            let mut seeds = (0..schedules_max).map(|number| search << 32 | number);
            seeds.position(|seed| context.schedule(&explorer.options, seed).ending.is_failure()).map(|at| at as u64 + 1)
        };
        (0..20).map(needed).sum::<Option<u64>>().map(|sum| sum.div_ceil(20))
    }

    #[test]
    fn each_strategy_finds_each_flaw() {
        use Drawn::{Pct, Pos, Random, Urw};
        let needed = [Pos, Urw, Random, Pct(2), Pct(3), Pct(5)].map(|strategy| {
            let [skipped, unlocked] =
                FLAWS.map(|flaw| schedules_to_find(strategy, flaw, 20_000).map_or("never".to_owned(), |n| n.to_string()));
            format!("{strategy}: {skipped}, {unlocked}")
        });
        assert_eq!(needed, ["pos: 12, 58", "urw: 17, 61", "random: 23, 127", "pct:2: 79, never", "pct:3: 52, 1565", "pct:5: 52, 490"]);
    }

    #[test]
    fn results_do_not_depend_on_threads_or_on_what_is_known() {
        let graphs = [None, Some(0), Some(20_000), Some(1 << 20)];
        let options = |threads, memory: Option<u64>| Options {
            seed: 77,
            block_len: 32,
            variants: 3,
            threads,
            graph: memory.map(|memory_bytes| GraphLimits { memory_bytes, saved_bytes: 200 }),
            ..Options::default()
        };
        let expected = all(&Explorer::new(options(1, None), flawed), 0..24);
        assert_eq!(expected.iter().map(|result| result.block).collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
        let found = summary(&expected);
        assert_eq!(found.schedules(), 24 * 32);
        assert_eq!(found.findings.iter().map(|finding| finding.variant).collect::<Vec<_>>(), [1, 2]);
        for threads in [1, 2, 4] {
            for memory in graphs {
                let results = all(&Explorer::new(options(threads, memory), flawed), 0..24);
                assert_eq!(results, expected, "{threads} threads, {memory:?} bytes");
            }
        }
    }

    #[test]
    fn a_finding_replays_from_its_choices_and_from_its_seed() {
        let explorer = Explorer::new(Options { variants: 3, ..Options::default() }, flawed);
        let found = summary(&all(&explorer, 0..30));
        assert_eq!(found.findings.len(), 2);
        for finding in &found.findings {
            let run = explorer.schedule(finding.variant, finding.seed);
            assert_eq!((run.strategy, &run.choices), (finding.strategy, &finding.choices));
            let mut toy = flawed(finding.variant);
            let root = toy.save();
            let ending = replay(&mut toy, &root, &finding.choices, &mut ()).expect("a schedule of this system").expect("the run's end");
            assert_eq!((&ending, Signature::from(&ending)), (&run.ending, finding.signature.clone()));
            let fails = |seed: &u64| Signature::from(&explorer.schedule(finding.variant, *seed).ending) == finding.signature;
            let of_variant = (0..30 * 64).filter(|seed| seed / 64 % 3 == u64::from(finding.variant));
            let failing: Vec<u64> = of_variant.filter(fails).collect();
            let shortest = failing.iter().copied().min_by_key(|seed| (explorer.schedule(finding.variant, *seed).choices.len(), *seed));
            assert_eq!(shortest, Some(finding.seed));
            assert_eq!(failing.first().copied(), finding.hits.iter().map(|hits| hits.seed).min());
            assert_eq!(finding.hits.iter().map(|hits| hits.schedules).sum::<u64>(), finding.schedules);
        }
    }

    #[test]
    fn bounds_are_given_for_pct_only_and_only_when_no_schedule_was_longer() {
        let portfolio = Portfolio::of(&[Drawn::Pct(3), Drawn::Pos]).expect("two");
        let options = Options { portfolio, ..Options::default() };
        let found = summary(&all(&Explorer::new(options.clone(), flawed), 0..10));
        let [bound] = found.bounds()[..] else { panic!("{:?}", found.bounds()) };
        assert_eq!((bound.depth, bound.actors, bound.schedules), (3, 3, 320));
        let longest = found.tallies.iter().map(|tally| tally.longest).max().map_or(0, u64::from);
        assert!(longest > 0 && bound.moves >= longest, "{bound:?}, {longest} moves");
        // Schedules that are given up could have been longer.
        let short = Options { moves_max: 15, ..options };
        let found = summary(&all(&Explorer::new(short, flawed), 0..10));
        assert_eq!(found.bounds(), []);
        assert_eq!(
            found.endings.iter().map(|count| (count.signature.verdict.as_str(), count.schedules)).collect::<Vec<_>>(),
            [("stall", 640)]
        );
        assert_eq!(found.findings, []);
    }

    #[test]
    fn what_was_delivered_when_a_search_is_stopped_is_what_a_whole_one_delivers() {
        let options = Options { threads: 3, block_len: 8, ..Options::default() };
        let whole = all(&Explorer::new(options.clone(), flawed), 0..50);
        let mut delivered = Vec::new();
        let explorer = Explorer::new(options, flawed);
        let finish = explorer.run(0.., &AtomicBool::new(false), |result| {
            delivered.push(result);
            if delivered.len() == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((finish, &delivered[..]), (Finish::Stopped, &whole[..20]));
        delivered.clear();
        let stop = AtomicBool::new(false);
        let finish = explorer.run(0.., &stop, |result| {
            delivered.push(result);
            stop.store(delivered.len() >= 20, Ordering::Relaxed);
            ControlFlow::Continue(())
        });
        assert_eq!(finish, Finish::Stopped);
        assert!(delivered.len() >= 20 && delivered[..20] == whole[..20]);
    }

    #[test]
    fn a_panic_of_a_system_ends_the_search() {
        let options = Options { threads: 3, variants: 3, ..Options::default() };
        let explorer = Explorer::new(options, |variant| if variant == 2 { panic!("no such system") } else { flawed(variant) });
        let search = || explorer.run(0.., &AtomicBool::new(false), |_| ControlFlow::Continue(()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(search)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn results_add_up_in_any_order(seed in any::<u64>(), order in Just((0..9u64).collect::<Vec<_>>()).prop_shuffle(), cut in 0..=9usize) {
            let options = Options { seed, block_len: 5, variants: 3, ..Options::default() };
            let results = all(&Explorer::new(options, flawed), 0..9);
            let whole = summary(&results);
            let shuffled: Vec<BlockResult> = order.iter().map(|block| results[*block as usize].clone()).collect();
            let (mut left, right) = (summary(&shuffled[..cut]), summary(&shuffled[cut..]));
            prop_assert_eq!(left.merge(&right), Ok(()));
            prop_assert_eq!(&left, &whole);
            let text = serde_json::to_string(&whole).expect("plain data");
            prop_assert_eq!(&serde_json::from_str::<Summary>(&text).expect("as written"), &whole);
            if let Some(repeated) = shuffled.last() {
                prop_assert_eq!(left.add(repeated), Err(Repeated { block: repeated.block }));
                prop_assert!(left.merge(&right).is_err() || cut == 9);
                prop_assert_eq!(&left, &whole);
            }
        }

        #[test]
        fn known_ground_gives_what_the_system_gives(
            seed in any::<u64>(),
            flaw in prop::sample::select(vec![Flaw::None, Flaw::StopSkipped, Flaw::StopUnlocked]),
            rounds in 1..4u8,
            noise in 0..4u8,
            memory_bytes in prop::sample::select(vec![0u64, 3_000, 40_000, 1 << 24]),
            saved_bytes in prop::sample::select(vec![1u64, 1_000, 1 << 30]),
            moves_max in prop::sample::select(vec![7u32, 12, 1_000]),
        ) {
            let options = |graph| Options { seed, graph, moves_max, ..Options::default() };
            let toy = |_| Celled::new(flaw, Size { rounds, noise });
            let known = Explorer::new(options(Some(GraphLimits { memory_bytes, saved_bytes })), toy);
            prop_assert_eq!(all(&known, 0..6), all(&Explorer::new(options(None), toy), 0..6));
        }
    }
}
