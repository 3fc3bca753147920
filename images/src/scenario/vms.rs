//! Builder builds and destroys VMs of the plan at run time, as often as one likes, and leaves nothing behind.

use anyhow::{Context, Result};

use super::{Report, Setup, boot};
use crate::session::Session;

/// How often each VM is built.
const ROUNDS: usize = 4;

/// KiB of free memory that may differ after all rounds: Xen keeps a little per domid for good.
const SLACK_KIB: u64 = 64;

/// One VM that runs, and one whose program ends at once (pciback, with nobody to answer).
const EXTRA: &str = r#"
[vm.idle]
kind = "toolstack"
domid = 11
kernel = "service"
program = "probe-idle"
memory-mib = 32
autostart = false
restart = { policy = "on-request" }
[vm.idle.may]
write-host-console = "a test"

[vm.broken]
kind = "toolstack"
domid = 12
kernel = "service"
program = "pciback"
memory-mib = 32
autostart = false
restart = { policy = "on-request" }
[vm.broken.may]
write-host-console = "a test"
"#;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host_of(format!("{}{EXTRA}", crate::xen::read(&setup.build.manifest)?))?;
    let (_folder, settings) = setup.changed_machine(&host, "vms")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let before = session.list()?;
    for round in 1..=ROUNDS {
        report.check(&format!("round {round}: a VM is built, listed and destroyed"), life(&mut session));
        report.check(
            &format!("round {round}: a VM that ends at once is named, and gone"),
            broken(&mut session),
        );
    }
    report.check("a VM is not built twice, an unknown one not at all", refusals(&mut session));
    let after = session.list()?;
    let leak = before.free_kib.saturating_sub(after.free_kib);
    let names = after.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>().join(", ");
    report.check(
        "afterwards the host is as before",
        if leak <= SLACK_KIB && after.vms.len() == before.vms.len() {
            Ok(format!("{names}; {leak} KiB less free"))
        } else {
            Err(anyhow::anyhow!("{names}; {leak} KiB less free"))
        },
    );
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

fn life(session: &mut Session) -> Result<String> {
    session.command("build idle", |m| m.is("builder", "healthy") && m.value("vm") == Some("idle"))?;
    let list = session.list()?;
    let idle = list.vms.iter().find(|vm| vm.name == "idle").context("`idle` is not listed")?;
    anyhow::ensure!((idle.domid, idle.flask_type.as_str()) == (11, "toolstack_t"), "{idle:?}");
    session.command("destroy idle", |m| m.is("builder", "destroyed"))?;
    anyhow::ensure!(session.list()?.vms.iter().all(|vm| vm.name != "idle"), "`idle` is still listed");
    Ok(String::new())
}

fn broken(session: &mut Session) -> Result<String> {
    let failed = session.command("build broken", |m| m.is("builder", "failed"))?;
    anyhow::ensure!(failed.value("vm") == Some("broken"), "{failed}");
    let cause = failed.value("cause").unwrap_or_default();
    anyhow::ensure!(cause.contains("d12 stopped before it was healthy: crash"), "{cause}");
    anyhow::ensure!(session.list()?.vms.iter().all(|vm| vm.name != "broken"), "`broken` is still listed");
    Ok(String::new())
}

fn refusals(session: &mut Session) -> Result<String> {
    for (command, cause) in [
        ("destroy idle", "idle is not there"),
        ("build nobody", "The plan has no VM `nobody`"),
        ("build pciback", "it is the hardware domain"),
        ("destroy builder", "a domain cannot destroy itself"),
        ("format c:", "Unknown command"),
    ] {
        let answer =
            session.command(command, |m| m.is("builder", "command-refused") || m.is("builder", "failed"))?;
        let said = answer.value("cause").unwrap_or_default();
        anyhow::ensure!(said.contains(cause), "`{command}` was answered with: {said}");
    }
    session.command("build idle", |m| m.is("builder", "healthy"))?;
    let twice = session.command("build idle", |m| m.is("builder", "failed"))?;
    anyhow::ensure!(twice.value("cause").is_some_and(|cause| cause.contains("is there already")), "{twice}");
    session.command("destroy idle", |m| m.is("builder", "destroyed"))?;
    Ok(String::new())
}
