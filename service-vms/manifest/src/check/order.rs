//! The order of start.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::kinds::precedes_builder;
use super::{Vms, report_repeated};
use crate::plan::Kind;
use crate::raw::RawVm;
use crate::report::{Errors, code, suggest};

/// Reports what is wrong with `after`; the order of start, as places in the file. Complete only if nothing is wrong.
pub(super) fn check(vms: &Vms<'_>, errors: &mut Errors<'_>) -> Vec<usize> {
    let mut before: Vec<Vec<usize>> = Vec::with_capacity(vms.all.len());
    for vm in vms.all {
        let name = vm.name.value.as_str();
        let mut known = Vec::new();
        for earlier in &vm.after {
            let word = earlier.value.as_str();
            if word == name {
                let message = format!("{} starts after itself", code(name));
                errors.at(earlier.span, message, "take it out of `after`");
            } else if let Some(index) = vms.by_name.get(word) {
                if !known.contains(index) {
                    known.push(*index);
                }
                if let Some(peer) = vms.all.get(*index) {
                    pair(vm, peer, earlier.span, errors);
                }
            } else {
                let message =
                    format!("{} starts after {}, which is not a VM of this host", code(name), code(word));
                errors.at(earlier.span, message, suggest(word, "VM", vms.names()));
            }
        }
        report_repeated(&vm.after, errors, |word| {
            format!("{} starts after {} twice", code(name), code(word))
        });
        before.push(known);
    }
    sort(vms, &before, errors)
}

/// 0: Xen builds it; 1: the bootstrapper; 2: the builder. Each stage starts when the one before is complete.
fn stage(vm: &RawVm) -> u8 {
    match vm {
        vm if vm.is(Kind::Bootstrapper) => 0,
        vm if vm.built_by_bootstrapper() => 1,
        _ => 2,
    }
}

/// Whether `vm` can start after `peer` at all.
fn pair(vm: &RawVm, peer: &RawVm, span: crate::report::Span, errors: &mut Errors<'_>) {
    if vm.kind.is_none() || peer.kind.is_none() || vm.unread_built_by || peer.unread_built_by {
        return;
    }
    let (name, earlier) = (code(&vm.name.value), code(&peer.name.value));
    if vm.is(Kind::Bootstrapper) {
        let message = format!("The bootstrapper {name} starts after {earlier}");
        errors.at(span, message, "take it out of `after`: the bootstrapper is always the first");
    } else if stage(vm) < stage(peer) {
        let mut help =
            format!("take it out of `after`, or write `built-by = \"bootstrapper\"` for {earlier}");
        if !vm.kind.as_ref().is_some_and(|kind| precedes_builder(kind.value)) {
            help += &format!(" or `built-by = \"builder\"` for {name}");
        }
        errors.at(
            span,
            format!("{name} is built by the bootstrapper, but starts after {earlier}, which the builder builds later"),
            help,
        );
    }
    if vm.autostart() && !peer.autostart() {
        errors.at(
            span,
            format!("{name} starts with the host, but after {earlier}, which starts only on request"),
            format!("take it out of `after`, or write `autostart = false` for {name} as well"),
        );
    }
}

/// Topological; among those that could be next, the lowest stage, then the first in the file.
fn sort(vms: &Vms<'_>, before: &[Vec<usize>], errors: &mut Errors<'_>) -> Vec<usize> {
    let count = before.len();
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (index, all) in before.iter().enumerate() {
        for earlier in all {
            next[*earlier].push(index);
        }
    }
    // How many of those before it are still to be placed.
    let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut placed = vec![false; count];
    let key = |index: usize| Reverse((vms.all.get(index).map_or(0, stage), index));
    let mut ready: BinaryHeap<_> = (0..count).filter(|index| waits[*index] == 0).map(key).collect();
    let mut order = Vec::with_capacity(count);
    loop {
        let now = if let Some(Reverse((_, index))) = ready.pop() {
            vec![index]
        } else if let Some(cycle) = cycle(before, &placed) {
            report_cycle(vms, &cycle, errors);
            cycle // placed as if it were none, to find the others
        } else {
            return order;
        };
        now.iter().for_each(|index| placed[*index] = true);
        for later in now.iter().flat_map(|index| &next[*index]) {
            waits[*later] -= 1;
            if waits[*later] == 0 && !placed[*later] {
                ready.push(key(*later));
            }
        }
        order.extend(now);
    }
}

/// A cycle among those not yet placed, each after the one that follows; it begins with the first in the file.
fn cycle(before: &[Vec<usize>], placed: &[bool]) -> Option<Vec<usize>> {
    let mut path = vec![placed.iter().position(|placed| !placed)?];
    let mut place = vec![None; before.len()];
    loop {
        let last = *path.last()?;
        if let Some(start) = place[last] {
            let mut cycle: Vec<usize> = path.drain(start..).collect();
            cycle.pop();
            let first = cycle.iter().enumerate().min_by_key(|(_, index)| **index).map_or(0, |(at, _)| at);
            cycle.rotate_left(first);
            return Some(cycle);
        }
        place[last] = Some(path.len() - 1);
        path.push(*before[last].iter().find(|index| !placed[**index])?);
    }
}

fn report_cycle(vms: &Vms<'_>, cycle: &[usize], errors: &mut Errors<'_>) {
    let members: Vec<&RawVm> = cycle.iter().filter_map(|index| vms.all.get(*index)).collect();
    let Some(first) = members.first() else { return };
    let second = members.get(1).unwrap_or(first);
    let span =
        first.after.iter().find(|at| at.value == second.name.value).map_or(first.name.span, |at| at.span);
    let circle: Vec<String> = members.iter().chain([first]).map(|vm| code(&vm.name.value)).collect();
    errors.at(
        span,
        format!("The order of start is a circle: {}", circle.join(" after ")),
        "take one of these out of the `after` of the one before it",
    );
}
