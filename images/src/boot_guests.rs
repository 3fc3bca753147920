//! The guests that start with the host: `[guest.NAME]` in the manifest. Their configurations are checked together with it, and go, with
//! the kernels and ramdisks that they name, into their toolstacks' ramdisks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ennead_api::{BOOT_GUESTS, CreateGuest, Sha256, boot_image};
use ennead_guest::{BootFile, GuestConfig};
use ennead_manifest::{BootGuest, Kind, Plan, Report, Tenant, XEN_MEMORY_MIB};

use crate::cache::sha256;

/// MiB of a toolstack's memory that are not for such images: its kernel and program, and what operators upload.
const TOOLSTACK_MIB: usize = 40;

/// The guests of each tenant, in the order of their start.
#[derive(Debug, Clone, Default)]
pub struct BootGuests {
    guests: BTreeMap<String, Vec<CreateGuest>>,
    images: BTreeMap<Sha256, Vec<u8>>,
}

/// What is wrong with a guest: message and remedy.
type Mistake = (String, String);

impl BootGuests {
    /// Reads the guests of a plan; paths are relative to the manifest and to the guests' configurations.
    ///
    /// # Errors
    /// The mistakes in the first configuration that has any; else every guest that cannot be had, with its line in the manifest.
    pub fn read(file: &Path, text: &str, plan: &Plan) -> Result<Self> {
        let mut all = Self::default();
        let mut mistakes = Vec::new();
        for guest in &plan.guests {
            let path = file.parent().unwrap_or(Path::new("")).join(&guest.config);
            let read = match fs::read_to_string(&path) {
                Err(error) => Err((
                    format!(
                        "Cannot read the configuration of guest `{}`, {}: {error}",
                        guest.name,
                        path.display()
                    ),
                    "correct `config`: it is a path relative to this file".to_owned(),
                )),
                Ok(text) => {
                    let parsed = ennead_guest::parse(&path.display().to_string(), &text)?;
                    all.add(guest, parsed.config, &path)
                }
            };
            let read = read.and_then(|()| all.check(plan, guest));
            mistakes.extend(read.err().map(|(message, help)| (guest.line, message, help)));
        }
        if mistakes.is_empty() {
            return Ok(all);
        }
        Err(Report::at_lines(&file.display().to_string(), text, mistakes).into())
    }

    fn add(&mut self, guest: &BootGuest, mut config: GuestConfig, path: &Path) -> Result<(), Mistake> {
        // As with `ennead create --name`: one configuration can be several guests'.
        config.name.clone_from(&guest.name);
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut image = |what: &str, place: &Option<BootFile>| {
            let of = format!("the {what} of guest `{}`", guest.name);
            let path = match place {
                None => return Ok(None),
                Some(BootFile::Path(path)) => folder.join(path),
                Some(BootFile::Stored(name)) => {
                    let message = format!("Cannot read {of}: no host has `image:{name}` yet");
                    return Err((message, "name a file".to_owned()));
                }
            };
            let cannot = |error| {
                (format!("Cannot read {of}, {}: {error}", path.display()), "correct its path".to_owned())
            };
            let bytes = fs::read(&path).map_err(cannot)?;
            let id = sha256(&bytes).parse::<Sha256>().map_err(|e| (e.to_string(), String::new()))?;
            self.images.insert(id, bytes);
            Ok(Some(id))
        };
        let (kernel, ramdisk) = (image("kernel", &config.kernel)?, image("ramdisk", &config.ramdisk)?);
        let guest_of = CreateGuest { config, kernel, ramdisk, paused: false };
        self.guests.entry(guest.tenant.clone()).or_default().push(guest_of);
        Ok(())
    }

