//! Small reads and writes, for whose end the disk is asked again and again. An interrupt takes a PV domain several ways through Xen:
//! often longer than the disk takes.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ennead_backend::worth::Worth;
use ennead_os::{Completion, Operation, Uring};

/// Bytes of the largest that cost less than their interrupt.
pub const SMALL: usize = 16 << 10;

/// What takes longer keeps a processor busy for nothing. A disk of flash takes a tenth of it.
const SLOW: Duration = Duration::from_millis(2);
/// Times that it is not asked how long it took, after it was quick.
const UNTIMED: u32 = 7;

/// The queue of one ring's.
#[derive(Debug)]
pub struct Polled {
    uring: Uring,
    worth: Worth,
    /// Times that are waited before it is asked how long the next takes.
    untimed: u32,
}

impl Polled {
    /// For a ring of `slots` slots.
    ///
    /// # Errors
    /// Linux's.
    pub fn new(slots: u32) -> io::Result<Self> {
        Ok(Self { uring: Uring::polled(slots)?, worth: Worth::default(), untimed: 0 })
    }

    /// Whether this is better done here; to be asked once.
    pub fn takes(&mut self, operation: &Operation) -> bool {
        let small = matches!(operation,
            Operation::Read(_, buffer) | Operation::Write(_, buffer) if buffer.len() <= SMALL);
        small && (self.is_busy() || self.worth.is_it())
    }

    /// Starts what it takes, with the next [`wait`](Self::wait).
    ///
    /// # Errors
    /// Linux's.
    pub fn start(&mut self, file: &Arc<File>, operation: Operation, token: u64) -> io::Result<()> {
        self.uring.start(file, operation, token)
    }

    /// Whether something is under way, or has ended and is not taken yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.uring.in_flight() > 0
    }

    /// Asks the disk until something has ended, or somebody else has work for the processor.
    ///
    /// # Errors
    /// Linux's.
    pub fn wait(&mut self) -> io::Result<()> {
        // To ask for the time is a system call, too.
        let start = (self.untimed == 0).then(Instant::now);
        self.uring.submit(1)?;
        self.took(start.map(|start| start.elapsed()));
        Ok(())
    }

    fn took(&mut self, time: Option<Duration>) {
        let Some(time) = time else {
            self.untimed = self.untimed.saturating_sub(1);
            return;
        };
        let quick = time < SLOW;
        self.worth.note(quick);
        self.untimed = if quick { UNTIMED } else { 0 };
    }

    /// The next operation that has ended.
    pub fn completed(&mut self) -> Option<Completion> {
        self.uring.completed()
    }
}

#[cfg(test)]
mod tests {
    use ennead_os::Buffers;

    use super::*;

    /// How many reads it leaves to interrupts.
    fn left(polled: &mut Polled) -> usize {
        let read = Operation::Read(0, Buffers::new(1).unwrap().take(512).unwrap());
        (0..).take_while(|_| !polled.takes(&read)).count()
    }

    #[test]
    fn a_slow_disk_is_hardly_ever_asked() {
        let mut polled = Polled::new(1).unwrap();
        assert_eq!(left(&mut polled), 0);
        for expected in [1, 3, 7] {
            polled.took(Some(SLOW));
            assert_eq!((left(&mut polled), polled.untimed), (expected, 0));
        }
        polled.took(Some(SLOW - Duration::from_nanos(1)));
        for untimed in (0..UNTIMED).rev() {
            assert_eq!(left(&mut polled), 0);
            polled.took(None);
            assert_eq!(polled.untimed, untimed);
        }
        polled.took(Some(SLOW));
        assert_eq!(left(&mut polled), 7, "half of what it was, and one more in vain");
    }
}
