//! Memory for I/O: whole pages, taken and given back in runs, at most as many as there are.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// A bounded supply of memory. A page takes real memory from its first use on.
#[derive(Clone)]
pub struct Buffers(Arc<Pages>);

struct Pages {
    base: NonNull<u8>,
    /// Which pages are taken.
    taken: Mutex<Vec<bool>>,
    len: usize,
}

// SAFETY: the memory belongs to the process; each page of it is given to one `Buffer` at a time.
unsafe impl Send for Pages {}
// SAFETY: as above; the list of pages has a lock.
unsafe impl Sync for Pages {}

impl Buffers {
    /// A supply of so many pages of 4096 bytes.
    ///
    /// # Errors
    /// Linux's; `InvalidInput` for none or too many.
    pub fn new(pages: usize) -> io::Result<Self> {
        let len = pages.checked_mul(PAGE).filter(|len| *len > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: with no address given the kernel takes unused addresses, so no existing mapping changes.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self(Arc::new(Pages { base, taken: Mutex::new(vec![false; pages]), len })))
    }

    /// Takes the first free run of pages for `len` bytes; `None` if there is none now. What is in it is anybody's.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<Buffer> {
        let count = len.div_ceil(PAGE);
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut first, mut run) = (0, 0);
        for (page, taken) in taken.iter().enumerate() {
            if run == count {
                break;
            }
            (first, run) = if *taken { (page + 1, 0) } else { (first, run + 1) };
        }
        let pages = taken.get_mut(first..first.checked_add(count)?).filter(|_| run == count && count > 0)?;
        pages.fill(true);
        Some(Buffer { pages: Arc::clone(&self.0), first, count, len })
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").field("len", &self.0.len).finish_non_exhaustive()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no `Buffer` is left.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A part of a [`Buffers`], page-aligned. Its pages go back when it is dropped.
pub struct Buffer {
    pages: Arc<Pages>,
    first: usize,
    count: usize,
    len: usize,
}

impl Buffer {
    /// The address, for the kernel. It may read and write `len` bytes there as long as this is owned and not looked into.
    pub(crate) fn address(&self) -> *mut u8 {
        // SAFETY: the first page is one of the mapping's.
        unsafe { self.pages.base.add(self.first * PAGE) }.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of pages that are this one's, initialised by the kernel, and borrowed with it.
        unsafe { slice::from_raw_parts(self.address(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively.
        unsafe { slice::from_raw_parts_mut(self.address(), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut taken = self.pages.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = taken.get_mut(self.first..self.first + self.count);
        pages.unwrap_or_default().fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_taken_once_and_come_back() {
        let buffers = Buffers::new(4).unwrap();
        let mut one = buffers.take(PAGE + 1).unwrap();
        let mut two = buffers.take(1).unwrap();
        assert_eq!((one.len(), two.len()), (PAGE + 1, 1));
        assert!(buffers.take(2 * PAGE).is_none());
        one.fill(1);
        two.fill(2);
        assert!(one.iter().all(|byte| *byte == 1));
        assert_eq!(one.address().addr() % PAGE, 0);
        drop(one);
        // Two pages in front, one behind: no run of three.
        assert!(buffers.take(3 * PAGE).is_none());
        drop(two);
        assert!(buffers.take(4 * PAGE).is_some());
        assert!(buffers.take(4 * PAGE + 1).is_none());
        assert!(buffers.take(0).is_none() && buffers.take(usize::MAX).is_none());
    }

    #[test]
    fn no_memory_is_no_supply() {
        assert!(Buffers::new(0).is_err() && Buffers::new(usize::MAX).is_err());
    }
}
