//! Numbers of interleavings: exact as long as they fit 128 bits, and as large as need be beyond.

use std::fmt;

/// A number of runs. Beyond 128 bits it keeps its upper 128 bits; a sum then depends on the order of its parts in the last of them, which is why
/// the graph is always summed in the same order.
///
/// Packed, since there is one for each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(Rust, packed(8))]
pub struct Count {
    /// The number, without its lowest `dropped_bits`. The top bit is set if any were dropped.
    kept: u128,
    dropped_bits: u32,
}

impl Count {
    /// None.
    pub const ZERO: Count = Count { kept: 0, dropped_bits: 0 };
    /// One.
    pub const ONE: Count = Count { kept: 1, dropped_bits: 0 };

    /// Returns the number, if it fits.
    pub fn exact(self) -> Option<u128> {
        (self.dropped_bits == 0).then_some(self.kept)
    }

    /// Returns whether there are none. Exact for numbers of any size.
    pub fn is_zero(self) -> bool {
        self.kept == 0
    }

    /// Returns the sum.
    #[must_use]
    pub fn plus(self, other: Count) -> Count {
        let (large, small) = if self.dropped_bits >= other.dropped_bits { (self, other) } else { (other, self) };
        let small = small.in_units_of(large.dropped_bits);
        let (kept, overflows) = large.kept.overflowing_add(small);
        match overflows {
            false => Count { kept, dropped_bits: large.dropped_bits },
            true => Count { kept: kept >> 1 | 1 << 127, dropped_bits: large.dropped_bits + 1 },
        }
    }

    /// Returns the decimal logarithm; of none, minus infinity.
    pub fn log10(self) -> f64 {
        (self.kept as f64).log10() + f64::from(self.dropped_bits) * std::f64::consts::LOG10_2
    }

    /// Returns the number without its lowest bits, as many as are asked for in all.
    fn in_units_of(self, dropped_bits: u32) -> u128 {
        assert!(dropped_bits >= self.dropped_bits, "bits that were dropped do not come back");
        self.kept.checked_shr(dropped_bits - self.dropped_bits).unwrap_or(0)
    }
}

/// In full below a million, else two digits and a power of ten: `2.4e7`. Integer arithmetic: the same on every machine.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dropped_bits == 0 && self.kept < 1_000_000 {
            return { self.kept }.fmt(f);
        }
        let (mut digits, mut twos, mut tens) = (self.kept, self.dropped_bits, 0u32);
        while twos > 0 {
            let room = digits.leading_zeros().min(twos);
            digits <<= room;
            twos -= room;
            if twos > 0 {
                digits /= 10;
                tens += 1;
            }
        }
        while digits >= 1000 {
            digits /= 10;
            tens += 1;
        }
        digits = (digits + 5) / 10;
        tens += 1;
        if digits == 100 {
            digits = 10;
            tens += 1;
        }
        write!(f, "{}.{}e{}", digits / 10, digits % 10, tens + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power_of_two(bits: u32) -> Count {
        (0..bits).fold(Count::ONE, |count, _| count.plus(count))
    }

    #[test]
    fn a_count_is_exact_up_to_128_bits_and_keeps_its_size_beyond() {
        assert_eq!(power_of_two(127).exact(), Some(1 << 127));
        assert_eq!(power_of_two(127).plus(Count { kept: (1 << 127) - 1, dropped_bits: 0 }).exact(), Some(u128::MAX));
        let large = power_of_two(1000);
        assert_eq!(large.exact(), None);
        assert_eq!(large.log10().round(), 301.0);
        assert_eq!(large.plus(Count::ONE), large);
        assert_eq!(large.plus(large), power_of_two(1001));
    }

    #[test]
    fn a_count_reads_like_a_number() {
        let shown = |kept| Count { kept, dropped_bits: 0 }.to_string();
        assert_eq!([shown(0), shown(7), shown(999_999)], ["0", "7", "999999"]);
        assert_eq!([shown(1_000_000), shown(24_499_999), shown(99_600_000)], ["1.0e6", "2.4e7", "1.0e8"]);
        assert_eq!(power_of_two(127).to_string(), "1.7e38");
        assert_eq!(power_of_two(128).to_string(), "3.4e38");
        assert_eq!(power_of_two(1000).to_string(), "1.1e301");
        assert_eq!(power_of_two(100_000).to_string(), "1.0e30103");
    }
}
