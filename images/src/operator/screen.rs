//! A guest's console, as `ennead console` shows it: what was printed before, and then whatever comes.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Operator;

/// A console that is shown until this is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    /// # Errors
    /// When `ennead` cannot be started.
    pub(super) fn open(operator: &Operator, name: &str) -> Result<Self> {
        let mut child = operator
            .command(&["console", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("Cannot start {}", operator.program.display()))?;
        let input = child.stdin.take().context("no input")?;
        let mut output = child.stdout.take().context("no output")?;
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                if send.send(bytes.get(..n).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, output: receive, seen: String::new() })
    }

    /// # Errors
    /// When the console has ended.
    pub(super) fn type_line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).context("Cannot type")
    }

    /// All that it has shown.
    pub(super) fn seen(&self) -> &str {
        &self.seen
    }

    /// Reads until it `shows` what is waited for; `false` if it ends before, or `deadline` comes.
    pub(super) fn until(&mut self, deadline: Instant, shows: impl Fn(&str) -> bool) -> bool {
        while !shows(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may wait for more of a guest that says nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a text, for a message.
pub(super) fn end_of(text: &str) -> &str {
    const SHOWN: usize = 600;
    text.char_indices().rev().nth(SHOWN - 1).map_or(text, |(at, _)| text.get(at..).unwrap_or_default())
}

/// For how long one connection is trusted to show what the guest prints: a toolstack that was killed closes none.
pub(super) const TRUSTED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Reach;

    fn operator(folder: &std::path::Path, script: &str) -> Operator {
        use std::os::unix::fs::PermissionsExt as _;
        let program = folder.join("ennead");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Operator { program, reach: Reach::Socket("nowhere".into()) }
    }

    #[test]
    fn what_comes_later_is_seen_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let operator =
            operator(folder.path(), "echo old; sleep 0.1; echo ready; read line; echo $line!; sleep 60");
        operator.wait_for("web", "ready", 1, Duration::from_secs(20)).unwrap();
        let start = Instant::now();
        assert!(operator.type_at("web", "hello", "hello!", Duration::from_secs(20)).unwrap().contains("old"));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_console_that_ends_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let operator = operator(folder.path(), "cd $(dirname $0); echo x >> times; cat times");
        operator.wait_for("web", "x", 3, Duration::from_secs(20)).unwrap();
        let error = operator.wait_for("web", "never", 1, Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("web has not printed \"never\"") && error.contains("x\n"), "{error}");
    }

    #[test]
    fn the_end_is_not_cut_within_a_character() {
        assert_eq!(end_of("short"), "short");
        assert_eq!(end_of(&"ä".repeat(700)), "ä".repeat(600));
    }
}
