//! What each line of the manifest means in Xen's access vectors. The place to change a privilege.

use std::collections::BTreeSet;

use ennead_manifest::{Iommu, Kind, Permission, Plan, Tenant, Vm};

use crate::vectors::Vectors;
use crate::{Origin, Policy, Rule, Transition};

/// Xen's own types: name in `explain` -> type.
const XEN_OBJECTS: [(&str, &str); 11] = [
    ("xen", "xen_t"),
    ("xenboot", "xenboot_t"),
    ("flask", "security_t"),
    ("xen-memory", "domxen_t"),
    ("io-memory-pages", "domio_t"),
    ("unlabeled", "unlabeled_t"),
    ("devices", "device_t"),
    ("interrupts", "irq_t"),
    ("io-ports", "ioport_t"),
    ("io-memory", "iomem_t"),
    ("any-vm", "domain_type"),
];

/// Labels of hardware.
const RESOURCES: [&str; 4] = ["device_t", "irq_t", "ioport_t", "iomem_t"];

pub(crate) fn policy(plan: &Plan, vectors: Vectors) -> Policy {
    let mut make = Maker {
        rules: Vec::new(),
        transitions: BTreeSet::new(),
        domain_types: BTreeSet::new(),
        other_types: XEN_OBJECTS
            .iter()
            .map(|(_, t)| (*t).to_owned())
            .filter(|t| t != "domain_type")
            .collect(),
        names: XEN_OBJECTS
            .iter()
            .map(|(name, t)| ((*name).to_owned(), BTreeSet::from([(*t).to_owned()])))
            .collect(),
    };
    // Xen itself gives a dying domain's hardware back.
    let xen = Origin { line: 0, reason: "Xen takes back what a dying VM had".into() };
    for resource in RESOURCES {
        make.allow("xen_t", resource, "resource", &["remove_irq", "remove_ioport", "remove_iomem"], &xen);
    }
    for vm in &plan.vms {
        make.vm(plan, vm);
    }
    for vm in &plan.vms {
        for peer in vm.talks_to.iter().filter_map(|channel| Some((plan.vm(&channel.peer)?, channel))) {
            let reason = format!("{} talks to {}: {}", vm.name, peer.0.name, peer.1.reason);
            make.channel(&Party::of(vm), &Party::of(peer.0), &Origin { line: peer.1.line, reason });
        }
        if let (Some(ring), Some(logic)) = (&vm.xenstore, plan.xenstore_logic()) {
            let reason = format!("{} has a XenStore ring: {}", vm.name, ring.reason);
            make.channel(&Party::of(logic), &Party::of(vm), &Origin { line: ring.line, reason });
        }
        for grant in &vm.may {
            let name = format!("{:?}", grant.permission);
            let reason = format!("{} may {}: {}", vm.name, kebab(&name), grant.reason);
            make.permission(plan, vm, grant.permission, &Origin { line: grant.line, reason });
        }
    }
    for tenant in &plan.tenants {
        make.guests(plan, tenant);
    }
    make.rules.sort();
    make.rules.dedup();
    Policy {
        vectors,
        domain_types: make.domain_types,
        other_types: make.other_types,
        transitions: make.transitions,
        rules: make.rules,
        names: make.names,
    }
}

/// `BuildVms` -> `build-vms`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn channel_type(kind: Kind) -> String {
    format!("{}_channel_t", kind.stem())
}

/// What FLASK asks when a VM uses hardware: it depends on what the IOMMU can do, and more is allowed only where the manifest
/// does without one.
fn device_use(plan: &Plan) -> &'static [&'static str] {
    match plan.host.iommu {
        Iommu::Required => &["use_iommu"],
        Iommu::None(_) => &["use_iommu", "use_iommu_nointremap", "use_noiommu"],
    }
}

/// What Xen calls "the domain itself". Domain 0 gets its label from Xen without a transition: it is its own self.
fn self_type(kind: Kind) -> String {
    match kind {
        Kind::Bootstrapper => kind.running_type(),
        _ => format!("{}_self_t", kind.stem()),
    }
}