    /// Checks the guest that was added last, with those before it.
    fn check(&self, plan: &Plan, guest: &BootGuest) -> Result<(), Mistake> {
        let (name, tenant) = (&guest.name, &guest.tenant);
        let known = plan.tenants.iter().find(|known| known.name == *tenant);
        let all = self.guests.get(tenant).map(Vec::as_slice).unwrap_or_default();
        let (Some(tenant), Some(last)) = (known, all.last()) else { return Ok(()) };
        let sum = |of: fn(&GuestConfig) -> u32| {
            all.iter().fold(0_u32, |sum, guest| sum.saturating_add(of(&guest.config)))
        };
        let limits = [
            ("MiB of memory", sum(|config| config.memory_mib), tenant.memory_mib, "memory-mib"),
            ("vCPUs", sum(|config| config.max_vcpus), tenant.vcpus, "vcpus"),
        ];
        for (what, wanted, limit, key) in limits {
            if wanted > limit {
                let message = format!(
                    "With guest `{name}` those that start with the host have {wanted} {what}, and tenant `{}` may have {limit}",
                    tenant.name
                );
                return Err((message, format!("raise `{key}` of the tenant, or start this guest later")));
            }
        }
        self.check_host(plan, name)?;
        check_backends(plan, tenant, last)?;
        self.check_room(plan, tenant, name)
    }

    /// The machine's memory.
    fn check_host(&self, plan: &Plan, name: &str) -> Result<(), Mistake> {
        let lasting = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
        let guests = self.guests.values().flatten().map(|guest| guest.config.memory_mib);
        let all = lasting.map(|vm| vm.memory_mib).chain(guests).fold(XEN_MEMORY_MIB, u32::saturating_add);
        if all <= plan.host.memory_mib {
            return Ok(());
        }
        let message = format!(
            "With guest `{name}` Xen, the VMs and the guests that start with the host need {all} MiB, and the host has {}",
            plan.host.memory_mib
        );
        Err((message, format!("write `memory-mib = {all}` or more in `[host]` if the machine has it")))
    }

    /// The toolstack's memory.
    fn check_room(&self, plan: &Plan, tenant: &Tenant, name: &str) -> Result<(), Mistake> {
        let memory = plan.vm(&tenant.toolstack).map_or(0, |vm| vm.memory_mib);
        let room = usize::try_from(memory).unwrap_or(usize::MAX).saturating_sub(TOOLSTACK_MIB);
        let bytes: usize = self.of(&tenant.name).map(|(_, bytes)| bytes.len()).sum();
        if bytes <= room << 20 {
            return Ok(());
        }
        let message = format!(
            "With guest `{name}` the kernels and ramdisks of those that start with the host have {bytes} bytes, and `{}` has room for {room} MiB",
            tenant.toolstack
        );
        let help = "give it more `memory-mib`, and Builder as much, which holds its image; or let the guest boot from its disk";
        Err((message, help.to_owned()))
    }

    /// The images of a tenant's guests.
    fn of(&self, tenant: &str) -> impl Iterator<Item = (Sha256, &Vec<u8>)> {
        let guests = self.guests.get(tenant).into_iter().flatten();
        let ids: BTreeSet<Sha256> =
            guests.flat_map(|guest| guest.kernel.into_iter().chain(guest.ramdisk)).collect();
        ids.into_iter().filter_map(|id| Some((id, self.images.get(&id)?)))
    }

    /// The files in the ramdisk of a tenant's toolstack: names and bytes.
    ///
    /// # Errors
    /// Never in practice.
    pub fn files(&self, tenant: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let Some(guests) = self.guests.get(tenant) else { return Ok(Vec::new()) };
        let json = serde_json::to_vec(guests).context("Cannot write the guests")?;
        let images = self.of(tenant).map(|(id, bytes)| (boot_image(id), bytes.clone()));
        Ok(std::iter::once((BOOT_GUESTS.to_owned(), json)).chain(images).collect())
    }
}

/// Whether the tenant has somebody for each of the guest's devices.
fn check_backends(plan: &Plan, tenant: &Tenant, guest: &CreateGuest) -> Result<(), Mistake> {
    let config = &guest.config;
    let disks = config.disks.iter().map(|disk| ("vbd", "disk", &disk.backend));
    let vifs = config.vifs.iter().map(|vif| ("vif", "NIC", &vif.backend));
    for (device, what, backend) in disks.chain(vifs) {
        let serves = |(vm, served): (&ennead_manifest::Vm, &str)| {
            served == device && backend.as_ref().is_none_or(|name| *name == vm.name)
        };
        if !plan.backends(tenant).any(serves) {
            let of = backend.as_ref().map_or_else(String::new, |name| format!(" of `{name}`"));
            let message = format!(
                "Guest `{}` has a {what}{of}, which tenant `{}` has no backend for",
                config.name, tenant.name
            );
            return Err((message, format!("add one to `[tenant.{}.backends]`", tenant.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
