//! Domain 0 at power-on: verifies the images, builds the first VMs, hands over, and is destroyed.
//!
//! It lives for seconds. Its "goodbye" is its own shutdown: Xen tells Builder that domain 0 stopped, and Builder destroys it.
//! No channel is needed for that, and nothing of domain 0 can outlive it.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Context as _;
use ennead_launch::{Launcher, Life, Started, Store, XenStore, channel_gref};
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

/// Builds the VMs that the plan gives to the bootstrapper, in order, each when those that it comes after are healthy: others boot
/// side by side.
///
/// # Errors
/// When one does not start; nothing that was built is left then, and if Xen already has a new hardware domain the host is
/// being stopped through it.
pub fn build(store: &Store) -> anyhow::Result<()> {
    let control = Control::open().context("Cannot open Xen's control interface")?;
    let state = state_server(&store.boot_plan().plan)?;
    let mut host = Host { control, store, state, xenstore: None, built: Vec::new(), begun: Vec::new() };
    let vms = store.boot_plan().plan.vms.iter();
    for vm in vms.filter(|vm| vm.built_by_bootstrapper && vm.kind != Kind::Bootstrapper) {
        host.finish(|other| vm.after.contains(&other.name))?;
        host.begin(vm)?;
    }
    host.finish(|_| true)
}

/// A VM that runs and has not yet said that it is well.
#[derive(Debug)]
struct Begun<'a> {
    vm: &'a Vm,
    /// Its own set of ports, so that waiting for its report swallows no other's.
    events: EventChannels,
    started: Started,
}

#[derive(Debug)]
struct Host<'a> {
    control: Control,
    store: &'a Store,
    state: Option<ServerVm>,
    xenstore: Option<XenStore>,
    built: Vec<&'a Vm>,
    begun: Vec<Begun<'a>>,
}

impl<'a> Host<'a> {
    fn begin(&mut self, vm: &'a Vm) -> anyhow::Result<()> {
        let events = EventChannels::open().context("Cannot open the event channels")?;
        let (control, xenstore) = (&self.control, self.xenstore.as_mut());
        let mut launcher =
            Launcher { control, events: &events, store: self.store, me: ME, xenstore, devices: None };
        let started = launcher.start(vm, Life::New);
        let started = started.map_err(|e| self.failed(vm, e.into()))?;
        info!(vm = %vm.name, domid = started.domid.0, memory_kib = started.memory_kib, "built");
        self.built.push(vm);
        self.begun.push(Begun { vm, events, started });
        Ok(())
    }

    /// Waits until those of them that are meant are healthy.
    fn finish(&mut self, meant: impl Fn(&Vm) -> bool) -> anyhow::Result<()> {
        while let Some(next) = self.begun.iter().position(|begun| meant(begun.vm)) {
            let Begun { vm, events, started } = self.begun.remove(next);
            self.end(vm, &events, &started).map_err(|e| self.failed(vm, e))?;
        }
        Ok(())
    }

    fn end(&mut self, vm: &Vm, events: &EventChannels, started: &Started) -> anyhow::Result<()> {
        started.wait_healthy(&self.control, events, self.xenstore.as_mut()).inspect_err(|_| {
            // It is destroyed already.
            self.built.retain(|other| other.domid != vm.domid);
        })?;
        info!(vm = %vm.name, domid = started.domid.0, "healthy");
        if let Some(state) = self.state.as_ref().filter(|state| state.domid == started.domid) {
            self.xenstore = Some(connect(state, &self.store.boot_plan().plan, &self.built)?);
        }
        Ok(())
    }

    fn failed(&self, vm: &Vm, e: anyhow::Error) -> anyhow::Error {
        let e = e.context(format!("{} does not start", vm.name));
        error!(vm = %vm.name, cause = %format!("{e:#}"), "failed");
        take_back(&self.control, vm, &self.built);
        e
    }
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
