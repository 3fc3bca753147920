//! For tests on a running host, and in no product program: what Xen must refuse, and a device that is driven by hand.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

pub use crate::control::probe::{DOMAIN_CALLS, DomainCall, OwnPage, Probe};
use crate::mapping::Mapping;
use crate::page::PAGE_SIZE;

/// Registers of a device: one of its memory BARs, as Linux's `resourceN` file shows it.
#[derive(Debug)]
pub struct Mmio {
    mapping: Mapping,
}

impl Mmio {
    /// Maps the first `len` bytes (whole pages) of the BAR.
    ///
    /// # Errors
    /// What Linux says.
    pub fn map(resource: &File, len: usize) -> io::Result<Self> {
        Mapping::device(resource.as_fd(), len, 0).map(|mapping| Self { mapping })
    }

    /// Reads a 32-bit register.
    ///
    /// # Errors
    /// `EINVAL` if there is none at this offset.
    pub fn read32(&self, offset: usize) -> io::Result<u32> {
        let register = self.register(offset)?;
        // SAFETY: aligned and inside the mapping.
        Ok(unsafe { register.read_volatile() })
    }

    /// Reads a 64-bit register.
    ///
    /// # Errors
    /// As [`Mmio::read32`].
    pub fn read64(&self, offset: usize) -> io::Result<u64> {
        let register = self.register(offset)?;
        // SAFETY: aligned and inside the mapping.
        Ok(unsafe { register.read_volatile() })
    }

    /// Writes a 32-bit register.
    ///
    /// # Errors
    /// As [`Mmio::read32`].
    pub fn write32(&self, offset: usize, value: u32) -> io::Result<()> {
        let register = self.register(offset)?;
        // SAFETY: aligned and inside the mapping. A device can do harm with it by DMA only where the IOMMU lets it.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    /// Writes a 64-bit register.
    ///
    /// # Errors
    /// As [`Mmio::read32`].
    pub fn write64(&self, offset: usize, value: u64) -> io::Result<()> {
        let register = self.register(offset)?;
        // SAFETY: aligned and inside the mapping. A device can do harm with it by DMA only where the IOMMU lets it.
        unsafe { register.write_volatile(value) };
        Ok(())
    }

    fn register<T>(&self, offset: usize) -> io::Result<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>()).filter(|end| *end <= self.mapping.len());
        if end.is_none() || offset % align_of::<T>() != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the offset is inside the mapping.
        Ok(unsafe { self.mapping.start().byte_add(offset) }.cast())
    }
}

/// Memory in which every 32-bit word differs from every other and none is 0: whoever writes to it is noticed.
#[derive(Debug)]
pub struct MarkedMemory {
    mapping: Mapping,
    pages: usize,
}

impl MarkedMemory {
    /// So many pages, which stay in RAM.
    ///
    /// # Errors
    /// What Linux says.
    pub fn new(pages: usize) -> io::Result<Self> {
        let len =
            pages.checked_mul(PAGE_SIZE).ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let memory = Self { mapping: Mapping::locked(len)?, pages };
        for offset in (0..len).step_by(size_of::<u32>()) {
            memory.mark(offset);
        }
        Ok(memory)
    }

    /// How many pages there are.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Pages of which a word has changed.
    #[must_use]
    pub fn changed_pages(&self) -> usize {
        let changed =
            |page: &usize| (0..PAGE_SIZE).step_by(4).any(|word| self.has_changed(page * PAGE_SIZE + word));
        (0..self.pages).filter(changed).count()
    }

    /// The first page whose word at `offset` has changed. The word is marked again.
    #[must_use]
    pub fn take_changed(&self, offset: usize) -> Option<usize> {
        let page = (0..self.pages).find(|page| self.has_changed(page * PAGE_SIZE + offset))?;
        self.mark(page * PAGE_SIZE + offset);
        Some(page)
    }

    fn mark(&self, offset: usize) {
        if let Some(word) = self.mapping.word32(offset) {
            word.store(marker(offset), Ordering::Relaxed);
        }
    }

    fn has_changed(&self, offset: usize) -> bool {
        let word = self.mapping.word32(black_box(offset));
        word.is_some_and(|word| word.load(Ordering::Acquire) != marker(offset))
    }
}

/// Different for each word of the first 2 GiB, and never 0.
fn marker(offset: usize) -> u32 {
    u32::try_from(offset / size_of::<u32>()).unwrap_or(0) | 0xa000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_word_is_found_once() {
        let memory = MarkedMemory::new(3).unwrap();
        assert_eq!((memory.pages(), memory.changed_pages(), memory.take_changed(0x7c0)), (3, 0, None));
        memory.mapping.write(2 * PAGE_SIZE + 0x7c0, &[0; 4]).unwrap();
        assert_eq!(memory.changed_pages(), 1);
        assert_eq!(memory.take_changed(0x7c0), Some(2));
        assert_eq!((memory.take_changed(0x7c0), memory.changed_pages()), (None, 0));
        memory.mapping.fill(PAGE_SIZE - 4, 8, 0).unwrap();
        assert_eq!(memory.changed_pages(), 2);
    }

    #[test]
    fn registers_have_bounds_and_alignment() {
        let registers = Mmio { mapping: Mapping::locked(PAGE_SIZE).unwrap() };
        registers.write64(0x88, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(registers.read64(0x88).unwrap(), 0x1122_3344_5566_7788);
        assert_eq!(registers.read32(0x8c).unwrap(), 0x1122_3344);
        for offset in [4, PAGE_SIZE - 4, PAGE_SIZE, usize::MAX - 7] {
            assert!(registers.read64(offset).is_err(), "{offset:#x}");
        }
        assert!(registers.read32(PAGE_SIZE - 4).is_ok());
        assert!(registers.read32(2).is_err());
    }
}
