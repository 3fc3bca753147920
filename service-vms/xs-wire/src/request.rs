//! What a client asks for.
//!
//! The form rules are those of C xenstored 4.17, with these differences: a domid is plain decimal, 0 to 65535, without
//! leading zeros (4.17 takes garbage as 0, and octal and hexadecimal in permissions; Xen 4.23 refuses garbage),
//! and a path without its NUL is EINVAL (4.17 answers with whatever error came last).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{Op, Perm};

mod decode;
mod encode;

/// A request whose form is right. Paths are as the client wrote them (absolute, relative or special), not yet checked.
/// Byte strings are without their NUL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Request<'a> {
    /// A command and its arguments, each with a NUL.
    Control(#[serde(with = "serde_bytes")] &'a [u8]),
    Directory {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
    },
    /// A listing in pieces, from byte `offset` of the whole (each name with its NUL).
    DirectoryPart {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        offset: u32,
    },
    Read {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
    },
    GetPerms {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
    },
    Watch {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        #[serde(with = "serde_bytes")]
        token: &'a [u8],
    },
    Unwatch {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        #[serde(with = "serde_bytes")]
        token: &'a [u8],
    },
    TransactionStart,
    TransactionEnd {
        commit: bool,
    },
    /// `gfn` is not used: the ring page is grant reference 1.
    Introduce {
        domid: u16,
        gfn: u64,
        port: u32,
    },
    Release {
        domid: u16,
    },
    GetDomainPath {
        domid: u16,
    },
    /// `value` may hold any bytes.
    Write {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
    Mkdir {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
    },
    Rm {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
    },
    SetPerms {
        #[serde(with = "serde_bytes")]
        path: &'a [u8],
        perms: Vec<Perm>,
    },
    IsDomainIntroduced {
        domid: u16,
    },
    Resume {
        domid: u16,
    },
    /// `domid` gets the rights of `target`.
    SetTarget {
        domid: u16,
        target: u16,
    },
    ResetWatches,
}

impl Request<'_> {
    /// The operation in the header.
    #[must_use]
    pub const fn op(&self) -> Op {
        match self {
            Self::Control(_) => Op::Control,
            Self::Directory { .. } => Op::Directory,
            Self::DirectoryPart { .. } => Op::DirectoryPart,
            Self::Read { .. } => Op::Read,
            Self::GetPerms { .. } => Op::GetPerms,
            Self::Watch { .. } => Op::Watch,
            Self::Unwatch { .. } => Op::Unwatch,
            Self::TransactionStart => Op::TransactionStart,
            Self::TransactionEnd { .. } => Op::TransactionEnd,
            Self::Introduce { .. } => Op::Introduce,
            Self::Release { .. } => Op::Release,
            Self::GetDomainPath { .. } => Op::GetDomainPath,
            Self::Write { .. } => Op::Write,
            Self::Mkdir { .. } => Op::Mkdir,
            Self::Rm { .. } => Op::Rm,
            Self::SetPerms { .. } => Op::SetPerms,
            Self::IsDomainIntroduced { .. } => Op::IsDomainIntroduced,
            Self::Resume { .. } => Op::Resume,
            Self::SetTarget { .. } => Op::SetTarget,
            Self::ResetWatches => Op::ResetWatches,
        }
    }
}

#[cfg(test)]
mod tests;
