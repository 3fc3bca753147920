//! What a kernel asks of whoever loads it: a few numbers, so that the loader need not read the kernel's file.
//!
//! Who builds the domain gets the plan from somebody else and believes nothing of it: [`KernelPlan::check`] comes
//! before everything.

use std::fmt;
use std::ops::Range;

use ennead_xen::DomainKind;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{MAX_INITIAL, PAGE};

/// Most parts that a kernel may have. Linux has four.
pub const MAX_SEGMENTS: usize = 16;

/// What a kernel asks of its loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelPlan {
    /// How it is started.
    pub mode: Mode,
    /// Its parts, lowest first: at most [`MAX_SEGMENTS`].
    #[serde(deserialize_with = "few")]
    pub segments: Vec<Segment>,
}

/// How a kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// As a 64-bit PV kernel.
    Pv(PvEntry),
    /// As a PVH kernel.
    Pvh {
        /// Guest-physical address of its first instruction.
        entry: u32,
    },
}

/// What a PV kernel says in its notes (`elfnote.h`): virtual addresses all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvEntry {
    /// Its first instruction.
    pub entry: u64,
    /// Where it wants pseudo-physical address 0.
    pub virt_base: u64,
    /// The page that Xen fills with hypercalls.
    pub hypercall_page: Option<u64>,
    /// Where it wants the list of its frames; without, the list lies among the rest.
    pub init_p2m: Option<u64>,
}

/// A part of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its (pseudo-)physical address.
    pub paddr: u64,
    /// Bytes of the kernel's file that go there.
    pub file_bytes: u64,
    /// Bytes of memory; what is not from the file is zero.
    pub memory_bytes: u64,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// There is nothing to load.
    #[error("no segment to load")]
    NoSegment,
    /// There is too much to load.
    #[error("{0} segments, at most {MAX_SEGMENTS}")]
    Segments(usize),
    /// A segment's numbers contradict each other, or reach too far.
    #[error(
        "segment {index} ({segment}): must have memory, no less than file, and end within {} GiB",
        MAX_INITIAL >> 30
    )]
    Segment {
        /// Which one, from 0 on.
        index: usize,
        /// What it is.
        segment: Segment,
    },
    /// Two segments want the same memory, or are not in order.
    #[error("segment {index} ({segment}) begins before the end of the one before it")]
    Overlap {
        /// The second of them, from 0 on.
        index: usize,
        /// What it is.
        segment: Segment,
    },
    /// An address that cannot be.
    #[error("{what} is {value:#x}, must be {must}")]
    Address {
        /// Which.
        what: &'static str,
        /// Where it is.
        value: u64,
        /// Where it may be.
        must: &'static str,
    },
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Segment { paddr, file_bytes, memory_bytes } = self;
        write!(f, "{file_bytes:#x} bytes of file and {memory_bytes:#x} of memory at {paddr:#x}")
    }
}

impl Mode {
    /// What kind of domain this is for.
    #[must_use]
    pub fn kind(&self) -> DomainKind {
        match self {
            Self::Pv(_) => DomainKind::Pv,
            Self::Pvh { .. } => DomainKind::Pvh,
        }
    }
}

impl KernelPlan {
    /// Whether the plan makes sense by itself: bounds, order, addresses inside the kernel. Whether it fits into a domain is
    /// seen when the domain is laid out.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.segments.len() > MAX_SEGMENTS {
            return Err(PlanError::Segments(self.segments.len()));
        }
        let mut end = 0;
        for (index, &segment) in self.segments.iter().enumerate() {
            let Segment { paddr, file_bytes, memory_bytes } = segment;
            let after = paddr.checked_add(memory_bytes).filter(|after| *after <= MAX_INITIAL);
            let (Some(after), true, true) = (after, memory_bytes > 0, file_bytes <= memory_bytes) else {
                return Err(PlanError::Segment { index, segment });
            };
            if paddr < end {
                return Err(PlanError::Overlap { index, segment });
            }
            end = after;
        }
        let start = self.segments.first().ok_or(PlanError::NoSegment)?.paddr;
        let inside = |paddr: u64| (start..end).contains(&paddr);
        match &self.mode {
            Mode::Pv(pv) => pv.check(inside),
            Mode::Pvh { entry } => address(
                "entry point",
                u64::from(*entry),
                inside(u64::from(*entry)),
                "an address inside the kernel",
            ),
        }
    }

    /// The pages of the kernel, gaps between its segments included. Empty if there is none.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |s| s.paddr);
        let end = self.segments.last().map_or(0, |s| s.paddr.saturating_add(s.memory_bytes));
        start / PAGE..end.div_ceil(PAGE)
    }
}

