//! Events that wait until somebody asks for them: bounded, since whoever may write below a watched node makes them.

use std::collections::VecDeque;

use crate::Error;

/// Most events that wait.
pub const MAX_EVENTS: usize = 1024;

/// Something below a watched node has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What, as the watch named it (relative if that was).
    pub path: Vec<u8>,
    /// The watch's token.
    pub token: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Event>,
    lost: bool,
}

impl Queue {
    /// Adds one. The same once more says nothing new.
    pub(crate) fn push(&mut self, path: &[u8], token: &[u8]) {
        if self.waiting.iter().any(|event| event.path == path && event.token == token) {
            return;
        }
        if self.waiting.len() >= MAX_EVENTS {
            self.lost = true;
            return;
        }
        self.waiting.push_back(Event { path: path.to_vec(), token: token.to_vec() });
    }

    /// The next one; once an error if any were lost before it.
    pub(crate) fn pop(&mut self) -> Result<Option<Event>, Error> {
        if std::mem::take(&mut self.lost) {
            return Err(Error::EventsLost);
        }
        Ok(self.waiting.pop_front())
    }
}
