//! A netback that has been taken over (`probe-netback` of `images/probe`, with all rights of the product's) reaches no guest's
//! page that was not granted to it, no other controller, and no memory by its own controller's DMA.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::drivers::{Small, equip, operator};
use super::shell::Shell;
use super::{Report, Setup, frontends, privileges};
use crate::host::{self, Host};
use crate::milestone::Milestone;
use crate::progress::Progress;
use crate::session::Session;

/// The VM that is taken over, its domid, and its type.
const VM: &str = "netback";
const DOMID: u16 = 9;
const TYPE: &str = "netback_t";
/// Whom it attacks by calls.
const OTHERS: &str = "builder:1,pciback:3,xenstore-state:4,blkback:8";
/// The first guests: the one that is attacked, and one that grants a page to it.
const VICTIM: u16 = 1024;
const GIVER: u16 = 1025;
/// For two thousand grants, a gibibyte of I/O memory and some hundred attempts.
const PATIENCE: Duration = Duration::from_secs(300);
const MEMORY_MIB: u32 = 1536;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let folder = setup.cache.temporary("subverted")?;
    let (small, giver) = (folder.path().join("web.toml"), folder.path().join("giver.toml"));
    // Nobody serves a network interface here: its kernel would wait for it, five minutes.
    Small::configure_disk_only(setup, &small)?;
    frontends::configure(setup, &giver)?;
    let (_iso, mut settings) = setup.changed_machine(&probing_host(setup)?, "subverted")?;
    equip(setup, &mut settings, "subverted")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    let victim = Small::of(&operator);
    report.check("a guest with a disk is created", victim.created(&small));
    report.check("its disk works", victim.writes("before"));
    report.check("a guest that grants it a page is created", frontends::created(&operator, &giver));
    let shell = Shell { operator: &operator, name: frontends::NAME };
    let domids = operator.domid(victim.0.name).and_then(|first| Ok((first, operator.domid(shell.name)?)));
    anyhow::ensure!(domids? == (u64::from(VICTIM), u64::from(GIVER)), "the guests have other domids");
    shell.run("(frontend grant > /tmp/out 2>&1 & :)")?;
    session.wait("the end of the attempts", PATIENCE, |m| m.is(VM, "nic-dma"))?;
    report
        .check("of a guest that granted it nothing it maps and copies nothing", grants(&session, VICTIM, 0));
    report.check("of one that granted it a page, it has that page only", grants(&session, GIVER, 1));
    report.check("it reaches the I/O memory of its own controller only", io_memory(&session));
    let lines = session.machine.lines();
    let refused = privileges::refused(&lines, TYPE);
    report.check("all that it asks of Xen is refused", refused.and_then(|count| all(&session, count)));
    report.check("the IOMMU stops its controller", faults(&lines));
    report.check("the guest's disk works as before", victim.writes("after"));
    let list = session.list().map(|list| format!("{} VMs", list.vms.len()));
    report.check("the host still answers", list);
    report.check("no VM but the probing one was denied anything", others_quiet(&session));
    session.power_off()
}

fn probing_host(setup: &Setup) -> Result<Host> {
    let mut manifest: toml::Table =
        crate::xen::read(&setup.build.manifest)?.parse().context("The manifest is no TOML")?;
    let section = manifest.get_mut("vm").and_then(|vms| vms.get_mut(VM)?.as_table_mut());
    section.with_context(|| format!("No [vm.{VM}]"))?.insert("program".into(), format!("probe-{VM}").into());
    let options = format!(
        "probe.domid={DOMID} probe.victim={VICTIM} probe.giver={GIVER} probe.others={OTHERS} \
         probe.machine-mib={MEMORY_MIB} xen_privcmd.unrestricted"
    );
    let kernel_options = BTreeMap::from([(VM.to_owned(), options)]);
    let build = host::Options { text: Some(manifest.to_string()), kernel_options, ..setup.build.clone() };
    host::build(&setup.cache, Progress::Silent, &build)
}

fn said(session: &Session, name: &str, wanted: impl Fn(&Milestone) -> bool) -> Result<Milestone> {
    let all = session.timeline.entries().iter().map(|(_, milestone)| milestone);
    let found = all.rev().find(|m| m.is(VM, name) && wanted(m)).cloned();
    found.with_context(|| format!("{VM} did not say `{name}`"))
}

fn grants(session: &Session, guest: u16, expected: u64) -> Result<String> {
    let told = said(session, "grants", |m| m.number("guest") == Some(guest.into()))?;
    let is = |key| told.number(key) == Some(expected);
    anyhow::ensure!(is("mapped") && is("copied") && told.number("tried") > Some(1000), "{told}");
    Ok(told.to_string())
}

fn io_memory(session: &Session) -> Result<String> {
    let told = said(session, "io-memory", |_| true)?;
    let own = told.number("own").context("no `own`")?;
    anyhow::ensure!(own > 0 && told.number("reached") == Some(own), "{told}");
    Ok(told.to_string())
}

fn all(session: &Session, seen: u64) -> Result<String> {
    let end = said(session, "probes", |m| m.value("as") == Some(TYPE))?;
    let none = |key| end.number(key) == Some(0);
    anyhow::ensure!(none("allowed") && none("unclear") && end.number("count") == Some(seen), "{end}");
    anyhow::ensure!(seen > 150, "only {seen} attempts");
    Ok(format!("{seen} attempts"))
}

fn faults(lines: &[crate::qemu::Line]) -> Result<String> {
    let faults = lines.iter().filter(|line| line.text.contains("DMAR:[DMA Read] Request device")).count();
    anyhow::ensure!(faults > 0, "Xen reported no fault of the device");
    Ok(format!("{faults} faults"))
}

fn others_quiet(session: &Session) -> Result<String> {
    let lines = session.machine.lines();
    let of_others = |text: &str| text.contains("avc:  denied") && !text.contains(&format!(":{TYPE}"));
    let denied: Vec<String> =
        lines.into_iter().map(|line| line.text).filter(|text| of_others(text)).collect();
    anyhow::ensure!(denied.is_empty(), "{}", denied.join("\n"));
    Ok(String::new())
}
