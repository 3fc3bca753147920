//! The policy of the manifest that Ennead ships, checked as text and as rules.

use ennead_manifest::{Kind, Plan};
use ennead_policy::{Policy, XenVectors};

/// Stands for Xen's own headers, which are not ours to ship: the same classes, and of the permissions those that rules name.
const SECURITY_CLASSES: &str = include_str!("vectors/security_classes");
const INITIAL_SIDS: &str = include_str!("vectors/initial_sids");
const ACCESS_VECTORS: &str = include_str!("vectors/access_vectors");

fn shipped() -> Plan {
    ennead_manifest::check("host.toml", include_str!("../../../images/host.toml"))
        .expect("the shipped manifest is valid")
}

fn policy() -> Policy {
    policy_of(&shipped())
}

fn policy_of(plan: &Plan) -> Policy {
    let vectors = XenVectors {
        security_classes: SECURITY_CLASSES,
        initial_sids: INITIAL_SIDS,
        access_vectors: ACCESS_VECTORS,
    };
    Policy::new(plan, &vectors).expect("a policy")
}

#[test]
fn nobody_maps_the_memory_of_a_vm_that_runs() {
    let running = [Kind::Builder, Kind::Pciback, Kind::XenstoreState, Kind::XenstoreLogic]
        .map(|kind| [kind.running_type(), kind.starting_type()])
        .concat();
    let policy = policy();
    let mapping: Vec<_> =
        policy.rules().iter().filter(|rule| running.contains(&rule.target) && rule.class == "mmu").collect();
    assert!(mapping.is_empty(), "{mapping:?}");
}

#[test]
fn what_pciback_needs_to_start_is_gone_once_it_is_sealed() {
    let policy = policy();
    let may = |source: &str, class: &str, permission: &str| {
        policy.rules().iter().any(|rule| {
            rule.source == source
                && rule.class == class
                && rule.permissions.contains(permission)
                && !rule.silent_refusal
        })
    };
    for (class, permission) in [
        ("xen", "firmware"),
        ("xen", "readapic"),
        ("mmu", "memorymap"),
        ("mmu", "exchange"),
        ("resource", "plug"),
    ] {
        assert!(may("pciback_starting_t", class, permission), "{class} {permission}");
        assert!(!may("pciback_t", class, permission), "{class} {permission}");
    }
    assert!(may("pciback_t", "xen", "sleep"));
    // What it lends it resets, which takes the BARs and the interrupt's route away.
    assert_eq!(
        pairs(&policy, "resource", "setup")
            .into_iter()
            .filter(|(who, _)| who == "pciback_t")
            .collect::<Vec<_>>(),
        own(&[("pciback_t", "device_t"), ("pciback_t", "irq_t")])
    );
}

#[test]
fn a_driver_vm_uses_devices_and_only_pciback_hands_them_on() {
    let policy = policy();
    for resource in ["device_t", "irq_t", "ioport_t", "iomem_t"] {
        let users: Vec<_> = pairs(&policy, "resource", "use_iommu")
            .into_iter()
            .filter(|(_, what)| what == resource)
            .collect();
        for label in ["blkback_t", "blkback_building_t", "netback_t", "netback_building_t", "pciback_t"] {
            assert!(users.contains(&(label.to_owned(), resource.to_owned())), "{label} {resource}");
        }
        assert!(users.iter().all(|(who, _)| !who.starts_with("builder") && !who.starts_with("guest")));
    }
    let lenders: Vec<_> =
        pairs(&policy, "resource", "add").into_iter().filter(|(_, to)| to == "blkback_t").collect();
    assert_eq!(lenders, own(&[("pciback_starting_t", "blkback_t"), ("pciback_t", "blkback_t")]));
}

#[test]
fn only_the_bootstrapper_and_builder_create_domains() {
    let policy = policy();
    let mut creators: Vec<_> =
        policy.rules().iter().filter(|r| r.permissions.contains("create") && r.class == "domain").collect();
    creators.retain(|r| r.source != "xenboot_t");
    let pairs: Vec<_> = creators.iter().map(|r| (r.source.as_str(), r.target.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("bootstrapper_t", "builder_building_t"),
            ("bootstrapper_t", "pciback_building_t"),
            ("bootstrapper_t", "xenstore_logic_building_t"),
            ("bootstrapper_t", "xenstore_state_building_t"),
            ("builder_t", "blkback_building_t"),
            ("builder_t", "builder_building_t"),
            ("builder_t", "guest_main_building_t"),
            ("builder_t", "netback_building_t"),
            ("builder_t", "toolstack_main_building_t"),
            ("builder_t", "xenstore_logic_building_t"),
            ("builder_t", "xenstore_state_building_t"),
        ]
    );
}

#[test]
fn nobody_may_change_the_policy() {
    for rule in policy().rules().iter().filter(|rule| rule.class == "security") {
        assert_eq!(rule.permissions.iter().copied().collect::<Vec<_>>(), ["check_context"], "{rule:?}");
    }
}

