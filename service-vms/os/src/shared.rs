//! Memory shared between two processes (a memfd), and files used as such.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use ennead_xs_link::Shared;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A shared mapping. The other process may change any byte at any time.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread, and this is its only owner.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// `len` bytes of zeroes that can be passed on by their descriptor, and can neither grow nor shrink.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(len: usize) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("xenstore-link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, u64::try_from(len).map_err(io::Error::other)?)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd, len)
    }

    /// Memory that another process made with `new`.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` if it could shrink under us, since touching what is gone would end this process.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory that can shrink"));
        }
        let len = rustix::fs::fstat(&fd)?.st_size;
        Self::map(fd, usize::try_from(len).map_err(io::Error::other)?)
    }

    /// The first `len` bytes of a file, which stays as long: a ring page of a guest without Xen.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` if the file is shorter.
    pub fn from_file(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let there = rustix::fs::fstat(&fd)?.st_size;
        if usize::try_from(there).map_err(io::Error::other)? < len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is shorter than a page"));
        }
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with no address given the kernel takes unused addresses, so no existing mapping changes.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, fd })
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `base` points to `len` mapped bytes as long as `self` lives, and atomics may change under us.
        unsafe { std::slice::from_raw_parts(self.base.cast().as_ptr(), self.len) }
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let aligned = offset % 4 == 0 && offset.checked_add(4)? <= self.len;
        // SAFETY: inside the mapping (checked), which lives as long as `self`.
        let at = aligned.then(|| unsafe { self.base.add(offset) })?;
        // SAFETY: 4-byte aligned, since the base is page-aligned; atomics may change under us.
        Some(unsafe { at.cast().as_ref() })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Shared for SharedMemory {
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        let Some(from) = offset.checked_add(out.len()).and_then(|end| self.bytes().get(offset..end)) else {
            out.fill(0);
            return;
        };
        // SAFETY: both are of the same length, and `out` is private memory, so they do not overlap. The other process may
        // write meanwhile: then the copy holds some mixture of old and new bytes, which the callers expect.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), out.as_mut_ptr(), out.len()) };
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let Some(to) = offset.checked_add(data.len()).and_then(|end| self.bytes().get(offset..end)) else {
            return;
        };
        let to = to.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: both are of the same length and do not overlap; `AtomicU8` allows writing through a shared reference.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    fn size(&self) -> usize {
        self.len
    }
}
