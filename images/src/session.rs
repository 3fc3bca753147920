//! A host in QEMU: follows its milestones, and asks Builder on the serial console.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::milestone::Milestone;
use crate::operator::Reach;
use crate::qemu::{Line, Machine, Settings};
use crate::relay::Relay;
use crate::table::{RunningVm, VmList};
use crate::timeline::Timeline;

/// For anything that the host does by itself; generous, since emulation on a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// For an answer to a command.
const ANSWER: Duration = Duration::from_secs(60);

/// Milestones after which the host does not become ready.
const FATAL: [&str; 4] = ["failed", "host-stopped", "bootstrapper-failed", "panic"];

/// A running host.
#[derive(Debug)]
pub struct Session {
    /// The machine.
    pub machine: Machine,
    /// What has happened.
    pub timeline: Timeline,
    /// Sockets for operators, by toolstack.
    relays: BTreeMap<String, Relay>,
    /// Where they are.
    folder: PathBuf,
}

impl Session {
    /// Switches the machine on. With `show`, the timeline is printed as it happens.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(settings: &Settings, show: bool) -> Result<Self> {
        let folder = settings.log.parent().map(PathBuf::from).unwrap_or_default();
        let machine = Machine::start(settings)?;
        Ok(Self { machine, timeline: Timeline::new(show), relays: BTreeMap::new(), folder })
    }

    /// The socket at which operators reach a toolstack: `NAME.sock` beside the serial console's log. It stays as long as the session.
    ///
    /// # Errors
    /// When the VM has no line, or the socket cannot be made.
    pub fn operator(&mut self, toolstack: &str) -> Result<Reach> {
        if let Some(relay) = self.relays.get(toolstack) {
            return Ok(Reach::Socket(relay.socket().to_owned()));
        }
        let socket = self.folder.join(format!("{toolstack}.sock"));
        let relay = Relay::start(&self.machine.port(toolstack), &socket)?;
        self.relays.insert(toolstack.to_owned(), relay);
        Ok(Reach::Socket(socket))
    }

    /// Waits for a milestone that `wanted` picks. What else happens goes to the timeline.
    ///
    /// # Errors
    /// When it does not come in time, or one comes after which it cannot come, or the machine goes off.
    pub fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Milestone) -> bool,
    ) -> Result<(Duration, Milestone)> {
        let timeline = &mut self.timeline;
        self.machine.wait(what, timeout, |line| {
            let milestone = timeline.observe(line)?;
            if wanted(&milestone) {
                return Some(Ok((line.at, milestone)));
            }
            let fatal = FATAL.contains(&milestone.name.as_str()) || milestone.is("bootstrapper", "refused");
            fatal.then(|| Err(anyhow::anyhow!("{milestone}")))
        })
    }

    /// Waits until the host runs without domain 0. Gives the time since QEMU's start.
    ///
    /// # Errors
    /// As [`Session::wait`].
    pub fn until_ready(&mut self) -> Result<Duration> {
        Ok(self.wait("`host-ready`", PATIENCE, |milestone| milestone.is("builder", "host-ready"))?.0)
    }

    /// Asks Builder which VMs there are.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub fn list(&mut self) -> Result<VmList> {
        self.machine.type_line("list")?;
        let mut vms = Vec::new();
        let timeline = &mut self.timeline;
        let (count, free_kib) = self.machine.wait("Builder's answer to `list`", ANSWER, |line| {
            let milestone = timeline.observe(line)?;
            if milestone.is("builder", "vm") {
                match RunningVm::from_milestone(&milestone) {
                    Ok(vm) => vms.push(vm),
                    Err(error) => return Some(Err(error)),
                }
            }
            let end = milestone.is("builder", "list-end");
            end.then(|| {
                let number =
                    |key: &str| milestone.number(key).with_context(|| format!("No `{key}` in: {milestone}"));
                Ok((number("count")?, number("free-kib")?))
            })
        })?;
        let got = u64::try_from(vms.len()).unwrap_or(u64::MAX);
        anyhow::ensure!(count == got, "Builder announced {count} VMs and listed {got}");
        vms.sort_by_key(|vm| vm.domid);
        Ok(VmList { vms, free_kib })
    }

    /// Asks Builder for a node of XenStore; gives it and its children: path -> value, as far as Builder shows it.
    ///
    /// # Errors
    /// When there is no such node, or no whole answer in time.
    pub fn store(&mut self, path: &str) -> Result<BTreeMap<String, String>> {
        self.machine.type_line(&format!("store {path}"))?;
        let mut nodes = BTreeMap::new();
        let timeline = &mut self.timeline;
        self.machine.wait(&format!("Builder's answer to `store {path}`"), ANSWER, |line| {
            let milestone = timeline.observe(line)?;
            let value = |key: &str| milestone.value(key).unwrap_or_default().to_owned();
            if milestone.is("builder", "node") {
                nodes.insert(value("path"), value("value"));
            }
            let refused = milestone.is("builder", "command-refused");
            refused
                .then(|| Err(anyhow::anyhow!("{milestone}")))
                .or_else(|| milestone.is("builder", "node-end").then_some(Ok(())))
        })?;
        Ok(nodes)
    }

    /// Types a command and waits for the milestone that answers it.
    ///
    /// # Errors
    /// When the answer does not come in time.
    pub fn command(&mut self, text: &str, answer: impl Fn(&Milestone) -> bool) -> Result<Milestone> {
        self.machine.type_line(text)?;
        Ok(self.wait(&format!("the answer to `{text}`"), ANSWER, answer)?.1)
    }

    /// Reads along for a time; gives what came.
    pub fn idle(&mut self, time: Duration) -> Vec<Line> {
        let deadline = std::time::Instant::now() + time;
        let mut lines = Vec::new();
        while let Some(line) =
            self.machine.next_line(deadline.saturating_duration_since(std::time::Instant::now()))
        {
            self.timeline.observe(&line);
            lines.push(line);
        }
        lines
    }

    /// Switches the host off as an operator would, and waits until it is off.
    ///
    /// # Errors
    /// When it does not go off.
    pub fn power_off(&mut self) -> Result<()> {
        self.command("poweroff", |milestone| milestone.is("pciback", "power-off"))?;
        self.machine.wait_end(ANSWER)?;
        Ok(())
    }
}

/// Lines that nobody wants to see on a healthy host.
#[must_use]
pub fn complaints(lines: &[Line]) -> Vec<&Line> {
    const WORDS: [&str; 12] = [
        "error",
        "fail",
        "panic",
        "oops",
        "bug:",
        "warning",
        "call trace",
        "segfault",
        "lockup",
        "avc:",
        "denied",
        "crash",
    ];
    let bad = |line: &&Line| {
        let text = line.text.to_lowercase();
        WORDS.iter().any(|word| text.contains(word))
    };
    lines.iter().filter(bad).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found() {
        let line = |text: &str| Line { at: Duration::ZERO, text: text.to_owned() };
        let lines = [
            line("(XEN) avc:  denied  { add }"),
            line("ennead builder: host-ready"),
            line("BUG: soft lockup"),
        ];
        let found: Vec<&str> = complaints(&lines).into_iter().map(|line| line.text.as_str()).collect();
        assert_eq!(found, ["(XEN) avc:  denied  { add }", "BUG: soft lockup"]);
    }
}