impl PvEntry {
    fn check(&self, inside: impl Fn(u64) -> bool) -> Result<(), PlanError> {
        let Self { entry, virt_base, hypercall_page, init_p2m } = *self;
        let aligned = |va: u64| va % PAGE == 0;
        let inside = |va: u64| va.checked_sub(virt_base).is_some_and(&inside);
        address("virtual base", virt_base, aligned(virt_base), "a multiple of 4096")?;
        address("entry point", entry, inside(entry), "an address inside the kernel")?;
        if let Some(va) = hypercall_page {
            address("hypercall page", va, aligned(va) && inside(va), "a page inside the kernel")?;
        }
        if let Some(va) = init_p2m {
            let good = aligned(va) && va < virt_base;
            address("list of frames", va, good, "a multiple of 4096 below the virtual base")?;
        }
        Ok(())
    }
}

fn address(what: &'static str, value: u64, good: bool, must: &'static str) -> Result<(), PlanError> {
    if good { Ok(()) } else { Err(PlanError::Address { what, value, must }) }
}

/// At most [`MAX_SEGMENTS`]: a longer list is refused before it takes memory.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Segment>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Segment>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_SEGMENTS} segments")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Segment>, A::Error> {
            let mut segments = Vec::new();
            while let Some(segment) = seq.next_element()? {
                if segments.len() >= MAX_SEGMENTS {
                    return Err(A::Error::invalid_length(MAX_SEGMENTS + 1, &self));
                }
                segments.push(segment);
            }
            Ok(segments)
        }
    }
    deserializer.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment { paddr: 0x20_0000, file_bytes: 5, memory_bytes: 0x3000 };
    const PV: PvEntry =
        PvEntry { entry: 0x20_0010, virt_base: 0, hypercall_page: Some(0x20_2000), init_p2m: None };

    fn check(mode: Mode, segments: &[Segment]) -> String {
        let plan = KernelPlan { mode, segments: segments.to_vec() };
        plan.check().map_or_else(|e| e.to_string(), |()| "good".to_owned())
    }

    #[test]
    fn a_plan_is_an_allegation() {
        let pvh = Mode::Pvh { entry: 0x20_2fff };
        assert_eq!(check(Mode::Pv(PV), &[SEGMENT]), "good");
        assert_eq!(check(pvh, &[SEGMENT]), "good");
        let last = Segment { paddr: MAX_INITIAL - 1, file_bytes: 1, memory_bytes: 1 };
        assert_eq!(check(pvh, &[SEGMENT, last]), "good");
        assert_eq!(check(pvh, &[]), "no segment to load");
        assert_eq!(check(pvh, &[SEGMENT; 17]), "17 segments, at most 16");
        for bad in [
            Segment { memory_bytes: 0, file_bytes: 0, ..SEGMENT },
            Segment { file_bytes: 0x3001, ..SEGMENT },
            Segment { paddr: u64::MAX, ..SEGMENT },
            Segment { paddr: MAX_INITIAL - 0x2fff, ..SEGMENT },
            Segment { memory_bytes: u64::MAX, ..SEGMENT },
        ] {
            let error = check(pvh, &[bad]);
            assert!(error.starts_with("segment 0 (") && error.ends_with("end within 1 GiB"), "{error}");
        }
        for next in [SEGMENT, Segment { paddr: 0x20_2fff, ..SEGMENT }, Segment { paddr: 0, ..SEGMENT }] {
            let error = check(pvh, &[SEGMENT, next]);
            assert!(error.starts_with("segment 1 (") && error.contains("begins before"), "{error}");
        }
        let kernel = "must be an address inside the kernel";
        for entry in [0, 0x1f_ffff, 0x20_3000, u32::MAX] {
            let error = check(Mode::Pvh { entry }, &[SEGMENT]);
            assert_eq!(error, format!("entry point is {entry:#x}, {kernel}"));
        }
        for (pv, want) in [
            (PvEntry { entry: 0x20_3000, ..PV }, "entry point is 0x203000, must be an address"),
            (PvEntry { virt_base: 1, ..PV }, "virtual base is 0x1, must be a multiple"),
            (PvEntry { virt_base: 1 << 40, ..PV }, "entry point is"),
            (PvEntry { hypercall_page: Some(0x20_0001), ..PV }, "hypercall page is 0x200001"),
            (PvEntry { hypercall_page: Some(0x1000), ..PV }, "hypercall page is 0x1000"),
            (PvEntry { init_p2m: Some(0), ..PV }, "list of frames is 0x0"),
        ] {
            let error = check(Mode::Pv(pv), &[SEGMENT]);
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn a_plan_goes_through_a_channel_bounded() {
        for (mode, count) in [(Mode::Pv(PV), 16), (Mode::Pvh { entry: 7 }, 0)] {
            let plan = KernelPlan { mode, segments: vec![SEGMENT; count] };
            let bytes = postcard::to_allocvec(&plan).unwrap();
            assert_eq!(postcard::from_bytes::<KernelPlan>(&bytes).unwrap(), plan);
        }
        let plan = KernelPlan { mode: Mode::Pvh { entry: 7 }, segments: vec![SEGMENT; 17] };
        let bytes = postcard::to_allocvec(&plan).unwrap();
        assert!(postcard::from_bytes::<KernelPlan>(&bytes).is_err());
    }
}
