//! A domain's memory: given, mapped, granted.

use super::{Control, domctl, invalid, privcmd};
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::page::PAGE_SIZE;
use crate::{DomId, GrantRef, Mfn, ioctl, sys};
use std::io;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

/// The largest extent, 1 GiB: more is never wanted, and a mistake is caught.
const MAX_ORDER: u32 = 18;

impl Control {
    /// Limits a domain's memory, in KiB (`XEN_DOMCTL_max_mem`).
    ///
    /// # Errors
    /// What Xen says.
    pub fn set_max_mem_kib(&self, d: DomId, kib: u64) -> Result<()> {
        self.xc.set_max_mem(d, kib).map_err(domctl("max_mem", d))
    }

    /// Gives a domain memory: an extent of 2^`order` pages for each first pfn; the first machine frame of each
    /// (`XENMEM_populate_physmap`). All or an error; after an error some may be there: destroy the domain.
    ///
    /// A caller that is not a control domain may not exceed order 9 (`memop-max-order`).
    ///
    /// # Errors
    /// `EBUSY` if there was less memory than wanted, on the host or within the domain's limit; what else Xen says.
    pub fn populate(&self, d: DomId, order: u32, first_pfns: &[u64]) -> Result<Vec<Mfn>> {
        const OP: &str = "populate_physmap";
        if order > MAX_ORDER {
            return Err(invalid(OP, Some(d)));
        }
        let mut extents = first_pfns.to_vec();
        if !extents.is_empty() {
            self.xc.populate(d, order, &mut extents).map_err(privcmd(OP, d))?;
        }
        Ok(extents.into_iter().map(Mfn).collect())
    }

    /// Maps pages of a domain for reading and writing, in the given order (`IOCTL_PRIVCMD_MMAPBATCH_V2`).
    ///
    /// # Errors
    /// The first page that Xen refuses fails the whole.
    pub fn map(&self, d: DomId, mfns: &[Mfn]) -> Result<ForeignPages> {
        const OP: &str = "map foreign pages";
        let (num, len) = u32::try_from(mfns.len())
            .ok()
            .filter(|&n| n > 0)
            .zip(mfns.len().checked_mul(PAGE_SIZE))
            .ok_or_else(|| invalid(OP, Some(d)))?;
        let local = |e| Error::new(Kind::Local, OP, Some(d), e);
        let mapping = Mapping::device(self.privcmd.device(), len, 0).map_err(local)?;
        let frames: Vec<u64> = mfns.iter().map(|m| m.0).collect();
        let mut errors = vec![0; mfns.len()];
        let mut request = sys::PrivcmdMmapbatchV2 {
            num,
            dom: d.0,
            addr: mapping.address(),
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: both arrays have `num` entries, and the address range is a mapping of our own that only changes
        // what it shows, before anybody has looked.
        let result = unsafe {
            ioctl::request_raw(self.privcmd.device(), sys::IOCTL_PRIVCMD_MMAPBATCH_V2, &mut request)
        };
        let page = errors.iter().find(|e| **e != 0).map(|e| io::Error::from_raw_os_error(e.saturating_abs()));
        match (page, result) {
            (Some(e), _) | (None, Err(e)) => Err(Error::new(Kind::Privcmd, "foreign mapping", Some(d), e)),
            (None, Ok(_)) => Ok(ForeignPages { mapping, domid: d }),
        }
    }

    /// Maps the first page of a domain's grant table (`IOCTL_PRIVCMD_MMAP_RESOURCE`,
    /// `XENMEM_resource_grant_table`), to seed grants that the domain cannot make itself: its console's, its store's.
    ///
    /// Only before the domain runs: afterwards the table is its own, and its kernel may choose version 2.
    ///
    /// # Errors
    /// What Xen says.
    pub fn grant_entries(&self, d: DomId) -> Result<GrantEntries> {
        const OP: &str = "acquire_resource grant_table";
        let local = |e| Error::new(Kind::Local, OP, Some(d), e);
        let mapping = Mapping::device(self.privcmd.device(), PAGE_SIZE, 0).map_err(local)?;
        let mut request = sys::PrivcmdMmapResource {
            dom: d.0,
            kind: sys::XENMEM_RESOURCE_GRANT_TABLE,
            id: sys::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
            idx: 0,
            num: 1,
            addr: mapping.address(),
        };
        // SAFETY: the address range is a mapping of our own, one page as `num` says, that nobody has looked at.
        unsafe { ioctl::request_raw(self.privcmd.device(), sys::IOCTL_PRIVCMD_MMAP_RESOURCE, &mut request) }
            .map_err(|e| Error::new(Kind::Privcmd, OP, Some(d), e))?;
        Ok(GrantEntries { mapping, domid: d })
    }
}

/// Pages of another domain, mapped side by side. Unmapped on drop; until then the domain's number stays taken.
///
/// The domain may change them at any time if it runs: what is read is a copy.
#[derive(Debug)]
pub struct ForeignPages {
    mapping: Mapping,
    domid: DomId,
}

impl ForeignPages {
    /// The size of all pages in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.mapping.len()
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// `ERANGE` (and nothing written) if they do not fit.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<()> {
        self.mapping.write(offset, data).ok_or_else(|| self.outside("write to foreign pages"))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// `ERANGE` (and nothing read) if there are not as many.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.mapping.read(offset, out).ok_or_else(|| self.outside("read from foreign pages"))
    }