/// The labels under which a VM of `kind` runs: one, but for pciback, which starts with another.
fn running(kind: Kind) -> Vec<String> {
    let mut labels = vec![kind.running_type(), kind.starting_type()];
    labels.dedup();
    labels
}

/// The labels under which a VM of `kind` exists.
fn labels(kind: Kind) -> Vec<String> {
    let mut labels = running(kind);
    // Xen builds the bootstrapper, not one of ours.
    if kind != Kind::Bootstrapper {
        labels.push(kind.building_type());
    }
    labels
}

/// One side of a channel: the VM of a line in the manifest, or any guest of a tenant.
struct Party {
    /// The labels under which it runs.
    running: Vec<String>,
    /// These, and that under which it is built.
    labels: Vec<String>,
    /// The type of its ports.
    channel: String,
}

impl Party {
    fn of(vm: &Vm) -> Self {
        Self { running: running(vm.kind), labels: labels(vm.kind), channel: channel_type(vm.kind) }
    }

    fn guests_of(tenant: &Tenant) -> Self {
        let stem = format!("guest_{}", tenant.name.replace('-', "_"));
        let running = format!("{stem}_t");
        Self {
            labels: vec![running.clone(), format!("{stem}_building_t")],
            running: vec![running],
            channel: format!("{stem}_channel_t"),
        }
    }
}

struct Maker {
    rules: Vec<Rule>,
    transitions: BTreeSet<Transition>,
    domain_types: BTreeSet<String>,
    other_types: BTreeSet<String>,
    names: Vec<(String, BTreeSet<String>)>,
}

