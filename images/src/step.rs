//! One step of a build: its progress, its log, and the programs that it runs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::progress::Progress;

/// How many lines of a failed step's log are shown.
const SHOWN_LINES: usize = 12;

/// A program of a step failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed: {cause}\n{}\nThe whole log: {}", indented(lines), log.display())]
pub struct StepFailed {
    what: String,
    cause: String,
    lines: Vec<String>,
    log: PathBuf,
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// A step that is under way.
#[derive(Debug)]
pub struct Step {
    mode: Progress,
    what: String,
    bar: ProgressBar,
    started: Instant,
    cached: bool,
    announced: bool,
    log: Option<PathBuf>,
    finished: bool,
}

impl Step {
    pub(crate) fn new(mode: Progress, what: String) -> Self {
        let bar = mode.bar(&what);
        let started = Instant::now();
        Self { mode, what, bar, started, cached: false, announced: false, log: None, finished: false }
    }

    /// What is being built.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn cached(&mut self) {
        self.cached = true;
    }

    /// Starts the step's log afresh in this file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn log_to(&mut self, path: &Path) -> Result<()> {
        fs::write(path, "").with_context(|| format!("Cannot write the log {}", path.display()))?;
        self.log = Some(path.to_path_buf());
        Ok(())
    }

    fn log_file(&self) -> Result<Option<File>> {
        let Some(path) = &self.log else { return Ok(None) };
        let file = OpenOptions::new().append(true).open(path);
        Ok(Some(file.with_context(|| format!("Cannot write the log {}", path.display()))?))
    }

    /// Says what goes on right now.
    pub fn note(&mut self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.mode == Progress::Plain && !self.announced {
            self.announced = true;
            eprintln!("  building {} ...", self.what);
        }
    }

    /// Runs a program; what it prints goes to the log.
    ///
    /// # Errors
    /// When it cannot be started or does not end well: one sentence, the last lines of the log, and the log's path.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let line = command_line(command);
        self.note(&line);
        match self.log_file()? {
            Some(mut log) => {
                let shown = self.log.clone().unwrap_or_default();
                writeln!(log, "+ {line}")
                    .with_context(|| format!("Cannot write the log {}", shown.display()))?;
                let out = log.try_clone().context("Cannot share the log file")?;
                command.stdin(std::process::Stdio::null()).stdout(out).stderr(log);
                let status = self.wait(command)?;
                if status.success() { Ok(()) } else { Err(self.failure(&line, status).into()) }
            }
            None => {
                let output = command
                    .stdin(std::process::Stdio::null())
                    .output()
                    .with_context(|| cannot_start(command))?;
                if output.status.success() {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                anyhow::bail!(
                    "{} failed: `{line}` ended with {}\n{}",
                    self.what,
                    output.status,
                    text.trim_end()
                )
            }
        }
    }

    fn wait(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut child = command.spawn().with_context(|| cannot_start(command))?;
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(status) = child.try_wait().context("Cannot wait for a program")? {
                return Ok(status);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
            if self.mode == Progress::Terminal {
                self.bar.set_message(self.last_lines(1).pop().unwrap_or_default());
            }
        }
    }

    fn failure(&self, line: &str, status: ExitStatus) -> StepFailed {
        let lines = self.last_lines(SHOWN_LINES);
        let cause = cause(line, status, &self.last_lines(200));
        StepFailed { what: self.what.clone(), cause, lines, log: self.log.clone().unwrap_or_default() }
    }

    /// The last lines of the log (of its last 16 KiB).
    fn last_lines(&self, count: usize) -> Vec<String> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.log.as_deref().unwrap_or(Path::new("")))?;
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(16 * 1024)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<String> = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(count)
            .map(str::to_owned)
            .collect();
        lines.reverse();
        lines
    }

    /// Ends the step well; `detail` is what came out ("2.8 MB").
    pub fn done(mut self, detail: &str) {
        self.finished = true;
        self.bar.finish_and_clear();
        if self.mode == Progress::Silent {
            return;
        }
        let time = if self.cached { "cached".to_owned() } else { duration(self.started.elapsed()) };
        eprintln!("  {:<28} {time:>9}  {detail}", self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.bar.finish_and_clear();
        }
    }
}

/// One sentence why a program failed, from its status and what it printed last.
fn cause(line: &str, status: ExitStatus, log: &[String]) -> String {
    let says = |needle: &str| log.iter().any(|line| line.contains(needle));
    if says("No space left on device") {
        return "the disk is full (No space left on device)".to_owned();
    }
    if says("Could not resolve") || says("Temporary failure resolving") || says("Failed to fetch") {
        return format!("a download failed; is the network there? (`{line}`)");
    }
    format!("`{line}` ended with {status}")
}

fn cannot_start(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    format!("Cannot start `{program}`; `./run` installs what is missing (see images/packages.txt)")
}

/// A command as one would type it, shortened.
#[must_use]
pub fn command_line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    if text.chars().count() > 160 {
        text = text.chars().take(157).chain("...".chars()).collect();
    }
    text
}

/// "0.4 s", "12 s", "2 min 03 s".
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// "812 B", "1.9 MB", "12 kB".
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(12)), "12 s");
        assert_eq!(duration(Duration::from_secs(123)), "2 min 03 s");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345), "12 kB");
        assert_eq!(size(1_917_952), "1.9 MB");
    }

    #[test]
    fn a_failed_program_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut step = Progress::silent().step("The thing");
        step.log_to(&dir.path().join("x.log")).unwrap();
        let error = step.run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("The thing failed: `sh -c"), "{text}");
        assert!(text.contains("exit status: 3") && text.contains("    one\n    two\n"), "{text}");
        assert!(text.contains("x.log"), "{text}");
    }

    #[test]
    fn a_full_disk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut step = Progress::silent().step("The thing");
        step.log_to(&dir.path().join("x.log")).unwrap();
        let script = "echo 'write: No space left on device'; exit 1";
        let text = step.run(Command::new("sh").args(["-c", script])).unwrap_err().to_string();
        assert!(text.starts_with("The thing failed: the disk is full"), "{text}");
    }

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let mut step = Progress::silent().step("The thing");
        let error = step.run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("Cannot start `no-such-program-here`"), "{error}");
    }
}
