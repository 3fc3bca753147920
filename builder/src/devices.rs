//! Which controller goes to which driver VM.

use std::collections::{BTreeMap, BTreeSet};

use ennead_channel::pciback::{Address, Controller};
use ennead_manifest::{Device, DeviceClass, Plan, Vm};
use ennead_xen::DomId;

/// Why a driver VM cannot have its device: the host goes on without the VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nothing of that class is free and can be lent.
    #[error("No {0} controller is free that has MSI and can be reset alone")]
    Class(Device),
    /// There is no such controller.
    #[error("{0} is no controller of this machine")]
    Absent(String),
    /// Its interrupt could be another device's.
    #[error("{0} has neither MSI nor MSI-X")]
    NoMsi(Address),
    /// What one borrower began could end in the next one's memory.
    #[error("{0} cannot be reset alone, and the VM has no `accept-no-reset`")]
    NoReset(Address),
    /// Linux or Xen refused.
    #[error("{0}")]
    Refused(String),
}

/// What a driver VM gets, by domid.
pub type Loans = BTreeMap<DomId, Result<Vec<Address>, Missing>>;

/// Whether a VM has devices that pciback lends.
#[must_use]
pub fn borrows(vm: &Vm) -> bool {
    !vm.devices.is_empty() && !vm.devices.contains(&Device::All)
}

/// Shares the controllers out: first those that the plan names by their address, then the first free one of each class.
#[must_use]
pub fn share_out(plan: &Plan, controllers: &[Controller]) -> Loans {
    let named = |device: &Device| match device {
        Device::Address(text) => text.parse::<Address>().ok(),
        _ => None,
    };
    let borrowers = || plan.vms.iter().filter(|vm| borrows(vm));
    let mut taken: BTreeSet<Address> = borrowers().flat_map(|vm| &vm.devices).filter_map(named).collect();
    let mut one = |vm: &Vm, device: &Device| match device {
        Device::Address(text) => {
            let at = |c: &&Controller| named(device) == Some(c.address);
            let found = controllers.iter().find(at).ok_or_else(|| Missing::Absent(text.clone()))?;
            match (found.has_msi, found.has_reset || vm.accept_no_reset.is_some()) {
                (false, _) => Err(Missing::NoMsi(found.address)),
                (_, false) => Err(Missing::NoReset(found.address)),
                _ => Ok(found.address),
            }
        }
        class => {
            let free = |c: &&Controller| is_of(c, class) && c.has_msi && !taken.contains(&c.address);
            let unsafely = || controllers.iter().filter(free).find(|_| vm.accept_no_reset.is_some());
            let found = controllers.iter().filter(free).find(|c| c.has_reset).or_else(unsafely);
            let found = found.ok_or_else(|| Missing::Class(class.clone()))?;
            taken.insert(found.address);
            Ok(found.address)
        }
    };
    borrowers()
        .map(|vm| (DomId(vm.domid), vm.devices.iter().map(|device| one(vm, device)).collect()))
        .collect()
}

fn is_of(controller: &Controller, class: &Device) -> bool {
    let base = match class {
        Device::Class(DeviceClass::Storage) => 0x01,
        Device::Class(DeviceClass::Network) => 0x02,
        Device::All | Device::Address(_) => return false,
    };
    controller.base_class() == base
}

#[cfg(test)]
mod tests {
    use ennead_channel::Text;

    use super::*;

    /// What blkback, which asks for `disk`, and netback of the shipped host get.
    fn loans(disk: Device, controllers: &[Controller]) -> [Result<Vec<String>, String>; 2] {
        let text = include_str!("../../images/host.toml");
        let mut plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        let blkback = plan.vms.iter_mut().find(|vm| vm.name == "blkback").expect("it is there");
        blkback.devices = vec![disk];
        let loans = share_out(&plan, controllers);
        ["blkback", "netback"].map(|name| {
            let loan = &loans[&DomId(plan.vm(name).expect("it is there").domid)];
            let told = |addresses: &Vec<Address>| addresses.iter().map(ToString::to_string).collect();
            loan.as_ref().map(told).map_err(ToString::to_string)
        })
    }

    fn controller(address: &str, class: u32, has_msi: bool, has_reset: bool) -> Controller {
        let address = address.parse().expect("an address");
        Controller { address, class, vendor: 1, device: 2, driver: Text::new(""), has_msi, has_reset }
    }

    #[test]
    fn the_first_that_can_be_lent_of_each_class() {
        let controllers = [
            controller("0000:00:1f.2", 0x01_0601, true, false),
            controller("0000:01:00.0", 0x01_0802, true, true),
            controller("0000:02:00.0", 0x02_0000, false, true),
            controller("0000:03:00.0", 0x02_0000, true, true),
        ];
        assert_eq!(
            loans(Device::Class(DeviceClass::Storage), &controllers),
            [Ok(vec!["0000:01:00.0".to_owned()]), Ok(vec!["0000:03:00.0".to_owned()])]
        );
        let none = "controller is free that has MSI and can be reset alone";
        assert_eq!(
            loans(Device::Class(DeviceClass::Storage), &[]),
            [Err(format!("No storage {none}")), Err(format!("No network {none}"))]
        );
    }

    #[test]
    fn one_that_cannot_be_reset_is_lent_only_if_the_manifest_accepts_that() {
        let text = include_str!("../../images/host.toml");
        let mut plan = ennead_manifest::check("host.toml", text).expect("the shipped manifest is valid");
        plan.vms.retain(|vm| vm.name == "blkback");
        let mut controllers = vec![controller("0000:00:1f.2", 0x01_0601, true, false)];
        let loan = |plan: &Plan, controllers: &[Controller]| {
            share_out(plan, controllers)
                .remove(&DomId(8))
                .expect("it borrows")
                .map(|loan| loan[0].to_string())
        };
        for device in [Device::Class(DeviceClass::Storage), Device::Address("0000:00:1f.2".to_owned())] {
            plan.vms[0].accept_no_reset = None;
            plan.vms[0].devices = vec![device];
            assert!(loan(&plan, &controllers).is_err());
            plan.vms[0].accept_no_reset = Some("its disk holds nothing of value".to_owned());
            assert_eq!(loan(&plan, &controllers), Ok("0000:00:1f.2".to_owned()));
        }
        // One that can is taken first.
        plan.vms[0].devices = vec![Device::Class(DeviceClass::Storage)];
        controllers.push(controller("0000:01:00.0", 0x01_0802, true, true));
        assert_eq!(loan(&plan, &controllers), Ok("0000:01:00.0".to_owned()));
    }

    #[test]
    fn one_that_is_named_is_taken_or_the_reason_told() {
        let mut controllers = [
            controller("0000:01:00.0", 0x01_0802, true, true),
            controller("0000:04:00.0", 0x01_0802, true, true),
        ];
        let disk = |controllers: &[Controller]| {
            loans(Device::Address("0000:04:00.0".to_owned()), controllers)[0].clone()
        };
        assert_eq!(disk(&controllers), Ok(vec!["0000:04:00.0".to_owned()]));
        controllers[1].has_reset = false;
        assert_eq!(
            disk(&controllers),
            Err("0000:04:00.0 cannot be reset alone, and the VM has no `accept-no-reset`".to_owned())
        );
        controllers[1].has_msi = false;
        assert_eq!(disk(&controllers), Err("0000:04:00.0 has neither MSI nor MSI-X".to_owned()));
        assert_eq!(disk(&controllers[..1]), Err("0000:04:00.0 is no controller of this machine".to_owned()));
    }
}
