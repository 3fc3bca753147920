//! The toolstacks' requests: each is checked against the trust list ([`crate::guests`]), then done.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ennead_channel::guests::{
    GUESTS_PER_REPLY, Guest as Told, MAX_NEW_GUEST, NewGuest, Part, Refusal, Reply, Request, Service, State,
    WINDOW_PAGES,
};
use ennead_channel::{FIRST_GREF, Guests as Protocol, List, Server, Tagged, Text, xenstore};
use ennead_domain::{Construction, Limits, Spec};
use ennead_manifest::{Iommu, Vm, context};
use ennead_xen::{
    Control, DomId, DomainState, EventChannels, GrantRef, MappedPage, MappedRegion, PAGE_SIZE, Port,
    SharedPage as _,
};
use tracing::{info, warn};

use super::Host;
use crate::guests::{Admitted, Phase, Refused};

/// Requests of one toolstack that are done before others have their turn.
const TURN: usize = 8;
/// Refusals of one toolstack's requests that are logged in a second.
const LOGGED: u32 = 10;
/// Answers and notices that wait for room; a toolstack that lets more pile up is asked for no more requests.
const MAX_WAITING: usize = 64;

/// A toolstack's end of the channel.
#[derive(Debug)]
pub(super) struct Toolstack {
    server: Server<Protocol, MappedPage>,
    window: Option<MappedRegion>,
    /// What was last copied from it. It stays: each page of new memory is a fault, which costs a PV domain more than the copy.
    copied: Vec<u8>,
    /// What it is building.
    half: Option<Construction<Rc<Control>>>,
    waiting: VecDeque<Tagged<Reply>>,
    /// It may have sent something.
    ready: bool,
    /// Refusals since then, of which the first few are logged.
    refused: (Instant, u32),
}

/// Why a request is not done, for a program and for people.
struct No {
    refusal: Refusal,
    reason: String,
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        Self { refusal: refused.refusal(), reason: refused.to_string() }
    }
}

impl No {
    fn failed(refusal: Refusal, error: impl Into<anyhow::Error>) -> Self {
        Self { refusal, reason: format!("{:#}", error.into()) }
    }

    fn invalid(reason: &str) -> Self {
        Self { refusal: Refusal::Invalid, reason: reason.to_owned() }
    }
}

impl From<ennead_domain::Error> for No {
    fn from(error: ennead_domain::Error) -> Self {
        use ennead_domain::Error;
        let refusal = match error {
            Error::Memory { .. } => Refusal::Memory,
            Error::Xen { .. } | Error::Left { .. } | Error::Nonsense(_) => Refusal::Failed,
            _ => Refusal::Invalid,
        };
        Self::failed(refusal, error)
    }
}

impl From<ennead_xen::Error> for No {
    fn from(error: ennead_xen::Error) -> Self {
        Self::failed(Refusal::Failed, error)
    }
}

impl Host {
    /// Opens the channel that a tenant's toolstack, which is healthy, offers. Builder holds the page, not the other way round: a
    /// page of Builder's in a tenant's hands would keep a dead Builder alive.
    pub(super) fn attach(&mut self, vm: &Vm) -> anyhow::Result<()> {
        let caller = DomId(vm.domid);
        if self.guests.tenant(caller).is_none() {
            return Ok(());
        }
        let server = Server::attach(caller, GrantRef(FIRST_GREF), &self.events)
            .with_context(|| format!("Cannot open the channel of {}", vm.name))?;
        info!(vm = %vm.name, domid = caller.0, "attached");
        let toolstack = Toolstack {
            server,
            window: None,
            copied: Vec::new(),
            half: None,
            waiting: VecDeque::new(),
            ready: true,
            refused: (Instant::now(), 0),
        };
        self.toolstacks.insert(caller, toolstack);
        Ok(())
    }

    /// Lets go of a VM's pages before it is destroyed, or its domid would stay taken. What it was building is destroyed.
    pub(super) fn let_go(&mut self, caller: DomId) {
        let Some(mut toolstack) = self.toolstacks.remove(&caller) else { return };
        if let Some(half) = toolstack.half.take() {
            self.abandon(half);
        }
        // It is gone with its peer; there is nothing to do about an error.
        let _ = self.events.unbind(toolstack.server.port());
    }

    fn abandon(&mut self, half: Construction<Rc<Control>>) {
        let domid = half.domid();
        drop(half);
        self.guests.remove(domid);
        info!(domid = domid.0, "half-built-destroyed");
    }

    /// Notes that a toolstack may have sent something; whether the port is one of theirs.
    pub(super) fn heard(&mut self, port: Port) -> bool {
        let heard = self.toolstacks.values_mut().find(|toolstack| toolstack.server.port() == port);
        heard.map(|toolstack| toolstack.ready = true).is_some()
    }

