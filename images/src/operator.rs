//! The operator of a host that runs: `ennead`, as its users have it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_api::Profile;
use ennead_manifest::Plan;
use serde_json::Value;

use self::screen::{Screen, TRUSTED, end_of};
use crate::cache::Cache;
use crate::certificate::Authority;
use crate::devices::Forward;
use crate::qemu::Settings;

mod screen;

/// How often is looked whether something is there.
const GLANCE: Duration = Duration::from_millis(200);

/// Who asks a toolstack.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The program `ennead`.
    pub program: PathBuf,
    /// How it reaches the toolstack.
    pub reach: Reach,
}

/// How an operator reaches a toolstack.
#[derive(Debug, Clone)]
pub enum Reach {
    /// By a socket of this machine.
    Socket(PathBuf),
    /// Over a network, as this file says.
    Profile(PathBuf),
}

impl Reach {
    /// `ennead`'s option for it.
    #[must_use]
    pub fn option(&self) -> [String; 2] {
        match self {
            Self::Socket(path) => ["--host".to_owned(), format!("unix:{}", path.display())],
            Self::Profile(path) => ["--profile".to_owned(), path.display().to_string()],
        }
    }
}

/// The toolstacks of a plan that are reached over QEMU's network, and a port of this machine for each.
///
/// # Errors
/// When there is no free port.
pub fn toolstacks(plan: &Plan) -> Result<Vec<(String, Forward)>> {
    let mut found = Vec::new();
    for vm in &plan.vms {
        let Some(network) = &vm.network else { continue };
        let address = network.address.split_once('/').and_then(|(address, _)| address.parse().ok());
        found.push((vm.name.clone(), Forward::from(network.port, address, network.port)?));
    }
    Ok(found)
}

/// The profile that `./run` has for a toolstack; `None` if the machine has no way to it.
///
/// # Errors
/// When its certificate cannot be made.
pub fn profile(cache: &Cache, plan: &Plan, machine: &Settings, toolstack: &str) -> Result<Option<Profile>> {
    let way = machine.toolstacks.iter().find(|(name, _)| name == toolstack);
    let (Some((_, forward)), Some(vm)) = (way, plan.vm(toolstack)) else { return Ok(None) };
    let url = format!("https://127.0.0.1:{}", forward.outside);
    Ok(Some(Authority::of(cache, plan, vm)?.operator("run", url)?))
}

/// The domain of a guest that the API tells of; 0 if it has none.
#[must_use]
pub fn domid(guest: &Value) -> u64 {
    guest.get("domid").and_then(Value::as_u64).unwrap_or_default()
}

impl Operator {
    /// `ennead ARGUMENTS` for this toolstack.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.reach.option()).args(["--timeout", "120"]);
        command.args(arguments);
        command
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        output.with_context(|| format!("Cannot start {}", self.program.display()))
    }

    /// What `ennead --json ARGUMENTS` answers.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.output(&[&["--json"], arguments].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "`ennead {}`: {}", arguments.join(" "), said.trim());
        serde_json::from_slice(&output.stdout).with_context(|| format!("`ennead {}`", arguments.join(" ")))
    }

    /// Waits until the toolstack answers; gives how long that took.
    ///
    /// # Errors
    /// When it does not in time, with what the last attempt said.
    pub fn wait_reachable(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            match self.guests() {
                Err(_) if start.elapsed() < patience => std::thread::sleep(GLANCE),
                other => return other.map(|_| start.elapsed()),
            }
        }
    }

    /// The code with which `ennead ARGUMENTS` ends, and what it says.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn fails(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.output(arguments)?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// A guest, as `ennead info` shows it.
    fn guest(&self, name: &str) -> Result<Value> {
        let info = self.ask(&["info", name])?;
        Ok(info.get("guest").context("`ennead info` tells of no guest")?.clone())
    }

    /// A guest's domain; 0 while it has none.
    ///
    /// # Errors
    /// As [`Operator::ask`].
    pub fn domid(&self, name: &str) -> Result<u64> {
        Ok(domid(&self.guest(name)?))
    }

    /// The domid of a guest that runs, once it is not `before`.
    ///
    /// # Errors
    /// When it does not come back in time.
    pub fn another_domid(&self, name: &str, before: u64, patience: Duration) -> Result<u64> {
        let deadline = Instant::now() + patience;
        loop {
            let guest = self.guest(name)?;
            let running = guest.get("state").and_then(Value::as_str) == Some("running");
            if running && domid(&guest) != before {
                return Ok(domid(&guest));
            }
            anyhow::ensure!(Instant::now() < deadline, "It does not come back: {guest}");
            std::thread::sleep(GLANCE);
        }
    }

    /// What a guest has printed.
    ///
    /// # Errors
    /// As [`Operator::ask`].
    pub fn log(&self, name: &str) -> Result<String> {
        let answer = self.ask(&["logs", name])?;
        Ok(answer.get("log").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Waits until `text` stands in what a guest has printed, `times` times. Its console is followed: to ask for all that it has
    /// printed again and again would take the host's time from the guest.
    ///
    /// # Errors
    /// When it does not come in time, with the end of what did.
    pub fn wait_for(&self, name: &str, text: &str, times: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut last = String::new();
        loop {
            let mut screen = Screen::open(self, name)?;
            let trusted = deadline.min(Instant::now() + TRUSTED);
            if screen.until(trusted, |seen| seen.matches(text).count() >= times) {
                return Ok(());
            }
            if !screen.seen().is_empty() {
                last = screen.seen().to_owned();
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{name} has not printed {text:?}; the end of its log:\n{}",
                end_of(&last)
            );
            std::thread::sleep(GLANCE);
        }
    }

    /// Types a line at a guest's console and gives what the console shows up to `end`, which comes in the answer.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn type_at(&self, name: &str, line: &str, end: &str, patience: Duration) -> Result<String> {
        let mut screen = Screen::open(self, name)?;
        screen.type_line(line)?;
        let found = screen.until(Instant::now() + patience, |seen| seen.contains(end));
        let seen = screen.seen();
        anyhow::ensure!(found, "{name}'s console does not show {end:?} but {seen:?}");
        Ok(seen.to_owned())
    }

    /// The guests: names and states.
    ///
    /// # Errors
    /// As [`Operator::ask`].
    pub fn guests(&self) -> Result<Vec<(String, String)>> {
        let list = self.ask(&["list"])?;
        let text =
            |guest: &Value, key: &str| guest.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let guests = list.as_array().context("`ennead list` gives no list")?;
        Ok(guests.iter().map(|guest| (text(guest, "name"), text(guest, "state"))).collect())
    }

    /// Waits until the guests fit.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&[(String, String)]) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let guests = self.guests()?;
            if fits(&guests) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "Not in time: {what}; there are {guests:?}");
            std::thread::sleep(GLANCE);
        }
    }
}
