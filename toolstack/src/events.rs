//! What has happened, for whoever follows: the last events, and each new one as it comes.

use std::collections::VecDeque;

use tokio::sync::broadcast;

/// Events that are kept.
pub const KEPT: usize = 256;

/// The last events. A follower that is more than [`KEPT`] events behind loses the oldest.
#[derive(Debug)]
pub struct Log<E> {
    kept: VecDeque<E>,
    followers: broadcast::Sender<E>,
}

impl<E: Clone> Default for Log<E> {
    fn default() -> Self {
        Self { kept: VecDeque::new(), followers: broadcast::channel(KEPT).0 }
    }
}

impl<E: Clone> Log<E> {
    /// Adds one.
    pub fn push(&mut self, event: E) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        // Nobody may follow.
        let _ = self.followers.send(event);
    }

    /// The last events, the oldest first, and those to come.
    #[must_use]
    pub fn follow(&self) -> (Vec<E>, broadcast::Receiver<E>) {
        (self.kept.iter().cloned().collect(), self.followers.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_new_ones_come_once() {
        let mut log = Log::default();
        for n in 0..300 {
            log.push(n);
        }
        let (kept, mut new) = log.follow();
        assert_eq!(kept, (300 - KEPT..300).collect::<Vec<_>>());
        assert!(new.try_recv().is_err());
        log.push(300);
        assert_eq!(new.try_recv(), Ok(300));
    }
}
