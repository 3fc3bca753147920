//! Two tenants: the toolstack of one means harm to the other's guest, to Builder and to the host.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Report, Setup, privileges};
use crate::milestone::Milestone;
use crate::operator::Operator;
use crate::session::Session;
use crate::{guest, host, program};

/// Ten thousand requests in emulation, and some hundred attempts.
const PATIENCE: Duration = Duration::from_secs(400);
const MEMORY_MIB: u32 = 1536;
/// KiB that Builder's program may have more after ten thousand hostile requests.
const GROWTH_KIB: u64 = 512;
/// The label of the other tenant's toolstack, and its domid.
const TYPE: &str = "toolstack_other_t";
const RIVAL: u16 = 10;
/// The first guest's domid.
const VICTIM: u16 = 1024;

const EXTRA: &str = r#"
[tenant.other]
toolstack = "rival"
memory-mib = 64
vcpus = 4
guests = 4

[vm.rival]
kind = "toolstack"
domid = 10
kernel = "service"
program = "probe-toolstack"
memory-mib = 32
autostart = false
after = ["xenstore-logic"]
xenstore = "a test"
restart = { policy = "never" }
[vm.rival.talks-to]
builder = "a test"
[vm.rival.may]
write-host-console = "a test"
"#;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let small = guest::small_kernel(&setup.cache, setup.progress)?;
    let busybox = guest::ramdisk(&setup.cache, setup.progress, None)?;
    let folder = setup.cache.temporary("tenants")?;
    let file = folder.path().join("victim.toml");
    let text = format!(
        "name = \"victim\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 quiet\"\n\
         memory-mib = 48\nvcpus = 1\n",
        small.display(),
        busybox.display()
    );
    std::fs::write(&file, text).context("Cannot write the guest's configuration")?;

    let shipped = crate::xen::read(&setup.build.manifest)?
        .replacen("memory-mib = 1024", &format!("memory-mib = {MEMORY_MIB}"), 1)
        .replacen("answers = [\"toolstack\"]", "answers = [\"toolstack\", \"rival\"]", 1);
    let others = "builder:1,pciback:3,xenstore-state:4,xenstore-logic:6,toolstack:7";
    let options = format!(
        "probe.guest={VICTIM} probe.domid={RIVAL} probe.type={TYPE} probe.others={others},victim:{VICTIM} \
         probe.frames={} xen_privcmd.unrestricted",
        MEMORY_MIB * 256
    );
    let build = host::Options {
        text: Some(shipped + EXTRA),
        kernel_options: BTreeMap::from([("rival".to_owned(), options)]),
        ..setup.build.clone()
    };
    let host = host::build(&setup.cache, crate::progress::Progress::Silent, &build)?;
    let (_folder, mut settings) = setup.changed_machine(&host, "tenants")?;
    settings.memory_mib = MEMORY_MIB;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = Operator {
        program: program::cli(&setup.cache, setup.progress)?,
        reach: session.operator("toolstack")?,
    };
    let created = operator.ask(&["create", &file.display().to_string()])?;
    let domid = created.get("domid").and_then(serde_json::Value::as_u64);
    anyhow::ensure!(domid == Some(u64::from(VICTIM)), "The first guest is another domain: {created}");
    operator.wait_for("victim", "guest-ready", 1, PATIENCE)?;
    session.machine.type_line("build rival")?;
    report.check("another tenant's guests do not exist for its toolstack", not_its_own(&mut session));
    // Builder has built the rival and answered it some dozen times.
    let before = own_kib(&mut session)?;
    report.check(
        "ten thousand hostile requests are answered, and nothing is left of them",
        nonsense(&mut session),
    );
    report.check(
        "after them a guest of its own is built",
        said(&mut session, "own-guest").map(|m| m.to_string()),
    );
    report.check("Builder's memory is as it was", flat(&mut session, before));
    report.check("by hypercalls it reaches nobody", by_hypercalls(&mut session));
    report.check("a broken channel is cut off", cut_off(&mut session));
    let lives = operator.type_at("victim", "echo $((80+8))-unharmed", "88-unharmed", PATIENCE);
    report.check("the other tenant's guest has noticed nothing", lives.map(|_| String::new()));
    session.power_off()
}

/// A milestone of the rival's, which it may have said before.
fn said(session: &mut Session, name: &str) -> Result<Milestone> {
    if let Some((_, milestone)) = session.timeline.find("rival", name) {
        return Ok(milestone.clone());
    }
    Ok(session.wait(&format!("the rival's `{name}`"), PATIENCE, |m| m.is("rival", name))?.1)
}

fn not_its_own(session: &mut Session) -> Result<String> {
    let said = said(session, "not-its-own")?;
    anyhow::ensure!(said.number("allowed") == Some(0) && said.number("listed") == Some(0), "{said}");
    anyhow::ensure!(said.number("refused").is_some_and(|n| n > 50), "{said}");
    Ok(said.to_string())
}

fn nonsense(session: &mut Session) -> Result<String> {
    let said = said(session, "nonsense")?;
    let number = |key| said.number(key).with_context(|| format!("no {key} in {said}"));
    // Some can be done: a guest that is begun, and then destroyed; the same key again, which gets the same answer.
    let (refused, answered) = (number("refused")?, number("answered")?);
    anyhow::ensure!(refused + answered == number("requests")? && refused > 5000, "{said}");
    anyhow::ensure!(number("left")? == 0, "{said}");
    Ok(said.to_string())
}

fn own_kib(session: &mut Session) -> Result<u64> {
    let end = session.command("list", |m| m.is("builder", "list-end"))?;
    end.number("own-kib").with_context(|| format!("no size in {end}"))
}

fn flat(session: &mut Session, before: u64) -> Result<String> {
    let after = own_kib(session)?;
    anyhow::ensure!(after <= before + GROWTH_KIB, "{before} KiB, then {after} KiB");
    Ok(format!("{before} KiB, then {after} KiB"))
}

fn by_hypercalls(session: &mut Session) -> Result<String> {
    let end = said(session, "probes")?;
    let attempts = privileges::refused(&session.machine.lines(), TYPE)?;
    anyhow::ensure!(end.number("count") == Some(attempts) && attempts > 200, "{attempts} seen; {end}");
    Ok(format!("{attempts} attempts"))
}

fn cut_off(session: &mut Session) -> Result<String> {
    let is = |m: &Milestone| m.is("builder", "toolstack-cut-off");
    if session.timeline.find("builder", "toolstack-cut-off").is_none() {
        session.wait("Builder hangs up", PATIENCE, is)?;
    }
    let (_, milestone) = session.timeline.find("builder", "toolstack-cut-off").context("nothing said")?;
    anyhow::ensure!(milestone.number("domid") == Some(u64::from(RIVAL)), "{milestone}");
    Ok(milestone.to_string())
}
