//! An operator's guests: PV and PVH, from TOML and from xl's configurations, through their whole lives.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Report, Setup, boot};
use crate::operator::{Operator, domid};
use crate::session::Session;
use crate::{guest, program};

/// For a guest's kernel in emulation.
const PATIENCE: Duration = Duration::from_secs(180);
/// For an answer to what is typed.
const TYPED: Duration = Duration::from_secs(60);
/// How often in one step QEMU may drop a guest.
const DROPS: u32 = 3;
/// The machine's memory: the thirty guests need most of it.
const MEMORY_MIB: u32 = 2560;
/// Small guests at once, and MiB of each.
const MANY: u32 = 30;
const SMALL_MIB: u32 = 32;
/// KiB of free memory that may differ afterwards: Xen keeps a little per domid for good.
const SLACK_KIB: u64 = 1024;
/// The toolstack's VM in the shipped manifest.
const TOOLSTACK: &str = "toolstack";

/// The guest that starts with the host.
const EARLY: &str = "early";

/// Guests that are created, one after the other, in the long scenario.
const CYCLES: u32 = 200;

/// A running host, its operator, and the configurations of guests.
struct Stage {
    session: Session,
    operator: Operator,
    folder: TempDir,
    _machine: TempDir,
}

impl Stage {
    fn start(setup: &Setup, report: &Report, name: &str) -> Result<Self> {
        let folder = setup.cache.temporary(name)?;
        configurations(setup, folder.path())?;
        let text = crate::xen::read(&setup.build.manifest)?;
        let text = text.replacen("memory-mib = 1024", &format!("memory-mib = {MEMORY_MIB}"), 1);
        let small = folder.path().join("small.toml").display().to_string();
        let host =
            setup.host_of(format!("{text}\n[guest.{EARLY}]\ntenant = \"main\"\nconfig = {small:?}\n"))?;
        let (machine, mut settings) = setup.changed_machine(&host, name)?;
        settings.memory_mib = MEMORY_MIB;
        let mut session = Session::start(&settings, report.show)?;
        session.until_ready()?;
        let operator = Operator {
            program: program::cli(&setup.cache, setup.progress)?,
            reach: session.operator(TOOLSTACK)?,
        };
        Ok(Self { session, operator, folder, _machine: machine })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Debian's kernel as PVH from TOML and as PV from xl's format, and a small guest.
fn configurations(setup: &Setup, folder: &Path) -> Result<()> {
    let files = guest::debian(&setup.cache, setup.progress)?;
    let small = guest::small_kernel(&setup.cache, setup.progress)?;
    let busybox = guest::ramdisk(&setup.cache, setup.progress, None)?;
    let (kernel, ramdisk) = (files.kernel.display(), files.ramdisk.display());
    let pvh = format!(
        "name = \"pvh\"\nkind = \"pvh\"\nkernel = \"{kernel}\"\nramdisk = \"{ramdisk}\"\n\
         cmdline = \"console=hvc0 quiet\"\nmemory-mib = 256\nvcpus = 2\non-crash = \"restart\"\n"
    );
    let pv = format!(
        "# As for xl\nname = 'pv'\ntype = \"pv\"\nkernel = \"{kernel}\"\nramdisk = \"{ramdisk}\"\n\
         extra = \"console=hvc0 quiet\"\nmemory = 256\nvcpus = 1\non_crash = 'destroy'\n"
    );
    let small = format!(
        "name = \"small\"\nkind = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 quiet\"\nmemory-mib = {SMALL_MIB}\nvcpus = 1\n",
        small.display(),
        busybox.display()
    );
    for (name, text) in [("pvh.toml", pvh), ("pv.cfg", pv), ("small.toml", small)] {
        std::fs::write(folder.join(name), text).with_context(|| format!("Cannot write {name}"))?;
    }
    Ok(())
}

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut stage = Stage::start(setup, report, "guests")?;
    let files = ["pvh.toml", "pv.cfg", "small.toml"].map(|name| stage.file(name));
    let [pvh, pv, small] = files.each_ref().map(PathBuf::as_path);
    let Stage { session, operator, .. } = &mut stage;
    report.check("a guest of the manifest starts without an operator", started_with_host(session, operator));
    report.check("`ennead host` shows the service VMs", services(operator));
    for (name, file) in [("pvh", pvh), ("pv", pv)] {
        life(report, session, operator, name, file);
    }
    // The first guest made what stays for all: `/vm`, and the toolstack's records' directory.
    let before = usage(session)?;
    report.check("a guest that does not exist is told by the exit code", no_such_guest(operator));
    report.check("thirty guests at once", many(operator, small));
    report.check("afterwards the host is as before", as_before(session, before));
    report.check("the toolstack is restarted under a guest", restarted(session, operator, small));
    report.check("the toolstack is restarted while it creates one", restarted_amid(session, operator, pv));
    report.check("no AVC denial", boot::no_denials(session));
    stage.session.power_off()
}

/// Two hundred guests, one after the other.
pub(super) fn cycles(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut stage = Stage::start(setup, report, "cycles")?;
    let small = stage.file("small.toml");
    let Stage { session, operator, .. } = &mut stage;
    report.check("a first guest", cycle(operator, &small).map(|()| String::new()));
    let before = usage(session)?;
    let start = Instant::now();
    let all = (0..CYCLES).try_for_each(|_| cycle(operator, &small));
    report.check("200 guests come and go", all.map(|()| format!("{:.1?}", start.elapsed())));
    report.check("afterwards the host is as before", as_before(session, before));
    report.check("no AVC denial", boot::no_denials(session));
    stage.session.power_off()
}

fn cycle(operator: &Operator, file: &Path) -> Result<()> {
    operator.ask(&["create", &file.display().to_string()])?;
    operator.ask(&["destroy", "small"])?;
    gone(operator, "small")
}

/// A guest's whole life.
fn life(report: &mut Report, session: &mut Session, operator: &Operator, name: &str, file: &Path) {
    let start = Instant::now();
    let created = operator.ask(&["create", &file.display().to_string()]);
    let took = start.elapsed();
    if !report.check(
        &format!("{name}: created"),
        created.map(|guest| format!("domid {}, {took:.1?}", domid(&guest))),
    ) {
        return;
    }
    report.check(
        &format!("{name}: boots to its shell"),
        operator
            .wait_for(name, "guest-ready", 1, PATIENCE)
            .map(|()| format!("{:.1?} after `create`", start.elapsed())),
    );
    let mut step = |what: &str, does: &dyn Fn(&mut Session) -> Result<String>| {
        let outcome = unless_dropped(session, does);
        report.check(&format!("{name}: {what}"), outcome);
    };
    step("its console works both ways", &|_| {
        operator.type_at(name, "echo $((40+2))-works", "42-works", TYPED).map(|_| String::new())
    });
    step("Debian's XenStore tools work inside", &|_| tools(operator, name));
    step("pause and unpause", &|_| paused(operator, name));
    step("reboots when asked", &|_| rebooted(operator, name));
    step("a crash is handled as configured", &|session| crashed(session, operator, name));
    step("shuts down when asked", &|_| shut_down(operator, name, file));
    step("destroyed", &|_| destroyed(operator, name, file));
}

/// Does a step, and again if the emulated processor dropped the guest meanwhile: QEMU 7.2 now and then goes on in a PVH guest with
/// the instruction pointer of Xen's own `vmrun`, which ends the guest by a triple fault. Xen says so, and the toolstack starts it anew.
fn unless_dropped(session: &mut Session, does: &dyn Fn(&mut Session) -> Result<String>) -> Result<String> {
    let mut before = drops(session);
    let mut outcome = does(session);
    for _ in 0..DROPS {
        let now = drops(session);
        if outcome.is_ok() || now == before {
            break;
        }
        before = now;
        outcome = does(session).map(|said| format!("{said}; again, after a triple fault in QEMU"));
    }
    outcome
}

/// How often Xen has said so.
pub(super) fn drops(session: &mut Session) -> usize {
    session.idle(Duration::ZERO);
    session.machine.lines().iter().filter(|line| line.text.contains("Triple fault")).count()
}

/// It runs, and is destroyed: it does not come back when the toolstack does.
fn started_with_host(session: &mut Session, operator: &Operator) -> Result<String> {
    let (at, _) = session.wait("the manifest's guest", PATIENCE, |m| m.is(TOOLSTACK, "guests-started"))?;
    operator.wait_for(EARLY, "guest-ready", 1, PATIENCE)?;
    operator.ask(&["destroy", EARLY])?;
    gone(operator, EARLY)?;
    Ok(format!("created {at:.1?} after power-on"))
}

fn services(operator: &Operator) -> Result<String> {
    let host = operator.ask(&["host"])?;
    let services = host.get("services").and_then(Value::as_array).context("no services")?;
    let running = |name: &str| {
        services.iter().any(|service| {
            service.get("name").and_then(Value::as_str) == Some(name)
                && service.get("state").and_then(Value::as_str) == Some("running")
        })
    };
    for name in ["builder", "pciback", "xenstore-state", "xenstore-logic", TOOLSTACK] {
        anyhow::ensure!(running(name), "{name} does not run: {host}");
    }
    Ok(format!("{} VMs", services.len()))
}

fn tools(operator: &Operator, name: &str) -> Result<String> {
    let domid = operator.domid(name)?;
    operator.type_at(name, "echo is-$(xenstore-read domid)-it", &format!("is-{domid}-it"), TYPED)?;
    let home = format!("/local/domain/{domid}");
    // Not all of it is printed: QEMU drops a PVH guest that is busy with its console more often.
    let nodes = ["name", "memory/target", "control/shutdown", "console/port", "vm"];
    let list = format!("xenstore-ls -f {home} | grep -E '/({}) ='; echo end-of-$((1+1))", nodes.join("|"));
    let listed = operator.type_at(name, &list, "end-of-2", TYPED)?;
    for node in nodes {
        anyhow::ensure!(listed.contains(&format!("{home}/{node} =")), "no {node} in {listed}");
    }
    Ok(format!("domid {domid}"))
}

fn state_is(operator: &Operator, name: &str, state: &'static str) -> Result<()> {
    let is = |guests: &[(String, String)]| guests.iter().any(|(n, s)| n == name && s == state);
    operator.wait_until(&format!("{name} is {state}"), PATIENCE, is)
}

fn gone(operator: &Operator, name: &str) -> Result<()> {
    operator.wait_until(&format!("{name} is gone"), PATIENCE, |guests| !guests.iter().any(|(n, _)| n == name))
}

fn paused(operator: &Operator, name: &str) -> Result<String> {
    operator.ask(&["pause", name])?;
    state_is(operator, name, "paused")?;
    operator.ask(&["unpause", name])?;
    state_is(operator, name, "running")?;
    operator.type_at(name, "echo $((50+5))-again", "55-again", TYPED)?;
    Ok(String::new())
}

fn rebooted(operator: &Operator, name: &str) -> Result<String> {
    let before = operator.domid(name)?;
    operator.ask(&["reboot", name])?;
    ready_again(operator, name, before)
}

/// Waits until a guest has another domid and is ready.
fn ready_again(operator: &Operator, name: &str, before: u64) -> Result<String> {
    let now = operator.another_domid(name, before, PATIENCE)?;
    answers(operator, name, now)?;
    Ok(format!("was domid {before}"))
}

/// Another text for each domid: the console keeps what was printed before.
fn answers(operator: &Operator, name: &str, domid: u64) -> Result<()> {
    let (line, end) = (format!("echo back-$(({domid}+1))-"), format!("back-{}-", domid + 1));
    operator.type_at(name, &line, &end, TYPED).map(|_| ())
}

fn crashed(session: &mut Session, operator: &Operator, name: &str) -> Result<String> {
    let before = operator.domid(name)?;
    let info = operator.ask(&["info", name])?;
    let restarts = info.pointer("/config/on-crash").and_then(Value::as_str) == Some("restart");
    // It never answers; the crash is seen by what follows.
    let _ = operator.type_at(
        name,
        "echo c > /proc/sysrq-trigger",
        "no answer to a crash",
        Duration::from_secs(2),
    );
    session.idle(Duration::ZERO);
    if restarts {
        return ready_again(operator, name, before).map(|was| format!("restarted, {was}"));
    }
    gone(operator, name)?;
    Ok("destroyed".to_owned())
}

/// Asks a guest to shut down. One that crashed for good is created anew.
fn shut_down(operator: &Operator, name: &str, file: &Path) -> Result<String> {
    again(operator, name, file)?;
    let start = Instant::now();
    operator.ask(&["shutdown", name])?;
    gone(operator, name)?;
    Ok(format!("{:.1?}", start.elapsed()))
}

fn again(operator: &Operator, name: &str, file: &Path) -> Result<()> {
    if !operator.guests()?.iter().any(|(n, _)| n == name) {
        operator.ask(&["create", &file.display().to_string()])?;
        operator.wait_for(name, "guest-ready", 1, PATIENCE)?;
    }
    Ok(())
}

fn destroyed(operator: &Operator, name: &str, file: &Path) -> Result<String> {
    again(operator, name, file)?;
    let start = Instant::now();
    operator.ask(&["destroy", name])?;
    gone(operator, name)?;
    Ok(format!("{:.1?}", start.elapsed()))
}

fn no_such_guest(operator: &Operator) -> Result<String> {
    let (code, said) = operator.fails(&["info", "nobody"])?;
    anyhow::ensure!(code == 4, "exit code {code}: {said}");
    Ok(said.trim().to_owned())
}

fn many(operator: &Operator, file: &Path) -> Result<String> {
    let file = file.display().to_string();
    let start = Instant::now();
    for n in 1..=MANY {
        operator.ask(&["create", &file, "--name", &format!("small-{n}")])?;
    }
    let created = start.elapsed();
    let guests = operator.guests()?;
    let running = guests.iter().filter(|(_, state)| state == "running").count();
    anyhow::ensure!(u32::try_from(running)? == MANY, "{guests:?}");
    for name in [1, MANY / 2, MANY] {
        operator.wait_for(&format!("small-{name}"), "guest-ready", 1, PATIENCE)?;
    }
    let start = Instant::now();
    for n in 1..=MANY {
        operator.ask(&["destroy", &format!("small-{n}")])?;
    }
    operator.wait_until("all are gone", PATIENCE, <[_]>::is_empty)?;
    Ok(format!("created in {created:.1?}, destroyed in {:.1?}", start.elapsed()))
}

/// Free memory in KiB, and XenStore's nodes.
fn usage(session: &mut Session) -> Result<(u64, u64)> {
    // A guest is gone for its operator a moment before its last pages and its tree are.
    session.idle(Duration::from_secs(3));
    let end = session.command("list", |m| m.is("builder", "list-end"))?;
    let number = |key| end.number(key).with_context(|| format!("no {key} in {end}"));
    Ok((number("free-kib")?, number("nodes")?))
}

fn as_before(session: &mut Session, before: (u64, u64)) -> Result<String> {
    let (free, nodes) = usage(session)?;
    let leak = before.0.saturating_sub(free);
    anyhow::ensure!(leak <= SLACK_KIB, "{leak} KiB less free");
    anyhow::ensure!(nodes == before.1, "{} nodes of XenStore before, {nodes} now", before.1);
    Ok(format!("{leak} KiB less free, {nodes} nodes as before"))
}

fn restarted(session: &mut Session, operator: &Operator, file: &Path) -> Result<String> {
    operator.ask(&["create", &file.display().to_string(), "--name", "stays"])?;
    operator.wait_for("stays", "guest-ready", 1, PATIENCE)?;
    let before = operator.domid("stays")?;
    let start = Instant::now();
    session.command("kill toolstack", |m| m.is("builder", "healthy") && m.value("vm") == Some(TOOLSTACK))?;
    let back = start.elapsed();
    let now = operator.domid("stays")?;
    anyhow::ensure!(now == before, "domid {now}, before {before}");
    operator.type_at("stays", "echo $((70+7))-still", "77-still", PATIENCE)?;
    let guests = operator.guests()?;
    anyhow::ensure!(guests.len() == 1, "what was destroyed has come back: {guests:?}");
    operator.ask(&["destroy", "stays"])?;
    operator.wait_until("it is gone", PATIENCE, <[_]>::is_empty)?;
    Ok(format!("back after {back:.1?}"))
}

/// The toolstack dies while a guest is half built: the guest is gone or completes, and the new toolstack tells which.
fn restarted_amid(session: &mut Session, operator: &Operator, file: &Path) -> Result<String> {
    let creating = {
        let (operator, file) = (operator.clone(), file.display().to_string());
        std::thread::spawn(move || operator.ask(&["create", &file]).map(|guest| domid(&guest)))
    };
    session.wait("the guest is begun", PATIENCE, |m| {
        m.is("builder", "guest-begun") && m.value("name") == Some("pv")
    })?;
    session.command("kill toolstack", |m| m.is("builder", "healthy") && m.value("vm") == Some(TOOLSTACK))?;
    // The client may have asked again when the connection broke.
    let created = creating.join().map_err(|_| anyhow::anyhow!("the operator panicked"))?;
    let guests = operator.guests()?;
    let there = guests.iter().any(|(name, _)| name == "pv");
    anyhow::ensure!(there == created.is_ok(), "the operator was told {created:?}, but there are {guests:?}");
    if there {
        operator.ask(&["destroy", "pv"])?;
        gone(operator, "pv")?;
    }
    let list = session.list()?;
    anyhow::ensure!(list.vms.iter().all(|vm| vm.domid < 1024), "domains are left: {:?}", list.vms);
    Ok(if there {
        "it completed".to_owned()
    } else {
        format!("{:#}", created.err().unwrap_or_else(|| anyhow::anyhow!("gone")))
    })
}
