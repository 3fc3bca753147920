//! What the main process and the console process say to each other: one datagram for each message. The console process only answers,
//! each request but [`Request::Wait`] at once; so it never has more to say than there is room for.

use ennead_channel::{List, Text};
use serde::{Deserialize, Serialize};

/// Most bytes of a console in one message.
pub const MAX_DATA: usize = 960;
/// Longest reason of a failure, bytes.
pub const MAX_REASON: usize = 512;

/// Bytes of a console.
pub type Data = List<u8, MAX_DATA>;

/// What the main process asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first: what only the start needed is given up now. Answered by `Done`.
    Seal,
    /// A guest's console is to be served. What was printed under this number before (by the same guest before it was started anew) is kept.
    /// Answered by `Done` or `Failed`.
    Open {
        /// Number of the console.
        console: u32,
        /// The guest.
        domid: u16,
        /// Its port for us.
        port: u32,
    },
    /// A guest's console is read once more and let go. Answered by `Done`.
    Close {
        /// Its number.
        console: u32,
    },
    /// The same, and what was printed is forgotten. Answered by `Done`.
    Forget {
        /// Its number.
        console: u32,
    },
    /// Bytes for the guest. Answered by `Taken`.
    Input {
        /// Number of the console.
        console: u32,
        /// The bytes.
        bytes: Data,
    },
    /// What was printed from a position on. Answered by `Printed`, and if there is nothing, more of it ends a `Wait`.
    Read {
        /// Number of the console.
        console: u32,
        /// The position; one that is gone counts as the oldest.
        from: u64,
    },
    /// Answered by `Grown` once there is more on a console of which a `Read` found nothing, or it is forgotten.
    Wait,
    /// Counters. Answered by `Counted`.
    Count,
}

/// What the console process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It has been done.
    Done,
    /// It could not be done, and why.
    Failed(Text<MAX_REASON>),
    /// So many of the bytes are for the guest; the others come again later.
    Taken(u16),
    /// What was printed.
    Printed {
        /// Position of the first byte.
        from: u64,
        /// The bytes.
        bytes: Data,
    },
    /// There is more to read.
    Grown,
    /// All consoles together since the start.
    Counted {
        /// Bytes that guests have printed.
        printed: u64,
        /// Bytes that guests were given.
        given: u64,
        /// Rings with indices that could not be.
        impossible: u64,
    },
}
