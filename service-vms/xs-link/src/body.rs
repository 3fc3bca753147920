//! Requests and messages between the halves, in postcard's form. The wire's own form exists in Logic only.

use ennead_xs_wire::{Errno, Message, Request};
use serde::{Deserialize, Serialize};

/// What a request's header says besides its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The operation, by number; may be unknown.
    pub op: u32,
    /// The client's number.
    pub request_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
}

#[derive(Serialize, Deserialize)]
struct Body<'a>(Head, #[serde(borrow)] Result<Request<'a>, Errno>);

/// Writes a request, or why it is none, into `out`; gives the bytes used. `None` if `out` is too small.
#[must_use]
pub fn encode_request(head: Head, request: Result<Request<'_>, Errno>, out: &mut [u8]) -> Option<usize> {
    Some(postcard::to_slice(&Body(head, request), out).ok()?.len())
}

/// The request in a call's body.
#[must_use]
pub fn decode_request(body: &[u8]) -> Option<(Head, Result<Request<'_>, Errno>)> {
    postcard::from_bytes(body).ok().map(|Body(head, request)| (head, request))
}

/// Writes a message into `out`; gives the bytes used. `None` if `out` is too small.
#[must_use]
pub fn encode_message(message: &Message<'_>, out: &mut [u8]) -> Option<usize> {
    Some(postcard::to_slice(message, out).ok()?.len())
}

/// The message in a record.
#[must_use]
pub fn decode_message(data: &[u8]) -> Option<Message<'_>> {
    postcard::from_bytes(data).ok()
}
