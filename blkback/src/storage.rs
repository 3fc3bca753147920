//! I/O on a volume.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ennead_os::{Completion, Operation, Uring};

/// Where a ring's I/O goes. Operations may end in any order.
pub trait Storage {
    /// Starts an operation.
    ///
    /// # Errors
    /// It was not started, and never will be.
    fn start(&mut self, operation: Operation, token: u64) -> io::Result<()>;

    /// The next operation that has ended.
    fn completed(&mut self) -> Option<Completion>;
}

/// What a thread of a ring waits for, besides its I/O.
const EVENT: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// A volume, with the queue of one ring's I/O.
#[derive(Debug)]
pub struct Disk {
    uring: Uring,
    file: Arc<File>,
    /// The guest's events, as we have them: another descriptor for each time would be two system calls more.
    events: Option<Arc<OwnedFd>>,
    watches_event: bool,
    rung: bool,
    stopped: bool,
}

impl Disk {
    /// A queue for a ring of `slots` slots. Whoever makes `stop` readable ends the thread.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(file: Arc<File>, slots: u32, stop: &OwnedFd) -> io::Result<Self> {
        let mut uring = Uring::new(slots.saturating_add(2))?;
        uring.watch(&Arc::new(stop.try_clone()?), STOP)?;
        Ok(Self { uring, file, events: None, watches_event: false, rung: false, stopped: false })
    }

    /// Has Linux start what was given to it. With `wait`, comes back when something has happened: I/O has ended, an event of the
    /// guest's has made `events` (the same each time) readable, or the end was asked for.
    ///
    /// # Errors
    /// Linux's.
    pub fn submit(&mut self, events: &impl AsFd, wait: bool) -> io::Result<()> {
        if !self.watches_event {
            let events = match &mut self.events {
                Some(events) => events,
                none => none.insert(Arc::new(events.as_fd().try_clone_to_owned()?)),
            };
            self.uring.watch(events, EVENT)?;
            self.watches_event = true;
        }
        self.uring.submit(wait && !self.rung && !self.stopped)
    }

    /// Has Linux start what was given to it, and comes back when something has ended.
    ///
    /// # Errors
    /// Linux's.
    pub fn wait(&mut self) -> io::Result<()> {
        self.uring.submit(true)
    }

    /// Whether an event of the guest's has come since this was last asked.
    pub fn take_event(&mut self) -> bool {
        std::mem::take(&mut self.rung)
    }

    /// Whether the end was asked for.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }
}

impl Storage for Disk {
    fn start(&mut self, operation: Operation, token: u64) -> io::Result<()> {
        self.uring.start(&self.file, operation, token)
    }

    fn completed(&mut self) -> Option<Completion> {
        loop {
            let completion = self.uring.completed()?;
            match completion.token {
                EVENT => (self.rung, self.watches_event) = (true, false),
                STOP => self.stopped = true,
                _ => return Some(completion),
            }
        }
    }
}

#[cfg(test)]
mod tests;
