//! A VM that cannot start: the error names the VM and the cause, what was half-built is gone, and the host does not hang.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ennead_manifest::{Kind, Vm};

use super::{Report, Setup, refuse};
use crate::host::Host;
use crate::qemu::Settings;
use crate::session::{PATIENCE, Session};

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host()?;
    // The kernel is signed and has the right hash, but it is none.
    for kind in [Kind::Builder, Kind::Pciback] {
        let vm = host.plan.vms_of_kind(kind).next().context("a VM is missing")?;
        let damaged = BTreeMap::from([(vm.kernel_image(), b"This is no kernel. ".repeat(4096))]);
        let first = first_with(&host, vm)?;
        let changed = setup.host_with(&damaged)?;
        let what = format!("a kernel of `{}` that is none", vm.name);
        one(setup, &changed, &what, &format!("kernel-{}", vm.name), &first.name, report)?;
    }
    // A memory that the kernel does not fit into.
    let builder = host.plan.vms_of_kind(Kind::Builder).next().context("a VM is missing")?;
    let changed = setup.host_of(with_memory(setup, builder, 4)?)?;
    one(setup, &changed, "too little memory for `builder`", "memory-builder", &builder.name, report)?;
    // It starts, and its kernel finds no program.
    let changed = setup.host_with(&BTreeMap::from([(builder.ramdisk_image(), vec![0; 4096])]))?;
    one(setup, &changed, "a ramdisk of `builder` that is none", "ramdisk-builder", &builder.name, report)?;
    // Xen has too little memory for it when it already is the hardware domain: it cannot be destroyed, the host must stop.
    let pciback = host.plan.vms_of_kind(Kind::Pciback).next().context("a VM is missing")?;
    let changed = setup.host_of(with_memory(setup, pciback, 2048)?)?;
    one(setup, &changed, "more memory for `pciback` than there is", "memory-pciback", &pciback.name, report)
}

/// The first VM that is built from the same kernel.
fn first_with<'a>(host: &'a Host, vm: &Vm) -> Result<&'a Vm> {
    let mut others =
        host.plan.vms.iter().filter(|other| other.kind != Kind::Bootstrapper && other.kernel == vm.kernel);
    others.next().context("a VM is missing")
}

/// The same manifest, but `vm` gets `mib` MiB of a machine that is said to have enough.
fn with_memory(setup: &Setup, vm: &Vm, mib: u32) -> Result<String> {
    let text = crate::xen::read(&setup.build.manifest)?;
    let text = changed_in(&text, "[host]", "memory-mib = ", "memory-mib = 8192 # ")?;
    changed_in(&text, &format!("[vm.{}]", vm.name), "memory-mib = ", &format!("memory-mib = {mib} # "))
}

/// Replaces the first `old` behind `section`.
fn changed_in(text: &str, section: &str, old: &str, new: &str) -> Result<String> {
    let (before, after) =
        text.split_once(section).with_context(|| format!("no {section} in the manifest"))?;
    Ok(format!("{before}{section}{}", after.replacen(old, new, 1)))
}

fn one(setup: &Setup, host: &Host, what: &str, log: &str, vm: &str, report: &mut Report) -> Result<()> {
    let (_folder, settings) = setup.changed_machine(host, &format!("fault-{log}"))?;
    report.say(&format!("\n{what}:\n"));
    report.check(
        &format!("{what}: VM and cause are named, and the host stops"),
        failed(&settings, vm, report.show),
    );
    Ok(())
}

fn failed(settings: &Settings, vm: &str, show: bool) -> Result<String> {
    let mut session = Session::start(settings, show)?;
    let (_, failure) = session.wait("the failure", PATIENCE, |milestone| milestone.name == "failed")?;
    anyhow::ensure!(failure.value("vm") == Some(vm), "the VM `{vm}` is not named: {failure}");
    anyhow::ensure!(failure.value("cause").is_some_and(|cause| !cause.is_empty()), "no cause: {failure}");
    refuse::stopped(&mut session)?;
    Ok(failure.to_string())
}
