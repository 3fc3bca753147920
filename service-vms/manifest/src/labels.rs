//! FLASK types of VMs. The policy defines them, Builder gives them: both take the names from here.

use std::collections::BTreeSet;

use crate::{Kind, Plan, Tenant, Vm};

impl Kind {
    /// Its name in FLASK types.
    #[must_use]
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Bootstrapper => "bootstrapper",
            Self::Builder => "builder",
            Self::Pciback => "pciback",
            Self::XenstoreLogic => "xenstore_logic",
            Self::XenstoreState => "xenstore_state",
            Self::Toolstack => "toolstack",
            Self::Blkback => "blkback",
            Self::Netback => "netback",
            Self::QemuStub => "qemu_stub",
        }
    }

    /// The type that a VM of this kind runs as, if it is no tenant's.
    #[must_use]
    pub fn running_type(self) -> String {
        running(self.stem())
    }

    /// The type that a VM of this kind starts with, if it is no tenant's: its running type, but for pciback, which has more
    /// rights until Builder seals it.
    #[must_use]
    pub fn starting_type(self) -> String {
        starting(self, self.stem())
    }

    /// The type of a VM of this kind while its memory is being filled, if it is no tenant's.
    #[must_use]
    pub fn building_type(self) -> String {
        building(self.stem())
    }
}

impl Plan {
    /// Every type that one of ours gives a VM or a guest.
    #[must_use]
    pub fn labels(&self) -> BTreeSet<String> {
        let vms = self.vms.iter().filter(|vm| vm.kind != Kind::Bootstrapper);
        let of_vms = vms.flat_map(|vm| [vm.building_type(), vm.starting_type(), vm.running_type()]);
        let of_guests = |tenant: &Tenant| [tenant.guest_building_type(), tenant.guest_running_type()];
        of_vms.chain(self.tenants.iter().flat_map(of_guests)).collect()
    }
}

impl Vm {
    /// Its name in FLASK types: its kind's, and its tenant's if it has one. So VMs of one kind have one type, but those of two
    /// tenants never.
    #[must_use]
    pub fn stem(&self) -> String {
        let kind = self.kind.stem();
        self.tenant.as_ref().map_or_else(|| kind.to_owned(), |tenant| format!("{kind}_{}", word(tenant)))
    }

    /// The type that it runs as.
    #[must_use]
    pub fn running_type(&self) -> String {
        running(&self.stem())
    }

    /// The type that it starts with: its running type, but for pciback, which has more rights until Builder seals it.
    #[must_use]
    pub fn starting_type(&self) -> String {
        starting(self.kind, &self.stem())
    }

    /// Its type while its memory is being filled.
    #[must_use]
    pub fn building_type(&self) -> String {
        building(&self.stem())
    }

    /// Name of its kernel's image.
    #[must_use]
    pub fn kernel_image(&self) -> String {
        format!("{}.kernel", self.kernel)
    }

    /// Name of its ramdisk's image. A tenant's toolstack has keys and guests of its own in it: it is no other VM's.
    #[must_use]
    pub fn ramdisk_image(&self) -> String {
        let own = self.tenant.as_ref().map(|_| format!("{}.", self.name)).unwrap_or_default();
        format!("{own}{}.ramdisk", self.program)
    }

    /// The VM with its previous kernel and program, as far as these differ from its own: `there` says whether an image is there.
    /// `None` if neither is.
    #[must_use]
    pub fn previous(&self, there: impl Fn(&str) -> bool) -> Option<Self> {
        let [kernel, program] = [&self.kernel, &self.program].map(|name| format!("{name}.previous"));
        let mut vm = Self { kernel, program, ..self.clone() };
        if !there(&vm.kernel_image()) {
            vm.kernel.clone_from(&self.kernel);
        }
        if !there(&vm.ramdisk_image()) {
            vm.program.clone_from(&self.program);
        }
        (vm != *self).then_some(vm)
    }
}

impl Tenant {
    /// The name of its guests in FLASK types.
    #[must_use]
    pub fn guest_stem(&self) -> String {
        format!("guest_{}", word(&self.name))
    }

    /// The type that its guests run as.
    #[must_use]
    pub fn guest_running_type(&self) -> String {
        running(&self.guest_stem())
    }

    /// The type of its guests while their memory is being filled.
    #[must_use]
    pub fn guest_building_type(&self) -> String {
        building(&self.guest_stem())
    }
}

/// A tenant's name as a part of a type's. (A name has no `_`, so no two become one.)
fn word(name: &str) -> String {
    name.replace('-', "_")
}

fn running(stem: &str) -> String {
    format!("{stem}_t")
}

fn starting(kind: Kind, stem: &str) -> String {
    if kind == Kind::Pciback { format!("{stem}_starting_t") } else { running(stem) }
}

fn building(stem: &str) -> String {
    format!("{stem}_building_t")
}

/// The full FLASK context of a type (user:role:type), as `FLASK_CONTEXT_TO_SID` takes it.
#[must_use]
pub fn context(type_name: &str) -> String {
    format!("system_u:system_r:{type_name}")
}
