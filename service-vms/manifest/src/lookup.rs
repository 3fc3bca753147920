//! Questions that the plan answers.

use crate::plan::{BootPlan, Channel, Grant, Image, Kind, Permission, Plan, Tenant, Vm};

impl Plan {
    /// The service VM of this name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// The service VM that has this domid, be it the first or the successor's.
    #[must_use]
    pub fn vm_by_domid(&self, domid: u16) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.domids().any(|d| d == domid))
    }

    /// The service VMs of one kind, in the order of start.
    pub fn vms_of_kind(&self, kind: Kind) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(move |vm| vm.kind == kind)
    }

    /// The VM that serves XenStore over rings; there is at most one.
    #[must_use]
    pub fn xenstore_logic(&self) -> Option<&Vm> {
        self.vms_of_kind(Kind::XenstoreLogic).next()
    }

    /// The VM that holds XenStore's contents; there is at most one.
    #[must_use]
    pub fn xenstore_state(&self) -> Option<&Vm> {
        self.vms_of_kind(Kind::XenstoreState).next()
    }

    /// The VMs that the bootstrapper builds, in the order of start.
    pub fn built_by_bootstrapper(&self) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper && vm.built_by_bootstrapper)
    }
}

impl Plan {
    /// The VMs that serve a tenant's guests, and what each serves (`vbd`, `vif`), in the manifest's order.
    pub fn backends<'p>(&'p self, tenant: &'p Tenant) -> impl Iterator<Item = (&'p Vm, &'static str)> {
        tenant.backends.iter().filter_map(|backend| {
            let vm = self.vm(&backend.peer)?;
            Some((vm, vm.kind.device()?))
        })
    }
}

impl Kind {
    /// The kind of device, by its name in XenStore, that VMs of this kind serve to guests.
    #[must_use]
    pub fn device(self) -> Option<&'static str> {
        match self {
            Self::Blkback => Some("vbd"),
            Self::Netback => Some("vif"),
            _ => None,
        }
    }
}

impl Vm {
    /// Its domids: the fixed one, then the successor's if it has one.
    pub fn domids(&self) -> impl Iterator<Item = u16> + use<> {
        [Some(self.domid), self.successor_domid].into_iter().flatten()
    }

    /// Place of `client` among those whose channels this VM answers, from 0. It fixes the channel's grefs.
    #[must_use]
    pub fn client_index(&self, client: &str) -> Option<usize> {
        self.answers.iter().position(|name| name == client)
    }

    /// The channel that this VM opens to `peer`.
    #[must_use]
    pub fn channel_to(&self, peer: &str) -> Option<&Channel> {
        self.talks_to.iter().find(|channel| channel.peer == peer)
    }

    /// Its permission of this name, with reason and line.
    #[must_use]
    pub fn grant(&self, permission: Permission) -> Option<&Grant> {
        self.may.iter().find(|grant| grant.permission == permission)
    }
}

impl BootPlan {
    /// Kernel and ramdisk of a VM; there for each VM of this plan but the bootstrapper, whose ramdisk holds all the others'.
    #[must_use]
    pub fn images_of(&self, vm: &Vm) -> Option<(&Image, &Image)> {
        Some((self.images.get(&vm.kernel_image())?, self.images.get(&vm.ramdisk_image())?))
    }
}
