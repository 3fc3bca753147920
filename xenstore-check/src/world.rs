//! A daemon with all its connections. Actions are done one at a time, and after each it is known what every connection got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ennead_xs_wire::{Op, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::action::{Action, Tx, Who};
use crate::client::{Client, Packet, SocketClient, message};
use crate::daemon::{Daemon, DomainState};
use crate::ring::RingClient;

/// Socket connections that actions may use.
pub const OPERATORS: u8 = 3;
/// Watches @releaseDomain, so that it is known when the daemon has seen that a domain changed.
const MONITOR: Who = Who::Operator(OPERATORS);
/// Longer than any daemon delays a request on purpose (C xenstored: 20 s for a guest that does not read).
const STALL: Duration = Duration::from_secs(30);
/// How long the news of a domain's change may take.
const NEWS: Duration = Duration::from_secs(2);
/// More events than a datagram socket queues by default. C xenstored takes one in each round of its main loop.
const EVENTS_QUEUED: u32 = 16;
/// The transaction that is open for a moment when a domain is created.
const CREATING: u16 = u16::MAX;
/// Request numbers from here on are our own, for synchronising.
const SYNC: u32 = 0x8000_0000;
/// An id that no daemon gives out in a test of this length, for transactions that could not be started.
const NEVER_STARTED: u32 = 0x7000_0000;

/// What every connection got because of one action, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The action made no sense in this state (a guest that does not exist); nothing was done.
    pub skipped: bool,
    /// What arrived.
    pub received: BTreeMap<Who, Vec<Packet>>,
    /// Who was disconnected.
    pub closed: Vec<Who>,
}

/// A daemon under test and the connections to it.
#[derive(Debug)]
pub struct World {
    daemon: Daemon,
    operators: BTreeMap<u8, SocketClient>,
    guests: BTreeMap<u16, RingClient>,
    domains: BTreeMap<u16, DomainState>,
    /// Who is connected, the oldest connection first.
    order: Vec<Who>,
    /// Which domain was given whose rights, by SET_TARGET.
    targets: BTreeSet<(u16, u16)>,
    transactions: BTreeMap<(Who, u16), u32>,
    next_request: u32,
    next_sync: u32,
    outcome: Outcome,
}

