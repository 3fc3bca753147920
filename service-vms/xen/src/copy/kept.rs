//! Pages of a peer's that stay mapped. A frontend with `feature-persistent` (xen/include/public/io/blkif.h) uses the same grants
//! again and again, and to copy from or to a mapped page takes neither a system call nor a hypercall.

use std::collections::BTreeMap;

use super::{CopyMemory, CopyOp};
use crate::{DomId, GrantRef, MappedPage, SharedPage};

/// Some of a peer's pages, mapped until this is dropped.
///
/// As long as one is mapped the peer's domid stays taken, even after the peer died.
#[derive(Debug)]
pub struct KeptGrants<P = MappedPage> {
    peer: DomId,
    /// How many more may be tried.
    left: usize,
    pages: BTreeMap<GrantRef, P>,
}

impl KeptGrants {
    /// None yet; the first `most` different grants that come are kept. (One that cannot be mapped counts too, and is tried
    /// again.)
    #[must_use]
    pub const fn new(peer: DomId, most: usize) -> Self {
        Self { peer, left: most, pages: BTreeMap::new() }
    }

    /// Does the copy if its page is kept, or can be from now on. Otherwise it is left as it was, for
    /// [`GrantCopy`](crate::GrantCopy).
    pub fn copy(&mut self, op: &mut CopyOp<'_>) {
        self.copy_by(op, |peer, gref| MappedPage::map(peer, gref).ok());
    }
}

impl<P: SharedPage> KeptGrants<P> {
    fn copy_by(&mut self, op: &mut CopyOp<'_>, map: impl Fn(DomId, GrantRef) -> Option<P>) {
        if self.left > 0 && !self.pages.contains_key(&op.gref) {
            self.left -= 1;
            self.pages.extend(map(self.peer, op.gref).map(|page| (op.gref, page)));
        }
        let Some(page) = self.pages.get(&op.gref) else { return };
        if op.offset.checked_add(op.memory.len()).is_none_or(|end| end > page.size()) {
            op.status = CopyOp::OUTSIDE;
            return;
        }
        match &mut op.memory {
            CopyMemory::To(to) => page.read(op.offset, to),
            CopyMemory::From(from) => page.write(op.offset, from),
        }
        op.status = CopyOp::DONE;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::{GrantCopy, LocalPage, PAGE_SIZE};

    /// The peer has given one page.
    fn page(peer: DomId, gref: GrantRef) -> Option<LocalPage> {
        let page = LocalPage::new();
        page.write(0, &[3; PAGE_SIZE]);
        (peer == DomId(1) && gref == GrantRef(8)).then_some(page)
    }

    fn kept(left: usize) -> KeptGrants<LocalPage> {
        KeptGrants { peer: DomId(1), left, pages: BTreeMap::new() }
    }

    #[test]
    fn a_kept_page_is_copied_from_and_to() {
        let mut kept = kept(1);
        let mut there = [0; 4];
        let mut write = CopyOp::write(GrantRef(8), 10, &[7, 8]);
        kept.copy_by(&mut write, page);
        let mut read = CopyOp::read(GrantRef(8), 9, &mut there);
        kept.copy_by(&mut read, |_, _| None);
        assert!(write.is_done() && read.is_done());
        assert_eq!(there, [3, 7, 8, 3]);
        for offset in [PAGE_SIZE - 1, usize::MAX] {
            let mut outside = CopyOp::write(GrantRef(8), offset, &[1, 2]);
            kept.copy_by(&mut outside, page);
            assert_eq!(outside.status, CopyOp::OUTSIDE, "{offset}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_left_and_not_tried_for_ever() {
        let mut kept = kept(2);
        for left in [1, 0, 0] {
            let mut op = CopyOp::write(GrantRef(9), 0, &[1]);
            kept.copy_by(&mut op, page);
            assert_eq!((op.status, kept.left), (CopyOp::FAILED, left));
        }
        let mut late = CopyOp::write(GrantRef(8), 0, &[1]);
        kept.copy_by(&mut late, page);
        assert!(!late.is_done() && kept.pages.is_empty());
    }

    #[test]
    fn what_is_done_is_not_done_by_xen_again() {
        let mut ops = [CopyOp::write(GrantRef(8), 0, &[1])];
        ops.iter_mut().for_each(|op| kept(1).copy_by(op, page));
        // /dev/null knows no such request.
        GrantCopy::with(File::open("/dev/null").unwrap()).copy(DomId(1), &mut ops).unwrap();
        assert!(ops[0].is_done());
    }
}
