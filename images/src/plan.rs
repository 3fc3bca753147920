//! The manifest -> the checked plan; the plan and the hashes of the images -> what is signed and what the machine is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use ennead_manifest::{BootPlan, Image, Iommu, Kind, Plan, Vm};

use crate::boot_guests::BootGuests;
use crate::cache::sha256;
use crate::xen::read;

/// A manifest that passed every check.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Its text.
    pub text: String,
    /// What it means.
    pub plan: Plan,
    /// The guests that start with the host.
    pub guests: BootGuests,
}

/// Reads and checks a manifest.
///
/// # Errors
/// When it cannot be read; and every mistake in it, with file, line and remedy.
pub fn check(file: &Path) -> Result<Checked> {
    check_text(file, read(file)?)
}

/// Checks a manifest's text; `file` is its name in messages, and where the paths in it begin.
///
/// # Errors
/// Every mistake in it, with file, line and remedy; then those in the configurations of its guests.
pub fn check_text(file: &Path, text: String) -> Result<Checked> {
    let plan = ennead_manifest::check(&file.display().to_string(), &text)?;
    let guests = BootGuests::read(file, &text, &plan)?;
    Ok(Checked { text, plan, guests })
}

/// The bootstrapper of a plan.
///
/// # Errors
/// When the plan has none.
pub fn bootstrapper(plan: &Plan) -> Result<&Vm> {
    plan.vms_of_kind(Kind::Bootstrapper).next().context("The manifest has no VM of kind `bootstrapper`")
}

/// Names of the kernels that VMs of this plan use.
#[must_use]
pub fn kernels(plan: &Plan) -> BTreeSet<&str> {
    plan.vms.iter().map(|vm| vm.kernel.as_str()).collect()
}

/// Names of the programs that VMs of this plan run.
#[must_use]
pub fn programs(plan: &Plan) -> BTreeSet<&str> {
    plan.vms.iter().map(|vm| vm.program.as_str()).collect()
}

/// Names of the images that the bootstrapper is given: those of every VM but itself.
#[must_use]
pub fn images(plan: &Plan) -> BTreeSet<String> {
    let others = plan.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
    others.flat_map(|vm| [vm.kernel_image(), vm.ramdisk_image()]).collect()
}

/// The boot plan: the plan with the hash of each image.
///
/// # Errors
/// When an image is too large to count.
pub fn boot_plan(manifest: &Checked, images: &BTreeMap<String, Vec<u8>>) -> Result<BootPlan> {
    let describe = |(name, bytes): (&String, &Vec<u8>)| -> Result<(String, Image)> {
        let size = u64::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        Ok((name.clone(), Image { sha256: sha256(bytes), size }))
    };
    Ok(BootPlan {
        manifest_sha256: sha256(manifest.text.as_bytes()),
        images: images.iter().map(describe).collect::<Result<_>>()?,
        plan: manifest.plan.clone(),
    })
}

/// What GRUB tells Xen and domain 0's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLines {
    /// Xen's options.
    pub xen: String,
    /// Options of domain 0's kernel.
    pub kernel: String,
}

/// The options of Xen and of domain 0's kernel. Tune them here and nowhere else.
///
/// # Errors
/// When the plan lacks a bootstrapper or pciback.
pub fn command_lines(plan: &Plan) -> Result<CommandLines> {
    let bootstrapper = bootstrapper(plan)?;
    let pciback =
        plan.vms_of_kind(Kind::Pciback).next().context("The manifest has no VM of kind `pciback`")?;
    let console = &plan.host.console;
    let iommu = match plan.host.iommu {
        Iommu::Required => "iommu=force,intremap dom0-iommu=strict",
        Iommu::None(_) => "iommu=off",
    };
    let memory = bootstrapper.memory_mib;
    let xen = [
        format!("console={console},vga {console}=115200,8n1"),
        "loglvl=info guest_loglvl=all".to_owned(),
        "flask=enforcing".to_owned(),
        format!("hardware_dom={}", pciback.domid),
        iommu.to_owned(),
        format!("dom0_mem={memory}M,max:{memory}M dom0_max_vcpus={}", bootstrapper.vcpus),
        plan.host.xen_options.clone(),
    ];
    let kernel = [
        // XEN_DOM0 needs PCI and ACPI, but domain 0 must not touch them: the hardware is to be pciback's.
        "console=hvc0 pci=off acpi=off".to_owned(),
        "printk.devkmsg=on quiet".to_owned(),
        // 4 MiB instead of 64 MiB.
        "swiotlb=2048".to_owned(),
        format!("ennead.vm={}", bootstrapper.name),
        bootstrapper.kernel_options.clone(),
    ];
    Ok(CommandLines { xen: join(&xen), kernel: join(&kernel) })
}

fn join(parts: &[String]) -> String {
    let parts: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Checked {
        check(&crate::images_dir().join("host.toml")).unwrap()
    }

    #[test]
    fn the_command_lines_come_from_the_manifest() {
        let mut plan = shipped().plan;
        let lines = command_lines(&plan).unwrap();
        let pciback = plan.vms_of_kind(Kind::Pciback).next().unwrap().domid;
        for part in
            ["flask=enforcing", "iommu=force", "dom0-iommu=strict", &format!("hardware_dom={pciback}")]
        {
            assert!(lines.xen.contains(part), "{part} is missing: {}", lines.xen);
        }
        assert!(lines.kernel.contains("pci=off"), "{}", lines.kernel);
        plan.host.console = "com2".to_owned();
        plan.host.iommu = Iommu::None("a test".to_owned());
        plan.host.xen_options = " sched=credit ".to_owned();
        let changed = command_lines(&plan).unwrap().xen;
        assert!(changed.contains("com2=115200") && changed.ends_with(" sched=credit"), "{changed}");
        assert!(!changed.contains("com1") && !changed.contains("iommu=force"), "{changed}");
    }

    #[test]
    fn the_boot_plan_names_every_image_but_the_bootstrappers() {
        let manifest = shipped();
        let names = images(&manifest.plan);
        assert!(!names.contains(&bootstrapper(&manifest.plan).unwrap().ramdisk_image()));
        let images = names.into_iter().map(|name| (name.clone(), name.into_bytes())).collect();
        let boot_plan = boot_plan(&manifest, &images).unwrap();
        assert_eq!(boot_plan.images.len(), images.len());
        let text = boot_plan.to_toml().unwrap();
        assert_eq!(BootPlan::from_toml(&text).unwrap(), boot_plan);
    }
}
