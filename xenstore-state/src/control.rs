//! CONTROL: what `xenstore-control` can ask. Changing settings, logs and live updates are not among it.

use alloc::{format, string::String};
use core::fmt::Write;

use ennead_xs_wire::Errno;

use crate::{Quotas, State, output::Body, request::Cx};

const HELP: &str = "check\t\nquota\t[<domid>]\nhelp\t\n";

impl State {
    pub(crate) fn control(&self, cx: &Cx, command: &[u8]) -> Result<Body, Errno> {
        let mut words = command.split(|&byte| byte == 0);
        // After the last NUL nothing follows.
        let is_last = |word: Option<&[u8]>| word.is_none_or(<[u8]>::is_empty);
        let text = match (words.next().unwrap_or_default(), words.next()) {
            (b"check", end) if is_last(end) => {
                self.check_with(cx.txn.as_ref()).map_err(|_| Errno::Eio)?;
                return Ok(Body::Done);
            }
            (b"help", end) if is_last(end) => String::from(HELP),
            (b"quota", end) if is_last(end) => limits(&self.settings.quotas),
            (b"quota", Some(domid)) => self.usage(domid)?,
            _ => return Err(Errno::Einval),
        };
        let mut text = text.into_bytes();
        text.push(0);
        Ok(Body::Bytes(text.into()))
    }

    fn usage(&self, domid: &[u8]) -> Result<String, Errno> {
        let domid = core::str::from_utf8(domid).ok().and_then(|domid| domid.parse().ok());
        let domid: u16 = domid.ok_or(Errno::Einval)?;
        let domain = self.store.domains.get(domid).ok_or(Errno::Enoent)?;
        let mut text = format!("Domain {domid}:\n");
        for (name, used) in [
            ("nodes", domain.nodes),
            ("watches", domain.watches),
            ("transactions", domain.transactions),
            ("memory", domain.memory),
        ] {
            line(&mut text, format_args!("{name:<16}: {used:8}"));
        }
        Ok(text)
    }
}

fn limits(quotas: &Quotas) -> String {
    let mut text = String::from("Quota settings:\n");
    for (name, limit, what) in [
        ("nodes", quotas.nodes, "Nodes per domain"),
        ("watches", quotas.watches, "Watches per domain"),
        ("transactions", quotas.transactions, "Transactions per domain"),
        ("transaction-nodes", quotas.transaction_nodes, "Nodes looked at in one transaction"),
        ("memory", quotas.memory, "Bytes per domain"),
        ("node-size", quotas.node_size, "Bytes of one node"),
        ("path-max", quotas.path_max, "Bytes of a path"),
        ("permissions", quotas.permissions, "Permissions of one node"),
        ("events", quotas.events, "Events that wait before they are merged"),
    ] {
        line(&mut text, format_args!("{name:<17}: {limit:8} {what}"));
    }
    text
}

fn line(text: &mut String, line: core::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}
