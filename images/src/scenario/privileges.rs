//! From inside Builder, pciback and both halves of XenStore everything that they may not do is tried, and a device of
//! pciback's tries to write to the whole machine's memory. The VMs run the programs of `images/probe`, with all rights of the
//! product's.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ennead_manifest::{Kind, Plan, Vm};

use super::{Report, Setup, boot};
use crate::host::{self, Host};
use crate::milestone::Milestone;
use crate::progress::Progress;
use crate::qemu::{Line, Settings};
use crate::session::{PATIENCE, Session};

/// The device that writes where it is told, and QEMU's option for it.
const DEVICE: [&str; 2] = ["-device", "edu,dma_mask=0xffffffffffffffff"];

/// MiB of Builder and pciback: enough to watch some of it.
const MEMORY_MIB: u32 = 128;

/// MiB of the machine: few, since the device needs a tenth of a second for each place, and pciback has a minute to be healthy.
const MACHINE_MIB: u32 = 640;

/// How many attempts each makes: fewer would be a gap.
const ATTEMPTS: [(Kind, Phase, u64); 5] = [
    (Kind::Builder, Phase::Running, 181),
    (Kind::Pciback, Phase::Starting, 242),
    (Kind::Pciback, Phase::Running, 248),
    (Kind::XenstoreState, Phase::Running, 249),
    (Kind::XenstoreLogic, Phase::Running, 247),
];

/// Under which of its types a VM makes its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
}

fn type_of(kind: Kind, phase: Phase) -> String {
    match phase {
        Phase::Starting => kind.starting_type(),
        Phase::Running => kind.running_type(),
    }
}

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let host = probing_host(setup)?;
    let (_folder, settings) = setup.changed_machine(&host, "privileges")?;
    let extra = settings.extra.iter().cloned().chain(DEVICE.map(str::to_owned)).collect();
    let machine = Settings { extra, memory_mib: MACHINE_MIB, ..settings };
    report.say("\nThe host starts, with VMs that try what they may not:\n");
    let mut session = Session::start(&machine, report.show)?;
    session.until_ready()?;
    for (kind, phase, _) in ATTEMPTS {
        let label = type_of(kind, phase);
        let seen = |session: &Session| ends(session).any(|end| end.value("as") == Some(&label));
        if !seen(&session) {
            let what = format!("the end of the attempts as {label}");
            session.wait(&what, PATIENCE, |m| m.name == "probes" && m.value("as") == Some(&label))?;
        }
    }
    let lines = session.machine.lines();
    for (kind, phase, count) in ATTEMPTS {
        let label = type_of(kind, phase);
        let outcome = refused(&lines, &label).and_then(|attempts| counted(&session, &label, attempts, count));
        report.check(&format!("{label}: all that it may not is refused"), outcome);
    }
    report.check("the device writes to its own VM's memory", reaches_own(&session));
    report.check("Builder's memory is as it was", intact(&session));
    report.check("the IOMMU stopped the device", faults(&lines));
    report.check("State and Logic share 40 pages", region(&session));
    let list = session.list().map(|list| boot::checks(&host, &mut session, &list, report));
    report.check("the host still answers", list.map(|()| String::new()));
    report.check("`poweroff` switches the machine off", session.power_off().map(|()| String::new()));
    Ok(())
}

/// The toolstack in the shipped manifest.
const TOOLSTACK: &str = "toolstack";

/// The same host, but its VMs run the probing programs.
fn probing_host(setup: &Setup) -> Result<Host> {
    let checked = crate::plan::check(&setup.build.manifest)?;
    let mut manifest: toml::Table = checked.text.parse().context("The manifest is no TOML")?;
    without_toolstack(&mut manifest);
    let section = manifest.get_mut("host").and_then(toml::Value::as_table_mut);
    section.context("No [host] in the manifest")?.insert("memory-mib".into(), MACHINE_MIB.into());
    let mut kernel_options = BTreeMap::new();
    for (kind, _, _) in ATTEMPTS {
        let vm = checked.plan.vms_of_kind(kind).next().context("a VM is missing")?;
        let section = manifest.get_mut("vm").and_then(|vms| vms.get_mut(&vm.name)?.as_table_mut());
        let section = section.with_context(|| format!("No [vm.{}] in the manifest", vm.name))?;
        section.insert("program".into(), format!("probe-{kind}").into());
        if matches!(kind, Kind::Builder | Kind::Pciback) {
            section.insert("memory-mib".into(), MEMORY_MIB.into());
        }
        kernel_options.insert(vm.name.clone(), options(&checked.plan, vm));
    }
    let build = host::Options { text: Some(manifest.to_string()), kernel_options, ..setup.build.clone() };
    host::build(&setup.cache, Progress::Silent, &build)
}

