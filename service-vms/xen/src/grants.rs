//! Pages shared by grant: ours lent to a peer (gntalloc), a peer's lent to us (gntdev).
//!
//! Source: xen/include/public/grant_table.h; tools' xen/sys/gntalloc.h and xen/sys/gntdev.h.

use crate::error::{Error, Kind, Result};
use crate::ioctl;
use crate::mapping::Mapping;
use crate::page::{PAGE_SIZE, SharedPage};
use crate::sys;
use crate::{DomId, GrantRef};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

macro_rules! shared_page {
    ($($type:ty => $($field:ident).+),* $(,)?) => { $(
        impl SharedPage for $type {
            fn size(&self) -> usize {
                self.$($field).+.len()
            }

            fn load(&self, offset: usize) -> u32 {
                load(&self.$($field).+, offset)
            }

            fn store(&self, offset: usize, value: u32) {
                store(&self.$($field).+, offset, value);
            }

            fn read(&self, offset: usize, out: &mut [u8]) {
                read(&self.$($field).+, offset, out);
            }

            fn write(&self, offset: usize, data: &[u8]) {
                // Outside: nothing, as `SharedPage` says.
                let _outside = self.$($field).+.write(offset, data);
            }
        }
    )* };
}

#[cfg(any(feature = "grant", test))]
mod granted;

#[cfg(any(feature = "grant", test))]
pub use granted::{GrantedPage, GrantedRegion};

/// Most pages in a region.
pub const MAX_REGION: usize = 512;

/// Pages that a peer granted to us, mapped side by side. Unmapped when dropped.
///
/// As long as they are mapped the peer's domid stays taken, even after the peer died.
#[derive(Debug)]
pub struct MappedRegion {
    mapping: Mapping,
}

impl MappedRegion {
    /// Maps the pages behind 1 to [`MAX_REGION`] grants of domain `peer`, for reading and writing.
    ///
    /// # Errors
    /// `EINVAL` for another number of grants; `/dev/xen/gntdev` is missing, or one of the grants is not there for us
    /// (`EINVAL` too: Linux does not pass on which check failed).
    pub fn map(peer: DomId, grefs: &[GrantRef]) -> Result<Self> {
        const OP: &str = "map_grant_refs";
        let (count, len) = size(OP, peer, grefs.len())?;
        let file = ioctl::open("open /dev/xen/gntdev", 0)?;
        let error = |e| Error::new(Kind::Driver, OP, Some(peer), e);
        let mut refs = [sys::GntdevGrantRef::default(); MAX_REGION];
        for (grant, gref) in refs.iter_mut().zip(grefs) {
            *grant = sys::GntdevGrantRef { domid: u32::from(peer.0), gref: gref.0 };
        }
        let mut request = sys::GntdevMapGrantRef { count, pad: 0, index: 0, refs };
        ioctl::request(&file, &mut request).map_err(error)?;
        // Xen maps during mmap; the mapping then holds the device open.
        let mapping = Mapping::device(file.as_fd(), len, request.index).map_err(error)?;
        Ok(Self { mapping })
    }
}

/// The number of pages as the drivers take it, and their bytes.
fn size(op: &'static str, peer: DomId, pages: usize) -> Result<(u32, usize)> {
    let fits = |pages: &usize| (1..=MAX_REGION).contains(pages);
    let count = Some(pages).filter(fits).and_then(|pages| u32::try_from(pages).ok());
    let count = count.ok_or_else(|| Error::local(op, Some(peer), libc::EINVAL))?;
    Ok((count, pages * PAGE_SIZE))
}

/// A [`MappedRegion`] of one page, such as a guest's XenStore ring.
#[derive(Debug)]
pub struct MappedPage {
    region: MappedRegion,
}

impl MappedPage {
    /// Maps the page behind `gref` of domain `peer`, for reading and writing.
    ///
    /// # Errors
    /// As [`MappedRegion::map`].
    pub fn map(peer: DomId, gref: GrantRef) -> Result<Self> {
        Ok(Self { region: MappedRegion::map(peer, &[gref])? })
    }
}

shared_page! {
    MappedRegion => mapping,
    MappedPage => region.mapping,
}

fn load(mapping: &Mapping, offset: usize) -> u32 {
    mapping.word32(offset).map_or(0, |w| w.load(Ordering::Acquire))
}

fn store(mapping: &Mapping, offset: usize, value: u32) {
    if let Some(word) = mapping.word32(offset) {
        word.store(value, Ordering::Release);
    }
}

fn read(mapping: &Mapping, offset: usize, out: &mut [u8]) {
    if mapping.read(offset, out).is_none() {
        out.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(pages: usize) -> MappedRegion {
        MappedRegion { mapping: Mapping::locked(pages * PAGE_SIZE).unwrap() }
    }

    #[test]
    fn a_mapped_page_behaves_as_a_shared_page_must() {
        let page = MappedPage { region: mapped(1) };
        assert_eq!(page.size(), PAGE_SIZE);
        page.store(8, 0x0403_0201);
        let mut out = [9; 4];
        page.read(7, &mut out);
        assert_eq!(out, [0, 1, 2, 3]);
        page.write(PAGE_SIZE - 4, &[1, 0, 0, 0]);
        assert_eq!(page.load(PAGE_SIZE - 4), 1);
        page.store(PAGE_SIZE, 1);
        page.store(3, 1);
        page.write(PAGE_SIZE - 1, &[7, 7]);
        assert_eq!(
            (page.load(0), page.load(4), page.load(PAGE_SIZE - 4), page.load(PAGE_SIZE)),
            (0, 0, 1, 0)
        );
        page.read(PAGE_SIZE - 3, &mut out);
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn a_region_is_one_piece() {
        let region = mapped(3);
        assert_eq!(region.size(), 3 * PAGE_SIZE);
        let data: Vec<u8> = (0..=255).cycle().take(PAGE_SIZE + 10).collect();
        region.write(PAGE_SIZE - 5, &data);
        let mut out = vec![0; data.len()];
        region.read(PAGE_SIZE - 5, &mut out);
        assert_eq!(out, data);
        region.store(3 * PAGE_SIZE - 4, 7);
        region.store(3 * PAGE_SIZE, 7);
        assert_eq!((region.load(3 * PAGE_SIZE - 4), region.load(3 * PAGE_SIZE)), (7, 0));
    }

    #[test]
    fn a_region_without_pages_or_with_too_many_is_refused_before_anything_is_opened() {
        for pages in [0, MAX_REGION + 1, usize::MAX] {
            let error = GrantedRegion::new(DomId(1), pages).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EINVAL), "{pages}");
        }
        for pages in [0, MAX_REGION + 1] {
            let error = MappedRegion::map(DomId(1), &vec![GrantRef(8); pages]).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EINVAL), "{pages}");
        }
        assert!(size("x", DomId(1), MAX_REGION).is_ok());
    }

    #[test]
    fn without_xen_the_missing_device_is_named() {
        if std::path::Path::new("/dev/xen").exists() {
            return;
        }
        assert!(GrantedPage::new(DomId(1)).unwrap_err().to_string().contains("/dev/xen/gntalloc"));
        assert!(MappedPage::map(DomId(1), GrantRef(8)).unwrap_err().to_string().contains("/dev/xen/gntdev"));
    }
}
