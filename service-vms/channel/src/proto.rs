//! Messages, and the protocols that they form. Encoded with postcard; decoding is bounded and refuses trailing bytes.

pub mod guests;
pub mod line;
pub mod pciback;
pub mod xenstore;

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, MAX_MESSAGE, Violation};

/// What a client and a server speak. Lists and texts in the messages are `List` and `Text`, so that they are bounded.
pub trait Protocol {
    /// Stands in the page's header, so that a wrongly wired channel is noticed; four letters, little-endian.
    const ID: u32;
    /// From the client to the server.
    type Request: Serialize + DeserializeOwned + Debug;
    /// From the server to the client.
    type Reply: Serialize + DeserializeOwned + Debug;
}

/// A message with the number of the request that it is or answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged<T> {
    /// Chosen by the client, echoed in every reply.
    pub id: u32,
    /// The message.
    pub body: T,
}

/// Encodes a message.
///
/// # Errors
/// `TooLong`; `Encode` if serde cannot.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_allocvec(message).map_err(Error::Encode)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLong { len: bytes.len() });
    }
    Ok(bytes)
}

/// Decodes a whole message.
///
/// # Errors
/// The violation, if the bytes are anything but exactly one message within its bounds.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Violation> {
    let wrong = Violation::Message { len: bytes.len() };
    if bytes.len() > MAX_MESSAGE {
        return Err(wrong);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(wrong),
    }
}