    /// Sets `len` bytes.
    ///
    /// # Errors
    /// `ERANGE` (and nothing set) if there are not as many.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<()> {
        self.mapping.fill(offset, len, byte).ok_or_else(|| self.outside("fill foreign pages"))
    }

    fn outside(&self, op: &'static str) -> Error {
        Error::local(op, Some(self.domid), libc::ERANGE)
    }
}

/// The first page of a domain's grant table: 512 entries of version 1 (`struct grant_entry_v1`).
#[derive(Debug)]
pub struct GrantEntries {
    mapping: Mapping,
    domid: DomId,
}

impl GrantEntries {
    /// Grants `frame`, writable, to the domain `to` under `gref` (`GTF_permit_access`).
    ///
    /// # Errors
    /// `ERANGE` if the reference is not in the first page or the frame does not fit 32 bits.
    pub fn seed(&self, gref: GrantRef, to: DomId, frame: Mfn) -> Result<()> {
        let entry = usize::try_from(gref.0).ok().and_then(|g| g.checked_mul(size_of::<sys::GrantEntryV1>()));
        let words = entry.and_then(|entry| {
            let first = self.mapping.word32(entry)?;
            let frame_at = entry.checked_add(offset_of!(sys::GrantEntryV1, frame))?;
            Some((first, self.mapping.word32(frame_at)?, u32::try_from(frame.0).ok()?))
        });
        let (first, frame_word, frame) =
            words.ok_or_else(|| Error::local("seed a grant", Some(self.domid), libc::ERANGE))?;
        // The flags make the entry valid: last, together with the domid in the same word.
        frame_word.store(frame, Ordering::Relaxed);
        first.store(u32::from(sys::GTF_PERMIT_ACCESS) | u32::from(to.0) << 16, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{hypercall::Privcmd, libxc::Libxc};
    use super::*;

    fn page() -> Mapping {
        Mapping::locked(PAGE_SIZE).unwrap()
    }

    #[test]
    fn a_seeded_grant_is_a_version_1_entry() {
        let entries = GrantEntries { mapping: page(), domid: DomId(5) };
        entries.seed(GrantRef(1), DomId(0x1234), Mfn(0x0abc_def0)).unwrap();
        let mut raw = [0; 24];
        entries.mapping.read(0, &mut raw).unwrap();
        assert_eq!(raw[..8], [0; 8]);
        assert_eq!(raw[8..16], [1, 0, 0x34, 0x12, 0xf0, 0xde, 0xbc, 0x0a]);
        assert_eq!(raw[16..], [0; 8]);
        entries.seed(GrantRef(511), DomId(1), Mfn(1)).unwrap();
        for (gref, frame) in [(512, 1), (u32::MAX, 1), (1, 1 << 32)] {
            let e = entries.seed(GrantRef(gref), DomId(1), Mfn(frame)).unwrap_err();
            assert_eq!((e.errno(), e.domid()), (Some(libc::ERANGE), Some(DomId(5))));
        }
    }

    #[test]
    fn foreign_pages_have_bounds() {
        let pages = ForeignPages { mapping: page(), domid: DomId(5) };
        assert_eq!(pages.len_bytes(), PAGE_SIZE);
        pages.write(PAGE_SIZE - 2, &[1, 2]).unwrap();
        pages.fill(0, 3, 9).unwrap();
        let mut out = [0; 2];
        pages.read(PAGE_SIZE - 2, &mut out).unwrap();
        assert_eq!(out, [1, 2]);
        assert!(pages.write(PAGE_SIZE - 1, &[1, 2]).is_err());
        assert!(pages.read(PAGE_SIZE, &mut out).is_err());
        let e = pages.fill(1, usize::MAX, 0).unwrap_err();
        assert!(e.to_string().starts_with("Cannot fill foreign pages for d5: "), "{e}");
    }

    #[test]
    fn impossible_requests_are_not_sent() {
        let control = Control { privcmd: Privcmd::dummy(), xc: Libxc::dummy() };
        assert_eq!(control.map(DomId(1), &[]).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(control.populate(DomId(1), 19, &[0]).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(control.populate(DomId(1), 0, &[]).unwrap(), []);
    }
}
