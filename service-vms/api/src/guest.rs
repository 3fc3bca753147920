//! Guests.

use std::fmt;
use std::str::FromStr;

use ennead_guest::{GuestConfig, Kind};
use serde::{Deserialize, Serialize};

use crate::Sha256;

/// A guest to create. Images are named by their hashes; the paths in `config` are those on the operator's machine, and only kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CreateGuest {
    /// What it is.
    pub config: GuestConfig,
    /// Its kernel; `None` if it boots from its disk.
    pub kernel: Option<Sha256>,
    /// Its ramdisk.
    pub ramdisk: Option<Sha256>,
    /// Whether it stays paused until it is unpaused.
    #[serde(default)]
    pub paused: bool,
}

/// Name of the file, in a toolstack's ramdisk, with the guests that start with the host: a list of [`CreateGuest`] as JSON.
pub const BOOT_GUESTS: &str = "guests.json";

/// Name of the file, beside [`BOOT_GUESTS`], with an image that one of them is made of.
#[must_use]
pub fn boot_image(id: Sha256) -> String {
    format!("image.{id}")
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its domid; `None` while it has no domain (between its end and its restart).
    pub domid: Option<u16>,
    /// How it runs.
    pub kind: Kind,
    /// What it does.
    pub state: State,
    /// Why it has shut down, if it has.
    pub shutdown: Option<Shutdown>,
    /// KiB of memory that it has.
    pub memory_kib: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Processor time that its domain has used, nanoseconds.
    pub cpu_time_ns: u64,
    /// When its domain was built, milliseconds since 1970; `None` while it has none.
    pub started_ms: Option<u64>,
    /// How often it has been built again since it was created.
    pub restarts: u32,
}

/// A guest and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestInfo {
    /// The guest.
    pub guest: Guest,
    /// What it is to be.
    pub config: GuestConfig,
    /// Its kernel; `None` if it boots from its disk.
    pub kernel: Option<UsedImage>,
    /// Its ramdisk.
    pub ramdisk: Option<UsedImage>,
}

/// An image that a guest is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UsedImage {
    /// Its hash.
    pub sha256: Sha256,
    /// Whether the host has it. If not, the guest runs, but cannot be built again.
    pub present: bool,
}

/// What a guest or a service VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is not yet whole.
    Building,
    /// It runs or waits for events.
    Running,
    /// Its virtual CPUs are stopped.
    Paused,
    /// It has shut down; its domain is still there.
    ShutDown,
    /// It is being destroyed.
    Dying,
    /// It is about to be built again.
    Restarting,
    /// It is not there.
    Gone,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl State {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShutDown => "shut-down",
            Self::Dying => "dying",
            Self::Restarting => "restarting",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a guest has shut down (Xen's `SHUTDOWN_*`, sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// It switched itself off.
    Poweroff,
    /// It asked for a reboot.
    Reboot,
    /// It suspended itself.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// It asked for a reboot that keeps its memory.
    SoftReset,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Shutdown {
    /// Of Xen's code.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            _ => Self::Unknown,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
            Self::Suspend => "suspend",
            Self::Crash => "crash",
            Self::Watchdog => "watchdog",
            Self::SoftReset => "soft-reset",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What can be done with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Stop its virtual CPUs.
    Pause,
    /// Let them go on.
    Unpause,
    /// Ask it to switch itself off.
    Shutdown,
    /// Ask it to reboot.
    Reboot,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Unpause, Self::Shutdown, Self::Reboot];

    /// As it is written, also in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(())
    }
}
