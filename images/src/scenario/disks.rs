//! Disks beyond those of `drivers`: a PVH guest boots from one, through GRUB's 32-bit ring; volumes are created, lent, copied,
//! enlarged under a guest and deleted, and blkback is killed meanwhile; a guest that runs is given one, and it is taken again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::drivers::{Small, machine, operator};
use super::guests::drops;
use super::{Report, Setup, boot};
use crate::first_guest;
use crate::operator::Operator;
use crate::session::Session;

/// The volume, and its size: more than [`Small::writes`] writes.
const VOLUME: &str = "data";
const SIZE: &str = "72M";
const LARGER: &str = "80M";
const LARGEST: &str = "88M";
/// Another, what the guest sees it as, and how long it may take to show or to go there.
const EXTRA: &str = "extra";
const VDEV: &str = "xvdc";
const SHOWN: Duration = Duration::from_secs(10);
/// What it says once it has booted.
const READY: &str = "guest-ready";
/// Kills of blkback while a volume is made, and while a guest writes to one.
const KILLS: u32 = 2;

pub(super) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let folder = setup.cache.temporary("disks")?;
    let (pvh, small) = (pvh_of_debian(folder.path())?, folder.path().join("small.toml"));
    Small::configure(setup, &small)?;
    let on_volume = on_a_volume(&small)?;
    let (settings, _) = machine(setup, "disks")?;
    let mut session = Session::start(&settings, report.show)?;
    session.until_ready()?;
    let operator = operator(setup, &mut session)?;
    volumes(&mut session, &operator, &on_volume, report);
    boots(&mut session, &operator, &pvh, report);
    report.check("no AVC denial", boot::no_denials(&session));
    session.power_off()
}

/// Debian's configuration as that of a PVH guest: GRUB is a 32-bit program there, Linux is not.
fn pvh_of_debian(folder: &Path) -> Result<PathBuf> {
    let text = crate::xen::read(&first_guest::configuration())?;
    let pvh = text.replacen("kind = \"pv\"", "kind = \"pvh\"", 1);
    anyhow::ensure!(pvh != text, "Debian's configuration has no kind");
    let file = folder.join("pvh.toml");
    std::fs::write(&file, pvh).context("Cannot write the guest's configuration")?;
    Ok(file)
}

/// The small guest's, with a volume as its disk.
fn on_a_volume(small: &Path) -> Result<PathBuf> {
    let text = crate::xen::read(small)?;
    let changed = text.replacen("label:scratch", &format!("volume:{VOLUME}"), 1);
    anyhow::ensure!(changed != text, "The small guest's configuration has no disk");
    let file = small.with_file_name("volume.toml");
    std::fs::write(&file, changed).context("Cannot write the guest's configuration")?;
    Ok(file)
}

fn boots(session: &mut Session, operator: &Operator, file: &Path, report: &mut Report) {
    let login = || first_guest::boot_from(operator, file).map(|took| format!("{took:.1?} after `create`"));
    let seen = unless_dropped(session, "a PVH Debian boots from its own disk to a login", login, report);
    let reboots = || first_guest::reboots(operator);
    if seen && unless_dropped(session, "it reboots and keeps what it wrote", reboots, report) {
        report.check("it shuts down", first_guest::shut_down(operator).map(|()| String::new()));
    }
}

/// A step, which is only told of if it failed because QEMU 7.2 ended the guest by triple faults, as it does now and then: each
/// costs more time than the step has. Gives whether it held.
fn unless_dropped(
    session: &mut Session,
    what: &str,
    does: impl FnOnce() -> Result<String>,
    report: &mut Report,
) -> bool {
    let before = drops(session);
    let outcome = does();
    let dropped = drops(session).saturating_sub(before);
    if outcome.is_err() && dropped > 0 {
        report.figure(what, format!("not seen: QEMU ended it {dropped} times by a triple fault"));
        return false;
    }
    report.check(what, outcome)
}

fn volumes(session: &mut Session, operator: &Operator, file: &Path, report: &mut Report) {
    let ask = |arguments: &[&str]| operator.ask(&[&["volume"], arguments].concat());
    // Its first answer may be long in coming, and what creates is not asked twice.
    if !report.check("there are no volumes at first", ask(&["list"]).map(|all| all.to_string())) {
        return;
    }
    let made = while_killed(session, || {
        let start = Instant::now();
        let volume = ask(&["create", VOLUME, "--size", SIZE])?;
        Ok(format!("{} bytes in {:.1?}", number(&volume, "bytes")?, start.elapsed()))
    });
    if !report.check("a volume is created while blkback is killed", made) {
        return;
    }
    report.check("there is no second of its name", refused(operator, &["create", VOLUME, "--size", SIZE]));
    let guest = Small::of(operator);
    if !report.check("a guest with it as its disk is created", guest.created(file)) {
        return;
    }
    report.check("what it writes there is there", guest.writes("first"));
    report.check(
        "blkback is killed under it, and it goes on",
        while_killed(session, || guest.writes("while killed")),
    );
    report.check("a volume of a guest is not deleted", refused(operator, &["delete", VOLUME]));
    let larger = while_killed(session, || {
        ask(&["resize", VOLUME, "--size", LARGER])?;
        has_size(&guest, "xvda", LARGER)
    });
    report.check("it is enlarged under the guest while blkback is killed, and the guest sees that", larger);
    let written =
        guest.0.run("dd if=/bin/busybox of=/dev/xvda bs=1M count=1 seek=79 conv=notrunc 2>&1 | grep copied");
    report.check("the guest writes to its new end", written);
    report.check("its kernel saw no fault", guest.0.no_trouble().map(|()| String::new()));
    hotplug(operator, &guest, report);
    report.check("nor since it booted again", guest.0.no_trouble().map(|()| String::new()));
    let sum = guest.0.run("md5sum < /dev/xvda");
    report.check("the guest ends", guest.0.ends());
    let copied = ask(&["copy", VOLUME, "copy"]).and_then(|_| ask(&["resize", "copy", "--size", LARGEST]));
    let copied = copied.and_then(|_| ask(&["delete", VOLUME]));
    report.check("it is copied, the copy enlarged, and it is deleted", copied.map(|_| String::new()));
    report.check("the copy has its content", sum.and_then(|sum| same(operator, file, &sum)));
    let gone = ask(&["delete", "copy"]).and_then(|_| ask(&["list"])).and_then(|all| {
        let left = all.get("volumes").and_then(Value::as_array).map_or(0, Vec::len);
        anyhow::ensure!(left == 0, "{all}");
        Ok(format!("{} bytes are free", number(&all, "free-bytes")?))
    });
    report.check("nothing is left", gone);
}

