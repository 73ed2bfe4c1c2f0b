//! Who moves next, when nobody says: ways of drawing a schedule.
//!
//! No single one is safe: each has defects that it hardly ever finds. So a [`Portfolio`] deals them out by seed, with [`Strategy::Pos`] as the backbone.

mod pct;
mod pos;
mod random;
mod urw;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::draw::Draw;
use super::system::{Choice, Objects};
use super::walk::Pilot;
use pct::Pct;
use pos::Pos;
use urw::Urw;

/// A way of drawing a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Strategy {
    /// Partial order sampling: a random priority for each move that waits, drawn again when a move before it conflicts with it.
    Pos,
    /// Random walk that weighs each actor by the moves it is expected to have before it: close to uniform over schedules.
    Urw,
    /// Random walk: each move that can be made is as likely.
    Random,
    /// Probabilistic concurrency testing with this depth: a random priority for each actor, lowered at `depth - 1` random moves.
    Pct(u8),
}

impl Strategy {
    /// The largest depth of [`Strategy::Pct`].
    pub const DEPTH_MAX: u8 = 64;

    /// The name of the strategy's random numbers.
    fn stream(self) -> &'static str {
        match self {
            Strategy::Pos => "pos",
            Strategy::Urw => "urw",
            Strategy::Random => "random",
            Strategy::Pct(_) => "pct",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strategy::Pos | Strategy::Urw | Strategy::Random => f.write_str(self.stream()),
            Strategy::Pct(depth) => write!(f, "pct:{depth}"),
        }
    }
}

/// A word that names no strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStrategy(pub String);

impl fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no strategy: expected pos, urw, random, or pct:1 to pct:{}", self.0, Strategy::DEPTH_MAX)
    }
}

impl std::error::Error for UnknownStrategy {}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(word: &str) -> Result<Self, UnknownStrategy> {
        let simple = [Strategy::Pos, Strategy::Urw, Strategy::Random].into_iter().find(|strategy| strategy.stream() == word);
        let depth = || word.strip_prefix("pct:")?.parse().ok().filter(|depth| (1..=Self::DEPTH_MAX).contains(depth));
        // One spelling for each: what is printed is what was read.
        let pct = || depth().map(Strategy::Pct).filter(|strategy| strategy.to_string() == word);
        simple.or_else(pct).ok_or_else(|| UnknownStrategy(word.to_owned()))
    }
}

impl From<Strategy> for String {
    fn from(strategy: Strategy) -> String {
        strategy.to_string()
    }
}

impl TryFrom<String> for Strategy {
    type Error = UnknownStrategy;

    fn try_from(word: String) -> Result<Self, UnknownStrategy> {
        word.parse()
    }
}

/// Which seed is drawn how: strategies that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portfolio(Vec<Strategy>);

impl Portfolio {
    /// Returns a portfolio of these, in turns; one that is given twice has two turns. `None` of nothing.
    pub fn of(turns: &[Strategy]) -> Option<Self> {
        (!turns.is_empty()).then(|| Self(turns.to_vec()))
    }

    /// Returns the strategy of a seed.
    pub fn strategy(&self, seed: u64) -> Strategy {
        self.0[(seed % self.0.len() as u64) as usize]
    }

    /// Returns the strategies in the order of their turns.
    pub fn turns(&self) -> &[Strategy] {
        &self.0
    }

    /// Returns the strategies, each once.
    pub fn strategies(&self) -> Vec<Strategy> {
        let mut strategies = self.0.clone();
        strategies.sort_unstable();
        strategies.dedup();
        strategies
    }
}

impl Default for Portfolio {
    /// Of sixteen seeds, six by POS, three by URW, two each at random and by PCT of depth 3 and 5, one by PCT of depth 2.
    fn default() -> Self {
        use Strategy::{Pct, Pos, Random, Urw};
        Self(vec![Pos, Urw, Pct(3), Pos, Random, Pct(5), Pos, Urw, Pct(2), Pos, Random, Pct(3), Pos, Urw, Pct(5), Pos])
    }
}

