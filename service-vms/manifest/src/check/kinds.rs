//! What follows from a VM's kind: how many there may be, domids, who builds it, restarts.

use std::collections::BTreeMap;

use crate::plan::{Kind, RestartPolicy};
use crate::raw::{Raw, RawVm};
use crate::report::{Errors, Span, code};
use crate::rules::MAX_DOMID;
use crate::table::At;

pub(super) fn check(raw: &Raw, errors: &mut Errors<'_>) {
    exactly_one(raw, errors);
    at_most_one(raw, errors);
    domids_are_unique(raw, errors);
    for vm in &raw.vms {
        if let Some(kind) = &vm.kind {
            domids_fit(vm, kind.value, errors);
            start_fits(vm, kind.value, errors);
        }
        restart(vm, errors);
    }
}

fn exactly_one(raw: &Raw, errors: &mut Errors<'_>) {
    // A VM whose kind could not be read may be the one that is missing.
    let all_known = raw.vms.iter().all(|vm| vm.kind.is_some());
    for kind in [Kind::Bootstrapper, Kind::Builder, Kind::Pciback] {
        let mut found = raw.vms.iter().filter(|vm| vm.is(kind));
        let Some(first) = found.next() else {
            if all_known {
                errors.nowhere(
                    format!("There is no VM of kind `{kind}`"),
                    format!("every host has one: add `[vm.{kind}]`, as in Ennead's images/host.toml"),
                );
            }
            continue;
        };
        for second in found {
            report_second(first, second, kind, "a host has exactly one: take one of the two out", errors);
        }
    }
}

/// XenStore's two halves: each of a host's VMs has one XenStore.
fn at_most_one(raw: &Raw, errors: &mut Errors<'_>) {
    for kind in [Kind::XenstoreState, Kind::XenstoreLogic] {
        let mut found = raw.vms.iter().filter(|vm| vm.is(kind));
        let Some(first) = found.next() else { continue };
        for second in found {
            report_second(first, second, kind, "a host has one XenStore: take one of the two out", errors);
        }
    }
}

fn report_second(first: &RawVm, second: &RawVm, kind: Kind, help: &str, errors: &mut Errors<'_>) {
    let place = |vm: &RawVm| vm.kind.as_ref().map_or(vm.name.span, |at| at.span);
    errors.between(
        place(second),
        (place(first), format!("{} is the first", code(&first.name.value))),
        format!("{} is a second VM of kind `{kind}`", code(&second.name.value)),
        help,
    );
}

fn domids(vm: &RawVm) -> impl Iterator<Item = (&At<u16>, &'static str)> {
    let both = [(&vm.domid, "domid"), (&vm.successor_domid, "successor-domid")];
    both.into_iter().filter_map(|(at, key)| Some((at.as_ref()?, key)))
}

fn domids_are_unique(raw: &Raw, errors: &mut Errors<'_>) {
    let mut owners: BTreeMap<u16, (&RawVm, Span, &str)> = BTreeMap::new();
    let all = || raw.vms.iter().flat_map(domids).map(|(at, _)| at.value);
    for vm in &raw.vms {
        for (at, key) in domids(vm) {
            let domid = at.value;
            let Some((owner, first, first_key)) = owners.get(&domid) else {
                owners.insert(domid, (vm, at.span, key));
                continue;
            };
            let free = all().max().unwrap_or(0).saturating_add(1);
            let help = if free <= MAX_DOMID {
                format!("give each its own, for example {free}")
            } else {
                "give each its own".to_owned()
            };
            let (one, other) = (code(&owner.name.value), code(&vm.name.value));
            let message = if first_key == &key || one != other {
                format!("Domid {domid} is taken twice: by {one} and by {other}")
            } else {
                format!("Both domids of {one} are {domid}")
            };
            errors.between(at.span, (*first, format!("`{first_key}` of {}", one)), message, help);
        }
    }
}

