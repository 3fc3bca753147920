//! The two hosts as whoever asks them sees them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::GUEST;
use crate::operator::Operator;
use crate::qemu::{Line, Machine, Settings};
use crate::session::{PATIENCE, Session};

/// What the guest's ramdisk prints when its shell comes.
const SHELL: &str = "guest-ready";

/// A host that is being measured.
pub(super) trait Host {
    /// Creates the guest; gives the times to its first console line and to its shell.
    fn create(&mut self) -> Result<(Duration, Duration)>;
    /// Destroys it; gives the time until it is gone.
    fn destroy(&mut self) -> Result<Duration>;
    /// Switches the machine off.
    fn power_off(&mut self) -> Result<()>;
}

/// Our host and its operator.
pub(super) struct Ours {
    session: Session,
    operator: Operator,
    config: PathBuf,
}

impl Ours {
    /// Switches it on; gives the time until it is ready.
    pub(super) fn start(settings: &Settings, program: PathBuf, config: PathBuf) -> Result<(Self, Duration)> {
        let mut session = Session::start(settings, false)?;
        let ready = session.until_ready()?;
        let toolstack = settings.lines.first().context("The manifest has no toolstack")?;
        let operator = Operator { program, reach: session.operator(toolstack)? };
        Ok((Self { session, operator, config }, ready))
    }
}

impl Host for Ours {
    fn create(&mut self) -> Result<(Duration, Duration)> {
        let start = Instant::now();
        let console = Console::of_new(&self.operator, &self.config)?;
        let first_line = console.wait(|_| true)?;
        let shell = if first_line.1.contains(SHELL) {
            first_line.0
        } else {
            console.wait(|line| line.contains(SHELL))?.0
        };
        Ok((first_line.0 - start, shell - start))
    }

    fn destroy(&mut self) -> Result<Duration> {
        // What came before is not the answer.
        self.session.idle(Duration::ZERO);
        let start = Instant::now();
        self.operator.ask(&["destroy", GUEST])?;
        let ended = start.elapsed();
        let begun = start - self.session.machine.started();
        let (gone, _) =
            self.session.wait("the guest is gone", PATIENCE, |m| m.is("builder", "guest-gone"))?;
        Ok(ended.max(gone.saturating_sub(begun)))
    }

    fn power_off(&mut self) -> Result<()> {
        self.session.power_off()
    }
}

/// `ennead create --console`, as `xl create -c` on the other host.
struct Console {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Console {
    fn of_new(operator: &Operator, config: &Path) -> Result<Self> {
        let mut child = operator
            .command(&["create", "--console", &config.display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("Cannot start {}", operator.program.display()))?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while let Ok(1..) = output.read_until(b'\n', &mut bytes) {
                let line = String::from_utf8_lossy(&bytes).trim().to_owned();
                bytes.clear();
                // An empty line says nothing.
                if !line.is_empty() && send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn wait(&self, wanted: impl Fn(&str) -> bool) -> Result<(Instant, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).context("The guest's console says nothing more")?;
            if wanted(&line.1) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The classic host: all is done on Dom0's console, see `images/classic/init`.
pub(super) struct Classic {
    machine: Machine,
}

impl Classic {
    /// Switches it on; gives the time until it is ready.
    pub(super) fn start(settings: &Settings) -> Result<(Self, Duration)> {
        let mut machine = Machine::start(settings)?;
        let ready = machine.wait("the classic host", PATIENCE, |line| at(line, "classic: ready"))?;
        Ok((Self { machine }, ready))
    }

    /// Types a command; gives the time since the machine was switched on.
    fn type_command(&mut self, text: &str) -> Result<Duration> {
        // What came before is not the answer.
        while self.machine.next_line(Duration::ZERO).is_some() {}
        let typed = self.machine.started().elapsed();
        self.machine.type_line(text)?;
        Ok(typed)
    }
}

impl Host for Classic {
    fn create(&mut self) -> Result<(Duration, Duration)> {
        let typed = self.type_command("create")?;
        let mut first = None;
        let shell = self.machine.wait("the guest's shell", PATIENCE, |line| {
            // Everything but Xen's own lines is the guest's: xl is told to be quiet.
            if line.at > typed && !line.text.starts_with("(XEN)") && !line.text.is_empty() {
                first.get_or_insert(line.at);
            }
            at(line, SHELL)
        })?;
        Ok((first.unwrap_or(shell).saturating_sub(typed), shell.saturating_sub(typed)))
    }

    fn destroy(&mut self) -> Result<Duration> {
        let typed = self.type_command("destroy")?;
        let destroyed = self.machine.wait("`xl destroy`", PATIENCE, |line| at(line, "classic: destroyed"))?;
        self.machine.wait("the guest is gone", PATIENCE, |line| at(line, "classic: gone"))?;
        Ok(destroyed.saturating_sub(typed))
    }

    fn power_off(&mut self) -> Result<()> {
        self.type_command("off")?;
        self.machine.wait_end(PATIENCE).map(|_| ())
    }
}

/// When this text came.
fn at(line: &Line, text: &str) -> Option<Result<Duration>> {
    line.text.contains(text).then_some(Ok(line.at))
}
