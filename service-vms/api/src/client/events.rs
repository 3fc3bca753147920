//! The stream of events.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Error;
use crate::{Address, Event};

/// Bytes that the line of an event may at most have.
const MAX_LINE: usize = 64 * 1024;

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    address: Address,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    pub(super) fn new(address: Address, body: Incoming) -> Self {
        Self { address, body, buffer: Vec::new() }
    }

    /// The next event; `None` when there are no more. May be dropped while it waits, without losing one.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| self.foreign(format!("an event is wrong: {error}")));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(self.foreign("an event is too long".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(source)) => return Err(Error::Broken { address: self.address.clone(), source }),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.foreign("the last event has no end".to_owned())),
            }
        }
    }

    fn foreign(&self, problem: String) -> Error {
        Error::Foreign { address: self.address.clone(), problem }
    }
}
