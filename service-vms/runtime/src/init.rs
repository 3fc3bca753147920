//! The first things that PID 1 does.

use std::convert::Infallible;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::boot::Params;
use crate::health::Health;
use crate::{boot, health, log};

/// The runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file system cannot be mounted.
    #[error("Cannot mount {fs} on {target}: does the kernel have it?")]
    Mount {
        /// Type of the file system.
        fs: &'static str,
        /// Where it belongs.
        target: &'static str,
        /// What Linux said.
        source: io::Error,
    },
    /// The kernel's command line cannot be read.
    #[error("Cannot read {CMDLINE}")]
    CommandLine(#[source] io::Error),
    /// The boot parameters are wrong.
    #[error("Boot parameters are wrong")]
    Params(#[from] boot::Error),
    /// There is no log.
    #[error("Cannot open /dev/kmsg to write: does the kernel have CONFIG_PRINTK?")]
    Log(#[source] io::Error),
    /// Nobody can be told that this VM is healthy.
    #[error("Health port is not usable")]
    Health(#[from] health::Error),
}

const CMDLINE: &str = "/proc/cmdline";

/// A service VM that has started: its boot parameters and where to report health.
#[derive(Debug)]
#[non_exhaustive]
pub struct Runtime {
    /// What the VM was told.
    pub params: Params,
    /// Where it reports that it works.
    pub health: Health,
}

/// Mounts /dev, /proc and /sys, reads the boot parameters, sends the log and panics to Xen's console.
///
/// # Errors
/// What of that failed. Then the VM is of no use: `fail`.
pub fn init() -> Result<Runtime, Error> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_once("devtmpfs", "/dev", safe)?;
    mount_once("proc", "/proc", safe | MountFlags::NODEV)?;
    mount_once("sysfs", "/sys", safe | MountFlags::NODEV)?;
    let line = std::fs::read_to_string(CMDLINE).map_err(Error::CommandLine)?;
    let params: Params = line.parse()?;
    log::install(params.vm.as_str()).map_err(Error::Log)?;
    let health = Health::open(params.health)?;
    Ok(Runtime { params, health })
}

/// A whole service VM: starts, runs `service`, and ends PID 1 with the reason when it fails.
pub fn run(service: impl FnOnce(Runtime) -> anyhow::Result<Infallible>) -> ! {
    match init().map_err(anyhow::Error::from).and_then(service) {
        Ok(never) => match never {},
        Err(error) => fail(error),
    }
}

/// Logs `error cause="..."` with the whole chain, and ends PID 1: the kernel panics, Xen reports a crash, and Builder
/// does what the manifest says.
pub fn fail(error: impl Into<anyhow::Error>) -> ! {
    log::put_error(&error.into());
    std::process::exit(1)
}

/// Mounts a file system; fine if the kernel or somebody before has.
fn mount_once(fs: &'static str, target: &'static str, flags: MountFlags) -> Result<(), Error> {
    let wrong = |source: io::Error| Error::Mount { fs, target, source };
    std::fs::create_dir_all(target).map_err(wrong)?;
    match mount(fs, target, fs, flags, None) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(wrong(errno.into())),
    }
}
