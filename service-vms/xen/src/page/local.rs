//! A page for tests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{PAGE_SIZE, SharedPage};

const WORD: usize = size_of::<u32>();
const WORDS: usize = PAGE_SIZE / WORD;

/// A page of this program's own memory, to test protocols without Xen: clone it, one end for each party.
#[derive(Clone)]
pub struct LocalPage(Arc<[AtomicU32; WORDS]>);

impl LocalPage {
    /// A page of zeroes.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new([const { AtomicU32::new(0) }; WORDS]))
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        (offset % WORD == 0).then(|| self.0.get(offset / WORD)).flatten()
    }
}

impl Default for LocalPage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LocalPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPage").finish_non_exhaustive()
    }
}

fn is_inside(offset: usize, len: usize) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE)
}

impl SharedPage for LocalPage {
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).map_or(0, |w| w.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.fill(0);
        if is_inside(offset, out.len()) {
            for (at, byte) in (offset..).zip(out) {
                let word = self.0.get(at / WORD).map_or(0, |w| w.load(Ordering::Relaxed));
                *byte = word.to_le_bytes().get(at % WORD).copied().unwrap_or(0);
            }
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        if !is_inside(offset, data.len()) {
            return;
        }
        for (at, byte) in (offset..).zip(data) {
            let Some(word) = self.0.get(at / WORD) else { continue };
            // The other bytes of the word may be the peer's: change this one only.
            let change = |old: u32| {
                let mut bytes = old.to_le_bytes();
                *bytes.get_mut(at % WORD)? = *byte;
                Some(u32::from_le_bytes(bytes))
            };
            let _unchanged = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn both_ends_see_the_same_bytes() {
        let (a, b) = (LocalPage::new(), LocalPage::new());
        let c = a.clone();
        a.write(5, &[1, 2, 3, 4, 5]);
        let mut out = [9; 7];
        c.read(4, &mut out);
        assert_eq!(out, [0, 1, 2, 3, 4, 5, 0]);
        assert_eq!(c.load(4), u32::from_le_bytes([0, 1, 2, 3]));
        assert_eq!(b.load(4), 0, "another page");
    }

    #[test]
    fn outside_reads_zero_and_ignores_writes() {
        let page = LocalPage::new();
        page.write(0, &[0xff; PAGE_SIZE]);
        for offset in [1, 2, 3, PAGE_SIZE - 3, PAGE_SIZE, usize::MAX, usize::MAX - 3] {
            assert_eq!(page.load(offset), 0, "{offset}");
            page.store(offset, 0);
            page.write(offset.max(PAGE_SIZE - 1), &[0; 2]);
            let mut out = [7; 2];
            page.read(offset.max(PAGE_SIZE - 1), &mut out);
            assert_eq!(out, [0; 2], "{offset}");
        }
        let mut all = [0; PAGE_SIZE];
        page.read(0, &mut all);
        assert_eq!(all, [0xff; PAGE_SIZE]);
    }

    #[test]
    fn a_store_publishes_what_was_written_before() {
        let page = LocalPage::new();
        let writer = page.clone();
        let thread = thread::spawn(move || {
            for n in 1..=1000_u32 {
                while writer.load(4) != n - 1 {
                    thread::yield_now();
                }
                writer.write(64, &n.to_le_bytes());
                writer.store(0, n);
            }
        });
        for n in 1..=1000_u32 {
            while page.load(0) != n {
                thread::yield_now();
            }
            let mut out = [0; 4];
            page.read(64, &mut out);
            assert_eq!(u32::from_le_bytes(out), n);
            page.store(4, n);
        }
        thread.join().unwrap();
    }

    #[test]
    fn a_boxed_page_is_a_page() {
        let page = LocalPage::new();
        let boxed: Box<dyn SharedPage> = Box::new(page.clone());
        boxed.store(8, 3);
        boxed.write(12, &[1]);
        let mut out = [0; 1];
        boxed.read(8, &mut out);
        assert_eq!((page.load(8), boxed.load(12), out), (3, 1, [3]));
    }
}
