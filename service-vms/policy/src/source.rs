//! The policy as text for checkpolicy.

use std::fmt::Write as _;

use ennead_manifest::context;

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
    vec![
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
    ]
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}
