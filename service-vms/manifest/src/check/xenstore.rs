//! XenStore: its two halves, the VMs with a ring, and those that announce them.

use super::Vms;
use crate::plan::Kind;
use crate::raw::RawVm;
use crate::report::{Errors, code};
use crate::rules::printable;

pub(super) fn check(vms: &Vms<'_>, order: &[usize], errors: &mut Errors<'_>) {
    let all_known = vms.all.iter().all(|vm| vm.kind.is_some());
    let state = of_kind(vms, Kind::XenstoreState);
    let logic = of_kind(vms, Kind::XenstoreLogic);
    let place = |vm: &RawVm| {
        order.iter().position(|index| vms.all.get(*index).is_some_and(|at| at.name.value == vm.name.value))
    };
    if let Some(logic) = logic {
        match state {
            None if all_known => errors.at(
                logic.name.span,
                format!(
                    "{} has no contents: there is no VM of kind `xenstore-state`",
                    code(&logic.name.value)
                ),
                "add `[vm.xenstore-state]`, as in Ennead's images/host.toml",
            ),
            Some(state) => {
                needs_channel(logic, state, "it reads and writes all contents there", errors);
                if place(logic) < place(state) {
                    starts_too_early(logic, state, "needs its contents", errors);
                }
            }
            None => {}
        }
    }
    let mut rings = vms.all.iter().filter(|vm| vm.xenstore.is_some()).peekable();
    if rings.peek().is_none() {
        return;
    }
    for vm in rings {
        let Some(span) = vm.xenstore.as_ref().map(|ring| ring.span) else { continue };
        let name = code(&vm.name.value);
        if let Some(why) = vm.kind.as_ref().and_then(|kind| ringless(kind.value)) {
            errors.at(span, format!("{name} has a XenStore ring, but {why}"), "take the line out");
        } else if let Some(logic) = logic {
            if place(vm) < place(logic) {
                starts_too_early(vm, logic, "has a XenStore ring", errors);
            }
        } else if all_known {
            errors.at(
                span,
                format!("{name} has a XenStore ring, but no VM of this host serves one"),
                "take the line out, or add `[vm.xenstore-logic]`, as in Ennead's images/host.toml",
            );
        }
    }
    // Whoever builds a VM with a ring, or sees it die, tells State.
    for kind in [Kind::Bootstrapper, Kind::Builder] {
        if let (Some(vm), Some(state)) = (of_kind(vms, kind), state) {
            needs_channel(vm, state, "it announces there the VMs that have a XenStore ring", errors);
        }
    }
}

fn of_kind<'r>(vms: &Vms<'r>, kind: Kind) -> Option<&'r RawVm> {
    vms.all.iter().find(|vm| vm.is(kind))
}

/// Why a VM of this kind can have no ring.
fn ringless(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Bootstrapper => Some("Xen builds the bootstrapper and gives it none"),
        Kind::XenstoreState => Some("XenStore's contents are in it already"),
        Kind::XenstoreLogic => Some("it is the one that serves rings"),
        _ => None,
    }
}

pub(super) fn needs_channel(vm: &RawVm, state: &RawVm, why: &str, errors: &mut Errors<'_>) {
    if vm.talks_to.iter().any(|channel| channel.key.value == state.name.value) {
        return;
    }
    let (name, peer) = (code(&vm.name.value), code(&state.name.value));
    errors.at(
        vm.name.span,
        format!("{name} has no channel to {peer}, but {why}"),
        format!(
            "add `{} = \"why\"` under `[vm.{}.talks-to]`, and {name} to `answers` of {peer}",
            printable(&state.name.value),
            printable(&vm.name.value)
        ),
    );
}

fn starts_too_early(vm: &RawVm, first: &RawVm, what: &str, errors: &mut Errors<'_>) {
    let (name, before) = (code(&vm.name.value), code(&first.name.value));
    let span = vm.xenstore.as_ref().map_or(vm.name.span, |ring| ring.span);
    errors.at(
        span,
        format!("{name} {what}, but starts before {before}"),
        format!(
            "write `after = [\"{}\"]` for {name}, and have {before} built by the same VM or by the bootstrapper",
            printable(&first.name.value)
        ),
    );
}
