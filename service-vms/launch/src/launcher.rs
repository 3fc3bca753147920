//! From a line of the plan to a VM that reports that it is well.

use std::time::{Duration, Instant};

use ennead_channel::FIRST_GREF;
use ennead_channel::xenstore::Request;
use ennead_domain::{Limits, Prepared, PreparedError, Spec, ramdisk_bytes};
use ennead_manifest::{Iommu, Kind, Permission, Plan, Vm, context};
use ennead_runtime::Params;
use ennead_runtime::boot::{BackendVm, ClientVm, DeviceKind, HealthPort, Quota, ServerVm, kernel_options};
use ennead_xen::{Control, DomId, DomainState, EventChannels, GrantRef, Port, Sid};

use crate::store::{Refused, Store};
use crate::xenstore::{self, Life, XenStore};

/// How long a VM may take from its start to its health report. Emulated machines need seconds, real ones less than one.
const HEALTH_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes kept free on the command line for the health port.
const HEALTH_BYTES: usize = 128;
/// How often the state of a VM is looked at while its report is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its images is not the signed one.
    #[error("Image refused")]
    Image(#[from] Refused),
    /// Its kernel is none that was prepared for it.
    #[error("Cannot use the kernel of {domid}")]
    Kernel {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: PreparedError,
    },
    /// Its domain could not be built; nothing of it is left.
    #[error("Cannot build {domid}")]
    Build {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: ennead_domain::Error,
    },
    /// A name in the plan is none.
    #[error("Cannot tell {domid} who it is")]
    Name {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: ennead_runtime::boot::Error,
    },
    /// Xen refused something.
    #[error("Cannot start {domid}")]
    Xen {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: ennead_xen::Error,
    },
    /// XenStore-State does not take it.
    #[error("Cannot announce {domid} to XenStore")]
    XenStore {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: xenstore::Error,
    },
    /// It has a ring, but there is nobody to announce it to.
    #[error("{domid} has a XenStore ring, but XenStore-State is not there")]
    NoXenStore {
        /// Its domid.
        domid: DomId,
    },
    /// It did not get its devices.
    #[error("Cannot lend {domid} its devices")]
    Devices {
        /// Its domid.
        domid: DomId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It stopped before it was healthy.
    #[error(
        "{domid} stopped before it was healthy: {reason} (its last words are on the console, prefixed ({domid}))"
    )]
    Stopped {
        /// Its domid.
        domid: DomId,
        /// Xen's word for it.
        reason: String,
    },
    /// It did not report in time.
    #[error("{domid} did not report that it is healthy within {} s", HEALTH_DEADLINE.as_secs())]
    Silent {
        /// Its domid.
        domid: DomId,
    },
}

/// The kernel's command line for `vm`, all but the health port, which exists only once its domain does.
///
/// # Errors
/// When a name of the plan cannot stand on a command line.
pub fn command_line(plan: &Plan, vm: &Vm) -> Result<String, ennead_runtime::boot::Error> {
    let mut params = Params::new(vm.name.parse()?);
    for client in vm.answers.iter().filter_map(|name| plan.vm(name)) {
        params.answers.push(ClientVm { name: client.name.parse()?, domid: DomId(client.domid) });
    }
    for server in vm.talks_to.iter().filter_map(|channel| plan.vm(&channel.peer)) {
        params.talks_to.push(ServerVm {
            name: server.name.parse()?,
            domid: DomId(server.domid),
            gref: channel_gref(server, &vm.name),
        });
    }
    params.xenstore = ring_peer(plan, vm);
    if let Some(tenant) = plan.tenants.iter().find(|tenant| tenant.toolstack == vm.name) {
        for (backend, device) in plan.backends(tenant) {
            let device = if device == "vbd" { DeviceKind::Vbd } else { DeviceKind::Vif };
            let name = backend.name.parse()?;
            params.backends.push(BackendVm { name, domid: DomId(backend.domid), device });
        }
    }
    params.quotas =
        vm.quotas.iter().map(|(quota, value)| Quota { name: quota.to_string(), value: *value }).collect();
    let mut words = vec![kernel_options(vm.kind == Kind::Pciback).to_owned()];
    if vm.grant(Permission::BuildVms).is_some() {
        // Linux otherwise limits privcmd to a VM's own target (XSA-482); what it may do is FLASK's to say.
        words.push("xen_privcmd.unrestricted".into());
    }
    if !vm.devices.is_empty() {
        // 4 MiB of bounce buffers instead of 64 (in slabs of 2 KiB).
        words.push("swiotlb=2048".into());
    }
    if vm.kind == Kind::Builder {
        // All images are in its ramdisk: a tmpfs would take no more than half of the memory.
        words.push("rootfstype=ramfs".into());
    }
    words.push(vm.kernel_options.clone());
    words.push(params.to_string());
    words.retain(|word| !word.is_empty());
    Ok(words.join(" "))
}

