//! `State` and what its caller asks it besides requests.

use alloc::collections::{BTreeMap, VecDeque};

use crate::{
    Conn, Identity, Item, Notice, Quotas, Refusal, Role, connection::Connection, fairness::Fairness,
    notice::Notices, perms::Entry, refusals::Refusals, store::Store, watches::Watches,
};
use alloc::vec::Vec;
use ennead_xs_wire::Access;

/// What the manifest says, fixed for State's life.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of each guest.
    pub quotas: Quotas,
    /// Of each service VM.
    pub service_quotas: Quotas,
    /// The service VMs; all other domains are guests.
    pub roles: BTreeMap<u16, Role>,
    /// Bytes that only snapshots of transactions may hold, about. Beyond it the oldest transactions start over: they let
    /// go of their snapshot, and end with EAGAIN.
    pub snapshot_memory: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quotas: Quotas::GUEST,
            service_quotas: Quotas::SERVICE,
            roles: BTreeMap::new(),
            snapshot_memory: 8 * 1024 * 1024,
        }
    }
}

/// Permissions of the two special paths.
#[derive(Debug)]
pub(crate) struct Specials {
    pub(crate) introduce: Vec<Entry>,
    pub(crate) release: Vec<Entry>,
}

/// XenStore: contents, connections, transactions, watches.
#[derive(Debug)]
pub struct State {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) specials: Specials,
    pub(crate) connections: BTreeMap<Conn, Connection>,
    next_conn: u32,
    pub(crate) watches: Watches,
    pub(crate) with_output: VecDeque<Conn>,
    pub(crate) notices: Notices,
    pub(crate) refusals: Refusals,
    pub(crate) fairness: Fairness,
    pub(crate) now_ms: u64,
}

/// Events that wait for an operator's client before they are merged.
const OPERATOR_EVENTS: usize = 65_536;

impl State {
    /// An empty XenStore (`/tool/xenstored` exists, as in C xenstored).
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let operators = Entry { domid: 0, access: Access::None, ignored: false };
        Self {
            settings,
            store: Store::new(),
            specials: Specials { introduce: [operators].into(), release: [operators].into() },
            connections: BTreeMap::new(),
            next_conn: 1,
            watches: Watches::new(),
            with_output: VecDeque::new(),
            notices: Notices::default(),
            refusals: Refusals::default(),
            fairness: Fairness::default(),
            now_ms: 0,
        }
    }

    /// How many nodes there are, without those that only open transactions see.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.store.totals().0
    }

    /// Gives a service VM its role.
    pub fn set_role(&mut self, domid: u16, role: Role) {
        self.settings.roles.insert(domid, role);
    }

    /// Whether a domain is a service VM.
    #[must_use]
    pub fn has_role(&self, domid: u16) -> bool {
        self.settings.roles.contains_key(&domid)
    }

    /// A client that has no ring: a socket, a channel. For a domain this implies that it exists.
    pub fn open(&mut self, identity: Identity) -> Conn {
        let conn = Conn(self.next_conn);
        self.next_conn += 1;
        // Domain 0 is privileged, as in C xenstored.
        let identity = if identity == Identity::Domain(0) { Identity::Operator } else { identity };
        if let Identity::Domain(domid) = identity {
            self.known(domid).connections.push(conn);
        }
        self.connections.insert(conn, Connection::new(identity));
        conn
    }

    /// The client is gone; so are its watches, transactions and what it did not read.
    pub fn close(&mut self, conn: Conn) {
        self.reset(conn);
        let Some(closed) = self.connections.remove(&conn) else { return };
        if let Some(domain) = closed.payer().and_then(|domid| self.store.domains.get_mut(domid)) {
            domain.connections.retain(|other| *other != conn);
            domain.ring = domain.ring.filter(|(ring, _)| *ring != conn);
        }
    }

    /// The time, milliseconds from any start; it never goes back. Without it nothing is ever paused, and few refusals of
    /// one domain are told.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Whether to take this connection's next request now. While it is false, leave requests where they are and ask again
    /// some milliseconds later: guests' writes are slowed while they keep others' transactions from ever committing.
    #[must_use]
    pub fn ready(&self, conn: Conn) -> bool {
        let payer = self.connections.get(&conn).and_then(Connection::payer);
        payer.is_none_or(|domid| !self.fairness.is_paused(self.now_ms, domid))
    }

    /// The first message that waits for this client. It stays until `pop`, so that a sender that dies half-way can send
    /// it again.
    ///
    /// Replies are as many as requests were made without reading. Events are at most `Quotas::events`, and for each
    /// watch one more that stands for all further ones: it tells the watch's own path.
    #[must_use]
    pub fn front(&self, conn: Conn) -> Option<&Item> {
        self.connections.get(&conn)?.outbox.front()
    }

    /// Takes the first message.
    pub fn pop(&mut self, conn: Conn) -> Option<Item> {
        let (item, overflow_of) = self.connections.get_mut(&conn)?.outbox.pop()?;
        if let Some(watch) = overflow_of.and_then(|id| self.watches.get_mut(id)) {
            watch.overflowed = false;
        }
        Some(item)
    }

    /// A connection that got output since it was last named here, each once, the one that waits longest first.
    pub fn next_with_output(&mut self) -> Option<Conn> {
        while let Some(conn) = self.with_output.pop_front() {
            if let Some(connection) = self.connections.get_mut(&conn) {
                connection.queued = false;
                return Some(conn);
            }
        }
        None
    }

    /// What XenStore-Logic has to do next with rings.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop()
    }

    /// A request that was denied or would have exceeded a quota, for the audit log. At most 64 wait, and one domain has
    /// at most 8 in a second: a guest cannot flood the log.
    pub fn next_refusal(&mut self) -> Option<Refusal> {
        self.refusals.pop()
    }

    /// How many refusals were not told because there were too many.
    #[must_use]
    pub fn refusals_dropped(&self) -> u64 {
        self.refusals.dropped()
    }

    pub(crate) fn quotas(&self, domid: u16) -> &Quotas {
        match self.settings.roles.contains_key(&domid) {
            true => &self.settings.service_quotas,
            false => &self.settings.quotas,
        }
    }

    pub(crate) fn event_limit(&self, identity: Identity) -> usize {
        match identity {
            Identity::Operator => OPERATOR_EVENTS,
            Identity::Domain(domid) => self.quotas(domid).events,
        }
    }
}
