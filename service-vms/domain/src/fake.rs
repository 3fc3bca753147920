//! A Xen that keeps its domain in a hash map, checks what the real one checks, and fails when told to. The pages of a PVH
//! domain are under their guest frames.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::{Hypervisor, NewDomain, Pages, Vcpu0};
use ennead_xen::{DomId, DomainKind, GrantRef, HvmParam, MemoryKind, MemoryRegion, Mfn, Port, PvhStart};

/// What memory holds that nobody has written.
const SCRUB: u8 = 0xc2;
pub(crate) const SHARED_INFO: Mfn = Mfn(0x77);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FakeError {
    #[error("Told to fail")]
    Told,
    #[error("Xen would not allow: {0}")]
    Wrong(&'static str),
}

type Result<T> = std::result::Result<T, FakeError>;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) created: Option<NewDomain>,
    pub(crate) destroyed: bool,
    pub(crate) max_kib: u64,
    pub(crate) pages: HashMap<u64, Option<Box<[u8; 4096]>>>,
    pub(crate) mapped: usize,
    pub(crate) most_mapped: usize,
    pub(crate) ports: Vec<DomId>,
    pub(crate) hypercall_page: Option<Mfn>,
    pub(crate) pinned: Option<Mfn>,
    pub(crate) grants: Vec<(GrantRef, DomId, Mfn)>,
    pub(crate) vcpu: Option<Vcpu0>,
    pub(crate) pool_kib: u64,
    pub(crate) map: Vec<MemoryRegion>,
    pub(crate) params: HashMap<HvmParam, u64>,
    pub(crate) pvh: Option<PvhStart>,
    pub(crate) calls: usize,
    next: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) state: Rc<RefCell<State>>,
    /// The call that fails, from 0 on.
    pub(crate) fail_at: Option<usize>,
    pub(crate) destroy_fails: bool,
    /// How many superpages Xen has.
    pub(crate) superpages: Option<usize>,
    /// How many pages Xen has.
    pub(crate) memory: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct FakePages {
    state: Rc<RefCell<State>>,
    fail_at: Option<usize>,
    mfns: Vec<Mfn>,
}

fn count(state: &RefCell<State>, fail_at: Option<usize>) -> Result<()> {
    let mut s = state.borrow_mut();
    s.calls += 1;
    if fail_at == Some(s.calls - 1) { Err(FakeError::Told) } else { Ok(()) }
}

fn ensure(good: bool, what: &'static str) -> Result<()> {
    if good { Ok(()) } else { Err(FakeError::Wrong(what)) }
}

impl Drop for FakePages {
    fn drop(&mut self) {
        self.state.borrow_mut().mapped -= self.mfns.len();
    }
}

impl Pages for FakePages {
    type Error = FakeError;

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        count(&self.state, self.fail_at)?;
        ensure(offset + bytes.len() <= self.mfns.len() * 4096, "a write outside the mapping")?;
        let mut state = self.state.borrow_mut();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let piece = &bytes[done..bytes.len().min(done + 4096 - at % 4096)];
            let page = state.pages.get_mut(&self.mfns[at / 4096].0).unwrap();
            page.get_or_insert_with(|| Box::new([SCRUB; 4096]))[at % 4096..][..piece.len()]
                .copy_from_slice(piece);
            done += piece.len();
        }
        Ok(())
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        ensure(offset + len <= self.mfns.len() * 4096, "zeros outside the mapping")?;
        self.write(offset, &vec![0; len])
    }
}

impl Fake {
    fn call(&self, d: DomId) -> Result<()> {
        count(&self.state, self.fail_at)?;
        let s = self.state.borrow();
        ensure(s.created.is_some_and(|c| c.domid == d) && !s.destroyed, "a call on no domain")
    }

    fn call_for(&self, d: DomId, kind: DomainKind) -> Result<()> {
        self.call(d)?;
        ensure(self.kind() == Some(kind), "a call for the other kind of domain")
    }

    fn kind(&self) -> Option<DomainKind> {
        self.state.borrow().created.map(|c| c.kind)
    }

    /// A PVH domain's memory from a guest-physical address on.
    pub(crate) fn physical(&self, at: u64, len: usize) -> Vec<u8> {
        let first = at / 4096;
        let pages = (first..(at + len as u64).div_ceil(4096)).flat_map(|pfn| self.page(Mfn(pfn)));
        pages.skip((at % 4096) as usize).take(len).collect()
    }

    pub(crate) fn page(&self, mfn: Mfn) -> [u8; 4096] {
        self.state.borrow().pages[&mfn.0].as_ref().map_or([SCRUB; 4096], |p| **p)
    }

    fn entry(&self, table: u64, index: u64) -> u64 {
        let at = index as usize % 512 * 8;
        let state = self.state.borrow();
        let page = state.pages[&table].as_ref().expect("a page table that nobody has written");
        u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
    }

