//! What a client asks for.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::Perm;

/// A request whose form is right. Paths are as the client wrote them (absolute, relative or special), not yet checked.
/// Byte strings are without their NUL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Request<'a> {
    /// The whole payload: a command and its arguments, each with a NUL.
    Control(&'a [u8]),
    Directory { path: &'a [u8] },
    /// A listing in pieces, from byte `offset` of the whole (NUL-separated) listing.
    DirectoryPart { path: &'a [u8], offset: u32 },
    Read { path: &'a [u8] },
    GetPerms { path: &'a [u8] },
    Watch { path: &'a [u8], token: &'a [u8] },
    Unwatch { path: &'a [u8], token: &'a [u8] },
    TransactionStart,
    TransactionEnd { commit: bool },
    /// `gfn` is not used: the ring page is grant reference 1.
    Introduce { domid: u16, gfn: u64, port: u32 },
    Release { domid: u16 },
    GetDomainPath { domid: u16 },
    /// `value` may hold any bytes.
    Write { path: &'a [u8], value: &'a [u8] },
    Mkdir { path: &'a [u8] },
    Rm { path: &'a [u8] },
    SetPerms { path: &'a [u8], perms: Vec<Perm> },
    IsDomainIntroduced { domid: u16 },
    Resume { domid: u16 },
    /// `domid` gets the rights of `target`.
    SetTarget { domid: u16, target: u16 },
    ResetWatches,
}
