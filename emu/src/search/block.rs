//! What a search has seen, as plain data: of one block of seeds, and of many.
//!
//! Sums, minima and unions only: results may be put together in any order, and by anybody.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::bound::Bound;
use super::coverage::{Coverage, Distinct};
use super::results;
use super::strategy::Strategy;
use super::system::Ending;

/// How a run ended, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// The verdict.
    pub verdict: String,
    /// The rule that was broken, if one was.
    pub rule: Option<String>,
    /// Whose fault that is.
    pub blame: Option<String>,
    /// How it came about.
    pub cause: Option<String>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, rule, blame, cause } = self;
        let blame = blame.as_ref().map(|blame| format!("blame {blame}"));
        let parts = [Some(verdict.clone()), rule.clone(), blame, cause.clone()];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl From<&Ending> for Signature {
    fn from(ending: &Ending) -> Self {
        let Ending { verdict, rule, blame, cause } = ending;
        Self {
            verdict: verdict.name().to_owned(),
            rule: rule.map(str::to_owned),
            blame: blame.map(|blame| blame.name().to_owned()),
            cause: cause.map(str::to_owned),
        }
    }
}

/// How many schedules ended so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingCount {
    /// The variant.
    pub variant: u32,
    /// How.
    pub signature: Signature,
    /// Schedules.
    pub schedules: u64,
}

/// What one strategy did on one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The variant.
    pub variant: u32,
    /// The strategy.
    pub strategy: Strategy,
    /// Schedules that were drawn.
    pub schedules: u64,
    /// Their moves.
    pub moves: u64,
    /// Moves of the longest.
    pub longest: u32,
    /// Schedules that failed.
    pub failures: u64,
    /// Ids of all that could move, sorted; of PCT only.
    pub ids: Vec<u16>,
    /// Moves over which PCT draws its change points.
    pub horizon: u32,
    /// Schedules that had more moves than that, or were given up.
    pub beyond: u64,
}

impl Tally {
    /// Returns a tally of nothing.
    pub(super) fn new(variant: u32, strategy: Strategy, horizon: u32) -> Self {
        Self { variant, strategy, schedules: 0, moves: 0, longest: 0, failures: 0, ids: Vec::new(), horizon, beyond: 0 }
    }

    /// Takes in the ids that were offered in a schedule.
    pub(super) fn saw(&mut self, ids: impl Iterator<Item = u16>) {
        for id in ids {
            if let Err(at) = self.ids.binary_search(&id) {
                self.ids.insert(at, id);
            }
        }
    }
}

/// How one strategy came upon a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// The strategy.
    pub strategy: Strategy,
    /// Schedules that ended so.
    pub schedules: u64,
    /// The lowest seed.
    pub seed: u64,
}

/// A way to fail, on one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The variant.
    pub variant: u32,
    /// How it fails.
    pub signature: Signature,
    /// The seed of the shortest schedule that fails so, the lowest of several: there is least to be shrunk in it.
    pub seed: u64,
    /// How that was drawn.
    pub strategy: Strategy,
    /// Its choices' ids.
    pub choices: Vec<u16>,
    /// Schedules that fail so.
    pub schedules: u64,
    /// By strategy, sorted.
    pub hits: Vec<Hits>,
}

/// What a block of consecutive seeds has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockResult {
    /// The block's number.
    pub block: u64,
    /// Which variant of the system was searched.
    pub variant: u32,
    /// The first seed.
    pub seed: u64,
    /// Schedules, one for each seed.
    pub schedules: u32,
    /// By strategy, sorted.
    pub tallies: Vec<Tally>,
    /// By ending, sorted.
    pub endings: Vec<EndingCount>,
    /// Distinct final states.
    pub states: Distinct,
    /// Orders that were seen.
    pub coverage: Coverage,
    /// Ways to fail, sorted.
    pub findings: Vec<Finding>,
}

impl BlockResult {
    /// Returns a block of which nothing is known.
    pub(super) fn new(block: u64, variant: u32, seed: u64, schedules: u32) -> Self {
        let (tallies, endings, findings) = (Vec::new(), Vec::new(), Vec::new());
        Self { block, variant, seed, schedules, tallies, endings, states: Distinct::default(), coverage: Coverage::default(), findings }
    }

    /// Takes in what a strategy did.
    pub(super) fn count(&mut self, tally: &Tally) {
        add_up(&mut self.tallies, std::slice::from_ref(tally));
    }

    /// Takes in how some schedules ended.
    pub(super) fn ended(&mut self, signature: Signature, schedules: u64) {
        let count = EndingCount { variant: self.variant, signature, schedules };
        add_up(&mut self.endings, &[count]);
    }

