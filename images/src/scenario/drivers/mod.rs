//! Guests with disks and networks on a host without Dom0, whose backends are killed under them.

mod load;
mod restarts;
mod server;
mod small;
mod vlan;

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};

use self::restarts::kill_during;
pub(super) use self::server::Server;
pub(super) use self::small::Small;
use super::shell::Shell;
use super::{Report, Setup, boot};
use crate::devices::image_beside;
use crate::first_guest::NAME;
use crate::operator::Operator;
use crate::qemu::Settings;
use crate::session::Session;
use crate::{first_guest, program};

/// The toolstack's VM in the shipped manifest.
const TOOLSTACK: &str = "toolstack";
/// MiB of the machine, with room for two guests.
pub(super) const MEMORY_MIB: u32 = 1536;
/// Kills of XenStore's Logic while a guest is created and works, and of each backend while that guest downloads and writes.
const LOGIC_KILLS: usize = 10;
const KILLS: usize = 2;

/// Two kills and two polite restarts of each backend under load.
pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    with(setup, report, 2)
}

/// Ten of each.
pub(super) fn long(setup: &Setup, report: &mut Report) -> Result<()> {
    with(setup, report, 10)
}

/// The shipped host with a disk for guests, made anew since they write to it, and a network; and the port of this machine that
/// leads to the first guest's web server.
pub(super) fn machine(setup: &Setup, name: &str) -> Result<(Settings, u16)> {
    let mut settings = setup.machine(&setup.host()?)?;
    let port = equip(setup, &mut settings, name)?;
    Ok((settings, port))
}

/// Gives a machine the same; gives the port.
pub(super) fn equip(setup: &Setup, settings: &mut Settings, name: &str) -> Result<u16> {
    settings.memory_mib = MEMORY_MIB;
    let image = image_beside(&settings.log, name);
    let _ = std::fs::remove_file(&image);
    first_guest::equip(settings, &setup.cache, setup.progress, &image)
}

/// The operator of a host that runs.
pub(super) fn operator(setup: &Setup, session: &mut Session) -> Result<Operator> {
    let program = program::cli(&setup.cache, setup.progress)?;
    Ok(Operator { program, reach: session.operator(TOOLSTACK)? })
}

fn with(setup: &Setup, report: &mut Report, times: usize) -> Result<()> {
    let server = Server::start()?;
    let folder = setup.cache.temporary("drivers")?;
    let (small, debian) = (folder.path().join("web.toml"), folder.path().join("debian.toml"));
    Small::configure(setup, &small)?;
    std::fs::write(&debian, load::configured()?).context("Cannot write the guest's configuration")?;
    let (settings, port) = machine(setup, "drivers")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    report.check("blkback may ask its NVMe disk for the end of I/O", polled(&session));
    boots(&mut session, &operator, &debian, port, times, report);
    lives(&mut session, &operator, &small, &server, report);
    vlan::check(setup, &mut session, &operator, folder.path(), report);
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// Its kernel has set up a queue for it.
fn polled(session: &Session) -> Result<String> {
    let volume = session.timeline.find("blkback", "volume").context("blkback has told of no volume")?.1;
    anyhow::ensure!(volume.value("polled") == Some("true"), "{:?} cannot be", volume.value("name"));
    Ok(String::new())
}

/// Debian comes up from its disk with an address, answers from outside, and works while its backends are killed.
fn boots(
    session: &mut Session,
    operator: &Operator,
    file: &Path,
    port: u16,
    times: usize,
    report: &mut Report,
) {
    let shell = Shell { operator, name: NAME };
    if !report.check("Debian boots from its own disk to a login", load::created(shell, file)) {
        return;
    }
    report.check("it answers from outside", first_guest::page(port));
    report.check("it reboots and keeps what it wrote", first_guest::reboots(operator));
    match operator.domid(NAME).and_then(|domid| Ok(u16::try_from(domid)?)) {
        Ok(domid) => load::works(session, shell, domid, times, report),
        Err(error) => drop(report.check("it has a domain", Err(error))),
    }
    report.check("it shuts down", first_guest::shut_down(operator).map(|()| String::new()));
}

fn lives(session: &mut Session, operator: &Operator, file: &Path, server: &Server, report: &mut Report) {
    let guest = Small::of(operator);
    let created = kill_during(session, "xenstore-logic", LOGIC_KILLS, |enough| {
        let created = guest.created(file)?;
        let address = guest.address()?;
        for round in 1_u32.. {
            guest.writes(&format!("round {round}"))?;
            guest.downloads(server)?;
            if enough.load(Ordering::Relaxed) {
                return Ok(format!("{created}; {address}; {round} rounds of 64 MiB to disk and a download"));
            }
        }
        Ok(created)
    });
    let what = format!(
        "xenstore-logic is killed {LOGIC_KILLS} times while a guest is created, writes and downloads: nothing is lost"
    );
    if !report.check(&what, created) {
        return;
    }
    report.check("what it writes to its disk is there", guest.writes("first"));
    report.check("a download arrives whole", guest.downloads(server));
    let outcome = kill_during(session, "blkback", KILLS, |enough| {
        for round in 1_u32.. {
            guest.writes(&format!("killed {round}"))?;
            if enough.load(Ordering::Relaxed) {
                return Ok(format!("{round} times 64 MiB"));
            }
        }
        Ok(String::new())
    });
    report.check("blkback is killed under it: every byte is there", outcome);
    let outcome = kill_during(session, "netback", KILLS, |enough| {
        for round in 1_u32.. {
            guest.downloads(server)?;
            if enough.load(Ordering::Relaxed) {
                return Ok(format!("{round} downloads"));
            }
        }
        Ok(String::new())
    });
    report.check("netback is killed under it: every download arrives whole", outcome);
    report.check("its kernel saw no fault", guest.0.no_trouble().map(|()| String::new()));
    report.check("it ends, and nothing is left", guest.0.ends());
}
