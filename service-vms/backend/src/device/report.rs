//! What is told of a device: by its threads to the driver, and by the driver to the log.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::driver::Device;

/// Most lines of a device in the log within a minute: a guest decides how often its frontend comes and goes, and all VMs
/// share the console.
const LINES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Report {
    pub(super) device: Device,
    pub(super) generation: u64,
    pub(super) reason: String,
    /// Whether it is not served any more.
    pub(super) is_end: bool,
}

/// Where the threads' reports arrive.
#[derive(Debug)]
pub(super) struct Reports {
    sender: Sender<Report>,
    receiver: Receiver<Report>,
    changed: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

impl Reports {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (sender, receiver) = mpsc::channel();
        Ok(Self { sender, receiver, changed: Arc::default(), bell: Arc::new(bell) })
    }

    pub(super) fn reporter(&self, device: Device, generation: u64) -> Reporter {
        Reporter { device, generation, sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes { changed: Arc::clone(&self.changed), bell: Arc::clone(&self.bell) }
    }

    /// Whether [`Changes::tell`] was called since this was last asked. After [`Reports::take`].
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Acquire)
    }

    /// All that have arrived.
    pub(super) fn take(&self) -> Vec<Report> {
        // First the bell: what comes behind it rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.receiver.try_iter().collect()
    }
}

/// Readable when there are reports.
impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// How another thread tells the driver that what devices are served from has changed.
#[derive(Debug, Clone)]
pub struct Changes {
    changed: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

impl Changes {
    /// Something has: the driver asks its backend about each device that is served.
    pub fn tell(&self) {
        self.changed.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// How the threads that serve a device tell that they cannot any more.
#[derive(Debug, Clone)]
pub struct Reporter {
    device: Device,
    generation: u64,
    sender: Sender<Report>,
    bell: Arc<OwnedFd>,
}

impl Reporter {
    /// The device.
    #[must_use]
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The frontend broke the protocol, or what it is served from is gone: it is to be disconnected. Serve it no more.
    #[expect(clippy::needless_pass_by_value, reason = "errors and texts alike")]
    pub fn broken(&self, reason: impl ToString) {
        self.send(reason.to_string(), true);
    }

    /// Something of the frontend's that the log may tell, now and then.
    #[expect(clippy::needless_pass_by_value, reason = "errors and texts alike")]
    pub fn odd(&self, reason: impl ToString) {
        self.send(reason.to_string(), false);
    }

    fn send(&self, reason: String, is_end: bool) {
        let report = Report { device: self.device, generation: self.generation, reason, is_end };
        // Without a receiver the program ends, and with it all devices.
        let _ = self.sender.send(report);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// Reports that nobody acts on.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct TestReports(Reports);

#[cfg(feature = "testing")]
impl TestReports {
    /// None yet.
    ///
    /// # Errors
    /// Linux's.
    pub fn new() -> io::Result<Self> {
        Reports::new().map(Self)
    }

    /// For the threads that serve a device.
    #[must_use]
    pub fn reporter(&self, device: Device) -> Reporter {
        self.0.reporter(device, 0)
    }

    /// Which devices are not served any more, since this was last asked, and why.
    #[must_use]
    pub fn ends(&self) -> Vec<(Device, String)> {
        self.0.take().into_iter().filter(|report| report.is_end).map(|r| (r.device, r.reason)).collect()
    }
}

/// How often a device does something.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    times: u32,
}

impl Pace {
    /// Whether a device may be spoken of; counts a line.
    pub(super) fn speaks(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE) {
            *self = Self { since: Some(now), times: 0 };
        }
        self.times = self.times.saturating_add(1);
        self.times <= LINES
    }
}

/// How often something may happen: `MOST` times at once, and once more every `EACH`.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// When all of it is there again.
    whole: Option<Instant>,
}

impl Credit {
    /// Uses one; if there is none, gives when there will be.
    pub(super) fn take(&mut self, most: u32, each: Duration, now: Instant) -> Result<(), Instant> {
        let whole = self.whole.map_or(now, |whole| whole.max(now)) + each;
        match whole.checked_sub(each * most).filter(|due| *due > now) {
            Some(due) => Err(due),
            None => {
                self.whole = Some(whole);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_comes_and_goes_is_spoken_of_now_and_then() {
        let (mut voice, start) = (Pace::default(), Instant::now());
        let spoken = |voice: &mut Pace, at| (0..100).filter(|_| voice.speaks(start + at)).count();
        assert_eq!(spoken(&mut voice, Duration::ZERO), 10);
        assert_eq!(spoken(&mut voice, MINUTE / 2), 0);
        assert_eq!(spoken(&mut voice, MINUTE), 10);
    }

    #[test]
    fn credit_comes_back_bit_by_bit() {
        const EACH: Duration = Duration::from_secs(2);
        let (mut credit, start) = (Credit::default(), Instant::now());
        let mut taken = |at: u64| {
            let now = start + Duration::from_secs(at);
            (0..100).filter(|_| credit.take(5, EACH, now).is_ok()).count()
        };
        assert_eq!([0, 1, 2, 3, 4, 10, 1000].map(&mut taken), [5, 0, 1, 0, 1, 3, 5]);
        let now = start + Duration::from_secs(1000);
        assert_eq!(credit.take(5, EACH, now), Err(now + EACH));
    }
}
