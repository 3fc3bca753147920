//! What a tenant's guests may do, and what is done with them.

use ennead_manifest::{Plan, Tenant};

use super::{Maker, Party};
use crate::Origin;

/// What `explain` calls them.
pub(super) fn name(tenant: &Tenant) -> String {
    format!("guests of {}", tenant.name)
}

impl Maker {
    /// A tenant's guests. Each has a XenStore ring, and a console that the tenant's toolstack serves.
    pub(super) fn guests(&mut self, plan: &Plan, tenant: &Tenant) {
        let guests = Party::guests_of(tenant);
        let name = name(tenant);
        let because = |reason: String| Origin { line: tenant.line, reason };
        self.declare(&name, &guests);
        let origin = because(format!("{name} are VMs: their own memory, grants and events"));
        for run in &guests.running {
            self.own(&guests, run, &origin);
            // PVH: where the console and XenStore are, and the vector of events.
            self.allow(run, &guests.me, "hvm", &["getparam", "setparam"], &origin);
            // GRUB asks where its memory is, which Linux is told at its start.
            self.allow(run, &guests.me, "mmu", &["memorymap"], &origin);
            // Linux's last words go there as well.
            self.refuse_silently(run, "xen_t", "xen", &["writeconsole"], &origin);
        }
        if let Some(logic) = plan.xenstore_logic() {
            let origin = because(format!("{name} have a XenStore ring, as every guest has"));
            self.channel(&Party::of(logic), &guests, &origin);
        }
        for backend in &tenant.backends {
            let Some(vm) = plan.vm(&backend.peer) else { continue };
            let reason = format!("{} serves {name}: {}", vm.name, backend.reason);
            let origin = Origin { line: backend.line, reason };
            let server = Party::of(vm);
            self.serves(&server, &guests, &origin);
        }
        if let Some(toolstack) = plan.vm(&tenant.toolstack) {
            let origin = because(format!("{} has the consoles of its tenant's guests", toolstack.name));
            self.channel(&Party::of(toolstack), &guests, &origin);
        }
    }

    /// `server` is the backend of devices of `client`'s: it maps its rings, and copies from and to what it grants. (Xen asks
    /// whether the one whose page it is read from may copy to the other, whoever does it.)
    pub(super) fn serves(&mut self, server: &Party, client: &Party, origin: &Origin) {
        self.channel(server, client, origin);
        for server in &server.running {
            for client in &client.running {
                self.allow(client, server, "grant", &["copy"], origin);
                self.allow(server, client, "grant", &["copy"], origin);
            }
        }
    }

    /// `by` makes, stops and destroys guests of `tenant`, PV and PVH.
    pub(super) fn build_guests(&mut self, by: &str, tenant: &Tenant, origin: &Origin) {
        let guests = Party::guests_of(tenant);
        self.build(by, &guests, origin);
        // PVH: nested page tables, memory map, the first CPU's state, where the console and XenStore are.
        self.allow(by, &guests.building, "domain", &["setpagingmempool"], origin);
        self.allow(by, &guests.building, "mmu", &["memorymap"], origin);
        let hvm = &["gethvmc", "sethvmc", "getparam", "setparam"];
        self.allow(by, &guests.building, "hvm", hvm, origin);
        for run in &guests.running {
            self.allow(by, run, "domain", &["shutdown"], origin);
        }
    }
}
