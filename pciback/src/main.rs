//! `/init` of the pciback VM.
#![forbid(unsafe_code)]

use ennead_pciback::service::Service;

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        tracing::info!("started");
        Service::offer(runtime)?.run()
    })
}
