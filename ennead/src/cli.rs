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
  4  there is no such guest, volume or disk

Without --host and --profile the host is that of $ENNEAD_HOST or of the profile $ENNEAD_PROFILE; else of the
first profile that is there: ./out/profile.toml, ~/.config/ennead/profile.toml; else unix:out/toolstack.sock.

With --json the standard output gets JSON, for events an object a line, and the standard error an
object `error` with its `kind`, `message` and `help`.";

#[derive(Debug, Parser)]
#[command(name = "ennead", version, about = "Operates guests on an Ennead host", after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The host: `unix:` and the path of its toolstack's socket
    #[arg(long, global = true, value_name = "URL", conflicts_with = "profile")]
    pub(crate) host: Option<Address>,
    /// A file that says where the host is on the network, and who asks
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
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
        /// Use its console at once; Ctrl-] leaves it
        #[arg(short, long, conflicts_with = "json")]
        console: bool,
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
    /// Give a guest that runs a disk, or take one from it
    Disk {
        #[command(subcommand)]
        command: Disk,
    },
    /// List, create, copy, enlarge and delete volumes, which guests have as disks (`source = "volume:NAME"`)
    Volume {
        #[command(subcommand)]
        command: Volume,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// Give a guest that runs a disk, which it also has when it reboots
    ///
    /// It is there once this has ended.
    Attach {
        #[command(flatten)]
        name: Name,
        /// What the guest is to see it as, such as `xvdb`
        #[arg(value_parser = vdev)]
        vdev: String,
        /// What it is: `volume:NAME`, `label:NAME` of a partition, or a whole disk such as `nvme0n1`
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        source: String,
        /// The guest may only read it
        #[arg(long)]
        read_only: bool,
        /// The VM that is to serve it
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
    },
    /// Take a disk from a guest that runs
    ///
    /// The guest is asked to let go of it. Unmount it first: new kernels let go of it at once, and what is not written yet
    /// is lost.
    Detach {
        #[command(flatten)]
        name: Name,
        /// What the guest sees it as
        #[arg(value_parser = vdev)]
        vdev: String,
    },
}

fn vdev(text: &str) -> Result<String, String> {
    let number = ennead_guest::vdev_number(text);
    number.map(|_| text.to_owned()).ok_or_else(|| "a disk is `xvda`, `xvdb`, ...".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// List the volumes
    List,
    /// Create a volume of zeroes, and wait until it is there
    Create {
        #[command(flatten)]
        name: VolumeName,
        /// Its size: a number with K, M, G or T behind it
        #[arg(long, value_parser = size)]
        size: u64,
        /// The VM that is to keep it
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
    },
    /// Create a volume with the content of another, which no guest may have meanwhile, and wait until it is there
    Copy {
        /// The other
        #[arg(value_parser = volume_name)]
        from: String,
        #[command(flatten)]
        name: VolumeName,
    },
    /// Make a volume larger, and wait until it is; a guest that runs sees its new size then
    Resize {
        #[command(flatten)]
        name: VolumeName,
        /// Its new size
        #[arg(long, value_parser = size)]
        size: u64,
    },
    /// Delete a volume that no guest has, with all that is on it
    Delete(VolumeName),
}

/// A volume.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeName {
    /// The volume's name
    #[arg(value_parser = volume_name)]
    pub(crate) name: String,
}

fn volume_name(text: &str) -> Result<String, String> {
    let name = text.parse::<ennead_volumes::Name>();
    name.map(|name| name.to_string()).map_err(|e| e.to_string())
}

/// A size in bytes; the letters stand for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let wrong = || "a number with K, M, G or T behind it, such as 10G".to_owned();
    let (number, bits) = UNITS
        .iter()
        .find_map(|(letter, bits)| Some((text.strip_suffix(*letter)?, *bits)))
        .ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_shl(bits).filter(|bytes| bytes >> bits == number && number > 0).ok_or_else(wrong)
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
    fn sizes_have_units() {
        assert_eq!(size("1K"), Ok(1024));
        assert_eq!(size("10G"), Ok(10 << 30));
        for wrong in ["", "5", "G", "0M", "-1M", "1.5G", "1GB", "99999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(volume_name("../a").is_err() && volume_name("data-1").is_ok());
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
