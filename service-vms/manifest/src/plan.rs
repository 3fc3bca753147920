//! The checked plan: what `host.toml` means after every check has passed.
//!
//! The same types travel in the signed boot plan (TOML) that the bootstrapper and Builder read on the host, so nothing on
//! the host parses `host.toml` itself. Lines refer to `host.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a VM is for. The nine service VMs of the design, one kind each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Domain 0 at power-on; builds the first VMs and is destroyed.
    Bootstrapper,
    /// Builds, destroys and restarts VMs at run time.
    Builder,
    /// The hardware domain: owns the PCI bus.
    Pciback,
    /// XenStore's protocol half.
    XenstoreLogic,
    /// XenStore's contents half.
    XenstoreState,
    /// The operator's API of one tenant.
    Toolstack,
    /// One storage controller.
    Blkback,
    /// One network controller.
    Netback,
    /// The device model of one HVM guest.
    QemuStub,
}

/// One privilege, by name. What each means in Xen's access vectors is in the `policy` crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Create VMs of the manifest, fill their memory while they are `<type>_building`, start, pause and destroy them.
    BuildVms,
    /// Create the hardware domain: Xen moves interrupts, I/O ports and I/O memory to it.
    CreateHardwareDomain,
    /// Destroy domain 0 after the hand-over.
    DestroyBootstrapper,
    /// Read the list of domains (id, memory, state, label) and the host's free memory.
    ListVms,
    /// Receive Xen's host-wide events: a domain died (`VIRQ_DOM_EXC`), a key was pressed (`VIRQ_CONSOLE`).
    HostEvents,
    /// Read what is typed on the host's console.
    ReadHostConsole,
    /// Write lines to the host's console.
    WriteHostConsole,
    /// Own the hardware: PCI configuration, interrupts, I/O ports and memory, ACPI.
    Hardware,
    /// Switch the host off or restart it.
    HostPower,
    /// Hand a device's rights to a driver VM when Builder asks.
    LendDevices,
    /// Use one borrowed device.
    UseDevice,
}

/// A permission with its reason and its line in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grant {
    /// What is allowed.
    pub permission: Permission,
    /// Why, in the manifest's words.
    pub reason: String,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// A channel that this VM opens as a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Channel {
    /// Name of the VM that answers.
    pub peer: String,
    /// Why, in the manifest's words.
    pub reason: String,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// A VM has a XenStore ring, which the VM of kind `xenstore-logic` serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ring {
    /// Why, in the manifest's words.
    pub reason: String,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// A toolstack's own network interface, where operators reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// Name of the VM that serves it.
    pub backend: String,
    /// IPv4 address and length of the network's prefix: `10.0.2.40/24`.
    pub address: String,
    /// IPv4 address of the way to other networks.
    pub gateway: String,
    /// TCP port of the API.
    pub port: u16,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// Which PCI devices a VM gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// Every device on the bus (the hardware domain only).
    All,
    /// The first free controller of a class.
    Class(DeviceClass),
    /// One function, `dddd:bb:dd.f`.
    Address(String),
}

/// PCI device classes that a driver VM can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceClass {
    /// PCI base class 0x02.
    Network,
    /// PCI base class 0x01.
    Storage,
}

/// What one guest may use of XenStore, by name. What is not set is as Xen 4.17 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quota {
    /// Nodes that it owns.
    Nodes,
    /// Bytes of one node: value, permissions and the names of its children.
    NodeSize,
    /// Watches.
    Watches,
    /// Open transactions.
    Transactions,
    /// Nodes that one transaction looks at or changes.
    TransactionNodes,
    /// Permissions of one node.
    Permissions,
    /// Bytes of a path.
    PathMax,
    /// Bytes of all its nodes, watches and transactions together.
    Memory,
    /// Events that wait until it reads them.
    Events,
}

/// When a VM is rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Restart {
    /// The rule.
    pub policy: RestartPolicy,
    /// Seconds between two restarts; only with `RestartPolicy::Every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u32>,
    /// Milliseconds that it may take to end its work when it is restarted on request; then it is destroyed as it is.
    pub drain_ms: u32,
}

