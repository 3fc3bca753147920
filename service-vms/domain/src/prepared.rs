//! A kernel as it lies among the images: its plan and its bytes, read from the kernel's file when the images were made. So who
//! starts it reads no file format of anybody else's.
//!
//! In the file: [`MAGIC`], the plan's length (u32, little-endian), the plan (postcard), and the bytes of all segments, one after
//! the other, as one lz4 block.

#[cfg(feature = "image")]
mod prepare;

use std::iter;

use crate::plan::{KernelPlan, PlanError};

/// How such a file begins.
const MAGIC: &[u8; 8] = b"EnneadK1";
/// Most that the segments may unpack to, in bytes: this much of the memory of who reads it.
const MAX_BYTES: u64 = 128 << 20;

/// Why a file is no prepared kernel.
#[derive(Debug, thiserror::Error)]
pub enum PreparedError {
    /// It is something else, or ends early.
    #[error("Kernel: not one that was prepared for this host")]
    Unknown,
    /// Its plan cannot be read.
    #[error("Kernel: its plan cannot be read")]
    Encoding(#[from] postcard::Error),
    /// Its plan cannot be carried out.
    #[error("Kernel: {0}")]
    Plan(#[from] PlanError),
    /// Its segments are not what its plan says.
    #[error("Kernel: its plan has {said} bytes of segments, at most {MAX_BYTES}; its data is something else")]
    Data {
        /// Bytes.
        said: u64,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Prepared {
    plan: KernelPlan,
    data: Vec<u8>,
}

impl Prepared {
    /// Reads one.
    ///
    /// # Errors
    /// Says what is wrong; `file` may hold anything.
    pub fn read(file: &[u8]) -> Result<Self, PreparedError> {
        let rest = file.strip_prefix(MAGIC).ok_or(PreparedError::Unknown)?;
        let (length, rest) = rest.split_first_chunk().ok_or(PreparedError::Unknown)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (plan, packed) = rest.split_at_checked(length).ok_or(PreparedError::Unknown)?;
        let plan: KernelPlan = postcard::from_bytes(plan)?;
        plan.check()?;
        let said = plan.segments.iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.file_bytes));
        let wrong = || PreparedError::Data { said };
        let size = usize::try_from(said).ok().filter(|_| said <= MAX_BYTES).ok_or_else(wrong)?;
        let mut data = vec![0; size];
        let unpacked = lz4_flex::block::decompress_into(packed, &mut data);
        if unpacked.ok() != Some(size) {
            return Err(wrong());
        }
        Ok(Self { plan, data })
    }

    /// What it asks for.
    #[must_use]
    pub fn plan(&self) -> &KernelPlan {
        &self.plan
    }

    /// The bytes for each segment of its plan, without the zeros that follow them.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        let (mut segments, mut rest) = (self.plan.segments.iter(), self.data.as_slice());
        iter::from_fn(move || {
            let length = usize::try_from(segments.next()?.file_bytes).ok()?;
            let (data, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(data)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use crate::synth::linux;
    use ennead_xen::DomainKind;
    use proptest::prelude::*;

    fn prepared() -> Vec<u8> {
        Kernel::parse(&linux().bytes(), 0).unwrap().prepare(DomainKind::Pv).unwrap()
    }

    #[test]
    fn what_was_prepared_is_what_was_in_the_file() {
        for kind in [DomainKind::Pv, DomainKind::Pvh] {
            let bytes = linux().bytes();
            let kernel = Kernel::parse(&bytes, 0).unwrap();
            let read = Prepared::read(&kernel.prepare(kind).unwrap()).unwrap();
            assert_eq!(*read.plan(), kernel.plan(kind).unwrap());
            assert_eq!(read.data().collect::<Vec<_>>(), kernel.data().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_not_prepared_is_refused() {
        let good = prepared();
        for len in 0..good.len() {
            assert!(Prepared::read(&good[..len]).is_err(), "{len} bytes of it");
        }
        assert!(matches!(Prepared::read(&linux().bytes()), Err(PreparedError::Unknown)));
        let kernel = Kernel::parse(&linux().bytes(), 0).unwrap().plan(DomainKind::Pv).unwrap();
        let mut plan = kernel;
        plan.segments[0].memory_bytes = 1 << 30;
        plan.segments[0].file_bytes = 1 << 30;
        let plan = postcard::to_allocvec(&plan).unwrap();
        let length = u32::try_from(plan.len()).unwrap().to_le_bytes();
        let file = [MAGIC.as_slice(), &length, &plan, &[0; 64]].concat();
        let error = Prepared::read(&file).unwrap_err().to_string();
        assert!(error.contains("segment") || error.contains("bytes of segments"), "{error}");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(at in 0_usize..4096, value: u8, junk in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Prepared::read(&junk);
            let _ = Prepared::read(&[MAGIC.as_slice(), &junk].concat());
            let mut file = prepared();
            let at = at % file.len();
            file[at] = value;
            if let Ok(read) = Prepared::read(&file) {
                prop_assert!(read.plan().check().is_ok());
                prop_assert_eq!(read.data().count(), read.plan().segments.len());
            }
        }
    }
}
