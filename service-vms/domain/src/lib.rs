//! Builds 64-bit PV and PVH domains: a kernel's plan, its bytes and a ramdisk's in; a paused domain out.
//!
//! `Kernel` reads kernel files, wherever that is done; its [`KernelPlan`] is all that a builder must know of one, and [`Prepared`] is
//! a plan with the bytes that belong to it.
//! [`Construction`] builds, step by step, from plan and bytes that come from somebody else: it believes neither.
//! [`build()`] does it at once. Xen is behind the [`Hypervisor`] trait. The rules are those of Xen's public headers (`xen.h`
//! 'Start-of-day memory layout', `elfnote.h`, `arch-x86/hvm/start_info.h`) and docs/misc/pvh.pandoc.
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

mod build;
mod construction;
mod error;
mod hypervisor;
#[cfg(feature = "image")]
mod image;
mod layout;
mod memory;
mod plan;
mod prepared;
mod pv;
mod pvh;
#[cfg(feature = "xen")]
mod real;
#[cfg(feature = "image")]
mod unpack;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod synth;
#[cfg(test)]
mod tests;

pub use build::{build, ramdisk_bytes};
pub use construction::{Built, Construction, MAX_CMDLINE, MAX_VCPUS, Peer, Spec};
pub use error::{BoxError, Error};
pub use hypervisor::{Hypervisor, Limits, NewDomain, Pages, Vcpu0};
#[cfg(feature = "image")]
pub use image::{ImageError, Kernel};
pub use layout::{LayoutError, MAX_MEMORY_MIB};
pub use plan::{KernelPlan, MAX_SEGMENTS, Mode, PlanError, PvEntry, Segment};
pub use prepared::{Prepared, PreparedError};
pub use pvh::paging_pool_kib;
#[cfg(feature = "xen")]
pub use real::RealError;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// KiB in a page.
const PAGE_KIB: u64 = PAGE / 1024;
/// Largest part of a domain that its kernel sees at first, in bytes. Linux's first page tables have one L2 table for it
/// (`xen_setup_kernel_pagetable`, `cleanup_highmap`; `level2_ident_pgt` for PVH), which is this much; it also bounds what a
/// plan can ask for.
pub const MAX_INITIAL: u64 = 1 << 30;
