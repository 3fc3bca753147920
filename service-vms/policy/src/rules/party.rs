//! Who the rules are about.

use ennead_manifest::{Kind, Tenant, Vm};

/// The FLASK types of a VM; or of all guests of one tenant, which have them in common.
pub(super) struct Party {
    /// Types under which it runs: one, but for pciback, which starts with another.
    pub(super) running: Vec<String>,
    /// The one with which it starts.
    pub(super) starting: String,
    /// That under which its memory is filled.
    pub(super) building: String,
    /// All types under which it exists.
    pub(super) labels: Vec<String>,
    /// What Xen calls "the domain itself".
    pub(super) me: String,
    /// The type of its ports.
    pub(super) channel: String,
}

impl Party {
    /// A VM of the plan.
    pub(super) fn of(vm: &Vm) -> Self {
        let mut running = vec![vm.running_type(), vm.starting_type()];
        running.dedup();
        let mut party = Self::new(&vm.stem(), running, vm.starting_type(), vm.building_type());
        if vm.kind == Kind::Bootstrapper {
            // Xen builds it, not one of ours; and it gives domain 0 its label without a transition: it is its own self.
            party.labels.clone_from(&party.running);
            party.me.clone_from(&party.starting);
        }
        party
    }

    /// Any guest of a tenant.
    pub(super) fn guests_of(tenant: &Tenant) -> Self {
        let running = tenant.guest_running_type();
        Self::new(&tenant.guest_stem(), vec![running.clone()], running, tenant.guest_building_type())
    }

    fn new(stem: &str, running: Vec<String>, starting: String, building: String) -> Self {
        let labels = running.iter().chain([&building]).cloned().collect();
        let (me, channel) = (format!("{stem}_self_t"), format!("{stem}_channel_t"));
        Self { running, starting, building, labels, me, channel }
    }
}
