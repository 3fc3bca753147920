//! Tenants, their toolstacks and their guests.

use std::collections::BTreeMap;

use super::Vms;
use crate::plan::Kind;
use crate::raw::{Raw, RawTenant};
use crate::report::{Errors, Span, code, suggest};

pub(super) fn check(raw: &Raw, vms: &Vms<'_>, errors: &mut Errors<'_>) {
    let mut toolstacks: BTreeMap<&str, (&RawTenant, Span)> = BTreeMap::new();
    for tenant in &raw.tenants {
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
