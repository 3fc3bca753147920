//! Twenty guests of XenStore on Xen: Debian's tools, a storm of transactions while Logic is killed, guests that mean harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ennead_xenstore_check::peer::Peers;

use super::{Report, Setup, boot};
use crate::session::Session;

/// How long a storm may take.
const PATIENCE: Duration = Duration::from_secs(500);
/// Guests, all with a ring; domids from 20. The first four make the storm, the fifth has the tools,
/// the last one says when it begins.
const GUESTS: u16 = 20;
const FIRST: u16 = 20;
const STORMERS: u16 = 4;
/// Seconds that the storm lasts.
const STORM: u32 = 240;
/// How often Logic is killed meanwhile.
const KILLS: usize = 20;
/// Time in which the storm must get on after each kill.
const PAUSE: Duration = Duration::from_secs(2);
/// The machine's memory.
const MEMORY_MIB: u32 = 2048;
/// What guests do that mean harm, one after the other.
const HOSTILE: [&str; 3] = ["flood", "corrupt", "stall"];
/// Seconds that latencies are looked at.
const LOOK: Duration = Duration::from_secs(30);

fn guest(domid: u16, role: &str, autostart: bool) -> String {
    let name = domid - FIRST + 1;
    format!(
        "\n[vm.g{name}]\nkind = \"toolstack\"\ndomid = {domid}\nkernel = \"service\"\n\
         kernel-options = \"probe.role={role} probe.seconds={STORM}\"\nprogram = \"probe-store\"\nmemory-mib = 32\n\
         autostart = {autostart}\nafter = [\"xenstore-logic\"]\nxenstore = \"a test\"\nrestart = {{ policy = \"never\" }}\n\
         [vm.g{name}.may]\nwrite-host-console = \"a test\"\n"
    )
}

/// Debian's tools and what they need to run.
fn tools() -> Result<Vec<(String, Vec<u8>)>> {
    let peers = Peers::get()?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("Cannot read {}", path.display()));
    let mut files = Vec::new();
    for name in ["xenstore-ls", "xenstore-read", "xenstore-write", "xenstore-watch"] {
        files.push((name.to_owned(), read(&peers.tool(name))?));
    }
    files.push(("ld.so".to_owned(), read(Path::new("/lib64/ld-linux-x86-64.so.2"))?));
    for name in ["libc.so.6", "libxenstore.so.4", "libxentoolcore.so.1"] {
        files.push((name.to_owned(), read(&Path::new("/lib/x86_64-linux-gnu").join(name))?));
    }
    Ok(files)
}

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut text = crate::xen::read(&setup.build.manifest)?.replacen(
        "memory-mib = 1024",
        &format!("memory-mib = {MEMORY_MIB}"),
        1,
    );
    for domid in FIRST..FIRST + GUESTS {
        let role = match domid - FIRST {
            0..STORMERS => "storm",
            STORMERS => "tools",
            n if n + 1 == GUESTS => "last",
            _ => "plain",
        };
        let _ = write!(text, "{}", guest(domid, role, true));
    }
    let mut kernel_options = BTreeMap::new();
    for (domid, role) in (FIRST + GUESTS..).zip(HOSTILE) {
        let _ = write!(text, "{}", guest(domid, role, false));
        // It finds its ring among the machine's frames, which Linux does not let a program map otherwise.
        let options = format!("probe.frames={} xen_privcmd.unrestricted", MEMORY_MIB * 256);
        kernel_options.insert(format!("g{}", domid - FIRST + 1), options);
    }
    let mut build = setup.build.clone();
    build.text = Some(text);
    build.kernel_options = kernel_options;
    build.files.insert("probe-store".to_owned(), tools()?);
    let host = crate::host::build(&setup.cache, crate::progress::Progress::Silent, &build)?;
    let (_folder, mut settings) = setup.changed_machine(&host, "storm")?;
    settings.memory_mib = MEMORY_MIB;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    report.check("20 guests write, read and watch", connected(&session));
    report.check("Debian's tools work in a guest", tools_work(&mut session));
    report.check("Logic is killed 20 times during a storm", killed(&mut session));
    report.check("every transaction committed or saw EAGAIN, none is lost or doubled", counted(&mut session));
    for (number, role) in (GUESTS + 1..).zip(HOSTILE) {
        let name = format!("a guest that does its worst ({role}) hurts only itself");
        report.check(&name, hostile(&mut session, &format!("g{number}"), role));
    }
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

