//! XenStore-State hands over to its successor, again and again, under a VM that notices if anything is lost.

use std::time::Duration;

use anyhow::{Context, Result};

use super::xenstore::no_nodes;
use super::{Report, Setup, boot};
use crate::session::Session;

/// How long a hand-over, or a round of the VM that looks at everything, may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often it is done: under each domid, and under the first one again.
const ROUNDS: usize = 3;
/// What a successor may have less of its memory available than the first State had, when both hold the same.
const SLACK_KIB: u64 = 1024;

const EXTRA: &str = r#"
[vm.keeper]
kind = "toolstack"
domid = 13
kernel = "service"
program = "probe-keeper"
memory-mib = 32
autostart = false
after = ["xenstore-logic"]
xenstore = "a test"
restart = { policy = "never" }
[vm.keeper.may]
write-host-console = "a test"
"#;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host_of(format!("{}{EXTRA}", crate::xen::read(&setup.build.manifest)?))?;
    let (_folder, settings) = setup.changed_machine(&host, "handover")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    session.command("build keeper", |m| m.is("builder", "healthy") && m.value("vm") == Some("keeper"))?;
    let before = session.list()?;
    kept(&mut session)?;
    for round in 1..=ROUNDS {
        let name = format!("State hands over under load, {round}");
        report.check(&name, hand_over(&mut session));
    }
    let after = session.list()?;
    report.check("State runs under its other domid, once", one_state(&after, 5));
    report.check("its memory stays the same", memory(&session));
    report.check("XenStore goes on when Logic is restarted after it", logic_restarted(&mut session));
    report.check("a destroyed VM leaves no nodes", destroyed(&mut session));
    let leak = before.free_kib.saturating_sub(after.free_kib);
    report.check(
        "afterwards the host is as before",
        if leak <= SLACK_KIB && after.vms.len() == before.vms.len() {
            Ok(format!("{leak} KiB less free"))
        } else {
            Err(anyhow::anyhow!("{} VMs, {leak} KiB less free", after.vms.len()))
        },
    );
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// The VM has committed a transaction and found everything; gives the longest wait for an answer, ms.
fn kept(session: &mut Session) -> Result<u64> {
    let (_, milestone) = session.wait("a round of the VM", PATIENCE, |m| m.is("keeper", "kept"))?;
    milestone.number("longest-ms").context("no number")
}

/// In the middle of an open transaction: it begins right after the round before.
fn hand_over(session: &mut Session) -> Result<String> {
    session.idle(Duration::from_secs(2));
    session.machine.type_line("restart xenstore-state")?;
    let (_, answer) = session.wait("the hand-over", PATIENCE, |m| {
        m.is("builder", "handed-over") || m.is("builder", "command-refused")
    })?;
    anyhow::ensure!(answer.is("builder", "handed-over"), "{answer}");
    let entries = session.timeline.entries();
    let last =
        entries.iter().rev().find(|(_, m)| m.is("xenstore-state", "handed-over")).map(|(_, m)| m.clone());
    let longest = kept(session)?;
    let last = last.context("State has not told it")?;
    let value = |key| last.value(key).unwrap_or("?").to_owned();
    anyhow::ensure!(value("logic") == "true", "Logic did not follow: {last}");
    Ok(format!(
        "{} nodes: {} ms until the successor had all, {} ms until Logic was there; the VM waited {longest} ms at most; {} ms in all",
        value("nodes"),
        value("given-ms"),
        value("pause-ms"),
        answer.value("ms").unwrap_or("?"),
    ))
}

fn one_state(list: &crate::table::VmList, domid: u16) -> Result<String> {
    let states: Vec<_> =
        list.vms.iter().filter(|vm| vm.name == "xenstore-state").map(|vm| vm.domid).collect();
    anyhow::ensure!(states == [domid], "{states:?}");
    Ok(format!("domain {domid}"))
}

/// What each successor had available, having taken over.
fn memory(session: &Session) -> Result<String> {
    let told = session.timeline.entries().iter().filter(|(_, m)| m.is("xenstore-state", "memory"));
    let kib: Vec<u64> = told.filter_map(|(_, m)| m.number("available-kib")).skip(1).collect();
    let (most, least) = (kib.iter().max().context("none")?, kib.iter().min().context("none")?);
    anyhow::ensure!(kib.len() == ROUNDS && most - least <= SLACK_KIB, "{kib:?} KiB available");
    Ok(format!("{kib:?} KiB available"))
}

fn logic_restarted(session: &mut Session) -> Result<String> {
    session.command("restart xenstore-logic", |m| {
        m.is("builder", "healthy") && m.value("vm") == Some("xenstore-logic")
    })?;
    let longest = kept(session)?;
    Ok(format!("the VM waited {longest} ms at most"))
}

fn destroyed(session: &mut Session) -> Result<String> {
    session.command("destroy keeper", |m| m.is("builder", "destroyed"))?;
    no_nodes(session, "/local/domain/13").map(|()| String::new())
}