/// The page that `server` grants to its client of this name.
#[must_use]
pub fn channel_gref(server: &Vm, client: &str) -> GrantRef {
    let index = server.client_index(client).and_then(|i| u32::try_from(i).ok()).unwrap_or_default();
    GrantRef(FIRST_GREF.saturating_add(index))
}

/// Who serves XenStore to `vm`, if it has a ring.
fn ring_peer(plan: &Plan, vm: &Vm) -> Option<DomId> {
    vm.xenstore.as_ref().and_then(|_| Some(DomId(plan.xenstore_logic()?.domid)))
}

/// Gives a VM its devices: it exists, is announced, and does not run yet.
pub trait Lend: std::fmt::Debug {
    /// Gives them all, or fails.
    ///
    /// # Errors
    /// Why it cannot have one; the VM is destroyed then.
    fn lend(&mut self, xenstore: &mut XenStore) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Builds VMs of one boot plan.
#[derive(Debug)]
pub struct Launcher<'a> {
    /// Xen's control interface.
    pub control: &'a Control,
    /// Event channels of this VM.
    pub events: &'a EventChannels,
    /// The signed images.
    pub store: &'a Store,
    /// The VM that builds (0, or Builder's domid).
    pub me: DomId,
    /// Where VMs are announced; `None` before there is a XenStore.
    pub xenstore: Option<&'a mut XenStore>,
    /// What gives the VM that is built its devices; `None` for one without.
    pub devices: Option<&'a mut dyn Lend>,
}

/// A VM that runs but has not yet said that it is well.
#[derive(Debug)]
pub struct Started {
    /// Its domid.
    pub domid: DomId,
    /// KiB of memory.
    pub memory_kib: u64,
    health: Port,
    hardware_domain: bool,
    life: Life,
}

impl Launcher<'_> {
    /// Builds `vm` and lets it run.
    ///
    /// # Errors
    /// When an image is refused, the domain cannot be built, Xen refuses its label, or XenStore-State does not take it.
    /// Nothing of it is left then, unless it is the hardware domain.
    pub fn start(&mut self, vm: &Vm, life: Life) -> Result<Started, Error> {
        let domid = DomId(vm.domid);
        let xen = |source| Error::Xen { domid, source };
        let plan = &self.store.boot_plan().plan;
        let kernel = self.store.image(&vm.kernel_image())?;
        let mut ramdisk = vec![self.store.image(&vm.ramdisk_image())?];
        if vm.kind == Kind::Builder {
            ramdisk.push(self.store.archive()?);
        }
        let sid = |name: &str| self.control.sid_of(&context(name)).map_err(xen);
        let building = sid(&vm.building_type())?;
        let starting = sid(&vm.starting_type())?;

        let kernel = Prepared::read(&kernel).map_err(|source| Error::Kernel { domid, source })?;
        let parts: Vec<&[u8]> = ramdisk.iter().map(Vec::as_slice).collect();
        let spec = Spec {
            domid,
            sid: building,
            memory_mib: vm.memory_mib,
            vcpus: vm.vcpus,
            kernel: kernel.plan().clone(),
            ramdisk_bytes: ramdisk_bytes(&parts),
            cmdline: command_line(plan, vm).map_err(|e| Error::Name { domid, source: e })?,
            extra_bytes: HEALTH_BYTES,
            hardware_domain: vm.kind == Kind::Pciback,
            iommu: plan.host.iommu == Iommu::Required && !vm.devices.is_empty(),
            console: None,
            xenstore: ring_peer(plan, vm),
            limits: Limits::default(),
        };
        let mut health = None;
        let prepare = |domid| {
            let port = self.events.bind_unbound(domid)?;
            health = Some(port);
            Ok(HealthPort { domid: self.me, port }.to_string())
        };
        let built = ennead_domain::build(self.control, spec, &kernel, &parts, prepare)
            .map_err(|source| Error::Build { domid, source })?;
        let started = Started {
            domid,
            memory_kib: built.pages * 4,
            health: health.unwrap_or(Port(0)),
            hardware_domain: vm.kind == Kind::Pciback,
            life,
        };
        let ring = built.store.map(|(_, port)| port);
        self.run(plan, vm, life, starting, ring)
            .inspect_err(|_| started.take_back(self.control, self.xenstore.as_deref_mut()))?;
        Ok(started)
    }

    /// Gives a built VM its label, announces it, and lets it run. It does not run before XenStore knows its ring: Linux waits
    /// for answers as soon as it boots.
    fn run(&mut self, plan: &Plan, vm: &Vm, life: Life, label: Sid, ring: Option<Port>) -> Result<(), Error> {
        let domid = DomId(vm.domid);
        let xen = |source| Error::Xen { domid, source };
        self.control.relabel(domid, label).map_err(xen)?;
        match (self.xenstore.as_deref_mut(), ring) {
            (Some(xenstore), ring) => {
                xenstore
                    .announce(plan, vm, life, ring)
                    .map_err(|source| Error::XenStore { domid, source })?;
            }
            (None, Some(_)) => return Err(Error::NoXenStore { domid }),
            (None, None) => {}
        }
        if let Some(devices) = self.devices.as_deref_mut() {
            let xenstore = self.xenstore.as_deref_mut().ok_or(Error::NoXenStore { domid })?;
            devices.lend(xenstore).map_err(|source| Error::Devices { domid, source })?;
        }
        self.control.unpause(domid).map_err(xen)
    }
}