fn connected(session: &Session) -> Result<String> {
    let healthy = |n: u16| {
        let name = format!("g{n}");
        let entries = session.timeline.entries();
        entries.iter().any(|(_, m)| m.is("builder", "healthy") && m.value("vm") == Some(name.as_str()))
    };
    let missing: Vec<u16> = (1..=GUESTS).filter(|n| !healthy(*n)).collect();
    anyhow::ensure!(missing.is_empty(), "not connected: {missing:?}");
    Ok(format!("{GUESTS} guests"))
}

fn tools_work(session: &mut Session) -> Result<String> {
    let name = format!("g{}", STORMERS + 1);
    if session.timeline.find(&name, "tools-done").is_none() {
        session.wait("Debian's tools", PATIENCE, |m| m.is(&name, "tools-done"))?;
    }
    let (_, done) = session.timeline.find(&name, "tools-done").context("no word of the tools")?;
    anyhow::ensure!(done.value("read") == Some("by Debian"), "{done}");
    anyhow::ensure!(done.value("events") == Some("data/tool,data/tool"), "{done}");
    Ok(done.to_string())
}

fn killed(session: &mut Session) -> Result<String> {
    let mut counted = shared(session)?;
    for kill in 0..KILLS {
        session.command("kill xenstore-logic", |m| {
            m.is("builder", "healthy") && m.value("vm") == Some("xenstore-logic")
        })?;
        session.idle(PAUSE);
        let now = shared(session)?;
        anyhow::ensure!(now > counted, "after kill {kill} the storm makes no progress: {now} counted");
        counted = now;
    }
    let over =
        (1..=STORMERS).filter(|n| session.timeline.find(&format!("g{n}"), "storm-done").is_some()).count();
    anyhow::ensure!(over == 0, "the storm was over before: make it longer");
    Ok(format!("{KILLS} times"))
}

fn counted(session: &mut Session) -> Result<String> {
    let (mut committed, mut again) = (0, 0);
    for n in 1..=STORMERS {
        let name = format!("g{n}");
        if session.timeline.find(&name, "storm-done").is_none() {
            session.wait("the end of the storm", PATIENCE, |m| m.is(&name, "storm-done"))?;
        }
        let (_, done) = session.timeline.find(&name, "storm-done").context("no end of the storm")?;
        let number = |key: &str| done.number(key).with_context(|| format!("no {key} in {done}"));
        anyhow::ensure!(number("own")? == number("committed")?, "{done}");
        committed += number("committed")?;
        again += number("again")?;
    }
    let shared = shared(session)?;
    anyhow::ensure!(shared == committed, "{shared} counted, {committed} committed");
    anyhow::ensure!(committed > 0, "none committed");
    Ok(format!("{committed} committed, {again} saw EAGAIN"))
}

/// What the four have counted together.
fn shared(session: &mut Session) -> Result<u64> {
    let path = format!("/local/domain/{}/data", FIRST + GUESTS - 1);
    let nodes = session.store(&path)?;
    let shared = nodes.get(&format!("{path}/shared")).with_context(|| format!("no count in {nodes:?}"))?;
    shared.parse().with_context(|| format!("{shared} is no count"))
}

/// The median of what plain guests measure from now on, microseconds.
fn latency(session: &mut Session) -> Result<u64> {
    let before = session.timeline.entries().len();
    session.idle(LOOK);
    let entries = session.timeline.entries().get(before..).unwrap_or_default();
    let mut all: Vec<u64> = entries
        .iter()
        .filter(|(_, m)| m.name == "latency")
        .filter_map(|(_, m)| m.number("median-us"))
        .collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().context("nobody measured")
}

/// Others' latency without it and beside it.
fn hostile(session: &mut Session, name: &str, role: &str) -> Result<String> {
    let quiet = latency(session)?;
    let starts = format!("{role}-starts");
    session.command(&format!("build {name}"), |m| m.is(name, &starts))?;
    let beside = latency(session)?;
    session.command(&format!("destroy {name}"), |m| m.is("builder", "destroyed"))?;
    let said = format!("median of a read {quiet} us, beside it {beside} us");
    anyhow::ensure!(beside * 2 <= quiet * 3, "{said}: more than 1.5 times");
    Ok(said)
}
