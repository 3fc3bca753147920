//! `/init` of the builder VM.
#![forbid(unsafe_code)]

use std::path::Path;

use ennead_builder::host::Host;

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        tracing::info!("started");
        Host::open(runtime, Path::new("/"))?.run()
    })
}
