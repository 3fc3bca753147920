//! How a thread is woken. Who leaves something for it rings only if it sleeps: to ring is a system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Of one thread.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Bell {
    /// Of a thread that is awake.
    ///
    /// # Errors
    /// Linux's.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, asleep: AtomicBool::new(false) })
    }

    /// The thread is about to sleep. What it looks for after this it finds, or the bell rings for it.
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// It looks by itself again.
    pub fn get_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Something was left for the thread: wakes it if it sleeps.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Wakes it, asleep or not.
    pub fn ring(&self) {
        // It fails only if it has been rung very often already.
        let _full = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Makes it quiet again. Before what it rang for is looked at.
    pub fn hush(&self) {
        let _quiet = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

/// Readable when it has been rung.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn it_rings_for_a_thread_that_sleeps_only() {
        let bell = Bell::new().unwrap();
        bell.wake();
        assert!(!rings(&bell), "nobody sleeps");
        bell.lie_down();
        assert!(!rings(&bell), "nothing was left");
        bell.wake();
        assert!(rings(&bell));
        bell.hush();
        bell.wake();
        assert!(!rings(&bell), "once is enough");
        bell.lie_down();
        bell.get_up();
        bell.wake();
        assert!(!rings(&bell), "who looks does not sleep");
        bell.ring();
        assert!(rings(&bell));
    }
}
