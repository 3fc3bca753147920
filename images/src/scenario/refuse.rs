//! One flipped byte in any image, in the plan or in its signature: the bootstrapper names the file, builds nothing, and
//! the host stops.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Report, Setup, flip};
use crate::host::Host;
use crate::qemu::Settings;
use crate::session::{PATIENCE, Session};

/// What the bootstrapper may name when the signature does not match: it cannot know which of the two was changed.
const SIGNED: [&str; 3] = ["manifest", "plan.toml", "plan.sig"];

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = setup.host()?;
    for name in host.images.keys() {
        let mut changed = host.clone();
        flip(changed.images.get_mut(name).context("an image is missing")?)?;
        one(setup, &changed, name, &[name], report)?;
    }
    let mut changed = host.clone();
    flip(&mut changed.plan_toml)?;
    one(setup, &changed, "plan.toml", &SIGNED, report)?;
    let mut changed = host.clone();
    flip(&mut changed.signature)?;
    one(setup, &changed, "plan.sig", &SIGNED, report)
}

fn one(setup: &Setup, host: &Host, name: &str, named: &[&str], report: &mut Report) -> Result<()> {
    let (_folder, settings) = setup.changed_machine(host, &format!("refuse-{name}"))?;
    report.say(&format!("\nOne byte of {name} is changed:\n"));
    report.check(
        &format!("a changed {name} is named, and nothing is built"),
        refused(&settings, named, report.show),
    );
    Ok(())
}

fn refused(settings: &Settings, named: &[&str], show: bool) -> Result<String> {
    let mut session = Session::start(settings, show)?;
    let (_, refusal) =
        session.wait("the refusal", PATIENCE, |milestone| milestone.is("bootstrapper", "refused"))?;
    let image = refusal.value("image").unwrap_or_default();
    anyhow::ensure!(named.contains(&image), "named was `{image}`: {refusal}");
    anyhow::ensure!(refusal.value("reason").is_some_and(|reason| !reason.is_empty()), "no reason: {refusal}");
    stopped(&mut session)?;
    let built = session.timeline.entries().iter().find(|(_, milestone)| milestone.name == "built");
    anyhow::ensure!(built.is_none(), "something was built all the same");
    Ok(refusal.to_string())
}

/// Waits until Xen has halted the host or the machine is off.
pub(super) fn stopped(session: &mut Session) -> Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while std::time::Instant::now() < deadline {
        for line in session.idle(Duration::from_secs(1)) {
            if line.text.contains("halting machine") {
                return Ok(());
            }
        }
        if session.machine.has_ended()?.is_some() {
            return Ok(());
        }
    }
    Err(session.machine.with_lines("The host does not stop"))
}
