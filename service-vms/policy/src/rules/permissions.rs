//! What each permission means.

use ennead_manifest::{Kind, Permission, Plan, Vm};

use super::{Maker, Party, RESOURCES, device_use};
use crate::Origin;

impl Maker {
    pub(super) fn permission(&mut self, plan: &Plan, vm: &Vm, permission: Permission, origin: &Origin) {
        for run in Party::of(vm).running {
            self.permission_of(&run, plan, vm, permission, origin);
        }
    }

    fn permission_of(&mut self, run: &str, plan: &Plan, vm: &Vm, permission: Permission, origin: &Origin) {
        match permission {
            Permission::BuildVms => {
                self.allow(run, "security_t", "security", &["check_context"], origin);
                for target in plan.vms.iter().filter(|target| builds(vm, target)) {
                    let target = Party::of(target);
                    self.build(run, &target, origin);
                    // The health port.
                    self.events(&Party::of(vm), &target, origin);
                }
                if vm.kind == Kind::Builder {
                    self.run_time(run, plan, origin);
                }
            }
            Permission::CreateHardwareDomain => {
                for target in plan.vms.iter().filter(|target| target.kind == Kind::Pciback) {
                    let Party { building, starting, .. } = Party::of(target);
                    self.allow(run, &building, "domain2", &["create_hardware_domain"], origin);
                    // One that could not be finished, or is not well, is shut down: this is how Xen stops the host.
                    for label in [building, starting] {
                        self.allow(run, &label, "domain", &["shutdown"], origin);
                    }
                }
            }
            Permission::DestroyBootstrapper => {
                for target in plan.vms.iter().filter(|target| target.kind == Kind::Bootstrapper) {
                    self.allow(run, &target.running_type(), "domain", &["destroy"], origin);
                }
            }
            Permission::ListVms => {
                self.allow(run, "domain_type", "domain", &["getdomaininfo"], origin);
                self.allow(run, "xen_t", "xen", &["physinfo"], origin);
                self.allow(run, "security_t", "security", &["check_context"], origin);
            }
            Permission::HostEvents => {
                self.allow(run, &Party::of(vm).me, "domain", &["set_virq_handler"], origin);
            }
            Permission::ReadHostConsole => self.allow(run, "xen_t", "xen", &["readconsole"], origin),
            Permission::WriteHostConsole => self.allow(run, "xen_t", "xen", &["writeconsole"], origin),
            Permission::Hardware => self.hardware(run, plan, vm, origin),
            Permission::HostPower => self.allow(run, "xen_t", "xen", &["sleep"], origin),
            Permission::LendDevices => self.lend(run, plan, vm, origin),
            Permission::UseDevice => {
                let Party { running, labels, me, .. } = Party::of(vm);
                // Bounce buffers are made contiguous.
                for run in running {
                    self.allow(&run, &me, "mmu", &["exchange"], origin);
                }
                for label in labels {
                    for resource in RESOURCES {
                        self.allow(&label, resource, "resource", device_use(plan), origin);
                    }
                }
            }
        }
    }

    /// The hardware domain hands a device's rights on, and serves its configuration space over a page that the borrower grants.
    fn lend(&mut self, run: &str, plan: &Plan, vm: &Vm, origin: &Origin) {
        let borrows = |target: &&Vm| target.grant(Permission::UseDevice).is_some();
        let mut borrowers = plan.vms.iter().filter(borrows).peekable();
        if borrowers.peek().is_some() {
            // A reset takes away the BARs and the route of the interrupt: both are set again.
            for resource in ["device_t", "irq_t"] {
                self.allow(run, resource, "resource", &["setup"], origin);
            }
        }
        for target in borrowers {
            let borrower = Party::of(target);
            for label in &borrower.labels {
                self.allow(run, label, "resource", &["add", "remove"], origin);
            }
            self.channel(&Party::of(vm), &borrower, origin);
        }
    }

