//! The host starts and then has no Dom0.

use std::time::Duration;

use anyhow::{Context, Result};
use ennead_manifest::{Iommu, Kind, Plan, Vm};

use super::{Report, Setup, seconds};
use crate::host::Host;
use crate::session::{Session, complaints};
use crate::step::size;
use crate::table::{VmList, mib};
use crate::xen::file_size;

/// How long the host is left alone.
const QUIET: Duration = Duration::from_secs(60);

/// Memory of domain 0 that need not come back: what Xen itself takes meanwhile for the VMs (structures, page tables).
const XENS_SHARE_KIB: u64 = 4096;

/// How far a VM's memory may be from the manifest's: pages that Xen counts and the manifest does not.
const MEMORY_TOLERANCE_KIB: u64 = 512;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host()?;
    let machine = setup.machine(&host)?;
    report.say("\nThe host starts; seconds since power-on:\n");
    let mut session = Session::start(&machine, report.show)?;
    session.until_ready()?;
    report.say("");
    let list = session.list()?;
    checks(&host, &mut session, &list, report);
    report.say(&format!("\n{}", list.table()));
    figures(setup, &host, &session, &list, report)?;
    let quiet = session.idle(QUIET);
    report.check("a minute idle: not a line of error", no_complaints(&quiet));
    let again = session.list().and_then(|again| same(&list, &again));
    report.check("a minute idle: the same VMs", again);
    report.check("no AVC denial from power-on to now", no_denials(&session));
    report.check("`poweroff` switches the machine off", session.power_off().map(|()| String::new()));
    Ok(())
}

/// What must hold on a host that is ready.
pub(super) fn checks(host: &Host, session: &mut Session, list: &VmList, report: &mut Report) {
    report.check("the VMs of the manifest run, and no other", exactly(&host.plan, session, list));
    report.check("no domain 0, no VM with the bootstrapper's type", no_bootstrapper(&host.plan, list));
    report.check("each VM has the memory of the manifest", memory(&host.plan, session, list));
    report.check("each VM runs the image that was signed", images(host, session, list));
    report.check("domain 0's memory is free again", memory_is_back(&host.plan, session));
    report.check("FLASK is enforcing", said(session, "Flask:  Starting in enforcing mode"));
    if host.plan.host.iommu == Iommu::Required {
        report.check("the IOMMU is on", said(session, "I/O virtualisation enabled"));
        report.check("the IOMMU is strict", said(session, "Dom0 mode: Strict"));
        report.check("interrupts are remapped", said(session, "Interrupt remapping enabled"));
    }
}

/// VMs that are there once the host is ready: a driver VM whose controller the machine does not have was skipped.
fn expected<'p>(plan: &'p Plan, session: &Session) -> impl Iterator<Item = &'p Vm> {
    let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
    let skipped = all.filter(|m| m.is("builder", "driver-vm-skipped")).filter_map(|m| m.value("vm"));
    let skipped: Vec<String> = skipped.map(str::to_owned).collect();
    let starts = |vm: &Vm| vm.kind != Kind::Bootstrapper && (vm.autostart || vm.built_by_bootstrapper);
    plan.vms.iter().filter(move |vm| starts(vm) && !skipped.contains(&vm.name))
}

fn exactly(plan: &Plan, session: &Session, list: &VmList) -> Result<String> {
    let mut wanted: Vec<String> =
        expected(plan, session).map(|vm| format!("{} {}", vm.domid, vm.name)).collect();
    let mut there: Vec<String> = list.vms.iter().map(|vm| format!("{} {}", vm.domid, vm.name)).collect();
    wanted.sort();
    there.sort();
    anyhow::ensure!(wanted == there, "expected [{}], there are [{}]", wanted.join(", "), there.join(", "));
    Ok(there.join(", "))
}

fn no_bootstrapper(plan: &Plan, list: &VmList) -> Result<String> {
    for vm in &list.vms {
        anyhow::ensure!(vm.domid != 0, "domain 0 is still there, as `{}`", vm.name);
        let wrong =
            [Kind::Bootstrapper.running_type(), Kind::Bootstrapper.building_type()].contains(&vm.flask_type);
        anyhow::ensure!(!wrong, "{} (domid {}) has the type {}", vm.name, vm.domid, vm.flask_type);
        let own = plan.vm(&vm.name).map(Vm::running_type);
        anyhow::ensure!(own.as_deref() == Some(&vm.flask_type), "{} has the type {}", vm.name, vm.flask_type);
    }
    Ok(list.vms.iter().map(|vm| vm.flask_type.as_str()).collect::<Vec<_>>().join(", "))
}

