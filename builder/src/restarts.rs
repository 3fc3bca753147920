//! Which VMs are to be built again, and when: at once, then with growing pauses, and not for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ennead_xen::DomId;

/// So many restarts in a row may fail; then the VM is left alone.
pub const MAX_FAILURES: u32 = 5;
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A VM that crashes sooner after it was healthy has not been restarted, it has failed once more.
const STEADY: Duration = Duration::from_secs(10);

/// What follows from a crash or a failed restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is built again after so long.
    After(Duration),
    /// It is not built again.
    GaveUp,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// When it is to be built again; `None` while it runs.
    due: Option<Instant>,
    healthy_since: Option<Instant>,
}

/// The VMs that were or are to be built again.
#[derive(Debug, Default)]
pub struct Restarts {
    records: BTreeMap<DomId, Record>,
}

impl Restarts {
    /// A VM that ran has to come back.
    pub fn crashed(&mut self, domid: DomId, now: Instant) -> Next {
        let record = self.records.entry(domid).or_default();
        match record.healthy_since.take() {
            Some(since) if now.saturating_duration_since(since) < STEADY => record.failures += 1,
            _ => record.failures = 0,
        }
        self.next(domid, now)
    }

    /// It was built again, or was to be, and did not become healthy.
    pub fn failed(&mut self, domid: DomId, now: Instant) -> Next {
        self.records.entry(domid).or_default().failures += 1;
        self.next(domid, now)
    }

    /// It was built again and is healthy.
    pub fn healthy(&mut self, domid: DomId, now: Instant) {
        let record = self.records.entry(domid).or_default();
        record.due = None;
        record.healthy_since = Some(now);
    }

    /// It is not to come back, or somebody else sees to that.
    pub fn forget(&mut self, domid: DomId) {
        self.records.remove(&domid);
    }

    /// Whether it is to come back.
    #[must_use]
    pub fn is_pending(&self, domid: DomId) -> bool {
        self.records.get(&domid).is_some_and(|record| record.due.is_some())
    }

    /// The VMs whose time has come.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<DomId> {
        let due = self.records.iter().filter(|(_, record)| record.due.is_some_and(|due| due <= now));
        due.map(|(domid, _)| *domid).collect()
    }

    /// How long until the next VM's time comes; `None` if there is none.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let next = self.records.values().filter_map(|record| record.due).min();
        next.map(|due| due.saturating_duration_since(now))
    }

    fn next(&mut self, domid: DomId, now: Instant) -> Next {
        let Some(record) = self.records.get_mut(&domid) else { return Next::GaveUp };
        if record.failures >= MAX_FAILURES {
            self.records.remove(&domid);
            return Next::GaveUp;
        }
        let pause = match record.failures {
            0 => Duration::ZERO,
            failures => FIRST_PAUSE.saturating_mul(1 << (failures - 1)),
        };
        record.due = now.checked_add(pause);
        Next::After(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: DomId = DomId(6);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_first_restart_is_at_once_and_pauses_grow_until_it_is_given_up() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        assert_eq!(restarts.crashed(VM, now), Next::After(seconds(0)));
        assert_eq!((restarts.due(now), restarts.wait(now)), (vec![VM], Some(seconds(0))));
        for pause in [1, 2, 4, 8] {
            assert_eq!(restarts.failed(VM, now), Next::After(seconds(pause)));
            assert_eq!(restarts.due(now), []);
            assert_eq!(restarts.wait(now), Some(seconds(pause)));
            assert_eq!(restarts.due(now + seconds(pause)), [VM]);
        }
        assert_eq!(restarts.failed(VM, now), Next::GaveUp);
        assert_eq!((restarts.is_pending(VM), restarts.wait(now)), (false, None));
    }

    #[test]
    fn a_vm_that_is_healthy_only_for_a_moment_has_failed() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        let mut crashes = 0;
        while restarts.crashed(VM, now + seconds(1)) != Next::GaveUp {
            restarts.healthy(VM, now);
            assert!(!restarts.is_pending(VM));
            crashes += 1;
        }
        assert_eq!(crashes, MAX_FAILURES);
    }

    #[test]
    fn a_vm_that_lasted_is_restarted_at_once_as_often_as_it_crashes() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(restarts.crashed(VM, now + STEADY), Next::After(seconds(0)));
            restarts.healthy(VM, now);
        }
    }

    #[test]
    fn a_vm_that_is_forgotten_does_not_come_back() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        restarts.failed(VM, now);
        assert!(restarts.is_pending(VM));
        restarts.forget(VM);
        assert_eq!((restarts.due(now + seconds(99)), restarts.wait(now)), (vec![], None));
    }
}
