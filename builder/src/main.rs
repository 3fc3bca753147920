//! `/init` of the builder VM.
#![forbid(unsafe_code)]

use std::path::Path;

use ennead_builder::host::Host;

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        tracing::info!("started");
        let mut host = Host::open(runtime, Path::new("/"))?;
        host.take_over()?;
        host.serve()
    })
}
