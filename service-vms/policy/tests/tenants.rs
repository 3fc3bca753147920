//! Tenants: what a toolstack and guests may do, and that two tenants cannot reach each other. `UPDATE_EXPECT=1 cargo test`
//! writes the expected explanations anew: read the difference.

use std::collections::BTreeSet;

use ennead_manifest::{Plan, Tenant};
use ennead_policy::{Policy, Rule, XenVectors};
use expect_test::expect_file;

const MANIFEST: &str = include_str!("../../manifest/tests/tenants.toml");

fn plan() -> Plan {
    ennead_manifest::check("host.toml", MANIFEST).unwrap_or_else(|report| panic!("{report}"))
}

fn policy() -> Policy {
    let vectors = XenVectors {
        security_classes: include_str!("vectors/security_classes"),
        initial_sids: include_str!("vectors/initial_sids"),
        access_vectors: include_str!("vectors/access_vectors"),
    };
    Policy::new(&plan(), &vectors).expect("a policy")
}

/// Rules of these types towards those; no silent refusals.
fn between<'p>(
    policy: &'p Policy,
    from: impl Fn(&str) -> bool + 'p,
    to: impl Fn(&str) -> bool + 'p,
) -> Vec<&'p Rule> {
    let rules = policy.rules().iter().filter(|rule| !rule.silent_refusal);
    rules.filter(|rule| from(&rule.source) && to(&rule.target)).collect()
}

fn is_of(tenant: &str) -> impl Fn(&str) -> bool + use<> {
    let (toolstack, guest) = (format!("toolstack_{tenant}_"), format!("guest_{tenant}_"));
    move |t| t.starts_with(&toolstack) || t.starts_with(&guest)
}

#[test]
fn why_a_toolstack_and_builder_reach_guests() {
    let policy = policy();
    let explain = |a, b| policy.explain(a, b).expect("both are there").to_string();
    let pairs = [
        ("toolstack-acme", "guests of acme"),
        ("toolstack-acme", "guests of beta"),
        ("toolstack-acme", "toolstack-beta"),
        ("guests of acme", "guests of beta"),
        ("guests of acme", "guests of acme"),
        ("guests of acme", "toolstack-acme"),
        ("builder", "guests of acme"),
        ("bootstrapper", "guests of acme"),
        ("xenstore-logic", "guests of acme"),
        ("toolstack-acme", "builder"),
    ];
    let text: Vec<_> =
        pairs.iter().map(|(a, b)| format!("# explain {a:?} {b:?}\n{}", explain(a, b))).collect();
    expect_file!["tenants.txt"].assert_eq(&text.join("\n"));
}

#[test]
fn no_rule_leads_from_one_tenant_to_another() {
    let policy = policy();
    for (from, to) in [("acme", "beta"), ("beta", "acme")] {
        let rules = between(&policy, is_of(from), is_of(to));
        assert!(rules.is_empty(), "{rules:?}");
        // The test can fail: within a tenant there are some.
        assert!(!between(&policy, is_of(from), is_of(from)).is_empty());
    }
}

#[test]
fn what_all_vms_are_asked_for_is_not_asked_by_tenants() {
    let policy = policy();
    for tenant in ["acme", "beta"] {
        assert_eq!(between(&policy, is_of(tenant), |t| t == "domain_type"), Vec::<&Rule>::new());
    }
}

#[test]
fn a_toolstack_has_no_power_over_any_vm() {
    let policy = policy();
    let rules = between(&policy, |t| t == "toolstack_acme_t", |_| true);
    assert!(rules.iter().all(|rule| ["grant", "mmu", "event"].contains(&rule.class)), "{rules:?}");
    let mmu = rules.iter().filter(|rule| rule.class == "mmu");
    assert!(mmu.clone().count() > 0 && mmu.clone().all(|rule| rule.target == "toolstack_acme_self_t"));
}

#[test]
fn only_builder_makes_guests_and_nobody_maps_one_that_runs() {
    let policy = policy();
    let makers = |class: &str, permission: &str| -> BTreeSet<_> {
        let to_guests = between(&policy, |_| true, |t| t.starts_with("guest_"));
        let rules = to_guests.into_iter().filter(|r| r.class == class && r.permissions.contains(permission));
        rules.map(|rule| (rule.source.clone(), rule.target.clone())).collect()
    };
    let builder = |phase: &str| -> BTreeSet<_> {
        let of = |tenant: &str| ("builder_t".to_owned(), format!("guest_{tenant}{phase}_t"));
        BTreeSet::from([of("acme"), of("beta")])
    };
    for permission in ["create", "setvcpucontext", "setpagingmempool", "max_vcpus", "hypercall"] {
        assert_eq!(makers("domain", permission), builder("_building"), "{permission}");
    }
    for permission in ["pause", "unpause", "shutdown"] {
        assert_eq!(makers("domain", permission), builder(""), "{permission}");
    }
    for permission in ["sethvmc", "gethvmc"] {
        assert_eq!(makers("hvm", permission), builder("_building"), "{permission}");
    }
    let mut mapping = builder("_building");
    for tenant in ["acme", "beta"] {
        mapping.insert((format!("guest_{tenant}_t"), format!("guest_{tenant}_self_t")));
    }
    assert_eq!(makers("mmu", "map_write"), mapping);
}

#[test]
fn checkpolicy_will_refuse_what_joins_tenants() {
    let text = policy().source().expect("all SIDs are known");
    let refused: Vec<_> = text.lines().filter(|line| line.starts_with("neverallow")).collect();
    let apart = |from: &str, to: &str| {
        refused.iter().any(|line| {
            let mut sides = line.split('}');
            let mut names = |t: &str| sides.next().is_some_and(|side| side.split(' ').any(|word| word == t));
            names(from) && names(to)
        })
    };
    for types in
        ["guest_{}_t", "guest_{}_self_t", "guest_{}_channel_t", "toolstack_{}_t", "toolstack_{}_building_t"]
    {
        assert!(apart(&types.replace("{}", "acme"), "guest_beta_t"), "{types}");
        assert!(apart("toolstack_beta_t", &types.replace("{}", "acme")), "{types}");
    }
    assert!(!apart("guest_acme_t", "guest_acme_self_t"));
}

#[test]
fn a_tenants_name_is_in_the_types_of_its_vms_only() {
    let Plan { vms, tenants, .. } = plan();
    let types: Vec<_> = vms.iter().map(ennead_manifest::Vm::running_type).collect();
    let all: BTreeSet<_> =
        types.iter().cloned().chain(tenants.iter().map(Tenant::guest_running_type)).collect();
    assert_eq!(all.len(), vms.len() + tenants.len());
}
