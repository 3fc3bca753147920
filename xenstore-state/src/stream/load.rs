//! Reading. A stream is an allegation: what it says is held against the rules that State's own contents keep. Quotas are
//! not: who was within them, or had been before they were lowered, keeps what it has.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use ennead_xs_wire::{Access, PAYLOAD_MAX, path};

use super::{
    Carried, IGNORED, NO_DOMAIN, Piece, Positions, StreamError, domain, kind, line,
    record::{Fields, Records},
    transactions,
};
use crate::{
    Backend, Conn, DeviceKind, Identity, Item, Role, Settings, State, perms::Entry, store::Store,
    transaction::Transaction,
};

pub(super) type Loaded<T> = Result<T, &'static str>;

/// Makes a State of a stream that comes in pieces.
#[derive(Debug)]
pub(crate) struct Loader {
    records: Records,
    contents: Contents,
}

/// State and what belongs to its rings, as far as it is known.
#[derive(Debug)]
struct Contents {
    state: State,
    /// By their numbers in the stream, which were another State's. None: it is not carried on.
    connections: BTreeMap<u32, Option<Conn>>,
    /// What is known of rings whose connection has not come yet; with it the bytes that are sent already.
    lines: BTreeMap<u32, (Carried, Vec<u8>)>,
    carried: Vec<(Conn, Carried)>,
    targets: Vec<(u16, u16)>,
    /// Transactions of which nothing but their number is known yet.
    transactions: BTreeSet<(Conn, u32)>,
    /// The one that is read.
    open: Option<(Conn, u32)>,
    has_root: bool,
    counter: Option<u64>,
    generation: Option<u64>,
}

impl Loader {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut state = State::new(settings);
        state.store = Store::bare();
        let contents = Contents {
            state,
            connections: BTreeMap::new(),
            lines: BTreeMap::new(),
            carried: Vec::new(),
            targets: Vec::new(),
            transactions: BTreeSet::new(),
            open: None,
            has_root: false,
            counter: None,
            generation: None,
        };
        Self { records: Records::default(), contents }
    }

    /// The next piece, however it is cut.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        let Self { records, contents } = self;
        records.push(piece, |mut record| {
            let (kind, offset) = (record.kind, record.offset);
            contents.take(kind, &mut record.fields).map_err(|why| StreamError::Record { kind, offset, why })
        })
    }

    /// State, and what belongs to its rings.
    pub(crate) fn finish(self) -> Result<(State, Vec<(Conn, Carried)>), StreamError> {
        self.records.finish()?;
        Ok(self.contents.finish())
    }
}

impl Contents {
    fn take(&mut self, kind: u32, fields: &mut Fields<'_>) -> Loaded<()> {
        match kind {
            // File descriptors of a process that is no more.
            kind::GLOBAL => Ok(()),
            kind::CONNECTION => self.connection(fields),
            kind::WATCH => self.watch(fields),
            kind::TRANSACTION => self.transaction(fields),
            kind::NODE => self.node(fields),
            kind::DOMAIN => self.domain(fields),
            kind::LINE => self.line(fields),
            kind::COUNTER => self.counter(fields),
            kind::GENERATION => {
                self.generation = Some(fields.u64()?);
                Ok(())
            }
            kind::TOOLSTACK => self.toolstack(fields),
            kind::SNAPSHOT => self.snapshot(fields),
            kind::TOUCH => transactions::touch(&mut self.state, self.open, fields),
            kind::CHANGE => transactions::change(&mut self.state, self.open, fields),
            kind::NEXT => self.next(fields),
            _ => Err("its kind is not known"),
        }
    }

    fn counter(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let counter = fields.u64()?;
        // Far from where it could overflow.
        if self.has_root || self.counter.replace(counter).is_some() || counter > u64::MAX / 2 {
            return Err("there cannot be so many changes now");
        }
        Ok(())
    }

    fn toolstack(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (domid, backends) = (fields.u16()?, fields.u16()?);
        let backends = (0..backends).map(|_| backend(fields)).collect::<Loaded<_>>()?;
        self.state.settings.roles.insert(domid, Role::Toolstack { backends });
        Ok(())
    }

