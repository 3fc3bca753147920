//! Channels: each has one VM that opens it and one that answers, and both say so.

use super::{Vms, report_repeated};
use crate::report::{Errors, code, suggest};

pub(super) fn check(vms: &Vms<'_>, errors: &mut Errors<'_>) {
    for vm in vms.all {
        let name = vm.name.value.as_str();
        for channel in &vm.talks_to {
            let peer = channel.key.value.as_str();
            let span = channel.key.span;
            if peer == name {
                let message = format!("{} talks to itself", code(name));
                errors.at(span, message, "take the line out: a channel is between two VMs");
                continue;
            }
            let Some(server) = vms.get(peer) else {
                let message =
                    format!("{} talks to {}, which is not a VM of this host", code(name), code(peer));
                errors.at(span, message, suggest(peer, "VM", vms.names()));
                continue;
            };
            if !server.answers.iter().any(|client| client.value == name) {
                errors.between(
                    span,
                    (server.name.span, format!("`answers` of {} does not name {}", code(peer), code(name))),
                    format!("{} talks to {}, which does not answer it", code(name), code(peer)),
                    format!("add {} to `answers` in `[vm.{}]`", code(name), crate::rules::printable(peer)),
                );
            }
        }
        for client in &vm.answers {
            let from = client.value.as_str();
            if from == name {
                let message = format!("{} answers itself", code(name));
                errors.at(client.span, message, "take it out: a channel is between two VMs");
                continue;
            }
            let Some(caller) = vms.get(from) else {
                let message =
                    format!("{} answers {}, which is not a VM of this host", code(name), code(from));
                errors.at(client.span, message, suggest(from, "VM", vms.names()));
                continue;
            };
            if !caller.talks_to.iter().any(|channel| channel.key.value == name) {
                errors.at(
                    client.span,
                    format!("{} answers {}, which never talks to it", code(name), code(from)),
                    format!(
                        "take it out, or add `{} = \"why\"` under `[vm.{}.talks-to]`",
                        crate::rules::printable(name),
                        crate::rules::printable(from)
                    ),
                );
            }
        }
        report_repeated(&vm.answers, errors, |from| format!("{} answers {} twice", code(name), code(from)));
    }
}
