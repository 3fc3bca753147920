//! Domain 0 at power-on: verifies the images, builds the first VMs, hands over, and is destroyed.
//!
//! It lives for seconds. Its "goodbye" is its own shutdown: Xen tells Builder that domain 0 stopped, and Builder destroys it.
//! No channel is needed for that, and nothing of domain 0 can outlive it.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Context as _;
use ennead_launch::{Launcher, Life, Store, XenStore, channel_gref};
use ennead_manifest::{Kind, Plan, Vm};
use ennead_runtime::boot::ServerVm;
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
    let state = state_server(&store.boot_plan().plan)?;
    let mut xenstore = None;
    let mut running: Vec<&Vm> = Vec::new();
    for vm in store
        .boot_plan()
        .plan
        .vms
        .iter()
        .filter(|vm| vm.built_by_bootstrapper && vm.kind != Kind::Bootstrapper)
    {
        let mut launcher = Launcher {
            control: &control,
            events: &events,
            store,
            me: ME,
            xenstore: xenstore.as_mut(),
            devices: None,
        };
        let started = start(&mut launcher, vm).map_err(anyhow::Error::from).and_then(|()| {
            running.push(vm);
            if let Some(state) = state.as_ref().filter(|state| state.domid == DomId(vm.domid)) {
                xenstore = Some(connect(state, &store.boot_plan().plan, &running)?);
            }
            Ok(())
        });
        if let Err(e) = started {
            let e = e.context(format!("{} does not start", vm.name));
            error!(vm = %vm.name, cause = %format!("{e:#}"), "failed");
            take_back(&control, vm, &running);
            return Err(e);
        }
    }
    Ok(())
}

/// The channel to XenStore-State, if the plan gives the bootstrapper one.
fn state_server(plan: &Plan) -> anyhow::Result<Option<ServerVm>> {
    let me = plan.vms_of_kind(Kind::Bootstrapper).next();
    let state =
        plan.xenstore_state().filter(|state| me.is_some_and(|me| me.channel_to(&state.name).is_some()));
    let (Some(me), Some(state)) = (me, state) else { return Ok(None) };
    let gref = channel_gref(state, &me.name);
    Ok(Some(ServerVm { name: state.name.parse()?, domid: DomId(state.domid), gref }))
}

/// Opens the channel to State, which now runs, and tells it of the VMs that are there already.
fn connect(state: &ServerVm, plan: &Plan, running: &[&Vm]) -> anyhow::Result<XenStore> {
    let mut xenstore = XenStore::connect(state).context("Cannot open the channel to XenStore-State")?;
    for vm in running {
        xenstore
            .announce(plan, vm, Life::New, None)
            .with_context(|| format!("Cannot announce {} to XenStore", vm.name))?;
    }
    Ok(xenstore)
}

fn start(launcher: &mut Launcher<'_>, vm: &Vm) -> Result<(), ennead_launch::Error> {
    let started = launcher.start(vm, Life::New)?;
    info!(vm = %vm.name, domid = started.domid.0, memory_kib = started.memory_kib, "built");
    launcher.wait_healthy(&started)?;
    info!(vm = %vm.name, domid = started.domid.0, "healthy");
    Ok(())
}

/// Destroys what was built, and stops the host if Xen already has its hardware domain: its shutdown is the host's.
fn take_back(control: &Control, failed: &Vm, running: &[&Vm]) {
    for vm in running.iter().filter(|vm| vm.kind != Kind::Pciback) {
        if let Err(e) = control.destroy_domain(DomId(vm.domid)) {
            error!(vm = %vm.name, cause = %e, "not-destroyed");
        }
    }
    if let Some(hardware) = running.iter().chain([&failed]).find(|vm| vm.kind == Kind::Pciback) {
        // Fails where it never came to be: then domain 0 still is the hardware domain, and its own end is the host's.
        let _ = control.remote_shutdown(DomId(hardware.domid), ShutdownReason::PowerOff);
    }
}
