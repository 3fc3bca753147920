//! One of the two hosts with its guests. It is stopped, unless it is measured.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::hosts::Guests;
use crate::cache::Cache;
use crate::crashes::Crashes;
use crate::first_guest::{self, PATIENCE};
use crate::host::Host;
use crate::operator::Operator;
use crate::progress::Progress;
use crate::qemu::Settings;
use crate::qmp::{self, Control};
use crate::relay;
use crate::session::Session;
use crate::step::Step;

/// MiB of the machine.
const MEMORY_MIB: u32 = 1536;
/// The guest on the other side of the bridge.
pub(super) const PEER: &str = "peer";
/// Its address.
pub(super) const ADDRESS: &str = "10.0.2.100";

/// A host that runs.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) session: Session,
    guests: Shells,
    control: Control,
    _folder: TempDir,
}

impl Side {
    /// Starts the host and its guests, and stops it. Its ISO, disk and log are made in `out`. QEMU's crashes are noted.
    ///
    /// # Errors
    /// When something does not come up.
    pub(super) fn start(
        cache: &Cache,
        host: &Host,
        out: &Path,
        program: &Path,
        guests: &Guests,
        crashes: &Crashes,
        step: &mut Step,
    ) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("Cannot make {}", out.display()))?;
        let (iso, image) = (out.join("host.iso"), out.join("disk.img"));
        host.write_iso(cache, Progress::Silent, &iso)?;
        let _ = fs::remove_file(&image);
        // Its path is short, as those of sockets must be.
        let folder = tempfile::tempdir().context("Cannot make a temporary folder")?;
        let socket = folder.path().join("control");
        let mut settings = Settings {
            lines: relay::lines(&host.plan),
            extra: qmp::at(&socket),
            crashes: crashes.clone(),
            ..Settings::emulated(iso, MEMORY_MIB, out.join("serial.log"))
        };
        first_guest::equip(&mut settings, cache, Progress::Silent, &image)?;
        step.note("the host starts");
        let mut session = Session::start(&settings, false)?;
        session.until_ready()?;
        // With as many processors as this machine has, small I/O would else measure its scheduler.
        session.machine.prefer_devices()?;
        let toolstack = settings.lines.first().context("The manifest has no toolstack")?;
        let operator = Operator { program: program.to_owned(), reach: session.operator(toolstack)? };
        let control = Control::open(&socket)?;
        step.note("its guests start");
        operator.ask(&["create", &guests.peer().display().to_string()])?;
        first_guest::boot_from(&operator, &guests.debian())?;
        operator.wait_for(PEER, "guest-ready", 1, PATIENCE)?;
        let mut side = Self { session, guests: Shells(operator), control, _folder: folder };
        side.peer(&format!("ifconfig eth0 {ADDRESS} netmask 255.255.255.0 up; iperf3 -s -D"))?;
        let answer = side.debian(&format!(
            "for n in $(seq 50); do ping -q -c 1 -W 1 {ADDRESS} && break; sleep 0.2; done"
        ))?;
        anyhow::ensure!(answer.contains(" 0% packet loss"), "The guests do not reach each other: {answer}");
        side.control.ask("stop", &Value::Null)?;
        Ok(side)
    }

    /// Lets it run meanwhile.
    pub(super) fn awake<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.control.ask("cont", &Value::Null)?;
        let done = work(self)?;
        self.control.ask("stop", &Value::Null)?;
        Ok(done)
    }

    /// Switches it off.
    pub(super) fn end(&mut self) -> Result<()> {
        self.control.ask("quit", &Value::Null)
    }

    /// Has Debian run a command; gives what it prints.
    pub(super) fn debian(&self, command: &str) -> Result<String> {
        self.guests.ask(first_guest::NAME, command)
    }

    /// The same of the other guest.
    pub(super) fn peer(&self, command: &str) -> Result<String> {
        self.guests.ask(PEER, command)
    }

    /// The guests' consoles, for another thread.
    pub(super) fn shells(&self) -> Shells {
        self.guests.clone()
    }
}

/// The guests' consoles.
#[derive(Debug, Clone)]
pub(super) struct Shells(Operator);

impl Shells {
    /// What a command prints in a guest. Its end is put together only when it runs, so the line that is typed does not show it.
    pub(super) fn ask(&self, guest: &str, command: &str) -> Result<String> {
        // Another each time: the console shows what was printed before.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
        let line = format!("echo begin-$((1+1))-{nonce}.; {command}; echo end-$((1+1))-{nonce}.");
        let seen = self.0.type_at(guest, &line, &format!("end-2-{nonce}."), PATIENCE)?;
        let (_, rest) = seen.rsplit_once(&format!("begin-2-{nonce}.")).context("no beginning")?;
        let (printed, _) = rest.split_once(&format!("end-2-{nonce}.")).context("no end")?;
        Ok(printed.trim().replace("\r\n", "\n"))
    }
}
