//! What a guest is.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rate::Rate;
use crate::rules::Invalid;

/// A guest as its operator wants it. Read from TOML or xl.cfg, sent to the toolstack: what is deserialized holds to
/// [`GuestConfig::check`], or is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
pub struct GuestConfig {
    /// Its name, unique among the guests of its tenant.
    pub name: String,
    /// How it runs.
    pub kind: Kind,
    /// Its UUID in lower-case hex, `8-4-4-4-12`; `None` for a random one.
    pub uuid: Option<String>,
    /// Its kernel; `None` if it boots from its first disk.
    pub kernel: Option<BootFile>,
    /// Its ramdisk, which needs a kernel.
    pub ramdisk: Option<BootFile>,
    /// Its kernel's command line.
    #[serde(default)]
    pub cmdline: String,
    /// MiB that it starts with.
    pub memory_mib: u32,
    /// MiB that it may balloon up to.
    pub max_memory_mib: u32,
    /// Virtual CPUs that are online when it starts.
    pub vcpus: u32,
    /// Virtual CPUs that it may bring online.
    pub max_vcpus: u32,
    /// What is done when it switches itself off.
    pub on_poweroff: Action,
    /// What is done when it asks for a reboot.
    pub on_reboot: Action,
    /// What is done when it crashes, or its watchdog runs out.
    pub on_crash: Action,
    /// Its disks, each with a `vdev` of its own.
    #[serde(rename = "disk", default)]
    pub disks: Vec<Disk>,
    /// Its NICs; the first is number 0.
    #[serde(rename = "vif", default)]
    pub vifs: Vec<Vif>,
}

impl Serialize for GuestConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for GuestConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = Self::deserialize(deserializer)?;
        config.check().map_err(serde::de::Error::custom)?;
        Ok(config)
    }
}

impl GuestConfig {
    /// Whether every value is within its bounds and they go together.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        let problems = crate::rules::problems(self);
        if problems.is_empty() { Ok(()) } else { Err(Invalid::new(&problems)) }
    }
}

/// How a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Paravirtual: a kernel that knows Xen, no hardware virtualization.
    Pv,
    /// Paravirtual devices on hardware virtualization: a kernel with a PVH entry.
    Pvh,
}

impl Kind {
    pub(crate) const ALL: [(&'static str, Self); 2] = [("pv", Self::Pv), ("pvh", Self::Pvh)];

    /// As it is written: `pv` or `pvh`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        }
    }
}

/// What is done when a guest shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Destroy it.
    Destroy,
    /// Destroy it and create it anew.
    Restart,
    /// Keep it as it is, to be examined.
    Preserve,
}

impl Action {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("destroy", Self::Destroy), ("restart", Self::Restart), ("preserve", Self::Preserve)];

    /// As it is written: `destroy`, `restart` or `preserve`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Restart => "restart",
            Self::Preserve => "preserve",
        }
    }
}

/// Where a kernel or a ramdisk is. Written as a path, or as `image:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum BootFile {
    /// A path on the operator's machine.
    Path(String),
    /// The name of an image that is stored on the host.
    Stored(String),
}

impl From<String> for BootFile {
    fn from(text: String) -> Self {
        match text.strip_prefix("image:") {
            Some(name) => Self::Stored(name.to_owned()),
            None => Self::Path(text),
        }
    }
}

impl From<BootFile> for String {
    fn from(file: BootFile) -> Self {
        match file {
            BootFile::Path(path) => path,
            BootFile::Stored(name) => format!("image:{name}"),
        }
    }
}

/// Whether a guest may write to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// It may not.
    #[serde(rename = "r")]
    ReadOnly,
    /// It may.
    #[serde(rename = "w")]
    ReadWrite,
}

impl Access {
    pub(crate) const ALL: [(&'static str, Self); 2] = [("r", Self::ReadOnly), ("w", Self::ReadWrite)];

    /// As it is written, also in XenStore (`mode`): `r` or `w`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "r",
            Self::ReadWrite => "w",
        }
    }
}

/// A disk (vbd). Its format is always raw: nobody guesses a format from bytes that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Disk {
    /// What the guest sees it as, such as `xvda` (xen-vbd-interface(7)).
    pub vdev: String,
    /// What it is, in the words of the backend; `None` is a CD-ROM drive without a disc.
    pub source: Option<String>,
    /// Whether the guest may write to it.
    pub access: Access,
    /// Name of the VM that serves it; `None` for the host's choice.
    pub backend: Option<String>,
    /// Whether it is a CD-ROM, which is read-only.
    #[serde(default)]
    pub cdrom: bool,
}

/// A NIC (vif).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vif {
    /// Its address as six times two digits of lower-case hex with `:`; `None` for a random one.
    pub mac: Option<String>,
    /// The network that it is put into; `None` for the host's first.
    pub bridge: Option<String>,
    /// Name of the VM that serves it; `None` for the host's choice.
    pub backend: Option<String>,
    /// The only addresses (IPv4 or IPv6, or networks `address/bits`) that it may send from; none for any.
    #[serde(default)]
    pub ip: Vec<String>,
    /// How much it may send; `None` for any.
    pub rate: Option<Rate>,
    /// The VLAN (IEEE 802.1Q) of that network that it is in, 1 to 4094; `None` for none. The guest sends and gets packets without
    /// tags, and of other VLANs none; that holds without a VLAN, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}
