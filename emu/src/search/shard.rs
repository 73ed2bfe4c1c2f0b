//! Parts of a search or a suite: what one machine of several does.
//!
//! Which part something belongs to depends on itself alone, never on what else there is: it stays there when scenarios are added and budgets
//! grow. Results name their parts, so the hashes here are part of the format of result folders (`super::results`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A part, written `K/N`. Ordered by count, then number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Shard {
    /// Of how many.
    count: u64,
    /// Which, from 1.
    number: u64,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Shard = Shard { count: 1, number: 1 };

    /// Returns the part `number` of `count`, if there is one.
    pub fn new(number: u64, count: u64) -> Option<Shard> {
        (1 <= number && number <= count).then_some(Shard { count, number })
    }

    /// Returns which part it is, from 1.
    pub fn number(self) -> u64 {
        self.number
    }

    /// Returns how many parts there are.
    pub fn count(self) -> u64 {
        self.count
    }

    /// Returns whether a scenario of this name belongs to the part.
    pub fn has_name(self, name: &str) -> bool {
        xxh3_64(name.as_bytes()) % self.count == self.number - 1
    }

    /// Returns whether a block of a search with this seed base belongs to the part.
    pub fn has_block(self, seed: u64, block: u64) -> bool {
        shard_of(seed, block, self.count) == self.number
    }
}

/// Returns the part of `count`, from 1, that a block of a search belongs to: a hash of seed base and block number, both as eight bytes, little end
/// first, so that the parts are of even size and no part gets all blocks of one kind.
pub fn shard_of(seed: u64, block: u64, count: u64) -> u64 {
    assert!(count > 0, "no parts to choose from");
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&block.to_le_bytes());
    xxh3_64(&bytes) % count + 1
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        // One spelling for each: what is printed is what was read.
        let shard = parts.and_then(|(number, count)| Shard::new(number, count)).filter(|shard| shard.to_string() == text);
        shard.ok_or_else(|| "expected K/N with 1 ≤ K ≤ N".to_string())
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|expected| format!("{text} is no shard: {expected}"))
    }
}

/// Several parts of one search, each once. All parts of one count are the whole, whatever else there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Shard>")]
pub struct Shards(BTreeSet<Shard>);

impl Shards {
    /// Returns whether these parts are all there is.
    pub fn is_whole(&self) -> bool {
        self.0.contains(&Shard::WHOLE)
    }

    /// Returns whether a block of a search with this seed base belongs to one of the parts.
    pub fn has_block(&self, seed: u64, block: u64) -> bool {
        self.0.iter().any(|shard| shard.has_block(seed, block))
    }
}

impl FromIterator<Shard> for Shards {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let set: BTreeSet<Shard> = shards.into_iter().collect();
        let mut of_count: BTreeMap<u64, u64> = BTreeMap::new();
        for shard in &set {
            *of_count.entry(shard.count).or_default() += 1;
        }
        let whole = of_count.iter().any(|(count, known)| count == known);
        Self(if whole { BTreeSet::from([Shard::WHOLE]) } else { set })
    }
}

impl From<Vec<Shard>> for Shards {
    fn from(shards: Vec<Shard>) -> Self {
        shards.into_iter().collect()
    }
}

impl From<Shard> for Shards {
    fn from(shard: Shard) -> Self {
        Self::from_iter([shard])
    }
}

impl IntoIterator for &Shards {
    type Item = Shard;
    type IntoIter = std::vec::IntoIter<Shard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().copied().collect::<Vec<_>>().into_iter()
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Shard::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(text: &str) -> Shards {
        text.split(' ').map(|part| part.parse::<Shard>().expect("a shard")).collect()
    }

    /// Result folders of other machines and other days hold blocks by this rule. The values are those of another implementation of XXH3.
    #[test]
    fn the_shard_of_a_block_never_changes() {
        let of = |seed, count| (0..12).map(|block| shard_of(seed, block, count)).collect::<Vec<_>>();
        assert_eq!(of(0, 1), [1; 12]);
        assert_eq!(of(0, 2), [1, 2, 1, 1, 2, 1, 2, 1, 2, 1, 2, 2]);
        assert_eq!(of(0, 3), [3, 1, 1, 1, 2, 3, 2, 3, 1, 1, 1, 3]);
        assert_eq!(of(u64::MAX, 5), [5, 2, 3, 4, 2, 2, 4, 2, 3, 2, 2, 4]);
    }

    #[test]
    fn every_block_is_in_exactly_one_shard_and_none_is_much_larger() {
        let mut sizes = [0_u32; 7];
        for block in 0..7000 {
            let has: Vec<u64> = (1..=7).filter(|number| Shard::new(*number, 7).expect("in range").has_block(42, block)).collect();
            assert_eq!(has.len(), 1, "{block}: {has:?}");
            sizes[has[0] as usize - 1] += 1;
        }
        assert!(sizes.iter().all(|size| (900..1100).contains(size)), "{sizes:?}");
    }

    #[test]
    fn every_scenario_is_in_exactly_one_shard() {
        for name in (0..100).map(|n| format!("scenarios/pass/{n}.toml")) {
            let has = (1..=3).filter(|number| Shard::new(*number, 3).expect("in range").has_name(&name));
            assert_eq!(has.count(), 1, "{name}");
        }
    }

    #[test]
    fn a_shard_outside_its_count_is_refused() {
        assert_eq!("2/3".parse(), Ok(Shard { number: 2, count: 3 }));
        for text in ["0/3", "4/3", "1", "a/b", "1/0", "0/0", "-1/2", "01/3", "+1/3", "1/3/5", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
            assert!(serde_json::from_str::<Shard>(&format!("{text:?}")).is_err(), "{text}");
        }
    }

    #[test]
    fn all_parts_of_one_count_are_the_whole() {
        assert_eq!(shards("3/3 1/3 1/2 2/3"), shards("1/1"));
        assert_eq!(shards("3/3 1/3 1/2 1/3").to_string(), "1/2, 1/3, 3/3");
        assert!(!shards("1/2 1/3 3/3").is_whole());
        let text = serde_json::to_string(&shards("2/3 1/3")).expect("JSON");
        assert_eq!(text, r#"["1/3","2/3"]"#);
        assert_eq!(serde_json::from_str::<Shards>(&text).expect("shards"), shards("1/3 2/3"));
    }
}
