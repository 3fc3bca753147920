//! Logic in its VM: rings by grant, event channels, State's region by grant.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ennead_os::XenMemory;
use ennead_runtime::{Runtime, Sandbox};
use ennead_xen::{DomId, EventChannels, GrantRef, MAX_REGION, MappedPage, MappedRegion, Port};
use ennead_xenstore_logic::serve::{EVENTS, Event, Moved, Serve, Stop, World};
use ennead_xs_link::{Caller, Directory, NotALink};
use tracing::info;

use crate::memory::Memory;

/// Every domain's grant of its XenStore ring.
const RING: GrantRef = GrantRef(1);
/// How long State may take to offer its region, and how often to look.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Events that came while State was waited for.
const HELD: usize = 4096;
/// How long a hushed port stays masked.
const HUSH: Duration = Duration::from_millis(50);

/// `/init`.
pub(crate) fn serve(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let state = runtime.params.talks_to.first().context("The plan gives Logic no channel to State")?;
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let directory = find(state.domid, state.gref).context("XenStore-State offers no region")?;
    let grefs: Vec<GrantRef> = directory.grants.iter().copied().map(GrantRef).collect();
    let region = MappedRegion::map(state.domid, &grefs)?;
    let bell = events.bind_interdomain(state.domid, Port(directory.port))?;
    let Ok(caller) = Caller::attach(XenMemory(region)) else { bail!("XenStore-State is of another version") };
    Sandbox::new().keep_device("/dev/xen/gntdev").enter().context("Cannot drop privileges")?;
    info!(pages = grefs.len(), "attached");
    let ports = || Vec::with_capacity(HELD);
    let world = Vm { events, bell, held: ports(), hushed: ports(), masked: ports(), since: None };
    let mut serve = Serve::new(caller, world, Memory::new)?;
    // It is well once it serves.
    let attached = serve.attach();
    if attached.is_ok() {
        runtime.health.report()?;
    }
    let mut stop = attached.and_then(|()| serve.run());
    while let Err(Stop::Moved(state, page)) = stop {
        stop = follow(&mut serve, DomId(state), GrantRef(page)).and_then(|()| serve.run());
    }
    let Err(stop) = stop;
    crate::report(stop);
    std::process::exit(1)
}

type Region = XenMemory<MappedRegion>;

