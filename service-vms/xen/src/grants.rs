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

/// A page of our own that a peer may map, zeroed at first.
///
/// Dropped, the grant is withdrawn; if the peer still maps the page, Linux keeps the page and the reference taken and
/// tries again later.
#[derive(Debug)]
pub struct GrantedPage {
    mapping: Mapping,
    gref: GrantRef,
    peer: DomId,
}

impl GrantedPage {
    /// Takes a page and grants it, writable, to `peer`, which need not exist yet.
    ///
    /// # Errors
    /// `/dev/xen/gntalloc` is missing, or its limit of pages (module parameter `limit`, 1024) is reached (`ENOSPC`).
    pub fn new(peer: DomId) -> Result<Self> {
        let file = ioctl::open("open /dev/xen/gntalloc", 0)?;
        let error = |e| Error::new(Kind::Driver, "grant_page", Some(peer), e);
        let mut request = sys::GntallocAllocGref {
            domid: peer.0,
            flags: sys::GNTALLOC_FLAG_WRITABLE,
            count: 1,
            ..Default::default()
        };
        ioctl::request(&file, &mut request).map_err(error)?;
        // The mapping holds the device open; the grant ends with it.
        let mapping = Mapping::device(file.as_fd(), PAGE_SIZE, request.index).map_err(error)?;
        let [gref] = request.gref_ids;
        Ok(Self { mapping, gref: GrantRef(gref), peer })
    }

    /// The reference under which the peer maps it.
    #[must_use]
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// Who may map it.
    #[must_use]
    pub const fn peer(&self) -> DomId {
        self.peer
    }
}

/// A page that a peer granted to us, mapped. Unmapped when dropped.
///
/// As long as it is mapped the peer's domid stays taken, even after the peer died.
#[derive(Debug)]
pub struct MappedPage {
    mapping: Mapping,
}

impl MappedPage {
    /// Maps the page behind `gref` of domain `peer`, for reading and writing.
    ///
    /// # Errors
    /// `/dev/xen/gntdev` is missing, or there is no such grant for us (`EINVAL`: Linux does not pass on which check
    /// failed).
    pub fn map(peer: DomId, gref: GrantRef) -> Result<Self> {
        let file = ioctl::open("open /dev/xen/gntdev", 0)?;
        let error = |e| Error::new(Kind::Driver, "map_grant_ref", Some(peer), e);
        let grant = sys::GntdevGrantRef { domid: u32::from(peer.0), gref: gref.0 };
        let mut request = sys::GntdevMapGrantRef { count: 1, refs: [grant], ..Default::default() };
        ioctl::request(&file, &mut request).map_err(error)?;
        // Xen maps during mmap; the mapping then holds the device open.
        let mapping = Mapping::device(file.as_fd(), PAGE_SIZE, request.index).map_err(error)?;
        Ok(Self { mapping })
    }
}

macro_rules! shared_page {
    ($($type:ty),*) => { $(
        impl SharedPage for $type {
            fn load(&self, offset: usize) -> u32 {
                load(&self.mapping, offset)
            }

            fn store(&self, offset: usize, value: u32) {
                store(&self.mapping, offset, value);
            }

            fn read(&self, offset: usize, out: &mut [u8]) {
                read(&self.mapping, offset, out);
            }

            fn write(&self, offset: usize, data: &[u8]) {
                // Outside the page: nothing, as `SharedPage` says.
                let _outside = self.mapping.write(offset, data);
            }
        }
    )* };
}

shared_page!(GrantedPage, MappedPage);

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

    #[test]
    fn a_mapped_page_behaves_as_a_shared_page_must() {
        let page = MappedPage { mapping: Mapping::locked(PAGE_SIZE).unwrap() };
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
    fn without_xen_the_missing_device_is_named() {
        if std::path::Path::new("/dev/xen").exists() {
            return;
        }
        assert!(GrantedPage::new(DomId(1)).unwrap_err().to_string().contains("/dev/xen/gntalloc"));
        assert!(MappedPage::map(DomId(1), GrantRef(8)).unwrap_err().to_string().contains("/dev/xen/gntdev"));
    }
}