    fn snapshot(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, tx_id) = (fields.u32()?, fields.u32()?);
        let conn = self.find(number)?.ok_or("its connection has no ring")?.0;
        if !self.transactions.remove(&(conn, tx_id)) {
            return Err("there is no such transaction");
        }
        self.open = Some((conn, tx_id));
        let txn = transactions::snapshot(&mut self.state, conn, fields)?;
        self.begin(conn, tx_id, txn);
        Ok(())
    }

    fn next(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, next) = (fields.u32()?, fields.u32()?);
        let (conn, _) = self.find(number)?.ok_or("its connection has no ring")?;
        if let Some(connection) = self.state.connections.get_mut(&conn) {
            connection.next_transaction = next;
        }
        Ok(())
    }

    fn begin(&mut self, conn: Conn, tx_id: u32, txn: Transaction) {
        let Some(connection) = self.state.connections.get_mut(&conn) else { return };
        connection.next_transaction = tx_id.wrapping_add(1);
        connection.transactions.insert(tx_id, txn);
        if let Some(domain) = connection.payer().and_then(|domid| self.state.store.domains.get_mut(domid)) {
            domain.transactions += 1;
        }
    }

    fn domain(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (domid, flags, manager, target) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
        if domid == 0 || self.state.exists(domid) {
            return Err("there is such a domain already");
        }
        let has = |flag| flags & flag != 0;
        let known = self.state.known(domid);
        known.announced = has(domain::ANNOUNCED);
        known.introduced = has(domain::INTRODUCED);
        known.shutdown = has(domain::SHUT_DOWN);
        known.restarting = has(domain::RESTARTING);
        known.manager = Some(manager).filter(|manager| *manager != NO_DOMAIN);
        self.targets.push((domid, target));
        if has(domain::SERVICE) {
            self.state.settings.roles.entry(domid).or_insert(Role::Service);
        }
        Ok(())
    }

    fn line(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (conn, flags) = (fields.u32()?, fields.u32()?);
        let positions =
            Positions { req_cons: fields.u32()?, rsp_prod: fields.u32()?, rsp_cons: fields.u32()? };
        let (held, sent, pieces) = (fields.len32()?, fields.u16()?, fields.u16()?);
        let (sent, held) = (fields.bytes(sent.into())?, fields.bytes(held)?);
        let last = (0..pieces).map(|_| piece(fields)).collect::<Loaded<_>>()?;
        let carried = Carried {
            unread: Vec::new(),
            sent: sent.len(),
            positions: (flags & line::KNOWN != 0).then_some(positions),
            last,
            fresh: flags & line::FRESH != 0,
            held: (flags & line::HELD != 0).then(|| held.to_vec()),
        };
        match self.lines.insert(conn, (carried, sent.to_vec())) {
            None => Ok(()),
            Some(_) => Err("there is such a ring already"),
        }
    }

    fn connection(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, kind, _) = (fields.u32()?, fields.u16()?, fields.u16()?);
        let (domid, target, port) = (fields.u16()?, fields.u16()?, fields.u32()?);
        if number == 0 || self.connections.contains_key(&number) {
            return Err("there is such a connection already");
        }
        // Sockets are gone with their process; domain 0 has no ring here.
        if kind != 0 || domid == 0 {
            self.connections.insert(number, None);
            return Ok(());
        }
        if domid >= NO_DOMAIN || port == 0 {
            return Err("there is no such domain or port");
        }
        let (unread, part, waiting) = (fields.u16()?, usize::from(fields.u16()?), fields.len32()?);
        let (unread, waiting) = (fields.bytes(unread.into())?, fields.bytes(waiting)?);
        let (mut carried, sent) = self.lines.remove(&number).unwrap_or_default();
        carried.unread = unread.to_vec();
        if sent.is_empty() != (part == 0) {
            return Err("the beginning of a message is missing");
        }
        let conn = self.ring(domid, port)?;
        self.connections.insert(number, Some(conn));
        self.targets.push((domid, target));
        self.waiting(conn, &sent, part, waiting)?;
        self.carried.push((conn, carried));
        Ok(())
    }

    fn ring(&mut self, domid: u16, port: u32) -> Loaded<Conn> {
        if self.state.known(domid).ring.is_some() {
            return Err("its domain has a ring already");
        }
        let conn = self.state.open(Identity::Domain(domid));
        let domain = self.state.known(domid);
        domain.ring = Some((conn, port));
        domain.introduced = true;
        domain.restarting = false;
        self.state.notices.connect(conn, domid, port, true);
        Ok(conn)
    }

    /// The messages for a client. Of the first one it may have a beginning already; then `part` bytes are left of it.
    fn waiting(&mut self, conn: Conn, sent: &[u8], part: usize, waiting: &[u8]) -> Loaded<()> {
        let first;
        let (head, mut rest) = waiting.split_at_checked(part).ok_or("a message is cut off")?;
        if part > 0 {
            first = [sent, head].concat();
            match Item::decode(&first) {
                Some((item, [])) => self.restore(conn, item),
                _ => return Err("no message was partly sent"),
            }
        }
        while !rest.is_empty() {
            let (item, after) = Item::decode(rest).ok_or("what waits for the client is no message")?;
            rest = after;
            self.restore(conn, item);
        }
        Ok(())
    }

    fn restore(&mut self, conn: Conn, item: Item) {
        if let Some(connection) = self.state.connections.get_mut(&conn) {
            connection.outbox.restore(item);
            self.state.has_output(conn);
        }
    }

    /// The connection of this number, None if it is not carried on.
    fn find(&self, number: u32) -> Loaded<Option<(Conn, u16)>> {
        let conn = *self.connections.get(&number).ok_or("there is no such connection")?;
        let payer = |conn| self.state.connections.get(&conn).and_then(|connection| connection.payer());
        Ok(conn.and_then(|conn| Some((conn, payer(conn)?))))
    }

    fn watch(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, path_len, token_len) = (fields.u32()?, fields.u16()?, fields.u16()?);
        let (name, token) = (fields.text(path_len)?, fields.text(token_len)?);
        let Some((conn, domid)) = self.find(number)? else { return Ok(()) };
        let mut path = Vec::new();
        path::canonical(name, domid, &mut path).map_err(|_| "there can be no such path")?;
        if self.state.watches.find(conn, &path, token).is_some() {
            return Err("there is such a watch already");
        }
        let id = self.state.watches.add(conn, &path, token, path.len() - name.len());
        if let Some(connection) = self.state.connections.get_mut(&conn) {
            connection.watches.insert(id);
        }
        let domain = self.state.known(domid);
        domain.watches += 1;
        domain.memory += path.len() + token.len();
        Ok(())
    }

    fn transaction(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, tx_id) = (fields.u32()?, fields.u32()?);
        let Some((conn, _)) = self.find(number)? else { return Ok(()) };
        if tx_id == 0 {
            return Err("no transaction has the number 0");
        }
        self.transactions.insert((conn, tx_id));
        Ok(())
    }

    fn node(&mut self, fields: &mut Fields<'_>) -> Loaded<()> {
        let (number, _, path_len) = (fields.u32()?, fields.u32()?, fields.u16()?);
        let (value_len, _, entries) = (fields.u16()?, fields.u16()?, fields.u16()?);
        // What a transaction changed: it ends with EAGAIN.
        if number != 0 {
            return Ok(());
        }
        if self.open.is_some() {
            return Err("it comes after a transaction that sees it");
        }
        let perms = entries_of(fields, entries)?;
        let (path, value) = (fields.text(path_len)?, fields.bytes(value_len.into())?);
        let generation = match (self.generation.take(), self.counter) {
            (Some(generation), Some(counter)) if (1..=counter).contains(&generation) => generation,
            (None, None) => self.state.store.next_generation(),
            _ => return Err("it cannot have changed then"),
        };
        let owner = perms.first().ok_or("it has no owner")?.domid;
        if value.len() > PAYLOAD_MAX {
            return Err("its value is longer than a message");
        }
        self.state.known(owner);
        match path {
            path::INTRODUCE_DOMAIN => self.state.specials.introduce = perms,
            path::RELEASE_DOMAIN => self.state.specials.release = perms,
            path::ROOT if core::mem::replace(&mut self.has_root, true) => {
                return Err("there is such a node already");
            }
            path::ROOT => self.state.store.change(path, |tree, id| {
                tree.set_value(id, value);
                let perms = tree.perms.intern(&perms);
                tree.set_perms(id, perms);
                tree.set_generation(id, generation);
            }),
            _ => {
                if !path::is_valid(path) {
                    return Err("there can be no such path");
                }
                let store = &mut self.state.store;
                let parent = path::parent(path).and_then(|parent| store.find(parent));
                let parent = parent.ok_or("the node above it is missing")?;
                if path::name(path).is_none_or(|name| store.tree.child(parent, name).is_some()) {
                    return Err("there is such a node already");
                }
                store.restore(parent, path, value, &perms, generation);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> (State, Vec<(Conn, Carried)>) {
        for (domid, target) in core::mem::take(&mut self.targets) {
            // The rights of a domain that is not there go to nobody (XSA-233).
            if target != NO_DOMAIN && self.state.exists(target) {
                self.state.known(domid).target = Some(target);
            }
        }
        // What does not count is marked: all other entries mean today's domains.
        self.state.store.domains.iter_mut().for_each(|domain| domain.generation = 0);
        if let Some(counter) = self.counter {
            self.state.store.set_generation(counter);
        }
        // Last, so that no node was shared with a snapshot meanwhile.
        for (conn, tx_id) in core::mem::take(&mut self.transactions) {
            let payer = self.state.connections.get(&conn).and_then(|connection| connection.payer());
            let mut txn = Transaction::start(&mut self.state.store, payer);
            txn.stale = true;
            self.begin(conn, tx_id, txn);
        }
        (self.state, self.carried)
    }
}

pub(super) fn entries_of(fields: &mut Fields<'_>, entries: u16) -> Loaded<Vec<Entry>> {
    (0..entries).map(|_| entry(fields)).collect()
}

fn backend(fields: &mut Fields<'_>) -> Loaded<Backend> {
    let domid = fields.u16()?;
    let kind = match fields.u16()? {
        0 => DeviceKind::Vbd,
        1 => DeviceKind::Vif,
        _ => return Err("there is no such device"),
    };
    Ok(Backend { domid, kind })
}

fn entry(fields: &mut Fields<'_>) -> Loaded<Entry> {
    let (letter, flags, domid) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let access = Access::from_letter(letter).ok_or("there is no such permission")?;
    Ok(Entry { domid, access, ignored: flags & IGNORED != 0 })
}

fn piece(fields: &mut Fields<'_>) -> Loaded<Piece> {
    let (at, skip, take, len) = (fields.u32()?, fields.u16()?, fields.u16()?, fields.len32()?);
    let message = fields.bytes(len)?.to_vec();
    let is_whole = matches!(Item::decode(&message), Some((_, [])));
    if !is_whole || usize::from(skip) + usize::from(take) > message.len() {
        return Err("a piece of no message was written");
    }
    Ok(Piece { at, skip, take, message })
}
