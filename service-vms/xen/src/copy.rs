//! Bytes copied by Xen between our memory and pages that a peer granted to us, without mapping any (gntdev).
//!
//! Source: `GNTTABOP_copy` in xen/include/public/grant_table.h; tools' xen/sys/gntdev.h.

mod kept;

use std::fs::File;

use crate::error::{Error, Kind, Result};
use crate::page::PAGE_SIZE;
use crate::{DomId, GrantRef, ioctl, sys};

pub use kept::KeptGrants;

/// Our side of a copy.
#[derive(Debug)]
pub enum CopyMemory<'a> {
    /// Filled from the peer's page.
    To(&'a mut [u8]),
    /// Copied into the peer's page.
    From(&'a [u8]),
}

impl CopyMemory<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::To(bytes) => bytes.len(),
            Self::From(bytes) => bytes.len(),
        }
    }
}

/// One piece of a batch. It lies within one page of the peer's; ours may be anywhere.
#[derive(Debug)]
pub struct CopyOp<'a> {
    /// The peer's page.
    pub gref: GrantRef,
    /// First byte in it.
    pub offset: usize,
    /// Our side, which also says how many bytes.
    pub memory: CopyMemory<'a>,
    /// What became of it: `GNTST_*`.
    pub status: i16,
}

impl<'a> CopyOp<'a> {
    /// The status of what was done (`GNTST_okay`).
    pub const DONE: i16 = 0;
    /// The status of what has not been tried yet (`GNTST_general_error`).
    pub const FAILED: i16 = -1;
    /// The status of what lies outside the page (`GNTST_bad_copy_arg`).
    pub const OUTSIDE: i16 = -10;

    /// From the peer's page to us.
    pub fn read(gref: GrantRef, offset: usize, to: &'a mut [u8]) -> Self {
        Self { gref, offset, memory: CopyMemory::To(to), status: Self::FAILED }
    }

    /// From us to the peer's page.
    #[must_use]
    pub const fn write(gref: GrantRef, offset: usize, from: &'a [u8]) -> Self {
        Self { gref, offset, memory: CopyMemory::From(from), status: Self::FAILED }
    }

    /// Whether the bytes are where they belong. If not, any part of them may be.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.status == Self::DONE
    }

    /// As gntdev takes it; nothing for it to do, and the status already right, if it is done, there are no bytes, or not within the
    /// page.
    fn segment(&mut self, peer: DomId) -> sys::GntdevGrantCopySegment {
        let inside = self.offset.checked_add(self.memory.len()).is_some_and(|end| end <= PAGE_SIZE);
        let (len, status) = match u16::try_from(self.memory.len()) {
            _ if self.is_done() => (0, Self::DONE),
            Ok(0) if inside => (0, Self::DONE),
            Ok(len) if inside => (len, Self::FAILED),
            _ => (0, Self::OUTSIDE),
        };
        let offset = if inside { self.offset as u64 } else { 0 };
        let theirs = u64::from(self.gref.0) | offset << 32 | u64::from(peer.0) << 48;
        let (source, dest, flags) = match &mut self.memory {
            CopyMemory::To(to) => {
                (theirs, to.as_mut_ptr().expose_provenance() as u64, sys::GNTCOPY_SOURCE_GREF)
            }
            CopyMemory::From(from) => {
                (from.as_ptr().expose_provenance() as u64, theirs, sys::GNTCOPY_DEST_GREF)
            }
        };
        sys::GntdevGrantCopySegment { source, dest, len, flags, status }
    }
}

/// An open gntdev that copies, and maps nothing.
#[derive(Debug)]
pub struct GrantCopy {
    file: File,
    segments: Vec<sys::GntdevGrantCopySegment>,
}

impl GrantCopy {
    /// Opens `/dev/xen/gntdev`.
    ///
    /// # Errors
    /// The device is missing or may not be opened.
    pub fn open() -> Result<Self> {
        Ok(Self::with(ioctl::open("open /dev/xen/gntdev", 0)?))
    }