impl Maker {
    fn allow(
        &mut self,
        source: &str,
        target: &str,
        class: &'static str,
        permissions: &[&'static str],
        origin: &Origin,
    ) {
        self.rule(source, target, class, permissions, origin, false);
    }

    /// Refused as ever, but not logged: what Linux probes at every boot without needing it.
    fn refuse_silently(
        &mut self,
        source: &str,
        target: &str,
        class: &'static str,
        permissions: &[&'static str],
        origin: &Origin,
    ) {
        self.rule(source, target, class, permissions, origin, true);
    }

    fn rule(
        &mut self,
        source: &str,
        target: &str,
        class: &'static str,
        permissions: &[&'static str],
        origin: &Origin,
        silent_refusal: bool,
    ) {
        self.rules.push(Rule {
            source: source.to_owned(),
            target: target.to_owned(),
            class,
            permissions: permissions.iter().copied().collect(),
            silent_refusal,
            origin: origin.clone(),
        });
    }

    /// The types of a VM's kind and what every VM needs of its own.
    fn vm(&mut self, plan: &Plan, vm: &Vm) {
        let (me, channel) = (self_type(vm.kind), channel_type(vm.kind));
        let mut types = BTreeSet::from([me.clone(), channel.clone()]);
        for label in labels(vm.kind) {
            self.transition(&label, "domain_type", "event", &channel);
            types.insert(label);
        }
        self.domain_types.extend(types.iter().filter(|t| **t != channel).cloned());
        self.other_types.insert(channel);
        self.names.push((vm.name.clone(), types));
        for run in running(vm.kind) {
            if me != run {
                self.transition(&run, &run, "domain", &me);
            }
            self.own(vm, &run);
        }
        if vm.kind == Kind::Bootstrapper {
            self.domain_0(plan, vm);
        }
    }

    /// What every VM may do to itself, and what its kernel asks in vain.
    fn own(&mut self, vm: &Vm, run: &str) {
        let (me, channel) = (self_type(vm.kind), channel_type(vm.kind));
        let origin = Origin {
            line: vm.line,
            reason: format!("{} is a VM: its own memory, grants and events", vm.name),
        };
        self.allow(run, &me, "grant", &["setup", "query"], &origin);
        self.allow(
            run,
            &me,
            "mmu",
            &["adjust", "physmap", "map_read", "map_write", "stat", "pinpage", "updatemp", "mmuext_op"],
            &origin,
        );
        // Linux makes a port to itself for a XenStore of its own, if it is given none.
        self.allow(run, &channel, "event", &["create", "send", "status"], &origin);
        self.allow(&channel, &me, "event", &["bind"], &origin);
        // Linux prints them at boot and goes on without.
        self.refuse_silently(
            run,
            "xen_t",
            "version",
            &[
                "xen_extraversion",
                "xen_compile_info",
                "xen_capabilities",
                "xen_changeset",
                "xen_pagesize",
                "xen_guest_handle",
                "xen_commandline",
                "xen_build_id",
            ],
            &origin,
        );
        self.refuse_silently(run, "xen_t", "xen2", &["pmu_use"], &origin);
        self.refuse_silently(run, &me, "domain2", &["get_vnumainfo"], &origin);
    }

    /// What domain 0 needs because Xen and Linux treat it as the first domain.
    fn domain_0(&mut self, plan: &Plan, vm: &Vm) {
        let run = vm.kind.running_type();
        let because = |reason: &str| Origin { line: vm.line, reason: reason.to_owned() };
        let origin = because("Xen builds domain 0 at power-on");
        self.allow("xenboot_t", &run, "domain", &["create"], &origin);
        self.allow("xenboot_t", &channel_type(vm.kind), "event", &["create"], &origin);
        let origin = because("domain 0's kernel asks for the machine's memory map, or does not boot");
        self.allow(&run, "xen_t", "mmu", &["memorymap"], &origin);
        let origin = because("domain 0's kernel makes its own bounce buffers contiguous");
        self.allow(&run, &self_type(vm.kind), "mmu", &["exchange"], &origin);
        // Early quirks of Linux: disk geometry, and two PCI functions that AMD machines have. Xen keeps the time.
        self.refuse_silently(
            &run,
            "xen_t",
            "xen",
            &["firmware", "settime", "getcpuinfo", "readconsole"],
            &origin,
        );
        self.refuse_silently(&run, "device_t", "resource", device_use(plan), &origin);
    }

    fn transition(&mut self, source: &str, target: &str, class: &'static str, result: &str) {
        self.transitions.insert(Transition {
            source: source.to_owned(),
            target: target.to_owned(),
            class,
            result: result.to_owned(),
        });
    }

    /// The types of a tenant's guests. Every guest has a XenStore ring.
    fn guests(&mut self, plan: &Plan, tenant: &Tenant) {
        let guests = Party::guests_of(tenant);
        for label in &guests.labels {
            self.transition(label, "domain_type", "event", &guests.channel);
        }
        self.domain_types.extend(guests.labels.iter().cloned());
        self.other_types.insert(guests.channel.clone());
        let types = guests.labels.iter().chain([&guests.channel]).cloned().collect();
        self.names.push((format!("guests of {}", tenant.name), types));
        if let Some(logic) = plan.xenstore_logic() {
            let reason = format!("guests of {} have a XenStore ring, as every guest has", tenant.name);
            self.channel(&Party::of(logic), &guests, &Origin { line: tenant.line, reason });
        }
    }

    /// Event channels between `a` and `b`, opened by either. While a VM is being built the same holds, as source and as
    /// target: ports are made before it runs and re-bound while it is rebuilt.
    fn events(&mut self, a: &Party, b: &Party, origin: &Origin) {
        for (from, to) in [(a, b), (b, a)] {
            for run in &from.running {
                self.allow(run, &from.channel, "event", &["create", "send", "status"], origin);
            }
            for label in &to.labels {
                self.allow(&from.channel, label, "event", &["bind"], origin);
            }
        }
    }

    /// A channel, or a XenStore ring: `client` maps pages that `server` grants, and both send events.
    fn channel(&mut self, client: &Party, server: &Party, origin: &Origin) {
        self.events(client, server, origin);
        for client in &client.running {
            for server in &server.running {
                self.allow(client, server, "grant", &["map_read", "map_write", "unmap"], origin);
            }
        }
    }

    fn permission(&mut self, plan: &Plan, vm: &Vm, permission: Permission, origin: &Origin) {
        for run in running(vm.kind) {
            self.permission_of(&run, plan, vm, permission, origin);
        }
    }

    fn permission_of(&mut self, run: &str, plan: &Plan, vm: &Vm, permission: Permission, origin: &Origin) {
        match permission {
            Permission::BuildVms => {
                self.allow(run, "security_t", "security", &["check_context"], origin);
                for target in plan.vms.iter().filter(|target| builds(vm, target)) {
                    self.build(vm, target, origin);
                }
                // Who gives labels also seals: the last right to be taken from a VM is taken by Builder.
                for target in plan
                    .vms
                    .iter()
                    .filter(|target| vm.kind == Kind::Builder && running(target.kind).len() > 1)
                {
                    self.relabel(run, &target.kind.starting_type(), &target.kind.running_type(), origin);
                }
            }
            Permission::CreateHardwareDomain => {
                for target in plan.vms.iter().filter(|target| target.kind == Kind::Pciback) {
                    let building = target.kind.building_type();
                    self.allow(run, &building, "domain2", &["create_hardware_domain"], origin);
                    // One that could not be finished, or is not well, is shut down: this is how Xen stops the host.
                    for label in [building, target.kind.starting_type()] {
                        self.allow(run, &label, "domain", &["shutdown"], origin);
                    }
                }
            }
            Permission::DestroyBootstrapper => {
                for target in plan.vms.iter().filter(|target| target.kind == Kind::Bootstrapper) {
                    self.allow(run, &target.kind.running_type(), "domain", &["destroy"], origin);
                }
            }
            Permission::ListVms => {
                self.allow(run, "domain_type", "domain", &["getdomaininfo"], origin);
                self.allow(run, "xen_t", "xen", &["physinfo"], origin);
                self.allow(run, "security_t", "security", &["check_context"], origin);
            }
            Permission::HostEvents => {
                self.allow(run, &self_type(vm.kind), "domain", &["set_virq_handler"], origin);
            }
            Permission::ReadHostConsole => self.allow(run, "xen_t", "xen", &["readconsole"], origin),
            Permission::WriteHostConsole => self.allow(run, "xen_t", "xen", &["writeconsole"], origin),
            Permission::Hardware => self.hardware(run, plan, vm, origin),
            Permission::HostPower => self.allow(run, "xen_t", "xen", &["sleep"], origin),
            Permission::LendDevices => {
                for target in plan
                    .vms
                    .iter()
                    .filter(|target| target.may.iter().any(|g| g.permission == Permission::UseDevice))
                {
                    for label in labels(target.kind) {
                        self.allow(run, &label, "resource", &["add", "remove"], origin);
                    }
                }
            }
            Permission::UseDevice => {
                for label in labels(vm.kind) {
                    for resource in RESOURCES {
                        self.allow(&label, resource, "resource", device_use(plan), origin);
                    }
                }
            }
        }
    }

    /// `builder` makes, starts, stops and destroys `target`; it maps the target's memory only under the building label.
    fn build(&mut self, builder: &Vm, target: &Vm, origin: &Origin) {
        let by = builder.kind.running_type();
        let (building, starting) = (target.kind.building_type(), target.kind.starting_type());
        self.allow(
            &by,
            &building,
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
        self.allow(&by, &building, "domain2", &["resource_map"], origin);
        self.allow(
            &by,
            &building,
            "mmu",
            &["map_read", "map_write", "adjust", "pinpage", "updatemp", "mmuext_op"],
            origin,
        );
        self.relabel(&by, &building, &starting, origin);
        for running in running(target.kind) {
            self.allow(&by, &running, "domain", &["pause", "unpause", "destroy"], origin);
        }
        self.allow(&by, &channel_type(target.kind), "event", &["create"], origin);
        // The health port.
        self.events(&Party::of(builder), &Party::of(target), origin);
    }

    fn relabel(&mut self, by: &str, from: &str, to: &str, origin: &Origin) {
        self.allow(by, from, "domain2", &["relabelfrom"], origin);
        self.allow(by, to, "domain2", &["relabelto"], origin);
        self.allow(from, to, "domain", &["transition"], origin);
    }

    /// The hardware domain. What only its start needs goes to its starting type: Builder takes it away when it seals.
    fn hardware(&mut self, run: &str, plan: &Plan, vm: &Vm, origin: &Origin) {
        let me = self_type(vm.kind);
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
        if run == vm.kind.starting_type() {
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
