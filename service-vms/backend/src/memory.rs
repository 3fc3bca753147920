//! Bytes in and out of the pages that one guest granted to us.

use ennead_xen::{CopyOp, DomId, GrantCopy, KeptGrants, Result};

/// A guest's memory, by grant.
pub trait GuestMemory: Send {
    /// Does all of `ops`, in order, and leaves in each what became of it.
    ///
    /// # Errors
    /// What Linux says, and then any part may be done. A wrong grant or bytes outside the page are no error here.
    fn copy(&mut self, ops: &mut [CopyOp<'_>]) -> Result<()>;
}

/// A guest's memory as Xen copies it, but for pages that stay mapped.
#[derive(Debug)]
pub struct Granted {
    guest: DomId,
    copier: GrantCopy,
    kept: KeptGrants,
}

impl Granted {
    /// Opens the way to `guest`'s pages.
    ///
    /// # Errors
    /// `/dev/xen/gntdev` is missing or may not be opened.
    pub fn open(guest: DomId) -> Result<Self> {
        Self::keeping(guest, 0)
    }

    /// The same for a frontend that uses its grants again and again: so many of them stay mapped.
    ///
    /// # Errors
    /// As [`Granted::open`].
    pub fn keeping(guest: DomId, most: usize) -> Result<Self> {
        Ok(Self { guest, copier: GrantCopy::open()?, kept: KeptGrants::new(guest, most) })
    }
}

impl GuestMemory for Granted {
    fn copy(&mut self, ops: &mut [CopyOp<'_>]) -> Result<()> {
        self.kept.copy(ops);
        self.copier.copy(self.guest, ops)
    }
}
