//! A VM with a fault: it is healthy when the host starts, dies after a while, and is not healthy again. Its successor knows by a node in
//! XenStore, which outlives it.
#![forbid(unsafe_code)]

use std::time::Duration;

use ennead_probe::xenbus::XenBus;
use ennead_xs_wire::Request;

const NODE: &[u8] = b"mayfly";
/// Long enough not to be one that crashes all the time.
const LIFE: Duration = Duration::from_secs(15);

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        tracing::info!("started");
        let mut bus = XenBus::open()?;
        anyhow::ensure!(bus.ask(&Request::Read { path: NODE })?.is_err(), "once was enough");
        bus.ask(&Request::Write { path: NODE, value: b"" })?
            .map_err(|errno| anyhow::anyhow!("XenStore does not take a node: {errno:?}"))?;
        runtime.health.report()?;
        std::thread::sleep(LIFE);
        anyhow::bail!("its time has come")
    })
}
