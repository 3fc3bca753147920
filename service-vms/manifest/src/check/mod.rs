//! `check`: the one way from `host.toml` to a `Plan`.

mod channels;
mod kinds;
mod network;
mod order;
mod privileges;
mod quotas;
mod resources;
mod tenants;
mod text;
mod xenstore;

use std::collections::BTreeMap;

use crate::plan::{BootGuest, Channel, Grant, Host, Network, Plan, Restart, Ring, Tenant, Vm};
use crate::raw::{self, Raw, RawVm};
use crate::report::{Errors, Report, Span};
use crate::table::{At, Reasoned};

/// Bytes that a manifest may at most have.
pub const MAX_MANIFEST_LENGTH: usize = 128 * 1024;
/// Milliseconds that a VM may take to end its work, if its `restart` does not say.
const DRAIN_MS: u32 = 500;

/// Checks a manifest and makes the plan of it. `file_name` is for the report only.
///
/// # Errors
/// Every mistake in it, with place and remedy. (Of a file that is no TOML only the mistakes in its syntax; of a VM
/// whose kind is unknown not those that depend on the kind.)
pub fn check(file_name: &str, text: &str) -> Result<Plan, Report> {
    let mut errors = Errors::new(text);
    if text.len() > MAX_MANIFEST_LENGTH {
        let message = format!("The manifest has {} bytes, more than {MAX_MANIFEST_LENGTH}", text.len());
        errors.nowhere(message, "is this really a host.toml? Take out what is not needed");
        return Err(errors.into_report(file_name));
    }
    let Some(raw) = raw::read(text, &mut errors) else { return Err(errors.into_report(file_name)) };
    let vms = Vms::new(&raw.vms);
    text::check(&raw, &mut errors);
    kinds::check(&raw, &mut errors);
    channels::check(&vms, &mut errors);
    let order = order::check(&vms, &mut errors);
    resources::check(&raw, &mut errors);
    privileges::check(&raw, &mut errors);
    xenstore::check(&vms, &order, &mut errors);
    quotas::check(&raw, &mut errors);
    tenants::check(&raw, &vms, &mut errors);
    network::check(&raw, &vms, &mut errors);
    match build(&raw, &order, &errors) {
        Some(plan) if errors.is_empty() => Ok(plan),
        None if errors.is_empty() => {
            errors.nowhere("A mistake that the checker has no words for", "report this manifest as a bug");
            Err(errors.into_report(file_name))
        }
        _ => Err(errors.into_report(file_name)),
    }
}

/// The VMs of the file, by name.
struct Vms<'r> {
    all: &'r [RawVm],
    by_name: BTreeMap<&'r str, usize>,
}

impl<'r> Vms<'r> {
    fn new(all: &'r [RawVm]) -> Self {
        Self { all, by_name: all.iter().enumerate().map(|(i, vm)| (vm.name.value.as_str(), i)).collect() }
    }

    fn get(&self, name: &str) -> Option<&'r RawVm> {
        self.by_name.get(name).and_then(|index| self.all.get(*index))
    }

    fn names(&self) -> impl Iterator<Item = &'r str> + use<'r> {
        self.all.iter().map(|vm| vm.name.value.as_str())
    }
}

/// Reports every value that is in the list a second time.
fn report_repeated<T: Ord>(items: &[At<T>], errors: &mut Errors<'_>, message: impl Fn(&T) -> String) {
    let mut seen: BTreeMap<&T, Span> = BTreeMap::new();
    for item in items {
        if let Some(first) = seen.get(&item.value) {
            errors.between(
                item.span,
                (*first, "first here".to_owned()),
                message(&item.value),
                "take one of the two out",
            );
        } else {
            seen.insert(&item.value, item.span);
        }
    }
}

