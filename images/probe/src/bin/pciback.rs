//! pciback, which also tries what it may not, and lets a device write all over the machine's memory.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use ennead_manifest::Kind;
use ennead_pciback::service::Service;
use ennead_probe::attempts;
use ennead_probe::edu::Edu;
use ennead_probe::matrix::Matrix;
use ennead_probe::options::{number, others};
use ennead_probe::xenbus::XenBus;
use ennead_probe::xenstore::DONE;
use ennead_runtime::Runtime;
use ennead_xen::probe::MarkedMemory;
use ennead_xen::{Control, DomId, EventChannels, Port};
use ennead_xs_wire::Request;
use tracing::info;

/// Pages of 4096 bytes that are watched: half of this VM's memory.
const WATCHED: usize = 64 << 8;
/// What tells the second process of this VM what it is.
const SEALED: &str = "sealed";

/// Among these is every port that Builder may have.
const PORTS: std::ops::Range<u32> = 1..64;

fn main() -> ! {
    if std::env::args().nth(1).as_deref() == Some(SEALED) {
        ennead_runtime::run(|runtime| sealed(&runtime));
    }
    ennead_runtime::run(|runtime| {
        info!("started");
        let mut service = Service::offer(runtime)?;
        sweep().context("Cannot try DMA")?;
        probe(&Control::open()?, false)?;
        start_second()?;
        service.run()
    })
}

fn sweep() -> anyhow::Result<()> {
    let edu = Edu::open(Path::new("/sys"))?;
    let memory = MarkedMemory::new(WATCHED).context("Cannot lock memory")?;
    let swept = edu.sweep(&memory, number("machine-mib")?, number("own-mib")?)?;
    let word = |yes| if yes { "yes" } else { "no" };
    info!(writes = swept.writes, own = word(swept.own), end = word(swept.end), "dma");
    Ok(())
}

fn probe(control: &Control, is_sealed: bool) -> anyhow::Result<()> {
    let own = if is_sealed { Kind::Pciback.running_type() } else { Kind::Pciback.starting_type() };
    let mut matrix = Matrix::new(own);
    let me = DomId(number("domid")?.try_into()?);
    attempts::pciback(&mut matrix, control, me, &others()?, is_sealed);
    matrix.end();
    Ok(())
}

/// Starts a process that keeps /dev/xen/privcmd open while this one seals itself: it finds what Xen lets a sealed pciback do
/// that got around Linux's part of the seal.
fn start_second() -> anyhow::Result<()> {
    let mut child =
        Command::new("/init").arg(SEALED).stdout(Stdio::piped()).spawn().context("Cannot start /init")?;
    let mut ready = [0];
    child.stdout.take().context("It has no output")?.read_exact(&mut ready).context("It did not start")?;
    Ok(())
}

fn sealed(runtime: &Runtime) -> anyhow::Result<Infallible> {
    let control = Control::open()?;
    let events = EventChannels::open()?;
    let mut xenbus = XenBus::open()?;
    let builder = runtime.params.answers.first().context("The plan gives pciback no client")?;
    std::io::stdout().write_all(b"x")?;
    std::io::stdout().flush()?;
    // Builder offers a port when it has sealed this VM and made its own attempts.
    while !PORTS.map(Port).any(|port| events.bind_interdomain(builder.domid, port).is_ok()) {
        std::thread::sleep(Duration::from_millis(200));
    }
    probe(&control, true)?;
    // Now it is XenStore's turn.
    let done = Request::Write { path: DONE.as_bytes(), value: b"" };
    xenbus.ask(&done)?.context("Cannot write to XenStore")?;
    loop {
        std::thread::park();
    }
}