impl World {
    /// Connects to a fresh daemon.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn new(daemon: Daemon) -> Result<Self> {
        let mut operators = BTreeMap::new();
        for number in 0..=OPERATORS {
            operators.insert(number, SocketClient::connect(&daemon.socket())?);
        }
        let mut world = Self {
            daemon,
            operators,
            guests: BTreeMap::new(),
            domains: BTreeMap::new(),
            order: (0..=OPERATORS).map(Who::Operator).collect(),
            targets: BTreeSet::new(),
            transactions: BTreeMap::new(),
            next_request: 1,
            next_sync: SYNC,
            outcome: Outcome::default(),
        };
        let watch = Request::Watch { path: b"@releaseDomain", token: b"monitor" };
        world.run(&Action::request(MONITOR, &watch))?;
        Ok(world)
    }

    /// The daemon.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Does one action and waits until everything that follows from it has arrived.
    ///
    /// # Errors
    /// When the daemon ended, does not answer any more or breaks the protocol.
    pub fn run(&mut self, action: &Action) -> Result<Outcome> {
        self.outcome = Outcome::default();
        if self.is_possible(action) {
            let releases_next = self.releases_next(action);
            let done = self.act(action).and_then(|()| self.synchronise());
            if let Some(packets) = releases_next.and_then(|who| self.outcome.received.get_mut(&who)) {
                packets.sort_by_key(Packet::is_event);
            }
            if let Err(error) = done {
                // What the daemon itself says is the better explanation.
                self.daemon.check()?;
                return Err(error);
            }
        } else {
            self.outcome.skipped = true;
        }
        Ok(std::mem::take(&mut self.outcome))
    }

    /// Who releases the domain that has connected right after them: while C xenstored serves a connection it holds on to
    /// the next one, so that this domain goes, with the events of it, only after the reply; else it goes before.
    fn releases_next(&self, action: &Action) -> Option<Who> {
        let Action::Request { who, op, payload, .. } = action else { return None };
        let next = self.order.iter().skip_while(|other| *other != who).nth(1);
        let released = domid_in(payload).filter(|_| *op == Op::Release as u32).map(Who::Guest);
        (released.is_some() && next == released.as_ref()).then_some(*who)
    }

    fn is_possible(&self, action: &Action) -> bool {
        match action {
            Action::Request { who, op, payload, .. } => {
                let domid = domid_in(payload);
                let exists = || domid.is_none_or(|domid| self.domains.contains_key(&domid));
                self.has(*who)
                    && !(*op == Op::Release as u32 && self.is_target(domid))
                    && (*op != Op::Introduce as u32 || exists())
            }
            Action::Fill { who, .. } | Action::Watches { who, .. } => self.has(*who),
            Action::Reconnect(_) | Action::Oversize(_) => true,
            Action::Create(domid) => !self.guests.contains_key(domid),
            Action::State(domid, state) => {
                let possible = match (self.domains.get(domid), state) {
                    (None, _) | (_, DomainState::Running) => false,
                    (Some(_), DomainState::Gone) => true,
                    (Some(before), DomainState::Shutdown) => *before == DomainState::Running,
                    (Some(before), DomainState::Dying) => *before != DomainState::Dying,
                };
                possible && !self.is_target(Some(*domid))
            }
        }
    }

    fn has(&self, who: Who) -> bool {
        match who {
            Who::Operator(number) => self.operators.contains_key(&number),
            Who::Guest(domid) => self.guests.contains_key(&domid),
        }
    }

    /// C xenstored keeps a dangling pointer when a target goes before the domain that has its rights (as XSA-233).
    fn is_target(&self, domid: Option<u16>) -> bool {
        domid.is_some_and(|domid| self.targets.iter().any(|(_, target)| *target == domid))
    }

    fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Request { who, tx, op, payload, opens } => {
                if *op == Op::Resume as u32 {
                    self.resume(domid_in(payload))?;
                }
                self.exchange(*who, *tx, *op, payload, *opens)
            }
            Action::Fill { who, tx, under, count } => {
                for number in 0..*count {
                    let payload = [under.as_slice(), format!("/f{number}\0").as_bytes()].concat();
                    self.exchange(*who, *tx, Op::Write as u32, &payload, None)?;
                }
                Ok(())
            }
            Action::Watches { who, path, count } => {
                for number in 0..*count {
                    let payload = [path.as_slice(), format!("\0w{number}\0").as_bytes()].concat();
                    self.exchange(*who, Tx::None, Op::Watch as u32, &payload, None)?;
                }
                Ok(())
            }
            Action::Reconnect(number) => self.reconnect(*number),
            Action::Oversize(number) => self.oversize(*number),
            Action::Create(domid) => self.create(*domid),
            Action::State(domid, state) => self.change(*domid, *state),
        }
    }

    fn exchange(&mut self, who: Who, tx: Tx, op: u32, payload: &[u8], opens: Option<u16>) -> Result<()> {
        let tx_id = match tx {
            Tx::None => 0,
            Tx::Bad(id) => id,
            Tx::Slot(slot) => self.transactions.get(&(who, slot)).copied().unwrap_or(NEVER_STARTED),
        };
        let request_id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.client(who)?.send(&message(op, request_id, tx_id, payload))?;
        self.wait_for(&[(who, request_id)])?;
        let Some(reply) = self.reply(who, request_id) else { return Ok(()) };
        if !reply.is_error() {
            let payload = reply.payload.clone();
            if let Some(slot) = opens {
                let text = payload.strip_suffix(&[0]).and_then(|text| std::str::from_utf8(text).ok());
                let id = text.and_then(|text| text.parse().ok());
                let id = id.with_context(|| format!("START gave {payload:?}"))?;
                self.transactions.insert((who, slot), id);
            }
        }
        self.note(op, payload, request_id, who)?;
        self.normalise(who, request_id, tx, op, opens);
        Ok(())
    }

    /// What a successful request of the toolstack changes here.
    fn note(&mut self, op: u32, payload: &[u8], request_id: u32, who: Who) -> Result<()> {
        let succeeded = self.reply(who, request_id).is_some_and(|reply| !reply.is_error());
        let Some(domid) = domid_in(payload).filter(|_| succeeded) else { return Ok(()) };
        if op == Op::Introduce as u32 {
            match self.guests.get_mut(&domid) {
                Some(guest) => guest.reset(),
                None => {
                    self.guests.insert(domid, self.daemon.guest(domid)?);
                    self.order.push(Who::Guest(domid));
                }
            }
        } else if op == Op::Release as u32 {
            self.forget(domid);
        } else if op == Op::SetTarget as u32 {
            let target = payload.split(|byte| *byte == 0).nth(1).and_then(domid_in);
            self.targets.extend(target.map(|target| (domid, target)));
        }
        Ok(())
    }

    /// Makes equal what may differ: how daemons number transactions and generations.
    fn normalise(&mut self, who: Who, request_id: u32, tx: Tx, op: u32, opens: Option<u16>) {
        let received = self.outcome.received.get_mut(&who);
        let reply = received.and_then(|all| all.iter_mut().rfind(|packet| packet.request_id == request_id));
        let Some(reply) = reply else { return };
        if let Tx::Slot(slot) = tx {
            if self.transactions.get(&(who, slot)) == Some(&reply.tx_id) {
                reply.tx_id = u32::from(slot);
            }
        }
        if reply.is_error() {
            return;
        }
        if let Some(slot) = opens {
            reply.payload = format!("tx#{slot}").into_bytes();
        } else if op == Op::DirectoryPart as u32 {
            let names = reply.payload.iter().position(|byte| *byte == 0).unwrap_or(0);
            reply.payload.splice(..names, *b"0");
        }
    }

    fn reconnect(&mut self, number: u8) -> Result<()> {
        self.operators.insert(number, SocketClient::connect(&self.daemon.socket())?);
        self.order.retain(|who| *who != Who::Operator(number));
        self.order.push(Who::Operator(number));
        self.transactions.retain(|(who, _), _| *who != Who::Operator(number));
        Ok(())
    }

    fn oversize(&mut self, number: u8) -> Result<()> {
        let who = Who::Operator(number);
        let mut bytes = message(Op::Read as u32, 0, 0, &[0; 4096]);
        // The fourth word is the length.
        bytes.splice(12..16, 4097_u32.to_le_bytes());
        self.client(who)?.send(&bytes)?;
        self.wait_for(&[(who, u32::MAX)])?;
        self.reconnect(number)
    }

    fn create(&mut self, domid: u16) -> Result<()> {
        match self.domains.insert(domid, DomainState::Running) {
            None => self.daemon.create_domain(domid)?,
            Some(_) => self.daemon.run_domain(domid)?,
        }
        // C xenstored counts changes, and takes a domain as old as the nodes of the last change: START counts as one.
        let who = Who::Operator(0);
        let (start, end) = (Op::TransactionStart as u32, Op::TransactionEnd as u32);
        self.exchange(who, Tx::None, start, b"\0", Some(CREATING))?;
        self.exchange(who, Tx::Slot(CREATING), end, b"F\0", None)?;
        let introduce = Request::Introduce { domid, gfn: u64::from(domid), port: 7 };
        let mut payload = Vec::new();
        introduce.encode(&mut payload);
        self.exchange(who, Tx::None, Op::Introduce as u32, &payload, None)
    }

    /// The toolstack lets a domain run again before it tells XenStore.
    fn resume(&mut self, domid: Option<u16>) -> Result<()> {
        let state = domid.and_then(|domid| self.domains.get_mut(&domid).map(|state| (domid, state)));
        if let Some((domid, state @ DomainState::Shutdown)) = state {
            *state = DomainState::Running;
            self.daemon.run_domain(domid)?;
        }
        Ok(())
    }

    fn change(&mut self, domid: u16, state: DomainState) -> Result<()> {
        self.domains.insert(domid, state);
        let known = self.guests.contains_key(&domid);
        if matches!(state, DomainState::Dying | DomainState::Gone) {
            self.forget(domid);
        }
        if state == DomainState::Gone {
            self.domains.remove(&domid);
        }
        self.daemon.set_domain_state(domid, state)?;
        // Nothing orders the daemon's event channel and its sockets: wait for the effect, or long enough for none.
        let began = Instant::now();
        for round in 0_u32.. {
            let arrived = self.outcome.received.contains_key(&MONITOR);
            let waiting = known && !arrived && began.elapsed() < NEWS;
            if round >= EVENTS_QUEUED && !waiting {
                break;
            }
            self.synchronise()?;
        }
        Ok(())
    }

    /// A domain's connection is gone, and with it all that belonged to it.
    fn forget(&mut self, domid: u16) {
        self.guests.remove(&domid);
        self.order.retain(|who| *who != Who::Guest(domid));
        self.targets.retain(|(owner, _)| *owner != domid);
        self.transactions.retain(|(who, _), _| *who != Who::Guest(domid));
    }

    /// A request without effect on every connection: what was on its way before its answer has arrived with it.
    fn synchronise(&mut self) -> Result<()> {
        let everybody: Vec<Who> = (self.operators.keys().map(|number| Who::Operator(*number)))
            .chain(self.guests.keys().map(|domid| Who::Guest(*domid)))
            .collect();
        let mut payload = Vec::new();
        Request::GetDomainPath { domid: 0 }.encode(&mut payload);
        let mut expected = Vec::new();
        for who in everybody {
            let id = self.next_sync;
            self.next_sync = id.wrapping_add(1) | SYNC;
            self.client(who)?.send(&message(Op::GetDomainPath as u32, id, 0, &payload))?;
            expected.push((who, id));
        }
        self.wait_for(&expected)?;
        for packets in self.outcome.received.values_mut() {
            packets.retain(|packet| packet.request_id < SYNC);
        }
        self.outcome.received.retain(|_, packets| !packets.is_empty());
        Ok(())
    }

    /// Waits until each of these requests has its answer, or its connection is closed.
    fn wait_for(&mut self, requests: &[(Who, u32)]) -> Result<()> {
        let began = Instant::now();
        loop {
            self.collect()?;
            let open = |(who, id): &&(Who, u32)| {
                !self.outcome.closed.contains(who) && self.reply(*who, *id).is_none()
            };
            let Some((who, _)) = requests.iter().find(open) else { return Ok(()) };
            anyhow::ensure!(began.elapsed() < STALL, "No answer to {who} within {STALL:?}");
            self.daemon.check()?;
            self.move_bytes(Duration::from_millis(100))?;
        }
    }

    fn reply(&self, who: Who, request_id: u32) -> Option<&Packet> {
        let packets = self.outcome.received.get(&who)?;
        packets.iter().rfind(|packet| packet.request_id == request_id && !packet.is_event())
    }

    /// Sorts what has arrived.
    fn collect(&mut self) -> Result<()> {
        let operators = self
            .operators
            .iter_mut()
            .map(|(number, client)| -> (Who, &mut dyn Client) { (Who::Operator(*number), client) });
        let guests = self
            .guests
            .iter_mut()
            .map(|(domid, client)| -> (Who, &mut dyn Client) { (Who::Guest(*domid), client) });
        for (who, client) in operators.chain(guests) {
            client.pump()?;
            while let Some(packet) = client.take()? {
                self.outcome.received.entry(who).or_default().push(packet);
            }
            if client.is_closed() && !self.outcome.closed.contains(&who) {
                self.outcome.closed.push(who);
            }
        }
        Ok(())
    }

    /// Waits until some connection has something to move.
    fn move_bytes(&mut self, limit: Duration) -> Result<()> {
        let operators = self.operators.values().map(|client| client as &dyn Client);
        let clients = operators.chain(self.guests.values().map(|client| client as &dyn Client));
        let flags = |client: &dyn Client| {
            if client.is_full() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let clients: Vec<&dyn Client> = clients.filter(|client| !client.is_closed()).collect();
        let mut files: Vec<PollFd<'_>> = (clients.iter())
            .map(|client| PollFd::from_borrowed_fd(client.events(), flags(*client)))
            .collect();
        let limit = Timespec::try_from(limit).context("Too long a time")?;
        poll(&mut files, Some(&limit)).context("Cannot wait for the daemon")?;
        Ok(())
    }

    fn client(&mut self, who: Who) -> Result<&mut dyn Client> {
        let client = match who {
            Who::Operator(number) => {
                self.operators.get_mut(&number).map(|client| -> &mut dyn Client { client })
            }
            Who::Guest(domid) => self.guests.get_mut(&domid).map(|client| -> &mut dyn Client { client }),
        };
        client.with_context(|| format!("{who} is not connected"))
    }
}

/// The domid with which a payload begins.
fn domid_in(payload: &[u8]) -> Option<u16> {
    let text = payload.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}