/// The halves of XenStore are stand-ins here, which a toolstack cannot use (the scenario `tenants` has one that tries); and without
/// controllers no driver VM is built, so none needs room.
fn without_toolstack(manifest: &mut toml::Table) {
    manifest.remove("tenant");
    let Some(vms) = manifest.get_mut("vm").and_then(toml::Value::as_table_mut) else { return };
    vms.retain(|name, _| name != TOOLSTACK);
    for (_, vm) in vms.iter_mut() {
        let kind = vm.get("kind").and_then(toml::Value::as_str);
        if kind.is_some_and(|kind| [Kind::Blkback, Kind::Netback].iter().any(|k| k.as_str() == kind)) {
            vm.as_table_mut().map(|vm| vm.insert("memory-mib".into(), 1.into()));
        }
        let answers = vm.get_mut("answers").and_then(toml::Value::as_array_mut);
        if let Some(answers) = answers {
            answers.retain(|name| name.as_str() != Some(TOOLSTACK));
        }
    }
}

/// What a probing VM has to know, and that Linux is to leave it to Xen what it may do.
fn options(plan: &Plan, vm: &Vm) -> String {
    // The machine has no controller for a driver VM.
    let there = |other: &&Vm| {
        !matches!(other.kind, Kind::Bootstrapper | Kind::Toolstack | Kind::Blkback | Kind::Netback)
    };
    let others = plan.vms.iter().filter(there).filter(|other| other.name != vm.name);
    let others: Vec<String> = others.map(|other| format!("{}:{}", other.name, other.domid)).collect();
    let (domid, others) = (vm.domid, others.join(","));
    let mut options = format!("probe.domid={domid} probe.others={others}");
    match vm.kind {
        Kind::Pciback => {
            options += &format!(" probe.own-mib={MEMORY_MIB} probe.machine-mib={MACHINE_MIB}");
        }
        Kind::XenstoreState | Kind::XenstoreLogic => options += " xen_privcmd.unrestricted",
        _ => {}
    }
    options
}

fn ends(session: &Session) -> impl Iterator<Item = &Milestone> {
    session.timeline.entries().iter().map(|(_, milestone)| milestone).filter(|m| m.name == "probes")
}

/// Looks at every attempt under one type: Xen refused it, and where FLASK must have done that, its log says so. Gives their
/// number.
pub(super) fn refused(lines: &[Line], label: &str) -> Result<u64> {
    let mut denials: Vec<&str> = Vec::new();
    let (mut attempts, mut wrong) = (0, Vec::new());
    for line in lines.iter().map(|line| line.text.as_str()) {
        if is_denial_of(line, label) {
            denials.push(line);
        }
        let Some(probe) =
            Milestone::parse(line).filter(|m| m.name == "probe" && m.value("as") == Some(label))
        else {
            continue;
        };
        attempts += 1;
        let value = |key| probe.value(key).unwrap_or_default();
        let proof = match value("avc") {
            // Xen's own check came first, or the policy keeps it quiet: the number alone.
            "none" | "quiet" => matches!(value("errno"), "1" | "13"),
            permission => denials.iter().any(|line| permissions(line).any(|p| p == permission)),
        };
        if value("result") != "refused" || !proof {
            wrong.push(format!("{probe}{}", if proof { "" } else { " (no matching AVC line)" }));
        }
        denials.clear();
    }
    anyhow::ensure!(wrong.is_empty(), "{} of {attempts}: {}", wrong.len(), wrong.join("; "));
    Ok(attempts)
}

/// Whether FLASK logged that it refused something to this type. (Of a copy by grant, its subject is whose page is read.)
fn is_denial_of(line: &str, label: &str) -> bool {
    let is = |key: &str| {
        let context = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
        context.and_then(|context| context.rsplit(':').next()) == Some(label)
    };
    let copied = permissions(line).any(|permission| permission == "copy") && is("tcontext=");
    line.contains("avc:  denied") && (is("scontext=") || copied)
}

