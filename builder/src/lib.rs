//! The only VM that builds, destroys and restarts VMs at run time.
//!
//! [`command`] parses what is typed on the host's console, [`ledger`] knows every VM, its images and who may map its memory,
//! [`restarts`] when one is to come back, [`devices`] which controller it gets, [`guests`] who may have which guest; [`host`] wires them to Xen.
#![forbid(unsafe_code)]

pub mod command;
pub mod devices;
pub mod guests;
pub mod host;
pub mod ledger;
mod pciback;
pub mod restarts;
