//! Driver VMs get their controllers from pciback, alone, and again after each of their lives; what is plugged and pulled meanwhile is reported.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result};
use serde_json::json;

use super::xenstore::of_controller;
use super::{Report, Setup, boot};
use crate::devices::{Disk, DiskModel, Network, NetworkModel, image_beside, port};
use crate::host::Host;
use crate::milestone::Milestone;
use crate::qemu::Settings;
use crate::qmp::{self, Control};
use crate::session::{PATIENCE, Session};

/// Restarts of each driver VM in a row.
const RESTARTS: usize = 10;

/// What is on the disk.
const CONTENT: &[u8; 16] = b"this is the disk";

/// The program that only looks at what a driver VM got.
const PROGRAM: &str = "probe-driver";

/// The number of the port into which a controller is plugged while the host runs.
const SPARE: u8 = 5;

/// The controllers of a machine.
const MACHINES: [(&str, DiskModel, NetworkModel); 1] =
    [("NVMe and e1000e", DiskModel::Nvme, NetworkModel::E1000e)];

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = probing_host(setup)?;
    let (_folder, settings) = setup.changed_machine(&host, "lending")?;
    for (what, disk, network) in MACHINES {
        report.say(&format!("\nA machine with {what}:\n"));
        machine(&settings, what, disk, network, report)?;
    }
    report.say("\nA machine without either:\n");
    without(&settings, report)
}

/// The shipped host, but its driver VMs only look.
fn probing_host(setup: &Setup) -> Result<Host> {
    let text = crate::xen::read(&setup.build.manifest)?;
    let mut manifest: toml::Table = text.parse().context("The manifest is no TOML")?;
    for vm in ["blkback", "netback"] {
        let section = manifest.get_mut("vm").and_then(|vms| vms.get_mut(vm)?.as_table_mut());
        section.with_context(|| format!("No [vm.{vm}]"))?.insert("program".into(), PROGRAM.into());
    }
    setup.host_of(manifest.to_string())
}

fn machine(
    settings: &Settings,
    what: &str,
    disk: DiskModel,
    network: NetworkModel,
    report: &mut Report,
) -> Result<()> {
    let disk = Disk { image: image_beside(&settings.log, "lending"), model: disk };
    disk.make()?;
    let image = OpenOptions::new().write(true).open(&disk.image).context("No disk image")?;
    image.write_all_at(CONTENT, 0).context("Cannot write the disk image")?;
    let network = Network { model: network, forwards: Vec::new() };
    let folder = tempfile::tempdir().context("Cannot make a temporary folder")?;
    let socket = folder.path().join("control");
    let extra =
        [settings.extra.clone(), disk.arguments(1), network.arguments(2), port(SPARE), qmp::at(&socket)];
    let extra = extra.concat();
    let mut session = Session::start(&Settings { extra, ..settings.clone() }, report.show)?;
    session.until_ready()?;
    report.check(&format!("{what}: blkback reads the disk"), reads(&session));
    report.check(&format!("{what}: netback has the interface"), interface(&session));
    for vm in ["blkback", "netback"] {
        report.check(
            &format!("{what}: {vm} has one function, and nobody else a controller"),
            alone(&session, vm),
        );
        for round in 1..=RESTARTS {
            if !report.check(&format!("{what}: restart {round} of {vm}"), restart(&mut session, vm)) {
                break;
            }
        }
    }
    report.check(&format!("{what}: no AVC denial"), boot::no_denials(&session));
    let mut qemu = Control::open(&socket)?;
    report.check(
        "a controller that is plugged in is reported, and Xen not told",
        plugged(&mut session, &mut qemu),
    );
    report.check("a controller that is pulled is reported", pulled(&mut session, &mut qemu));
    report.check(
        "a lent controller that is pulled is reported, and its VM's restart says that it is missing",
        lent_pulled(&mut session, &mut qemu),
    );
    report.check("the other driver VM is none the worse", restart(&mut session, "blkback"));
    session.power_off()
}

