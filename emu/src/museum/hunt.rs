//! How many schedules a strategy needs to come upon a fault, from scenarios that neither order nor inject anything that would help.
//!
//! The model has failures of its own, without any fault: those of the systems that it is a model of. A failure counts for a fault only if the same
//! search does not find it without the fault, and if the very schedule does not end in the same way without it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use host::fault::{Fault, FaultSet};

use super::asking::Asking;
use super::{ends_all, verdict_of};
use crate::outcome::Blame;
use crate::scenario::Scenario;
use crate::search::block::{BlockResult, Finding, Signature};
use crate::search::explore::{Explorer, Options};
use crate::search::graph::GraphLimits;
use crate::search::strategy::{Portfolio, Strategy};
use crate::search::{Subject, System, walk};

/// The strategies that are compared.
pub const STRATEGIES: [Strategy; 6] =
    [Strategy::Pos, Strategy::Urw, Strategy::Random, Strategy::Pct(2), Strategy::Pct(3), Strategy::Pct(5)];

/// Schedules in a turn of one neutral scenario.
pub const BLOCK_LEN: u32 = 32;

/// After how many moves a schedule is given up.
pub const MOVES_MAX: u32 = 1_000;

/// Bytes that a saved state takes, about.
const SAVED_BYTES: u64 = 64 << 10;

/// A scenario to search from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neutral {
    /// The scenario.
    pub scenario: Scenario,
    /// What is found in it without a fault, by any strategy.
    pub known: BTreeSet<Signature>,
    /// Faults that each of its variants asks for; `None`: not known. With a fault that it does not ask for, a variant has no turn.
    pub asks: Option<Vec<FaultSet>>,
}

impl Neutral {
    /// Takes a scenario to search from. Faults that it varies are left out: nothing is to be found by chance that stands for another fault.
    pub fn new(mut scenario: Scenario) -> Self {
        scenario.vary.faults.clear();
        Self { scenario, known: BTreeSet::new(), asks: None }
    }

    /// Returns how many of its variants are searched.
    fn variants(&self) -> u64 {
        /// A search has far fewer blocks.
        const VARIANTS_MAX: u64 = 1 << 16;
        self.scenario.variants_count().min(VARIANTS_MAX)
    }

    /// Returns the variants that ask for a fault, as far as that is known.
    fn asking(&self, fault: Option<Fault>) -> Vec<u64> {
        let asks = |variant: &u64| match (&self.asks, fault) {
            // None is known where the search without a fault fell over.
            (Some(asks), Some(fault)) => asks.get(*variant as usize).is_some_and(|asks| asks.contains(fault)),
            (None, _) | (_, None) => true,
        };
        (0..self.variants()).filter(asks).collect()
    }
}

/// A search of the neutral scenarios, in turns, with one fault, by one strategy.
#[derive(Debug, Clone)]
pub struct Hunt<S> {
    /// What makes systems of scenarios.
    pub subject: S,
    /// The scenarios.
    pub neutrals: Arc<Vec<Neutral>>,
    /// What is switched on.
    pub fault: Option<Fault>,
    /// How schedules are drawn.
    pub strategy: Strategy,
    /// How many at most, up to the next whole block.
    pub schedules: u64,
    /// The first one's seed.
    pub seed: u64,
    /// How much may be kept of what is known of states. Changes no result.
    pub memory_bytes: u64,
}

/// A way to fail, and when it was first seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct First {
    /// The schedule's number, from 1.
    pub schedule: u64,
    /// Index of the neutral scenario.
    pub neutral: usize,
    /// How it fails.
    pub signature: Signature,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hunted {
    /// Schedules that were run.
    pub schedules: u64,
    /// Ways to fail that count, in the order in which they came.
    pub found: Vec<First>,
    /// Ways to fail that were not known, though their schedules end in the same way without the fault.
    pub without: Vec<First>,
    /// Faults that were asked for, by neutral scenario and variant.
    pub asked: Vec<Vec<FaultSet>>,
}

