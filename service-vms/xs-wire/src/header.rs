//! The 16 bytes before each payload (`struct xsd_sockmsg`): four 32-bit words, little-endian.

use core::fmt;

use crate::PAYLOAD_MAX;

/// Bytes of a header.
pub const HEADER_LEN: usize = 16;

/// A header as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The operation, by number; may be unknown.
    pub op: u32,
    /// The client's number for the request.
    pub request_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
    /// Bytes of payload, at most `PAYLOAD_MAX`.
    pub len: usize,
}

/// A message claims a payload longer than `PAYLOAD_MAX`: the connection is beyond repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(pub u32);

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// `TooLong` if it claims more than `PAYLOAD_MAX` bytes of payload.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, TooLong> {
        let [o0, o1, o2, o3, r0, r1, r2, r3, t0, t1, t2, t3, l0, l1, l2, l3] = *bytes;
        let claimed = u32::from_le_bytes([l0, l1, l2, l3]);
        let len = usize::try_from(claimed).ok().filter(|len| *len <= PAYLOAD_MAX).ok_or(TooLong(claimed))?;
        Ok(Self {
            op: u32::from_le_bytes([o0, o1, o2, o3]),
            request_id: u32::from_le_bytes([r0, r1, r2, r3]),
            tx_id: u32::from_le_bytes([t0, t1, t2, t3]),
            len,
        })
    }

    /// The header's bytes. A length beyond a u32 becomes `u32::MAX`, which everybody refuses.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [o0, o1, o2, o3] = self.op.to_le_bytes();
        let [r0, r1, r2, r3] = self.request_id.to_le_bytes();
        let [t0, t1, t2, t3] = self.tx_id.to_le_bytes();
        let [l0, l1, l2, l3] = u32::try_from(self.len).unwrap_or(u32::MAX).to_le_bytes();
        [o0, o1, o2, o3, r0, r1, r2, r3, t0, t1, t2, t3, l0, l1, l2, l3]
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message claims {} bytes of payload, more than {PAYLOAD_MAX}", self.0)
    }
}

impl core::error::Error for TooLong {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HEADER_LEN, Header, TooLong};
    use crate::PAYLOAD_MAX;

    #[test]
    fn four_little_endian_words() {
        let header = Header { op: 2, request_id: 0x0403_0201, tx_id: 7, len: 4096 };
        let bytes = [2, 0, 0, 0, 1, 2, 3, 4, 7, 0, 0, 0, 0, 0x10, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn too_long() {
        let mut bytes = Header { op: 0, request_id: 0, tx_id: 0, len: 4097 }.encode();
        assert_eq!(Header::decode(&bytes), Err(TooLong(4097)));
        bytes = [0xff; HEADER_LEN];
        assert_eq!(Header::decode(&bytes), Err(TooLong(u32::MAX)));
    }

    proptest! {
        #[test]
        fn comes_back(op: u32, request_id: u32, tx_id: u32, len in 0..=PAYLOAD_MAX) {
            let header = Header { op, request_id, tx_id, len };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn any_bytes(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