#[test]
fn every_rule_names_a_line_of_the_manifest() {
    let lines =
        u32::try_from(include_str!("../../../images/host.toml").lines().count()).expect("a short file");
    for rule in policy().rules().iter().filter(|rule| rule.source != "xen_t") {
        assert!((1..=lines).contains(&rule.origin.line), "{rule:?}");
    }
}

#[test]
fn explain_names_the_line_and_the_reason() {
    let text = policy().explain("builder", "bootstrapper").expect("both are there").to_string();
    assert!(text.contains("builder may destroy-bootstrapper: the end of domain 0"), "{text}");
    assert!(text.contains("builder_t -> bootstrapper_t : domain { destroy }"), "{text}");
    assert!(text.contains("builder may list-vms: answers `list`, notices dead VMs"), "{text}");
    let nothing = policy().explain("pciback", "bootstrapper").expect("both are there").to_string();
    assert!(!nothing.contains("domain {"), "{nothing}");
    assert!(policy().explain("pciback", "nobody").expect_err("unknown").to_string().contains("there are: "));
}

/// Who may use `permission` of `class` on what.
fn pairs(policy: &Policy, class: &str, permission: &str) -> Vec<(String, String)> {
    let rules = policy.rules().iter().filter(|r| r.class == class && r.permissions.contains(permission));
    let mut pairs: Vec<_> = rules.map(|rule| (rule.source.clone(), rule.target.clone())).collect();
    pairs.sort();
    pairs.dedup();
    pairs
}

fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn pages_are_mapped_along_channels_and_rings_only() {
    assert_eq!(
        pairs(&policy(), "grant", "map_write"),
        own(&[
            ("blkback_t", "guest_main_t"),
            ("bootstrapper_t", "xenstore_state_t"),
            ("builder_t", "pciback_starting_t"),
            ("builder_t", "pciback_t"),
            ("builder_t", "toolstack_main_t"),
            ("builder_t", "xenstore_state_t"),
            ("netback_t", "guest_main_t"),
            ("netback_t", "toolstack_main_t"),
            // Configuration space of what it lends.
            ("pciback_starting_t", "blkback_t"),
            ("pciback_starting_t", "netback_t"),
            ("pciback_t", "blkback_t"),
            ("pciback_t", "netback_t"),
            ("toolstack_main_t", "guest_main_t"),
            ("toolstack_main_t", "pciback_starting_t"),
            ("toolstack_main_t", "pciback_t"),
            ("xenstore_logic_t", "blkback_t"),
            ("xenstore_logic_t", "guest_main_t"),
            ("xenstore_logic_t", "netback_t"),
            ("xenstore_logic_t", "pciback_starting_t"),
            ("xenstore_logic_t", "pciback_t"),
            ("xenstore_logic_t", "toolstack_main_t"),
            ("xenstore_logic_t", "xenstore_state_t"),
            // To its successor, which runs under the same label and another domid; itself is another label.
            ("xenstore_state_t", "xenstore_state_t"),
        ])
    );
}

#[test]
fn a_ring_is_explained_by_its_line() {
    let text = policy().explain("xenstore-logic", "pciback").expect("both are there").to_string();
    assert!(text.contains("pciback has a XenStore ring: publishes the controllers that it found"), "{text}");
    assert!(text.contains("xenstore_logic_t -> pciback_t : grant { map_read map_write unmap }"), "{text}");
    // Its port is made while it is built.
    assert!(text.contains("xenstore_logic_channel_t -> pciback_building_t : event { bind }"), "{text}");
    let back = policy().explain("pciback", "xenstore-logic").expect("both are there").to_string();
    assert!(back.contains("pciback_channel_t -> xenstore_logic_building_t : event { bind }"), "{back}");
    assert!(!back.contains("grant"), "{back}");
    let none = policy().explain("xenstore-state", "pciback").expect("both are there").to_string();
    assert!(none.contains("may do nothing to pciback"), "{none}");
}

#[test]
fn every_guest_has_a_ring_and_nobody_maps_its_memory() {
    let text = include_str!("../../manifest/tests/tenants.toml").replace("acme", "acme-1");
    let plan = ennead_manifest::check("host.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    let policy = policy_of(&plan);
    let mapped = pairs(&policy, "grant", "map_write");
    let on_guests = mapped.iter().filter(|(_, target)| target.starts_with("guest_acme"));
    let who: Vec<_> = on_guests.map(|(source, target)| (source.as_str(), target.as_str())).collect();
    assert_eq!(who, [("toolstack_acme_1_t", "guest_acme_1_t"), ("xenstore_logic_t", "guest_acme_1_t")]);
    let text = policy.explain("xenstore-logic", "guests of acme-1").expect("both are there").to_string();
    assert!(text.contains("guests of acme-1 have a XenStore ring"), "{text}");
    assert!(text.contains("xenstore_logic_channel_t -> guest_acme_1_building_t : event { bind }"), "{text}");
    // What checkpolicy will refuse a rule against.
    let source = policy.source().expect("all SIDs are known");
    let forbidden = source.lines().find(|line| line.starts_with("neverallow") && line.contains("map_read"));
    assert!(forbidden.is_some_and(|line| line.contains("guest_acme_1_t")), "{forbidden:?}");
}