/// The plan; `None` if something is missing, which is then reported.
fn build(raw: &Raw, order: &[usize], errors: &Errors<'_>) -> Option<Plan> {
    let host = raw.host.as_ref()?;
    let kernels: Option<_> =
        raw.kernels.iter().map(|(name, path)| Some((name.value.clone(), value(path)?))).collect();
    let vms: Option<_> = order.iter().map(|index| build_vm(raw, raw.vms.get(*index)?, errors)).collect();
    let tenants: Option<_> = raw
        .tenants
        .iter()
        .map(|tenant| {
            Some(Tenant {
                name: tenant.name.value.clone(),
                toolstack: value(&tenant.toolstack)?,
                memory_mib: value(&tenant.memory_mib)?,
                vcpus: value(&tenant.vcpus)?,
                guests: value(&tenant.guests)?,
                backends: tenant
                    .backends
                    .iter()
                    .map(|backend| channel(backend, errors))
                    .collect::<Option<_>>()?,
                line: errors.line(tenant.name.span.start),
            })
        })
        .collect();
    let guests: Option<_> = raw
        .guests
        .iter()
        .map(|guest| {
            Some(BootGuest {
                name: guest.name.value.clone(),
                tenant: value(&guest.tenant)?,
                config: value(&guest.config)?,
                line: errors.line(guest.name.span.start),
            })
        })
        .collect();
    let mut tenants: Vec<Tenant> = tenants?;
    tenants.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Plan {
        host: Host {
            name: value(&host.name)?,
            memory_mib: value(&host.memory_mib)?,
            console: value(&host.console)?,
            xen_options: value(&host.xen_options).unwrap_or_default(),
            iommu: value(&host.iommu)?,
        },
        kernels: kernels?,
        vms: vms?,
        tenants,
        guests: guests?,
    })
}

fn build_vm(raw: &Raw, vm: &RawVm, errors: &Errors<'_>) -> Option<Vm> {
    let kind = value(&vm.kind)?;
    let restart = vm.restart.as_ref()?;
    let words = |list: &[At<String>]| list.iter().map(|item| item.value.clone()).collect();
    let reason = |reason: &Option<At<String>>| value(reason);
    let grant = |g: &Reasoned<_>| {
        let line = errors.line(g.key.span.start);
        Some(Grant { permission: g.key.value, reason: reason(&g.reason)?, line })
    };
    Some(Vm {
        name: vm.name.value.clone(),
        kind,
        tenant: raw.tenant_of(vm).map(|tenant| tenant.name.value.clone()),
        domid: value(&vm.domid)?,
        successor_domid: value(&vm.successor_domid),
        kernel: value(&vm.kernel)?,
        program: value(&vm.program).unwrap_or_else(|| kind.as_str().to_owned()),
        memory_mib: value(&vm.memory_mib)?,
        vcpus: value(&vm.vcpus).unwrap_or(1),
        kernel_options: value(&vm.kernel_options).unwrap_or_default(),
        devices: vm.devices.iter().map(|device| device.value.clone()).collect(),
        accept_no_reset: value(&vm.accept_no_reset),
        talks_to: vm.talks_to.iter().map(|to| channel(to, errors)).collect::<Option<_>>()?,
        answers: words(&vm.answers),
        xenstore: match &vm.xenstore {
            Some(ring) => Some(Ring { reason: reason(&ring.reason)?, line: errors.line(ring.span.start) }),
            None => None,
        },
        network: match &vm.network {
            Some(network) => Some(Network {
                backend: value(&network.backend)?,
                address: value(&network.address)?,
                gateway: value(&network.gateway)?,
                port: value(&network.port)?,
                line: errors.line(network.span.start),
            }),
            None => None,
        },
        quotas: vm.quotas.iter().flat_map(|quotas| &quotas.set).map(|(q, at)| (*q, at.value)).collect(),
        may: vm.may.iter().map(grant).collect::<Option<_>>()?,
        after: words(&vm.after),
        built_by_bootstrapper: vm.built_by_bootstrapper(),
        autostart: vm.autostart(),
        restart: Restart {
            policy: value(&restart.policy)?,
            every_seconds: value(&restart.every_seconds),
            drain_ms: value(&restart.drain_ms).unwrap_or(DRAIN_MS),
        },
        line: errors.line(vm.name.span.start),
    })
}

fn channel(to: &Reasoned<String>, errors: &Errors<'_>) -> Option<Channel> {
    let line = errors.line(to.key.span.start);
    Some(Channel { peer: to.key.value.clone(), reason: value(&to.reason)?, line })
}

fn value<T: Clone>(at: &Option<At<T>>) -> Option<T> {
    at.as_ref().map(|at| at.value.clone())
}
