//! What blkback and netback share: both are Xen's backends of a split driver, and both may be killed at any instruction and
//! come back without the guest noticing more than a pause.
//!
//! - [`ring`]: the backend's end of a shared ring, whose responses survive the backend.
//! - [`device`]: the handshake with the frontends over XenStore.
//! - [`budget`]: how many rings there is memory for.
//! - [`memory`]: bytes in and out of a guest's pages, without mapping them.
//! - [`worth`]: whether to look for what comes next, instead of sleeping until it comes.

#![forbid(unsafe_code)]

pub mod budget;
pub mod device;
pub mod memory;
pub mod ring;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod worth;
