//! Events: what has happened to guests.

use serde::{Deserialize, Serialize};

use crate::Shutdown;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// Its number: from 1, without gaps, until the toolstack starts anew.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Which guest; `None` for the toolstack itself.
    pub guest: Option<String>,
    /// The guest's domid, if it has one.
    pub domid: Option<u16>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum What {
    /// The toolstack has started.
    ToolstackStarted {
        /// How many guests it found.
        guests: u32,
    },
    /// The guest has been created.
    Created,
    /// It runs, first or again.
    Unpaused,
    /// It has been paused.
    Paused,
    /// It was asked to shut down.
    ShutdownAsked,
    /// It was asked to reboot.
    RebootAsked,
    /// It has shut down.
    ShutDown {
        /// Why.
        reason: Shutdown,
    },
    /// It is built again, for it rebooted or its configuration wants it to restart.
    Restarting {
        /// Milliseconds until then.
        pause_ms: u64,
    },
    /// It has been built again.
    Restarted,
    /// It could not be built again.
    RestartFailed {
        /// Why.
        message: String,
    },
    /// It is to start with the host, and could not be created.
    NotStarted {
        /// Why.
        message: String,
        /// Milliseconds until that is tried again; `None` if it is not.
        pause_ms: Option<u64>,
    },
    /// It has been given a disk.
    DiskAttached {
        /// Which.
        vdev: String,
    },
    /// A disk has been taken from it.
    DiskDetached {
        /// Which.
        vdev: String,
    },
    /// Its domain is gone.
    Destroyed,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}
