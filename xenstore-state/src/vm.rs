//! State in its VM: a region granted to Logic, and a channel to each VM that builds VMs. A successor has a region for its
//! predecessor as well, and takes everything over before it serves.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::controller::Controller;
use crate::settings::settings;
use crate::successor::{self, Predecessor};
use anyhow::Context as _;
use ennead_channel::xenstore::{Reply, Request};
use ennead_channel::{Offer, Server, Tagged, XenStoreControl};
use ennead_os::XenMemory;
use ennead_runtime::{Health, Runtime, Sandbox};
use ennead_xen::{DomId, EventChannels, GrantRef, GrantedPage, GrantedRegion, Port};
use ennead_xenstore_state::service::{Mode, Service};
use ennead_xenstore_state::{Quotas, State};
use ennead_xs_link::{Answerer, Directory, MAX_BODY, RecordWriter, region_len};
use ennead_xs_wire::Errno;
use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

/// Slots of the link: each guest has one call under way, and half of the slots are for those.
const SLOTS: usize = 16;
const PAGE: usize = ennead_xen::PAGE_SIZE;
/// How often to look whether a client's domain has come to be.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a client may leave its channel full.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long Logic may take to attach to a successor; one that does not is built again by Builder.
const LOGIC: Duration = Duration::from_secs(5);

enum Channel {
    /// Its client's domain is not there yet.
    Offered(Offer<XenStoreControl>),
    Open(Server<XenStoreControl, GrantedPage>),
}

impl Channel {
    fn peer(&self) -> DomId {
        match self {
            Self::Offered(offer) => offer.peer(),
            Self::Open(server) => server.peer(),
        }
    }
}

struct Vm {
    events: EventChannels,
    service: Service,
    controls: Vec<Option<(Channel, Controller)>>,
    /// The page on which Logic finds its region, and whose it is.
    directory: XenMemory<GrantedPage>,
    region: Vec<u32>,
    bell: Option<Port>,
    answerer: Answerer<XenMemory<GrantedRegion>>,
    /// A successor has everything.
    is_succeeded: bool,
}

/// `/init`.
pub(crate) fn serve(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let settings = settings(&runtime.params.quotas)?;
    tell_quotas(&settings.quotas);
    let (mut offers, mut logic, mut predecessor) = (Vec::new(), None, None);
    // In this order, so that each client finds its page under the gref that it expects.
    for client in &runtime.params.answers {
        if client.name.as_str() == "xenstore-logic" {
            logic = Some(GrantedPage::new(client.domid)?);
        } else if client.name == runtime.params.vm {
            predecessor = Some(GrantedPage::new(client.domid)?);
        } else {
            offers.push(Offer::new(client.domid)?);
        }
    }
    let directory = logic.context("The plan gives State no channel to Logic")?;
    let region = GrantedRegion::new(directory.peer(), region_len(SLOTS).div_ceil(PAGE))?;
    let grefs = region.grefs().iter().map(|gref| gref.0).collect();
    let predecessor = predecessor.map(|page| Predecessor::new(page, &events)).transpose()?;
    // A successor's pages are mapped when it is there.
    let sandbox = Sandbox::new().keep_read("/proc/meminfo").keep_device("/dev/xen/gntdev");
    sandbox.enter().context("Cannot drop privileges")?;
    let mut health = Some(runtime.health);
    let mut service = match predecessor {
        Some(predecessor) => {
            // Now, so that Builder sends the predecessor here.
            health.take().map_or(Ok(()), Health::report)?;
            predecessor.take(settings, &events)?
        }
        None => Service::new(State::new(settings), Mode::Xen),
    };
    let controls = offers.into_iter().map(|offer| {
        let controller = Controller::new(&mut service.state, offer.peer().0);
        Some((Channel::Offered(offer), controller))
    });
    let mut vm = Vm {
        events,
        controls: controls.collect(),
        service,
        directory: XenMemory(directory),
        region: grefs,
        bell: None,
        answerer: Answerer::create(XenMemory(region)),
        is_succeeded: false,
    };
    vm.open();
    info!(available_kib = available_kib()?, "memory");
    health.map_or(Ok(()), Health::report)?;
    vm.run()
}

/// What guests may use.
fn tell_quotas(quotas: &Quotas) {
    let Quotas { nodes, node_size, watches, transactions, .. } = *quotas;
    let Quotas { transaction_nodes, permissions, path_max, memory, events, .. } = *quotas;
    info!(
        nodes,
        node_size, watches, transactions, transaction_nodes, permissions, path_max, memory, events, "quotas"
    );
}

/// What Linux says could still be had, KiB.
fn available_kib() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    Ok(line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default())
}

/// The time in milliseconds, as of Linux's last tick: the exact one mostly is a system call, for each request.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::try_from(now).map_or(0, |now| now.as_millis().try_into().unwrap_or(u64::MAX))
}

