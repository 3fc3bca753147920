//! The memory that a backend's VM has for rings. It is given out in advance, whole rings only: guests that ask for more wait, and
//! those that are served never find that there is none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of the memory that is available at the start, which are for rings: the rest is for what Linux and XenStore's answers
/// take.
const FOR_RINGS: (usize, usize) = (3, 4);

/// Bytes that Linux takes when the first grant is mapped: the page structures of one section (XEN_UNPOPULATED_ALLOC).
const SECTION: usize = 2 << 20;

/// So many rings.
#[derive(Debug, Clone)]
pub struct Budget {
    all: usize,
    left: Arc<AtomicUsize>,
}

/// Some of them, until it is dropped.
#[derive(Debug)]
pub struct Share {
    count: usize,
    left: Arc<AtomicUsize>,
}

impl Budget {
    /// For rings of at most `each` bytes, in what this VM has.
    ///
    /// # Errors
    /// Linux does not say how much that is.
    pub fn of_this_vm(each: usize) -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let bytes = available(&text).ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?;
        let (parts, whole) = FOR_RINGS;
        Ok(Self::new(bytes.saturating_sub(SECTION) / whole * parts / each.max(1)))
    }

    /// For `all` rings.
    #[must_use]
    pub fn new(all: usize) -> Self {
        Self { all, left: Arc::new(AtomicUsize::new(all)) }
    }

    /// Rings that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes so many rings.
    ///
    /// # Errors
    /// Not so many are left; it says how many there are at all.
    pub fn take(&self, count: usize) -> Result<Share, String> {
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
        match taken {
            Ok(_) => Ok(Share { count, left: Arc::clone(&self.left) }),
            Err(left) => Err(format!(
                "{count} rings are asked for and {left} of {} are left: this VM needs more `memory-mib`",
                self.all
            )),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.left.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// Bytes.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_no_more_is_given_than_there_is() {
        let budget = Budget::new(5);
        let first = budget.take(3).unwrap();
        assert_eq!(
            budget.take(3).unwrap_err(),
            "3 rings are asked for and 2 of 5 are left: this VM needs more `memory-mib`"
        );
        let second = budget.clone().take(2).unwrap();
        assert!(budget.take(1).is_err() && budget.left() == 0);
        drop(first);
        assert_eq!(budget.left(), 3);
        drop(second);
        assert_eq!(budget.left(), 5);
    }

    #[test]
    fn the_memory_that_there_is_is_read() {
        assert_eq!(available("MemTotal: 5 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemAvailable: many kB\n"), None);
        assert!(Budget::of_this_vm(1 << 20).unwrap().left() > 0);
        assert_eq!(Budget::of_this_vm(usize::MAX).unwrap().left(), 0);
    }
}
