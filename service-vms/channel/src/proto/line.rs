//! Between a toolstack (client) and pciback (server): the operator's line, a stream of bytes either way that pciback passes
//! on without looking.

use serde::{Deserialize, Serialize};

use crate::{List, Protocol};

/// Most bytes in one message.
pub const MAX_DATA: usize = 960;

/// The protocol of an operator's line.
#[derive(Debug, Clone, Copy)]
pub enum Line {}

impl Protocol for Line {
    const ID: u32 = u32::from_le_bytes(*b"Line");
    type Request = Bytes;
    type Reply = Bytes;
}

/// What goes along the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bytes {
    /// The other side is new: what it was sent before is lost, and what it sends starts here.
    Reset,
    /// The next bytes.
    Data(List<u8, MAX_DATA>),
}
