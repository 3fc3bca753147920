//! blkback in its VM.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ennead_backend::budget::Budget;
use ennead_backend::device::Driver;
use ennead_runtime::{Runtime, Sandbox};
use ennead_volumes::UNIT;
use ennead_xs_client::XenStore;
use tracing::{info, warn};

use crate::files::{FOLDER, LABEL};
use crate::keeper::Keeper;
use crate::queue;
use crate::vbd::{Vbds, lent};
use crate::volumes::{SYS, Volume, disks, is_ready, mount, volumes};

/// How long XenStore may take for an answer: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a controller may take until its disks are there.
const DISKS: Duration = Duration::from_secs(10);
/// How long after the last disk another is waited for, if nothing says which there must be.
const QUIET: Duration = Duration::from_millis(200);
/// How often disks are looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Serves until XenStore or its own kernel fails it.
///
/// # Errors
/// What failed. Builder then builds the VM anew, and the guests' rings are taken up where they were.
pub fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let mut store = XenStore::open(PATIENCE)?;
    let needed = lent(&mut store).context("Cannot read which volumes are lent")?;
    let mut volumes = wait_for(&needed)?;
    let files = match mount(&mut volumes) {
        Ok(files) => files,
        Err(e) => {
            warn!(cause = %e, "volumes-not-mounted");
            None
        }
    };
    // Its own connection: guests do not wait for what is done to volumes.
    let keeping = XenStore::open(PATIENCE)?;
    let mut sandbox = Sandbox::new()
        .keep_device("/dev/xen/evtchn")
        .keep_device("/dev/xen/gntdev")
        .keep_call(libc::SYS_io_uring_setup)
        .keep_call(libc::SYS_io_uring_enter)
        .keep_call(libc::SYS_io_uring_register);
    for volume in &volumes {
        info!(name = volume.name, mib = volume.sectors / 2048, polled = volume.polled, "volume");
        sandbox = sandbox.keep_device(&volume.path);
    }
    if let Some(files) = &files {
        info!(free_mib = files.free().context("Cannot read the volumes")? / UNIT, "volumes-mounted");
        sandbox = sandbox.keep_tree(FOLDER);
    }
    let cpus = thread::available_parallelism().map_or(1, Into::into);
    let budget = Budget::of_this_vm(queue::MEMORY).context("Cannot see what memory there is")?;
    let rings = budget.left();
    sandbox.enter().context("Cannot drop privileges")?;
    let vbds = Vbds::new(volumes, files.clone(), cpus, budget);
    let driver = Driver::start(store, vbds).context("Cannot find the devices")?;
    let changes = Some(driver.changes());
    let keep = move || {
        let Err(error) = Keeper::new(files, changes).run(keeping);
        ennead_runtime::fail(error)
    };
    thread::Builder::new().name("volumes".to_owned()).spawn(keep).context("Cannot start a thread")?;
    runtime.health.report()?;
    info!(served = driver.served().count(), rings, "ready");
    Ok(driver.run()?)
}

/// Waits for the controller's disks: all that a predecessor lent, or else the first and those that come right after.
fn wait_for(needed: &[String]) -> anyhow::Result<Vec<Volume>> {
    let start = Instant::now();
    let (mut known, mut since) = (Vec::new(), start);
    let needed: BTreeSet<String> = needed.iter().map(|name| on(name)).collect();
    loop {
        let disks = disks(Path::new(SYS)).context("Cannot list the disks")?;
        // Only who has opened a disk knows that its partitions are there.
        if disks.iter().all(|disk| is_ready(disk)) && !disks.is_empty() {
            if disks != known {
                (known, since) = (disks, Instant::now());
            }
            let volumes = volumes(Path::new(SYS)).context("Cannot list the volumes")?;
            let is_there = |name: &&String| volumes.iter().any(|volume| volume.name == **name);
            let missing: Vec<&String> = needed.iter().filter(|name| !is_there(name)).collect();
            let late = start.elapsed() > DISKS;
            if late && !missing.is_empty() {
                warn!(?missing, "volumes-missing");
            }
            let all = if needed.is_empty() { since.elapsed() > QUIET } else { missing.is_empty() };
            if all || late {
                return Ok(volumes);
            }
        } else if start.elapsed() > DISKS {
            bail!("No disk came within {DISKS:?}: does the VM have its controller, and its kernel a driver?");
        }
        thread::sleep(LOOK);
    }
}

/// The partition that a volume is on.
fn on(name: &str) -> String {
    match ennead_volumes::of_params(name) {
        Some(_) => format!("label:{LABEL}"),
        None => name.to_owned(),
    }
}
