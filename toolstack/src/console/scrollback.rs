//! The last of what a guest has printed.

use std::collections::VecDeque;

/// Bytes that are kept.
pub const KEPT: usize = 64 * 1024;

/// Bytes with their position in all that was ever printed. Memory grows with what there is, up to [`KEPT`].
#[derive(Debug, Default)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    /// Position behind the last byte.
    end: u64,
}

impl Scrollback {
    /// Appends what was printed; drops the oldest if need be.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end = self.end.saturating_add(count(bytes.len()));
        let kept = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or_default();
        let excess = self.bytes.len().saturating_add(kept.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(kept);
    }

    /// Position of the oldest byte that is kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end.saturating_sub(count(self.bytes.len()))
    }

    /// Position behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Up to `most` bytes from a position on, or from the oldest if that is gone; and where they begin.
    #[must_use]
    pub fn read(&self, from: u64, most: usize) -> (u64, Vec<u8>) {
        let from = from.clamp(self.start(), self.end);
        let skip = usize::try_from(from.saturating_sub(self.start())).unwrap_or(usize::MAX);
        (from, self.bytes.iter().skip(skip).take(most).copied().collect())
    }
}

/// A length as a position. (usize has at most 64 bits.)
fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn the_last_64_kib_of_everything(parts in prop::collection::vec(0..50_000_usize, 0..8), from in 0..400_000_u64) {
            let mut scrollback = Scrollback::default();
            let mut bytes = (0..=250_u8).cycle();
            let mut all = Vec::new();
            for part in parts {
                let part: Vec<u8> = bytes.by_ref().take(part).collect();
                scrollback.push(&part);
                all.extend(part);
            }
            let start = all.len().saturating_sub(KEPT);
            prop_assert_eq!((scrollback.start(), scrollback.end()), (count(start), count(all.len())));
            let (at, read) = scrollback.read(from, 1000);
            let expected = usize::try_from(from).unwrap().clamp(start, all.len());
            prop_assert_eq!(at, count(expected));
            prop_assert_eq!(read, all[expected..].iter().take(1000).copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_piece_can_be_longer_than_what_is_kept() {
        let mut scrollback = Scrollback::default();
        scrollback.push(b"old");
        scrollback.push(&[7; KEPT + 1]);
        assert_eq!(scrollback.read(0, usize::MAX), (4, vec![7; KEPT]));
    }
}
