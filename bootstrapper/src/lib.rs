//! Domain 0 at power-on: verifies the images, builds the first VMs, hands over, and is destroyed.
//!
//! It lives for seconds. Its "goodbye" is its own shutdown: Xen tells Builder that domain 0 stopped, and Builder destroys it.
//! No channel is needed for that, and nothing of domain 0 can outlive it.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Context as _;
use ennead_launch::{Launcher, Store};
use ennead_manifest::{Kind, Vm};
use ennead_xen::{Control, DomId, EventChannels, ShutdownReason};
use tracing::{error, info};

/// Domain 0.
const ME: DomId = DomId(0);

/// Opens and checks everything that was signed, before anything is built from it.
///
/// # Errors
/// Names the first file that is not the signed one, after a `refused` milestone.
pub fn verify(dir: &Path) -> anyhow::Result<Store> {
    let checked = Store::open(dir).and_then(|store| store.verify_all().map(|images| (store, images)));
    match checked {
        Ok((store, images)) => {
            info!(images, manifest = %store.boot_plan().manifest_sha256, "verified");
            Ok(store)
        }
        Err(refused) => {
            error!(image = %refused.what, reason = %refused.why, "refused");
            Err(refused).context("The host is not started from modified files")
        }
    }
}

/// Builds the VMs that the plan gives to the bootstrapper, in order, each after the one before is healthy.
///
/// # Errors
/// When one does not start; nothing that was built is left then, and if Xen already has a new hardware domain the host is
/// being stopped through it.
pub fn build(store: &Store) -> anyhow::Result<()> {
    let control = Control::open().context("Cannot open Xen's control interface")?;
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let launcher = Launcher { control: &control, events: &events, store, me: ME };
    let mut running: Vec<&Vm> = Vec::new();
    for vm in store
        .boot_plan()
        .plan
        .vms
        .iter()
        .filter(|vm| vm.built_by_bootstrapper && vm.kind != Kind::Bootstrapper)
    {
        if let Err(e) = start(&launcher, vm) {
            let e = anyhow::Error::from(e).context(format!("{} does not start", vm.name));
            error!(vm = %vm.name, cause = %format!("{e:#}"), "failed");
            take_back(&control, vm, &running);
            return Err(e);
        }
        running.push(vm);
    }
    Ok(())
}

fn start(launcher: &Launcher<'_>, vm: &Vm) -> Result<(), ennead_launch::Error> {
    let started = launcher.start(vm)?;
    info!(vm = %vm.name, domid = started.domid.0, memory_kib = started.memory_kib, "built");
    launcher.wait_healthy(&started)?;
    info!(vm = %vm.name, domid = started.domid.0, "healthy");
    Ok(())
}

/// Destroys what was built, and stops the host if Xen already has its hardware domain: its shutdown is the host's.
fn take_back(control: &Control, failed: &Vm, running: &[&Vm]) {
    let (hardware, others): (Vec<&Vm>, Vec<&Vm>) =
        running.iter().chain([&failed]).copied().partition(|vm| vm.kind == Kind::Pciback);
    for vm in others.iter().filter(|vm| vm.name != failed.name) {
        if let Err(e) = control.destroy_domain(DomId(vm.domid)) {
            error!(vm = %vm.name, cause = %e, "not-destroyed");
        }
    }
    for vm in hardware {
        // Fails where it never came to be: then domain 0 still is the hardware domain, and its own end is the host's.
        let _ = control.remote_shutdown(DomId(vm.domid), ShutdownReason::PowerOff);
    }
}
