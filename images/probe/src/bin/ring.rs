//! A VM with a XenStore ring. It counts its starts in `data/starts`, crashes after the first (after each with
//! `probe.crash=always`), and else writes a growing number to `data/beat`.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ennead_probe::xenbus::XenBus;
use ennead_runtime::Runtime;
use ennead_xs_wire::{Errno, Request};
use tracing::info;

fn main() -> ! {
    ennead_runtime::run(run)
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let line = std::fs::read_to_string("/proc/cmdline").context("Cannot read the command line")?;
    let always = line.split_ascii_whitespace().any(|word| word == "probe.crash=always");
    let mut xenbus = XenBus::open()?;
    let starts = number(&mut xenbus, b"data/starts")? + 1;
    write(&mut xenbus, b"data/starts", starts)?;
    runtime.health.report()?;
    if starts == 1 || always {
        std::thread::sleep(Duration::from_millis(500));
        bail!("A test: crash after start {starts}");
    }
    for beat in number(&mut xenbus, b"data/beat")? + 1.. {
        write(&mut xenbus, b"data/beat", beat)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("The numbers have an end");
}

fn number(xenbus: &mut XenBus, path: &[u8]) -> anyhow::Result<u64> {
    match xenbus.ask(&Request::Read { path })? {
        Ok(value) => Ok(std::str::from_utf8(&value)?.parse()?),
        Err(Errno::Enoent) => Ok(0),
        Err(errno) => bail!("Cannot read {}: {errno}", path.escape_ascii()),
    }
}

fn write(xenbus: &mut XenBus, path: &[u8], value: u64) -> anyhow::Result<()> {
    let value = value.to_string();
    xenbus
        .ask(&Request::Write { path, value: value.as_bytes() })?
        .map(drop)
        .with_context(|| format!("Cannot write {}", path.escape_ascii()))
}
