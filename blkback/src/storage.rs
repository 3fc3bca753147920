//! I/O on a volume.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ennead_os::{Buffer, Buffers, Completion, Operation, Uring};

use crate::polled::Polled;

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

/// What a volume's I/O is done on.
#[derive(Debug, Clone)]
pub struct Medium {
    /// Opened for I/O past the kernel's cache.
    pub file: Arc<File>,
    /// Whether it can be asked for the end of its I/O, instead of interrupting.
    pub polled: bool,
}

/// Bytes of an event: its port (xen/sys/evtchn.h).
const PORT: usize = 4;

/// What a thread of a ring waits for, besides its I/O.
const EVENT: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const UNMASKED: u64 = u64::MAX - 2;

/// The guest's events. Linux masks a port while its event is read and until the port is written back; both go to the kernel
/// together with I/O, since each system call costs a PV domain about as much as a small request.
#[derive(Debug)]
struct Bell {
    /// `/dev/xen/evtchn` with the one port.
    events: Arc<File>,
    memory: Buffers,
    /// The port, masked.
    masked: Option<Buffer>,
    listens: bool,
    rung: bool,
    /// Ports that are being unmasked.
    unmasking: usize,
    failed: Option<io::Error>,
}

/// A volume, with the queue of one ring's I/O.
#[derive(Debug)]
pub struct Disk {
    uring: Uring,
    polled: Option<Polled>,
    file: Arc<File>,
    bell: Bell,
    stopped: bool,
}

impl Disk {
    /// A queue for a ring of `slots` slots, whose guest's events are read from `events`, which never blocks, four bytes each. Whoever
    /// makes `stop` readable ends the thread.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(medium: Medium, slots: u32, events: &impl AsFd, stop: &OwnedFd) -> io::Result<Self> {
        let Medium { file, polled } = medium;
        let polled = if polled { Some(Polled::new(slots)?) } else { None };
        let mut uring = Uring::new(slots.saturating_add(3))?;
        uring.watch(&Arc::new(stop.try_clone()?), STOP)?;
        let bell = Bell {
            events: Arc::new(File::from(events.as_fd().try_clone_to_owned()?)),
            memory: Buffers::new(2)?,
            masked: None,
            listens: false,
            rung: false,
            unmasking: 0,
            failed: None,
        };
        Ok(Self { uring, polled, file, bell, stopped: false })
    }

    /// From the next [`submit`](Self::submit) on the guest's next event is waited for; what it has sent since the last is one.
    ///
    /// # Errors
    /// Linux's.
    pub fn listen(&mut self) -> io::Result<()> {
        if self.bell.listens {
            return Ok(());
        }
        if let Some(port) = self.bell.masked.take() {
            self.uring.start(&self.bell.events, Operation::Write(0, port), UNMASKED)?;
            self.bell.unmasking += 1;
        }
        let port = self.bell.memory.take(PORT).ok_or(io::ErrorKind::OutOfMemory)?;
        self.uring.start(&self.bell.events, Operation::Read(0, port), EVENT)?;
        self.bell.listens = true;
        Ok(())
    }

    /// Has Linux start what was given to it. With `wait`, comes back when something has happened: I/O has ended, an event has come
    /// that was listened for, or the end was asked for.
    ///
    /// # Errors
    /// Linux's.
    pub fn submit(&mut self, wait: bool) -> io::Result<()> {
        if let Some(error) = self.bell.failed.take() {
            return Err(error);
        }
        if wait { self.wait() } else { self.uring.submit(0) }
    }

    /// Whether the disk must be asked for the end of I/O: nobody else tells, so there is nothing to do but to [wait](Self::wait).
    #[must_use]
    pub fn is_polled(&self) -> bool {
        self.polled.as_ref().is_some_and(Polled::is_busy)
    }

    /// The same as [`submit`](Self::submit) that waits, but says nothing of events that cannot be read.
    ///
    /// # Errors
    /// Linux's.
    pub fn wait(&mut self) -> io::Result<()> {
        if let Some(polled) = self.polled.as_mut().filter(|polled| polled.is_busy()) {
            self.uring.submit(0)?;
            return polled.wait();
        }
        // Unmasking ends at once, and is nothing to wake up for.
        self.uring.submit(1 + self.bell.unmasking)
    }

    /// Whether something has ended that is not taken yet, or an event has come.
    pub fn has_completed(&mut self) -> bool {
        self.uring.has_completed()
    }

    /// Whether an event of the guest's has come since this was last asked.
    pub fn take_event(&mut self) -> bool {
        std::mem::take(&mut self.bell.rung)
    }

    /// Whether the end was asked for.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.uring.cancel(&self.bell.events);
    }
}

impl Bell {
    /// A port was read.
    fn rings(&mut self, Completion { result, buffer, .. }: Completion) {
        self.listens = false;
        match result {
            Ok(PORT) => (self.rung, self.masked) = (true, buffer),
            Ok(_) => self.failed = Some(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => self.failed = Some(error),
        }
    }

    fn unmasked(&mut self, result: io::Result<usize>) {
        self.unmasking = self.unmasking.saturating_sub(1);
        if let Err(error) = result {
            self.failed = Some(error);
        }
    }
}

impl Storage for Disk {
    fn start(&mut self, operation: Operation, token: u64) -> io::Result<()> {
        if let Some(polled) = &mut self.polled
            && polled.takes(&operation)
        {
            return polled.start(&self.file, operation, token);
        }
        self.uring.start(&self.file, operation, token)
    }

    fn completed(&mut self) -> Option<Completion> {
        let polled = self.polled.as_mut().and_then(Polled::completed);
        if polled.is_some() {
            return polled;
        }
        loop {
            let completion = self.uring.completed()?;
            match completion.token {
                EVENT => self.bell.rings(completion),
                UNMASKED => self.bell.unmasked(completion.result),
                STOP => self.stopped = true,
                _ => return Some(completion),
            }
        }
    }
}

#[cfg(test)]
mod tests;
