//! What VMs share out among them: kernels, memory, devices.

use std::collections::BTreeMap;

use crate::plan::{Device, DeviceClass, Kind};
use crate::raw::{Raw, RawVm};
use crate::report::{Errors, Span, code, suggest};
use crate::rules::XEN_MEMORY_MIB;
use crate::table::At;

pub(super) fn check(raw: &Raw, errors: &mut Errors<'_>) {
    for vm in &raw.vms {
        kernel(raw, vm, errors);
        devices_fit(vm, errors);
    }
    devices_are_unique(raw, errors);
    memory_fits(raw, errors);
}

fn kernel(raw: &Raw, vm: &RawVm, errors: &mut Errors<'_>) {
    let Some(kernel) = &vm.kernel else { return };
    let mut names = raw.kernels.iter().map(|(name, _)| name.value.as_str());
    if !names.clone().any(|name| name == kernel.value) {
        let message = format!("{} has the unknown kernel {}", code(&vm.name.value), code(&kernel.value));
        let help = if names.next().is_some() {
            suggest(&kernel.value, "kernel", raw.kernels.iter().map(|(name, _)| name.value.as_str()))
        } else {
            "name it under `[kernel]`, for example `service = \"kernels/service.config\"`".to_owned()
        };
        errors.at(kernel.span, message, help);
    }
}

fn devices_fit(vm: &RawVm, errors: &mut Errors<'_>) {
    let Some(kind) = vm.kind.as_ref().map(|at| at.value) else { return };
    let name = code(&vm.name.value);
    let (own, help) = match kind {
        Kind::Pciback => {
            (Some(Device::All), "write `devices = [\"all\"]`: it has them all and lends them out")
        }
        Kind::Blkback => (
            Some(Device::Class(DeviceClass::Storage)),
            "write `\"storage\"`, or the controller's PCI address",
        ),
        Kind::Netback => (
            Some(Device::Class(DeviceClass::Network)),
            "write `\"network\"`, or the controller's PCI address",
        ),
        _ => (None, "take it out: only `pciback`, `blkback` and `netback` have devices"),
    };
    let fits = |device: &Device| match device {
        Device::Address(_) => own.is_some() && kind != Kind::Pciback,
        other => own.as_ref() == Some(other),
    };
    for device in vm.devices.iter().filter(|device| !fits(&device.value)) {
        let message =
            format!("{name} has the device `{}`, which a VM of kind `{kind}` may not have", device.value);
        errors.at(device.span, message, help);
    }
    if let Some(reason) =
        vm.accept_no_reset.as_ref().filter(|_| !matches!(kind, Kind::Blkback | Kind::Netback))
    {
        let message = format!("{name} has `accept-no-reset`, but a VM of kind `{kind}` is lent no device");
        errors.at(reason.span, message, "take it out: only `blkback` and `netback` have it");
    }
    if own.is_some() && vm.has_no_devices {
        errors.at(
            vm.name.span,
            format!("{name} has no devices, which a VM of kind `{kind}` needs"),
            format!("write `devices = [\"{}\"]`", own.map_or_else(String::new, |device| device.to_string())),
        );
    }
}

fn devices_are_unique(raw: &Raw, errors: &mut Errors<'_>) {
    let mut owners: BTreeMap<&Device, (&RawVm, Span)> = BTreeMap::new();
    for (vm, At { value: device, span }) in
        raw.vms.iter().flat_map(|vm| vm.devices.iter().map(move |d| (vm, d)))
    {
        if *device == Device::All {
            continue;
        }
        let Some((owner, first)) = owners.get(device) else {
            owners.insert(device, (vm, *span));
            continue;
        };
        let name = code(&vm.name.value);
        let twice = owner.name.value == vm.name.value;
        let message = if twice {
            format!("{name} names the device `{device}` twice")
        } else {
            format!("{} and {name} both have the device `{device}`", code(&owner.name.value))
        };
        let help = match device {
            Device::Class(_) => {
                "name the controllers by their PCI addresses, such as `\"0000:00:1f.2\"` (`lspci -D` shows them)"
            }
            _ => "a device belongs to one VM: take it out of the other",
        };
        errors.between(*span, (*first, format!("{} has it here", code(&owner.name.value))), message, help);
    }
}

fn memory_fits(raw: &Raw, errors: &mut Errors<'_>) {
    let Some(host) = raw.host.as_ref().and_then(|host| host.memory_mib.as_ref()) else { return };
    let vms: u64 = raw.vms.iter().filter_map(|vm| vm.memory_mib.as_ref()).map(|at| u64::from(at.value)).sum();
    let needed = vms.saturating_add(u64::from(XEN_MEMORY_MIB));
    if needed > u64::from(host.value) {
        errors.at(
            host.span,
            format!(
                "The host has {} MiB, but its VMs need {vms} MiB and Xen {XEN_MEMORY_MIB} MiB: {needed} MiB together",
                host.value
            ),
            format!("write `memory-mib = {needed}` or more if the machine has it, or give the VMs less"),
        );
    }
}
