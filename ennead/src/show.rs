//! What the host says, for people.

use std::io::IsTerminal as _;

use ennead_api::{Event, Guest, GuestInfo, Host, State, UsedImage, Volume, Volumes, What};
use ennead_guest::BootFile;

use crate::table::{Align, pairs, table};
use crate::text::{bytes, duration, printable, time};

/// What stands where there is nothing.
const NONE: &str = "-";
/// What the manifest has accepted.
const NO_IOMMU: &str = "NO IOMMU: each device of this host reaches all of its memory";
/// What stands where a guest is not given a kernel.
const ITS_OWN: &str = "the one on its disk";

pub(crate) fn guests(guests: &[Guest]) -> String {
    let columns = [
        ("NAME", Align::Left),
        ("DOMID", Align::Right),
        ("STATE", Align::Left),
        ("KIND", Align::Left),
        ("MEMORY", Align::Right),
        ("VCPUS", Align::Right),
        ("CPU", Align::Right),
        ("RESTARTS", Align::Right),
    ];
    let row = |guest: &Guest| {
        vec![
            guest.name.clone(),
            domid(guest),
            state(guest),
            guest.kind.as_str().to_owned(),
            memory(guest.memory_kib),
            guest.vcpus.to_string(),
            cpu(guest.cpu_time_ns),
            guest.restarts.to_string(),
        ]
    };
    table(&columns, guests.iter().map(row).collect())
}

/// One guest in one line.
pub(crate) fn guest(guest: &Guest) -> String {
    let domid = guest.domid.map_or_else(|| "no domain".to_owned(), |domid| format!("domid {domid}"));
    printable(&format!("{}: {domid}, {}", guest.name, state(guest))) + "\n"
}

pub(crate) fn info(info: &GuestInfo) -> String {
    let GuestInfo { guest, config, kernel, ramdisk } = info;
    let mut rows = vec![
        ("name", guest.name.clone()),
        ("state", state(guest)),
        ("domid", domid(guest)),
        ("uuid", guest.uuid.clone()),
        ("memory", memory(guest.memory_kib)),
        ("vcpus", guest.vcpus.to_string()),
        ("cpu time", cpu(guest.cpu_time_ns)),
        ("started", guest.started_ms.map_or_else(|| NONE.to_owned(), time)),
        ("restarts", guest.restarts.to_string()),
        (
            "kernel",
            kernel
                .as_ref()
                .map_or_else(|| ITS_OWN.to_owned(), |kernel| image(kernel, config.kernel.as_ref())),
        ),
    ];
    if let Some(ramdisk) = ramdisk {
        rows.push(("ramdisk", image(ramdisk, config.ramdisk.as_ref())));
    }
    format!("{}\nIts configuration:\n\n{}", pairs(&rows), printable(&ennead_guest::to_toml(config)))
}

pub(crate) fn host(host: &Host) -> String {
    let of = |used: u32, limit: u32, unit: &str| format!("{used} of {limit}{unit}");
    let rows = [
        ("toolstack", format!("{} {}, up {}", host.toolstack, host.version, duration(host.uptime_s))),
        ("guests", of(host.used.guests, host.limits.guests, "")),
        ("memory", of(host.used.memory_mib, host.limits.memory_mib, " MiB")),
        ("vcpus", of(host.used.vcpus, host.limits.vcpus, "")),
    ];
    let columns = [
        ("SERVICE VM", Align::Left),
        ("DOMID", Align::Right),
        ("STATE", Align::Left),
        ("MEMORY", Align::Right),
        ("UP", Align::Right),
        ("RESTARTS", Align::Right),
    ];
    let services = host.services.iter().map(|service| {
        vec![
            service.name.clone(),
            service.domid.to_string(),
            service.state.to_string(),
            memory(service.memory_kib),
            duration(service.uptime_s),
            service.restarts.to_string(),
        ]
    });
    let shown = format!("{}\n{}", pairs(&rows), table(&columns, services.collect()));
    if host.iommu { shown } else { format!("{}\n{shown}", alarming(NO_IOMMU)) }
}

/// Red on a terminal.
fn alarming(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

pub(crate) fn volumes(all: &Volumes) -> String {
    let columns = [
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
        ("USED BY", Align::Left),
        ("KEPT BY", Align::Left),
    ];
    let row = |volume: &Volume| {
        let used_by = if volume.used_by.is_empty() { NONE.to_owned() } else { volume.used_by.join(" ") };
        vec![volume.name.clone(), bytes(volume.bytes), made(volume), used_by, volume.backend.clone()]
    };
    let rows = all.volumes.iter().map(row).collect();
    format!("{}\n{} are free\n", table(&columns, rows), bytes(all.free_bytes))
}

/// One volume in one line.
pub(crate) fn volume(volume: &Volume) -> String {
    printable(&format!("{}: {}, {}", volume.name, bytes(volume.bytes), made(volume))) + "\n"
}

/// How far it is.
fn made(volume: &Volume) -> String {
    match volume.made_bytes {
        None => "ready".to_owned(),
        Some(done) => {
            let percent = u128::from(done) * 100 / u128::from(volume.bytes.max(1));
            format!("being made, {percent} %")
        }
    }
}

pub(crate) fn event(event: &Event) -> String {
    let who = match (&event.guest, event.domid) {
        (Some(name), Some(domid)) => format!("{name} ({domid})"),
        (Some(name), None) => name.clone(),
        (None, _) => "toolstack".to_owned(),
    };
    let what = match &event.what {
        What::ToolstackStarted { guests } => format!("started, guests found: {guests}"),
        What::Created => "created".to_owned(),
        What::Unpaused => "runs".to_owned(),
        What::Paused => "paused".to_owned(),
        What::ShutdownAsked => "asked to shut down".to_owned(),
        What::RebootAsked => "asked to reboot".to_owned(),
        What::ShutDown { reason } => format!("has shut down: {reason}"),
        What::Restarting { pause_ms: 0 } => "is built again".to_owned(),
        What::Restarting { pause_ms } => format!("is built again in {pause_ms} ms"),
        What::Restarted => "has been built again".to_owned(),
        What::RestartFailed { message } => format!("cannot be built again: {message}"),
        What::NotStarted { message, pause_ms: Some(ms) } => {
            format!("does not start with the host: {message}; again in {} s", ms / 1000)
        }
        What::NotStarted { message, pause_ms: None } => format!("does not start with the host: {message}"),
        What::DiskAttached { vdev } => format!("has been given the disk {vdev}"),
        What::DiskDetached { vdev } => format!("does not have the disk {vdev} any more"),
        What::Destroyed => "destroyed".to_owned(),
        What::Unknown => "something that this version does not know".to_owned(),
    };
    printable(&format!("{}  {who}: {what}", time(event.at_ms))) + "\n"
}

fn domid(guest: &Guest) -> String {
    guest.domid.map_or_else(|| NONE.to_owned(), |domid| domid.to_string())
}

fn state(guest: &Guest) -> String {
    match guest.shutdown {
        Some(reason) if guest.state == State::ShutDown => format!("{} ({reason})", guest.state),
        _ => guest.state.to_string(),
    }
}

fn memory(kib: u64) -> String {
    bytes(kib.saturating_mul(1024))
}

fn cpu(nanoseconds: u64) -> String {
    let tenths = nanoseconds / 100_000_000;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn image(image: &UsedImage, file: Option<&BootFile>) -> String {
    let place = if image.present { "" } else { ", no longer on the host" };
    match file {
        Some(BootFile::Path(path)) => format!("{path} ({}{place})", image.sha256),
        _ => format!("{}{place}", image.sha256),
    }
}
