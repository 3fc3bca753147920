//! Preparing kernels: done where images are made.

use ennead_xen::DomainKind;

use super::MAGIC;
use crate::{ImageError, Kernel};

impl Kernel<'_> {
    /// The kernel as [`Prepared::read`](super::Prepared::read) reads it, to be started as a domain of this kind.
    ///
    /// # Errors
    /// When it cannot be started so.
    pub fn prepare(&self, kind: DomainKind) -> Result<Vec<u8>, ImageError> {
        let plan = self.plan(kind)?;
        // A `Vec` takes everything, and a plan in memory can be written.
        let plan = postcard::to_allocvec(&plan).unwrap_or_default();
        let length = u32::try_from(plan.len()).unwrap_or(u32::MAX).to_le_bytes();
        let data: Vec<u8> = self.data().flatten().copied().collect();
        let packed = lz4_flex::block::compress(&data);
        Ok([MAGIC.as_slice(), &length, &plan, &packed].concat())
    }
}
