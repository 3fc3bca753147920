//! A guest of XenStore. `probe.role` says what it does: `plain` reads and measures, `storm` makes transactions with three others
//! for `probe.seconds` once the `last` one is there, `tools` runs Debian's xenstore-* (files beside it), `flood` asks as much as it can,
//! `corrupt` and `stall` spoil their rings (see [`ennead_probe::hostile`]).
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ennead_probe::hostile::Ring;
use ennead_probe::options::{number, option};
use ennead_probe::xenbus::XenBus;
use ennead_runtime::Runtime;
use ennead_xen::Control;
use ennead_xs_wire::{Access, Errno, Perm, Request};
use tracing::info;

/// The four that make a storm, and the node that all of them count in: it is that of the guest which is built last.
const STORMERS: std::ops::Range<u16> = 20..24;
const LAST: u16 = 39;
const SHARED: &[u8] = b"/local/domain/39/data/shared";

fn main() -> ! {
    ennead_runtime::run(run)
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let mut bus = XenBus::open()?;
    connect(&mut bus)?;
    runtime.health.report()?;
    match option("role")?.as_str() {
        "storm" => storm(&mut bus)?,
        "last" => start_the_storm(&mut bus)?,
        "tools" => tools()?,
        "flood" => flood(&mut bus)?,
        role @ ("corrupt" | "stall") => {
            let control = Control::open()?;
            let ring = Ring::find(&control, &mut bus, number("frames")?)?;
            if role == "corrupt" {
                ring.corrupt()?
            } else {
                ring.stall(&mut bus)?
            };
        }
        _ => {}
    }
    measure(&mut bus)
}

/// A write, a read, and an event.
fn connect(bus: &mut XenBus) -> anyhow::Result<()> {
    let path = b"data/hello";
    bus.ask(&Request::Watch { path, token: b"t" })??;
    anyhow::ensure!(bus.event()? == path, "the first event is another");
    bus.ask(&Request::Write { path, value: b"world" })??;
    anyhow::ensure!(bus.event()? == path, "the event is another");
    anyhow::ensure!(bus.ask(&Request::Read { path })?? == b"world", "it reads as something else");
    bus.ask(&Request::Unwatch { path, token: b"t" })??;
    Ok(())
}

/// Tells the median of the time that a read takes, every few seconds.
fn measure(bus: &mut XenBus) -> anyhow::Result<Infallible> {
    loop {
        let mut times = Vec::new();
        for _ in 0..9 {
            let start = Instant::now();
            bus.ask(&Request::Read { path: b"data/hello" })??;
            times.push(start.elapsed().as_micros());
            std::thread::sleep(Duration::from_secs(1));
        }
        times.sort_unstable();
        info!(median_us = times.get(4).copied().unwrap_or_default(), "latency");
    }
}

fn count(bus: &mut XenBus, tx: u32, path: &[u8]) -> anyhow::Result<Result<u64, Errno>> {
    let value = match bus.ask_in(tx, &Request::Read { path })? {
        Ok(value) => value,
        Err(errno) => return Ok(Err(errno)),
    };
    Ok(Ok(std::str::from_utf8(&value)?.parse()?))
}

/// Permissions count only for domains that exist, so the four must be there before.
fn start_the_storm(bus: &mut XenBus) -> anyhow::Result<()> {
    bus.ask(&Request::Write { path: SHARED, value: b"0" })??;
    let mut perms = vec![Perm { access: Access::None, domid: LAST }];
    perms.extend(STORMERS.map(|domid| Perm { access: Access::Both, domid }));
    bus.ask(&Request::SetPerms { path: SHARED, perms })??;
    Ok(())
}

/// Adds 1 to the shared count and to its own in one transaction, again and again.
fn storm(bus: &mut XenBus) -> anyhow::Result<()> {
    bus.ask(&Request::Write { path: b"data/own", value: b"0" })??;
    while bus.ask(&Request::Read { path: SHARED })?.is_err() {
        std::thread::sleep(Duration::from_secs(1));
    }
    let end = Instant::now() + Duration::from_secs(number("seconds")?);
    let (mut committed, mut again) = (0_u64, 0_u64);
    while Instant::now() < end {
        let answer = bus.ask(&Request::TransactionStart)??;
        let tx: u32 = std::str::from_utf8(answer.strip_suffix(b"\0").unwrap_or(&answer))?.parse()?;
        let (shared, own) = (count(bus, tx, SHARED)?, count(bus, tx, b"data/own")?);
        let (shared, own) = (shared? + 1, own? + 1);
        bus.ask_in(tx, &Request::Write { path: SHARED, value: shared.to_string().as_bytes() })??;
        bus.ask_in(tx, &Request::Write { path: b"data/own", value: own.to_string().as_bytes() })??;
        match bus.ask_in(tx, &Request::TransactionEnd { commit: true })? {
            Ok(_) => committed += 1,
            Err(Errno::Eagain) => again += 1,
            Err(errno) => bail!("The end of a transaction: {errno}"),
        }
    }
    let own = count(bus, 0, b"data/own")??;
    info!(committed, again, own, "storm-done");
    Ok(())
}

/// Debian's programs, through the dynamic loader that lies beside them.
fn tools() -> anyhow::Result<()> {
    std::fs::set_permissions("/ld.so", std::fs::Permissions::from_mode(0o755))?;
    let tool = |arguments: &[&str]| {
        let mut command = Command::new("/ld.so");
        command.args(["--library-path", "/"]).args(arguments);
        command
    };
    let output = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = tool(arguments).output().with_context(|| arguments.join(" "))?;
        anyhow::ensure!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut watch =
        tool(&["/xenstore-watch", "-n", "2", "data/tool"]).stdout(std::process::Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_secs(2));
    output(&["/xenstore-write", "data/tool", "by Debian"])?;
    let read = output(&["/xenstore-read", "data/tool"])?;
    let list = output(&["/xenstore-ls", "data"])?;
    let mut events = String::new();
    std::io::Read::read_to_string(&mut watch.stdout.take().context("its output")?, &mut events)?;
    watch.wait()?;
    info!(read = %read.trim_end(), events = %events.trim_end().replace('\n', ","), listed = list.lines().count(), "tools-done");
    Ok(())
}

/// Large writes under a watch of its own, as fast as they are answered.
fn flood(bus: &mut XenBus) -> anyhow::Result<()> {
    info!("flood-starts");
    for i in 0..100_u32 {
        bus.ask(&Request::Watch { path: b"data", token: i.to_string().as_bytes() })??;
    }
    let value = [b'x'; 1900];
    loop {
        for i in 0..100_u32 {
            let path = format!("data/{i}");
            // A quota may be reached: that is its business.
            let _ = bus.ask(&Request::Write { path: path.as_bytes(), value: &value })?;
        }
        let _ = bus.ask(&Request::ResetWatches)?;
        for i in 0..100_u32 {
            bus.ask(&Request::Watch { path: b"data", token: i.to_string().as_bytes() })??;
        }
    }
}