impl Started {
    /// Waits until it reports that it is well; `events` are those with which it was started.
    ///
    /// # Errors
    /// When it stops or stays silent. It is destroyed then, unless it is the hardware domain.
    pub fn wait_healthy(
        &self,
        control: &Control,
        events: &EventChannels,
        xenstore: Option<&mut XenStore>,
    ) -> Result<(), Error> {
        let result = self.await_report(control, events);
        // The port has served.
        let _ = events.unbind(self.health);
        result.inspect_err(|_| self.take_back(control, xenstore))
    }

    /// Destroys a VM that did not start. Not the hardware domain, to which Xen goes on pointing: with it the host must stop.
    /// XenStore hears that it is dead, or, if it was announced as restarting, that it still is.
    fn take_back(&self, control: &Control, xenstore: Option<&mut XenStore>) {
        if self.hardware_domain {
            return;
        }
        // What failed before is the error to tell.
        let _ = control.destroy_domain(self.domid);
        if let Some(xenstore) = xenstore {
            let domid = self.domid.0;
            let _ = xenstore.tell(match self.life {
                Life::New => Request::Died { domid },
                Life::Again => Request::Restarting { domid },
            });
        }
    }

    fn await_report(&self, control: &Control, events: &EventChannels) -> Result<(), Error> {
        let domid = self.domid;
        let xen = |source| Error::Xen { domid, source };
        let deadline = Instant::now() + HEALTH_DEADLINE;
        while Instant::now() < deadline {
            if events.wait(Some(LOOK_EVERY)).map_err(xen)? == Some(self.health) {
                return Ok(());
            }
            match control.domain(domid).map_err(xen)?.map(|info| info.state) {
                Some(DomainState::Shutdown(reason)) => {
                    return Err(Error::Stopped { domid, reason: reason.to_string() });
                }
                None => return Err(Error::Stopped { domid, reason: "destroyed".into() }),
                Some(_) => {}
            }
        }
        Err(Error::Silent { domid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str) -> String {
        let text = include_str!("../../../images/host.toml");
        let plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        command_line(&plan, plan.vm(name).expect("in the manifest")).expect("valid names")
    }

    #[test]
    fn the_command_line_says_what_the_manifest_says() {
        assert_eq!(
            line("builder"),
            "quiet console=ttynull earlyprintk=xen keep_bootcon printk.devkmsg=on xen_privcmd.unrestricted \
             rootfstype=ramfs ennead.vm=builder ennead.answers=toolstack:7 ennead.talks-to=xenstore-state:4:9,pciback:3:8"
        );
        assert_eq!(
            line("pciback"),
            "quiet printk.devkmsg=on swiotlb=2048 ennead.vm=pciback \
             ennead.answers=builder:1,toolstack:7 ennead.xenstore=6"
        );
        let of_state = line("xenstore-state");
        assert!(of_state.ends_with("ennead.answers=bootstrapper:0,builder:1,xenstore-logic:6"), "{of_state}");
    }

    #[test]
    fn a_vm_reads_its_command_line_back() {
        let health = HealthPort { domid: DomId(0), port: Port(9) };
        let params: Params = format!("{} {health}", line("builder")).parse().expect("what we write we read");
        assert_eq!(params.health, Some(health));
        assert_eq!(params.server("pciback").map(|server| server.gref), Some(GrantRef(FIRST_GREF)));
    }
}
