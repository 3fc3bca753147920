//! The end of a VM: what Xen sees is the shutdown reason `poweroff`, `reboot` or `crash`.
//! In the hardware domain the first two are the host's own.

use std::convert::Infallible;
use std::io;

use rustix::system::{RebootCommand, reboot};

/// Switches this VM off; in the hardware domain the host.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`.
pub fn power_off() -> io::Result<Infallible> {
    end(RebootCommand::PowerOff)
}

/// Restarts this VM (Xen only reports it: who built it restarts it); in the hardware domain the host.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`.
pub fn restart() -> io::Result<Infallible> {
    end(RebootCommand::Restart)
}

/// Stops this VM's processors; for Xen it is switched off.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`.
pub fn halt() -> io::Result<Infallible> {
    end(RebootCommand::Halt)
}

fn end(command: RebootCommand) -> io::Result<Infallible> {
    reboot(command)?;
    // These commands do not return.
    Err(io::Error::other("Linux returned from reboot(2)"))
}
