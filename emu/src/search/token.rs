//! What replays a schedule: its strategy, its seed, and the scenario that it was drawn for, in one word.
//!
//! A token holds for the build that printed it: a search that draws otherwise draws another schedule from it. What lasts is the scenario file.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use super::base32;
use super::strategy::Strategy;
use crate::scenario::{self, Scenario};

/// Says what the word is, and in which version.
const PREFIX: &str = "lp1:";
/// Digits of a scenario's fingerprint: 40 bits.
const FINGERPRINT_DIGITS: u32 = 8;

/// `lp1:<strategy>:<seed>-<scenario>`, both numbers in base 32: at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    strategy: Strategy,
    seed: u64,
    fingerprint: String,
}

impl Token {
    /// Returns the token of a strategy's schedule.
    pub fn new(strategy: Strategy, seed: u64, scenario: &Scenario) -> Self {
        Self { strategy, seed, fingerprint: fingerprint(scenario) }
    }

    /// Returns the strategy.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns whether the schedule was drawn for this scenario, whatever its file says it is about.
    pub fn is_of(&self, scenario: &Scenario) -> bool {
        self.fingerprint == fingerprint(scenario)
    }
}

/// Returns a scenario's fingerprint: a hash of its values, so that neither comments nor layout change it.
fn fingerprint(scenario: &Scenario) -> String {
    let scenario = Scenario { about: String::new(), found: None, ..scenario.clone() };
    base32::short(xxh3_64(scenario::to_toml(&scenario).as_bytes()), FINGERPRINT_DIGITS)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}-{}", self.strategy, base32::format(self.seed), self.fingerprint)
    }
}

/// A word that is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoToken(pub String);

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no seed of a schedule: expected {PREFIX}<strategy>:<seed>-<scenario>", self.0)
    }
}

impl std::error::Error for NoToken {}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(word: &str) -> Result<Self, NoToken> {
        let parts = || {
            let (strategy, rest) = word.strip_prefix(PREFIX)?.rsplit_once(':')?;
            let (seed, fingerprint) = rest.split_once('-')?;
            let known = fingerprint.len() == FINGERPRINT_DIGITS as usize && base32::parse(&format!("1{fingerprint}")).is_some();
            let (strategy, seed) = (strategy.parse().ok()?, base32::parse(seed)?);
            known.then(|| Self { strategy, seed, fingerprint: fingerprint.to_owned() })
        };
        parts().ok_or_else(|| NoToken(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::strategy::Strategy;
    use proptest::prelude::*;

    fn scenario(text: &str) -> Scenario {
        scenario::parse("test.toml", text).expect("a scenario")
    }

    proptest! {
        #[test]
        fn a_token_is_read_back(depth in 1..=Strategy::DEPTH_MAX, seed: u64) {
            let token = Token::new(Strategy::Pct(depth), seed, &scenario("about = \"x\""));
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn no_word_breaks_the_reader(word in "(lp1:)?[a-z0-9:é-]{0,30}") {
            if let Ok(token) = word.parse::<Token>() {
                prop_assert_eq!(token.to_string(), word);
            }
        }
    }

    #[test]
    fn the_longest_token_fits() {
        for strategy in [Strategy::Pos, Strategy::Urw, Strategy::Random, Strategy::Pct(Strategy::DEPTH_MAX)] {
            let text = Token::new(strategy, u64::MAX, &scenario("about = \"x\"")).to_string();
            assert!(text.len() <= 40, "{text}");
        }
        let token = Token::new(Strategy::Pct(3), 0x1_2345, &scenario("about = \"x\""));
        assert!(token.to_string().starts_with("lp1:pct:3:28t5-"), "{token}");
        assert_eq!((token.strategy(), token.seed()), (Strategy::Pct(3), 0x1_2345));
    }

    #[test]
    fn a_token_knows_its_scenario_by_its_values() {
        let token = Token::new(Strategy::Pos, 1, &scenario("about = \"x\""));
        assert!(token.is_of(&scenario("# noted\nabout = \"another text\"\n[guest]\nvcpus = 2")));
        assert!(!token.is_of(&scenario("about = \"x\"\n[guest]\nvcpus = 1")));
    }

    #[test]
    fn what_is_no_token_is_named() {
        let words =
            "lp1: lp2:pos:1-00000000 lp1:pos:1 lp1::1-00000000 lp1:pos:01-00000000 lp1:pos:1-000 lp1:POS:1-00000000 lp1:pct:0:1-00000000";
        for bad in words.split(' ').chain([""]) {
            let problem = bad.parse::<Token>().expect_err(bad);
            assert!(problem.to_string().contains("lp1:<strategy>"), "{problem}");
        }
    }
}