    /// Takes in a failure.
    pub(super) fn failed(&mut self, finding: &Finding) {
        add_up(&mut self.findings, std::slice::from_ref(finding));
    }
}

impl results::Block for BlockResult {
    type Total = Summary;

    fn number(&self) -> u64 {
        self.block
    }

    fn total<'a>(blocks: impl Iterator<Item = &'a Self>) -> Summary {
        let mut summary = Summary::default();
        blocks.for_each(|block| summary.add(block).expect("each number once"));
        summary
    }
}

/// Numbers of blocks, as ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Blocks {
    /// First and last, sorted; between two ranges at least one number is missing.
    ranges: Vec<(u64, u64)>,
}

impl TryFrom<Vec<(u64, u64)>> for Blocks {
    type Error = &'static str;

    fn try_from(ranges: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let whole = ranges.iter().all(|(first, last)| first <= last);
        let apart = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0 && pair[1].0 - pair[0].1 > 1);
        if whole && apart { Ok(Self { ranges }) } else { Err("ranges of blocks that are not sorted, or touch") }
    }
}

impl From<Blocks> for Vec<(u64, u64)> {
    fn from(blocks: Blocks) -> Self {
        blocks.ranges
    }
}

impl Blocks {
    /// Returns whether a block is among them.
    pub fn has(&self, block: u64) -> bool {
        let behind = self.ranges.partition_point(|(first, _)| *first <= block);
        behind > 0 && self.ranges[behind - 1].1 >= block
    }

    /// Returns how many there are.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Returns the ranges: first and last.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Adds a block that is not among them.
    fn add(&mut self, block: u64) {
        assert!(!self.has(block), "block {block} twice");
        let at = self.ranges.partition_point(|(first, _)| *first < block);
        let follows = at > 0 && self.ranges[at - 1].1 + 1 == block;
        let leads = self.ranges.get(at).is_some_and(|(first, _)| *first == block + 1);
        match (follows, leads) {
            (true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (true, false) => self.ranges[at - 1].1 = block,
            (false, true) => self.ranges[at].0 = block,
            (false, false) => self.ranges.insert(at, (block, block)),
        }
    }

    /// Returns the first block that is in both.
    fn first_common(&self, other: &Blocks) -> Option<u64> {
        let common = |(first, last): &(u64, u64)| {
            let at = other.ranges.partition_point(|(_, end)| end < first);
            other.ranges.get(at).filter(|(start, _)| start <= last).map(|(start, _)| *start.max(first))
        };
        self.ranges.iter().find_map(common)
    }

    /// Adds blocks of which none is among them.
    fn join(&mut self, other: &Blocks) {
        self.ranges.extend_from_slice(&other.ranges);
        self.ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.drain(..) {
            match joined.last_mut().filter(|before| before.1 + 1 == first) {
                Some(before) => before.1 = last,
                None => joined.push((first, last)),
            }
        }
        self.ranges = joined;
    }
}

/// A block whose result is there already: adding it again would count it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// The block's number.
    pub block: u64,
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} is there twice", self.block)
    }
}

impl std::error::Error for Repeated {}

/// What all blocks so far have shown: the same in whatever order they were added. All must be of one scenario, one build and one [`Options`], but for
/// the number of threads and the memory.
///
/// [`Options`]: super::explore::Options
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Which blocks.
    pub blocks: Blocks,
    /// By variant and strategy, sorted.
    pub tallies: Vec<Tally>,
    /// By variant and ending, sorted.
    pub endings: Vec<EndingCount>,
    /// Distinct final states.
    pub states: Distinct,
    /// Orders that were seen.
    pub coverage: Coverage,
    /// Ways to fail, by variant and signature, sorted.
    pub findings: Vec<Finding>,
}

impl Summary {
    /// Adds a block's result. When it is there already, nothing changes.
    pub fn add(&mut self, result: &BlockResult) -> Result<(), Repeated> {
        if self.blocks.has(result.block) {
            return Err(Repeated { block: result.block });
        }
        self.blocks.add(result.block);
        self.take_in(&result.tallies, &result.endings, &result.findings);
        self.states.merge(&result.states);
        self.coverage.merge(&result.coverage);
        Ok(())
    }

    /// Adds what other blocks have shown. When one of them is there already, nothing changes.
    pub fn merge(&mut self, other: &Summary) -> Result<(), Repeated> {
        if let Some(block) = self.blocks.first_common(&other.blocks) {
            return Err(Repeated { block });
        }
        self.blocks.join(&other.blocks);
        self.take_in(&other.tallies, &other.endings, &other.findings);
        self.states.merge(&other.states);
        self.coverage.merge(&other.coverage);
        Ok(())
    }