    /// Does what the toolstacks ask, each for a turn; whether there may be more.
    pub(super) fn serve_toolstacks(&mut self) -> bool {
        let ready = self.toolstacks.iter().filter(|(_, toolstack)| toolstack.ready);
        for caller in ready.map(|(domid, _)| *domid).collect::<Vec<_>>() {
            if let Err(cause) = self.serve_one(caller) {
                // It broke the protocol: it has no channel any more until it is built again.
                warn!(domid = caller.0, cause = %cause, "toolstack-cut-off");
                self.let_go(caller);
            }
        }
        self.toolstacks.values().any(|toolstack| toolstack.ready)
    }

    fn serve_one(&mut self, caller: DomId) -> Result<(), ennead_channel::Error> {
        for _ in 0..TURN {
            let Some(toolstack) = self.toolstacks.get_mut(&caller) else { return Ok(()) };
            toolstack.flush(&self.events)?;
            if toolstack.waiting.len() >= MAX_WAITING {
                // It is heard again when it has taken some.
                toolstack.ready = false;
                return Ok(());
            }
            let Some(Tagged { id, body }) = toolstack.server.try_recv(&self.events)? else {
                toolstack.ready = false;
                return Ok(());
            };
            let reply = self.obey_toolstack(caller, body).unwrap_or_else(|no| {
                self.log_refusal(caller, &no.reason);
                Reply::Refused { refusal: no.refusal, reason: Text::new(&no.reason) }
            });
            self.answer(caller, Tagged { id, body: reply });
        }
        Ok(())
    }