    /// `by` makes, starts, stops and destroys `target`; it maps the target's memory only under the building label.
    pub(super) fn build(&mut self, by: &str, target: &Party, origin: &Origin) {
        let Party { building, starting, .. } = target;
        self.allow(
            by,
            building,
            "domain",
            &[
                "create",
                "max_vcpus",
                "setdomainmaxmem",
                "hypercall",
                "setvcpucontext",
                "destroy",
                "getdomaininfo",
            ],
            origin,
        );
        self.allow(by, building, "domain2", &["resource_map"], origin);
        self.allow(
            by,
            building,
            "mmu",
            &["map_read", "map_write", "adjust", "pinpage", "updatemp", "mmuext_op"],
            origin,
        );
        self.relabel(by, building, starting, origin);
        for running in &target.running {
            self.allow(by, running, "domain", &["pause", "unpause", "destroy"], origin);
        }
        self.allow(by, &target.channel, "event", &["create"], origin);
    }

    /// What only Builder does, once the host runs: it takes the last right away that a VM had for its start, and builds guests.
    fn run_time(&mut self, run: &str, plan: &Plan, origin: &Origin) {
        for target in plan.vms.iter().filter(|target| target.starting_type() != target.running_type()) {
            let (starting, running) = (target.starting_type(), target.running_type());
            self.relabel(run, &starting, &running, origin);
            // It stands still meanwhile: for a moment Xen takes it for another VM of its type.
            self.allow(run, &starting, "domain", &["pause"], origin);
            self.allow(run, &running, "domain", &["unpause"], origin);
        }
        for tenant in &plan.tenants {
            self.build_guests(run, tenant, origin);
        }
    }

    fn relabel(&mut self, by: &str, from: &str, to: &str, origin: &Origin) {
        self.allow(by, from, "domain2", &["relabelfrom"], origin);
        self.allow(by, to, "domain2", &["relabelto"], origin);
        self.allow(from, to, "domain", &["transition"], origin);
    }

    /// The hardware domain. What only its start needs goes to its starting type: Builder takes it away when it seals.
    fn hardware(&mut self, run: &str, plan: &Plan, vm: &Vm, origin: &Origin) {
        let me = Party::of(vm).me;
        self.allow(run, "domio_t", "mmu", &["map_read", "map_write"], origin);
        self.allow(run, &me, "resource", &["add", "remove"], origin);
        for resource in RESOURCES {
            self.allow(
                run,
                resource,
                "resource",
                &[
                    "stat_device",
                    "add_device",
                    "add_irq",
                    "add_iomem",
                    "add_ioport",
                    "remove_device",
                    "remove_irq",
                    "remove_iomem",
                    "remove_ioport",
                ],
                origin,
            );
            self.allow(run, resource, "resource", device_use(plan), origin);
        }
        // Xen keeps the time.
        self.refuse_silently(run, "xen_t", "xen", &["settime", "getcpuinfo", "readconsole"], origin);
        if run == vm.starting_type() {
            self.allow(run, "xen_t", "mmu", &["memorymap"], origin);
            // Bounce buffers are made contiguous.
            self.allow(run, &me, "mmu", &["exchange"], origin);
            // ACPI tables on UEFI; the IO-APICs, without which no interrupt is routed; MMCONFIG.
            self.allow(run, "xen_t", "xen", &["firmware", "readapic"], origin);
            self.allow(run, "xen_t", "resource", &["setup"], origin);
            for resource in RESOURCES {
                self.allow(run, resource, "resource", &["setup", "plug", "unplug"], origin);
                self.allow(run, resource, "hvm", &["bind_irq"], origin);
            }
        }
    }
}

/// Whether `builder` (which has `build-vms`) builds `target`: the bootstrapper what the manifest says, Builder all others, and
/// again what it can restart. Nobody builds the bootstrapper, and a hardware domain exists once.
fn builds(builder: &Vm, target: &Vm) -> bool {
    match (builder.kind, target.kind) {
        (_, Kind::Bootstrapper) => false,
        (Kind::Bootstrapper, _) => target.built_by_bootstrapper,
        (_, Kind::Pciback) => false,
        (Kind::Pciback, kind) => kind == Kind::Builder,
        _ => true,
    }
}
