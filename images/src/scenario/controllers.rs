//! Other controllers than those of the shipped machine: the same guest has its disk and its network from each of them.

use std::path::Path;

use anyhow::{Context, Result};

use super::drivers::{MEMORY_MIB, Server, Small, operator};
use super::{Report, Setup, boot};
use crate::devices::{DiskModel, NetworkModel, image_beside};
use crate::first_guest;
use crate::qemu::Settings;
use crate::session::Session;

/// The controllers of a machine.
const MACHINES: [(&str, DiskModel, NetworkModel); 2] =
    [("virtio", DiskModel::Virtio, NetworkModel::Virtio), ("AHCI", DiskModel::Ahci, NetworkModel::E1000e)];

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let server = Server::start()?;
    let folder = setup.cache.temporary("controllers")?;
    let small = folder.path().join("web.toml");
    Small::configure(setup, &small)?;
    let settings = setup.machine(&setup.host()?)?;
    for (what, disk, network) in MACHINES {
        report.say(&format!("\nA machine with {what}:\n"));
        let log = settings.log.with_file_name(format!("serial-{}.log", what.to_lowercase()));
        let mut settings = Settings { memory_mib: MEMORY_MIB, log, ..settings.clone() };
        let image = image_beside(&settings.log, "controllers");
        let _ = std::fs::remove_file(&image);
        first_guest::equip_with((disk, network), &mut settings, &setup.cache, setup.progress, &image)?;
        let mut session = Session::start(&settings, report.show)?;
        machine(setup, &mut session, what, &small, &server, report)?;
        session.power_off()?;
    }
    Ok(())
}

fn machine(
    setup: &Setup,
    session: &mut Session,
    what: &str,
    file: &Path,
    server: &Server,
    report: &mut Report,
) -> Result<()> {
    let ready = session.until_ready()?;
    report.figure(format!("{what}: host ready after"), format!("{:.1} s", ready.as_secs_f64()));
    let operator = operator(setup, session)?;
    let guest = Small::of(&operator);
    report.check(&format!("{what}: the disk and its partitions are volumes"), volumes(session));
    if !report.check(&format!("{what}: a guest comes up"), guest.created(file)) {
        return Ok(());
    }
    report.check(&format!("{what}: what it writes to its disk is there"), guest.writes("first"));
    let downloaded = guest.address().and_then(|_| guest.downloads(server));
    report.check(&format!("{what}: a download arrives whole"), downloaded);
    let again = |session: &mut Session, vm: &str| {
        session.command(&format!("kill {vm}"), |m| m.is("builder", "healthy") && m.value("vm") == Some(vm))
    };
    let written = again(session, "blkback").and_then(|_| guest.writes("again"));
    report.check(&format!("{what}: blkback is killed, and the guest's disk is back"), written);
    let downloaded = again(session, "netback").and_then(|_| guest.downloads(server));
    report.check(&format!("{what}: netback is killed, and the guest's network is back"), downloaded);
    report.check(
        &format!("{what}: the guest's kernel saw no fault"),
        guest.0.no_trouble().map(|()| String::new()),
    );
    report.check(&format!("{what}: no AVC denial"), boot::no_denials(session));
    Ok(())
}

/// What blkback said that it has.
fn volumes(session: &Session) -> Result<String> {
    let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
    let names: Vec<&str> =
        all.filter(|m| m.is("blkback", "volume")).filter_map(|m| m.value("name")).collect();
    names.contains(&"label:scratch").then(|| names.join(", ")).with_context(|| format!("{names:?}"))
}
