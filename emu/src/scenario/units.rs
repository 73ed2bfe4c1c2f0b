//! Numbers with units: `"16 MiB"`, `"300 ms"`, `"128 MiB/s"`. Integers only; a number never goes without its unit.

/// Units of sizes with their bytes, smallest first.
pub(super) const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// Units of times with their nanoseconds, smallest first.
pub(super) const TIMES: &[(&str, u64)] = &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
/// Units of rates with their bytes per second, smallest first.
pub(super) const RATES: &[(&str, u64)] = &[("B/s", 1), ("KiB/s", 1 << 10), ("MiB/s", 1 << 20), ("GiB/s", 1 << 30)];

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitError {
    /// It does not start with digits.
    NoNumber,
    /// It has a fraction, or digit separators.
    NotInteger,
    /// The number stands alone.
    NoUnit,
    /// What follows the number is none of the units; byte offset of the word.
    UnknownUnit { offset: usize, word: String },
    /// It does not fit 64 bits.
    TooLarge,
}

/// Returns a quantity in the smallest unit.
pub(super) fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(UnitError::NoNumber);
    }
    let rest = &text[digits..];
    if rest.starts_with(['.', '_', ',']) {
        return Err(UnitError::NotInteger);
    }
    let word = rest.trim_start_matches(' ');
    if word.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let offset = text.len() - word.len();
    let unit = units.iter().find(|(name, _)| *name == word);
    let (_, factor) = unit.ok_or_else(|| UnitError::UnknownUnit { offset, word: word.to_owned() })?;
    let number: u64 = text[..digits].parse().map_err(|_| UnitError::TooLarge)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

/// Reads a size, such as `4 GiB`, in bytes.
///
/// # Errors
/// When it is none; what was expected.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = |what: &str| format!("{what}: expected a whole number with a unit ({}), such as 4GiB", names(SIZES));
    parse(text, SIZES).map_err(|error| match error {
        UnitError::NoNumber => expected("no number"),
        UnitError::NotInteger => expected("no whole number"),
        UnitError::NoUnit => expected("no unit"),
        UnitError::UnknownUnit { word, .. } => expected(&format!("unknown unit `{word}`")),
        UnitError::TooLarge => "more than 64 bits hold".to_owned(),
    })
}

/// Writes a quantity in the largest unit that holds it without a rest: what [`parse`] reads.
pub(super) fn format(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value.is_multiple_of(*factor);
    let (name, factor) = match value {
        0 => units.first(),
        _ => units.iter().rev().find(fits),
    }
    .expect("the smallest unit divides everything");
    format!("{} {name}", value / factor)
}

/// Returns the names of units, for messages.
pub(super) fn names(units: &[(&str, u64)]) -> String {
    units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert_eq!(parse("16", SIZES), Err(UnitError::NoUnit));
        assert_eq!(parse("16 ", SIZES), Err(UnitError::NoUnit));
    }

    #[test]
    fn decimal_units_and_fractions_are_refused() {
        assert_eq!(parse("16 MB", SIZES), Err(UnitError::UnknownUnit { offset: 3, word: "MB".to_owned() }));
        assert_eq!(parse("1.5 GiB", SIZES), Err(UnitError::NotInteger));
        assert_eq!(parse("-1 s", TIMES), Err(UnitError::NoNumber));
    }

    #[test]
    fn a_product_beyond_64_bits_is_refused() {
        assert_eq!(parse("18446744073709551615 KiB", SIZES), Err(UnitError::TooLarge));
        assert_eq!(parse("18446744073709551616 B", SIZES), Err(UnitError::TooLarge));
    }

    #[test]
    fn a_size_says_what_it_should_be() {
        assert_eq!(size("4GiB"), Ok(4 << 30));
        for bad in ["4", "4 GB", "1.5 GiB", "", "99999999999 GiB"] {
            assert!(!size(bad).expect_err(bad).is_empty());
        }
        assert!(size("4 GB").expect_err("no unit").contains("`GB`"));
    }

    #[test]
    fn the_space_may_be_left_out() {
        assert_eq!(parse("300ms", TIMES), Ok(300_000_000));
        assert_eq!(parse("128 MiB/s", RATES), Ok(128 << 20));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value: u64) {
            for units in [SIZES, TIMES, RATES] {
                prop_assert_eq!(parse(&format(value, units), units), Ok(value));
            }
        }

        #[test]
        fn any_text_is_answered(text in ".{0,12}") {
            if let Ok(value) = parse(&text, TIMES) {
                prop_assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{} from {:?}", value, text);
            }
        }
    }
}
