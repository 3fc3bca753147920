//! Pages of a peer's that stay mapped. A frontend with `feature-persistent` (xen/include/public/io/blkif.h) uses the same grants
//! again and again, and to copy from or to a mapped page takes neither a system call nor a hypercall.

use std::collections::BTreeMap;

use super::{CopyMemory, CopyOp};
use crate::grants::MAX_REGION;
use crate::{DomId, GrantRef, MappedRegion, PAGE_SIZE, SharedPage};

/// Some of a peer's pages, mapped until this is dropped.
///
/// As long as one is mapped the peer's domid stays taken, even after the peer died.
#[derive(Debug)]
pub struct KeptGrants<R = MappedRegion> {
    peer: DomId,
    /// How many more may be tried.
    left: usize,
    regions: Vec<R>,
    /// Index of the region that each is in, and where it begins there, bytes.
    pages: BTreeMap<GrantRef, (usize, usize)>,
}

impl KeptGrants {
    /// None yet; the first `most` different grants that come are kept. (One that cannot be mapped counts too, and is tried
    /// again.)
    #[must_use]
    pub const fn new(peer: DomId, most: usize) -> Self {
        Self { peer, left: most, regions: Vec::new(), pages: BTreeMap::new() }
    }

    /// Does those copies whose pages are kept, or can be from now on. The others are left as they were, for
    /// [`GrantCopy`](crate::GrantCopy).
    pub fn copy(&mut self, ops: &mut [CopyOp<'_>]) {
        self.copy_by(ops, |peer, grefs| MappedRegion::map(peer, grefs).ok());
    }
}

impl<R: SharedPage> KeptGrants<R> {
    fn copy_by(&mut self, ops: &mut [CopyOp<'_>], map: impl Fn(DomId, &[GrantRef]) -> Option<R>) {
        if self.left > 0 {
            self.keep(ops.iter().map(|op| op.gref), map);
        }
        ops.iter_mut().for_each(|op| self.copy_one(op));
    }

    /// Maps those that are new side by side, since each mapping takes memory of Linux's.
    fn keep(&mut self, grefs: impl Iterator<Item = GrantRef>, map: impl Fn(DomId, &[GrantRef]) -> Option<R>) {
        let mut new: Vec<GrantRef> = grefs.filter(|gref| !self.pages.contains_key(gref)).collect();
        new.sort_unstable();
        new.dedup();
        new.truncate(self.left.min(MAX_REGION));
        self.left -= new.len();
        // If one of them cannot be mapped, none is.
        let mut at_once = if new.len() > 1 { map(self.peer, &new) } else { None };
        let size = if at_once.is_some() { new.len() } else { 1 };
        for grefs in new.chunks(size) {
            let Some(region) = at_once.take().or_else(|| map(self.peer, grefs)) else { continue };
            let (at, places) = (self.regions.len(), grefs.iter().enumerate());
            self.regions.push(region);
            self.pages.extend(places.map(|(n, gref)| (*gref, (at, n * PAGE_SIZE))));
        }
    }

    fn copy_one(&self, op: &mut CopyOp<'_>) {
        let place = self.pages.get(&op.gref);
        let Some((region, begin)) = place.and_then(|(at, begin)| Some((self.regions.get(*at)?, begin)))
        else {
            return;
        };
        if op.offset.checked_add(op.memory.len()).is_none_or(|end| end > PAGE_SIZE) {
            op.status = CopyOp::OUTSIDE;
            return;
        }
        match &mut op.memory {
            CopyMemory::To(to) => region.read(begin + op.offset, to),
            CopyMemory::From(from) => region.write(begin + op.offset, from),
        }
        op.status = CopyOp::DONE;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;
    use std::rc::Rc;

    use super::*;
    use crate::{GrantCopy, LocalPage};

    /// Pages that the peer has given: 8 to 19. Each is full of its number.
    #[derive(Debug)]
    struct Pages(Vec<LocalPage>);

    impl SharedPage for Pages {
        fn size(&self) -> usize {
            self.0.len() * PAGE_SIZE
        }

        fn load(&self, offset: usize) -> u32 {
            self.0[offset / PAGE_SIZE].load(offset % PAGE_SIZE)
        }

        fn store(&self, offset: usize, value: u32) {
            self.0[offset / PAGE_SIZE].store(offset % PAGE_SIZE, value);
        }

        fn read(&self, offset: usize, out: &mut [u8]) {
            self.0[offset / PAGE_SIZE].read(offset % PAGE_SIZE, out);
        }

        fn write(&self, offset: usize, data: &[u8]) {
            self.0[offset / PAGE_SIZE].write(offset % PAGE_SIZE, data);
        }
    }

    /// How many were mapped at once.
    type Calls = Rc<RefCell<Vec<usize>>>;

    fn pages(calls: &Calls) -> impl Fn(DomId, &[GrantRef]) -> Option<Pages> {
        let calls = Rc::clone(calls);
        move |peer, grefs| {
            calls.borrow_mut().push(grefs.len());
            let page = |gref: &GrantRef| {
                let page = LocalPage::new();
                page.write(0, &[u8::try_from(gref.0).unwrap(); PAGE_SIZE]);
                (peer == DomId(1) && (8..20).contains(&gref.0)).then_some(page)
            };
            Some(Pages(grefs.iter().map(page).collect::<Option<_>>()?)).filter(|pages| !pages.0.is_empty())
        }
    }

    fn kept(left: usize) -> KeptGrants<Pages> {
        KeptGrants { peer: DomId(1), left, regions: Vec::new(), pages: BTreeMap::new() }
    }

    fn nothing(_: DomId, _: &[GrantRef]) -> Option<Pages> {
        None
    }

    #[test]
    fn a_kept_page_is_copied_from_and_to() {
        let (mut kept, calls) = (kept(2), Calls::default());
        let (mut first, mut second) = ([0; 2], [0; 4]);
        let mut ops = [
            CopyOp::write(GrantRef(9), 10, &[7, 6]),
            CopyOp::read(GrantRef(8), 0, &mut first),
            CopyOp::read(GrantRef(9), 9, &mut second),
        ];
        kept.copy_by(&mut ops, pages(&calls));
        assert!(ops.iter().all(CopyOp::is_done));
        assert_eq!((first, second, &**calls.borrow()), ([8, 8], [9, 7, 6, 9], &[2][..]), "at once");
        for offset in [PAGE_SIZE - 1, usize::MAX] {
            let mut outside = [CopyOp::write(GrantRef(8), offset, &[1, 2])];
            kept.copy_by(&mut outside, nothing);
            assert_eq!(outside[0].status, CopyOp::OUTSIDE, "{offset}");
        }
    }

    #[test]
    fn one_that_cannot_be_mapped_keeps_no_other_from_it() {
        let (mut kept, calls) = (kept(10), Calls::default());
        let mut ops = [7, 8, 9, 20].map(|gref| CopyOp::write(GrantRef(gref), 0, &[1]));
        kept.copy_by(&mut ops, pages(&calls));
        assert_eq!(ops.map(|op| op.is_done()), [false, true, true, false]);
        assert_eq!((&**calls.borrow(), kept.left), (&[4, 1, 1, 1, 1][..], 6));
    }

    #[test]
    fn what_cannot_be_kept_is_left_and_not_tried_for_ever() {
        let mut kept = kept(2);
        for left in [1, 0, 0] {
            let mut ops = [CopyOp::write(GrantRef(7), 0, &[1])];
            kept.copy_by(&mut ops, nothing);
            assert_eq!((ops[0].status, kept.left), (CopyOp::FAILED, left));
        }
        let mut late = [CopyOp::write(GrantRef(8), 0, &[1])];
        kept.copy_by(&mut late, pages(&Calls::default()));
        assert!(!late[0].is_done() && kept.pages.is_empty());
    }

    #[test]
    fn no_more_are_kept_than_allowed() {
        let (mut kept, calls) = (kept(3), Calls::default());
        for _ in 0..2 {
            let mut ops: Vec<_> = (8..13).map(|gref| CopyOp::write(GrantRef(gref), 0, &[1])).collect();
            kept.copy_by(&mut ops, pages(&calls));
            assert_eq!(ops.iter().filter(|op| op.is_done()).count(), 3);
        }
        assert_eq!(**calls.borrow(), [3]);
    }

    #[test]
    fn what_is_done_is_not_done_by_xen_again() {
        let mut ops = [CopyOp::write(GrantRef(8), 0, &[1])];
        kept(1).copy_by(&mut ops, pages(&Calls::default()));
        // /dev/null knows no such request.
        GrantCopy::with(File::open("/dev/null").unwrap()).copy(DomId(1), &mut ops).unwrap();
        assert!(ops[0].is_done());
    }
}
