//! Guests in one network, in one VLAN of it and in none. They have two processors, so their NICs have two queues.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::restarts::kill_during;
use super::small;
use crate::first_guest::PATIENCE;
use crate::operator::Operator;
use crate::scenario::shell::Shell;
use crate::scenario::{Report, Setup};
use crate::session::Session;

/// Names, NICs, addresses. The first two are together.
const GUESTS: [(&str, &str, &str); 3] =
    [("one", "vlan = 5", "10.5.0.1"), ("two", "vlan = 5", "10.5.0.2"), ("three", "", "10.5.0.3")];

/// Where each serves its programs.
const PORT: u16 = 8080;

/// The first two reach each other, whatever becomes of netback; the third and they do not.
pub(super) fn check(
    setup: &Setup,
    session: &mut Session,
    operator: &Operator,
    folder: &Path,
    report: &mut Report,
) {
    let shell = |name| Shell { operator, name };
    if !report
        .check("guests with two queues are created, two of three in a VLAN", created(setup, operator, folder))
    {
        return;
    }
    report.check("the two reach each other, netback is killed meanwhile", copies(session, shell("one")));
    let apart = [("one", "10.5.0.3"), ("three", "10.5.0.1")];
    let apart = apart.into_iter().try_for_each(|(name, other)| silent(shell(name), other));
    report.check("they and the third do not", apart.map(|()| String::new()));
    let ended = GUESTS.into_iter().try_for_each(|(name, ..)| shell(name).ends().map(drop));
    report.check("they end", ended.map(|()| String::new()));
}

fn created(setup: &Setup, operator: &Operator, folder: &Path) -> Result<String> {
    for (name, nic, _) in GUESTS {
        let file = folder.join(format!("{name}.toml"));
        small::configure(setup, &file, name, 2, &format!("vif = [{{ {nic} }}]"))?;
        operator.ask(&["create", &file.display().to_string()])?;
    }
    for (name, _, address) in GUESTS {
        operator.wait_for(name, "guest-ready", 1, PATIENCE)?;
        let shell = Shell { operator, name };
        let queues = shell.run(&format!(
            "ifconfig eth0 {address} netmask 255.255.255.0; httpd -p {PORT} -h /bin; ls -d /sys/class/net/eth0/queues/tx-* | wc -l"
        ))?;
        anyhow::ensure!(queues == "2", "{queues} queues");
    }
    Ok(String::new())
}

/// A program is copied over TCP until netback has been killed.
fn copies(session: &mut Session, shell: Shell<'_>) -> Result<String> {
    kill_during(session, "netback", 1, |enough| {
        for round in 1_u32.. {
            let said = shell.run(&format!(
                "wget -q -O - http://10.5.0.2:{PORT}/busybox | sha256sum; sha256sum < /bin/busybox"
            ))?;
            let (copy, original) = said.split_once("; ").unwrap_or_default();
            anyhow::ensure!(copy == original && !copy.is_empty(), "{said}");
            if enough.load(Ordering::Relaxed) {
                return Ok(format!("{round} copies"));
            }
        }
        Ok(String::new())
    })
}

fn silent(shell: Shell<'_>, other: &str) -> Result<()> {
    let said = shell.run(&format!("ping -c 3 -W 2 {other}"))?;
    anyhow::ensure!(said.contains(" 0 packets received"), "{said}");
    Ok(())
}
