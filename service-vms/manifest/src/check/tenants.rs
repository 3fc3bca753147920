//! Tenants, their toolstacks and their guests.

use std::collections::BTreeMap;

use super::Vms;
use super::xenstore::needs_channel;
use crate::plan::Kind;
use crate::raw::{Raw, RawTenant, RawVm};
use crate::report::{Errors, Span, code, suggest};
use crate::rules::{MAX_BACKENDS, is_type_ending, printable};

pub(super) fn check(raw: &Raw, vms: &Vms<'_>, errors: &mut Errors<'_>) {
    toolstacks_are_complete(raw, vms, errors);
    let mut toolstacks: BTreeMap<&str, (&RawTenant, Span)> = BTreeMap::new();
    for tenant in &raw.tenants {
        if is_type_ending(&tenant.name.value) {
            errors.at(
                tenant.name.span,
                format!("{} is no name for a tenant", code(&tenant.name.value)),
                "take one that does not end in `building`, `starting`, `self` or `channel`: types of the policy end so",
            );
        }
        let Some(toolstack) = &tenant.toolstack else { continue };
        let (name, word) = (code(&tenant.name.value), toolstack.value.as_str());
        let candidates =
            || vms.all.iter().filter(|vm| vm.is(Kind::Toolstack)).map(|vm| vm.name.value.as_str());
        match vms.get(word) {
            None => {
                let message =
                    format!("The toolstack {} of tenant {name} is not a VM of this host", code(word));
                errors.at(toolstack.span, message, suggest(word, "toolstack", candidates()));
            }
            Some(vm) => {
                if let Some(kind) = vm.kind.as_ref().filter(|kind| kind.value != Kind::Toolstack) {
                    let message =
                        format!("The toolstack {} of tenant {name} is of kind `{}`", code(word), kind.value);
                    errors.at(toolstack.span, message, suggest(word, "toolstack", candidates()));
                }
            }
        }
        if let Some((first, span)) = toolstacks.get(word) {
            errors.between(
                toolstack.span,
                (*span, format!("tenant {}", code(&first.name.value))),
                format!("Tenants {} and {name} have one toolstack, {}", code(&first.name.value), code(word)),
                "give each tenant a toolstack of its own: that is what keeps them apart",
            );
        } else {
            toolstacks.insert(word, (tenant, toolstack.span));
        }
    }
    backends_serve_devices(raw, vms, errors);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for guest in &raw.guests {
        let Some(at) = &guest.tenant else { continue };
        let name = code(&guest.name.value);
        let Some(tenant) = raw.tenants.iter().find(|tenant| tenant.name.value == at.value) else {
            let message = format!("Guest {name} has the unknown tenant {}", code(&at.value));
            let names = raw.tenants.iter().map(|tenant| tenant.name.value.as_str());
            errors.at(at.span, message, suggest(&at.value, "tenant", names));
            continue;
        };
        let count = counts.entry(at.value.as_str()).or_default();
        *count = count.saturating_add(1);
        if let Some(limit) = tenant.guests.as_ref().filter(|limit| *count > limit.value) {
            errors.between(
                at.span,
                (limit.span, "the limit".to_owned()),
                format!(
                    "Guest {name} is number {count} of tenant {}, which may have {}",
                    code(&at.value),
                    limit.value
                ),
                "raise `guests` of the tenant, or start this guest later",
            );
        }
    }
}

/// A tenant's backends are VMs that serve disks or NICs, and as many as its toolstack is told of.
fn backends_serve_devices(raw: &Raw, vms: &Vms<'_>, errors: &mut Errors<'_>) {
    let serves = |vm: &RawVm| vm.kind.as_ref().is_none_or(|kind| kind.value.device().is_some());
    for tenant in &raw.tenants {
        let name = code(&tenant.name.value);
        for backend in &tenant.backends {
            let word = backend.key.value.as_str();
            let message = match vms.get(word) {
                Some(vm) if serves(vm) => continue,
                Some(_) => {
                    format!("The backend {} of tenant {name} serves neither disks nor NICs", code(word))
                }
                None => format!("The backend {} of tenant {name} is not a VM of this host", code(word)),
            };
            let candidates = vms.all.iter().filter(|vm| serves(vm)).map(|vm| vm.name.value.as_str());
            errors.at(backend.key.span, message, suggest(word, "backend", candidates));
        }
        if let Some(more) = tenant.backends.get(MAX_BACKENDS) {
            let message =
                format!("Tenant {name} has {} backends, more than {MAX_BACKENDS}", tenant.backends.len());
            errors.at(more.key.span, message, "take some out");
        }
    }
}

/// Each toolstack has a tenant, and what it needs to serve it. (One that runs another program, as tests do, is none.)
fn toolstacks_are_complete(raw: &Raw, vms: &Vms<'_>, errors: &mut Errors<'_>) {
    let builder = vms.all.iter().find(|vm| vm.is(Kind::Builder));
    let toolstacks = || vms.all.iter().filter(|vm| vm.is(Kind::Toolstack));
    // A tenant whose toolstack is not known is reported; this one may be meant.
    let all_known = toolstacks().filter(|vm| raw.tenant_of(vm).is_some()).count() == raw.tenants.len();
    for vm in toolstacks() {
        let name = code(&vm.name.value);
        let own = vm.program.as_ref().is_none_or(|program| program.value == Kind::Toolstack.as_str());
        match (raw.tenant_of(vm), builder) {
            (Some(_), Some(builder)) => {
                needs_channel(vm, builder, "it asks it to build its tenant's guests", errors);
            }
            (None, _) if own && all_known => errors.at(
                vm.name.span,
                format!("{name} is a toolstack, but no tenant's"),
                format!("add `[tenant.NAME]` with `toolstack = \"{}\"`", printable(&vm.name.value)),
            ),
            _ => {}
        }
        if raw.tenant_of(vm).is_some() && vm.xenstore.is_none() {
            errors.at(
                vm.name.span,
                format!("{name} has no XenStore ring, but it writes there what its tenant's guests find"),
                format!("write `xenstore = \"why\"` in `[vm.{}]`", printable(&vm.name.value)),
            );
        }
    }
}
