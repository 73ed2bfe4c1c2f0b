//! Random numbers of a search: the same on every machine, for good.
//!
//! The generator is PCG XSL 128/64 (MCG) of a pinned crate; how a number becomes a choice is our own code, since libraries change that between
//! versions.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;
use xxhash_rust::xxh3::xxh3_128;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draw(Pcg64Mcg);

impl Draw {
    /// Returns the stream of a seed and a name: streams of different names, or of neighbouring seeds, have nothing to do with each other.
    pub fn new(seed: u64, stream: &str) -> Self {
        const NAME_LEN_MAX: usize = 24;
        assert!(stream.len() <= NAME_LEN_MAX, "{stream} is longer than {NAME_LEN_MAX} bytes");
        let mut bytes = [0; 8 + NAME_LEN_MAX];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..8 + stream.len()].copy_from_slice(stream.as_bytes());
        Self(Pcg64Mcg::new(xxh3_128(&bytes[..8 + stream.len()])))
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Returns a number below `n`, each with the same probability. Lemire's method: the upper half of a product with 64 random bits, drawn again in
    /// the `2^64 mod n` cases that would favour some.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        let mut product = u128::from(self.bits()) * u128::from(n);
        if (product as u64) < n {
            let favoured = n.wrapping_neg() % n;
            while (product as u64) < favoured {
                product = u128::from(self.bits()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_make_the_same_numbers_for_good() {
        let numbers = |seed, stream| {
            let mut draw = Draw::new(seed, stream);
            [draw.below(1000), draw.below(1000), draw.below(6), draw.below(1 << 40)]
        };
        assert_eq!(numbers(0, "pos"), [222, 211, 3, 328650623543]);
        assert_eq!(numbers(1, "pos"), [789, 709, 5, 228803113462]);
        assert_ne!(numbers(0, "urw"), numbers(0, "pos"));
    }

    #[test]
    fn numbers_below_are_even() {
        let mut draw = Draw::new(7, "test");
        let mut counts = [0u32; 5];
        for _ in 0..50_000 {
            counts[draw.below(5) as usize] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 300), "{counts:?}");
        assert_eq!(draw.below(1), 0);
        // Three quarters of 2^64: a third of all draws is refused, and both halves of the range stay even.
        let n = 3 << 62;
        let lower = (0..10_000).filter(|_| draw.below(n) < n / 2).count();
        assert!(lower.abs_diff(5_000) < 200, "{lower}");
    }
}
