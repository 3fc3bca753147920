//! So that writes of guests cannot keep the operator's transactions from ever committing (XSA-206).
//!
//! C xenstored slows every guest's writes whenever any transaction is open. Here a guest's writes are slowed only while
//! an operator's or a service VM's transactions do fail: after `LOST` failures in a row, for `STARVING_MS`, each write
//! of a guest is followed by a pause for that guest. Pauses grow with the number of guests that are in one, so that all
//! guests together make at most one write in `PAUSE_MS`. In between every transaction has time to commit.
//!
//! Nothing is refused: State only says that it would rather not have that connection's next request yet
//! (`State::ready`), and a guest sees a slower answer.

use alloc::collections::BTreeMap;

/// Failed commits in a row that make a connection one that starves.
pub(crate) const LOST: u32 = 3;
/// How long after its last failed commit it is helped, milliseconds.
const STARVING_MS: u64 = 1000;
/// Time between two writes of guests meanwhile, milliseconds.
const PAUSE_MS: u64 = 50;

#[derive(Debug, Default)]
pub(crate) struct Fairness {
    starving_until: u64,
    /// Guests in a pause, and until when.
    paused: BTreeMap<u16, u64>,
}

impl Fairness {
    /// A commit of an operator or a service VM failed, `lost` times in a row now.
    pub(crate) fn lost(&mut self, now_ms: u64, lost: u32) {
        // Without a clock (`State::tick`) no pause would end.
        if lost >= LOST && now_ms > 0 {
            self.starving_until = now_ms.saturating_add(STARVING_MS);
        }
    }

    /// A commit came through that had failed so often.
    pub(crate) fn won(&mut self) {
        self.starving_until = 0;
        self.paused.clear();
    }

    /// A guest wrote.
    pub(crate) fn wrote(&mut self, now_ms: u64, domid: u16) {
        if now_ms < self.starving_until {
            self.paused.retain(|_, until| *until > now_ms);
            let others = u64::try_from(self.paused.len()).unwrap_or(u64::MAX);
            let pause = PAUSE_MS.saturating_mul(others.saturating_add(1));
            self.paused.insert(domid, now_ms.saturating_add(pause));
        }
    }

    pub(crate) fn is_paused(&self, now_ms: u64, domid: u16) -> bool {
        self.paused.get(&domid).is_some_and(|until| *until > now_ms)
    }

    pub(crate) fn forget(&mut self, domid: u16) {
        self.paused.remove(&domid);
    }
}
