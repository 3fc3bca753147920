//! What each line of the manifest means in Xen's access vectors. The place to change a privilege.

mod guests;
mod party;
mod permissions;

use std::collections::BTreeSet;

use ennead_manifest::{Iommu, Kind, Plan, Vm};

use crate::vectors::Vectors;
use crate::{Origin, Policy, Rule, Transition};
use party::Party;

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
            let (client, server) = (Party::of(vm), Party::of(peer.0));
            let origin = Origin { line: peer.1.line, reason };
            // A tenant that held a page of Builder's would keep a dead Builder alive: here the client grants.
            if vm.tenant.is_some() && peer.0.kind == Kind::Builder {
                make.channel(&server, &client, &origin);
            } else {
                make.channel(&client, &server, &origin);
            }
        }
        if let (Some(ring), Some(logic)) = (&vm.xenstore, plan.xenstore_logic()) {
            let reason = format!("{} has a XenStore ring: {}", vm.name, ring.reason);
            make.channel(&Party::of(logic), &Party::of(vm), &Origin { line: ring.line, reason });
        }
        if let Some((network, backend)) = vm.network.as_ref().and_then(|n| Some((n, plan.vm(&n.backend)?))) {
            let reason = format!("{} is reached at {}, port {}", vm.name, network.address, network.port);
            let origin = Origin { line: network.line, reason };
            make.serves(&Party::of(backend), &Party::of(vm), &origin);
        }
        if vm.kind == Kind::XenstoreState && vm.successor_domid.is_some() {
            let reason = format!("{} hands what it knows over to its successor", vm.name);
            make.channel(&Party::of(vm), &Party::of(vm), &Origin { line: vm.line, reason });
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
    let tenants = plan.tenants.iter().map(|tenant| {
        let its = [tenant.toolstack.clone(), guests::name(tenant)];
        let named = make.names.iter().filter(|(name, _)| its.contains(name));
        named.flat_map(|(_, types)| types.clone()).collect()
    });
    Policy {
        vectors,
        domain_types: make.domain_types,
        other_types: make.other_types,
        transitions: make.transitions,
        rules: make.rules,
        tenants: tenants.collect(),
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

/// What FLASK asks when a VM uses hardware: it depends on what the IOMMU can do, and more is allowed only where the manifest
/// does without one.
fn device_use(plan: &Plan) -> &'static [&'static str] {
    match plan.host.iommu {
        Iommu::Required => &["use_iommu"],
        Iommu::None(_) => &["use_iommu", "use_iommu_nointremap", "use_noiommu"],
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

    /// A VM's types and what every VM needs of its own.
    fn vm(&mut self, plan: &Plan, vm: &Vm) {
        let party = Party::of(vm);
        self.declare(&vm.name, &party);
        let reason = format!("{} is a VM: its own memory, grants and events", vm.name);
        for run in &party.running {
            self.own(&party, run, &Origin { line: vm.line, reason: reason.clone() });
        }
        if vm.kind == Kind::Bootstrapper {
            self.domain_0(plan, vm);
        }
    }

    /// The types of a party, and what becomes of what.
    fn declare(&mut self, name: &str, party: &Party) {
        for label in &party.labels {
            self.transition(label, "domain_type", "event", &party.channel);
        }
        for run in party.running.iter().filter(|run| **run != party.me) {
            self.transition(run, run, "domain", &party.me);
        }
        let domains: BTreeSet<_> = party.labels.iter().chain([&party.me]).cloned().collect();
        self.other_types.insert(party.channel.clone());
        self.domain_types.extend(domains.iter().cloned());
        self.names.push((name.to_owned(), domains.into_iter().chain([party.channel.clone()]).collect()));
    }

    /// What every VM may do to itself, and what its kernel asks in vain.
    fn own(&mut self, party: &Party, run: &str, origin: &Origin) {
        let Party { me, channel, .. } = party;
        self.allow(run, me, "grant", &["setup", "query"], origin);
        self.allow(
            run,
            me,
            "mmu",
            &["adjust", "physmap", "map_read", "map_write", "stat", "pinpage", "updatemp", "mmuext_op"],
            origin,
        );
        // Linux makes a port to itself for a XenStore of its own, if it is given none.
        self.allow(run, channel, "event", &["create", "send", "status"], origin);
        self.allow(channel, me, "event", &["bind"], origin);
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
            origin,
        );
        self.refuse_silently(run, "xen_t", "xen2", &["pmu_use"], origin);
        self.refuse_silently(run, me, "domain2", &["get_vnumainfo"], origin);
    }

    /// What domain 0 needs because Xen and Linux treat it as the first domain.
    fn domain_0(&mut self, plan: &Plan, vm: &Vm) {
        let Party { starting: run, me, channel, .. } = Party::of(vm);
        let because = |reason: &str| Origin { line: vm.line, reason: reason.to_owned() };
        let origin = because("Xen builds domain 0 at power-on");
        self.allow("xenboot_t", &run, "domain", &["create"], &origin);
        self.allow("xenboot_t", &channel, "event", &["create"], &origin);
        let origin = because("domain 0's kernel asks for the machine's memory map, or does not boot");
        self.allow(&run, "xen_t", "mmu", &["memorymap"], &origin);
        let origin = because("domain 0's kernel makes its own bounce buffers contiguous");
        self.allow(&run, &me, "mmu", &["exchange"], &origin);
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
}