    pub(crate) const fn with(file: File) -> Self {
        Self { file, segments: Vec::new() }
    }

    /// Does all of `ops` that are not done yet with pages of domain `peer`, in order, and leaves in each what became of it: a wrong
    /// grant, or bytes outside the page, fail that one only.
    ///
    /// # Errors
    /// `EINVAL` for more than `u32::MAX` pieces; what else Linux says. Then any part may be done.
    pub fn copy(&mut self, peer: DomId, ops: &mut [CopyOp<'_>]) -> Result<()> {
        const OP: &str = "grant_copy";
        self.segments.clear();
        self.segments.extend(ops.iter_mut().map(|op| op.segment(peer)));
        let result = if self.segments.iter().all(|segment| segment.len == 0) {
            Ok(())
        } else {
            let count = u32::try_from(ops.len()).map_err(|_| Error::local(OP, Some(peer), libc::EINVAL))?;
            let mut request = sys::GntdevGrantCopy { count, segments: self.segments.as_mut_ptr() };
            // SAFETY: the number belongs to the structure. The driver reads and writes `count` segments, which are there; the
            // memory that a segment names is `len` bytes of a slice that `ops` borrows, exclusively where it is written.
            unsafe { ioctl::request_raw(&self.file, sys::IOCTL_GNTDEV_GRANT_COPY, &mut request) }
                .map(drop)
                .map_err(|e| Error::new(Kind::Driver, OP, Some(peer), e))
        };
        for (op, segment) in ops.iter_mut().zip(&self.segments) {
            op.status = segment.status;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copier() -> GrantCopy {
        GrantCopy::with(File::open("/dev/null").unwrap())
    }

    #[test]
    fn a_piece_names_both_sides() {
        let mut bytes = [0; 16];
        let address = bytes.as_ptr().addr() as u64;
        let segment = CopyOp::read(GrantRef(0x0102_0304), 0xff0, &mut bytes).segment(DomId(7));
        assert_eq!((segment.source, segment.dest), (0x0007_0ff0_0102_0304, address));
        assert_eq!((segment.len, segment.flags), (16, sys::GNTCOPY_SOURCE_GREF));
        let segment = CopyOp::write(GrantRef(8), 1, &bytes).segment(DomId(7));
        assert_eq!((segment.source, segment.dest), (address, 0x0007_0001_0000_0008));
        assert_eq!((segment.len, segment.flags), (16, sys::GNTCOPY_DEST_GREF));
    }

    #[test]
    fn what_is_outside_the_page_never_reaches_xen() {
        let bytes = vec![0; PAGE_SIZE + 1];
        let mut ops = [
            CopyOp::write(GrantRef(8), 1, &bytes[..PAGE_SIZE]),
            CopyOp::write(GrantRef(8), 0, &bytes),
            CopyOp::write(GrantRef(8), usize::MAX, &bytes[..2]),
            CopyOp::write(GrantRef(8), PAGE_SIZE + 1, &[]),
            CopyOp::write(GrantRef(8), PAGE_SIZE, &[]),
        ];
        // /dev/null knows no such request: had anything been left to do, this would fail.
        copier().copy(DomId(1), &mut ops).unwrap();
        let outside = CopyOp::OUTSIDE;
        assert_eq!(ops.map(|op| op.status), [outside, outside, outside, outside, CopyOp::DONE]);
    }

    #[test]
    fn what_linux_refuses_is_not_done() {
        let mut bytes = [0; 4];
        let mut ops = [CopyOp::read(GrantRef(8), 0, &mut bytes)];
        let error = copier().copy(DomId(1), &mut ops).unwrap_err();
        assert_eq!((error.errno(), error.domid()), (Some(libc::ENOTTY), Some(DomId(1))));
        assert!(!ops[0].is_done());
    }
}
