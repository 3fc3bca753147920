//! Shared memory as both halves see it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// Memory that two parties share. The other one may change any byte at any time: reads are copies, decide on the copy.
///
/// What lies outside reads as zeroes and takes no writes; so do words that are not 4-byte aligned.
pub trait Shared {
    /// The 32-bit word at a byte offset, in one access (acquire).
    fn load(&self, offset: usize) -> u32;
    /// Sets the 32-bit word at a byte offset, in one access (release).
    fn store(&self, offset: usize, value: u32);
    /// Copies bytes out.
    fn read(&self, offset: usize, out: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, data: &[u8]);
    /// Bytes that there are.
    fn size(&self) -> usize;
}

/// Memory of this program alone, to test both ends without another process: clone it, one for each end.
#[derive(Debug, Clone)]
pub struct LocalMemory(Arc<[AtomicU32]>);

impl LocalMemory {
    /// `len` bytes of zeroes, rounded down to words.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self((0..len / 4).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().into())
    }

    fn byte(&self, at: usize) -> Option<(&AtomicU32, usize)> {
        Some((self.0.get(at / 4)?, at % 4))
    }
}

impl Shared for LocalMemory {
    fn load(&self, offset: usize) -> u32 {
        if offset % 4 != 0 {
            return 0;
        }
        self.0.get(offset / 4).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.0.get(offset / 4).filter(|_| offset % 4 == 0) {
            word.store(value, Ordering::Release);
        }
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        for (at, byte) in (offset..).zip(out) {
            *byte = self.byte(at).map_or(0, |(word, i)| {
                word.load(Ordering::Relaxed).to_le_bytes().get(i).copied().unwrap_or(0)
            });
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        for (at, value) in (offset..).zip(data) {
            let Some((word, i)) = self.byte(at) else { return };
            let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
            if let Some(byte) = bytes.get_mut(i) {
                *byte = *value;
            }
            word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn size(&self) -> usize {
        self.0.len() * 4
    }
}