    /// What a CPU finds at a virtual address: frame and whether it may write there.
    pub(crate) fn walk(&self, cr3: Mfn, va: u64) -> Option<(Mfn, bool)> {
        assert_eq!(va, ((va << 16) as i64 >> 16) as u64, "canonical");
        let mut mfn = cr3.0;
        let mut writable = true;
        for level in (0..4).rev() {
            let entry = self.entry(mfn, va >> (12 + 9 * level));
            if entry & 1 == 0 {
                return None;
            }
            writable &= entry & 2 != 0;
            mfn = entry << 12 >> 24;
        }
        Some((Mfn(mfn), writable))
    }

    /// Reads through the page tables.
    pub(crate) fn read(&self, va: u64, len: usize) -> Vec<u8> {
        let cr3 = self.state.borrow().vcpu.unwrap().cr3;
        let mut out = Vec::new();
        while out.len() < len {
            let at = va + out.len() as u64;
            let page = self.page(self.walk(cr3, at).unwrap_or_else(|| panic!("nothing at {at:#x}")).0);
            let offset = (at % 4096) as usize;
            out.extend(&page[offset..(offset + len - out.len()).min(4096)]);
        }
        out
    }

    pub(crate) fn number(&self, va: u64) -> u64 {
        u64::from_le_bytes(self.read(va, 8).try_into().unwrap())
    }

    /// Xen's rules for page tables: each frame is a table of one level or writable, never both.
    fn validate(&self, root: u64) -> Result<()> {
        let mut types: HashMap<u64, u32> = HashMap::new();
        let mut queue = vec![(root, 4)];
        while let Some((mfn, level)) = queue.pop() {
            match types.insert(mfn, level) {
                Some(before) if before == level => continue,
                Some(_) => return Err(FakeError::Wrong("a frame of two types")),
                None => {}
            }
            for index in 0..512 {
                let entry = self.entry(mfn, index);
                let target = entry << 12 >> 24;
                if entry & 1 == 0 {
                    ensure(entry == 0, "an entry that is neither there nor zero")?;
                    continue;
                }
                ensure(entry & !0x000f_ffff_ffff_f067 == 0, "strange flags")?;
                ensure(self.state.borrow().pages.contains_key(&target), "a foreign frame")?;
                if level > 1 {
                    ensure(level < 4 || !(256..272).contains(&index), "Xen's own slots")?;
                    queue.push((target, level - 1));
                } else if entry & 2 != 0 && types.insert(target, 0).is_some_and(|t| t != 0) {
                    return Err(FakeError::Wrong("a writable page table"));
                }
            }
        }
        Ok(())
    }
}

impl Hypervisor for Fake {
    type Error = FakeError;
    type Pages = FakePages;

    fn create_domain(&self, new: &NewDomain) -> Result<()> {
        count(&self.state, self.fail_at)?;
        let mut s = self.state.borrow_mut();
        ensure(s.created.is_none(), "the same domain twice")?;
        s.created = Some(*new);
        if new.kind == DomainKind::Pv {
            s.pages.insert(SHARED_INFO.0, None);
        }
        s.next = 1 << 30;
        Ok(())
    }

    fn destroy_domain(&self, d: DomId) -> Result<()> {
        let mut s = self.state.borrow_mut();
        assert_eq!(s.created.map(|c| c.domid), Some(d), "destroys a domain that it did not create");
        assert!(!s.destroyed);
        assert_eq!(s.mapped, 0, "a mapping keeps the domain from going away");
        ensure(!self.destroy_fails, "destroy")?;
        s.destroyed = true;
        Ok(())
    }

    fn set_max_mem_kib(&self, d: DomId, kib: u64) -> Result<()> {
        self.call(d)?;
        self.state.borrow_mut().max_kib = kib;
        Ok(())
    }

    fn populate(&self, d: DomId, order: u32, pfns: &[u64]) -> Result<Vec<Mfn>> {
        self.call(d)?;
        ensure(order <= 9, "an order above that of 2 MiB")?;
        ensure(!pfns.is_empty() && pfns.len() <= 1024, "a strange number of extents")?;
        let pvh = self.kind() == Some(DomainKind::Pvh);
        let mut s = self.state.borrow_mut();
        // Xen starts a domain with 1 MiB for page tables; that is not enough for all its memory.
        ensure(!pvh || s.pool_kib > 1024, "no memory for page tables")?;
        let mut out = Vec::new();
        for pfn in pfns {
            let have = if pvh { s.pages.len() } else { s.pages.len() - 1 };
            if order == 9 && self.superpages.is_some_and(|n| have / 512 >= n)
                || self.memory.is_some_and(|n| have >= n)
            {
                break;
            }
            ensure((have as u64 + (1 << order)) * 4 <= s.max_kib, "more memory than the limit")?;
            let first = if pvh {
                ensure(pfn % (1 << order) == 0, "a superpage across two")?;
                ensure(!s.pages.contains_key(pfn), "the same page twice")?;
                *pfn
            } else {
                // Downwards with gaps, aligned as Xen does.
                s.next = (s.next - (3 << order)) >> order << order;
                s.next
            };
            s.pages.extend((first..first + (1 << order)).map(|mfn| (mfn, None)));
            out.push(Mfn(first));
        }
        Ok(out)
    }