fn memory(plan: &Plan, session: &Session, list: &VmList) -> Result<String> {
    for vm in expected(plan, session) {
        let there = list.vms.iter().find(|other| other.name == vm.name).context("a VM is missing")?;
        let wanted = u64::from(vm.memory_mib) * 1024;
        let difference = wanted.abs_diff(there.memory_kib);
        anyhow::ensure!(
            difference <= MEMORY_TOLERANCE_KIB,
            "{} has {} and should have {}",
            vm.name,
            mib(there.memory_kib),
            mib(wanted)
        );
    }
    Ok(mib(list.vms.iter().map(|vm| vm.memory_kib).sum()))
}

fn images(host: &Host, session: &Session, list: &VmList) -> Result<String> {
    for vm in expected(&host.plan, session) {
        let there = list.vms.iter().find(|other| other.name == vm.name).context("a VM is missing")?;
        let (_, ramdisk) = host.boot_plan.images_of(vm).context("a VM has no image")?;
        anyhow::ensure!(
            ramdisk.sha256 == there.image,
            "{} runs {}, signed was {}",
            vm.name,
            there.image,
            ramdisk.sha256
        );
    }
    Ok(String::new())
}

fn memory_is_back(plan: &Plan, session: &Session) -> Result<String> {
    let (_, milestone) = session
        .timeline
        .find("builder", "bootstrapper-destroyed")
        .context("no milestone `ennead builder: bootstrapper-destroyed`")?;
    let freed = milestone.number("freed-kib").with_context(|| format!("no `freed-kib` in: {milestone}"))?;
    let had = u64::from(crate::plan::bootstrapper(plan)?.memory_mib) * 1024;
    anyhow::ensure!(freed + XENS_SHARE_KIB >= had, "only {} of {} came back", mib(freed), mib(had));
    Ok(mib(freed))
}

fn said(session: &Session, text: &str) -> Result<String> {
    let lines = session.machine.lines();
    anyhow::ensure!(lines.iter().any(|line| line.text.contains(text)), "Xen did not say `{text}`");
    Ok(String::new())
}

fn no_complaints(lines: &[crate::qemu::Line]) -> Result<String> {
    let bad = complaints(lines);
    let first = bad.first().map_or("", |line| line.text.as_str());
    anyhow::ensure!(bad.is_empty(), "{} lines, the first: {first}", bad.len());
    Ok(format!("{} lines in all", lines.len()))
}

pub(super) fn no_denials(session: &Session) -> Result<String> {
    let denials = denials(session);
    anyhow::ensure!(
        denials.is_empty(),
        "{} denials, the first: {}",
        denials.len(),
        denials.first().map_or("", String::as_str)
    );
    Ok(String::new())
}

/// Xen's lines of what FLASK has denied.
pub(super) fn denials(session: &Session) -> Vec<String> {
    let lines = session.machine.lines().into_iter().map(|line| line.text);
    lines.filter(|text| text.contains("avc:  denied")).collect()
}

fn same(before: &VmList, after: &VmList) -> Result<String> {
    let names =
        |list: &VmList| list.vms.iter().map(|vm| format!("{} {}", vm.domid, vm.name)).collect::<Vec<_>>();
    anyhow::ensure!(names(before) == names(after), "before {:?}, after {:?}", names(before), names(after));
    Ok(String::new())
}

fn figures(setup: &Setup, host: &Host, session: &Session, list: &VmList, report: &mut Report) -> Result<()> {
    let start = session.timeline.xen().context("Xen has not said its first line")?;
    report.figure("ISO", size(file_size(&setup.build.out)?));
    for (name, bytes) in &host.program_sizes {
        report.figure(format!("program `{name}`"), size(u64::try_from(*bytes)?));
    }
    for (name, image) in &host.boot_plan.images {
        report.figure(format!("image `{name}`"), size(image.size));
    }
    let all: u64 = list.vms.iter().map(|vm| vm.memory_kib).sum();
    report.figure("memory of all VMs", mib(all));
    for (at, milestone) in session.timeline.entries() {
        let what = match (milestone.vm.as_str(), milestone.name.as_str()) {
            ("bootstrapper", "started") => "bootstrapper runs".to_owned(),
            (_, "healthy") => format!("{} is healthy", milestone.value("vm").unwrap_or(&milestone.vm)),
            ("builder", "bootstrapper-destroyed") => "domain 0 is gone".to_owned(),
            ("builder", "host-ready") => "the host is ready".to_owned(),
            _ => continue,
        };
        report.figure(format!("Xen's first line to: {what}"), seconds(start, *at));
    }
    Ok(())
}
