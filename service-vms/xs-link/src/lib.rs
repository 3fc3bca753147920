//! What XenStore's two halves say to each other, and how it lies in the memory that they share.
//!
//! Logic calls, State answers, in order. The memory is a page of counters and a ring of slots; a call is written into the
//! next slot and its answer over it, so many calls can be under way at once. Neither side ever waits for the other while
//! it holds anything: State is the server, and serves whatever the slots allege.
//!
//! A call has a header, which Logic's I/O loop writes (whose connection, how far its ring was read), and a body, which
//! comes from the handler that is reset after each use. So a handler that a request has subverted cannot name another
//! connection than the one that it serves.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod body;
mod directory;
mod memory;
mod record;
mod slots;

pub use body::{Head, decode_message, decode_request, encode_message, encode_request};
pub use directory::{Directory, MAX_GRANTS};
pub use memory::{LocalMemory, Shared};
pub use record::{Connect, Kind as RecordKind, Record, RecordWriter, Records};
pub use slots::{
    Answer, Answerer, Call, CallKind, Caller, MAX_BODY, NotALink, SLOT_LEN, Violation, region_len,
};

/// Lines that Logic can serve at once: its tables have this size.
pub const MAX_LINES: u32 = 4096;
/// In `CallKind::Open`: the connection is the operator's, not a domain's.
pub const OPERATOR: u32 = u32::MAX;
