//! The hardware domain: owns the PCI bus, interrupt routing and the host's power.
//!
//! Xen gives it the hardware when it is created. It lends devices to driver VMs as Builder asks, and passes on bytes between toolstacks and their
//! operators; what it found, and what is plugged and pulled later, it publishes in XenStore.
#![forbid(unsafe_code)]

pub mod bus;
mod hotplug;
pub mod lend;
mod line;
mod publish;
pub mod service;
