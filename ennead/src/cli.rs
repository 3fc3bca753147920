//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use ennead_api::Address;

const AFTER: &str = "\
Exit codes:
  0  it has been done
  1  the host refused, or what was waited for did not come
  2  wrong usage, or a file that cannot be read or is not right
  3  the host cannot be reached, or does not answer
  4  there is no such guest

With --json the standard output gets JSON, for events an object a line, and the standard error an
object `error` with its `kind`, `message` and `help`.";

#[derive(Debug, Parser)]
#[command(name = "ennead", version, about = "Operates guests on an Ennead host", after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The host: `unix:` and the path of its toolstack's socket
    #[arg(
        long,
        global = true,
        env = "ENNEAD_HOST",
        hide_env_values = true,
        value_name = "URL",
        default_value = "unix:out/toolstack.sock"
    )]
    pub(crate) host: Address,
    /// Show JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up when nothing has come from the host for so long
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a guest from a file, and let it run
    ///
    /// The file is TOML if its name ends in `.toml`, else it is read as xl's (xl.cfg(5)). Paths in it are relative to
    /// it. The host is given the kernel and the ramdisk if it does not have them. A guest without a kernel boots from its
    /// first disk that has GRUB's configuration (/boot/grub/grub.cfg).
    Create {
        /// The guest's configuration
        file: PathBuf,
        /// Leave it paused
        #[arg(long)]
        paused: bool,
        /// Its name, instead of the one in the file
        #[arg(long, value_name = "NAME", value_parser = guest_name)]
        name: Option<String>,
    },
    /// List the guests
    List,
    /// Show a guest and its configuration
    Info(Name),
    /// Use a guest's console; Ctrl-] leaves it
    ///
    /// First comes what it printed before. If the standard input is no terminal, it is copied to the guest, and the
    /// console stays open until it ends.
    Console(Name),
    /// Stop a guest's virtual CPUs
    Pause(Name),
    /// Let a paused guest go on
    Unpause(Name),
    /// Ask a guest to switch itself off
    Shutdown {
        #[command(flatten)]
        name: Name,
        /// Wait until it has
        #[arg(
            long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "60",
            value_parser = seconds
        )]
        wait: Option<Duration>,
    },
    /// Ask a guest to reboot
    Reboot(Name),
    /// End a guest at once
    Destroy(Name),
    /// Show what a guest last printed on its console
    Logs(Name),
    /// Show what has happened to guests
    Events {
        /// And what happens from now on
        #[arg(long)]
        follow: bool,
    },
    /// Show the host: what guests may use, and its service VMs
    Host,
    /// Show a guest's configuration in xl's syntax as TOML
    Convert {
        /// The configuration
        file: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A guest.
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// The guest's name
    #[arg(value_parser = guest_name)]
    pub(crate) name: String,
}

fn guest_name(text: &str) -> Result<String, String> {
    if ennead_guest::is_name(text) {
        return Ok(text.to_owned());
    }
    let most = ennead_guest::MAX_NAME;
    Err(format!("a guest's name is 1 to {most} of A-Z, a-z, 0-9, `.`, `_` and `-`, the first not `.` or `-`"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or_else(|| "1 to 86400 seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn waiting_has_a_default() {
        let wait = |arguments: &[&str]| match Cli::try_parse_from(
            [&["ennead", "shutdown", "web"], arguments].concat(),
        )
        .unwrap()
        .command
        {
            Command::Shutdown { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["--wait"]), Some(Duration::from_secs(60)));
        assert_eq!(wait(&["--wait=5"]), Some(Duration::from_secs(5)));
        for wrong in
            [&["info", "a/b"][..], &["info", ""], &["shutdown", "a", "--wait=0"], &["list", "--host", "x"]]
        {
            assert!(Cli::try_parse_from([&["ennead"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
