//! Volumes: disks that a host keeps for its guests.

use serde::{Deserialize, Serialize};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volume {
    /// Its name. A guest's disk is this volume if its `source` is `volume:NAME`.
    pub name: String,
    /// The VM that keeps it.
    pub backend: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes that have been written of it, as long as it is made, copied or grows; until then no guest can be given it. One that
    /// has it while it grows sees its new size at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_bytes: Option<u64>,
    /// The guests that it is a disk of.
    pub used_by: Vec<String>,
}

/// The volumes of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volumes {
    /// By name.
    pub volumes: Vec<Volume>,
    /// Bytes that new ones may have, at all VMs that keep some.
    pub free_bytes: u64,
}

/// A volume to create: of `bytes` zeroes, or with the content of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its size, which is rounded up to mebibytes. Not for a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The volume that it is to be a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<String>,
    /// The VM that is to keep it; without, the tenant's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// How large a volume is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GrowVolume {
    /// Its new size, which is rounded up to mebibytes.
    pub bytes: u64,
}
