//! The toolstack of a tenant that means harm: it asks Builder for what is not its own, for nonsense, ten thousand times, builds a
//! guest all the same, tries what Xen must refuse, and at last breaks the channel.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ennead_channel::guests::{NewGuest, Part, Refusal, Reply, Request, WINDOW_PAGES};
use ennead_channel::{Client, Guests, List, Text};
use ennead_domain::{KernelPlan, Mode, PvEntry, Segment};
use ennead_probe::attempts;
use ennead_probe::matrix::Matrix;
use ennead_probe::options::{number, option, others};
use ennead_runtime::Runtime;
use ennead_xen::{
    Control, DomId, EventChannels, GrantedPage, GrantedRegion, Mfn, PAGE_SIZE, SharedPage as _,
};
use tracing::info;

const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that make no sense.
const HOSTILE: u32 = 10_000;
/// A program for a PVH guest: `jmp .`, for ever.
const SPIN: [u8; 2] = [0xeb, 0xfe];
const ENTRY: u32 = 0x10_0000;
/// Where the channel's page has the producer index of the requests (`ennead_channel`'s layout).
const REQUESTS_PRODUCED: usize = 64;
/// Frames looked at in one go.
const STEP: usize = 512;

fn main() -> ! {
    ennead_runtime::run(run)
}

struct Toolstack {
    events: EventChannels,
    client: Client<Guests, GrantedPage>,
    window: GrantedRegion,
    random: u32,
}

fn run(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let builder = runtime.params.server("builder").context("no channel to builder")?.domid;
    let events = EventChannels::open()?;
    let client = Client::offer(builder, &events)?;
    let window = GrantedRegion::new(builder, WINDOW_PAGES)?;
    runtime.health.report()?;
    let mut me = Toolstack { events, client, window, random: 0x2545_f491 };
    me.hello()?;
    let guest = u16::try_from(number("guest")?)?;
    me.not_its_own(guest)?;
    me.nonsense()?;
    me.a_guest()?;
    me.by_hypercalls()?;
    me.garbage()
}

impl Toolstack {
    fn ask(&mut self, request: Request) -> anyhow::Result<Reply> {
        let id = self.client.send(&self.events, request, PATIENCE)?;
        loop {
            match self.client.try_recv(&self.events)? {
                Some(reply) if reply.id == id => return Ok(reply.body),
                Some(_) => {}
                None => drop(self.events.wait(Some(PATIENCE))?.context("Builder does not answer")?),
            }
        }
    }

    fn hello(&mut self) -> anyhow::Result<()> {
        let grefs = self.window.grefs().iter().map(|gref| gref.0).collect();
        let limits = self.ask(Request::Hello { window: List::new(grefs).context("too many pages")? })?;
        ensure!(matches!(limits, Reply::Limits { .. }), "{limits:?}");
        Ok(())
    }

    /// Other tenants' guests and service VMs do not exist for it.
    fn not_its_own(&mut self, guest: u16) -> anyhow::Result<()> {
        let (mut refused, mut allowed) = (0, 0);
        for domid in (0..=10).chain([guest, guest + 1, 0x7ff0, u16::MAX]) {
            let part = Part::Ramdisk { offset: 0 };
            for request in [
                Request::Pause { domid },
                Request::Unpause { domid },
                Request::Destroy { domid },
                Request::Finish { domid },
                Request::Load { domid, part, length: 16 },
            ] {
                match self.ask(request)? {
                    Reply::Refused { refusal: Refusal::Unknown, .. } => refused += 1,
                    _ => allowed += 1,
                }
            }
        }
        let listed = self.listed()?;
        info!(refused, allowed, listed, "not-its-own");
        Ok(())
    }

    fn listed(&mut self) -> anyhow::Result<usize> {
        match self.ask(Request::List { after: 0 })? {
            Reply::Guests { guests, .. } => Ok(guests.len()),
            other => anyhow::bail!("{other:?}"),
        }
    }

    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    /// Bytes of a guest that cannot be, or of none at all.
    fn bad_guest(&mut self) -> anyhow::Result<u32> {
        let big = u64::from(self.random()) << (self.random() % 32);
        let mode = match self.random() % 3 {
            0 => Mode::Pvh { entry: self.random() },
            1 => Mode::Pv(PvEntry {
                entry: big,
                virt_base: big & !0xfff,
                hypercall_page: Some(big),
                init_p2m: None,
            }),
            _ => Mode::Pv(PvEntry {
                entry: !big,
                virt_base: !0xfff,
                hypercall_page: None,
                init_p2m: Some(big),
            }),
        };
        let mut segments = Vec::new();
        for _ in 0..self.random() % 17 {
            let paddr = u64::from(self.random()) << (self.random() % 8);
            segments.push(Segment { paddr, file_bytes: big, memory_bytes: u64::from(self.random()) });
        }
        let guest = NewGuest {
            name: Text::new(["x", "", "../../up", "x"][usize::try_from(self.random() % 4)?]),
            memory_mib: [0, 1, 16, u32::MAX][usize::try_from(self.random() % 4)?],
            vcpus: [0, 1, u32::MAX][usize::try_from(self.random() % 3)?],
            kernel: KernelPlan { mode, segments },
            ramdisk_bytes: big,
            cmdline: Text::new("x"),
        };
        let mut bytes = guest.encode()?;
        let end = bytes.len().saturating_sub(1);
        match self.random() % 3 {
            0 => bytes.truncate(usize::try_from(self.random())? % bytes.len().max(1)),
            1 => {
                let at = usize::try_from(self.random())? % bytes.len().max(1);
                bytes[at.min(end)] ^= self.random().to_le_bytes()[0];
            }
            _ => {}
        }
        self.window.write(0, &bytes);
        Ok(u32::try_from(bytes.len())?)
    }

