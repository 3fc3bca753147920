//! `/init` of the builder VM.
#![forbid(unsafe_code)]

use std::path::Path;

use ennead_builder::host::Host;
use ennead_runtime::Runtime;

fn main() {
    let runtime = Runtime::init_or_die();
    tracing::info!("started");
    let end = Host::open(&runtime, Path::new("/")).and_then(|mut host| host.run(&runtime));
    if let Err(e) = end {
        runtime.fail(&e);
    }
}
