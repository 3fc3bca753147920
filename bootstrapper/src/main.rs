//! `/init` of domain 0.
#![forbid(unsafe_code)]

use std::path::Path;

use ennead_runtime::Runtime;
use tracing::info;

fn main() {
    let runtime = Runtime::init_or_die();
    info!("started");
    let result = ennead_bootstrapper::verify(Path::new("/")).and_then(|store| ennead_bootstrapper::build(&store));
    match result {
        Ok(()) => info!("goodbye"),
        Err(e) => tracing::error!(reason = %format!("{e:#}"), "host-stopped"),
    }
    // While domain 0 is the hardware domain, that is, when nothing was built, this stops the host.
    runtime.halt()
}