impl Vm {
    fn run(&mut self) -> anyhow::Result<Infallible> {
        let mut body = Box::new([0; MAX_BODY]);
        let mut records = RecordWriter::default();
        let mut ports = [Port(0); 16];
        loop {
            if self.service.tick(now_ms()) {
                self.answerer.call_attention();
                self.wake();
            }
            let mut busy = self.control()?;
            if self.is_succeeded {
                // Until Builder destroys this VM.
                loop {
                    self.events.wait(None)?;
                }
            }
            busy |= self.answer(&mut body, &mut records);
            self.tell_refusals();
            if busy {
                continue;
            }
            self.answerer.sleeps(true);
            if !self.answerer.has_call() {
                let idle = self.open() && !self.service.is_holding();
                let timeout = if idle { None } else { Some(LOOK_EVERY) };
                self.events.wait_many(&mut ports, timeout)?;
            }
            self.answerer.sleeps(false);
        }
    }

    /// Opens what can be opened; says whether everything is open.
    fn open(&mut self) -> bool {
        let Self { controls, events, .. } = self;
        let mut all = true;
        for control in controls {
            *control = match control.take() {
                Some((Channel::Offered(offer), controller)) => match events.bind_unbound(offer.peer()) {
                    Ok(port) => Some((Channel::Open(offer.open(port)), controller)),
                    Err(_) => {
                        all = false;
                        Some((Channel::Offered(offer), controller))
                    }
                },
                other => other,
            };
        }
        if self.bell.is_none() {
            self.bell = self.events.bind_unbound(self.directory.0.peer()).ok();
            if let Some(port) = self.bell {
                Directory { port: port.0, grants: self.region.clone() }.publish(&self.directory);
            }
        }
        all && self.bell.is_some()
    }

    /// Does what Builder asks; says whether there was anything.
    fn control(&mut self) -> anyhow::Result<bool> {
        let mut busy = false;
        for i in 0..self.controls.len() {
            let Some(slot) = self.controls.get_mut(i) else { break };
            let Some((Channel::Open(server), controller)) = slot else { continue };
            let reply = match server.try_recv(&self.events) {
                Ok(None) => continue,
                Ok(Some(Tagged { id, body: Request::HandOver { domid, page } })) => {
                    let body = self.hand_over(DomId(domid), GrantRef(page));
                    self.reply(i, &Tagged { id, body })
                }
                Ok(Some(Tagged { id, body })) => {
                    let body = controller.obey(&mut self.service.state, body);
                    self.reply(i, &Tagged { id, body })
                }
                Err(e) => Err(e),
            };
            busy = true;
            if let (Err(e), Some(slot)) = (reply, self.controls.get_mut(i)) {
                let domid = slot.take().map(|(channel, _)| channel.peer().0);
                warn!(domid, cause = %e, "channel-broken");
            }
        }
        if self.service.gather() {
            self.answerer.call_attention();
            self.wake();
        }
        Ok(busy)
    }

    fn reply(&mut self, control: usize, reply: &Tagged<Reply>) -> Result<(), ennead_channel::Error> {
        match self.controls.get_mut(control) {
            Some(Some((Channel::Open(server), _))) => server.send(&self.events, reply, PATIENCE),
            _ => Ok(()),
        }
    }

    /// Gives everything to a successor and sends Logic there. If that fails, all goes on as before.
    fn hand_over(&mut self, successor: DomId, page: GrantRef) -> Reply {
        let start = Instant::now();
        if let Err(e) = successor::give(&self.service, &self.events, successor, page) {
            warn!(domid = successor.0, cause = %format!("{e:#}"), "not-handed-over");
            return Reply::Refused(Errno::Eio);
        }
        let given_ms = start.elapsed().as_millis();
        self.is_succeeded = true;
        // The successor grants Logic its page under the same number: the plan's order is the same.
        self.answerer.send_to(successor.0, self.directory.0.gref().0);
        self.wake();
        while !self.answerer.is_left() && start.elapsed() < LOGIC {
            if self.events.wait(Some(LOOK_EVERY)).is_err() {
                break;
            }
        }
        let (left, pause_ms) = (self.answerer.is_left(), start.elapsed().as_millis());
        info!(
            domid = successor.0,
            nodes = self.service.state.nodes(),
            given_ms,
            pause_ms,
            logic = left,
            "handed-over"
        );
        Reply::Done
    }

    /// Answers Logic; says whether it asked anything.
    fn answer(&mut self, body: &mut [u8; MAX_BODY], records: &mut RecordWriter) -> bool {
        let mut any = false;
        loop {
            match self.answerer.next_call(body) {
                Ok(None) => return any,
                Ok(Some((call, body))) => {
                    let more = self.service.handle(&call, body, records);
                    self.answerer.answer(records.bytes(), more);
                }
                Err(violation) => warn!(what = violation.0, "logic-broke-the-link"),
            }
            any = true;
            self.wake();
        }
    }

    fn wake(&self) {
        if self.answerer.must_wake() {
            if let Some(port) = self.bell {
                // To a Logic that is being rebuilt it goes nowhere, and that one looks by itself.
                let _ = self.events.notify(port);
            }
        }
    }

    /// What was denied, for the audit log.
    fn tell_refusals(&mut self) {
        while let Some(refusal) = self.service.state.next_refusal() {
            warn!(
                domid = refusal.domid,
                op = ?refusal.op,
                path = %refusal.path.escape_ascii(),
                errno = %refusal.errno,
                "refused"
            );
        }
    }
}
