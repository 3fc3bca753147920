//! I/O on block devices through io_uring: many at once, in one system call, and waiting for whatever comes first.
//!
//! What the kernel works with (the buffer, the open file) is owned here from the start of an operation until its completion has
//! been taken, so nothing else can touch it meanwhile.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::FallocateFlags;

use crate::Buffer;

/// What is to be done with a file. All offsets and lengths are in bytes.
#[derive(Debug)]
pub enum Operation {
    /// Fills the buffer from this offset on.
    Read(u64, Buffer),
    /// Writes the buffer from this offset on.
    Write(u64, Buffer),
    /// Makes what has been written durable (`fdatasync`).
    Sync,
    /// Frees a range, which then reads as zeroes.
    Discard {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// What has ended.
#[derive(Debug)]
pub struct Completion {
    /// As it was given at the start.
    pub token: u64,
    /// Bytes, for a read or write; otherwise 0.
    pub result: io::Result<usize>,
    /// The buffer, for a read or write.
    pub buffer: Option<Buffer>,
}

/// What the kernel uses, so that it stays.
#[derive(Debug)]
struct Flight {
    token: u64,
    buffer: Option<Buffer>,
    _file: Held,
}

#[derive(Debug)]
enum Held {
    File { _file: Arc<File> },
    Fd { _fd: Arc<OwnedFd> },
}

/// A queue of operations.
pub struct Uring {
    ring: IoUring,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Uring {
    /// A queue for up to `depth` operations and watches at once (at most 4096).
    ///
    /// # Errors
    /// Linux's: its kernel has no io_uring, or forbids it.
    pub fn new(depth: u32) -> io::Result<Self> {
        Self::of(&IoUring::builder(), depth)
    }

    /// A queue for up to `depth` reads and writes at once of block devices and files on them, opened with `O_DIRECT`, and for
    /// nothing else. There are no interrupts: a [`submit`](Self::submit) that waits asks the device again and again, and who never
    /// waits never hears of an end.
    ///
    /// # Errors
    /// As [`Uring::new`].
    pub fn polled(depth: u32) -> io::Result<Self> {
        Self::of(IoUring::builder().setup_iopoll(), depth)
    }

    fn of(builder: &io_uring::Builder, depth: u32) -> io::Result<Self> {
        let ring = builder.build(depth.next_power_of_two())?;
        let depth = usize::try_from(depth).map_err(io::Error::other)?;
        let flights = std::iter::repeat_with(|| None).take(depth).collect();
        Ok(Self { ring, flights, free: (0..depth).collect() })
    }

    /// Operations and watches that have not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Starts an operation; the kernel hears of it with the next [`submit`](Self::submit).
    ///
    /// # Errors
    /// As many as the queue takes are under way, or the buffer is too long.
    pub fn start(&mut self, file: &Arc<File>, operation: Operation, token: u64) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let (entry, buffer) = match operation {
            Operation::Read(offset, buffer) => {
                let len = u32::try_from(buffer.len()).map_err(io::Error::other)?;
                (opcode::Read::new(fd, buffer.address(), len).offset(offset).build(), Some(buffer))
            }
            Operation::Write(offset, buffer) => {
                let len = u32::try_from(buffer.len()).map_err(io::Error::other)?;
                (opcode::Write::new(fd, buffer.address(), len).offset(offset).build(), Some(buffer))
            }
            Operation::Sync => (opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(), None),
            Operation::Discard { offset, len } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let mode = i32::try_from(mode.bits()).map_err(io::Error::other)?;
                (opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build(), None)
            }
        };
        self.push(&entry, Flight { token, buffer, _file: Held::File { _file: Arc::clone(file) } })
    }

    /// Completes with `token`, once, when `fd` can be read.
    ///
    /// # Errors
    /// As many as the queue takes are under way.
    pub fn watch(&mut self, fd: &Arc<OwnedFd>, token: u64) -> io::Result<()> {
        let events = u32::from(rustix::event::PollFlags::IN.bits());
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).build();
        self.push(&entry, Flight { token, buffer: None, _file: Held::Fd { _fd: Arc::clone(fd) } })
    }

    fn push(&mut self, entry: &squeue::Entry, flight: Flight) -> io::Result<()> {
        let place = self.free.pop().ok_or(io::ErrorKind::QuotaExceeded)?;
        let entry = entry.clone().user_data(place as u64);
        // SAFETY: the buffer and the descriptor that the entry names are in `flight`, which stays, untouched, until the
        // entry has completed: `Drop` waits for that too.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.free.push(place);
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if let Some(at) = self.flights.get_mut(place) {
            *at = Some(flight);
        }
        Ok(())
    }

    /// Has the kernel start what was given since, and waits until so many have completed that are not taken yet.
    ///
    /// # Errors
    /// Linux's.
    pub fn submit(&mut self, wait: usize) -> io::Result<()> {
        if wait == 0 && self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit_and_wait(wait) {
            Ok(_) => Ok(()),
            // Completions must be taken first, or a signal came.
            Err(e) if matches!(e.raw_os_error(), Some(EBUSY | EINTR)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Has what is under way with this file end, done or not: what waits for somebody else would otherwise keep the queue from
    /// being dropped. The kernel hears of it with the next [`submit`](Self::submit).
    pub fn cancel(&mut self, file: &Arc<File>) {
        let all = CancelBuilder::fd(types::Fd(file.as_raw_fd())).all();
        let entry = opcode::AsyncCancel2::new(all).build().user_data(u64::MAX);
        // SAFETY: the entry names no memory. If there is no room for it, what was to end goes on.
        let _full = unsafe { self.ring.submission().push(&entry) };
    }

    /// Whether something has completed that is not taken yet.
    pub fn has_completed(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes what has completed.
    pub fn completed(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            let Ok(place) = usize::try_from(entry.user_data()) else { continue };
            let Some(Flight { token, buffer, .. }) = self.flights.get_mut(place).and_then(Option::take)
            else {
                continue;
            };
            self.free.push(place);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            return Some(Completion { token, result, buffer });
        }
    }
}

const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();

impl Drop for Uring {
    fn drop(&mut self) {
        while self.flights.iter().flatten().any(|flight| flight.buffer.is_some()) {
            if self.completed().is_none() && self.submit(1).is_err() {
                // The kernel may still use the buffers: they are lost, not given back.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
