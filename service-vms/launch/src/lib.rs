//! Starts one VM of the boot plan. The bootstrapper and Builder do it with the same code.
//!
//! [`Store`] holds what was signed: it refuses an image that is not the one in the plan. [`Launcher`] builds a domain from
//! it, gives it its FLASK label, its command line and a health port, and waits until the VM says that it is well. [`XenStore`]
//! is where it announces the VM.
#![forbid(unsafe_code)]

mod archive;
mod launcher;
pub mod pci;
mod store;
pub mod xenstore;

pub use launcher::{Error, Launcher, Lend, Started, channel_gref, command_line};
pub use store::{Refused, Store};
pub use xenstore::{Life, XenStore};
