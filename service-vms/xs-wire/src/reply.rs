//! What the daemon answers, and the events that it sends unasked.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Errno, Op, Perm};

mod encode;

/// What a reply says. Its form on the wire depends on this alone, not on the operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// `OK\0`
    Done,
    /// Bytes as they are, no NUL added: a value, or the text of CONTROL.
    Bytes(#[serde(with = "serde_bytes")] &'a [u8]),
    /// A path; a NUL is added.
    Path(#[serde(with = "serde_bytes")] &'a [u8]),
    /// Names of children, each with its NUL already.
    Names(#[serde(with = "serde_bytes")] &'a [u8]),
    /// `generation\0` and a piece of the listing (names each with their NUL already); the last piece gets one NUL more.
    Part {
        /// Changes when the listing changes.
        generation: u64,
        /// The piece.
        #[serde(with = "serde_bytes")]
        names: &'a [u8],
        /// No more to come.
        last: bool,
    },
    /// Permissions, each a letter, a domid and a NUL.
    Perms(Vec<Perm>),
    /// A transaction's number and a NUL.
    Transaction(u32),
    /// `T\0` or `F\0`
    Flag(bool),
    /// `Exxx\0`, in a message of type ERROR.
    Error(Errno),
}

/// One message from the daemon to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// To the request with this number.
    Reply {
        /// The request's operation, as it was on the wire.
        op: u32,
        /// The request's number, echoed.
        request_id: u32,
        /// The request's transaction, echoed.
        tx_id: u32,
        /// What.
        reply: Reply<'a>,
    },
    /// A watch fired.
    Event {
        /// What changed, as the watcher named it (relative to a relative watch).
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        /// The watcher's token.
        #[serde(with = "serde_bytes")]
        token: &'a [u8],
    },
}

impl Message<'_> {
    /// The type in the header.
    #[must_use]
    pub fn op(&self) -> u32 {
        match self {
            Self::Reply { reply: Reply::Error(_), .. } => Op::Error as u32,
            Self::Reply { op, .. } => *op,
            Self::Event { .. } => Op::WatchEvent as u32,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
