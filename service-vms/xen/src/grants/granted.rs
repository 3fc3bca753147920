//! Pages of ours that a peer may map.

use std::os::fd::AsFd;

use super::{MAX_REGION, load, read, size, store};
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::page::SharedPage;
use crate::{DomId, GrantRef, ioctl, sys};

/// Pages of our own that a peer may map, zeroed at first, side by side here.
///
/// Dropped, the grants are withdrawn; if the peer still maps a page, Linux keeps the page and the reference taken and
/// tries again later.
#[derive(Debug)]
pub struct GrantedRegion {
    mapping: Mapping,
    grefs: Vec<GrantRef>,
    peer: DomId,
}

impl GrantedRegion {
    /// Takes `pages` pages (1 to [`MAX_REGION`]) and grants them, writable, to `peer`, which need not exist yet.
    ///
    /// # Errors
    /// `EINVAL` for another number of pages; `/dev/xen/gntalloc` is missing, or its limit of pages (module parameter
    /// `limit`, 1024) is reached (`ENOSPC`).
    pub fn new(peer: DomId, pages: usize) -> Result<Self> {
        const OP: &str = "grant_pages";
        let (count, len) = size(OP, peer, pages)?;
        let file = ioctl::open("open /dev/xen/gntalloc", 0)?;
        let error = |e| Error::new(Kind::Driver, OP, Some(peer), e);
        let mut request = sys::GntallocAllocGref {
            domid: peer.0,
            flags: sys::GNTALLOC_FLAG_WRITABLE,
            count,
            index: 0,
            gref_ids: [0; MAX_REGION],
        };
        ioctl::request(&file, &mut request).map_err(error)?;
        // The mapping holds the device open; the grants end with it.
        let mapping = Mapping::device(file.as_fd(), len, request.index).map_err(error)?;
        let grefs = request.gref_ids.iter().take(pages).copied().map(GrantRef).collect();
        Ok(Self { mapping, grefs, peer })
    }

    /// The references under which the peer maps the pages, in order. They follow each other only as long as the VM has
    /// given none back.
    #[must_use]
    pub fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }

    /// Who may map them.
    #[must_use]
    pub const fn peer(&self) -> DomId {
        self.peer
    }
}

/// A [`GrantedRegion`] of one page.
#[derive(Debug)]
pub struct GrantedPage {
    region: GrantedRegion,
    gref: GrantRef,
}

impl GrantedPage {
    /// Takes a page and grants it, writable, to `peer`, which need not exist yet.
    ///
    /// # Errors
    /// As [`GrantedRegion::new`].
    pub fn new(peer: DomId) -> Result<Self> {
        let region = GrantedRegion::new(peer, 1)?;
        let gref = region.grefs().first().copied();
        let gref = gref.ok_or_else(|| Error::local("grant_pages", Some(peer), libc::EINVAL))?;
        Ok(Self { region, gref })
    }

    /// The reference under which the peer maps it.
    #[must_use]
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// Who may map it.
    #[must_use]
    pub const fn peer(&self) -> DomId {
        self.region.peer()
    }
}

shared_page! {
    GrantedRegion => mapping,
    GrantedPage => region.mapping,
}
