//! `/init` of the pciback VM.
#![forbid(unsafe_code)]

use ennead_pciback::service::Service;
use ennead_runtime::Runtime;

fn main() {
    let runtime = Runtime::init_or_die();
    tracing::info!("started");
    let end = Service::offer(&runtime).and_then(|mut service| {
        runtime.report_healthy()?;
        service.run()
    });
    if let Err(e) = end {
        runtime.fail(&e);
    }
}