    fn shared_info(&self, d: DomId) -> Result<Mfn> {
        self.call_for(d, DomainKind::Pv)?;
        Ok(SHARED_INFO)
    }

    fn alloc_unbound_for(&self, d: DomId, remote: DomId) -> Result<Port> {
        self.call(d)?;
        let mut s = self.state.borrow_mut();
        s.ports.push(remote);
        Ok(Port(s.ports.len() as u32))
    }

    fn map(&self, d: DomId, mfns: &[Mfn]) -> Result<FakePages> {
        self.call(d)?;
        let mut s = self.state.borrow_mut();
        ensure(!mfns.is_empty(), "an empty mapping")?;
        ensure(mfns.iter().all(|m| s.pages.contains_key(&m.0)), "a frame that the domain does not have")?;
        s.mapped += mfns.len();
        s.most_mapped = s.most_mapped.max(s.mapped);
        Ok(FakePages { state: Rc::clone(&self.state), fail_at: self.fail_at, mfns: mfns.to_vec() })
    }

    fn hypercall_page(&self, d: DomId, mfn: Mfn) -> Result<()> {
        self.call_for(d, DomainKind::Pv)?;
        self.state.borrow_mut().hypercall_page = Some(mfn);
        Ok(())
    }

    fn pin_l4(&self, d: DomId, mfn: Mfn) -> Result<()> {
        self.call_for(d, DomainKind::Pv)?;
        ensure(self.state.borrow().mapped == 0, "a page table mapped writable elsewhere")?;
        self.validate(mfn.0)?;
        self.state.borrow_mut().pinned = Some(mfn);
        Ok(())
    }

    fn seed_grants(&self, d: DomId, grants: &[(GrantRef, DomId, Mfn)]) -> Result<()> {
        self.call(d)?;
        let mut s = self.state.borrow_mut();
        ensure(grants.iter().all(|(.., frame)| s.pages.contains_key(&frame.0)), "a grant of nothing")?;
        s.grants.extend(grants);
        Ok(())
    }

    fn start_vcpu0(&self, d: DomId, vcpu: &Vcpu0) -> Result<()> {
        self.call_for(d, DomainKind::Pv)?;
        ensure(self.state.borrow().pinned == Some(vcpu.cr3), "a root that is not pinned")?;
        self.state.borrow_mut().vcpu = Some(*vcpu);
        Ok(())
    }

    fn set_paging_pool_kib(&self, d: DomId, kib: u64) -> Result<()> {
        self.call_for(d, DomainKind::Pvh)?;
        self.state.borrow_mut().pool_kib = kib;
        Ok(())
    }

    fn set_memory_map(&self, d: DomId, map: &[MemoryRegion]) -> Result<()> {
        self.call_for(d, DomainKind::Pvh)?;
        let mut s = self.state.borrow_mut();
        let mut end = 0;
        for region in map {
            ensure(region.start >= end && region.size > 0, "a memory map without order")?;
            end = region.start + region.size;
            let pages = region.start / 4096..end / 4096;
            ensure(pages.clone().all(|pfn| s.pages.contains_key(&pfn)), "memory that is not there")?;
            ensure(region.start % 4096 == 0 && region.size % 4096 == 0, "half a page")?;
        }
        let told: u64 = map.iter().map(|r| r.size / 4096).sum();
        ensure(told == s.pages.len() as u64, "memory that it is not told of")?;
        s.map = map.to_vec();
        Ok(())
    }

    fn set_hvm_param(&self, d: DomId, param: HvmParam, value: u64) -> Result<()> {
        self.call_for(d, DomainKind::Pvh)?;
        ensure(self.state.borrow_mut().params.insert(param, value).is_none(), "a parameter twice")
    }

    fn start_pvh(&self, d: DomId, start: &PvhStart) -> Result<()> {
        self.call_for(d, DomainKind::Pvh)?;
        let mut s = self.state.borrow_mut();
        let ram = |at: u32| {
            let inside = |r: &MemoryRegion| (r.start..r.start + r.size).contains(&u64::from(at));
            s.map.iter().any(|r| r.kind == MemoryKind::Ram && inside(r))
        };
        ensure(ram(start.entry) && ram(start.start_info), "a start outside of its memory")?;
        s.pvh = Some(*start);
        Ok(())
    }
}
