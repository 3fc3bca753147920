//! The host, as far as a tenant sees it.

use serde::{Deserialize, Serialize};

use crate::State;

/// The host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Host {
    /// Name of the toolstack VM that answers.
    pub toolstack: String,
    /// Its version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether an IOMMU keeps each device to the memory of its VM. A host without one says why in its manifest.
    pub iommu: bool,
    /// What the tenant's guests may use together.
    pub limits: Resources,
    /// What they use.
    pub used: Resources,
    /// The host's service VMs, by domid.
    pub services: Vec<Service>,
}

/// What guests use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Resources {
    /// MiB of memory.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Guests.
    pub guests: u32,
}

/// A service VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    /// Its name in the manifest.
    pub name: String,
    /// Its domid.
    pub domid: u16,
    /// What it does.
    pub state: State,
    /// KiB of memory that it has.
    pub memory_kib: u64,
    /// Seconds since it was built.
    pub uptime_s: u64,
    /// How often it was built again since the host's start.
    pub restarts: u32,
}
