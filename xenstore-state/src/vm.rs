//! State in its VM: a region granted to Logic, and a channel to each VM that builds VMs.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::controller::Controller;
use crate::settings::settings;
use anyhow::Context as _;
use ennead_channel::{Offer, Server, Tagged, XenStoreControl};
use ennead_os::XenMemory;
use ennead_runtime::{Runtime, Sandbox};
use ennead_xen::{EventChannels, GrantedPage, GrantedRegion, Port};
use ennead_xenstore_state::service::{Mode, Service};
use ennead_xenstore_state::{Quotas, State};
use ennead_xs_link::{Answerer, Directory, MAX_BODY, RecordWriter, region_len};
use tracing::{info, warn};

/// Slots of the link: each guest has one call under way, and half of the slots are for those.
const SLOTS: usize = 16;
const PAGE: usize = ennead_xen::PAGE_SIZE;
/// How often to look whether a client's domain has come to be.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a client may leave its channel full.
const PATIENCE: Duration = Duration::from_secs(1);

enum Channel {
    /// Its client's domain is not there yet.
    Offered(Offer<XenStoreControl>),
    Open(Server<XenStoreControl>),
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
    start: Instant,
}

/// `/init`.
pub(crate) fn serve(runtime: Runtime) -> anyhow::Result<Infallible> {
    info!("started");
    let events = EventChannels::open().context("Cannot open the event channels")?;
    let settings = settings(&runtime.params.quotas)?;
    tell_quotas(&settings.quotas);
    let mut service = Service::new(State::new(settings), Mode::Xen);
    let (mut controls, mut logic) = (Vec::new(), None);
    // In this order, so that each client finds its page under the gref that it expects.
    for client in &runtime.params.answers {
        if client.name.as_str() == "xenstore-logic" {
            logic = Some((client.domid, GrantedPage::new(client.domid)?));
        } else {
            let controller = Controller::new(&mut service.state, client.domid.0);
            controls.push(Some((Channel::Offered(Offer::new(client.domid)?), controller)));
        }
    }
    let (domid, directory) = logic.context("The plan gives State no channel to Logic")?;
    let region = GrantedRegion::new(domid, region_len(SLOTS).div_ceil(PAGE))?;
    let grefs = region.grefs().iter().map(|gref| gref.0).collect();
    Sandbox::new().keep_read("/proc/meminfo").enter().context("Cannot drop privileges")?;
    let mut vm = Vm {
        events,
        service,
        controls,
        directory: XenMemory(directory),
        region: grefs,
        bell: None,
        answerer: Answerer::create(XenMemory(region)),
        start: Instant::now(),
    };
    vm.open();
    info!(available_kib = available_kib()?, "memory");
    runtime.health.report()?;
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

impl Vm {
    fn run(&mut self) -> anyhow::Result<Infallible> {
        let mut body = Box::new([0; MAX_BODY]);
        let mut records = RecordWriter::default();
        let mut ports = [Port(0); 16];
        loop {
            if self.service.tick(self.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX)) {
                self.answerer.call_attention();
                self.wake();
            }
            let mut busy = self.control()?;
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
        for slot in &mut self.controls {
            let Some((Channel::Open(server), controller)) = slot else { continue };
            let reply = match server.try_recv(&self.events) {
                Ok(None) => continue,
                Ok(Some(Tagged { id, body })) => {
                    let reply = controller.obey(&mut self.service.state, body);
                    server.send(&self.events, &Tagged { id, body: reply }, PATIENCE)
                }
                Err(e) => Err(e),
            };
            busy = true;
            if let Err(e) = reply {
                warn!(domid = server.peer().0, cause = %e, "channel-broken");
                *slot = None;
            }
        }
        if self.service.gather() {
            self.answerer.call_attention();
            self.wake();
        }
        Ok(busy)
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