    /// Logs a refusal, but not more of them than people read.
    fn log_refusal(&mut self, caller: DomId, reason: &str) {
        let Some(toolstack) = self.toolstacks.get_mut(&caller) else { return };
        let (since, count) = &mut toolstack.refused;
        if since.elapsed() >= Duration::from_secs(1) {
            if *count > LOGGED {
                warn!(caller = caller.0, count = *count - LOGGED, "refused-more");
            }
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        if *count <= LOGGED {
            warn!(caller = caller.0, cause = %reason, "refused");
        }
    }

    fn answer(&mut self, caller: DomId, reply: Tagged<Reply>) {
        if let Some(toolstack) = self.toolstacks.get_mut(&caller) {
            toolstack.waiting.push_back(reply);
            toolstack.ready = true;
        }
    }

    fn obey_toolstack(&mut self, caller: DomId, request: Request) -> Result<Reply, No> {
        match request {
            Request::Hello { window } => self.hello(caller, &window),
            Request::Create { key, length } => self.create(caller, key, length),
            Request::Load { domid, part, length } => self.load(caller, DomId(domid), part, length),
            Request::Finish { domid } => self.finish(caller, DomId(domid)),
            Request::Unpause { domid } => {
                self.guests.whole(caller, DomId(domid))?;
                self.control.unpause(DomId(domid))?;
                Ok(Reply::Done)
            }
            Request::Pause { domid } => {
                self.guests.whole(caller, DomId(domid))?;
                self.control.pause(DomId(domid))?;
                Ok(Reply::Done)
            }
            Request::Destroy { domid } => self.destroy_guest(caller, DomId(domid)),
            Request::List { after } => self.list_guests(caller, DomId(after)),
            Request::Services { after } => self.services(DomId(after)),
        }
    }

    fn toolstack(&mut self, caller: DomId) -> Result<&mut Toolstack, No> {
        self.toolstacks.get_mut(&caller).ok_or_else(|| No::from(Refused::NoTenant(caller)))
    }

    fn hello(&mut self, caller: DomId, window: &List<u32, WINDOW_PAGES>) -> Result<Reply, No> {
        let toolstack = self.toolstack(caller)?;
        toolstack.window = None;
        let half = toolstack.half.take();
        let grefs: Vec<GrantRef> = window.iter().copied().map(GrantRef).collect();
        if !grefs.is_empty() {
            toolstack.window = Some(MappedRegion::map(caller, &grefs)?);
        }
        if let Some(half) = half {
            self.abandon(half);
        }
        let tenant = self.guests.tenant(caller).ok_or(Refused::NoTenant(caller))?;
        let iommu = self.store.boot_plan().plan.host.iommu == Iommu::Required;
        Ok(Reply::Limits { memory_mib: tenant.memory_mib, vcpus: tenant.vcpus, guests: tenant.guests, iommu })
    }

    fn create(&mut self, caller: DomId, key: u64, length: u32) -> Result<Reply, No> {
        let bytes = self.toolstack(caller)?.copy(length, MAX_NEW_GUEST)?;
        let new = NewGuest::decode(bytes).ok_or_else(|| No::invalid("That is no description of a guest"))?;
        let domains = self.control.domains()?;
        let in_use = |domid: DomId| domains.iter().any(|info| info.domid == domid);
        let domid = match self.guests.admit(caller, key, &new, in_use)? {
            Admitted::Again(domid) => return Ok(Reply::Created { domid: domid.0 }),
            Admitted::New(domid) => domid,
        };
        let half = self.begin(caller, domid, &new).inspect_err(|_| self.guests.remove(domid))?;
        self.toolstack(caller)?.half = Some(half);
        info!(domid = domid.0, caller = caller.0, name = %new.name, "guest-begun");
        Ok(Reply::Created { domid: domid.0 })
    }

    fn begin(&self, caller: DomId, domid: DomId, new: &NewGuest) -> Result<Construction<Rc<Control>>, No> {
        let tenant = self.guests.tenant(caller).ok_or(Refused::NoTenant(caller))?;
        let logic = self.store.boot_plan().plan.xenstore_logic();
        let spec = Spec {
            domid,
            sid: self.control.sid_of(&context(&tenant.guest_building_type()))?,
            memory_mib: new.memory_mib,
            vcpus: new.vcpus,
            kernel: new.kernel.clone(),
            ramdisk_bytes: new.ramdisk_bytes,
            cmdline: new.cmdline.to_string(),
            extra_bytes: 0,
            hardware_domain: false,
            iommu: false,
            xenstore: logic.map(|vm| DomId(vm.domid)),
            console: Some(caller),
            limits: Limits::default(),
        };
        Ok(Construction::begin(Rc::clone(&self.control), spec)?)
    }

    fn load(&mut self, caller: DomId, domid: DomId, part: Part, length: u32) -> Result<Reply, No> {
        let toolstack = self.toolstack(caller)?;
        toolstack.copy(length, WINDOW_PAGES * PAGE_SIZE)?;
        let half = toolstack.half.as_mut().filter(|half| half.domid() == domid);
        let half = half.ok_or(Refused::Unknown(domid))?;
        let loaded = match part {
            Part::Kernel { segment, offset } => {
                half.load_kernel(usize::from(segment), offset, &toolstack.copied)
            }
            Part::Ramdisk { offset } => half.load_ramdisk(offset, &toolstack.copied),
        };
        loaded.map_err(|error| self.broken(caller, error))?;
        Ok(Reply::Done)
    }

    /// After an error nothing of the domain is left.
    fn broken(&mut self, caller: DomId, error: ennead_domain::Error) -> No {
        if let Some(half) = self.toolstacks.get_mut(&caller).and_then(|toolstack| toolstack.half.take()) {
            self.abandon(half);
        }
        error.into()
    }

    fn finish(&mut self, caller: DomId, domid: DomId) -> Result<Reply, No> {
        let half = self.toolstack(caller)?.half.take_if(|half| half.domid() == domid);
        let half = half.ok_or(Refused::Unknown(domid))?;
        let built = half.finish("").inspect_err(|_| self.guests.remove(domid))?;
        let (Some((_, console)), Some((_, store))) = (built.console, built.store) else {
            return Err(self.undo(domid, No::invalid("The host has no XenStore")));
        };
        if let Err(error) = self.hand_over(caller, domid, store) {
            return Err(self.undo(domid, No::failed(Refusal::Failed, error)));
        }
        self.guests.set(domid, Phase::Whole);
        info!(domid = domid.0, caller = caller.0, memory_kib = built.used_kib, "guest-built");
        Ok(Reply::Finished { console_port: console.0, store_port: store.0 })
    }

    /// Gives a built guest its label, so that nobody maps its memory any more, and XenStore.
    fn hand_over(&mut self, caller: DomId, domid: DomId, store: Port) -> anyhow::Result<()> {
        let tenant = self.guests.tenant(caller).context("No tenant")?;
        let label = self.control.sid_of(&context(&tenant.guest_running_type()))?;
        self.control.relabel(domid, label)?;
        let manager = Some(caller.0);
        let xenstore = self.xenstore.as_mut().context("XenStore-State is not there")?;
        xenstore.tell(xenstore::Request::Created { domid: domid.0, manager })?;
        xenstore.tell(xenstore::Request::Introduce { domid: domid.0, port: store.0, manager })?;
        Ok(())
    }

    fn undo(&mut self, domid: DomId, no: No) -> No {
        // The error to tell is what came before.
        let _ = self.control.destroy_domain(domid);
        self.tell(xenstore::Request::Died { domid: domid.0 });
        self.guests.remove(domid);
        no
    }

    fn destroy_guest(&mut self, caller: DomId, domid: DomId) -> Result<Reply, No> {
        let phase = self.guests.of(caller, domid)?.phase;
        match phase {
            Phase::Building => {
                if let Some(half) = self.toolstack(caller)?.half.take() {
                    self.abandon(half);
                }
            }
            Phase::Dying => {}
            Phase::Whole | Phase::ShutDown(_) => {
                self.control.destroy_domain(domid)?;
                self.guests.set(domid, Phase::Dying);
                self.tell(xenstore::Request::Died { domid: domid.0 });
                info!(domid = domid.0, caller = caller.0, "guest-destroyed");
            }
        }
        Ok(Reply::Done)
    }

    fn list_guests(&self, caller: DomId, after: DomId) -> Result<Reply, No> {
        let domains = self.control.domains()?;
        let mut own = self.guests.after(caller, after);
        let mut told = Vec::new();
        for (domid, guest) in own.by_ref().take(GUESTS_PER_REPLY) {
            let info = domains.iter().find(|info| info.domid == domid);
            told.push(Told {
                domid: domid.0,
                name: Text::new(&guest.name),
                state: guest.state(info.is_some_and(|info| info.paused)),
                memory_kib: info.map_or(0, |info| info.pages.saturating_mul(4)),
                vcpus: guest.vcpus,
                cpu_time_ns: info.map_or(0, |info| info.cpu_time_ns),
            });
        }
        let more = own.next().is_some();
        Ok(Reply::Guests { guests: List::new(told).unwrap_or_default(), more })
    }

    fn services(&self, after: DomId) -> Result<Reply, No> {
        let domains = self.control.domains()?;
        let mut later = self.ledger.entries().filter(|(domid, entry)| *domid > after && entry.is_lasting());
        let mut told = Vec::new();
        for (domid, entry) in later.by_ref().take(GUESTS_PER_REPLY) {
            let info = domains.iter().find(|info| info.domid == domid);
            told.push(Service {
                domid: domid.0,
                name: Text::new(&entry.vm.name),
                state: info.map_or(State::Gone, |info| service_state(info.state)),
                memory_kib: info.map_or(0, |info| info.pages.saturating_mul(4)),
                uptime_s: entry.uptime().filter(|_| info.is_some()).map_or(0, |uptime| uptime.as_secs()),
                restarts: entry.restarts(),
            });
        }
        let more = later.next().is_some();
        Ok(Reply::Services { services: List::new(told).unwrap_or_default(), more })
    }

    /// What became of guests by themselves: their toolstacks are told.
    pub(super) fn look_at_guests(&mut self, domains: &[ennead_xen::DomainInfo]) {
        for info in domains {
            let Some(guest) = self.guests.get(info.domid) else { continue };
            let (DomainState::Shutdown(reason), Phase::Whole) = (info.state, guest.phase) else { continue };
            let (parent, code) = (guest.parent, u8::try_from(reason.code()).unwrap_or(u8::MAX));
            info!(domid = info.domid.0, reason = %reason, "guest-stopped");
            self.guests.set(info.domid, Phase::ShutDown(code));
            self.tell(xenstore::Request::ShutDown { domid: info.domid.0 });
            self.notice(parent, info.domid, State::ShutDown(code));
        }
        for (domid, guest) in self.guests.take_gone(|domid| domains.iter().any(|info| info.domid == domid)) {
            if guest.phase != Phase::Dying {
                self.tell(xenstore::Request::Died { domid: domid.0 });
            }
            info!(domid = domid.0, "guest-gone");
            self.notice(guest.parent, domid, State::Gone);
        }
    }

    fn notice(&mut self, parent: DomId, domid: DomId, state: State) {
        self.answer(parent, Tagged { id: 0, body: Reply::Changed { domid: domid.0, state } });
    }
}

impl Toolstack {
    /// Sends what waits, as far as there is room.
    fn flush(&mut self, events: &EventChannels) -> Result<(), ennead_channel::Error> {
        while let Some(reply) = self.waiting.front() {
            if !self.server.try_send(events, reply)? {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Copies the window's first bytes: the toolstack may change them at any time.
    fn copy(&mut self, length: u32, max: usize) -> Result<&[u8], No> {
        let window =
            self.window.as_ref().ok_or_else(|| No::invalid("There is no window: say Hello first"))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > max.min(window.size()) {
            return Err(No::invalid("That is more than the window, or a description of a guest, has"));
        }
        self.copied.resize(length, 0);
        window.read(0, &mut self.copied);
        Ok(&self.copied)
    }
}

fn service_state(state: DomainState) -> State {
    match state {
        DomainState::Running | DomainState::Blocked => State::Running,
        DomainState::Paused => State::Paused,
        DomainState::Shutdown(reason) => State::ShutDown(u8::try_from(reason.code()).unwrap_or(u8::MAX)),
        DomainState::Dying => State::Dying,
    }
}