/// A disk that comes while the guest runs, is there after its reboot, and goes.
fn hotplug(operator: &Operator, guest: &Small<'_>, report: &mut Report) {
    let name = guest.0.name;
    let attach = |vdev: &str, source: &str| operator.ask(&["disk", "attach", name, vdev, source]);
    let source = format!("volume:{EXTRA}");
    let attached = operator.ask(&["volume", "create", EXTRA, "--size", "8M"]).and_then(|_| {
        let start = Instant::now();
        attach(VDEV, &source)?;
        let took = start.elapsed();
        Ok(format!("{}, {took:.1?}", has_size(guest, VDEV, "8M")?))
    });
    if !report.check("a guest that runs is given another", attached) {
        return;
    }
    let sum = format!("dd if=/dev/{VDEV} bs=1M 2>/dev/null | md5sum");
    let fill = format!("dd if=/dev/urandom of=/dev/{VDEV} bs=1M count=8 2>/dev/null; sync; {sum}");
    let before = guest.0.run(&fill);
    for (vdev, source, code) in
        [(VDEV, &*source, 1), ("xvdd", &*source, 1), ("xvdd", "volume:no", 4), ("xvdd", "label:no", 1)]
    {
        let refused = operator.fails(&["disk", "attach", name, vdev, source]).and_then(|(found, said)| {
            anyhow::ensure!(found == code, "{found}: {said}");
            Ok(said.lines().next().unwrap_or_default().to_owned())
        });
        report.check(&format!("{source} as {vdev} is refused"), refused);
    }
    let rebooted = operator.domid(name).and_then(|domid| {
        let ready = operator.log(name)?.matches(READY).count();
        operator.ask(&["reboot", name])?;
        operator.another_domid(name, domid, first_guest::PATIENCE)?;
        operator.wait_for(name, READY, ready + 1, first_guest::PATIENCE)?;
        let (before, after) = (before?, guest.0.run(&sum)?);
        anyhow::ensure!(before == after, "{before}, then {after}");
        Ok(after)
    });
    report.check("it has it with all that it wrote after its reboot", rebooted);
    let start = Instant::now();
    let detached = operator.ask(&["disk", "detach", name, VDEV]).and_then(|_| {
        let took = start.elapsed();
        until(guest, &format!("[ -e /sys/block/{VDEV} ] || echo gone"), "gone")?;
        Ok(format!("{took:.1?}"))
    });
    report.check("it is taken from the guest", detached);
    let deleted = operator.ask(&["volume", "delete", EXTRA]);
    report.check("and can be deleted", deleted.map(|_| String::new()));
}

/// Waits until the guest sees a disk of this size.
fn has_size(guest: &Small<'_>, vdev: &str, size: &str) -> Result<String> {
    let sectors = size.trim_end_matches('M').parse::<u64>()? << 11;
    until(guest, &format!("cat /sys/block/{vdev}/size"), &sectors.to_string())?;
    Ok(format!("{sectors} sectors"))
}

/// Waits until the guest answers this.
fn until(guest: &Small<'_>, command: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + SHOWN;
    loop {
        let said = guest.0.run(command)?;
        if said == wanted {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{said:?}, not {wanted:?}");
    }
}

/// A guest that has the copy reads what was in the volume.
fn same(operator: &Operator, file: &Path, sum: &str) -> Result<String> {
    let text = crate::xen::read(file)?.replacen(&format!("volume:{VOLUME}"), "volume:copy", 1);
    let file = file.with_file_name("copy.toml");
    std::fs::write(&file, text).context("Cannot write the guest's configuration")?;
    let guest = Small::of(operator);
    guest.created(&file)?;
    let mib = LARGER.trim_end_matches('M');
    let found = guest.0.run(&format!("dd if=/dev/xvda bs=1M count={mib} 2>/dev/null | md5sum"))?;
    anyhow::ensure!(found == sum, "{found}, not {sum}");
    guest.0.ends()?;
    Ok(found)
}

/// Does `work` while blkback is killed and built again, as often as is said.
fn while_killed(session: &mut Session, work: impl FnOnce() -> Result<String> + Send) -> Result<String> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        let killed = (0..KILLS).try_for_each(|_| {
            session.idle(Duration::from_millis(700));
            session
                .command("kill blkback", |m| m.is("builder", "healthy") && m.value("vm") == Some("blkback"))
                .map(drop)
        });
        let worked = worker.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        killed?;
        Ok(format!("{}; {KILLS} kills", worked?))
    })
}

fn refused(operator: &Operator, arguments: &[&str]) -> Result<String> {
    let (code, said) = operator.fails(&[&["volume"], arguments].concat())?;
    anyhow::ensure!(code == 1, "{code}: {said}");
    Ok(said.trim().to_owned())
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value.get(key).and_then(Value::as_u64).with_context(|| format!("no {key} in {value}"))
}
