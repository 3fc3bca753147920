//! Memory whose other users are outside this program: owned mappings, reached by copying only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();
const HALF_WORD: usize = size_of::<u32>();

/// A mapping of whole pages, unmapped on drop.
///
/// Another VM, or the kernel, may change the bytes at any time; all accesses are atomic. Within this program only one
/// thread at a time can hold it (it is not `Sync`), so accesses of different sizes never race here.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Mapping` is its only owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a device at `offset`, shared, for reading and writing.
    pub(crate) fn device(fd: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Self::map(fd.as_raw_fd(), libc::MAP_SHARED, len, offset)
    }

    /// Maps `len` bytes of zeroed private memory that stays in RAM.
    #[cfg(any(feature = "control", test))]
    pub(crate) fn locked(len: usize) -> io::Result<Self> {
        let mapping = Self::map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, len, 0)?;
        // SAFETY: the range is the mapping just made; locking does not change its contents.
        let result = unsafe { libc::mlock(mapping.base.as_ptr().cast(), len) };
        if result == 0 { Ok(mapping) } else { Err(io::Error::last_os_error()) }
    }

    fn map(fd: i32, flags: i32, len: usize, offset: libc::off_t) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED and with no address given the kernel picks unused addresses, so no existing
        // mapping changes.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(base.cast())
            .map(|base| Self { base, len })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The address, for the kernel.
    #[cfg(feature = "control")]
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// The start, for reading and writing a structure as a whole (page-aligned).
    #[cfg(feature = "control")]
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.base
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `base` points to `len` mapped bytes as long as `self` lives, and atomics may change under us.
        unsafe { slice::from_raw_parts(self.base.cast().as_ptr(), self.len) }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: as for `bytes`; the base is page-aligned and the length rounds down to whole words.
        unsafe { slice::from_raw_parts(self.base.cast().as_ptr(), self.len / WORD) }
    }

    fn half_words(&self) -> &[AtomicU32] {
        // SAFETY: as for `words`.
        unsafe { slice::from_raw_parts(self.base.cast().as_ptr(), self.len / HALF_WORD) }
    }

    /// The aligned 32-bit word at `offset`, if there is one.
    pub(crate) fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        (offset % HALF_WORD == 0).then(|| self.half_words().get(offset / HALF_WORD)).flatten()
    }

    /// Splits `offset..offset + len` into bytes before the first whole word, whole words, bytes after; `None` if it
    /// does not lie within the mapping.
    fn span(&self, offset: usize, len: usize) -> Option<(&[AtomicU8], &[AtomicU64], &[AtomicU8])> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len)?;
        let first = offset.next_multiple_of(WORD).min(end);
        let last = (end - end % WORD).max(first);
        let words = self.words().get(first / WORD..last / WORD).filter(|_| first < last).unwrap_or_default();
        Some((self.bytes().get(offset..first)?, words, self.bytes().get(last..end)?))
    }

    /// Copies out; `None` (and nothing copied) if the range is not within the mapping.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> Option<()> {
        let (head, words, tail) = self.span(offset, out.len())?;
        let (out_head, rest) = out.split_at_mut(head.len());
        let (out_words, out_tail) = rest.split_at_mut(words.len() * WORD);
        for (to, from) in out_head.iter_mut().zip(head).chain(out_tail.iter_mut().zip(tail)) {
            *to = from.load(Ordering::Relaxed);
        }
        for (to, from) in out_words.chunks_exact_mut(WORD).zip(words) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(())
    }

    /// Copies in; `None` (and nothing copied) if the range is not within the mapping.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> Option<()> {
        let (head, words, tail) = self.span(offset, data.len())?;
        let (data_head, rest) = data.split_at(head.len());
        let (data_words, data_tail) = rest.split_at(words.len() * WORD);
        for (from, to) in data_head.iter().zip(head).chain(data_tail.iter().zip(tail)) {
            to.store(*from, Ordering::Relaxed);
        }
        for (from, to) in data_words.chunks_exact(WORD).zip(words) {
            let mut word = [0; WORD];
            word.copy_from_slice(from);
            to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        Some(())
    }

    /// Sets every byte of the range; `None` (and nothing set) if it is not within the mapping.
    #[cfg(any(feature = "control", test))]
    pub(crate) fn fill(&self, offset: usize, len: usize, byte: u8) -> Option<()> {
        let (head, words, tail) = self.span(offset, len)?;
        for to in head.iter().chain(tail) {
            to.store(byte, Ordering::Relaxed);
        }
        for to in words {
            to.store(u64::from_ne_bytes([byte; WORD]), Ordering::Relaxed);
        }
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64;

    #[test]
    fn copies_are_exact_at_every_offset_and_length() {
        for offset in 0..LEN {
            for len in 0..=LEN - offset {
                let map = Mapping::locked(LEN).unwrap();
                map.fill(0, LEN, 0xee).unwrap();
                let data: Vec<u8> = (1..=64).take(len).collect();
                map.write(offset, &data).unwrap();
                let mut expected = vec![0xee; LEN];
                expected[offset..offset + len].copy_from_slice(&data);
                let mut all = vec![0; LEN];
                map.read(0, &mut all).unwrap();
                assert_eq!(all, expected, "write at {offset}, {len} bytes");
                let mut part = vec![0; len];
                map.read(offset, &mut part).unwrap();
                assert_eq!(part, data, "read at {offset}, {len} bytes");
                map.fill(offset, len, 7).unwrap();
                expected[offset..offset + len].fill(7);
                map.read(0, &mut all).unwrap();
                assert_eq!(all, expected, "fill at {offset}, {len} bytes");
            }
        }
    }

    #[test]
    fn nothing_outside_is_touched() {
        let map = Mapping::locked(LEN).unwrap();
        for (offset, len) in [(0, LEN + 1), (LEN, 1), (LEN + 1, 0), (usize::MAX, 2), (1, usize::MAX)] {
            assert!(map.fill(offset, len, 1).is_none(), "{offset} {len}");
        }
        assert!(map.write(LEN - 1, &[1, 2]).is_none());
        assert!(map.read(LEN - 1, &mut [0; 2]).is_none());
        let mut all = [9; LEN];
        map.read(0, &mut all).unwrap();
        assert_eq!(all, [0; LEN]);
        assert!(map.word32(LEN - 4).is_some());
        assert!(map.word32(LEN).is_none());
        assert!(map.word32(2).is_none());
    }
}
