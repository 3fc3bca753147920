//! A toolstack's own network interface.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Vms;
use crate::plan::Kind;
use crate::raw::{Raw, RawNetwork, RawVm};
use crate::report::{Errors, Span, code, suggest};
use crate::rules::printable;
use crate::table::At;

pub(super) fn check(raw: &Raw, vms: &Vms<'_>, errors: &mut Errors<'_>) {
    let mut taken: BTreeMap<Ipv4Addr, (&RawVm, Span)> = BTreeMap::new();
    for vm in &raw.vms {
        let Some(network) = &vm.network else { continue };
        if let Some(kind) = vm.kind.as_ref().filter(|kind| kind.value != Kind::Toolstack) {
            errors.at(
                network.span,
                format!("{} has a `network`, but is of kind `{}`", code(&vm.name.value), kind.value),
                "take it out: only a VM of kind `toolstack` has one, for its operators",
            );
        }
        backend_serves(raw, vms, vm, network, errors);
        let Some(address) = address(network, errors) else { continue };
        if let (Some((other, first)), Some(at)) = (taken.get(&address), &network.address) {
            errors.between(
                at.span,
                (*first, format!("`network` of {}", code(&other.name.value))),
                format!("The address {address} is taken twice"),
                "give each VM its own",
            );
        } else if let Some(at) = &network.address {
            taken.insert(address, (vm, at.span));
        }
    }
}

/// Its backend is one of its tenant's: XenStore lets a toolstack write there and nowhere else.
fn backend_serves(raw: &Raw, vms: &Vms<'_>, vm: &RawVm, network: &RawNetwork, errors: &mut Errors<'_>) {
    let Some(at) = &network.backend else { return };
    let serves = |vm: &RawVm| vm.kind.as_ref().is_none_or(|kind| kind.value == Kind::Netback);
    let word = at.value.as_str();
    let candidates = || vms.all.iter().filter(|vm| serves(vm)).map(|vm| vm.name.value.as_str());
    let name = code(&vm.name.value);
    match vms.get(word) {
        None => {
            let message =
                format!("The network of {name} is served by {}, which is not a VM of this host", code(word));
            errors.at(at.span, message, suggest(word, "VM", candidates()));
        }
        Some(backend) if !serves(backend) => {
            let message =
                format!("The network of {name} is served by {}, which serves no network", code(word));
            errors.at(at.span, message, suggest(word, "VM", candidates()));
        }
        Some(_) => {
            let Some(tenant) = raw.tenant_of(vm) else { return };
            if !tenant.backends.iter().any(|backend| backend.key.value == word) {
                let tenant = printable(&tenant.name.value);
                errors.at(
                    at.span,
                    format!(
                        "The network of {name} is served by {}, which is no backend of tenant {}",
                        code(word),
                        code(&tenant)
                    ),
                    format!("add `{} = \"why\"` in `[tenant.{tenant}.backends]`", printable(word)),
                );
            }
        }
    }
}

/// The address, if it is one.
fn address(network: &RawNetwork, errors: &mut Errors<'_>) -> Option<Ipv4Addr> {
    let gateway = network.gateway.as_ref().and_then(|at| gateway(at, errors));
    let at = network.address.as_ref()?;
    let parsed = at.value.split_once('/').and_then(|(address, prefix)| {
        let prefix: u32 = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix))?;
        Some((address.parse::<Ipv4Addr>().ok()?, u32::MAX.checked_shl(32 - prefix)?))
    });
    let Some((address, mask)) = parsed else {
        let message =
            format!("{} is no IPv4 address with the length of its network's prefix", code(&at.value));
        errors.at(at.span, message, "write for example `address = \"10.0.2.40/24\"`");
        return None;
    };
    let host = address.to_bits() & !mask;
    if host == 0 || host == !mask {
        let message = format!("{address} is the address of the whole network, or of all in it");
        errors.at(at.span, message, "write one between the two");
    }
    if let (Some(gateway), Some(place)) = (gateway, &network.gateway)
        && (gateway == address || (gateway.to_bits() ^ address.to_bits()) & mask != 0)
    {
        let message = format!("The gateway {gateway} is not a neighbour of {}", at.value);
        errors.at(place.span, message, "write the address of a router in the same network");
    }
    Some(address)
}

fn gateway(at: &At<String>, errors: &mut Errors<'_>) -> Option<Ipv4Addr> {
    let gateway = at.value.parse().ok();
    if gateway.is_none() {
        let message = format!("{} is no IPv4 address", code(&at.value));
        errors.at(at.span, message, "write for example `gateway = \"10.0.2.2\"`");
    }
    gateway
}
