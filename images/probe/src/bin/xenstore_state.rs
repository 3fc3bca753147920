//! A stand-in for XenStore-State: see `ennead_probe::xenstore`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ennead_channel::xenstore::{Reply, Request, part};
use ennead_channel::{List, Offer, Protocol, Server, Tagged, XenStoreControl};
use ennead_manifest::Kind;
use ennead_probe::xenstore::{Prober, REGION, Relay, ToLogic, ToState, Tree, is_done, region_words};
use ennead_runtime::Sandbox;
use ennead_xen::{DomId, EventChannels, GrantedPage, GrantedRegion, SharedPage as _};
use ennead_xs_wire::Errno;
use tracing::{info, warn};

const PATIENCE: Duration = Duration::from_secs(5);

/// A channel that is offered, and open once its client's domain exists.
enum Channel<P: Protocol> {
    Offered(Offer<P>),
    Open(Server<P, GrantedPage>),
}

fn open<P: Protocol>(channel: &mut Option<Channel<P>>, events: &EventChannels) {
    *channel = match channel.take() {
        Some(Channel::Offered(offer)) => Some(match events.bind_unbound(offer.peer()) {
            Ok(port) => Channel::Open(offer.open(port)),
            // Its domain is not there yet.
            Err(_) => Channel::Offered(offer),
        }),
        other => other,
    };
}

struct State {
    events: EventChannels,
    controls: Vec<Option<Channel<XenStoreControl>>>,
    logic: Option<Channel<Relay>>,
    rings: BTreeMap<u16, u32>,
    tree: Tree,
    /// For Logic.
    out: Vec<ToLogic>,
    region: GrantedRegion,
    prober: Option<Prober>,
}

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        info!("started");
        let events = EventChannels::open()?;
        let (mut controls, mut logic, mut peer) = (Vec::new(), None, DomId(0));
        for client in &runtime.params.answers {
            if client.name.as_str() == "xenstore-logic" {
                logic = Some(Channel::Offered(Offer::new(client.domid)?));
                peer = client.domid;
            } else {
                controls.push(Some(Channel::Offered(Offer::new(client.domid)?)));
            }
        }
        let (rings, tree, out) = (BTreeMap::new(), Tree::default(), Vec::new());
        let region = GrantedRegion::new(peer, REGION)?;
        region_words().for_each(|(offset, word)| region.store(offset, word));
        let prober = Prober::open(Kind::XenstoreState)?;
        let mut state = State { events, controls, logic, rings, tree, out, region, prober };
        state.open();
        Sandbox::new().keep_read("/proc/meminfo").enter().context("Cannot drop privileges")?;
        info!(available_kib = available_kib()?, "memory");
        runtime.health.report()?;
        loop {
            while state.turn()? {}
            state.events.wait(None)?;
        }
    })
}

/// What Linux says could still be had.
fn available_kib() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    Ok(line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default())
}

impl State {
    fn open(&mut self) {
        self.controls.iter_mut().for_each(|channel| open(channel, &self.events));
        open(&mut self.logic, &self.events);
    }

    /// Handles what there is; whether there was something.
    fn turn(&mut self) -> anyhow::Result<bool> {
        let mut busy = false;
        for index in 0..self.controls.len() {
            let Some(Some(Channel::Open(server))) = self.controls.get_mut(index) else { continue };
            let Some(Tagged { id, body }) = server.try_recv(&self.events)? else { continue };
            busy = true;
            let reply = self.obey(body);
            let Some(Some(Channel::Open(server))) = self.controls.get_mut(index) else { continue };
            if let Err(e) = server.send(&self.events, &Tagged { id, body: reply }, PATIENCE) {
                warn!(cause = %e, "answer-dropped");
            }
        }
        if let Some(Channel::Open(server)) = &mut self.logic {
            while let Some(Tagged { body, .. }) = server.try_recv(&self.events)? {
                busy = true;
                match body {
                    ToState::Hello => {
                        self.out.clear();
                        let grefs = self.region.grefs().iter().map(|gref| gref.0).collect();
                        self.out.extend(List::new(grefs).map(ToLogic::Region));
                        self.out
                            .extend(self.rings.iter().map(|(domid, port)| ToLogic::Connect(*domid, *port)));
                    }
                    ToState::Message(domid, message) => {
                        if let Some(prober) = self.prober.take_if(|_| is_done(&message)) {
                            prober.attempts(&[]);
                        }
                        self.tree.answer(domid, &message);
                    }
                }
            }
            for (domid, message) in self.tree.out.drain(..) {
                self.out.extend(List::new(message).map(|message| ToLogic::Message(domid, message)));
            }
            for body in self.out.drain(..) {
                if let Err(e) = server.send(&self.events, &Tagged { id: 0, body }, PATIENCE) {
                    warn!(cause = %e, "logic-silent");
                }
            }
        }
        Ok(busy)
    }

    fn obey(&mut self, request: Request) -> Reply {
        match request {
            Request::Created { .. } => self.open(),
            Request::Introduce { domid, port, .. } | Request::Rebound { domid, port } => {
                self.rings.insert(domid, port);
                self.out.push(ToLogic::Connect(domid, port));
            }
            Request::Release { domid } | Request::Restarting { domid } => self.disconnect(domid),
            Request::ShutDown { .. } | Request::Toolstack { .. } => {}
            Request::Died { domid } => {
                self.disconnect(domid);
                self.tree.remove(format!("/local/domain/{domid}").as_bytes());
            }
            Request::Write { path, value, .. } => self.tree.write(path.as_bytes(), &value),
            Request::Count | Request::HandOver { .. } => return Reply::Refused(Errno::Enosys),
            Request::Remove { path } => self.tree.remove(path.as_bytes()),
            Request::Read { path, offset } => {
                return self
                    .tree
                    .read(path.as_bytes())
                    .map_or(Reply::Refused(Errno::Enoent), |v| part(v, offset));
            }
            Request::List { path, offset } => return part(&self.tree.names(path.as_bytes()), offset),
        }
        Reply::Done
    }

    fn disconnect(&mut self, domid: u16) {
        let DomId(domid) = DomId(domid);
        self.tree.forget(domid);
        if self.rings.remove(&domid).is_some() {
            self.out.push(ToLogic::Disconnect(domid));
        }
    }
}
