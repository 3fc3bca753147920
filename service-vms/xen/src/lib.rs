//! Xen 4.17 behind safe types, for 64-bit PV and PVH domains on x86.
//!
//! This is the only crate of Ennead with `unsafe` code. Event channels and grants go through Linux's devices below
//! `/dev/xen`; control interfaces (feature `control`) go through libxenctrl and `/dev/xen/privcmd`.
//!
//! Memory shared with another VM is only ever reached by copying, with atomic accesses: the other side may change any
//! byte at any time, so no reference into it leaves this crate.

#[cfg(feature = "copy")]
mod copy;
mod error;
mod evtchn;
mod grants;
mod ids;
mod ioctl;
mod mapping;
mod page;
#[cfg(feature = "probe")]
pub mod probe;
mod pvh;
mod sys;

#[cfg(feature = "control")]
mod control;

#[cfg(feature = "control")]
pub use control::{
    Control, CreateDomain, DomainGuard, DomainInfo, DomainState, ForeignPages, GrantEntries, HostInfo,
    ShutdownReason, VcpuStart,
};
#[cfg(feature = "copy")]
pub use copy::{CopyMemory, CopyOp, GrantCopy, KeptGrants};
pub use error::{Error, Result};
pub use evtchn::EventChannels;
#[cfg(any(feature = "grant", test))]
pub use grants::{GrantedPage, GrantedRegion};
pub use grants::{MAX_REGION, MappedPage, MappedRegion};
pub use ids::{DomId, GrantRef, Mfn, Port, Sid, Virq};
#[cfg(any(test, feature = "local"))]
pub use page::LocalPage;
pub use page::{PAGE_SIZE, SharedPage};
pub use pvh::{DomainKind, HvmParam, MemoryKind, MemoryRegion, PvhStart};