/// Goes on with State's successor. Nothing here may allocate.
fn follow(serve: &mut Serve<Region, Vm, Memory>, state: DomId, gref: GrantRef) -> Result<(), Stop> {
    let gone = |_| Stop::StateGone;
    let mut grants = [0; MAX_REGION];
    let page = MappedPage::map(state, gref).map(XenMemory).map_err(gone)?;
    // The successor offers its region when it has everything, which the State of before may know first.
    let start = Instant::now();
    let (port, count) = loop {
        match Directory::read_into(&page, &mut grants) {
            Some(found) => break found,
            None if start.elapsed() > PATIENCE => return Err(Stop::StateGone),
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    drop(page);
    let grefs = grants.map(GrantRef);
    let region = MappedRegion::map(state, grefs.get(..count).unwrap_or_default()).map_err(gone)?;
    let caller = Caller::attach(XenMemory(region)).map_err(|NotALink| Stop::StateGone)?;
    let world = serve.world();
    let bell = world.events.bind_interdomain(state, Port(port)).map_err(gone)?;
    let bell = std::mem::replace(&mut world.bell, bell);
    let before = serve.move_to(caller)?;
    before.leave();
    drop(before);
    let events = &serve.world().events;
    // The State of before may be gone already.
    let _ = events.notify(bell).and_then(|()| events.unbind(bell));
    Ok(())
}

/// Waits for the page that says what State's region is made of.
fn find(state: DomId, gref: GrantRef) -> anyhow::Result<Directory> {
    let start = Instant::now();
    loop {
        // Mapped anew each time: a State that was rebuilt has granted another page.
        let page = MappedPage::map(state, gref).map(XenMemory);
        if let Some(directory) = page.as_ref().ok().and_then(Directory::read) {
            return Ok(directory);
        }
        if start.elapsed() > PATIENCE {
            page.context("Its page cannot be mapped")?;
            bail!("Its page stays empty for {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

struct Vm {
    events: EventChannels,
    /// State's channel.
    bell: Port,
    held: Vec<Port>,
    /// Ports of broken rings; those of them that are masked, and since when the first of them is.
    hushed: Vec<Port>,
    masked: Vec<Port>,
    since: Option<Instant>,
}

impl Vm {
    /// Waits for events and keeps those of rings; says whether State's was among them.
    fn listen(&mut self, timeout: Option<Duration>) -> Result<bool, Stop> {
        let no_events = |_| Stop::World("no events from Xen");
        let mut ports = [Port(0); EVENTS];
        let left = self.since.map(|since| HUSH.saturating_sub(since.elapsed()));
        let timeout = timeout.into_iter().chain(left).min();
        let hushed = |port| self.hushed.contains(&port);
        let n = self.events.wait_many_but(&mut ports, timeout, hushed).map_err(no_events)?;
        if self.since.is_some_and(|since| since.elapsed() >= HUSH) {
            self.since = None;
            for port in self.masked.drain(..) {
                self.events.unmask(port).map_err(no_events)?;
            }
        }
        let mut rung = false;
        for port in ports.iter().take(n) {
            if self.masked.len() < HELD && self.hushed.contains(port) {
                self.masked.push(*port);
                self.since.get_or_insert_with(Instant::now);
            }
            if *port == self.bell {
                rung = true;
            } else if self.held.len() < HELD && !self.held.contains(port) {
                self.held.push(*port);
            }
        }
        Ok(rung)
    }
}

impl World for Vm {
    type Page = XenMemory<MappedPage>;

    fn wait(&mut self, events: &mut Vec<Event>, block: bool) -> Result<(), Stop> {
        let at_once = !block || !self.held.is_empty();
        if self.listen(at_once.then_some(Duration::ZERO))? {
            events.push(Event::State);
        }
        let n = self.held.len().min(EVENTS.saturating_sub(events.len()));
        events.extend(self.held.drain(..n).map(|port| Event::Port(port.0)));
        Ok(())
    }

    fn wait_for_state(&mut self) -> Result<(), Stop> {
        while !self.listen(None)? {}
        Ok(())
    }

    fn wake_state(&mut self) {
        // Fails only if the port is none of ours, which it is.
        let _ = self.events.notify(self.bell);
    }

    fn spin(&mut self, _round: u32) -> bool {
        // One vCPU: whoever is waited for may need the processor.
        false
    }

    fn map(&mut self, domid: u16, port: u32) -> Option<(Self::Page, u32)> {
        let page = MappedPage::map(DomId(domid), RING).ok()?;
        let port = self.events.bind_interdomain(DomId(domid), Port(port)).ok()?;
        Some((XenMemory(page), port.0))
    }

    fn hush(&mut self, port: u32, hushed: bool) {
        self.hushed.retain(|other| other.0 != port);
        if hushed && self.hushed.len() < HELD {
            self.hushed.push(Port(port));
        }
    }

    fn unbind(&mut self, port: u32) {
        for ports in [&mut self.held, &mut self.hushed, &mut self.masked] {
            ports.retain(|other| other.0 != port);
        }
        let _ = self.events.unbind(Port(port));
    }

    fn notify(&mut self, port: u32) {
        let _ = self.events.notify(Port(port));
    }

    fn adopt(&mut self, _socket: u32, _line: u32) -> bool {
        false
    }

    fn read(&mut self, _socket: u32, _out: &mut [u8]) -> Moved {
        Moved::Closed
    }

    fn write(&mut self, _socket: u32, _data: &[u8]) -> Moved {
        Moved::Closed
    }

    fn choose(&mut self, _socket: u32, _line: u32, _blocked: bool) {}

    fn close(&mut self, _socket: u32) {}
}