fn plugged(session: &mut Session, qemu: &mut Control) -> Result<String> {
    qemu.ask("device_add", &json!({ "driver": "e1000e", "id": "spare", "bus": format!("port{SPARE}") }))?;
    let (_, plugged) = session.wait("the controller to be seen", PATIENCE, |m| m.is("pciback", "plugged"))?;
    anyhow::ensure!(plugged.value("class") == Some("020000"), "{plugged}");
    let address = plugged.value("address").context("no address")?;
    // XenStore is told after the log.
    session.list()?;
    let (class, id) = of_controller(session, address)?;
    anyhow::ensure!((class.as_str(), id.as_str()) == ("020000", "8086:10d3"), "in XenStore: {class} {id}");
    let denials = boot::denials(session);
    anyhow::ensure!(
        matches!(&denials[..], [only] if only.contains("{ plug }")),
        "denied was not `plug`, once, but: {denials:?}"
    );
    Ok(plugged.to_string())
}

fn pulled(session: &mut Session, qemu: &mut Control) -> Result<String> {
    qemu.ask("device_del", &json!({ "id": "spare" }))?;
    let (_, pulled) = session.wait("the controller to go", PATIENCE, |m| m.is("pciback", "pulled"))?;
    let address = pulled.value("address").context("no address")?;
    session.list()?;
    let left = of_controller(session, address);
    anyhow::ensure!(left.is_err(), "in XenStore there is still {left:?}");
    Ok(pulled.to_string())
}

fn lent_pulled(session: &mut Session, qemu: &mut Control) -> Result<String> {
    qemu.ask("device_del", &json!({ "id": "controller2" }))?;
    let (_, pulled) = session.wait("the controller to go", PATIENCE, |m| m.is("pciback", "pulled"))?;
    let address = pulled.value("address").context("no address")?.to_owned();
    session.machine.type_line("restart netback")?;
    let (_, refused) = session.wait("the refusal", PATIENCE, |m| {
        m.is("pciback", "refused") && m.value("cause").is_some_and(|cause| cause.contains(&address))
    })?;
    Ok(refused.to_string())
}

fn without(settings: &Settings, report: &mut Report) -> Result<()> {
    let mut session = Session::start(settings, report.show)?;
    let ready = session.until_ready()?;
    let skipped = |vm: &str| {
        let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
        let mut skipped = all.filter(|m| m.is("builder", "driver-vm-skipped") && m.value("vm") == Some(vm));
        skipped.next().map(ToString::to_string).with_context(|| format!("{vm} was not skipped"))
    };
    for vm in ["blkback", "netback"] {
        report.check(&format!("{vm} is skipped, and the host ready"), skipped(vm));
    }
    report.figure("host without controllers ready after", format!("{:.1} s", ready.as_secs_f64()));
    session.power_off()
}

/// What the program of a driver VM said last under this name.
fn said(session: &Session, vm: &str, name: &str) -> Result<Milestone> {
    let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
    let last = all.rev().find(|m| m.is(vm, name)).cloned();
    last.with_context(|| format!("{vm} did not say `{name}`"))
}

fn reads(session: &Session) -> Result<String> {
    let disk = said(session, "blkback", "disk")?;
    anyhow::ensure!(disk.value("begin") == std::str::from_utf8(CONTENT).ok(), "{disk}");
    Ok(disk.to_string())
}

fn interface(session: &Session) -> Result<String> {
    Ok(said(session, "netback", "interface")?.to_string())
}

/// The VM sees one function on its bus.
fn alone(session: &Session, vm: &str) -> Result<String> {
    let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
    let functions: Vec<String> = all.filter(|m| m.is(vm, "function")).map(ToString::to_string).collect();
    anyhow::ensure!(functions.len() == 1, "{}", functions.join("; "));
    Ok(functions.concat())
}

fn restart(session: &mut Session, vm: &str) -> Result<String> {
    let start = session.machine.started().elapsed();
    session.machine.type_line(&format!("kill {vm}"))?;
    let (healthy, _) = session.wait(&format!("{vm} again"), PATIENCE, |m| {
        m.is("builder", "healthy") && m.value("vm") == Some(vm)
    })?;
    match vm {
        "blkback" => reads(session)?,
        _ => interface(session)?,
    };
    Ok(super::seconds(start, healthy))
}
