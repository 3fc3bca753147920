//! The signed boot plan as TOML. `from_toml` runs in the most trusted VMs: bounded, and it checks again what they rely on.

use std::collections::BTreeSet;

use crate::plan::{BootPlan, Device, Kind, Plan, Tenant, Vm};
use crate::rules::{self, MAX_DOMID, MAX_MEMORY_MIB, MAX_VCPUS, is_name};

/// Bytes that a boot plan may at most have as TOML.
pub const MAX_BOOT_PLAN_LENGTH: usize = 256 * 1024;

/// Why a boot plan cannot be written or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BootPlanError {
    /// It is too long.
    #[error(
        "The boot plan has {length} bytes, more than {MAX_BOOT_PLAN_LENGTH}: take VMs out of host.toml or shorten its reasons"
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It is not TOML, or not a boot plan.
    #[error(
        "The boot plan is not readable in line {line}: {message}. Build the image again, with tools of the same version"
    )]
    Syntax {
        /// Line of the boot plan (not of `host.toml`), from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// It contradicts itself.
    #[error("The boot plan is not acceptable: {0}. Check host.toml and build the image again")]
    Invalid(String),
    /// It cannot be written as TOML.
    #[error("The boot plan cannot be written as TOML")]
    Write(#[from] toml::ser::Error),
}

impl BootPlan {
    /// The plan as TOML, for signing.
    ///
    /// # Errors
    /// If `from_toml` would refuse the result.
    pub fn to_toml(&self) -> Result<String, BootPlanError> {
        self.validate()?;
        let text = toml::to_string(self)?;
        if text.len() > MAX_BOOT_PLAN_LENGTH {
            return Err(BootPlanError::TooLong { length: text.len() });
        }
        Ok(text)
    }

    /// Reads a plan whose signature has been verified.
    ///
    /// Guaranteed of the result: every name is one (`is_name`) and unique; domids are unique and in range, and 0 is the
    /// bootstrapper's; there is one bootstrapper, one builder, one pciback, at most one of each half of
    /// XenStore, which comes before every VM with a ring; tenants' names are unique, and each has a toolstack of its
    /// own, which names it; each VM's kernel is known and, but for the bootstrapper, both its images are there; hashes
    /// are SHA-256; peers exist; VMs come in the order of start; memory, vCPUs and quotas are in range.
    ///
    /// # Errors
    /// If the text is longer than `MAX_BOOT_PLAN_LENGTH`, is no boot plan, or one of these does not hold.
    pub fn from_toml(text: &str) -> Result<Self, BootPlanError> {
        if text.len() > MAX_BOOT_PLAN_LENGTH {
            return Err(BootPlanError::TooLong { length: text.len() });
        }
        let plan: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
            BootPlanError::Syntax { line, message: short(&rules::printable(error.message())) }
        })?;
        plan.validate()?;
        Ok(plan)
    }

    fn validate(&self) -> Result<(), BootPlanError> {
        hash("host.toml", &self.manifest_sha256)?;
        for (name, image) in &self.images {
            let stem = name.strip_suffix(".kernel").or_else(|| name.strip_suffix(".ramdisk"));
            ensure(stem.is_some_and(|stem| stem.split('.').all(is_name)), || {
                format!("image {name:?} is not called NAME.kernel or NAME.ramdisk")
            })?;
            hash(name, &image.sha256)?;
        }
        self.plan.validate()?;
        for vm in self.plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper) {
            for image in [vm.kernel_image(), vm.ramdisk_image()] {
                ensure(self.images.contains_key(&image), || {
                    format!("there is no image {image}, which VM {} needs", vm.name)
                })?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn validate(&self) -> Result<(), BootPlanError> {
        name("host", &self.host.name)?;
        self.kernels.keys().try_for_each(|kernel| name("kernel", kernel))?;
        for kind in [Kind::Bootstrapper, Kind::Builder, Kind::Pciback] {
            let count = self.vms_of_kind(kind).count();
            ensure(count == 1, || format!("{count} VMs are of kind {kind}, not 1"))?;
        }
        for kind in [Kind::XenstoreState, Kind::XenstoreLogic] {
            let count = self.vms_of_kind(kind).count();
            ensure(count <= 1, || format!("{count} VMs are of kind {kind}, at most 1 can be"))?;
        }
        let all: BTreeSet<&str> = self.vms.iter().map(|vm| vm.name.as_str()).collect();
        let (mut earlier, mut domids) = (BTreeSet::new(), BTreeSet::new());
        for vm in &self.vms {
            name("VM", &vm.name)?;
            for domid in vm.domids() {
                ensure(domids.insert(domid), || format!("VM {} has domid {domid}, which is taken", vm.name))?;
            }
            vm.validate(self, &all)?;
            ensure(vm.xenstore.is_none() || earlier.iter().any(|name: &&str| self.is_logic(name)), || {
                format!("VM {} has a XenStore ring, but no VM before it serves one", vm.name)
            })?;
            for before in &vm.after {
                ensure(earlier.contains(before.as_str()), || {
                    format!("VM {} comes before {before:?}, after which it starts", vm.name)
                })?;
            }
            ensure(earlier.insert(vm.name.as_str()), || format!("two VMs are called {}", vm.name))?;
        }
        self.validate_tenants()?;
        for guest in &self.guests {
            name("guest", &guest.name)?;
            ensure(self.tenants.iter().any(|tenant| tenant.name == guest.tenant), || {
                format!("guest {} has no tenant {:?}", guest.name, guest.tenant)
            })?;
        }
        Ok(())
    }
}

impl Plan {
    /// Labels of VMs are made of tenants' names: each toolstack is its tenant's, and no two tenants' labels are one.
    fn validate_tenants(&self) -> Result<(), BootPlanError> {
        let mut names = BTreeSet::new();
        for tenant in &self.tenants {
            let called = &tenant.name;
            name("tenant", called)?;
            ensure(!rules::is_type_ending(called), || format!("{called:?} is no name for a tenant"))?;
            ensure(names.insert(called), || format!("two tenants are called {called}"))?;
            let toolstack = self.vm(&tenant.toolstack).filter(|vm| vm.kind == Kind::Toolstack);
            ensure(toolstack.is_some_and(|vm| vm.tenant.as_ref() == Some(called)), || {
                format!("tenant {called} has no toolstack {:?}", tenant.toolstack)
            })?;
            ensure(tenant.backends.len() <= rules::MAX_BACKENDS, || {
                format!("tenant {called} has {} backends", tenant.backends.len())
            })?;
            for backend in tenant.backends.iter().map(|backend| &backend.peer) {
                ensure(self.vm(backend).is_some_and(|vm| vm.kind.device().is_some()), || {
                    format!("tenant {called} has the backend {backend:?}, which serves no devices")
                })?;
            }
        }
        for vm in self.vms.iter().filter(|vm| vm.tenant.is_some()) {
            let its =
                |tenant: &Tenant| tenant.toolstack == vm.name && vm.tenant.as_ref() == Some(&tenant.name);
            ensure(self.tenants.iter().any(its), || {
                format!("VM {} is not the toolstack of the tenant that it names", vm.name)
            })?;
        }
        Ok(())
    }

    fn is_logic(&self, name: &str) -> bool {
        self.vm(name).is_some_and(|vm| vm.kind == Kind::XenstoreLogic)
    }
}

impl Vm {
    fn validate(&self, plan: &Plan, all: &BTreeSet<&str>) -> Result<(), BootPlanError> {
        let vm = &self.name;
        name("program", &self.program)?;
        ensure((self.domid == 0) == (self.kind == Kind::Bootstrapper), || {
            format!("VM {vm} of kind {} has domid {}; 0 is the bootstrapper's", self.kind, self.domid)
        })?;
        ensure(self.domids().all(|domid| domid <= MAX_DOMID), || {
            format!("VM {vm} has a domid above {MAX_DOMID}")
        })?;
        ensure(plan.kernels.contains_key(&self.kernel), || {
            format!("VM {vm} has the unknown kernel {:?}", self.kernel)
        })?;
        ensure((1..=MAX_MEMORY_MIB).contains(&self.memory_mib), || {
            format!("VM {vm} has {} MiB of memory", self.memory_mib)
        })?;
        ensure((1..=MAX_VCPUS).contains(&self.vcpus), || format!("VM {vm} has {} vCPUs", self.vcpus))?;
        for (quota, value) in &self.quotas {
            ensure(self.kind == Kind::XenstoreState && quota.range().contains(value), || {
                format!("VM {vm} of kind {} has the quota {quota} = {value}", self.kind)
            })?;
        }
        let peers = self.talks_to.iter().map(|channel| &channel.peer).chain(&self.answers);
        for peer in peers {
            ensure(all.contains(peer.as_str()), || format!("VM {vm} has the unknown peer {peer:?}"))?;
        }
        for device in &self.devices {
            let good = match device {
                Device::Address(address) => rules::is_pci_address(address),
                Device::All | Device::Class(_) => true,
            };
            ensure(good, || {
                format!("VM {vm} has the device {:?}, which is no PCI address", device.to_string())
            })?;
        }
        Ok(())
    }
}

fn ensure(good: bool, wrong: impl FnOnce() -> String) -> Result<(), BootPlanError> {
    if good { Ok(()) } else { Err(BootPlanError::Invalid(short(&wrong()))) }
}

fn name(what: &str, text: &str) -> Result<(), BootPlanError> {
    ensure(is_name(text), || format!("{text:?} is no name for a {what}"))
}

fn hash(of: &str, text: &str) -> Result<(), BootPlanError> {
    ensure(rules::is_sha256(text), || format!("{text:?}, the hash of {of}, is no SHA-256 in lower-case hex"))
}

/// The beginning of a message that quotes the plan: it goes to the host's console.
fn short(message: &str) -> String {
    const CHARACTERS: usize = 240;
    let mut text: String = message.chars().take(CHARACTERS).collect();
    if text.len() < message.len() {
        text += "...";
    }
    text
}
