//! netback in its VM.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use ennead_backend::budget::Budget;
use ennead_backend::device::Driver;
use ennead_os::Interfaces;
use ennead_runtime::{CapabilitySet, Runtime, Sandbox};
use ennead_xs_client::XenStore;
use tracing::info;

use crate::nics;
use crate::vif::{MEMORY, Vifs};

/// How long XenStore may take for an answer: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until something breaks that this VM cannot be without.
///
/// # Errors
/// What broke. Builder then builds the VM anew, and the guests go on.
pub fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let store = XenStore::open(PATIENCE)?;
    let budget = Budget::of_this_vm(MEMORY).context("Cannot see what memory there is")?;
    let queues = budget.left();
    // Rings, ports and taps come and go with the guests. /sys/devices is what /sys/class/net points into.
    Sandbox::new()
        .keep_device("/dev/xen/evtchn")
        .keep_device("/dev/xen/gntdev")
        .keep_device("/dev/net/tun")
        .keep_read("/sys/class/net")
        .keep_read("/sys/devices")
        .keep_write("/sys/devices/virtual/net")
        .keep_call(libc::SYS_io_uring_setup)
        .keep_call(libc::SYS_io_uring_enter)
        .keep_call(libc::SYS_io_uring_register)
        .keep_capabilities(CapabilitySet::NET_ADMIN)
        .enter()
        .context("Cannot drop privileges")?;
    nics::watch(Interfaces::open().context("Cannot open a socket")?)?;
    let vifs = Vifs::new(Interfaces::open().context("Cannot open a socket")?, budget);
    let vifs = vifs.context("Cannot start threads")?;
    let driver = Driver::start(store, vifs).context("Cannot find the guests' NICs")?;
    runtime.health.report()?;
    info!(queues, "ready");
    driver.run().context("Cannot serve the guests' NICs")
}