/// The rule by which a VM is rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never: its end is the end of the host, or it ends by design.
    Never,
    /// When it crashed.
    OnCrash,
    /// When it crashed, and on an operator's request.
    OnRequest,
    /// On a schedule, and when it crashed.
    Every,
}

/// One service VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vm {
    /// Its name in the manifest.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// The tenant whose toolstack it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Fixed domid, 0 to 32751 (0 is the bootstrapper's).
    pub domid: u16,
    /// The second domid of a VM that its own successor replaces (builder, xenstore-state).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor_domid: Option<u16>,
    /// Name of its kernel in `Plan::kernels`.
    pub kernel: String,
    /// Program that is its PID 1: the name of a binary, also the name of its ramdisk image.
    pub program: String,
    /// MiB of memory.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Kernel parameters beyond those that the runtime needs.
    pub kernel_options: String,
    /// PCI devices.
    pub devices: Vec<Device>,
    /// Why its devices are lent even if they cannot be reset, in the manifest's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_no_reset: Option<String>,
    /// VMs to which it opens channels.
    pub talks_to: Vec<Channel>,
    /// VMs whose channels it answers, in this order (the order fixes the grefs).
    pub answers: Vec<String>,
    /// Its XenStore ring; `None`: it has none, and its kernel finds no XenStore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xenstore: Option<Ring>,
    /// Its network interface (only of kind `toolstack`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What one guest may use of XenStore, where that differs from Xen's defaults (only of kind `xenstore-state`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<Quota, u32>,
    /// What it may do.
    pub may: Vec<Grant>,
    /// VMs that must be healthy before it is built.
    pub after: Vec<String>,
    /// Built by the bootstrapper (else by Builder, after the hand-over).
    pub built_by_bootstrapper: bool,
    /// Built as soon as the host starts; `false`: only on request.
    pub autostart: bool,
    /// When it is rebuilt.
    pub restart: Restart,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// Whether the host needs an IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Iommu {
    /// Xen refuses to boot without one (`iommu=force`).
    Required,
    /// None; with the manifest's reason.
    None(String),
}

/// The host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// MiB of memory that the machine has at least.
    pub memory_mib: u32,
    /// Xen's serial console, in Xen's words (`com1`).
    pub console: String,
    /// Further options of Xen's.
    pub xen_options: String,
    /// Whether it needs an IOMMU.
    pub iommu: Iommu,
}

/// A tenant: one toolstack and the limits of its guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Name of its toolstack VM.
    pub toolstack: String,
    /// MiB of memory of all its guests together.
    pub memory_mib: u32,
    /// vCPUs of all its guests together.
    pub vcpus: u32,
    /// Number of its guests.
    pub guests: u32,
    /// VMs that serve its guests' disks and NICs; a guest that does not say which gets the first of its kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Channel>,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// A guest that is started at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BootGuest {
    /// Its name.
    pub name: String,
    /// Name of its tenant.
    pub tenant: String,
    /// Path of its configuration, relative to the manifest.
    pub config: String,
    /// Line in the manifest, from 1.
    pub line: u32,
}

/// The whole host, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// The host itself.
    pub host: Host,
    /// Kernels: name -> path of the configuration, relative to the manifest.
    pub kernels: BTreeMap<String, String>,
    /// Service VMs, in the order of start.
    pub vms: Vec<Vm>,
    /// Tenants, by name.
    pub tenants: Vec<Tenant>,
    /// Guests to start at boot, in the manifest's order.
    pub guests: Vec<BootGuest>,
}

/// An image file on the host: its size in bytes and SHA-256 (lower-case hex).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// SHA-256, 64 lower-case hex digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// What is signed: the plan and the hash of every image. Images are named `<kernel>.kernel` and `<program>.ramdisk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BootPlan {
    /// SHA-256 of `host.toml`, lower-case hex, to find the source of a running host.
    pub manifest_sha256: String,
    /// Image name -> hash and size.
    pub images: BTreeMap<String, Image>,
    /// The checked plan.
    pub plan: Plan,
}
