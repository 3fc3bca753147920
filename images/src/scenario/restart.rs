//! Service VMs are restarted politely, one after the other: what a restart means is told before, and what it takes after.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Report, Setup, boot};
use crate::devices::{Disk, DiskModel, Network, NetworkModel, image_beside};
use crate::milestone::Milestone;
use crate::qemu::Settings;
use crate::session::{PATIENCE, Session};

/// Restarts of each VM.
const ROUNDS: usize = 3;
/// The VMs, and whether each has work to end.
const VMS: [(&str, bool); 4] =
    [("blkback", true), ("netback", true), ("toolstack", true), ("xenstore-logic", false)];
/// KiB of free memory that may differ after all restarts.
const SLACK_KIB: u64 = 256;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let settings = setup.machine(&setup.host()?)?;
    let disk = Disk { image: image_beside(&settings.log, "restart"), model: DiskModel::Nvme };
    disk.make()?;
    let network = Network { model: NetworkModel::E1000e, forwards: Vec::new() };
    let extra = [settings.extra.clone(), disk.arguments(1), network.arguments(2)].concat();
    let mut session = Session::start(&Settings { extra, ..settings }, report.show)?;
    session.until_ready()?;
    report.check("what a restart would do is told, and nothing done", plans(&mut session));
    report.check("what cannot be restarted is refused with the reason", refusals(&mut session));
    let before = session.list()?.free_kib;
    for (vm, drains) in VMS {
        let parts = restarts(&mut session, vm, drains);
        if let Ok(parts) = &parts {
            report.figure(format!("restart of {vm}, medians of {ROUNDS}"), Parts::medians(parts).to_string());
        }
        report.check(&format!("{vm} is restarted {ROUNDS} times"), parts.map(|_| String::new()));
    }
    let leak = before.saturating_sub(session.list()?.free_kib);
    let left = format!("{leak} KiB less free");
    report.check(
        "nothing is left of the old ones",
        if leak <= SLACK_KIB { Ok(left) } else { Err(anyhow::anyhow!(left)) },
    );
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// Milestones of Builder's that came after the first `seen` of all.
fn since(session: &Session, seen: usize) -> impl Iterator<Item = &Milestone> {
    session.timeline.entries().iter().skip(seen).map(|(_, milestone)| milestone).filter(|m| m.vm == "builder")
}

fn plans(session: &mut Session) -> Result<String> {
    let mut told = Vec::new();
    for (vm, drains) in VMS {
        let seen = session.timeline.entries().len();
        session.command(&format!("plan {vm}"), |m| m.is("builder", "plan-end"))?;
        let plan = since(session, seen).find(|m| m.name == "plan").context("no plan")?;
        let steps = plan.value("steps").unwrap_or_default();
        anyhow::ensure!(steps.starts_with("drain,") == drains, "{plan}");
        anyhow::ensure!(steps.contains("reset") == vm.ends_with("back"), "{plan}");
        let affected: Vec<&str> =
            since(session, seen).filter(|m| m.name == "affected").filter_map(|m| m.value("name")).collect();
        if vm == "xenstore-logic" {
            let all = ["pciback", "blkback", "netback", "toolstack"];
            anyhow::ensure!(all.iter().all(|name| affected.contains(name)), "{affected:?}");
        }
        told.push(format!("{vm}: {}", affected.join(" ")));
        let done = since(session, seen).find(|m| matches!(m.name.as_str(), "draining" | "vm-gone"));
        anyhow::ensure!(done.is_none(), "it was done: {done:?}");
    }
    Ok(told.join("; "))
}

fn refusals(session: &mut Session) -> Result<String> {
    for (vm, reason) in [
        ("pciback", "it is the hardware domain"),
        ("bootstrapper", "it exists once, at power-on"),
        ("builder", "a domain cannot destroy itself"),
        ("nobody", "The plan has no VM `nobody`"),
    ] {
        for command in ["restart", "kill", "plan"] {
            let refused =
                session.command(&format!("{command} {vm}"), |m| m.is("builder", "command-refused"))?;
            let cause = refused.value("cause").unwrap_or_default();
            anyhow::ensure!(cause.contains(reason), "`{command} {vm}` was answered with: {cause}");
        }
    }
    Ok(String::new())
}

/// What a restart is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    drain: Duration,
    destroy: Duration,
    build: Duration,
    boot: Duration,
}

impl Parts {
    fn medians(all: &[Self]) -> Self {
        let median = |part: fn(&Self) -> Duration| {
            let mut values: Vec<Duration> = all.iter().map(part).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self {
            drain: median(|parts| parts.drain),
            destroy: median(|parts| parts.destroy),
            build: median(|parts| parts.build),
            boot: median(|parts| parts.boot),
        }
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { drain, destroy, build, boot } = self;
        write!(
            f,
            "{:.0?}: drain {drain:.0?}, destroy {destroy:.0?}, build {build:.0?}, boot to health {boot:.0?}",
            *drain + *destroy + *build + *boot
        )
    }
}

fn restarts(session: &mut Session, vm: &str, drains: bool) -> Result<Vec<Parts>> {
    (0..ROUNDS).map(|_| restart(session, vm, drains)).collect()
}

fn restart(session: &mut Session, vm: &str, drains: bool) -> Result<Parts> {
    let seen = session.timeline.entries().len();
    session.machine.type_line(&format!("restart {vm}"))?;
    session.wait(&format!("{vm} again"), PATIENCE, |m| {
        m.is("builder", "healthy") && m.value("vm") == Some(vm)
    })?;
    let at = |name: &str| {
        let is_its = |m: &&Milestone| m.name == name && [m.value("vm"), m.value("name")].contains(&Some(vm));
        let milestone = since(session, seen).find(is_its).with_context(|| format!("no `{name}` of {vm}"))?;
        let clock = milestone.clock.as_deref().and_then(|clock| clock.parse().ok());
        clock.map(Duration::from_secs_f64).with_context(|| format!("no time: {milestone}"))
    };
    let begun = at(if drains { "draining" } else { "restarting" })?;
    let drained = if drains { at("drained")? } else { begun };
    if drains {
        let drained = since(session, seen).find(|m| m.name == "drained").context("not drained")?;
        anyhow::ensure!(drained.value("done") == Some("true"), "it did not end its work in time: {drained}");
    }
    let (gone, built, healthy) = (at("vm-gone")?, at("built")?, at("healthy")?);
    Ok(Parts {
        drain: drained.saturating_sub(begun),
        destroy: gone.saturating_sub(drained),
        build: built.saturating_sub(gone),
        boot: healthy.saturating_sub(built),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_median() {
        let parts = |ms: u64| Parts { drain: Duration::from_millis(ms), ..Parts::default() };
        let median = Parts::medians(&[parts(7), parts(1), parts(3)]);
        assert_eq!((median.drain, median.build), (Duration::from_millis(3), Duration::ZERO));
    }
}
