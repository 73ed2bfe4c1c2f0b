//! Numbers in few characters that survive being read aloud: Crockford's base 32, in lower case.

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BITS: u32 = 5;

/// Returns a number without leading zeros.
pub(super) fn format(number: u64) -> String {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(BITS).max(1);
    short(number, digits)
}

/// Returns a number's last digits.
pub(super) fn short(number: u64, digits: u32) -> String {
    (0..digits).rev().map(|digit| char::from(DIGITS[(number >> (BITS * digit)) as usize % DIGITS.len()])).collect()
}

/// Returns the number that [`format`] writes like this; `None` for anything else, leading zeros among it.
pub(super) fn parse(text: &str) -> Option<u64> {
    let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map(|digit| digit as u64);
    let number = text.bytes().try_fold(0u64, |number, byte| number.checked_mul(DIGITS.len() as u64)?.checked_add(digit(byte)?))?;
    (format(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_is_read_back(number: u64) {
            prop_assert_eq!(parse(&format(number)), Some(number));
        }
    }

    #[test]
    fn only_one_spelling_is_read() {
        assert_eq!((format(0), format(u64::MAX).len()), ("0".to_owned(), 13));
        assert_eq!(parse("10"), Some(32));
        for bad in ["", "00", "01", "A", "i", "-1", "é", "gzzzzzzzzzzzz0", "zzzzzzzzzzzzz"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(short(0b11_00001, 1), "1");
        assert_eq!(short(1, 3), "001");
    }
}
