//! `/init` of a driver VM whose kernel has Linux's own backends: does what Xen's hotplug scripts do in a classic Dom0.
//!
//! A disk is given its device's number; a NIC's interface becomes a port of its bridge. The toolstack writes the same trees
//! as for our own backends.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ennead_blkback::volumes::{SYS, disks, is_ready, volumes};
use ennead_netback::nics;
use ennead_os::Interfaces;
use ennead_runtime::Runtime;
use ennead_xs_client::{Access as _, Errno, XenStore};
use tracing::{info, warn};

/// How long XenStore, a disk or the kernel's own look at XenStore may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often what is not there yet is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// How long nothing may happen until all is looked at again.
const DAY: Duration = Duration::from_secs(86_400);
/// The bus on which Linux has its backends.
const BUS: &str = "/sys/bus/xen-backend";
/// Where it shows interfaces.
const INTERFACES: &str = "/sys/class/net";

fn main() -> ! {
    ennead_runtime::run(run)
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    // A driver looks at a device once, and for a NIC's it has to wait until its tree is complete.
    fs::write(format!("{BUS}/drivers_autoprobe"), "0").context("Has the kernel no backends?")?;
    let mut store = XenStore::open(PATIENCE)?;
    for disk in disks(Path::new(SYS))? {
        until("the disk's partitions", || is_ready(&disk))?;
    }
    nics::watch(Interfaces::open().context("Cannot open a socket")?)?;
    for kind in ["vbd", "vif"] {
        store.watch(&format!("backend/{kind}"), kind)?;
    }
    runtime.health.report()?;
    info!("ready");
    let mut served = Vec::new();
    loop {
        for kind in ["vbd", "vif"] {
            let root = format!("backend/{kind}");
            for domid in list(&mut store, &root)? {
                for handle in list(&mut store, &format!("{root}/{domid}"))? {
                    let name = format!("{kind}-{domid}-{handle}");
                    if served.contains(&name) {
                        continue;
                    }
                    let path = format!("{root}/{domid}/{handle}");
                    if store.find(&format!("{path}/state"))?.is_none() {
                        continue;
                    }
                    match kind {
                        "vbd" => disk(&mut store, &path, &name)?,
                        _ => nic(&mut store, &path, &name, &format!("vif{domid}.{handle}"))?,
                    }
                    info!(name = name, "served");
                    served.push(name);
                }
            }
        }
        store.event(DAY)?;
    }
}

/// What `block` does.
fn disk(store: &mut XenStore, path: &str, name: &str) -> anyhow::Result<()> {
    let volume = text(store, &format!("{path}/params"))?;
    let all = volumes(Path::new(SYS))?;
    let volume = all.iter().find(|v| v.name == volume).with_context(|| format!("No volume {volume}"))?;
    let numbers = fs::read_to_string(Path::new(SYS).join(&volume.device).join("dev"))?;
    let numbers = numbers.trim().split(':').map(str::parse::<u32>).collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:x}")).collect();
    bind("vbd", name)?;
    Ok(store.write(&format!("{path}/physical-device"), numbers.join(":").as_bytes())?)
}

/// What `vif-bridge` does. To the kernel the interface is a NIC, so [`nics::watch`] takes it into the bridge.
fn nic(store: &mut XenStore, path: &str, name: &str, vif: &str) -> anyhow::Result<()> {
    store.write(&format!("{path}/script"), b"none")?;
    bind("vif", name)?;
    until("the interface", || Path::new(INTERFACES).join(vif).join("brport").exists())?;
    Ok(store.write(&format!("{path}/hotplug-status"), b"connected")?)
}

/// Gives a device to its driver, once the kernel has it.
fn bind(driver: &str, name: &str) -> anyhow::Result<()> {
    let file = format!("{BUS}/drivers/{driver}/bind");
    until(name, || fs::write(&file, name).is_ok())
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            warn!(what = what, "late");
            return Err(anyhow!("There is no {what}"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn text(store: &mut XenStore, path: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&store.read(path)?).into_owned())
}

fn list(store: &mut XenStore, path: &str) -> anyhow::Result<Vec<String>> {
    match store.list(path) {
        Err(e) if e.errno() == Some(Errno::Enoent) => Ok(Vec::new()),
        names => Ok(names?),
    }
}
