//! Which permissions a kind of VM may have, and which it cannot do without (DESIGN.md, 'The nine service VMs').

use crate::plan::{Device, Kind, Permission};
use crate::raw::{Raw, RawVm};
use crate::report::{Errors, code, list};

/// All that a manifest can allow a VM of this kind.
fn allowed(kind: Kind) -> &'static [Permission] {
    use Permission as P;
    match kind {
        Kind::Bootstrapper => &[P::BuildVms, P::CreateHardwareDomain, P::ListVms, P::WriteHostConsole],
        Kind::Builder => &[
            P::BuildVms,
            P::DestroyBootstrapper,
            P::ListVms,
            P::HostEvents,
            P::ReadHostConsole,
            P::WriteHostConsole,
        ],
        Kind::Pciback => &[P::Hardware, P::HostPower, P::LendDevices, P::WriteHostConsole],
        Kind::Netback | Kind::Blkback => &[P::UseDevice, P::WriteHostConsole],
        Kind::XenstoreLogic | Kind::XenstoreState | Kind::Toolstack | Kind::QemuStub => {
            &[P::WriteHostConsole]
        }
    }
}

/// What a VM of this kind cannot work without.
fn needed(kind: Kind) -> &'static [Permission] {
    use Permission as P;
    match kind {
        Kind::Bootstrapper => &[P::BuildVms, P::CreateHardwareDomain, P::ListVms],
        Kind::Builder => &[P::BuildVms, P::ListVms, P::HostEvents],
        Kind::Pciback => &[P::Hardware],
        Kind::Netback | Kind::Blkback => &[P::UseDevice],
        Kind::XenstoreLogic | Kind::XenstoreState | Kind::Toolstack | Kind::QemuStub => &[],
    }
}

pub(super) fn check(raw: &Raw, errors: &mut Errors<'_>) {
    let lent = raw
        .vms
        .iter()
        .filter(|vm| !vm.is(Kind::Pciback))
        .find(|vm| vm.devices.iter().any(|device| device.value != Device::All));
    for vm in &raw.vms {
        let Some(kind) = vm.kind.as_ref().map(|at| at.value) else { continue };
        for grant in &vm.may {
            let permission = grant.key.value;
            if !allowed(kind).contains(&permission) {
                let kinds = Kind::ALL.iter().filter(|kind| allowed(**kind).contains(&permission));
                errors.at(
                    grant.key.span,
                    format!("{} is of kind `{kind}`, which may never `{permission}`", code(&vm.name.value)),
                    format!(
                        "take the line out: that is for {}; a `{kind}` may have {}",
                        list(kinds.map(|kind| kind.as_str())),
                        list(allowed(kind).iter().map(|permission| permission.as_str()))
                    ),
                );
            }
        }
        for permission in needed(kind) {
            require(vm, *permission, &format!("a VM of kind `{kind}`"), errors);
        }
        if let (Kind::Pciback, Some(driver)) = (kind, lent) {
            let who = format!("a host that lends {} a device", code(&driver.name.value));
            require(vm, Permission::LendDevices, &who, errors);
        }
    }
}

fn require(vm: &RawVm, permission: Permission, who: &str, errors: &mut Errors<'_>) {
    if vm.may.iter().any(|grant| grant.key.value == permission) {
        return;
    }
    let name = crate::rules::printable(&vm.name.value);
    errors.at(
        vm.name.span,
        format!(
            "{} lacks the permission `{permission}`, without which {who} cannot work",
            code(&vm.name.value)
        ),
        format!("add `{permission} = \"why\"` under `[vm.{name}.may]`"),
    );
}
