//! A netback that has been taken over: with all rights of the product's it serves nobody, but tries to reach guests' memory, what
//! others were granted, and the storage controller, by calls to Xen and by its own controller's DMA. It begins when guest
//! `probe.giver` has granted a page to it, which it may map: so it is seen that it could.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use ennead_manifest::Kind;
use ennead_probe::attempts;
use ennead_probe::matrix::Matrix;
use ennead_probe::nic::{Nic, own_pages};
use ennead_probe::options::{number, others};
use ennead_probe::xenbus::XenBus;
use ennead_runtime::Runtime;
use ennead_xen::{Control, CopyOp, DomId, GrantCopy, GrantRef, MappedPage, Mfn};
use ennead_xs_wire::Request;
use tracing::info;

/// References of a guest that are tried: more than it has given out.
const REFERENCES: u32 = 1024;
/// Frames between the machine's memory and 4 GiB: all I/O memory of this machine's devices.
const IO: std::ops::Range<u64> = 0x8_0000..0xf_ffff;
/// Frames looked at in one go.
const STEP: usize = 2048;
/// Bus, device, function that the storage controller may have, behind root ports: 01:00.0 to 04:00.0.
const FUNCTIONS: [u32; 4] = [0x100, 0x200, 0x300, 0x400];

fn main() -> ! {
    ennead_runtime::run(run)
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let control = Control::open()?;
    let mut bus = XenBus::open()?;
    runtime.health.report()?;
    let domid = |name| Ok::<_, anyhow::Error>(DomId(u16::try_from(number(name)?)?));
    let (me, victim, giver) = (domid("domid")?, domid("victim")?, domid("giver")?);
    let path = format!("/local/domain/{}/device/vif/0/granted", giver.0);
    while bus.ask(&Request::Read { path: path.as_bytes() })?.is_err() {
        std::thread::sleep(Duration::from_secs(1));
    }
    for guest in [victim, giver] {
        grants(guest)?;
    }
    io_memory(&control)?;
    let mut matrix = Matrix::new(Kind::Netback.running_type());
    attempts::driver(&mut matrix, &control, me, &others()?, &[victim, giver], &FUNCTIONS);
    matrix.end();
    let times = Nic::take()?.sweep(number("machine-mib")?).context("Cannot try DMA")?;
    info!(times, "nic-dma");
    loop {
        std::thread::park();
    }
}

/// Which of a guest's pages can be had by its grants.
fn grants(guest: DomId) -> anyhow::Result<()> {
    let mut copy = GrantCopy::open()?;
    let (mut mapped, mut copied) = (0, 0);
    for gref in (0..REFERENCES).map(GrantRef) {
        mapped += u32::from(MappedPage::map(guest, gref).is_ok());
        let mut byte = [0];
        let mut ops = [CopyOp::read(gref, 0, &mut byte)];
        let called = copy.copy(guest, &mut ops).is_ok();
        copied += u32::from(called && ops.iter().all(CopyOp::is_done));
    }
    info!(guest = guest.0, tried = REFERENCES, mapped, copied, "grants");
    Ok(())
}

/// How much I/O memory can be mapped: its own controller's and no other.
fn io_memory(control: &Control) -> anyhow::Result<()> {
    let mut reached = 0;
    for first in IO.step_by(STEP) {
        reached += control.probe().reachable(Mfn(first), STEP)?;
    }
    info!(tried = IO.end - IO.start, reached, own = own_pages()?, "io-memory");
    Ok(())
}
