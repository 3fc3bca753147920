//! What the layouts of PV and PVH domains have in common.

use std::ops::Range;

use crate::construction::Spec;
use crate::plan::Mode;
use crate::{MAX_INITIAL, PAGE, pv, pvh};

/// Pages in a MiB.
pub(crate) const PAGES_PER_MIB: u64 = (1 << 20) / PAGE;
/// Most memory that a domain may have, in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u64 = 1 << 20;

/// Why a kernel and a ramdisk cannot be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// More memory than a domain may have.
    #[error("Memory of {0} MiB: at most {MAX_MEMORY_MIB} MiB")]
    Memory(u64),
    /// Less memory than the domain's first pages take.
    #[error("Domain needs at least {needs} MiB, it has {gives}")]
    TooSmall {
        /// Least memory that would do, in MiB.
        needs: u64,
        /// What it has, in MiB.
        gives: u64,
    },
    /// The part that the kernel sees at its first instruction is too large.
    #[error("Kernel and ramdisk take {0} MiB, a domain's first page tables reach {max}", max = MAX_INITIAL >> 20)]
    TooLarge(u64),
    /// The kernel wants virtual addresses that it cannot have.
    #[error("Kernel wants {pages} pages mapped at {va:#x}, which is not free for a PV domain")]
    Address {
        /// Where.
        va: u64,
        /// How many pages.
        pages: u64,
    },
}

impl LayoutError {
    pub(crate) fn too_large(pages: u64) -> Self {
        Self::TooLarge(pages.div_ceil(PAGES_PER_MIB))
    }
}

/// A domain's memory at its first instruction. Ranges are in pfns: pages of 4 KiB from address 0 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Of a PV domain.
    Pv(pv::Layout),
    /// Of a PVH domain.
    Pvh(pvh::Layout),
}

impl Layout {
    /// Lays out a domain whose kernel's plan has been checked.
    pub(crate) fn new(spec: &Spec) -> Result<Self, LayoutError> {
        let kernel = spec.kernel.pages();
        let memory_mib = u64::from(spec.memory_mib);
        if memory_mib > MAX_MEMORY_MIB {
            return Err(LayoutError::Memory(memory_mib));
        }
        if spec.ramdisk_bytes > MAX_INITIAL {
            return Err(LayoutError::too_large(spec.ramdisk_bytes / PAGE));
        }
        match &spec.kernel.mode {
            Mode::Pv(entry) => {
                let rings = (spec.xenstore.is_some(), spec.console.is_some());
                pv::Layout::new(entry, kernel, spec.ramdisk_bytes, memory_mib, rings).map(Self::Pv)
            }
            Mode::Pvh { .. } => pvh::Layout::new(kernel, spec.ramdisk_bytes, memory_mib).map(Self::Pvh),
        }
    }

    /// The kernel's pages and, right behind them, the ramdisk's.
    pub(crate) fn loaded(&self) -> Range<u64> {
        let (kernel, ramdisk) = match self {
            Self::Pv(l) => (&l.kernel, &l.ramdisk),
            Self::Pvh(l) => (&l.kernel, &l.ramdisk),
        };
        kernel.start..ramdisk.end
    }

    /// The first address of the ramdisk.
    pub(crate) fn ramdisk(&self) -> u64 {
        PAGE * match self {
            Self::Pv(l) => l.ramdisk.start,
            Self::Pvh(l) => l.ramdisk.start,
        }
    }

    /// Where the domain has pages.
    pub(crate) fn populated(&self) -> Vec<Range<u64>> {
        match self {
            Self::Pv(l) => std::iter::once(0..l.pages).collect(),
            Self::Pvh(l) => l.populated(),
        }
    }
}
