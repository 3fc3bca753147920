//! XenStore on Xen: VMs with a ring use it, are restarted and find it again; its Logic is restarted under them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Report, Setup, boot};
use crate::milestone::Milestone;
use crate::session::Session;

/// How long a VM that keeps crashing is tried again.
const PATIENCE: Duration = Duration::from_secs(180);

/// KiB of free memory that may differ afterwards: Xen keeps a little per domid for good.
const SLACK_KIB: u64 = 256;

/// A VM that crashes after its first start, and one that always does.
const EXTRA: &str = r#"
[vm.ring]
kind = "toolstack"
domid = 11
kernel = "service"
program = "probe-ring"
memory-mib = 32
autostart = false
after = ["xenstore-logic"]
xenstore = "a test"
restart = { policy = "on-crash" }
[vm.ring.may]
write-host-console = "a test"

[vm.flaky]
kind = "toolstack"
domid = 12
kernel = "service"
kernel-options = "probe.crash=always"
program = "probe-ring"
memory-mib = 32
autostart = false
after = ["xenstore-logic"]
xenstore = "a test"
restart = { policy = "on-crash" }
[vm.flaky.may]
write-host-console = "a test"
"#;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host_of(format!("{}{EXTRA}", crate::xen::read(&setup.build.manifest)?))?;
    let (_folder, settings) = setup.changed_machine(&host, "xenstore")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let before = session.list()?;
    report.check("pciback has published its controllers", published(&mut session));
    report.check("a service VM has its tree", tree(&mut session));
    report.check("a VM that crashes comes back, and its nodes with it", comes_back(&mut session));
    report.check("`restart` does the same", restarted(&mut session));
    report.check("XenStore goes on when Logic is restarted", logic_restarted(&mut session));
    report.check("XenStore goes on when Logic is destroyed and built", logic_destroyed(&mut session));
    report.check("State is not destroyed", refused(&mut session));
    report.check("a VM that keeps crashing is given up", given_up(&mut session));
    report.check("a destroyed VM leaves no nodes", destroyed(&mut session));
    let after = session.list()?;
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

fn published(session: &mut Session) -> Result<String> {
    if session.timeline.find("pciback", "published").is_none() {
        session.wait("`published`", PATIENCE, |m| m.is("pciback", "published"))?;
    }
    let mut checked = Vec::new();
    for (_, controller) in session.timeline.entries().to_vec() {
        let Some(address) = controller.value("address").filter(|_| controller.is("builder", "controller"))
        else {
            continue;
        };
        let (class, id) = of_controller(session, address)?;
        anyhow::ensure!(
            controller.value("class") == Some(&class) && controller.value("id") == Some(&id),
            "{controller}; in XenStore: {class} {id}"
        );
        checked.push(format!("{address} is {id}"));
    }
    anyhow::ensure!(!checked.is_empty(), "there is no controller");
    Ok(checked.join(", "))
}

/// Class and id that pciback has published of a controller.
pub(super) fn of_controller(session: &mut Session, address: &str) -> Result<(String, String)> {
    let home = format!("/local/domain/3/controller/{}", address.replace([':', '.'], "-"));
    let nodes = session.store(&home)?;
    let value = |name: &str| nodes.get(&format!("{home}/{name}")).map(String::as_str).unwrap_or_default();
    Ok((value("class").to_owned(), format!("{}:{}", value("vendor"), value("device"))))
}

fn tree(session: &mut Session) -> Result<String> {
    let node = session.store("/local/domain/3")?;
    for (name, value) in [("name", "pciback"), ("domid", "3")] {
        let found = node.get(&format!("/local/domain/3/{name}"));
        anyhow::ensure!(found.is_some_and(|found| found == value), "{node:?}");
    }
    Ok(String::new())
}

fn comes_back(session: &mut Session) -> Result<String> {
    session.command("build ring", |m| healthy(m, "ring"))?;
    session.wait("the restart", PATIENCE, |m| m.is("builder", "restarting"))?;
    session.wait("the end of the restart", PATIENCE, |m| healthy(m, "ring"))?;
    starts(session, 2)?;
    beats(session)
}

fn restarted(session: &mut Session) -> Result<String> {
    session.command("kill ring", |m| healthy(m, "ring"))?;
    starts(session, 3)?;
    beats(session)
}

fn logic_restarted(session: &mut Session) -> Result<String> {
    session.command("restart xenstore-logic", |m| healthy(m, "xenstore-logic"))?;
    beats(session)
}

fn logic_destroyed(session: &mut Session) -> Result<String> {
    session.command("destroy xenstore-logic", |m| m.is("builder", "without-xenstore"))?;
    let stalled = beat(session)?;
    session.idle(Duration::from_secs(1));
    anyhow::ensure!(beat(session)? == stalled, "without Logic it writes all the same");
    session.command("build xenstore-logic", |m| healthy(m, "xenstore-logic"))?;
    beats(session)
}

fn refused(session: &mut Session) -> Result<String> {
    let answer = session.command("destroy xenstore-state", |m| m.is("builder", "command-refused"))?;
    let cause = answer.value("cause").unwrap_or_default();
    anyhow::ensure!(cause.contains("contents are nowhere else"), "{answer}");
    Ok(String::new())
}

fn given_up(session: &mut Session) -> Result<String> {
    session.command("build flaky", |m| healthy(m, "flaky"))?;
    session.wait("the end of the restarts", PATIENCE, |m| {
        m.is("builder", "gave-up") && m.value("vm") == Some("flaky")
    })?;
    let tries = session.timeline.entries().iter().filter(|(_, m)| healthy(m, "flaky")).count();
    anyhow::ensure!(tries == 5, "it was built {tries} times");
    no_nodes(session, "/local/domain/12")?;
    Ok(format!("built {tries} times"))
}

fn destroyed(session: &mut Session) -> Result<String> {
    session.command("destroy ring", |m| m.is("builder", "destroyed"))?;
    no_nodes(session, "/local/domain/11")?;
    Ok(String::new())
}

/// There is no such node.
pub(super) fn no_nodes(session: &mut Session, path: &str) -> Result<()> {
    match session.store(path) {
        Ok(nodes) => anyhow::bail!("still there: {nodes:?}"),
        Err(error) if format!("{error:#}").contains("ENOENT") => Ok(()),
        Err(error) => Err(error),
    }
}

fn healthy(milestone: &Milestone, vm: &str) -> bool {
    milestone.is("builder", "healthy") && milestone.value("vm") == Some(vm)
}

fn starts(session: &mut Session, expected: u64) -> Result<()> {
    let starts = number(session, "starts")?;
    anyhow::ensure!(starts == expected, "it knows of {starts} starts, not {expected}");
    Ok(())
}

fn beat(session: &mut Session) -> Result<u64> {
    number(session, "beat")
}

fn number(session: &mut Session, name: &str) -> Result<u64> {
    let node = session.store("/local/domain/11/data")?;
    let value = node.get(&format!("/local/domain/11/data/{name}"));
    value.with_context(|| format!("no `{name}` in {node:?}"))?.parse().context("no number")
}

/// The VM writes: its number grows.
fn beats(session: &mut Session) -> Result<String> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let first = beat(session).unwrap_or(0);
    loop {
        session.idle(Duration::from_millis(500));
        let now = beat(session).unwrap_or(0);
        if now > first {
            return Ok(format!("beat {now}"));
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "it writes no more: beat {first}");
    }
}
