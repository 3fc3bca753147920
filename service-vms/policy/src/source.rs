//! The policy as text for checkpolicy.

use std::fmt::Write as _;

use ennead_manifest::{Kind, context};

use crate::{Error, Policy};

/// Type of each initial SID (a label that the hypervisor has before any policy names one).
fn initial_type(sid: &str) -> Option<&'static str> {
    Some(match sid {
        "xenboot" => "xenboot_t",
        "xen" => "xen_t",
        // Domain 0 is the bootstrapper.
        "dom0" => "bootstrapper_t",
        "domio" => "domio_t",
        "domxen" => "domxen_t",
        "unlabeled" => "unlabeled_t",
        "security" => "security_t",
        "ioport" => "ioport_t",
        "iomem" => "iomem_t",
        "irq" => "irq_t",
        "device" => "device_t",
        // A domain made without a label: may do nothing.
        "domU" | "domDM" => "unlabeled_t",
        _ => return None,
    })
}

pub(crate) fn text(policy: &Policy) -> Result<String, Error> {
    let mut out = String::new();
    let vectors = &policy.vectors;
    for class in &vectors.classes {
        line(&mut out, format_args!("class {class}"));
    }
    for sid in &vectors.initial_sids {
        line(&mut out, format_args!("sid {sid}"));
    }
    for class in &vectors.classes {
        let permissions = vectors.permissions.get(class).map(|p| p.join(" ")).unwrap_or_default();
        line(&mut out, format_args!("class {class} {{ {permissions} }}"));
    }
    line(&mut out, format_args!("attribute domain_type;"));
    for name in &policy.domain_types {
        line(&mut out, format_args!("type {name}, domain_type;"));
    }
    for name in &policy.other_types {
        line(&mut out, format_args!("type {name};"));
    }
    for t in &policy.transitions {
        line(&mut out, format_args!("type_transition {} {}:{} {};", t.source, t.target, t.class, t.result));
    }
    for assertion in assertions(policy) {
        line(&mut out, format_args!("neverallow {assertion};"));
    }
    for rule in &policy.rules {
        let permissions = rule.permissions.iter().copied().collect::<Vec<_>>().join(" ");
        let verb = if rule.silent_refusal { "dontaudit" } else { "allow" };
        line(&mut out, format_args!("# line {}: {}", rule.origin.line, rule.origin.reason));
        line(
            &mut out,
            format_args!("{verb} {} {}:{} {{ {permissions} }};", rule.source, rule.target, rule.class),
        );
    }
    let types: Vec<&str> =
        policy.domain_types.iter().chain(&policy.other_types).map(String::as_str).collect();
    line(&mut out, format_args!("role system_r;\nrole system_r types {{ {} }};", types.join(" ")));
    line(&mut out, format_args!("user system_u roles {{ system_r }};"));
    for sid in &vectors.initial_sids {
        let type_name = initial_type(sid).ok_or_else(|| Error::UnknownSid(sid.clone()))?;
        line(&mut out, format_args!("sid {sid} {}", context(type_name)));
    }
    Ok(out)
}

/// What no rule may ever allow, whatever the manifest says: checkpolicy refuses a policy that does.
fn assertions(policy: &Policy) -> Vec<String> {
    let running: Vec<&str> = policy.running_types().collect();
    let mut all = vec![
        // Once a VM runs, nobody maps its memory or changes its page tables.
        format!(
            "domain_type {{ {} }}:mmu {{ map_read map_write remote_remap target_hack adjust physmap }}",
            running.join(" ")
        ),
        format!(
            "domain_type {{ {} }}:domain {{ create hypercall setvcpucontext setdebugging }}",
            running.join(" ")
        ),
        // Nobody changes the rules.
        "domain_type security_t:security { load_policy setenforce setbool setsecparam }".to_owned(),
        // Nobody but a builder's hands makes a VM what it is.
        "domain_type domain_type:domain set_target".to_owned(),
    ];
    all.extend(tenants_apart(policy));
    all
}

/// Tenants reach nothing of each other, and ask Builder for what is done to VMs.
fn tenants_apart(policy: &Policy) -> Vec<String> {
    let join = |types: &[&String]| types.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" ");
    let mut all = Vec::new();
    for own in &policy.tenants {
        let others: Vec<_> = policy.tenants.iter().filter(|other| *other != own).flatten().collect();
        if !others.is_empty() {
            let (own, others) = (join(&own.iter().collect::<Vec<_>>()), join(&others));
            all.push(format!("{{ {own} }} {{ {others} }}:{{ {} }} *", policy.vectors.classes.join(" ")));
        }
    }
    let of_a_tenant = |t: &&str| policy.tenants.iter().any(|types| types.contains(*t));
    let running: Vec<&str> = policy.running_types().filter(of_a_tenant).collect();
    if !running.is_empty() {
        all.push(format!("{{ {} }} domain_type:{{ domain domain2 shadow }} *", running.join(" ")));
        // Nor do they hold pages of those who would stay alive by that.
        let never_held = [Kind::Builder, Kind::XenstoreState].map(Kind::running_type);
        let held: Vec<&str> =
            never_held.iter().filter(|t| policy.domain_types.contains(*t)).map(String::as_str).collect();
        if !held.is_empty() {
            all.push(format!("{{ {} }} {{ {} }}:grant *", running.join(" "), held.join(" ")));
        }
    }
    all
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}
