//! The operations, by number (`enum xsd_sockmsg_type`).

use serde::{Deserialize, Serialize};

/// What a message asks for or is. 20 (the removed RESTRICT) and everything from 23 on is unknown to Xen 4.17.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Op {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
}

impl Op {
    /// The operation of this number; None if Xen 4.17 knows none.
    #[must_use]
    pub const fn from_u32(op: u32) -> Option<Self> {
        Some(match op {
            0 => Self::Control,
            1 => Self::Directory,
            2 => Self::Read,
            3 => Self::GetPerms,
            4 => Self::Watch,
            5 => Self::Unwatch,
            6 => Self::TransactionStart,
            7 => Self::TransactionEnd,
            8 => Self::Introduce,
            9 => Self::Release,
            10 => Self::GetDomainPath,
            11 => Self::Write,
            12 => Self::Mkdir,
            13 => Self::Rm,
            14 => Self::SetPerms,
            15 => Self::WatchEvent,
            16 => Self::Error,
            17 => Self::IsDomainIntroduced,
            18 => Self::Resume,
            19 => Self::SetTarget,
            21 => Self::ResetWatches,
            22 => Self::DirectoryPart,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Op;

    #[test]
    fn numbers_both_ways() {
        let known = (0..=19).chain(21..=22);
        for number in known.clone() {
            assert_eq!(Op::from_u32(number).map(|op| op as u32), Some(number));
        }
        for number in [20, 23, 24, 27, 0xffff, u32::MAX] {
            assert_eq!(Op::from_u32(number), None);
        }
        assert_eq!(known.count(), 22);
    }
}
