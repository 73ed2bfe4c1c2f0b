//! What can be said of defects that were not found: the guarantee of PCT, where it holds.
//!
//! A schedule of `pct:d` brings about a defect of depth `d` or less with probability 1 / (n k^(d-1)) at least, if there are n actors and no schedule is
//! longer than the k moves over which change points were drawn (MSR-TR-2010-3). All arithmetic is in integers and rounds towards "missed".

use std::fmt;

/// A statement about the defects of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The variant that was searched.
    pub variant: u32,
    /// Depth of the defects: how many ordering constraints bring one about.
    pub depth: u8,
    /// Actors.
    pub actors: u64,
    /// Moves over which change points were drawn; no schedule was longer.
    pub moves: u64,
    /// Schedules that were drawn at this depth.
    pub schedules: u64,
}

impl Bound {
    /// Returns a probability that a defect of this depth was missed with at most.
    pub fn missed(&self) -> Probability {
        let power = u128::from(self.moves).checked_pow(u32::from(self.depth) - 1);
        let ways = power.and_then(|power| power.checked_mul(self.actors.into())).unwrap_or(u128::MAX);
        Probability::one_less(ways).power(self.schedules)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { depth, actors, moves, schedules, .. } = self;
        let missed = self.missed();
        write!(f, "pct:{depth}: a defect of depth {depth} or less was missed with p {missed} (n={actors}, k={moves}, N={schedules})")
    }
}

/// A probability above 0, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probability {
    /// In 2^-64, more than 2^63 and at most 2^64.
    mantissa: u128,
    /// The value is `mantissa` by 2^64 by 2^`halvings`.
    halvings: u64,
}

const ONE: u128 = 1 << 64;

impl Probability {
    /// Returns 1 - 1/`ways`; a half for less than two ways, which is more than the truth.
    fn one_less(ways: u128) -> Self {
        Self::rounded(ONE - ONE / ways.max(2), 0)
    }

    /// Brings a mantissa into its range.
    fn rounded(mut mantissa: u128, mut halvings: u64) -> Self {
        assert!(0 < mantissa && mantissa <= ONE, "{mantissa} is no share of one");
        while mantissa <= ONE / 2 {
            (mantissa, halvings) = (2 * mantissa, halvings + 1);
        }
        Self { mantissa, halvings }
    }

    fn times(self, other: Self) -> Self {
        let halvings = self.halvings.saturating_add(other.halvings);
        if self.mantissa == ONE || other.mantissa == ONE {
            return Self { mantissa: self.mantissa.min(other.mantissa), halvings };
        }
        // Above 2^126: one bit more is kept than the shift by 64 would leave.
        let product = self.mantissa * other.mantissa;
        if product <= 1 << 127 {
            Self::rounded(product.div_ceil(1 << 63), halvings + 1)
        } else {
            Self::rounded(product.div_ceil(ONE), halvings)
        }
    }

    fn power(self, mut exponent: u64) -> Self {
        let (mut result, mut square) = (Self { mantissa: ONE, halvings: 0 }, self);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result.times(square);
            }
            square = square.times(square);
            exponent >>= 1;
        }
        result
    }

    /// Returns whether it is one, as far as it is told: then it says nothing.
    pub fn is_certain(self) -> bool {
        matches!(self.decimal(), Some((_, 0)))
    }

    /// Returns the first two digits, rounded up, from 10 to 99, and the power of ten by which they, as `d.d`, are divided. `None` below 1e-99.
    fn decimal(self) -> Option<(u128, u32)> {
        const TENS_MAX: u32 = 99;
        let (mut mantissa, mut halvings, mut tens) = (self.mantissa, self.halvings, 0);
        // Multiplied by ten until it is one or more; the mantissa stays below 2^124.
        while halvings >= 128 || mantissa >> halvings < ONE {
            if tens == TENS_MAX {
                return None;
            }
            mantissa *= 10;
            tens += 1;
            while mantissa > 1 << 120 && halvings > 0 {
                (mantissa, halvings) = (mantissa.div_ceil(2), halvings - 1);
            }
        }
        let digits = (10 * mantissa).div_ceil(ONE << halvings);
        Some(if digits == 100 { (10, tens - 1) } else { (digits, tens) })
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decimal() {
            None => write!(f, "< 1e-99"),
            Some((_, 0)) => write!(f, "<= 1"),
            Some((digits, tens)) => write!(f, "<= {}.{}e-{tens}", digits / 10, digits % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(depth: u8, actors: u64, moves: u64, schedules: u64) -> Bound {
        Bound { variant: 0, depth, actors, moves, schedules }
    }

    #[test]
    fn a_bound_is_the_formula_of_the_paper_rounded_up() {
        for (depth, actors, moves, schedules, text) in [
            (1, 2, 9, 1, "<= 5.0e-1"),
            (1, 4, 9, 1, "<= 7.5e-1"),
            (1, 2, 9, 10, "<= 9.8e-4"),
            (1, 3, 9, 7, "<= 5.9e-2"),
            (3, 3, 37, 180_000, "<= 9.2e-20"),
            (5, 9, 400, 1_000, "<= 1"),
            (64, 9, 400, 1_000_000, "<= 1"),
            (2, 3, 40, 1_000_000, "< 1e-99"),
            (1, 1, 9, 3, "<= 1.3e-1"),
        ] {
            let missed = bound(depth, actors, moves, schedules).missed();
            assert_eq!(missed.to_string(), text, "d={depth} n={actors} k={moves} N={schedules}");
            assert_eq!(missed.is_certain(), text == "<= 1");
        }
    }

    #[test]
    fn more_schedules_leave_less() {
        let missed = |schedules| bound(3, 3, 40, schedules).missed();
        let value = |p: Probability| (u64::MAX - p.halvings, p.mantissa);
        for schedules in (0..20_000).step_by(371) {
            assert!(value(missed(schedules + 371)) < value(missed(schedules)));
        }
    }
}
