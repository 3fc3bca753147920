//! `/init` of domain 0.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::path::Path;

use ennead_runtime::Runtime;
use tracing::{error, info};

fn main() -> ! {
    ennead_runtime::run(bootstrap)
}

fn bootstrap(_runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    match ennead_bootstrapper::verify(Path::new("/")).and_then(|store| ennead_bootstrapper::build(&store)) {
        Ok(()) => info!("goodbye"),
        Err(e) => error!(reason = %format!("{e:#}"), "host-stopped"),
    }
    // While domain 0 is the hardware domain, that is, when nothing was built, this stops the host.
    Ok(ennead_runtime::halt()?)
}
