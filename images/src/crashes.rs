//! Crashes of QEMU itself, which say nothing of the host that it emulates.
//!
//! Debian 12's QEMU 7.2 has one that comes now and then: with a thread per emulated processor, one that changes
//! the memory map (a driver enables its device) swaps the table by which another is just looking up a device's register, which
//! then reads from a region that is not there (SIGSEGV in `memory_region_dispatch_read`). Later QEMUs leave the
//! swap to each processor's own thread (`tcg_commit` in `softmmu/physmem.c`).

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

/// The signals of a program that goes wrong; SIGKILL is how a scenario cuts the power.
const SIGNALS: [Signal; 4] = [Signal::SEGV, Signal::ABORT, Signal::BUS, Signal::ILL];

/// The last crash of any of the machines that share it.
#[derive(Debug, Clone, Default)]
pub struct Crashes(Arc<Mutex<Option<ExitStatus>>>);

impl Crashes {
    /// Looks at how a QEMU ended.
    pub fn note(&self, status: ExitStatus) {
        if SIGNALS.iter().any(|signal| status.signal() == Some(signal.as_raw())) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        }
    }

    /// The last crash since it was asked last.
    #[must_use]
    pub fn take(&self) -> Option<ExitStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crash_is_one() {
        let crashes = Crashes::default();
        for ended in [0, 1 << 8, Signal::KILL.as_raw(), Signal::TERM.as_raw()] {
            crashes.clone().note(ExitStatus::from_raw(ended));
            assert_eq!(crashes.take(), None, "{ended}");
        }
        let crashed = ExitStatus::from_raw(Signal::SEGV.as_raw());
        crashes.clone().note(crashed);
        assert_eq!(crashes.take(), Some(crashed));
        assert_eq!(crashes.take(), None);
    }
}
