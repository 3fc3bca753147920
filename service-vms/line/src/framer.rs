//! Frames on the port.

/// Most bytes in one frame.
pub const MAX_FRAME: usize = 4096;

/// A byte that begins no frame: as the upper half of a length it is above [`MAX_FRAME`].
const FILL: u8 = 0xff;

/// Bytes before a reset: they end a frame that has just begun, and what follows is then no length.
const FILLING: usize = MAX_FRAME + 2;

/// What was in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes of the stream: one or more. Where frames begin and end means nothing.
    Data(&'a [u8]),
    /// The other end is new: what it sent before has ended, and what it was sent is lost.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A frame's length.
    Length,
    /// Its upper half.
    UpperHalf(u8),
    /// So many bytes of a frame.
    Bytes(usize),
    /// A reset, for what came is no frame. How much of `FILL 0 0` the last bytes were.
    Reset(u8),
}

/// Reads frames, in pieces of any length. It keeps no bytes.
#[derive(Debug, Clone)]
pub struct Framer(Expect);

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self(Expect::Length)
    }

    /// Takes the next piece from the front of `input`; `None` once `input` is empty. What is no frame is left out, up to the next
    /// reset.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        loop {
            if let Expect::Bytes(left) = self.0 {
                let (data, rest) = input.split_at_checked(left).unwrap_or((*input, &[]));
                *input = rest;
                self.0 = match left.saturating_sub(data.len()) {
                    0 => Expect::Length,
                    left => Expect::Bytes(left),
                };
                return (!data.is_empty()).then_some(Piece::Data(data));
            }
            let (byte, rest) = input.split_first()?;
            *input = rest;
            self.0 = match (self.0, *byte) {
                (Expect::UpperHalf(lower), upper) => match usize::from(u16::from_le_bytes([lower, upper])) {
                    0 => {
                        self.0 = Expect::Length;
                        return Some(Piece::Reset);
                    }
                    length @ 1..=MAX_FRAME => Expect::Bytes(length),
                    _ => Expect::Reset(u8::from(upper == FILL)),
                },
                (Expect::Reset(_), FILL) => Expect::Reset(1),
                (Expect::Reset(1), 0) => Expect::Reset(2),
                (Expect::Reset(2), 0) => {
                    self.0 = Expect::Length;
                    return Some(Piece::Reset);
                }
                (Expect::Reset(_), _) => Expect::Reset(0),
                (Expect::Length | Expect::Bytes(_), lower) => Expect::UpperHalf(lower),
            };
        }
    }

    /// Writes `data` as frames.
    pub fn data(data: &[u8], out: &mut Vec<u8>) {
        for part in data.chunks(MAX_FRAME) {
            // A chunk has at most MAX_FRAME bytes, which is less than a u16 holds.
            let length = u16::try_from(part.len()).unwrap_or_default();
            out.extend(length.to_le_bytes());
            out.extend(part);
        }
    }

    /// Writes a reset.
    pub fn reset(out: &mut Vec<u8>) {
        out.resize(out.len().saturating_add(FILLING), FILL);
        out.extend([0, 0]);
    }
}

#[cfg(test)]
mod tests;
