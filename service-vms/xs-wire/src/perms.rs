//! Permissions of a node: a list of who may do what; the first entry names the owner and what everybody else may do.

#[cfg(feature = "messages")]
mod wire;

use serde::{Deserialize, Serialize};

/// What one entry allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

/// One entry: on the wire a letter and a domid in decimal, NUL at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Perm {
    /// What is allowed.
    pub access: Access,
    /// To whom; in the first entry: the owner.
    pub domid: u16,
}