/// What it refused: the words in braces.
fn permissions(line: &str) -> impl Iterator<Item = &str> {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inside.map_or("", |(words, _)| words).split_ascii_whitespace()
}

/// The VM's own count, the attempts seen here and the expected number are one.
fn counted(session: &Session, label: &str, attempts: u64, expected: u64) -> Result<String> {
    let end = ends(session).find(|m| m.value("as") == Some(label)).context("no `probes`")?;
    let number = |key: &str| end.number(key).with_context(|| format!("no `{key}` in: {end}"));
    let (count, allowed, unclear) = (number("count")?, number("allowed")?, number("unclear")?);
    anyhow::ensure!(allowed == 0 && unclear == 0, "{end}");
    anyhow::ensure!(count == attempts, "{count} attempts announced, {attempts} seen");
    anyhow::ensure!(count == expected, "{count} attempts, there should be {expected}");
    Ok(format!("{count} attempts"))
}

fn reaches_own(session: &Session) -> Result<String> {
    let (_, dma) = session.timeline.find("pciback", "dma").context("no milestone `dma`")?;
    anyhow::ensure!(dma.value("own") == Some("yes"), "no write reached pciback's own memory: {dma}");
    anyhow::ensure!(dma.value("end") == Some("yes"), "in the end the device could no longer write: {dma}");
    Ok(format!("{} writes", dma.value("writes").unwrap_or("?")))
}

fn intact(session: &Session) -> Result<String> {
    let (_, memory) = session.timeline.find("builder", "memory").context("no milestone `memory`")?;
    let number = |key: &str| memory.number(key).with_context(|| format!("no `{key}` in: {memory}"));
    anyhow::ensure!(number("pages")? > 0, "nothing was watched: {memory}");
    anyhow::ensure!(number("changed")? == 0, "the device changed it: {memory}");
    Ok(format!("{} pages watched", number("pages")?))
}

/// The probing Logic has looked at the pages of the probing State.
fn region(session: &Session) -> Result<String> {
    let (_, region) = session.timeline.find("xenstore-logic", "region").context("no milestone `region`")?;
    anyhow::ensure!(region.value("good") == Some("true") && region.number("pages") == Some(40), "{region}");
    Ok(region.to_string())
}

fn faults(lines: &[Line]) -> Result<String> {
    let faults = lines.iter().filter(|line| line.text.contains("DMAR:[DMA Write] Request device")).count();
    anyhow::ensure!(faults > 0, "Xen reported no fault of the device");
    Ok(format!("{faults} faults"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DENIAL: &str = "(XEN) avc:  denied  { map_read map_write } for source=d3 target=d1 \
                          scontext=system_u:system_r:pciback_t tcontext=system_u:system_r:builder_t tclass=mmu";

    fn judged(texts: &[&str]) -> Result<u64> {
        let line = |text: &&str| Line { at: Duration::ZERO, text: (*text).to_owned() };
        refused(&texts.iter().map(line).collect::<Vec<_>>(), "pciback_t")
    }

    fn probe(result: &str, errno: i32, avc: &str) -> String {
        format!("ennead pciback: probe as=pciback_t op=x target=y result={result} errno={errno} avc={avc}")
    }

    #[test]
    fn a_refusal_needs_its_denial() {
        let good = probe("refused", 13, "map_write");
        assert_eq!(judged(&[DENIAL, &good]).unwrap(), 1);
        // None, that of another VM, that of another attempt, another permission.
        assert!(judged(&[&good]).is_err());
        assert!(judged(&[&DENIAL.replace("r:pciback_t", "r:builder_t"), &good]).is_err());
        assert!(judged(&[DENIAL, &good, &good]).is_err());
        assert!(judged(&[DENIAL, &probe("refused", 13, "destroy")]).is_err());
        assert!(judged(&[DENIAL, &probe("refused", 13, "map")]).is_err());
    }

    #[test]
    fn what_is_no_refusal_is_found() {
        for (result, errno) in [("ALLOWED", 0), ("unclear", 22)] {
            assert!(judged(&[DENIAL, &probe(result, errno, "map_read")]).is_err());
        }
        assert_eq!(judged(&[&probe("refused", 1, "none"), &probe("refused", 13, "quiet")]).unwrap(), 2);
        assert!(judged(&[&probe("refused", 0, "quiet")]).is_err());
    }
}
