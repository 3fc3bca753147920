//! The 16 bytes before each payload (`struct xsd_sockmsg`): four 32-bit words, little-endian.

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
