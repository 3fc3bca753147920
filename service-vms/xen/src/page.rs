//! Pages that two parties share.

#[cfg(any(test, feature = "local"))]
mod local;

#[cfg(any(test, feature = "local"))]
pub use local::LocalPage;

/// The size of a page in bytes, everywhere in Xen on x86.
pub const PAGE_SIZE: usize = 4096;

/// Memory of one page of 4096 bytes or more, shared with a peer that may change any byte at any time.
///
/// Reads are copies: decide on the copy, never read twice. Nothing here panics. What lies outside the memory does not
/// exist: an access that is not wholly inside, or a `load`/`store` that is not 4-byte aligned, reads zeroes and writes
/// nothing. Offsets computed from what the peer wrote must still be checked by the caller, to notice.
///
/// Order: what was written before a [`store`](Self::store) is visible to a peer whose [`load`](Self::load) sees the
/// stored value. Nothing orders a `store` before a later `load` of another word: send the event after every `store`
/// that the peer may wait for, rather than looking first whether it waits.
pub trait SharedPage: Send {
    /// Bytes in all.
    fn size(&self) -> usize {
        PAGE_SIZE
    }
    /// The 32-bit word at a byte offset, in one access (acquire).
    fn load(&self, offset: usize) -> u32;
    /// Sets the 32-bit word at a byte offset, in one access (release).
    fn store(&self, offset: usize, value: u32);
    /// Copies bytes out; not in one access.
    fn read(&self, offset: usize, out: &mut [u8]);
    /// Copies bytes in; not in one access.
    fn write(&self, offset: usize, data: &[u8]);
}

impl<P: SharedPage + ?Sized> SharedPage for Box<P> {
    fn size(&self) -> usize {
        (**self).size()
    }

    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        (**self).read(offset, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        (**self).write(offset, data);
    }
}
