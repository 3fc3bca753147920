//! The shell on a guest's console.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::first_guest::PATIENCE;
use crate::operator::Operator;

/// What a guest's kernel says when a device fails it.
const TROUBLE: [&str; 6] =
    ["I/O error", "Buffer I/O", "blk_update", "link is not ready", "Oops", "hung_task"];

/// A guest whose console has a shell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shell<'a> {
    pub(super) operator: &'a Operator,
    pub(super) name: &'a str,
}

impl Shell<'_> {
    /// What a command prints, lines separated by `; `.
    pub(super) fn run(&self, command: &str) -> Result<String> {
        self.run_for(command, PATIENCE)
    }

    /// The same, for commands that take their time. The end is put together only when it runs, so the line that is typed does not
    /// show it.
    pub(super) fn run_for(&self, command: &str, patience: Duration) -> Result<String> {
        // Another each time: the console shows what was printed before.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
        let line = format!("echo begin-$((1+1))-{nonce}.; {command}; echo end-$((1+1))-{nonce}.");
        let seen = self.operator.type_at(self.name, &line, &format!("end-2-{nonce}."), patience)?;
        let (_, rest) = seen.rsplit_once(&format!("begin-2-{nonce}.")).context("no beginning")?;
        let (printed, _) = rest.split_once(&format!("end-2-{nonce}.")).context("no end")?;
        Ok(printed.trim().replace("\r\n", "; "))
    }

    /// A number that a command prints.
    pub(super) fn number(&self, command: &str) -> Result<u64> {
        let said = self.run(command)?;
        said.trim().parse().with_context(|| format!("`{command}` says {said:?}"))
    }

    /// Its kernel has complained of no device.
    pub(super) fn no_trouble(&self) -> Result<()> {
        let said = self.run("dmesg")?;
        let bad: Vec<&str> =
            said.split("; ").filter(|line| TROUBLE.iter().any(|word| line.contains(word))).collect();
        anyhow::ensure!(bad.is_empty(), "{}", bad.join("\n"));
        Ok(())
    }

    /// How often its network interface lost its carrier or got it.
    pub(super) fn carrier_changes(&self) -> Result<u64> {
        self.number("cat /sys/class/net/eth0/carrier_changes")
    }

    /// It is destroyed, and gone.
    pub(super) fn ends(&self) -> Result<String> {
        self.operator.ask(&["destroy", self.name])?;
        self.operator
            .wait_until("it is gone", PATIENCE, |guests| !guests.iter().any(|(name, _)| name == self.name))?;
        Ok(String::new())
    }
}
