//! The hardware domain: owns the PCI bus, interrupt routing and the host's power.
//!
//! Xen gives it the hardware when it is created. It answers Builder, and passes on bytes between toolstacks and their
//! operators; what it found it publishes in XenStore.
#![forbid(unsafe_code)]

pub mod bus;
mod line;
mod publish;
pub mod service;