impl Hunted {
    /// Returns the first schedule that counts, if any.
    pub fn first(&self) -> Option<u64> {
        self.found.iter().map(|first| first.schedule).min()
    }

    /// Returns the first one that shows the fault's effect as such, if any.
    pub fn first_as_such(&self, fault: Fault) -> Option<u64> {
        self.found.iter().filter(|first| is_as_such(&first.signature, fault)).map(|first| first.schedule).min()
    }
}

/// Returns whether a failure is a fault's effect as such, by the host's fault.
fn is_as_such(signature: &Signature, fault: Fault) -> bool {
    let verdict = verdict_of(fault.effect());
    signature.verdict == verdict.name() && (ends_all(verdict) || signature.blame.as_deref() == Some(Blame::Host.name()))
}

impl<S: Subject> Hunt<S> {
    /// Searches, until the fault's effect has been seen as such; without a fault, to the end of the budget, and until all have had a turn. Blocks are whole,
    /// and the same each time.
    pub fn run(&self) -> Hunted {
        let turns = turns(&self.neutrals, self.fault);
        let options = Options {
            seed: self.seed,
            block_len: BLOCK_LEN,
            moves_max: MOVES_MAX,
            portfolio: Portfolio::of(&[self.strategy]).expect("one strategy"),
            variants: turns.len() as u32,
            threads: 1,
            graph: Some(GraphLimits { memory_bytes: self.memory_bytes, saved_bytes: SAVED_BYTES }),
        };
        let asked: Vec<Vec<Arc<Mutex<FaultSet>>>> =
            self.neutrals.iter().map(|neutral| (0..neutral.variants()).map(|_| Arc::default()).collect()).collect();
        let explorer = Explorer::new(options, |variant| {
            let turn = turns[variant as usize];
            Asking::new(self.subject.open(&self.scenario(turn, self.fault)), Arc::clone(&asked[turn.neutral][turn.variant as usize]))
        });
        let all = if self.fault.is_none() { turns.len() as u64 } else { 0 };
        let blocks = self.schedules.div_ceil(BLOCK_LEN.into()).max(all);
        let mut hunted = Hunted::default();
        let mut seen: Vec<BTreeSet<Signature>> = self.neutrals.iter().map(|neutral| neutral.known.clone()).collect();
        explorer.run(0..blocks, &AtomicBool::new(false), |result| {
            hunted.schedules += u64::from(result.schedules);
            self.take(&result, turns[result.variant as usize], &mut seen, &mut hunted);
            let over = self.fault.is_some_and(|fault| hunted.first_as_such(fault).is_some());
            if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let told = |asked: &Arc<Mutex<FaultSet>>| *asked.lock().unwrap_or_else(PoisonError::into_inner);
        hunted.asked = asked.iter().map(|variants| variants.iter().map(told).collect()).collect();
        hunted
    }

    /// Takes in what a block has found that was not seen before.
    fn take(&self, result: &BlockResult, turn: Turn, seen: &mut [BTreeSet<Signature>], hunted: &mut Hunted) {
        let first = |finding: &Finding| First {
            schedule: finding.hits.iter().map(|hits| hits.seed.wrapping_sub(self.seed) + 1).min().expect("it was found by something"),
            neutral: turn.neutral,
            signature: finding.signature.clone(),
        };
        let new: Vec<&Finding> = result.findings.iter().filter(|finding| !seen[turn.neutral].contains(&finding.signature)).collect();
        for finding in new {
            seen[turn.neutral].insert(finding.signature.clone());
            let list = if self.needs_no_fault(finding, turn) { &mut hunted.without } else { &mut hunted.found };
            list.push(first(finding));
        }
        hunted.found.sort();
        hunted.without.sort();
    }

    /// Returns whether a schedule ends in the same way without the fault.
    fn needs_no_fault(&self, finding: &Finding, turn: Turn) -> bool {
        if self.fault.is_none() {
            return false;
        }
        let mut system = self.subject.open(&self.scenario(turn, None));
        let root = system.save();
        let ending = walk::replay(&mut system, &root, &finding.choices, &mut ());
        ending.is_ok_and(|ending| ending.is_some_and(|ending| Signature::from(&ending) == finding.signature))
    }

    fn scenario(&self, turn: Turn, fault: Option<Fault>) -> Scenario {
        let mut scenario = self.neutrals[turn.neutral].scenario.variant(turn.variant);
        scenario.add_faults(fault.as_slice());
        scenario
    }
}

/// Whose block it is: a neutral scenario, and one of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    neutral: usize,
    variant: u64,
}

/// Returns the order of turns: each scenario that asks for the fault as often as any other, and all of its variants that do.
fn turns(neutrals: &[Neutral], fault: Option<Fault>) -> Vec<Turn> {
    let asking: Vec<(usize, Vec<u64>)> =
        neutrals.iter().map(|neutral| neutral.asking(fault)).enumerate().filter(|(_, variants)| !variants.is_empty()).collect();
    let rounds = asking.iter().map(|(_, variants)| variants.len()).max().expect("a scenario to search from");
    let round =
        |round: usize| asking.iter().map(move |(neutral, variants)| Turn { neutral: *neutral, variant: variants[round % variants.len()] });
    (0..rounds).flat_map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_take_turns_and_each_has_all_its_variants() {
        let neutral = |vary: &str| {
            let text = format!("about = \"a\"\n[vary]\n{vary}\n");
            Neutral::new(crate::scenario::parse("a.toml", &text).unwrap_or_else(|problems| panic!("{}", problems.render(false))))
        };
        let neutrals = [neutral("vcpus = [1, 2, 3]"), neutral("faults = [\"hint-keeps-k\"]"), neutral("driver = [\"hint\"]")];
        let turns: Vec<(usize, u64)> = turns(&neutrals, None).into_iter().map(|turn| (turn.neutral, turn.variant)).collect();
        assert_eq!(turns, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 0), (2, 0), (0, 2), (1, 0), (2, 0)]);
    }

    #[test]
    fn a_scenario_that_does_not_ask_for_a_fault_has_no_turn_with_it() {
        let scenario = crate::scenario::parse("a.toml", "about = \"a\"\n").unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let asks = |faults: &[Fault]| Neutral { asks: Some(vec![faults.iter().copied().collect()]), ..Neutral::new(scenario.clone()) };
        let neutrals = [asks(&[Fault::HintKeepsK]), asks(&[Fault::HintNoDone, Fault::HintKeepsK]), Neutral::new(scenario.clone())];
        let of = |fault: Option<Fault>| turns(&neutrals, fault).into_iter().map(|turn| turn.neutral).collect::<Vec<_>>();
        assert_eq!(of(Some(Fault::HintKeepsK)), [0, 1, 2]);
        assert_eq!(of(Some(Fault::HintNoDone)), [1, 2]);
        assert_eq!(of(None), [0, 1, 2]);
        let text = "about = \"a\"\n[vary]\nvcpus = [1, 2, 3]\n";
        let varied = crate::scenario::parse("a.toml", text).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let by_variant = [&[][..], &[Fault::HintNoDone], &[Fault::HintNoDone]].map(|faults| faults.iter().copied().collect());
        let varied = Neutral { asks: Some(by_variant.to_vec()), ..Neutral::new(varied) };
        let turns = turns(&[varied, asks(&[Fault::HintNoDone])], Some(Fault::HintNoDone));
        assert_eq!(turns.iter().map(|turn| (turn.neutral, turn.variant)).collect::<Vec<_>>(), [(0, 1), (1, 0), (0, 2), (1, 0)]);
    }
}
