//! What Xen counts: mapped grants and event channels of each domain, by its own debug keys. The serial line is Xen's meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::qemu::Line;
use crate::session::Session;

const PATIENCE: Duration = Duration::from_secs(60);
/// Three times Ctrl-A gives the serial line to Xen, and back.
const SWITCH: &str = "\x01\x01\x01";
/// For event channels, then for grants; and what shows that each was heard. Xen remembers one key: a second that comes before the first
/// was taken replaces it.
const KEYS: [(&str, &str); 2] =
    [("e", "Event channel information for domain"), ("g", "gnttab_usage_print_all ] done")];

/// Of one domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Its pages that others have mapped.
    pub grants: usize,
    /// Its event channels.
    pub ports: usize,
}

/// By domid.
pub(super) type Counts = BTreeMap<u16, Count>;

/// Asks Xen.
pub(super) fn counts(session: &mut Session) -> Result<Counts> {
    let mut switch = |to: &str| -> Result<()> {
        session.machine.type_text(SWITCH)?;
        let text = format!("Serial input to {to}");
        let there = |line: &Line| line.text.contains(&text).then_some(Ok(()));
        session.machine.wait(&text, PATIENCE, there)
    };
    switch("Xen")?;
    let (mut lines, timeline, machine) = (Vec::new(), &mut session.timeline, &mut session.machine);
    let asked = KEYS.iter().try_for_each(|(key, heard)| {
        machine.type_text(key)?;
        machine.wait("Xen's answer", PATIENCE, |line| {
            timeline.observe(line);
            lines.push(line.text.clone());
            line.text.contains(heard).then_some(Ok(()))
        })
    });
    session.machine.type_text(SWITCH)?;
    asked?;
    let given = |line: &Line| line.text.contains("Serial input to DOM0").then_some(Ok(()));
    session.machine.wait("the serial line", PATIENCE, given)?;
    parse(lines.iter().map(String::as_str))
}

/// Reads `Event channel information for domain 8:` with a line `   3 [0/0/...]: s=3 ...` for each, then `grant-table for
/// remote d8 (v1)` with a line `[0x008] ...` for each grant that is in use.
fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut domain = None;
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok());
    for line in lines {
        let line = line.strip_prefix("(XEN) ").unwrap_or(line).trim_start();
        if let Some(rest) = line.strip_prefix("Event channel information for domain ") {
            domain = number(rest);
        } else if let Some(rest) = line.strip_prefix("grant-table for remote d") {
            domain = number(rest);
        } else if let Some(count) = domain.map(|domid: u16| counts.entry(domid).or_default()) {
            if line.starts_with("[0x") {
                count.grants += 1;
            } else if line.starts_with(|c: char| c.is_ascii_digit()) && line.contains("]: s=") {
                count.ports += 1;
            }
        }
    }
    anyhow::ensure!(!counts.is_empty(), "Xen told nothing");
    Ok(counts)
}

/// Nothing is left of what happened between the two.
pub(super) fn same(before: &Counts, after: &Counts, guest: u16) -> Result<String> {
    let changed: Vec<String> = before
        .keys()
        .chain(after.keys().filter(|domid| !before.contains_key(domid)))
        .map(|domid| (domid, before.get(domid), after.get(domid)))
        .filter(|(_, before, after)| before != after)
        .map(|(domid, before, after)| format!("d{domid}: {before:?}, then {after:?}"))
        .collect();
    anyhow::ensure!(changed.is_empty(), "{}", changed.join("; "));
    let Count { grants, ports } = after.get(&guest).context("the guest is not there")?;
    Ok(format!("the guest's: {grants} mapped grants, {ports} ports; {} domains alike", after.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: [&str; 12] = [
        "(XEN) Event channel information for domain 8:",
        "(XEN) Polling vCPUs: {}",
        "(XEN)     port [p/m/s]",
        "(XEN)        1 [0/0/  -   ]: s=3 n=0 x=0 d=6 p=12",
        "(XEN)       12 [1/0/  1   ]: s=5 n=0 x=0 v=0",
        "(XEN) Event channel information for domain 1024:",
        "(XEN)       -------- active --------       -------- shared --------",
        "(XEN) grant-table for remote d8 (v1)",
        "(XEN)   1 frames (64 max), 1 maptrack frames (1024 max)",
        "(XEN) [0x008]      6 0x0000012345 0x00000001          6 0x012345 0x19",
        "(XEN) grant-table for remote d1024 (v1)",
        "(XEN) no active grant table entries",
    ];

    #[test]
    fn xens_words_are_counted() {
        let counts = parse(TOLD.into_iter()).unwrap();
        assert_eq!(counts, Counts::from([(8, Count { grants: 1, ports: 2 }), (1024, Count::default())]));
        assert!(same(&counts, &counts, 1024).is_ok());
        assert!(same(&counts, &counts, 7).is_err());
        let more = Counts::from([(8, Count { grants: 2, ports: 2 }), (1024, Count::default())]);
        assert!(same(&counts, &more, 1024).unwrap_err().to_string().starts_with("d8: "));
        let fewer = Counts::from([(8, Count { grants: 1, ports: 2 })]);
        assert!(same(&counts, &fewer, 8).is_err() && same(&fewer, &counts, 8).is_err());
        assert!(parse(["(XEN) nothing"].into_iter()).is_err());
    }
}