/// Draws schedules, one after the other: what the strategies remember within one.
#[derive(Debug, Clone)]
pub struct Scheduler {
    pilot: Pilot,
    strategy: Strategy,
    draw: Draw,
    pos: Pos,
    urw: Urw,
    pct: Pct,
}

impl Scheduler {
    /// Returns a scheduler for a system of which a pilot is known.
    pub fn new(pilot: Pilot) -> Self {
        let strategy = Strategy::Random;
        Self { pilot, strategy, draw: Draw::new(0, strategy.stream()), pos: Pos::default(), urw: Urw::default(), pct: Pct::default() }
    }

    /// Starts a schedule. What is drawn depends on nothing before.
    pub fn begin(&mut self, strategy: Strategy, seed: u64) {
        self.strategy = strategy;
        self.draw = Draw::new(seed, strategy.stream());
        match strategy {
            Strategy::Pos => self.pos.begin(),
            Strategy::Urw => self.urw.begin(),
            Strategy::Random => {}
            Strategy::Pct(depth) => self.pct.begin(&mut self.draw, depth, self.pilot.horizon()),
        }
    }

    /// Returns the index of the move to make.
    pub fn pick(&mut self, choices: &[Choice]) -> usize {
        assert!(!choices.is_empty(), "nothing to pick from");
        match self.strategy {
            Strategy::Pos => self.pos.pick(&mut self.draw, choices),
            Strategy::Urw => self.urw.pick(&mut self.draw, &self.pilot, choices),
            Strategy::Random => random::pick(&mut self.draw, choices),
            Strategy::Pct(_) => self.pct.pick(&mut self.draw, choices),
        }
    }

    /// Takes note of the move that was made, and of what it used.
    pub fn made(&mut self, choices: &[Choice], index: usize, used: &Objects) {
        match self.strategy {
            Strategy::Pos => self.pos.made(choices, index, used),
            Strategy::Urw => self.urw.made(choices[index].id),
            Strategy::Random | Strategy::Pct(_) => {}
        }
    }

    /// Returns the ids of all that could move in this schedule, if it is drawn by PCT; sorted.
    pub(super) fn pct_ids(&self) -> impl Iterator<Item = u16> {
        self.pct.ids()
    }

    /// Returns what is known of the system.
    pub fn pilot(&self) -> &Pilot {
        &self.pilot
    }
}

/// Returns the place of an id in a table by ids, which grows as needed.
fn of_id<T: Clone + Default>(table: &mut Vec<T>, id: u16) -> &mut T {
    let index = usize::from(id);
    if index >= table.len() {
        table.resize(index + 1, T::default());
    }
    &mut table[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for strategy in [Strategy::Pos, Strategy::Urw, Strategy::Random, Strategy::Pct(1), Strategy::Pct(64)] {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        for word in ["", "POS", "pct", "pct:", "pct:0", "pct:65", "pct:03", "pct:+3", "pos,urw"] {
            assert_eq!(word.parse::<Strategy>(), Err(UnknownStrategy(word.to_owned())));
        }
    }

    #[test]
    fn a_portfolio_deals_by_seed_and_has_pos_as_its_backbone() {
        let portfolio = Portfolio::default();
        let of_32 = |strategy| (100..132).filter(|seed| portfolio.strategy(*seed) == strategy).count();
        assert_eq!(portfolio.strategies().into_iter().map(of_32).collect::<Vec<_>>(), [12, 6, 4, 2, 4, 4]);
        let two = Portfolio::of(&[Strategy::Pos, Strategy::Pct(3)]).expect("two");
        assert_eq!([4, 5, 6].map(|seed| two.strategy(seed)), [Strategy::Pos, Strategy::Pct(3), Strategy::Pos]);
        assert_eq!(Portfolio::of(&[]), None);
    }
}