    fn take_in(&mut self, tallies: &[Tally], endings: &[EndingCount], findings: &[Finding]) {
        add_up(&mut self.tallies, tallies);
        add_up(&mut self.endings, endings);
        add_up(&mut self.findings, findings);
    }

    /// Returns how many schedules were run.
    pub fn schedules(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.schedules).sum()
    }

    /// Returns how many moves were made.
    pub fn moves(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.moves).sum()
    }

    /// Returns what can be said of defects that were not found, where anything can: by variant and depth.
    pub fn bounds(&self) -> Vec<Bound> {
        let bound = |tally: &Tally| match tally.strategy {
            Strategy::Pct(depth) if tally.beyond == 0 && tally.schedules > 0 => Some(Bound {
                variant: tally.variant,
                depth,
                actors: tally.ids.len() as u64,
                moves: tally.horizon.into(),
                schedules: tally.schedules,
            }),
            Strategy::Pct(_) | Strategy::Pos | Strategy::Urw | Strategy::Random => None,
        };
        self.tallies.iter().filter_map(bound).collect()
    }
}

/// What a list is sorted by.
trait Keyed {
    type Key<'a>: Ord
    where
        Self: 'a;

    fn key(&self) -> Self::Key<'_>;

    /// Takes in another of the same key.
    fn join(&mut self, other: &Self);
}

/// Adds elements to a list that is sorted by key, joining those of the same key.
fn add_up<T: Keyed + Clone>(list: &mut Vec<T>, others: &[T]) {
    for other in others {
        match list.binary_search_by(|element| element.key().cmp(&other.key())) {
            Ok(at) => list[at].join(other),
            Err(at) => list.insert(at, other.clone()),
        }
    }
}

impl Keyed for Tally {
    type Key<'a> = (u32, Strategy);

    fn key(&self) -> (u32, Strategy) {
        (self.variant, self.strategy)
    }

    fn join(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.moves += other.moves;
        self.longest = self.longest.max(other.longest);
        self.failures += other.failures;
        if self.ids != other.ids {
            self.ids.extend_from_slice(&other.ids);
            self.ids.sort_unstable();
            self.ids.dedup();
        }
        self.horizon = self.horizon.max(other.horizon);
        self.beyond += other.beyond;
    }
}

impl Keyed for EndingCount {
    type Key<'a> = (u32, &'a Signature);

    fn key(&self) -> (u32, &Signature) {
        (self.variant, &self.signature)
    }

    fn join(&mut self, other: &Self) {
        self.schedules += other.schedules;
    }
}

impl Keyed for Hits {
    type Key<'a> = Strategy;

    fn key(&self) -> Strategy {
        self.strategy
    }

    fn join(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.seed = self.seed.min(other.seed);
    }
}

impl Keyed for Finding {
    type Key<'a> = (u32, &'a Signature);

    fn key(&self) -> (u32, &Signature) {
        (self.variant, &self.signature)
    }

    fn join(&mut self, other: &Self) {
        if (other.choices.len(), other.seed) < (self.choices.len(), self.seed) {
            (self.seed, self.strategy) = (other.seed, other.strategy);
            self.choices.clone_from(&other.choices);
        }
        self.schedules += other.schedules;
        add_up(&mut self.hits, &other.hits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_as_ranges_whatever_their_order() {
        let of = |numbers: &[u64]| {
            let mut blocks = Blocks::default();
            numbers.iter().for_each(|block| blocks.add(*block));
            blocks
        };
        let blocks = of(&[5, 1, 3, 2, 9, 6]);
        assert_eq!(blocks.ranges(), [(1, 3), (5, 6), (9, 9)]);
        assert_eq!(blocks.count(), 6);
        assert_eq!((0..11).filter(|block| blocks.has(*block)).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 9]);
        assert_eq!(blocks.first_common(&of(&[0, 4, 7, 8])), None);
        assert_eq!(blocks.first_common(&of(&[4, 6, 9])), Some(6));
        let mut joined = of(&[0, 4, 8]);
        joined.join(&blocks);
        assert_eq!(joined.ranges(), [(0, 6), (8, 9)]);
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        let read = |text: &str| serde_json::from_str::<Blocks>(text);
        assert_eq!(read("[[1,3],[5,6]]").expect("sorted").count(), 5);
        for text in ["[[3,1]]", "[[1,3],[4,5]]", "[[5,6],[1,3]]", "[[1,3],[2,9]]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
