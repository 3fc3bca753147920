//! Building a domain whose kernel and ramdisk are at hand.

use std::ops::Deref;

use crate::memory::bytes;
use crate::{BoxError, Built, Construction, Error, Hypervisor, Prepared, Spec};
use ennead_xen::DomId;

/// Bytes of a ramdisk in parts: each is padded to 4 bytes, and they are put one after the other. Linux reads such rows of
/// archives.
#[must_use]
pub fn ramdisk_bytes(parts: &[&[u8]]) -> u64 {
    parts.iter().map(|part| padded(part)).sum()
}

fn padded(part: &[u8]) -> u64 {
    bytes(part.len()).next_multiple_of(4)
}

/// Builds a domain. `spec` must have the plan of this `kernel` and the [`ramdisk_bytes`] of these parts.
///
/// `prepare` is called as soon as the domain exists, for what needs its number, such as a port bound for it. What it returns
/// goes to the end of the command line: at most [`Spec::extra_bytes`]. What it made is the caller's to undo if the domain is not
/// built after all.
///
/// # Errors
/// Says what could not be done and why; nothing is left then, unless it says so.
pub fn build<R>(
    h: R,
    spec: Spec,
    kernel: &Prepared,
    ramdisk: &[&[u8]],
    prepare: impl FnOnce(DomId) -> Result<String, BoxError>,
) -> Result<Built, Error>
where
    R: Deref<Target: Hypervisor>,
{
    let mut construction = Construction::begin(h, spec)?;
    let domid = construction.domid();
    let extra = construction.step(|_| prepare(domid).map_err(|source| Error::Prepare { domid, source }))?;
    for (index, data) in kernel.data().enumerate() {
        construction.load_kernel(index, 0, data)?;
    }
    let mut offset = 0;
    for part in ramdisk {
        construction.load_ramdisk(offset, part)?;
        offset += padded(part);
    }
    construction.finish(&extra)
}
