//! Builds 64-bit PV domains: kernel image, ramdisk and spec in, paused domain out.
//!
//! [`Kernel::parse`] and [`Layout::new`] are pure and see untrusted images; [`build()`] is the only part that talks
//! to Xen, through the [`Hypervisor`] trait. The rules are those of Xen's public headers (`xen.h` 'Start-of-day
//! memory layout', `elfnote.h`).
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "a wrong number fails the test"
    )
)]

pub mod build;
pub mod image;
pub mod layout;
#[cfg(feature = "xen")]
mod real;
pub mod start_info;
mod unpack;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod synth;
#[cfg(test)]
mod tests;

pub use build::{
    BoxError, Built, EXTRA_CMDLINE, Error, Hypervisor, Limits, NewDomain, Pages, Peer, Spec, Vcpu0, build,
};
pub use image::{ImageError, Kernel};
pub use layout::{Layout, LayoutError, P2m};
#[cfg(feature = "xen")]
pub use real::RealError;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Largest part of a domain that its kernel's first page tables may cover, in bytes. Linux takes over one L2 table
/// (`xen_setup_kernel_pagetable`, `cleanup_highmap`), which is this much; it also bounds what an image can ask for.
pub const MAX_INITIAL: u64 = 1 << 30;
