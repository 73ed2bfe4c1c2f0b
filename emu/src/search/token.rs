//! What replays a schedule: its strategy, its seed, and the scenario that it was drawn for, in one word.
//!
//! A token holds for the build that printed it: a search that draws otherwise draws another schedule from it. What lasts is the scenario file.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use super::base32;
use crate::scenario::{self, Scenario};

/// Says what the word is, and in which version.
const PREFIX: &str = "lp1:";
/// Digits of a scenario's fingerprint: 35 bits.
const FINGERPRINT_DIGITS: u32 = 7;
/// Most characters of a strategy's name, so that no token is longer than [`Token::CHARS_MAX`].
const STRATEGY_CHARS_MAX: usize = 14;

/// `lp1:<strategy>:<seed>-<scenario>`, both numbers in base 32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    strategy: String,
    seed: u64,
    fingerprint: String,
}

impl Token {
    /// Most characters of a token.
    pub const CHARS_MAX: usize = PREFIX.len() + STRATEGY_CHARS_MAX + 1 + 13 + 1 + FINGERPRINT_DIGITS as usize;

    /// Returns the token of a strategy's schedule. The strategy is a short word of lower-case letters, digits and colons, as `pct:3`.
    pub fn new(strategy: &str, seed: u64, scenario: &Scenario) -> Self {
        assert!(is_strategy(strategy), "`{strategy}` does not fit into a token");
        Self { strategy: strategy.to_owned(), seed, fingerprint: fingerprint(scenario) }
    }

    /// Returns the strategy's name.
    pub fn strategy(&self) -> &str {
        &self.strategy
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

fn is_strategy(word: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b':';
    (1..=STRATEGY_CHARS_MAX).contains(&word.len()) && word.bytes().all(fits) && !word.starts_with(':') && !word.ends_with(':')
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
            let seed = base32::parse(seed)?;
            (known && is_strategy(strategy)).then(|| Self { strategy: strategy.to_owned(), seed, fingerprint: fingerprint.to_owned() })
        };
        parts().ok_or_else(|| NoToken(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scenario(text: &str) -> Scenario {
        scenario::parse("test.toml", text).expect("a scenario")
    }

    proptest! {
        #[test]
        fn a_token_is_short_and_read_back(strategy in "[a-z][a-z0-9]{0,8}(:[0-9]{1,2})?", seed: u64) {
            let token = Token::new(&strategy, seed, &scenario("about = \"x\""));
            let text = token.to_string();
            prop_assert!(text.len() <= 40, "{}", text);
            prop_assert_eq!(text.parse(), Ok(token));
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
        assert_eq!(Token::CHARS_MAX, 40);
        let token = Token::new("pct:3", 0x1_2345, &scenario("about = \"x\""));
        assert!(token.to_string().starts_with("lp1:pct:3:28t5-"), "{token}");
        assert_eq!((token.strategy(), token.seed()), ("pct:3", 0x1_2345));
    }

    #[test]
    fn a_token_knows_its_scenario_by_its_values() {
        let token = Token::new("pos", 1, &scenario("about = \"x\""));
        assert!(token.is_of(&scenario("# noted\nabout = \"another text\"\n[guest]\nvcpus = 2")));
        assert!(!token.is_of(&scenario("about = \"x\"\n[guest]\nvcpus = 1")));
    }

    #[test]
    fn what_is_no_token_is_named() {
        for bad in
            ["", "lp1:", "lp2:pos:1-0000000", "lp1:pos:1", "lp1::1-0000000", "lp1:pos:01-0000000", "lp1:pos:1-000", "lp1:POS:1-0000000"]
        {
            let problem = bad.parse::<Token>().expect_err(bad);
            assert!(problem.to_string().contains("lp1:<strategy>"), "{problem}");
        }
    }
}
