//! What can go wrong.

use std::io;
use std::time::Duration;

use ennead_xs_wire::Errno;

/// Why XenStore did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to XenStore.
    #[error("Cannot open /dev/xen/xenbus: does this VM have a XenStore ring, and its kernel xenbus?")]
    Open(#[source] io::Error),
    /// The way to XenStore broke.
    #[error("XenStore cannot be reached")]
    Broken(#[from] io::Error),
    /// No answer came.
    #[error("XenStore did not answer {asked} within {patience:?}")]
    Silent {
        /// The request.
        asked: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It said no.
    #[error("XenStore refused {asked}: {errno}")]
    Refused {
        /// The request.
        asked: String,
        /// Its reason.
        errno: Errno,
    },
    /// It said what no XenStore says.
    #[error("XenStore answered {asked} with something else")]
    Nonsense {
        /// The request.
        asked: String,
    },
    /// A transaction met others' changes each time.
    #[error("XenStore had other changes in the way of a transaction {0} times")]
    Conflicts(u32),
    /// Events came faster than they were read, and some are lost: what is watched must be read anew.
    #[error("Events of XenStore were lost: more than {} waited", crate::MAX_EVENTS)]
    EventsLost,
}

impl Error {
    /// XenStore's reason if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