    fn nonsense(&mut self) -> anyhow::Result<()> {
        let (mut refused, mut answered) = (0, 0);
        for n in 0..HOSTILE {
            let domid = u16::try_from(self.random() & 0xffff)?;
            let request = match self.random() % 8 {
                0..=3 => {
                    let length = self.bad_guest()?;
                    // The same key again and again, too.
                    Request::Create { key: u64::from(self.random() % 50), length }
                }
                4 => Request::Create { key: u64::from(n), length: self.random() },
                5 => {
                    let (length, segment) = (self.random(), domid.to_le_bytes()[0]);
                    let offset = u64::from(self.random()) << 32;
                    Request::Load { domid, part: Part::Kernel { segment, offset }, length }
                }
                6 => Request::Finish { domid },
                _ if n % 50 == 0 => {
                    let grefs = (0..self.random() % 64).map(|_| self.random).collect();
                    Request::Hello { window: List::new(grefs).unwrap_or_default() }
                }
                _ => Request::Destroy { domid },
            };
            let said_hello = matches!(request, Request::Hello { .. });
            match self.ask(request)? {
                Reply::Refused { .. } => refused += 1,
                Reply::Created { domid } => {
                    answered += 1;
                    self.ask(Request::Destroy { domid })?;
                }
                _ => answered += 1,
            }
            if said_hello {
                self.hello()?;
            }
        }
        let left = self.listed()?;
        info!(requests = HOSTILE, refused, answered, left, "nonsense");
        Ok(())
    }

    /// After all that a guest of its own is built, runs and goes.
    fn a_guest(&mut self) -> anyhow::Result<()> {
        let segment = Segment { paddr: u64::from(ENTRY), file_bytes: 2, memory_bytes: PAGE_SIZE as u64 };
        let guest = NewGuest {
            name: Text::new("own"),
            memory_mib: 16,
            vcpus: 1,
            kernel: KernelPlan { mode: Mode::Pvh { entry: ENTRY }, segments: vec![segment] },
            ramdisk_bytes: 0,
            cmdline: Text::new(""),
        };
        let bytes = guest.encode()?;
        self.window.write(0, &bytes);
        let created = self.ask(Request::Create { key: u64::MAX, length: u32::try_from(bytes.len())? })?;
        let Reply::Created { domid } = created else { anyhow::bail!("{created:?}") };
        self.window.write(0, &SPIN);
        let part = Part::Kernel { segment: 0, offset: 0 };
        let loaded = self.ask(Request::Load { domid, part, length: 2 })?;
        ensure!(loaded == Reply::Done, "{loaded:?}");
        let finished = self.ask(Request::Finish { domid })?;
        ensure!(matches!(finished, Reply::Finished { .. }), "{finished:?}");
        for request in [Request::Unpause { domid }, Request::Pause { domid }, Request::Destroy { domid }] {
            let done = self.ask(request)?;
            ensure!(done == Reply::Done, "{done:?}");
        }
        info!(domid, "own-guest");
        Ok(())
    }

    fn by_hypercalls(&mut self) -> anyhow::Result<()> {
        let control = Control::open()?;
        let mut matrix = Matrix::new(option("type")?);
        let me = DomId(u16::try_from(number("domid")?)?);
        attempts::xenstore(&mut matrix, &control, me, &others()?, &[]);
        matrix.end();
        Ok(())
    }

    /// Spoils the channel's page behind its own back: an index that cannot be. Builder hangs up.
    fn garbage(self) -> anyhow::Result<Infallible> {
        let control = Control::open()?;
        let is_channel = |page: &[u8]| page.starts_with(b"EnCh") && page.get(20..24) == Some(b"Gsts");
        for first in (0..number("frames")?).step_by(STEP) {
            if let Some(page) = control.probe().own_page(Mfn(first), STEP, is_channel)? {
                page.store(REQUESTS_PRODUCED, u32::MAX - 1);
                self.events.notify(self.client.port())?;
                info!("garbage");
                loop {
                    std::thread::sleep(PATIENCE);
                }
            }
        }
        anyhow::bail!("The channel's page is not found")
    }
}
