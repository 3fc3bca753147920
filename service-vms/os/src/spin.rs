//! Looking again for a while before sleeping: waking a processor that sleeps costs more than the work of a request.

use std::time::{Duration, Instant};

/// How long to look.
#[derive(Debug, Clone, Copy)]
pub struct Spin {
    budget: Duration,
    start: Instant,
}

impl Spin {
    /// Looks for `budget`; 0: sleeps at once.
    #[must_use]
    pub fn new(budget: Duration) -> Self {
        Self { budget, start: Instant::now() }
    }

    /// Whether to look once more; `round` counts from 0. Lets others run first.
    pub fn again(&mut self, round: u32) -> bool {
        if self.budget.is_zero() {
            return false;
        }
        let now = Instant::now();
        if round == 0 {
            self.start = now;
        }
        rustix::thread::sched_yield();
        now.duration_since(self.start) < self.budget
    }
}
