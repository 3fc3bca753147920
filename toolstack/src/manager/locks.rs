//! A lock for each name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Locks by name; a name that nobody uses takes no memory.
#[derive(Debug, Default)]
pub(super) struct Locks(RefCell<BTreeMap<String, Arc<Mutex<()>>>>);

impl Locks {
    /// Waits until nobody else has this name.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.borrow_mut();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_name_is_for_one_and_is_forgotten() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        locks.lock("b").await;
        let brief = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(brief, locks.lock("a")).await.is_err());
        drop(held);
        locks.lock("a").await;
        locks.lock("c").await;
        assert_eq!(locks.0.borrow().len(), 1);
    }
}
