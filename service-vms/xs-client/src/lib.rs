//! A client of XenStore over a VM's own ring, through Linux's `/dev/xen/xenbus`. It blocks: a program that has other things to
//! do gives it a thread.
//!
//! ```no_run
//! use std::time::Duration;
//! use ennead_xs_client::{Access as _, XenStore};
//!
//! # fn main() -> Result<(), ennead_xs_client::Error> {
//! let mut store = XenStore::open(Duration::from_secs(60))?;
//! store.transaction(|t| {
//!     let count = t.read("data/count")?;
//!     t.write("data/count", &[count, b"1".to_vec()].concat())
//! })?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod access;
mod error;
mod events;
mod store;

pub use access::Access;
pub use ennead_xs_wire::{Access as Right, Errno, Perm};
pub use error::Error;
pub use events::{Event, MAX_EVENTS};
pub use store::{Transaction, XenStore};

#[cfg(test)]
mod tests;
