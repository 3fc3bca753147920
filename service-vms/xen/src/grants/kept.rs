//! Pages of a peer's that stay mapped. A frontend with `feature-persistent` (xen/include/public/io/blkif.h) uses the same grants
//! again and again, and to copy from or to a mapped page takes neither a system call nor a hypercall.

use std::collections::BTreeMap;
use std::fs::File;

use super::map;
use crate::copy::{CopyMemory, CopyOp};
use crate::error::Result;
use crate::mapping::Mapping;
use crate::{DomId, GrantRef, ioctl};

/// Some of a peer's pages, mapped until this is dropped.
///
/// As long as one is mapped the peer's domid stays taken, even after the peer died.
#[derive(Debug)]
pub struct KeptGrants {
    peer: DomId,
    file: File,
    /// How many more may be tried.
    left: usize,
    pages: BTreeMap<GrantRef, Mapping>,
}

impl KeptGrants {
    /// None yet; the first `most` different grants that come are kept. (One that cannot be mapped counts too, and is tried
    /// again.)
    ///
    /// # Errors
    /// `/dev/xen/gntdev` is missing or may not be opened.
    pub fn open(peer: DomId, most: usize) -> Result<Self> {
        let file = ioctl::open("open /dev/xen/gntdev", 0)?;
        Ok(Self { peer, file, left: most, pages: BTreeMap::new() })
    }

    /// Does the copy if its page is kept, or can be from now on. Otherwise it is left as it was, for
    /// [`GrantCopy`](crate::GrantCopy).
    pub fn copy(&mut self, op: &mut CopyOp<'_>) {
        if !self.pages.contains_key(&op.gref) {
            self.keep(op.gref);
        }
        let Some(page) = self.pages.get(&op.gref) else { return };
        let done = match &mut op.memory {
            CopyMemory::To(to) => page.read(op.offset, to),
            CopyMemory::From(from) => page.write(op.offset, from),
        };
        op.status = if done.is_some() { CopyOp::DONE } else { CopyOp::OUTSIDE };
    }

    fn keep(&mut self, gref: GrantRef) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        if let Ok(page) = map(&self.file, self.peer, &[gref]) {
            self.pages.insert(gref, page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GrantCopy, PAGE_SIZE};

    /// Nothing can be mapped through it.
    fn kept(left: usize) -> KeptGrants {
        let file = File::open("/dev/null").unwrap();
        let page = Mapping::locked(PAGE_SIZE).unwrap();
        page.fill(0, PAGE_SIZE, 3).unwrap();
        KeptGrants { peer: DomId(1), file, left, pages: BTreeMap::from([(GrantRef(8), page)]) }
    }

    #[test]
    fn a_kept_page_is_copied_from_and_to() {
        let mut kept = kept(0);
        let mut there = [0; 4];
        let mut write = CopyOp::write(GrantRef(8), 10, &[7, 8]);
        kept.copy(&mut write);
        let mut read = CopyOp::read(GrantRef(8), 9, &mut there);
        kept.copy(&mut read);
        assert!(write.is_done() && read.is_done());
        assert_eq!(there, [3, 7, 8, 3]);
        for offset in [PAGE_SIZE - 1, usize::MAX] {
            let mut outside = CopyOp::write(GrantRef(8), offset, &[1, 2]);
            kept.copy(&mut outside);
            assert_eq!(outside.status, CopyOp::OUTSIDE, "{offset}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_left_and_not_tried_for_ever() {
        let mut kept = kept(2);
        for left in [1, 0, 0] {
            let mut op = CopyOp::write(GrantRef(9), 0, &[1]);
            kept.copy(&mut op);
            assert_eq!((op.status, kept.left), (CopyOp::FAILED, left));
        }
        assert_eq!(kept.pages.len(), 1);
    }

    #[test]
    fn what_is_done_is_not_done_by_xen_again() {
        let mut ops = [CopyOp::write(GrantRef(8), 0, &[1])];
        ops.iter_mut().for_each(|op| kept(0).copy(op));
        // /dev/null knows no such request.
        GrantCopy::with(File::open("/dev/null").unwrap()).copy(DomId(1), &mut ops).unwrap();
        assert!(ops[0].is_done());
    }
}
