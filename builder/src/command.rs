//! Commands of the operator on the host's console: one line each, bounded.

/// Longest line, in bytes; a longer one is dropped whole.
pub const MAX_LINE: usize = 128;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Show all VMs.
    List,
    /// Build a VM of the plan.
    Build(String),
    /// Destroy a VM of the plan.
    Destroy(String),
    /// Let a VM of the plan end its work, destroy it and build it again.
    Restart(String),
    /// Destroy a VM of the plan as it is, and build it again.
    Kill(String),
    /// Say what a restart of a VM would do and whom it affects.
    Plan(String),
    /// Show a node of XenStore and its children.
    Store(String),
    /// Switch the host off.
    PowerOff,
    /// Restart the host.
    Reboot,
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one of ours.
    #[error(
        "Unknown command; there are: list, build NAME, destroy NAME, restart NAME, kill NAME, plan NAME, store PATH, poweroff, reboot"
    )]
    Unknown,
    /// Longer than [`MAX_LINE`].
    #[error("Longer than {MAX_LINE} bytes")]
    TooLong,
}

impl Command {
    fn parse(line: &str) -> Result<Self, Error> {
        let mut words = line.split_ascii_whitespace();
        let command = match (words.next(), words.next()) {
            (Some("list"), None) => Self::List,
            (Some("build"), Some(name)) => Self::Build(name.to_owned()),
            (Some("destroy"), Some(name)) => Self::Destroy(name.to_owned()),
            (Some("restart"), Some(name)) => Self::Restart(name.to_owned()),
            (Some("kill"), Some(name)) => Self::Kill(name.to_owned()),
            (Some("plan"), Some(name)) => Self::Plan(name.to_owned()),
            (Some("store"), Some(path)) => Self::Store(path.to_owned()),
            (Some("poweroff"), None) => Self::PowerOff,
            (Some("reboot"), None) => Self::Reboot,
            _ => return Err(Error::Unknown),
        };
        if words.next().is_some() { Err(Error::Unknown) } else { Ok(command) }
    }
}

/// Bytes of the console -> commands.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    overflow: bool,
}

impl Lines {
    /// Takes what was typed; gives what the lines that are now complete mean. Empty lines mean nothing.
    pub fn push(&mut self, typed: &[u8]) -> Vec<Result<Command, Error>> {
        let mut out = Vec::new();
        for &byte in typed {
            match byte {
                b'\r' | b'\n' => {
                    let line = String::from_utf8_lossy(&self.pending).into_owned();
                    if std::mem::take(&mut self.overflow) {
                        out.push(Err(Error::TooLong));
                    } else if !line.trim().is_empty() {
                        out.push(Command::parse(&line));
                    }
                    self.pending.clear();
                }
                // Backspace, as terminals send it.
                0x08 | 0x7f => {
                    self.pending.pop();
                }
                _ if self.pending.len() >= MAX_LINE => self.overflow = true,
                _ => self.pending.push(byte),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands_however_they_arrive() {
        let mut lines = Lines::default();
        assert!(lines.push(b"li").is_empty());
        assert_eq!(
            lines.push(b"st\r\nbuild netback\n"),
            [Ok(Command::List), Ok(Command::Build("netback".into()))]
        );
        assert_eq!(
            lines.push(b"destroy  x\rpoweroff\rreboot\r"),
            [Ok(Command::Destroy("x".into())), Ok(Command::PowerOff), Ok(Command::Reboot)]
        );
        assert_eq!(
            lines.push(b"restart x\nstore /local\n"),
            [Ok(Command::Restart("x".into())), Ok(Command::Store("/local".into()))]
        );
        assert_eq!(
            lines.push(b"kill x\nplan y\n"),
            [Ok(Command::Kill("x".into())), Ok(Command::Plan("y".into()))]
        );
    }

    #[test]
    fn a_typing_error_can_be_taken_back() {
        assert_eq!(Lines::default().push(b"lisr\x7ft\n"), [Ok(Command::List)]);
    }

    #[test]
    fn what_is_no_command_is_said() {
        let mut lines = Lines::default();
        for bad in [
            "liste",
            "build",
            "build a b",
            "restart",
            "store",
            "store /a /b",
            "list x",
            "\u{7}",
            "build\u{0}a",
        ] {
            assert_eq!(lines.push(format!("{bad}\n").as_bytes()), [Err(Error::Unknown)], "{bad:?}");
        }
        assert_eq!(lines.push(&[0xff, b'\n']), [Err(Error::Unknown)]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_is_dropped_whole() {
        let mut lines = Lines::default();
        for _ in 0..10_000 {
            assert!(lines.push(b"list ").is_empty());
        }
        assert!(lines.pending.capacity() <= 2 * MAX_LINE);
        assert_eq!(lines.push(b"\nlist\n"), [Err(Error::TooLong), Ok(Command::List)]);
    }
}