fn domids_fit(vm: &RawVm, kind: Kind, errors: &mut Errors<'_>) {
    let name = code(&vm.name.value);
    for (at, key) in domids(vm) {
        if kind == Kind::Bootstrapper && key == "domid" && at.value != 0 {
            let message = format!("{name} is the bootstrapper, but its domid is {}", at.value);
            errors.at(at.span, message, "write `domid = 0`: Xen starts the bootstrapper as domain 0");
        } else if at.value == 0 && kind != Kind::Bootstrapper {
            let message = format!("`{key}` of {name} is 0, which is the bootstrapper's");
            errors.at(at.span, message, format!("write a number from 1 to {MAX_DOMID}"));
        }
    }
    let succeeds_itself = matches!(kind, Kind::Builder | Kind::XenstoreState);
    match &vm.successor_domid {
        Some(at) if !succeeds_itself => errors.at(
            at.span,
            format!(
                "{name} has a `successor-domid`, but a VM of kind `{kind}` is rebuilt under its own domid"
            ),
            "take the line out; only `builder` and `xenstore-state` replace themselves",
        ),
        // One that is not a number is already reported where it stands.
        None if succeeds_itself && !vm.has_successor_key => errors.at(
            vm.name.span,
            format!("{name} has no `successor-domid`, which a VM of kind `{kind}` needs"),
            "add one that no other VM has: its successor starts under it, takes over and destroys it",
        ),
        _ => {}
    }
}

/// Whether the builder needs a VM of this kind before it can build any itself.
pub(super) fn precedes_builder(kind: Kind) -> bool {
    matches!(kind, Kind::Builder | Kind::Pciback | Kind::XenstoreState)
}

fn start_fits(vm: &RawVm, kind: Kind, errors: &mut Errors<'_>) {
    let name = code(&vm.name.value);
    let first = precedes_builder(kind);
    if kind == Kind::Bootstrapper {
        if let Some(at) = &vm.built_by_bootstrapper {
            let message = format!("{name} has a `built-by`, but Xen builds the bootstrapper");
            errors.at(at.span, message, "take the line out");
        }
    } else if first && !vm.built_by_bootstrapper() && !vm.unread_built_by {
        errors.at(
            vm.built_by_bootstrapper.as_ref().map_or(vm.name.span, |at| at.span),
            format!("{name} is built by the builder, but a VM of kind `{kind}` must be there before"),
            "write `built-by = \"bootstrapper\"`",
        );
    }
    if let Some(at) = &vm.autostart {
        if !at.value && (first || kind == Kind::Bootstrapper || vm.built_by_bootstrapper()) {
            errors.at(
                at.span,
                format!("{name} is not started with the host, but only the builder can build a VM later"),
                "take `autostart = false` out, or let the builder build it if its kind allows that",
            );
        }
    }
}

fn restart(vm: &RawVm, errors: &mut Errors<'_>) {
    let Some(restart) = &vm.restart else { return };
    let Some(policy) = &restart.policy else { return };
    let every = policy.value == RestartPolicy::Every;
    if every && !restart.has_every_seconds {
        errors.at(
            restart.span,
            format!("The restart policy of {} is `every`, but not how often", code(&vm.name.value)),
            "add `every-seconds`, for example `{ policy = \"every\", every-seconds = 3600 }`",
        );
    }
    if let Some(seconds) = &restart.every_seconds {
        if !every {
            errors.at(
                seconds.span,
                format!(
                    "`every-seconds` without the policy `every`: the policy of {} is `{}`",
                    code(&vm.name.value),
                    policy.value
                ),
                "take it out, or write `policy = \"every\"`",
            );
        }
    }
    let Some(kind) = &vm.kind else { return };
    let why = match kind.value {
        Kind::Pciback => "its end is the end of the host",
        Kind::Bootstrapper => "it ends by design",
        Kind::XenstoreState => "XenStore's contents are nowhere else",
        _ => return,
    };
    if policy.value != RestartPolicy::Never {
        errors.at(
            policy.span,
            format!("{} is of kind `{}`, which cannot be restarted: {why}", code(&vm.name.value), kind.value),
            "write `restart = { policy = \"never\" }`",
        );
    }
}
