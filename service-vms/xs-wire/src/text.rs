//! Numbers and strings as the protocol writes them.

/// Longest decimal of a u64.
const DIGITS: usize = 20;

/// A number in decimal, on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    digits: [u8; DIGITS],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(mut number: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        let mut start = DIGITS;
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            start = at;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        Self { digits, start }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

/// The number that `text` is, if it is written as `Decimal` writes it: digits, no sign, no leading zero (C reads one as
/// octal in permissions and as decimal elsewhere).
pub(crate) fn decimal<T: TryFrom<u64>>(text: &[u8]) -> Option<T> {
    if text.is_empty() || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    let number = text.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    T::try_from(number).ok()
}

/// The first string, and what follows its NUL.
pub(crate) fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = bytes.iter().position(|&byte| byte == 0)?;
    let (text, rest) = bytes.split_at_checked(nul)?;
    Some((text, rest.get(1..)?))
}

/// The only string: one NUL, at the end.
pub(crate) fn only_string(bytes: &[u8]) -> Option<&[u8]> {
    string(bytes).filter(|(_, rest)| rest.is_empty()).map(|(text, _)| text)
}

/// The bytes of what the specification writes: `|` is a NUL.
#[cfg(test)]
pub(crate) fn with_nuls(text: &str) -> alloc::vec::Vec<u8> {
    text.bytes().map(|byte| if byte == b'|' { 0 } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::{Decimal, decimal, only_string, string};

    #[test]
    fn refuses_what_is_no_plain_number() {
        for text in
            [&b""[..], b"abc", b"1a", b" 1", b"1 ", b"+1", b"-1", b"01", b"00", b"0x1", b"65536", b"1\0"]
        {
            assert_eq!(decimal::<u16>(text), None, "{text:?}");
        }
        assert_eq!(decimal(b"0"), Some(0_u16));
        assert_eq!(decimal(b"65535"), Some(u16::MAX));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal::<u64>(b"18446744073709551616"), None);
    }

    #[test]
    fn splits_at_the_nul() {
        assert_eq!(string(b"a\0b"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(string(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(string(b"ab"), None);
        assert_eq!(only_string(b"a\0"), Some(&b"a"[..]));
        assert_eq!(only_string(b"a\0b"), None);
        assert_eq!(only_string(b"a\0\0"), None);
        assert_eq!(only_string(b""), None);
    }

    proptest! {
        #[test]
        fn a_number_comes_back(number: u64, shift in 0..64_u32) {
            let number = number >> shift;
            let text = Decimal::new(number);
            prop_assert!(text.as_bytes() == number.to_string().as_bytes());
            prop_assert_eq!(decimal(text.as_bytes()), Some(number));
        }
    }
}
