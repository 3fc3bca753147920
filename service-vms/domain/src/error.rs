//! Why a domain is not built.

use ennead_xen::DomId;

use crate::PlanError;
use crate::construction::{MAX_CMDLINE, MAX_VCPUS};
use crate::layout::LayoutError;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a domain was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its kernel asks for what cannot be.
    #[error("Kernel: {0}")]
    Plan(#[from] PlanError),
    /// It does not fit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its command line does not fit.
    #[error(
        "Command line of {len} bytes, and {extra} kept for what is added while building: must be less than {MAX_CMDLINE}"
    )]
    CommandLine {
        /// Its length.
        len: usize,
        /// What is kept free.
        extra: usize,
    },
    /// What is added to the command line while building is too long.
    #[error("Addition to the command line of {len} bytes: at most {max}")]
    Extra {
        /// Its length.
        len: usize,
        /// What was kept free.
        max: usize,
    },
    /// The command line holds a zero byte.
    #[error("Command line holds a zero byte")]
    Zero,
    /// The hardware domain has no console ring.
    #[error("{0} is the hardware domain: its console is Xen's, it cannot have another")]
    Console(DomId),
    /// The hardware domain is PV.
    #[error("{0} is the hardware domain: it must be PV")]
    HardwarePvh(DomId),
    /// Too few or too many vCPUs.
    #[error("{domid} has {vcpus} vCPUs: 1 to {MAX_VCPUS} are possible")]
    Vcpus {
        /// The domain.
        domid: DomId,
        /// How many.
        vcpus: u32,
    },
    /// A part of its kernel that its plan does not have.
    #[error("{domid}: its kernel has no segment {index}")]
    NoSegment {
        /// The domain.
        domid: DomId,
        /// Which part, from 0 on.
        index: usize,
    },
    /// Bytes outside of what they should be a part of.
    #[error("{domid}: {len} bytes from {offset} on are not inside the {size} bytes announced")]
    Outside {
        /// The domain.
        domid: DomId,
        /// Where they should begin.
        offset: u64,
        /// How many they are.
        len: usize,
        /// How many bytes there are.
        size: u64,
    },
    /// It was given up after an earlier error.
    #[error("{0} was given up")]
    Over(DomId),
    /// Xen refused something.
    #[error("{domid}: cannot {doing}")]
    Xen {
        /// The domain.
        domid: DomId,
        /// What was asked of Xen.
        doing: &'static str,
        /// Why not.
        source: BoxError,
    },
    /// The caller's part failed.
    #[error("{domid}: cannot prepare what it needs")]
    Prepare {
        /// The domain.
        domid: DomId,
        /// Why not.
        source: BoxError,
    },
    /// Xen has too little memory left.
    #[error("{domid}: Xen has only {got} of its {wanted} pages of memory")]
    Memory {
        /// The domain.
        domid: DomId,
        /// What it got before it was destroyed.
        got: u64,
        /// What it needs.
        wanted: u64,
    },
    /// Xen gave more pages than were asked for, or a page is missing that was given.
    #[error("{0}: what Xen says of its memory makes no sense")]
    Nonsense(DomId),
    /// A half-built hardware domain, which is not destroyed: Xen has given it the hardware and goes on pointing at it.
    #[error(
        "{domid} is left half built: Xen has made it the hardware domain, so the host must be stopped through it"
    )]
    Hardware {
        /// The domain.
        domid: DomId,
        /// Why it was not finished.
        source: Box<Error>,
    },
    /// It could not be destroyed after an error either.
    #[error("{domid} is left half built, it cannot be destroyed ({destroy})")]
    Left {
        /// The domain.
        domid: DomId,
        /// Why it could not be destroyed.
        destroy: BoxError,
        /// Why it should have been.
        source: Box<Error>,
    },
}
