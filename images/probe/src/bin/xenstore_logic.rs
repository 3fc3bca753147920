//! A stand-in for XenStore-Logic: see `ennead_probe::xenstore`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::{Client, List};
use ennead_manifest::Kind;
use ennead_probe::xenstore::{Prober, Relay, ToLogic, ToState, is_done, region_words};
use ennead_runtime::Sandbox;
use ennead_xen::{
    DomId, EventChannels, GrantRef, MappedPage, MappedRegion, PAGE_SIZE, Port, SharedPage as _,
};
use ennead_xs_wire::Raw;
use tracing::{info, warn};

const PATIENCE: Duration = Duration::from_secs(10);
/// Every domain's grant of its XenStore ring.
const RING: GrantRef = GrantRef(1);
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const SIZE: u32 = 1024;

struct Ring {
    page: MappedPage,
    port: Port,
    /// Length of the request that State has. It stays in the ring until its answer is there, so that a successor finds it.
    asked: Option<usize>,
    answered: bool,
    /// Bytes that wait for room.
    out: Vec<u8>,
}

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        info!("started");
        let state = runtime.params.talks_to.first().context("The plan gives Logic no channel to State")?;
        let events = EventChannels::open()?;
        let mut client = Client::<Relay>::connect(state.domid, state.gref, &events, PATIENCE)?;
        let mut prober = Prober::open(Kind::XenstoreLogic)?;
        let mut turn = false;
        Sandbox::new().keep_device("/dev/xen/gntdev").enter().context("Cannot drop privileges")?;
        client.send(&events, ToState::Hello, PATIENCE)?;
        runtime.health.report()?;
        let mut rings: BTreeMap<u16, Ring> = BTreeMap::new();
        let mut ports = [Port(0); 64];
        loop {
            while let Some(reply) = client.try_recv(&events)? {
                match reply.body {
                    ToLogic::Region(grefs) => {
                        let grefs: Vec<GrantRef> = grefs.iter().copied().map(GrantRef).collect();
                        let region = MappedRegion::map(state.domid, &grefs)?;
                        let good = region_words().all(|(offset, word)| region.load(offset) == word);
                        info!(pages = region.size() / PAGE_SIZE, first = grefs[0].0, good, "region");
                    }
                    ToLogic::Connect(domid, port) => match Ring::open(domid, port, &events) {
                        Ok(ring) => drop(rings.insert(domid, ring)),
                        Err(e) => warn!(domid, cause = %e, "no-ring"),
                    },
                    ToLogic::Disconnect(domid) => {
                        if let Some(ring) = rings.remove(&domid) {
                            let _ = events.unbind(ring.port);
                        }
                    }
                    ToLogic::Message(domid, message) => {
                        // State has answered, and so it has made its own attempts.
                        if let Some(prober) = prober.take_if(|_| turn) {
                            prober.attempts(&["xenstore-state", "pciback"]);
                        }
                        if let Some(ring) = rings.get_mut(&domid) {
                            ring.take(message.into_vec());
                        }
                    }
                }
            }
            for (domid, ring) in &mut rings {
                if let Some(message) = ring.turn(&events)? {
                    turn |= is_done(&message);
                    if let Some(message) = List::new(message) {
                        client.send(&events, ToState::Message(*domid, message), PATIENCE)?;
                    }
                }
            }
            events.wait_many(&mut ports, Some(Duration::from_millis(100)))?;
        }
    })
}

impl Ring {
    fn open(domid: u16, port: u32, events: &EventChannels) -> Result<Self, ennead_xen::Error> {
        let page = MappedPage::map(DomId(domid), RING)?;
        let port = events.bind_interdomain(DomId(domid), Port(port))?;
        Ok(Self { page, port, asked: None, answered: false, out: Vec::new() })
    }

    /// Takes a message for the domain.
    fn take(&mut self, message: Vec<u8>) {
        let is_event =
            Raw::split(&message).is_ok_and(|raw| raw.is_some_and(|(raw, _)| raw.event().is_some()));
        self.answered |= !is_event;
        self.out.extend(message);
    }

    /// Moves bytes; gives the next request, one at a time.
    fn turn(&mut self, events: &EventChannels) -> anyhow::Result<Option<Vec<u8>>> {
        let page = &self.page;
        let (room_from, mut prod) = (page.load(RSP_CONS), page.load(RSP_PROD));
        let room = usize::try_from(SIZE.saturating_sub(prod.wrapping_sub(room_from)))?;
        let mut moved = room.min(self.out.len()) > 0;
        for byte in self.out.drain(..room.min(self.out.len())) {
            page.write(1024 + usize::try_from(prod % SIZE)?, &[byte]);
            prod = prod.wrapping_add(1);
        }
        page.store(RSP_PROD, prod);
        let mut cons = page.load(REQ_CONS);
        if self.answered && self.out.is_empty() {
            cons = cons.wrapping_add(u32::try_from(self.asked.take().unwrap_or_default())?);
            page.store(REQ_CONS, cons);
            self.answered = false;
            moved = true;
        }
        if moved {
            events.notify(self.port)?;
        }
        let available = page.load(REQ_PROD).wrapping_sub(cons);
        if self.asked.is_some() || available > SIZE {
            return Ok(None);
        }
        let mut request = Vec::new();
        for at in 0..available {
            let mut byte = [0];
            page.read(usize::try_from(cons.wrapping_add(at) % SIZE)?, &mut byte);
            request.extend(byte);
        }
        self.asked = Raw::split(&request)?.map(|(_, length)| length);
        Ok(self.asked.map(|length| request.drain(..length).collect()))
    }
}
