//! The hardware domain: owns the PCI bus, interrupt routing and the host's power.
//!
//! Xen gives it the hardware when it is created. It answers Builder, and nobody else; what it found it
//! publishes in XenStore.
#![forbid(unsafe_code)]

pub mod bus;
mod publish;
pub mod service;
