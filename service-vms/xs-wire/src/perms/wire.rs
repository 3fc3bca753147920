//! How permissions look on the wire.

use super::{Access, Perm};
use crate::text::decimal;

impl Access {
    /// The letter on the wire.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::None => b'n',
            Self::Read => b'r',
            Self::Write => b'w',
            Self::Both => b'b',
        }
    }

    /// What a letter means.
    #[must_use]
    pub const fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'n' => Self::None,
            b'r' => Self::Read,
            b'w' => Self::Write,
            b'b' => Self::Both,
            _ => return None,
        })
    }
}

impl Perm {
    /// Reads an entry, without its NUL. The domid is plain decimal: C also takes octal, hexadecimal and signs.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (&letter, domid) = text.split_first()?;
        Some(Self { access: Access::from_letter(letter)?, domid: decimal(domid)? })
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Perm};

    #[test]
    fn letters_both_ways() {
        for (letter, access) in
            [(b'n', Access::None), (b'r', Access::Read), (b'w', Access::Write), (b'b', Access::Both)]
        {
            assert_eq!(access.letter(), letter);
            assert_eq!(Access::from_letter(letter), Some(access));
        }
        let known = (0..=u8::MAX).filter(|&letter| Access::from_letter(letter).is_some());
        assert_eq!(known.count(), 4);
    }

    #[test]
    fn entries() {
        assert_eq!(Perm::parse(b"r0"), Some(Perm { access: Access::Read, domid: 0 }));
        assert_eq!(Perm::parse(b"b65535"), Some(Perm { access: Access::Both, domid: u16::MAX }));
        for bad in
            [&b""[..], b"r", b"0", b"x0", b"R0", b"r65536", b"r-1", b"r 1", b"r010", b"r0x1", b"r1x", b"rw1"]
        {
            assert_eq!(Perm::parse(bad), None, "{bad:?}");
        }
    }
}
